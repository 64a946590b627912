//! `attendant doctor`: what this machine offers and lacks, and the command that mends it.
//!
//! One file a topic, each a function from what is [`Known`] to [`Check`]s. Reads the bundle and the kernel's files, below another root if
//! asked to; with driver features it also asks cameras and GPIO chips what they are. Nothing is recorded, written or mended, and no
//! line is taken.

mod access;
mod bundle;
mod clock;
mod devices;
mod headroom;
mod jpeg;
mod processor;
mod root;
mod service;
mod storage;
mod thermal;
mod uvc;

use std::path::PathBuf;
use std::process::ExitCode;

use attendant::config::runtime::Runtime;
use clap::Args;

pub use processor::{cpu, peak_memory_kb};

use super::{Common, Failure, outln};
use access::Person;
use root::Root;
use service::Unit;

/// Version of the JSON document.
const DOCUMENT_VERSION: u32 = 1;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Look at the tree below DIR instead of this machine: a dump that deploy/dump.sh made on another device
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Whose permissions count; else the service's user if there is one, else whoever runs this
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Also measure, for some seconds, how much of the board's budget this bundle takes on this machine
    #[arg(long)]
    headroom: bool,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// There is nothing of the kind on this machine, and nothing asks for it.
    Absent,
    /// It could not be looked at; the text says why.
    Unknown,
    /// Works, but less well, or not for long.
    Warning,
    /// Has to be mended first.
    Error,
}

impl Status {
    fn mark(self) -> &'static str {
        match self {
            Status::Ok => "ok  ",
            Status::Absent => " -  ",
            Status::Unknown => " ?  ",
            Status::Warning => "warn",
            Status::Error => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
struct Check {
    topic: &'static str,
    /// Which of its kind.
    name: String,
    status: Status,
    /// What was found.
    text: String,
    /// The command that mends it, or what to do by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn new(topic: &'static str, name: &str, status: Status, text: impl AsRef<str>) -> Self {
        Check { topic, name: printable(name), status, text: printable(text.as_ref()), fix: None }
    }

    fn fix(mut self, fix: impl AsRef<str>) -> Self {
        self.fix = Some(printable(fix.as_ref()));
        self
    }
}

/// Names of devices and files of a foreign dump must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// What the checks have in common.
struct Known {
    root: Root,
    /// Whose permissions count.
    person: Person,
    /// The service's unit file, if it is installed.
    unit: Option<Unit>,
    /// The service's settings; none if there is no such file.
    settings: Option<(PathBuf, Result<Runtime, String>)>,
}

impl Known {
    fn gather(args: &DoctorArguments) -> Result<Known, Failure> {
        let root = Root::new(&args.root)
            .map_err(|e| Failure::Usage(format!("--root {}: {e}; name a directory", args.root.display())))?;
        let unit = Unit::find(&root);
        let person = Person::find(&root, args.user.as_deref(), unit.as_ref()).map_err(Failure::Usage)?;
        let settings = service::settings(&root, unit.as_ref());
        Ok(Known { root, person, unit, settings })
    }

    /// The settings, where they can be read.
    fn runtime(&self) -> Option<&Runtime> {
        self.settings.as_ref()?.1.as_ref().ok()
    }
}

/// The worst of the checks: what could not be looked at is not fine.
fn overall(checks: &[Check]) -> Status {
    let is = |status| checks.iter().any(|c| c.status == status);
    match () {
        () if is(Status::Error) => Status::Error,
        () if is(Status::Warning) || is(Status::Unknown) => Status::Warning,
        () => Status::Ok,
    }
}

/// Whether this kernel can hold a run to what its settings need; `attendant privacy` tries.
fn sandbox() -> Check {
    let (is_whole, text) = super::privacy::support();
    if is_whole {
        return Check::new("sandbox", "kernel", Status::Ok, text);
    }
    Check::new("sandbox", "kernel", Status::Warning, text)
        .fix("boot a kernel with CONFIG_SECURITY_LANDLOCK and CONFIG_SECCOMP_FILTER, and landlock in lsm=")
}

/// Runs the command.
pub fn run(common: &Common, args: &DoctorArguments) -> Result<ExitCode, Failure> {
    let known = Known::gather(args)?;
    let mut checks = processor::board(&known);
    checks.push(processor::check(&known));
    let loaded = bundle::load(common, &known);
    // with the bundle loaded and nothing else done yet: what is looked at below takes more than a run
    checks.push(processor::memory(&known));
    checks.extend(bundle::check(&loaded));
    checks.extend(devices::check(&known));
    checks.extend(clock::check(&known));
    checks.extend(thermal::check(&known));
    checks.extend(storage::check(&known));
    checks.extend(service::check(&known));
    // of a copy it would be this machine's kernel
    if known.root.is_live() {
        checks.push(sandbox());
    }
    if args.headroom {
        checks.push(headroom::check(loaded));
    }
    let status = overall(&checks);
    if common.json {
        common.print_json(&serde_json::json!({ "v": DOCUMENT_VERSION, "status": status, "checks": checks }))?;
    } else {
        print(&checks)?;
    }
    let failed: Vec<String> =
        checks.iter().filter(|c| c.status == Status::Error).map(|c| format!("{} {}", c.topic, c.name)).collect();
    if failed.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::Check(format!("to be mended: {}", failed.join(", "))))
    }
}

fn print(checks: &[Check]) -> Result<(), Failure> {
    let mut topic = "";
    for check in checks {
        if check.topic != topic {
            topic = check.topic;
            outln!("{topic}");
        }
        outln!("  {}  {:<14} {}", check.status.mark(), check.name, check.text);
        if let Some(fix) = &check.fix {
            outln!("        {:<14} -> {fix}", "");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_looked_at_is_not_ok() {
        let of = |statuses: &[Status]| -> Vec<Check> {
            statuses.iter().map(|status| Check::new("topic", "name", *status, "text")).collect()
        };
        use Status::{Absent, Error, Ok, Unknown, Warning};
        for (statuses, expected) in [
            (vec![], Ok),
            (vec![Ok, Absent], Ok),
            (vec![Ok, Unknown], Warning),
            (vec![Ok, Warning, Absent], Warning),
            (vec![Warning, Error, Ok], Error),
        ] {
            assert_eq!(overall(&of(&statuses)), expected, "{statuses:?}");
        }
    }

    #[test]
    fn a_name_that_a_device_gives_itself_does_not_steer_the_terminal() {
        let check = Check::new("devices", "cam\n", Status::Ok, "\x1b[2Jcam").fix("a\rb");
        assert_eq!((&*check.name, &*check.text, check.fix.as_deref()), ("cam?", "?[2Jcam", Some("a?b")));
    }
}
