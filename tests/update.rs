//! New bundles: examined, swapped into a live run without losing a window, given up if they do not do, and the disk whole after a kill.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use attendant::bundle::Bundle;
use attendant::bundle::install::Store;
use attendant::bundle::pack::{self, GOLDEN, Packed, Packing};
use attendant::bundle::refused::Why;
use attendant::bundle::sign::{Trust, normalized};
use attendant::capture::recording::Recording;
use attendant::capture::{CaptureError, Mic};
use attendant::emit::{JsonLines, Sink, SinkError};
use attendant::metrics::Registry;
use attendant::pipeline::{Health, Options, Pipeline};
use attendant::signal::{AudioBlock, Command as Asked, Event, EventKind, Mailbox, Monitor, Notices, Sample, Utterance};
use attendant::supervise::update::{Limits, Settings, Updater, golden, self_test};
use attendant::supervise::{LiveSource, Opener, Outcome, Outside, Upkeep, live};
use attendant::time::{Clock, Micros, VirtualClock};

fn kiosk() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/kiosk")
}

fn copy(name: &str, into: &Path) {
    fs::copy(kiosk().join(name), into.join(name)).unwrap();
}

/// A bundle of one encoder, which reads what is typed: small enough to be tried again and again.
fn reader(dir: &Path, version: &str) -> Bundle {
    fs::create_dir_all(dir).unwrap();
    ["request.int8.onnx", "labels.txt", "intents.txt", "tokenizer.json", "demo.mcap"].iter().for_each(|f| copy(f, dir));
    let manifest = format!(
        r#"
[bundle]
name = "reader"
version = "{version}"
[[encoder]]
name = "request"
source = "text"
model = "request.int8.onnx"
labels = "labels.txt"
[encoder.text]
tokenizer = "tokenizer.json"
max_tokens = 32
pad_id = 0
hold_ms = 4000
[encoder.intents]
labels = "intents.txt"
threshold = 0.5
[decision]
none = "none"
smoothing_ms = 120
enter = 0.6
[demo]
recording = "demo.mcap"
"#
    );
    fs::write(dir.join("bundle.toml"), manifest).unwrap();
    Bundle::open(dir).unwrap()
}

/// Makes the scales of the layer that gives the logits so large that what comes out is not finite.
fn poison(model: &Path, layer: &str) {
    let mut bytes = fs::read(model).unwrap();
    let name = format!("{layer}.weight_scaleJ");
    let at = (0..bytes.len()).rev().find(|i| bytes[*i..].starts_with(name.as_bytes())).expect("the layer's scales");
    let (from, len) = (at + name.len() + 1, usize::from(bytes[at + name.len()]));
    bytes[from..from + len].chunks_exact_mut(4).for_each(|scale| scale.copy_from_slice(&f32::MAX.to_le_bytes()));
    fs::write(model, bytes).unwrap();
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from:?} is not in {}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}

/// A clock on which every look takes so long.
struct Slow(AtomicU64, u64);

impl Clock for Slow {
    fn now(&self) -> Micros {
        Micros(self.0.fetch_add(self.1, Ordering::Relaxed))
    }

    fn sleep_until(&self, _: Micros) {}
}

#[test]
fn a_bundle_that_does_not_give_its_golden_events_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    let events = golden(&reader(&good, "1.0.0"), &Options::default()).unwrap();
    assert!(String::from_utf8_lossy(&events).contains(r#""kind":"decision""#), "the demo has typed requests");
    type Break = fn(&Path);
    let fast = || Box::new(VirtualClock::default()) as Box<dyn Clock>;
    let slow = |us: u64| Box::new(Slow(AtomicU64::new(0), us)) as Box<dyn Clock>;
    let time_max = Micros::from_ms(3_600_000);
    // (case, what is done to it, its clock, what it may take, reason, piece of the message)
    type Row = (&'static str, Break, Box<dyn Clock>, Micros, Why, &'static str);
    let cases: Vec<Row> = vec![
        (
            "no golden events",
            |d| fs::remove_file(d.join(GOLDEN)).unwrap(),
            fast(),
            time_max,
            Why::Untested,
            "bundle pack",
        ),
        (
            "nothing decided",
            |d| fs::write(d.join(GOLDEN), "{}\n").unwrap(),
            fast(),
            time_max,
            Why::Untested,
            "no decision",
        ),
        ("no events", |d| fs::write(d.join(GOLDEN), "x").unwrap(), fast(), time_max, Why::Untested, "line 1"),
        ("no demo", |d| fs::remove_file(d.join("demo.mcap")).unwrap(), fast(), time_max, Why::Untested, "no demo"),
        (
            "wrong classes",
            |d| {
                let text = fs::read_to_string(d.join("labels.txt")).unwrap();
                fs::write(
                    d.join("labels.txt"),
                    text.replace("desk_1\n", "x\n").replace("desk_2\n", "desk_1\n").replace("x\n", "desk_2\n"),
                )
                .unwrap();
            },
            fast(),
            time_max,
            Why::Wrong,
            "differs from the golden one",
        ),
        (
            "another threshold",
            |d| replace(&d.join("bundle.toml"), "enter = 0.6", "enter = 0.95"),
            fast(),
            time_max,
            Why::Wrong,
            "",
        ),
        (
            "an event less",
            |d| {
                let text = fs::read_to_string(d.join(GOLDEN)).unwrap();
                let lines: Vec<&str> = text.lines().collect();
                fs::write(d.join(GOLDEN), lines[..lines.len() - 1].join("\n")).unwrap();
            },
            fast(),
            time_max,
            Why::Wrong,
            "the golden ones are",
        ),
        (
            "no numbers",
            |d| poison(&d.join("request.int8.onnx"), "logits"),
            fast(),
            time_max,
            Why::Wrong,
            "no finite number",
        ),
        (
            "a model cut off",
            |d| {
                let bytes = fs::read(d.join("request.int8.onnx")).unwrap();
                fs::write(d.join("request.int8.onnx"), &bytes[..bytes.len() / 2]).unwrap();
            },
            fast(),
            time_max,
            Why::Unfit,
            "request.int8.onnx",
        ),
        ("over time", |_| (), slow(50_000), Micros::from_ms(1000), Why::Slow, "after 1000 ms"),
        ("slower than it was recorded", |_| (), slow(100_000), time_max, Why::Slow, "took"),
    ];
    let mut wrong = Vec::new();
    for (i, (case, break_it, clock, time_max, why, piece)) in cases.into_iter().enumerate() {
        let dir = dir.path().join(i.to_string());
        reader(&dir, "1.0.0");
        fs::write(dir.join(GOLDEN), &events).unwrap();
        break_it(&dir);
        let bundle = Bundle::open(&dir).unwrap();
        match self_test(&bundle, &Options::default(), &*clock, &Limits { time_max }) {
            Err(refused) if refused.why == why && refused.message.contains(piece) => {}
            other => wrong.push(format!("{case}: {other:?}, expected {why:?} and {piece:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    fs::write(good.join(GOLDEN), &events).unwrap();
    let tested =
        self_test(&Bundle::open(&good).unwrap(), &Options::default(), &VirtualClock::default(), &Limits { time_max });
    assert!(tested.unwrap().events > 3);
}

struct Keys {
    pair: minisign::KeyPair,
}

impl Keys {
    fn new() -> Self {
        Keys { pair: minisign::KeyPair::generate_unencrypted_keypair().unwrap() }
    }

    fn public(&self) -> String {
        self.pair.pk.to_base64()
    }

    fn trust(&self) -> Trust {
        Trust::new(&[self.public()], true).unwrap()
    }

    /// The bundle in `dir` as a signed file.
    fn pack(&self, dir: &Path, counter: u64) -> Vec<u8> {
        let bundle = Bundle::open_manifest_only(dir).unwrap();
        let identity = &bundle.manifest.bundle;
        let (name, version) = (identity.name.as_str(), identity.version.as_str());
        let packing = Packing { name, version, counter, leave_out: &[], more: &[] };
        let (mut plain, mut signed) = (Vec::new(), Vec::new());
        pack::pack(dir, &packing, &mut plain).unwrap();
        let manifest = Packed::open(&plain[..], &Trust::anything()).unwrap().manifest_bytes;
        let text =
            minisign::sign(None, &self.pair.sk, Cursor::new(manifest), Some("x"), Some("y")).unwrap().into_string();
        pack::with_signature(Cursor::new(&plain), &normalized(&text).unwrap(), &mut signed).unwrap();
        signed
    }
}

/// The shipped bundle without its demo, under another version.
fn kiosk_copy(dir: &Path, version: &str) {
    fs::create_dir_all(dir).unwrap();
    for name in fs::read_dir(kiosk()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()) {
        if !name.ends_with(".md") && name != "demo.mcap" && name != "report.json" {
            copy(&name, dir);
        }
    }
    replace(&dir.join("bundle.toml"), "version = \"1.0.0\"", &format!("version = \"{version}\""));
}

/// Something that has to be so before a block of sound is heard.
type Gate = Box<dyn FnMut() -> bool + Send>;

/// A microphone that hears what the demo's did, and waits for what has to be so. Virtual time passes when it delivers, so it also waits until
/// the inference loop has come round: no machine is too slow for this test.
struct Scripted {
    blocks: VecDeque<AudioBlock>,
    gates: VecDeque<(Micros, Gate)>,
    clock: Arc<dyn Clock>,
    monitor: Arc<Monitor>,
}

/// Waits until `is_so`, a minute or two at most.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("{what} did not come");
}

impl Mic for Scripted {
    fn read(&mut self, into: &mut AudioBlock) -> Result<(), CaptureError> {
        let Some(next) = self.blocks.front() else { return Err(CaptureError::end("mic")) };
        let now = self.clock.now();
        wait("a turn of the loop", || self.monitor.last_beat().is_some_and(|beat| beat >= now));
        if let Some((at, gate)) = self.gates.front_mut()
            && next.t >= *at
        {
            wait("what the microphone waits for", gate);
            self.gates.pop_front();
        }
        *into = self.blocks.pop_front().unwrap();
        Ok(())
    }
}

/// Sound of the demo up to `end`.
fn sound(end: Micros) -> VecDeque<AudioBlock> {
    let mut recording = Recording::open(&kiosk().join("demo.mcap")).unwrap();
    let (mut sample, mut blocks) = (Sample::default(), VecDeque::new());
    while let Some(_source) = recording.next(&mut sample).unwrap() {
        if let Sample::Audio(block) = &sample {
            if block.t > end {
                break;
            }
            blocks.push_back(block.clone());
        }
    }
    blocks
}

/// Compares what observers are told of the bundle with what every event says, as it comes.
struct Witness<'a> {
    monitor: Arc<Monitor>,
    wrong: &'a mut Vec<String>,
    languages: &'a mut Vec<serde_json::Value>,
}

impl Sink for Witness<'_> {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        let about = self.monitor.about();
        if about.bundle != event.bundle {
            self.wrong.push(format!("event {} of {}: told {}", event.seq, event.bundle, about.bundle));
        }
        let languages = about.texts.unwrap().listing()["languages"].clone();
        if self.languages.last() != Some(&languages) {
            self.languages.push(languages);
        }
        Ok(())
    }
}

/// A live run of the shipped bundle whose microphone waits for `gates`.
struct Run {
    outcome: Outcome,
    lines: String,
    windows: u64,
    bundle: String,
    /// Of the catalogues that observers were told of, in turn.
    languages: Vec<serde_json::Value>,
}

fn run(dir: &Path, end: Micros, gates: Vec<(Micros, Gate)>, outside: Outside) -> Run {
    let bundle = Bundle::open(dir).unwrap();
    let mut pipeline = Pipeline::load(&bundle, &Options::default()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(VirtualClock::default());
    let monitor = Arc::new(Monitor::new());
    let outside = Outside { monitor: Some(Arc::clone(&monitor)), ..outside };
    let (mut wrong, mut languages) = (Vec::new(), Vec::new());
    let witness = Witness { monitor: Arc::clone(&monitor), wrong: &mut wrong, languages: &mut languages };
    let mic = Scripted { blocks: sound(end), gates: gates.into(), clock: Arc::clone(&clock), monitor };
    let mic = Mutex::new(Some(mic));
    let open = move || {
        let mic = mic.lock().unwrap().take().ok_or_else(|| CaptureError::end("mic"))?;
        Ok(Box::new(mic) as Box<dyn Mic>)
    };
    let sources = vec![LiveSource { name: "mic".into(), paced: true, opener: Opener::Mic(Box::new(open)) }];
    let mut lines = Vec::new();
    let outcome = {
        let mut sinks: Vec<Box<dyn Sink + '_>> =
            vec![Box::new(JsonLines::new("memory", &mut lines)), Box::new(witness)];
        let mut upkeep = Upkeep { outside, ..Upkeep::default() };
        live(sources, &mut pipeline, &clock, &mut sinks, &AtomicBool::new(false), &mut upkeep).unwrap()
    };
    assert!(wrong.is_empty(), "{wrong:?}");
    let windows = pipeline.counters().map(|(_, c)| c.windows).sum();
    Run { outcome, lines: String::from_utf8(lines).unwrap(), windows, bundle: pipeline.bundle().to_string(), languages }
}

/// A device with an inbox, and a run on it.
struct Device {
    dir: tempfile::TempDir,
    keys: Keys,
    mailbox: Arc<Mailbox>,
    notices: Arc<Notices>,
    registry: Registry,
}

impl Device {
    fn new() -> Self {
        let (mailbox, notices) = (Arc::new(Mailbox::new()), Arc::new(Notices::new()));
        Device { dir: tempfile::tempdir().unwrap(), keys: Keys::new(), mailbox, notices, registry: Registry::new() }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn inbox(&self) -> PathBuf {
        self.dir.path().join("inbox")
    }

    fn store(&self) -> Store {
        Store::open(&self.state(), self.keys.trust()).unwrap()
    }

    fn put(&self, name: &str, file: &[u8]) -> PathBuf {
        fs::create_dir_all(self.inbox()).unwrap();
        let path = self.inbox().join(name);
        fs::write(&path, file).unwrap();
        path
    }

    /// Whoever sends `reload`, and then waits until the file is not in the inbox any more.
    fn reload(&self, path: &Path) -> Gate {
        let (mailbox, path, mut is_sent) = (Arc::clone(&self.mailbox), path.to_owned(), false);
        Box::new(move || {
            if !std::mem::replace(&mut is_sent, true) {
                mailbox.send(Asked::Reload).unwrap();
            }
            !path.exists()
        })
    }

    /// Waits until a step of an update has been done.
    fn until(&self, step: &'static str) -> Gate {
        let counter = self.registry.counter("attendant_update_steps_total", "", &[("step", step)]);
        Box::new(move || counter.get() > 0)
    }

    fn run(&self, end: Micros, gates: Vec<(Micros, Gate)>) -> Run {
        let mut store = self.store();
        let chosen = store.start();
        let dir = chosen.dir.unwrap_or_else(kiosk);
        let settings = Settings {
            inbox: self.inbox(),
            look_every: None,
            limits: None,
            probation: Micros::from_ms(8000),
            own: kiosk(),
            running: "kiosk".into(),
            options: Options::default(),
            is_on_trial: chosen.is_on_trial,
        };
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock::default());
        let (asked, notices) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.notices));
        let updater = Updater::start(store, settings, clock, notices, &self.registry, asked).unwrap();
        let outside = Outside {
            commands: Some(Arc::clone(&self.mailbox)),
            notices: Some(Arc::clone(&self.notices)),
            updates: Some(updater.updates()),
            ..Outside::default()
        };
        run(&dir, end, gates, outside)
    }
}

const SECOND: Micros = Micros::from_ms(1000);

#[test]
fn a_new_bundle_takes_over_in_a_live_run_without_losing_a_window() {
    let end = Micros(16 * SECOND.0);
    let plain = run(&kiosk(), end, Vec::new(), Outside::default());
    let device = Device::new();
    let next = device.dir.path().join("next");
    kiosk_copy(&next, "1.1.0");
    replace(&next.join("advice.toml"), r#"languages = ["en", "zh"]"#, r#"languages = ["zh", "en"]"#);
    let path = device.put("kiosk-1.1.0.attendant", &device.keys.pack(&next, 3));
    let updated = device.run(end, vec![(Micros(3 * SECOND.0), device.reload(&path))]);
    assert!(updated.lines.contains(r#""notice":"swapped""#), "{}", updated.lines);
    assert_eq!(updated.bundle, "kiosk@1.1.0", "{}", updated.lines);
    assert!(updated.lines.contains(r#""bundle":"kiosk@1.0.0""#) && updated.lines.contains(r#""bundle":"kiosk@1.1.0""#));
    assert_eq!(updated.languages, [serde_json::json!(["en", "zh"]), serde_json::json!(["zh", "en"])]);
    assert_eq!(updated.windows, plain.windows, "no window is lost, none is made twice");
    assert!(plain.windows > 50, "{} windows", plain.windows);
    assert_eq!((updated.outcome.samples, updated.outcome.restarts[0].dropped), (plain.outcome.samples, 0));
    let numbers = |run: &Run| -> Vec<u64> {
        run.lines
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["seq"].as_u64().unwrap())
            .collect()
    };
    let seq = numbers(&updated);
    assert!(seq.iter().copied().eq(0..seq.len() as u64), "events are numbered on: {seq:?}");
    // the same models: the same decisions
    let decisions = |run: &Run| -> Vec<String> {
        let events = run.lines.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        events.filter(|e| e["kind"] == "decision").map(|e| format!("{} {}", e["class"], e["state"])).collect()
    };
    assert_eq!(decisions(&updated), decisions(&plain));
    let store = device.store();
    assert_eq!((store.state().counter, store.state().trial_starts), (3, None), "it has proven itself");
    assert!(store.state().current.as_deref().unwrap().starts_with("1.1.0-"));
}

#[test]
fn a_bundle_that_does_not_do_is_given_up_and_the_old_one_goes_on() {
    let device = Device::new();
    let next = device.dir.path().join("next");
    kiosk_copy(&next, "1.1.0");
    poison(&next.join("speech.int8.onnx"), "classify");
    let path = device.put("kiosk-1.1.0.attendant", &device.keys.pack(&next, 3));
    let run = device.run(Micros(16 * SECOND.0), vec![(Micros(3 * SECOND.0), device.reload(&path))]);
    assert!(run.lines.contains(r#""notice":"swapped""#), "{}", run.lines);
    assert_eq!(run.bundle, "kiosk@1.0.0", "{}", run.lines);
    // the bundle before has its texts back; both have the same
    assert_eq!(run.languages.len(), 1);
    let last = run.lines.lines().rfind(|l| l.contains(r#""modality":"speech","state""#)).unwrap();
    assert!(last.contains(r#""modality":"speech","state":"ok""#), "{last}");
    let store = device.store();
    let state = store.state();
    assert_eq!((state.current.as_deref(), state.counter, state.trial_starts), (None, 0, None), "the device's own runs");
    assert!(state.bad.len() == 1 && state.bad[0].starts_with("1.1.0-"), "{state:?}");
}

#[test]
fn a_silent_device_and_a_text_that_cannot_be_read_are_not_the_bundles_doing() {
    let mut pipeline = Pipeline::load(&Bundle::open(&kiosk()).unwrap(), &Options::default()).unwrap();
    let mut events = Vec::new();
    let health = |pipeline: &Pipeline, name: &str, now: Micros| {
        pipeline.health(now, |_| true).find(|(of, _)| ***of == *name).map(|(_, health)| health).unwrap()
    };
    let mut blocks = sound(Micros(12 * SECOND.0));
    let late = blocks.pop_back().unwrap();
    for block in blocks.into_iter().take_while(|b| b.t < Micros(4 * SECOND.0)) {
        let now = block.t + Micros::from_ms(200);
        pipeline.process("mic", &Sample::Audio(block), now, &mut events);
    }
    assert_eq!(health(&pipeline, "speech", Micros(4 * SECOND.0)), Health::Fresh);
    let now = Micros(10 * SECOND.0);
    pipeline.tick(now, &mut events);
    assert_eq!(health(&pipeline, "speech", now), Health::Idle, "nothing has come for six seconds");
    let now = Micros(12 * SECOND.0);
    pipeline.process("mic", &Sample::Audio(late), now, &mut events);
    assert_eq!(health(&pipeline, "speech", now), Health::Ailing, "sound comes, and there is no token");

    let text = Utterance { t: now, text: "\u{0}\u{7}".into() };
    pipeline.process("text", &Sample::Text(text), now, &mut events);
    let now = now + SECOND;
    pipeline.tick(now, &mut events);
    let said = events
        .iter()
        .any(|e| matches!(&e.kind, EventKind::Modality { reason, .. } if reason.contains("nothing readable")));
    assert!(said, "{events:?}");
    assert_eq!(health(&pipeline, "request", now), Health::Idle);
}

#[test]
fn what_is_refused_is_put_aside_and_changes_nothing() {
    let device = Device::new();
    let next = device.dir.path().join("next");
    kiosk_copy(&next, "1.1.0");
    let mut file = device.keys.pack(&next, 3);
    let stranger = Keys::new().pack(&next, 4);
    let middle = file.len() / 2;
    file[middle] ^= 1;
    let broken = device.put("a.attendant", &file);
    let foreign = device.put("b.attendant", &stranger);
    let other = device.put("notes.txt", b"not a bundle");
    let gates = vec![(SECOND, device.reload(&broken)), (Micros(2 * SECOND.0), device.reload(&foreign))];
    let run = device.run(Micros(4 * SECOND.0), gates);
    assert_eq!(run.bundle, "kiosk@1.0.0");
    for piece in ["a.attendant: refused (part)", "b.attendant: refused (key)"] {
        assert!(run.lines.contains(piece), "{piece} in {}", run.lines);
    }
    let left = |path: &Path| PathBuf::from(format!("{}.refused", path.display())).exists();
    assert!(left(&broken) && left(&foreign) && other.exists());
    assert_eq!(device.store().state().current, None);
}

#[test]
fn a_program_that_starts_with_a_bundle_that_does_not_do_goes_back_to_its_own() {
    let device = Device::new();
    let next = device.dir.path().join("next");
    kiosk_copy(&next, "1.1.0");
    poison(&next.join("speech.int8.onnx"), "classify");
    let mut store = device.store();
    let installed = store.install(&device.keys.pack(&next, 3)[..], "kiosk").unwrap();
    store.switch(&installed.id).unwrap();
    drop(store);
    let run = device.run(Micros(16 * SECOND.0), vec![(Micros(10 * SECOND.0), device.until("swapped"))]);
    assert!(
        run.lines.contains(r#""notice":"reverted","reason":"at the start: speech has not been fresh for 5000 ms""#),
        "{}",
        run.lines
    );
    assert_eq!(run.bundle, "kiosk@1.0.0", "{}", run.lines);
    let last = run.lines.lines().rfind(|l| l.contains(r#""modality":"speech","state""#)).unwrap();
    assert!(last.contains(r#""modality":"speech","state":"ok""#), "{last}");
    let store = device.store();
    assert_eq!((store.state().current.as_deref(), store.state().bad.len()), (None, 1));
}

#[test]
fn a_bundle_of_other_modalities_waits_for_the_next_start() {
    let device = Device::new();
    let next = device.dir.path().join("next");
    kiosk_copy(&next, "2.0.0");
    replace(&next.join("bundle.toml"), "name = \"speech\"", "name = \"voice\"");
    let path = device.put("kiosk-2.0.0.attendant", &device.keys.pack(&next, 3));
    let gates = vec![(SECOND, device.reload(&path)), (Micros(2 * SECOND.0), device.until("restart"))];
    let run = device.run(Micros(3 * SECOND.0), gates);
    assert!(run.lines.contains("the modalities differ; it runs, on trial, from the next start"), "{}", run.lines);
    assert_eq!(run.bundle, "kiosk@1.0.0");
    let run = device.run(Micros(12 * SECOND.0), Vec::new());
    assert_eq!(run.bundle, "kiosk@2.0.0");
    let store = device.store();
    assert_eq!((store.state().counter, store.state().trial_starts), (3, None), "{}", run.lines);
}

#[cfg(not(feature = "sign"))]
#[test]
fn without_its_feature_a_program_says_how_to_sign() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    reader(&dir.path().join("b"), "1.0.0");
    let made = attendant(&["bundle", "pack", "--bundle", &at("b"), "--counter", "1", "--out", &at("x"), "--untested"]);
    assert_eq!(made.0, Some(0), "{}", made.2);
    for args in [&["bundle", "keygen", "k.key", "--no-password"][..], &["bundle", "sign", &at("x"), "--key", "k.key"]] {
        let (code, _, err) = attendant(args);
        assert!(
            code == Some(2) && err.contains("needs the feature sign") && err.contains("minisign -"),
            "{code:?} {err}"
        );
    }
}

#[cfg(feature = "sign")]
#[test]
fn keys_are_made_and_sign() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    reader(&dir.path().join("b"), "1.0.0");
    fs::write(at("password"), "correct horse\n").unwrap();
    let (bundle, file) = (at("b"), at("x.attendant"));
    let rows: &[Row<'_>] = &[
        (&["bundle", "keygen", &at("k.key")], 2, "--no-password"),
        (&["bundle", "keygen", &at("k.key"), "--no-password"], 0, "[trust]"),
        (&["bundle", "keygen", &at("k.key"), "--no-password"], 5, "k.key"),
        (&["bundle", "pack", "--bundle", &bundle, "--counter", "1", "--out", &file, "--untested"], 0, "not signed"),
        (&["bundle", "sign", &file, "--key", &at("k.key")], 0, "6 parts"),
        (&["bundle", "verify", &file, "--public-key", &at("k.pub")], 0, "signed with key 0"),
        (&["bundle", "sign", &file, "--key", &at("k.pub")], 7, "refused (key)"),
        (&["bundle", "sign", &file, "--key", &at("k.key"), "--password-file", &at("password")], 7, "refused (key)"),
        (&["bundle", "sign", &file, "--key", &at("nothing")], 4, "nothing"),
    ];
    check(rows);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(at("k.key")).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A running program, and what it has said so far.
struct Program {
    child: std::process::Child,
    said: Arc<Mutex<String>>,
}

impl Program {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_attendant"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        hear(child.stdout.take().unwrap(), Arc::clone(&said));
        hear(child.stderr.take().unwrap(), Arc::clone(&said));
        Program { child, said }
    }

    fn wait(&self, piece: &str) {
        wait(piece, || self.said.lock().unwrap().contains(piece));
    }
}

/// Adds whatever comes to what has been said, line by line: events and the log do not mix.
fn hear(from: impl Read + Send + 'static, said: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            said.lock().unwrap().push_str(&(line + "\n"));
        }
    });
}

impl Drop for Program {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[test]
fn a_running_program_takes_a_tested_bundle_when_it_is_signalled() {
    let keys = Keys::new();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    reader(&at("own"), "1.0.0");
    reader(&at("next"), "1.1.0");
    let golden = golden(&Bundle::open(&at("next")).unwrap(), &Options::default()).unwrap();
    fs::write(at("next").join(GOLDEN), golden).unwrap();
    let file = keys.pack(&at("next"), 2);
    let config = format!(
        "bundle = \"own\"\nlog = \"info\"\n[trust]\nkeys = [\"{}\"]\nrequire_signed = false\n[update]\nstate_dir = \"state\"\nlook_s = 0\nprobation_s = 5\n",
        keys.public()
    );
    fs::write(at("attendant.toml"), config).unwrap();
    let config = at("attendant.toml");
    let program = Program::start(&["run", "--json", "--text", "-", "--config", config.to_str().unwrap()]);
    program.wait(r#""kind":"start""#);
    fs::write(at("state/inbox/reader-1.1.0.attendant"), file).unwrap();
    let hung_up = Command::new("kill").args(["-HUP", &program.child.id().to_string()]).status().unwrap();
    assert!(hung_up.success());
    for piece in
        [r#""notice":"installed""#, " golden events in ", r#""notice":"swapped""#, r#""bundle":"reader@1.1.0""#]
    {
        program.wait(piece);
    }
    program.wait(r#""notice":"proven""#);
    // what its demo decided while it was tested is not taken for the device's own
    program.wait("] new bundle: ");
    drop(program);
    let store = Store::open(&at("state"), keys.trust()).unwrap();
    assert_eq!((store.state().counter, store.state().trial_starts), (2, None));
}

/// Arguments, exit code, and a piece of what is said.
type Row<'a> = (&'a [&'a str], i32, &'a str);

/// Runs every row, in order, and tells of all that are wrong.
fn check(rows: &[Row<'_>]) {
    let mut wrong = Vec::new();
    for (args, code, piece) in rows {
        let (found, out, err) = attendant(args);
        if found != Some(*code) || !format!("{out}{err}").contains(piece) {
            wrong.push(format!("{args:?}: {found:?}, expected {code} and {piece:?}: {out}{err}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn attendant(args: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_attendant")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn a_kill_at_any_moment_of_an_installation_leaves_the_old_bundle_or_the_new_one() {
    let keys = Keys::new();
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = ["1.0.0", "1.1.0"].map(|version| {
        reader(&dir.path().join(version), version);
        // a copy is made for every kill
        fs::remove_file(dir.path().join(version).join("demo.mcap")).unwrap();
        let path = dir.path().join(format!("reader-{version}.attendant"));
        fs::write(&path, keys.pack(&dir.path().join(version), if version == "1.0.0" { 1 } else { 2 })).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let key = keys.public();
    let before = dir.path().join("before");
    let mut store = Store::open(&before, keys.trust()).unwrap();
    let installed = store.install(fs::File::open(&old).unwrap(), "reader").unwrap();
    store.switch(&installed.id).unwrap();
    store.confirm().unwrap();
    drop(store);
    let state = dir.path().join("state");
    let reset = || {
        _ = fs::remove_dir_all(&state);
        let copied = Command::new("cp").arg("-r").arg(&before).arg(&state).status().unwrap();
        assert!(copied.success());
    };
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_attendant"));
        command.args(["bundle", "install", &new, "--untested", "--public-key", &key, "--state-dir"]).arg(&state);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    reset();
    let began = std::time::Instant::now();
    assert!(start().status().unwrap().success());
    let whole = began.elapsed();
    // evenly over the whole of it, whatever this machine takes
    let (points, mut olds, mut news) = (200, 0, 0);
    for i in 0..points {
        reset();
        let mut child = start().spawn().unwrap();
        std::thread::sleep(whole * i / points);
        child.kill().unwrap();
        child.wait().unwrap();
        let mut store = Store::open(&state, keys.trust()).unwrap();
        let chosen = store.start();
        let bundle = Bundle::open(&chosen.dir.expect("an installed bundle runs")).unwrap();
        match &*bundle.id {
            "reader@1.0.0" => olds += 1,
            "reader@1.1.0" => news += 1,
            other => panic!("{other} runs after a kill at {i} of {points}"),
        }
    }
    println!("{olds} times the old one, {news} times the new one");
    assert!(olds > 0, "no kill came in time");
}

#[test]
fn the_commands_say_what_they_did_and_refuse_with_their_code() {
    let keys = Keys::new();
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    reader(&bundle, "1.0.0");
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (bundle, file, state, folder) = (bundle.to_str().unwrap(), at("x.attendant"), at("state"), at("folder"));
    let key = keys.public();
    let (code, out, err) =
        attendant(&["bundle", "pack", "--bundle", bundle, "--counter", "5", "--out", &file, "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&said["counter"], &said["signed_by"], &said["parts"]),
        (&5.into(), &"nobody".into(), &7.into()),
        "{said}"
    );
    let (code, _, err) = attendant(&["bundle", "verify", &file, "--public-key", &key]);
    assert!(code == Some(7) && err.contains("refused (unsigned)"), "{code:?} {err}");
    // signed elsewhere, attached here
    let manifest = Packed::open(fs::File::open(&file).unwrap(), &Trust::anything()).unwrap().manifest_bytes;
    let text = minisign::sign(None, &keys.pair.sk, Cursor::new(manifest), None, None).unwrap().into_string();
    fs::write(at("m.minisig"), text).unwrap();
    let rows: &[Row<'_>] = &[
        (&["bundle", "sign", &file, "--signature", &at("m.minisig")], 0, "7 parts"),
        (&["bundle", "verify", &file, "--public-key", &key], 0, "signed with key 0"),
        (&["bundle", "verify", &file], 0, "no key was given"),
        (&["bundle", "verify", &file, "--public-key", &Keys::new().public()], 7, "refused (key)"),
        (&["bundle", "verify", bundle, "--public-key", &key], 7, "refused (unsigned)"),
        (&["bundle", "verify", bundle], 0, "nothing is signed"),
        (&["bundle", "verify", "/nowhere/x.attendant"], 4, "/nowhere/x.attendant"),
        (&["bundle", "verify", &file, "--public-key", "RWx"], 2, "is no public key"),
        (&["bundle", "unpack", &file, &folder, "--public-key", &key], 0, "7 parts"),
        (&["bundle", "verify", &folder, "--public-key", &key], 0, "signed with key 0"),
        (&["bundle", "status"], 2, "--state-dir"),
        (
            &[
                "bundle",
                "install",
                &file,
                "--public-key",
                &key,
                "--state-dir",
                &state,
                "--bundle",
                bundle,
                "--untested",
            ],
            0,
            "counter 5",
        ),
        (&["bundle", "status", "--state-dir", &state, "--public-key", &key], 0, "on trial"),
    ];
    check(rows);
    // a run takes what is installed, and nothing that is not signed where signatures are asked for
    let config = at("attendant.toml");
    fs::write(&config, format!("[trust]\nkeys = [\"{key}\"]\n[update]\nstate_dir = {state:?}\n")).unwrap();
    let (code, out, err) = attendant(&["run", "--config", &config, "--speed", "max", "--json"]);
    assert!(code == Some(0) && out.contains(r#""bundle":"reader@1.0.0""#), "{code:?} {err}");
    fs::write(&config, format!("bundle = {bundle:?}\n[trust]\nkeys = [\"{key}\"]\n")).unwrap();
    let (code, _, err) = attendant(&["run", "--config", &config, "--speed", "max", "--json"]);
    assert!(code == Some(7) && err.contains("refused (unsigned)"), "{code:?} {err}");
}
