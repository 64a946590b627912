//! AVX2: `vpmaddwd` multiplies pairs of 16-bit values and adds each pair, exactly.
//!
//! `vpmaddubsw` would take bytes but saturates; widened left operands are written once and read by every block of columns, so
//! that the difference is the widening of weights, one instruction for 32 products of each row.

use std::arch::x86_64::*;

use super::Narrow;
use super::product::{Block, Finish, Rows, Tile, kernels, walk};

/// Pairs of i16, 8 columns a register.
struct Avx2;

/// Eight lanes of 32 bits to reals in units of the output's scale, at most `hi`.
#[inline(always)]
unsafe fn scaled(acc: __m256i, factor: __m256, hi: __m256) -> __m256i {
    // SAFETY: AVX2, as the caller promises.
    unsafe { _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc), factor), hi)) }
}

/// 32 rounded values of 4 registers in the order of `vpackssdw`: a0 and a1 are 16 columns of a row, b0 and b1 of another.
/// The low half of the result is the first row.
///
/// Conversion gives `i32::MIN` for what is too small, packing saturates, and the bounds are applied to bytes.
#[inline(always)]
pub(super) unsafe fn narrow32(v: [__m256i; 4], narrow: &Narrow) -> __m256i {
    // SAFETY: AVX2, as the caller promises.
    unsafe {
        let zero = _mm256_set1_epi16(narrow.zero as i16);
        let lo = _mm256_set1_epi8((narrow.lo as i32 + narrow.zero) as u8 as i8);
        let a = _mm256_adds_epi16(_mm256_packs_epi32(v[0], v[1]), zero);
        let b = _mm256_adds_epi16(_mm256_packs_epi32(v[2], v[3]), zero);
        let bytes = _mm256_max_epu8(_mm256_packus_epi16(a, b), lo);
        _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes)
    }
}

/// Stores the first `columns` bytes.
#[inline(always)]
pub(super) unsafe fn store_bytes(v: __m128i, columns: usize, out: *mut u8) {
    // SAFETY: `out` is good for `columns` bytes, as the caller promises.
    unsafe {
        match columns {
            16 => _mm_storeu_si128(out.cast(), v),
            8 => _mm_storel_epi64(out.cast(), v),
            _ => {
                let mut bytes = [0u8; 16];
                _mm_storeu_si128(bytes.as_mut_ptr().cast(), v);
                for (i, byte) in bytes.into_iter().enumerate().take(columns) {
                    *out.add(i) = byte;
                }
            }
        }
    }
}

/// A copy of the accumulators for [`finish`]. The tail indexes them in loops that are not unrolled, which would keep the
/// accumulators themselves in memory all through the inner loop.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn settled<const R: usize, const V: usize>(acc: &[[__m256i; V]; R]) -> [[__m256i; V]; R] {
    // SAFETY: AVX2, as the caller promises.
    let mut copy = unsafe { [[_mm256_setzero_si256(); V]; R] };
    for r in 0..R {
        for v in 0..V {
            copy[r][v] = acc[r][v];
        }
    }
    copy
}

/// Accumulators of `R` rows to results; with two registers a row, lanes are in the order of `vpackssdw`.
#[inline(always)]
pub(super) unsafe fn finish<const R: usize, const V: usize>(acc: &[[__m256i; V]; R], block: &Block, out: *mut u8) {
    // SAFETY: the block's pointers are good for its lanes, `out` for its columns in `R` rows, as the caller promises.
    unsafe {
        let factor: [__m256; V] = std::array::from_fn(|v| _mm256_loadu_ps(block.factor.add(8 * v)));
        match block.finish {
            Finish::Narrow(narrow) => {
                let hi = _mm256_set1_ps(narrow.hi);
                let mut r = 0;
                while r < R {
                    let second = if r + 1 < R { r + 1 } else { r };
                    let first = [scaled(acc[r][0], factor[0], hi), scaled(acc[r][V - 1], factor[V - 1], hi)];
                    let other = [scaled(acc[second][0], factor[0], hi), scaled(acc[second][V - 1], factor[V - 1], hi)];
                    let bytes = if V == 2 {
                        narrow32([first[0], first[1], other[0], other[1]], &narrow)
                    } else {
                        // One register a row: 4 + 4 columns are in the two halves.
                        let v = [first[0], other[0], first[0], other[0]];
                        let bytes = narrow32(v, &narrow);
                        // fours of bytes: row 0 columns 0-3, row 1 columns 0-3, row 0 columns 4-7, row 1 columns 4-7, and again
                        let order = _mm256_setr_epi32(0, 2, 0, 2, 1, 3, 1, 3);
                        _mm256_permutevar8x32_epi32(bytes, order)
                    };
                    store_bytes(_mm256_castsi256_si128(bytes), block.columns, out.add(r * block.out_stride));
                    if r + 1 < R {
                        let high = _mm256_extracti128_si256::<1>(bytes);
                        store_bytes(high, block.columns, out.add(second * block.out_stride));
                    }
                    r += 2;
                }
            }
            Finish::Real { lo, hi } => {
                let (lo, hi) = (_mm256_set1_ps(lo), _mm256_set1_ps(hi));
                for (r, acc) in acc.iter().enumerate() {
                    let mut y: [__m256; V] = std::array::from_fn(|v| {
                        let y = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[v]), factor[v]);
                        let y = if block.offset.is_null() {
                            y
                        } else {
                            _mm256_add_ps(y, _mm256_loadu_ps(block.offset.add(8 * v)))
                        };
                        _mm256_min_ps(hi, _mm256_max_ps(lo, y))
                    });
                    if V == 2 {
                        let low = _mm256_permute2f128_ps::<0x20>(y[0], y[1]);
                        y[1] = _mm256_permute2f128_ps::<0x31>(y[0], y[1]);
                        y[0] = low;
                    }
                    // Memory of bytes: nothing says that it is aligned for f32.
                    let out = out.add(r * block.out_stride);
                    if block.columns == 8 * V {
                        for (v, y) in y.iter().enumerate() {
                            _mm256_storeu_ps(out.add(32 * v).cast(), *y);
                        }
                    } else {
                        let mut reals = [0f32; 16];
                        for (v, y) in y.iter().enumerate() {
                            _mm256_storeu_ps(reals.as_mut_ptr().add(8 * v), *y);
                        }
                        std::ptr::copy_nonoverlapping(reals.as_ptr().cast::<u8>(), out, 4 * block.columns);
                    }
                }
            }
        }
    }
}

impl Tile for Avx2 {
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn tile<const R: usize, const V: usize, const WIDE: bool>(a: &[*const u8; R], block: &Block, out: *mut u8) {
        // SAFETY: pointers are good for the sizes, and the CPU has AVX2, as the caller promises.
        unsafe {
            let bias: [__m256i; V] = std::array::from_fn(|v| _mm256_loadu_si256(block.bias.add(8 * v).cast()));
            let mut acc = [bias; R];
            let step = V * if WIDE { 32 } else { 16 };
            let mut b = block.b;
            for s in 0..block.segment_count {
                let segment = *block.segments.add(s);
                let x: [*const u8; R] = std::array::from_fn(|r| a[r].add(segment));
                for u in 0..block.units {
                    let w: [__m256i; V] = std::array::from_fn(|v| {
                        if WIDE {
                            _mm256_loadu_si256(b.add(32 * v).cast())
                        } else {
                            _mm256_cvtepi8_epi16(_mm_loadu_si128(b.add(16 * v).cast()))
                        }
                    });
                    for r in 0..R {
                        let pair = _mm256_set1_epi32(x[r].add(4 * u).cast::<i32>().read_unaligned());
                        for v in 0..V {
                            acc[r][v] = _mm256_add_epi32(acc[r][v], _mm256_madd_epi16(pair, w[v]));
                        }
                    }
                    b = b.add(step);
                }
            }
            finish::<R, V>(&settled(&acc), block, out);
        }
    }
}

impl super::depthwise::Strip for Avx2 {
    const PIXELS: usize = 4;

    #[inline(always)]
    unsafe fn strip<const P: usize>(
        taps: &[*const i16],
        at: usize,
        step: usize,
        w: *const i16,
        block: &Block,
        out: *mut u8,
    ) {
        // SAFETY: pointers are good for the sizes, and the CPU has AVX2, as the caller promises.
        unsafe {
            let bias: [__m256i; 2] = std::array::from_fn(|v| _mm256_loadu_si256(block.bias.add(8 * v).cast()));
            let mut acc = [bias; P];
            let mut w = w;
            for pair in taps.chunks_exact(2) {
                let (x0, x1) = (pair[0].add(at), pair[1].add(at));
                let (w0, w1) = (_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(16).cast()));
                for (p, acc) in acc.iter_mut().enumerate() {
                    let a = _mm256_loadu_si256(x0.add(p * step).cast());
                    let b = _mm256_loadu_si256(x1.add(p * step).cast());
                    acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), w0));
                    acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), w1));
                }
                w = w.add(32);
            }
            finish::<P, 2>(&settled(&acc), block, out);
        }
    }
}

/// Depthwise strips.
///
/// # Safety
/// As [`super::depthwise::walk`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn strips(row: &super::depthwise::Row<'_>) {
    // SAFETY: passed on from the caller.
    unsafe { super::depthwise::walk::<Avx2>(row) }
}

kernels!(
    /// For [`super::product::Form::PairsAvx2`].
    kernel, Avx2, "avx2"
);
