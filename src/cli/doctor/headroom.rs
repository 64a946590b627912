//! Headroom: how much of the board's budget this bundle takes on this machine, measured.
//!
//! The real pipeline is given made-up samples at the rates of the board's devices, in real time, so that caches and the frequency governor
//! behave as in a run. Drivers, sinks and the network are not in it.

use std::sync::Arc;

use attendant::board::{BOARD, FrameFormat};
use attendant::bundle::Bundle;
use attendant::pipeline::{Pipeline, TICK};
use attendant::signal::{
    AudioBlock, Event, Frame, FrameSeq, Monitor, PixelFormat, Reading, Sample, SampleIdx, Utterance,
};
use attendant::time::{Clock, Micros, MonotonicClock, NanoTimer, now_ns};

use super::bundle::Loaded;
use super::jpeg::{self, Noise};
use super::{Check, Status};

const TOPIC: &str = "headroom";

/// Not counted: models touch their memory for the first time.
const WARM_UP: Micros = Micros::from_ms(1000);

/// Time that is measured.
const SPAN: Micros = Micros::from_ms(4000);

/// A machine that is slower than this is not waited for.
const PATIENCE: Micros = Micros::from_ms(15_000);

/// Share of the budget from which there is too little left for a hot day.
const SCARCE: f64 = 0.8;

/// A visitor types rarely.
const TEXT_EVERY: Micros = Micros::from_ms(2000);

/// Readings of a sensor, where its encoder does not say how many it takes.
const READINGS_HZ: f32 = 10.0;

/// What was measured.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Share of one core's time.
    busy: f64,
    /// Of samples that gave a token.
    p50: Micros,
    p99: Micros,
}

/// Measures, and compares with the board's budget.
pub fn check(loaded: Result<Loaded, Box<Check>>) -> Check {
    let Loaded { bundle, mut pipeline, .. } = match loaded {
        Ok(loaded) => loaded,
        Err(check) => return Check::new(TOPIC, "budget", Status::Unknown, format!("not measured: {}", check.text)),
    };
    let mut sources = sources(&bundle, &pipeline);
    if sources.is_empty() {
        return Check::new(TOPIC, "budget", Status::Unknown, "not measured: the bundle has no encoder");
    }
    let said: Vec<String> = sources.iter().map(Source::describe).collect();
    judge(measure(&mut pipeline, &mut sources, &MonotonicClock::new()), &said.join(", "))
}

fn judge(load: Load, sources: &str) -> Check {
    let limit = f64::from(BOARD.budget.busy_percent_max) / 100.0;
    let share = load.busy / limit;
    let latency_ms_max = BOARD.latency.decision_ms_max;
    let text = format!(
        "{:.0} % of the board's budget: {:.1} % of one core, the board allows {:.0} %; a decision takes {:.1} ms (p50), {:.1} ms (p99), \
         the board allows {latency_ms_max} ms; measured for {} s with {sources}",
        share * 100.0,
        load.busy * 100.0,
        limit * 100.0,
        load.p50.0 as f64 / 1e3,
        load.p99.0 as f64 / 1e3,
        SPAN.as_ms() / 1000,
    );
    if cfg!(debug_assertions) {
        let text = format!("{text}; this is a build for debugging, which is several times slower: no verdict");
        return Check::new(TOPIC, "budget", Status::Unknown, text).fix("cargo build --release");
    }
    let fix = "lower rates of the encoders (rate_hz, hop_ms), a smaller bundle, or fewer other programs";
    match () {
        () if share > 1.0 => {
            Check::new(TOPIC, "budget", Status::Error, format!("{text}: rates will be halved")).fix(fix)
        }
        () if share > SCARCE || load.p99 > Micros::from_ms(u64::from(latency_ms_max)) => {
            Check::new(TOPIC, "budget", Status::Warning, text).fix(fix)
        }
        () => Check::new(TOPIC, "budget", Status::Ok, text),
    }
}

/// A made-up source: one sample, whose time and number are renewed.
struct Source {
    name: Arc<str>,
    sample: Sample,
    every: Micros,
    due: Micros,
}

impl Source {
    fn describe(&self) -> String {
        let hz = 1e6 / self.every.0 as f64;
        let what = match &self.sample {
            Sample::Frame(f) => {
                format!("{:?} pictures {}x{} of {} kB", f.format, f.width, f.height, f.data.len() / 1000)
            }
            Sample::Audio(a) => format!("blocks of {} Hz", a.sample_rate_hz),
            Sample::Text(_) => "a sentence".to_owned(),
            _ => "readings".to_owned(),
        };
        format!("{}: {what} at {hz:.1}/s", self.name)
    }

    fn renew(&mut self) {
        let t = self.due;
        match &mut self.sample {
            Sample::Frame(frame) => (frame.t, frame.seq) = (t, FrameSeq(frame.seq.0 + 1)),
            Sample::Audio(block) => (block.t, block.first) = (t, SampleIdx(block.first.0 + block.data.len() as u64)),
            Sample::Text(text) => text.t = t,
            Sample::Reading(reading) => reading.t = t,
            Sample::Fault { .. } => {}
        }
    }
}

/// One for every name that encoders read from.
fn sources(bundle: &Bundle, pipeline: &Pipeline) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for (i, (_, name, _)) in pipeline.inputs().enumerate() {
        if sources.iter().any(|s| s.name == *name) {
            continue;
        }
        let every = |hz: f32| Micros((1e6 / f64::from(hz.max(0.01))) as u64);
        let (sample, every) = match pipeline.kind(i) {
            "image" => (Sample::Frame(frame()), every(BOARD.camera.rate_hz as f32)),
            "audio" => (Sample::Audio(block()), Micros::from_ms(u64::from(BOARD.audio.block_ms))),
            "text" => {
                let text = "I have lost my card and would like to order a new one, please".to_owned();
                (Sample::Text(Utterance { t: Micros::ZERO, text }), TEXT_EVERY)
            }
            _ => {
                let spec = &bundle.manifest.encoder[i];
                let channels = spec.series.as_ref().map_or(1, |s| s.channels.len());
                let rate = spec.rate_hz.unwrap_or(READINGS_HZ);
                (Sample::Reading(Reading { t: Micros::ZERO, values: vec![0.5; channels] }), every(rate))
            }
        };
        sources.push(Source { name: Arc::clone(name), sample, every, due: Micros::ZERO });
    }
    sources
}

/// In the board's first format, JPEG if that is it: decoding is the larger part of a camera's work.
fn frame() -> Frame {
    let (width, height) = (BOARD.camera.width, BOARD.camera.height);
    let pixels = width as usize * height as usize;
    let mut noise = Noise(7);
    let mut bytes = |len: usize| (0..len).map(|_| noise.between(16, 235) as u8).collect::<Vec<u8>>();
    let (format, stride, data) = match BOARD.camera.formats.first() {
        Some(FrameFormat::Mjpeg) | None => {
            let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
            (PixelFormat::Jpeg, 0, jpeg::picture(side(width), side(height)))
        }
        // what the camera's own order is does not matter once it is copied
        Some(FrameFormat::Yuyv | FrameFormat::Uyvy) => (PixelFormat::Yuyv, width.next_multiple_of(2) * 2, {
            bytes(width.next_multiple_of(2) as usize * 2 * height as usize)
        }),
        Some(FrameFormat::Nv12 | FrameFormat::Yu12) => {
            let chroma = width.next_multiple_of(2) as usize * height.div_ceil(2) as usize;
            (PixelFormat::Nv12, width, bytes(pixels + chroma))
        }
        Some(FrameFormat::Gray) => (PixelFormat::Gray, width, bytes(pixels)),
        Some(FrameFormat::Rgb) => (PixelFormat::Rgb, width * 3, bytes(pixels * 3)),
    };
    Frame { t: Micros::ZERO, seq: FrameSeq(0), width, height, stride, format, data }
}

/// Noise as loud as speech.
fn block() -> AudioBlock {
    let sample_rate_hz = BOARD.audio.sample_rate_hz;
    let len = sample_rate_hz as usize * BOARD.audio.block_ms as usize / 1000;
    let mut noise = Noise(3);
    let data = (0..len).map(|_| f32::from(noise.between(-2000, 2000)) / 32768.0).collect();
    AudioBlock { t: Micros::ZERO, first: SampleIdx(0), gap_samples: 0, sample_rate_hz, data }
}

/// Runs the pipeline through the warm-up and the span.
fn measure(pipeline: &mut Pipeline, sources: &mut [Source], clock: &dyn Clock) -> Load {
    let mut events: Vec<Event> = Vec::new();
    let (mut now, mut busy_ns, mut next_tick) = (Micros::ZERO, 0, TICK);
    let end = WARM_UP + SPAN;
    pipeline.start(now, &mut events);
    let monitor = Arc::new(Monitor::default());
    let mut is_measured = false;
    while now < end && clock.now() < PATIENCE {
        let next = sources.iter_mut().min_by_key(|s| s.due).expect("check makes sure that there is one");
        now = next.due.min(next_tick);
        clock.sleep_until(now);
        if now >= WARM_UP && !is_measured {
            pipeline.measure(&monitor, now_ns);
            is_measured = true;
        }
        let timer = NanoTimer::start();
        if now == next.due {
            next.renew();
            pipeline.process(&next.name, &next.sample, now, &mut events);
            next.due = now + next.every;
        } else {
            pipeline.tick(now, &mut events);
            next_tick = now + TICK;
        }
        events.clear();
        if is_measured {
            busy_ns += timer.elapsed_ns();
        }
    }
    let span_ns = now.since(WARM_UP).0.max(1) * 1000;
    let quantile = |q| Micros(monitor.latencies.step.quantile_us(q));
    Load { busy: busy_ns as f64 / span_ns as f64, p50: quantile(0.5), p99: quantile(0.99) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use attendant::pipeline::Options;
    use attendant::time::VirtualClock;

    use super::*;

    fn kiosk() -> (Bundle, Pipeline) {
        let bundle = Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/kiosk")).unwrap();
        let pipeline = Pipeline::load(&bundle, &Options::default()).unwrap();
        (bundle, pipeline)
    }

    #[test]
    fn every_encoder_gets_its_samples_at_the_boards_rates() {
        let (bundle, mut pipeline) = kiosk();
        let mut sources = sources(&bundle, &pipeline);
        let names: Vec<&str> = sources.iter().map(|s| &*s.name).collect();
        assert_eq!(names, ["camera", "mic", "text"]);
        let load = measure(&mut pipeline, &mut sources, &VirtualClock::starting_at(Micros::ZERO));
        assert!(load.busy > 0.0 && load.p50 > Micros::ZERO && load.p99 >= load.p50, "{load:?}");
        let end = WARM_UP + SPAN;
        for source in &sources {
            assert!(source.due >= end && source.due < end + source.every + TICK, "{} at {}", source.name, source.due);
        }
        let errors: Vec<_> = pipeline.counters().map(|(name, c)| (name.clone(), c)).collect();
        assert!(errors.iter().all(|(_, c)| c.windows > 0 && c.errors == 0), "{errors:?}");
    }

    #[test]
    fn more_than_the_budget_is_never_fine() {
        let load = |busy: f64, p99_ms: u64| Load { busy, p50: Micros::from_ms(1), p99: Micros::from_ms(p99_ms) };
        let limit = f64::from(BOARD.budget.busy_percent_max) / 100.0;
        let check = judge(load(limit * 2.0, 1), "camera");
        assert!(check.status != Status::Ok && check.text.starts_with("200 % of the board's budget"), "{check:?}");
        let late = judge(load(0.01, u64::from(BOARD.latency.decision_ms_max) * 2), "camera");
        assert!(late.status != Status::Ok, "{late:?}");
    }
}
