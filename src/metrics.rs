//! Counters, gauges and latency histograms, and the registry that names them.
//!
//! Every drop, retry, gap and reopen has a counter. Whoever owns a device or a stage asks the [`Registry`] for its metrics
//! once and then updates plain atomics: nothing here allocates or locks after registration. The registry renders itself
//! in the Prometheus text format ([`Exposition`]); serving that over HTTP is a sink's work. [`EngineScope`] marks the time a thread spends
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

    /// Values below `2^exponent` microseconds: whole buckets, so that the count is exact.
    #[must_use]
    pub fn count_below_power(&self, exponent: u32) -> u64 {
        let end = if exponent < u32::BITS { bucket_of(1 << exponent) } else { BUCKETS };
        self.buckets[..end].iter().map(|b| b.load(Relaxed)).sum()
    }

    /// Sum of the values, us.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us.load(Relaxed)
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
    help: &'static str,
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
/// Names: `attendant_` + what + unit, counters end in `_total`, latencies in `_seconds`.
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
    pub fn counter(&self, name: &str, help: &'static str, labels: &[(&str, &str)]) -> Arc<Counter> {
        match self.entry(name, help, labels, || Metric::Counter(Arc::default())) {
            Metric::Counter(c) => c,
            other => panic!("{name} is registered as {}", other.kind()),
        }
    }

    /// The gauge of that name and those labels: an existing one, or a new one at 0.
    ///
    /// # Panics
    /// As [`Registry::counter`].
    #[must_use]
    pub fn gauge(&self, name: &str, help: &'static str, labels: &[(&str, &str)]) -> Arc<Gauge> {
        match self.entry(name, help, labels, || Metric::Gauge(Arc::default())) {
            Metric::Gauge(g) => g,
            other => panic!("{name} is registered as {}", other.kind()),
        }
    }

    /// The histogram of that name and those labels: an existing one, or an empty one.
    ///
    /// # Panics
    /// As [`Registry::counter`].
    #[must_use]
    pub fn histogram(&self, name: &str, help: &'static str, labels: &[(&str, &str)]) -> Arc<Histogram> {
        match self.entry(name, help, labels, || Metric::Histogram(Arc::default())) {
            Metric::Histogram(h) => h,
            other => panic!("{name} is registered as {}", other.kind()),
        }
    }

    fn entry(&self, name: &str, help: &'static str, labels: &[(&str, &str)], new: impl FnOnce() -> Metric) -> Metric {
        assert!(is_prometheus_name(name), "{name:?} is no Prometheus metric name");
        let labels = self::labels(labels);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(e) = entries.iter().find(|e| e.name == name && e.labels == labels) {
            return e.metric.clone();
        }
        let metric = new();
        entries.push(Entry { name: name.into(), help, labels, metric: metric.clone() });
        metric
    }

    /// Writes all metrics in the Prometheus text exposition format 0.0.4.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_prometheus(&self, out: &mut impl Write) -> fmt::Result {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut exposition = Exposition::new(out);
        for (i, first) in entries.iter().enumerate() {
            // the format wants all series of one name together, under one TYPE line
            if entries[..i].iter().any(|e| e.name == first.name) {
                continue;
            }
            exposition.family(&first.name, first.metric.kind(), first.help)?;
            for e in entries[i..].iter().filter(|e| e.name == first.name) {
                match &e.metric {
                    Metric::Counter(c) => exposition.sample(&e.labels, c.get())?,
                    Metric::Gauge(g) => exposition.sample(&e.labels, g.get())?,
                    Metric::Histogram(h) => exposition.histogram(&e.labels, h)?,
                }
            }
        }
        Ok(())
    }
}

/// Smallest and largest bucket of an exported histogram, as powers of two of a microsecond: 64 us to 2.1 s.
const EXPORTED_POWERS: std::ops::RangeInclusive<u32> = 6..=21;

/// Writes families of metrics in the Prometheus text exposition format 0.0.4.
#[derive(Debug)]
pub struct Exposition<'a, W> {
    out: &'a mut W,
    name: String,
}

impl<'a, W: Write> Exposition<'a, W> {
    /// Into `out`.
    pub fn new(out: &'a mut W) -> Self {
        Exposition { out, name: String::new() }
    }

    /// Opens the family `name` of `counter`, `gauge` or `histogram`; its samples follow.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        debug_assert!(is_prometheus_name(name), "{name:?}");
        name.clone_into(&mut self.name);
        writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    /// One value of the family; `labels` as [`labels`] renders them.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn sample(&mut self, labels: &str, value: impl fmt::Display) -> fmt::Result {
        self.series("", labels, "", value)
    }

    /// The histogram's buckets, sum and count, in seconds.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn histogram(&mut self, labels: &str, histogram: &Histogram) -> fmt::Result {
        // values may be recorded meanwhile: the buckets are read first and the count is theirs
        let mut below = 0;
        for power in EXPORTED_POWERS {
            below = histogram.count_below_power(power);
            let le = format!("le=\"{}\"", (1_u64 << power) as f64 / 1e6);
            self.series("_bucket", labels, &le, below)?;
        }
        let count = histogram.count().max(below);
        self.series("_bucket", labels, "le=\"+Inf\"", count)?;
        self.series("_sum", labels, "", histogram.sum_us() as f64 / 1e6)?;
        self.series("_count", labels, "", count)
    }

    fn series(&mut self, suffix: &str, labels: &str, more: &str, value: impl fmt::Display) -> fmt::Result {
        let Exposition { out, name } = self;
        match (labels, more) {
            ("", "") => writeln!(out, "{name}{suffix} {value}"),
            ("", one) | (one, "") => writeln!(out, "{name}{suffix}{{{one}}} {value}"),
            (one, two) => writeln!(out, "{name}{suffix}{{{one},{two}}} {value}"),
        }
    }
}

impl Metric {
    /// As a TYPE line calls it.
    fn kind(&self) -> &'static str {
        match self {
            Metric::Counter(_) => "counter",
            Metric::Gauge(_) => "gauge",
            Metric::Histogram(_) => "histogram",
        }
    }
}

fn is_prometheus_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// Labels as the format writes them, without braces: `source="camera"`.
///
/// # Panics
/// If a key is no Prometheus name: keys are constants of the program.
#[must_use]
pub fn labels(labels: &[(&str, &str)]) -> String {
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
        let replaced = |source| {
            registry.counter("attendant_frames_replaced_total", "Frames that nobody took.", &[("source", source)])
        };
        replaced("camera").add(3);
        registry.gauge("attendant_queue_len", "Samples that wait.", &[]).set(2);
        replaced("a\"b").inc();
        let step = registry.histogram("attendant_step_seconds", "One step.", &[("stage", "encode")]);
        [10, 63, 64, 3_000_000].into_iter().for_each(|us| step.record(Micros(us)));
        // the same name and labels: the same counter
        replaced("camera").inc();
        let mut out = String::new();
        registry.write_prometheus(&mut out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        let plain = [
            "# HELP attendant_frames_replaced_total Frames that nobody took.",
            "# TYPE attendant_frames_replaced_total counter",
            "attendant_frames_replaced_total{source=\"camera\"} 4",
            "attendant_frames_replaced_total{source=\"a\\\"b\"} 1",
            "# HELP attendant_queue_len Samples that wait.",
            "# TYPE attendant_queue_len gauge",
            "attendant_queue_len 2",
            "# HELP attendant_step_seconds One step.",
            "# TYPE attendant_step_seconds histogram",
            "attendant_step_seconds_bucket{stage=\"encode\",le=\"0.000064\"} 2",
            "attendant_step_seconds_bucket{stage=\"encode\",le=\"0.000128\"} 3",
        ];
        assert_eq!(lines[..plain.len()], plain);
        let end = [
            "attendant_step_seconds_bucket{stage=\"encode\",le=\"2.097152\"} 3",
            "attendant_step_seconds_bucket{stage=\"encode\",le=\"+Inf\"} 4",
            "attendant_step_seconds_sum{stage=\"encode\"} 3.000137",
            "attendant_step_seconds_count{stage=\"encode\"} 4",
        ];
        assert_eq!(lines[lines.len() - end.len()..], end);
    }

    #[test]
    #[should_panic(expected = "attendant_x_total is registered as counter")]
    fn a_name_has_one_kind() {
        let registry = Registry::new();
        let _ = registry.counter("attendant_x_total", "x", &[]);
        let _ = registry.gauge("attendant_x_total", "x", &[]);
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
