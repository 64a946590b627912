//! Opens a bundle directory: manifest, models, labels, catalogue, checked before any device is opened.
//!
//! Called once at the start by the pipeline and by the commands that look at bundles. Reads the manifest, the labels and the
//! intents; of the other files it makes sure that they are there, not empty and inside the directory. What is in a model or in
//! the catalogue is checked by who runs it: [`crate::infer`], [`crate::decide`], [`crate::pipeline`].
//! Also a bundle as one signed file ([`pack`], [`sign`]), and the device's installed ones ([`install`]).

pub mod digest;
pub mod disk;
mod heads;
pub mod install;
mod labels;
mod locate;
pub mod pack;
pub mod refused;
pub mod sign;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use labels::Intents;
pub use locate::locate;

use crate::config::manifest::Manifest;
use crate::config::{ConfigError, Step, check_manifest, from_toml, is_given, line_of};
use crate::signal::MAX_MODALITIES;
use labels::{read_intents, read_labels};

/// Name of the manifest in a bundle's directory.
pub const MANIFEST: &str = "bundle.toml";

/// Most bytes of a text file of a bundle: more is a mistake, and would be memory.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// Most bytes of a tokenizer.
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;

/// A bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is no bundle where one was looked for.
    #[error("{what}; looked in: {}", looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFound {
        /// What was asked for, and the next step.
        what: String,
        /// The places, in their order.
        looked: Vec<PathBuf>,
    },
    /// The manifest, or a text file beside it, is wrong: file, line and what was expected.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that the manifest names cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, who names it, and the next step.
        message: String,
    },
}

/// A checked bundle.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The directory.
    pub dir: PathBuf,
    /// `bundle.toml`. `decision.none` is empty if the labels have no such class and the file does not name one.
    pub manifest: Manifest,
    /// `name@version`, as in every event.
    pub id: Arc<str>,
    /// Class labels, in the order of the logits; empty if nothing is decided.
    pub labels: Vec<Arc<str>>,
    /// Index of the label that means "nobody asks anything".
    pub none: Option<usize>,
    /// Per encoder, in the manifest's order: its intents, if it has any.
    pub intents: Vec<Option<Intents>>,
    text: String,
}

/// Which of the files a manifest names have to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    All,
    /// Labels and intents: what there is before anything was trained.
    Data,
}

impl Bundle {
    /// Opens the bundle in `dir`.
    ///
    /// # Errors
    /// [`BundleError`]: file, line, value, what was expected.
    pub fn open(dir: &Path) -> Result<Bundle, BundleError> {
        Self::open_with(dir, Files::All)
    }

    /// As [`Bundle::open`], but models, demo, catalogue and tokenizers need not be there yet: `attendant features` makes the tensors
    /// that the models are trained on.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn open_manifest_only(dir: &Path) -> Result<Bundle, BundleError> {
        Self::open_with(dir, Files::Data)
    }

    fn open_with(dir: &Path, files: Files) -> Result<Bundle, BundleError> {
        let path = dir.join(MANIFEST);
        if !path.is_file() {
            let what = format!("there is no {MANIFEST}; name the directory of a bundle");
            return Err(BundleError::NotFound { what, looked: vec![dir.to_owned()] });
        }
        let text = read_text(&path, "the manifest")?;
        let manifest: Manifest = from_toml(&path, &text)?;
        let mut bundle = Bundle {
            dir: dir.to_owned(),
            id: format!("{}@{}", manifest.bundle.name, manifest.bundle.version).into(),
            intents: Vec::with_capacity(manifest.encoder.len()),
            labels: Vec::new(),
            none: None,
            manifest,
            text,
        };
        check_manifest(&bundle.manifest).map_err(|wrong| bundle.invalid(&wrong.path, wrong.message))?;
        let count = bundle.manifest.encoder.len();
        if count > MAX_MODALITIES {
            let message = format!("there are {count} encoders, expected at most {MAX_MODALITIES}; remove some");
            return Err(bundle.invalid(&[Step::Key("encoder"), Step::Item(MAX_MODALITIES)], message));
        }
        bundle.check_files(files)?;
        bundle.read_classes()?;
        Ok(bundle)
    }

    /// An error of the manifest, with the line of the value at `path`.
    #[must_use]
    pub fn invalid(&self, path: &[Step<'_>], message: String) -> BundleError {
        ConfigError::Invalid { path: self.dir.join(MANIFEST), line: line_of(&self.text, path), message }.into()
    }

    /// The bundle's own path of a file that the manifest names.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The model of the encoder at `index`.
    ///
    /// # Panics
    /// If there is no such encoder.
    #[must_use]
    pub fn model(&self, index: usize) -> PathBuf {
        self.path(&self.manifest.encoder[index].model)
    }

    /// The fusion's model; none for a bundle of one encoder that decides alone.
    #[must_use]
    pub fn fusion_model(&self) -> Option<PathBuf> {
        self.manifest.fusion.as_ref().map(|f| self.path(&f.model))
    }

    /// The advice catalogue.
    #[must_use]
    pub fn catalogue(&self) -> Option<PathBuf> {
        self.manifest.advice.as_ref().map(|a| self.path(&a.catalogue))
    }

    /// The demo recording. A device's copy of a bundle may leave it out: it can be most of the bundle.
    #[must_use]
    pub fn demo(&self) -> Option<PathBuf> {
        self.manifest.demo.as_ref().map(|d| self.path(&d.recording))
    }

    /// The tokenizer file of the encoder at `index`; none if it is not an encoder of text.
    ///
    /// # Errors
    /// [`BundleError::File`] if it cannot be read.
    ///
    /// # Panics
    /// If there is no such encoder.
    pub fn tokenizer(&self, index: usize) -> Result<Option<Vec<u8>>, BundleError> {
        let Some(text) = &self.manifest.encoder[index].text else { return Ok(None) };
        read(&self.path(&text.tokenizer), "the tokenizer", TOKENIZER_BYTES_MAX).map(Some)
    }

    /// Makes sure of every file the manifest names.
    fn check_files(&self, files: Files) -> Result<(), BundleError> {
        use Step::{Item, Key};
        let mut named: Vec<(Vec<Step<'_>>, &str, bool)> = Vec::new();
        for (i, encoder) in self.manifest.encoder.iter().enumerate() {
            let at = |rest: &[Step<'static>]| [&[Key("encoder"), Item(i)], rest].concat();
            named.push((at(&[Key("model")]), &encoder.model, false));
            if let Some(text) = &encoder.text {
                named.push((at(&[Key("text"), Key("tokenizer")]), &text.tokenizer, false));
            }
            if let Some(intents) = &encoder.intents {
                named.push((at(&[Key("intents"), Key("labels")]), &intents.labels, true));
            }
            if let Some(labels) = &encoder.labels {
                named.push((at(&[Key("labels")]), labels, true));
            }
            for (head, key, file) in heads::files(encoder) {
                named.push((at(&[Key(head), Key(key)]), file, key == heads::LABELS));
            }
        }
        if let Some(fusion) = &self.manifest.fusion {
            named.push((vec![Key("fusion"), Key("model")], &fusion.model, false));
            named.push((vec![Key("fusion"), Key("labels")], &fusion.labels, true));
        }
        if let Some(advice) = &self.manifest.advice {
            named.push((vec![Key("advice"), Key("catalogue")], &advice.catalogue, false));
        }
        // left out is legal, damaged is not
        if let Some(demo) = self.manifest.demo.as_ref().filter(|demo| self.path(&demo.recording).exists()) {
            named.push((vec![Key("demo"), Key("recording")], &demo.recording, false));
        }
        for (key, file, is_data) in named {
            if is_data || files == Files::All {
                self.check_file(&key, file)?;
            }
        }
        Ok(())
    }

    fn check_file(&self, key: &[Step<'_>], file: &str) -> Result<(), BundleError> {
        let wrong = |what: &str| self.invalid(key, format!("the file {file} {what}"));
        let path = self.path(file);
        let about = std::fs::metadata(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound if key.ends_with(&[Step::Key(heads::INDEX)]) => {
                wrong("does not exist; make it with `attendant index`")
            }
            std::io::ErrorKind::NotFound => wrong("does not exist; copy the whole bundle, or correct the name"),
            _ => wrong(&format!("cannot be looked at: {e}")),
        })?;
        if !about.is_file() {
            return Err(wrong("is not a file; correct the name"));
        }
        if about.len() == 0 {
            return Err(wrong("is empty; copy the whole bundle again"));
        }
        let (dir, path) = (std::fs::canonicalize(&self.dir), std::fs::canonicalize(&path));
        match (dir, path) {
            (Ok(dir), Ok(path)) if path.starts_with(&dir) => Ok(()),
            (Ok(_), Ok(path)) => {
                Err(wrong(&format!("is a link to {}, outside the bundle; copy it into the bundle", path.display())))
            }
            (Err(e), _) | (_, Err(e)) => Err(wrong(&format!("cannot be looked at: {e}"))),
        }
    }

    /// Reads labels and intents.
    fn read_classes(&mut self) -> Result<(), BundleError> {
        let labels = match &self.manifest.fusion {
            Some(fusion) => Some(&fusion.labels),
            None => self.manifest.encoder[0].labels.as_ref(),
        };
        let Some(labels) = labels else {
            return self.decides_nothing();
        };
        self.labels = read_labels(&self.path(labels))?;
        self.none = self.labels.iter().position(|l| **l == *self.manifest.decision.none);
        if self.none.is_none() && !self.manifest.decision.none.is_empty() {
            let key = [Step::Key("decision"), Step::Key("none")];
            if is_given(&self.text, &key) {
                let none = &self.manifest.decision.none;
                let message = format!(
                    "decision.none = {none:?}, expected one of the labels in {labels}, or \"\" if nothing means \"nobody asks\""
                );
                return Err(self.invalid(&key, message));
            }
            self.manifest.decision.none.clear();
        }
        self.read_all_intents()
    }

    /// A bundle of nothing but heads: what belongs to decisions has no place in it.
    fn decides_nothing(&mut self) -> Result<(), BundleError> {
        for key in ["decision", "advice"] {
            if is_given(&self.text, &[Step::Key(key)]) {
                let message =
                    format!("[{key}]: nothing is decided without `labels` of the encoder or a [fusion]; remove it");
                return Err(self.invalid(&[Step::Key(key)], message));
            }
        }
        if let Some(i) = self.manifest.encoder.iter().position(|e| e.intents.is_some()) {
            let key = [Step::Key("encoder"), Step::Item(i), Step::Key("intents")];
            let message = "encoder.intents: they belong to classes, and the bundle has none; remove it".to_owned();
            return Err(self.invalid(&key, message));
        }
        self.manifest.decision.none.clear();
        self.intents = vec![None; self.manifest.encoder.len()];
        Ok(())
    }

    fn read_all_intents(&mut self) -> Result<(), BundleError> {
        for encoder in &self.manifest.encoder {
            let intents = match &encoder.intents {
                Some(spec) => Some(read_intents(&self.path(&spec.labels), &self.labels)?),
                None => None,
            };
            self.intents.push(intents);
        }
        Ok(())
    }
}

/// Reads a small file of text whole.
fn read_text(path: &Path, what: &str) -> Result<String, BundleError> {
    let bytes = read(path, what, TEXT_BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
        let message = format!("byte {at} is not UTF-8; save {what} as UTF-8");
        ConfigError::Invalid { path: path.to_owned(), line, message }.into()
    })
}

fn read(path: &Path, what: &str, bytes_max: u64) -> Result<Vec<u8>, BundleError> {
    let config = |source| BundleError::Config(ConfigError::Read { path: path.to_owned(), source });
    let len = std::fs::metadata(path).map_err(config)?.len();
    if len > bytes_max {
        let message = format!("{what} has {len} bytes, expected at most {bytes_max}; is this the right file?");
        return Err(BundleError::File { path: path.to_owned(), message });
    }
    std::fs::read(path).map_err(config)
}
