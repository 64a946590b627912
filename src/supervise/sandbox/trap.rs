//! Counts what the filter refuses: the kernel sends `SIGSYS` instead of carrying out the call, and the handler counts it and lets the call
//! fail with `EPERM`.
//!
//! The one place that changes a signal's context, which needs the registers of the architecture. The handler touches atomics and nothing
//! else, so that it may interrupt anything.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

use super::calls::REFUSED;

/// How often each call of [`REFUSED`] was tried; the last one is of calls that are not in it.
static TRIED: [AtomicU64; REFUSED.len() + 1] = [const { AtomicU64::new(0) }; REFUSED.len() + 1];

/// Registers the handler.
///
/// # Errors
/// Those of `sigaction(2)`.
pub(super) fn install() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_refused;
    // SAFETY: all zeros is a valid sigaction; the handler has the signature that SA_SIGINFO promises, and stays for ever
    let result = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SIGSYS` as SECCOMP_RET_TRAP sends it: the registers are those from before the call (seccomp(2)).
extern "C" fn on_refused(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes the context of the interrupted thread, which nobody else touches until this returns
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let refused = -i64::from(libc::EPERM);
    #[cfg(target_arch = "x86_64")]
    let number = mem::replace(&mut context.uc_mcontext.gregs[libc::REG_RAX as usize], refused);
    #[cfg(target_arch = "aarch64")]
    let number = {
        context.uc_mcontext.regs[0] = refused as u64;
        context.uc_mcontext.regs[8] as i64
    };
    let row = REFUSED.iter().position(|call| call.number == number).unwrap_or(REFUSED.len());
    TRIED[row].fetch_add(1, Ordering::Relaxed);
}

/// How often anything was refused.
pub(super) fn total() -> u64 {
    TRIED.iter().map(|n| n.load(Ordering::Relaxed)).sum()
}

/// Calls that were refused, and how often.
pub(super) fn by_call() -> impl Iterator<Item = (&'static str, u64)> {
    let names = REFUSED.iter().map(super::calls::Call::name).chain(["other"]);
    names.zip(&TRIED).map(|(name, n)| (name, n.load(Ordering::Relaxed))).filter(|(_, n)| *n > 0)
}
