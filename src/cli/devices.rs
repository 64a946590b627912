//! The devices of a run: from the words of `attendant.toml` and the board's constants to sources and output lines.
//!
//! Here, and only here, it matters which driver features are compiled in: a device whose driver is not is a usage error with
//! the command that builds it.

use std::path::Path;
use std::sync::Arc;

use attendant::board::{BOARD, FrameFormat};
use attendant::capture::Camera;
use attendant::capture::CaptureError;
use attendant::capture::child::{self, ChildCamera};
use attendant::capture::indicator::{Indicated, Indicator};
use attendant::capture::mute::{Mutable, MuteSwitch};
use attendant::config::runtime::{LineSpec, OutputSpec, RawFormat, SourceKind, SourceSpec};
use attendant::emit::Sink;
use attendant::supervise::notify::Systemd;
use attendant::supervise::{LiveSource, Opener, Outside, Upkeep, budget};
use attendant::time::{Clock, Micros};

use super::Failure;

/// Readings per second of a sensor, unless said otherwise.
#[cfg(feature = "gpio")]
const READING_HZ: f32 = 1.0;

/// Looks per second at a button, unless said otherwise.
#[cfg(feature = "gpio")]
const BUTTON_HZ: f32 = 10.0;

/// How long a call for staff or a question stays on a line, unless said otherwise.
#[cfg(feature = "gpio")]
const PULSE: Micros = Micros::from_ms(5000);

/// What a run was told about devices.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// Name and description of every source that is a device.
    pub sources: Vec<(String, SourceSpec)>,
    /// Output lines.
    pub outputs: Vec<OutputSpec>,
    /// The recording indicator.
    pub indicator: Option<LineSpec>,
    /// The switch that closes cameras and microphones.
    pub mute: Option<LineSpec>,
}

/// What a camera or a microphone is opened under: not while it is muted, and never without the lamp.
#[derive(Clone, Default)]
struct Guard {
    lamp: Indicator,
    mute: MuteSwitch,
}

impl Guard {
    fn over<D>(
        &self,
        name: &str,
        open: impl FnOnce() -> Result<D, CaptureError>,
    ) -> Result<Mutable<Indicated<D>>, CaptureError> {
        self.mute.over(name, || self.lamp.over(name, open))
    }
}

impl Devices {
    /// Whether there is any source; outputs alone make no live run.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whether any GPIO line is used beside the sources.
    pub fn has_lines(&self) -> bool {
        !self.outputs.is_empty() || self.indicator.is_some() || self.mute.is_some()
    }

    /// A source of `kind` on the board's device, or on `device`.
    pub fn add(&mut self, name: &str, kind: SourceKind, device: Option<String>) {
        let spec = SourceSpec {
            kind,
            path: None,
            rate_hz: None,
            device,
            command: None,
            format: None,
            width: None,
            height: None,
            gate_dbfs: None,
            bus: None,
            address: None,
            line: None,
        };
        self.sources.push((name.to_owned(), spec));
    }

    /// Every source, to be opened by the supervisor: none is opened here, because one that is missing may come later.
    pub fn sources(&self, clock: &Arc<dyn Clock>) -> Result<Vec<LiveSource>, Failure> {
        let guard = Guard { lamp: self.indicator()?, mute: self.mute_switch()? };
        let source = |(name, spec): &(String, SourceSpec)| {
            Ok(LiveSource {
                name: name.as_str().into(),
                paced: false,
                opener: opener(name, spec, &guard, Arc::clone(clock))?,
            })
        };
        self.sources.iter().map(source).collect()
    }

    fn indicator(&self) -> Result<Indicator, Failure> {
        match &self.indicator {
            None => Ok(Indicator::default()),
            Some(line) => indicator_on(line),
        }
    }

    fn mute_switch(&self) -> Result<MuteSwitch, Failure> {
        match &self.mute {
            None => Ok(MuteSwitch::default()),
            Some(line) => mute_on(line),
        }
    }

    /// Every output line, off.
    pub fn sinks(&self) -> Result<Vec<Box<dyn Sink>>, Failure> {
        self.outputs.iter().map(output).collect()
    }
}

/// What a run on devices looks after: systemd if it started this process, heat and load of the board.
pub fn upkeep(outside: Outside) -> Upkeep {
    Upkeep {
        outside,
        manager: Box::new(Systemd::default()),
        budget: Some(BOARD.budget),
        celsius: Box::new(|| budget::hottest_celsius(Path::new("/sys/class/thermal"))),
    }
}

/// `--camera` means a device and no file.
pub fn is_camera(path: &Path) -> bool {
    path == Path::new("auto") || path.starts_with("/dev")
}

/// `--mic` means a device and no file.
pub fn is_mic(path: &Path) -> bool {
    let name = path.to_string_lossy();
    ["auto", "default"].contains(&&*name) || ["hw:", "plughw:", "sysdefault:"].iter().any(|p| name.starts_with(p))
}

fn opener(name: &str, spec: &SourceSpec, guard: &Guard, clock: Arc<dyn Clock>) -> Result<Opener, Failure> {
    match spec.kind {
        SourceKind::V4l2 => v4l2(name, spec, guard.clone(), clock),
        SourceKind::Alsa => alsa(name, spec, guard.clone(), clock),
        SourceKind::Lm75 => lm75(name, spec, clock),
        SourceKind::Gpio => button(name, spec, clock),
        SourceKind::Command => Ok(command(name, spec, guard.clone(), clock)),
        _ => unreachable!("only devices are collected, see SourceKind::is_device"),
    }
}

fn command(name: &str, spec: &SourceSpec, guard: Guard, clock: Arc<dyn Clock>) -> Opener {
    let format = match spec.format {
        Some(RawFormat::Yuyv) => FrameFormat::Yuyv,
        Some(RawFormat::Uyvy) => FrameFormat::Uyvy,
        Some(RawFormat::Nv12) => FrameFormat::Nv12,
        Some(RawFormat::Yu12) => FrameFormat::Yu12,
        Some(RawFormat::Rgb) => FrameFormat::Rgb,
        Some(RawFormat::Gray) | None => FrameFormat::Gray,
    };
    let options = child::Options {
        name: name.to_owned(),
        command: spec.command.clone().unwrap_or_default(),
        layout: child::packed(format, spec.width.unwrap_or_default(), spec.height.unwrap_or_default()),
        timeout: Micros::from_ms(BOARD.camera.timeout_ms.into()),
    };
    Opener::Camera(Box::new(move || {
        let camera = guard.over(&options.name, || ChildCamera::open(&options, Arc::clone(&clock)))?;
        Ok(Box::new(camera) as Box<dyn Camera>)
    }))
}

/// The command that builds with a driver feature that is off.
#[cfg(not(all(feature = "v4l", feature = "alsa", feature = "gpio")))]
fn missing(what: &str, feature: &str) -> Failure {
    let board = BOARD.name;
    Failure::Usage(format!(
        "{what} needs the driver feature {feature}, which this program was built without; build it with: BOARD={board} cargo build \
         --release --features v4l,alsa,gpio"
    ))
}

#[cfg(feature = "v4l")]
fn v4l2(name: &str, spec: &SourceSpec, guard: Guard, clock: Arc<dyn Clock>) -> Result<Opener, Failure> {
    use attendant::capture::pixels::Wish;
    use attendant::capture::v4l2::{Options, V4l2Camera};

    let board = &BOARD.camera;
    let options = Options {
        name: name.to_owned(),
        device: spec.device.clone().unwrap_or_else(|| board.device.to_owned()),
        wish: Wish { formats: board.formats, width: board.width, height: board.height, rate_hz: board.rate_hz },
        queue_len: board.queue_len,
        timeout: Micros::from_ms(board.timeout_ms.into()),
    };
    Ok(Opener::Camera(Box::new(move || {
        let camera = guard.over(&options.name, || V4l2Camera::open(&options, Arc::clone(&clock)))?;
        Ok(Box::new(camera) as Box<dyn Camera>)
    })))
}

#[cfg(not(feature = "v4l"))]
fn v4l2(name: &str, _: &SourceSpec, _: Guard, _: Arc<dyn Clock>) -> Result<Opener, Failure> {
    Err(missing(&format!("source.{name}: kind = \"v4l2\""), "v4l"))
}

#[cfg(feature = "alsa")]
fn alsa(name: &str, spec: &SourceSpec, guard: Guard, clock: Arc<dyn Clock>) -> Result<Opener, Failure> {
    use attendant::capture::Mic;
    use attendant::capture::alsa::{AlsaMic, Options};
    use attendant::capture::sound::Watched;

    let board = &BOARD.audio;
    let options = Options {
        name: name.to_owned(),
        device: spec.device.clone().unwrap_or_else(|| board.device.to_owned()),
        sample_rate_hz: board.sample_rate_hz,
        block_ms: board.block_ms,
        timeout: Micros::from_ms(board.timeout_ms.into()),
    };
    let gate_dbfs = spec.gate_dbfs;
    Ok(Opener::Mic(Box::new(move || {
        let mic = guard.over(&options.name, || AlsaMic::open(&options, Arc::clone(&clock)))?;
        Ok(Box::new(Watched::new(mic, gate_dbfs)) as Box<dyn Mic>)
    })))
}

#[cfg(not(feature = "alsa"))]
fn alsa(name: &str, _: &SourceSpec, _: Guard, _: Arc<dyn Clock>) -> Result<Opener, Failure> {
    Err(missing(&format!("source.{name}: kind = \"alsa\""), "alsa"))
}

#[cfg(feature = "gpio")]
use attendant::capture::buses::{self, LineId};

/// The line that is meant, by the board's name or as it stands.
#[cfg(feature = "gpio")]
fn line_id(spec: &LineSpec) -> Result<LineId, Failure> {
    let Some(name) = &spec.board else {
        let (label, line) = (spec.label.clone().unwrap_or_default(), spec.number.unwrap_or_default());
        return Ok(LineId { label, line, active_low: spec.active_low });
    };
    let Some(line) = BOARD.gpio.iter().find(|g| g.name == name) else {
        let known: Vec<&str> = BOARD.gpio.iter().map(|g| g.name).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("the board {} has no GPIO line {name:?}; its lines: {known}", BOARD.name);
        return Err(Failure::Usage(message));
    };
    Ok(LineId { label: line.label.to_owned(), line: line.line, active_low: spec.active_low })
}

#[cfg(feature = "gpio")]
fn period(rate_hz: f32) -> Micros {
    Micros((1e6 / f64::from(rate_hz)) as u64)
}

#[cfg(feature = "gpio")]
fn unavailable(error: &CaptureError) -> Failure {
    Failure::Output { path: error.source_name.clone(), source: std::io::Error::other(error.message.clone()) }
}

#[cfg(feature = "gpio")]
fn lm75(name: &str, spec: &SourceSpec, clock: Arc<dyn Clock>) -> Result<Opener, Failure> {
    use attendant::capture::Sensor;
    use attendant::capture::sensor::{LM75_ADDRESS, Lm75};

    let (name, bus) = (name.to_owned(), spec.bus.clone().unwrap_or_default());
    let (address, every) = (spec.address.unwrap_or(LM75_ADDRESS), period(spec.rate_hz.unwrap_or(READING_HZ)));
    Ok(Opener::Sensor(Box::new(move || {
        let sensor = Lm75::new(&name, buses::i2c(&name, &bus)?, address, every, Arc::clone(&clock))?;
        Ok(Box::new(sensor) as Box<dyn Sensor>)
    })))
}

#[cfg(feature = "gpio")]
fn button(name: &str, spec: &SourceSpec, clock: Arc<dyn Clock>) -> Result<Opener, Failure> {
    use attendant::capture::Sensor;
    use attendant::capture::button::Button;

    let Some(line) = &spec.line else { unreachable!("the configuration was checked") };
    let (name, id, every) = (name.to_owned(), line_id(line)?, period(spec.rate_hz.unwrap_or(BUTTON_HZ)));
    Ok(Opener::Sensor(Box::new(move || {
        let button = Button::new(&name, buses::input(&name, &id)?, every, Arc::clone(&clock));
        Ok(Box::new(button) as Box<dyn Sensor>)
    })))
}

#[cfg(feature = "gpio")]
fn indicator_on(line: &LineSpec) -> Result<Indicator, Failure> {
    Ok(Indicator::new(buses::output("indicator", &line_id(line)?).map_err(|e| unavailable(&e))?))
}

#[cfg(feature = "gpio")]
fn mute_on(line: &LineSpec) -> Result<MuteSwitch, Failure> {
    Ok(MuteSwitch::new(buses::input("mute switch", &line_id(line)?).map_err(|e| unavailable(&e))?))
}

#[cfg(feature = "gpio")]
fn output(spec: &OutputSpec) -> Result<Box<dyn Sink>, Failure> {
    use attendant::emit::lines::{OutputLine, Trigger};

    let id = line_id(&spec.line)?;
    let trigger = Trigger::parse(&spec.on);
    let only_happens = matches!(trigger, Trigger::Ask | Trigger::Escalate);
    let pulse = spec.pulse_ms.map(|ms| Micros::from_ms(ms.into())).or(only_happens.then_some(PULSE));
    let pin = buses::output(&format!("output on {id}"), &id).map_err(|e| unavailable(&e))?;
    Ok(Box::new(OutputLine::new(&format!("output on {id}"), pin, trigger, pulse)))
}

#[cfg(not(feature = "gpio"))]
fn lm75(name: &str, _: &SourceSpec, _: Arc<dyn Clock>) -> Result<Opener, Failure> {
    Err(missing(&format!("source.{name}: kind = \"lm75\""), "gpio"))
}

#[cfg(not(feature = "gpio"))]
fn button(name: &str, _: &SourceSpec, _: Arc<dyn Clock>) -> Result<Opener, Failure> {
    Err(missing(&format!("source.{name}: kind = \"gpio\""), "gpio"))
}

#[cfg(not(feature = "gpio"))]
fn indicator_on(_: &LineSpec) -> Result<Indicator, Failure> {
    Err(missing("[indicator]", "gpio"))
}

#[cfg(not(feature = "gpio"))]
fn mute_on(_: &LineSpec) -> Result<MuteSwitch, Failure> {
    Err(missing("[privacy.mute]", "gpio"))
}

#[cfg(not(feature = "gpio"))]
fn output(spec: &OutputSpec) -> Result<Box<dyn Sink>, Failure> {
    Err(missing(&format!("[[output]] on = \"{}\"", spec.on), "gpio"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_told_from_files() {
        for device in ["auto", "/dev/video0", "/dev/v4l/by-id/usb-Cam-video-index0"] {
            assert!(is_camera(Path::new(device)), "{device}");
        }
        for device in ["auto", "default", "hw:CARD=Mic", "plughw:CARD=Mic,DEV=0"] {
            assert!(is_mic(Path::new(device)), "{device}");
        }
        for file in ["hall.y4m", "./auto", "pictures/", "hall.wav", "hw.wav"] {
            assert!(!is_camera(Path::new(file)) && !is_mic(Path::new(file)), "{file}");
        }
    }
}
