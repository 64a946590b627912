//! One thread, samples in order: recordings and files.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::capture::CaptureError;
use crate::emit::{Sink, SinkError};
use crate::metrics::Histogram;
use crate::pipeline::{Pipeline, TICK};
use crate::signal::{Event, Sample};
use crate::time::{Clock, Micros};

use super::outside::Attention;
use super::{Feed, Outcome, Outside, available_at, emit_all, flush_all, is_decision, tolerate};

/// How fast samples are played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pacing {
    /// At the speed they were captured.
    RealTime,
    /// As fast as they can be processed.
    Max,
}

/// Why playing ended early. What was decided before has been emitted.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// An input broke off.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Nobody takes the events.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// Longest sleep before `stop` is looked at again.
const NAP: Micros = Micros::from_ms(50);

/// Plays `feed` through `pipeline` into `sinks`, until it ends or `stop` is set.
///
/// The time that the pipeline sees is that of the samples, never decreasing, with ticks in between: pacing does not change the
/// events. Commands of the `outside` do: they come when they come.
///
/// # Errors
/// [`PlayError`]; the end event has been emitted if the sinks still took it.
pub fn play(
    feed: &mut dyn Feed,
    pipeline: &mut Pipeline,
    clock: &dyn Clock,
    pacing: Pacing,
    sinks: &mut [Box<dyn Sink + '_>],
    stop: &AtomicBool,
    outside: &Outside,
) -> Result<Outcome, PlayError> {
    let (every, decided) = (Histogram::default(), Histogram::default());
    let attention = outside.attend(pipeline);
    let mut player = Player {
        clock,
        pacing,
        started: clock.now(),
        began: Micros::ZERO,
        now: Micros::ZERO,
        outcome: Outcome::default(),
        attention,
    };
    let mut events: Vec<Event> = Vec::with_capacity(16);
    let mut sample = Sample::default();
    pipeline.start(Micros::ZERO, &mut events);
    player.emit(&mut events, sinks)?;
    let ended = loop {
        if stop.load(Ordering::Relaxed) {
            break Ok(());
        }
        let source = match feed.next(&mut sample) {
            Ok(Some(source)) => source,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let due = available_at(&sample).max(player.now);
        while player.now + TICK < due {
            player.tick(pipeline, &mut events, sinks, stop)?;
        }
        player.now = due;
        let available = player.wait(stop);
        player.attention.carry_out(pipeline, player.now, &mut events);
        player.attention.update(pipeline, player.now, &mut events);
        player.attention.report(pipeline, player.now, &mut events);
        pipeline.process(&source, &sample, player.now, &mut events);
        player.outcome.samples += 1;
        let led_to_decision = events.iter().any(is_decision);
        player.emit(&mut events, sinks)?;
        let latency = clock.now() - available;
        every.record(latency);
        if led_to_decision {
            decided.record(latency);
        }
        player.attention.preview(&source, &sample, pipeline);
        player.attention.show(pipeline, player.now, clock.now(), |_| {});
    };
    let duration = player.now;
    if outside.stays && ended.is_ok() {
        player.pacing = Pacing::RealTime;
        // at full speed the samples' time has run ahead of the clock
        (player.started, player.began) = (clock.now(), player.now);
        while !stop.load(Ordering::Relaxed) {
            player.tick(pipeline, &mut events, sinks, stop)?;
        }
    }
    pipeline.end(player.now, &mut events);
    player.emit(&mut events, sinks)?;
    flush_all(sinks, &mut player.outcome)?;
    ended?;
    let mut outcome = player.outcome;
    outcome.duration = duration;
    outcome.sample_latency = every.summary();
    outcome.decision_latency = decided.summary();
    Ok(outcome)
}

struct Player<'a> {
    clock: &'a dyn Clock,
    pacing: Pacing,
    /// The clock's and the samples' time of one moment.
    started: Micros,
    began: Micros,
    /// Time of the samples.
    now: Micros,
    outcome: Outcome,
    attention: Attention<'a>,
}

impl Player<'_> {
    /// Waits until the clock reaches the samples' time and returns the moment from which latency counts.
    fn wait(&self, stop: &AtomicBool) -> Micros {
        if self.pacing == Pacing::Max {
            return self.clock.now();
        }
        let until = self.started + (self.now - self.began);
        while self.clock.now() < until && !stop.load(Ordering::Relaxed) {
            self.clock.sleep_until(until.min(self.clock.now() + NAP));
        }
        until
    }

    /// A tenth of a second without a sample.
    fn tick(
        &mut self,
        pipeline: &mut Pipeline,
        events: &mut Vec<Event>,
        sinks: &mut [Box<dyn Sink + '_>],
        stop: &AtomicBool,
    ) -> Result<(), SinkError> {
        self.now = self.now + TICK;
        self.wait(stop);
        self.attention.carry_out(pipeline, self.now, events);
        self.attention.update(pipeline, self.now, events);
        self.attention.report(pipeline, self.now, events);
        pipeline.tick(self.now, events);
        self.attention.show(pipeline, self.now, self.clock.now(), |_| {});
        self.emit(events, sinks)
    }

    fn emit(&mut self, events: &mut Vec<Event>, sinks: &mut [Box<dyn Sink + '_>]) -> Result<(), SinkError> {
        emit_all(events, sinks, &mut self.outcome)?;
        self.outcome.events += events.len() as u64;
        let decisions = events.iter().filter(|e| is_decision(e)).count() as u64;
        self.outcome.decisions += decisions;
        if decisions > 0 && self.outcome.first_decision.is_none() {
            self.outcome.first_decision = Some(self.clock.now());
        }
        events.clear();
        // what speaks has to be looked after while files are played, too
        sinks.iter_mut().try_for_each(|sink| tolerate(sink.tick(self.now), &mut self.outcome))
    }
}
