//! What an integer island computes, before kernels, layouts and memory are chosen.
//!
//! The rewriter ([`super::rewriter`]) makes a [`Graph`] of every region of a typed model that quantization parameters
//! surround; the planner ([`super::plan`]) turns it into packed weights, a memory plan and a list of kernel calls. The
//! formulas below are the contract: the slow interpreter ([`super::reference`]) and every kernel tier give the same bits;
//! of Softmax, LayerNorm and Gelu only the tiers do, and the interpreter is within 2e-5 or one step.
//!
//! It deliberately knows nothing of tract's operators, of memory layout or of CPUs: shapes are those of the model (NCHW).
//!
//! # Formulas
//!
//! `s` is a scale, `z` a zero point, `clamp` saturates to the output's integer type and then to [`Clamp`]. All f32 arithmetic
//! is IEEE single precision in the written order, without fused multiply-add but where `fma(x, y, z)` is written. `round` is
//! half to even.
//!
//! | operator | output |
//! |---|---|
//! | Quantize | `clamp(round(x / s_y) + z_y)`, NaN gives `z_y` |
//! | Dequantize | `(x - z_x) as f32 * s_x` |
//! | Requantize | `clamp(round((x - z_x) as f32 * (s_x / s_y)) + z_y)` |
//! | Conv, FullyConnected, MatMul, int8 out | `clamp(round(acc as f32 * (s_x * s_w / s_y)) + z_y)` |
//! | the same, f32 out | `acc as f32 * (s_x * s_w)`, then [`Clamp`] in real numbers |
//! | `acc` (i32, wrapping) | `bias + sum((x - z_x) * (w - z_w))` |
//! | DynamicFullyConnected, DynamicConv | `x` quantized as ONNX DynamicQuantizeLinear (u8), then `acc as f32 * (s_x * s_w) + bias`, then [`Clamp`] |
//! | Add | `clamp(round(fma((a - z_a) as f32, s_a / s_y, fma((b - z_b) as f32, s_b / s_y, z_y as f32))))`: as onnxruntime's QLinearAdd |
//! | Mul | `clamp(round(((a - z_a) * (b - z_b)) as f32 * (s_a * s_b / s_y)) + z_y)` |
//! | AveragePool | `clamp(round(sum(x - z_x) as f32 * (s_x / (s_y * n as f32))) + z_y)`, `n` values in the window |
//! | MaxPool, Concat, Reshape, Transpose, Slice | values as they are, requantized first where parameters differ |
//! | Lut | `table[x as u8 bits]` |
//! | Softmax, LayerNorm, Gelu and f32 element-wise | on dequantized values in f32, quantized as Quantize where the output is int8 |
//!
//! Softmax, LayerNorm and Gelu are the row functions of [`super::kernel::real`]: sums in eight interleaved parts, and
//! reciprocals where its documentation says so. A sum of real numbers elsewhere (ReduceMean) runs in the order of the elements.
//! A product such as `s_x * s_w / s_y` is evaluated from the left, a quotient in parentheses first.

use tract_core::internal::TVec;

use super::Affine;

/// Index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ValueId(pub usize);

/// What the elements of a value are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    /// Real numbers as f32.
    F32,
    /// int8 with per-tensor parameters.
    Int(Affine),
}

/// A tensor that flows inside an island, or into or out of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value {
    /// For messages and `inspect`.
    pub name: String,
    /// Dimensions in the model's order (NCHW), all known.
    pub shape: TVec<usize>,
    /// Element type.
    pub number: Number,
}

/// One operator. `inputs` are runtime values only; constants are inside [`Op`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Name of the model's node that computes (`Conv_3`), for `inspect` and `bench`.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Runtime operands.
    pub inputs: TVec<ValueId>,
    /// The one result.
    pub output: ValueId,
}

/// A region of a model that works on int8 values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Graph {
    /// All values, in any order.
    pub values: Vec<Value>,
    /// Operators in an order in which each comes after what it reads.
    pub nodes: Vec<Node>,
    /// Values given from outside, in the order of the island's inputs.
    pub inputs: Vec<ValueId>,
    /// Values handed out, in the order of the island's outputs.
    pub outputs: Vec<ValueId>,
}

/// Bounds that a fused Relu or Clip puts on the real-numbered result; `NEG_INFINITY` and `INFINITY` where there is none.
/// For int8 outputs they are quantized like any value: quantizing is monotonic, so clamping after it is the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Clamp {
    /// Smallest result.
    pub lo: f32,
    /// Largest result.
    pub hi: f32,
}

impl Clamp {
    /// No bounds.
    pub(crate) const NONE: Clamp = Clamp { lo: f32::NEG_INFINITY, hi: f32::INFINITY };
}

/// Constant int8 weights. Unsigned weights are stored less 128, and so are their zero points.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weights {
    /// `[out, in / groups, kernel_h, kernel_w]` for convolutions, `[out, in]` for [`Op::FullyConnected`]; row-major.
    pub data: Vec<i8>,
    /// One, or one per output channel.
    pub scale: Vec<f32>,
    /// One, or one per output channel; 0 for symmetric weights.
    pub zero_point: Vec<i32>,
}

/// Sizes of a window that moves over an image. One-dimensional ones have height 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Down and right.
    pub stride: [usize; 2],
    /// Down and right.
    pub dilation: [usize; 2],
    /// Top, left, bottom, right.
    pub pad: [usize; 4],
}

impl Window {
    /// Pixels from the first that `out` windows see to the last, padding included, along `axis` (0: down, 1: right); None if
    /// that is more than there can be, which a damaged file may ask for.
    pub(crate) fn reach(&self, axis: usize, out: usize) -> Option<usize> {
        let far = |count: usize, step: usize| count.checked_sub(1)?.checked_mul(step);
        far(out, self.stride[axis])?.checked_add(far(self.kernel[axis], self.dilation[axis])?)?.checked_add(1)
    }
}

/// `Conv` with constant weights on `[N, C, H, W]` (or `[N, C, W]`). Padding is the input's zero point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conv {
    /// Kernel, stride, dilation, padding.
    pub window: Window,
    /// Groups; equal to the input's channels for a depthwise convolution.
    pub groups: usize,
    /// `[out, in / groups, kernel_h, kernel_w]`.
    pub weights: Weights,
    /// Per output channel, in units of `s_x * s_w`; empty: none.
    pub bias: Vec<i32>,
    /// Fused activation.
    pub clamp: Clamp,
}

/// The last axis times constant weights: `[.., in]` to `[.., out]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FullyConnected {
    /// `[out, in]`.
    pub weights: Weights,
    /// Per output, in units of `s_x * s_w`; empty: none.
    pub bias: Vec<i32>,
    /// Fused activation.
    pub clamp: Clamp,
}

/// What an operator does. Formulas: module documentation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// f32 to int8.
    Quantize,
    /// int8 to f32.
    Dequantize,
    /// int8 to int8 of other parameters.
    Requantize,
    /// Convolution; output int8 or f32.
    Conv(Conv),
    /// Product with constant weights; output int8 or f32.
    FullyConnected(FullyConnected),
    /// f32 input, quantized at run time; f32 output. `FullyConnected::bias` is empty, `bias` is real-numbered (empty: none).
    DynamicFullyConnected {
        /// Weights; its `bias` is empty.
        product: FullyConnected,
        /// Per output, f32.
        bias: Vec<f32>,
    },
    /// As [`Op::DynamicFullyConnected`], a convolution.
    DynamicConv {
        /// Weights; its `bias` is empty.
        conv: Conv,
        /// Per output channel, f32.
        bias: Vec<f32>,
    },
    /// Batched product of two runtime values, `[.., M, K] x [.., K, N]`, leading axes broadcast; output int8 or f32.
    MatMul {
        /// Fused activation.
        clamp: Clamp,
    },
    /// Element-wise sum of two, broadcast as numpy does.
    Add {
        /// Fused activation.
        clamp: Clamp,
    },
    /// Element-wise product of two, broadcast as numpy does.
    Mul {
        /// Fused activation.
        clamp: Clamp,
    },
    /// Joins along an axis of the model's order.
    Concat {
        /// Axis.
        axis: usize,
    },
    /// Mean of a window; a global one has the kernel of the whole image.
    AveragePool {
        /// Kernel, stride, padding; dilation 1.
        window: Window,
        /// Whether padding counts among the `n`.
        count_include_pad: bool,
    },
    /// Largest of a window; padding never wins.
    MaxPool {
        /// Kernel, stride, padding, dilation.
        window: Window,
    },
    /// Any function of one int8 value; indexed by its bits as u8.
    Lut {
        /// Output bits by input bits.
        table: Box<[u8; 256]>,
    },
    /// Over an axis.
    Softmax {
        /// Axis.
        axis: usize,
    },
    /// Over the last axis: `(x - mean) / sqrt(variance + epsilon) * gain + bias`.
    LayerNorm {
        /// Per element of the last axis.
        gain: Vec<f32>,
        /// Per element of the last axis; empty: none.
        bias: Vec<f32>,
        /// Added to the variance.
        epsilon: f32,
    },
    /// `0.5 * x * (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// Sum of two values of which at least one is f32 (or whose output is).
    AddF32 {
        /// Fused activation.
        clamp: Clamp,
    },
    /// Product of two values of which at least one is f32 (or whose output is).
    MulF32 {
        /// Fused activation.
        clamp: Clamp,
    },
    /// `x * factor + offset` on f32, per element of the last axis or one for all.
    Affine {
        /// One, or one per element of the last axis.
        factor: Vec<f32>,
        /// One, or one per element of the last axis.
        offset: Vec<f32>,
    },
    /// Mean over the given axes, kept or not as the output's shape says; int8 as AveragePool, f32 as a plain mean.
    ReduceMean {
        /// Axes of the input.
        axes: TVec<usize>,
    },
    /// The same elements in the model's order under another shape.
    Reshape,
    /// Axes permuted: `output.shape[i] = input.shape[perm[i]]`.
    Transpose {
        /// Permutation.
        perm: TVec<usize>,
    },
    /// A range along one axis.
    Slice {
        /// Axis.
        axis: usize,
        /// First index; the length is the output's.
        start: usize,
    },
}
