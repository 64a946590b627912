//! How long recordings are kept: removes what is too old from the directory that is recorded into.
//!
//! Called by the recorder when it starts and once a minute after that. How much is kept is the recorder's own bound in bytes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use log::{info, warn};

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Recordings.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Recordings that could not be removed; the log says why.
    pub failed: u64,
}

/// Removes recordings (`.mcap`) that have not changed for `age_max` from `dir`. One whose time lies in the future, from before the clock was
/// set, is new; so is one that is being written.
#[must_use]
pub fn remove_old(dir: &Path, age_max: Duration) -> Removed {
    let mut removed = Removed::default();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = entry.metadata() else { continue };
        let age = meta.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        if !meta.is_file() || path.extension().is_none_or(|e| e != "mcap") || age < age_max {
            continue;
        }
        match fs::remove_file(&path) {
            Ok(()) => {
                info!("recordings: removed {} ({} bytes): {} h old", path.display(), meta.len(), age.as_secs() / 3600);
                removed.files += 1;
                removed.bytes += meta.len();
            }
            Err(error) => {
                warn!("recordings: {} stays, although it is too old: {error}", path.display());
                removed.failed += 1;
            }
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_is_too_old_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, time: SystemTime| {
            let path = dir.path().join(name);
            fs::write(&path, [0; 100]).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        let now = SystemTime::now();
        file("old.mcap", now - 30 * HOUR);
        file("young.mcap", now - 20 * HOUR);
        file("future.mcap", now + 100 * HOUR);
        file("old.txt", now - 99 * HOUR);
        fs::create_dir(dir.path().join("folder.mcap")).unwrap();
        assert_eq!(remove_old(dir.path(), 24 * HOUR), Removed { files: 1, bytes: 100, failed: 0 });
        let mut left: Vec<String> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["folder.mcap", "future.mcap", "old.txt", "young.mcap"]);
        assert_eq!(remove_old(&dir.path().join("missing"), HOUR), Removed::default());
    }
}
