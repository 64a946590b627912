//! The web server: the page, its interface, metrics. docs/http.md is its contract.
//!
//! [`open`] gives two ends. The [`WebSink`] takes events on the inference thread: it serializes each once and hands it over without
//! waiting. The [`Server`] answers on the network's thread, from the newest events, the [`Monitor`] and the files compiled in; what
//! visitors type and choose goes into the [`Mailbox`]. It starts no thread, opens no file, and decides nothing.
//!
//! | file | owns |
//! |---|---|
//! | `accept` | connections: how many, how long, how large |
//! | `routes` | which request gets which answer |
//! | `guard` | who may ask: names, origins, the token, the rate |
//! | `stream`, `ring` | server-sent events and what is kept for those who come back |
//! | `view`, `report` | what events add up to; JSON and metrics of it |
//! | `preview` | the camera's newest picture, if it is on |
//! | `assets` | the page's files |
//! | `counts` | counters by reason, seats |

mod accept;
mod assets;
mod counts;
mod guard;
mod preview;
mod report;
mod ring;
mod routes;
mod stream;
mod view;

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use log::{info, warn};
use tokio::sync::{mpsc, watch};

use crate::metrics::Registry;
use crate::signal::{Event, Mailbox, Monitor, Preview};
use crate::time::{Clock, Micros};

use super::{Sink, SinkError};

pub use guard::Rate;

/// Events on their way to the network's thread at most; more are dropped and counted.
const INBOX_MAX: usize = 1024;

/// Time between two frames of telemetry.
const TELEMETRY_EVERY: Duration = Duration::from_millis(250);

/// A loop that has not come round for this long does not run.
const BEAT_MAX: Micros = Micros::from_ms(3000);

/// What the server tells of a run that does not change. Which bundle runs, and its texts, may: the [`Monitor`] has them.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Name of the board.
    pub board: &'static str,
    /// The int8 kernels in use.
    pub tier: String,
    /// Class labels, in the order of the probabilities.
    pub labels: Vec<Arc<str>>,
    /// Modality, its source, and whether it is typed, in the bundle's order.
    pub inputs: Vec<(Arc<str>, Arc<str>, bool)>,
    /// What visitors are told of being seen and heard, by language.
    pub notice: BTreeMap<String, String>,
}

/// What the server is given.
pub struct Setup {
    /// Bound already, so that an address that is taken is an error of the start.
    pub listener: TcpListener,
    /// What does not change.
    pub facts: Facts,
    /// Names beside the loopback ones that a request may be made for.
    pub names: Vec<String>,
    /// What a request for anything but the page's files has to carry.
    pub token: Option<String>,
    /// Event streams at a time.
    pub clients_max: usize,
    /// How often texts and choices may come.
    pub rate: Rate,
    /// Where the camera's pictures come from, if they may be seen.
    pub preview: Option<Arc<Preview>>,
    /// Where texts and choices go.
    pub commands: Arc<Mailbox>,
    /// Where the run can be looked at.
    pub monitor: Arc<Monitor>,
    /// The inference loop's clock.
    pub clock: Arc<dyn Clock>,
    /// What else is exported.
    pub registry: Arc<Registry>,
}

/// What every request and every stream can see.
struct Shared {
    facts: Facts,
    names: guard::Names,
    token: Option<String>,
    clients_max: usize,
    pictures: Option<preview::Pictures>,
    commands: Arc<Mailbox>,
    monitor: Arc<Monitor>,
    clock: Arc<dyn Clock>,
    registry: Arc<Registry>,
    counts: counts::Counts,
    /// Tells this run's event ids from another's.
    run: String,
    ring: Mutex<ring::Ring>,
    view: Mutex<view::View>,
    bucket: Mutex<guard::Bucket>,
    /// Moves whenever an event has come.
    news: watch::Sender<()>,
    telemetry: watch::Sender<Bytes>,
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, ring::Ring> {
        lock(&self.ring)
    }

    fn view(&self) -> MutexGuard<'_, view::View> {
        lock(&self.view)
    }

    /// Why no decision can be made at present, if none can.
    fn why_stuck(&self) -> Option<String> {
        let now = self.clock.now();
        match self.monitor.last_beat() {
            None => Some("the inference loop does not run".into()),
            Some(beat) if now - beat > BEAT_MAX => {
                Some(format!("the inference loop has not come round for {} ms", (now - beat).as_ms()))
            }
            Some(_) => self.view().why_stuck(),
        }
    }
}

/// Nothing is left half done by a panic: what is under these locks is only pushed to, folded or counted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An event with its frame.
type Posted = (Event, Bytes);

/// The end that takes events.
pub struct WebSink {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Posted>,
    line: Vec<u8>,
}

impl Sink for WebSink {
    /// Never fails and never waits: an event that finds the server behind is counted and lost to it.
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        self.line.clear();
        event.write_json(&mut self.line).map_err(|e| SinkError::from_io("web", e.into()))?;
        let frame = stream::frame(&self.shared.run, event.seq, &self.line);
        if self.inbox.try_send((event.clone(), frame)).is_err() {
            self.shared.counts.lost.inc();
        }
        Ok(())
    }
}

/// The end that answers. Cheap to clone: a service that is started again starts with the same state.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    inbox: Arc<tokio::sync::Mutex<mpsc::Receiver<Posted>>>,
}

/// A server that is not running yet, and the sink that feeds it.
#[must_use]
pub fn open(setup: Setup) -> (WebSink, Server) {
    let Setup { listener, facts, names, token, clients_max, rate, preview, commands, monitor, clock, registry } = setup;
    let (to, inbox) = mpsc::channel(INBOX_MAX);
    let shared = Arc::new(Shared {
        facts,
        names: guard::Names::new(names),
        token,
        clients_max,
        pictures: preview.map(preview::Pictures::new),
        commands,
        monitor,
        clock,
        counts: counts::Counts::new(&registry),
        registry,
        // a number that another run does not have; its quality protects nothing
        run: format!("{:08x}", RandomState::new().build_hasher().finish() as u32),
        ring: Mutex::default(),
        view: Mutex::default(),
        bucket: Mutex::new(guard::Bucket::new(rate)),
        news: watch::Sender::new(()),
        telemetry: watch::Sender::new(Bytes::new()),
    });
    let sink = WebSink { shared: Arc::clone(&shared), inbox: to, line: Vec::with_capacity(1024) };
    (sink, Server { shared, listener: Arc::new(listener), inbox: Arc::new(tokio::sync::Mutex::new(inbox)) })
}

impl Server {
    /// Answers requests until it is dropped. Runs on the network's thread.
    pub async fn serve(self) {
        let listener = self.listener.try_clone().and_then(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        });
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => return warn!("web: the listening socket cannot be used: {error}; the page is not served"),
        };
        if let Ok(address) = listener.local_addr() {
            info!("web: listening on http://{address}");
        }
        let router = routes::router(&self.shared);
        // ends with this future, also when that is dropped by a panic
        let _herald = Helper(tokio::spawn(herald(Arc::clone(&self.shared), Arc::clone(&self.inbox))));
        let _pulse = Helper(tokio::spawn(pulse(Arc::clone(&self.shared))));
        accept::accept(listener, router, self.shared).await;
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Helper(tokio::task::JoinHandle<()>);

impl Drop for Helper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Puts events where streams and requests find them.
async fn herald(shared: Arc<Shared>, inbox: Arc<tokio::sync::Mutex<mpsc::Receiver<Posted>>>) {
    let mut inbox = inbox.lock().await;
    while let Some((event, frame)) = inbox.recv().await {
        shared.view().fold(&event);
        shared.ring().push(event.seq, frame);
        shared.news.send_replace(());
    }
}

/// Looks at the monitor while somebody wants telemetry: once for all of them. Lets go of old pictures.
async fn pulse(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(TELEMETRY_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Some(pictures) = &shared.pictures {
            pictures.forget(shared.clock.now());
        }
        if shared.telemetry.receiver_count() > 0 {
            let json = report::telemetry(&shared);
            shared.telemetry.send_replace(stream::telemetry_frame(&json));
        }
    }
}
