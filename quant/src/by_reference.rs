//! An island that the integer reference computes: what the rewriter is tested with, apart from every kernel.

use tract_core::internal::*;

use super::graph::{Graph, Number, ValueId};
use super::reference;

/// A graph as an operator of tract, computed by [`reference`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReferenceIsland(pub(crate) Arc<Graph>);

impl Eq for ReferenceIsland {}

impl Op for ReferenceIsland {
    fn name(&self) -> StaticName {
        "ReferenceIsland".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ReferenceIsland {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let inputs: Vec<Tensor> = inputs.into_iter().map(IntoTensor::into_tensor).collect();
        Ok(reference::run(&self.0, &inputs)?.into_iter().map(IntoTValue::into_tvalue).collect())
    }
}

impl TypedOp for ReferenceIsland {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let fact = |id: &ValueId| -> TractResult<TypedFact> {
            let value = self.0.values.get(id.0).context("an output is no value")?;
            let dt = match value.number {
                Number::F32 => DatumType::F32,
                Number::Int(affine) => affine.int.datum_type(),
            };
            Ok(dt.fact(&value.shape[..]))
        };
        self.0.outputs.iter().map(fact).collect()
    }

    as_op!();
}
