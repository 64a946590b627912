//! `attendant run`: the sources through the bundle, advice on the terminal or as JSON lines.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use attendant::bundle::Bundle;
use attendant::capture::recording::ring::RingSpec;
use attendant::capture::recording::{Recording, Repeated, Survey};
use attendant::capture::sensor::CsvSensor;
use attendant::capture::text::{LineText, ScriptText};
use attendant::capture::{Camera, Mic, Sensor, TextSource, image, video, wav};
use attendant::config::privacy::PrivacySpec;
use attendant::config::runtime::{ClockKind, LogLevel, Runtime, SinkKind, SourceKind, WebSpec};
use attendant::config::trust::{TrustSpec, UpdateSpec};
use attendant::emit::summary::{Seen, Segment};
use attendant::emit::{JsonLines, LiveView, LiveViewOptions, Sink};
use attendant::pipeline::{Options, Pipeline};
use attendant::signal::Detail;
use attendant::supervise::recorder::{BYTES_MAX, Keep, RecordSpec, Recorder};
use attendant::supervise::{self, Feed, FileFeed, LiveSource, Opener, Outcome, Pacing, SourceRestarts, Spoilt};
use attendant::time::{Clock, Micros, MonotonicClock};
use clap::Args;

use super::devices::{self, Devices};
use super::outside::{self, Asked, Visitors};
use super::{Common, Failure, privacy, record, update};

/// Arguments of `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArguments {
    /// Recording to play; without it and without sources, the bundle's demo
    pub(super) recording: Option<PathBuf>,
    /// Device configuration: sources, sinks, language (docs/config.md); options given here win
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Camera: /dev/..., auto, a picture, a directory of pictures, or a .y4m, .mjpeg, .avi video
    #[arg(long, value_name = "PATH", conflicts_with = "recording")]
    pub(super) camera: Option<PathBuf>,
    /// Microphone: an ALSA name such as hw:CARD=name, auto, default, or a .wav file
    #[arg(long, value_name = "PATH", conflicts_with = "recording")]
    pub(super) mic: Option<PathBuf>,
    /// Typed requests: a text file, a line every 5 s, or - for the terminal
    #[arg(long, value_name = "PATH", conflicts_with = "recording")]
    pub(super) text: Option<PathBuf>,
    /// Pictures per second of still pictures given as --camera
    #[arg(long, value_name = "HZ")]
    picture_hz: Option<f32>,
    /// 1 plays at real speed, max as fast as possible; the events are the same
    #[arg(long, value_name = "1|max")]
    speed: Option<Speed>,
    /// Play the recording so many times; times go on, and updates are taken as in a live run (docs/soak.md)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) repeat: Option<u32>,
    /// Spoil what is played by a seeded schedule of faults, for tests (docs/soak.md)
    #[arg(long, value_name = "SEED", hide = true)]
    faults: Option<u64>,
    /// Language of the advice
    #[arg(long, value_name = "TAG")]
    lang: Option<String>,
    /// Also write every event as a JSON line to this file
    #[arg(long, value_name = "FILE.jsonl")]
    pub(super) events: Option<PathBuf>,
    /// Record the run: everything that the pipeline is given and answers (docs/recordings.md)
    #[arg(long, value_name = "FILE.mcap")]
    pub(super) record: Option<PathBuf>,
    /// Record only what led to decisions: the last SECONDS before each, a file each, into the folder that --record names
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(super) record_ring: Option<u32>,
    /// Bytes on disk that a recording may take: it ends there, a ring removes its oldest
    #[arg(long, value_name = "BYTES")]
    pub(super) record_bytes: Option<u64>,
    /// Record no pictures, no sound and no text, only what the encoders make of them
    #[arg(long)]
    pub(super) record_tokens: bool,
    /// The outside as the configuration describes it.
    #[arg(skip)]
    pub(super) asked: Asked,
    /// Whose bundles are taken, and where new ones come from.
    #[arg(skip)]
    trust: TrustSpec,
    #[arg(skip)]
    pub(super) update: Option<UpdateSpec>,
    /// The device's own bundle, if it is named.
    #[arg(skip)]
    pub(super) own: Option<PathBuf>,
    /// Serve the page and its interface on this address (docs/http.md); one that others can reach needs a token, see --config
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:8080")]
    web: Option<SocketAddr>,
    /// `[privacy]` of the configuration.
    #[arg(skip)]
    pub(super) privacy: PrivacySpec,
    /// Sensors of the configuration: name and file.
    #[arg(skip)]
    pub(super) sensors: Vec<(String, PathBuf)>,
    /// Devices of the configuration and of the options.
    #[arg(skip)]
    pub(super) devices: Devices,
}

/// Pictures per second of still pictures, unless said otherwise.
const PICTURE_HZ: f32 = 5.0;

/// At full speed a still picture with nothing beside it is shown for this long.
const STILL: Micros = Micros::from_ms(2000);

/// Lines of a text file come this far apart.
const LINE_PERIOD: Micros = Micros::from_ms(5000);

/// How fast files are played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Speed {
    /// Real speed.
    #[value(name = "1")]
    Real,
    /// As fast as possible.
    Max,
}

/// Runs the command.
pub fn run(common: &Common, args: &RunArguments) -> Result<ExitCode, Failure> {
    let (common, args) = completed(common, args)?;
    run_with(&common, &args)
}

/// The command and its arguments, completed by the configuration.
pub(super) fn completed(common: &Common, args: &RunArguments) -> Result<(Common, RunArguments), Failure> {
    let mut args = args.clone();
    // the command line's devices come first, so that the configuration's do not take their place
    if let Some(device) = args.camera.take_if(|path| devices::is_camera(path)) {
        args.devices.add("camera", SourceKind::V4l2, Some(device.display().to_string()));
    }
    if let Some(device) = args.mic.take_if(|path| devices::is_mic(path)) {
        args.devices.add("mic", SourceKind::Alsa, Some(device.display().to_string()));
    }
    let (common, mut args) = match args.config.clone() {
        None => (Common { bundle: common.bundle.clone(), json: common.json }, args),
        Some(path) => configured(common, &args, &path)?,
    };
    args.asked.web = web_of(&args)?;
    Ok((common, args))
}

/// The arguments, completed by the configuration in `path`.
fn configured(common: &Common, args: &RunArguments, path: &Path) -> Result<(Common, RunArguments), Failure> {
    let runtime = Runtime::read(path)?;
    let mut args = args.clone();
    log::set_max_level(match runtime.log {
        LogLevel::Off => log::LevelFilter::Off,
        LogLevel::Error => log::LevelFilter::Error,
        LogLevel::Warn => log::LevelFilter::Warn,
        LogLevel::Info => log::LevelFilter::Info,
        LogLevel::Debug => log::LevelFilter::Debug,
        LogLevel::Trace => log::LevelFilter::Trace,
    });
    args.lang.get_or_insert(runtime.language.0);
    args.speed.get_or_insert(match runtime.clock {
        ClockKind::Real => Speed::Real,
        ClockKind::Max => Speed::Max,
    });
    args.devices.outputs = runtime.output;
    args.devices.indicator = runtime.indicator.map(|i| i.line);
    args.devices.mute = runtime.privacy.mute.as_ref().map(|m| m.line.clone());
    args.asked = Asked {
        web: runtime.web,
        mqtt: runtime.mqtt,
        speech: runtime.speech,
        notice: runtime.privacy.notice.clone(),
        ..Asked::default()
    };
    args.privacy = runtime.privacy;
    if let (Some(recording), None) = (runtime.recording, &args.record) {
        args.record = Some(recording.dir);
        args.record_ring = Some(recording.ring_s);
        args.record_bytes = Some(recording.bytes_max);
        args.record_tokens = !recording.media;
    }
    (args.trust, args.update) = (runtime.trust, runtime.update);
    args.own = common.bundle.clone().or_else(|| runtime.bundle.clone());
    for (name, source) in runtime.source {
        let is_given = match name.as_str() {
            "camera" => args.camera.is_some(),
            "mic" => args.mic.is_some(),
            _ => false,
        };
        if is_given || args.devices.sources.iter().any(|(given, _)| *given == name) {
            continue;
        }
        if source.kind.is_device() {
            args.devices.sources.push((name, source));
            continue;
        }
        let file = source.path.unwrap_or_else(|| "-".into());
        match source.kind {
            SourceKind::Recording => {
                if args.recording.get_or_insert_with(|| file.clone()) != &file {
                    let message = format!("{}: source.{name}: all recordings must be the same file", path.display());
                    return Err(Failure::Usage(message));
                }
            }
            SourceKind::Image | SourceKind::Video => {
                args.camera.get_or_insert(file);
                args.picture_hz = args.picture_hz.or(source.rate_hz);
            }
            SourceKind::Wav => _ = args.mic.get_or_insert(file),
            SourceKind::Stdin => _ = args.text.get_or_insert(file),
            SourceKind::Csv => args.sensors.push((name, file)),
            SourceKind::V4l2 | SourceKind::Command | SourceKind::Alsa | SourceKind::Lm75 | SourceKind::Gpio => {
                unreachable!("devices are collected above")
            }
        }
    }
    if args.recording.is_some() && (args.has_files() || !args.devices.is_empty()) {
        let message = format!("{}: a recording plays alone; remove it, or the other sources", path.display());
        return Err(Failure::Usage(message));
    }
    let mut json = common.json;
    for sink in runtime.sink {
        match (sink.kind, sink.path.as_os_str() == "-") {
            (SinkKind::Jsonl, true) => json = true,
            (SinkKind::Jsonl, false) => _ = args.events.get_or_insert(sink.path),
            (SinkKind::View, _) => {}
        }
    }
    Ok((Common { bundle: common.bundle.clone().or(runtime.bundle), json }, args))
}

impl RunArguments {
    /// The same, recorded to `path`.
    pub fn recorded_to(&self, path: &Path) -> Self {
        RunArguments { record: Some(path.to_owned()), ..self.clone() }
    }

    /// Whether text comes from a terminal or from devices: what is live.
    pub(super) fn is_live(&self) -> bool {
        self.text.as_deref() == Some(Path::new("-")) || !self.devices.is_empty()
    }

    /// Whether new bundles are taken: a recording that is played once is to say the same every time.
    pub(super) fn takes_updates(&self) -> bool {
        self.is_live() || self.repeat.is_some()
    }

    /// How fast files are played.
    fn pacing(&self) -> Pacing {
        if self.speed == Some(Speed::Max) { Pacing::Max } else { Pacing::RealTime }
    }

    /// Whether a recording is asked for.
    pub fn is_recorded(&self) -> bool {
        self.record.is_some()
    }

    pub(super) fn record_spec(&self) -> Option<RecordSpec> {
        let bytes_max = self.record_bytes.unwrap_or(BYTES_MAX);
        let keep = match self.record_ring {
            None => Keep::Whole { bytes_max },
            Some(s) => Keep::Ring(RingSpec { length: Micros::from_ms(u64::from(s) * 1000), bytes_max }),
        };
        let detail = if self.record_tokens { Detail::Tokens } else { Detail::Samples };
        let age_max = self.privacy.recordings_age_h_max.map(|hours| Duration::from_secs(3600 * u64::from(hours)));
        // nothing depends on when a file is done with
        let waits = !self.is_live() && self.pacing() == Pacing::Max;
        Some(RecordSpec { path: self.record.clone()?, detail, keep, age_max, waits })
    }

    pub(super) fn has_files(&self) -> bool {
        self.camera.is_some() || self.mic.is_some() || self.text.is_some() || !self.sensors.is_empty()
    }
}

fn run_with(common: &Common, args: &RunArguments) -> Result<ExitCode, Failure> {
    if args.record.is_none() && (args.record_ring.is_some() || args.record_bytes.is_some() || args.record_tokens) {
        let message = "--record-ring, --record-bytes and --record-tokens say how --record PATH records; add it";
        return Err(Failure::Usage(message.into()));
    }
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let from_terminal = args.text.as_deref() == Some(Path::new("-"));
    let is_live = args.is_live();
    if (is_live || args.has_files()) && args.repeat.is_some() || is_live && args.faults.is_some() {
        return Err(Failure::Usage("--repeat goes with a recording, --faults with a recording or files".into()));
    }
    let source = update::choose(common, &args.trust, args.update.as_ref(), args.takes_updates())?;
    let bundle = source.bundle.clone();
    let mut options = Options::default();
    if let Some(lang) = &args.lang {
        options.lang.clone_from(lang);
    }
    log::info!("int8 kernels: {}", attendant::infer::kernel_tier()?);
    let mut pipeline = Pipeline::load(&bundle, &options)?;
    let stop = stop_on_signal()?;
    let asked = Asked { sandbox: privacy::enter(args, &bundle)?, ..args.asked.clone() };
    if is_live {
        if args.speed == Some(Speed::Max) {
            let what = if from_terminal { "--text - waits for a person" } else { "devices deliver at their own speed" };
            return Err(Failure::Usage(format!("--speed max: {what}; give files, or leave --speed out")));
        }
        let mut visitors = outside::open(&asked, &pipeline, &clock)?;
        let recorder = recorder_of(args, &bundle, &options, &mut pipeline, &clock, &mut visitors)?;
        let updater = source.start(&options, &clock, &mut visitors)?;
        let result = run_live(common, args, &mut pipeline, &clock, &stop, visitors);
        drop(updater);
        let recorded = recorder.map_or(Ok(()), |recorder| record::finish(recorder, &mut pipeline));
        return result.and_then(|code| recorded.map(|()| code));
    }
    if args.devices.has_lines() {
        let message = "[[output]], [indicator] and [privacy.mute] follow devices; add a source of kind v4l2, command, alsa, lm75 or gpio";
        return Err(Failure::Usage(message.into()));
    }
    let mut seen = Seen::default();
    let (mut feed, segments) = feed_of(args, &bundle)?;
    let mut visitors = outside::open(&asked, &pipeline, &clock)?;
    let recorder = recorder_of(args, &bundle, &options, &mut pipeline, &clock, &mut visitors)?;
    let updater = if args.repeat.is_some() { source.start(&options, &clock, &mut visitors)? } else { None };
    let outcome = {
        // what goes on for days shows nothing at the end, so nothing is kept
        let mut sinks = sinks(common, args, args.repeat.is_none().then_some(&mut seen))?;
        for sink in visitors.sinks.drain(..) {
            sinks.push(sink);
        }
        supervise::play(&mut *feed, &mut pipeline, &*clock, args.pacing(), &mut sinks, &stop, &visitors.outside)
    };
    drop(updater);
    let recorded = recorder.map_or(Ok(()), |recorder| record::finish(recorder, &mut pipeline));
    let code = finish(common, args, &pipeline, &segments, &seen, &outcome?)?;
    recorded.map(|()| code)
}

/// What is played, and what its author says is shown when.
fn feed_of(args: &RunArguments, bundle: &Bundle) -> Result<(Box<dyn Feed>, Vec<Segment>), Failure> {
    let mut segments = Vec::new();
    let feed: Box<dyn Feed> = if args.has_files() {
        Box::new(files(args)?)
    } else {
        let path = recording_of(args, bundle)?;
        match args.repeat {
            Some(times) => Box::new(Repeated::open(&path, times)?),
            None => {
                segments = super::segments(&Survey::of(&path)?);
                Box::new(Recording::open(&path)?)
            }
        }
    };
    let Some(seed) = args.faults else { return Ok((feed, segments)) };
    // its times are no longer those that were stated
    Ok((Box::new(Spoilt::new(feed, seed)), Vec::new()))
}

/// The recorder that `--record` asks for, started.
fn recorder_of(
    args: &RunArguments,
    bundle: &Bundle,
    options: &Options,
    pipeline: &mut Pipeline,
    clock: &Arc<dyn Clock>,
    visitors: &mut Visitors,
) -> Result<Option<Recorder>, Failure> {
    let Some(spec) = args.record_spec() else { return Ok(None) };
    let notices = visitors.outside.notices.get_or_insert_default();
    let recorder = record::start(&spec, bundle, &options.lang, pipeline, clock, notices)?;
    if let Some(monitor) = &visitors.outside.monitor {
        monitor.show_recorder(recorder.counts());
    }
    Ok(Some(recorder))
}

/// What the option and the configuration say of the page together: the option's address wins, and has to be as safe.
fn web_of(args: &RunArguments) -> Result<Option<WebSpec>, Failure> {
    let mut spec = args.asked.web.clone();
    if let Some(listen) = args.web {
        let spec = spec.get_or_insert_default();
        spec.listen = listen;
        spec.check().map_err(|(_, message)| Failure::Usage(format!("--web: {message}")))?;
    }
    Ok(spec)
}

/// The recording to play when no source is given.
pub(super) fn recording_of(args: &RunArguments, bundle: &Bundle) -> Result<PathBuf, Failure> {
    match (&args.recording, bundle.demo()) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(path)) if path.exists() => Ok(path),
        (None, Some(path)) => Err(Failure::Usage(format!(
            "{} is not there, a device's copy of the bundle leaves it out; name a recording, or sources with --camera, --mic, --text",
            path.display()
        ))),
        (None, None) => Err(Failure::Usage(format!(
            "bundle {} has no demo recording; name a recording, or sources with --camera, --mic, --text",
            bundle.id
        ))),
    }
}

fn open_camera(path: &Path, picture_hz: f32) -> Result<Box<dyn Camera>, attendant::capture::CaptureError> {
    Ok(if super::is_video(path) {
        Box::new(video::VideoCamera::open(path)?)
    } else {
        Box::new(image::ImageCamera::open(path, picture_hz)?)
    })
}

fn files(args: &RunArguments) -> Result<FileFeed, Failure> {
    let mut feed = FileFeed::default();
    if let Some(path) = &args.camera {
        feed.camera("camera", open_camera(path, args.picture_hz.unwrap_or(PICTURE_HZ))?);
    }
    if let Some(path) = &args.mic {
        feed.mic("mic", Box::new(wav::WavMic::open(path, super::BLOCK_MS)?));
    }
    if let Some(path) = &args.text {
        feed.text("text", Box::new(ScriptText::open(path, LINE_PERIOD)?));
    }
    for (name, path) in &args.sensors {
        feed.sensor(name, Box::new(CsvSensor::open(path)?));
    }
    if args.speed == Some(Speed::Max) {
        feed.stills_until(STILL);
    }
    Ok(feed)
}

/// Devices, files beside them, a terminal: every source on a thread of its own.
fn run_live(
    common: &Common,
    args: &RunArguments,
    pipeline: &mut Pipeline,
    clock: &Arc<dyn Clock>,
    stop: &AtomicBool,
    mut visitors: Visitors,
) -> Result<ExitCode, Failure> {
    let mut sources = args.devices.sources(clock)?;
    if let Some(path) = args.camera.clone() {
        let hz = args.picture_hz.unwrap_or(PICTURE_HZ);
        open_camera(&path, hz)?;
        let opener = Opener::Camera(Box::new(move || open_camera(&path, hz)));
        sources.push(LiveSource { name: "camera".into(), paced: true, opener });
    }
    if let Some(path) = args.mic.clone() {
        wav::WavMic::open(&path, super::BLOCK_MS)?;
        let opener =
            Opener::Mic(Box::new(move || Ok(Box::new(wav::WavMic::open(&path, super::BLOCK_MS)?) as Box<dyn Mic>)));
        sources.push(LiveSource { name: "mic".into(), paced: true, opener });
    }
    for (name, path) in args.sensors.clone() {
        let open = move || Ok(Box::new(CsvSensor::open(&path)?) as Box<dyn Sensor>);
        sources.push(LiveSource { name: name.into(), paced: true, opener: Opener::Sensor(Box::new(open)) });
    }
    match args.text.clone() {
        Some(path) if path.as_os_str() != "-" => {
            ScriptText::open(&path, LINE_PERIOD)?;
            let open = move || Ok(Box::new(ScriptText::open(&path, LINE_PERIOD)?) as Box<dyn TextSource>);
            sources.push(LiveSource { name: "text".into(), paced: true, opener: Opener::Text(Box::new(open)) });
        }
        Some(_) => {
            let reader_clock = Arc::clone(clock);
            let opener = Opener::Text(Box::new(move || {
                Ok(Box::new(LineText::new("stdin", io::stdin(), Arc::clone(&reader_clock))) as Box<dyn TextSource>)
            }));
            sources.push(LiveSource { name: "text".into(), paced: false, opener });
        }
        None => {}
    }
    let seen = Seen::default();
    let outcome = {
        // nothing is shown at the end, so nothing is kept: a device runs for months
        let mut sinks = sinks(common, args, None)?;
        for sink in args.devices.sinks()? {
            sinks.push(sink);
        }
        for sink in visitors.sinks.drain(..) {
            sinks.push(sink);
        }
        supervise::live(sources, pipeline, clock, &mut sinks, stop, &mut devices::upkeep(visitors.outside.clone()))?
    };
    if !outcome.failed_sources.is_empty() {
        return Err(Failure::Sources(format!("failed for good: {}", outcome.failed_sources.join(", "))));
    }
    finish(common, args, pipeline, &[], &seen, &outcome)
}

/// Where events go: the terminal or stdout, the file, and the memory for the summary.
fn sinks<'a>(
    common: &Common,
    args: &RunArguments,
    seen: Option<&'a mut Seen>,
) -> Result<Vec<Box<dyn Sink + 'a>>, Failure> {
    let mut sinks: Vec<Box<dyn Sink + 'a>> = Vec::new();
    if let Some(seen) = seen {
        sinks.push(Box::new(seen));
    }
    if common.json {
        sinks.push(Box::new(JsonLines::new("stdout", io::stdout())));
    } else {
        sinks.push(Box::new(LiveView::new(io::stdout(), LiveViewOptions::for_terminal(io::stdout().is_terminal()))));
    }
    if let Some(path) = &args.events {
        let failed = |source| Failure::Output { path: path.display().to_string(), source };
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        sinks.push(Box::new(JsonLines::new(path.display().to_string(), file)));
    }
    Ok(sinks)
}

/// Says what was shown, what was decided, and what it took: on stderr with `--json`, so that stdout stays events.
fn finish(
    common: &Common,
    args: &RunArguments,
    pipeline: &Pipeline,
    segments: &[Segment],
    seen: &Seen,
    outcome: &Outcome,
) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    if !segments.is_empty() {
        let options = LiveViewOptions::for_terminal(io::stdout().is_terminal() && !common.json);
        let summary = seen.summary(segments, outcome.duration);
        text = format!("\n{}\n", summary.render(options.width.unwrap_or(100), options.color));
    }
    text.push_str(&cost(outcome));
    for (name, c) in pipeline.counters().filter(|(_, c)| c.errors + c.faults > 0) {
        text.push_str(&format!("{name}: {} windows, {} unusable samples, {} faults\n", c.windows, c.errors, c.faults));
    }
    for r in outcome.restarts.iter().filter(|r| r.reopened + r.panics + r.dropped > 0) {
        let SourceRestarts { source, reopened, panics, dropped } = r;
        text.push_str(&format!("{source}: reopened {reopened} times, {panics} panics, {dropped} samples dropped\n"));
    }
    if common.json {
        eprint!("{text}");
    } else {
        io::stdout().write_all(text.as_bytes()).map_err(Failure::stdout)?;
    }
    if outcome.lost_events > 0 {
        let file = args.events.as_ref().map_or("stdout".into(), |p| p.display().to_string());
        return Err(Failure::Lost { file, events: outcome.lost_events });
    }
    Ok(ExitCode::SUCCESS)
}

/// Latency and memory, in a line.
fn cost(outcome: &Outcome) -> String {
    let ms = |us: u64| us as f64 / 1e3;
    let latency = &outcome.decision_latency;
    let memory = super::doctor::peak_memory_kb().map_or("unknown".into(), |kb| format!("{:.1} MB", kb as f64 / 1e3));
    let first = outcome.first_decision.map_or("none".into(), |t| format!("after {:.3} s", ms(t.0) / 1e3));
    format!(
        "{} samples in {:.1} s; sample to event p99 {:.1} ms, to decision p99 {:.1} ms; first decision {first}; peak memory {memory}\n",
        outcome.samples,
        ms(outcome.duration.0) / 1e3,
        ms(outcome.sample_latency.p99_us),
        ms(latency.p99_us),
    )
}

/// A flag that SIGINT and SIGTERM set, so that a run ends with its summary.
fn stop_on_signal() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // the second signal ends the process at once, whatever hangs
        let armed = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)));
        armed.map_err(|source| Failure::Output { path: "signal handler".into(), source })?;
    }
    Ok(stop)
}
