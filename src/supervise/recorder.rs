//! Records a run: the tape is on the inference thread and never waits, a thread of its own writes.
//!
//! A call with its sample and its events is one item of a queue with a bound in items and bytes. When the disk is slower than the run, or
//! full, calls are left out, counted, and the recording says where; the run goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use log::{info, warn};

use crate::capture::recording::encode::{self, CallBody, CallKind};
use crate::capture::recording::part::{self, GroupRef};
use crate::capture::recording::ring::{Ring, RingCounts, RingSpec};
use crate::capture::recording::schema::Schema;
use crate::capture::recording::writer::{Message, RecordingWriter, WriteError};
use crate::queue::{Bounded, Pushed, Taken, Wake, WhenFull};
use crate::signal::{
    Call, Decision, DecisionState, Detail, Event, EventKind, Notice, Notices, RecorderCounts, Sample, Tape,
};
use crate::time::{Clock, Micros};

use super::retention::{Removed, remove_old};

/// Calls that wait to be written; a second or two of a busy run.
const CALLS_MAX: usize = 256;

/// Bytes that wait to be written: four raw pictures of 1080 lines.
const WAITING_BYTES_MAX: u64 = 32 << 20;

/// A power cut loses no more than this much.
const SAVE_EVERY: Micros = Micros::from_ms(1000);

/// How often old recordings are looked for.
const TIDY_EVERY: Micros = Micros::from_ms(60_000);

/// Bytes of messages after which a recording ends, unless told otherwise.
pub const BYTES_MAX: u64 = 4 << 30;

/// A disk that takes nothing for so long is as good as full.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// From one look at the bytes that wait to the next.
const NAP: Duration = Duration::from_micros(200);

/// A buffer that has grown beyond this is let go: as many as the queue has places would otherwise stay.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// A call with its sample before it and its events after it.
#[derive(Default)]
struct Packet {
    now: Micros,
    messages: Vec<Message>,
    used: usize,
    holds: Option<String>,
    /// The class, if it decided one.
    decided: Option<Arc<str>>,
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

    /// Lets go of what raw pictures have taken.
    fn shrink(&mut self) {
        let large = self.messages.iter_mut().filter(|m| m.body.capacity() > SPARE_BYTES_MAX);
        large.for_each(|m| m.body = Vec::new());
    }

    fn group(&self) -> GroupRef<'_> {
        GroupRef { now: self.now, holds: self.holds.as_deref(), messages: &self.messages[..self.used] }
    }

    fn bytes(&self) -> u64 {
        self.messages[..self.used].iter().map(|m| m.body.len() as u64).sum()
    }
}

/// What the tape and the writing thread share.
struct Shared {
    queue: Bounded<Packet>,
    waiting_bytes: AtomicU64,
    counts: Arc<RecorderCounts>,
    error: Mutex<Option<String>>,
}

/// What is to be recorded, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSpec {
    /// The file; of a ring the folder.
    pub path: PathBuf,
    /// Media, or only what the encoders make of them.
    pub detail: Detail,
    /// How much.
    pub keep: Keep,
    /// Age at which the recordings of its directory are removed.
    pub age_max: Option<Duration>,
    /// The run waits for the disk, up to [`PATIENCE`] a call: for files that are played at full speed, which nothing else waits for.
    pub waits: bool,
}

impl RecordSpec {
    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        let parent = || self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if matches!(self.keep, Keep::Ring(_)) { &self.path } else { parent() }
    }
}

/// How much of a run is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All of it, up to so many bytes of messages.
    Whole {
        /// The recording ends there, and the run goes on.
        bytes_max: u64,
    },
    /// What led to decisions.
    Ring(RingSpec),
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

/// What the writing thread writes to.
enum Output {
    Whole { writer: RecordingWriter, bytes_max: u64 },
    Ring(Ring),
}

impl Output {
    fn open(spec: &RecordSpec, about: &BTreeMap<String, String>) -> Result<Self, WriteError> {
        Ok(match spec.keep {
            Keep::Whole { bytes_max } => {
                Output::Whole { writer: RecordingWriter::create(&spec.path, about)?, bytes_max }
            }
            Keep::Ring(ring) => Output::Ring(Ring::open(&spec.path, about, ring)?),
        })
    }

    /// Whether there is room for more.
    fn write(&mut self, packet: &Packet, counts: &RecorderCounts) -> Result<bool, String> {
        match self {
            Output::Whole { writer, bytes_max } => {
                if writer.written_bytes() + packet.bytes() > *bytes_max {
                    return Ok(false);
                }
                packet.group().messages.iter().try_for_each(|m| writer.write(m)).map_err(|e| e.to_string())?;
            }
            Output::Ring(ring) => {
                let kept = ring.take(packet.group(), packet.decided.as_deref()).map_err(|e| e.to_string())?;
                if let Some(path) = kept {
                    info!("recording: kept {}", path.display());
                }
                let RingCounts { kept, removed } = ring.counts();
                counts.kept.store(kept, Ordering::Relaxed);
                counts.removed.store(removed, Ordering::Relaxed);
            }
        }
        counts.bytes.fetch_add(packet.bytes(), Ordering::Relaxed);
        Ok(true)
    }

    fn save(&mut self) -> Result<(), String> {
        match self {
            Output::Whole { writer, .. } => writer.save(),
            Output::Ring(ring) => ring.save(),
        }
        .map_err(|e| e.to_string())
    }

    fn finish(self) -> Result<(), String> {
        match self {
            Output::Whole { writer, .. } => writer.finish(),
            Output::Ring(ring) => ring.finish().map(|_| ()),
        }
        .map_err(|e| e.to_string())
    }
}

struct Tapist {
    shared: Arc<Shared>,
    detail: Detail,
    notices: Arc<Notices>,
    packet: Packet,
    /// Calls left out since the last one that was taken.
    lost: u64,
    /// How long one call waits for the disk.
    patience: Duration,
}

impl Tapist {
    /// Bytes that wait to be written, once there is room for `bytes` more or patience is at its end.
    fn waiting(&self, bytes: u64) -> u64 {
        let naps = self.patience.as_micros() / NAP.as_micros();
        for _ in 0..naps {
            let waiting = self.shared.waiting_bytes.load(Ordering::Relaxed);
            if waiting == 0 || waiting + bytes <= WAITING_BYTES_MAX {
                return waiting;
            }
            thread::sleep(NAP);
        }
        self.shared.waiting_bytes.load(Ordering::Relaxed)
    }
}

impl Recorder {
    /// Creates what `spec` asks for, with `about` in front, and starts the thread that writes. What goes wrong is told through `notices`.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn start(
        spec: &RecordSpec,
        about: &BTreeMap<String, String>,
        clock: Arc<dyn Clock>,
        notices: Arc<Notices>,
    ) -> Result<(Recorder, Box<dyn Tape>), WriteError> {
        let output = Output::open(spec, about)?;
        let path = &spec.path;
        let patience = if spec.waits { PATIENCE } else { Duration::ZERO };
        let when_full = WhenFull::WaitThenDrop(patience);
        let shared = Arc::new(Shared {
            queue: Bounded::new(CALLS_MAX, when_full, &Wake::new()),
            waiting_bytes: AtomicU64::new(0),
            counts: Arc::default(),
            error: Mutex::default(),
        });
        let (mine, told) = (Arc::clone(&shared), Arc::clone(&notices));
        let (dir, age_max) = (spec.dir().to_owned(), spec.age_max);
        let thread = thread::Builder::new().name("recorder".into()).spawn(move || {
            let tidy = || {
                if let Some(age_max) = age_max {
                    report(&told, remove_old(&dir, age_max));
                }
            };
            if let Err(message) = write(output, &mine, &*clock, tidy) {
                mine.counts.failed.store(1, Ordering::Relaxed);
                say(&told, "failed", &message);
                *lock(&mine.error) = Some(message);
            }
            mine.queue.close();
        });
        let thread = thread.map_err(|source| WriteError { path: path.to_owned(), source })?;
        let detail = spec.detail;
        let tape =
            Tapist { shared: Arc::clone(&shared), detail, notices, packet: Packet::default(), lost: 0, patience };
        Ok((Recorder { shared, thread: Some(thread), path: path.to_owned() }, Box::new(tape)))
    }

    /// What it has done so far, for whoever shows it.
    #[must_use]
    pub fn counts(&self) -> Arc<RecorderCounts> {
        Arc::clone(&self.shared.counts)
    }

    /// Ends the recording: everything that waits is written, then the index.
    pub fn finish(mut self) -> Recorded {
        self.end();
        let error = lock(&self.shared.error).take();
        let lost = self.shared.counts.lost.load(Ordering::Relaxed);
        info!("recording {}: {lost} calls left out", self.path.display());
        Recorded { path: self.path.clone(), lost, error }
    }

    fn end(&mut self) {
        self.shared.queue.close();
        let Some(thread) = self.thread.take() else { return };
        if thread.join().is_err() {
            let message = "its thread panicked; what was saved before is readable";
            lock(&self.shared.error).get_or_insert(message.into());
        }
    }
}

impl Drop for Recorder {
    /// A run that ends with an error still leaves a whole recording.
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says in the event stream what was removed; the log has every file.
fn report(notices: &Notices, Removed { files, bytes, failed }: Removed) {
    let say = |notice: &str, reason: String| {
        notices.say(Notice { source: "recordings".into(), notice: notice.into(), reason: reason.into() });
    };
    if files > 0 {
        say("removed", format!("{files} recordings of {bytes} bytes, because they were too old"));
    }
    if failed > 0 {
        say("failed", format!("{failed} recordings are too old and cannot be removed"));
    }
}

/// For the log and for the event stream.
fn say(notices: &Notices, notice: &str, reason: &str) {
    warn!("recording: {notice}: {reason}");
    notices.say(Notice { source: "recording".into(), notice: notice.into(), reason: reason.into() });
}

/// The class that `event` decides, or that staff is called for.
fn decided(event: &Event) -> Option<Arc<str>> {
    match &event.kind {
        EventKind::Decision(Decision { class, state: DecisionState::Enter | DecisionState::Escalate, .. }) => {
            Some(Arc::clone(class))
        }
        _ => None,
    }
}

impl Tape for Tapist {
    fn detail(&self) -> Detail {
        self.detail
    }

    fn note(&mut self, now: Micros, call: &Call<'_>, events: &[Event]) {
        let packet = &mut self.packet;
        packet.used = 0;
        packet.now = now;
        packet.decided = events.iter().rev().find_map(decided);
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
        let body = CallBody { now_us: now, call: call.into() };
        encode::json(&mut message.body, &body);
        packet.holds = part::holds(&body.call, &packet.messages[..packet.used]);
        for event in events {
            let message = packet.next("/event", "", now);
            message.schema = Some(Schema::Event);
            encode::json(&mut message.body, event);
        }
        let bytes = packet.bytes();
        let pushed = if self.waiting(bytes) + bytes > WAITING_BYTES_MAX {
            Pushed::Dropped
        } else {
            // before the push: the other thread takes them off as soon as it is done
            self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
            let pushed = self.shared.queue.push(&mut self.packet);
            if pushed != Pushed::Queued {
                self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            pushed
        };
        if pushed == Pushed::Queued {
            self.lost = 0;
            return;
        }
        // the writing thread says itself why it takes no more
        if self.lost == 0 && pushed == Pushed::Dropped {
            say(&self.notices, "behind", "the disk is slower than the run; calls are left out, and a replay differs");
        }
        self.lost += 1;
        self.shared.counts.lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// The writing thread, until the queue is closed and empty. `tidy` is called at the start and every minute.
fn write(mut output: Output, shared: &Shared, clock: &dyn Clock, tidy: impl Fn()) -> Result<(), String> {
    let mut packet = Packet::default();
    tidy();
    let mut next_tidy = clock.now() + TIDY_EVERY;
    let mut next_save = clock.now() + SAVE_EVERY;
    loop {
        match shared.queue.pop_timeout(&mut packet, Duration::from(next_save - clock.now())) {
            Taken::Item { .. } => {
                shared.waiting_bytes.fetch_sub(packet.bytes(), Ordering::Relaxed);
                if !output.write(&packet, &shared.counts)? {
                    output.finish()?;
                    return Err(
                        "has all the bytes it may have, and ends here; the file is whole up to this point".into()
                    );
                }
                packet.shrink();
            }
            Taken::Empty => {}
            Taken::Closed => return output.finish(),
        }
        if clock.now() >= next_save {
            next_save = clock.now() + SAVE_EVERY;
            output.save()?;
            if clock.now() >= next_tidy {
                next_tidy = clock.now() + TIDY_EVERY;
                tidy();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::recording::{Recording, Survey};
    use crate::signal::Frame;
    use crate::time::MonotonicClock;

    fn whole(path: &Path, bytes_max: u64) -> RecordSpec {
        RecordSpec {
            path: path.to_owned(),
            detail: Detail::Samples,
            keep: Keep::Whole { bytes_max },
            age_max: None,
            waits: false,
        }
    }

    /// Notes what `notes` does, with room for `bytes_max`; the survey of the file, what was said, and what it came to.
    fn recorded(bytes_max: u64, notes: impl FnOnce(&mut dyn Tape)) -> (Survey, Vec<Notice>, Recorded) {
        recorded_to(|path| whole(path, bytes_max), notes)
    }

    fn recorded_to(
        spec: impl FnOnce(&Path) -> RecordSpec,
        notes: impl FnOnce(&mut dyn Tape),
    ) -> (Survey, Vec<Notice>, Recorded) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.mcap");
        let notices = Arc::<Notices>::default();
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let spec = spec(&path);
        let (recorder, mut tape) = Recorder::start(&spec, &BTreeMap::new(), clock, Arc::clone(&notices)).unwrap();
        notes(&mut *tape);
        let result = recorder.finish();
        let survey = Survey::of_recording(Recording::open(&path).unwrap()).unwrap();
        (survey, std::iter::from_fn(|| notices.take()).collect(), result)
    }

    fn frame(bytes: usize) -> Sample {
        Sample::Frame(Frame { width: 1, height: 1, stride: 1, data: vec![0; bytes], ..Frame::default() })
    }

    #[test]
    fn what_is_left_out_is_counted_said_once_and_marked_in_the_file() {
        let too_much = frame(WAITING_BYTES_MAX as usize + 1);
        let (survey, said, result) = recorded(BYTES_MAX, |tape| {
            tape.note(Micros(0), &Call::Start, &[]);
            for t in 1..=2 {
                tape.note(Micros(t), &Call::Sample { source: "camera", sample: &too_much }, &[]);
            }
            tape.note(Micros(3), &Call::End, &[]);
        });
        assert_eq!((survey.calls, survey.lost_calls, result.lost, result.error), (2, 2, 2, None));
        assert_eq!(said.iter().map(|n| &*n.notice).collect::<Vec<_>>(), ["behind"]);
    }

    #[test]
    fn a_run_that_waits_for_the_disk_leaves_nothing_out() {
        // more calls than places, and more bytes than may wait
        let (calls, sample) = (4 * CALLS_MAX as u64, frame(WAITING_BYTES_MAX as usize / 200));
        let spec = |path: &Path| RecordSpec { waits: true, ..whole(path, BYTES_MAX) };
        let (survey, said, result) = recorded_to(spec, |tape| {
            for t in 0..calls {
                tape.note(Micros(t), &Call::Sample { source: "camera", sample: &sample }, &[]);
            }
        });
        assert_eq!((survey.calls, survey.lost_calls, result.lost, said.len()), (calls, 0, 0, 0));
    }

    #[test]
    fn a_recording_that_has_its_bytes_is_whole_up_to_there() {
        let sample = frame(1000);
        let (survey, said, result) = recorded(2500, |tape| {
            for t in 0..20 {
                tape.note(Micros(t), &Call::Sample { source: "camera", sample: &sample }, &[]);
            }
        });
        assert_eq!((survey.calls, survey.lost_calls), (2, 0));
        assert!(result.error.unwrap().contains("all the bytes"));
        assert_eq!(said.iter().map(|n| &*n.notice).collect::<Vec<_>>(), ["failed"]);
    }

    #[test]
    fn old_recordings_go_when_a_new_one_begins_and_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("run.mcap"), dir.path().join("old.mcap"));
        let hour = Duration::from_secs(3600);
        std::fs::write(&old, [0; 100]).unwrap();
        let modified = old.metadata().unwrap().modified().unwrap() - 3 * hour;
        std::fs::File::options().write(true).open(&old).unwrap().set_modified(modified).unwrap();
        let (clock, notices): (Arc<dyn Clock>, _) = (Arc::new(MonotonicClock::new()), Arc::<Notices>::default());
        let spec = RecordSpec { age_max: Some(2 * hour), ..whole(&path, BYTES_MAX) };
        let (recorder, _tape) = Recorder::start(&spec, &BTreeMap::new(), clock, Arc::clone(&notices)).unwrap();
        assert_eq!(recorder.finish().error, None);
        assert!(path.exists() && !old.exists());
        let said = notices.take().unwrap();
        assert_eq!((&*said.source, &*said.notice), ("recordings", "removed"));
    }

    #[test]
    fn a_recorder_that_is_dropped_leaves_a_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.mcap");
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let spec = whole(&path, BYTES_MAX);
        let (recorder, mut tape) = Recorder::start(&spec, &BTreeMap::new(), clock, Arc::default()).unwrap();
        tape.note(Micros(0), &Call::Start, &[]);
        drop(recorder);
        assert_eq!(Survey::of_recording(Recording::open(&path).unwrap()).unwrap().calls, 1);
    }
}
