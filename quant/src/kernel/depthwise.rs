//! Depthwise convolutions on channel-last images.
//!
//! Rows of the image are widened to `x - z_x` once, with their padding, into a ring that holds as many as the kernel is high;
//! then taps are plain offsets and no edge is special. Sixteen channels go at a time, two taps an instruction.

use super::super::graph::Window;
use super::super::tier::Tier;
use super::product::{Block, Finish, Form, LANES, Packing, Shape, widen};
use super::{SLACK, Stored};

/// Most taps of a kernel.
pub(crate) const TAPS_MAX: usize = 128;

/// Sizes, weights and tails of one depthwise convolution.
#[derive(Clone, Debug)]
pub(crate) struct Depthwise {
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
    window: Window,
    /// Channels of a pixel as the strips see it: several pixels of few channels are one of sixteen.
    lanes: usize,
    order: Packing,
    weights: Vec<i16>,
    bias: Vec<i32>,
    factor: Vec<f32>,
}

/// Height and width of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Per channel: weight of a tap less its zero point, start of the accumulator, factor.
pub(crate) struct Taps<'a> {
    /// Of a channel and a tap.
    pub weight: &'a dyn Fn(usize, usize) -> i32,
    /// One per channel.
    pub bias: &'a [i32],
    /// One per channel.
    pub factor: &'a [f32],
}

/// A tier's strip: `P` pixels of one block of 16 channels.
pub(super) trait Strip {
    /// Pixels at which it is best.
    const PIXELS: usize;

    /// `taps` are even in number, `at` is the offset of the first pixel, `step` of the next.
    ///
    /// # Safety
    /// The pointers must be good for the sizes, and the CPU must have the tier's instructions.
    unsafe fn strip<const P: usize>(
        taps: &[*const i16],
        at: usize,
        step: usize,
        w: *const i16,
        block: &Block,
        out: *mut u8,
    );
}

/// What the strips of a row of results read and write: the block's pointers are those of the first channel, its columns all
/// channels.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// First element of every tap, even in number where the form has pairs.
    pub taps: &'a [*const i16],
    /// Of the first pixel, from the taps.
    pub first: usize,
    /// From one pixel to the next.
    pub step: usize,
    /// Pixels.
    pub count: usize,
    /// Weights of the first block.
    pub weights: *const i16,
    /// From the weights of one block to the next.
    pub weights_step: usize,
    /// Tail.
    pub block: Block,
    /// First result.
    pub out: *mut u8,
    /// Of a result.
    pub out_bytes: usize,
}

/// A row of results in strips.
///
/// # Safety
/// As [`Strip::strip`], for every pixel and channel.
#[inline(always)]
pub(super) unsafe fn walk<S: Strip>(row: &Row<'_>) {
    let Row { taps, first, step, count, .. } = *row;
    // Even strips: 6 pixels are 3 + 3 rather than 5 + 1.
    let even = if count > S::PIXELS { count.div_ceil(count.div_ceil(S::PIXELS)) } else { count };
    for (index, channel) in (0..row.block.columns).step_by(LANES).enumerate() {
        // SAFETY: passed on from the caller; the last block's lanes are padded.
        unsafe {
            let block = Block {
                bias: row.block.bias.add(channel),
                factor: row.block.factor.add(channel),
                columns: (row.block.columns - channel).min(LANES),
                ..row.block
            };
            let w = row.weights.add(index * row.weights_step);
            let mut p = 0;
            while p < count {
                let take = (count - p).min(even);
                let at = first + channel + p * step;
                let out = row.out.add(p * block.out_stride + channel * row.out_bytes);
                match take {
                    1 => S::strip::<1>(taps, at, step, w, &block, out),
                    2 if S::PIXELS >= 2 => S::strip::<2>(taps, at, step, w, &block, out),
                    3 if S::PIXELS >= 3 => S::strip::<3>(taps, at, step, w, &block, out),
                    4 if S::PIXELS >= 4 => S::strip::<4>(taps, at, step, w, &block, out),
                    5 if S::PIXELS >= 5 => S::strip::<5>(taps, at, step, w, &block, out),
                    _ => unreachable!("a strip has at most {} pixels", S::PIXELS),
                }
                p += take;
            }
        }
    }
}

fn form(tier: Tier) -> Form {
    Form::of(tier, false, 1)
}

impl Depthwise {
    /// Packs `taps` for a `window` over images of `size`.
    pub(crate) fn new(tier: Tier, size: Size, channels: usize, out: Size, window: Window, taps: &Taps<'_>) -> Self {
        let form = form(tier);
        let is_flat = channels < LANES && LANES.is_multiple_of(channels) && window.stride[1] == 1;
        let lanes = if is_flat { LANES } else { channels };
        let count = window.kernel[0] * window.kernel[1];
        let order = Packing {
            form,
            shape: Shape { columns: lanes.next_multiple_of(LANES), segments: 1, len: 1 },
            is_wide: true,
        };
        let padded = order.padded_columns();
        let pairs = count.div_ceil(2);
        let mut weights = vec![0i16; padded * pairs * 2];
        let (mut bias, mut factor) = (vec![0; padded], vec![0.0; padded]);
        let of_lane = |lane: usize| if is_flat { Some(lane % channels) } else { (lane < channels).then_some(lane) };
        let spread = |v: &dyn Fn(usize) -> Option<i32>| (0..padded).map(|l| v(l).unwrap_or(0)).collect::<Vec<i32>>();
        order.spread(&spread(&|l| of_lane(l).map(|c| taps.bias[c])), 0, &mut bias);
        let factors: Vec<f32> = (0..padded).map(|l| of_lane(l).map_or(0.0, |c| taps.factor[c])).collect();
        order.spread(&factors, 0.0, &mut factor);
        let mut ordered = vec![0; padded];
        for tap in 0..count {
            order.spread(&spread(&|l| of_lane(l).map(|c| (taps.weight)(c, tap))), 0, &mut ordered);
            for (slot, w) in ordered.iter().enumerate() {
                let (block, lane) = (slot / LANES, slot % LANES);
                let at = match form {
                    Form::Rows4 => tap * LANES + lane,
                    _ => tap / 2 * 2 * LANES + lane * 2 + tap % 2,
                };
                weights[block * pairs * 2 * LANES + at] = *w as i16;
            }
        }
        Depthwise {
            height: size.height,
            width: size.width,
            channels,
            out_height: out.height,
            out_width: out.width,
            window,
            lanes,
            order,
            weights,
            bias,
            factor,
        }
    }

    /// Rows of the ring.
    fn ring(&self) -> usize {
        (self.window.kernel[0] - 1) * self.window.dilation[0] + 1
    }

    /// Elements of a widened row.
    fn pitch(&self) -> usize {
        let reach =
            (self.out_width - 1) * self.window.stride[1] + (self.window.kernel[1] - 1) * self.window.dilation[1] + 1;
        reach.max(self.window.pad[1] + self.width) * self.channels + SLACK
    }

    /// Bytes of the scratch memory that a run needs: the ring, and a row of zeros for what is above and below.
    pub(crate) fn scratch_bytes(&self) -> usize {
        (self.ring() + 1) * self.pitch() * 2
    }

    /// One image. `zero` is the input's zero point.
    ///
    /// # Panics
    /// If a slice is shorter than the sizes say.
    pub(crate) fn run(&self, tier: Tier, x: &[Stored], zero: i32, finish: Finish, scratch: &mut [i16], out: &mut [u8]) {
        let (pitch, ring) = (self.pitch(), self.ring());
        let [kernel_h, kernel_w] = self.window.kernel;
        let [top, left, _, _] = self.window.pad;
        let out_bytes = finish.bytes();
        let row_len = self.width * self.channels;
        assert!(x.len() >= self.height * row_len, "image of {} elements", x.len());
        assert!(scratch.len() >= (ring + 1) * pitch, "scratch memory of {} elements", scratch.len());
        assert!(
            out.len() >= self.out_height * self.out_width * self.channels * out_bytes,
            "result of {} bytes",
            out.len()
        );
        assert!(tier.is_supported() && form(tier) == self.order.form, "{tier} for {:?}", self.order.form);

        let (rows, zeros) = scratch.split_at_mut(ring * pitch);
        zeros[..pitch].fill(0);
        rows.fill(0);
        let count = kernel_h * kernel_w;
        let even = count.div_ceil(2) * 2;
        let used = if self.order.form == Form::Rows4 { count } else { even };
        let mut taps = [std::ptr::null::<i16>(); TAPS_MAX];
        let (columns, pixels, step, stride) = if self.lanes == self.channels {
            (self.channels, self.out_width, self.window.stride[1] * self.channels, self.channels)
        } else {
            (LANES, (self.out_width * self.channels) / LANES, LANES, LANES)
        };
        let rest = if self.lanes == self.channels { 0 } else { (self.out_width * self.channels) % LANES };
        let mut next = 0;
        for oy in 0..self.out_height {
            let first = oy * self.window.stride[0];
            for y in next.max(first)..first + ring {
                if let Some(y_in) = y.checked_sub(top).filter(|y| *y < self.height) {
                    let row = &mut rows[y % ring * pitch + left * self.channels..];
                    widen(tier, &x[y_in * row_len..][..row_len], zero as i16, &mut row[..row_len]);
                }
            }
            next = first + ring;
            for (ky, taps) in taps[..count].chunks_exact_mut(kernel_w).enumerate() {
                let y = first + ky * self.window.dilation[0];
                let is_inside = y.checked_sub(top).is_some_and(|y| y < self.height);
                let row = if is_inside { &rows[y % ring * pitch..][..pitch] } else { &*zeros };
                for (kx, tap) in taps.iter_mut().enumerate() {
                    *tap = row[kx * self.window.dilation[1] * self.channels..].as_ptr();
                }
            }
            if even > count {
                // Its weights are zero.
                taps[count] = taps[count - 1];
            }
            let out_row = &mut out[oy * self.out_width * self.channels * out_bytes..];
            let block = Block {
                segments: std::ptr::null(),
                segment_count: 0,
                units: 0,
                b: std::ptr::null(),
                bias: self.bias.as_ptr(),
                factor: self.factor.as_ptr(),
                offset: std::ptr::null(),
                finish,
                columns,
                out_stride: stride * out_bytes,
            };
            let mut row = Row {
                taps: &taps[..used],
                first: 0,
                step,
                count: pixels,
                weights: self.weights.as_ptr(),
                weights_step: even * LANES,
                block,
                out: out_row.as_mut_ptr(),
                out_bytes,
            };
            // SAFETY: a widened row holds what the last pixel's last tap reads, and slack for a block of fewer than 16
            // channels; `out_row` holds a row, as asserted.
            unsafe { strips(tier, &row) };
            if rest > 0 {
                row.first = pixels * step;
                row.count = 1;
                row.block.columns = rest;
                row.out = out_row[pixels * LANES * out_bytes..].as_mut_ptr();
                // SAFETY: as above, for what is left of the last sixteen.
                unsafe { strips(tier, &row) };
            }
        }
    }
}

/// # Safety
/// As [`walk`].
unsafe fn strips(tier: Tier, row: &Row<'_>) {
    // SAFETY: passed on from the caller.
    unsafe {
        match form(tier) {
            #[cfg(target_arch = "x86_64")]
            Form::PairsAvx2 => super::avx2::strips(row),
            #[cfg(target_arch = "aarch64")]
            Form::Rows4 => super::neon::strips(row),
            _ => super::scalar::strips(row),
        }
    }
}
