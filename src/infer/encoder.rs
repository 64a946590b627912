//! An encoder: one modality's tensor in, an embedding out.

use std::path::Path;

use super::error::InferError;
use super::model::{Dtype, InputFact, Model, shape_text};
use crate::config::manifest::EncoderSpec;
use crate::signal::{Embedding, Tensor};
use crate::time::Micros;

/// Turns the tensor of one window into a token and opinions.
pub trait Encoder {
    /// Encodes `input`, captured at `t`, into `out`, whose buffers are reused.
    ///
    /// # Errors
    /// The input does not fit, or the model fails or gives NaN; `out` is then unspecified and must not be used.
    fn encode(&mut self, input: &Tensor, t: Micros, out: &mut Embedding) -> Result<(), InferError>;

    /// Forgets what was carried from earlier windows: after a gap in the input.
    fn reset_state(&mut self) {}
}

/// An encoder that is an ONNX model with outputs `embedding` f32 `[1,D]`, `logits` f32 `[1,C]` and, if the manifest
/// names it, one of intents f32 `[1,I]`.
#[derive(Debug)]
pub struct OnnxEncoder {
    model: Model,
    outputs: Vec<Tensor>,
    embedding: Option<usize>,
    logits: Option<usize>,
    intents: Option<usize>,
    temperature: f32,
    intents_temperature: f32,
}

impl OnnxEncoder {
    /// Loads `spec.model` from `dir`, for inputs of `dtype` and `shape`, with `n_classes` logits. An encoder with a head in a bundle
    /// without classes may have any outputs: its head looks at them.
    ///
    /// # Errors
    /// As [`Model::load`]; also if the outputs are not the ones of the contract above, or a temperature is not positive.
    pub fn load(
        spec: &EncoderSpec,
        dir: &Path,
        dtype: Dtype,
        shape: &[usize],
        n_classes: usize,
    ) -> Result<Self, InferError> {
        let path = dir.join(&spec.model);
        let model = Model::load_with(&path, &[InputFact { name: None, dtype, shape }], &spec.state, &spec.constant)?;
        let has_only_a_head = spec.has_head() && n_classes == 0;
        let (mut embedding, mut logits) = (None, None);
        if !has_only_a_head {
            embedding = row(&model, "embedding", None)?;
            logits = row(&model, "logits", Some(n_classes))?;
        }
        if embedding.is_none() && logits.is_none() && !has_only_a_head {
            let reason = "has neither an output `embedding` nor `logits`; name the outputs when exporting".into();
            return Err(InferError::Mismatch { model: model.name().into(), reason });
        }
        let mut intents = None;
        if let Some(spec) = &spec.intents {
            intents = row(&model, &spec.output, None)?;
            if intents.is_none() {
                let reason = format!("has no output `{}`, which encoder.intents declares", spec.output);
                return Err(InferError::Mismatch { model: model.name().into(), reason });
            }
        }
        let intents_temperature = spec.intents.as_ref().map_or(1.0, |i| i.temperature);
        for t in [spec.temperature, intents_temperature] {
            if !(t.is_finite() && t > 0.0) {
                let reason = format!("temperature of encoder `{}` is {t}, expected a positive number", spec.name);
                return Err(InferError::Mismatch { model: model.name().into(), reason });
            }
        }
        let outputs = model.new_outputs();
        Ok(OnnxEncoder {
            model,
            outputs,
            embedding,
            logits,
            intents,
            temperature: spec.temperature,
            intents_temperature,
        })
    }

    /// Length D of the token; None if the model gives none.
    #[must_use]
    pub fn token_len(&self) -> Option<usize> {
        self.embedding.map(|i| self.model.outputs()[i].shape[1])
    }

    /// Number of intents; None if the manifest declares none.
    #[must_use]
    pub fn intent_count(&self) -> Option<usize> {
        self.intents.map(|i| self.model.outputs()[i].shape[1])
    }

    /// Whether the model has logits of its own.
    #[must_use]
    pub fn has_logits(&self) -> bool {
        self.logits.is_some()
    }

    /// The outputs of the last run, in the order of [`Model::outputs`].
    #[must_use]
    pub fn outputs(&self) -> &[Tensor] {
        &self.outputs
    }

    /// The model inside.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }
}

impl Encoder for OnnxEncoder {
    /// Logits and intents are divided by their temperatures: a softmax of them is calibrated.
    fn encode(&mut self, input: &Tensor, t: Micros, out: &mut Embedding) -> Result<(), InferError> {
        self.model.run(&[input], &mut self.outputs)?;
        out.t = t;
        copy_scaled(self.embedding.map(|i| &self.outputs[i]), 1.0, &mut out.token);
        copy_scaled(self.logits.map(|i| &self.outputs[i]), self.temperature, &mut out.logits);
        copy_scaled(self.intents.map(|i| &self.outputs[i]), self.intents_temperature, &mut out.intents);
        Ok(())
    }

    fn reset_state(&mut self) {
        self.model.reset_state();
    }
}

/// Position of the output `name`, which must be f32 `[1, len]`; None if there is none of that name.
fn row(model: &Model, name: &str, len: Option<usize>) -> Result<Option<usize>, InferError> {
    let Some(ix) = model.output_index(name) else { return Ok(None) };
    let info = &model.outputs()[ix];
    let fits = info.dtype == Dtype::F32
        && info.shape.len() == 2
        && info.shape[0] == 1
        && len.is_none_or(|len| info.shape[1] == len);
    if fits {
        return Ok(Some(ix));
    }
    let expected = len.map_or("N".into(), |l| l.to_string());
    let found = shape_text(&info.shape);
    let reason = format!("output `{name}` is {} {found}, expected f32 [1,{expected}]", info.dtype);
    Err(InferError::Mismatch { model: model.name().into(), reason })
}

fn copy_scaled(from: Option<&Tensor>, divisor: f32, to: &mut Vec<f32>) {
    to.clear();
    if let Some(x) = from.and_then(Tensor::as_f32) {
        to.extend(x.iter().map(|x| x / divisor));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::manifest::Manifest;

    const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/models");

    fn spec(keys: &str) -> EncoderSpec {
        let text =
            format!("[bundle]\nname = \"t\"\nversion = \"1\"\n[[encoder]]\nname = \"e\"\nsource = \"s\"\n{keys}\n");
        toml::from_str::<Manifest>(&text).unwrap().encoder.remove(0)
    }

    const REQUEST: &str = "model = \"request.onnx\"\ntemperature = 2.0\n[encoder.intents]\nlabels = \"i\"\nthreshold = 0.5\ntemperature = 4.0";

    fn ids() -> Tensor {
        let mut ids = Tensor::zeros_i64(&[1, 6]);
        ids.as_i64_mut().unwrap().copy_from_slice(&[3, 1, 4, 1, 5, 0]);
        ids
    }

    #[test]
    fn an_embedding_has_its_token_and_scaled_logits_and_intents() {
        let load = |keys: &str| OnnxEncoder::load(&spec(keys), Path::new(DIR), Dtype::I64, &[1, 6], 3).unwrap();
        let mut encoder = load(REQUEST);
        assert_eq!((encoder.token_len(), encoder.intent_count(), encoder.has_logits()), (Some(8), Some(5), true));
        let mut plain = load(&REQUEST.replace("temperature = 2.0", "").replace("temperature = 4.0", ""));
        let (mut a, mut b) = (Embedding::default(), Embedding::default());
        encoder.encode(&ids(), Micros(7), &mut a).unwrap();
        plain.encode(&ids(), Micros(7), &mut b).unwrap();
        assert_eq!((a.t, a.token.len(), a.logits.len(), a.intents.len()), (Micros(7), 8, 3, 5));
        assert_eq!(a.token, b.token);
        assert!(a.logits.iter().zip(&b.logits).all(|(a, b)| *a == b / 2.0));
        assert!(a.intents.iter().zip(&b.intents).all(|(a, b)| *a == b / 4.0));
        assert!(a.logits.iter().any(|l| *l != 0.0));
    }

    #[test]
    fn buffers_are_reused() {
        let mut encoder = OnnxEncoder::load(&spec(REQUEST), Path::new(DIR), Dtype::I64, &[1, 6], 3).unwrap();
        let mut out = Embedding::default();
        encoder.encode(&ids(), Micros(0), &mut out).unwrap();
        let at = (out.token.as_ptr(), out.logits.as_ptr(), out.intents.as_ptr());
        encoder.encode(&ids(), Micros(1), &mut out).unwrap();
        assert_eq!(at, (out.token.as_ptr(), out.logits.as_ptr(), out.intents.as_ptr()));
    }

    #[test]
    fn a_model_that_breaks_the_contract_is_refused() {
        let i64s = (Dtype::I64, &[1usize, 6][..]);
        let cases = [
            (REQUEST.to_string(), i64s, 4, "output `logits` is f32 [1,3], expected f32 [1,4]"),
            (
                REQUEST.replace("[encoder.intents]", "[encoder.intents]\noutput = \"moods\""),
                i64s,
                3,
                "has no output `moods`",
            ),
            (REQUEST.replace("temperature = 2.0", "temperature = 0.0"), i64s, 3, "temperature of encoder `e` is 0"),
            (
                "model = \"log.onnx\"".to_string(),
                (Dtype::F32, &[1, 4][..]),
                3,
                "neither an output `embedding` nor `logits`",
            ),
        ];
        for (keys, (dtype, shape), classes, expect) in cases {
            let e = OnnxEncoder::load(&spec(&keys), Path::new(DIR), dtype, shape, classes).unwrap_err().to_string();
            assert!(e.contains(expect), "{e}");
        }
    }
}
