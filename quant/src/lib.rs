//! Quantized ONNX networks inside tract, on integer kernels.
//!
//! An importer brings every quantized operator into one form: [`Quantize`] and [`Dequantize`] around tract's ordinary
//! operators, weights behind a [`DequantizeConstant`]. [`rewrite`] finds the regions that compute on int8 values and
//! describes each as a graph; the plan packs its weights and lays out its memory; an [`Island`] is the operator that tract
//! runs. What is not rewritten runs tract's f32 operators on the same values: there a `QuantizeLinear` that feeds a
//! `DequantizeLinear` of the same parameters becomes one operator that rounds.
//!
//! Depends on tract-core only, and is a package of its own for two reasons: any user of tract can take it, and it is built
//! for speed where the program around it is built for size.

#[cfg(test)]
mod by_reference;
mod constant;
mod depthwise_f32;
mod graph;
mod island;
mod kernel;
mod linear;
mod plan;
mod real;
#[cfg(test)]
mod reference;
mod rewriter;
mod tier;

pub use constant::DequantizeConstant;
pub use island::{ClockNs, Island, Measured};
pub use linear::LinearAtRunTime;
pub use plan::StepInfo;
pub use real::{DynamicQuantize, LayerNorm};
pub use rewriter::{IslandReport, Report};
pub use tier::Tier;

use tract_core::internal::*;
use tract_core::ops::element_wise::ElementWiseOp;

/// Integer type of a quantized tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntType {
    /// -128 ..= 127
    I8,
    /// 0 ..= 255
    U8,
}

impl IntType {
    /// The integer type tract calls `dt`, if it is one of the two.
    pub fn of(dt: DatumType) -> Option<Self> {
        match dt {
            DatumType::I8 => Some(IntType::I8),
            DatumType::U8 => Some(IntType::U8),
            _ => None,
        }
    }

    /// As tract calls it.
    pub fn datum_type(self) -> DatumType {
        match self {
            IntType::I8 => DatumType::I8,
            IntType::U8 => DatumType::U8,
        }
    }

    /// Smallest and largest value.
    fn range(self) -> (i32, i32) {
        match self {
            IntType::I8 => (i32::from(i8::MIN), i32::from(i8::MAX)),
            IntType::U8 => (i32::from(u8::MIN), i32::from(u8::MAX)),
        }
    }
}

/// Per-tensor affine quantization: `x = (q - zero_point) * scale`, `q = saturate(round_half_even(x / scale) + zero_point)`
/// (ONNX operators `QuantizeLinear` and `DequantizeLinear`, opset 13).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    scale: f32,
    zero_point: i32,
    int: IntType,
}

impl Eq for Affine {}

impl Affine {
    /// Parameters of a tensor: the scale, the integer that stands for 0, and the integer type.
    ///
    /// # Errors
    /// If the scale is not a positive finite number, or the zero point does not fit the integer type.
    pub fn new(scale: f32, zero_point: i32, int: IntType) -> TractResult<Self> {
        let (lo, hi) = int.range();
        ensure!(scale.is_finite() && scale > 0.0, "quantization scale is {scale}, expected a positive number");
        ensure!((lo..=hi).contains(&zero_point), "zero point is {zero_point}, expected {lo} to {hi}");
        Ok(Affine { scale, zero_point, int })
    }

    /// As [`Affine::of_range`], for the range of `x` and zero. A NaN is passed over.
    ///
    /// # Errors
    /// `x` holds an infinity.
    pub fn dynamic(x: &[f32]) -> TractResult<Self> {
        Affine::of_range(x.iter().copied().fold(0f32, f32::min), x.iter().copied().fold(0f32, f32::max))
    }

    /// The parameters ONNX DynamicQuantizeLinear takes for values from `lo <= 0` to `hi >= 0`. All zeros have scale 1, so
    /// that nothing is divided by zero.
    ///
    /// # Errors
    /// The range is not finite.
    pub fn of_range(lo: f32, hi: f32) -> TractResult<Self> {
        ensure!((hi - lo).is_finite(), "values from {lo} to {hi} cannot be quantized by their range");
        let scale = if lo == hi { 1.0 } else { (hi - lo) / 255.0 };
        let zero_point = (-lo / scale).round_ties_even().clamp(0.0, 255.0);
        Affine::new(scale, zero_point as i32, IntType::U8)
    }

    /// Smallest and largest value of `q - zero_point`: what saturation leaves.
    fn centred_range(&self) -> (f32, f32) {
        let (lo, hi) = self.int.range();
        ((lo - self.zero_point) as f32, (hi - self.zero_point) as f32)
    }

    fn describe(&self) -> Vec<String> {
        vec![format!("{:?} scale {} zero point {}", self.int, self.scale, self.zero_point)]
    }
}

/// f32 to int8, per tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantize(pub Affine);

impl ElementWiseMiniOp for Quantize {
    fn name(&self) -> String {
        "QuantizeLinear".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(self.0.describe())
    }

    fn output_type(&self, input: DatumType) -> Option<DatumType> {
        (input == DatumType::F32).then(|| self.0.int.datum_type())
    }

    fn eval_out_of_place(&self, t: &Tensor, _out_dt: Option<DatumType>) -> TractResult<Tensor> {
        let x = t.try_as_plain_ram()?.as_slice::<f32>()?;
        let mut out = Tensor::zero_dt(self.0.int.datum_type(), t.shape())?;
        let mut view = out.try_as_plain_ram_mut()?;
        match self.0.int {
            IntType::I8 => kernel::quantize(x, view.as_slice_mut::<i8>()?, &self.0, |q| q as i8),
            IntType::U8 => kernel::quantize(x, view.as_slice_mut::<u8>()?, &self.0, |q| q as u8),
        }
        Ok(out)
    }
}

/// int8 to f32, per tensor. Next to a [`Quantize`] of the same parameters the two become one operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dequantize(pub Affine);

impl ElementWiseMiniOp for Dequantize {
    fn name(&self) -> String {
        "DequantizeLinear".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(self.0.describe())
    }

    fn output_type(&self, input: DatumType) -> Option<DatumType> {
        (input == self.0.int.datum_type()).then_some(DatumType::F32)
    }

    fn eval_out_of_place(&self, t: &Tensor, _out_dt: Option<DatumType>) -> TractResult<Tensor> {
        let mut out = Tensor::zero::<f32>(t.shape())?;
        let mut view = out.try_as_plain_ram_mut()?;
        let y = view.as_slice_mut::<f32>()?;
        match self.0.int {
            IntType::I8 => kernel::dequantize(t.try_as_plain_ram()?.as_slice::<i8>()?, y, &self.0),
            IntType::U8 => kernel::dequantize(t.try_as_plain_ram()?.as_slice::<u8>()?, y, &self.0),
        }
        Ok(out)
    }

    fn declutter(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let quantizer = model.node(node.inputs[0].node);
        let Some(Quantize(affine)) = mini::<Quantize>(quantizer) else { return Ok(None) };
        if *affine != self.0 {
            return Ok(None);
        }
        let fused = ElementWiseOp(Box::new(FakeQuant(self.0)), None);
        TypedModelPatch::replace_single_op(model, node, &quantizer.inputs, fused).map(Some)
    }
}

/// f32 to the nearest value that an int8 tensor of these parameters can hold, in place: `QuantizeLinear` and then
/// `DequantizeLinear`, bit for bit. NaN stays NaN, so that it reaches the check of the outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FakeQuant(pub(crate) Affine);

impl ElementWiseMiniOp for FakeQuant {
    fn name(&self) -> String {
        "FakeQuant".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(self.0.describe())
    }

    fn eval_in_place(&self, t: &mut Tensor, _out_dt: Option<DatumType>) -> TractResult<()> {
        kernel::fake_quantize(t.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?, &self.0);
        Ok(())
    }

    /// The same rounding twice is the same rounding once: onnxruntime's quantizer writes a pair on both sides of every
    /// operator that only moves values about.
    fn declutter(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let mut producer = model.node(node.inputs[0].node);
        while producer.op_is::<AxisOp>() {
            producer = model.node(producer.inputs[0].node);
        }
        if mini::<FakeQuant>(producer) == Some(self) {
            return TypedModelPatch::shunt_one_op(model, node);
        }
        Ok(None)
    }
}

/// The element-wise operator of type `M` that `node` is, if it is one.
fn mini<M: ElementWiseMiniOp>(node: &TypedNode) -> Option<&M> {
    node.op_as::<ElementWiseOp>().and_then(|op| op.0.downcast_ref::<M>())
}

/// Rewrites `model`, as it is typed and before tract declutters it: regions of int8 values become one [`Island`] each, and on
/// x86 depthwise convolutions in f32 become channel-last ones. Input shapes should be fixed; what has none stays as it is.
///
/// # Errors
/// The model contradicts itself, or the CPU has not the tier.
pub fn rewrite(model: TypedModel, tier: Tier) -> TractResult<(TypedModel, Report)> {
    let (mut model, report) = rewriter::rewrite(model, &|graph| Ok(Box::new(Island::new(graph, tier)?)))?;
    depthwise_f32::rewrite(&mut model, tier)?;
    Ok((model, report))
}

/// Starts every run of a recurrent operator at its `initial_h`, as ONNX says. tract by default carries the hidden state
/// from one run to the next, which makes a window depend on the one before it.
pub fn reset_recurrence_every_run(model: &mut TypedModel) {
    for node in model.nodes_mut() {
        if let Some(gru) = node.op_as_mut::<tract_core::ops::gru_seq::GruSeq>() {
            gru.reset_every_turn = true;
        } else if let Some(scan) = node.op_as_mut::<tract_core::ops::scan::Scan>() {
            scan.reset_every_turn = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affine(scale: f32, zero_point: i32, int: IntType) -> Affine {
        Affine::new(scale, zero_point, int).unwrap()
    }

    /// Straight from the text of the operator.
    fn reference(x: f32, a: &Affine) -> i32 {
        let (lo, hi) = a.int.range();
        ((f64::from(x / a.scale).round_ties_even()) + f64::from(a.zero_point)).clamp(f64::from(lo), f64::from(hi))
            as i32
    }

    fn values(scale: f32) -> Vec<f32> {
        // halves are the ties; the rest walks through and far beyond the range
        let halves = (-700..700).map(|k| k as f32 * 0.5 * scale);
        let uneven = (0..4001).map(|k| (k as f32 - 2000.0) * 0.173 * scale);
        halves.chain(uneven).chain([0.0, -0.0, 1e30, -1e30, f32::MAX, f32::MIN, f32::MIN_POSITIVE]).collect()
    }

    #[test]
    fn quantize_and_fake_quantize_equal_the_text_of_the_operator() {
        let cases = [
            affine(1.0, 0, IntType::I8),
            affine(0.037, -5, IntType::I8),
            affine(0.25, 127, IntType::I8),
            affine(0.1, 0, IntType::U8),
            affine(0.003_921_569, 128, IntType::U8),
            affine(7.0, 255, IntType::U8),
        ];
        for a in cases {
            let x = values(a.scale);
            let q = Quantize(a).eval_out_of_place(&tensor1(&x), None).unwrap();
            let q = q.cast_to::<i32>().unwrap().into_owned();
            let y = Dequantize(a).eval_out_of_place(&q.cast_to_dt(a.int.datum_type()).unwrap(), None).unwrap();
            let mut fake = tensor1(&x);
            FakeQuant(a).eval_in_place(&mut fake, None).unwrap();
            let (q, y) = (q.try_as_plain_ram().unwrap(), y.try_as_plain_ram().unwrap());
            let fake = fake.try_as_plain_ram().unwrap();
            let (q, y, fake) =
                (q.as_slice::<i32>().unwrap(), y.as_slice::<f32>().unwrap(), fake.as_slice::<f32>().unwrap());
            for (i, &x) in x.iter().enumerate() {
                let expect = reference(x, &a);
                assert_eq!(q[i], expect, "{a:?}: quantize({x})");
                assert_eq!(y[i], (expect - a.zero_point) as f32 * a.scale, "{a:?}: dequantize({expect})");
                assert_eq!(fake[i], y[i], "{a:?}: fake_quantize({x})");
            }
        }
    }

    #[test]
    fn nan_survives_a_fake_quantization() {
        let mut t = tensor1(&[f32::NAN; 19]);
        FakeQuant(affine(0.1, 0, IntType::U8)).eval_in_place(&mut t, None).unwrap();
        assert!(t.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().iter().all(|x| x.is_nan()));
    }

    #[test]
    fn unusable_parameters_are_refused() {
        for (scale, zero_point, int) in [
            (0.0, 0, IntType::I8),
            (-1.0, 0, IntType::I8),
            (f32::NAN, 0, IntType::I8),
            (f32::INFINITY, 0, IntType::U8),
            (1.0, -1, IntType::U8),
            (1.0, 128, IntType::I8),
        ] {
            assert!(Affine::new(scale, zero_point, int).is_err(), "{scale} {zero_point} {int:?}");
        }
    }

    fn quantized_chain(second: Affine) -> TypedModel {
        let a = affine(0.1, 3, IntType::U8);
        let wrap = |op: Box<dyn ElementWiseMiniOp>| ElementWiseOp(op, None);
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([4])).unwrap();
        let q = model.wire_node("q", wrap(Box::new(Quantize(a))), &[x]).unwrap();
        let d = model.wire_node("dq", wrap(Box::new(Dequantize(a))), &q).unwrap();
        let q = model.wire_node("q2", wrap(Box::new(Quantize(second))), &d).unwrap();
        let d = model.wire_node("dq2", wrap(Box::new(Dequantize(second))), &q).unwrap();
        model.select_output_outlets(&d).unwrap();
        model.into_decluttered().unwrap()
    }

    #[test]
    fn pairs_fuse_and_a_repeated_rounding_is_dropped() {
        let count = |m: &TypedModel| m.nodes().iter().filter(|n| mini::<FakeQuant>(n).is_some()).count();
        let same = quantized_chain(affine(0.1, 3, IntType::U8));
        assert_eq!((same.nodes().len(), count(&same)), (2, 1));
        let other = quantized_chain(affine(0.2, 3, IntType::U8));
        assert_eq!((other.nodes().len(), count(&other)), (3, 2));
    }
}
