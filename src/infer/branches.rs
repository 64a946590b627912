//! Decides the `If` nodes of an ONNX graph whose condition does not depend on values, and puts the branch taken in their
//! place.
//!
//! Exporters write an `If` where the source asks for a shape. tract types both branches, and the one that is not taken
//! often cannot be: with the shapes of the inputs fixed, most conditions are constants, and only the branch taken is
//! looked at. An `If` that depends on values stays.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::{InferenceFact, InferenceModelExt, TractResult};

use super::model::FixedInput;
use super::onnx;

/// Branches within branches, at most: each round opens one more level.
const ROUNDS_MAX: usize = 32;

/// Replaces every `If` that can be decided.
pub(super) fn decide(proto: &mut ModelProto, inputs: &[FixedInput]) {
    for _ in 0..ROUNDS_MAX {
        let Some(graph) = &proto.graph else { return };
        let conditions: Vec<String> =
            graph.node.iter().filter(|n| n.op_type == "If" && n.input.len() == 1).map(|n| n.input[0].clone()).collect();
        if conditions.is_empty() {
            return;
        }
        // where it cannot be analysed, the import says why
        let Ok(known) = values(proto, &conditions, inputs) else { return };
        if known.is_empty() {
            return;
        }
        if let Some(graph) = &mut proto.graph {
            let mut nodes = Vec::with_capacity(graph.node.len());
            let mut initializers = Vec::new();
            for (i, node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
                let branch =
                    node.input.first().filter(|_| node.op_type == "If").and_then(|c| known.get(c)).and_then(|taken| {
                        let name = if *taken { "then_branch" } else { "else_branch" };
                        node.attribute.iter().find(|a| a.name == name)?.g.as_ref()
                    });
                match branch {
                    Some(branch) => inline(branch.clone(), &node, i, &mut nodes, &mut initializers),
                    None => nodes.push(node),
                }
            }
            graph.node = nodes;
            graph.initializer.extend(initializers);
        }
    }
}

/// The conditions that are known from shapes and constants alone.
fn values(proto: &ModelProto, conditions: &[String], inputs: &[FixedInput]) -> TractResult<HashMap<String, bool>> {
    let Some(graph) = &proto.graph else { return Ok(HashMap::new()) };
    let makers: HashMap<&str, &NodeProto> =
        graph.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n))).collect();
    let mut needed: HashSet<&str> = HashSet::new();
    let mut askable = Vec::new();
    for condition in conditions {
        let mut of: HashSet<&str> = HashSet::new();
        let mut open = vec![condition.as_str()];
        let mut is_open = true;
        while let Some(value) = open.pop() {
            if !of.insert(value) {
                continue;
            }
            if let Some(node) = makers.get(value) {
                // what an undecided branch makes is unknown
                is_open &= node.attribute.iter().all(|a| a.g.is_none() && a.graphs.is_empty());
                open.extend(node.input.iter().map(String::as_str));
            }
        }
        let exists = makers.contains_key(condition.as_str())
            || graph.initializer.iter().any(|t| t.name == *condition)
            || graph.input.iter().any(|i| i.name == *condition);
        if is_open && exists {
            needed.extend(of);
            askable.push(condition);
        }
    }
    if askable.is_empty() {
        return Ok(HashMap::new());
    }
    let cut = GraphProto {
        node: graph.node.iter().filter(|n| n.output.iter().any(|o| needed.contains(o.as_str()))).cloned().collect(),
        initializer: graph.initializer.iter().filter(|t| needed.contains(t.name.as_str())).cloned().collect(),
        input: graph.input.clone(),
        output: askable
            .iter()
            .map(|name| ValueInfoProto { name: (*name).clone(), ..ValueInfoProto::default() })
            .collect(),
        ..GraphProto::default()
    };
    // old files list constants among the inputs; those that are cut away are no inputs either
    let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let mut cut = cut;
    cut.input.retain(|i| !constants.contains(i.name.as_str()));
    let cut = ModelProto { graph: Some(cut), opset_import: proto.opset_import.clone(), ..ModelProto::default() };
    let mut model = onnx::importer().parse(&cut, None)?.model;
    for (ix, input) in inputs.iter().enumerate() {
        model.set_input_fact(ix, InferenceFact::dt_shape(input.datum_type(), input.shape()))?;
    }
    // goes on after what it cannot make sense of
    let _ = model.analyse(true);
    let mut known = HashMap::new();
    for (ix, name) in askable.iter().enumerate() {
        if let Some(value) = model.output_fact(ix)?.value.concretize()
            && let Ok(taken) = value.cast_to_scalar::<bool>()
        {
            known.insert((*name).clone(), taken);
        }
    }
    Ok(known)
}

/// Puts the nodes of `branch` in place of the `If` node `of`, under names that are its own.
fn inline(
    mut branch: GraphProto,
    of: &NodeProto,
    position: usize,
    nodes: &mut Vec<NodeProto>,
    initializers: &mut Vec<tract_onnx::pb::TensorProto>,
) {
    let prefix = of.output.first().filter(|o| !o.is_empty()).cloned().unwrap_or_else(|| format!("if_{position}"));
    let made = branch.node.iter().flat_map(|n| &n.output).chain(branch.initializer.iter().map(|t| &t.name));
    let own: HashMap<String, String> =
        made.filter(|n| !n.is_empty()).map(|n| (n.clone(), format!("{prefix}/{n}"))).collect();
    for tensor in &mut branch.initializer {
        tensor.name = own[&tensor.name].clone();
    }
    initializers.append(&mut branch.initializer);
    for mut node in branch.node {
        if !node.name.is_empty() {
            node.name = format!("{prefix}/{}", node.name);
        }
        for output in node.output.iter_mut().filter(|o| !o.is_empty()) {
            *output = own[output.as_str()].clone();
        }
        rename_reads(&mut node, &own);
        nodes.push(node);
    }
    for (inner, outer) in branch.output.iter().zip(&of.output).filter(|(_, outer)| !outer.is_empty()) {
        nodes.push(NodeProto {
            name: format!("{outer}/taken"),
            op_type: "Identity".into(),
            input: vec![own.get(&inner.name).unwrap_or(&inner.name).clone()],
            output: vec![outer.clone()],
            ..NodeProto::default()
        });
    }
}

/// Renames what `node` and the graphs inside it read from around them.
fn rename_reads(node: &mut NodeProto, names: &HashMap<String, String>) {
    for input in &mut node.input {
        if let Some(name) = names.get(input) {
            input.clone_from(name);
        }
    }
    for attribute in &mut node.attribute {
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            let inner: HashSet<&str> = graph
                .node
                .iter()
                .flat_map(|n| n.output.iter().map(String::as_str))
                .chain(graph.initializer.iter().map(|t| t.name.as_str()))
                .chain(graph.input.iter().map(|i| i.name.as_str()))
                .collect();
            let visible: HashMap<String, String> = names
                .iter()
                .filter(|(n, _)| !inner.contains(n.as_str()))
                .map(|(a, b)| (a.clone(), b.clone()))
                .collect();
            for node in &mut graph.node {
                rename_reads(node, &visible);
            }
            for output in &mut graph.output {
                if let Some(name) = visible.get(&output.name) {
                    output.name.clone_from(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{AttributeProto, TensorProto};

    use super::*;

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: op.into(),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.into()],
            ..NodeProto::default()
        }
    }

    fn branch(name: &str, nodes: Vec<NodeProto>, output: &str) -> AttributeProto {
        let output = vec![ValueInfoProto { name: output.into(), ..ValueInfoProto::default() }];
        let graph = GraphProto { node: nodes, output, ..GraphProto::default() };
        AttributeProto { name: name.into(), r#type: 5, g: Some(graph), ..AttributeProto::default() }
    }

    #[test]
    fn the_branch_taken_stands_in_place_of_the_if() {
        let flag = TensorProto { name: "c".into(), data_type: 9, raw_data: vec![1], ..TensorProto::default() };
        let mut inner = node("If", &["c"], "inner");
        inner.attribute =
            vec![branch("then_branch", vec![node("Neg", &["a"], "b")], "b"), branch("else_branch", vec![], "a")];
        let mut outer = node("If", &["c"], "y");
        outer.attribute = vec![
            branch("then_branch", vec![node("Abs", &["x"], "a"), inner], "inner"),
            branch("else_branch", vec![node("Frobnicate", &["x"], "a")], "a"),
        ];
        let graph = GraphProto { node: vec![outer], initializer: vec![flag], ..GraphProto::default() };
        let mut proto = ModelProto { graph: Some(graph), ..ModelProto::default() };
        decide(&mut proto, &[]);
        let nodes = proto.graph.unwrap().node;
        let text: Vec<String> = nodes.iter().map(|n| format!("{}({}){}", n.op_type, n.input[0], n.output[0])).collect();
        assert_eq!(text, ["Abs(x)y/a", "Neg(y/a)y/inner/b", "Identity(y/inner/b)y/inner", "Identity(y/inner)y",]);
    }

    #[test]
    fn an_if_on_a_value_stays() {
        let mut outer = node("If", &["c"], "y");
        outer.attribute = vec![branch("then_branch", vec![], "x"), branch("else_branch", vec![], "x")];
        let graph = GraphProto { node: vec![outer], ..GraphProto::default() };
        let mut proto = ModelProto { graph: Some(graph), ..ModelProto::default() };
        decide(&mut proto, &[]);
        assert_eq!(proto.graph.unwrap().node[0].op_type, "If");
    }
}
