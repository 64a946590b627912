//! Rewrites ONNX's operators on quantized tensors as ordinary operators between `DequantizeLinear` and
//! `QuantizeLinear`, before the graph is parsed.
//!
//! onnxruntime's quantizer writes the same network in either form; here both become one, which
//! [`attendant_quant::rewrite`] then turns into integer operators. The standard's `QLinearConv` and `QLinearMatMul`, and
//! those of the domain `com.microsoft`, are covered; a variant that is not (channels last) is left as it is, and the
//! check of operators names it.

use std::collections::HashMap;

use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// ONNX `TensorProto.DataType` FLOAT.
const F32: i32 = 1;
/// ONNX `TensorProto.DataType` INT64.
const I64: i32 = 7;
/// ONNX `AttributeProto.AttributeType` INT.
const INT: i32 = 2;

/// Rewrites every node that [`lowered`] knows.
pub(super) fn quantized_operators(proto: &mut ModelProto) {
    let is_standard = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let opset = proto.opset_import.iter().find(|o| is_standard(&o.domain)).map_or(0, |o| o.version);
    if let Some(graph) = &mut proto.graph {
        lower_graph(graph, opset);
    }
}

fn lower_graph(graph: &mut GraphProto, opset: i64) {
    let constants: HashMap<String, i32> = graph.initializer.iter().map(|t| (t.name.clone(), t.data_type)).collect();
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().for_each(|g| lower_graph(g, opset));
            attribute.graphs.iter_mut().for_each(|g| lower_graph(g, opset));
        }
        let mut scope = Scope::of(&node, &constants, opset);
        if lowered(&node, &mut scope).is_some() {
            nodes.extend(scope.nodes);
            graph.initializer.extend(scope.constants);
        } else {
            nodes.push(node);
        }
    }
    graph.node = nodes;
}

/// What one node becomes.
struct Scope<'a> {
    /// Of the node; its parts are called `prefix/part`.
    prefix: String,
    /// Of the values between the parts: the node's first output, as names of nodes may repeat.
    values: String,
    /// Version of the standard's operators.
    opset: i64,
    /// Element types of the constants.
    known: &'a HashMap<String, i32>,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

/// A quantized operand: names of the tensor, its scale and its zero point (empty: none).
type Quantized<'a> = (&'a str, &'a str, &'a str);

impl<'a> Scope<'a> {
    fn of(node: &NodeProto, known: &'a HashMap<String, i32>, opset: i64) -> Self {
        let values = node.output.first().cloned().unwrap_or_default();
        let prefix = if node.name.is_empty() { values.clone() } else { node.name.clone() };
        Scope { prefix, values, opset, known, nodes: Vec::new(), constants: Vec::new() }
    }

    /// Adds a node and returns its output's name. The part `""` carries the name of the node itself.
    fn node(&mut self, part: &str, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let name = if part.is_empty() { self.prefix.clone() } else { format!("{}/{part}", self.prefix) };
        let output = format!("{}/{}.value", self.values, if part.is_empty() { op } else { part });
        self.nodes.push(NodeProto {
            name,
            op_type: op.into(),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.clone()],
            attribute: attributes,
            ..NodeProto::default()
        });
        output
    }

    fn dequantize(&mut self, part: &str, (x, scale, zero_point): Quantized<'_>, axis: i64) -> String {
        let scale = self.real_scale(part, scale);
        let mut inputs = vec![x, scale.as_str()];
        if !zero_point.is_empty() {
            inputs.push(zero_point);
        }
        self.node(part, "DequantizeLinear", &inputs, vec![integer("axis", axis)])
    }

    /// The scale as f32: QLinearMatMul may have an f16 one.
    fn real_scale(&mut self, part: &str, scale: &str) -> String {
        let is_ours = self.nodes.iter().any(|n| n.output.iter().any(|o| o == scale));
        if self.known.get(scale) == Some(&F32) || is_ours {
            return scale.into();
        }
        self.node(&format!("{part}_scale_f32"), "Cast", &[scale], vec![integer("to", i64::from(F32))])
    }

    /// The last step: quantizes `x` as the output of `node`.
    fn quantize(&mut self, node: &NodeProto, x: &str, scale: &str, zero_point: &str) -> Option<()> {
        let scale = self.real_scale("y", scale);
        let mut inputs = vec![x, scale.as_str()];
        if !zero_point.is_empty() {
            inputs.push(zero_point);
        }
        self.node("y", "QuantizeLinear", &inputs, Vec::new());
        self.finish(node)
    }

    /// The node added last makes the output of `node`.
    fn finish(&mut self, node: &NodeProto) -> Option<()> {
        self.nodes.last_mut()?.output = vec![node.output.first()?.clone()];
        Some(())
    }

    fn scalar(&mut self, part: &str, value: f32) -> String {
        self.constant(part, F32, Vec::new(), value.to_le_bytes().to_vec())
    }

    fn constant(&mut self, part: &str, data_type: i32, dims: Vec<i64>, raw_data: Vec<u8>) -> String {
        let name = format!("{}/{part}.constant", self.values);
        self.constants.push(TensorProto { name: name.clone(), data_type, dims, raw_data, ..TensorProto::default() });
        name
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: INT, i: value, ..AttributeProto::default() }
}

/// The attributes of `node` but those of `dropped`.
fn attributes_without(node: &NodeProto, dropped: &[&str]) -> Vec<AttributeProto> {
    node.attribute.iter().filter(|a| !dropped.contains(&a.name.as_str())).cloned().collect()
}

/// Puts into `scope` what `node` becomes; None if it stays as it is.
fn lowered(node: &NodeProto, scope: &mut Scope<'_>) -> Option<()> {
    let get = |i: usize| node.input.get(i).map_or("", String::as_str);
    let need = |i: usize| Some(get(i)).filter(|name| !name.is_empty());
    let triple = |i: usize| Some((need(i)?, need(i + 1)?, get(i + 2)));
    let flag = |name: &str| node.attribute.iter().find(|a| a.name == name).map_or(0, |a| a.i);
    if flag("channels_last") != 0 {
        return None;
    }
    match node.op_type.as_str() {
        "QLinearConv" => {
            let (input, weights) = (triple(0)?, triple(3)?);
            let x = scope.dequantize("x", input, 1);
            let w = scope.dequantize("w", weights, 0);
            let mut inputs = vec![x, w];
            if let Some(bias) = need(8) {
                let scale = scope.node("bias_scale", "Mul", &[input.1, weights.1], Vec::new());
                inputs.push(scope.dequantize("bias", (bias, &scale, ""), 0));
            }
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let y = scope.node("", "Conv", &inputs, node.attribute.clone());
            scope.quantize(node, &y, need(6)?, get(7))
        }
        "QLinearMatMul" => {
            let (left, right) = (triple(0)?, triple(3)?);
            let a = scope.dequantize("a", left, -2);
            let b = scope.dequantize("b", right, -1);
            let y = scope.node("", "MatMul", &[&a, &b], Vec::new());
            scope.quantize(node, &y, need(6)?, get(7))
        }
        "QLinearAdd" | "QLinearMul" => {
            let a = scope.dequantize("a", triple(0)?, 1);
            let b = scope.dequantize("b", triple(3)?, 1);
            let y = scope.node("", node.op_type.strip_prefix("QLinear")?, &[&a, &b], Vec::new());
            scope.quantize(node, &y, need(6)?, get(7))
        }
        "QLinearConcat" => {
            let count = node.input.len().checked_sub(2)? / 3;
            let parts = (0..count)
                .map(|i| Some(scope.dequantize(&format!("x{i}"), triple(2 + 3 * i)?, 1)))
                .collect::<Option<Vec<_>>>()?;
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let y = scope.node("", "Concat", &parts, node.attribute.clone());
            scope.quantize(node, &y, need(0)?, get(1))
        }
        // Its axes are an attribute; those of ReduceMean became an input.
        "QLinearReduceMean" if scope.opset >= 18 => {
            let x = scope.dequantize("x", triple(0)?, 1);
            let mut inputs = vec![x];
            if let Some(axes) = node.attribute.iter().find(|a| a.name == "axes").filter(|a| !a.ints.is_empty()) {
                let raw_data = axes.ints.iter().flat_map(|axis| axis.to_le_bytes()).collect();
                inputs.push(scope.constant("axes", I64, vec![axes.ints.len() as i64], raw_data));
            }
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let y = scope.node("", "ReduceMean", &inputs, attributes_without(node, &["axes"]));
            scope.quantize(node, &y, need(3)?, get(4))
        }
        "QLinearAveragePool"
        | "QLinearGlobalAveragePool"
        | "QLinearSigmoid"
        | "QLinearLeakyRelu"
        | "QLinearReduceMean" => {
            let x = scope.dequantize("x", triple(0)?, 1);
            let attributes = attributes_without(node, &["channels_last"]);
            let y = scope.node("", node.op_type.strip_prefix("QLinear")?, &[&x], attributes);
            scope.quantize(node, &y, need(3)?, get(4))
        }
        "QLinearSoftmax" => {
            let x = scope.dequantize("x", triple(0)?, 1);
            let y = scope.node("", "Softmax", &[&x], attributes_without(node, &["opset"]));
            scope.quantize(node, &y, need(3)?, get(4))
        }
        "QLinearWhere" => {
            let a = scope.dequantize("a", triple(1)?, 1);
            let b = scope.dequantize("b", triple(4)?, 1);
            let y = scope.node("", "Where", &[need(0)?, &a, &b], Vec::new());
            scope.quantize(node, &y, need(7)?, get(8))
        }
        "QGemm" => {
            let (left, right) = (triple(0)?, triple(3)?);
            let a = scope.dequantize("a", left, 1);
            let b = scope.dequantize("b", right, i64::from(flag("transB") == 0));
            let mut inputs = vec![a, b];
            if let Some(bias) = need(6) {
                let mut scale = scope.node("bias_scale", "Mul", &[left.1, right.1], Vec::new());
                let alpha = node.attribute.iter().find(|a| a.name == "alpha").map_or(1.0, |a| a.f);
                if alpha != 1.0 {
                    let alpha = scope.scalar("alpha", alpha);
                    scale = scope.node("bias_scale_alpha", "Mul", &[&scale, &alpha], Vec::new());
                }
                inputs.push(scope.dequantize("bias", (bias, &scale, ""), -1));
            }
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let y = scope.node("", "Gemm", &inputs, node.attribute.clone());
            match need(7) {
                Some(scale) => scope.quantize(node, &y, scale, get(8)),
                None => scope.finish(node),
            }
        }
        "DynamicQuantizeMatMul" => {
            let q = scope.node("x", "DynamicQuantizeLinear", &[need(0)?], Vec::new());
            let [scale, zero_point] = ["scale", "zero_point"].map(|part| format!("{}/x.{part}", scope.values));
            scope.nodes.last_mut()?.output.extend([scale.clone(), zero_point.clone()]);
            integer_to_float(node, scope, (&q, &scale, &zero_point), (need(1)?, need(2)?, get(3)), get(4))
        }
        "MatMulIntegerToFloat" => {
            let (left, right) = ((need(0)?, need(2)?, get(4)), (need(1)?, need(3)?, get(5)));
            let is_static = |(_, scale, zero_point): Quantized<'_>| {
                scope.known.contains_key(scale) && (zero_point.is_empty() || scope.known.contains_key(zero_point))
            };
            if !is_static(left) {
                return integer_to_float(node, scope, left, right, get(6));
            }
            let a = scope.dequantize("a", left, -2);
            let b = scope.dequantize("b", right, -1);
            let y = scope.node("", "MatMul", &[&a, &b], Vec::new());
            if let Some(bias) = need(6) {
                scope.node("sum", "Add", &[&y, bias], Vec::new());
            }
            scope.finish(node)
        }
        _ => None,
    }
}

/// `MatMulInteger` and what makes real numbers of it, as onnxruntime's dynamic quantizer writes it.
fn integer_to_float(
    node: &NodeProto,
    scope: &mut Scope<'_>,
    (a, a_scale, a_zero_point): Quantized<'_>,
    (b, b_scale, b_zero_point): Quantized<'_>,
    bias: &str,
) -> Option<()> {
    let mut inputs = vec![a, b, a_zero_point, b_zero_point];
    while inputs.last().is_some_and(|name| name.is_empty()) {
        inputs.pop();
    }
    let acc = scope.node("", "MatMulInteger", &inputs, Vec::new());
    let real = scope.node("real", "Cast", &[&acc], vec![integer("to", i64::from(F32))]);
    let scale = scope.node("scale", "Mul", &[a_scale, b_scale], Vec::new());
    let y = scope.node("scaled", "Mul", &[&real, &scale], Vec::new());
    if !bias.is_empty() {
        scope.node("sum", "Add", &[&y, bias], Vec::new());
    }
    scope.finish(node)
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::OperatorSetIdProto;

    use super::*;

    fn lower(op: &str, inputs: &str, attributes: Vec<AttributeProto>) -> Vec<String> {
        lower_in_opset(17, op, inputs, attributes)
    }

    fn lower_in_opset(version: i64, op: &str, inputs: &str, attributes: Vec<AttributeProto>) -> Vec<String> {
        let node = NodeProto {
            op_type: op.into(),
            name: "n".into(),
            input: inputs.split(' ').map(|i| i.trim_matches('_').to_string()).collect(),
            output: vec!["y".into()],
            attribute: attributes,
            ..NodeProto::default()
        };
        let scale = |name: &str| TensorProto { name: name.into(), data_type: F32, ..TensorProto::default() };
        let scales = ["xs", "ws", "as", "bs", "ys"].map(scale).to_vec();
        let mut proto = ModelProto {
            graph: Some(GraphProto { node: vec![node], initializer: scales, ..GraphProto::default() }),
            opset_import: vec![OperatorSetIdProto { version, ..OperatorSetIdProto::default() }],
            ..ModelProto::default()
        };
        quantized_operators(&mut proto);
        let nodes = proto.graph.unwrap().node;
        assert_eq!(nodes.last().unwrap().output, ["y"], "{op}");
        nodes.iter().map(|n| format!("{}({})", n.op_type, n.input.join(","))).collect()
    }

    #[test]
    fn every_form_becomes_ordinary_operators_between_the_two_linear_ones() {
        let cases = [
            (
                "QLinearConv",
                "x xs xz w ws wz ys yz b",
                "DequantizeLinear(x,xs,xz) DequantizeLinear(w,ws,wz) Mul(xs,ws) DequantizeLinear(b,y/bias_scale.value) \
                 Conv(y/x.value,y/w.value,y/bias.value) QuantizeLinear(y/Conv.value,ys,yz)",
            ),
            (
                "QLinearAdd",
                "a as az b bs _ ys yz",
                "DequantizeLinear(a,as,az) DequantizeLinear(b,bs) Add(y/a.value,y/b.value) \
                 QuantizeLinear(y/Add.value,ys,yz)",
            ),
            (
                "QLinearConcat",
                "ys yz a as az b bs bz",
                "DequantizeLinear(a,as,az) DequantizeLinear(b,bs,bz) Concat(y/x0.value,y/x1.value) \
                 QuantizeLinear(y/Concat.value,ys,yz)",
            ),
            (
                "QGemm",
                "a as az b bs bz _",
                "DequantizeLinear(a,as,az) DequantizeLinear(b,bs,bz) Gemm(y/a.value,y/b.value)",
            ),
            (
                "DynamicQuantizeMatMul",
                "x w ws wz b",
                "DynamicQuantizeLinear(x) MatMulInteger(y/x.value,w,y/x.zero_point,wz) Cast(y/MatMulInteger.value) \
                 Mul(y/x.scale,ws) Mul(y/real.value,y/scale.value) Add(y/scaled.value,b)",
            ),
            (
                "QLinearGlobalAveragePool",
                "x xs xz ys yz",
                "DequantizeLinear(x,xs,xz) GlobalAveragePool(y/x.value) QuantizeLinear(y/GlobalAveragePool.value,ys,yz)",
            ),
        ];
        for (op, inputs, expect) in cases {
            assert_eq!(lower(op, inputs, Vec::new()).join(" "), expect, "{op}");
        }
    }

    #[test]
    fn the_axes_of_a_mean_are_an_input_since_opset_18() {
        let axes = || AttributeProto { name: "axes".into(), ints: vec![2, 3], ..AttributeProto::default() };
        let mean = |opset| lower_in_opset(opset, "QLinearReduceMean", "x xs xz ys yz", vec![axes()])[1].clone();
        assert_eq!(mean(17), "ReduceMean(y/x.value)");
        assert_eq!(mean(18), "ReduceMean(y/x.value,y/axes.constant)");
    }

    #[test]
    fn what_is_not_covered_stays() {
        assert_eq!(
            lower("QLinearAveragePool", "x xs xz ys yz", vec![integer("channels_last", 1)]),
            ["QLinearAveragePool(x,xs,xz,ys,yz)"]
        );
        // too few inputs: a damaged file
        assert_eq!(lower("QLinearConv", "x xs", Vec::new()), ["QLinearConv(x,xs)"]);
        assert_eq!(lower("Conv", "x w", Vec::new()), ["Conv(x,w)"]);
    }
}
