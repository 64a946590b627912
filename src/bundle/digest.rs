//! One number for what a bundle does: equal digests give equal events.

use std::fs;
use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::pack;

/// SHA-256 over name and content of every file in `dir` that a run reads, in the order of their names: the demo (`.mcap`), what is for
/// people (`.md`, `report.json`), and what only packing and installing read are left out, and so are folders.
///
/// # Errors
/// The system's, for a file that cannot be read.
pub fn digest(dir: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_aside = ["report.json", pack::MANIFEST, pack::SIGNATURE, pack::GOLDEN].contains(&name.as_str());
        let is_read = !(name.ends_with(".mcap") || name.ends_with(".md") || is_aside);
        if is_read && entry.path().is_file() {
            files.push((name, entry.path()));
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for (name, path) in files {
        let content = fs::read(path)?;
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of one file.
///
/// # Errors
/// The system's.
pub fn of_file(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut fs::File::open(path)?, &mut Writer(&mut hash))?;
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of what is in memory.
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

struct Writer<'a>(&'a mut Sha256);

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_label_changes_the_digest_and_a_report_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("labels.txt", "a\nb\n");
        write("bundle.toml", "x");
        let before = digest(dir.path()).unwrap();
        write("REPORT.md", "y");
        write("demo.mcap", "y");
        write(pack::MANIFEST, "y");
        write(pack::GOLDEN, "y");
        assert_eq!(digest(dir.path()).unwrap(), before);
        write("labels.txt", "a\nc\n");
        assert_ne!(digest(dir.path()).unwrap(), before);
    }

    #[test]
    fn the_digest_of_a_file_is_that_of_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        fs::write(&path, "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_file(&path).unwrap(), expected, "FIPS 180-2, B.1");
    }
}
