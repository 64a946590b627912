//! What several test files need.

use std::path::PathBuf;

/// A file of the folder of models that nobody here made, if it is there; else says that what needs it is skipped.
pub fn theirs(file: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/third-party");
    let dir = std::env::var_os("ATTENDANT_MODELS").unwrap_or_else(|| beside.into());
    let path = PathBuf::from(dir).join(file);
    if !path.is_file() {
        println!("skipped: {} is not there; ATTENDANT_MODELS names the folder", path.display());
        return None;
    }
    Some(path)
}
