//! Threads, pacing, restart: what moves samples from sources through the pipeline to sinks.
//!
//! [`play`] drives recordings and files: one thread, samples in the order of their times, at their own speed or as fast as
//! they can be processed, with the same events either way. [`live`] drives sources that block: a thread each, reopened
//! with backoff, restarted after a panic; inference stays on the caller's thread. Both attend to the outside ([`Outside`]): commands and
//! observers. `network` is the thread of sinks that talk to one. Nothing is computed here.
//! [`recorder`] writes down what a pipeline was asked, and [`replay`] asks it again. [`update`] brings new bundles into a live run.
//! [`sandbox`] confines the process.

pub mod budget;
mod feed;
mod live;
#[cfg(any(feature = "web", feature = "mqtt"))]
pub mod network;
pub mod notify;
mod outside;
mod play;
pub mod recorder;
pub mod replay;
pub mod retention;
pub mod sandbox;
mod spoilt;
pub mod update;

use log::warn;

use crate::emit::{Sink, SinkError, SinkErrorKind};
use crate::metrics::LatencySummary;
use crate::signal::{Event, EventKind, Sample};
use crate::time::Micros;

pub use feed::{Feed, FileFeed};
pub use live::{LiveSource, Opener, Upkeep, live};
pub use outside::Outside;
pub use play::{Pacing, PlayError, play};
pub use spoilt::Spoilt;

/// What a run came to.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Outcome {
    /// Samples taken from the sources.
    pub samples: u64,
    /// Events emitted.
    pub events: u64,
    /// Events of kind decision.
    pub decisions: u64,
    /// Events that a sink could not take, a full disk for one.
    pub lost_events: u64,
    /// Time of the last sample.
    pub duration: Micros,
    /// When the first decision was handed to the sinks, on the clock: from the start of the process if that is where its zero is.
    pub first_decision: Option<Micros>,
    /// From a sample being available to the last event that follows from it being emitted; samples without an event count
    /// with the end of their processing.
    pub sample_latency: LatencySummary,
    /// The same, over samples that led to a decision.
    pub decision_latency: LatencySummary,
    /// What the threads of live sources had to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<SourceRestarts>,
    /// Sources that ended for good with an error, and which one.
    pub failed_sources: Vec<String>,
}

/// Restarts of one live source.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct SourceRestarts {
    /// Its name.
    pub source: String,
    /// Times it was opened again after an error.
    pub reopened: u64,
    /// Panics of its thread that were caught.
    pub panics: u64,
    /// Samples dropped because the pipeline was behind.
    pub dropped: u64,
}

/// Hands `events` to every sink. An event that a sink has no room for is counted and the run goes on: room may come back.
///
/// # Errors
/// A sink whose reader has gone, after the others had their turn.
fn emit_all(events: &[Event], sinks: &mut [Box<dyn Sink + '_>], outcome: &mut Outcome) -> Result<(), SinkError> {
    let mut result = Ok(());
    for event in events {
        for sink in &mut *sinks {
            result = result.and(tolerate(sink.emit(event), outcome));
        }
    }
    result
}

fn flush_all(sinks: &mut [Box<dyn Sink + '_>], outcome: &mut Outcome) -> Result<(), SinkError> {
    sinks.iter_mut().try_for_each(|sink| tolerate(sink.flush(), outcome))
}

fn tolerate(result: Result<(), SinkError>, outcome: &mut Outcome) -> Result<(), SinkError> {
    match result {
        Err(error) if error.kind() != SinkErrorKind::Exit => {
            // once: a full disk would fill the log too
            if outcome.lost_events == 0 {
                warn!("{error}");
            }
            outcome.lost_events += 1;
            Ok(())
        }
        other => other,
    }
}

fn is_decision(event: &Event) -> bool {
    matches!(event.kind, EventKind::Decision(_))
}

/// When a sample is complete: a block of sound ends later than it begins.
fn available_at(sample: &Sample) -> Micros {
    match sample {
        Sample::Audio(block) if block.sample_rate_hz > 0 => {
            block.t + Micros(block.data.len() as u64 * 1_000_000 / u64::from(block.sample_rate_hz))
        }
        other => other.t(),
    }
}
