//! `GET /api/preview.jpg`: the camera's newest picture for the integrator, if the configuration has it on.
//!
//! Nothing is made unless somebody asks, and at most one picture in [`EVERY`], which all who ask meanwhile share. A camera's JPEG goes as it
//! is; another picture is made small, and a PNG. Nothing is written down, and the picture is forgotten when it is too old to be shared.

use std::sync::Arc;
use std::time::Duration;

use attendant_pixels::color::rgb_of_yuv;
use axum::body::Bytes;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::signal::{Frame, MUTED, ModalityState, PixelFormat, Preview};
use crate::time::Micros;

use super::Shared;

/// Shortest time between two pictures.
pub(super) const EVERY: Micros = Micros::from_ms(500);

/// How long the next picture is waited for.
const WAIT: Duration = Duration::from_millis(1500);

/// How often it is looked whether it has come.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// Largest size of a picture that is made here.
const WIDTH_MAX: usize = 640;
const HEIGHT_MAX: usize = 480;

/// A picture as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub content_type: &'static str,
    pub bytes: Bytes,
}

/// What the server holds of pictures.
#[derive(Debug)]
pub(super) struct Pictures {
    preview: Arc<Preview>,
    /// The last one, when it was made, or why there was none. Whoever makes the next one holds it.
    last: Mutex<Option<(Micros, Result<Picture, String>)>>,
}

impl Pictures {
    pub fn new(preview: Arc<Preview>) -> Self {
        Pictures { preview, last: Mutex::new(None) }
    }

    /// The newest picture.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub async fn newest(&self, shared: &Shared) -> Result<Picture, String> {
        let mut last = self.last.lock().await;
        if let Some(why) = self.why_hidden(shared) {
            *last = None;
            return Err(why);
        }
        let now = shared.clock.now();
        if let Some((made, result)) = &*last
            && now.since(*made) < EVERY
        {
            return result.clone();
        }
        let mut result = self.next().await;
        if let Some(why) = self.why_hidden(shared) {
            result = Err(why);
        }
        *last = Some((now, result.clone()));
        result
    }

    /// Lets go of a picture that is too old to be shared.
    pub fn forget(&self, now: Micros) {
        if let Ok(mut last) = self.last.try_lock() {
            last.take_if(|(made, _)| now.since(*made) >= EVERY);
        }
    }

    /// Waits for the next picture of the camera.
    async fn next(&self) -> Result<Picture, String> {
        self.preview.ask();
        // a client that goes away meanwhile wants none
        let asked = Asked(&self.preview);
        for _ in 0..WAIT.as_millis() / LOOK_EVERY.as_millis() {
            if let Some(result) = self.preview.take(picture) {
                return result;
            }
            sleep(LOOK_EVERY).await;
        }
        drop(asked);
        Err(format!("{} has given no picture for {} ms", self.preview.source, WAIT.as_millis()))
    }

    /// Why the camera's pictures are not to be seen: it is muted, or has failed, which it also has while the mute switch is on.
    fn why_hidden(&self, shared: &Shared) -> Option<String> {
        let source = &self.preview.source;
        if shared.monitor.read(|s| s.muted.contains(source)) {
            return Some(format!("{source} is {MUTED}"));
        }
        let inputs = shared.facts.inputs.iter().filter(|(_, of, _)| of == source);
        let view = shared.view();
        inputs.into_iter().find_map(|(modality, ..)| match view.said(modality)? {
            (ModalityState::Failed, reason) => Some(format!("{source} has failed: {reason}")),
            (ModalityState::Absent, MUTED) => Some(format!("{source} is {MUTED}")),
            _ => None,
        })
    }
}

/// Gives up when it is dropped.
struct Asked<'a>(&'a Preview);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// A frame as it is sent.
fn picture(frame: &Frame) -> Result<Picture, String> {
    if frame.format == PixelFormat::Jpeg {
        return Ok(Picture { content_type: "image/jpeg", bytes: Bytes::copy_from_slice(&frame.data) });
    }
    let bytes = png_of(frame).ok_or("the camera's picture is cut off")?;
    Ok(Picture { content_type: "image/png", bytes: bytes.into() })
}

/// A PNG of every so many pixels; none if the frame has fewer bytes than its size says.
fn png_of(frame: &Frame) -> Option<Vec<u8>> {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let step = width.div_ceil(WIDTH_MAX).max(height.div_ceil(HEIGHT_MAX)).max(1);
    let (columns, rows) = (width.div_ceil(step), height.div_ceil(step));
    let is_gray = frame.format == PixelFormat::Gray;
    let mut pixels = Vec::with_capacity(columns * rows * if is_gray { 1 } else { 3 });
    for y in (0..height).step_by(step) {
        for x in (0..width).step_by(step) {
            if is_gray {
                pixels.push(*frame.data.get(y * frame.stride as usize + x)?);
            } else {
                pixels.extend_from_slice(&rgb(frame, x, y)?);
            }
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, columns as u32, rows as u32);
    encoder.set_color(if is_gray { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header().ok()?.write_image_data(&pixels).ok()?;
    Some(bytes)
}

/// The pixel at column `x` of row `y`; none beyond the frame's bytes.
fn rgb(frame: &Frame, x: usize, y: usize) -> Option<[u8; 3]> {
    let (data, stride) = (&frame.data, frame.stride as usize);
    let row = y * stride;
    let at = |i: usize| data.get(i).copied();
    Some(match frame.format {
        PixelFormat::Rgb => [at(row + 3 * x)?, at(row + 3 * x + 1)?, at(row + 3 * x + 2)?],
        PixelFormat::Yuyv => {
            let pair = row + 4 * (x / 2);
            bytes_of_yuv(at(row + 2 * x)?, at(pair + 1)?, at(pair + 3)?)
        }
        PixelFormat::Nv12 => {
            let pair = (frame.height as usize + y / 2) * stride + 2 * (x / 2);
            bytes_of_yuv(at(row + x)?, at(pair)?, at(pair + 1)?)
        }
        PixelFormat::Gray | PixelFormat::Jpeg => return None,
    })
}

fn bytes_of_yuv(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    rgb_of_yuv(y.into(), cb.into(), cr.into()).map(|v| v.round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(format: PixelFormat, [width, height, stride]: [u32; 3], data: &[u8]) -> Frame {
        Frame { width, height, stride, format, data: data.to_vec(), ..Frame::default() }
    }

    /// Width, height and bytes of a PNG.
    fn decoded(bytes: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        pixels.truncate(info.buffer_size());
        (info.width, info.height, pixels)
    }

    #[test]
    fn a_picture_is_what_the_camera_gave() {
        let jpeg = [0xff, 0xd8, 1, 2, 0xff, 0xd9];
        let same = picture(&frame(PixelFormat::Jpeg, [9, 9, 0], &jpeg)).unwrap();
        assert_eq!(same, Picture { content_type: "image/jpeg", bytes: Bytes::copy_from_slice(&jpeg) });
        // limited-range red is 81 90 240
        let cases: [(Frame, &[u8]); 4] = [
            (frame(PixelFormat::Gray, [2, 2, 3], &[1, 2, 0, 3, 4, 0]), &[1, 2, 3, 4]),
            (frame(PixelFormat::Rgb, [1, 2, 4], &[1, 2, 3, 0, 4, 5, 6]), &[1, 2, 3, 4, 5, 6]),
            (frame(PixelFormat::Yuyv, [2, 1, 4], &[81, 90, 81, 240]), &[255, 0, 0, 255, 0, 0]),
            (
                frame(PixelFormat::Nv12, [2, 2, 2], &[81, 81, 16, 235, 128, 128]),
                &[76, 76, 76, 76, 76, 76, 0, 0, 0, 255, 255, 255],
            ),
        ];
        for (frame, expected) in cases {
            let made = picture(&frame).unwrap();
            let (width, height, pixels) = decoded(&made.bytes);
            assert_eq!((made.content_type, width, height), ("image/png", frame.width, frame.height));
            let is_near =
                pixels.len() == expected.len() && pixels.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 2);
            assert!(is_near, "{:?}: {pixels:?}, expected {expected:?}", frame.format);
        }
    }

    #[test]
    fn a_large_picture_is_made_small_and_a_short_one_is_refused() {
        let large = picture(&frame(PixelFormat::Gray, [1920, 1080, 1920], &vec![9; 1920 * 1080])).unwrap();
        assert_eq!((decoded(&large.bytes).0, decoded(&large.bytes).1), (640, 360));
        for format in [PixelFormat::Gray, PixelFormat::Rgb, PixelFormat::Yuyv, PixelFormat::Nv12] {
            let short = picture(&frame(format, [4, 4, 4], &[0; 15]));
            assert_eq!(short, Err("the camera's picture is cut off".into()), "{format:?}");
        }
        assert!(picture(&frame(PixelFormat::Gray, [0, 0, 0], &[])).is_err(), "a PNG has pixels");
    }
}
