//! Convolutions and matrix products whose operands are int8, with static or dynamic parameters.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;
use tract_core::ops::cnn::{Conv as TractConv, KernelFormat};
use tract_core::ops::einsum::EinSum;
use tract_core::ops::math::Mul;

use super::super::graph::{Clamp, Conv, FullyConnected, Number, Op, Weights};
use super::super::real::DynamicQuantize;
use super::constants::{along, constant, integer_bias, reals, stored, weights};
use super::units::{Matcher, Operand, Unit, window};

/// The product that `node` makes, with an f32 result.
pub(super) fn product(matcher: &Matcher<'_>, node: &TypedNode) -> Option<Unit> {
    if let Some(conv) = node.op_as::<TractConv>() {
        return convolution(matcher, node, conv);
    }
    if let Some(einsum) = node.op_as::<EinSum>() {
        return fully_connected(matcher, node, einsum).or_else(|| matmul(matcher, node, einsum));
    }
    if node.op_as::<TypedBinOp>().is_some_and(|b| b.0.is::<Mul>()) {
        return dynamic(matcher, node);
    }
    None
}

/// `unit`, which makes `outlet`, with the constant `bias` added, if it is a product that has no bias and no activation
/// yet.
pub(super) fn with_bias(matcher: &Matcher<'_>, mut unit: Unit, outlet: OutletId, bias: OutletId) -> Option<Unit> {
    let rank = matcher.shape(bias)?.len();
    let shape = matcher.shape(outlet)?;
    let values = |axis_from_last: usize, outputs: usize| {
        let values = along(matcher.model, bias, axis_from_last)?;
        let values = if values.len() == 1 { vec![values[0]; outputs] } else { values };
        (rank <= shape.len() && values.len() == outputs).then_some(values)
    };
    let scale = unit.operands.first()?.affine().map(|a| a.scale);
    // the channels are the second axis of an image
    let channels = || values(shape.len().checked_sub(2)?, shape[1]);
    match &mut unit.op {
        Op::Conv(conv) if conv.bias.is_empty() && conv.clamp == Clamp::NONE => {
            conv.bias = integer_bias(&channels()?, scale?, &conv.weights.scale, shape[1])?;
        }
        Op::FullyConnected(product) if product.bias.is_empty() && product.clamp == Clamp::NONE => {
            let outputs = *shape.last()?;
            product.bias = integer_bias(&values(0, outputs)?, scale?, &product.weights.scale, outputs)?;
        }
        Op::DynamicConv { conv, bias } if bias.is_empty() && conv.clamp == Clamp::NONE => *bias = channels()?,
        Op::DynamicFullyConnected { product, bias } if bias.is_empty() && product.clamp == Clamp::NONE => {
            *bias = values(0, *shape.last()?)?;
        }
        _ => return None,
    }
    Some(unit)
}

fn convolution(matcher: &Matcher<'_>, node: &TypedNode, conv: &TractConv) -> Option<Unit> {
    (conv.q_params.is_none() && conv.kernel_fmt == KernelFormat::OIHW).then_some(())?;
    let x = matcher.operand(node.inputs[0])?;
    let affine = x.affine()?;
    let kernel = stored(matcher.model, node.inputs[1])?;
    (kernel.by.scale.len() == 1 || kernel.by.axis == 0).then_some(())?;
    let weights = weights(kernel.q, &kernel.by.scale, &kernel.by.zero_point, None)?;
    let outputs = conv.output_channels();
    let bias = reals(matcher.model, node.inputs[2])?;
    let bias = if bias.iter().all(|b| *b == 0.0) {
        Vec::new()
    } else {
        integer_bias(&bias, affine.scale, &weights.scale, outputs)?
    };
    let window = window(&conv.pool_spec, &matcher.shape(node.inputs[0])?)?;
    let op = Op::Conv(Conv { window, groups: conv.group, weights, bias, clamp: Clamp::NONE });
    Some(Unit::product(&node.name, op, tvec!(x)))
}

/// Where the axes of a product of two are; None if it is no matrix product.
struct Axes {
    /// Of the first operand, of the second: what is summed over.
    inner: (usize, usize),
    /// Of the first operand and of the result, of the first operand alone.
    left: TVec<(usize, usize)>,
    /// Of the second operand and of the result.
    right: TVec<(usize, usize)>,
    /// Of all three.
    batch: TVec<(usize, usize, usize)>,
}

impl Axes {
    fn of(einsum: &EinSum) -> Option<Self> {
        let mut inner = None;
        let (mut left, mut right, mut batch) = (TVec::new(), TVec::new(), TVec::new());
        for axis in einsum.axes.iter_all_axes() {
            match (&axis.inputs[0][..], &axis.inputs[1][..], &axis.outputs[0][..]) {
                ([a], [b], []) => {
                    if inner.replace((*a, *b)).is_some() {
                        return None;
                    }
                }
                ([a], [], [y]) => left.push((*a, *y)),
                ([], [b], [y]) => right.push((*b, *y)),
                ([a], [b], [y]) => batch.push((*a, *b, *y)),
                // an axis of the parameters that follow the two
                ([], [], _) => {}
                _ => return None,
            }
        }
        Some(Axes { inner: inner?, left, right, batch })
    }

    /// Whether the second operand, of `shape`, is one matrix that the last axis of the first is multiplied with: the axis
    /// of its columns.
    fn columns(&self, x_rank: usize, shape: &[usize]) -> Option<usize> {
        // axes of length one on both sides are batch axes by name only
        let is_matrix = self.batch.iter().all(|(a, b, y)| shape[*b] == 1 && a == y);
        let columns: TVec<(usize, usize)> = self.right.iter().copied().filter(|(b, _)| shape[*b] != 1).collect();
        let column = match (&columns[..], &self.right[..]) {
            ([one], _) => *one,
            ([], [.., last]) => *last,
            _ => return None,
        };
        let in_order = self.left.iter().all(|(a, y)| a == y);
        (is_matrix && in_order && self.inner.0 + 1 == x_rank && column.1 + 1 == x_rank).then_some(column.0)
    }
}

/// `q` as weights of `[out, in]`, with the scales along `columns`.
fn matrix(q: &Tensor, scale: &[f32], zero_point: &[i32], inner: usize, columns: usize) -> Option<Weights> {
    let shape = q.shape();
    (q.len() == shape[inner] * shape[columns] && q.len() > 0).then_some(())?;
    let transposed = (inner < columns).then(|| [shape[inner], shape[columns]]);
    weights(q, scale, zero_point, transposed)
}

fn fully_connected(matcher: &Matcher<'_>, node: &TypedNode, einsum: &EinSum) -> Option<Unit> {
    (einsum.q_params.is_none() && node.inputs.len() == 2).then_some(())?;
    let axes = Axes::of(einsum)?;
    let x = matcher.operand(node.inputs[0])?;
    x.affine()?;
    let kernel = stored(matcher.model, node.inputs[1])?;
    let columns = axes.columns(matcher.shape(node.inputs[0])?.len(), kernel.q.shape())?;
    (kernel.by.scale.len() == 1 || kernel.by.axis == columns).then_some(())?;
    let weights = matrix(kernel.q, &kernel.by.scale, &kernel.by.zero_point, axes.inner.1, columns)?;
    let op = Op::FullyConnected(FullyConnected { weights, bias: Vec::new(), clamp: Clamp::NONE });
    Some(Unit::product(&node.name, op, tvec!(x)))
}

/// Two int8 values, `[.., M, K]` and `[.., K, N]`.
fn matmul(matcher: &Matcher<'_>, node: &TypedNode, einsum: &EinSum) -> Option<Unit> {
    (einsum.q_params.is_none() && node.inputs.len() == 2).then_some(())?;
    let axes = Axes::of(einsum)?;
    let operands: TVec<Operand> = node.inputs.iter().map(|i| matcher.operand(*i)).collect::<Option<_>>()?;
    if operands.iter().any(|o| o.affine().is_none()) {
        return None;
    }
    let (ra, rb) = (matcher.shape(node.inputs[0])?.len(), matcher.shape(node.inputs[1])?.len());
    let rank = matcher.shape(node.id.into())?.len();
    (ra >= 2 && rb >= 2 && rank >= 2 && axes.inner == (ra - 1, rb - 2)).then_some(())?;
    let (mut rows, mut columns) = (0, 0);
    // axes are aligned at the last one, as numpy broadcasts
    for (a, y) in &axes.left {
        (ra - a == rank - y).then_some(())?;
        rows += usize::from(*a == ra - 2);
    }
    for (b, y) in &axes.right {
        (rb - b == rank - y).then_some(())?;
        columns += usize::from(*b == rb - 1);
    }
    for (a, b, y) in &axes.batch {
        (ra - a == rank - y && rb - b == rank - y).then_some(())?;
    }
    (rows == 1 && columns == 1).then(|| Unit::product(&node.name, Op::MatMul { clamp: Clamp::NONE }, operands))
}

/// The node behind axes that are added, removed or reshaped, and behind casts.
fn behind(model: &TypedModel, outlet: OutletId) -> OutletId {
    let mut outlet = outlet;
    // a model has no cycles, and these have one input
    while let node = model.node(outlet.node)
        && (node.op_is::<AxisOp>() || node.op_is::<Cast>())
    {
        outlet = node.inputs[0];
    }
    outlet
}

/// A product whose first operand is quantized at run time: `(q - z) * (w - z_w)` summed as integers, made real by the
/// product of the scales.
fn dynamic(matcher: &Matcher<'_>, node: &TypedNode) -> Option<Unit> {
    let model = matcher.model;
    let (constants, others) = matcher.factors(node.id.into());
    let [a, b] = others[..] else { return None };
    let is_acc = |o: &OutletId| model.node(o.node).op_as::<Cast>().is_some_and(|c| c.to == f32::datum_type());
    let (acc, scale) = if is_acc(&a) { (a, b) } else { (b, a) };
    let cast = model.node(acc.node);
    let scale = behind(model, scale);
    if !is_acc(&acc) || !matcher.single(acc) || !matcher.single(cast.inputs[0]) || scale.slot != 1 {
        return None;
    }
    let quantizer = model.node(scale.node);
    let product = model.node(cast.inputs[0].node);
    quantizer.op_as::<DynamicQuantize>()?;
    let is_output = |o: OutletId, slot: usize| o == OutletId::new(quantizer.id, slot);
    let x = matcher.operand(quantizer.inputs[0]).filter(|x| x.number == Number::F32)?;
    let shape = matcher.shape(quantizer.inputs[0])?;
    let scales_along = |axis_from_last: usize| -> Option<Vec<f32>> {
        let mut scales = vec![1f32];
        for c in &constants {
            let values = along(model, *c, axis_from_last).or_else(|| along(model, *c, 0).filter(|v| v.len() == 1))?;
            scales = match (scales.len(), values.len()) {
                (n, 1) => scales.iter().map(|s| s * values[0]).take(n).collect(),
                (1, _) => values.iter().map(|v| v * scales[0]).collect(),
                (n, m) if n == m => scales.iter().zip(&values).map(|(s, v)| s * v).collect(),
                _ => return None,
            };
        }
        Some(scales)
    };
    let zero_points = |outlet: OutletId, outputs: usize| -> Option<Vec<i32>> {
        let z = constant(model, outlet)?;
        let z = z.cast_to::<i32>().ok()?;
        let z = z.try_as_plain_ram().ok()?.as_slice::<i32>().ok()?.to_vec();
        (z.len() == 1 || z.len() == outputs).then_some(z)
    };
    let is_zero = |outlet: OutletId| {
        constant(model, outlet).is_some_and(|b| b.cast_to::<i32>().is_ok_and(|b| b.is_all_zero().unwrap_or(false)))
    };
    let q = constant(model, *product.inputs.get(1)?)?;
    if let Some(einsum) = product.op_as::<EinSum>() {
        (einsum.q_params == Some(DatumType::I32) && product.inputs.len() == 9).then_some(())?;
        let is_dynamic = is_output(product.inputs[0], 0)
            && is_output(behind(model, product.inputs[3]), 2)
            && is_zero(product.inputs[2]);
        let axes = Axes::of(einsum)?;
        let columns = axes.columns(shape.len(), q.shape()).filter(|_| is_dynamic)?;
        let outputs = q.shape()[columns];
        let scales = scales_along(0)?;
        let zero_point = zero_points(product.inputs[5], outputs)?;
        (scales.len() == 1 || scales.len() == outputs).then_some(())?;
        let weights = matrix(&q, &scales, &zero_point, axes.inner.1, columns)?;
        let product = FullyConnected { weights, bias: Vec::new(), clamp: Clamp::NONE };
        let op = Op::DynamicFullyConnected { product, bias: Vec::new() };
        return Some(Unit::product(&model.node(cast.inputs[0].node).name, op, tvec!(x)));
    }
    let conv = product.op_as::<TractConv>()?;
    let is_dynamic = conv.q_params == Some(DatumType::I32)
        && conv.kernel_fmt == KernelFormat::OIHW
        && product.inputs.len() == 9
        && is_output(product.inputs[0], 0)
        && is_output(behind(model, product.inputs[3]), 2)
        && is_zero(product.inputs[2]);
    let outputs = conv.output_channels();
    let scales = scales_along(shape.len().checked_sub(2)?).filter(|_| is_dynamic)?;
    (scales.len() == 1 || scales.len() == outputs).then_some(())?;
    let weights = weights(&q, &scales, &zero_points(product.inputs[5], outputs)?, None)?;
    let window = window(&conv.pool_spec, &shape)?;
    let conv = Conv { window, groups: conv.group, weights, bias: Vec::new(), clamp: Clamp::NONE };
    Some(Unit::product(&product.name, Op::DynamicConv { conv, bias: Vec::new() }, tvec!(x)))
}

/// Why a product stays in f32; None if `node` is none.
pub(super) fn why_not(matcher: &Matcher<'_>, node: &TypedNode) -> Option<&'static str> {
    if !(node.op_is::<TractConv>() || node.op_is::<EinSum>()) {
        return None;
    }
    let int8 = |i: usize| {
        let operand = node.inputs.get(i).and_then(|o| matcher.operand(*o));
        operand.is_some_and(|o| o.affine().is_some())
    };
    let constant = |i: usize| node.inputs.get(i).is_some_and(|o| stored(matcher.model, *o).is_some());
    Some(match (int8(0), int8(1) || constant(1)) {
        (false, false) => "its operands are not quantized",
        (false, true) => "its input is not quantized; its weights are stored as int8",
        (true, false) => "its second operand is not quantized",
        (true, true) => "an int8 form of its layout is missing",
    })
}
