//! `attendant.toml`: what the device itself is told: sources, sinks, language.
//!
//! Every key may be left out: a source that is not named is absent, everything else has the default written beside it. What the
//! board knows (rates to ask for, queue lengths) is not repeated here. `run` reads it; the command line's options go before it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{ConfigError, from_toml};
use super::mqtt::MqttSpec;
use super::privacy::PrivacySpec;
use super::recording::RecordingSpec;
use super::spans::{Step, line_of};
use super::speech::SpeechSpec;
use super::trust::{TrustSpec, UpdateSpec};

mod web;

pub use web::WebSpec;

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
    /// Output lines that follow the events.
    #[serde(default)]
    pub output: Vec<OutputSpec>,
    /// The line that is active whenever a camera or a microphone is open.
    pub indicator: Option<IndicatorSpec>,
    /// The page and its interface (feature `web`); without it nothing listens.
    pub web: Option<WebSpec>,
    /// The broker that gets the events and gives commands.
    pub mqtt: Option<MqttSpec>,
    /// What says the advice.
    pub speech: Option<SpeechSpec>,
    /// What is kept of what led to decisions; without it nothing is.
    pub recording: Option<RecordingSpec>,
    /// What the device promises to the people in front of it.
    #[serde(default)]
    pub privacy: PrivacySpec,
    /// Whose bundles are taken.
    #[serde(default)]
    pub trust: TrustSpec,
    /// Where new bundles come from; without it they do not.
    pub update: Option<UpdateSpec>,
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
    /// The file of a kind that reads one. Relative to the file that says it.
    pub path: Option<PathBuf>,
    /// Samples per second of an `image` (the same picture again and again), of a `csv` without times, of an `lm75` and a `gpio`.
    pub rate_hz: Option<f32>,
    /// Of `v4l2` and `alsa`: which device; without it the board's.
    pub device: Option<String>,
    /// Of `command`: program and arguments; no shell.
    pub command: Option<Vec<String>>,
    /// Of `command`: layout of its raw frames.
    pub format: Option<RawFormat>,
    /// Of `command`: pixels per row.
    pub width: Option<u32>,
    /// Of `command`: rows.
    pub height: Option<u32>,
    /// Of `alsa`: what is quieter than this, or no louder than the room, becomes silence.
    pub gate_dbfs: Option<f32>,
    /// Of `lm75`: the bus, such as `/dev/i2c-1`.
    pub bus: Option<PathBuf>,
    /// Of `lm75`: its address, 0x48 without it.
    pub address: Option<u8>,
    /// Of `gpio`: the line.
    pub line: Option<LineSpec>,
}

/// Layout of raw frames that a program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawFormat {
    /// 4:2:2 packed, luminance first.
    Yuyv,
    /// 4:2:2 packed, chrominance first.
    Uyvy,
    /// 4:2:0 in two planes.
    Nv12,
    /// 4:2:0 in three planes (I420).
    Yu12,
    /// One byte of luminance.
    Gray,
    /// Three bytes.
    Rgb,
}

/// One GPIO line: by the board's name for it, or by chip and number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineSpec {
    /// Name of a `[gpio.NAME]` of the board.
    pub board: Option<String>,
    /// Label of the chip (`gpiodetect`).
    pub label: Option<String>,
    /// Line of the chip (`gpioinfo`).
    pub number: Option<u32>,
    /// The line is active when its level is low.
    #[serde(default)]
    pub active_low: bool,
}

impl LineSpec {
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.board, &self.label, self.number) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => Ok(()),
            _ => Err("line: expected either board, or label and number".into()),
        }
    }
}

/// `[[output]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// The line.
    pub line: LineSpec,
    /// What it shows: the label of a class, `decided`, `ask`, `escalate`, `failed`.
    pub on: String,
    /// How long it stays on; without it, as long as the state.
    pub pulse_ms: Option<u32>,
}

/// `[indicator]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndicatorSpec {
    /// The line.
    pub line: LineSpec,
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
    /// A camera of the kernel (feature `v4l`).
    V4l2,
    /// A program that writes raw frames: the way to CSI cameras.
    Command,
    /// A sound card (feature `alsa`).
    Alsa,
    /// A temperature sensor on an I2C bus (feature `gpio`).
    Lm75,
    /// An input line (feature `gpio`).
    Gpio,
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
            SourceKind::V4l2 => "v4l2",
            SourceKind::Command => "command",
            SourceKind::Alsa => "alsa",
            SourceKind::Lm75 => "lm75",
            SourceKind::Gpio => "gpio",
        }
    }

    /// Whether it reads a file, and has to be told which.
    fn has_path(self) -> bool {
        use SourceKind::{Csv, Image, Recording, Video, Wav};
        matches!(self, Recording | Image | Video | Wav | Csv)
    }

    /// Whether it is something that may be unplugged: it is opened on a thread of its own, and again if need be.
    #[must_use]
    pub fn is_device(self) -> bool {
        use SourceKind::{Alsa, Command, Gpio, Lm75, V4l2};
        matches!(self, V4l2 | Command | Alsa | Lm75 | Gpio)
    }

    /// Keys of a source beside `kind`, `path` and `rate_hz` that it has, and whether it needs them.
    fn own_keys(self) -> &'static [(&'static str, bool)] {
        match self {
            SourceKind::V4l2 => &[("device", false)],
            SourceKind::Command => &[("command", true), ("format", true), ("width", true), ("height", true)],
            SourceKind::Alsa => &[("device", false), ("gate_dbfs", false)],
            SourceKind::Lm75 => &[("bus", true), ("address", false)],
            SourceKind::Gpio => &[("line", true)],
            _ => &[],
        }
    }

    /// Kinds that can feed the source `name`.
    fn known_for(name: &str) -> &'static [SourceKind] {
        use SourceKind::{Alsa, Command, Csv, Gpio, Image, Lm75, Recording, Stdin, V4l2, Video, Wav};
        match name {
            "camera" => &[Recording, Image, Video, V4l2, Command],
            "mic" => &[Recording, Wav, Alsa],
            "text" => &[Recording, Stdin],
            // also a second camera, a second microphone
            _ => &[Recording, Csv, Lm75, Gpio, V4l2, Command, Alsa],
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
        let token = runtime.web.as_mut().and_then(|w| w.token_file.as_mut());
        let broker = runtime.mqtt.iter_mut().flat_map(MqttSpec::paths);
        let kept = runtime.recording.as_mut().map(|r| &mut r.dir);
        let update = runtime.update.iter_mut().flat_map(UpdateSpec::paths);
        let files = runtime.bundle.iter_mut().chain(files).chain(sinks).chain(token).chain(broker).chain(kept);
        for file in files.chain(update) {
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
        for (i, output) in runtime.output.iter().enumerate() {
            let at = |key| [Step::Key("output"), Step::Item(i), Step::Key(key)];
            output.line.check().map_err(|m| invalid(&at("line"), format!("output.{m}")))?;
            if output.on.is_empty() {
                let message = "output.on = \"\", expected a class, or decided, ask, escalate, failed".into();
                return Err(invalid(&at("on"), message));
            }
            if output.pulse_ms == Some(0) {
                return Err(invalid(&at("pulse_ms"), "output.pulse_ms = 0, expected at least 1".into()));
            }
        }
        if let Some(indicator) = &runtime.indicator {
            let at = [Step::Key("indicator"), Step::Key("line")];
            indicator.line.check().map_err(|m| invalid(&at, format!("indicator.{m}")))?;
        }
        if let Some(web) = &runtime.web {
            web.check()
                .map_err(|(key, message)| invalid(&[Step::Key("web"), Step::Key(key)], format!("web.{message}")))?;
        }
        if let Some(mqtt) = &runtime.mqtt {
            mqtt.check().map_err(|(key, m)| invalid(&[Step::Key("mqtt"), Step::Key(key)], format!("mqtt.{m}")))?;
        }
        if let Some(speech) = &runtime.speech {
            speech
                .check()
                .map_err(|(key, m)| invalid(&[Step::Key("speech"), Step::Key(key)], format!("speech.{m}")))?;
        }
        if let Some(recording) = &runtime.recording {
            recording
                .check()
                .map_err(|(key, m)| invalid(&[Step::Key("recording"), Step::Key(key)], format!("recording.{m}")))?;
        }
        runtime.privacy.check().map_err(|(keys, m)| {
            let at: Vec<Step<'_>> = ["privacy"].iter().chain(keys).map(|key| Step::Key(key)).collect();
            invalid(&at, format!("privacy.{m}"))
        })?;
        let trust =
            |(key, m): (&'static str, String)| invalid(&[Step::Key("trust"), Step::Key(key)], format!("trust.{m}"));
        runtime.trust.check().map_err(trust)?;
        if let Some(update) = &runtime.update {
            update
                .check()
                .map_err(|(key, m)| invalid(&[Step::Key("update"), Step::Key(key)], format!("update.{m}")))?;
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
            (Some(_), kind) if !kind.has_path() => {
                return Err(("path", format!("a {} reads no file; remove path", kind.name())));
            }
            (None, kind) if kind.has_path() => {
                return Err(("kind", format!("kind = \"{}\" needs the key path; add it", kind.name())));
            }
            (Some(path), _) if path.as_os_str().is_empty() => {
                return Err(("path", "path = \"\", expected a file".into()));
            }
            _ => {}
        }
        self.check_own_keys()?;
        let is_polled = matches!(self.kind, SourceKind::Lm75 | SourceKind::Gpio);
        match self.rate_hz {
            // slower, its thread could not be told from one that hangs
            Some(rate) if is_polled && !(0.2..=100.0).contains(&rate) => {
                Err(("rate_hz", format!("rate_hz = {rate}, expected a number from 0.2 to 100")))
            }
            Some(_) if !is_polled && !matches!(self.kind, SourceKind::Image | SourceKind::Csv) => {
                Err(("rate_hz", format!("a {} has its own rate; remove rate_hz", self.kind.name())))
            }
            Some(rate) if !(rate > 0.0 && rate <= 1000.0) => {
                Err(("rate_hz", format!("rate_hz = {rate}, expected a number above 0, at most 1000")))
            }
            _ => Ok(()),
        }
    }
}

impl SourceSpec {
    /// Keys that only some kinds have.
    fn check_own_keys(&self) -> Result<(), (&'static str, String)> {
        let given = [
            ("device", self.device.is_some()),
            ("command", self.command.is_some()),
            ("format", self.format.is_some()),
            ("width", self.width.is_some()),
            ("height", self.height.is_some()),
            ("gate_dbfs", self.gate_dbfs.is_some()),
            ("bus", self.bus.is_some()),
            ("address", self.address.is_some()),
            ("line", self.line.is_some()),
        ];
        let (kind, own) = (self.kind.name(), self.kind.own_keys());
        for (key, is_given) in given {
            match own.iter().find(|(own, _)| *own == key) {
                None if is_given => return Err((key, format!("a {kind} has no {key}; remove it"))),
                Some((_, true)) if !is_given => {
                    return Err(("kind", format!("kind = \"{kind}\" needs the key {key}; add it")));
                }
                _ => {}
            }
        }
        if self.command.as_ref().is_some_and(|c| c.first().is_none_or(String::is_empty)) {
            return Err((
                "command",
                "command: expected a program and its arguments, such as [\"rpicam-vid\", \"-o\", \"-\"]".into(),
            ));
        }
        for (key, pixels) in [("width", self.width), ("height", self.height)] {
            if let Some(n) = pixels.filter(|n| !(16..=8192).contains(n) || n % 2 == 1) {
                return Err((key, format!("{key} = {n}, expected an even number from 16 to 8192")));
            }
        }
        if let Some(level) = self.gate_dbfs.filter(|level| !(-90.0..=0.0).contains(level)) {
            return Err(("gate_dbfs", format!("gate_dbfs = {level}, expected a number from -90 to 0")));
        }
        if let Some(address) = self.address.filter(|a| !(0x48..=0x4f).contains(a)) {
            return Err(("address", format!("address = {address:#04x}, expected 0x48 to 0x4f")));
        }
        self.line.as_ref().map_or(Ok(()), LineSpec::check).map_err(|message| ("line", message))
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
                    [[sink]]\nkind = \"view\"\n[recording]\ndir = \"kept\"\n";
        std::fs::write(&path, text).unwrap();
        let runtime = Runtime::read(&path).unwrap();
        assert_eq!(runtime.bundle, Some(dir.path().join("b")));
        assert_eq!(runtime.recording.unwrap().dir, dir.path().join("kept"));
        assert_eq!(runtime.source["camera"].path, Some(dir.path().join("a.jpg")));
        assert_eq!(runtime.sink[0].path, Path::new("/e.jsonl"));
        assert_eq!(runtime.sink[1].path, Path::new("-"));
    }

    #[test]
    fn a_wrong_value_names_file_line_and_what_was_expected() {
        let rows = [
            (
                "languag = \"en\"",
                "1: unknown key `languag`; known keys: bundle, language, log, clock, source, sink, output, indicator, web, \
                 mqtt, speech, recording, privacy, trust, update",
            ),
            ("language = \"\"", "1: language = \"\", expected a tag such as \"en\" or \"zh\""),
            (
                "log = \"loud\"",
                "1: log: unknown value `loud`, expected one of `off`, `error`, `warn`, `info`, `debug`, `trace`",
            ),
            ("clock = 2", "1: clock: wrong type, expected a word in quotes"),
            ("[source.camera]\npath = \"x\"", "1: missing key `kind` in `source.camera`; add it"),
            (
                "[source.camera]\nkind = \"wav\"\npath = \"x\"",
                "2: source.camera: kind = \"wav\", expected one of recording, image, video, v4l2, command",
            ),
            (
                "[source.mic]\nkind = \"csv\"\npath = \"x\"",
                "2: source.mic: kind = \"csv\", expected one of recording, wav, alsa",
            ),
            ("[source.text]\nkind = \"image\"", "2: source.text: kind = \"image\", expected one of recording, stdin"),
            (
                "[source.door]\nkind = \"stdin\"",
                "2: source.door: kind = \"stdin\", expected one of recording, csv, lm75, gpio, v4l2, command, alsa",
            ),
            (
                "[source.camera]\nkind = \"v4l2\"\npath = \"/dev/video0\"",
                "3: source.camera: a v4l2 reads no file; remove path",
            ),
            (
                "[source.camera]\nkind = \"v4l2\"\ngate_dbfs = -50",
                "3: source.camera: a v4l2 has no gate_dbfs; remove it",
            ),
            (
                "[source.camera]\nkind = \"command\"",
                "2: source.camera: kind = \"command\" needs the key command; add it",
            ),
            (
                "[source.camera]\nkind = \"command\"\ncommand = []\nformat = \"yu12\"\nwidth = 640\nheight = 480",
                "3: source.camera: command: expected a program and its arguments, such as [\"rpicam-vid\", \"-o\", \"-\"]",
            ),
            (
                "[source.camera]\nkind = \"command\"\ncommand = [\"x\"]\nformat = \"yu12\"\nwidth = 641\nheight = 480",
                "5: source.camera: width = 641, expected an even number from 16 to 8192",
            ),
            (
                "[source.mic]\nkind = \"alsa\"\ngate_dbfs = 3",
                "3: source.mic: gate_dbfs = 3, expected a number from -90 to 0",
            ),
            (
                "[source.climate]\nkind = \"lm75\"\nbus = \"/dev/i2c-1\"\naddress = 0x20",
                "4: source.climate: address = 0x20, expected 0x48 to 0x4f",
            ),
            (
                "[source.climate]\nkind = \"lm75\"\nbus = \"/dev/i2c-1\"\nrate_hz = 0.01",
                "4: source.climate: rate_hz = 0.01, expected a number from 0.2 to 100",
            ),
            (
                "[source.button]\nkind = \"gpio\"\nline = { label = \"x\" }",
                "3: source.button: line: expected either board, or label and number",
            ),
            (
                "[[output]]\non = \"\"\nline = { board = \"call_staff\" }",
                "2: output.on = \"\", expected a class, or decided, ask, escalate, failed",
            ),
            (
                "[[output]]\non = \"ask\"\nline = { board = \"a\", number = 2 }",
                "3: output.line: expected either board, or label and number",
            ),
            ("[indicator]\nline = {}", "2: indicator.line: expected either board, or label and number"),
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
            ("[mqtt]\nsite = \"a\"", "1: missing key `broker` in `mqtt`; add it"),
            (
                "[mqtt]\nbroker = \"tcp://x\"",
                "2: mqtt.broker = \"tcp://x\", expected mqtt://host:1883, or mqtts://host:8883 with TLS",
            ),
            (
                "[mqtt]\nbroker = \"mqtt://u:secret@x\"",
                "2: mqtt.broker: an address with a name or a password; write username and password_file",
            ),
            (
                "[mqtt]\nbroker = \"mqtt://x\"\ndevice = \"a/b\"",
                "3: mqtt.device = \"a/b\", expected at most 64 letters, digits, - and single _ between them (a level of topics)",
            ),
            (
                "[mqtt]\nbroker = \"mqtt://x\"\nsite = \"+\"",
                "3: mqtt.site = \"+\", expected at most 64 letters, digits, - and single _ between them (a level of topics)",
            ),
            (
                "[mqtt]\nbroker = \"mqtt://x\"\ndiscovery_prefix = \"a//b\"",
                "3: mqtt.discovery_prefix = \"a//b\", expected a topic without + and #",
            ),
            (
                "[mqtt]\nbroker = \"mqtt://x\"\npassword_file = \"p\"",
                "3: mqtt.password_file: a password needs a username; add it",
            ),
            (
                "[mqtt]\nbroker = \"mqtts://x\"\nclient_cert_file = \"c\"",
                "3: mqtt.client_cert_file: a certificate needs client_key_file; add it",
            ),
            (
                "[mqtt]\nbroker = \"mqtt://x\"\nca_file = \"c\"",
                "3: mqtt.ca_file is for mqtts://, the broker is mqtt://; change one of them",
            ),
            (
                "[mqtt]\nbroker = \"mqtt://x\"\nqueue_bytes_max = 5",
                "3: mqtt.queue_bytes_max = 5, expected 65536 to 17179869184",
            ),
            (
                "[speech]\ncommand = []",
                "2: speech.command: expected a program and its arguments, such as [\"espeak-ng\", \"--stdin\"]",
            ),
            (
                "[speech]\ncommand = [\"sh\", \"-c\", \"say {text}\"]",
                "2: speech.command: {text} has to be an argument of its own: no part of one, so that nothing reads it as code",
            ),
            ("[recording]\ndir = \"kept\"\nring_s = 0", "3: recording.ring_s = 0, expected 1 to 3600"),
            ("[recording]\ndir = \"kept\"\nbytes_max = 9", "3: recording.bytes_max = 9, expected at least 1048576"),
            ("[speech]\ncommand = [\"x\"]\ntimeout_ms = 5", "3: speech.timeout_ms = 5, expected 100 to 120000"),
            (
                "[trust]\nkeys = [\"RWx\"]",
                "2: trust.keys: \"RWx\", expected the second line of a minisign.pub, 56 characters that begin with RW",
            ),
            (
                "[trust]\nrequire_signed = true",
                "2: trust.require_signed = true, and no keys: nothing could run; add keys",
            ),
            ("[update]\nstate_dir = \"\"", "2: update.state_dir = \"\", expected a directory that can be written"),
            ("[update]\nstate_dir = \"x\"\nprobation_s = 1", "3: update.probation_s = 1, expected 5 to 86400"),
            ("[update]\ninbox = \"x\"", "1: missing key `state_dir` in `update`; add it"),
            (
                "[privacy]\nsandbox = \"on\"",
                "2: privacy.sandbox: unknown value `on`, expected one of `require`, `best-effort`, `off`",
            ),
            ("[privacy]\nnotice = { en = \" \" }", "2: privacy.notice.en: expected 1 to 600 characters"),
            ("[privacy]\nrecordings_age_h_max = 1", "2: privacy.recordings_age_h_max = 1, expected at least 2"),
            ("[privacy.mute]\nline = {}", "2: privacy.mute.line: expected either board, or label and number"),
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
