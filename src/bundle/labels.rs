//! The text files of classes: labels, one a line, and intents, `intent class` a line.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::{BundleError, read_text};
use crate::config::ConfigError;

/// Finer classes than the bundle's, of one encoder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intents {
    /// Names, in the order of the logits.
    pub names: Vec<Arc<str>>,
    /// Per intent, the index of the bundle's class it belongs to.
    pub class: Vec<usize>,
}

/// Class labels of `path`, one a line.
pub(super) fn read_labels(path: &Path) -> Result<Vec<Arc<str>>, BundleError> {
    let mut labels: Vec<Arc<str>> = Vec::new();
    let mut seen = HashSet::new();
    for (line, label) in lines(path, "the file of labels")? {
        if !seen.insert(label.clone()) {
            let first = 1 + labels.iter().position(|l| **l == *label).unwrap_or(0);
            return Err(invalid(
                path,
                line,
                format!("label {label:?} is on line {first} too; every class needs a label of its own"),
            ));
        }
        labels.push(label.into());
    }
    Ok(labels)
}

/// Intents of `path`, lines `intent class`, where the class is one of `labels`.
pub(super) fn read_intents(path: &Path, labels: &[Arc<str>]) -> Result<Intents, BundleError> {
    let mut intents = Intents::default();
    let mut seen = HashSet::new();
    for (line, text) in lines(path, "the file of intents")? {
        let Some((name, class)) = text.split_once(char::is_whitespace) else {
            return Err(invalid(path, line, format!("found {text:?}, expected `intent class`")));
        };
        let class = class.trim();
        let Some(index) = labels.iter().position(|l| **l == *class) else {
            return Err(invalid(
                path,
                line,
                format!("intent {name}: {class:?} is not one of the {} labels", labels.len()),
            ));
        };
        if !seen.insert(name.to_owned()) {
            return Err(invalid(path, line, format!("intent {name} is listed twice; remove one")));
        }
        intents.names.push(name.into());
        intents.class.push(index);
    }
    Ok(intents)
}

/// Lines with their numbers from 1, trimmed; a last empty line is none.
fn lines(path: &Path, what: &str) -> Result<Vec<(usize, String)>, BundleError> {
    let text = read_text(path, what)?;
    let text = text.trim_start_matches('\u{feff}').trim_end();
    if text.is_empty() {
        return Err(invalid(path, 1, format!("{what} is empty, expected one entry a line")));
    }
    let lines = text.lines().enumerate().map(|(i, line)| match line.trim() {
        "" => Err(invalid(
            path,
            i + 1,
            "an empty line; remove it, because the line's number is the index of the class".to_owned(),
        )),
        line => Ok((i + 1, line.to_owned())),
    });
    lines.collect()
}

fn invalid(path: &Path, line: usize, message: String) -> BundleError {
    ConfigError::Invalid { path: path.to_owned(), line, message }.into()
}
