//! Ordered samples for [`super::play`]: a recording as it is, or several files merged by time.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::capture::recording::{Recording, Repeated};
use crate::capture::{Camera, CaptureError, ErrorKind, Mic, Sensor, TextSource};
use crate::signal::{AudioBlock, Frame, Reading, Sample, Utterance};
use crate::time::Micros;

use super::available_at;

/// A stream of samples in the order of their times.
pub trait Feed {
    /// Writes the next sample into `into` and returns the name of its source; none at the end.
    ///
    /// # Errors
    /// [`CaptureError`], after everything before the error was delivered.
    fn next(&mut self, into: &mut Sample) -> Result<Option<Arc<str>>, CaptureError>;
}

impl Feed for Recording {
    fn next(&mut self, into: &mut Sample) -> Result<Option<Arc<str>>, CaptureError> {
        Recording::next(self, into)
    }
}

impl Feed for Repeated {
    fn next(&mut self, into: &mut Sample) -> Result<Option<Arc<str>>, CaptureError> {
        Repeated::next(self, into)
    }
}

impl<F: Feed + ?Sized> Feed for Box<F> {
    fn next(&mut self, into: &mut Sample) -> Result<Option<Arc<str>>, CaptureError> {
        (**self).next(into)
    }
}

/// One source of a [`FileFeed`].
enum Reader {
    Camera(Box<dyn Camera>),
    Mic(Box<dyn Mic>),
    Text(Box<dyn TextSource>),
    Sensor(Box<dyn Sensor>),
}

impl Reader {
    fn read(&mut self, into: &mut Sample) -> Result<(), CaptureError> {
        match self {
            Reader::Camera(camera) => {
                if !matches!(into, Sample::Frame(_)) {
                    *into = Sample::Frame(Frame::default());
                }
                let Sample::Frame(frame) = into else { unreachable!("set above") };
                camera.capture(frame)
            }
            Reader::Mic(mic) => {
                if !matches!(into, Sample::Audio(_)) {
                    *into = Sample::Audio(AudioBlock::default());
                }
                let Sample::Audio(block) = into else { unreachable!("set above") };
                mic.read(block)
            }
            Reader::Text(text) => {
                if !matches!(into, Sample::Text(_)) {
                    *into = Sample::Text(Utterance::default());
                }
                let Sample::Text(utterance) = into else { unreachable!("set above") };
                text.next(utterance)
            }
            Reader::Sensor(sensor) => {
                if !matches!(into, Sample::Reading(_)) {
                    *into = Sample::Reading(Reading::default());
                }
                let Sample::Reading(reading) = into else { unreachable!("set above") };
                sensor.read(reading)
            }
        }
    }
}

struct Lane {
    source: Arc<str>,
    reader: Reader,
    ahead: Option<Sample>,
    ended: bool,
    /// It never ends by itself: a still picture.
    endless: bool,
}

/// Files side by side, merged by the time at which each sample is complete. Equal times go in the order of adding.
///
/// A still picture is shown as long as another file goes on; alone it is shown for ever, unless [`FileFeed::stills_until`] says
/// otherwise.
#[derive(Default)]
pub struct FileFeed {
    lanes: Vec<Lane>,
    errors: VecDeque<CaptureError>,
    stills_until: Option<Micros>,
}

impl FileFeed {
    fn add(&mut self, source: &str, reader: Reader) {
        let endless = matches!(&reader, Reader::Camera(camera) if camera.is_endless());
        self.lanes.push(Lane { source: source.into(), reader, ahead: None, ended: false, endless });
    }

    /// Still pictures with nothing else beside them are shown until `t`: who plays at full speed would never see an end.
    pub fn stills_until(&mut self, t: Micros) {
        self.stills_until = Some(t);
    }

    /// Whether nothing but still pictures is left, and they have been shown long enough.
    fn is_over(&self) -> bool {
        let goes_on = |l: &Lane| !l.ended || l.ahead.is_some();
        if self.lanes.iter().any(|l| !l.endless && goes_on(l)) {
            return false;
        }
        let next = self.lanes.iter().filter_map(|l| l.ahead.as_ref()).map(available_at).min();
        // what was beside them has ended
        self.lanes.iter().any(|l| !l.endless) || next.zip(self.stills_until).is_some_and(|(next, end)| next >= end)
    }

    /// Adds a camera under the name of its source.
    pub fn camera(&mut self, source: &str, camera: Box<dyn Camera>) {
        self.add(source, Reader::Camera(camera));
    }

    /// Adds a microphone.
    pub fn mic(&mut self, source: &str, mic: Box<dyn Mic>) {
        self.add(source, Reader::Mic(mic));
    }

    /// Adds a source of text.
    pub fn text(&mut self, source: &str, text: Box<dyn TextSource>) {
        self.add(source, Reader::Text(text));
    }

    /// Adds a sensor.
    pub fn sensor(&mut self, source: &str, sensor: Box<dyn Sensor>) {
        self.add(source, Reader::Sensor(sensor));
    }
}

impl Feed for FileFeed {
    fn next(&mut self, into: &mut Sample) -> Result<Option<Arc<str>>, CaptureError> {
        for lane in self.lanes.iter_mut().filter(|l| l.ahead.is_none() && !l.ended) {
            let mut sample = Sample::default();
            match lane.reader.read(&mut sample) {
                Ok(()) => lane.ahead = Some(sample),
                Err(error) => {
                    lane.ended = true;
                    if error.kind != ErrorKind::End {
                        self.errors.push_back(error);
                    }
                }
            }
        }
        if self.is_over() {
            return self.errors.pop_front().map_or(Ok(None), Err);
        }
        let lanes = self.lanes.iter_mut().filter(|l| l.ahead.is_some());
        let first = lanes.min_by_key(|l| l.ahead.as_ref().map(available_at));
        match first {
            Some(lane) => {
                *into = lane.ahead.take().expect("filtered above");
                Ok(Some(Arc::clone(&lane.source)))
            }
            // one damaged file must not keep the others from being played
            None => self.errors.pop_front().map_or(Ok(None), Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::image::ImageCamera;
    use crate::capture::text::ScriptText;

    /// Times of the samples of a still picture, with a text of `lines` lines a second apart beside it if there are any.
    fn times_ms(lines: usize, stills_until_ms: Option<u64>) -> Vec<u64> {
        let dir = tempfile::tempdir().unwrap();
        let picture = dir.path().join("still.pgm");
        std::fs::write(&picture, b"P5 2 2 255\nabcd").unwrap();
        let mut feed = FileFeed::default();
        feed.camera("camera", Box::new(ImageCamera::open(&picture, 2.0).unwrap()));
        if lines > 0 {
            let script = dir.path().join("lines.txt");
            std::fs::write(&script, "hello\n".repeat(lines)).unwrap();
            feed.text("text", Box::new(ScriptText::open(&script, Micros::from_ms(1000)).unwrap()));
        }
        if let Some(ms) = stills_until_ms {
            feed.stills_until(Micros::from_ms(ms));
        }
        let (mut sample, mut times) = (Sample::default(), Vec::new());
        while feed.next(&mut sample).unwrap().is_some() && times.len() < 50 {
            times.push(sample.t().as_ms());
        }
        times
    }

    #[test]
    fn a_still_picture_ends_with_what_is_beside_it_or_when_it_is_told_to() {
        assert_eq!(times_ms(0, Some(2000)), [0, 500, 1000, 1500]);
        assert_eq!(times_ms(0, None).len(), 50, "alone it is shown for ever");
        let beside = times_ms(3, Some(1));
        assert!(beside.len() < 20 && beside.contains(&2000), "{beside:?}");
    }
}
