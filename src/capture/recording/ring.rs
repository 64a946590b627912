//! The last minute before a decision: a run is written into short segments, of which only the newest stay, and a decision keeps what they
//! hold as a recording of its own.
//!
//! Segments and kept recordings each have half of the bound on disk: the oldest go first, and are counted. Files that the ring has not
//! made stay. Segments that a power cut has left become a kept recording at the next start. No thread and no clock: time is that of the calls.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use log::{info, warn};

use crate::time::Micros;

use super::Recording;
use super::part::{COMPARED_FROM_US, GroupRef, Groups, Held, PartError};
use super::writer::{RecordingWriter, WriteError};

/// Segments that the time kept is divided into: what is written beyond it is no more than one of them.
const SEGMENTS: u64 = 6;

/// What the names of kept recordings begin with: others of the folder are somebody's own.
const KEPT: &str = "kept-";

/// Folder of the segments, inside that of the kept recordings.
const SEGMENTS_DIR: &str = ".ring";

/// Key of a segment's metadata: so many calls at its start are of earlier segments, and still hold.
const HELD_CALLS: &str = "held_calls";

/// Longest lead-in of a kept recording: by then windows, ages and smoothed probabilities are those of the run.
const LEAD_IN_MAX: Micros = Micros::from_ms(30_000);

/// What is kept, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSpec {
    /// Time before a decision.
    pub length: Micros,
    /// Bytes of messages on disk, segments and kept recordings together; the files' indices come on top.
    pub bytes_max: u64,
}

struct Segment {
    path: PathBuf,
    first: Micros,
    last: Micros,
    bytes: u64,
}

/// Recordings of what led to decisions.
pub struct Ring {
    dir: PathBuf,
    about: BTreeMap<String, String>,
    spec: RingSpec,
    segments: VecDeque<Segment>,
    writer: Option<RecordingWriter>,
    next_segment: u64,
    held: Held,
    /// Path and bytes of the kept recordings, oldest first.
    kept: VecDeque<(PathBuf, u64)>,
    next_kept: u64,
    counts: RingCounts,
}

/// What a ring has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounts {
    /// Recordings that were kept.
    pub kept: u64,
    /// Kept recordings that made room for newer ones.
    pub removed: u64,
}

impl Ring {
    /// Records into the folder `dir`, which is made if it is not there. What an earlier run has left there counts towards the bound.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn open(dir: &Path, about: &BTreeMap<String, String>, spec: RingSpec) -> Result<Self, WriteError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WriteError { path, source }
        };
        let segments_dir = dir.join(SEGMENTS_DIR);
        fs::create_dir_all(&segments_dir).map_err(failed(&segments_dir))?;
        let files = |of: &Path| -> Result<Vec<(PathBuf, u64)>, WriteError> {
            let mut found = Vec::new();
            for entry in fs::read_dir(of).map_err(failed(of))? {
                let entry = entry.map_err(failed(of))?;
                let path = entry.path();
                if path.extension().is_some_and(|e| e == "mcap") {
                    let bytes = entry.metadata().map_err(failed(&path))?.len();
                    found.push((path, bytes));
                }
            }
            found.sort();
            Ok(found)
        };
        let mut kept: VecDeque<(PathBuf, u64)> = files(dir)?.into();
        kept.retain(|(path, _)| number(path).is_some());
        let next_kept = kept.iter().filter_map(|(path, _)| number(path)).max().map_or(1, |n| n + 1);
        let mut ring = Ring {
            dir: dir.to_owned(),
            about: about.clone(),
            spec,
            segments: VecDeque::new(),
            writer: None,
            next_segment: 0,
            held: Held::default(),
            kept,
            next_kept,
            counts: RingCounts::default(),
        };
        let left = files(&segments_dir)?;
        if !left.is_empty() {
            let segment = |(path, bytes)| Segment { path, bytes, first: Micros::ZERO, last: Micros::ZERO };
            ring.segments = left.into_iter().map(segment).collect();
            let skip = |error: PartError| match error {
                PartError::Write(_) => Err(error),
                // what the segment holds before the damage is kept
                PartError::Read(_) | PartError::Empty { .. } => {
                    warn!("{error}; it was left by a run that was cut off");
                    Ok(())
                }
            };
            match ring.copy("cut-off", Micros::ZERO, skip) {
                Ok(path) => info!("{}: kept what a run that was cut off has left: {path:?}", dir.display()),
                Err(PartError::Write(error)) => return Err(error),
                Err(error) => unreachable!("skipped: {error}"),
            }
            ring.segments.drain(..).try_for_each(|s| remove(&s.path))?;
        }
        Ok(ring)
    }

    /// Appends `group`, and keeps what led to it as a recording if it decided `class`. The path of that.
    ///
    /// # Errors
    /// [`PartError`]; the ring is of no more use then.
    pub fn take(&mut self, group: GroupRef<'_>, class: Option<&str>) -> Result<Option<PathBuf>, PartError> {
        let (length, bytes) = (Micros(self.spec.length.0 / SEGMENTS), self.spec.bytes_max / 2 / SEGMENTS);
        if self.segments.back().is_none_or(|s| group.now - s.first >= length || s.bytes >= bytes) {
            self.next_segment(group.now)?;
        }
        self.held.note(group);
        let writer = self.writer.as_mut().expect("opened above");
        group.messages.iter().try_for_each(|m| writer.write(m))?;
        if let Some(segment) = self.segments.back_mut() {
            segment.last = group.now;
            segment.bytes = writer.written_bytes();
        }
        self.forget(group.now)?;
        let Some(class) = class else { return Ok(None) };
        self.save()?;
        self.copy(class, Micros(group.now.0.saturating_sub(self.spec.length.0)), Err)
    }

    fn next_segment(&mut self, now: Micros) -> Result<(), WriteError> {
        if let Some(writer) = self.writer.take() {
            writer.finish()?;
        }
        let path = self.dir.join(SEGMENTS_DIR).join(format!("{:08}.mcap", self.next_segment));
        self.next_segment += 1;
        let mut about = self.about.clone();
        // what holds stands in every segment: the one before may be gone
        about.insert(HELD_CALLS.into(), self.held.calls().to_string());
        let mut writer = RecordingWriter::create(&path, &about)?;
        self.held.write(&mut writer)?;
        self.writer = Some(writer);
        self.segments.push_back(Segment { path, first: now, last: now, bytes: 0 });
        Ok(())
    }

    /// Removes the segments that are too old or too much; never the one that is written.
    fn forget(&mut self, now: Micros) -> Result<(), WriteError> {
        while self.segments.len() > 1 {
            let bytes: u64 = self.segments.iter().map(|s| s.bytes).sum();
            let oldest = &self.segments[0];
            if now - oldest.last <= self.spec.length && bytes <= self.spec.bytes_max / 2 {
                break;
            }
            let oldest = self.segments.pop_front().expect("more than one");
            remove(&oldest.path)?;
        }
        Ok(())
    }

    /// Copies what the segments hold from `from` on into a recording of its own. `damaged` says whether to go on with the next segment.
    fn copy(
        &mut self,
        class: &str,
        from: Micros,
        damaged: impl Fn(PartError) -> Result<(), PartError>,
    ) -> Result<Option<PathBuf>, PartError> {
        self.make_room(self.segments.iter().map(|s| s.bytes).sum())?;
        let word: String = class.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let path = self.dir.join(format!("{KEPT}{:06}-{word}.mcap", self.next_kept));
        self.next_kept += 1;
        let mut part = Part { path: &path, from, length: self.spec.length, held: Held::default(), out: None };
        for segment in &self.segments {
            part.take(&segment.path).or_else(&damaged)?;
        }
        let Some(writer) = part.out else { return Ok(None) };
        writer.finish()?;
        self.counts.kept += 1;
        let bytes = fs::metadata(&path).map_or(0, |m| m.len());
        self.kept.push_back((path.clone(), bytes));
        Ok(Some(path))
    }

    /// Removes the oldest kept recordings, until there is room for one of `bytes`.
    fn make_room(&mut self, bytes: u64) -> Result<(), WriteError> {
        let mut taken: u64 = self.kept.iter().map(|(_, bytes)| bytes).sum();
        while taken + bytes > self.spec.bytes_max / 2
            && let Some((path, bytes)) = self.kept.pop_front()
        {
            remove(&path)?;
            taken -= bytes;
            self.counts.removed += 1;
        }
        Ok(())
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> RingCounts {
        self.counts
    }

    /// Has the disk keep what was written: from here on a power cut does not lose it.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn save(&mut self) -> Result<(), WriteError> {
        self.writer.as_mut().map_or(Ok(()), RecordingWriter::save)
    }

    /// Ends it: the segments go, what was kept stays.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn finish(mut self) -> Result<RingCounts, WriteError> {
        drop(self.writer.take());
        self.segments.drain(..).try_for_each(|s| remove(&s.path))?;
        _ = fs::remove_dir(self.dir.join(SEGMENTS_DIR));
        Ok(self.counts)
    }
}

/// A kept recording in the making.
struct Part<'a> {
    path: &'a Path,
    from: Micros,
    length: Micros,
    held: Held,
    out: Option<RecordingWriter>,
}

impl Part<'_> {
    /// Appends what the segment at `path` holds.
    fn take(&mut self, path: &Path) -> Result<(), PartError> {
        let mut groups = Groups::new(Recording::open(path)?, true);
        let mut n = 0;
        while let Some(group) = groups.next_group()? {
            // what holds is repeated at the start of every segment: news only where nothing came before
            n += 1;
            if group.now < self.from || n <= held_calls(groups.about()) {
                self.held.note(group.as_ref());
                continue;
            }
            let writer = match &mut self.out {
                Some(writer) => writer,
                None => {
                    let mut about = groups.about().clone();
                    about.remove(HELD_CALLS);
                    if group.holds.as_deref() != Some("start") {
                        let lead_in = Micros(self.length.0 / 2).min(LEAD_IN_MAX);
                        about.insert(COMPARED_FROM_US.into(), (group.now + lead_in).0.to_string());
                    }
                    let mut writer = RecordingWriter::create(self.path, &about)?;
                    self.held.write(&mut writer)?;
                    self.out.insert(writer)
                }
            };
            group.messages.iter().try_for_each(|m| writer.write(m))?;
        }
        Ok(())
    }
}

fn held_calls(about: &BTreeMap<String, String>) -> usize {
    about.get(HELD_CALLS).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.strip_prefix(KEPT)?.split('-').next()?.parse().ok()
}

fn remove(path: &Path) -> Result<(), WriteError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(WriteError { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Survey;
    use super::super::encode::{self, CallBody, CallKind};
    use super::super::part::Group;
    use super::super::schema::Schema;
    use super::super::writer::Message;
    use super::*;
    use crate::signal::Command;

    fn group(s: u64, call: CallKind) -> Group {
        let now = Micros::from_ms(s * 1000);
        let mut message = Message { topic: "/call".into(), log_time_ns: now.0 * 1000, ..Message::default() };
        message.schema = Some(Schema::Call);
        let holds = call.holds();
        encode::json(&mut message.body, &CallBody { now_us: now, call });
        Group { now, holds, messages: vec![message] }
    }

    fn open(dir: &Path, bytes_max: u64) -> Ring {
        let spec = RingSpec { length: Micros::from_ms(60_000), bytes_max };
        Ring::open(dir, &BTreeMap::from([("board".into(), "host".into())]), spec).unwrap()
    }

    /// A run of a tick a second from `s` on.
    fn tick(ring: &mut Ring, s: std::ops::Range<u64>) {
        s.for_each(|s| _ = ring.take(group(s, CallKind::Tick).as_ref(), None).unwrap());
    }

    fn calls(path: &Path) -> Vec<CallBody> {
        let mut groups = Groups::new(Recording::open(path).unwrap(), true);
        let mut calls = Vec::new();
        while let Some(group) = groups.next_group().unwrap() {
            calls.extend(group.messages.iter().map(|m| serde_json::from_slice::<CallBody>(&m.body).unwrap()));
        }
        calls
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_decision_keeps_the_minute_before_it_and_what_was_set_long_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = open(dir.path(), 1 << 20);
        ring.take(group(0, CallKind::Start).as_ref(), None).unwrap();
        let chinese = CallKind::Command { command: Command::Language("zh".into()) };
        ring.take(group(1, chinese.clone()).as_ref(), None).unwrap();
        tick(&mut ring, 2..1000);
        assert!(files(&dir.path().join(SEGMENTS_DIR)).len() <= SEGMENTS as usize + 2);
        let kept = ring.take(group(1000, CallKind::Tick).as_ref(), Some("desk 3")).unwrap().unwrap();
        assert_eq!(kept.file_name().unwrap(), "kept-000001-desk_3.mcap");
        let calls = calls(&kept);
        assert_eq!(calls[0].call, CallKind::Start);
        assert_eq!(calls[1].call, chinese);
        let times: Vec<u64> = calls[2..].iter().map(|c| c.now_us.0 / 1_000_000).collect();
        assert_eq!(times, (940..=1000).collect::<Vec<_>>(), "each once, in order");
        let survey = Survey::of(&kept).unwrap();
        assert_eq!(survey.about[COMPARED_FROM_US], "970000000");
        assert_eq!((&*survey.about["board"], survey.about.get(HELD_CALLS)), ("host", None));
        assert_eq!(ring.finish().unwrap(), RingCounts { kept: 1, removed: 0 });
        assert_eq!(files(dir.path()), ["kept-000001-desk_3.mcap"]);
    }

    #[test]
    fn a_run_shorter_than_the_ring_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = open(dir.path(), 1 << 20);
        ring.take(group(0, CallKind::Start).as_ref(), None).unwrap();
        tick(&mut ring, 1..30);
        let kept = ring.take(group(30, CallKind::Tick).as_ref(), Some("desk_3")).unwrap().unwrap();
        assert_eq!(calls(&kept).len(), 31);
        assert_eq!(Survey::of(&kept).unwrap().about.get(COMPARED_FROM_US), None, "everything is compared");
    }

    #[test]
    fn the_oldest_make_room_and_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        // older than any that is kept, and not the ring's
        fs::write(dir.path().join("2024-my-own.mcap"), [0; 30_000]).unwrap();
        let mut ring = open(dir.path(), 40_000);
        ring.take(group(0, CallKind::Start).as_ref(), None).unwrap();
        for s in 1..20 {
            tick(&mut ring, s * 100..s * 100 + 99);
            ring.take(group(s * 100 + 99, CallKind::Tick).as_ref(), Some("desk_3")).unwrap().unwrap();
        }
        assert!(files(dir.path()).contains(&"2024-my-own.mcap".into()));
        let left = files(dir.path()).into_iter().filter(|name| name.starts_with(KEPT)).collect::<Vec<_>>();
        assert_eq!(left.last().unwrap(), "kept-000019-desk_3.mcap");
        let bytes: u64 = left.iter().map(|name| fs::metadata(dir.path().join(name)).unwrap().len()).sum();
        assert!(bytes <= 20_000, "{bytes}");
        let counts = ring.finish().unwrap();
        assert_eq!((counts.kept, counts.removed), (19, 19 - left.len() as u64));
    }

    #[test]
    fn a_second_that_is_larger_than_the_bound_does_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = open(dir.path(), 1 << 20);
        ring.take(group(0, CallKind::Start).as_ref(), None).unwrap();
        let bytes = |of: &Path| -> u64 {
            let entries = fs::read_dir(of).unwrap().map(|e| e.unwrap().metadata().unwrap());
            entries.filter(|m| m.is_file()).map(|m| m.len()).sum()
        };
        let mut tick = group(1, CallKind::Tick);
        let mut picture = Message { topic: "/camera".into(), ..Message::default() };
        (picture.schema, picture.body) = (Some(Schema::RawImage), vec![0; 20_000]);
        tick.messages.insert(0, picture);
        for i in 0..200 {
            ring.take(tick.as_ref(), (i % 50 == 49).then_some("desk_3")).unwrap();
            assert!(bytes(&dir.path().join(SEGMENTS_DIR)) < 620_000, "{i}");
            assert!(bytes(dir.path()) < 620_000, "{i}");
        }
    }

    #[test]
    fn what_a_power_cut_leaves_is_kept_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = open(dir.path(), 1 << 20);
        ring.take(group(0, CallKind::Start).as_ref(), None).unwrap();
        tick(&mut ring, 1..100);
        ring.save().unwrap();
        // a cut: nothing is ended, nothing is removed
        std::mem::forget(ring);
        let torn = |name: &str, bytes: &[u8]| fs::write(dir.path().join(SEGMENTS_DIR).join(name), bytes).unwrap();
        torn("00000000a.mcap", b"no recording");
        torn("00000099.mcap", b"\x89MCAP0\r\n");
        let mut ring = open(dir.path(), 1 << 20);
        let calls = calls(&dir.path().join("kept-000001-cut_off.mcap"));
        assert_eq!(calls[0].call, CallKind::Start);
        assert_eq!(calls.last().unwrap().now_us, Micros::from_ms(99_000));
        assert!(calls.is_sorted_by_key(|c| c.now_us) && calls.len() >= 61, "{}", calls.len());
        // the next run counts on
        ring.take(group(0, CallKind::Start).as_ref(), None).unwrap();
        let kept = ring.take(group(1, CallKind::Tick).as_ref(), Some("desk_0")).unwrap().unwrap();
        assert_eq!(kept.file_name().unwrap(), "kept-000002-desk_0.mcap");
    }
}
