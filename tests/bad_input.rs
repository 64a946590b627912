//! Bad input to the program itself: every case ends with a message that names the thing, a documented exit code, and no panic.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The shipped bundle.
fn kiosk() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/kiosk")
}

fn attendant(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_attendant"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // a program that refuses its arguments does not read its input
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

/// A copy of the shipped bundle without its demo, to break.
fn copy_bundle(dir: &Path) -> PathBuf {
    let copy = dir.join("bundle");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(kiosk()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

/// Runs `args`; one line for the table of failures unless the exit code is `code` and stderr has every one of `named`.
fn check(case: &str, args: &[&str], code: i32, named: &[&str]) -> Option<String> {
    let output = attendant(args, b"");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let missing: Vec<_> = named.iter().filter(|n| !stderr.contains(**n)).collect();
    let fine = output.status.code() == Some(code) && missing.is_empty() && !stderr.contains("panicked");
    (!fine)
        .then(|| format!("{case}: exit {:?}, expected {code}; missing {missing:?} in: {stderr}", output.status.code()))
}

fn assert_none(failures: Vec<Option<String>>) {
    let failures: Vec<String> = failures.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Replaces `from`, which must be there, in the copy's manifest.
fn edit(bundle: &Path, from: &str, to: &str) {
    let path = bundle.join("bundle.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from:?} is not in the manifest");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_broken_bundle_is_named() {
    type Break = fn(&Path);
    let cases: &[(&str, Break, i32, &[&str])] = &[
        ("no manifest", |b| fs::remove_file(b.join("bundle.toml")).unwrap(), 3, &["bundle.toml"]),
        ("manifest cut", |b| fs::write(b.join("bundle.toml"), "[bundle\nname").unwrap(), 3, &["bundle.toml:1"]),
        ("manifest not text", |b| fs::write(b.join("bundle.toml"), [0xff, 0xfe, 0]).unwrap(), 3, &["bundle.toml"]),
        ("unknown key", |b| edit(b, "rate_hz = 5", "rate = 5"), 3, &["bundle.toml:", "rate", "rate_hz"]),
        ("impossible size", |b| edit(b, "size = [64, 64]", "size = [0, 64]"), 3, &["bundle.toml", "size"]),
        ("other size than the model", |b| edit(b, "size = [64, 64]", "size = [96, 96]"), 3, &["card.int8.onnx", "96"]),
        ("other mel bands", |b| edit(b, "n_mels = 40", "n_mels = 64"), 3, &["speech.int8.onnx", "64"]),
        ("path outside", |b| edit(b, "card.int8.onnx", "../card.int8.onnx"), 3, &["bundle.toml:", "../card.int8.onnx"]),
        ("model gone", |b| fs::remove_file(b.join("card.int8.onnx")).unwrap(), 3, &["card.int8.onnx"]),
        ("model empty", |b| fs::write(b.join("card.int8.onnx"), []).unwrap(), 3, &["card.int8.onnx"]),
        ("model is text", |b| fs::write(b.join("card.int8.onnx"), "hello").unwrap(), 3, &["card.int8.onnx"]),
        (
            "model cut",
            |b| {
                let bytes = fs::read(b.join("speech.int8.onnx")).unwrap();
                fs::write(b.join("speech.int8.onnx"), &bytes[..bytes.len() / 2]).unwrap();
            },
            3,
            &["speech.int8.onnx"],
        ),
        (
            "models swapped",
            |b| {
                fs::copy(b.join("speech.int8.onnx"), b.join("card.int8.onnx")).unwrap();
            },
            3,
            &["card.int8.onnx"],
        ),
        ("labels too few", |b| fs::write(b.join("labels.txt"), "desk_0\nnone\n").unwrap(), 3, &["intents.txt"]),
        ("labels twice", |b| fs::write(b.join("labels.txt"), "a\na\n").unwrap(), 3, &["labels.txt:2", "a"]),
        ("tokenizer cut", |b| fs::write(b.join("tokenizer.json"), "{").unwrap(), 3, &["tokenizer"]),
        (
            "catalogue with a stranger",
            |b| {
                let path = b.join("advice.toml");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, format!("{text}\n[class.desk_99]\nname = {{ en = \"x\", zh = \"x\" }}\n")).unwrap();
            },
            3,
            &["advice.toml"],
        ),
        ("demo gone", |b| fs::remove_file(b.join("demo.mcap")).unwrap(), 2, &["demo.mcap"]),
    ];
    let mut failures = Vec::new();
    for (case, break_it, code, named) in cases {
        let dir = tempfile::tempdir().unwrap();
        let bundle = copy_bundle(dir.path());
        break_it(&bundle);
        failures.push(check(case, &["run", "--speed", "max", "--bundle", bundle.to_str().unwrap()], *code, named));
    }
    assert_none(failures);
}

#[test]
fn a_broken_recording_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let demo = fs::read(kiosk().join("demo.mcap")).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let empty = write("empty.mcap", b"");
    let text = write("text.mcap", b"this is no recording at all, but long enough to be looked at");
    let cut = write("cut.mcap", &demo[..demo.len() / 3]);
    let play = |file| ["run", "--speed", "max", file];
    assert_none(vec![
        check("empty", &play(&empty), 4, &["empty.mcap"]),
        check("text", &play(&text), 4, &["text.mcap"]),
        check("cut", &play(&cut), 4, &["cut.mcap"]),
        check("missing", &play("/nowhere/x.mcap"), 4, &["/nowhere/x.mcap"]),
    ]);
}

#[test]
fn broken_files_in_rows_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cut.jpg"), [0xff, 0xd8, 0xff, 0xe0, 0, 16]).unwrap();
    fs::write(dir.path().join("text.png"), "no picture").unwrap();
    fs::write(dir.path().join("cut.wav"), b"RIFF\x10\0\0\0WAVEfmt ").unwrap();
    let rows: &[(&str, &str, &[&str])] = &[
        ("picture cut", r#"{"image":"cut.jpg","label":"desk_1"}"#, &["cut.jpg"]),
        ("no picture", r#"{"image":"text.png","label":"desk_1"}"#, &["text.png"]),
        ("picture missing", r#"{"image":"none.jpg","label":"desk_1"}"#, &["none.jpg"]),
        ("sound cut", r#"{"audio":"cut.wav","label":"desk_1"}"#, &["cut.wav"]),
        ("unknown label", r#"{"text":"hello","label":"desk_77"}"#, &["rows.jsonl:1", "desk_77", "desk_0"]),
        ("no label", r#"{"text":"hello"}"#, &["rows.jsonl:1", "label"]),
        ("no input", r#"{"label":"desk_1"}"#, &["rows.jsonl:1", "no input"]),
        ("unknown key", r#"{"video":"x","label":"desk_1"}"#, &["rows.jsonl:1", "video"]),
        ("not JSON", "hello", &["rows.jsonl:1"]),
        ("nothing", "", &["rows.jsonl", "no rows"]),
    ];
    let path = dir.path().join("rows.jsonl");
    let mut failures = Vec::new();
    for (case, row, named) in rows {
        fs::write(&path, format!("{row}\n")).unwrap();
        failures.push(check(case, &["eval", path.to_str().unwrap()], 4, named));
    }
    failures.push(check("rows missing", &["eval", "/nowhere/rows.jsonl"], 4, &["/nowhere/rows.jsonl"]));
    assert_none(failures);
}

#[test]
fn strange_text_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let long = format!("{{\"text\":\"{}\",\"label\":\"none\"}}\n", "all work and no play ".repeat(500_000));
    fs::write(&path, long).unwrap();
    let output = attendant(&["eval", "--json", path.to_str().unwrap()], b"");
    assert!(output.status.success(), "10 MB of text: {}", String::from_utf8_lossy(&output.stderr));
    fs::write(&path, b"{\"text\":\"caf\xff\xfe \xc3\x28\",\"label\":\"none\"}\n").unwrap();
    let output = attendant(&["eval", "--json", path.to_str().unwrap()], b"");
    assert!(output.status.success(), "invalid UTF-8: {}", String::from_utf8_lossy(&output.stderr));
    let output = attendant(&["run", "--json", "--text", "-"], b"\xff\xfe\n\n\x00\x01\nhello\n");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.lines().last().unwrap().contains("\"kind\":\"end\""), "{stdout}");
}

#[test]
fn wrong_usage_says_what_is_right() {
    assert_none(vec![
        check("unknown command", &["dance"], 2, &["dance"]),
        check("unknown encoder", &["features", "--encoder", "nose", "x.wav", "--out", "x.npy"], 2, &["nose", "card"]),
        check("max with a person", &["run", "--text", "-", "--speed", "max"], 2, &["--speed max"]),
        check("unknown language", &["run", "--lang", "xx", "--speed", "max"], 3, &["xx", "en", "zh"]),
        check("nothing to time", &["bench"], 2, &["--image"]),
        check(
            "output that cannot be written",
            &["run", "--speed", "max", "--events", "/nowhere/x.jsonl"],
            5,
            &["/nowhere/x.jsonl"],
        ),
        check("full disk", &["run", "--speed", "max", "--events", "/dev/full"], 5, &["/dev/full"]),
    ]);
}

#[test]
fn devices_that_cannot_be_used_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let config = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let line = "line = { label = \"x\", number = 1 }\n";
    let output = config("output.toml", &format!("[[output]]\non = \"ask\"\n{line}"));
    let max = config("max.toml", "clock = \"max\"\n[source.camera]\nkind = \"v4l2\"\n");
    let recorded =
        config("recorded.toml", "[source.camera]\nkind = \"v4l2\"\n[source.mic]\nkind = \"recording\"\npath = \"a\"\n");
    let mut failures = vec![
        check(
            "output without a device",
            &["run", "--config", &output],
            2,
            &["[[output]], [indicator] and [privacy.mute] follow devices"],
        ),
        check(
            "devices at full speed",
            &["run", "--config", &max],
            2,
            &["--speed max", "devices deliver at their own speed"],
        ),
        check("a device beside a recording", &["run", "--config", &recorded], 2, &["a recording plays alone"]),
    ];
    if !cfg!(feature = "v4l") {
        let named = ["source.camera", "driver feature v4l", "cargo build --release --features v4l,alsa,gpio"];
        failures.push(check("a camera without its driver", &["run", "--camera", "/dev/video7"], 2, &named));
    }
    if !cfg!(feature = "alsa") {
        failures.push(check(
            "a microphone without its driver",
            &["run", "--mic", "hw:CARD=x"],
            2,
            &["driver feature alsa"],
        ));
    }
    if !cfg!(feature = "gpio") {
        let lamp = config(
            "lamp.toml",
            &format!(
                "[source.camera]\nkind = \"command\"\ncommand = [\"true\"]\nformat = \"gray\"\nwidth = 16\nheight = 16\n[indicator]\n{line}"
            ),
        );
        failures.push(check(
            "a lamp without its driver",
            &["run", "--config", &lamp],
            2,
            &["[indicator]", "driver feature gpio"],
        ));
    }
    assert_none(failures);
}

#[test]
fn kernels_that_the_cpu_has_not_are_refused_by_name_and_blamed_on_no_file() {
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_attendant")).args(args).env("ATTENDANT_CPU", "sse9").output().unwrap()
    };
    let output = run(&["bench", "--text", "hello", "--steps", "1"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("ATTENDANT_CPU") && stderr.contains("sse9") && stderr.contains("scalar"), "{stderr}");
    assert!(!stderr.contains(".onnx"), "{stderr}");
    let doctor = run(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("sse9"));
}
