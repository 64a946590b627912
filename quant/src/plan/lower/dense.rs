//! Operators without weights: element-wise ones, rows, pools, joins.

use tract_core::internal::{TractResult, bail, ensure};

use super::super::super::graph::{Clamp, Node, Number, Op, ValueId};
use super::super::super::kernel::depthwise::Size;
use super::super::super::kernel::elementwise::{Binary, Nest, RowOp};
use super::super::super::kernel::pool::{Mean, Pool};
use super::super::super::kernel::real::gelu;
use super::super::super::kernel::{Narrow, Params, Stored, shift};
use super::super::super::{Affine, IntType};
use super::super::steps::{Kind, Slot, Task};
use super::super::view::{Order, channel_last, collapse, dense, row_major, volume};
use super::{Lowering, element_bytes, image, requantize_table, table_from};

impl Lowering<'_> {
    /// `out` is `table` of `x`, in the order of `x`.
    pub(super) fn table_of(&mut self, x: ValueId, out: ValueId, table: Box<[Stored; 256]>) -> TractResult<()> {
        let (slot, order) = self.as_it_lies(x)?;
        let value = self.value(out)?;
        let (len, buffer) = (volume(&value.shape), self.buffer_for(value));
        self.push("Lut", 0, &[slot.buffer], &[buffer], Task::LookUp { x: slot, out: buffer, len, table });
        self.define(out, buffer, &order)
    }

    /// Where `id` is and in which order, if it is dense in one; else made so in the order its readers prefer.
    fn as_it_lies(&mut self, id: ValueId) -> TractResult<(Slot, Order)> {
        let view = self.view(id)?.clone();
        let order = match view.order(&self.value(id)?.shape) {
            Some(order) => order,
            None => self.preferred(id),
        };
        Ok((self.slot_in(id, &order)?, order))
    }

    pub(super) fn unary(&mut self, node: &Node) -> TractResult<()> {
        let (x, out) = (node.inputs[0], node.output);
        let (from, to) = (self.value(x)?.number, self.value(out)?.number);
        if let (Number::Int(a), Number::Int(b)) = (from, to) {
            let dequantized = |q: i32| (q - Params::from(a).zero) as f32 * a.scale;
            let narrow = Narrow::new(b, Clamp::NONE);
            let table = match &node.op {
                Op::Requantize => Some(requantize_table(a, b)),
                Op::Lut { table } => Some(stored_table(a, b, table)),
                Op::Gelu => Some(table_from(|q| narrow.apply(gelu(dequantized(q)) / b.scale))),
                Op::Affine { factor, offset } => match (&factor[..], &offset[..]) {
                    ([f], [o]) => Some(table_from(|q| narrow.apply((dequantized(q) * f + o) / b.scale))),
                    _ => None,
                },
                _ => None,
            };
            if let Some(table) = table {
                return self.table_of(x, out, table);
            }
        }
        let shape = &self.value(x)?.shape;
        let rank = shape.len();
        let last = |axis: usize| -> Order { (0..rank).filter(|a| *a != axis).chain(std::iter::once(axis)).collect() };
        let (op, order): (RowOp, Option<Order>) = match &node.op {
            Op::Quantize | Op::Dequantize => (RowOp::Identity, None),
            Op::Gelu => (RowOp::Gelu, None),
            Op::Softmax { axis } => {
                // Axes after it may be of one element: then the model's order does.
                let is_last = shape[axis + 1..].iter().all(|d| *d == 1);
                (RowOp::Softmax, Some(if is_last { row_major(rank) } else { last(*axis) }))
            }
            Op::LayerNorm { gain, bias, epsilon } => {
                ensure!(Some(&gain.len()) == shape.last(), "{} gains for {shape:?}", gain.len());
                ensure!(bias.is_empty() || bias.len() == gain.len(), "{} biases for {shape:?}", bias.len());
                let op = RowOp::LayerNorm { gain: gain.clone(), bias: bias.clone(), epsilon: *epsilon };
                (op, Some(row_major(rank)))
            }
            Op::Affine { factor, offset } => {
                let per_element = |of: &[f32]| of.len() == 1 || Some(&of.len()) == shape.last();
                ensure!(per_element(factor) && per_element(offset), "factors or offsets for {shape:?}");
                let is_uniform = factor.len() == 1 && offset.len() == 1;
                let op = RowOp::Affine { factor: factor.clone(), offset: offset.clone() };
                (op, (!is_uniform).then(|| row_major(rank)))
            }
            _ => bail!("takes int8 to int8, has {from:?} to {to:?}"),
        };
        let total = volume(shape);
        let len = match &node.op {
            Op::Softmax { axis } => shape[*axis],
            Op::LayerNorm { gain, .. } => gain.len(),
            Op::Affine { factor, offset } if factor.len().max(offset.len()) > 1 => factor.len().max(offset.len()),
            // Element-wise operators go in runs that fit the cache.
            _ => (1..=512).rev().find(|l| total.is_multiple_of(*l)).unwrap_or(1),
        };
        if let (Op::Quantize, Number::Int(a)) = (&node.op, to)
            && let Some(done) = self.planes(node, a)?
        {
            return Ok(done);
        }
        let (slot, order) = match order {
            Some(order) => (self.slot_in(x, &order)?, order),
            None => self.as_it_lies(x)?,
        };
        let (buffer, scratch) = (self.buffer_for(self.value(out)?), self.buffer(len * 4));
        let task = Task::Rows {
            op,
            x: (slot, self.kind(x)?),
            out: (buffer, self.kind(out)?),
            scratch,
            count: total / len,
            len,
        };
        self.push(operator_name(&node.op), 0, &[slot.buffer], &[buffer, scratch], task);
        self.define(out, buffer, &order)
    }

    /// Quantizes planes of an image into the channel-last order that its reader prefers, in one step.
    fn planes(&mut self, node: &Node, a: Affine) -> TractResult<Option<()>> {
        let (x, out) = (node.inputs[0], node.output);
        let value = self.value(x)?;
        let order = self.preferred(out);
        let view = self.view(x)?.clone();
        let rank = value.shape.len();
        let is_planes = rank >= 3 && order == channel_last(rank) && view.start == 0;
        if !is_planes
            || view.is_dense(&value.shape, &order)
            || !view.is_dense(&value.shape, &row_major(rank))
            || value.number != Number::F32
        {
            return Ok(None);
        }
        let (images, channels) = (value.shape[0], value.shape[1]);
        let pixels = volume(&value.shape[2..]);
        let buffer = self.buffer_for(self.value(out)?);
        let narrow = Narrow::new(a, Clamp::NONE);
        let task = Task::Planes { x: view.buffer, out: buffer, images, channels, pixels, scale: a.scale, narrow };
        self.push("Quantize", 0, &[view.buffer], &[buffer], task);
        self.define(out, buffer, &order)?;
        Ok(Some(()))
    }

    pub(super) fn binary(&mut self, node: &Node) -> TractResult<()> {
        let (a, b, out) = (node.inputs[0], node.inputs[1], node.output);
        let value = self.value(out)?;
        let rank = value.shape.len();
        let order = {
            let whole = [a, b].into_iter().find(|id| self.graph.values[id.0].shape == value.shape);
            let lies = match whole {
                Some(id) => self.view(id)?.order(&value.shape),
                None => None,
            };
            lies.unwrap_or_else(|| self.preferred(out))
        };
        let mut of = |id: ValueId| -> TractResult<(Slot, Vec<usize>)> {
            let operand = self.value(id)?;
            let skip = rank.checked_sub(operand.shape.len());
            let Some(skip) = skip else { bail!("{:?} does not broadcast to {:?}", operand.shape, value.shape) };
            let own: Order = order.iter().filter(|a| **a >= skip).map(|a| a - skip).collect();
            let slot = self.slot_in(id, &own)?;
            let strides = dense(&operand.shape, &own);
            let mut spread = vec![0; rank];
            for axis in 0..operand.shape.len() {
                let (have, want) = (operand.shape[axis], value.shape[axis + skip]);
                ensure!(have == want || have == 1, "{:?} does not broadcast to {:?}", operand.shape, value.shape);
                spread[axis + skip] = if have == 1 { 0 } else { strides[axis] };
            }
            Ok((slot, order.iter().map(|&a| spread[a]).collect()))
        };
        let ((slot_a, strides_a), (slot_b, strides_b)) = (of(a)?, of(b)?);
        let dims: Vec<usize> = order.iter().map(|&a| value.shape[a]).collect();
        let (dims, [mut strides_a, mut strides_b]) = collapse(&dims, [&strides_a, &strides_b]);
        for strides in [&mut strides_a, &mut strides_b] {
            // A single element is a row of one.
            if dims == [1] {
                strides[0] = 1;
            }
            ensure!(strides.last().is_some_and(|s| *s <= 1), "operands do not broadcast by rows");
        }
        let buffer = self.buffer_for(value);
        let (kind_a, kind_b) = (self.kind(a)?, self.kind(b)?);
        let (op, kind) = match (&node.op, kind_a, kind_b, value.number) {
            (Op::Add { clamp }, Kind::Stored(pa, _), Kind::Stored(pb, _), Number::Int(y)) => {
                let op = Binary::Add { a: pa.scale / y.scale, b: pb.scale / y.scale, zero: y.zero_point as f32 };
                (op, Kind::Stored(Params::from(y), Narrow::new(y, *clamp)))
            }
            (Op::Mul { clamp }, Kind::Stored(pa, _), Kind::Stored(pb, _), Number::Int(y)) => {
                let op = Binary::Mul { factor: pa.scale * pb.scale / y.scale };
                (op, Kind::Stored(Params::from(y), Narrow::new(y, *clamp)))
            }
            (Op::AddF32 { clamp }, ..) => (Binary::AddReal { lo: clamp.lo, hi: clamp.hi }, self.clamped(out, *clamp)?),
            (Op::MulF32 { clamp }, ..) => (Binary::MulReal { lo: clamp.lo, hi: clamp.hi }, self.clamped(out, *clamp)?),
            _ => bail!("operands or result are f32, expected int8"),
        };
        let reads = [slot_a.buffer, slot_b.buffer];
        let task = match (op, kind_a, kind_b, kind) {
            (Binary::Add { a: fa, b: fb, zero }, Kind::Stored(pa, _), Kind::Stored(pb, _), Kind::Stored(_, narrow))
                if dims.len() == 1 && strides_a == [1] && strides_b == [1] =>
            {
                let (a_of, b_of) = ((pa.zero, fa), (pb.zero, fb));
                Task::Add { a: slot_a, b: slot_b, out: buffer, len: dims[0], a_of, b_of, zero, narrow }
            }
            _ => {
                let nest = Nest { dims, a: strides_a, b: strides_b };
                Task::Binary { op, nest, a: (slot_a, kind_a), b: (slot_b, kind_b), out: (buffer, kind) }
            }
        };
        self.push(operator_name(&node.op), 0, &reads, &[buffer], task);
        self.define(out, buffer, &order)
    }

    /// The kind of a result with a fused activation.
    pub(super) fn clamped(&self, id: ValueId, clamp: Clamp) -> TractResult<Kind> {
        Ok(match self.value(id)?.number {
            Number::F32 => Kind::Real,
            Number::Int(a) => Kind::Stored(Params::from(a), Narrow::new(a, clamp)),
        })
    }

    pub(super) fn concat(&mut self, node: &Node, axis: usize) -> TractResult<()> {
        let out = node.output;
        let value = self.value(out)?;
        let first = self.view(node.inputs[0])?.order(&self.value(node.inputs[0])?.shape);
        let order = first.unwrap_or_else(|| self.preferred(out));
        let strides = dense(&value.shape, &order);
        let bytes = element_bytes(value.number);
        let buffer = self.buffer_for(value);
        let position = order.iter().position(|a| *a == axis).unwrap_or(0);
        let count: usize = order[..position].iter().map(|&a| value.shape[a]).product();
        let stride = strides[axis] * value.shape[axis];
        let mut at = 0;
        for &id in &node.inputs {
            let part = self.value(id)?;
            let slot = self.slot_in(id, &order)?;
            let run = strides[axis] * part.shape[axis];
            let table = match (part.number, value.number) {
                (Number::Int(a), Number::Int(b)) => (a != b).then(|| requantize_table(a, b)),
                (Number::F32, Number::F32) => None,
                _ => bail!("operands are both f32 and int8"),
            };
            let to = Slot { buffer, start: at };
            let task = Task::Join { x: slot, out: to, count, run, stride, bytes, table };
            self.push("Concat", 0, &[slot.buffer], &[buffer], task);
            at += run;
        }
        ensure!(at == stride, "operands do not fill {:?}", value.shape);
        self.define(out, buffer, &order)
    }

    pub(super) fn pool(&mut self, node: &Node) -> TractResult<()> {
        let (x, out) = (node.inputs[0], node.output);
        let (value, result) = (self.value(x)?, self.value(out)?);
        let rank = value.shape.len();
        let [images, channels, height, width] = image(&value.shape)?;
        let [_, _, out_height, out_width] = image(&result.shape)?;
        let order = channel_last(rank);
        let window = match &node.op {
            Op::AveragePool { window, .. } | Op::MaxPool { window } => *window,
            _ => bail!("is no pool"),
        };
        let pool =
            Pool { size: Size { height, width }, out: Size { height: out_height, width: out_width }, channels, window };
        let source = self.dense_in(x, &order)?;
        let buffer = self.buffer_for(result);
        self.define(out, buffer, &order)?;
        match (&node.op, value.number, result.number) {
            (Op::AveragePool { count_include_pad, .. }, Number::Int(a), Number::Int(b)) => {
                let mean = mean(a, b, *count_include_pad);
                let scratch = self.buffer(channels * 4);
                let task = Task::Average { x: source, out: buffer, scratch, images, pool, mean };
                self.push("AveragePool", 0, &[source], &[buffer, scratch], task);
                Ok(())
            }
            (Op::MaxPool { .. }, a, b) => {
                let is_real = a == Number::F32;
                ensure!(is_real == (b == Number::F32), "pools f32 to int8 or back");
                let task = Task::Largest { x: source, out: buffer, images, pool, is_real };
                self.push("MaxPool", 0, &[source], &[buffer], task);
                match (a, b) {
                    // Rounding is monotonic: the largest of the rounded is the rounded largest.
                    (Number::Int(a), Number::Int(b)) if a != b => self.table_of(out, out, requantize_table(a, b)),
                    _ => Ok(()),
                }
            }
            _ => bail!("a mean of a window is int8 to int8"),
        }
    }

    pub(super) fn reduce_mean(&mut self, node: &Node, axes: &[usize]) -> TractResult<()> {
        let (x, out) = (node.inputs[0], node.output);
        let (value, result) = (self.value(x)?, self.value(out)?);
        let rank = value.shape.len();
        let len: usize = axes.iter().map(|&a| value.shape[a]).product();
        let count = volume(&result.shape);
        let buffer = self.buffer_for(result);
        self.define(out, buffer, &row_major(result.shape.len()))?;
        let means = match (value.number, result.number) {
            (Number::Int(a), Number::Int(b)) => Some(mean(a, b, true)),
            _ => None,
        };
        // Means of whole channel-last images are a pool, whose sums run over channels.
        let is_global = rank >= 3 && axes.len() == rank - 2 && (2..rank).all(|a| axes.contains(&a));
        if let (true, Some(mean), Ok([images, channels, height, width])) = (is_global, means, image(&value.shape)) {
            let source = self.dense_in(x, &channel_last(rank))?;
            let window = super::super::super::graph::Window {
                kernel: [height, width],
                stride: [1, 1],
                dilation: [1, 1],
                pad: [0; 4],
            };
            let pool = Pool { size: Size { height, width }, out: Size { height: 1, width: 1 }, channels, window };
            let scratch = self.buffer(channels * 4);
            let task = Task::Average { x: source, out: buffer, scratch, images, pool, mean };
            self.push("ReduceMean", 0, &[source], &[buffer, scratch], task);
            return Ok(());
        }
        let order: Order =
            (0..rank).filter(|a| !axes.contains(a)).chain((0..rank).filter(|a| axes.contains(a))).collect();
        let slot = self.slot_in(x, &order)?;
        let scratch = self.buffer(len * 4);
        let (x, out) = ((slot, self.kind(x)?), (buffer, self.kind(out)?));
        let task = Task::MeanRows { x, out, scratch, count, len, mean: means };
        self.push("ReduceMean", 0, &[slot.buffer], &[buffer, scratch], task);
        Ok(())
    }
}

fn mean(from: Affine, to: Affine, count_include_pad: bool) -> Mean {
    Mean {
        zero: Params::from(from).zero,
        scale: from.scale,
        out_scale: to.scale,
        count_include_pad,
        narrow: Narrow::new(to, Clamp::NONE),
    }
}

/// A table of the model's bits as one of stored values.
fn stored_table(from: Affine, to: Affine, table: &[u8; 256]) -> Box<[Stored; 256]> {
    table_from(|q| {
        let bits = table[usize::from((q - shift(from.int)) as u8)];
        let value = match to.int {
            IntType::I8 => i32::from(bits as i8),
            IntType::U8 => i32::from(bits),
        };
        (value + shift(to.int)) as Stored
    })
}

fn operator_name(op: &Op) -> &'static str {
    match op {
        Op::Quantize => "Quantize",
        Op::Dequantize => "Dequantize",
        Op::Gelu => "Gelu",
        Op::Softmax { .. } => "Softmax",
        Op::LayerNorm { .. } => "LayerNorm",
        Op::Affine { .. } => "Affine",
        Op::Add { .. } => "Add",
        Op::Mul { .. } => "Mul",
        Op::AddF32 { .. } => "AddF32",
        Op::MulF32 { .. } => "MulF32",
        _ => "Elementwise",
    }
}
