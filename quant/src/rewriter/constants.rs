//! Constants as the rewriter needs them: scalars, vectors along an axis, and int8 weights.

use tract_core::internal::*;
use tract_core::ops::konst::Const;

use super::super::constant::DequantizeConstant;
use super::super::graph::Weights;
use super::super::{Affine, IntType};

/// How many operators between a constant and its use are evaluated; more is no constant.
const DEPTH_MAX: usize = 8;

/// The value of `outlet` if it does not depend on an input: a constant, or a few operators on constants.
pub(super) fn constant(model: &TypedModel, outlet: OutletId) -> Option<Arc<Tensor>> {
    evaluate(model, outlet, DEPTH_MAX)
}

fn evaluate(model: &TypedModel, outlet: OutletId, depth: usize) -> Option<Arc<Tensor>> {
    let node = model.node(outlet.node);
    if let Some(konst) = &node.outputs.get(outlet.slot)?.fact.konst {
        return Some(konst.clone());
    }
    if let Some(op) = node.op_as::<Const>() {
        return Some(op.val().clone());
    }
    if depth == 0 || node.inputs.is_empty() {
        return None;
    }
    let inputs = node.inputs.iter().map(|input| evaluate(model, *input, depth - 1)).collect::<Option<Vec<_>>>()?;
    if let Some(op) = node.op_as::<DequantizeConstant>() {
        return Some(op.dequantized(&inputs[0]).ok()?.into_arc_tensor());
    }
    let inputs = inputs.into_iter().map(IntoTValue::into_tvalue).collect();
    let mut outputs = node.op.eval_out_of_plan(inputs).ok()??;
    (outlet.slot < outputs.len()).then(|| outputs.swap_remove(outlet.slot).into_arc_tensor())
}

/// f32 elements of a constant.
pub(super) fn reals(model: &TypedModel, outlet: OutletId) -> Option<Vec<f32>> {
    let tensor = constant(model, outlet)?;
    (tensor.datum_type() == f32::datum_type())
        .then(|| tensor.try_as_plain_ram().ok()?.as_slice::<f32>().ok().map(<[f32]>::to_vec))
        .flatten()
}

/// The one value of a constant that has one.
pub(super) fn scalar(model: &TypedModel, outlet: OutletId) -> Option<f32> {
    // many constants are large: look at the shape before the values
    let shape = &model.outlet_fact(outlet).ok()?.shape;
    (shape.volume() == 1.to_dim()).then(|| reals(model, outlet).map(|v| v[0])).flatten()
}

/// A constant that differs along `axis` (counted from the last: 0) only, or not at all: its values.
pub(super) fn along(model: &TypedModel, outlet: OutletId, axis_from_last: usize) -> Option<Vec<f32>> {
    let shape = model.outlet_fact(outlet).ok()?.shape.as_concrete()?.to_vec();
    let varies = shape.iter().rev().enumerate().filter(|(_, d)| **d != 1).map(|(axis, _)| axis);
    varies
        .eq(std::iter::once(axis_from_last).filter(|_| shape.iter().any(|d| *d != 1)))
        .then(|| reals(model, outlet))
        .flatten()
}

/// The constant behind a [`DequantizeConstant`].
pub(super) struct Stored<'m> {
    /// The integers.
    pub(super) q: &'m Arc<Tensor>,
    /// Their parameters.
    pub(super) by: &'m DequantizeConstant,
    /// Where the integers are.
    pub(super) outlet: OutletId,
}

/// The int8 constant that `outlet` dequantizes.
pub(super) fn stored(model: &TypedModel, outlet: OutletId) -> Option<Stored<'_>> {
    let node = model.node(outlet.node);
    let by = node.op_as::<DequantizeConstant>()?;
    let outlet = *node.inputs.first()?;
    let q = model.node(outlet.node).op_as::<Const>()?.val();
    IntType::of(q.datum_type())?;
    Some(Stored { q, by, outlet })
}

impl Stored<'_> {
    /// Per-tensor parameters, if it has such.
    pub(super) fn affine(&self) -> Option<Affine> {
        self.by.per_tensor(self.q.datum_type())
    }
}

/// Elements as i8; unsigned ones less 128, which the second value says.
pub(super) fn signed(q: &Tensor) -> Option<(Vec<i8>, i32)> {
    let plain = q.try_as_plain_ram().ok()?;
    match q.datum_type() {
        DatumType::I8 => Some((plain.as_slice::<i8>().ok()?.to_vec(), 0)),
        DatumType::U8 => Some((plain.as_slice::<u8>().ok()?.iter().map(|q| (q ^ 0x80) as i8).collect(), 128)),
        _ => None,
    }
}

/// Weights with output channels first. `transposed`: they are `[in, out]` and the channels last.
pub(super) fn weights(
    q: &Tensor,
    scale: &[f32],
    zero_point: &[i32],
    transposed: Option<[usize; 2]>,
) -> Option<Weights> {
    if scale.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
        return None;
    }
    let (mut data, offset) = signed(q)?;
    if let Some([inner, outer]) = transposed {
        data = transpose(&data, inner, outer);
    }
    Some(Weights { data, scale: scale.to_vec(), zero_point: zero_point.iter().map(|z| z - offset).collect() })
}

/// `[rows, columns]` to `[columns, rows]`, in blocks that stay in the cache.
fn transpose(from: &[i8], rows: usize, columns: usize) -> Vec<i8> {
    const BLOCK: usize = 32;
    let mut to = vec![0; from.len()];
    for row in (0..rows).step_by(BLOCK) {
        for column in (0..columns).step_by(BLOCK) {
            for r in row..rows.min(row + BLOCK) {
                for c in column..columns.min(column + BLOCK) {
                    to[c * rows + r] = from[r * columns + c];
                }
            }
        }
    }
    to
}

/// A real-numbered bias in units of the accumulator; None if it does not fit.
pub(super) fn integer_bias(bias: &[f32], input_scale: f32, weight_scale: &[f32], outputs: usize) -> Option<Vec<i32>> {
    let at = |of: &[f32], i: usize| if of.len() == 1 { of[0] } else { of[i] };
    (0..outputs)
        .map(|i| {
            let unit = input_scale * at(weight_scale, i);
            let q = (f64::from(at(bias, i)) / f64::from(unit)).round_ties_even();
            // room for the products to come: more is no bias of a sensible model
            (q.is_finite() && q.abs() < f64::from(1 << 30)).then_some(q as i32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsigned_weights_are_stored_less_128() {
        let q = Tensor::from_shape(&[2, 3], &[0u8, 128, 255, 1, 2, 3]).unwrap();
        let w = weights(&q, &[1.0], &[130], Some([2, 3])).unwrap();
        assert_eq!((w.data, w.zero_point), (vec![-128, -127, 0, -126, 127, -125], vec![2]));
        assert!(weights(&q, &[0.0], &[0], None).is_none());
    }

    #[test]
    fn a_bias_is_in_units_of_the_accumulator() {
        assert_eq!(integer_bias(&[1.0, -0.5], 0.5, &[0.5, 0.25], 2), Some(vec![4, -4]));
        assert_eq!(integer_bias(&[1.0], 0.5, &[1.0], 2), Some(vec![2, 2]));
        assert_eq!(integer_bias(&[1e9], 1e-9, &[1.0], 1), None);
    }

    #[test]
    fn a_vector_lies_along_one_axis() {
        let mut model = TypedModel::default();
        let mut add = |shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32 + shape.len() as f32).collect();
            model.add_const("c", Tensor::from_shape(shape, &values).unwrap()).unwrap()
        };
        let (row, column, one, both) = (add(&[1, 1, 3]), add(&[3, 1]), add(&[1, 1]), add(&[2, 3]));
        assert!(along(&model, row, 0).is_some() && along(&model, row, 1).is_none());
        assert!(along(&model, column, 1).is_some() && along(&model, column, 0).is_none());
        assert!(along(&model, one, 0).is_some() && along(&model, both, 0).is_none());
    }
}
