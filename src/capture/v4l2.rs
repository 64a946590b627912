//! Cameras through V4L2: the one place that names the `v4l` crate.
//!
//! [`V4l2Camera`] takes the mode that suits the board, waits for frames in short slices, and stamps them with the driver's
//! time. Any error of the device asks the supervisor to drop the camera and open it again, which is the only way on: the
//! crate gives a buffer back to the kernel twice if it is used after a timeout. CSI cameras of current Raspberry Pi systems do
//! not deliver to plain V4L2 programs; they go through [`super::child`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use log::{debug, info};
use v4l::buffer::{Flags, Type};
use v4l::device::Handle;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::io::mmap::Stream;
use v4l::io::traits::{CaptureStream, Stream as _};
use v4l::video::Capture as _;
use v4l::video::capture::Parameters;
use v4l::{Device, Format, FourCC, Fraction};

use crate::board::FrameFormat;
use crate::capture::node::{self, Hints};
use crate::capture::pixels::{self, Layout, Mode, Wish};
use crate::capture::{Camera, CaptureError, ErrorKind};
use crate::signal::{Frame, FrameSeq};
use crate::time::{Clock, Micros, from_kernel, kernel_now};

/// Longest wait inside one call, so that a source can be asked to end.
const SLICE_MS: i32 = 200;
/// Buffers tried to be handed to the driver; it may have made more than were asked for.
const BUFFERS_MAX: usize = 96;
/// What the crate waits for at most when a frame has been announced and is not there.
const ANNOUNCED: Duration = Duration::from_millis(200);

const HINTS: fn() -> Hints<'static> = || Hints { group: "video", proc: Path::new("/proc") };

/// How a camera is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the source, for errors and the log.
    pub name: String,
    /// `auto`, a name below /dev/v4l/by-id or by-path, or an absolute path.
    pub device: String,
    /// What is asked for.
    pub wish: Wish,
    /// Buffers of the driver.
    pub queue_len: usize,
    /// Without a frame for this long the camera asks to be reopened.
    pub timeout: Micros,
}

/// A camera that streams.
pub struct V4l2Camera {
    name: String,
    node: PathBuf,
    /// None only while it is dropped.
    stream: Option<Stream<'static>>,
    handle: Arc<Handle>,
    layout: Layout,
    clock: Arc<dyn Clock>,
    timeout: Micros,
    /// When the newest usable frame came, or the stream began.
    fresh: Micros,
    /// Frames that the driver marked as damaged, or that did not fit their layout.
    damaged: u64,
}

impl V4l2Camera {
    /// Opens the camera and starts streaming.
    ///
    /// # Errors
    /// `Reopen`, always: a camera that is missing, busy or forbidden may be there the next time.
    pub fn open(options: &Options, clock: Arc<dyn Clock>) -> Result<Self, CaptureError> {
        let nodes = node::cameras(Path::new("/dev"), &options.device);
        let mut last = None;
        for node in &nodes {
            match Self::open_node(options, node, &clock) {
                Ok(camera) => return Ok(camera),
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(last.unwrap_or_else(|| reopen(&options.name, "there is no camera in /dev; plug one in")))
    }

    fn open_node(options: &Options, node: &Path, clock: &Arc<dyn Clock>) -> Result<Self, CaptureError> {
        let name = &options.name;
        let failed = |doing: &str, error: io::Error| node::failed(name, node, doing, &error, HINTS());
        let device = Device::with_path(node).map_err(|e| failed("opening", e))?;
        let offered = modes(&device, Some(&options.wish)).map_err(|e| failed("asking for its formats", e))?;
        let Some(mode) = pixels::choose(&offered, &options.wish) else {
            let wanted: Vec<&str> = options.wish.formats.iter().map(|f| pixels::name_of(*f)).collect();
            let formats = device.enum_formats().unwrap_or_default();
            let has: Vec<String> = formats.iter().map(|f| f.fourcc.to_string()).collect();
            let message = format!(
                "{}: offers {}, expected one of {}; add a format to camera.formats of the board, or use another camera",
                node.display(),
                if has.is_empty() { "no format".into() } else { has.join(", ") },
                wanted.join(", ")
            );
            return Err(reopen(name, &message));
        };
        let asked = Format::new(mode.width, mode.height, fourcc_of(mode.format));
        let given = device.set_format(&asked).map_err(|e| failed("setting the format", e))?;
        let Some(format) = format_of(given.fourcc) else {
            return Err(reopen(name, &format!("{}: was asked for {mode} and gives {}", node.display(), given.fourcc)));
        };
        // a driver without a choice of rates refuses, and delivers at its own
        let rate = device.set_params(&Parameters::with_fps(options.wish.rate_hz)).ok();
        let layout = Layout { format, width: given.width, height: given.height, stride: given.stride };
        // one more than asked for: one is always with the reader
        let buffers = u32::try_from(options.queue_len + 1).unwrap_or(4);
        let mut stream =
            Stream::with_buffers(&device, Type::VideoCapture, buffers).map_err(|e| failed("asking for buffers", e))?;
        stream.set_timeout(ANNOUNCED);
        let handle = stream.handle();
        // From here on dropping the stream goes through `Drop for V4l2Camera`, which survives the crate's panic.
        let mut camera = V4l2Camera {
            name: name.clone(),
            node: node.to_path_buf(),
            stream: Some(stream),
            handle,
            layout,
            fresh: clock.now(),
            clock: Arc::clone(clock),
            timeout: options.timeout,
            damaged: 0,
        };
        camera.start()?;
        let hz = rate.map(|p| f64::from(p.interval.denominator) / f64::from(p.interval.numerator.max(1)));
        let hz = hz.map_or("its own rate".into(), |hz| format!("{hz:.1} Hz"));
        let (width, height, format) = (layout.width, layout.height, pixels::name_of(format));
        info!("{name}: {} delivers {format} {width}x{height} at {hz}; {} modes offered", node.display(), offered.len());
        Ok(camera)
    }

    /// Hands every buffer but the first to the driver and starts the stream. The first is handed over by the crate's `next`,
    /// which would hand over all of them, and start, only when it is already waiting.
    fn start(&mut self) -> Result<(), CaptureError> {
        let Some(stream) = &mut self.stream else { unreachable!("set until the drop") };
        let mut queued = 0;
        for index in 1..BUFFERS_MAX {
            match CaptureStream::queue(stream, index) {
                Ok(()) => queued += 1,
                // the driver has no buffer of this number
                Err(e) if e.kind() == io::ErrorKind::InvalidInput && queued > 0 => break,
                Err(e) => return Err(self.failed("handing over buffers", &e)),
            }
        }
        if let Err(e) = stream.start() {
            return Err(self.failed("starting the stream", &e));
        }
        self.fresh = self.clock.now();
        Ok(())
    }

    fn failed(&self, doing: &str, error: &io::Error) -> CaptureError {
        node::failed(&self.name, &self.node, doing, error, HINTS())
    }

    /// Nothing usable yet: wait on, or give up when that has been too long.
    fn nothing(&self, what: &str) -> CaptureError {
        if self.clock.now() - self.fresh < self.timeout {
            return CaptureError::new(ErrorKind::Wait, &*self.name, what);
        }
        // The limit, not what was measured: the same reason at every attempt is said once.
        let (node, ms) = (self.node.display(), self.timeout.as_ms());
        reopen(&self.name, &format!("{node}: {what} for {ms} ms; check the cable and the supply"))
    }
}

impl Camera for V4l2Camera {
    fn capture(&mut self, into: &mut Frame) -> Result<(), CaptureError> {
        match self.handle.poll(libc::POLLIN, SLICE_MS) {
            Ok(0) => return Err(self.nothing("no frame")),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(self.nothing("no frame")),
            Err(e) => return Err(self.failed("waiting for a frame", &e)),
        }
        let Some(stream) = &mut self.stream else { unreachable!("set until the drop") };
        let (data, meta) = match stream.next() {
            Ok((buffer, meta)) => (buffer.get(..meta.bytesused as usize).unwrap_or(buffer), *meta),
            Err(e) => return Err(self.failed("taking a frame", &e)),
        };
        let stored = if meta.flags.contains(Flags::ERROR) {
            Err("the driver marks it as damaged".to_owned())
        } else {
            self.layout.store(data, into)
        };
        if let Err(why) = stored {
            self.damaged += 1;
            debug!("{}: frame {} dropped: {why} ({} so far)", self.name, meta.sequence, self.damaged);
            return Err(self.nothing("only damaged frames"));
        }
        let now = self.clock.now();
        into.seq = FrameSeq(u64::from(meta.sequence));
        into.t = if (meta.flags & Flags::TIMESTAMP_MASK) == Flags::TIMESTAMP_MONOTONIC {
            let (sec, usec) = (meta.timestamp.sec.max(0), meta.timestamp.usec.max(0));
            from_kernel(Micros(sec.unsigned_abs() * 1_000_000 + usec.unsigned_abs()), kernel_now(), now)
        } else {
            now
        };
        self.fresh = now;
        Ok(())
    }
}

impl Drop for V4l2Camera {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        // The crate panics when the stream cannot be stopped; the device is closed by then all the same.
        if catch_unwind(AssertUnwindSafe(|| drop(stream))).is_err() {
            debug!("{}: the stream of {} did not stop cleanly", self.name, self.node.display());
        }
    }
}

fn reopen(name: &str, message: &str) -> CaptureError {
    CaptureError::new(ErrorKind::Reopen, name, message)
}

const FORMATS: [(FrameFormat, &[u8; 4]); 7] = [
    (FrameFormat::Mjpeg, b"MJPG"),
    (FrameFormat::Yuyv, b"YUYV"),
    (FrameFormat::Uyvy, b"UYVY"),
    (FrameFormat::Nv12, b"NV12"),
    (FrameFormat::Yu12, b"YU12"),
    (FrameFormat::Gray, b"GREY"),
    (FrameFormat::Rgb, b"RGB3"),
];

fn fourcc_of(format: FrameFormat) -> FourCC {
    let found = FORMATS.iter().find(|(f, _)| *f == format);
    FourCC::new(found.expect("every format is in the table").1)
}

fn format_of(fourcc: FourCC) -> Option<FrameFormat> {
    // some drivers say JPEG and mean the same
    let code = if &fourcc.repr == b"JPEG" { b"MJPG" } else { &fourcc.repr };
    FORMATS.iter().find(|(_, known)| *known == code).map(|(format, _)| *format)
}

/// Modes of the formats that can be read; of sizes in steps the one nearest to `wish`.
fn modes(device: &Device, wish: Option<&Wish>) -> io::Result<Vec<Mode>> {
    let mut found = Vec::new();
    let wanted = wish.map_or((640, 480), |w| (w.width, w.height));
    for description in device.enum_formats()? {
        let Some(format) = format_of(description.fourcc) else { continue };
        let mut sizes = Vec::new();
        for size in device.enum_framesizes(description.fourcc).unwrap_or_default() {
            sizes.push(match size.size {
                FrameSizeEnum::Discrete(d) => (d.width, d.height),
                FrameSizeEnum::Stepwise(s) => (
                    pixels::nearest_step(wanted.0, s.min_width, s.max_width, s.step_width),
                    pixels::nearest_step(wanted.1, s.min_height, s.max_height, s.step_height),
                ),
            });
        }
        if sizes.is_empty() {
            sizes.push(wanted);
        }
        for (width, height) in sizes {
            let rates = device.enum_frameintervals(description.fourcc, width, height).unwrap_or_default();
            let fastest = rates.iter().map(|r| match &r.interval {
                FrameIntervalEnum::Discrete(interval) => rate_of(interval),
                FrameIntervalEnum::Stepwise(steps) => rate_of(&steps.min),
            });
            found.push(Mode { format, width, height, rate_hz: fastest.reduce(f32::max) });
        }
    }
    Ok(found)
}

fn rate_of(interval: &Fraction) -> f32 {
    interval.denominator as f32 / interval.numerator.max(1) as f32
}

/// What the camera at `node` can deliver of what can be read, for `doctor`; nothing is started.
///
/// # Errors
/// Why it cannot be asked.
pub fn look(node: &Path) -> Result<Vec<Mode>, CaptureError> {
    let ask = || modes(&Device::with_path(node)?, None);
    ask().map_err(|e| node::failed(&node.display().to_string(), node, "opening", &e, HINTS()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MonotonicClock;

    fn options(device: &str) -> Options {
        let formats = &[FrameFormat::Mjpeg, FrameFormat::Yuyv];
        let wish = Wish { formats, width: 640, height: 480, rate_hz: 15 };
        Options { name: "camera".into(), device: device.into(), wish, queue_len: 3, timeout: Micros::from_ms(2000) }
    }

    #[test]
    fn a_camera_that_is_not_there_may_come_back() {
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let error = V4l2Camera::open(&options("/dev/no-such-camera"), Arc::clone(&clock)).err().expect("no such node");
        assert_eq!(error.kind, ErrorKind::Reopen);
        assert_eq!(error.to_string(), "camera: /dev/no-such-camera: opening: is not there; plug it in");
        // no camera either, but a node that opens
        let error = V4l2Camera::open(&options("/dev/null"), clock).err().expect("no camera");
        assert_eq!(error.kind, ErrorKind::Reopen, "{error}");
    }

    #[test]
    fn every_format_has_its_code() {
        for (format, _) in FORMATS {
            assert_eq!(format_of(fourcc_of(format)), Some(format));
        }
        assert_eq!(format_of(FourCC::new(b"JPEG")), Some(FrameFormat::Mjpeg));
        assert_eq!(format_of(FourCC::new(b"BA81")), None);
    }

    #[test]
    fn the_first_camera_delivers() {
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let Ok(mut camera) = V4l2Camera::open(&options("auto"), Arc::clone(&clock)) else {
            eprintln!("skipped: this machine has no camera");
            return;
        };
        let mut frame = Frame::default();
        let mut last = None;
        while last.is_none_or(|seq: FrameSeq| seq < FrameSeq(5)) {
            match camera.capture(&mut frame) {
                Ok(()) => last = Some(frame.seq),
                Err(e) => assert_eq!(e.kind, ErrorKind::Wait, "{e}"),
            }
            assert!(frame.t <= clock.now());
        }
    }
}
