//! `QuantizeLinear` and `DequantizeLinear` as general as ONNX has them: parameters computed at run time, one for all, one
//! per index of an axis or one per block, and two-byte integers. Rare, so that plain loops do.

use tract_core::internal::*;

/// Inputs: data, scale and, if there are three, zero point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearAtRunTime {
    /// Integer type to quantize to; None: dequantizes.
    pub to: Option<DatumType>,
    /// Where scales go, if there is more than one; negative: from the last.
    pub axis: i64,
    /// Elements along the axis that share a scale; 0: no blocks.
    pub block_size: usize,
}

/// How many scales there are along the axis, and where an element's is.
struct Parameters {
    along: usize,
    inner: usize,
    blocks: usize,
    block_size: usize,
    one: bool,
}

impl Parameters {
    fn at(&self, element: usize) -> usize {
        let (outer, along, inner) =
            (element / self.inner / self.along, element / self.inner % self.along, element % self.inner);
        match (self.one, self.block_size) {
            (true, _) => 0,
            (_, 0) => along,
            (_, size) => (outer * self.blocks + along / size) * self.inner + inner,
        }
    }
}

impl LinearAtRunTime {
    /// Smallest and largest value of an integer type.
    ///
    /// # Errors
    /// It is none that is quantized to.
    fn range(dt: DatumType) -> TractResult<(f32, f32)> {
        Ok(match dt {
            DatumType::I8 => (-128.0, 127.0),
            DatumType::U8 => (0.0, 255.0),
            DatumType::I16 => (-32768.0, 32767.0),
            DatumType::U16 => (0.0, 65535.0),
            other => bail!("quantized type is {other:?}, expected i8, u8, i16 or u16"),
        })
    }

    fn parameters(&self, shape: &[usize], scale: &Tensor) -> TractResult<Parameters> {
        if scale.len() == 1 {
            return Ok(Parameters { along: 1, inner: 1, blocks: 1, block_size: 0, one: true });
        }
        let rank = shape.len() as i64;
        let axis = if self.axis < 0 { self.axis + rank } else { self.axis };
        ensure!((0..rank).contains(&axis), "quantization axis {axis} of a tensor with {rank} dimensions");
        let axis = axis as usize;
        let along = shape[axis];
        let inner = shape[axis + 1..].iter().product();
        let mut blocks = 0;
        if self.block_size > 0 {
            blocks = along.div_ceil(self.block_size);
            let mut expected = shape.to_vec();
            expected[axis] = blocks;
            ensure!(scale.shape() == expected, "a blocked scale is {:?}, expected {expected:?}", scale.shape());
        } else {
            ensure!(
                scale.len() == along,
                "{} quantization parameters along axis {axis}, which has {along}",
                scale.len()
            );
        }
        Ok(Parameters { along, inner, blocks, block_size: self.block_size, one: false })
    }
}

impl Op for LinearAtRunTime {
    fn name(&self) -> StaticName {
        if self.to.is_some() { "QuantizeLinear".into() } else { "DequantizeLinear".into() }
    }

    op_as_typed_op!();
}

impl EvalOp for LinearAtRunTime {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, scale) = (&inputs[0], &inputs[1]);
        let at = self.parameters(x.shape(), scale)?;
        let scale = scale.cast_to::<f32>()?;
        let scale = scale.try_as_plain_ram()?.as_slice::<f32>()?;
        let zero_point = match inputs.get(2) {
            Some(z) => z.cast_to::<i32>()?.into_owned(),
            None => Tensor::zero::<i32>(&[scale.len()])?,
        };
        let zero_point = zero_point.try_as_plain_ram()?.as_slice::<i32>()?;
        ensure!(zero_point.len() == scale.len(), "{} scales, {} zero points", scale.len(), zero_point.len());
        let Some(to) = self.to else {
            let q = x.cast_to::<i32>()?;
            let q = q.try_as_plain_ram()?.as_slice::<i32>()?;
            let real = |(i, q): (usize, &i32)| q.wrapping_sub(zero_point[at.at(i)]) as f32 * scale[at.at(i)];
            let y: Vec<f32> = q.iter().enumerate().map(real).collect();
            return Ok(tvec!(Tensor::from_shape(x.shape(), &y)?.into_tvalue()));
        };
        let (lo, hi) = Self::range(to)?;
        let x_real = x.cast_to::<f32>()?;
        let x_real = x_real.try_as_plain_ram()?.as_slice::<f32>()?;
        let integer = |(i, x): (usize, &f32)| {
            let (scale, zero_point) = (scale[at.at(i)], zero_point[at.at(i)] as f32);
            let centred = (x / scale).round_ties_even();
            if centred.is_nan() { zero_point as i32 } else { (centred + zero_point).clamp(lo, hi) as i32 }
        };
        let q: Vec<i32> = x_real.iter().enumerate().map(integer).collect();
        let q = Tensor::from_shape(x.shape(), &q)?;
        Ok(tvec!(q.cast_to_dt(to)?.into_owned().into_tvalue()))
    }
}

impl TypedOp for LinearAtRunTime {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        if let Some(to) = self.to {
            Self::range(to)?;
        }
        Ok(tvec!(self.to.unwrap_or(DatumType::F32).fact(inputs[0].shape.clone())))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &LinearAtRunTime, inputs: &[Tensor]) -> TractResult<Tensor> {
        let inputs = inputs.iter().map(|t| t.clone().into_tvalue()).collect();
        Ok(op.eval(&EvalContext::out_of_plan(), inputs)?.remove(0).into_tensor())
    }

    #[test]
    fn every_element_has_the_scale_of_its_block() {
        let x = Tensor::from_shape(&[1, 4], &[10i16, 20, 30, -40]).unwrap();
        let scale = Tensor::from_shape(&[1, 2], &[0.5f32, 2.0]).unwrap();
        let zero_point = Tensor::from_shape(&[1, 2], &[10i16, 0]).unwrap();
        let op = LinearAtRunTime { to: None, axis: 1, block_size: 2 };
        let y = run(&op, &[x.clone(), scale.clone(), zero_point.clone()]).unwrap();
        assert_eq!(y, Tensor::from_shape(&[1, 4], &[0f32, 5.0, 60.0, -80.0]).unwrap());
        let back = LinearAtRunTime { to: Some(DatumType::I16), ..op };
        assert_eq!(run(&back, &[y, scale, zero_point]).unwrap(), x);
    }

    #[test]
    fn a_scale_per_index_and_saturation() {
        let x = Tensor::from_shape(&[2, 2], &[1f32, -1.0, 1e9, f32::NAN]).unwrap();
        let op = LinearAtRunTime { to: Some(DatumType::U16), axis: -2, block_size: 0 };
        let y = run(&op, &[x.clone(), tensor1(&[0.5f32, 2.0]), tensor1(&[1u16, 7])]).unwrap();
        assert_eq!(y, Tensor::from_shape(&[2, 2], &[3u16, 0, 65535, 7]).unwrap());
        let error = run(&op, &[x, tensor1(&[1f32; 3])]).unwrap_err().to_string();
        assert!(error.contains("3 quantization parameters along axis 0, which has 2"), "{error}");
    }
}
