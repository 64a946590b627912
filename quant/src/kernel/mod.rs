//! Loops over numbers: one file a family, each for every tier that the CPU may have.
//!
//! The planner calls them with slices; what a slice must hold is asserted at the entry, so that the vector code behind it may
//! use pointers. They deliberately know nothing of graphs, layouts by name, or tract.
//!
//! int8 values are kept in one form, [`Stored`], whatever the model says; the edge of an island converts. A kernel that reads
//! whole vectors may read up to [`SLACK`] bytes past what it needs, and never uses what it finds there.

mod fake;
pub(crate) mod real;

#[cfg(target_arch = "x86_64")]
mod avx2;
pub(crate) mod depthwise;
pub(crate) mod elementwise;
pub(crate) mod memory;
pub(crate) mod moves;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod planes;
pub(crate) mod pool;
pub(crate) mod product;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vnni;

pub(super) use fake::{dequantize, fake_quantize, quantize};

use super::graph::Clamp;
use super::{Affine, IntType};

/// An int8 value inside an island: signed where the dot-product instructions multiply signed by signed.
#[cfg(target_arch = "aarch64")]
pub(crate) type Stored = i8;
/// An int8 value inside an island: unsigned where the dot-product instructions multiply unsigned by signed.
#[cfg(not(target_arch = "aarch64"))]
pub(crate) type Stored = u8;

/// Readable bytes that every buffer has after its last element.
pub(crate) const SLACK: usize = 64;

/// Added to a value of the model's type to get the stored one.
pub(crate) fn shift(int: IntType) -> i32 {
    Stored::MIN as i32 - int.range().0
}

/// Parameters of a stored value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Params {
    /// Scale.
    pub scale: f32,
    /// Zero point in the stored form.
    pub zero: i32,
}

impl From<Affine> for Params {
    fn from(a: Affine) -> Self {
        Params { scale: a.scale, zero: a.zero_point + shift(a.int) }
    }
}

/// How a real number in units of the output's scale becomes a stored value: `round(min(max(x, lo), hi)) + zero`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Narrow {
    /// Smallest result less the zero point; an integer.
    pub lo: f32,
    /// Largest result less the zero point; an integer.
    pub hi: f32,
    /// Zero point in the stored form.
    pub zero: i32,
}

impl Narrow {
    /// Saturation to the output's type and to a fused activation's bounds.
    pub(crate) fn new(a: Affine, clamp: Clamp) -> Self {
        let (lo, hi) = a.centred_range();
        let bound = |x: f32| (x / a.scale).round_ties_even().clamp(lo, hi);
        let hi = bound(clamp.hi);
        Narrow { lo: bound(clamp.lo).min(hi), hi, zero: a.zero_point + shift(a.int) }
    }

    /// NaN gives the zero point, as far as the bounds let it.
    #[inline(always)]
    pub(crate) fn apply(self, x: f32) -> Stored {
        let x = if x.is_nan() { 0.0 } else { x };
        self.apply_number(x)
    }

    /// The same for what cannot be NaN.
    #[inline(always)]
    pub(crate) fn apply_number(self, x: f32) -> Stored {
        let x = if x > self.lo { x } else { self.lo };
        let x = if x < self.hi { x } else { self.hi };
        (real::round_to_int(x) + self.zero) as Stored
    }
}

/// Runs `$body` compiled for the vector width of `$tier`: the same Rust, hence the same bits.
macro_rules! widened {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(tier: $crate::tier::Tier, $($arg: $ty),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) { body($($arg),*) }
                if tier.has_avx2() {
                    // SAFETY: the only requirement is AVX2 with FMA, and plans are made for tiers that the CPU has.
                    return unsafe { avx2($($arg),*) };
                }
            }
            let _ = tier;
            body($($arg),*)
        }
    };
}
pub(crate) use widened;
