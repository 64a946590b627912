//! One step from samples to events: preprocess, encode, fuse, decide, advise.
//!
//! Called by the supervisor with samples and the time, and by `eval` and `bench` one input at a time. It has no thread and
//! no clock: the same samples at the same times give the same events. After warm-up it allocates nothing of its own.

mod tokens;
mod trace;

use std::sync::Arc;

use log::{debug, info, warn};

use crate::board::{BOARD, Kind};
use crate::bundle::{Bundle, Intents};
use crate::config::ConfigError;
use crate::decide::advice::{self, Catalogue, Known, Lang, UnknownLanguage};
use crate::decide::trace::Trace;
use crate::decide::{self, Choosable, FusedView, Policy, Verdict};
use crate::fuse::{Fused, Fusion, FusionShape, TokenView};
use crate::heads::{Head, HeadError, Port};
use crate::infer::{Dtype, Encoder as _, InferError, OnnxEncoder};
use crate::metrics::Histogram;
use crate::preprocess::{
    AudioPreprocessor, ImagePreprocessor, JpegDecoding, PreprocessError, SeriesPreprocessor, TextPreprocessor,
};
use crate::signal::{
    Call, Command, Embedding, Event, EventKind, Frame, Latencies, MAX_MODALITIES, MUTED, ModalityState, ModalityView,
    Monitor, Refusal, RefusalKind, SCHEMA_VERSION, Sample, Snapshot, TEXT_CHARS_MAX, Tape, Tensor, Utterance,
};
use crate::time::Micros;

use tokens::{Answers, likeliest};

pub use crate::signal::StageCounters;

mod succession;

pub use succession::Health;

/// Without a fresh token, the state is looked at this often: a silent source becomes stale, a typed line matures.
pub const TICK: Micros = Micros::from_ms(100);

/// The source whose utterances are typed, whether at a terminal or on a page.
pub const TYPED: &str = "text";

/// A bundle whose parts do not fit together, or an input that an encoder cannot take.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A value of the manifest that preprocessing cannot work with.
    #[error("{bundle}/bundle.toml: encoder {encoder}: {source}")]
    Preprocess {
        /// The bundle's directory.
        bundle: String,
        /// The encoder.
        encoder: String,
        /// Why.
        source: PreprocessError,
    },
    /// A model that cannot be loaded, does not fit the manifest, or fails on an input.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A part of the bundle that cannot be read or used.
    #[error(transparent)]
    Bundle(#[from] crate::bundle::BundleError),
    /// The decision rules.
    #[error("{bundle}/bundle.toml: {source}")]
    Policy {
        /// The bundle's directory.
        bundle: String,
        /// Why.
        source: decide::PolicyError,
    },
    /// The advice catalogue.
    #[error(transparent)]
    Catalogue(#[from] ConfigError),
    /// A language that the catalogue does not have.
    #[error("{catalogue}: {source}")]
    Language {
        /// The catalogue's file.
        catalogue: String,
        /// Why.
        source: UnknownLanguage,
    },
    /// A head that does not fit its model or its files.
    #[error("{bundle}/bundle.toml: encoder {encoder}: {source}")]
    Head {
        /// The bundle's directory.
        bundle: String,
        /// The encoder.
        encoder: String,
        /// Why.
        source: HeadError,
    },
    /// Encoders, fusion and labels that do not fit each other.
    #[error("{bundle}/bundle.toml: {reason}")]
    Mismatch {
        /// The bundle's directory.
        bundle: String,
        /// What does not fit, and the next step.
        reason: String,
    },
    /// An input that cannot be preprocessed.
    #[error("{encoder}: {source}")]
    Input {
        /// The encoder.
        encoder: String,
        /// Why.
        source: PreprocessError,
    },
    /// A recorded token that this bundle cannot take.
    #[error("a recorded token of encoder {encoder}: {reason}; replay it with the bundle that it was made with")]
    Token {
        /// The encoder.
        encoder: String,
        /// What does not fit.
        reason: String,
    },
    /// An input of one kind for an encoder of another.
    #[error("encoder {encoder} takes {expected}, not {given}")]
    WrongInput {
        /// The encoder.
        encoder: String,
        /// The kind of its preprocessing.
        expected: &'static str,
        /// The kind of the input.
        given: &'static str,
    },
}

/// One whole input for [`Pipeline::encode`].
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A picture.
    Frame(&'a Frame),
    /// A clip of mono sound, which becomes one window.
    Clip {
        /// The samples.
        samples: &'a [f32],
        /// Samples per second.
        rate_hz: u32,
    },
    /// A text.
    Text(&'a str),
}

impl Input<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Input::Frame(_) => "image",
            Input::Clip { .. } => "audio",
            Input::Text(_) => "text",
        }
    }
}

enum Preprocessor {
    Image(Box<ImagePreprocessor>),
    Audio(Box<AudioPreprocessor>),
    Text(Box<TextPreprocessor>),
    Series(Box<SeriesPreprocessor>),
}

impl Preprocessor {
    fn kind(&self) -> &'static str {
        match self {
            Preprocessor::Image(_) => "image",
            Preprocessor::Audio(_) => "audio",
            Preprocessor::Text(_) => "text",
            Preprocessor::Series(_) => "series",
        }
    }

    /// Zeros of the shape and type that it fills.
    fn tensor(&self) -> Tensor {
        match self {
            Preprocessor::Image(p) => Tensor::zeros_f32(p.shape()),
            Preprocessor::Audio(p) => Tensor::zeros_f32(p.shape()),
            Preprocessor::Text(p) => Tensor::zeros_i64(p.shape()),
            Preprocessor::Series(p) => Tensor::zeros_f32(p.shape()),
        }
    }
}

/// One modality: its preprocessing, its encoder, its last token.
struct Stage {
    name: Arc<str>,
    source: Arc<str>,
    preprocessor: Preprocessor,
    /// Equal for preprocessors that make the same tensors.
    preprocessing: String,
    encoder: OnnxEncoder,
    head: Option<Head>,
    input: Tensor,
    embedding: Embedding,
    /// Shortest time between two runs.
    period: Micros,
    /// Age from which the token no longer takes part.
    max_age: Micros,
    last_run: Option<Micros>,
    /// One of so many windows is encoded, and which one is next.
    divisor: u32,
    turn: u32,
    has_token: bool,
    fault: Option<Arc<str>>,
    last_error: Option<Arc<str>>,
    /// Whose doing it is if there is no token.
    blame: succession::Blame,
    counters: StageCounters,
    /// Its samples are left out, and whether that has been told.
    is_muted: bool,
    /// The device itself is talking.
    is_hushed: bool,
    told: Option<&'static str>,
}

/// Measures the stages for an observer. The clock is the caller's: the pipeline has none.
#[derive(Clone)]
struct Meter {
    monitor: Arc<Monitor>,
    now_ns: fn() -> u64,
}

/// Runs `work`; with a meter, records how long it took in the histogram that `of` picks.
fn timed<T>(meter: Option<&Meter>, of: fn(&Latencies) -> &Histogram, work: impl FnOnce() -> T) -> T {
    let Some(meter) = meter else { return work() };
    let began = (meter.now_ns)();
    let result = work();
    meter.record(of, began);
    result
}

impl Meter {
    fn record(&self, of: fn(&Latencies) -> &Histogram, began_ns: u64) {
        of(&self.monitor.latencies).record(Micros((self.now_ns)().saturating_sub(began_ns) / 1000));
    }
}

/// Why a sample gave no token.
enum StageError {
    Preprocess(PreprocessError),
    Infer(InferError),
}

impl std::fmt::Display for StageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StageError::Preprocess(e) => e.fmt(f),
            StageError::Infer(e) => e.fmt(f),
        }
    }
}

impl Stage {
    fn load(bundle: &Bundle, index: usize) -> Result<Self, PipelineError> {
        let spec = &bundle.manifest.encoder[index];
        let at = |source| PipelineError::Preprocess {
            bundle: bundle.dir.display().to_string(),
            encoder: spec.name.clone(),
            source,
        };
        let mut preprocessing = format!("{:?} {:?} {:?} {:?}", spec.image, spec.audio, spec.text, spec.series);
        let fusion_age = bundle.manifest.fusion.as_ref().map_or(1500, |f| f.max_age_ms);
        let (preprocessor, max_age_ms) = if let Some(image) = &spec.image {
            (Preprocessor::Image(Box::new(ImagePreprocessor::new(image).map_err(at)?)), fusion_age)
        } else if let Some(audio) = &spec.audio {
            (Preprocessor::Audio(Box::new(AudioPreprocessor::new(audio).map_err(at)?)), fusion_age)
        } else if let Some(text) = &spec.text {
            let tokenizer = bundle.tokenizer(index)?.unwrap_or_default();
            preprocessing.push_str(&crate::bundle::digest::of_bytes(&tokenizer));
            let preprocessor = TextPreprocessor::new(text, &tokenizer).map_err(at)?;
            (Preprocessor::Text(Box::new(preprocessor)), text.hold_ms)
        } else if let Some(series) = &spec.series {
            (Preprocessor::Series(Box::new(SeriesPreprocessor::new(series).map_err(at)?)), fusion_age)
        } else {
            unreachable!("Bundle::open lets no encoder without preprocessing through")
        };
        let input = preprocessor.tensor();
        let encoder = OnnxEncoder::load(spec, &bundle.dir, Dtype::of(&input), &input.shape, bundle.labels.len())?;
        let head = load_head(bundle, index, &encoder)?;
        let period = spec.rate_hz.map_or(Micros::ZERO, |hz| Micros((1e6 / f64::from(hz)) as u64));
        Ok(Stage {
            name: spec.name.as_str().into(),
            source: spec.source.as_str().into(),
            preprocessor,
            preprocessing,
            encoder,
            head,
            input,
            embedding: Embedding::default(),
            // a camera's timestamps jitter: a frame that comes a little early is still the one to take
            period: Micros(period.0 * 3 / 4),
            max_age: Micros::from_ms(max_age_ms.into()),
            last_run: None,
            divisor: 1,
            turn: 0,
            has_token: false,
            fault: None,
            last_error: None,
            blame: succession::Blame::default(),
            counters: StageCounters::default(),
            is_muted: false,
            is_hushed: false,
            told: None,
        })
    }

    /// Hands the stage a sample of its source. Windows of sound and series are fetched by [`Stage::advance`] afterwards.
    fn offer(&mut self, sample: &Sample, meter: Option<&Meter>) -> Result<bool, StageError> {
        self.blame.offered(sample.t());
        if self.left_out().is_some() {
            self.counters.muted += 1;
            return Ok(false);
        }
        match (&mut self.preprocessor, sample) {
            (Preprocessor::Image(p), Sample::Frame(frame)) => {
                if self.last_run.is_some_and(|last| frame.t >= last && frame.t - last < self.period) {
                    self.counters.skipped += 1;
                    return Ok(false);
                }
                self.last_run = Some(frame.t);
                self.turn = (self.turn + 1) % self.divisor;
                if self.turn != 0 {
                    self.counters.shed += 1;
                    return Ok(false);
                }
                timed(meter, |l| &l.preprocess, || p.run(frame, &mut self.input)).map_err(StageError::Preprocess)?;
                self.encode(frame.t, meter).map(|()| true)
            }
            (Preprocessor::Text(p), Sample::Text(utterance)) => {
                timed(meter, |l| &l.preprocess, || p.run(&utterance.text, &mut self.input))
                    .map_err(StageError::Preprocess)?;
                self.encode(utterance.t, meter).map(|()| true)
            }
            (Preprocessor::Audio(p), Sample::Audio(block)) => {
                let breaks = p.gaps() + p.skipped();
                p.push(block).map_err(StageError::Preprocess)?;
                if p.gaps() + p.skipped() != breaks {
                    self.restart(block.t);
                }
                self.advance(meter)
            }
            (Preprocessor::Series(p), Sample::Reading(reading)) => {
                let breaks = p.gaps() + p.skipped();
                p.push(reading).map_err(StageError::Preprocess)?;
                if p.gaps() + p.skipped() != breaks {
                    self.restart(reading.t);
                }
                self.advance(meter)
            }
            _ => Ok(false),
        }
    }

    /// Encodes the next window that is complete, if there is one.
    fn advance(&mut self, meter: Option<&Meter>) -> Result<bool, StageError> {
        // a look that finds no window is not measured: it would be most of them
        let began = meter.map(|m| (m.now_ns)());
        let end = match &mut self.preprocessor {
            Preprocessor::Audio(p) => p.next_window(&mut self.input).map_err(StageError::Preprocess)?,
            Preprocessor::Series(p) => p.next_window(&mut self.input),
            Preprocessor::Image(_) | Preprocessor::Text(_) => None,
        };
        let Some(t) = end else { return Ok(false) };
        if let (Some(meter), Some(began)) = (meter, began) {
            meter.record(|l| &l.preprocess, began);
        }
        self.turn = (self.turn + 1) % self.divisor;
        if self.turn != 0 {
            self.counters.shed += 1;
            // the next window may be complete too
            return self.advance(meter);
        }
        self.encode(t, meter).map(|()| true)
    }

    /// What comes next does not continue what came before: nothing is carried over.
    fn restart(&mut self, now: Micros) {
        self.encoder.reset_state();
        if let Some(head) = &mut self.head {
            head.restart(now);
        }
    }

    /// Why its samples are left out, if they are.
    fn left_out(&self) -> Option<&'static str> {
        if self.is_muted {
            Some(MUTED)
        } else if self.is_hushed {
            Some("speaking")
        } else {
            None
        }
    }

    fn is_text(&self) -> bool {
        matches!(self.preprocessor, Preprocessor::Text(_))
    }

    /// The newest column of log-mel features, if it makes any and has.
    fn newest_column(&self) -> Option<&[f32]> {
        match &self.preprocessor {
            Preprocessor::Audio(p) => p.newest_column(),
            _ => None,
        }
    }

    fn takes(&self, kind: Kind) -> bool {
        matches!(
            (kind, &self.preprocessor),
            (Kind::Image, Preprocessor::Image(_))
                | (Kind::Audio, Preprocessor::Audio(_))
                | (Kind::Series, Preprocessor::Series(_))
        )
    }

    fn encode(&mut self, t: Micros, meter: Option<&Meter>) -> Result<(), StageError> {
        timed(meter, |l| &l.encode, || self.encoder.encode(&self.input, t, &mut self.embedding))
            .map_err(StageError::Infer)?;
        if let Some(head) = &mut self.head {
            let placement = if let Preprocessor::Image(p) = &self.preprocessor { p.placement() } else { None };
            head.run(self.encoder.outputs(), t, placement);
        }
        self.accept();
        Ok(())
    }

    /// The embedding is a fresh token.
    fn accept(&mut self) {
        self.has_token = true;
        self.fault = None;
        self.last_error = None;
        self.counters.windows += 1;
    }

    fn age(&self, now: Micros) -> Option<Micros> {
        self.has_token.then(|| now.since(self.embedding.t))
    }

    fn state(&self, now: Micros) -> ModalityState {
        if self.left_out().is_some() {
            return ModalityState::Absent;
        }
        if self.fault.is_some() {
            return ModalityState::Failed;
        }
        match self.age(now) {
            Some(age) if age <= self.max_age => ModalityState::Ok,
            _ if self.last_error.is_some() => ModalityState::Failed,
            // nobody types all the time: a request that has had its time is over, not overdue
            Some(_) if self.is_text() => ModalityState::Absent,
            Some(_) => ModalityState::Stale,
            None => ModalityState::Absent,
        }
    }

    fn reason(&self, state: ModalityState) -> Arc<str> {
        match state {
            ModalityState::Failed => {
                self.fault.clone().or_else(|| self.last_error.clone()).unwrap_or_else(|| "source failed".into())
            }
            ModalityState::Stale => format!("no sample for {} ms", self.max_age.as_ms()).into(),
            ModalityState::Absent => self.left_out().unwrap_or("nothing given").into(),
            ModalityState::Ok => "samples arrive".into(),
        }
    }
}

/// How a pipeline is set up, beyond what its bundle says.
#[derive(Clone, Debug)]
pub struct Options {
    /// BCP 47 tag of the language that advice is given in.
    pub lang: String,
}

impl Default for Options {
    fn default() -> Self {
        Options { lang: "en".into() }
    }
}

/// From samples to events.
pub struct Pipeline {
    stages: Vec<Stage>,
    fusion: Fusion,
    fused: Fused,
    policy: Policy,
    state: decide::State,
    catalogue: Option<(Arc<Catalogue>, Lang)>,
    labels: Vec<Arc<str>>,
    intents: Vec<Option<Intents>>,
    thresholds: Vec<f32>,
    known_states: heapless::Vec<ModalityState, MAX_MODALITIES>,
    bundle_id: Arc<str>,
    next_seq: u64,
    last_step: Option<Micros>,
    fusion_errors: u64,
    meter: Option<Meter>,
    tape: Option<Box<dyn Tape>>,
    /// What the encoders make of the sample at hand, while a tape wants it.
    answers: Answers,
    trace: Option<Box<Trace>>,
    /// Probabilities of a fusion without some of the modalities.
    probe: Vec<f32>,
    /// Requests that come by command, so that taking one allocates nothing.
    typed: Sample,
}

impl Pipeline {
    /// Loads and checks every part of the bundle: no device is opened before this has succeeded.
    ///
    /// # Errors
    /// [`PipelineError`], which names the file.
    pub fn load(bundle: &Bundle, options: &Options) -> Result<Self, PipelineError> {
        let stages =
            (0..bundle.manifest.encoder.len()).map(|i| Stage::load(bundle, i)).collect::<Result<Vec<_>, _>>()?;
        let dir = || bundle.dir.display().to_string();
        let policy = if bundle.labels.is_empty() {
            Policy::of_nothing()
        } else {
            Policy::new(&bundle.manifest.decision, &bundle.labels)
                .map_err(|source| PipelineError::Policy { bundle: dir(), source })?
        };
        for (stage, intents) in stages.iter().zip(&bundle.intents) {
            let in_model = stage.encoder.intent_count().unwrap_or(0);
            let labelled = intents.as_ref().map_or(0, |i| i.names.len());
            if in_model != labelled {
                let reason = format!("encoder {}: the model has {in_model} intents, its labels {labelled}", stage.name);
                return Err(PipelineError::Mismatch { bundle: dir(), reason });
            }
        }
        let fusion = if bundle.labels.is_empty() {
            Fusion::of_one_encoder(0, None)
        } else {
            load_fusion(bundle, &stages, policy.none())?
        };
        let catalogue = load_catalogue(bundle, &options.lang)?;
        let mut known_states = heapless::Vec::new();
        known_states.resize(stages.len(), ModalityState::Absent).expect("Bundle::open bounds the encoders");
        let thresholds =
            bundle.manifest.encoder.iter().map(|e| e.intents.as_ref().map_or(0.0, |i| i.threshold)).collect();
        info!("bundle {} for board {}: {} encoders", bundle.id, BOARD.name, stages.len());
        Ok(Pipeline {
            fused: Fused::default(),
            state: decide::State::new(&policy),
            catalogue,
            labels: bundle.labels.clone(),
            intents: bundle.intents.clone(),
            thresholds,
            known_states,
            bundle_id: bundle.id.clone(),
            next_seq: 0,
            last_step: None,
            fusion_errors: 0,
            meter: None,
            tape: None,
            answers: Answers::default(),
            trace: None,
            probe: Vec::new(),
            typed: Sample::default(),
            stages,
            fusion,
            policy,
        })
    }

    /// Names of the modalities, in the order of the tokens.
    pub fn modalities(&self) -> impl Iterator<Item = &Arc<str>> {
        self.stages.iter().map(|s| &s.name)
    }

    /// Class labels, in the order of the probabilities.
    #[must_use]
    pub fn labels(&self) -> &[Arc<str>] {
        &self.labels
    }

    /// Counters of every modality, in the order of the tokens.
    pub fn counters(&self) -> impl Iterator<Item = (&Arc<str>, StageCounters)> {
        self.stages.iter().map(|s| (&s.name, s.counters))
    }

    /// Runs of the fusion that failed.
    #[must_use]
    pub fn fusion_errors(&self) -> u64 {
        self.fusion_errors
    }

    /// What the decision rules had to put up with.
    #[must_use]
    pub fn decision_counters(&self) -> decide::Counters {
        self.state.counters()
    }

    /// The event that opens the stream.
    pub fn start(&mut self, now: Micros, events: &mut Vec<Event>) {
        self.taped(now, Call::Start, events, |pipeline, events| {
            let event = pipeline.event(now, EventKind::Start);
            events.push(event);
        });
    }

    /// The event that closes the stream.
    pub fn end(&mut self, now: Micros, events: &mut Vec<Event>) {
        self.taped(now, Call::End, events, |pipeline, events| {
            let event = pipeline.event(now, EventKind::End);
            events.push(event);
        });
    }

    /// Takes a sample of `source`, and appends the events that follow from it. A sample that cannot be used is counted and
    /// logged, and its modality says so; it never stops the others.
    pub fn process(&mut self, source: &str, sample: &Sample, now: Micros, events: &mut Vec<Event>) {
        if self.keeps_tokens() {
            return self.process_for_tokens(source, sample, now, events);
        }
        self.taped(now, Call::Sample { source, sample }, events, |pipeline, events| {
            pipeline.take(source, sample, now, events);
        });
    }

    fn take(&mut self, source: &str, sample: &Sample, now: Micros, events: &mut Vec<Event>) {
        if let Sample::Fault { reason, .. } = sample {
            self.mark_failed(source, reason, now, events);
            return;
        }
        let began = self.meter.as_ref().map(|m| (m.now_ns)());
        let mut fresh = false;
        self.answers.begin();
        for stage in self.stages.iter_mut().filter(|s| *s.source == *source) {
            let offered = stage.offer(sample, self.meter.as_ref());
            fresh |= taken(stage, offered, &mut self.answers);
        }
        let gave_token = fresh;
        while fresh {
            self.step(now, events);
            fresh = false;
            self.answers.next_round();
            for stage in self.stages.iter_mut().filter(|s| *s.source == *source) {
                let advanced = stage.advance(self.meter.as_ref());
                fresh |= taken(stage, advanced, &mut self.answers);
            }
        }
        self.look(now, events);
        if let (true, Some(meter), Some(began)) = (gave_token, &self.meter, began) {
            meter.record(|l| &l.step, began);
        }
    }

    /// Marks every modality of `source` as failed until it delivers again.
    pub fn fail(&mut self, source: &str, reason: &Arc<str>, now: Micros, events: &mut Vec<Event>) {
        self.taped(now, Call::Fail { source, reason }, events, |pipeline, events| {
            pipeline.mark_failed(source, reason, now, events);
        });
    }

    fn mark_failed(&mut self, source: &str, reason: &Arc<str>, now: Micros, events: &mut Vec<Event>) {
        for stage in self.stages.iter_mut().filter(|s| *s.source == *source) {
            stage.fault = Some(reason.clone());
            stage.has_token = false;
            stage.last_run = None;
            stage.counters.faults += 1;
        }
        self.step(now, events);
    }

    /// Encodes one of `divisor` windows of every encoder that takes `kind`; 1 is full speed. What is left out is counted.
    pub fn slow(&mut self, kind: Kind, divisor: u32, now: Micros) {
        if let Some(tape) = &mut self.tape {
            tape.note(now, &Call::Slow { kind: kind.word(), divisor }, &[]);
        }
        for stage in self.stages.iter_mut().filter(|s| s.takes(kind)) {
            (stage.divisor, stage.turn) = (divisor.max(1), 0);
        }
    }

    /// Appends a notice of `source` that changes no state.
    pub fn notice(&mut self, source: &Arc<str>, notice: &str, reason: Arc<str>, now: Micros, events: &mut Vec<Event>) {
        let call_reason = Arc::clone(&reason);
        self.taped(now, Call::Notice { source, notice, reason: &call_reason }, events, |pipeline, events| {
            let kind = EventKind::Notice { source: source.clone(), notice: notice.into(), reason };
            let event = pipeline.event(now, kind);
            events.push(event);
        });
    }

    /// Name and state of every modality, for a line of status.
    pub fn states(&self) -> impl Iterator<Item = (&Arc<str>, ModalityState)> {
        self.stages.iter().map(|s| &s.name).zip(self.known_states.iter().copied())
    }

    /// Looks at the ages if nothing has for [`TICK`]: call it at least that often when no sample comes.
    pub fn tick(&mut self, now: Micros, events: &mut Vec<Event>) {
        if self.is_due(now) {
            self.taped(now, Call::Tick, events, |pipeline, events| pipeline.step(now, events));
        }
    }

    fn look(&mut self, now: Micros, events: &mut Vec<Event>) {
        if self.is_due(now) {
            self.step(now, events);
        }
    }

    fn is_due(&self, now: Micros) -> bool {
        self.last_step.is_none_or(|last| now.since(last) >= TICK || now < last)
    }

    /// From here on every call is noted on `tape`; none stops it.
    pub fn record(&mut self, tape: Option<Box<dyn Tape>>) {
        self.tape = tape;
    }

    /// Does `work`, which is `call`, and notes it with the events that followed. Calls inside it are not noted: they would come twice.
    fn taped<T>(
        &mut self,
        now: Micros,
        call: Call<'_>,
        events: &mut Vec<Event>,
        work: impl FnOnce(&mut Self, &mut Vec<Event>) -> T,
    ) -> T {
        let Some(mut tape) = self.tape.take() else { return work(self, events) };
        let before = events.len();
        let result = work(self, events);
        tape.note(now, &call, &events[before..]);
        self.tape = Some(tape);
        result
    }

    /// Fuses the tokens as they are at `now`, decides, and appends events.
    pub fn step(&mut self, now: Micros, events: &mut Vec<Event>) {
        self.last_step = Some(now);
        self.report_states(now, events);
        self.report_results(now, events);
        if self.labels.is_empty() {
            return;
        }
        let Some(present) = self.fuse_tokens(now) else { return };
        if self.trace.is_some() {
            self.note_step(now);
        }
        let undecided = self.policy.is_undecided(&self.fused.probabilities);
        let out_of_scope = if undecided { self.out_of_scope(now) } else { None };
        debug!("{now}: {} {:.2} weights {:.2?}", self.labels[self.fused.class], self.fused.p(), self.fused.weights);
        let view = FusedView { p: &self.fused.probabilities, present, out_of_scope };
        let verdicts =
            timed(self.meter.as_ref(), |l| &l.decide, || decide::step(&mut self.state, &view, now, &self.policy));
        for verdict in verdicts {
            let event = self.decision(now, &verdict);
            events.push(event);
        }
    }

    /// Fuses what is fresh; whether anything is, or none if the fusion failed.
    fn fuse_tokens(&mut self, now: Micros) -> Option<bool> {
        let mut tokens: heapless::Vec<TokenView<'_>, MAX_MODALITIES> = heapless::Vec::new();
        for stage in &self.stages {
            let fresh = stage.state(now) == ModalityState::Ok;
            let view =
                TokenView { embedding: fresh.then_some(&stage.embedding), age: stage.age(now).unwrap_or_default() };
            tokens.push(view).unwrap_or_else(|_| unreachable!("Bundle::open bounds the encoders"));
        }
        let fused = timed(self.meter.as_ref(), |l| &l.fuse, || self.fusion.fuse(&tokens, &mut self.fused));
        if let Err(error) = fused {
            self.fusion_errors += 1;
            warn!("{error}; this window is not decided");
            return None;
        }
        Some(tokens.iter().any(|t| t.embedding.is_some()))
    }

    /// Capture time of the held request whose likeliest intent is below the bundle's threshold.
    fn out_of_scope(&self, now: Micros) -> Option<Micros> {
        self.held_out_of_scope(now).map(|(_, t)| t)
    }

    /// The same, with the index of its modality.
    fn held_out_of_scope(&self, now: Micros) -> Option<(usize, Micros)> {
        let held = |i: &usize| self.intents[*i].is_some() && self.stages[*i].state(now) == ModalityState::Ok;
        let stage = (0..self.stages.len()).find(held)?;
        let (_, p) = likeliest(&self.stages[stage].embedding.intents)?;
        (p < self.thresholds[stage]).then_some((stage, self.stages[stage].embedding.t))
    }

    /// The held request's intent with its class, if it is in scope.
    fn held_intent(&self, now: Micros) -> Option<(&Arc<str>, usize)> {
        let held = |i: &usize| self.intents[*i].is_some() && self.stages[*i].state(now) == ModalityState::Ok;
        let stage = (0..self.stages.len()).find(held)?;
        let (best, p) = likeliest(&self.stages[stage].embedding.intents)?;
        let intents = self.intents[stage].as_ref()?;
        (p >= self.thresholds[stage]).then(|| (&intents.names[best], intents.class[best]))
    }

    fn decision(&mut self, now: Micros, verdict: &Verdict) -> Event {
        info!("{now}: {:?} {} p {:.2}", verdict.state, self.labels[verdict.class], verdict.p);
        let catalogue = self.catalogue.as_ref().map(|(catalogue, lang)| (&**catalogue, *lang));
        let decision = advice::decision(verdict, &self.policy, self.held_intent(now), catalogue);
        self.event(now, EventKind::Decision(decision))
    }

    /// One event for everything that a head has found since it was asked last.
    fn report_results(&mut self, now: Micros, events: &mut Vec<Event>) {
        for i in 0..self.stages.len() {
            let Some((of_us, found)) = self.stages[i].head.as_mut().and_then(Head::take) else { continue };
            let encoder = self.stages[i].name.clone();
            let event = self.event(now, EventKind::Result { encoder, of_us, found });
            events.push(event);
        }
    }

    /// One event for every modality whose state has changed.
    fn report_states(&mut self, now: Micros, events: &mut Vec<Event>) {
        for i in 0..self.stages.len() {
            let state = self.stages[i].state(now);
            let left_out = self.stages[i].left_out();
            if state == self.known_states[i] && left_out == self.stages[i].told {
                continue;
            }
            self.known_states[i] = state;
            self.stages[i].told = left_out;
            match state {
                ModalityState::Failed | ModalityState::Absent => self.stages[i].restart(now),
                // the source may go on where it paused; a gap in it is seen when it does
                ModalityState::Stale => self.stages[i].head.iter_mut().for_each(|head| head.restart(now)),
                ModalityState::Ok => {}
            }
            let reason = self.stages[i].reason(state);
            let modality = self.stages[i].name.clone();
            match state {
                ModalityState::Failed => warn!("{modality}: failed: {reason}"),
                ModalityState::Ok | ModalityState::Stale | ModalityState::Absent => {
                    info!("{modality}: {state:?}: {reason}")
                }
            }
            let event = self.event(now, EventKind::Modality { modality, state, reason });
            events.push(event);
        }
    }

    fn event(&mut self, now: Micros, kind: EventKind) -> Event {
        let fused = matches!(kind, EventKind::Decision(_));
        let mut modalities = heapless::Vec::new();
        for (i, stage) in self.stages.iter().enumerate() {
            let view = ModalityView {
                name: stage.name.clone(),
                // a choice may be decided before anything was fused
                weight: self.fused.weights.get(i).copied().filter(|_| fused).unwrap_or(0.0),
                contribution: self.fused.contributions.get(i).copied().filter(|_| fused).unwrap_or(0.0),
                age: stage.age(now),
                state: stage.state(now),
            };
            modalities.push(view).unwrap_or_else(|_| unreachable!("Bundle::open bounds the encoders"));
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        Event { v: SCHEMA_VERSION, seq, t_us: now, kind, modalities, bundle: self.bundle_id.clone(), board: BOARD.name }
    }
}

/// What may be asked of a run, and what may be seen of it.
impl Pipeline {
    /// Carries out `command` at `now`, and appends the events that follow from it.
    ///
    /// # Errors
    /// [`Refusal`]: what it names is not there, is out of range, or is not offered at this moment. Nothing has changed then.
    pub fn command(&mut self, command: &Command, now: Micros, events: &mut Vec<Event>) -> Result<(), Refusal> {
        if let (Command::Text(text), true) = (command, self.keeps_tokens()) {
            return self.type_for_tokens(text, now, events);
        }
        self.taped(now, Call::Command(command), events, |pipeline, events| pipeline.carry_out(command, now, events))
    }

    fn carry_out(&mut self, command: &Command, now: Micros, events: &mut Vec<Event>) -> Result<(), Refusal> {
        match command {
            Command::Text(text) => self.take_text(text, now, events),
            Command::Choose { class } => self.choose(class, now, events),
            Command::Mute { source, muted } => self.mute(source, *muted, now, events),
            Command::Thresholds { .. } if self.labels.is_empty() => {
                Err(Refusal::new(RefusalKind::Unknown, "the bundle decides nothing, so that it has no thresholds"))
            }
            Command::Thresholds { enter, exit } => self
                .policy
                .set_thresholds(*enter, exit.unwrap_or(self.policy.exit()))
                .map_err(|error| Refusal::new(RefusalKind::Range, error.to_string())),
            Command::Language(tag) => {
                let Some((catalogue, lang)) = &mut self.catalogue else {
                    return Err(Refusal::new(RefusalKind::Unknown, "the bundle has no advice catalogue"));
                };
                *lang =
                    catalogue.language(tag).map_err(|error| Refusal::new(RefusalKind::Unknown, error.to_string()))?;
                Ok(())
            }
            // who runs the pipeline takes it before, if there is where updates come from
            Command::Reload => Err(Refusal::new(
                RefusalKind::NotOffered,
                "this run takes no updates; configure [update], and do not record",
            )),
        }
    }

    fn take_text(&mut self, text: &str, now: Micros, events: &mut Vec<Event>) -> Result<(), Refusal> {
        let stage = self.stages.iter().find(|s| s.is_text() && *s.source == *TYPED);
        match stage {
            None => {
                return Err(Refusal::new(RefusalKind::Unknown, "the bundle has no encoder for text; show or say it"));
            }
            Some(stage) if stage.is_muted => {
                return Err(Refusal::new(RefusalKind::NotOffered, "the source text is muted"));
            }
            Some(_) => {}
        }
        let chars = text.chars().count();
        if chars > TEXT_CHARS_MAX || text.trim().is_empty() {
            let message = format!("the text has {chars} characters, expected 1 to {TEXT_CHARS_MAX}, not only spaces");
            return Err(Refusal::new(RefusalKind::Range, message));
        }
        let mut sample = std::mem::take(&mut self.typed);
        if let Sample::Text(Utterance { t, text: buffer }) = &mut sample {
            *t = now;
            buffer.clear();
            buffer.push_str(text);
        }
        self.take(TYPED, &sample, now, events);
        self.typed = sample;
        Ok(())
    }

    fn choose(&mut self, label: &str, now: Micros, events: &mut Vec<Event>) -> Result<(), Refusal> {
        let Some(class) = self.labels.iter().position(|l| **l == *label) else {
            return Err(Refusal::new(RefusalKind::Unknown, format!("there is no class {label:?}")));
        };
        let from = if self.is_fallback(now) { Choosable::Every } else { Choosable::Offered };
        let verdicts = decide::choose(&mut self.state, class, from, now, &self.policy)
            .map_err(|error| Refusal::new(RefusalKind::NotOffered, format!("{label}: {error}")))?;
        if let Some(trace) = &mut self.trace {
            trace.chosen(now, class, from);
        }
        for verdict in verdicts {
            let event = self.decision(now, &verdict);
            events.push(event);
        }
        Ok(())
    }

    fn mute(&mut self, source: &str, muted: bool, now: Micros, events: &mut Vec<Event>) -> Result<(), Refusal> {
        if !self.stages.iter().any(|s| *s.source == *source) {
            return Err(Refusal::new(
                RefusalKind::Unknown,
                format!("no encoder of the bundle has the source {source:?}"),
            ));
        }
        for stage in self.stages.iter_mut().filter(|s| *s.source == *source) {
            stage.is_muted = muted;
            // what was seen before counts no longer, on either side of the change
            (stage.has_token, stage.last_run) = (false, None);
        }
        self.step(now, events);
        Ok(())
    }

    /// The device itself is talking, or has stopped: meanwhile whatever listens takes no part, so that it does not hear itself.
    pub fn hush(&mut self, is_on: bool, now: Micros, events: &mut Vec<Event>) {
        self.taped(now, Call::Hush { on: is_on }, events, |pipeline, events| pipeline.set_hushed(is_on, now, events));
    }

    fn set_hushed(&mut self, is_on: bool, now: Micros, events: &mut Vec<Event>) {
        let mut has_changed = false;
        for stage in self.stages.iter_mut().filter(|s| s.takes(Kind::Audio) && s.is_hushed != is_on) {
            (stage.is_hushed, has_changed) = (is_on, true);
            // what was heard before counts no longer, on either side of the change
            (stage.has_token, stage.last_run) = (false, None);
        }
        if has_changed {
            self.step(now, events);
        }
    }

    /// Whether nothing but typing works at `now`: no modality that watches or listens is `ok`.
    #[must_use]
    pub fn is_fallback(&self, now: Micros) -> bool {
        !self.stages.iter().any(|s| !s.is_text() && s.state(now) == ModalityState::Ok)
    }

    /// Records how long each stage takes, by the caller's clock, until the pipeline ends.
    pub fn measure(&mut self, monitor: &Arc<Monitor>, now_ns: fn() -> u64) {
        self.meter = Some(Meter { monitor: Arc::clone(monitor), now_ns });
    }

    /// Fills in what the pipeline knows; what sources and the board are like is left as it is. Allocates nothing but in the first call.
    pub fn observe(&self, now: Micros, snapshot: &mut Snapshot) {
        snapshot.t = now;
        snapshot.lang = self.catalogue.as_ref().map(|(catalogue, lang)| Arc::clone(catalogue.tag(*lang)));
        snapshot.fused.clear();
        snapshot.fused.extend_from_slice(&self.fused.probabilities);
        snapshot.modalities.clear();
        snapshot.counters.clear();
        for (i, stage) in self.stages.iter().enumerate() {
            let view = ModalityView {
                name: Arc::clone(&stage.name),
                weight: self.fused.weights.get(i).copied().unwrap_or(0.0),
                contribution: self.fused.contributions.get(i).copied().unwrap_or(0.0),
                age: stage.age(now),
                state: stage.state(now),
            };
            let fits = snapshot.modalities.push(view).is_ok() && snapshot.counters.push(stage.counters).is_ok();
            assert!(fits, "Bundle::open bounds the encoders");
        }
        (snapshot.enter, snapshot.exit) = (self.policy.enter(), self.policy.exit());
        snapshot.is_fallback = self.is_fallback(now);
        snapshot.mel.clear();
        snapshot.mel.extend_from_slice(self.stages.iter().find_map(Stage::newest_column).unwrap_or_default());
        snapshot.fusion_errors = self.fusion_errors;
        snapshot.visits = self.state.counters().visits;
        snapshot.visit = self.state.visit_failures().is_some();
        snapshot.muted.clear();
        for stage in self.stages.iter().filter(|s| s.is_muted) {
            if !snapshot.muted.contains(&stage.source) {
                _ = snapshot.muted.push(Arc::clone(&stage.source));
            }
        }
    }
}

/// One input at a time: what `eval` and `bench` ask for.
impl Pipeline {
    /// Preprocesses and encodes one whole input with encoder `index`, as `run` would.
    ///
    /// # Errors
    /// [`PipelineError`]; the encoder's previous token is then unspecified.
    pub fn encode(&mut self, index: usize, input: Input<'_>) -> Result<&Embedding, PipelineError> {
        self.preprocess(index, input)?;
        self.encode_input(index)
    }

    /// The first half of [`Pipeline::encode`].
    ///
    /// # Errors
    /// [`PipelineError`].
    pub fn preprocess(&mut self, index: usize, input: Input<'_>) -> Result<(), PipelineError> {
        let stage = &mut self.stages[index];
        let done = match (&mut stage.preprocessor, input) {
            (Preprocessor::Image(p), Input::Frame(frame)) => p.run(frame, &mut stage.input),
            (Preprocessor::Audio(p), Input::Clip { samples, rate_hz }) => {
                p.clip_window(samples, rate_hz, &mut stage.input)
            }
            (Preprocessor::Text(p), Input::Text(text)) => p.run(text, &mut stage.input),
            (other, input) => {
                return Err(PipelineError::WrongInput {
                    encoder: stage.name.to_string(),
                    expected: other.kind(),
                    given: input.kind(),
                });
            }
        };
        done.map_err(|source| PipelineError::Input { encoder: stage.name.to_string(), source })
    }

    /// The second half of [`Pipeline::encode`]: encodes what was preprocessed last.
    ///
    /// # Errors
    /// [`PipelineError::Infer`].
    pub fn encode_input(&mut self, index: usize) -> Result<&Embedding, PipelineError> {
        let stage = &mut self.stages[index];
        stage.encoder.reset_state();
        stage.encoder.encode(&stage.input, Micros::ZERO, &mut stage.embedding)?;
        Ok(&stage.embedding)
    }

    /// Kind of input that encoder `index` takes: `image`, `audio`, `text`, `series`.
    #[must_use]
    pub fn kind(&self, index: usize) -> &'static str {
        self.stages[index].preprocessor.kind()
    }

    /// How the last picture of encoder `index` was decoded, if it was a JPEG.
    #[must_use]
    pub fn jpeg_decoding(&self, index: usize) -> Option<JpegDecoding> {
        match &self.stages[index].preprocessor {
            Preprocessor::Image(images) => images.jpeg_decoding(),
            _ => None,
        }
    }

    /// Fuses the last tokens of the encoders that `present` names, all of age 0; nothing, if the bundle has no classes.
    ///
    /// # Errors
    /// [`PipelineError::Infer`].
    pub fn fuse(&mut self, present: &[bool]) -> Result<&Fused, PipelineError> {
        if self.labels.is_empty() {
            return Ok(&self.fused);
        }
        let mut tokens: heapless::Vec<TokenView<'_>, MAX_MODALITIES> = heapless::Vec::new();
        for (stage, present) in self.stages.iter().zip(present) {
            let view = TokenView { embedding: present.then_some(&stage.embedding), age: Micros::ZERO };
            tokens.push(view).unwrap_or_else(|_| unreachable!("Bundle::open bounds the encoders"));
        }
        self.fusion.fuse(&tokens, &mut self.fused)?;
        Ok(&self.fused)
    }

    /// The class that encoder `index` gave most to in its last token, and its probability; none if its model has no logits.
    #[must_use]
    pub fn own_answer(&self, index: usize) -> Option<(usize, f32)> {
        likeliest(&self.stages[index].embedding.logits)
    }

    /// Index of the class that means "nobody asks anything".
    #[must_use]
    pub fn none(&self) -> Option<usize> {
        self.policy.none()
    }

    /// Intents of encoder `index`, if it has any.
    #[must_use]
    pub fn intents(&self, index: usize) -> Option<&Intents> {
        self.intents[index].as_ref()
    }

    /// The likeliest intent of the last token of encoder `index`, its probability, and whether that reaches the threshold.
    #[must_use]
    pub fn last_intent(&self, index: usize) -> Option<(usize, f32, bool)> {
        let (best, p) = likeliest(&self.stages[index].embedding.intents)?;
        Some((best, p, p >= self.thresholds[index]))
    }
}

fn load_catalogue(bundle: &Bundle, lang: &str) -> Result<Option<(Arc<Catalogue>, Lang)>, PipelineError> {
    let Some(path) = bundle.catalogue() else { return Ok(None) };
    let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    let intents: Vec<(Arc<str>, usize)> =
        bundle.intents.iter().flatten().flat_map(|i| i.names.iter().cloned().zip(i.class.iter().copied())).collect();
    let known = Known { labels: &bundle.labels, none: bundle.none, intents: &intents };
    let catalogue = Catalogue::parse(&path, &text, known)?;
    let lang = catalogue
        .language(lang)
        .map_err(|source| PipelineError::Language { catalogue: path.display().to_string(), source })?;
    Ok(Some((catalogue.into(), lang)))
}

fn load_head(bundle: &Bundle, index: usize, encoder: &OnnxEncoder) -> Result<Option<Head>, PipelineError> {
    let spec = &bundle.manifest.encoder[index];
    let outputs = encoder.model().outputs().iter();
    let ports: Vec<Port<'_>> =
        outputs.map(|o| Port { name: &o.name, shape: &o.shape, is_f32: o.dtype == Dtype::F32 }).collect();
    Head::new(spec, bundle.head_files(index)?, &ports).map_err(|source| PipelineError::Head {
        bundle: bundle.dir.display().to_string(),
        encoder: spec.name.clone(),
        source,
    })
}

fn load_fusion(bundle: &Bundle, stages: &[Stage], none_class: Option<usize>) -> Result<Fusion, PipelineError> {
    let n_classes = bundle.labels.len();
    let mismatch = |reason| PipelineError::Mismatch { bundle: bundle.dir.display().to_string(), reason };
    let Some(spec) = &bundle.manifest.fusion else {
        if stages.len() != 1 || !stages[0].encoder.has_logits() {
            let reason = "without [fusion] there is exactly one encoder, and its model has an output `logits`";
            return Err(mismatch(reason.into()));
        }
        return Ok(Fusion::of_one_encoder(n_classes, none_class));
    };
    let mut token_len = None;
    for stage in stages {
        let len = stage.encoder.token_len().ok_or_else(|| {
            mismatch(format!("encoder {}: its model has no output `embedding`, which [fusion] needs", stage.name))
        })?;
        if *token_len.get_or_insert(len) != len {
            let reason =
                format!("encoder {}: embedding of {len} values, the encoders before it have {token_len:?}", stage.name);
            return Err(mismatch(reason));
        }
    }
    let token_len = token_len.unwrap_or(0);
    Ok(Fusion::load(spec, &bundle.dir, FusionShape { n_tokens: stages.len(), token_len, n_classes, none_class })?)
}

/// Whether there is a fresh token; an error is counted, logged and remembered as the reason why there is none.
fn taken(stage: &mut Stage, result: Result<bool, StageError>, answers: &mut Answers) -> bool {
    match result {
        Ok(false) => false,
        Ok(true) => {
            answers.token(&stage.name, &stage.embedding);
            true
        }
        Err(error) => {
            stage.counters.errors += 1;
            stage.blame.failed(&error);
            warn!("{}: {error}", stage.name);
            let reason: Arc<str> = error.to_string().into();
            answers.error(&stage.name, &reason);
            stage.last_error = Some(reason);
            false
        }
    }
}
