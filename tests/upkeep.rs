//! What a live run looks after beside its samples: drivers that hang, microphones that say something, a board that is too hot.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use attendant::board::{BOARD, Budget, Kind};
use attendant::bundle::Bundle;
use attendant::capture::fake::{Fake, Step};
use attendant::capture::sound::Watched;
use attendant::capture::{Camera, CaptureError, ErrorKind, Mic, TextSource};
use attendant::emit::{JsonLines, Sink, SinkError};
use attendant::pipeline::{Options, Pipeline};
use attendant::signal::{AudioBlock, Event, Frame, Sample, SampleIdx, Speaking, Utterance};
use attendant::supervise::notify::{Manager, Message};
use attendant::supervise::{LiveSource, Opener, Outcome, Outside, Upkeep, live};
use attendant::time::{Clock, Micros, VirtualClock};

fn pipeline() -> Pipeline {
    let bundle = Bundle::open(&attendant::bundle::locate(None).unwrap()).unwrap();
    Pipeline::load(&bundle, &Options::default()).unwrap()
}

/// Somebody types at these times, in milliseconds: what lets a virtual clock pass.
fn typist(at_ms: &[u64]) -> LiveSource {
    let says = |t: &u64| Step::Deliver(Utterance { t: Micros::from_ms(*t), text: "hello".into() });
    let text = Fake::new("keyboard", at_ms.iter().map(says).collect::<Vec<_>>());
    let open = move || Ok(Box::new(text.clone()) as Box<dyn TextSource>);
    LiveSource { name: "text".into(), paced: true, opener: Opener::Text(Box::new(open)) }
}

fn run(
    sources: Vec<LiveSource>,
    pipeline: &mut Pipeline,
    upkeep: &mut Upkeep,
    more: &mut dyn Sink,
) -> (Outcome, String) {
    let clock: Arc<dyn Clock> = Arc::new(VirtualClock::default());
    let mut lines = Vec::new();
    let outcome = {
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(JsonLines::new("memory", &mut lines)), Box::new(more)];
        live(sources, pipeline, &clock, &mut sinks, &AtomicBool::new(false), upkeep).unwrap()
    };
    (outcome, String::from_utf8(lines).unwrap())
}

/// A sink that wants nothing.
struct Nothing;

impl Sink for Nothing {
    fn emit(&mut self, _event: &Event) -> Result<(), SinkError> {
        Ok(())
    }
}

/// A camera whose driver does not come back until the other end of the channel is gone.
struct Hanging(Receiver<()>);

impl Camera for Hanging {
    fn capture(&mut self, _into: &mut Frame) -> Result<(), CaptureError> {
        _ = self.0.recv();
        Err(CaptureError::end("camera"))
    }
}

/// Lets go of the hanging camera once an event has told of it; the manager must not have been told that all is well then.
struct Release(Option<Sender<()>>, Heard);

impl Sink for Release {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        let mut line = Vec::new();
        event.write_json(&mut line).unwrap();
        if String::from_utf8(line).unwrap().contains("its driver has not answered") {
            let last = self.1.0.lock().unwrap().last().cloned();
            assert_ne!(last.as_deref(), Some("Alive"), "alive while a driver hangs");
            self.0 = None;
        }
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Manager for Heard {
    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_millis(300))
    }

    fn tell(&mut self, message: Message<'_>) {
        self.0.lock().unwrap().push(format!("{message:?}"));
    }
}

#[test]
fn a_driver_that_hangs_is_said_and_silences_the_watchdog() {
    let (hold, held) = channel();
    let held = Arc::new(Mutex::new(Some(held)));
    let open = move || {
        let held = held.lock().unwrap().take().ok_or_else(|| CaptureError::end("camera"))?;
        Ok(Box::new(Hanging(held)) as Box<dyn Camera>)
    };
    let camera = LiveSource { name: "camera".into(), paced: false, opener: Opener::Camera(Box::new(open)) };
    let heard = Heard::default();
    let mut upkeep = Upkeep { manager: Box::new(heard.clone()), ..Upkeep::default() };
    let mut release = Release(Some(hold), heard.clone());
    let (_, lines) = run(vec![camera, typist(&[1000, 20_000])], &mut pipeline(), &mut upkeep, &mut release);
    assert!(release.0.is_none(), "{lines}");
    assert!(
        lines.contains(r#""modality":"card","state":"failed","reason":"camera: its driver has not answered for"#),
        "{lines}"
    );
    let heard = heard.0.lock().unwrap();
    // whether the camera is given up before or after the first turn is up to the threads
    assert!(heard[0].starts_with("Status(\"card "), "{heard:?}");
    assert!(heard.iter().any(|m| m.starts_with("Status(") && m.contains("request Ok")), "{heard:?}");
    assert_eq!(heard.iter().filter(|m| *m == "Ready").count(), 1, "{heard:?}");
    assert_eq!(heard.last().map(String::as_str), Some("Stopping"));
}

#[test]
fn waiting_is_no_failure() {
    let says = |text: &str| Step::Deliver(Utterance { t: Micros::ZERO, text: text.into() });
    let mut script = vec![says("hello")];
    script.extend((0..50).map(|_| Step::Fail(ErrorKind::Wait)));
    script.push(says("hello again"));
    let text = Fake::new("keyboard", script);
    let open = move || Ok(Box::new(text.clone()) as Box<dyn TextSource>);
    let source = LiveSource { name: "text".into(), paced: true, opener: Opener::Text(Box::new(open)) };
    let (outcome, lines) = run(vec![source], &mut pipeline(), &mut Upkeep::default(), &mut Nothing);
    assert_eq!((outcome.samples, outcome.restarts[0].reopened), (2, 0), "{lines}");
}

#[test]
fn a_clipped_microphone_is_a_notice_and_changes_no_state() {
    let block = |i: u64| {
        Step::Deliver(AudioBlock {
            t: Micros::from_ms(i * 100),
            first: SampleIdx(i * 1600),
            gap_samples: 0,
            sample_rate_hz: 16_000,
            data: vec![1.0; 1600],
        })
    };
    let mic = Fake::new("mic", (0..30).map(block).collect::<Vec<_>>());
    let open = move || Ok(Box::new(Watched::new(mic.clone(), None)) as Box<dyn Mic>);
    let source = LiveSource { name: "mic".into(), paced: true, opener: Opener::Mic(Box::new(open)) };
    let (_, lines) = run(vec![source], &mut pipeline(), &mut Upkeep::default(), &mut Nothing);
    let notice = r#""kind":"notice","source":"mic","notice":"clipped","reason":"more than 1 % of the samples"#;
    assert_eq!(lines.matches(notice).count(), 1, "{lines}");
    assert!(!lines.contains("failed"), "{lines}");
}

#[test]
fn the_device_does_not_hear_itself() {
    let block = |i: u64| AudioBlock {
        t: Micros::from_ms(i * 100),
        first: SampleIdx(i * 1600),
        gap_samples: 0,
        sample_rate_hz: 16_000,
        data: vec![0.1; 1600],
    };
    let mic = Fake::new("mic", (0..30).map(|i| Step::Deliver(block(i))).collect::<Vec<_>>());
    let open = move || Ok(Box::new(mic.clone()) as Box<dyn Mic>);
    let source = LiveSource { name: "mic".into(), paced: true, opener: Opener::Mic(Box::new(open)) };
    let speaking = Arc::new(Speaking::new());
    speaking.begin();
    let outside = Outside { speaking: Some(Arc::clone(&speaking)), ..Outside::default() };
    let mut upkeep = Upkeep { outside, ..Upkeep::default() };
    let mut pipeline = pipeline();
    let (outcome, lines) = run(vec![source], &mut pipeline, &mut upkeep, &mut Nothing);
    let said = r#""modality":"speech","state":"absent","reason":"speaking""#;
    assert_eq!(lines.matches(said).count(), 1, "{lines}");
    let heard = |pipeline: &Pipeline| pipeline.counters().find(|(name, _)| &***name == "speech").unwrap().1;
    assert!(outcome.samples > 0);
    assert_eq!((heard(&pipeline).windows, heard(&pipeline).muted), (0, outcome.samples), "{lines}");
    // when it has stopped, it listens again
    let mut events = Vec::new();
    pipeline.hush(false, Micros::from_ms(3000), &mut events);
    (30..60).for_each(|i| {
        pipeline.process("mic", &Sample::Audio(block(i)), Micros::from_ms(i * 100 + 100), &mut events);
    });
    assert!(heard(&pipeline).windows > 0, "{events:?}");
}

#[test]
fn a_board_that_is_too_hot_slows_down_in_its_order_and_says_so() {
    let frame = |i: u64| {
        let data = vec![100; 64 * 64];
        let t = Micros::from_ms(i * 500);
        Step::Deliver(Frame { t, width: 64, height: 64, stride: 64, data, ..Frame::default() })
    };
    let camera = Fake::new("camera", (0..40).map(frame).collect::<Vec<_>>());
    let open = move || Ok(Box::new(camera.clone()) as Box<dyn Camera>);
    let source = LiveSource { name: "camera".into(), paced: true, opener: Opener::Camera(Box::new(open)) };
    let budget = Budget { shed: &[Kind::Image], ..BOARD.budget };
    let mut upkeep = Upkeep { budget: Some(budget), celsius: Box::new(|| Some(95.0)), ..Upkeep::default() };
    let mut pipeline = pipeline();
    // the typist keeps the run, and so the clock, going
    let (_, lines) = run(vec![source, typist(&[30_000])], &mut pipeline, &mut upkeep, &mut Nothing);
    assert!(lines.contains(r#""kind":"notice","source":"board","notice":"shed","reason":"95 C (limit "#), "{lines}");
    assert!(lines.contains("rates: image 1/2"), "{lines}");
}
