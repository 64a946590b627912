//! What the server counts: requests by their answer, and everything that was turned away, by its reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::metrics::{Counter, Gauge, Registry};

/// Why something was turned away. `word` is the label of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Connections,
    Streams,
    Malformed,
    HeaderTimeout,
    SlowClient,
    Host,
    Origin,
    Token,
    NotFound,
    Method,
    MediaType,
    Size,
    BodyTimeout,
    Json,
    Text,
    Rate,
    Busy,
    NotOffered,
    NoPicture,
}

impl Reason {
    /// Every reason with its word, in the order of the counters.
    pub const ALL: [(Reason, &'static str); 19] = [
        (Reason::Connections, "connections"),
        (Reason::Streams, "streams"),
        (Reason::Malformed, "malformed"),
        (Reason::HeaderTimeout, "header_timeout"),
        (Reason::SlowClient, "slow_client"),
        (Reason::Host, "host"),
        (Reason::Origin, "origin"),
        (Reason::Token, "token"),
        (Reason::NotFound, "not_found"),
        (Reason::Method, "method"),
        (Reason::MediaType, "media_type"),
        (Reason::Size, "size"),
        (Reason::BodyTimeout, "body_timeout"),
        (Reason::Json, "json"),
        (Reason::Text, "text"),
        (Reason::Rate, "rate"),
        (Reason::Busy, "busy"),
        (Reason::NotOffered, "not_offered"),
        (Reason::NoPicture, "no_picture"),
    ];
}

/// The classes of answers, `code` of the counter.
const CODES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// The server's counters, named in a [`Registry`].
#[derive(Debug)]
pub(super) struct Counts {
    refused: [Arc<Counter>; Reason::ALL.len()],
    answered: [Arc<Counter>; CODES.len()],
    /// Connections taken.
    pub connections: Arc<Counter>,
    /// Pictures of the camera that were sent.
    pub previews: Arc<Counter>,
    /// Events that did not reach the server because its thread was behind.
    pub lost: Arc<Counter>,
    /// Events that clients could no longer have when they came for them.
    pub missed: Arc<Counter>,
    /// Connections whose code panicked.
    pub panics: Arc<Counter>,
    /// Connections that are open.
    pub open_connections: Seats,
    /// Streams that are open.
    pub open_streams: Seats,
}

impl Counts {
    /// Registers every counter at zero, so that a reason shows before it happens.
    pub fn new(registry: &Registry) -> Self {
        let refused = |word| {
            let help = "Requests and connections that were turned away.";
            registry.counter("attendant_http_refused_total", help, &[("reason", word)])
        };
        let answered =
            |code| registry.counter("attendant_http_responses_total", "Answers to requests.", &[("code", code)]);
        let counter = |name, help| registry.counter(name, help, &[]);
        let gauge = |name, help| Seats::new(registry.gauge(name, help, &[]));
        Counts {
            refused: Reason::ALL.map(|(_, word)| refused(word)),
            answered: CODES.map(answered),
            connections: counter("attendant_http_connections_total", "Connections that were taken."),
            previews: counter("attendant_http_previews_total", "Pictures of the camera that were sent."),
            lost: counter("attendant_http_events_lost_total", "Events dropped because the server was behind."),
            missed: counter("attendant_http_events_missed_total", "Events that a client could no longer have."),
            panics: counter("attendant_http_panics_total", "Connections that ended in a panic."),
            open_connections: gauge("attendant_http_connections", "Connections that are open."),
            open_streams: gauge("attendant_http_streams", "Event streams that are open."),
        }
    }

    /// One more was turned away.
    pub fn refuse(&self, reason: Reason) {
        self.refused[reason as usize].inc();
    }

    /// One more was answered with this status.
    pub fn answer(&self, status: u16) {
        let class = usize::from(status / 100).checked_sub(2);
        if let Some(counter) = class.and_then(|i| self.answered.get(i)) {
            counter.inc();
        }
    }
}

/// A number of places, of which each is taken by at most one.
#[derive(Clone, Debug)]
pub(super) struct Seats {
    taken: Arc<AtomicUsize>,
    shown: Arc<Gauge>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Seat(Seats);

impl Seats {
    fn new(shown: Arc<Gauge>) -> Self {
        Seats { taken: Arc::default(), shown }
    }

    /// A place, if fewer than `max` are taken.
    pub fn take(&self, max: usize) -> Option<Seat> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        // dropping it gives the place back
        let seat = Seat(self.clone());
        self.shown.set(self.taken.load(Ordering::Relaxed) as u64);
        (before < max).then_some(seat)
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let before = self.0.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.shown.set(before.saturating_sub(1) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        for (i, (reason, word)) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i, "{word}");
        }
        let registry = Registry::new();
        let counts = Counts::new(&registry);
        counts.refuse(Reason::Rate);
        counts.answer(429);
        counts.answer(101);
        let mut text = String::new();
        registry.write_prometheus(&mut text).unwrap();
        assert!(text.contains("attendant_http_refused_total{reason=\"rate\"} 1\n"), "{text}");
        assert!(text.contains("attendant_http_responses_total{code=\"4xx\"} 1\n"), "{text}");
        assert!(text.contains("attendant_http_responses_total{code=\"2xx\"} 0\n"), "{text}");
    }

    #[test]
    fn a_seat_is_given_back_and_never_given_twice() {
        let seats = Seats::new(Arc::default());
        let (a, b) = (seats.take(2), seats.take(2));
        assert!(a.is_some() && b.is_some() && seats.take(2).is_none());
        drop(a);
        assert!(seats.take(2).is_some(), "and dropped at once");
        assert_eq!((seats.taken(), seats.shown.get()), (1, 1));
    }
}
