//! A run that is recorded, through the program: what is replayed from the file is what happened, whatever happened to the recorder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use attendant::capture::recording::schema::Schema;
use attendant::capture::recording::tape::{Entry, Taped};
use attendant::capture::recording::writer::{Message, RecordingWriter};
use attendant::capture::recording::{Recording, Survey, encode};
use attendant::signal::{AudioBlock, Frame, PixelFormat, Reading, Sample, SampleIdx, Utterance};
use attendant::time::Micros;

fn attendant(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attendant"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    attendant(args).output().unwrap()
}

/// What the program said, with its exit code.
fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy);
    format!("exit {:?}\n{}{}", output.status.code(), both[0], both[1])
}

/// A text file with a request a line: a run without pictures and sound, which takes no time.
fn requests(dir: &Path) -> PathBuf {
    let path = dir.join("requests.txt");
    fs::write(&path, "i lost my card\nwhat is the weather like\nbook me a flight to rome\n").unwrap();
    path
}

fn record(dir: &Path) -> PathBuf {
    let out = dir.join("run.mcap");
    let requests = requests(dir);
    let output = run(&["record", out.to_str().unwrap(), "--text", requests.to_str().unwrap(), "--speed", "max"]);
    assert!(output.status.success(), "{}", text(&output));
    out
}

fn verify(file: &Path) -> (Output, serde_json::Value) {
    let output = run(&["replay", "--verify", "--json", file.to_str().unwrap()]);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, json)
}

#[test]
fn a_recorded_run_replays_to_the_same_bytes_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = record(dir.path());
    let (output, first) = verify(&file);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!((first["differing"].as_u64(), first["decisions_agree"].as_bool()), (Some(0), Some(true)));
    assert!(first["events"].as_u64().unwrap() >= 5, "{first}");
    let (_, again) = verify(&file);
    assert_eq!(first["event_hash"], again["event_hash"]);
    assert_eq!(again["event_hash"].as_str().unwrap().len(), 64);
}

/// The recorded lines of events.
fn events(file: &Path) -> Vec<serde_json::Value> {
    let mut tape = Taped::open(file).unwrap();
    let mut lines = Vec::new();
    while let Some(entry) = tape.next_entry().unwrap() {
        if entry == Entry::Event {
            lines.push(serde_json::from_slice(tape.event()).unwrap());
        }
    }
    lines
}

#[test]
fn what_is_kept_of_a_trimmed_run_replays_to_the_events_that_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (record(dir.path()), dir.path().join("part.mcap"));
    let arguments = ["trim", file.to_str().unwrap(), out.to_str().unwrap(), "--from", "4", "--to", "9", "--json"];
    let output = run(&arguments);
    assert!(output.status.success(), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["replayed"]["differing"].as_u64(), Some(0), "{report}");
    let (start, from) = (events(&file)[0]["t_us"].as_u64().unwrap(), 4_000_000);
    let kept = |e: &&serde_json::Value| (from..9_000_000).contains(&(e["t_us"].as_u64().unwrap() - start));
    let whole = events(&file);
    let expected: Vec<&serde_json::Value> = whole.iter().filter(kept).collect();
    let (output, verified) = verify(&out);
    assert!(output.status.success(), "{}", text(&output));
    assert!(expected.len() > 1 && expected.len() < whole.len() - 2, "{expected:?}");
    assert_eq!(verified["events"].as_u64().unwrap(), expected.len() as u64);
    assert_eq!(report["replayed"]["event_hash"], verified["event_hash"]);
    // again: a part of a part
    let again = dir.path().join("again.mcap");
    let output = run(&["trim", out.to_str().unwrap(), again.to_str().unwrap(), "--from", "1"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(verify(&again).0.status.success());
    // never over another file
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 4, "no draft stays");
}

#[test]
fn a_recording_that_is_repeated_and_spoilt_replays_to_the_same_events_at_any_speed() {
    let dir = tempfile::tempdir().unwrap();
    let (once, many) = (record(dir.path()), dir.path().join("many.mcap"));
    let (once, out) = (once.to_str().unwrap(), many.to_str().unwrap());
    let arguments = ["record", out, once, "--repeat", "12", "--faults", "5", "--speed", "max", "--json"];
    let output = run(&arguments);
    assert!(output.status.success(), "{}", text(&output));
    let survey = |path: &str| Survey::of(Path::new(path)).unwrap();
    let (first, whole) = (survey(once), survey(out));
    assert_eq!(whole.lost_calls, 0);
    // lines are lost by no fault, some are typed in addition
    let lines = |survey: &Survey| survey.sources.iter().map(|(_, n)| n).sum::<u64>();
    assert!(lines(&whole) >= 12 * lines(&first), "{whole:?}");
    assert!(whole.duration >= Micros(10 * first.duration.0), "{} of {}", whole.duration, first.duration);
    let times: Vec<u64> = events(&many).iter().map(|e| e["t_us"].as_u64().unwrap()).collect();
    assert!(times.is_sorted() && times.len() > 24, "{times:?}");
    let (output, verified) = verify(&many);
    assert!(output.status.success(), "{}", text(&output));
    // the same seed spoils the same samples
    let again = dir.path().join("again.mcap");
    let output = run(&[&["record", again.to_str().unwrap()], &arguments[2..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(verified["event_hash"], verify(&again).1["event_hash"]);
    // what is not a recording is not repeated
    let requests = requests(dir.path());
    let output = run(&["run", "--text", requests.to_str().unwrap(), "--repeat", "2"]);
    assert!(output.status.code() == Some(2) && text(&output).contains("--repeat goes with"), "{}", text(&output));
}

#[test]
fn a_recording_of_tokens_has_no_media_and_replays_to_the_same_events() {
    let dir = tempfile::tempdir().unwrap();
    let media = record(dir.path());
    let (tokens, requests) = (dir.path().join("tokens.mcap"), requests(dir.path()));
    let output = run(&[
        "record",
        tokens.to_str().unwrap(),
        "--text",
        requests.to_str().unwrap(),
        "--speed",
        "max",
        "--record-tokens",
    ]);
    assert!(output.status.success(), "{}", text(&output));
    let holds = |file: &Path| fs::read(file).unwrap().windows(12).any(|w| w == b"lost my card");
    assert!(holds(&media) && !holds(&tokens));
    let survey = Survey::of(&tokens).unwrap();
    assert_eq!((survey.sources.len(), &*survey.about["detail"]), (0, "tokens"));
    let (output, replayed) = verify(&tokens);
    assert!(output.status.success(), "{}", text(&output));
    assert!(replayed["events"].as_u64().unwrap() >= 5);
    let no_time = |file: &Path| {
        let mut lines = events(file);
        lines.iter_mut().for_each(|line| _ = line.as_object_mut().unwrap().remove("t_us"));
        lines
    };
    assert_eq!(no_time(&media), no_time(&tokens), "what is recorded changes no event");
}

#[test]
fn a_ring_keeps_a_recording_of_what_led_to_each_decision() {
    let dir = tempfile::tempdir().unwrap();
    let (ring, requests) = (dir.path().join("ring"), requests(dir.path()));
    let output = run(&[
        "record",
        ring.to_str().unwrap(),
        "--text",
        requests.to_str().unwrap(),
        "--speed",
        "max",
        "--record-ring",
        "6",
    ]);
    assert!(output.status.success(), "{}", text(&output));
    let mut kept: Vec<PathBuf> = fs::read_dir(&ring).unwrap().map(|e| e.unwrap().path()).collect();
    kept.sort();
    assert!(kept.len() >= 2, "{kept:?}");
    for file in &kept {
        let (output, _) = verify(file);
        assert!(output.status.success(), "{}: {}", file.display(), text(&output));
        let last = events(file).pop().unwrap();
        assert_eq!((&last["kind"], &last["state"]), (&"decision".into(), &"enter".into()), "{last}");
        let class = last["class"].as_str().unwrap();
        assert!(file.to_str().unwrap().ends_with(&format!("-{class}.mcap")), "{}", file.display());
    }
}

#[test]
fn another_bundle_gives_other_lines_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = record(dir.path());
    // a bundle whose thresholds differ decides differently
    let bundle = dir.path().join("kiosk");
    fs::create_dir(&bundle).unwrap();
    for entry in fs::read_dir("models/kiosk").unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), bundle.join(entry.file_name())).unwrap();
    }
    let manifest = fs::read_to_string(bundle.join("bundle.toml")).unwrap();
    fs::write(bundle.join("bundle.toml"), manifest.replace("enter = 0.7 ", "enter = 0.999 ")).unwrap();
    let output = run(&["replay", "--verify", file.to_str().unwrap(), "--bundle", bundle.to_str().unwrap()]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for expected in ["made with another bundle_sha256", "decisions DIFFER", "events differ"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_recording_that_was_cut_off_anywhere_replays_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let file = record(dir.path());
    let whole = fs::read(&file).unwrap();
    let mut calls_before = 0;
    for share in [3, 5, 8, 9] {
        let cut = dir.path().join(format!("cut{share}.mcap"));
        fs::write(&cut, &whole[..whole.len() * share / 10]).unwrap();
        let (output, json) = verify(&cut);
        let said = text(&output);
        // the index at the end is most of so short a file
        if json.is_null() {
            assert!(said.contains("holds no calls"), "{said}");
            continue;
        }
        assert!(output.status.success(), "{said}");
        let calls = json["calls"].as_u64().unwrap();
        assert!(calls >= calls_before, "{said}");
        calls_before = calls;
        let info = text(&run(&["info", cut.to_str().unwrap()]));
        assert_eq!(info.contains("has no end"), !json["cut"].is_null(), "{info}");
    }
    assert!(calls_before > 0);
}

#[test]
fn a_file_is_never_overwritten_and_a_recording_without_calls_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = record(dir.path());
    let before = fs::read(&file).unwrap();
    let output = run(&["record", file.to_str().unwrap(), "--speed", "max"]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains("exists"), "{}", text(&output));
    assert_eq!(fs::read(&file).unwrap(), before);
    let output = run(&["record", "a.mcap", "--record", "b.mcap"]);
    assert_eq!(output.status.code(), Some(2), "one of the two would be left out unsaid: {}", text(&output));
    let output = run(&["run", "--record-tokens"]);
    assert_eq!(output.status.code(), Some(2), "nothing would be recorded: {}", text(&output));
    let output = run(&["replay", "models/kiosk/demo.mcap"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output).contains("`attendant run FILE` plays it"), "{}", text(&output));
    let output = run(&["info", "models/kiosk/demo.mcap"]);
    assert!(text(&output).contains("not recorded from a run"), "{}", text(&output));
}

#[test]
fn a_full_disk_ends_the_recording_and_not_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (out, requests) = (dir.path().join("run.mcap"), requests(dir.path()));
    // a file that may not grow beyond 4 KiB is a disk that has no more: the write gives an error, and no signal
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$0\" record \"$1\" --text \"$2\" --speed max --json";
    let program = env!("CARGO_BIN_EXE_attendant");
    let output = Command::new("bash")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["-c", script, program])
        .args([&out, &requests])
        .output()
        .unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("what was saved before is readable"), "{said}");
    let lines: Vec<&str> = said.lines().filter(|l| l.starts_with('{')).collect();
    assert!(lines.last().unwrap().contains(r#""kind":"end""#), "the run went on to its end: {said}");
    assert!(fs::metadata(&out).unwrap().len() <= 4096);
}

#[test]
fn a_live_run_replays_although_its_times_are_the_clocks() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("live.mcap");
    let mut child = attendant(&["record", out.to_str().unwrap(), "--text", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"i lost my card\nwhat is the weather like\n").unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let (output, json) = verify(&out);
    assert!(output.status.success(), "{}", text(&output));
    assert!(json["calls"].as_u64().unwrap() >= 4, "{json}");
}

#[test]
fn every_kind_of_sample_comes_back_as_it_was() {
    let frame = |format, width, height, stride: u32, bytes: usize| {
        Sample::Frame(Frame {
            t: Micros(1234),
            width,
            height,
            stride,
            format,
            data: (0..bytes).map(|i| i as u8).collect(),
            ..Frame::default()
        })
    };
    let sound = |data: Vec<f32>| {
        Sample::Audio(AudioBlock {
            t: Micros(99),
            first: SampleIdx(32_000),
            gap_samples: 7,
            sample_rate_hz: 16_000,
            data,
        })
    };
    let samples = [
        ("camera", frame(PixelFormat::Gray, 4, 3, 5, 15)),
        ("camera", frame(PixelFormat::Rgb, 2, 2, 6, 12)),
        ("camera", frame(PixelFormat::Yuyv, 4, 2, 8, 16)),
        ("camera", frame(PixelFormat::Nv12, 4, 4, 4, 24)),
        ("mic", sound(vec![0.0, 0.5, -1.0, 32767.0 / 32768.0])),
        ("mic", sound(vec![0.1, -0.7, 1.0e-9, 1.5, f32::INFINITY])),
        ("text", Sample::Text(Utterance { t: Micros(5), text: "quotes \" and 中文".into() })),
        ("distance", Sample::Reading(Reading { t: Micros(6), values: vec![0.1, -3.4e38, 1.0e-45] })),
    ];
    let calls: Vec<encode::CallKind> = samples
        .iter()
        .map(|(source, sample)| encode::CallKind::from(&attendant::signal::Call::Sample { source, sample }))
        .collect();
    let mut bytes = Vec::new();
    let mut writer = RecordingWriter::to(Path::new("memory"), &mut bytes, &Default::default()).unwrap();
    for ((source, sample), call) in samples.iter().zip(&calls) {
        let prefix = if matches!(sample, Sample::Reading(_)) { "/sensor/" } else { "/" };
        let mut body = Vec::new();
        let schema = Some(encode::sample(source, sample, &mut body));
        let topic = format!("{prefix}{source}");
        writer.write(&Message { topic, schema, log_time_ns: sample.t().0 * 1000, body }).unwrap();
        let mut body = Vec::new();
        encode::json(&mut body, &encode::CallBody { now_us: Micros(5000), call: call.clone() });
        let schema = Some(Schema::Call);
        writer.write(&Message { topic: "/call".into(), schema, log_time_ns: 5_000_000, body }).unwrap();
    }
    writer.finish().unwrap();
    let mut tape = Taped::new(Recording::from_reader("memory", &bytes[..]).unwrap());
    for ((_, sample), call) in samples.iter().zip(&calls) {
        assert_eq!(tape.next_entry().unwrap(), Some(Entry::Call(Micros(5000), call.clone())));
        let read = match tape.sample().clone() {
            // numbered by its channel
            Sample::Frame(f) => Sample::Frame(Frame { seq: Default::default(), ..f }),
            other => other,
        };
        assert_eq!(&read, sample);
    }
    assert_eq!(tape.next_entry().unwrap(), None);
    let survey = Survey::of_recording(Recording::from_reader("memory", &bytes[..]).unwrap()).unwrap();
    assert_eq!(survey.calls, samples.len() as u64);
}

#[test]
fn a_call_without_its_sample_is_damage() {
    let mut bytes = Vec::new();
    let mut writer = RecordingWriter::to(Path::new("memory"), &mut bytes, &Default::default()).unwrap();
    let mut body = Vec::new();
    let call = encode::CallKind::Sample { source: "mic".into(), first: 0, gap: 0 };
    encode::json(&mut body, &encode::CallBody { now_us: Micros(1), call });
    let schema = Some(Schema::Call);
    writer.write(&Message { topic: "/call".into(), schema, log_time_ns: 1000, body }).unwrap();
    writer.finish().unwrap();
    let error = Taped::new(Recording::from_reader("x.mcap", &bytes[..]).unwrap()).next_entry().unwrap_err();
    assert!(error.to_string().contains("a call takes a sample of mic, but none came before it"), "{error}");
}
