//! What can go wrong between a model file and its outputs.

use std::path::PathBuf;

/// Why a model cannot be loaded or its outputs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// The file is not there or cannot be read.
    #[error("{}: {source}; check the model's path in bundle.toml", path.display())]
    Read {
        /// The model file.
        path: PathBuf,
        /// From the operating system.
        source: std::io::Error,
    },
    /// Not an ONNX file, cut off, or damaged.
    #[error("{model}: not a usable ONNX file: {reason}; export or copy it again")]
    Corrupt {
        /// The model file.
        model: String,
        /// What the parser or the type checker says.
        reason: String,
    },
    /// `ATTENDANT_CPU` names instructions that are unknown, or that this CPU has not.
    #[error("{reason}; set it to one of these, or unset it")]
    Cpu {
        /// The variable, its value and what was expected.
        reason: String,
    },
    /// A node's operator is unknown to the engine.
    #[error("{model}: node `{node}` needs operator {op}, which is not supported; `attendant inspect` lists what is")]
    UnsupportedOp {
        /// The model file.
        model: String,
        /// Name of the node, or of its first output if it has none.
        node: String,
        /// `Op` or `domain.Op`.
        op: String,
    },
    /// What the bundle declares and what the file says differ.
    #[error("{model}: {reason}")]
    Mismatch {
        /// The model file.
        model: String,
        /// What is wrong: the tensor, what the file has, what was expected.
        reason: String,
    },
    /// The engine stopped while running the model.
    #[error("{model}: inference stopped: {reason}")]
    Run {
        /// The model file.
        model: String,
        /// What the engine says.
        reason: String,
    },
    /// A NaN or an infinity where a number is needed; nothing is decided on it.
    #[error("{model}: {tensor} has {value} at index {index}, expected finite numbers")]
    NotFinite {
        /// The model file.
        model: String,
        /// ``output `logits` `` or ``input `image` ``.
        tensor: String,
        /// Position in row-major order.
        index: usize,
        /// NaN, inf or -inf.
        value: f32,
    },
}

/// What a caller can do about an [`InferError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InferErrorKind {
    /// The bundle is wrong: do not start.
    Exit,
    /// This window is lost: mark the modality as failed and go on with the next.
    Degrade,
}

impl InferError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> InferErrorKind {
        match self {
            InferError::Run { .. } | InferError::NotFinite { .. } => InferErrorKind::Degrade,
            _ => InferErrorKind::Exit,
        }
    }
}
