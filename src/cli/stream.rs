//! `attendant eval` on a sound file in which nothing is to be decided, and what is said of any stream.
//!
//! The sound goes through the player, the pipeline and the decision rules that `run` uses, at full speed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use attendant::capture::wav::WavMic;
use attendant::emit::Sink;
use attendant::emit::summary::Seen;
use attendant::pipeline::Pipeline;
use attendant::supervise::{self, FileFeed, Outside, Pacing};
use attendant::time::{Micros, MonotonicClock};

use super::{Common, Failure, outln};

/// What is printed.
#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    stream: Stream,
}

/// What was decided in a stream.
#[derive(serde::Serialize)]
pub struct Stream {
    /// How long it is.
    pub minutes: f64,
    /// Classes entered.
    pub decisions: u64,
    /// The same per hour: false alarms if the stream holds nothing to decide.
    decisions_per_hour: f64,
    /// Questions to the visitor.
    pub questions: u64,
    /// When each class was entered, and with what probability.
    entered: Vec<Entered>,
}

#[derive(serde::Serialize)]
struct Entered {
    t_s: f64,
    class: String,
    p: f32,
}

impl Stream {
    /// Of `duration`, with what was entered: when, which class, with what probability.
    pub fn of(duration: Micros, questions: u64, entered: impl Iterator<Item = (Micros, String, f32)>) -> Stream {
        let entered: Vec<Entered> = entered.map(|(t, class, p)| Entered { t_s: t.0 as f64 / 1e6, class, p }).collect();
        let (minutes, decisions) = (duration.0 as f64 / 60e6, entered.len() as u64);
        let decisions_per_hour = decisions as f64 / (minutes / 60.0).max(f64::MIN_POSITIVE);
        Stream { minutes, decisions, decisions_per_hour, questions, entered }
    }
}

/// Plays the file and reports what was decided.
pub fn run(common: &Common, file: &Path, pipeline: &mut Pipeline) -> Result<ExitCode, Failure> {
    let mut feed = FileFeed::default();
    feed.mic("mic", Box::new(WavMic::open(file, super::BLOCK_MS)?));
    let mut seen = Seen::default();
    let outcome = {
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(&mut seen)];
        let stop = AtomicBool::new(false);
        let (clock, outside) = (MonotonicClock::new(), Outside::default());
        supervise::play(&mut feed, pipeline, &clock, Pacing::Max, &mut sinks, &stop, &outside)?
    };
    let entered = seen.entered().map(|(t, class, p)| (t, class.to_string(), p));
    let stream = Stream::of(outcome.duration, seen.questions(), entered);
    let report = Report { file: file.to_owned(), stream };
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
    Ok(ExitCode::SUCCESS)
}
