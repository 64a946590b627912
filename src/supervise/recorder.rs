//! Records a run: the tape is on the inference thread and never waits, a thread of its own writes.
//!
//! A call with its sample and its events is one item of a queue with a bound in items and bytes. When the disk is slower than the run, or
//! full, calls are left out, counted, and the recording says where; the run goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use log::{info, warn};

use crate::capture::recording::encode::{self, CallBody, CallKind, Schema};
use crate::capture::recording::writer::{Message, RecordingWriter, WriteError};
use crate::queue::{Bounded, Pushed, Taken, Wake, WhenFull};
use crate::signal::{Call, Event, Notice, Notices, Sample, Tape};
use crate::time::{Clock, Micros};

/// Calls that wait to be written; a second or two of a busy run.
const CALLS_MAX: usize = 256;

/// Bytes that wait to be written: four raw pictures of 1080 lines.
const WAITING_BYTES_MAX: u64 = 32 << 20;

/// A power cut loses no more than this much.
const SAVE_EVERY: Micros = Micros::from_ms(1000);

/// Bytes of messages after which a recording ends, unless told otherwise.
pub const BYTES_MAX: u64 = 4 << 30;

/// A call with its sample before it and its events after it.
#[derive(Default)]
struct Packet {
    messages: Vec<Message>,
    used: usize,
}

impl Packet {
    /// The next message's buffer, emptied.
    fn next(&mut self, topic: &str, prefix: &str, t: Micros) -> &mut Message {
        if self.used == self.messages.len() {
            self.messages.push(Message::default());
        }
        let message = &mut self.messages[self.used];
        self.used += 1;
        message.topic.clear();
        message.topic.push_str(prefix);
        message.topic.push_str(topic);
        message.schema = None;
        message.log_time_ns = t.0 * 1000;
        message.body.clear();
        message
    }

    fn bytes(&self) -> u64 {
        self.messages[..self.used].iter().map(|m| m.body.len() as u64).sum()
    }
}

/// What the tape and the writing thread share.
struct Shared {
    queue: Bounded<Packet>,
    waiting_bytes: AtomicU64,
    lost: AtomicU64,
    error: Mutex<Option<String>>,
}

/// A recording in the making.
pub struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

/// What a recording came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The file.
    pub path: PathBuf,
    /// Calls that were left out.
    pub lost: u64,
    /// Why the file is not whole, if it is not.
    pub error: Option<String>,
}

struct Tapist {
    shared: Arc<Shared>,
    packet: Packet,
    /// Calls left out since the last one that was taken.
    lost: u64,
}

impl Recorder {
    /// Creates the file at `path` with `about` in front, and starts the thread that writes it, up to `bytes_max`. What goes wrong is told
    /// through `notices`.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn start(
        path: &Path,
        about: &BTreeMap<String, String>,
        bytes_max: u64,
        clock: Arc<dyn Clock>,
        notices: Arc<Notices>,
    ) -> Result<(Recorder, Box<dyn Tape>), WriteError> {
        let writer = RecordingWriter::create(path, about)?;
        let when_full = WhenFull::WaitThenDrop(Duration::ZERO);
        let shared = Arc::new(Shared {
            queue: Bounded::new(CALLS_MAX, when_full, &Wake::new()),
            waiting_bytes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            error: Mutex::default(),
        });
        let mine = Arc::clone(&shared);
        let thread = thread::Builder::new().name("recorder".into()).spawn(move || {
            if let Err(message) = write(writer, &mine, bytes_max, &*clock) {
                warn!("recording: {message}");
                let source: Arc<str> = "recording".into();
                notices.say(Notice { source, notice: "failed".into(), reason: message.as_str().into() });
                *mine.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
            }
            mine.queue.close();
        });
        let thread = thread.map_err(|source| WriteError { path: path.to_owned(), source })?;
        let tape = Tapist { shared: Arc::clone(&shared), packet: Packet::default(), lost: 0 };
        Ok((Recorder { shared, thread: Some(thread), path: path.to_owned() }, Box::new(tape)))
    }

    /// Ends the recording: everything that waits is written, then the index.
    pub fn finish(mut self) -> Recorded {
        self.shared.queue.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("recording: its thread panicked");
        }
        let error = self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let lost = self.shared.lost.load(Ordering::Relaxed);
        info!("recording {}: {lost} calls left out", self.path.display());
        Recorded { path: self.path.clone(), lost, error }
    }
}

impl Tape for Tapist {
    fn note(&mut self, now: Micros, call: &Call<'_>, events: &[Event]) {
        let packet = &mut self.packet;
        packet.used = 0;
        if self.lost > 0 {
            let message = packet.next("/call", "", now);
            message.schema = Some(Schema::Call);
            encode::json(&mut message.body, &CallBody { now_us: now, call: CallKind::Lost { calls: self.lost } });
        }
        if let Call::Sample { source, sample } = *call {
            let (topic, prefix) = match sample {
                Sample::Fault { .. } => ("fault", "/"),
                Sample::Reading(_) => (source, "/sensor/"),
                Sample::Frame(_) | Sample::Audio(_) | Sample::Text(_) => (source, "/"),
            };
            let message = packet.next(topic, prefix, sample.t());
            message.schema = Some(encode::sample(source, sample, &mut message.body));
        }
        let message = packet.next("/call", "", now);
        message.schema = Some(Schema::Call);
        encode::json(&mut message.body, &CallBody { now_us: now, call: call.into() });
        for event in events {
            let message = packet.next("/event", "", now);
            message.schema = Some(Schema::Event);
            encode::json(&mut message.body, event);
        }
        let bytes = packet.bytes();
        let waiting = self.shared.waiting_bytes.load(Ordering::Relaxed);
        let is_taken = waiting + bytes <= WAITING_BYTES_MAX && {
            self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
            let pushed = self.shared.queue.push(packet);
            if pushed != Pushed::Queued {
                self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            pushed == Pushed::Queued
        };
        if is_taken {
            self.lost = 0;
        } else {
            self.lost += 1;
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The writing thread, until the queue is closed and empty.
fn write(mut writer: RecordingWriter, shared: &Shared, bytes_max: u64, clock: &dyn Clock) -> Result<(), String> {
    let mut packet = Packet::default();
    let mut next_save = clock.now() + SAVE_EVERY;
    loop {
        match shared.queue.pop_timeout(&mut packet, Duration::from(SAVE_EVERY)) {
            Taken::Item { .. } => {
                shared.waiting_bytes.fetch_sub(packet.bytes(), Ordering::Relaxed);
                if writer.written_bytes() + packet.bytes() > bytes_max {
                    writer.finish().map_err(|e| e.to_string())?;
                    return Err(format!(
                        "has its {bytes_max} bytes, and ends here; the file is whole up to this point"
                    ));
                }
                for message in &packet.messages[..packet.used] {
                    writer.write(message).map_err(|e| e.to_string())?;
                }
            }
            Taken::Empty => {}
            Taken::Closed => return writer.finish().map_err(|e| e.to_string()),
        }
        if clock.now() >= next_save {
            next_save = clock.now() + SAVE_EVERY;
            writer.save().map_err(|e| e.to_string())?;
        }
    }
}
