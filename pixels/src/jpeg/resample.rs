//! Resampling of a picture that is still in DCT coefficients.
//!
//! Owns the weights of an [`Axis`] as weights of coefficients ([`BlockAxis`]) and the two passes ([`Resampler`]). A
//! resampled pixel is a weighted sum of pixels, a pixel is a weighted sum of its block's coefficients, so a resampled
//! pixel is a weighted sum of coefficients and no inverse transform is needed. When a picture is made smaller, the
//! weights of high frequencies are next to nothing: [`diagonals`] finds how few diagonals of coefficients are enough, and the
//! others need not be decoded. Sums are of f32 in a fixed order: the same on every CPU.

use std::f64::consts::PI;
use std::ops::Range;

use crate::resize::Axis;

use super::scan::{BlockRow, MARGIN, Want};

/// Pixels in a row of a block.
const SIDE: usize = 8;
/// What may be lost of the outputs' variance with the coefficients that are left out. In a camera's picture this is
/// less than 0.1 of 255 grey levels, mean: see `coefficients_that_are_left_out_do_not_show`.
const LOSS_MAX: f64 = 0.0015;
/// Coefficients that are summed up at a time, across and in a dot product.
const BLOCK: usize = 16;
const LANES: usize = 4;
const _: () = assert!(BLOCK <= MARGIN);

/// Filter weights of one axis for coefficients.
#[derive(Clone, Debug)]
struct BlockAxis {
    /// Blocks that take part.
    blocks: Range<usize>,
    /// Coefficients of a block that take part.
    side: usize,
    /// First block of an output, counted from the first of `blocks`, and the end of its blocks.
    of_output: Vec<Range<usize>>,
    /// Weights from an output's first block on, zero padded to `taps`.
    weights: Vec<f32>,
    taps: usize,
}

/// The cosine transform of a block in one axis, `[frequency][pixel]` (ITU-T T.81, A.3.3).
fn basis() -> [[f64; SIDE]; SIDE] {
    std::array::from_fn(|u| {
        let norm = if u == 0 { 0.125_f64.sqrt() } else { 0.5 };
        std::array::from_fn(|x| norm * ((2 * x + 1) as f64 * u as f64 * PI / 16.0).cos())
    })
}

/// The cosine transform of an output's weights, block by block: `[block, frequency]`, and the first block.
fn transformed(axis: &Axis, out: usize) -> (usize, Vec<[f64; SIDE]>) {
    let basis = basis();
    let (first, weights) = axis.weights_of(out);
    let mut blocks: Vec<[f64; SIDE]> = Vec::new();
    for (pixel, weight) in (first..).zip(weights).filter(|(_, weight)| *weight != 0.0) {
        let block = pixel / SIDE - first / SIDE;
        blocks.resize(blocks.len().max(block + 1), [0.0; SIDE]);
        for (u, sum) in blocks[block].iter_mut().enumerate() {
            *sum += weight * basis[u][pixel % SIDE];
        }
    }
    (first / SIDE, blocks)
}

/// The share of each frequency in the energy of the weights, mean of the outputs.
fn shares(axis: &Axis) -> [f64; SIDE] {
    let mut mean = [0.0; SIDE];
    for out in 0..axis.out_len() {
        let (_, blocks) = transformed(axis, out);
        let energy = |u: usize| blocks.iter().map(|b| b[u] * b[u]).sum::<f64>();
        let all: f64 = (0..SIDE).map(energy).sum();
        for (u, share) in mean.iter_mut().enumerate() {
            *share += energy(u) / all / axis.out_len() as f64;
        }
    }
    mean
}

/// Diagonals of coefficients that are enough to resample with these axes, if the energy of pictures falls with the
/// square of frequency, as it does in nature (D. J. Field, 1987). A picture that is not even halved keeps them all.
fn diagonals(rows: &Axis, columns: &Axis) -> usize {
    const ALL: usize = 2 * SIDE - 1;
    if [rows, columns].iter().any(|axis| axis.in_len() < 2 * axis.out_len()) {
        return ALL;
    }
    let (down, across) = (shares(rows), shares(columns));
    let lost = |kept: usize| {
        let pairs = (0..SIDE).flat_map(|v| (0..SIDE).map(move |u| (v, u)));
        pairs.filter(|(v, u)| v + u >= kept).map(|(v, u)| down[v] * across[u] / (v * v + u * u) as f64).sum::<f64>()
    };
    (1..ALL).find(|kept| lost(*kept) <= LOSS_MAX).unwrap_or(ALL)
}

impl BlockAxis {
    fn new(axis: &Axis, side: usize) -> Self {
        let outputs: Vec<_> = (0..axis.out_len()).map(|out| transformed(axis, out)).collect();
        let start = outputs.iter().map(|(first, _)| *first).min().unwrap_or(0);
        let end = outputs.iter().map(|(first, blocks)| first + blocks.len()).max().unwrap_or(0);
        let taps = outputs.iter().map(|(_, blocks)| blocks.len() * side).max().unwrap_or(0).next_multiple_of(LANES);
        let mut weights = vec![0.0; taps * outputs.len()];
        for (to, (_, blocks)) in weights.chunks_exact_mut(taps).zip(&outputs) {
            for (to, weight) in to.iter_mut().zip(blocks.iter().flat_map(|b| &b[..side])) {
                *to = *weight as f32;
            }
        }
        let of_output = outputs.iter().map(|(first, blocks)| first - start..first - start + blocks.len()).collect();
        BlockAxis { blocks: start..end, side, of_output, weights, taps }
    }

    fn weights_of(&self, out: usize) -> &[f32] {
        &self.weights[out * self.taps..][..self.taps]
    }
}

/// The two passes for pictures of one size.
#[derive(Debug)]
pub struct Resampler {
    want: Want,
    rows: BlockAxis,
    columns: BlockAxis,
    /// Outputs that each row of blocks takes part in.
    touched: Vec<Range<usize>>,
    /// Rows of output that are not complete: output `y` is in `y % slots`, not yet resampled across.
    open: Vec<f32>,
    slots: usize,
    width: usize,
}

impl Resampler {
    /// Plans the resampling that `rows` and `columns` describe for pixels.
    pub fn new(rows: &Axis, columns: &Axis) -> Self {
        Resampler::with_diagonals(rows, columns, diagonals(rows, columns))
    }

    fn with_diagonals(rows: &Axis, columns: &Axis, diagonals: usize) -> Self {
        let mut want = Want { rows: 0..0, columns: 0..0, diagonals };
        let (rows, columns) = (BlockAxis::new(rows, want.side()), BlockAxis::new(columns, want.side()));
        want.rows = rows.blocks.clone();
        want.columns = columns.blocks.clone();
        let touched: Vec<Range<usize>> = (0..rows.blocks.len())
            .map(|block| {
                // Outputs begin and end in the order of their numbers.
                let start = rows.of_output.partition_point(|blocks| blocks.end <= block);
                start..rows.of_output.partition_point(|blocks| blocks.start <= block)
            })
            .collect();
        let slots = touched.iter().map(Range::len).max().unwrap_or(0);
        let width = (columns.blocks.len() * want.side()).next_multiple_of(BLOCK) + columns.taps;
        Resampler { open: vec![0.0; slots * width], want, rows, columns, touched, slots, width }
    }

    /// Coefficients of a block that have to be decoded.
    pub fn coefficients(&self) -> usize {
        self.want.last() + 1
    }

    /// What has to be decoded.
    pub(super) fn want(&self) -> &Want {
        &self.want
    }

    /// Takes the next row of blocks; writes the rows of `out` that it completes, values in [0, 255].
    pub(super) fn push(&mut self, row: BlockRow<'_>, out: &mut [f32]) {
        let block = row.number - self.rows.blocks.start;
        let used = self.columns.blocks.len() * self.columns.side;
        for y in self.touched[block].clone() {
            let of = &self.rows.of_output[y];
            let weights = &self.rows.weights_of(y)[(block - of.start) * self.rows.side..][..self.rows.side];
            let open = &mut self.open[y % self.slots * self.width..][..self.width];
            if block == of.start {
                open.fill(0.0);
            }
            add_rows(row, weights, &mut open[..used.next_multiple_of(BLOCK)]);
            if block + 1 == of.end {
                let columns = self.columns.of_output.len();
                mix_columns(open, &self.columns, &mut out[y * columns..][..columns]);
            }
        }
    }
}

/// `sums[x] += sum of weights[v] * row v at x`; `sums` is a multiple of [`BLOCK`] long.
fn add_rows(row: BlockRow<'_>, weights: &[f32], sums: &mut [f32]) {
    let (blocks, _) = sums.as_chunks_mut::<BLOCK>();
    for (i, block) in blocks.iter_mut().enumerate() {
        let mut sum = *block;
        for (v, weight) in weights.iter().enumerate() {
            let from: &[f32; BLOCK] = row.data[v * row.stride + i * BLOCK..].first_chunk().expect("rows have a margin");
            for (s, c) in sum.iter_mut().zip(from) {
                *s += weight * c;
            }
        }
        *block = sum;
    }
}

/// One row of output from its sums.
fn mix_columns(sums: &[f32], axis: &BlockAxis, out: &mut [f32]) {
    for ((to, blocks), weights) in out.iter_mut().zip(&axis.of_output).zip(axis.weights.chunks_exact(axis.taps)) {
        let sums = &sums[blocks.start * axis.side..][..axis.taps];
        let mut sum = [0.0; LANES];
        for (w, s) in weights.as_chunks::<LANES>().0.iter().zip(sums.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                sum[lane] += w[lane] * s[lane];
            }
        }
        // Samples are stored less 128 (A.3.1).
        *to = (128.0 + (sum[0] + sum[2]) + (sum[1] + sum[3])).clamp(0.0, 255.0);
    }
}
