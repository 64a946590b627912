//! The integer reference: a [`Graph`] computed by plain loops, element by element, in the model's own order.
//!
//! Every kernel is tested against it bit for bit. It follows the table of
//! [`super::graph`] word for word and trades everything else for that: no packing, no layout, no reuse of memory. Sums
//! of reals (Softmax, LayerNorm, means) go in index order; kernels may sum in another and are compared within a
//! tolerance.

use tract_core::internal::*;

use super::graph::{Clamp, Conv, FullyConnected, Graph, Node, Number, Op, Value, ValueId, Weights, Window};
use super::{Affine, IntType};

/// Runs `graph` on `inputs` (f32, i8 or u8 as the values say) and returns its outputs.
///
/// # Errors
/// An input is missing or of another shape or type, or the graph contradicts itself; the message names the node.
pub(crate) fn run(graph: &Graph, inputs: &[Tensor]) -> TractResult<TVec<Tensor>> {
    ensure!(inputs.len() == graph.inputs.len(), "{} inputs given, expected {}", inputs.len(), graph.inputs.len());
    let mut values: Vec<Option<Array>> = vec![None; graph.values.len()];
    for (id, tensor) in graph.inputs.iter().zip(inputs) {
        let value = value_of(graph, *id)?;
        values[id.0] = Some(Array::from_tensor(tensor, value).with_context(|| format!("value `{}`", value.name))?);
    }
    for node in &graph.nodes {
        let output = value_of(graph, node.output)?;
        let operands = node
            .inputs
            .iter()
            .map(|id| values.get(id.0).and_then(Option::as_ref).context("an operand is not computed yet"))
            .collect::<TractResult<TVec<&Array>>>();
        let array = operands
            .and_then(|operands| compute(node, &operands, output))
            .with_context(|| format!("node `{}`", node.name))?;
        ensure!(
            array.data.len() == volume(&output.shape),
            "node `{}` made {} elements, expected {:?}",
            node.name,
            array.data.len(),
            output.shape
        );
        values[node.output.0] = Some(array);
    }
    graph
        .outputs
        .iter()
        .map(|id| values[id.0].as_ref().context("an output is never computed").and_then(Array::to_tensor))
        .collect()
}

fn value_of(graph: &Graph, id: ValueId) -> TractResult<&Value> {
    graph.values.get(id.0).with_context(|| format!("value {} of {}", id.0, graph.values.len()))
}

/// Elements of a value, integers widened.
#[derive(Clone, Debug, PartialEq)]
enum Data {
    Real(Vec<f32>),
    Int(Vec<i32>),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::Real(x) => x.len(),
            Data::Int(x) => x.len(),
        }
    }
}

/// A computed value: elements in row-major order of `shape`.
#[derive(Clone, Debug)]
struct Array {
    shape: TVec<usize>,
    number: Number,
    data: Data,
}

impl Array {
    fn from_tensor(tensor: &Tensor, value: &Value) -> TractResult<Self> {
        ensure!(tensor.shape() == &value.shape[..], "has shape {:?}, expected {:?}", tensor.shape(), value.shape);
        let plain = tensor.try_as_plain_ram()?;
        let data = match value.number {
            Number::F32 => Data::Real(plain.as_slice::<f32>()?.to_vec()),
            Number::Int(Affine { int: IntType::I8, .. }) => {
                Data::Int(plain.as_slice::<i8>()?.iter().map(|&q| i32::from(q)).collect())
            }
            Number::Int(Affine { int: IntType::U8, .. }) => {
                Data::Int(plain.as_slice::<u8>()?.iter().map(|&q| i32::from(q)).collect())
            }
        };
        Ok(Array { shape: value.shape.clone(), number: value.number, data })
    }

    fn to_tensor(&self) -> TractResult<Tensor> {
        match (&self.data, self.number) {
            (Data::Real(x), _) => Tensor::from_shape(&self.shape, x),
            (Data::Int(q), Number::Int(Affine { int: IntType::U8, .. })) => {
                Tensor::from_shape(&self.shape, &q.iter().map(|&q| q as u8).collect::<Vec<_>>())
            }
            (Data::Int(q), _) => Tensor::from_shape(&self.shape, &q.iter().map(|&q| q as i8).collect::<Vec<_>>()),
        }
    }

    /// Parameters of an int8 value.
    fn affine(&self) -> TractResult<Affine> {
        match self.number {
            Number::Int(affine) => Ok(affine),
            Number::F32 => bail!("an operand is f32, expected int8"),
        }
    }

    /// `x - z_x` of every element.
    fn centred(&self) -> TractResult<Vec<i32>> {
        let zero_point = self.affine()?.zero_point;
        match &self.data {
            Data::Int(q) => Ok(q.iter().map(|q| q - zero_point).collect()),
            Data::Real(_) => bail!("an operand is f32, expected int8"),
        }
    }

    /// Dequantized where it is int8.
    fn real(&self) -> Vec<f32> {
        match (&self.data, self.number) {
            (Data::Real(x), _) => x.clone(),
            (Data::Int(q), Number::Int(a)) => q.iter().map(|q| (q - a.zero_point) as f32 * a.scale).collect(),
            (Data::Int(q), Number::F32) => q.iter().map(|q| *q as f32).collect(),
        }
    }

    /// The same value under the parameters of `number`: what the operators that move values do first.
    fn requantized(&self, number: Number) -> TractResult<Data> {
        match (self.number, number) {
            (Number::Int(from), Number::Int(to)) if from != to => {
                let factor = from.scale / to.scale;
                Ok(Data::Int(self.centred()?.iter().map(|&q| saturate(q as f32 * factor, &to, &Clamp::NONE)).collect()))
            }
            (Number::F32, Number::Int(_)) | (Number::Int(_), Number::F32) => bail!("cannot move f32 to int8 or back"),
            _ => Ok(self.data.clone()),
        }
    }
}

/// `clamp(round(x) + z)`: `x` is already in units of the scale. NaN gives the zero point.
fn saturate(x: f32, affine: &Affine, clamp: &Clamp) -> i32 {
    let (lo, hi) = affine.centred_range();
    // monotonic, so that the bounds of a fused activation are quantized like any value
    let quantized = |x: f32| x.round_ties_even().clamp(lo, hi);
    let centred = if x.is_nan() { 0.0 } else { quantized(x) };
    let bound = |real: f32| quantized(real / affine.scale);
    let centred = centred.max(bound(clamp.lo)).min(bound(clamp.hi));
    centred as i32 + affine.zero_point
}

fn clamped(x: f32, clamp: &Clamp) -> f32 {
    // comparisons, so that NaN passes
    let x = if x < clamp.lo { clamp.lo } else { x };
    if x > clamp.hi { clamp.hi } else { x }
}

/// Real-numbered results as the output's elements.
fn store(real: Vec<f32>, number: Number, clamp: &Clamp) -> Data {
    match number {
        Number::F32 => Data::Real(real.into_iter().map(|x| clamped(x, clamp)).collect()),
        Number::Int(a) => {
            Data::Int(real.into_iter().map(|x| saturate(clamped(x, clamp) / a.scale, &a, clamp)).collect())
        }
    }
}

/// Accumulators as the output's elements; `scale` is `s_x * s_w` of the element.
fn store_product(acc: i32, scale: f32, number: Number, clamp: &Clamp, data: &mut Data) {
    match (number, data) {
        (Number::Int(a), Data::Int(out)) => out.push(saturate(acc as f32 * (scale / a.scale), &a, clamp)),
        (_, Data::Real(out)) => out.push(clamped(acc as f32 * scale, clamp)),
        (Number::F32, Data::Int(_)) => {}
    }
}

fn empty(number: Number) -> Data {
    match number {
        Number::F32 => Data::Real(Vec::new()),
        Number::Int(_) => Data::Int(Vec::new()),
    }
}

fn volume(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Elements from one index of an axis to the next, per axis.
fn strides(shape: &[usize]) -> TVec<usize> {
    let mut strides: TVec<usize> = tvec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Calls `f` with every index of `shape`, in row-major order.
fn for_each_index(shape: &[usize], mut f: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut index: TVec<usize> = tvec![0; shape.len()];
    loop {
        f(&index);
        let Some(axis) = (0..shape.len()).rev().find(|&a| index[a] + 1 < shape[a]) else { return };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}

/// Offset of `index` (of a broadcast result) in an operand of `shape`, aligned at the last axis as numpy does.
fn broadcast_offset(index: &[usize], shape: &[usize]) -> usize {
    let strides = strides(shape);
    let skip = index.len() - shape.len();
    (0..shape.len()).map(|axis| if shape[axis] == 1 { 0 } else { index[axis + skip] * strides[axis] }).sum()
}

fn compute(node: &Node, operands: &[&Array], output: &Value) -> TractResult<Array> {
    let done = |data: Data| Ok(Array { shape: output.shape.clone(), number: output.number, data });
    let expected = match &node.op {
        Op::MatMul { .. } | Op::Add { .. } | Op::Mul { .. } | Op::AddF32 { .. } | Op::MulF32 { .. } => 2,
        Op::Concat { .. } => operands.len().max(1),
        _ => 1,
    };
    ensure!(operands.len() == expected, "{} operands, expected {expected}", operands.len());
    let x = operands[0];
    match &node.op {
        Op::Quantize | Op::Dequantize => done(store(x.real(), output.number, &Clamp::NONE)),
        Op::Requantize | Op::Reshape => done(x.requantized(output.number)?),
        Op::Conv(conv) => done(convolution(conv, x, output)?),
        Op::FullyConnected(product) => done(fully_connected(product, x, output)?),
        Op::DynamicFullyConnected { product, bias } => {
            let unbounded = FullyConnected { clamp: Clamp::NONE, ..product.clone() };
            let plain = fully_connected(&unbounded, &dynamically_quantized(x)?, output)?;
            done(with_bias(plain, bias, output.shape.len() - 1, &output.shape, &product.clamp)?)
        }
        Op::DynamicConv { conv, bias } => {
            let unbounded = Conv { clamp: Clamp::NONE, ..conv.clone() };
            let plain = convolution(&unbounded, &dynamically_quantized(x)?, output)?;
            done(with_bias(plain, bias, 1, &output.shape, &conv.clamp)?)
        }
        Op::MatMul { clamp } => done(matmul(x, operands[1], output, clamp)?),
        Op::Add { clamp } => {
            let (a, b) = (x.affine()?, operands[1].affine()?);
            let Number::Int(y) = output.number else { bail!("the sum is f32, expected int8") };
            let (fa, fb) = (a.scale / y.scale, b.scale / y.scale);
            let zero = y.zero_point as f32;
            let sum = |a: i32, b: i32| {
                let sum = (a as f32).mul_add(fa, (b as f32).mul_add(fb, zero));
                saturate(sum.round_ties_even() - zero, &y, clamp)
            };
            done(Data::Int(element_wise(&x.centred()?, x, &operands[1].centred()?, operands[1], output, sum)?))
        }
        Op::Mul { clamp } => {
            let (a, b) = (x.affine()?, operands[1].affine()?);
            let Number::Int(y) = output.number else { bail!("the product is f32, expected int8") };
            let factor = a.scale * b.scale / y.scale;
            let product = |a: i32, b: i32| saturate((a * b) as f32 * factor, &y, clamp);
            done(Data::Int(element_wise(&x.centred()?, x, &operands[1].centred()?, operands[1], output, product)?))
        }
        Op::AddF32 { clamp } => {
            let sum = element_wise(&x.real(), x, &operands[1].real(), operands[1], output, |a, b| a + b)?;
            done(store(sum, output.number, clamp))
        }
        Op::MulF32 { clamp } => {
            let product = element_wise(&x.real(), x, &operands[1].real(), operands[1], output, |a, b| a * b)?;
            done(store(product, output.number, clamp))
        }
        Op::Concat { axis } => done(concat(operands, *axis, output)?),
        Op::AveragePool { window, count_include_pad } => done(average_pool(window, *count_include_pad, x, output)?),
        Op::MaxPool { window } => done(max_pool(window, x, output)?),
        Op::Lut { table } => {
            let (Data::Int(q), Number::Int(to)) = (&x.data, output.number) else { bail!("a table needs int8") };
            let look = |&q: &i32| match to.int {
                IntType::I8 => i32::from(table[q as u8 as usize] as i8),
                IntType::U8 => i32::from(table[q as u8 as usize]),
            };
            done(Data::Int(q.iter().map(look).collect()))
        }
        Op::Softmax { axis } => done(store(softmax(&x.real(), &x.shape, *axis), output.number, &Clamp::NONE)),
        Op::LayerNorm { gain, bias, epsilon } => {
            done(store(layer_norm(&x.real(), gain, bias, *epsilon)?, output.number, &Clamp::NONE))
        }
        Op::Gelu => done(store(x.real().into_iter().map(gelu).collect(), output.number, &Clamp::NONE)),
        Op::Affine { factor, offset } => {
            let at = |of: &[f32], i: usize| if of.len() == 1 { of[0] } else { of[i % of.len()] };
            ensure!(!factor.is_empty() && !offset.is_empty(), "factor or offset is empty");
            let y = x.real().into_iter().enumerate().map(|(i, x)| x * at(factor, i) + at(offset, i)).collect();
            done(store(y, output.number, &Clamp::NONE))
        }
        Op::ReduceMean { axes } => done(reduce_mean(axes, x, output)?),
        Op::Transpose { perm } => {
            let source = strides(&x.shape);
            done(gather(x, output, |index| perm.iter().zip(index).map(|(&p, &i)| i * source[p]).sum())?)
        }
        Op::Slice { axis, start } => {
            let source = strides(&x.shape);
            done(gather(x, output, |index| {
                index.iter().zip(&source).map(|(i, s)| i * s).sum::<usize>() + start * source[*axis]
            })?)
        }
    }
}

/// Elements of `x` at the offsets that `at` gives for every index of the output.
fn gather(x: &Array, output: &Value, at: impl Fn(&[usize]) -> usize) -> TractResult<Data> {
    let mut offsets = Vec::new();
    for_each_index(&output.shape, |index| offsets.push(at(index)));
    Ok(match x.requantized(output.number)? {
        Data::Real(x) => Data::Real(offsets.iter().map(|&o| x[o]).collect()),
        Data::Int(x) => Data::Int(offsets.iter().map(|&o| x[o]).collect()),
    })
}

fn element_wise<T: Copy, U>(
    a: &[T],
    a_of: &Array,
    b: &[T],
    b_of: &Array,
    output: &Value,
    f: impl Fn(T, T) -> U,
) -> TractResult<Vec<U>> {
    let rank = output.shape.len();
    for shape in [&a_of.shape, &b_of.shape] {
        ensure!(shape.len() <= rank, "operand {shape:?} does not broadcast to {:?}", output.shape);
    }
    let mut out = Vec::new();
    for_each_index(&output.shape, |index| {
        out.push(f(a[broadcast_offset(index, &a_of.shape)], b[broadcast_offset(index, &b_of.shape)]));
    });
    Ok(out)
}

/// Scale and zero point of an output channel.
fn of_channel<T: Copy>(of: &[T], channel: usize) -> T {
    if of.len() == 1 { of[0] } else { of[channel] }
}

/// `[N, C, H, W]` of an image of rank 3 or 4.
fn image(shape: &[usize]) -> TractResult<[usize; 4]> {
    match *shape {
        [n, c, w] => Ok([n, c, 1, w]),
        [n, c, h, w] => Ok([n, c, h, w]),
        _ => bail!("shape is {shape:?}, expected [N, C, W] or [N, C, H, W]"),
    }
}

/// Where a window looks: the input's row or column, if it is inside.
fn tap(out: usize, k: usize, axis: usize, window: &Window, len: usize) -> Option<usize> {
    (out * window.stride[axis] + k * window.dilation[axis]).checked_sub(window.pad[axis]).filter(|at| *at < len)
}

fn convolution(conv: &Conv, x: &Array, output: &Value) -> TractResult<Data> {
    let [_, channels, height, width] = image(&x.shape)?;
    let out = image(&output.shape)?;
    let [kh, kw] = conv.window.kernel;
    let per_group = channels / conv.groups;
    let out_per_group = out[1] / conv.groups;
    let Weights { data, scale, zero_point } = &conv.weights;
    ensure!(
        data.len() == out[1] * per_group * kh * kw,
        "{} weights, expected {:?}",
        data.len(),
        [out[1], per_group, kh, kw]
    );
    let (centred, affine) = (x.centred()?, x.affine()?);
    let mut result = empty(output.number);
    for_each_index(&out, |index| {
        let (n, o, oy, ox) = (index[0], index[1], index[2], index[3]);
        let mut acc = conv.bias.get(o).copied().unwrap_or(0);
        for c in 0..per_group {
            for ky in 0..kh {
                for kx in 0..kw {
                    let (Some(iy), Some(ix)) =
                        (tap(oy, ky, 0, &conv.window, height), tap(ox, kx, 1, &conv.window, width))
                    else {
                        continue;
                    };
                    let channel = o / out_per_group * per_group + c;
                    let x = centred[((n * channels + channel) * height + iy) * width + ix];
                    let w = i32::from(data[((o * per_group + c) * kh + ky) * kw + kx]) - of_channel(zero_point, o);
                    acc = acc.wrapping_add(x * w);
                }
            }
        }
        store_product(acc, affine.scale * of_channel(scale, o), output.number, &conv.clamp, &mut result);
    });
    Ok(result)
}

fn fully_connected(product: &FullyConnected, x: &Array, output: &Value) -> TractResult<Data> {
    let (Some(&inner), Some(&outer)) = (x.shape.last(), output.shape.last()) else { bail!("an operand is a scalar") };
    let Weights { data, scale, zero_point } = &product.weights;
    ensure!(data.len() == outer * inner, "{} weights, expected {:?}", data.len(), [outer, inner]);
    let (centred, affine) = (x.centred()?, x.affine()?);
    let mut result = empty(output.number);
    for row in centred.chunks(inner) {
        for o in 0..outer {
            let mut acc = product.bias.get(o).copied().unwrap_or(0);
            for (x, w) in row.iter().zip(&data[o * inner..][..inner]) {
                acc = acc.wrapping_add(x * (i32::from(*w) - of_channel(zero_point, o)));
            }
            store_product(acc, affine.scale * of_channel(scale, o), output.number, &product.clamp, &mut result);
        }
    }
    Ok(result)
}

/// ONNX DynamicQuantizeLinear: u8, with a range that holds zero.
fn dynamically_quantized(x: &Array) -> TractResult<Array> {
    let real = x.real();
    let affine = Affine::dynamic(&real)?;
    let data = store(real, Number::Int(affine), &Clamp::NONE);
    Ok(Array { shape: x.shape.clone(), number: Number::Int(affine), data })
}

fn with_bias(data: Data, bias: &[f32], axis: usize, shape: &[usize], clamp: &Clamp) -> TractResult<Data> {
    let Data::Real(mut y) = data else { bail!("a dynamic product is int8, expected f32") };
    let inner = volume(&shape[axis + 1..]);
    for (i, y) in y.iter_mut().enumerate() {
        if !bias.is_empty() {
            *y += bias[i / inner % bias.len()];
        }
        *y = clamped(*y, clamp);
    }
    Ok(Data::Real(y))
}

fn matmul(a: &Array, b: &Array, output: &Value, clamp: &Clamp) -> TractResult<Data> {
    let (ra, rb, rank) = (a.shape.len(), b.shape.len(), output.shape.len());
    ensure!(ra >= 2 && rb >= 2 && rank >= 2, "operands {:?} and {:?}, expected matrices", a.shape, b.shape);
    let (inner, columns) = (a.shape[ra - 1], b.shape[rb - 1]);
    ensure!(b.shape[rb - 2] == inner, "operands {:?} and {:?} do not multiply", a.shape, b.shape);
    let (qa, qb) = (a.centred()?, b.centred()?);
    let scale = a.affine()?.scale * b.affine()?.scale;
    let mut result = empty(output.number);
    for_each_index(&output.shape, |index| {
        let (batch, row, column) = (&index[..rank - 2], index[rank - 2], index[rank - 1]);
        let a_at = broadcast_offset(batch, &a.shape[..ra - 2]) * a.shape[ra - 2] * inner + row * inner;
        let b_at = broadcast_offset(batch, &b.shape[..rb - 2]) * inner * columns + column;
        let mut acc = 0i32;
        for k in 0..inner {
            acc = acc.wrapping_add(qa[a_at + k] * qb[b_at + k * columns]);
        }
        store_product(acc, scale, output.number, clamp, &mut result);
    });
    Ok(result)
}

fn concat(operands: &[&Array], axis: usize, output: &Value) -> TractResult<Data> {
    let outer = volume(&output.shape[..axis]);
    let mut result = empty(output.number);
    let parts = operands.iter().map(|x| x.requantized(output.number)).collect::<TractResult<Vec<_>>>()?;
    for i in 0..outer {
        for (x, part) in operands.iter().zip(&parts) {
            let run = volume(&x.shape[axis..]);
            match (&mut result, part) {
                (Data::Real(out), Data::Real(part)) => out.extend(&part[i * run..][..run]),
                (Data::Int(out), Data::Int(part)) => out.extend(&part[i * run..][..run]),
                _ => bail!("operands are both f32 and int8"),
            }
        }
    }
    Ok(result)
}

/// Calls `f` for every output element of a window operator with the offsets of the inputs it sees.
fn for_each_window(window: &Window, x: &Array, output: &Value, mut f: impl FnMut(&[usize])) -> TractResult<()> {
    let [_, channels, height, width] = image(&x.shape)?;
    for_each_index(&image(&output.shape)?, |index| {
        let (n, c, oy, ox) = (index[0], index[1], index[2], index[3]);
        let mut seen: TVec<usize> = tvec![];
        for ky in 0..window.kernel[0] {
            for kx in 0..window.kernel[1] {
                if let (Some(iy), Some(ix)) = (tap(oy, ky, 0, window, height), tap(ox, kx, 1, window, width)) {
                    seen.push(((n * channels + c) * height + iy) * width + ix);
                }
            }
        }
        f(&seen);
    });
    Ok(())
}

fn average_pool(window: &Window, count_include_pad: bool, x: &Array, output: &Value) -> TractResult<Data> {
    let (Number::Int(from), Number::Int(to)) = (x.number, output.number) else { bail!("a pool is f32, expected int8") };
    let centred = x.centred()?;
    let mut out = Vec::new();
    for_each_window(window, x, output, |seen| {
        let n = if count_include_pad { volume(&window.kernel) } else { seen.len() };
        let sum: i32 = seen.iter().map(|&o| centred[o]).sum();
        out.push(saturate(sum as f32 * (from.scale / (to.scale * n as f32)), &to, &Clamp::NONE));
    })?;
    Ok(Data::Int(out))
}

/// A window that lies in the padding altogether gives the smallest value of the input's type.
fn max_pool(window: &Window, x: &Array, output: &Value) -> TractResult<Data> {
    let data = match (&x.data, x.number) {
        (Data::Int(q), Number::Int(affine)) => {
            let mut out = Vec::new();
            let lowest = affine.int.range().0;
            for_each_window(window, x, output, |seen| out.push(seen.iter().map(|&o| q[o]).max().unwrap_or(lowest)))?;
            Data::Int(out)
        }
        (Data::Real(r), _) => {
            let mut out = Vec::new();
            for_each_window(window, x, output, |seen| {
                out.push(seen.iter().map(|&o| r[o]).fold(f32::NEG_INFINITY, f32::max));
            })?;
            Data::Real(out)
        }
        (Data::Int(_), Number::F32) => bail!("a pool of integers has no parameters"),
    };
    Array { shape: output.shape.clone(), number: x.number, data }.requantized(output.number)
}

fn reduce_mean(axes: &[usize], x: &Array, output: &Value) -> TractResult<Data> {
    let kept: TVec<usize> = x.shape.iter().enumerate().map(|(a, d)| if axes.contains(&a) { 1 } else { *d }).collect();
    let n = axes.iter().map(|&a| x.shape[a]).product::<usize>();
    let at = |index: &[usize]| broadcast_offset(index, &kept);
    let mut offset = 0;
    if let (Number::Int(from), Number::Int(to)) = (x.number, output.number) {
        let centred = x.centred()?;
        let mut sums = vec![0i32; volume(&kept)];
        for_each_index(&x.shape, |index| {
            sums[at(index)] += centred[offset];
            offset += 1;
        });
        let factor = from.scale / (to.scale * n as f32);
        return Ok(Data::Int(sums.iter().map(|&s| saturate(s as f32 * factor, &to, &Clamp::NONE)).collect()));
    }
    let real = x.real();
    let mut sums = vec![0f32; volume(&kept)];
    for_each_index(&x.shape, |index| {
        sums[at(index)] += real[offset];
        offset += 1;
    });
    Ok(store(sums.iter().map(|s| s / n as f32).collect(), output.number, &Clamp::NONE))
}

fn softmax(x: &[f32], shape: &[usize], axis: usize) -> Vec<f32> {
    let (len, inner) = (shape[axis], volume(&shape[axis + 1..]));
    let mut y = vec![0f32; x.len()];
    for first in (0..x.len()).filter(|i| i / inner % len == 0) {
        let lane = || (0..len).map(|k| first + k * inner);
        let max = lane().map(|i| x[i]).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0f32;
        for i in lane() {
            y[i] = (x[i] - max).exp();
            sum += y[i];
        }
        for i in lane() {
            y[i] /= sum;
        }
    }
    y
}

fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32], epsilon: f32) -> TractResult<Vec<f32>> {
    ensure!(!gain.is_empty() && x.len().is_multiple_of(gain.len()), "{} gains for {} elements", gain.len(), x.len());
    ensure!(bias.is_empty() || bias.len() == gain.len(), "{} biases, expected {}", bias.len(), gain.len());
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(gain.len()) {
        let n = row.len() as f32;
        let mean = row.iter().sum::<f32>() / n;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        let deviation = (variance + epsilon).sqrt();
        for (i, x) in row.iter().enumerate() {
            y.push((x - mean) / deviation * gain[i] + bias.get(i).copied().unwrap_or(0.0));
        }
    }
    Ok(y)
}

fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))) as f32
}

/// Maclaurin series: exact to 1e-9 where it is not 1 to within 2e-8.
fn erf(x: f64) -> f64 {
    if x.abs() >= 4.0 || x.is_nan() {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(scale: f32, zero_point: i32, int: IntType) -> Number {
        Number::Int(Affine::new(scale, zero_point, int).unwrap())
    }

    fn value(shape: &[usize], number: Number) -> Value {
        Value { name: String::new(), shape: shape.into(), number }
    }

    /// One operator on `inputs`, each in row-major order as reals or as int8.
    fn check(op: Op, inputs: &[(&[usize], Number, &[i32])], output: (&[usize], Number), expect: &[f32]) {
        let mut values: Vec<Value> = inputs.iter().map(|(shape, number, _)| value(shape, *number)).collect();
        values.push(value(output.0, output.1));
        let ids: TVec<ValueId> = (0..inputs.len()).map(ValueId).collect();
        let last = ValueId(inputs.len());
        let node = Node { name: "n".into(), op, inputs: ids.clone(), output: last };
        let graph = Graph { values, nodes: vec![node], inputs: ids.to_vec(), outputs: vec![last] };
        let tensors: Vec<Tensor> = inputs
            .iter()
            .map(|(shape, number, q)| {
                let data = match number {
                    Number::F32 => Data::Real(q.iter().map(|q| *q as f32).collect()),
                    Number::Int(_) => Data::Int(q.to_vec()),
                };
                Array { shape: (*shape).into(), number: *number, data }.to_tensor().unwrap()
            })
            .collect();
        let found = run(&graph, &tensors).unwrap();
        let found = found[0].cast_to::<f32>().unwrap();
        assert_eq!(found.shape(), output.0, "{:?}", graph.nodes[0].op);
        let found = found.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
        assert_eq!(found, expect, "{:?}", graph.nodes[0].op);
    }

    fn weights(data: &[i8], scale: &[f32], zero_point: &[i32]) -> Weights {
        Weights { data: data.to_vec(), scale: scale.to_vec(), zero_point: zero_point.to_vec() }
    }

    const U8: IntType = IntType::U8;
    const I8: IntType = IntType::I8;

    #[test]
    fn products_have_zero_points_channel_scales_bias_and_bounds() {
        let product = |clamp: Clamp| {
            Op::FullyConnected(FullyConnected {
                weights: weights(&[1, 2, -3, 4], &[1.0, 0.5], &[0, 1]),
                bias: vec![10, -1],
                clamp,
            })
        };
        let x: (&[usize], Number, &[i32]) = (&[1, 2], int(0.5, 3, U8), &[5, 1]);
        // centred 2, -2: 10 + 2 - 4 = 8; -1 + 2 * -4 + -2 * 3 = -15
        check(product(Clamp::NONE), &[x], (&[1, 2], Number::F32), &[4.0, -3.75]);
        check(product(Clamp { lo: 0.0, hi: 3.0 }), &[x], (&[1, 2], Number::F32), &[3.0, 0.0]);
        check(product(Clamp::NONE), &[x], (&[1, 2], int(0.1, -100, I8)), &[-60.0, -128.0]);
        check(product(Clamp { lo: 0.0, hi: 3.0 }), &[x], (&[1, 2], int(0.1, -100, I8)), &[-70.0, -100.0]);
    }

    #[test]
    fn a_convolution_pads_with_the_zero_point_and_keeps_its_groups_apart() {
        let window = Window { kernel: [1, 3], stride: [1, 2], dilation: [1, 1], pad: [0, 1, 0, 1] };
        let conv = Conv {
            window,
            groups: 2,
            weights: weights(&[1, 1, 1, 0, 1, 0], &[1.0], &[0]),
            bias: vec![],
            clamp: Clamp::NONE,
        };
        let x: (&[usize], Number, &[i32]) = (&[1, 2, 4], int(1.0, 1, U8), &[2, 3, 4, 5, 7, 8, 9, 10]);
        check(Op::Conv(conv), &[x], (&[1, 2, 2], Number::F32), &[3.0, 9.0, 6.0, 8.0]);
    }

    #[test]
    fn halves_round_to_even() {
        let x: (&[usize], Number, &[i32]) = (&[4], int(1.0, 0, I8), &[1, 3, 5, -3]);
        check(Op::Requantize, &[x], (&[4], int(2.0, 0, I8)), &[0.0, 2.0, 2.0, -2.0]);
        let zero: (&[usize], Number, &[i32]) = (&[1], int(3.0, 5, U8), &[5]);
        check(Op::Add { clamp: Clamp::NONE }, &[x, zero], (&[4], int(2.0, 10, U8)), &[10.0, 12.0, 12.0, 8.0]);
    }

    #[test]
    fn operands_broadcast_as_numpy_does() {
        let a: (&[usize], Number, &[i32]) = (&[2, 1], int(1.0, 0, I8), &[1, 2]);
        let b: (&[usize], Number, &[i32]) = (&[3], int(2.0, 1, U8), &[1, 2, 3]);
        check(Op::Mul { clamp: Clamp::NONE }, &[a, b], (&[2, 3], int(1.0, 0, I8)), &[0., 2., 4., 0., 4., 8.]);
        check(Op::AddF32 { clamp: Clamp::NONE }, &[a, b], (&[2, 3], Number::F32), &[1., 3., 5., 2., 4., 6.]);
    }

    #[test]
    fn a_batched_product_shares_its_second_operand() {
        let a: (&[usize], Number, &[i32]) = (&[2, 1, 2], int(1.0, 0, I8), &[1, 2, 3, 4]);
        let b: (&[usize], Number, &[i32]) = (&[2, 2], int(0.5, 1, U8), &[1, 2, 3, 4]);
        check(Op::MatMul { clamp: Clamp::NONE }, &[a, b], (&[2, 1, 2], Number::F32), &[2.0, 3.5, 4.0, 7.5]);
    }

    #[test]
    fn pools_count_what_they_see() {
        let window = Window { kernel: [2, 2], stride: [2, 2], dilation: [1, 1], pad: [1, 1, 0, 0] };
        let x: (&[usize], Number, &[i32]) = (&[1, 1, 3, 3], int(1.0, 0, I8), &[8, 1, 3, 4, 5, 6, 7, 8, -9]);
        let out = (&[1usize, 1, 2, 2][..], int(1.0, 0, I8));
        let average = |count_include_pad| Op::AveragePool { window, count_include_pad };
        check(average(false), &[x], out, &[8.0, 2.0, 6.0, 2.0]);
        check(average(true), &[x], out, &[2.0, 1.0, 3.0, 2.0]);
        check(Op::MaxPool { window }, &[x], out, &[8.0, 3.0, 7.0, 8.0]);
        check(Op::ReduceMean { axes: tvec![3] }, &[x], (&[1, 1, 3], int(1.0, 0, I8)), &[4.0, 5.0, 2.0]);
    }

    #[test]
    fn moves_keep_the_value_under_other_parameters() {
        let x: (&[usize], Number, &[i32]) = (&[2, 2], int(1.0, 0, I8), &[1, 2, 3, 4]);
        let out = int(0.5, 128, U8);
        check(Op::Transpose { perm: tvec![1, 0] }, &[x], (&[2, 2], out), &[130., 134., 132., 136.]);
        check(Op::Slice { axis: 1, start: 1 }, &[x], (&[2, 1], out), &[132., 136.]);
        check(Op::Concat { axis: 1 }, &[x, x], (&[2, 4], out), &[130., 132., 130., 132., 134., 136., 134., 136.]);
        let mut table = Box::new([0; 256]);
        table[255] = 0x80;
        check(Op::Lut { table }, &[(&[1], int(1.0, 0, I8), &[-1])], (&[1], int(1.0, 0, I8)), &[-128.0]);
    }

    #[test]
    fn real_numbered_operators_follow_their_definitions() {
        let x: (&[usize], Number, &[i32]) = (&[1, 2], Number::F32, &[0, 0]);
        check(Op::Softmax { axis: 1 }, &[x], (&[1, 2], Number::F32), &[0.5, 0.5]);
        let x: (&[usize], Number, &[i32]) = (&[2], Number::F32, &[-3, 3]);
        let norm = Op::LayerNorm { gain: vec![2.0, 2.0], bias: vec![0.0, 1.0], epsilon: 0.0 };
        check(norm, &[x], (&[2], Number::F32), &[-2.0, 3.0]);
        check(Op::Affine { factor: vec![2.0], offset: vec![0.0, 1.0] }, &[x], (&[2], Number::F32), &[-6.0, 7.0]);
        for (x, y) in [(0.0, 0.0), (1.0, 0.841_344_7), (-1.0, -0.158_655_26), (6.0, 6.0), (-9.0, 0.0)] {
            assert!((gelu(x) - y).abs() < 2e-7, "gelu({x}) is {}", gelu(x));
        }
    }

    #[test]
    fn a_dynamic_product_quantizes_as_onnx_says() {
        // the example of the operator's text: scale 0.0196078438, zero point 153
        let affine = Affine::dynamic(&[0.0, 2.0, -3.0, -2.5, 1.34, 0.5]).unwrap();
        assert_eq!((affine.scale, affine.zero_point), (0.019_607_844, 153));
        assert_eq!(Affine::dynamic(&[0.0]).unwrap().scale, 1.0);
        assert!(Affine::dynamic(&[f32::INFINITY]).is_err());
        let product = FullyConnected {
            weights: weights(&[1, 1], &[1.0], &[0]),
            bias: vec![],
            clamp: Clamp { lo: 0.0, hi: 255.0 },
        };
        let op = Op::DynamicFullyConnected { product, bias: vec![1.0] };
        check(op, &[(&[2, 2], Number::F32, &[0, 255, 100, 3])], (&[2, 1], Number::F32), &[255.0, 104.0]);
    }

    #[test]
    fn a_graph_that_contradicts_itself_is_an_error_that_names_the_node() {
        let values = vec![value(&[2], Number::F32), value(&[2], Number::F32)];
        let node = Node {
            name: "sum".into(),
            op: Op::Add { clamp: Clamp::NONE },
            inputs: tvec![ValueId(0)],
            output: ValueId(1),
        };
        let graph = Graph { values, nodes: vec![node], inputs: vec![ValueId(0)], outputs: vec![ValueId(1)] };
        let error = run(&graph, &[tensor1(&[1f32, 2.0])]).unwrap_err();
        assert!(format!("{error:#}").contains("node `sum`: 1 operands, expected 2"), "{error:#}");
    }
}
