//! Plans against the slow interpreter: every operator, every tier that the CPU has, shapes drawn at random.

use proptest::prelude::*;
use tract_core::internal::{TVec, Tensor, tvec};

use super::super::graph::*;
use super::super::reference;
use super::super::tier::Tier;
use super::super::{Affine, IntType};
use super::Plan;

/// A stream of numbers from a seed (SplitMix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn range(&mut self, lo: usize, hi: usize) -> usize {
        lo + (self.next() % (hi - lo + 1) as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.range(0, of.len() - 1)]
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// Between -1 and 1.
    fn real(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn affine(&mut self, scale: f32) -> Affine {
        let int = self.one_of(&[IntType::I8, IntType::U8]);
        let (lo, hi) = int.range();
        let zero = match self.range(0, 3) {
            0 => lo,
            1 => hi,
            2 => (lo + hi + 1) / 2,
            _ => lo + self.range(0, 255) as i32,
        };
        Affine::new(scale * (1.0 + 0.5 * self.real()), zero, int).unwrap()
    }

    fn int(&mut self) -> Number {
        Number::Int(self.affine(0.05))
    }

    fn clamp(&mut self) -> Clamp {
        match self.range(0, 2) {
            0 => Clamp::NONE,
            1 => Clamp { lo: 0.0, hi: f32::INFINITY },
            _ => Clamp { lo: 0.0, hi: 6.0 },
        }
    }

    fn weights(&mut self, channels: usize, per_channel: usize) -> Weights {
        let is_symmetric = self.range(0, 3) > 0;
        let data = (0..channels * per_channel).map(|_| self.next() as i8).collect();
        let per = |d: &mut Draw| if d.coin() { 1 } else { channels };
        let scales = per(self);
        let zeros = per(self);
        Weights {
            data,
            scale: (0..scales).map(|_| 0.01 * (1.0 + 0.9 * self.real())).collect(),
            zero_point: (0..zeros).map(|_| if is_symmetric { 0 } else { i32::from(self.next() as i8) }).collect(),
        }
    }

    fn bias(&mut self, channels: usize) -> Vec<i32> {
        if self.coin() { vec![] } else { (0..channels).map(|_| (self.next() % 20_001) as i32 - 10_000).collect() }
    }

    fn tensor(&mut self, value: &Value) -> Tensor {
        let len: usize = value.shape.iter().product();
        match value.number {
            Number::F32 => {
                let x: Vec<f32> = (0..len).map(|_| self.real() * 8.0).collect();
                Tensor::from_shape(&value.shape, &x).unwrap()
            }
            Number::Int(a) if a.int == IntType::I8 => {
                let x: Vec<i8> = (0..len).map(|_| self.next() as i8).collect();
                Tensor::from_shape(&value.shape, &x).unwrap()
            }
            Number::Int(_) => {
                let x: Vec<u8> = (0..len).map(|_| self.next() as u8).collect();
                Tensor::from_shape(&value.shape, &x).unwrap()
            }
        }
    }
}

/// A graph under construction.
#[derive(Default)]
struct Builder(Graph);

impl Builder {
    fn value(&mut self, shape: &[usize], number: Number) -> ValueId {
        let name = format!("v{}", self.0.values.len());
        self.0.values.push(Value { name, shape: shape.into(), number });
        ValueId(self.0.values.len() - 1)
    }

    fn input(&mut self, shape: &[usize], number: Number) -> ValueId {
        let id = self.value(shape, number);
        self.0.inputs.push(id);
        id
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], shape: &[usize], number: Number) -> ValueId {
        let output = self.value(shape, number);
        let name = format!("n{}", self.0.nodes.len());
        self.0.nodes.push(Node { name, op, inputs: inputs.into(), output });
        output
    }

    fn shape(&self, id: ValueId) -> TVec<usize> {
        self.0.values[id.0].shape.clone()
    }

    fn output(mut self, id: ValueId) -> Graph {
        self.0.outputs.push(id);
        self.0
    }
}

/// How outputs must agree with the interpreter.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Expect {
    /// Bit for bit.
    Same,
    /// Real-numbered functions: within this of the interpreter's; int8 within one step.
    Near(f32),
}

fn run(graph: &Graph, tier: Tier, inputs: &[Tensor]) -> Vec<Vec<u8>> {
    let plan = Plan::new(graph, tier).unwrap();
    let mut state = plan.state();
    let bytes: Vec<&[u8]> = inputs.iter().map(|t| t.as_bytes()).collect();
    let size = |id: &ValueId| {
        let value = &graph.values[id.0];
        value.shape.iter().product::<usize>() * if value.number == Number::F32 { 4 } else { 1 }
    };
    let mut first = vec![];
    // Twice: what the first run leaves in the arena must not matter.
    for round in 0..2 {
        // Room to begin at an address that f32 may have.
        let mut memory: Vec<Vec<u8>> = graph.outputs.iter().map(|id| vec![0; size(id) + 3]).collect();
        let mut slices: Vec<&mut [u8]> = memory
            .iter_mut()
            .zip(&graph.outputs)
            .map(|(bytes, id)| {
                let skip = bytes.as_ptr().align_offset(4);
                &mut bytes[skip..skip + size(id)]
            })
            .collect();
        plan.run(&mut state, &bytes, &mut slices).unwrap();
        let outputs: Vec<Vec<u8>> = slices.iter().map(|s| s.to_vec()).collect();
        if round == 0 {
            first = outputs;
        } else {
            assert_eq!(first, outputs, "the second run differs on {tier}");
        }
    }
    first
}

fn check(graph: &Graph, draw: &mut Draw, expect: Expect) {
    let inputs: Vec<Tensor> = graph.inputs.iter().map(|id| draw.tensor(&graph.values[id.0])).collect();
    let wanted = reference::run(graph, &inputs).unwrap();
    let mut of_scalar: Option<Vec<Vec<u8>>> = None;
    for tier in Tier::supported() {
        let got = run(graph, tier, &inputs);
        for ((got, wanted), id) in got.iter().zip(&wanted).zip(&graph.outputs) {
            let value = &graph.values[id.0];
            let wanted = wanted.as_bytes();
            let position = got.iter().zip(wanted).position(|(a, b)| a != b);
            match expect {
                Expect::Same => {
                    assert_eq!(position, None, "{tier}: {:?}\n got {got:?}\n wanted {wanted:?}", summary(graph));
                }
                Expect::Near(tolerance) if value.number == Number::F32 => {
                    for (g, w) in got.chunks_exact(4).zip(wanted.chunks_exact(4)) {
                        let (g, w) = (real(g), real(w));
                        assert!(
                            (g - w).abs() <= tolerance * (1.0 + w.abs()),
                            "{tier}: {g} for {w}, {:?}",
                            summary(graph)
                        );
                    }
                }
                Expect::Near(_) => {
                    for (g, w) in got.iter().zip(wanted) {
                        let step = g.wrapping_sub(*w) as i8;
                        assert!((-1..=1).contains(&step), "{tier}: {g} for {w}, {:?}", summary(graph));
                    }
                }
            }
        }
        let first = of_scalar.get_or_insert_with(|| got.clone());
        assert_eq!(*first, got, "{tier} is not as scalar: {:?}", summary(graph));
    }
}

fn real(bytes: &[u8]) -> f32 {
    f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Operators and values without the weights.
fn summary(graph: &Graph) -> Vec<String> {
    let name = |n: &Node| {
        let op = match &n.op {
            Op::Conv(c) => format!("Conv {:?} groups {} clamp {:?}", c.window, c.groups, c.clamp),
            Op::DynamicConv { conv: c, .. } => format!("DynamicConv {:?} groups {}", c.window, c.groups),
            Op::FullyConnected(_) => "FullyConnected".into(),
            Op::DynamicFullyConnected { .. } => "DynamicFullyConnected".into(),
            Op::Lut { .. } => "Lut".into(),
            op => format!("{op:?}"),
        };
        let values = n.inputs.iter().chain([&n.output]).map(|id| {
            let v = &graph.values[id.0];
            format!("{:?} {:?}", v.shape, v.number)
        });
        format!("{op}: {}", values.collect::<Vec<_>>().join(", "))
    };
    graph.nodes.iter().map(name).collect()
}

fn out_number(draw: &mut Draw, scale: f32) -> Number {
    if draw.range(0, 3) == 0 { Number::F32 } else { Number::Int(draw.affine(scale)) }
}

fn window(draw: &mut Draw, size: [usize; 2]) -> Option<(Window, [usize; 2])> {
    let window = Window {
        kernel: [draw.one_of(&[1, 2, 3, 3, 5]), draw.one_of(&[1, 2, 3, 3, 5, 7])],
        stride: [draw.range(1, 3), draw.range(1, 3)],
        dilation: [draw.one_of(&[1, 1, 2]), draw.one_of(&[1, 1, 2])],
        pad: std::array::from_fn(|_| draw.range(0, 2)),
    };
    let mut out = [0; 2];
    for axis in 0..2 {
        let have = size[axis] + window.pad[axis] + window.pad[axis + 2];
        let need = (window.kernel[axis] - 1) * window.dilation[axis] + 1;
        // A window that sees padding only is no use in a pool.
        if window.pad[axis] >= need || window.pad[axis + 2] >= need {
            return None;
        }
        out[axis] = have.checked_sub(need)? / window.stride[axis] + 1;
    }
    Some((window, out))
}

fn convolution(draw: &mut Draw, is_depthwise: bool, is_dynamic: bool) -> Graph {
    let (window, size, out) = loop {
        let size = [draw.range(1, 9), draw.range(1, 11)];
        if let Some((mut window, mut out)) = window(draw, size) {
            if draw.range(0, 4) == 0 {
                window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pad: [0; 4] };
                out = size;
            }
            break (window, size, out);
        }
    };
    let groups =
        if is_depthwise { draw.one_of(&[2, 3, 4, 8, 16, 17, 24, 32, 40]) } else { draw.one_of(&[1, 1, 1, 2, 3]) };
    let per_group = if is_depthwise { 1 } else { draw.range(1, 19) };
    let out_per_group = if is_depthwise { draw.one_of(&[1, 1, 1, 2]) } else { draw.range(1, 37) };
    let images = draw.one_of(&[1, 1, 2]);
    let out_channels = groups * out_per_group;
    let conv = Conv {
        window,
        groups,
        weights: draw.weights(out_channels, per_group * window.kernel[0] * window.kernel[1]),
        bias: if is_dynamic { vec![] } else { draw.bias(out_channels) },
        clamp: draw.clamp(),
    };
    let is_flat = draw.range(0, 5) == 0 && window.kernel[0] == 1 && window.stride[0] == 1;
    let (shape, out_shape): (Vec<usize>, Vec<usize>) = if is_flat && size[0] == 1 && out[0] == 1 {
        (vec![images, groups * per_group, size[1]], vec![images, out_channels, out[1]])
    } else {
        (vec![images, groups * per_group, size[0], size[1]], vec![images, out_channels, out[0], out[1]])
    };
    let mut b = Builder::default();
    let y = if is_dynamic {
        let x = b.input(&shape, Number::F32);
        let bias = if draw.coin() { vec![] } else { (0..out_channels).map(|_| draw.real()).collect() };
        b.node(Op::DynamicConv { conv, bias }, &[x], &out_shape, Number::F32)
    } else {
        let number = draw.int();
        let x = b.input(&shape, number);
        let number = out_number(draw, 0.5);
        b.node(Op::Conv(conv), &[x], &out_shape, number)
    };
    b.output(y)
}

fn fully_connected(draw: &mut Draw, is_dynamic: bool) -> Graph {
    let (len, columns) = (draw.range(1, 150), draw.range(1, 70));
    let lead: TVec<usize> = match draw.range(0, 2) {
        0 => tvec![1],
        1 => tvec![draw.range(1, 30)],
        _ => tvec![draw.range(1, 3), draw.range(1, 9)],
    };
    let with = |last: usize| lead.iter().copied().chain([last]).collect::<Vec<_>>();
    let product = FullyConnected {
        weights: draw.weights(columns, len),
        bias: if is_dynamic { vec![] } else { draw.bias(columns) },
        clamp: draw.clamp(),
    };
    let mut b = Builder::default();
    let y = if is_dynamic {
        let x = b.input(&with(len), Number::F32);
        let bias = if draw.coin() { vec![] } else { (0..columns).map(|_| draw.real()).collect() };
        b.node(Op::DynamicFullyConnected { product, bias }, &[x], &with(columns), Number::F32)
    } else {
        let number = draw.int();
        let x = b.input(&with(len), number);
        let number = out_number(draw, 0.5);
        b.node(Op::FullyConnected(product), &[x], &with(columns), number)
    };
    b.output(y)
}

/// Heads split off by a reshape and a transposition, multiplied, and joined again.
fn attention(draw: &mut Draw) -> Graph {
    let (batch, heads, tokens, width) = (draw.range(1, 2), draw.range(1, 3), draw.range(1, 20), draw.range(1, 20));
    let mut b = Builder::default();
    let split = |b: &mut Builder, draw: &mut Draw, perm: [usize; 4]| {
        let number = draw.int();
        let x = b.input(&[batch, tokens, heads * width], number);
        let x = b.node(Op::Reshape, &[x], &[batch, tokens, heads, width], number);
        let from = b.shape(x);
        let shape: Vec<usize> = perm.iter().map(|&p| from[p]).collect();
        b.node(Op::Transpose { perm: perm.into_iter().collect() }, &[x], &shape, number)
    };
    let q = split(&mut b, draw, [0, 2, 1, 3]);
    let k = split(&mut b, draw, [0, 2, 3, 1]);
    let v = split(&mut b, draw, [0, 2, 1, 3]);
    let number = Number::Int(draw.affine(0.3));
    let clamp = draw.clamp();
    let scores = b.node(Op::MatMul { clamp }, &[q, k], &[batch, heads, tokens, tokens], number);
    let number = out_number(draw, 0.5);
    let y = b.node(Op::MatMul { clamp: Clamp::NONE }, &[scores, v], &[batch, heads, tokens, width], number);
    let y = b.node(Op::Transpose { perm: tvec![0, 2, 1, 3] }, &[y], &[batch, tokens, heads, width], number);
    let y = b.node(Op::Reshape, &[y], &[batch, tokens, heads * width], number);
    b.output(y)
}

fn binary(draw: &mut Draw) -> Graph {
    let shape = [draw.range(1, 3), draw.range(1, 5), draw.range(1, 4), draw.range(1, 40)];
    let mut b = Builder::default();
    let (is_real, clamp) = (draw.coin(), draw.clamp());
    let number = |draw: &mut Draw| if is_real && draw.coin() { Number::F32 } else { draw.int() };
    let lower: Vec<usize> = match draw.range(0, 5) {
        0 => vec![shape[3]],
        1 => vec![1],
        2 => vec![shape[0], shape[1], 1, 1],
        3 => vec![shape[1], 1, shape[3]],
        _ => shape.to_vec(),
    };
    let n = number(draw);
    let x = b.input(&shape, n);
    let n = number(draw);
    let y = b.input(&lower, n);
    let inputs = if draw.coin() { [x, y] } else { [y, x] };
    let n = if is_real { number(draw) } else { draw.int() };
    let op = match (is_real, draw.coin()) {
        (false, false) => Op::Add { clamp },
        (false, true) => Op::Mul { clamp },
        (true, false) => Op::AddF32 { clamp },
        (true, true) => Op::MulF32 { clamp },
    };
    let y = b.node(op, &inputs, &shape, n);
    b.output(y)
}

fn pool(draw: &mut Draw) -> Graph {
    let (mut window, size, out) = loop {
        let size = [draw.range(1, 9), draw.range(1, 9)];
        if let Some((window, out)) = window(draw, size) {
            break (window, size, out);
        }
    };
    let (images, channels) = (draw.range(1, 2), draw.range(1, 40));
    let mut b = Builder::default();
    let number = draw.int();
    let x = b.input(&[images, channels, size[0], size[1]], number);
    let mut to = if draw.coin() { number } else { draw.int() };
    let mut out_shape = [images, channels, out[0], out[1]];
    let op = match draw.range(0, 2) {
        0 => {
            window.dilation = [1, 1];
            for axis in 0..2 {
                let have = size[axis] + window.pad[axis] + window.pad[axis + 2];
                out_shape[axis + 2] = (have - window.kernel[axis]) / window.stride[axis] + 1;
            }
            if (0..2).any(|a| window.pad[a] >= window.kernel[a] || window.pad[a + 2] >= window.kernel[a]) {
                window.pad = [0; 4];
                window.kernel = size;
                window.stride = [1, 1];
                (out_shape[2], out_shape[3]) = (1, 1);
            }
            Op::AveragePool { window, count_include_pad: draw.coin() }
        }
        1 => Op::MaxPool { window },
        _ => {
            let axes: TVec<usize> = draw.one_of(&[&[2usize, 3][..], &[1], &[3], &[1, 2]]).into();
            out_shape = [images, channels, size[0], size[1]];
            for &axis in &axes {
                out_shape[axis] = 1;
            }
            Op::ReduceMean { axes }
        }
    };
    if let (Op::ReduceMean { .. }, true) = (&op, draw.coin()) {
        to = draw.int();
    }
    let y = b.node(op, &[x], &out_shape, to);
    b.output(y)
}

/// Values moved about, joined, and looked up.
fn moves(draw: &mut Draw) -> Graph {
    let shape = [draw.range(1, 2), draw.range(1, 6), draw.range(1, 5), draw.range(1, 7)];
    let mut b = Builder::default();
    let is_real = draw.range(0, 3) == 0;
    let number = |draw: &mut Draw| if is_real { Number::F32 } else { draw.int() };
    let mut n = number(draw);
    let mut x = b.input(&shape, n);
    for _ in 0..draw.range(1, 5) {
        let from = b.shape(x);
        let next = if draw.range(0, 2) == 0 { number(draw) } else { n };
        x = match draw.range(0, 4) {
            0 => {
                let mut perm: TVec<usize> = (0..from.len()).collect();
                for i in (1..perm.len()).rev() {
                    perm.swap(i, draw.range(0, i));
                }
                let to: Vec<usize> = perm.iter().map(|&p| from[p]).collect();
                b.node(Op::Transpose { perm }, &[x], &to, next)
            }
            1 => {
                let len: usize = from.iter().product();
                let first = (1..=len).filter(|d| len.is_multiple_of(*d)).nth(draw.range(0, 1)).unwrap_or(1);
                b.node(Op::Reshape, &[x], &[first, len / first], next)
            }
            2 => {
                let axis = draw.range(0, from.len() - 1);
                let start = draw.range(0, from[axis] - 1);
                let mut to = from.clone();
                to[axis] = draw.range(1, from[axis] - start);
                b.node(Op::Slice { axis, start }, &[x], &to, next)
            }
            3 => {
                let axis = draw.range(0, from.len() - 1);
                let mut to = from.clone();
                to[axis] = from[axis] + draw.range(1, 4);
                let mut other = from.clone();
                other[axis] = to[axis] - from[axis];
                let other_number = number(draw);
                let other = b.input(&other, other_number);
                let inputs = if draw.coin() { [x, other] } else { [other, x] };
                b.node(Op::Concat { axis }, &inputs, &to, next)
            }
            _ if is_real => x,
            _ => {
                let mut table = Box::new([0u8; 256]);
                table.iter_mut().for_each(|t| *t = draw.next() as u8);
                b.node(Op::Lut { table }, &[x], &from, next)
            }
        };
        n = b.0.values[x.0].number;
    }
    if b.0.nodes.is_empty() {
        let shape = b.shape(x);
        x = b.node(Op::Reshape, &[x], &shape, n);
    }
    b.output(x)
}

/// A small network: quantized image, convolutions of all kinds, a sum, a pool, a classifier.
fn network(draw: &mut Draw) -> Graph {
    let (size, channels, wide) = (draw.range(4, 12), draw.one_of(&[1, 3, 4]), draw.one_of(&[8, 16, 24]));
    let mut b = Builder::default();
    let x = b.input(&[1, channels, size, size], Number::F32);
    let n = draw.int();
    let x = b.node(Op::Quantize, &[x], &[1, channels, size, size], n);
    let same = Window { kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pad: [1; 4] };
    let point = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pad: [0; 4] };
    let conv = |draw: &mut Draw, window: Window, groups: usize, from: usize| {
        let weights = draw.weights(wide, from / groups * window.kernel[0] * window.kernel[1]);
        Op::Conv(Conv { window, groups, weights, bias: draw.bias(wide), clamp: draw.clamp() })
    };
    let shape = [1, wide, size, size];
    let (op, n) = (conv(draw, same, 1, channels), Number::Int(draw.affine(0.5)));
    let stem = b.node(op, &[x], &shape, n);
    let (op, n) = (conv(draw, same, wide, wide), Number::Int(draw.affine(1.0)));
    let y = b.node(op, &[stem], &shape, n);
    let (op, n) = (conv(draw, point, 1, wide), Number::Int(draw.affine(2.0)));
    let y = b.node(op, &[y], &shape, n);
    let n = Number::Int(draw.affine(2.0));
    let y = b.node(Op::Add { clamp: draw.clamp() }, &[stem, y], &shape, n);
    let n = Number::Int(draw.affine(0.5));
    let whole = Window { kernel: [size, size], stride: [1, 1], dilation: [1, 1], pad: [0; 4] };
    let y = b.node(Op::AveragePool { window: whole, count_include_pad: false }, &[y], &[1, wide, 1, 1], n);
    let y = b.node(Op::Reshape, &[y], &[1, wide], n);
    let product = FullyConnected { weights: draw.weights(10, wide), bias: draw.bias(10), clamp: Clamp::NONE };
    let n = Number::Int(draw.affine(0.3));
    let y = b.node(Op::FullyConnected(product), &[y], &[1, 10], n);
    let y = b.node(Op::Dequantize, &[y], &[1, 10], Number::F32);
    b.output(y)
}

fn rows(draw: &mut Draw) -> Graph {
    let shape = [draw.range(1, 3), draw.range(1, 9), draw.range(2, 40)];
    let mut b = Builder::default();
    let number = |draw: &mut Draw| if draw.coin() { Number::F32 } else { draw.int() };
    let n = number(draw);
    let x = b.input(&shape, n);
    let per_element = |draw: &mut Draw| (0..shape[2]).map(|_| draw.real()).collect::<Vec<f32>>();
    let op = match draw.range(0, 3) {
        0 => Op::Softmax { axis: draw.range(0, 2) },
        1 => Op::LayerNorm {
            gain: per_element(draw),
            bias: if draw.coin() { per_element(draw) } else { vec![] },
            epsilon: 1e-5,
        },
        2 => Op::Affine {
            factor: if draw.coin() { per_element(draw) } else { vec![0.7] },
            offset: if draw.coin() { per_element(draw) } else { vec![-0.2] },
        },
        _ => Op::Gelu,
    };
    let n = number(draw);
    let y = b.node(op, &[x], &shape, n);
    b.output(y)
}

fn edges(draw: &mut Draw) -> Graph {
    let shape = [draw.range(1, 3), draw.range(1, 5), draw.range(1, 70)];
    let mut b = Builder::default();
    let x = b.input(&shape, Number::F32);
    let n = draw.int();
    let x = b.node(Op::Quantize, &[x], &shape, n);
    let n = draw.int();
    let x = b.node(Op::Requantize, &[x], &shape, n);
    let x = b.node(Op::Dequantize, &[x], &shape, Number::F32);
    b.output(x)
}

fn cases() -> ProptestConfig {
    // Emulators and Miri are slow.
    // an emulated CPU is given fewer
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    let cases = if cfg!(miri) { 2 } else { asked.unwrap_or(192) };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

macro_rules! same {
    ($($name:ident: $graph:expr, $expect:expr;)*) => {
        proptest! {
            #![proptest_config(cases())]
            $(
                #[test]
                fn $name(seed: u64) {
                    let mut draw = Draw(seed);
                    let make: fn(&mut Draw) -> Graph = $graph;
                    let graph = make(&mut draw);
                    check(&graph, &mut draw, $expect);
                }
            )*
        }
    };
}

same! {
    convolutions_equal_the_interpreter: |d| convolution(d, false, false), Expect::Same;
    depthwise_convolutions_equal_the_interpreter: |d| convolution(d, true, false), Expect::Same;
    dynamic_convolutions_equal_the_interpreter: |d| convolution(d, d.0 & 7 == 0, true), Expect::Same;
    matrices_equal_the_interpreter: |d| fully_connected(d, false), Expect::Same;
    dynamic_matrices_equal_the_interpreter: |d| fully_connected(d, true), Expect::Same;
    attention_equals_the_interpreter: attention, Expect::Same;
    sums_and_products_equal_the_interpreter: binary, Expect::Same;
    pools_equal_the_interpreter: pool, Expect::Same;
    moves_equal_the_interpreter: moves, Expect::Same;
    edges_equal_the_interpreter: edges, Expect::Same;
    networks_equal_the_interpreter: network, Expect::Same;
    rows_are_near_the_interpreter: rows, Expect::Near(2e-5);
}

/// A kernel follows pointers by strides that the file gives: these wrap around to small sizes.
#[test]
fn a_window_out_of_all_proportion_is_refused() {
    let value = |shape: &[usize]| Value {
        name: "v".into(),
        shape: TVec::from_slice(shape),
        number: Number::Int(Affine::new(0.1, 0, IntType::U8).unwrap()),
    };
    for (groups, stride) in [(16, 1 << 56), (1, 1 << 56), (16, usize::MAX / 16)] {
        let window = Window { kernel: [3, 3], stride: [1, stride], dilation: [1, 1], pad: [0, 0, 0, (1 << 60) + 16] };
        let data = vec![1; 16 * (16 / groups) * 9];
        let weights = Weights { data, scale: vec![0.1], zero_point: vec![0] };
        let conv = Conv { window, groups, weights, bias: vec![], clamp: Clamp::NONE };
        let node = Node { name: "n".into(), op: Op::Conv(conv), inputs: tvec!(ValueId(0)), output: ValueId(1) };
        let values = vec![value(&[1, 16, 3, 1]), value(&[1, 16, 1, 17])];
        let graph = Graph { values, nodes: vec![node], inputs: vec![ValueId(0)], outputs: vec![ValueId(1)] };
        let error = format!("{:#}", Plan::new(&graph, Tier::best()).unwrap_err());
        assert!(error.contains("out of proportion"), "{error}");
    }
}

#[test]
fn a_value_without_elements_is_refused() {
    let number = Number::F32;
    let value = || Value { name: "v".into(), shape: tvec![1, 0, 3], number };
    let node = Node { name: "n".into(), op: Op::Gelu, inputs: tvec!(ValueId(0)), output: ValueId(1) };
    let (inputs, outputs) = (vec![ValueId(0)], vec![ValueId(1)]);
    let graph = Graph { values: vec![value(), value()], nodes: vec![node], inputs, outputs };
    assert!(Plan::new(&graph, Tier::best()).unwrap_err().to_string().contains("`v` is [1, 0, 3]"));
}
