//! `attendant bench`: one decision step of a bundle, stage by stage, or one model file.
//!
//! A step is what happens when every modality has something new: decode and preprocess, encode, fuse with leave-one-out
//! contributions. Times are of this machine, in this run; compare only what was measured side by side.

mod model;

use std::io::{self, BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use attendant::bundle::Bundle;
use attendant::capture::{image, wav};
use attendant::pipeline::{Input, Options, Pipeline};
use attendant::signal::Frame;
use attendant::time::NanoTimer;
use clap::Args;

use super::{Common, Failure, out, outln, table};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// An ONNX file or a bundle directory; the bundle in use if absent
    path: Option<PathBuf>,
    /// Picture for the encoders that take one
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Clip for the encoders that take sound
    #[arg(long, value_name = "FILE.wav")]
    audio: Option<PathBuf>,
    /// Text for the encoders that take one
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// Steps to time, after a tenth of them as warm-up
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    steps: u32,
    /// For a model file: its inputs in the file's order, one option each; made-up values if absent
    #[arg(long, value_name = "FILE.npy")]
    input: Vec<PathBuf>,
    /// For a model file: runs to time, after a tenth of them as warm-up
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    runs: u32,
    /// For a model file: threads
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// For a model file: another one to take turns with, such as its f32 twin; warns if the model is slower
    #[arg(long, value_name = "OTHER.onnx", conflicts_with = "serve")]
    vs: Option<PathBuf>,
    /// Read step counts on stdin, answer each with one line of JSON: for timing in turn with other programs
    #[arg(long)]
    serve: bool,
}

/// One line of the report.
#[derive(serde::Serialize)]
struct Stage {
    stage: String,
    #[serde(flatten)]
    times: Times,
}

/// Quantiles, microseconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Times {
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    min_us: f64,
}

#[derive(serde::Serialize)]
struct Report {
    bundle: String,
    cpu: String,
    /// Instructions of the integer kernels.
    kernels: String,
    steps: u32,
    load_ms: f64,
    first_step_us: f64,
    peak_memory_kb: Option<u64>,
    stages: Vec<Stage>,
    /// How the picture is decoded, if it is a JPEG, by encoder.
    jpeg: Vec<(String, String)>,
}

/// The inputs of a step, read once.
struct Inputs {
    frame: Frame,
    clip: (Vec<f32>, u32),
    text: String,
}

/// Runs the command.
pub fn run(common: &Common, args: &BenchArguments) -> Result<ExitCode, Failure> {
    if let Some(file) = args.path.as_deref().filter(|path| path.is_file()) {
        return model::run(common, args, file);
    }
    if args.vs.is_some() || !args.input.is_empty() {
        return Err(Failure::Usage("--vs and --input go with a model file; give MODEL.onnx".into()));
    }
    let dir = attendant::bundle::locate(args.path.as_deref().or(common.bundle.as_deref()))?;
    let bundle = Bundle::open(&dir)?;
    let timer = NanoTimer::start();
    let mut pipeline = Pipeline::load(&bundle, &Options::default())?;
    let load_ms = timer.elapsed_ns() as f64 / 1e6;
    let inputs = read_inputs(args)?;
    let given: Vec<bool> = (0..pipeline.modalities().count())
        .map(|i| match pipeline.kind(i) {
            "image" => args.image.is_some(),
            "audio" => args.audio.is_some(),
            "text" => args.text.is_some(),
            _ => false,
        })
        .collect();
    if !given.iter().any(|g| *g) {
        return Err(Failure::Usage("nothing to time; give --image, --audio or --text".into()));
    }
    let mut times = vec![Vec::new(); 2 * given.len() + 2];
    if args.serve {
        return serve(&mut pipeline, &inputs, &given, &mut times);
    }
    step(&mut pipeline, &inputs, &given, &mut times)?;
    let first_step_us = times.last().map_or(0.0, |t| t[0] as f64 / 1e3);
    for _ in 0..args.steps / 10 {
        step(&mut pipeline, &inputs, &given, &mut times)?;
    }
    times.iter_mut().for_each(Vec::clear);
    for _ in 0..args.steps {
        step(&mut pipeline, &inputs, &given, &mut times)?;
    }
    let names: Vec<String> = pipeline.modalities().map(ToString::to_string).collect();
    let titles = names.iter().flat_map(|n| [format!("{n} preprocess"), format!("{n} encode")]);
    let titles = titles.chain(["fuse and contributions".into(), "step".into()]);
    let stages = titles
        .zip(&mut times)
        .filter(|(_, t)| !t.is_empty())
        .map(|(stage, t)| Stage { stage, times: Times::of(t) })
        .collect();
    let report = Report {
        bundle: bundle.id.to_string(),
        cpu: super::doctor::cpu(),
        kernels: attendant::infer::kernel_tier()?,
        steps: args.steps,
        load_ms,
        first_step_us,
        peak_memory_kb: super::doctor::peak_memory_kb(),
        stages,
        jpeg: (0..given.len())
            .filter_map(|i| Some((names[i].clone(), pipeline.jpeg_decoding(i)?.to_string())))
            .collect(),
    };
    if common.json {
        common.print_json(&report)?;
    } else {
        print_report(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read_inputs(args: &BenchArguments) -> Result<Inputs, Failure> {
    let mut frame = Frame::default();
    if let Some(path) = &args.image {
        image::read_image(path, &mut frame)?;
    }
    let clip = args.audio.as_deref().map(wav::read_clip).transpose()?.unwrap_or_default();
    Ok(Inputs { frame, clip, text: args.text.clone().unwrap_or_default() })
}

/// One step; appends the time of each stage: per encoder preprocess and encode, then fusion, then all.
fn step(pipeline: &mut Pipeline, inputs: &Inputs, given: &[bool], times: &mut [Vec<u64>]) -> Result<usize, Failure> {
    let whole = NanoTimer::start();
    for (i, given) in given.iter().enumerate() {
        if !given {
            continue;
        }
        let input = match pipeline.kind(i) {
            "image" => Input::Frame(&inputs.frame),
            "audio" => Input::Clip { samples: &inputs.clip.0, rate_hz: inputs.clip.1 },
            _ => Input::Text(&inputs.text),
        };
        let timer = NanoTimer::start();
        pipeline.preprocess(i, input)?;
        times[2 * i].push(timer.elapsed_ns());
        let timer = NanoTimer::start();
        pipeline.encode_input(i)?;
        times[2 * i + 1].push(timer.elapsed_ns());
    }
    let timer = NanoTimer::start();
    let top = pipeline.fuse(given)?.class;
    times[2 * given.len()].push(timer.elapsed_ns());
    times[2 * given.len() + 1].push(whole.elapsed_ns());
    Ok(top)
}

fn serve(
    pipeline: &mut Pipeline,
    inputs: &Inputs,
    given: &[bool],
    times: &mut [Vec<u64>],
) -> Result<ExitCode, Failure> {
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|e| Failure::Input(format!("stdin: {e}")))?;
        let count = count(&line)?;
        times.iter_mut().for_each(Vec::clear);
        let mut top = 0;
        for _ in 0..count {
            top = step(pipeline, inputs, given, times)?;
        }
        let reply = serde_json::json!({ "step_ns": times.last(), "class": pipeline.labels().get(top) });
        let mut out = io::stdout().lock();
        writeln!(out, "{reply}").and_then(|()| out.flush()).map_err(Failure::stdout)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The number of runs that a line of stdin asks for.
fn count(line: &str) -> Result<u32, Failure> {
    line.trim().parse().map_err(|_| Failure::Input(format!("stdin: {line:?} is no number of runs")))
}

impl Times {
    /// Of at least one time in nanoseconds; sorts them.
    fn of(ns: &mut [u64]) -> Self {
        ns.sort_unstable();
        let at =
            |q: f64| ns.get((ns.len().saturating_sub(1) as f64 * q).round() as usize).map_or(0.0, |t| *t as f64 / 1e3);
        Times { p50_us: at(0.5), p90_us: at(0.9), p99_us: at(0.99), min_us: at(0.0) }
    }

    /// A row of a table.
    fn row(&self, title: &str) -> Vec<String> {
        let us = [self.p50_us, self.p90_us, self.p99_us, self.min_us].map(|t| format!("{t:.1}"));
        [vec![title.to_string()], us.to_vec()].concat()
    }
}

fn print_report(report: &Report) -> Result<(), Failure> {
    outln!("{} on {}, int8 kernels {}, {} steps", report.bundle, report.cpu, report.kernels, report.steps);
    let memory = report.peak_memory_kb.map_or("unknown".into(), |kb| format!("{:.1} MB", kb as f64 / 1e3));
    outln!("load {:.1} ms, first step {:.0} us, peak memory {memory}\n", report.load_ms, report.first_step_us);
    let mut rows = vec![["stage", "p50 us", "p90 us", "p99 us", "min us"].map(String::from).to_vec()];
    rows.extend(report.stages.iter().map(|s| s.times.row(&s.stage)));
    out!("{}", table::render(&rows));
    for (encoder, decoding) in &report.jpeg {
        outln!("{encoder}: JPEG decoding of {decoding}");
    }
    Ok(())
}
