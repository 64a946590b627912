//! Functions of real numbers: exponential, error function, Softmax, LayerNorm and Gelu of rows.
//!
//! Every operation is one IEEE single precision operation in the written order, sums run in eight interleaved parts
//! ([`sum`]), and nothing is fused: the same bits whatever the vector width. The interpreter has its own,
//! in the order of the index; the two are compared within a tolerance, and these with double precision.

/// Parts that a sum is taken in: element `i` goes to part `i % LANES`.
const LANES: usize = 8;

/// Adding and taking away 1.5 * 2^23 rounds an f32 of magnitude below 2^22 half to even.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// `x` rounded half to even, for magnitudes below 2^22. The sum's mantissa is the integer, which vectorizes where Rust's
/// saturating conversion does not.
#[inline(always)]
pub(crate) fn round_to_int(x: f32) -> i32 {
    ((x + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

/// Adds the eight parts, halving.
#[inline(always)]
fn fold(parts: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h] = parts;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Sum in eight interleaved parts of `f(x)`.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (part, &x) in parts.iter_mut().zip(chunk) {
            *part += f(x);
        }
    }
    for (part, &x) in parts.iter_mut().zip(chunks.remainder()) {
        *part += f(x);
    }
    fold(parts)
}

/// Largest value; NaN is passed over. `NEG_INFINITY` for none.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut parts = [f32::NEG_INFINITY; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (part, &x) in parts.iter_mut().zip(chunk) {
            *part = if x > *part { x } else { *part };
        }
    }
    for (part, &x) in parts.iter_mut().zip(chunks.remainder()) {
        *part = if x > *part { x } else { *part };
    }
    parts.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// `e^x` for `x <= 88`; below -87.3 it is 0. Cephes `expf` (S. Moshier, 1992), at most 2 units in the last place.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = if x > -87.3 { x } else { -87.3 };
    let clamped = if clamped < 88.0 { clamped } else { 88.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let p = 1.987_569_2e-4f32;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.0e-1;
    let y = p * (r * r) + r + 1.0;
    // `n` is in the low bits of the mantissa; 127 is the exponent's bias.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.3 { 0.0 } else { y * power }
}

/// Error function: the rational approximation of Eigen's `generic_fast_erf_float` (Eigen 3.4), absolute error below 4e-7.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = if x > -4.0 { x } else { -4.0 };
    let x = if x < 4.0 { x } else { 4.0 };
    let s = x * x;
    let p = -2.726_142_3e-10f32;
    let p = p * s + 2.770_681_4e-8;
    let p = p * s + -2.101_024e-6;
    let p = p * s + -5.692_506_5e-5;
    let p = p * s + -7.349_906_3e-4;
    let p = p * s + -2.954_6e-3;
    let p = p * s + -1.609_603_3e-2;
    let q = -1.456_607_2e-5f32;
    let q = q * s + -2.133_740_6e-4;
    let q = q * s + -1.682_827e-3;
    let q = q * s + -7.373_329e-3;
    let q = q * s + -1.426_473_9e-2;
    x * p / q
}

/// `(0.5 * x) * (1 + erf(x * (1 / sqrt(2))))`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    (0.5 * x) * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Softmax of one row in place: `exp(x - max) * (1 / sum)`.
#[inline(always)]
pub(crate) fn softmax(row: &mut [f32]) {
    let max = largest(row);
    for x in row.iter_mut() {
        *x = exp(*x - max);
    }
    let factor = 1.0 / sum(row, |x| x);
    for x in row {
        *x *= factor;
    }
}

/// LayerNorm of one row in place: `(x - mean) * (1 / sqrt(variance + epsilon)) * gain + bias`; an empty bias is none.
#[inline(always)]
pub(crate) fn layer_norm(row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) {
    let n = row.len() as f32;
    let mean = sum(row, |x| x) / n;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / n;
    let factor = 1.0 / (variance + epsilon).sqrt();
    if bias.is_empty() {
        for (x, &gain) in row.iter_mut().zip(gain) {
            *x = (*x - mean) * factor * gain;
        }
    } else {
        for ((x, &gain), &bias) in row.iter_mut().zip(gain).zip(bias) {
            *x = (*x - mean) * factor * gain + bias;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_near_double_precision() {
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let (got, expect) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(((got - expect) / expect).abs() < 3e-7, "exp({x}) = {got}, expected {expect}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    /// erf by its Taylor series, which in double precision converges well for |x| < 3.
    #[test]
    fn erf_is_near_its_series() {
        for i in -3000..=3000 {
            let x = f64::from(i) * 1e-3;
            let (mut term, mut expect) = (x, x);
            for n in 1..80 {
                term *= -x * x / f64::from(n);
                expect += term / f64::from(2 * n + 1);
            }
            expect *= 2.0 / std::f64::consts::PI.sqrt();
            let got = f64::from(erf(x as f32));
            assert!((got - expect).abs() < 4e-7, "erf({x}) = {got}, expected {expect}");
        }
        assert!((erf(40.0) - 1.0).abs() < 1e-6 && (erf(-40.0) + 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_softmax_row_sums_to_one_and_ignores_a_masked_element() {
        let mut row: Vec<f32> = (0..19).map(|i| (i * 7 % 5) as f32).collect();
        row[3] = f32::NEG_INFINITY;
        softmax(&mut row);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(row[3], 0.0);
    }
}
