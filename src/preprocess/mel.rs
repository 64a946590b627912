//! Log-mel columns: one FFT window of samples to one column of `ln(max(mel power, 1e-10))`.
//!
//! Owns the Hann window, the FFT and the mel filters. The audio code calls it once a column. Reference: librosa 0.11,
//! `feature.melspectrogram(center=False, power=2.0, htk=False, norm="slaney")` with `filters.mel`; golden files and the
//! script that made them are in tests/golden/librosa. Windows, hops and time are not its business.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// Number type of the FFT. The reference transforms in double precision: in single precision the rounding noise of a
/// loud tone exceeds the tolerance in bands that hold next to nothing.
type Real = f64;

/// Least mel power that is told apart from silence.
const FLOOR: f32 = 1e-10;

/// Shape of the spectrum, all checked by the caller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MelSpec {
    pub sample_rate_hz: u32,
    pub n_fft: usize,
    /// Length of the Hann window, at most `n_fft`; it is centred in the FFT.
    pub win_len: usize,
    pub n_mels: usize,
    pub fmin_hz: f32,
    pub fmax_hz: f32,
}

/// One triangular filter: weights for the FFT bins from `first` on.
#[derive(Debug)]
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// The transform, with its scratch.
pub(super) struct Mel {
    fft: Arc<dyn RealToComplex<Real>>,
    window: Vec<Real>,
    /// Zeros before the window inside the FFT.
    lead: usize,
    bands: Vec<Band>,
    input: Vec<Real>,
    spectrum: Vec<Complex<Real>>,
    scratch: Vec<Complex<Real>>,
    /// Power of the bins that any band looks at, from `bins.start` on.
    power: Vec<f32>,
    bins: std::ops::Range<usize>,
}

impl std::fmt::Debug for Mel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mel").field("n_fft", &self.input.len()).field("n_mels", &self.bands.len()).finish()
    }
}

impl Mel {
    pub fn new(spec: &MelSpec) -> Self {
        let fft = RealFftPlanner::<Real>::new().plan_fft_forward(spec.n_fft);
        let bands = mel_filters(spec);
        let first = bands.iter().filter(|b| !b.weights.is_empty()).map(|b| b.first).min().unwrap_or(0);
        let end = bands.iter().map(|b| b.first + b.weights.len()).max().unwrap_or(0).max(first);
        Mel {
            window: hann(spec.win_len),
            lead: (spec.n_fft - spec.win_len) / 2,
            input: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            power: vec![0.0; end - first],
            bins: first..end,
            bands,
            fft,
        }
    }

    /// The column of `samples` (`n_fft` of them) into `column` (`n_mels` long).
    pub fn column(&mut self, samples: &[f32], column: &mut [f32]) {
        self.input.fill(0.0);
        let inner = self.lead..self.lead + self.window.len();
        for ((to, s), w) in self.input[inner.clone()].iter_mut().zip(&samples[inner]).zip(&self.window) {
            *to = Real::from(*s) * w;
        }
        self.fft
            .process_with_scratch(&mut self.input, &mut self.spectrum, &mut self.scratch)
            .expect("the buffers are those that the FFT made");
        for (p, bin) in self.power.iter_mut().zip(&self.spectrum[self.bins.clone()]) {
            *p = (bin.re * bin.re + bin.im * bin.im) as f32;
        }
        for (to, band) in column.iter_mut().zip(&self.bands) {
            let from = band.first.saturating_sub(self.bins.start);
            let energy: f32 = band.weights.iter().zip(&self.power[from..]).map(|(w, p)| w * p).sum();
            *to = energy.max(FLOOR).ln();
        }
    }
}

/// Periodic Hann window, `scipy.signal.get_window("hann", n, fftbins=True)`.
fn hann(n: usize) -> Vec<Real> {
    (0..n).map(|i| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / n as f64).cos()).collect()
}

/// Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above.
fn hz_to_mel(hz: f64) -> f64 {
    if hz < 1000.0 { hz * 3.0 / 200.0 } else { 15.0 + (hz / 1000.0).ln() / log_step() }
}

/// Inverse of [`hz_to_mel`].
fn mel_to_hz(mel: f64) -> f64 {
    if mel < 15.0 { mel * 200.0 / 3.0 } else { 1000.0 * ((mel - 15.0) * log_step()).exp() }
}

fn log_step() -> f64 {
    6.4_f64.ln() / 27.0
}

/// Triangles of equal area between `n_mels + 2` edges spaced evenly on the mel scale: `librosa.filters.mel`.
fn mel_filters(spec: &MelSpec) -> Vec<Band> {
    let (low, high) = (hz_to_mel(f64::from(spec.fmin_hz)), hz_to_mel(f64::from(spec.fmax_hz)));
    let edge = |i: usize| mel_to_hz(low + (high - low) * i as f64 / (spec.n_mels + 1) as f64);
    let bin_hz = f64::from(spec.sample_rate_hz) / spec.n_fft as f64;
    let bins = spec.n_fft / 2 + 1;
    (0..spec.n_mels)
        .map(|m| {
            let (left, centre, right) = (edge(m), edge(m + 1), edge(m + 2));
            let weight = |bin: usize| {
                let hz = bin as f64 * bin_hz;
                let triangle = ((hz - left) / (centre - left)).min((right - hz) / (right - centre));
                (triangle.max(0.0) * 2.0 / (right - left)) as f32
            };
            let first = (0..bins).find(|b| weight(*b) > 0.0).unwrap_or(0);
            let weights = (first..bins).map(weight).take_while(|w| *w > 0.0).collect();
            Band { first, weights }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIOSK: MelSpec =
        MelSpec { sample_rate_hz: 16_000, n_fft: 512, win_len: 400, n_mels: 40, fmin_hz: 20.0, fmax_hz: 4000.0 };

    /// Compares every column of a golden case; the tolerance is the one the training relies on.
    fn check(name: &str, samples: &[u8], expect: &[u8]) {
        let samples: Vec<f32> =
            samples.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0).collect();
        let expect: Vec<f32> = expect.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let columns = 1 + (samples.len() - KIOSK.n_fft) / 160;
        assert_eq!(expect.len(), columns * KIOSK.n_mels, "{name}: size of the golden file");
        let mut mel = Mel::new(&KIOSK);
        let mut column = vec![0.0; KIOSK.n_mels];
        let mut worst = 0.0_f32;
        for t in 0..columns {
            mel.column(&samples[t * 160..][..KIOSK.n_fft], &mut column);
            for (m, got) in column.iter().enumerate() {
                worst = worst.max((got - expect[m * columns + t]).abs());
            }
        }
        println!("{name}: largest difference {worst:.2e}");
        assert!(worst < 1e-3, "{name}: differs from librosa by {worst}");
    }

    macro_rules! golden {
        ($name:literal) => {
            check(
                $name,
                include_bytes!(concat!("../../tests/golden/librosa/", $name, ".i16")),
                include_bytes!(concat!("../../tests/golden/librosa/", $name, ".f32")),
            )
        };
    }

    #[test]
    fn log_mel_equals_librosa() {
        golden!("silence");
        golden!("tone_440");
        golden!("tone_full_scale");
        golden!("noise_loud");
        golden!("noise_quiet");
        golden!("noise_one_bit");
        golden!("speech_like");
        golden!("click");
    }
}
