//! `attendant infer`: an ONNX model on tensors from `.npy` files, without a bundle.
//!
//! For comparing this engine with another on the same file: inputs as they are, outputs as they come.

use std::path::PathBuf;
use std::process::ExitCode;

use attendant::config::manifest::StateSpec;
use attendant::infer::{Dtype, InputFact, Model, declared};
use attendant::signal::{Tensor, TensorData};
use attendant::time::NanoTimer;
use clap::Args;

use super::npy::{NpyWriter, read_npy};
use super::{Common, Failure, outln};

/// Arguments of `infer`.
#[derive(Debug, Args)]
pub struct InferArguments {
    /// An ONNX file
    model: PathBuf,
    /// One file for each input, in the order of the model; a leading axis that the model lacks, or has 1 of, is rows
    #[arg(long = "input", value_name = "FILE.npy", required = true)]
    inputs: Vec<PathBuf>,
    /// Feed an output back as an input from row to row, zeros at first: INPUT=OUTPUT
    #[arg(long = "state", value_name = "INPUT=OUTPUT")]
    states: Vec<String>,
    /// Every input has rows along its first axis, also where the model would take it whole
    #[arg(long)]
    rows: bool,
    /// Directory to write each output to, as `<position>.npy`
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What the command prints.
#[derive(serde::Serialize)]
struct Report {
    model: PathBuf,
    rows: usize,
    /// From the file to a model that is ready.
    load_us: u64,
    /// The first run, which touches every buffer for the first time.
    first_us: u64,
    outputs: Vec<Output>,
}

#[derive(serde::Serialize)]
struct Output {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    file: Option<PathBuf>,
}

/// Runs the command.
pub fn run(common: &Common, args: &InferArguments) -> Result<ExitCode, Failure> {
    let states = args
        .states
        .iter()
        .map(|pair| {
            let (input, output) =
                pair.split_once('=').ok_or_else(|| Failure::Usage(format!("--state {pair}: expected INPUT=OUTPUT")))?;
            Ok(StateSpec { input: input.into(), output: output.into() })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let given: Vec<_> =
        declared(&args.model)?.into_iter().filter(|i| states.iter().all(|s| s.input != i.name)).collect();
    if given.len() != args.inputs.len() {
        let names: Vec<&str> = given.iter().map(|i| i.name.as_str()).collect();
        return Err(Failure::Usage(format!(
            "{} --input given, {} takes {} ({})",
            args.inputs.len(),
            args.model.display(),
            given.len(),
            names.join(", ")
        )));
    }
    let mut rows = None;
    let mut batches = Vec::new();
    for (path, info) in args.inputs.iter().zip(&given) {
        let whole = read_npy(path)?;
        let batch = if args.rows || !fits(&whole, &info.shape) { split(&whole, info.shape.len()) } else { vec![whole] };
        if *rows.get_or_insert(batch.len()) != batch.len() {
            return Err(Failure::Input(format!(
                "{}: {} rows, other inputs have another number",
                path.display(),
                batch.len()
            )));
        }
        batches.push(batch);
    }
    let rows = rows.filter(|n| *n > 0).ok_or_else(|| Failure::Input("the inputs have no rows".into()))?;
    let facts: Vec<InputFact<'_>> =
        batches.iter().map(|b| InputFact { name: None, dtype: Dtype::of(&b[0]), shape: &b[0].shape }).collect();
    let timer = NanoTimer::start();
    let mut model = Model::load_with_state(&args.model, &facts, &states)?;
    let load_us = timer.elapsed_ns() / 1000;
    let mut first_us = 0;
    let mut outputs = model.new_outputs();
    let mut writers: Vec<NpyWriter> = Vec::new();
    let failed = |source| Failure::Output { path: args.out.clone().unwrap_or_default().display().to_string(), source };
    if let Some(dir) = &args.out {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    for row in 0..rows {
        let inputs: Vec<&Tensor> = batches.iter().map(|b| &b[row]).collect();
        let timer = NanoTimer::start();
        model.run(&inputs, &mut outputs)?;
        if row == 0 {
            first_us = timer.elapsed_ns() / 1000;
        }
        for (i, output) in outputs.iter().enumerate() {
            let Some(dir) = &args.out else { continue };
            if row == 0 {
                let path = dir.join(format!("{i}.npy"));
                writers.push(
                    if rows == 1 { NpyWriter::create_whole(&path, output) } else { NpyWriter::create(&path, output) }
                        .map_err(failed)?,
                );
            }
            writers[i].push(output).map_err(failed)?;
        }
    }
    for writer in writers {
        writer.finish().map_err(failed)?;
    }
    let outputs = model.outputs().iter().enumerate().map(|(i, o)| Output {
        name: o.name.clone(),
        dtype: o.dtype,
        shape: o.shape.to_vec(),
        file: args.out.as_ref().map(|dir| dir.join(format!("{i}.npy"))),
    });
    let report = Report { model: args.model.clone(), rows, load_us, first_us, outputs: outputs.collect() };
    if common.json {
        common.print_json(&report)?;
    } else {
        for o in &report.outputs {
            let file = o.file.as_ref().map_or(String::new(), |f| format!("  {}", f.display()));
            outln!("{} {} {:?}, {} rows{file}", o.name, o.dtype, o.shape, report.rows);
        }
        outln!("loaded in {:.1} ms, first run {:.1} ms", report.load_us as f64 / 1e3, report.first_us as f64 / 1e3);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the model takes `tensor` as it is.
fn fits(tensor: &Tensor, dims: &[Option<usize>]) -> bool {
    tensor.shape.len() == dims.len()
        && tensor.shape.iter().zip(dims).all(|(have, want)| want.is_none_or(|w| w == *have))
}

/// The rows of `tensor` along its first axis; each keeps an axis of 1 if the model has as many axes.
fn split(tensor: &Tensor, rank: usize) -> Vec<Tensor> {
    let Some((&rows, rest)) = tensor.shape.split_first() else { return vec![tensor.clone()] };
    let shape: Vec<usize> = if tensor.shape.len() == rank { [&[1], rest].concat() } else { rest.to_vec() };
    let len: usize = rest.iter().product();
    (0..rows)
        .map(|row| {
            let range = row * len..(row + 1) * len;
            match &tensor.data {
                TensorData::F32(v) => filled(Tensor::zeros_f32(&shape), TensorData::F32(v[range].to_vec())),
                TensorData::I64(v) => filled(Tensor::zeros_i64(&shape), TensorData::I64(v[range].to_vec())),
                TensorData::Bool(v) => filled(Tensor::zeros_bool(&shape), TensorData::Bool(v[range].to_vec())),
            }
        })
        .collect()
}

fn filled(tensor: Tensor, data: TensorData) -> Tensor {
    Tensor { data, ..tensor }
}
