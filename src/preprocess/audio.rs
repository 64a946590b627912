//! Sound: blocks of samples to windows of log-mel columns or samples.
//!
//! Owns resampling, the segment of unbroken sound, its windows and their time. The pipeline pushes every block and takes
//! windows until there is none; `eval` and the tensor export turn whole clips into one window. It does not detect speech
//! and does not change the level.
//!
//! A segment is broken, and the next window starts afresh, by samples that the driver reports as lost, by a timestamp
//! that is more than 50 ms off the one that the samples so far give, and by another sample rate. Times of windows follow
//! the newest block's capture time, so that a microphone whose clock runs fast or slow never drifts away.

use crate::config::manifest::{AudioLayout, AudioSpec, Features};
use crate::signal::{AudioBlock, Tensor};
use crate::time::Micros;

use super::mel::{Mel, MelSpec};
use super::resample::Converter;
use super::{PreprocessError, f32_elements};

/// A timestamp this far off what the samples give breaks the segment.
const MAX_JITTER: Micros = Micros::from_ms(50);
/// Sound that waits for [`AudioPreprocessor::next_window`] at most; beyond it the oldest hops are skipped and counted.
const MAX_WAITING_S: usize = 60;
/// Rates of sources and models: from telephone to the fastest converters.
const RATES_HZ: std::ops::RangeInclusive<u32> = 1000..=192_000;
/// Grid on which the loudest window of a long clip is looked for.
const CLIP_GRID_MS: u32 = 10;
/// Level of digital silence, where the logarithm has no value.
const SILENCE_DBFS: f32 = -120.0;

/// Blocks of sound to windows. One per encoder.
#[derive(Debug)]
pub struct AudioPreprocessor {
    rate_hz: u32,
    window_len: usize,
    hop_len: usize,
    shape: heapless::Vec<usize, 4>,
    layout: AudioLayout,
    /// None for [`Features::Waveform`].
    spectrum: Option<Spectrum>,
    /// For the live stream; None while the source has the model's rate.
    stream: Option<Converter>,
    /// For whole clips, so that they do not disturb the stream.
    clips: Option<Converter>,
    clip: Vec<f32>,
    /// Sound of the segment at the model's rate, from sample `base` of the segment on.
    samples: Vec<f32>,
    base: u64,
    /// First sample of the next window.
    next: u64,
    clock: Option<SegmentClock>,
    level_dbfs: f32,
    gaps: u64,
    skipped: u64,
    non_finite: u64,
}

/// Where the source stands in time.
#[derive(Clone, Copy, Debug)]
struct SegmentClock {
    source_hz: u32,
    /// Samples of the source in this segment before the newest block.
    before: u64,
    /// Capture time of the newest block's first sample.
    t: Micros,
    /// Samples of the newest block.
    block_len: u64,
}

/// Columns of the window that was made last, for the windows that overlap it.
#[derive(Debug)]
struct Spectrum {
    mel: Mel,
    n_fft: usize,
    step: usize,
    n_mels: usize,
    /// Columns in a window.
    count: usize,
    /// `[count, n_mels]`
    columns: Vec<f32>,
    /// Sample of the segment at which `columns` begin, if they are of this segment.
    at: Option<u64>,
}

impl AudioPreprocessor {
    /// Checks `spec` and prepares.
    ///
    /// # Errors
    /// [`PreprocessError::Spec`] naming the key, its value and what is expected.
    pub fn new(spec: &AudioSpec) -> Result<Self, PreprocessError> {
        let rate_hz = spec.sample_rate_hz;
        if !RATES_HZ.contains(&rate_hz) {
            let expected = format!("{} to {} Hz", RATES_HZ.start(), RATES_HZ.end());
            return Err(PreprocessError::spec("encoder.audio.sample_rate_hz", rate_hz, expected));
        }
        if !(1..=60_000).contains(&spec.window_ms) {
            return Err(PreprocessError::spec("encoder.audio.window_ms", spec.window_ms, "1 to 60000 ms"));
        }
        let window_len = samples_of(spec.window_ms, rate_hz);
        let hop_len = hop_of(spec.hop_ms, rate_hz, "encoder.audio.hop_ms")?;
        let mut shape = heapless::Vec::new();
        let mut dims = |dims: &[usize]| shape.extend_from_slice(dims).expect("at most four dimensions");
        let spectrum = match spec.features {
            Features::Waveform => {
                dims(&[1, window_len]);
                None
            }
            Features::LogMel => {
                let spectrum = Spectrum::new(spec, window_len)?;
                match spec.layout {
                    AudioLayout::Nct => dims(&[1, spectrum.n_mels, spectrum.count]),
                    AudioLayout::Ntc => dims(&[1, spectrum.count, spectrum.n_mels]),
                    AudioLayout::Nchw => dims(&[1, 1, spectrum.n_mels, spectrum.count]),
                }
                Some(spectrum)
            }
        };
        Ok(AudioPreprocessor {
            rate_hz,
            window_len,
            hop_len,
            shape,
            layout: spec.layout,
            spectrum,
            stream: None,
            clips: None,
            clip: Vec::new(),
            samples: Vec::with_capacity(2 * window_len + hop_len + rate_hz as usize),
            base: 0,
            next: 0,
            clock: None,
            level_dbfs: SILENCE_DBFS,
            gaps: 0,
            skipped: 0,
            non_finite: 0,
        })
    }

    /// The same with another hop: for exporting features more densely than they are used live.
    ///
    /// # Errors
    /// [`PreprocessError::Spec`] if `hop_ms` is 0 or longer than a minute.
    pub fn with_hop_ms(mut self, hop_ms: u32) -> Result<Self, PreprocessError> {
        self.hop_len = hop_of(hop_ms, self.rate_hz, "hop_ms")?;
        Ok(self)
    }

    /// Dimensions of the tensor: `[1, n_mels, T]`, `[1, T, n_mels]`, `[1, 1, n_mels, T]`, or `[1, N]` for a waveform.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Takes a block of the source. Samples that are no number count as silence and are counted; others are cut to
    /// [-1, 1].
    ///
    /// # Errors
    /// [`PreprocessError::Sample`] for a rate that nobody uses.
    pub fn push(&mut self, block: &AudioBlock) -> Result<(), PreprocessError> {
        check_rate(block.sample_rate_hz)?;
        if let Some(clock) = &self.clock {
            let expected = clock.t + span(clock.block_len, clock.source_hz);
            let off = (block.t - expected).max(expected - block.t);
            let backwards = block.t < clock.t;
            if block.gap_samples > 0 || off > MAX_JITTER || backwards || block.sample_rate_hz != clock.source_hz {
                self.gaps += 1;
                self.reset();
            }
        }
        let before = self.clock.map_or(0, |c| c.before + c.block_len);
        self.clock = Some(SegmentClock {
            source_hz: block.sample_rate_hz,
            before,
            t: block.t,
            block_len: block.data.len() as u64,
        });
        if block.sample_rate_hz == self.rate_hz {
            self.stream = None;
            extend_clean(&mut self.samples, &block.data, &mut self.non_finite);
        } else {
            self.clip.clear();
            extend_clean(&mut self.clip, &block.data, &mut self.non_finite);
            let converter = converter_for(&mut self.stream, block.sample_rate_hz, self.rate_hz)?;
            converter.push(&self.clip, &mut self.samples)?;
        }
        self.bound_waiting();
        Ok(())
    }

    /// The next window, if it is complete: fills `out`, which is made to fit if it does not, and returns the capture
    /// time of the END of the window. Call until `None`.
    ///
    /// # Errors
    /// None in practice; the signature leaves room for features that can refuse.
    pub fn next_window(&mut self, out: &mut Tensor) -> Result<Option<Micros>, PreprocessError> {
        let end = self.next + self.window_len as u64;
        let Some(clock) = self.clock else { return Ok(None) };
        if self.base + (self.samples.len() as u64) < end {
            return Ok(None);
        }
        let from = (self.next - self.base) as usize;
        let data = f32_elements(out, &self.shape);
        let window = &self.samples[from..from + self.window_len];
        self.level_dbfs = level_dbfs(window);
        match &mut self.spectrum {
            None => data.copy_from_slice(window),
            Some(spectrum) => {
                spectrum.follow(window, self.next);
                spectrum.write(self.layout, data);
            }
        }
        let t = clock.time_of(end, self.rate_hz);
        self.next += self.hop_len as u64;
        self.drop_used();
        Ok(Some(t))
    }

    /// The newest column of log-mel features of the stream; none for other features, and before the first window.
    #[must_use]
    pub fn newest_column(&self) -> Option<&[f32]> {
        let spectrum = self.spectrum.as_ref().filter(|s| s.at.is_some())?;
        spectrum.columns.chunks_exact(spectrum.n_mels).next_back()
    }

    /// A whole clip to one window. A clip that is not longer than the window is centred in digital silence; of a longer
    /// one the loudest window (largest sum of squares, first of equals) on a grid of 10 ms is taken. The live stream is
    /// not touched, except for [`AudioPreprocessor::level_dbfs`].
    ///
    /// # Errors
    /// [`PreprocessError::Sample`] for an empty clip or a rate that nobody uses.
    pub fn clip_window(&mut self, samples: &[f32], rate_hz: u32, out: &mut Tensor) -> Result<(), PreprocessError> {
        self.load_clip(samples, rate_hz)?;
        let grid = samples_of(CLIP_GRID_MS, self.rate_hz).max(1);
        let start = if self.clip.len() > self.window_len { loudest(&self.clip, self.window_len, grid) } else { 0 };
        self.write_clip(start, out);
        Ok(())
    }

    /// Every window of a clip, with the spec's hop: calls `each` with the window's number. A clip that is not longer than
    /// the window gives the one window of [`AudioPreprocessor::clip_window`]; the last stretch that does not fill a
    /// window is left out.
    ///
    /// # Errors
    /// As [`AudioPreprocessor::clip_window`].
    pub fn clip_all_windows(
        &mut self,
        samples: &[f32],
        rate_hz: u32,
        out: &mut Tensor,
        mut each: impl FnMut(usize, &Tensor),
    ) -> Result<usize, PreprocessError> {
        self.load_clip(samples, rate_hz)?;
        let count = 1 + (self.clip.len() - self.window_len) / self.hop_len;
        for k in 0..count {
            self.write_clip(k * self.hop_len, out);
            each(k, out);
        }
        Ok(count)
    }

    /// Forgets the segment: the next window begins with the next block.
    pub fn reset(&mut self) {
        self.samples.clear();
        self.base = 0;
        self.next = 0;
        self.clock = None;
        if let Some(stream) = &mut self.stream {
            stream.reset();
        }
        if let Some(spectrum) = &mut self.spectrum {
            spectrum.at = None;
        }
    }

    /// Times that the sound was broken so far.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Windows that were skipped because nobody took them for a minute.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Samples that were no number.
    #[must_use]
    pub fn non_finite(&self) -> u64 {
        self.non_finite
    }

    /// RMS of the last window, dB relative to full scale; -120 for digital silence.
    #[must_use]
    pub fn level_dbfs(&self) -> f32 {
        self.level_dbfs
    }

    /// The clip at the model's rate, at least one window long, into `self.clip`.
    fn load_clip(&mut self, samples: &[f32], rate_hz: u32) -> Result<(), PreprocessError> {
        check_rate(rate_hz)?;
        if samples.is_empty() {
            return Err(PreprocessError::Sample("audio clip of 0 samples, expected at least 1".into()));
        }
        let mut clean = Vec::with_capacity(samples.len().max(self.window_len));
        extend_clean(&mut clean, samples, &mut self.non_finite);
        if rate_hz == self.rate_hz {
            self.clip = clean;
        } else {
            converter_for(&mut self.clips, rate_hz, self.rate_hz)?.clip(&clean, &mut self.clip)?;
        }
        if self.clip.len() < self.window_len {
            let len = self.clip.len();
            let lead = (self.window_len - len) / 2;
            self.clip.resize(self.window_len, 0.0);
            self.clip.copy_within(..len, lead);
            self.clip[..lead].fill(0.0);
        }
        Ok(())
    }

    fn write_clip(&mut self, start: usize, out: &mut Tensor) {
        let window = &self.clip[start..start + self.window_len];
        self.level_dbfs = level_dbfs(window);
        let data = f32_elements(out, &self.shape);
        match &mut self.spectrum {
            None => data.copy_from_slice(window),
            Some(spectrum) => {
                // The columns of the stream are overwritten; its next window makes its own.
                spectrum.at = None;
                spectrum.follow(window, 0);
                spectrum.at = None;
                spectrum.write(self.layout, data);
            }
        }
    }

    /// Moves what is still needed to the front once as much as a window lies before it.
    fn drop_used(&mut self) {
        let used = ((self.next - self.base) as usize).min(self.samples.len());
        if used >= self.window_len {
            self.samples.copy_within(used.., 0);
            self.samples.truncate(self.samples.len() - used);
            self.base += used as u64;
        }
    }

    fn bound_waiting(&mut self) {
        let most = (MAX_WAITING_S * self.rate_hz as usize).max(2 * self.window_len);
        let waiting = (self.base + self.samples.len() as u64).saturating_sub(self.next) as usize;
        if waiting > most {
            let hops = (waiting - most).div_ceil(self.hop_len) as u64;
            self.skipped += hops;
            self.next += hops * self.hop_len as u64;
            self.drop_used();
        }
    }
}

impl SegmentClock {
    /// Capture time of the sample `index` of the segment at `rate_hz`.
    fn time_of(&self, index: u64, rate_hz: u32) -> Micros {
        let since_start = span(index, rate_hz);
        let block_start = span(self.before, self.source_hz);
        if since_start >= block_start {
            self.t + (since_start - block_start)
        } else {
            self.t - (block_start - since_start)
        }
    }
}

impl Spectrum {
    fn new(spec: &AudioSpec, window_len: usize) -> Result<Self, PreprocessError> {
        let rate = spec.sample_rate_hz as f32;
        if !(16..=16_384).contains(&spec.n_fft) {
            return Err(PreprocessError::spec("encoder.audio.n_fft", spec.n_fft, "16 to 16384 samples"));
        }
        if spec.n_fft > window_len {
            let expected = format!("at most {window_len} (window_ms in samples)");
            return Err(PreprocessError::spec("encoder.audio.n_fft", spec.n_fft, expected));
        }
        let win_len = (spec.win_ms * rate / 1000.0).round();
        if !(2.0..=spec.n_fft as f32).contains(&win_len) {
            let most = spec.n_fft as f32 * 1000.0 / rate;
            let expected = format!("at most {most} ms (n_fft = {} samples) and at least 2 samples", spec.n_fft);
            return Err(PreprocessError::spec("encoder.audio.win_ms", spec.win_ms, expected));
        }
        let step = (spec.step_ms * rate / 1000.0).round();
        if !(1.0..=window_len as f32).contains(&step) {
            let expected = format!("at least 1 sample and at most window_ms = {}", spec.window_ms);
            return Err(PreprocessError::spec("encoder.audio.step_ms", spec.step_ms, expected));
        }
        if !(1..=512).contains(&spec.n_mels) {
            return Err(PreprocessError::spec("encoder.audio.n_mels", spec.n_mels, "1 to 512"));
        }
        let nyquist = rate / 2.0;
        let fmax_hz = spec.fmax_hz.unwrap_or(nyquist);
        if !(fmax_hz > 0.0 && fmax_hz <= nyquist) {
            let expected = format!("at most {nyquist} (half of sample_rate_hz)");
            return Err(PreprocessError::spec("encoder.audio.fmax_hz", fmax_hz, expected));
        }
        if !(spec.fmin_hz >= 0.0 && spec.fmin_hz < fmax_hz) {
            let expected = format!("0 or above and below fmax_hz = {fmax_hz}");
            return Err(PreprocessError::spec("encoder.audio.fmin_hz", spec.fmin_hz, expected));
        }
        let step = step as usize;
        let count = 1 + (window_len - spec.n_fft) / step;
        let mel = Mel::new(&MelSpec {
            sample_rate_hz: spec.sample_rate_hz,
            n_fft: spec.n_fft,
            win_len: win_len as usize,
            n_mels: spec.n_mels,
            fmin_hz: spec.fmin_hz,
            fmax_hz,
        });
        let columns = vec![0.0; count * spec.n_mels];
        Ok(Spectrum { mel, n_fft: spec.n_fft, step, n_mels: spec.n_mels, count, columns, at: None })
    }

    /// Makes `columns` those of `window`, which begins at sample `start`: shifts what it shares with the last window,
    /// computes the rest.
    fn follow(&mut self, window: &[f32], start: u64) {
        let step = self.step as u64;
        let shift = self.at.and_then(|at| start.checked_sub(at)).filter(|d| d % step == 0).map(|d| d / step);
        let kept = shift.map_or(0, |s| (self.count as u64).saturating_sub(s) as usize);
        if kept > 0 {
            self.columns.copy_within((self.count - kept) * self.n_mels.., 0);
        }
        for (t, column) in self.columns.chunks_exact_mut(self.n_mels).enumerate().skip(kept) {
            self.mel.column(&window[t * self.step..][..self.n_fft], column);
        }
        self.at = Some(start);
    }

    fn write(&self, layout: AudioLayout, out: &mut [f32]) {
        match layout {
            AudioLayout::Ntc => out.copy_from_slice(&self.columns),
            AudioLayout::Nct | AudioLayout::Nchw => {
                for (m, line) in out.chunks_exact_mut(self.count).enumerate() {
                    for (to, column) in line.iter_mut().zip(self.columns.chunks_exact(self.n_mels)) {
                        *to = column[m];
                    }
                }
            }
        }
    }
}

fn samples_of(ms: u32, rate_hz: u32) -> usize {
    ((u64::from(ms) * u64::from(rate_hz) + 500) / 1000) as usize
}

fn hop_of(hop_ms: u32, rate_hz: u32, key: &str) -> Result<usize, PreprocessError> {
    if !(1..=60_000).contains(&hop_ms) {
        return Err(PreprocessError::spec(key, hop_ms, "1 to 60000 ms"));
    }
    Ok(samples_of(hop_ms, rate_hz).max(1))
}

fn check_rate(rate_hz: u32) -> Result<(), PreprocessError> {
    if RATES_HZ.contains(&rate_hz) {
        return Ok(());
    }
    let (low, high) = (RATES_HZ.start(), RATES_HZ.end());
    Err(PreprocessError::Sample(format!(
        "audio at {rate_hz} Hz, expected {low} to {high} Hz; check the source's format"
    )))
}

fn converter_for(slot: &mut Option<Converter>, from_hz: u32, to_hz: u32) -> Result<&mut Converter, PreprocessError> {
    if slot.as_ref().is_none_or(|c| c.rates_hz() != (from_hz, to_hz)) {
        *slot = None;
    }
    match slot {
        Some(converter) => Ok(converter),
        None => Ok(slot.insert(Converter::new(from_hz, to_hz)?)),
    }
}

/// Length of `samples` at `rate_hz`.
fn span(samples: u64, rate_hz: u32) -> Micros {
    let us = u128::from(samples) * 1_000_000 / u128::from(rate_hz.max(1));
    Micros(u64::try_from(us).unwrap_or(u64::MAX))
}

fn extend_clean(to: &mut Vec<f32>, from: &[f32], non_finite: &mut u64) {
    let mut bad = 0;
    to.extend(from.iter().map(|x| {
        if x.is_finite() {
            x.clamp(-1.0, 1.0)
        } else {
            bad += 1;
            0.0
        }
    }));
    *non_finite += bad;
}

/// Sum of squares in lanes, so that it is vectorised, in an order that does not depend on the CPU.
fn energy(samples: &[f32]) -> f64 {
    const LANES: usize = 16;
    let chunks = samples.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|x| x * x).sum();
    let mut sums = [0.0_f32; LANES];
    for chunk in chunks {
        for (s, x) in sums.iter_mut().zip(chunk) {
            *s += x * x;
        }
    }
    sums.iter().map(|s| f64::from(*s)).sum::<f64>() + f64::from(rest)
}

fn level_dbfs(samples: &[f32]) -> f32 {
    let mean = energy(samples) / samples.len().max(1) as f64;
    (10.0 * mean.log10()).max(f64::from(SILENCE_DBFS)) as f32
}

/// Start of the window with the largest energy, among multiples of `grid`; `samples` are longer than the window.
fn loudest(samples: &[f32], window_len: usize, grid: usize) -> usize {
    let mut best = (0, f64::MIN);
    // One sum, updated by what leaves and what enters: linear in the clip's length.
    let square = |s: &[f32]| s.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    let mut sum = square(&samples[..window_len]);
    for start in (0..=samples.len() - window_len).step_by(grid) {
        if start > 0 {
            sum -= square(&samples[start - grid..start]);
            sum += square(&samples[start + window_len - grid..start + window_len]);
        }
        if sum > best.1 * (1.0 + 1e-12) + 1e-12 || best.1 == f64::MIN {
            best = (start, sum);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(features: Features) -> AudioSpec {
        AudioSpec {
            sample_rate_hz: 16_000,
            window_ms: 100,
            hop_ms: 50,
            features,
            n_fft: 512,
            win_ms: 25.0,
            step_ms: 10.0,
            n_mels: 40,
            fmin_hz: 20.0,
            fmax_hz: Some(4000.0),
            layout: AudioLayout::Nct,
        }
    }

    /// Samples `first..first + n` of a signal that differs everywhere, at its capture time.
    fn block(first: u64, n: usize, rate_hz: u32) -> AudioBlock {
        let sample = |i: u64| ((i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.5;
        AudioBlock {
            t: Micros(1_000_000) + span(first, rate_hz),
            sample_rate_hz: rate_hz,
            data: (first..first + n as u64).map(sample).collect(),
            ..AudioBlock::default()
        }
    }

    fn drain(p: &mut AudioPreprocessor) -> Vec<(u64, Vec<f32>)> {
        let mut out = Tensor::zeros_f32(&[1]);
        let mut got = Vec::new();
        while let Some(t) = p.next_window(&mut out).unwrap() {
            assert_eq!(p.shape(), &out.shape[..]);
            got.push((t.0, out.as_f32().unwrap().to_vec()));
        }
        got
    }

    /// Windows of one second of sound in blocks of `piece` samples.
    fn stream(p: &mut AudioPreprocessor, piece: usize, rate_hz: u32) -> Vec<(u64, Vec<f32>)> {
        let mut got = Vec::new();
        let mut first = 0;
        while first < u64::from(rate_hz) {
            p.push(&block(first, piece, rate_hz)).unwrap();
            first += piece as u64;
            got.append(&mut drain(p));
        }
        got
    }

    #[test]
    fn windows_come_at_every_hop_whatever_the_blocks() {
        for features in [Features::Waveform, Features::LogMel] {
            let mut p = AudioPreprocessor::new(&spec(features)).unwrap();
            let by_160 = stream(&mut p, 160, 16_000);
            let times: Vec<u64> = by_160.iter().map(|(t, _)| *t).collect();
            let expect: Vec<u64> = (0..19).map(|k| 1_100_000 + 50_000 * k).collect();
            assert_eq!(times, expect);
            p.reset();
            assert_eq!(stream(&mut p, 16_000, 16_000), by_160);
            p.reset();
            let by_777 = stream(&mut p, 777, 16_000);
            for ((_, a), (_, b)) in by_777.iter().zip(&by_160) {
                assert_eq!(a, b);
            }
            assert_eq!(p.gaps(), 0);
        }
    }

    #[test]
    fn overlapping_windows_share_columns_without_a_difference() {
        // Hops of a multiple of the step, of none, and beyond the window.
        for hop_ms in [10, 15, 50, 130] {
            let mut p = AudioPreprocessor::new(&spec(Features::LogMel)).unwrap().with_hop_ms(hop_ms).unwrap();
            let windows = stream(&mut p, 320, 16_000);
            let signal = block(0, 16_000, 16_000).data;
            let mut alone = AudioPreprocessor::new(&spec(Features::LogMel)).unwrap();
            let mut out = Tensor::zeros_f32(&[1]);
            assert!(windows.len() > 5);
            for (k, (_, window)) in windows.iter().enumerate() {
                let from = k * hop_ms as usize * 16;
                alone.clip_window(&signal[from..from + 1600], 16_000, &mut out).unwrap();
                assert_eq!(out.as_f32().unwrap(), window, "hop {hop_ms} ms, window {k}");
            }
        }
    }

    #[test]
    fn layouts_order_the_same_columns() {
        let signal = block(0, 1600, 16_000).data;
        let log_mel = |layout| {
            let mut p = AudioPreprocessor::new(&AudioSpec { layout, ..spec(Features::LogMel) }).unwrap();
            let mut out = Tensor::zeros_f32(&[1]);
            p.clip_window(&signal, 16_000, &mut out).unwrap();
            assert_eq!(p.shape(), &out.shape[..]);
            (p.shape().to_vec(), out.as_f32().unwrap().to_vec())
        };
        let (shape, nct) = log_mel(AudioLayout::Nct);
        assert_eq!(shape, [1, 40, 7]);
        let (shape, ntc) = log_mel(AudioLayout::Ntc);
        assert_eq!(shape, [1, 7, 40]);
        assert_eq!(log_mel(AudioLayout::Nchw), (vec![1, 1, 40, 7], nct.clone()));
        for m in 0..40 {
            for t in 0..7 {
                assert_eq!(nct[m * 7 + t], ntc[t * 40 + m]);
            }
        }
    }

    #[test]
    fn other_rates_are_resampled_and_keep_their_time() {
        for (rate_hz, piece) in [(8_000, 80), (48_000, 480), (44_100, 441), (44_101, 500)] {
            let mut p = AudioPreprocessor::new(&spec(Features::Waveform)).unwrap();
            // Silence with one click half a second in.
            let mut windows = Vec::new();
            let click = u64::from(rate_hz / 2);
            for k in 0..(rate_hz as usize / piece) as u64 {
                let mut b = block(k * piece as u64, piece, rate_hz);
                let first = k * piece as u64;
                for (i, x) in b.data.iter_mut().enumerate() {
                    *x = if first + i as u64 == click { 1.0 } else { 0.0 };
                }
                p.push(&b).unwrap();
                windows.append(&mut drain(&mut p));
            }
            assert_eq!(p.gaps(), 0);
            let (t, window) =
                windows.iter().find(|(_, w)| energy(&w[400..1200]) > 1e-3).expect("the click is in a window");
            let peak = window.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap().0;
            let at = t - 100_000 + peak as u64 * 1_000_000 / 16_000;
            assert!(at.abs_diff(1_500_000) <= 130, "{rate_hz} Hz: the click lies at {at} us");
        }
    }

    #[test]
    fn a_break_in_the_sound_begins_a_new_window() {
        // 96 ms of sound, a second block as given, and then how much more until a window is complete.
        let after = |second: &dyn Fn(&mut AudioBlock)| {
            let mut p = AudioPreprocessor::new(&spec(Features::Waveform)).unwrap();
            p.push(&block(0, 1536, 16_000)).unwrap();
            let mut b = block(1536, 160, 16_000);
            second(&mut b);
            p.push(&b).unwrap();
            let windows = drain(&mut p).len();
            (windows, p.gaps())
        };
        assert_eq!(after(&|_| {}), (1, 0));
        assert_eq!(after(&|b| b.t = b.t + Micros::from_ms(40)), (1, 0)); // jitter
        assert_eq!(after(&|b| b.gap_samples = 1), (0, 1));
        assert_eq!(after(&|b| b.t = b.t + Micros::from_ms(60)), (0, 1));
        assert_eq!(after(&|b| b.t = b.t - Micros::from_ms(60)), (0, 1));
        assert_eq!(after(&|b| b.t = Micros::ZERO), (0, 1));
        assert_eq!(after(&|b| b.t = Micros(u64::MAX)), (0, 1));
        assert_eq!(after(&|b| b.sample_rate_hz = 8_000), (0, 1));
    }

    #[test]
    fn times_follow_a_microphone_whose_clock_runs_slow() {
        let mut p = AudioPreprocessor::new(&spec(Features::Waveform)).unwrap();
        // Blocks of 10 ms that really take 10.1 ms: after 30 s the samples alone would be 300 ms behind.
        let mut last = (0, 0);
        for k in 0..3000_u64 {
            let mut b = block(k * 160, 160, 16_000);
            b.t = Micros(k * 10_100);
            p.push(&b).unwrap();
            if let Some((t, _)) = drain(&mut p).pop() {
                last = (t, b.t.0 + 10_000);
            }
        }
        assert_eq!(p.gaps(), 0);
        assert!(last.0.abs_diff(last.1) <= 10_000, "{last:?}");
    }

    #[test]
    fn a_clip_becomes_one_window() {
        let mut p = AudioPreprocessor::new(&spec(Features::Waveform)).unwrap();
        let mut out = Tensor::zeros_f32(&[1]);
        let mut window = |clip: &[f32], rate_hz| {
            p.clip_window(clip, rate_hz, &mut out).unwrap();
            out.as_f32().unwrap().to_vec()
        };
        let short = window(&[0.5; 600], 16_000);
        assert!(short[..500].iter().chain(&short[1100..]).all(|x| *x == 0.0));
        assert!(short[500..1100].iter().all(|x| *x == 0.5));
        let mut long = vec![0.01; 16_000];
        long[8000..9600].fill(0.5);
        assert_eq!(window(&long, 16_000), vec![0.5; 1600]);
        assert_eq!(window(&long[..1600], 16_000), vec![0.01; 1600]);
        // Silence: the first of equals.
        assert_eq!(window(&[0.0; 5000], 16_000), vec![0.0; 1600]);
        let from_8k = window(&[0.5; 400], 8_000);
        assert!((from_8k[800] - 0.5).abs() < 0.01 && from_8k[300].abs() < 1e-6 && from_8k[1300].abs() < 1e-6);
    }

    #[test]
    fn a_clip_gives_all_its_windows() {
        let mut p = AudioPreprocessor::new(&spec(Features::Waveform)).unwrap();
        let mut out = Tensor::zeros_f32(&[1]);
        let signal = block(0, 16_000, 16_000).data;
        let mut seen = Vec::new();
        let count = p
            .clip_all_windows(&signal, 16_000, &mut out, |k, w| {
                assert_eq!(w.as_f32().unwrap(), &signal[k * 800..k * 800 + 1600]);
                seen.push(k);
            })
            .unwrap();
        assert_eq!((count, seen.len()), (19, 19));
        assert_eq!(p.clip_all_windows(&signal[..50], 16_000, &mut out, |_, _| {}).unwrap(), 1);
    }

    #[test]
    fn the_level_is_that_of_the_last_window() {
        let mut p = AudioPreprocessor::new(&spec(Features::LogMel)).unwrap();
        let mut out = Tensor::zeros_f32(&[1]);
        assert_eq!(p.level_dbfs(), -120.0);
        p.clip_window(&[0.1; 1600], 16_000, &mut out).unwrap();
        assert!((p.level_dbfs() + 20.0).abs() < 0.01);
        p.clip_window(&[0.0; 1600], 16_000, &mut out).unwrap();
        assert_eq!(p.level_dbfs(), -120.0);
    }

    #[test]
    fn samples_that_are_no_numbers_are_silence_and_counted() {
        let mut p = AudioPreprocessor::new(&spec(Features::LogMel)).unwrap();
        let mut b = block(0, 1600, 16_000);
        b.data[7] = f32::NAN;
        b.data[8] = f32::NEG_INFINITY;
        b.data[9] = 1e30;
        p.push(&b).unwrap();
        assert!(drain(&mut p)[0].1.iter().all(|x| x.is_finite()));
        assert_eq!(p.non_finite(), 2);
    }

    #[test]
    fn sound_that_nobody_takes_is_bounded_and_counted() {
        let mut p = AudioPreprocessor::new(&spec(Features::Waveform)).unwrap();
        for k in 0..100 {
            p.push(&block(k * 16_000, 16_000, 16_000)).unwrap();
        }
        assert_eq!(p.skipped(), 800);
        let windows = drain(&mut p);
        assert_eq!(windows[0].0, 1_000_000 + 40_000_000 + 100_000);
        assert_eq!(windows.len(), 1199);
    }

    #[test]
    fn impossible_specs_and_rates_are_named() {
        let log_mel = || spec(Features::LogMel);
        let check = |spec: AudioSpec, part: &str| {
            let error = AudioPreprocessor::new(&spec).unwrap_err().to_string();
            assert!(error.contains(part), "{error}, expected {part}");
        };
        check(
            AudioSpec { sample_rate_hz: 0, ..log_mel() },
            "encoder.audio.sample_rate_hz = 0, expected 1000 to 192000 Hz",
        );
        check(AudioSpec { window_ms: 0, ..log_mel() }, "encoder.audio.window_ms = 0");
        check(AudioSpec { hop_ms: 0, ..log_mel() }, "encoder.audio.hop_ms = 0");
        check(AudioSpec { n_fft: 2048, ..log_mel() }, "encoder.audio.n_fft = 2048, expected at most 1600");
        check(AudioSpec { n_fft: 0, ..log_mel() }, "encoder.audio.n_fft = 0");
        check(
            AudioSpec { win_ms: 40.0, ..log_mel() },
            "encoder.audio.win_ms = 40, expected at most 32 ms (n_fft = 512",
        );
        check(AudioSpec { win_ms: f32::NAN, ..log_mel() }, "encoder.audio.win_ms = NaN");
        check(AudioSpec { step_ms: 0.0, ..log_mel() }, "encoder.audio.step_ms = 0");
        check(AudioSpec { n_mels: 0, ..log_mel() }, "encoder.audio.n_mels = 0");
        let fmax = "encoder.audio.fmax_hz = 9000, expected at most 8000 (half of sample_rate_hz)";
        check(AudioSpec { fmax_hz: Some(9000.0), ..log_mel() }, fmax);
        check(
            AudioSpec { fmin_hz: 4000.0, ..log_mel() },
            "encoder.audio.fmin_hz = 4000, expected 0 or above and below",
        );
        let mut p = AudioPreprocessor::new(&log_mel()).unwrap();
        for rate_hz in [0, 999, u32::MAX] {
            assert!(p.push(&AudioBlock { sample_rate_hz: rate_hz, ..AudioBlock::default() }).is_err());
            assert!(p.clip_window(&[0.0; 9], rate_hz, &mut Tensor::zeros_f32(&[1])).is_err());
        }
        assert!(p.clip_window(&[], 16_000, &mut Tensor::zeros_f32(&[1])).is_err());
        assert!(p.with_hop_ms(0).is_err());
    }
}
