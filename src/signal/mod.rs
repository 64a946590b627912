//! The data that flows: samples from the sources, tensors between the stages, events to the sinks.
//!
//! Owned by no stage and imported by all. Types only: no device, no file, no model is touched here. Beside the data stand what may be asked
//! of a run ([`Command`], [`Mailbox`]) and what may be seen of it ([`Monitor`]).
//! Buffers belong to the caller and are reused: the `clear`/`assign` style methods keep capacity.

mod command;
mod event;
mod monitor;
mod notices;
mod preview;
mod result;
mod sample;
mod speaking;
mod tape;
mod tensor;

pub use command::{COMMANDS_MAX, Command, Mailbox, Posted, Refusal, RefusalKind, Reply, TEXT_CHARS_MAX};
pub use event::{
    Advice, Choice, DecidedBy, Decision, DecisionState, Event, EventKind, MAX_CHOICES, MAX_MODALITIES, MUTED,
    ModalityState, ModalityView, OFFER_HOLDS, SCHEMA_VERSION, StageCounters,
};
pub use monitor::{About, Latencies, Listing, Monitor, RecorderCounts, SNAPSHOT_EVERY, Snapshot, SourceView};
pub use notices::{NOTICES_MAX, Notice, Notices};
pub use preview::Preview;
pub use result::{Detection, Found, HeadFiles, MAX_LANDMARKS, Neighbour, Placement, TagChange, TagState};
pub use sample::{AudioBlock, Frame, FrameSeq, PixelFormat, Reading, Sample, SampleIdx, Utterance};
pub use speaking::Speaking;
pub use tape::{Answer, Call, Detail, Made, Tape};
pub use tensor::{Embedding, MAX_RANK, Shape, Tensor, TensorData};
