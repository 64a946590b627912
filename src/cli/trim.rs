//! `attendant trim`: a field recording becomes as short as what it shows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use attendant::capture::recording::part::{self, PartError, Span};
use attendant::capture::recording::tape::Taped;
use attendant::capture::recording::{Recording, Survey};
use attendant::supervise::Pacing;
use attendant::supervise::replay::{Replayed, replay};
use attendant::time::{Micros, MonotonicClock};
use clap::Args;

use super::record::{Made, pipeline_of};
use super::{Common, Failure, outln};

/// Tried first; doubled until what is kept replays to the recorded events.
const LEAD_IN: Micros = Micros::from_ms(5000);

/// Arguments of `trim`.
#[derive(Clone, Debug, Args)]
pub struct TrimArguments {
    /// Recording
    file: PathBuf,
    /// The part: an existing file is not overwritten
    out: PathBuf,
    /// Seconds from its start to what is kept
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    from: Micros,
    /// Seconds from its start to what is no longer kept; without it, the end
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    to: Option<Micros>,
    /// Keep this much before the part instead of trying how much it takes; its events are not compared
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    lead_in: Option<Micros>,
}

/// What `trim --json` prints.
#[derive(serde::Serialize)]
struct Report<'a> {
    file: &'a Path,
    out: &'a Path,
    from_us: Micros,
    /// None keeps everything up to the end.
    to_us: Option<Micros>,
    lead_in_us: Micros,
    /// Calls, or messages of a recording that was not made from a run.
    kept: u64,
    /// What a replay of the part came to; none if it was not made from a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<&'a Replayed>,
}

fn seconds(text: &str) -> Result<Micros, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..1e9).contains(&s) => Ok(Micros((s * 1e6).round() as u64)),
        _ => Err(format!("{text:?}, expected seconds from 0 on, such as 12.5")),
    }
}

/// Runs `trim`.
pub fn trim(common: &Common, args: &TrimArguments) -> Result<ExitCode, Failure> {
    let TrimArguments { file, out, .. } = args;
    let (survey, cut) = Survey::of_readable(Recording::open(file)?)?;
    if let Some(cut) = cut {
        log::warn!("{}: {cut}", file.display());
    }
    if let Some(to) = args.to
        && to <= args.from
    {
        let message = format!("--to {} s is not after --from {} s", to.as_secs_f32(), args.from.as_secs_f32());
        return Err(Failure::Usage(message));
    }
    // an existing file is refused before any work, and again when the part takes its name
    if out.exists() {
        let source = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(Failure::Output { path: out.display().to_string(), source });
    }
    let span = Span { from: args.from, to: args.to, lead_in: args.lead_in.unwrap_or(LEAD_IN) };
    if survey.calls == 0 {
        let cut = part::cut(file, out, span, false).map_err(failure)?;
        return report(common, args, span, cut.kept, None);
    }
    let bundle = common.open_bundle()?;
    let draft = Draft(out.with_extension("mcap.part"));
    let mut span = span;
    loop {
        _ = fs::remove_file(&draft.0);
        let cut = part::cut(file, &draft.0, span, true).map_err(failure)?;
        let Made { mut pipeline, differs_in } = pipeline_of(&draft.0, &bundle)?;
        let mut tape = Taped::open(&draft.0)?;
        let clock = MonotonicClock::new();
        let stop = AtomicBool::new(false);
        let replayed = replay(&mut tape, &mut pipeline, &clock, Pacing::Max, &mut [], &stop)?;
        if replayed.differing == 0 || args.lead_in.is_some() {
            // never over another file, also if it came meanwhile
            fs::hard_link(&draft.0, out)
                .map_err(|source| Failure::Output { path: out.display().to_string(), source })?;
            return report(common, args, span, cut.kept, Some(&replayed));
        }
        if cut.is_from_start {
            let why = match differs_in.first() {
                Some(line) => format!("made with another {line}"),
                None => "calls are missing from it".into(),
            };
            return Err(Failure::Check(format!(
                "{}: {} of {} events differ even when it is replayed from its start ({why}); --lead-in SECONDS cuts it all the same",
                file.display(),
                replayed.differing,
                replayed.events
            )));
        }
        span.lead_in = Micros(span.lead_in.0 * 2);
    }
}

/// A file that is not there when its maker is done.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.0);
    }
}

fn failure(error: PartError) -> Failure {
    match error {
        PartError::Read(error) => error.into(),
        PartError::Write(error) => Failure::Output { path: error.path.display().to_string(), source: error.source },
        PartError::Empty { .. } => Failure::Usage(error.to_string()),
    }
}

fn report(
    common: &Common,
    args: &TrimArguments,
    span: Span,
    kept: u64,
    replayed: Option<&Replayed>,
) -> Result<ExitCode, Failure> {
    let lead_in_us = if replayed.is_some() { span.lead_in.min(span.from) } else { Micros::ZERO };
    if common.json {
        let (from_us, to_us) = (span.from, span.to);
        common.print_json(&Report { file: &args.file, out: &args.out, from_us, to_us, lead_in_us, kept, replayed })?;
        return Ok(ExitCode::SUCCESS);
    }
    match replayed {
        None => outln!("{}: {kept} messages", args.out.display()),
        Some(replayed) => outln!(
            "{}: {kept} calls, of which {} are a lead-in of {} s; {} of {} events differ in a replay; event hash {}",
            args.out.display(),
            replayed.lead_in_calls,
            lead_in_us.as_secs_f32(),
            replayed.differing,
            replayed.events,
            replayed.event_hash
        ),
    }
    Ok(ExitCode::SUCCESS)
}
