//! Models that nobody here made: detectors, a voice activity model with carried state, a quantized classifier of another
//! exporter. They are too large and not ours to ship: the tests look in the folder that
//! `ATTENDANT_MODELS` names, or in `../shared/third-party`, and skip with a word.
//!
//! What onnxruntime makes of them comes from `tests/third_party.py`; inputs are `sin(i / 100)`.

mod common;

use attendant::config::manifest::StateSpec;
use attendant::infer::{Dtype, InputFact, Model, Precision, inspect};
use attendant::signal::Tensor;
use common::theirs;

fn waves(shape: &[usize]) -> Tensor {
    let mut tensor = Tensor::zeros_f32(shape);
    let values = tensor.as_f32_mut().unwrap();
    values.iter_mut().enumerate().for_each(|(i, v)| *v = (i as f64 / 100.0).sin() as f32);
    tensor
}

/// Outputs on waves: for each, where the largest value is and what, and the mean.
fn check(file: &str, shape: &[usize], tolerance: f64, expect: &[(usize, f64, f64)]) {
    let Some(path) = theirs(file) else { return };
    let mut model = Model::load(&path, &[InputFact { name: None, dtype: Dtype::F32, shape }]).unwrap();
    let mut outputs = model.new_outputs();
    model.run(&[&waves(shape)], &mut outputs).unwrap();
    assert_eq!(outputs.len(), expect.len(), "{file}");
    for (i, (output, (at, largest, mean))) in outputs.iter().zip(expect).enumerate() {
        let y = output.as_f32().unwrap();
        let found_mean = y.iter().map(|v| f64::from(*v)).sum::<f64>() / y.len() as f64;
        let found = y
            .iter()
            .enumerate()
            .fold((0, f64::MIN), |best, (i, v)| if f64::from(*v) > best.1 { (i, f64::from(*v)) } else { best });
        assert!(
            (found.1 - largest).abs() <= tolerance,
            "{file}: output {i}: largest {}, onnxruntime {largest}",
            found.1
        );
        assert!((found_mean - mean).abs() <= tolerance, "{file}: output {i}: mean {found_mean}, onnxruntime {mean}");
        // where all values are next to nothing, any may be the largest
        assert!(found.0 == *at || *largest < 1e-3, "{file}: output {i}: largest at {}, onnxruntime at {at}", found.0);
    }
}

#[test]
fn a_classifier_that_onnxruntime_quantized_agrees_and_is_one_island() {
    // the step of its output
    check("mobilenet_v2_quant.onnx", &[1, 3, 224, 224], 0.1004, &[(905, 8.530_045, 0.000_903)]);
    let Some(path) = theirs("mobilenet_v2_quant.onnx") else { return };
    let inspection = inspect(&path).unwrap();
    assert_eq!(inspection.plan.get("Int8Island"), Some(&1), "{:?}", inspection.plan);
    let convolutions = inspection.nodes.iter().filter(|n| n.op == "QLinearConv");
    assert!(convolutions.clone().count() == 52 && convolutions.clone().all(|n| n.precision == Precision::Int8));
}

#[test]
fn detectors_agree() {
    check(
        "yunet_n_320_320.onnx",
        &[1, 3, 320, 320],
        1e-4,
        &[
            (318, 0.829_536_7, 0.731_594_9),
            (45, 0.818_685_7, 0.692_978_7),
            (26, 0.763_281_0, 0.638_259_5),
            (1560, 3.987_6e-5, 7.348_5e-7),
            (203, 1.192_1e-5, 6.933_5e-7),
            (75, 0.000_191_36, 2.534_7e-5),
            (487, 1.736_157_7, 0.533_109_0),
            (255, 1.971_334_9, 0.783_973_8),
            (179, 2.155_116_1, 0.946_599_1),
            (137, 2.054_225_7, 0.511_777_9),
            (247, 2.626_475_1, 0.546_525_6),
            (547, 3.138_968_5, 0.642_962_5),
        ],
    );
    check(
        "ultraface_rfb_320.onnx",
        &[1, 3, 240, 320],
        1e-4,
        &[(8282, 0.996_573_6, 0.5), (17631, 1.262_197_3, 0.499_832_7)],
    );
}

#[test]
fn voice_activity_keeps_its_state_from_window_to_window() {
    const WINDOW: usize = 512;
    const CONTEXT: usize = 64;
    let (Some(path), Some(wav)) = (theirs("silero_vad_16k_op15.onnx"), theirs("silero_test.wav")) else { return };
    let (samples, rate_hz) = attendant::capture::wav::read_clip(&wav).unwrap();
    assert_eq!(rate_hz, 16_000);
    let shape = [1, CONTEXT + WINDOW];
    let inputs = [
        InputFact { name: Some("input"), dtype: Dtype::F32, shape: &shape },
        InputFact { name: Some("sr"), dtype: Dtype::I64, shape: &[] },
    ];
    let states = [StateSpec { input: "state".into(), output: "stateN".into() }];
    let mut model = Model::load_with_state(&path, &inputs, &states).unwrap();
    let mut outputs = model.new_outputs();
    let (mut window, mut rate) = (Tensor::zeros_f32(&shape), Tensor::zeros_i64(&[]));
    rate.as_i64_mut().unwrap()[0] = 16_000;
    let (mut speech, mut windows) = (0, 0);
    for block in samples.chunks_exact(WINDOW) {
        let x = window.as_f32_mut().unwrap();
        x.copy_within(WINDOW.., 0);
        x[CONTEXT..].copy_from_slice(block);
        model.run(&[&window, &rate], &mut outputs).unwrap();
        speech += usize::from(outputs[0].as_f32().unwrap()[0] > 0.5);
        windows += 1;
    }
    let share = speech as f64 / f64::from(windows);
    assert!((share - 0.77).abs() <= 0.01, "speech in {share:.3} of {windows} windows, onnxruntime 0.774");
}
