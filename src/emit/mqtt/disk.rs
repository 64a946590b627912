//! Events that wait on disk while the broker is away: append-only segments, safe against a power cut at any byte.
//!
//! A segment is a file named after the number of its first record: eight bytes of [`MAGIC`], then records of a length, a CRC-32 over
//! length and payload (both little-endian u32), and the payload. Numbers count up by one and are never used twice. `done` holds the
//! number of the first record that is not acknowledged, with its CRC; it is replaced whole, and if it is lost the oldest segment is
//! delivered again, never skipped. What is cut off at the end of a segment, and what follows a damaged record in one, is cut away
//! and counted at the next start.
//!
//! Nothing here waits for the disk to be durable: the caller says when ([`DiskQueue::sync`]). Until then a power cut, but no end
//! of the process, can lose what was appended since.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// First bytes of every segment: the kind and version of the file.
pub const MAGIC: &[u8; 8] = b"ATTNDQ1\n";

/// Length and checksum before each payload.
const HEAD: u64 = 8;

/// Longest payload. What claims to be longer is damage.
pub const RECORD_BYTES_MAX: usize = 60 << 10;

/// A full queue loses a segment, so that it is cut into so many.
const SEGMENTS: u64 = 16;

/// Largest segment, whatever the bound.
const SEGMENT_BYTES_LIMIT: u64 = 4 << 20;

/// A queue that another holds is tried so often, with such pauses.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// One file.
#[derive(Debug)]
struct Segment {
    /// Number of its first record.
    first: u64,
    /// Records that it holds.
    count: u64,
    /// Bytes that are whole records, the magic included.
    bytes: u64,
}

/// Where the next record is read.
#[derive(Debug)]
struct Reader {
    segment: u64,
    file: File,
    at: u64,
    next: u64,
}

/// What was found when a queue was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Records that wait.
    pub records: u64,
    /// Bytes that were cut away because they are no whole record.
    pub torn_bytes: u64,
    /// Segments that something was cut from.
    pub torn: u64,
}

/// A queue of records in a directory of its own.
#[derive(Debug)]
pub struct DiskQueue {
    dir: PathBuf,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The last segment, open for appending.
    writer: Option<File>,
    reader: Option<Reader>,
    /// Number of the first record that is not acknowledged.
    done: u64,
    /// Number of the next record to be read.
    next_read: u64,
    /// Number of the next record to be appended.
    next: u64,
    bytes: u64,
    bytes_max: u64,
    segment_bytes: u64,
    /// Records passed over because they could not be read.
    unreadable: u64,
    /// `done` has moved since it was written.
    is_done_stale: bool,
    /// A segment has come or gone since the directory was synced.
    is_dir_stale: bool,
    unsynced: bool,
    /// Held for as long as the queue lives: one process a directory.
    _lock: File,
}

impl DiskQueue {
    /// Opens the queue in `dir`, which is made if it is missing, and cuts away what is no whole record.
    ///
    /// # Errors
    /// Those of the file system; `WouldBlock` when another process has the queue.
    pub fn open(dir: &Path, bytes_max: u64) -> io::Result<(Self, Found)> {
        fs::create_dir_all(dir)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"))?;
        take(&lock)?;
        let mut firsts: Vec<u64> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            firsts.extend(name.to_str().and_then(|n| n.strip_suffix(".seg")).and_then(|n| n.parse::<u64>().ok()));
        }
        firsts.sort_unstable();
        let (mut segments, mut found) = (VecDeque::new(), Found::default());
        let mut next = 0;
        for first in firsts {
            let path = segment_path(dir, first);
            let (mut segment, mut cut) = scan(&path, first)?;
            // numbers that were used twice: only a file that was copied here has them
            if first < next {
                cut += std::mem::take(&mut segment.bytes);
                segment.count = 0;
            }
            if cut > 0 {
                found.torn += 1;
                found.torn_bytes += cut;
                OpenOptions::new().write(true).open(&path)?.set_len(segment.bytes)?;
            }
            if segment.count == 0 {
                fs::remove_file(&path)?;
                // its number may have been given out: it is not used again
                next = next.max(first);
                continue;
            }
            next = first + segment.count;
            segments.push_back(segment);
        }
        let mark = read_done(&dir.join("done")).unwrap_or(0);
        // A number of the mark that no segment has was delivered and removed: counting goes on behind it.
        next = next.max(mark);
        let segment_bytes = (bytes_max / SEGMENTS).clamp(1 << 12, SEGMENT_BYTES_LIMIT);
        let mut queue = DiskQueue {
            dir: dir.to_owned(),
            bytes: segments.iter().map(|s| s.bytes).sum(),
            segments,
            writer: None,
            reader: None,
            done: 0,
            next_read: 0,
            next,
            bytes_max,
            segment_bytes,
            unreadable: 0,
            is_done_stale: false,
            is_dir_stale: found.torn > 0,
            unsynced: false,
            _lock: lock,
        };
        queue.done = queue.segments.front().map_or(next, |s| s.first).max(mark);
        queue.next_read = queue.done;
        queue.remove_delivered()?;
        // A directory that cannot be written is told of here and not at the first event.
        queue.write_done()?;
        found.records = queue.len();
        Ok((queue, found))
    }

    /// Appends a record; the oldest segments make room. The number of records that were dropped for it.
    ///
    /// # Errors
    /// Those of the file system: the record is not in the queue then, those before it are. `InvalidInput` for one that is too long.
    pub fn push(&mut self, payload: &[u8]) -> io::Result<u64> {
        if payload.len() > RECORD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "longer than a record can be"));
        }
        let mut record = Vec::with_capacity(payload.len() + HEAD as usize);
        record.extend((payload.len() as u32).to_le_bytes());
        record.extend(checksum(payload).to_le_bytes());
        record.extend(payload);
        let needed = record.len() as u64;
        let is_full = |s: &Segment| s.bytes + needed > self.segment_bytes && s.count > 0;
        if self.writer.is_some() && self.segments.back().is_none_or(is_full) {
            self.close_segment()?;
        }
        let mut dropped = 0;
        while self.bytes + needed + MAGIC.len() as u64 > self.bytes_max && !self.segments.is_empty() {
            dropped += self.drop_oldest()?;
        }
        if self.writer.is_none() {
            self.begin_segment()?;
        }
        let (Some(segment), Some(writer)) = (self.segments.back_mut(), &mut self.writer) else {
            unreachable!("a segment was begun above")
        };
        if let Err(error) = writer.write_all(&record) {
            // What got out of it would stand before the next record. If it cannot be cut off, the next record begins a new segment.
            let cut = writer.set_len(segment.bytes).and_then(|()| writer.seek(SeekFrom::Start(segment.bytes)));
            if cut.is_err() {
                self.writer = None;
                if segment.count == 0 {
                    // its number, and so its file, is used again
                    self.bytes -= segment.bytes;
                    self.segments.pop_back();
                }
            }
            return Err(error);
        }
        segment.bytes += needed;
        segment.count += 1;
        self.bytes += needed;
        self.next += 1;
        self.unsynced = true;
        Ok(dropped)
    }

    /// The next record that was not read since [`DiskQueue::rewind`], into `payload`, and its number.
    ///
    /// # Errors
    /// Those of the file system, and `InvalidData` for a record that has changed since the queue was opened; the rest of
    /// its segment is passed over then.
    pub fn read(&mut self, payload: &mut Vec<u8>) -> io::Result<Option<u64>> {
        let Some(segment) = self.segments.iter().find(|s| self.next_read < s.first + s.count) else { return Ok(None) };
        let (first, end) = (segment.first, segment.first + segment.count);
        self.next_read = self.next_read.max(first);
        let number = self.next_read;
        let result = self.read_record(first, number, payload);
        self.next_read = if result.is_ok() { number + 1 } else { end };
        if result.is_err() {
            self.unreadable += end - number;
            self.reader = None;
        }
        result.map(|()| Some(number))
    }

    fn read_record(&mut self, first: u64, number: u64, payload: &mut Vec<u8>) -> io::Result<()> {
        if self.reader.as_ref().is_none_or(|r| r.segment != first || r.next > number) {
            let file = File::open(segment_path(&self.dir, first))?;
            self.reader = Some(Reader { segment: first, file, at: MAGIC.len() as u64, next: first });
        }
        let Some(reader) = &mut self.reader else { unreachable!("opened above") };
        while reader.next <= number {
            reader.file.seek(SeekFrom::Start(reader.at))?;
            let bytes = read_one(&mut reader.file, payload)?
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a record has changed on disk"))?;
            reader.at += bytes;
            reader.next += 1;
        }
        Ok(())
    }

    /// Everything that is not acknowledged is to be read again.
    pub fn rewind(&mut self) {
        self.next_read = self.done;
    }

    /// What was appended so far counts as read.
    pub fn skip(&mut self) {
        self.next_read = self.next;
    }

    /// Number of the record that was appended last.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Records that were passed over because they could not be read, since this was last asked.
    pub fn take_unreadable(&mut self) -> u64 {
        std::mem::take(&mut self.unreadable)
    }

    /// The record `number` and those before it are acknowledged; whole segments of such are removed.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn ack(&mut self, number: u64) -> io::Result<()> {
        // those that were dropped meanwhile are acknowledged too late
        if number >= self.done {
            self.done = number + 1;
            self.next_read = self.next_read.max(self.done);
            self.is_done_stale = true;
        }
        self.remove_delivered()
    }

    /// Makes what was appended, dropped and acknowledged durable.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.is_done_stale {
            self.write_done()?;
        }
        if let Some(writer) = self.writer.as_ref().filter(|_| self.unsynced) {
            writer.sync_data()?;
        }
        self.unsynced = false;
        if self.is_dir_stale {
            File::open(&self.dir)?.sync_all()?;
            self.is_dir_stale = false;
        }
        Ok(())
    }

    /// Whether [`DiskQueue::sync`] would do anything.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.unsynced || self.is_done_stale || self.is_dir_stale
    }

    /// Records that are not acknowledged.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.segments.iter().map(|s| (s.first + s.count).saturating_sub(s.first.max(self.done))).sum()
    }

    /// Whether every record is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every record was read since [`DiskQueue::rewind`].
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.segments.back().is_none_or(|s| self.next_read >= s.first + s.count)
    }

    /// Bytes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let path = segment_path(&self.dir, self.next);
        let begun = OpenOptions::new().create(true).truncate(true).write(true).open(&path).and_then(|mut file| {
            file.write_all(MAGIC)?;
            Ok(file)
        });
        match begun {
            Ok(file) => self.writer = Some(file),
            Err(error) => {
                // without room for its first bytes it would be in the way
                _ = fs::remove_file(&path);
                return Err(error);
            }
        }
        let bytes = MAGIC.len() as u64;
        self.segments.push_back(Segment { first: self.next, count: 0, bytes });
        self.bytes += bytes;
        self.is_dir_stale = true;
        Ok(())
    }

    fn close_segment(&mut self) -> io::Result<()> {
        if let Some(writer) = self.writer.take().filter(|_| self.unsynced) {
            writer.sync_data()?;
        }
        Ok(())
    }

    /// Removes the oldest segment; how many of its records were not acknowledged.
    fn drop_oldest(&mut self) -> io::Result<u64> {
        let Some(segment) = self.segments.front() else { return Ok(0) };
        remove(&segment_path(&self.dir, segment.first))?;
        let end = segment.first + segment.count;
        let lost = end.saturating_sub(segment.first.max(self.done));
        self.bytes -= segment.bytes;
        self.segments.pop_front();
        if self.segments.is_empty() {
            self.writer = None;
        }
        if end > self.done {
            self.done = end;
            self.is_done_stale = true;
        }
        self.next_read = self.next_read.max(self.done);
        self.is_dir_stale = true;
        Ok(lost)
    }

    fn remove_delivered(&mut self) -> io::Result<()> {
        while self.segments.front().is_some_and(|s| s.count > 0 && s.first + s.count <= self.done) {
            // before the files go: the mark says up to where numbers were used
            if self.segments.len() == 1 && self.is_done_stale {
                self.write_done()?;
            }
            self.drop_oldest()?;
        }
        Ok(())
    }

    fn write_done(&mut self) -> io::Result<()> {
        let (path, next) = (self.dir.join("done"), self.dir.join("done.new"));
        let number = self.done.to_le_bytes();
        let mut bytes = number.to_vec();
        bytes.extend(crc32fast::hash(&number).to_le_bytes());
        fs::write(&next, bytes)?;
        fs::rename(&next, &path)?;
        self.is_done_stale = false;
        Ok(())
    }
}

/// Locks the directory. A program that this process is just starting holds what was locked before for a moment: between its fork
/// and its exec it has every file of ours.
fn take(lock: &File) -> io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "another process uses this queue"))
}

fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.seg"))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // somebody has tidied up: it is gone, as it should be
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn checksum(payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Reads one record; the bytes that it takes, or None if there is no whole one.
fn read_one(file: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let mut head = [0; HEAD as usize];
    if !fill(file, &mut head)? {
        return Ok(None);
    }
    let [a, b, c, d, crc @ ..] = head;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > RECORD_BYTES_MAX {
        return Ok(None);
    }
    payload.resize(len, 0);
    let is_whole = fill(file, payload)? && checksum(payload) == u32::from_le_bytes(crc);
    Ok(is_whole.then_some(HEAD + len as u64))
}

/// Fills `into`; false if the file ends before.
fn fill(file: &mut impl Read, into: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The whole records of a segment, and how many bytes after them are none.
fn scan(path: &Path, first: u64) -> io::Result<(Segment, u64)> {
    let file = File::open(path)?;
    let all = file.metadata()?.len();
    let mut file = io::BufReader::new(file);
    let mut segment = Segment { first, count: 0, bytes: 0 };
    let mut magic = [0; MAGIC.len()];
    if fill(&mut file, &mut magic)? && magic == *MAGIC {
        segment.bytes = MAGIC.len() as u64;
        let mut payload = Vec::new();
        while let Some(bytes) = read_one(&mut file, &mut payload)? {
            segment.bytes += bytes;
            segment.count += 1;
        }
    }
    let cut = all - segment.bytes;
    Ok((segment, cut))
}

fn read_done(path: &Path) -> Option<u64> {
    let bytes = fs::read(path).ok()?;
    let (number, crc) = (bytes.get(..8)?, bytes.get(8..12)?);
    let is_whole = bytes.len() == 12 && crc32fast::hash(number).to_le_bytes() == *crc;
    is_whole.then(|| u64::from_le_bytes(number.try_into().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(dir: &Path, bytes_max: u64) -> DiskQueue {
        DiskQueue::open(dir, bytes_max).unwrap().0
    }

    fn read_all(queue: &mut DiskQueue) -> Vec<(u64, Vec<u8>)> {
        let (mut payload, mut all) = (Vec::new(), Vec::new());
        while let Some(number) = queue.read(&mut payload).unwrap() {
            all.push((number, payload.clone()));
        }
        all
    }

    fn payloads(queue: &mut DiskQueue) -> Vec<String> {
        read_all(queue).into_iter().map(|(_, p)| String::from_utf8(p).unwrap()).collect()
    }

    #[test]
    fn records_come_out_in_order_and_survive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path(), 1 << 20);
        for word in ["a", "", "c"] {
            assert_eq!(queue.push(word.as_bytes()).unwrap(), 0);
        }
        assert_eq!((queue.len(), queue.is_read()), (3, false));
        assert_eq!(payloads(&mut queue), ["a", "", "c"]);
        queue.ack(0).unwrap();
        queue.sync().unwrap();
        drop(queue);
        let (mut queue, found) = DiskQueue::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(found, Found { records: 2, ..Found::default() });
        queue.push(b"d").unwrap();
        assert_eq!(payloads(&mut queue), ["", "c", "d"]);
        queue.rewind();
        assert_eq!(payloads(&mut queue), ["", "c", "d"]);
        queue.ack(3).unwrap();
        assert!(queue.is_empty() && queue.is_read());
        assert_eq!(queue.bytes(), 0, "delivered segments are removed");
        drop(queue);
        let mut queue = open(dir.path(), 1 << 20);
        queue.push(b"e").unwrap();
        assert_eq!(read_all(&mut queue), [(4, b"e".to_vec())], "numbers are not used twice");
    }

    #[test]
    fn one_process_has_a_queue() {
        let dir = tempfile::tempdir().unwrap();
        let _queue = open(dir.path(), 1 << 20);
        let error = DiskQueue::open(dir.path(), 1 << 20).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::WouldBlock, "another process uses this queue")
        );
    }

    #[test]
    fn a_full_queue_loses_its_oldest_segment_and_says_how_many() {
        let dir = tempfile::tempdir().unwrap();
        let bytes_max = 64 << 10;
        let mut queue = open(dir.path(), bytes_max);
        let mut dropped = 0;
        for i in 0..200_u32 {
            let mut record = vec![0; 1000];
            record[..4].copy_from_slice(&i.to_le_bytes());
            dropped += queue.push(&record).unwrap();
            assert!(queue.bytes() <= bytes_max, "{} bytes", queue.bytes());
        }
        let on_disk: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
        assert!(on_disk <= bytes_max + 64, "{on_disk}");
        let kept: Vec<u64> = read_all(&mut queue).iter().map(|(n, _)| *n).collect();
        assert_eq!(kept, (dropped..200).collect::<Vec<_>>());
        assert!(queue.len() * 1016 > bytes_max * 7 / 8, "only {} records are kept", queue.len());
    }

    /// Three records in one segment, and the bytes of the file.
    fn three() -> (Vec<&'static str>, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let words = vec!["first", "second, which is longer", "3rd"];
        let mut queue = open(dir.path(), 1 << 20);
        words.iter().for_each(|w| _ = queue.push(w.as_bytes()).unwrap());
        (words, fs::read(segment_path(dir.path(), 0)).unwrap())
    }

    #[test]
    fn a_power_cut_at_any_byte_leaves_whole_records_and_a_queue_that_works() {
        let (words, bytes) = three();
        let mut ends = vec![MAGIC.len()];
        words.iter().for_each(|w| ends.push(ends.last().unwrap() + HEAD as usize + w.len()));
        for len in 0..=bytes.len() {
            // the disk may have the length, but not yet the bytes: zeros or what was there before
            for filler in [None, Some(0), Some(0xff)] {
                let dir = tempfile::tempdir().unwrap();
                let mut file = bytes[..len].to_vec();
                if let Some(filler) = filler {
                    file.resize(bytes.len(), filler);
                }
                let is_same = file == bytes;
                fs::write(segment_path(dir.path(), 0), &file).unwrap();
                let whole = if is_same { 3 } else { ends.iter().skip(1).filter(|end| **end <= len).count() };
                let (mut queue, found) = DiskQueue::open(dir.path(), 1 << 20).unwrap();
                assert_eq!(found.records as usize, whole, "cut at {len}, then {filler:?}");
                let cut = file.len() - if whole == 0 && len < MAGIC.len() { 0 } else { ends[whole] };
                assert_eq!(found.torn_bytes as usize, cut, "cut at {len}, then {filler:?}");
                queue.push(b"after").unwrap();
                let mut expected: Vec<String> = words[..whole].iter().map(ToString::to_string).collect();
                expected.push("after".into());
                assert_eq!(payloads(&mut queue), expected, "cut at {len}, then {filler:?}");
                drop(queue);
                assert_eq!(payloads(&mut open(dir.path(), 1 << 20)), expected, "again, cut at {len}, then {filler:?}");
            }
        }
    }

    #[test]
    fn a_byte_that_has_changed_never_gives_a_wrong_record() {
        let (words, bytes) = three();
        for i in 0..bytes.len() {
            let dir = tempfile::tempdir().unwrap();
            let mut file = bytes.clone();
            file[i] ^= 0x10;
            fs::write(segment_path(dir.path(), 0), &file).unwrap();
            let (mut queue, found) = DiskQueue::open(dir.path(), 1 << 20).unwrap();
            let got = payloads(&mut queue);
            assert_eq!(got, words[..got.len()], "byte {i}");
            assert!(got.len() < 3 && found.torn == 1, "byte {i} was changed and nobody saw it");
        }
    }

    #[test]
    fn a_mark_that_is_lost_delivers_again_and_skips_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path(), 1 << 20);
        ["a", "b"].iter().for_each(|w| _ = queue.push(w.as_bytes()).unwrap());
        queue.ack(0).unwrap();
        queue.sync().unwrap();
        drop(queue);
        for damage in [&b""[..], b"\0\0\0\0\0\0\0\0\0\0\0\0", b"nonsense"] {
            fs::write(dir.path().join("done"), damage).unwrap();
            assert_eq!(payloads(&mut open(dir.path(), 1 << 20)), ["a", "b"], "{damage:?}");
        }
    }

    #[test]
    fn a_record_that_changes_under_a_running_queue_costs_its_segment_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path(), 64 << 10);
        (0..8_u8).for_each(|i| _ = queue.push(&[i; 1000]).unwrap());
        let path = segment_path(dir.path(), 0);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut payload = Vec::new();
        assert_eq!(queue.read(&mut payload).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let kept: Vec<u64> = read_all(&mut queue).iter().map(|(n, _)| *n).collect();
        assert_eq!(kept, [4, 5, 6, 7]);
    }

    #[test]
    fn what_is_too_long_is_refused_and_a_directory_that_cannot_be_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path(), 1 << 20);
        assert_eq!(queue.push(&vec![0; RECORD_BYTES_MAX + 1]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(queue.push(&vec![0; RECORD_BYTES_MAX]).unwrap(), 0);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(DiskQueue::open(&file, 1 << 20).is_err());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push(usize),
        Read,
        /// Acknowledges this share of what was read, in eighths.
        Ack(u8),
        Rewind,
        Sync,
        Reopen,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0_usize..3000).prop_map(Op::Push),
            4 => Just(Op::Read),
            3 => (0_u8..=8).prop_map(Op::Ack),
            1 => Just(Op::Rewind),
            1 => Just(Op::Sync),
            1 => Just(Op::Reopen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a model that is a list: what is read is what was pushed, in order, nothing twice without a rewind, nothing left out
        /// but what was dropped and counted, and never more bytes than the bound.
        #[test]
        fn the_queue_keeps_order_and_bound(ops in prop::collection::vec(op(), 1..120)) {
            let bytes_max = 64 << 10;
            let dir = tempfile::tempdir().unwrap();
            let mut queue = open(dir.path(), bytes_max);
            let (mut pushed, mut next_read, mut done, mut dropped) = (Vec::<usize>::new(), 0_u64, 0_u64, 0_u64);
            let mut payload = Vec::new();
            for op in ops {
                match op {
                    Op::Push(len) => {
                        let mut record = (pushed.len() as u64).to_le_bytes().to_vec();
                        record.resize(8 + len, 7);
                        let lost = queue.push(&record).unwrap();
                        pushed.push(record.len());
                        dropped += lost;
                        let oldest = pushed.len() as u64 - queue.len();
                        prop_assert!(lost == 0 || oldest >= done);
                        done = done.max(oldest);
                        next_read = next_read.max(done);
                    }
                    Op::Read => match queue.read(&mut payload).unwrap() {
                        None => prop_assert_eq!(next_read, pushed.len() as u64),
                        Some(number) => {
                            prop_assert_eq!(number, next_read);
                            prop_assert_eq!(&payload[..8], &number.to_le_bytes());
                            prop_assert_eq!(payload.len(), pushed[number as usize]);
                            next_read += 1;
                        }
                    },
                    Op::Ack(eighths) => {
                        let upto = done + (next_read - done) * u64::from(eighths) / 8;
                        if upto > done {
                            queue.ack(upto - 1).unwrap();
                            done = upto;
                        }
                    }
                    Op::Rewind => {
                        queue.rewind();
                        next_read = done;
                    }
                    Op::Sync => queue.sync().unwrap(),
                    Op::Reopen => {
                        queue.sync().unwrap();
                        drop(queue);
                        queue = open(dir.path(), bytes_max);
                        next_read = done;
                    }
                }
                prop_assert_eq!(queue.len(), pushed.len() as u64 - done);
                prop_assert!(queue.bytes() <= bytes_max);
            }
            prop_assert!(dropped <= pushed.len() as u64);
        }
    }
}
