//! Errors of configuration files.

use std::path::{Path, PathBuf};

use super::spans::explain;

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what its schema says: `path:line: message`, the message names the key and what is known or expected.
    #[error("{}:{line}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Key, value, what was expected, the next step.
        message: String,
    },
}

/// Parses `text`, which came from `path`, so that an error names file, line and the known keys.
///
/// # Errors
/// [`ConfigError::Invalid`] for anything that is not TOML of this schema.
pub fn from_toml<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let (line, message) = explain(text, &e);
        ConfigError::Invalid { path: path.to_owned(), line, message }
    })
}
