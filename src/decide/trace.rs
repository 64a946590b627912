//! What the decision was given, step by step: enough to decide again by other rules without an encoder running.
//!
//! The pipeline notes it when asked to ([`crate::pipeline`] is above; nothing here knows where a probability comes from), `eval` asks it
//! again and again. The decision is a pure function of what is noted, so that the bundle's own rules give the run's own verdicts.

use crate::signal::{DecidedBy, DecisionState};
use crate::time::Micros;

use super::{Choosable, FusedView, Policy, State, Verdict, choose, step};

/// Most bytes of probabilities that are kept: about a day of a bundle with three modalities and eleven classes.
const PROBABILITY_BYTES_MAX: usize = 512 << 20;

/// A set of modalities, bit `i` for the one with index `i`.
pub type Subset = u8;

/// A stream that is longer than what is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "what is to be decided takes more than {PROBABILITY_BYTES_MAX} bytes from {at} on; evaluate the recording in parts"
)]
pub struct TooLong {
    /// Where it was full.
    pub at: Micros,
}

/// One verdict of a decision that was taken again.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// When.
    pub t: Micros,
    /// What.
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    now: Micros,
    kind: StepKind,
}

#[derive(Clone, Copy, Debug)]
enum StepKind {
    Fused {
        present: Subset,
        /// Capture time of the request whose likeliest intent is below its threshold, and its modality.
        out_of_scope: Option<(usize, Micros)>,
    },
    Chosen {
        class: usize,
        from: Choosable,
    },
}

/// The inputs of every step, for every subset of the modalities that is asked for.
#[derive(Clone, Debug)]
pub struct Trace {
    classes: usize,
    subsets: Vec<Subset>,
    steps: Vec<Step>,
    /// `[fused steps][subsets][classes]`.
    p: Vec<f32>,
    full: Option<TooLong>,
}

/// What one fused step was given.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// When.
    pub now: Micros,
    /// Modalities whose token is fresh.
    pub present: Subset,
    /// Modality and capture time of a held request whose likeliest intent is below its threshold.
    pub out_of_scope: Option<(usize, Micros)>,
}

impl Trace {
    /// For a bundle with `modalities` encoders (at most 8) and `classes` classes: all modalities first, then each one removed, then each
    /// alone; a set that occurs twice is kept once.
    #[must_use]
    pub fn new(modalities: usize, classes: usize) -> Trace {
        assert!((1..=8).contains(&modalities), "Bundle::open bounds the encoders");
        let all = Subset::MAX >> (8 - modalities);
        let mut subsets = vec![all];
        let removed = (0..modalities).map(|i| all & !(1 << i));
        for subset in removed.chain((0..modalities).map(|i| 1 << i)) {
            if subset != 0 && !subsets.contains(&subset) {
                subsets.push(subset);
            }
        }
        Trace { classes, subsets, steps: Vec::new(), p: Vec::new(), full: None }
    }

    /// The subsets, all modalities first.
    #[must_use]
    pub fn subsets(&self) -> &[Subset] {
        &self.subsets
    }

    /// Notes a step; `fuse` writes the probabilities `[C]` of one set of fresh modalities, or says that it cannot.
    pub fn fused(&mut self, given: Given, mut fuse: impl FnMut(Subset, &mut [f32]) -> bool) {
        let (row, classes) = (self.p.len(), self.classes);
        if (row + self.subsets.len() * classes) * size_of::<f32>() > PROBABILITY_BYTES_MAX {
            self.full.get_or_insert(TooLong { at: given.now });
            return;
        }
        self.p.resize(row + self.subsets.len() * classes, 0.0);
        for (i, subset) in self.subsets.iter().enumerate() {
            let fresh = subset & given.present;
            // what leaves out only absent ones gives what was computed already
            let (before, own) = self.p[row..].split_at_mut(i * classes);
            match self.subsets[..i].iter().position(|s| s & given.present == fresh) {
                Some(same) => own[..classes].copy_from_slice(&before[same * classes..][..classes]),
                // a result that is no distribution is passed over by the decision, and counted there
                None if !fuse(fresh, &mut own[..classes]) => own[..classes].fill(f32::NAN),
                None => {}
            }
        }
        let Given { now, present, out_of_scope } = given;
        self.steps.push(Step { now, kind: StepKind::Fused { present, out_of_scope } });
    }

    /// Notes that a visitor chose `class`.
    pub fn chosen(&mut self, now: Micros, class: usize, from: Choosable) {
        if self.full.is_none() {
            self.steps.push(Step { now, kind: StepKind::Chosen { class, from } });
        }
    }

    /// Whether everything was kept.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn complete(&self) -> Result<(), TooLong> {
        self.full.map_or(Ok(()), Err)
    }

    /// Steps noted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing was noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Decides again with the subset of index `subset`, by `policy`.
    #[must_use]
    pub fn decide(&self, subset: usize, policy: &Policy) -> Vec<Decided> {
        let mut state = State::new(policy);
        let mut decided = Vec::new();
        let stride = self.subsets.len() * self.classes;
        let mut rows = self.p.chunks_exact(stride).map(|row| &row[subset * self.classes..][..self.classes]);
        for Step { now, kind } in &self.steps {
            let verdicts = match *kind {
                StepKind::Fused { present, out_of_scope } => {
                    let p = rows.next().expect("a row a fused step");
                    let takes_part = |i: usize| self.subsets[subset] >> i & 1 == 1;
                    let out_of_scope = out_of_scope.filter(|(i, _)| takes_part(*i) && policy.is_undecided(p));
                    let view = FusedView {
                        p,
                        present: present & self.subsets[subset] != 0,
                        out_of_scope: out_of_scope.map(|(_, t)| t),
                    };
                    step(&mut state, &view, *now, policy)
                }
                // refused under these rules: nothing was asked
                StepKind::Chosen { class, from } => choose(&mut state, class, from, *now, policy).unwrap_or_default(),
            };
            decided.extend(verdicts.into_iter().map(|verdict| Decided { t: *now, verdict }));
        }
        decided
    }
}

impl Decided {
    /// Whether a class was entered because of what was seen and heard, not because somebody chose it.
    #[must_use]
    pub fn is_own_enter(&self) -> bool {
        self.verdict.state == DecisionState::Enter && self.verdict.by != Some(DecidedBy::Choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::manifest::DecisionSpec;
    use std::sync::Arc;

    const STEP_MS: u64 = 100;

    fn policy(enter: f32) -> Policy {
        let labels: [Arc<str>; 3] = ["a".into(), "b".into(), "none".into()];
        Policy::new(&DecisionSpec { enter, smoothing_ms: 0, ..DecisionSpec::default() }, &labels).unwrap()
    }

    /// Two modalities: the first is sure of a from 1 s to 2 s, the second is at 0.75.
    fn trace() -> Trace {
        let mut trace = Trace::new(2, 3);
        for i in 0..30 {
            let now = Micros::from_ms(i * STEP_MS);
            let shown = (10..20).contains(&i);
            trace.fused(Given { now, present: 0b11, out_of_scope: None }, |subset, p| {
                let a = if subset & 1 == 1 { 0.98 } else { 0.75 };
                let a = if shown { a } else { 0.0 };
                p.copy_from_slice(&[a, 0.0, 1.0 - a]);
                true
            });
        }
        trace
    }

    #[test]
    fn every_subset_is_kept_once_and_all_come_first() {
        let cases = [(1, vec![1]), (2, vec![3, 2, 1]), (3, vec![7, 6, 5, 3, 1, 2, 4])];
        for (n, subsets) in cases {
            assert_eq!(Trace::new(n, 3).subsets(), subsets);
        }
        assert_eq!(Trace::new(8, 3).subsets().len(), 17);
    }

    #[test]
    fn other_rules_and_other_modalities_decide_otherwise() {
        let trace = trace();
        let entered = |subset, enter| trace.decide(subset, &policy(enter)).iter().filter(|d| d.is_own_enter()).count();
        // all, without the first, without the second
        let rows = [(0, 0.8, 1), (0, 0.99, 0), (1, 0.8, 0), (1, 0.7, 1), (2, 0.8, 1)];
        for (subset, enter, expected) in rows {
            assert_eq!(entered(subset, enter), expected, "subset {subset} at {enter}");
        }
    }

    #[test]
    fn a_result_that_cannot_be_is_no_decision() {
        let mut trace = Trace::new(1, 3);
        for i in 0..30 {
            let given = Given { now: Micros::from_ms(i * STEP_MS), present: 1, out_of_scope: None };
            trace.fused(given, |_, p| {
                p.copy_from_slice(&[1.0, 0.0, 0.0]);
                i < 10
            });
        }
        let decided = trace.decide(0, &policy(0.8));
        let states: Vec<_> = decided.iter().map(|d| d.verdict.state).collect();
        assert_eq!(states, [DecisionState::Enter, DecisionState::Exit]);
    }

    #[test]
    fn a_request_counts_as_out_of_scope_only_where_it_takes_part() {
        let mut trace = Trace::new(2, 3);
        for i in 0..200 {
            let now = Micros::from_ms(i * STEP_MS);
            // a new request every 2 s that is out of scope
            let request = Micros::from_ms(i / 20 * 2000 + 1);
            trace.fused(Given { now, present: 0b11, out_of_scope: Some((1, request)) }, |_, p| {
                p.copy_from_slice(&[0.0, 0.0, 1.0]);
                true
            });
        }
        let staff = |subset| {
            let decided = trace.decide(subset, &policy(0.8));
            decided.iter().filter(|d| d.verdict.state == DecisionState::Escalate).count()
        };
        assert_eq!(trace.subsets(), [3, 2, 1]);
        assert_eq!((staff(0), staff(1), staff(2)), (1, 1, 0));
    }
}
