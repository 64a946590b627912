//! One ONNX model: loaded, checked against what the bundle declares, and run.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once};

use attendant_quant::{Island, Report, Tier};
use tract_core::ops::cast::cast;
use tract_core::plan::SimpleState;
use tract_onnx::pb::{self, ModelProto, tensor_shape_proto, type_proto};
use tract_onnx::tract_hir::internal::{
    DatumType, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, SpecialOps,
    Tensor as TractTensor, TractResult, TypedFact, TypedModel, TypedOp, bail, ensure,
};

use super::error::InferError;
use super::{branches, onnx};
use crate::config::manifest::{ConstantSpec, StateSpec};
use crate::metrics::EngineScope;
use crate::signal::{MAX_RANK, Shape, Tensor, TensorData};

/// Larger files are refused before they are read: edge models are a thousand times smaller.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Element type of a model's input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 64-bit integer: token ids.
    I64,
    /// Boolean: masks.
    Bool,
}

impl Dtype {
    /// Of a tensor between the stages.
    #[must_use]
    pub fn of(tensor: &Tensor) -> Self {
        match tensor.data {
            TensorData::F32(_) => Dtype::F32,
            TensorData::I64(_) => Dtype::I64,
            TensorData::Bool(_) => Dtype::Bool,
        }
    }

    fn of_tract(dt: DatumType) -> Option<Self> {
        match dt {
            DatumType::F32 => Some(Dtype::F32),
            DatumType::I64 => Some(Dtype::I64),
            DatumType::Bool => Some(Dtype::Bool),
            _ => None,
        }
    }

    fn to_tract(self) -> DatumType {
        match self {
            Dtype::F32 => DatumType::F32,
            Dtype::I64 => DatumType::I64,
            Dtype::Bool => DatumType::Bool,
        }
    }

    fn zeros(self, shape: &[usize]) -> Tensor {
        match self {
            Dtype::F32 => Tensor::zeros_f32(shape),
            Dtype::I64 => Tensor::zeros_i64(shape),
            Dtype::Bool => Tensor::zeros_bool(shape),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::I64 => "i64",
            Dtype::Bool => "bool",
        })
    }
}

/// An input as the bundle declares it.
#[derive(Clone, Copy, Debug)]
pub struct InputFact<'a> {
    /// Name in the file; None: any.
    pub name: Option<&'a str>,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
}

/// An output as the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputInfo {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Shape,
}

/// One step of an int8 island with the time it took.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    /// Name of the file's node.
    pub node: String,
    /// Operator, as the kernels call it.
    pub operator: &'static str,
    /// Instructions that it uses.
    pub tier: String,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// Mean over the measured runs, nanoseconds.
    pub mean_ns: f64,
}

/// An input that is fed from an output of the previous run.
#[derive(Debug)]
struct Carried {
    /// Position among the file's inputs.
    input: usize,
    /// Position among the file's outputs.
    output: usize,
}

/// A model ready to run. Inputs and outputs are addressed by position, in the order of the file, without the tensors
/// that are carried from run to run.
pub struct Model {
    name: String,
    input_names: Vec<String>,
    /// One per input of the file, refilled for every run.
    slots: Vec<Arc<TractTensor>>,
    /// Positions in `slots` of the inputs a caller gives.
    inputs: Vec<usize>,
    outputs: Vec<OutputInfo>,
    /// Positions of `outputs` among the file's outputs.
    output_slots: Vec<usize>,
    carried: Vec<Carried>,
    state: SimpleState<TypedFact, Box<dyn TypedOp>>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("name", &self.name).field("outputs", &self.outputs).finish_non_exhaustive()
    }
}

impl Model {
    /// Loads the ONNX file at `path`; `inputs` are the declared inputs in the order of the file.
    ///
    /// # Errors
    /// The file cannot be read, is no ONNX file, uses an unknown operator, or its inputs are not the declared ones.
    pub fn load(path: &Path, inputs: &[InputFact<'_>]) -> Result<Self, InferError> {
        Self::load_with_state(path, inputs, &[])
    }

    /// As [`Model::load`], with tensors that the model takes from its own previous run: `inputs` are the others.
    ///
    /// # Errors
    /// As [`Model::load`]; also if a state's input and output do not exist or differ in shape or type.
    pub fn load_with_state(path: &Path, inputs: &[InputFact<'_>], states: &[StateSpec]) -> Result<Self, InferError> {
        Self::load_with(path, inputs, states, &[])
    }

    /// As [`Model::load_with_state`], with inputs that always have the same value: `inputs` are the others.
    ///
    /// # Errors
    /// As [`Model::load_with_state`]; also if a constant's input does not exist, has an open dimension, or cannot hold the value.
    pub fn load_with(
        path: &Path,
        inputs: &[InputFact<'_>],
        states: &[StateSpec],
        constants: &[ConstantSpec],
    ) -> Result<Self, InferError> {
        let name = path.display().to_string();
        // the file's bytes are gone before the model is built
        let mut proto = decode(&name, &read(path)?)?;
        super::constant::bake(&mut proto, constants)
            .map_err(|reason| InferError::Mismatch { model: name.clone(), reason })?;
        Self::from_proto(&name, proto, inputs, states)
    }

    /// As [`Model::load_with_state`], from memory; `name` stands in messages.
    ///
    /// # Errors
    /// As [`Model::load_with_state`].
    pub fn from_bytes(
        name: &str,
        bytes: &[u8],
        inputs: &[InputFact<'_>],
        states: &[StateSpec],
    ) -> Result<Self, InferError> {
        Self::from_proto(name, decode(name, bytes)?, inputs, states)
    }

    fn from_proto(
        name: &str,
        mut proto: ModelProto,
        inputs: &[InputFact<'_>],
        states: &[StateSpec],
    ) -> Result<Self, InferError> {
        // A wrong choice of the CPU is not the file's fault.
        super::kernel_tier()?;
        onnx::prepare(&mut proto);
        check_operators(name, &proto)?;
        check_types(name, &proto)?;
        let found = declared_inputs(&proto);
        let facts = match_inputs(name, &found, inputs, states)?;
        let build = || build(proto, &facts);
        let Built { outputs, state, .. } =
            guarded(build).map_err(|reason| InferError::Corrupt { model: name.into(), reason })?;
        let mismatch = |reason: String| InferError::Mismatch { model: name.into(), reason };
        let all = outputs.map_err(mismatch)?;

        let mut carried = Vec::new();
        for spec in states {
            let output = all.iter().position(|o| o.name == spec.output).ok_or_else(|| {
                mismatch(format!("state output `{}` is missing, the file has {}", spec.output, names(&all)))
            })?;
            let (input, fact) = facts
                .iter()
                .enumerate()
                .find(|(_, f)| f.name == spec.input)
                .expect("match_inputs has found every state's input");
            if all[output].dtype != fact.dtype || all[output].shape[..] != fact.shape[..] {
                return Err(mismatch(format!(
                    "state output `{}` is {} {}, its input `{}` is {} {}; they must be equal",
                    spec.output,
                    all[output].dtype,
                    shape_text(&all[output].shape),
                    spec.input,
                    fact.dtype,
                    shape_text(&fact.shape)
                )));
            }
            carried.push(Carried { input, output });
        }
        let output_slots: Vec<usize> = (0..all.len()).filter(|i| carried.iter().all(|c| c.output != *i)).collect();
        let slots = facts
            .iter()
            .map(|f| TractTensor::zero_dt(f.dtype.to_tract(), &f.shape).map(Arc::new))
            .collect::<TractResult<Vec<_>>>()
            .map_err(|e| mismatch(e.to_string()))?;
        Ok(Model {
            name: name.into(),
            inputs: (0..facts.len()).filter(|i| carried.iter().all(|c| c.input != *i)).collect(),
            input_names: facts.into_iter().map(|f| f.name).collect(),
            slots,
            outputs: output_slots.iter().map(|&i| all[i].clone()).collect(),
            output_slots,
            carried,
            state,
        })
    }

    /// The name that stands in messages: the path of the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The outputs, in the order that [`Model::run`] fills them.
    #[must_use]
    pub fn outputs(&self) -> &[OutputInfo] {
        &self.outputs
    }

    /// Position of the output `name`.
    #[must_use]
    pub fn output_index(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|o| o.name == name)
    }

    /// Dimensions of the output `name`.
    #[must_use]
    pub fn output_shape(&self, name: &str) -> Option<&[usize]> {
        self.output_index(name).map(|i| &self.outputs[i].shape[..])
    }

    /// Position of the output `name`, which must have this type and shape.
    ///
    /// # Errors
    /// There is no such output, or it differs.
    pub fn require_output(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<usize, InferError> {
        let mismatch = |reason: String| InferError::Mismatch { model: self.name.clone(), reason };
        let ix = self
            .output_index(name)
            .ok_or_else(|| mismatch(format!("has no output `{name}`, only {}", names(&self.outputs))))?;
        let found = &self.outputs[ix];
        if found.dtype != dtype || found.shape[..] != *shape {
            let (is, want) = (shape_text(&found.shape), shape_text(shape));
            return Err(mismatch(format!("output `{name}` is {} {is}, expected {dtype} {want}", found.dtype)));
        }
        Ok(ix)
    }

    /// From here on every run measures the steps of its int8 islands by `clock`, in nanoseconds; this costs a reading a step.
    pub fn measure_steps(&self, clock: fn() -> u64) {
        for island in self.islands() {
            island.measure(clock);
        }
    }

    /// The steps measured since [`Model::measure_steps`], in the order of the plan. What runs outside islands is not among them.
    #[must_use]
    pub fn measured_steps(&self) -> Vec<StepTime> {
        let mut steps = Vec::new();
        for island in self.islands() {
            let (runs, measured) = island.measured();
            steps.extend(measured.into_iter().map(|m| StepTime {
                node: m.step.name,
                operator: m.step.operator,
                tier: m.step.tier.to_string(),
                macs: m.step.macs,
                mean_ns: m.total_ns as f64 / runs.max(1) as f64,
            }));
        }
        steps
    }

    fn islands(&self) -> impl Iterator<Item = &Island> {
        self.state.model().nodes().iter().filter_map(|node| node.op_as::<Island>())
    }

    /// Tensors of the outputs' types and shapes, for [`Model::run`] to fill again and again.
    #[must_use]
    pub fn new_outputs(&self) -> Vec<Tensor> {
        self.outputs.iter().map(|o| o.dtype.zeros(&o.shape)).collect()
    }

    /// Puts every carried tensor back to zeros: at the start, and after a gap in the input.
    pub fn reset_state(&mut self) {
        for c in &self.carried {
            // a zero of the same type and shape cannot fail to be made where the first one could be
            if let Ok(zero) = TractTensor::zero_dt(self.slots[c.input].datum_type(), self.slots[c.input].shape()) {
                self.slots[c.input] = Arc::new(zero);
            }
        }
    }

    /// Runs the model: `inputs` and `outputs` by position, `outputs` from [`Model::new_outputs`]. What allocates is
    /// tract alone.
    ///
    /// # Errors
    /// An input of another type or shape than declared, a NaN or infinity in an input or output, or tract stopping. The
    /// state is reset then, so that the next run does not depend on a failed one.
    pub fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<(), InferError> {
        let done = self.fill(inputs).and_then(|()| self.infer(outputs));
        if done.is_err() {
            self.reset_state();
        }
        done
    }

    fn fill(&mut self, inputs: &[&Tensor]) -> Result<(), InferError> {
        if inputs.len() != self.inputs.len() {
            let reason = format!("{} inputs given, expected {}", inputs.len(), self.inputs.len());
            return Err(InferError::Mismatch { model: self.name.clone(), reason });
        }
        for (position, tensor) in inputs.iter().enumerate() {
            let slot = self.inputs[position];
            let dtype = Dtype::of(tensor);
            let held = &self.slots[slot];
            if held.datum_type() != dtype.to_tract() || held.shape() != &tensor.shape[..] {
                let reason = format!(
                    "input `{}` was given {dtype} {}, expected {} {}",
                    self.input_names[slot],
                    shape_text(&tensor.shape),
                    Dtype::of_tract(held.datum_type()).map_or("?".into(), |d| d.to_string()),
                    shape_text(held.shape())
                );
                return Err(InferError::Mismatch { model: self.name.clone(), reason });
            }
            if let TensorData::F32(x) = &tensor.data {
                check_finite(x).map_err(|(index, value)| InferError::NotFinite {
                    model: self.name.clone(),
                    tensor: format!("input `{}`", self.input_names[slot]),
                    index,
                    value,
                })?;
            }
            copy_in(&tensor.data, &mut self.slots[slot])
                .map_err(|e| InferError::Run { model: self.name.clone(), reason: e.to_string() })?;
        }
        Ok(())
    }

    fn infer(&mut self, outputs: &mut [Tensor]) -> Result<(), InferError> {
        // tract allocates and frees from here to the drop of `values`; nothing of this crate does
        let _engine = EngineScope::enter();
        let values = self.slots.iter().map(|t| t.clone().into_tvalue()).collect();
        let values = self
            .state
            .run(values)
            .map_err(|e| InferError::Run { model: self.name.clone(), reason: format!("{e:#}") })?;
        for c in &self.carried {
            let value = &values[c.output];
            if let Ok(x) = value.try_as_plain_ram().and_then(|v| v.as_slice::<f32>()) {
                check_finite(x).map_err(|(index, value)| InferError::NotFinite {
                    model: self.name.clone(),
                    tensor: format!("state `{}`", self.input_names[c.input]),
                    index,
                    value,
                })?;
            }
            self.slots[c.input] = value.as_arc_tensor().cloned().unwrap_or_else(|| Arc::new((**value).clone()));
        }
        for ((info, &slot), out) in self.outputs.iter().zip(&self.output_slots).zip(outputs.iter_mut()) {
            copy_out(&values[slot], &info.shape, out).map_err(|e| InferError::Run {
                model: self.name.clone(),
                reason: format!("output `{}`: {e}", info.name),
            })?;
            if let TensorData::F32(x) = &out.data {
                check_finite(x).map_err(|(index, value)| InferError::NotFinite {
                    model: self.name.clone(),
                    tensor: format!("output `{}`", info.name),
                    index,
                    value,
                })?;
            }
        }
        Ok(())
    }
}

/// First value that is NaN or infinite. Looks at whole blocks first, which vectorizes.
fn check_finite(x: &[f32]) -> Result<(), (usize, f32)> {
    for (block, chunk) in x.chunks(64).enumerate() {
        if !chunk.iter().fold(true, |ok, v| ok & v.is_finite())
            && let Some(i) = chunk.iter().position(|v| !v.is_finite())
        {
            return Err((block * 64 + i, chunk[i]));
        }
    }
    Ok(())
}

fn copy_in(data: &TensorData, slot: &mut Arc<TractTensor>) -> TractResult<()> {
    if Arc::get_mut(slot).is_none() {
        *slot = Arc::new(TractTensor::zero_dt(slot.datum_type(), slot.shape())?);
    }
    let Some(tensor) = Arc::get_mut(slot) else { bail!("input buffer is still in use") };
    let mut view = tensor.try_as_plain_ram_mut()?;
    match data {
        TensorData::F32(x) => copy(x, view.as_slice_mut()?),
        TensorData::I64(x) => copy(x, view.as_slice_mut()?),
        TensorData::Bool(x) => copy(x, view.as_slice_mut()?),
    }
}

fn copy_out(value: &TractTensor, shape: &[usize], out: &mut Tensor) -> TractResult<()> {
    ensure!(value.shape() == shape, "has shape {:?}, expected {shape:?}", value.shape());
    let view = value.try_as_plain_ram()?;
    match &mut out.data {
        TensorData::F32(x) => copy(view.as_slice()?, x),
        TensorData::I64(x) => copy(view.as_slice()?, x),
        TensorData::Bool(x) => copy(view.as_slice()?, x),
    }
}

fn copy<T: Copy>(from: &[T], to: &mut [T]) -> TractResult<()> {
    ensure!(from.len() == to.len(), "{} elements, expected {}", from.len(), to.len());
    to.copy_from_slice(from);
    Ok(())
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, InferError> {
    let error = |source| InferError::Read { path: path.into(), source };
    let len = std::fs::metadata(path).map_err(error)?.len();
    if len > MAX_FILE_BYTES {
        let reason = format!("{len} bytes, expected at most {MAX_FILE_BYTES}");
        return Err(InferError::Corrupt { model: path.display().to_string(), reason });
    }
    std::fs::read(path).map_err(error)
}

pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<ModelProto, InferError> {
    let corrupt = |reason: String| InferError::Corrupt { model: name.into(), reason };
    let parse = || onnx::importer().proto_model_for_read(&mut &bytes[..]).map_err(|e| format!("{e:#}"));
    let proto = guarded(|| Ok(parse())).map_err(corrupt)?.map_err(corrupt)?;
    match &proto.graph {
        None => Err(corrupt(format!("no graph in its {} bytes", bytes.len()))),
        Some(graph) if graph.node.is_empty() => Err(corrupt("its graph has no nodes".into())),
        Some(graph) if graph.output.is_empty() => Err(corrupt("its graph has no outputs".into())),
        Some(_) => Ok(proto),
    }
}

fn check_operators(name: &str, proto: &ModelProto) -> Result<(), InferError> {
    let Some(node) = onnx::unknown_operators(proto).into_iter().next() else { return Ok(()) };
    Err(InferError::UnsupportedOp { model: name.into(), node: onnx::node_name(node), op: onnx::op_name(node) })
}

/// Refuses constants and inputs of types that no part of the engine computes with.
fn check_types(name: &str, proto: &ModelProto) -> Result<(), InferError> {
    let Some(graph) = &proto.graph else { return Ok(()) };
    let constants = graph.initializer.iter().map(|t| (&t.name, t.data_type));
    let inputs = graph.input.iter().map(found_value);
    let inputs: Vec<FoundInput> = inputs.collect();
    let all = constants.chain(inputs.iter().map(|i| (&i.name, i.elem_type)));
    for (value, elem_type) in all {
        // float8 and whatever is narrower than a byte
        if (17..=26).contains(&elem_type) {
            let (ty, known) = (elem_type_name(elem_type), "int8, uint8, int16, uint16 and float32 are");
            let reason = format!("`{value}` is {ty}, which is not supported; {known}: quantize it to one of these");
            return Err(InferError::Mismatch { model: name.into(), reason });
        }
    }
    Ok(())
}

/// An input or output as the file has it. A dimension is None if the file leaves it open.
#[derive(Clone, Debug)]
pub(super) struct FoundInput {
    pub(super) name: String,
    /// ONNX `TensorProto.DataType`.
    pub(super) elem_type: i32,
    pub(super) dims: Vec<Option<usize>>,
    /// Names of open dimensions, where the file gives them one.
    symbols: Vec<Option<String>>,
}

impl FoundInput {
    pub(super) fn describe(&self) -> String {
        let dims: Vec<String> = self.dims.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
        format!("{} [{}]", elem_type_name(self.elem_type), dims.join(","))
    }
}

/// Open batches become 1: the first dimensions, and what has the name of one. A dimension with the name of a fixed one is that one.
pub(super) fn batch_of_one(inputs: &mut [FoundInput]) {
    let mut known: HashMap<String, usize> = HashMap::new();
    for input in &*inputs {
        for (at, (dim, symbol)) in input.dims.iter().zip(&input.symbols).enumerate() {
            let value = dim.or((at == 0).then_some(1));
            known.extend(symbol.clone().zip(value));
        }
    }
    for input in inputs {
        for (at, (dim, symbol)) in input.dims.iter_mut().zip(&input.symbols).enumerate() {
            let named = symbol.as_ref().and_then(|s| known.get(s).copied());
            *dim = dim.or(named).or((at == 0).then_some(1));
        }
    }
}

/// Name of an ONNX `TensorProto.DataType`, in Rust's words.
pub(super) fn elem_type_name(elem_type: i32) -> &'static str {
    match elem_type {
        1 => "f32",
        2 => "u8",
        3 => "i8",
        4 => "u16",
        5 => "i16",
        6 => "i32",
        7 => "i64",
        8 => "string",
        9 => "bool",
        10 => "f16",
        11 => "f64",
        12 => "u32",
        13 => "u64",
        16 => "bf16",
        17 => "float8e4m3fn",
        18 => "float8e4m3fnuz",
        19 => "float8e5m2",
        20 => "float8e5m2fnuz",
        21 => "uint4",
        22 => "int4",
        23 => "float4e2m1",
        24 => "float8e8m0",
        25 => "uint2",
        26 => "int2",
        _ => "of an unknown type",
    }
}

/// The graph's inputs that are not constants.
pub(super) fn declared_inputs(proto: &ModelProto) -> Vec<FoundInput> {
    let Some(graph) = &proto.graph else { return Vec::new() };
    let is_constant = |name: &str| graph.initializer.iter().any(|i| i.name == name);
    graph.input.iter().filter(|i| !is_constant(&i.name)).map(found_value).collect()
}

pub(super) fn found_value(value: &pb::ValueInfoProto) -> FoundInput {
    let tensor = value.r#type.as_ref().and_then(|t| t.value.as_ref()).map(|v| {
        let type_proto::Value::TensorType(t) = v;
        t
    });
    let shape = tensor.and_then(|t| t.shape.as_ref()).map(|s| s.dim.as_slice()).unwrap_or_default();
    FoundInput {
        name: value.name.clone(),
        elem_type: tensor.map_or(0, |t| t.elem_type),
        dims: shape.iter().map(fixed).collect(),
        symbols: shape.iter().map(symbol).collect(),
    }
}

fn symbol(dim: &tensor_shape_proto::Dimension) -> Option<String> {
    match &dim.value {
        Some(tensor_shape_proto::dimension::Value::DimParam(name)) if !name.is_empty() => Some(name.clone()),
        _ => None,
    }
}

fn fixed(dim: &tensor_shape_proto::Dimension) -> Option<usize> {
    match &dim.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(v)) => usize::try_from(*v).ok(),
        _ => None,
    }
}

/// What an input will be: the file's, with every dimension fixed by the declaration.
#[derive(Clone, Debug)]
pub(super) struct FixedInput {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl FixedInput {
    /// As the file has it; None if a dimension is open, or the type is not one of [`Dtype`].
    pub(super) fn from_file(found: &FoundInput) -> Option<Self> {
        let dtypes = [Dtype::F32, Dtype::I64, Dtype::Bool];
        let dtype = dtypes.into_iter().find(|d| d.to_string() == elem_type_name(found.elem_type))?;
        let shape = found.dims.iter().copied().collect::<Option<Vec<_>>>()?;
        Some(FixedInput { name: found.name.clone(), dtype, shape })
    }

    pub(super) fn datum_type(&self) -> DatumType {
        self.dtype.to_tract()
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }
}

/// `[1,3,96,96]`
pub(super) fn shape_text(shape: &[usize]) -> String {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", dims.join(","))
}

fn match_inputs(
    model: &str,
    found: &[FoundInput],
    declared: &[InputFact<'_>],
    states: &[StateSpec],
) -> Result<Vec<FixedInput>, InferError> {
    let mismatch = |reason: String| InferError::Mismatch { model: model.into(), reason };
    for spec in states {
        if !found.iter().any(|f| f.name == spec.input) {
            let all: Vec<&str> = found.iter().map(|f| f.name.as_str()).collect();
            return Err(mismatch(format!("state input `{}` is missing, the file has {}", spec.input, all.join(", "))));
        }
    }
    let is_state = |f: &FoundInput| states.iter().any(|s| s.input == f.name);
    let given = found.iter().filter(|f| !is_state(f)).count();
    if given != declared.len() {
        let all: Vec<String> = found.iter().map(|f| format!("{} {}", f.name, f.describe())).collect();
        let reason = format!("has {given} inputs ({}), bundle.toml declares {}", all.join(", "), declared.len());
        return Err(mismatch(reason));
    }
    // an open dimension of a state is the input's of the same name
    let mut bound: HashMap<&str, usize> = HashMap::new();
    for (input, want) in found.iter().filter(|f| !is_state(f)).zip(declared) {
        for (symbol, dim) in input.symbols.iter().zip(want.shape) {
            if let Some(symbol) = symbol {
                bound.insert(symbol, *dim);
            }
        }
    }
    let mut declared = declared.iter();
    let mut fixed = Vec::with_capacity(found.len());
    for (position, input) in found.iter().enumerate() {
        if is_state(input) {
            let mut known = input.clone();
            for (dim, symbol) in known.dims.iter_mut().zip(&input.symbols) {
                *dim = dim.or_else(|| bound.get(symbol.as_deref()?).copied());
            }
            let state = FixedInput::from_file(&known).ok_or_else(|| {
                let is = input.describe();
                mismatch(format!("state input `{}` is {is}, expected a fixed shape of f32, i64 or bool", input.name))
            })?;
            fixed.push(state);
            continue;
        }
        let Some(want) = declared.next() else { break };
        if let Some(name) = want.name
            && name != input.name
        {
            return Err(mismatch(format!("input {position} is named `{}`, expected `{name}`", input.name)));
        }
        let other_shape = input.dims.len() != want.shape.len()
            || input.dims.iter().zip(want.shape).any(|(have, want)| have.is_some_and(|have| have != *want));
        if elem_type_name(input.elem_type) != want.dtype.to_string() || other_shape {
            let (is, shape) = (input.describe(), shape_text(want.shape));
            return Err(mismatch(format!("input {position} is {is}, bundle.toml declares {} {shape}", want.dtype)));
        }
        fixed.push(FixedInput { name: input.name.clone(), dtype: want.dtype, shape: want.shape.to_vec() });
    }
    if let Some(f) = fixed.iter().find(|f| f.shape.len() > MAX_RANK) {
        return Err(mismatch(format!(
            "input `{}` has {} dimensions, at most {MAX_RANK} are supported",
            f.name,
            f.shape.len()
        )));
    }
    Ok(fixed)
}

fn names(outputs: &[OutputInfo]) -> String {
    outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// What a file becomes.
pub(super) struct Built {
    /// Facts about the outputs, or which of them cannot be used.
    pub(super) outputs: Result<Vec<OutputInfo>, String>,
    /// The plan with its state.
    pub(super) state: SimpleState<TypedFact, Box<dyn TypedOp>>,
    /// What runs in integers.
    pub(super) report: Report,
}

/// From the parsed file to a plan. Every dimension is fixed before types are inferred. The file's own copy of the weights is
/// gone before they are packed.
pub(super) fn build(mut proto: ModelProto, inputs: &[FixedInput]) -> TractResult<Built> {
    if proto.graph.iter().flat_map(|g| &g.node).any(|n| n.op_type == "If") {
        branches::decide(&mut proto, inputs);
    }
    let mut parsed = onnx::importer().parse(&proto, None)?;
    let output_names: Vec<String> = proto.graph.iter().flat_map(|g| &g.output).map(|o| o.name.clone()).collect();
    drop(proto);
    ensure!(parsed.unresolved_inputs.is_empty(), "tensors that nothing makes: {}", parsed.unresolved_inputs.join(", "));
    for (ix, input) in inputs.iter().enumerate() {
        parsed.model.set_input_fact(ix, InferenceFact::dt_shape(input.dtype.to_tract(), &input.shape))?;
    }
    let typed = parsed.model.into_typed()?;
    let (mut typed, report) = attendant_quant::rewrite(typed, Tier::current()?)?;
    attendant_quant::reset_recurrence_every_run(&mut typed);
    widen_outputs(&mut typed)?;
    let mut infos = Ok(Vec::new());
    for (ix, name) in output_names.iter().enumerate() {
        let fact = typed.output_fact(ix)?;
        match output_info(name, fact) {
            Ok(info) => {
                if let Ok(infos) = &mut infos {
                    infos.push(info);
                }
            }
            Err(reason) => infos = Err(reason),
        }
    }
    let state = typed.into_optimized()?.into_runnable()?.spawn()?;
    Ok(Built { outputs: infos, state, report })
}

/// Hands out narrow integers as i64 and other reals as f32: what a [`Dtype`] holds.
fn widen_outputs(model: &mut TypedModel) -> TractResult<()> {
    let mut outputs = model.output_outlets()?.to_vec();
    for (ix, outlet) in outputs.iter_mut().enumerate() {
        let to = match model.outlet_fact(*outlet)?.datum_type {
            DatumType::I8 | DatumType::I16 | DatumType::I32 => DatumType::I64,
            DatumType::U8 | DatumType::U16 | DatumType::U32 | DatumType::TDim => DatumType::I64,
            DatumType::F16 | DatumType::F64 => DatumType::F32,
            _ => continue,
        };
        *outlet = model.wire_node(format!("output_{ix}.widened"), cast(to), &[*outlet])?[0];
    }
    model.select_output_outlets(&outputs)
}

fn output_info(name: &str, fact: &TypedFact) -> Result<OutputInfo, String> {
    let dtype = Dtype::of_tract(fact.datum_type)
        .ok_or_else(|| format!("output `{name}` is {:?}, expected f32, i64 or bool", fact.datum_type))?;
    let shape = fact.shape.as_concrete().and_then(|s| Shape::from_slice(s).ok()).ok_or_else(|| {
        format!("output `{name}` has shape {:?}, expected a fixed one of at most {MAX_RANK} dimensions", fact.shape)
    })?;
    Ok(OutputInfo { name: name.into(), dtype, shape })
}

thread_local! {
    /// Set while a damaged file may make tract panic: the panic becomes an error, so that its message is not printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, with a panic turned into an error: tract indexes and unwraps what a damaged file leaves out.
pub(super) fn guarded<T>(f: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                previous(info);
            }
        }));
    });
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(false);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(text.unwrap_or("the engine stopped").to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/models");

    fn bytes(file: &str) -> Vec<u8> {
        std::fs::read(Path::new(DIR).join(file)).unwrap()
    }

    fn f32s(shape: &[usize]) -> InputFact<'_> {
        InputFact { name: None, dtype: Dtype::F32, shape }
    }

    fn load(file: &str, inputs: &[InputFact<'_>]) -> Result<Model, InferError> {
        Model::load(&Path::new(DIR).join(file), inputs)
    }

    fn tensor(fact: &InputFact<'_>, values: &Value) -> Tensor {
        let mut t = fact.dtype.zeros(fact.shape);
        let values = values.as_array().unwrap();
        match &mut t.data {
            TensorData::F32(x) => *x = values.iter().map(|v| v.as_f64().unwrap() as f32).collect(),
            TensorData::I64(x) => *x = values.iter().map(|v| v.as_i64().unwrap()).collect(),
            TensorData::Bool(x) => *x = values.iter().map(|v| v.as_bool().unwrap()).collect(),
        }
        t
    }

    /// `tolerance`: absolute, on outputs of magnitude about 1. Where a rounding to int8 follows an f32 sum, another order
    /// of summing can move a value by one step; without one, f32 rounding is all that differs.
    fn check_golden(stem: &str, inputs: &[InputFact<'_>], tolerance: f32) {
        let golden: Value = serde_json::from_slice(&bytes("golden.json")).unwrap();
        let mut model = load(&format!("{stem}.onnx"), inputs).unwrap();
        let mut outputs = model.new_outputs();
        let rows = golden[stem].as_array().unwrap();
        assert!(!rows.is_empty());
        for (r, row) in rows.iter().enumerate() {
            let given: Vec<Tensor> = inputs.iter().enumerate().map(|(i, f)| tensor(f, &row["inputs"][i])).collect();
            model.run(&given.iter().collect::<Vec<_>>(), &mut outputs).unwrap();
            for (o, output) in outputs.iter().enumerate() {
                let expect = row["outputs"][o].as_array().unwrap();
                let found = output.as_f32().unwrap();
                assert_eq!(found.len(), expect.len(), "{stem}: row {r} output {o}");
                for (i, (y, e)) in found.iter().zip(expect).enumerate() {
                    let e = e.as_f64().unwrap() as f32;
                    assert!((y - e).abs() <= tolerance, "{stem}: row {r} output {o} [{i}] is {y}, onnxruntime {e}");
                }
            }
        }
    }

    #[test]
    fn outputs_equal_onnxruntime() {
        for stem in ["card", "card_u8"] {
            check_golden(stem, &[f32s(&[1, 1, 16, 16])], 1e-5);
        }
        check_golden("speech", &[f32s(&[1, 10, 24])], 1e-5);
        check_golden("request", &[InputFact { name: Some("ids"), dtype: Dtype::I64, shape: &[1, 6] }], 1e-5);
        let row = [1, 3];
        let mask = InputFact { name: Some("mask"), dtype: Dtype::Bool, shape: &row };
        check_golden("fusion", &[f32s(&[1, 3, 8]), mask, f32s(&row)], 1e-5);
        check_golden("per_axis", &[f32s(&[1, 3, 4])], 0.0);
    }

    #[test]
    fn a_softmax_between_dequantize_and_quantize_is_still_a_softmax() {
        check_golden("dq_softmax_q", &[f32s(&[1, 6])], 0.0);
    }

    #[test]
    fn recurrent_layers_equal_onnxruntime_and_start_afresh_every_run() {
        for stem in ["gru_before", "gru_after"] {
            check_golden(stem, &[f32s(&[5, 1, 4]), f32s(&[1, 1, 6])], 1e-6);
        }
        let shape = [1, 10, 24];
        let mut model = load("speech.onnx", &[f32s(&shape)]).unwrap();
        let mut x = Tensor::zeros_f32(&shape);
        x.as_f32_mut().unwrap().iter_mut().enumerate().for_each(|(i, v)| *v = (i as f32 * 0.37).sin());
        let (mut first, mut second) = (model.new_outputs(), model.new_outputs());
        model.run(&[&x], &mut first).unwrap();
        model.run(&[&x], &mut second).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn what_the_file_has_and_what_is_declared_must_agree() {
        let cases: &[(&str, &[InputFact<'_>], &str)] = &[
            ("card.onnx", &[f32s(&[1, 3, 96, 96])], "input 0 is f32 [1,1,16,16], bundle.toml declares f32 [1,3,96,96]"),
            ("card.onnx", &[f32s(&[1, 1, 16])], "input 0 is f32 [1,1,16,16], bundle.toml declares f32 [1,1,16]"),
            ("request.onnx", &[f32s(&[1, 6])], "input 0 is i64 [1,6], bundle.toml declares f32 [1,6]"),
            ("card.onnx", &[], "has 1 inputs (image f32 [1,1,16,16]), bundle.toml declares 0"),
            (
                "card.onnx",
                &[InputFact { name: Some("picture"), dtype: Dtype::F32, shape: &[1, 1, 16, 16] }],
                "input 0 is named `image`, expected `picture`",
            ),
            (
                "unknown_op.onnx",
                &[f32s(&[1, 4])],
                "node `Frobnicate_1` needs operator example.custom.Frobnicate, which is not supported",
            ),
            ("missing.onnx", &[], "No such file"),
        ];
        for (file, inputs, expect) in cases {
            let e = load(file, inputs).unwrap_err().to_string();
            assert!(e.contains(file) && e.contains(expect), "{file}: {e}");
        }
    }

    #[test]
    fn outputs_are_known_by_name() {
        let model = load("request.onnx", &[InputFact { name: None, dtype: Dtype::I64, shape: &[1, 6] }]).unwrap();
        assert_eq!(model.output_shape("intents"), Some(&[1, 5][..]));
        assert_eq!(model.output_shape("embedding"), Some(&[1, 8][..]));
        assert_eq!(model.output_shape("nothing"), None);
    }

    #[test]
    fn a_tensor_of_another_shape_or_number_is_refused_at_run_time() {
        let mut model = load("card.onnx", &[f32s(&[1, 1, 16, 16])]).unwrap();
        let mut outputs = model.new_outputs();
        let e = model.run(&[&Tensor::zeros_f32(&[1, 1, 8, 32])], &mut outputs).unwrap_err().to_string();
        assert!(e.contains("input `image` was given f32 [1,1,8,32], expected f32 [1,1,16,16]"), "{e}");
        let e = model.run(&[], &mut outputs).unwrap_err().to_string();
        assert!(e.contains("0 inputs given, expected 1"), "{e}");
    }

    #[test]
    fn nan_and_infinity_are_errors_on_both_sides() {
        let mut model = load("log.onnx", &[f32s(&[1, 4])]).unwrap();
        let mut outputs = model.new_outputs();
        let mut x = Tensor::zeros_f32(&[1, 4]);
        for (values, expect) in [
            ([1.0, 1.0, -1.0, 1.0], "output `y` has NaN at index 2"),
            ([1.0, 1.0, 1.0, 0.0], "output `y` has -inf at index 3"),
            ([1.0, f32::NAN, 1.0, 0.0], "input `x` has NaN at index 1"),
            ([f32::INFINITY, 1.0, 1.0, 0.0], "input `x` has inf at index 0"),
        ] {
            x.as_f32_mut().unwrap().copy_from_slice(&values);
            let e = model.run(&[&x], &mut outputs).unwrap_err();
            assert!(e.to_string().contains(expect), "{e}");
            assert_eq!(e.kind(), super::super::InferErrorKind::Degrade);
        }
        x.as_f32_mut().unwrap().fill(1.0);
        model.run(&[&x], &mut outputs).unwrap();
        assert_eq!(outputs[0].as_f32(), Some(&[0.0; 4][..]));
    }

    fn running_sum() -> Model {
        let states = [StateSpec { input: "h_in".into(), output: "h_out".into() }];
        Model::from_bytes("running_sum", &bytes("running_sum.onnx"), &[f32s(&[1, 2])], &states).unwrap()
    }

    #[test]
    fn declared_state_is_carried_and_can_be_reset() {
        let mut model = running_sum();
        let mut outputs = model.new_outputs();
        assert_eq!(outputs.len(), 1);
        let mut x = Tensor::zeros_f32(&[1, 2]);
        x.as_f32_mut().unwrap().copy_from_slice(&[1.0, 2.0]);
        for k in 1..4 {
            model.run(&[&x], &mut outputs).unwrap();
            assert_eq!(outputs[0].as_f32().unwrap(), [k as f32, 2.0 * k as f32]);
        }
        model.reset_state();
        model.run(&[&x], &mut outputs).unwrap();
        assert_eq!(outputs[0].as_f32().unwrap(), [1.0, 2.0]);
        // a failed run must not leave its mark either
        x.as_f32_mut().unwrap()[0] = f32::MAX;
        model.run(&[&x], &mut outputs).unwrap();
        assert!(model.run(&[&x], &mut outputs).unwrap_err().to_string().contains("inf"));
        x.as_f32_mut().unwrap()[0] = 1.0;
        model.run(&[&x], &mut outputs).unwrap();
        assert_eq!(outputs[0].as_f32().unwrap(), [1.0, 2.0]);
    }

    #[test]
    fn a_state_that_the_file_lacks_is_refused() {
        for (input, output, expect) in
            [("h", "h_out", "state input `h` is missing"), ("h_in", "h", "state output `h` is missing")]
        {
            let states = [StateSpec { input: input.into(), output: output.into() }];
            let e = Model::from_bytes("running_sum", &bytes("running_sum.onnx"), &[f32s(&[1, 2])], &states);
            assert!(e.unwrap_err().to_string().contains(expect));
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error_that_names_it() {
        let whole = bytes("card.onnx");
        let fact = [f32s(&[1, 1, 16, 16])];
        for len in (0..whole.len()).step_by(97).chain([1, 2, 3, whole.len() - 1]) {
            let e = Model::from_bytes("cut.onnx", &whole[..len], &fact, &[]).expect_err("a cut file must not load");
            assert!(e.to_string().starts_with("cut.onnx: "), "{len} bytes: {e}");
        }
    }

    #[test]
    fn a_file_with_flipped_bytes_loads_or_is_an_error_that_names_it() {
        for (file, shape) in [("card.onnx", &[1usize, 1, 16, 16][..]), ("speech.onnx", &[1, 10, 24])] {
            let whole = bytes(file);
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            for _ in 0..150 {
                let mut damaged = whole.clone();
                for _ in 0..3 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let at = (random >> 33) as usize % damaged.len();
                    damaged[at] ^= (random >> 20) as u8 | 1;
                }
                if let Err(e) = Model::from_bytes("damaged.onnx", &damaged, &[f32s(shape)], &[]) {
                    assert!(e.to_string().starts_with("damaged.onnx: "), "{e}");
                }
            }
        }
    }

    #[test]
    fn input_buffers_are_reused_from_run_to_run() {
        let shape = [1, 1, 16, 16];
        let mut model = load("card.onnx", &[f32s(&shape)]).unwrap();
        let (x, mut outputs) = (Tensor::zeros_f32(&shape), model.new_outputs());
        let before = Arc::as_ptr(&model.slots[0]);
        for _ in 0..2 {
            model.run(&[&x], &mut outputs).unwrap();
        }
        assert_eq!(before, Arc::as_ptr(&model.slots[0]));
    }

    #[test]
    fn a_model_can_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Model>();
    }
}
