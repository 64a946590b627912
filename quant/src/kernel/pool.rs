//! Pools over channel-last images.

use super::super::graph::Window;
use super::depthwise::Size;
use super::{Narrow, Stored, widened};

/// Sizes of a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pool {
    /// Of the input.
    pub size: Size,
    /// Of the output.
    pub out: Size,
    /// Channels of both.
    pub channels: usize,
    /// Kernel, stride, padding, dilation.
    pub window: Window,
}

impl Pool {
    /// Offsets of the pixels that an output pixel sees.
    #[inline(always)]
    fn seen(&self, oy: usize, ox: usize, mut f: impl FnMut(usize)) {
        let Window { kernel, stride, dilation, pad } = self.window;
        for ky in 0..kernel[0] {
            let Some(y) = (oy * stride[0] + ky * dilation[0]).checked_sub(pad[0]).filter(|y| *y < self.size.height)
            else {
                continue;
            };
            for kx in 0..kernel[1] {
                let Some(x) = (ox * stride[1] + kx * dilation[1]).checked_sub(pad[1]).filter(|x| *x < self.size.width)
                else {
                    continue;
                };
                f((y * self.size.width + x) * self.channels);
            }
        }
    }
}

/// What a mean needs: zero point and scale of the input, scale of the output, `n`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mean {
    /// Zero point of the input.
    pub zero: i32,
    /// Scale of the input.
    pub scale: f32,
    /// Scale of the output.
    pub out_scale: f32,
    /// Whether padding counts.
    pub count_include_pad: bool,
    /// To int8.
    pub narrow: Narrow,
}

widened! {
    /// Mean of one image; `sums` holds a number per channel.
    pub(crate) fn average(pool: &Pool, mean: &Mean, x: &[Stored], sums: &mut [i32], out: &mut [Stored]) {
        let c = pool.channels;
        let sums = &mut sums[..c];
        for oy in 0..pool.out.height {
            for ox in 0..pool.out.width {
                sums.fill(0);
                let mut count = 0;
                pool.seen(oy, ox, |at| {
                    for (sum, &x) in sums.iter_mut().zip(&x[at..at + c]) {
                        *sum += i32::from(x);
                    }
                    count += 1;
                });
                let [h, w] = pool.window.kernel;
                let n = if mean.count_include_pad { h * w } else { count as usize };
                let factor = mean.scale / (mean.out_scale * n as f32);
                let base = count * mean.zero;
                let row = &mut out[(oy * pool.out.width + ox) * c..][..c];
                for (y, &sum) in row.iter_mut().zip(&*sums) {
                    *y = mean.narrow.apply((sum - base) as f32 * factor);
                }
            }
        }
    }
}

widened! {
    /// Largest of one image of int8.
    pub(crate) fn largest(pool: &Pool, x: &[Stored], out: &mut [Stored]) {
        let c = pool.channels;
        for oy in 0..pool.out.height {
            for ox in 0..pool.out.width {
                let row = &mut out[(oy * pool.out.width + ox) * c..][..c];
                row.fill(Stored::MIN);
                pool.seen(oy, ox, |at| {
                    for (y, &x) in row.iter_mut().zip(&x[at..at + c]) {
                        *y = (*y).max(x);
                    }
                });
            }
        }
    }
}

widened! {
    /// Largest of one image of reals.
    pub(crate) fn largest_real(pool: &Pool, x: &[f32], out: &mut [f32]) {
        let c = pool.channels;
        for oy in 0..pool.out.height {
            for ox in 0..pool.out.width {
                let row = &mut out[(oy * pool.out.width + ox) * c..][..c];
                row.fill(f32::NEG_INFINITY);
                pool.seen(oy, ox, |at| {
                    for (y, &x) in row.iter_mut().zip(&x[at..at + c]) {
                        *y = if x > *y { x } else { *y };
                    }
                });
            }
        }
    }
}
