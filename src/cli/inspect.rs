//! `attendant inspect`: what is in a model file or a bundle.

use std::path::PathBuf;
use std::process::ExitCode;

use attendant::bundle::Bundle;
use attendant::infer::{Inspection, Precision, Severity, TensorInfo, inspect, inspect_with};
use attendant::pipeline::{Options, Pipeline};
use clap::Args;

use super::{Common, Failure, out, outln, table};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// An ONNX file or a bundle directory; the bundle in use if absent
    path: Option<PathBuf>,
    /// List every node, with what it works in and why
    #[arg(long)]
    nodes: bool,
    /// Dimensions of an input that the file leaves open: NAME=1,3,224,224
    #[arg(long = "shape", value_name = "NAME=DIMS", value_parser = shape)]
    shapes: Vec<(String, Vec<usize>)>,
    /// Draft a bundle for this ONNX file into a new directory
    #[arg(long, value_name = "DIR")]
    draft_bundle: Option<PathBuf>,
}

fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let expected = || format!("{text:?}, expected NAME=1,3,224,224");
    let (name, dims) = text.rsplit_once('=').ok_or_else(expected)?;
    let dims = dims.split(',').map(|d| d.trim().parse().ok().filter(|d| (1..=1 << 24).contains(d)));
    Ok((name.to_owned(), dims.collect::<Option<_>>().ok_or_else(expected)?))
}

/// Runs the command.
pub fn run(common: &Common, args: &InspectArguments) -> Result<ExitCode, Failure> {
    if let Some(dir) = &args.draft_bundle {
        return draft(common, args, dir);
    }
    let files = match &args.path {
        Some(path) if path.is_file() => vec![path.clone()],
        named => {
            let dir = attendant::bundle::locate(named.as_deref().or(common.bundle.as_deref()))?;
            let bundle = Bundle::open(&dir)?;
            // shapes against the manifest: what `run` would refuse is refused here
            Pipeline::load(&bundle, &Options::default())?;
            let encoders = (0..bundle.manifest.encoder.len()).map(|i| bundle.model(i));
            encoders.chain(bundle.fusion_model()).collect()
        }
    };
    let found = match &args.path {
        Some(file) if file.is_file() => vec![inspect_with(file, &args.shapes)?],
        _ if !args.shapes.is_empty() => {
            return Err(Failure::Usage("--shape goes with a model file; a bundle says the shapes itself".into()));
        }
        _ => files.iter().map(|f| inspect(f)).collect::<Result<Vec<Inspection>, _>>()?,
    };
    if common.json {
        common.print_json(&found)?;
    } else {
        found.iter().try_for_each(|i| print(i, args.nodes))?;
    }
    match found.iter().find(|i| i.problem.is_some()) {
        Some(broken) => {
            Err(Failure::Check(format!("{}: {}", broken.file, broken.problem.as_deref().unwrap_or_default())))
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

fn draft(common: &Common, args: &InspectArguments, dir: &std::path::Path) -> Result<ExitCode, Failure> {
    let Some(file) = args.path.as_deref().filter(|path| path.is_file()) else {
        return Err(Failure::Usage("--draft-bundle drafts from a model; name an ONNX file".into()));
    };
    let drafted = super::draft::draft(file, dir)?;
    if common.json {
        common.print_json(&drafted)?;
    } else {
        outln!("{drafted}");
    }
    Ok(ExitCode::SUCCESS)
}

fn tensor(info: &TensorInfo) -> String {
    let dims: Vec<String> = info.shape.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
    format!("{} {} [{}]", info.name, info.dtype, dims.join(","))
}

fn word(precision: Precision) -> &'static str {
    match precision {
        Precision::Int8 => "int8",
        Precision::Int8ValuesInF32 => "int8 values in f32",
        Precision::F32 => "f32",
        Precision::None => "-",
    }
}

fn print(i: &Inspection, nodes: bool) -> Result<(), Failure> {
    outln!("{}  {:.1} kB, opset {}, by {}", i.file, i.bytes as f64 / 1e3, i.opset, i.producer);
    for (what, infos) in [("inputs", &i.inputs), ("outputs", &i.outputs)] {
        outln!("  {what:<10} {}", infos.iter().map(tensor).collect::<Vec<_>>().join(", "));
    }
    let constants: Vec<String> =
        i.parameter_bytes.iter().map(|(t, n)| format!("{t} {:.1} kB", *n as f64 / 1e3)).collect();
    outln!("  constants  {}", constants.join(", "));
    if let Some(macs) = i.macs {
        let share = 100.0 * i.macs_on_int8_values as f64 / macs.max(1) as f64;
        outln!("  MACs       {:.2} M, {share:.0} % of them on int8 values", macs as f64 / 1e6);
    }
    let operators: Vec<String> = i.operators.iter().map(|(op, n)| format!("{op} {n}")).collect();
    outln!("  operators  {}", operators.join(", "));
    if let Some(m) = i.memory {
        let mb = |bytes: usize| bytes as f64 / 1e6;
        outln!(
            "  memory     about {:.1} MB: {:.1} MB of weights, {:.1} MB of activations",
            mb(m.weight_bytes + m.peak_activation_bytes),
            mb(m.weight_bytes),
            mb(m.peak_activation_bytes)
        );
    }
    for f in &i.findings {
        let word = match f.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        outln!("  {word:<10} {}", f.message);
    }
    for island in &i.islands {
        let macs: u64 = island.steps.iter().map(|s| s.macs).sum();
        let (steps, kb) = (island.steps.len(), island.arena_bytes as f64 / 1e3);
        outln!(
            "  int8       {steps} steps on {}, {:.2} M MACs, {kb:.1} kB of memory: {}",
            island.tier,
            macs as f64 / 1e6,
            island.name
        );
    }
    if nodes {
        for island in &i.islands {
            let mut rows = vec![["step", "node", "MACs"].map(String::from).to_vec()];
            rows.extend(island.steps.iter().map(|s| vec![s.operator.into(), s.node.clone(), s.macs.to_string()]));
            out!("{}", table::render(&rows));
        }
        let mut rows = vec![["node", "operator", "works in", "MACs", "why"].map(String::from).to_vec()];
        for n in &i.nodes {
            let macs = n.macs.map_or("?".into(), |m| m.to_string());
            rows.push(vec![n.name.clone(), n.op.clone(), word(n.precision).into(), macs, n.why.clone()]);
        }
        out!("{}", table::render(&rows));
    }
    outln!("");
    Ok(())
}
