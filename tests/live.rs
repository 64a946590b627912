//! Sources that fail, panic and come back: each on its own thread, the others carry on, and the events say so.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use attendant::bundle::Bundle;
use attendant::capture::fake::{Fake, Step};
use attendant::capture::{Camera, ErrorKind, TextSource};
use attendant::emit::{JsonLines, Sink};
use attendant::pipeline::{Options, Pipeline};
use attendant::signal::{Frame, Utterance};
use attendant::supervise::{LiveSource, Opener, Upkeep, live};
use attendant::time::{Clock, Micros, VirtualClock};

fn says(text: &str) -> Step<Utterance> {
    Step::Deliver(Utterance { t: Micros::ZERO, text: text.into() })
}

#[test]
fn a_source_is_restarted_after_a_panic_and_an_error_and_one_that_is_lost_is_named() {
    let bundle = Bundle::open(&attendant::bundle::locate(None).unwrap()).unwrap();
    let mut pipeline = Pipeline::load(&bundle, &Options::default()).unwrap();
    let script = [
        says("hello"),
        Step::Fail(ErrorKind::Retry),
        Step::Panic,
        says("my card was declined"),
        Step::Fail(ErrorKind::Reopen),
        says("where is my luggage"),
    ];
    let text = Fake::new("keyboard", script);
    let camera: Fake<Frame> = Fake::new("camera 0", [Step::Fail(ErrorKind::Fatal)]);
    let sources = vec![
        LiveSource {
            name: "text".into(),
            paced: true,
            opener: Opener::Text(Box::new(move || Ok(Box::new(text.clone()) as Box<dyn TextSource>))),
        },
        LiveSource {
            name: "camera".into(),
            paced: true,
            opener: Opener::Camera(Box::new(move || Ok(Box::new(camera.clone()) as Box<dyn Camera>))),
        },
    ];
    let clock: Arc<dyn Clock> = Arc::new(VirtualClock::default());
    let mut lines = Vec::new();
    let outcome = {
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(JsonLines::new("memory", &mut lines))];
        live(sources, &mut pipeline, &clock, &mut sinks, &AtomicBool::new(false), &mut Upkeep::default()).unwrap()
    };
    let lines = String::from_utf8(lines).unwrap();
    let keyboard = &outcome.restarts[0];
    assert_eq!((keyboard.source.as_str(), keyboard.reopened, keyboard.panics), ("text", 2, 1), "{lines}");
    assert_eq!(outcome.failed_sources, ["camera"], "{lines}");
    // three utterances, the two faults of the keyboard, the one of the camera
    assert_eq!(outcome.samples, 6, "{lines}");
    let windows: Vec<u64> = pipeline.counters().map(|(_, c)| c.windows).collect();
    assert_eq!(windows, [0, 0, 3], "card, speech, request");
    assert!(lines.contains(r#""modality":"card","state":"failed""#), "{lines}");
    assert!(lines.lines().last().unwrap().contains(r#""kind":"end""#), "{lines}");
}
