//! Attempts to do what a run must not: made inside the sandbox by a process of its own, so that anybody can see what the kernel answers.
//!
//! Called by `attendant privacy` and by tests. No attempt leaves the machine or changes anything, even where nothing refuses it: connections go
//! to this machine, calls have arguments that the kernel turns down.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What was tried.
    pub what: String,
    /// The kernel's answer: an error's number, or none if it let it pass.
    pub errno: Option<i32>,
    /// The same in words.
    pub answer: String,
    /// Whether the answer is a refusal: no permission, as opposed to "not there" or "wrong argument".
    pub refused: bool,
    /// How many calls the sandbox has counted meanwhile.
    pub counted: u64,
}

/// Does one thing that a run must not, and says how it ended.
type Try = fn() -> io::Result<()>;

/// A call with these numbers as its arguments, none of which is a valid address.
fn call(number: libc::c_long, arguments: [usize; 3]) -> io::Result<()> {
    let [a, b, c] = arguments;
    // SAFETY: every call below is one that the kernel turns down, or that changes nothing, with these arguments; none writes to memory
    let result = unsafe { libc::syscall(number, a, b, c, 0_usize, 0_usize) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes the socket that it was given.
fn socket(family: i32, kind: i32) -> io::Result<()> {
    // SAFETY: makes a descriptor, which is closed if there is one
    unsafe {
        let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::close(fd);
    }
    Ok(())
}

fn connect(port: u16) -> io::Result<()> {
    TcpStream::connect(("127.0.0.1", port)).map(drop)
}

/// What is tried, in this order. The port is that of the discard service, which is nobody's broker.
const ATTEMPTS: &[(&str, Try)] = &[
    ("connect() to TCP 127.0.0.1:9", || connect(9)),
    ("socket(AF_INET, SOCK_STREAM)", || socket(libc::AF_INET, libc::SOCK_STREAM)),
    ("socket(AF_INET6, SOCK_STREAM)", || socket(libc::AF_INET6, libc::SOCK_STREAM)),
    ("socket(AF_INET, SOCK_DGRAM), bind", || UdpSocket::bind("127.0.0.1:0").map(drop)),
    ("socket(AF_INET, SOCK_RAW)", || socket(libc::AF_INET, libc::SOCK_RAW)),
    ("socket(AF_PACKET)", || socket(libc::AF_PACKET, libc::SOCK_RAW)),
    ("socket(AF_BLUETOOTH)", || socket(libc::AF_BLUETOOTH, libc::SOCK_STREAM)),
    ("socket(AF_VSOCK)", || socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    ("listen() on TCP 127.0.0.1", || TcpListener::bind("127.0.0.1:0").map(drop)),
    ("open /etc/shadow", || File::open("/etc/shadow").map(drop)),
    ("open /etc/passwd", || File::open("/etc/passwd").map(drop)),
    ("open /proc/1/environ", || File::open("/proc/1/environ").map(drop)),
    ("open /dev/kmsg", || File::open("/dev/kmsg").map(drop)),
    ("create a file in /tmp", || {
        let path = "/tmp/attendant-privacy-probe";
        OpenOptions::new().write(true).create_new(true).open(path)?;
        std::fs::remove_file(path)
    }),
    ("create a file in /var/tmp", || {
        let path = "/var/tmp/attendant-privacy-probe";
        OpenOptions::new().write(true).create_new(true).open(path)?;
        std::fs::remove_file(path)
    }),
    ("fork, exec /bin/true", || Command::new("/bin/true").status().map(drop)),
    ("execve of nothing", || call(libc::SYS_execve, [0; 3])),
    ("process_vm_readv of the parent", || {
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs() as usize);
        call(libc::SYS_process_vm_readv, [parent, 0, 0])
    }),
    ("signal to process 1", || match rustix::process::Pid::from_raw(1) {
        Some(pid) => rustix::process::test_kill_process(pid).map_err(io::Error::from),
        None => Ok(()),
    }),
    ("mount", || call(libc::SYS_mount, [0; 3])),
    ("bpf", || call(libc::SYS_bpf, [0; 3])),
    ("init_module", || call(libc::SYS_init_module, [0; 3])),
    ("kexec_load", || call(libc::SYS_kexec_load, [0, usize::MAX, 0])),
    ("reboot", || call(libc::SYS_reboot, [0; 3])),
    ("io_uring_setup", || call(libc::SYS_io_uring_setup, [0; 3])),
    ("perf_event_open", || call(libc::SYS_perf_event_open, [0; 3])),
    ("userfaultfd", || call(libc::SYS_userfaultfd, [usize::MAX, 0, 0])),
    ("keyctl", || call(libc::SYS_keyctl, [usize::MAX, 0, 0])),
    ("memory that is written and executed", || {
        let both = (libc::PROT_WRITE | libc::PROT_EXEC) as usize;
        call(libc::SYS_mprotect, [0, 0, both])
    }),
    ("type into the terminal (TIOCSTI)", || call(libc::SYS_ioctl, [usize::MAX >> 33, 0x5412, 0])),
    // at the end: they change what this process may do, where nothing refuses them
    ("ptrace(PTRACE_TRACEME)", || call(libc::SYS_ptrace, [0; 3])),
    ("unshare(CLONE_NEWUSER)", || call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0])),
];

/// Makes every attempt.
#[must_use]
pub fn attempts() -> Vec<Attempt> {
    let mut all = Vec::with_capacity(ATTEMPTS.len());
    for (what, attempt) in ATTEMPTS {
        let before = super::trap::total();
        let result = attempt();
        let counted = super::trap::total() - before;
        let errno = result.as_ref().err().map(|e| e.raw_os_error().unwrap_or(-1));
        let answer = result.map_or_else(|e| e.to_string(), |()| "done".into());
        let refused = matches!(errno, Some(libc::EPERM | libc::EACCES));
        all.push(Attempt { what: (*what).into(), errno, answer, refused, counted });
    }
    all
}
