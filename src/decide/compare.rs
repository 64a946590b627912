//! Two bundles on the same data: intervals of their differences by a paired bootstrap, and McNemar's test.
//!
//! Pure arithmetic for `eval --compare`. The generator is written out here, so that a seed gives the same interval for ever.

/// Resamples of a bootstrap.
pub const RESAMPLES: usize = 2000;

/// Seed of the resamples.
pub const SEED: u64 = 20_240_229;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), from a seed.
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; the bias of the multiplication is `n / 2^64`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

/// One measure of two bundles.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Difference {
    /// What is measured.
    pub measure: String,
    /// Of the first bundle; none where it is not defined.
    pub a: Option<f64>,
    /// Of the second.
    pub b: Option<f64>,
    /// `b - a`.
    pub difference: Option<f64>,
    /// Lower end of its 95 % interval; none where less than half of the resamples define it.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// The interval leaves out 0.
    pub is_shown: bool,
}

/// One measure of both bundles; none where it is not defined (a latency without a hit).
pub type Pair = (Option<f64>, Option<f64>);

/// The measures of one sample.
pub type Pairs = Vec<Pair>;

/// Compares `measures` over `units` units (rows, stretches of a recording), each of which both bundles saw: percentile intervals of
/// [`RESAMPLES`] resamples with replacement (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
///
/// `measure` gets indices of units, and gives as many pairs as there are names.
#[must_use]
pub fn bootstrap(names: &[String], units: usize, seed: u64, measure: impl Fn(&[usize]) -> Pairs) -> Vec<Difference> {
    let difference = |(a, b): &Pair| a.zip(*b).map(|(a, b)| b - a);
    let all: Vec<usize> = (0..units).collect();
    let whole = measure(&all);
    let mut resampled: Vec<Vec<f64>> = vec![Vec::with_capacity(RESAMPLES); names.len()];
    let mut generator = SplitMix64(seed);
    let mut sample = all;
    for _ in 0..RESAMPLES {
        sample.iter_mut().for_each(|i| *i = generator.below(units));
        for (into, pair) in resampled.iter_mut().zip(measure(&sample)) {
            into.extend(difference(&pair));
        }
    }
    let row = |((name, pair), mut differences): ((&String, &Pair), Vec<f64>)| {
        differences.sort_unstable_by(f64::total_cmp);
        let is_enough = differences.len() * 2 > RESAMPLES;
        let quantile = |q: f64| is_enough.then(|| differences[(q * (differences.len() - 1) as f64).round() as usize]);
        let (low, high) = (quantile(0.025), quantile(0.975));
        let is_shown = low.zip(high).is_some_and(|(low, high)| low > 0.0 || high < 0.0);
        Difference { measure: name.clone(), a: pair.0, b: pair.1, difference: difference(pair), low, high, is_shown }
    };
    names.iter().zip(&whole).zip(resampled).map(row).collect()
}

/// Two bundles' right and wrong answers on the same units.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct McNemar {
    /// Units that only the first got right.
    pub only_a: u64,
    /// Units that only the second got right.
    pub only_b: u64,
    /// Two-sided exact p-value of as uneven a split, if neither were better (Q. McNemar, Psychometrika 12, 1947).
    pub p: f64,
}

impl McNemar {
    /// Of pairs (first is right, second is right).
    #[must_use]
    pub fn of(pairs: impl IntoIterator<Item = (bool, bool)>) -> McNemar {
        let (mut only_a, mut only_b) = (0, 0);
        for (a, b) in pairs {
            only_a += u64::from(a && !b);
            only_b += u64::from(b && !a);
        }
        McNemar { only_a, only_b, p: sign_test(only_a.min(only_b), only_a + only_b) }
    }
}

/// Twice the probability of at most `few` heads in `n` tosses, at most 1.
fn sign_test(few: u64, n: u64) -> f64 {
    // as logarithms: 2^-n is no f64 from n = 1075 on
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in 0..=few {
        sum += ln_term.exp();
        ln_term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("m{i}")).collect()
    }

    fn share(of: &[bool], sample: &[usize]) -> Option<f64> {
        (!sample.is_empty()).then(|| sample.iter().filter(|i| of[**i]).count() as f64 / sample.len() as f64)
    }

    #[test]
    fn the_same_answers_show_no_difference() {
        let right: Vec<bool> = (0..50).map(|i| i % 3 > 0).collect();
        let found = bootstrap(&names(1), 50, SEED, |s| vec![(share(&right, s), share(&right, s))]);
        assert_eq!((found[0].difference, found[0].low, found[0].high), (Some(0.0), Some(0.0), Some(0.0)));
        assert!(!found[0].is_shown);
    }

    #[test]
    fn a_difference_is_shown_when_its_interval_leaves_out_zero() {
        let a: Vec<bool> = (0..200).map(|i| i % 10 < 7).collect();
        let b: Vec<bool> = (0..200).map(|i| i % 10 < 9).collect();
        let c: Vec<bool> = (0..200).map(|i| (i + 3) % 10 < 7 || i == 0).collect();
        let found =
            bootstrap(&names(2), 200, SEED, |s| vec![(share(&a, s), share(&b, s)), (share(&a, s), share(&c, s))]);
        assert!(found[0].is_shown && (found[0].difference.unwrap() - 0.2).abs() < 1e-12, "{found:?}");
        // 0.2 with a standard error of 0.4 / sqrt(200)
        let (low, high) = (found[0].low.unwrap(), found[0].high.unwrap());
        assert!((low - 0.145).abs() < 0.015 && (high - 0.255).abs() < 0.015, "{low} to {high}");
        assert!(!found[1].is_shown, "{found:?}");
        let again = bootstrap(&names(1), 200, SEED, |s| vec![(share(&a, s), share(&b, s))]);
        assert_eq!(again[0], found[0], "the seed decides");
    }

    #[test]
    fn what_most_resamples_do_not_define_has_no_interval() {
        let rare = |s: &[usize]| s.contains(&0).then_some(1.0).filter(|_| s[0] == 0);
        let found = bootstrap(&names(1), 40, SEED, |s| vec![(rare(s), rare(s))]);
        assert_eq!((found[0].a, found[0].low, found[0].is_shown), (Some(1.0), None, false));
    }

    #[test]
    fn mcnemar_equals_the_binomial() {
        let of = |a: u64, b: u64| {
            let pairs = (0..a).map(|_| (true, false)).chain((0..b).map(|_| (false, true)));
            McNemar::of(pairs.chain([(true, true), (false, false)])).p
        };
        for (a, b, p) in [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (5, 0, 0.0625), (1, 9, 22.0 / 1024.0)] {
            assert!((of(a, b) - p).abs() < 1e-12, "{a} {b}: {}", of(a, b));
        }
        // 2000 tosses, 45 off the middle: the normal approximation with continuity correction is 0.0466
        assert!((of(955, 1045) - 0.0466).abs() < 0.001, "{}", of(955, 1045));
    }
}
