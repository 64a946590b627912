//! `attendant eval` through the program: constructed recordings and rows whose hits, misses and false alarms are known.
//!
//! What is shown is typed text, which takes no time to encode; the shipped bundle answers it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;

use attendant::bundle::Bundle;
use attendant::capture::recording::schema::Schema;
use attendant::capture::recording::writer::{Message, RecordingWriter};
use attendant::capture::recording::{Recording, encode};
use attendant::emit::{Sink, SinkError};
use attendant::pipeline::{Options, Pipeline};
use attendant::signal::{Event, EventKind, Frame, PixelFormat, Sample, Utterance};
use attendant::supervise::{Outside, Pacing, play};
use attendant::time::{Micros, VirtualClock};
use serde_json::{Value, json};

/// Requests that the bundle is sure of, and their classes.
const CARD: (&str, &str) = ("i lost my card", "desk_1");
const RATE: (&str, &str) = ("what is the exchange rate from dollars to euros", "desk_5");

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attendant"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// What the program said, with its exit code.
fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy);
    format!("exit {:?}\n{}{}", output.status.code(), both[0], both[1])
}

fn json_of(args: &[&str]) -> Value {
    let output = run(args);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// One thing in a recording, at a second.
enum At<'a> {
    Label(u64, &'a str, &'a [&'a str]),
    Typed(u64, &'a str),
    /// An empty picture: something must end the recording.
    Picture(u64),
}

fn recording(path: &Path, things: &[At<'_>]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut writer = RecordingWriter::to(path, &mut bytes, &Default::default()).unwrap();
    for thing in things {
        let mut body = Vec::new();
        let (s, topic, schema) = match thing {
            At::Label(s, label, shown) => {
                encode::json(&mut body, &json!({ "label": label, "shown": shown, "note": "constructed" }));
                (*s, "/truth", Schema::Truth)
            }
            At::Typed(s, text) => {
                let sample = Sample::Text(Utterance { t: Micros(s * 1_000_000), text: (*text).into() });
                (*s, "/text", encode::sample("text", &sample, &mut body))
            }
            At::Picture(s) => {
                let frame = Frame {
                    t: Micros(s * 1_000_000),
                    width: 64,
                    height: 64,
                    stride: 64,
                    format: PixelFormat::Gray,
                    data: vec![128; 64 * 64],
                    ..Frame::default()
                };
                (*s, "/camera", encode::sample("camera", &Sample::Frame(frame), &mut body))
            }
        };
        let message = Message { topic: topic.into(), schema: Some(schema), log_time_ns: s * 1_000_000_000, body };
        writer.write(&message).unwrap();
    }
    writer.finish().unwrap();
    fs::write(path, bytes).unwrap();
    path.to_owned()
}

/// A hit, a false alarm, a wrong decision and a miss, in a minute.
fn constructed(dir: &Path) -> PathBuf {
    let things = [
        At::Label(0, "none", &[]),
        At::Label(5, CARD.1, &["request"]),
        At::Typed(6, CARD.0),
        At::Label(12, "none", &[]),
        At::Typed(20, RATE.0),
        At::Label(30, CARD.1, &["request"]),
        At::Typed(31, RATE.0),
        At::Label(40, "none", &[]),
        At::Label(50, RATE.1, &["card"]),
        At::Label(58, "none", &[]),
        At::Picture(60),
    ];
    recording(&dir.join("minute.mcap"), &things)
}

#[test]
fn hits_misses_wrong_ones_and_false_alarms_are_those_that_were_constructed() {
    let dir = tempfile::tempdir().unwrap();
    let file = constructed(dir.path());
    let report = json_of(&["eval", "--json", file.to_str().unwrap()]);
    let outcomes: Vec<&str> = report["recordings"][0]["stretches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["quiet", "hit", "alarm", "wrong", "quiet", "missed", "quiet"], "{report:#}");
    let total = &report["total"];
    assert_eq!((total["hits"]["hits"].as_u64(), total["hits"]["of"].as_u64()), (Some(1), Some(3)));
    let counts = ["wrong", "asked", "missed", "held", "wrong_decisions"].map(|k| total[k].as_u64().unwrap());
    assert_eq!(counts, [1, 0, 1, 0, 1]);
    // 5 s, then 18 s, 10 s and 2 s less the tolerance
    let alarms = &total["false_alarms"];
    assert_eq!(alarms["count"], 1);
    assert!((alarms["hours"].as_f64().unwrap() - 30.5 / 3600.0).abs() < 1e-9, "{alarms}");
    // typed a second after the stretch began, and decided after the dwell
    let latency = total["latency"]["max_ms"].as_u64().unwrap();
    assert!((1200..2500).contains(&latency), "{latency}");
    assert_eq!(report["latencies_ms"], json!([latency]));

    let labels: Vec<&str> =
        report["confusion"]["labels"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    let count = |shown: &str, decided: &str| {
        let at = |name: &str| labels.iter().position(|l| *l == name).unwrap();
        report["confusion"]["counts"][at(shown)][at(decided)].clone()
    };
    assert_eq!(count(CARD.1, CARD.1), 1);
    assert_eq!(count(CARD.1, RATE.1), 1);
    assert_eq!(count(RATE.1, "nothing"), 1);
    assert_eq!(count("nothing", RATE.1), 1);
    assert_eq!(count("nothing", "nothing"), Value::Null);
    assert_eq!(report["classes"][RATE.1]["false_alarms"]["count"], 1);
    assert_eq!(report["classes"][CARD.1]["false_alarms"]["count"], 0);

    // one of three decisions was right
    let bins = report["calibration"]["bins"].as_array().unwrap();
    let told: u64 = bins.iter().map(|b| b["count"].as_u64().unwrap()).sum();
    assert_eq!(told, 3);

    let ablation = |modalities: &[&str]| {
        let all = report["ablations"].as_array().unwrap();
        all.iter().find(|a| a["modalities"] == json!(modalities)).unwrap_or_else(|| panic!("{modalities:?}")).clone()
    };
    let hits = |a: &Value| (a["total"]["hits"]["hits"].as_u64(), a["total"]["false_alarms"]["count"].as_u64());
    assert_eq!(hits(&ablation(&["request"])), (Some(1), Some(1)), "typing decides alone");
    assert_eq!(hits(&ablation(&["card", "speech"])), (Some(0), Some(0)), "nothing was shown or said");
    assert_eq!(ablation(&["request"])["hits_of_visible"]["of"], 2, "the card is not for it");

    let sweep = report["sweep"].as_array().unwrap();
    let own: Vec<&Value> = sweep.iter().filter(|p| p["is_bundle"] == true).collect();
    assert_eq!((own.len(), own[0]["hits"]["hits"].as_u64(), own[0]["false_alarms"].as_u64()), (1, Some(1), Some(1)));
    let hits: Vec<u64> = sweep.iter().map(|p| p["hits"]["hits"].as_u64().unwrap()).collect();
    assert!(sweep.len() >= 13 && hits.is_sorted_by(|a, b| a >= b), "a higher threshold decides no more: {hits:?}");
}

#[test]
fn the_tolerance_and_the_share_that_is_asked_for_are_the_callers() {
    let dir = tempfile::tempdir().unwrap();
    // typed just before the stretch ends: decided after it
    let things = [At::Label(0, CARD.1, &["request"]), At::Typed(4, CARD.0), At::Label(4, "none", &[]), At::Picture(20)];
    let file = recording(&dir.path().join("late.mcap"), &things);
    let file = file.to_str().unwrap();
    let outcome = |args: &[&str]| json_of(args)["recordings"][0]["stretches"][0]["outcome"].clone();
    assert_eq!(outcome(&["eval", "--json", file]), "hit");
    assert_eq!(outcome(&["eval", "--json", "--tolerance-ms", "0", file]), "missed");
    let strict = run(&["eval", "--tolerance-ms", "0", "--min", "0.5", file]);
    assert_eq!(strict.status.code(), Some(1), "{}", text(&strict));
    assert!(text(&strict).contains("share of hits 0.0000 is below --min 0.5"), "{}", text(&strict));
}

#[test]
fn several_recordings_add_up_and_a_file_of_labels_goes_before_the_recordings_own() {
    let dir = tempfile::tempdir().unwrap();
    let first = constructed(dir.path());
    let second = dir.path().join("again.mcap");
    fs::copy(&first, &second).unwrap();
    let labels =
        format!("{{\"t_us\":19000000,\"label\":\"{}\"}}\n\n{{\"t_us\":36000000,\"label\":\"none\"}}\n", RATE.1);
    fs::write(dir.path().join("again.labels.jsonl"), labels).unwrap();
    let report = json_of(&["eval", "--json", first.to_str().unwrap(), second.to_str().unwrap()]);
    assert!(report["recordings"][1]["labels"].as_str().unwrap().ends_with("again.labels.jsonl"));
    let outcomes: Vec<&str> = report["recordings"][1]["stretches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["outcome"].as_str().unwrap())
        .collect();
    // before the first label nothing is shown, and a card is typed: an alarm
    assert_eq!(outcomes, ["alarm", "hit", "quiet"], "{report:#}");
    assert_eq!((report["total"]["hits"]["hits"].as_u64(), report["total"]["hits"]["of"].as_u64()), (Some(2), Some(4)));
    assert_eq!(report["total"]["false_alarms"]["count"], 2);
}

#[test]
fn a_recorded_run_is_played_by_its_calls_with_the_labels_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let (file, requests) = (dir.path().join("run.mcap"), dir.path().join("requests.txt"));
    fs::write(&requests, format!("{}\n{}\n", CARD.0, RATE.0)).unwrap();
    let (file, requests) = (file.to_str().unwrap(), requests.to_str().unwrap());
    let output = run(&["record", file, "--text", requests, "--speed", "max"]);
    assert!(output.status.success(), "{}", text(&output));
    let output = run(&["eval", file]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("run.labels.jsonl"), "{}", text(&output));
    let entered = |report: &Value| report["recordings"][0]["stream"]["entered"].clone();
    fs::write(dir.path().join("run.labels.jsonl"), "{\"t_us\":0,\"label\":\"none\"}\n").unwrap();
    let report = json_of(&["eval", "--json", file]);
    let replayed = run(&["replay", "--json", file]);
    let lines = String::from_utf8(replayed.stdout).unwrap();
    let recorded: Vec<Value> = lines
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .filter(|e| e["kind"] == "decision" && e["state"] == "enter")
        .map(|e| json!([e["t_us"].as_u64().unwrap() as f64 / 1e6, e["class"], e["p"]]))
        .collect();
    let found: Vec<Value> =
        entered(&report).as_array().unwrap().iter().map(|e| json!([e["t_s"], e["class"], e["p"]])).collect();
    assert!(!found.is_empty(), "{report:#}");
    assert_eq!(found, recorded);
    assert_eq!(report["total"]["false_alarms"]["count"].as_u64(), Some(found.len() as u64));
}

/// Keeps decisions.
#[derive(Default)]
struct Decisions(Vec<String>);

impl Sink for Decisions {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        if let EventKind::Decision(d) = &event.kind {
            self.0.push(format!("{} {:?} {} {}", event.t_us, d.state, d.class, d.p));
        }
        Ok(())
    }
}

#[test]
fn what_is_decided_again_is_what_the_run_decided() {
    let bundle = Bundle::open(&attendant::bundle::locate(None).unwrap()).unwrap();
    let mut pipeline = Pipeline::load(&bundle, &Options::default()).unwrap();
    let mut feed = Recording::open(&bundle.demo().unwrap()).unwrap();
    let mut decisions = Decisions::default();
    pipeline.trace();
    {
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(&mut decisions)];
        let (clock, stop) = (VirtualClock::default(), AtomicBool::new(false));
        play(&mut feed, &mut pipeline, &clock, Pacing::Max, &mut sinks, &stop, &Outside::default()).unwrap();
    }
    let trace = pipeline.take_trace().unwrap();
    let again: Vec<String> = trace
        .decide(0, pipeline.policy())
        .iter()
        .map(|d| format!("{} {:?} {} {}", d.t, d.verdict.state, pipeline.labels()[d.verdict.class], d.verdict.p))
        .collect();
    assert!(again.len() > 8, "{again:?}");
    assert_eq!(again, decisions.0);
}

fn rows(dir: &Path) -> PathBuf {
    let path = dir.join("rows.jsonl");
    let row = |text: &str, label: &str| format!("{}\n", json!({ "text": text, "label": label }));
    fs::write(&path, row(CARD.0, CARD.1) + &row(RATE.0, RATE.1) + &row(RATE.0, CARD.1) + &row(CARD.0, CARD.1)).unwrap();
    path
}

/// Checks every file of a report, and gives the page.
fn check_report(dir: &Path, pictures: &[&str]) -> String {
    let page = fs::read_to_string(dir.join("index.html")).unwrap();
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let parsed = roxmltree::Document::parse_with_options(&page, options).unwrap_or_else(|e| panic!("{e}\n{page}"));
    let svgs: Vec<_> = parsed.descendants().filter(|n| n.has_tag_name(("http://www.w3.org/2000/svg", "svg"))).collect();
    assert_eq!(svgs.len(), pictures.len());
    assert!(svgs.iter().all(|s| s.attribute("aria-label").is_some_and(|l| !l.is_empty())));
    assert!(parsed.descendants().all(|n| !n.has_tag_name("script")));
    let loads = |n: &roxmltree::Node<'_, '_>| ["src", "href", "srcset"].iter().any(|a| n.has_attribute(*a));
    assert!(!parsed.descendants().any(|n| loads(&n)), "nothing from elsewhere");
    assert!(!page.contains("url(") && !page.contains("@import"));
    let mut found: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let mut expected: Vec<String> = pictures.iter().map(|p| format!("{p}.png")).collect();
    expected.push("index.html".into());
    expected.sort();
    assert_eq!(found, expected);
    for picture in pictures {
        let bytes = fs::read(dir.join(format!("{picture}.png"))).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert!(info.width >= 480 && info.height >= 120, "{picture}: {info:?}");
        assert!(pixels.iter().any(|p| *p < 100), "{picture} shows something");
    }
    page
}

#[test]
fn a_report_is_one_page_and_its_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (constructed(dir.path()), dir.path().join("new/report"));
    let output = run(&["eval", file.to_str().unwrap(), "--report", out.to_str().unwrap()]);
    assert!(output.status.success() && text(&output).contains("index.html"), "{}", text(&output));
    let page = check_report(&out, &["confusion", "reliability", "ablation", "tradeoff", "latency"]);
    for expected in ["1 of 3", "minute.mcap", "FALSE ALARM", "MISSED", "prefers-color-scheme:dark"] {
        assert!(page.contains(expected), "{expected}");
    }
    // once more into the same directory, of other data
    let (file, out) = (rows(dir.path()), dir.path().join("rows"));
    for _ in 0..2 {
        let output = run(&["eval", file.to_str().unwrap(), "--report", out.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output));
    }
    let page = check_report(&out, &["confusion", "reliability", "ablation"]);
    assert!(page.contains("75.0 %") && page.contains("rows.jsonl"), "{page}");
}

/// A copy of the shipped bundle with another manifest.
fn bundle(dir: &Path, name: &str, change: (&str, &str)) -> PathBuf {
    let bundle = dir.join(name);
    fs::create_dir(&bundle).unwrap();
    for entry in fs::read_dir("models/kiosk").unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().ends_with(".mcap") {
            fs::copy(entry.path(), bundle.join(entry.file_name())).unwrap();
        }
    }
    let manifest = fs::read_to_string(bundle.join("bundle.toml")).unwrap();
    assert!(manifest.contains(change.0), "the manifest has {:?}", change.0);
    let without_demo = manifest.split("[demo]").next().unwrap().replace(change.0, change.1);
    fs::write(bundle.join("bundle.toml"), without_demo).unwrap();
    bundle
}

/// Rows of which one is answered wrongly for sure, and one is nothing that the bundle knows.
fn rows_of_kinds(dir: &Path) -> PathBuf {
    let path = dir.join("kinds.jsonl");
    let row = |text: &str, label: &str, kind: &str| json!({ "text": text, "label": label, "kind": kind }).to_string();
    let rows = [
        row(CARD.0, CARD.1, "known"),
        row(RATE.0, "none", "strange"),
        row("ha ha ha ha ha ha ha ha ha ha ha ha", "oos", "empty"),
        json!({ "text": RATE.0, "label": RATE.1 }).to_string(),
    ];
    fs::write(&path, rows.join("\n")).unwrap();
    path
}

#[test]
fn sure_answers_and_decisions_that_are_wrong_are_counted_by_kind() {
    let dir = tempfile::tempdir().unwrap();
    let file = rows_of_kinds(dir.path());
    let file = file.to_str().unwrap();
    let report = json_of(&["eval", "--json", "--decide", file]);
    let confident = &report["confident"];
    assert!((confident["threshold"].as_f64().unwrap() - 0.9).abs() < 1e-6, "{confident:#}");
    let counts = |of: &Value, key: &str| (of[key]["hits"].as_u64().unwrap(), of[key]["of"].as_u64().unwrap());
    assert_eq!(counts(confident, "fused"), (1, 4), "{confident:#}");
    // the text that says nothing but one syllable is refused: nothing is answered, and the fusion has nothing to go by
    assert_eq!((report["refused"].as_u64(), report["fused"]["accuracy"]["hits"].as_u64()), (Some(1), Some(3)));
    assert_eq!(report["intents"]["oos_recall"]["hits"], 1);
    assert_eq!(counts(&confident["alone"], "request"), (1, 3));
    assert_eq!(counts(confident, "decided_wrong"), (1, 4));
    // what was decided of one row is not taken for the next one's: the third asks for what the second did
    assert_eq!(counts(confident, "decided_right"), (2, 2));
    let kinds: Vec<&str> = confident["kinds"].as_array().unwrap().iter().map(|k| k["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["strange", "empty", "known"], "the worst first, then by name");
    assert_eq!(counts(&confident["kinds"][0], "fused"), (1, 1));
    let said = text(&run(&["eval", "--decide", file]));
    assert!(said.contains("decided wrong") && said.contains("strange"), "{said}");

    // nobody is that sure, and without --decide nothing is decided
    let confident = &json_of(&["eval", "--json", "--confident", "0.99999", file])["confident"];
    assert_eq!(counts(confident, "fused"), (0, 4), "{confident:#}");
    assert!(confident["decided_wrong"].is_null() && confident["decided_right"].is_null());
    for (args, piece) in [(["--confident", "1"], "less than 1"), (["--confident", "x"], "invalid")] {
        let output = run(&[&["eval", file], &args[..]].concat());
        assert!(output.status.code() == Some(2) && text(&output).contains(piece), "{}", text(&output));
    }
}

#[test]
fn a_bundle_compared_with_itself_shows_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let same = "models/kiosk";
    for data in [rows(dir.path()), constructed(dir.path())] {
        let comparison = json_of(&["eval", "--json", "--compare", same, same, data.to_str().unwrap()]);
        let measures = comparison["measures"].as_array().unwrap();
        assert!(measures.len() >= 5, "{comparison:#}");
        for m in measures {
            assert_eq!(m["is_shown"], false, "{m}");
            assert!(m["difference"].is_null() || m["difference"] == 0.0, "{m}");
            assert!(m["low"].is_null() || (m["low"] == 0.0 && m["high"] == 0.0), "{m}");
        }
        assert_eq!(comparison["mcnemar"], json!({ "only_a": 0, "only_b": 0, "p": 1.0 }));
        let said = text(&run(&["eval", "--compare", same, same, data.to_str().unwrap()]));
        assert!(said.contains("no difference shown") && said.contains("seed 20240229"), "{said}");
        assert!(!said.contains("is higher") && !said.contains("a difference is shown"), "{said}");
    }
}

#[test]
fn a_bundle_that_decides_nothing_is_shown_to_be_worse() {
    let dir = tempfile::tempdir().unwrap();
    let dull = bundle(dir.path(), "dull", ("enter = 0.7 ", "dwell_ms = 60000 # "));
    let manifest = fs::read_to_string(dull.join("bundle.toml")).unwrap();
    fs::write(dull.join("bundle.toml"), manifest.replace("dwell_ms = 180\n", "enter = 0.7\n")).unwrap();
    let mut things = Vec::new();
    for visit in 0..8 {
        let t = visit * 20;
        things.extend([At::Label(t, CARD.1, &["request"]), At::Typed(t + 1, CARD.0), At::Label(t + 8, "none", &[])]);
    }
    things.push(At::Picture(170));
    let file = recording(&dir.path().join("visits.mcap"), &things);
    let dull = dull.to_str().unwrap();
    let comparison = json_of(&["eval", "--json", "--compare", "models/kiosk", dull, file.to_str().unwrap()]);
    let hits = &comparison["measures"][0];
    assert_eq!((hits["measure"].as_str(), hits["difference"].as_f64()), (Some("hits"), Some(-1.0)));
    assert_eq!(hits["is_shown"], true);
    let latency =
        comparison["measures"].as_array().unwrap().iter().find(|m| m["measure"] == "latency p50 in s").unwrap();
    assert!(latency["b"].is_null() && latency["low"].is_null() && latency["is_shown"] == false, "{latency}");
    // 8 to 0 is 2 in 256
    let mcnemar = &comparison["mcnemar"];
    assert_eq!((mcnemar["only_a"].as_u64(), mcnemar["only_b"].as_u64()), (Some(8), Some(0)));
    assert!((mcnemar["p"].as_f64().unwrap() - 2.0 / 256.0).abs() < 1e-12, "{mcnemar}");
    let said = text(&run(&["eval", "--compare", "models/kiosk", dull, file.to_str().unwrap()]));
    assert!(said.contains("B is lower") && said.contains("too little data"), "{said}");
}

#[test]
fn data_that_cannot_be_measured_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let path = |p: &Path| p.display().to_string();
    let unlabelled = path(&recording(&at("unlabelled.mcap"), &[At::Typed(0, CARD.0), At::Picture(5)]));
    let empty = path(&recording(&at("empty.mcap"), &[]));
    let only_labels = path(&recording(&at("only.mcap"), &[At::Label(0, "none", &[])]));
    let unknown = path(&recording(&at("unknown.mcap"), &[At::Label(0, "desk_77", &[]), At::Picture(5)]));
    let late = path(&recording(&at("late.mcap"), &[At::Picture(0), At::Label(5, CARD.1, &[])]));
    let short =
        path(&recording(&at("short.mcap"), &[At::Label(0, CARD.1, &[]), At::Label(0, "none", &[]), At::Picture(5)]));
    let with_labels = |name: &str, labels: &str| {
        fs::write(at(&format!("{name}.labels.jsonl")), labels).unwrap();
        path(&recording(&at(&format!("{name}.mcap")), &[At::Typed(0, CARD.0), At::Picture(5)]))
    };
    let no_labels = with_labels("none", "\n");
    let no_json = with_labels("broken", "{\"t_us\":0,\"label\":\"none\"}\n{\"t\":1}\n");
    let unordered = with_labels("unordered", "{\"t_us\":9,\"label\":\"none\"}\n{\"t_us\":1,\"label\":\"none\"}\n");
    let good = path(&constructed(dir.path()));
    let rows = path(&rows(dir.path()));
    fs::write(at("file"), "").unwrap();
    let in_a_file = path(&at("file/report"));
    let cases: Vec<(&str, Vec<&str>, i32, &[&str])> = vec![
        ("no labels", vec![&unlabelled], 4, &["does not say what is shown", "unlabelled.labels.jsonl", "/truth"]),
        ("empty recording", vec![&empty], 4, &["empty.mcap"]),
        ("labels without a sample", vec![&only_labels], 4, &["holds no sample"]),
        ("unknown label", vec![&unknown], 4, &["desk_77", "desk_3", "unknown.mcap"]),
        ("a label at the end", vec![&late], 4, &["desk_1 is shown, but the recording ends at"]),
        ("a label for no time", vec![&short], 4, &["shown for no time"]),
        ("a file of no labels", vec![&no_labels], 4, &["none.labels.jsonl: no labels"]),
        ("a line that is no label", vec![&no_json], 4, &["broken.labels.jsonl:2", "t_us, label, shown, note"]),
        ("labels out of order", vec![&unordered], 4, &["unordered.labels.jsonl", "order of time"]),
        ("missing", vec!["/nowhere/x.mcap"], 4, &["/nowhere/x.mcap"]),
        ("a stream that is shown", vec![&good, "--decide"], 2, &["--decide goes with rows"]),
        ("rows and a recording", vec![&rows, &good], 2, &["minute.mcap", "any number of .mcap"]),
        ("nothing", vec![], 2, &["DATA"]),
        ("a report in a file", vec![&good, "--report", &in_a_file], 5, &["file/report"]),
        ("a report nowhere", vec![&rows, "--report", "/proc/report"], 5, &["/proc/report"]),
        ("predictions of a stream", vec![&good, "--predictions", "x"], 2, &["--predictions"]),
        ("one bundle to compare", vec![&good, "--compare", "models/kiosk"], 2, &["--compare"]),
        ("no bundle", vec!["--compare", "models/kiosk", "/nowhere", &good], 3, &["/nowhere"]),
        ("both", vec!["--compare", "a", "b", &good, "--report", "x"], 2, &["--report"]),
        ("a tolerance of a day", vec![&good, "--tolerance-ms", "86400000"], 2, &["86400000"]),
    ];
    let mut failures = Vec::new();
    for (case, args, code, named) in cases {
        let output = run(&[&["eval"], &args[..]].concat());
        let said = text(&output);
        if output.status.code() != Some(code) || !named.iter().all(|n| said.contains(n)) {
            failures.push(format!("{case}: expected exit {code} and {named:?}\n{said}"));
        }
        if said.contains("panicked") {
            failures.push(format!("{case}: a panic\n{said}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
