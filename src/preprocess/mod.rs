//! Samples to tensors: one preprocessing for training and for running.
//!
//! Owns everything between a captured sample and the tensor an encoder takes: pictures ([`ImagePreprocessor`]), sound
//! ([`AudioPreprocessor`]), text ([`TextPreprocessor`]) and sensor readings ([`SeriesPreprocessor`]). The pipeline calls
//! it live, `eval` and the tensor export call the very same code, so that a model never meets a picture or a spectrum
//! that was made another way than in its training.
//!
//! Deliberately not here: when a window is due, which encoder gets it, and what happens to a token. Nothing here reads
//! a clock, a file or a device. After the first samples of a format nothing here allocates, except the library that
//! decodes JPEGs of other kinds than cameras send, or in colour, and the one of tokenizers other than WordPiece.

mod audio;
mod image;
mod mel;
mod resample;
mod series;
mod text;
mod wordpiece;

pub use audio::AudioPreprocessor;
pub use image::{ImagePreprocessor, JpegDecoding};
pub use series::SeriesPreprocessor;
pub use text::{TextPreprocessor, decode_lossy, is_sign};

use crate::signal::{Tensor, TensorData};

/// A preprocessing that cannot be set up, or a sample that cannot be used. Variants differ by what the caller does.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// The manifest, or a file it names, asks for something impossible: the bundle must be changed.
    /// `key = value, expected ...`
    #[error("{0}")]
    Spec(String),
    /// This sample cannot be used: skip and count it; the next one may be fine.
    #[error("{0}")]
    Sample(String),
    /// This sample is nothing that the model was made for, by the manifest's own bounds: its modality takes no part.
    #[error("{0}")]
    Refused(String),
}

impl PreprocessError {
    /// A value of the manifest that cannot be: `key = value, expected expectation`.
    fn spec(key: &str, value: impl std::fmt::Display, expected: impl std::fmt::Display) -> Self {
        PreprocessError::Spec(format!("{key} = {value}, expected {expected}"))
    }
}

/// One value stands for all channels.
fn for_each_channel(values: &[f32], channels: usize) -> Vec<f32> {
    if let [value] = values { vec![*value; channels] } else { values.to_vec() }
}

/// Makes `out` an f32 tensor of `shape` and lends its elements. Allocates only if it was another one.
fn f32_elements<'a>(out: &'a mut Tensor, shape: &[usize]) -> &'a mut [f32] {
    if out.shape != *shape || !matches!(out.data, TensorData::F32(_)) {
        *out = Tensor::zeros_f32(shape);
    }
    let elements: usize = shape.iter().product();
    let data = out.as_f32_mut().expect("the tensor has just been made f32");
    data.resize(elements, 0.0);
    data
}
