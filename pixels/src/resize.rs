//! Antialiased separable resampling of 8-bit planes in integer arithmetic.
//!
//! Owns the geometry of one axis ([`Axis`]) and the two passes over a plane ([`Resizer`]). The picture code calls it.
//! Integer sums are the same on every CPU, whatever its vector width, and the plans are kept, so that a frame costs no
//! allocation; a general resize crate gives neither. Colours, layouts and normalising are not its business: it reads
//! interleaved bytes and writes one f32 plane a component.

/// Fraction bits of a filter weight: 1.0 is 16384, which still fits an i16.
const WEIGHT_BITS: u32 = 14;
/// Fraction bits kept between the passes: 255 << 7 still fits an i16.
const ROW_BITS: u32 = 7;
/// Taps are padded with zero weights to a multiple of this, so that the inner loop has no remainder.
const LANES: usize = 8;

/// A stretch of one axis of a picture, in pixels; may begin and end inside a pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Where it begins.
    pub start: f64,
    /// How long it is.
    pub len: f64,
}

/// Filter weights for one axis: a triangle as wide as the scale, at least one pixel (bilinear when enlarging).
///
/// Weights of one output sum to exactly one, and only pixels of the span take part.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    /// First source pixel that takes part at all; `first` counts from here.
    lo: usize,
    /// One past the last source pixel that takes part.
    hi: usize,
    first: Vec<usize>,
    /// `taps` weights an output, zero padded.
    weights: Vec<i16>,
    taps: usize,
}

impl Axis {
    /// Plans `out_len` outputs over `span` of an axis of `in_len` pixels; `in_len` and `out_len` are at least 1.
    pub fn new(in_len: usize, span: Span, out_len: usize) -> Self {
        let lo = (span.start.floor().max(0.0) as usize).min(in_len - 1);
        let hi = ((span.start + span.len - 1e-9).ceil() as usize).clamp(lo + 1, in_len);
        let scale = span.len / out_len as f64;
        let radius = scale.max(1.0);
        let taps = ((2.0 * radius).ceil() as usize + 1).min(hi - lo).next_multiple_of(LANES);
        let mut axis = Axis { lo, hi, first: Vec::with_capacity(out_len), weights: vec![0; taps * out_len], taps };
        let mut exact = Vec::with_capacity(taps);
        for (out, weights) in axis.weights.chunks_exact_mut(taps).enumerate() {
            let centre = span.start + (out as f64 + 0.5) * scale;
            // Pixel p covers [p, p + 1) and stands for its middle. Beyond the span its edge pixels are repeated.
            let from = (centre - radius - 0.5).ceil() as i64;
            let to = (centre + radius - 0.5).floor() as i64;
            let start = from.clamp(lo as i64, hi as i64 - 1);
            exact.clear();
            exact.resize((to.clamp(lo as i64, hi as i64 - 1) - start) as usize + 1, 0.0);
            for p in from..=to {
                let weight = (1.0 - (p as f64 + 0.5 - centre).abs() / radius).max(0.0);
                exact[(p.clamp(lo as i64, hi as i64 - 1) - start) as usize] += weight;
            }
            let sum: f64 = exact.iter().sum();
            let one = f64::from(1 << WEIGHT_BITS);
            for (w, e) in weights.iter_mut().zip(&exact) {
                *w = (e / sum * one).round() as i16;
            }
            let rest = (1 << WEIGHT_BITS) - weights.iter().map(|w| i32::from(*w)).sum::<i32>();
            if let Some(heaviest) = weights.iter_mut().max_by_key(|w| **w) {
                *heaviest += rest as i16;
            }
            axis.first.push((start - lo as i64) as usize);
        }
        axis
    }

    /// The first pixel that output `out` looks at, and the weights of that and the following ones; zeros may follow.
    pub fn weights_of(&self, out: usize) -> (usize, impl Iterator<Item = f64>) {
        let weights = &self.weights[out * self.taps..][..self.taps];
        (self.lo + self.first[out], weights.iter().map(|w| f64::from(*w) / f64::from(1 << WEIGHT_BITS)))
    }

    /// Pixels that take part.
    pub fn in_len(&self) -> usize {
        self.hi - self.lo
    }

    /// Outputs on this axis.
    pub fn out_len(&self) -> usize {
        self.first.len()
    }
}

/// One colour component among the interleaved bytes of a row.
#[derive(Clone, Copy, Debug)]
pub struct Component<'a> {
    /// Byte of its first sample in a row.
    pub offset: usize,
    /// Bytes from one sample to the next.
    pub step: usize,
    /// Horizontal plan, in samples of this component.
    pub axis: &'a Axis,
}

/// Interleaved bytes, `stride` from row to row.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    /// Row after row; bytes between rows are not read.
    pub data: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// The two passes, with their row buffers.
#[derive(Debug, Default)]
pub struct Resizer {
    row: Vec<i16>,
    lane: Vec<i16>,
}

impl Resizer {
    /// Resamples `components` of `plane` into `out`, one plane `[vertical, horizontal]` after the other, values in
    /// [0, 255]. Only the bytes that the plans name are read; the caller has checked that `plane` holds them.
    pub fn run(&mut self, plane: Plane<'_>, vertical: &Axis, components: &[Component<'_>], out: &mut [f32]) {
        let begin = components.iter().map(|c| c.axis.lo * c.step + c.offset).min().unwrap_or(0);
        let end = components.iter().map(|c| (c.axis.hi - 1) * c.step + c.offset + 1).max().unwrap_or(0);
        let bytes = end - begin;
        self.row.resize(bytes + LANES * 4 + max_taps(components), 0);
        let rows = vertical.out_len();
        for y in 0..rows {
            let weights = &vertical.weights[y * vertical.taps..][..vertical.taps];
            let first = vertical.lo + vertical.first[y];
            let used = weights.len().min(vertical.hi - first);
            let top = first * plane.stride + begin;
            mix_rows(&plane.data[top..], plane.stride, &weights[..used], bytes, &mut self.row);
            let mut from = 0;
            for c in components {
                let columns = c.axis.out_len();
                let line = &mut out[from + y * columns..][..columns];
                from += rows * columns;
                let start = c.axis.lo * c.step + c.offset - begin;
                if c.step == 1 {
                    mix_columns(&self.row[start..], c.axis, line);
                } else {
                    let samples = c.axis.hi - c.axis.lo;
                    self.lane.resize(samples + c.axis.taps, 0);
                    for (to, of) in self.lane[..samples].iter_mut().zip(self.row[start..].iter().step_by(c.step)) {
                        *to = *of;
                    }
                    mix_columns(&self.lane, c.axis, line);
                }
            }
        }
    }
}

fn max_taps(components: &[Component<'_>]) -> usize {
    components.iter().map(|c| c.axis.taps).max().unwrap_or(0)
}

/// `row[x] = sum of weights[k] * data[k * stride + x]` for the first `bytes` bytes.
fn mix_rows(data: &[u8], stride: usize, weights: &[i16], bytes: usize, row: &mut [i16]) {
    const BLOCK: usize = 32;
    let round = 1 << (WEIGHT_BITS - ROW_BITS - 1);
    let whole = bytes - bytes % BLOCK;
    for x in (0..whole).step_by(BLOCK) {
        let mut sum = [round; BLOCK];
        for (k, w) in weights.iter().enumerate() {
            let source: &[u8; BLOCK] = data[k * stride + x..][..BLOCK].try_into().expect("a slice of BLOCK bytes");
            for (s, v) in sum.iter_mut().zip(source) {
                *s += i32::from(*w) * i32::from(i16::from(*v));
            }
        }
        for (to, s) in row[x..][..BLOCK].iter_mut().zip(&sum) {
            *to = (s >> (WEIGHT_BITS - ROW_BITS)) as i16;
        }
    }
    for x in whole..bytes {
        let sum: i32 = weights.iter().enumerate().map(|(k, w)| i32::from(*w) * i32::from(data[k * stride + x])).sum();
        row[x] = ((sum + round) >> (WEIGHT_BITS - ROW_BITS)) as i16;
    }
}

/// `line[x] = sum of the weights of output x * samples`, scaled back to [0, 255].
fn mix_columns(samples: &[i16], axis: &Axis, line: &mut [f32]) {
    let scale = 1.0 / (1_i32 << (WEIGHT_BITS + ROW_BITS)) as f32;
    for ((to, first), weights) in line.iter_mut().zip(&axis.first).zip(axis.weights.chunks_exact(axis.taps)) {
        let samples = &samples[*first..][..axis.taps];
        let mut sum = [0_i32; LANES];
        for (w, s) in weights.chunks_exact(LANES).zip(samples.chunks_exact(LANES)) {
            for lane in 0..LANES {
                sum[lane] += i32::from(w[lane]) * i32::from(s[lane]);
            }
        }
        *to = sum.iter().sum::<i32>() as f32 * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resizes one row of `input` (as a picture of height 1) to `out_len`.
    fn line(input: &[u8], span: Span, out_len: usize) -> Vec<f32> {
        let horizontal = Axis::new(input.len(), span, out_len);
        let vertical = Axis::new(1, Span { start: 0.0, len: 1.0 }, 1);
        let mut out = vec![0.0; out_len];
        let component = Component { offset: 0, step: 1, axis: &horizontal };
        Resizer::default().run(Plane { data: input, stride: input.len() }, &vertical, &[component], &mut out);
        out
    }

    fn check(input: &[u8], span: (f64, f64), expect: &[f32]) {
        let got = line(input, Span { start: span.0, len: span.1 }, expect.len());
        let far = got.iter().zip(expect).any(|(g, e)| (g - e).abs() > 0.05);
        assert!(!far, "{input:?} over {span:?}: {got:?}, expected {expect:?}");
    }

    #[test]
    fn a_line_is_resampled_with_a_triangle() {
        check(&[10, 20, 30], (0.0, 3.0), &[10.0, 20.0, 30.0]); // same size: untouched
        check(&[0, 100], (0.0, 2.0), &[0.0, 25.0, 75.0, 100.0]); // enlarging is bilinear, edges repeat
        check(&[7], (0.0, 1.0), &[7.0, 7.0, 7.0]);
        check(&[255; 9], (0.0, 9.0), &[255.0, 255.0]); // white stays white
        check(&[0, 0, 80, 80], (0.0, 4.0), &[10.0, 70.0]); // weights 1/8 3/8 3/8 1/8, the edge's repeated
        check(&[1, 1, 9, 9, 1], (2.0, 2.0), &[9.0]); // only the span is looked at
    }

    #[test]
    fn components_are_told_apart() {
        let axis = Axis::new(2, Span { start: 0.0, len: 2.0 }, 2);
        let vertical = Axis::new(1, Span { start: 0.0, len: 1.0 }, 1);
        let mut out = vec![0.0; 6];
        let components: [Component<'_>; 3] = std::array::from_fn(|offset| Component { offset, step: 3, axis: &axis });
        Resizer::default().run(Plane { data: &[1, 2, 3, 4, 5, 6], stride: 6 }, &vertical, &components, &mut out);
        assert_eq!(out, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
