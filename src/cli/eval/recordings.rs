//! Recordings that say what is shown: hits, misses, false alarms, latency, thresholds swept, modalities left out.
//!
//! Every recording is played once through the player, the pipeline and the rules that `run` uses; what the decision was given is noted
//! and decided again for every threshold and every set of modalities. docs/eval.md has the rules of matching.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use attendant::capture::recording::tape::Taped;
use attendant::capture::recording::{Recording, Survey};
use attendant::decide::Policy;
use attendant::decide::matching::{self, Judged, Measures, Outcome, Shown};
use attendant::decide::score::{Calibration, CalibrationBin, Proportion};
use attendant::decide::trace::{Subset, Trace};
use attendant::emit::{Sink, SinkError};
use attendant::pipeline::Pipeline;
use attendant::signal::{DecisionState, Event};
use attendant::supervise::replay::replay;
use attendant::supervise::{Outside, Pacing, play};
use attendant::time::{Micros, MonotonicClock};
use indicatif::{ProgressBar, ProgressStyle};
use log::warn;

use super::{Candidate, EvalArguments, at_least, names_of, percent, report};
use crate::cli::stream::Stream;
use crate::cli::{Common, Failure, out, outln, table};

/// Thresholds that are swept besides the bundle's own.
const ENTER_GRID: [f32; 13] = [0.51, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99];

/// Most bytes of a file of labels.
const LABEL_BYTES_MAX: u64 = 16 << 20;

/// One statement about what is shown, from a recording or from the file beside it.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    t_us: Micros,
    label: String,
    #[serde(default)]
    shown: Vec<String>,
    #[serde(default)]
    note: String,
}

/// A recording that was played once.
pub struct Played {
    file: PathBuf,
    /// Where the labels came from.
    labels_from: String,
    trace: Trace,
    /// What is shown, without holes, and what its author says of it.
    pub shown: Vec<Shown>,
    notes: Vec<String>,
    duration: Micros,
}

/// Every recording, played through one bundle.
pub struct Run {
    bundle: String,
    labels: Vec<String>,
    /// Index of the label that is never decided.
    none: Option<usize>,
    pub modalities: Vec<String>,
    pub policy: Policy,
    pub played: Vec<Played>,
    tolerance: Micros,
}

impl Run {
    /// Plays `files` through the candidate's bundle.
    pub fn new(files: &[PathBuf], candidate: &Candidate, tolerance_ms: u32) -> Result<Run, Failure> {
        let first = candidate.pipeline()?;
        let mut run = Run {
            bundle: candidate.bundle.id.to_string(),
            labels: first.labels().iter().map(ToString::to_string).collect(),
            none: first.policy().none(),
            modalities: first.modalities().map(ToString::to_string).collect(),
            policy: first.policy().clone(),
            played: Vec::new(),
            tolerance: Micros::from_ms(tolerance_ms.into()),
        };
        let mut fresh = Some(first);
        for file in files {
            // nothing that one recording left behind may reach the next
            let mut pipeline = fresh.take().map_or_else(|| candidate.pipeline(), Ok)?;
            run.played.push(run.play(file, &mut pipeline)?);
        }
        Ok(run)
    }

    fn play(&self, file: &Path, pipeline: &mut Pipeline) -> Result<Played, Failure> {
        let survey = Survey::of(file)?;
        let (statements, labels_from) = statements(file, &survey)?;
        let is_run = survey.calls > 0;
        let begin = if is_run { survey.start } else { Micros::ZERO };
        let end = begin + survey.duration;
        // what is wrong with the labels is told before the long work
        self.shown(&statements, begin, end, &labels_from)?;
        let bar = progress(file, survey.duration);
        pipeline.trace();
        let stop = AtomicBool::new(false);
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(Progress { bar: &bar, begin })];
        let clock = MonotonicClock::new();
        let duration = if is_run {
            let mut tape = Taped::new(Recording::open(file)?);
            let replayed = replay(&mut tape, pipeline, &clock, Pacing::Max, &mut sinks, &stop)?;
            if replayed.lost_calls > 0 {
                warn!(
                    "{}: {} calls were not recorded; decisions near them may differ",
                    file.display(),
                    replayed.lost_calls
                );
            }
            replayed.duration
        } else {
            let mut feed = Recording::open(file)?;
            let outside = Outside::default();
            play(&mut feed, pipeline, &clock, Pacing::Max, &mut sinks, &stop, &outside)?.duration
        };
        drop(sinks);
        bar.finish_and_clear();
        let trace = pipeline.take_trace().expect("asked for above");
        trace.complete().map_err(|e| Failure::Input(format!("{}: {e}", file.display())))?;
        let (shown, notes) = self.shown(&statements, begin, begin + duration.max(survey.duration), &labels_from)?;
        Ok(Played { file: file.to_owned(), labels_from, trace, shown, notes, duration })
    }

    /// Stretches without holes from the statements: nothing is shown before the first, the last lasts until `end`.
    fn shown(
        &self,
        statements: &[Statement],
        begin: Micros,
        end: Micros,
        from: &str,
    ) -> Result<(Vec<Shown>, Vec<String>), Failure> {
        let wrong = |s: &Statement, what: String| Failure::Input(format!("{from}: at {}: {what}", s.t_us));
        let mut previous = Micros::ZERO;
        let mut shown = vec![Shown { from: begin, until: end, class: None, by: 0 }];
        let mut notes = vec![String::new()];
        for s in statements {
            let class = self.class(&s.label).map_err(|what| wrong(s, what))?;
            let last = shown.last_mut().expect("one is there from the start");
            // what is shown already when the recording begins
            let t = s.t_us.max(begin);
            if s.t_us < previous {
                return Err(wrong(s, "comes after a later statement; expected them in the order of time".into()));
            }
            previous = s.t_us;
            if t >= end && class.is_some() {
                return Err(wrong(s, format!("{} is shown, but the recording ends at {end}", s.label)));
            }
            if t == last.from && last.class.is_some() {
                return Err(wrong(s, format!("{} is shown for no time", self.labels[last.class.unwrap_or(0)])));
            }
            if t == last.from {
                shown.pop();
                notes.pop();
            } else {
                last.until = t.min(end);
            }
            if t < end {
                shown.push(Shown { from: t, until: end, class, by: self.by(s, from) });
                notes.push(s.note.clone());
            }
        }
        Ok((shown, notes))
    }

    fn class(&self, label: &str) -> Result<Option<usize>, String> {
        if label == "none" || self.none.is_some_and(|none| self.labels[none] == label) {
            return Ok(None);
        }
        self.labels
            .iter()
            .position(|l| l == label)
            .map(Some)
            .ok_or_else(|| format!("label {label:?} is no class of {} ({})", self.bundle, self.labels.join(", ")))
    }

    fn by(&self, statement: &Statement, from: &str) -> Subset {
        let mut by = 0;
        for name in &statement.shown {
            match self.modalities.iter().position(|m| m == name) {
                Some(i) => by |= 1 << i,
                None => warn!("{from}: at {}: {name:?} is no encoder of {}", statement.t_us, self.bundle),
            }
        }
        by
    }

    /// Every stretch of every recording, decided with one of the trace's subsets by `policy`.
    pub fn judge(&self, subset: usize, policy: &Policy) -> Vec<(&Shown, Judged)> {
        let of = |p: &'_ Played| matching::judge(&p.shown, &p.trace.decide(subset, policy), self.tolerance);
        self.played.iter().flat_map(|p| p.shown.iter().zip(of(p))).collect()
    }

    /// The sets of modalities, all first.
    pub fn subsets(&self) -> &[Subset] {
        self.played[0].trace.subsets()
    }

    fn sweep(&self) -> Vec<SweepPoint> {
        let own = self.policy.enter();
        let mut grid: Vec<f32> = ENTER_GRID.into_iter().filter(|e| (e - own).abs() > 0.002).chain([own]).collect();
        grid.sort_by(f32::total_cmp);
        let point = |enter: f32| {
            let mut policy = self.policy.clone();
            // the way back stays as far below as it is in the bundle
            let exit = self.policy.exit() * enter / own;
            policy.set_thresholds(enter, exit).expect("above one half, and exit as far below as in a checked bundle");
            let judged = self.judge(0, &policy);
            let m = measures(&judged, None);
            SweepPoint {
                enter,
                exit,
                is_bundle: enter == own,
                hits: m.hits,
                wrong: m.wrong,
                wrong_decisions: m.wrong_decisions,
                false_alarms: m.false_alarms.count,
                false_alarms_per_hour: m.false_alarms.per_hour,
                latency_p50_ms: m.latency.map(|l| l.p50_ms),
            }
        };
        grid.into_iter().map(point).collect()
    }

    fn ablations(&self) -> Vec<Ablation> {
        let count = self.modalities.len();
        let row = |(i, subset): (usize, &Subset)| {
            let judged = self.judge(i, &self.policy);
            // what nobody has told counts for every modality
            let visible = judged.iter().filter(|(s, _)| s.class.is_some() && (s.by == 0 || s.by & subset != 0));
            let hits = visible.clone().filter(|(_, j)| j.outcome == Outcome::Hit).count();
            let change = match subset.count_ones() as usize {
                n if n == count => "all",
                1 if count > 1 => "alone",
                _ => "removed",
            };
            Ablation {
                change,
                modalities: names_of((*subset).into(), &self.modalities),
                total: measures(&judged, None),
                hits_of_visible: Proportion::new(hits as u64, visible.count() as u64),
            }
        };
        self.subsets().iter().enumerate().map(row).collect()
    }

    fn report(&self) -> Report {
        let judged = self.judge(0, &self.policy);
        let classes: Vec<usize> = (0..self.labels.len()).filter(|c| Some(*c) != self.none).collect();
        let by_class = classes.iter().map(|c| (self.labels[*c].clone(), measures(&judged, Some(*c))));
        let mut calibration = Calibration::default();
        for (_, j) in &judged {
            j.right.iter().for_each(|e| calibration.add(f64::from(e.p.min(1.0)), true));
            j.other.iter().for_each(|e| calibration.add(f64::from(e.p.min(1.0)), false));
        }
        let mut rest = judged.iter();
        Report {
            v: 1,
            kind: "recordings",
            bundle: self.bundle.clone(),
            enter: self.policy.enter(),
            exit: self.policy.exit(),
            tolerance_ms: self.tolerance.as_ms(),
            modalities: self.modalities.clone(),
            total: measures(&judged, None),
            classes: by_class.filter(|(_, m)| m.hits.of > 0 || m.false_alarms.count > 0).collect(),
            confusion: self.confusion(&classes, &judged),
            calibration: CalibrationReport { ece: calibration.ece(), bins: calibration.bins() },
            sweep: self.sweep(),
            ablations: self.ablations(),
            latencies_ms: judged.iter().filter_map(|(_, j)| j.latency).map(Micros::as_ms).collect(),
            recordings: self.played.iter().map(|p| self.recording(p, &mut rest.by_ref().take(p.shown.len()))).collect(),
        }
    }

    fn recording<'a>(&self, p: &Played, judged: &mut dyn Iterator<Item = &'a (&'a Shown, Judged)>) -> RecordingReport {
        let name = |class: usize| self.labels[class].clone();
        let decided = p.trace.decide(0, &self.policy);
        let entered = decided.iter().filter(|d| d.is_own_enter());
        let entered = entered.map(|d| (d.t, name(d.verdict.class), d.verdict.p));
        let questions = decided.iter().filter(|d| d.verdict.state == DecisionState::Ask).count() as u64;
        let stretch = |(note, (s, j)): (&String, &(&Shown, Judged))| Stretch {
            t_s: seconds(s.from),
            end_s: seconds(s.until),
            label: s.class.map(name),
            shown: names_of(s.by.into(), &self.modalities),
            note: note.clone(),
            outcome: j.outcome,
            latency_ms: j.latency.map(Micros::as_ms),
            p: j.right.first().map(|e| e.p),
            other: j.other.iter().map(|e| Other { t_s: seconds(e.t), class: name(e.class), p: e.p }).collect(),
        };
        RecordingReport {
            file: p.file.clone(),
            labels: p.labels_from.clone(),
            stream: Stream::of(p.duration, questions, entered),
            stretches: p.notes.iter().zip(judged).map(stretch).collect(),
        }
    }

    /// What was shown against what was decided first.
    fn confusion(&self, classes: &[usize], judged: &[(&Shown, Judged)]) -> Confusion {
        let slot = |class: usize| classes.iter().position(|c| *c == class);
        let nothing = classes.len();
        let mut counts = vec![vec![Some(0); nothing + 1]; nothing + 1];
        // how often nothing was decided while nothing was shown is no count
        counts[nothing][nothing] = None;
        let mut count = |row: usize, column: usize| counts[row][column] = counts[row][column].map(|n| n + 1);
        for (s, j) in judged {
            match s.class.and_then(slot) {
                None => j.other.iter().filter_map(|e| slot(e.class)).for_each(|c| count(nothing, c)),
                Some(row) if j.outcome == Outcome::Hit => count(row, row),
                Some(row) => count(row, j.other.first().and_then(|e| slot(e.class)).unwrap_or(nothing)),
            }
        }
        let labels = classes.iter().map(|c| self.labels[*c].clone()).chain(["nothing".into()]).collect();
        Confusion { labels, counts }
    }
}

/// Of judged stretches.
pub fn measures(judged: &[(&Shown, Judged)], class: Option<usize>) -> Measures {
    Measures::of(judged.iter().map(|(s, j)| (*s, j)), class)
}

fn seconds(t: Micros) -> f64 {
    t.0 as f64 / 1e6
}

/// What is shown, and where it is written.
fn statements(file: &Path, survey: &Survey) -> Result<(Vec<Statement>, String), Failure> {
    let beside = file.with_extension("labels.jsonl");
    if beside.is_file() {
        return Ok((read_labels(&beside)?, beside.display().to_string()));
    }
    if survey.truths.is_empty() {
        return Err(Failure::Input(format!(
            "{}: it does not say what is shown; expected statements on /truth, or {} with a line \
             {{\"t_us\":12500000,\"label\":\"desk_3\",\"shown\":[\"card\"]}} wherever that changes (label none: nothing), see docs/eval.md",
            file.display(),
            beside.display()
        )));
    }
    let begin = if survey.calls > 0 { survey.start } else { Micros::ZERO };
    let statement = |t: &attendant::capture::recording::Truth| Statement {
        t_us: begin + t.t,
        label: t.label.clone(),
        shown: t.shown.clone(),
        note: t.note.clone(),
    };
    Ok((survey.truths.iter().map(statement).collect(), format!("{} /truth", file.display())))
}

fn read_labels(path: &Path) -> Result<Vec<Statement>, Failure> {
    let unreadable = |e: std::io::Error| Failure::Input(format!("{}: {e}", path.display()));
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > LABEL_BYTES_MAX {
        let message = format!("{}: {bytes} bytes, expected at most {LABEL_BYTES_MAX}", path.display());
        return Err(Failure::Input(message));
    }
    let text = String::from_utf8_lossy(&fs::read(path).map_err(unreadable)?).into_owned();
    let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    let statements: Vec<Statement> = lines
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| {
                Failure::Input(format!("{}:{}: {e}; a line has t_us, label, shown, note", path.display(), i + 1))
            })
        })
        .collect::<Result<_, _>>()?;
    if statements.is_empty() {
        return Err(Failure::Input(format!(
            "{}: no labels; a line {{\"t_us\":0,\"label\":\"none\"}} says that nothing is shown",
            path.display()
        )));
    }
    Ok(statements)
}

/// Shows how far a recording has been played.
struct Progress<'a> {
    bar: &'a ProgressBar,
    begin: Micros,
}

impl Sink for Progress<'_> {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        self.tick(event.t_us)
    }

    fn tick(&mut self, now: Micros) -> Result<(), SinkError> {
        self.bar.set_position(now.since(self.begin).as_ms() / 1000);
        Ok(())
    }
}

fn progress(file: &Path, duration: Micros) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} s  {eta}").expect("a constant template");
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ProgressBar::new(duration.as_ms() / 1000).with_style(style).with_message(name)
}

/// What `eval` prints of recordings; docs/eval.md documents it.
#[derive(serde::Serialize)]
pub struct Report {
    v: u32,
    kind: &'static str,
    pub bundle: String,
    pub enter: f32,
    exit: f32,
    pub tolerance_ms: u64,
    modalities: Vec<String>,
    pub total: Measures,
    pub classes: BTreeMap<String, Measures>,
    pub confusion: Confusion,
    pub calibration: CalibrationReport,
    pub sweep: Vec<SweepPoint>,
    pub ablations: Vec<Ablation>,
    pub latencies_ms: Vec<u64>,
    pub recordings: Vec<RecordingReport>,
}

/// Rows are what is shown, columns what was decided; the last of both is nothing.
#[derive(serde::Serialize)]
pub struct Confusion {
    pub labels: Vec<String>,
    pub counts: Vec<Vec<Option<u64>>>,
}

/// Probabilities that were told with decisions, against how many of them were right.
#[derive(serde::Serialize)]
pub struct CalibrationReport {
    pub ece: f64,
    pub bins: Vec<CalibrationBin>,
}

/// The whole decided again with other thresholds.
#[derive(serde::Serialize)]
pub struct SweepPoint {
    pub enter: f32,
    exit: f32,
    pub is_bundle: bool,
    pub hits: Proportion,
    pub wrong: u64,
    wrong_decisions: u64,
    pub false_alarms: u64,
    pub false_alarms_per_hour: Option<f64>,
    pub latency_p50_ms: Option<u64>,
}

/// The whole decided again with some of the modalities.
#[derive(serde::Serialize)]
pub struct Ablation {
    /// `all`, `removed` (one of them), `alone`.
    pub change: &'static str,
    pub modalities: Vec<String>,
    pub total: Measures,
    /// Over the stretches that at least one of these modalities can go by.
    pub hits_of_visible: Proportion,
}

/// One recording.
#[derive(serde::Serialize)]
pub struct RecordingReport {
    pub file: PathBuf,
    labels: String,
    pub stream: Stream,
    pub stretches: Vec<Stretch>,
}

/// One stretch in which one thing is shown, or nothing.
#[derive(serde::Serialize)]
pub struct Stretch {
    pub t_s: f64,
    end_s: f64,
    pub label: Option<String>,
    pub shown: Vec<String>,
    pub note: String,
    pub outcome: Outcome,
    pub latency_ms: Option<u64>,
    pub p: Option<f32>,
    /// Decisions that are wrong, or false alarms.
    pub other: Vec<Other>,
}

/// A decision of what is not shown.
#[derive(serde::Serialize)]
pub struct Other {
    t_s: f64,
    pub class: String,
    pub p: f32,
}

/// Scores recordings.
pub fn run(
    common: &Common,
    args: &EvalArguments,
    files: &[PathBuf],
    candidate: &Candidate,
) -> Result<ExitCode, Failure> {
    let report = Run::new(files, candidate, args.tolerance_ms)?.report();
    if let Some(dir) = &args.report {
        report::of_recordings(dir, &report)?;
    }
    if common.json {
        common.print_json(&report)?;
    } else {
        print(&report)?;
        if let Some(dir) = &args.report {
            outln!("\nreport: {}", dir.join("index.html").display());
        }
    }
    at_least(args, "share of hits", report.total.hits.rate)
}

/// `1.2 (0.1-6.8)` an hour.
pub fn rate(measures: &Measures) -> String {
    let r = &measures.false_alarms;
    match (r.per_hour, r.low, r.high) {
        (Some(rate), Some(low), Some(high)) => format!("{rate:.1} ({low:.1}-{high:.1})"),
        _ => "-".into(),
    }
}

/// What became of a stretch, for people.
pub fn told(s: &Stretch) -> String {
    let others: Vec<String> = s.other.iter().map(|o| format!("{} (p {:.2})", o.class, o.p)).collect();
    let others = others.join(", ");
    match (s.outcome, s.latency_ms) {
        (Outcome::Hit, None) => "held on".into(),
        (Outcome::Hit, Some(ms)) if others.is_empty() => format!("after {:.2} s", ms as f64 / 1e3),
        (Outcome::Hit, Some(ms)) => format!("after {:.2} s, and {others}", ms as f64 / 1e3),
        (Outcome::Wrong, _) => format!("WRONG: {others}"),
        (Outcome::Asked, _) => "asked back".into(),
        (Outcome::Missed, _) => "MISSED".into(),
        (Outcome::Quiet, _) => "-".into(),
        (Outcome::Alarm, _) => format!("FALSE ALARM: {others}"),
    }
}

/// What is said of one set of measures in a table.
pub fn cells(name: &str, m: &Measures) -> Vec<String> {
    let s = |ms: Option<u64>| ms.map_or("-".into(), |ms| format!("{:.2}", ms as f64 / 1e3));
    let latency = m.latency.as_ref();
    vec![
        name.into(),
        m.hits.of.to_string(),
        m.hits.hits.to_string(),
        if m.hits.of == 0 { "-".into() } else { percent(m.hits.rate) },
        m.wrong.to_string(),
        m.asked.to_string(),
        m.missed.to_string(),
        m.false_alarms.count.to_string(),
        rate(m),
        s(latency.map(|l| l.p50_ms)),
        s(latency.map(|l| l.p90_ms)),
        s(latency.map(|l| l.max_ms)),
    ]
}

/// Heads of [`cells`].
pub const HEADS: [&str; 12] = [
    "",
    "shown",
    "hits",
    "share",
    "wrong",
    "asked",
    "missed",
    "false alarms",
    "an hour (95 %)",
    "p50 s",
    "p90 s",
    "max s",
];

fn print(report: &Report) -> Result<(), Failure> {
    outln!("bundle {}, enter {}, tolerance {} ms", report.bundle, report.enter, report.tolerance_ms);
    for r in &report.recordings {
        outln!(
            "\n{}: {:.1} minutes, {} decisions, {} questions",
            r.file.display(),
            r.stream.minutes,
            r.stream.decisions,
            r.stream.questions
        );
        let mut rows = vec![["t", "shown", "by", "decided"].map(String::from).to_vec()];
        for s in &r.stretches {
            let label = s.label.clone().unwrap_or_else(|| "nothing".into());
            rows.push(vec![format!("{:8.1} s", s.t_s), label, s.shown.join(" + "), told(s)]);
        }
        out!("{}", table::render(&rows));
    }
    let mut rows = vec![HEADS.map(String::from).to_vec()];
    rows.extend(report.classes.iter().map(|(name, m)| cells(name, m)));
    rows.push(cells("all", &report.total));
    outln!("\n{}", table::render(&rows));
    let t = &report.total;
    outln!(
        "{} of {} shown decided ({} to {} with 95 %), {} held on; nothing is shown for {:.1} minutes",
        t.hits.hits,
        t.hits.of,
        percent(t.hits.low),
        percent(t.hits.high),
        t.held,
        60.0 * t.false_alarms.hours
    );
    outln!("probabilities of decisions: ECE {}\n", percent(report.calibration.ece));
    out!("{}", table::render(&ablation_rows(report)));
    outln!("");
    out!("{}", table::render(&sweep_rows(report)));
    Ok(())
}

/// Modalities left out, as a table.
pub fn ablation_rows(report: &Report) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["modalities", "hits", "of what they can see", "wrong", "false alarms", "p50 s"].map(String::from).to_vec(),
    ];
    for a in &report.ablations {
        let m = &a.total;
        rows.push(vec![
            ablation_name(report, a),
            format!("{}/{}", m.hits.hits, m.hits.of),
            format!("{}/{}", a.hits_of_visible.hits, a.hits_of_visible.of),
            m.wrong.to_string(),
            m.false_alarms.count.to_string(),
            m.latency.map_or("-".into(), |l| format!("{:.2}", l.p50_ms as f64 / 1e3)),
        ]);
    }
    rows
}

/// `all`, `without card`, `only card`.
pub fn ablation_name(report: &Report, a: &Ablation) -> String {
    let rest: Vec<&str> = report.modalities.iter().filter(|m| !a.modalities.contains(m)).map(String::as_str).collect();
    match a.change {
        "all" => "all".into(),
        "alone" => format!("only {}", a.modalities.join(" + ")),
        _ => format!("without {}", rest.join(" + ")),
    }
}

/// Thresholds, as a table.
pub fn sweep_rows(report: &Report) -> Vec<Vec<String>> {
    let heads = ["enter", "hits", "share", "wrong", "false alarms", "an hour", "p50 s"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for p in &report.sweep {
        rows.push(vec![
            format!("{:.2}{}", p.enter, if p.is_bundle { " (bundle)" } else { "" }),
            format!("{}/{}", p.hits.hits, p.hits.of),
            percent(p.hits.rate),
            p.wrong.to_string(),
            p.false_alarms.to_string(),
            p.false_alarms_per_hour.map_or("-".into(), |r| format!("{r:.1}")),
            p.latency_p50_ms.map_or("-".into(), |ms| format!("{:.2}", ms as f64 / 1e3)),
        ]);
    }
    rows
}
