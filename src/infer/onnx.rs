//! The ONNX importer: tract's, with `QuantizeLinear` and `DequantizeLinear` wired to [`super::quant`].
//!
//! Constants (weights, biases) are dequantized while the graph is built, so that what follows sees plain f32 constants:
//! tract then packs them once, and recognizes recurrent operators whose weights are stored as int8.

use tract_core::ops::cast::cast;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::math::{add, div, max, min, mul, round_half_to_even, sub};
use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::quant::{Affine, Dequantize, IntType, Quantize};

/// tract's importer with this crate's operators.
pub(super) fn importer() -> Onnx {
    let mut onnx = tract_onnx::onnx();
    onnx.op_register.insert("QuantizeLinear", quantize_linear);
    onnx.op_register.insert("DequantizeLinear", dequantize_linear);
    onnx
}

/// `quantize_linear` and `dequantize_linear` differ in direction only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Quantize,
    Dequantize,
}

/// `QuantizeLinear` or `DequantizeLinear` of opset 10 to 19: scale and zero point constant, per tensor or along `axis`.
#[derive(Clone, Debug)]
struct Linear {
    direction: Direction,
    has_zero_point: bool,
    axis: i64,
}

fn quantize_linear(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    linear(node, Direction::Quantize)
}

fn dequantize_linear(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    linear(node, Direction::Dequantize)
}

fn linear(node: &NodeProto, direction: Direction) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let block_size = node.get_attr_opt::<i64>("block_size")?.unwrap_or(0);
    ensure!(block_size == 0, "blocked quantization (block_size {block_size}) is not supported");
    let has_zero_point = node.input.get(2).is_some_and(|name| !name.is_empty());
    let axis = node.get_attr_opt("axis")?.unwrap_or(1);
    Ok((expand(Linear { direction, has_zero_point, axis }), vec![]))
}

/// A tensor whose `parameter` has one value along `axis`, so that it broadcasts, as f32.
fn along_axis(parameter: &Tensor, axis: i64, shape: &[TDim]) -> TractResult<Tensor> {
    let rank = shape.len();
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    ensure!((0..rank as i64).contains(&axis), "quantization axis {axis} of a tensor with {rank} dimensions");
    let axis = axis as usize;
    ensure!(
        shape[axis] == parameter.len().to_dim(),
        "{} quantization parameters along axis {axis}, which has {}",
        parameter.len(),
        shape[axis]
    );
    let mut shape = tvec![1; rank];
    shape[axis] = parameter.len();
    parameter.cast_to::<f32>()?.into_owned().into_shape(&shape)
}

/// Dequantizes a constant: `(q - zero_point) * scale`, zero point and scale broadcast.
fn dequantize_constant(q: &Tensor, scale: &Tensor, zero_point: &Tensor) -> TractResult<Tensor> {
    let q = q.cast_to::<i32>()?;
    let zero_point = zero_point.cast_to::<i32>()?;
    let (q, zero_point) = (q.to_plain_array_view::<i32>()?, zero_point.to_plain_array_view::<i32>()?);
    let zero_point = zero_point.broadcast(q.shape()).context("zero point does not broadcast")?;
    let scale = scale.to_plain_array_view::<f32>()?;
    let scale = scale.broadcast(q.shape()).context("scale does not broadcast")?;
    let mut y = tract_ndarray::ArrayD::<f32>::zeros(q.shape());
    tract_ndarray::Zip::from(&mut y).and(&q).and(&zero_point).and(&scale).for_each(|y, &q, &z, &s| {
        *y = q.wrapping_sub(z) as f32 * s;
    });
    Ok(y.into_tensor())
}

impl Expansion for Linear {
    fn name(&self) -> StaticName {
        match self.direction {
            Direction::Quantize => "QuantizeLinear".into(),
            Direction::Dequantize => "DequantizeLinear".into(),
        }
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2 + usize::from(self.has_zero_point))?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[1].datum_type, f32::datum_type())?;
        let (float, int) = match self.direction {
            Direction::Quantize => (&inputs[0], &outputs[0]),
            Direction::Dequantize => (&outputs[0], &inputs[0]),
        };
        s.equals(&float.datum_type, f32::datum_type())?;
        if self.has_zero_point {
            s.equals(&int.datum_type, &inputs[2].datum_type)?;
        } else if self.direction == Direction::Quantize {
            s.equals(&int.datum_type, u8::datum_type())?;
        }
        s.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, target: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let constant = |target: &TypedModel, ix: usize, what: &str| -> TractResult<Arc<Tensor>> {
            target.outlet_fact(inputs[ix])?.konst.clone().with_context(|| format!("{what} is not a constant"))
        };
        let x = target.outlet_fact(inputs[0])?.clone();
        let scale = constant(target, 1, "scale")?;
        let zero_point = if self.has_zero_point {
            constant(target, 2, "zero point")?
        } else {
            let dt = if self.direction == Direction::Quantize { u8::datum_type() } else { x.datum_type };
            Tensor::zero_scalar_dt(dt)?.into_arc_tensor()
        };
        ensure!(scale.len() > 0 && zero_point.len() > 0, "empty scale or zero point");
        let per_tensor = scale.len() == 1 && zero_point.len() == 1;

        if let (Direction::Dequantize, Some(q)) = (self.direction, &x.konst) {
            let spread = |p: &Tensor| -> TractResult<Tensor> {
                if p.len() == 1 {
                    p.cast_to::<f32>()?.into_owned().into_shape(&[])
                } else {
                    along_axis(p, self.axis, &x.shape)
                }
            };
            let y = dequantize_constant(q, &spread(&scale)?, &spread(&zero_point)?)?;
            return Ok(tvec!(target.add_const(prefix, y)?));
        }

        let int = IntType::of(zero_point.datum_type())
            .with_context(|| format!("quantized type {:?}, expected i8 or u8", zero_point.datum_type()))?;
        if per_tensor {
            let scale = scale.cast_to_scalar::<f32>()?;
            let affine = Affine::new(scale, zero_point.cast_to_scalar::<i32>()?, int)?;
            let op: Box<dyn ElementWiseMiniOp> = match self.direction {
                Direction::Quantize => Box::new(Quantize(affine)),
                Direction::Dequantize => Box::new(Dequantize(affine)),
            };
            return target.wire_node(prefix, ElementWiseOp(op, None), &inputs[..1]);
        }
        self.wire_per_axis(prefix, target, inputs[0], &scale, &zero_point)
    }
}

impl Linear {
    /// An activation quantized along an axis: rare, so that plain arithmetic operators do.
    fn wire_per_axis(
        &self,
        prefix: &str,
        target: &mut TypedModel,
        x: OutletId,
        scale: &Tensor,
        zero_point: &Tensor,
    ) -> TractResult<TVec<OutletId>> {
        let int = zero_point.datum_type();
        let (lo, hi) = if int == i8::datum_type() { (-128f32, 127f32) } else { (0f32, 255f32) };
        let shape = target.outlet_fact(x)?.shape.to_tvec();
        let rank = shape.len();
        let spread = |p: &Tensor| -> TractResult<Tensor> {
            if p.len() == 1 {
                p.cast_to::<f32>()?.into_owned().into_shape(&tvec![1; rank])
            } else {
                along_axis(p, self.axis, &shape)
            }
        };
        let scale = target.add_const(format!("{prefix}.scale"), spread(scale)?)?;
        let zero_point = target.add_const(format!("{prefix}.zero_point"), spread(zero_point)?)?;
        let wire = target.wire_node(format!("{prefix}.f32"), cast(f32::datum_type()), &[x])?;
        match self.direction {
            Direction::Dequantize => {
                let wire = target.wire_node(format!("{prefix}.sub"), sub(), &[wire[0], zero_point])?;
                target.wire_node(prefix, mul(), &[wire[0], scale])
            }
            Direction::Quantize => {
                let lo = target.add_const(format!("{prefix}.lo"), tensor0(lo).broadcast_into_rank(rank)?)?;
                let hi = target.add_const(format!("{prefix}.hi"), tensor0(hi).broadcast_into_rank(rank)?)?;
                let wire = target.wire_node(format!("{prefix}.div"), div(), &[wire[0], scale])?;
                let wire = target.wire_node(format!("{prefix}.round"), round_half_to_even(), &wire)?;
                let wire = target.wire_node(format!("{prefix}.add"), add(), &[wire[0], zero_point])?;
                let wire = target.wire_node(format!("{prefix}.max"), max(), &[wire[0], lo])?;
                let wire = target.wire_node(format!("{prefix}.min"), min(), &[wire[0], hi])?;
                target.wire_node(prefix, cast(int), &wire)
            }
        }
    }
}
