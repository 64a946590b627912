//! The entries of an index that are most like a window.

use std::sync::Arc;

use crate::config::manifest::{Report, RetrievalSpec};
use crate::signal::{Neighbour, Tensor};

use super::index::{Index, normalize};
use super::{HeadError, Port, pick, round4, values};

#[derive(Debug)]
pub(super) struct Retriever {
    output: usize,
    index: Index,
    top_k: usize,
    min_similarity: f32,
    report: Report,
    query: Vec<f32>,
    /// Rows of the index with their similarity, most alike first.
    best: Vec<(usize, f32)>,
    last: Option<Option<Arc<str>>>,
}

impl Retriever {
    pub fn new(spec: &RetrievalSpec, index: Index, outputs: &[Port<'_>]) -> Result<Self, HeadError> {
        let output = pick("retrieval.output", spec.output.as_deref(), outputs)?;
        let (name, dim) = (outputs[output].name, outputs[output].shape.iter().product::<usize>());
        if dim != index.dim() {
            return Err(HeadError(format!(
                "retrieval.index = {:?} has vectors of {}, the output {name:?} has {dim}; make it anew with `attendant index`",
                spec.index,
                index.dim()
            )));
        }
        Ok(Retriever {
            output,
            top_k: spec.top_k,
            min_similarity: spec.min_similarity,
            report: spec.report,
            query: vec![0.0; dim],
            best: Vec::with_capacity(spec.top_k + 1),
            last: None,
            index,
        })
    }

    /// Writes the nearest entries; whether that is to be told.
    pub fn run(&mut self, outputs: &[Tensor], into: &mut Vec<Neighbour>) -> bool {
        self.query.copy_from_slice(values(outputs, self.output));
        normalize(&mut self.query);
        self.index.nearest(&self.query, self.top_k, self.min_similarity, &mut self.best);
        into.clear();
        into.extend(
            self.best.iter().map(|&(row, s)| Neighbour {
                id: Arc::clone(self.index.id(row)),
                similarity: round4(s.clamp(-1.0, 1.0)),
            }),
        );
        let last = self.last.replace(self.best.first().map(|&(row, _)| Arc::clone(self.index.id(row))));
        self.report == Report::Every || last != self.last
    }

    pub fn restart(&mut self) {
        self.last = None;
    }
}
