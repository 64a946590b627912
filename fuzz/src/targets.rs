//! What every fuzz target does with its bytes. Compiled by the fuzzers, and by tests/fuzz_seeds.rs, which runs every committed seed on a stable
//! compiler.
//!
//! A target panics for what must not be: the parser itself does, or an assertion here about what it returned.

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;
use std::sync::Once;

use attendant::board::FrameFormat;
use attendant::bundle::pack::{MANIFEST, Packed};
use attendant::bundle::sign::Trust;
use attendant::capture::pixels::{self, Layout, Mode, Wish};
use attendant::capture::recording::tape::Taped;
use attendant::capture::recording::{Recording, Survey};
use attendant::capture::wav::WavMic;
use attendant::capture::{ErrorKind, Mic as _};
use attendant::config::manifest::{ImageSpec, Manifest};
use attendant::config::runtime::Runtime;
use attendant::config::{ConfigError, check_manifest, from_toml};
use attendant::emit::body::{self, Resume};
use attendant::emit::mqtt::command;
use attendant::infer::inspect_bytes;
use attendant::preprocess::ImagePreprocessor;
use attendant::signal::{AudioBlock, Frame, PixelFormat, Sample, Tensor};

// The build script's modules are part of no library.
#[path = "../../boards/schema.rs"]
#[allow(dead_code, reason = "the documentation of the keys and the folder are for others")]
mod schema;
#[path = "../../src/config/spans.rs"]
#[allow(dead_code, reason = "the way from a key to its line is for the bundle's checks")]
mod spans;

/// What takes the bytes.
pub type Entry = fn(&[u8]);

/// Name and entry of every target; the folder of its seeds has the same name.
pub const TARGETS: &[(&str, Entry)] = &[
    ("recording", recording),
    ("manifest", manifest),
    ("wav", wav),
    ("jpeg", jpeg),
    ("yuv", yuv),
    ("http", http),
    ("config", config),
    ("model", model),
    ("packed", packed),
];

/// More messages than these bytes can hold.
fn bound(data: &[u8]) -> usize {
    data.len() + 2
}

/// An MCAP file: container and messages as `run` plays it, as `info` surveys it, and as `replay` reads its calls.
pub fn recording(data: &[u8]) {
    let mut sample = Sample::default();
    if let Ok(mut recording) = Recording::from_reader("fuzz.mcap", data) {
        let mut left = bound(data);
        let error = loop {
            match recording.next(&mut sample) {
                Ok(Some(_)) => left = left.checked_sub(1).expect("a recording ends"),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        // the end, good or bad, is final
        for _ in 0..2 {
            match (&error, recording.next(&mut sample)) {
                (None, Ok(None)) => {}
                (Some(first), Err(again)) => assert_eq!(again.to_string(), first.to_string()),
                (end, other) => panic!("after the end {end:?} comes {other:?}"),
            }
        }
    }
    if let Ok(recording) = Recording::from_reader("fuzz.mcap", data) {
        let _ = Survey::of_readable(recording);
    }
    if let Ok(recording) = Recording::from_reader("fuzz.mcap", data) {
        let mut taped = Taped::new(recording);
        let mut left = bound(data);
        while let Ok(Some(_)) = taped.next_entry() {
            left = left.checked_sub(1).expect("a tape ends");
        }
    }
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// A message of the configuration names a line that the text has, and says something.
fn says_where(error: &ConfigError, text: &str) {
    assert!(!error.to_string().is_empty());
    if let ConfigError::Invalid { line, .. } = error {
        assert!(*line <= text.lines().count() + 1, "line {line} of {} lines", text.lines().count());
    }
}

/// A bundle.toml: syntax, types, and every check that needs no other file.
pub fn manifest(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match from_toml::<Manifest>(Path::new("bundle.toml"), text) {
        Err(error) => says_where(&error, text),
        Ok(manifest) => {
            if let Err(wrong) = check_manifest(&manifest) {
                assert!(!wrong.message.is_empty());
                let line = attendant::config::line_of(text, &wrong.path);
                assert!(line <= text.lines().count() + 1, "line {line}");
            }
        }
    }
}

/// A WAV file, in the blocks of a microphone.
pub fn wav(data: &[u8]) {
    for block_ms in [1, 100] {
        let Ok(mut mic) = WavMic::from_reader("fuzz.wav", Cursor::new(data), block_ms) else { return };
        let (mut block, mut next, mut left) = (AudioBlock::default(), 0, bound(data));
        loop {
            match mic.read(&mut block) {
                Ok(()) => {
                    assert!(
                        !block.data.is_empty() && block.data.iter().all(|x| (-1.0..=1.0).contains(x)),
                        "out of range"
                    );
                    assert_eq!(block.first.0, next);
                    next += block.data.len() as u64;
                    left = left.checked_sub(1).expect("a file ends");
                }
                Err(error) => {
                    assert!(matches!(error.kind, ErrorKind::End | ErrorKind::Fatal), "{error}");
                    break;
                }
            }
        }
    }
}

/// An encoder's picture of `side` x `side`.
fn preprocessor(side: u8, color: &str) -> ImagePreprocessor {
    let spec: ImageSpec = from_toml(
        Path::new("fuzz"),
        &format!(
            "size = [{0}, {0}]\ncolor = \"{color}\"\nmean = {1}\nstd = {1}",
            side,
            match color {
                "gray" => "[0.5]",
                _ => "[0.5, 0.5, 0.5]",
            }
        ),
    )
    .expect("a picture that can be");
    ImagePreprocessor::new(&spec).expect("a picture that can be")
}

fn floats_are_finite(tensor: &Tensor) {
    if let attendant::signal::TensorData::F32(values) = &tensor.data {
        assert!(values.iter().all(|v| v.is_finite()), "a tensor that is not finite");
    }
}

/// A JPEG as a camera sends it, to a grey tensor: our own decoder, the library for what that leaves. The first byte is the tensor's side.
pub fn jpeg(data: &[u8]) {
    let Some((side, file)) = data.split_first() else { return };
    let mut preprocessor = preprocessor(side % 64 + 1, "gray");
    let mut out = Tensor::zeros_f32(&[]);
    let frame = Frame { format: PixelFormat::Jpeg, data: file.to_vec(), ..Frame::default() };
    // twice: the second time the plan and the tables of the first are there
    let first = preprocessor.run(&frame, &mut out).map_err(|e| e.to_string());
    if first.is_ok() {
        floats_are_finite(&out);
    }
    let again = preprocessor.run(&frame, &mut out).map_err(|e| e.to_string());
    assert_eq!(again, first, "the same bytes, another answer");
}

/// Most bytes that a made-up frame is filled up to.
const FRAME_BYTES_MAX: usize = 1 << 16;

/// A raw frame: layout, width, height, stride, then its bytes, repeated as often as the layout needs.
pub fn yuv(data: &[u8]) {
    let [kind, w0, w1, h0, h1, s0, s1, flags, rest @ ..] = data else { return };
    const FORMATS: [FrameFormat; 7] = [
        FrameFormat::Mjpeg,
        FrameFormat::Yuyv,
        FrameFormat::Uyvy,
        FrameFormat::Nv12,
        FrameFormat::Yu12,
        FrameFormat::Gray,
        FrameFormat::Rgb,
    ];
    let format = FORMATS[usize::from(*kind) % FORMATS.len()];
    // small sizes mostly, and sometimes what no sensor has
    let wide = |low: &u8, high: &u8, bit: u8| match flags >> bit & 3 {
        0 | 1 => u32::from(*low),
        2 => u32::from(u16::from_le_bytes([*low, *high])),
        _ => u32::from_le_bytes([*low, *high, *high, *high]),
    };
    let (width, height, stride) = (wide(w0, w1, 0), wide(h0, h1, 2), wide(s0, s1, 4));
    let layout = Layout { format, width, height, stride };
    let packed = pixels::frame_bytes(format, width, height);
    let mut bytes = rest.to_vec();
    if flags >> 6 & 1 == 1 && !rest.is_empty() {
        let wanted = packed.unwrap_or(0).max(stride as usize * 3).min(FRAME_BYTES_MAX);
        bytes = rest.iter().copied().cycle().take(wanted).collect();
    }
    let mode = Mode { format, width, height, rate_hz: Some(15.0) };
    let wish = Wish { formats: &FORMATS, width: 640, height: 480, rate_hz: 15 };
    assert_eq!(pixels::choose(&[mode], &wish), Some(mode), "the only one there is");
    let mut frame = Frame::default();
    if layout.store(&bytes, &mut frame).is_err() || format == FrameFormat::Mjpeg {
        return;
    }
    for color in ["gray", "rgb"] {
        let mut out = Tensor::zeros_f32(&[]);
        // a frame that was stored may be too large for an encoder, and is refused then
        if preprocessor(kind % 16 + 1, color).run(&frame, &mut out).is_ok() {
            floats_are_finite(&out);
        }
    }
}

/// What a client may write: bodies of the web interface, the mark of a stream, commands of the broker. The first byte says which.
pub fn http(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            if let Ok(text) = body::text(rest) {
                assert!(!text.trim().is_empty() && text.chars().count() <= attendant::signal::TEXT_CHARS_MAX);
            }
        }
        1 => _ = body::choice(rest),
        2 => {
            let Some(id) = text(rest) else { return };
            if let Resume::After(seq) = Resume::parse(Some(id), "run") {
                assert!(id.trim().starts_with("run-") && id.contains(|c: char| c.is_ascii_digit()), "{id:?} is {seq}");
            }
        }
        _ => {
            let names = ["text", "choice", "mute", "thresholds", "language", "other"];
            let Some((name, payload)) = rest.split_first() else { return };
            let name = names[usize::from(*name) % names.len()];
            match command::parse(&command::Message { name, payload, retained: false }) {
                Ok(request) => _ = command::answer(name, request.id.as_deref(), Ok(())),
                Err(rejection) => {
                    let said = command::answer(name, rejection.id.as_deref(), Err((rejection.why, &rejection.reason)));
                    let said = std::str::from_utf8(&said).expect("an answer is text");
                    assert!(said.starts_with('{') && said.ends_with('}'), "{said}");
                }
            }
        }
    }
}

/// An attendant.toml, or a board file. The first byte says which.
pub fn config(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let Some(text) = text(rest) else { return };
    if kind % 2 == 0 {
        if let Err(error) = Runtime::parse(Path::new("attendant.toml"), text) {
            says_where(&error, text);
        }
        return;
    }
    match schema::of_text("fuzz", text) {
        Ok(board) => assert!(board.render().starts_with("Board {")),
        Err(problems) => {
            let mut said = String::new();
            for problem in &problems {
                assert!(problem.line <= text.lines().count() + 1, "{problem}");
                _ = write!(said, "{problem}");
            }
            assert!(!said.is_empty());
        }
    }
}

/// Largest file that a model is read from here: the time of building goes with it.
const MODEL_BYTES_MAX: usize = 16 << 10;

/// An ONNX file, as far as loading goes. The engine's own panics are caught by [`attendant::infer`], which is what is tested.
pub fn model(data: &[u8]) {
    if data.len() > MODEL_BYTES_MAX {
        return;
    }
    // libFuzzer's hook would end the process before the panic is caught; one that nobody catches ends it nevertheless
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    if let Ok(found) = inspect_bytes("fuzz.onnx", data, &[]) {
        assert_eq!(found.bytes, data.len());
    }
}

/// A packed bundle that anybody may have made, as `bundle verify` reads it.
pub fn packed(data: &[u8]) {
    let block = |bytes: u64| 512 + bytes.next_multiple_of(512);
    let Ok(packed) = Packed::open(data, &Trust::anything()) else { return };
    let own =
        block(packed.manifest_bytes.len() as u64) + packed.signature.as_ref().map_or(0, |s| block(s.len() as u64));
    let Ok(manifest) = packed.verify() else { return };
    let parts: u64 = manifest.parts.iter().map(|part| block(part.bytes)).sum();
    assert_eq!(own + parts + 1024, data.len() as u64, "a bundle is its parts and nothing else");
    let leads_elsewhere =
        |name: &str| name.starts_with('/') || name.split('/').any(|word| ["", ".", ".."].contains(&word));
    assert!(manifest.parts.iter().all(|part| !leads_elsewhere(&part.name) && part.name != MANIFEST));
}
