//! Constants that are int8 in the file: weights, and the tables and biases beside them.
//!
//! [`DequantizeConstant`] keeps them as they are until the rewriter has taken those it multiplies in integers; what is
//! left becomes f32 by [`dequantize_left`]. tract alone would dequantize each when it is wired, and the integers would
//! be lost.

use tract_core::internal::*;
use tract_core::ops::konst::Const;

use super::{Affine, IntType};

/// `(q - zero_point) * scale` of a constant i8, u8 or i32, with one scale or one per index of `axis`.
#[derive(Clone, Debug, PartialEq)]
pub struct DequantizeConstant {
    /// One, or one per index of `axis`.
    pub scale: Vec<f32>,
    /// As many as scales.
    pub zero_point: Vec<i32>,
    /// Where scales go, if there is more than one.
    pub axis: usize,
}

impl Eq for DequantizeConstant {}

impl DequantizeConstant {
    /// The parameters, if one pair is for all of an int8 tensor.
    pub fn per_tensor(&self, dt: DatumType) -> Option<Affine> {
        match (&self.scale[..], &self.zero_point[..]) {
            ([scale], [zero_point]) => Affine::new(*scale, *zero_point, IntType::of(dt)?).ok(),
            _ => None,
        }
    }

    /// The reals of `q`, in its shape.
    ///
    /// # Errors
    /// The tensor is none of i8, u8 and i32, or has another number of indices along the axis.
    pub fn dequantized(&self, q: &Tensor) -> TractResult<Tensor> {
        let run = if self.scale.len() == 1 {
            q.len()
        } else {
            let along = q.shape().get(self.axis).copied().unwrap_or(0);
            ensure!(along == self.scale.len(), "{} scales along an axis of {along}", self.scale.len());
            q.shape()[self.axis + 1..].iter().product()
        };
        let mut y = Tensor::zero::<f32>(q.shape())?;
        let mut view = y.try_as_plain_ram_mut()?;
        let y_slice = view.as_slice_mut::<f32>()?;
        let plain = q.try_as_plain_ram()?;
        match q.datum_type() {
            DatumType::I8 => self.fill(plain.as_slice::<i8>()?, y_slice, run),
            DatumType::U8 => self.fill(plain.as_slice::<u8>()?, y_slice, run),
            DatumType::I32 => self.fill(plain.as_slice::<i32>()?, y_slice, run),
            other => bail!("a constant is {other:?}, expected i8, u8 or i32"),
        }
        Ok(y)
    }

    fn fill<Q: Copy + Into<i32>>(&self, q: &[Q], y: &mut [f32], run: usize) {
        let parameters = self.scale.iter().zip(&self.zero_point).cycle();
        let run = run.max(1);
        for ((q, y), (scale, zero_point)) in q.chunks(run).zip(y.chunks_mut(run)).zip(parameters) {
            for (y, &q) in y.iter_mut().zip(q) {
                *y = q.into().wrapping_sub(*zero_point) as f32 * scale;
            }
        }
    }
}

impl Op for DequantizeConstant {
    fn name(&self) -> StaticName {
        "DequantizeConstant".into()
    }

    op_as_typed_op!();
}

impl EvalOp for DequantizeConstant {
    // not while types are inferred: the point is that the integers stay
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.dequantized(&inputs[0])?.into_tvalue()))
    }
}

impl TypedOp for DequantizeConstant {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::datum_type().fact(inputs[0].shape.clone())))
    }

    as_op!();
}

/// Makes an f32 constant of every [`DequantizeConstant`] that is left.
///
/// # Errors
/// As [`DequantizeConstant::dequantized`].
pub(crate) fn dequantize_left(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes().len() {
        let node = model.node(id);
        let Some(op) = node.op_as::<DequantizeConstant>() else { continue };
        let input = node.inputs[0];
        let Some(q) = model.node(input.node).op_as::<Const>() else { continue };
        let y = op.dequantized(q.val())?.into_arc_tensor();
        let node = model.node_mut(id);
        node.inputs.clear();
        node.op = Box::new(Const::new(y.clone())?);
        node.outputs[0].fact = TypedFact::try_from(y)?;
        model.node_mut(input.node).outputs[input.slot].successors.retain(|inlet| inlet.node != id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_go_along_the_axis() {
        let op = DequantizeConstant { scale: vec![0.5, 2.0], zero_point: vec![1, 0], axis: 1 };
        let q = Tensor::from_shape(&[2, 2, 2], &[1u8, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let expect = Tensor::from_shape(&[2, 2, 2], &[0f32, 0.5, 6.0, 8.0, 2.0, 2.5, 14.0, 16.0]).unwrap();
        assert_eq!(op.dequantized(&q).unwrap(), expect);
        assert!(op.dequantized(&Tensor::from_shape(&[3], &[1i8, 2, 3]).unwrap()).is_err());
    }

    #[test]
    fn a_constant_stays_int8_until_it_is_told() {
        let mut model = TypedModel::default();
        let q = model.add_const("q", tensor1(&[1i8, -2])).unwrap();
        let op = DequantizeConstant { scale: vec![0.5], zero_point: vec![0], axis: 0 };
        let w = model.wire_node("w", op, &[q]).unwrap();
        model.select_output_outlets(&w).unwrap();
        assert!(model.outlet_fact(w[0]).unwrap().konst.is_none());
        dequantize_left(&mut model).unwrap();
        assert_eq!(**model.outlet_fact(w[0]).unwrap().konst.as_ref().unwrap(), tensor1(&[0.5f32, -1.0]));
        model.into_optimized().unwrap();
    }
}
