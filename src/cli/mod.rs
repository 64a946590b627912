//! The command line: arguments, logging, exit codes, and one file a command.
//!
//! A command prints for people on a terminal and JSON with `--json`; logs go to stderr. Exit codes are in [`Failure`].

mod bench;
mod boards;
mod bundle;
mod devices;
mod doctor;
mod draft;
mod eval;
mod features;
mod index;
mod infer;
mod inspect;
mod npy;
mod outside;
mod plot;
mod privacy;
mod record;
mod run;
mod stream;
mod table;
mod trim;
mod update;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use attendant::bundle::refused::Refused;
use attendant::bundle::{Bundle, BundleError};
use attendant::capture::CaptureError;
use attendant::capture::recording::{Survey, Truth};
use attendant::config::ConfigError;
use attendant::emit::SinkError;
use attendant::emit::summary::Segment;
use attendant::infer::InferError;
use attendant::pipeline::PipelineError;
use attendant::preprocess::PreprocessError;
use attendant::supervise::PlayError;
use clap::{CommandFactory as _, Parser, Subcommand};

/// `print!` that gives an error instead of a panic when nobody reads any more.
macro_rules! out {
    ($($text:tt)*) => { std::io::Write::write_fmt(&mut std::io::stdout(), format_args!($($text)*)).map_err($crate::cli::Failure::stdout)? };
}

/// [`out`] with a line break.
macro_rules! outln {
    ($($text:tt)*) => { $crate::cli::out!("{}\n", format_args!($($text)*)) };
}

use {out, outln};

/// On-device multimodal advisor: camera, microphone, text and sensors in, fused advice out.
///
/// Without a command it does `run`: the board's sources, or, where none are configured, the bundle's demo recording.
#[derive(Debug, Parser)]
#[command(version, about, long_about, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Bundle directory; else $ATTENDANT_BUNDLE, ./models/<bundle of the board>, the installed one
    #[arg(long, global = true, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// JSON on stdout instead of text for people
    #[arg(long, global = true)]
    json: bool,
    /// More log on stderr: -v changes of state and counters, -vv every window
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// What [`Failure::exit_code`] promises, for `--help`.
const EXIT_CODES: &str = "Exit codes: 0 done; 1 the check failed (doctor, eval --min, replay --verify); 2 wrong usage; 3 bundle, model or \
configuration cannot be used; 4 an input cannot be read; 5 an output cannot be written; 6 a working input lost its last source; \
7 a bundle was refused: signature, content, version, self-test";

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the sources, decide, advise (the default)
    Run(Box<run::RunArguments>),
    /// Run, and write everything that the pipeline is given and answers into a recording
    Record(Box<record::RecordArguments>),
    /// Play a recorded run again: the same events, at any speed
    Replay(record::ReplayArguments),
    /// What a recording holds, and what it was made with
    Info(record::InfoArguments),
    /// Cut a part out of a recording; what is kept of a recorded run replays to the events that it had
    Trim(trim::TrimArguments),
    /// Score the bundle on labelled rows: {"image":path,"audio":path,"text":string,"label":string}
    Eval(eval::EvalArguments),
    /// What is in a bundle or an ONNX model: operators, shapes, what runs in int8, what is unsupported and why
    Inspect(inspect::InspectArguments),
    /// Time the bundle's decision step, stage by stage
    Bench(bench::BenchArguments),
    /// The boards this source tree knows, and the one this binary was built for
    Boards,
    /// What this machine offers and lacks, and the command that mends it: devices, permissions, heat, power, disk, service, bundle
    Doctor(doctor::DoctorArguments),
    /// One signed file of a bundle, and what a device has installed (docs/bundles-signed.md)
    Bundle(bundle::BundleArguments),
    /// What may leave this device, what is kept, and proof by trying: takes the options of run
    Privacy(Box<privacy::PrivacyArguments>),
    /// Export preprocessed tensors as .npy: what training reads
    Features(features::FeaturesArguments),
    /// Make the index that [encoder.retrieval] looks in, of pictures or sounds
    Index(index::IndexArguments),
    /// Run an ONNX model on .npy inputs: for comparing outputs with another engine's
    Infer(infer::InferArguments),
    /// Print the completion script of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Why a command ended early; decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// 1: the command did its work and the answer is no.
    #[error("{0}")]
    Check(String),
    /// 2: arguments that do not fit together.
    #[error("{0}")]
    Usage(String),
    /// 3: the bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// 3: a configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// 3: a model.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// 3: the bundle's parts do not fit each other.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// 3: the kernel cannot do what the configuration requires.
    #[error(transparent)]
    Sandbox(#[from] attendant::supervise::sandbox::SandboxError),
    /// 4: an input.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// 4: an input that cannot be preprocessed.
    #[error("{name}: {source}")]
    Preprocess {
        /// The input.
        name: String,
        /// Why.
        source: PreprocessError,
    },
    /// 4: an input that is not what it should be.
    #[error("{0}")]
    Input(String),
    /// 5: an output.
    #[error("{path}: {source}")]
    Output {
        /// The file, or `stdout`.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// 5: a sink.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// 5: a run that went on although a sink had no room.
    #[error("{file}: {events} events could not be written; make room, the run itself is complete")]
    Lost {
        /// The sink.
        file: String,
        /// How many.
        events: u64,
    },
    /// 6: every source has failed for good.
    #[error("{0}")]
    Sources(String),
    /// 7: a bundle that this device, or anybody, must not run.
    #[error("{0}")]
    Refused(Refused),
}

impl Failure {
    /// The documented exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Check(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Bundle(_)
            | Failure::Config(_)
            | Failure::Infer(_)
            | Failure::Pipeline(_)
            | Failure::Sandbox(_) => 3,
            Failure::Capture(_) | Failure::Preprocess { .. } | Failure::Input(_) => 4,
            Failure::Output { .. } | Failure::Sink(_) | Failure::Lost { .. } => 5,
            Failure::Sources(_) => 6,
            Failure::Refused(_) => 7,
        }
    }

    /// Whether the reader of stdout has gone (`attendant eval x | head`): no message is due then.
    pub fn is_broken_pipe(&self) -> bool {
        match self {
            Failure::Output { source, .. } => source.kind() == io::ErrorKind::BrokenPipe,
            Failure::Sink(e) => std::error::Error::source(e)
                .and_then(|s| s.downcast_ref::<io::Error>())
                .is_some_and(|s| s.kind() == io::ErrorKind::BrokenPipe),
            _ => false,
        }
    }

    /// An error of writing to stdout.
    pub fn stdout(source: io::Error) -> Self {
        Failure::Output { path: "stdout".into(), source }
    }
}

/// Logs go to stderr; `RUST_LOG` wins over `-v`.
pub fn logging(arguments: &Arguments) {
    let level = match arguments.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    let mut builder = env_logger::Builder::new();
    // the engine's own logs speak to its developers
    builder.filter_level(log::LevelFilter::Trace).filter_module("tract", log::LevelFilter::Error);
    builder.format(|out, record| {
        let style = out.default_level_style(record.level());
        let whose = if is_new_bundle(record) { "new bundle: " } else { "" };
        writeln!(out, "[{style}{:<5}{style:#}] {whose}{}", record.level(), record.args())
    });
    if std::env::var_os("RUST_LOG").is_some() {
        builder.parse_default_env().init();
        return;
    }
    builder.init();
    // one gate, which a configuration file can move
    log::set_max_level(level);
}

/// Whether a line is of a bundle that is being loaded and tested: what its demo decides has been seen by no device.
fn is_new_bundle(record: &log::Record<'_>) -> bool {
    let is_pipeline = record.module_path().is_some_and(|module| module.starts_with("attendant::pipeline"));
    is_pipeline && std::thread::current().name() == Some(attendant::supervise::update::THREAD)
}

/// Runs the command.
///
/// # Errors
/// [`Failure`], whose text is the message for the user.
pub fn dispatch(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { command, bundle, json, .. } = arguments;
    let common = Common { bundle, json };
    match command.unwrap_or_else(|| Command::Run(Box::default())) {
        Command::Run(args) => run::run(&common, &args),
        Command::Record(args) => record::record(&common, &args),
        Command::Replay(args) => record::run_replay(&common, &args),
        Command::Info(args) => record::info(&common, &args),
        Command::Trim(args) => trim::trim(&common, &args),
        Command::Eval(args) => eval::run(&common, &args),
        Command::Inspect(args) => inspect::run(&common, &args),
        Command::Bench(args) => bench::run(&common, &args),
        Command::Boards => boards::run(&common),
        Command::Doctor(args) => doctor::run(&common, &args),
        Command::Bundle(args) => bundle::run(&common, &args),
        Command::Privacy(args) => privacy::run(&common, &args),
        Command::Features(args) => features::run(&common, &args),
        Command::Index(args) => index::run(&common, &args),
        Command::Infer(args) => infer::run(&common, &args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "attendant", &mut script);
            io::stdout().write_all(&script).map_err(Failure::stdout)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Length of the blocks that sound files are delivered in.
const BLOCK_MS: u32 = 100;

/// Whether a path names a video, by its extension.
fn is_video(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    matches!(extension.as_str(), "y4m" | "mjpeg" | "mjpg" | "avi" | "mp4" | "mkv" | "mov" | "webm")
}

/// What a recording says was shown; `none` there means that nothing is to be decided.
fn segments(survey: &Survey) -> Vec<Segment> {
    let segment = |truth: &Truth| Segment {
        t: truth.t,
        label: (truth.label != "none").then(|| truth.label.clone()),
        shown: truth.shown.clone(),
        note: truth.note.clone(),
    };
    survey.truths.iter().map(segment).collect()
}

impl From<PlayError> for Failure {
    fn from(error: PlayError) -> Self {
        match error {
            PlayError::Capture(e) => Failure::Capture(e),
            PlayError::Sink(e) => Failure::Sink(e),
        }
    }
}

/// What every command may ask for.
#[derive(Debug)]
pub struct Common {
    /// `--bundle`.
    pub bundle: Option<PathBuf>,
    /// `--json`.
    pub json: bool,
}

impl Common {
    /// The bundle to work with, opened and checked.
    pub fn open_bundle(&self) -> Result<Bundle, Failure> {
        let dir = attendant::bundle::locate(self.bundle.as_deref())?;
        Ok(Bundle::open(&dir)?)
    }

    /// Prints `value` as one JSON document.
    pub fn print_json(&self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, value).map_err(|e| Failure::stdout(e.into()))?;
        writeln!(out).map_err(Failure::stdout)
    }
}
