//! Ordered samples for [`super::play`]: a recording as it is, or several files merged by time.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::capture::recording::Recording;
use crate::capture::{Camera, CaptureError, ErrorKind, Mic, Sensor, TextSource};
use crate::signal::{AudioBlock, Frame, Reading, Sample, Utterance};

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
}

/// Files side by side, merged by the time at which each sample is complete. Equal times go in the order of adding.
#[derive(Default)]
pub struct FileFeed {
    lanes: Vec<Lane>,
    errors: VecDeque<CaptureError>,
}

impl FileFeed {
    fn add(&mut self, source: &str, reader: Reader) {
        self.lanes.push(Lane { source: source.into(), reader, ahead: None, ended: false });
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
