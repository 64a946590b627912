//! What was shown and what was decided: the end of a demonstration, the score of a recording.
//!
//! [`Seen`] is a sink that remembers decisions; [`Seen::summary`] holds them against what the author of the recording says
//! was shown. It judges by time only: which sensor saw what is in the events.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::signal::{DecisionState, Event, EventKind};
use crate::time::Micros;

use super::terminal::{Style, pad, paint, truncate, width};
use super::{Sink, SinkError};

/// Most decisions that are remembered: a device that runs for months counts the rest.
const MAX_RECORDS: usize = 10_000;

/// A decision this long after its segment's end still belongs to it: the audio window and the dwell take their time.
const GRACE: Micros = Micros::from_ms(1500);

/// What is shown to the device from `t` on, until the next segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// From when.
    pub t: Micros,
    /// The class that is to be decided; `None`: nothing is.
    pub label: Option<String>,
    /// Names of the modalities that have something to go by.
    pub shown: Vec<String>,
    /// For people.
    pub note: String,
}

#[derive(Clone, Debug)]
struct Record {
    t: Micros,
    state: DecisionState,
    class: Arc<str>,
    p: f32,
    choices: Vec<Arc<str>>,
}

/// Remembers what was decided.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    records: Vec<Record>,
    forgotten: u64,
}

impl Sink for Seen {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        if let EventKind::Decision(d) = &event.kind {
            if self.records.len() == MAX_RECORDS {
                self.forgotten += 1;
            } else {
                let choices = d.choices.iter().map(|c| c.class.clone()).collect();
                self.records.push(Record { t: event.t_us, state: d.state, class: d.class.clone(), p: d.p, choices });
            }
        }
        Ok(())
    }
}

impl Seen {
    /// Every class that was entered: when, which, with what probability.
    pub fn entered(&self) -> impl Iterator<Item = (Micros, &Arc<str>, f32)> {
        self.records.iter().filter(|r| r.state == DecisionState::Enter).map(|r| (r.t, &r.class, r.p))
    }

    /// Questions to the visitor.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.count(DecisionState::Ask)
    }

    /// Calls for staff.
    #[must_use]
    pub fn escalations(&self) -> u64 {
        self.count(DecisionState::Escalate)
    }

    /// Decisions beyond the first 10,000, which were counted and not kept.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn count(&self, state: DecisionState) -> u64 {
        self.records.iter().filter(|r| r.state == state).count() as u64
    }

    /// Holds the decisions against `segments`, in order of time; the last one lasts until `end`.
    #[must_use]
    pub fn summary(&self, segments: &[Segment], end: Micros) -> Summary {
        let mut used = vec![false; self.records.len()];
        let mut rows: Vec<Row> = Vec::with_capacity(segments.len());
        for (i, segment) in segments.iter().enumerate() {
            let until = segments.get(i + 1).map_or(end.max(segment.t), |next| next.t);
            rows.push(self.judge(segment, until, &mut used));
        }
        let mut false_decisions = Vec::new();
        for (record, used) in self.records.iter().zip(&used) {
            if record.state == DecisionState::Enter && !used {
                false_decisions.push(FalseDecision { t_us: record.t, class: record.class.clone(), p: record.p });
            }
        }
        let count = |outcome| rows.iter().filter(|r| r.outcome == outcome).count() as u64;
        let mut latencies: Vec<u64> = rows.iter().filter_map(|r| r.latency_ms).collect();
        latencies.sort_unstable();
        Summary {
            hits: count(Outcome::Hit),
            asked: count(Outcome::Asked),
            misses: count(Outcome::Miss),
            false_decisions,
            questions: self.questions(),
            escalations: self.escalations(),
            latency_ms_median: latencies.get(latencies.len() / 2).copied(),
            latency_ms_max: latencies.last().copied(),
            rows,
        }
    }

    fn judge(&self, segment: &Segment, until: Micros, used: &mut [bool]) -> Row {
        let mut row = Row {
            t_us: segment.t,
            label: segment.label.clone(),
            shown: segment.shown.clone(),
            note: segment.note.clone(),
            outcome: if segment.label.is_some() { Outcome::Miss } else { Outcome::Quiet },
            latency_ms: None,
            p: None,
        };
        let Some(label) = segment.label.as_deref() else { return row };
        let within = |t: Micros, last: Micros| t >= segment.t && t < last;
        let entered = self.records.iter().enumerate().filter(|(i, r)| {
            !used[*i] && r.state == DecisionState::Enter && *r.class == *label && within(r.t, until + GRACE)
        });
        // Entered again after an exit counts once; the rest is not false either.
        let hits: Vec<usize> = entered.map(|(i, _)| i).collect();
        for (k, i) in hits.iter().enumerate() {
            used[*i] = k == 0 || self.records[*i].t < until;
        }
        if let Some(first) = hits.first() {
            row.outcome = Outcome::Hit;
            row.latency_ms = Some(self.records[*first].t.since(segment.t).as_ms());
            row.p = Some(self.records[*first].p);
        } else if let Some(p) = self.held_at(segment.t, label, used) {
            row.outcome = Outcome::Hit;
            row.latency_ms = Some(0);
            row.p = Some(p);
        } else if self.records.iter().any(|r| {
            r.state == DecisionState::Ask && within(r.t, until + GRACE) && r.choices.iter().any(|c| **c == *label)
        }) {
            row.outcome = Outcome::Asked;
        }
        row
    }

    /// Probability with which `label` had rightly been entered before `t`, if it was not left again by then.
    fn held_at(&self, t: Micros, label: &str, used: &[bool]) -> Option<f32> {
        let changes = [DecisionState::Enter, DecisionState::Exit];
        let last = self.records.iter().rposition(|r| r.t < t && changes.contains(&r.state))?;
        let record = &self.records[last];
        (record.state == DecisionState::Enter && *record.class == *label && used[last]).then_some(record.p)
    }
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The right class was decided (or still held from before).
    Hit,
    /// The right class was among the choices of a question.
    Asked,
    /// Neither.
    Miss,
    /// Nothing was to be decided.
    Quiet,
}

/// One segment and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// From when.
    pub t_us: Micros,
    /// What was to be decided.
    pub label: Option<String>,
    /// By which modalities.
    pub shown: Vec<String>,
    /// For people.
    pub note: String,
    /// What became of it.
    pub outcome: Outcome,
    /// From the segment's start to the decision.
    pub latency_ms: Option<u64>,
    /// Probability of the decision.
    pub p: Option<f32>,
}

/// A class that was entered although it was not shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FalseDecision {
    /// When.
    pub t_us: Micros,
    /// Which.
    pub class: Arc<str>,
    /// How sure.
    pub p: f32,
}

/// A run held against what was shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Segments whose class was decided.
    pub hits: u64,
    /// Segments whose class was offered in a question, and not decided.
    pub asked: u64,
    /// Segments of which nothing came.
    pub misses: u64,
    /// Decisions of what was not shown.
    pub false_decisions: Vec<FalseDecision>,
    /// Questions to the visitor.
    pub questions: u64,
    /// Calls for staff.
    pub escalations: u64,
    /// Median time from the start of a segment to its decision; `None` without hits.
    pub latency_ms_median: Option<u64>,
    /// The longest.
    pub latency_ms_max: Option<u64>,
    /// One per segment.
    pub rows: Vec<Row>,
}

impl Summary {
    /// As a table of at most `columns` columns (at least 72).
    #[must_use]
    pub fn render(&self, columns: usize, color: bool) -> String {
        let columns = columns.max(72);
        let mut out = String::new();
        let label_of = |r: &Row| r.label.clone().unwrap_or_else(|| "nothing".into());
        let label_width = self.rows.iter().map(|r| width(&label_of(r))).max().unwrap_or(0).clamp(7, 14);
        // time 10, gap 2, label, gap 2, what, gap 2, outcome 22
        let what_width = columns - (10 + 2 + label_width + 2 + 2 + 22);
        let head = |out: &mut String, text: &str, columns: usize| {
            paint(out, color, Style::Dim, text);
            pad(out, columns.saturating_sub(width(text)));
        };
        head(&mut out, "         t", 12);
        head(&mut out, "shown", label_width + 2 + what_width + 2);
        head(&mut out, "decided", 0);
        out.push('\n');
        for row in &self.rows {
            paint(&mut out, color, Style::Dim, &format!("{:>8.1} s", row.t_us.0 as f64 / 1e6));
            pad(&mut out, 2);
            let label = truncate(&label_of(row), label_width);
            paint(&mut out, color, if row.label.is_some() { Style::Bold } else { Style::Dim }, &label);
            pad(&mut out, label_width + 2 - width(&label));
            let by = row.shown.join(" + ");
            let what = match (by.is_empty(), row.note.is_empty()) {
                (false, false) => format!("{by}: {}", row.note),
                _ => by + &row.note,
            };
            let what = truncate(&what, what_width);
            paint(&mut out, color, Style::Plain, &what);
            pad(&mut out, what_width + 2 - width(&what));
            let (style, text) = match (row.outcome, row.latency_ms) {
                (Outcome::Hit, Some(0)) => (Style::Good, "✓ held on".to_owned()),
                (Outcome::Hit, latency) => (Style::Good, format!("✓ after {:.2} s", latency.unwrap_or(0) as f64 / 1e3)),
                (Outcome::Asked, _) => (Style::Warn, "? asked back".to_owned()),
                (Outcome::Miss, _) => (Style::Bad, "✗ missed".to_owned()),
                (Outcome::Quiet, _) => (Style::Dim, "·".to_owned()),
            };
            paint(&mut out, color, style, &text);
            out.push('\n');
        }
        out.push('\n');
        for f in &self.false_decisions {
            paint(&mut out, color, Style::Dim, &format!("{:>8.1} s", f.t_us.0 as f64 / 1e6));
            pad(&mut out, 2);
            paint(&mut out, color, Style::Bad, &format!("✗ {} was decided (p {:.2}), but not shown", f.class, f.p));
            out.push('\n');
        }
        let expected = self.hits + self.asked + self.misses;
        let style = if self.hits == expected && self.false_decisions.is_empty() { Style::Good } else { Style::Warn };
        paint(&mut out, color, style, &format!("{} of {expected} decided", self.hits));
        let mut rest = format!(
            ", {} asked back, {} missed, {} false, staff called {}",
            self.asked,
            self.misses,
            self.false_decisions.len(),
            times(self.escalations)
        );
        if let (Some(median), Some(max)) = (self.latency_ms_median, self.latency_ms_max) {
            rest += &format!(
                "\nfrom shown to decided: median {:.2} s, longest {:.2} s",
                median as f64 / 1e3,
                max as f64 / 1e3
            );
        }
        for (i, line) in rest.split('\n').enumerate() {
            if i > 0 {
                out.push('\n');
            }
            paint(&mut out, color, Style::Plain, line);
        }
        out.push('\n');
        out
    }
}

impl fmt::Display for Summary {
    /// As [`Summary::render`] with 80 columns and no colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(80, false))
    }
}

fn times(n: u64) -> String {
    match n {
        0 => "never".into(),
        1 => "once".into(),
        n => format!("{n} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{decision, event};
    use super::*;
    use DecisionState::{Ask, Enter, Escalate, Exit};

    fn seen(records: &[(u64, DecisionState, &str)]) -> Seen {
        let mut seen = Seen::default();
        for (seq, (t_ms, state, class)) in records.iter().enumerate() {
            seen.emit(&event(seq as u64, *t_ms, decision(*state, class, 0.9, ""))).unwrap();
        }
        seen
    }

    fn segments(of: &[(u64, &str)]) -> Vec<Segment> {
        of.iter()
            .map(|(t_ms, label)| Segment {
                t: Micros::from_ms(*t_ms),
                label: (!label.is_empty()).then(|| (*label).to_owned()),
                shown: if label.is_empty() { vec![] } else { vec!["card".into(), "speech".into()] },
                note: if label.is_empty() { "an empty room".into() } else { "a printed card".into() },
            })
            .collect()
    }

    #[test]
    fn decisions_are_held_against_what_was_shown() {
        type Case<'a> =
            (&'a str, &'a [(u64, DecisionState, &'a str)], &'a [(u64, &'a str)], &'a [(Outcome, Option<u64>)], usize);
        use Outcome::{Asked, Hit, Miss, Quiet};
        let cases: &[Case] = &[
            ("nothing at all", &[], &[], &[], 0),
            ("decided", &[(1400, Enter, "a")], &[(0, ""), (1000, "a")], &[(Quiet, None), (Hit, Some(400))], 0),
            ("missed", &[], &[(1000, "a")], &[(Miss, None)], 0),
            ("another class", &[(1400, Enter, "b")], &[(1000, "a")], &[(Miss, None)], 1),
            ("out of nothing", &[(400, Enter, "a")], &[(0, ""), (5000, "a")], &[(Quiet, None), (Miss, None)], 1),
            (
                "just after its end",
                &[(2100, Enter, "a")],
                &[(1000, "a"), (2000, "")],
                &[(Hit, Some(1100)), (Quiet, None)],
                0,
            ),
            (
                "long after its end",
                &[(3600, Enter, "a")],
                &[(1000, "a"), (2000, "")],
                &[(Miss, None), (Quiet, None)],
                1,
            ),
            ("asked", &[(1400, Ask, "a")], &[(1000, "a")], &[(Asked, None)], 0),
            ("asked as the second choice", &[(1400, Ask, "a")], &[(1000, "desk_8")], &[(Asked, None)], 0),
            ("asked, then decided", &[(1400, Ask, "a"), (1800, Enter, "a")], &[(1000, "a")], &[(Hit, Some(800))], 0),
            (
                "held from one segment to the next",
                &[(1400, Enter, "a")],
                &[(1000, "a"), (2000, "a")],
                &[(Hit, Some(400)), (Hit, Some(0))],
                0,
            ),
            (
                "decided twice in one segment",
                &[(1400, Enter, "a"), (2000, Exit, "a"), (4100, Enter, "a")],
                &[(1000, "a"), (6000, "")],
                &[(Hit, Some(400)), (Quiet, None)],
                0,
            ),
        ];
        let mut wrong = Vec::new();
        for (name, records, shown, expect, false_decisions) in cases {
            let s = seen(records).summary(&segments(shown), Micros::from_ms(8000));
            let got: Vec<_> = s.rows.iter().map(|r| (r.outcome, r.latency_ms)).collect();
            if got != *expect || s.false_decisions.len() != *false_decisions {
                wrong.push(format!("{name}: got {got:?} and {:?}", s.false_decisions));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let run = seen(&[
            (1410, Enter, "desk_3"),
            (3000, Exit, "desk_3"),
            (6000, Enter, "desk_5"),
            (7000, Escalate, "desk_5"),
        ]);
        let summary =
            run.summary(&segments(&[(0, ""), (1000, "desk_3"), (3000, ""), (5500, "desk_1")]), Micros::from_ms(9000));
        let got = summary.to_string();
        let expect = "         t  shown                                         decided
     0.0 s  nothing  an empty room                        ·
     1.0 s  desk_3   card + speech: a printed card        ✓ after 0.41 s
     3.0 s  nothing  an empty room                        ·
     5.5 s  desk_1   card + speech: a printed card        ✗ missed

     6.0 s  ✗ desk_5 was decided (p 0.90), but not shown
1 of 2 decided, 0 asked back, 1 missed, 1 false, staff called once
from shown to decided: median 0.41 s, longest 0.41 s
";
        assert_eq!(got, expect, "got:\n{got}");
        for columns in [72, 80, 120] {
            assert!(summary.render(columns, false).lines().all(|l| width(l) <= columns));
        }
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!((&json["hits"], &json["rows"][1]["outcome"]), (&1.into(), &"hit".into()));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        let enter = event(0, 0, decision(Enter, "a", 0.9, ""));
        for _ in 0..MAX_RECORDS + 5 {
            seen.emit(&enter).unwrap();
        }
        assert_eq!((seen.entered().count(), seen.forgotten()), (MAX_RECORDS, 5));
    }
}
