//! Image files: one picture for evaluation, or a still or a folder of them as a camera.
//!
//! A JPEG passes through undecoded, as it would from a camera; PNG and PGM/PPM become grey or RGB. What a file is, its first
//! bytes say, not its name.

use std::io::Read;
use std::mem;
use std::path::{Path, PathBuf};

use crate::capture::jpeg::{is_jpeg, jpeg_size};
use crate::capture::{Camera, CaptureError, ErrorKind, open_file};
use crate::signal::{Frame, PixelFormat};
use crate::time::Micros;

/// Larger files are refused.
pub const MAX_IMAGE_BYTES: u64 = 64 << 20;
/// Larger pictures are refused.
pub const MAX_PIXELS: u64 = 32 << 20;

/// Reads the picture at `path` into `into`, except for its time and number.
///
/// # Errors
/// `Fatal` if the file is missing, damaged or of another format; the message has the command that converts it.
pub fn read_image(path: &Path, into: &mut Frame) -> Result<(), CaptureError> {
    let name = path.display().to_string();
    into.data.clear();
    let read = open_file(path)?
        .take(MAX_IMAGE_BYTES + 1)
        .read_to_end(&mut into.data)
        .map_err(|e| CaptureError::fatal(&*name, format!("cannot be read: {e}")))?;
    if read as u64 > MAX_IMAGE_BYTES {
        return Err(CaptureError::fatal(name, format!("has more than {MAX_IMAGE_BYTES} bytes")));
    }
    decode_image(into).map_err(|message| CaptureError::fatal(name, message))
}

/// Turns the file in `frame.data` into a picture.
///
/// # Errors
/// What is wrong with it.
pub fn decode_image(frame: &mut Frame) -> Result<(), String> {
    let bytes = &frame.data[..];
    if is_jpeg(bytes) {
        let (width, height) = jpeg_size(bytes).ok_or("is a JPEG without a frame header: the file is damaged")?;
        frame.format = PixelFormat::Jpeg;
        frame.stride = 0;
        return set_size(frame, width, height);
    }
    let file = mem::take(&mut frame.data);
    match &file[..] {
        [0x89, b'P', b'N', b'G', ..] => decode_png(&file, frame),
        [b'P', b'5', c, ..] if c.is_ascii_whitespace() || *c == b'#' => decode_pnm(&file, frame, PixelFormat::Gray),
        [b'P', b'6', c, ..] if c.is_ascii_whitespace() || *c == b'#' => decode_pnm(&file, frame, PixelFormat::Rgb),
        [] => Err("is empty, expected a picture".into()),
        other => Err(format!(
            "is {}, expected JPEG, PNG or binary PGM/PPM; convert it: `ffmpeg -i IN OUT.png`",
            other_format(other)
        )),
    }
}

fn other_format(magic: &[u8]) -> &'static str {
    match magic {
        [b'G', b'I', b'F', b'8', ..] => "GIF",
        [b'B', b'M', ..] => "BMP",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "WebP",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "TIFF",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "HEIF, AVIF or MP4",
        [b'P', b'1'..=b'4' | b'7', ..] => "another netpbm format",
        _ => "no picture format known here",
    }
}

fn set_size(frame: &mut Frame, width: u32, height: u32) -> Result<(), String> {
    if width == 0 || height == 0 || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("is {width}x{height}, expected 1 to {MAX_PIXELS} pixels"));
    }
    (frame.width, frame.height) = (width, height);
    Ok(())
}

fn decode_png(file: &[u8], frame: &mut Frame) -> Result<(), String> {
    let damaged = |e: png::DecodingError| format!("the PNG is damaged: {e}");
    let limits = png::Limits { bytes: 128 << 20 };
    let mut decoder = png::Decoder::new_with_limits(std::io::Cursor::new(file), limits);
    // palettes and low depths to 8 bit grey or RGB, transparency to an alpha channel
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let info = decoder.read_header_info().map_err(damaged)?;
    set_size(frame, info.width, info.height)?;
    let mut reader = decoder.read_info().map_err(damaged)?;
    let len = reader.output_buffer_size().ok_or("the PNG is too large")?;
    let pixels = &mut frame.data;
    pixels.resize(len, 0);
    let info = reader.next_frame(pixels).map_err(damaged)?;
    pixels.truncate(info.buffer_size());
    let channels = match info.color_type {
        png::ColorType::Grayscale => 1,
        png::ColorType::GrayscaleAlpha => flatten::<1>(pixels),
        png::ColorType::Rgb => 3,
        png::ColorType::Rgba => flatten::<3>(pixels),
        png::ColorType::Indexed => return Err("the PNG's palette was not expanded".into()),
    };
    set_layout(frame, if channels == 1 { PixelFormat::Gray } else { PixelFormat::Rgb });
    Ok(())
}

/// Lays pixels of `N` channels and alpha over black, in place.
fn flatten<const N: usize>(pixels: &mut Vec<u8>) -> usize {
    let n = pixels.len() / (N + 1);
    for i in 0..n {
        let alpha = u32::from(pixels[i * (N + 1) + N]);
        for c in 0..N {
            let value = u32::from(pixels[i * (N + 1) + c]);
            pixels[i * N + c] = ((value * alpha + 127) / 255) as u8;
        }
    }
    pixels.truncate(n * N);
    N
}

fn set_layout(frame: &mut Frame, format: PixelFormat) {
    frame.format = format;
    frame.stride = frame.width * if format == PixelFormat::Rgb { 3 } else { 1 };
}

/// Netpbm's binary formats P5 and P6 (netpbm.sourceforge.net/doc/pgm.html), the first picture of the file.
fn decode_pnm(file: &[u8], frame: &mut Frame, format: PixelFormat) -> Result<(), String> {
    let mut rest = &file[2..];
    let mut number = || -> Option<u32> {
        loop {
            rest = rest.trim_ascii_start();
            let Some(comment) = rest.strip_prefix(b"#") else { break };
            rest = &comment[comment.iter().position(|&c| c == b'\n')?..];
        }
        let digits = rest.iter().position(|c| !c.is_ascii_digit()).filter(|n| (1..=6).contains(n))?;
        let (number, tail) = rest.split_at(digits);
        rest = tail;
        std::str::from_utf8(number).ok()?.parse().ok()
    };
    let (Some(width), Some(height), Some(max)) = (number(), number(), number()) else {
        return Err("the netpbm header is malformed, expected width, height and largest value".into());
    };
    set_size(frame, width, height)?;
    if !(1..=65_535).contains(&max) {
        return Err(format!("the netpbm header says that the largest value is {max}, expected 1 to 65535"));
    }
    // one white space ends the header
    let samples = rest.get(1..).unwrap_or(&[]);
    set_layout(frame, format);
    let wanted = frame.stride as usize * height as usize;
    let bytes_each = if max > 255 { 2 } else { 1 };
    let Some(samples) = samples.get(..wanted * bytes_each) else {
        return Err(format!("is truncated: {} bytes of pixels, expected {}", samples.len(), wanted * bytes_each));
    };
    let scale = |value: u32| ((value.min(max) * 255 + max / 2) / max) as u8;
    frame.data.clear();
    if bytes_each == 2 {
        frame.data.extend(samples.chunks_exact(2).map(|s| scale(u32::from(u16::from_be_bytes([s[0], s[1]])))));
    } else if max == 255 {
        frame.data.extend_from_slice(samples);
    } else {
        frame.data.extend(samples.iter().map(|&s| scale(u32::from(s))));
    }
    Ok(())
}

/// Image files as a camera: a still for ever, or the files of a folder in the order of their names, once.
///
/// Delivers as fast as it is read; the supervisor paces by the frames' times, which count from 0 in steps of the rate.
pub struct ImageCamera {
    name: String,
    rate_hz: f32,
    seq: u64,
    source: Source,
}

enum Source {
    Still(Box<Frame>),
    Folder(std::vec::IntoIter<PathBuf>),
}

impl ImageCamera {
    /// Opens a picture, or a folder of nothing but pictures (hidden files are left out).
    ///
    /// # Errors
    /// `Fatal` if the picture is missing or unreadable, the folder is empty, or the rate is not positive.
    pub fn open(path: &Path, rate_hz: f32) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        if !(rate_hz.is_finite() && rate_hz > 0.0) {
            return Err(CaptureError::fatal(name, format!("the rate is {rate_hz} Hz, expected more than 0")));
        }
        let source = if path.is_dir() {
            let files = list(path).map_err(|e| CaptureError::fatal(&*name, format!("cannot be listed: {e}")))?;
            if files.is_empty() {
                return Err(CaptureError::fatal(name, "is a folder without files, expected pictures"));
            }
            Source::Folder(files.into_iter())
        } else {
            let mut frame = Box::<Frame>::default();
            read_image(path, &mut frame)?;
            Source::Still(frame)
        };
        Ok(ImageCamera { name, rate_hz, seq: 0, source })
    }
}

fn list(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if path.is_file() && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl Camera for ImageCamera {
    /// A file of a folder that cannot be read is an error to retry: the next call delivers the next file.
    fn capture(&mut self, into: &mut Frame) -> Result<(), CaptureError> {
        // a picture that cannot be read leaves a hole in time and number, as a camera would
        let seq = self.seq;
        match &mut self.source {
            Source::Still(frame) => into.clone_from(frame),
            Source::Folder(files) => {
                let path = files.next().ok_or_else(|| CaptureError::end(&*self.name))?;
                self.seq += 1;
                read_image(&path, into).map_err(|e| CaptureError { kind: ErrorKind::Retry, ..e })?;
                self.seq -= 1;
            }
        }
        self.seq += 1;
        into.seq.0 = seq;
        into.t = Micros((seq as f64 * 1e6 / f64::from(self.rate_hz)) as u64);
        Ok(())
    }

    fn is_endless(&self) -> bool {
        matches!(self.source, Source::Still(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(file: &[u8]) -> Result<Frame, String> {
        let mut frame = Frame { data: file.into(), ..Frame::default() };
        decode_image(&mut frame).map(|()| frame)
    }

    fn png(width: u32, height: u32, color: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == png::ColorType::Indexed {
            encoder.set_palette(vec![1, 2, 3, 250, 251, 252]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        out
    }

    /// The markers of a 3x2 JPEG, without picture data that anyone could decode.
    fn jpeg() -> Vec<u8> {
        let mut out = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc0\x00\x0b\x08\x00\x02\x00\x03\x01\x01\x11\x00".to_vec();
        out.extend(b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x12\x34\xff\x00\x56\xff\xd9");
        out
    }

    #[test]
    fn every_format_becomes_grey_or_rgb_of_8_bit() {
        use png::BitDepth::{Eight, One, Sixteen};
        use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        let (grey, rgb) = (PixelFormat::Gray, PixelFormat::Rgb);
        let cases: &[(&str, Vec<u8>, PixelFormat, &[u8])] = &[
            ("grey", png(2, 1, Grayscale, Eight, &[7, 9]), grey, &[7, 9]),
            ("1 bit", png(2, 1, Grayscale, One, &[0x40]), grey, &[0, 255]),
            ("16 bit", png(2, 1, Grayscale, Sixteen, &[7, 255, 9, 0]), grey, &[7, 9]),
            ("grey alpha", png(2, 1, GrayscaleAlpha, Eight, &[200, 128, 200, 0]), grey, &[100, 0]),
            ("rgb", png(2, 1, Rgb, Eight, &[1, 2, 3, 4, 5, 6]), rgb, &[1, 2, 3, 4, 5, 6]),
            ("rgba", png(2, 1, Rgba, Eight, &[1, 2, 3, 255, 4, 5, 6, 0]), rgb, &[1, 2, 3, 0, 0, 0]),
            ("palette", png(2, 1, Indexed, Eight, &[1, 0]), rgb, &[250, 251, 252, 1, 2, 3]),
            ("pgm", b"P5 2 1 255\n\x07\x09".to_vec(), grey, &[7, 9]),
            ("pgm, comment", b"P5\n# by hand\n2 1\n# more\n255\n\x07\x09".to_vec(), grey, &[7, 9]),
            ("pgm, to 15", b"P5 2 1 15 \x0f\x01".to_vec(), grey, &[255, 17]),
            ("pgm, 16 bit", b"P5 2 1 65535 \xff\xff\x00\x80".to_vec(), grey, &[255, 0]),
            ("ppm", b"P6 2 1 255 abcdef".to_vec(), rgb, b"abcdef"),
        ];
        for (name, file, format, data) in cases {
            let frame = decode(file).unwrap_or_else(|e| panic!("{name}: {e}"));
            let stride = data.len() as u32;
            assert_eq!((frame.width, frame.height, frame.stride, frame.format), (2, 1, stride, *format), "{name}");
            assert_eq!(frame.data, *data, "{name}");
        }
    }

    #[test]
    fn a_jpeg_passes_through_with_the_size_of_its_header() {
        let frame = decode(&jpeg()).unwrap();
        assert_eq!((frame.width, frame.height, frame.stride, frame.format), (3, 2, 0, PixelFormat::Jpeg));
        assert_eq!(frame.data, jpeg());
    }

    #[test]
    fn errors_say_what_it_is_and_what_was_expected() {
        let cases: &[(&str, Vec<u8>, &str)] = &[
            ("nothing", vec![], "is empty, expected a picture"),
            ("GIF", b"GIF89a".to_vec(), "is GIF, expected JPEG, PNG or binary PGM/PPM; convert it"),
            ("text", b"hello".to_vec(), "is no picture format known here"),
            ("a JPEG's start", b"\xff\xd8\xff\xe0\x00\x10".to_vec(), "is a JPEG without a frame header"),
            ("a PNG's start", b"\x89PNG\r\n\x1a\n".to_vec(), "the PNG is damaged"),
            ("short", b"P5 3 1 255 ab".to_vec(), "is truncated: 2 bytes of pixels, expected 3"),
            ("no size", b"P5 0 1 255 ab".to_vec(), "is 0x1, expected 1 to"),
            ("too large", b"P6 99999 99999 255 ab".to_vec(), "is 99999x99999, expected 1 to"),
            ("no number", b"P5 a".to_vec(), "the netpbm header is malformed"),
            ("only a comment", b"P5 #".to_vec(), "the netpbm header is malformed"),
            ("no white", b"P5 1 1 0 a".to_vec(), "the largest value is 0"),
            ("text netpbm", b"P2 1 1 255 7".to_vec(), "is another netpbm format"),
        ];
        for (name, file, expect) in cases {
            let error = decode(file).expect_err(name);
            assert!(error.contains(expect), "{name}: {error}");
        }
    }

    #[test]
    fn a_folder_is_played_in_the_order_of_names_and_bad_files_leave_a_hole() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("b.jpg", &b"P5 1 1 255 b"[..]), ("a", b"P5 1 1 255 a"), ("aa.png", b"?"), (".x", b"?")] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let mut camera = ImageCamera::open(dir.path(), 4.0).unwrap();
        let mut frame = Frame::default();
        let mut got = Vec::new();
        loop {
            match camera.capture(&mut frame) {
                Ok(()) => got.push(format!("{} {} {}", frame.seq.0, frame.t, frame.data[0] as char)),
                Err(e) if e.kind == ErrorKind::Retry => {
                    assert!(e.to_string().contains("aa.png: is no picture"), "{e}");
                    got.push("retry".into());
                }
                Err(e) => break assert_eq!(e.kind, ErrorKind::End),
            }
        }
        assert_eq!(got, ["0 0.000 s a", "retry", "2 0.500 s b"]);
    }

    #[test]
    fn what_is_no_camera_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let still = dir.path().join("still.png");
        let open = |path: &Path, rate| ImageCamera::open(path, rate).err().expect("opened").to_string();
        assert!(open(dir.path(), 5.0).contains("is a folder without files"));
        assert!(open(&still, 5.0).contains("cannot be opened"));
        std::fs::write(&still, b"P5 1 1 255 a").unwrap();
        assert!(open(&still, 0.0).contains("the rate is 0 Hz, expected more than 0"));
        assert!(open(&still, f32::NAN).contains("the rate is NaN Hz"));
    }

    #[test]
    fn damage_ends_in_an_error_or_a_consistent_picture_but_never_in_a_panic() {
        let rgba: Vec<u8> = (0..=255).collect();
        let good = [
            png(8, 8, png::ColorType::Rgba, png::BitDepth::Eight, &rgba),
            png(8, 8, png::ColorType::Indexed, png::BitDepth::One, &[0xa5; 8]),
            jpeg(),
            b"P6 2 2 300 0123456789abcdefghijklmn".to_vec(),
        ];
        let check = |file: &[u8]| {
            if let Ok(frame) = decode(file) {
                let raw = frame.stride as usize * frame.height as usize;
                assert!(frame.format == PixelFormat::Jpeg || frame.data.len() == raw, "{frame:?}");
            }
        };
        for file in good {
            for cut in 0..file.len() {
                check(&file[..cut]);
            }
            for at in 0..file.len() {
                for flip in [0x01, 0x10, 0x80, 0xff] {
                    let mut bytes = file.clone();
                    bytes[at] ^= flip;
                    check(&bytes);
                }
            }
        }
    }
}
