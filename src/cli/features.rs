//! `attendant features`: preprocessed tensors for training, made by the code that runs on the device.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use attendant::bundle::Bundle;
use attendant::capture::{Camera as _, ErrorKind, Mic as _, image, video, wav};
use attendant::config::manifest::{AudioSpec, EncoderSpec};
use attendant::preprocess::{AudioPreprocessor, ImagePreprocessor, PreprocessError, TextPreprocessor};
use attendant::signal::{AudioBlock, Frame, Tensor};
use clap::Args;
use indicatif::ProgressBar;

use super::eval::{Row, read_rows};
use super::npy::NpyWriter;
use super::{Common, Failure, outln};

/// Arguments of `features`.
#[derive(Debug, Args)]
pub struct FeaturesArguments {
    /// Encoder of the bundle whose preprocessing is used
    #[arg(long)]
    encoder: String,
    /// .y4m, .mjpeg, .avi: every frame; .wav: every window; .txt: every line; .jsonl: one tensor a row of `eval`; else one picture
    input: PathBuf,
    /// File to write: [rows, ...] in row order
    #[arg(long, value_name = "FILE.npy")]
    out: PathBuf,
    /// Windows of a .wav are this far apart, instead of the bundle's `hop_ms`
    #[arg(long, value_name = "MS")]
    hop_ms: Option<u32>,
}

/// What the command prints.
#[derive(serde::Serialize)]
struct Report {
    encoder: String,
    rows: usize,
    shape: Vec<usize>,
    out: PathBuf,
}

/// Runs the command.
pub fn run(common: &Common, args: &FeaturesArguments) -> Result<ExitCode, Failure> {
    let dir = attendant::bundle::locate(common.bundle.as_deref())?;
    let bundle = Bundle::open_manifest_only(&dir)?;
    let known = || bundle.manifest.encoder.iter().map(|e| e.name.clone()).collect::<Vec<_>>().join(", ");
    let index = bundle.manifest.encoder.iter().position(|e| e.name == args.encoder).ok_or_else(|| {
        Failure::Usage(format!("--encoder {}: not in {}; it has {}", args.encoder, dir.display(), known()))
    })?;
    let spec = &bundle.manifest.encoder[index];
    let extension = args.input.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let mut export = Export { out: &args.out, writer: None, shape: Vec::new(), bar: ProgressBar::no_length() };
    match (extension.as_str(), spec) {
        ("jsonl", _) => export_rows(&args.input, &bundle, index, &mut export)?,
        (_, EncoderSpec { image: Some(image), .. }) => {
            let pre = ImagePreprocessor::new(image).map_err(|e| in_manifest(&bundle, e))?;
            export_frames(&args.input, pre, &mut export)?;
        }
        (_, EncoderSpec { audio: Some(audio), .. }) => {
            let audio = AudioSpec { hop_ms: args.hop_ms.unwrap_or(audio.hop_ms), ..audio.clone() };
            let pre = AudioPreprocessor::new(&audio).map_err(|e| in_manifest(&bundle, e))?;
            export_windows(&args.input, pre, &mut export)?;
        }
        (_, EncoderSpec { text: Some(text), .. }) => {
            let tokenizer = bundle.tokenizer(index)?.unwrap_or_default();
            let pre = TextPreprocessor::new(text, &tokenizer).map_err(|e| in_manifest(&bundle, e))?;
            export_lines(&args.input, pre, &mut export)?;
        }
        _ => {
            return Err(Failure::Usage(format!(
                "--encoder {}: series have no file form; use .jsonl rows",
                args.encoder
            )));
        }
    }
    let (rows, shape) = export.finish(&args.input)?;
    let report = Report { encoder: args.encoder.clone(), rows, shape, out: args.out.clone() };
    if common.json {
        common.print_json(&report)?;
    } else {
        outln!("{}: {} rows of {:?} for {}", report.out.display(), report.rows, report.shape, report.encoder);
    }
    Ok(ExitCode::SUCCESS)
}

/// The file being written, opened at the first row.
struct Export<'a> {
    out: &'a Path,
    writer: Option<NpyWriter>,
    shape: Vec<usize>,
    bar: ProgressBar,
}

impl Export<'_> {
    fn push(&mut self, row: &Tensor) -> Result<(), Failure> {
        let failed = |source| Failure::Output { path: self.out.display().to_string(), source };
        if self.writer.is_none() {
            self.shape = row.shape.to_vec();
            self.writer = Some(NpyWriter::create(self.out, row).map_err(failed)?);
        }
        self.bar.inc(1);
        self.writer.as_mut().expect("opened above").push(row).map_err(failed)
    }

    fn finish(self, input: &Path) -> Result<(usize, Vec<usize>), Failure> {
        self.bar.finish_and_clear();
        let writer =
            self.writer.ok_or_else(|| Failure::Input(format!("{}: holds nothing to export", input.display())))?;
        let rows =
            writer.finish().map_err(|source| Failure::Output { path: self.out.display().to_string(), source })?;
        Ok((rows, self.shape))
    }
}

fn export_frames(input: &Path, mut pre: ImagePreprocessor, export: &mut Export<'_>) -> Result<(), Failure> {
    let mut tensor = Tensor::zeros_f32(pre.shape());
    let mut frame = Frame::default();
    if !super::is_video(input) {
        image::read_image(input, &mut frame)?;
        pre.run(&frame, &mut tensor).map_err(|e| at(input, e))?;
        return export.push(&tensor);
    }
    let mut camera = video::VideoCamera::open(input)?;
    loop {
        match camera.capture(&mut frame) {
            Ok(()) => {
                pre.run(&frame, &mut tensor).map_err(|e| at(input, e))?;
                export.push(&tensor)?;
            }
            Err(e) if e.kind == ErrorKind::End => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

fn export_windows(input: &Path, mut pre: AudioPreprocessor, export: &mut Export<'_>) -> Result<(), Failure> {
    let mut tensor = Tensor::zeros_f32(pre.shape());
    let mut mic = wav::WavMic::open(input, super::BLOCK_MS)?;
    let mut block = AudioBlock::default();
    loop {
        match mic.read(&mut block) {
            Ok(()) => {
                pre.push(&block).map_err(|e| at(input, e))?;
                while pre.next_window(&mut tensor).map_err(|e| at(input, e))?.is_some() {
                    export.push(&tensor)?;
                }
            }
            Err(e) if e.kind == ErrorKind::End => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

fn export_lines(input: &Path, mut pre: TextPreprocessor, export: &mut Export<'_>) -> Result<(), Failure> {
    let mut tensor = Tensor::zeros_i64(pre.shape());
    let failed = |e: std::io::Error| Failure::Input(format!("{}: {e}", input.display()));
    for line in BufReader::new(File::open(input).map_err(failed)?).split(b'\n') {
        let line = line.map_err(failed)?;
        pre.run(&String::from_utf8_lossy(&line), &mut tensor).map_err(|e| at(input, e))?;
        export.push(&tensor)?;
    }
    Ok(())
}

fn export_rows(input: &Path, bundle: &Bundle, index: usize, export: &mut Export<'_>) -> Result<(), Failure> {
    let spec = &bundle.manifest.encoder[index];
    let rows = read_rows(input)?;
    let missing = |row: &Row| {
        let message = format!("{}:{}: the row has nothing for encoder {}", input.display(), row.line, spec.name);
        Failure::Input(message)
    };
    let manifest = |e| in_manifest(bundle, e);
    if let Some(image) = &spec.image {
        let mut pre = ImagePreprocessor::new(image).map_err(manifest)?;
        let (mut tensor, mut frame) = (Tensor::zeros_f32(pre.shape()), Frame::default());
        for row in &rows {
            let path = row.image.as_ref().ok_or_else(|| missing(row))?;
            image::read_image(path, &mut frame)?;
            pre.run(&frame, &mut tensor).map_err(|e| at(path, e))?;
            export.push(&tensor)?;
        }
    } else if let Some(audio) = &spec.audio {
        let mut pre = AudioPreprocessor::new(audio).map_err(manifest)?;
        let mut tensor = Tensor::zeros_f32(pre.shape());
        for row in &rows {
            let path = row.audio.as_ref().ok_or_else(|| missing(row))?;
            let (samples, rate_hz) = wav::read_clip(path)?;
            pre.clip_window(&samples, rate_hz, &mut tensor).map_err(|e| at(path, e))?;
            export.push(&tensor)?;
        }
    } else if let Some(text) = &spec.text {
        let tokenizer = bundle.tokenizer(index)?.unwrap_or_default();
        let mut pre = TextPreprocessor::new(text, &tokenizer).map_err(manifest)?;
        let mut tensor = Tensor::zeros_i64(pre.shape());
        for row in &rows {
            pre.run(row.text.as_ref().ok_or_else(|| missing(row))?, &mut tensor).map_err(|e| at(input, e))?;
            export.push(&tensor)?;
        }
    } else {
        return Err(Failure::Usage(format!("--encoder {}: rows of `eval` hold no series", spec.name)));
    }
    Ok(())
}

fn at(path: &Path, source: PreprocessError) -> Failure {
    Failure::Preprocess { name: path.display().to_string(), source }
}

fn in_manifest(bundle: &Bundle, source: PreprocessError) -> Failure {
    Failure::Preprocess { name: bundle.dir.join("bundle.toml").display().to_string(), source }
}
