//! Pixel formats of cameras: which of the offered ones suits the board, and how its bytes become a [`Frame`].
//!
//! Called by the camera drivers. Formats that no preprocessor reads (UYVY, YU12) are reordered while they are copied; no
//! pixel changes its value, and nothing is scaled here.

use crate::board::FrameFormat;
use crate::signal::{Frame, PixelFormat};

/// Share of the wanted rate from which a mode counts as fast enough: cameras say 29.97 and mean 30.
const RATE_ENOUGH: f32 = 0.9;

/// Longest side of a frame: beyond any sensor, and the sizes of its planes stay far from overflowing.
const SIDE_MAX: u32 = 1 << 16;

/// Longest row with its padding.
const STRIDE_MAX: u32 = 4 * SIDE_MAX;

/// What a camera can deliver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mode {
    /// Layout of the bytes.
    pub format: FrameFormat,
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames per second; None if the driver does not say.
    pub rate_hz: Option<f32>,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}x{}", name_of(self.format), self.width, self.height)?;
        self.rate_hz.map_or(Ok(()), |hz| write!(f, " at {hz:.0} Hz"))
    }
}

/// What the board asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wish {
    /// Formats that may be taken, the best first.
    pub formats: &'static [FrameFormat],
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames per second.
    pub rate_hz: u32,
}

/// The word for a format in board files and in `attendant.toml`.
#[must_use]
pub const fn name_of(format: FrameFormat) -> &'static str {
    match format {
        FrameFormat::Mjpeg => "mjpeg",
        FrameFormat::Yuyv => "yuyv",
        FrameFormat::Uyvy => "uyvy",
        FrameFormat::Nv12 => "nv12",
        FrameFormat::Yu12 => "yu12",
        FrameFormat::Gray => "gray",
        FrameFormat::Rgb => "rgb",
    }
}

/// The mode that suits best: fast enough before large enough before the board's order of formats, then the least excess of
/// pixels and of frames. None if no format of the wish is offered.
#[must_use]
pub fn choose(offered: &[Mode], wish: &Wish) -> Option<Mode> {
    let wanted_hz = wish.rate_hz as f32;
    let cost = |mode: &Mode| {
        let rank = wish.formats.iter().position(|f| *f == mode.format)?;
        let is_slow = mode.rate_hz.is_some_and(|hz| hz < wanted_hz * RATE_ENOUGH);
        let is_small = mode.width < wish.width || mode.height < wish.height;
        let area = u64::from(mode.width) * u64::from(mode.height);
        let off = area.abs_diff(u64::from(wish.width) * u64::from(wish.height));
        let excess_hz = mode.rate_hz.map_or(0.0, |hz| (hz - wanted_hz).abs());
        Some((is_slow, is_small, rank, off, (excess_hz * 100.0) as u64))
    };
    let all = offered.iter().filter_map(|m| Some((cost(m)?, m)));
    all.min_by_key(|(cost, _)| *cost).map(|(_, mode)| *mode)
}

/// The size nearest to `wanted` that a driver with sizes from `min` to `max` in steps of `step` has.
#[must_use]
pub fn nearest_step(wanted: u32, min: u32, max: u32, step: u32) -> u32 {
    let wanted = wanted.clamp(min, max.max(min));
    min + (wanted - min) / step.max(1) * step.max(1)
}

/// Bytes of a frame without padding; none for MJPEG, whose frames differ, and for a size that no frame has.
#[must_use]
pub fn frame_bytes(format: FrameFormat, width: u32, height: u32) -> Option<usize> {
    if width.max(height) > SIDE_MAX {
        return None;
    }
    let (width, height) = (width as usize, height as usize);
    let chroma = width.div_ceil(2) * height.div_ceil(2);
    match format {
        FrameFormat::Mjpeg => None,
        FrameFormat::Yuyv | FrameFormat::Uyvy => Some(width.div_ceil(2) * 4 * height),
        FrameFormat::Nv12 => Some(width.next_multiple_of(2) * (height + height.div_ceil(2))),
        FrameFormat::Yu12 => Some(width * height + 2 * chroma),
        FrameFormat::Gray => Some(width * height),
        FrameFormat::Rgb => Some(width * height * 3),
    }
}

/// How a driver lays out a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Order of the bytes.
    pub format: FrameFormat,
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row of the first plane to the next; at most 0 where rows are not padded.
    pub stride: u32,
}

impl Layout {
    /// Bytes of a row of the first plane without padding, and rows of all planes of that width.
    fn rows(&self) -> (usize, usize) {
        let (width, height) = (self.width as usize, self.height as usize);
        match self.format {
            FrameFormat::Mjpeg => (0, 0),
            FrameFormat::Yuyv | FrameFormat::Uyvy => (width.div_ceil(2) * 4, height),
            FrameFormat::Nv12 => (width.next_multiple_of(2), height + height.div_ceil(2)),
            FrameFormat::Yu12 | FrameFormat::Gray => (width, height),
            FrameFormat::Rgb => (width * 3, height),
        }
    }

    /// Copies `bytes` into `into`, whose time and number are the caller's.
    ///
    /// # Errors
    /// In words, for a frame that is shorter than its layout says, or no JPEG, and for a layout of no or of impossible size.
    pub fn store(&self, bytes: &[u8], into: &mut Frame) -> Result<(), String> {
        (into.width, into.height) = (self.width, self.height);
        if self.format == FrameFormat::Mjpeg {
            if !bytes.starts_with(&[0xff, 0xd8]) {
                return Err(format!("a frame of {} bytes that does not begin as a JPEG", bytes.len()));
            }
            (into.format, into.stride) = (PixelFormat::Jpeg, 0);
            refill(&mut into.data, bytes);
            return Ok(());
        }
        let (width, height, sides) = (self.width, self.height, 1..=SIDE_MAX);
        if !sides.contains(&width) || !sides.contains(&height) || self.stride > STRIDE_MAX {
            return Err(format!(
                "a frame of {width} x {height} in rows of {} bytes, expected sides of 1 to {SIDE_MAX} and rows of at most {STRIDE_MAX}",
                self.stride
            ));
        }
        let (row, rows) = self.rows();
        let stride = (self.stride as usize).max(row);
        into.stride = stride as u32;
        let mut needed = stride * rows.saturating_sub(1) + row;
        if self.format == FrameFormat::Yu12 {
            needed = stride * self.height as usize + 2 * stride.div_ceil(2) * self.height.div_ceil(2) as usize;
        }
        let Some(bytes) = bytes.get(..needed) else {
            return Err(format!("a frame of {} bytes, expected {needed} for {self:?}", bytes.len()));
        };
        match self.format {
            FrameFormat::Mjpeg => unreachable!("handled above"),
            FrameFormat::Yuyv => (into.format, ()) = (PixelFormat::Yuyv, refill(&mut into.data, bytes)),
            FrameFormat::Nv12 => (into.format, ()) = (PixelFormat::Nv12, refill(&mut into.data, bytes)),
            FrameFormat::Gray => (into.format, ()) = (PixelFormat::Gray, refill(&mut into.data, bytes)),
            FrameFormat::Rgb => (into.format, ()) = (PixelFormat::Rgb, refill(&mut into.data, bytes)),
            FrameFormat::Uyvy => {
                into.format = PixelFormat::Yuyv;
                refill(&mut into.data, bytes);
                into.data.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
            }
            FrameFormat::Yu12 => {
                into.format = PixelFormat::Nv12;
                into.stride = stride.next_multiple_of(2) as u32;
                interleave(bytes, stride, self.height as usize, &mut into.data);
            }
        }
        Ok(())
    }
}

fn refill(data: &mut Vec<u8>, bytes: &[u8]) {
    data.clear();
    data.extend_from_slice(bytes);
}

/// Three planes to two: V4L2 gives the chroma planes of YU12 half the stride of the first.
fn interleave(bytes: &[u8], stride: usize, height: usize, data: &mut Vec<u8>) {
    let (half, half_rows) = (stride.div_ceil(2), height.div_ceil(2));
    let (luma, chroma) = bytes.split_at(stride * height);
    let (u, v) = chroma.split_at(half * half_rows);
    data.clear();
    for row in luma.chunks_exact(stride) {
        data.extend_from_slice(row);
        data.resize(data.len() + stride % 2, 0);
    }
    data.extend(u.iter().zip(v).flat_map(|(u, v)| [*u, *v]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use FrameFormat::{Gray, Mjpeg, Nv12, Rgb, Uyvy, Yu12, Yuyv};

    fn mode(format: FrameFormat, width: u32, height: u32, hz: f32) -> Mode {
        Mode { format, width, height, rate_hz: (hz > 0.0).then_some(hz) }
    }

    #[test]
    fn the_fastest_enough_largest_enough_best_format_is_chosen() {
        let wish = Wish { formats: &[Mjpeg, Yuyv, Gray], width: 640, height: 480, rate_hz: 15 };
        let cases: &[(&str, &[Mode], Option<Mode>)] = &[
            ("nothing", &[], None),
            ("a format nobody wants", &[mode(Nv12, 640, 480, 30.0)], None),
            (
                "the board's order",
                &[mode(Gray, 640, 480, 30.0), mode(Yuyv, 640, 480, 30.0)],
                Some(mode(Yuyv, 640, 480, 30.0)),
            ),
            (
                "too slow goes last",
                &[mode(Mjpeg, 640, 480, 5.0), mode(Yuyv, 640, 480, 30.0)],
                Some(mode(Yuyv, 640, 480, 30.0)),
            ),
            ("29.97 is 30", &[mode(Mjpeg, 640, 480, 14.985)], Some(mode(Mjpeg, 640, 480, 14.985))),
            (
                "larger before smaller",
                &[mode(Mjpeg, 320, 240, 30.0), mode(Mjpeg, 800, 600, 30.0), mode(Mjpeg, 1920, 1080, 30.0)],
                Some(mode(Mjpeg, 800, 600, 30.0)),
            ),
            (
                "no more frames than needed",
                &[mode(Mjpeg, 640, 480, 60.0), mode(Mjpeg, 640, 480, 15.0)],
                Some(mode(Mjpeg, 640, 480, 15.0)),
            ),
            ("a driver that does not say", &[mode(Yuyv, 640, 480, 0.0)], Some(mode(Yuyv, 640, 480, 0.0))),
        ];
        for (name, offered, expect) in cases {
            assert_eq!(choose(offered, &wish), *expect, "{name}");
        }
    }

    #[test]
    fn sizes_in_steps_are_met_from_below() {
        assert_eq!(nearest_step(640, 16, 4096, 16), 640);
        assert_eq!(nearest_step(650, 16, 4096, 16), 640);
        assert_eq!(nearest_step(8, 16, 4096, 16), 16);
        assert_eq!(nearest_step(9000, 16, 4096, 16), 4096);
        assert_eq!(nearest_step(640, 640, 640, 0), 640);
    }

    #[test]
    fn every_format_becomes_one_that_preprocessing_reads() {
        type Case =
            (FrameFormat, u32, u32, u32, &'static [u8], Result<(PixelFormat, u32, &'static [u8]), &'static str>);
        let cases: &[Case] = &[
            (Gray, 2, 2, 2, &[1, 2, 3, 4], Ok((PixelFormat::Gray, 2, &[1, 2, 3, 4]))),
            (Gray, 2, 2, 3, &[1, 2, 0, 3, 4], Ok((PixelFormat::Gray, 3, &[1, 2, 0, 3, 4]))),
            (Gray, 2, 2, 0, &[1, 2, 3, 4, 9], Ok((PixelFormat::Gray, 2, &[1, 2, 3, 4]))),
            (Gray, 2, 2, 2, &[1, 2, 3], Err("a frame of 3 bytes, expected 4")),
            (Rgb, 1, 1, 3, &[1, 2, 3], Ok((PixelFormat::Rgb, 3, &[1, 2, 3]))),
            (Yuyv, 2, 1, 4, &[1, 2, 3, 4], Ok((PixelFormat::Yuyv, 4, &[1, 2, 3, 4]))),
            (Uyvy, 2, 1, 4, &[2, 1, 4, 3], Ok((PixelFormat::Yuyv, 4, &[1, 2, 3, 4]))),
            (Nv12, 2, 2, 2, &[1, 2, 3, 4, 5, 6], Ok((PixelFormat::Nv12, 2, &[1, 2, 3, 4, 5, 6]))),
            (Yu12, 2, 2, 2, &[1, 2, 3, 4, 5, 6], Ok((PixelFormat::Nv12, 2, &[1, 2, 3, 4, 5, 6]))),
            (
                Yu12,
                4,
                2,
                4,
                &[1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 30, 31],
                Ok((PixelFormat::Nv12, 4, &[1, 2, 3, 4, 5, 6, 7, 8, 20, 30, 21, 31])),
            ),
            (Yu12, 1, 1, 1, &[1, 2, 3], Ok((PixelFormat::Nv12, 2, &[1, 0, 2, 3]))),
            (Yu12, 2, 2, 2, &[1, 2, 3, 4, 5], Err("a frame of 5 bytes, expected 6")),
            (Yu12, 0, 2, 0, &[1, 2, 3], Err("a frame of 0 x 2 in rows of 0 bytes, expected sides of 1 to 65536")),
            (Gray, 2, 0, 0, &[], Err("a frame of 2 x 0")),
            (Nv12, u32::MAX, u32::MAX, u32::MAX, &[1, 2, 3], Err("a frame of 4294967295 x 4294967295")),
            (Gray, 2, 2, u32::MAX, &[1, 2, 3, 4], Err("a frame of 2 x 2 in rows of 4294967295 bytes")),
            (Mjpeg, 0, 0, 0, &[0xff, 0xd8, 1], Ok((PixelFormat::Jpeg, 0, &[0xff, 0xd8, 1]))),
            (Mjpeg, 9, 9, 0, &[0xff, 0xd8, 1], Ok((PixelFormat::Jpeg, 0, &[0xff, 0xd8, 1]))),
            (Mjpeg, 9, 9, 0, &[0, 0], Err("a frame of 2 bytes that does not begin as a JPEG")),
        ];
        for (format, width, height, stride, bytes, expect) in cases {
            let layout = Layout { format: *format, width: *width, height: *height, stride: *stride };
            // what is in the buffer beforehand does not show
            let mut frame = Frame { data: vec![7; 20], ..Frame::default() };
            match (layout.store(bytes, &mut frame), expect) {
                (Ok(()), Ok((pixel, stride, data))) => {
                    assert_eq!((frame.format, frame.stride, &frame.data[..]), (*pixel, *stride, *data), "{format:?}");
                    assert_eq!((frame.width, frame.height), (*width, *height), "{format:?}");
                }
                (Err(message), Err(expect)) => assert!(message.starts_with(expect), "{format:?}: {message}"),
                (got, _) => panic!("{format:?} {bytes:?}: {got:?}, expected {expect:?}"),
            }
        }
    }

    #[test]
    fn the_bytes_of_a_packed_frame_fill_its_layout() {
        for format in [Yuyv, Uyvy, Nv12, Yu12, Gray, Rgb] {
            for (width, height) in [(640, 480), (6, 3)] {
                let bytes = frame_bytes(format, width, height).unwrap();
                let layout = Layout { format, width, height, stride: 0 };
                assert_eq!(layout.store(&vec![1; bytes], &mut Frame::default()), Ok(()), "{format:?}");
                assert!(layout.store(&vec![1; bytes - 1], &mut Frame::default()).is_err(), "{format:?}");
            }
        }
        assert_eq!(frame_bytes(Mjpeg, 640, 480), None);
        assert_eq!(frame_bytes(Rgb, u32::MAX, u32::MAX), None);
    }
}
