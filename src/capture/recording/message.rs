//! What is inside a recording's messages: Foxglove's protobuf schemas for pictures and sound, JSON for the rest.

use std::borrow::Cow;
use std::mem;

use prost::Message as _;
use serde::Deserialize;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};

use super::Truth;
use crate::capture::jpeg::jpeg_size;
use crate::signal::{AudioBlock, Frame, PixelFormat};

/// No camera delivers more pixels a side.
const MAX_SIDE: u32 = 16_384;
/// More channels than any array of microphones.
const MAX_AUDIO_CHANNELS: u32 = 64;
/// Beyond the fastest converter.
const MAX_RATE_HZ: u32 = 768_000;
/// More than any sensor.
const MAX_VALUES: usize = 4096;

/// What the messages of a channel are, by the name of its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    CompressedImage,
    RawImage,
    RawAudio,
    Text,
    Reading,
    Fault,
    Truth,
    /// Someone else's.
    Ignored,
}

impl Kind {
    pub fn of(schema: &str) -> Kind {
        match schema {
            "foxglove.CompressedImage" => Kind::CompressedImage,
            "foxglove.RawImage" => Kind::RawImage,
            "foxglove.RawAudio" => Kind::RawAudio,
            "attendant.Text" => Kind::Text,
            "attendant.Reading" => Kind::Reading,
            "attendant.Fault" => Kind::Fault,
            "attendant.Truth" => Kind::Truth,
            _ => Kind::Ignored,
        }
    }

    /// The only message encoding that the schema comes in.
    pub fn encoding(self) -> Option<&'static str> {
        match self {
            Kind::CompressedImage | Kind::RawImage | Kind::RawAudio => Some("protobuf"),
            Kind::Text | Kind::Reading | Kind::Fault | Kind::Truth => Some("json"),
            Kind::Ignored => None,
        }
    }
}

/// `foxglove.CompressedImage`, without the fields that the container has better (timestamp, frame id).
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CompressedImage {
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
    #[prost(string, tag = "3")]
    pub format: String,
}

/// `foxglove.RawImage`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RawImage {
    #[prost(fixed32, tag = "2")]
    pub width: u32,
    #[prost(fixed32, tag = "3")]
    pub height: u32,
    #[prost(string, tag = "4")]
    pub encoding: String,
    #[prost(fixed32, tag = "5")]
    pub step: u32,
    #[prost(bytes = "vec", tag = "6")]
    pub data: Vec<u8>,
}

/// `foxglove.RawAudio`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RawAudio {
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
    #[prost(string, tag = "3")]
    pub format: String,
    #[prost(fixed32, tag = "4")]
    pub sample_rate: u32,
    #[prost(fixed32, tag = "5")]
    pub number_of_channels: u32,
}

/// The protobuf messages, kept so that their buffers are reused.
#[derive(Default)]
pub(super) struct Decoder {
    compressed: CompressedImage,
    raw: RawImage,
    audio: RawAudio,
}

impl Decoder {
    /// Fills size, stride, format and data of `frame`.
    pub fn image(&mut self, kind: Kind, body: &[u8], frame: &mut Frame) -> Result<(), String> {
        if kind == Kind::RawImage {
            return self.raw_image(body, frame);
        }
        let image = &mut self.compressed;
        image.clear();
        image.merge(body).map_err(|e| malformed("foxglove.CompressedImage", &e))?;
        if image.format != "jpeg" && image.format != "jpg" {
            return Err(format!("image format {:?}, expected \"jpeg\"", image.format));
        }
        if image.data.is_empty() {
            return Err("image without data".into());
        }
        mem::swap(&mut frame.data, &mut image.data);
        frame.format = PixelFormat::Jpeg;
        frame.stride = 0;
        // the schema has no size; a JPEG without a header is the decoder's to refuse
        (frame.width, frame.height) = jpeg_size(&frame.data).unwrap_or_default();
        Ok(())
    }

    fn raw_image(&mut self, body: &[u8], frame: &mut Frame) -> Result<(), String> {
        let image = &mut self.raw;
        image.clear();
        image.merge(body).map_err(|e| malformed("foxglove.RawImage", &e))?;
        let (width, height) = (image.width, image.height);
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(format!("image of {width}x{height}, expected 1 to {MAX_SIDE} a side"));
        }
        // Foxglove's names and those of V4L2
        let (format, row_bytes, rows) = match image.encoding.as_str() {
            "mono8" | "8UC1" => (PixelFormat::Gray, width, height),
            "rgb8" => (PixelFormat::Rgb, width * 3, height),
            "yuyv" | "yuv422_yuy2" => (PixelFormat::Yuyv, width.next_multiple_of(2) * 2, height),
            "nv12" => (PixelFormat::Nv12, width.next_multiple_of(2), height + height.div_ceil(2)),
            other => return Err(format!("image encoding {other:?}, expected mono8, rgb8, yuyv or nv12")),
        };
        let stride = if image.step == 0 { row_bytes } else { image.step };
        // the last row needs no padding
        let needed = u64::from(stride) * u64::from(rows - 1) + u64::from(row_bytes);
        if stride < row_bytes || (image.data.len() as u64) < needed {
            return Err(format!(
                "{} image of {width}x{height}, {stride} bytes a row, has {} bytes, expected rows of {row_bytes} and {needed} bytes",
                image.encoding,
                image.data.len()
            ));
        }
        mem::swap(&mut frame.data, &mut image.data);
        (frame.width, frame.height, frame.stride, frame.format) = (width, height, stride, format);
        Ok(())
    }

    /// Fills rate and samples of `block`: channels are averaged.
    pub fn audio(&mut self, body: &[u8], block: &mut AudioBlock) -> Result<(), String> {
        let audio = &mut self.audio;
        audio.clear();
        audio.merge(body).map_err(|e| malformed("foxglove.RawAudio", &e))?;
        if audio.format != "pcm-s16" {
            return Err(format!("audio format {:?}, expected \"pcm-s16\"", audio.format));
        }
        let (rate, channels) = (audio.sample_rate, audio.number_of_channels);
        if !(1..=MAX_RATE_HZ).contains(&rate) || !(1..=MAX_AUDIO_CHANNELS).contains(&channels) {
            return Err(format!(
                "audio of {channels} channels at {rate} Hz, expected 1 to {MAX_AUDIO_CHANNELS} at 1 to {MAX_RATE_HZ} Hz"
            ));
        }
        let frame_bytes = channels as usize * 2;
        if audio.data.is_empty() || !audio.data.len().is_multiple_of(frame_bytes) {
            return Err(format!("audio of {} bytes, expected a multiple of {frame_bytes}", audio.data.len()));
        }
        let scale = 1.0 / (32768.0 * channels as f32);
        block.data.clear();
        block.data.extend(audio.data.chunks_exact(frame_bytes).map(|frame| {
            let sum: i32 = frame.chunks_exact(2).map(|s| i32::from(i16::from_le_bytes([s[0], s[1]]))).sum();
            sum as f32 * scale
        }));
        block.sample_rate_hz = rate;
        Ok(())
    }
}

#[derive(Deserialize)]
struct TextBody<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// `{"text": ...}`
pub(super) fn text(body: &[u8], into: &mut String) -> Result<(), String> {
    let message: TextBody = json("attendant.Text", body)?;
    into.clear();
    into.push_str(&message.text);
    Ok(())
}

/// `{"values": [...]}`; null stands for a channel that could not be read.
pub(super) fn reading(body: &[u8], into: &mut Vec<f32>) -> Result<(), String> {
    into.clear();
    let mut json = serde_json::Deserializer::from_slice(body);
    ReadingBody { into }
        .deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|e| malformed("attendant.Reading", &e))
}

/// Reads `values` into a buffer of the caller.
struct ReadingBody<'b> {
    into: &'b mut Vec<f32>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum ReadingField {
    Values,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for ReadingBody<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ReadingBody<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object with `values`")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(field) = map.next_key::<ReadingField>()? {
            match field {
                ReadingField::Values => {
                    found = true;
                    map.next_value_seed(Values(self.into))?;
                }
                ReadingField::Other => {
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
            }
        }
        if found { Ok(()) } else { Err(serde::de::Error::missing_field("values")) }
    }
}

struct Values<'b>(&'b mut Vec<f32>);

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Values<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "an array of at most {MAX_VALUES} numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.0.clear();
        while let Some(value) = seq.next_element::<Option<f32>>()? {
            if self.0.len() == MAX_VALUES {
                return Err(serde::de::Error::invalid_length(MAX_VALUES + 1, &self));
            }
            self.0.push(value.unwrap_or(f32::NAN));
        }
        Ok(())
    }
}

/// `{"source": ..., "reason": ...}`
#[derive(Deserialize)]
pub(super) struct FaultBody<'a> {
    #[serde(borrow)]
    pub source: Cow<'a, str>,
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
}

pub(super) fn fault(body: &[u8]) -> Result<FaultBody<'_>, String> {
    json("attendant.Fault", body)
}

/// `{"label": ..., "shown": [...], "note": ...}`, without its time.
pub(super) fn truth(body: &[u8]) -> Result<Truth, String> {
    #[derive(Deserialize)]
    struct Body {
        label: String,
        #[serde(default)]
        shown: Vec<String>,
        #[serde(default)]
        note: String,
    }
    let Body { label, shown, note } = json("attendant.Truth", body)?;
    Ok(Truth { label, shown, note, ..Truth::default() })
}

fn json<'a, T: Deserialize<'a>>(schema: &str, body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|e| malformed(schema, &e))
}

fn malformed(schema: &str, e: &dyn std::fmt::Display) -> String {
    format!("is no {schema}: {e}")
}
