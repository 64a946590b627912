//! `attendant privacy`: what may leave this device under a configuration, what is kept, and proof by trying. And what `run` needs of the
//! kernel, from the same words: the report and the sandbox are of one mind.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use attendant::bundle::Bundle;
use attendant::config::mqtt::Broker;
use attendant::config::privacy::SandboxKind;
use attendant::config::runtime::{SourceKind, SourceSpec};
use attendant::supervise::recorder::{Keep, RecordSpec};
use attendant::supervise::sandbox::probe::{self, Attempt};
use attendant::supervise::sandbox::{self, Mode, Needs, Status};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::run::{self, RunArguments};
use super::{Common, Failure, outln};

/// Arguments of `privacy`.
#[derive(Clone, Debug, Args)]
pub struct PrivacyArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Make the attempts in this process and print them: what the command starts twice.
    #[arg(long, hide = true, value_name = "inside|outside")]
    probe: Option<Place>,
}

/// Where attempts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Place {
    Inside,
    Outside,
}

/// Certificates that a broker's is checked against when the configuration names none.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs";

/// Confines this process to what a run with `args` needs.
pub fn enter(args: &RunArguments, bundle: &Bundle) -> Result<Status, Failure> {
    make(args);
    Ok(sandbox::enter(&needs(args, bundle)?, mode(args))?)
}

/// What `doctor` says of the kernel: whether it can confine a run, and how.
pub fn support() -> (bool, String) {
    let status = sandbox::support();
    (status.is_whole(), status.line())
}

fn mode(args: &RunArguments) -> Mode {
    match args.privacy.sandbox {
        SandboxKind::Require => Mode::Require,
        SandboxKind::BestEffort => Mode::BestEffort,
        SandboxKind::Off => Mode::Off,
    }
}

/// Makes what a run writes into, so that it can be allowed, and nothing around it. Who opens it says why it cannot be made.
fn make(args: &RunArguments) {
    if let Some(path) = &args.events {
        _ = OpenOptions::new().create(true).append(true).open(path);
    }
    if let Some(RecordSpec { keep: Keep::Ring(_), path, .. }) = args.record_spec() {
        _ = std::fs::create_dir_all(path);
    }
    if let Some(queue) = args.asked.mqtt.as_ref().and_then(|mqtt| mqtt.queue_dir.as_ref()) {
        _ = std::fs::create_dir_all(queue);
    }
}

/// The directory of a file.
fn directory(file: &Path) -> PathBuf {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn needs(args: &RunArguments, bundle: &Bundle) -> Result<Needs, Failure> {
    let mut needs = Needs { read: vec![bundle.dir.clone()], ..Needs::default() };
    let is_file = |path: &&PathBuf| path.as_os_str() != "-";
    needs.read.extend([&args.camera, &args.mic, &args.text].into_iter().flatten().filter(is_file).cloned());
    needs.read.extend(args.sensors.iter().map(|(_, path)| path.clone()));
    if !args.is_live() && !args.has_files() {
        needs.read.push(run::recording_of(args, bundle)?);
    }
    for (_, source) in &args.devices.sources {
        device(source, &mut needs);
    }
    if args.devices.has_lines() {
        lines(&mut needs);
    }
    needs.write.extend(args.events.clone());
    if let Some(spec) = args.record_spec() {
        needs.write.push(spec.dir().to_owned());
        // a recording says which program made it
        needs.read.extend(std::env::current_exe());
    }
    if let Some(web) = &args.asked.web {
        needs.listen.push(web.listen.port());
        needs.read.extend(web.token_file.clone());
    }
    if let Some(mqtt) = &args.asked.mqtt {
        let broker = Broker::parse(&mqtt.broker).map_err(Failure::Usage)?;
        needs.connect.push(broker.port);
        needs.names = broker.host.parse::<std::net::IpAddr>().is_err();
        let files = [&mqtt.password_file, &mqtt.ca_file, &mqtt.client_cert_file, &mqtt.client_key_file];
        // whoever renews one puts another file in its place
        needs.read.extend(files.into_iter().flatten().map(|file| directory(file)));
        needs.read.push(SYSTEM_CERTIFICATES.into());
        needs.read.push("/proc/sys/kernel/hostname".into());
        needs.write.extend(mqtt.queue_dir.clone());
    }
    if let Some(update) = args.update.as_ref().filter(|_| args.takes_updates()) {
        needs.write.extend([update.state_dir.clone(), update.inbox()]);
        // what runs again if the installed one does not do
        needs.read.extend(attendant::bundle::locate(args.own.as_deref()).ok());
    }
    if let Some(speech) = &args.asked.speech {
        program(&speech.command, &mut needs);
    }
    Ok(needs)
}

/// A program of the configuration, wherever it lies.
fn program(command: &[String], needs: &mut Needs) {
    needs.programs = true;
    let own = command.first().map(Path::new).filter(|p| p.components().count() > 1);
    needs.program.extend(own.map(directory));
}

fn device(source: &SourceSpec, needs: &mut Needs) {
    match source.kind {
        // one that is plugged in again is another node, which only a rule for its directory covers
        SourceKind::V4l2 => needs.devices.push("/dev".into()),
        SourceKind::Alsa => {
            needs.sound = true;
            if !Path::new("/dev/snd").exists() {
                needs.devices.push("/dev".into());
            }
            let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
            needs.read.extend([".asoundrc", ".config/alsa"].iter().map(|name| home.join(name)));
        }
        SourceKind::Command => program(source.command.as_deref().unwrap_or_default(), needs),
        SourceKind::Lm75 => needs.devices.extend(source.bus.clone()),
        SourceKind::Gpio => lines(needs),
        SourceKind::Recording
        | SourceKind::Image
        | SourceKind::Video
        | SourceKind::Wav
        | SourceKind::Stdin
        | SourceKind::Csv => {}
    }
}

/// GPIO chips: those that there are. They are looked at one by one for their labels.
fn lines(needs: &mut Needs) {
    let nodes = std::fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_chip = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("gpiochip"));
    needs.devices.extend(nodes.filter(is_chip));
    needs.read.extend(["/sys/bus/gpio", "/sys/devices"].map(PathBuf::from));
}

/// What the command prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Ways out of the device.
    leaves: Vec<Entry>,
    /// What is written down on the device.
    kept: Vec<Entry>,
    /// What confines a run.
    sandbox: Status,
    /// What was tried.
    attempts: Vec<Compared>,
}

/// A way out, or a place where something is kept.
#[derive(Debug, Serialize)]
struct Entry {
    what: &'static str,
    to: String,
    how: String,
}

/// An attempt inside and outside of the sandbox.
#[derive(Debug, Serialize)]
struct Compared {
    #[serde(flatten)]
    inside: Attempt,
    /// The same attempt by a process of the same user that nothing confines.
    outside: String,
}

/// What a probing process prints.
#[derive(Debug, Serialize, Deserialize)]
struct Probed {
    landlock_abi: Option<u32>,
    seccomp: bool,
    counted: bool,
    missing: Vec<String>,
    attempts: Vec<Attempt>,
}

/// Runs the command.
pub fn run(common: &Common, args: &PrivacyArguments) -> Result<ExitCode, Failure> {
    // where its own report goes says nothing of where a run's events go
    let asked = Common { bundle: common.bundle.clone(), json: false };
    let (completed, run) = run::completed(&asked, &args.run)?;
    let bundle = completed.open_bundle()?;
    if let Some(place) = args.probe {
        return probe_here(common, &run, &bundle, place);
    }
    let [inside, outside] = [Place::Inside, Place::Outside].map(probed);
    let (inside, outside) = (inside?, outside?);
    let compare = |(inside, outside): (Attempt, Attempt)| Compared { inside, outside: outside.answer };
    let report = Report {
        leaves: leaves(&completed, &run),
        kept: kept(&run),
        sandbox: Status {
            landlock_abi: inside.landlock_abi,
            seccomp: inside.seccomp,
            counted: inside.counted,
            missing: inside.missing,
        },
        attempts: inside.attempts.into_iter().zip(outside.attempts).map(compare).collect(),
    };
    if common.json {
        common.print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Enters the sandbox of `run`, if it is to be inside, and tries.
fn probe_here(common: &Common, run: &RunArguments, bundle: &Bundle, place: Place) -> Result<ExitCode, Failure> {
    let mode = if place == Place::Inside { mode(run) } else { Mode::Off };
    if place == Place::Outside {
        // it says that it is off, which here is no news
        log::set_max_level(log::LevelFilter::Off);
    }
    let Status { landlock_abi, seccomp, counted, missing } = sandbox::enter(&needs(run, bundle)?, mode)?;
    let attempts = probe::attempts();
    common.print_json(&Probed { landlock_abi, seccomp, counted, missing, attempts })?;
    Ok(ExitCode::SUCCESS)
}

/// Starts this program again with the same words, to try in `place`.
fn probed(place: Place) -> Result<Probed, Failure> {
    let failed = |source| Failure::Output { path: "the probing process".into(), source };
    let place = if place == Place::Inside { "inside" } else { "outside" };
    let program = std::env::current_exe().map_err(failed)?;
    let words = std::env::args_os().skip(1);
    let mut command = Command::new(program);
    command.args(words).args(["--probe", place]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(failed)?;
    let said = serde_json::from_slice(&output.stdout);
    said.map_err(|e| {
        failed(io::Error::other(format!("{place}: {}, and no answer that can be read: {e}", output.status)))
    })
}

fn entry(what: &'static str, to: impl Into<String>, how: impl Into<String>) -> Entry {
    Entry { what, to: to.into(), how: how.into() }
}

/// Every way on which something may leave the device.
fn leaves(common: &Common, run: &RunArguments) -> Vec<Entry> {
    let mut all = Vec::new();
    if let Some(web) = &run.asked.web {
        let who = if web.listen.ip().is_loopback() { "programs of this machine" } else { "whoever reaches it" };
        let token = if web.token_file.is_some() { ", with the token" } else { "" };
        let pictures = if web.preview { "PICTURES of the camera (web.preview)" } else { "no pictures" };
        let how =
            format!("{who}{token}: events, texts that were typed, levels and spectra of sound; {pictures}, no sound");
        all.push(entry("page", web.listen.to_string(), how));
    }
    if let Some(mqtt) = &run.asked.mqtt {
        let sealed = if mqtt.broker.starts_with("mqtts:") { "encrypted" } else { "NOT encrypted" };
        let how = format!("{sealed}: events, states, counters; no pictures, no sound");
        all.push(entry("broker", &*mqtt.broker, how));
    }
    for (name, source) in &run.devices.sources {
        if let (SourceKind::Command, Some(command)) = (source.kind, &source.command) {
            let how = format!(
                "the program of source.{name}: inside the same sandbox, without the internet unless it is in use above"
            );
            all.push(entry("program", command.join(" "), how));
        }
    }
    if let Some(speech) = &run.asked.speech {
        let how = "speaks the advice aloud: inside the same sandbox, without the internet unless it is in use above";
        all.push(entry("program", speech.command.join(" "), how));
    }
    if common.json {
        all.push(entry(
            "events",
            "standard output",
            "JSON lines to whoever started the program: as a service, the journal",
        ));
    }
    for output in &run.devices.outputs {
        all.push(entry("line", output.on.clone(), "a GPIO line that follows the events"));
    }
    all
}

/// What is written down on the device.
fn kept(run: &RunArguments) -> Vec<Entry> {
    let mut all = Vec::new();
    if let Some(spec) = run.record_spec() {
        let what =
            if run.record_tokens { "what encoders make of pictures, sound and text" } else { "pictures, sound, texts" };
        let span = run.record_ring.map_or("of the run".into(), |s| format!("of the {s} s before each decision"));
        let bytes = run.record_bytes.map(|bytes| format!("at most {bytes} bytes"));
        let age = run.privacy.recordings_age_h_max.map(|hours| format!("removed after {hours} h"));
        let until: Vec<String> = [bytes, age].into_iter().flatten().collect();
        let until = if until.is_empty() { "until somebody removes it".into() } else { until.join(", ") };
        all.push(entry("recording", spec.path.display().to_string(), format!("{what} and events {span}: {until}")));
    }
    if let Some(path) = &run.events {
        all.push(entry("events", path.display().to_string(), "what was decided; no pictures, no sound"));
    }
    if let Some(mqtt) = &run.asked.mqtt
        && let Some(queue) = &mqtt.queue_dir
    {
        let how = format!("events while the broker is away, at most {} bytes", mqtt.queue_bytes_max);
        all.push(entry("queue", queue.display().to_string(), how));
    }
    all
}

fn print(report: &Report) -> Result<(), Failure> {
    let section = |title: &str, entries: &[Entry]| -> Result<(), Failure> {
        outln!("{title}");
        if entries.is_empty() {
            outln!("  nothing");
        }
        for Entry { what, to, how } in entries {
            outln!("  {what:<10} {to}\n             {how}");
        }
        Ok(())
    };
    section("What may leave this device", &report.leaves)?;
    section("What is kept on it", &report.kept)?;
    outln!("What confines a run\n  {}", report.sandbox.line());
    outln!("Attempts from inside{:24}the kernel's answer; and without the sandbox", "");
    for Compared { inside, outside } in &report.attempts {
        let mark = if inside.refused { "refused" } else { "PASSED " };
        let counted = if inside.counted > 0 { ", counted" } else { "" };
        outln!("  {mark}  {:<36} {}{counted}; {outside}", inside.what, inside.answer);
    }
    Ok(())
}
