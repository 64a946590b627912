//! Recordings: MCAP files that hold what every source delivered, in the order and with the times of capture.
//!
//! [`Recording`] streams one file; [`Survey`] reads through it once for what a caller wants to know beforehand. The
//! supervisor paces the samples; nothing here waits or writes. Foxglove's well-known schemas carry pictures and sound, so
//! that a field report opens in Foxglove Studio; JSON carries the rest (docs/recordings.md). Times are those of the
//! messages' `log_time`, counted from the file's first message. What was recorded from a run also holds the pipeline's calls
//! ([`tape`]), which replay bit for bit; [`writer`] writes one, [`part`] cuts one, [`ring`] keeps what led to decisions.
//!
//! The file is never held whole: one record is, up to [`MAX_RECORD_BYTES`]. Compressed chunks are refused, because
//! the decompressors are C libraries that a device would carry only for this.

mod container;
pub mod encode;
mod message;
pub mod part;
mod repeat;
pub mod ring;
pub mod schema;
pub mod tape;
pub mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::mem;
use std::path::Path;
use std::sync::Arc;

use crate::capture::{CaptureError, open_file};
use crate::signal::{AudioBlock, Frame, Reading, Sample, Utterance};
use crate::time::Micros;

use container::{Channel, Container};
use encode::{CallBody, CallKind};
pub use repeat::Repeated;
use schema::Schema;

/// The longest record that is read: a 4K RGB frame fits.
pub const MAX_RECORD_BYTES: u64 = 32 << 20;

/// A run of audio that starts this much later than the previous one ended counts as a gap; less is jitter of the clock.
const GAP_TOLERANCE: Micros = Micros::from_ms(10);

/// An MCAP file, read from start to end.
pub struct Recording<R = BufReader<File>> {
    name: String,
    container: Container<R>,
    /// Names of sources and reasons of faults, so that a repeated one costs no allocation.
    names: Vec<Arc<str>>,
    spare: Spare,
    audio: AudioClock,
    start_ns: Option<u64>,
    /// Time of the first message: 0, unless the file is played once more.
    begins: Micros,
    /// Number of its first frame, likewise, and the highest number so far.
    first_frame: u64,
    last_frame: u64,
    /// Time of the newest message.
    now: Micros,
    samples: u64,
    /// The message that could not be read: what comes after it is not delivered.
    failed: Option<CaptureError>,
}

/// What is shown to the device from `t` on, as the author of a recording states it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// From when.
    pub t: Micros,
    /// The class that is to be decided.
    pub label: String,
    /// Names of the encoders that have something to go by: `["card", "speech"]`.
    pub shown: Vec<String>,
    /// For people.
    pub note: String,
}

/// What a recording holds, from one pass over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Time of the first message on the clock of who recorded; every other time is counted from it.
    pub start: Micros,
    /// Time of the last message.
    pub duration: Micros,
    /// Names of the sources, in the order of their first sample, and their number of samples.
    pub sources: Vec<(Arc<str>, u64)>,
    /// Every statement about what is shown, in order.
    pub truths: Vec<Truth>,
    /// Calls of the pipeline, if it was recorded from a run.
    pub calls: u64,
    /// Calls that the recorder left out.
    pub lost_calls: u64,
    /// Events that followed from them.
    pub events: u64,
    /// What the recorder said of itself.
    pub about: BTreeMap<String, String>,
}

/// One buffer for each kind of sample, so that a caller who passes the same [`Sample`] again and again causes no allocation.
#[derive(Default)]
struct Spare {
    frame: Frame,
    audio: AudioBlock,
    text: Utterance,
    reading: Reading,
}

/// Where the recorded audio has got to.
#[derive(Default)]
struct AudioClock {
    /// Time and index of the sample after the newest block, once there was one.
    next: Option<(Micros, u64)>,
}

impl Recording {
    /// Opens the file at `path` and reads its header.
    ///
    /// # Errors
    /// `Fatal` if there is no such file, or if it is no MCAP file.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::from_reader(&path.display().to_string(), BufReader::with_capacity(64 << 10, open_file(path)?))
    }

    /// Goes to the start of the file at `path` once more; its times follow on what came before.
    fn begin_again(&mut self, path: &Path) -> Result<(), CaptureError> {
        let mut next = Recording::open(path)?;
        // sound is complete later than it begins
        let sound_ends = self.audio.next.map_or(Micros::ZERO, |(t, _)| t);
        next.begins = self.now.max(sound_ends);
        next.now = next.begins;
        next.first_frame = self.last_frame + 1;
        next.last_frame = next.first_frame;
        next.audio = mem::take(&mut self.audio);
        next.names = mem::take(&mut self.names);
        next.spare = mem::take(&mut self.spare);
        next.samples = self.samples;
        *self = next;
        Ok(())
    }
}

impl<R: Read> Recording<R> {
    /// Reads a recording from `reader`; `name` is what errors call it.
    ///
    /// # Errors
    /// `Fatal` if it is no MCAP file.
    pub fn from_reader(name: &str, reader: R) -> Result<Self, CaptureError> {
        let container = Container::open(reader).map_err(|message| CaptureError::fatal(name, message))?;
        Ok(Recording {
            name: name.into(),
            container,
            names: Vec::new(),
            spare: Spare::default(),
            audio: AudioClock::default(),
            start_ns: None,
            begins: Micros::ZERO,
            first_frame: 0,
            last_frame: 0,
            now: Micros::ZERO,
            samples: 0,
            failed: None,
        })
    }

    /// Writes the next sample into `into` and returns the name of its source; None at the end.
    ///
    /// Buffers inside `into` are reused, also when its variant changes. Channels with an unknown schema are passed over, and
    /// so is the truth, see [`Survey`]. The source of a [`Sample::Fault`] is the one that failed.
    ///
    /// # Errors
    /// `Fatal` for a damaged or truncated file, after everything before the damage was delivered, and for a file without
    /// any sample. Calling again returns the same error.
    pub fn next(&mut self, into: &mut Sample) -> Result<Option<Arc<str>>, CaptureError> {
        loop {
            let Some((channel, schema)) = self.advance()? else {
                if self.samples > 0 {
                    return Ok(None);
                }
                return Err(CaptureError::fatal(
                    &*self.name,
                    "the recording is complete but holds no sample, expected messages on /camera, /mic, /text or /sensor/*; \
                     see docs/recordings.md for the schemas",
                ));
            };
            let Some(schema) = schema.filter(|s| !matches!(s, Schema::Truth | Schema::Call | Schema::Event)) else {
                continue;
            };
            let decoded = self.decode(schema, into);
            let source = decoded.map_err(|message| self.damaged(channel, &message))?;
            self.samples += 1;
            return Ok(Some(match source {
                Some(failed) => failed,
                None => Arc::clone(&self.container.channel(channel).source),
            }));
        }
    }

    /// Reads up to the next message, of any kind, and notes its time.
    fn advance(&mut self) -> Result<Option<(usize, Option<Schema>)>, CaptureError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let message = self.container.next_message().map_err(|message| {
            let readable = format!("{} samples up to {} were readable before that", self.samples, self.now);
            CaptureError::fatal(&*self.name, format!("{message}; {readable}"))
        })?;
        let Some(message) = message else { return Ok(None) };
        let start_ns = *self.start_ns.get_or_insert(message.log_time_ns);
        self.now = self.begins + Micros(message.log_time_ns.saturating_sub(start_ns) / 1000);
        Ok(Some((message.channel, self.container.channel(message.channel).schema)))
    }

    /// Decodes the message at hand. The source is the channel's own unless it says otherwise.
    fn decode(&mut self, schema: Schema, into: &mut Sample) -> Result<Option<Arc<str>>, String> {
        let body = self.container.body();
        let (t, sequence) = (self.now, self.container.sequence());
        match schema {
            Schema::CompressedImage | Schema::RawImage => {
                let frame = self.spare.frame(into);
                frame.t = t;
                frame.seq.0 = self.first_frame + u64::from(sequence);
                self.last_frame = self.last_frame.max(frame.seq.0);
                message::image(schema, body, frame)?;
            }
            Schema::RawAudio => {
                let block = self.spare.audio(into);
                message::audio(body, block)?;
                self.audio.place(t, block);
            }
            Schema::Text => {
                let utterance = self.spare.text(into);
                utterance.t = t;
                message::text(body, &mut utterance.text)?;
            }
            Schema::Reading => {
                let reading = self.spare.reading(into);
                reading.t = t;
                message::reading(body, &mut reading.values)?;
            }
            Schema::Fault => {
                let fault = message::fault(body)?;
                let source = intern(&mut self.names, &fault.source);
                self.spare.put(into, Sample::Fault { t, reason: intern(&mut self.names, &fault.reason) });
                return Ok(Some(source));
            }
            Schema::Truth | Schema::Call | Schema::Event => unreachable!("passed over by the caller"),
        }
        Ok(None)
    }

    /// The error of the message at hand, which is final.
    fn damaged(&mut self, channel: usize, message: &str) -> CaptureError {
        let Channel { topic, .. } = self.container.channel(channel);
        let error = CaptureError::fatal(&*self.name, format!("message on {topic} at {}: {message}", self.now));
        self.failed.insert(error).clone()
    }
}

impl Survey {
    /// Reads through the recording at `path`.
    ///
    /// # Errors
    /// As [`Recording::next`], also for a recording whose end is missing.
    pub fn of(path: &Path) -> Result<Survey, CaptureError> {
        Self::of_recording(Recording::open(path)?)
    }

    /// Reads through `recording`.
    ///
    /// # Errors
    /// As [`Recording::next`].
    pub fn of_recording<R: Read>(mut recording: Recording<R>) -> Result<Survey, CaptureError> {
        let mut survey = Survey::default();
        survey.fill(&mut recording)?;
        Ok(survey)
    }

    /// As [`Survey::of_recording`], but a recording whose writer was cut off is read as far as it goes; the text says how far.
    ///
    /// # Errors
    /// As [`Recording::next`], for other damage.
    pub fn of_readable<R: Read>(mut recording: Recording<R>) -> Result<(Survey, Option<String>), CaptureError> {
        let mut survey = Survey::default();
        match survey.fill(&mut recording) {
            Err(error) if recording.container.is_cut() => Ok((survey, Some(error.message))),
            Err(error) => Err(error),
            Ok(()) => Ok((survey, None)),
        }
    }

    fn fill<R: Read>(&mut self, recording: &mut Recording<R>) -> Result<(), CaptureError> {
        let survey = self;
        while let Some((channel, schema)) = recording.advance()? {
            if survey.about.is_empty() {
                survey.about.clone_from(recording.container.about());
            }
            survey.start = Micros(recording.start_ns.unwrap_or(0) / 1000);
            survey.duration = survey.duration.max(recording.now);
            match schema {
                None => continue,
                Some(Schema::Event) => survey.events += 1,
                Some(Schema::Call) => match message::call(recording.container.body()) {
                    Ok(CallBody { call: CallKind::Lost { calls }, .. }) => survey.lost_calls += calls,
                    Ok(_) => survey.calls += 1,
                    Err(m) => return Err(recording.damaged(channel, &m)),
                },
                Some(Schema::Truth) => {
                    let read = message::truth(recording.container.body());
                    let truth = read.map_err(|m| recording.damaged(channel, &m))?;
                    survey.truths.push(Truth { t: recording.now, ..truth });
                }
                // a fault is no sample of its channel
                Some(Schema::Fault) => recording.samples += 1,
                Some(_) => {
                    recording.samples += 1;
                    let source = &recording.container.channel(channel).source;
                    match survey.sources.iter_mut().find(|(name, _)| name == source) {
                        Some((_, n)) => *n += 1,
                        None => survey.sources.push((Arc::clone(source), 1)),
                    }
                }
            }
        }
        Ok(())
    }
}

impl Spare {
    /// Puts `sample` into `into` and keeps the buffer that was there.
    fn put(&mut self, into: &mut Sample, sample: Sample) {
        match mem::replace(into, sample) {
            Sample::Frame(f) => self.frame = f,
            Sample::Audio(a) => self.audio = a,
            Sample::Text(u) => self.text = u,
            Sample::Reading(r) => self.reading = r,
            Sample::Fault { .. } => {}
        }
    }

    fn frame<'a>(&mut self, into: &'a mut Sample) -> &'a mut Frame {
        if !matches!(into, Sample::Frame(_)) {
            let frame = mem::take(&mut self.frame);
            self.put(into, Sample::Frame(frame));
        }
        let Sample::Frame(frame) = into else { unreachable!("put above") };
        frame
    }

    fn audio<'a>(&mut self, into: &'a mut Sample) -> &'a mut AudioBlock {
        if !matches!(into, Sample::Audio(_)) {
            let block = mem::take(&mut self.audio);
            self.put(into, Sample::Audio(block));
        }
        let Sample::Audio(block) = into else { unreachable!("put above") };
        block
    }

    fn text<'a>(&mut self, into: &'a mut Sample) -> &'a mut Utterance {
        if !matches!(into, Sample::Text(_)) {
            let utterance = mem::take(&mut self.text);
            self.put(into, Sample::Text(utterance));
        }
        let Sample::Text(utterance) = into else { unreachable!("put above") };
        utterance
    }

    fn reading<'a>(&mut self, into: &'a mut Sample) -> &'a mut Reading {
        if !matches!(into, Sample::Reading(_)) {
            let reading = mem::take(&mut self.reading);
            self.put(into, Sample::Reading(reading));
        }
        let Sample::Reading(reading) = into else { unreachable!("put above") };
        reading
    }
}

impl AudioClock {
    /// Sets time, index and gap of a block that was captured at `t`.
    fn place(&mut self, t: Micros, block: &mut AudioBlock) {
        let rate = u64::from(block.sample_rate_hz);
        let (expected, first) = self.next.unwrap_or((t, 0));
        let late = t - expected;
        block.gap_samples = if late > GAP_TOLERANCE { late.0.saturating_mul(rate) / 1_000_000 } else { 0 };
        block.t = t;
        block.first.0 = first.saturating_add(block.gap_samples);
        let len = block.data.len() as u64;
        self.next = Some((t + Micros(len * 1_000_000 / rate.max(1)), block.first.0.saturating_add(len)));
    }
}

/// Reasons of faults come from files: after this many different ones, a new one is allocated each time.
const MAX_NAMES: usize = 64;

fn intern(names: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = names.iter().find(|n| ***n == *name) {
        return Arc::clone(known);
    }
    let new: Arc<str> = name.into();
    if names.len() < MAX_NAMES {
        names.push(Arc::clone(&new));
    }
    new
}

#[cfg(test)]
mod tests;
