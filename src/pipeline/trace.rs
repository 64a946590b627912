//! Notes what the decision is given, for `eval`: the fused probabilities of every step, also without some of the modalities.

use log::warn;

use crate::decide::Policy;
use crate::decide::trace::{Given, Subset, Trace};
use crate::fuse::TokenView;
use crate::signal::{MAX_MODALITIES, ModalityState};
use crate::time::Micros;

use super::Pipeline;

impl Pipeline {
    /// From here on every step is noted, until [`Pipeline::take_trace`]. It costs runs of the fusion, and memory for each step.
    pub fn trace(&mut self) {
        self.trace = Some(Box::new(Trace::new(self.stages.len(), self.labels.len())));
    }

    /// What was noted; none if nothing was asked for.
    pub fn take_trace(&mut self) -> Option<Trace> {
        self.trace.take().map(|trace| *trace)
    }

    /// The rules of decisions, as they are at the moment.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Notes the step that was fused last.
    pub(super) fn note_step(&mut self, now: Micros) {
        let Some(mut trace) = self.trace.take() else { return };
        let mut present: Subset = 0;
        for (i, stage) in self.stages.iter().enumerate() {
            present |= Subset::from(stage.state(now) == ModalityState::Ok) << i;
        }
        let given = Given { now, present, out_of_scope: self.held_out_of_scope(now) };
        let Pipeline { stages, fusion, fused, probe, .. } = self;
        trace.fused(given, |subset, p| {
            if subset == present {
                p.copy_from_slice(&fused.probabilities);
                return true;
            }
            let mut tokens: heapless::Vec<TokenView<'_>, MAX_MODALITIES> = heapless::Vec::new();
            for (i, stage) in stages.iter().enumerate() {
                let embedding = (subset >> i & 1 == 1).then_some(&stage.embedding);
                let view = TokenView { embedding, age: stage.age(now).unwrap_or_default() };
                tokens.push(view).unwrap_or_else(|_| unreachable!("Bundle::open bounds the encoders"));
            }
            match fusion.probabilities(&tokens, probe) {
                Ok(()) => p.copy_from_slice(probe),
                Err(ref error) => {
                    warn!("{error}; this window is not decided without some modalities");
                    return false;
                }
            }
            true
        });
        self.trace = Some(trace);
    }
}
