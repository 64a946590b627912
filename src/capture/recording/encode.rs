//! Messages as they are written: Foxglove's protobuf schemas for pictures and sound, JSON for the rest. The inverse of `message`.

use serde::{Deserialize, Serialize};

use crate::signal::{Answer, AudioBlock, Call, Command, Frame, PixelFormat, Reading, Sample};
use crate::time::Micros;

use super::schema::Schema;

/// Sound that 16 bits cannot hold exactly (a resampled microphone) is written as f32 under this name, which is not one of Foxglove's.
pub const PCM_F32: &str = "pcm-f32";

/// A call of the pipeline as JSON: `attendant.Call`. A sample itself is the message before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallBody {
    /// When it was made, on the pipeline's clock.
    pub now_us: Micros,
    /// What was asked.
    #[serde(flatten)]
    pub call: CallKind,
}

/// [`Call`] with what it needs to be made again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of Call")]
pub enum CallKind {
    Start,
    End,
    Tick,
    /// The sample is the message before; of sound, where it lies in its stream.
    Sample {
        source: String,
        #[serde(default, skip_serializing_if = "is_zero")]
        first: u64,
        #[serde(default, skip_serializing_if = "is_zero")]
        gap: u64,
    },
    /// What the encoders made of a sample that is not kept.
    Tokens {
        source: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        answers: Vec<Answer>,
    },
    Fail {
        source: String,
        reason: String,
    },
    Slow {
        kind: String,
        divisor: u32,
    },
    Notice {
        source: String,
        notice: String,
        reason: String,
    },
    Command {
        command: Command,
    },
    Hush {
        on: bool,
    },
    /// This many calls before this one are missing: the recorder was behind, or its file was full.
    Lost {
        calls: u64,
    },
}

impl CallKind {
    /// Under which name what it sets holds until the next call of the same name; none if it sets nothing. A run that is taken up in its
    /// middle makes the last one of every name first. For calls that take a sample see [`super::part::holds`].
    #[must_use]
    pub fn holds(&self) -> Option<String> {
        match self {
            CallKind::Start => Some("start".into()),
            CallKind::Slow { kind, .. } => Some(format!("slow {kind}")),
            CallKind::Fail { source, .. } => Some(format!("fail {source}")),
            CallKind::Hush { .. } => Some("hush".into()),
            CallKind::Command { command } => match command {
                Command::Mute { source, .. } => Some(format!("mute {source}")),
                Command::Thresholds { .. } => Some("thresholds".into()),
                Command::Language(_) => Some("language".into()),
                // how old a request is stands in every event
                Command::Text(_) => Some("text".into()),
                Command::Choose { .. } | Command::Reload => None,
            },
            CallKind::Tokens { source, answers } => (!answers.is_empty()).then(|| format!("tokens {source}")),
            CallKind::End
            | CallKind::Tick
            | CallKind::Sample { .. }
            | CallKind::Notice { .. }
            | CallKind::Lost { .. } => None,
        }
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl From<&Call<'_>> for CallKind {
    fn from(call: &Call<'_>) -> Self {
        match *call {
            Call::Start => CallKind::Start,
            Call::End => CallKind::End,
            Call::Tick => CallKind::Tick,
            Call::Sample { source, sample } => {
                let (first, gap) = match sample {
                    Sample::Audio(block) => (block.first.0, block.gap_samples),
                    _ => (0, 0),
                };
                CallKind::Sample { source: source.into(), first, gap }
            }
            Call::Tokens { source, answers } => CallKind::Tokens { source: source.into(), answers: answers.to_vec() },
            Call::Fail { source, reason } => CallKind::Fail { source: source.into(), reason: reason.to_string() },
            Call::Slow { kind, divisor } => CallKind::Slow { kind: kind.into(), divisor },
            Call::Notice { source, notice, reason } => {
                CallKind::Notice { source: source.into(), notice: notice.into(), reason: reason.to_string() }
            }
            Call::Command(command) => CallKind::Command { command: command.clone() },
            Call::Hush { on } => CallKind::Hush { on },
        }
    }
}

/// Appends the message for `sample` to `body` and returns its schema. `source` is told in faults.
pub fn sample(source: &str, sample: &Sample, body: &mut Vec<u8>) -> Schema {
    match sample {
        Sample::Frame(f) if f.format == PixelFormat::Jpeg => {
            timestamp(body, f.t);
            bytes(body, 2, &f.data);
            bytes(body, 3, b"jpeg");
            bytes(body, 4, source.as_bytes());
            Schema::CompressedImage
        }
        Sample::Frame(frame) => {
            raw_image(source, frame, body);
            Schema::RawImage
        }
        Sample::Audio(block) => {
            audio(block, body);
            Schema::RawAudio
        }
        Sample::Text(u) => {
            json(body, &serde_json::json!({ "text": u.text }));
            Schema::Text
        }
        Sample::Reading(reading) => {
            json(body, &serde_json::json!({ "values": values(reading) }));
            Schema::Reading
        }
        Sample::Fault { reason, .. } => {
            json(body, &serde_json::json!({ "source": source, "reason": &**reason }));
            Schema::Fault
        }
    }
}

/// Appends `value` as JSON.
pub fn json(body: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(body, value).expect("a Vec takes everything, and every field has a JSON form");
}

/// As f64, whose shortest decimals give back the same f32.
fn values(reading: &Reading) -> Vec<Option<f64>> {
    reading.values.iter().map(|v| v.is_finite().then(|| f64::from(*v))).collect()
}

fn raw_image(source: &str, frame: &Frame, body: &mut Vec<u8>) {
    let encoding = match frame.format {
        PixelFormat::Yuyv => "yuyv",
        PixelFormat::Nv12 => "nv12",
        PixelFormat::Gray => "mono8",
        PixelFormat::Rgb => "rgb8",
        PixelFormat::Jpeg => unreachable!("a compressed image"),
    };
    timestamp(body, frame.t);
    fixed32(body, 2, frame.width);
    fixed32(body, 3, frame.height);
    bytes(body, 4, encoding.as_bytes());
    fixed32(body, 5, frame.stride);
    bytes(body, 6, &frame.data);
    bytes(body, 7, source.as_bytes());
}

/// 16 bits where they hold the samples exactly, f32 where they do not.
fn audio(block: &AudioBlock, body: &mut Vec<u8>) {
    let exact = |x: &f32| {
        let scaled = *x * 32768.0;
        scaled.fract() == 0.0 && (-32768.0..=32767.0).contains(&scaled)
    };
    // a sum of samples may be -0.0, which 16 bits do not have, and which is equal to 0 in everything that follows
    let is_s16 = block.data.iter().all(exact);
    timestamp(body, block.t);
    let sample_bytes = if is_s16 { 2 } else { 4 };
    tag(body, 2, LEN);
    varint(body, (block.data.len() * sample_bytes) as u64);
    if is_s16 {
        body.extend(block.data.iter().flat_map(|x| ((*x * 32768.0) as i16).to_le_bytes()));
    } else {
        body.extend(block.data.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes(body, 3, if is_s16 { b"pcm-s16" } else { PCM_F32.as_bytes() });
    fixed32(body, 4, block.sample_rate_hz);
    fixed32(body, 5, 1);
}

const VARINT: u64 = 0;
const LEN: u64 = 2;
const I32: u64 = 5;

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn tag(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

pub(super) fn varint_field(out: &mut Vec<u8>, field: u64, n: u64) {
    tag(out, field, VARINT);
    varint(out, n);
}

pub(super) fn bytes(out: &mut Vec<u8>, field: u64, data: &[u8]) {
    tag(out, field, LEN);
    varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

fn fixed32(out: &mut Vec<u8>, field: u64, n: u32) {
    tag(out, field, I32);
    out.extend(n.to_le_bytes());
}

/// `google.protobuf.Timestamp` in field 1.
fn timestamp(out: &mut Vec<u8>, t: Micros) {
    let mut body = Vec::new();
    varint_field(&mut body, 1, t.0 / 1_000_000);
    varint_field(&mut body, 2, t.0 % 1_000_000 * 1000);
    bytes(out, 1, &body);
}
