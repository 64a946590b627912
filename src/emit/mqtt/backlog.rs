//! What is to be published and not yet acknowledged: in memory while the broker listens, on disk while it does not.
//!
//! Order is the order of [`Backlog::push`], always. It holds because whatever is on disk is older than whatever is in memory: an event
//! goes to memory only when everything on disk has been sent, and before anything goes to disk again, what is in memory and
//! what was sent from there is written before it. Flash is left alone while the broker listens.
//!
//! A disk that is full, read-only or taken by another process is tried again every half minute; meanwhile events wait in memory, the
//! oldest of them go when that is full, and [`Backlog::take_trouble`] says so.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use log::warn;

use crate::time::Micros;

use super::disk::{DiskQueue, RECORD_BYTES_MAX};

/// Bytes that wait in memory.
pub const MEMORY_BYTES_MAX: usize = 1 << 20;

/// Events that wait in memory.
pub const MEMORY_MAX: usize = 1024;

/// More than so many in memory go to disk, where there is one: the broker is slow.
const SPILL_AT: usize = 128;

/// A disk that failed is tried again after this.
const RETRY_AFTER: Micros = Micros::from_ms(30_000);

/// What was appended becomes durable at the latest after this: what a power cut can cost while the broker is away.
pub const SYNC_EVERY: Micros = Micros::from_ms(1000);

/// Where an event that was sent still lies.
#[derive(Debug)]
enum Place {
    Disk(u64),
    Memory(Vec<u8>),
}

/// Sent, not yet acknowledged.
#[derive(Debug)]
struct Sent {
    ticket: u64,
    place: Place,
    is_acked: bool,
}

/// Events that were dropped, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The bound on disk was reached.
    pub disk_full: u64,
    /// The bound in memory was reached.
    pub memory_full: u64,
    /// Longer than [`RECORD_BYTES_MAX`].
    pub oversize: u64,
    /// Damaged on disk.
    pub damaged: u64,
}

/// Whether events can wait on disk has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// They wait in memory; why.
    Began(String),
    /// They wait on disk again.
    Ended,
}

/// Events on their way to the broker.
#[derive(Debug)]
pub struct Backlog {
    dir: Option<PathBuf>,
    bytes_max: u64,
    disk: Option<DiskQueue>,
    /// When to try the disk again; None while it works.
    retry_at: Option<Micros>,
    trouble: Option<Trouble>,
    sent: VecDeque<Sent>,
    memory: VecDeque<Vec<u8>>,
    memory_bytes: usize,
    next_ticket: u64,
    next_sync: Micros,
    is_linked: bool,
    dropped: Dropped,
    torn: u64,
}

impl Backlog {
    /// A backlog with its queue in `dir`; without one, or while it cannot be used, in memory.
    #[must_use]
    pub fn open(dir: Option<PathBuf>, bytes_max: u64, now: Micros) -> Self {
        let mut backlog = Backlog {
            dir,
            bytes_max,
            disk: None,
            retry_at: None,
            trouble: None,
            sent: VecDeque::new(),
            memory: VecDeque::new(),
            memory_bytes: 0,
            next_ticket: 0,
            next_sync: now,
            is_linked: false,
            dropped: Dropped::default(),
            torn: 0,
        };
        backlog.try_open(now);
        backlog
    }

    /// The newest event.
    pub fn push(&mut self, payload: Vec<u8>, now: Micros) {
        if payload.len() > RECORD_BYTES_MAX {
            self.dropped.oversize += 1;
            return;
        }
        self.memory_bytes += payload.len();
        self.memory.push_back(payload);
        let is_direct =
            self.is_linked && self.memory.len() <= SPILL_AT && self.disk.as_ref().is_none_or(DiskQueue::is_read);
        if !is_direct {
            self.spill(now);
        }
        while self.memory.len() > MEMORY_MAX || self.memory_bytes > MEMORY_BYTES_MAX {
            if let Some(oldest) = self.memory.pop_front() {
                self.memory_bytes -= oldest.len();
                self.dropped.memory_full += 1;
            }
        }
    }

    /// The next event to publish, and the ticket to acknowledge it with.
    pub fn send(&mut self) -> Option<(u64, Vec<u8>)> {
        let mut payload = Vec::new();
        let from_disk = loop {
            let Some(disk) = &mut self.disk else { break None };
            match disk.read(&mut payload) {
                Ok(number) => break number,
                // its segment is passed over, so that this ends
                Err(error) => {
                    let n = disk.take_unreadable();
                    warn!("mqtt: {n} events on disk cannot be read: {error}");
                    self.dropped.damaged += n;
                }
            }
        };
        let place = match from_disk {
            Some(number) => Place::Disk(number),
            None => {
                payload = self.memory.pop_front()?;
                self.memory_bytes -= payload.len();
                Place::Memory(payload.clone())
            }
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.sent.push_back(Sent { ticket, place, is_acked: false });
        Some((ticket, payload))
    }

    /// The broker has the event of `ticket`.
    pub fn ack(&mut self, ticket: u64, now: Micros) {
        if let Some(sent) = self.sent.iter_mut().find(|s| s.ticket == ticket) {
            sent.is_acked = true;
        }
        // one after the other: what is acknowledged out of turn is kept until those before it are
        while self.sent.front().is_some_and(|s| s.is_acked) {
            let Some(Sent { place: Place::Disk(number), .. }) = self.sent.pop_front() else { continue };
            let acked = self.disk.as_mut().map_or(Ok(()), |disk| disk.ack(number));
            if let Err(error) = acked {
                self.fail(&error, now);
            }
        }
    }

    /// The broker listens.
    pub fn link(&mut self) {
        self.is_linked = true;
    }

    /// The broker is gone: what it has not acknowledged is to be sent again, and everything goes to disk.
    pub fn unlink(&mut self, now: Micros) {
        self.is_linked = false;
        while let Some(sent) = self.sent.pop_back() {
            if let Place::Memory(payload) = sent.place {
                self.memory_bytes += payload.len();
                self.memory.push_front(payload);
            }
        }
        if let Some(disk) = &mut self.disk {
            disk.rewind();
        }
        self.spill(now);
    }

    /// Time passes: makes durable what is due, tries a disk again that has failed.
    pub fn tick(&mut self, now: Micros) {
        if self.retry_at.is_some_and(|at| now >= at) {
            self.try_open(now);
            self.spill(now);
        }
        if now >= self.next_sync {
            self.sync(now);
        }
    }

    /// The process ends: what the broker does not have goes to disk, durably.
    pub fn close(&mut self, now: Micros) {
        self.unlink(now);
        self.sync(now);
    }

    /// Whether events can wait on disk has changed since this was last asked.
    pub fn take_trouble(&mut self) -> Option<Trouble> {
        self.trouble.take()
    }

    /// Events dropped since this was last asked.
    pub fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }

    /// Segments that something was cut from, since this was last asked.
    pub fn take_torn(&mut self) -> u64 {
        std::mem::take(&mut self.torn)
    }

    /// Events that the broker has not acknowledged.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len_in_memory() + self.disk.as_ref().map_or(0, DiskQueue::len)
    }

    /// Those of them that are on no disk: the end of the process loses them.
    #[must_use]
    pub fn len_in_memory(&self) -> u64 {
        let sent = self.sent.iter().filter(|s| matches!(s.place, Place::Memory(_))).count();
        (sent + self.memory.len()) as u64
    }

    /// Whether the broker has everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes on disk and in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory_bytes as u64 + self.disk.as_ref().map_or(0, DiskQueue::bytes)
    }

    /// Events sent and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.sent.len()
    }

    fn sync(&mut self, now: Micros) {
        self.next_sync = now + SYNC_EVERY;
        let synced = self.disk.as_mut().filter(|d| d.is_stale()).map_or(Ok(()), DiskQueue::sync);
        if let Err(error) = synced {
            self.fail(&error, now);
        }
    }

    fn try_open(&mut self, now: Micros) {
        if self.disk.is_none()
            && let Some(dir) = &self.dir
        {
            match DiskQueue::open(dir, self.bytes_max) {
                Ok((disk, found)) => {
                    self.disk = Some(disk);
                    self.torn += found.torn;
                }
                Err(error) => return self.fail(&error, now),
            }
        }
        // whether it can be written shows with the next event
        if self.disk.as_ref().is_none_or(DiskQueue::is_empty) && self.memory.is_empty() {
            self.mend();
        }
        if self.retry_at.is_some() {
            self.retry_at = Some(now);
        }
    }

    /// Moves everything from memory to disk, what was sent from there first. What cannot be moved stays.
    fn spill(&mut self, now: Micros) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let Some(disk) = &mut self.disk else { return };
        let mut result = Ok(0);
        // What was sent before a queue of an earlier process could be opened is not put behind it: it would acknowledge all of it.
        let of_memory = if disk.is_read() { self.sent.len() } else { 0 };
        for sent in self.sent.iter_mut().take(of_memory) {
            if let Place::Memory(payload) = &sent.place {
                result = disk.push(payload);
                let Ok(dropped) = result else { break };
                self.dropped.disk_full += dropped;
                sent.place = Place::Disk(disk.last());
                disk.skip();
            }
        }
        while result.is_ok()
            && let Some(payload) = self.memory.front()
        {
            result = disk.push(payload);
            if let Ok(dropped) = result {
                self.dropped.disk_full += dropped;
                self.memory_bytes -= payload.len();
                self.memory.pop_front();
            }
        }
        match result {
            Ok(_) => self.mend(),
            Err(error) => self.fail(&error, now),
        }
    }

    fn mend(&mut self) {
        if self.retry_at.take().is_some() {
            self.trouble = Some(Trouble::Ended);
        }
    }

    fn fail(&mut self, error: &io::Error, now: Micros) {
        if self.retry_at.is_none() {
            let dir = self.dir.as_ref().map_or_else(String::new, |d| d.display().to_string());
            self.trouble =
                Some(Trouble::Began(format!("{dir}: {error}; events wait in memory until it can be written")));
        }
        self.retry_at = Some(now + RETRY_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    const NOW: Micros = Micros::ZERO;

    fn backlog(dir: Option<&Path>) -> Backlog {
        Backlog::open(dir.map(Path::to_owned), 1 << 20, NOW)
    }

    fn push(backlog: &mut Backlog, words: &[&str]) {
        words.iter().for_each(|w| backlog.push(w.as_bytes().to_vec(), NOW));
    }

    /// Takes everything that is to be sent.
    fn send(backlog: &mut Backlog) -> Vec<(u64, String)> {
        std::iter::from_fn(|| backlog.send()).map(|(t, p)| (t, String::from_utf8(p).unwrap())).collect()
    }

    fn words(sent: &[(u64, String)]) -> Vec<&str> {
        sent.iter().map(|(_, w)| w.as_str()).collect()
    }

    #[test]
    fn while_the_broker_listens_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut backlog = backlog(Some(dir.path()));
        backlog.link();
        push(&mut backlog, &["a", "b"]);
        let sent = send(&mut backlog);
        assert_eq!(words(&sent), ["a", "b"]);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_some()).count(),
            0
        );
        sent.iter().for_each(|(t, _)| backlog.ack(*t, NOW));
        assert!(backlog.is_empty());
    }

    #[test]
    fn what_was_sent_and_not_acknowledged_is_sent_again_before_what_came_later() {
        for dir in [Some(tempfile::tempdir().unwrap()), None] {
            let mut backlog = backlog(dir.as_ref().map(tempfile::TempDir::path));
            push(&mut backlog, &["a"]);
            backlog.link();
            push(&mut backlog, &["b"]);
            let sent = send(&mut backlog);
            push(&mut backlog, &["c"]);
            backlog.ack(sent[0].0, NOW);
            backlog.unlink(NOW);
            push(&mut backlog, &["d"]);
            backlog.link();
            assert_eq!(words(&send(&mut backlog)), ["b", "c", "d"], "{dir:?}");
        }
    }

    #[test]
    fn the_end_of_the_process_keeps_what_was_not_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = backlog(Some(dir.path()));
        first.link();
        push(&mut first, &["a", "b", "c"]);
        let (ticket, _) = first.send().unwrap();
        first.ack(ticket, NOW);
        first.send().unwrap();
        first.close(NOW);
        drop(first);
        assert_eq!(words(&send(&mut backlog(Some(dir.path())))), ["b", "c"]);
    }

    #[test]
    fn acknowledgements_out_of_turn_do_not_lose_what_came_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut backlog = backlog(Some(dir.path()));
        push(&mut backlog, &["a", "b"]);
        backlog.link();
        let sent = send(&mut backlog);
        backlog.ack(sent[1].0, NOW);
        backlog.unlink(NOW);
        assert_eq!(words(&send(&mut backlog)), ["a", "b"], "delivered twice rather than never");
    }

    #[test]
    fn a_disk_that_cannot_be_used_is_told_of_once_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue");
        fs::write(&path, "in the way").unwrap();
        let mut backlog = backlog(Some(&path));
        let Some(Trouble::Began(reason)) = backlog.take_trouble() else { panic!("nobody was told") };
        assert!(reason.ends_with("events wait in memory until it can be written"), "{reason}");
        push(&mut backlog, &["a", "b"]);
        backlog.tick(RETRY_AFTER + RETRY_AFTER);
        assert_eq!(backlog.take_trouble(), None, "told twice");
        fs::remove_file(&path).unwrap();
        backlog.tick(Micros(RETRY_AFTER.0 * 4));
        assert_eq!(backlog.take_trouble(), Some(Trouble::Ended));
        assert!(path.join("00000000000000000000.seg").exists());
        backlog.link();
        assert_eq!(words(&send(&mut backlog)), ["a", "b"]);
    }

    #[test]
    fn memory_has_a_bound_and_what_goes_is_counted() {
        let mut backlog = backlog(None);
        for i in 0..MEMORY_MAX + 5 {
            backlog.push(i.to_string().into_bytes(), NOW);
        }
        assert_eq!(backlog.take_dropped(), Dropped { memory_full: 5, ..Dropped::default() });
        assert_eq!(words(&send(&mut backlog))[0], "5");
        backlog.push(vec![0; RECORD_BYTES_MAX + 1], NOW);
        assert_eq!(backlog.take_dropped(), Dropped { oversize: 1, ..Dropped::default() });
        (0..40).for_each(|_| backlog.push(vec![0; RECORD_BYTES_MAX], NOW));
        assert!(backlog.bytes() as usize <= MEMORY_BYTES_MAX);
    }

    #[test]
    fn a_queue_that_opens_late_is_delivered_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = backlog(Some(dir.path()));
        push(&mut other, &["old 1", "old 2"]);
        let mut late = backlog(Some(dir.path()));
        assert!(late.take_trouble().is_some(), "the other one holds the queue");
        late.link();
        push(&mut late, &["new 1"]);
        let sent = send(&mut late);
        assert_eq!(words(&sent), ["new 1"]);
        drop(other);
        let now = RETRY_AFTER + RETRY_AFTER;
        late.tick(now);
        late.push(b"new 2".to_vec(), now);
        sent.iter().for_each(|(t, _)| late.ack(*t, now));
        assert_eq!(words(&send(&mut late)), ["old 1", "old 2", "new 2"]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push,
        Send,
        Ack,
        Link,
        Unlink,
        Tick,
        Break,
        Restart,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => Just(Op::Push),
            6 => Just(Op::Send),
            6 => Just(Op::Ack),
            1 => Just(Op::Link),
            1 => Just(Op::Unlink),
            1 => Just(Op::Tick),
            1 => Just(Op::Break),
            1 => Just(Op::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// Within its bounds nothing is lost and nothing is overtaken, whatever happens to the link, the disk's state and the
        /// process: between two links numbers only grow, and the next one to come is never later than what was acknowledged.
        #[test]
        fn nothing_is_overtaken(ops in prop::collection::vec(op(), 1..200)) {
            let dir = tempfile::tempdir().unwrap();
            let mut backlog = backlog(Some(dir.path()));
            let (mut pushed, mut acked, mut expected) = (0_u64, 0_u64, 0_u64);
            let mut sent: VecDeque<(u64, u64)> = VecDeque::new();
            let (mut is_linked, mut now) = (false, NOW);
            for op in ops {
                match op {
                    Op::Push => {
                        backlog.push(pushed.to_le_bytes().to_vec(), now);
                        pushed += 1;
                    }
                    Op::Send if is_linked => match backlog.send() {
                        Some((ticket, payload)) => {
                            let number = u64::from_le_bytes(payload.try_into().unwrap());
                            prop_assert_eq!(number, expected);
                            expected += 1;
                            sent.push_back((ticket, number));
                        }
                        None => prop_assert_eq!(expected, pushed),
                    },
                    Op::Ack if is_linked => {
                        if let Some((ticket, number)) = sent.pop_front() {
                            backlog.ack(ticket, now);
                            acked = number + 1;
                        }
                    }
                    Op::Link => {
                        backlog.link();
                        is_linked = true;
                    }
                    Op::Unlink => {
                        backlog.unlink(now);
                        (is_linked, expected) = (false, acked);
                        sent.clear();
                    }
                    Op::Tick => {
                        now = now + Micros::from_ms(20_000);
                        backlog.tick(now);
                    }
                    // as if the disk had been full: the retry time is all that tells
                    Op::Break => backlog.fail(&io::ErrorKind::StorageFull.into(), now),
                    Op::Restart => {
                        now = now + RETRY_AFTER;
                        backlog.tick(now);
                        backlog.close(now);
                        drop(backlog);
                        backlog = Backlog::open(Some(dir.path().to_owned()), 1 << 20, now);
                        (is_linked, expected) = (false, acked);
                        sent.clear();
                    }
                    Op::Send | Op::Ack => {}
                }
                prop_assert_eq!(backlog.len(), pushed - acked);
            }
        }
    }
}
