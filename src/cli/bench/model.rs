//! `attendant bench MODEL.onnx`: one model file, alone or in turn with another.
//!
//! Owns loading by the shapes that the file declares, inputs, and the report. Per-operator times are [`Operator`] rows,
//! measured in runs of their own after the timed ones; what runs outside int8 islands is one row, the difference.

use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use attendant::infer::{Dtype, InputFact, Model, declared, inspect};
use attendant::signal::{MAX_RANK, Tensor, TensorData};
use attendant::time::NanoTimer;

use super::super::{Common, Failure, doctor, npy, out, outln, table};
use super::{BenchArguments, Times};

/// Most elements of an input that is made up: a picture of 8192 x 8192 in colour.
const MADE_UP_MAX: usize = 3 << 26;

/// Runs of one model in a row when two take turns.
const TURN: u32 = 10;

/// One step of the plan, over runs of its own after the timed ones.
#[derive(Debug, serde::Serialize)]
struct Operator {
    node: String,
    operator: String,
    /// Instructions that its kernel uses.
    tier: String,
    mean_us: f64,
    /// Of the time of a run.
    share: f64,
    /// Multiply-accumulates of one run.
    macs: u64,
    gmac_per_s: f64,
}

#[derive(Debug, serde::Serialize)]
struct Report {
    model: String,
    cpu: String,
    /// Instructions of the integer kernels.
    kernels: String,
    threads: u32,
    runs: u32,
    load_ms: f64,
    first_us: f64,
    #[serde(flatten)]
    times: Times,
    /// Multiply-accumulates of one run; None while a shape is open.
    macs: Option<u64>,
    gmac_per_s: Option<f64>,
    peak_memory_kb: Option<u64>,
    operators: Vec<Operator>,
    vs: Option<Versus>,
}

#[derive(Debug, serde::Serialize)]
struct Versus {
    model: String,
    #[serde(flatten)]
    times: Times,
    /// Median of the model over the median of this one.
    ratio: f64,
}

/// A model with everything that a run needs.
struct Loaded {
    name: String,
    model: Model,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    load_ms: f64,
}

/// Runs the command for the model file `path`.
pub fn run(common: &Common, args: &BenchArguments, path: &Path) -> Result<ExitCode, Failure> {
    if args.threads != 1 {
        return Err(Failure::Usage(format!("--threads = {}, expected 1: a model runs on one thread", args.threads)));
    }
    let mut loaded = Loaded::load(path, &args.input)?;
    if args.serve {
        return serve(&mut loaded);
    }
    let first_us = loaded.time()? as f64 / 1e3;
    let mut other = args.vs.as_deref().map(|path| Loaded::load(path, &args.input)).transpose()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first tenth warms up.
    let warm_up = args.runs / 10;
    let mut done = 0;
    while done < warm_up + args.runs {
        let turn = TURN.min(warm_up + args.runs - done);
        loaded.times(turn, &mut ours)?;
        if let Some(other) = &mut other {
            other.times(turn, &mut theirs)?;
        }
        done += turn;
    }
    let timed = |all: &mut Vec<u64>| Times::of(&mut all[warm_up as usize..]);
    let times = timed(&mut ours);
    let vs = other.map(|other| {
        let theirs = timed(&mut theirs);
        Versus { model: other.name, ratio: times.p50_us / theirs.p50_us, times: theirs }
    });
    // Before the file is looked at as a whole, which takes memory of its own.
    let peak_memory_kb = doctor::peak_memory_kb();
    let macs = inspect(path)?.macs;
    let report = Report {
        cpu: doctor::cpu(),
        kernels: attendant::infer::kernel_tier()?,
        threads: args.threads,
        runs: args.runs,
        load_ms: loaded.load_ms,
        first_us,
        macs,
        gmac_per_s: macs.map(|macs| macs as f64 / times.p50_us / 1e3),
        peak_memory_kb,
        operators: loaded.operators(args.runs, macs)?,
        model: loaded.name,
        times,
        vs,
    };
    if let Some(vs) = report.vs.as_ref().filter(|vs| vs.ratio > 1.0) {
        log::warn!("{} takes {:.2} times as long as {}: use the latter here", report.model, vs.ratio, vs.model);
    }
    if common.json {
        common.print_json(&report)?;
    } else {
        print_report(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Loaded {
    /// Loads `path` with the shapes that it declares, or with those of the `.npy` files in `given`.
    fn load(path: &Path, given: &[std::path::PathBuf]) -> Result<Self, Failure> {
        let infos = declared(path)?;
        let name = path.display().to_string();
        if !given.is_empty() && given.len() != infos.len() {
            let (expected, found) = (infos.len(), given.len());
            return Err(Failure::Usage(format!("{name} has {expected} inputs, {found} --input were given")));
        }
        let mut inputs = Vec::with_capacity(infos.len());
        for (i, info) in infos.iter().enumerate() {
            inputs.push(match given.get(i) {
                Some(file) => npy::read_npy(file)?,
                None => {
                    // An open first dimension is a batch.
                    let dims = info.shape.iter().enumerate().map(|(k, dim)| dim.or((k == 0).then_some(1)));
                    let shape = dims.collect::<Option<Vec<usize>>>();
                    made_up(info.dtype, shape.as_deref()).ok_or_else(|| {
                        let (input, dtype) = (&info.name, info.dtype);
                        Failure::Usage(format!(
                            "{name}: input {input} is {dtype} with open dimensions, too large or of a type that is \
                             not made up here; give --input FILE.npy for every input, in the file's order"
                        ))
                    })?
                }
            });
        }
        let facts: Vec<InputFact<'_>> =
            inputs.iter().map(|t| InputFact { name: None, dtype: Dtype::of(t), shape: &t.shape }).collect();
        let timer = NanoTimer::start();
        let model = Model::load(path, &facts)?;
        let load_ms = timer.elapsed_ns() as f64 / 1e6;
        Ok(Loaded { outputs: model.new_outputs(), name, model, inputs, load_ms })
    }

    /// Where the time of `runs` further runs goes.
    fn operators(&mut self, runs: u32, whole_macs: Option<u64>) -> Result<Vec<Operator>, Failure> {
        self.model.measure_steps(attendant::time::now_ns);
        let mut times = Vec::new();
        self.times(runs, &mut times)?;
        let total_ns = times.iter().sum::<u64>() as f64 / f64::from(runs.max(1));
        let row = |node: String, operator: &str, tier: String, mean_ns: f64, macs: u64| Operator {
            node,
            operator: operator.into(),
            tier,
            mean_us: mean_ns / 1e3,
            share: mean_ns / total_ns,
            macs,
            gmac_per_s: macs as f64 / mean_ns.max(1.0),
        };
        let steps = self.model.measured_steps();
        let rest_ns = (total_ns - steps.iter().map(|s| s.mean_ns).sum::<f64>()).max(0.0);
        let macs = steps.iter().map(|s| s.macs).sum();
        let rest_macs = whole_macs.unwrap_or(macs).saturating_sub(macs);
        let mut rows: Vec<Operator> =
            steps.into_iter().map(|s| row(s.node, s.operator, s.tier, s.mean_ns, s.macs)).collect();
        rows.push(row(
            "outside int8 islands".into(),
            "the engine and its f32 operators",
            "f32".into(),
            rest_ns,
            rest_macs,
        ));
        Ok(rows)
    }

    /// Nanoseconds of one run.
    fn time(&mut self) -> Result<u64, Failure> {
        let inputs: heapless::Vec<&Tensor, 16> = self.inputs.iter().take(16).collect();
        let timer = NanoTimer::start();
        self.model.run(&inputs, &mut self.outputs)?;
        Ok(timer.elapsed_ns())
    }

    fn times(&mut self, count: u32, into: &mut Vec<u64>) -> Result<(), Failure> {
        for _ in 0..count {
            into.push(self.time()?);
        }
        Ok(())
    }
}

/// An input that is the same in every run of the program: f32 in [-1, 1), token 1, true. None for other types, and for sizes that
/// only a damaged file declares.
fn made_up(dtype: &str, shape: Option<&[usize]>) -> Option<Tensor> {
    let shape = shape.filter(|s| s.len() <= MAX_RANK)?;
    let volume = shape.iter().try_fold(1_usize, |volume, dim| volume.checked_mul(*dim))?;
    if volume > MADE_UP_MAX {
        return None;
    }
    Some(match dtype {
        "f32" => {
            let mut tensor = Tensor::zeros_f32(shape);
            let mut state = 1_u32;
            for value in tensor.as_f32_mut()? {
                // Numerical Recipes, 7.1.4: the high bits are random enough.
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
            }
            tensor
        }
        "i64" => {
            let mut tensor = Tensor::zeros_i64(shape);
            tensor.as_i64_mut()?.fill(1);
            tensor
        }
        "bool" => {
            let mut tensor = Tensor::zeros_bool(shape);
            if let TensorData::Bool(values) = &mut tensor.data {
                values.fill(true);
            }
            tensor
        }
        _ => return None,
    })
}

fn serve(loaded: &mut Loaded) -> Result<ExitCode, Failure> {
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|e| Failure::Input(format!("stdin: {e}")))?;
        let mut times = Vec::new();
        loaded.times(super::count(&line)?, &mut times)?;
        let reply = serde_json::json!({ "run_ns": times });
        let mut out = io::stdout().lock();
        writeln!(out, "{reply}").and_then(|()| out.flush()).map_err(Failure::stdout)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_report(report: &Report) -> Result<(), Failure> {
    outln!(
        "{} on {}, int8 kernels {}, {} thread, {} runs",
        report.model,
        report.cpu,
        report.kernels,
        report.threads,
        report.runs
    );
    let memory = report.peak_memory_kb.map_or("unknown".into(), |kb| format!("{:.1} MB", kb as f64 / 1e3));
    outln!("load {:.1} ms, first inference {:.0} us, peak memory {memory}", report.load_ms, report.first_us);
    if let (Some(macs), Some(rate)) = (report.macs, report.gmac_per_s) {
        outln!("{:.2} million multiply-accumulates, {rate:.1} GMAC/s", macs as f64 / 1e6);
    }
    outln!("");
    let mut rows = vec![["model", "p50 us", "p90 us", "p99 us", "min us"].map(String::from).to_vec()];
    rows.push(report.times.row(&report.model));
    if let Some(vs) = &report.vs {
        rows.push(vs.times.row(&vs.model));
    }
    out!("{}", table::render(&rows));
    if let Some(vs) = &report.vs {
        outln!("\nratio of medians {:.2}", vs.ratio);
    }
    let mut rows = vec![["operator", "node", "tier", "mean us", "share", "MACs", "GMAC/s"].map(String::from).to_vec()];
    rows.extend(report.operators.iter().map(|o| {
        vec![
            o.operator.clone(),
            o.node.clone(),
            o.tier.clone(),
            format!("{:.1}", o.mean_us),
            format!("{:.1} %", o.share * 100.0),
            o.macs.to_string(),
            format!("{:.1}", o.gmac_per_s),
        ]
    }));
    out!("\n{}", table::render(&rows));
    Ok(())
}
