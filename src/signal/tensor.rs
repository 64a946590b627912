//! The unified tensor form between the stages, and the embedding that an encoder makes of it.

use serde::{Deserialize, Serialize};

use crate::time::Micros;

/// Most dimensions a tensor between stages can have.
pub const MAX_RANK: usize = 6;

/// Dimensions, outermost first.
pub type Shape = heapless::Vec<usize, MAX_RANK>;

/// Elements of a [`Tensor`], row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// ONNX `float`.
    F32(Vec<f32>),
    /// ONNX `int64`: token ids.
    I64(Vec<i64>),
    /// ONNX `bool`: masks.
    Bool(Vec<bool>),
}

/// A dense row-major tensor whose buffer is reused from window to window.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Dimensions, outermost first. `data` has their product of elements.
    pub shape: Shape,
    /// The elements.
    pub data: TensorData,
}

impl Tensor {
    /// Zeros of type f32.
    ///
    /// # Panics
    /// If `shape` has more than [`MAX_RANK`] dimensions.
    #[must_use]
    pub fn zeros_f32(shape: &[usize]) -> Self {
        Tensor { shape: shape_of(shape), data: TensorData::F32(vec![0.0; shape.iter().product()]) }
    }

    /// Zeros of type i64.
    ///
    /// # Panics
    /// If `shape` has more than [`MAX_RANK`] dimensions.
    #[must_use]
    pub fn zeros_i64(shape: &[usize]) -> Self {
        Tensor { shape: shape_of(shape), data: TensorData::I64(vec![0; shape.iter().product()]) }
    }

    /// All false.
    ///
    /// # Panics
    /// If `shape` has more than [`MAX_RANK`] dimensions.
    #[must_use]
    pub fn zeros_bool(shape: &[usize]) -> Self {
        Tensor { shape: shape_of(shape), data: TensorData::Bool(vec![false; shape.iter().product()]) }
    }

    /// The elements, if they are f32.
    #[must_use]
    pub fn as_f32(&self) -> Option<&[f32]> {
        if let TensorData::F32(v) = &self.data { Some(v) } else { None }
    }

    /// The elements to write, if they are f32.
    pub fn as_f32_mut(&mut self) -> Option<&mut Vec<f32>> {
        if let TensorData::F32(v) = &mut self.data { Some(v) } else { None }
    }

    /// The elements to write, if they are i64.
    pub fn as_i64_mut(&mut self) -> Option<&mut Vec<i64>> {
        if let TensorData::I64(v) = &mut self.data { Some(v) } else { None }
    }

    /// The elements to write, if they are bool.
    pub fn as_bool_mut(&mut self) -> Option<&mut Vec<bool>> {
        if let TensorData::Bool(v) = &mut self.data { Some(v) } else { None }
    }

    /// ONNX name of the element type: `float`, `int64`, `bool`.
    #[must_use]
    pub fn dtype(&self) -> &'static str {
        match self.data {
            TensorData::F32(_) => "float",
            TensorData::I64(_) => "int64",
            TensorData::Bool(_) => "bool",
        }
    }
}

/// A [`Shape`] from a slice.
///
/// # Panics
/// If `dims` has more than [`MAX_RANK`] entries: shapes come from checked manifests, so that is a broken invariant.
fn shape_of(dims: &[usize]) -> Shape {
    Shape::from_slice(dims).expect("a tensor between stages has at most MAX_RANK dimensions")
}

/// What an encoder makes of one window: a token for the fusion, and its own opinion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// Capture time that the token stands for: of the frame, of the end of the audio window, of the utterance.
    #[serde(rename = "t_us")]
    pub t: Micros,
    /// The token, f32 `[D]`.
    #[serde(with = "exact")]
    pub token: Vec<f32>,
    /// The encoder's own logits over the bundle's classes, f32 `[C]`; empty if the model has none.
    #[serde(default, with = "exact", skip_serializing_if = "Vec::is_empty")]
    pub logits: Vec<f32>,
    /// Logits over the encoder's intents, f32 `[I]`; empty if the encoder has none.
    #[serde(default, with = "exact", skip_serializing_if = "Vec::is_empty")]
    pub intents: Vec<f32>,
}

/// Finite f32 as text and back to the same bits: the decimals of the f64 of the same value survive a reader that is off by its last bit.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(values: &[f32], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(|v| f64::from(*v)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
        let values = Vec::<f64>::deserialize(from)?;
        Ok(values.into_iter().map(|v| v as f32).collect())
    }
}
