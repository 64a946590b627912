//! Convolutions, fully connected layers and attention: choice of the kernel, packing of weights.

use tract_core::internal::{TractErrorContext, TractResult, bail, ensure};

use super::super::super::graph::{Clamp, Conv, FullyConnected, Node, Number, ValueId, Weights};
use super::super::super::kernel::depthwise::{Depthwise, Size, TAPS_MAX, Taps};
use super::super::super::kernel::memory::BufferId;
use super::super::super::kernel::product::{Finish, Form, Packing, Shape};
use super::super::super::kernel::{Narrow, Params, SLACK};
use super::super::steps::{Attention, Batch, Dynamic, Matrix, Packed, Strips, Task, Windowed, widened_bytes};
use super::super::view::{channel_last, dense, row_major, volume};
use super::{Lowering, image};

/// Scale and zero point of an output channel.
fn of_channel<T: Copy>(of: &[T], channel: usize) -> T {
    if of.len() == 1 { of[0] } else { of[channel] }
}

/// The input of a product: its parameters, or where they are at run time.
#[derive(Clone, Copy)]
struct Left {
    buffer: BufferId,
    params: Params,
    /// Buffer of the parameters, where they are made at run time.
    dynamic: Option<BufferId>,
}

/// What a product does with its accumulators.
struct Tail {
    /// `s_x * s_w / s_y` needs the last; `None` for real results.
    out_scale: Option<f32>,
    finish: Finish,
}

fn check_weights(weights: &Weights, channels: usize, per_channel: usize) -> TractResult<()> {
    let Weights { data, scale, zero_point } = weights;
    ensure!(data.len() == channels * per_channel, "{} weights, expected {channels} x {per_channel}", data.len());
    for (what, len) in [("scales", scale.len()), ("zero points", zero_point.len())] {
        ensure!(len == 1 || len == channels, "{len} {what} of weights, expected 1 or {channels}");
    }
    Ok(())
}

impl Lowering<'_> {
    fn tail(&self, out: ValueId, clamp: Clamp) -> TractResult<Tail> {
        Ok(match self.value(out)?.number {
            Number::F32 => Tail { out_scale: None, finish: Finish::Real { lo: clamp.lo, hi: clamp.hi } },
            Number::Int(a) => Tail { out_scale: Some(a.scale), finish: Finish::Narrow(Narrow::new(a, clamp)) },
        })
    }

    /// The input `x` dense in `order`, quantized by its range first where the product is dynamic.
    fn left(&mut self, x: ValueId, order: &[usize], is_dynamic: bool) -> TractResult<Left> {
        if !is_dynamic {
            let params = Params::from(self.affine(x)?);
            return Ok(Left { buffer: self.dense_in(x, order)?, params, dynamic: None });
        }
        ensure!(self.value(x)?.number == Number::F32, "input is int8, expected f32");
        let source = self.dense_in(x, order)?;
        let len = volume(&self.value(x)?.shape);
        let (out, params) = (self.buffer(len), self.buffer(8));
        let task = Task::DynamicQuantize { x: source, out, params, len };
        self.push("DynamicQuantize", 0, &[source], &[out, params], task);
        Ok(Left { buffer: out, params: Params { scale: 1.0, zero: 0 }, dynamic: Some(params) })
    }

    /// Packs the weights of output channels `first ..`, whose element is `get(channel, segment, index)`.
    #[allow(clippy::too_many_arguments)]
    fn pack(
        &mut self,
        weights: &Weights,
        bias: &[i32],
        real_bias: Option<&[f32]>,
        (first, shape): (usize, Shape),
        left: Left,
        tail: &Tail,
        get: impl Fn(usize, usize, usize) -> i8,
    ) -> TractResult<(Packed, Option<Dynamic>)> {
        let is_symmetric = weights.zero_point.iter().all(|z| *z == 0);
        let packing = Packing { form: Form::of(self.tier, is_symmetric, shape.len), shape, is_wide: !is_symmetric };
        let zero_of = |column: usize| of_channel(&weights.zero_point, first + column);
        let mut data = vec![0; packing.bytes()];
        packing.pack(&mut data, |c, s, k| i32::from(get(first + c, s, k)) - zero_of(c));

        let sums: Vec<i32> = (0..shape.columns)
            .map(|c| {
                let elements = (0..shape.segments).flat_map(|s| (0..shape.len).map(move |k| (s, k)));
                elements.map(|(s, k)| i32::from(get(first + c, s, k)) - zero_of(c)).sum()
            })
            .collect();
        let zero = if packing.form.is_wide() { 0 } else { left.params.zero };
        let starts: Vec<i32> = (0..shape.columns)
            .map(|c| bias.get(first + c).copied().unwrap_or(0).wrapping_sub(sums[c].wrapping_mul(zero)))
            .collect();
        let scales: Vec<f32> = (0..shape.columns)
            .map(|c| {
                let scale = of_channel(&weights.scale, first + c);
                // The input's scale comes at run time where it is dynamic; times 1 it is exact here.
                let scale = left.params.scale * scale;
                tail.out_scale.map_or(scale, |y| scale / y)
            })
            .collect();
        ensure!(scales.iter().all(|s| s.is_finite()), "scales of input, weights and output are out of proportion");

        let padded = packing.padded_columns();
        let (mut bias, mut factor) = (vec![0; padded], vec![0.0; padded]);
        packing.spread(&starts, 0, &mut bias);
        packing.spread(&scales, 0.0, &mut factor);
        let offset = match real_bias {
            Some(real) if !real.is_empty() => {
                let mine: Vec<f32> = (0..shape.columns).map(|c| of_channel(real, first + c)).collect();
                let mut offset = vec![0.0; padded];
                packing.spread(&mine, 0.0, &mut offset);
                offset
            }
            _ => vec![],
        };
        let dynamic = left.dynamic.map(|params| {
            let mut ordered = vec![0; padded];
            packing.spread(&sums, 0, &mut ordered);
            Dynamic { params, columns: self.buffer(padded * 8), sums: ordered }
        });
        Ok((Packed { packing, data, bias, factor, offset }, dynamic))
    }

    pub(super) fn fully_connected(
        &mut self,
        node: &Node,
        product: &FullyConnected,
        real_bias: Option<&[f32]>,
    ) -> TractResult<()> {
        let (x, out) = (node.inputs[0], node.output);
        let (shape, out_shape) = (&self.value(x)?.shape, &self.value(out)?.shape);
        let (Some(&len), Some(&columns)) = (shape.last(), out_shape.last()) else { bail!("an operand is a scalar") };
        check_weights(&product.weights, columns, len)?;
        let rows = volume(shape) / len;
        ensure!(volume(out_shape) == rows * columns, "{shape:?} times [{len}, {columns}] is not {out_shape:?}");
        let left = self.left(x, &row_major(shape.len()), real_bias.is_some())?;
        let data = &product.weights.data;
        let get = |c: usize, _: usize, k: usize| data[c * len + k];
        self.matrix(node, (rows, len, columns), left, &product.weights, &product.bias, real_bias, product.clamp, get)?;
        let rank = self.value(out)?.shape.len();
        let buffer = self.view(out)?.buffer;
        self.define(out, buffer, &row_major(rank))
    }

    /// `[rows, len]` times `[len, columns]` into a new buffer, which is defined as channel-last.
    #[allow(clippy::too_many_arguments)]
    fn matrix(
        &mut self,
        node: &Node,
        (rows, len, columns): (usize, usize, usize),
        left: Left,
        weights: &Weights,
        bias: &[i32],
        real_bias: Option<&[f32]>,
        clamp: Clamp,
        get: impl Fn(usize, usize, usize) -> i8,
    ) -> TractResult<()> {
        let out = node.output;
        let tail = self.tail(out, clamp)?;
        let shape = Shape { columns, segments: 1, len };
        let (packed, dynamic) = self.pack(weights, bias, real_bias, (0, shape), left, &tail, get)?;
        let is_wide = packed.packing.form.is_wide();
        let scratch = self.buffer(if is_wide { widened_bytes(rows, len) } else { 0 });
        let value = self.value(out)?;
        let buffer = self.buffer_for(value);
        let (mut reads, mut writes) = (vec![left.buffer], vec![buffer, scratch]);
        if let Some(dynamic) = &dynamic {
            reads.push(dynamic.params);
            writes.push(dynamic.columns);
        }
        let task = Task::Matrix(Matrix {
            x: left.buffer,
            out: buffer,
            scratch,
            rows,
            len,
            zero: left.params.zero,
            packed,
            finish: tail.finish,
            dynamic,
        });
        let name = if rows == 1 { "MatrixVector" } else { "Matrix" };
        self.push(name, rows * len * columns, &reads, &writes, task);
        self.define(out, buffer, &channel_last(value.shape.len()))
    }

    pub(super) fn conv(&mut self, node: &Node, conv: &Conv, real_bias: Option<&[f32]>) -> TractResult<()> {
        let (x, out) = (node.inputs[0], node.output);
        let value = self.value(x)?;
        let [images, channels, height, width] = image(&value.shape)?;
        let [_, out_channels, out_height, out_width] = image(&self.value(out)?.shape)?;
        let groups = conv.groups;
        ensure!(
            groups > 0 && channels % groups == 0 && out_channels % groups == 0,
            "{groups} groups of {channels} and {out_channels} channels"
        );
        let (per_group, out_per_group) = (channels / groups, out_channels / groups);
        let [kh, kw] = conv.window.kernel;
        check_weights(&conv.weights, out_channels, per_group * kh * kw)?;
        // Kernels step through padded rows by pointer, so that no size of theirs may overflow, whatever the file says.
        let padded = || {
            let [top, left, ..] = conv.window.pad;
            let rows = conv.window.reach(0, out_height)?.max(top.checked_add(height)?);
            let columns = conv.window.reach(1, out_width)?.max(left.checked_add(width)?);
            let bytes = rows.checked_mul(columns)?.checked_mul(channels)?.checked_mul(2)?;
            Some((rows, columns)).filter(|_| u32::try_from(bytes).is_ok())
        };
        ensure!(padded().is_some(), "{:?} over an image of {:?} is out of proportion", conv.window, value.shape);
        let data = &conv.weights.data;
        let order = channel_last(value.shape.len());
        let left = self.left(x, &order, real_bias.is_some())?;

        let is_plain = conv.window.stride == [1, 1] && conv.window.pad == [0; 4];
        if (kh, kw, groups) == (1, 1, 1) && is_plain {
            let rows = images * height * width;
            let get = |c: usize, _: usize, k: usize| data[c * channels + k];
            let of = (rows, channels, out_channels);
            return self.matrix(node, of, left, &conv.weights, &conv.bias, real_bias, conv.clamp, get);
        }
        let tail = self.tail(out, conv.clamp)?;
        let result = self.value(out)?;
        let buffer = self.buffer_for(result);
        self.define(out, buffer, &channel_last(result.shape.len()))?;
        let macs = volume(&result.shape) * per_group * kh * kw;
        let (size, out_size) = (Size { height, width }, Size { height: out_height, width: out_width });
        let is_depthwise = per_group == 1 && out_per_group == 1 && groups > 1 && kh * kw < TAPS_MAX;
        if is_depthwise && left.dynamic.is_none() {
            let weight =
                |c: usize, tap: usize| i32::from(data[c * kh * kw + tap]) - of_channel(&conv.weights.zero_point, c);
            let scale = |c: usize| {
                let scale = left.params.scale * of_channel(&conv.weights.scale, c);
                tail.out_scale.map_or(scale, |y| scale / y)
            };
            let factor: Vec<f32> = (0..channels).map(scale).collect();
            ensure!(factor.iter().all(|s| s.is_finite()), "scales of input, weights and output are out of proportion");
            let bias: Vec<i32> = (0..channels).map(|c| conv.bias.get(c).copied().unwrap_or(0)).collect();
            let taps = Taps { weight: &weight, bias: &bias, factor: &factor };
            let depthwise = Depthwise::new(self.tier, size, channels, out_size, conv.window, &taps);
            let scratch = self.buffer(depthwise.scratch_bytes());
            let task = Task::Strips(Strips {
                x: left.buffer,
                out: buffer,
                scratch,
                images,
                image_len: channels * height * width,
                out_bytes: out_channels * out_height * out_width * tail.finish.bytes(),
                zero: left.params.zero,
                depthwise: Box::new(depthwise),
                finish: tail.finish,
            });
            self.push("Depthwise", macs, &[left.buffer], &[buffer, scratch], task);
            return Ok(());
        }

        // A segment is a run of the kernel's row where its pixels and channels follow each other, else one pixel.
        let [dh, dw] = conv.window.dilation;
        let is_run = groups == 1 && dw == 1;
        let (segment_count, len) = if is_run { (kh, kw * channels) } else { (kh * kw, per_group) };
        let shape = Shape { columns: out_per_group, segments: segment_count, len };
        let mut packed = vec![];
        let mut dynamic = vec![];
        for group in 0..groups {
            let get = |o: usize, s: usize, k: usize| {
                let (ky, kx, c) = if is_run { (s, k / channels, k % channels) } else { (s / kw, s % kw, k) };
                data[((o * per_group + c) * kh + ky) * kw + kx]
            };
            let of = (group * out_per_group, shape);
            let (p, d) = self.pack(&conv.weights, &conv.bias, real_bias, of, left, &tail, get)?;
            packed.push(p);
            dynamic.extend(d);
        }
        let element = packed[0].packing.form.left_bytes();
        let reach = |axis, out| conv.window.reach(axis, out).context("a window without an end");
        let padded_height = reach(0, out_height)?;
        let padded_width = reach(1, out_width)?.max(conv.window.pad[1] + 1);
        let pitch = padded_width * channels * element;
        let segments = (0..segment_count)
            .map(|s| if is_run { s * dh * pitch } else { s / kw * dh * pitch + s % kw * dw * channels * element })
            .collect();
        let table = (0..out_height * out_width)
            .map(|p| {
                let (y, x) = (p / out_width * conv.window.stride[0], p % out_width * conv.window.stride[1]);
                (y * pitch + x * channels * element) as u32
            })
            .collect();
        let scratch = self.buffer(padded_height * pitch);
        let (mut reads, mut writes) = (vec![left.buffer], vec![buffer, scratch]);
        reads.extend(left.dynamic);
        writes.extend(dynamic.iter().map(|d| d.columns));
        let task = Task::Windowed(Windowed {
            x: left.buffer,
            out: buffer,
            scratch,
            images,
            height,
            width,
            channels,
            top: conv.window.pad[0],
            left: conv.window.pad[1],
            padded_height,
            padded_width,
            zero: left.params.zero,
            table,
            segments,
            groups: packed,
            out_channels,
            finish: tail.finish,
            dynamic,
        });
        self.push("Conv", macs, &reads, &writes, task);
        Ok(())
    }

    pub(super) fn matmul(&mut self, node: &Node, clamp: Clamp) -> TractResult<()> {
        let (a, b, out) = (node.inputs[0], node.inputs[1], node.output);
        let (shape_a, shape_b, shape) = (&self.value(a)?.shape, &self.value(b)?.shape, &self.value(out)?.shape);
        let (ra, rb, rank) = (shape_a.len(), shape_b.len(), shape.len());
        ensure!(ra >= 2 && rb >= 2 && rank >= 2, "operands {shape_a:?} and {shape_b:?}, expected matrices");
        let (rows, len, columns) = (shape_a[ra - 2], shape_a[ra - 1], shape_b[rb - 1]);
        ensure!(
            shape_b[rb - 2] == len && shape[rank - 2] == rows && shape[rank - 1] == columns,
            "operands {shape_a:?} and {shape_b:?} do not multiply to {shape:?}"
        );
        let mut view_a = self.view(a)?.clone();
        if view_a.strides[ra - 1] != 1 && len != 1 {
            let buffer = self.dense_in(a, &row_major(ra))?;
            view_a = super::View { buffer, start: 0, strides: dense(shape_a, &row_major(ra)) };
        }
        let view_b = self.view(b)?.clone();
        let preferred = self.preferred(out);
        let order = if preferred.last() == Some(&(rank - 1)) { preferred } else { row_major(rank) };
        let strides = dense(shape, &order);
        let (pa, pb) = (Params::from(self.affine(a)?), Params::from(self.affine(b)?));
        let tail = self.tail(out, clamp)?;
        let scale = pa.scale * pb.scale;
        let factor = tail.out_scale.map_or(scale, |y| scale / y);
        ensure!(factor.is_finite(), "scales of the operands and the output are out of proportion");

        let count = volume(&shape[..rank - 2]);
        let mut batches = Vec::with_capacity(count);
        for batch in 0..count {
            let mut at = Batch { a: view_a.start, b: view_b.start, out: 0 };
            let mut rest = batch;
            for axis in (0..rank - 2).rev() {
                let index = rest % shape[axis];
                rest /= shape[axis];
                at.out += index * strides[axis];
                for (offset, view, own, own_rank) in
                    [(&mut at.a, &view_a, shape_a, ra), (&mut at.b, &view_b, shape_b, rb)]
                {
                    if let Some(own_axis) = (axis + own_rank).checked_sub(rank)
                        && own[own_axis] != 1
                    {
                        ensure!(own[own_axis] == shape[axis], "{own:?} does not broadcast to {shape:?}");
                        *offset += index * view.strides[own_axis];
                    }
                }
            }
            batches.push(at);
        }
        let packing = Packing {
            form: Form::of(self.tier, false, len),
            shape: Shape { columns, segments: 1, len },
            is_wide: true,
        };
        let padded = packing.padded_columns();
        let scratch = self.buffer(packing.bytes().next_multiple_of(64) + widened_bytes(rows, len) + SLACK);
        let value = self.value(out)?;
        let buffer = self.buffer_for(value);
        let task = Task::Attention(Attention {
            a: view_a.buffer,
            b: view_b.buffer,
            out: buffer,
            scratch,
            batches,
            rows,
            a_stride: if rows == 1 { 0 } else { view_a.strides[ra - 2] },
            b_stride: if len == 1 { 0 } else { view_b.strides[rb - 2] },
            b_column_stride: if columns == 1 { 0 } else { view_b.strides[rb - 1] },
            out_stride: strides[rank - 2],
            a_zero: pa.zero,
            b_zero: pb.zero,
            packing,
            factor: vec![factor; padded],
            bias: vec![0; padded],
            finish: tail.finish,
        });
        self.push("MatMul", count * rows * len * columns, &[view_a.buffer, view_b.buffer], &[buffer, scratch], task);
        self.define(out, buffer, &order)
    }
}
