//! The data that flows: samples from the sources, tensors between the stages, events to the sinks.
//!
//! Owned by no stage and imported by all. Types only: no device, no file, no model is touched here.
//! Buffers belong to the caller and are reused: the `clear`/`assign` style methods keep capacity.

mod event;
mod sample;
mod speaking;
mod tensor;

pub use event::{
    Advice, Choice, Decision, DecisionState, Event, EventKind, MAX_CHOICES, MAX_MODALITIES, ModalityState,
    ModalityView, SCHEMA_VERSION,
};
pub use sample::{AudioBlock, Frame, FrameSeq, PixelFormat, Reading, Sample, SampleIdx, Utterance};
pub use speaking::Speaking;
pub use tensor::{Embedding, MAX_RANK, Shape, Tensor, TensorData};
