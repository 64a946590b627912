//! `attendant index`: the vectors of files, for a bundle whose head retrieves what is most like them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use attendant::bundle::Bundle;
use attendant::capture::{image, wav};
use attendant::config::manifest::EncoderSpec;
use attendant::heads::index::Index;
use attendant::infer::{Dtype, Encoder as _, OnnxEncoder};
use attendant::preprocess::{AudioPreprocessor, ImagePreprocessor, PreprocessError};
use attendant::signal::{Embedding, Frame, Tensor};
use attendant::time::Micros;
use clap::Args;
use indicatif::ProgressBar;

use super::{Common, Failure, outln};

/// Arguments of `index`.
#[derive(Debug, Args)]
pub struct IndexArguments {
    /// Bundle with an encoder that has [encoder.retrieval]
    bundle: PathBuf,
    /// Pictures, or .wav files for an encoder of sound; a directory stands for the files in it
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// File to write; [encoder.retrieval] names it as `index`
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Name of the encoder; the one with [encoder.retrieval] if absent
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// What an entry is called: the file's name without extension, or the directory it lies in, for several files of one thing
    #[arg(long, value_name = "WHAT", default_value = "file")]
    id: IdOf,
}

/// What an entry is called by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum IdOf {
    File,
    Folder,
}

/// What the command prints.
#[derive(serde::Serialize)]
struct Report {
    out: PathBuf,
    encoder: String,
    entries: usize,
    dimensions: usize,
    bytes: usize,
}

/// Runs the command.
pub fn run(common: &Common, args: &IndexArguments) -> Result<ExitCode, Failure> {
    let dir = attendant::bundle::locate(Some(&args.bundle))?;
    // the index that it names is what is being made
    let bundle = Bundle::open_manifest_only(&dir)?;
    let spec = find(&bundle, args)?;
    let name = bundle.dir.join("bundle.toml").display().to_string();
    let in_manifest = |source| Failure::Preprocess { name: name.clone(), source };
    let mut reader = match spec {
        EncoderSpec { image: Some(image), .. } => {
            Reader::Image(Box::new(ImagePreprocessor::new(image).map_err(in_manifest)?))
        }
        EncoderSpec { audio: Some(audio), .. } => {
            Reader::Audio(Box::new(AudioPreprocessor::new(audio).map_err(in_manifest)?))
        }
        _ => {
            let message = format!(
                "encoder {}: an index is made of pictures or sound, for [encoder.image] or [encoder.audio]",
                spec.name
            );
            return Err(Failure::Usage(message));
        }
    };
    let mut tensor = Tensor::zeros_f32(reader.shape());
    let mut encoder = OnnxEncoder::load(spec, &bundle.dir, Dtype::F32, reader.shape(), bundle.labels.len())?;
    let (output, dimensions) = output_of(spec, &encoder)?;
    let mut index = Index::new(dimensions);
    let files = listed(&args.files)?;
    let bar = ProgressBar::new(files.len() as u64);
    for file in &files {
        reader.read(file, &mut tensor)?;
        encoder.reset_state();
        encoder.encode(&tensor, Micros::ZERO, &mut Embedding::default())?;
        let vector = encoder.outputs()[output].as_f32().unwrap_or_default();
        index.push(&id_of(file, args.id)?, vector).map_err(|e| Failure::Input(format!("{}: {e}", file.display())))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let bytes = index.to_bytes();
    let failed = |source| Failure::Output { path: args.out.display().to_string(), source };
    std::fs::write(&args.out, &bytes).map_err(failed)?;
    let report = Report {
        out: args.out.clone(),
        encoder: spec.name.clone(),
        entries: index.len(),
        dimensions,
        bytes: bytes.len(),
    };
    if common.json {
        common.print_json(&report)?;
    } else {
        outln!(
            "{}: {} entries of {} numbers from encoder {}",
            report.out.display(),
            report.entries,
            dimensions,
            report.encoder
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn find<'a>(bundle: &'a Bundle, args: &IndexArguments) -> Result<&'a EncoderSpec, Failure> {
    let all = &bundle.manifest.encoder;
    let known = || all.iter().map(|e| e.name.as_str()).collect::<Vec<_>>().join(", ");
    match &args.encoder {
        Some(name) => all.iter().find(|e| e.name == *name).ok_or_else(|| {
            Failure::Usage(format!("--encoder {name}: not in {}; it has {}", bundle.dir.display(), known()))
        }),
        None => all.iter().find(|e| e.retrieval.is_some()).ok_or_else(|| {
            let message = format!(
                "no encoder of {} has [encoder.retrieval]; add it, or name one with --encoder: {}",
                bundle.id,
                known()
            );
            Failure::Usage(message)
        }),
    }
}

/// Position and length of the output with the embedding.
fn output_of(spec: &EncoderSpec, encoder: &OnnxEncoder) -> Result<(usize, usize), Failure> {
    let outputs = encoder.model().outputs();
    let named = spec.retrieval.as_ref().and_then(|r| r.output.as_deref());
    let at = match named {
        Some(name) => outputs.iter().position(|o| o.name == name),
        None => outputs.iter().position(|o| o.name == "embedding").or((outputs.len() == 1).then_some(0)),
    };
    let at = at.filter(|&at| outputs[at].dtype == Dtype::F32).ok_or_else(|| {
        let known: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
        Failure::Usage(format!(
            "encoder {}: retrieval.output must name an f32 output of its model: {}",
            spec.name,
            known.join(", ")
        ))
    })?;
    Ok((at, outputs[at].shape.iter().product()))
}

/// The files, with those of directories in the order of their names.
fn listed(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let failed = |e: std::io::Error| Failure::Input(format!("{}: cannot be listed: {e}", path.display()));
        let entries = std::fs::read_dir(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let is_hidden = |p: &Path| p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let mut inside: Vec<PathBuf> =
            entries.iter().map(std::fs::DirEntry::path).filter(|p| p.is_file() && !is_hidden(p)).collect();
        if inside.is_empty() {
            return Err(Failure::Input(format!("{}: no files in it", path.display())));
        }
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

fn id_of(file: &Path, of: IdOf) -> Result<String, Failure> {
    let name = match of {
        IdOf::File => file.file_stem(),
        IdOf::Folder => file.parent().and_then(Path::file_name),
    };
    let name = name.and_then(|n| n.to_str()).map(str::to_owned);
    name.ok_or_else(|| {
        Failure::Input(format!("{}: its name, or that of its directory, is no UTF-8 text", file.display()))
    })
}

enum Reader {
    Image(Box<ImagePreprocessor>),
    Audio(Box<AudioPreprocessor>),
}

impl Reader {
    fn shape(&self) -> &[usize] {
        match self {
            Reader::Image(p) => p.shape(),
            Reader::Audio(p) => p.shape(),
        }
    }

    fn read(&mut self, file: &Path, into: &mut Tensor) -> Result<(), Failure> {
        let at = |source: PreprocessError| Failure::Preprocess { name: file.display().to_string(), source };
        match self {
            Reader::Image(p) => {
                let mut frame = Frame::default();
                image::read_image(file, &mut frame)?;
                p.run(&frame, into).map_err(at)
            }
            Reader::Audio(p) => {
                let (samples, rate_hz) = wav::read_clip(file)?;
                p.clip_window(&samples, rate_hz, into).map_err(at)
            }
        }
    }
}
