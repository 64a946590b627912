//! What the server tells of the run: JSON of its state, of its telemetry, of its catalogue, and metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::json;

use crate::metrics::{Exposition, labels};
use crate::signal::{
    Advice, Choice, DecidedBy, Decision, DecisionState, ModalityState, ModalityView, RecorderCounts, RefusalKind,
    Snapshot, SourceView, StageCounters,
};
use crate::time::Micros;

use super::Shared;

/// An object whose keys keep their order: the bundle's.
struct Map<'a, T>(Vec<(&'a str, T)>);

impl<T: Serialize> Serialize for Map<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
        map.end()
    }
}

fn text(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and maps with text keys always serialize")
}

/// Four decimals are what a page can show.
fn round4(x: f32) -> f64 {
    (f64::from(x) * 1e4).round() / 1e4
}

#[derive(Serialize)]
struct Sensor<'a> {
    name: &'a str,
    open: bool,
}

/// Every source that watches or listens; open only if a device is.
fn sensors<'a>(shared: &'a Shared, sources: &'a [SourceView]) -> Vec<Sensor<'a>> {
    let mut sensors: Vec<Sensor<'a>> = Vec::new();
    for (_, source, _) in shared.facts.inputs.iter().filter(|(_, _, is_typed)| !is_typed) {
        if sensors.iter().all(|s| s.name != &**source) {
            let open = sources.iter().any(|s| s.open && s.name == *source);
            sensors.push(Sensor { name: source, open });
        }
    }
    // a device that no encoder listens to is open all the same
    let others = sources.iter().filter(|s| s.open && !shared.facts.inputs.iter().any(|(_, name, _)| *name == s.name));
    sensors.extend(others.map(|s| Sensor { name: &s.name, open: true }));
    sensors
}

#[derive(Serialize)]
struct Modality<'a> {
    state: ModalityState,
    reason: &'a str,
    age_ms: Option<u64>,
    source: &'a str,
}

#[derive(Serialize)]
struct Visit<'a> {
    active: bool,
    class: &'a str,
    p: f64,
    state: DecisionState,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<DecidedBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    intent: Option<&'a str>,
    advice: Option<&'a Advice>,
    choices: &'a [Choice],
}

impl<'a> Visit<'a> {
    fn of(decision: &'a Decision) -> Self {
        Visit {
            active: true,
            class: &decision.class,
            p: round4(decision.p),
            state: decision.state,
            by: decision.by,
            intent: decision.intent.as_deref(),
            advice: decision.advice.as_ref(),
            choices: &decision.choices,
        }
    }
}

#[derive(Serialize)]
struct State<'a> {
    v: u32,
    bundle: &'a str,
    board: &'a str,
    lang: &'a str,
    uptime_s: u64,
    ready: bool,
    preview: bool,
    tier: &'a str,
    fallback: bool,
    sensors: Vec<Sensor<'a>>,
    modalities: Map<'a, Modality<'a>>,
    visit: Option<Visit<'a>>,
    thresholds: Thresholds,
    seq: Option<u64>,
    /// What visitors are told of being seen and heard; without it there is no notice.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    notice: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Thresholds {
    enter: f64,
    exit: f64,
}

impl Thresholds {
    fn of(snapshot: &Snapshot) -> Self {
        Thresholds { enter: round4(snapshot.enter), exit: round4(snapshot.exit) }
    }
}

/// `GET /api/state`
pub(super) fn state(shared: &Shared) -> Vec<u8> {
    let snapshot = shared.monitor.read(Snapshot::clone);
    let ready = shared.why_stuck().is_none();
    let next = shared.ring().next();
    let view = shared.view();
    let inputs = shared.facts.inputs.iter().map(|(name, source, _)| {
        let seen = snapshot.modalities.iter().find(|m| m.name == *name);
        let state = seen.map_or(ModalityState::Absent, |m| m.state);
        let age_ms = seen.and_then(|m| m.age).map(Micros::as_ms);
        (&**name, Modality { state, reason: view.reason(name), age_ms, source })
    });
    let (modalities, about) = (inputs.collect(), shared.monitor.about());
    let visit = view.visit(snapshot.t).map(Visit::of);
    text(&State {
        v: 1,
        bundle: &about.bundle,
        board: shared.facts.board,
        lang: snapshot.lang.as_deref().unwrap_or("en"),
        uptime_s: shared.clock.now().as_ms() / 1000,
        ready,
        preview: shared.pictures.is_some(),
        tier: &shared.facts.tier,
        fallback: snapshot.is_fallback,
        sensors: sensors(shared, &snapshot.sources),
        modalities: Map(modalities),
        visit,
        thresholds: Thresholds::of(&snapshot),
        seq: next.checked_sub(1),
        notice: &shared.facts.notice,
    })
}

/// `GET /api/catalogue`
pub(super) fn catalogue(shared: &Shared) -> Vec<u8> {
    let lang = shared.monitor.read(|s| s.lang.clone());
    let mut catalogue = shared.monitor.about().texts.map_or(serde_json::Value::Null, |texts| texts.listing());
    if let Some(object) = catalogue.as_object_mut() {
        object.insert("lang".into(), json!(lang.as_deref().unwrap_or("en")));
    }
    text(&catalogue)
}

#[derive(Serialize)]
struct Part {
    weight: f64,
    contribution: f64,
    age_ms: Option<u64>,
    state: ModalityState,
}

impl Part {
    fn of(view: &ModalityView) -> Self {
        Part {
            weight: round4(view.weight),
            contribution: round4(view.contribution),
            age_ms: view.age.map(Micros::as_ms),
            state: view.state,
        }
    }
}

#[derive(Serialize)]
struct Dropped {
    dropped: u64,
}

#[derive(Serialize)]
struct Quantiles {
    p50_us: u64,
    p99_us: u64,
}

#[derive(Serialize)]
struct Telemetry<'a> {
    t_us: Micros,
    fused: Vec<f64>,
    classes: &'a [Arc<str>],
    modalities: Map<'a, Part>,
    thresholds: Thresholds,
    sensors: Vec<Sensor<'a>>,
    mel: Option<Vec<f64>>,
    queues: Map<'a, Dropped>,
    stages: Map<'a, Quantiles>,
    temperature_c: Option<f32>,
    rss_bytes: Option<u64>,
    clients: usize,
}

/// One frame of `GET /api/telemetry`
pub(super) fn telemetry(shared: &Shared) -> Vec<u8> {
    let s = shared.monitor.read(Snapshot::clone);
    let stages = shared.monitor.latencies.by_stage().map(|(name, h)| {
        let summary = h.summary();
        (name, Quantiles { p50_us: summary.p50_us, p99_us: summary.p99_us })
    });
    text(&Telemetry {
        t_us: s.t,
        fused: s.fused.iter().map(|p| round4(*p)).collect(),
        classes: &shared.facts.labels,
        modalities: Map(s.modalities.iter().map(|m| (&*m.name, Part::of(m))).collect()),
        thresholds: Thresholds::of(&s),
        sensors: sensors(shared, &s.sources),
        mel: (!s.mel.is_empty()).then(|| s.mel.iter().map(|x| (f64::from(*x) * 100.0).round() / 100.0).collect()),
        queues: Map(s.sources.iter().map(|q| (&*q.name, Dropped { dropped: q.dropped })).collect()),
        stages: Map(stages.into()),
        temperature_c: s.celsius,
        rss_bytes: resident_bytes(),
        clients: shared.counts.open_streams.taken(),
    })
}

/// Memory of this process that is resident; none where the kernel does not say.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// `GET /metrics`
///
/// # Errors
/// None in practice: it writes into a string.
pub(super) fn metrics(shared: &Shared) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(16 << 10);
    shared.registry.write_prometheus(&mut out)?;
    let snapshot = shared.monitor.read(Snapshot::clone);
    let mut e = Exposition::new(&mut out);
    e.family("attendant_build_info", "gauge", "What runs: bundle, board, int8 kernels.")?;
    let (facts, about) = (&shared.facts, shared.monitor.about());
    e.sample(&labels(&[("bundle", &about.bundle), ("board", facts.board), ("kernels", &facts.tier)]), 1)?;
    e.family("attendant_uptime_seconds", "gauge", "Time since the start of the process.")?;
    e.sample("", shared.clock.now().as_ms() / 1000)?;
    e.family("attendant_ready", "gauge", "Whether decisions can be made.")?;
    e.sample("", u8::from(shared.why_stuck().is_none()))?;
    e.family("attendant_events_total", "counter", "Events since the start.")?;
    e.sample("", shared.ring().next())?;
    e.family("attendant_visits_total", "counter", "Visits that have started.")?;
    e.sample("", snapshot.visits)?;
    e.family("attendant_fusion_errors_total", "counter", "Runs of the fusion that failed.")?;
    e.sample("", snapshot.fusion_errors)?;
    e.family("attendant_commands_total", "counter", "Commands carried out.")?;
    e.sample("", shared.commands.done())?;
    e.family("attendant_commands_refused_total", "counter", "Commands that were not carried out.")?;
    for kind in RefusalKind::ALL {
        e.sample(&labels(&[("reason", kind.word())]), shared.commands.refused(kind))?;
    }
    modalities(&mut e, &snapshot)?;
    sources(&mut e, &snapshot)?;
    if let Some(counts) = shared.monitor.recorder() {
        for (name, kind, help, of) in OF_RECORDER {
            e.family(name, kind, help)?;
            e.sample("", of(counts).load(Ordering::Relaxed))?;
        }
    }
    if let Some(celsius) = snapshot.celsius {
        e.family("attendant_temperature_celsius", "gauge", "Temperature of the hottest zone of the board.")?;
        e.sample("", celsius)?;
    }
    if let Some(bytes) = resident_bytes() {
        e.family("attendant_resident_memory_bytes", "gauge", "Memory of the process that is resident.")?;
        e.sample("", bytes)?;
    }
    e.family("attendant_stage_seconds", "histogram", "How long each stage took.")?;
    for (stage, histogram) in shared.monitor.latencies.by_stage() {
        e.histogram(&labels(&[("stage", stage)]), histogram)?;
    }
    Ok(out)
}

/// One family of counters and what it counts.
type Counted<T> = (&'static str, &'static str, fn(&T) -> u64);

const OF_MODALITIES: [Counted<StageCounters>; 6] = [
    ("attendant_windows_total", "Windows encoded.", |c| c.windows),
    ("attendant_samples_skipped_total", "Samples skipped because of the encoder's rate.", |c| c.skipped),
    ("attendant_windows_shed_total", "Windows left out because the board was too hot or too busy.", |c| c.shed),
    ("attendant_sample_errors_total", "Samples that could not be preprocessed or encoded.", |c| c.errors),
    ("attendant_source_faults_total", "Times the source reported a fault.", |c| c.faults),
    (
        "attendant_samples_muted_total",
        "Samples left out because the source was muted, or the device was talking.",
        |c| c.muted,
    ),
];

const OF_SOURCES: [Counted<SourceView>; 3] = [
    ("attendant_samples_dropped_total", "Samples dropped because the pipeline was behind.", |s| s.dropped),
    ("attendant_source_reopened_total", "Times the source was opened again after an error.", |s| s.reopened),
    ("attendant_source_panics_total", "Panics of the source's thread.", |s| s.panics),
];

/// A number of the recorder with its name, type and meaning.
type Recorded = (&'static str, &'static str, &'static str, fn(&RecorderCounts) -> &AtomicU64);

const OF_RECORDER: [Recorded; 5] = [
    ("attendant_recorder_bytes_total", "counter", "Bytes of messages recorded.", |c| &c.bytes),
    ("attendant_recorder_calls_lost_total", "counter", "Calls left out of the recording: the disk was behind.", |c| {
        &c.lost
    }),
    ("attendant_recordings_kept_total", "counter", "Recordings of what led to a decision.", |c| &c.kept),
    ("attendant_recordings_removed_total", "counter", "Of those, removed to make room.", |c| &c.removed),
    ("attendant_recorder_failed", "gauge", "1 once the recorder has given up.", |c| &c.failed),
];

const STATES: [(ModalityState, &str); 4] = [
    (ModalityState::Ok, "ok"),
    (ModalityState::Stale, "stale"),
    (ModalityState::Absent, "absent"),
    (ModalityState::Failed, "failed"),
];

fn modalities<W: fmt::Write>(e: &mut Exposition<'_, W>, snapshot: &Snapshot) -> fmt::Result {
    if snapshot.modalities.is_empty() {
        return Ok(());
    }
    e.family("attendant_modality_state", "gauge", "1 for the state that the modality is in.")?;
    for modality in &snapshot.modalities {
        for (state, word) in STATES {
            let labels = labels(&[("modality", &modality.name), ("state", word)]);
            e.sample(&labels, u8::from(modality.state == state))?;
        }
    }
    for (name, help, of) in OF_MODALITIES {
        e.family(name, "counter", help)?;
        for (modality, counters) in snapshot.modalities.iter().zip(&snapshot.counters) {
            e.sample(&labels(&[("modality", &modality.name)]), of(counters))?;
        }
    }
    Ok(())
}

fn sources<W: fmt::Write>(e: &mut Exposition<'_, W>, snapshot: &Snapshot) -> fmt::Result {
    if snapshot.sources.is_empty() {
        return Ok(());
    }
    e.family("attendant_device_open", "gauge", "Whether the source's device is open.")?;
    for source in &snapshot.sources {
        e.sample(&labels(&[("source", &source.name)]), u8::from(source.open))?;
    }
    for (name, help, of) in OF_SOURCES {
        e.family(name, "counter", help)?;
        for source in &snapshot.sources {
            e.sample(&labels(&[("source", &source.name)]), of(source))?;
        }
    }
    Ok(())
}

/// `GET /healthz`: a line for people.
pub(super) fn health(stuck: Option<&str>) -> String {
    stuck.map_or_else(|| "ok\n".to_owned(), |why| format!("not ready: {why}\n"))
}
