//! Heads on tensors that are written by hand, with results that can be worked out by hand.

use super::*;
use crate::config::manifest::Manifest;
use crate::signal::{TagState, TensorData};

fn spec(keys: &str) -> EncoderSpec {
    let text = format!(
        "[bundle]\n\
        name = \"t\"\n\
        version = \"1.0.0\"\n\
        [[encoder]]\n\
        name = \"e\"\n\
        source = \"camera\"\n\
        model = \"m\"\n\
        [encoder.image]\n\
        size = [16, 32]\n\
        {keys}\n"
    );
    toml::from_str::<Manifest>(&text).unwrap_or_else(|e| panic!("{e}\n{text}")).encoder.remove(0)
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    let mut tensor = Tensor::zeros_f32(shape);
    assert_eq!(values.len(), shape.iter().product::<usize>(), "{shape:?}");
    tensor.data = TensorData::F32(values.to_vec());
    tensor
}

fn labels(names: &[&str]) -> HeadFiles {
    HeadFiles { labels: Some(names.iter().map(|n| (*n).into()).collect()), ..HeadFiles::default() }
}

fn load(keys: &str, files: HeadFiles, outputs: &[(&str, &[usize])]) -> Result<Head, HeadError> {
    let ports: Vec<Port<'_>> = outputs.iter().map(|(name, shape)| Port { name, shape, is_f32: true }).collect();
    Head::new(&spec(keys), files, &ports).map(|head| head.expect("the keys declare a head"))
}

/// What the head says about `outputs`, which are named `o0`, `o1`, ...
fn found(keys: &str, files: HeadFiles, outputs: &[Tensor], placement: Option<Placement>) -> serde_json::Value {
    let names: Vec<String> = (0..outputs.len()).map(|i| format!("o{i}")).collect();
    let ports: Vec<(&str, &[usize])> = names.iter().zip(outputs).map(|(n, o)| (n.as_str(), &o.shape[..])).collect();
    let mut head = load(keys, files, &ports).unwrap();
    head.run(outputs, Micros(7), placement);
    let (t, found) = head.take().expect("every window is told");
    assert_eq!(t, Micros(7));
    serde_json::to_value(&*found).unwrap()
}

/// One pixel of the 16 x 32 tensor is one hundredth of the frame.
const HUNDREDTHS: Placement = Placement { origin: [0.0, 0.0], scale: [0.01, 0.01], frame: [640, 480] };

#[test]
fn the_likeliest_classes_come_first_and_equals_in_their_order() {
    let keys = "[encoder.classification]\nlabels = \"l\"\ntop_k = 2";
    let logits = [0.0, (2.0_f32).ln(), (5.0_f32).ln(), (2.0_f32).ln()];
    let said = found(keys, labels(&["a", "b", "c", "d"]), &[tensor(&[1, 4, 1, 1], &logits)], None);
    assert_eq!(
        said,
        serde_json::json!({ "head": "classification", "classes": [{ "class": "c", "p": 0.5_f32 }, { "class": "b", "p": 0.2_f32 }] })
    );
    let keys = "[encoder.classification]\nlabels = \"l\"\nactivation = \"none\"\nmin_p = 0.3";
    let said = found(keys, labels(&["a", "b"]), &[tensor(&[1, 2], &[0.2, 0.7])], None);
    assert_eq!(said["classes"], serde_json::json!([{ "class": "b", "p": 0.7_f32 }]));
    let keys = "[encoder.classification]\nlabels = \"l\"\nactivation = \"sigmoid\"";
    let said = found(keys, labels(&["a"]), &[tensor(&[1], &[0.0])], None);
    assert_eq!(said["classes"][0]["p"], 0.5);
}

#[test]
fn a_change_is_told_once() {
    let keys = "[encoder.classification]\nlabels = \"l\"\nactivation = \"none\"\nreport = \"change\"";
    let mut head = load(keys, labels(&["a", "b"]), &[("o", &[1, 2])]).unwrap();
    let mut told = Vec::new();
    for p in [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]] {
        head.run(&[tensor(&[1, 2], &p)], Micros::ZERO, None);
        told.push(head.take().is_some());
    }
    head.restart(Micros::ZERO);
    head.run(&[tensor(&[1, 2], &[0.2, 0.8])], Micros::ZERO, None);
    told.push(head.take().is_some());
    assert_eq!(told, [true, false, true, false, true]);
}

#[test]
fn a_result_is_written_into_the_same_memory_once_nobody_holds_it() {
    let keys = "[encoder.classification]\nlabels = \"l\"";
    let mut head = load(keys, labels(&["a", "b"]), &[("o", &[1, 2])]).unwrap();
    let logits = [tensor(&[1, 2], &[0.0, 1.0])];
    let mut next = || {
        head.run(&logits, Micros::ZERO, None);
        head.take().unwrap().1
    };
    let first = Arc::as_ptr(&next());
    let held = next();
    assert_eq!(Arc::as_ptr(&held), first);
    let other = next();
    assert_ne!(Arc::as_ptr(&other), first);
    assert_eq!(held, other, "what is held is not written over");
}

#[test]
fn boxes_of_every_kind_are_decoded() {
    let box_of = |keys: &str, outputs: &[Tensor]| {
        let keys = format!("[encoder.detection]\nboxes = [\"o0\"]\nscores = [\"o1\"]\n{keys}");
        found(&keys, HeadFiles::default(), outputs, Some(HUNDREDTHS))["detections"][0]["box"].clone()
    };
    let one = |numbers: &[f32]| [tensor(&[1, 1, 4], numbers), tensor(&[1, 1, 1], &[0.9])];
    let json = |numbers: [f32; 4]| serde_json::json!(numbers);
    assert_eq!(box_of("decode = \"corners\"", &one(&[0.25, 0.5, 0.5, 1.0])), json([0.08, 0.08, 0.08, 0.08]));
    assert_eq!(
        box_of("decode = \"center\"\nunits = \"pixels\"", &one(&[10.0, 8.0, 4.0, 6.0])),
        json([0.08, 0.05, 0.04, 0.06])
    );
    // 16 x 32 pixels in steps of 16 are 2 cells; the second is the sure one
    let two = |numbers: [f32; 4]| {
        let numbers = [[0.0; 4], numbers].concat();
        [tensor(&[1, 2, 4], &numbers), tensor(&[1, 2], &[0.1, 0.9])]
    };
    // centre 16 + 0.5 * 16, 0.25 * 16; size 16 * e^0, 16 * 0.5
    assert_eq!(
        box_of("decode = \"grid\"\nstrides = [16]", &two([0.5, 0.25, 0.0, 0.5_f32.ln()])),
        json([0.16, 0.0, 0.16, 0.08])
    );
    assert_eq!(
        box_of("decode = \"distances\"\nstrides = [16]\ncell_offset = 0.5", &two([0.5, 0.25, 0.25, 0.125])),
        json([0.16, 0.04, 0.12, 0.06])
    );
    // prior: centre 24, 8, side 10; centre + 1 * 0.1 * 10, size 10 * e^(ln 2)
    let size = 2.0_f32.ln() / 0.2;
    assert_eq!(
        box_of("decode = \"ssd\"\nstrides = [16]\nmin_sizes = [[10.0]]", &two([1.0, 0.0, size, 0.0])),
        json([0.15, 0.03, 0.2, 0.1])
    );
}

#[test]
fn priors_may_come_from_a_file() {
    let keys = "[encoder.detection]\nboxes = [\"o0\"]\nscores = [\"o1\"]\ndecode = \"ssd\"\npriors = \"p\"";
    let files = |text: &str| HeadFiles { priors: Some(text.into()), ..HeadFiles::default() };
    let outputs = [tensor(&[1, 1, 4], &[0.0; 4]), tensor(&[1, 1, 1], &[0.9])];
    let said = found(keys, files("0.5 0.5 0.25 0.5\n"), &outputs, Some(HUNDREDTHS));
    assert_eq!(said["detections"][0]["box"], serde_json::json!([0.12_f32, 0.04_f32, 0.08_f32, 0.08_f32]));
    let ports: &[(&str, &[usize])] = &[("o0", &[1, 1, 4]), ("o1", &[1, 1, 1])];
    for (text, expect) in [
        ("0.5 0.5 0.25\n", "line 1: \"0.5 0.5 0.25\", expected four numbers"),
        ("0.5 0.5 0.25 x\n", "line 1"),
        (
            "0.5 0.5 0.2 0.2\n0.1 0.1 0.1 0.1\n",
            "the file of priors has 2 candidates for 32 x 16 pixels, the model has 1",
        ),
    ] {
        let error = load(keys, files(text), ports).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }
}

#[test]
fn scores_are_combined_as_the_manifest_says() {
    let score = |keys: &str, scores: &[f32], objectness: f32| {
        let keys = format!(
            "[encoder.detection]\n\
            labels = \"l\"\n\
            decode = \"corners\"\n\
            boxes = [\"o0\"]\n\
            scores = [\"o1\"]\n\
            score_threshold = 0.0\n\
            {keys}"
        );
        let outputs = [
            tensor(&[1, 1, 4], &[0.0, 0.0, 1.0, 1.0]),
            tensor(&[1, 1, scores.len()], scores),
            tensor(&[1, 1], &[objectness]),
        ];
        let said = found(&keys, labels(&["a", "b"]), &outputs, None);
        let detection = &said["detections"][0];
        (detection["class"].as_str().unwrap().to_owned(), detection["score"].as_f64().unwrap())
    };
    let near = |(class, p): (String, f64), expect: (&str, f64)| {
        assert!(class == expect.0 && (p - expect.1).abs() < 1e-4, "{class} {p}, expected {expect:?}");
    };
    near(score("", &[0.2, 0.6], 0.0), ("b", 0.6));
    near(score("objectness = [\"o2\"]", &[0.2, 0.6], 0.5), ("b", 0.3));
    near(score("objectness = [\"o2\"]\nscore = \"root\"", &[0.81, 0.6], 0.25), ("a", 0.45));
    near(score("activation = \"sigmoid\"\nobjectness = [\"o2\"]", &[0.0, -3.0], 0.0), ("a", 0.25));
    near(score("activation = \"softmax\"\nbackground = true", &[4.0_f32.ln(), 0.0, 5.0_f32.ln()], 0.0), ("b", 0.5));
}

#[test]
fn of_boxes_that_overlap_the_surest_of_a_class_stays() {
    let keys = "[encoder.detection]\n\
        labels = \"l\"\n\
        decode = \"corners\"\n\
        units = \"pixels\"\n\
        boxes = [\"o0\"]\n\
        scores = [\"o1\"]\n\
        nms_iou = 0.5\n\
        max_detections = 3";
    let rects = [
        [0.0, 0.0, 10.0, 10.0],
        [0.0, 0.0, 10.0, 8.0],
        [0.0, 0.0, 10.0, 4.0],
        [0.0, 0.0, 10.0, 10.0],
        [20.0, 0.0, 30.0, 10.0],
    ];
    let scores = [[0.7, 0.0], [0.9, 0.0], [0.6, 0.0], [0.0, 0.8], [0.55, 0.0]];
    let outputs = [tensor(&[1, 5, 4], rects.as_flattened()), tensor(&[1, 5, 2], scores.as_flattened())];
    let said = found(keys, labels(&["a", "b"]), &outputs, None);
    let kept: Vec<(String, f64)> = said["detections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["class"].as_str().unwrap().into(), (d["score"].as_f64().unwrap() * 100.0).round()))
        .collect();
    // 0.7 overlaps 0.9 by 0.8; 0.6 overlaps it by exactly the threshold, which is not more; the fourth is one too many
    assert_eq!(kept, [("a".into(), 90.0), ("b".into(), 80.0), ("a".into(), 60.0)]);
}

#[test]
fn packed_and_transposed_outputs_are_the_same_boxes() {
    let (row_a, row_b) = ([10.0, 8.0, 4.0, 6.0, 0.2, 0.9], [20.0, 8.0, 4.0, 6.0, 0.7, 0.1]);
    let keys = "[encoder.detection]\n\
        labels = \"l\"\n\
        decode = \"center\"\n\
        units = \"pixels\"\n\
        packed = [\"o0\"]\n\
        columns = [\"box\", \"scores\"]";
    let rows = found(keys, labels(&["a", "b"]), &[tensor(&[1, 2, 6], &[row_a, row_b].concat())], None);
    let columns: Vec<f32> = (0..6).flat_map(|k| [row_a[k], row_b[k]]).collect();
    let transposed = format!("{keys}\ntransposed = true");
    assert_eq!(found(&transposed, labels(&["a", "b"]), &[tensor(&[1, 6, 2], &columns)], None), rows);
    assert_eq!(found(&transposed, labels(&["a", "b"]), &[tensor(&[1, 6, 1, 2], &columns)], None), rows);
    assert_eq!(rows["detections"].as_array().unwrap().len(), 2);
}

#[test]
fn landmarks_and_boxes_are_placed_in_the_frame() {
    let keys = "[encoder.detection]\n\
        decode = \"grid\"\n\
        strides = [16]\n\
        boxes = [\"o0\"]\n\
        scores = [\"o1\"]\n\
        landmarks = [\"o2\"]";
    let outputs = [
        tensor(&[1, 2, 4], &[0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0]),
        tensor(&[1, 2, 1], &[0.0, 0.9]),
        tensor(&[1, 2, 4], &[0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.5, 0.0]),
    ];
    let placement = Placement { origin: [0.1, -0.1], scale: [0.01, 0.02], frame: [640, 480] };
    let said = found(keys, HeadFiles::default(), &outputs, Some(placement));
    assert_eq!(said["frame"], serde_json::json!([640, 480]));
    let detection = &said["detections"][0];
    assert_eq!(detection["box"], serde_json::json!([0.26_f32, -0.1_f32, 0.16_f32, 0.32_f32]));
    assert_eq!(detection["landmarks"], serde_json::json!([[0.3_f32, 0.06_f32], [0.34_f32, -0.1_f32]]));
}

#[test]
fn what_does_not_fit_the_model_is_refused_with_the_next_step() {
    let boxes = "[encoder.detection]\ndecode = \"corners\"\nboxes = [\"b\"]\nscores = [\"s\"]";
    let class = "[encoder.classification]\nlabels = \"l\"";
    type Outputs<'a> = &'a [(&'a str, &'a [usize])];
    let cases: &[(&str, Outputs<'_>, &str)] = &[
        (
            class,
            &[("p", &[1, 3])],
            "classification.output: output \"p\" is [1, 3], expected 2 numbers, one for each of the labels",
        ),
        (
            class,
            &[("p", &[1, 2]), ("q", &[1, 2])],
            "missing key `classification.output`: the model has several outputs: p, q",
        ),
        (boxes, &[("b", &[1, 9, 4])], "detection.scores = \"s\", expected an output of the model: b"),
        (
            boxes,
            &[("b", &[1, 9, 5]), ("s", &[1, 9, 2])],
            "detection.boxes: output \"b\" is [1, 9, 5], expected [..., 4]",
        ),
        (boxes, &[("b", &[1, 4, 9]), ("s", &[1, 2, 9])], "set `transposed = true`"),
        (boxes, &[("b", &[1, 9, 4]), ("s", &[1, 8, 2])], "detection.scores: 8 candidates, the boxes have 9"),
        (
            "[encoder.detection]\ndecode = \"grid\"\nboxes = [\"b\"]\nscores = [\"s\"]\nstrides = [8]",
            &[("b", &[1, 9, 4]), ("s", &[1, 9, 2])],
            "detection.strides and per_cell give 8 candidates for 32 x 16 pixels, the model has 9",
        ),
        ("[encoder.tagging]\ntags = [\"a\"]", &[("p", &[1, 2])], "expected 1 numbers, one for each of the tags"),
        (
            "[encoder.retrieval]\nindex = \"i\"",
            &[("p", &[1, 2])],
            "retrieval.index = \"i\": is no index; make it with `attendant index`",
        ),
    ];
    for (keys, outputs, expect) in cases {
        let error = load(keys, labels(&["x", "y"]), outputs).unwrap_err().to_string();
        assert!(error.contains(expect), "{keys}\n  {error}\n  expected {expect}");
    }
    let port = Port { name: "p", shape: &[1, 2], is_f32: false };
    let error = Head::new(&spec(class), labels(&["x", "y"]), &[port]).unwrap_err().to_string();
    assert!(error.contains("output \"p\" is not f32"), "{error}");
}

fn sample_index() -> Index {
    let mut index = Index::new(2);
    index.push("east", &[2.0, 0.0]).unwrap();
    index.push("north", &[0.0, 3.0]).unwrap();
    index.push("east", &[1.0, 0.1]).unwrap();
    index.push("west", &[-1.0, 0.0]).unwrap();
    index
}

#[test]
fn neighbours_are_the_most_alike_each_once() {
    let files = || HeadFiles { index: Some(sample_index().to_bytes()), ..HeadFiles::default() };
    let keys = "[encoder.retrieval]\nindex = \"i\"\ntop_k = 3\nmin_similarity = -0.5";
    let said = found(keys, files(), &[tensor(&[1, 2, 1, 1], &[3.0, 4.0])], None);
    let neighbours = said["neighbours"].as_array().unwrap();
    let ids: Vec<&str> = neighbours.iter().map(|n| n["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["north", "east"], "west is too far");
    assert_eq!(neighbours[0]["similarity"], serde_json::json!(0.8_f32));
    // (3 + 0.4) / (5 * sqrt(1.01)): of the two entries the nearer one
    assert_eq!(neighbours[1]["similarity"], serde_json::json!(0.6766_f32));
    let error = load(keys, files(), &[("o", &[1, 3])]).unwrap_err().to_string();
    assert!(error.contains("has vectors of 2, the output \"o\" has 3"), "{error}");
}

#[test]
fn a_damaged_index_is_an_error_and_an_index_comes_back_as_it_was() {
    let index = sample_index();
    let bytes = index.to_bytes();
    assert_eq!(Index::parse(&bytes).unwrap(), index);
    for cut in 0..bytes.len() {
        Index::parse(&bytes[..cut]).unwrap_err();
    }
    let mut claims = bytes.clone();
    claims[8..12].fill(0xff);
    assert!(Index::parse(&claims).unwrap_err().contains("cut off"));
    let mut zeros = bytes.clone();
    zeros.truncate(bytes.len() - 8);
    zeros.extend([0; 8]);
    assert!(Index::parse(&zeros).unwrap_err().contains("no direction"));
    let mut index = Index::new(2);
    assert!(index.push("x", &[0.0, 0.0]).unwrap_err().contains("no direction"));
    assert!(index.push("x", &[f32::NAN, 1.0]).unwrap_err().contains("no direction"));
    assert!(index.push("x", &[1.0]).unwrap_err().contains("expected 2"));
    assert!(index.push("", &[1.0, 0.0]).unwrap_err().contains("an id of 0 bytes"));
    assert!(index.is_empty() && index.to_bytes().len() == 16);
}

/// Windows of 100 ms with their probability of `speech`: `enter t since`, as they are told.
fn tags(keys: &str, p: &[f32]) -> Vec<String> {
    let keys = format!("[encoder.tagging]\ntags = [\"speech\"]\n{keys}");
    let mut head = load(&keys, HeadFiles::default(), &[("o", &[1, 1])]).unwrap();
    let mut told = Vec::new();
    for (i, p) in p.iter().enumerate() {
        let t = Micros::from_ms(100 * (i as u64 + 1));
        if *p < 0.0 {
            head.restart(t);
        } else {
            head.run(&[tensor(&[1, 1], &[*p])], t, None);
        }
        let Some((t, found)) = head.take() else { continue };
        let Found::Tagging { tags } = &*found else { panic!("{found:?}") };
        told.extend(tags.iter().map(|tag| {
            let state = if tag.state == TagState::Enter { "enter" } else { "exit" };
            format!("{state} {} {}", t.as_ms(), tag.since_us.as_ms())
        }));
    }
    told
}

#[test]
fn a_tag_is_entered_and_left_with_hysteresis_and_patience() {
    assert_eq!(tags("", &[0.4, 0.5, 0.4, 0.34, 0.5]), ["enter 200 200", "exit 400 400", "enter 500 500"]);
    // a stray window, then 300 ms of it
    let keys = "enter = 0.6\nexit = 0.4\nmin_on_ms = 200\nmin_off_ms = 100";
    assert_eq!(tags(keys, &[0.7, 0.5, 0.7, 0.7, 0.6, 0.3, 0.7, 0.3, 0.3]), ["enter 500 300", "exit 900 800"]);
    // the source fails while the tag holds, and while it is on its way
    assert_eq!(tags("", &[0.9, -1.0, -1.0, 0.1]), ["enter 100 100", "exit 200 200"]);
    assert_eq!(tags("min_on_ms = 200", &[0.9, 0.9, -1.0, 0.9, 0.9]), Vec::<String>::new());
}
