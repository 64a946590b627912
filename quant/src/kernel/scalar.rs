//! The plain tile: what every other tier's tile must equal.

use super::product::{Block, Finish, Rows, Tile, kernels, walk};

/// Pairs of i16, in plain Rust.
struct Scalar;

/// Accumulators to results, one row.
///
/// # Safety
/// `out` must be good for `block.columns` results, the block's pointers for as many values.
#[allow(clippy::unnecessary_cast, reason = "stored bytes are signed on aarch64")]
unsafe fn finish(acc: &[i32], block: &Block, out: *mut u8) {
    for (lane, &acc) in acc.iter().enumerate().take(block.columns) {
        // SAFETY: the lane has a column.
        unsafe {
            let x = acc as f32 * *block.factor.add(lane);
            match block.finish {
                Finish::Narrow(narrow) => *out.add(lane) = narrow.apply_number(x) as u8,
                Finish::Real { lo, hi } => {
                    let x = if block.offset.is_null() { x } else { x + *block.offset.add(lane) };
                    let x = if x < lo { lo } else { x };
                    let x = if x > hi { hi } else { x };
                    out.cast::<f32>().add(lane).write_unaligned(x);
                }
            }
        }
    }
}

impl Tile for Scalar {
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn tile<const R: usize, const V: usize, const WIDE: bool>(a: &[*const u8; R], block: &Block, out: *mut u8) {
        let lanes = V * 8;
        let mut acc = [[0i32; 16]; R];
        // SAFETY: pointers are good for the sizes, as the caller promises.
        unsafe {
            for acc in &mut acc {
                for (lane, acc) in acc[..lanes].iter_mut().enumerate() {
                    *acc = *block.bias.add(lane);
                }
            }
            let mut b = block.b;
            for s in 0..block.segment_count {
                let segment = *block.segments.add(s);
                for u in 0..block.units {
                    #[expect(clippy::needless_range_loop, reason = "the lane also addresses the weights")]
                    for lane in 0..lanes {
                        let slot = lane * 2;
                        let (w0, w1) = if WIDE {
                            let w = b.cast::<i16>();
                            (i32::from(w.add(slot).read_unaligned()), i32::from(w.add(slot + 1).read_unaligned()))
                        } else {
                            let w = b.cast::<i8>();
                            (i32::from(*w.add(slot)), i32::from(*w.add(slot + 1)))
                        };
                        for r in 0..R {
                            let x = a[r].add(segment).cast::<i16>().add(2 * u);
                            let (x0, x1) = (i32::from(x.read_unaligned()), i32::from(x.add(1).read_unaligned()));
                            acc[r][lane] = acc[r][lane].wrapping_add(x0 * w0 + x1 * w1);
                        }
                    }
                    b = b.add(lanes * 2 * if WIDE { 2 } else { 1 });
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                finish(&acc[..lanes], block, out.add(r * block.out_stride));
            }
        }
    }
}

impl super::depthwise::Strip for Scalar {
    const PIXELS: usize = 1;

    #[inline(always)]
    unsafe fn strip<const P: usize>(
        taps: &[*const i16],
        at: usize,
        step: usize,
        w: *const i16,
        block: &Block,
        out: *mut u8,
    ) {
        for p in 0..P {
            // SAFETY: pointers are good for the sizes, as the caller promises.
            unsafe {
                let mut acc: [i32; 16] = std::array::from_fn(|lane| *block.bias.add(lane));
                for (i, tap) in taps.iter().enumerate() {
                    let x = tap.add(at + p * step);
                    for (lane, acc) in acc.iter_mut().enumerate() {
                        let w = *w.add(i / 2 * 32 + lane * 2 + i % 2);
                        *acc = acc.wrapping_add(i32::from(*x.add(lane)) * i32::from(w));
                    }
                }
                finish(&acc, block, out.add(p * block.out_stride));
            }
        }
    }
}

/// Depthwise strips.
///
/// # Safety
/// As [`super::depthwise::walk`].
pub(super) unsafe fn strips(row: &super::depthwise::Row<'_>) {
    // SAFETY: passed on from the caller.
    unsafe { super::depthwise::walk::<Scalar>(row) }
}

kernels!(
    /// For [`super::product::Form::Pairs`].
    kernel, Scalar
);
