//! `attendant.toml`: what the device itself is told: sources, sinks, language.
//!
//! Every key may be left out: a source that is not named is absent, everything else has the default written beside it. What the
//! board knows (rates to ask for, queue lengths) is not repeated here. `run` reads it; the command line's options go before it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{ConfigError, from_toml};
use super::spans::{Step, line_of};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// Directory of the bundle; else it is looked for.
    pub bundle: Option<PathBuf>,
    /// BCP 47 tag of the advice's language.
    #[serde(default)]
    pub language: Language,
    /// What is logged.
    #[serde(default)]
    pub log: LogLevel,
    /// How fast files are played.
    #[serde(default)]
    pub clock: ClockKind,
    /// By the name that encoders use: `camera`, `mic`, `text`, or a sensor's.
    #[serde(default)]
    pub source: BTreeMap<String, SourceSpec>,
    /// Where events go; without one, standard output.
    #[serde(default)]
    pub sink: Vec<SinkSpec>,
}

/// A language tag, `en` by default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Language(pub String);

impl Default for Language {
    fn default() -> Self {
        Language("en".into())
    }
}

/// Lowest level that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What ends the program.
    Error,
    /// What was recovered.
    Warn,
    /// Changes of state.
    #[default]
    Info,
    /// Every window.
    Debug,
    /// Everything.
    Trace,
}

/// How fast files are played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockKind {
    /// As they were captured.
    #[default]
    Real,
    /// As fast as the machine can; the events are the same.
    Max,
}

/// `[source.NAME]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// What delivers.
    pub kind: SourceKind,
    /// The file; every kind but `stdin` has one. Relative to the file that says it.
    pub path: Option<PathBuf>,
    /// Samples per second of an `image` (the same picture again and again) and of a `csv` without times.
    pub rate_hz: Option<f32>,
}

/// What delivers the samples of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// An MCAP file: its channel of this source's name.
    Recording,
    /// A picture, or a folder of pictures in the order of their names.
    Image,
    /// A Y4M file.
    Video,
    /// A WAV file.
    Wav,
    /// Lines of standard input.
    Stdin,
    /// Readings, one a line.
    Csv,
}

impl SourceKind {
    fn name(self) -> &'static str {
        match self {
            SourceKind::Recording => "recording",
            SourceKind::Image => "image",
            SourceKind::Video => "video",
            SourceKind::Wav => "wav",
            SourceKind::Stdin => "stdin",
            SourceKind::Csv => "csv",
        }
    }

    /// Kinds that can feed the source `name`.
    fn known_for(name: &str) -> &'static [SourceKind] {
        match name {
            "camera" => &[SourceKind::Recording, SourceKind::Image, SourceKind::Video],
            "mic" => &[SourceKind::Recording, SourceKind::Wav],
            "text" => &[SourceKind::Recording, SourceKind::Stdin],
            _ => &[SourceKind::Recording, SourceKind::Csv],
        }
    }
}

/// `[[sink]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkSpec {
    /// What takes the events.
    pub kind: SinkKind,
    /// The file, or `-` for standard output.
    #[serde(default = "standard_output")]
    pub path: PathBuf,
}

/// What takes the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// One JSON line each.
    Jsonl,
    /// One readable line each, with bars.
    View,
}

fn standard_output() -> PathBuf {
    "-".into()
}

impl Runtime {
    /// Reads and checks the file at `path`. Relative paths in it are made relative to its directory.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line, key and what was expected.
    pub fn read(path: &Path) -> Result<Runtime, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut runtime = Self::parse(path, &text)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let files = runtime.source.values_mut().filter_map(|s| s.path.as_mut());
        let sinks = runtime.sink.iter_mut().map(|s| &mut s.path).filter(|p| p.as_os_str() != "-");
        for file in runtime.bundle.iter_mut().chain(files).chain(sinks) {
            *file = dir.join(&*file);
        }
        Ok(runtime)
    }

    /// Checks `text`, which came from `path`.
    ///
    /// # Errors
    /// As [`Runtime::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Runtime, ConfigError> {
        let runtime: Runtime = from_toml(path, text)?;
        let invalid = |at: &[Step<'_>], message: String| ConfigError::Invalid {
            path: path.to_owned(),
            line: line_of(text, at),
            message,
        };
        let tag = &runtime.language.0;
        if tag.is_empty() || tag.len() > 35 || !tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(invalid(
                &[Step::Key("language")],
                format!("language = {tag:?}, expected a tag such as \"en\" or \"zh\""),
            ));
        }
        for (name, source) in &runtime.source {
            source.check(name).map_err(|(key, message)| {
                invalid(&[Step::Key("source"), Step::Key(name), Step::Key(key)], format!("source.{name}: {message}"))
            })?;
        }
        let is_standard = |s: &SinkSpec| s.path.as_os_str() == "-";
        for (i, sink) in runtime.sink.iter().enumerate() {
            let at = [Step::Key("sink"), Step::Item(i), Step::Key("path")];
            if sink.path.as_os_str().is_empty() {
                return Err(invalid(&at, "sink.path = \"\", expected a file, or \"-\" for standard output".into()));
            }
            if sink.kind == SinkKind::View && !is_standard(sink) {
                return Err(invalid(&at, "a view goes to the terminal; remove path".into()));
            }
            if runtime.sink[..i].iter().any(|other| other.path == sink.path) {
                let message = format!("two sinks write to {}; give each its own path", sink.path.display());
                return Err(invalid(&at, message));
            }
        }
        Ok(runtime)
    }
}

impl SourceSpec {
    /// The key that is wrong, and why.
    fn check(&self, name: &str) -> Result<(), (&'static str, String)> {
        let known = SourceKind::known_for(name);
        if !known.contains(&self.kind) {
            let known = known.iter().map(|k| k.name()).collect::<Vec<_>>().join(", ");
            return Err(("kind", format!("kind = \"{}\", expected one of {known}", self.kind.name())));
        }
        match (&self.path, self.kind) {
            (Some(_), SourceKind::Stdin) => return Err(("path", "standard input has no path; remove it".into())),
            (None, kind) if kind != SourceKind::Stdin => {
                return Err(("kind", format!("kind = \"{}\" needs the key path; add it", kind.name())));
            }
            (Some(path), _) if path.as_os_str().is_empty() => {
                return Err(("path", "path = \"\", expected a file".into()));
            }
            _ => {}
        }
        match self.rate_hz {
            Some(_) if !matches!(self.kind, SourceKind::Image | SourceKind::Csv) => {
                Err(("rate_hz", format!("a {} has its own rate; remove rate_hz", self.kind.name())))
            }
            Some(rate) if !(rate > 0.0 && rate <= 1000.0) => {
                Err(("rate_hz", format!("rate_hz = {rate}, expected a number above 0, at most 1000")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        let runtime = Runtime::parse(Path::new("attendant.toml"), "").unwrap();
        assert_eq!(runtime, Runtime::default());
        assert_eq!((runtime.language.0.as_str(), runtime.log, runtime.clock), ("en", LogLevel::Info, ClockKind::Real));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attendant.toml");
        let text = "bundle = \"b\"\nlanguage = \"zh\"\nlog = \"debug\"\nclock = \"max\"\n[source.camera]\nkind = \"image\"\n\
                    path = \"a.jpg\"\nrate_hz = 2\n[source.text]\nkind = \"stdin\"\n[[sink]]\nkind = \"jsonl\"\npath = \"/e.jsonl\"\n\
                    [[sink]]\nkind = \"view\"\n";
        std::fs::write(&path, text).unwrap();
        let runtime = Runtime::read(&path).unwrap();
        assert_eq!(runtime.bundle, Some(dir.path().join("b")));
        assert_eq!(runtime.source["camera"].path, Some(dir.path().join("a.jpg")));
        assert_eq!(runtime.sink[0].path, Path::new("/e.jsonl"));
        assert_eq!(runtime.sink[1].path, Path::new("-"));
    }

    #[test]
    fn a_wrong_value_names_file_line_and_what_was_expected() {
        let rows = [
            ("languag = \"en\"", "1: unknown key `languag`; known keys: bundle, language, log, clock, source, sink"),
            ("language = \"\"", "1: language = \"\", expected a tag such as \"en\" or \"zh\""),
            (
                "log = \"loud\"",
                "1: log: unknown value `loud`, expected one of `off`, `error`, `warn`, `info`, `debug`, `trace`",
            ),
            ("clock = 2", "1: clock: wrong type, expected a word in quotes"),
            ("[source.camera]\npath = \"x\"", "1: missing key `kind` in `source.camera`; add it"),
            (
                "[source.camera]\nkind = \"wav\"\npath = \"x\"",
                "2: source.camera: kind = \"wav\", expected one of recording, image, video",
            ),
            (
                "[source.mic]\nkind = \"csv\"\npath = \"x\"",
                "2: source.mic: kind = \"csv\", expected one of recording, wav",
            ),
            ("[source.text]\nkind = \"image\"", "2: source.text: kind = \"image\", expected one of recording, stdin"),
            ("[source.door]\nkind = \"stdin\"", "2: source.door: kind = \"stdin\", expected one of recording, csv"),
            ("[source.mic]\nkind = \"wav\"", "2: source.mic: kind = \"wav\" needs the key path; add it"),
            ("[source.mic]\nkind = \"wav\"\npath = \"\"", "3: source.mic: path = \"\", expected a file"),
            ("[source.text]\nkind = \"stdin\"\npath = \"x\"", "3: source.text: standard input has no path; remove it"),
            (
                "[source.mic]\nkind = \"wav\"\npath = \"x\"\nrate_hz = 5",
                "4: source.mic: a wav has its own rate; remove rate_hz",
            ),
            (
                "[source.camera]\nkind = \"image\"\npath = \"x\"\nrate_hz = 0",
                "4: source.camera: rate_hz = 0, expected a number above 0, at most 1000",
            ),
            (
                "[[sink]]\nkind = \"jsonl\"\npath = \"\"",
                "3: sink.path = \"\", expected a file, or \"-\" for standard output",
            ),
            ("[[sink]]\nkind = \"view\"\npath = \"x\"", "3: a view goes to the terminal; remove path"),
            (
                "[[sink]]\nkind = \"jsonl\"\n[[sink]]\nkind = \"view\"",
                "3: two sinks write to -; give each its own path",
            ),
        ];
        let mut wrong = Vec::new();
        for (text, expected) in rows {
            let said = match Runtime::parse(Path::new("a.toml"), text) {
                Ok(_) => "no error".to_owned(),
                Err(e) => e.to_string(),
            };
            if said != format!("a.toml:{expected}") {
                wrong.push(format!("{text:?}\n  said     {said}\n  expected a.toml:{expected}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let said = Runtime::read(Path::new("/nowhere/a.toml")).unwrap_err().to_string();
        assert!(said.starts_with("/nowhere/a.toml: "), "{said}");
    }
}
