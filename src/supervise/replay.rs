//! Plays a recorded run's calls into a pipeline and compares what follows with what was recorded.
//!
//! The pipeline's time is that of the calls, so that pacing changes nothing, and neither do threads or the machine's load.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest as _, Sha256};

use crate::board::Kind;
use crate::bundle::digest;
use crate::capture::recording::encode::CallKind;
use crate::capture::recording::tape::{Entry, Taped};
use crate::capture::{CaptureError, ErrorKind};
use crate::emit::Sink;
use crate::pipeline::Pipeline;
use crate::signal::Event;
use crate::time::{Clock, Micros};

use super::{Outcome, Pacing, PlayError, emit_all, flush_all};

/// Differences that are kept; the rest is counted.
const DIFFERENCES_MAX: usize = 20;

/// Longest sleep before `stop` is looked at again.
const NAP: Micros = Micros::from_ms(50);

/// Where a replay said something else than the recording.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Time of the call.
    pub t_us: Micros,
    /// The recorded event's line, if there was one.
    pub recorded: Option<String>,
    /// The replayed event's line, if there was one.
    pub replayed: Option<String>,
}

/// What a replay came to.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Replayed {
    /// Calls made.
    pub calls: u64,
    /// Calls that the recorder had left out.
    pub lost_calls: u64,
    /// Events that followed.
    pub events: u64,
    /// Events whose line differs from the recorded one, or that are missing on one side.
    pub differing: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// Whether recording and replay have the same decisions: times, classes and states, whatever the probabilities.
    pub decisions_agree: bool,
    /// SHA-256 of the replayed events' lines, each with its line break.
    pub event_hash: String,
    /// Why the recording has no end, if its writer was cut off.
    pub cut: Option<String>,
    /// Events that a sink could not take.
    pub lost_events: u64,
    /// Time from the first call to the last.
    pub duration: Micros,
}

/// Plays `tape` through `pipeline` into `sinks`.
///
/// # Errors
/// [`PlayError`]; what was replayed before has been emitted.
pub fn replay<R: Read>(
    tape: &mut Taped<R>,
    pipeline: &mut Pipeline,
    clock: &dyn Clock,
    pacing: Pacing,
    sinks: &mut [Box<dyn Sink + '_>],
    stop: &AtomicBool,
) -> Result<Replayed, PlayError> {
    let mut replayed = Replayed::default();
    let mut compare = Compare::default();
    let mut outcome = Outcome::default();
    let mut events: Vec<Event> = Vec::with_capacity(16);
    let (began, mut first) = (clock.now(), None);
    let mut last = Micros::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let entry = tape.next_entry()?;
        match entry {
            None => break,
            Some(Entry::Event) => compare.recorded(tape.event(), last, &mut replayed),
            Some(Entry::Call(now, call)) => {
                compare.settle(last, &mut replayed);
                last = now;
                let first = *first.get_or_insert(now);
                replayed.duration = now - first;
                if pacing == Pacing::RealTime {
                    let due = began + (now - first);
                    while clock.now() < due && !stop.load(Ordering::Relaxed) {
                        clock.sleep_until(due.min(clock.now() + NAP));
                    }
                }
                if let CallKind::Lost { calls } = call {
                    replayed.lost_calls += calls;
                    continue;
                }
                replayed.calls += 1;
                make(&call, tape, pipeline, now, &mut events)?;
                emit_all(&events, sinks, &mut outcome)?;
                for event in events.drain(..) {
                    replayed.events += 1;
                    compare.replayed(&event);
                }
            }
        }
    }
    replayed.cut = tape.cut().map(Into::into);
    // the last call's events may be what was cut off
    if replayed.cut.is_none() {
        compare.settle(last, &mut replayed);
    }
    flush_all(sinks, &mut outcome)?;
    replayed.decisions_agree = compare.decisions[0] == compare.decisions[1];
    replayed.event_hash = digest::hex(&compare.hash.finalize());
    replayed.lost_events = outcome.lost_events;
    Ok(replayed)
}

/// Makes `call`.
fn make<R: Read>(
    call: &CallKind,
    tape: &Taped<R>,
    pipeline: &mut Pipeline,
    now: Micros,
    events: &mut Vec<Event>,
) -> Result<(), CaptureError> {
    match call {
        CallKind::Start => pipeline.start(now, events),
        CallKind::End => pipeline.end(now, events),
        CallKind::Tick => pipeline.tick(now, events),
        CallKind::Sample { source, .. } => pipeline.process(source, tape.sample(), now, events),
        CallKind::Fail { source, reason } => pipeline.fail(source, &reason.as_str().into(), now, events),
        CallKind::Slow { kind, divisor } => match Kind::of(kind) {
            Some(kind) => pipeline.slow(kind, *divisor, now),
            None => {
                let message = format!("a call at {now} slows {kind:?}, expected image, audio or series");
                return Err(CaptureError::new(ErrorKind::Fatal, "recording", message));
            }
        },
        CallKind::Notice { source, notice, reason } => {
            let source: Arc<str> = source.as_str().into();
            pipeline.notice(&source, notice, reason.as_str().into(), now, events);
        }
        // a command that was refused is refused again
        CallKind::Command { command } => _ = pipeline.command(command, now, events),
        CallKind::Hush { on } => pipeline.hush(*on, now, events),
        CallKind::Lost { .. } => unreachable!("counted by the caller"),
    }
    Ok(())
}

/// The two streams of events side by side.
#[derive(Default)]
struct Compare {
    hash: Sha256,
    /// Replayed lines that the recording has yet to confirm.
    waiting: VecDeque<String>,
    /// Recorded, and replayed as far as the recording goes.
    decisions: [Vec<String>; 2],
}

impl Compare {
    fn replayed(&mut self, event: &Event) {
        let line = serde_json::to_string(event).expect("every field of an event has a JSON form");
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        self.waiting.push_back(line);
    }

    fn recorded(&mut self, line: &[u8], t_us: Micros, into: &mut Replayed) {
        self.decisions[0].extend(decided(line));
        let mine = self.waiting.pop_front();
        self.decisions[1].extend(mine.as_ref().and_then(|mine| decided(mine.as_bytes())));
        match mine {
            Some(mine) if mine.as_bytes() == line => {}
            mine => {
                differ(into, Difference { t_us, recorded: Some(String::from_utf8_lossy(line).into()), replayed: mine })
            }
        }
    }

    /// The next call has come: what waits was not recorded.
    fn settle(&mut self, t_us: Micros, into: &mut Replayed) {
        for line in self.waiting.drain(..) {
            self.decisions[1].extend(decided(line.as_bytes()));
            differ(into, Difference { t_us, recorded: None, replayed: Some(line) });
        }
    }
}

fn differ(into: &mut Replayed, difference: Difference) {
    into.differing += 1;
    if into.differences.len() < DIFFERENCES_MAX {
        into.differences.push(difference);
    }
}

/// Time, class and state of a decision's line.
fn decided(line: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        t_us: u64,
        kind: String,
        class: Option<String>,
        state: Option<serde_json::Value>,
    }
    let Line { t_us, kind, class, state } = serde_json::from_slice(line).ok()?;
    (kind == "decision").then(|| format!("{t_us} {} {}", class.unwrap_or_default(), state.unwrap_or_default()))
}
