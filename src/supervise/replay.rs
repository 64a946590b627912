//! Plays a recorded run's calls into a pipeline and compares what follows with what was recorded.
//!
//! The pipeline's time is that of the calls, so that pacing changes nothing, and neither do threads or the machine's load.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest as _, Sha256};

use crate::board::Kind;
use crate::bundle::digest;
use crate::capture::CaptureError;
use crate::capture::recording::encode::CallKind;
use crate::capture::recording::part::COMPARED_FROM_US;
use crate::capture::recording::tape::{Entry, Taped};
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
    /// Calls made only to get into the state that the recording begins in; their events are neither shown nor compared.
    pub lead_in_calls: u64,
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
    let (mut began, mut first) = (clock.now(), None);
    let (mut last, mut compared_from) = (Micros::ZERO, Micros::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let entry = tape.next_entry()?;
        match entry {
            None => break,
            Some(Entry::Event) => {
                if last >= compared_from {
                    compare.recorded(tape.event(), last, &mut replayed);
                }
            }
            Some(Entry::Call(now, call)) => {
                compare.settle(last, &mut replayed);
                last = now;
                if replayed.calls == 0 {
                    compared_from = lead_in_end(tape.about())?;
                    compare.is_part = compared_from > Micros::ZERO;
                }
                let is_lead_in = now < compared_from;
                replayed.lead_in_calls += u64::from(is_lead_in);
                if !is_lead_in && first.is_none() {
                    (began, first) = (clock.now(), Some(now));
                }
                let first = first.unwrap_or(now);
                replayed.duration = now - first;
                if pacing == Pacing::RealTime && !is_lead_in {
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
                if is_lead_in {
                    events.clear();
                }
                emit_all(&events, sinks, &mut outcome)?;
                for event in events.drain(..) {
                    replayed.events += 1;
                    compare.replayed(event);
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

/// Time of the first call that is compared.
fn lead_in_end(about: &BTreeMap<String, String>) -> Result<Micros, CaptureError> {
    let Some(text) = about.get(COMPARED_FROM_US) else { return Ok(Micros::ZERO) };
    text.parse().map(Micros).map_err(|_| {
        let message = format!("its metadata have {COMPARED_FROM_US} = {text:?}, expected microseconds");
        CaptureError::fatal("recording", message)
    })
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
        CallKind::Tokens { source, answers } => pipeline
            .take_tokens(source, answers, now, events)
            .map_err(|error| CaptureError::fatal("recording", error.to_string()))?,
        CallKind::Fail { source, reason } => pipeline.fail(source, &reason.as_str().into(), now, events),
        CallKind::Slow { kind, divisor } => match Kind::of(kind) {
            Some(kind) => pipeline.slow(kind, *divisor, now),
            None => {
                let message = format!("a call at {now} slows {kind:?}, expected image, audio or series");
                return Err(CaptureError::fatal("recording", message));
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
    /// Replayed events that the recording has yet to confirm.
    waiting: VecDeque<Event>,
    /// Recorded, and replayed as far as the recording goes.
    decisions: [Vec<String>; 2],
    /// The recording begins in the middle of a run, whose events go on counting; a replay counts from 0.
    is_part: bool,
    /// What is added to the replay's numbers, once an event of each side is known.
    ahead: Option<u64>,
}

impl Compare {
    fn replayed(&mut self, event: Event) {
        self.waiting.push_back(event);
    }

    /// The line of `event`, with the number that it has in the recording.
    fn line(&mut self, mut event: Event) -> String {
        event.seq = event.seq.wrapping_add(self.ahead.unwrap_or(0));
        let line = serde_json::to_string(&event).expect("every field of an event has a JSON form");
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        line
    }

    fn recorded(&mut self, line: &[u8], t_us: Micros, into: &mut Replayed) {
        self.decisions[0].extend(decided(line));
        let mine = self.waiting.pop_front();
        if let (true, None, Some(mine)) = (self.is_part, self.ahead, &mine) {
            self.ahead = number(line).map(|n| n.wrapping_sub(mine.seq));
        }
        let mine = mine.map(|event| self.line(event));
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
        while let Some(event) = self.waiting.pop_front() {
            let line = self.line(event);
            self.decisions[1].extend(decided(line.as_bytes()));
            differ(into, Difference { t_us, recorded: None, replayed: Some(line) });
        }
    }
}

/// Number of an event's line.
fn number(line: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Line {
        seq: u64,
    }
    serde_json::from_slice::<Line>(line).ok().map(|line| line.seq)
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
