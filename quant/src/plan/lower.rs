//! Graph to steps: layouts, views, packing.
//!
//! Values go through in the order of the nodes. Image operators want channel-last values, row operators the model's order,
//! and the rest takes what it gets; what a value's reader prefers is looked up before it is made.

mod dense;
mod products;

use tract_core::internal::{TractErrorContext, TractResult, bail, ensure};

use super::super::Affine;
use super::super::graph::{Clamp, Graph, Node, Number, Op, Value, ValueId};
use super::super::kernel::memory::BufferId;
use super::super::kernel::{Narrow, Params, SLACK, Stored, shift};
use super::super::tier::Tier;
use super::arena::{Life, Wanted, place};
use super::steps::{Kind, Slot, Task};
use super::view::{Order, View, channel_last, dense, row_major, volume};
use super::{Plan, Step, StepInfo};

/// How many readers deep a preference is looked for.
const PREFERENCE_DEPTH: usize = 16;

/// The plan of `graph`.
/// Most elements of a value: sizes of it and of its padding are then numbers that do not overflow.
const ELEMENTS_MAX: usize = 1 << 30;

pub(super) fn lower(graph: &Graph, tier: Tier) -> TractResult<Plan> {
    for value in &graph.values {
        let elements = value.shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
        let fits = elements.is_some_and(|n| (1..=ELEMENTS_MAX).contains(&n));
        ensure!(fits, "`{}` is {:?}, expected 1 to {ELEMENTS_MAX} elements", value.name, value.shape);
    }
    let mut lowering =
        Lowering { graph, tier, wanted: vec![], views: vec![None; graph.values.len()], steps: vec![], node: None };
    for (i, id) in graph.inputs.iter().enumerate() {
        lowering.input(i, *id)?;
    }
    for node in &graph.nodes {
        lowering.node = Some(node);
        lowering.lower(node).with_context(|| format!("node `{}`", node.name))?;
    }
    lowering.node = None;
    for (i, id) in graph.outputs.iter().enumerate() {
        lowering.output(i, *id)?;
    }
    lowering.finish()
}

struct Lowering<'g> {
    graph: &'g Graph,
    tier: Tier,
    wanted: Vec<Wanted>,
    views: Vec<Option<View>>,
    steps: Vec<Step>,
    /// Whose steps are being made.
    node: Option<&'g Node>,
}

/// Bytes of an element.
fn element_bytes(number: Number) -> usize {
    match number {
        Number::F32 => 4,
        Number::Int(_) => 1,
    }
}

/// Sizes of an image value: images, channels, height, width.
fn image(shape: &[usize]) -> TractResult<[usize; 4]> {
    match *shape {
        [n, c, w] => Ok([n, c, 1, w]),
        [n, c, h, w] => Ok([n, c, h, w]),
        _ => bail!("shape is {shape:?}, expected [N, C, W] or [N, C, H, W]"),
    }
}

impl<'g> Lowering<'g> {
    fn value(&self, id: ValueId) -> TractResult<&'g Value> {
        self.graph.values.get(id.0).with_context(|| format!("value {} of {}", id.0, self.graph.values.len()))
    }

    fn affine(&self, id: ValueId) -> TractResult<Affine> {
        match self.value(id)?.number {
            Number::Int(affine) => Ok(affine),
            Number::F32 => bail!("`{}` is f32, expected int8", self.value(id)?.name),
        }
    }

    fn buffer(&mut self, bytes: usize) -> BufferId {
        self.wanted.push(Wanted::Arena(bytes + SLACK));
        self.wanted.len() - 1
    }

    /// A new buffer for all of `value`.
    fn buffer_for(&mut self, value: &Value) -> BufferId {
        self.buffer(volume(&value.shape) * element_bytes(value.number))
    }

    fn push(&mut self, operator: &'static str, macs: usize, reads: &[BufferId], writes: &[BufferId], task: Task) {
        let name = self.node.map_or_else(|| "edge".to_owned(), |n| n.name.clone());
        let info = StepInfo { name, operator, tier: self.tier, macs: macs as u64 };
        self.steps.push(Step { info, task, reads: reads.into(), writes: writes.into() });
    }

    /// Says where `id` is: dense in `order` in `buffer`.
    fn define(&mut self, id: ValueId, buffer: BufferId, order: &[usize]) -> TractResult<()> {
        let strides = dense(&self.value(id)?.shape, order);
        self.views[id.0] = Some(View { buffer, start: 0, strides });
        Ok(())
    }

    fn view(&self, id: ValueId) -> TractResult<&View> {
        self.views[id.0].as_ref().with_context(|| format!("value {} is not computed yet", id.0))
    }

    fn kind(&self, id: ValueId) -> TractResult<Kind> {
        self.clamped(id, Clamp::NONE)
    }

    /// A buffer that holds exactly `id` from its first element, dense in `order`; copied there if need be.
    fn dense_in(&mut self, id: ValueId, order: &[usize]) -> TractResult<BufferId> {
        let slot = self.slot_in(id, order)?;
        if slot.start == 0 {
            return Ok(slot.buffer);
        }
        let value = self.value(id)?;
        let (len, bytes) = (volume(&value.shape), element_bytes(value.number));
        let buffer = self.buffer_for(value);
        let out = Slot { buffer, start: 0 };
        let task = Task::Gather { x: slot, out, dims: vec![len], strides: vec![1], bytes };
        self.push("Copy", 0, &[slot.buffer], &[buffer], task);
        Ok(buffer)
    }

    /// As [`Self::dense_in`], but it may begin within a buffer.
    fn slot_in(&mut self, id: ValueId, order: &[usize]) -> TractResult<Slot> {
        let value = self.value(id)?;
        let view = self.view(id)?.clone();
        if view.is_dense(&value.shape, order) {
            return Ok(Slot { buffer: view.buffer, start: view.start });
        }
        let buffer = self.buffer_for(value);
        let dims: Vec<usize> = order.iter().map(|&a| value.shape[a]).collect();
        let strides: Vec<usize> = order.iter().map(|&a| view.strides[a]).collect();
        let (dims, [strides]) = super::view::collapse(&dims, [&strides]);
        let task = Task::Gather {
            x: Slot { buffer: view.buffer, start: view.start },
            out: Slot { buffer, start: 0 },
            dims,
            strides,
            bytes: element_bytes(value.number),
        };
        self.push("Reorder", 0, &[view.buffer], &[buffer], task);
        // Other readers most often want the same.
        self.define(id, buffer, order)?;
        Ok(Slot { buffer, start: 0 })
    }

    /// The order in which the readers of `id` would like it.
    fn preferred(&self, id: ValueId) -> Order {
        self.preference(id, PREFERENCE_DEPTH).unwrap_or_else(|| row_major(self.graph.values[id.0].shape.len()))
    }

    fn preference(&self, id: ValueId, depth: usize) -> Option<Order> {
        let rank = self.graph.values[id.0].shape.len();
        let reader = self.graph.nodes.iter().find(|n| n.inputs.contains(&id))?;
        let out_rank = self.graph.values[reader.output.0].shape.len();
        match &reader.op {
            Op::Conv(_) | Op::DynamicConv { .. } | Op::AveragePool { .. } | Op::MaxPool { .. } => {
                Some(channel_last(rank))
            }
            Op::Transpose { perm } if depth > 0 => {
                let order = self.preference(reader.output, depth - 1)?;
                Some(order.iter().map(|&axis| perm[axis]).collect())
            }
            Op::Quantize | Op::Dequantize | Op::Requantize | Op::Lut { .. } | Op::Gelu | Op::Concat { .. }
                if depth > 0 =>
            {
                self.preference(reader.output, depth - 1)
            }
            Op::Add { .. } | Op::Mul { .. } | Op::AddF32 { .. } | Op::MulF32 { .. }
                if depth > 0 && rank == out_rank =>
            {
                self.preference(reader.output, depth - 1)
            }
            _ => Some(row_major(rank)),
        }
    }

    fn input(&mut self, i: usize, id: ValueId) -> TractResult<()> {
        let value = self.value(id)?;
        self.wanted.push(Wanted::Input(i));
        let buffer = self.wanted.len() - 1;
        let order = row_major(value.shape.len());
        match value.number {
            Number::F32 => self.define(id, buffer, &order),
            Number::Int(a) => {
                let len = volume(&value.shape);
                let out = self.buffer_for(value);
                self.push("Input", 0, &[buffer], &[out], Task::Shift { x: buffer, out, len, by: shift(a.int) as u8 });
                self.define(id, out, &order)
            }
        }
    }

    fn output(&mut self, i: usize, id: ValueId) -> TractResult<()> {
        let value = self.value(id)?;
        let order = row_major(value.shape.len());
        let slot = self.slot_in(id, &order)?;
        let len = volume(&value.shape);
        if let Number::Int(a) = value.number {
            let x = self.dense_in(id, &order)?;
            self.wanted.push(Wanted::Output(i));
            let out = self.wanted.len() - 1;
            let by = (shift(a.int) as u8).wrapping_neg();
            self.push("Output", 0, &[x], &[out], Task::Shift { x, out, len, by });
            return Ok(());
        }
        // Computed where it is wanted, unless it is a part of something.
        let exact = Wanted::Arena(len * 4 + SLACK);
        if slot.start == 0 && self.wanted[slot.buffer] == exact {
            self.wanted[slot.buffer] = Wanted::Output(i);
            return Ok(());
        }
        self.wanted.push(Wanted::Output(i));
        let buffer = self.wanted.len() - 1;
        let out = Slot { buffer, start: 0 };
        let task = Task::Gather { x: slot, out, dims: vec![len], strides: vec![1], bytes: 4 };
        self.push("Output", 0, &[slot.buffer], &[buffer], task);
        Ok(())
    }

    fn finish(self) -> TractResult<Plan> {
        let mut lives: Vec<Option<Life>> = vec![None; self.wanted.len()];
        for (i, step) in self.steps.iter().enumerate() {
            for &buffer in step.reads.iter().chain(&step.writes) {
                let life = lives[buffer].get_or_insert(Life { first: i, last: i });
                life.last = i;
            }
        }
        let (places, arena_bytes) = place(&self.wanted, &lives);
        let (inputs, outputs) = (self.graph.inputs.len(), self.graph.outputs.len());
        Ok(Plan { tier: self.tier, steps: self.steps, places, arena_bytes, inputs, outputs })
    }

    fn lower(&mut self, node: &'g Node) -> TractResult<()> {
        let expected = match &node.op {
            Op::MatMul { .. } | Op::Add { .. } | Op::Mul { .. } | Op::AddF32 { .. } | Op::MulF32 { .. } => 2,
            Op::Concat { .. } => node.inputs.len().max(1),
            _ => 1,
        };
        ensure!(node.inputs.len() == expected, "{} operands, expected {expected}", node.inputs.len());
        let x = node.inputs[0];
        match &node.op {
            Op::Conv(conv) => self.conv(node, conv, None),
            Op::DynamicConv { conv, bias } => self.conv(node, conv, Some(bias)),
            Op::FullyConnected(product) => self.fully_connected(node, product, None),
            Op::DynamicFullyConnected { product, bias } => self.fully_connected(node, product, Some(bias)),
            Op::MatMul { clamp } => self.matmul(node, *clamp),
            Op::Quantize
            | Op::Dequantize
            | Op::Requantize
            | Op::Gelu
            | Op::Lut { .. }
            | Op::Softmax { .. }
            | Op::LayerNorm { .. }
            | Op::Affine { .. } => self.unary(node),
            Op::Add { .. } | Op::Mul { .. } | Op::AddF32 { .. } | Op::MulF32 { .. } => self.binary(node),
            Op::Concat { axis } => self.concat(node, *axis),
            Op::AveragePool { .. } | Op::MaxPool { .. } => self.pool(node),
            Op::ReduceMean { axes } => self.reduce_mean(node, axes),
            Op::Transpose { perm } => {
                let view = self.view(x)?.transposed(perm);
                self.moved(node, view)
            }
            Op::Slice { axis, start } => {
                let view = self.view(x)?.sliced(*axis, *start);
                self.moved(node, view)
            }
            Op::Reshape => {
                let (from, to) = (&self.value(x)?.shape, &self.value(node.output)?.shape);
                ensure!(volume(from) == volume(to), "{from:?} does not reshape to {to:?}");
                let view = match self.view(x)?.reshaped(from, to) {
                    Some(view) => view,
                    None => {
                        let buffer = self.dense_in(x, &row_major(from.len()))?;
                        View { buffer, start: 0, strides: dense(to, &row_major(to.len())) }
                    }
                };
                self.moved(node, view)
            }
        }
    }

    /// The result is `view` of the input's elements, under the output's parameters.
    fn moved(&mut self, node: &Node, view: View) -> TractResult<()> {
        self.views[node.output.0] = Some(view);
        let (from, to) = (self.value(node.inputs[0])?.number, self.value(node.output)?.number);
        match (from, to) {
            (Number::Int(a), Number::Int(b)) if a != b => {
                let table = requantize_table(a, b);
                self.table_of(node.output, node.output, table)
            }
            (Number::Int(_), Number::Int(_)) | (Number::F32, Number::F32) => Ok(()),
            _ => bail!("moves values from f32 to int8 or back"),
        }
    }
}

/// Stored results by the bits of the stored value.
fn table_from(f: impl Fn(i32) -> Stored) -> Box<[Stored; 256]> {
    let mut table = Box::new([0 as Stored; 256]);
    for (bits, y) in table.iter_mut().enumerate() {
        *y = f(i32::from(bits as u8 as Stored));
    }
    table
}

/// Values under other parameters; the same bits moved where only the signedness differs.
fn requantize_table(from: Affine, to: Affine) -> Box<[Stored; 256]> {
    let (params, factor) = (Params::from(from), from.scale / to.scale);
    let narrow = Narrow::new(to, Clamp::NONE);
    table_from(|q| narrow.apply((q - params.zero) as f32 * factor))
}
