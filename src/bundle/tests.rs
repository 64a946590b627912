//! Every way a bundle can be wrong, as rows: one change to a good bundle, and the message.

use std::fs;
use std::path::Path;

use super::locate::{Places, locate_in};
use super::*;

const GOOD: &str = r#"[bundle]
name = "shop"
version = "1.2.3"

[[encoder]]
name = "card"
source = "camera"
model = "card.onnx"
rate_hz = 5
[encoder.image]
size = [64, 64]

[[encoder]]
name = "speech"
source = "mic"
model = "speech.onnx"
[encoder.audio]
sample_rate_hz = 16000
window_ms = 1000
hop_ms = 250
[[encoder.state]]
input = "h"
output = "h_out"

[[encoder]]
name = "request"
source = "text"
model = "request.onnx"
[encoder.text]
tokenizer = "tokenizer.json"
max_tokens = 32
[encoder.intents]
labels = "intents.txt"
threshold = 0.5

[[encoder]]
name = "door"
source = "door"
model = "door.onnx"
[encoder.series]
channels = ["x", "y"]
window_len = 50
hop_len = 10
mean = [0.0, 0.0]
std = [1.0]

[fusion]
model = "fusion.onnx"
max_age_ms = 1500
labels = "labels.txt"

[decision]
none = "none"

[advice]
catalogue = "advice.toml"

[demo]
recording = "demo.mcap"
"#;

/// Writes the good bundle, with `edit` applied to the manifest.
fn bundle(edit: impl Fn(&str) -> String) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(MANIFEST), edit(GOOD)).unwrap();
    for file in [
        "card.onnx",
        "speech.onnx",
        "request.onnx",
        "door.onnx",
        "fusion.onnx",
        "tokenizer.json",
        "advice.toml",
        "demo.mcap",
    ] {
        fs::write(dir.path().join(file), "x").unwrap();
    }
    fs::write(dir.path().join("labels.txt"), "left\nright\nnone\n").unwrap();
    fs::write(dir.path().join("intents.txt"), "buy left\nreturn right\n").unwrap();
    dir
}

/// The message of opening `dir`, with the directory's own name taken out.
fn message(dir: &Path) -> String {
    match Bundle::open(dir) {
        Ok(_) => "no error".to_owned(),
        Err(e) => e.to_string().replace(&format!("{}/", dir.display()), ""),
    }
}

#[test]
fn a_good_bundle_opens() {
    let dir = bundle(str::to_owned);
    let b = Bundle::open(dir.path()).unwrap();
    assert_eq!(&*b.id, "shop@1.2.3");
    assert_eq!(b.labels.iter().map(|l| &**l).collect::<Vec<_>>(), ["left", "right", "none"]);
    assert_eq!(b.none, Some(2));
    assert_eq!(b.intents[0], None);
    assert_eq!(b.intents[2].as_ref().unwrap().class, [0, 1]);
    assert_eq!(&*b.intents[2].as_ref().unwrap().names[1], "return");
    assert_eq!(b.tokenizer(2).unwrap().as_deref(), Some(&b"x"[..]));
    assert_eq!(b.tokenizer(0).unwrap(), None);
    assert_eq!(b.model(1), dir.path().join("speech.onnx"));
    assert_eq!(b.fusion_model(), Some(dir.path().join("fusion.onnx")));
    assert_eq!(b.catalogue(), Some(dir.path().join("advice.toml")));
    assert_eq!(b.demo(), Some(dir.path().join("demo.mcap")));
}

#[test]
fn the_shipped_manifest_is_good() {
    let b = Bundle::open_manifest_only(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/kiosk")).unwrap();
    assert_eq!((b.labels.len(), b.none), (11, Some(10)));
    assert_eq!(b.intents[2].as_ref().unwrap().names.len(), 150);
}

#[test]
fn a_bundle_of_one_encoder_decides_with_its_own_labels() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[bundle]\nname = \"one\"\nversion = \"0.1.0\"\n[[encoder]]\nname = \"card\"\nsource = \"camera\"\n\
                model = \"m.onnx\"\nlabels = \"l.txt\"\n[encoder.image]\nsize = [32, 32]\n";
    fs::write(dir.path().join(MANIFEST), text).unwrap();
    fs::write(dir.path().join("m.onnx"), "x").unwrap();
    fs::write(dir.path().join("l.txt"), "\u{feff}cat\r\ndog\r\n").unwrap();
    let b = Bundle::open(dir.path()).unwrap();
    assert_eq!(b.labels.iter().map(|l| &**l).collect::<Vec<_>>(), ["cat", "dog"]);
    assert_eq!((b.none, b.manifest.decision.none.as_str()), (None, ""), "nothing means \"nobody asks\" here");
    assert_eq!((b.fusion_model(), b.catalogue(), b.demo()), (None, None, None));
}

#[test]
fn the_demo_may_be_left_out() {
    let dir = bundle(str::to_owned);
    fs::remove_file(dir.path().join("demo.mcap")).unwrap();
    Bundle::open(dir.path()).unwrap();
    fs::write(dir.path().join("demo.mcap"), "").unwrap();
    let error = Bundle::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("the file demo.mcap is empty"), "{error}");
}

#[test]
fn features_need_no_model() {
    let dir = bundle(str::to_owned);
    for file in ["card.onnx", "fusion.onnx", "tokenizer.json", "advice.toml", "demo.mcap"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    Bundle::open_manifest_only(dir.path()).unwrap();
    fs::remove_file(dir.path().join("labels.txt")).unwrap();
    let error = Bundle::open_manifest_only(dir.path()).unwrap_err().to_string();
    assert!(error.contains("the file labels.txt does not exist"), "{error}");
}

#[test]
fn a_wrong_manifest_says_file_line_value_and_what_was_expected() {
    let inside = "expected a path inside the bundle, without `..` and without a leading `/`";
    let rows: &[(&str, &str, &str)] = &[
        ("name = \"shop\"", "name = \"\"", "bundle.toml:2: bundle.name = \"\", expected 1 to 64 letters"),
        (
            "name = \"shop\"",
            "nam = \"shop\"",
            "bundle.toml:2: unknown key `nam` in `bundle`; known keys: name, version",
        ),
        (
            "version = \"1.2.3\"",
            "version = \"1.2\"",
            "bundle.toml:3: bundle.version = \"1.2\", expected a semantic version",
        ),
        ("version = \"1.2.3\"", "", "bundle.toml:1: missing key `version` in `bundle`; add it"),
        ("[bundle]", "[bundle", "bundle.toml:1: "),
        (
            "name = \"speech\"",
            "name = \"card\"",
            "bundle.toml:14: encoder \"card\".name = \"card\", expected a name that no other",
        ),
        (
            "name = \"speech\"",
            "name = \"sp eech\"",
            "bundle.toml:14: encoder \"sp eech\".name = \"sp eech\", expected 1 to 64",
        ),
        (
            "source = \"camera\"",
            "source = \"mic\"",
            "bundle.toml:7: encoder \"card\".source = \"mic\", expected the source of an",
        ),
        (
            "source = \"door\"",
            "source = \"text\"",
            "bundle.toml:38: encoder \"door\".source = \"text\", expected the source of an",
        ),
        (
            "model = \"card.onnx\"",
            "model = \"../card.onnx\"",
            &format!("bundle.toml:8: encoder \"card\".model = \"../card.onnx\", {inside}"),
        ),
        (
            "model = \"card.onnx\"",
            "model = \"/card.onnx\"",
            &format!("bundle.toml:8: encoder \"card\".model = \"/card.onnx\", {inside}"),
        ),
        ("model = \"card.onnx\"", "model = \"\"", &format!("bundle.toml:8: encoder \"card\".model = \"\", {inside}")),
        (
            "model = \"card.onnx\"",
            "model = \"x.onnx\"",
            "bundle.toml:8: the file x.onnx does not exist; copy the whole bundle",
        ),
        (
            "model = \"card.onnx\"",
            "model = \"c.onnx\"\nlabels = \"labels.txt\"",
            "bundle.toml:9: encoder \"card\": labels is for bundles without",
        ),
        ("rate_hz = 5", "rate_hz = 0", "bundle.toml:9: encoder \"card\".rate_hz = 0.0, expected a number above 0"),
        ("rate_hz = 5", "rate_hz = nan", "bundle.toml:9: encoder \"card\".rate_hz = NaN, expected a number above 0"),
        (
            "rate_hz = 5",
            "rate_hz = \"fast\"",
            "bundle.toml:9: encoder.rate_hz: wrong type: string \"fast\", expected f32",
        ),
        (
            "rate_hz = 5",
            "temperature = 0",
            "bundle.toml:9: encoder \"card\".temperature = 0.0, expected a number above 0",
        ),
        (
            "[encoder.image]\nsize = [64, 64]\n",
            "",
            "bundle.toml:6: encoder \"card\": expected exactly one of [encoder.image], .audio, .text, .series; found none",
        ),
        (
            "size = [64, 64]\n",
            "size = [64, 64]\n[encoder.text]\ntokenizer = \"t\"\nmax_tokens = 1\n",
            "bundle.toml:6: encoder \"card\": expected exactly one of [encoder.image], .audio, .text, .series; found image and text",
        ),
        (
            "size = [64, 64]",
            "size = [0, 64]",
            "bundle.toml:11: encoder \"card\".image.size = [0, 64], expected [height, width]",
        ),
        ("size = [64, 64]", "size = [64]", "bundle.toml:11: encoder.image.size: "),
        (
            "size = [64, 64]",
            "size = [64, 64]\nmean = [0.5, 0.5]",
            "bundle.toml:12: encoder \"card\".image.mean = [0.5, 0.5], expected 1 value",
        ),
        (
            "size = [64, 64]",
            "size = [64, 64]\nstd = [0.0]",
            "bundle.toml:12: encoder \"card\".image.std = [0.0], expected numbers above 0",
        ),
        (
            "size = [64, 64]",
            "size = [64, 64]\nroi = { rect = [0.5, 0, 0.6, 1] }",
            "bundle.toml:12: encoder \"card\".image.roi = [0.5, 0.0, 0.6, 1.0], expected [left",
        ),
        (
            "size = [64, 64]",
            "size = [64, 64]\ncolor = \"grey\"",
            "bundle.toml:12: encoder.image.color: unknown value `grey`, expected one of `gray`",
        ),
        (
            "sample_rate_hz = 16000",
            "sample_rate_hz = 0",
            "bundle.toml:18: encoder \"speech\".audio.sample_rate_hz = 0, expected 4000",
        ),
        ("window_ms = 1000", "window_ms = 0", "bundle.toml:19: encoder \"speech\".audio.window_ms = 0, expected 10"),
        (
            "window_ms = 1000",
            "window_ms = 20",
            "bundle.toml:17: encoder \"speech\".audio.n_fft = 512, expected at most the window's 320",
        ),
        ("hop_ms = 250", "hop_ms = 0", "bundle.toml:20: encoder \"speech\".audio.hop_ms = 0, expected 1"),
        (
            "hop_ms = 250",
            "hop_ms = 250\nn_fft = 511",
            "bundle.toml:21: encoder \"speech\".audio.n_fft = 511, expected an even number",
        ),
        (
            "hop_ms = 250",
            "hop_ms = 250\nwin_ms = 40",
            "bundle.toml:21: encoder \"speech\".audio.win_ms = 40.0, expected 2 samples to n_fft",
        ),
        (
            "hop_ms = 250",
            "hop_ms = 250\nstep_ms = 0",
            "bundle.toml:21: encoder \"speech\".audio.step_ms = 0.0, expected 1 sample",
        ),
        (
            "hop_ms = 250",
            "hop_ms = 250\nn_mels = 0",
            "bundle.toml:21: encoder \"speech\".audio.n_mels = 0, expected 1 to 512",
        ),
        (
            "hop_ms = 250",
            "hop_ms = 250\nfmin_hz = 9000",
            "bundle.toml:21: encoder \"speech\".audio.fmin_hz = 9000.0, expected 0",
        ),
        (
            "hop_ms = 250",
            "hop_ms = 250\nfmax_hz = 9000",
            "bundle.toml:21: encoder \"speech\".audio.fmax_hz = 9000.0, expected above",
        ),
        (
            "hop_ms = 250",
            "hop_ms = 250\nfmaxhz = 9000",
            "bundle.toml:21: unknown key `fmaxhz` in `encoder.audio`; known keys: sample_rate_hz",
        ),
        (
            "input = \"h\"",
            "input = \"\"",
            "bundle.toml:22: encoder \"speech\".state.input = \"\", expected the name of a tensor",
        ),
        (
            "output = \"h_out\"",
            "output = \"h_out\"\n[[encoder.state]]\ninput = \"h\"\noutput = \"o\"",
            "bundle.toml:25: encoder \"speech\".state.input = \"h\", expected an input that no other",
        ),
        (
            "output = \"h_out\"",
            "output = \"h_out\"\n[[encoder.state]]\ninput = \"g\"\noutput = \"h_out\"",
            "bundle.toml:26: encoder \"speech\".state.output = \"h_out\", expected an output",
        ),
        (
            "tokenizer = \"tokenizer.json\"",
            "tokenizer = \"a/../../t\"",
            &format!("bundle.toml:30: encoder \"request\".text.tokenizer = \"a/../../t\", {inside}"),
        ),
        ("max_tokens = 32", "max_tokens = 0", "bundle.toml:31: encoder \"request\".text.max_tokens = 0, expected 1"),
        (
            "max_tokens = 32",
            "max_tokens = 32\npad_id = -1",
            "bundle.toml:32: encoder \"request\".text.pad_id = -1, expected a token id",
        ),
        (
            "max_tokens = 32",
            "max_tokens = 32\nmax_bytes = 0",
            "bundle.toml:32: encoder \"request\".text.max_bytes = 0, expected 1",
        ),
        (
            "max_tokens = 32",
            "max_tokens = 32\nhold_ms = 0",
            "bundle.toml:32: encoder \"request\".text.hold_ms = 0, expected at least 1",
        ),
        (
            "max_tokens = 32",
            "max_tokens = 32\ndistinct_min = 1.5",
            "bundle.toml:32: encoder \"request\".text.distinct_min = 1.5, expected 0 to 1",
        ),
        (
            "max_tokens = 32",
            "max_tokens = 32\nsigns_max = nan",
            "bundle.toml:32: encoder \"request\".text.signs_max = NaN, expected 0 to 1",
        ),
        ("labels = \"intents.txt\"", "labels = \"in.txt\"", "bundle.toml:33: the file in.txt does not exist"),
        (
            "threshold = 0.5",
            "threshold = 1.5",
            "bundle.toml:34: encoder \"request\".intents.threshold = 1.5, expected a probability",
        ),
        (
            "threshold = 0.5",
            "threshold = 0.5\noutput = \"\"",
            "bundle.toml:35: encoder \"request\".intents.output = \"\", expected the name",
        ),
        (
            "channels = [\"x\", \"y\"]",
            "channels = [\"x\", \"x\"]",
            "bundle.toml:41: encoder \"door\".series.channels = [\"x\", \"x\"], expected 1",
        ),
        ("window_len = 50", "window_len = 0", "bundle.toml:42: encoder \"door\".series.window_len = 0, expected 1"),
        ("hop_len = 10", "hop_len = 0", "bundle.toml:43: encoder \"door\".series.hop_len = 0, expected 1"),
        (
            "mean = [0.0, 0.0]",
            "mean = [0.0, inf]",
            "bundle.toml:44: encoder \"door\".series.mean = [0.0, inf], expected finite",
        ),
        ("max_age_ms = 1500", "max_age_ms = 0", "bundle.toml:49: fusion.max_age_ms = 0, expected 1"),
        (
            "max_age_ms = 1500",
            "max_age_ms = 1500\ntemperature = -1",
            "bundle.toml:50: fusion.temperature = -1.0, expected a number",
        ),
        (
            "labels = \"labels.txt\"",
            "labels = \"../l.txt\"",
            &format!("bundle.toml:50: fusion.labels = \"../l.txt\", {inside}"),
        ),
        ("labels = \"labels.txt\"", "labels = \".\"", &format!("bundle.toml:50: fusion.labels = \".\", {inside}")),
        (
            "none = \"none\"",
            "none = \"nobody\"",
            "bundle.toml:53: decision.none = \"nobody\", expected one of the labels in labels.txt",
        ),
        (
            "catalogue = \"advice.toml\"",
            "catalogue = \"/etc/passwd\"",
            &format!("bundle.toml:56: advice.catalogue = \"/etc/passwd\", {inside}"),
        ),
        ("recording = \"demo.mcap\"", "recording = \"..\"", "bundle.toml:59: demo.recording = \"..\""),
    ];
    let mut wrong = Vec::new();
    for (find, replace, expected) in rows {
        assert_eq!(GOOD.matches(find).count(), 1, "{find:?} is not one place of the good manifest");
        let dir = bundle(|good| good.replacen(find, replace, 1));
        let said = message(dir.path());
        if !said.starts_with(expected) {
            wrong.push(format!("{find:?} -> {replace:?}\n  said     {said}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn the_number_of_encoders_is_bounded() {
    let head = "[bundle]\nname = \"x\"\nversion = \"1.0.0\"\n";
    let tail = "[fusion]\nmodel = \"f.onnx\"\nmax_age_ms = 1\nlabels = \"labels.txt\"\n";
    let encoders = |n: usize| {
        let one = |i| {
            let head = format!("[[encoder]]\nname = \"e{i}\"\nsource = \"camera\"\n");
            head + "model = \"card.onnx\"\n[encoder.image]\nsize = [8, 8]\n"
        };
        (0..n).map(one).collect::<String>()
    };
    let rows = [
        (format!("{head}encoder = []\n"), "bundle.toml:4: unknown key `encoder` in `bundle`"),
        (format!("encoder = []\n{head}"), "bundle.toml:1: there is no [[encoder]]; add one for each modality"),
        (format!("{head}{}{tail}", encoders(9)), "bundle.toml:52: there are 9 encoders, expected at most 8"),
        (format!("{head}{}{tail}", encoders(8)), "bundle.toml:53: the file f.onnx does not exist"),
        (format!("{head}{}", encoders(1)), "bundle.toml:5: encoder \"e0\": missing key `labels`"),
        (
            format!("{head}{}", encoders(2).replace("model", "labels = \"labels.txt\"\nmodel")),
            "bundle.toml:11: there are 2 encoders and no [fusion]",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in rows {
        let dir = bundle(|_| text.clone());
        let said = message(dir.path());
        if !said.starts_with(expected) {
            wrong.push(format!("said     {said}\nexpected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_file_of_classes_says_file_and_line() {
    let rows: &[(&str, &[u8], &str)] = &[
        ("labels.txt", b"", "bundle.toml:50: the file labels.txt is empty"),
        ("labels.txt", b"\n\n", "labels.txt:1: the file of labels is empty, expected one entry a line"),
        ("labels.txt", b"left\n\nnone\n", "labels.txt:2: an empty line; remove it"),
        ("labels.txt", b"left\nright\nleft\nnone\n", "labels.txt:3: label \"left\" is on line 1 too"),
        ("labels.txt", b"left\nri\xffght\n", "labels.txt:2: byte 7 is not UTF-8; save the file of labels as UTF-8"),
        ("intents.txt", b"buy left\nreturn\n", "intents.txt:2: found \"return\", expected `intent class`"),
        ("intents.txt", b"buy left\nreturn up\n", "intents.txt:2: intent return: \"up\" is not one of the 3 labels"),
        ("intents.txt", b"buy left\nbuy right\n", "intents.txt:2: intent buy is listed twice"),
        ("card.onnx", b"", "bundle.toml:8: the file card.onnx is empty; copy the whole bundle again"),
        ("bundle.toml", b"\xff\xfe[bundle]", "bundle.toml:1: byte 0 is not UTF-8; save the manifest as UTF-8"),
        ("bundle.toml", b"", "bundle.toml:1: missing key `bundle`; add it"),
    ];
    let mut wrong = Vec::new();
    for (file, bytes, expected) in rows {
        let dir = bundle(str::to_owned);
        fs::write(dir.path().join(file), bytes).unwrap();
        let said = message(dir.path());
        if !said.starts_with(expected) {
            wrong.push(format!("{file} = {bytes:?}\n  said     {said}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_huge_file_of_labels_is_refused_unread() {
    let dir = bundle(str::to_owned);
    fs::File::create(dir.path().join("labels.txt")).unwrap().set_len(10 << 20).unwrap();
    assert_eq!(
        message(dir.path()),
        "labels.txt: the file of labels has 10485760 bytes, expected at most 1048576; is this the right file?"
    );
}

#[test]
fn a_folder_is_not_a_model() {
    let dir = bundle(str::to_owned);
    fs::remove_file(dir.path().join("card.onnx")).unwrap();
    fs::create_dir(dir.path().join("card.onnx")).unwrap();
    assert_eq!(message(dir.path()), "bundle.toml:8: the file card.onnx is not a file; correct the name");
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_bundle_is_refused() {
    let (dir, other) = (bundle(str::to_owned), bundle(str::to_owned));
    fs::remove_file(dir.path().join("card.onnx")).unwrap();
    std::os::unix::fs::symlink(other.path().join("card.onnx"), dir.path().join("card.onnx")).unwrap();
    let said = message(dir.path());
    assert!(said.starts_with("bundle.toml:8: the file card.onnx is a link to "), "{said}");
}

#[test]
fn a_directory_without_a_manifest_is_no_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let said = Bundle::open(dir.path()).unwrap_err().to_string();
    assert_eq!(
        said,
        format!("there is no bundle.toml; name the directory of a bundle; looked in: {}", dir.path().display())
    );
}

#[test]
fn the_first_place_with_a_bundle_wins_and_a_named_one_is_never_replaced() {
    let root = tempfile::tempdir().unwrap();
    let name = crate::board::BOARD.model.bundle;
    let place = |path: &str| {
        let dir = root.path().join(path);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(MANIFEST), "").unwrap();
        dir
    };
    let (working, bin, source) = (root.path().join("work"), root.path().join("usr/bin"), root.path().join("src"));
    fs::create_dir_all(&bin).unwrap();
    let search = |named: Option<&Path>, variable: Option<&Path>| {
        locate_in(&Places { named, variable, working: &working, executable: Some(&bin), source: Some(&source) })
    };
    let nowhere = search(None, None).unwrap_err().to_string();
    for place in ["work/models", "usr/bin/models", "usr/bin/../share/attendant/models", "src/models"] {
        assert!(nowhere.contains(&format!("{}/{place}/{name}", root.path().display())), "{nowhere}");
    }
    let in_source = place(&format!("src/models/{name}"));
    assert_eq!(search(None, None).unwrap(), in_source);
    place(&format!("usr/share/attendant/models/{name}"));
    assert_eq!(search(None, None).unwrap(), bin.join("../share/attendant/models").join(name));
    let beside = place(&format!("usr/bin/models/{name}"));
    assert_eq!(search(None, None).unwrap(), beside);
    let here = place(&format!("work/models/{name}"));
    assert_eq!(search(None, None).unwrap(), here);
    let mine = place("mine");
    assert_eq!(search(None, Some(&mine)).unwrap(), mine);
    assert_eq!(
        search(Some(&mine.join(MANIFEST)), Some(&here)).unwrap(),
        mine,
        "the manifest itself names its directory"
    );
    let empty = root.path().join("empty");
    let error = search(Some(&empty), Some(&mine)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("--bundle {}: there is no bundle.toml", empty.display())), "{error}");
    let error = search(None, Some(&empty)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("ATTENDANT_BUNDLE {}: there is no bundle.toml", empty.display())), "{error}");
}
