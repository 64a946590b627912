//! The bundle: whether it loads, which one it is to the byte, and in what its models compute.

use std::path::PathBuf;

use attendant::board::BOARD;
use attendant::bundle::{Bundle, MANIFEST, digest, locate};
use attendant::infer::inspect;
use attendant::pipeline::{Options, Pipeline};
use attendant::time::NanoTimer;

use super::{Check, Common, Known, Status, service};

const TOPIC: &str = "bundle";

/// A bundle that can run.
pub struct Loaded {
    pub bundle: Bundle,
    pub pipeline: Pipeline,
    load_ms: f64,
}

/// Loads it; why there is none is a check.
pub fn load(common: &Common, known: &Known) -> Result<Loaded, Box<Check>> {
    let dir = place(common, known)?;
    let timer = NanoTimer::start();
    let loaded = Bundle::open(&dir)
        .map_err(|e| e.to_string())
        .and_then(|b| Pipeline::load(&b, &Options::default()).map(|p| (b, p)).map_err(|e| e.to_string()));
    let load_ms = timer.elapsed_ns() as f64 / 1e6;
    let (bundle, pipeline) = loaded.map_err(|error| {
        let fix = format!("attendant inspect {} says more", dir.display());
        Box::new(Check::new(TOPIC, "load", Status::Error, error).fix(fix))
    })?;
    Ok(Loaded { bundle, pipeline, load_ms })
}

/// What was loaded, which one it is, and in what it computes.
pub fn check(loaded: &Result<Loaded, Box<Check>>) -> Vec<Check> {
    let Loaded { bundle, pipeline, load_ms } = match loaded {
        Ok(loaded) => loaded,
        Err(check) => return vec![(**check).clone()],
    };
    let names: Vec<&str> = pipeline.modalities().map(|n| &**n).collect();
    let (id, dir) = (&bundle.id, bundle.dir.display());
    let text = format!("{id} in {dir}: {}; loads in {load_ms:.0} ms", names.join(", "));
    let digest = match digest::digest(&bundle.dir) {
        Ok(digest) => Check::new(TOPIC, "digest", Status::Ok, digest),
        Err(e) => Check::new(TOPIC, "digest", Status::Error, format!("{dir}: {e}")),
    };
    vec![Check::new(TOPIC, "load", Status::Ok, text), digest, kernels(bundle)]
}

/// `--bundle`, else the settings', else where a run would look; of a copy, the copy's.
fn place(common: &Common, known: &Known) -> Result<PathBuf, Box<Check>> {
    let named = common.bundle.as_deref().or_else(|| service::bundle(known));
    if named.is_none() && !known.root.is_live() {
        let dir = known.root.path(format!("/usr/share/attendant/models/{}", BOARD.model.bundle));
        if !dir.join(MANIFEST).is_file() {
            let text = "the copy has none where the package puts it";
            return Err(Box::new(Check::new(TOPIC, "load", Status::Unknown, text).fix("name one with --bundle DIR")));
        }
        return Ok(dir);
    }
    locate(named).map_err(|e| {
        Box::new(Check::new(TOPIC, "load", Status::Error, e.to_string()).fix("name one with --bundle DIR"))
    })
}

/// What runs in int8, model by model.
fn kernels(bundle: &Bundle) -> Check {
    let models = (0..bundle.manifest.encoder.len()).map(|i| bundle.model(i)).chain(bundle.fusion_model());
    let (mut said, mut status) = (Vec::new(), Status::Ok);
    for path in models {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match inspect(&path) {
            Err(e) => {
                status = Status::Error;
                said.push(e.to_string());
            }
            Ok(found) => {
                let steps: usize = found.islands.iter().map(|i| i.steps.len()).sum();
                let tier = found.islands.first().map_or(String::new(), |i| format!(" on {}", i.tier));
                let share = 100.0 * found.macs_on_int8_values as f64 / found.macs.unwrap_or(0).max(1) as f64;
                said.push(match (steps, found.macs) {
                    (0, _) => format!("{name} in f32"),
                    (_, Some(_)) => format!("{name} {steps} int8 steps{tier}, {share:.0} % of its work"),
                    (_, None) => format!("{name} {steps} int8 steps{tier}"),
                });
            }
        }
    }
    Check::new(TOPIC, "kernels", status, said.join("; "))
}
