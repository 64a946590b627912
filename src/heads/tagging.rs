//! Tags of what goes on: entered and left with hysteresis, from window to window.

use std::sync::Arc;

use crate::config::manifest::{Activation, TaggingSpec};
use crate::signal::{TagChange, TagState, Tensor};
use crate::time::Micros;

use super::{HeadError, Port, activate, pick_row, round4, values};

#[derive(Debug)]
pub(super) struct Tagger {
    output: usize,
    activation: Activation,
    temperature: f32,
    enter: f32,
    exit: f32,
    min_on: Micros,
    min_off: Micros,
    tags: Vec<Tag>,
    p: Vec<f32>,
}

/// One tag on its way.
#[derive(Debug)]
struct Tag {
    name: Arc<str>,
    holds: bool,
    /// Since when the windows speak for a change.
    since: Option<Micros>,
}

impl Tagger {
    pub fn new(spec: &TaggingSpec, temperature: f32, outputs: &[Port<'_>]) -> Result<Self, HeadError> {
        let output = pick_row("tagging.output", spec.output.as_deref(), spec.tags.len(), "tags", outputs)?;
        let tag = |name: &String| Tag { name: name.as_str().into(), holds: false, since: None };
        Ok(Tagger {
            output,
            activation: spec.activation,
            temperature,
            enter: spec.enter,
            exit: spec.exit,
            min_on: Micros::from_ms(spec.min_on_ms.into()),
            min_off: Micros::from_ms(spec.min_off_ms.into()),
            tags: spec.tags.iter().map(tag).collect(),
            p: vec![0.0; spec.tags.len()],
        })
    }

    /// Appends what changed in the window that ends at `t`; whether anything did.
    pub fn run(&mut self, outputs: &[Tensor], t: Micros, into: &mut Vec<TagChange>) -> bool {
        self.p.copy_from_slice(values(outputs, self.output));
        activate(&mut self.p, self.activation, self.temperature);
        let before = into.len();
        for (tag, p) in self.tags.iter_mut().zip(&self.p) {
            let (speaks_for_change, least) =
                if tag.holds { (*p < self.exit, self.min_off) } else { (*p >= self.enter, self.min_on) };
            if !speaks_for_change {
                tag.since = None;
                continue;
            }
            // times that went back begin anew
            let since = tag.since.map_or(t, |since| since.min(t));
            tag.since = Some(since);
            if t - since >= least {
                tag.holds = !tag.holds;
                tag.since = None;
                let state = if tag.holds { TagState::Enter } else { TagState::Exit };
                into.push(TagChange { tag: Arc::clone(&tag.name), state, p: round4(*p), since_us: since });
            }
        }
        into.len() > before
    }

    /// Whether a tag holds or is on its way.
    pub fn has_begun(&self) -> bool {
        self.tags.iter().any(|t| t.holds || t.since.is_some())
    }

    /// Leaves every tag that holds; whether one did.
    pub fn restart(&mut self, now: Micros, into: &mut Vec<TagChange>) -> bool {
        let before = into.len();
        for tag in &mut self.tags {
            tag.since = None;
            if std::mem::take(&mut tag.holds) {
                let tag = Arc::clone(&tag.name);
                into.push(TagChange { tag, state: TagState::Exit, p: 0.0, since_us: now });
            }
        }
        into.len() > before
    }
}
