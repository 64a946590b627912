//! Sensor readings: channels over time to z-scored windows.
//!
//! Owns the readings of the current window and what stands in for a channel that could not be read. The pipeline pushes
//! every reading and takes windows until there is none. It does not resample: a window is a number of readings.

use crate::config::manifest::{SeriesLayout, SeriesSpec};
use crate::signal::{Reading, Tensor};
use crate::time::Micros;

use super::{PreprocessError, f32_elements};

/// Most channels, and most readings in a window, that a manifest can ask for.
const MAX_CHANNELS: usize = 256;
const MAX_WINDOW_LEN: usize = 65_536;
/// Windows that may wait to be taken; beyond it the oldest are skipped and counted.
const MAX_WAITING_WINDOWS: usize = 16;

/// Readings to windows. One per encoder.
#[derive(Debug)]
pub struct SeriesPreprocessor {
    window_len: usize,
    hop_len: usize,
    layout: SeriesLayout,
    shape: [usize; 3],
    mean: Vec<f32>,
    std: Vec<f32>,
    /// `[readings, channels]`, z-scored; the next window is at the front.
    values: Vec<f32>,
    times: Vec<Micros>,
    /// Readings still to be dropped before the next window, when the hop is longer than the window.
    ahead: usize,
    last: Vec<f32>,
    held: u64,
    gaps: u64,
    skipped: u64,
}

impl SeriesPreprocessor {
    /// Checks `spec` and prepares.
    ///
    /// # Errors
    /// [`PreprocessError::Spec`] naming the key, its value and what is expected.
    pub fn new(spec: &SeriesSpec) -> Result<Self, PreprocessError> {
        let channels = spec.channels.len();
        if !(1..=MAX_CHANNELS).contains(&channels) {
            let value = format_args!("{:?}", spec.channels);
            return Err(PreprocessError::spec("encoder.series.channels", value, format!("1 to {MAX_CHANNELS} names")));
        }
        let lengths = [("encoder.series.window_len", spec.window_len), ("encoder.series.hop_len", spec.hop_len)];
        for (key, value) in lengths {
            if !(1..=MAX_WINDOW_LEN).contains(&value) {
                return Err(PreprocessError::spec(key, value, format!("1 to {MAX_WINDOW_LEN} readings")));
            }
        }
        let spec = &SeriesSpec {
            mean: super::for_each_channel(&spec.mean, channels),
            std: super::for_each_channel(&spec.std, channels),
            ..spec.clone()
        };
        for (key, values) in [("encoder.series.mean", &spec.mean), ("encoder.series.std", &spec.std)] {
            if values.len() != channels || values.iter().any(|v| !v.is_finite()) {
                let expected = format!("{channels} finite values, one a channel");
                return Err(PreprocessError::spec(key, format_args!("{values:?}"), expected));
            }
        }
        if spec.std.iter().any(|s| *s <= 0.0) {
            let value = format_args!("{:?}", spec.std);
            return Err(PreprocessError::spec("encoder.series.std", value, "values above 0"));
        }
        let shape = match spec.layout {
            SeriesLayout::Nct => [1, channels, spec.window_len],
            SeriesLayout::Ntc => [1, spec.window_len, channels],
        };
        let most = spec.window_len + MAX_WAITING_WINDOWS * spec.hop_len;
        Ok(SeriesPreprocessor {
            window_len: spec.window_len,
            hop_len: spec.hop_len,
            layout: spec.layout,
            shape,
            mean: spec.mean.clone(),
            std: spec.std.clone(),
            values: Vec::with_capacity(most.saturating_mul(channels).min(1 << 20)),
            times: Vec::with_capacity(most.min(1 << 16)),
            ahead: 0,
            last: spec.mean.clone(),
            held: 0,
            gaps: 0,
            skipped: 0,
        })
    }

    /// Dimensions of the tensor: `[1, channels, window_len]` or `[1, window_len, channels]`.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Takes a reading. A channel that is no finite number keeps its last value (the mean before there was one), which
    /// is counted. A reading older than the one before begins a new window, which is counted as a gap.
    ///
    /// # Errors
    /// [`PreprocessError::Sample`] for another number of values than channels.
    pub fn push(&mut self, reading: &Reading) -> Result<(), PreprocessError> {
        let channels = self.mean.len();
        if reading.values.len() != channels {
            let got = reading.values.len();
            return Err(PreprocessError::Sample(format!(
                "reading of {got} values, expected {channels}, one a channel"
            )));
        }
        if self.times.last().is_some_and(|t| reading.t < *t) {
            self.gaps += 1;
            self.reset();
        }
        for (c, value) in reading.values.iter().enumerate() {
            if value.is_finite() {
                self.last[c] = *value;
            } else {
                self.held += 1;
            }
        }
        if self.ahead > 0 {
            self.ahead -= 1;
            return Ok(());
        }
        self.times.push(reading.t);
        self.values.extend(self.last.iter().zip(&self.mean).zip(&self.std).map(|((x, m), s)| (x - m) / s));
        if self.times.len() > self.window_len + MAX_WAITING_WINDOWS * self.hop_len {
            self.advance();
            self.skipped += 1;
        }
        Ok(())
    }

    /// The next window, if it is complete: fills `out`, which is made to fit if it does not, and returns the time of its
    /// last reading. Call until `None`.
    pub fn next_window(&mut self, out: &mut Tensor) -> Option<Micros> {
        let t = *self.times.get(self.window_len - 1)?;
        let channels = self.mean.len();
        let data = f32_elements(out, &self.shape);
        let window = &self.values[..self.window_len * channels];
        match self.layout {
            SeriesLayout::Ntc => data.copy_from_slice(window),
            SeriesLayout::Nct => {
                for (c, line) in data.chunks_exact_mut(self.window_len).enumerate() {
                    for (to, row) in line.iter_mut().zip(window.chunks_exact(channels)) {
                        *to = row[c];
                    }
                }
            }
        }
        self.advance();
        Some(t)
    }

    /// Forgets the window: the next one begins with the next reading. Last values are kept.
    pub fn reset(&mut self) {
        self.values.clear();
        self.times.clear();
        self.ahead = 0;
    }

    /// Values that were no number and were held.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Times that the readings went back in time.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Windows that were skipped because nobody took them.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Drops one hop.
    fn advance(&mut self) {
        let now = self.hop_len.min(self.times.len());
        self.ahead = self.hop_len - now;
        self.times.drain(..now);
        self.values.drain(..now * self.mean.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(window_len: usize, hop_len: usize) -> SeriesSpec {
        SeriesSpec {
            channels: vec!["temperature_c".into(), "distance_mm".into()],
            window_len,
            hop_len,
            mean: vec![20.0, 100.0],
            std: vec![10.0, 50.0],
            layout: SeriesLayout::Nct,
        }
    }

    fn reading(t: u64, a: f32, b: f32) -> Reading {
        Reading { t: Micros(t), values: vec![a, b] }
    }

    /// Every window that 6 readings with times 0 to 5 give: `(time, first channel)`.
    fn windows(window_len: usize, hop_len: usize) -> Vec<(u64, Vec<f32>)> {
        let mut p = SeriesPreprocessor::new(&spec(window_len, hop_len)).unwrap();
        let mut out = Tensor::zeros_f32(&[1]);
        let mut got = Vec::new();
        for t in 0..6 {
            p.push(&reading(t, 20.0 + 10.0 * t as f32, 100.0)).unwrap();
            while let Some(at) = p.next_window(&mut out) {
                got.push((at.0, out.as_f32().unwrap()[..window_len].to_vec()));
            }
        }
        got
    }

    #[test]
    fn windows_follow_length_and_hop() {
        assert_eq!(windows(2, 2), [(1, vec![0.0, 1.0]), (3, vec![2.0, 3.0]), (5, vec![4.0, 5.0])]);
        assert_eq!(windows(3, 2), [(2, vec![0.0, 1.0, 2.0]), (4, vec![2.0, 3.0, 4.0])]);
        assert_eq!(windows(1, 4), [(0, vec![0.0]), (4, vec![4.0])]);
    }

    #[test]
    fn both_layouts_hold_the_same_values() {
        let mut out = Tensor::zeros_f32(&[1]);
        for (layout, expect) in [(SeriesLayout::Nct, [0.0, 1.0, -1.0, 1.0]), (SeriesLayout::Ntc, [0.0, -1.0, 1.0, 1.0])]
        {
            let mut p = SeriesPreprocessor::new(&SeriesSpec { layout, ..spec(2, 2) }).unwrap();
            p.push(&reading(0, 20.0, 50.0)).unwrap();
            p.push(&reading(1, 30.0, 150.0)).unwrap();
            assert_eq!(p.next_window(&mut out), Some(Micros(1)));
            assert_eq!(out.as_f32().unwrap(), expect);
            assert_eq!(p.shape(), &out.shape[..]);
        }
    }

    #[test]
    fn a_channel_that_cannot_be_read_keeps_its_last_value() {
        let mut p = SeriesPreprocessor::new(&spec(3, 3)).unwrap();
        let mut out = Tensor::zeros_f32(&[1]);
        p.push(&reading(0, f32::NAN, 100.0)).unwrap();
        p.push(&reading(1, 40.0, f32::INFINITY)).unwrap();
        p.push(&reading(2, f32::NAN, 100.0)).unwrap();
        p.next_window(&mut out).unwrap();
        assert_eq!(out.as_f32().unwrap(), [0.0, 2.0, 2.0, 0.0, 0.0, 0.0]);
        assert_eq!(p.held(), 3);
    }

    #[test]
    fn a_clock_that_jumps_back_begins_a_new_window() {
        let mut p = SeriesPreprocessor::new(&spec(2, 2)).unwrap();
        let mut out = Tensor::zeros_f32(&[1]);
        p.push(&reading(9, 20.0, 100.0)).unwrap();
        p.push(&reading(3, 20.0, 100.0)).unwrap();
        assert_eq!((p.next_window(&mut out), p.gaps()), (None, 1));
        p.push(&reading(4, 20.0, 100.0)).unwrap();
        assert_eq!(p.next_window(&mut out), Some(Micros(4)));
    }

    #[test]
    fn windows_that_nobody_takes_are_skipped_and_counted() {
        let mut p = SeriesPreprocessor::new(&spec(2, 1)).unwrap();
        for t in 0..100 {
            p.push(&reading(t, 20.0, 100.0)).unwrap();
        }
        assert_eq!(p.skipped(), 100 - 18);
        assert_eq!(p.next_window(&mut Tensor::zeros_f32(&[1])), Some(Micros(83)));
    }

    #[test]
    fn impossible_specs_and_readings_are_named() {
        let check = |spec: SeriesSpec, part: &str| {
            let error = SeriesPreprocessor::new(&spec).unwrap_err().to_string();
            assert!(error.contains(part), "{error}, expected {part}");
        };
        check(SeriesSpec { channels: vec![], ..spec(2, 2) }, "encoder.series.channels = []");
        check(spec(0, 2), "encoder.series.window_len = 0");
        check(spec(2, 0), "encoder.series.hop_len = 0");
        check(
            SeriesSpec { mean: vec![1.0; 3], ..spec(2, 2) },
            "encoder.series.mean = [1.0, 1.0, 1.0], expected 2 finite values",
        );
        assert_eq!(SeriesPreprocessor::new(&SeriesSpec { mean: vec![1.0], ..spec(2, 2) }).unwrap().mean, [1.0, 1.0]);
        check(
            SeriesSpec { std: vec![1.0, 0.0], ..spec(2, 2) },
            "encoder.series.std = [1.0, 0.0], expected values above 0",
        );
        let error = SeriesPreprocessor::new(&spec(2, 2)).unwrap().push(&Reading::default()).unwrap_err();
        assert_eq!(error.to_string(), "reading of 0 values, expected 2, one a channel");
    }
}
