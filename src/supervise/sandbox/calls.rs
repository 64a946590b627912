//! The system calls that a run may make, in a table per purpose, and those that are refused and counted. Published in docs/sandbox.md.
//!
//! Called by the sandbox, which makes filters of them, and by a test, which compares them with the page. Nothing here talks to the kernel.

use std::fmt::Write as _;

/// One system call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// As libc calls its number: `SYS_read`.
    sys: &'static str,
    /// The kernel's number of it on this architecture.
    pub number: i64,
}

impl Call {
    /// As its manual page calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.sys.strip_prefix("SYS_").unwrap_or(self.sys)
    }
}

macro_rules! calls {
    ($($sys:ident)*) => { &[$(Call { sys: stringify!($sys), number: libc::$sys }),*] };
}

/// The same calls under the names that only x86-64 has; empty elsewhere.
macro_rules! calls_of_x86_64 {
    ($($sys:ident)*) => {{
        #[cfg(target_arch = "x86_64")]
        const CALLS: &[Call] = calls![$($sys)*];
        #[cfg(not(target_arch = "x86_64"))]
        const CALLS: &[Call] = &[];
        CALLS
    }};
}

/// What calls are needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Memory, time, files, threads, and sockets to programs of this machine: every run.
    Run,
    /// ALSA's plug-ins share memory between programs.
    Sound,
    /// The page: accepts connections.
    Listen,
    /// The broker: connects, and looks up its name.
    Connect,
    /// Programs that the configuration names: a camera's, the voice's. They inherit the filter.
    Programs,
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// What for.
    pub purpose: Purpose,
    /// In words, for the page.
    pub what: &'static str,
    /// Which.
    pub calls: &'static [Call],
}

const fn row(purpose: Purpose, what: &'static str, calls: &'static [Call]) -> Row {
    Row { purpose, what, calls }
}

/// What rename(3) makes of itself; libc's crate has no name for it on every architecture.
#[cfg(target_arch = "x86_64")]
const RENAMEAT: Call = Call { sys: "SYS_renameat", number: libc::SYS_renameat };
#[cfg(not(target_arch = "x86_64"))]
const RENAMEAT: Call = Call { sys: "SYS_renameat", number: 38 };

/// What is allowed, by purpose. `socket`, `socketpair`, `clone`, `prctl` and `prlimit64` have conditions, see `filters`.
pub const ALLOWED: &[Row] = &[
    row(
        Purpose::Run,
        "always: read, write, wait",
        calls![SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_lseek SYS_close SYS_close_range
            SYS_dup SYS_dup3 SYS_pipe2 SYS_fcntl SYS_ioctl SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait
            SYS_epoll_pwait2 SYS_eventfd2],
    ),
    row(
        Purpose::Run,
        "always: files, as far as the paths allow",
        calls![SYS_openat SYS_openat2 SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_getdents64 SYS_readlinkat SYS_faccessat
            SYS_faccessat2 SYS_getcwd SYS_mkdirat SYS_unlinkat SYS_renameat2 SYS_ftruncate SYS_fallocate SYS_fsync
            SYS_fdatasync SYS_flock SYS_fadvise64 SYS_copy_file_range SYS_sendfile],
    ),
    row(Purpose::Run, "always: renaming", &[RENAMEAT]),
    row(
        Purpose::Run,
        "always: memory, threads, time, the process itself",
        calls![SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_brk SYS_membarrier SYS_futex SYS_set_robust_list
            SYS_get_robust_list SYS_rseq SYS_set_tid_address SYS_clone SYS_exit SYS_exit_group SYS_restart_syscall SYS_rt_sigaction
            SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sigaltstack SYS_tgkill SYS_sched_yield SYS_sched_getaffinity SYS_getcpu
            SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_getrandom SYS_getpid
            SYS_gettid SYS_getppid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_uname SYS_sysinfo SYS_getrusage
            SYS_prlimit64 SYS_prctl],
    ),
    row(
        Purpose::Run,
        "always: sockets of this machine (systemd, sound servers)",
        calls![SYS_socket SYS_socketpair SYS_connect SYS_sendto SYS_sendmsg SYS_recvfrom SYS_recvmsg SYS_getsockname SYS_getpeername
            SYS_setsockopt SYS_getsockopt SYS_shutdown],
    ),
    row(
        Purpose::Run,
        "always, on x86-64: older names of the above",
        calls_of_x86_64![SYS_open SYS_stat SYS_lstat SYS_access SYS_readlink SYS_mkdir SYS_rmdir SYS_unlink SYS_rename SYS_poll SYS_select
            SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_pipe SYS_dup2 SYS_getrlimit SYS_time SYS_arch_prctl],
    ),
    row(
        Purpose::Sound,
        "a microphone: ALSA's plug-ins",
        calls![SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semtimedop SYS_semctl SYS_memfd_create SYS_timerfd_create
            SYS_timerfd_settime SYS_timerfd_gettime SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch],
    ),
    row(Purpose::Listen, "[web]: TCP sockets that accept", calls![SYS_bind SYS_listen SYS_accept4 SYS_accept]),
    row(
        Purpose::Connect,
        "[mqtt]: TCP sockets; UDP and netlink to look up a name",
        calls![SYS_bind SYS_sendmmsg SYS_recvmmsg],
    ),
    row(
        Purpose::Programs,
        "a camera's program or [speech]: to start it, and what programs commonly do",
        calls![SYS_execve SYS_execveat SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_pidfd_open SYS_pidfd_send_signal SYS_setpgid SYS_getpgid
            SYS_setsid SYS_getsid SYS_chdir SYS_fchdir SYS_umask SYS_getgroups SYS_getresuid SYS_getresgid SYS_capget SYS_setitimer
            SYS_getitimer SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_times
            SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_signalfd4 SYS_rt_sigtimedwait SYS_rt_sigpending
            SYS_rt_sigsuspend SYS_rt_sigqueueinfo SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch SYS_memfd_create
            SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semtimedop SYS_semctl SYS_mlock SYS_mlock2 SYS_munlock
            SYS_msync SYS_mincore SYS_get_mempolicy SYS_splice SYS_tee SYS_vmsplice SYS_truncate SYS_linkat SYS_symlinkat SYS_fchmod
            SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat SYS_readahead SYS_sync SYS_syncfs SYS_getxattr SYS_lgetxattr
            SYS_fgetxattr SYS_listxattr SYS_getpriority SYS_setpriority SYS_ioprio_get SYS_ioprio_set
            SYS_sched_getparam SYS_sched_setparam SYS_sched_getscheduler SYS_sched_setscheduler SYS_sched_get_priority_max
            SYS_sched_get_priority_min SYS_sched_setaffinity SYS_sched_getattr SYS_sched_setattr SYS_bind SYS_listen SYS_accept
            SYS_accept4 SYS_sendmmsg SYS_recvmmsg SYS_personality],
    ),
    row(
        Purpose::Programs,
        "the same, on x86-64: older names",
        calls_of_x86_64![SYS_fork SYS_vfork SYS_setrlimit SYS_alarm SYS_pause SYS_getpgrp SYS_rmdir SYS_link SYS_symlink SYS_chmod SYS_chown
            SYS_creat SYS_utime SYS_utimes SYS_futimesat SYS_inotify_init SYS_signalfd SYS_getdents],
    ),
];

/// What is refused with `EPERM` and counted, because no library of this program tries it: somebody else does. Everything else that is not
/// allowed is refused with `EPERM` too, uncounted.
///
/// `socket` is here for every family but those that are configured, `ioctl` for typing into a terminal, `clone` for namespaces, `mmap` and
/// `mprotect` for memory that can be both written and executed. `execve` and those three are not where programs are configured.
pub const REFUSED: &[Call] = calls![
    SYS_socket SYS_ioctl SYS_execve SYS_execveat SYS_clone SYS_mmap SYS_mprotect SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev
    SYS_pidfd_getfd SYS_kcmp SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsmount
    SYS_mount_setattr SYS_unshare SYS_setns SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_init_module SYS_finit_module SYS_delete_module
    SYS_kexec_load SYS_kexec_file_load SYS_reboot SYS_swapon SYS_swapoff SYS_acct SYS_quotactl SYS_syslog SYS_sethostname
    SYS_setdomainname SYS_settimeofday SYS_clock_settime SYS_clock_adjtime SYS_adjtimex SYS_io_uring_setup SYS_io_uring_enter
    SYS_io_uring_register SYS_add_key SYS_request_key SYS_keyctl SYS_open_by_handle_at SYS_name_to_handle_at SYS_mknodat SYS_setuid
    SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setgroups SYS_setfsuid SYS_setfsgid SYS_capset
];

/// The tables as they stand in docs/sandbox.md.
#[must_use]
pub fn table() -> String {
    let list = |calls: &[Call]| calls.iter().map(|c| format!("`{}`", c.name())).collect::<Vec<_>>().join(" ");
    let mut text = String::from("| when | allowed |\n|---|---|\n");
    for row in ALLOWED {
        _ = writeln!(text, "| {} | {} |", row.what, list(row.calls));
    }
    _ = write!(text, "\n| refused and counted |\n|---|\n| {} |\n", list(REFUSED));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls with conditions stand in both tables.
    const CONDITIONAL: &[&str] = &["socket", "ioctl", "clone", "mmap", "mprotect", "execve", "execveat"];

    #[test]
    fn nothing_is_both_allowed_and_refused_without_a_condition() {
        let allowed: Vec<&str> = ALLOWED.iter().flat_map(|r| r.calls).map(Call::name).collect();
        for call in REFUSED.iter().filter(|c| !CONDITIONAL.contains(&c.name())) {
            assert!(!allowed.contains(&call.name()), "{} is in both tables", call.name());
        }
    }

    #[test]
    fn no_row_names_a_call_twice() {
        for calls in ALLOWED.iter().map(|r| r.calls).chain([REFUSED]) {
            for (i, call) in calls.iter().enumerate() {
                assert!(calls[..i].iter().all(|c| c.number != call.number), "{} twice in a row", call.name());
            }
        }
    }

    /// The page's middle is what `ATTENDANT_UPDATE_SNAPSHOTS=1 cargo test sandbox` writes there, on x86-64.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_page_lists_the_calls_of_the_code() {
        const MARKS: [&str; 2] = ["<!-- calls -->\n", "<!-- /calls -->\n"];
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sandbox.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (head, rest) = page.split_once(MARKS[0]).expect("the first mark");
        let (listed, tail) = rest.split_once(MARKS[1]).expect("the second mark");
        if std::env::var_os("ATTENDANT_UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(path, format!("{head}{}{}{}{tail}", MARKS[0], table(), MARKS[1])).unwrap();
            return;
        }
        assert_eq!(listed, table(), "docs/sandbox.md differs from calls.rs; ATTENDANT_UPDATE_SNAPSHOTS=1 renews it");
    }
}
