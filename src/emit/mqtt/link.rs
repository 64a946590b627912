//! Between the sink on the inference loop's thread and the service on the network's: bounded, and neither waits for the other.
//!
//! The one exception is [`Link::close`] at the end of a run, which gives the service a moment to deliver what is left.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::signal::Event;

use super::view::{Look, View};

/// Events on their way to the service; when it is behind by more, the oldest go.
pub const OUTBOX_MAX: usize = 256;

/// Answers to commands on their way to the broker; when there are more, new ones go.
pub const ANSWERS_MAX: usize = 64;

/// The hand-over.
#[derive(Debug, Default)]
pub struct Link {
    inner: Mutex<Inner>,
    has_closed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    outbox: VecDeque<Vec<u8>>,
    answers: VecDeque<Vec<u8>>,
    view: View,
    is_view_fresh: bool,
    dropped: u64,
    answers_dropped: u64,
    waker: Option<Waker>,
    is_woken: bool,
    is_closing: bool,
    has_closed: bool,
}

/// What the service finds.
#[derive(Debug, Default)]
pub struct Found {
    /// Events, oldest first, as JSON.
    pub events: Vec<Vec<u8>>,
    /// Answers, oldest first.
    pub answers: Vec<Vec<u8>>,
    /// Whether the state has changed.
    pub is_view_fresh: bool,
    /// Events that were dropped since this was last asked, because the service was behind.
    pub dropped: u64,
    /// Answers that were dropped since this was last asked.
    pub answers_dropped: u64,
    /// The run is over.
    pub is_closing: bool,
}

impl Link {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(mut inner: MutexGuard<'_, Inner>) {
        inner.is_woken = true;
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// An event and its JSON.
    pub fn push(&self, event: &Event, json: Vec<u8>) {
        let mut inner = self.lock();
        if inner.outbox.len() == OUTBOX_MAX {
            inner.outbox.pop_front();
            inner.dropped += 1;
        }
        inner.outbox.push_back(json);
        inner.view.fold(event);
        inner.is_view_fresh = true;
        Self::wake(inner);
    }

    /// An answer to a command.
    pub fn answer(&self, json: Vec<u8>) {
        let mut inner = self.lock();
        if inner.answers.len() == ANSWERS_MAX {
            inner.answers_dropped += 1;
            return;
        }
        inner.answers.push_back(json);
        Self::wake(inner);
    }

    /// For the service: ready once something has happened since the last time.
    pub fn poll_woken(&self, context: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.is_woken) {
            return Poll::Ready(());
        }
        inner.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// For the service: everything that waits.
    pub fn take(&self) -> Found {
        let mut inner = self.lock();
        Found {
            events: inner.outbox.drain(..).collect(),
            answers: inner.answers.drain(..).collect(),
            is_view_fresh: std::mem::take(&mut inner.is_view_fresh),
            dropped: std::mem::take(&mut inner.dropped),
            answers_dropped: std::mem::take(&mut inner.answers_dropped),
            is_closing: inner.is_closing,
        }
    }

    /// The state as JSON; None before the first event.
    #[must_use]
    pub fn state(&self, look: &Look) -> Option<Vec<u8>> {
        // a copy, so that an event never waits for the JSON
        let view = self.lock().view.clone();
        view.has_begun().then(|| view.json(look))
    }

    /// The run is over: waits until the service has delivered or kept what is left, at most for `patience`. Whether it has.
    pub fn close(&self, patience: Duration) -> bool {
        let mut inner = self.lock();
        inner.is_closing = true;
        Self::wake(inner);
        let (inner, _) = self
            .has_closed
            .wait_timeout_while(self.lock(), patience, |inner| !inner.has_closed)
            .unwrap_or_else(PoisonError::into_inner);
        inner.has_closed
    }

    /// For the service: it has ended.
    pub fn closed(&self) {
        self.lock().has_closed = true;
        self.has_closed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::event;
    use super::*;
    use crate::signal::EventKind;

    #[test]
    fn a_service_that_is_behind_loses_the_oldest_and_learns_how_many() {
        let link = Link::new();
        for i in 0..OUTBOX_MAX as u64 + 3 {
            link.push(&event(i, i, EventKind::Start), i.to_string().into_bytes());
        }
        (0..ANSWERS_MAX + 2).for_each(|_| link.answer(Vec::new()));
        let found = link.take();
        assert_eq!((found.events.len(), found.dropped, found.answers_dropped), (OUTBOX_MAX, 3, 2));
        assert_eq!(found.events[0], b"3");
        assert!(found.is_view_fresh && !found.is_closing);
        assert_eq!(link.take().dropped, 0);
    }

    #[test]
    fn whatever_happens_wakes_the_service_once() {
        let link = Link::new();
        let context = Context::from_waker(Waker::noop());
        assert!(link.poll_woken(&context).is_pending());
        link.answer(Vec::new());
        assert!(link.poll_woken(&context).is_ready());
        assert!(link.poll_woken(&context).is_pending());
    }

    #[test]
    fn the_end_waits_for_the_service_and_not_for_ever() {
        let link = Link::new();
        assert!(!link.close(Duration::from_millis(1)));
        assert!(link.take().is_closing);
        link.closed();
        assert!(link.close(Duration::from_secs(60)));
    }
}
