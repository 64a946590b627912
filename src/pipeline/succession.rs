//! One pipeline takes the place of another between two windows, while a run goes on.
//!
//! What was captured stays: windows of sound and series that are half full, and the last input of every modality, which the new models encode
//! again. So no window is lost where a modality's preprocessing is the same in both bundles; where it differs, its window begins anew.
//! What observers were told at the start stays true, but for the bundle's name and texts ([`About`]), which they are told again: a pipeline
//! of other modalities or classes cannot succeed.

use std::sync::Arc;

use log::warn;

use super::{Pipeline, StageError};
use crate::board::Kind;
use crate::infer::Encoder as _;
use crate::signal::{About, Event, Listing, ModalityState};
use crate::time::Micros;

/// How a modality does, as far as its models are to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It has a token that takes part.
    Fresh,
    /// It has none, and nobody expects one: muted, typed, its device is gone or silent.
    Idle,
    /// Its device delivers or should, and it has none.
    Ailing,
}

/// What a modality without a token comes from: its models, or what its device delivers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Blame {
    /// Capture time of the newest sample that came.
    offered: Option<Micros>,
    /// Whether the last error was the model's: a sample that cannot be read, or is refused, is not.
    is_models: bool,
}

impl Blame {
    /// A sample captured at `t` came.
    pub(super) fn offered(&mut self, t: Micros) {
        self.offered = Some(t);
    }

    /// There is no token because of `error`.
    pub(super) fn failed(&mut self, error: &StageError) {
        self.is_models = matches!(error, StageError::Infer(_));
    }

    /// Whether the device has delivered within `age` before `now`.
    fn is_fed(&self, now: Micros, age: Micros) -> bool {
        self.offered.is_some_and(|t| now.since(t) <= age)
    }
}

/// What observers are told.
impl Pipeline {
    /// `name@version` of the bundle.
    #[must_use]
    pub fn bundle(&self) -> &Arc<str> {
        &self.bundle_id
    }

    /// Name of every modality, of its source, and whether it is typed.
    pub fn inputs(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, bool)> {
        self.stages.iter().map(|s| (&s.name, &s.source, s.is_text()))
    }

    /// The first source whose pictures an encoder takes.
    #[must_use]
    pub fn camera(&self) -> Option<&Arc<str>> {
        self.stages.iter().find(|s| s.takes(Kind::Image)).map(|s| &s.source)
    }

    /// Whether the pictures of `source` are taken at present: it is not muted.
    #[must_use]
    pub fn takes_pictures_of(&self, source: &str) -> bool {
        self.stages.iter().any(|s| *s.source == *source && s.takes(Kind::Image) && s.left_out().is_none())
    }

    /// What they are told again when another bundle takes over.
    #[must_use]
    pub fn about(&self) -> About {
        let texts = self.catalogue.as_ref().map(|(catalogue, _)| Arc::clone(catalogue) as Arc<dyn Listing>);
        About { bundle: Arc::clone(&self.bundle_id), texts }
    }
}

impl Pipeline {
    /// Whether it can take the place of `other` while a run goes on: what observers were told at the start has to stay true,
    /// but for [`Pipeline::about`].
    ///
    /// # Errors
    /// What differs.
    pub fn can_succeed(&self, other: &Pipeline) -> Result<(), String> {
        if self.labels != other.labels {
            return Err("the classes differ".into());
        }
        let inputs = |p: &Pipeline| p.inputs().map(|(n, s, t)| (n.clone(), s.clone(), t)).collect::<Vec<_>>();
        if inputs(self) != inputs(other) {
            return Err("the modalities differ".into());
        }
        if self.policy.none() != other.policy.none() {
            return Err("the class that means nobody differs".into());
        }
        Ok(())
    }

    /// Takes the place of `old` at `now`, and what it has captured; `old` may take it back in the same way. Thresholds that were set by
    /// command are forgotten, the language stays if the catalogue has it.
    ///
    /// # Panics
    /// If [`Pipeline::can_succeed`] was not asked.
    pub fn succeed(&mut self, old: &mut Pipeline, now: Micros, events: &mut Vec<Event>) {
        assert_eq!(self.stages.len(), old.stages.len(), "can_succeed compares the modalities");
        for (stage, before) in self.stages.iter_mut().zip(&mut old.stages) {
            (stage.is_muted, stage.is_hushed, stage.told) = (before.is_muted, before.is_hushed, before.told);
            (stage.divisor, stage.turn) = (before.divisor, before.turn);
            (stage.counters, stage.fault) = (before.counters, before.fault.clone());
            stage.last_error = None;
            stage.encoder.reset_state();
            let is_same = stage.preprocessing == before.preprocessing;
            stage.has_token = is_same && before.has_token;
            stage.last_run = before.last_run.filter(|_| is_same);
            if !is_same {
                continue;
            }
            std::mem::swap(&mut stage.preprocessor, &mut before.preprocessor);
            std::mem::swap(&mut stage.input, &mut before.input);
            if stage.has_token
                && let Err(error) = stage.encoder.encode(&stage.input, before.embedding.t, &mut stage.embedding)
            {
                warn!("{}: {error}", stage.name);
                stage.counters.errors += 1;
                stage.blame.is_models = true;
                (stage.has_token, stage.last_error) = (false, Some(error.to_string().into()));
            }
        }
        self.next_seq = old.next_seq;
        self.last_step = old.last_step;
        self.known_states.clone_from(&old.known_states);
        self.fusion_errors = old.fusion_errors;
        self.state = old.state.clone();
        self.meter.clone_from(&old.meter);
        self.tape = old.tape.take();
        if let (Some((catalogue, lang)), Some((before, tag))) = (&mut self.catalogue, &old.catalogue)
            && let Ok(same) = catalogue.language(before.tag(*tag))
        {
            *lang = same;
        }
        self.step(now, events);
    }

    /// How every modality does at `now`, in the order of the tokens; `expected` are those that did before.
    pub fn health(&self, now: Micros, expected: impl Fn(usize) -> bool) -> impl Iterator<Item = (&Arc<str>, Health)> {
        self.stages.iter().enumerate().map(move |(i, stage)| {
            let is_excused = stage.is_text() || stage.left_out().is_some() || stage.fault.is_some();
            // a device that is silent, or has lost a stretch of sound, is not the bundle's doing
            let is_fed = stage.blame.is_fed(now, stage.max_age);
            let has_error = stage.last_error.is_some() && stage.fault.is_none();
            let health = match stage.state(now) {
                ModalityState::Ok => Health::Fresh,
                _ if has_error && stage.blame.is_models => Health::Ailing,
                _ if is_excused || !is_fed => Health::Idle,
                _ if has_error || expected(i) => Health::Ailing,
                _ => Health::Idle,
            };
            (&stage.name, health)
        })
    }

    /// When the tokens were last fused, or would have been.
    #[must_use]
    pub fn last_decided(&self) -> Option<Micros> {
        self.last_step
    }

    /// Whether its calls are being recorded.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.tape.is_some()
    }
}
