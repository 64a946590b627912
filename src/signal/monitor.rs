//! What observers of a run may look at: a snapshot that the inference loop renews, the bundle that runs, and latencies that the loop records
//! as it goes.
//!
//! Written by the inference loop, read by whoever shows or exports it. The loop never waits: a snapshot that is being read is
//! renewed at the next turn. Buffers keep their size, so that renewing allocates nothing after the first time. Nothing is
//! decided from what stands here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};

use crate::metrics::Histogram;
use crate::time::Micros;

use super::{MAX_MODALITIES, ModalityView, StageCounters};

/// Shortest time between two snapshots.
pub const SNAPSHOT_EVERY: Micros = Micros::from_ms(250);

/// How long each stage took, over everything since the start.
#[derive(Debug, Default)]
pub struct Latencies {
    /// A sample to a tensor.
    pub preprocess: Histogram,
    /// A tensor to a token.
    pub encode: Histogram,
    /// Tokens to probabilities, weights and contributions.
    pub fuse: Histogram,
    /// Probabilities to verdicts.
    pub decide: Histogram,
    /// A sample to its last event, of samples that gave a token.
    pub step: Histogram,
}

impl Latencies {
    /// Name and histogram of every stage, in the order of the data.
    #[must_use]
    pub fn by_stage(&self) -> [(&'static str, &Histogram); 5] {
        [
            ("preprocess", &self.preprocess),
            ("encode", &self.encode),
            ("fuse", &self.fuse),
            ("decide", &self.decide),
            ("step", &self.step),
        ]
    }
}

/// One source as an observer sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceView {
    /// Its name.
    pub name: Arc<str>,
    /// Whether a camera, a microphone or another device is open at this moment. Never true of a file.
    pub open: bool,
    /// Samples dropped because the pipeline was behind.
    pub dropped: u64,
    /// Times it was opened again after an error.
    pub reopened: u64,
    /// Panics of its thread.
    pub panics: u64,
}

/// A run at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Time of the samples, as in events.
    pub t: Micros,
    /// Tag of the advice's language; none without a catalogue.
    pub lang: Option<Arc<str>>,
    /// Fused probability of every class.
    pub fused: Vec<f32>,
    /// Every modality, with its part in the newest fused result.
    pub modalities: heapless::Vec<ModalityView, MAX_MODALITIES>,
    /// Counters of every modality.
    pub counters: heapless::Vec<StageCounters, MAX_MODALITIES>,
    /// Smoothed probability at which a class is entered.
    pub enter: f32,
    /// Smoothed probability below which it is left.
    pub exit: f32,
    /// Whether nothing but typing works, so that any class may be chosen.
    pub is_fallback: bool,
    /// Newest column of log-mel features of the first encoder that has any; empty before the first window.
    pub mel: Vec<f32>,
    /// Runs of the fusion that failed.
    pub fusion_errors: u64,
    /// Visits that have started.
    pub visits: u64,
    /// Whether one is under way.
    pub visit: bool,
    /// Sources that somebody has muted.
    pub muted: heapless::Vec<Arc<str>, MAX_MODALITIES>,
    /// Every source that has a thread; empty when files are played.
    pub sources: Vec<SourceView>,
    /// Temperature of the board, if it has a thermometer.
    pub celsius: Option<f32>,
}

/// The texts of a bundle, for a page that has to show any of them.
pub trait Listing: std::fmt::Debug + Send + Sync {
    /// Every text by its id and language, as `GET /api/catalogue` answers.
    fn listing(&self) -> serde_json::Value;
}

/// What the bundle that runs says of itself. A run may go on with another one; what is not told here stays the same then.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// `name@version`.
    pub bundle: Arc<str>,
    /// Its advice catalogue, if it has one.
    pub texts: Option<Arc<dyn Listing>>,
}

/// What a recorder has done, for whoever shows it.
#[derive(Debug, Default)]
pub struct RecorderCounts {
    /// Bytes of messages that were written.
    pub bytes: AtomicU64,
    /// Calls left out, because the disk was behind.
    pub lost: AtomicU64,
    /// Recordings of a ring that were kept.
    pub kept: AtomicU64,
    /// Of those, removed to make room for newer ones.
    pub removed: AtomicU64,
    /// 1 once it has given up: the disk is full, or the recording has its bytes.
    pub failed: AtomicU64,
}

/// Between the inference loop and its observers.
#[derive(Debug)]
pub struct Monitor {
    snapshot: Mutex<Snapshot>,
    about: Mutex<About>,
    /// When the loop last came round, in microseconds of its clock; `u64::MAX` before the first time and after the last.
    beat_us: AtomicU64,
    /// How long each stage took.
    pub latencies: Latencies,
    recorder: OnceLock<Arc<RecorderCounts>>,
}

impl Default for Monitor {
    fn default() -> Self {
        Monitor {
            snapshot: Mutex::default(),
            about: Mutex::default(),
            beat_us: AtomicU64::new(u64::MAX),
            latencies: Latencies::default(),
            recorder: OnceLock::new(),
        }
    }
}

impl Monitor {
    /// Nothing has run yet.
    #[must_use]
    pub fn new() -> Self {
        Monitor::default()
    }

    /// The loop has come round at `now`.
    pub fn beat(&self, now: Micros) {
        self.beat_us.store(now.0, Ordering::Relaxed);
    }

    /// The run is recorded; `counts` say how that goes.
    pub fn show_recorder(&self, counts: Arc<RecorderCounts>) {
        // a run has one recorder
        _ = self.recorder.set(counts);
    }

    /// What the recorder has done, if the run is recorded.
    #[must_use]
    pub fn recorder(&self) -> Option<&RecorderCounts> {
        self.recorder.get().map(|counts| &**counts)
    }

    /// Says which bundle runs, unless somebody reads it at this moment. Whether it did.
    pub fn tell(&self, about: About) -> bool {
        let was_free = self.about.try_lock();
        was_free.map(|mut told| *told = about).is_ok()
    }

    /// Which bundle runs. For the observers' threads.
    #[must_use]
    pub fn about(&self) -> About {
        self.about.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The loop has ended.
    pub fn end(&self) {
        self.beat_us.store(u64::MAX, Ordering::Relaxed);
    }

    /// When the loop last came round; none if it does not run.
    #[must_use]
    pub fn last_beat(&self) -> Option<Micros> {
        let us = self.beat_us.load(Ordering::Relaxed);
        (us != u64::MAX).then_some(Micros(us))
    }

    /// Renews the snapshot, unless somebody reads it at this moment. Whether it did.
    pub fn renew(&self, fill: impl FnOnce(&mut Snapshot)) -> bool {
        let mut snapshot = match self.snapshot.try_lock() {
            Ok(snapshot) => snapshot,
            // a reader that panicked has changed nothing
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        fill(&mut snapshot);
        true
    }

    /// Reads the snapshot. For the observers' threads: it may wait for a copy of a few hundred bytes.
    pub fn read<T>(&self, look: impl FnOnce(&Snapshot) -> T) -> T {
        look(&self.snapshot.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_does_not_wait_for_a_reader() {
        let monitor = Monitor::new();
        assert!(monitor.renew(|s| s.enter = 0.7));
        monitor.read(|s| {
            assert_eq!(s.enter, 0.7);
            assert!(!monitor.renew(|s| s.enter = 0.9), "while it is read");
        });
        assert!(monitor.renew(|s| s.enter = 0.8));
        assert_eq!(monitor.read(Snapshot::clone).enter, 0.8);
    }

    #[test]
    fn a_loop_that_does_not_run_has_no_beat() {
        let monitor = Monitor::new();
        assert_eq!(monitor.last_beat(), None);
        monitor.beat(Micros(7));
        assert_eq!(monitor.last_beat(), Some(Micros(7)));
        monitor.end();
        assert_eq!(monitor.last_beat(), None);
    }
}
