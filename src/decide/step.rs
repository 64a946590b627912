//! The state machine: one fused result in, at most a few verdicts out. docs/decision.md draws it.
//!
//! A fused result is taken to hold until the next one arrives (at most `max_step_ms`), so what counts is how long
//! something was seen, not how many windows happened to say so: the pipeline may call [`step`] at any rate, and calling it
//! again with the same result (a tick) changes nothing but how soon a verdict comes.

use crate::signal::{DecidedBy, DecisionState, MAX_CHOICES, OFFER_HOLDS};
use crate::time::Micros;

use super::Policy;

/// Most verdicts of one step: an exit, the enter that caused it, a question, a call for staff.
pub const MAX_VERDICTS: usize = 4;

/// What one step decides, in the order it happened.
pub type Verdicts = heapless::Vec<Verdict, MAX_VERDICTS>;

/// Sum of probabilities may be off by this much: f32 softmax over a few hundred classes stays far below.
const SUM_TOLERANCE: f32 = 0.02;

/// `none` at or below this: somebody is there.
const ENGAGED: f32 = 0.5;

/// One fused result, as plain values: the fusion lives on a higher floor.
#[derive(Clone, Copy, Debug)]
pub struct FusedView<'a> {
    /// Calibrated probabilities, f32 `[C]`, in the order of the policy's labels.
    pub p: &'a [f32],
    /// Whether any modality took part. If not, `p` is not looked at and the machine drifts towards `none`.
    pub present: bool,
    /// Capture time of the request that was judged out of scope, as long as it is held. Each time counts once.
    pub out_of_scope: Option<Micros>,
}

/// Something was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What changed.
    pub state: DecisionState,
    /// Class it is about: entered, left, or (ask, escalate) the likeliest that is not `none`. Index into the labels.
    pub class: usize,
    /// Smoothed probability of `class`, in [0, 1]; 1 if the visitor chose it.
    pub p: f32,
    /// What led to it, if not the fused results.
    pub by: Option<DecidedBy>,
    /// The alternatives of a question with their smoothed probabilities, likeliest first; empty otherwise.
    pub choices: heapless::Vec<(usize, f32), MAX_CHOICES>,
}

/// What the machine had to put up with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Fused results with NaN, a value outside [0, 1], a sum that is not 1, or another length than the labels.
    pub ignored_windows: u64,
    /// Steps whose time was before the previous step's.
    pub backward_steps: u64,
    /// Steps further than `max_step_ms` from the previous.
    pub gaps: u64,
    /// Visits that have started.
    pub visits: u64,
    /// Classes that visitors chose.
    pub choices: u64,
}

/// Alternatives of a question, in label order, so that the same set is recognised whoever leads.
type ChoiceSet = heapless::Vec<usize, MAX_CHOICES>;

#[derive(Clone, Debug)]
struct Active {
    class: usize,
    below_since: Option<Micros>,
    /// Until then it is not left for being unlikely: nothing that is seen has to bear out what a visitor chose.
    holds_until: Micros,
}

#[derive(Clone, Debug)]
struct Visit {
    last_engaged: Micros,
    failures: u32,
    escalated: bool,
}

/// A stretch in which somebody seems to want something, from the last outcome on.
#[derive(Clone, Debug)]
struct Attempt {
    since: Micros,
    /// Since when it is certain that it is not `none`, but not what it is.
    unclear_since: Option<Micros>,
    /// It stayed so long enough to deserve an answer.
    unclear: bool,
}

/// What is remembered between steps. Allocates in [`State::new`] only.
#[derive(Clone, Debug)]
pub struct State {
    smoothed: Vec<f32>,
    held: Vec<f32>,
    held_present: bool,
    last_step: Option<Micros>,
    /// The machine's own time: the forward movements of the caller's, so that a clock set back cannot undo a wait.
    clock: Micros,
    active: Option<Active>,
    candidate: Option<(usize, Micros)>,
    cooldown_until: Vec<Micros>,
    pending: Option<(ChoiceSet, Micros)>,
    asked: Option<(ChoiceSet, Micros)>,
    /// The newest question without an answer, and when it was asked.
    offered: Option<(ChoiceSet, Micros)>,
    attempt: Option<Attempt>,
    visit: Option<Visit>,
    out_of_scope: Option<Micros>,
    counters: Counters,
}

impl State {
    /// Nobody is there.
    #[must_use]
    pub fn new(policy: &Policy) -> State {
        let classes = policy.labels.len();
        let mut smoothed = vec![0.0; classes];
        if let Some(none) = policy.none {
            smoothed[none] = 1.0;
        }
        State {
            held: smoothed.clone(),
            smoothed,
            held_present: false,
            last_step: None,
            clock: Micros::ZERO,
            active: None,
            candidate: None,
            cooldown_until: vec![Micros::ZERO; classes],
            pending: None,
            asked: None,
            offered: None,
            attempt: None,
            visit: None,
            out_of_scope: None,
            counters: Counters::default(),
        }
    }

    /// Smoothed probabilities, f32 `[C]`.
    #[must_use]
    pub fn smoothed(&self) -> &[f32] {
        &self.smoothed
    }

    /// The class that is decided at present.
    #[must_use]
    pub fn active(&self) -> Option<usize> {
        self.active.as_ref().map(|a| a.class)
    }

    /// Failures in a row of the visit that is under way; `None` when nobody is there.
    #[must_use]
    pub fn visit_failures(&self) -> Option<u32> {
        self.visit.as_ref().map(|v| v.failures)
    }

    /// The classes of the newest question that has no answer; empty if there is none.
    #[must_use]
    pub fn offered(&self) -> &[usize] {
        self.offered.as_ref().map_or(&[], |(set, _)| set)
    }

    /// What went wrong so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Lets `span` pass with `target` as input; `None`: nothing is present.
    ///
    /// Every smoothed value moves monotonically within a span, so each threshold is crossed at most once and the
    /// moment of crossing is exact, wherever the steps happen to fall.
    fn advance(&mut self, held: bool, span: Micros, policy: &Policy) {
        let start = self.clock;
        self.clock = start + span;
        let fade = fade(span, policy.smoothing);
        let (mut top, mut top_before, mut top_target) = (None, 0.0, 0.0);
        let mut exit_crossing = Micros::ZERO;
        for class in 0..self.smoothed.len() {
            let is_none = policy.none == Some(class);
            let target = if held { self.held[class] } else { f32::from(u8::from(is_none)) };
            let before = self.smoothed[class];
            let after = target + (before - target) * fade;
            self.smoothed[class] = after;
            if !is_none && after >= policy.enter {
                (top, top_before, top_target) = (Some(class), before, target);
            }
            if self.active() == Some(class) {
                exit_crossing = crossing(before, target, policy.exit, span, policy.smoothing);
            }
        }
        self.candidate = match (top, self.candidate) {
            (Some(class), Some((same, since))) if class == same => Some((class, since)),
            (Some(class), _) => {
                Some((class, start + crossing(top_before, top_target, policy.enter, span, policy.smoothing)))
            }
            (None, _) => None,
        };
        if let Some(active) = &mut self.active {
            let below = self.smoothed[active.class] < policy.exit;
            active.below_since = below.then(|| active.below_since.unwrap_or(start + exit_crossing));
        }
    }

    /// The likeliest classes that are not `none`, likeliest first.
    fn ranking(&self, policy: &Policy) -> heapless::Vec<(usize, f32), MAX_CHOICES> {
        let mut best: heapless::Vec<(usize, f32), MAX_CHOICES> = heapless::Vec::new();
        for (class, &p) in self.smoothed.iter().enumerate() {
            if policy.none == Some(class) {
                continue;
            }
            let at = best.iter().position(|(_, q)| p > *q).unwrap_or(best.len());
            if at < MAX_CHOICES {
                if best.is_full() {
                    best.pop();
                }
                // There is room: one was popped.
                let _ = best.insert(at, (class, p));
            }
        }
        best
    }

    /// Probability that it is anything but `none`.
    fn not_none(&self, policy: &Policy) -> f32 {
        policy.none.map_or_else(|| self.smoothed.iter().sum(), |none| 1.0 - self.smoothed[none])
    }

    /// Takes `fused` as what holds from here on; whatever cannot be a distribution counts as absence.
    fn hold(&mut self, fused: &FusedView) {
        self.held_present = false;
        if !fused.present {
            return;
        }
        let legal = fused.p.len() == self.held.len()
            // NaN fails both comparisons
            && fused.p.iter().all(|p| *p >= 0.0 && *p <= 1.0 + SUM_TOLERANCE)
            && (fused.p.iter().sum::<f32>() - 1.0).abs() <= SUM_TOLERANCE;
        if legal {
            self.held.copy_from_slice(fused.p);
            self.held_present = true;
        } else {
            self.counters.ignored_windows += 1;
        }
    }

    fn keep_visit(&mut self) {
        let clock = self.clock;
        if self.visit.is_none() {
            self.counters.visits += 1;
        }
        self.visit.get_or_insert(Visit { last_engaged: clock, failures: 0, escalated: false }).last_engaged = clock;
    }

    fn failure(&mut self) {
        if let Some(visit) = &mut self.visit {
            visit.failures += 1;
        }
    }

    fn leave(&mut self, policy: &Policy, out: &mut Verdicts) {
        if let Some(active) = self.active.take() {
            self.cooldown_until[active.class] = self.clock + policy.cooldown;
            // What is seen from here on is a new attempt.
            self.attempt = None;
            push(out, DecisionState::Exit, active.class, self.smoothed[active.class], heapless::Vec::new());
        }
    }

    fn exit_and_enter(&mut self, policy: &Policy, out: &mut Verdicts) {
        let clock = self.clock;
        let is_lost = |a: &Active| {
            let below = a.below_since.map(|since| since.max(a.holds_until));
            below.is_some_and(|since| clock >= since && clock - since >= policy.exit_dwell)
        };
        let lost = self.active.as_ref().is_some_and(is_lost);
        let entering = self.candidate.filter(|(class, since)| {
            self.active() != Some(*class) && clock - *since >= policy.dwell && clock >= self.cooldown_until[*class]
        });
        if lost || entering.is_some() {
            self.leave(policy, out);
        }
        if let Some((class, _)) = entering {
            self.enter(class, Micros::ZERO);
            push(out, DecisionState::Enter, class, self.smoothed[class], heapless::Vec::new());
        }
    }

    /// `class` is decided: questions are answered, and the visit has no failures any more.
    fn enter(&mut self, class: usize, holds_until: Micros) {
        self.active = Some(Active { class, below_since: None, holds_until });
        (self.asked, self.offered) = (None, None);
        self.keep_visit();
        if let Some(visit) = &mut self.visit {
            visit.failures = 0;
        }
    }

    fn ask(&mut self, policy: &Policy, out: &mut Verdicts) {
        let clock = self.clock;
        let open = self.active.is_none() && self.candidate.is_none();
        let choices = if open { choices(&self.ranking(policy), policy) } else { None };
        let Some(choices) = choices else {
            self.pending = None;
            if self.asked.as_ref().is_some_and(|(_, seen)| clock - *seen >= policy.cooldown) {
                self.asked = None;
            }
            return;
        };
        let mut set: ChoiceSet = choices.iter().map(|(class, _)| *class).collect();
        set.sort_unstable();
        if let Some((asked, seen)) = &mut self.asked
            && *asked == set
        {
            *seen = clock;
            self.pending = None;
            return;
        }
        let since = match &self.pending {
            Some((pending, since)) if *pending == set => *since,
            _ => clock,
        };
        if clock - since < policy.ask_after {
            self.pending = Some((set, since));
            return;
        }
        self.pending = None;
        self.offered = Some((set.clone(), clock));
        self.asked = Some((set, clock));
        self.keep_visit();
        self.failure();
        self.attempt = Some(Attempt { since: clock, unclear_since: None, unclear: false });
        let (class, p) = choices[0];
        push(out, DecisionState::Ask, class, p, choices);
    }

    /// Counts a failure when somebody was clearly there, and nothing came of it.
    fn watch_attempt(&mut self, policy: &Policy) {
        let clock = self.clock;
        let not_none = self.not_none(policy);
        let engaged = not_none >= ENGAGED;
        if engaged || self.active.is_some() {
            self.keep_visit();
        }
        if self.active.is_some() || self.candidate.is_some() {
            self.attempt = None;
            return;
        }
        if !engaged {
            if self.attempt.take().is_some_and(|a| a.unclear) {
                self.failure();
            }
            return;
        }
        let attempt = self.attempt.get_or_insert(Attempt { since: clock, unclear_since: None, unclear: false });
        if not_none >= policy.enter {
            let since = *attempt.unclear_since.get_or_insert(clock);
            // A question that is already on the screen is that attempt's failure.
            attempt.unclear |= self.asked.is_none() && clock - since >= policy.ask_after;
        } else {
            attempt.unclear_since = None;
        }
        if clock - attempt.since >= policy.unclear {
            *attempt = Attempt { since: clock, unclear_since: None, unclear: false };
            self.failure();
        }
    }

    fn watch_visit(&mut self, policy: &Policy, out: &mut Verdicts) {
        let clock = self.clock;
        let best = self.ranking(policy);
        let Some(visit) = &mut self.visit else { return };
        if policy.escalate_after > 0 && visit.failures >= policy.escalate_after && !visit.escalated {
            visit.escalated = true;
            if let Some((class, p)) = best.first() {
                push(out, DecisionState::Escalate, *class, *p, heapless::Vec::new());
            }
        }
        if clock - visit.last_engaged >= policy.visit_end {
            self.visit = None;
            self.asked = None;
        }
    }
}

/// One step: time passes up to `now` with the previous result, then `fused` takes over; what that decides, in order.
///
/// Call it on every fused result and, so that a single result (a typed line) can mature, at least every 100 ms. `now` may
/// be irregular; a clock that runs backwards stops the machine for that step (counted), one that jumps forward lets the
/// previous result count for `max_step_ms` and nothing for the rest (counted). Allocates nothing.
pub fn step(state: &mut State, fused: &FusedView, now: Micros, policy: &Policy) -> Verdicts {
    let mut out = Verdicts::new();
    pass_time(state, now, policy);
    state.hold(fused);

    state.exit_and_enter(policy, &mut out);
    if let Some(t) = fused.out_of_scope
        && state.out_of_scope != Some(t)
    {
        state.out_of_scope = Some(t);
        state.keep_visit();
        state.failure();
    }
    state.ask(policy, &mut out);
    state.watch_attempt(policy);
    state.watch_visit(policy, &mut out);
    out
}

/// What a visitor may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choosable {
    /// The classes of the newest question, for [`OFFER_HOLDS`] after it.
    Offered,
    /// Every class: nothing but a page is left to ask with.
    Every,
}

/// A choice that was not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotChosen {
    /// It is `none`, or no class at all.
    #[error("it is no class that can be decided")]
    NoClass,
    /// It is none of the classes in question.
    #[error("no open question offers it")]
    NotOffered,
}

/// The visitor has chosen `class`: it is entered with p = 1, after the exit of another class that was decided. Choosing the class that
/// is decided keeps it. Time passes as in [`step`], which goes on from here.
///
/// A choice is no window: it waits for no dwell and no cooldown, it answers the question, clears the visit's failures as every decision
/// does, and is not left for being unlikely until `visit_end_ms` later. Another class that reaches `enter` takes over as always.
///
/// # Errors
/// [`NotChosen`]; time has passed, nothing else has changed.
pub fn choose(
    state: &mut State,
    class: usize,
    from: Choosable,
    now: Micros,
    policy: &Policy,
) -> Result<Verdicts, NotChosen> {
    pass_time(state, now, policy);
    if class >= policy.labels.len() || policy.none == Some(class) {
        return Err(NotChosen::NoClass);
    }
    let clock = state.clock;
    let is_offered =
        state.offered.as_ref().is_some_and(|(set, asked)| set.contains(&class) && clock - *asked <= OFFER_HOLDS);
    if from == Choosable::Offered && !is_offered {
        return Err(NotChosen::NotOffered);
    }
    let mut out = Verdicts::new();
    let was = state.active();
    if was != Some(class) {
        state.leave(policy, &mut out);
    }
    // what was on its way to be decided has to earn its dwell again
    (state.candidate, state.pending, state.attempt) = (None, None, None);
    state.enter(class, clock + policy.visit_end);
    state.counters.choices += 1;
    if was != Some(class) {
        push(&mut out, DecisionState::Enter, class, 1.0, heapless::Vec::new());
        if let Some(verdict) = out.last_mut() {
            verdict.by = Some(DecidedBy::Choice);
        }
    }
    Ok(out)
}

/// Lets the time up to `now` pass with the previous result.
fn pass_time(state: &mut State, now: Micros, policy: &Policy) {
    let span = match state.last_step {
        Some(last) if now < last => {
            state.counters.backward_steps += 1;
            Micros::ZERO
        }
        Some(last) => now - last,
        None => Micros::ZERO,
    };
    state.last_step = Some(now);
    let counted = span.min(policy.max_step);
    state.advance(state.held_present, counted, policy);
    if span > counted {
        state.counters.gaps += 1;
        state.advance(false, span - counted, policy);
    }
}

/// The two or, failing that, three likeliest that together reach `enter` while each is worth offering.
fn choices(ranking: &[(usize, f32)], policy: &Policy) -> Option<heapless::Vec<(usize, f32), MAX_CHOICES>> {
    (2..=MAX_CHOICES.min(ranking.len())).map(|n| &ranking[..n]).find_map(|some| {
        let together: f32 = some.iter().map(|(_, p)| p).sum();
        let fits = together >= policy.enter && some.iter().all(|(_, p)| *p >= policy.ask_min);
        fits.then(|| some.iter().copied().collect())
    })
}

/// What is left after `span` of the distance to the target: `exp(-span / tau)`.
fn fade(span: Micros, tau: Micros) -> f32 {
    if tau == Micros::ZERO {
        f32::from(u8::from(span == Micros::ZERO))
    } else {
        (-(span.0 as f32) / tau.0 as f32).exp()
    }
}

/// When, within `span`, a value that fades from `before` to `target` passes `level`; zero if it was there at the start.
fn crossing(before: f32, target: f32, level: f32, span: Micros, tau: Micros) -> Micros {
    let ratio = (before - target) / (level - target);
    if !(ratio.is_finite() && ratio > 1.0) || (before >= level) == (target >= level) {
        return Micros::ZERO;
    }
    Micros((tau.0 as f32 * ratio.ln()) as u64).min(span)
}

fn push(
    out: &mut Verdicts,
    state: DecisionState,
    class: usize,
    p: f32,
    choices: heapless::Vec<(usize, f32), MAX_CHOICES>,
) {
    // Never full: a step exits, enters, asks and escalates at most once each.
    let _ = out.push(Verdict { state, class, p: p.clamp(0.0, 1.0), by: None, choices });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::config::manifest::DecisionSpec;

    /// Ten desks and none, as in the kiosk.
    const CLASSES: usize = 11;
    const NONE: usize = 10;

    fn policy_of(spec: &DecisionSpec) -> Policy {
        let labels: Vec<Arc<str>> =
            (0..10).map(|k| Arc::from(format!("desk_{k}"))).chain([Arc::from("none")]).collect();
        Policy::new(spec, &labels).unwrap()
    }

    /// A distribution with `some` as given and the rest on `none`.
    fn dist(some: &[(usize, f32)]) -> [f32; CLASSES] {
        let mut p = [0.0; CLASSES];
        p[NONE] = 1.0 - some.iter().map(|(_, p)| p).sum::<f32>();
        for (class, q) in some {
            p[*class] = *q;
        }
        p
    }

    /// A scripted run: what is fed when, and what came out.
    struct Run {
        policy: Policy,
        state: State,
        now_ms: u64,
        log: Vec<String>,
    }

    impl Run {
        fn new() -> Run {
            Run::with(&DecisionSpec::default())
        }

        fn with(spec: &DecisionSpec) -> Run {
            let policy = policy_of(spec);
            Run { state: State::new(&policy), policy, now_ms: 0, log: Vec::new() }
        }

        fn feed(&mut self, view: &FusedView) {
            for v in step(&mut self.state, view, Micros::from_ms(self.now_ms), &self.policy) {
                let mut line = format!("{} {:?} {}", self.now_ms, v.state, v.class);
                for (class, _) in &v.choices {
                    line += &format!(" {class}?");
                }
                self.log.push(line);
            }
        }

        fn see(&mut self, some: &[(usize, f32)]) {
            self.feed(&FusedView { p: &dist(some), present: true, out_of_scope: None });
        }

        /// `some` from now on for `span_ms`, in steps of `every_ms`; the end belongs to what follows.
        fn show(&mut self, some: &[(usize, f32)], span_ms: u64, every_ms: u64) -> &mut Run {
            let end = self.now_ms + span_ms;
            while self.now_ms < end {
                self.see(some);
                self.now_ms = end.min(self.now_ms + every_ms);
            }
            self
        }

        fn absent(&mut self, span_ms: u64, every_ms: u64) -> &mut Run {
            let end = self.now_ms + span_ms;
            while self.now_ms < end {
                self.feed(&FusedView { p: &[], present: false, out_of_scope: None });
                self.now_ms = end.min(self.now_ms + every_ms);
            }
            self
        }
    }

    #[test]
    fn what_is_shown_becomes_what_is_decided() {
        type Script = fn(&mut Run) -> &mut Run;
        let cases: &[(&str, Script, &[&str])] = &[
            ("nobody", |r| r.show(&[], 5000, 250), &[]),
            ("no modality at all", |r| r.absent(5000, 250), &[]),
            (
                "a card, 5 frames a second",
                |r| r.show(&[(3, 0.95)], 2000, 200).show(&[], 2000, 200),
                &["600 Enter 3", "2800 Exit 3"],
            ),
            (
                "a spoken digit in three windows",
                |r| r.show(&[(3, 0.95)], 750, 250).show(&[], 2000, 250),
                &["500 Enter 3", "1500 Exit 3"],
            ),
            (
                "a spoken digit in two windows",
                |r| r.show(&[(3, 0.95)], 500, 250).show(&[], 2000, 250),
                &["500 Enter 3", "1250 Exit 3"],
            ),
            ("one stray window", |r| r.show(&[(3, 0.97)], 250, 250).show(&[], 2000, 250), &[]),
            ("one stray window, certain", |r| r.show(&[(3, 1.0)], 250, 50).show(&[], 2000, 50), &[]),
            (
                "stray windows that disagree",
                |r| {
                    r.show(&[(3, 0.97)], 250, 50).show(&[(5, 0.97)], 250, 50).show(&[(7, 0.97)], 250, 50).show(
                        &[],
                        2000,
                        50,
                    )
                },
                &[],
            ),
            ("close to certain is not enough", |r| r.show(&[(3, 0.79)], 2900, 100), &[]),
            (
                "a blurred frame does not end a decision",
                |r| r.show(&[(3, 0.95)], 1000, 200).show(&[(3, 0.1)], 200, 200).show(&[(3, 0.95)], 1000, 200),
                &["600 Enter 3"],
            ),
            (
                "another class takes over",
                |r| r.show(&[(3, 0.95)], 1000, 100).show(&[(5, 0.95)], 1000, 100),
                &["500 Enter 3", "1500 Exit 3", "1500 Enter 5"],
            ),
            (
                "the same class waits for the cooldown",
                |r| r.show(&[(3, 0.95)], 1000, 100).show(&[], 1000, 100).show(&[(3, 0.95)], 3000, 100),
                &["500 Enter 3", "1700 Exit 3", "3700 Enter 3"],
            ),
            (
                "everything disappears",
                |r| r.show(&[(3, 0.95)], 1000, 100).absent(2000, 100),
                &["500 Enter 3", "1700 Exit 3"],
            ),
            (
                "two classes that are too close, asked once",
                |r| r.show(&[(8, 0.5), (3, 0.45)], 2000, 100),
                &["700 Ask 8 8? 3?"],
            ),
            (
                "three classes that are too close",
                |r| r.show(&[(8, 0.35), (3, 0.32), (5, 0.3)], 2000, 100),
                &["700 Ask 8 8? 3? 5?"],
            ),
            ("four are no question", |r| r.show(&[(8, 0.25), (3, 0.25), (5, 0.25), (1, 0.25)], 2000, 100), &[]),
            (
                "a question is answered",
                |r| r.show(&[(8, 0.5), (3, 0.45)], 1000, 100).show(&[(3, 0.95)], 1000, 100),
                &["700 Ask 8 8? 3?", "1400 Enter 3"],
            ),
            (
                "the leader changes, the question does not",
                |r| r.show(&[(8, 0.5), (3, 0.45)], 1000, 100).show(&[(8, 0.45), (3, 0.5)], 1000, 100),
                &["700 Ask 8 8? 3?"],
            ),
            (
                "another question",
                |r| r.show(&[(8, 0.5), (3, 0.45)], 1000, 100).show(&[(1, 0.5), (7, 0.45)], 1000, 100),
                &["700 Ask 8 8? 3?", "1700 Ask 1 1? 7?"],
            ),
            (
                "the same question after the cooldown",
                |r| {
                    r.show(&[(8, 0.5), (3, 0.45)], 1000, 100).show(&[], 2500, 100).show(
                        &[(8, 0.5), (3, 0.45)],
                        1000,
                        100,
                    )
                },
                &["700 Ask 8 8? 3?", "4200 Ask 8 8? 3?"],
            ),
        ];
        let mut wrong = Vec::new();
        for (name, script, expect) in cases {
            let mut run = Run::new();
            script(&mut run);
            if run.log != *expect {
                wrong.push(format!("{name}: got {:?}, expected {expect:?}", run.log));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Speech windows every 250 ms beside camera frames every 200 ms that see no card, at every phase between the two.
    #[test]
    fn a_word_enters_and_a_stray_window_does_not_whatever_the_camera_does() {
        let run = |speech: &[f32], phase_ms: u64| {
            let policy = policy_of(&DecisionSpec::default());
            let mut state = State::new(&policy);
            let (mut entered, mut p) = (None, 0.0);
            for t in 0..4000u64 {
                let window = t % 250 == 0;
                if window {
                    p = (t / 250).checked_sub(4).and_then(|k| speech.get(k as usize)).copied().unwrap_or(0.0);
                }
                if window || t % 200 == phase_ms {
                    let view = FusedView { p: &dist(&[(3, p)]), present: true, out_of_scope: None };
                    for v in step(&mut state, &view, Micros::from_ms(t), &policy) {
                        if v.state == DecisionState::Enter {
                            entered = entered.or(Some(t - 1000));
                        }
                    }
                }
            }
            entered
        };
        for phase in 0..200 {
            for stray in [&[0.97][..], &[1.0], &[0.3, 0.97, 0.3], &[0.97, 0.0, 0.97, 0.0, 0.97]] {
                assert_eq!(run(stray, phase), None, "{stray:?} at phase {phase}");
            }
            for word in [&[0.95, 0.95, 0.95][..], &[0.95, 0.95], &[0.5, 0.95, 0.95, 0.9, 0.4]] {
                let at = run(word, phase);
                assert!(at.is_some_and(|t| (300..=750).contains(&t)), "{word:?} at phase {phase}: {at:?}");
            }
        }
    }

    #[test]
    fn how_often_it_is_called_changes_only_when_a_verdict_comes() {
        for every_ms in [1, 7, 20, 50, 100, 240, 480] {
            let mut run = Run::new();
            run.show(&[(3, 0.95)], 960, every_ms).show(&[], 1920, every_ms);
            let states: Vec<_> = run.log.iter().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect();
            assert_eq!(states, ["Enter 3", "Exit 3"], "every {every_ms} ms");
            let entered: u64 = run.log[0].split(' ').next().unwrap().parse().unwrap();
            // crossing: 120 ms * ln(0.95 / 0.15) = 221.5 ms, then 180 ms of dwell
            assert!((401..=402 + every_ms).contains(&entered), "every {every_ms} ms: {entered}");
        }
    }

    #[test]
    fn broken_windows_are_counted_and_decide_nothing() {
        let mut nan = dist(&[(3, 0.95)]);
        nan[5] = f32::NAN;
        let mut infinite = dist(&[(3, 0.95)]);
        infinite[3] = f32::INFINITY;
        let mut negative = dist(&[(3, 1.0)]);
        (negative[1], negative[2]) = (-0.5, 0.5);
        let cases: [(&str, &[f32]); 6] = [
            ("nan", &nan),
            ("infinite", &infinite),
            ("negative", &negative),
            ("sum 2", &[0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
            ("too short", &[1.0]),
            ("empty", &[]),
        ];
        for (name, p) in cases {
            let mut run = Run::new();
            for _ in 0..20 {
                run.feed(&FusedView { p, present: true, out_of_scope: None });
                run.now_ms += 100;
            }
            assert_eq!((run.log.len(), run.state.counters().ignored_windows), (0, 20), "{name}");
            assert!(run.state.smoothed().iter().all(|p| p.is_finite()), "{name}: {:?}", run.state.smoothed());
        }
        // One broken window does not end a decision; a model that stays broken does.
        let mut run = Run::new();
        run.show(&[(3, 0.95)], 1000, 100);
        run.feed(&FusedView { p: &nan, present: true, out_of_scope: None });
        run.now_ms += 100;
        run.show(&[(3, 0.95)], 1000, 100);
        assert_eq!(run.log, ["500 Enter 3"]);
        for _ in 0..20 {
            run.feed(&FusedView { p: &nan, present: true, out_of_scope: None });
            run.now_ms += 100;
        }
        assert_eq!(run.log, ["500 Enter 3", "2800 Exit 3"]);
    }

    #[test]
    fn a_clock_that_jumps_neither_decides_nor_blocks() {
        // Backwards: the machine stands still for that step, then goes on.
        let mut run = Run::new();
        run.now_ms = 1_000_000;
        run.show(&[(3, 0.95)], 200, 100);
        run.now_ms = 5_000;
        run.show(&[(3, 0.95)], 600, 100);
        // 200 ms less the step that was lost, so 100 ms before the jump and 301 after it
        assert_eq!(run.log, ["5400 Enter 3"]);
        assert_eq!(run.state.counters().backward_steps, 1);

        // Forward: the previous result counts for max_step_ms, the rest is absence.
        let mut run = Run::new();
        run.see(&[(3, 0.95)]);
        run.now_ms += 3_600_000;
        run.see(&[(3, 0.95)]);
        assert_eq!((run.log.len(), run.state.counters().gaps), (0, 1));
        run.now_ms += 100;
        run.show(&[(3, 0.95)], 600, 100);
        assert_eq!(run.log, ["3600500 Enter 3"]);

        // To the end of time and back.
        let mut run = Run::new();
        for t in [0, u64::MAX, 0, u64::MAX, 1] {
            let view = FusedView { p: &dist(&[(3, 0.95)]), present: true, out_of_scope: None };
            step(&mut run.state, &view, Micros(t), &run.policy);
        }
        assert!(run.state.smoothed().iter().all(|p| p.is_finite()));
    }

    impl Run {
        /// The visitor chooses; what is logged is as in [`Run::feed`], with `!` for what a choice led to.
        fn choose(&mut self, class: usize, from: Choosable) -> Result<(), NotChosen> {
            let verdicts = choose(&mut self.state, class, from, Micros::from_ms(self.now_ms), &self.policy)?;
            for v in verdicts {
                let mark = if v.by == Some(DecidedBy::Choice) { "!" } else { "" };
                self.log.push(format!("{} {:?} {}{mark}", self.now_ms, v.state, v.class));
            }
            Ok(())
        }
    }

    #[test]
    fn a_choice_answers_the_open_question_and_nothing_else() {
        use Choosable::{Every, Offered};
        let mut run = Run::new();
        assert_eq!(run.choose(3, Offered), Err(NotChosen::NotOffered), "nobody has asked");
        run.show(&[(8, 0.5), (3, 0.45)], 1000, 100);
        assert_eq!(run.state.offered(), [3, 8]);
        assert_eq!(run.choose(5, Offered), Err(NotChosen::NotOffered));
        assert_eq!(run.choose(NONE, Every), Err(NotChosen::NoClass));
        assert_eq!(run.choose(CLASSES, Every), Err(NotChosen::NoClass));
        assert_eq!(run.state.visit_failures(), Some(1));
        run.choose(3, Offered).unwrap();
        assert_eq!((run.state.active(), run.state.visit_failures()), (Some(3), Some(0)));
        assert_eq!(run.choose(8, Offered), Err(NotChosen::NotOffered), "it has its answer");
        run.choose(3, Every).unwrap();
        // what is seen does not bear it out: it stays for visit_end_ms, then exit_dwell_ms
        run.show(&[(8, 0.5), (3, 0.35)], 7000, 100);
        assert_eq!(run.log[..3], ["700 Ask 8 8? 3?", "1000 Enter 3!", "6500 Exit 3"]);
        assert_eq!(run.state.counters().choices, 2);
    }

    #[test]
    fn a_question_may_be_answered_for_half_a_minute_whatever_happens_meanwhile() {
        for (wait_ms, expect) in [(29_000, Ok(())), (31_000, Err(NotChosen::NotOffered))] {
            let mut run = Run::new();
            run.show(&[(8, 0.5), (3, 0.45)], 800, 100).show(&[], wait_ms, 100);
            assert_eq!(run.choose(8, Choosable::Offered), expect, "{wait_ms}");
        }
        // a decision answers it too
        let mut run = Run::new();
        run.show(&[(8, 0.5), (3, 0.45)], 1000, 100).show(&[(3, 0.95)], 1000, 100);
        assert_eq!(run.choose(8, Choosable::Offered), Err(NotChosen::NotOffered));
    }

    #[test]
    fn a_choice_takes_over_and_what_is_certain_takes_over_from_it() {
        let mut run = Run::new();
        run.show(&[(3, 0.95)], 1000, 100);
        run.choose(5, Choosable::Every).unwrap();
        run.show(&[(3, 0.95)], 3000, 100);
        // 3 waits for its cooldown, counted from its exit
        assert_eq!(run.log, ["500 Enter 3", "1000 Exit 3", "1000 Enter 5!", "3000 Exit 5", "3000 Enter 3"]);
        // a choice waits for no cooldown
        run.choose(5, Choosable::Every).unwrap();
        assert_eq!(run.log[5..], ["4000 Exit 3", "4000 Enter 5!"]);
    }

    #[test]
    fn failures_in_a_row_call_staff_once_per_visit() {
        // A question, another, and half a visit of nothing certain.
        let mut run = Run::new();
        run.show(&[(8, 0.5), (3, 0.45)], 1000, 100).show(&[(1, 0.5), (7, 0.45)], 1000, 100);
        run.show(&[(1, 0.25), (2, 0.25), (7, 0.25), (8, 0.2)], 9000, 100);
        assert_eq!(run.log, ["700 Ask 8 8? 3?", "1700 Ask 1 1? 7?", "4700 Escalate 1"]);
        assert_eq!(run.state.counters().visits, 1);
        // The next visitor starts afresh.
        run.show(&[], 6000, 100);
        assert_eq!(run.state.visit_failures(), None);
        run.log.clear();
        run.show(&[(8, 0.5), (3, 0.45)], 1000, 100);
        assert_eq!((run.log.len(), run.state.counters().visits, run.state.visit_failures()), (1, 2, Some(1)));
    }

    #[test]
    fn coming_and_going_without_a_decision_is_a_failure() {
        let mut run = Run::new();
        for _ in 0..3 {
            run.show(&[(1, 0.25), (2, 0.25), (7, 0.25), (8, 0.2)], 1500, 100).show(&[], 1000, 100);
        }
        assert_eq!(run.log.len(), 1, "{:?}", run.log);
        assert!(run.log[0].contains("Escalate"), "{:?}", run.log);
        // Noise that only seems to be something for a moment is none.
        let mut run = Run::new();
        for _ in 0..20 {
            run.show(&[(1, 0.3), (2, 0.3)], 500, 250).show(&[], 1000, 250);
        }
        assert_eq!(run.log, [""; 0]);
    }

    #[test]
    fn a_decision_clears_the_failures_before_it() {
        let mut run = Run::new();
        run.show(&[(8, 0.5), (3, 0.45)], 1000, 100).show(&[(1, 0.5), (7, 0.45)], 1000, 100);
        assert_eq!(run.state.visit_failures(), Some(2));
        run.show(&[(3, 0.95)], 1000, 100);
        assert_eq!(run.state.visit_failures(), Some(0));
    }

    #[test]
    fn a_request_out_of_scope_counts_once_however_long_it_is_held() {
        let mut run = Run::with(&DecisionSpec { escalate_after: 2, ..DecisionSpec::default() });
        for t in [100u64, 3100] {
            for _ in 0..20 {
                let p = dist(&[]);
                run.feed(&FusedView { p: &p, present: true, out_of_scope: Some(Micros::from_ms(t)) });
                run.now_ms += 100;
            }
        }
        assert_eq!(run.log, ["2000 Escalate 0"]);
    }

    #[test]
    fn a_bundle_without_none_decides_and_exits_by_absence() {
        let labels = [Arc::from("cat"), Arc::from("dog")];
        let policy = Policy::new(&DecisionSpec { none: String::new(), ..DecisionSpec::default() }, &labels).unwrap();
        let mut state = State::new(&policy);
        let mut got = Vec::new();
        for t in 0..40u64 {
            let view = FusedView { p: &[0.05, 0.95], present: t < 20, out_of_scope: None };
            got.extend(
                step(&mut state, &view, Micros::from_ms(t * 100), &policy).into_iter().map(|v| (v.state, v.class)),
            );
        }
        assert_eq!(got, [(DecisionState::Enter, 1), (DecisionState::Exit, 1)]);
    }

    /// One random step: time since the previous (negative: backwards), what is seen, whether anything is.
    fn any_step() -> impl Strategy<Value = (i64, Vec<f32>, bool, Option<u64>)> {
        let dt = prop_oneof![8 => 0i64..400_000, 1 => -2_000_000i64..0, 1 => 0i64..20_000_000];
        let peak = (0..CLASSES, 0..CLASSES, 0.0f32..1.0, 0.0f32..1.0).prop_map(|(a, b, x, y)| {
            let mut p = vec![0.0; CLASSES];
            p[a] += x;
            p[b] += (1.0 - x) * y;
            p[NONE] += (1.0 - x) * (1.0 - y);
            p
        });
        let broken = prop_oneof![Just(vec![f32::NAN; CLASSES]), Just(vec![]), Just(vec![f32::MAX; CLASSES])];
        (dt, prop_oneof![12 => peak, 1 => broken], prop::bool::weighted(0.9), prop::option::weighted(0.05, 0u64..9))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn invariants_hold_on_any_input(runs in prop::collection::vec((any_step(), 1usize..12), 1..80)) {
            let spec = DecisionSpec::default();
            let policy = policy_of(&spec);
            let mut state = State::new(&policy);
            let mut now = 50_000_000i64;
            let (mut active, mut escalated_in) = (None, None);
            for ((dt, p, present, oos), repeat) in runs {
                for _ in 0..repeat {
                    now = (now + dt).max(0);
                    let view = FusedView { p: &p, present, out_of_scope: oos.map(Micros) };
                    for v in step(&mut state, &view, Micros(now as u64), &policy) {
                        prop_assert!(v.p.is_finite() && (0.0..=1.0).contains(&v.p));
                        prop_assert!(v.class != NONE);
                        match v.state {
                            DecisionState::Enter => {
                                prop_assert!(v.p >= spec.enter, "entered at {}", v.p);
                                prop_assert_eq!(active.replace(v.class), None, "enter after enter");
                            }
                            DecisionState::Exit => prop_assert_eq!(active.take(), Some(v.class), "exit of what was entered"),
                            DecisionState::Ask => {
                                prop_assert!(v.choices.len() >= 2 && active.is_none());
                                prop_assert!(v.choices.windows(2).all(|w| w[0].1 >= w[1].1));
                                prop_assert!(v.choices.iter().all(|(c, p)| *c != NONE && *p >= spec.ask_min && *p < spec.enter));
                                prop_assert!(v.choices.iter().map(|(_, p)| p).sum::<f32>() >= spec.enter);
                            }
                            DecisionState::Escalate => {
                                let visit = state.counters().visits;
                                prop_assert_ne!(escalated_in.replace(visit), Some(visit), "twice in one visit");
                            }
                        }
                    }
                    prop_assert_eq!(state.active(), active);
                    let sum: f32 = state.smoothed().iter().sum();
                    prop_assert!(state.smoothed().iter().all(|p| p.is_finite()) && (sum - 1.0).abs() < 0.05, "{:?}", state.smoothed());
                }
            }
        }
    }
}
