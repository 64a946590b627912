//! The connection to a real broker: Mosquitto, started here on a free port of the loopback interface.
//!
//! Needs the Debian packages `mosquitto` and `mosquitto-clients`, and `openssl` for the part about TLS; without them a test says that it is
//! skipped. Events come from the sink as in a run; what listens is a client of its own, with a session that the broker keeps.

#![cfg(feature = "mqtt")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use attendant::config::mqtt::Broker as Address;
use attendant::emit::Sink as _;
use attendant::emit::mqtt::client::{self, Context, Options};
use attendant::emit::mqtt::discovery::Input;
use attendant::emit::mqtt::link::Link;
use attendant::emit::mqtt::meters::Meters;
use attendant::emit::mqtt::topics::Topics;
use attendant::emit::mqtt::{MqttSink, backlog};
use attendant::metrics::Registry;
use attendant::signal::{About, Event, EventKind, Mailbox, ModalityView, Monitor, Notices, SCHEMA_VERSION};
use attendant::supervise::network::{Network, Service};
use attendant::time::{Micros, MonotonicClock};
use rumqttc::{Client, Event as Polled, MqttOptions, Packet, QoS};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// From an event being emitted to a subscriber having it, 99 of 100.
const LATENCY_P99_MAX: Duration = Duration::from_millis(20);

fn is_installed(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
    found.is_ok_and(|s| s.success()) || Path::new("/usr/sbin").join(program).exists()
}

/// Whether the programs are there; says so if not.
fn has(programs: &[&str]) -> bool {
    let missing: Vec<&&str> = programs.iter().filter(|p| !is_installed(p)).collect();
    if !missing.is_empty() {
        eprintln!("skipped: {missing:?} not installed (apt-get install mosquitto mosquitto-clients openssl)");
    }
    missing.is_empty()
}

/// Waits until `done`; the processes are real and take their time.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "not within {} s: {what}", SOON.as_secs());
        thread::sleep(Duration::from_millis(5));
    }
}

/// A Mosquitto with a configuration of its own, ended with it.
struct Mosquitto {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    /// With `lines` for its configuration, in which DIR is its directory.
    fn new(lines: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.path().display();
        let text = format!(
            "listener {port} 127.0.0.1\nuser root\npersistence true\npersistence_location {at}/\n\
             max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n{}\n",
            lines.replace("DIR", &at.to_string())
        );
        fs::write(dir.path().join("mosquitto.conf"), text).unwrap();
        Mosquitto { dir, port, child: None }
    }

    fn start(&mut self) {
        let path = if Path::new("/usr/sbin/mosquitto").exists() { "/usr/sbin/mosquitto" } else { "mosquitto" };
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let config = self.dir.path().join("mosquitto.conf");
        let child = Command::new(path).arg("-c").arg(config).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.child = Some(child.unwrap());
        until("the broker listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// It keeps the sessions of its clients, as a broker with persistence does.
    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            Command::new("kill").arg(child.id().to_string()).status().unwrap();
            child.wait().unwrap();
        }
    }

    fn open() -> Self {
        let mut broker = Mosquitto::new("allow_anonymous true");
        broker.start();
        broker
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[derive(Clone, Debug)]
struct Heard {
    topic: String,
    payload: Vec<u8>,
    retained: bool,
    at: Instant,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or(Value::Null)
    }
}

/// A client that remembers everything, with a session that outlives the connection.
struct Ear {
    client: Client,
    heard: Arc<Mutex<Vec<Heard>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    fn new(port: u16, filter: &str, login: Option<(&str, &str)>) -> Self {
        static NAMES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let name = format!("ear-{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let mut options = MqttOptions::new(name, "127.0.0.1", port);
        options.set_clean_session(false);
        if let Some((name, password)) = login {
            options.set_credentials(name, password);
        }
        let (client, mut connection) = Client::new(options, 64);
        client.subscribe(filter, QoS::AtLeastOnce).unwrap();
        let (heard, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let listening = Arc::new(AtomicBool::new(false));
        let thread = {
            let (heard, over, listening) = (Arc::clone(&heard), Arc::clone(&over), Arc::clone(&listening));
            thread::spawn(move || {
                for polled in connection.iter() {
                    match polled {
                        Ok(Polled::Incoming(Packet::Publish(p))) => heard.lock().unwrap().push(Heard {
                            topic: p.topic.clone(),
                            payload: p.payload.to_vec(),
                            retained: p.retain,
                            at: Instant::now(),
                        }),
                        Ok(Polled::Incoming(Packet::SubAck(_))) => listening.store(true, Ordering::Relaxed),
                        Ok(_) => {}
                        Err(_) => thread::sleep(Duration::from_millis(10)),
                    }
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        };
        until("the ear listens", || listening.load(Ordering::Relaxed));
        Ear { client, heard, over, thread: Some(thread) }
    }

    fn all(&self, end_of_topic: &str) -> Vec<Heard> {
        self.heard.lock().unwrap().iter().filter(|h| h.topic.ends_with(end_of_topic)).cloned().collect()
    }

    /// Waits for a message that `is` it.
    fn wait(&self, what: &str, end_of_topic: &str, is: impl Fn(&Heard) -> bool) -> Heard {
        let mut found = None;
        until(what, || {
            found = self.all(end_of_topic).into_iter().find(&is);
            found.is_some()
        });
        found.unwrap()
    }

    fn say(&self, topic: &str, payload: impl Into<Vec<u8>>, retain: bool) {
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload).unwrap();
    }

    /// Sequence numbers in the order of their first coming, and how many came again.
    fn seqs(&self) -> (Vec<u64>, usize) {
        let (mut seqs, mut again) = (Vec::new(), 0);
        for heard in self.all("/events") {
            let seq = heard.json()["seq"].as_u64().unwrap();
            if seqs.contains(&seq) { again += 1 } else { seqs.push(seq) }
        }
        (seqs, again)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.client.disconnect();
        let _ = self.thread.take().unwrap().join();
    }
}

fn options(port: u16, queue_dir: Option<PathBuf>) -> Options {
    let input = |modality: &str, source: &str| Input { modality: modality.into(), source: source.into() };
    Options {
        broker: Address { host: "127.0.0.1".into(), port, tls: false },
        topics: Topics::new("hall", "kiosk-7"),
        login: None,
        tls: Default::default(),
        discovery: Some("homeassistant".into()),
        queue_dir,
        queue_bytes_max: 1 << 20,
        commands: true,
        inputs: vec![input("card", "camera"), input("speech", "mic"), input("request", "text")],
        board: "host",
    }
}

/// A device without its pipeline: the sink, the service and the network's thread.
struct Kiosk {
    sink: MqttSink,
    context: Context,
    network: Option<Network>,
    next: u64,
}

impl Kiosk {
    fn new(options: Options) -> Self {
        let context = Context {
            options: Arc::new(options),
            link: Link::new(),
            mailbox: Arc::new(Mailbox::new()),
            monitor: Arc::new(Monitor::new()),
            notices: Arc::new(Notices::new()),
            meters: Arc::new(Meters::new(&Registry::new())),
            clock: Arc::new(MonotonicClock::new()),
        };
        context.monitor.tell(About { bundle: "kiosk@1.0.0".into(), texts: None });
        let mine = context.clone();
        let service = Service { name: "mqtt", start: Box::new(move || client::start(&mine)) };
        let network = Some(Network::start(vec![service], Arc::default()).unwrap());
        Kiosk { sink: MqttSink::new(Arc::clone(&context.link)), context, network, next: 0 }
    }

    fn emit(&mut self) -> u64 {
        let seq = self.next;
        self.next += 1;
        let modalities = ["card", "speech", "request"].map(|name| ModalityView::absent(name.into()));
        let event = Event {
            v: SCHEMA_VERSION,
            seq,
            t_us: Micros::from_ms(seq),
            kind: EventKind::Start,
            modalities: modalities.into_iter().collect(),
            bundle: "kiosk@1.0.0".into(),
            board: "host",
        };
        self.sink.emit(&event).unwrap();
        seq
    }

    fn connected(&self) -> bool {
        self.context.meters.connected.get() == 1
    }

    fn wait_connected(&self) {
        until("the kiosk is connected", || self.connected());
    }
}

#[test]
fn home_assistant_is_told_and_the_last_will_holds() {
    if !has(&["mosquitto"]) {
        return;
    }
    let broker = Mosquitto::open();
    let mut kiosk = Kiosk::new(options(broker.port, None));
    kiosk.emit();
    kiosk.wait_connected();
    until("everything is acknowledged", || kiosk.context.meters.acked.get() == 1);
    // a client that comes later gets what is retained
    let ear = Ear::new(broker.port, "#", None);
    ear.wait("availability", "/availability", |h| h.retained && h.payload == b"online");
    let state = ear.wait("the state", "/state", |h| h.retained);
    assert_eq!((&state.json()["run"], &state.json()["events"]), (&"running".into(), &1.into()));
    until("every entity", || ear.all("/config").len() == 16);
    let mut components: BTreeMap<String, usize> = BTreeMap::new();
    for entity in ear.all("/config") {
        let json = entity.json();
        assert!(entity.retained, "{}", entity.topic);
        assert_eq!(json["availability_topic"], "attendant/hall/kiosk-7/availability", "{}", entity.topic);
        assert_eq!(json["device"]["identifiers"][0], "attendant__hall__kiosk-7", "{}", entity.topic);
        assert!(json["unique_id"].as_str().is_some_and(|id| id.starts_with("attendant__hall__kiosk-7__")));
        for key in ["state_topic", "command_topic"] {
            let topic = json[key].as_str().unwrap_or("attendant/hall/kiosk-7/");
            assert!(topic.starts_with("attendant/hall/kiosk-7/"), "{}: {topic}", entity.topic);
        }
        *components.entry(entity.topic.split('/').nth(1).unwrap().to_owned()).or_default() += 1;
    }
    let expected = [("binary_sensor", 4), ("number", 1), ("sensor", 7), ("switch", 3), ("text", 1)];
    assert_eq!(components.iter().map(|(c, n)| (c.as_str(), *n)).collect::<Vec<_>>(), expected);
    // another bundle takes over: every entity is retained again, with its name
    let names = |bundle: &str| {
        let software = format!("{} with {bundle}", env!("CARGO_PKG_VERSION"));
        ear.all("/config").iter().filter(|e| e.json()["device"]["sw_version"] == *software).count()
    };
    assert_eq!((names("kiosk@1.0.0"), names("kiosk@1.1.0")), (16, 0));
    until("nobody reads", || kiosk.context.monitor.tell(About { bundle: "kiosk@1.1.0".into(), texts: None }));
    until("every entity with the new bundle", || names("kiosk@1.1.0") == 16);
    // the process dies: nobody says goodbye
    kiosk.network = None;
    ear.wait("the last will", "/availability", |h| h.payload == b"offline");
}

#[test]
fn the_end_of_a_run_is_delivered_and_said() {
    if !has(&["mosquitto"]) {
        return;
    }
    let broker = Mosquitto::open();
    let ear = Ear::new(broker.port, "attendant/#", None);
    let mut kiosk = Kiosk::new(options(broker.port, None));
    kiosk.wait_connected();
    (0..100).for_each(|_| _ = kiosk.emit());
    kiosk.sink.flush().unwrap();
    drop(kiosk);
    ear.wait("goodbye", "/availability", |h| h.payload == b"offline");
    assert_eq!(ear.seqs(), ((0..100).collect(), 0));
}

#[test]
fn a_broker_that_is_away_costs_no_event_and_no_order() {
    if !has(&["mosquitto"]) {
        return;
    }
    // the whole test by hand with an outage of a minute: ATTENDANT_OUTAGE_S=60
    let outage = std::env::var("ATTENDANT_OUTAGE_S").ok().and_then(|s| s.parse().ok()).map_or(1, |s: u64| s);
    let queue = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::new("allow_anonymous true");
    broker.start();
    let ear = Ear::new(broker.port, "attendant/+/+/events", None);
    // room for an outage of ten minutes
    let with = Options { queue_bytes_max: 64 << 20, ..options(broker.port, Some(queue.path().to_owned())) };
    let mut kiosk = Kiosk::new(with);
    kiosk.wait_connected();
    (0..50).for_each(|_| _ = kiosk.emit());
    // some are on their way at this moment
    broker.stop();
    let end = Instant::now() + Duration::from_secs(outage);
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let began = Instant::now();
        kiosk.emit();
        slowest = slowest.max(began.elapsed());
        thread::sleep(Duration::from_millis(10));
    }
    until("all wait on disk", || kiosk.context.meters.queued.get() >= kiosk.next - 50);
    assert!(!kiosk.connected());
    broker.start();
    let back = Instant::now();
    (0..20).for_each(|_| _ = kiosk.emit());
    let last = kiosk.emit();
    ear.wait("the last event", "/events", |h| h.json()["seq"] == last);
    let (seqs, again) = ear.seqs();
    assert_eq!(seqs, (0..=last).collect::<Vec<_>>());
    assert_eq!(kiosk.context.meters.dropped(), 0);
    until("the queue is empty", || kiosk.context.meters.queued.get() == 0);
    println!(
        "{} events over an outage of {outage} s: none lost, none overtaken, {again} twice; all there {} ms after the broker; \
         slowest emit {} us",
        last + 1,
        back.elapsed().as_millis(),
        slowest.as_micros()
    );
}

#[test]
fn events_that_wait_survive_the_process() {
    if !has(&["mosquitto"]) {
        return;
    }
    let queue = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::new("allow_anonymous true");
    let mut kiosk = Kiosk::new(options(broker.port, Some(queue.path().to_owned())));
    (0..30).for_each(|_| _ = kiosk.emit());
    kiosk.sink.flush().unwrap();
    let next = kiosk.next;
    drop(kiosk);
    broker.start();
    let ear = Ear::new(broker.port, "attendant/#", None);
    let mut kiosk = Kiosk::new(options(broker.port, Some(queue.path().to_owned())));
    kiosk.next = next;
    kiosk.emit();
    ear.wait("the new event", "/events", |h| h.json()["seq"] == next);
    assert_eq!(ear.seqs(), ((0..=next).collect(), 0));
}

#[test]
fn a_bound_that_is_reached_drops_the_oldest_and_counts_them() {
    if !has(&["mosquitto"]) {
        return;
    }
    let mut broker = Mosquitto::new("allow_anonymous true");
    let mut kiosk = Kiosk::new(options(broker.port, None));
    let many = backlog::MEMORY_MAX as u64 + 100;
    for _ in 0..many {
        kiosk.emit();
        // no faster than the service takes them, so that the bound that is reached is the queue's
        if kiosk.next.is_multiple_of(100) {
            thread::sleep(Duration::from_millis(20));
        }
    }
    until("all are taken", || kiosk.context.meters.dropped() == 100);
    broker.start();
    let ear = Ear::new(broker.port, "attendant/#", None);
    ear.wait("the last event", "/events", |h| h.json()["seq"] == many - 1);
    let (seqs, _) = ear.seqs();
    assert!(seqs.windows(2).all(|w| w[0] + 1 == w[1]), "{seqs:?}");
}

#[test]
fn a_wrong_password_is_refused_and_the_right_one_delivers() {
    if !has(&["mosquitto", "mosquitto_passwd"]) {
        return;
    }
    let mut broker = Mosquitto::new("allow_anonymous false\npassword_file DIR/passwords");
    let passwords = broker.dir.path().join("passwords");
    let made = Command::new("mosquitto_passwd").arg("-b").arg("-c").arg(&passwords).args(["kiosk", "right"]).status();
    assert!(made.unwrap().success());
    broker.start();
    let secret = broker.dir.path().join("secret");
    let mut with = options(broker.port, None);
    with.login = Some(("kiosk".into(), Some(secret.clone())));
    fs::write(&secret, "wrong\n").unwrap();
    let mut kiosk = Kiosk::new(with);
    kiosk.emit();
    let refused = || {
        let log = fs::read_to_string(broker.dir.path().join("log")).unwrap_or_default();
        log.matches("not authorised").count()
    };
    until("two attempts are refused", || refused() >= 2);
    assert_eq!((kiosk.connected(), kiosk.context.meters.queued.get()), (false, 1));
    // renewed while the device runs
    fs::write(&secret, "right\n").unwrap();
    let ear = Ear::new(broker.port, "attendant/#", Some(("kiosk", "right")));
    ear.wait("the event", "/events", |h| h.json()["seq"] == 0);
}

/// A certificate authority, and a certificate of 127.0.0.1 that it has signed.
fn certificates(dir: &Path, name: &str) {
    let script = format!(
        "set -e; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}-ca.key -out {name}-ca.crt \
         -days 2 -subj /CN={name}-ca 2>/dev/null\n\
         openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.csr -subj /CN=127.0.0.1 2>/dev/null\n\
         printf 'subjectAltName=IP:127.0.0.1\\n' > {name}.ext\n\
         openssl x509 -req -in {name}.csr -CA {name}-ca.crt -CAkey {name}-ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.crt 2>/dev/null"
    );
    let made = Command::new("sh").args(["-c", &script]).current_dir(dir).status().unwrap();
    assert!(made.success(), "openssl made no certificates");
}

#[test]
fn tls_needs_the_right_authority_and_takes_a_clients_certificate() {
    if !has(&["mosquitto", "openssl"]) {
        return;
    }
    let mut broker = Mosquitto::new(
        "allow_anonymous true\ncafile DIR/good-ca.crt\ncertfile DIR/good.crt\nkeyfile DIR/good.key\nrequire_certificate true",
    );
    let dir = broker.dir.path().to_owned();
    ["good", "bad"].iter().for_each(|name| certificates(&dir, name));
    broker.start();
    let with = |ca: &str| {
        let mut options = options(broker.port, None);
        options.broker.tls = true;
        options.tls.ca = Some(dir.join(ca));
        options.tls.client = Some((dir.join("good.crt"), dir.join("good.key")));
        options
    };
    assert_eq!(with("good-ca.crt").check(), Ok(()));
    let said = with("missing.crt").check().unwrap_err();
    assert!(said.contains("missing.crt: "), "{said}");
    let said = with("good.key").check().unwrap_err();
    assert!(said.contains("good.key: no certificate in it"), "{said}");
    let mut stranger = Kiosk::new(with("bad-ca.crt"));
    stranger.emit();
    let mut kiosk = Kiosk::new(with("good-ca.crt"));
    kiosk.emit();
    until("the event is acknowledged", || kiosk.context.meters.acked.get() == 1);
    thread::sleep(Duration::from_millis(500));
    assert_eq!((stranger.connected(), stranger.context.meters.acked.get()), (false, 0), "a broker nobody vouches for");
}

#[test]
fn an_event_is_with_its_subscriber_at_once() {
    if !has(&["mosquitto"]) {
        return;
    }
    let broker = Mosquitto::open();
    let ear = Ear::new(broker.port, "attendant/+/+/events", None);
    let mut kiosk = Kiosk::new(options(broker.port, None));
    kiosk.wait_connected();
    thread::sleep(Duration::from_millis(300));
    let n = 500;
    let sent: Vec<Instant> = (0..n)
        .map(|_| {
            let at = Instant::now();
            kiosk.emit();
            thread::sleep(Duration::from_millis(4));
            at
        })
        .collect();
    until("all have come", || ear.all("/events").len() >= n);
    let mut took: Vec<Duration> =
        ear.all("/events").iter().map(|h| h.at - sent[h.json()["seq"].as_u64().unwrap() as usize]).collect();
    took.sort_unstable();
    let (p50, p99, most) = (took[n / 2], took[n * 99 / 100], took[n - 1]);
    println!("event to subscriber over {n}: p50 {p50:?}, p99 {p99:?}, longest {most:?}");
    assert!(p99 <= LATENCY_P99_MAX, "p99 {p99:?}, expected at most {LATENCY_P99_MAX:?}");
}

/// The whole program with a typist at its standard input, and a broker.
struct Program {
    child: Child,
}

impl Program {
    fn start(broker: &Mosquitto) -> Self {
        let config = broker.dir.path().join("attendant.toml");
        let text =
            format!("[mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\nsite = \"hall\"\ndevice = \"kiosk-7\"\n", broker.port);
        fs::write(&config, text).unwrap();
        let log = fs::File::create(broker.dir.path().join("attendant.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_attendant"));
        command.args(["--json", "run", "--text", "-", "--config"]).arg(config).current_dir(env!("CARGO_MANIFEST_DIR"));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Program { child }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn commands_are_carried_out_or_refused_and_always_answered() {
    if !has(&["mosquitto"]) {
        return;
    }
    let broker = Mosquitto::open();
    let ear = Ear::new(broker.port, "attendant/#", None);
    let at = |command: &str| format!("attendant/hall/kiosk-7/cmd/{command}");
    ear.say(&at("text"), r#"{"text":"from yesterday"}"#, true);
    let mut program = Program::start(&broker);
    let refused = ear.wait("the retained command is refused", "/cmd/result", |h| h.json()["command"] == "text");
    assert_eq!(refused.json()["refused"], "retained");
    ear.say(&at("text"), "", true);

    // every command with a mark, so that its answer is found again
    let rows: &[(&str, &[u8], &str)] = &[
        ("text", br#"{"id":"1","text":"my card was declined at the restaurant"}"#, ""),
        ("text", br#"{"id":"2","text":"   "}"#, "range"),
        ("mute", br#"{"id":"3","source":"mic","muted":true}"#, ""),
        ("mute", br#"{"id":"4","source":"nose","muted":true}"#, "unknown"),
        ("thresholds", br#"{"id":"5","enter":0.83,"exit":0.4}"#, ""),
        ("thresholds", br#"{"id":"6","enter":1.5}"#, "range"),
        ("thresholds", br#"{"id":"7","enter":0.2}"#, "range"),
        ("thresholds", br#"{"id":"8","enter":0.7,"exit":0.9}"#, "range"),
        ("language", br#"{"id":"9","lang":"zh"}"#, ""),
        ("language", br#"{"id":"10","lang":"tlh"}"#, "unknown"),
        ("choice", br#"{"id":"11","class":"desk_99"}"#, "unknown"),
        ("reload", br#"{"id":"12"}"#, "not_offered"),
        ("sing", br#"{"id":"13"}"#, "unsupported"),
        ("text", br#"{"id":"14","text":"x","and":1}"#, "schema"),
    ];
    for (command, payload, _) in rows {
        ear.say(&at(command), *payload, false);
    }
    for (command, payload, expected) in rows {
        let id = serde_json::from_slice::<Value>(payload).unwrap()["id"].clone();
        let answer = ear.wait(&format!("the answer to {command} {id}"), "/cmd/result", |h| h.json()["id"] == id).json();
        let word = answer["refused"].as_str().unwrap_or_default();
        assert_eq!((word, &answer["command"]), (*expected, &Value::from(*command)), "{answer}");
        assert_eq!(answer["ok"].as_bool(), Some(expected.is_empty()), "{answer}");
        assert_eq!(answer["reason"].is_string(), !expected.is_empty(), "{answer}");
    }
    ear.say(&at("text"), vec![0xff, 0xfe], false);
    ear.say(&at("text"), vec![b'x'; 5000], false);
    for word in ["utf8", "size"] {
        ear.wait(word, "/cmd/result", |h| h.json()["refused"] == word);
    }
    // what the commands changed shows in the state, and what was typed led to a decision
    ear.wait("the state", "/state", |h| {
        let state = h.json();
        (state["muted"] == serde_json::json!(["mic"])) && state["thresholds"]["enter"] == 0.83 && state["lang"] == "zh"
    });
    ear.wait("the decision", "/events", |h| h.json()["class"] == "desk_1" && h.json()["state"] == "enter");
    // the end of the program is said
    program.child.stdin.take().unwrap().flush().unwrap();
    ear.wait("the end", "/events", |h| h.json()["kind"] == "end");
    ear.wait("goodbye", "/availability", |h| h.payload == b"offline");
    assert!(program.child.wait().unwrap().success());
}
