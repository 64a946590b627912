//! The loops of the quantization operators, written so that they vectorize.
//!
//! Each is compiled twice on x86-64, for the baseline and for AVX2, and the faster one the CPU has is taken: the same
//! Rust, hence the same values. Elsewhere (aarch64) the baseline has the vector instructions already.

use super::super::Affine;
use super::real::ROUND;

/// `round_half_even(clamp(x / scale))`, with NaN left NaN: the comparisons are false for it, so that `v` is taken.
/// Clamping first is the same as clamping last, because the bounds are integers.
#[inline(always)]
fn centred(x: f32, scale: f32, lo: f32, hi: f32) -> f32 {
    let v = x / scale;
    let v = if lo > v { lo } else { v };
    let v = if hi < v { hi } else { v };
    (v + ROUND) - ROUND
}

#[inline(always)]
fn fake_quantize_body(x: &mut [f32], a: &Affine) {
    let (lo, hi) = a.centred_range();
    let scale = a.scale;
    for x in x {
        *x = centred(*x, scale, lo, hi) * scale;
    }
}

#[inline(always)]
fn quantize_body<Q>(x: &[f32], q: &mut [Q], a: &Affine, narrow: impl Fn(i32) -> Q) {
    let (lo, hi) = a.centred_range();
    let (scale, zero_point) = (a.scale, a.zero_point);
    for (q, &x) in q.iter_mut().zip(x) {
        *q = narrow(centred(x, scale, lo, hi) as i32 + zero_point);
    }
}

#[inline(always)]
fn dequantize_body<Q: Copy + Into<i32>>(q: &[Q], y: &mut [f32], a: &Affine) {
    let (scale, zero_point) = (a.scale, a.zero_point);
    for (y, &q) in y.iter_mut().zip(q) {
        *y = (q.into() - zero_point) as f32 * scale;
    }
}

/// In place: the nearest value an int8 tensor can hold.
pub(in super::super) fn fake_quantize(x: &mut [f32], a: &Affine) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(x: &mut [f32], a: &Affine) {
            fake_quantize_body(x, a);
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the only requirement is AVX2, and the CPU has just said that it has it.
            return unsafe { avx2(x, a) };
        }
    }
    fake_quantize_body(x, a);
}

/// f32 to integers; `narrow` is the cast to `Q`, of a value in `Q`'s range.
pub(in super::super) fn quantize<Q>(x: &[f32], q: &mut [Q], a: &Affine, narrow: impl Fn(i32) -> Q) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<Q>(x: &[f32], q: &mut [Q], a: &Affine, narrow: impl Fn(i32) -> Q) {
            quantize_body(x, q, a, narrow);
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the only requirement is AVX2, and the CPU has just said that it has it.
            return unsafe { avx2(x, q, a, narrow) };
        }
    }
    quantize_body(x, q, a, narrow);
}

/// Integers to f32.
pub(in super::super) fn dequantize<Q: Copy + Into<i32>>(q: &[Q], y: &mut [f32], a: &Affine) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<Q: Copy + Into<i32>>(q: &[Q], y: &mut [f32], a: &Affine) {
            dequantize_body(q, y, a);
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the only requirement is AVX2, and the CPU has just said that it has it.
            return unsafe { avx2(q, y, a) };
        }
    }
    dequantize_body(q, y, a);
}
