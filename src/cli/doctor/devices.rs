//! Cameras, microphones, GPIO chips and I2C buses: what they deliver, who may open them, who holds them.

use std::path::{Path, PathBuf};

use attendant::board::{BOARD, FrameFormat};
use attendant::capture::node;
use attendant::config::runtime::{Runtime, SourceKind};

use super::access::Access;
use super::uvc::{self, Mode};
use super::{Check, Known, Status};

const TOPIC: &str = "devices";

/// Modes of a camera that are listed; a webcam can have a hundred.
const SHOWN: usize = 6;

/// Beginnings of the names of nodes that take no pictures from outside: codecs, scalers and signal processors of single-board computers.
const NO_CAMERAS: &[&str] =
    &["bcm2835-codec", "bcm2835-isp", "rpivid", "rpi-hevc", "pispbe", "hantro", "rkvdec", "nvidia", "tegra-vi-dec"];

/// Beginnings of the names of nodes that deliver a sensor's raw data, which libcamera has to develop.
const RAW_SENSORS: &[&str] = &["unicam", "rp1-cfe", "vi-output", "rkisp", "sun6i-csi"];

/// How nodes of a class get their group, where the node's own opens nothing.
const RULES: &str = "install deploy/udev/60-attendant.rules in /etc/udev/rules.d, then sudo udevadm control --reload && sudo udevadm trigger";

/// Every device, and the drivers that this program has.
pub fn check(known: &Known) -> Vec<Check> {
    let mut checks = cameras(known);
    checks.extend(microphones(known));
    checks.extend(lines(known));
    checks.push(drivers());
    #[cfg(feature = "gpio")]
    checks.push(gpio_chips(known));
    checks
}

/// Whether the settings have a source that satisfies `is`.
fn wants(known: &Known, is: impl Fn(SourceKind) -> bool) -> bool {
    known.runtime().is_some_and(|runtime| runtime.source.values().any(|s| is(s.kind)))
}

fn nothing(known: &Known, name: &str, kind: SourceKind, text: &str) -> Check {
    if wants(known, |k| k == kind) {
        return Check::new(TOPIC, name, Status::Error, format!("{text}, and the settings name one")).fix("plug it in");
    }
    Check::new(TOPIC, name, Status::Absent, format!("{text}; files and recordings can be played"))
}

/// What is known of one camera before its permissions.
struct Camera {
    /// In the tree.
    node: PathBuf,
    /// As it is called for people and in the settings.
    title: String,
    modes: Result<Vec<Mode>, String>,
}

fn cameras(known: &Known) -> Vec<Check> {
    let root = &known.root;
    let (mut found, mut others, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    for path in node::cameras(&root.path("/dev"), "auto") {
        let name = root.name(&path);
        let Ok(real) = root.resolve(&name) else { continue };
        let node = file_name(&real);
        let class = format!("/sys/class/video4linux/{node}");
        let card = root.text(format!("{class}/name")).unwrap_or_default();
        let starts = |list: &[&str]| list.iter().any(|n| card.starts_with(n));
        // a USB camera's second node carries the metadata of its first
        let is_usb = usb_descriptors(known, &class).is_some();
        if starts(NO_CAMERAS) || is_usb && root.number(format!("{class}/index")).unwrap_or(0.0) > 0.0 {
            others.push(format!("{node} {card}"));
            continue;
        }
        if starts(RAW_SENSORS) {
            raw.push(format!("{node} {card}"));
            continue;
        }
        let link = file_name(&path);
        let stable = if link == node { String::new() } else { format!("{link}, ") };
        let modes = modes(known, &path, &class);
        found.push(Camera { title: format!("{stable}{card:?}"), node: root.name(&real), modes });
    }
    let mut checks: Vec<Check> = found.iter().map(|camera| check_camera(known, camera)).collect();
    if !raw.is_empty() {
        let text = format!("{}: raw data of a sensor, which plain V4L2 programs cannot develop", raw.join(", "));
        let kind = if wants(known, |k| k == SourceKind::Command) { Status::Ok } else { Status::Warning };
        let fix = "a source of kind = \"command\" with rpicam-vid or gst-launch-1.0, see docs/devices.md";
        checks.push(Check::new(TOPIC, "csi camera", kind, text).fix(fix));
    }
    if !others.is_empty() {
        let text = format!("no cameras: {}", others.join(", "));
        checks.push(Check::new(TOPIC, "other nodes", Status::Ok, text));
    }
    if found.is_empty() && raw.is_empty() {
        checks.push(nothing(known, "camera", SourceKind::V4l2, "no camera in /dev/video*"));
    }
    checks
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Descriptors of the USB device behind a node of the video class.
fn usb_descriptors(known: &Known, class: &str) -> Option<Vec<u8>> {
    let interface = known.root.resolve(format!("{class}/device")).ok()?;
    known.root.bytes(known.root.name(interface.parent()?).join("descriptors")).ok()
}

/// From the descriptors of USB, or from the driver where it is compiled in and the camera is on this machine.
fn modes(known: &Known, path: &Path, class: &str) -> Result<Vec<Mode>, String> {
    if let Some(descriptors) = usb_descriptors(known, class) {
        let modes = uvc::modes(&descriptors);
        if !modes.is_empty() {
            return Ok(modes);
        }
    }
    ask_driver(known, path)
}

#[cfg(feature = "v4l")]
fn ask_driver(known: &Known, path: &Path) -> Result<Vec<Mode>, String> {
    if !known.root.is_live() {
        return Err("formats not looked at: a copy has no driver to ask".to_owned());
    }
    let modes = attendant::capture::v4l2::look(path).map_err(|e| format!("formats not looked at: {e}"))?;
    let code = |format: FrameFormat| READ.iter().find(|(_, f)| *f == format).map_or("?", |(code, _)| *code).to_owned();
    Ok(modes
        .iter()
        .map(|m| Mode { format: code(m.format), width: m.width, height: m.height, rate_hz: m.rate_hz })
        .collect())
}

#[cfg(not(feature = "v4l"))]
fn ask_driver(known: &Known, path: &Path) -> Result<Vec<Mode>, String> {
    if !known.root.is_live() {
        return Err("formats not looked at: a copy has no driver to ask".to_owned());
    }
    let hint = format!("v4l2-ctl --list-formats-ext -d {}", path.display());
    Err(format!("formats not looked at: this program is built without the driver feature v4l; {hint} lists them"))
}

/// Names of the formats that this program reads: of V4L2, and of USB where that differs.
const READ: &[(&str, FrameFormat)] = &[
    ("MJPG", FrameFormat::Mjpeg),
    ("JPEG", FrameFormat::Mjpeg),
    ("YUYV", FrameFormat::Yuyv),
    ("YUY2", FrameFormat::Yuyv),
    ("UYVY", FrameFormat::Uyvy),
    ("NV12", FrameFormat::Nv12),
    ("YU12", FrameFormat::Yu12),
    ("I420", FrameFormat::Yu12),
    ("GREY", FrameFormat::Gray),
    ("Y800", FrameFormat::Gray),
    ("RGB3", FrameFormat::Rgb),
];

fn check_camera(known: &Known, camera: &Camera) -> Check {
    let Camera { node, title, modes } = camera;
    let name = file_name(node);
    let modes_text = match modes {
        Ok(modes) => {
            let shown: Vec<String> = modes.iter().take(SHOWN).map(ToString::to_string).collect();
            let more = modes.len().saturating_sub(SHOWN);
            format!("{}{}", shown.join(", "), if more > 0 { format!(", and {more} more") } else { String::new() })
        }
        Err(why) => why.clone(),
    };
    let text = format!("{title}: {modes_text}");
    if let Some(check) = denied(known, &name, node, &text) {
        return check;
    }
    let holders = Holders::of(known, node);
    if let Some(held) = holders.others() {
        let text = format!("{text}; open in {held}: while that takes pictures, this program waits");
        return Check::new(TOPIC, &name, Status::Warning, text).fix(format!("end {held}"));
    }
    let text = format!("{text}; {} may use it{}", known.person.name, holders.text());
    let is_read = |m: &Mode| READ.iter().any(|(code, f)| *code == m.format && BOARD.camera.formats.contains(f));
    match modes {
        Err(_) => Check::new(TOPIC, &name, Status::Unknown, text),
        Ok(modes) if modes.iter().any(is_read) => Check::new(TOPIC, &name, Status::Ok, text),
        Ok(_) => {
            let known: Vec<&str> = READ.iter().filter(|(_, f)| BOARD.camera.formats.contains(f)).map(|r| r.0).collect();
            let text = format!("{text}; none of these formats is read, expected one of {}", known.join(", "));
            Check::new(TOPIC, &name, Status::Error, text)
                .fix("another camera, or a source of kind = \"command\" that converts")
        }
    }
}

/// The check for a device that the person may not use.
fn denied(known: &Known, name: &str, node: &Path, text: &str) -> Option<Check> {
    match known.person.may_use(&known.root, node, RULES) {
        Access::Yes => None,
        Access::No { why, fix } => Some(Check::new(TOPIC, name, Status::Error, format!("{text}; {why}")).fix(fix)),
        Access::Unknown(why) => {
            Some(Check::new(TOPIC, name, Status::Unknown, format!("{text}; its permissions cannot be read: {why}")))
        }
    }
}

/// Who has a device open.
struct Holders {
    /// `name (pid 42)`, this program's own service left out.
    strangers: Vec<String>,
    is_ours: bool,
    /// Processes whose files cannot be seen.
    hidden: usize,
}

impl Holders {
    fn of(known: &Known, node: &Path) -> Holders {
        let proc = known.root.path("/proc");
        let (held, hidden) = node::holders_of(&proc, node);
        let (ours, strangers): (Vec<String>, Vec<String>) =
            held.into_iter().partition(|h| h.starts_with("attendant (pid "));
        Holders { strangers, is_ours: !ours.is_empty(), hidden }
    }

    fn others(&self) -> Option<String> {
        (!self.strangers.is_empty()).then(|| self.strangers.join(", "))
    }

    /// What there is to say when no stranger holds it.
    fn text(&self) -> String {
        match (self.is_ours, self.hidden) {
            (true, _) => ", and attendant has it open".to_owned(),
            (false, 0) => ", nobody has it open".to_owned(),
            (false, n) => format!(", nobody seen has it open ({n} processes hide their files; run this as root)"),
        }
    }
}

fn microphones(known: &Known) -> Vec<Check> {
    let root = &known.root;
    let mut checks = Vec::new();
    for card in root.names("/proc/asound", "card").iter().filter_map(|n| n.strip_prefix("card")) {
        let Ok(card) = card.parse::<u32>() else { continue };
        let folder = format!("/proc/asound/card{card}");
        for device in root.names(&folder, "pcm").iter().filter_map(|n| n.strip_prefix("pcm")?.strip_suffix('c')) {
            checks.push(microphone(known, card, device));
        }
    }
    if checks.is_empty() {
        checks.push(match root.has("/proc/asound") {
            true => nothing(known, "microphone", SourceKind::Alsa, "no sound card that records"),
            false => nothing(known, "microphone", SourceKind::Alsa, "the kernel has no sound cards (/proc/asound)"),
        });
    }
    checks
}

fn microphone(known: &Known, card: u32, device: &str) -> Check {
    let root = &known.root;
    let (folder, name) = (format!("/proc/asound/card{card}"), format!("pcmC{card}D{device}c"));
    let id = root.text(format!("{folder}/id")).unwrap_or_else(|| card.to_string());
    let info = root.text(format!("{folder}/pcm{device}c/info")).unwrap_or_default();
    let title = info.lines().find_map(|l| l.strip_prefix("name: ")).unwrap_or("no name").trim();
    let formats = root.text(format!("{folder}/stream{device}")).map(|text| usb_formats(&text)).unwrap_or_default();
    let alsa = format!("plughw:CARD={id},DEV={device}");
    let known_formats = !formats.is_empty();
    let formats = if known_formats {
        formats.join(", ")
    } else {
        format!("formats not looked at: only opening it tells them; arecord -D {alsa} --dump-hw-params -d 1 /dev/null")
    };
    let text = format!("{alsa} {title:?}: {formats}");
    let node = Path::new("/dev/snd").join(&name);
    if !root.has(&node) {
        let text = format!("{text}; the kernel has it and {} is not there", node.display());
        return Check::new(TOPIC, &name, Status::Error, text)
            .fix("sudo udevadm trigger; in a container, hand /dev/snd in");
    }
    if let Some(check) = denied(known, &name, &node, &text) {
        return check;
    }
    // alsa-kernel's own word: which thread has the one stream of the hardware
    let status = root.text(format!("{folder}/pcm{device}c/sub0/status")).unwrap_or_default();
    let owner =
        status.lines().find_map(|l| l.strip_prefix("owner_pid")?.trim_start_matches([' ', ':']).parse::<u32>().ok());
    let owner = owner.map(|pid| {
        let comm = root.text(format!("/proc/{pid}/comm")).unwrap_or_else(|| "a process".to_owned());
        format!("{comm} (pid {pid})")
    });
    let holders = Holders::of(known, &node);
    let held = owner.filter(|o| !o.starts_with("attendant (pid ") && !holders.is_ours).or_else(|| holders.others());
    if let Some(held) = held {
        let text = format!("{text}; busy: {held} records from it");
        return Check::new(TOPIC, &name, Status::Error, text).fix(format!("end {held}"));
    }
    let text = format!("{text}; {} may use it{}", known.person.name, holders.text());
    Check::new(TOPIC, &name, if known_formats { Status::Ok } else { Status::Unknown }, text)
}

/// Of the capture half of a `stream0` file, which USB sound cards have.
fn usb_formats(text: &str) -> Vec<String> {
    let (mut found, mut is_capture) = (Vec::new(), false);
    let (mut format, mut channels) = (String::new(), String::new());
    for line in text.lines() {
        let line = line.trim();
        match line.split_once(':').map(|(key, value)| (key, value.trim())) {
            Some(("Playback", _)) => is_capture = false,
            Some(("Capture", _)) => is_capture = true,
            Some(("Format", value)) => format = value.to_owned(),
            Some(("Channels", value)) => channels = value.to_owned(),
            Some(("Rates", value)) if is_capture => found.push(format!("{format} {channels} ch {value} Hz")),
            _ => {}
        }
    }
    found
}

/// Whether the settings use output lines, buttons or sensors on a bus.
fn uses_lines(runtime: &Runtime) -> bool {
    !runtime.output.is_empty()
        || runtime.indicator.is_some()
        || runtime.source.values().any(|s| matches!(s.kind, SourceKind::Gpio | SourceKind::Lm75))
}

/// Permissions of GPIO chips and I2C buses: what one of them cannot open matters only if the settings use it.
fn lines(known: &Known) -> Vec<Check> {
    let is_used = known.runtime().is_some_and(uses_lines);
    let of = |name: &str, prefix: &str| {
        let nodes = known.root.names("/dev", prefix);
        let is_node = |n: &&String| n[prefix.len()..].bytes().all(|b| b.is_ascii_digit());
        let mut open = Vec::new();
        for node in nodes.iter().filter(is_node) {
            match known.person.may_use(&known.root, &Path::new("/dev").join(node), RULES) {
                Access::Yes => open.push(node.as_str()),
                Access::No { why, fix } => {
                    let status = if is_used { Status::Error } else { Status::Warning };
                    return Check::new(TOPIC, name, status, format!("{node}: {why}")).fix(fix);
                }
                Access::Unknown(why) => {
                    let text = format!("{node}: its permissions cannot be read: {why}");
                    return Check::new(TOPIC, name, Status::Unknown, text);
                }
            }
        }
        if open.is_empty() {
            return Check::new(TOPIC, name, Status::Absent, format!("no /dev/{prefix}*"));
        }
        Check::new(TOPIC, name, Status::Ok, format!("{}; {} may use them", open.join(", "), known.person.name))
    };
    vec![of("gpio", "gpiochip"), of("i2c", "i2c-")]
}

/// Driver features that this program was built with, against those that the board's devices use.
fn drivers() -> Check {
    let built = [("v4l", cfg!(feature = "v4l")), ("alsa", cfg!(feature = "alsa")), ("gpio", cfg!(feature = "gpio"))];
    let has: Vec<&str> = built.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let lacks: Vec<&str> = BOARD.drivers.iter().copied().filter(|d| !has.contains(d)).collect();
    let text = if has.is_empty() { "none built in".to_owned() } else { format!("built in: {}", has.join(", ")) };
    if lacks.is_empty() {
        return Check::new(TOPIC, "drivers", Status::Ok, text);
    }
    let (board, all) = (BOARD.name, BOARD.drivers.join(","));
    let text = format!("{text}; the board's devices use {}", BOARD.drivers.join(", "));
    Check::new(TOPIC, "drivers", Status::Absent, text)
        .fix(format!("for devices: BOARD={board} cargo build --release --features {all}"))
}

/// GPIO chips by label, and whether the board's lines are on one of them.
#[cfg(feature = "gpio")]
fn gpio_chips(known: &Known) -> Check {
    if !known.root.is_live() {
        return Check::new(TOPIC, "gpio lines", Status::Unknown, "not looked at: a copy has no driver to ask");
    }
    let chips = attendant::capture::buses::chips();
    let names: Vec<String> = chips.iter().map(|(label, lines)| format!("{label} ({lines} lines)")).collect();
    let is_there = |g: &&attendant::board::Gpio| chips.iter().any(|(label, lines)| label == g.label && g.line < *lines);
    let missing: Vec<&str> = BOARD.gpio.iter().filter(|g| !is_there(g)).map(|g| g.name).collect();
    if names.is_empty() {
        return Check::new(TOPIC, "gpio lines", Status::Absent, "no GPIO chip that can be opened");
    }
    if missing.is_empty() {
        return Check::new(TOPIC, "gpio lines", Status::Ok, names.join(", "));
    }
    let text = format!("{}; lines of the board that are on none of them: {}", names.join(", "), missing.join(", "));
    Check::new(TOPIC, "gpio lines", Status::Warning, text).fix("gpiodetect lists the chips; correct boards/NAME.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_capture_half_of_a_sound_card_is_listed() {
        let text = "Thing at usb-1\n\nPlayback:\n  Interface 1\n    Format: S16_LE\n    Channels: 2\n    Rates: 48000\nCapture:\n  \
                    Status: Stop\n  Interface 2\n    Altset 1\n    Format: S16_LE\n    Channels: 1\n    Rates: 16000, 48000\n    Bits: 16";
        assert_eq!(usb_formats(text), ["S16_LE 1 ch 16000, 48000 Hz"]);
        assert_eq!(usb_formats(""), [""; 0]);
    }
}
