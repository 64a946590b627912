//! Reads the calls of a recorded run, each with its sample, and the events that followed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use crate::capture::CaptureError;
use crate::signal::Sample;
use crate::time::Micros;

use super::Recording;
use super::encode::{CallBody, CallKind};
use super::message;
use super::schema::Schema;

/// A recorded run, call by call.
pub struct Taped<R = BufReader<File>> {
    recording: Recording<R>,
    sample: Sample,
    /// The source of `sample`, until its call has come.
    source: Option<Arc<str>>,
    event: Vec<u8>,
    calls: u64,
    cut: Option<String>,
}

/// What comes next in a recorded run.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A call; the sample of [`CallKind::Sample`] is [`Taped::sample`].
    Call(Micros, CallKind),
    /// An event that followed from it: [`Taped::event`].
    Event,
}

impl Taped {
    /// Opens the recording at `path`.
    ///
    /// # Errors
    /// As [`Recording::open`].
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Ok(Taped::new(Recording::open(path)?))
    }
}

impl<R: Read> Taped<R> {
    /// Reads the calls in `recording`, of which nothing has been read yet.
    pub fn new(mut recording: Recording<R>) -> Self {
        // its times are the pipeline's own clock
        recording.start_ns = Some(0);
        Taped { recording, sample: Sample::default(), source: None, event: Vec::new(), calls: 0, cut: None }
    }

    /// What comes next; none at the end, also at that of a file whose writer was cut off, see [`Taped::cut`].
    ///
    /// # Errors
    /// `Fatal` for a damaged file, and for one without calls.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, CaptureError> {
        loop {
            let advanced = match self.recording.advance() {
                Err(error) if self.recording.container.is_cut() => {
                    self.cut = Some(error.message);
                    None
                }
                other => other?,
            };
            let Some((channel, schema)) = advanced else {
                if self.calls > 0 {
                    return Ok(None);
                }
                let message = "holds no calls, so that it was not recorded from a run; `attendant run FILE` plays it";
                return Err(CaptureError::fatal(&*self.recording.name, message));
            };
            match schema {
                None | Some(Schema::Truth) => {}
                Some(Schema::Event) => {
                    self.event.clear();
                    self.event.extend_from_slice(self.recording.container.body());
                    return Ok(Some(Entry::Event));
                }
                Some(Schema::Call) => {
                    let entry = self.call().map_err(|m| self.recording.damaged(channel, &m))?;
                    self.calls += 1;
                    return Ok(Some(entry));
                }
                Some(sample) => {
                    let own = self.recording.decode(sample, &mut self.sample);
                    let own = own.map_err(|m| self.recording.damaged(channel, &m))?;
                    let of = || Arc::clone(&self.recording.container.channel(channel).source);
                    self.source = Some(own.unwrap_or_else(of));
                }
            }
        }
    }

    fn call(&mut self) -> Result<Entry, String> {
        let CallBody { now_us, call } = message::call(self.recording.container.body())?;
        if let CallKind::Sample { source, first, gap } = &call {
            if self.source.take().is_none_or(|of| *of != **source) {
                return Err(format!("a call takes a sample of {source}, but none came before it"));
            }
            if let Sample::Audio(block) = &mut self.sample {
                (block.first.0, block.gap_samples) = (*first, *gap);
            }
        }
        Ok(Entry::Call(now_us, call))
    }

    /// The sample of the call that came last.
    #[must_use]
    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// The event that came last, as its line of JSON.
    #[must_use]
    pub fn event(&self) -> &[u8] {
        &self.event
    }

    /// What the recorder said of itself and its bundle, once the first entry has come.
    #[must_use]
    pub fn about(&self) -> &BTreeMap<String, String> {
        self.recording.container.about()
    }

    /// Why the recording has no end, if its writer was cut off.
    #[must_use]
    pub fn cut(&self) -> Option<&str> {
        self.cut.as_deref()
    }
}
