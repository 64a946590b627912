//! A camera that is another program: it writes raw frames to its standard output.
//!
//! The way to CSI cameras, whose pictures come through libcamera (`rpicam-vid --codec yuv420 -o -`) or Argus (`gst-launch-1.0
//! nvarguscamerasrc ! .. ! fdsink`). The program is started without a shell. What it says on its standard error goes into our log,
//! the last line of it into the error when it ends. Starting it again, and waiting before that, is the supervisor's. When the
//! camera is dropped the program is asked to end, then made to, and reaped.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::Arc;

use log::{debug, info};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::board::FrameFormat;
use crate::capture::pixels::{self, Layout};
use crate::capture::{Camera, CaptureError, ErrorKind};
use crate::signal::{Frame, FrameSeq};
use crate::time::{Clock, Micros};

/// Longest wait inside one call, so that a source can be asked to end.
const SLICE: Micros = Micros::from_ms(200);
/// The same while it is being ended, which nothing but its exit may tell.
const GRACE_SLICE: Micros = Micros::from_ms(20);
/// How long the program has to end by itself.
const FAREWELL: Micros = Micros::from_ms(500);
/// Of a line on standard error; the rest is left out.
const LINE_MAX: usize = 400;
/// Read from standard error in one go.
const CHUNK: usize = 1024;

/// How the program is started, and what it writes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the source, for errors and the log.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Layout of the raw frames, of which one follows the other without anything in between.
    pub layout: Layout,
    /// Without a frame for this long the program is started again.
    pub timeout: Micros,
}

/// A running program that delivers frames.
pub struct ChildCamera {
    name: String,
    program: String,
    child: Child,
    /// Until it is closed.
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
    /// The beginning of a line on standard error.
    line: Vec<u8>,
    last_line: String,
    layout: Layout,
    /// The frame that is being read: its bytes so far are `buffer[..filled]`.
    buffer: Vec<u8>,
    filled: usize,
    next: FrameSeq,
    clock: Arc<dyn Clock>,
    timeout: Micros,
    fresh: Micros,
}

impl ChildCamera {
    /// Starts the program.
    ///
    /// # Errors
    /// `Fatal` for a format whose frames have no fixed size; `Reopen` if the program cannot be started.
    pub fn open(options: &Options, clock: Arc<dyn Clock>) -> Result<Self, CaptureError> {
        let (name, layout) = (&options.name, options.layout);
        let Some(bytes) = pixels::frame_bytes(layout.format, layout.width, layout.height) else {
            let message = "frames of mjpeg have no fixed size; let the program write yu12 (rpicam-vid --codec yuv420)";
            return Err(CaptureError::fatal(name, message));
        };
        let [program, arguments @ ..] = options.command.as_slice() else {
            return Err(CaptureError::fatal(name, "command = [], expected a program and its arguments"));
        };
        let spawned = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.map_err(|e| {
            let hint = if e.kind() == io::ErrorKind::NotFound { "; install it, or give its whole path" } else { "" };
            CaptureError::new(ErrorKind::Reopen, name, format!("{program} cannot be started: {e}{hint}"))
        })?;
        let (out, err) = (child.stdout.take().expect("piped above"), child.stderr.take().expect("piped above"));
        info!("{name}: started {} (pid {})", options.command.join(" "), child.id());
        let camera = ChildCamera {
            name: name.clone(),
            program: program.clone(),
            child,
            out: Some(out),
            err: Some(err),
            line: Vec::new(),
            last_line: String::new(),
            layout,
            buffer: vec![0; bytes],
            filled: 0,
            next: FrameSeq(0),
            fresh: clock.now(),
            clock,
            timeout: options.timeout,
        };
        camera.unblock().map_err(|e| camera.fail(&format!("its output cannot be read without waiting: {e}")))?;
        Ok(camera)
    }

    fn unblock(&self) -> io::Result<()> {
        if let Some(out) = &self.out {
            rustix::io::ioctl_fionbio(out, true)?;
        }
        if let Some(err) = &self.err {
            rustix::io::ioctl_fionbio(err, true)?;
        }
        Ok(())
    }

    fn fail(&self, message: &str) -> CaptureError {
        let said = if self.last_line.is_empty() { String::new() } else { format!("; it said: {}", self.last_line) };
        CaptureError::new(ErrorKind::Reopen, &*self.name, format!("{} {message}{said}", self.program))
    }

    /// Waits until the program has written something to what it has not closed, or for `limit`.
    fn wait(&self, limit: Micros) -> io::Result<()> {
        let timeout = Timespec { tv_sec: (limit.0 / 1_000_000) as i64, tv_nsec: (limit.0 % 1_000_000 * 1000) as i64 };
        let both = [self.out.as_ref().map(AsFd::as_fd), self.err.as_ref().map(AsFd::as_fd)];
        let mut fds: heapless::Vec<PollFd<'_>, 2> =
            both.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// What stands on standard error goes into the log, line by line.
    fn listen(&mut self) {
        let mut chunk = [0; CHUNK];
        let Some(err) = &mut self.err else { return };
        let n = match err.read(&mut chunk) {
            Ok(0) => 0,
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(_) => 0,
        };
        if n == 0 {
            self.err = None;
            self.end_line();
        }
        for byte in &chunk[..n] {
            match byte {
                // a progress display rewrites its line
                b'\n' | b'\r' => self.end_line(),
                byte if self.line.len() < LINE_MAX => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim();
        if !text.is_empty() {
            debug!("{}: {}: {text}", self.name, self.program);
            self.last_line = text.to_owned();
        }
        self.line.clear();
    }

    /// Reads what is there of the frame. True when it is whole.
    fn fill(&mut self) -> Result<bool, CaptureError> {
        while self.filled < self.buffer.len() {
            let Some(out) = &mut self.out else { return Err(self.fail("closed its output")) };
            match out.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(self.ended()),
                Ok(n) => self.filled += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.fail(&format!("cannot be read: {e}"))),
            }
        }
        self.filled = 0;
        Ok(true)
    }

    /// The program has closed its output: how it ended, and what it said last.
    fn ended(&mut self) -> CaptureError {
        self.out = None;
        let until = self.clock.now() + FAREWELL;
        while self.err.is_some() && self.clock.now() < until && self.wait(SLICE).is_ok() {
            self.listen();
        }
        match self.child.try_wait() {
            Ok(Some(status)) => self.fail(&format!("ended ({status})")),
            _ => self.fail("closed its output"),
        }
    }
}

impl Camera for ChildCamera {
    fn capture(&mut self, into: &mut Frame) -> Result<(), CaptureError> {
        self.wait(SLICE).map_err(|e| self.fail(&format!("cannot be waited for: {e}")))?;
        self.listen();
        if !self.fill()? {
            if self.clock.now() - self.fresh >= self.timeout {
                // The limit, not what was measured: the same reason at every attempt is said once.
                return Err(self.fail(&format!("has written no frame for {} ms", self.timeout.as_ms())));
            }
            return Err(CaptureError::new(ErrorKind::Wait, &*self.name, "no frame"));
        }
        self.fresh = self.clock.now();
        // the program does not tell when the picture was taken: this is when its last byte came
        into.t = self.fresh;
        into.seq = self.next;
        self.next.0 += 1;
        self.layout.store(&self.buffer, into).map_err(|why| CaptureError::fatal(&*self.name, why))
    }
}

impl Drop for ChildCamera {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if matches!(self.child.try_wait(), Ok(None)) {
            // Politely first: a program that holds a sensor of the camera daemon has to let go of it.
            if let Some(pid) = pid {
                _ = kill_process(pid, Signal::TERM);
            }
            let until = self.clock.now() + FAREWELL;
            let mut scrap = [0; 1 << 14];
            // its output is read away meanwhile: a program that waits for its reader would not end
            while matches!(self.child.try_wait(), Ok(None))
                && self.clock.now() < until
                && self.wait(GRACE_SLICE).is_ok()
            {
                if self.out.as_mut().is_some_and(|out| matches!(out.read(&mut scrap), Ok(0))) {
                    self.out = None;
                }
                self.listen();
            }
            _ = self.child.kill();
        }
        _ = self.child.wait();
    }
}

/// A layout without padding.
#[must_use]
pub const fn packed(format: FrameFormat, width: u32, height: u32) -> Layout {
    Layout { format, width, height, stride: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::PixelFormat;
    use crate::time::MonotonicClock;

    fn camera(command: &[&str], timeout_ms: u64) -> Result<ChildCamera, CaptureError> {
        let options = Options {
            name: "camera".into(),
            command: command.iter().map(ToString::to_string).collect(),
            layout: packed(FrameFormat::Gray, 4, 2),
            timeout: Micros::from_ms(timeout_ms),
        };
        ChildCamera::open(&options, Arc::new(MonotonicClock::new()))
    }

    /// Frames until the first error that is not "wait".
    fn play(mut camera: ChildCamera) -> (Vec<Vec<u8>>, CaptureError) {
        let (mut frame, mut all) = (Frame::default(), Vec::new());
        loop {
            match camera.capture(&mut frame) {
                Ok(()) => {
                    assert_eq!((frame.format, frame.seq.0), (PixelFormat::Gray, all.len() as u64));
                    all.push(frame.data.clone());
                }
                Err(e) if e.kind == ErrorKind::Wait => {}
                Err(e) => return (all, e),
            }
        }
    }

    #[test]
    fn frames_are_cut_from_the_output_and_the_end_says_why() {
        // 20 bytes: two frames of 8, and the beginning of a third
        let (frames, end) = play(camera(&["printf", "aaaabbbbccccddddeeee"], 5000).unwrap());
        assert_eq!(frames, [b"aaaabbbb".to_vec(), b"ccccdddd".to_vec()]);
        assert_eq!(end.kind, ErrorKind::Reopen);
        assert!(end.to_string().starts_with("camera: printf "), "{end}");
        let (frames, end) = play(camera(&["ls", "/no-such-folder"], 5000).unwrap());
        assert!(frames.is_empty() && end.to_string().contains("it said: ls: "), "{end}");
    }

    #[test]
    fn a_program_that_writes_nothing_is_given_up() {
        let (frames, end) = play(camera(&["sleep", "60"], 1).unwrap());
        assert!(frames.is_empty() && end.kind == ErrorKind::Reopen, "{end}");
        assert!(end.message.starts_with("sleep has written no frame for "), "{end}");
    }

    #[test]
    fn the_program_is_ended_and_reaped_with_the_camera() {
        for command in [&["sleep", "60"][..], &["yes"]] {
            let camera = camera(command, 1000).unwrap();
            let pid = Pid::from_raw(i32::try_from(camera.child.id()).unwrap()).unwrap();
            assert!(rustix::process::test_kill_process(pid).is_ok(), "{command:?} runs");
            drop(camera);
            assert!(rustix::process::test_kill_process(pid).is_err(), "{command:?} was left behind");
        }
    }

    #[test]
    fn a_program_that_has_closed_its_output_has_its_time_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let (ready, mark) = (dir.path().join("ready"), dir.path().join("ended"));
        let script = format!(
            "trap 'touch {}; exit' TERM; exec >&- 2>&-; touch {}; while :; do sleep 0.01; done",
            mark.display(),
            ready.display()
        );
        let camera = camera(&["sh", "-c", &script], 5000).unwrap();
        while !ready.exists() {
            std::thread::yield_now();
        }
        drop(camera);
        assert!(mark.exists(), "killed before it could let go");
    }

    #[test]
    fn what_cannot_be_started_says_what_to_do() {
        let error = camera(&["no-such-program"], 1).err().expect("no such program");
        assert_eq!(error.kind, ErrorKind::Reopen);
        assert!(error.message.ends_with("; install it, or give its whole path"), "{error}");
        assert_eq!(camera(&[], 1).err().expect("no program").kind, ErrorKind::Fatal);
        let mut options = Options {
            name: "camera".into(),
            command: vec!["true".into()],
            layout: packed(FrameFormat::Mjpeg, 4, 2),
            timeout: Micros::from_ms(1),
        };
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        assert_eq!(ChildCamera::open(&options, Arc::clone(&clock)).err().expect("mjpeg").kind, ErrorKind::Fatal);
        options.layout = packed(FrameFormat::Yu12, 4, 2);
        assert!(ChildCamera::open(&options, clock).is_ok());
    }
}
