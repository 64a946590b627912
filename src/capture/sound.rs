//! What a microphone driver has to know about sound: samples of any layout to mono, the true time of a block, and whether
//! what comes is sound at all.
//!
//! No device here: the ALSA driver and [`Watched`], which wraps any microphone, use it. The rate is left as it is: the
//! preprocessing of each encoder converts to its own.

use std::sync::Arc;

use crate::capture::{CaptureError, Condition, Mic};
use crate::signal::AudioBlock;
use crate::time::Micros;

/// Averages the channels of interleaved `samples` into `out`, scaled to [-1, 1].
pub fn to_mono<S: Copy>(samples: &[S], channels: usize, scale: impl Fn(S) -> f32, out: &mut Vec<f32>) {
    out.clear();
    let share = 1.0 / channels.max(1) as f32;
    let mono = |frame: &[S]| frame.iter().map(|s| scale(*s)).sum::<f32>() * share;
    out.extend(samples.chunks_exact(channels.max(1)).map(mono));
}

/// 16-bit integers.
#[must_use]
pub fn of_s16(sample: i16) -> f32 {
    f32::from(sample) / 32_768.0
}

/// 32-bit integers; converters of 24 bits leave the lower ones empty.
#[must_use]
pub fn of_s32(sample: i32) -> f32 {
    sample as f32 / 2_147_483_648.0
}

/// Bandwidth of the loop that follows a sound card's clock: slow enough to average the jitter of an interrupt, fast enough to
/// follow a clock that is wrong by a fifth before a block is off by more than preprocessing lets pass.
const LOOP_HZ: f64 = 0.5;
/// Off by more than this, the time has jumped: the loop starts anew.
const JUMP_US: f64 = 50_000.0;
/// From this deviation of the rate on a microphone's clock is worth a notice; crystals are within 0.01 %.
const DRIFT_NOTICE: f64 = 0.005;
/// Blocks until the measured rate is believed.
const SETTLED_BLOCKS: u32 = 250;

/// The time of a sound card's samples on our clock: a delay-locked loop over the times at which blocks came.
///
/// After F. Adriaensen, "Using a DLL to filter time" (Linux Audio Conference 2005): a second-order loop whose state is the time of the
/// next block and the duration of a block.
#[derive(Clone, Debug)]
pub struct SampleClock {
    rate_hz: f64,
    /// Microseconds a sample takes.
    sample_us: f64,
    /// When the next sample is due; None before the first block.
    due_us: Option<f64>,
    blocks: u32,
}

impl SampleClock {
    /// For a card that says it delivers `rate_hz` samples per second.
    #[must_use]
    pub fn new(rate_hz: u32) -> Self {
        let rate_hz = f64::from(rate_hz.max(1));
        SampleClock { rate_hz, sample_us: 1e6 / rate_hz, due_us: None, blocks: 0 }
    }

    /// The time of the first of `len` samples, which seemed to be captured at `seen`. Lost samples, or a clock that jumped,
    /// show as a jump.
    pub fn follow(&mut self, seen: Micros, len: usize) -> Micros {
        let (seen_us, len) = (seen.0 as f64, len as f64);
        let span_us = len * self.sample_us;
        let Some(due_us) = self.due_us.filter(|due| (seen_us - due).abs() < JUMP_US) else {
            self.due_us = Some(seen_us + span_us);
            return seen;
        };
        let omega = std::f64::consts::TAU * LOOP_HZ * span_us / 1e6;
        let off_us = seen_us - due_us;
        self.blocks = self.blocks.saturating_add(1);
        if len > 0.0 {
            self.sample_us += omega * omega * off_us / len;
        }
        self.due_us = Some(due_us + std::f64::consts::SQRT_2 * omega * off_us + len * self.sample_us);
        Micros(due_us.max(0.0) as u64)
    }

    /// Samples that are missing if the next one was captured at `seen`.
    #[must_use]
    pub fn missing(&self, seen: Micros) -> u64 {
        self.due_us.map_or(0, |due| ((seen.0 as f64 - due) / self.sample_us).round().max(0.0) as u64)
    }

    /// Forgets when the next sample is due, after a gap; the measured rate stays.
    pub fn resume(&mut self) {
        self.due_us = None;
    }

    /// Samples per second by our clock, once enough blocks have been seen.
    #[must_use]
    pub fn measured_hz(&self) -> Option<f64> {
        (self.blocks >= SETTLED_BLOCKS).then(|| 1e6 / self.sample_us)
    }

    /// By how much the card is faster than it says, as a share; None while it is not known or not worth a word.
    #[must_use]
    pub fn drift(&self) -> Option<f64> {
        let drift = self.measured_hz()? / self.rate_hz - 1.0;
        (drift.abs() >= DRIFT_NOTICE).then_some(drift)
    }
}

/// Quieter than this, over [`SILENT_AFTER_MS`], a microphone is muted or broken: the noise of a converter is louder.
const SILENT_PEAK: f32 = 3.0e-5;
const SILENT_AFTER_MS: u64 = 10_000;
/// At or above this a sample is at the end of the scale.
const CLIPPED_AT: f32 = 0.999;
/// Share of a second's samples at the end of the scale from which the sound is clipped.
const CLIPPED_SHARE: f32 = 0.01;
const SECOND_MS: u64 = 1000;

/// How a microphone's signal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Signal {
    #[default]
    Good,
    Silent,
    Clipped,
}

/// Watches the level of a microphone, second by second.
#[derive(Clone, Debug, Default)]
struct LevelWatch {
    samples: u64,
    peak: f32,
    clipped: u64,
    silent_ms: u64,
    signal: Signal,
}

impl LevelWatch {
    /// Takes a block; the new state if it has changed.
    fn push(&mut self, data: &[f32], rate_hz: u32) -> Option<Signal> {
        for x in data {
            self.peak = self.peak.max(x.abs());
            self.clipped += u64::from(x.abs() >= CLIPPED_AT);
        }
        self.samples += data.len() as u64;
        if self.samples * 1000 < u64::from(rate_hz) * SECOND_MS {
            return None;
        }
        self.silent_ms = if self.peak <= SILENT_PEAK { self.silent_ms + SECOND_MS } else { 0 };
        let is_clipped = self.clipped as f32 > self.samples as f32 * CLIPPED_SHARE;
        let signal = match () {
            () if is_clipped => Signal::Clipped,
            () if self.silent_ms >= SILENT_AFTER_MS => Signal::Silent,
            // a second of silence is a pause, and no reason to take a notice back
            () if self.silent_ms > 0 => self.signal,
            () => Signal::Good,
        };
        (self.samples, self.peak, self.clipped) = (0, 0.0, 0);
        let has_changed = signal != self.signal;
        self.signal = signal;
        has_changed.then_some(signal)
    }
}

/// Sound goes on passing for this long after the last loud block: the end of a word is quiet.
const HANG: Micros = Micros::from_ms(600);
/// Above the noise by this much, a block is a voice or something like it.
const ABOVE_NOISE_DB: f32 = 9.0;
/// How fast the estimate of the noise rises, per second of sound; it falls at once.
const NOISE_RISE_DB_PER_S: f32 = 1.0;

/// Lets through what is louder than a level and than the room's noise, and makes the rest silent.
#[derive(Clone, Debug)]
struct Gate {
    open_dbfs: f32,
    noise_dbfs: f32,
    /// None before the first loud block.
    open_until: Option<Micros>,
}

impl Gate {
    fn new(open_dbfs: f32) -> Self {
        Gate { open_dbfs, noise_dbfs: 0.0, open_until: None }
    }

    fn pass(&mut self, block: &mut AudioBlock) {
        let len = block.data.len().max(1) as f32;
        let power = block.data.iter().map(|x| x * x).sum::<f32>() / len;
        let level_dbfs = 10.0 * power.max(1e-12).log10();
        let seconds = len / block.sample_rate_hz.max(1) as f32;
        self.noise_dbfs = level_dbfs.min(self.noise_dbfs + NOISE_RISE_DB_PER_S * seconds);
        if level_dbfs >= self.open_dbfs && level_dbfs >= self.noise_dbfs + ABOVE_NOISE_DB {
            self.open_until = Some(block.t + HANG);
        }
        if self.open_until.is_none_or(|until| block.t > until) {
            block.data.fill(0.0);
        }
    }
}

/// A microphone whose signal is watched, and gated if that is wanted.
pub struct Watched<M> {
    mic: M,
    watch: LevelWatch,
    gate: Option<Gate>,
    condition: Option<Condition>,
}

impl<M: Mic> Watched<M> {
    /// Watches `mic`; below `gate_dbfs`, and in what is no louder than the room, its samples become zero.
    pub fn new(mic: M, gate_dbfs: Option<f32>) -> Self {
        Watched { mic, watch: LevelWatch::default(), gate: gate_dbfs.map(Gate::new), condition: None }
    }
}

impl<M: Mic> Mic for Watched<M> {
    fn read(&mut self, into: &mut AudioBlock) -> Result<(), CaptureError> {
        self.mic.read(into)?;
        if let Some(signal) = self.watch.push(&into.data, into.sample_rate_hz) {
            let (state, reason) = match signal {
                Signal::Good => ("ok", "sound again"),
                Signal::Silent => ("silent", "nothing but zeros for 10 s; is it muted, or unplugged from its card?"),
                Signal::Clipped => {
                    ("clipped", "more than 1 % of the samples are at full scale; lower its gain (alsamixer, F4)")
                }
            };
            self.condition = Some(Condition { state, reason: Arc::from(reason) });
        }
        if let Some(gate) = &mut self.gate {
            gate.pass(into);
        }
        Ok(())
    }

    fn condition(&mut self) -> Option<Condition> {
        self.condition.take().or_else(|| self.mic.condition())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::fake::{Fake, Step};

    #[test]
    fn channels_are_averaged_and_scaled() {
        let mut out = vec![9.0; 3];
        to_mono(&[i16::MIN, i16::MIN, 16_384, 0], 2, of_s16, &mut out);
        assert_eq!(out, [-1.0, 0.25]);
        to_mono(&[i32::MIN, 1 << 30, 7], 1, of_s32, &mut out);
        assert_eq!(out, [-1.0, 0.5, 7.0 / 2_147_483_648.0]);
        to_mono(&[0.5_f32, 0.25, 0.0], 3, |x| x, &mut out);
        assert_eq!(out, [0.25]);
    }

    /// Blocks of 20 ms of a card that says 16 kHz and runs at `true_hz`, seen with a jitter of `jitter_us`: the clock, and the
    /// largest error of a block's time in the last second.
    fn run(true_hz: f64, jitter_us: u64, seconds: u64) -> (SampleClock, f64) {
        let (mut clock, mut worst, len) = (SampleClock::new(16_000), 0.0_f64, 320);
        for i in 0..seconds * 50 {
            let truth = 1e6 + i as f64 * len as f64 / true_hz * 1e6;
            let seen = truth as u64 + (i * 7919) % (jitter_us + 1);
            let t = clock.follow(Micros(seen), len);
            if i > (seconds - 1) * 50 {
                worst = worst.max((t.0 as f64 - truth).abs());
            }
        }
        (clock, worst)
    }

    #[test]
    fn the_clock_of_a_card_is_followed_whatever_its_rate() {
        for (true_hz, jitter_us, worst_us) in [
            (16_000.0, 0, 2.0),
            (16_000.0, 4000, 3000.0),
            (16_003.0, 0, 5.0),
            (12_800.0, 0, 50.0),
            (19_200.0, 1000, 800.0),
        ] {
            let (clock, worst) = run(true_hz, jitter_us, 20);
            assert!(worst <= worst_us, "{true_hz} Hz, jitter {jitter_us} us: off by {worst} us");
            let measured = clock.measured_hz().unwrap();
            assert!((measured / true_hz - 1.0).abs() < 0.004, "{true_hz} Hz measured as {measured}");
            let is_wrong = f64::abs(true_hz / 16_000.0 - 1.0) > 0.01;
            assert_eq!(clock.drift().is_some(), is_wrong, "{true_hz} Hz: {:?}", clock.drift());
        }
    }

    #[test]
    fn lost_samples_are_counted_by_the_time_that_passed() {
        let mut clock = SampleClock::new(16_000);
        for i in 0..10 {
            clock.follow(Micros(i * 20_000), 320);
        }
        assert_eq!(clock.missing(Micros(200_000)), 0);
        assert_eq!(clock.missing(Micros(900_000)), 11_200, "700 ms");
        clock.resume();
        assert_eq!(clock.missing(Micros(900_000)), 0, "nothing is due before the first block");
        assert_eq!(clock.follow(Micros(900_000), 320), Micros(900_000));
    }

    /// Blocks of 100 ms at 1 kHz that hold a constant.
    fn mic(blocks: &[f32]) -> Fake<AudioBlock> {
        let block = |(i, x): (usize, &f32)| AudioBlock {
            t: Micros::from_ms(i as u64 * 100),
            sample_rate_hz: 1000,
            data: vec![*x; 100],
            ..AudioBlock::default()
        };
        Fake::new("mic", blocks.iter().enumerate().map(block).map(Step::Deliver))
    }

    /// The conditions with the block after which each was said, and the samples that came through.
    fn listen(blocks: &[f32], gate_dbfs: Option<f32>) -> (Vec<(usize, &'static str)>, Vec<f32>) {
        let mut mic = Watched::new(mic(blocks), gate_dbfs);
        let (mut said, mut passed, mut block) = (Vec::new(), Vec::new(), AudioBlock::default());
        while mic.read(&mut block).is_ok() {
            passed.push(block.data[0]);
            said.extend(mic.condition().map(|c| (passed.len() - 1, c.state)));
        }
        (said, passed)
    }

    #[test]
    fn a_silent_or_clipped_microphone_is_said_once_and_taken_back() {
        let mut blocks = vec![0.1; 10];
        blocks.extend([0.0; 110]);
        blocks.extend([0.1; 10]);
        blocks.extend([1.0; 20]);
        blocks.extend([0.1; 10]);
        let (said, passed) = listen(&blocks, None);
        assert_eq!(said, [(109, "silent"), (129, "ok"), (139, "clipped"), (159, "ok")]);
        assert_eq!(passed, blocks, "without a gate nothing changes");
    }

    #[test]
    fn a_pause_is_no_silence() {
        let blocks = [vec![0.1; 10], vec![0.0; 90], vec![0.1; 10]].concat();
        assert_eq!(listen(&blocks, None).0, []);
    }

    #[test]
    fn a_gate_lets_through_what_is_louder_than_the_room_and_the_end_of_a_word() {
        // a room at -60 dBFS, a word at -20, its end at -60 again
        let blocks = [vec![0.001; 20], vec![0.1; 3], vec![0.001; 20]].concat();
        let (_, passed) = listen(&blocks, Some(-50.0));
        let loud: Vec<usize> = (0..passed.len()).filter(|i| passed[*i] != 0.0).collect();
        // block 22 is the last loud one; what begins within 600 ms of it passes
        assert_eq!(loud, (20..=28).collect::<Vec<_>>());
        // steady noise above the level is the room
        let (_, passed) = listen(&[0.1; 40], Some(-50.0));
        assert!(passed[10..].iter().all(|x| *x == 0.0), "{passed:?}");
    }
}
