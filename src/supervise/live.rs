//! A thread for every source that blocks, inference on the caller's thread.
//!
//! A source that fails is reported as a fault of its modality, reopened with backoff, and restarted if its thread's code
//! panics; the others carry on. The run ends when every source has ended or failed for good, or when `stop` is set.
//!
//! The inference loop also looks after the machine: it tells the service manager that it lives, as long as it ticks and no
//! device's thread hangs in its driver, and lowers rates when the board gets too hot or too busy.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use log::{Level, info, log, warn};

use crate::board::{BOARD, Budget};
use crate::capture::{Camera, CaptureError, Condition, ErrorKind, Mic, Sensor, TextSource};
use crate::emit::{Sink, SinkError};
use crate::metrics::Histogram;
use crate::pipeline::{Pipeline, TICK};
use crate::queue::{Bounded, Latest, Taken, Wake, WhenFull};
use crate::signal::{AudioBlock, Event, Frame, Reading, Sample, Snapshot, SourceView, Utterance};
use crate::time::{Clock, Micros};

use super::budget::{Governor, LOOK, Measured};
use super::notify::{Heart, Manager, Nobody};
use super::{Outcome, Outside, SourceRestarts, available_at, emit_all, flush_all, is_decision, tolerate};

/// First wait before a source is opened again; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Micros = Micros::from_ms(250);

/// Longest wait before a source is opened again: a device that comes back delivers within 3 s, its own start included.
const BACKOFF_MAX: Micros = Micros::from_ms(1500);

/// Timeouts in a row after which a source counts as stalled and is reopened.
const RETRIES_MAX: u32 = 8;

/// How long threads have to finish when the run is over.
const FAREWELL: Micros = Micros::from_ms(1500);

/// A device's thread that has not come back from its driver for this long hangs; drivers wait in slices of a fraction of it.
const HANGS_AFTER: Micros = Micros::from_ms(10_000);

/// Conditions that wait for the inference loop; more are dropped, the oldest first.
const CONDITIONS_MAX: usize = 16;

/// Samples of one source handled before the others have their turn.
const BURST: usize = 16;

/// Opens a source, again and again if need be.
pub enum Opener {
    /// A camera: the newest frame wins.
    Camera(Box<dyn FnMut() -> Result<Box<dyn Camera>, CaptureError> + Send>),
    /// A microphone: the oldest block is dropped when the queue is full.
    Mic(Box<dyn FnMut() -> Result<Box<dyn Mic>, CaptureError> + Send>),
    /// Text: the writer waits.
    Text(Box<dyn FnMut() -> Result<Box<dyn TextSource>, CaptureError> + Send>),
    /// A sensor: the oldest reading is dropped when the queue is full.
    Sensor(Box<dyn FnMut() -> Result<Box<dyn Sensor>, CaptureError> + Send>),
}

/// A source for [`live`].
pub struct LiveSource {
    /// Name that the bundle's encoders refer to.
    pub name: Arc<str>,
    /// Whether the samples' times start at 0 and are to be played at their own speed (files), or are the clock's (devices).
    pub paced: bool,
    /// How to open it.
    pub opener: Opener,
}

/// What a live run looks after beside its samples.
pub struct Upkeep {
    /// Who is told that the program lives.
    pub manager: Box<dyn Manager>,
    /// The board's limits; without them nothing is slowed down.
    pub budget: Option<Budget>,
    /// Temperature of the board, if it has a thermometer.
    pub celsius: Box<dyn FnMut() -> Option<f32> + Send>,
    /// Who sends commands, and who looks.
    pub outside: Outside,
}

impl Default for Upkeep {
    /// Nobody is told, nothing is slowed down, nobody is outside.
    fn default() -> Self {
        Upkeep { manager: Box::new(Nobody), budget: None, celsius: Box::new(|| None), outside: Outside::default() }
    }
}

/// What a thread had to do, and its pulse.
#[derive(Debug, Default)]
struct Restarts {
    /// When the thread last came back from its driver, in microseconds; `u64::MAX` once it has ended.
    beat_us: AtomicU64,
    reopened: AtomicU64,
    panics: AtomicU64,
    dropped: AtomicU64,
    /// Whether the device is open.
    open: AtomicBool,
}

/// Between a source's thread and the pipeline.
enum Lane {
    Newest(Latest<Sample>),
    Queue(Bounded<Sample>),
}

impl Lane {
    fn for_opener(opener: &Opener, wake: &Wake) -> Self {
        match opener {
            Opener::Camera(_) => Lane::Newest(Latest::new(wake)),
            Opener::Mic(_) => Lane::Queue(Bounded::new(BOARD.audio.queue_len, WhenFull::DropOldest, wake)),
            Opener::Text(_) => {
                let patience = WhenFull::WaitThenDrop(Duration::from_secs(1));
                Lane::Queue(Bounded::new(BOARD.text.queue_len, patience, wake))
            }
            Opener::Sensor(_) => Lane::Queue(Bounded::new(BOARD.sensor.queue_len, WhenFull::DropOldest, wake)),
        }
    }

    /// Swaps the sample in; what a full lane does is its kind's rule, and is counted there.
    fn put(&self, sample: &mut Sample) {
        match self {
            Lane::Newest(slot) => _ = slot.put(sample),
            Lane::Queue(queue) => _ = queue.push(sample),
        }
    }

    fn take(&self, into: &mut Sample) -> Taken {
        match self {
            Lane::Newest(slot) => slot.take(into),
            Lane::Queue(queue) => queue.pop(into),
        }
    }

    fn close(&self) {
        match self {
            Lane::Newest(slot) => slot.close(),
            Lane::Queue(queue) => queue.close(),
        }
    }
}

/// A device behind one call.
enum Device {
    Camera(Box<dyn Camera>),
    Mic(Box<dyn Mic>),
    Text(Box<dyn TextSource>),
    Sensor(Box<dyn Sensor>),
}

impl Device {
    fn open(opener: &mut Opener) -> Result<Self, CaptureError> {
        Ok(match opener {
            Opener::Camera(open) => Device::Camera(open()?),
            Opener::Mic(open) => Device::Mic(open()?),
            Opener::Text(open) => Device::Text(open()?),
            Opener::Sensor(open) => Device::Sensor(open()?),
        })
    }

    /// An empty sample of the kind that the device delivers.
    fn blank(&self) -> Sample {
        match self {
            Device::Camera(_) => Sample::Frame(Frame::default()),
            Device::Mic(_) => Sample::Audio(AudioBlock::default()),
            Device::Text(_) => Sample::Text(Utterance::default()),
            Device::Sensor(_) => Sample::Reading(Reading::default()),
        }
    }

    fn condition(&mut self) -> Option<Condition> {
        if let Device::Mic(mic) = self { mic.condition() } else { None }
    }

    fn read(&mut self, into: &mut Sample) -> Result<(), CaptureError> {
        // a lane hands back whatever buffer it had, also that of a fault
        if !matches!(
            (&*self, &*into),
            (Device::Camera(_), Sample::Frame(_))
                | (Device::Mic(_), Sample::Audio(_))
                | (Device::Text(_), Sample::Text(_))
                | (Device::Sensor(_), Sample::Reading(_))
        ) {
            *into = self.blank();
        }
        match (self, into) {
            (Device::Camera(camera), Sample::Frame(frame)) => camera.capture(frame),
            (Device::Mic(mic), Sample::Audio(block)) => mic.read(block),
            (Device::Text(text), Sample::Text(utterance)) => text.next(utterance),
            (Device::Sensor(sensor), Sample::Reading(reading)) => sensor.read(reading),
            _ => unreachable!("the buffer was made to fit above"),
        }
    }
}

/// What the threads and the inference loop share.
struct Shared {
    wake: Wake,
    lanes: Vec<Lane>,
    restarts: Vec<Restarts>,
    /// When the run began, before any thread did.
    began: Micros,
    /// Sources, by index, whose thread may wait as long as it likes: files that are paced, a terminal.
    patient: Vec<bool>,
    /// Sources, by index, that are devices and no files or terminals.
    devices: Vec<bool>,
    /// What sources that deliver have to say, by index.
    conditions: Mutex<VecDeque<(usize, Condition)>>,
    /// The run is over: threads end at their next look.
    over: AtomicBool,
}

impl Restarts {
    fn beating_at(now: Micros) -> Self {
        Restarts { beat_us: AtomicU64::new(now.0), ..Restarts::default() }
    }

    fn beat(&self, now: Micros) {
        self.beat_us.store(now.0, Ordering::Relaxed);
    }
}

impl Shared {
    /// What observers see of the sources. Allocates in the first call only.
    fn show(&self, names: &[Arc<str>], snapshot: &mut Snapshot) {
        snapshot.sources.resize_with(names.len(), SourceView::default);
        for (i, (view, counts)) in snapshot.sources.iter_mut().zip(&self.restarts).enumerate() {
            view.name.clone_from(&names[i]);
            view.open = self.devices[i] && counts.open.load(Ordering::Relaxed);
            view.dropped = counts.dropped.load(Ordering::Relaxed);
            view.reopened = counts.reopened.load(Ordering::Relaxed);
            view.panics = counts.panics.load(Ordering::Relaxed);
        }
    }

    fn say(&self, index: usize, condition: Condition) {
        let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        if conditions.len() == CONDITIONS_MAX {
            conditions.pop_front();
        }
        conditions.push_back((index, condition));
    }
}

/// Runs `sources` through `pipeline` into `sinks`, until all have ended or `stop` is set.
///
/// `upkeep` is what else has to be looked after.
///
/// At the end threads have 1.5 s to finish. One that still waits for its device (a terminal nobody types into) is left
/// behind and named in the log; it holds no data that anyone needs.
///
/// # Errors
/// [`SinkError`] when nobody takes the events any more. A failing source is no error but an event; if all fail for good, the
/// outcome names them.
pub fn live(
    sources: Vec<LiveSource>,
    pipeline: &mut Pipeline,
    clock: &Arc<dyn Clock>,
    sinks: &mut [Box<dyn Sink + '_>],
    stop: &AtomicBool,
    upkeep: &mut Upkeep,
) -> Result<Outcome, SinkError> {
    let (wake, began) = (upkeep.outside.wake(), clock.now());
    let shared = Arc::new(Shared {
        lanes: sources.iter().map(|s| Lane::for_opener(&s.opener, &wake)).collect(),
        restarts: sources.iter().map(|_| Restarts::beating_at(clock.now())).collect(),
        patient: sources.iter().map(|s| s.paced || matches!(s.opener, Opener::Text(_))).collect(),
        devices: sources.iter().map(|s| !s.paced && !matches!(s.opener, Opener::Text(_))).collect(),
        conditions: Mutex::default(),
        began,
        over: AtomicBool::new(false),
        wake,
    });
    let names: Vec<Arc<str>> = sources.iter().map(|s| Arc::clone(&s.name)).collect();
    let mut threads = Vec::with_capacity(sources.len());
    for (i, source) in sources.into_iter().enumerate() {
        let (mine, clock) = (Arc::clone(&shared), Arc::clone(clock));
        let thread = thread::Builder::new().name(names[i].to_string()).spawn(move || {
            tend(source, i, &mine, &*clock);
            mine.restarts[i].beat_us.store(u64::MAX, Ordering::Relaxed);
            mine.lanes[i].close();
        });
        match thread {
            Ok(handle) => threads.push(handle),
            Err(error) => {
                warn!("{}: the system gives no thread: {error}", names[i]);
                shared.lanes[i].close();
            }
        }
    }
    let outcome = consume(&names, &shared, pipeline, &**clock, sinks, stop, upkeep);
    shared.over.store(true, Ordering::Relaxed);
    shared.lanes.iter().for_each(Lane::close);
    let until = clock.now() + FAREWELL;
    while clock.now() < until && !threads.iter().all(thread::JoinHandle::is_finished) {
        clock.sleep_until(clock.now() + Micros::from_ms(5));
    }
    for handle in threads.iter().filter(|t| !t.is_finished()) {
        info!("{}: still waiting for its device; left behind", handle.thread().name().unwrap_or_default());
    }
    let mut outcome = outcome?;
    for (name, counts) in names.iter().zip(&shared.restarts) {
        outcome.restarts.push(SourceRestarts {
            source: name.to_string(),
            reopened: counts.reopened.load(Ordering::Relaxed),
            panics: counts.panics.load(Ordering::Relaxed),
            dropped: counts.dropped.load(Ordering::Relaxed),
        });
    }
    Ok(outcome)
}

/// The inference loop.
fn consume(
    names: &[Arc<str>],
    shared: &Shared,
    pipeline: &mut Pipeline,
    clock: &dyn Clock,
    sinks: &mut [Box<dyn Sink + '_>],
    stop: &AtomicBool,
    upkeep: &mut Upkeep,
) -> Result<Outcome, SinkError> {
    let Shared { wake, lanes, restarts, .. } = shared;
    let outside = upkeep.outside.clone();
    let mut attention = outside.attend(pipeline);
    let mut care = Care::new(upkeep, shared.began, lanes.len());
    let (every, decided) = (Histogram::default(), Histogram::default());
    let mut outcome = Outcome::default();
    let mut events: Vec<Event> = Vec::with_capacity(16);
    let mut buffers: Vec<Sample> = lanes.iter().map(|_| Sample::default()).collect();
    let mut ended = vec![false; lanes.len()];
    let mut faulty = vec![false; lanes.len()];
    let started = clock.now();
    pipeline.start(started, &mut events);
    while !stop.load(Ordering::Relaxed) && !ended.iter().all(|e| *e) {
        let seen = wake.generation();
        let turn_began = clock.now();
        let mut idle = true;
        for (i, lane) in lanes.iter().enumerate() {
            for _ in 0..BURST {
                match lane.take(&mut buffers[i]) {
                    Taken::Item { lost } => {
                        idle = false;
                        restarts[i].dropped.fetch_add(lost, Ordering::Relaxed);
                        faulty[i] = matches!(buffers[i], Sample::Fault { .. });
                        let now = clock.now();
                        let available = available_at(&buffers[i]).min(now);
                        attention.hush(&mut buffers[i], pipeline, now, &mut events);
                        pipeline.process(&names[i], &buffers[i], now, &mut events);
                        outcome.samples += 1;
                        let led_to_decision = events.iter().any(is_decision);
                        drain(&mut events, sinks, &mut outcome, clock)?;
                        let latency = clock.now() - available;
                        every.record(latency);
                        if led_to_decision {
                            decided.record(latency);
                        }
                        attention.preview(&names[i], &buffers[i], pipeline);
                    }
                    Taken::Empty => break,
                    Taken::Closed => {
                        ended[i] = true;
                        break;
                    }
                }
            }
        }
        let now = clock.now();
        attention.carry_out(pipeline, now, &mut events);
        attention.update(pipeline, now, &mut events);
        attention.report(pipeline, now, &mut events);
        pipeline.tick(now, &mut events);
        care.look_after(names, shared, pipeline, now, &mut events);
        drain(&mut events, sinks, &mut outcome, clock)?;
        sinks.iter_mut().try_for_each(|sink| tolerate(sink.tick(now), &mut outcome))?;
        attention.show(pipeline, now, now, |snapshot| {
            shared.show(names, snapshot);
            snapshot.celsius = care.celsius_now;
        });
        care.worked = care.worked + (clock.now() - turn_began);
        if idle {
            _ = wake.wait(seen, Duration::from(TICK));
        }
    }
    care.heart.stop();
    pipeline.end(clock.now(), &mut events);
    drain(&mut events, sinks, &mut outcome, clock)?;
    flush_all(sinks, &mut outcome)?;
    outcome.duration = clock.now() - started;
    outcome.sample_latency = every.summary();
    outcome.decision_latency = decided.summary();
    outcome.failed_sources =
        (0..names.len()).filter(|i| ended[*i] && faulty[*i]).map(|i| names[i].to_string()).collect();
    Ok(outcome)
}

/// What the inference loop does once a turn beside its samples.
struct Care<'a> {
    heart: Heart<'a>,
    governor: Option<Governor>,
    celsius: &'a mut (dyn FnMut() -> Option<f32> + Send),
    /// Time at work since the last look, and when the next is due.
    worked: Micros,
    next_look: Micros,
    /// At the last look.
    celsius_now: Option<f32>,
    hangs: Vec<bool>,
    board: Arc<str>,
    /// What the service manager was told last, and what it would be told.
    status: String,
    line: String,
}

impl<'a> Care<'a> {
    fn new(upkeep: &'a mut Upkeep, now: Micros, n_sources: usize) -> Self {
        Care {
            heart: Heart::new(&mut *upkeep.manager),
            governor: upkeep.budget.map(Governor::new),
            celsius: &mut *upkeep.celsius,
            worked: Micros::ZERO,
            next_look: now + LOOK,
            celsius_now: None,
            hangs: vec![false; n_sources],
            board: "board".into(),
            status: String::new(),
            line: String::new(),
        }
    }

    fn look_after(
        &mut self,
        names: &[Arc<str>],
        shared: &Shared,
        pipeline: &mut Pipeline,
        now: Micros,
        events: &mut Vec<Event>,
    ) {
        loop {
            let next = shared.conditions.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((i, Condition { state, reason })) = next else { break };
            info!("{}: {state}: {reason}", names[i]);
            pipeline.notice(&names[i], state, reason, now, events);
        }
        for (i, name) in names.iter().enumerate() {
            let beat = Micros(shared.restarts[i].beat_us.load(Ordering::Relaxed));
            let hangs = !shared.patient[i] && now - beat >= HANGS_AFTER;
            if hangs && !self.hangs[i] {
                let reason = format!("{name}: its driver has not answered for {} ms", (now - beat).as_ms());
                warn!("{reason}; the service manager is told no more that this program is well");
                pipeline.fail(name, &reason.into(), now, events);
            }
            self.hangs[i] = hangs;
        }
        self.line.clear();
        for (name, state) in pipeline.states() {
            let gap = if self.line.is_empty() { "" } else { ", " };
            _ = write!(self.line, "{gap}{name} {state:?}");
        }
        if self.line != self.status {
            std::mem::swap(&mut self.line, &mut self.status);
            self.heart.status(&self.status);
        }
        if now >= self.next_look {
            self.look(pipeline, now, events);
        }
        self.heart.beat(now, !self.hangs.contains(&true));
    }

    fn look(&mut self, pipeline: &mut Pipeline, now: Micros, events: &mut Vec<Event>) {
        let since = (now - self.next_look) + LOOK;
        let busy = self.worked.0 as f32 / since.0.max(1) as f32;
        (self.worked, self.next_look) = (Micros::ZERO, now + LOOK);
        self.celsius_now = (self.celsius)();
        let Some(governor) = &mut self.governor else { return };
        let Some(change) = governor.look(Measured { celsius: self.celsius_now, busy }) else { return };
        governor.divisors().for_each(|(kind, divisor)| pipeline.slow(kind, divisor, now));
        let notice = if change.level == 0 { "ok" } else { "shed" };
        warn!("board: {notice}, step {}: {}", change.level, change.reason);
        pipeline.notice(&self.board, notice, change.reason.into(), now, events);
    }
}

fn drain(
    events: &mut Vec<Event>,
    sinks: &mut [Box<dyn Sink + '_>],
    outcome: &mut Outcome,
    clock: &dyn Clock,
) -> Result<(), SinkError> {
    emit_all(events, sinks, outcome)?;
    outcome.events += events.len() as u64;
    let decisions = events.iter().filter(|e| is_decision(e)).count() as u64;
    outcome.decisions += decisions;
    if decisions > 0 && outcome.first_decision.is_none() {
        outcome.first_decision = Some(clock.now());
    }
    events.clear();
    Ok(())
}

/// Why a device was given up.
enum Lost {
    End,
    Fatal(CaptureError),
    Reopen(CaptureError),
}

/// A source's thread: opens, reads, reopens, until the end.
fn tend(mut source: LiveSource, index: usize, shared: &Shared, clock: &dyn Clock) {
    let (lane, counts, over) = (&shared.lanes[index], &shared.restarts[index], &shared.over);
    let mut last_reason = String::new();
    let mut backoff = BACKOFF_MIN;
    let mut attempt = 0_u64;
    while !over.load(Ordering::Relaxed) {
        let mut delivered = false;
        let caught = catch_unwind(AssertUnwindSafe(|| serve(&mut source, index, shared, clock, &mut delivered)));
        if delivered {
            (backoff, attempt) = (BACKOFF_MIN, 0);
            last_reason.clear();
        }
        let reason = match caught {
            Ok(Lost::End) => return,
            Ok(Lost::Fatal(error)) => {
                warn!("{error}; {} stays failed", source.name);
                lane.put(&mut fault(clock, &error.to_string()));
                return;
            }
            Ok(Lost::Reopen(error)) => error.to_string(),
            Err(_) => {
                counts.panics.fetch_add(1, Ordering::Relaxed);
                format!("{}: the source's thread panicked", source.name)
            }
        };
        attempt += 1;
        counts.reopened.fetch_add(1, Ordering::Relaxed);
        // A device that is away for a weekend must not fill the journal.
        let level = if attempt.is_power_of_two() || reason != last_reason { Level::Warn } else { Level::Debug };
        log!(level, "{reason}; reopening in {} ms (attempt {attempt})", backoff.as_ms());
        last_reason.clone_from(&reason);
        lane.put(&mut fault(clock, &reason));
        let until = clock.now() + backoff;
        while clock.now() < until && !over.load(Ordering::Relaxed) {
            counts.beat(clock.now());
            clock.sleep_until(until.min(clock.now() + BACKOFF_MIN));
        }
        backoff = (backoff + backoff).min(BACKOFF_MAX);
    }
}

fn fault(clock: &dyn Clock, reason: &str) -> Sample {
    Sample::Fault { t: clock.now(), reason: reason.into() }
}

/// The mark that a device is open, for as long as it lives.
struct Open<'a>(&'a AtomicBool);

impl<'a> Open<'a> {
    fn mark(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Open(flag)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Opens the source and hands over what it delivers until it fails.
fn serve(source: &mut LiveSource, index: usize, shared: &Shared, clock: &dyn Clock, delivered: &mut bool) -> Lost {
    let (lane, counts, over) = (&shared.lanes[index], &shared.restarts[index], &shared.over);
    let lost = |error: CaptureError| match error.kind {
        ErrorKind::End => Lost::End,
        ErrorKind::Fatal => Lost::Fatal(error),
        ErrorKind::Retry | ErrorKind::Wait | ErrorKind::Reopen => Lost::Reopen(error),
    };
    // set before and cleared after, also by a panic: an indicator may be on too long, never too short
    let _open = Open::mark(&counts.open);
    let mut device = match Device::open(&mut source.opener) {
        Ok(device) => device,
        Err(error) => return lost(error),
    };
    let opened = clock.now();
    let mut sample = device.blank();
    let mut retries = 0;
    while !over.load(Ordering::Relaxed) {
        counts.beat(clock.now());
        match device.read(&mut sample) {
            Ok(()) => {
                retries = 0;
                if let Some(condition) = device.condition() {
                    shared.say(index, condition);
                }
                *delivered = true;
                if source.paced {
                    shift(&mut sample, opened);
                    clock.sleep_until(available_at(&sample));
                }
                lane.put(&mut sample);
            }
            Err(error) if error.kind == ErrorKind::Wait => {}
            Err(error) if error.kind == ErrorKind::Retry && retries < RETRIES_MAX => retries += 1,
            Err(error) => return lost(error),
        }
    }
    Lost::End
}

/// Moves a file's times, which start at 0, to the clock's.
fn shift(sample: &mut Sample, by: Micros) {
    let t = match sample {
        Sample::Frame(f) => &mut f.t,
        Sample::Audio(a) => &mut a.t,
        Sample::Text(u) => &mut u.t,
        Sample::Reading(r) => &mut r.t,
        Sample::Fault { t, .. } => t,
    };
    *t = *t + by;
}
