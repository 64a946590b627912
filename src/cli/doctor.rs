//! `attendant doctor`: what this machine offers and lacks, and the command that mends it.
//!
//! Reads the bundle and the kernel's files. With driver features it also asks cameras and GPIO chips what they are; nothing is
//! recorded, and no line is taken.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use attendant::board::BOARD;
use attendant::bundle::Bundle;
use attendant::pipeline::{Options, Pipeline};
use attendant::time::NanoTimer;

use super::{Common, Failure, outln};

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Works, but less well.
    Warn,
    /// Has to be mended first.
    Fail,
    /// There is nothing to check on this machine.
    None,
}

#[derive(Debug, serde::Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    /// What was found, and for anything but ok the next step.
    text: String,
}

/// Runs the command.
pub fn run(common: &Common) -> Result<ExitCode, Failure> {
    let mut checks =
        vec![board(), cpu_check(), bundle(common), memory(), clock(), cameras(), microphones(), thermals()];
    checks.push(drivers());
    #[cfg(feature = "v4l")]
    checks.extend(camera_modes());
    #[cfg(feature = "alsa")]
    checks.extend(alsa_names());
    #[cfg(feature = "gpio")]
    checks.push(gpio_chips());
    if common.json {
        common.print_json(&checks)?;
    } else {
        for check in &checks {
            let mark = match check.status {
                Status::Ok => "ok  ",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
                Status::None => " -  ",
            };
            outln!("{mark}  {:<12} {}", check.name, check.text);
        }
    }
    let failed: Vec<&str> = checks.iter().filter(|c| c.status == Status::Fail).map(|c| c.name).collect();
    if failed.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::Check(format!("to be mended: {}", failed.join(", "))))
    }
}

fn check(name: &'static str, status: Status, text: impl Into<String>) -> Check {
    Check { name, status, text: text.into() }
}

fn board() -> Check {
    let built = format!("built for {}: {}", BOARD.name, BOARD.description);
    match fs::read_to_string("/proc/device-tree/model") {
        Ok(model) => check("board", Status::Ok, format!("{built}; this is a {}", model.trim_end_matches('\0'))),
        Err(_) => check("board", Status::Ok, built),
    }
}

/// Architecture and the vector extensions that kernels may use.
pub fn cpu() -> String {
    let mut found: Vec<&str> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let has = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
        ];
        found.extend(has.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let has = [
            ("neon", std::arch::is_aarch64_feature_detected!("neon")),
            ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
            ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ];
        found.extend(has.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    format!("{} {}", std::env::consts::ARCH, found.join(" ")).trim_end().to_owned()
}

fn cpu_check() -> Check {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tier = match attendant::infer::kernel_tier() {
        Ok(tier) => tier,
        Err(e) => return check("cpu", Status::Fail, e.to_string()),
    };
    let text = format!("{}, {cores} cores, int8 kernels {tier}", cpu());
    if cores < BOARD.cpu.inference_threads {
        let wanted = BOARD.cpu.inference_threads;
        return check("cpu", Status::Warn, format!("{text}; the board file plans {wanted} inference threads"));
    }
    check("cpu", Status::Ok, text)
}

fn bundle(common: &Common) -> Check {
    let timer = NanoTimer::start();
    let loaded = attendant::bundle::locate(common.bundle.as_deref())
        .and_then(|dir| Bundle::open(&dir))
        .map_err(|e| e.to_string())
        .and_then(|b| Pipeline::load(&b, &Options::default()).map(|p| (b, p)).map_err(|e| e.to_string()));
    match loaded {
        Ok((bundle, pipeline)) => {
            let names: Vec<&str> = pipeline.modalities().map(|n| &**n).collect();
            let ms = timer.elapsed_ns() as f64 / 1e6;
            let text = format!("{} in {}: {}; loads in {ms:.0} ms", bundle.id, bundle.dir.display(), names.join(", "));
            check("bundle", Status::Ok, text)
        }
        Err(error) => check("bundle", Status::Fail, error),
    }
}

/// A field of a `/proc` file in `key: value kB` form.
fn proc_kb(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Most memory this process has had resident, kB.
pub fn peak_memory_kb() -> Option<u64> {
    proc_kb("/proc/self/status", "VmHWM")
}

fn memory() -> Check {
    let (Some(peak_kb), Some(free_kb)) = (peak_memory_kb(), proc_kb("/proc/meminfo", "MemAvailable")) else {
        return check("memory", Status::None, "no /proc here to read it from");
    };
    let (budget_mb, peak_mb, free_mb) = (u64::from(BOARD.memory.budget_mb), peak_kb / 1000, free_kb / 1000);
    let text =
        format!("this process {peak_mb} MB with the bundle loaded, budget {budget_mb} MB, {free_mb} MB available");
    if peak_mb > budget_mb {
        return check(
            "memory",
            Status::Fail,
            format!("{text}; take a smaller bundle, or raise memory.budget_mb of the board"),
        );
    }
    let status = if free_mb < budget_mb { Status::Warn } else { Status::Ok };
    check("memory", status, text)
}

fn clock() -> Check {
    let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let timer = NanoTimer::start();
    let mut step_ns = 0;
    while step_ns == 0 {
        step_ns = timer.elapsed_ns();
    }
    let source = source.map_or("unknown".to_owned(), |s| s.trim().to_owned());
    let text = format!("monotonic, source {source}, finest step seen {step_ns} ns");
    let status = if step_ns > 100_000 { Status::Warn } else { Status::Ok };
    check("clock", status, text)
}

/// Entries of `dir` that start with `prefix`, sorted.
fn entries(dir: &str, prefix: &str) -> Vec<String> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        names.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with(prefix)).collect();
    names.sort_unstable();
    names
}

fn cameras() -> Check {
    let found = entries("/dev", "video");
    let by_id = entries("/dev/v4l/by-id", "");
    if found.is_empty() {
        return check("cameras", Status::None, "no /dev/video*; files and recordings can be played");
    }
    let closed: Vec<&String> = found.iter().filter(|n| !readable(&format!("/dev/{n}"))).collect();
    if !closed.is_empty() {
        let text = format!("no permission for {closed:?}; run `sudo usermod -aG video $USER` and log in again");
        return check("cameras", Status::Fail, text);
    }
    check("cameras", Status::Ok, format!("{}; by id: {}", found.join(", "), by_id.join(", ")))
}

fn microphones() -> Check {
    let cards = fs::read_to_string("/proc/asound/cards").unwrap_or_default();
    let names: Vec<&str> = cards.lines().filter(|l| l.contains("]:")).map(str::trim).collect();
    let capture: Vec<String> = entries("/dev/snd", "pcmC").into_iter().filter(|n| n.ends_with('c')).collect();
    if capture.is_empty() {
        return check("microphones", Status::None, "no capture device in /dev/snd; files and recordings can be played");
    }
    if let Some(closed) = capture.iter().find(|n| !readable(&format!("/dev/snd/{n}"))) {
        let text = format!("no permission for {closed}; run `sudo usermod -aG audio $USER` and log in again");
        return check("microphones", Status::Fail, text);
    }
    check("microphones", Status::Ok, names.join("; "))
}

/// Driver features that this program was built with, against those that the board's devices use.
fn drivers() -> Check {
    let built = [("v4l", cfg!(feature = "v4l")), ("alsa", cfg!(feature = "alsa")), ("gpio", cfg!(feature = "gpio"))];
    let has: Vec<&str> = built.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let lacks: Vec<&str> = BOARD.drivers.iter().copied().filter(|d| !has.contains(d)).collect();
    let text = if has.is_empty() { "none built in".to_owned() } else { format!("built in: {}", has.join(", ")) };
    if lacks.is_empty() {
        return check("drivers", Status::Ok, text);
    }
    let (board, all) = (BOARD.name, BOARD.drivers.join(","));
    let hint = format!("for devices: BOARD={board} cargo build --release --features {all}");
    check("drivers", Status::None, format!("{text}; {hint}"))
}

/// Every camera with its formats, or why it cannot be asked.
#[cfg(feature = "v4l")]
fn camera_modes() -> Vec<Check> {
    use attendant::capture::{CaptureError, v4l2};

    /// Modes that are listed; a webcam can have a hundred.
    const SHOWN: usize = 6;
    let say = |found: Result<v4l2::Found, CaptureError>| match found {
        Ok(v4l2::Found { node, card, modes }) => {
            let shown: Vec<String> = modes.iter().take(SHOWN).map(ToString::to_string).collect();
            let more = modes.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            check("camera", Status::Ok, format!("{} {card}: {}{more}", node.display(), shown.join(", ")))
        }
        Err(error) => check("camera", Status::Warn, error.to_string()),
    };
    v4l2::list().into_iter().map(say).collect()
}

/// Every device that records, by the name for `attendant.toml`.
#[cfg(feature = "alsa")]
fn alsa_names() -> Vec<Check> {
    let found = attendant::capture::alsa::list();
    found.iter().map(|mic| check("microphone", Status::Ok, format!("{} {}", mic.device, mic.card))).collect()
}

/// GPIO chips by label, and whether the board's lines are on one of them.
#[cfg(feature = "gpio")]
fn gpio_chips() -> Check {
    let chips = attendant::capture::buses::chips();
    let names: Vec<String> = chips.iter().map(|(label, lines)| format!("{label} ({lines} lines)")).collect();
    let is_there = |g: &&attendant::board::Gpio| chips.iter().any(|(label, lines)| label == g.label && g.line < *lines);
    let missing: Vec<&str> = BOARD.gpio.iter().filter(|g| !is_there(g)).map(|g| g.name).collect();
    if names.is_empty() {
        return check("gpio", Status::None, "no GPIO chip that can be opened");
    }
    if missing.is_empty() {
        return check("gpio", Status::Ok, names.join(", "));
    }
    let text = format!("{}; lines of the board that are on none of them: {}", names.join(", "), missing.join(", "));
    check("gpio", Status::Warn, text)
}

/// Whether the file's permission bits and owner let this process read it, found out without opening a device.
fn readable(path: &str) -> bool {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let Ok(meta) = fs::metadata(Path::new(path)) else { return false };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = |key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().filter_map(|x| x.parse().ok()).collect()
    };
    let (uids, gids, groups) = (ids("Uid:"), ids("Gid:"), ids("Groups:"));
    let mode = meta.permissions().mode();
    uids.contains(&0)
        || (uids.contains(&meta.uid()) && mode & 0o400 != 0)
        || ((gids.contains(&meta.gid()) || groups.contains(&meta.gid())) && mode & 0o040 != 0)
        || mode & 0o004 != 0
}

fn thermals() -> Check {
    let zones = entries("/sys/class/thermal", "thermal_zone");
    let celsius = |zone: &String| -> Option<f64> {
        let text = fs::read_to_string(format!("/sys/class/thermal/{zone}/temp")).ok()?;
        Some(text.trim().parse::<f64>().ok()? / 1000.0)
    };
    match zones.iter().filter_map(celsius).reduce(f64::max) {
        None => check("thermals", Status::None, "no thermal zone"),
        Some(hottest) if hottest >= 80.0 => {
            check("thermals", Status::Warn, format!("{hottest:.0} C: boards throttle from 80 C; improve the cooling"))
        }
        Some(hottest) => check("thermals", Status::Ok, format!("{hottest:.0} C")),
    }
}
