//! Commands from outside, through the pipeline and through both loops: what they do, what is refused, and that it is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use attendant::bundle::Bundle;
use attendant::capture::CaptureError;
use attendant::capture::fake::{Fake, Step};
use attendant::capture::{Camera, ErrorKind, TextSource};
use attendant::emit::{JsonLines, Sink, SinkError};
use attendant::pipeline::{Options, Pipeline};
use attendant::signal::{
    Command, DecidedBy, DecisionState, Event, EventKind, Frame, FrameSeq, Mailbox, ModalityState, Monitor, PixelFormat,
    RefusalKind, Sample, Snapshot, Utterance,
};
use attendant::supervise::{Feed, LiveSource, Opener, Outside, Pacing, Upkeep, live, play};
use attendant::time::{Clock, Micros, MonotonicClock, VirtualClock};

fn pipeline() -> Pipeline {
    let bundle = Bundle::open(&attendant::bundle::locate(None).unwrap()).unwrap();
    Pipeline::load(&bundle, &Options::default()).unwrap()
}

fn grey(ms: u64) -> Sample {
    let (width, height) = (64, 64);
    let data = vec![128; (width * height) as usize];
    let (t, seq, format) = (Micros::from_ms(ms), FrameSeq(ms), PixelFormat::Gray);
    Sample::Frame(Frame { t, seq, width, height, stride: width, format, data })
}

/// Ticks for `span_ms` from `*now_ms` on.
fn pass(pipeline: &mut Pipeline, now_ms: &mut u64, span_ms: u64, events: &mut Vec<Event>) {
    let end = *now_ms + span_ms;
    while *now_ms < end {
        *now_ms += 100;
        pipeline.tick(Micros::from_ms(*now_ms), events);
    }
}

/// Decisions as `state class by`, modalities as `name state reason`.
fn said(events: &[Event]) -> Vec<String> {
    let line = |e: &Event| match &e.kind {
        EventKind::Decision(d) => {
            let by = if d.by == Some(DecidedBy::Choice) { " by choice" } else { "" };
            Some(format!("{:?} {}{by}", d.state, d.class))
        }
        EventKind::Modality { modality, state, reason } => Some(format!("{modality} {state:?}: {reason}")),
        _ => None,
    };
    events.iter().filter_map(line).collect()
}

#[test]
fn a_text_is_an_utterance_of_the_moment_it_is_taken() {
    let (mut pipeline, mut events, mut now_ms) = (pipeline(), Vec::new(), 0);
    pass(&mut pipeline, &mut now_ms, 500, &mut events);
    let text = Command::Text("what is the exchange rate from dollars to euros".into());
    pipeline.command(&text, Micros::from_ms(now_ms), &mut events).unwrap();
    pass(&mut pipeline, &mut now_ms, 1000, &mut events);
    assert_eq!(said(&events)[0], "request Ok: samples arrive");
    let entered = events.iter().find_map(|e| match &e.kind {
        EventKind::Decision(d) if d.state == DecisionState::Enter => Some((d.clone(), e.t_us)),
        _ => None,
    });
    let (decision, t) = entered.expect("a plain request is decided");
    assert!(t > Micros::from_ms(500) && decision.by.is_none() && decision.advice.is_some(), "{decision:?}");
}

#[test]
fn what_cannot_be_done_is_refused_with_its_reason_and_changes_nothing() {
    let (mut pipeline, mut events) = (pipeline(), Vec::new());
    // a camera that delivers: no fallback, so that nothing may be chosen without a question
    pipeline.process("camera", &grey(0), Micros::ZERO, &mut events);
    events.clear();
    let choose = |class: &str| Command::Choose { class: class.into() };
    let cases = [
        (Command::Text(String::new()), RefusalKind::Range, "the text has 0 characters"),
        (Command::Text("  \n ".into()), RefusalKind::Range, "the text has 4 characters"),
        (Command::Text("x".repeat(301)), RefusalKind::Range, "the text has 301 characters, expected 1 to 300"),
        (choose("desk_3"), RefusalKind::NotOffered, "desk_3: no open question offers it"),
        (choose("none"), RefusalKind::NotOffered, "none: it is no class that can be decided"),
        (choose("desk_99"), RefusalKind::Unknown, "there is no class \"desk_99\""),
        (Command::Mute { source: "nose".into(), muted: true }, RefusalKind::Unknown, "no encoder of the bundle"),
        (Command::Thresholds { enter: 0.4, exit: Some(0.3) }, RefusalKind::Range, "decision.enter = 0.4"),
        (Command::Thresholds { enter: 0.8, exit: Some(0.9) }, RefusalKind::Range, "decision.exit = 0.9"),
        (Command::Thresholds { enter: f32::NAN, exit: Some(0.3) }, RefusalKind::Range, "decision.enter = NaN"),
        (Command::Language("tlh".into()), RefusalKind::Unknown, "language \"tlh\" is not in the advice catalogue"),
    ];
    for (command, kind, message) in cases {
        let refusal = pipeline.command(&command, Micros::from_ms(10), &mut events).unwrap_err();
        assert!(refusal.kind == kind && refusal.message.starts_with(message), "{command:?}: {refusal:?}");
    }
    assert_eq!(said(&events), [""; 0]);
    // characters are counted, not bytes
    pipeline.command(&Command::Text("请".repeat(300)), Micros::from_ms(20), &mut events).unwrap();
}

#[test]
fn any_class_may_be_chosen_when_nothing_but_the_page_works() {
    let (mut pipeline, mut events) = (pipeline(), Vec::new());
    let choose = Command::Choose { class: "desk_3".into() };
    pipeline.command(&Command::Language("zh".into()), Micros::ZERO, &mut events).unwrap();
    pipeline.command(&choose, Micros::from_ms(100), &mut events).unwrap();
    assert_eq!(said(&events), ["Enter desk_3 by choice"]);
    let mut line = Vec::new();
    events[0].write_json(&mut line).unwrap();
    let line = String::from_utf8(line).unwrap();
    for part in [r#""class":"desk_3","p":1.0,"state":"enter","by":"choice""#, r#""id":"desk_3","lang":"zh""#] {
        assert!(line.contains(part), "{line}");
    }
    // the camera is back: what is chosen stays, another class is no longer offered
    pipeline.process("camera", &grey(150), Micros::from_ms(150), &mut events);
    let other = Command::Choose { class: "desk_4".into() };
    let refusal = pipeline.command(&other, Micros::from_ms(200), &mut events).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NotOffered);
}

#[test]
fn a_muted_source_is_absent_and_says_why() {
    let (mut pipeline, mut events) = (pipeline(), Vec::new());
    let mute = |muted| Command::Mute { source: "camera".into(), muted };
    pipeline.command(&mute(true), Micros::ZERO, &mut events).unwrap();
    pipeline.process("camera", &grey(100), Micros::from_ms(100), &mut events);
    pipeline.command(&mute(false), Micros::from_ms(200), &mut events).unwrap();
    pipeline.process("camera", &grey(300), Micros::from_ms(300), &mut events);
    pipeline.command(&mute(true), Micros::from_ms(400), &mut events).unwrap();
    let expect = ["Absent: muted", "Absent: nothing given", "Ok: samples arrive", "Absent: muted"];
    assert_eq!(said(&events), expect.map(|e| format!("card {e}")));
    let (_, counters) = pipeline.counters().next().unwrap();
    assert_eq!((counters.windows, counters.muted), (1, 1));
}

#[test]
fn what_observers_see_is_what_the_pipeline_has() {
    let (mut pipeline, mut events, mut snapshot) = (pipeline(), Vec::new(), Snapshot::default());
    let monitor = Arc::new(Monitor::new());
    // a clock of which every look takes a microsecond
    pipeline.measure(&monitor, || {
        static NS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        NS.fetch_add(1000, std::sync::atomic::Ordering::Relaxed)
    });
    pipeline.observe(Micros::ZERO, &mut snapshot);
    assert!(snapshot.is_fallback && snapshot.fused.is_empty() && snapshot.mel.is_empty(), "{snapshot:?}");
    pipeline.process("camera", &grey(0), Micros::ZERO, &mut events);
    pipeline.command(&Command::Thresholds { enter: 0.75, exit: Some(0.25) }, Micros::ZERO, &mut events).unwrap();
    pipeline.observe(Micros::from_ms(40), &mut snapshot);
    assert!(!snapshot.is_fallback && snapshot.fused.len() == 11, "{snapshot:?}");
    assert_eq!((snapshot.enter, snapshot.exit, snapshot.lang.as_deref()), (0.75, 0.25, Some("en")));
    let card = &snapshot.modalities[0];
    assert_eq!((&*card.name, card.state, card.age), ("card", ModalityState::Ok, Some(Micros::from_ms(40))));
    for (stage, histogram) in monitor.latencies.by_stage() {
        assert!(histogram.count() >= 1, "{stage}");
    }
}

/// A feed that sends a command when a sample is asked for, as a page would.
struct Commanded {
    times_ms: std::vec::IntoIter<u64>,
    mailbox: Arc<Mailbox>,
}

impl Feed for Commanded {
    fn next(&mut self, into: &mut Sample) -> Result<Option<Arc<str>>, CaptureError> {
        let Some(t) = self.times_ms.next() else { return Ok(None) };
        if t == 300 {
            self.mailbox.send(Command::Choose { class: "desk_7".into() }).unwrap();
            self.mailbox.send(Command::Choose { class: "none".into() }).unwrap();
        }
        *into = Sample::Text(Utterance { t: Micros::from_ms(t), text: "hello there".into() });
        Ok(Some("text".into()))
    }
}

#[test]
fn commands_reach_a_recording_that_is_played() {
    let mailbox = Arc::new(Mailbox::new());
    let monitor = Arc::new(Monitor::new());
    let outside =
        Outside { commands: Some(Arc::clone(&mailbox)), monitor: Some(Arc::clone(&monitor)), ..Outside::default() };
    let mut feed = Commanded { times_ms: vec![100, 300, 900].into_iter(), mailbox: Arc::clone(&mailbox) };
    let mut lines = Vec::new();
    {
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(JsonLines::new("memory", &mut lines))];
        let (clock, stop) = (VirtualClock::default(), AtomicBool::new(false));
        play(&mut feed, &mut pipeline(), &clock, Pacing::RealTime, &mut sinks, &stop, &outside).unwrap();
    }
    let lines = String::from_utf8(lines).unwrap();
    assert!(lines.contains(r#""class":"desk_7","p":1.0,"state":"enter","by":"choice""#), "{lines}");
    assert_eq!((mailbox.done(), mailbox.refused(RefusalKind::NotOffered)), (1, 1));
    assert!(mailbox.send(Command::default()).is_err(), "the run is over");
    assert_eq!(monitor.last_beat(), None);
    assert_eq!(monitor.read(|s| s.modalities.len()), 3);
}

#[test]
fn commands_reach_a_live_run() {
    let mailbox = Arc::new(Mailbox::new());
    mailbox.send(Command::Choose { class: "desk_2".into() }).unwrap();
    let keyboard = Fake::new("keyboard", [Step::Deliver(Utterance { t: Micros::from_ms(2000), text: "hello".into() })]);
    let camera: Fake<Frame> = Fake::new("camera 0", [Step::Fail(ErrorKind::Fatal)]);
    let sources = vec![
        LiveSource {
            name: "text".into(),
            paced: true,
            opener: Opener::Text(Box::new(move || Ok(Box::new(keyboard.clone()) as Box<dyn TextSource>))),
        },
        LiveSource {
            name: "camera".into(),
            paced: false,
            opener: Opener::Camera(Box::new(move || Ok(Box::new(camera.clone()) as Box<dyn Camera>))),
        },
    ];
    let clock: Arc<dyn Clock> = Arc::new(VirtualClock::default());
    let outside = Outside { commands: Some(Arc::clone(&mailbox)), ..Outside::default() };
    let mut upkeep = Upkeep { outside, ..Upkeep::default() };
    let mut lines = Vec::new();
    {
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(JsonLines::new("memory", &mut lines))];
        live(sources, &mut pipeline(), &clock, &mut sinks, &AtomicBool::new(false), &mut upkeep).unwrap();
    }
    let lines = String::from_utf8(lines).unwrap();
    assert!(lines.contains(r#""class":"desk_2","p":1.0,"state":"enter","by":"choice""#), "{lines}");
}

#[test]
fn a_device_is_seen_to_be_open_for_as_long_as_it_is() {
    let monitor = Arc::new(Monitor::new());
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let was_seen = Arc::new(AtomicBool::new(false));
    let (watched, seen, time) = (Arc::clone(&monitor), Arc::clone(&was_seen), Arc::clone(&clock));
    let is_open = |monitor: &Monitor| monitor.read(|s| s.sources.iter().any(|s| &*s.name == "camera" && s.open));
    // a driver that takes its time, up to five seconds, until somebody has looked
    let open = move || {
        for _ in 0..500 {
            if is_open(&watched) {
                seen.store(true, Ordering::Relaxed);
                break;
            }
            time.sleep_until(time.now() + Micros::from_ms(10));
        }
        Err(CaptureError::fatal("camera 0", "is gone".to_owned()))
    };
    let sources = vec![LiveSource { name: "camera".into(), paced: false, opener: Opener::Camera(Box::new(open)) }];
    let outside = Outside { monitor: Some(Arc::clone(&monitor)), ..Outside::default() };
    let mut upkeep = Upkeep { outside, ..Upkeep::default() };
    live(sources, &mut pipeline(), &clock, &mut [], &AtomicBool::new(false), &mut upkeep).unwrap();
    assert!(was_seen.load(Ordering::Relaxed), "the page would have said that no camera is on");
    assert!(!is_open(&monitor), "and nothing is open at the end");
}

#[test]
fn a_page_goes_on_after_a_recording_at_full_speed() {
    let mailbox = Arc::new(Mailbox::new());
    let outside = Outside { commands: Some(Arc::clone(&mailbox)), stays: true, ..Outside::default() };
    // a minute of samples in no time: the clock has not moved when they end
    let mut feed = Commanded { times_ms: vec![60_000].into_iter(), mailbox: Arc::clone(&mailbox) };
    let stop = Arc::new(AtomicBool::new(false));
    let mut asked = AskWhenOver { mailbox: Arc::clone(&mailbox), stop: Arc::clone(&stop), ticks: 0 };
    let clock = VirtualClock::default();
    play(&mut feed, &mut pipeline(), &clock, Pacing::Max, &mut [Box::new(&mut asked)], &stop, &outside).unwrap();
    assert_eq!(mailbox.refused(RefusalKind::Unknown), 1, "the command was taken");
    assert!(clock.now() < Micros::from_ms(30_000), "and not after {}", clock.now());
}

/// Posts a command once the recording has ended, and ends the run a little later.
struct AskWhenOver {
    mailbox: Arc<Mailbox>,
    stop: Arc<AtomicBool>,
    ticks: u32,
}

impl Sink for AskWhenOver {
    fn emit(&mut self, _: &Event) -> Result<(), SinkError> {
        Ok(())
    }

    fn tick(&mut self, now: Micros) -> Result<(), SinkError> {
        if now > Micros::from_ms(60_000) {
            self.ticks += 1;
            match self.ticks {
                1 => self.mailbox.send(Command::Choose { class: "desk_99".into() }).unwrap(),
                5 => self.stop.store(true, Ordering::Relaxed),
                _ => {}
            }
        }
        Ok(())
    }
}
