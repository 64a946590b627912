//! Functions of one int8 value: whatever element-wise operators stand between a dequantization and a quantization, as
//! a table of 256 results.
//!
//! Only operators that tract itself types as element-wise are evaluated. A Softmax is none, although its axes look so:
//! its values depend on one another.

use std::collections::HashMap;

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::element_wise::ElementWiseOp;

use super::super::graph::Op;
use super::super::{Affine, IntType, Quantize, kernel, mini};
use super::constants::scalar;
use super::units::{Matcher, Operand};

/// More operators than this between two roundings are no activation.
const NODES_MAX: usize = 16;

/// A name, the table and the int8 operand of the function that makes `outlet`, quantized by `to`.
pub(super) fn table(
    matcher: &mut Matcher<'_>,
    outlet: OutletId,
    to: Affine,
) -> Option<(String, Box<[u8; 256]>, Operand)> {
    let mut region = Region { known: HashMap::new(), leaf: None };
    let shape = matcher.shape(outlet)?;
    let y = region.evaluate(matcher, outlet, &shape, 0)?;
    let mut table = quantized(&y, &to)?;
    let mut operand = region.leaf?;
    let mut name = matcher.model.node(outlet.node).name.clone();
    // a function of a function is one function: the value between them is read here alone
    let mut between = operand.outlet;
    while matcher.single(between)
        && matcher.model.node(between.node).outputs[0].successors.iter().all(|s| matcher.single(s.node.into()))
        && mini::<Quantize>(matcher.model.node(between.node)).is_some()
        && let Some(inner) = matcher.unit(between)
        && let Op::Lut { table: first } = &inner.op
    {
        let outer = table;
        table = Box::new([0; 256]);
        for (t, q) in table.iter_mut().zip(first.iter()) {
            *t = outer[usize::from(*q)];
        }
        operand = inner.operands[0].clone();
        between = operand.outlet;
        name = inner.name;
    }
    Some((name, table, operand))
}

/// All 256 values of an int8 type, by their bits.
fn dequantized(affine: &Affine) -> Vec<f32> {
    let value = |bits: u8| match affine.int {
        IntType::I8 => i32::from(bits as i8),
        IntType::U8 => i32::from(bits),
    };
    (0..=255).map(|bits| (value(bits) - affine.zero_point) as f32 * affine.scale).collect()
}

fn quantized(y: &Tensor, to: &Affine) -> Option<Box<[u8; 256]>> {
    let y = y.try_as_plain_ram().ok()?;
    let y = y.as_slice::<f32>().ok()?;
    let mut table = Box::new([0u8; 256]);
    if y.len() != 256 {
        return None;
    }
    kernel::quantize(y, &mut table[..], to, |q| q as u8);
    Some(table)
}

struct Region {
    known: HashMap<OutletId, Tensor>,
    leaf: Option<Operand>,
}

impl Region {
    /// The 256 values of `outlet`, or the one of a constant.
    fn evaluate(&mut self, matcher: &Matcher<'_>, outlet: OutletId, shape: &[usize], depth: usize) -> Option<Tensor> {
        if let Some(known) = self.known.get(&outlet) {
            return Some(known.clone());
        }
        if let Some(constant) = scalar(matcher.model, outlet) {
            return Some(tensor1(&[constant]));
        }
        if depth == NODES_MAX || self.known.len() > NODES_MAX || matcher.shape(outlet)?[..] != *shape {
            return None;
        }
        let node = matcher.model.node(outlet.node);
        let y = if let Some(operand) = matcher.operand(outlet)
            && let Some(affine) = operand.affine()
        {
            if self.leaf.get_or_insert_with(|| operand.clone()) != &operand {
                return None;
            }
            tensor1(&dequantized(&affine))
        } else if node.op_is::<ElementWiseOp>() || node.op_is::<TypedBinOp>() {
            let inputs = node
                .inputs
                .iter()
                .map(|i| self.evaluate(matcher, *i, shape, depth + 1).map(IntoTValue::into_tvalue))
                .collect::<Option<TVec<_>>>()?;
            node.op.eval_out_of_plan(inputs).ok()??.pop()?.into_tensor()
        } else {
            return None;
        };
        if y.datum_type() != f32::datum_type() || y.len() != 256 {
            return None;
        }
        self.known.insert(outlet, y.clone());
        Some(y)
    }
}
