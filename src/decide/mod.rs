//! Fused probabilities to decisions and advice.
//!
//! Owns the decision's state machine ([`step`], and [`choose`] for a visitor who answers on a page), its checked rules
//! ([`Policy`]), the advice catalogue ([`advice`]) and the measures of `eval`: of rows ([`score`]), of what is shown over time
//! ([`matching`]), of two bundles ([`compare`]); [`trace`] decides again what was decided once. The pipeline calls `step` on
//! every fused result. Deliberately pure: no clock, no files, no sink, and it does not know where a probability came from.
//! docs/decision.md draws the machine.

pub mod advice;
pub mod compare;
pub mod matching;
mod policy;
pub mod score;
mod step;
pub mod trace;

pub use advice::{Catalogue, Lang, decision};
pub use policy::{Policy, PolicyError};
pub use step::{Choosable, Counters, FusedView, MAX_VERDICTS, NotChosen, State, Verdict, Verdicts, choose, step};
