//! Element by element: sums, products, tables, and between real numbers and int8.

use super::real::{ROUND, gelu, layer_norm, softmax};
use super::{Narrow, Params, Stored, widened};

/// Elements that go through a buffer on the stack at a time.
const CHUNK: usize = 256;

/// An operand: int8 values with their parameters, or real numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand<'a> {
    /// int8.
    Stored(&'a [Stored], Params),
    /// f32.
    Real(&'a [f32]),
}

impl Operand<'_> {
    /// `len` values less their zero point from `at`, `stride` apart (0 or 1), and the factor that makes real numbers of them.
    #[inline(always)]
    fn load(&self, at: usize, stride: usize, into: &mut [f32]) -> f32 {
        match *self {
            Operand::Stored(x, params) => {
                if stride == 0 {
                    into.fill((i32::from(x[at]) - params.zero) as f32);
                } else {
                    for (y, &x) in into.iter_mut().zip(&x[at..]) {
                        *y = (i32::from(x) - params.zero) as f32;
                    }
                }
                params.scale
            }
            Operand::Real(x) => {
                if stride == 0 {
                    into.fill(x[at]);
                } else {
                    let len = into.len();
                    into.copy_from_slice(&x[at..at + len]);
                }
                1.0
            }
        }
    }
}

/// Where results of real numbers go.
pub(crate) enum Target<'a> {
    /// int8: divided by the scale, then rounded.
    Stored(&'a mut [Stored], f32, Narrow),
    /// f32.
    Real(&'a mut [f32]),
}

impl Target<'_> {
    #[inline(always)]
    fn store(&mut self, at: usize, from: &[f32]) {
        match self {
            Target::Stored(y, scale, narrow) => {
                let (scale, narrow) = (*scale, *narrow);
                for (y, &x) in y[at..].iter_mut().zip(from) {
                    *y = narrow.apply(x / scale);
                }
            }
            Target::Real(y) => y[at..at + from.len()].copy_from_slice(from),
        }
    }
}

/// A loop over a result that is dense: extents, and for each operand its strides (0 where it is broadcast).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nest {
    /// Extents, outermost first; the last is at least 1.
    pub dims: Vec<usize>,
    /// Of the first operand; the last is 0 or 1.
    pub a: Vec<usize>,
    /// Of the second operand; the last is 0 or 1.
    pub b: Vec<usize>,
}

impl Nest {
    /// Calls `f` with the offsets of every innermost row: in `a`, in `b`, in the result.
    #[inline(always)]
    fn rows(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let last = self.dims.len() - 1;
        let len = self.dims[last];
        let outer: usize = self.dims[..last].iter().product();
        for row in 0..outer {
            let (mut rest, mut a, mut b) = (row, 0, 0);
            for axis in (0..last).rev() {
                let index = rest % self.dims[axis];
                rest /= self.dims[axis];
                a += index * self.a[axis];
                b += index * self.b[axis];
            }
            f(a, b, row * len, len);
        }
    }
}

/// How two operands become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Binary {
    /// int8 sum: factors of each operand, in units of the output's scale.
    Add {
        /// Of the first.
        a: f32,
        /// Of the second.
        b: f32,
        /// The output's zero point in the model's type: rounded with the sum, so that ties are the model's.
        zero: f32,
    },
    /// int8 product: factor of the product.
    Mul {
        /// In units of the output's scale.
        factor: f32,
    },
    /// Sum of real numbers, between bounds.
    AddReal {
        /// Smallest.
        lo: f32,
        /// Largest.
        hi: f32,
    },
    /// Product of real numbers, between bounds.
    MulReal {
        /// Smallest.
        lo: f32,
        /// Largest.
        hi: f32,
    },
}

/// Half to even, below 2^22; more stays large.
#[inline(always)]
fn round(x: f32) -> f32 {
    (x + ROUND) - ROUND
}

#[inline(always)]
fn between(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

widened! {
    /// Sum of two int8 rows of one length.
    pub(crate) fn add(
        a: (&[Stored], i32, f32),
        b: (&[Stored], i32, f32),
        zero: f32,
        narrow: Narrow,
        out: &mut [Stored],
    ) {
        let (x, za, fa) = a;
        let (y, zb, fb) = b;
        for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
            let sum = ((i32::from(x) - za) as f32).mul_add(fa, ((i32::from(y) - zb) as f32).mul_add(fb, zero));
            *out = narrow.apply_number(round(sum) - zero);
        }
    }
}

widened! {
    /// `op` of two operands over `nest`.
    pub(crate) fn binary(op: Binary, nest: &Nest, a: Operand<'_>, b: Operand<'_>, target: Target<'_>) {
        let mut target = target;
        let last = nest.dims.len() - 1;
        let (sa, sb) = (nest.a[last], nest.b[last]);
        nest.rows(|at_a, at_b, at, len| {
            for from in (0..len).step_by(CHUNK) {
                let n = (len - from).min(CHUNK);
                let (mut x, mut y) = ([0f32; CHUNK], [0f32; CHUNK]);
                let (x, y) = (&mut x[..n], &mut y[..n]);
                let fx = a.load(at_a + from * sa, sa, x);
                let fy = b.load(at_b + from * sb, sb, y);
                match op {
                    Binary::Add { a, b, zero } => {
                        let sum = |x: f32, y: f32| round(x.mul_add(a, y.mul_add(b, zero))) - zero;
                        x.iter_mut().zip(&*y).for_each(|(x, y)| *x = sum(*x, *y));
                    }
                    Binary::Mul { factor } => x.iter_mut().zip(&*y).for_each(|(x, y)| *x = *x * *y * factor),
                    Binary::AddReal { lo, hi } => {
                        x.iter_mut().zip(&*y).for_each(|(x, y)| *x = between(*x * fx + *y * fy, lo, hi));
                    }
                    Binary::MulReal { lo, hi } => {
                        x.iter_mut().zip(&*y).for_each(|(x, y)| *x = between((*x * fx) * (*y * fy), lo, hi));
                    }
                }
                // int8 sums and products are in units of the output's scale already
                match (&mut target, op) {
                    (Target::Stored(out, _, narrow), Binary::Add { .. } | Binary::Mul { .. }) => {
                        let narrow = *narrow;
                        for (out, &x) in out[at + from..].iter_mut().zip(&*x) {
                            *out = narrow.apply_number(x);
                        }
                    }
                    (target, _) => target.store(at + from, x),
                }
            }
        });
    }
}

/// A function of rows of real numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RowOp {
    /// Softmax of the row.
    Softmax,
    /// Normalized, with a gain and a bias per element.
    LayerNorm {
        /// Per element.
        gain: Vec<f32>,
        /// Per element; empty: none.
        bias: Vec<f32>,
        /// Added to the variance.
        epsilon: f32,
    },
    /// Element by element.
    Gelu,
    /// `x * factor + offset`, one or one per element.
    Affine {
        /// One, or one per element.
        factor: Vec<f32>,
        /// One, or one per element.
        offset: Vec<f32>,
    },
    /// Nothing: between real numbers and int8.
    Identity,
}

#[inline(always)]
fn apply(op: &RowOp, row: &mut [f32]) {
    match op {
        RowOp::Softmax => softmax(row),
        RowOp::LayerNorm { gain, bias, epsilon } => layer_norm(row, gain, bias, *epsilon),
        RowOp::Gelu => row.iter_mut().for_each(|x| *x = gelu(*x)),
        RowOp::Affine { factor, offset } => match (&factor[..], &offset[..]) {
            ([f], [o]) => row.iter_mut().for_each(|x| *x = *x * f + o),
            ([f], o) => row.iter_mut().zip(o).for_each(|(x, o)| *x = *x * f + o),
            (f, [o]) => row.iter_mut().zip(f).for_each(|(x, f)| *x = *x * f + o),
            (f, o) => row.iter_mut().zip(f).zip(o).for_each(|((x, f), o)| *x = *x * f + o),
        },
        RowOp::Identity => {}
    }
}

widened! {
    /// `op` of every row of `len` elements; `row` is scratch memory for one.
    pub(crate) fn rows(op: &RowOp, x: Operand<'_>, count: usize, row: &mut [f32], target: Target<'_>) {
        let len = row.len();
        let mut target = target;
        for r in 0..count {
            let factor = x.load(r * len, 1, row);
            if factor != 1.0 || matches!(x, Operand::Stored(..)) {
                row.iter_mut().for_each(|x| *x *= factor);
            }
            apply(op, row);
            target.store(r * len, row);
        }
    }
}

widened! {
    /// Mean of every row of `row.len()` elements, summed in their order; `row` is scratch memory for one.
    pub(crate) fn means(x: Operand<'_>, count: usize, row: &mut [f32], target: Target<'_>) {
        let len = row.len();
        let mut target = target;
        for r in 0..count {
            let factor = x.load(r * len, 1, row);
            let sum = row.iter().fold(0f32, |sum, &x| sum + x * factor);
            target.store(r, &[sum / len as f32]);
        }
    }
}

widened! {
    /// f32 to int8.
    pub(crate) fn quantize(x: &[f32], scale: f32, narrow: Narrow, out: &mut [Stored]) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = narrow.apply(x / scale);
        }
    }
}

widened! {
    /// int8 to f32.
    pub(crate) fn dequantize(x: &[Stored], params: Params, out: &mut [f32]) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = (i32::from(x) - params.zero) as f32 * params.scale;
        }
    }
}

widened! {
    /// Smallest and largest value, at least zero apart from zero: what ONNX DynamicQuantizeLinear takes its range from.
    pub(crate) fn range(x: &[f32], lo: &mut f32, hi: &mut f32) {
        let (mut low, mut high) = ([0f32; 16], [0f32; 16]);
        let mut chunks = x.chunks_exact(16);
        for chunk in &mut chunks {
            for i in 0..16 {
                low[i] = if chunk[i] < low[i] { chunk[i] } else { low[i] };
                high[i] = if chunk[i] > high[i] { chunk[i] } else { high[i] };
            }
        }
        for &x in chunks.remainder() {
            low[0] = if x < low[0] { x } else { low[0] };
            high[0] = if x > high[0] { x } else { high[0] };
        }
        *lo = low.into_iter().fold(0.0, |a, b| if b < a { b } else { a });
        *hi = high.into_iter().fold(0.0, |a, b| if b > a { b } else { a });
    }
}

/// Every value by a table.
#[allow(clippy::unnecessary_cast, reason = "stored bytes are signed on aarch64")]
pub(crate) fn look_up(x: &[Stored], table: &[Stored; 256], out: &mut [Stored]) {
    for (y, &x) in out.iter_mut().zip(x) {
        *y = table[usize::from(x as u8)];
    }
}

/// The bytes of another signedness: `x + by`, wrapping.
pub(crate) fn shift(x: &[u8], by: u8, out: &mut [u8]) {
    for (y, &x) in out.iter_mut().zip(x) {
        *y = x.wrapping_add(by);
    }
}
