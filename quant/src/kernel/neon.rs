//! aarch64: widening products of 16-bit values (`smlal`), four-byte dot products (`sdot`), 8-byte matrix products (`smmla`).
//!
//! The last two have no stable intrinsics (`vdotq_s32`, `vmmlaq_s32`), so that they are inline assembly inside functions that
//! enable the feature. All three tiers share the tail and the depthwise strips.

use std::arch::aarch64::*;
use std::arch::asm;

use super::product::{Block, Finish, Form, Kernel, Rows, Tile, kernels, walk};

/// Four i16 of the left operand at a time, each times a row of columns.
struct Neon;
/// Four bytes of the left operand at a time.
struct Dot;
/// Eight bytes of two rows of the left operand at a time.
struct Matrix;

/// Stores the first `columns` bytes of sixteen.
///
/// # Safety
/// `out` must be good for them.
#[cold]
#[inline(never)]
unsafe fn store_some(v: int8x16_t, columns: usize, out: *mut u8) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut bytes = [0i8; 16];
        vst1q_s8(bytes.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, columns);
    }
}

/// Accumulators of one row to int8; of four registers, `2 * V` are used. `bounds` are zero point, smallest, largest.
///
/// # Safety
/// `out` must be good for `columns` bytes.
#[inline(always)]
unsafe fn narrow_row<const V: usize>(
    acc: [int32x4_t; 4],
    factor: [float32x4_t; 4],
    bounds: (int16x8_t, int8x16_t, int8x16_t),
    columns: usize,
    out: *mut u8,
) {
    // SAFETY: as the caller promises.
    unsafe {
        // Conversion and narrowing saturate; the bounds are integers, so that they may come last.
        let rounded = |v: usize| vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(acc[v]), factor[v]));
        let low = vqmovn_high_s32(vqmovn_s32(rounded(0)), rounded(1));
        let high = if V == 2 { vqmovn_high_s32(vqmovn_s32(rounded(2)), rounded(3)) } else { low };
        let bytes = vqmovn_high_s16(vqmovn_s16(vqaddq_s16(low, bounds.0)), vqaddq_s16(high, bounds.0));
        let bytes = vminq_s8(vmaxq_s8(bytes, bounds.1), bounds.2);
        match columns {
            16 if V == 2 => vst1q_s8(out.cast(), bytes),
            8 => vst1_s8(out.cast(), vget_low_s8(bytes)),
            _ => store_some(bytes, columns, out),
        }
    }
}

/// Accumulators of `R` rows to results; of four registers, `2 * V` are used.
#[inline(always)]
unsafe fn finish<const R: usize, const V: usize>(acc: &[[int32x4_t; 4]; R], block: &Block, out: *mut u8) {
    // SAFETY: the block's pointers are good for its lanes, `out` for its columns in `R` rows, as the caller promises.
    unsafe {
        let Finish::Narrow(narrow) = block.finish else {
            // A copy: what is lent to a function lives in memory, also in the loop that made it.
            let copy = *acc;
            return finish_real::<V>(&copy, block, out);
        };
        let mut factor = [vdupq_n_f32(0.0); 4];
        for v in 0..2 * V {
            factor[v] = vld1q_f32(block.factor.add(4 * v));
        }
        let bounds = (
            vdupq_n_s16(narrow.zero as i16),
            vdupq_n_s8((narrow.lo as i32 + narrow.zero) as i8),
            vdupq_n_s8((narrow.hi as i32 + narrow.zero) as i8),
        );
        for r in 0..R {
            narrow_row::<V>(acc[r], factor, bounds, block.columns, out.add(r * block.out_stride));
        }
    }
}

/// The tail for real results.
///
/// # Safety
/// As [`finish`].
#[inline(never)]
unsafe fn finish_real<const V: usize>(acc: &[[int32x4_t; 4]], block: &Block, out: *mut u8) {
    let Finish::Real { lo, hi } = block.finish else { return };
    // SAFETY: the block's pointers are good for its lanes, `out` for its columns in every row, as the caller promises.
    unsafe {
        let (lo, hi) = (vdupq_n_f32(lo), vdupq_n_f32(hi));
        for (r, acc) in acc.iter().enumerate() {
            let mut reals = [0f32; 16];
            for v in 0..2 * V {
                let y = vmulq_f32(vcvtq_f32_s32(acc[v]), vld1q_f32(block.factor.add(4 * v)));
                let y = if block.offset.is_null() { y } else { vaddq_f32(y, vld1q_f32(block.offset.add(4 * v))) };
                // Comparisons, because fmax would make +0 of -0.
                let y = vbslq_f32(vcltq_f32(y, lo), lo, y);
                let y = vbslq_f32(vcgtq_f32(y, hi), hi, y);
                vst1q_f32(reals.as_mut_ptr().add(4 * v), y);
            }
            // Memory of bytes: nothing says that it is aligned for f32.
            let out = out.add(r * block.out_stride);
            std::ptr::copy_nonoverlapping(reals.as_ptr().cast::<u8>(), out, 4 * block.columns);
        }
    }
}

/// The accumulators' start: the bias in every row.
#[inline(always)]
unsafe fn start<const R: usize, const V: usize>(block: &Block) -> [[int32x4_t; 4]; R] {
    // SAFETY: the bias has the block's lanes, as the caller promises.
    unsafe {
        let mut bias = [vdupq_n_s32(0); 4];
        for v in 0..2 * V {
            bias[v] = vld1q_s32(block.bias.add(4 * v));
        }
        [bias; R]
    }
}

impl Tile for Neon {
    const ROWS: usize = 5;

    #[inline(always)]
    unsafe fn tile<const R: usize, const V: usize, const WIDE: bool>(a: &[*const u8; R], block: &Block, out: *mut u8) {
        // SAFETY: pointers are good for the sizes, as the caller promises.
        unsafe {
            let mut acc = start::<R, V>(block);
            let mut b = block.b;
            for s in 0..block.segment_count {
                let segment = *block.segments.add(s);
                let x: [*const i16; R] = std::array::from_fn(|r| a[r].add(segment).cast());
                for u in 0..block.units {
                    let four: [int16x4_t; R] = std::array::from_fn(|r| vld1_s16(x[r].add(4 * u)));
                    macro_rules! step {
                        ($j:literal) => {
                            let (w0, w1) = if WIDE {
                                let w = b.cast::<i16>();
                                let w0 = vld1q_s16(w);
                                (w0, if V == 2 { vld1q_s16(w.add(8)) } else { w0 })
                            } else if V == 2 {
                                let w = vld1q_s8(b.cast());
                                (vmovl_s8(vget_low_s8(w)), vmovl_high_s8(w))
                            } else {
                                let w = vmovl_s8(vld1_s8(b.cast()));
                                (w, w)
                            };
                            for r in 0..R {
                                acc[r][0] = vmlal_lane_s16::<$j>(acc[r][0], vget_low_s16(w0), four[r]);
                                acc[r][1] = vmlal_high_lane_s16::<$j>(acc[r][1], w0, four[r]);
                                if V == 2 {
                                    acc[r][2] = vmlal_lane_s16::<$j>(acc[r][2], vget_low_s16(w1), four[r]);
                                    acc[r][3] = vmlal_high_lane_s16::<$j>(acc[r][3], w1, four[r]);
                                }
                            }
                            b = b.add(V * if WIDE { 16 } else { 8 });
                        };
                    }
                    step!(0);
                    step!(1);
                    step!(2);
                    step!(3);
                }
            }
            finish::<R, V>(&acc, block, out);
        }
    }
}

/// `sdot` of each column's four weights with the four bytes of `x` that `$lane` names.
macro_rules! sdot {
    ($acc:expr, $w:expr, $x:expr, $lane:literal) => {
        asm!(
            concat!("sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[", $lane, "]"),
            acc = inout(vreg) $acc,
            w = in(vreg) $w,
            x = in(vreg) $x,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
}

impl Tile for Dot {
    const ROWS: usize = 5;

    #[inline(always)]
    unsafe fn tile<const R: usize, const V: usize, const WIDE: bool>(a: &[*const u8; R], block: &Block, out: *mut u8) {
        // SAFETY: pointers are good for the sizes, and the CPU has `sdot`, as the caller promises.
        unsafe {
            let mut acc = start::<R, V>(block);
            let mut b = block.b.cast::<i8>();
            for s in 0..block.segment_count {
                let segment = *block.segments.add(s);
                let x: [*const i8; R] = std::array::from_fn(|r| a[r].add(segment).cast());
                let mut u = 0;
                while u + 4 <= block.units {
                    let sixteen: [int8x16_t; R] = std::array::from_fn(|r| vld1q_s8(x[r].add(4 * u)));
                    macro_rules! step {
                        ($lane:literal) => {
                            let mut w = [vdupq_n_s8(0); 4];
                            for v in 0..2 * V {
                                w[v] = vld1q_s8(b.add(16 * v));
                            }
                            for r in 0..R {
                                for v in 0..2 * V {
                                    sdot!(acc[r][v], w[v], sixteen[r], $lane);
                                }
                            }
                            b = b.add(32 * V);
                        };
                    }
                    step!("0");
                    step!("1");
                    step!("2");
                    step!("3");
                    u += 4;
                }
                while u < block.units {
                    let mut w = [vdupq_n_s8(0); 4];
                    for v in 0..2 * V {
                        w[v] = vld1q_s8(b.add(16 * v));
                    }
                    for r in 0..R {
                        let four = vld1q_dup_s32(x[r].add(4 * u).cast());
                        for v in 0..2 * V {
                            sdot!(acc[r][v], w[v], four, "0");
                        }
                    }
                    b = b.add(32 * V);
                    u += 1;
                }
            }
            finish::<R, V>(&acc, block, out);
        }
    }
}

impl Tile for Matrix {
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn tile<const R: usize, const V: usize, const WIDE: bool>(a: &[*const u8; R], block: &Block, out: *mut u8) {
        // SAFETY: pointers are good for the sizes, and the CPU has `smmla`, as the caller promises.
        unsafe {
            // Of two rows and two columns each; of three pairs of rows, those that `R` needs.
            let mut acc = [[vdupq_n_s32(0); 8]; 3];
            for pair in 0..R.div_ceil(2) {
                for v in 0..4 * V {
                    let bias = vld1_s32(block.bias.add(2 * v));
                    acc[pair][v] = vcombine_s32(bias, bias);
                }
            }
            let mut b = block.b.cast::<i8>();
            for s in 0..block.segment_count {
                let segment = *block.segments.add(s);
                for u in 0..block.units {
                    let mut x = [vdupq_n_s8(0); 3];
                    for pair in 0..R.div_ceil(2) {
                        let (first, second) = (2 * pair, if 2 * pair + 1 < R { 2 * pair + 1 } else { 2 * pair });
                        let at = segment + 8 * u;
                        x[pair] = vcombine_s8(vld1_s8(a[first].add(at).cast()), vld1_s8(a[second].add(at).cast()));
                    }
                    for v in 0..4 * V {
                        let w = vld1q_s8(b.add(16 * v));
                        for pair in 0..R.div_ceil(2) {
                            asm!(
                                "smmla {acc:v}.4s, {x:v}.16b, {w:v}.16b",
                                acc = inout(vreg) acc[pair][v],
                                x = in(vreg) x[pair],
                                w = in(vreg) w,
                                options(pure, nomem, nostack, preserves_flags)
                            );
                        }
                    }
                    b = b.add(64 * V);
                }
            }
            let mut rows = [[vdupq_n_s32(0); 4]; R];
            for r in 0..R {
                for v in 0..2 * V {
                    let (p, q) =
                        (vreinterpretq_s64_s32(acc[r / 2][2 * v]), vreinterpretq_s64_s32(acc[r / 2][2 * v + 1]));
                    rows[r][v] = vreinterpretq_s32_s64(if r % 2 == 0 { vzip1q_s64(p, q) } else { vzip2q_s64(p, q) });
                }
            }
            finish::<R, V>(&rows, block, out);
        }
    }
}

impl super::depthwise::Strip for Neon {
    const PIXELS: usize = 5;

    #[inline(always)]
    unsafe fn strip<const P: usize>(
        taps: &[*const i16],
        at: usize,
        step: usize,
        w: *const i16,
        block: &Block,
        out: *mut u8,
    ) {
        // SAFETY: pointers are good for the sizes, as the caller promises.
        unsafe {
            let mut acc = start::<P, 2>(block);
            let mut w = w;
            for tap in taps {
                let x = tap.add(at);
                let (w0, w1) = (vld1q_s16(w), vld1q_s16(w.add(8)));
                for p in 0..P {
                    let (x0, x1) = (vld1q_s16(x.add(p * step)), vld1q_s16(x.add(p * step + 8)));
                    acc[p][0] = vmlal_s16(acc[p][0], vget_low_s16(x0), vget_low_s16(w0));
                    acc[p][1] = vmlal_high_s16(acc[p][1], x0, w0);
                    acc[p][2] = vmlal_s16(acc[p][2], vget_low_s16(x1), vget_low_s16(w1));
                    acc[p][3] = vmlal_high_s16(acc[p][3], x1, w1);
                }
                w = w.add(16);
            }
            finish::<P, 2>(&acc, block, out);
        }
    }
}

/// Depthwise strips.
///
/// # Safety
/// As [`super::depthwise::walk`].
pub(super) unsafe fn strips(row: &super::depthwise::Row<'_>) {
    // SAFETY: passed on from the caller.
    unsafe { super::depthwise::walk::<Neon>(row) }
}

kernels!(
    /// For [`Form::Rows4`].
    wide, Neon
);

#[target_feature(enable = "dotprod")]
unsafe fn dot<const V: usize>(rows: &Rows<'_>, range: (usize, usize), block: &Block, out: *mut u8) {
    // SAFETY: passed on from the caller.
    unsafe { walk::<Dot, V, false>(rows, range, block, out) }
}

#[target_feature(enable = "i8mm")]
unsafe fn matrix<const V: usize>(rows: &Rows<'_>, range: (usize, usize), block: &Block, out: *mut u8) {
    // SAFETY: passed on from the caller.
    unsafe { walk::<Matrix, V, false>(rows, range, block, out) }
}

/// For the forms of aarch64.
pub(super) fn kernel(form: Form, lanes: usize, is_wide: bool) -> Kernel {
    match (form, lanes, is_wide) {
        (Form::Quads, 8, _) => dot::<1>,
        (Form::Quads, ..) => dot::<2>,
        (Form::Octets, 8, _) => matrix::<1>,
        (Form::Octets, ..) => matrix::<2>,
        _ => wide(lanes, is_wide),
    }
}
