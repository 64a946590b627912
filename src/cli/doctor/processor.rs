//! The board, its processor's vector extensions and the kernels that use them, and memory.

use attendant::board::BOARD;

use super::root::Root;
use super::{Check, Known, Status};

const TOPIC: &str = "processor";

/// What this program was built for, and what it runs on.
pub fn board(known: &Known) -> Vec<Check> {
    let built = format!("built for {}: {}", BOARD.name, BOARD.description);
    let text = match known.root.text("/proc/device-tree/model") {
        Some(model) => format!("{built}; this is a {model}"),
        None => built,
    };
    let mut checks = vec![Check::new(TOPIC, "board", Status::Ok, text)];
    if !known.root.is_live() {
        let text = "processor, bundle and headroom are of this machine, everything else is of the copy below --root";
        checks.push(Check::new(TOPIC, "copy", Status::Unknown, text));
    }
    checks
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

/// Cores, extensions, and the tier of the int8 kernels; frequency governor where the kernel has one.
pub fn check(known: &Known) -> Check {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tier = match attendant::infer::kernel_tier() {
        Ok(tier) => tier,
        Err(e) => {
            return Check::new(TOPIC, "cpu", Status::Error, e.to_string())
                .fix("unset ATTENDANT_CPU, or name one of these");
        }
    };
    let governor = known.root.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let governor_text = governor.as_ref().map_or(String::new(), |g| format!(", governor {g}"));
    let text = format!("{}, {cores} cores, int8 kernels {tier}{governor_text}", cpu());
    if cores < BOARD.cpu.inference_threads {
        let wanted = BOARD.cpu.inference_threads;
        let text = format!("{text}; the board file plans {wanted} inference threads");
        return Check::new(TOPIC, "cpu", Status::Warning, text).fix("build for the board that this is: BOARD=NAME");
    }
    if governor.as_deref() == Some("powersave") && known.root.text(DRIVER).is_none_or(|d| d != "intel_pstate") {
        let text = format!("{text}: the lowest frequency always");
        let fix = "echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor";
        return Check::new(TOPIC, "cpu", Status::Warning, text).fix(fix);
    }
    Check::new(TOPIC, "cpu", Status::Ok, text)
}

/// Its `powersave` is no fixed frequency.
const DRIVER: &str = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver";

/// A field of a `/proc` file in `key: value kB` form.
fn proc_kb(root: &Root, path: &str, key: &str) -> Option<u64> {
    let text = root.text(path)?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Most memory this process has had resident, kB.
pub fn peak_memory_kb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// What a run takes against the board's budget, and what the machine has left.
pub fn memory(known: &Known) -> Check {
    let budget_mb = u64::from(BOARD.memory.budget_mb);
    let Some(free_mb) = proc_kb(&known.root, "/proc/meminfo", "MemAvailable").map(|kb| kb / 1000) else {
        return Check::new(TOPIC, "memory", Status::Unknown, "there is no /proc/meminfo to read it from");
    };
    let peak_mb = peak_memory_kb().filter(|_| known.root.is_live()).map(|kb| kb / 1000);
    let peak = peak_mb.map_or(String::new(), |mb| format!("this process {mb} MB with the bundle loaded, "));
    let text = format!("{peak}budget {budget_mb} MB, {free_mb} MB available");
    if peak_mb.is_some_and(|mb| mb > budget_mb) {
        let fix = "a smaller bundle, or a larger memory.budget_mb of the board";
        return Check::new(TOPIC, "memory", Status::Error, text).fix(fix);
    }
    if free_mb < budget_mb {
        return Check::new(TOPIC, "memory", Status::Warning, text)
            .fix("end other programs: ps --sort -rss -eo rss,comm | head");
    }
    Check::new(TOPIC, "memory", Status::Ok, text)
}
