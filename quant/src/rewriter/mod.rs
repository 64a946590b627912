//! Finds the regions of a typed model that quantization parameters surround, and makes one operator of each.
//!
//! Runs on the model as it is typed, before tract declutters it: decluttering moves and folds what the patterns need, and
//! knows nothing of the integers. Three steps, a file each: [`units`] says what an island could compute, [`partition`]
//! which units go together, [`emit`] builds a [`Graph`] of each group and the model around it. The caller makes the
//! operator of a graph, and may refuse; what is refused stays in tract's f32 operators.
//!
//! Depends on tract-core only. It deliberately knows nothing of ONNX and nothing of kernels.

mod constants;
mod emit;
mod lut;
mod partition;
mod products;
mod units;

use std::collections::{BTreeMap, HashSet};

use tract_core::internal::*;

use super::constant;
use super::graph::Graph;

/// What the rewriter did, for `inspect` and `bench`.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of the plan.
    pub islands: Vec<IslandReport>,
    /// Nodes of the typed model that stay tract's, with why where a product could have been int8.
    pub left: BTreeMap<String, Option<String>>,
}

/// One island.
#[derive(Clone, Debug)]
pub struct IslandReport {
    /// Name of the model's node and operator, for each step.
    pub steps: Vec<(String, String)>,
}

/// Makes the operator that computes a graph, or says why it cannot.
pub(crate) type Make<'a> = &'a dyn Fn(Graph) -> TractResult<Box<dyn TypedOp>>;

/// Every island at a time is refused at most; this bounds the search in a model that none of them fits.
const ATTEMPTS_MAX: usize = 64;

/// Rewrites `model`, whose input shapes should be fixed; what has no fixed shape stays as it is.
///
/// # Errors
/// The model contradicts itself.
pub(crate) fn rewrite(model: TypedModel, make: Make<'_>) -> TractResult<(TypedModel, Report)> {
    let mut refused: HashSet<OutletId> = HashSet::new();
    let mut reasons = BTreeMap::new();
    for _ in 0..ATTEMPTS_MAX {
        let mut matcher = units::Matcher::new(&model, refused.clone())?;
        let Some(partition) = partition::Partition::of(&mut matcher)? else { break };
        match emit::emit(&matcher, &partition, make)? {
            emit::Outcome::Done(mut rewritten, mut report) => {
                constant::dequantize_left(&mut rewritten)?;
                for (node, reason) in reasons {
                    report.left.entry(node).and_modify(|r| *r = Some(reason));
                }
                return Ok((rewritten, report));
            }
            emit::Outcome::Refused { outlets, reason } => {
                for outlet in &outlets {
                    reasons.insert(model.node(outlet.node).name.clone(), reason.clone());
                }
                refused.extend(outlets);
            }
        }
    }
    let mut model = model;
    let left = |n: &TypedNode| (n.name.clone(), reasons.get(&n.name).cloned());
    let report = Report { islands: Vec::new(), left: model.nodes().iter().map(left).collect() };
    constant::dequantize_left(&mut model)?;
    Ok((model, report))
}

#[cfg(test)]
mod tests;
