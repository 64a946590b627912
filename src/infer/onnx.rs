//! The ONNX importer: tract's, with the operators that quantize wired to [`attendant_quant`].
//!
//! Everything quantized reaches the typed model in one form: `QuantizeLinear` and `DequantizeLinear` around ordinary
//! operators ([`super::lower`] has made the others so), and weights as int8 constants behind a
//! [`DequantizeConstant`]. What the int8 operators cannot take, two-byte integers, blocks, an activation with a scale
//! per channel, or parameters that are computed, runs in plain loops.

use attendant_quant::{
    Affine, Dequantize, DequantizeConstant, DynamicQuantize, IntType, LayerNorm, LinearAtRunTime, Quantize,
};
use tract_core::ops::cast::cast;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::{ModelProto, NodeProto};
use tract_onnx::tract_hir::internal::*;

use super::{fold, lower};

/// tract's importer with this crate's operators.
pub(super) fn importer() -> Onnx {
    let mut onnx = tract_onnx::onnx();
    onnx.op_register.insert("QuantizeLinear", quantize_linear);
    onnx.op_register.insert("DequantizeLinear", dequantize_linear);
    onnx.op_register.insert("DynamicQuantizeLinear", |_, _| Ok((expand(DynamicLinear), vec![])));
    onnx.op_register.insert("LayerNormalization", layer_normalization);
    // `lower` has made other operators of these. What it leaves is a variant that tract would take for the plain one.
    for lowered in ["QLinearConv", "QLinearMatMul"] {
        onnx.op_register.0.remove(lowered);
    }
    onnx
}

/// Brings a parsed file into the form that is wired.
pub(super) fn prepare(proto: &mut ModelProto) {
    lower::quantized_operators(proto);
    fold::gather_int8(proto);
}

/// The name of a node, or of its first output if it has none.
pub(super) fn node_name(node: &NodeProto) -> String {
    if node.name.is_empty() { node.output.first().cloned().unwrap_or_default() } else { node.name.clone() }
}

/// `Op` or `domain.Op`.
pub(super) fn op_name(node: &NodeProto) -> String {
    match node.domain.as_str() {
        "" | "ai.onnx" => node.op_type.clone(),
        domain => format!("{domain}.{}", node.op_type),
    }
}

/// The nodes of a prepared file whose operator nobody knows.
pub(super) fn unknown_operators(prepared: &ModelProto) -> Vec<&NodeProto> {
    let known = importer().op_register.0;
    prepared.graph.iter().flat_map(|g| &g.node).filter(|n| !known.contains_key(&n.op_type)).collect()
}

type Builder = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// `quantize_linear` and `dequantize_linear` differ in direction only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Quantize,
    Dequantize,
}

/// `QuantizeLinear` or `DequantizeLinear` of opset 10 to 25.
#[derive(Clone, Debug)]
struct Linear {
    direction: Direction,
    has_zero_point: bool,
    axis: i64,
    /// Elements along the axis that share a scale; 0: all, or one scale per index.
    block_size: usize,
    /// Integer type where no zero point says it.
    int: DatumType,
}

fn quantize_linear(_: &ParsingContext, node: &NodeProto) -> Builder {
    linear(node, Direction::Quantize)
}

fn dequantize_linear(_: &ParsingContext, node: &NodeProto) -> Builder {
    linear(node, Direction::Dequantize)
}

fn linear(node: &NodeProto, direction: Direction) -> Builder {
    let block_size = node.get_attr_opt::<i64>("block_size")?.unwrap_or(0);
    let block_size = usize::try_from(block_size).ok().context("block_size is negative")?;
    let has_zero_point = node.input.get(2).is_some_and(|name| !name.is_empty());
    let axis = node.get_attr_opt("axis")?.unwrap_or(1);
    // ONNX TensorProto.DataType; 0: as the zero point, or as the scale
    let int = match (direction, node.get_attr_opt::<i64>("output_dtype")?.unwrap_or(0)) {
        // Its input says which integers it takes.
        (Direction::Dequantize, 0 | 1) => DatumType::U8,
        (Direction::Dequantize, other) => bail!("output_dtype is ONNX type {other}, expected float32"),
        (Direction::Quantize, 0 | 2) => DatumType::U8,
        (Direction::Quantize, 3) => DatumType::I8,
        (Direction::Quantize, 4) => DatumType::U16,
        (Direction::Quantize, 5) => DatumType::I16,
        (Direction::Quantize, other) => {
            bail!("output_dtype is ONNX type {other}, expected uint8, int8, uint16 or int16")
        }
    };
    Ok((expand(Linear { direction, has_zero_point, axis, block_size, int }), vec![]))
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
            s.equals(&int.datum_type, self.int)?;
        }
        s.equals(&inputs[0].shape, &outputs[0].shape)
    }

    /// Weights would be dequantized over and over while types are inferred.
    fn runs_out_of_plan(&self) -> bool {
        self.direction == Direction::Quantize
    }

    fn wire(&self, prefix: &str, target: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        self.wire_for(prefix, target, inputs, false)
    }

    fn wire_with_inference_model_and_node(
        &self,
        prefix: &str,
        model: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let readers = &node.outputs[0].successors;
        let is_multiplied = |inlet: &InletId| TAKES_WEIGHTS.contains(&model.node(inlet.node).op.name().as_ref());
        self.wire_for(prefix, target, inputs, !readers.is_empty() && readers.iter().all(is_multiplied))
    }
}

/// tract's names of the operators that are wired alike whether an operand is a constant or not.
const TAKES_WEIGHTS: [&str; 6] = ["ConvHir", "Gemm", "MatMulInference", "Add", "Mul", "InferenceConcat"];

impl Linear {
    fn wire_for(
        &self,
        prefix: &str,
        target: &mut TypedModel,
        inputs: &[OutletId],
        stays_int8: bool,
    ) -> TractResult<TVec<OutletId>> {
        let x = target.outlet_fact(inputs[0])?.clone();
        let constant = |ix: usize| -> TractResult<Option<Arc<Tensor>>> {
            inputs.get(ix).map_or(Ok(None), |outlet| Ok(target.outlet_fact(*outlet)?.konst.clone()))
        };
        let int = match self.direction {
            Direction::Dequantize => x.datum_type,
            Direction::Quantize if self.has_zero_point => target.outlet_fact(inputs[2])?.datum_type,
            Direction::Quantize => self.int,
        };
        let zero_point = match self.has_zero_point {
            true => constant(2)?,
            false => Some(Tensor::zero_scalar_dt(int)?.into_arc_tensor()),
        };
        let (Some(scale), Some(zero_point)) = (constant(1)?, zero_point) else {
            return target.wire_node(prefix, self.at_run_time(int), inputs);
        };
        ensure!(scale.len() > 0 && zero_point.len() > 0, "empty scale or zero point");
        let per_tensor = scale.len() == 1 && zero_point.len() == 1;
        if self.direction == Direction::Dequantize
            && self.block_size == 0
            && matches!(int, DatumType::I8 | DatumType::U8 | DatumType::I32)
            && let Some(q) = &x.konst
        {
            let op = self.constant(q, &scale, &zero_point)?;
            if stays_int8 && int != DatumType::I32 {
                return target.wire_node(prefix, op, &inputs[..1]);
            }
            let y = op.dequantized(q)?;
            return Ok(tvec!(target.add_const(prefix, y)?));
        }
        if let (true, Some(int)) = (per_tensor, IntType::of(int)) {
            let scale = scale.cast_to_scalar::<f32>()?;
            let affine = Affine::new(scale, zero_point.cast_to_scalar::<i32>()?, int)?;
            let op: Box<dyn ElementWiseMiniOp> = match self.direction {
                Direction::Quantize => Box::new(Quantize(affine)),
                Direction::Dequantize => Box::new(Dequantize(affine)),
            };
            return target.wire_node(prefix, ElementWiseOp(op, None), &inputs[..1]);
        }
        target.wire_node(prefix, self.at_run_time(int), inputs)
    }

    fn at_run_time(&self, int: DatumType) -> LinearAtRunTime {
        let to = (self.direction == Direction::Quantize).then_some(int);
        LinearAtRunTime { to, axis: self.axis, block_size: self.block_size }
    }

    fn constant(&self, q: &Tensor, scale: &Tensor, zero_point: &Tensor) -> TractResult<DequantizeConstant> {
        let scale = scale.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
        let zero_point = zero_point.cast_to::<i32>()?.try_as_plain_ram()?.as_slice::<i32>()?.to_vec();
        let len = scale.len().max(zero_point.len());
        let every = |len_of: usize| len_of == 1 || len_of == len;
        ensure!(
            every(scale.len()) && every(zero_point.len()),
            "{} scales, {} zero points",
            scale.len(),
            zero_point.len()
        );
        let axis = if len == 1 { 0 } else { self.axis_of(q.rank())? };
        ensure!(
            len == 1 || q.shape()[axis] == len,
            "{len} quantization parameters along axis {axis}, which has {}",
            q.shape()[axis]
        );
        let repeat = |v: usize| if v == 1 { len } else { 1 };
        Ok(DequantizeConstant {
            scale: scale.repeat(repeat(scale.len())),
            zero_point: zero_point.repeat(repeat(zero_point.len())),
            axis,
        })
    }

    fn axis_of(&self, rank: usize) -> TractResult<usize> {
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        ensure!((0..rank as i64).contains(&axis), "quantization axis {axis} of a tensor with {rank} dimensions");
        Ok(axis as usize)
    }
}

/// `DynamicQuantizeLinear`: u8 values, their scale, their zero point.
#[derive(Clone, Debug)]
struct DynamicLinear;

impl Expansion for DynamicLinear {
    fn name(&self) -> StaticName {
        "DynamicQuantizeLinear".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(3)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 3)?;
        s.equals(&inputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].shape, &outputs[0].shape)?;
        s.equals(&outputs[0].datum_type, u8::datum_type())?;
        s.equals(&outputs[1].datum_type, f32::datum_type())?;
        s.equals(&outputs[1].rank, 0)?;
        s.equals(&outputs[2].datum_type, u8::datum_type())?;
        s.equals(&outputs[2].rank, 0)
    }

    fn wire(&self, prefix: &str, target: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        target.wire_node(prefix, DynamicQuantize, inputs)
    }
}

/// `LayerNormalization` with one output: one operator, where tract wires ten.
#[derive(Clone, Debug)]
struct LayerNormalization {
    axis: i64,
    epsilon: f32,
    inputs: usize,
}

fn layer_normalization(ctx: &ParsingContext, node: &NodeProto) -> Builder {
    if node.output.iter().filter(|o| !o.is_empty()).count() > 1 {
        let tract = tract_onnx::onnx().op_register.0;
        let builder = tract.get("LayerNormalization").context("tract has no LayerNormalization")?;
        return builder(ctx, node);
    }
    let axis = node.get_attr_opt("axis")?.unwrap_or(-1);
    let epsilon = node.get_attr_opt("epsilon")?.unwrap_or(1e-5);
    let inputs = node.input.iter().filter(|i| !i.is_empty()).count();
    ensure!(inputs == 2 || inputs == 3, "{inputs} inputs, expected 2 or 3");
    Ok((expand(LayerNormalization { axis, epsilon, inputs }), vec![]))
}

impl Expansion for LayerNormalization {
    fn name(&self) -> StaticName {
        "LayerNormalization".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.inputs)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, target: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = target.outlet_fact(inputs[0])?.clone();
        let axis = if self.axis < 0 { self.axis + fact.rank() as i64 } else { self.axis };
        let axis = usize::try_from(axis).ok().filter(|a| *a < fact.rank()).context("axis is out of range")?;
        let mut wires = TVec::new();
        for (ix, &input) in inputs.iter().enumerate() {
            if target.outlet_fact(input)?.datum_type == f32::datum_type() {
                wires.push(input);
            } else {
                wires.extend(target.wire_node(format!("{prefix}.f32_{ix}"), cast(f32::datum_type()), &[input])?);
            }
        }
        let op = LayerNorm { axis, epsilon: self.epsilon };
        if fact.datum_type == f32::datum_type() {
            return target.wire_node(prefix, op, &wires);
        }
        let y = target.wire_node(format!("{prefix}.normalized"), op, &wires)?;
        target.wire_node(prefix, cast(fact.datum_type), &y)
    }
}
