//! Counters, gauges and latency histograms, and the registry that names them.
//!
//! Every drop, retry, gap and reopen has a counter. Whoever owns a device or a stage asks the [`Registry`] for its metrics
//! once and then updates plain atomics: nothing here allocates or locks after registration. The registry renders itself
//! in the Prometheus text format; serving that over HTTP is a sink's work. [`EngineScope`] marks the time a thread spends
//! inside the inference engine, so that a counting allocator can tell the engine's allocations from this crate's own.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::time::Micros;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Starts at 0.
    #[must_use]
    pub const fn new() -> Self {
        Counter(AtomicU64::new(0))
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down: a queue's length, bytes resident.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Starts at 0.
    #[must_use]
    pub const fn new() -> Self {
        Gauge(AtomicU64::new(0))
    }

    /// The value is `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value is `n`, unless it was larger.
    pub fn set_max(&self, n: u64) {
        self.0.fetch_max(n, Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Each power of two is cut into `2^SUB_BITS` buckets, so that a quantile is at most 1/16 above the truth.
const SUB_BITS: u32 = 4;
const SUB: u64 = 1 << SUB_BITS;
/// Longer than this (71 minutes) counts as this.
const LARGEST_US: u64 = u32::MAX as u64;
const BUCKETS: usize = bucket_of(LARGEST_US) + 1;

/// Latencies in microseconds in log-linear buckets of fixed number.
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

/// The figures of a [`Histogram`] at one moment, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LatencySummary {
    /// Values recorded.
    pub count: u64,
    /// Half of them were at most this.
    pub p50_us: u64,
    /// 90 % of them.
    pub p90_us: u64,
    /// 99 % of them.
    pub p99_us: u64,
    /// The largest, exactly.
    pub max_us: u64,
    /// Their mean, rounded down.
    pub mean_us: u64,
}

impl Histogram {
    /// Empty.
    #[must_use]
    pub const fn new() -> Self {
        Histogram {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum_us: AtomicU64::new(0),
            max_us: AtomicU64::new(0),
        }
    }

    /// Records one latency.
    pub fn record(&self, latency: Micros) {
        let us = latency.0.min(LARGEST_US);
        self.buckets[bucket_of(us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
        self.max_us.fetch_max(us, Relaxed);
    }

    /// Values recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Relaxed)).sum()
    }

    /// The smallest bucket edge that at least the fraction `q` of the values does not exceed, us; 0 when empty.
    ///
    /// At most 1/16 above the exact quantile, never below it, and never above the largest value.
    #[must_use]
    pub fn quantile_us(&self, q: f64) -> u64 {
        let rank = ((self.count() as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (i, bucket) in self.buckets.iter().enumerate() {
            seen += bucket.load(Relaxed);
            if seen >= rank {
                return upper_edge(i).min(self.max_us.load(Relaxed));
            }
        }
        self.max_us.load(Relaxed)
    }

    /// The figures of this moment.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        let count = self.count();
        LatencySummary {
            count,
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            max_us: self.max_us.load(Relaxed),
            mean_us: self.sum_us.load(Relaxed).checked_div(count).unwrap_or(0),
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.summary().fmt(f)
    }
}

/// Values below 16 have a bucket each; from there on the top five bits choose it.
const fn bucket_of(us: u64) -> usize {
    if us < SUB {
        us as usize
    } else {
        let shift = us.ilog2() - SUB_BITS;
        (shift as u64 * SUB + (us >> shift)) as usize
    }
}

/// The largest value that falls into bucket `i`.
const fn upper_edge(i: usize) -> u64 {
    let i = i as u64;
    if i < SUB {
        i
    } else {
        let shift = i / SUB - 1;
        ((i % SUB + SUB + 1) << shift) - 1
    }
}

/// A metric and what it is called.
#[derive(Debug)]
struct Entry {
    name: String,
    /// As rendered: `source="camera"`, without braces; empty if there are none.
    labels: String,
    metric: Metric,
}

#[derive(Clone, Debug)]
enum Metric {
    Counter(Arc<Counter>),
    Gauge(Arc<Gauge>),
    Histogram(Arc<Histogram>),
}

/// Every metric of the program by its Prometheus name and labels, in the order of registration.
///
/// Names: `attendant_` + what + unit, counters end in `_total`, latencies in `_us`.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Mutex<Vec<Entry>>,
}

impl Registry {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Registry::default()
    }

    /// The counter of that name and those labels: an existing one, or a new one at 0.
    ///
    /// # Panics
    /// If the name is no Prometheus name or is taken by another kind: names are constants of the program.
    #[must_use]
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Arc<Counter> {
        match self.entry(name, labels, || Metric::Counter(Arc::default())) {
            Metric::Counter(c) => c,
            other => panic!("{name} is registered as {}", other.kind()),
        }
    }

    /// The gauge of that name and those labels: an existing one, or a new one at 0.
    ///
    /// # Panics
    /// As [`Registry::counter`].
    #[must_use]
    pub fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> Arc<Gauge> {
        match self.entry(name, labels, || Metric::Gauge(Arc::default())) {
            Metric::Gauge(g) => g,
            other => panic!("{name} is registered as {}", other.kind()),
        }
    }

    /// The histogram of that name and those labels: an existing one, or an empty one.
    ///
    /// # Panics
    /// As [`Registry::counter`].
    #[must_use]
    pub fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Arc<Histogram> {
        match self.entry(name, labels, || Metric::Histogram(Arc::default())) {
            Metric::Histogram(h) => h,
            other => panic!("{name} is registered as {}", other.kind()),
        }
    }

    fn entry(&self, name: &str, labels: &[(&str, &str)], new: impl FnOnce() -> Metric) -> Metric {
        assert!(is_prometheus_name(name), "{name:?} is no Prometheus metric name");
        let labels = render_labels(labels);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(e) = entries.iter().find(|e| e.name == name && e.labels == labels) {
            return e.metric.clone();
        }
        let metric = new();
        entries.push(Entry { name: name.into(), labels, metric: metric.clone() });
        metric
    }

    /// Writes all metrics in the Prometheus text exposition format 0.0.4; histograms as summaries of p50, p90, p99.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_prometheus(&self, out: &mut impl Write) -> fmt::Result {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, first) in entries.iter().enumerate() {
            // the format wants all series of one name together, under one TYPE line
            if entries[..i].iter().any(|e| e.name == first.name) {
                continue;
            }
            writeln!(out, "# TYPE {} {}", first.name, first.metric.kind())?;
            for e in entries[i..].iter().filter(|e| e.name == first.name) {
                e.write(out)?;
            }
        }
        Ok(())
    }
}

impl Entry {
    fn write(&self, out: &mut impl Write) -> fmt::Result {
        let Entry { name, labels, metric } = self;
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        match metric {
            Metric::Counter(c) => writeln!(out, "{name}{braced} {}", c.get()),
            Metric::Gauge(g) => writeln!(out, "{name}{braced} {}", g.get()),
            Metric::Histogram(h) => {
                let comma = if labels.is_empty() { "" } else { "," };
                for q in [0.5, 0.9, 0.99] {
                    writeln!(out, "{name}{{{labels}{comma}quantile=\"{q}\"}} {}", h.quantile_us(q))?;
                }
                writeln!(out, "{name}_sum{braced} {}", h.sum_us.load(Relaxed))?;
                writeln!(out, "{name}_count{braced} {}", h.count())
            }
        }
    }
}

impl Metric {
    /// As a TYPE line calls it.
    fn kind(&self) -> &'static str {
        match self {
            Metric::Counter(_) => "counter",
            Metric::Gauge(_) => "gauge",
            Metric::Histogram(_) => "summary",
        }
    }
}

fn is_prometheus_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

fn render_labels(labels: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (key, value) in labels {
        assert!(is_prometheus_name(key), "{key:?} is no Prometheus label name");
        let comma = if out.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        write!(out, "{comma}{key}=\"{value}\"").expect("writing to a string");
    }
    out
}

thread_local! {
    // const, so that reading it from inside an allocator neither allocates nor registers a destructor
    static IN_ENGINE: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, this thread is inside the inference engine.
#[derive(Debug)]
#[must_use = "the scope ends when the guard is dropped"]
pub struct EngineScope {
    outer: bool,
    /// The flag belongs to the thread that set it.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl EngineScope {
    /// Enters; scopes nest.
    pub fn enter() -> Self {
        EngineScope { outer: IN_ENGINE.replace(true), _not_send: std::marker::PhantomData }
    }
}

impl Drop for EngineScope {
    fn drop(&mut self) {
        IN_ENGINE.set(self.outer);
    }
}

/// Whether this thread is inside the inference engine.
#[must_use]
pub fn in_engine() -> bool {
    // an allocator is also called while a thread is being torn down
    IN_ENGINE.try_with(Cell::get).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_do_not_overlap() {
        let mut below = None;
        for i in 0..BUCKETS {
            let low = below.map_or(0, |edge| edge + 1);
            let high = upper_edge(i);
            assert_eq!((bucket_of(low), bucket_of(high)), (i, i), "bucket {i} from {low} to {high}");
            assert!((high - low) * SUB <= low.max(1), "bucket {i} from {low} to {high} is too wide");
            below = Some(high);
        }
        assert_eq!(below, Some(LARGEST_US));
    }

    #[test]
    fn quantiles_are_never_below_the_truth_and_at_most_a_sixteenth_above() {
        let cases: &[(&str, Vec<u64>)] = &[
            ("one value", vec![777]),
            ("all the same", vec![20_000; 50]),
            ("1 to 1000", (1..=1000).collect()),
            ("one slow one", (0..99).map(|_| 100).chain([1_000_000]).collect()),
            ("powers of two", (0..32).map(|i| 1 << i).collect()),
        ];
        for (name, values) in cases {
            let h = Histogram::new();
            values.iter().for_each(|&v| h.record(Micros(v)));
            let mut sorted = values.clone();
            sorted.sort_unstable();
            for q in [0.5, 0.9, 0.99, 1.0] {
                let exact = sorted[((values.len() as f64 * q).ceil() as usize).max(1) - 1];
                let got = h.quantile_us(q);
                assert!(got >= exact && got <= exact + exact / SUB, "{name}: p{q} is {got}, exactly {exact}");
            }
            assert_eq!(h.summary().max_us, *sorted.last().unwrap(), "{name}");
        }
    }

    #[test]
    fn an_empty_histogram_is_all_zero() {
        assert_eq!(Histogram::new().summary(), LatencySummary::default());
    }

    #[test]
    fn a_latency_beyond_the_last_bucket_counts_as_the_longest() {
        let h = Histogram::new();
        h.record(Micros(u64::MAX));
        assert_eq!((h.count(), h.summary().max_us), (1, LARGEST_US));
    }

    #[test]
    fn the_registry_renders_each_name_once_and_escapes_labels() {
        let registry = Registry::new();
        registry.counter("attendant_frames_replaced_total", &[("source", "camera")]).add(3);
        registry.gauge("attendant_queue_len", &[]).set(2);
        registry.counter("attendant_frames_replaced_total", &[("source", "a\"b")]).inc();
        registry.histogram("attendant_step_us", &[("stage", "encode")]).record(Micros(10));
        // the same name and labels: the same counter
        registry.counter("attendant_frames_replaced_total", &[("source", "camera")]).inc();
        let mut out = String::new();
        registry.write_prometheus(&mut out).unwrap();
        assert_eq!(
            out,
            "# TYPE attendant_frames_replaced_total counter\n\
             attendant_frames_replaced_total{source=\"camera\"} 4\n\
             attendant_frames_replaced_total{source=\"a\\\"b\"} 1\n\
             # TYPE attendant_queue_len gauge\n\
             attendant_queue_len 2\n\
             # TYPE attendant_step_us summary\n\
             attendant_step_us{stage=\"encode\",quantile=\"0.5\"} 10\n\
             attendant_step_us{stage=\"encode\",quantile=\"0.9\"} 10\n\
             attendant_step_us{stage=\"encode\",quantile=\"0.99\"} 10\n\
             attendant_step_us_sum{stage=\"encode\"} 10\n\
             attendant_step_us_count{stage=\"encode\"} 1\n"
        );
    }

    #[test]
    #[should_panic(expected = "attendant_x_total is registered as counter")]
    fn a_name_has_one_kind() {
        let registry = Registry::new();
        let _ = registry.counter("attendant_x_total", &[]);
        let _ = registry.gauge("attendant_x_total", &[]);
    }

    #[test]
    fn the_engine_scope_nests_and_is_the_threads_own() {
        assert!(!in_engine());
        let outer = EngineScope::enter();
        drop(EngineScope::enter());
        assert!(in_engine(), "the inner scope ended the outer one");
        assert!(!std::thread::scope(|s| s.spawn(in_engine).join().unwrap()));
        drop(outer);
        assert!(!in_engine());
    }
}
