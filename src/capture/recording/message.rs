//! What is inside a recording's messages: Foxglove's protobuf schemas for pictures and sound, JSON for the rest.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};

use super::encode::CallBody;
use super::schema::Schema;
use super::{Truth, encode};
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

/// Fills size, stride, format and data of `frame` from a `foxglove.CompressedImage` or a `foxglove.RawImage`.
pub(super) fn image(schema: Schema, body: &[u8], frame: &mut Frame) -> Result<(), String> {
    if schema == Schema::RawImage { raw_image(body, frame) } else { compressed_image(body, frame) }
}

fn compressed_image(body: &[u8], frame: &mut Frame) -> Result<(), String> {
    let (mut data, mut format) = (&[][..], &[][..]);
    for field in Protobuf::new("foxglove.CompressedImage", body) {
        match field? {
            (2, Value::Bytes(b)) => data = b,
            (3, Value::Bytes(b)) => format = b,
            _ => {}
        }
    }
    if format != b"jpeg" && format != b"jpg" {
        return Err(format!("image format \"{}\", expected \"jpeg\"", shown(format)));
    }
    if data.is_empty() {
        return Err("image without data".into());
    }
    refill(&mut frame.data, data);
    frame.format = PixelFormat::Jpeg;
    frame.stride = 0;
    // the schema has no size; a JPEG without a header is the decoder's to refuse
    (frame.width, frame.height) = jpeg_size(data).unwrap_or_default();
    Ok(())
}

fn raw_image(body: &[u8], frame: &mut Frame) -> Result<(), String> {
    let (mut width, mut height, mut step) = (0, 0, 0);
    let (mut encoding, mut data) = (&[][..], &[][..]);
    for field in Protobuf::new("foxglove.RawImage", body) {
        match field? {
            (2, Value::Fixed32(n)) => width = n,
            (3, Value::Fixed32(n)) => height = n,
            (4, Value::Bytes(b)) => encoding = b,
            (5, Value::Fixed32(n)) => step = n,
            (6, Value::Bytes(b)) => data = b,
            _ => {}
        }
    }
    if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
        return Err(format!("image of {width}x{height}, expected 1 to {MAX_SIDE} a side"));
    }
    // Foxglove's names and those of V4L2
    let (format, row_bytes, rows) = match encoding {
        b"mono8" | b"8UC1" => (PixelFormat::Gray, width, height),
        b"rgb8" => (PixelFormat::Rgb, width * 3, height),
        b"yuyv" | b"yuv422_yuy2" => (PixelFormat::Yuyv, width.next_multiple_of(2) * 2, height),
        b"nv12" => (PixelFormat::Nv12, width.next_multiple_of(2), height + height.div_ceil(2)),
        other => return Err(format!("image encoding \"{}\", expected mono8, rgb8, yuyv or nv12", shown(other))),
    };
    let stride = if step == 0 { row_bytes } else { step };
    // the last row needs no padding
    let needed = u64::from(stride) * u64::from(rows - 1) + u64::from(row_bytes);
    if stride < row_bytes || (data.len() as u64) < needed {
        return Err(format!(
            "{} image of {width}x{height}, {stride} bytes a row, has {} bytes, expected rows of {row_bytes} and {needed} bytes",
            shown(encoding),
            data.len()
        ));
    }
    refill(&mut frame.data, data);
    (frame.width, frame.height, frame.stride, frame.format) = (width, height, stride, format);
    Ok(())
}

/// Fills rate and samples of `block` from a `foxglove.RawAudio`: channels are averaged.
pub(super) fn audio(body: &[u8], block: &mut AudioBlock) -> Result<(), String> {
    let (mut data, mut format) = (&[][..], &[][..]);
    let (mut rate, mut channels) = (0, 0);
    for field in Protobuf::new("foxglove.RawAudio", body) {
        match field? {
            (2, Value::Bytes(b)) => data = b,
            (3, Value::Bytes(b)) => format = b,
            (4, Value::Fixed32(n)) => rate = n,
            (5, Value::Fixed32(n)) => channels = n,
            _ => {}
        }
    }
    let is_f32 = format == encode::PCM_F32.as_bytes();
    if format != b"pcm-s16" && !is_f32 {
        return Err(format!("audio format \"{}\", expected \"pcm-s16\" or \"pcm-f32\"", shown(format)));
    }
    if !(1..=MAX_RATE_HZ).contains(&rate) || !(1..=MAX_AUDIO_CHANNELS).contains(&channels) {
        return Err(format!(
            "audio of {channels} channels at {rate} Hz, expected 1 to {MAX_AUDIO_CHANNELS} at 1 to {MAX_RATE_HZ} Hz"
        ));
    }
    let sample_bytes = if is_f32 { 4 } else { 2 };
    let frame_bytes = channels as usize * sample_bytes;
    if data.is_empty() || !data.len().is_multiple_of(frame_bytes) {
        return Err(format!("audio of {} bytes, expected a multiple of {frame_bytes}", data.len()));
    }
    block.data.clear();
    block.sample_rate_hz = rate;
    if is_f32 {
        let scale = 1.0 / channels as f32;
        let sample = |s: &[u8]| f32::from_le_bytes([s[0], s[1], s[2], s[3]]);
        let frames = data.chunks_exact(frame_bytes);
        block.data.extend(frames.map(|frame| frame.chunks_exact(4).map(sample).sum::<f32>() * scale));
        return Ok(());
    }
    let scale = 1.0 / (32768.0 * channels as f32);
    block.data.extend(data.chunks_exact(frame_bytes).map(|frame| {
        let sum: i32 = frame.chunks_exact(2).map(|s| i32::from(i16::from_le_bytes([s[0], s[1]]))).sum();
        sum as f32 * scale
    }));
    Ok(())
}

fn refill(buffer: &mut Vec<u8>, data: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(data);
}

/// The start of a name from a file, for a message.
fn shown(name: &[u8]) -> String {
    name[..name.len().min(32)].escape_ascii().to_string()
}

/// The fields of a protobuf message, borrowed from it (protobuf.dev/programming-guides/encoding). A generated decoder would copy
/// every picture into a new buffer first.
struct Protobuf<'a> {
    schema: &'static str,
    rest: &'a [u8],
}

/// A field of one of the wire types that the schemas have.
enum Value<'a> {
    Bytes(&'a [u8]),
    Fixed32(u32),
    Other,
}

impl<'a> Protobuf<'a> {
    fn new(schema: &'static str, body: &'a [u8]) -> Self {
        Protobuf { schema, rest: body }
    }

    fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(usize::try_from(n).ok()?)?;
        self.rest = rest;
        Some(head)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => self.varint().map(|_| Value::Other)?,
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|b| Value::Fixed32(u32::from_le_bytes([b[0], b[1], b[2], b[3]])))?,
            _ => return None, // groups have been out of use since before these schemas were written
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Protobuf<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or_else(|| malformed(self.schema, &"the protobuf fields are cut off or malformed")))
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

/// A call of the pipeline.
pub(super) fn call(body: &[u8]) -> Result<CallBody, String> {
    json("attendant.Call", body)
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
