//! Fault injection: [`Faulty`] wraps any source and spoils it by schedule. For tests, and for showing what a device does when a
//! lens is covered or a microphone dies.
//!
//! Time is that of the samples, so that the same schedule spoils the same samples in every run.

use crate::capture::jpeg::jpeg_size;
use crate::capture::{Camera, CaptureError, ErrorKind, Mic, Sensor, TextSource};
use crate::signal::{AudioBlock, Frame, PixelFormat, Reading, Utterance};
use crate::time::Micros;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every n-th sample is lost, counted since the source was opened; n is at least 2. Of audio, the next block tells the gap.
    DropEvery(u64),
    /// The lens is covered, the microphone muted, the sensor unreadable: black, silence, NaN. A typed line is lost.
    Blank,
    /// Nothing comes, and each call times out: [`ErrorKind::Retry`].
    Stall,
    /// Each call fails with this.
    Fail(ErrorKind),
}

/// A fault and when it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// What goes wrong ...
    pub fault: Fault,
    /// ... with samples captured from here on ...
    pub from: Micros,
    /// ... and before this.
    pub to: Micros,
}

/// A source that is spoilt by schedule. Where windows overlap, the first one counts.
#[derive(Debug)]
pub struct Faulty<S> {
    source: S,
    name: String,
    schedule: Vec<Window>,
    seen: u64,
    /// Audio samples lost since the last block that was delivered.
    lost: u64,
}

/// What becomes of a sample.
enum Verdict {
    Keep,
    Blank,
    Lose,
    Fail(ErrorKind),
}

impl<S> Faulty<S> {
    /// Spoils `source`; `name` is what the injected errors call it.
    ///
    /// # Panics
    /// If the schedule drops every sample, or every 0th: it would wait for ever.
    pub fn new(name: &str, source: S, schedule: impl Into<Vec<Window>>) -> Self {
        let schedule = schedule.into();
        let bad = schedule.iter().any(|w| matches!(w.fault, Fault::DropEvery(0 | 1)));
        assert!(!bad, "a schedule drops every second sample at most");
        Faulty { source, name: name.into(), schedule, seen: 0, lost: 0 }
    }

    /// The source as it was.
    pub fn into_inner(self) -> S {
        self.source
    }

    fn judge(&mut self, t: Micros) -> Verdict {
        self.seen += 1;
        let Some(window) = self.schedule.iter().find(|w| w.from <= t && t < w.to) else { return Verdict::Keep };
        match window.fault {
            Fault::DropEvery(n) if self.seen.is_multiple_of(n) => Verdict::Lose,
            Fault::DropEvery(_) => Verdict::Keep,
            Fault::Blank => Verdict::Blank,
            Fault::Stall => Verdict::Fail(ErrorKind::Retry),
            Fault::Fail(kind) => Verdict::Fail(kind),
        }
    }

    fn error(&self, kind: ErrorKind, t: Micros) -> CaptureError {
        let what = if kind == ErrorKind::Retry { "no sample in time" } else { "failed" };
        CaptureError::new(kind, &*self.name, format!("{what} at {t}: injected by schedule"))
    }
}

impl<S: Camera> Camera for Faulty<S> {
    fn capture(&mut self, into: &mut Frame) -> Result<(), CaptureError> {
        loop {
            self.source.capture(into)?;
            match self.judge(into.t) {
                Verdict::Keep => return Ok(()),
                Verdict::Blank => {
                    blacken(into);
                    return Ok(());
                }
                Verdict::Lose => {}
                Verdict::Fail(kind) => return Err(self.error(kind, into.t)),
            }
        }
    }
}

impl<S: Mic> Mic for Faulty<S> {
    fn read(&mut self, into: &mut AudioBlock) -> Result<(), CaptureError> {
        loop {
            self.source.read(into)?;
            let verdict = self.judge(into.t);
            if let Verdict::Lose | Verdict::Fail(_) = verdict {
                self.lost += into.gap_samples + into.data.len() as u64;
            } else {
                into.gap_samples += std::mem::take(&mut self.lost);
            }
            match verdict {
                Verdict::Keep => return Ok(()),
                Verdict::Blank => {
                    into.data.fill(0.0);
                    return Ok(());
                }
                Verdict::Lose => {}
                Verdict::Fail(kind) => return Err(self.error(kind, into.t)),
            }
        }
    }
}

impl<S: TextSource> TextSource for Faulty<S> {
    fn next(&mut self, into: &mut Utterance) -> Result<(), CaptureError> {
        loop {
            self.source.next(into)?;
            match self.judge(into.t) {
                Verdict::Keep => return Ok(()),
                Verdict::Blank | Verdict::Lose => {}
                Verdict::Fail(kind) => return Err(self.error(kind, into.t)),
            }
        }
    }
}

impl<S: Sensor> Sensor for Faulty<S> {
    fn read(&mut self, into: &mut Reading) -> Result<(), CaptureError> {
        loop {
            self.source.read(into)?;
            match self.judge(into.t) {
                Verdict::Keep => return Ok(()),
                Verdict::Blank => {
                    into.values.fill(f32::NAN);
                    return Ok(());
                }
                Verdict::Lose => {}
                Verdict::Fail(kind) => return Err(self.error(kind, into.t)),
            }
        }
    }
}

/// A black frame of the same size and format; of a JPEG, which would have to be encoded, a grey one.
fn blacken(frame: &mut Frame) {
    match frame.format {
        PixelFormat::Gray | PixelFormat::Rgb => frame.data.fill(0),
        PixelFormat::Yuyv => {
            for (i, byte) in frame.data.iter_mut().enumerate() {
                *byte = if i % 2 == 0 { 16 } else { 128 };
            }
        }
        PixelFormat::Nv12 => {
            let luma = (frame.stride as usize * frame.height as usize).min(frame.data.len());
            frame.data[..luma].fill(16);
            frame.data[luma..].fill(128);
        }
        PixelFormat::Jpeg => {
            let (width, height) = jpeg_size(&frame.data).unwrap_or((1, 1));
            (frame.width, frame.height, frame.stride, frame.format) = (width, height, width, PixelFormat::Gray);
            frame.data.clear();
            frame.data.resize(width as usize * height as usize, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::fake::{Fake, Step};

    fn window(fault: Fault, from_ms: u64, to_ms: u64) -> Window {
        Window { fault, from: Micros::from_ms(from_ms), to: Micros::from_ms(to_ms) }
    }

    /// A block of 10 samples every 10 ms.
    fn mic(blocks: u64) -> Fake<AudioBlock> {
        Fake::new(
            "mic",
            (0..blocks).map(|i| {
                let mut block = AudioBlock {
                    t: Micros::from_ms(i * 10),
                    sample_rate_hz: 1000,
                    data: vec![0.5; 10],
                    ..Default::default()
                };
                block.first.0 = i * 10;
                Step::Deliver(block)
            }),
        )
    }

    /// Each call's outcome until the end.
    fn listen(mut mic: impl Mic) -> Vec<String> {
        let mut block = AudioBlock::default();
        let mut out = Vec::new();
        loop {
            match mic.read(&mut block) {
                Ok(()) => out.push(format!("{} gap {} {:?}", block.t.as_ms(), block.gap_samples, block.data[0])),
                Err(e) if e.kind == ErrorKind::End => return out,
                Err(e) => out.push(format!("{:?}", e.kind)),
            }
        }
    }

    #[test]
    fn faults_begin_and_end_with_their_windows() {
        use Fault::{Blank, DropEvery, Fail, Stall};
        let cases: &[(&str, Window, &[&str])] = &[
            ("none", window(Blank, 90, 99), &["0 gap 0 0.5", "10 gap 0 0.5", "20 gap 0 0.5", "30 gap 0 0.5"]),
            ("blank", window(Blank, 10, 30), &["0 gap 0 0.5", "10 gap 0 0.0", "20 gap 0 0.0", "30 gap 0 0.5"]),
            ("drop", window(DropEvery(2), 0, 99), &["0 gap 0 0.5", "20 gap 10 0.5"]),
            ("stall", window(Stall, 10, 30), &["0 gap 0 0.5", "Retry", "Retry", "30 gap 20 0.5"]),
            (
                "fail",
                window(Fail(ErrorKind::Reopen), 20, 30),
                &["0 gap 0 0.5", "10 gap 0 0.5", "Reopen", "30 gap 10 0.5"],
            ),
        ];
        for (name, window, expect) in cases {
            assert_eq!(listen(Faulty::new("mic", mic(4), [*window])), *expect, "{name}");
        }
    }

    #[test]
    fn a_covered_lens_is_black_in_every_format() {
        use PixelFormat::{Gray, Jpeg, Nv12, Rgb, Yuyv};
        type Case = (PixelFormat, u32, &'static [u8], PixelFormat, &'static [u8]);
        let cases: &[Case] = &[
            (Gray, 2, &[9; 4], Gray, &[0; 4]),
            (Rgb, 6, &[9; 12], Rgb, &[0; 12]),
            (Yuyv, 4, &[9; 8], Yuyv, &[16, 128, 16, 128, 16, 128, 16, 128]),
            (Nv12, 2, &[9; 6], Nv12, &[16, 16, 16, 16, 128, 128]),
            (Jpeg, 0, b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x02\x00\x02\x01\x01\x11\x00", Gray, &[0; 4]),
        ];
        for (format, stride, data, black_format, black) in cases {
            let frame = Frame {
                width: 2,
                height: 2,
                stride: *stride,
                format: *format,
                data: data.to_vec(),
                ..Frame::default()
            };
            let fake = Fake::new("camera", [Step::Deliver(frame)]);
            let mut into = Frame::default();
            Faulty::new("camera", fake, [window(Fault::Blank, 0, 1)]).capture(&mut into).unwrap();
            assert_eq!((into.format, into.width, into.height), (*black_format, 2, 2), "{format:?}");
            assert_eq!(into.data, *black, "{format:?}");
        }
    }

    #[test]
    fn text_is_lost_and_readings_are_nan() {
        let blank = [window(Fault::Blank, 0, 10)];
        let line = |t, text: &str| Step::Deliver(Utterance { t: Micros::from_ms(t), text: text.into() });
        let mut text = Faulty::new("text", Fake::new("text", [line(0, "lost"), line(20, "kept")]), blank);
        let mut utterance = Utterance::default();
        text.next(&mut utterance).unwrap();
        assert_eq!(utterance.text, "kept");
        let reading = Step::Deliver(Reading { t: Micros::ZERO, values: vec![1.0] });
        let mut into = Reading::default();
        Faulty::new("sensor", Fake::new("sensor", [reading]), blank).read(&mut into).unwrap();
        assert!(into.values[0].is_nan());
    }
}
