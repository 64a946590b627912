//! What a source delivers: frames, blocks of audio, utterances, readings, each with its capture timestamp.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::time::Micros;

/// Sequence number of a frame at its source; a jump means frames the source lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FrameSeq(pub u64);

/// Index of an audio sample since its source was opened, at the block's own rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampleIdx(pub u64);

/// Layout of the bytes of a [`Frame`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelFormat {
    /// A whole JPEG file (also one MJPEG frame). `stride` is 0.
    Jpeg,
    /// 4:2:2 packed, Y0 U Y1 V, BT.601 limited range.
    Yuyv,
    /// 4:2:0, a plane of Y, then a plane of interleaved U V at half size (rounded up), BT.601 limited range.
    Nv12,
    /// One byte of luminance, full range.
    #[default]
    Gray,
    /// Three bytes R G B, full range.
    Rgb,
}

/// One picture as captured. The buffer is the caller's and is reused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// Capture time.
    pub t: Micros,
    /// Position in the source's stream.
    pub seq: FrameSeq,
    /// Pixels per row. For [`PixelFormat::Jpeg`] what the source announces; the JPEG header decides.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row (of the first plane) to the next; 0 for JPEG.
    pub stride: u32,
    /// Layout of `data`.
    pub format: PixelFormat,
    /// The picture.
    pub data: Vec<u8>,
}

/// A run of mono audio samples in [-1, 1].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AudioBlock {
    /// Capture time of the first sample.
    pub t: Micros,
    /// Index of the first sample since the source was opened, gaps included.
    pub first: SampleIdx,
    /// Samples lost between the previous block and this one.
    pub gap_samples: u64,
    /// Samples per second.
    pub sample_rate_hz: u32,
    /// The samples.
    pub data: Vec<f32>,
}

/// A piece of text, typed or received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Utterance {
    /// When it was complete.
    pub t: Micros,
    /// As entered; cleaning and normalising is preprocessing.
    pub text: String,
}

/// One value of every channel of a sensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// When it was taken.
    pub t: Micros,
    /// One value a channel, in the sensor's own unit; NaN for a channel that could not be read.
    pub values: Vec<f32>,
}

/// Anything a source delivers.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// From a camera.
    Frame(Frame),
    /// From a microphone.
    Audio(AudioBlock),
    /// From a keyboard, a page, a message.
    Text(Utterance),
    /// From a sensor.
    Reading(Reading),
    /// A source says that it has failed (device gone, covered by a fault script): its tokens are `failed` until it delivers again.
    Fault {
        /// When.
        t: Micros,
        /// What happened, for the event and the log.
        reason: Arc<str>,
    },
}

impl Default for Sample {
    /// An empty text: the smallest buffer to start from.
    fn default() -> Self {
        Sample::Text(Utterance::default())
    }
}

impl Sample {
    /// Capture time (of the first sample, for audio).
    #[must_use]
    pub fn t(&self) -> Micros {
        match self {
            Sample::Frame(f) => f.t,
            Sample::Audio(a) => a.t,
            Sample::Text(u) => u.t,
            Sample::Reading(r) => r.t,
            Sample::Fault { t, .. } => *t,
        }
    }
}
