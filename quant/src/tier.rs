//! Which integer instructions of the CPU the kernels use.
//!
//! Chosen once, at run time: the best the CPU has, or what `ATTENDANT_CPU` names. `doctor`, `bench` and the start of a run
//! print it. All tiers give the same bits; they differ in speed only. It deliberately knows nothing of kernels.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use tract_core::internal::{TractResult, bail};

/// Environment variable that forces a tier.
pub(crate) const VARIABLE: &str = "ATTENDANT_CPU";

/// A set of instructions that kernels are written for, from plain Rust to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Plain Rust.
    Scalar,
    /// x86-64 with AVX2: products of 16-bit pairs (`vpmaddwd`).
    Avx2,
    /// x86-64 with AVX-VNNI: products of four bytes (`vpdpbusd`), 256 bits wide.
    AvxVnni,
    /// x86-64 with AVX-512 VNNI: the same, 512 bits wide.
    Avx512Vnni,
    /// aarch64 as of 2011 (Cortex-A53, A72): widening products (`smlal`).
    Neon,
    /// aarch64 with dot products (Cortex-A55, A76): `sdot`.
    Dotprod,
    /// aarch64 with 8-bit matrix products (Cortex-A510, X2): `smmla`.
    I8mm,
}

/// Every tier with the name that [`VARIABLE`] takes, worst first within an architecture.
const NAMES: [(Tier, &str); 7] = [
    (Tier::Scalar, "scalar"),
    (Tier::Avx2, "avx2"),
    (Tier::AvxVnni, "avx-vnni"),
    (Tier::Avx512Vnni, "avx512-vnni"),
    (Tier::Neon, "neon"),
    (Tier::Dotprod, "dotprod"),
    (Tier::I8mm, "i8mm"),
];

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(tier, _)| tier == self).map_or("?", |(_, name)| *name);
        f.write_str(name)
    }
}

impl FromStr for Tier {
    type Err = tract_core::internal::TractError;

    fn from_str(name: &str) -> TractResult<Self> {
        let Some((tier, _)) = NAMES.iter().find(|(_, known)| *known == name) else {
            let known: Vec<&str> = NAMES.iter().map(|(_, name)| *name).collect();
            bail!("CPU tier {name:?} is unknown, expected one of {}", known.join(", "));
        };
        Ok(*tier)
    }
}

impl Tier {
    /// Whether this CPU has the instructions. Under Miri only [`Tier::Scalar`].
    pub fn is_supported(self) -> bool {
        if cfg!(miri) {
            return self == Tier::Scalar;
        }
        match self {
            Tier::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Tier::AvxVnni => Tier::Avx2.is_supported() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Vnni => {
                Tier::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Tier::Dotprod => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Tier::I8mm => {
                std::arch::is_aarch64_feature_detected!("dotprod") && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            _ => false,
        }
    }

    /// Whether its kernels are compiled for AVX2 with FMA.
    pub(crate) fn has_avx2(self) -> bool {
        matches!(self, Tier::Avx2 | Tier::AvxVnni | Tier::Avx512Vnni)
    }

    /// Tiers this CPU has, worst first.
    pub fn supported() -> impl Iterator<Item = Tier> {
        NAMES.iter().map(|(tier, _)| *tier).filter(|tier| tier.is_supported())
    }

    /// The best this CPU has.
    pub fn best() -> Tier {
        Tier::supported().last().unwrap_or(Tier::Scalar)
    }

    /// What `forced` names, or the best where it is `None`.
    ///
    /// # Errors
    /// If the name is unknown, or the CPU does not have the instructions.
    pub fn choose(forced: Option<&str>) -> TractResult<Tier> {
        let Some(name) = forced else { return Ok(Tier::best()) };
        let tier: Tier = name.parse()?;
        if !tier.is_supported() {
            let has: Vec<String> = Tier::supported().map(|t| t.to_string()).collect();
            bail!("this CPU has no {tier}, expected one of {}", has.join(", "));
        }
        Ok(tier)
    }

    /// The tier of this process, from `VARIABLE` or the best; read once.
    ///
    /// # Errors
    /// As [`Tier::choose`], naming the variable.
    pub fn current() -> TractResult<Tier> {
        static CURRENT: OnceLock<Result<Tier, String>> = OnceLock::new();
        let chosen = CURRENT.get_or_init(|| {
            let forced = std::env::var_os(VARIABLE).map(|v| v.to_string_lossy().into_owned());
            Tier::choose(forced.as_deref()).map_err(|e| format!("{VARIABLE}: {e}"))
        });
        match chosen {
            Ok(tier) => Ok(*tier),
            Err(message) => bail!("{message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_forced_by_its_name_and_refused_by_any_other() {
        assert_eq!(Tier::choose(Some("scalar")).unwrap(), Tier::Scalar);
        let unknown = Tier::choose(Some("sse9")).unwrap_err().to_string();
        assert!(unknown.contains("\"sse9\"") && unknown.contains("avx512-vnni"), "{unknown}");
        for (tier, name) in NAMES {
            let chosen = Tier::choose(Some(name));
            assert_eq!(chosen.is_ok(), tier.is_supported(), "{name}");
            assert_eq!(tier.to_string(), name);
        }
    }

    #[test]
    fn the_best_tier_is_more_than_scalar_where_the_cpu_has_more() {
        assert_eq!(Tier::choose(None).unwrap(), Tier::best());
        assert_eq!(Tier::supported().next(), Some(Tier::Scalar));
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        let has_more = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let has_more = cfg!(target_arch = "aarch64") && !cfg!(miri);
        assert_eq!(Tier::best() != Tier::Scalar, has_more);
    }
}
