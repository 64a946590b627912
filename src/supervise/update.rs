//! A new bundle while a run goes on: found, verified, installed, loaded and tested on a thread of its own, swapped in between two windows,
//! watched, and given up for the one before it if it does not do. docs/update.md draws it.
//!
//! The thread does everything that takes time or touches the disk. The inference loop (`Hand`) looks once a turn whether a pipeline waits,
//! swaps it, and watches; it waits for nothing. Every step is a notice in the event stream, a line in the log, and counted.

mod selftest;

use std::collections::BTreeSet;
use std::fs;
use std::io::BufReader;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use log::{info, warn};

use crate::bundle::Bundle;
use crate::bundle::install::{Installed, Store};
use crate::bundle::pack::EXTENSION;
use crate::bundle::refused::{Refused, Why};
use crate::metrics::{Counter, Registry};
use crate::pipeline::{Health, Options, Pipeline};
use crate::signal::{Event, MAX_MODALITIES, Notice, Notices, Refusal, RefusalKind};
use crate::time::{Clock, Micros};

pub use selftest::{Limits, Tested, golden, self_test};

/// Messages that wait for the thread; more are refused.
const ORDERS_MAX: usize = 8;

/// A modality that does not do for so long is why its bundle is given up.
const AILS_FOR: Micros = Micros::from_ms(5000);

/// How long the thread has to finish when the run is over, and how often that is looked at.
const FAREWELL: Duration = Duration::from_millis(1500);
const NAP: Duration = Duration::from_millis(10);

/// Files of the inbox that are looked at; more wait for the next time.
const FILES_MAX: usize = 64;

/// Name of the thread that verifies, tests and loads.
pub const THREAD: &str = "update";

/// The words of what happens, for notices and counters.
const STEPS: [&str; 7] = ["installed", "swapped", "proven", "refused", "reverted", "restart", "failed"];

/// How updates are done.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where new bundles are put.
    pub inbox: PathBuf,
    /// How often the inbox is looked at; none: only when asked.
    pub look_every: Option<Micros>,
    /// What a new bundle's examination may cost; without it there is none.
    pub limits: Option<Limits>,
    /// How long a new bundle is watched.
    pub probation: Micros,
    /// The bundle that runs where nothing is installed.
    pub own: PathBuf,
    /// Name of the bundle that runs.
    pub running: String,
    /// How pipelines are set up.
    pub options: Options,
    /// Whether what runs at the start has yet to prove itself.
    pub is_on_trial: bool,
}

/// What the loop tells the thread.
enum Order {
    Look,
    Proven,
    GivenUp {
        reason: String,
        pipeline: Option<Box<Pipeline>>,
    },
    /// A pipeline that nobody needs: letting go of it takes time.
    Dispose(Box<Pipeline>),
    /// The bundle cannot be swapped in while the run goes on.
    Restart {
        reason: String,
        pipeline: Box<Pipeline>,
    },
}

/// A pipeline that waits to be swapped in.
struct Offer {
    pipeline: Box<Pipeline>,
    id: String,
    /// It ran before: it has nothing to prove.
    is_known: bool,
}

/// Between the inference loop and the thread.
pub struct Updates {
    orders: SyncSender<Order>,
    offer: Mutex<Option<Offer>>,
    /// Set by a signal: look for a new bundle.
    asked: Arc<AtomicBool>,
    notices: Arc<Notices>,
    steps: [Arc<Counter>; STEPS.len()],
    probation: Micros,
    starts_on_trial: bool,
    is_over: AtomicBool,
}

impl std::fmt::Debug for Updates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Updates").finish_non_exhaustive()
    }
}

/// The thread. Dropping it lets it finish what it is at.
#[derive(Debug)]
pub struct Updater {
    updates: Arc<Updates>,
    thread: Option<JoinHandle<()>>,
}

impl Updater {
    /// Starts the thread that looks after `store`. `asked` is set by whoever wants it to look at the inbox at once.
    ///
    /// # Errors
    /// The system gives no thread, or the inbox cannot be made.
    pub fn start(
        store: Store,
        settings: Settings,
        clock: Arc<dyn Clock>,
        notices: Arc<Notices>,
        registry: &Registry,
        asked: Arc<AtomicBool>,
    ) -> std::io::Result<Updater> {
        fs::create_dir_all(&settings.inbox)?;
        let (orders, received) = sync_channel(ORDERS_MAX);
        let help = "Steps of updates, by what came of them.";
        let updates = Arc::new(Updates {
            orders,
            offer: Mutex::default(),
            asked,
            notices,
            steps: STEPS.map(|step| registry.counter("attendant_update_steps_total", help, &[("step", step)])),
            probation: settings.probation,
            starts_on_trial: settings.is_on_trial,
            is_over: AtomicBool::new(false),
        });
        let mine = Arc::clone(&updates);
        let thread = thread::Builder::new().name(THREAD.into()).spawn(move || {
            let is_busy = settings.is_on_trial;
            Worker { store, settings, clock, updates: mine, is_busy, seen: BTreeSet::new(), said: String::new() }
                .work(&received);
        })?;
        Ok(Updater { updates, thread: Some(thread) })
    }

    /// What the inference loop is given.
    #[must_use]
    pub fn updates(&self) -> Arc<Updates> {
        Arc::clone(&self.updates)
    }
}

impl Drop for Updater {
    fn drop(&mut self) {
        self.updates.is_over.store(true, Ordering::Relaxed);
        _ = self.updates.orders.try_send(Order::Look);
        let Some(thread) = self.thread.take() else { return };
        for _ in 0..FAREWELL.as_millis() / NAP.as_millis() {
            if thread.is_finished() {
                break;
            }
            thread::sleep(NAP);
        }
        if !thread.is_finished() {
            info!("update: left behind while it tries a bundle; what is on the disk is whole at any moment");
        } else if thread.join().is_err() {
            warn!("update: its thread panicked; what is on the disk is whole");
        }
    }
}

impl Updates {
    /// Asks the thread to look at the inbox.
    ///
    /// # Errors
    /// [`RefusalKind::Full`]: it has too much to do.
    pub fn ask(&self) -> Result<(), Refusal> {
        self.orders
            .try_send(Order::Look)
            .map_err(|_| Refusal::new(RefusalKind::Full, "an update is under way; ask again in a minute"))
    }

    fn send(&self, order: Order) {
        // the loop orders once a trial: there is room unless somebody does nothing but ask
        if self.orders.try_send(order).is_err() {
            warn!("update: its thread is behind; the disk will say it at the next start");
        }
    }

    /// Into the event stream, the log and the counters.
    fn say(&self, step: &str, reason: &str) {
        match step {
            "refused" | "reverted" | "failed" => warn!("bundle: {step}: {reason}"),
            _ => info!("bundle: {step}: {reason}"),
        }
        if let Some(i) = STEPS.iter().position(|s| *s == step) {
            self.steps[i].inc();
        }
        self.notices.say(Notice { source: "bundle".into(), notice: step.into(), reason: reason.into() });
    }

    fn take(&self) -> Option<Offer> {
        // the loop waits for nobody: the thread holds this for a moment only
        self.offer.try_lock().ok().and_then(|mut offer| offer.take())
    }
}

/// A bundle that is watched.
struct Trial {
    id: String,
    /// What ran before, if this process still has it.
    before: Option<Box<Pipeline>>,
    until: Micros,
    /// Modalities that did when it began.
    expected: [bool; MAX_MODALITIES],
    /// Since when each modality does not do.
    ailing_since: [Option<Micros>; MAX_MODALITIES],
    /// The same of the fusion, and how many errors it had.
    fusion_since: Option<Micros>,
    fusion_errors: u64,
}

/// The inference loop's part.
#[derive(Default)]
pub(super) struct Hand {
    trial: Option<Trial>,
    has_begun: bool,
}

impl Hand {
    /// Once a turn, between two windows.
    pub(super) fn turn(&mut self, updates: &Updates, pipeline: &mut Pipeline, now: Micros, events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.has_begun, true) && updates.starts_on_trial {
            self.trial = Some(Trial::of("at the start", pipeline, now + updates.probation, now));
        }
        if updates.asked.swap(false, Ordering::Relaxed)
            && let Err(refusal) = updates.ask()
        {
            warn!("bundle: {refusal}");
        }
        if let Some(Offer { pipeline: next, id, is_known }) = updates.take() {
            self.swap(updates, pipeline, next, (id, is_known), now, events);
        }
        let Some(trial) = &mut self.trial else { return };
        if let Some(reason) = trial.look(pipeline, now) {
            let Trial { id, before, .. } = self.trial.take().expect("it was looked at");
            let pipeline = before.map(|mut before| {
                before.succeed(pipeline, now, events);
                std::mem::swap(pipeline, &mut before);
                before
            });
            updates.send(Order::GivenUp { reason: format!("{id}: {reason}"), pipeline });
        } else if now >= trial.until {
            updates.send(Order::Proven);
            if let Some(before) = self.trial.take().and_then(|trial| trial.before) {
                updates.send(Order::Dispose(before));
            }
        }
    }

    fn swap(
        &mut self,
        updates: &Updates,
        pipeline: &mut Pipeline,
        mut next: Box<Pipeline>,
        (id, is_known): (String, bool),
        now: Micros,
        events: &mut Vec<Event>,
    ) {
        let reason = if pipeline.is_recorded() {
            Err("a recording is under way, which replays with one bundle only".to_owned())
        } else {
            next.can_succeed(pipeline)
        };
        if let Err(reason) = reason {
            updates.send(Order::Restart { reason: format!("{id}: {reason}"), pipeline: next });
            return;
        }
        let before_id = Arc::clone(pipeline.bundle());
        let trial = Trial::of(&id, pipeline, now + updates.probation, now);
        next.succeed(pipeline, now, events);
        std::mem::swap(pipeline, &mut next);
        updates.say("swapped", &format!("{before_id} has handed over to {} ({id})", pipeline.bundle()));
        if is_known {
            self.trial = None;
            updates.send(Order::Dispose(next));
            return;
        }
        if let Some(Trial { before: Some(older), .. }) =
            self.trial.replace(Trial { before: Some(next), fusion_errors: pipeline.fusion_errors(), ..trial })
        {
            updates.send(Order::Dispose(older));
        }
    }
}

impl Trial {
    fn of(id: &str, pipeline: &Pipeline, until: Micros, now: Micros) -> Self {
        let mut expected = [false; MAX_MODALITIES];
        for (i, (_, health)) in pipeline.health(now, |_| false).enumerate() {
            expected[i] = health == Health::Fresh;
        }
        Trial {
            id: id.to_owned(),
            before: None,
            until,
            expected,
            ailing_since: [None; MAX_MODALITIES],
            fusion_since: None,
            fusion_errors: pipeline.fusion_errors(),
        }
    }

    /// Why the bundle does not do, if it does not.
    fn look(&mut self, pipeline: &Pipeline, now: Micros) -> Option<String> {
        let has_failed = pipeline.fusion_errors() > self.fusion_errors;
        self.fusion_errors = pipeline.fusion_errors();
        if has_failed {
            self.fusion_since.get_or_insert(now);
        } else if pipeline.last_decided() == Some(now) {
            self.fusion_since = None;
        }
        let lasts = |since: &Option<Micros>| since.is_some_and(|since| now.since(since) >= AILS_FOR);
        if lasts(&self.fusion_since) {
            return Some(format!("its fusion has failed for {} ms", AILS_FOR.as_ms()));
        }
        let expected = self.expected;
        for (i, (name, health)) in pipeline.health(now, |i| expected[i]).enumerate() {
            let since = &mut self.ailing_since[i];
            match health {
                Health::Fresh => (*since, self.expected[i]) = (None, true),
                Health::Idle => *since = None,
                Health::Ailing => _ = since.get_or_insert(now),
            }
            if lasts(since) {
                return Some(format!("{name} has not been fresh for {} ms", AILS_FOR.as_ms()));
            }
        }
        None
    }
}

/// What a file is known by without reading it.
type Mark = (PathBuf, u64, i64, u64);

/// The thread's part.
struct Worker {
    store: Store,
    settings: Settings,
    clock: Arc<dyn Clock>,
    updates: Arc<Updates>,
    /// A bundle was offered or is on trial: one at a time.
    is_busy: bool,
    /// What was in the inbox at the last look: a file that changes is still being copied.
    seen: BTreeSet<Mark>,
    /// The last trouble that is no fault of a bundle, so that it is told once.
    said: String,
}

impl Worker {
    fn work(mut self, orders: &Receiver<Order>) {
        let every = self.settings.look_every.map(|m| Duration::from_micros(m.0));
        loop {
            let order = match every {
                Some(every) => orders.recv_timeout(every),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match order {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if !self.is_over() => self.look(false),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(order) => self.carry_out(order),
            }
            if self.is_over() {
                break;
            }
        }
        // the run is over; what it has said of its bundle is still written down
        while let Ok(order) = orders.try_recv() {
            self.carry_out(order);
        }
    }

    fn is_over(&self) -> bool {
        self.updates.is_over.load(Ordering::Relaxed)
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Look if self.is_over() => {}
            Order::Look => self.look(true),
            Order::Dispose(pipeline) => drop(pipeline),
            Order::Proven => self.prove(),
            Order::GivenUp { reason, pipeline } => self.give_up(&reason, pipeline),
            Order::Restart { reason, pipeline } => {
                drop(pipeline);
                self.updates.say("restart", &format!("{reason}; it runs, on trial, from the next start"));
            }
        }
    }

    fn prove(&mut self) {
        match self.store.confirm() {
            Ok(()) => {
                self.is_busy = false;
                let id = self.store.state().current.clone().unwrap_or_default();
                self.updates.say("proven", &format!("{id} has done for {} ms", self.settings.probation.as_ms()));
            }
            Err(refused) => self.updates.say("failed", &refused.to_string()),
        }
    }

    fn give_up(&mut self, reason: &str, pipeline: Option<Box<Pipeline>>) {
        let has_gone_back = pipeline.is_some();
        drop(pipeline);
        self.store.revert();
        self.is_busy = false;
        self.updates.say("reverted", reason);
        if has_gone_back {
            return;
        }
        // this process was started with it: what ran before has to be loaded
        let dir = self.store.current_dir().unwrap_or_else(|| self.settings.own.clone());
        match self.load(&dir) {
            Ok(pipeline) => self.offer(pipeline, "the one before it".into(), true),
            Err(refused) => self.updates.say("failed", &format!("{}: {refused}", dir.display())),
        }
    }

    fn load(&self, dir: &Path) -> Result<Box<Pipeline>, Refused> {
        let unfit = |message: String| Refused::new(Why::Unfit, message);
        let bundle = Bundle::open(dir).map_err(|e| unfit(e.to_string()))?;
        Pipeline::load(&bundle, &self.settings.options).map(Box::new).map_err(|e| unfit(e.to_string()))
    }

    fn offer(&self, pipeline: Box<Pipeline>, id: String, is_known: bool) {
        let offer = Offer { pipeline, id, is_known };
        *self.updates.offer.lock().unwrap_or_else(PoisonError::into_inner) = Some(offer);
    }

    /// Looks at the inbox. Somebody who asks has finished copying; otherwise a file has to be the same as at the last look.
    fn look(&mut self, is_asked: bool) {
        if self.is_busy {
            return;
        }
        let marks = match list(&self.settings.inbox) {
            Ok(marks) => marks,
            Err(error) => return self.trouble(&format!("{}: {error}", self.settings.inbox.display())),
        };
        let ready: Vec<Mark> = marks.iter().filter(|mark| is_asked || self.seen.contains(mark)).cloned().collect();
        self.seen = marks;
        for (path, ..) in ready {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match self.take(&path) {
                Ok(is_new) => {
                    remove(&path);
                    if is_new {
                        return;
                    }
                }
                // the disk is full, say: the bundle may be good
                Err(refused) if refused.why == Why::Io => self.trouble(&format!("{name}: {refused}")),
                Err(refused) => {
                    self.updates.say("refused", &format!("{name}: {refused}"));
                    let mut aside = path.clone().into_os_string();
                    aside.push(".refused");
                    if let Err(error) = fs::rename(&path, &aside) {
                        self.trouble(&format!("{}: {error}", path.display()));
                    }
                }
            }
        }
    }

    /// Says something that may be said again at every look, once.
    fn trouble(&mut self, message: &str) {
        if self.said != message {
            self.updates.say("failed", message);
            self.said = message.to_owned();
        }
    }

    /// Takes the bundle in the file at `path`: false if it is the one that runs.
    fn take(&mut self, path: &Path) -> Result<bool, Refused> {
        let file = fs::File::open(path).map_err(|e| Refused::io(path.display(), &e))?;
        let installed = self.store.install(BufReader::new(file), &self.settings.running)?;
        if self.store.is_current(&installed.id) {
            info!("bundle {} runs already", installed.id);
            return Ok(false);
        }
        let tried = self.try_out(&installed);
        let pipeline = match tried {
            Ok(pipeline) => pipeline,
            Err(refused) => {
                self.store.discard(&installed.id);
                return Err(refused);
            }
        };
        // from here on the disk says that it runs; the loop swaps as soon as it looks
        self.store.switch(&installed.id)?;
        self.is_busy = true;
        self.said.clear();
        self.offer(pipeline, installed.id, false);
        Ok(true)
    }

    fn try_out(&self, installed: &Installed) -> Result<Box<Pipeline>, Refused> {
        let Installed { id, dir, manifest, signer } = installed;
        let bundle = Bundle::open(dir).map_err(|e| Refused::new(Why::Unfit, e.to_string()))?;
        let said = &bundle.manifest.bundle;
        if (&said.name, &said.version) != (&manifest.name, &manifest.version) {
            let message =
                format!("bundle.toml says {}, the manifest {} {}", bundle.id, manifest.name, manifest.version);
            return Err(Refused::new(Why::Manifest, message));
        }
        let tested = match &self.settings.limits {
            None => "not tested".to_owned(),
            Some(limits) => {
                let tested = self_test(&bundle, &self.settings.options, &*self.clock, limits)?;
                format!("{} golden events in {} ms", tested.events, tested.took.as_ms())
            }
        };
        let pipeline = self.load(dir)?;
        self.updates.say("installed", &format!("{id}, signed by {signer:?}, {tested}"));
        Ok(pipeline)
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        warn!("{}: {error}; remove it", path.display());
    }
}

/// Packed bundles in the inbox, in the order of their names.
fn list(inbox: &Path) -> std::io::Result<BTreeSet<Mark>> {
    let mut marks = BTreeSet::new();
    for entry in fs::read_dir(inbox)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == EXTENSION) && marks.len() < FILES_MAX {
            let about = fs::metadata(&path)?;
            if about.is_file() {
                marks.insert((path, about.len(), about.mtime(), about.ino()));
            }
        }
    }
    Ok(marks)
}
