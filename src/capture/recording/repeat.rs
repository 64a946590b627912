//! A recording that is played again and again, its times going on: for soak tests, and for a device that shows a demo all day.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Recording;
use crate::capture::CaptureError;
use crate::signal::Sample;

/// The samples of one file, so many times over. Every pass begins when the last sample of the one before it is complete, so that times never go
/// back; frames and sound go on counting.
pub struct Repeated {
    path: PathBuf,
    recording: Recording,
    /// Passes after this one.
    left: u32,
}

impl Repeated {
    /// Opens the file at `path`, to be played `times` times; 0 counts as 1.
    ///
    /// # Errors
    /// As [`Recording::open`].
    pub fn open(path: &Path, times: u32) -> Result<Self, CaptureError> {
        Ok(Repeated { path: path.to_owned(), recording: Recording::open(path)?, left: times.saturating_sub(1) })
    }

    /// As [`Recording::next`], of all passes.
    ///
    /// # Errors
    /// As [`Recording::next`]; also if the file can no longer be opened.
    pub fn next(&mut self, into: &mut Sample) -> Result<Option<Arc<str>>, CaptureError> {
        loop {
            let source = self.recording.next(into)?;
            if source.is_some() || self.left == 0 {
                return Ok(source);
            }
            self.left -= 1;
            self.recording.begin_again(&self.path)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::recording::encode;
    use crate::capture::recording::writer::{Message, RecordingWriter};
    use crate::signal::{AudioBlock, Frame, PixelFormat};
    use crate::time::Micros;

    /// A second of sound in blocks of 100 ms, and a picture every 400 ms.
    fn recording(path: &Path) {
        let mut writer = RecordingWriter::create(path, &Default::default()).unwrap();
        let mut write = |source: &str, sample: &Sample| {
            let mut message =
                Message { topic: format!("/{source}"), log_time_ns: sample.t().0 * 1000, ..Message::default() };
            message.schema = Some(encode::sample(source, sample, &mut message.body));
            writer.write(&message).unwrap();
        };
        for k in 0..10 {
            let t = Micros::from_ms(100 * k);
            if k % 4 == 0 {
                let frame = Frame {
                    t,
                    width: 2,
                    height: 2,
                    stride: 2,
                    format: PixelFormat::Gray,
                    data: vec![7; 4],
                    ..Frame::default()
                };
                write("camera", &Sample::Frame(frame));
            }
            let block = AudioBlock { t, sample_rate_hz: 1000, data: vec![0.0; 100], ..AudioBlock::default() };
            write("mic", &Sample::Audio(block));
        }
        writer.finish().unwrap();
    }

    #[test]
    fn times_and_numbers_go_on_without_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("second.mcap");
        recording(&path);
        let mut repeated = Repeated::open(&path, 3).unwrap();
        let (mut sample, mut blocks, mut frames) = (Sample::default(), Vec::new(), Vec::new());
        while repeated.next(&mut sample).unwrap().is_some() {
            match &sample {
                Sample::Audio(b) => blocks.push((b.t.as_ms(), b.first.0, b.gap_samples)),
                Sample::Frame(f) => frames.push((f.t.as_ms(), f.seq.0)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(blocks, (0..30).map(|k| (100 * k, 100 * k, 0)).collect::<Vec<_>>());
        let times: Vec<u64> = frames.iter().map(|(t, _)| *t).collect();
        assert_eq!(times, [0, 400, 800, 1000, 1400, 1800, 2000, 2400, 2800]);
        assert!(frames.windows(2).all(|w| w[1].1 == w[0].1 + 1), "{frames:?}");
        assert_eq!(repeated.next(&mut sample).unwrap(), None, "it stays at its end");
    }

    #[test]
    fn a_file_that_has_gone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("second.mcap");
        recording(&path);
        let mut repeated = Repeated::open(&path, 2).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut sample = Sample::default();
        let error = loop {
            match repeated.next(&mut sample) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("there is a second pass"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("second.mcap"), "{error}");
    }
}
