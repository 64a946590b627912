//! The program inside its sandbox: what is refused there and not outside, and that everything it is for works there.
//!
//! A kernel without Landlock or seccomp cannot be tested on: then a test says that it is skipped.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use attendant::supervise::sandbox;
use serde_json::Value;

/// For a program that is started on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why nothing can be tested here, if nothing can.
fn lacks() -> bool {
    let status = sandbox::support();
    if !status.is_whole() {
        eprintln!("skipped: this kernel cannot confine a program: {}", status.line());
    }
    !status.is_whole()
}

fn attendant(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attendant"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("RUST_LOG").env_remove("ATTENDANT_BUNDLE");
    command.args(arguments).output().unwrap()
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn config(dir: &Path, text: &str) -> String {
    let path = dir.join("attendant.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn privacy(config_text: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), config_text);
    serde_json::from_str(&succeeded(attendant(&["privacy", "--json", "--config", &config]))).unwrap()
}

/// Attempts by name: whether it was refused inside, how many calls were counted, the answer outside.
fn attempts(report: &Value) -> Vec<(String, bool, u64, String)> {
    let rows = report["attempts"].as_array().unwrap().iter();
    let row = |r: &Value| {
        let text = |key: &str| r[key].as_str().unwrap().to_owned();
        (text("what"), r["refused"].as_bool().unwrap(), r["counted"].as_u64().unwrap(), text("outside"))
    };
    rows.map(row).collect()
}

#[test]
fn what_a_run_must_not_do_is_refused_and_calls_are_counted() {
    if lacks() {
        return;
    }
    let report = privacy("[privacy]\nsandbox = \"require\"\n");
    let attempts = attempts(&report);
    assert!(attempts.len() > 25, "{report:#}");
    let passed: Vec<_> = attempts.iter().filter(|(_, refused, ..)| !refused).collect();
    assert!(passed.is_empty(), "{passed:#?}");
    let counted = |what: &str| attempts.iter().any(|(w, _, n, _)| w.starts_with(what) && *n > 0);
    for what in ["connect()", "socket(AF_INET, SOCK_STREAM)", "execve", "ptrace", "mount", "bpf", "init_module"] {
        assert!(counted(what), "{what} is not counted: {attempts:#?}");
    }
    // the same attempts without a sandbox: some of them work, or the refusals above would prove nothing
    for (what, answer) in
        [("socket(AF_INET, SOCK_STREAM)", "done"), ("open /etc/passwd", "done"), ("fork, exec", "done")]
    {
        let (.., outside) = attempts.iter().find(|(w, ..)| w.starts_with(what)).unwrap();
        assert_eq!(outside, answer, "{what} outside of the sandbox");
    }
    assert_eq!((&report["leaves"], &report["kept"]), (&serde_json::json!([]), &serde_json::json!([])));
}

#[test]
fn every_way_out_and_everything_kept_is_named() {
    let report = privacy(
        "[[sink]]\nkind = \"jsonl\"\n[[sink]]\nkind = \"jsonl\"\npath = \"e.jsonl\"\n[web]\nlisten = \"127.0.0.1:8099\"\n[mqtt]\n\
         broker = \"mqtt://192.0.2.1\"\ndevice = \"x\"\nqueue_dir = \"queue\"\n[speech]\ncommand = [\"cat\"]\n",
    );
    let whats = |key: &str| -> Vec<String> {
        report[key].as_array().unwrap().iter().map(|e| e["what"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(whats("leaves"), ["page", "broker", "program", "events"]);
    assert_eq!(whats("kept"), ["events", "queue"]);
    assert!(report["leaves"][1]["how"].as_str().unwrap().starts_with("NOT encrypted"), "{report:#}");
    let page = |report: &Value| report["leaves"][0]["how"].as_str().unwrap().to_owned();
    assert!(page(&report).ends_with("no pictures, no sound"), "{report:#}");
    let report = privacy("[web]\nlisten = \"127.0.0.1:8099\"\npreview = true\n");
    assert!(page(&report).contains("PICTURES of the camera"), "{report:#}");
}

#[test]
fn each_configuration_gets_what_it_names_and_no_more() {
    if lacks() {
        return;
    }
    // (configuration, attempts that are not refused)
    let cases: &[(&str, &[&str])] = &[
        (
            "[web]\nlisten = \"127.0.0.1:0\"\n",
            &["socket(AF_INET, SOCK_STREAM)", "socket(AF_INET6, SOCK_STREAM)", "listen() on TCP 127.0.0.1"],
        ),
        (
            "[mqtt]\nbroker = \"mqtt://127.0.0.1\"\ndevice = \"x\"\n",
            &["socket(AF_INET, SOCK_STREAM)", "socket(AF_INET6, SOCK_STREAM)"],
        ),
        // the discard port is the broker's: the connection is tried, and nobody listens
        (
            "[mqtt]\nbroker = \"mqtt://127.0.0.1:9\"\ndevice = \"x\"\n",
            &["connect() to TCP 127.0.0.1:9", "socket(AF_INET, SOCK_STREAM)", "socket(AF_INET6, SOCK_STREAM)"],
        ),
    ];
    for (text, expected) in cases {
        let report = privacy(text);
        let passed: Vec<String> =
            attempts(&report).into_iter().filter(|(_, refused, ..)| !refused).map(|(what, ..)| what).collect();
        assert_eq!(passed, *expected, "{text}");
    }
    // a program is started, in the same sandbox; calls are not counted then
    let report = privacy("[speech]\ncommand = [\"cat\"]\n");
    let attempts = attempts(&report);
    let refused = |what: &str| attempts.iter().any(|(w, refused, ..)| w.starts_with(what) && *refused);
    assert!(refused("socket(AF_INET, SOCK_STREAM)") && refused("ptrace") && refused("mount"), "{attempts:#?}");
    assert!(!refused("fork, exec"), "{attempts:#?}");
    assert_eq!((&report["sandbox"]["counted"], &report["sandbox"]["seccomp"]), (&false.into(), &true.into()));
}

#[test]
fn the_demo_gives_the_same_events_inside_and_outside() {
    if lacks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let events = |kind: &str| {
        let config = config(
            dir.path(),
            &format!("clock = \"max\"\n[privacy]\nsandbox = \"{kind}\"\n[[sink]]\nkind = \"jsonl\"\n"),
        );
        succeeded(attendant(&["run", "--config", &config]))
    };
    let inside = events("require");
    assert!(inside.lines().filter(|l| l.contains("\"kind\":\"decision\"")).count() > 5, "{inside}");
    assert_eq!(inside, events("off"));
}

#[test]
fn recording_and_events_files_work_inside() {
    if lacks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let text =
        "clock = \"max\"\n[privacy]\nsandbox = \"require\"\n[[sink]]\nkind = \"jsonl\"\npath = \"events.jsonl\"\n";
    let config = config(dir.path(), text);
    let [recording, requests, kept] = ["run.mcap", "requests.txt", "kept"].map(|name| dir.path().join(name));
    fs::write(&requests, "what is the exchange rate from dollars to euros\nbook me a flight to rome\n").unwrap();
    let (recording, requests) = (recording.to_str().unwrap(), requests.to_str().unwrap());
    succeeded(attendant(&["record", recording, "--config", &config, "--text", requests]));
    assert!(fs::read_to_string(dir.path().join("events.jsonl")).unwrap().lines().count() > 5);
    succeeded(attendant(&["replay", recording, "--verify"]));
    // what led to decisions: files are made, and removed again
    let ring = ["record", kept.to_str().unwrap(), "--record-ring", "60", "--config", &config, "--text", requests];
    succeeded(attendant(&ring));
    assert!(fs::read_dir(&kept).unwrap().count() > 0);
    // an events file that is there is written on, and a folder that is not there is the same error as without a sandbox
    let missing = dir.path().join("missing/run.mcap");
    let output = attendant(&["record", missing.to_str().unwrap(), "--config", &config, "--text", requests]);
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"), "{output:?}");
}

/// A run that is asked something in writing and says the answer with a program, which also tries to connect to `port`: whether it said it,
/// and what became of the connection.
fn speak(dir: &Path, kind: &str, port: u16) -> String {
    let (script, said) = (dir.join("speak"), dir.join(format!("said-{kind}")));
    let text = format!(
        "#!/bin/bash\nread -r line\n(echo hello >/dev/tcp/127.0.0.1/{port}) 2>/dev/null && how=reached || how=unreachable\n\
         echo \"$line; $how\" >{0}.new; mv {0}.new {0}\n",
        said.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!(
        "[privacy]\nsandbox = \"{kind}\"\n[[sink]]\nkind = \"jsonl\"\n[source.text]\nkind = \"stdin\"\n[speech]\ncommand = [\"{}\"]\n",
        script.display()
    );
    let config = config(dir, &text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_attendant"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "--config", &config]);
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut visitor = run.stdin.take().unwrap();
    visitor.write_all(b"what is the exchange rate from dollars to euros\n").unwrap();
    let began = Instant::now();
    while !said.exists() && began.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    drop(visitor);
    assert!(run.wait().unwrap().success());
    fs::read_to_string(said).unwrap_or_default()
}

#[test]
fn a_program_of_the_configuration_speaks_and_reaches_no_one() {
    if lacks() {
        return;
    }
    if !Path::new("/bin/bash").exists() {
        return eprintln!("skipped: there is no /bin/bash, which can connect");
    }
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // below /tmp, where programs may write
    let inside = speak(dir.path(), "require", port);
    assert!(inside.contains("Desk 5") && inside.contains("; unreachable"), "{inside:?}");
    let outside = speak(dir.path(), "off", port);
    assert!(outside.contains("; reached"), "{outside:?}");
}
