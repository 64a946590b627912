//! Dequantizes an ONNX graph's int8 constants before the graph is parsed.
//!
//! Static int8 files store weights as int8 behind a `DequantizeLinear`. Left to the type checker, each is dequantized
//! several times over, element by element; here it happens once. A table that is only gathered from stays int8, and
//! the gathered rows are dequantized instead: the same values, a quarter of the memory.
//!
//! Anything unusual (other types, blocks, subgraphs, values in odd fields) is left to [`super::onnx`], which handles or
//! refuses it.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto};

/// ONNX `TensorProto.DataType` of the types met here.
const F32: i32 = 1;
const U8: i32 = 2;
const I8: i32 = 3;
const I32: i32 = 6;

/// Folds every `DequantizeLinear` of a constant, and drops the constants that nothing uses any more.
pub(super) fn dequantize_constants(proto: &mut ModelProto) {
    let Some(graph) = &mut proto.graph else { return };
    // a subgraph may name any value of its parent
    if graph.node.iter().flat_map(|n| &n.attribute).any(|a| a.g.is_some() || !a.graphs.is_empty()) {
        return;
    }
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut folded = Vec::new();
    let mut tables = HashMap::new();
    let constants: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    for node in &graph.node {
        let Some(constant) = Constant::of(node, &constants) else {
            nodes.push(node.clone());
            continue;
        };
        let output = &node.output[0];
        if constant.scale.len() == 1 && is_only_gathered(output, graph) {
            tables.insert(output.clone(), node.clone());
        } else {
            folded.push(constant.dequantized(output));
        }
    }
    let nodes = nodes.into_iter().flat_map(|node| gather_first(node, &tables)).collect();
    graph.node = nodes;
    graph.initializer.extend(folded);
    drop_unused_constants(graph);
}

/// A constant behind a `DequantizeLinear`: values as the file stores them, parameters decoded.
struct Constant<'a> {
    tensor: &'a TensorProto,
    scale: Vec<f32>,
    zero_point: Vec<i32>,
    /// Elements that share one scale, in a row.
    run: usize,
}

impl<'a> Constant<'a> {
    /// None if the node is none, or not of the plain kind.
    fn of(node: &NodeProto, constants: &HashMap<&str, &'a TensorProto>) -> Option<Self> {
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name).map(|a| a.i);
        if node.op_type != "DequantizeLinear" || node.output.len() != 1 || attribute("block_size").unwrap_or(0) != 0 {
            return None;
        }
        let tensor = *constants.get(node.input.first()?.as_str())?;
        let dims = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>()?;
        let volume = dims.iter().try_fold(1usize, |v, d| v.checked_mul(*d))?;
        let width = match tensor.data_type {
            I8 | U8 => 1,
            I32 => 4,
            _ => return None,
        };
        if volume == 0 || Some(tensor.raw_data.len()) != volume.checked_mul(width) {
            return None;
        }
        let scale = floats(constants.get(node.input.get(1)?.as_str())?)?;
        let zero_point = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => {
                let zero_point = *constants.get(name.as_str())?;
                if zero_point.data_type != tensor.data_type {
                    return None;
                }
                integers(zero_point)?
            }
            None => vec![0; scale.len()],
        };
        if scale.is_empty() || scale.len() != zero_point.len() {
            return None;
        }
        let mut run = volume;
        if scale.len() > 1 {
            let axis = attribute("axis").unwrap_or(1);
            let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
            let axis = usize::try_from(axis).ok().filter(|a| dims.get(*a) == Some(&scale.len()))?;
            run = dims[axis + 1..].iter().product();
        }
        Some(Constant { tensor, scale, zero_point, run })
    }

    /// `(q - zero_point) * scale`, as a constant called `name`.
    fn dequantized(&self, name: &str) -> TensorProto {
        let raw = &self.tensor.raw_data;
        let mut values = Vec::with_capacity(raw.len() * 4);
        let parameters = self.scale.iter().zip(&self.zero_point).cycle();
        let width = if self.tensor.data_type == I32 { 4 } else { 1 };
        for (run, (scale, zero_point)) in raw.chunks(self.run * width).zip(parameters) {
            let mut push = |q: i32| values.extend((q.wrapping_sub(*zero_point) as f32 * scale).to_le_bytes());
            match self.tensor.data_type {
                I8 => run.iter().for_each(|&q| push(i32::from(q as i8))),
                U8 => run.iter().for_each(|&q| push(i32::from(q))),
                _ => run.as_chunks().0.iter().for_each(|&q| push(i32::from_le_bytes(q))),
            }
        }
        TensorProto {
            name: name.into(),
            dims: self.tensor.dims.clone(),
            data_type: F32,
            raw_data: values,
            ..TensorProto::default()
        }
    }
}

fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    if tensor.data_type != F32 {
        return None;
    }
    if !tensor.float_data.is_empty() {
        return Some(tensor.float_data.clone());
    }
    let (chunks, rest) = tensor.raw_data.as_chunks();
    rest.is_empty().then(|| chunks.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn integers(tensor: &TensorProto) -> Option<Vec<i32>> {
    if !tensor.int32_data.is_empty() {
        return Some(tensor.int32_data.clone());
    }
    let raw = &tensor.raw_data;
    match tensor.data_type {
        I8 => Some(raw.iter().map(|&q| i32::from(q as i8)).collect()),
        U8 => Some(raw.iter().map(|&q| i32::from(q)).collect()),
        I32 => {
            let (chunks, rest) = raw.as_chunks();
            rest.is_empty().then(|| chunks.iter().map(|b| i32::from_le_bytes(*b)).collect())
        }
        _ => None,
    }
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

fn drop_unused_constants(graph: &mut GraphProto) {
    let used: HashSet<&str> = graph
        .node
        .iter()
        .flat_map(|n| n.input.iter().map(String::as_str))
        .chain(graph.output.iter().map(|o| o.name.as_str()))
        .collect();
    let unused: HashSet<String> =
        graph.initializer.iter().filter(|t| !used.contains(t.name.as_str())).map(|t| t.name.clone()).collect();
    graph.initializer.retain(|t| !unused.contains(&t.name));
    // old files list their constants among the inputs as well
    graph.input.retain(|i| !unused.contains(&i.name));
}

#[cfg(test)]
mod tests {
    use super::super::model::decode;
    use super::*;

    fn folded(file: &str) -> GraphProto {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(file);
        let mut proto = decode(file, &std::fs::read(path).unwrap()).unwrap();
        dequantize_constants(&mut proto);
        proto.graph.unwrap()
    }

    fn constants_of(graph: &GraphProto, data_type: i32) -> usize {
        graph.initializer.iter().filter(|t| t.data_type == data_type && t.dims.len() > 1).count()
    }

    #[test]
    fn weights_become_f32_and_their_int8_form_is_dropped() {
        let card = folded("card.onnx");
        assert_eq!((constants_of(&card, I8), constants_of(&card, F32)), (0, 4));
        // what is left dequantizes activations
        let activations = card.node.iter().filter(|n| n.op_type == "DequantizeLinear");
        assert!(activations.clone().count() > 0);
        assert!(activations.flat_map(|n| n.input.first()).all(|i| card.initializer.iter().all(|t| t.name != *i)));
    }

    #[test]
    fn a_gathered_table_stays_int8() {
        let request = folded("request.onnx");
        assert!(request.initializer.iter().any(|t| t.data_type == I8 && t.dims == [40, 8]));
        let gather = request.node.iter().position(|n| n.op_type == "Gather").unwrap();
        let next = &request.node[gather + 1];
        assert_eq!((next.op_type.as_str(), &next.input[0]), ("DequantizeLinear", &request.node[gather].output[0]));
    }

    #[test]
    fn values_are_dequantized_along_the_axis() {
        let tensor = |name: &str, dims: &[i64], data_type: i32, raw: Vec<u8>| TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type,
            raw_data: raw,
            ..TensorProto::default()
        };
        let scale: Vec<u8> = [0.5f32, 2.0].iter().flat_map(|s| s.to_le_bytes()).collect();
        let tensors = [
            tensor("q", &[2, 2, 2], U8, vec![1, 2, 3, 4, 5, 6, 7, 8]),
            tensor("s", &[2], F32, scale),
            tensor("z", &[2], U8, vec![1, 0]),
        ];
        let constants = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let node = NodeProto {
            op_type: "DequantizeLinear".into(),
            input: vec!["q".into(), "s".into(), "z".into()],
            output: vec!["y".into()],
            ..NodeProto::default()
        };
        let y = Constant::of(&node, &constants).unwrap().dequantized("y");
        // axis 1 is the default
        assert_eq!(floats(&y).unwrap(), [0.0, 0.5, 6.0, 8.0, 2.0, 2.5, 14.0, 16.0]);
    }
}
