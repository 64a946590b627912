//! Parts of recordings: what is read back message by message and written into another file, byte for byte.
//!
//! A recorded run is cut only between calls, and a part of it begins with what the calls before it had set and still held: the language,
//! thresholds, muted sources. What the pipeline remembers of samples it has to be given again, as a lead-in whose events nobody compares.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use crate::capture::CaptureError;
use crate::time::Micros;

use super::encode::{CallBody, CallKind};
use super::schema::Schema;
use super::writer::{Message, RecordingWriter, WriteError};
use super::{Recording, message};

/// Key of the metadata that says from which call on events are compared: the calls before are the lead-in.
pub const COMPARED_FROM_US: &str = "compared_from_us";

/// A call with its sample before it and its events after it.
#[derive(Clone, Debug)]
pub struct Group {
    /// Time of the call; of the message itself in a recording that was not made from a run.
    pub now: Micros,
    /// See [`holds`].
    pub holds: Option<String>,
    /// As they stand in the file.
    pub messages: Vec<Message>,
}

/// [`CallKind::holds`] of `call`, whose messages are `messages`: the last typed text holds too, nobody types all the time.
#[must_use]
pub fn holds(call: &CallKind, messages: &[Message]) -> Option<String> {
    let typed = messages.iter().find(|m| m.schema == Some(Schema::Text));
    typed.map(|m| format!("text {}", m.topic)).or_else(|| call.holds())
}

/// A [`Group`] whose parts are somebody else's.
#[derive(Clone, Copy, Debug)]
pub struct GroupRef<'a> {
    /// See [`Group::now`].
    pub now: Micros,
    /// See [`Group::holds`].
    pub holds: Option<&'a str>,
    /// See [`Group::messages`].
    pub messages: &'a [Message],
}

impl Group {
    /// The same, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> GroupRef<'_> {
        GroupRef { now: self.now, holds: self.holds.as_deref(), messages: &self.messages }
    }
}

/// Reads a recording group by group.
pub struct Groups<R> {
    recording: Recording<R>,
    /// Samples whose call has not come.
    waiting: Vec<Message>,
    group: Option<Group>,
    is_run: bool,
    has_ended: bool,
}

impl<R: Read> Groups<R> {
    /// Reads `recording`, of which nothing has been read yet; `is_run` if it was recorded from a run.
    pub fn new(mut recording: Recording<R>, is_run: bool) -> Self {
        if is_run {
            recording.start_ns = Some(0);
        }
        Groups { recording, waiting: Vec::new(), group: None, is_run, has_ended: false }
    }

    /// The next group; none at the end, also at that of a file whose writer was cut off or is still writing.
    ///
    /// # Errors
    /// `Fatal` for other damage.
    pub fn next_group(&mut self) -> Result<Option<Group>, CaptureError> {
        while !self.has_ended {
            let advanced = match self.recording.advance() {
                Err(_) if self.recording.container.is_cut() => None,
                other => other?,
            };
            let Some((channel, schema)) = advanced else {
                self.has_ended = true;
                break;
            };
            let Some(schema) = schema else { continue };
            let t = self.recording.now;
            let message = Message {
                topic: self.recording.container.channel(channel).topic.clone(),
                schema: Some(schema),
                log_time_ns: t.0 * 1000,
                body: self.recording.container.body().to_vec(),
            };
            if !self.is_run {
                return Ok(Some(Group { now: t, holds: None, messages: vec![message] }));
            }
            match schema {
                Schema::Event => {
                    if let Some(group) = &mut self.group {
                        group.messages.push(message);
                    }
                }
                Schema::Call => {
                    let CallBody { now_us, call } =
                        message::call(&message.body).map_err(|m| self.recording.damaged(channel, &m))?;
                    let mut messages = std::mem::take(&mut self.waiting);
                    messages.push(message);
                    let next = Group { now: now_us, holds: holds(&call, &messages), messages };
                    // calls that are missing belong to the call after them
                    if matches!(call, CallKind::Lost { .. }) {
                        self.waiting = next.messages;
                        continue;
                    }
                    if let Some(whole) = self.group.replace(next) {
                        return Ok(Some(whole));
                    }
                }
                _ => self.waiting.push(message),
            }
        }
        Ok(self.group.take())
    }

    /// What the recorder said of itself, once the first group has come.
    #[must_use]
    pub fn about(&self) -> &BTreeMap<String, String> {
        self.recording.container.about()
    }
}

/// The last call of every name that still holds: see [`holds`].
#[derive(Clone, Debug, Default)]
pub struct Held(Vec<(String, Vec<Message>)>);

impl Held {
    /// Takes note of `group`, if it sets something. Its events are of the past.
    pub fn note(&mut self, group: GroupRef<'_>) {
        let Some(name) = group.holds else { return };
        self.0.retain(|(of, _)| of != name);
        let messages = group.messages.iter().filter(|m| m.schema != Some(Schema::Event)).cloned().collect();
        self.0.push((name.to_owned(), messages));
    }

    /// How many there are.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.0.len()
    }

    /// Writes them, oldest first.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write<W: Write>(&self, writer: &mut RecordingWriter<W>) -> Result<(), WriteError> {
        self.0.iter().flat_map(|(_, messages)| messages).try_for_each(|m| writer.write(m))
    }
}

/// From when to when a part goes, counted from the first call; in a part itself, from the first call that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first call that counts.
    pub from: Micros,
    /// The first call that is left out; none keeps everything up to the end.
    pub to: Option<Micros>,
    /// So much before `from` is kept to get the pipeline into its state.
    pub lead_in: Micros,
}

/// A part that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The recording.
    #[error(transparent)]
    Read(#[from] CaptureError),
    /// The part.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Nothing is between the two times.
    #[error("{file}: nothing in the part from {} s on; it lasts {} s", from.as_secs_f32(), lasts.as_secs_f32())]
    Empty {
        /// The recording.
        file: String,
        /// Asked for.
        from: Micros,
        /// Time of its last call.
        lasts: Micros,
    },
}

/// What went into a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Calls, or messages of a recording that was not made from a run.
    pub kept: u64,
    /// Whether the lead-in reaches back to the first call.
    pub is_from_start: bool,
}

/// Writes the part `span` of the recording at `from` into a new file at `to`. A recording that was not made from a run has no lead-in; its
/// part begins with the statement of what was shown at that time.
///
/// # Errors
/// [`PartError`].
pub fn cut(from: &Path, to: &Path, span: Span, is_run: bool) -> Result<Cut, PartError> {
    let mut groups = Groups::new(Recording::open(from)?, is_run);
    let mut group = groups.next_group()?;
    let first = group.as_ref().map_or(Micros::ZERO, |g| g.now);
    let mut about = groups.about().clone();
    let start = about.get(COMPARED_FROM_US).and_then(|us| us.parse().ok()).map_or(first, Micros);
    let kept_from = start + span.from;
    let until = span.to.map_or(Micros(u64::MAX), |to| start + to);
    let begin = if is_run { Micros(kept_from.0.saturating_sub(span.lead_in.0)).max(first) } else { kept_from };
    if kept_from > first && is_run {
        about.insert(COMPARED_FROM_US.into(), kept_from.0.to_string());
    }
    let mut writer = RecordingWriter::create(to, &about)?;
    let (mut held, mut shown) = (Held::default(), None);
    let (mut kept, mut lasts) = (0, Micros::ZERO);
    while let Some(current) = group {
        lasts = Micros(current.now.0.saturating_sub(start.0));
        if current.now < begin {
            held.note(current.as_ref());
            shown = current.messages.into_iter().find(|m| m.schema == Some(Schema::Truth)).or(shown);
        } else if current.now < until {
            if kept == 0 {
                held.write(&mut writer)?;
                if let Some(mut truth) = shown.take() {
                    truth.log_time_ns = begin.0 * 1000;
                    writer.write(&truth)?;
                }
            }
            current.messages.iter().try_for_each(|m| writer.write(m))?;
            kept += 1;
        }
        group = groups.next_group()?;
    }
    writer.finish()?;
    if kept == 0 {
        _ = std::fs::remove_file(to);
        return Err(PartError::Empty { file: from.display().to_string(), from: span.from, lasts });
    }
    Ok(Cut { kept, is_from_start: begin == first })
}

#[cfg(test)]
mod tests {
    use super::super::{Survey, Truth};
    use super::*;

    fn part(span: Span) -> (Result<Cut, PartError>, Option<Survey>) {
        let dir = tempfile::tempdir().unwrap();
        let (demo, out) = (Path::new("models/kiosk/demo.mcap"), dir.path().join("part.mcap"));
        let cut = cut(demo, &out, span, false);
        let survey = out.exists().then(|| Survey::of(&out).unwrap());
        (cut, survey)
    }

    #[test]
    fn a_part_begins_with_what_was_shown_then() {
        let whole = Survey::of(Path::new("models/kiosk/demo.mcap")).unwrap();
        let last = whole.truths.iter().rfind(|t| t.label != "none").unwrap();
        let after: Vec<Truth> = whole.truths.iter().filter(|t| t.t > last.t).cloned().collect();
        // a little after the statement, so that it stands before the part
        let from = last.t + Micros::from_ms(100);
        let (cut, survey) = part(Span { from, to: None, lead_in: Micros::ZERO });
        let survey = survey.unwrap();
        assert!(cut.unwrap().kept > 10);
        assert_eq!(survey.truths[0], Truth { t: Micros::ZERO, ..last.clone() });
        assert_eq!(survey.truths.len(), 1 + after.len());
        let expected = whole.duration - from;
        assert!(survey.duration.0.abs_diff(expected.0) < 10_000, "{} and {expected}", survey.duration);
    }

    #[test]
    fn a_part_with_nothing_in_it_is_refused_and_leaves_no_file() {
        let (cut, survey) = part(Span { from: Micros::from_ms(10_000_000), to: None, lead_in: Micros::ZERO });
        assert!(cut.unwrap_err().to_string().contains("nothing in the part from 10000 s on; it lasts"), "{survey:?}");
        assert_eq!(survey, None);
    }
}
