//! Measures of how good a classifier is: what `eval` reports. Pure arithmetic over labelled predictions.
//!
//! Called by the command line; knows nothing of models, files or modalities.

/// Bins of the expected calibration error.
pub const ECE_BINS: usize = 15;

/// Quantile of the standard normal for a two-sided 95 % interval.
const Z95: f64 = 1.959_963_984_540_054;

/// A prediction that cannot be scored.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScoreError {
    /// The row has another number of probabilities than there are classes.
    #[error("row {row}: {got} probabilities, expected {expected}, one a class")]
    Length {
        /// Which prediction, counted from 0.
        row: usize,
        /// Its probabilities.
        got: usize,
        /// The classes.
        expected: usize,
    },
    /// The true class does not exist.
    #[error("row {row}: true class {class}, expected less than {classes}")]
    Class {
        /// Which prediction, counted from 0.
        row: usize,
        /// Its true class.
        class: usize,
        /// The classes.
        classes: usize,
    },
    /// A probability is NaN, infinite or outside [0, 1].
    #[error("row {row}: probability of class {class} is {value}, expected 0 to 1; check the model's output")]
    Probability {
        /// Which prediction, counted from 0.
        row: usize,
        /// Which class.
        class: usize,
        /// Its value.
        value: f32,
    },
}

/// A proportion with its 95 % Wilson score interval (E. B. Wilson, JASA 22, 1927), all in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Proportion {
    /// How many.
    pub hits: u64,
    /// Of how many.
    pub of: u64,
    /// `hits / of`; 0 of 0 is 0.
    pub rate: f64,
    /// Lower end; 0 if nothing was counted.
    pub low: f64,
    /// Upper end; 1 if nothing was counted.
    pub high: f64,
}

impl Proportion {
    /// `hits` of `of`.
    #[must_use]
    pub fn new(hits: u64, of: u64) -> Proportion {
        if of == 0 {
            return Proportion { hits, of, rate: 0.0, low: 0.0, high: 1.0 };
        }
        let n = of as f64;
        let rate = hits as f64 / n;
        let z2 = Z95 * Z95;
        let centre = (rate + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = Z95 / (1.0 + z2 / n) * (rate * (1.0 - rate) / n + z2 / (4.0 * n * n)).sqrt();
        // At the ends the formula is exact; rounding must not leave [0, 1].
        Proportion { hits, of, rate, low: (centre - half).clamp(0.0, 1.0), high: (centre + half).clamp(0.0, 1.0) }
    }
}

/// Events by the hour, with the 95 % interval of a Poisson count (Byar's approximation; Breslow and Day, Statistical Methods in Cancer
/// Research II, 1987, eq. 2.13).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In how many hours.
    pub hours: f64,
    /// `count / hours`; none if there was no time.
    pub per_hour: Option<f64>,
    /// Lower end.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

impl Rate {
    /// `count` within `time`.
    #[must_use]
    pub fn new(count: u64, time: crate::time::Micros) -> Rate {
        let (n, hours) = (count as f64, time.0 as f64 / 3.6e9);
        let by_hour = |n: f64| (hours > 0.0).then_some(n / hours);
        let byar = |n: f64, sign: f64| n * (1.0 - 1.0 / (9.0 * n) + sign * Z95 / (3.0 * n.sqrt())).powi(3);
        let low = if count == 0 { 0.0 } else { byar(n, -1.0).max(0.0) };
        Rate { count, hours, per_hour: by_hour(n), low: by_hour(low), high: by_hour(byar(n + 1.0, 1.0)) }
    }
}

/// How one class fares.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ClassScore {
    /// Index of the class.
    pub class: usize,
    /// Of those that are this class, the share that was recognised.
    pub recall: Proportion,
    /// Of those that were called this class, the share that is.
    pub precision: Proportion,
}

/// One bin of the reliability diagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct CalibrationBin {
    /// Predictions whose top probability falls here.
    pub count: u64,
    /// Mean top probability, in [0, 1]; 0 if empty.
    pub confidence: f64,
    /// Share that was right, in [0, 1]; 0 if empty.
    pub accuracy: f64,
}

/// All measures of a set of predictions.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Report {
    /// Share of right top classes.
    pub accuracy: Proportion,
    /// Expected calibration error of the top class, [`ECE_BINS`] equal-width bins (Guo et al., ICML 2017), in [0, 1].
    pub ece: f64,
    /// Brier score over all classes, mean of `sum((p - onehot)^2)`, in [0, 2] (G. W. Brier, 1950).
    pub brier: f64,
    /// Mean of `-ln p(true class)`, p floored at 1e-12, nats.
    pub nll: f64,
    /// One per class.
    pub classes: Vec<ClassScore>,
    /// `[true class][top class]`.
    pub confusion: Vec<Vec<u64>>,
    /// Reliability diagram, from low to high confidence.
    pub calibration: Vec<CalibrationBin>,
}

/// Collects probabilities that were told, and whether they were right.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// Count, sum of the probabilities, count of what was right.
    bins: [(u64, f64, u64); ECE_BINS],
}

impl Calibration {
    /// One answer: its probability in [0, 1], and whether it is right.
    pub fn add(&mut self, confidence: f64, is_right: bool) {
        // Bins are (k/15, (k+1)/15], as in the reference implementations; 0 belongs to the first.
        let bin = ((confidence * ECE_BINS as f64).ceil() as usize).clamp(1, ECE_BINS) - 1;
        let (count, sum, right) = &mut self.bins[bin];
        *count += 1;
        *sum += confidence;
        *right += u64::from(is_right);
    }

    /// The reliability diagram, from low to high confidence.
    #[must_use]
    pub fn bins(&self) -> Vec<CalibrationBin> {
        let bin = |(count, sum, right): &(u64, f64, u64)| {
            let of = (*count as f64).max(1.0);
            CalibrationBin { count: *count, confidence: sum / of, accuracy: *right as f64 / of }
        };
        self.bins.iter().map(bin).collect()
    }

    /// Expected calibration error, in [0, 1]; 0 of nothing.
    #[must_use]
    pub fn ece(&self) -> f64 {
        let n = (self.bins.iter().map(|b| b.0).sum::<u64>() as f64).max(1.0);
        self.bins().iter().map(|b| b.count as f64 / n * (b.confidence - b.accuracy).abs()).sum()
    }
}

/// Collects predictions; [`Scorer::report`] at any time.
#[derive(Clone, Debug)]
pub struct Scorer {
    classes: usize,
    rows: usize,
    confusion: Vec<Vec<u64>>,
    calibration: Calibration,
    brier: f64,
    nll: f64,
}

impl Scorer {
    /// For distributions over `classes` classes.
    #[must_use]
    pub fn new(classes: usize) -> Scorer {
        Scorer {
            classes,
            rows: 0,
            confusion: vec![vec![0; classes]; classes],
            calibration: Calibration::default(),
            brier: 0.0,
            nll: 0.0,
        }
    }

    /// One prediction: probabilities f32 `[C]` and the class that is true. Equal probabilities: the first class counts.
    ///
    /// # Errors
    /// [`ScoreError`] for probabilities of another length or outside [0, 1], and a class that does not exist; the row is
    /// not counted then.
    pub fn add(&mut self, p: &[f32], truth: usize) -> Result<(), ScoreError> {
        let row = self.rows;
        if p.len() != self.classes {
            return Err(ScoreError::Length { row, got: p.len(), expected: self.classes });
        }
        if truth >= self.classes {
            return Err(ScoreError::Class { row, class: truth, classes: self.classes });
        }
        // f32 softmax may round a hair above 1
        if let Some(class) = p.iter().position(|v| !(*v >= 0.0 && *v <= 1.0001)) {
            return Err(ScoreError::Probability { row, class, value: p[class] });
        }
        let top = (1..p.len()).fold(0, |best, class| if p[class] > p[best] { class } else { best });
        let confidence = f64::from(p[top].min(1.0));
        self.rows += 1;
        self.confusion[truth][top] += 1;
        self.calibration.add(confidence, top == truth);
        self.brier += p
            .iter()
            .enumerate()
            .map(|(class, p)| (f64::from(*p) - f64::from(u8::from(class == truth))).powi(2))
            .sum::<f64>();
        self.nll -= f64::from(p[truth]).max(1e-12).ln();
        Ok(())
    }

    /// Predictions so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The measures of everything added so far; all zero for nothing.
    #[must_use]
    pub fn report(&self) -> Report {
        let n = (self.rows as f64).max(1.0);
        let right: u64 = (0..self.classes).map(|k| self.confusion[k][k]).sum();
        let classes = (0..self.classes)
            .map(|class| {
                let hits = self.confusion[class][class];
                let called = self.confusion.iter().map(|row| row[class]).sum();
                ClassScore {
                    class,
                    recall: Proportion::new(hits, self.confusion[class].iter().sum()),
                    precision: Proportion::new(hits, called),
                }
            })
            .collect();
        Report {
            accuracy: Proportion::new(right, self.rows as u64),
            ece: self.calibration.ece(),
            brier: self.brier / n,
            nll: self.nll / n,
            classes,
            confusion: self.confusion.clone(),
            calibration: self.calibration.bins(),
        }
    }
}

/// How well "out of scope" is told from the rest.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct OutOfScope {
    /// Of what is out of scope, the share that was called so.
    pub recall: Proportion,
    /// Of what was called out of scope, the share that is.
    pub precision: Proportion,
    /// Of what is in scope, the share that was wrongly called out of scope.
    pub false_alarms: Proportion,
}

impl OutOfScope {
    /// From rows `(is out of scope, was called out of scope)`.
    #[must_use]
    pub fn from_rows(rows: impl IntoIterator<Item = (bool, bool)>) -> OutOfScope {
        let mut n = [[0u64; 2]; 2];
        for (is, called) in rows {
            n[usize::from(is)][usize::from(called)] += 1;
        }
        OutOfScope {
            recall: Proportion::new(n[1][1], n[1][0] + n[1][1]),
            precision: Proportion::new(n[1][1], n[0][1] + n[1][1]),
            false_alarms: Proportion::new(n[0][1], n[0][0] + n[0][1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn rates_have_the_interval_of_a_poisson_count() {
        // exact intervals (Garwood 1936) to within the approximation: count, low, high
        for (count, low, high, within) in [(0, 0.0, 3.689, 0.03), (1, 0.0253, 5.572, 0.06), (10, 4.795, 18.39, 0.01)] {
            let rate = Rate::new(count, crate::time::Micros(3_600_000_000));
            assert_eq!(rate.per_hour, Some(count as f64));
            let (found_low, found_high) = (rate.low.unwrap(), rate.high.unwrap());
            assert!((found_low - low).abs() < within && (found_high - high).abs() < within, "{rate:?}");
        }
        assert_eq!(Rate::new(1, crate::time::Micros(0)).per_hour, None);
    }

    #[test]
    fn wilson_intervals_equal_published_values() {
        // Newcombe, Statistics in Medicine 17 (1998), table I, method 3; four decimals.
        let cases = [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
            (29, 29, 0.8830, 1.0),
            (0, 0, 0.0, 1.0),
        ];
        for (hits, of, low, high) in cases {
            let p = Proportion::new(hits, of);
            assert!((p.low - low).abs() < 5e-5 && (p.high - high).abs() < 5e-5, "{hits} of {of}: {p:?}");
        }
    }

    #[test]
    fn measures_equal_hand_values() {
        let mut scorer = Scorer::new(3);
        // top, right: 0.8 yes; 0.6 no; 0.5 yes; 1.0 yes
        scorer.add(&[0.8, 0.1, 0.1], 0).unwrap();
        scorer.add(&[0.6, 0.3, 0.1], 1).unwrap();
        scorer.add(&[0.25, 0.25, 0.5], 2).unwrap();
        scorer.add(&[0.0, 1.0, 0.0], 1).unwrap();
        let r = scorer.report();
        assert_eq!((r.accuracy.hits, r.accuracy.of), (3, 4));
        assert_eq!(r.confusion, [[1, 0, 0], [1, 1, 0], [0, 0, 1]]);
        // four bins of one each: (0.2 + 0.6 + 0.5 + 0) / 4
        assert!(near(r.ece, 0.325), "{}", r.ece);
        // (0.06 + (0.36 + 0.49 + 0.01) + (0.0625 + 0.0625 + 0.25) + 0) / 4
        assert!(near(r.brier, (0.06 + 0.86 + 0.375) / 4.0), "{}", r.brier);
        let nll = -(0.8f64.ln() + 0.3f64.ln() + 0.5f64.ln()) / 4.0;
        assert!((r.nll - nll).abs() < 1e-6, "{} {nll}", r.nll);
        assert!(near(r.classes[1].recall.rate, 0.5) && near(r.classes[1].precision.rate, 1.0));
        assert!(near(r.classes[0].recall.rate, 1.0) && near(r.classes[0].precision.rate, 0.5));
    }

    #[test]
    fn confidence_within_one_bin_is_averaged_before_it_is_compared() {
        let mut scorer = Scorer::new(2);
        // 0.95 right and 0.97 wrong share the last bin: |0.96 - 0.5| = 0.46, not the mean of 0.05 and 0.97
        scorer.add(&[0.95, 0.05], 0).unwrap();
        scorer.add(&[0.97, 0.03], 1).unwrap();
        assert!(near((scorer.report().ece * 1e6).round() / 1e6, 0.46), "{}", scorer.report().ece);
    }

    #[test]
    fn rows_that_cannot_be_scored_are_named_and_not_counted() {
        let mut scorer = Scorer::new(2);
        let cases: &[(&[f32], usize, &str)] = &[
            (&[1.0], 0, "row 0: 1 probabilities, expected 2, one a class"),
            (&[0.5, 0.5], 2, "row 0: true class 2, expected less than 2"),
            (&[0.5, f32::NAN], 0, "row 0: probability of class 1 is NaN, expected 0 to 1; check the model's output"),
            (&[1.5, 0.0], 0, "row 0: probability of class 0 is 1.5, expected 0 to 1; check the model's output"),
        ];
        for (p, truth, expect) in cases {
            assert_eq!(scorer.add(p, *truth).unwrap_err().to_string(), *expect);
        }
        assert_eq!(scorer.rows(), 0);
        let empty = scorer.report();
        assert_eq!((empty.ece, empty.brier, empty.accuracy.of), (0.0, 0.0, 0));
    }

    #[test]
    fn out_of_scope_is_counted_both_ways() {
        let rows = [(true, true), (true, false), (false, true), (false, false), (false, false), (true, true)];
        let o = OutOfScope::from_rows(rows);
        assert_eq!((o.recall.hits, o.recall.of), (2, 3));
        assert_eq!((o.precision.hits, o.precision.of), (2, 3));
        assert_eq!((o.false_alarms.hits, o.false_alarms.of), (1, 3));
    }
}
