//! Sample rate conversion of a stream, band-limited, with its delay taken out.
//!
//! Owns the resampler and its blocks. The audio code pushes samples of any length and reads what has come out; output
//! sample `n` stands for the same moment as input sample `n * from / to`. Time itself is the audio code's.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Async, Fft, FixedAsync, FixedSync, Resampler, SincInterpolationParameters, WindowFunction};

use super::PreprocessError;

/// Length of a block that is aimed at: also the length of the filter, so longer is steeper and later.
const BLOCK_MS: u32 = 20;
/// Rates that need longer blocks than this for an exact ratio take the other resampler.
const MAX_BLOCK_MS: u32 = 40;
/// Length of that one's filter, in samples of the source.
const SINC_LEN: usize = 128;

/// A converter between two fixed rates.
pub(super) struct Converter {
    from_hz: u32,
    to_hz: u32,
    inner: Box<dyn Resampler<f32>>,
    /// Input that does not fill a block yet.
    pending: Vec<f32>,
    block_out: Vec<f32>,
    /// Of the filter, in samples of the output.
    delay: usize,
    /// Output still to be dropped.
    skip: usize,
}

impl std::fmt::Debug for Converter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Converter({} Hz to {} Hz)", self.from_hz, self.to_hz)
    }
}

impl Converter {
    /// From one rate to another, both above 0.
    pub fn new(from_hz: u32, to_hz: u32) -> Result<Self, PreprocessError> {
        let bad = |e: &dyn std::fmt::Display| {
            PreprocessError::Sample(format!("audio at {from_hz} Hz cannot be resampled to {to_hz} Hz: {e}"))
        };
        let (from, to) = (from_hz as usize, to_hz as usize);
        // An even number of samples, because the filter of an odd one is delayed by half a sample more than it says.
        let ratio_unit = from / gcd(from, to);
        let unit = if ratio_unit.is_multiple_of(2) { ratio_unit } else { 2 * ratio_unit };
        let block = ((from_hz * BLOCK_MS / 1000) as usize).next_multiple_of(unit).max(unit);
        let (inner, skip): (Box<dyn Resampler<f32>>, usize) = if block <= (from_hz * MAX_BLOCK_MS / 1000) as usize {
            let window = WindowFunction::BlackmanHarris2;
            let fft = Fft::new_custom(from, to, block, 1, 1, window, FixedSync::Both).map_err(|e| bad(&e))?;
            let delay = fft.output_delay();
            (Box::new(fft), delay)
        } else {
            let sinc = SincInterpolationParameters::new(SINC_LEN, WindowFunction::BlackmanHarris2);
            let ratio = f64::from(to_hz) / f64::from(from_hz);
            let block = (from_hz * BLOCK_MS / 1000) as usize;
            let sinc = Async::new_sinc(ratio, 1.0, &sinc, block, 1, FixedAsync::Input).map_err(|e| bad(&e))?;
            // Half the filter, less the one step that this resampler makes before its first output.
            let delay = (SINC_LEN as f64 / 2.0 * ratio - 1.0).round().max(0.0);
            (Box::new(sinc), delay as usize)
        };
        Ok(Converter {
            from_hz,
            to_hz,
            pending: Vec::with_capacity(inner.input_frames_max()),
            block_out: vec![0.0; inner.output_frames_max()],
            delay: skip,
            skip,
            inner,
        })
    }

    pub fn rates_hz(&self) -> (u32, u32) {
        (self.from_hz, self.to_hz)
    }

    /// Forgets everything that was pushed.
    pub fn reset(&mut self) {
        self.inner.reset();
        self.pending.clear();
        self.skip = self.delay;
    }

    /// Converts `samples` and appends what is ready to `out`; the rest waits for more.
    pub fn push(&mut self, mut samples: &[f32], out: &mut Vec<f32>) -> Result<(), PreprocessError> {
        loop {
            let block = self.inner.input_frames_next();
            let missing = block.saturating_sub(self.pending.len()).min(samples.len());
            let (now, later) = samples.split_at(missing);
            self.pending.extend_from_slice(now);
            samples = later;
            if self.pending.len() < block {
                return Ok(());
            }
            let made = self.block(block)?;
            self.pending.drain(..block);
            let skipped = self.skip.min(made);
            self.skip -= skipped;
            out.extend_from_slice(&self.block_out[skipped..made]);
        }
    }

    fn block(&mut self, block: usize) -> Result<usize, PreprocessError> {
        let bad = |e: &dyn std::fmt::Display| {
            PreprocessError::Sample(format!("audio at {} Hz: resampling a block of {block} samples: {e}", self.from_hz))
        };
        let input = InterleavedSlice::new(&self.pending, 1, block).map_err(|e| bad(&e))?;
        let room = self.block_out.len();
        let mut output = InterleavedSlice::new_mut(&mut self.block_out, 1, room).map_err(|e| bad(&e))?;
        let (_, made) = self.inner.process_into_buffer(&input, &mut output, None).map_err(|e| bad(&e))?;
        Ok(made)
    }

    /// Converts a whole clip, `out` is replaced: `ceil(samples * to / from)` samples.
    pub fn clip(&mut self, samples: &[f32], out: &mut Vec<f32>) -> Result<(), PreprocessError> {
        const SILENCE: [f32; 256] = [0.0; 256];
        self.reset();
        out.clear();
        let wanted = (samples.len() as u64 * u64::from(self.to_hz)).div_ceil(u64::from(self.from_hz)) as usize;
        self.push(samples, out)?;
        while out.len() < wanted {
            self.push(&SILENCE, out)?;
        }
        out.truncate(wanted);
        self.reset();
        Ok(())
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hz: f32, rate_hz: u32, n: usize) -> Vec<f32> {
        (0..n).map(|i| (std::f32::consts::TAU * hz * i as f32 / rate_hz as f32).sin()).collect()
    }

    /// A tone keeps its phase and its amplitude (which shows the delay to be taken out), one that the target cannot
    /// carry disappears.
    fn check(from_hz: u32, tone_hz: f32, survives: bool) {
        let mut converter = Converter::new(from_hz, 16_000).unwrap();
        let (mut out, mut in_pieces) = (Vec::new(), Vec::new());
        let input = tone(tone_hz, from_hz, from_hz as usize);
        converter.clip(&input, &mut out).unwrap();
        assert_eq!(out.len(), 16_000, "{from_hz} Hz");
        let expect = tone(tone_hz, 16_000, 16_000);
        let worst = out[2000..14_000]
            .iter()
            .zip(&expect[2000..14_000])
            .map(|(g, e)| (g - if survives { *e } else { 0.0 }).abs())
            .fold(0.0, f32::max);
        assert!(worst < 0.05, "{tone_hz} Hz from {from_hz} Hz: off by {worst}");
        for piece in input.chunks(313) {
            converter.push(piece, &mut in_pieces).unwrap();
        }
        assert_eq!(in_pieces[..], out[..in_pieces.len()], "{from_hz} Hz: pieces and whole differ");
    }

    #[test]
    fn a_tone_keeps_its_phase_and_what_cannot_be_carried_is_cut() {
        check(8_000, 440.0, true);
        check(44_100, 1000.0, true);
        check(48_000, 3000.0, true);
        check(48_000, 11_000.0, false);
        check(22_050, 440.0, true);
        // No small common divisor: the other resampler, whose delay is known to a fraction of a sample.
        check(11_025, 440.0, true);
        check(44_101, 440.0, true);
        check(44_101, 12_000.0, false);
    }
}
