//! Attendant: an embedded edge runtime for multimodal advisors.
//!
//! Camera, microphone, typed text and sensor readings become one unified tensor form, are encoded by one quantized
//! ONNX model per modality, fused by attention over tokens with mask and age, decided by a policy, and leave as events.
//!
//! # The map
//!
//! A module imports only from lower floors; siblings do not import each other (`tests/tidy.rs` checks it).
//!
//! | floor | modules | what they own |
//! |---|---|---|
//! | 0 | [`time`] [`queue`] [`metrics`] | the clock, bounded hand-over between threads, counters |
//! | 1 | [`signal`] [`board`] [`config`] | the data that flows, the board's constants, manifest and run-time configuration |
//! | 2 | [`bundle`] [`capture`] [`preprocess`] [`infer`] [`heads`] [`decide`] [`emit`] | one stage each |
//! | 3 | [`fuse`] | attention over the encoders' tokens, leave-one-out contributions |
//! | 4 | [`pipeline`] | one step from samples to events: no threads, no clock of its own |
//! | 5 | [`supervise`] | threads, pacing, restart |
//!
//! Time is an argument everywhere below floor 5, so that the whole pipeline runs in a test without sleeping.

pub mod board;
pub mod bundle;
pub mod capture;
pub mod config;
pub mod decide;
pub mod emit;
pub mod fuse;
pub mod heads;
pub mod infer;
pub mod metrics;
pub mod pipeline;
pub mod preprocess;
pub mod queue;
pub mod signal;
pub mod supervise;
pub mod time;
