//! The rules of a decision, checked once, in the units the state machine computes with.

use std::sync::Arc;

use crate::config::manifest::DecisionSpec;
use crate::time::Micros;

/// A `[decision]` section that cannot work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// A key has a value outside its range, or contradicts another key. The message names both and what to write.
    #[error("decision.{key} = {value}, expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is expected, and why.
        expected: String,
    },
    /// `none` is not one of the labels.
    #[error(
        "decision.none = \"{none}\" is not among the {count} labels; name the label for \"nobody asks\", or write \"\" if there is none"
    )]
    UnknownNone {
        /// The label that was named.
        none: String,
        /// How many labels there are.
        count: usize,
    },
    /// A label occurs twice.
    #[error("label \"{label}\" occurs twice; every class needs a label of its own")]
    DuplicateLabel {
        /// The label.
        label: String,
    },
    /// Nothing can be decided.
    #[error("the labels name no class besides \"{none}\"; a decision needs at least one")]
    NoClass {
        /// The label for "nobody asks".
        none: String,
    },
}

/// Checked rules. Built once per bundle; shared by every [`super::step`].
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub(super) labels: Vec<Arc<str>>,
    pub(super) none: Option<usize>,
    pub(super) smoothing: Micros,
    pub(super) enter: f32,
    pub(super) dwell: Micros,
    pub(super) exit: f32,
    pub(super) exit_dwell: Micros,
    pub(super) cooldown: Micros,
    pub(super) max_step: Micros,
    pub(super) ask_after: Micros,
    pub(super) ask_min: f32,
    pub(super) unclear: Micros,
    pub(super) escalate_after: u32,
    pub(super) visit_end: Micros,
}

impl Policy {
    /// Checks `spec` against itself and against `labels`, the bundle's classes in the order of the fused probabilities.
    ///
    /// # Errors
    /// [`PolicyError`] names the key, its value and what was expected.
    pub fn new(spec: &DecisionSpec, labels: &[Arc<str>]) -> Result<Policy, PolicyError> {
        for (i, label) in labels.iter().enumerate() {
            if labels[..i].contains(label) {
                return Err(PolicyError::DuplicateLabel { label: label.to_string() });
            }
        }
        let none = match (spec.none.as_str(), labels.iter().position(|l| **l == *spec.none)) {
            ("", _) => None,
            (_, Some(i)) => Some(i),
            (none, None) => return Err(PolicyError::UnknownNone { none: none.to_owned(), count: labels.len() }),
        };
        if labels.len() <= usize::from(none.is_some()) {
            return Err(PolicyError::NoClass { none: spec.none.clone() });
        }
        check_thresholds(spec.enter, spec.exit, spec.ask_min)?;
        if 2.0 * spec.ask_min > 1.0 {
            return Err(value("ask_min", spec.ask_min, "at most 0.5: two choices cannot both be likelier"));
        }
        let at_least = |key, have: u32, min: u32, why: &str| {
            if have >= min {
                Ok(Micros::from_ms(u64::from(have)))
            } else {
                Err(PolicyError::Value { key, value: have.to_string(), expected: format!("at least {min}{why}") })
            }
        };
        Ok(Policy {
            labels: labels.to_vec(),
            none,
            smoothing: at_least("smoothing_ms", spec.smoothing_ms, 0, "")?,
            enter: spec.enter,
            dwell: at_least("dwell_ms", spec.dwell_ms, 0, "")?,
            exit: spec.exit,
            exit_dwell: at_least("exit_dwell_ms", spec.exit_dwell_ms, 0, "")?,
            cooldown: at_least("cooldown_ms", spec.cooldown_ms, 0, "")?,
            max_step: at_least("max_step_ms", spec.max_step_ms, 1, ", else no result ever counts")?,
            ask_after: at_least("ask_after_ms", spec.ask_after_ms, 0, "")?,
            ask_min: spec.ask_min,
            unclear: at_least("unclear_ms", spec.unclear_ms, 1, ", else every step is a failure")?,
            escalate_after: spec.escalate_after,
            visit_end: at_least("visit_end_ms", spec.visit_end_ms, 1, ", else a visit ends as it starts")?,
        })
    }

    /// The rules of a bundle without classes: there is nothing to decide.
    ///
    /// # Panics
    /// If the defaults contradict each other, which a test would tell.
    #[must_use]
    pub fn of_nothing() -> Policy {
        let spec = DecisionSpec { none: String::new(), ..DecisionSpec::default() };
        let mut policy = Policy::new(&spec, &["".into()]).expect("the defaults are checked by a test");
        policy.labels.clear();
        policy
    }

    /// The classes, in the order of the fused probabilities.
    #[must_use]
    pub fn labels(&self) -> &[Arc<str>] {
        &self.labels
    }

    /// The smoothed probability at which a class is entered.
    #[must_use]
    pub fn enter(&self) -> f32 {
        self.enter
    }

    /// The smoothed probability below which a class is left.
    #[must_use]
    pub fn exit(&self) -> f32 {
        self.exit
    }

    /// Changes both thresholds, within the bounds that [`Policy::new`] checks; nothing is changed otherwise.
    ///
    /// # Errors
    /// [`PolicyError::Value`].
    pub fn set_thresholds(&mut self, enter: f32, exit: f32) -> Result<(), PolicyError> {
        check_thresholds(enter, exit, self.ask_min)?;
        (self.enter, self.exit) = (enter, exit);
        Ok(())
    }

    /// Whether a fused result, f32 `[C]`, decides nothing by itself: `none` is the likeliest, or what is stays below `enter`.
    /// Of equals the first counts.
    #[must_use]
    pub fn is_undecided(&self, p: &[f32]) -> bool {
        let top = (0..p.len()).fold(0, |best, class| if p[class] > p[best] { class } else { best });
        Some(top) == self.none || p.get(top).is_none_or(|p| *p < self.enter)
    }

    /// Index of the label that means "nobody asks anything".
    #[must_use]
    pub fn none(&self) -> Option<usize> {
        self.none
    }
}

fn value(key: &'static str, value: f32, expected: &str) -> PolicyError {
    PolicyError::Value { key, value: value.to_string(), expected: expected.to_owned() }
}

/// The two thresholds against each other and against what a question needs. NaN fails every comparison.
fn check_thresholds(enter: f32, exit: f32, ask_min: f32) -> Result<(), PolicyError> {
    // Above one half only one class at a time can qualify, which the machine relies on.
    if !(enter > 0.5 && enter < 1.0) {
        return Err(value("enter", enter, "more than 0.5, so that only one class can reach it, and less than 1"));
    }
    let below = format!("more than 0 and less than decision.enter = {enter}");
    if !(exit > 0.0 && exit < enter) {
        return Err(value("exit", exit, &format!("{below}, so that a decision does not flutter")));
    }
    if !(ask_min > 0.0 && ask_min < enter) {
        return Err(value("ask_min", ask_min, &below));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_change_within_their_bounds_and_together() {
        let mut policy = Policy::new(&DecisionSpec::default(), &labels(&["a", "none"])).unwrap();
        policy.set_thresholds(0.6, 0.5).unwrap();
        assert_eq!((policy.enter(), policy.exit()), (0.6, 0.5));
        for (enter, exit, key) in
            [(0.5, 0.4, "enter"), (0.7, 0.7, "exit"), (f32::NAN, 0.4, "enter"), (0.7, 0.0, "exit")]
        {
            let error = policy.set_thresholds(enter, exit).unwrap_err().to_string();
            assert!(error.starts_with(&format!("decision.{key} = ")), "{error}");
            assert_eq!((policy.enter(), policy.exit()), (0.6, 0.5), "{enter} {exit}");
        }
    }

    fn labels(n: &[&str]) -> Vec<Arc<str>> {
        n.iter().map(|l| Arc::from(*l)).collect()
    }

    #[test]
    fn rules_that_cannot_work_are_named() {
        let ok = DecisionSpec::default;
        let three = ["a", "b", "none"];
        let cases: &[(DecisionSpec, &[&str], &str)] = &[
            (ok(), &three, ""),
            (DecisionSpec { none: String::new(), ..ok() }, &["a"], ""),
            (DecisionSpec { enter: 0.5, ..ok() }, &three, "decision.enter = 0.5, expected more than 0.5"),
            (DecisionSpec { enter: f32::NAN, ..ok() }, &three, "decision.enter = NaN, expected more than 0.5"),
            (DecisionSpec { enter: 1.0, ..ok() }, &three, "decision.enter = 1, expected"),
            (
                DecisionSpec { exit: 0.9, ..ok() },
                &three,
                "decision.exit = 0.9, expected more than 0 and less than decision.enter = 0.8",
            ),
            (DecisionSpec { exit: f32::NAN, ..ok() }, &three, "decision.exit = NaN"),
            (DecisionSpec { ask_min: 0.0, ..ok() }, &three, "decision.ask_min = 0, expected more than 0"),
            (DecisionSpec { ask_min: 0.6, ..ok() }, &three, "decision.ask_min = 0.6, expected at most 0.5"),
            (DecisionSpec { max_step_ms: 0, ..ok() }, &three, "decision.max_step_ms = 0, expected at least 1"),
            (DecisionSpec { unclear_ms: 0, ..ok() }, &three, "decision.unclear_ms = 0, expected at least 1"),
            (DecisionSpec { visit_end_ms: 0, ..ok() }, &three, "decision.visit_end_ms = 0, expected at least 1"),
            (
                DecisionSpec { none: "nobody".into(), ..ok() },
                &three,
                "decision.none = \"nobody\" is not among the 3 labels",
            ),
            (ok(), &["none"], "the labels name no class besides \"none\""),
            (DecisionSpec { none: String::new(), ..ok() }, &[], "the labels name no class"),
            (ok(), &["a", "a", "none"], "label \"a\" occurs twice"),
        ];
        for (spec, names, expect) in cases {
            let got = Policy::new(spec, &labels(names)).map_or_else(|e| e.to_string(), |_| String::new());
            assert!(
                if expect.is_empty() { got.is_empty() } else { got.starts_with(expect) },
                "labels {names:?}, {spec:?}: got {got:?}, expected {expect:?}"
            );
        }
    }
}
