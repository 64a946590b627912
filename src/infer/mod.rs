//! Tensors to embeddings: quantized ONNX models on tract.
//!
//! Owns everything that names tract: the ONNX importer, the quantization operators, loading with every declared shape
//! and type checked against the file, and running with persistent state. The bundle's loader builds the models, the
//! pipeline and the fusion run them. It deliberately knows nothing about where tensors come from, and starts no thread.

mod branches;
mod constant;
mod encoder;
mod error;
mod fold;
mod inspect;
mod lint;
mod lower;
mod model;
#[cfg(test)]
mod node_tests;
mod onnx;

pub use encoder::{Encoder, OnnxEncoder};
pub use error::{InferError, InferErrorKind};
pub use inspect::{
    Inspection, IslandInfo, IslandStep, Memory, NodeInfo, Precision, TensorInfo, Unsupported, declared, inspect,
    inspect_bytes, inspect_with,
};
pub use lint::{Finding, Origin, Severity, state_pairs};
pub use model::{Dtype, InputFact, Model, OutputInfo, StepTime};

/// The instructions that the integer kernels of this process use: the best the CPU has, or what `ATTENDANT_CPU` names.
///
/// # Errors
/// [`InferError::Cpu`].
pub fn kernel_tier() -> Result<String, InferError> {
    attendant_quant::Tier::current().map(|tier| tier.to_string()).map_err(|e| InferError::Cpu { reason: e.to_string() })
}
