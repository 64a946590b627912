//! The service: its unit and drop-ins, what systemd says of it, its settings.

use std::path::{Path, PathBuf};

use attendant::config::runtime::Runtime;

use super::root::Root;
use super::{Check, Known, Status};

const TOPIC: &str = "service";

const UNIT: &str = "attendant.service";

/// Where systemd looks for units, the most important first (systemd.unit(5)).
const FOLDERS: &[&str] = &[
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The settings, unless the unit names others.
const SETTINGS: &str = "/etc/attendant/attendant.toml";

/// What is asked of `systemctl show`.
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,Result,UnitFileState,NRestarts,WatchdogUSec,MainPID,ExecMainStatus,NeedDaemonReload";

/// A unit file with its drop-ins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    path: String,
    drop_ins: Vec<String>,
    /// Key and value, in the order in which systemd takes them.
    values: Vec<(String, String)>,
}

impl Unit {
    /// The installed one.
    pub fn find(root: &Root) -> Option<Unit> {
        let path = FOLDERS.iter().map(|dir| format!("{dir}/{UNIT}")).find(|path| root.has(path))?;
        let mut unit = Unit { values: lines(&root.text(&path)?), path, drop_ins: vec![] };
        // by name, whatever folder they are in; of two with one name the more important folder's counts
        let mut files: Vec<(String, String)> = Vec::new();
        for dir in FOLDERS {
            for name in root.names(format!("{dir}/{UNIT}.d"), "").into_iter().filter(|n| n.ends_with(".conf")) {
                if !files.iter().any(|(known, _)| *known == name) {
                    files.push((name.clone(), format!("{dir}/{UNIT}.d/{name}")));
                }
            }
        }
        files.sort();
        for (_, path) in files {
            unit.values.extend(lines(&root.text(&path).unwrap_or_default()));
            unit.drop_ins.push(path);
        }
        Some(unit)
    }

    /// The last value of a key.
    pub fn value(&self, key: &str) -> Option<String> {
        self.values.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.clone()).filter(|v| !v.is_empty())
    }
}

fn lines(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';', '[']));
    lines.filter_map(|l| l.split_once('=')).map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())).collect()
}

/// The file that the unit names with `--config`, else the package's; none if it is not there.
pub fn settings(root: &Root, unit: Option<&Unit>) -> Option<(PathBuf, Result<Runtime, String>)> {
    let command = unit.and_then(|u| u.value("ExecStart")).unwrap_or_default();
    let mut words = command.split_whitespace().skip_while(|w| *w != "--config").skip(1);
    let path = PathBuf::from(words.next().unwrap_or(SETTINGS));
    let real = match root.resolve(&path) {
        Ok(real) => real,
        Err(_) => return None,
    };
    let read = Runtime::read(&real).map_err(|e| e.to_string());
    Some((path, read))
}

/// Settings, unit, and what systemd says.
pub fn check(known: &Known) -> Vec<Check> {
    let mut checks = vec![settings_check(known)];
    let is_booted = known.root.has("/run/systemd/system");
    match &known.unit {
        None => checks.push(not_installed(is_booted)),
        Some(unit) => {
            checks.push(installed(known, unit));
            checks.push(watchdog(unit));
            checks.push(if is_booted { state(known) } else { no_systemd() });
        }
    }
    checks
}

fn settings_check(known: &Known) -> Check {
    match &known.settings {
        None => {
            let text = format!("{SETTINGS} is not there: a run takes its command line and the demo");
            let status = if known.unit.is_some() { Status::Error } else { Status::Absent };
            let check = Check::new(TOPIC, "settings", status, text);
            if known.unit.is_some() {
                check.fix("sudo apt install --reinstall -o Dpkg::Options::=--force-confmiss attendant")
            } else {
                check
            }
        }
        Some((path, Ok(runtime))) => {
            let sources: Vec<&str> = runtime.source.keys().map(String::as_str).collect();
            let sources = if sources.is_empty() { "none".to_owned() } else { sources.join(", ") };
            Check::new(TOPIC, "settings", Status::Ok, format!("{}: sources {sources}", path.display()))
        }
        Some((path, Err(error))) => {
            let fix = format!("correct {}, then sudo systemctl restart attendant", path.display());
            Check::new(TOPIC, "settings", Status::Error, error).fix(fix)
        }
    }
}

fn no_systemd() -> Check {
    let text = "systemd does not run here (no /run/systemd/system): nothing starts the program again, and no watchdog looks at it";
    Check::new(TOPIC, "state", Status::Warning, text).fix("start it under another supervisor that restarts it")
}

fn not_installed(is_booted: bool) -> Check {
    if !is_booted {
        let text = "systemd does not run here (no /run/systemd/system), and no unit is installed";
        return Check::new(TOPIC, "unit", Status::Absent, text);
    }
    Check::new(TOPIC, "unit", Status::Absent, format!("no {UNIT} is installed; this program runs by hand"))
        .fix("sudo apt install ./attendant_VERSION_ARCH.deb, see docs/deploy.md")
}

fn installed(known: &Known, unit: &Unit) -> Check {
    let root = &known.root;
    let more = match unit.drop_ins.len() {
        0 => String::new(),
        _ => format!(", with {}", unit.drop_ins.join(", ")),
    };
    let program =
        unit.value("ExecStart").and_then(|c| c.split_whitespace().next().map(str::to_owned)).unwrap_or_default();
    // a prefix of systemd.service(5) is no part of the path
    let program = program.trim_start_matches(['-', '@', ':', '+', '!', '|']);
    let text =
        format!("{}{more}; runs {program} as {}", unit.path, unit.value("User").unwrap_or_else(|| "root".to_owned()));
    if !root.has(program) {
        let text = format!("{text}; {program} is not there");
        return Check::new(TOPIC, "unit", Status::Error, text).fix("install the package again, or correct ExecStart");
    }
    let is_link = |dir: &String| root.path(format!("/etc/systemd/system/{dir}/{UNIT}")).symlink_metadata().is_ok();
    let is_enabled = root.names("/etc/systemd/system", "").iter().filter(|n| n.ends_with(".wants")).any(is_link);
    if !is_enabled {
        let text = format!("{text}; not enabled: it does not start by itself");
        return Check::new(TOPIC, "unit", Status::Warning, text).fix("sudo systemctl enable --now attendant");
    }
    Check::new(TOPIC, "unit", Status::Ok, format!("{text}; enabled"))
}

fn watchdog(unit: &Unit) -> Check {
    let restart = unit.value("Restart").unwrap_or_else(|| "no".to_owned());
    match unit.value("WatchdogSec").filter(|w| w != "0") {
        Some(watchdog) if restart != "no" => {
            Check::new(TOPIC, "watchdog", Status::Ok, format!("WatchdogSec={watchdog}, Restart={restart}"))
        }
        watchdog => {
            let text = format!("WatchdogSec={}, Restart={restart}", watchdog.unwrap_or_else(|| "0".to_owned()));
            let text = format!("{text}: a program that hangs or ends stays so");
            let fix = "sudo systemctl edit attendant: [Service] WatchdogSec=15 Restart=always";
            Check::new(TOPIC, "watchdog", Status::Warning, text).fix(fix)
        }
    }
}

fn state(known: &Known) -> Check {
    let said = match known.root.ask("systemctl", &["show", UNIT, PROPERTIES]) {
        Ok(said) => said,
        Err(why) => return Check::new(TOPIC, "state", Status::Unknown, format!("what it does is not known: {why}")),
    };
    judge(&said)
}

fn judge(said: &str) -> Check {
    let value = |key: &str| said.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
    let (active, sub, result) = (value("ActiveState"), value("SubState"), value("Result"));
    let restarts = value("NRestarts").parse().unwrap_or(0_u64);
    let text = format!("{active} ({sub}), restarted {restarts} times, process {}", value("MainPID"));
    let log = "journalctl -u attendant -b -p warning";
    match active {
        "" => Check::new(TOPIC, "state", Status::Unknown, "systemctl show says no ActiveState"),
        _ if value("NeedDaemonReload") == "yes" => {
            let text = format!("{text}; its unit has changed on disk");
            Check::new(TOPIC, "state", Status::Warning, text)
                .fix("sudo systemctl daemon-reload && sudo systemctl restart attendant")
        }
        "active" if restarts == 0 => Check::new(TOPIC, "state", Status::Ok, text),
        "active" => {
            let text = format!("{text}: it has ended by itself (last result {result})");
            Check::new(TOPIC, "state", Status::Warning, text).fix(log)
        }
        "failed" => {
            let text = format!("{text}; failed: {result}, exit {}", value("ExecMainStatus"));
            Check::new(TOPIC, "state", Status::Error, text).fix(format!("{log}, then sudo systemctl restart attendant"))
        }
        "activating" if restarts > 0 => {
            Check::new(TOPIC, "state", Status::Error, format!("{text}: it ends again and again")).fix(log)
        }
        "activating" | "reloading" => {
            Check::new(TOPIC, "state", Status::Warning, text).fix("look again in some seconds")
        }
        _ => Check::new(TOPIC, "state", Status::Warning, text).fix("sudo systemctl start attendant"),
    }
}

/// For a bundle that is not named: the settings' own.
pub fn bundle(known: &Known) -> Option<&Path> {
    known.runtime()?.bundle.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_is_judged() {
        let said = |active: &str, restarts: u32, more: &str| {
            format!("ActiveState={active}\nSubState=x\nNRestarts={restarts}\nResult=watchdog\nMainPID=7\n{more}")
        };
        for (case, text, expected, piece) in [
            ("running", said("active", 0, ""), Status::Ok, "process 7"),
            ("restarted", said("active", 3, ""), Status::Warning, "3 times"),
            ("failed", said("failed", 0, "ExecMainStatus=3"), Status::Error, "watchdog, exit 3"),
            ("in a loop", said("activating", 9, ""), Status::Error, "again and again"),
            ("starting", said("activating", 0, ""), Status::Warning, "activating"),
            ("stopped", said("inactive", 0, ""), Status::Warning, "inactive"),
            ("edited", said("active", 0, "NeedDaemonReload=yes"), Status::Warning, "changed on disk"),
            ("silent", String::new(), Status::Unknown, "no ActiveState"),
        ] {
            let check = judge(&text);
            assert!(check.status == expected && check.text.contains(piece), "{case}: {check:?}");
        }
    }

    #[test]
    fn a_drop_in_goes_before_its_unit() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "usr/lib/systemd/system/attendant.service",
            "# x\n[Service]\nUser=attendant\nWatchdogSec=15\nExecStart=/bin/a run\n",
        );
        write("usr/lib/systemd/system/attendant.service.d/10.conf", "[Service]\nUser=a\n");
        write("etc/systemd/system/attendant.service.d/20.conf", "[Service]\nUser = kiosk\nWatchdogSec=\n");
        let unit = Unit::find(&Root::new(dir.path()).unwrap()).unwrap();
        assert_eq!(unit.value("User").as_deref(), Some("kiosk"));
        assert_eq!(unit.value("ExecStart").as_deref(), Some("/bin/a run"));
        assert_eq!((unit.value("WatchdogSec"), unit.drop_ins.len()), (None, 2));
    }
}
