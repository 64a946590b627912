//! The demo recording through the whole pipeline: the same events every time and at every speed.

use std::sync::atomic::AtomicBool;

use attendant::bundle::Bundle;
use attendant::capture::recording::Recording;
use attendant::emit::{JsonLines, Sink};
use attendant::pipeline::{Options, Pipeline};
use attendant::supervise::{Outside, Pacing, play};
use attendant::time::VirtualClock;

/// The event lines of the demo.
fn events(pacing: Pacing) -> String {
    let bundle = Bundle::open(&attendant::bundle::locate(None).unwrap()).unwrap();
    let mut pipeline = Pipeline::load(&bundle, &Options::default()).unwrap();
    let mut feed = Recording::open(&bundle.demo().unwrap()).unwrap();
    let mut lines = Vec::new();
    {
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(JsonLines::new("memory", &mut lines))];
        let clock = VirtualClock::default();
        let stop = AtomicBool::new(false);
        play(&mut feed, &mut pipeline, &clock, pacing, &mut sinks, &stop, &Outside::default()).unwrap();
    }
    String::from_utf8(lines).unwrap()
}

#[test]
fn pacing_does_not_change_the_events() {
    let fast = events(Pacing::Max);
    assert_eq!(fast, events(Pacing::Max), "twice as fast as possible");
    assert_eq!(fast, events(Pacing::RealTime), "at real speed, in simulated time");
    assert!(fast.lines().count() > 10, "{fast}");
}

#[test]
fn the_demo_decides_nothing_that_was_not_shown() {
    let lines = events(Pacing::Max);
    let entered: Vec<String> = lines
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .filter(|e| e["kind"] == "decision" && e["state"] == "enter")
        .map(|e| e["class"].as_str().unwrap().to_owned())
        .collect();
    // what the recording's script shows, in order; models/kiosk/REPORT.md says which of it the shipped models decide
    let shown = ["desk_3", "desk_7", "desk_1", "desk_5", "desk_2", "desk_8", "desk_0"];
    let mut rest = shown.iter();
    assert!(entered.iter().all(|e| rest.any(|s| s == e)), "{entered:?} is not in the order of {shown:?}");
    assert!(entered.len() >= 4, "{entered:?}");
    assert!(lines.contains(r#""state":"failed""#), "the microphone that is gone is reported");
    assert!(lines.contains(r#""state":"escalate""#), "staff is called");
}
