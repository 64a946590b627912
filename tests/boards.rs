//! Board files: the messages of build.rs, and the text it generates for every shipped board.
//!
//! The build script's own modules are compiled here, so that a message is tested without starting cargo. After a wanted change of
//! a board: `ATTENDANT_UPDATE_SNAPSHOTS=1 cargo test --test boards`, then review the difference.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../boards/schema.rs"]
#[allow(dead_code, reason = "one file without its folder is for fuzzing")]
mod schema;
#[path = "../src/config/spans.rs"]
#[allow(dead_code, reason = "the way from a key to its line is for the bundle's checks")]
mod spans;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped() -> PathBuf {
    root().join("boards")
}

/// Compares with the file at `path`, or writes it when `ATTENDANT_UPDATE_SNAPSHOTS` is set.
fn snapshot(path: &Path, text: &str) -> Result<(), String> {
    if std::env::var_os("ATTENDANT_UPDATE_SNAPSHOTS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        return Ok(());
    }
    let old = fs::read_to_string(path).unwrap_or_default();
    if old == text {
        return Ok(());
    }
    let line = old.lines().zip(text.lines()).take_while(|(a, b)| a == b).count();
    let (was, is) = (old.lines().nth(line).unwrap_or("(nothing)"), text.lines().nth(line).unwrap_or("(nothing)"));
    Err(format!("{}:{}: snapshot {was:?}, generated {is:?}; see the head of tests/boards.rs", path.display(), line + 1))
}

#[test]
fn every_board_generates_its_snapshot() {
    let folder = root().join("tests/snapshots/boards");
    let names = schema::names(&shipped()).unwrap();
    for name in ["generic-arm64", "host", "orin-nano", "pi-zero-2w", "pi4", "pi5"] {
        assert!(names.iter().any(|n| n == name), "boards/{name}.toml is gone");
    }
    let mut wrong = Vec::new();
    for name in &names {
        match schema::load(&shipped(), name) {
            Ok(board) => wrong.extend(snapshot(&folder.join(format!("{name}.rs")), &board.render()).err()),
            Err(problems) => wrong.extend(problems.iter().map(ToString::to_string)),
        }
    }
    for entry in fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if !names.contains(&name) {
            wrong.push(format!("{}: there is no such board; remove the file", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_documented_keys_are_the_keys() {
    let path = root().join("docs/boards.md");
    let doc = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- keys: generated -->\n", "<!-- keys: end -->");
    let head = doc.split_once(begin).expect("docs/boards.md has the mark of the table").0;
    let tail = doc.split_once(end).expect("docs/boards.md has the end of the table").1;
    let wanted = format!("{head}{begin}{}{end}{tail}", schema::keys_as_markdown());
    snapshot(&path, &wanted).unwrap();
}

#[test]
fn every_shipped_board_builds_with_no_feature() {
    for name in schema::names(&shipped()).unwrap() {
        let board = schema::load(&shipped(), &name).unwrap();
        assert_eq!(board.check_drivers(|_| false), Ok(()), "{name}");
    }
}

/// The shipped host board with one line replaced, beside `base.toml` (the host board) and `child.toml` (inherits it).
fn with(find: &str, replace: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let host = fs::read_to_string(shipped().join("host.toml")).unwrap();
    assert!(find.is_empty() || host.matches(find).count() == 1, "{find:?} is not one place of host.toml");
    fs::write(dir.path().join("base.toml"), &host).unwrap();
    fs::write(dir.path().join("child.toml"), "inherit = \"base\"\n").unwrap();
    fs::write(
        dir.path().join("x.toml"),
        if find.is_empty() { replace.to_owned() } else { host.replacen(find, replace, 1) },
    )
    .unwrap();
    dir
}

fn messages(dir: &Path, name: &str) -> String {
    match schema::load(dir, name) {
        Ok(_) => "no error".to_owned(),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn a_wrong_board_says_file_line_value_and_the_next_step() {
    // Lines are those of boards/host.toml.
    let rows: &[(&str, &str, &str)] = &[
        ("queue_len = 4\n", "queue_len = 1\n", "boards/x.toml:29: camera.queue_len = 1, expected at least 2"),
        ("queue_len = 4\n", "queue_len = 0\n", "boards/x.toml:29: camera.queue_len = 0, expected at least 2"),
        ("queue_len = 4\n", "queue_len = 65\n", "boards/x.toml:29: camera.queue_len = 65, expected at most 64"),
        (
            "queue_len = 4\n",
            "queue_len = 99999999999999999999\n",
            "boards/x.toml:29: camera.queue_len = 99999999999999999999, expected at most 64",
        ),
        (
            "queue_len = 4\n",
            "queue_len = \"4\"\n",
            "boards/x.toml:29: camera.queue_len: found \"4\", expected a whole number from 2 to 64",
        ),
        (
            "queue_len = 4\n",
            "queue_len = 4.5\n",
            "boards/x.toml:29: camera.queue_len: found 4.5, expected a whole number from 2 to 64",
        ),
        (
            "queue_len = 4\n",
            "queue_length = 4\n",
            "boards/x.toml:29: unknown key `camera.queue_length`; known keys of [camera]: device, formats, width, height, rate_hz, \
             queue_len, timeout_ms",
        ),
        (
            "queue_len = 4\n",
            "",
            "boards/x.toml:1: missing key `camera.queue_len` (buffers of the driver; one is always being filled); add it, or inherit a \
             board that has it",
        ),
        ("rate_hz = 15", "rate_hz = 0", "boards/x.toml:28: camera.rate_hz = 0, expected at least 1"),
        (
            "sample_rate_hz = 16000",
            "sample_rate_hz = 0",
            "boards/x.toml:34: audio.sample_rate_hz = 0, expected at least 4000",
        ),
        ("budget_mb = 40", "budget_mb = 31", "boards/x.toml:17: memory.budget_mb = 31, expected at least 32"),
        (
            "budget_mb = 40",
            "budget_mb = 1100",
            "boards/x.toml:17: memory.budget_mb = 1100, expected at most half of memory.total_mb = 2048",
        ),
        (
            "inference_threads = 1",
            "inference_threads = 3",
            "boards/x.toml:13: cpu.inference_threads = 3, expected at most cpu.cores = 2",
        ),
        (
            "arch = \"any\"",
            "arch = \"arm\"",
            "boards/x.toml:11: cpu.arch = \"arm\", expected one of any, aarch64, x86_64",
        ),
        (
            "device = \"auto\"",
            "device = \"\"",
            "boards/x.toml:24: camera.device = \"\", expected a text that is not empty",
        ),
        ("device = \"auto\"", "device = 0", "boards/x.toml:24: camera.device: found 0, expected a text in quotes"),
        (
            "\"rgb\"]",
            "\"h264\"]",
            "boards/x.toml:25: camera.formats: \"h264\", expected some of mjpeg, yuyv, uyvy, nv12, yu12, gray, rgb",
        ),
        ("\"rgb\"]", "\"gray\"]", "boards/x.toml:25: camera.formats: gray is listed twice"),
        (
            "[\"mjpeg\", \"yuyv\", \"uyvy\", \"nv12\", \"yu12\", \"gray\", \"rgb\"]",
            "[]",
            "boards/x.toml:25: camera.formats = [], expected at least 1",
        ),
        (
            "[\"mjpeg\", \"yuyv\", \"uyvy\", \"nv12\", \"yu12\", \"gray\", \"rgb\"]",
            "\"mjpeg\"",
            "boards/x.toml:25: camera.formats: found \"mjpeg\", expected a list such as [\"mjpeg\"]",
        ),
        (
            "celsius_back = 72",
            "celsius_back = 80",
            "boards/x.toml:50: budget.celsius_back = 80, expected less than budget.celsius_max = 80",
        ),
        (
            "drivers_required = []",
            "drivers_required = [\"gpio\"]",
            "boards/x.toml:4: drivers_required names gpio, which is not in drivers; add it there",
        ),
        (
            "[events]",
            "[event]",
            "boards/x.toml:45: unknown key `event`; known keys: inherit, description, drivers, drivers_required, model, cpu, memory, latency, \
             camera, audio, text, sensor, events, budget, gpio",
        ),
        (
            "[events]",
            "[gpio.lamp]\nlabel = \"a\"\nline = -1\n[events]",
            "boards/x.toml:47: gpio.lamp.line = -1, expected at least 0",
        ),
        (
            "[events]",
            "[gpio.lamp]\nlabel = 3\nline = 1\n[events]",
            "boards/x.toml:46: gpio.lamp.label = 3, expected the chip's label in quotes",
        ),
        ("[events]", "[gpio.lamp]\nlabel = \"a\"\n[events]", "boards/x.toml:45: missing key `gpio.lamp.line`; add it"),
        (
            "[events]",
            "[gpio.lamp]\nchip = 0\n[events]",
            "boards/x.toml:46: unknown key `gpio.lamp.chip`; known keys of [gpio.lamp]: label, line",
        ),
        (
            "[events]",
            "[gpio]\nlamp = 1\n[events]",
            "boards/x.toml:46: gpio.lamp: found 1, expected a table [gpio.lamp]",
        ),
        ("[cpu]", "[cpu", "boards/x.toml:10: "),
        (
            "",
            "inherit = \"nobody\"",
            "boards/x.toml:1: inherit = \"nobody\": there is no such board; known boards: base, child, x",
        ),
        ("", "inherit = \"x\"", "boards/x.toml:1: inherit = \"x\": a board cannot inherit itself; remove the line"),
        ("", "inherit = 7", "boards/x.toml:1: inherit: expected the name of a board in quotes"),
        (
            "",
            "\n\ninherit = \"child\"",
            "boards/x.toml:3: inherit = \"child\": child itself inherits base, and there is one level only; inherit base, or copy what differs",
        ),
        (
            "",
            "inherit = \"base\"\n[cpu]\ncores = 1\ninference_threads = 2",
            "boards/x.toml:4: cpu.inference_threads = 2, expected at most cpu.cores = 1",
        ),
    ];
    let mut wrong = Vec::new();
    for (find, replace, expected) in rows {
        let dir = with(find, replace);
        let said = messages(dir.path(), "x");
        let is_prefix = expected.ends_with(": ");
        if said != *expected && !(is_prefix && said.starts_with(expected) && !said.contains('\n')) {
            wrong.push(format!("{find:?} -> {replace:?}\n  said     {said}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let dir = with("", "inherit = \"base\"\nspeed = 3\n[camera]\nrate_hz = 0\n");
    let said = messages(dir.path(), "x");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.lines().next().unwrap().starts_with("boards/x.toml:2: unknown key `speed`"), "{said}");
}

#[test]
fn a_mistake_in_an_inherited_file_names_that_file() {
    let dir = with("", "inherit = \"base\"\n");
    let base = dir.path().join("base.toml");
    let text = fs::read_to_string(&base).unwrap();
    fs::write(&base, text.replacen("rate_hz = 15", "rate_hz = 0", 1)).unwrap();
    assert_eq!(messages(dir.path(), "x"), "boards/base.toml:28: camera.rate_hz = 0, expected at least 1");
}

#[test]
fn an_unknown_board_lists_the_known_ones() {
    let dir = with("", "inherit = \"base\"\n");
    assert_eq!(
        messages(dir.path(), "pi6"),
        "boards/pi6.toml:1: BOARD=pi6: there is no such board; known boards: base, child, x; use one of them or write \
         boards/pi6.toml (docs/boards.md)"
    );
}

#[test]
fn what_a_board_says_replaces_what_it_inherits_key_by_key() {
    let dir = with("", "inherit = \"base\"\n[camera]\nrate_hz = 7\n[gpio.lamp]\nlabel = \"chip\"\nline = 3\n");
    let text = schema::load(dir.path(), "x").unwrap().render();
    for line in ["name: \"x\"", "rate_hz: 7", "width: 640", "Gpio { name: \"lamp\", label: \"chip\", line: 3 }"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_board_that_needs_a_driver_that_is_off_names_the_command() {
    let dir = with("drivers_required = []", "drivers_required = [\"v4l\", \"alsa\"]");
    let board = schema::load(dir.path(), "x").unwrap();
    let said = |features: &[&str]| match board.check_drivers(|f| features.contains(&f)) {
        Ok(()) => "builds".to_owned(),
        Err(problem) => problem.to_string(),
    };
    assert_eq!(
        said(&[]),
        "boards/x.toml:4: the board x needs the driver features v4l, alsa; build it with: BOARD=x cargo build --release --features \
         v4l,alsa"
    );
    assert_eq!(
        said(&["alsa"]),
        "boards/x.toml:4: the board x needs the driver feature v4l; build it with: BOARD=x cargo build --release --features v4l"
    );
    assert_eq!(said(&["v4l", "alsa"]), "builds");
}
