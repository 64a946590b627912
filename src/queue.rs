//! Bounded hand-over between threads: [`Latest`] for pictures, [`Bounded`] for everything that comes in order.
//!
//! Owned by the supervisor, which spawns the threads at both ends; nothing here spawns or reads a clock. Both kinds
//! *swap* buffers with the caller instead of moving values, so that a producer gets an old buffer back to fill and no
//! hand-over touches the heap. A [`Wake`] shared by several queues lets one thread wait for any of them.
//!
//! Neither kind tells who is at the other end: a thread that panicked and was restarted goes on with the same queue.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What every waiter of several queues waits on: a generation that grows with each [`Wake::notify`].
///
/// The consumer reads [`Wake::generation`], looks into its queues, and, when all are empty, waits for the generation to
/// move on. What arrives between the look and the wait has already moved it, so no wake-up is lost.
#[derive(Clone, Debug, Default)]
pub struct Wake {
    shared: Arc<WakeState>,
}

#[derive(Debug, Default)]
struct WakeState {
    generation: Mutex<u64>,
    moved: Condvar,
}

impl Wake {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        Wake::default()
    }

    /// How often [`Wake::notify`] was called.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *lock(&self.shared.generation)
    }

    /// Something has arrived, or has ended: every waiter looks again.
    pub fn notify(&self) {
        *lock(&self.shared.generation) += 1;
        self.shared.moved.notify_all();
    }

    /// Returns once the generation differs from `seen`, or after `timeout`; the generation of that moment.
    #[must_use]
    pub fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let guard = lock(&self.shared.generation);
        let (guard, _) = self
            .shared
            .moved
            .wait_timeout_while(guard, timeout, |generation| *generation == seen)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}

/// What a consumer finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The caller's buffer holds the next item; `lost` items before it were dropped since the previous one.
    Item {
        /// Items that the full queue dropped between the previous item and this one.
        lost: u64,
    },
    /// Nothing has arrived in time.
    Empty,
    /// Nothing has arrived and the producer has closed the queue.
    Closed,
}

impl Taken {
    /// Whether the caller's buffer holds an item.
    #[must_use]
    pub fn is_item(self) -> bool {
        matches!(self, Taken::Item { .. })
    }
}

/// A slot for the newest item: a new one replaces one that nobody has taken, and is counted as replaced.
#[derive(Debug)]
pub struct Latest<T> {
    slot: Mutex<Slot<T>>,
    arrived: Condvar,
    wake: Wake,
}

#[derive(Debug)]
struct Slot<T> {
    value: T,
    full: bool,
    closed: bool,
    /// Since the last item that was taken.
    lost: u64,
    replaced: u64,
}

impl<T: Default> Latest<T> {
    /// An empty slot that notifies `wake` of every arrival.
    #[must_use]
    pub fn new(wake: &Wake) -> Self {
        let slot = Slot { value: T::default(), full: false, closed: false, lost: 0, replaced: 0 };
        Latest { slot: Mutex::new(slot), arrived: Condvar::new(), wake: wake.clone() }
    }

    /// Swaps `item` into the slot; `item` is then an old buffer to fill. True if an item that nobody took was replaced.
    pub fn put(&self, item: &mut T) -> bool {
        let replaced = {
            let mut slot = lock(&self.slot);
            mem::swap(&mut slot.value, item);
            let replaced = mem::replace(&mut slot.full, true);
            slot.lost += u64::from(replaced);
            slot.replaced += u64::from(replaced);
            replaced
        };
        self.arrived.notify_one();
        self.wake.notify();
        replaced
    }

    /// Swaps the newest item into `into`, without waiting.
    pub fn take(&self, into: &mut T) -> Taken {
        lock(&self.slot).take(into)
    }

    /// Swaps the newest item into `into`, waiting at most `timeout` for it.
    pub fn take_timeout(&self, into: &mut T, timeout: Duration) -> Taken {
        let (mut slot, _) = self
            .arrived
            .wait_timeout_while(lock(&self.slot), timeout, |slot| !slot.full && !slot.closed)
            .unwrap_or_else(PoisonError::into_inner);
        slot.take(into)
    }

    /// The producer will put nothing more; an item in the slot can still be taken.
    pub fn close(&self) {
        lock(&self.slot).closed = true;
        self.arrived.notify_all();
        self.wake.notify();
    }

    /// Items that were replaced before anyone took them, since construction.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        lock(&self.slot).replaced
    }
}

impl<T> Slot<T> {
    fn take(&mut self, into: &mut T) -> Taken {
        if mem::take(&mut self.full) {
            mem::swap(&mut self.value, into);
            Taken::Item { lost: mem::take(&mut self.lost) }
        } else if self.closed {
            Taken::Closed
        } else {
            Taken::Empty
        }
    }
}

/// What a full [`Bounded`] queue does with a new item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest item makes room and is counted; the consumer learns of it with the next item (audio: a gap).
    DropOldest,
    /// The producer waits this long for room; then the new item is dropped and counted (events).
    WaitThenDrop(Duration),
}

/// What became of an item that was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the queue.
    Queued,
    /// It is in the queue, and the oldest item is gone.
    DroppedOldest,
    /// It was dropped: the queue stayed full.
    Dropped,
    /// It was dropped: the consumer has closed the queue.
    Closed,
}

/// A first-in, first-out queue whose capacity is fixed at construction.
#[derive(Debug)]
pub struct Bounded<T> {
    ring: Mutex<Ring<T>>,
    arrived: Condvar,
    room: Condvar,
    wake: Wake,
    when_full: WhenFull,
}

#[derive(Debug)]
struct Ring<T> {
    /// Waiting items, oldest first. Together with `spare` always as many as the capacity.
    items: VecDeque<Queued<T>>,
    /// Buffers to hand back.
    spare: Vec<T>,
    /// Dropped since the newest item in `items`: the next one carries the number.
    lost: u64,
    dropped: u64,
    closed: bool,
}

#[derive(Debug)]
struct Queued<T> {
    value: T,
    lost: u64,
}

impl<T: Default> Bounded<T> {
    /// An empty queue for `capacity` items that notifies `wake` of every arrival.
    ///
    /// # Panics
    /// If `capacity` is 0: capacities come from checked board files.
    #[must_use]
    pub fn new(capacity: usize, when_full: WhenFull, wake: &Wake) -> Self {
        assert!(capacity > 0, "a queue holds at least one item");
        let ring = Ring {
            items: VecDeque::with_capacity(capacity),
            spare: (0..capacity).map(|_| T::default()).collect(),
            lost: 0,
            dropped: 0,
            closed: false,
        };
        Bounded { ring: Mutex::new(ring), arrived: Condvar::new(), room: Condvar::new(), wake: wake.clone(), when_full }
    }

    /// Swaps `item` to the end of the queue; `item` is then an old buffer to fill (its own one if it was dropped).
    pub fn push(&self, item: &mut T) -> Pushed {
        let mut ring = lock(&self.ring);
        let mut outcome = Pushed::Queued;
        if ring.spare.is_empty() && !ring.closed {
            match self.when_full {
                WhenFull::DropOldest => {
                    ring.drop_oldest();
                    outcome = Pushed::DroppedOldest;
                }
                WhenFull::WaitThenDrop(timeout) => {
                    (ring, _) = self
                        .room
                        .wait_timeout_while(ring, timeout, |ring| ring.spare.is_empty() && !ring.closed)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        if ring.closed {
            ring.dropped += 1;
            return Pushed::Closed;
        }
        let Some(mut value) = ring.spare.pop() else {
            ring.dropped += 1;
            ring.lost += 1;
            return Pushed::Dropped;
        };
        mem::swap(&mut value, item);
        let lost = mem::take(&mut ring.lost);
        ring.items.push_back(Queued { value, lost });
        drop(ring);
        self.arrived.notify_one();
        self.wake.notify();
        outcome
    }

    /// Swaps the oldest item into `into`, without waiting.
    pub fn pop(&self, into: &mut T) -> Taken {
        let taken = lock(&self.ring).take(into);
        self.made_room(taken)
    }

    /// Swaps the oldest item into `into`, waiting at most `timeout` for it.
    pub fn pop_timeout(&self, into: &mut T, timeout: Duration) -> Taken {
        let taken = {
            let (mut ring, _) = self
                .arrived
                .wait_timeout_while(lock(&self.ring), timeout, |ring| ring.items.is_empty() && !ring.closed)
                .unwrap_or_else(PoisonError::into_inner);
            ring.take(into)
        };
        self.made_room(taken)
    }

    /// No more items are accepted; those in the queue can still be popped. Both ends may close.
    pub fn close(&self) {
        lock(&self.ring).closed = true;
        self.arrived.notify_all();
        self.room.notify_all();
        self.wake.notify();
    }

    /// Items waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.ring).items.len()
    }

    /// Whether no item is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Items dropped, old or new, since construction.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        lock(&self.ring).dropped
    }

    fn made_room(&self, taken: Taken) -> Taken {
        if taken.is_item() {
            self.room.notify_one();
        }
        taken
    }
}

impl<T> Ring<T> {
    /// The loss is told in order: with the item that follows the dropped one, which is the oldest that is left.
    fn drop_oldest(&mut self) {
        let Some(oldest) = self.items.pop_front() else { return };
        self.dropped += 1;
        let lost = oldest.lost + 1;
        match self.items.front_mut() {
            Some(next) => next.lost += lost,
            None => self.lost += lost,
        }
        self.spare.push(oldest.value);
    }

    fn take(&mut self, into: &mut T) -> Taken {
        match self.items.pop_front() {
            Some(mut item) => {
                mem::swap(&mut item.value, into);
                self.spare.push(item.value);
                Taken::Item { lost: item.lost }
            }
            None if self.closed => Taken::Closed,
            None => Taken::Empty,
        }
    }
}

/// A thread that panicked while it held a lock leaves the queue consistent: only swaps happen under it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Long enough that a test which waits it out has failed.
    const NEVER: Duration = Duration::from_secs(30);
    const AT_ONCE: Duration = Duration::ZERO;

    fn push_all(queue: &Bounded<Vec<u8>>, items: &[u8]) -> Vec<Pushed> {
        items.iter().map(|&n| queue.push(&mut vec![n])).collect()
    }

    #[test]
    fn the_newest_item_replaces_one_that_nobody_took() {
        let latest = Latest::new(&Wake::new());
        let mut out = vec![];
        assert_eq!(latest.take(&mut out), Taken::Empty);
        assert!(!latest.put(&mut vec![1]));
        assert!(latest.put(&mut vec![2]));
        assert!(latest.put(&mut vec![3]));
        assert_eq!((latest.take(&mut out), out.as_slice()), (Taken::Item { lost: 2 }, &[3][..]));
        assert_eq!(latest.take(&mut out), Taken::Empty);
        assert_eq!(latest.replaced(), 2);
    }

    #[test]
    fn a_producer_gets_back_the_buffers_it_gave() {
        let latest = Latest::new(&Wake::new());
        let mut producer: Vec<u8> = Vec::with_capacity(100);
        let mut consumer = Vec::with_capacity(100);
        latest.put(&mut producer);
        latest.take(&mut consumer);
        for _ in 0..3 {
            latest.put(&mut producer);
            latest.take(&mut consumer);
        }
        // the slot's own, first buffer is the only one without capacity
        let without = [&producer, &consumer].iter().filter(|b| b.capacity() == 0).count();
        assert!(without <= 1, "{without} of 2 buffers were freed and replaced");
        assert_eq!(producer.capacity() + consumer.capacity() + lock(&latest.slot).value.capacity(), 200);
    }

    #[test]
    fn an_item_outlives_the_close() {
        let latest = Latest::new(&Wake::new());
        latest.put(&mut 7);
        latest.close();
        let mut out = 0;
        assert_eq!((latest.take_timeout(&mut out, NEVER), out), (Taken::Item { lost: 0 }, 7));
        assert_eq!(latest.take_timeout(&mut out, NEVER), Taken::Closed);
    }

    #[test]
    fn a_full_queue_drops_its_oldest_and_tells_the_consumer_where() {
        let queue = Bounded::new(2, WhenFull::DropOldest, &Wake::new());
        let q = Pushed::Queued;
        assert_eq!(push_all(&queue, &[1, 2, 3, 4]), [q, q, Pushed::DroppedOldest, Pushed::DroppedOldest]);
        let mut out = vec![];
        assert_eq!((queue.pop(&mut out), out[0]), (Taken::Item { lost: 2 }, 3));
        assert_eq!((queue.pop(&mut out), out[0]), (Taken::Item { lost: 0 }, 4));
        assert_eq!(queue.pop(&mut out), Taken::Empty);
        assert_eq!(queue.dropped(), 2);
    }

    #[test]
    fn a_queue_of_one_tells_its_losses_too() {
        let queue = Bounded::new(1, WhenFull::DropOldest, &Wake::new());
        push_all(&queue, &[1, 2, 3]);
        let mut out = vec![];
        assert_eq!((queue.pop(&mut out), out[0]), (Taken::Item { lost: 2 }, 3));
    }

    #[test]
    fn a_full_queue_that_waits_drops_the_new_item_in_the_end() {
        let queue = Bounded::new(2, WhenFull::WaitThenDrop(AT_ONCE), &Wake::new());
        let q = Pushed::Queued;
        assert_eq!(push_all(&queue, &[1, 2, 3]), [q, q, Pushed::Dropped]);
        let mut out = vec![];
        assert_eq!((queue.pop(&mut out), out[0]), (Taken::Item { lost: 0 }, 1));
        assert_eq!(push_all(&queue, &[4]), [q]);
        assert_eq!((queue.pop(&mut out), out[0]), (Taken::Item { lost: 0 }, 2));
        assert_eq!((queue.pop(&mut out), out[0]), (Taken::Item { lost: 1 }, 4));
        assert_eq!(queue.dropped(), 1);
    }

    #[test]
    fn a_waiting_producer_goes_on_as_soon_as_there_is_room() {
        let queue = Bounded::new(1, WhenFull::WaitThenDrop(NEVER), &Wake::new());
        push_all(&queue, &[1]);
        let mut out = vec![];
        thread::scope(|s| {
            let producer = s.spawn(|| queue.push(&mut vec![2]));
            assert!(queue.pop_timeout(&mut out, NEVER).is_item());
            assert_eq!(producer.join().unwrap(), Pushed::Queued);
        });
        assert_eq!((queue.pop(&mut out), out[0]), (Taken::Item { lost: 0 }, 2));
    }

    #[test]
    fn closing_releases_both_ends() {
        let full = Bounded::new(1, WhenFull::WaitThenDrop(NEVER), &Wake::new());
        push_all(&full, &[1]);
        let empty = Bounded::<Vec<u8>>::new(1, WhenFull::DropOldest, &Wake::new());
        thread::scope(|s| {
            let producer = s.spawn(|| full.push(&mut vec![2]));
            let consumer = s.spawn(|| empty.pop_timeout(&mut vec![], NEVER));
            full.close();
            empty.close();
            assert_eq!(producer.join().unwrap(), Pushed::Closed);
            assert_eq!(consumer.join().unwrap(), Taken::Closed);
        });
        assert_eq!(full.dropped(), 1);
    }

    #[test]
    fn one_thread_waits_for_any_of_several_queues() {
        let wake = Wake::new();
        let frames = Latest::<u8>::new(&wake);
        let audio = Bounded::<u8>::new(4, WhenFull::DropOldest, &wake);
        let (mut frame, mut block, mut got) = (0, 0, vec![]);
        thread::scope(|s| {
            s.spawn(|| audio.push(&mut 2));
            s.spawn(|| frames.put(&mut 1));
            while got.len() < 2 {
                let seen = wake.generation();
                if frames.take(&mut frame).is_item() {
                    got.push(frame);
                } else if audio.pop(&mut block).is_item() {
                    got.push(block);
                } else {
                    assert_ne!(wake.wait(seen, NEVER), seen, "nothing arrived");
                }
            }
        });
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    }

    #[test]
    fn what_arrives_before_the_wait_is_not_slept_through() {
        let wake = Wake::new();
        let seen = wake.generation();
        wake.notify();
        assert_eq!(wake.wait(seen, NEVER), seen + 1);
        assert_eq!(wake.wait(seen + 1, AT_ONCE), seen + 1);
    }

    #[test]
    fn a_thread_that_panicked_with_the_lock_does_not_take_the_queue_along() {
        let queue = Bounded::new(2, WhenFull::DropOldest, &Wake::new());
        let panicked = thread::scope(|s| {
            s.spawn(|| {
                let _guard = queue.ring.lock();
                panic!("while holding the lock");
            })
            .join()
        });
        assert!(panicked.is_err() && queue.ring.is_poisoned());
        assert_eq!(queue.push(&mut 5), Pushed::Queued);
        let mut out = 0;
        assert_eq!((queue.pop(&mut out), out), (Taken::Item { lost: 0 }, 5));
    }
}
