//! Labelled rows through the bundle.
//!
//! A row's picture, clip and text each become one token at the same time; the fused argmax is the answer. Rows are paired
//! by whoever made the file: say whether the modalities were recorded together.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use attendant::capture::{image, wav};
use attendant::decide::score::{self, Proportion, Scorer};
use attendant::pipeline::{Input, Pipeline, PipelineError};
use attendant::preprocess::PreprocessError;
use attendant::signal::Frame;
use indicatif::{ProgressBar, ProgressStyle};

use super::confident::Confident;
use super::{Candidate, EvalArguments, at_least, decided, report};
use crate::cli::{Common, Failure, out, outln, table};

/// One labelled row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Line in the file, from 1.
    pub line: usize,
    /// Picture file.
    pub image: Option<PathBuf>,
    /// Sound file.
    pub audio: Option<PathBuf>,
    /// Text.
    pub text: Option<String>,
    /// Expected answer; absent in rows that are only exported.
    pub label: Option<String>,
    /// What kind of input it is: wrong answers are counted by kind.
    pub kind: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    image: Option<PathBuf>,
    audio: Option<PathBuf>,
    text: Option<String>,
    label: Option<String>,
    kind: Option<String>,
}

/// Most bytes of one row: a text field of 10 MB is legal, an endless line is not.
const ROW_BYTES_MAX: usize = 16 << 20;

/// Reads the rows of `path`.
///
/// # Errors
/// [`Failure::Input`] naming file and line.
pub fn read_rows(path: &Path) -> Result<Vec<Row>, Failure> {
    let unreadable = |e: std::io::Error| Failure::Input(format!("{}: {e}", path.display()));
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let (mut rows, mut bytes, mut line) = (Vec::new(), Vec::new(), 0);
    loop {
        bytes.clear();
        let read =
            std::io::Read::take(&mut reader, ROW_BYTES_MAX as u64).read_until(b'\n', &mut bytes).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        line += 1;
        if read == ROW_BYTES_MAX {
            let message = format!("{}:{line}: row is longer than {ROW_BYTES_MAX} bytes", path.display());
            return Err(Failure::Input(message));
        }
        // text from outside may hold any bytes; the row is still a row
        let text = String::from_utf8_lossy(&bytes);
        if text.trim().is_empty() {
            continue;
        }
        let raw: RawRow = serde_json::from_str(&text).map_err(|e| {
            Failure::Input(format!("{}:{line}: {e}; a row has image, audio, text, label, kind", path.display()))
        })?;
        let (image, audio) = (raw.image.map(|p| folder.join(p)), raw.audio.map(|p| folder.join(p)));
        rows.push(Row { line, image, audio, text: raw.text, label: raw.label, kind: raw.kind });
    }
    if rows.is_empty() {
        return Err(Failure::Input(format!("{}: no rows", path.display())));
    }
    Ok(rows)
}

/// What `eval` prints of rows.
#[derive(serde::Serialize)]
pub struct Report {
    pub file: PathBuf,
    pub bundle: String,
    pub rows: usize,
    /// The fusion with everything the row has: accuracy, calibration, confusion.
    pub fused: score::Report,
    /// Class labels, in the order of the confusion.
    pub labels: Vec<String>,
    /// Each encoder's own head.
    pub alone: BTreeMap<String, Proportion>,
    /// The fusion with every subset of the modalities, over the rows that have them all.
    pub ablations: Vec<Ablation>,
    /// Inputs that the manifest's own bounds refuse: no token, so that the fusion goes by the others, or by nothing.
    pub refused: u64,
    /// Wrong answers that the bundle was sure of, and wrong decisions.
    pub confident: Confident,
    #[serde(skip_serializing_if = "Option::is_none")]
    intents: Option<Intents>,
}

/// Accuracy with some of the modalities.
#[derive(serde::Serialize)]
pub struct Ablation {
    pub modalities: Vec<String>,
    pub accuracy: Proportion,
}

/// Scores of the encoder with intents, over rows labelled by intent.
#[derive(serde::Serialize)]
struct Intents {
    /// In-scope rows whose likeliest intent is right, whatever its probability.
    accuracy: Proportion,
    /// The same, where a rejected row counts as wrong.
    accuracy_with_threshold: Proportion,
    /// `oos` rows that were rejected.
    oos_recall: Proportion,
    /// Rejected rows that were `oos`.
    oos_precision: Proportion,
}

/// What a row's label means.
#[derive(Clone, Copy)]
struct Target {
    class: usize,
    intent: IntentTarget,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IntentTarget {
    /// The label is a class.
    Unknown,
    Known(usize),
    OutOfScope,
}

/// Scores rows.
pub fn run(common: &Common, args: &EvalArguments, file: &Path, candidate: &Candidate) -> Result<ExitCode, Failure> {
    let mut pipeline = candidate.pipeline()?;
    let rows = read_rows(file)?;
    let scored = score_rows(&rows, &mut pipeline, file, args.predictions.as_deref())?;
    let decided = if args.decide { Some(decided::rows(&rows, &scored.each, candidate, file)?) } else { None };
    let names = names(&pipeline);
    let confident = Confident::of(&rows, &scored.each, decided.as_deref(), args.confident, pipeline.none(), &names);
    let report = scored.report(file.to_owned(), candidate.bundle.id.to_string(), &pipeline, confident);
    if let Some(dir) = &args.report {
        report::of_rows(dir, &report)?;
    }
    if common.json {
        common.print_json(&report)?;
    } else {
        print_report(&report)?;
        if let Some(dir) = &args.report {
            outln!("report: {}", dir.join("index.html").display());
        }
    }
    at_least(args, "fused accuracy", report.fused.accuracy.rate)
}

/// What one row came to.
pub struct RowScore {
    /// Its true class.
    pub target: usize,
    /// The likeliest class of the fusion of all it has.
    pub top: usize,
    /// The fusion's probabilities.
    pub p: Vec<f32>,
    /// By bit mask of the modalities that take part: whether the answer is right.
    pub right: BTreeMap<usize, bool>,
    /// What each encoder's own head says and how likely it is, where there is an input and a head.
    pub own: Vec<Option<(usize, f32)>>,
}

/// Everything that is counted while the rows go by.
pub struct Scored {
    /// One a row.
    pub each: Vec<RowScore>,
    alone: Vec<(u64, u64)>,
    /// By bit mask of the modalities that take part.
    subsets: BTreeMap<usize, (u64, u64)>,
    fused: Scorer,
    intents: IntentCounts,
    refused: u64,
}

#[derive(Default)]
struct IntentCounts {
    in_scope: u64,
    right: u64,
    right_accepted: u64,
    oos: u64,
    oos_rejected: u64,
    rejected: u64,
}

/// Scores `rows`, which came from `file`.
pub fn score_rows(
    rows: &[Row],
    pipeline: &mut Pipeline,
    file: &Path,
    predictions: Option<&Path>,
) -> Result<Scored, Failure> {
    let names: Vec<Arc<str>> = pipeline.modalities().cloned().collect();
    let labels = pipeline.labels().to_vec();
    let mut scored = Scored {
        each: Vec::with_capacity(rows.len()),
        alone: vec![(0, 0); names.len()],
        subsets: BTreeMap::new(),
        fused: Scorer::new(labels.len()),
        intents: IntentCounts::default(),
        refused: 0,
    };
    let mut predictions = match predictions {
        None => None,
        Some(path) => {
            let failed = |source| Failure::Output { path: path.display().to_string(), source };
            Some((path, BufWriter::new(File::create(path).map_err(failed)?)))
        }
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} rows  {eta}").expect("a constant template");
    let bar = ProgressBar::new(rows.len() as u64).with_style(style);
    let mut frame = Frame::default();
    for row in rows {
        let target = target_of(row, pipeline, file)?;
        let mut present = vec![false; names.len()];
        let mut own = vec![None; names.len()];
        let mut refused = false;
        for (i, present) in present.iter_mut().enumerate() {
            let encoded = encode_row(row, i, pipeline, &mut frame, file)?;
            *present = encoded == Encoded::Token;
            if encoded == Encoded::Refused {
                scored.refused += 1;
                refused = true;
                scored.intents.refused(target.intent);
            }
            if !*present {
                continue;
            }
            own[i] = pipeline.own_answer(i);
            if let Some((answer, _)) = own[i] {
                count(&mut scored.alone[i], answer == target.class);
            }
            scored.intents.count(pipeline.last_intent(i), target.intent);
        }
        let all = present.iter().enumerate().fold(0, |m, (i, p)| m | usize::from(*p) << i);
        if all == 0 && !refused {
            let message = format!("{}:{}: the row has no input for this bundle", file.display(), row.line);
            return Err(Failure::Input(message));
        }
        let mut each = RowScore { target: target.class, top: 0, p: Vec::new(), right: BTreeMap::new(), own };
        // what was refused leaves nothing to go by, which is an answer too
        for subset in (usize::from(all > 0)..=all).filter(|s| s & !all == 0) {
            let mask: Vec<bool> = (0..names.len()).map(|i| subset >> i & 1 == 1).collect();
            let fused = pipeline.fuse(&mask)?;
            if subset > 0 {
                count(scored.subsets.entry(subset).or_default(), fused.class == target.class);
            }
            each.right.insert(subset, fused.class == target.class);
            if subset == all {
                (each.top, each.p) = (fused.class, fused.probabilities.clone());
                let (top, p) = (fused.class, fused.probabilities.as_slice());
                let added = scored.fused.add(p, target.class);
                added.map_err(|e| Failure::Input(format!("{}:{}: {e}", file.display(), row.line)))?;
                if let Some((path, out)) = &mut predictions {
                    let line = serde_json::json!({ "line": row.line, "label": labels[target.class], "answer": labels[top], "p": p });
                    let written = writeln!(out, "{line}");
                    written.map_err(|source| Failure::Output { path: path.display().to_string(), source })?;
                }
            }
        }
        scored.each.push(each);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some((path, mut file)) = predictions {
        file.flush().map_err(|source| Failure::Output { path: path.display().to_string(), source })?;
    }
    Ok(scored)
}

fn count(counts: &mut (u64, u64), right: bool) {
    counts.0 += u64::from(right);
    counts.1 += 1;
}

/// What became of a row's input for an encoder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoded {
    /// The row has none.
    Absent,
    /// It is outside of the manifest's bounds.
    Refused,
    Token,
}

/// Encodes the row's input for encoder `i`, if it has one.
fn encode_row(
    row: &Row,
    i: usize,
    pipeline: &mut Pipeline,
    frame: &mut Frame,
    file: &Path,
) -> Result<Encoded, Failure> {
    let named = |path: &Path, e| Failure::Input(format!("{}:{}: {}: {e}", file.display(), row.line, path.display()));
    match (pipeline.kind(i), &row.image, &row.audio, &row.text) {
        ("image", Some(path), _, _) => {
            image::read_image(path, frame)?;
            pipeline.encode(i, Input::Frame(frame)).map_err(|e| named(path, e))?;
        }
        ("audio", _, Some(path), _) => {
            let (samples, rate_hz) = wav::read_clip(path)?;
            pipeline.encode(i, Input::Clip { samples: &samples, rate_hz }).map_err(|e| named(path, e))?;
        }
        ("text", _, _, Some(text)) => match pipeline.encode(i, Input::Text(text)) {
            Err(PipelineError::Input { source: PreprocessError::Refused(_), .. }) => return Ok(Encoded::Refused),
            other => _ = other.map_err(|e| named(Path::new("text"), e))?,
        },
        _ => return Ok(Encoded::Absent),
    }
    Ok(Encoded::Token)
}

/// Finds the class that a label means.
fn target_of(row: &Row, pipeline: &Pipeline, file: &Path) -> Result<Target, Failure> {
    let labels = pipeline.labels();
    let at = || format!("{}:{}", file.display(), row.line);
    let label = row.label.as_deref().ok_or_else(|| Failure::Input(format!("{}: the row has no label", at())))?;
    if let Some(class) = labels.iter().position(|l| **l == *label) {
        return Ok(Target { class, intent: IntentTarget::Unknown });
    }
    for i in 0..pipeline.modalities().count() {
        let Some(intents) = pipeline.intents(i) else { continue };
        if let Some(intent) = intents.names.iter().position(|name| **name == *label) {
            return Ok(Target { class: intents.class[intent], intent: IntentTarget::Known(intent) });
        }
        if label == "oos" {
            let none =
                pipeline.none().ok_or_else(|| Failure::Input(format!("{}: oos, but the bundle has no none", at())))?;
            return Ok(Target { class: none, intent: IntentTarget::OutOfScope });
        }
    }
    let known = labels.iter().map(|l| &**l).collect::<Vec<_>>().join(", ");
    Err(Failure::Input(format!("{}: label {label:?} is no class ({known}), no intent and not oos", at())))
}

impl IntentCounts {
    fn count(&mut self, answer: Option<(usize, f32, bool)>, target: IntentTarget) {
        let Some((intent, _, accepted)) = answer else { return };
        match target {
            IntentTarget::Unknown => return,
            IntentTarget::Known(expected) => {
                self.in_scope += 1;
                self.right += u64::from(intent == expected);
                self.right_accepted += u64::from(intent == expected && accepted);
            }
            IntentTarget::OutOfScope => {
                self.oos += 1;
                self.oos_rejected += u64::from(!accepted);
            }
        }
        self.rejected += u64::from(!accepted);
    }

    /// A text that was not encoded is rejected, whatever it asks for.
    fn refused(&mut self, target: IntentTarget) {
        match target {
            IntentTarget::Unknown => return,
            IntentTarget::Known(_) => self.in_scope += 1,
            IntentTarget::OutOfScope => {
                self.oos += 1;
                self.oos_rejected += 1;
            }
        }
        self.rejected += 1;
    }

    fn report(&self) -> Option<Intents> {
        (self.in_scope + self.oos > 0).then(|| Intents {
            accuracy: Proportion::new(self.right, self.in_scope),
            accuracy_with_threshold: Proportion::new(self.right_accepted, self.in_scope),
            oos_recall: Proportion::new(self.oos_rejected, self.oos),
            oos_precision: Proportion::new(self.oos_rejected, self.rejected),
        })
    }
}

impl Scored {
    fn report(self, file: PathBuf, bundle: String, pipeline: &Pipeline, confident: Confident) -> Report {
        let names = names(pipeline);
        let of = |(right, n): (u64, u64)| Proportion::new(right, n);
        let mut ablations: Vec<(usize, (u64, u64))> = self.subsets.into_iter().collect();
        ablations.sort_by_key(|(mask, _)| (mask.count_ones(), *mask));
        Report {
            file,
            bundle,
            rows: self.each.len(),
            refused: self.refused,
            fused: self.fused.report(),
            labels: pipeline.labels().iter().map(ToString::to_string).collect(),
            alone: names.iter().cloned().zip(self.alone).filter(|(_, c)| c.1 > 0).map(|(n, c)| (n, of(c))).collect(),
            ablations: ablations
                .into_iter()
                .map(|(mask, counts)| {
                    let taking_part = names.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
                    Ablation { modalities: taking_part.map(|(_, n)| n.clone()).collect(), accuracy: of(counts) }
                })
                .collect(),
            confident,
            intents: self.intents.report(),
        }
    }
}

fn names(pipeline: &Pipeline) -> Vec<String> {
    pipeline.modalities().map(ToString::to_string).collect()
}

fn print_report(report: &Report) -> Result<(), Failure> {
    let cells = |name: String, s: &Proportion| {
        vec![
            name,
            format!("{:.2} %", 100.0 * s.rate),
            format!("{:.1}-{:.1}", 100.0 * s.low, 100.0 * s.high),
            s.of.to_string(),
        ]
    };
    let head = |name: &str| vec![name.to_owned(), "accuracy".into(), "95 %".into(), "rows".into()];
    outln!("{}: {} rows, bundle {}", report.file.display(), report.rows, report.bundle);
    outln!("The modalities of a row are paired by whoever made the file; they need not have been recorded together.\n");
    let mut rows = vec![head("fused"), cells("all present".into(), &report.fused.accuracy)];
    rows.push(vec![]);
    rows.push(head("alone (own head)"));
    rows.extend(report.alone.iter().map(|(name, share)| cells(name.clone(), share)));
    rows.push(vec![]);
    rows.push(head("fused, only"));
    rows.extend(report.ablations.iter().map(|a| cells(a.modalities.join(" + "), &a.accuracy)));
    if let Some(intents) = &report.intents {
        rows.push(vec![]);
        rows.push(head("intents"));
        rows.push(cells("accuracy".into(), &intents.accuracy));
        rows.push(cells("accuracy, threshold applied".into(), &intents.accuracy_with_threshold));
        rows.push(cells("out-of-scope recall".into(), &intents.oos_recall));
        rows.push(cells("out-of-scope precision".into(), &intents.oos_precision));
    }
    out!("{}", table::render(&rows));
    if report.refused > 0 {
        outln!("\n{} inputs are outside of the bounds of bundle.toml and took no part", report.refused);
    }
    report.confident.print()?;
    outln!("\ncalibration: ECE {:.2} %, Brier {:.4}", 100.0 * report.fused.ece, report.fused.brier);
    let short = |l: &String| l.trim_start_matches("desk_").to_owned();
    let labels = &report.labels;
    let mut rows = vec![[vec!["true \\ answer".to_owned()], labels.iter().map(short).collect()].concat()];
    for (label, counts) in labels.iter().zip(&report.fused.confusion) {
        rows.push([vec![label.clone()], counts.iter().map(ToString::to_string).collect()].concat());
    }
    outln!("\n{}", table::render(&rows));
    Ok(())
}
