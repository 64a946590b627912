//! What the channels of a recording hold: names, encodings and descriptions, for reader and writer alike.
//!
//! Protobuf schemas are described by `FileDescriptorSet`s (protobuf's descriptor.proto), as MCAP asks of their channels.

use super::encode::{bytes, varint_field};

/// What a channel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// `foxglove.CompressedImage`.
    CompressedImage,
    /// `foxglove.RawImage`.
    RawImage,
    /// `foxglove.RawAudio`.
    RawAudio,
    /// `attendant.Text`.
    Text,
    /// `attendant.Reading`.
    Reading,
    /// `attendant.Fault`.
    Fault,
    /// `attendant.Call`: what the pipeline was asked.
    Call,
    /// `attendant.Event`: what it answered.
    Event,
    /// `attendant.Truth`: what is shown.
    Truth,
}

impl Schema {
    const ALL: [Schema; 9] = [
        Schema::CompressedImage,
        Schema::RawImage,
        Schema::RawAudio,
        Schema::Text,
        Schema::Reading,
        Schema::Fault,
        Schema::Call,
        Schema::Event,
        Schema::Truth,
    ];

    /// The schema of this name; none for someone else's.
    #[must_use]
    pub fn of(name: &str) -> Option<Schema> {
        Schema::ALL.into_iter().find(|schema| schema.name() == name)
    }

    /// The only encoding that its messages come in.
    #[must_use]
    pub fn encoding(self) -> &'static str {
        match self {
            Schema::CompressedImage | Schema::RawImage | Schema::RawAudio => "protobuf",
            Schema::Text | Schema::Reading | Schema::Fault | Schema::Call | Schema::Event | Schema::Truth => "json",
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Schema::CompressedImage => "foxglove.CompressedImage",
            Schema::RawImage => "foxglove.RawImage",
            Schema::RawAudio => "foxglove.RawAudio",
            Schema::Text => "attendant.Text",
            Schema::Reading => "attendant.Reading",
            Schema::Fault => "attendant.Fault",
            Schema::Call => "attendant.Call",
            Schema::Event => "attendant.Event",
            Schema::Truth => "attendant.Truth",
        }
    }

    /// The language of its description, and the description.
    #[must_use]
    pub fn described(self) -> (&'static str, Vec<u8>) {
        let fields: &[Field] = match self {
            Schema::CompressedImage => &[TIMESTAMP, ("data", 2, BYTES), ("format", 3, STRING), ("frame_id", 4, STRING)],
            Schema::RawImage => &[
                TIMESTAMP,
                ("width", 2, FIXED32),
                ("height", 3, FIXED32),
                ("encoding", 4, STRING),
                ("step", 5, FIXED32),
                ("data", 6, BYTES),
                ("frame_id", 7, STRING),
            ],
            Schema::RawAudio => &[
                TIMESTAMP,
                ("data", 2, BYTES),
                ("format", 3, STRING),
                ("sample_rate", 4, FIXED32),
                ("number_of_channels", 5, FIXED32),
            ],
            other => {
                let text = format!(r#"{{"title":"{}","type":"object"}}"#, other.name());
                return ("jsonschema", text.into_bytes());
            }
        };
        ("protobuf", descriptor(self.name().trim_start_matches("foxglove."), fields))
    }
}

/// Name, number and type (of descriptor.proto's `FieldDescriptorProto`) of a field.
type Field = (&'static str, u64, u64);
const FIXED32: u64 = 7;
const STRING: u64 = 9;
const MESSAGE: u64 = 11;
const BYTES: u64 = 12;
const TIMESTAMP: Field = ("timestamp", 1, MESSAGE);

/// A `FileDescriptorSet` of google/protobuf/timestamp.proto and of one message of the package foxglove that imports it.
fn descriptor(message: &str, fields: &[Field]) -> Vec<u8> {
    let field = |out: &mut Vec<u8>, (name, number, kind): Field| {
        let mut body = Vec::new();
        bytes(&mut body, 1, name.as_bytes());
        varint_field(&mut body, 3, number);
        varint_field(&mut body, 4, 1); // optional
        varint_field(&mut body, 5, kind);
        if kind == MESSAGE {
            bytes(&mut body, 6, b".google.protobuf.Timestamp");
        }
        bytes(out, 2, &body);
    };
    let file = |name: &str, package: &str, import: Option<&str>, message: &str, fields: &[Field]| {
        let mut body = Vec::new();
        bytes(&mut body, 1, message.as_bytes());
        fields.iter().for_each(|f| field(&mut body, *f));
        let mut file = Vec::new();
        bytes(&mut file, 1, name.as_bytes());
        bytes(&mut file, 2, package.as_bytes());
        if let Some(import) = import {
            bytes(&mut file, 3, import.as_bytes());
        }
        bytes(&mut file, 4, &body);
        bytes(&mut file, 12, b"proto3");
        file
    };
    const INT64: u64 = 3;
    const INT32: u64 = 5;
    let stamp = "google/protobuf/timestamp.proto";
    let mut set = Vec::new();
    let parts = [("seconds", 1, INT64), ("nanos", 2, INT32)];
    bytes(&mut set, 1, &file(stamp, "google.protobuf", None, "Timestamp", &parts));
    bytes(&mut set, 1, &file(&format!("foxglove/{message}.proto"), "foxglove", Some(stamp), message, fields));
    set
}
