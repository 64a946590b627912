//! The newest events, ready to send: what a client that was away for a moment gets when it comes back.
//!
//! Bounded by number and by bytes. Every event was serialized once; what is kept and sent are references to those bytes.

use std::collections::VecDeque;

use axum::body::Bytes;

/// Events kept at most.
pub(super) const EVENTS_MAX: usize = 512;

/// Bytes of events kept at most; the newest is kept whatever its size.
pub(super) const BYTES_MAX: usize = 512 << 10;

/// Where a client stands: the sequence number of the next event that it has not been sent.
pub(super) type Cursor = u64;

/// The newest events in their order.
#[derive(Debug, Default)]
pub(super) struct Ring {
    items: VecDeque<(u64, Bytes)>,
    bytes: usize,
    next: Cursor,
}

/// What a client is to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Events that it can no longer have.
    pub missed: u64,
    /// Events, oldest first.
    pub frames: Vec<Bytes>,
}

impl Ring {
    /// Appends the event `seq`. Sequence numbers grow.
    pub fn push(&mut self, seq: u64, frame: Bytes) {
        self.bytes += frame.len();
        self.next = seq + 1;
        self.items.push_back((seq, frame));
        while self.items.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.items.len() > 1) {
            if let Some((_, old)) = self.items.pop_front() {
                self.bytes -= old.len();
            }
        }
    }

    /// What comes after the newest event.
    pub fn next(&self) -> Cursor {
        self.next
    }

    /// The events from `cursor` on, at most `max` of them; moves the cursor behind what it returns.
    pub fn take(&self, cursor: &mut Cursor, max: usize) -> Due {
        let mut due = Due::default();
        // from another run, or made up
        *cursor = (*cursor).min(self.next);
        let first = self.items.partition_point(|(seq, _)| *seq < *cursor);
        for (seq, frame) in self.items.iter().skip(first).take(max) {
            if seq != cursor && !due.frames.is_empty() {
                // a hole: what is missing is told before what follows, by the next call
                break;
            }
            due.missed += seq - *cursor;
            due.frames.push(frame.clone());
            *cursor = seq + 1;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Bytes {
        Bytes::from(vec![b'x'; len])
    }

    #[test]
    fn a_client_gets_what_it_has_not_had_and_learns_what_is_gone() {
        let mut ring = Ring::default();
        let mut cursor = 7;
        assert_eq!((ring.take(&mut cursor, 9), cursor), (Due::default(), 0), "nothing has happened yet");
        (0..10).for_each(|seq| ring.push(seq, frame(1)));
        let mut cursor = 4;
        assert_eq!((ring.take(&mut cursor, 4).frames.len(), cursor), (4, 8), "a part at a time");
        assert_eq!((ring.take(&mut cursor, 4).frames.len(), cursor), (2, 10));
        assert_eq!(ring.take(&mut cursor, 4), Due::default());
        let mut cursor = 99;
        assert_eq!((ring.take(&mut cursor, 4), cursor), (Due::default(), 10), "from the future");
    }

    #[test]
    fn a_hole_is_told_in_its_place() {
        let mut ring = Ring::default();
        [0, 1, 5].into_iter().for_each(|seq| ring.push(seq, frame(1)));
        let mut cursor = 0;
        let parts = [ring.take(&mut cursor, 9), ring.take(&mut cursor, 9), ring.take(&mut cursor, 9)];
        let told = parts.map(|due| (due.missed, due.frames.len()));
        assert_eq!((told, cursor), ([(0, 2), (3, 1), (0, 0)], 6));
    }

    #[test]
    fn memory_is_bounded_by_number_and_by_bytes() {
        let mut ring = Ring::default();
        (0..2 * EVENTS_MAX as u64).for_each(|seq| ring.push(seq, frame(1)));
        assert_eq!(ring.items.len(), EVENTS_MAX);
        let mut cursor = 10;
        assert_eq!(ring.take(&mut cursor, 1).missed, EVENTS_MAX as u64 - 10);
        (0..20).for_each(|i| ring.push(5000 + i, frame(BYTES_MAX / 4)));
        assert_eq!((ring.items.len(), ring.bytes), (4, BYTES_MAX));
        ring.push(6000, frame(3 * BYTES_MAX));
        assert_eq!((ring.items.len(), ring.bytes), (1, 3 * BYTES_MAX), "the newest is always there");
    }
}
