//! `attendant record`, `replay`, `info`: a run becomes a file, the file becomes the same run again.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use attendant::board::BOARD;
use attendant::bundle::{Bundle, digest};
use attendant::capture::recording::tape::Taped;
use attendant::capture::recording::{Recording, Survey};
use attendant::emit::{LiveView, LiveViewOptions, Sink};
use attendant::pipeline::{Options, Pipeline};
use attendant::signal::{Detail, Notices};
use attendant::supervise::Pacing;
use attendant::supervise::recorder::{RecordSpec, Recorded, Recorder};
use attendant::supervise::replay::{Replayed, replay};
use attendant::time::{Clock, MonotonicClock};
use clap::Args;

use super::run::{RunArguments, Speed};
use super::{Common, Failure, outln};

/// Arguments of `record`.
#[derive(Clone, Debug, Args)]
pub struct RecordArguments {
    /// The recording to make: .mcap; an existing file is not overwritten
    out: PathBuf,
    #[command(flatten)]
    run: RunArguments,
}

/// Arguments of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArguments {
    /// Recording of a run
    file: PathBuf,
    /// Compare the events with the recorded ones; exit with 1 if they differ
    #[arg(long)]
    verify: bool,
    /// 1 plays at real speed, max as fast as possible; the events are the same
    #[arg(long, value_name = "1|max", default_value = "max")]
    speed: Speed,
}

/// Arguments of `info`.
#[derive(Clone, Debug, Args)]
pub struct InfoArguments {
    /// Recording
    file: PathBuf,
}

/// Runs `record`.
pub fn record(common: &Common, args: &RecordArguments) -> Result<ExitCode, Failure> {
    if args.run.is_recorded() {
        return Err(Failure::Usage("record: the file is the first argument; leave --record out".into()));
    }
    super::run::run(common, &args.run.recorded_to(&args.out))
}

/// Begins to record `pipeline` as `spec` asks for.
pub fn start(
    spec: &RecordSpec,
    bundle: &Bundle,
    lang: &str,
    pipeline: &mut Pipeline,
    clock: &Arc<dyn Clock>,
    notices: &Arc<Notices>,
) -> Result<Recorder, Failure> {
    let mut about = about(bundle, lang)?;
    if spec.detail == Detail::Tokens {
        if let Some(encoder) = bundle.manifest.encoder.iter().find(|e| e.has_head()) {
            let message = format!(
                "--record-tokens: encoder {} has a head, whose results are not made of a token; record without it",
                encoder.name
            );
            return Err(Failure::Usage(message));
        }
        about.insert("detail".into(), "tokens".into());
    }
    let (recorder, tape) = Recorder::start(spec, &about, Arc::clone(clock), Arc::clone(notices))
        .map_err(|e| Failure::Output { path: e.path.display().to_string(), source: e.source })?;
    pipeline.record(Some(tape));
    Ok(recorder)
}

/// Ends a recording and says what it came to.
pub fn finish(recorder: Recorder, pipeline: &mut Pipeline) -> Result<(), Failure> {
    pipeline.record(None);
    let Recorded { path, lost, error } = recorder.finish();
    if let Some(message) = error {
        return Err(Failure::Output { path: path.display().to_string(), source: io::Error::other(message) });
    }
    if lost > 0 {
        let message =
            format!("{lost} calls were left out, because the disk was behind; a replay differs from there on");
        return Err(Failure::Output { path: path.display().to_string(), source: io::Error::other(message) });
    }
    Ok(())
}

/// What a recording says of its making: equal values promise equal events.
fn about(bundle: &Bundle, lang: &str) -> Result<BTreeMap<String, String>, Failure> {
    let failed = |path: &Path, source| Failure::Output { path: path.display().to_string(), source };
    let program = std::env::current_exe().map_err(|e| failed(Path::new("attendant"), e))?;
    let pairs = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("program_sha256", digest::of_file(&program).map_err(|e| failed(&program, e))?),
        ("board", BOARD.name.to_owned()),
        ("bundle", bundle.id.to_string()),
        ("bundle_sha256", digest::digest(&bundle.dir).map_err(|e| failed(&bundle.dir, e))?),
        ("cpu", super::doctor::cpu()),
        ("kernels", attendant::infer::kernel_tier()?.to_string()),
        ("lang", lang.to_owned()),
    ];
    Ok(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

/// What `replay --json` prints.
#[derive(serde::Serialize)]
struct Report<'a> {
    file: &'a Path,
    /// What differs between the making of the recording and this replay; nothing promises the same bytes.
    differs_in: Vec<String>,
    #[serde(flatten)]
    replayed: &'a Replayed,
}

/// Runs `replay`.
pub fn run_replay(common: &Common, args: &ReplayArguments) -> Result<ExitCode, Failure> {
    let clock = MonotonicClock::new();
    let bundle = common.open_bundle()?;
    let Made { mut pipeline, differs_in } = pipeline_of(&args.file, &bundle)?;
    let mut tape = Taped::open(&args.file)?;
    let pacing = if args.speed == Speed::Max { Pacing::Max } else { Pacing::RealTime };
    let stop = AtomicBool::new(false);
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    if !args.verify && !common.json {
        let options = LiveViewOptions::for_terminal(io::stdout().is_terminal());
        sinks.push(Box::new(LiveView::new(io::stdout(), options)));
    } else if !args.verify {
        sinks.push(Box::new(attendant::emit::JsonLines::new("stdout", io::stdout())));
    }
    let began = clock.now();
    let replayed = replay(&mut tape, &mut pipeline, &clock, pacing, &mut sinks, &stop)?;
    let took = clock.now() - began;
    if !args.verify {
        differs_in.iter().for_each(|line| log::warn!("{}: made with another {line}", args.file.display()));
        if replayed.lost_events > 0 {
            return Err(Failure::Lost { file: "stdout".into(), events: replayed.lost_events });
        }
        return Ok(ExitCode::SUCCESS);
    }
    if common.json {
        common.print_json(&Report { file: &args.file, differs_in, replayed: &replayed })?;
    } else {
        for line in &differs_in {
            outln!("made with another {line}");
        }
        for d in &replayed.differences {
            let line = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".into());
            outln!("at {}\n  recorded {}\n  replayed {}", d.t_us, line(&d.recorded), line(&d.replayed));
        }
        if let Some(cut) = &replayed.cut {
            outln!("{}: {cut}", args.file.display());
        }
        let speed = replayed.duration.0 as f64 / took.0.max(1) as f64;
        outln!(
            "{} calls, {} events in {:.1} s at {speed:.0} times real speed; {} differ, decisions {}; {} calls left out by the recorder",
            replayed.calls,
            replayed.events,
            replayed.duration.as_secs_f32(),
            replayed.differing,
            if replayed.decisions_agree { "agree" } else { "DIFFER" },
            replayed.lost_calls
        );
        if replayed.lead_in_calls > 0 {
            outln!("the first {} calls are the lead-in of a part: not compared", replayed.lead_in_calls);
        }
        outln!("event hash {}", replayed.event_hash);
    }
    if replayed.differing > 0 {
        let file = args.file.display();
        return Err(Failure::Check(format!("{file}: {} of {} events differ", replayed.differing, replayed.events)));
    }
    Ok(ExitCode::SUCCESS)
}

/// A pipeline for the calls of a recording.
pub struct Made {
    /// In the recording's language.
    pub pipeline: Pipeline,
    /// What differs between the making of the recording and this program and bundle.
    pub differs_in: Vec<String>,
}

/// A pipeline for the calls of `file`.
pub fn pipeline_of(file: &Path, bundle: &Bundle) -> Result<Made, Failure> {
    let made = made_with(file)?;
    let mut options = Options::default();
    if let Some(lang) = made.get("lang") {
        options.lang.clone_from(lang);
    }
    let mine = about(bundle, &options.lang)?;
    let differs_in = mine
        .iter()
        .filter(|(key, value)| made.get(*key).is_some_and(|of| of != *value))
        .map(|(key, value)| format!("{key}: {} recorded, {value} here", made[key]))
        .collect();
    Ok(Made { pipeline: Pipeline::load(bundle, &options)?, differs_in })
}

/// What the recorder of `file` said of itself.
fn made_with(file: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let mut tape = Taped::open(file)?;
    tape.next_entry()?;
    Ok(tape.about().clone())
}

/// What `info --json` prints.
#[derive(serde::Serialize)]
struct Info<'a> {
    file: &'a Path,
    bytes: u64,
    duration_s: f64,
    /// Samples of every source.
    samples: BTreeMap<String, u64>,
    /// What the recorder said of itself.
    made_with: BTreeMap<String, String>,
    calls: u64,
    events: u64,
    lost_calls: u64,
    /// Statements about what is shown.
    truths: usize,
    /// Why it has no end, if its writer was cut off.
    cut: Option<String>,
}

/// Runs `info`.
pub fn info(common: &Common, args: &InfoArguments) -> Result<ExitCode, Failure> {
    let file = &args.file;
    let bytes = std::fs::metadata(file).map(|m| m.len()).unwrap_or(0);
    let (survey, cut) = Survey::of_readable(Recording::open(file)?)?;
    let info = Info {
        file,
        bytes,
        duration_s: survey.duration.0 as f64 / 1e6,
        samples: survey.sources.iter().map(|(name, n)| (name.to_string(), *n)).collect(),
        made_with: survey.about,
        calls: survey.calls,
        events: survey.events,
        lost_calls: survey.lost_calls,
        truths: survey.truths.len(),
        cut,
    };
    if common.json {
        common.print_json(&info)?;
        return Ok(ExitCode::SUCCESS);
    }
    outln!("{}: {:.1} s, {} bytes", file.display(), info.duration_s, info.bytes);
    for (source, n) in &info.samples {
        outln!("  {source:<12} {n} samples");
    }
    outln!("  {} calls, {} events, {} statements of what is shown", info.calls, info.events, info.truths);
    if info.calls == 0 {
        outln!("  not recorded from a run: `attendant run {}` plays it", file.display());
    }
    if info.lost_calls > 0 {
        outln!("  {} calls left out: the disk was behind", info.lost_calls);
    }
    for (key, value) in &info.made_with {
        outln!("  {key:<14} {value}");
    }
    if let Some(cut) = &info.cut {
        outln!("  has no end: {cut}");
    }
    Ok(ExitCode::SUCCESS)
}
