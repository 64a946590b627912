//! AVX-VNNI and AVX-512 VNNI: `vpdpbusd` adds the products of four unsigned bytes of the left operand with four signed bytes
//! of a column to its 32-bit accumulator, without saturation.
//!
//! Both use one packing and AVX2's tail: a 512-bit register is the two 256-bit ones side by side.

use std::arch::x86_64::*;

use super::avx2::{finish, settled};
use super::product::{Block, Kernel, Rows, Tile, walk};

/// 256-bit registers, as AVX-VNNI has them.
struct Vnni256;
/// 512-bit registers.
struct Vnni512;

/// Four bytes of a row in every lane.
///
/// # Safety
/// `x` must be good for four bytes.
#[inline(always)]
unsafe fn four(x: *const u8) -> i32 {
    // SAFETY: as the caller promises.
    unsafe { x.cast::<i32>().read_unaligned() }
}

/// The loop over segments and steps: `$multiply(acc, x, w)` on accumulators of `$count` registers a row.
macro_rules! quads {
    ($a:ident, $block:ident, $acc:ident, $count:expr, $bytes:expr, $load:expr, $set:expr, $multiply:expr) => {
        let mut b = $block.b;
        for s in 0..$block.segment_count {
            let segment = *$block.segments.add(s);
            let x: [*const u8; R] = std::array::from_fn(|r| $a[r].add(segment));
            for u in 0..$block.units {
                let mut w = [$load(b); $count];
                for (v, w) in w.iter_mut().enumerate() {
                    *w = $load(b.add($bytes * v));
                }
                for r in 0..R {
                    let x = $set(four(x[r].add(4 * u)));
                    for v in 0..$count {
                        $acc[r][v] = $multiply($acc[r][v], x, w[v]);
                    }
                }
                b = b.add($bytes * $count);
            }
        }
    };
}

#[inline(always)]
unsafe fn load256(p: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe { _mm256_loadu_si256(p.cast()) }
}

#[inline(always)]
unsafe fn load512(p: *const u8) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe { _mm512_loadu_si512(p.cast()) }
}

impl Tile for Vnni256 {
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn tile<const R: usize, const V: usize, const WIDE: bool>(a: &[*const u8; R], block: &Block, out: *mut u8) {
        // SAFETY: pointers are good for the sizes, and the CPU has AVX-VNNI, as the caller promises.
        unsafe {
            let bias: [__m256i; V] = std::array::from_fn(|v| load256(block.bias.add(8 * v).cast()));
            let mut acc = [bias; R];
            quads!(a, block, acc, V, 32, load256, _mm256_set1_epi32, _mm256_dpbusd_avx_epi32);
            finish::<R, V>(&settled(&acc), block, out);
        }
    }
}

impl Tile for Vnni512 {
    const ROWS: usize = 12;

    #[inline(always)]
    unsafe fn tile<const R: usize, const V: usize, const WIDE: bool>(a: &[*const u8; R], block: &Block, out: *mut u8) {
        // SAFETY: pointers are good for the sizes, and the CPU has AVX-512 VNNI and VL, as the caller promises.
        unsafe {
            if V == 1 {
                let mut acc = [[load256(block.bias.cast())]; R];
                quads!(a, block, acc, 1, 32, load256, _mm256_set1_epi32, _mm256_dpbusd_epi32);
                return finish::<R, 1>(&settled(&acc), block, out);
            }
            let mut acc = [[load512(block.bias.cast())]; R];
            quads!(a, block, acc, 1, 64, load512, _mm512_set1_epi32, _mm512_dpbusd_epi32);
            let mut halves = [[_mm256_setzero_si256(); 2]; R];
            for r in 0..R {
                halves[r] = [_mm512_castsi512_si256(acc[r][0]), _mm512_extracti64x4_epi64::<1>(acc[r][0])];
            }
            finish::<R, 2>(&halves, block, out);
        }
    }
}

#[target_feature(enable = "avx2,avxvnni")]
unsafe fn narrow<const V: usize>(rows: &Rows<'_>, range: (usize, usize), block: &Block, out: *mut u8) {
    // SAFETY: passed on from the caller.
    unsafe { walk::<Vnni256, V, false>(rows, range, block, out) }
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn wide<const V: usize>(rows: &Rows<'_>, range: (usize, usize), block: &Block, out: *mut u8) {
    // SAFETY: passed on from the caller.
    unsafe { walk::<Vnni512, V, false>(rows, range, block, out) }
}

/// For [`super::product::Form::QuadsAvx2`]; `is_512` says which of the two.
pub(super) fn kernel(is_512: bool, lanes: usize) -> Kernel {
    match (is_512, lanes) {
        (false, 8) => narrow::<1>,
        (false, _) => narrow::<2>,
        (true, 8) => wide::<1>,
        (true, _) => wide::<2>,
    }
}
