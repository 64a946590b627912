//! The web server over real sockets: what is refused, what streams do, and that what is typed and chosen becomes decisions.
#![cfg(feature = "web")]

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use attendant::bundle::Bundle;
use attendant::emit::Sink as _;
use attendant::emit::web::{self, Facts, Rate, Setup, WebSink};
use attendant::metrics::{Histogram, Registry};
use attendant::pipeline::{Options, Pipeline};
use attendant::signal::{
    About, Event, EventKind, Frame, Listing, Mailbox, ModalityState, ModalityView, Monitor, PixelFormat, Posted,
    Preview, SCHEMA_VERSION,
};
use attendant::supervise::network::{Network, Service};
use attendant::time::{Clock, Micros, VirtualClock, now_ns};

/// Long enough that a test which waits it out has failed.
const NEVER: Duration = Duration::from_secs(60);

/// A server with everything around it in the test's hands.
struct Kiosk {
    address: SocketAddr,
    sink: WebSink,
    commands: Arc<Mailbox>,
    monitor: Arc<Monitor>,
    clock: Arc<VirtualClock>,
    seq: u64,
    _network: Network,
}

fn facts() -> Facts {
    Facts {
        board: "host",
        tier: "scalar".into(),
        labels: vec!["desk_3".into(), "desk_8".into(), "none".into()],
        inputs: vec![("card".into(), "camera".into(), false), ("request".into(), "text".into(), true)],
        notice: [("en".to_owned(), "You are seen and heard.".to_owned())].into(),
    }
}

/// The texts of a bundle that knows these languages.
#[derive(Debug)]
struct Texts(&'static [&'static str]);

impl Listing for Texts {
    fn listing(&self) -> serde_json::Value {
        serde_json::json!({ "languages": self.0 })
    }
}

fn about(bundle: &str, languages: &'static [&'static str]) -> About {
    About { bundle: bundle.into(), texts: Some(Arc::new(Texts(languages))) }
}

impl Kiosk {
    fn open() -> Kiosk {
        Kiosk::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Setup)) -> Kiosk {
        let (commands, monitor) = (Arc::new(Mailbox::new()), Arc::new(Monitor::new()));
        assert!(monitor.tell(about("kiosk@1.0.0", &["en"])));
        let clock = Arc::new(VirtualClock::starting_at(Micros::from_ms(1000)));
        let mut setup = Setup {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            facts: facts(),
            names: Vec::new(),
            token: None,
            clients_max: 224,
            rate: Rate { hz: 5, burst_max: 10 },
            preview: None,
            commands: Arc::clone(&commands),
            monitor: Arc::clone(&monitor),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            registry: Arc::new(Registry::new()),
        };
        change(&mut setup);
        let (sink, server) = web::open(setup);
        let address = server.address().unwrap();
        let service = Service { name: "web", start: Box::new(move || Box::pin(server.clone().serve())) };
        let network = Network::start(vec![service], Arc::default()).unwrap();
        monitor.beat(clock.now());
        Kiosk { address, sink, commands, monitor, clock, seq: 0, _network: network }
    }

    fn emit(&mut self, kind: EventKind) {
        let view = |name: &str| ModalityView::absent(name.into());
        let event = Event {
            v: SCHEMA_VERSION,
            seq: self.seq,
            t_us: self.clock.now(),
            kind,
            modalities: ["card", "request"].into_iter().map(view).collect(),
            bundle: "kiosk@1.0.0".into(),
            board: "host",
        };
        self.seq += 1;
        self.sink.emit(&event).unwrap();
    }

    fn notice(&mut self, reason: &str) {
        self.emit(EventKind::Notice { source: "mic".into(), notice: "silent".into(), reason: reason.into() });
    }

    /// Sends `request` as it stands and reads to the end of the connection.
    fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        Answer::read(&mut stream)
    }

    /// A request with the usual headers, after which the connection is closed.
    fn ask(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        self.raw(request(line, headers, body).as_bytes())
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[], "")
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        self.ask(&format!("POST {path}"), &["Content-Type: application/json"], body)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(NEVER)).unwrap();
        stream
    }

    /// An open stream, after its head and its first lines.
    fn follow(&self, path: &str, headers: &[&str]) -> Follower {
        let mut stream = self.connect();
        stream.write_all(request(&format!("GET {path}"), headers, "").as_bytes()).unwrap();
        let mut follower = Follower { lines: BufReader::new(stream) };
        let status = follower.line();
        assert!(status.contains(" 200 "), "{status}");
        while !follower.line().starts_with("retry:") {}
        follower
    }

    /// The value of a line of `/metrics`.
    fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
    }

    /// Asks until it is so: what another thread does a moment later.
    fn wait_for(&self, what: &str, is_so: impl Fn(&Kiosk) -> bool) {
        let began = now_ns();
        while !is_so(self) {
            assert!(now_ns() - began < NEVER.as_nanos() as u64, "{what} did not come");
            std::thread::yield_now();
        }
    }
}

fn request(line: &str, headers: &[&str], body: &str) -> String {
    let has_host = headers.iter().any(|h| h.to_ascii_lowercase().starts_with("host:"));
    let host = if has_host { "" } else { "Host: localhost:8080\r\n" };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let more: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    format!("{line} HTTP/1.1\r\n{host}Connection: close\r\n{length}{more}\r\n{body}")
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(stream: &mut TcpStream) -> Answer {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        loop {
            match stream.read(&mut part) {
                Ok(0) => break,
                Ok(n) => bytes.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => break,
                Err(e) => panic!("{e}"),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> serde_json::Value {
        // an answer of known length is sent as one piece
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

struct Follower {
    lines: BufReader<TcpStream>,
}

impl Follower {
    /// The next line of the stream, without what the transfer adds.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the stream has ended");
        line.trim_end().to_owned()
    }

    /// Type, id and data of the next message; comments are skipped.
    fn message(&mut self) -> (String, String, serde_json::Value) {
        let (mut kind, mut id) = ("message".to_owned(), String::new());
        loop {
            let line = self.line();
            match line.split_once(": ") {
                Some(("event", value)) => value.clone_into(&mut kind),
                Some(("id", value)) => value.clone_into(&mut id),
                Some(("data", value)) => return (kind, id, serde_json::from_str(value).unwrap()),
                _ => {}
            }
        }
    }

    fn seq(&mut self) -> u64 {
        let (kind, _, data) = self.message();
        assert_eq!(kind, "message", "{data}");
        data["seq"].as_u64().unwrap()
    }
}

#[test]
fn every_bad_request_has_its_status_and_its_counter() {
    let kiosk = Kiosk::open();
    let json = "Content-Type: application/json";
    let text = r#"{"text":"hello"}"#;
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(301));
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(5000));
    let head = format!("X: {}", "x".repeat(40_000));
    let many: Vec<String> = (0..80).map(|i| format!("X{i}: y")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let wrong_host = ["Host: evil.example"];
    let cases: &[(&str, &[&str], &str, u16, &str)] = &[
        ("GET /nothing", &[], "", 404, "not_found"),
        ("GET /assets/../mod.rs", &[], "", 404, "not_found"),
        ("GET /assets/..%2f..%2fmod.rs", &[], "", 404, "not_found"),
        ("GET /assets/%2e%2e/mod.rs", &[], "", 404, "not_found"),
        ("GET //etc/passwd", &[], "", 404, "not_found"),
        ("GET /assets/", &[], "", 404, "not_found"),
        ("GET /api/preview.jpg", &[], "", 404, "not_found"),
        ("POST /", &[json], "{}", 405, "method"),
        ("DELETE /api/text", &[], "", 405, "method"),
        ("GET /api/text", &[], "", 405, "method"),
        ("OPTIONS /api/text", &["Origin: http://evil.example"], "", 405, "method"),
        ("GET /", &wrong_host, "", 421, "host"),
        ("GET /api/state", &["Host: localhost.evil.example:8080"], "", 421, "host"),
        ("GET http://evil.example/", &[], "", 421, "host"),
        ("GET /", &["Host: a b"], "", 421, "host"),
        ("GET /", &["Host: localhost", "Host: localhost"], "", 400, "host"),
        ("GET /", &["Host:"], "", 400, "host"),
        ("POST /api/text", &[json, "Origin: http://evil.example"], text, 403, "origin"),
        ("POST /api/text", &[json, "Origin: null"], text, 403, "origin"),
        ("POST /api/text", &[json, "Sec-Fetch-Site: cross-site"], text, 403, "origin"),
        ("POST /api/text", &[], text, 415, "media_type"),
        ("POST /api/text", &["Content-Type: text/plain"], text, 415, "media_type"),
        ("POST /api/text", &["Content-Type: application/jsonx"], text, 415, "media_type"),
        ("POST /api/text", &[json], &large, 413, "size"),
        ("POST /api/text", &[json, "Content-Length: 1000000000"], "", 413, "size"),
        ("POST /api/text", &[json], &long, 413, "size"),
        ("POST /api/text", &[json], "hello", 400, "json"),
        ("POST /api/text", &[json], r#"{"test":"hello"}"#, 400, "json"),
        ("POST /api/text", &[json], r#"{"text":3}"#, 400, "json"),
        ("POST /api/text", &[json], r#"{"text":"  "}"#, 400, "text"),
        ("POST /api/choice", &[json], r#"{"class":"desk_3"}"#, 409, "not_offered"),
        ("POST /api/choice", &[json], r#"{"class":"x\"y"}"#, 409, "not_offered"),
        ("GET /", &[&head], "", 431, "malformed"),
        ("GET /", &many, "", 431, "malformed"),
        ("G\tT /", &[], "", 400, "malformed"),
        ("GET /", &["No colon"], "", 400, "malformed"),
        ("POST /api/text", &[json, "Content-Length: x"], "", 400, "malformed"),
    ];
    let mut wrong = Vec::new();
    for (line, headers, body, status, reason) in cases {
        // so many requests in a row are too many otherwise
        kiosk.clock.sleep_until(kiosk.clock.now() + Micros::from_ms(1000));
        kiosk.monitor.beat(kiosk.clock.now());
        let name = format!("attendant_http_refused_total{{reason=\"{reason}\"}}");
        let before = kiosk.metric(&name);
        let answer = kiosk.ask(line, headers, body);
        let counted = kiosk.metric(&name) - before;
        let is_explained = *reason == "malformed" || answer.body.is_empty() || answer.json()["error"].is_string();
        if answer.status != *status || counted != 1 || !is_explained {
            wrong.push(format!("{line} {headers:.60?}: {status} expected, counted {counted} times, {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!kiosk.commands.take(&mut Posted::default()), "nothing got through");
}

#[test]
fn a_body_without_end_is_refused_while_it_comes() {
    let kiosk = Kiosk::open();
    let mut stream = kiosk.connect();
    let head = "POST /api/text HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
    // the server stops reading: writing ends with an error, or all of it fits into the sockets' buffers
    for _ in 0..64 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    assert_eq!(Answer::read(&mut stream).status, 413);
}

#[test]
fn every_answer_carries_the_security_headers_and_files_are_not_sent_twice() {
    let kiosk = Kiosk::open();
    for path in ["/", "/live", "/api/state", "/assets/kiosk.js", "/nothing", "/healthz", "/metrics"] {
        let answer = kiosk.get(path);
        let wanted = [
            "content-security-policy: default-src 'none'; script-src 'self';",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
            "permissions-policy: ",
        ];
        for header in wanted {
            assert!(answer.head.contains(header), "{path} lacks {header}: {}", answer.head);
        }
        assert!(!answer.head.contains("access-control-"), "{path}: {}", answer.head);
    }
    let files = [
        ("/", "text/html"),
        ("/live", "text/html"),
        ("/assets/index.html", "text/html"),
        ("/assets/kiosk.css", "text/css"),
        ("/assets/live.css", "text/css"),
        ("/assets/kiosk.js", "text/javascript"),
        ("/assets/live.js", "text/javascript"),
        ("/assets/common.js", "text/javascript"),
        ("/assets/strings.js", "text/javascript"),
        ("/assets/keyboard.js", "text/javascript"),
        ("/assets/icon.svg", "image/svg+xml"),
    ];
    for (path, content_type) in files {
        let answer = kiosk.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains(&format!("content-type: {content_type}")), "{path}: {}", answer.head);
        assert!(answer.head.contains("cache-control: no-cache"), "{path}: {}", answer.head);
        let etag = answer.head.lines().find_map(|l| l.strip_prefix("etag: ")).unwrap().to_owned();
        let again = kiosk.ask(&format!("GET {path}"), &[&format!("If-None-Match: {etag}")], "");
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        let head = kiosk.ask(&format!("HEAD {path}"), &[], "");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        let length = |answer: &str| answer.lines().find(|l| l.starts_with("content-length: ")).map(str::to_owned);
        assert_eq!(length(&head.head), length(&answer.head), "{path}: {}", head.head);
    }
}

#[test]
fn a_token_is_asked_for_where_something_is_told() {
    let token = "0123456789abcdef";
    let kiosk = Kiosk::with(|setup| setup.token = Some(token.into()));
    let bearer = format!("Authorization: Bearer {token}");
    for path in ["/api/state", "/api/catalogue", "/api/openapi.json", "/metrics"] {
        let answer = kiosk.get(path);
        assert!(answer.status == 401 && answer.head.contains("www-authenticate: bearer"), "{path}: {answer:?}");
        assert_eq!(kiosk.ask(&format!("GET {path}"), &["Authorization: Bearer 0123456789abcdeX"], "").status, 401);
        assert_eq!(kiosk.ask(&format!("GET {path}"), &[&bearer], "").status, 200, "{path}");
    }
    for path in ["/", "/assets/kiosk.js", "/nothing"] {
        assert_ne!(kiosk.get(path).status, 401, "{path}");
    }
    let json = "Content-Type: application/json";
    assert_eq!(kiosk.ask("POST /api/text", &[json], r#"{"text":"x"}"#).status, 401);
    assert_eq!(kiosk.ask("POST /api/text", &[json, &bearer], r#"{"text":"x"}"#).status, 202);
}

#[test]
fn a_stream_has_what_is_new_and_goes_on_where_it_broke_off() {
    let mut kiosk = Kiosk::open();
    kiosk.emit(EventKind::Start);
    kiosk.wait_for("the event", |k| k.metric("attendant_events_total") == 1);
    let mut first = kiosk.follow("/api/events", &[]);
    kiosk.notice("one");
    let (kind, id, data) = first.message();
    assert_eq!(
        (kind.as_str(), &data["seq"], &data["reason"]),
        ("message", &1.into(), &"one".into()),
        "new events only"
    );
    drop(first);
    (0..50).for_each(|i| kiosk.notice(&i.to_string()));
    let mut second = kiosk.follow("/api/events", &[&format!("Last-Event-ID: {id}")]);
    for seq in 2..52 {
        assert_eq!(second.seq(), seq);
    }
    // from another run of the program: everything that is left, after a gap
    let mut other = kiosk.follow("/api/events", &["Last-Event-ID: 0-7"]);
    let (kind, _, data) = other.message();
    assert_eq!((kind.as_str(), &data["missed"]), ("gap", &0.into()));
    assert_eq!(other.seq(), 0);
}

#[test]
fn what_is_no_longer_kept_is_a_gap() {
    let mut kiosk = Kiosk::open();
    let mut early = kiosk.follow("/api/events", &[]);
    kiosk.notice("first");
    let (_, id, _) = early.message();
    (0..700).for_each(|i| kiosk.notice(&i.to_string()));
    kiosk.wait_for("the events", |k| k.metric("attendant_events_total") == 701);
    let mut late = kiosk.follow("/api/events", &[&format!("Last-Event-ID: {id}")]);
    let (kind, _, data) = late.message();
    assert_eq!((kind.as_str(), &data["missed"]), ("gap", &(701 - 512 - 1).into()));
    assert_eq!(late.seq(), 701 - 512);
    assert!(kiosk.metric("attendant_http_events_missed_total") >= 188);
}

#[test]
fn a_client_that_does_not_read_costs_nobody_else_anything() {
    let mut kiosk = Kiosk::open();
    let slow = kiosk.follow("/api/events", &[]);
    let mut quick = kiosk.follow("/api/events", &[]);
    let reason = "x".repeat(20_000);
    // more than all of the sockets' buffers hold
    for seq in 0..200 {
        kiosk.notice(&reason);
        assert_eq!(quick.seq(), seq);
    }
    // it comes back to life: what fits into the buffers, then a gap, then what is left
    let mut slow = slow;
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < 200 {
        let (kind, _, data) = slow.message();
        match kind.as_str() {
            "gap" => missed += data["missed"].as_u64().unwrap(),
            _ => seen += 1,
        }
    }
    println!("a client that slept saw {seen} events and was told of {missed} that it missed");
    assert!(missed > 0 && seen > 0, "{seen} {missed}");
}

#[test]
fn two_hundred_clients_have_every_event_and_no_more_get_in_than_may() {
    let mut kiosk = Kiosk::with(|setup| setup.clients_max = 200);
    let mut clients: Vec<Follower> = (0..200).map(|_| kiosk.follow("/api/events", &[])).collect();
    let latency = Histogram::new();
    for seq in 0..20 {
        let sent = now_ns();
        kiosk.notice("x");
        for client in &mut clients {
            assert_eq!(client.seq(), seq);
            latency.record(Micros((now_ns() - sent) / 1000));
        }
    }
    let l = latency.summary();
    println!("event to 200 clients, read one after the other: p50 {} us, p99 {} us", l.p50_us, l.p99_us);
    let refused = kiosk.get("/api/events");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(kiosk.get("/api/state").status, 200, "requests still have their seats");
    clients.truncate(1);
    kiosk.notice("so that the server finds them gone");
    kiosk.wait_for("free seats", |k| k.metric("attendant_http_streams") == 1);
}

#[test]
fn an_event_reaches_a_client_in_no_time() {
    let mut kiosk = Kiosk::open();
    let mut client = kiosk.follow("/api/events", &[]);
    let latency = Histogram::new();
    for seq in 0..500 {
        let sent = now_ns();
        kiosk.notice("x");
        assert_eq!(client.seq(), seq);
        latency.record(Micros((now_ns() - sent) / 1000));
    }
    let l = latency.summary();
    println!("event to client: p50 {} us, p99 {} us, max {} us", l.p50_us, l.p99_us, l.max_us);
}

#[test]
fn ten_thousand_connections_come_and_go() {
    let kiosk = Kiosk::open();
    for i in 0..10_000 {
        drop(TcpStream::connect(kiosk.address).unwrap());
        // a full backlog would cost a second each time
        if i % 64 == 0 {
            kiosk.metric("attendant_http_connections");
        }
    }
    kiosk.wait_for("the end of all of them", |k| k.metric("attendant_http_connections") <= 1);
    assert!(kiosk.metric("attendant_http_connections_total") >= 10_000);
}

#[test]
fn connections_beyond_the_bound_are_closed_at_once_and_counted() {
    let kiosk = Kiosk::with(|setup| setup.clients_max = 1);
    // one stream and 32 short ones
    let mut held: Vec<TcpStream> = (0..33).map(|_| kiosk.connect()).collect();
    let mut one_more = kiosk.connect();
    let end = one_more.read(&mut [0]);
    assert!(matches!(end, Ok(0)) || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    held.truncate(10);
    kiosk.wait_for("room", |k| {
        let mut stream = k.connect();
        let sent = stream.write_all(request("GET /healthz", &[], "").as_bytes());
        sent.is_ok() && Answer::read(&mut stream).status != 0
    });
    assert!(kiosk.metric("attendant_http_refused_total{reason=\"connections\"}") >= 1);
}

#[test]
fn texts_and_choices_become_decisions() {
    let bundle = Bundle::open(&attendant::bundle::locate(None).unwrap()).unwrap();
    let mut pipeline = Pipeline::load(&bundle, &Options::default()).unwrap();
    let mut kiosk = Kiosk::with(|setup| setup.facts.labels = pipeline.labels().to_vec());
    let mut page = kiosk.follow("/api/events", &[]);
    let (mut events, mut posted) = (Vec::new(), Posted::default());
    pipeline.start(Micros::ZERO, &mut events);
    let mut now_ms = 0;
    // one turn of the loop, a tenth of a second later
    let mut turn = |kiosk: &mut Kiosk| {
        now_ms += 100;
        let now = Micros::from_ms(now_ms);
        while kiosk.commands.take(&mut posted) {
            pipeline.command(&posted.command, now, &mut events).unwrap();
        }
        pipeline.tick(now, &mut events);
        kiosk.monitor.renew(|snapshot| pipeline.observe(now, snapshot));
        kiosk.monitor.beat(kiosk.clock.now());
        events.drain(..).for_each(|event| kiosk.sink.emit(&event).unwrap());
    };
    turn(&mut kiosk);
    // the page works as a fallback: nothing is seen or heard
    assert_eq!(kiosk.get("/api/state").json()["fallback"], true);
    let answer = kiosk.post("/api/choice", r#"{"class":"desk_7"}"#);
    assert_eq!((answer.status, answer.json()["accepted"].as_bool()), (202, Some(true)), "{answer:?}");
    turn(&mut kiosk);
    let mut decision = |state: &str| loop {
        let (_, _, event) = page.message();
        if event["kind"] == "decision" && event["state"] == state {
            return event;
        }
    };
    let entered = decision("enter");
    assert_eq!((&entered["class"], &entered["by"]), (&"desk_7".into(), &"choice".into()));
    let visit = &kiosk.get("/api/state").json()["visit"];
    assert_eq!((&visit["class"], &visit["state"], &visit["active"]), (&"desk_7".into(), &"enter".into(), &true.into()));
    assert_eq!(visit["advice"]["id"], "desk_7", "{visit}");

    let answer = kiosk.post("/api/text", r#"{"text":"what is the exchange rate from dollars to euros"}"#);
    assert_eq!(answer.status, 202, "{answer:?}");
    (0..20).for_each(|_| turn(&mut kiosk));
    let entered = decision("enter");
    assert!(entered["by"].is_null() && entered["modalities"]["request"]["state"] == "ok", "{entered}");
    let state = kiosk.get("/api/state").json();
    assert_eq!((&state["ready"], &state["modalities"]["request"]["state"]), (&true.into(), &"ok".into()), "{state}");
    assert_eq!(kiosk.get("/api/catalogue").json()["lang"], "en");
}

#[test]
fn a_visitor_who_does_nothing_but_send_is_slowed_down_and_a_full_mailbox_says_so() {
    let kiosk = Kiosk::open();
    let send = |kiosk: &Kiosk| kiosk.post("/api/text", r#"{"text":"hello"}"#).status;
    let statuses: Vec<u16> = (0..12).map(|_| send(&kiosk)).collect();
    assert_eq!(statuses[..10], [202; 10]);
    assert_eq!(statuses[10..], [429; 2]);
    kiosk.clock.sleep_until(kiosk.clock.now() + Micros::from_ms(60_000));
    let statuses: Vec<u16> = (0..10).map(|_| send(&kiosk)).collect();
    assert_eq!(statuses[..6], [202; 6], "the mailbox holds 16");
    assert_eq!(statuses[6..], [503; 4]);
    assert_eq!(kiosk.metric(r#"attendant_http_refused_total{reason="rate"}"#), 2);

    let strict = Kiosk::with(|setup| setup.rate = Rate { hz: 1, burst_max: 2 });
    assert_eq!([(); 4].map(|()| send(&strict)), [202, 202, 429, 429]);
    strict.clock.sleep_until(strict.clock.now() + Micros::from_ms(1000));
    assert_eq!([(); 2].map(|()| send(&strict)), [202, 429]);
    assert_eq!(strict.metric(r#"attendant_http_refused_total{reason="rate"}"#), 3);
}

/// What the inference loop does for a preview: it hands over a picture that says its number, whenever one is wanted.
fn film(preview: &Arc<Preview>) -> impl Drop {
    struct Film(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);
    impl Drop for Film {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
            self.1.take().unwrap().join().unwrap();
        }
    }
    let (over, preview) = (Arc::new(AtomicBool::new(false)), Arc::clone(preview));
    let is_over = Arc::clone(&over);
    let thread = std::thread::spawn(move || {
        let mut number = 0;
        while !is_over.load(Ordering::Relaxed) {
            if preview.is_wanted() {
                number += 1;
                let data = format!("\u{1}picture {number}").into_bytes();
                preview.offer(&Frame { format: PixelFormat::Jpeg, data, ..Frame::default() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    Film(over, Some(thread))
}

#[test]
fn the_newest_picture_is_made_for_who_asks_and_not_too_often() {
    let preview = Arc::new(Preview::new("camera".into()));
    let mut kiosk = Kiosk::with(|setup| setup.preview = Some(Arc::clone(&preview)));
    kiosk.emit(EventKind::Start);
    let film = film(&preview);
    assert_eq!(kiosk.get("/api/state").json()["preview"], true);
    let seen = |kiosk: &Kiosk| kiosk.get("/api/preview.jpg").body;
    let first = kiosk.get("/api/preview.jpg");
    assert_eq!((first.status, &*first.body), (200, "\u{1}picture 1"));
    assert!(first.head.contains("cache-control: no-store") && first.head.contains("content-type: image/jpeg"));
    assert!(!preview.is_wanted(), "nobody asks any more");
    assert_eq!(seen(&kiosk), "\u{1}picture 1", "within half a second all get the same");
    kiosk.clock.sleep_until(Micros::from_ms(1500));
    assert_eq!(seen(&kiosk), "\u{1}picture 2");
    assert_eq!(kiosk.metric("attendant_http_previews_total"), 3);

    // a page elsewhere that shows it, another name
    for (header, status) in [
        ("Origin: http://evil.example", 403),
        ("Sec-Fetch-Site: cross-site", 403),
        ("Sec-Fetch-Site: same-origin", 200),
    ] {
        assert_eq!(kiosk.ask("GET /api/preview.jpg", &[header], "").status, status, "{header}");
    }
    let stranger = "GET /api/preview.jpg HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(kiosk.raw(stranger.as_bytes()).status, 421);

    // hidden: muted by a command, by the switch (which looks like a device that is gone), and failed
    let says = |state, reason: &str| EventKind::Modality { modality: "card".into(), state, reason: reason.into() };
    let hidden = [
        (says(ModalityState::Absent, "muted"), "camera is muted"),
        (says(ModalityState::Failed, "camera: muted by the switch"), "camera has failed: camera: muted by the switch"),
    ];
    for (kind, why) in hidden {
        kiosk.emit(kind);
        kiosk.wait_for("the refusal", |k| k.get("/api/preview.jpg").status == 503);
        let refused = kiosk.get("/api/preview.jpg");
        assert_eq!((refused.status, &refused.json()["error"]), (503, &serde_json::json!(why)));
        kiosk.emit(says(ModalityState::Ok, "samples arrive"));
        kiosk.wait_for("the camera", |k| k.get("/api/preview.jpg").status == 200);
    }
    assert_eq!(seen(&kiosk), "\u{1}picture 4", "a picture from before it was hidden is not shown again");
    assert!(kiosk.monitor.renew(|s| s.muted.push("camera".into()).unwrap()));
    assert_eq!(kiosk.get("/api/preview.jpg").status, 503, "before its event has come");
    assert!(kiosk.monitor.renew(|s| s.muted.clear()));

    // a camera that gives nothing
    drop(film);
    kiosk.clock.sleep_until(Micros::from_ms(2500));
    let refused = kiosk.get("/api/preview.jpg");
    assert_eq!((refused.status, &refused.json()["error"]), (503, &"camera has given no picture for 1500 ms".into()));
    assert!(!preview.is_wanted(), "who has gone away wants none");
    assert!(kiosk.metric(r#"attendant_http_refused_total{reason="no_picture"}"#) >= 4);
}

#[test]
fn health_is_of_the_loop_and_of_the_modalities() {
    let mut kiosk = Kiosk::open();
    let health = |kiosk: &Kiosk| {
        let answer = kiosk.get("/healthz");
        (answer.status, answer.body)
    };
    let modality = |modality: &str, state, reason: &str| EventKind::Modality {
        modality: modality.into(),
        state,
        reason: reason.into(),
    };
    assert_eq!(health(&kiosk).0, 503, "the run has not begun");
    kiosk.emit(EventKind::Start);
    kiosk.wait_for("readiness", |k| health(k).0 == 200);
    kiosk.emit(modality("card", ModalityState::Failed, "unplugged"));
    kiosk.emit(modality("request", ModalityState::Absent, "muted"));
    kiosk.wait_for("the end of readiness", |k| health(k).0 == 503);
    assert_eq!(health(&kiosk).1, "not ready: card: unplugged; request: muted\n");
    kiosk.emit(modality("card", ModalityState::Ok, "samples arrive"));
    kiosk.wait_for("readiness", |k| health(k).0 == 200);
    // the loop hangs
    kiosk.clock.sleep_until(kiosk.clock.now() + Micros::from_ms(3500));
    assert_eq!(health(&kiosk), (503, "not ready: the inference loop has not come round for 3500 ms\n".into()));
    kiosk.monitor.beat(kiosk.clock.now());
    assert_eq!(health(&kiosk).0, 200);
    kiosk.monitor.end();
    assert_eq!(health(&kiosk), (503, "not ready: the inference loop does not run\n".into()));
}

#[test]
fn a_bundle_that_takes_over_is_named_wherever_the_one_before_was() {
    let kiosk = Kiosk::open();
    let named = |bundle: &str, languages: &[&str]| {
        let json = |path: &str| serde_json::from_str::<serde_json::Value>(&kiosk.get(path).body).unwrap();
        assert_eq!(json("/api/state")["bundle"], *bundle);
        assert_eq!(json("/api/catalogue")["languages"], serde_json::json!(languages));
        let info = format!(r#"attendant_build_info{{bundle="{bundle}",board="host",kernels="scalar"}}"#);
        assert_eq!(kiosk.metric(&info), 1);
    };
    named("kiosk@1.0.0", &["en"]);
    kiosk.wait_for("a moment in which nobody reads", |k| k.monitor.tell(about("kiosk@1.1.0", &["en", "zh"])));
    named("kiosk@1.1.0", &["en", "zh"]);
    kiosk.wait_for("a moment in which nobody reads", |k| k.monitor.tell(about("kiosk@1.0.0", &["en"])));
    named("kiosk@1.0.0", &["en"]);
}

#[test]
fn telemetry_shows_the_newest_look_at_the_run() {
    let kiosk = Kiosk::open();
    kiosk.monitor.renew(|s| {
        s.fused = vec![0.25, 0.5, 0.25];
        s.mel = vec![-12.345; 40];
        s.t = Micros(7);
    });
    kiosk.monitor.latencies.encode.record(Micros(1500));
    let mut client = kiosk.follow("/api/telemetry", &[]);
    let (_, _, first) = client.message();
    assert_eq!((&first["t_us"], &first["fused"]), (&7.into(), &serde_json::json!([0.25, 0.5, 0.25])), "{first}");
    assert_eq!((first["mel"].as_array().unwrap().len(), &first["mel"][0]), (40, &serde_json::json!(-12.35)), "{first}");
    assert_eq!(first["stages"]["encode"]["p50_us"], 1500, "{first}");
    assert_eq!((&first["clients"], &first["temperature_c"]), (&1.into(), &serde_json::Value::Null));
    assert!(first["rss_bytes"].as_u64().unwrap() > 1 << 20, "{first}");
    assert_eq!(first["sensors"], serde_json::json!([{ "name": "camera", "open": false }]));
    kiosk.monitor.renew(|s| s.mel.clear());
    while !client.message().2["mel"].is_null() {}
}

#[test]
fn metrics_are_in_the_format_and_named_by_convention() {
    let mut kiosk = Kiosk::open();
    kiosk.emit(EventKind::Start);
    kiosk.monitor.latencies.step.record(Micros(900));
    kiosk.monitor.renew(|s| {
        s.modalities = ["card", "re\"quest"].into_iter().map(|n| ModalityView::absent(n.into())).collect();
        s.counters = (0..2).map(|_| attendant::signal::StageCounters::default()).collect();
        s.sources = vec![attendant::signal::SourceView { name: "camera".into(), open: true, ..Default::default() }];
        s.celsius = Some(51.5);
    });
    let answer = kiosk.get("/metrics");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let (mut family, mut kind, mut seen) = ("", "", std::collections::BTreeSet::new());
    for line in answer.body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(seen.insert(name) && help.ends_with('.'), "{line}");
            family = name;
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            (_, kind) = rest.split_once(' ').unwrap();
            assert!(rest.starts_with(family) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", family.ends_with("_total"), "{line}");
            assert!(kind != "histogram" || family.ends_with("_seconds"), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|e| panic!("{line}: {e}"));
        let name = series.split('{').next().unwrap();
        let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(suffixes.iter().any(|s| format!("{family}{s}") == name), "{line} is not of {family}");
        assert!(!series.contains('{') || series.ends_with('}'), "{line}");
    }
    for line in [
        "attendant_device_open{source=\"camera\"} 1",
        "attendant_modality_state{modality=\"re\\\"quest\",state=\"absent\"} 1",
        "attendant_stage_seconds_bucket{stage=\"step\",le=\"0.001024\"} 1",
        "attendant_stage_seconds_bucket{stage=\"step\",le=\"+Inf\"} 1",
        "attendant_temperature_celsius 51.5",
    ] {
        assert!(answer.body.contains(&format!("{line}\n")), "{line} is not in\n{}", answer.body);
    }
}
