//! Small typed models by hand: what becomes an island, what does not, and the same values from both.

use std::cell::RefCell;

use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, KernelFormat, PaddingSpec, PoolSpec};
use tract_core::ops::einsum::EinSum;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::nn::{DataFormat, Reduce, Reducer, Softmax, SoftmaxKind};
use tract_core::ops::{math, nn};

use super::super::by_reference::ReferenceIsland;
use super::super::constant::{DequantizeConstant, dequantize_left};
use super::super::graph::Graph;
use super::super::{Affine, Dequantize, IntType, Quantize};
use super::emit::op_name;
use super::{Report, rewrite};

/// A typed model that is being wired; every method returns the outlet it makes.
#[derive(Default)]
struct Net {
    model: TypedModel,
    count: usize,
}

impl Net {
    fn op(&mut self, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> OutletId {
        self.count += 1;
        self.model.wire_node(format!("n{}", self.count), op, inputs).unwrap()[0]
    }

    fn input(&mut self, shape: &[usize]) -> OutletId {
        self.model.add_source("x", f32::fact(shape)).unwrap()
    }

    fn real(&mut self, shape: &[usize], value: impl Fn(usize) -> f32) -> OutletId {
        self.count += 1;
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        self.model.add_const(format!("c{}", self.count), Tensor::from_shape(shape, &values).unwrap()).unwrap()
    }

    fn weights(&mut self, shape: &[usize]) -> OutletId {
        self.count += 1;
        let values: Vec<i8> = (0..shape.iter().product()).map(|i: usize| (i * 37 % 101) as i8 - 50).collect();
        let q = self.model.add_const(format!("w{}", self.count), Tensor::from_shape(shape, &values).unwrap()).unwrap();
        let scale: Vec<f32> = (0..shape[0]).map(|i| 0.01 + 0.002 * i as f32).collect();
        let zero_point = vec![0; shape[0]];
        self.op(DequantizeConstant { scale, zero_point, axis: 0 }, &[q])
    }

    fn quantize(&mut self, x: OutletId, scale: f32) -> OutletId {
        let affine = Affine::new(scale, 7, IntType::I8).unwrap();
        let q = self.op(ElementWiseOp(Box::new(Quantize(affine)), None), &[x]);
        self.op(ElementWiseOp(Box::new(Dequantize(affine)), None), &[q])
    }

    fn conv(&mut self, x: OutletId, inner: usize, outer: usize) -> OutletId {
        let w = self.weights(&[outer, inner, 3, 3]);
        let bias = self.real(&[outer], |i| i as f32 * 0.1 - 0.2);
        let padding = PaddingSpec::Explicit(tvec!(1, 1), tvec!(1, 1));
        let spec = PoolSpec::new(DataFormat::NCHW, tvec!(3, 3), padding, None, None, inner, outer);
        self.op(Conv::new(spec, KernelFormat::OIHW, 1, None), &[x, w, bias])
    }

    fn relu(&mut self, x: OutletId) -> OutletId {
        let rank = self.model.outlet_fact(x).unwrap().rank();
        let zero = self.real(&vec![1; rank], |_| 0.0);
        self.op(math::max(), &[x, zero])
    }

    fn done(mut self, outputs: &[OutletId]) -> TypedModel {
        self.model.select_output_outlets(outputs).unwrap();
        self.model
    }
}

fn run(model: TypedModel) -> TVec<TValue> {
    let shape = model.input_fact(0).unwrap().shape.as_concrete().unwrap().to_vec();
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.7).sin() * 3.0).collect();
    let mut state = model.into_optimized().unwrap().into_runnable().unwrap().spawn().unwrap();
    state.run(tvec!(Tensor::from_shape(&shape, &values).unwrap().into_tvalue())).unwrap()
}

/// Rewrites `model` and compares it with itself; returns the islands' operators and the report.
fn check(model: TypedModel, step: f32) -> (Vec<Vec<&'static str>>, Report) {
    let islands: RefCell<Vec<Vec<&'static str>>> = RefCell::default();
    let make = |graph: Graph| -> TractResult<Box<dyn TypedOp>> {
        islands.borrow_mut().push(graph.nodes.iter().map(|n| op_name(&n.op)).collect());
        Ok(Box::new(ReferenceIsland(Arc::new(graph))))
    };
    let (rewritten, report) = rewrite(model.clone(), &make).unwrap();
    let mut plain = model;
    dequantize_left(&mut plain).unwrap();
    for (i, (a, b)) in run(rewritten).iter().zip(&run(plain)).enumerate() {
        assert_eq!(a.shape(), b.shape());
        let (a, b) = (a.cast_to::<f32>().unwrap(), b.cast_to::<f32>().unwrap());
        let (a, b) = (a.try_as_plain_ram().unwrap(), b.try_as_plain_ram().unwrap());
        for (a, b) in a.as_slice::<f32>().unwrap().iter().zip(b.as_slice::<f32>().unwrap()) {
            assert!((a - b).abs() <= step * 1.001, "output {i}: {a}, in f32 {b}");
        }
    }
    (islands.into_inner(), report)
}

#[test]
fn a_residual_block_is_one_island_with_fused_activations() {
    let mut net = Net::default();
    let x = net.input(&[1, 2, 5, 5]);
    let x = net.quantize(x, 0.03);
    let y = net.conv(x, 2, 4);
    let y = net.relu(y);
    let y = net.quantize(y, 0.1);
    let z = net.conv(y, 4, 4);
    let z = net.quantize(z, 0.3);
    let sum = net.op(math::add(), &[y, z]);
    let sum = net.relu(sum);
    let sum = net.quantize(sum, 0.3);
    let (islands, report) = check(net.done(&[sum]), 0.3);
    assert_eq!(islands, [["Quantize", "Conv", "Conv", "Add", "Dequantize"]]);
    assert_eq!(report.islands.len(), 1);
}

#[test]
fn a_value_may_leave_in_several_places_and_as_both_numbers() {
    let mut net = Net::default();
    let x = net.input(&[1, 2, 4, 4]);
    let x = net.quantize(x, 0.03);
    let y = net.conv(x, 2, 3);
    // read as f32 outside, as int8 inside, and as an output
    let q = net.quantize(y, 0.1);
    let outside = net.op(math::sin(), &[q]);
    let z = net.conv(q, 3, 2);
    let z = net.quantize(z, 0.2);
    let int8 = net.model.node(z.node).inputs[0];
    let (islands, _) = check(net.done(&[z, outside, q, int8, y]), 0.2);
    assert_eq!(islands.len(), 1);
}

#[test]
fn f32_parts_between_split_islands_and_int8_values_cross() {
    let mut net = Net::default();
    let x = net.input(&[1, 2, 4, 4]);
    let x = net.quantize(x, 0.03);
    let a = net.conv(x, 2, 2);
    let a = net.quantize(a, 0.1);
    // a maximum over an axis is none of an island's operators
    let b = net.op(nn::Reduce::new(tvec![3], Reducer::Max), &[a]);
    let b = net.op(math::mul(), &[b, a]);
    // no root of a negative number: what max(NaN, 0) is differs between the engine's targets
    let b = net.op(math::abs(), &[b]);
    let b = net.op(math::sqrt(), &[b]);
    let b = net.op(Reduce::new(tvec![2], Reducer::Max), &[b]);
    let b = net.op(math::add(), &[b, a]);
    let b = net.relu(b);
    let b = net.quantize(b, 0.2);
    let c = net.conv(b, 2, 2);
    let c = net.quantize(c, 0.3);
    // reads both islands
    let sum = net.op(math::add(), &[a, c]);
    let sum = net.quantize(sum, 0.3);
    let (islands, report) = check(net.done(&[sum]), 0.3);
    assert_eq!(islands.len(), 2, "{islands:?}");
    assert!(report.left.len() > 3);
}

#[test]
fn a_softmax_is_never_a_table() {
    let mut net = Net::default();
    let x = net.input(&[2, 6]);
    let x = net.quantize(x, 0.03);
    let w = net.weights(&[5, 6]);
    let axes = "mk,nk->mn".parse().unwrap();
    let y = net.op(EinSum { axes, operating_dt: f32::datum_type(), q_params: None }, &[x, w]);
    let y = net.quantize(y, 0.05);
    let softmax = Softmax { axes: tvec![1], quant_output_dt: None, kind: SoftmaxKind::Softmax };
    let y = net.op(softmax, &[y]);
    let y = net.quantize(y, 0.01);
    let (islands, _) = check(net.done(&[y]), 0.01);
    assert_eq!(islands, [["Quantize", "FullyConnected", "Softmax", "Dequantize"]]);
}

#[test]
fn functions_of_one_value_become_one_table() {
    let mut net = Net::default();
    let x = net.input(&[1, 2, 4, 4]);
    let x = net.quantize(x, 0.03);
    let y = net.conv(x, 2, 2);
    let y = net.quantize(y, 0.05);
    let gate = net.op(nn::sigmoid(), &[y]);
    let y = net.op(math::mul(), &[y, gate]);
    let y = net.quantize(y, 0.05);
    let y = net.op(math::tanh(), &[y]);
    let y = net.quantize(y, 0.01);
    let (islands, _) = check(net.done(&[y]), 0.01);
    assert_eq!(islands, [["Quantize", "Conv", "Lut", "Dequantize"]]);
}

#[test]
fn a_length_divided_by_a_sum_is_no_mean() {
    for is_mean in [true, false] {
        let mut net = Net::default();
        let x = net.input(&[2, 4]);
        let x = net.quantize(x, 0.03);
        let sum = net.op(Reduce::new(tvec![1], Reducer::Sum), &[x]);
        let len = net.real(&[1, 1], |_| 4.0);
        let sides = if is_mean { [sum, len] } else { [len, sum] };
        let y = net.op(math::div(), &sides);
        let y = net.quantize(y, 0.5);
        // `check` compares the values with those of the model as it was
        let (islands, _) = check(net.done(&[y]), 0.5);
        let steps: Vec<&str> = islands.iter().flatten().copied().collect();
        assert_eq!(steps.contains(&"ReduceMean") || steps.contains(&"AveragePool"), is_mean, "{steps:?}");
    }
}

#[test]
fn what_is_not_quantized_stays_as_it_is() {
    let mut net = Net::default();
    let x = net.input(&[1, 2, 4, 4]);
    let y = net.conv(x, 2, 3);
    let y = net.relu(y);
    let (islands, report) = check(net.done(&[y]), 1e-6);
    assert!(islands.is_empty() && report.islands.is_empty());
}

#[test]
fn a_refused_island_stays_in_f32_and_says_why() {
    let mut net = Net::default();
    let x = net.input(&[1, 2, 4, 4]);
    let x = net.quantize(x, 0.03);
    let y = net.conv(x, 2, 3);
    let conv = net.model.node(y.node).name.clone();
    let y = net.quantize(y, 0.1);
    let model = net.done(&[y]);
    let refuse = |_: Graph| -> TractResult<Box<dyn TypedOp>> { bail!("no kernel for this") };
    let (rewritten, report) = rewrite(model.clone(), &refuse).unwrap();
    assert_eq!(run(rewritten)[0].shape(), [1, 3, 4, 4]);
    assert!(report.islands.is_empty());
    assert!(report.left.contains_key(&conv), "{:?}", report.left);
    assert!(report.left.values().flatten().any(|r| r.contains("no kernel for this")), "{:?}", report.left);
}
