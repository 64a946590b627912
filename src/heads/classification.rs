//! The likeliest classes of a window.

use std::sync::Arc;

use crate::config::manifest::{Activation, ClassificationSpec, Report};
use crate::signal::{Choice, Tensor};

use super::{HeadError, Port, activate, pick_row, round4, top_k, values};

#[derive(Debug)]
pub(super) struct Classifier {
    output: usize,
    activation: Activation,
    temperature: f32,
    labels: Vec<Arc<str>>,
    top_k: usize,
    min_p: f32,
    report: Report,
    p: Vec<f32>,
    best: Vec<usize>,
    /// The likeliest class of the window before; None: there was no window.
    last: Option<Option<usize>>,
}

impl Classifier {
    pub fn new(
        spec: &ClassificationSpec,
        temperature: f32,
        labels: Vec<Arc<str>>,
        outputs: &[Port<'_>],
    ) -> Result<Self, HeadError> {
        let output = pick_row("classification.output", spec.output.as_deref(), labels.len(), "labels", outputs)?;
        Ok(Classifier {
            output,
            activation: spec.activation,
            temperature,
            top_k: spec.top_k,
            min_p: spec.min_p,
            report: spec.report,
            p: vec![0.0; labels.len()],
            best: Vec::with_capacity(spec.top_k + 1),
            last: None,
            labels,
        })
    }

    /// Writes the likeliest classes; whether that is to be told.
    pub fn run(&mut self, outputs: &[Tensor], into: &mut Vec<Choice>) -> bool {
        self.p.copy_from_slice(values(outputs, self.output));
        activate(&mut self.p, self.activation, self.temperature);
        top_k(&self.p, self.top_k, self.min_p, &mut self.best);
        into.clear();
        into.extend(self.best.iter().map(|&i| Choice { class: Arc::clone(&self.labels[i]), p: round4(self.p[i]) }));
        let last = self.last.replace(self.best.first().copied());
        self.report == Report::Every || last != self.last
    }

    pub fn restart(&mut self) {
        self.last = None;
    }
}
