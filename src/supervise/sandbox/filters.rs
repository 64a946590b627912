//! From the table of system calls to the kernel's filters (seccomp-bpf), for what a run needs.
//!
//! Three filters, of which the strictest answer counts: `clone3` does not exist (its flags are in memory, where no filter can look; libc
//! then takes `clone`, whose flags are in a register); what is refused and counted; and the list of what is allowed.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp as Op, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::calls::{ALLOWED, Call, Purpose, REFUSED};
use super::{Needs, SandboxError};

/// Rules of a filter, by number; an empty list means whatever the arguments.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Flags of `clone` that make namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Socket types without their flags.
const TYPE_MASK: u64 = 0xf;

/// What `prctl` is for: names of threads, and of memory by the allocator.
const PRCTLS: [u64; 3] = [libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, 0x5356_4d41];

/// Types text, or does other things in the name of a person, at a terminal.
const TERMINAL_IOCTLS: [u64; 2] = [0x5412, 0x541c];

/// In the order in which they are to be installed: after the last one no more can be.
pub(super) fn build(needs: &Needs) -> Result<[BpfProgram; 3], SandboxError> {
    let absent = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    let refused = if needs.programs {
        // a program's handler of SIGSYS would not be ours: it would be killed where it only probes
        SeccompAction::Errno(libc::EPERM as u32)
    } else {
        SeccompAction::Trap
    };
    Ok([
        compile(absent, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?,
        compile(refusals(needs)?, SeccompAction::Allow, refused)?,
        compile(allowances(needs)?, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?,
    ])
}

fn compile(rules: Rules, otherwise: SeccompAction, on_match: SeccompAction) -> Result<BpfProgram, SandboxError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(failed)?;
    SeccompFilter::new(rules, otherwise, on_match, arch).and_then(BpfProgram::try_from).map_err(failed)
}

fn failed(error: seccompiler::BackendError) -> SandboxError {
    SandboxError::Filter(error.to_string())
}

/// Argument `index`, of which the lower 32 bits count: the kernel takes these as `int`.
fn int(index: u8, op: Op, value: u64) -> Result<SeccompCondition, SandboxError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value).map_err(failed)
}

fn long(index: u8, op: Op, value: u64) -> Result<SeccompCondition, SandboxError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, op, value).map_err(failed)
}

fn all(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, SandboxError> {
    SeccompRule::new(conditions).map_err(failed)
}

/// A socket of `family`, of `kind` if it matters.
fn socket(family: i32, kind: Option<i32>) -> Result<SeccompRule, SandboxError> {
    let mut conditions = vec![int(0, Op::Eq, family as u64)?];
    if let Some(kind) = kind {
        conditions.push(int(1, Op::MaskedEq(TYPE_MASK), kind as u64)?);
    }
    all(conditions)
}

/// Families and types of sockets that `needs` allow; every type of a family where there is none.
fn sockets(needs: &Needs) -> Vec<(i32, Option<i32>)> {
    let mut sockets = vec![(libc::AF_UNIX, None)];
    if !needs.listen.is_empty() || !needs.connect.is_empty() {
        sockets.extend([(libc::AF_INET, Some(libc::SOCK_STREAM)), (libc::AF_INET6, Some(libc::SOCK_STREAM))]);
    }
    if needs.names {
        sockets.extend([(libc::AF_INET, Some(libc::SOCK_DGRAM)), (libc::AF_INET6, Some(libc::SOCK_DGRAM))]);
    }
    if needs.names || needs.programs {
        sockets.push((libc::AF_NETLINK, None));
    }
    sockets
}

fn allowances(needs: &Needs) -> Result<Rules, SandboxError> {
    let is_needed = |purpose| match purpose {
        Purpose::Run => true,
        Purpose::Sound => needs.sound,
        Purpose::Listen => !needs.listen.is_empty(),
        Purpose::Connect => !needs.connect.is_empty(),
        Purpose::Programs => needs.programs,
    };
    let calls = ALLOWED.iter().filter(|row| is_needed(row.purpose)).flat_map(|row| row.calls);
    let mut rules: Rules = calls.map(|call| (call.number, vec![])).collect();
    let sockets: Result<Vec<_>, _> = sockets(needs).iter().map(|(family, kind)| socket(*family, *kind)).collect();
    rules.insert(libc::SYS_socket, sockets?);
    // of two filters that refuse, the answer of the one that was installed last counts: this one leaves it to the first
    rules.insert(libc::SYS_clone3, vec![]);
    rules.insert(libc::SYS_socketpair, vec![socket(libc::AF_UNIX, None)?]);
    if needs.programs {
        rules.insert(libc::SYS_clone, vec![all(vec![long(0, Op::MaskedEq(NAMESPACES), 0)?])?]);
    } else {
        let thread = libc::CLONE_THREAD as u64;
        rules.insert(libc::SYS_clone, vec![all(vec![long(0, Op::MaskedEq(NAMESPACES | thread), thread)?])?]);
        let prctls: Result<Vec<_>, _> = PRCTLS.iter().map(|what| all(vec![int(0, Op::Eq, *what)?])).collect();
        rules.insert(libc::SYS_prctl, prctls?);
        rules.insert(libc::SYS_prlimit64, vec![all(vec![long(2, Op::Eq, 0)?])?]);
    }
    Ok(rules)
}

fn refusals(needs: &Needs) -> Result<Rules, SandboxError> {
    const PROGRAMS_DO: [i64; 4] = [libc::SYS_execve, libc::SYS_execveat, libc::SYS_mmap, libc::SYS_mprotect];
    let is_refused = |call: &&Call| !needs.programs || !PROGRAMS_DO.contains(&call.number);
    let mut rules: Rules = REFUSED.iter().filter(is_refused).map(|call| (call.number, vec![])).collect();
    // the families that have no socket, then types that a family has not
    let allowed = sockets(needs);
    let other: Result<Vec<_>, _> = allowed.iter().map(|(family, _)| int(0, Op::Ne, *family as u64)).collect();
    let mut sockets = vec![all(other?)?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        let kinds: Vec<i32> = allowed.iter().filter(|(f, _)| *f == family).filter_map(|(_, kind)| *kind).collect();
        // a family without any kind is in the rule above
        let others = (0..=TYPE_MASK as i32).filter(|kind| !kinds.is_empty() && !kinds.contains(kind));
        for kind in others {
            sockets.push(socket(family, Some(kind))?);
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    let ioctls: Result<Vec<_>, _> = TERMINAL_IOCTLS.iter().map(|what| all(vec![int(1, Op::Eq, *what)?])).collect();
    rules.insert(libc::SYS_ioctl, ioctls?);
    let mut namespaces = Vec::new();
    for flag in (0..u64::BITS).map(|bit| 1_u64 << bit).filter(|flag| NAMESPACES & flag != 0) {
        namespaces.push(all(vec![long(0, Op::MaskedEq(flag), flag)?])?);
    }
    if !needs.programs {
        let both = (libc::PROT_WRITE | libc::PROT_EXEC) as u64;
        for number in [libc::SYS_mmap, libc::SYS_mprotect] {
            rules.insert(number, vec![all(vec![int(2, Op::MaskedEq(both), both)?])?]);
        }
    }
    // a process of its own is refused by the other filter: libc blocks all signals around it, so that this one's would kill
    rules.insert(libc::SYS_clone, namespaces);
    Ok(rules)
}
