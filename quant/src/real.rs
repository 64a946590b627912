//! f32 operators that stand between integer products, kept whole so that the rewriter recognizes them: `LayerNorm`,
//! and `DynamicQuantize`, which measures the range of its input before it rounds.

use tract_core::internal::*;

use super::{Affine, kernel};

/// ONNX `LayerNormalization` over the last axes from `axis` on; inputs: data, gain and, if there are three, bias.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// First axis of those that are normalized together.
    pub axis: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

impl Eq for LayerNorm {}

impl Op for LayerNorm {
    fn name(&self) -> StaticName {
        "LayerNorm".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("axis {} epsilon {}", self.axis, self.epsilon)])
    }

    op_as_typed_op!();
}

impl EvalOp for LayerNorm {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let len: usize = inputs[0].shape().iter().skip(self.axis).product();
        let spread = |i: usize| -> TractResult<Option<Tensor>> {
            let Some(t) = inputs.get(i) else { return Ok(None) };
            t.broadcast_to_shape(&inputs[0].shape()[self.axis..]).map(Some)
        };
        let (gain, bias) = (spread(1)?.context("gain is missing")?, spread(2)?);
        let gain = gain.try_as_plain_ram()?;
        let gain = gain.as_slice::<f32>()?;
        let mut y = inputs[0].clone().into_tensor();
        let mut view = y.try_as_plain_ram_mut()?;
        let bias = bias.as_ref().map(Tensor::try_as_plain_ram).transpose()?;
        let bias = match &bias {
            Some(bias) => bias.as_slice::<f32>()?,
            None => &[],
        };
        for row in view.as_slice_mut::<f32>()?.chunks_mut(len.max(1)) {
            kernel::real::layer_norm(row, gain, bias, self.epsilon);
        }
        Ok(tvec!(y.into_tvalue()))
    }
}

impl TypedOp for LayerNorm {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(self.axis < inputs[0].rank(), "axis {} of {} dimensions", self.axis, inputs[0].rank());
        Ok(tvec!(f32::datum_type().fact(inputs[0].shape.clone())))
    }

    as_op!();
}

/// ONNX `DynamicQuantizeLinear`: u8 values, and the scale and zero point it chose, as scalars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicQuantize;

impl Op for DynamicQuantize {
    fn name(&self) -> StaticName {
        "DynamicQuantizeLinear".into()
    }

    op_as_typed_op!();
}

impl EvalOp for DynamicQuantize {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = inputs[0].try_as_plain_ram()?;
        let x = x.as_slice::<f32>()?;
        let affine = Affine::dynamic(x)?;
        let mut q = Tensor::zero::<u8>(inputs[0].shape())?;
        kernel::quantize(x, q.try_as_plain_ram_mut()?.as_slice_mut::<u8>()?, &affine, |q| q as u8);
        Ok(tvec!(q.into_tvalue(), tensor0(affine.scale).into_tvalue(), tensor0(affine.zero_point as u8).into_tvalue()))
    }
}

impl TypedOp for DynamicQuantize {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let scalar: [usize; 0] = [];
        Ok(tvec!(u8::datum_type().fact(inputs[0].shape.clone()), f32::fact(scalar), u8::fact(scalar)))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_norm_goes_over_all_axes_from_the_first() {
        let x = Tensor::from_shape(&[2, 2, 2], &[-3f32, 3.0, -3.0, 3.0, 1.0, 1.0, 1.0, 1.0]).unwrap();
        let op = LayerNorm { axis: 1, epsilon: 0.0 };
        let inputs = tvec!(x.into_tvalue(), tensor1(&[2f32, 1.0]).into_tvalue(), tensor1(&[0f32, 1.0]).into_tvalue());
        let y = op.eval(&EvalContext::out_of_plan(), inputs).unwrap();
        let y = y[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
        assert_eq!(y[..4], [-2.0, 2.0, -2.0, 2.0]);
    }

    #[test]
    fn a_dynamic_range_holds_zero() {
        let x = tensor1(&[0f32, 2.0, -3.0, -2.5, 1.34, 0.5]).into_tvalue();
        let y = DynamicQuantize.eval(&EvalContext::out_of_plan(), tvec!(x)).unwrap();
        assert_eq!(*y[0], tensor1(&[153u8, 255, 0, 26, 221, 179]));
        assert_eq!(*y[2], tensor0(153u8));
        let zeros = tensor1(&[0f32; 3]).into_tvalue();
        let y = DynamicQuantize.eval(&EvalContext::out_of_plan(), tvec!(zeros)).unwrap();
        assert_eq!((&*y[0], &*y[1]), (&tensor1(&[0u8; 3]), &tensor0(1f32)));
    }
}
