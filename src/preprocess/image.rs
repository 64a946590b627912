//! Pictures: frame to tensor.
//!
//! Owns the way from a captured frame of any format to the normalised tensor: crop, resize, colour, normalise, layout,
//! in this order of cost: the region is cut before anything is converted, and colours are converted after resizing, at
//! the tensor's size. Called once a frame by the pipeline, `eval` and the tensor export. It does not rotate, undistort
//! or expose.

use attendant_pixels::MAX_IMAGE_SIDE;
use attendant_pixels::color::{full_range, luminance, rgb_of_yuv};
use attendant_pixels::jpeg::{self, JpegError};
use attendant_pixels::resize::{Axis, Component, Plane, Resizer, Span};
use log::debug;

use crate::config::manifest::{Color, ImageSpec, Layout, Resize, Roi};
use crate::signal::{Frame, PixelFormat, Placement, Tensor};

use super::{PreprocessError, f32_elements};

/// Frames to image tensors. One per encoder: it keeps the resampling plan of the frames it sees.
#[derive(Debug)]
pub struct ImagePreprocessor {
    spec: ImageSpec,
    shape: [usize; 4],
    /// `x * scale + bias` of a sample in [0, 255], per channel: `(x / 255 - mean) / std`.
    scale: Vec<f32>,
    bias: Vec<f32>,
    plan: Option<Plan>,
    resizer: Resizer,
    luma: jpeg::LumaDecoder,
    /// What the library decoded.
    decoded: Vec<u8>,
    planes: Vec<f32>,
}

/// How JPEGs are decoded: the library is several times slower and allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JpegDecoding {
    /// Luminance alone, as many coefficients of the 64 in a block as the tensor's size needs.
    Luminance {
        /// Coefficients that are decoded.
        coefficients: usize,
    },
    /// All pixels, with the library.
    Library,
}

impl std::fmt::Display for JpegDecoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JpegDecoding::Luminance { coefficients } => write!(f, "luminance, {coefficients} of 64 coefficients"),
            JpegDecoding::Library => f.write_str("all pixels, by the library"),
        }
    }
}

/// What the samples of a source mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Samples {
    /// Full-range luminance.
    Gray,
    /// Full-range R G B.
    Rgb,
    /// BT.601 limited range, packed 4:2:2.
    Yuyv,
    /// BT.601 limited range, 4:2:0 in two planes.
    Nv12,
}

/// Where samples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Source,
    Library,
    LumaDecoder,
}

/// How frames of one format and size become the tensor.
#[derive(Debug)]
struct Plan {
    samples: Samples,
    width: usize,
    height: usize,
    /// Where the picture lies in the tensor: smaller than it only for [`Resize::Contain`].
    left: usize,
    top: usize,
    placement: Placement,
    columns: Axis,
    rows: Axis,
    chroma_columns: Axis,
    chroma_rows: Axis,
    origin: Origin,
    /// For [`Origin::LumaDecoder`].
    resampler: Option<jpeg::Resampler>,
}

impl ImagePreprocessor {
    /// Checks `spec` and prepares; the plan for a frame size is made at its first frame.
    ///
    /// # Errors
    /// [`PreprocessError::Spec`] naming the key, its value and what is expected.
    pub fn new(spec: &ImageSpec) -> Result<Self, PreprocessError> {
        let channels = if spec.color == Color::Gray { 1 } else { 3 };
        if spec.size.iter().any(|side| !(1..=MAX_IMAGE_SIDE).contains(side)) {
            let expected = format!("[height, width] of 1 to {MAX_IMAGE_SIDE} pixels");
            return Err(PreprocessError::spec("encoder.image.size", format_args!("{:?}", spec.size), expected));
        }
        let spec = &ImageSpec {
            mean: super::for_each_channel(&spec.mean, channels),
            std: super::for_each_channel(&spec.std, channels),
            ..spec.clone()
        };
        for (key, values) in [("encoder.image.mean", &spec.mean), ("encoder.image.std", &spec.std)] {
            if values.len() != channels || values.iter().any(|v| !v.is_finite()) {
                let expected = format!("{channels} finite values (color = {:?})", spec.color).to_lowercase();
                return Err(PreprocessError::spec(key, format_args!("{values:?}"), expected));
            }
        }
        if spec.std.iter().any(|s| *s <= 0.0) {
            let value = format_args!("{:?}", spec.std);
            return Err(PreprocessError::spec("encoder.image.std", value, "values above 0"));
        }
        if let Roi::Rect([left, top, width, height]) = spec.roi {
            let inside = left >= 0.0 && top >= 0.0 && left + width <= 1.0001 && top + height <= 1.0001;
            // Written so that NaN fails too.
            if !(inside && width > 0.0 && height > 0.0) {
                let value = format_args!("{{ rect = [{left}, {top}, {width}, {height}] }}");
                let expected =
                    "fractions [left, top, width, height] of the frame, width and height above 0, within 0 to 1";
                return Err(PreprocessError::spec("encoder.image.roi", value, expected));
            }
        }
        let [height, width] = spec.size.map(|side| side as usize);
        let shape = match spec.layout {
            Layout::Nchw => [1, channels, height, width],
            Layout::Nhwc => [1, height, width, channels],
        };
        Ok(ImagePreprocessor {
            shape,
            scale: spec.std.iter().map(|s| 1.0 / (255.0 * s)).collect(),
            bias: spec.mean.iter().zip(&spec.std).map(|(m, s)| -m / s).collect(),
            plan: None,
            resizer: Resizer::default(),
            luma: jpeg::LumaDecoder::default(),
            decoded: Vec::new(),
            planes: Vec::new(),
            spec: spec.clone(),
        })
    }

    /// Dimensions of the tensor: `[1, C, H, W]` or `[1, H, W, C]`.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Turns `frame` into the f32 tensor `out`, which is made to fit if it does not.
    ///
    /// # Errors
    /// [`PreprocessError::Sample`] for a frame whose sizes, stride or bytes do not make a picture; `out` is then
    /// unspecified but usable.
    pub fn run(&mut self, frame: &Frame, out: &mut Tensor) -> Result<(), PreprocessError> {
        let samples = match frame.format {
            PixelFormat::Jpeg => return self.run_jpeg(&frame.data, out),
            PixelFormat::Yuyv => Samples::Yuyv,
            PixelFormat::Nv12 => Samples::Nv12,
            PixelFormat::Rgb => Samples::Rgb,
            PixelFormat::Gray => Samples::Gray,
        };
        let plane = Plane { data: &frame.data, stride: frame.stride as usize };
        self.run_raw(samples, frame.width as usize, frame.height as usize, plane, Origin::Source, out)
    }

    /// Where the last frame's picture lies in the tensor; none before the first frame.
    #[must_use]
    pub fn placement(&self) -> Option<Placement> {
        self.plan.as_ref().map(|p| p.placement)
    }

    /// How the last frame was decoded, if it was a JPEG.
    #[must_use]
    pub fn jpeg_decoding(&self) -> Option<JpegDecoding> {
        self.plan.as_ref()?.jpeg_decoding()
    }

    fn run_jpeg(&mut self, data: &[u8], out: &mut Tensor) -> Result<(), PreprocessError> {
        let gray = self.spec.color == Color::Gray;
        if let Some(header) = gray.then(|| self.luma.header(data)).flatten() {
            self.plan_for(Samples::Gray, header.width, header.height, Origin::LumaDecoder);
            let Some(Plan { resampler: Some(resampler), rows, columns, .. }) = &mut self.plan else { return Ok(()) };
            let pixels = rows.out_len() * columns.out_len();
            self.planes.resize(pixels * 3, 0.0);
            self.luma.run(data, &header, resampler, &mut self.planes[..pixels]).map_err(unusable)?;
            self.finish(f32_elements(out, &self.shape));
            return Ok(());
        }
        // The buffer is taken out for the call, so that the decoded picture can be lent beside `self`.
        let mut buffer = std::mem::take(&mut self.decoded);
        let result = jpeg::decode(data, gray, &mut buffer).map_err(unusable).and_then(|d| {
            let samples = if d.channels == 1 { Samples::Gray } else { Samples::Rgb };
            let plane = Plane { data: d.data, stride: d.width * d.channels };
            self.run_raw(samples, d.width, d.height, plane, Origin::Library, out)
        });
        self.decoded = buffer;
        result
    }

    /// Makes the plan for such frames, if the last one was another sort.
    fn plan_for(&mut self, samples: Samples, width: usize, height: usize, origin: Origin) {
        let key = (samples, width, height, origin);
        if self.plan.as_ref().is_some_and(|p| (p.samples, p.width, p.height, p.origin) == key) {
            return;
        }
        let mut plan = Plan::new(&self.spec, samples, width, height);
        plan.origin = origin;
        plan.resampler = (origin == Origin::LumaDecoder).then(|| jpeg::Resampler::new(&plan.rows, &plan.columns));
        if let Some(decoding) = plan.jpeg_decoding() {
            debug!("jpeg of {width} x {height}: {decoding}");
        }
        self.plan = Some(plan);
    }

    fn run_raw(
        &mut self,
        samples: Samples,
        width: usize,
        height: usize,
        plane: Plane<'_>,
        origin: Origin,
        out: &mut Tensor,
    ) -> Result<(), PreprocessError> {
        check_frame(samples, width, height, plane)?;
        self.plan_for(samples, width, height, origin);
        let Some(plan) = &self.plan else { return Ok(()) };
        let pixels = plan.rows.out_len() * plan.columns.out_len();
        let gray = self.spec.color == Color::Gray;
        self.planes.resize(pixels * 3, 0.0);
        let (luma, chroma) = self.planes.split_at_mut(pixels);
        let column = |offset, step| Component { offset, step, axis: &plan.columns };
        let chroma_column = |offset, step| Component { offset, step, axis: &plan.chroma_columns };
        match samples {
            Samples::Gray => self.resizer.run(plane, &plan.rows, &[column(0, 1)], luma),
            Samples::Rgb => {
                let components = [column(0, 3), column(1, 3), column(2, 3)];
                self.resizer.run(plane, &plan.rows, &components, &mut self.planes);
            }
            Samples::Yuyv if gray => self.resizer.run(plane, &plan.rows, &[column(0, 2)], luma),
            Samples::Yuyv => {
                let components = [column(0, 2), chroma_column(1, 4), chroma_column(3, 4)];
                self.resizer.run(plane, &plan.rows, &components, &mut self.planes);
            }
            Samples::Nv12 => {
                self.resizer.run(plane, &plan.rows, &[column(0, 1)], luma);
                if !gray {
                    let second = Plane { data: &plane.data[plane.stride * height..], stride: plane.stride };
                    let components = [chroma_column(0, 2), chroma_column(1, 2)];
                    self.resizer.run(second, &plan.chroma_rows, &components, chroma);
                }
            }
        }
        self.finish(f32_elements(out, &self.shape));
        Ok(())
    }

    /// Colour, normalising and layout, from the resized planes.
    fn finish(&self, out: &mut [f32]) {
        let Some(plan) = &self.plan else { return };
        let [height, width] = self.spec.size.map(|side| side as usize);
        let (rows, columns) = (plan.rows.out_len(), plan.columns.out_len());
        if (rows, columns) != (height, width) {
            // The mean, normalised.
            out.fill(0.0);
        }
        let pixels = rows * columns;
        let (first, rest) = self.planes.split_at(pixels);
        let (second, third) = rest.split_at(pixels);
        let limited = matches!(plan.samples, Samples::Yuyv | Samples::Nv12);
        for y in 0..rows {
            let from = y * columns;
            let to = (plan.top + y) * width + plan.left;
            for x in 0..columns {
                let (a, b, c) = (first[from + x], second[from + x], third[from + x]);
                if self.spec.color == Color::Gray {
                    let value = match plan.samples {
                        Samples::Gray => a,
                        Samples::Rgb => luminance(a, b, c),
                        Samples::Yuyv | Samples::Nv12 => full_range(a),
                    };
                    out[to + x] = value * self.scale[0] + self.bias[0];
                    continue;
                }
                let [r, g, b] = match plan.samples {
                    Samples::Gray => [a; 3],
                    _ if limited => rgb_of_yuv(a, b, c),
                    _ => [a, b, c],
                };
                let channels = if self.spec.color == Color::Bgr { [b, g, r] } else { [r, g, b] };
                for (k, value) in channels.into_iter().enumerate() {
                    let at = match self.spec.layout {
                        Layout::Nchw => k * height * width + to + x,
                        Layout::Nhwc => (to + x) * 3 + k,
                    };
                    out[at] = value * self.scale[k] + self.bias[k];
                }
            }
        }
    }
}

fn unusable(e: JpegError) -> PreprocessError {
    PreprocessError::Sample(e.to_string())
}

/// Whether the bytes hold the picture that the header promises.
fn check_frame(samples: Samples, width: usize, height: usize, plane: Plane<'_>) -> Result<(), PreprocessError> {
    let name = match samples {
        Samples::Gray => "gray",
        Samples::Rgb => "rgb",
        Samples::Yuyv => "yuyv",
        Samples::Nv12 => "nv12",
    };
    let bad = |message: String| Err(PreprocessError::Sample(format!("{name} frame {width} x {height}: {message}")));
    let sides = 1..=MAX_IMAGE_SIDE as usize;
    if !sides.contains(&width) || !sides.contains(&height) {
        return bad(format!("sides must be 1 to {MAX_IMAGE_SIDE}"));
    }
    if samples == Samples::Yuyv && !width.is_multiple_of(2) {
        return bad("two pixels share their colour, so the width must be even".into());
    }
    let row_bytes = match samples {
        Samples::Gray => width,
        Samples::Rgb => width * 3,
        Samples::Yuyv => width * 2,
        Samples::Nv12 => width.next_multiple_of(2),
    };
    if plane.stride < row_bytes {
        return bad(format!("stride = {}, expected at least {row_bytes} bytes", plane.stride));
    }
    // The last row may end where its pixels end, without the padding of the stride.
    let rows = if samples == Samples::Nv12 { height + height.div_ceil(2) } else { height };
    let needed = plane.stride * (rows - 1) + row_bytes;
    if plane.data.len() < needed {
        return bad(format!("{} bytes, expected at least {needed} at stride {}", plane.data.len(), plane.stride));
    }
    Ok(())
}

impl Plan {
    fn new(spec: &ImageSpec, samples: Samples, width: usize, height: usize) -> Self {
        let [out_height, out_width] = spec.size.map(f64::from);
        let (w, h) = (width as f64, height as f64);
        let (mut across, mut down) = match spec.roi {
            Roi::Full | Roi::Center => (Span { start: 0.0, len: w }, Span { start: 0.0, len: h }),
            Roi::Rect([left, top, rect_width, rect_height]) => (
                region(f64::from(left) * w, f64::from(rect_width) * w, w),
                region(f64::from(top) * h, f64::from(rect_height) * h, h),
            ),
        };
        if spec.roi == Roi::Center || spec.resize == Resize::Cover {
            (across, down) = cover(across, down, out_width / out_height);
        }
        let (mut columns, mut rows) = (out_width, out_height);
        if spec.resize == Resize::Contain {
            let scale = (out_width / across.len).min(out_height / down.len);
            columns = (across.len * scale).round().clamp(1.0, out_width);
            rows = (down.len * scale).round().clamp(1.0, out_height);
        }
        let half = |span: Span| Span { start: span.start / 2.0, len: span.len / 2.0 };
        // along one axis: the pixels of the region's span lie in `len` pixels of the tensor, from `start` on
        let along = |span: Span, len: f64, tensor: f64, frame: f64| {
            let scale = span.len / len / frame;
            ((span.start / frame - ((tensor - len) / 2.0).floor() * scale) as f32, scale as f32)
        };
        let (across_from, across_scale) = along(across, columns, out_width, w);
        let (down_from, down_scale) = along(down, rows, out_height, h);
        let placement = Placement {
            origin: [across_from, down_from],
            scale: [across_scale, down_scale],
            frame: [width as u32, height as u32],
        };
        let (columns, rows) = (columns as usize, rows as usize);
        let (half_rows, rows_span) =
            if samples == Samples::Nv12 { (height.div_ceil(2), half(down)) } else { (height, down) };
        Plan {
            samples,
            width,
            height,
            left: (spec.size[1] as usize - columns) / 2,
            top: (spec.size[0] as usize - rows) / 2,
            placement,
            columns: Axis::new(width, across, columns),
            rows: Axis::new(height, down, rows),
            chroma_columns: Axis::new(width.div_ceil(2), half(across), columns),
            chroma_rows: Axis::new(half_rows, rows_span, rows),
            origin: Origin::Source,
            resampler: None,
        }
    }

    fn jpeg_decoding(&self) -> Option<JpegDecoding> {
        match self.origin {
            Origin::Source => None,
            Origin::Library => Some(JpegDecoding::Library),
            Origin::LumaDecoder => {
                let coefficients = self.resampler.as_ref().map_or(0, jpeg::Resampler::coefficients);
                Some(JpegDecoding::Luminance { coefficients })
            }
        }
    }
}

/// A stretch of at least one pixel that lies within `[0, limit]`.
fn region(start: f64, len: f64, limit: f64) -> Span {
    let len = len.clamp(1.0, limit);
    Span { start: start.clamp(0.0, limit - len), len }
}

/// The largest centred part with the given aspect ratio (width / height).
fn cover(across: Span, down: Span, aspect: f64) -> (Span, Span) {
    let centred = |span: Span, len: f64| Span { start: span.start + (span.len - len) / 2.0, len };
    if across.len > down.len * aspect {
        (centred(across, down.len * aspect), down)
    } else {
        (across, centred(down, across.len / aspect))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 16 x 16: left half 60, right half 200. An eighth of the other half reaches over when made two pixels.
    const GRAY_JPEG: &[u8] = include_bytes!("../../tests/golden/jpeg/halves_gray.jpg");
    /// 64 x 16, 4:2:0: left half R G B 220 20 20, right half 20 20 220.
    const COLOUR_JPEG: &[u8] = include_bytes!("../../tests/golden/jpeg/red_blue.jpg");

    fn spec(size: [u32; 2], color: Color) -> ImageSpec {
        let channels = if color == Color::Gray { 1 } else { 3 };
        ImageSpec {
            size,
            color,
            roi: Roi::Full,
            resize: Resize::Stretch,
            // Pixels come out as 0 to 255.
            mean: vec![0.0; channels],
            std: vec![1.0 / 255.0; channels],
            layout: Layout::Nchw,
        }
    }

    fn frame(format: PixelFormat, width: u32, height: u32, stride: u32, data: &[u8]) -> Frame {
        Frame { width, height, stride, format, data: data.to_vec(), ..Frame::default() }
    }

    fn run(spec: &ImageSpec, frame: &Frame) -> Result<Vec<f32>, PreprocessError> {
        let mut out = Tensor::zeros_i64(&[1]);
        let mut p = ImagePreprocessor::new(spec)?;
        p.run(frame, &mut out)?;
        assert_eq!(p.shape(), &out.shape[..]);
        Ok(out.as_f32().unwrap().to_vec())
    }

    fn check(spec: &ImageSpec, frame: &Frame, expect: &[f32], tolerance: f32) {
        let got = run(spec, frame).unwrap();
        let near = got.len() == expect.len() && got.iter().zip(expect).all(|(g, e)| (g - e).abs() <= tolerance);
        assert!(near, "{spec:?}, {:?}: {got:?}, expected {expect:?}", frame.format);
    }

    #[test]
    fn every_format_becomes_every_colour() {
        // Two pixels of pure red in each format; BT.601 luminance of red is 76.2.
        let red = [
            frame(PixelFormat::Rgb, 2, 2, 6, &[255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0]),
            frame(PixelFormat::Yuyv, 2, 2, 4, &[81, 90, 81, 240, 81, 90, 81, 240]),
            frame(PixelFormat::Nv12, 2, 2, 2, &[81, 81, 81, 81, 90, 240]),
        ];
        for frame in &red {
            check(&spec([1, 1], Color::Gray), frame, &[76.2], 1.0);
            check(&spec([1, 1], Color::Rgb), frame, &[255.0, 0.0, 0.0], 2.0);
            check(&spec([1, 1], Color::Bgr), frame, &[0.0, 0.0, 255.0], 2.0);
        }
        let gray = frame(PixelFormat::Gray, 2, 1, 2, &[10, 30]);
        check(&spec([1, 1], Color::Gray), &gray, &[20.0], 0.01);
        check(&spec([1, 2], Color::Bgr), &gray, &[10.0, 30.0, 10.0, 30.0, 10.0, 30.0], 0.01);
        check(&spec([1, 2], Color::Gray), &frame(PixelFormat::Jpeg, 0, 0, 0, GRAY_JPEG), &[77.5, 182.5], 3.0);
        let colour = frame(PixelFormat::Jpeg, 0, 0, 0, COLOUR_JPEG);
        check(
            &ImageSpec { layout: Layout::Nhwc, ..spec([1, 2], Color::Rgb) },
            &colour,
            &[195.0, 20.0, 45.0, 45.0, 20.0, 195.0],
            12.0,
        );
        check(&spec([1, 2], Color::Gray), &colour, &[75.2, 47.4], 3.0);
    }

    #[test]
    fn padding_of_the_stride_and_odd_sizes_are_not_looked_at() {
        check(
            &spec([2, 1], Color::Gray),
            &frame(PixelFormat::Gray, 1, 2, 4, &[9, 255, 255, 255, 7]),
            &[9.0, 7.0],
            0.01,
        );
        // 3 x 3: luma rows of 3 in a stride of 4, two chroma rows of two pairs.
        let mut odd = [235, 235, 235, 0].repeat(3);
        odd.extend_from_slice(&[128; 8]);
        check(&spec([1, 1], Color::Rgb), &frame(PixelFormat::Nv12, 3, 3, 4, &odd), &[255.0; 3], 0.1);
    }

    #[test]
    fn the_region_meets_the_size() {
        // 4 x 2: columns 0, 100, 200, 50.
        let wide = frame(PixelFormat::Gray, 4, 2, 4, &[0, 100, 200, 50, 0, 100, 200, 50]);
        let with = |roi, resize, size| ImageSpec { roi, resize, ..spec(size, Color::Gray) };
        check(&with(Roi::Center, Resize::Stretch, [2, 2]), &wide, &[100.0, 200.0, 100.0, 200.0], 0.01);
        check(&with(Roi::Full, Resize::Cover, [2, 2]), &wide, &[100.0, 200.0, 100.0, 200.0], 0.01);
        let contained = ImageSpec { mean: vec![0.5], ..with(Roi::Full, Resize::Contain, [4, 4]) };
        // Rows of the mean above and below; 127.5 has been taken off the rest.
        let mut expect = vec![0.0; 4];
        expect.extend([-127.5, -27.5, 72.5, -77.5, -127.5, -27.5, 72.5, -77.5]);
        expect.extend([0.0; 4]);
        check(&contained, &wide, &expect, 0.01);
        check(&with(Roi::Rect([0.5, 0.0, 0.25, 1.0]), Resize::Stretch, [1, 1]), &wide, &[200.0], 0.01);
        check(&with(Roi::Rect([0.99, 0.99, 0.01, 0.01]), Resize::Stretch, [1, 1]), &wide, &[50.0], 0.01);
    }

    #[test]
    fn frames_of_another_size_get_another_plan() {
        let mut p = ImagePreprocessor::new(&spec([1, 1], Color::Gray)).unwrap();
        let mut out = Tensor::zeros_f32(&[1, 1, 1, 1]);
        for (side, value) in [(2, 40), (9, 80), (2, 120)] {
            p.run(&frame(PixelFormat::Gray, side, side, side, &vec![value; (side * side) as usize]), &mut out).unwrap();
            assert!((out.as_f32().unwrap()[0] - f32::from(value)).abs() < 0.01);
        }
    }

    #[test]
    fn frames_that_are_no_pictures_are_refused_by_name() {
        let refuse = |frame: &Frame, part: &str| {
            for color in [Color::Gray, Color::Rgb] {
                match run(&spec([4, 4], color), frame) {
                    Err(PreprocessError::Sample(message)) => {
                        assert!(message.contains(part), "{message}, expected {part}")
                    }
                    other => panic!("{:?} {} x {}: {other:?}", frame.format, frame.width, frame.height),
                }
            }
        };
        refuse(&frame(PixelFormat::Gray, 0, 4, 4, &[0; 16]), "gray frame 0 x 4: sides must be");
        refuse(&frame(PixelFormat::Gray, 4, 0, 4, &[0; 16]), "4 x 0: sides must be");
        refuse(&frame(PixelFormat::Gray, 9000, 4, 9000, &[0; 16]), "sides must be 1 to 8192");
        refuse(&frame(PixelFormat::Gray, 4, 4, 3, &[0; 16]), "stride = 3, expected at least 4");
        refuse(&frame(PixelFormat::Gray, 4, 4, 4, &[0; 15]), "15 bytes, expected at least 16");
        refuse(&frame(PixelFormat::Gray, 4, 4, u32::MAX, &[0; 16]), "16 bytes, expected at least");
        refuse(&frame(PixelFormat::Rgb, 4, 4, 11, &[0; 48]), "stride = 11, expected at least 12");
        refuse(&frame(PixelFormat::Yuyv, 3, 4, 8, &[0; 48]), "width must be even");
        refuse(&frame(PixelFormat::Nv12, 4, 4, 4, &[0; 23]), "23 bytes, expected at least 24");
        refuse(&frame(PixelFormat::Jpeg, 4, 4, 0, &[]), "jpeg of 0 bytes");
        refuse(&frame(PixelFormat::Jpeg, 4, 4, 0, b"not a jpeg"), "jpeg of 10 bytes");
        for cut in [3, 20, 150, GRAY_JPEG.len() / 2] {
            refuse(&frame(PixelFormat::Jpeg, 0, 0, 0, &GRAY_JPEG[..cut]), "expected a whole JPEG");
            refuse(&frame(PixelFormat::Jpeg, 0, 0, 0, &COLOUR_JPEG[..cut]), "expected a whole JPEG");
        }
        // The same file with 8000 x 8000 and 60000 x 60000 in its header.
        for (side, part) in [(8000_u16, "which cannot fit"), (60_000, "limit")] {
            let mut huge = GRAY_JPEG.to_vec();
            let sof = huge.windows(2).position(|m| m == [0xff, 0xc0]).unwrap();
            huge[sof + 5..sof + 7].copy_from_slice(&side.to_be_bytes());
            huge[sof + 7..sof + 9].copy_from_slice(&side.to_be_bytes());
            refuse(&frame(PixelFormat::Jpeg, 0, 0, 0, &huge), part);
        }
    }

    #[test]
    fn a_jpeg_with_any_byte_changed_does_not_panic() {
        let mut p = ImagePreprocessor::new(&spec([4, 4], Color::Rgb)).unwrap();
        let mut out = Tensor::zeros_f32(&[1]);
        let mut corrupt = frame(PixelFormat::Jpeg, 0, 0, 0, COLOUR_JPEG);
        for (at, &original) in COLOUR_JPEG.iter().enumerate() {
            for value in [0, 0xff, original ^ 0x55] {
                corrupt.data[at] = value;
                // Some changes still make a picture.
                let _ = p.run(&corrupt, &mut out);
            }
            corrupt.data[at] = original;
        }
        p.run(&corrupt, &mut out).unwrap();
    }

    #[test]
    fn impossible_specs_name_the_key() {
        let gray = || spec([4, 4], Color::Gray);
        let check = |spec: ImageSpec, part: &str| {
            let error = ImagePreprocessor::new(&spec).unwrap_err().to_string();
            assert!(error.contains(part), "{error}, expected {part}");
        };
        check(spec([0, 4], Color::Gray), "encoder.image.size = [0, 4], expected [height, width] of 1 to 8192");
        check(spec([4, 9000], Color::Gray), "encoder.image.size = [4, 9000]");
        check(
            ImageSpec { mean: vec![0.5; 3], ..gray() },
            "encoder.image.mean = [0.5, 0.5, 0.5], expected 1 finite values",
        );
        check(ImageSpec { std: vec![0.5; 2], ..spec([4, 4], Color::Bgr) }, "expected 3 finite values (color = bgr)");
        check(ImageSpec { std: vec![0.0], ..gray() }, "encoder.image.std = [0.0], expected values above 0");
        check(ImageSpec { mean: vec![f32::NAN], ..gray() }, "encoder.image.mean = [NaN]");
        for rect in [[0.0, 0.0, 0.0, 1.0], [0.5, 0.0, 0.6, 1.0], [-0.1, 0.0, 0.5, 0.5], [f32::NAN, 0.0, 1.0, 1.0]] {
            check(ImageSpec { roi: Roi::Rect(rect), ..gray() }, "encoder.image.roi = { rect = [");
        }
    }
}
