//! Recordings without media: what the encoders made of a sample is noted instead of the sample, and taken again in its place.
//!
//! Everything from the tokens on, the fusion, the decision and the advice, replays from them bit for bit; preprocessing and encoders do not
//! run. Typed text is media too: it is noted as the token of its source.

use std::sync::Arc;

use super::{Pipeline, PipelineError, TYPED};
use crate::signal::{Answer, Call, Detail, Embedding, Event, Made, Refusal, Sample};
use crate::time::Micros;

/// What the encoders make of one sample, in order. Collects nothing unless it is asked to: copies are allocated.
#[derive(Default)]
pub(super) struct Answers {
    is_wanted: bool,
    round: u32,
    list: Vec<Answer>,
}

impl Answers {
    pub fn begin(&mut self) {
        self.round = 0;
        self.list.clear();
    }

    pub fn next_round(&mut self) {
        self.round += 1;
    }

    pub fn token(&mut self, encoder: &Arc<str>, embedding: &Embedding) {
        if self.is_wanted {
            self.push(encoder, Made::Token(embedding.clone()));
        }
    }

    pub fn error(&mut self, encoder: &Arc<str>, reason: &Arc<str>) {
        if self.is_wanted {
            self.push(encoder, Made::Error(Arc::clone(reason)));
        }
    }

    fn push(&mut self, encoder: &Arc<str>, made: Made) {
        self.list.push(Answer { round: self.round, encoder: Arc::clone(encoder), made });
    }
}

impl Pipeline {
    pub(super) fn keeps_tokens(&self) -> bool {
        self.tape.as_ref().is_some_and(|tape| tape.detail() == Detail::Tokens)
    }

    /// As `process`, for a tape that keeps no samples.
    pub(super) fn process_for_tokens(&mut self, source: &str, sample: &Sample, now: Micros, events: &mut Vec<Event>) {
        if let Sample::Fault { reason, .. } = sample {
            return self.fail(source, reason, now, events);
        }
        let taken = self.note_tokens(source, now, events, |pipeline, events| {
            pipeline.take(source, sample, now, events);
            Ok(())
        });
        debug_assert!(taken.is_ok(), "a sample is never refused");
    }

    /// A typed request, for a tape that keeps no text. One that is refused has changed nothing, and is not noted.
    pub(super) fn type_for_tokens(&mut self, text: &str, now: Micros, events: &mut Vec<Event>) -> Result<(), Refusal> {
        self.note_tokens(TYPED, now, events, |pipeline, events| pipeline.take_text(text, now, events))
    }

    fn note_tokens(
        &mut self,
        source: &str,
        now: Micros,
        events: &mut Vec<Event>,
        work: impl FnOnce(&mut Self, &mut Vec<Event>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let tape = self.tape.take();
        let before = events.len();
        self.answers.is_wanted = true;
        let result = work(self, events);
        self.answers.is_wanted = false;
        self.tape = tape;
        if let (Some(tape), Ok(())) = (&mut self.tape, &result) {
            tape.note(now, &Call::Tokens { source, answers: &self.answers.list }, &events[before..]);
        }
        result
    }

    /// Takes what the encoders once made of a sample of `source` as if they had made it again, and appends the events that follow.
    ///
    /// # Errors
    /// [`PipelineError::Token`] if the bundle has no such encoder, or one whose token has another length; nothing has changed then.
    pub fn take_tokens(
        &mut self,
        source: &str,
        answers: &[Answer],
        now: Micros,
        events: &mut Vec<Event>,
    ) -> Result<(), PipelineError> {
        answers.iter().try_for_each(|answer| self.check(answer))?;
        self.taped(now, Call::Tokens { source, answers }, events, |pipeline, events| {
            for round in answers.chunk_by(|a, b| a.round == b.round) {
                if round.iter().fold(false, |fresh, answer| pipeline.put(answer) | fresh) {
                    pipeline.step(now, events);
                }
            }
            pipeline.look(now, events);
        });
        Ok(())
    }

    fn check(&self, answer: &Answer) -> Result<(), PipelineError> {
        let encoder = &answer.encoder;
        let failed = |reason| PipelineError::Token { encoder: encoder.to_string(), reason };
        let Some(stage) = self.stages.iter().find(|s| s.name == *encoder) else {
            return Err(failed(format!("{} has no such encoder", self.bundle_id)));
        };
        let Made::Token(embedding) = &answer.made else { return Ok(()) };
        let lens = |e: &Embedding| (e.token.len(), e.logits.len(), e.intents.len());
        let mut expected = (stage.encoder.token_len().unwrap_or(0), 0, stage.encoder.intent_count().unwrap_or(0));
        expected.1 = if stage.encoder.has_logits() { self.labels.len() } else { 0 };
        if lens(embedding) != expected {
            let given = lens(embedding);
            return Err(failed(format!("lengths of token, logits and intents are {given:?}, expected {expected:?}")));
        }
        Ok(())
    }

    /// Whether it is a fresh token.
    fn put(&mut self, answer: &Answer) -> bool {
        let Some(stage) = self.stages.iter_mut().find(|s| s.name == answer.encoder) else { return false };
        match &answer.made {
            Made::Token(embedding) => {
                stage.embedding.clone_from(embedding);
                stage.accept();
                true
            }
            Made::Error(reason) => {
                stage.counters.errors += 1;
                stage.last_error = Some(Arc::clone(reason));
                false
            }
        }
    }
}

/// Index and softmax probability of the largest logit; none for an empty slice.
pub(super) fn likeliest(logits: &[f32]) -> Option<(usize, f32)> {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))?;
    let sum: f32 = logits.iter().map(|x| (x - logits[best]).exp()).sum();
    Some((best, 1.0 / sum))
}
