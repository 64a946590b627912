//! The monotonic clock that events and fusion live by, and whether the calendar is right.
//!
//! Events carry monotonic time, so that a wrong calendar harms only what has one: the journal's dates and the certificates of a broker.

use attendant::time::NanoTimer;

use super::root::Root;
use super::{Check, Known, Status};

const TOPIC: &str = "clock";

/// Looks at the monotonic clock; each looks at the last one.
const LOOKS: usize = 2000;

/// Coarsest step that times of capture can have.
const STEP_NS_MAX: u64 = 100_000;

/// Clock sources that the kernel falls back to, and that are slow to read or drift.
const POOR: &[&str] = &["jiffies", "refined-jiffies", "acpi_pm"];

/// Programs that set the clock by the network.
const DAEMONS: &[&str] = &["systemd-timesyn", "chronyd", "ntpd", "openntpd"];

/// Both clocks.
pub fn check(known: &Known) -> Vec<Check> {
    vec![monotonic(&known.root), calendar(&known.root)]
}

fn monotonic(root: &Root) -> Check {
    let source = root.text("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let is_poor = source.as_deref().is_some_and(|s| POOR.contains(&s));
    let source = source.unwrap_or_else(|| "unknown".to_owned());
    let steps = root.is_live().then(finest_step_ns);
    let text = match steps {
        Some(Some(ns)) => format!("source {source}, finest step seen {ns} ns, never back in {LOOKS} looks"),
        Some(None) => format!("source {source}; it stood still or ran back in {LOOKS} looks"),
        None => format!("source {source}; its steps are not looked at in a copy"),
    };
    match steps {
        Some(None) => {
            Check::new(TOPIC, "monotonic", Status::Error, text).fix("another clock source, or another kernel")
        }
        Some(Some(ns)) if ns > STEP_NS_MAX => coarse(&text),
        _ if is_poor => coarse(&text),
        None => Check::new(TOPIC, "monotonic", Status::Unknown, text),
        Some(Some(_)) => Check::new(TOPIC, "monotonic", Status::Ok, text),
    }
}

fn coarse(text: &str) -> Check {
    Check::new(TOPIC, "monotonic", Status::Warning, format!("{text}: coarse or slow"))
        .fix("the boot option clocksource= with another of /sys/devices/system/clocksource/clocksource0/available_clocksource")
}

/// None if time stood still over all looks, or ran backwards.
fn finest_step_ns() -> Option<u64> {
    let timer = NanoTimer::start();
    let (mut last, mut finest) = (0, None);
    for _ in 0..LOOKS {
        let at = timer.elapsed_ns();
        let step = at.checked_sub(last)?;
        if step > 0 {
            finest = Some(finest.map_or(step, |f: u64| f.min(step)));
        }
        last = at;
    }
    finest
}

fn calendar(root: &Root) -> Check {
    let running = daemon(root);
    let by = running.as_ref().map_or(String::new(), |d| format!(" by {d}"));
    // systemd-timesyncd touches the file whenever it has set the clock (systemd-timesyncd.service(8))
    if root.has("/run/systemd/timesync/synchronized") {
        return Check::new(TOPIC, "calendar", Status::Ok, format!("synchronised{by}"));
    }
    let fix = "sudo timedatectl set-ntp true; without a network the date has to be set by hand or by a real-time clock";
    // the kernel's own word, whichever daemon sets the clock
    let told = root.ask("timedatectl", &["show", "--property=NTPSynchronized", "--value"]);
    match told.as_deref().map(|t| t.trim_start_matches("NTPSynchronized=")) {
        Ok("yes") => Check::new(TOPIC, "calendar", Status::Ok, format!("synchronised{by}")),
        Ok("no") => {
            let why = running.map_or("no program sets it".to_owned(), |d| format!("{d} runs and has not set it"));
            Check::new(TOPIC, "calendar", Status::Warning, format!("not synchronised: {why}")).fix(fix)
        }
        told => {
            let why = match told {
                Ok(other) => format!("timedatectl says {other:?}"),
                Err(_) => told.err().cloned().unwrap_or_default(),
            };
            match running.as_deref() {
                Some("systemd-timesyncd") => {
                    let text = "not synchronised: systemd-timesyncd runs and has not set it";
                    Check::new(TOPIC, "calendar", Status::Warning, text).fix(fix)
                }
                Some(daemon) => {
                    let text = format!("{daemon} runs; whether it has set the clock is not known: {why}");
                    Check::new(TOPIC, "calendar", Status::Unknown, text).fix("chronyc tracking, or ntpq -p")
                }
                None => {
                    let text = format!("whether anything sets it is not known: {why}");
                    Check::new(TOPIC, "calendar", Status::Unknown, text)
                }
            }
        }
    }
}

/// The program that sets the clock, if one runs.
fn daemon(root: &Root) -> Option<String> {
    let pids = root.names("/proc", "").into_iter().filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let names = pids.filter_map(|pid| root.text(format!("/proc/{pid}/comm")));
    let found = names.into_iter().find(|comm| DAEMONS.contains(&comm.as_str()))?;
    // the kernel cuts names after 15 characters
    Some(if found == DAEMONS[0] { "systemd-timesyncd".to_owned() } else { found })
}
