//! Microphones through ALSA: the one place that names the `alsa` crate.
//!
//! [`AlsaMic`] takes the card's own rate, channels and sample format where it cannot have the wanted ones, waits in short
//! slices, and gives every block the time of its first sample: from the driver's time of the hardware pointer, smoothed by
//! [`SampleClock`], so that a card whose clock is wrong does not drift away from the camera. An overrun is recovered here and
//! becomes the gap of the next block; any other error asks the supervisor to open the microphone again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alsa::pcm::{Access, Format, Frames, HwParams, PCM, State, TstampType};
use alsa::{Direction, ValueOr};
use log::{debug, info, warn};

use crate::capture::node::{self, Hints};
use crate::capture::sound::{SampleClock, of_s16, of_s32, to_mono};
use crate::capture::{CaptureError, Condition, ErrorKind, Mic};
use crate::signal::{AudioBlock, SampleIdx};
use crate::time::{Clock, Micros, from_kernel, kernel_now};

/// Longest wait inside one call, so that a source can be asked to end.
const SLICE_MS: u32 = 200;
/// Of the card's own buffer: what an overrun needs to come about.
const BUFFER_MS: u32 = 500;

/// How a microphone is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the source, for errors and the log.
    pub name: String,
    /// ALSA name: `hw:CARD=name`, `plughw:CARD=name,DEV=0`, `default`; `auto` is the first card that records.
    pub device: String,
    /// Samples per second to ask for; the card's nearest is taken.
    pub sample_rate_hz: u32,
    /// Length of a block.
    pub block_ms: u32,
    /// Without a sample for this long the microphone asks to be reopened.
    pub timeout: Micros,
}

/// How the card stores a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    S16,
    S32,
    F32,
}

/// A microphone that records.
pub struct AlsaMic {
    name: String,
    device: String,
    pcm: PCM,
    coding: Coding,
    channels: usize,
    rate_hz: u32,
    raw16: Vec<i16>,
    raw32: Vec<i32>,
    raw_float: Vec<f32>,
    samples: SampleClock,
    next: SampleIdx,
    /// The next block follows a gap whose length its time will tell.
    is_broken: bool,
    overruns: u64,
    /// Whether the clock's drift has been said.
    is_drift_known: bool,
    condition: Option<Condition>,
    clock: Arc<dyn Clock>,
    timeout: Micros,
    fresh: Micros,
}

impl AlsaMic {
    /// Opens the microphone and starts recording.
    ///
    /// # Errors
    /// `Reopen`, always: a microphone that is missing or busy may be there the next time.
    pub fn open(options: &Options, clock: Arc<dyn Clock>) -> Result<Self, CaptureError> {
        let name = &options.name;
        let device = match options.device.as_str() {
            "auto" => {
                first_card().ok_or_else(|| reopen(name, "there is no card that records; plug a microphone in"))?
            }
            device => device.to_owned(),
        };
        let failed = |doing: &str, e: alsa::Error| failed(name, &device, doing, e);
        // What the library would write to standard error at every attempt; installed anew, it is empty.
        let said = alsa::Output::local_error_handler().ok();
        let pcm = PCM::new(&device, Direction::Capture, true).map_err(|e| {
            if let Some(said) = &said {
                debug!("{name}: {}", said.borrow());
            }
            failed("opening", e)
        })?;
        let set = configure(&pcm, options).map_err(|e| failed("setting it up", e))?;
        let Some(set) = set else {
            return Err(reopen(name, &format!("{device}: records in none of S16, S32 and float; use plug{device}")));
        };
        pcm.start().map_err(|e| failed("starting", e))?;
        let Setup { coding, channels, rate_hz } = set;
        let block_len = (u64::from(rate_hz) * u64::from(options.block_ms) / 1000).max(1) as usize;
        info!("{name}: {device} records {channels} x {coding:?} at {rate_hz} Hz");
        let len = block_len * channels;
        Ok(AlsaMic {
            name: name.clone(),
            pcm,
            raw16: vec![0; if coding == Coding::S16 { len } else { 0 }],
            raw32: vec![0; if coding == Coding::S32 { len } else { 0 }],
            raw_float: vec![0.0; if coding == Coding::F32 { len } else { 0 }],
            coding,
            channels,
            rate_hz,
            samples: SampleClock::new(rate_hz),
            next: SampleIdx(0),
            is_broken: false,
            overruns: 0,
            is_drift_known: false,
            condition: None,
            fresh: clock.now(),
            clock,
            timeout: options.timeout,
            device,
        })
    }

    fn nothing(&self) -> CaptureError {
        if self.clock.now() - self.fresh < self.timeout {
            return CaptureError::new(ErrorKind::Wait, &*self.name, "no sample");
        }
        // The limit, not what was measured: the same reason at every attempt is said once.
        let message = format!("{}: no sample for {} ms; check the plug", self.device, self.timeout.as_ms());
        reopen(&self.name, &message)
    }

    /// After an overrun or a suspend: records again, and leaves a gap.
    fn recover(&mut self, error: alsa::Error) -> CaptureError {
        if !matches!(error.errno(), libc::EPIPE | libc::ESTRPIPE) {
            return failed(&self.name, &self.device, "recording", error);
        }
        self.overruns += 1;
        self.is_broken = true;
        if self.overruns.is_power_of_two() {
            warn!("{}: overrun {}; the sound has a gap", self.name, self.overruns);
        }
        match self.pcm.try_recover(error, true).and_then(|()| self.pcm.start()) {
            // Counts as silence: a card that overruns at once, again and again, is opened anew like one that says nothing.
            Ok(()) => self.nothing(),
            Err(e) => failed(&self.name, &self.device, "recovering from an overrun", e),
        }
    }

    /// When the next sample that can be read was captured, by the driver's clock.
    fn seen(&self) -> Result<Micros, alsa::Error> {
        let status = self.pcm.status()?;
        let (now, kernel) = (self.clock.now(), kernel_now());
        let stamp = status.get_htstamp();
        let stamp = Micros(
            u64::try_from(stamp.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(stamp.tv_nsec).unwrap_or(0) / 1000,
        );
        let newest = if stamp == Micros::ZERO { now } else { from_kernel(stamp, kernel, now) };
        let waiting = u64::try_from(status.get_avail()).unwrap_or(0);
        Ok(newest.since(Micros(waiting * 1_000_000 / u64::from(self.rate_hz))))
    }

    /// Reads up to a block of frames as the card stores them into `out`, mono.
    fn take(&mut self, out: &mut Vec<f32>) -> Result<usize, alsa::Error> {
        let channels = self.channels;
        match self.coding {
            Coding::S16 => {
                let n = self.pcm.io_i16()?.readi(&mut self.raw16)?;
                to_mono(&self.raw16[..n * channels], channels, of_s16, out);
                Ok(n)
            }
            Coding::S32 => {
                let n = self.pcm.io_i32()?.readi(&mut self.raw32)?;
                to_mono(&self.raw32[..n * channels], channels, of_s32, out);
                Ok(n)
            }
            Coding::F32 => {
                let n = self.pcm.io_f32()?.readi(&mut self.raw_float)?;
                to_mono(&self.raw_float[..n * channels], channels, |x| x, out);
                Ok(n)
            }
        }
    }

    fn watch_drift(&mut self) {
        if let Some(drift) = self.samples.drift().filter(|_| !self.is_drift_known) {
            self.is_drift_known = true;
            let hz = f64::from(self.rate_hz) * (1.0 + drift);
            let percent = drift * 100.0;
            let reason = format!(
                "{} says {} Hz and delivers {hz:.0} Hz by the system's clock ({percent:+.1} %); times are corrected",
                self.device, self.rate_hz
            );
            self.condition = Some(Condition { state: "drift", reason: reason.into() });
        }
    }
}

impl Mic for AlsaMic {
    fn read(&mut self, into: &mut AudioBlock) -> Result<(), CaptureError> {
        match self.pcm.wait(Some(SLICE_MS)) {
            Ok(true) => {}
            Ok(false) if self.pcm.state() == State::XRun => {
                return Err(self.recover(alsa::Error::new("wait", libc::EPIPE)));
            }
            Ok(false) => return Err(self.nothing()),
            Err(e) if e.errno() == libc::EINTR => return Err(self.nothing()),
            Err(e) => return Err(self.recover(e)),
        }
        let seen = self.seen().map_err(|e| failed(&self.name, &self.device, "asking for its time", e))?;
        let n = match self.take(&mut into.data) {
            Ok(0) => return Err(self.nothing()),
            Ok(n) => n,
            Err(e) if e.errno() == libc::EAGAIN => return Err(self.nothing()),
            Err(e) => return Err(self.recover(e)),
        };
        into.gap_samples = 0;
        if std::mem::take(&mut self.is_broken) {
            // at least one: an overrun loses samples, even if the clock cannot tell how many
            into.gap_samples = self.samples.missing(seen).max(1);
            self.samples.resume();
        }
        into.t = self.samples.follow(seen, n);
        into.sample_rate_hz = self.rate_hz;
        into.first = SampleIdx(self.next.0 + into.gap_samples);
        self.next = SampleIdx(into.first.0 + n as u64);
        self.fresh = self.clock.now();
        self.watch_drift();
        Ok(())
    }

    fn condition(&mut self) -> Option<Condition> {
        self.condition.take()
    }
}

struct Setup {
    coding: Coding,
    channels: usize,
    rate_hz: u32,
}

/// Sets the parameters; None if the card has no coding that can be read.
fn configure(pcm: &PCM, options: &Options) -> Result<Option<Setup>, alsa::Error> {
    let hw = HwParams::any(pcm)?;
    hw.set_access(Access::RWInterleaved)?;
    let codings = [(Coding::S16, Format::s16()), (Coding::S32, Format::s32()), (Coding::F32, Format::float())];
    let Some((coding, format)) = codings.into_iter().find(|(_, format)| hw.test_format(*format).is_ok()) else {
        return Ok(None);
    };
    hw.set_format(format)?;
    let channels = hw.set_channels_near(1)?.max(1);
    let rate_hz = hw.set_rate_near(options.sample_rate_hz, ValueOr::Nearest)?;
    let frames = |ms: u32| Frames::try_from(u64::from(rate_hz) * u64::from(ms) / 1000).unwrap_or(1).max(1);
    hw.set_period_size_near(frames(options.block_ms), ValueOr::Nearest)?;
    hw.set_buffer_size_near(frames(BUFFER_MS))?;
    pcm.hw_params(&hw)?;
    let sw = pcm.sw_params_current()?;
    sw.set_avail_min(frames(options.block_ms))?;
    sw.set_tstamp_mode(true)?;
    sw.set_tstamp_type(TstampType::Monotonic)?;
    pcm.sw_params(&sw)?;
    Ok(Some(Setup { coding, channels: channels as usize, rate_hz }))
}

fn reopen(name: &str, message: &str) -> CaptureError {
    CaptureError::new(ErrorKind::Reopen, name, message)
}

/// An error of ALSA, with the process that holds a busy card.
fn failed(name: &str, device: &str, doing: &str, error: alsa::Error) -> CaptureError {
    let hints = Hints { group: "audio", proc: Path::new("/proc") };
    let is_held = |node: &PathBuf| !node::holders(hints.proc, node).is_empty();
    let held = || capture_nodes(Path::new("/dev/snd")).into_iter().find(is_held);
    let busy = if error.errno() == libc::EBUSY { held() } else { None };
    let node = busy.unwrap_or_else(|| device.into());
    node::failed(name, &node, doing, &io::Error::from_raw_os_error(error.errno()), hints)
}

/// Nodes below /dev/snd that record.
fn capture_nodes(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let is_capture = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("pcmC") && name.ends_with('c')
    };
    let mut nodes: Vec<PathBuf> = entries.filter(is_capture).collect();
    nodes.sort_unstable();
    nodes
}

/// The first card with a device that records, by its name: numbers change with the order of plugging in.
fn first_card() -> Option<String> {
    capture_nodes(Path::new("/dev/snd")).iter().find_map(|node| {
        let name = node.file_name()?.to_str()?;
        let (card, device) = name.strip_prefix("pcmC")?.strip_suffix('c')?.split_once('D')?;
        let id = std::fs::read_to_string(format!("/proc/asound/card{card}/id")).ok()?;
        Some(format!("plughw:CARD={},DEV={device}", id.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MonotonicClock;

    fn options(device: &str) -> Options {
        Options {
            name: "mic".into(),
            device: device.into(),
            sample_rate_hz: 16_000,
            block_ms: 20,
            timeout: Micros::from_ms(1000),
        }
    }

    #[test]
    fn a_card_that_is_not_there_may_come_back() {
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let error = AlsaMic::open(&options("hw:CARD=NoSuchCard"), clock).err().expect("no such card");
        assert_eq!(error.kind, ErrorKind::Reopen, "{error}");
        assert!(error.to_string().starts_with("mic: hw:CARD=NoSuchCard: opening: "), "{error}");
    }

    #[test]
    fn only_nodes_that_record_are_microphones() {
        let dir = tempfile::tempdir().unwrap();
        for node in ["pcmC0D0p", "pcmC0D1c", "pcmC0D0c", "controlC0", "timer"] {
            std::fs::write(dir.path().join(node), "").unwrap();
        }
        let nodes = capture_nodes(dir.path());
        assert_eq!(nodes, [dir.path().join("pcmC0D0c"), dir.path().join("pcmC0D1c")]);
    }

    #[test]
    fn the_first_card_records() {
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let Ok(mut mic) = AlsaMic::open(&options("auto"), clock) else {
            eprintln!("skipped: this machine has no card that records");
            return;
        };
        let (mut block, mut next) = (AudioBlock::default(), 0);
        while next < 8000 {
            match mic.read(&mut block) {
                Ok(()) => {
                    assert_eq!(block.first.0, next + block.gap_samples);
                    next = block.first.0 + block.data.len() as u64;
                }
                Err(e) => assert_eq!(e.kind, ErrorKind::Wait, "{e}"),
            }
        }
    }
}
