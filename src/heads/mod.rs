//! Heads: what a model's output means to people. Classes, boxes, neighbours in an index, tags of what goes on.
//!
//! Pure arithmetic over the output tensors of one encoder, told as an event of kind `result`. The pipeline makes a [`Head`] from
//! the bundle's manifest and runs it after every window; it deliberately reads no file, keeps no clock and knows no model.
//! After the first windows it allocates nothing, as long as sinks let go of an event before the next window.

mod classification;
mod detection;
pub mod index;
mod retrieval;
mod tagging;

use std::sync::Arc;

use crate::config::manifest::{Activation, EncoderSpec};
use crate::signal::{Found, HeadFiles, Placement, Tensor};
use crate::time::Micros;

use classification::Classifier;
use detection::Detector;
use index::Index;
use retrieval::Retriever;
use tagging::Tagger;

/// A head that does not fit its model or its files: the key, its value, what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HeadError(pub String);

/// An output of the model.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// Whether its elements are f32.
    pub is_f32: bool,
}

/// One encoder's head.
#[derive(Debug)]
pub struct Head {
    kind: Kind,
    slot: Slot,
}

#[derive(Debug)]
enum Kind {
    Classification(Classifier),
    Detection(Box<Detector>),
    Retrieval(Retriever),
    Tagging(Tagger),
}

/// The result that waits to be taken; its buffers are used again once nobody else holds it.
#[derive(Debug)]
struct Slot {
    found: Arc<Found>,
    of: Micros,
    is_pending: bool,
}

impl Head {
    /// The head that `spec` declares, for a model with `outputs`; none if it declares none.
    ///
    /// # Errors
    /// [`HeadError`]: an output that is not there or has another shape, a file that does not fit.
    pub fn new(spec: &EncoderSpec, files: HeadFiles, outputs: &[Port<'_>]) -> Result<Option<Self>, HeadError> {
        let (kind, found) = if let Some(head) = &spec.classification {
            let labels = files.labels.unwrap_or_default();
            let kind = Kind::Classification(Classifier::new(head, spec.temperature, labels, outputs)?);
            (kind, Found::Classification { classes: Vec::new() })
        } else if let Some(head) = &spec.detection {
            let size = spec.image.as_ref().map_or([0, 0], |image| image.size);
            let kind = Kind::Detection(Box::new(Detector::new(head, size, &files, outputs)?));
            (kind, Found::Detection { frame: [0, 0], detections: Vec::new() })
        } else if let Some(head) = &spec.retrieval {
            let index = Index::parse(&files.index.unwrap_or_default())
                .map_err(|e| HeadError(format!("retrieval.index = {:?}: {e}", head.index)))?;
            let kind = Kind::Retrieval(Retriever::new(head, index, outputs)?);
            (kind, Found::Retrieval { neighbours: Vec::new() })
        } else if let Some(head) = &spec.tagging {
            let kind = Kind::Tagging(Tagger::new(head, spec.temperature, outputs)?);
            (kind, Found::Tagging { tags: Vec::new() })
        } else {
            return Ok(None);
        };
        let slot = Slot { found: Arc::new(found), of: Micros::ZERO, is_pending: false };
        Ok(Some(Head { kind, slot }))
    }

    /// Looks at the outputs of a window captured at `t`. `placement` is where the tensor's picture lies in its frame.
    pub fn run(&mut self, outputs: &[Tensor], t: Micros, placement: Option<Placement>) {
        let tells = match (&mut self.kind, self.slot.edit()) {
            (Kind::Classification(head), Found::Classification { classes }) => head.run(outputs, classes),
            (Kind::Detection(head), Found::Detection { frame, detections }) => {
                *frame = placement.map_or([0, 0], |p| p.frame);
                head.run(outputs, placement, detections)
            }
            (Kind::Retrieval(head), Found::Retrieval { neighbours }) => head.run(outputs, neighbours),
            (Kind::Tagging(head), Found::Tagging { tags }) => head.run(outputs, t, tags),
            _ => unreachable!("a head and its result are made together"),
        };
        self.slot.is_pending |= tells;
        self.slot.of = t;
    }

    /// The source has failed, paused or been muted: what went on until `now` has ended, and nothing carries over.
    pub fn restart(&mut self, now: Micros) {
        match &mut self.kind {
            Kind::Classification(head) => head.restart(),
            Kind::Detection(head) => head.restart(),
            Kind::Retrieval(head) => head.restart(),
            Kind::Tagging(head) => {
                if let (true, Found::Tagging { tags }) = (head.has_begun(), self.slot.edit()) {
                    self.slot.is_pending |= head.restart(now, tags);
                    self.slot.of = now;
                }
            }
        }
    }

    /// The result that has not been told, and the capture time of what it is about.
    pub fn take(&mut self) -> Option<(Micros, Arc<Found>)> {
        let is_pending = std::mem::take(&mut self.slot.is_pending);
        is_pending.then(|| (self.slot.of, Arc::clone(&self.slot.found)))
    }
}

impl Slot {
    /// The result to write into: empty, unless it waits to be taken.
    fn edit(&mut self) -> &mut Found {
        let found = Arc::make_mut(&mut self.found);
        if !self.is_pending {
            match found {
                Found::Classification { classes } => classes.clear(),
                Found::Detection { detections, .. } => detections.clear(),
                Found::Retrieval { neighbours } => neighbours.clear(),
                Found::Tagging { tags } => tags.clear(),
            }
        }
        found
    }
}

/// Position of the output that `key` names, or of the only one; it must be f32.
fn pick(key: &str, name: Option<&str>, outputs: &[Port<'_>]) -> Result<usize, HeadError> {
    let known = || outputs.iter().map(|o| o.name).collect::<Vec<_>>().join(", ");
    let at = match name {
        Some(name) => outputs
            .iter()
            .position(|o| o.name == name)
            .ok_or_else(|| HeadError(format!("{key} = {name:?}, expected an output of the model: {}", known())))?,
        None if outputs.len() == 1 => 0,
        None => return Err(HeadError(format!("missing key `{key}`: the model has several outputs: {}", known()))),
    };
    if !outputs[at].is_f32 {
        return Err(HeadError(format!(
            "{key}: output {:?} is not f32; name another, or export it as f32",
            outputs[at].name
        )));
    }
    Ok(at)
}

/// As [`pick`], for an output with one number for each of `n`, whatever its dimensions.
fn pick_row(key: &str, name: Option<&str>, n: usize, of: &str, outputs: &[Port<'_>]) -> Result<usize, HeadError> {
    let at = pick(key, name, outputs)?;
    let port = &outputs[at];
    if port.shape.iter().product::<usize>() == n {
        return Ok(at);
    }
    Err(HeadError(format!(
        "{key}: output {:?} is {:?}, expected {n} numbers, one for each of the {of}",
        port.name, port.shape
    )))
}

/// Elements of an output; the load has checked that they are f32.
fn values(outputs: &[Tensor], at: usize) -> &[f32] {
    outputs[at].as_f32().unwrap_or_default()
}

/// Probabilities of `x / temperature`, in place.
fn activate(x: &mut [f32], activation: Activation, temperature: f32) {
    match activation {
        Activation::None => x.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0)),
        Activation::Sigmoid => x.iter_mut().for_each(|v| *v = sigmoid(*v / temperature)),
        Activation::Softmax => {
            let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            x.iter_mut().for_each(|v| *v = ((*v - most) / temperature).exp());
            let sum: f32 = x.iter().sum();
            x.iter_mut().for_each(|v| *v /= sum);
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Four decimals are what a reader can use, and keep a line short.
fn round4(x: f32) -> f32 {
    (x * 1e4).round() / 1e4
}

/// The `k` largest of `x` that reach `least`, largest first, of equals the first one first: positions into `best`.
fn top_k(x: &[f32], k: usize, least: f32, best: &mut Vec<usize>) {
    best.clear();
    for i in (0..x.len()).filter(|i| x[*i] >= least) {
        let at = best.iter().position(|&other| x[i] > x[other]).unwrap_or(best.len());
        if at < k {
            best.truncate(k - 1);
            best.insert(at, i);
        }
    }
}

#[cfg(test)]
mod tests;
