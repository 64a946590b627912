//! Attention over the encoders' tokens, with mask, age and leave-one-out contributions.
//!
//! Owns the fusion model and the arithmetic around it: softmax with the calibrated temperature, attention as weights,
//! and what each modality contributed. The pipeline calls it once per decision step, with the tokens it holds to be
//! fresh. It deliberately does not know what a modality is, when a token is stale, or what a class is called.

use std::path::Path;

use crate::config::manifest::FusionSpec;
use crate::infer::{Dtype, InferError, InputFact, Model};
use crate::signal::{Embedding, Tensor};
use crate::time::Micros;

/// One modality's part in a fusion, in the order of the bundle's encoders.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenView<'a> {
    /// Its latest embedding; None masks the modality out.
    pub embedding: Option<&'a Embedding>,
    /// Age of the embedding.
    pub age: Micros,
}

/// What a fusion says. The buffers are reused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fused {
    /// Calibrated probability of every class, f32 `[C]`, sum 1.
    pub probabilities: Vec<f32>,
    /// The likeliest class; of equals the first.
    pub class: usize,
    /// Attention on every token, f32 `[N]`: 0 where masked, sum 1, or all 0 if every token is masked.
    pub weights: Vec<f32>,
    /// Drop of the probability of `class` when that token alone is masked out, f32 `[N]`; 0 where it is masked already.
    pub contributions: Vec<f32>,
}

impl Fused {
    /// Probability of the likeliest class.
    #[must_use]
    pub fn p(&self) -> f32 {
        self.probabilities.get(self.class).copied().unwrap_or(0.0)
    }

    /// The `K` likeliest classes with their probabilities, likeliest first; of equals the lower index first.
    #[must_use]
    pub fn ranked<const K: usize>(&self) -> heapless::Vec<(usize, f32), K> {
        let mut best: heapless::Vec<(usize, f32), K> = heapless::Vec::new();
        for (class, &p) in self.probabilities.iter().enumerate() {
            let at = best.iter().position(|&(_, q)| p > q).unwrap_or(best.len());
            if at == K {
                continue;
            }
            if best.is_full() {
                best.pop();
            }
            best.insert(at, (class, p)).expect("there is room for one");
        }
        best
    }
}

/// The shape of a fusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FusionShape {
    /// Tokens N: encoders of the bundle.
    pub n_tokens: usize,
    /// Length D of a token.
    pub token_len: usize,
    /// Classes C.
    pub n_classes: usize,
    /// The class that means "nobody asks anything": all of the probability while every token is masked. None: every
    /// class is equally likely then.
    pub none_class: Option<usize>,
}

/// Tokens to probabilities.
#[derive(Debug)]
pub struct Fusion {
    shape: FusionShape,
    attention: Option<Attention>,
    /// Probabilities of a leave-one-out run.
    without: Vec<f32>,
}

/// The fusion model with its buffers.
#[derive(Debug)]
struct Attention {
    model: Model,
    temperature: f32,
    tokens: Tensor,
    mask: Tensor,
    age_s: Tensor,
    outputs: Vec<Tensor>,
    logits: usize,
    attention: usize,
}

impl Fusion {
    /// Loads the model that `spec` names in `dir`.
    ///
    /// # Errors
    /// As [`Model::load`]; also if its outputs are not `logits` f32 `[1,C]` and `attention` f32 `[1,N]`, or the
    /// temperature is not positive.
    pub fn load(spec: &FusionSpec, dir: &Path, shape: FusionShape) -> Result<Self, InferError> {
        let FusionShape { n_tokens, token_len, n_classes, .. } = shape;
        let row = [1, n_tokens];
        let inputs = [
            InputFact { name: Some("tokens"), dtype: Dtype::F32, shape: &[1, n_tokens, token_len] },
            InputFact { name: Some("mask"), dtype: Dtype::Bool, shape: &row },
            InputFact { name: Some("age_s"), dtype: Dtype::F32, shape: &row },
        ];
        let model = Model::load(&dir.join(&spec.model), &inputs)?;
        if !(spec.temperature.is_finite() && spec.temperature > 0.0) {
            let reason = format!("temperature of the fusion is {}, expected a positive number", spec.temperature);
            return Err(InferError::Mismatch { model: model.name().into(), reason });
        }
        let logits = model.require_output("logits", Dtype::F32, &[1, n_classes])?;
        let attention = model.require_output("attention", Dtype::F32, &[1, n_tokens])?;
        let attention = Attention {
            temperature: spec.temperature,
            tokens: Tensor::zeros_f32(&[1, n_tokens, token_len]),
            mask: Tensor::zeros_bool(&row),
            age_s: Tensor::zeros_f32(&row),
            outputs: model.new_outputs(),
            logits,
            attention,
            model,
        };
        Ok(Fusion { shape, attention: Some(attention), without: Vec::new() })
    }

    /// The fusion of a bundle with one encoder and no model: the softmax of that encoder's logits.
    #[must_use]
    pub fn of_one_encoder(n_classes: usize, none_class: Option<usize>) -> Self {
        let shape = FusionShape { n_tokens: 1, token_len: 0, n_classes, none_class };
        Fusion { shape, attention: None, without: Vec::new() }
    }

    /// Fuses `tokens`, one per encoder, into `out`. With every token masked no model runs: all probability is on the
    /// none class, or spread evenly if there is none. What allocates, after the first call, is the engine alone.
    ///
    /// # Errors
    /// The model fails or gives NaN, or a token has another length than declared; `out` must not be used then.
    ///
    /// # Panics
    /// If there are not as many tokens as encoders: a broken invariant of the caller.
    pub fn fuse(&mut self, tokens: &[TokenView<'_>], out: &mut Fused) -> Result<(), InferError> {
        let n = self.shape.n_tokens;
        assert_eq!(tokens.len(), n, "one token view per encoder");
        zeros(&mut out.weights, n);
        zeros(&mut out.contributions, n);
        let present = tokens.iter().filter(|t| t.embedding.is_some()).count();
        self.probabilities(tokens, &mut out.probabilities)?;
        if present == 0 {
            out.class = likeliest(&out.probabilities);
            return Ok(());
        }
        match &self.attention {
            None => out.weights[0] = 1.0,
            Some(attention) => attention.weights(tokens, &mut out.weights),
        }
        out.class = likeliest(&out.probabilities);
        let p = out.p();
        for (i, contribution) in out.contributions.iter_mut().enumerate() {
            if tokens[i].embedding.is_none() {
                continue;
            }
            match &mut self.attention {
                Some(attention) if present > 1 => attention.run_without(i, &mut self.without)?,
                _ => self.shape.nothing(&mut self.without),
            }
            *contribution = p - self.without.get(out.class).copied().unwrap_or(0.0);
        }
        Ok(())
    }

    /// The probabilities of [`Fusion::fuse`] alone, f32 `[C]`.
    ///
    /// # Errors
    /// As [`Fusion::fuse`].
    pub fn probabilities(&mut self, tokens: &[TokenView<'_>], out: &mut Vec<f32>) -> Result<(), InferError> {
        if tokens.iter().all(|t| t.embedding.is_none()) {
            self.shape.nothing(out);
            return Ok(());
        }
        match &mut self.attention {
            None => {
                out.clear();
                out.extend(tokens[0].embedding.iter().flat_map(|e| &e.logits));
                softmax(out, 1.0);
                Ok(())
            }
            Some(attention) => {
                attention.fill(tokens)?;
                attention.run(out)
            }
        }
    }
}

impl FusionShape {
    /// What is believed when every token is masked.
    fn nothing(&self, probabilities: &mut Vec<f32>) {
        zeros(probabilities, self.n_classes);
        match self.none_class.and_then(|c| probabilities.get_mut(c)) {
            Some(p) => *p = 1.0,
            None => probabilities.fill(1.0 / self.n_classes as f32),
        }
    }
}

impl Attention {
    fn fill(&mut self, tokens: &[TokenView<'_>]) -> Result<(), InferError> {
        let (Some(x), Some(age_s)) = (self.tokens.as_f32_mut(), self.age_s.as_f32_mut()) else {
            unreachable!("made as f32")
        };
        let Some(mask) = self.mask.as_bool_mut() else { unreachable!("made as bool") };
        let d = x.len() / tokens.len();
        for (i, (token, x)) in tokens.iter().zip(x.chunks_exact_mut(d)).enumerate() {
            mask[i] = token.embedding.is_some();
            age_s[i] = if mask[i] { token.age.as_secs_f32() } else { 0.0 };
            match token.embedding {
                Some(e) if e.token.len() == d => x.copy_from_slice(&e.token),
                Some(e) => {
                    let reason = format!("token {i} has {} values, expected {d}", e.token.len());
                    return Err(InferError::Mismatch { model: self.model.name().into(), reason });
                }
                None => x.fill(0.0),
            }
        }
        Ok(())
    }

    fn run(&mut self, probabilities: &mut Vec<f32>) -> Result<(), InferError> {
        self.model.run(&[&self.tokens, &self.mask, &self.age_s], &mut self.outputs)?;
        probabilities.clear();
        probabilities.extend(self.outputs[self.logits].as_f32().into_iter().flatten());
        softmax(probabilities, self.temperature);
        Ok(())
    }

    /// As [`Attention::run`], with token `i`, which is present, masked out for the time of the run.
    fn run_without(&mut self, i: usize, probabilities: &mut Vec<f32>) -> Result<(), InferError> {
        let set = |mask: &mut Tensor, to: bool| mask.as_bool_mut().map(|m| m[i] = to);
        set(&mut self.mask, false);
        let done = self.run(probabilities);
        set(&mut self.mask, true);
        done
    }

    /// The attention of the last run: masked tokens have none, the others share 1.
    fn weights(&self, tokens: &[TokenView<'_>], weights: &mut [f32]) {
        let attention = self.outputs[self.attention].as_f32().unwrap_or_default();
        for ((w, &a), token) in weights.iter_mut().zip(attention).zip(tokens) {
            *w = if token.embedding.is_some() { a.max(0.0) } else { 0.0 };
        }
        let sum: f32 = weights.iter().sum();
        if sum > 0.0 {
            weights.iter_mut().for_each(|w| *w /= sum);
        }
    }
}

fn zeros(v: &mut Vec<f32>, len: usize) {
    v.clear();
    v.resize(len, 0.0);
}

/// In place, of `x / temperature`; finite for every finite input, because the largest is taken away first.
fn softmax(x: &mut [f32], temperature: f32) {
    let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = ((*x - top) / temperature).exp();
        sum += *x;
    }
    x.iter_mut().for_each(|x| *x /= sum);
}

fn likeliest(p: &[f32]) -> usize {
    let mut best = 0;
    for (i, &v) in p.iter().enumerate() {
        if v > p[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/models");

    fn spec(temperature: f32) -> FusionSpec {
        FusionSpec { model: "fusion.onnx".into(), max_age_ms: 1500, labels: "labels.txt".into(), temperature }
    }

    fn fusion(none_class: Option<usize>) -> Fusion {
        let shape = FusionShape { n_tokens: 3, token_len: 8, n_classes: 3, none_class };
        Fusion::load(&spec(1.0), Path::new(DIR), shape).unwrap()
    }

    fn embedding(seed: f32) -> Embedding {
        Embedding { token: (0..8).map(|i| ((i as f32 + 1.3) * seed).sin() * 2.0).collect(), ..Embedding::default() }
    }

    fn view(e: &Embedding, age_ms: u64) -> TokenView<'_> {
        TokenView { embedding: Some(e), age: Micros::from_ms(age_ms) }
    }

    #[test]
    fn fused_probabilities_and_weights_sum_to_one_and_masked_tokens_have_no_part() {
        let (a, b) = (embedding(0.7), embedding(2.1));
        let mut out = Fused::default();
        fusion(None).fuse(&[view(&a, 0), TokenView::default(), view(&b, 300)], &mut out).unwrap();
        assert!((out.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{out:?}");
        assert!((out.weights.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{out:?}");
        assert_eq!((out.weights[1], out.contributions[1]), (0.0, 0.0));
        assert!(out.weights[0] > 0.0 && out.weights[2] > 0.0);
    }

    #[test]
    fn a_contribution_is_the_drop_of_the_probability_without_that_token() {
        let (a, b, c) = (embedding(0.7), embedding(2.1), embedding(4.4));
        let all = [view(&a, 0), view(&b, 200), view(&c, 900)];
        let mut fusion = fusion(None);
        let (mut out, mut without) = (Fused::default(), Fused::default());
        fusion.fuse(&all, &mut out).unwrap();
        for i in 0..3 {
            let mut fewer = all;
            fewer[i].embedding = None;
            fusion.fuse(&fewer, &mut without).unwrap();
            assert_eq!(out.contributions[i], out.p() - without.probabilities[out.class], "token {i}");
        }
        // the runs without a token leave no trace
        let mut again = Fused::default();
        fusion.fuse(&all, &mut again).unwrap();
        assert_eq!(out, again);
    }

    #[test]
    fn with_every_token_masked_the_none_class_or_nothing_is_believed() {
        let mut out = Fused::default();
        fusion(Some(2)).fuse(&[TokenView::default(); 3], &mut out).unwrap();
        assert_eq!((out.class, &out.probabilities[..]), (2, &[0.0, 0.0, 1.0][..]));
        assert_eq!((&out.weights[..], &out.contributions[..]), (&[0.0; 3][..], &[0.0; 3][..]));
        fusion(None).fuse(&[TokenView::default(); 3], &mut out).unwrap();
        assert_eq!(out.probabilities, [1.0 / 3.0; 3]);
    }

    #[test]
    fn the_only_token_contributes_all_that_it_adds_to_nothing() {
        let a = embedding(0.7);
        let mut out = Fused::default();
        fusion(None).fuse(&[TokenView::default(), view(&a, 0), TokenView::default()], &mut out).unwrap();
        assert_eq!(out.weights, [0.0, 1.0, 0.0]);
        assert_eq!(out.contributions[1], out.p() - 1.0 / 3.0);
    }

    #[test]
    fn one_encoder_without_a_fusion_model_decides_by_its_own_logits() {
        let e = Embedding { logits: vec![0.0, 2f32.ln(), 0.0], ..Embedding::default() };
        let mut out = Fused::default();
        Fusion::of_one_encoder(3, Some(0)).fuse(&[view(&e, 10)], &mut out).unwrap();
        let close = out.probabilities.iter().zip([0.25, 0.5, 0.25]).all(|(p, q)| (p - q).abs() < 1e-6);
        assert!(close && out.class == 1 && out.weights == [1.0] && out.contributions == [out.p()], "{out:?}");
    }

    #[test]
    fn a_token_of_another_length_is_an_error() {
        let short = Embedding { token: vec![0.0; 7], ..Embedding::default() };
        let e = fusion(None).fuse(&[view(&short, 0); 3], &mut Fused::default()).unwrap_err();
        assert!(e.to_string().contains("token 0 has 7 values, expected 8"), "{e}");
    }

    #[test]
    fn a_fusion_of_another_shape_or_temperature_is_refused() {
        let shape = FusionShape { n_tokens: 3, token_len: 8, n_classes: 3, none_class: None };
        let cases = [
            (FusionShape { token_len: 9, ..shape }, 1.0, "input 0 is f32 [1,3,8], bundle.toml declares f32 [1,3,9]"),
            (FusionShape { n_classes: 4, ..shape }, 1.0, "output `logits` is f32 [1,3], expected f32 [1,4]"),
            (shape, 0.0, "temperature of the fusion is 0"),
            (shape, f32::NAN, "temperature of the fusion is NaN"),
        ];
        for (shape, temperature, expect) in cases {
            let e = Fusion::load(&spec(temperature), Path::new(DIR), shape).unwrap_err().to_string();
            assert!(e.contains(expect), "{e}");
        }
    }

    #[test]
    fn ranked_gives_the_likeliest_first_and_keeps_the_order_of_equals() {
        let fused = Fused { probabilities: vec![0.1, 0.3, 0.05, 0.3, 0.25], ..Fused::default() };
        assert_eq!(fused.ranked::<3>()[..], [(1, 0.3), (3, 0.3), (4, 0.25)]);
        assert_eq!(fused.ranked::<9>().len(), 5);
        assert_eq!(fused.ranked::<1>()[..], [(1, 0.3)]);
    }

    #[test]
    fn softmax_stays_finite_and_a_temperature_flattens() {
        let mut x = [1e30, -1e30, 0.0];
        softmax(&mut x, 1.0);
        assert_eq!(x, [1.0, 0.0, 0.0]);
        let (mut sharp, mut flat) = ([2.0, 0.0], [2.0, 0.0]);
        softmax(&mut sharp, 1.0);
        softmax(&mut flat, 4.0);
        assert!(sharp[0] > flat[0] && flat[0] > 0.5);
    }
}
