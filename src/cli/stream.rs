//! `attendant eval` on a stream: a recording, or a sound file in which nothing is to be decided.
//!
//! The stream goes through the player, the pipeline and the decision rules that `run` uses, at full speed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use attendant::capture::recording::{Recording, Survey};
use attendant::capture::wav::WavMic;
use attendant::emit::Sink;
use attendant::emit::summary::{Seen, Summary};
use attendant::pipeline::Pipeline;
use attendant::supervise::{self, Feed, FileFeed, Outside, Pacing};
use attendant::time::MonotonicClock;

use super::{Common, Failure, outln};

/// What is printed.
#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    stream: Stream,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
}

#[derive(serde::Serialize)]
struct Stream {
    minutes: f64,
    /// Classes entered.
    decisions: u64,
    /// The same per hour: false alarms if the file holds nothing to decide.
    decisions_per_hour: f64,
    /// Questions to the visitor.
    questions: u64,
    /// When each class was entered, and with what probability.
    entered: Vec<Entered>,
}

#[derive(serde::Serialize)]
struct Entered {
    t_s: f64,
    class: String,
    p: f32,
}

/// Plays the file and reports what was decided.
pub fn run(common: &Common, file: &Path, extension: &str, pipeline: &mut Pipeline) -> Result<ExitCode, Failure> {
    let mut segments = Vec::new();
    let mut feed: Box<dyn Feed> = if extension == "mcap" {
        segments = super::segments(&Survey::of(file)?);
        Box::new(Recording::open(file)?)
    } else {
        let mut feed = FileFeed::default();
        feed.mic("mic", Box::new(WavMic::open(file, super::BLOCK_MS)?));
        Box::new(feed)
    };
    let mut seen = Seen::default();
    let outcome = {
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(&mut seen)];
        let stop = AtomicBool::new(false);
        supervise::play(
            &mut *feed,
            pipeline,
            &MonotonicClock::new(),
            Pacing::Max,
            &mut sinks,
            &stop,
            &Outside::default(),
        )?
    };
    let minutes = outcome.duration.0 as f64 / 60e6;
    let entered: Vec<Entered> =
        seen.entered().map(|(t, class, p)| Entered { t_s: t.0 as f64 / 1e6, class: class.to_string(), p }).collect();
    let decisions = entered.len() as u64;
    let stream = Stream {
        minutes,
        decisions,
        decisions_per_hour: decisions as f64 / (minutes / 60.0).max(f64::MIN_POSITIVE),
        questions: seen.questions(),
        entered,
    };
    let summary = (!segments.is_empty()).then(|| seen.summary(&segments, outcome.duration));
    let report = Report { file: file.to_owned(), stream, summary };
    if common.json {
        common.print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let s = &report.stream;
    outln!(
        "{}: {:.1} minutes, {} decisions ({:.1} an hour), {} questions",
        report.file.display(),
        s.minutes,
        s.decisions,
        s.decisions_per_hour,
        s.questions
    );
    for e in &s.entered {
        outln!("{:9.2} s  {}  p {:.2}", e.t_s, e.class, e.p);
    }
    if let Some(summary) = &report.summary {
        outln!("\n{}", summary.render(100, false));
    }
    Ok(ExitCode::SUCCESS)
}
