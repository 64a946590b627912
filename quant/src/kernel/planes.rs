//! Depthwise convolutions of real numbers on channel-first images: every channel is a plane of its own.
//!
//! The plane's rows are copied with their padding, sorted by what is left of their index over the stride, so that every tap of
//! a row of results is a run of neighbours. Taps are added in the order of the kernel, from the bias on, nothing fused.

use super::super::graph::Window;
use super::depthwise::Size;
use super::widened;

/// Results that stay in registers at a time, for wide and for narrow images.
const WIDE: usize = 32;
const NARROW: usize = 8;

/// Sizes of a convolution.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Planes {
    /// Of the input.
    pub size: [usize; 2],
    /// Of the output.
    pub out: [usize; 2],
    /// Height and width.
    pub kernel: [usize; 2],
    /// Down and right.
    pub stride: [usize; 2],
    /// Down and right.
    pub dilation: [usize; 2],
    /// Above and left.
    pub pad: [usize; 2],
}

impl Planes {
    /// For a window over images of one size.
    pub(crate) fn new(size: Size, out: Size, window: Window) -> Self {
        Planes {
            size: [size.height, size.width],
            out: [out.height, out.width],
            kernel: window.kernel,
            stride: window.stride,
            dilation: window.dilation,
            pad: [window.pad[0], window.pad[1]],
        }
    }

    /// Elements of a row of one phase, with room for a whole block past the last result.
    fn pitch(&self) -> usize {
        self.out[1].next_multiple_of(WIDE) + ((self.kernel[1] - 1) * self.dilation[1]).div_ceil(self.stride[1]) + 1
    }

    fn rows(&self) -> usize {
        (self.out[0] - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1
    }

    /// Elements of scratch memory for a plane.
    pub(crate) fn scratch_len(&self) -> usize {
        self.rows() * self.stride[1] * self.pitch()
    }

    /// Copies a plane, padded, into its phases.
    #[inline(always)]
    fn pad_into(&self, x: &[f32], scratch: &mut [f32]) {
        let [height, width] = self.size;
        let (phases, pitch) = (self.stride[1], self.pitch());
        for row in 0..self.rows() {
            let into = &mut scratch[row * phases * pitch..][..phases * pitch];
            into.fill(0.0);
            let Some(y) = row.checked_sub(self.pad[0]).filter(|y| *y < height) else { continue };
            let x = &x[y * width..][..width];
            if phases == 1 {
                let take = width.min(pitch - self.pad[1]);
                into[self.pad[1]..][..take].copy_from_slice(&x[..take]);
                continue;
            }
            for (i, &x) in x.iter().enumerate() {
                let at = i + self.pad[1];
                if at / phases < pitch {
                    into[at % phases * pitch + at / phases] = x;
                }
            }
        }
    }

    #[inline(always)]
    fn block<const N: usize>(&self, scratch: &[f32], weights: &[f32], bias: f32, (oy, ox): (usize, usize)) -> [f32; N] {
        let (phases, pitch) = (self.stride[1], self.pitch());
        let mut acc = [bias; N];
        for ky in 0..self.kernel[0] {
            let row = (oy * self.stride[0] + ky * self.dilation[0]) * phases * pitch;
            for kx in 0..self.kernel[1] {
                let offset = kx * self.dilation[1];
                let x = &scratch[row + offset % phases * pitch + offset / phases + ox..][..N];
                let w = weights[ky * self.kernel[1] + kx];
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc += x * w;
                }
            }
        }
        acc
    }
}

widened! {
    /// All planes: `x` is `[planes, height, width]`; weights and bias repeat with the images.
    pub(crate) fn convolve(
        planes: &Planes,
        x: &[f32],
        weights: &[f32],
        bias: &[f32],
        scratch: &mut [f32],
        out: &mut [f32],
    ) {
        let taps = planes.kernel[0] * planes.kernel[1];
        let (len, out_len) = (planes.size[0] * planes.size[1], planes.out[0] * planes.out[1]);
        for (plane, out) in out.chunks_exact_mut(out_len).enumerate() {
            let channel = plane % bias.len();
            let (weights, bias) = (&weights[channel * taps..][..taps], bias[channel]);
            planes.pad_into(&x[plane * len..][..len], scratch);
            for (oy, row) in out.chunks_exact_mut(planes.out[1]).enumerate() {
                let mut ox = 0;
                while ox < row.len() {
                    let left = row.len() - ox;
                    if left > NARROW {
                        let take = left.min(WIDE);
                        let block: [f32; WIDE] = planes.block(scratch, weights, bias, (oy, ox));
                        row[ox..ox + take].copy_from_slice(&block[..take]);
                        ox += take;
                    } else {
                        let block: [f32; NARROW] = planes.block(scratch, weights, bias, (oy, ox));
                        row[ox..].copy_from_slice(&block[..left]);
                        ox = row.len();
                    }
                }
            }
        }
    }
}
