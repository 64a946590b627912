//! Depthwise convolutions of f32 models on x86-64, where tract has no kernel for them.
//!
//! [`rewrite`] replaces tract's operator after the importer and before its own optimizations. Results differ from tract's in
//! the last bits, because sums are fused nowhere. On other CPUs tract's operator stays.

use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, KernelFormat};
use tract_core::ops::nn::DataFormat;

use super::graph::Window;
use super::kernel::depthwise::Size;
use super::kernel::planes::{Planes, convolve};
use super::tier::Tier;

/// A depthwise convolution on `[N, C, H, W]` with constant weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DepthwiseF32 {
    planes: Planes,
    tier: Tier,
    /// `[C, kernel_h * kernel_w]`.
    weights: Arc<Tensor>,
    /// `[C]`.
    bias: Arc<Tensor>,
    out_shape: TVec<usize>,
}

impl Op for DepthwiseF32 {
    fn name(&self) -> StaticName {
        "DepthwiseF32".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("kernel {:?} stride {:?} on {}", self.planes.kernel, self.planes.stride, self.tier)])
    }

    op_as_typed_op!();
}

impl DepthwiseF32 {
    fn run(&self, scratch: &mut [f32], x: &Tensor) -> TractResult<TVec<TValue>> {
        let mut out = Tensor::zero::<f32>(&self.out_shape)?;
        let (weights, bias) = (self.weights.try_as_plain_ram()?, self.bias.try_as_plain_ram()?);
        let x = x.try_as_plain_ram()?;
        convolve(
            self.tier,
            &self.planes,
            x.as_slice::<f32>()?,
            weights.as_slice::<f32>()?,
            bias.as_slice::<f32>()?,
            scratch,
            out.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
        );
        Ok(tvec!(out.into_tvalue()))
    }
}

/// The padded plane.
#[derive(Clone, Debug)]
struct Scratch(Vec<f32>);

impl OpState for Scratch {
    fn eval(&mut self, _: &EvalContext, op: &dyn Op, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let op = op.downcast_ref::<DepthwiseF32>().context("scratch memory given to another operator")?;
        op.run(&mut self.0, &inputs[0])
    }

    /// Nothing is carried from one run to the next.
    fn reset_lanes(&mut self, _: &[LaneId]) -> TractResult<()> {
        Ok(())
    }
}

impl EvalOp for DepthwiseF32 {
    fn state(&self, _: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        Ok(Some(Box::new(Scratch(vec![0.0; self.planes.scratch_len()]))))
    }

    not_out_of_plan!();
}

impl TypedOp for DepthwiseF32 {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.out_shape)))
    }

    as_op!();
}

/// Replaces what it can in a model that comes from the importer; returns how many.
///
/// # Errors
/// If tract refuses a replacement.
pub(crate) fn rewrite(model: &mut TypedModel, tier: Tier) -> TractResult<usize> {
    // Elsewhere tract has kernels of its own.
    if tier.has_avx2() { replace_all(model, tier) } else { Ok(0) }
}

fn replace_all(model: &mut TypedModel, tier: Tier) -> TractResult<usize> {
    ensure!(tier.is_supported(), "this CPU has no {tier}");
    let mut count = 0;
    for id in 0..model.nodes().len() {
        let node = model.node(id);
        let Some(conv) = node.op_as::<Conv>() else { continue };
        let Some(op) = replacement(model, node, conv, tier)? else { continue };
        TypedModelPatch::replace_single_op(model, node, &node.inputs[..1], op)?.apply(model)?;
        count += 1;
    }
    Ok(count)
}

fn replacement(model: &TypedModel, node: &TypedNode, conv: &Conv, tier: Tier) -> TractResult<Option<DepthwiseF32>> {
    let spec = &conv.pool_spec;
    let is_depthwise = conv.group > 1 && conv.group == spec.input_channels && conv.group == spec.output_channels;
    let is_plain = conv.q_params.is_none()
        && conv.kernel_fmt == KernelFormat::OIHW
        && spec.data_format == DataFormat::NCHW
        && spec.rank() == 2;
    if !is_depthwise || !is_plain || node.inputs.len() != 3 {
        return Ok(None);
    }
    let x = model.outlet_fact(node.inputs[0])?;
    let (Some(shape), Some(kernel), Some(bias)) =
        (x.shape.as_concrete(), &model.outlet_fact(node.inputs[1])?.konst, &model.outlet_fact(node.inputs[2])?.konst)
    else {
        return Ok(None);
    };
    let is_f32 = [x.datum_type, kernel.datum_type(), bias.datum_type()].iter().all(|dt| *dt == f32::datum_type());
    if !is_f32 || shape.len() != 4 || shape.contains(&0) {
        return Ok(None);
    }
    let (strides, dilations) = (spec.strides(), spec.dilations());
    let padding = spec.computed_padding(&shape[2..]);
    let out_shape = tvec![shape[0], conv.group, padding[0].convoluted, padding[1].convoluted];
    if out_shape.contains(&0) {
        return Ok(None);
    }
    let window = Window {
        kernel: [spec.kernel_shape[0], spec.kernel_shape[1]],
        stride: [strides[0], strides[1]],
        dilation: [dilations[0], dilations[1]],
        pad: [padding[0].pad_before, padding[1].pad_before, padding[0].pad_after, padding[1].pad_after],
    };
    let reach = |axis: usize| window.reach(axis, out_shape[2 + axis]);
    let is_in_proportion = reach(0).zip(reach(1)).and_then(|(h, w)| h.checked_mul(w)).is_some_and(|n| n < 1 << 30);
    if !is_in_proportion {
        return Ok(None);
    }
    let size = Size { height: shape[2], width: shape[3] };
    let out = Size { height: out_shape[2], width: out_shape[3] };
    let bias = if bias.len() == conv.group {
        bias.clone().into_tensor().into_shape(&[conv.group])?
    } else {
        let one = bias.cast_to_scalar::<f32>()?;
        tensor1(&vec![one; conv.group])
    };
    Ok(Some(DepthwiseF32 {
        planes: Planes::new(size, out, window),
        tier,
        weights: kernel.clone(),
        bias: bias.into_arc_tensor(),
        out_shape,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_core::ops::cnn::{PaddingSpec, PoolSpec};

    /// tract's own operator and ours on the same model.
    #[test]
    fn it_agrees_with_tract() {
        for (size, kernel, stride, dilation, pad) in [
            ([25, 5], [3, 3], [1, 1], [1, 1], [1, 1]),
            ([14, 14], [5, 5], [2, 2], [1, 1], [2, 2]),
            ([7, 40], [3, 3], [2, 2], [1, 1], [0, 1]),
            ([9, 70], [3, 5], [1, 3], [2, 2], [2, 4]),
            ([1, 8], [1, 3], [1, 1], [1, 1], [0, 1]),
        ] {
            let channels = 5;
            let spec = PoolSpec::new(
                DataFormat::NCHW,
                TVec::from_slice(&kernel),
                PaddingSpec::Explicit(TVec::from_slice(&pad), TVec::from_slice(&pad)),
                Some(TVec::from_slice(&dilation)),
                Some(TVec::from_slice(&stride)),
                channels,
                channels,
            );
            let conv = Conv::new(spec, KernelFormat::OIHW, channels, None);
            let taps: usize = kernel.iter().product();
            let weights: Vec<f32> = (0..channels * taps).map(|i| ((i * 37) % 23) as f32 / 11.0 - 1.0).collect();
            let bias: Vec<f32> = (0..channels).map(|i| i as f32 - 2.0).collect();
            let mut model = TypedModel::default();
            let x = model.add_source("x", f32::fact([2, channels, size[0], size[1]])).unwrap();
            let weights = Tensor::from_shape(&[channels, 1, kernel[0], kernel[1]], &weights).unwrap();
            let w = model.add_const("w", weights).unwrap();
            let b = model.add_const("b", tensor1(&bias)).unwrap();
            let y = model.wire_node("conv", conv, &[x, w, b]).unwrap();
            model.select_output_outlets(&y).unwrap();
            let input: Vec<f32> =
                (0..2 * channels * size[0] * size[1]).map(|i| ((i * 29) % 101) as f32 / 50.0 - 1.0).collect();
            let input = Tensor::from_shape(&[2, channels, size[0], size[1]], &input).unwrap();
            let run = |model: TypedModel| {
                let mut state = model.into_optimized().unwrap().into_runnable().unwrap().spawn().unwrap();
                state.run(tvec!(input.clone().into_tvalue())).unwrap().remove(0).into_tensor()
            };
            let expect = run(model.clone());
            for tier in Tier::supported() {
                let mut ours = model.clone();
                assert_eq!(replace_all(&mut ours, tier).unwrap(), 1, "{tier}");
                run(ours).close_enough(&expect, Approximation::Close).unwrap();
                assert_eq!(rewrite(&mut model.clone(), tier).unwrap() == 1, tier.has_avx2());
            }
        }
    }
}
