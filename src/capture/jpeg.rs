//! As much of JPEG as a source needs: the size of a picture, and where one ends and the next begins. Decoding is preprocessing.

use std::io::{self, BufRead, Read};

/// No camera's frame is larger; a longer one is damage.
pub(super) const MAX_JPEG_BYTES: usize = 16 << 20;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;

/// Whether `bytes` begin like a JPEG file.
pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, SOI, 0xff])
}

/// Width and height from the frame header (ITU-T T.81, B.2.2); None if there is none, or none before the picture data.
pub(super) fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut rest = bytes.strip_prefix(&[0xff, SOI])?;
    loop {
        let [0xff, marker, tail @ ..] = rest else { return None };
        match marker {
            0xff => rest = &rest[1..], // fill byte
            0x01 | 0xd0..=0xd7 => rest = tail,
            // SOF0 to SOF15, without DHT, JPG and DAC, which share the range
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                let [_, _, _, h1, h0, w1, w0, ..] = tail else { return None };
                return Some((u32::from(u16::from_be_bytes([*w1, *w0])), u32::from(u16::from_be_bytes([*h1, *h0]))));
            }
            _ if matches!(*marker, SOI | EOI | SOS) => return None,
            _ => {
                let [l1, l0, ..] = tail else { return None };
                rest = tail.get(usize::from(u16::from_be_bytes([*l1, *l0])).max(2)..)?;
            }
        }
    }
}

/// Reads one JPEG from a stream of them into `into`, zero bytes between them left out; false at the end of the stream.
///
/// # Errors
/// `InvalidData` for anything but a JPEG of at most [`MAX_JPEG_BYTES`], `UnexpectedEof` for one that is cut off.
pub(super) fn read_jpeg(reader: &mut impl BufRead, into: &mut Vec<u8>) -> io::Result<bool> {
    into.clear();
    loop {
        match reader.fill_buf()?.first() {
            None => return Ok(false),
            Some(0) => reader.consume(1),
            Some(_) => break,
        }
    }
    append(reader, into, 2)?;
    if *into != [0xff, SOI] {
        return Err(invalid("expected a JPEG, which begins with ff d8"));
    }
    let mut in_scan = false;
    loop {
        let marker = if in_scan { marker_after_scan(reader, into)? } else { marker(reader, into)? };
        match marker {
            EOI => return Ok(true),
            0x01 | 0xd0..=0xd7 => continue,
            _ => {}
        }
        append(reader, into, 2)?;
        let [.., l1, l0] = into[..] else { return Err(invalid("expected a segment length")) };
        append(reader, into, usize::from(u16::from_be_bytes([l1, l0])).saturating_sub(2))?;
        in_scan = marker == SOS;
    }
}

/// Reads the marker that must follow.
fn marker(reader: &mut impl Read, into: &mut Vec<u8>) -> io::Result<u8> {
    append(reader, into, 1)?;
    if into.last() != Some(&0xff) {
        return Err(invalid("expected a JPEG marker"));
    }
    loop {
        append(reader, into, 1)?;
        match into.last() {
            Some(0xff) => {} // fill byte
            Some(&marker) => return Ok(marker),
            None => unreachable!("just appended"),
        }
    }
}

/// Reads entropy-coded data up to and with the next marker that is neither a restart nor a stuffed byte.
fn marker_after_scan(reader: &mut impl BufRead, into: &mut Vec<u8>) -> io::Result<u8> {
    loop {
        let room = MAX_JPEG_BYTES.saturating_sub(into.len()) as u64;
        reader.take(room).read_until(0xff, into)?;
        if into.last() != Some(&0xff) {
            return Err(if into.len() >= MAX_JPEG_BYTES { too_long() } else { io::ErrorKind::UnexpectedEof.into() });
        }
        loop {
            append(reader, into, 1)?;
            match into.last() {
                Some(0xff) => {}
                Some(0 | 0xd0..=0xd7) => break,
                Some(&marker) => return Ok(marker),
                None => unreachable!("just appended"),
            }
        }
    }
}

fn append(reader: &mut impl Read, into: &mut Vec<u8>, n: usize) -> io::Result<()> {
    if into.len() + n > MAX_JPEG_BYTES {
        return Err(too_long());
    }
    let read = reader.take(n as u64).read_to_end(into)?;
    if read < n { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn too_long() -> io::Error {
    invalid(&format!("a JPEG of more than {MAX_JPEG_BYTES} bytes"))
}
