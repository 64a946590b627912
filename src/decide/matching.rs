//! Decisions against what was shown over time: hits, misses, wrong ones, false alarms, and how long it took. docs/eval.md has the rules.
//!
//! Pure arithmetic for `eval`; knows nothing of files, and judges by time and class only.

use crate::signal::DecisionState;
use crate::time::Micros;

use super::score::{Proportion, Rate};
use super::trace::{Decided, Subset};

/// What is shown from one moment to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// From when.
    pub from: Micros,
    /// Until when; later than `from`.
    pub until: Micros,
    /// The class that is to be decided; none: nothing is.
    pub class: Option<usize>,
    /// The modalities that have something to go by; 0: it is not said.
    pub by: Subset,
}

/// What became of one stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The class was decided, or still held from a stretch of the same class before.
    Hit,
    /// Another class was decided, and never the right one.
    Wrong,
    /// Nothing was decided, but a question offered the class.
    Asked,
    /// None of these.
    Missed,
    /// Nothing was to be decided, and nothing was.
    Quiet,
    /// Nothing was to be decided, but something was.
    Alarm,
}

/// A class that was entered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entered {
    /// When.
    pub t: Micros,
    /// Which.
    pub class: usize,
    /// Its smoothed probability.
    pub p: f32,
}

/// One stretch, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// What became of it.
    pub outcome: Outcome,
    /// From its start to the first decision of its class; none if there was none, or if it was held on from before.
    pub latency: Option<Micros>,
    /// Decisions of its class.
    pub right: Vec<Entered>,
    /// Decisions of other classes: wrong ones where something is shown, false alarms where nothing is.
    pub other: Vec<Entered>,
    /// Time in which a decision would be a false alarm.
    pub quiet: Micros,
}

/// Judges `decided` by `shown`, which is in order and without holes; each decision of the pipeline's own belongs to one stretch.
///
/// # Panics
/// If nothing is shown at all: a caller's mistake, there is always a stretch of nothing.
#[must_use]
pub fn judge(shown: &[Shown], decided: &[Decided], tolerance: Micros) -> Vec<Judged> {
    assert!(!shown.is_empty(), "a recording has at least one stretch");
    let mut judged: Vec<Judged> = (0..shown.len())
        .map(|i| Judged {
            outcome: Outcome::Missed,
            latency: None,
            right: Vec::new(),
            other: Vec::new(),
            quiet: quiet(shown, i, tolerance),
        })
        .collect();
    for d in decided.iter().filter(|d| d.is_own_enter()) {
        let entered = Entered { t: d.t, class: d.verdict.class, p: d.verdict.p };
        let owner = owner(shown, &entered, tolerance);
        let is_right = shown[owner].class == Some(entered.class);
        let list = if is_right { &mut judged[owner].right } else { &mut judged[owner].other };
        list.push(entered);
    }
    for i in 0..shown.len() {
        let Some(class) = shown[i].class else {
            judged[i].outcome = if judged[i].other.is_empty() { Outcome::Quiet } else { Outcome::Alarm };
            continue;
        };
        judged[i].latency = judged[i].right.first().map(|e| e.t.since(shown[i].from));
        let is_held = || is_held(shown, decided, tolerance, i);
        judged[i].outcome = if judged[i].latency.is_some() || is_held() {
            Outcome::Hit
        } else if !judged[i].other.is_empty() {
            Outcome::Wrong
        } else if is_asked(&shown[i], class, decided, tolerance) {
            Outcome::Asked
        } else {
            Outcome::Missed
        };
    }
    judged
}

/// Index of the stretch that a decision belongs to.
fn owner(shown: &[Shown], entered: &Entered, tolerance: Micros) -> usize {
    let at = shown.partition_point(|s| s.from <= entered.t).saturating_sub(1);
    if shown[at].class == Some(entered.class) {
        return at;
    }
    // what was shown just before may still be what is decided
    let recent = || (0..at).rev().take_while(|i| entered.t < shown[*i].until + tolerance);
    if let Some(late) = recent().find(|i| shown[*i].class == Some(entered.class)) {
        return late;
    }
    let none_here = shown[at].class.is_none();
    recent().find(|i| none_here && shown[*i].class.is_some()).unwrap_or(at)
}

/// How much of stretch `i` is time in which a decision is a false alarm.
fn quiet(shown: &[Shown], i: usize, tolerance: Micros) -> Micros {
    if shown[i].class.is_some() {
        return Micros::ZERO;
    }
    let before = shown[..i].iter().rev().find(|s| s.class.is_some());
    let from = before.map_or(shown[i].from, |s| shown[i].from.max(s.until + tolerance));
    shown[i].until.since(from.min(shown[i].until))
}

/// Whether the class of stretch `i` had rightly been entered before it began, and was not left by then.
fn is_held(shown: &[Shown], decided: &[Decided], tolerance: Micros, i: usize) -> bool {
    let changes = |d: &&Decided| matches!(d.verdict.state, DecisionState::Enter | DecisionState::Exit);
    let last = decided.iter().take_while(|d| d.t < shown[i].from).filter(changes).last();
    last.filter(|d| d.is_own_enter() && Some(d.verdict.class) == shown[i].class).is_some_and(|d| {
        let entered = Entered { t: d.t, class: d.verdict.class, p: d.verdict.p };
        shown[owner(shown, &entered, tolerance)].class == shown[i].class
    })
}

fn is_asked(shown: &Shown, class: usize, decided: &[Decided], tolerance: Micros) -> bool {
    decided.iter().any(|d| {
        d.verdict.state == DecisionState::Ask
            && d.t >= shown.from
            && d.t < shown.until + tolerance
            && d.verdict.choices.iter().any(|(c, _)| *c == class)
    })
}

/// Quantiles of a few times, by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Median.
    pub p50_ms: u64,
    /// 90 of 100 took no longer.
    pub p90_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl Latency {
    /// Of `times`; none of none.
    #[must_use]
    pub fn of(mut times: Vec<Micros>) -> Option<Latency> {
        times.sort_unstable();
        let rank = |share: f64| times[((share * times.len() as f64).ceil() as usize).clamp(1, times.len()) - 1].as_ms();
        let max_ms = times.last()?.as_ms();
        Some(Latency { count: times.len() as u64, p50_ms: rank(0.5), p90_ms: rank(0.9), max_ms })
    }
}

/// What many stretches came to.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Measures {
    /// Stretches in which the class was decided, of those with something to decide.
    pub hits: Proportion,
    /// Hits that were held on from a stretch of the same class before: they have no latency.
    pub held: u64,
    /// Stretches in which another class was decided, and never the right one.
    pub wrong: u64,
    /// Stretches in which the class was only offered in a question.
    pub asked: u64,
    /// Stretches of which nothing came.
    pub missed: u64,
    /// Decisions of another class while something is shown, also where the right one came too.
    pub wrong_decisions: u64,
    /// Decisions while nothing is shown, by the hour of that.
    pub false_alarms: Rate,
    /// From the start of what is shown to its decision.
    pub latency: Option<Latency>,
}

impl Measures {
    /// Of the stretches of `class`, or of all. A false alarm counts for the class that was decided; the time in which none should be is
    /// the same for every class.
    #[must_use]
    pub fn of<'a>(stretches: impl Iterator<Item = (&'a Shown, &'a Judged)>, class: Option<usize>) -> Measures {
        let (mut counts, mut held, mut of) = ([0u64; 4], 0, 0);
        let (mut wrong_decisions, mut alarms, mut quiet) = (0, 0, Micros::ZERO);
        let mut times = Vec::new();
        for (shown, judged) in stretches {
            quiet = quiet + judged.quiet;
            if shown.class.is_none() {
                alarms += judged.other.iter().filter(|e| class.is_none_or(|c| c == e.class)).count() as u64;
            }
            if shown.class.is_none() || class.is_some() && shown.class != class {
                continue;
            }
            of += 1;
            wrong_decisions += judged.other.len() as u64;
            times.extend(judged.latency);
            let slot = match judged.outcome {
                Outcome::Hit => 0,
                Outcome::Wrong => 1,
                Outcome::Asked => 2,
                Outcome::Missed | Outcome::Quiet | Outcome::Alarm => 3,
            };
            counts[slot] += 1;
            held += u64::from(slot == 0 && judged.latency.is_none());
        }
        let [hits, wrong, asked, missed] = counts;
        Measures {
            hits: Proportion::new(hits, of),
            held,
            wrong,
            asked,
            missed,
            wrong_decisions,
            false_alarms: Rate::new(alarms, quiet),
            latency: Latency::of(times),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Verdict;
    use crate::signal::DecidedBy;

    const TOLERANCE: Micros = Micros::from_ms(1500);

    /// Stretches that begin at these milliseconds; the last ends at `end`.
    fn shown(starts: &[(u64, Option<usize>)], end: u64) -> Vec<Shown> {
        let until = starts.iter().skip(1).map(|s| s.0).chain([end]);
        starts
            .iter()
            .zip(until)
            .map(|((from, class), until)| Shown {
                from: Micros::from_ms(*from),
                until: Micros::from_ms(until),
                class: *class,
                by: 0,
            })
            .collect()
    }

    fn decided(state: DecisionState, ms: u64, class: usize) -> Decided {
        let choices = if state == DecisionState::Ask { [(class, 0.4), (class + 1, 0.4)].into() } else { [].into() };
        Decided { t: Micros::from_ms(ms), verdict: Verdict { state, class, p: 0.9, by: None, choices } }
    }

    const ENTER: DecisionState = DecisionState::Enter;
    const EXIT: DecisionState = DecisionState::Exit;
    const ASK: DecisionState = DecisionState::Ask;

    #[test]
    fn each_decision_belongs_to_one_stretch() {
        use Outcome::{Alarm, Asked, Hit, Missed, Quiet, Wrong};
        // nothing, class 1 from 10 s, nothing from 14 s, class 2 from 20 s to 24 s
        let track = shown(&[(0, None), (10_000, Some(1)), (14_000, None), (20_000, Some(2))], 24_000);
        type Row = (&'static str, Vec<Decided>, [Outcome; 4], u64);
        let cases: Vec<Row> = vec![
            ("nothing decided", vec![], [Quiet, Missed, Quiet, Missed], 0),
            ("in time", vec![decided(ENTER, 11_000, 1)], [Quiet, Hit, Quiet, Missed], 0),
            ("at the very start", vec![decided(ENTER, 10_000, 1)], [Quiet, Hit, Quiet, Missed], 0),
            ("just before", vec![decided(ENTER, 9_999, 1)], [Alarm, Missed, Quiet, Missed], 1),
            ("late, within the tolerance", vec![decided(ENTER, 15_499, 1)], [Quiet, Hit, Quiet, Missed], 0),
            ("late", vec![decided(ENTER, 15_500, 1)], [Quiet, Missed, Alarm, Missed], 1),
            ("another class just after", vec![decided(ENTER, 15_000, 2)], [Quiet, Wrong, Quiet, Missed], 0),
            ("another class", vec![decided(ENTER, 12_000, 3)], [Quiet, Wrong, Quiet, Missed], 0),
            (
                "wrong, then right",
                vec![decided(ENTER, 11_000, 3), decided(ENTER, 12_000, 1)],
                [Quiet, Hit, Quiet, Missed],
                0,
            ),
            (
                "again after an exit",
                vec![decided(ENTER, 11_000, 1), decided(EXIT, 12_000, 1), decided(ENTER, 13_000, 1)],
                [Quiet, Hit, Quiet, Missed],
                0,
            ),
            ("offered", vec![decided(ASK, 12_000, 1)], [Quiet, Asked, Quiet, Missed], 0),
            ("offered as the second choice", vec![decided(ASK, 12_000, 0)], [Quiet, Asked, Quiet, Missed], 0),
            ("a question about others", vec![decided(ASK, 12_000, 2)], [Quiet, Missed, Quiet, Missed], 0),
            ("after the end", vec![decided(ENTER, 25_000, 2)], [Quiet, Missed, Quiet, Hit], 0),
        ];
        for (case, decided, expected, alarms) in cases {
            let judged = judge(&track, &decided, TOLERANCE);
            let outcomes: Vec<_> = judged.iter().map(|j| j.outcome).collect();
            assert_eq!(outcomes, expected, "{case}");
            let measures = Measures::of(track.iter().zip(&judged), None);
            assert_eq!(measures.false_alarms.count, alarms, "{case}");
            // 10 s before the first, 6 s less the tolerance after it
            assert_eq!(measures.false_alarms.hours, 14.5 / 3600.0, "{case}");
        }
    }

    #[test]
    fn what_is_still_decided_when_it_is_shown_again_is_held() {
        let track = shown(&[(0, Some(1)), (4_000, Some(1)), (8_000, Some(2))], 12_000);
        let outcomes = |decided: &[Decided]| {
            let judged = judge(&track, decided, TOLERANCE);
            judged.iter().map(|j| (j.outcome, j.latency)).collect::<Vec<_>>()
        };
        let ms = |ms| Some(Micros::from_ms(ms));
        use Outcome::{Hit, Missed};
        assert_eq!(outcomes(&[decided(ENTER, 1000, 1)]), [(Hit, ms(1000)), (Hit, None), (Missed, None)]);
        let left = [decided(ENTER, 1000, 1), decided(EXIT, 3000, 1)];
        assert_eq!(outcomes(&left), [(Hit, ms(1000)), (Missed, None), (Missed, None)]);
        // wrongly entered in the stretch before: holding it is no merit
        let early = [decided(ENTER, 6000, 2)];
        assert_eq!(outcomes(&early)[2], (Missed, None));
    }

    #[test]
    fn what_a_visitor_chose_is_neither_a_hit_nor_an_alarm() {
        let track = shown(&[(0, Some(1)), (4_000, None)], 20_000);
        let mut chosen = [decided(ENTER, 1000, 1), decided(ENTER, 10_000, 2)];
        chosen.iter_mut().for_each(|d| d.verdict.by = Some(DecidedBy::Choice));
        let judged = judge(&track, &chosen, TOLERANCE);
        assert_eq!((judged[0].outcome, judged[1].outcome), (Outcome::Missed, Outcome::Quiet));
    }

    #[test]
    fn measures_count_by_class_and_in_total() {
        let track = shown(&[(0, Some(1)), (10_000, None), (20_000, Some(2)), (30_000, Some(1))], 40_000);
        let decided =
            [decided(ENTER, 500, 1), decided(ENTER, 15_000, 2), decided(ENTER, 22_000, 3), decided(ENTER, 32_500, 1)];
        let judged = judge(&track, &decided, TOLERANCE);
        let of = |class| Measures::of(track.iter().zip(&judged), class);
        let all = of(None);
        assert_eq!((all.hits.hits, all.hits.of, all.wrong, all.missed, all.wrong_decisions), (2, 3, 1, 0, 1));
        assert_eq!(all.latency, Some(Latency { count: 2, p50_ms: 500, p90_ms: 2500, max_ms: 2500 }));
        assert_eq!((of(Some(1)).hits.hits, of(Some(1)).hits.of, of(Some(1)).false_alarms.count), (2, 2, 0));
        assert_eq!((of(Some(2)).hits.of, of(Some(2)).wrong, of(Some(2)).false_alarms.count), (1, 1, 1));
        assert_eq!(of(Some(3)).hits.of, 0);
    }
}
