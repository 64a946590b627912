//! A bundle's own examination: its demo recording at full speed has to give its golden events.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::bundle::Bundle;
use crate::bundle::pack::GOLDEN;
use crate::bundle::refused::{Refused, Why};
use crate::capture::recording::Recording;
use crate::emit::{Sink, SinkError};
use crate::pipeline::{Options, Pipeline};
use crate::signal::Event;
use crate::supervise::{Outside, Pacing, play};
use crate::time::{Clock, Micros};

/// Numbers of golden events that are no integers may differ by this much: another CPU rounds otherwise. Times, classes and states may not.
const TOLERANCE: f64 = 0.02;

/// Most bytes of golden events.
const GOLDEN_BYTES_MAX: u64 = 16 << 20;

/// What an examination may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// By the clock. Slower than the recording itself is too slow in any case.
    pub time_max: Micros,
}

impl Limits {
    /// On the machine that packs: time is no matter there.
    #[must_use]
    pub fn for_release() -> Self {
        Limits { time_max: Micros(u64::MAX / 2) }
    }
}

/// What an examination came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tested {
    /// Events that were compared.
    pub events: u64,
    /// By the clock.
    pub took: Micros,
    /// Length of the recording.
    pub duration: Micros,
}

/// Keeps every line, and ends the run when its time is over.
struct Examiner<'a> {
    lines: Vec<String>,
    clock: &'a dyn Clock,
    until: Micros,
    stop: &'a AtomicBool,
}

impl Sink for Examiner<'_> {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        self.lines.push(serde_json::to_string(event).expect("every field of an event has a JSON form"));
        Ok(())
    }

    fn tick(&mut self, _now: Micros) -> Result<(), SinkError> {
        if self.clock.now() > self.until {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Plays the bundle's demo; the lines of its events.
fn examine(
    bundle: &Bundle,
    options: &Options,
    clock: &dyn Clock,
    limits: &Limits,
) -> Result<(Vec<String>, Tested), Refused> {
    let untested = |what: &str| Refused::new(Why::Untested, format!("bundle {} {what}", bundle.id));
    let demo = bundle.demo().filter(|path| path.exists());
    let demo = demo.ok_or_else(|| untested("has no demo recording; pack it with one"))?;
    let mut feed = Recording::open(&demo).map_err(|e| untested(&format!("has a demo that cannot be played: {e}")))?;
    let mut pipeline = Pipeline::load(bundle, options).map_err(|e| Refused::new(Why::Unfit, e.to_string()))?;
    let (stop, began) = (AtomicBool::new(false), clock.now());
    let mut examiner = Examiner { lines: Vec::new(), clock, until: began + limits.time_max, stop: &stop };
    let played = {
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(&mut examiner)];
        play(&mut feed, &mut pipeline, clock, Pacing::Max, &mut sinks, &stop, &Outside::default())
    };
    let outcome = played.map_err(|e| untested(&format!("has a demo that cannot be played: {e}")))?;
    let took = clock.now() - began;
    if stop.load(Ordering::Relaxed) {
        let (at, time_max) = (outcome.duration.as_ms(), limits.time_max.as_ms());
        let message =
            format!("after {time_max} ms its demo had been played up to {at} ms; this device is too slow for it");
        return Err(Refused::new(Why::Slow, message));
    }
    let wrong = |name: &Arc<str>, n: u64| {
        let message = format!("{name}: {n} windows of its own demo gave an error or no finite number");
        Err(Refused::new(Why::Wrong, message))
    };
    if let Some((name, counters)) = pipeline.counters().find(|(_, c)| c.errors > 0) {
        return wrong(name, counters.errors);
    }
    if pipeline.fusion_errors() > 0 {
        return wrong(&"fusion".into(), pipeline.fusion_errors());
    }
    if pipeline.decision_counters().ignored_windows > 0 {
        return wrong(&"fusion".into(), pipeline.decision_counters().ignored_windows);
    }
    let tested = Tested { events: examiner.lines.len() as u64, took, duration: outcome.duration };
    Ok((examiner.lines, tested))
}

/// The golden events of `bundle`: what it says to its demo on this machine.
///
/// # Errors
/// [`Why::Untested`]: it has no demo. [`Why::Unfit`], [`Why::Wrong`]: it does not run.
pub fn golden(bundle: &Bundle, options: &Options) -> Result<Vec<u8>, Refused> {
    let clock = crate::time::MonotonicClock::new();
    let (lines, _) = examine(bundle, options, &clock, &Limits::for_release())?;
    let mut bytes = lines.join("\n").into_bytes();
    bytes.push(b'\n');
    Ok(bytes)
}

/// Examines `bundle`, in the language of its golden events if they have one, else that of `options`.
///
/// # Errors
/// [`Why::Untested`], [`Why::Unfit`], [`Why::Wrong`], [`Why::Slow`].
pub fn self_test(bundle: &Bundle, options: &Options, clock: &dyn Clock, limits: &Limits) -> Result<Tested, Refused> {
    let path = bundle.path(GOLDEN);
    let untested = |what: String| Refused::new(Why::Untested, format!("bundle {}: {GOLDEN} {what}", bundle.id));
    let len = std::fs::metadata(&path)
        .map_err(|_| untested("is not there; `bundle pack` makes it of the demo, from a clean directory".into()))?
        .len();
    if len > GOLDEN_BYTES_MAX {
        return Err(untested(format!("has {len} bytes, expected at most {GOLDEN_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| untested(format!("cannot be read: {e}")))?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str::<Value>(line).map_err(|e| untested(format!("line {}: {e}", i + 1)))
    };
    let golden = text.lines().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    if !golden.iter().any(|event| event["kind"] == "decision" || event["kind"] == "result") {
        return Err(untested("has no decision and no result: it could not tell a bad bundle from a good one".into()));
    }
    let mut options = options.clone();
    if let Some(lang) = golden.iter().find_map(|event| event["advice"]["lang"].as_str()) {
        lang.clone_into(&mut options.lang);
    }
    let (lines, tested) = examine(bundle, &options, clock, limits)?;
    for (i, (line, expected)) in lines.iter().zip(&golden).enumerate() {
        let said: Value = serde_json::from_str(line).expect("an event's line is JSON");
        if let Some(what) = difference("", &said, expected) {
            let message = format!("event {} of its demo differs from the golden one: {what}", i + 1);
            return Err(Refused::new(Why::Wrong, message));
        }
    }
    if lines.len() != golden.len() {
        let message = format!("its demo gave {} events, the golden ones are {}", lines.len(), golden.len());
        return Err(Refused::new(Why::Wrong, message));
    }
    if tested.took > tested.duration {
        let (took, duration) = (tested.took.as_ms(), tested.duration.as_ms());
        let message = format!("its demo of {duration} ms took {took} ms; this device is too slow for it");
        return Err(Refused::new(Why::Slow, message));
    }
    Ok(tested)
}

/// Where two events differ; the board's name may.
fn difference(at: &str, said: &Value, golden: &Value) -> Option<String> {
    match (said, golden) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> =
                a.keys().chain(b.keys()).filter(|key| !at.is_empty() || *key != "board").collect();
            keys.into_iter().find_map(|key| {
                let null = Value::Null;
                difference(&format!("{at}.{key}"), a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(&format!("{at}[{i}]"), a, b))
        }
        (Value::Number(a), Value::Number(b)) if !(a.is_u64() && b.is_u64()) => {
            let (a, b) = (a.as_f64()?, b.as_f64()?);
            ((a - b).abs() > TOLERANCE).then(|| format!("{at} is {a}, golden {b}"))
        }
        _ => (said != golden).then(|| format!("{at} is {said}, golden {golden}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_equal_up_to_rounding_and_the_board() {
        let event =
            json!({"t_us": 5, "p": 0.94, "board": "host", "m": {"card": {"weight": 0.5, "state": "ok"}}, "a": [1]});
        let with = |path: &str, value: Value| {
            let mut event = event.clone();
            *event.pointer_mut(path).unwrap() = value;
            event
        };
        let cases = [
            (event.clone(), None),
            (with("/board", json!("pi5")), None),
            (with("/p", json!(0.93)), None),
            (with("/p", json!(1)), Some(".p is 1, golden 0.94")),
            (with("/p", Value::Null), Some(".p is null, golden 0.94")),
            (with("/t_us", json!(6)), Some(".t_us is 6, golden 5")),
            (with("/m/card/weight", json!(0.4)), Some(".m.card.weight is 0.4, golden 0.5")),
            (with("/m/card/state", json!("failed")), Some(".m.card.state is \"failed\", golden \"ok\"")),
            (with("/a", json!([1, 2])), Some(".a is [1,2], golden [1]")),
            (with("/m", json!({})), Some(".m.card is null, golden")),
        ];
        for (said, expected) in cases {
            let found = difference("", &said, &event);
            let is_as_expected =
                found.as_deref().zip(expected).map_or(found.is_none() && expected.is_none(), |(f, e)| f.starts_with(e));
            assert!(is_as_expected, "{found:?}, expected {expected:?}");
        }
    }
}
