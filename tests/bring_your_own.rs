//! Models that were not made for this program, run as bundles with no code written: small ones everywhere, and, where the folder of
//! models that nobody here made is there (see `tests/third_party.rs`), those of others.
//!
//! What onnxruntime makes of the latter comes from `tests/bring_your_own.py`.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use attendant::bundle::Bundle;
use attendant::pipeline::{Options, Pipeline};
use attendant::signal::{AudioBlock, Event, EventKind, Found, Sample, SampleIdx};
use attendant::time::Micros;
use common::theirs;
use serde_json::{Value, json};

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file)
}

/// A bundle of the one encoder that `keys` describe, with `model` and other files in it.
fn bundle(model: &Path, keys: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(model, dir.path().join("model.onnx")).unwrap();
    files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
    let head = "[bundle]\nname = \"theirs\"\nversion = \"1.0.0\"\n[[encoder]]\nname = \"it\"\nmodel = \"model.onnx\"\n";
    fs::write(dir.path().join("bundle.toml"), format!("{head}{keys}")).unwrap();
    dir
}

fn attendant(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attendant")).args(args).env_remove("ATTENDANT_BUNDLE").output().unwrap()
}

/// Runs files through the bundle; its events.
fn run(bundle: &Path, args: &[&str]) -> Vec<Value> {
    let all = [&["run", "--json", "--speed", "max", "--bundle", bundle.to_str().unwrap()], args].concat();
    let output = attendant(&all);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn results(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|e| e["kind"] == "result").collect()
}

/// A grey picture of 16 x 16 with one bright quarter: 0 left above, 1 right above, 2 left below, 3 right below.
fn quarter(dir: &Path, bright: usize) -> PathBuf {
    let mut file = b"P5 16 16 255\n".to_vec();
    file.extend((0..256).map(|i| if 2 * (i / 128) + i % 16 / 8 == bright { 255 } else { 20 }));
    let path = dir.join(format!("quarter_{bright}.pgm"));
    fs::write(&path, file).unwrap();
    path
}

/// 16-bit mono at 16 kHz: stretches of 20 ms, each of one level.
fn levels(dir: &Path, levels: &[f32]) -> PathBuf {
    let samples: Vec<u8> = levels.iter().flat_map(|l| ((l * 32767.0) as i16).to_le_bytes().repeat(320)).collect();
    let mut file = b"RIFF".to_vec();
    file.extend((36 + samples.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(16_000_u32.to_le_bytes());
    file.extend(32_000_u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((samples.len() as u32).to_le_bytes());
    file.extend(samples);
    let path = dir.join("levels.wav");
    fs::write(&path, file).unwrap();
    path
}

const GRAY_16: &str = "source = \"camera\"\n[encoder.image]\nsize = [16, 16]\nmean = [0.0]\nstd = [1.0]\n";
const LOUD: &str = "source = \"mic\"\n\
    [encoder.audio]\n\
    sample_rate_hz = 16000\n\
    window_ms = 20\n\
    hop_ms = 20\n\
    features = \"waveform\"\n\
    [[encoder.state]]\n\
    input = \"h\"\n\
    output = \"h_out\"\n\
    [[encoder.constant]]\n\
    input = \"sr\"\n\
    value = 16000\n";

#[test]
fn a_detector_finds_where_the_picture_is_bright_and_a_still_at_full_speed_ends() {
    let keys = format!(
        "{GRAY_16}[encoder.detection]\nboxes = [\"box\"]\nscores = [\"score\"]\ndecode = \"grid\"\nstrides = [8]\n"
    );
    let dir = bundle(&data("models/spot.onnx"), &keys, &[]);
    let picture = quarter(dir.path(), 1);
    let events = run(dir.path(), &["--camera", picture.to_str().unwrap()]);
    let found = results(&events);
    assert_eq!(found.len(), 10, "2 s of 5 pictures a second");
    assert_eq!(
        (&found[0]["encoder"], &found[0]["head"], &found[0]["frame"]),
        (&json!("it"), &json!("detection"), &json!([16, 16]))
    );
    assert_eq!(found[0]["detections"], json!([{ "class": "object", "score": 1.0, "box": [0.5, 0.0, 0.5, 0.5] }]));
    assert_eq!((&found[1]["t_us"], &found[1]["of_us"]), (&json!(200_000), &json!(200_000)));
    assert!(events.iter().all(|e| e["kind"] != "decision") && events.last().unwrap()["kind"] == "end");
    // a recorded run says the same again
    let recording = dir.path().join("run.mcap");
    let (here, picture) = (dir.path().to_str().unwrap(), picture.to_str().unwrap());
    let run_of = ["--bundle", here, "--camera", picture, "--speed", "max"];
    let recorded = attendant(&[&["record", recording.to_str().unwrap()], &run_of[..]].concat());
    assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
    let again = attendant(&["replay", "--verify", recording.to_str().unwrap(), "--bundle", here]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&[again.stdout, again.stderr].concat()));
    let tokens = attendant(&[&["run", "--record", "x.mcap", "--record-tokens"], &run_of[..]].concat());
    assert_eq!(tokens.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&tokens.stderr)
            .contains("encoder it has a head, whose results are not made of a token")
    );
    // the same answer is told once
    let manifest = dir.path().join("bundle.toml");
    fs::write(&manifest, fs::read_to_string(&manifest).unwrap() + "report = \"change\"\n").unwrap();
    assert_eq!(results(&run(dir.path(), &["--camera", picture])).len(), 1);
    let text = attendant(&[&["run"], &run_of[..]].concat());
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("› it  object 100 % at 50,0 size 50x50"), "{text}");
}

#[test]
fn a_classifier_tells_its_likeliest_classes() {
    let keys = format!("{GRAY_16}[encoder.classification]\noutput = \"logits\"\nlabels = \"labels.txt\"\ntop_k = 2\n");
    let dir = bundle(&data("models/card.onnx"), &keys, &[("labels.txt", "a\nb\nc\n")]);
    let picture = quarter(dir.path(), 0);
    let events = run(dir.path(), &["--camera", picture.to_str().unwrap()]);
    let classes = results(&events)[0]["classes"].as_array().unwrap().clone();
    let p: Vec<f64> = classes.iter().map(|c| c["p"].as_f64().unwrap()).collect();
    assert!(p.len() == 2 && p[0] >= p[1] && p[0] + p[1] <= 1.0001 && p[0] > 1.0 / 3.0, "{classes:?}");
}

#[test]
fn what_is_most_alike_is_found_in_an_index_that_was_made_of_pictures() {
    let keys = format!(
        "{GRAY_16}[encoder.retrieval]\noutput = \"embedding\"\nindex = \"index.bin\"\ntop_k = 2\nmin_similarity = -1.0\n"
    );
    let dir = bundle(&data("models/card.onnx"), &keys, &[]);
    let here = dir.path().to_str().unwrap();
    let missing = attendant(&["run", "--bundle", here, "--camera", "x.pgm"]);
    assert_eq!(missing.status.code(), Some(3));
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains("index.bin does not exist; make it with `attendant index`"), "{said}");
    let folder = dir.path().join("pictures");
    fs::create_dir(&folder).unwrap();
    let pictures: Vec<PathBuf> = (0..4).map(|i| quarter(&folder, i)).collect();
    let index = dir.path().join("index.bin");
    let made = attendant(&["index", "--json", here, folder.to_str().unwrap(), "-o", index.to_str().unwrap()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let report: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((&report["entries"], &report["encoder"]), (&json!(4), &json!("it")));
    for (i, picture) in pictures.iter().enumerate() {
        let events = run(dir.path(), &["--camera", picture.to_str().unwrap()]);
        let neighbours = results(&events)[0]["neighbours"].as_array().unwrap().clone();
        assert_eq!(neighbours.len(), 2);
        assert_eq!(neighbours[0], json!({ "id": format!("quarter_{i}"), "similarity": 1.0 }));
        assert!(neighbours[1]["similarity"].as_f64().unwrap() < 1.0, "{neighbours:?}");
    }
    let cases = [
        (vec!["index", here, "none.png", "-o", "x"], 4, "none.png: cannot be opened"),
        (vec!["index", here, "none.png", "-o", "x", "--encoder", "other"], 2, "--encoder other: not in"),
        (vec!["index", "/nowhere", "none.png", "-o", "x"], 3, "/nowhere"),
    ];
    for (args, code, expect) in cases {
        let output = attendant(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(expect), "{args:?}: {said}");
    }
}

#[test]
fn tags_of_sound_are_entered_and_left_with_the_time_since_when() {
    let keys = format!(
        "{LOUD}[encoder.tagging]\noutput = \"p\"\ntags = [\"loud\"]\nenter = 0.7\nexit = 0.4\nmin_on_ms = 20\n"
    );
    let dir = bundle(&data("models/loudness.onnx"), &keys, &[]);
    // p is the level plus half of the p before: 0.1, 0.65, 0.925, 1 (cut), 0.5, 0.25
    let sound = levels(dir.path(), &[0.1, 0.6, 0.6, 0.9, 0.0, 0.0, 0.0]);
    let events = run(dir.path(), &["--mic", sound.to_str().unwrap()]);
    let tags: Vec<Value> = results(&events).iter().flat_map(|e| e["tags"].as_array().unwrap().clone()).collect();
    assert_eq!(tags.len(), 2, "{tags:?}");
    let near = |tag: &Value, state: &str, since_us: u64, p: f64| {
        assert!(tag["tag"] == "loud" && tag["state"] == state && tag["since_us"] == since_us, "{tag}");
        assert!((tag["p"].as_f64().unwrap() - p).abs() < 1e-3, "{tag}");
    };
    near(&tags[0], "enter", 60_000, 1.0);
    near(&tags[1], "exit", 120_000, 0.25);
}

/// `p` of every window that `feed` gives, where each window is at level 0.4.
fn loudness(feed: impl Fn(&mut Pipeline, &mut Vec<Event>)) -> Vec<f32> {
    let keys =
        format!("{LOUD}[encoder.classification]\noutput = \"p\"\nlabels = \"labels.txt\"\nactivation = \"none\"\n");
    let dir = bundle(&data("models/loudness.onnx"), &keys, &[("labels.txt", "loud\n")]);
    let mut pipeline = Pipeline::load(&Bundle::open(dir.path()).unwrap(), &Options::default()).unwrap();
    let mut events = Vec::new();
    feed(&mut pipeline, &mut events);
    let p = |e: &Event| match &e.kind {
        EventKind::Result { found, .. } => match &**found {
            Found::Classification { classes } => Some(classes[0].p),
            other => panic!("{other:?}"),
        },
        _ => None,
    };
    events.iter().filter_map(p).collect()
}

/// A window of sound that begins at `ms`, after `gap_samples` that were lost.
fn window(pipeline: &mut Pipeline, ms: u64, gap_samples: u64, events: &mut Vec<Event>) {
    let block = AudioBlock {
        t: Micros::from_ms(ms),
        first: SampleIdx(16 * ms),
        gap_samples,
        sample_rate_hz: 16_000,
        data: vec![0.4; 320],
    };
    pipeline.process("mic", &Sample::Audio(block), Micros::from_ms(ms + 20), events);
}

#[test]
fn carried_state_is_forgotten_after_a_gap_a_fault_and_a_mute() {
    use attendant::signal::Command;
    let steady = loudness(|p, e| (0..3).for_each(|i| window(p, 20 * i, 0, e)));
    assert_eq!(steady, [0.4, 0.6, 0.7]);
    let gap = loudness(|p, e| {
        window(p, 0, 0, e);
        window(p, 20, 0, e);
        window(p, 140, 1600, e);
        window(p, 160, 0, e);
    });
    assert_eq!(gap, [0.4, 0.6, 0.4, 0.6]);
    let jump = loudness(|p, e| {
        window(p, 0, 0, e);
        window(p, 500, 0, e);
    });
    assert_eq!(jump, [0.4, 0.4]);
    let fault = loudness(|p, e| {
        window(p, 0, 0, e);
        p.process("mic", &Sample::Fault { t: Micros::from_ms(20), reason: "unplugged".into() }, Micros::from_ms(20), e);
        // so soon that the times alone tell nothing
        window(p, 20, 0, e);
    });
    assert_eq!(fault, [0.4, 0.4]);
    let mute = loudness(|p, e| {
        window(p, 0, 0, e);
        for muted in [true, false] {
            p.command(&Command::Mute { source: "mic".into(), muted }, Micros::from_ms(20), e).unwrap();
        }
        window(p, 20, 0, e);
    });
    assert_eq!(mute, [0.4, 0.4]);
    let speaking = loudness(|p, e| {
        window(p, 0, 0, e);
        [true, false].into_iter().for_each(|on| p.hush(on, Micros::from_ms(20), e));
        window(p, 20, 0, e);
    });
    assert_eq!(speaking, [0.4, 0.4]);
}

#[test]
fn a_bundle_that_cannot_work_says_why() {
    let class = "[encoder.classification]\nlabels = \"labels.txt\"\n";
    let boxes = "[encoder.detection]\nboxes = [\"box\"]\nscores = [\"score\"]\ndecode = \"grid\"\n";
    let card =
        |keys: &str| bundle(&data("models/card.onnx"), &format!("{GRAY_16}{keys}"), &[("labels.txt", "a\nb\nc\n")]);
    let spot = |keys: &str| bundle(&data("models/spot.onnx"), &format!("{GRAY_16}{keys}"), &[]);
    let cases = [
        (card(class), "missing key `classification.output`: the model has several outputs: embedding, logits"),
        (card(&format!("{class}output = \"embedding\"\n")), "expected 3 numbers, one for each of the labels"),
        (card(&format!("{class}top_k = 0\n")), "classification.top_k = 0, expected 1 to 1000"),
        (card(&format!("{class}min_p = 2\n")), "classification.min_p = 2.0, expected 0 to 1"),
        (
            card(&format!("{class}{boxes}strides = [8]\n")),
            "expected at most one head, found [encoder.classification] and [encoder.detection]",
        ),
        (
            card(&format!("{class}output = \"logits\"\n[decision]\nenter = 0.9\n")),
            "[decision]: nothing is decided without `labels`",
        ),
        (spot(boxes), "detection.strides = [], expected one for each level"),
        (
            spot(&format!("{boxes}strides = [4]\n")),
            "detection.strides and per_cell give 16 candidates for 16 x 16 pixels, the model has 4",
        ),
        (
            spot(&format!("{boxes}strides = [8]\nlandmarks = [\"nose\"]\n")),
            "detection.landmarks = \"nose\", expected an output of the model: score, box",
        ),
        (
            spot("[encoder.tagging]\ntags = [\"a\"]\nenter = 0.3\nexit = 0.6\n"),
            "tagging.exit = 0.6, expected at most enter = 0.3",
        ),
        (
            spot("[[encoder.constant]]\ninput = \"sr\"\nvalue = 1\n[encoder.tagging]\ntags = [\"a\"]\n"),
            "constant input `sr` is missing, the file has image",
        ),
        (spot(""), "missing key `labels`: without [fusion] the encoder's own logits decide; add it, or a head"),
    ];
    for (dir, expect) in cases {
        let output = attendant(&["run", "--bundle", dir.path().to_str().unwrap(), "--camera", "x.pgm"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && said.contains(expect), "{said}\n  expected {expect}");
    }
}

/// Drafts a bundle for `model` into a new directory under `parent`; the report.
fn draft(model: &Path, parent: &Path) -> (PathBuf, Value) {
    let dir = parent.join("drafted");
    let output = attendant(&["inspect", "--json", model.to_str().unwrap(), "--draft-bundle", dir.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (dir, serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_drafted_bundle_runs_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let (picture, sound) = (quarter(temp.path(), 1), levels(temp.path(), &[0.9; 20]));
    let cases = [
        ("spot.onnx", "--camera", &picture, "detection"),
        ("card.onnx", "--camera", &picture, "classification"),
        ("loudness.onnx", "--mic", &sound, "tagging"),
    ];
    for (model, option, file, head) in cases {
        let parent = tempfile::tempdir().unwrap();
        let (dir, report) = draft(&data("models").join(model), parent.path());
        assert_eq!(report["problem"], Value::Null, "{model}: {report}");
        let events = run(&dir, &[option, file.to_str().unwrap()]);
        assert!(results(&events).iter().any(|e| e["head"] == head), "{model}: {events:?}");
        let again = attendant(&[
            "inspect",
            data("models").join(model).to_str().unwrap(),
            "--draft-bundle",
            dir.to_str().unwrap(),
        ]);
        assert!(again.status.code() == Some(2) && String::from_utf8_lossy(&again.stderr).contains("is there already"));
    }
}

#[test]
fn a_foreign_model_is_linted_with_the_next_step() {
    let cases = [
        (
            vec!["unknown_op.onnx"],
            1,
            "not supported: example.custom.Frobnicate at Frobnicate_1; export with the standard operators",
        ),
        (vec!["loudness.onnx"], 1, "dimension 1 of input `x` is open; the manifest fixes it"),
        (vec!["loudness.onnx"], 1, "3 inputs (x, h, sr): one takes the samples, the others need [[encoder.state]]"),
        (vec!["loudness.onnx", "--shape", "x=1,320"], 0, "MB of activations"),
        (vec!["card.onnx"], 0, "no metadata: mean, std, colour order and labels are not in the file"),
        (vec!["card.onnx", "--shape", "image=1,1,8,8"], 3, "does not fit"),
        (vec!["card.onnx", "--shape", "image"], 2, "expected NAME=1,3,224,224"),
    ];
    for (args, code, expect) in cases {
        let path = data("models").join(args[0]);
        let output = attendant(&[&["inspect", path.to_str().unwrap()], &args[1..]].concat());
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(expect), "{args:?}: {:?}\n{said}", output.status);
    }
}

fn near(found: &Value, expect: &[f64], tolerance: f64) {
    let found: Vec<f64> = found.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let is_near = found.len() == expect.len() && found.iter().zip(expect).all(|(f, e)| (f - e).abs() <= tolerance);
    assert!(is_near, "{found:?}, onnxruntime {expect:?}");
}

/// Detections in the first picture.
fn faces(model: &Path, keys: &str) -> Vec<Value> {
    let dir = bundle(model, keys, &[("labels.txt", "face\n")]);
    let events =
        run(dir.path(), &["--picture-hz", "0.5", "--camera", data("pictures/astronaut.png").to_str().unwrap()]);
    results(&events)[0]["detections"].as_array().unwrap().clone()
}

#[test]
fn yunet_finds_the_face_and_its_points() {
    let Some(model) = theirs("yunet_n_320_320.onnx") else { return };
    let found = faces(
        &model,
        "source = \"camera\"\n\
        [encoder.image]\n\
        size = [320, 320]\n\
        color = \"bgr\"\n\
        roi = \"full\"\n\
        resize = \"stretch\"\n\
        mean = [0.0]\n\
        std = [0.00392156863]\n\
        \
         [encoder.detection]\n\
             labels = \"labels.txt\"\n\
             decode = \"grid\"\n\
             strides = [8, 16, 32]\n\
             score = \"root\"\n\
             score_threshold = 0.7\n\
             nms_iou = 0.3\n\
             \
         boxes = [\"bbox_8\", \"bbox_16\", \"bbox_32\"]\nscores = [\"cls_8\", \"cls_16\", \"cls_32\"]\n\
         objectness = [\"obj_8\", \"obj_16\", \"obj_32\"]\nlandmarks = [\"kps_8\", \"kps_16\", \"kps_32\"]\n",
    );
    assert_eq!(found.len(), 1, "{found:?}");
    assert!((found[0]["score"].as_f64().unwrap() - 0.9360).abs() < 1e-3, "{found:?}");
    near(&found[0]["box"], &[0.368, 0.2029, 0.2845, 0.3447], 1e-3);
    let points = [[0.4466, 0.3226], [0.583, 0.326], [0.51, 0.3986], [0.4507, 0.4462], [0.5706, 0.4483]];
    for (i, point) in points.iter().enumerate() {
        near(&found[0]["landmarks"][i], point, 1e-3);
    }
}

#[test]
fn ultraface_finds_the_face_in_a_part_of_the_picture() {
    let Some(model) = theirs("ultraface_rfb_320.onnx") else { return };
    let found = faces(
        &model,
        "source = \"camera\"\n\
        [encoder.image]\n\
        size = [240, 320]\n\
        color = \"rgb\"\n\
        roi = { rect = [0.0, 0.0, 1.0, 0.75] }\n\
        resize = \"stretch\"\n\
        mean = [0.498039216]\n\
        std = [0.501960784]\n\
        \
         [encoder.detection]\n\
             labels = \"labels.txt\"\n\
             decode = \"corners\"\n\
             boxes = [\"boxes\"]\n\
             scores = [\"scores\"]\n\
             background = true\n\
             score_threshold = 0.7\n\
             nms_iou = 0.3\n",
    );
    assert_eq!(found.len(), 1, "{found:?}");
    assert!((found[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{found:?}");
    near(&found[0]["box"], &[0.3686, 0.1887, 0.2954, 0.3562], 1e-3);
}

#[test]
fn mobilenet_of_another_quantizer_names_what_onnxruntime_names() {
    let Some(model) = theirs("mobilenet_v2_quant.onnx") else { return };
    let labels: String = (0..1000).map(|i| format!("n{i}\n")).collect();
    let keys = "source = \"camera\"\n\
        [encoder.image]\n\
        size = [224, 224]\n\
        color = \"rgb\"\n\
        roi = { rect = [0.0, 0.0, 0.7, 0.7] }\n\
        resize = \"stretch\"\n\
        \
                mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n[encoder.classification]\nlabels = \"labels.txt\"\n";
    let dir = bundle(&model, keys, &[("labels.txt", &labels)]);
    let events =
        run(dir.path(), &["--picture-hz", "0.5", "--camera", data("pictures/astronaut.png").to_str().unwrap()]);
    let classes = results(&events)[0]["classes"].as_array().unwrap().clone();
    let expect = [(432, 0.0824), (566, 0.0551), (968, 0.0551), (521, 0.0451), (966, 0.0451)];
    for (i, (class, p)) in expect.iter().enumerate() {
        // a step of the output's scale is a tenth of p, and turns round classes that are as likely
        let found = classes
            .iter()
            .find(|c| c["class"] == format!("n{class}"))
            .unwrap_or_else(|| panic!("{class} is not in {classes:?}"));
        assert!((found["p"].as_f64().unwrap() / p - 1.0).abs() < 0.12, "{found}, onnxruntime {p}");
        assert!(i > 0 || classes[0]["class"] == "n432", "{classes:?}");
    }
}

#[test]
fn silero_tags_speech_as_onnxruntime_does() {
    let (Some(model), Some(sound)) = (theirs("silero_vad_16k_op15.onnx"), theirs("silero_test.wav")) else { return };
    // 64 samples of the window before, then 512 new ones
    let keys = "source = \"mic\"\n[encoder.audio]\nsample_rate_hz = 16000\nwindow_ms = 36\nhop_ms = 32\nfeatures = \"waveform\"\n\
                [[encoder.state]]\ninput = \"state\"\noutput = \"stateN\"\n[[encoder.constant]]\ninput = \"sr\"\nvalue = 16000\n\
                [encoder.tagging]\ntags = [\"speech\"]\nenter = 0.5\nexit = 0.35\nmin_on_ms = 64\nmin_off_ms = 96\n";
    let dir = bundle(&model, keys, &[]);
    let events = run(dir.path(), &["--mic", sound.to_str().unwrap()]);
    let changes: Vec<(String, u64)> = results(&events)
        .iter()
        .flat_map(|e| e["tags"].as_array().unwrap().clone())
        .map(|t| (t["state"].as_str().unwrap().to_owned(), t["since_us"].as_u64().unwrap() / 1000))
        .collect();
    let expect = [
        68, 2052, 2724, 4708, 5028, 6884, 9380, 13316, 13572, 15108, 15396, 15876, 16356, 17924, 18436, 19620, 20388,
        28580, 28740, 32612, 32772, 35620, 35812, 37636, 37988, 38948, 39940, 43300, 43652, 44612, 45092, 46788, 48900,
        49988, 51140, 53476, 53604, 54244, 54532, 57412, 57572, 59588,
    ];
    let expect: Vec<(String, u64)> =
        expect.iter().enumerate().map(|(i, ms)| (if i % 2 == 0 { "enter" } else { "exit" }.to_owned(), *ms)).collect();
    assert_eq!(changes, expect);
}

#[test]
fn models_of_others_are_drafted_and_load() {
    for (file, head) in [
        ("yunet_n_320_320.onnx", "[encoder.detection]"),
        ("ultraface_rfb_320.onnx", "[encoder.detection]"),
        ("mobilenet_v2_quant.onnx", "[encoder.classification]"),
        ("silero_vad_16k_op15.onnx", "[encoder.tagging]"),
    ] {
        let Some(model) = theirs(file) else { continue };
        let parent = tempfile::tempdir().unwrap();
        let (dir, report) = draft(&model, parent.path());
        assert_eq!(report["problem"], Value::Null, "{file}: {report}");
        let manifest = fs::read_to_string(dir.join("bundle.toml")).unwrap();
        assert!(manifest.contains(head), "{file}: {manifest}");
        // of the one that ends in a sigmoid, inside a branch, the draft knows that it gives probabilities
        assert!(head != "[encoder.tagging]" || manifest.contains("activation = \"none\""), "{manifest}");
    }
}

#[test]
fn results_allocate_nothing_while_nobody_keeps_them() {
    // the result of the window before is written over: the same memory comes again
    let keys =
        format!("{LOUD}[encoder.classification]\noutput = \"p\"\nlabels = \"labels.txt\"\nactivation = \"none\"\n");
    let dir = bundle(&data("models/loudness.onnx"), &keys, &[("labels.txt", "loud\n")]);
    let mut pipeline = Pipeline::load(&Bundle::open(dir.path()).unwrap(), &Options::default()).unwrap();
    let mut seen = Vec::new();
    let mut events = Vec::new();
    for i in 0..4 {
        window(&mut pipeline, 20 * i, 0, &mut events);
        seen.extend(events.iter().filter_map(|e| match &e.kind {
            EventKind::Result { found, .. } => Some(Arc::as_ptr(found) as usize),
            _ => None,
        }));
        events.clear();
    }
    assert!(seen.len() == 4 && seen.iter().all(|at| *at == seen[0]), "{seen:?}");
}
