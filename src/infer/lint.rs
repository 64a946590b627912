//! What a stranger has to know about an ONNX file before it runs here: what is not supported and what to do about it, what the
//! manifest has to fix, what the file does not say.
//!
//! Works on the file alone, beside [`super::inspect`]; it deliberately loads nothing and guesses nothing about the model's purpose.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};

use super::inspect::{TensorInfo, Unsupported};
use super::model::{batch_of_one, declared_inputs, elem_type_name, found_value};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The model cannot run as it is.
    Error,
    /// It runs once the manifest says something, or runs worse than it could.
    Warning,
    /// Good to know.
    Note,
}

/// One finding, with the next step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The node, the input or output, or `file`.
    pub at: String,
    /// What it is, and what to do.
    pub message: String,
}

/// How an output comes about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The last operator that does more than move or round values; empty if there is none.
    pub operator: String,
    /// Whether an exponential is on its way: boxes whose size is decoded have one.
    pub has_exp: bool,
}

/// What to do about operators that people meet and that are not supported.
const INSTEAD: [(&str, &str); 9] = [
    (
        "NonMaxSuppression",
        "export the model without post-processing; [encoder.detection] decodes boxes and leaves out overlaps",
    ),
    ("EfficientNMS_TRT", "it belongs to TensorRT; export without it, [encoder.detection] leaves out overlaps"),
    ("TRT", "it belongs to TensorRT; export for plain ONNX"),
    ("Loop", "export with fixed dimensions, so that the loop is unrolled"),
    ("SequenceConstruct", "export with fixed dimensions, so that lists become plain tensors"),
    ("StringNormalizer", "leave text processing out of the model; [encoder.text] does it"),
    (
        "Attention",
        "export without onnxruntime's graph optimizations (optimization level 0), so that it stays plain operators",
    ),
    ("FusedConv", "export without onnxruntime's graph optimizations (optimization level 0 or 1)"),
    ("RandomNormalLike", "switch the model to evaluation before exporting it: model.eval()"),
];

/// Everything worth saying about the file; errors first.
pub(super) fn lint(proto: &ModelProto, unsupported: &[Unsupported], problem: Option<&str>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say = |severity, at: &str, message: String| found.push(Finding { severity, at: at.into(), message });
    for u in unsupported {
        let bare = u.op.rsplit('.').next().unwrap_or(&u.op);
        let advice = INSTEAD.iter().find(|(op, _)| bare == *op || (bare.ends_with(op) && *op == "TRT")).map_or(
            "export with the standard operators of opset 13 to 17, or leave this part out of the model",
            |(_, advice)| advice,
        );
        say(Severity::Error, &u.node, format!("not supported: {} at {}; {advice}", u.op, u.node));
    }
    let declared = declared_inputs(proto);
    let mut inputs = declared.clone();
    batch_of_one(&mut inputs);
    for (input, as_declared) in inputs.iter().zip(&declared) {
        if !["f32", "i64", "bool"].contains(&elem_type_name(input.elem_type)) {
            let message = format!(
                "input `{}` is {}, expected f32, i64 or bool; export it with a float input, or give it a fixed value as [[encoder.constant]]",
                input.name,
                elem_type_name(input.elem_type)
            );
            say(Severity::Error, &input.name, message);
        }
        match as_declared.dims.first() {
            Some(Some(n)) if *n > 1 && inputs.len() == 1 => {
                let message =
                    format!("input `{}` takes {n} at once, one is given at a time; export it with batch 1", input.name);
                say(Severity::Error, &input.name, message);
            }
            Some(None) => {
                say(Severity::Note, &input.name, format!("the batch of input `{}` is open; it runs with 1", input.name))
            }
            _ => {}
        }
        let open: Vec<String> =
            (1..input.dims.len()).filter(|i| input.dims[*i].is_none()).map(|i| i.to_string()).collect();
        if !open.is_empty() {
            let message = format!(
                "dimension {} of input `{}` is open; the manifest fixes it, see what becomes of it with `inspect --shape {}=...`",
                open.join(" and "),
                input.name,
                input.name
            );
            say(Severity::Warning, &input.name, message);
        }
        if let [_, Some(a), Some(_), Some(b)] = input.dims[..] {
            let is_channels = |n: usize| n == 1 || n == 3;
            if !is_channels(a) && is_channels(b) {
                say(
                    Severity::Note,
                    &input.name,
                    format!("input `{}` has its channels last; layout = \"nhwc\"", input.name),
                );
            } else if !is_channels(a) && elem_type_name(input.elem_type) == "f32" {
                let message = format!(
                    "input `{}` has {a} channels; pictures have 1 or 3, other tensors of 4 dimensions are no picture",
                    input.name
                );
                say(Severity::Warning, &input.name, message);
            }
        }
    }
    if inputs.len() > 1 {
        let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
        let message = format!(
            "{} inputs ({}): one takes the samples, the others need [[encoder.state]] or [[encoder.constant]]",
            names.len(),
            names.join(", ")
        );
        say(Severity::Warning, "file", message);
    }
    let graph = proto.graph.as_ref();
    for output in graph.iter().flat_map(|g| &g.output).map(found_value) {
        let name = elem_type_name(output.elem_type);
        if ["string", "of an unknown type"].contains(&name) && !output.name.is_empty() {
            say(Severity::Warning, &output.name, format!("output `{}` is {name}; a head needs f32", output.name));
        }
    }
    let constants =
        graph.map_or(0, |g| g.input.iter().filter(|i| g.initializer.iter().any(|c| c.name == i.name)).count());
    if constants > 0 {
        say(
            Severity::Note,
            "file",
            format!("{constants} constants are listed as inputs too; they are taken as constants"),
        );
    }
    let halves = graph.map_or(0, |g| g.initializer.iter().filter(|t| t.data_type == 10 || t.data_type == 16).count());
    if halves > 0 {
        say(
            Severity::Note,
            "file",
            format!("{halves} constants are 16-bit floats; quantize to int8 for speed, f16 is not faster on a CPU"),
        );
    }
    if proto.metadata_props.is_empty() {
        say(
            Severity::Note,
            "file",
            "no metadata: mean, std, colour order and labels are not in the file; ask who made it".into(),
        );
    }
    if let (Some(problem), true) = (problem, unsupported.is_empty()) {
        let is_open = inputs.iter().any(|i| i.dims.iter().skip(1).any(Option::is_none));
        say(if is_open { Severity::Warning } else { Severity::Error }, "file", problem.to_owned());
    }
    found.sort_by_key(|f| f.severity);
    found
}

/// Key and value of the file's own metadata.
pub(super) fn metadata(proto: &ModelProto) -> BTreeMap<String, String> {
    proto.metadata_props.iter().map(|p| (p.key.clone(), p.value.clone())).collect()
}

/// Where each output of the graph comes from.
pub(super) fn origins(proto: &ModelProto) -> Vec<Origin> {
    let Some(graph) = &proto.graph else { return Vec::new() };
    let producers = producers(graph);
    graph
        .output
        .iter()
        .map(|o| Origin { operator: last_operator(&[graph], &o.name), has_exp: has_exp(&o.name, &producers) })
        .collect()
}

fn producers(graph: &GraphProto) -> HashMap<&str, &NodeProto> {
    graph.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n))).collect()
}

/// Operators that leave what values mean as it is; a mean of probabilities is one.
const PASSES: [&str; 16] = [
    "Cast",
    "Concat",
    "DequantizeLinear",
    "Dropout",
    "Flatten",
    "Gather",
    "Identity",
    "QuantizeLinear",
    "ReduceMax",
    "ReduceMean",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// Most branches inside each other that are looked into.
const BRANCHES_MAX: usize = 8;

/// `scopes` are graphs inside each other, innermost last: a branch may hand on a value of what is around it.
fn last_operator(scopes: &[&GraphProto], value: &str) -> String {
    // a damaged file may have a branch that hands on what it is a branch of
    if scopes.len() > BRANCHES_MAX {
        return String::new();
    }
    let mut scopes = scopes;
    let mut value = value;
    // as many steps as there are nodes: a damaged file may have a cycle
    for _ in 0..=scopes.iter().map(|g| g.node.len()).sum::<usize>() {
        let produces = |n: &&NodeProto| n.output.iter().any(|o| o == value);
        let found = (0..scopes.len()).rev().find_map(|at| Some((at, scopes[at].node.iter().find(produces)?)));
        let Some((at, node)) = found else { break };
        let within = scopes;
        scopes = &scopes[..=at];
        match node.op_type.as_str() {
            "If" => {
                let at = node.output.iter().position(|o| o == value).unwrap_or(0);
                let mut branches = node.attribute.iter().filter_map(|a| a.g.as_ref()).take(2);
                let inside = branches.find_map(|branch| {
                    let output = &branch.output.get(at)?.name;
                    let operator = last_operator(&[within, &[branch]].concat(), output);
                    Some(operator).filter(|op| !op.is_empty() && op != "If")
                });
                return inside.unwrap_or_else(|| "If".into());
            }
            op if PASSES.contains(&op) => match node.input.first() {
                Some(input) => value = input,
                None => break,
            },
            op => return op.to_owned(),
        }
    }
    String::new()
}

fn has_exp(value: &str, producers: &HashMap<&str, &NodeProto>) -> bool {
    let (mut seen, mut next) = (HashSet::new(), vec![value]);
    while let Some(value) = next.pop() {
        let Some(node) = producers.get(value).filter(|_| seen.insert(value)) else { continue };
        if node.op_type == "Exp" {
            return true;
        }
        next.extend(node.input.iter().map(String::as_str));
    }
    false
}

/// Pairs of an input and an output that look like a state carried from run to run: the same type and rank, and the input's name in
/// the output's, or one of the two the other's past.
#[must_use]
pub fn state_pairs(inputs: &[TensorInfo], outputs: &[TensorInfo]) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let plain = |name: &str| {
        let name = name.to_lowercase().replace(['_', '-', '.', '/'], "");
        ["input", "output", "past", "prev", "present", "new", "next", "out", "in"]
            .iter()
            .fold(name, |name, word| name.replace(word, ""))
    };
    for input in inputs.iter().filter(|i| i.shape.len() > 1 || inputs.len() > 2) {
        let fits = |o: &&TensorInfo| {
            o.dtype == input.dtype
                && o.shape.len() == input.shape.len()
                && o.shape.iter().zip(&input.shape).all(|(a, b)| a.is_none() || b.is_none() || a == b)
                && !pairs.iter().any(|(_, taken)| *taken == o.name)
        };
        let (a, of) = (plain(&input.name), |o: &TensorInfo| plain(&o.name));
        let is_named = |o: &&TensorInfo| {
            o.name != input.name
                && !a.is_empty()
                && (of(o) == a || of(o).strip_prefix(&a).is_some_and(|r| r == "n" || r == "1"))
        };
        if let Some(output) = outputs.iter().filter(fits).find(is_named) {
            pairs.push((input.name.clone(), output.name.clone()));
        }
    }
    pairs
}
