//! Values from one order of axes to another, padded images, and real-numbered planes to channel-last int8.

use super::super::tier::Tier;
use super::elementwise::quantize;
use super::{Narrow, Stored};

/// Copies into a dense result of extents `dims` from elements `strides` apart.
///
/// # Panics
/// If the source is shorter than the strides reach.
pub(crate) fn gather<T: Copy>(x: &[T], start: usize, dims: &[usize], strides: &[usize], out: &mut [T]) {
    let (Some((&len, outer)), Some((&step, outer_strides))) = (dims.split_last(), strides.split_last()) else {
        out[0] = x[start];
        return;
    };
    let count: usize = outer.iter().product();
    for (row, out) in out.chunks_exact_mut(len).take(count).enumerate() {
        let (mut rest, mut at) = (row, start);
        for (dim, stride) in outer.iter().zip(outer_strides).rev() {
            at += rest % dim * stride;
            rest /= dim;
        }
        if step == 1 {
            out.copy_from_slice(&x[at..at + len]);
        } else {
            let source = x[at..].iter().step_by(step.max(1));
            if step == 0 {
                out.fill(x[at]);
            } else {
                out.iter_mut().zip(source).for_each(|(y, &x)| *y = x);
            }
        }
    }
}

/// Pixels whose planes are quantized at a time.
const PIXELS: usize = 64;
/// Planes that are quantized at a time.
const PLANES: usize = 4;

/// `[channels, pixels]` real numbers to `[pixels, channels]` int8.
///
/// # Panics
/// If a slice is shorter than the sizes say.
pub(crate) fn quantize_planes(
    tier: Tier,
    x: &[f32],
    (channels, pixels): (usize, usize),
    scale: f32,
    narrow: Narrow,
    out: &mut [Stored],
) {
    let mut block = [[0 as Stored; PIXELS]; PLANES];
    for p in (0..pixels).step_by(PIXELS) {
        let n = (pixels - p).min(PIXELS);
        for c in (0..channels).step_by(PLANES) {
            let planes = (channels - c).min(PLANES);
            for (i, plane) in block[..planes].iter_mut().enumerate() {
                quantize(tier, &x[(c + i) * pixels + p..][..n], scale, narrow, &mut plane[..n]);
            }
            let out = &mut out[p * channels..(p + n) * channels];
            if (planes, channels) == (3, 3) {
                for (i, out) in out.chunks_exact_mut(3).enumerate() {
                    (out[0], out[1], out[2]) = (block[0][i], block[1][i], block[2][i]);
                }
            } else {
                for (i, out) in out.chunks_exact_mut(channels).enumerate() {
                    for (out, plane) in out[c..].iter_mut().zip(&block[..planes]) {
                        *out = plane[i];
                    }
                }
            }
        }
    }
}
