//! Inputs that always have the same value become constants of the graph, so that what depends on them is folded away.

use tract_onnx::pb::{ModelProto, TensorProto};

use super::model::{declared_inputs, elem_type_name};
use crate::config::manifest::ConstantSpec;

/// Most elements of such an input.
const ELEMENTS_MAX: usize = 1 << 20;

/// Replaces the inputs that `constants` name; or says why one cannot be.
pub(super) fn bake(proto: &mut ModelProto, constants: &[ConstantSpec]) -> Result<(), String> {
    for constant in constants {
        let inputs = declared_inputs(proto);
        let Some(input) = inputs.iter().find(|i| i.name == constant.input) else {
            let known: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
            return Err(format!("constant input `{}` is missing, the file has {}", constant.input, known.join(", ")));
        };
        // where the batch is left open it is one
        let dims: Vec<usize> = input.dims.iter().enumerate().map(|(i, d)| d.unwrap_or(usize::from(i == 0))).collect();
        let count = dims.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
        if !(1..=ELEMENTS_MAX).contains(&count) {
            return Err(format!("constant input `{}` is {}, expected fixed dimensions", input.name, input.describe()));
        }
        let bytes = element(input.elem_type, constant.value).ok_or_else(|| {
            let ty = elem_type_name(input.elem_type);
            format!("constant input `{}` is {ty}, which cannot hold {}", input.name, constant.value)
        })?;
        let tensor = TensorProto {
            name: input.name.clone(),
            data_type: input.elem_type,
            dims: dims.iter().map(|d| *d as i64).collect(),
            raw_data: bytes.repeat(count),
            ..TensorProto::default()
        };
        let Some(graph) = &mut proto.graph else { return Err("has no graph".into()) };
        graph.input.retain(|i| i.name != constant.input);
        graph.initializer.push(tensor);
    }
    Ok(())
}

/// `value` as an element of an ONNX `TensorProto.DataType`, little endian; None if it has no such form.
fn element(elem_type: i32, value: f64) -> Option<Vec<u8>> {
    let whole =
        |least: f64, most: f64| (value.fract() == 0.0 && (least..=most).contains(&value)).then_some(value as i64);
    Some(match elem_type {
        1 => (value as f32).to_le_bytes().to_vec(),
        2 => (whole(0.0, 255.0)? as u8).to_le_bytes().to_vec(),
        3 => (whole(-128.0, 127.0)? as i8).to_le_bytes().to_vec(),
        6 => (whole(i32::MIN.into(), i32::MAX.into())? as i32).to_le_bytes().to_vec(),
        // whole numbers that f64 holds exactly
        7 => whole(-9e15, 9e15)?.to_le_bytes().to_vec(),
        9 => vec![u8::from(whole(0.0, 1.0)? == 1)],
        11 => value.to_le_bytes().to_vec(),
        _ => return None,
    })
}
