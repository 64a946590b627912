//! Video files as a camera: Y4M, concatenated JPEGs (`.mjpeg`) and AVI with MJPEG. Anything else is for ffmpeg to convert.
//!
//! Frames keep the coding of the file where a [`PixelFormat`] exists for it, so that they take the same way as a device's.

mod avi;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::capture::jpeg::{is_jpeg, jpeg_size, read_jpeg};
use crate::capture::{Camera, CaptureError, open_file};
use crate::signal::{Frame, FrameSeq, PixelFormat};
use crate::time::Micros;

use avi::Avi;

/// Frames per second of a stream of JPEGs, which does not say.
pub const MJPEG_RATE_HZ: f64 = 25.0;

/// No camera delivers more pixels a side.
const MAX_SIDE: usize = 16_384;
const MAX_FRAME_BYTES: usize = 64 << 20;

/// A video file. Delivers as fast as it is read; the supervisor paces by the frames' times, which count from 0.
pub struct VideoCamera<R: Read = BufReader<File>> {
    name: String,
    stream: Stream<R>,
    /// Number of the next frame, and of frames delivered.
    seq: u64,
    delivered: u64,
    frame_us: f64,
}

enum Stream<R: Read> {
    Y4m(Box<y4m::Decoder<Counted<R>>>, Planes),
    Jpegs(R),
    Avi(Avi<R>),
}

/// Counts bytes: the Y4M decoder does not tell a frame that is cut off from the end of the file.
struct Counted<R> {
    reader: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(into)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What a Y4M file's planes become.
struct Planes {
    /// Bytes of the file that the decoder has taken.
    taken: Arc<AtomicU64>,
    width: usize,
    height: usize,
    coding: Coding,
    /// From full to limited range; None if the file is in limited range.
    range: Option<Box<LimitedRange>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Coding {
    Mono,
    C420,
    C422,
    C444,
}

/// Tables from full range to the limited one of BT.601, for luma and for chroma.
struct LimitedRange {
    y: [u8; 256],
    c: [u8; 256],
}

impl VideoCamera {
    /// Opens the file at `path`, at its own rate.
    ///
    /// # Errors
    /// `Fatal` if it is missing or in another format; the message has the command that converts it.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::from_reader(&path.display().to_string(), BufReader::with_capacity(64 << 10, open_file(path)?))
    }
}

impl<R: BufRead> VideoCamera<R> {
    /// Reads a video from `reader`; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`VideoCamera::open`].
    pub fn from_reader(name: &str, mut reader: R) -> Result<Self, CaptureError> {
        let fatal = |message: String| CaptureError::fatal(name, message);
        let start = reader.fill_buf().map_err(|e| fatal(format!("cannot be read: {e}")))?;
        let (stream, frame_us) = match start {
            [b'Y', b'U', b'V', b'4', b'M', b'P', b'E', b'G', ..] => open_y4m(reader).map_err(fatal)?,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => {
                let avi = Avi::open(reader).map_err(|e| fatal(describe(&e)))?;
                let frame_us = avi.frame_us();
                (Stream::Avi(avi), frame_us)
            }
            start if is_jpeg(start) => (Stream::Jpegs(reader), 1e6 / MJPEG_RATE_HZ),
            [] => return Err(fatal("is empty, expected a video".into())),
            _ => return Err(fatal(format!("is no Y4M, MJPEG or AVI file; convert it: {}", convert(name)))),
        };
        Ok(VideoCamera { name: name.into(), stream, seq: 0, delivered: 0, frame_us })
    }
}

/// The command that makes an AVI with MJPEG of any video.
fn convert(name: &str) -> String {
    format!("`ffmpeg -i {name} -an -c:v mjpeg -q:v 3 OUT.avi`")
}

fn open_y4m<R: BufRead>(mut reader: R) -> Result<(Stream<R>, f64), String> {
    let help = || format!("convert it: {}", convert("IN.y4m"));
    // the decoder multiplies the sides before it looks at them
    check_sides(reader.fill_buf().map_err(|e| format!("cannot be read: {e}"))?)?;
    let limits = y4m::Limits { bytes: MAX_FRAME_BYTES };
    let taken = Arc::new(AtomicU64::new(0));
    let reader = Counted { reader, bytes: Arc::clone(&taken) };
    let decoder = y4m::Decoder::new_with_limits(reader, limits).map_err(|e| match e {
        y4m::Error::UnknownColorspace => format!("the Y4M header has an unknown colour space; {}", help()),
        y4m::Error::OutOfMemory => format!("the Y4M frames have more than {MAX_FRAME_BYTES} bytes"),
        y4m::Error::EOF => "ends within the Y4M header".into(),
        e => format!("the Y4M header is malformed: {e}"),
    })?;
    use y4m::Colorspace as C;
    let coding = match decoder.get_colorspace() {
        C::Cmono => Coding::Mono,
        C::C420 | C::C420jpeg | C::C420paldv | C::C420mpeg2 => Coding::C420,
        C::C422 => Coding::C422,
        C::C444 => Coding::C444,
        other => return Err(format!("the Y4M frames are {other:?}, expected 8 bits; {}", help())),
    };
    let full = decoder.get_raw_params().split(|&b| b == b' ').any(|field| field == b"XCOLORRANGE=FULL");
    let (width, height) = (decoder.get_width(), decoder.get_height());
    let rate = decoder.get_framerate();
    if rate.num == 0 || rate.den == 0 {
        return Err(format!("the Y4M header has the rate {}:{}, expected more than 0", rate.num, rate.den));
    }
    let frame_us = 1e6 * rate.den as f64 / rate.num as f64;
    let planes = Planes { taken, width, height, coding, range: full.then(|| Box::new(LimitedRange::new())) };
    Ok((Stream::Y4m(Box::new(decoder), planes), frame_us))
}

/// Checks `W` and `H` of a Y4M header.
fn check_sides(start: &[u8]) -> Result<(), String> {
    let header = start.split(|&b| b == b'\n').next().unwrap_or_default();
    for field in header.split(|&b| b == b' ').skip(1) {
        let [b'W' | b'H', digits @ ..] = field else { continue };
        let side = std::str::from_utf8(digits).ok().and_then(|d| d.parse::<usize>().ok());
        if !side.is_some_and(|side| (1..=MAX_SIDE).contains(&side)) {
            let field = String::from_utf8_lossy(field);
            return Err(format!("the Y4M header has {field:.20}, expected 1 to {MAX_SIDE} pixels"));
        }
    }
    Ok(())
}

impl<R: BufRead + Send> Camera for VideoCamera<R> {
    fn capture(&mut self, into: &mut Frame) -> Result<(), CaptureError> {
        let read = match &mut self.stream {
            Stream::Y4m(decoder, planes) => read_y4m(decoder, planes, into).map(|more| more.then_some(0)),
            Stream::Jpegs(reader) => {
                read_jpeg(reader, &mut into.data).map(|more| more.then_some(0)).map_err(|e| describe(&e))
            }
            Stream::Avi(avi) => avi.read_frame(&mut into.data).map_err(|e| describe(&e)),
        };
        let failed = |what: &str| CaptureError::fatal(&*self.name, format!("{what} after {} frames", self.delivered));
        let skipped = match read {
            Ok(Some(skipped)) => skipped,
            Ok(None) if self.delivered == 0 => return Err(CaptureError::fatal(&*self.name, "holds no frame")),
            Ok(None) => return Err(CaptureError::end(&*self.name)),
            Err(message) => return Err(failed(&message)),
        };
        if !matches!(self.stream, Stream::Y4m(..)) {
            (into.width, into.height) = jpeg_size(&into.data).ok_or_else(|| failed("has a frame that is no JPEG"))?;
            (into.stride, into.format) = (0, PixelFormat::Jpeg);
        }
        self.seq += skipped;
        into.seq = FrameSeq(self.seq);
        into.t = Micros((self.seq as f64 * self.frame_us) as u64);
        self.seq += 1;
        self.delivered += 1;
        Ok(())
    }
}

fn describe(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => "is truncated".into(),
        io::ErrorKind::InvalidData => format!("is damaged: {e}"),
        io::ErrorKind::Unsupported => e.to_string(),
        _ => format!("cannot be read: {e}"),
    }
}

fn read_y4m<R: Read>(decoder: &mut y4m::Decoder<R>, planes: &Planes, into: &mut Frame) -> Result<bool, String> {
    let before = planes.taken.load(Ordering::Relaxed);
    match decoder.read_frame() {
        Ok(frame) => {
            planes.convert([frame.get_y_plane(), frame.get_u_plane(), frame.get_v_plane()], into);
            Ok(true)
        }
        Err(y4m::Error::EOF) if planes.taken.load(Ordering::Relaxed) == before => Ok(false),
        Err(y4m::Error::EOF) => Err("is truncated".into()),
        Err(e) => Err(format!("is damaged: {e}")),
    }
}

impl Planes {
    fn convert(&self, [y, u, v]: [&[u8]; 3], into: &mut Frame) {
        let (width, height) = (self.width, self.height);
        let half = width.div_ceil(2);
        let out = &mut into.data;
        out.clear();
        let (format, stride) = match self.coding {
            Coding::Mono => {
                out.extend_from_slice(y);
                (PixelFormat::Gray, width)
            }
            Coding::C420 => {
                // chroma rows may be one byte wider than luma rows
                let stride = half * 2;
                for row in y.chunks_exact(width) {
                    out.extend_from_slice(row);
                    out.resize(out.len() + stride - width, *row.last().unwrap_or(&0));
                }
                out.extend(u.iter().zip(v).flat_map(|(&u, &v)| [u, v]));
                self.limit(out, stride * height..);
                (PixelFormat::Nv12, stride)
            }
            Coding::C422 => {
                for (row, (u, v)) in y.chunks_exact(width).zip(u.chunks_exact(half).zip(v.chunks_exact(half))) {
                    for (pair, (&u, &v)) in row.chunks(2).zip(u.iter().zip(v)) {
                        out.extend([pair[0], u, pair[pair.len() - 1], v]);
                    }
                }
                if let Some(range) = &self.range {
                    for [y0, u, y1, v] in out.as_chunks_mut().0 {
                        (*y0, *y1) = (range.y[usize::from(*y0)], range.y[usize::from(*y1)]);
                        (*u, *v) = (range.c[usize::from(*u)], range.c[usize::from(*v)]);
                    }
                }
                (PixelFormat::Yuyv, half * 4)
            }
            Coding::C444 => {
                let full = self.range.is_some();
                out.extend(y.iter().zip(u.iter().zip(v)).flat_map(|(&y, (&u, &v))| rgb(y, u, v, full)));
                (PixelFormat::Rgb, width * 3)
            }
        };
        (into.width, into.height) = (width as u32, height as u32);
        (into.stride, into.format) = (stride as u32, format);
    }

    /// Brings the luma before `chroma` and the chroma from there on into limited range.
    fn limit(&self, out: &mut [u8], chroma: std::ops::RangeFrom<usize>) {
        let Some(range) = &self.range else { return };
        let (luma, chroma) = out.split_at_mut(chroma.start);
        luma.iter_mut().for_each(|y| *y = range.y[usize::from(*y)]);
        chroma.iter_mut().for_each(|c| *c = range.c[usize::from(*c)]);
    }
}

impl LimitedRange {
    fn new() -> Self {
        let scale = |i: usize, span: i32, middle: i32, zero: i32| {
            (zero as f32 + (i as i32 - middle) as f32 * span as f32 / 255.0).round() as u8
        };
        LimitedRange {
            y: std::array::from_fn(|i| scale(i, 219, 0, 16)),
            c: std::array::from_fn(|i| scale(i, 224, 128, 128)),
        }
    }
}

/// BT.601 (ITU-R BT.601-7, 2.5.1 and annex), 8 bit.
fn rgb(y: u8, u: u8, v: u8, full: bool) -> [u8; 3] {
    let (y, u, v) = (f32::from(y), f32::from(u) - 128.0, f32::from(v) - 128.0);
    let (y, c) = if full { (y, 1.0) } else { ((y - 16.0) * 255.0 / 219.0, 255.0 / 224.0) };
    let to_byte = |x: f32| x.round().clamp(0.0, 255.0) as u8;
    [to_byte(y + 1.402 * c * v), to_byte(y - 0.344_136 * c * u - 0.714_136 * c * v), to_byte(y + 1.772 * c * u)]
}

#[cfg(test)]
mod tests;
