//! AVI (Microsoft, "AVI RIFF File Reference"): the frames of the first video stream, if that is MJPEG.
//!
//! Read front to back without the index, so that a file whose recording was cut short plays up to the cut.

use std::io::{self, BufRead, Read};

use crate::capture::jpeg::{MAX_JPEG_BYTES, is_jpeg};

/// More streams than any file has.
const MAX_STREAMS: u32 = 100;
/// Anything from one frame in 1000 s to 10 000 a second.
const FRAME_US: std::ops::RangeInclusive<f64> = 100.0..=1e9;

pub(super) struct Avi<R> {
    reader: R,
    /// Two digits in front of a frame's chunk.
    stream: [u8; 2],
    frame_us: f64,
}

/// Number and timing of a stream, as far as its headers have been read.
#[derive(Default)]
struct StreamHeader {
    is_video: bool,
    coding: [u8; 4],
    frame_us: f64,
}

impl<R: BufRead> Avi<R> {
    /// Reads up to the first frame.
    ///
    /// # Errors
    /// `Unsupported` if the video is not MJPEG, else as the reader, `InvalidData` or `UnexpectedEof`.
    pub fn open(mut reader: R) -> io::Result<Self> {
        skip(&mut reader, 12)?; // RIFF, length, AVI
        let mut streams = 0;
        let mut current = StreamHeader::default();
        let mut video: Option<(u32, StreamHeader)> = None;
        let mut file_frame_us = 0.0;
        loop {
            let Some((id, len)) = chunk_header(&mut reader)? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            match &id {
                b"LIST" => {
                    let mut kind = [0; 4];
                    reader.read_exact(&mut kind)?;
                    match &kind {
                        b"hdrl" => {}
                        b"strl" => {
                            streams += 1;
                            if streams > MAX_STREAMS {
                                return Err(invalid("too many streams"));
                            }
                            current = StreamHeader::default();
                        }
                        b"movi" => {
                            let Some((number, header)) = video else { return Err(invalid("no video stream")) };
                            return Avi::of_stream(reader, number, &header, file_frame_us);
                        }
                        _ => skip(&mut reader, padded(len).saturating_sub(4))?,
                    }
                }
                b"avih" => {
                    let header: [u8; 4] = head(&mut reader, len)?;
                    file_frame_us = f64::from(u32::from_le_bytes(header));
                }
                b"strh" => {
                    let header: [u8; 28] = head(&mut reader, len)?;
                    let [scale, rate] = [20, 24].map(|at| {
                        f64::from(u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
                    });
                    current.is_video = header.starts_with(b"vids");
                    current.frame_us = 1e6 * scale / rate;
                }
                b"strf" => {
                    if current.is_video && video.is_none() {
                        let header: [u8; 20] = head(&mut reader, len)?;
                        current.coding.copy_from_slice(&header[16..]);
                        let number = u32::saturating_sub(streams, 1);
                        video = Some((number, std::mem::take(&mut current)));
                    } else {
                        skip(&mut reader, padded(len))?;
                    }
                }
                _ => skip(&mut reader, padded(len))?,
            }
        }
    }

    fn of_stream(reader: R, number: u32, header: &StreamHeader, file_frame_us: f64) -> io::Result<Self> {
        if !header.coding.eq_ignore_ascii_case(b"MJPG") {
            let coding = header.coding.escape_ascii();
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the video is coded as {coding}, expected MJPG; convert it: {}", super::convert("IN.avi")),
            ));
        }
        let Some(frame_us) = [header.frame_us, file_frame_us].into_iter().find(|us| FRAME_US.contains(us)) else {
            return Err(invalid("no frame rate"));
        };
        let stream = [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8];
        Ok(Avi { reader, stream, frame_us })
    }

    /// Time from one frame to the next.
    pub fn frame_us(&self) -> f64 {
        self.frame_us
    }

    /// Reads the next frame; returns how many empty ones lie before it (a recorder's dropped frames), None at the end.
    ///
    /// # Errors
    /// As [`Avi::open`].
    pub fn read_frame(&mut self, into: &mut Vec<u8>) -> io::Result<Option<u64>> {
        let mut empty = 0;
        loop {
            let Some((id, len)) = chunk_header(&mut self.reader)? else { return Ok(None) };
            match &id {
                // OpenDML files go on with more of the same
                b"RIFF" | b"LIST" => {
                    let mut kind = [0; 4];
                    self.reader.read_exact(&mut kind)?;
                    if !matches!(&kind, b"AVIX" | b"movi" | b"rec ") {
                        skip(&mut self.reader, padded(len).saturating_sub(4))?;
                    }
                }
                [a, b, b'd', b'c' | b'b'] if [*a, *b] == self.stream => {
                    if len == 0 {
                        empty += 1;
                        continue;
                    }
                    if u64::from(len) > MAX_JPEG_BYTES as u64 {
                        return Err(invalid("a frame is too long"));
                    }
                    into.clear();
                    let read = (&mut self.reader).take(u64::from(len)).read_to_end(into)?;
                    if read < len as usize {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    if !is_jpeg(into) {
                        return Err(invalid("a frame is no JPEG"));
                    }
                    // writers that stop at once leave out the last frame's padding
                    if len % 2 == 1 && !self.reader.fill_buf()?.is_empty() {
                        self.reader.consume(1);
                    }
                    return Ok(Some(empty));
                }
                _ => skip(&mut self.reader, padded(len))?,
            }
        }
    }
}

/// Identifier and length; None at the end of the file.
fn chunk_header(reader: &mut impl BufRead) -> io::Result<Option<([u8; 4], u32)>> {
    if reader.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut header = [0; 8];
    reader.read_exact(&mut header)?;
    let [id @ .., l0, l1, l2, l3] = header;
    Ok(Some((id, u32::from_le_bytes([l0, l1, l2, l3]))))
}

/// The first bytes of a chunk's content; the rest is skipped.
fn head<const N: usize>(reader: &mut impl Read, len: u32) -> io::Result<[u8; N]> {
    if (len as usize) < N {
        return Err(invalid("a header is too short"));
    }
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    skip(reader, padded(len) - N as u64)?;
    Ok(bytes)
}

fn padded(len: u32) -> u64 {
    u64::from(len) + u64::from(len % 2)
}

fn skip(reader: &mut impl Read, len: u64) -> io::Result<()> {
    let skipped = io::copy(&mut reader.take(len), &mut io::sink())?;
    if skipped < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
