//! Two bundles on the same data: every measure of both, and whether the data show a difference.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use attendant::decide::compare::{Difference, McNemar, Pairs, RESAMPLES, SEED, bootstrap};
use attendant::decide::matching::{Judged, Measures, Outcome, Shown};
use attendant::decide::score::Calibration;

use super::recordings::Run;
use super::rows::{RowScore, read_rows, score_rows};
use super::{Candidate, names_of};
use crate::cli::{Common, Failure, out, outln, table};

/// What `eval --compare` prints.
#[derive(serde::Serialize)]
struct Comparison {
    v: u32,
    kind: &'static str,
    a: String,
    b: String,
    data: Vec<PathBuf>,
    /// Rows, or stretches of recordings: what is drawn again and again.
    units: usize,
    resamples: usize,
    seed: u64,
    measures: Vec<Difference>,
    /// Over rows, or over stretches in which something is shown.
    mcnemar: McNemar,
}

/// A failure of one of the two says which.
fn of<T>(candidate: &Candidate, result: Result<T, Failure>) -> Result<T, Failure> {
    result.map_err(|e| match e {
        Failure::Input(message) => Failure::Input(format!("bundle {}: {message}", candidate.name())),
        other => other,
    })
}

/// Compares on rows.
pub fn rows(common: &Common, file: &Path, a: &Candidate, b: &Candidate) -> Result<ExitCode, Failure> {
    let rows = read_rows(file)?;
    let score = |candidate: &Candidate| -> Result<(Vec<String>, Vec<RowScore>), Failure> {
        let mut pipeline = candidate.pipeline()?;
        let scored = of(candidate, score_rows(&rows, &mut pipeline, file, None))?;
        Ok((pipeline.modalities().map(ToString::to_string).collect(), scored.each))
    };
    let (names_a, each_a) = score(a)?;
    let (names_b, each_b) = score(b)?;
    let subsets = common_subsets(&names_a, &names_b);
    let mut names: Vec<String> =
        ["accuracy", "ECE", "Brier score", "negative log-likelihood"].map(String::from).to_vec();
    names.extend(subsets.iter().map(|s| format!("accuracy, only {}", s.name)));
    let measure = |sample: &[usize]| -> Pairs {
        let both = |of: &dyn Fn(&[RowScore]) -> Option<f64>| (of(&each_a), of(&each_b));
        let mean = |each: &[RowScore], of: &dyn Fn(&RowScore) -> Option<f64>| {
            let (sum, n) = sample.iter().filter_map(|i| of(&each[*i])).fold((0.0, 0), |(s, n), v| (s + v, n + 1));
            (n > 0).then(|| sum / f64::from(n))
        };
        let mut pairs = vec![
            both(&|each| mean(each, &|r| Some(share(r.top == r.target)))),
            both(&|each| Some(ece(each, sample))),
            both(&|each| mean(each, &|r| Some(brier(r)))),
            both(&|each| mean(each, &|r| Some(-f64::from(r.p[r.target]).max(1e-12).ln()))),
        ];
        pairs.extend(subsets.iter().map(|s| {
            let only = |each: &[RowScore], mask: usize| mean(each, &|r| r.right.get(&mask).copied().map(share));
            (only(&each_a, s.in_a), only(&each_b, s.in_b))
        }));
        pairs
    };
    let right = each_a.iter().zip(&each_b).map(|(a, b)| (a.top == a.target, b.top == b.target));
    let comparison = Comparison {
        v: 1,
        kind: "comparison",
        a: a.name(),
        b: b.name(),
        data: vec![file.to_owned()],
        units: rows.len(),
        resamples: RESAMPLES,
        seed: SEED,
        measures: bootstrap(&names, rows.len(), SEED, measure),
        mcnemar: McNemar::of(right),
    };
    tell(common, &comparison, "rows")
}

fn share(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn brier(row: &RowScore) -> f64 {
    let of = |(class, p): (usize, &f32)| (f64::from(*p) - share(class == row.target)).powi(2);
    row.p.iter().enumerate().map(of).sum()
}

fn ece(each: &[RowScore], sample: &[usize]) -> f64 {
    let mut calibration = Calibration::default();
    for row in sample.iter().map(|i| &each[*i]) {
        calibration.add(f64::from(row.p[row.top].min(1.0)), row.top == row.target);
    }
    calibration.ece()
}

/// A set of modalities that both bundles have, fewer than all.
struct CommonSubset {
    name: String,
    in_a: usize,
    in_b: usize,
}

fn common_subsets(a: &[String], b: &[String]) -> Vec<CommonSubset> {
    let all_a = (1 << a.len()) - 1;
    let mut masks: Vec<usize> = (1..all_a).collect();
    masks.sort_by_key(|m| (m.count_ones(), *m));
    let subset = |in_a: usize| {
        let names = names_of(in_a, a);
        let bits = names.iter().map(|n| b.iter().position(|m| m == n).map(|i| 1 << i));
        let in_b = bits.sum::<Option<usize>>()?;
        Some(CommonSubset { name: names.join(" + "), in_a, in_b })
    };
    masks.into_iter().filter_map(subset).collect()
}

/// Compares on recordings.
pub fn recordings(
    common: &Common,
    files: &[PathBuf],
    a: &Candidate,
    b: &Candidate,
    tolerance_ms: u32,
) -> Result<ExitCode, Failure> {
    let run_a = of(a, Run::new(files, a, tolerance_ms))?;
    let run_b = of(b, Run::new(files, b, tolerance_ms))?;
    let judged = |run: &Run| -> Vec<(Shown, Judged)> {
        run.judge(0, &run.policy).into_iter().map(|(s, j)| (s.clone(), j)).collect()
    };
    let (each_a, each_b) = (judged(&run_a), judged(&run_b));
    // both go by the same statements and the same end
    assert_eq!(each_a.len(), each_b.len(), "the stretches of a recording do not depend on the bundle");
    let mut names: Vec<String> =
        ["hits", "wrong", "false alarms an hour", "latency p50 in s", "latency p90 in s"].map(String::from).to_vec();
    // with some of the modalities, where both bundles were decided again with the same ones
    let subsets: Vec<_> = run_a
        .subsets()
        .iter()
        .enumerate()
        .skip(1)
        .filter_map(|(i, subset)| {
            let name = names_of((*subset).into(), &run_a.modalities);
            let twin = run_b.subsets().iter().position(|s| names_of((*s).into(), &run_b.modalities) == name)?;
            Some((name.join(" + "), run_a.judge(i, &run_a.policy), run_b.judge(twin, &run_b.policy)))
        })
        .collect();
    names.extend(subsets.iter().map(|(name, ..)| format!("hits, only {name}")));
    let measure = |sample: &[usize]| -> Pairs {
        let of = |each: &[(Shown, Judged)]| Measures::of(sample.iter().map(|i| (&each[*i].0, &each[*i].1)), None);
        let (a, b) = (of(&each_a), of(&each_b));
        let both = |of: &dyn Fn(&Measures) -> Option<f64>| (of(&a), of(&b));
        let by_shown = |m: &Measures, n: u64| (m.hits.of > 0).then(|| n as f64 / m.hits.of as f64);
        let mut pairs = vec![
            both(&|m| by_shown(m, m.hits.hits)),
            both(&|m| by_shown(m, m.wrong)),
            both(&|m| m.false_alarms.per_hour),
            both(&|m| m.latency.map(|l| l.p50_ms as f64 / 1e3)),
            both(&|m| m.latency.map(|l| l.p90_ms as f64 / 1e3)),
        ];
        pairs.extend(subsets.iter().map(|(_, a, b)| (hits(a, sample), hits(b, sample))));
        pairs
    };
    let is_hit = |j: &Judged| j.outcome == Outcome::Hit;
    let right = each_a.iter().zip(&each_b).filter(|((s, _), _)| s.class.is_some());
    let comparison = Comparison {
        v: 1,
        kind: "comparison",
        a: a.name(),
        b: b.name(),
        data: files.to_vec(),
        units: each_a.len(),
        resamples: RESAMPLES,
        seed: SEED,
        measures: bootstrap(&names, each_a.len(), SEED, measure),
        mcnemar: McNemar::of(right.map(|((_, a), (_, b))| (is_hit(a), is_hit(b)))),
    };
    tell(common, &comparison, "stretches")
}

/// Share of hits in a sample of stretches.
fn hits(each: &[(&Shown, Judged)], sample: &[usize]) -> Option<f64> {
    let shown = || sample.iter().map(|i| &each[*i]).filter(|(s, _)| s.class.is_some());
    let hits = shown().filter(|(_, j)| j.outcome == Outcome::Hit).count();
    Some(shown().count()).filter(|n| *n > 0).map(|n| hits as f64 / n as f64)
}

fn tell(common: &Common, c: &Comparison, units: &str) -> Result<ExitCode, Failure> {
    if common.json {
        common.print_json(c)?;
        return Ok(ExitCode::SUCCESS);
    }
    outln!("A: {}\nB: {}\n", c.a, c.b);
    let number = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.4}"));
    let mut rows = vec![["", "A", "B", "B - A", "95 %", ""].map(String::from).to_vec()];
    for m in &c.measures {
        let interval = m.low.zip(m.high).map(|(low, high)| format!("{low:+.4} to {high:+.4}"));
        let verdict = match (m.is_shown, m.difference, m.low) {
            (true, Some(d), _) if d > 0.0 => "B is higher",
            (true, ..) => "B is lower",
            (false, _, Some(_)) => "no difference shown",
            (false, _, None) => "too little data",
        };
        let difference = m.difference.map_or("-".into(), |v| format!("{v:+.4}"));
        let (a, b) = (number(m.a), number(m.b));
        rows.push(vec![m.measure.clone(), a, b, difference, interval.unwrap_or_else(|| "-".into()), verdict.into()]);
    }
    out!("{}", table::render(&rows));
    let t = &c.mcnemar;
    outln!("\nonly A is right on {}, only B on {}: McNemar p = {:.4}, {}", t.only_a, t.only_b, t.p, {
        if t.p < 0.05 { "a difference is shown" } else { "no difference shown" }
    });
    outln!("paired bootstrap over {} {units}, {} resamples, seed {}", c.units, c.resamples, c.seed);
    Ok(ExitCode::SUCCESS)
}
