//! What one operator of an island takes from the model: a [`Unit`] is an [`Op`] with the outlets it reads and the one
//! it makes, matched backwards from that outlet over as many of tract's nodes as it covers.
//!
//! A unit never owns the nodes it covers: where another reader needs one of them too, it stays beside the island.

use std::collections::{HashMap, HashSet};

use tract_core::internal::*;
use tract_core::ops::array::{Slice, TypedConcat};
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;
use tract_core::ops::cnn::{MaxPool, PaddingSpec, PoolSpec, SumPool};
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::identity::Identity;
use tract_core::ops::math::{Add, Div, Erf, Max, Min, Mul, Sub};
use tract_core::ops::nn::{DataFormat, Reduce, Reducer, Softmax, SoftmaxKind};

use super::super::graph::{Clamp, Number, Op, Window};
use super::super::real::LayerNorm;
use super::super::{Affine, Dequantize, Quantize, mini};
use super::constants::{along, constant, reals, scalar, stored};
use super::{lut, products};

/// An outlet of the model, and as what an island reads it. An f32 outlet may be read as the int8 value it was
/// dequantized from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Operand {
    pub(super) outlet: OutletId,
    pub(super) number: Number,
}

impl Operand {
    pub(super) fn affine(&self) -> Option<Affine> {
        match self.number {
            Number::Int(affine) => Some(affine),
            Number::F32 => None,
        }
    }
}

/// What a unit's presence in an island is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Computes on integers: an island is made for it.
    Integer,
    /// Computes on reals: stays in an island only between integers.
    Real,
    /// Rounds, or moves int8 values.
    Move,
}

/// One operator of an island.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// Of the model's node that computes.
    pub(super) name: String,
    pub(super) op: Op,
    pub(super) operands: TVec<Operand>,
    /// What the result is. An f32 outlet may be made as the int8 value that it is dequantized from.
    pub(super) number: Number,
    pub(super) work: Work,
}

impl Unit {
    pub(super) fn real(name: &str, op: Op, operands: TVec<Operand>) -> Self {
        Unit { name: name.into(), op, operands, number: Number::F32, work: Work::Real }
    }

    pub(super) fn product(name: &str, op: Op, operands: TVec<Operand>) -> Self {
        // tract splits a Gemm in a product called `name.ab` and a sum
        let name = name.strip_suffix(".ab").unwrap_or(name);
        Unit { work: Work::Integer, ..Unit::real(name, op, operands) }
    }

    /// The fused activation, if the operator can have one.
    fn clamp(&mut self) -> Option<&mut Clamp> {
        match &mut self.op {
            Op::Conv(conv) | Op::DynamicConv { conv, .. } => Some(&mut conv.clamp),
            Op::FullyConnected(product) | Op::DynamicFullyConnected { product, .. } => Some(&mut product.clamp),
            Op::MatMul { clamp }
            | Op::Add { clamp }
            | Op::Mul { clamp }
            | Op::AddF32 { clamp }
            | Op::MulF32 { clamp } => Some(clamp),
            _ => None,
        }
    }

    /// The same operator with an int8 result, if it has one.
    fn quantized(mut self, affine: Affine) -> Option<Self> {
        let all_int8 = self.operands.iter().all(|o| o.affine().is_some());
        match self.op {
            Op::AddF32 { clamp } if all_int8 => self = Unit { op: Op::Add { clamp }, work: Work::Integer, ..self },
            Op::MulF32 { clamp } if all_int8 => self = Unit { op: Op::Mul { clamp }, work: Work::Integer, ..self },
            Op::ReduceMean { .. } | Op::Softmax { .. } | Op::LayerNorm { .. } | Op::Gelu | Op::Affine { .. }
                if all_int8 =>
            {
                self.work = Work::Integer;
            }
            Op::Conv(_)
            | Op::FullyConnected(_)
            | Op::MatMul { .. }
            | Op::AddF32 { .. }
            | Op::MulF32 { .. }
            | Op::ReduceMean { .. }
            | Op::Softmax { .. }
            | Op::LayerNorm { .. }
            | Op::Gelu
            | Op::Affine { .. } => {}
            _ => return None,
        }
        Some(Unit { number: Number::Int(affine), ..self })
    }
}

/// Finds units, and remembers them.
pub(super) struct Matcher<'m> {
    pub(super) model: &'m TypedModel,
    outputs: HashSet<OutletId>,
    /// Outlets that are, or are dequantized from, int8 values of known parameters without being the outlet of a
    /// `Dequantize`: `Quantize`, and what moves its values about.
    held: HashMap<OutletId, Affine>,
    units: HashMap<OutletId, Option<Unit>>,
    /// Outlets that must not be made by a unit.
    refused: HashSet<OutletId>,
}

impl<'m> Matcher<'m> {
    pub(super) fn new(model: &'m TypedModel, refused: HashSet<OutletId>) -> TractResult<Self> {
        let outputs = model.output_outlets()?.iter().copied().collect();
        let mut matcher = Matcher { model, outputs, held: HashMap::new(), units: HashMap::new(), refused };
        for id in model.eval_order()? {
            let node = model.node(id);
            if let Some(Quantize(affine)) = mini::<Quantize>(node) {
                matcher.held.insert(id.into(), *affine);
            } else if let Some((_, operands)) = matcher.moved(node)
                && let Some(affine) = operands[0].affine()
                && operands.iter().all(|o| o.affine() == Some(affine))
            {
                matcher.held.insert(id.into(), affine);
            }
        }
        Ok(matcher)
    }

    pub(super) fn shape(&self, outlet: OutletId) -> Option<TVec<usize>> {
        self.model.outlet_fact(outlet).ok()?.shape.as_concrete().map(Into::into)
    }

    /// How an island reads `outlet`; None if it cannot.
    pub(super) fn operand(&self, outlet: OutletId) -> Option<Operand> {
        let fact = self.model.outlet_fact(outlet).ok()?;
        fact.shape.as_concrete()?;
        let node = self.model.node(outlet.node);
        if let Some(Dequantize(affine)) = mini::<Dequantize>(node) {
            let q = node.inputs[0];
            // the same bits under other parameters are another value
            if self.held.get(&q).is_none_or(|held| held == affine) && self.shape(q).is_some() {
                return Some(Operand { outlet: q, number: Number::Int(*affine) });
            }
            return Some(Operand { outlet, number: Number::F32 });
        }
        if let Some(constant) = stored(self.model, outlet) {
            let affine = constant.affine()?;
            return Some(Operand { outlet: constant.outlet, number: Number::Int(affine) });
        }
        if let Some(affine) = self.held.get(&outlet) {
            return Some(Operand { outlet, number: Number::Int(*affine) });
        }
        (fact.datum_type == f32::datum_type()).then_some(Operand { outlet, number: Number::F32 })
    }

    /// Whether one reader alone needs `outlet`.
    pub(super) fn single(&self, outlet: OutletId) -> bool {
        self.model.node(outlet.node).outputs[outlet.slot].successors.len() == 1 && !self.outputs.contains(&outlet)
    }

    /// The unit that makes `outlet`.
    pub(super) fn unit(&mut self, outlet: OutletId) -> Option<Unit> {
        if let Some(known) = self.units.get(&outlet) {
            return known.clone();
        }
        let unit = if self.refused.contains(&outlet) { None } else { self.find(outlet) };
        self.units.insert(outlet, unit.clone());
        unit
    }

    fn find(&mut self, outlet: OutletId) -> Option<Unit> {
        self.shape(outlet)?;
        let node = self.model.node(outlet.node);
        if outlet.slot != 0 {
            return None;
        }
        if let Some(Quantize(affine)) = mini::<Quantize>(node) {
            return self.quantized(node, *affine);
        }
        if let Some(Dequantize(affine)) = mini::<Dequantize>(node) {
            let operand = self.operand(outlet)?;
            let number = Number::Int(*affine);
            return (operand.number == number).then(|| Unit {
                name: node.name.clone(),
                op: Op::Requantize,
                operands: tvec!(operand),
                number,
                work: Work::Move,
            });
        }
        if let Some((op, operands)) = self.moved(node) {
            // what does not change is moved once, at load
            if !self.held.contains_key(&outlet) && constant(self.model, outlet).is_some() {
                return None;
            }
            // a mean makes the shape that is asked of it
            if let (Op::Reshape, Number::F32, true) = (&op, operands[0].number, self.single(node.inputs[0]))
                && let Some(unit) = self.unit(node.inputs[0])
                && let Op::ReduceMean { .. } = unit.op
            {
                return Some(unit);
            }
            let (number, work) = match (self.held.get(&outlet), &op) {
                (Some(affine), Op::MaxPool { .. }) => (Number::Int(*affine), Work::Integer),
                (Some(affine), _) => (Number::Int(*affine), Work::Move),
                (None, Op::MaxPool { .. } | Op::Concat { .. }) => return None,
                (None, _) => (Number::F32, Work::Real),
            };
            return Some(Unit { name: node.name.clone(), op, operands, number, work });
        }
        if self.model.outlet_fact(outlet).ok()?.datum_type != f32::datum_type() {
            return None;
        }
        self.real(node)
    }

    /// `Quantize` and what it can be fused with.
    fn quantized(&mut self, node: &'m TypedNode, affine: Affine) -> Option<Unit> {
        let x = node.inputs[0];
        let operand = self.operand(x)?;
        let number = Number::Int(affine);
        let alone = |op: Op, operand: Operand| Unit {
            name: node.name.clone(),
            op,
            operands: tvec!(operand),
            number,
            work: Work::Move,
        };
        if operand.affine().is_some() {
            return Some(alone(Op::Requantize, operand));
        }
        if let Some((name, table, operand)) = lut::table(self, x, affine) {
            return Some(Unit { name, work: Work::Integer, ..alone(Op::Lut { table }, operand) });
        }
        if self.single(x) {
            let producer = self.model.node(x.node);
            if let Some(concat) = producer.op_as::<TypedConcat>()
                && let Some(operands) = self.int8_operands(producer)
            {
                let op = Op::Concat { axis: concat.axis };
                return Some(Unit { name: producer.name.clone(), op, operands, number, work: Work::Integer });
            }
            if let Some(unit) = self.average_pool(producer, affine) {
                return Some(unit);
            }
            if let Some(unit) = self.unit(x).filter(|u| u.number == Number::F32).and_then(|u| u.quantized(affine)) {
                return Some(unit);
            }
        }
        Some(alone(Op::Quantize, operand))
    }

    fn int8_operands(&self, node: &TypedNode) -> Option<TVec<Operand>> {
        node.inputs.iter().map(|i| self.operand(*i).filter(|o| o.affine().is_some())).collect()
    }

    /// Operators that hand values on as they are: the operator and its operands.
    fn moved(&self, node: &TypedNode) -> Option<(Op, TVec<Operand>)> {
        let first = *node.inputs.first()?;
        let from = self.shape(first)?;
        self.shape(node.id.into())?;
        let op = if let Some(axis_op) = node.op_as::<AxisOp>() {
            match axis_op {
                AxisOp::Move(from_axis, to_axis) => {
                    let mut perm: TVec<usize> = (0..from.len()).collect();
                    let moved = perm.remove(*from_axis);
                    perm.insert(*to_axis, moved);
                    Op::Transpose { perm }
                }
                _ => Op::Reshape,
            }
        } else if node.op_is::<Identity>() {
            Op::Reshape
        } else if let Some(cast) = node.op_as::<Cast>() {
            let same = self.model.outlet_fact(first).ok()?.datum_type == cast.to;
            same.then_some(Op::Reshape)?
        } else if let Some(slice) = node.op_as::<Slice>() {
            Op::Slice { axis: slice.axis, start: slice.start.to_usize().ok()? }
        } else if let Some(concat) = node.op_as::<TypedConcat>() {
            return Some((Op::Concat { axis: concat.axis }, self.int8_operands(node)?));
        } else if let Some(pool) = node.op_as::<MaxPool>() {
            let unused = node.outputs[1..].iter().all(|o| o.successors.is_empty());
            (pool.with_index_outputs.is_none() || unused).then_some(())?;
            Op::MaxPool { window: window(&pool.pool_spec, &from)? }
        } else if let Some(reduce) = node.op_as::<Reduce>() {
            let whole = reduce.reducer == Reducer::Max && reduce.axes[..] == [2, 3] && from.len() == 4;
            Op::MaxPool { window: whole.then(|| whole_image(&from))? }
        } else {
            return None;
        };
        Some((op, tvec!(self.operand(first)?)))
    }

    /// Units with an f32 result.
    fn real(&mut self, node: &'m TypedNode) -> Option<Unit> {
        if let Some(unit) = products::product(self, node) {
            return Some(unit);
        }
        if let Some(bin) = node.op_as::<TypedBinOp>() {
            if bin.0.is::<Max>() || bin.0.is::<Min>() {
                return self.clamped(node, bin.0.is::<Max>());
            }
            if bin.0.is::<Add>()
                && let Some(unit) = self.biased(node)
            {
                return Some(unit);
            }
            if let Some(unit) = self.mean(node).or_else(|| self.gelu(node)) {
                return Some(unit);
            }
            return self.element_wise(node, bin);
        }
        let x = self.operand(*node.inputs.first()?)?;
        if let Some(softmax) = node.op_as::<Softmax>() {
            let (SoftmaxKind::Softmax, None, [axis]) = (softmax.kind, softmax.quant_output_dt, &softmax.axes[..])
            else {
                return None;
            };
            return Some(Unit::real(&node.name, Op::Softmax { axis: *axis }, tvec!(x)));
        }
        if let Some(norm) = node.op_as::<LayerNorm>() {
            let shape = self.shape(node.inputs[0])?;
            (norm.axis + 1 == shape.len()).then_some(())?;
            let last = *shape.last()?;
            let spread = |v: Vec<f32>| if v.len() == 1 { vec![v[0]; last] } else { v };
            let gain = spread(reals(self.model, node.inputs[1])?);
            let bias = match node.inputs.get(2) {
                Some(bias) => spread(reals(self.model, *bias)?),
                None => Vec::new(),
            };
            (gain.len() == last && (bias.is_empty() || bias.len() == last)).then_some(())?;
            return Some(Unit::real(&node.name, Op::LayerNorm { gain, bias, epsilon: norm.epsilon }, tvec!(x)));
        }
        None
    }

    /// The two operands of a binary operator, the constant one last if one is constant, whichever side it is on.
    fn sides(&self, node: &TypedNode) -> Option<(OutletId, OutletId)> {
        let [a, b] = node.inputs[..] else { return None };
        let is_constant = |o: OutletId| {
            let node = self.model.node(o.node);
            node.inputs.is_empty() || constant(self.model, o).is_some()
        };
        let source = |o: OutletId| self.model.input_outlets().is_ok_and(|inputs| inputs.contains(&o));
        Some(if is_constant(a) && !source(a) { (b, a) } else { (a, b) })
    }

    fn clamped(&mut self, node: &'m TypedNode, is_max: bool) -> Option<Unit> {
        let (x, bound) = self.sides(node)?;
        let bound = scalar(self.model, bound).filter(|b| !b.is_nan())?;
        if !self.single(x) {
            return None;
        }
        let mut unit = self.unit(x).filter(|u| u.number == Number::F32)?;
        let clamp = unit.clamp()?;
        if is_max {
            *clamp = Clamp { lo: clamp.lo.max(bound), hi: clamp.hi.max(bound) };
        } else {
            *clamp = Clamp { lo: clamp.lo.min(bound), hi: clamp.hi.min(bound) };
        }
        Some(unit)
    }

    /// A constant added to a product that has no bias yet.
    fn biased(&mut self, node: &'m TypedNode) -> Option<Unit> {
        let (x, bias) = self.sides(node)?;
        if !self.single(x) {
            return None;
        }
        let unit = self.unit(x)?;
        products::with_bias(self, unit, x, bias)
    }

    /// The outlets a tree of multiplications multiplies: constants, and others.
    pub(super) fn factors(&self, outlet: OutletId) -> (TVec<OutletId>, TVec<OutletId>) {
        let (mut constants, mut others) = (TVec::new(), TVec::new());
        let mut open = vec![(outlet, 0)];
        while let Some((o, depth)) = open.pop() {
            let node = self.model.node(o.node);
            // leading axes, added to broadcast
            if depth > 0 && node.op_as::<AxisOp>() == Some(&AxisOp::Add(0)) {
                open.push((node.inputs[0], depth));
                continue;
            }
            let is_product = node.op_as::<TypedBinOp>().is_some_and(|b| b.0.is::<Mul>());
            if depth > 0 && constant(self.model, o).is_some() {
                constants.push(o);
            } else if is_product && depth < 3 && (depth == 0 || self.operand(o).is_some_and(|o| o.affine().is_none())) {
                open.extend(node.inputs.iter().map(|i| (*i, depth + 1)));
            } else {
                others.push(o);
            }
        }
        (constants, others)
    }

    /// `0.5 * x * (1 + erf(x / sqrt(2)))`, however it is bracketed.
    fn gelu(&mut self, node: &'m TypedNode) -> Option<Unit> {
        let (constants, others) = self.factors(node.id.into());
        let half = constants.iter().map(|c| scalar(self.model, *c)).product::<Option<f32>>()?;
        let [a, b] = others[..] else { return None };
        if (half - 0.5).abs() > 1e-6 {
            return None;
        }
        let x = [(a, b), (b, a)].into_iter().find_map(|(x, one_plus)| {
            let sum = self.model.node(one_plus.node);
            sum.op_as::<TypedBinOp>().filter(|op| op.0.is::<Add>())?;
            let (erf, one) = self.sides(sum)?;
            let erf = self.model.node(erf.node);
            erf.op_as::<ElementWiseOp>().filter(|op| op.0.is::<Erf>())?;
            let scaled = self.model.node(erf.inputs[0].node);
            let (inner, factor) = self.sides(scaled)?;
            let factor = scalar(self.model, factor)?;
            let op = scaled.op_as::<TypedBinOp>()?;
            let factor = if op.0.is::<Mul>() {
                factor
            } else if op.0.is::<Div>() && scaled.inputs[0] == inner {
                1.0 / factor
            } else {
                return None;
            };
            let is_gelu = scalar(self.model, one) == Some(1.0)
                && (factor - std::f32::consts::FRAC_1_SQRT_2).abs() < 1e-4
                && inner == x;
            is_gelu.then_some(x)
        })?;
        Some(Unit::real(&node.name, Op::Gelu, tvec!(self.operand(x)?)))
    }

    /// A sum over axes, divided by their length.
    fn mean(&self, node: &TypedNode) -> Option<Unit> {
        let (x, axes, name) = self.mean_of(node)?;
        Some(Unit::real(name, Op::ReduceMean { axes }, tvec!(self.operand(x)?)))
    }

    fn mean_of<'a>(&'a self, node: &'a TypedNode) -> Option<(OutletId, TVec<usize>, &'a str)> {
        let bin = node.op_as::<TypedBinOp>()?;
        let (sum, n) = self.sides(node)?;
        let n = scalar(self.model, n)?;
        let reduce_node = self.model.node(sum.node);
        let reduce = reduce_node.op_as::<Reduce>().filter(|r| r.reducer == Reducer::Sum)?;
        let x = reduce_node.inputs[0];
        let shape = self.shape(x)?;
        let len = reduce.axes.iter().map(|a| shape[*a]).product::<usize>() as f32;
        let is_mean = (bin.0.is::<Div>() && node.inputs[0] == sum && n == len) || (bin.0.is::<Mul>() && n == 1.0 / len);
        // tract splits a mean in a sum called `name.sum` and a quotient
        let name = reduce_node.name.strip_suffix(".sum").unwrap_or(&reduce_node.name);
        is_mean.then(|| (x, reduce.axes.clone(), name))
    }

    /// A pool of int8 values that is quantized again.
    fn average_pool(&self, node: &TypedNode, affine: Affine) -> Option<Unit> {
        let (x, window, count_include_pad, name) = if let Some(pool) = node.op_as::<SumPool>() {
            let from = self.shape(node.inputs[0])?;
            // windows that hang over the end count differently
            let hangs_over = matches!(pool.pool_spec.padding, PaddingSpec::ExplicitOnnxPool(_, _, true));
            (pool.normalize && !(pool.count_include_pad && hangs_over)).then_some(())?;
            (node.inputs[0], window(&pool.pool_spec, &from)?, pool.count_include_pad, node.name.as_str())
        } else {
            let (x, axes, name) = self.mean_of(node)?;
            let from = self.shape(x)?;
            let image = (from.len() == 4 && axes[..] == [2, 3]) || (from.len() == 3 && axes[..] == [2]);
            (x, image.then(|| whole_image(&from))?, false, name)
        };
        let operand = self.operand(x).filter(|o| o.affine().is_some())?;
        Some(Unit {
            name: name.into(),
            op: Op::AveragePool { window, count_include_pad },
            operands: tvec!(operand),
            number: Number::Int(affine),
            work: Work::Integer,
        })
    }

    /// Sums and products of two, one of them a constant perhaps.
    fn element_wise(&mut self, node: &'m TypedNode, bin: &TypedBinOp) -> Option<Unit> {
        let (x, other) = self.sides(node)?;
        let left = x == node.inputs[0];
        let same_shape = self.shape(x)? == self.shape(node.id.into())?;
        let (add, mul, sub, div) = (bin.0.is::<Add>(), bin.0.is::<Mul>(), bin.0.is::<Sub>(), bin.0.is::<Div>());
        if same_shape && let Some(c) = along(self.model, other, 0) {
            let all = |v: f32| vec![v];
            let (factor, offset) = if add {
                (all(1.0), c)
            } else if mul {
                (c, all(0.0))
            } else if sub && left {
                (all(1.0), c.iter().map(|c| -c).collect())
            } else if sub {
                (all(-1.0), c)
            } else if div && left {
                (c.iter().map(|c| 1.0 / c).collect(), all(0.0))
            } else {
                return None;
            };
            let finite = factor.iter().chain(&offset).all(|v| v.is_finite());
            return finite.then_some(Unit::real(&node.name, Op::Affine { factor, offset }, tvec!(self.operand(x)?)));
        }
        let op = if add {
            Op::AddF32 { clamp: Clamp::NONE }
        } else if mul {
            Op::MulF32 { clamp: Clamp::NONE }
        } else {
            return None;
        };
        let operands = tvec!(self.operand(node.inputs[0])?, self.operand(node.inputs[1])?);
        Some(Unit::real(&node.name, op, operands))
    }
}

/// A window of `spec` on an input of `shape`, `[N, C, H, W]` or `[N, C, W]`.
pub(super) fn window(spec: &PoolSpec, shape: &[usize]) -> Option<Window> {
    if spec.data_format != DataFormat::NCHW || !(1..=2).contains(&spec.rank()) || shape.len() != spec.rank() + 2 {
        return None;
    }
    let padding = spec.computed_padding(&shape[2..]);
    let pair = |of: &dyn Fn(usize) -> usize, missing: usize| match spec.rank() {
        1 => [missing, of(0)],
        _ => [of(0), of(1)],
    };
    let before = pair(&|axis| padding[axis].pad_before, 0);
    let after = pair(&|axis| padding[axis].pad_after, 0);
    Some(Window {
        kernel: pair(&|axis| spec.kernel_shape[axis], 1),
        stride: pair(&|axis| spec.stride(axis), 1),
        dilation: pair(&|axis| spec.dilation(axis), 1),
        pad: [before[0], before[1], after[0], after[1]],
    })
}

/// The window that covers an image of `[N, C, H, W]` or `[N, C, W]`.
fn whole_image(shape: &[usize]) -> Window {
    let kernel = if shape.len() == 4 { [shape[2], shape[3]] } else { [1, shape[2]] };
    Window { kernel, stride: [1, 1], dilation: [1, 1], pad: [0; 4] }
}
