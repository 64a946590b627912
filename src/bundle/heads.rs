//! The files that heads name: labels, an index, priors.

use super::labels::read_labels;
use super::{Bundle, BundleError, read, read_text};
use crate::config::manifest::EncoderSpec;
use crate::signal::HeadFiles;

/// Keys of files.
pub(super) const LABELS: &str = "labels";
pub(super) const INDEX: &str = "index";
const PRIORS: &str = "priors";

/// Most bytes of an index: it is searched whole for every window.
const INDEX_BYTES_MAX: u64 = 256 << 20;

/// Table, key and name of every file that the head of `encoder` names.
pub(super) fn files(encoder: &EncoderSpec) -> Vec<(&'static str, &'static str, &str)> {
    let mut files = Vec::new();
    if let Some(head) = &encoder.classification {
        files.push(("classification", LABELS, head.labels.as_str()));
    }
    if let Some(head) = &encoder.detection {
        files.extend(head.labels.as_deref().map(|file| ("detection", LABELS, file)));
        files.extend(head.priors.as_deref().map(|file| ("detection", PRIORS, file)));
    }
    if let Some(head) = &encoder.retrieval {
        files.push(("retrieval", INDEX, head.index.as_str()));
    }
    files
}

impl Bundle {
    /// Reads the files of the head of the encoder at `index`.
    ///
    /// # Errors
    /// [`BundleError`], which names the file.
    ///
    /// # Panics
    /// If there is no such encoder.
    pub fn head_files(&self, index: usize) -> Result<HeadFiles, BundleError> {
        let mut found = HeadFiles::default();
        for (_, key, file) in files(&self.manifest.encoder[index]) {
            let path = self.path(file);
            match key {
                LABELS => found.labels = Some(read_labels(&path)?),
                INDEX => found.index = Some(read(&path, "the index", INDEX_BYTES_MAX)?),
                _ => found.priors = Some(read_text(&path, "the file of priors")?),
            }
        }
        Ok(found)
    }
}
