//! The kernel calls of a plan, each with what it needs packed at load.

use tract_core::internal::TractResult;

use super::super::Affine;
use super::super::graph::Clamp;
use super::super::kernel::depthwise::{Depthwise, Size};
use super::super::kernel::elementwise::{self, Binary, Nest, Operand, RowOp, Target};
use super::super::kernel::memory::{self, BufferId, Memory, Read, Write};
use super::super::kernel::pool::{self, Mean, Pool};
use super::super::kernel::product::{self, Columns, Finish, Into, Packing, Rows, widen};
use super::super::kernel::{Narrow, Params, SLACK, Stored, moves};
use super::super::tier::Tier;

/// Bytes of widened rows that a product keeps at a time.
const WIDENED_BYTES: usize = 32 << 10;

/// Elements of a buffer, or where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Which.
    pub buffer: BufferId,
    /// First element.
    pub start: usize,
}

/// What an operand or a result is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// f32.
    Real,
    /// int8, with the output's rounding where it is a result.
    Stored(Params, Narrow),
}

impl Kind {
    fn operand<'a>(self, read: Read<'a>, start: usize) -> Operand<'a> {
        match self {
            Kind::Real => Operand::Real(&read.reals()[start..]),
            Kind::Stored(params, _) => Operand::Stored(&read.stored()[start..], params),
        }
    }

    fn target(self, write: Write<'_>) -> Target<'_> {
        match self {
            Kind::Real => Target::Real(write.reals()),
            Kind::Stored(params, narrow) => Target::Stored(write.stored(), params.scale, narrow),
        }
    }
}

/// A packed right operand with its tail.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub packing: Packing,
    pub data: Vec<u8>,
    pub bias: Vec<i32>,
    pub factor: Vec<f32>,
    pub offset: Vec<f32>,
}

impl Packed {
    fn columns(&self) -> Columns<'_> {
        Columns { bias: &self.bias, factor: &self.factor, offset: &self.offset }
    }
}

/// Parameters that an input gets at run time: `scale`, then the zero point in the stored form, both f32 in a buffer of two;
/// and scratch memory for the columns that follow from them.
#[derive(Clone, Debug)]
pub(super) struct Dynamic {
    pub params: BufferId,
    pub columns: BufferId,
    /// Sum of the weights of a column, in the order of the lanes.
    pub sums: Vec<i32>,
}

/// Rows of a matrix times packed weights.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    pub x: BufferId,
    pub out: BufferId,
    pub scratch: BufferId,
    pub rows: usize,
    pub len: usize,
    pub zero: i32,
    pub packed: Packed,
    pub finish: Finish,
    pub dynamic: Option<Dynamic>,
}

/// A convolution over a padded copy of the image.
#[derive(Clone, Debug)]
pub(super) struct Windowed {
    pub x: BufferId,
    pub out: BufferId,
    /// The padded image.
    pub scratch: BufferId,
    pub images: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub top: usize,
    pub left: usize,
    pub padded_height: usize,
    pub padded_width: usize,
    pub zero: i32,
    /// Bytes of every output pixel's window from the image's begin.
    pub table: Vec<u32>,
    /// Bytes of every segment from the window's begin.
    pub segments: Vec<usize>,
    /// One a group.
    pub groups: Vec<Packed>,
    pub out_channels: usize,
    pub finish: Finish,
    pub dynamic: Vec<Dynamic>,
}

/// A depthwise convolution.
#[derive(Clone, Debug)]
pub(super) struct Strips {
    pub x: BufferId,
    pub out: BufferId,
    pub scratch: BufferId,
    pub images: usize,
    pub image_len: usize,
    pub out_bytes: usize,
    pub zero: i32,
    pub depthwise: Box<Depthwise>,
    pub finish: Finish,
}

/// One product of a batch, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub a: usize,
    pub b: usize,
    pub out: usize,
}

/// Batched product of two values.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    pub a: BufferId,
    pub b: BufferId,
    pub out: BufferId,
    /// Packed right operand, then widened rows.
    pub scratch: BufferId,
    pub batches: Vec<Batch>,
    pub rows: usize,
    pub a_stride: usize,
    pub b_stride: usize,
    pub b_column_stride: usize,
    pub out_stride: usize,
    pub a_zero: i32,
    pub b_zero: i32,
    pub packing: Packing,
    pub factor: Vec<f32>,
    pub bias: Vec<i32>,
    pub finish: Finish,
}

/// What a step does.
#[derive(Clone, Debug)]
pub(super) enum Task {
    Matrix(Matrix),
    Windowed(Windowed),
    Strips(Strips),
    Attention(Attention),
    /// f32 planes to channel-last int8.
    Planes {
        x: BufferId,
        out: BufferId,
        images: usize,
        channels: usize,
        pixels: usize,
        scale: f32,
        narrow: Narrow,
    },
    /// Parameters from the values, and the values by them: x, out, parameters.
    DynamicQuantize {
        x: BufferId,
        out: BufferId,
        params: BufferId,
        len: usize,
    },
    /// Same bytes of another signedness.
    Shift {
        x: BufferId,
        out: BufferId,
        len: usize,
        by: u8,
    },
    /// A table of 256.
    LookUp {
        x: Slot,
        out: BufferId,
        len: usize,
        table: Box<[Stored; 256]>,
    },
    /// Two int8 operands of one shape.
    Add {
        a: Slot,
        b: Slot,
        out: BufferId,
        len: usize,
        a_of: (i32, f32),
        b_of: (i32, f32),
        zero: f32,
        narrow: Narrow,
    },
    /// Any two operands.
    Binary {
        op: Binary,
        nest: Nest,
        a: (Slot, Kind),
        b: (Slot, Kind),
        out: (BufferId, Kind),
    },
    /// A function of every row; also quantize and dequantize.
    Rows {
        op: RowOp,
        x: (Slot, Kind),
        out: (BufferId, Kind),
        scratch: BufferId,
        count: usize,
        len: usize,
    },
    /// Another order of the same elements; bytes of an element.
    Gather {
        x: Slot,
        out: Slot,
        dims: Vec<usize>,
        strides: Vec<usize>,
        bytes: usize,
    },
    /// Runs of a part of a concatenation: from a dense part to every `stride` of the whole.
    Join {
        x: Slot,
        out: Slot,
        count: usize,
        run: usize,
        stride: usize,
        bytes: usize,
        table: Option<Box<[Stored; 256]>>,
    },
    Average {
        x: BufferId,
        out: BufferId,
        scratch: BufferId,
        images: usize,
        pool: Pool,
        mean: Mean,
    },
    Largest {
        x: BufferId,
        out: BufferId,
        images: usize,
        pool: Pool,
        is_real: bool,
    },
    /// Mean over the innermost axes, in their order.
    MeanRows {
        x: (Slot, Kind),
        out: (BufferId, Kind),
        scratch: BufferId,
        count: usize,
        len: usize,
        mean: Option<Mean>,
    },
}

fn columns_at_run_time<'a>(
    packed: &'a Packed,
    dynamic: &Dynamic,
    params: Read<'_>,
    scratch: Write<'a>,
) -> (Columns<'a>, i32) {
    let params = params.reals();
    let (scale, zero) = (params[0], params[1] as i32);
    let padded = packed.packing.padded_columns();
    let (factor, bias) = scratch.split(padded * 4);
    let (factor, bias) = (factor.reals(), &mut bias.integers()[..padded]);
    for (f, s) in factor.iter_mut().zip(&packed.factor) {
        *f = scale * s;
    }
    let is_wide = packed.packing.form.is_wide();
    for (b, sum) in bias.iter_mut().zip(&dynamic.sums) {
        *b = if is_wide { 0 } else { sum.wrapping_mul(zero).wrapping_neg() };
    }
    (Columns { bias, factor, offset: &packed.offset }, zero)
}

impl Matrix {
    fn run(&self, tier: Tier, mem: &mut Memory<'_>) {
        if let Some(dynamic) = &self.dynamic {
            let ([x, params], [out, scratch, columns]) =
                mem.access([self.x, dynamic.params], [self.out, self.scratch, dynamic.columns]);
            let (columns, zero) = columns_at_run_time(&self.packed, dynamic, params, columns);
            self.multiply(tier, x, out, scratch, &columns, zero);
        } else {
            let ([x], [out, scratch]) = mem.access([self.x], [self.out, self.scratch]);
            self.multiply(tier, x, out, scratch, &self.packed.columns(), self.zero);
        }
    }

    fn multiply(&self, tier: Tier, x: Read<'_>, out: Write<'_>, scratch: Write<'_>, columns: &Columns<'_>, zero: i32) {
        let Packed { packing, data, .. } = &self.packed;
        let out_bytes = self.finish.bytes();
        let stride = packing.shape.columns * out_bytes;
        let out = out.bytes();
        if !packing.form.is_wide() {
            let rows =
                Rows { data: x.bytes(), start: 0, stride: self.len, table: &[], segments: &[0], count: self.rows };
            let mut into = Into { data: out, start: 0, stride };
            return product::multiply(tier, packing, data, &rows, columns, self.finish, &mut into);
        }
        let scratch = scratch.words();
        let x = x.stored();
        let chunk = rows_at_a_time(self.rows, self.len);
        for first in (0..self.rows).step_by(chunk) {
            let count = (self.rows - first).min(chunk);
            widen(tier, &x[first * self.len..][..count * self.len], zero as i16, scratch);
            let rows = Rows {
                data: memory::as_bytes(scratch),
                start: 0,
                stride: self.len * 2,
                table: &[],
                segments: &[0],
                count,
            };
            let mut into = Into { data: out, start: first * stride, stride };
            product::multiply(tier, packing, data, &rows, columns, self.finish, &mut into);
        }
    }
}

/// Rows that a product of wide form widens at a time.
pub(super) fn rows_at_a_time(rows: usize, len: usize) -> usize {
    (WIDENED_BYTES / (2 * len)).max(8).next_multiple_of(product::ROWS_MAX).min(rows)
}

/// Bytes of scratch memory for [`rows_at_a_time`] rows.
pub(super) fn widened_bytes(rows: usize, len: usize) -> usize {
    rows_at_a_time(rows, len) * len * 2 + SLACK
}

impl Windowed {
    fn run(&self, tier: Tier, mem: &mut Memory<'_>) {
        for image in 0..self.images {
            for (group, packed) in self.groups.iter().enumerate() {
                if let Some(dynamic) = self.dynamic.get(group) {
                    let ([x, params], [out, scratch, columns]) =
                        mem.access([self.x, dynamic.params], [self.out, self.scratch, dynamic.columns]);
                    let (columns, zero) = columns_at_run_time(packed, dynamic, params, columns);
                    self.group(tier, image, group, x, out, scratch, &columns, zero);
                } else {
                    let ([x], [out, scratch]) = mem.access([self.x], [self.out, self.scratch]);
                    self.group(tier, image, group, x, out, scratch, &packed.columns(), self.zero);
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn group(
        &self,
        tier: Tier,
        image: usize,
        group: usize,
        x: Read<'_>,
        out: Write<'_>,
        scratch: Write<'_>,
        columns: &Columns<'_>,
        zero: i32,
    ) {
        let Packed { packing, data, .. } = &self.groups[group];
        let per_group = self.channels / self.groups.len();
        let element = packing.form.left_bytes();
        let image_len = self.height * self.width * self.channels;
        let x = &x.stored()[image * image_len..][..image_len];
        let padded: &[u8] = if packing.form.is_wide() {
            let scratch = scratch.words();
            if group == 0 {
                self.pad(x, 0i16, scratch, |x, y| widen(tier, x, zero as i16, y));
            }
            memory::as_bytes(scratch)
        } else {
            let scratch = scratch.stored();
            if group == 0 {
                self.pad(x, zero as Stored, scratch, |x, y| y.copy_from_slice(x));
            }
            memory::stored_as_bytes(scratch)
        };
        let rows = Rows {
            data: padded,
            start: group * per_group * element,
            stride: 0,
            table: &self.table,
            segments: &self.segments,
            count: self.table.len(),
        };
        let out_bytes = self.finish.bytes();
        let stride = self.out_channels * out_bytes;
        let start = image * self.table.len() * stride + group * packing.shape.columns * out_bytes;
        let mut into = Into { data: out.bytes(), start, stride };
        product::multiply(tier, packing, data, &rows, columns, self.finish, &mut into);
    }

    /// The image in the middle of `fill`.
    fn pad<T: Copy>(&self, x: &[Stored], fill: T, out: &mut [T], copy: impl Fn(&[Stored], &mut [T])) {
        let pitch = self.padded_width * self.channels;
        let row_len = self.width * self.channels;
        let left = self.left * self.channels;
        let take = row_len.min(pitch - left);
        for y in 0..self.padded_height {
            let row = &mut out[y * pitch..][..pitch];
            match y.checked_sub(self.top).filter(|y| *y < self.height) {
                Some(y) => {
                    row[..left].fill(fill);
                    copy(&x[y * row_len..][..take], &mut row[left..left + take]);
                    row[left + take..].fill(fill);
                }
                None => row.fill(fill),
            }
        }
    }
}

impl Attention {
    fn run(&self, tier: Tier, mem: &mut Memory<'_>) {
        let ([a, b], [out, scratch]) = mem.access([self.a, self.b], [self.out, self.scratch]);
        let (a, b, out) = (a.stored(), b.stored(), out.bytes());
        let bytes = self.packing.bytes().next_multiple_of(64);
        let (packed, widened) = scratch.split(bytes);
        let (packed, widened) = (packed.words(), widened.words());
        let len = self.packing.shape.len;
        let columns = Columns { bias: &self.bias, factor: &self.factor, offset: &[] };
        let out_bytes = self.finish.bytes();
        let chunk = rows_at_a_time(self.rows, len);
        let mut last = None;
        for batch in &self.batches {
            if last.replace(batch.b) != Some(batch.b) {
                let steps = (self.b_stride, self.b_column_stride);
                self.packing.pack_stored(packed, &b[batch.b..], steps, self.b_zero);
            }
            for first in (0..self.rows).step_by(chunk) {
                let count = (self.rows - first).min(chunk);
                for (row, widened) in widened.chunks_exact_mut(len).take(count).enumerate() {
                    let a = &a[batch.a + (first + row) * self.a_stride..][..len];
                    widen(tier, a, self.a_zero as i16, widened);
                }
                let data = memory::as_bytes(widened);
                let rows = Rows { data, start: 0, stride: len * 2, table: &[], segments: &[0], count };
                let stride = self.out_stride * out_bytes;
                let mut into = Into { data: out, start: batch.out * out_bytes + first * stride, stride };
                product::multiply(
                    tier,
                    &self.packing,
                    memory::as_bytes(packed),
                    &rows,
                    &columns,
                    self.finish,
                    &mut into,
                );
            }
        }
    }
}

fn copy_runs<T: Copy>(x: &[T], out: &mut [T], (count, run, stride): (usize, usize, usize), f: impl Fn(&[T], &mut [T])) {
    for i in 0..count {
        f(&x[i * run..][..run], &mut out[i * stride..][..run]);
    }
}

impl Task {
    /// Computes the step.
    ///
    /// # Errors
    /// If real numbers that are to be quantized by their range have none.
    pub(super) fn run(&self, tier: Tier, mem: &mut Memory<'_>) -> TractResult<()> {
        match self {
            Task::Matrix(matrix) => matrix.run(tier, mem),
            Task::Windowed(windowed) => windowed.run(tier, mem),
            Task::Attention(attention) => attention.run(tier, mem),
            Task::Strips(s) => {
                let ([x], [out, scratch]) = mem.access([s.x], [s.out, s.scratch]);
                let (x, out, scratch) = (x.stored(), out.bytes(), scratch.words());
                for image in 0..s.images {
                    let (x, out) = (&x[image * s.image_len..], &mut out[image * s.out_bytes..]);
                    s.depthwise.run(tier, x, s.zero, s.finish, scratch, out);
                }
            }
            Task::Planes { x, out, images, channels, pixels, scale, narrow } => {
                let ([x], [out]) = mem.access([*x], [*out]);
                let (x, out) = (x.reals(), out.stored());
                let len = channels * pixels;
                for image in 0..*images {
                    let (x, out) = (&x[image * len..][..len], &mut out[image * len..][..len]);
                    moves::quantize_planes(tier, x, (*channels, *pixels), *scale, *narrow, out);
                }
            }
            Task::DynamicQuantize { x, out, params, len } => {
                let ([x], [out, params]) = mem.access([*x], [*out, *params]);
                let (x, out, params) = (&x.reals()[..*len], &mut out.stored()[..*len], params.reals());
                let (mut lo, mut hi) = (0.0, 0.0);
                elementwise::range(tier, x, &mut lo, &mut hi);
                let affine = Affine::of_range(lo, hi)?;
                let of = Params::from(affine);
                (params[0], params[1]) = (of.scale, of.zero as f32);
                let narrow = Narrow::new(affine, Clamp::NONE);
                elementwise::quantize(tier, x, of.scale, narrow, out);
            }
            Task::Shift { x, out, len, by } => {
                let ([x], [out]) = mem.access([*x], [*out]);
                elementwise::shift(&x.bytes()[..*len], *by, out.bytes());
            }
            Task::LookUp { x, out, len, table } => {
                let ([source], [out]) = mem.access([x.buffer], [*out]);
                elementwise::look_up(&source.stored()[x.start..][..*len], table, out.stored());
            }
            Task::Add { a, b, out, len, a_of, b_of, zero, narrow } => {
                let ([ra, rb], [out]) = mem.access([a.buffer, b.buffer], [*out]);
                let (ra, rb) = (&ra.stored()[a.start..][..*len], &rb.stored()[b.start..][..*len]);
                let out = &mut out.stored()[..*len];
                elementwise::add(tier, (ra, a_of.0, a_of.1), (rb, b_of.0, b_of.1), *zero, *narrow, out);
            }
            Task::Binary { op, nest, a, b, out } => {
                let ([ra, rb], [write]) = mem.access([a.0.buffer, b.0.buffer], [out.0]);
                let (ra, rb) = (a.1.operand(ra, a.0.start), b.1.operand(rb, b.0.start));
                elementwise::binary(tier, *op, nest, ra, rb, out.1.target(write));
            }
            Task::Rows { op, x, out, scratch, count, len } => {
                let ([read], [write, scratch]) = mem.access([x.0.buffer], [out.0, *scratch]);
                let operand = x.1.operand(read, x.0.start);
                match (op, operand, out.1) {
                    (RowOp::Identity, Operand::Real(x), Kind::Stored(params, narrow)) => {
                        let n = count * len;
                        elementwise::quantize(tier, &x[..n], params.scale, narrow, &mut write.stored()[..n]);
                    }
                    (RowOp::Identity, Operand::Stored(x, params), Kind::Real) => {
                        let n = count * len;
                        elementwise::dequantize(tier, &x[..n], params, &mut write.reals()[..n]);
                    }
                    _ => {
                        let row = &mut scratch.reals()[..*len];
                        elementwise::rows(tier, op, operand, *count, row, out.1.target(write));
                    }
                }
            }
            Task::Gather { x, out, dims, strides, bytes } => {
                let ([read], [write]) = mem.access([x.buffer], [out.buffer]);
                if *bytes == 1 {
                    moves::gather(read.bytes(), x.start, dims, strides, &mut write.bytes()[out.start..]);
                } else {
                    moves::gather(read.reals(), x.start, dims, strides, &mut write.reals()[out.start..]);
                }
            }
            Task::Join { x, out, count, run, stride, bytes, table } => {
                let ([read], [write]) = mem.access([x.buffer], [out.buffer]);
                let of = (*count, *run, *stride);
                match (bytes, table) {
                    (1, None) => {
                        copy_runs(&read.bytes()[x.start..], &mut write.bytes()[out.start..], of, |x, y| {
                            y.copy_from_slice(x);
                        });
                    }
                    (1, Some(table)) => {
                        copy_runs(&read.stored()[x.start..], &mut write.stored()[out.start..], of, |x, y| {
                            elementwise::look_up(x, table, y);
                        });
                    }
                    _ => copy_runs(&read.reals()[x.start..], &mut write.reals()[out.start..], of, |x, y| {
                        y.copy_from_slice(x);
                    }),
                }
            }
            Task::Average { x, out, scratch, images, pool: p, mean } => {
                let ([x], [out, scratch]) = mem.access([*x], [*out, *scratch]);
                let (x, out) = (x.stored(), out.stored());
                let sums = scratch.integers();
                let (len, out_len) = (area(p.size) * p.channels, area(p.out) * p.channels);
                for image in 0..*images {
                    let (x, out) = (&x[image * len..][..len], &mut out[image * out_len..][..out_len]);
                    pool::average(tier, p, mean, x, sums, out);
                }
            }
            Task::Largest { x, out, images, pool: p, is_real } => {
                let ([x], [out]) = mem.access([*x], [*out]);
                let (len, out_len) = (area(p.size) * p.channels, area(p.out) * p.channels);
                if *is_real {
                    let (x, out) = (x.reals(), out.reals());
                    for image in 0..*images {
                        let (x, out) = (&x[image * len..][..len], &mut out[image * out_len..][..out_len]);
                        pool::largest_real(tier, p, x, out);
                    }
                } else {
                    let (x, out) = (x.stored(), out.stored());
                    for image in 0..*images {
                        let (x, out) = (&x[image * len..][..len], &mut out[image * out_len..][..out_len]);
                        pool::largest(tier, p, x, out);
                    }
                }
            }
            Task::MeanRows { x, out, scratch, count, len, mean } => {
                let ([read], [write, scratch]) = mem.access([x.0.buffer], [out.0, *scratch]);
                match (x.1.operand(read, x.0.start), mean) {
                    (Operand::Stored(x, _), Some(mean)) => {
                        let out = write.stored();
                        for (row, y) in x.chunks_exact(*len).take(*count).zip(out) {
                            let sum: i32 = row.iter().map(|&x| i32::from(x) - mean.zero).sum();
                            *y = mean.narrow.apply(sum as f32 * (mean.scale / (mean.out_scale * *len as f32)));
                        }
                    }
                    (operand, _) => {
                        let row = &mut scratch.reals()[..*len];
                        elementwise::means(tier, operand, *count, row, out.1.target(write));
                    }
                }
            }
        }
        Ok(())
    }
}

fn area(size: Size) -> usize {
    size.height * size.width
}
