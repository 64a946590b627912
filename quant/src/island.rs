//! A region of int8 operators as one operator of tract.
//!
//! tract's plan costs a good part of a microsecond per node and allocates; small models are a few microseconds altogether.
//! So a whole [`Graph`] is one node: its state holds the arena, and a run allocates nothing but the tensors that tract takes
//! away. The rewriter makes it, `inspect` and `bench` ask it what it does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tract_core::internal::*;

use super::graph::{Graph, Number, Value};
use super::plan::{Plan, State, StepInfo};
use super::tier::Tier;

/// Nanoseconds of a clock that never goes back.
pub type ClockNs = fn() -> u64;

/// Time spent per step, once somebody asks for it.
#[derive(Debug, Default)]
struct Profile {
    clock: OnceLock<ClockNs>,
    runs: AtomicU64,
    nanos: Vec<AtomicU64>,
}

/// A step with the time it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// What it is.
    pub step: StepInfo,
    /// Over all measured runs, in nanoseconds.
    pub total_ns: u64,
}

/// The operator. Inputs and outputs are the graph's, in its order.
#[derive(Clone, Debug)]
pub struct Island {
    graph: Arc<Graph>,
    plan: Arc<Plan>,
    tier: Tier,
    profile: Arc<Profile>,
}

impl PartialEq for Island {
    fn eq(&self, other: &Self) -> bool {
        self.tier == other.tier && self.graph == other.graph
    }
}

impl Eq for Island {}

impl Island {
    /// Plans `graph` for a tier.
    ///
    /// # Errors
    /// If the graph contradicts itself, or the CPU has not the tier; the message names the node.
    pub(crate) fn new(graph: Graph, tier: Tier) -> TractResult<Self> {
        let plan = Plan::new(&graph, tier)?;
        let nanos = plan.describe().iter().map(|_| AtomicU64::new(0)).collect();
        let profile = Profile { nanos, ..Profile::default() };
        Ok(Island { graph: Arc::new(graph), plan, tier, profile: Arc::new(profile) })
    }

    /// Instructions that its kernels use.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Its kernel calls in order.
    pub fn describe(&self) -> Vec<StepInfo> {
        self.plan.describe()
    }

    /// Bytes that a state needs.
    pub fn arena_bytes(&self) -> usize {
        self.plan.arena_bytes()
    }

    /// From here on every run, also of this operator's clones, is measured step by step.
    pub fn measure(&self, clock: ClockNs) {
        // A second clock would be the same one.
        let _ = self.profile.clock.set(clock);
    }

    /// Measured runs, and the time of every step.
    pub fn measured(&self) -> (u64, Vec<Measured>) {
        let nanos = self.profile.nanos.iter().map(|n| n.load(Ordering::Relaxed));
        let steps = self.describe().into_iter().zip(nanos);
        let steps = steps.map(|(step, total_ns)| Measured { step, total_ns }).collect();
        (self.profile.runs.load(Ordering::Relaxed), steps)
    }

    fn value_facts(&self) -> TVec<TypedFact> {
        self.graph.outputs.iter().map(|id| fact(&self.graph.values[id.0])).collect()
    }

    fn run(&self, state: &mut State, inputs: &[TValue]) -> TractResult<TVec<TValue>> {
        for (tensor, id) in inputs.iter().zip(&self.graph.inputs) {
            let value = &self.graph.values[id.0];
            ensure!(
                tensor.shape() == &value.shape[..] && tensor.datum_type() == datum_type(value),
                "input `{}` is {:?} {:?}, expected {:?} {:?}",
                value.name,
                tensor.datum_type(),
                tensor.shape(),
                datum_type(value),
                value.shape
            );
        }
        let mut outputs: TVec<Tensor> = self
            .graph
            .outputs
            .iter()
            .map(|id| {
                let value = &self.graph.values[id.0];
                Tensor::zero_dt(datum_type(value), &value.shape)
            })
            .collect::<TractResult<_>>()?;
        let reads: TVec<&[u8]> = inputs.iter().map(|t| t.as_bytes()).collect();
        {
            let mut writes: TVec<&mut [u8]> = outputs.iter_mut().map(Tensor::as_bytes_mut).collect();
            match self.profile.clock.get() {
                None => self.plan.run(state, &reads, &mut writes)?,
                Some(now) => {
                    let mut before = now();
                    self.plan.run_with(state, &reads, &mut writes, |step| {
                        let after = now();
                        self.profile.nanos[step].fetch_add(after.saturating_sub(before), Ordering::Relaxed);
                        before = after;
                    })?;
                    self.profile.runs.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(outputs.into_iter().map(Tensor::into_tvalue).collect())
    }
}

fn datum_type(value: &Value) -> DatumType {
    match value.number {
        Number::F32 => DatumType::F32,
        Number::Int(affine) => affine.int.datum_type(),
    }
}

fn fact(value: &Value) -> TypedFact {
    datum_type(value).fact(&value.shape[..])
}

impl Op for Island {
    fn name(&self) -> StaticName {
        "Int8Island".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        let steps = self.describe();
        let macs: u64 = steps.iter().map(|s| s.macs).sum();
        Ok(vec![format!("{} steps on {}, {macs} MACs, {} bytes", steps.len(), self.tier, self.arena_bytes())])
    }

    op_as_typed_op!();
}

/// The arena of one session.
#[derive(Clone, Debug)]
struct IslandState(State);

impl OpState for IslandState {
    fn eval(&mut self, _: &EvalContext, op: &dyn Op, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let island = op.downcast_ref::<Island>().context("state of an island given to another operator")?;
        island.run(&mut self.0, &inputs)
    }

    /// Nothing is carried from one run to the next.
    fn reset_lanes(&mut self, _: &[LaneId]) -> TractResult<()> {
        Ok(())
    }
}

impl EvalOp for Island {
    fn state(&self, _: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        Ok(Some(Box::new(IslandState(self.plan.state()))))
    }

    not_out_of_plan!();
}

impl TypedOp for Island {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(
            inputs.len() == self.graph.inputs.len(),
            "{} inputs, expected {}",
            inputs.len(),
            self.graph.inputs.len()
        );
        for (given, id) in inputs.iter().zip(&self.graph.inputs) {
            let value = &self.graph.values[id.0];
            let expected = fact(value);
            ensure!(
                given.datum_type == expected.datum_type && given.shape == expected.shape,
                "input `{}` is {given:?}, expected {expected:?}",
                value.name
            );
        }
        Ok(self.value_facts())
    }

    as_op!();
}
