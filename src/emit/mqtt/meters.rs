//! What the connection counts, by its Prometheus names.

use std::sync::Arc;

use crate::metrics::{Counter, Gauge, Histogram, Registry};

use super::backlog::Dropped;
use super::command::Why;

/// Metrics of one broker.
#[derive(Debug)]
pub struct Meters {
    /// Events handed to the broker, those handed over again included.
    pub published: Arc<Counter>,
    /// Events that the broker has acknowledged.
    pub acked: Arc<Counter>,
    /// From an event being handed over to its acknowledgement.
    pub ack: Arc<Histogram>,
    /// Events that wait or are on their way.
    pub queued: Arc<Gauge>,
    /// Their bytes, on disk and in memory.
    pub queued_bytes: Arc<Gauge>,
    /// 1 while events cannot wait on disk although they should.
    pub degraded: Arc<Gauge>,
    /// Files of the queue that something was cut from.
    pub torn: Arc<Counter>,
    /// 1 while the broker listens.
    pub connected: Arc<Gauge>,
    /// Connections that the broker has accepted.
    pub connects: Arc<Counter>,
    /// Commands carried out.
    pub accepted: Arc<Counter>,
    dropped: [Arc<Counter>; 6],
    refused: [Arc<Counter>; Why::ALL.len()],
}

const DROPPED: [&str; 6] = ["behind", "disk_full", "memory_full", "oversize", "damaged", "answers"];

impl Meters {
    /// Metrics of `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let dropped = |reason: &str| {
            let help = "Events, and answers to commands, that were dropped.";
            registry.counter("attendant_mqtt_dropped_total", help, &[("reason", reason)])
        };
        let refused = |why: Why| {
            registry.counter("attendant_mqtt_refused_total", "Commands that were refused.", &[("reason", why.word())])
        };
        let counter = |name: &str, help| registry.counter(name, help, &[]);
        let gauge = |name: &str, help| registry.gauge(name, help, &[]);
        Meters {
            published: counter("attendant_mqtt_published_total", "Events handed to the broker, also again."),
            acked: counter("attendant_mqtt_acked_total", "Events that the broker has acknowledged."),
            ack: registry.histogram(
                "attendant_mqtt_ack_seconds",
                "From handing an event over to its acknowledgement.",
                &[],
            ),
            queued: gauge("attendant_mqtt_queue_events", "Events that the broker has not acknowledged."),
            queued_bytes: gauge("attendant_mqtt_queue_bytes", "Bytes of the queue, on disk and in memory."),
            degraded: gauge(
                "attendant_mqtt_queue_degraded",
                "1 while events wait in memory because the disk cannot be used.",
            ),
            torn: counter("attendant_mqtt_queue_torn_total", "Files of the queue that a damaged end was cut from."),
            connected: gauge("attendant_mqtt_connected", "1 while the broker listens."),
            connects: counter("attendant_mqtt_connects_total", "Connections that the broker has accepted."),
            accepted: counter("attendant_mqtt_commands_total", "Commands carried out."),
            dropped: DROPPED.map(dropped),
            refused: Why::ALL.map(refused),
        }
    }

    /// Counts a refusal.
    pub fn refuse(&self, why: Why) {
        if let Some(i) = Why::ALL.iter().position(|known| *known == why) {
            self.refused[i].inc();
        }
    }

    /// Counts what the backlog has dropped.
    pub fn drop_events(&self, dropped: Dropped) {
        let Dropped { disk_full, memory_full, oversize, damaged } = dropped;
        for (counter, n) in self.dropped[1..].iter().zip([disk_full, memory_full, oversize, damaged]) {
            counter.add(n);
        }
    }

    /// Counts what the link has dropped: events because the service was behind, and answers.
    pub fn drop_at_link(&self, events: u64, answers: u64) {
        self.dropped[0].add(events);
        self.dropped[5].add(answers);
    }

    /// Everything that was dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().map(|c| c.get()).sum()
    }
}
