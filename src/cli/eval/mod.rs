//! `attendant eval`: how good a bundle is, on labelled rows or on recordings that say what is shown, by the code that `run` uses.
//!
//! [`rows`] scores rows, [`confident`] counts answers that are surely wrong, [`decided`] shows rows to the decision rules; [`recordings`] scores
//! streams, [`compare`] two bundles on either, [`report`] makes the page and the pictures of both.

mod compare;
mod confident;
mod decided;
mod recordings;
mod report;
mod rows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use attendant::bundle::Bundle;
use attendant::pipeline::{Options, Pipeline};
use clap::Args;

pub use rows::{Row, read_rows};

use super::{Common, Failure};

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArguments {
    /// Rows {"image":path,"audio":path,"text":string,"label":string,"kind":string}, any modality absent; or recordings (.mcap) with labels; or a .wav
    ///
    /// Paths in rows are relative to the file's own directory. A label is a class of the bundle, one of its intents, or `oos`. A recording
    /// says itself what is shown (/truth), or REC.labels.jsonl beside REC.mcap does: {"t_us":0,"label":"none"} a line. A .wav is played as
    /// a stream in which nothing is to be decided.
    #[arg(required = true, value_name = "DATA")]
    data: Vec<PathBuf>,
    /// Compare two bundles (directories) on the data: differences with intervals
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["report", "min", "predictions"])]
    compare: Vec<PathBuf>,
    /// Write a page (index.html) and its plots (.png) into this directory
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// A decision this long after what it is about has ended still belongs to it (recordings)
    #[arg(long, value_name = "MS", default_value_t = 1500, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    tolerance_ms: u32,
    /// Exit with 1 when the fused accuracy of rows, or the share of hits of recordings, is below this share
    #[arg(long, value_name = "SHARE")]
    min: Option<f64>,
    /// Write one JSON line a row: label, answer, probabilities
    #[arg(long, value_name = "FILE.jsonl")]
    predictions: Option<PathBuf>,
    /// A wrong answer at least this likely counts as confident (rows)
    #[arg(long, value_name = "P", default_value_t = 0.9, value_parser = probability)]
    confident: f32,
    /// Also show every row for some seconds, and count what the decision rules make of it (rows)
    #[arg(long, conflicts_with = "compare")]
    decide: bool,
}

fn probability(text: &str) -> Result<f32, String> {
    let p: f32 = text.parse().map_err(|e| format!("{e}"))?;
    if p > 0.0 && p < 1.0 { Ok(p) } else { Err("expected more than 0 and less than 1".into()) }
}

/// What the data are.
enum Data<'a> {
    Rows(&'a Path),
    Recordings(&'a [PathBuf]),
    Sound(&'a Path),
}

fn extension(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

impl Data<'_> {
    fn of(data: &[PathBuf]) -> Result<Data<'_>, Failure> {
        match data {
            all if all.iter().all(|p| extension(p) == "mcap") => Ok(Data::Recordings(all)),
            [one] if extension(one) == "wav" => Ok(Data::Sound(one)),
            [one] => Ok(Data::Rows(one)),
            [_, other, ..] => {
                let all: Vec<String> = data.iter().map(|p| p.display().to_string()).collect();
                Err(Failure::Usage(format!(
                    "{}: {} together; expected one file of rows, one .wav, or any number of .mcap",
                    other.display(),
                    all.join(", ")
                )))
            }
            [] => unreachable!("clap requires one"),
        }
    }
}

/// A bundle that is ready to be scored.
struct Candidate {
    bundle: Bundle,
}

impl Candidate {
    fn open(dir: &Path) -> Result<Candidate, Failure> {
        Ok(Candidate { bundle: Bundle::open(dir)? })
    }

    /// Its name, and the directory where two have the same.
    fn name(&self) -> String {
        format!("{} ({})", self.bundle.id, self.bundle.dir.display())
    }

    /// A pipeline in which nothing has happened.
    fn pipeline(&self) -> Result<Pipeline, Failure> {
        if self.bundle.labels.is_empty() {
            let message = format!(
                "{}: it decides nothing, so there is nothing to score; see its results with `run --json`",
                self.bundle.id
            );
            return Err(Failure::Usage(message));
        }
        Ok(Pipeline::load(&self.bundle, &Options::default())?)
    }
}

/// Runs the command.
pub fn run(common: &Common, args: &EvalArguments) -> Result<ExitCode, Failure> {
    let data = Data::of(&args.data)?;
    if !matches!(data, Data::Rows(_)) && args.predictions.is_some() {
        return Err(Failure::Usage("--predictions goes with rows, not with a stream".into()));
    }
    if !matches!(data, Data::Rows(_)) && args.decide {
        return Err(Failure::Usage("--decide goes with rows; a stream is decided anyway".into()));
    }
    if let [a, b] = &args.compare[..] {
        let (a, b) = (Candidate::open(a)?, Candidate::open(b)?);
        return match data {
            Data::Rows(file) => compare::rows(common, file, &a, &b),
            Data::Recordings(files) => compare::recordings(common, files, &a, &b, args.tolerance_ms),
            Data::Sound(_) => Err(Failure::Usage("--compare takes rows or recordings, not a .wav".into())),
        };
    }
    // before the long work
    if let Some(dir) = &args.report {
        report::prepare(dir)?;
    }
    let candidate = Candidate { bundle: common.open_bundle()? };
    match data {
        Data::Rows(file) => rows::run(common, args, file, &candidate),
        Data::Recordings(files) => recordings::run(common, args, files, &candidate),
        Data::Sound(_) if args.report.is_some() || args.min.is_some() => {
            Err(Failure::Usage("--report and --min take rows or recordings with labels, not a .wav".into()))
        }
        Data::Sound(file) => super::stream::run(common, file, &mut candidate.pipeline()?),
    }
}

/// The check of `--min`.
fn at_least(args: &EvalArguments, what: &str, rate: f64) -> Result<ExitCode, Failure> {
    match args.min {
        Some(min) if rate < min => Err(Failure::Check(format!("{what} {rate:.4} is below --min {min}"))),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// `card + speech` of the bits of a set.
fn names_of(subset: usize, modalities: &[String]) -> Vec<String> {
    modalities.iter().enumerate().filter(|(i, _)| subset >> i & 1 == 1).map(|(_, n)| n.clone()).collect()
}

/// A share for people.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
