//! What is inside an ONNX file, and how it would run here: for `attendant inspect`.
//!
//! Looks at a file without a manifest: open dimensions stay open, unknown operators are listed instead of refused. It
//! deliberately reports no times: those are measured, by the benchmark.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use attendant_quant::{Island, Report};
use serde::Serialize;
use tract_core::plan::SimpleState;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto, type_proto};
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::{
    DimLike, InferenceModel, InferenceModelExt, OutletId, TractResult, TypedFact, TypedOp,
};

use super::error::InferError;
use super::lint::{self, Finding, Origin};
use super::model::{
    Built, FixedInput, FoundInput, batch_of_one, build, declared_inputs, decode, elem_type_name, found_value, guarded,
    read,
};
use super::onnx;

/// Everything `attendant inspect` says about one model.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The file.
    pub file: String,
    /// Its size.
    pub bytes: usize,
    /// What wrote it.
    pub producer: String,
    /// Version of the standard operator set.
    pub opset: i64,
    /// Inputs a caller gives.
    pub inputs: Vec<TensorInfo>,
    /// Outputs.
    pub outputs: Vec<TensorInfo>,
    /// How many nodes each operator has.
    pub operators: BTreeMap<String, usize>,
    /// Every node, in the order of the file.
    pub nodes: Vec<NodeInfo>,
    /// Bytes of constants, by element type.
    pub parameter_bytes: BTreeMap<&'static str, usize>,
    /// Multiply-accumulates of one run; None while a shape is open.
    pub macs: Option<u64>,
    /// Multiply-accumulates whose both operands are int8 values.
    pub macs_on_int8_values: u64,
    /// Nodes this build cannot run.
    pub unsupported: Vec<Unsupported>,
    /// How many steps of each kind the optimized plan has; empty if there is none.
    pub plan: BTreeMap<String, usize>,
    /// What runs inside the plan's `Int8Island` steps.
    pub islands: Vec<IslandInfo>,
    /// Why there is no plan.
    pub problem: Option<String>,
    /// Memory of one run; None if there is no plan.
    pub memory: Option<Memory>,
    /// The file's own metadata.
    pub metadata: BTreeMap<String, String>,
    /// How each output comes about.
    pub origins: Vec<Origin>,
    /// What has to be known before it runs, errors first.
    pub findings: Vec<Finding>,
}

/// An estimate of what a model takes, without the engine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Constants as they are stored. Kernels may keep a reordered copy beside them.
    pub weight_bytes: usize,
    /// Largest sum of tensors that live at the same time in a run.
    pub peak_activation_bytes: usize,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Element type: `f32`, `i64`, `bool`, ...
    pub dtype: &'static str,
    /// Dimensions; None where the file leaves one open.
    pub shape: Vec<Option<usize>>,
}

/// In what numbers a node works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Integer arithmetic on int8 operands.
    Int8,
    /// f32 arithmetic on operands that were rounded to int8 values: the results of static int8.
    Int8ValuesInF32,
    /// f32.
    F32,
    /// Only moves, compares or rounds values, or works on indices.
    None,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeInfo {
    /// Its name, or that of its first output.
    pub name: String,
    /// Operator, with the domain if it is not the standard one.
    pub op: String,
    /// In what numbers it works.
    pub precision: Precision,
    /// Why.
    pub why: String,
    /// Multiply-accumulates of one run; None while a shape is open.
    pub macs: Option<u64>,
    /// Shape of its first output; None while it is open.
    pub shape: Option<Vec<usize>>,
}

/// A step of the plan that is many operators on int8 values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IslandInfo {
    /// Name of the step.
    pub name: String,
    /// Instructions of the CPU that its kernels use.
    pub tier: String,
    /// Working memory, without weights.
    pub arena_bytes: usize,
    /// Kernel calls in order.
    pub steps: Vec<IslandStep>,
}

/// One kernel call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IslandStep {
    /// The model's node that it computes; fused ones go with it.
    pub node: String,
    /// What it is.
    pub operator: &'static str,
    /// Multiply-accumulates of one run.
    pub macs: u64,
}

/// A node that cannot run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unsupported {
    /// The node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// What is missing.
    pub reason: String,
}

/// Inspects the ONNX file at `path`.
///
/// # Errors
/// The file cannot be read or is no ONNX file. An operator or a shape that this build cannot run is no error here: it is
/// in the result.
pub fn inspect(path: &Path) -> Result<Inspection, InferError> {
    inspect_bytes(&path.display().to_string(), &read(path)?, &[])
}

/// As [`inspect`], with the dimensions of some inputs given by name, where the file leaves them open.
///
/// # Errors
/// As [`inspect`]; also if there is no such input, or the file says other dimensions.
pub fn inspect_with(path: &Path, shapes: &[(String, Vec<usize>)]) -> Result<Inspection, InferError> {
    inspect_bytes(&path.display().to_string(), &read(path)?, shapes)
}

/// The inputs of the ONNX file at `path`, in its order, without looking at more of it.
///
/// # Errors
/// As [`inspect`].
pub fn declared(path: &Path) -> Result<Vec<TensorInfo>, InferError> {
    let proto = decode(&path.display().to_string(), &read(path)?)?;
    Ok(declared_inputs(&proto).iter().map(tensor_info).collect())
}

/// As [`inspect`], from memory; `name` stands in messages.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_bytes(name: &str, bytes: &[u8], given: &[(String, Vec<usize>)]) -> Result<Inspection, InferError> {
    let proto = decode(name, bytes)?;
    let mut inputs = declared_inputs(&proto);
    fix(name, &mut inputs, given)?;
    let graph = proto.graph.as_ref().expect("decode refuses a file without a graph");
    let mut prepared = proto.clone();
    onnx::prepare(&mut prepared);
    write_dims(&mut prepared, &inputs);
    let unsupported: Vec<Unsupported> = onnx::unknown_operators(&prepared)
        .into_iter()
        .map(|n| Unsupported {
            node: onnx::node_name(n),
            op: onnx::op_name(n),
            reason: "the operator is unknown".into(),
        })
        .collect();
    let shapes = guarded(|| infer_shapes(&prepared)).unwrap_or_default();
    let sources = Sources::of(&proto);
    let (planned, problem) = match unsupported.first() {
        Some(first) => (None, Some(format!("operator {} is unknown", first.op))),
        None => match Planned::of(&prepared, &inputs) {
            Ok(planned) => (Some(planned), None),
            Err(problem) => (None, Some(problem)),
        },
    };
    let info = |n| node_info(n, &sources, &shapes, planned.as_ref());
    let nodes: Vec<NodeInfo> = graph.node.iter().map(info).collect();
    let parameter_bytes = sources.parameter_bytes();
    let weight_bytes = parameter_bytes.values().fold(0_usize, |sum, n| sum.saturating_add(*n));
    let memory = planned.as_ref().map(|p| Memory { weight_bytes, peak_activation_bytes: p.peak_bytes });
    let findings = lint::lint(&proto, &unsupported, problem.as_deref());
    let Planned { operators: plan, islands, .. } = planned.unwrap_or_default();
    let mut operators = BTreeMap::new();
    for node in &nodes {
        *operators.entry(node.op.clone()).or_default() += 1;
    }
    Ok(Inspection {
        file: name.into(),
        bytes: bytes.len(),
        producer: format!("{} {}", proto.producer_name, proto.producer_version).trim().into(),
        opset: proto
            .opset_import
            .iter()
            .find(|o| o.domain.is_empty() || o.domain == "ai.onnx")
            .map_or(0, |o| o.version),
        inputs: declared_inputs(&proto).iter().map(tensor_info).collect(),
        outputs: graph.output.iter().map(|o| tensor_info(&found_value(o))).collect(),
        operators,
        parameter_bytes,
        macs: nodes.iter().try_fold(0_u64, |sum, n| sum.checked_add(n.macs?)),
        macs_on_int8_values: nodes
            .iter()
            .filter(|n| matches!(n.precision, Precision::Int8 | Precision::Int8ValuesInF32))
            .filter_map(|n| n.macs)
            .fold(0, u64::saturating_add),
        nodes,
        unsupported,
        plan,
        islands,
        problem,
        memory,
        metadata: lint::metadata(&proto),
        origins: lint::origins(&proto),
        findings,
    })
}

/// Fixes the dimensions of `inputs` that `given` names; open batches that it does not name are 1.
fn fix(model: &str, inputs: &mut [FoundInput], given: &[(String, Vec<usize>)]) -> Result<(), InferError> {
    let mismatch = |reason: String| InferError::Mismatch { model: model.into(), reason };
    for (name, shape) in given {
        let known = inputs.iter().map(|i| i.name.clone()).collect::<Vec<_>>().join(", ");
        let Some(input) = inputs.iter_mut().find(|i| i.name == *name) else {
            return Err(mismatch(format!("there is no input `{name}`, the file has {known}")));
        };
        let fits =
            input.dims.len() == shape.len() && input.dims.iter().zip(shape).all(|(d, s)| d.is_none_or(|d| d == *s));
        if !fits {
            return Err(mismatch(format!("input `{name}` is {}, which {shape:?} does not fit", input.describe())));
        }
        input.dims = shape.iter().map(|d| Some(*d)).collect();
    }
    batch_of_one(inputs);
    Ok(())
}

fn tensor_info(found: &FoundInput) -> TensorInfo {
    TensorInfo { name: found.name.clone(), dtype: elem_type_name(found.elem_type), shape: found.dims.clone() }
}

/// Where every value of a graph comes from.
struct Sources<'a> {
    constants: HashMap<&'a str, &'a TensorProto>,
    nodes: HashMap<&'a str, &'a NodeProto>,
}

impl<'a> Sources<'a> {
    fn of(proto: &'a ModelProto) -> Self {
        let mut sources = Sources { constants: HashMap::new(), nodes: HashMap::new() };
        if let Some(graph) = &proto.graph {
            sources.constants.extend(graph.initializer.iter().map(|t| (t.name.as_str(), t)));
            for node in &graph.node {
                sources.nodes.extend(node.output.iter().map(|o| (o.as_str(), node)));
                if let ("Constant", Some(output)) = (node.op_type.as_str(), node.output.first()) {
                    let values = node.attribute.iter().filter_map(|a: &AttributeProto| a.t.as_ref());
                    sources.constants.extend(values.map(|t| (output.as_str(), t)));
                }
            }
        }
        sources
    }

    fn parameter_bytes(&self) -> BTreeMap<&'static str, usize> {
        let mut bytes = BTreeMap::new();
        for tensor in self.constants.values() {
            let of: &mut usize = bytes.entry(elem_type_name(tensor.data_type)).or_default();
            // a damaged file may claim any dimensions
            *of = of.saturating_add(elements(tensor).saturating_mul(elem_bytes(tensor.data_type)));
        }
        bytes
    }

    /// Whether the value is dequantized from int8: directly, or moved about since.
    fn is_int8_valued(&self, value: &str) -> bool {
        let mut value = value;
        // as many steps as there are nodes: a damaged file may have a cycle
        for _ in 0..=self.nodes.len() {
            let Some(node) = self.nodes.get(value) else { return false };
            match node.op_type.as_str() {
                "DequantizeLinear" => return true,
                op if MOVES.contains(&op) => match node.input.first() {
                    Some(input) => value = input,
                    None => return false,
                },
                _ => return false,
            }
        }
        false
    }
}

/// Operators that hand values on as they are.
const MOVES: [&str; 13] = [
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// Operators on shapes, indices and truth values.
const NO_ARITHMETIC: [&str; 17] = [
    "And",
    "Cast",
    "Constant",
    "ConstantOfShape",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Not",
    "NonZero",
    "OneHot",
    "Or",
    "Range",
    "Shape",
    "Size",
    "Where",
];

fn elements(tensor: &TensorProto) -> usize {
    tensor.dims.iter().map(|d| usize::try_from(*d).unwrap_or(0)).fold(1, usize::saturating_mul)
}

/// Bytes of one element of an ONNX `TensorProto.DataType`.
fn elem_bytes(elem_type: i32) -> usize {
    match elem_type {
        2 | 3 | 9 => 1,
        4 | 5 | 10 | 16 => 2,
        1 | 6 | 12 => 4,
        7 | 11 | 13 => 8,
        _ => 0,
    }
}

/// Shapes of the values whose shape is known, by name.
type Shapes = HashMap<String, Vec<usize>>;

fn infer_shapes(proto: &ModelProto) -> TractResult<Shapes> {
    let mut model: InferenceModel = onnx::importer().parse(proto, None)?.model;
    // goes on after the first node that it cannot make sense of
    let _ = model.analyse(true);
    let mut shapes = Shapes::new();
    for node in model.nodes() {
        for (slot, output) in node.outputs.iter().enumerate() {
            let Some(dims) = output.fact.shape.concretize() else { continue };
            let Ok(dims) = dims.iter().map(|d| d.to_usize()).collect::<Result<Vec<_>, _>>() else { continue };
            let label = model.outlet_label(OutletId::new(node.id, slot));
            shapes.insert(label.unwrap_or(&node.name).to_string(), dims);
        }
    }
    Ok(shapes)
}

fn node_info(node: &NodeProto, sources: &Sources<'_>, shapes: &Shapes, planned: Option<&Planned>) -> NodeInfo {
    let (precision, why) = precision(node, sources);
    let name = onnx::node_name(node);
    let (precision, why) = match planned {
        Some(planned) if precision != Precision::None => planned.precision(&name, precision, why),
        _ => (precision, why.to_string()),
    };
    NodeInfo {
        op: onnx::op_name(node),
        precision,
        why,
        macs: macs(node, sources, shapes),
        shape: node.output.iter().find(|o| !o.is_empty()).and_then(|o| shapes.get(o)).cloned(),
        name,
    }
}

fn precision(node: &NodeProto, sources: &Sources<'_>) -> (Precision, &'static str) {
    let from_int8 = |i: usize| node.input.get(i).is_some_and(|name| sources.is_int8_valued(name));
    match node.op_type.as_str() {
        "ConvInteger" | "MatMulInteger" | "DynamicQuantizeMatMul" | "MatMulIntegerToFloat" => {
            (Precision::Int8, "an integer operator")
        }
        "MatMulNBits" => (Precision::F32, "its weights are dequantized at load"),
        op if op.starts_with("QLinear") || op == "QGemm" => {
            (Precision::Int8ValuesInF32, "its operands are int8 values; it runs in f32")
        }
        "Conv" | "ConvTranspose" | "Gemm" | "MatMul" => match (from_int8(0), from_int8(1)) {
            (true, true) => (Precision::Int8ValuesInF32, "both operands are int8 values; the product runs in f32"),
            (true, false) => (Precision::F32, "its second operand is not quantized"),
            (false, true) => (Precision::F32, "its input is not quantized; its weights are stored as int8"),
            (false, false) => (Precision::F32, "its operands are not quantized"),
        },
        "GRU" | "LSTM" | "RNN" if from_int8(1) || from_int8(2) => {
            (Precision::F32, "recurrence runs in f32; its weights are stored as int8")
        }
        "GRU" | "LSTM" | "RNN" => (Precision::F32, "recurrence runs in f32"),
        "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear" => {
            (Precision::None, "rounds; a pair is one step, and constants are dequantized at load")
        }
        op if MOVES.contains(&op) => (Precision::None, "moves values"),
        op if NO_ARITHMETIC.contains(&op) => (Precision::None, "shapes, indices or truth values"),
        _ => (Precision::F32, "no int8 form"),
    }
}

/// Multiply-accumulates: of convolutions, matrix products and recurrences; other operators count as 0.
fn macs(node: &NodeProto, sources: &Sources<'_>, shapes: &Shapes) -> Option<u64> {
    let shape = |name: &String| -> Option<Vec<usize>> {
        shapes.get(name).cloned().or_else(|| {
            let tensor = sources.constants.get(name.as_str())?;
            Some(tensor.dims.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect())
        })
    };
    let input = |i: usize| node.input.get(i).filter(|n| !n.is_empty()).and_then(&shape);
    // A damaged file may claim any dimensions: None, where their product is too large.
    let volume = |dims: &[usize]| dims.iter().try_fold(1_u64, |v, d| v.checked_mul(*d as u64));
    let out = || volume(&shape(node.output.first()?)?);
    match node.op_type.as_str() {
        // weights are [C_out, C_in / groups, kernel...]
        "Conv" | "ConvInteger" => out()?.checked_mul(volume(input(1)?.get(1..)?)?),
        "QLinearConv" => out()?.checked_mul(volume(input(3)?.get(1..)?)?),
        // weights are [C_in, C_out / groups, kernel...]
        "ConvTranspose" => volume(&input(0)?)?.checked_mul(volume(input(1)?.get(1..)?)?),
        "Gemm" | "QGemm" => {
            let transposed = node.attribute.iter().any(|a| a.name == "transA" && a.i != 0);
            out()?.checked_mul(*input(0)?.get(usize::from(!transposed))? as u64)
        }
        "MatMul"
        | "MatMulInteger"
        | "QLinearMatMul"
        | "DynamicQuantizeMatMul"
        | "MatMulIntegerToFloat"
        | "MatMulNBits" => out()?.checked_mul(*input(0)?.last()? as u64),
        // X is [T, batch, in], W is [directions, gates * hidden, in], R is [directions, gates * hidden, hidden]
        "GRU" | "LSTM" | "RNN" => {
            let weights = volume(&input(1)?)?.checked_add(volume(&input(2)?)?)?;
            volume(input(0)?.get(..2)?)?.checked_mul(weights)
        }
        _ => Some(0),
    }
}

/// What a file becomes.
#[derive(Debug, Default)]
struct Planned {
    /// How many steps of each kind.
    operators: BTreeMap<String, usize>,
    islands: Vec<IslandInfo>,
    report: Report,
    /// The model's nodes that have a real-numbered step inside an island.
    real: HashSet<String>,
    /// Largest sum of tensors that live at the same time.
    peak_bytes: usize,
}

impl Planned {
    /// Or why there is no plan.
    fn of(proto: &ModelProto, inputs: &[FoundInput]) -> Result<Self, String> {
        let fixed = inputs
            .iter()
            .map(|i| {
                FixedInput::from_file(i)
                    .ok_or_else(|| format!("input `{}` is {}, a plan needs it fixed", i.name, i.describe()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let Built { outputs, state, report } = guarded(|| build(proto.clone(), &fixed))?;
        outputs?;
        let mut planned = Planned::default();
        for &step in state.plan().order_without_consts() {
            let node = state.model().node(step);
            *planned.operators.entry(node.op.name().into_owned()).or_default() += 1;
            if let Some(island) = node.op_as::<Island>() {
                let steps = island.describe().into_iter();
                let steps = steps.map(|s| IslandStep { node: s.name, operator: s.operator, macs: s.macs });
                planned.islands.push(IslandInfo {
                    name: node.name.clone(),
                    tier: island.tier().to_string(),
                    arena_bytes: island.arena_bytes(),
                    steps: steps.collect(),
                });
            }
        }
        planned.peak_bytes = peak_bytes(&state);
        let steps = report.islands.iter().flat_map(|i| &i.steps);
        planned.real = steps.filter(|(_, op)| ON_REALS.contains(&op.as_str())).map(|(node, _)| node.clone()).collect();
        planned.report = report;
        Ok(planned)
    }

    /// What became of a node that computes.
    fn precision(&self, name: &str, otherwise: Precision, why: &str) -> (Precision, String) {
        let is_part =
            |of: &str| of.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']));
        // a name may begin like another one: the parts of a node are neighbours in the order of names
        let mut parts = self.report.left.range(name.to_string()..).take_while(|(part, _)| part.starts_with(name));
        let mut left = parts.by_ref().filter(|(part, _)| is_part(part)).peekable();
        if left.peek().is_none() && !self.islands.is_empty() {
            if self.real.iter().any(|part| is_part(part)) {
                return (Precision::F32, "works on reals inside an int8 island".into());
            }
            return (Precision::Int8, "in an int8 island".into());
        }
        match left.find_map(|(_, reason)| reason.clone()) {
            Some(reason) => (otherwise, reason),
            None => (otherwise, why.into()),
        }
    }
}

/// Writes the dimensions of `inputs` into the file, so that shapes are inferred from them.
fn write_dims(proto: &mut ModelProto, inputs: &[FoundInput]) {
    for value in proto.graph.iter_mut().flat_map(|g| &mut g.input) {
        let Some(input) = inputs.iter().find(|i| i.name == value.name) else { continue };
        let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
            continue;
        };
        let dims = tensor.shape.iter_mut().flat_map(|s| &mut s.dim);
        for (dim, fixed) in dims.zip(&input.dims) {
            if let Some(fixed) = fixed {
                dim.value = Some(dimension::Value::DimValue(*fixed as i64));
            }
        }
    }
}

/// Largest sum of tensors that live at the same time in a run of the plan, with what an island works in.
fn peak_bytes(state: &SimpleState<TypedFact, Box<dyn TypedOp>>) -> usize {
    let model = state.model();
    let order = state.plan().order_without_consts();
    let mut last_use: HashMap<usize, usize> = HashMap::new();
    for (at, &node) in order.iter().enumerate() {
        last_use.extend(model.node(node).inputs.iter().map(|input| (input.node, at)));
    }
    let outputs = model.outputs.iter().map(|o| (o.node, order.len()));
    last_use.extend(outputs);
    let bytes = |node: usize| -> usize {
        let of = |fact: &TypedFact| {
            let elements = fact.shape.as_concrete().map_or(0, |dims| dims.iter().product::<usize>());
            elements.saturating_mul(fact.datum_type.size_of())
        };
        model.node(node).outputs.iter().map(|o| of(&o.fact)).fold(0, usize::saturating_add)
    };
    let mut alive: HashMap<usize, usize> = HashMap::new();
    let (mut now, mut peak) = (0_usize, 0);
    for (at, &node) in order.iter().enumerate() {
        let own = bytes(node);
        alive.insert(node, own);
        now = now.saturating_add(own);
        let arena = model.node(node).op_as::<Island>().map_or(0, Island::arena_bytes);
        peak = peak.max(now.saturating_add(arena));
        alive.retain(|node, own| {
            let is_needed = last_use.get(node).is_some_and(|last| *last > at);
            if !is_needed {
                now -= *own;
            }
            is_needed
        });
    }
    peak
}

/// Steps of an island that compute in f32.
const ON_REALS: [&str; 6] = ["Softmax", "LayerNorm", "Gelu", "AddF32", "MulF32", "Affine"];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(file: &str) -> Inspection {
        inspect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(file)).unwrap()
    }

    #[test]
    fn a_quantized_network_is_described() {
        let card = of("card.onnx");
        let shape = |dims: &[usize]| dims.iter().map(|d| Some(*d)).collect::<Vec<_>>();
        assert_eq!(card.inputs, [TensorInfo { name: "image".into(), dtype: "f32", shape: shape(&[1, 1, 16, 16]) }]);
        assert_eq!(card.outputs[1], TensorInfo { name: "logits".into(), dtype: "f32", shape: shape(&[1, 3]) });
        assert_eq!(card.operators["Conv"], 2);
        // 8x8x8 of 1x3x3, 4x4x16 of 8x3x3, 16x8, 8x3
        let macs = 8 * 8 * 8 * 9 + 4 * 4 * 16 * 72 + 16 * 8 + 8 * 3;
        assert_eq!((card.macs, card.macs_on_int8_values), (Some(macs), macs));
        // weights: the two convolutions' and the two products'
        assert!(card.parameter_bytes["i8"] >= 8 * 9 + 16 * 72 + 16 * 8 + 8 * 3, "{:?}", card.parameter_bytes);
        assert_eq!((card.unsupported.len(), card.problem), (0, None));
        assert_eq!(card.plan["Int8Island"], 1, "{:?}", card.plan);
        assert_eq!(card.islands[0].steps.iter().map(|s| s.macs).sum::<u64>(), macs);
        assert!(!card.plan.contains_key("DequantizeLinear"), "{:?}", card.plan);
    }

    #[test]
    fn every_node_says_in_what_it_works_and_why() {
        let cases = [
            ("card.onnx", "Conv", Precision::Int8, "in an int8 island"),
            ("speech.onnx", "GRU", Precision::F32, "weights are stored as int8"),
            ("gru_after.onnx", "GRU", Precision::F32, "recurrence runs in f32"),
            ("fusion.onnx", "Softmax", Precision::F32, "no int8 form"),
            ("fusion.onnx", "MatMul", Precision::F32, "its operands are not quantized"),
            ("request.onnx", "Gather", Precision::None, "moves values"),
            ("dq_softmax_q.onnx", "QuantizeLinear", Precision::None, "rounds"),
        ];
        for (file, op, precision, why) in cases {
            let inspection = of(file);
            let node = inspection.nodes.iter().find(|n| n.op == op).unwrap();
            assert_eq!(node.precision, precision, "{file}: {op}");
            assert!(node.why.contains(why), "{file}: {op}: {}", node.why);
        }
        assert_eq!(
            of("speech.onnx").nodes.iter().find(|n| n.op == "GRU").unwrap().macs,
            Some(12 * (36 * 16 + 36 * 12))
        );
    }

    #[test]
    fn an_unknown_operator_is_listed_not_refused() {
        let inspection = of("unknown_op.onnx");
        assert_eq!(
            inspection.unsupported,
            [Unsupported {
                node: "Frobnicate_1".into(),
                op: "example.custom.Frobnicate".into(),
                reason: "the operator is unknown".into()
            }]
        );
        assert!(inspection.problem.unwrap().contains("Frobnicate"));
    }

    #[test]
    fn an_inspection_is_json() {
        let json = serde_json::to_value(of("card.onnx")).unwrap();
        assert_eq!(json["nodes"][0]["precision"], "none");
        assert_eq!(json["inputs"][0]["shape"], serde_json::json!([1, 1, 16, 16]));
    }

    #[test]
    fn damaged_files_are_errors_or_inspected_without_panic() {
        let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/speech.onnx")).unwrap();
        for at in (0..whole.len()).step_by(41) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let _ = inspect_bytes("damaged", &damaged, &[]);
            let _ = inspect_bytes("cut", &whole[..at], &[]);
        }
    }
}
