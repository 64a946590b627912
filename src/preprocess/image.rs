//! Pictures: frame to tensor.
//!
//! Owns the way from a captured frame of any format to the normalised tensor: crop, resize, colour, normalise, layout,
//! in this order of cost: the region is cut before anything is converted, and colours are converted after resizing, at
//! the tensor's size. Called once a frame by the pipeline, `eval` and the tensor export. It does not rotate, undistort
//! or expose.

use crate::config::manifest::{Color, ImageSpec, Layout, Resize, Roi};
use crate::signal::{Frame, PixelFormat, Tensor};

use super::resize::{Axis, Component, Plane, Resizer, Span};
use super::{PreprocessError, f32_elements, jpeg};

/// Largest side of a frame, and of an image tensor, in pixels.
pub const MAX_IMAGE_SIDE: u32 = 8192;

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
    jpeg: Vec<u8>,
    planes: Vec<f32>,
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

/// How frames of one format and size become the tensor.
#[derive(Debug)]
struct Plan {
    samples: Samples,
    width: usize,
    height: usize,
    /// Where the picture lies in the tensor: smaller than it only for [`Resize::Contain`].
    left: usize,
    top: usize,
    columns: Axis,
    rows: Axis,
    chroma_columns: Axis,
    chroma_rows: Axis,
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
            jpeg: Vec::new(),
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
        let gray = self.spec.color == Color::Gray;
        // The buffer is taken out for the call, so that the decoded picture can be lent beside `self`.
        let mut buffer = std::mem::take(&mut self.jpeg);
        let result = if frame.format == PixelFormat::Jpeg {
            jpeg::decode(&frame.data, gray, &mut buffer).and_then(|d| {
                let samples = if d.channels == 1 { Samples::Gray } else { Samples::Rgb };
                self.run_raw(samples, d.width, d.height, Plane { data: d.data, stride: d.width * d.channels }, out)
            })
        } else {
            let samples = match frame.format {
                PixelFormat::Yuyv => Samples::Yuyv,
                PixelFormat::Nv12 => Samples::Nv12,
                PixelFormat::Rgb => Samples::Rgb,
                PixelFormat::Gray | PixelFormat::Jpeg => Samples::Gray,
            };
            let plane = Plane { data: &frame.data, stride: frame.stride as usize };
            self.run_raw(samples, frame.width as usize, frame.height as usize, plane, out)
        };
        self.jpeg = buffer;
        result
    }

    fn run_raw(
        &mut self,
        samples: Samples,
        width: usize,
        height: usize,
        plane: Plane<'_>,
        out: &mut Tensor,
    ) -> Result<(), PreprocessError> {
        check_frame(samples, width, height, plane)?;
        let same = self.plan.as_ref().is_some_and(|p| (p.samples, p.width, p.height) == (samples, width, height));
        if !same {
            self.plan = Some(Plan::new(&self.spec, samples, width, height));
        }
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

/// Luminance of full-range R G B, ITU-R BT.601-7, 2.5.1.
fn luminance(r: f32, g: f32, b: f32) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// Limited-range luma (16 to 235) as 0 to 255.
fn full_range(y: f32) -> f32 {
    ((y - 16.0) * (255.0 / 219.0)).clamp(0.0, 255.0)
}

/// Full-range R G B of limited-range Y Cb Cr, ITU-R BT.601-7, 2.5.
fn rgb_of_yuv(y: f32, cb: f32, cr: f32) -> [f32; 3] {
    let y = (y - 16.0) * (255.0 / 219.0);
    let (cb, cr) = ((cb - 128.0) * (255.0 / 224.0), (cr - 128.0) * (255.0 / 224.0));
    let (kr, kb) = (0.299, 0.114);
    let kg = 1.0 - kr - kb;
    let r = y + 2.0 * (1.0 - kr) * cr;
    let b = y + 2.0 * (1.0 - kb) * cb;
    let g = y - (2.0 * kr * (1.0 - kr) * cr + 2.0 * kb * (1.0 - kb) * cb) / kg;
    [r, g, b].map(|v| v.clamp(0.0, 255.0))
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
        let (columns, rows) = (columns as usize, rows as usize);
        let (half_rows, rows_span) =
            if samples == Samples::Nv12 { (height.div_ceil(2), half(down)) } else { (height, down) };
        Plan {
            samples,
            width,
            height,
            left: (spec.size[1] as usize - columns) / 2,
            top: (spec.size[0] as usize - rows) / 2,
            columns: Axis::new(width, across, columns),
            rows: Axis::new(height, down, rows),
            chroma_columns: Axis::new(width.div_ceil(2), half(across), columns),
            chroma_rows: Axis::new(half_rows, rows_span, rows),
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
