//! Reorders an ONNX graph around its int8 tables before the graph is parsed.
//!
//! A table that is only gathered from (an embedding) stays int8, and the gathered rows are dequantized instead: the same
//! values, a quarter of the memory. Weights need nothing here: [`super::onnx`] wires them as int8.
//!
//! Anything unusual (a scale per row, other types, subgraphs) is left as it is.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};

/// ONNX `TensorProto.DataType` of the types met here.
const U8: i32 = 2;
const I8: i32 = 3;

/// Gathers from int8 tables instead of from dequantized ones.
pub(super) fn gather_int8(proto: &mut ModelProto) {
    let Some(graph) = &mut proto.graph else { return };
    // a subgraph may name any value of its parent
    if graph.node.iter().flat_map(|n| &n.attribute).any(|a| a.g.is_some() || !a.graphs.is_empty()) {
        return;
    }
    let tables: HashMap<String, NodeProto> = {
        let int8: HashSet<&str> = graph
            .initializer
            .iter()
            .filter(|t| t.data_type == I8 || t.data_type == U8)
            .map(|t| t.name.as_str())
            .collect();
        let scalars: HashSet<&str> =
            graph.initializer.iter().filter(|t| t.dims.iter().all(|d| *d == 1)).map(|t| t.name.as_str()).collect();
        let is_table = |node: &&NodeProto| {
            node.op_type == "DequantizeLinear"
                && node.output.len() == 1
                && node.input.first().is_some_and(|q| int8.contains(q.as_str()))
                && node.input[1..].iter().all(|p| scalars.contains(p.as_str()))
                && is_only_gathered(&node.output[0], graph)
        };
        graph.node.iter().filter(is_table).map(|node| (node.output[0].clone(), node.clone())).collect()
    };
    if tables.is_empty() {
        return;
    }
    let nodes = std::mem::take(&mut graph.node).into_iter();
    graph.node = nodes
        .filter(|node| node.output.first().is_none_or(|o| !tables.contains_key(o)))
        .flat_map(|node| gather_first(node, &tables))
        .collect();
}

/// Whether `value` is the table of at least one Gather, and nothing else.
fn is_only_gathered(value: &str, graph: &GraphProto) -> bool {
    let mut uses = graph.node.iter().filter(|n| n.input.iter().any(|i| i == value)).peekable();
    uses.peek().is_some()
        && graph.output.iter().all(|o| o.name != value)
        && uses
            .all(|n| n.op_type == "Gather" && n.output.len() == 1 && n.input.iter().position(|i| i == value) == Some(0))
}

/// A Gather from a dequantized table becomes a Gather from the int8 table and a dequantization of its rows.
fn gather_first(mut node: NodeProto, tables: &HashMap<String, NodeProto>) -> Vec<NodeProto> {
    let table = node.input.first().and_then(|name| tables.get(name));
    let (Some(table), "Gather") = (table, node.op_type.as_str()) else { return vec![node] };
    let mut dequantize = table.clone();
    node.input[0] = table.input[0].clone();
    let rows = format!("{}.int8", node.output[0]);
    dequantize.name = format!("{}.dequantize", if node.name.is_empty() { &node.output[0] } else { &node.name });
    dequantize.input[0] = rows.clone();
    dequantize.output[0] = std::mem::replace(&mut node.output[0], rows);
    vec![node, dequantize]
}

#[cfg(test)]
mod tests {
    use super::super::model::decode;
    use super::*;

    #[test]
    fn a_gathered_table_stays_int8() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/request.onnx");
        let mut proto = decode("request.onnx", &std::fs::read(path).unwrap()).unwrap();
        gather_int8(&mut proto);
        let request = proto.graph.unwrap();
        assert!(request.initializer.iter().any(|t| t.data_type == I8 && t.dims == [40, 8]));
        let gather = request.node.iter().position(|n| n.op_type == "Gather").unwrap();
        let next = &request.node[gather + 1];
        assert_eq!((next.op_type.as_str(), &next.input[0]), ("DequantizeLinear", &request.node[gather].output[0]));
    }
}
