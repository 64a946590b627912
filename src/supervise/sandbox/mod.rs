//! What a run may do, enforced by the kernel: no path, no socket and no system call but those that its configuration needs.
//!
//! `run` calls [`enter`] once, after the bundle and the configuration are read and before the first thread and the first device: threads
//! and programs that are started later are inside. Paths and ports are Landlock's, system calls are seccomp's ([`calls`]). A kernel that has
//! one of them only, or neither, is said in the log, in a metric and by `doctor`; [`Mode::Require`] makes it an error.
//!
//! It holds nothing back that the configuration allows: with a broker, what the process knows can go to the broker. docs/sandbox.md says
//! what is promised and what is not.

pub mod calls;
mod files;
mod filters;
pub mod probe;
mod trap;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use log::{info, warn};
use serde::Serialize;

use crate::metrics::Registry;

/// The interface of Landlock that holds TCP ports (Linux 6.7).
const PORTS_SINCE: u32 = 4;

/// What a run needs, from its configuration. Nothing is needed by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files and directories that are read.
    pub read: Vec<PathBuf>,
    /// Files that are written, directories in which files are made and removed; these can be read too.
    pub write: Vec<PathBuf>,
    /// Nodes, or directories of them, that are read, written and controlled.
    pub devices: Vec<PathBuf>,
    /// Files and directories that are read and executed, beside those of the system.
    pub program: Vec<PathBuf>,
    /// TCP ports that are listened on.
    pub listen: Vec<u16>,
    /// TCP ports that are connected to.
    pub connect: Vec<u16>,
    /// Names are looked up.
    pub names: bool,
    /// Other programs are started; they are inside too, and have what programs commonly need.
    pub programs: bool,
    /// ALSA is used.
    pub sound: bool,
}

/// What happens when the kernel cannot enforce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The run ends with an error.
    Require,
    /// The run goes on, and says so.
    #[default]
    BestEffort,
    /// Nothing is enforced, and the run says so.
    Off,
}

/// What the kernel enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Version of Landlock's interface: from 3 on truncating is held, from 4 on TCP ports, from 5 on device controls, from 6 on signals.
    pub landlock_abi: Option<u32>,
    /// Whether system calls are filtered, in every thread.
    pub seccomp: bool,
    /// Whether attempts are counted. They are not where other programs are started, which would be ended by the counting.
    pub counted: bool,
    /// What is missing, in words.
    pub missing: Vec<String>,
}

/// Why a run cannot be held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// The rules about paths and ports.
    #[error("landlock: {0}")]
    Files(String),
    /// The filter of system calls.
    #[error("seccomp: {0}")]
    Filter(String),
    /// Called too late.
    #[error(
        "the sandbox has to be entered by the only thread; there are {0}; where an emulator has one of its own, set privacy.sandbox = \"off\""
    )]
    Threads(usize),
    /// The kernel lacks something that the configuration requires.
    #[error(
        "privacy.sandbox = \"require\": {0}; boot a kernel with Landlock and seccomp (lsm=landlock,...), or set \"best-effort\""
    )]
    Missing(String),
}

impl Status {
    /// In a line, for the log and for `doctor`.
    #[must_use]
    pub fn line(&self) -> String {
        let landlock = self.landlock_abi.map_or("no landlock".into(), |abi| format!("landlock (interface {abi})"));
        let seccomp = match (self.seccomp, self.counted) {
            (false, _) => "no seccomp",
            (true, true) => "seccomp, attempts are counted",
            (true, false) => "seccomp, attempts are not counted",
        };
        let missing = if self.missing.is_empty() { String::new() } else { format!("; {}", self.missing.join("; ")) };
        format!("{landlock}, {seccomp}{missing}")
    }

    /// Whether paths and calls are both held.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.landlock_abi.is_some() && self.seccomp
    }
}

/// Confines the process to `needs`, for good.
///
/// # Errors
/// [`SandboxError::Threads`] if there is another thread, which would stay outside; with [`Mode::Require`] whatever the kernel lacks.
pub fn enter(needs: &Needs, mode: Mode) -> Result<Status, SandboxError> {
    if mode == Mode::Off {
        warn!("sandbox: off by configuration; nothing but the service manager confines this program");
        return Ok(Status { missing: vec!["off by configuration".into()], ..Status::default() });
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(SandboxError::Threads(threads));
    }
    judge(confine_thread(needs, true), mode)
}

/// Whether a run may go on with what there is; says what there is.
fn judge(status: Status, mode: Mode) -> Result<Status, SandboxError> {
    if status.is_whole() {
        info!("sandbox: {}", status.line());
        return Ok(status);
    }
    if mode == Mode::Require {
        return Err(SandboxError::Missing(status.missing.join("; ")));
    }
    warn!("sandbox: {}", status.line());
    Ok(status)
}

/// What the kernel of this machine would enforce, found out in a thread that ends with it.
#[must_use]
pub fn support() -> Status {
    let tried = thread::Builder::new().name("sandbox".into()).spawn(|| confine_thread(&Needs::default(), false));
    let joined = tried.map_err(|e| e.to_string()).and_then(|t| t.join().map_err(|_| "its thread panicked".into()));
    joined.unwrap_or_else(|why| Status { missing: vec![why], ..Status::default() })
}

/// Confines this thread and, for `all` of them, the filter's synchronization makes sure that there is none outside.
fn confine_thread(needs: &Needs, all: bool) -> Status {
    let mut status = Status::default();
    match files::restrict(needs) {
        Ok(Some(abi)) => {
            status.landlock_abi = Some(abi);
            if abi < PORTS_SINCE && !(needs.listen.is_empty() && needs.connect.is_empty()) {
                status.missing.push(format!("landlock's interface {abi} does not hold TCP ports, {PORTS_SINCE} does"));
            }
        }
        Ok(None) => status.missing.push("this kernel has no landlock: paths are not held".into()),
        Err(error) => status.missing.push(format!("{error}: paths are not held")),
    }
    match filter(needs, all) {
        Ok(()) => (status.seccomp, status.counted) = (true, !needs.programs),
        Err(error) => status.missing.push(format!("{error}: system calls are not held")),
    }
    status
}

fn filter(needs: &Needs, all: bool) -> Result<(), SandboxError> {
    let filters = filters::build(needs)?;
    trap::install().map_err(|e| SandboxError::Filter(format!("the handler of SIGSYS: {e}")))?;
    for filter in &filters {
        let applied =
            if all { seccompiler::apply_filter_all_threads(filter) } else { seccompiler::apply_filter(filter) };
        applied.map_err(|e| SandboxError::Filter(e.to_string()))?;
    }
    Ok(())
}

/// Calls that were refused and counted, and how often each.
pub fn refused() -> impl Iterator<Item = (&'static str, u64)> {
    trap::by_call()
}

/// Tells of refused calls: in the log, in the event stream and as metrics.
#[derive(Debug)]
pub struct Watch {
    registry: Arc<Registry>,
    told: AtomicU64,
}

impl Watch {
    /// Of a run that is held as `status` says; its metrics are in `registry`.
    #[must_use]
    pub fn new(status: &Status, registry: Arc<Registry>) -> Self {
        let help = "What confines the process: the version of landlock's interface, 1 for seccomp; 0 is not enforced.";
        let gauge = |part| registry.gauge("attendant_sandbox", help, &[("part", part)]);
        gauge("landlock").set(status.landlock_abi.unwrap_or_default().into());
        gauge("seccomp").set(status.seccomp.into());
        Watch { registry, told: AtomicU64::new(0) }
    }

    /// What was refused since the last call; none if nothing was.
    pub fn news(&self) -> Option<String> {
        let total = trap::total();
        let before = self.told.swap(total, Ordering::Relaxed);
        if total == before {
            return None;
        }
        let mut calls = Vec::new();
        for (call, n) in trap::by_call() {
            let help = "System calls that were refused, because this program never makes them.";
            let counter = self.registry.counter("attendant_sandbox_refused_total", help, &[("call", call)]);
            counter.add(n.saturating_sub(counter.get()));
            calls.push(format!("{call} {n}"));
        }
        let text = format!("{} system calls were refused; since the start: {}", total - before, calls.join(", "));
        warn!("sandbox: {text}");
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_lacks_something_ends_the_run_only_where_that_is_required() {
        let missing = vec!["this kernel has no landlock: paths are not held".to_owned()];
        let half = Status { landlock_abi: None, seccomp: true, counted: true, missing };
        let whole = Status { landlock_abi: Some(6), seccomp: true, counted: true, missing: vec![] };
        assert_eq!(judge(half.clone(), Mode::BestEffort), Ok(half.clone()));
        let error = judge(half, Mode::Require).unwrap_err().to_string();
        assert!(error.starts_with("privacy.sandbox = \"require\": this kernel has no landlock"), "{error}");
        assert_eq!(judge(whole.clone(), Mode::Require), Ok(whole));
    }

    #[test]
    fn a_process_with_other_threads_is_not_confined_by_half() {
        // the test's own thread and the harness's
        assert!(matches!(enter(&Needs::default(), Mode::BestEffort), Err(SandboxError::Threads(n)) if n > 1));
    }

    #[test]
    fn a_refused_call_is_counted_and_told_once() {
        if !support().is_whole() {
            return eprintln!("skipped: this kernel cannot confine a program: {}", support().line());
        }
        let registry = Arc::new(Registry::new());
        let watch = Watch::new(&Status::default(), Arc::clone(&registry));
        let thread = thread::spawn(|| {
            // this thread only: the others have tests to run
            assert!(confine_thread(&Needs::default(), false).is_whole());
            std::net::UdpSocket::bind("127.0.0.1:0").map(drop).map_err(|e| e.raw_os_error())
        });
        assert_eq!(thread.join().unwrap(), Err(Some(libc::EPERM)));
        let news = watch.news().unwrap();
        assert!(news.starts_with("1 system calls were refused; since the start: socket 1"), "{news}");
        let mut metrics = String::new();
        registry.write_prometheus(&mut metrics).unwrap();
        assert!(metrics.contains("attendant_sandbox_refused_total{call=\"socket\"} 1"), "{metrics}");
        assert_eq!(watch.news(), None);
    }

    #[test]
    fn what_is_missing_is_said_in_the_line() {
        let status = Status { landlock_abi: Some(2), seccomp: true, counted: false, missing: vec!["ports".into()] };
        assert_eq!(status.line(), "landlock (interface 2), seccomp, attempts are not counted; ports");
    }
}
