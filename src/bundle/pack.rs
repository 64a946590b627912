//! A bundle as one file, `NAME-VERSION.attendant`: what is in it, how it is written and read. docs/bundles-signed.md describes the format.
//!
//! The file is a tar archive (ustar) of a single form: the same parts give the same bytes, and whatever differs from that form by a byte
//! is refused. It begins with [`MANIFEST`], which lists every part with its SHA-256, and the signature of that. So every byte is signed, or
//! hashed by what is signed, or follows from it. Nothing but two lengths and the signature itself is looked at before the signature is
//! checked ([`super::sign`]). A general reader of tar archives is not used: it understands links, sparse files and long names.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::digest::hex;
use super::refused::{Refused, Why};
use super::sign::{Signer, Trust};

/// Ending of a packed bundle's file name.
pub const EXTENSION: &str = "attendant";

/// The first part: what the bundle says of itself.
pub const MANIFEST: &str = "manifest.json";

/// The second part: minisign's signature of the first.
pub const SIGNATURE: &str = "manifest.json.minisig";

/// What the self-test of an update compares with: the events of the demo recording, one JSON line each.
pub const GOLDEN: &str = "golden.jsonl";

/// Version of [`Manifest`].
const FORMAT: u32 = 1;

/// tar's unit.
const BLOCK: usize = 512;

/// Most bytes of the manifest.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// Most bytes of the signature: minisign's are some 300.
pub const SIGNATURE_BYTES_MAX: u64 = 1024;

/// Most bytes of one part, and of all.
pub const PART_BYTES_MAX: u64 = 256 << 20;

/// Most bytes of all parts.
pub const BYTES_MAX: u64 = 512 << 20;

/// Most parts.
pub const PARTS_MAX: usize = 256;

/// Longest name of a part: what a header holds.
const NAME_BYTES_MAX: usize = 99;

/// What a packed bundle says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this schema.
    pub format: u32,
    /// As in `bundle.toml`.
    pub name: String,
    /// As in `bundle.toml`.
    pub version: String,
    /// Grows with every release: a device takes none with a smaller one than it has had.
    pub counter: u64,
    /// Every part, in the order of the file: that of their names.
    pub parts: Vec<Part>,
}

/// One file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Path inside the bundle.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content, in hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`Why::Manifest`], [`Why::Name`], [`Why::Duplicate`], [`Why::Size`], [`Why::Layout`] for parts out of order.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, Refused> {
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|e| Refused::new(Why::Manifest, format!("{MANIFEST}: {e}")))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("strings and numbers always serialize");
        bytes.push(b'\n');
        bytes
    }

    fn check(&self) -> Result<(), Refused> {
        let refuse = |why, message: String| Err(Refused::new(why, format!("{MANIFEST}: {message}")));
        if self.format != FORMAT {
            return refuse(Why::Manifest, format!("format = {}, this program reads {FORMAT}; update it", self.format));
        }
        for (key, word) in [("name", &self.name), ("version", &self.version)] {
            if !is_word(word) || word.len() > 64 {
                return refuse(
                    Why::Manifest,
                    format!("{key} = {word:?}, expected letters, digits, `.`, `_`, `-`, `+`"),
                );
            }
        }
        if self.parts.len() > PARTS_MAX {
            return refuse(Why::Size, format!("{} parts, expected at most {PARTS_MAX}", self.parts.len()));
        }
        let mut sum = 0_u64;
        for (i, part) in self.parts.iter().enumerate() {
            check_name(&part.name)?;
            if part.bytes > PART_BYTES_MAX {
                let message = format!("{} has {} bytes, expected at most {PART_BYTES_MAX}", part.name, part.bytes);
                return refuse(Why::Size, message);
            }
            sum += part.bytes;
            if part.sha256.len() != 64 || !part.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return refuse(Why::Manifest, format!("{}: sha256 is no SHA-256 in hexadecimal digits", part.name));
            }
            let Some(before) = i.checked_sub(1).map(|i| &self.parts[i].name) else { continue };
            if self.parts[..i].iter().any(|other| other.name == part.name) {
                return refuse(Why::Duplicate, format!("{} is there twice", part.name));
            }
            if *before > part.name {
                return refuse(Why::Layout, format!("{} comes after {before}, expected the order of names", part.name));
            }
        }
        if sum > BYTES_MAX {
            return refuse(Why::Size, format!("{sum} bytes in all parts, expected at most {BYTES_MAX}"));
        }
        if !self.parts.iter().any(|p| p.name == super::MANIFEST) {
            return refuse(Why::Manifest, format!("there is no {} among the parts", super::MANIFEST));
        }
        Ok(())
    }

    /// What a device calls the installed bundle: the version, and what tells two builds of one version apart. `bytes` are the manifest's.
    #[must_use]
    pub fn id(&self, bytes: &[u8]) -> String {
        format!("{}-{}", self.version, &hex(&Sha256::digest(bytes))[..12])
    }

    /// The usual name of its file.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}-{}.{EXTENSION}", self.name, self.version)
    }
}

/// Letters, digits and what versions have; no way to anywhere.
fn is_word(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with('.')
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+'))
}

/// A relative path of plain words.
fn check_name(name: &str) -> Result<(), Refused> {
    let is_own = [MANIFEST, SIGNATURE].contains(&name);
    if is_own || name.len() > NAME_BYTES_MAX || !name.split('/').all(is_word) {
        let message = format!(
            "a part is called {name:?}, expected a path inside the bundle of letters, digits, `.`, `_`, `-`, `+` and `/`, \
             at most {NAME_BYTES_MAX} long and not {MANIFEST}"
        );
        return Err(Refused::new(Why::Name, message));
    }
    Ok(())
}

/// The only header that a part of this name and length may have.
fn header(name: &str, bytes: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{bytes:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Name and length in a header that is of the only form.
fn parse_header(block: &[u8; BLOCK]) -> Option<(String, u64)> {
    let len = block[..100].iter().position(|b| *b == 0)?;
    let name = std::str::from_utf8(&block[..len]).ok()?;
    let digits = std::str::from_utf8(&block[124..135]).ok()?;
    let bytes = u64::from_str_radix(digits, 8).ok()?;
    (header(name, bytes) == *block).then(|| (name.to_owned(), bytes))
}

fn padding(bytes: u64) -> usize {
    (BLOCK - (bytes % BLOCK as u64) as usize) % BLOCK
}

fn write_part(out: &mut impl Write, name: &str, content: &[u8]) -> io::Result<()> {
    out.write_all(&header(name, content.len() as u64))?;
    out.write_all(content)?;
    out.write_all(&[0; BLOCK][..padding(content.len() as u64)])
}

/// What goes into a packed bundle beside its files.
#[derive(Clone, Debug)]
pub struct Packing<'a> {
    /// As in `bundle.toml`.
    pub name: &'a str,
    /// As in `bundle.toml`.
    pub version: &'a str,
    /// See [`Manifest::counter`].
    pub counter: u64,
    /// Names of files that stay out.
    pub leave_out: &'a [String],
    /// Files that are not in the directory, or replace what is.
    pub more: &'a [(String, Vec<u8>)],
}

/// Writes the files of `dir` to `out`, unsigned. Hidden files stay out.
///
/// # Errors
/// [`Refused`]: a file that cannot be read, a name or a length that no bundle may have.
pub fn pack(dir: &Path, packing: &Packing<'_>, out: &mut impl Write) -> Result<Manifest, Refused> {
    let mut names = Vec::new();
    list(dir, "", 0, &mut names)?;
    names.retain(|n| ![MANIFEST, SIGNATURE].contains(&n.as_str()) && !packing.leave_out.contains(n));
    names.extend(packing.more.iter().map(|(name, _)| name.clone()));
    names.sort();
    names.dedup();
    let read = |name: &str| -> Result<Vec<u8>, Refused> {
        if let Some((_, content)) = packing.more.iter().find(|(n, _)| n == name) {
            return Ok(content.clone());
        }
        let path = dir.join(name);
        let bytes = std::fs::metadata(&path).map_err(|e| Refused::io(path.display(), &e))?.len();
        if bytes > PART_BYTES_MAX {
            let message = format!("{} has {bytes} bytes, expected at most {PART_BYTES_MAX}", path.display());
            return Err(Refused::new(Why::Size, message));
        }
        std::fs::read(&path).map_err(|e| Refused::io(path.display(), &e))
    };
    let mut parts = Vec::with_capacity(names.len());
    for name in names {
        let content = read(&name)?;
        parts.push(Part { bytes: content.len() as u64, sha256: hex(&Sha256::digest(&content)), name });
    }
    let (name, version) = (packing.name.to_owned(), packing.version.to_owned());
    let manifest = Manifest { format: FORMAT, name, version, counter: packing.counter, parts };
    manifest.check()?;
    let bytes = manifest.to_bytes();
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        let message = format!("{MANIFEST} has {} bytes, expected at most {MANIFEST_BYTES_MAX}", bytes.len());
        return Err(Refused::new(Why::Size, message));
    }
    let failed = |e: io::Error| Refused::io("the packed bundle", &e);
    write_part(out, MANIFEST, &bytes).map_err(failed)?;
    for part in &manifest.parts {
        let content = read(&part.name)?;
        if hex(&Sha256::digest(&content)) != part.sha256 {
            let message = format!("{}: {} has changed while it was packed; pack again", dir.display(), part.name);
            return Err(Refused::new(Why::Part, message));
        }
        write_part(out, &part.name, &content).map_err(failed)?;
    }
    out.write_all(&[0; 2 * BLOCK]).map_err(failed)?;
    Ok(manifest)
}

/// Depth of folders in a bundle.
const DEPTH_MAX: usize = 8;

fn list(dir: &Path, prefix: &str, depth: usize, into: &mut Vec<String>) -> Result<(), Refused> {
    let failed = |e: io::Error| Refused::io(dir.display(), &e);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            let message = format!("{}: a file's name is no UTF-8; rename it", dir.display());
            return Err(Refused::new(Why::Name, message));
        };
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        if entry.path().is_dir() {
            if depth == DEPTH_MAX {
                return Err(Refused::new(Why::Name, format!("{}: folders too deep", entry.path().display())));
            }
            list(&entry.path(), &format!("{name}/"), depth + 1, into)?;
        } else {
            into.push(name);
        }
    }
    Ok(())
}

/// A packed bundle whose manifest has been read and whose signature has been checked. Its parts have not.
#[derive(Debug)]
pub struct Packed<R> {
    reader: R,
    /// What it says of itself.
    pub manifest: Manifest,
    /// The bytes that are signed.
    pub manifest_bytes: Vec<u8>,
    /// minisign's text, if it is signed.
    pub signature: Option<String>,
    /// Who signed it, as far as this device can tell.
    pub signer: Signer,
    /// A header that was read to see that it is no signature's.
    ahead: Option<[u8; BLOCK]>,
}

impl<R: Read> Packed<R> {
    /// Reads the manifest from the beginning of `reader`, and checks whether `trust` allows it.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(mut reader: R, trust: &Trust) -> Result<Self, Refused> {
        let block = read_block(&mut reader, "the first header")?;
        let Some((name, bytes)) = parse_header(&block).filter(|(name, _)| name == MANIFEST) else {
            let message =
                format!("this is no packed bundle: it does not begin with {MANIFEST} as `bundle pack` writes it");
            return Err(Refused::new(Why::Layout, message));
        };
        let manifest_bytes = read_small(&mut reader, &name, bytes, MANIFEST_BYTES_MAX)?;
        let block = read_block(&mut reader, "the second header")?;
        let (mut signature, mut ahead) = (None, None);
        match parse_header(&block) {
            None => return Err(Refused::new(Why::Layout, "after the manifest there is no header of a part")),
            Some((name, bytes)) if name == SIGNATURE => {
                let text = read_small(&mut reader, &name, bytes, SIGNATURE_BYTES_MAX)?;
                let text = String::from_utf8(text)
                    .map_err(|_| Refused::new(Why::Signature, format!("{SIGNATURE} is no UTF-8")))?;
                signature = Some(text);
            }
            Some(_) => ahead = Some(block),
        }
        let signer = trust.check(&manifest_bytes, signature.as_deref())?;
        let manifest = Manifest::parse(&manifest_bytes)?;
        Ok(Packed { reader, manifest, manifest_bytes, signature, signer, ahead })
    }

    /// Reads every part to the end of the file and checks it against the manifest; `part` gives for each where its content goes.
    /// What was written before an error is to be thrown away.
    ///
    /// # Errors
    /// [`Refused`]; also what `part` gives.
    pub fn unpack<W: Write>(mut self, mut part: impl FnMut(&Part) -> Result<W, Refused>) -> Result<Manifest, Refused> {
        for expected in &self.manifest.parts {
            let block = match self.ahead.take() {
                Some(block) => block,
                None => read_block(&mut self.reader, &expected.name)?,
            };
            if block != header(&expected.name, expected.bytes) {
                let found = parse_header(&block)
                    .map_or("something else".into(), |(name, bytes)| format!("{name}, {bytes} bytes"));
                let message = format!("expected {}, {} bytes, and found {found}", expected.name, expected.bytes);
                return Err(Refused::new(Why::Layout, message));
            }
            let mut out = part(expected)?;
            copy_part(&mut self.reader, expected, &mut out)?;
            skip_padding(&mut self.reader, &expected.name, expected.bytes)?;
        }
        for _ in 0..2 {
            if read_block(&mut self.reader, "the end")? != [0; BLOCK] {
                return Err(Refused::new(Why::Layout, "there is more than the parts that the manifest lists"));
            }
        }
        match self.reader.read(&mut [0]) {
            Ok(0) => Ok(self.manifest),
            Ok(_) => Err(Refused::new(Why::Layout, "there is something after the end of the bundle")),
            Err(error) => Err(Refused::io("the end", &error)),
        }
    }

    /// Reads everything and keeps nothing.
    ///
    /// # Errors
    /// As [`Packed::unpack`].
    pub fn verify(self) -> Result<Manifest, Refused> {
        self.unpack(|_| Ok(io::sink()))
    }
}

/// Writes the packed bundle in `reader` to `out` with `signature` in the place of the one it has, if any. The parts are copied as they are;
/// whoever calls this has verified them.
///
/// # Errors
/// [`Refused`].
pub fn with_signature<R: Read + Seek>(mut reader: R, signature: &str, out: &mut impl Write) -> Result<(), Refused> {
    let packed = Packed::open(&mut reader, &Trust::anything())?;
    let was = packed.signature.as_ref().map_or(0, |s| BLOCK + s.len() + padding(s.len() as u64));
    let manifest = packed.manifest_bytes;
    let rest = BLOCK + manifest.len() + padding(manifest.len() as u64) + was;
    let failed = |e: io::Error| Refused::io("the signed bundle", &e);
    write_part(out, MANIFEST, &manifest).map_err(failed)?;
    write_part(out, SIGNATURE, signature.as_bytes()).map_err(failed)?;
    reader.seek(SeekFrom::Start(rest as u64)).map_err(failed)?;
    io::copy(&mut reader, out).map_err(failed)?;
    Ok(())
}

fn read_block(reader: &mut impl Read, what: &str) -> Result<[u8; BLOCK], Refused> {
    let mut block = [0; BLOCK];
    reader.read_exact(&mut block).map_err(|e| Refused::io(what, &e))?;
    Ok(block)
}

/// Content and padding of a part that is kept in memory.
fn read_small(reader: &mut impl Read, name: &str, bytes: u64, bytes_max: u64) -> Result<Vec<u8>, Refused> {
    if bytes > bytes_max {
        return Err(Refused::new(Why::Size, format!("{name} has {bytes} bytes, expected at most {bytes_max}")));
    }
    let mut content = vec![0; bytes as usize];
    reader.read_exact(&mut content).map_err(|e| Refused::io(name, &e))?;
    skip_padding(reader, name, bytes)?;
    Ok(content)
}

fn skip_padding(reader: &mut impl Read, name: &str, bytes: u64) -> Result<(), Refused> {
    let mut zeros = [0; BLOCK];
    let zeros = &mut zeros[..padding(bytes)];
    reader.read_exact(zeros).map_err(|e| Refused::io(name, &e))?;
    if zeros.iter().any(|b| *b != 0) {
        return Err(Refused::new(Why::Layout, format!("after {name} there is something where nothing belongs")));
    }
    Ok(())
}

/// Copies and checks the content of one part.
pub(super) fn copy_part(reader: &mut impl Read, part: &Part, out: &mut impl Write) -> Result<(), Refused> {
    let mut hash = Sha256::new();
    let mut buffer = [0; 16 << 10];
    let mut left = part.bytes;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = match reader.read(&mut buffer[..want]) {
            Ok(0) => {
                return Err(Refused::new(Why::Truncated, format!("{} ends {left} bytes before it should", part.name)));
            }
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Refused::io(&part.name, &error)),
        };
        hash.update(&buffer[..got]);
        out.write_all(&buffer[..got]).map_err(|e| Refused::io(&part.name, &e))?;
        left -= got as u64;
    }
    out.flush().map_err(|e| Refused::io(&part.name, &e))?;
    let found = hex(&hash.finalize());
    if found != part.sha256 {
        let message = format!("{} has the SHA-256 {found}, packed was {}", part.name, part.sha256);
        return Err(Refused::new(Why::Part, message));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
