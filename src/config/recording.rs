//! `[recording]` of `attendant.toml`: what is kept of what led to decisions.
//!
//! Only a ring can be configured: a service that starts again must neither overwrite a recording nor fill the disk. A whole run is
//! recorded by hand, with `attendant record`.

use std::path::PathBuf;

use serde::Deserialize;

/// `[recording]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingSpec {
    /// The folder. Relative to the file that says it.
    pub dir: PathBuf,
    /// Seconds before a decision that are kept.
    #[serde(default = "default_ring_s")]
    pub ring_s: u32,
    /// Bytes on disk at most.
    #[serde(default = "default_bytes_max")]
    pub bytes_max: u64,
    /// Whether pictures, sound and text are kept; without them what the encoders make of them.
    #[serde(default = "default_media")]
    pub media: bool,
}

fn default_ring_s() -> u32 {
    60
}

fn default_bytes_max() -> u64 {
    256 << 20
}

fn default_media() -> bool {
    true
}

impl RecordingSpec {
    /// The key that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if !(1..=3600).contains(&self.ring_s) {
            return Err(("ring_s", format!("ring_s = {}, expected 1 to 3600", self.ring_s)));
        }
        if self.bytes_max < 1 << 20 {
            return Err(("bytes_max", format!("bytes_max = {}, expected at least {}", self.bytes_max, 1 << 20)));
        }
        Ok(())
    }
}
