//! The service that talks to the broker: MQTT 3.1.1 by rumqttc, which is named here and nowhere else.
//!
//! A connection is a session of its own with nothing kept at the broker or in the crate: what was not acknowledged is in the
//! [`Backlog`] and is sent again after the next one. So events come at least once and in order; one that comes twice has the same
//! `seq`. Commands that are sent while the device is away are not delivered later.
//!
//! Secrets are read from their files at every connection, so that they can be renewed, and are never written to the log.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use log::{Level, debug, info, log, warn};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event as Polled, EventLoop, LastWill, MqttOptions, NetworkOptions,
    Outgoing, Packet, Publish, QoS, StateError, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config::mqtt::Broker;
use crate::signal::{Mailbox, Monitor, Notice, Notices};
use crate::time::{Clock, Micros};

use super::backlog::{Backlog, Trouble};
use super::command::{self, Message, Why};
use super::discovery::{self, Device, Entity, Input};
use super::link::Link;
use super::meters::Meters;
use super::tls;
use super::topics::Topics;
use super::view::Look;
use super::{OFFLINE, ONLINE};

pub use super::tls::Files;

/// First wait before connecting again; doubles up to [`BACKOFF_MAX`], give or take half.
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// Longest wait before connecting again, before the jitter.
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// A connection that held for so long was a good one: the next wait is the first again.
const HELD: Micros = Micros::from_ms(10_000);

/// How long connecting may take, and writing to the socket.
const TIMEOUT_SECS: u64 = 5;

/// The broker is asked for a sign of life when nothing is sent for so long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An event that is not acknowledged for so long means that the broker is gone, whatever TCP says.
const ACK_TIMEOUT: Micros = Micros::from_ms(10_000);

/// Events on their way at a time.
const WINDOW: usize = 32;

/// Messages handed to the crate and not yet written: the window, the state, answers, and Home Assistant's at the beginning.
const HANDED_MAX: usize = 256;

/// Largest packet that is read: far more than a command, so that one that is too long can be answered.
const INCOMING_BYTES_MAX: usize = 64 << 10;

/// Largest packet that is sent.
const OUTGOING_BYTES_MAX: usize = 128 << 10;

/// So many connections in a row lost to packets that are longer, and commands are off for [`PAUSE`]: somebody retains one.
const OVERLONG_MAX: u32 = 3;

/// How long commands are off then.
const PAUSE: Micros = Micros::from_ms(600_000);

/// How often the queue and what the run shows are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long the end of a run may take once it is known.
const FAREWELL: Micros = Micros::from_ms(1200);

/// What is connected to, as what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub broker: Broker,
    /// Who this is.
    pub topics: Topics,
    /// Name, and the file of the password.
    pub login: Option<(String, Option<PathBuf>)>,
    /// Certificates.
    pub tls: tls::Files,
    /// First level of the topics that Home Assistant reads; None: it is told nothing.
    pub discovery: Option<String>,
    /// Where events wait while the broker is away.
    pub queue_dir: Option<PathBuf>,
    /// Room for them.
    pub queue_bytes_max: u64,
    /// Whether commands are taken.
    pub commands: bool,
    /// Inputs of the bundle.
    pub inputs: Vec<Input>,
    /// The board the program was built for.
    pub board: &'static str,
}

impl Options {
    /// Whether what is needed to connect can be read: said before a run begins and not at the first connection.
    ///
    /// # Errors
    /// Which file, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.connect_options().map(|_| ())
    }

    fn connect_options(&self) -> Result<MqttOptions, String> {
        let Broker { host, port, tls } = &self.broker;
        let mut options = MqttOptions::new(self.topics.id(), host, *port);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_session(true);
        options.set_max_packet_size(INCOMING_BYTES_MAX, OUTGOING_BYTES_MAX);
        options.set_inflight(HANDED_MAX as u16);
        options.set_last_will(LastWill::new(self.topics.availability(), OFFLINE, QoS::AtLeastOnce, true));
        if let Some((name, file)) = &self.login {
            let password = file.as_ref().map_or(Ok(String::new()), |file| {
                let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
                Ok::<_, String>(text.lines().next().unwrap_or_default().to_owned())
            })?;
            options.set_credentials(name, password);
        }
        if *tls {
            let config = tls::config(&self.tls)?;
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))));
        }
        Ok(options)
    }

    fn device<'a>(&'a self, bundle: &'a str) -> Device<'a> {
        Device {
            prefix: self.discovery.as_deref().unwrap_or_default(),
            topics: &self.topics,
            inputs: &self.inputs,
            bundle,
            board: self.board,
            version: env!("CARGO_PKG_VERSION"),
            commands: self.commands,
        }
    }
}

/// What the service works with. Everything in it is shared.
#[derive(Clone)]
pub struct Context {
    /// What is connected to.
    pub options: Arc<Options>,
    /// The sink's other end.
    pub link: Arc<Link>,
    /// Where commands go.
    pub mailbox: Arc<Mailbox>,
    /// What the run shows.
    pub monitor: Arc<Monitor>,
    /// What the connection has to say in the event stream.
    pub notices: Arc<Notices>,
    /// What is counted.
    pub meters: Arc<Meters>,
    /// For the queue.
    pub clock: Arc<dyn Clock>,
}

/// The service: for the network's thread.
#[must_use]
pub fn start(context: &Context) -> Pin<Box<dyn Future<Output = ()>>> {
    let mut service = Service::new(context.clone());
    Box::pin(async move { service.run().await })
}

/// What outlives a connection.
struct Service {
    context: Context,
    backlog: Backlog,
    last_reason: String,
    lost_since: Option<Micros>,
    overlong: u32,
    commands_off_until: Option<Micros>,
    jitter: u64,
}

/// How a connection ended.
enum End {
    /// The run is over, and what could be delivered is.
    Closed,
    /// It was lost, and why.
    Lost(String),
}

impl Drop for Service {
    /// However it ends, what the broker does not have goes to disk.
    fn drop(&mut self) {
        let found = self.context.link.take();
        let now = self.context.clock.now();
        found.events.into_iter().for_each(|event| self.backlog.push(event, now));
        self.backlog.close(now);
        self.tell();
        let lost = self.backlog.len_in_memory();
        if lost > 0 {
            warn!(
                "mqtt: {lost} events were not delivered and are on no disk: they are lost (mqtt.queue_dir keeps them)"
            );
        }
        self.context.meters.connected.set(0);
    }
}

impl Service {
    fn new(context: Context) -> Self {
        let options = &context.options;
        let backlog = Backlog::open(options.queue_dir.clone(), options.queue_bytes_max, context.clock.now());
        if !backlog.is_empty() {
            info!("mqtt: {} events wait from before", backlog.len());
        }
        // differs from process to process, which is all that a jitter needs
        let jitter = std::collections::hash_map::RandomState::new().build_hasher().finish() | 1;
        Service {
            context,
            backlog,
            last_reason: String::new(),
            lost_since: None,
            overlong: 0,
            commands_off_until: None,
            jitter,
        }
    }

    async fn run(&mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            self.tell();
            let began = self.context.clock.now();
            let end = self.connection().await;
            let now = self.context.clock.now();
            self.backlog.unlink(now);
            self.context.meters.connected.set(0);
            let End::Lost(reason) = end else { break };
            if now - began >= HELD {
                backoff = BACKOFF_MIN;
            }
            let wait = self.jittered(backoff);
            backoff = (backoff * 2).min(BACKOFF_MAX);
            // A broker that is away for a weekend must not fill the journal.
            let level = if reason == self.last_reason { Level::Debug } else { Level::Warn };
            let Broker { host, port, .. } = &self.context.options.broker;
            log!(level, "mqtt: {host}:{port}: {reason}; connecting again, events wait meanwhile");
            self.last_reason = reason;
            self.lost_since.get_or_insert(now);
            if self.wait(wait).await {
                break;
            }
        }
        self.context.link.closed();
    }

    /// Between half of `backoff` and one and a half of it: devices that lost the same broker do not come back all at once.
    fn jittered(&mut self, backoff: Duration) -> Duration {
        // xorshift64, Marsaglia 2003
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        backoff / 2 + backoff.mul_f64((self.jitter % 1024) as f64 / 1024.0)
    }

    /// Puts events into the queue for that time; true if the run is over.
    async fn wait(&mut self, time: Duration) -> bool {
        let mut over = pin!(sleep(time));
        let mut looks = interval(LOOK_EVERY);
        loop {
            if self.collect().is_closing {
                return true;
            }
            let link = Arc::clone(&self.context.link);
            tokio::select! {
                () = poll_fn(|context| link.poll_woken(context)) => {}
                _ = looks.tick() => {}
                () = &mut over => return false,
            }
            self.backlog.tick(self.context.clock.now());
            self.tell();
        }
    }

    /// Takes what the sink has handed over: events go to the backlog, the rest is returned.
    fn collect(&mut self) -> super::link::Found {
        let mut found = self.context.link.take();
        let now = self.context.clock.now();
        found.events.drain(..).for_each(|event| self.backlog.push(event, now));
        self.context.meters.drop_at_link(found.dropped, found.answers_dropped);
        found
    }

    /// Counts and says what has become of the queue.
    fn tell(&mut self) {
        let meters = &self.context.meters;
        meters.queued.set(self.backlog.len());
        meters.queued_bytes.set(self.backlog.bytes());
        meters.drop_events(self.backlog.take_dropped());
        meters.torn.add(self.backlog.take_torn());
        let say = |notice: &str, reason: String| {
            self.context.notices.say(Notice { source: "mqtt".into(), notice: notice.into(), reason: reason.into() });
        };
        match self.backlog.take_trouble() {
            Some(Trouble::Began(reason)) => {
                warn!("mqtt: {reason}");
                meters.degraded.set(1);
                say("degraded", reason);
            }
            Some(Trouble::Ended) => {
                info!("mqtt: events wait on disk again");
                meters.degraded.set(0);
                say("ok", "events wait on disk again".into());
            }
            None => {}
        }
    }

    /// One connection, from its beginning to its end.
    async fn connection(&mut self) -> End {
        let mut options = match self.context.options.connect_options() {
            Ok(options) => options,
            Err(reason) => return End::Lost(reason),
        };
        options.set_request_channel_capacity(HANDED_MAX);
        let (client, mut events) = AsyncClient::new(options, HANDED_MAX);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(TIMEOUT_SECS);
        events.set_network_options(network);
        let mut session = Session::new(self, client);
        session.serve(&mut events).await
    }
}

/// A message that was handed to the crate.
#[derive(Clone, Copy, Debug)]
enum Handed {
    /// An event: its ticket, and when.
    Event(u64, Micros),
    Other,
}

/// One connection.
struct Session<'s> {
    service: &'s mut Service,
    context: Context,
    client: AsyncClient,
    is_linked: bool,
    /// Handed to the crate and not yet written, in order.
    handed: VecDeque<Handed>,
    /// Written and not yet acknowledged, by packet identifier.
    written: HashMap<u16, Handed>,
    entities: VecDeque<Entity>,
    /// The bundle that they name.
    bundle: Arc<str>,
    answers: VecDeque<Vec<u8>>,
    look: Look,
    is_state_due: bool,
    closing_since: Option<Micros>,
    has_said_goodbye: bool,
}

impl<'s> Session<'s> {
    fn new(service: &'s mut Service, client: AsyncClient) -> Self {
        Session {
            context: service.context.clone(),
            service,
            client,
            is_linked: false,
            handed: VecDeque::new(),
            written: HashMap::new(),
            entities: VecDeque::new(),
            bundle: "".into(),
            answers: VecDeque::new(),
            look: Look::default(),
            is_state_due: true,
            closing_since: None,
            has_said_goodbye: false,
        }
    }

    async fn serve(&mut self, events: &mut EventLoop) -> End {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let link = Arc::clone(&self.context.link);
        loop {
            let polled = {
                // Never dropped before it is ready: the crate does not promise that a packet that is half written survives that.
                let mut poll = pin!(events.poll());
                loop {
                    if let Some(end) = self.advance() {
                        return end;
                    }
                    tokio::select! {
                        biased;
                        polled = &mut poll => break polled,
                        () = poll_fn(|context| link.poll_woken(context)) => {}
                        _ = looks.tick() => self.look(),
                    }
                }
            };
            match polled {
                Ok(Polled::Incoming(Packet::ConnAck(_))) => self.begin(),
                Ok(Polled::Incoming(Packet::Publish(publish))) => self.obey(&publish),
                Ok(Polled::Incoming(Packet::PubAck(ack))) => self.acknowledged(ack.pkid),
                Ok(Polled::Incoming(Packet::SubAck(ack))) => {
                    if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                        warn!(
                            "mqtt: the broker does not let this device read {}; no commands",
                            self.context.options.topics.commands()
                        );
                    }
                }
                Ok(Polled::Outgoing(Outgoing::Publish(pkid))) => {
                    if let Some(handed) = self.handed.pop_front() {
                        self.written.insert(pkid, handed);
                    }
                }
                Ok(Polled::Outgoing(Outgoing::Disconnect)) if self.has_said_goodbye => return End::Closed,
                Ok(_) => {}
                Err(_) if self.has_said_goodbye => return End::Closed,
                Err(error) => return End::Lost(self.explain(&error)),
            }
        }
    }

    /// The broker listens.
    fn begin(&mut self) {
        let (options, meters) = (Arc::clone(&self.context.options), Arc::clone(&self.context.meters));
        let Broker { host, port, tls } = &options.broker;
        let away = self.service.lost_since.take().map(|since| self.context.clock.now() - since);
        let after =
            away.map(|t| format!(" after {t}, {} events waited", self.service.backlog.len())).unwrap_or_default();
        info!("mqtt: connected to {host}:{port}{}{after}", if *tls { " with TLS" } else { "" });
        self.service.last_reason.clear();
        meters.connects.inc();
        meters.connected.set(1);
        self.is_linked = true;
        self.service.backlog.link();
        if self.service.commands_off_until.is_none_or(|until| self.context.clock.now() >= until) {
            self.subscribe();
        }
        self.discover();
        let availability = options.topics.availability();
        self.publish(availability, true, ONLINE.into(), Handed::Other);
        self.is_state_due = true;
        self.look();
    }

    /// Home Assistant is to be told of the device as it is, with the bundle that runs.
    fn discover(&mut self) {
        self.bundle = self.context.monitor.about().bundle;
        if self.context.options.discovery.is_some() {
            self.entities = discovery::entities(&self.context.options.device(&self.bundle)).into();
        }
    }

    /// Reads commands from here on, if they are taken at all.
    fn subscribe(&mut self) {
        self.service.commands_off_until = None;
        let options = &self.context.options;
        if options.commands {
            // a request channel without room is tried again at the next connection
            _ = self.client.try_subscribe(options.topics.commands(), QoS::AtLeastOnce);
        }
    }

    /// Hands a message to the crate; false if there is no room.
    fn publish(&mut self, topic: String, retain: bool, payload: Vec<u8>, handed: Handed) -> bool {
        let was_taken = self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload).is_ok();
        if was_taken {
            self.handed.push_back(handed);
        }
        was_taken
    }

    fn has_room(&self) -> bool {
        self.handed.len() < HANDED_MAX / 2
    }

    /// Hands over what waits and has room. An end if the run is over, or the broker does not answer.
    fn advance(&mut self) -> Option<End> {
        let found = self.service.collect();
        self.is_state_due |= found.is_view_fresh;
        self.answers.extend(found.answers);
        if found.is_closing {
            let now = self.context.clock.now();
            if !self.is_linked || now - *self.closing_since.get_or_insert(now) >= FAREWELL {
                return Some(End::Closed);
            }
        }
        if !self.is_linked {
            return None;
        }
        let (now, options) = (self.context.clock.now(), Arc::clone(&self.context.options));
        let topics = &options.topics;
        while self.service.backlog.in_flight() < WINDOW
            && self.has_room()
            && let Some((ticket, payload)) = self.service.backlog.send()
        {
            self.publish(topics.events(), false, payload, Handed::Event(ticket, now));
            self.context.meters.published.inc();
        }
        while self.has_room()
            && let Some(answer) = self.answers.pop_front()
        {
            self.publish(topics.result(), false, answer, Handed::Other);
        }
        while self.has_room()
            && let Some(Entity { topic, payload }) = self.entities.pop_front()
        {
            self.publish(topic, true, payload.to_string().into_bytes(), Handed::Other);
        }
        if self.is_state_due && self.has_room() {
            let state = self.context.link.state(&self.look);
            self.is_state_due = state.is_some_and(|state| !self.publish(topics.state(), true, state, Handed::Other));
        }
        let oldest = self.handed.iter().chain(self.written.values()).filter_map(|h| match h {
            Handed::Event(_, since) => Some(*since),
            Handed::Other => None,
        });
        if oldest.min().is_some_and(|since| now - since >= ACK_TIMEOUT) {
            return Some(End::Lost(format!("the broker has acknowledged nothing for {} ms", ACK_TIMEOUT.as_ms())));
        }
        let is_all_there = self.service.backlog.is_empty() && self.handed.is_empty() && self.written.is_empty();
        if self.closing_since.is_some() && is_all_there && !self.is_state_due && !self.has_said_goodbye {
            self.has_said_goodbye = true;
            self.publish(topics.availability(), true, OFFLINE.into(), Handed::Other);
            _ = self.client.try_disconnect();
        }
        None
    }

    /// Time has passed: the queue's own work, and whether what the run shows has changed.
    fn look(&mut self) {
        self.service.backlog.tick(self.context.clock.now());
        self.service.tell();
        if self.is_linked && self.service.commands_off_until.is_some_and(|until| self.context.clock.now() >= until) {
            self.subscribe();
        }
        if self.is_linked && self.context.monitor.about().bundle != self.bundle {
            self.discover();
        }
        let look = self.context.monitor.read(|s| Look {
            visit: s.visit,
            enter: s.enter,
            exit: s.exit,
            lang: s.lang.clone(),
            muted: s.muted.iter().cloned().collect(),
        });
        if look != self.look {
            self.look = look;
            self.is_state_due = true;
        }
    }

    fn acknowledged(&mut self, pkid: u16) {
        if let Some(Handed::Event(ticket, since)) = self.written.remove(&pkid) {
            let now = self.context.clock.now();
            self.service.backlog.ack(ticket, now);
            self.context.meters.acked.inc();
            self.context.meters.ack.record(now - since);
        }
    }

    /// Carries a command to the run, or refuses it; either way its sender is told.
    fn obey(&mut self, publish: &Publish) {
        let Some(name) = self.context.options.topics.command_of(&publish.topic) else { return };
        self.service.overlong = 0;
        let message = Message { name, payload: &publish.payload, retained: publish.retain };
        let (link, meters) = (Arc::clone(&self.context.link), Arc::clone(&self.context.meters));
        let request = match command::parse(&message) {
            Ok(request) => request,
            Err(rejection) => {
                debug!("mqtt: refused the command {name:?}: {}", rejection.reason);
                meters.refuse(rejection.why);
                let result = Err((rejection.why, rejection.reason.as_str()));
                return link.answer(command::answer(name, rejection.id.as_deref(), result));
            }
        };
        let (name, id) = (name.to_owned(), request.id);
        let answer = {
            let (name, id) = (name.clone(), id.clone());
            move |result: &Result<(), crate::signal::Refusal>| {
                let result = match result {
                    Ok(()) => {
                        meters.accepted.inc();
                        Ok(())
                    }
                    Err(refusal) => {
                        let why = Why::Run(refusal.kind);
                        meters.refuse(why);
                        Err((why, refusal.message.as_str()))
                    }
                };
                link.answer(command::answer(&name, id.as_deref(), result));
            }
        };
        if let Err(refusal) = self.context.mailbox.ask(request.command, Box::new(answer)) {
            let why = Why::Run(refusal.kind);
            self.context.meters.refuse(why);
            self.context.link.answer(command::answer(&name, id.as_deref(), Err((why, &refusal.message))));
        }
    }

    /// The reason of a lost connection, for people.
    fn explain(&mut self, error: &ConnectionError) -> String {
        match error {
            ConnectionError::ConnectionRefused(code) => match code {
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                    "the broker refuses this device; check username and password_file, or the broker's list".into()
                }
                ConnectReturnCode::RefusedProtocolVersion => "the broker does not speak MQTT 3.1.1".into(),
                other => format!("the broker refuses the connection: {other:?}"),
            },
            ConnectionError::NetworkTimeout => format!("no answer within {TIMEOUT_SECS} s"),
            ConnectionError::FlushTimeout => format!("nothing could be sent for {TIMEOUT_SECS} s"),
            ConnectionError::Tls(error) => format!("no TLS: {error}; check ca_file and the name of the broker"),
            ConnectionError::Io(error) => format!("cannot be reached: {error}"),
            ConnectionError::MqttState(StateError::Deserialization(rumqttc::Error::PayloadSizeLimitExceeded(
                bytes,
            ))) => {
                self.service.overlong += 1;
                if self.service.overlong >= OVERLONG_MAX {
                    self.service.overlong = 0;
                    self.service.commands_off_until = Some(self.context.clock.now() + PAUSE);
                    let secs = PAUSE.as_ms() / 1000;
                    warn!(
                        "mqtt: again and again a command of more than {INCOMING_BYTES_MAX} bytes; no commands for {secs} s"
                    );
                }
                self.context.meters.refuse(Why::Size);
                format!("a packet of {bytes} bytes, at most {INCOMING_BYTES_MAX} are read")
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => {
                "the broker has closed the connection; if again and again: another client has this site and device"
                    .into()
            }
            ConnectionError::MqttState(StateError::AwaitPingResp) => "the broker gives no sign of life".into(),
            other => other.to_string(),
        }
    }
}
