//! Products with packed operands: the inner loop of convolutions, fully connected layers and attention.
//!
//! A row of the left operand is a pointer and a list of segments (one for a matrix, one per kernel row for a convolution over
//! a padded image), so that no im2col is written. The right operand is packed in blocks of 16 columns (8 for a small rest) in
//! the order in which the tier's instruction wants it. A tile of some rows by one block stays in registers, and its tail
//! (bias, scale, rounding, saturation) is fused.
//!
//! Two families: *wide* tiers multiply 16-bit values, `x - z_x` by `w - z_w`, which is exact for all zero points; *dot* tiers
//! multiply bytes as they are, with the zero point's share in the bias, and need symmetric weights.

use super::super::tier::Tier;
use super::{Narrow, Stored, widened};

/// Columns of a full block.
pub(crate) const LANES: usize = 16;

/// Most rows of a tile, over all tiers.
pub(crate) const ROWS_MAX: usize = 12;

/// Bytes of the left operand that one pass over the blocks should keep in the cache nearest to the CPU.
const CHUNK_BYTES: usize = 24 << 10;

/// In which form a tier takes its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Left operand `x - z_x` as i16, pairs; one 32-bit lane a column.
    Pairs,
    /// The same with the columns in the order that AVX2's packing instructions restore.
    PairsAvx2,
    /// Left operand as i16, four at a time, each with a row of columns.
    Rows4,
    /// Left operand as bytes, four at a time.
    Quads,
    /// The same with the columns in the order that AVX2's packing instructions restore.
    QuadsAvx2,
    /// Left operand as bytes, eight at a time.
    Octets,
}

/// Column of a lane of a 16-column block, where two vectors of 32-bit lanes are packed by `vpackssdw`.
const AVX2_ORDER: [usize; LANES] = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15];

impl Form {
    /// The form for products of `tier` with segments of `len` elements, whose right operand is symmetric or not.
    pub(crate) fn of(tier: Tier, is_symmetric: bool, len: usize) -> Form {
        match (tier, is_symmetric) {
            // Half a step would be padding.
            (Tier::I8mm, true) if len < 24 && (1..=4).contains(&(len % 8)) => Form::Quads,
            (Tier::Scalar, _) => Form::Pairs,
            (Tier::Avx2, _) | (Tier::AvxVnni | Tier::Avx512Vnni, false) => Form::PairsAvx2,
            (Tier::AvxVnni | Tier::Avx512Vnni, true) => Form::QuadsAvx2,
            (Tier::Neon, _) | (Tier::Dotprod | Tier::I8mm, false) => Form::Rows4,
            (Tier::Dotprod, true) => Form::Quads,
            (Tier::I8mm, true) => Form::Octets,
        }
    }

    /// Whether the left operand is `x - z_x` as i16.
    pub(crate) fn is_wide(self) -> bool {
        matches!(self, Form::Pairs | Form::PairsAvx2 | Form::Rows4)
    }

    /// Bytes of an element of the left operand.
    pub(crate) fn left_bytes(self) -> usize {
        if self.is_wide() { 2 } else { 1 }
    }

    /// Elements along the summed axis that one step of the loop takes.
    fn unit(self) -> usize {
        match self {
            Form::Pairs | Form::PairsAvx2 => 2,
            Form::Rows4 | Form::Quads | Form::QuadsAvx2 => 4,
            Form::Octets => 8,
        }
    }

    fn column(self, lanes: usize, lane: usize) -> usize {
        match self {
            Form::PairsAvx2 | Form::QuadsAvx2 if lanes == LANES => AVX2_ORDER[lane],
            _ => lane,
        }
    }
}

/// Sizes of a right operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Columns of the result.
    pub columns: usize,
    /// Segments of a row.
    pub segments: usize,
    /// Elements of a segment.
    pub len: usize,
}

/// How a right operand is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    /// For which kind of instruction.
    pub form: Form,
    /// Sizes.
    pub shape: Shape,
    /// Whether elements are i16, because `w - z_w` does not fit a byte.
    pub is_wide: bool,
}

impl Packing {
    /// Steps of the inner loop per segment.
    fn units(&self) -> usize {
        self.shape.len.div_ceil(self.form.unit())
    }

    fn element_bytes(&self) -> usize {
        if self.is_wide { 2 } else { 1 }
    }

    /// Columns with those that fill the last block.
    pub(crate) fn padded_columns(&self) -> usize {
        let rest = self.shape.columns % LANES;
        self.shape.columns / LANES * LANES
            + match rest {
                0 => 0,
                1..=8 => 8,
                _ => LANES,
            }
    }

    /// Size of the packed operand.
    pub(crate) fn bytes(&self) -> usize {
        self.shape.segments * self.units() * self.form.unit() * self.padded_columns() * self.element_bytes()
    }

    /// First column and lanes of each block.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let padded = self.padded_columns();
        (0..padded.div_ceil(LANES)).map(move |b| (b * LANES, (padded - b * LANES).min(LANES)))
    }

    /// Values per column in the order of the lanes, `fill` where a lane has no column.
    pub(crate) fn spread<T: Copy>(&self, of: &[T], fill: T, into: &mut [T]) {
        for (first, lanes) in self.blocks() {
            for lane in 0..lanes {
                let column = first + self.form.column(lanes, lane);
                into[first + lane] = of.get(column).copied().unwrap_or(fill);
            }
        }
    }

    /// Packs `get(column, segment, index)`, which fits the element.
    pub(crate) fn pack(&self, into: &mut [u8], get: impl Fn(usize, usize, usize) -> i32) {
        let (unit, size) = (self.form.unit(), self.element_bytes());
        let mut at = 0;
        for (first, lanes) in self.blocks() {
            for segment in 0..self.shape.segments {
                for u in 0..self.units() {
                    for slot in 0..lanes * unit {
                        let (lane, j) = match self.form {
                            Form::Rows4 => (slot % lanes, slot / lanes),
                            _ => (slot / unit, slot % unit),
                        };
                        let column = first + self.form.column(lanes, lane);
                        let index = u * unit + j;
                        let is_real = column < self.shape.columns && index < self.shape.len;
                        let value = if is_real { get(column, segment, index) } else { 0 };
                        if self.is_wide {
                            into[at..at + 2].copy_from_slice(&(value as i16).to_ne_bytes());
                        } else {
                            into[at] = value as i8 as u8;
                        }
                        at += size;
                    }
                }
            }
        }
    }

    /// Packs a matrix of stored values, less `zero`, into elements of 16 bits: what [`Packing::pack`] does, fast enough for
    /// every run. `steps` are from one row (summed) and one column to the next.
    ///
    /// # Panics
    /// If a slice is shorter than the sizes say, or the packing is not one of 16-bit elements and one segment.
    pub(crate) fn pack_stored(&self, into: &mut [i16], b: &[Stored], steps: (usize, usize), zero: i32) {
        assert!(self.is_wide && self.shape.segments == 1 && self.form.is_wide(), "packs 16-bit elements");
        let (unit, len) = (self.form.unit(), self.shape.len);
        let zero = zero as i16;
        let mut into = into;
        for (first, lanes) in self.blocks() {
            let (block, rest) = into.split_at_mut(self.units() * unit * lanes);
            into = rest;
            for lane in 0..lanes {
                let column = first + self.form.column(lanes, lane);
                // Where an element of this lane is: the lane's pair, or the lane in every row.
                let (start, apart) = match self.form {
                    Form::Rows4 => (lane, lanes),
                    _ => (lane * 2, 1),
                };
                let groups = block.chunks_exact_mut(unit * lanes);
                if column >= self.shape.columns {
                    for group in groups {
                        (0..unit).for_each(|j| group[start + j * apart] = 0);
                    }
                    continue;
                }
                let b = &b[column * steps.1..];
                for (u, group) in groups.enumerate() {
                    for j in 0..unit {
                        let k = u * unit + j;
                        group[start + j * apart] = if k < len { i16::from(b[k * steps.0]) - zero } else { 0 };
                    }
                }
            }
        }
    }
}

/// Rows of the left operand, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// What they lie in.
    pub data: &'a [u8],
    /// Of the first row.
    pub start: usize,
    /// From one row to the next, where there is no table.
    pub stride: usize,
    /// Of each row, from `start`; empty: evenly spaced.
    pub table: &'a [u32],
    /// Of each segment, from the row.
    pub segments: &'a [usize],
    /// Number of rows.
    pub count: usize,
}

impl Rows<'_> {
    fn at(&self, row: usize) -> usize {
        self.start + if self.table.is_empty() { row * self.stride } else { self.table[row] as usize }
    }

    fn end(&self) -> usize {
        let furthest = match self.table.iter().max() {
            Some(&at) => at as usize,
            None => (self.count - 1) * self.stride,
        };
        self.start + furthest + self.segments.iter().max().copied().unwrap_or(0)
    }
}

/// What is done with an accumulator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Finish {
    /// To a stored int8 value.
    Narrow(Narrow),
    /// To a real number between bounds; with [`Columns::offset`] added first where that is not empty.
    Real {
        /// Smallest.
        lo: f32,
        /// Largest.
        hi: f32,
    },
}

impl Finish {
    /// Bytes of a result.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Finish::Narrow(_) => 1,
            Finish::Real { .. } => 4,
        }
    }
}

/// Per column, in the order of the lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    /// Start of the accumulator.
    pub bias: &'a [i32],
    /// Factor of the accumulator.
    pub factor: &'a [f32],
    /// Added to a real result; empty: nothing.
    pub offset: &'a [f32],
}

/// Where results go, in bytes.
pub(crate) struct Into<'a> {
    /// The buffer.
    pub data: &'a mut [u8],
    /// Of the first element.
    pub start: usize,
    /// From one row to the next.
    pub stride: usize,
}

/// What a tile needs beside its rows; pointers to the first lane of its block.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub segments: *const usize,
    pub segment_count: usize,
    pub units: usize,
    pub b: *const u8,
    pub bias: *const i32,
    pub factor: *const f32,
    /// Null: none.
    pub offset: *const f32,
    pub finish: Finish,
    /// Lanes that have a column.
    pub columns: usize,
    pub out_stride: usize,
}

/// A tier's tile: `R` rows by `V` times 8 columns. `WIDE` says that the right operand is i16.
pub(super) trait Tile {
    /// Rows at which it is best.
    const ROWS: usize;

    /// # Safety
    /// The pointers must be good for what [`Packing`] and [`Rows`] say, and the CPU must have the tier's instructions.
    unsafe fn tile<const R: usize, const V: usize, const WIDE: bool>(a: &[*const u8; R], block: &Block, out: *mut u8);
}

/// All rows by one block.
///
/// # Safety
/// As [`Tile::tile`], for every row from `first` to `last`.
#[inline(always)]
pub(super) unsafe fn walk<T: Tile, const V: usize, const WIDE: bool>(
    rows: &Rows<'_>,
    (first, last): (usize, usize),
    block: &Block,
    out: *mut u8,
) {
    #[inline(always)]
    unsafe fn go<T: Tile, const R: usize, const V: usize, const WIDE: bool>(
        rows: &Rows<'_>,
        row: usize,
        block: &Block,
        out: *mut u8,
    ) {
        let mut a = [std::ptr::null(); R];
        for (r, a) in a.iter_mut().enumerate() {
            // SAFETY: the caller has checked that every row lies in the data.
            *a = unsafe { rows.data.as_ptr().add(rows.at(row + r)) };
        }
        // SAFETY: passed on from the caller.
        unsafe { T::tile::<R, V, WIDE>(&a, block, out.add(row * block.out_stride)) }
    }
    let mut row = first;
    while row < last {
        let left = last - row;
        // Even tiles: 7 rows are 4 + 3 rather than 6 + 1.
        let take = if left >= 2 * T::ROWS { T::ROWS } else { left.div_ceil(left.div_ceil(T::ROWS)) };
        // SAFETY: passed on from the caller.
        unsafe {
            match take {
                1 => go::<T, 1, V, WIDE>(rows, row, block, out),
                2 => go::<T, 2, V, WIDE>(rows, row, block, out),
                3 => go::<T, 3, V, WIDE>(rows, row, block, out),
                4 => go::<T, 4, V, WIDE>(rows, row, block, out),
                5 if T::ROWS >= 5 => go::<T, 5, V, WIDE>(rows, row, block, out),
                6 if T::ROWS >= 6 => go::<T, 6, V, WIDE>(rows, row, block, out),
                7 if T::ROWS >= 7 => go::<T, 7, V, WIDE>(rows, row, block, out),
                8 if T::ROWS >= 8 => go::<T, 8, V, WIDE>(rows, row, block, out),
                9 if T::ROWS >= 9 => go::<T, 9, V, WIDE>(rows, row, block, out),
                10 if T::ROWS >= 10 => go::<T, 10, V, WIDE>(rows, row, block, out),
                11 if T::ROWS >= 11 => go::<T, 11, V, WIDE>(rows, row, block, out),
                12 if T::ROWS >= 12 => go::<T, 12, V, WIDE>(rows, row, block, out),
                _ => unreachable!("a tile has at most {} rows", T::ROWS),
            }
        }
        row += take;
    }
}

/// Every row times the packed operand.
///
/// # Panics
/// If a slice is shorter than the sizes say.
pub(crate) fn multiply(
    tier: Tier,
    packing: &Packing,
    packed: &[u8],
    rows: &Rows<'_>,
    columns: &Columns<'_>,
    finish: Finish,
    into: &mut Into<'_>,
) {
    if rows.count == 0 {
        return;
    }
    let out_bytes = finish.bytes();
    let padded = packing.padded_columns();
    let row_bytes = packing.units() * packing.form.unit() * packing.form.left_bytes();
    assert!(rows.end() + row_bytes <= rows.data.len(), "rows end at {}", rows.end() + row_bytes);
    assert!(rows.table.is_empty() || rows.table.len() >= rows.count, "{} rows in the table", rows.table.len());
    assert!(rows.segments.len() == packing.shape.segments && packed.len() >= packing.bytes(), "right operand");
    assert!(columns.bias.len() >= padded && columns.factor.len() >= padded, "columns");
    assert!(columns.offset.is_empty() || columns.offset.len() >= padded, "columns");
    let out_end = into.start + (rows.count - 1) * into.stride + packing.shape.columns * out_bytes;
    assert!(out_end <= into.data.len(), "results end at {out_end} of {}", into.data.len());
    assert!(
        tier.is_supported() && Form::of(tier, !packing.is_wide, packing.shape.len) == packing.form,
        "{tier} for {:?}",
        packing.form
    );

    let bytes_per_row = row_bytes * packing.shape.segments;
    let chunk = (CHUNK_BYTES / bytes_per_row).max(2 * ROWS_MAX);
    for first in (0..rows.count).step_by(chunk) {
        let last = (first + chunk).min(rows.count);
        for (column, lanes) in packing.blocks() {
            let b = column * packing.shape.segments * packing.units() * packing.form.unit() * packing.element_bytes();
            let block = Block {
                segments: rows.segments.as_ptr(),
                segment_count: packing.shape.segments,
                units: packing.units(),
                b: packed[b..].as_ptr(),
                bias: columns.bias[column..].as_ptr(),
                factor: columns.factor[column..].as_ptr(),
                offset: columns
                    .offset
                    .get(column..)
                    .map_or(std::ptr::null(), |o| if o.is_empty() { std::ptr::null() } else { o.as_ptr() }),
                finish,
                columns: (packing.shape.columns - column).min(lanes),
                out_stride: into.stride,
            };
            let out = into.data[into.start + column * out_bytes..].as_mut_ptr();
            let run = kernel(tier, packing.form, lanes, packing.is_wide);
            // SAFETY: the asserts above cover every row, segment and column; the tier is supported.
            unsafe { run(rows, (first, last), &block, out) };
        }
    }
}

/// All rows by one block, for a tier.
pub(super) type Kernel = unsafe fn(&Rows<'_>, (usize, usize), &Block, *mut u8);

/// The walks of a [`Tile`], compiled for its instructions, as a function from the block's lanes and width to a [`Kernel`].
macro_rules! kernels {
    ($(#[$doc:meta])* $name:ident, $tile:ty $(, $features:literal)?) => {
        $(#[$doc])*
        pub(super) fn $name(lanes: usize, is_wide: bool) -> $crate::kernel::product::Kernel {
            $(#[target_feature(enable = $features)])?
            unsafe fn run<const V: usize, const WIDE: bool>(
                rows: &Rows<'_>,
                range: (usize, usize),
                block: &Block,
                out: *mut u8,
            ) {
                // SAFETY: passed on from the caller.
                unsafe { walk::<$tile, V, WIDE>(rows, range, block, out) }
            }
            match (lanes, is_wide) {
                (8, false) => run::<1, false>,
                (8, true) => run::<1, true>,
                (_, false) => run::<2, false>,
                (_, true) => run::<2, true>,
            }
        }
    };
}
pub(super) use kernels;

fn kernel(tier: Tier, form: Form, lanes: usize, is_wide: bool) -> Kernel {
    let _ = tier;
    match form {
        #[cfg(target_arch = "x86_64")]
        Form::QuadsAvx2 => super::vnni::kernel(tier == Tier::Avx512Vnni, lanes),
        #[cfg(target_arch = "x86_64")]
        Form::PairsAvx2 => super::avx2::kernel(lanes, is_wide),
        #[cfg(target_arch = "aarch64")]
        Form::Rows4 | Form::Quads | Form::Octets => super::neon::kernel(form, lanes, is_wide),
        _ => super::scalar::kernel(lanes, is_wide),
    }
}

widened! {
    /// `x - zero` as i16.
    pub(crate) fn widen(x: &[Stored], zero: i16, into: &mut [i16]) {
        for (y, &x) in into.iter_mut().zip(x) {
            *y = i16::from(x) - zero;
        }
    }
}
