//! From a [`Graph`] to a flat list of kernel calls over one arena.
//!
//! [`lower`] chooses layouts and packs weights, [`arena`] gives every buffer its place by liveness, [`steps`] are the kernel
//! calls. A [`Plan`] is immutable and shared; what changes in a run is in a [`State`]. It deliberately knows nothing of
//! tract's operators.

mod arena;
mod lower;
mod steps;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use tract_core::internal::{TractResult, ensure};

use super::graph::Graph;
use super::kernel::memory::{Arena, Memory, Place, Table};
use super::tier::Tier;
use steps::Task;

/// What a step is, for `inspect` and `bench`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepInfo {
    /// Name of the model's node.
    pub name: String,
    /// Operator, as the kernels call it.
    pub operator: &'static str,
    /// Instructions that it uses.
    pub tier: Tier,
    /// Multiplications and additions of weights; 0 where there are none.
    pub macs: u64,
}

/// A kernel call, and which buffers must be alive.
#[derive(Clone, Debug)]
struct Step {
    info: StepInfo,
    task: Task,
    reads: Vec<usize>,
    writes: Vec<usize>,
}

/// A graph made ready for one tier.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    tier: Tier,
    steps: Vec<Step>,
    places: Vec<Place>,
    arena_bytes: usize,
    inputs: usize,
    outputs: usize,
}

/// The memory of a plan's runs.
#[derive(Clone, Debug)]
pub(crate) struct State {
    arena: Arena,
    table: Table,
}

impl Plan {
    /// Packs weights and plans memory.
    ///
    /// # Errors
    /// If the graph contradicts itself; the message names the node.
    pub(crate) fn new(graph: &Graph, tier: Tier) -> TractResult<Arc<Self>> {
        ensure!(tier.is_supported(), "this CPU has no {tier}");
        lower::lower(graph, tier).map(Arc::new)
    }

    /// Memory for runs, one at a time.
    pub(crate) fn state(&self) -> State {
        State { arena: Arena::new(self.arena_bytes), table: Table::default() }
    }

    /// Its steps in order.
    pub(crate) fn describe(&self) -> Vec<StepInfo> {
        self.steps.iter().map(|s| s.info.clone()).collect()
    }

    /// Bytes of the arena.
    pub(crate) fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// One inference; tensors as bytes, dense, in the model's order.
    ///
    /// # Errors
    /// If the number of tensors is wrong, or real numbers that are quantized by their range have none.
    pub(crate) fn run(&self, state: &mut State, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> TractResult<()> {
        self.run_with(state, inputs, outputs, |_| {})
    }

    /// The same; `done` is called after every step with its index.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub(crate) fn run_with(
        &self,
        state: &mut State,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        mut done: impl FnMut(usize),
    ) -> TractResult<()> {
        ensure!(
            inputs.len() == self.inputs && outputs.len() == self.outputs,
            "{} inputs and {} outputs given, expected {} and {}",
            inputs.len(),
            outputs.len(),
            self.inputs,
            self.outputs
        );
        let mut memory = Memory::new(&mut state.table, &self.places, &mut state.arena, inputs, outputs);
        for (i, step) in self.steps.iter().enumerate() {
            step.task.run(self.tier, &mut memory)?;
            done(i);
        }
        Ok(())
    }
}
