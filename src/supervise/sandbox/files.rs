//! The paths that a run may use (Landlock), from what it needs.
//!
//! A rule holds a directory or a file as it is at this moment: what is made below a directory later is covered, a file that takes the
//! place of another is not. That is why whatever may be replaced is allowed by its directory.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use log::debug;

use self::rights::{DEVICE, LOOK, PROGRAM, READ, WRITE};
use super::{Needs, SandboxError};

/// The newest interface whose rights are asked for; an older kernel gives those that it has.
const NEWEST: ABI = ABI::V6;

mod rights {
    //! Sets of rights, by what is done with a path.
    use landlock::{AccessFs, BitFlags, make_bitflags};

    /// Reading files and directories.
    pub const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    /// Names in directories, no content.
    pub const LOOK: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadDir});
    /// Making, changing and removing files.
    pub const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate | MakeReg | RemoveFile | MakeDir | RemoveDir});
    /// Talking to a device.
    pub const DEVICE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | IoctlDev});
    /// Running programs.
    pub const PROGRAM: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});
}

/// What every run looks at: its own memory figures, the board's temperature, which devices there are.
const EVERY_RUN: [(&str, BitFlags<AccessFs>); 6] = [
    ("/proc/self", READ),
    ("/sys/class/thermal", READ),
    ("/sys/devices/virtual/thermal", READ),
    ("/dev", LOOK),
    ("/dev/null", DEVICE),
    ("/dev/urandom", READ),
];

/// What programs need that the configuration names: the system's programs and libraries, devices, sockets, a place for their files.
const PROGRAMS: [(&str, BitFlags<AccessFs>); 14] = [
    ("/usr", PROGRAM),
    ("/bin", PROGRAM),
    ("/sbin", PROGRAM),
    ("/lib", PROGRAM),
    ("/lib64", PROGRAM),
    ("/opt", PROGRAM),
    ("/etc", READ),
    ("/proc", READ),
    ("/sys", READ),
    ("/run", WRITE),
    ("/dev", DEVICE),
    ("/dev/shm", WRITE),
    ("/tmp", WRITE),
    ("/var/cache", READ),
];

/// What ALSA reads.
const SOUND: [(&str, BitFlags<AccessFs>); 7] = [
    ("/proc/asound", READ),
    ("/usr/share/alsa", READ),
    ("/usr/lib", READ),
    ("/etc/alsa", READ),
    ("/etc/asound.conf", READ),
    ("/run/user", READ),
    ("/dev/snd", DEVICE),
];

/// Where libc looks up names.
const NAMES: [(&str, BitFlags<AccessFs>); 5] = [
    ("/etc", READ),
    ("/run/systemd/resolve", READ),
    ("/run/resolvconf", READ),
    ("/run/NetworkManager", READ),
    ("/usr/lib", READ),
];

/// Ports of a name's servers, beside those of the configuration.
const DOMAIN: u16 = 53;

/// Restricts this thread, and all that it starts, to the paths and ports of `needs`. The interface's version, or none where the kernel has
/// no Landlock.
pub(super) fn restrict(needs: &Needs) -> Result<Option<u32>, SandboxError> {
    let failed = |e: landlock::RulesetError| SandboxError::Files(e.to_string());
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|r| r.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|r| r.scope(scopes(needs)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    let fixed = [(true, &EVERY_RUN[..]), (needs.programs, &PROGRAMS), (needs.sound, &SOUND), (needs.names, &NAMES)];
    for (path, rights) in fixed.iter().filter(|(is_needed, _)| *is_needed).flat_map(|(_, rules)| *rules) {
        ruleset = allow(ruleset, Path::new(path), *rights)?;
    }
    let configured = [(READ, &needs.read), (WRITE, &needs.write), (DEVICE, &needs.devices), (PROGRAM, &needs.program)];
    for (rights, path) in configured.iter().flat_map(|(rights, paths)| paths.iter().map(move |p| (*rights, p))) {
        ruleset = allow(ruleset, path, rights)?;
    }
    for port in &needs.listen {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp)).map_err(failed)?;
    }
    for port in needs.connect.iter().copied().chain(needs.names.then_some(DOMAIN)) {
        ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::ConnectTcp)).map_err(failed)?;
    }
    let status = ruleset.restrict_self().map_err(failed)?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => None,
        (_, landlock::LandlockStatus::Available { effective_abi, kernel_abi }) => {
            Some(kernel_abi.unwrap_or(effective_abi as i32).unsigned_abs())
        }
        _ => None,
    })
}

/// Signals stay inside. So do connections to sockets without a path, unless systemd or a sound server has one.
fn scopes(needs: &Needs) -> BitFlags<Scope> {
    let manager = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    if needs.programs || needs.sound || manager.as_encoded_bytes().starts_with(b"@") {
        return Scope::Signal.into();
    }
    Scope::from_all(NEWEST)
}

/// What is not there is not allowed: it may be a device of another board.
fn allow(ruleset: RulesetCreated, path: &Path, rights: BitFlags<AccessFs>) -> Result<RulesetCreated, SandboxError> {
    let failed = |e: landlock::RulesetError| SandboxError::Files(format!("{}: {e}", path.display()));
    let fd = match PathFd::new(path) {
        Ok(fd) => fd,
        Err(error) => {
            debug!("sandbox: {} is left out: {error}", path.display());
            return Ok(ruleset);
        }
    };
    let rights = if path.is_dir() { rights } else { rights & AccessFs::from_file(NEWEST) };
    ruleset.add_rule(PathBeneath::new(fd, rights)).map_err(failed)
}
