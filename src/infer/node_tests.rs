//! The ONNX standard's own tests of the quantization operators (`tests/data/onnx_node`, copied by `make.py` there).
//!
//! Each runs twice: with scales, zero points and weights given at run time, as the standard has it, and as constants, as
//! every quantizer writes them, which is the way into integer islands.

use std::path::Path;

use attendant_quant::Tier;
use tract_core::ops::konst::Const;
use tract_onnx::pb::{ModelProto, TensorProto};
use tract_onnx::tract_hir::internal::{
    DatumType, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, IntoTensor, TVec, Tensor,
    TractResult,
};

use super::onnx;

/// Types that no part of this engine computes with.
const REFUSED: [&str; 8] = [
    "Float8e4m3fn",
    "Float8e5m2",
    "Float8e8m0",
    "Float4e2m1",
    "Uint4",
    "Int4",
    // uint2 and int2: the importer's schema is older than these
    "DataType (25)",
    "DataType (26)",
];

fn read(path: &Path) -> ModelProto {
    onnx::importer().proto_model_for_read(&mut std::fs::File::open(path).unwrap()).unwrap()
}

/// The constants of `data`, by name.
fn tensors(data: &ModelProto) -> TractResult<Vec<(String, Tensor)>> {
    let model = onnx::importer().parse(data, None)?.model;
    Ok(model
        .nodes()
        .iter()
        .filter_map(|n| Some((n.name.clone(), n.op_as::<Const>()?.val().as_ref().clone())))
        .collect())
}

fn run(proto: &ModelProto, given: &[(String, Tensor)]) -> TractResult<TVec<Tensor>> {
    let mut proto = proto.clone();
    onnx::prepare(&mut proto);
    let mut model = onnx::importer().parse(&proto, None)?.model;
    let inputs: Vec<Tensor> = proto
        .graph
        .iter()
        .flat_map(|g| &g.input)
        .map(|i| given.iter().find(|(name, _)| *name == i.name).unwrap().1.clone())
        .collect();
    for (ix, tensor) in inputs.iter().enumerate() {
        model.set_input_fact(ix, InferenceFact::dt_shape(tensor.datum_type(), tensor.shape()))?;
    }
    let (model, _) = attendant_quant::rewrite(model.into_typed()?, Tier::current()?)?;
    let mut state = model.into_optimized()?.into_runnable()?.spawn()?;
    let outputs = state.run(inputs.into_iter().map(IntoTValue::into_tvalue).collect())?;
    Ok(outputs.into_iter().map(IntoTensor::into_tensor).collect())
}

/// The same model with all inputs but the first as constants.
fn with_constants(proto: &ModelProto, data: &ModelProto) -> ModelProto {
    let mut proto = proto.clone();
    let graph = proto.graph.as_mut().unwrap();
    let known: Vec<&TensorProto> = data.graph.iter().flat_map(|g| &g.initializer).collect();
    for input in graph.input.split_off(1) {
        graph.initializer.push((*known.iter().find(|t| t.name == input.name).unwrap()).clone());
    }
    proto
}

fn check(name: &str, proto: &ModelProto, data: &ModelProto) -> Result<(), String> {
    let given = tensors(data).map_err(|e| format!("{e:#}"))?;
    let found = super::model::guarded(|| run(proto, &given))?;
    for (output, found) in proto.graph.iter().flat_map(|g| &g.output).zip(&found) {
        let expected = &given.iter().find(|(n, _)| *n == output.name).unwrap().1;
        assert_eq!(found.datum_type(), expected.datum_type(), "{name}: {}", output.name);
        assert_eq!(found.shape(), expected.shape(), "{name}: {}", output.name);
        let exact = expected.datum_type() != DatumType::F32;
        let close = if exact { found == expected } else { found.close_enough(expected, true).is_ok() };
        assert!(close, "{name}: {}: {found:?}, expected {expected:?}", output.name);
    }
    Ok(())
}

#[test]
fn the_standards_tests_of_the_quantization_operators_pass() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx_node");
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .filter_map(|f| Some(f.unwrap().file_name().to_str()?.strip_suffix(".onnx")?.to_string()))
        .filter(|n| !n.ends_with(".data"))
        .collect();
    names.sort();
    assert!(names.len() > 30, "{} cases", names.len());
    let mut failed = Vec::new();
    let (mut passed, mut refused) = (0, 0);
    for name in &names {
        let proto = read(&dir.join(format!("{name}.onnx")));
        let data = read(&dir.join(format!("{name}.data.onnx")));
        for (form, proto) in [("at run time", proto.clone()), ("as constants", with_constants(&proto, &data))] {
            match std::panic::catch_unwind(|| check(name, &proto, &data)) {
                Ok(Ok(())) => passed += 1,
                // an error that names the type
                Ok(Err(reason)) if REFUSED.iter().any(|t| reason.contains(t)) => refused += 1,
                Ok(Err(reason)) => failed.push(format!("{name}, {form}: {reason}")),
                Err(_) => failed.push(format!("{name}, {form}: another result, see above")),
            }
        }
    }
    println!("{} cases, each in two forms: {passed} passed, {refused} refused for their type", names.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
