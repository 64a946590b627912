//! What a pipeline was asked to do, call by call: enough to ask another one the same.
//!
//! The pipeline has no clock and no thread, so its events follow from its calls alone. A [`Tape`] that notes them can be played back, on
//! another machine and at another speed, to the same events.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::time::Micros;

use super::{Command, Embedding, Event, Sample};

/// One call of the pipeline. What a call leads to inside is not noted again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Call<'a> {
    /// The stream begins.
    Start,
    /// The stream ends.
    End,
    /// A look at the ages that led to a step; looks that come too early are not noted.
    Tick,
    /// A sample of a source, as the pipeline got it.
    Sample {
        /// The source.
        source: &'a str,
        /// What it delivered.
        sample: &'a Sample,
    },
    /// What the encoders made of a sample, for a tape that keeps no samples ([`Detail::Tokens`]).
    Tokens {
        /// The source.
        source: &'a str,
        /// In the order in which they were made; none from a sample that completed no window.
        answers: &'a [Answer],
    },
    /// A source is marked as failed by the supervisor.
    Fail {
        /// The source.
        source: &'a str,
        /// Why.
        reason: &'a Arc<str>,
    },
    /// One of `divisor` windows of a kind is encoded from here on.
    Slow {
        /// `image`, `audio` or `series`.
        kind: &'a str,
        /// 1 is full speed.
        divisor: u32,
    },
    /// Something for the event stream that changes no state.
    Notice {
        /// The source.
        source: &'a str,
        /// One word.
        notice: &'a str,
        /// For people.
        reason: &'a Arc<str>,
    },
    /// A command from outside, also one that was refused.
    Command(&'a Command),
    /// The device itself talks, or has stopped.
    Hush {
        /// Whether it talks.
        on: bool,
    },
}

/// What one encoder made of one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Windows of one round are fused together; a sample may complete several windows, one round each.
    pub round: u32,
    /// Name of the encoder.
    pub encoder: Arc<str>,
    /// The token, or why there is none.
    #[serde(flatten)]
    pub made: Made,
}

/// See [`Answer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// What the fusion works with.
    Token(Embedding),
    /// The sample or the model could not be used.
    Error(Arc<str>),
}

/// How much of a sample a tape keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// The sample itself: pictures, sound, text.
    #[default]
    Samples,
    /// What the encoders made of it, and nothing that could be looked at, listened to or read.
    Tokens,
}

/// Notes the calls of a pipeline on the thread that makes them: it must neither wait nor take long.
pub trait Tape: Send {
    /// Notes `call`, made at `now`, and the `events` that followed from it.
    fn note(&mut self, now: Micros, call: &Call<'_>, events: &[Event]);

    /// Which of [`Call::Sample`] and [`Call::Tokens`] it wants.
    fn detail(&self) -> Detail {
        Detail::Samples
    }
}
