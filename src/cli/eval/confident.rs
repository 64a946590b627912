//! Wrong answers that a bundle is sure of: what noise, patterns, playback and other inputs that it does not know may not lead to.
//!
//! An answer is *confidently wrong* if it is a class other than the row's, other than `none`, and at least as likely as the threshold: to
//! answer `none` decides nothing, whatever was shown.

use std::collections::BTreeMap;

use attendant::decide::score::Proportion;

use super::decided::Decided;
use super::rows::{Row, RowScore};
use crate::cli::{Failure, out, outln, table};

/// Of all rows, and of each kind of input.
#[derive(serde::Serialize)]
pub struct Confident {
    /// Least probability that counts.
    pub threshold: f32,
    #[serde(flatten)]
    pub all: Wrong,
    /// By the rows' `kind`, the worst first; empty if no row has one.
    pub kinds: Vec<Kind>,
}

/// One kind of input.
#[derive(serde::Serialize)]
pub struct Kind {
    pub kind: String,
    #[serde(flatten)]
    pub wrong: Wrong,
}

/// How often the answers of some rows are wrong.
#[derive(serde::Serialize)]
pub struct Wrong {
    /// Confidently wrong: the fusion of all that a row has.
    pub fused: Proportion,
    /// Confidently wrong: each encoder's own head.
    pub alone: BTreeMap<String, Proportion>,
    /// Rows of which the decision rules entered a wrong class, however sure; absent without `--decide`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_wrong: Option<Proportion>,
    /// Rows with a class of which that class was entered; absent without `--decide`, and without such rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_right: Option<Proportion>,
}

impl Confident {
    /// Counts over `rows` with their scores, and with what was decided of them, if they were shown; `names` are the encoders'.
    pub fn of(
        rows: &[Row],
        each: &[RowScore],
        decided: Option<&[Decided]>,
        threshold: f32,
        none: Option<usize>,
        names: &[String],
    ) -> Confident {
        let count = |of: &[usize]| wrong(of, each, decided, threshold, none, names);
        let mut by_kind: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, row) in rows.iter().enumerate() {
            if let Some(kind) = &row.kind {
                by_kind.entry(kind).or_default().push(i);
            }
        }
        let mut kinds: Vec<Kind> =
            by_kind.into_iter().map(|(kind, of)| Kind { kind: kind.to_owned(), wrong: count(&of) }).collect();
        let badness = |k: &Kind| (k.wrong.fused.rate, k.wrong.decided_wrong.map_or(0.0, |d| d.rate));
        kinds.sort_by(|a, b| badness(b).partial_cmp(&badness(a)).expect("rates are numbers"));
        Confident { threshold, all: count(&(0..rows.len()).collect::<Vec<_>>()), kinds }
    }

    /// For people.
    pub fn print(&self) -> Result<(), Failure> {
        let mut rows = vec![self.head()];
        rows.push(self.cells("all rows", &self.all));
        rows.extend(self.kinds.iter().map(|k| self.cells(&k.kind, &k.wrong)));
        outln!("");
        out!("{}", table::render(&rows));
        Ok(())
    }

    fn head(&self) -> Vec<String> {
        let mut head = vec![format!("wrong, p >= {}", self.threshold), "fused".into()];
        head.extend(self.all.alone.keys().map(|name| format!("{name} alone")));
        if self.all.decided_wrong.is_some() {
            head.push("decided wrong".into());
        }
        if self.all.decided_right.is_some() {
            head.push("decided right".into());
        }
        head.push("rows".into());
        head
    }

    fn cells(&self, name: &str, wrong: &Wrong) -> Vec<String> {
        let share = |p: Option<&Proportion>| p.map_or("-".into(), |p| format!("{:.1} %", 100.0 * p.rate));
        let mut cells = vec![name.to_owned(), share(Some(&wrong.fused))];
        cells.extend(self.all.alone.keys().map(|name| share(wrong.alone.get(name))));
        if self.all.decided_wrong.is_some() {
            cells.push(share(wrong.decided_wrong.as_ref()));
        }
        if self.all.decided_right.is_some() {
            cells.push(share(wrong.decided_right.as_ref()));
        }
        cells.push(wrong.fused.of.to_string());
        cells
    }
}

fn wrong(
    of: &[usize],
    each: &[RowScore],
    decided: Option<&[Decided]>,
    threshold: f32,
    none: Option<usize>,
    names: &[String],
) -> Wrong {
    let is_wrong = |target: usize, class: usize, p: f32| class != target && Some(class) != none && p >= threshold;
    let share = |hits: usize, of: usize| Proportion::new(hits as u64, of as u64);
    let scores = || of.iter().map(|i| &each[*i]);
    let fused = scores().filter(|r| is_wrong(r.target, r.top, r.p[r.top])).count();
    let alone = names.iter().enumerate().filter_map(|(k, name)| {
        let answers: Vec<bool> =
            scores().filter_map(|r| r.own[k].map(|(class, p)| is_wrong(r.target, class, p))).collect();
        let hits = answers.iter().filter(|wrong| **wrong).count();
        (!answers.is_empty()).then(|| (name.clone(), share(hits, answers.len())))
    });
    let with_class = scores().filter(|r| Some(r.target) != none).count();
    let decided = decided.map(|all| {
        let count = |what: fn(&Decided) -> bool| of.iter().filter(|i| what(&all[**i])).count();
        (count(|d| d.wrong), count(|d| d.right))
    });
    Wrong {
        fused: share(fused, of.len()),
        alone: alone.collect(),
        decided_wrong: decided.map(|(wrong, _)| share(wrong, of.len())),
        decided_right: decided.filter(|_| with_class > 0).map(|(_, right)| share(right, with_class)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Classes 0 and 1; 2 is `none`.
    fn score(target: usize, p: [f32; 3], own: Option<(usize, f32)>) -> RowScore {
        let top = (1..3).fold(0, |best, k| if p[k] > p[best] { k } else { best });
        RowScore { target, top, p: p.to_vec(), right: BTreeMap::new(), own: vec![own] }
    }

    fn row(kind: Option<&str>) -> Row {
        Row { line: 1, image: None, audio: None, text: None, label: None, kind: kind.map(Into::into) }
    }

    #[test]
    fn only_a_sure_answer_of_another_class_than_none_counts() {
        let cases = [
            ("sure and wrong", score(2, [0.95, 0.05, 0.0], None), 1),
            ("at the threshold", score(2, [0.1, 0.9, 0.0], None), 1),
            ("wrong but not sure", score(2, [0.89, 0.11, 0.0], None), 0),
            ("sure and right", score(0, [0.99, 0.01, 0.0], None), 0),
            ("sure that nobody asks", score(0, [0.0, 0.01, 0.99], None), 0),
            ("another class", score(0, [0.0, 0.99, 0.01], None), 1),
        ];
        for (name, score, expect) in cases {
            let counted = Confident::of(&[row(None)], &[score], None, 0.9, Some(2), &["card".into()]);
            assert_eq!(counted.all.fused.hits, expect, "{name}");
            assert!(counted.kinds.is_empty() && counted.all.alone.is_empty() && counted.all.decided_wrong.is_none());
        }
    }

    #[test]
    fn kinds_come_worst_first_and_heads_and_decisions_are_counted_apart() {
        let rows = [Some("calm"), Some("bad"), Some("bad"), None].map(row);
        let each = [
            score(2, [0.0, 0.0, 1.0], Some((2, 0.99))),
            score(2, [0.95, 0.0, 0.05], Some((1, 0.95))),
            score(2, [0.2, 0.0, 0.8], Some((0, 0.5))),
            score(0, [0.99, 0.0, 0.01], None),
        ];
        let (no, wrong, right) =
            (Decided::default(), Decided { wrong: true, right: false }, Decided { wrong: false, right: true });
        let decided = [no, wrong, wrong, right];
        let counted = Confident::of(&rows, &each, Some(&decided), 0.9, Some(2), &["card".into(), "speech".into()][..1]);
        let kinds: Vec<(&str, u64, u64)> =
            counted.kinds.iter().map(|k| (&*k.kind, k.wrong.fused.hits, k.wrong.fused.of)).collect();
        assert_eq!(kinds, [("bad", 1, 2), ("calm", 0, 1)]);
        let alone = &counted.all.alone["card"];
        assert_eq!((alone.hits, alone.of), (1, 3));
        let counts = |p: Option<Proportion>| p.map(|p| (p.hits, p.of));
        assert_eq!(counts(counted.all.decided_wrong), Some((2, 4)));
        assert_eq!(counts(counted.all.decided_right), Some((1, 1)));
        assert_eq!(counts(counted.kinds[1].wrong.decided_right), None);
    }
}
