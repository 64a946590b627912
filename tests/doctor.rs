//! `attendant doctor` on made-up machines: trees of the kernel's and the system's files, one thing wrong with each.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A machine.
struct Tree {
    dir: TempDir,
    /// Group of everything in it: the test's own, because only root can give files away.
    gid: u32,
}

/// Group number of a device where the test runs as root: group 0 would be no group to join.
const VIDEO: u32 = 44;

const DF: &str =
    "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/mmcblk0p2 30000000 9000000 20000000 31% /\n";

const SYSTEMCTL: &str = "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nNRestarts=0\nMainPID=7\nNeedDaemonReload=no\n";

impl Tree {
    /// A Raspberry Pi on which everything is as it should be.
    fn healthy() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        let own = fs::metadata(dir.path()).unwrap().gid();
        let tree = Tree { dir, gid: if own == 0 { VIDEO } else { own } };
        tree.write("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.5\0");
        tree.write("proc/meminfo", "MemTotal: 3884356 kB\nMemAvailable: 3400000 kB\n");
        tree.write("proc/mounts", "/dev/mmcblk0p2 / ext4 rw,noatime 0 0\n");
        tree.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nattendant:x:990:990::/var/lib/attendant:/usr/sbin/nologin\nvisitor:x:991:991::/:/bin/sh\n");
        tree.write("etc/group", &format!("attendant:x:990:\nvideo:x:{}:someone,attendant\n", tree.gid));
        tree.write("etc/attendant/attendant.toml", "[source.camera]\nkind = \"v4l2\"\n[source.mic]\nkind = \"alsa\"\n");
        tree.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "arch_sys_counter\n");
        tree.write("run/systemd/timesync/synchronized", "");
        tree.write("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
        tree.write("sys/class/thermal/thermal_zone0/temp", "48300\n");
        tree.write("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical\n");
        tree.write("sys/class/thermal/thermal_zone0/trip_point_0_temp", "110000\n");
        tree.write("sys/devices/platform/soc/soc:firmware/get_throttled", "0\n");
        tree.write("usr/bin/attendant", "");
        tree.write("usr/lib/systemd/system/attendant.service", include_str!("../deploy/systemd/attendant.service"));
        tree.write("run/systemd/system/x", "");
        fs::create_dir_all(tree.path("etc/systemd/system/multi-user.target.wants")).unwrap();
        symlink(
            "/usr/lib/systemd/system/attendant.service",
            tree.path("etc/systemd/system/multi-user.target.wants/attendant.service"),
        )
        .unwrap();
        tree.write("attendant-doctor/systemctl", SYSTEMCTL);
        tree.write("attendant-doctor/df", DF);
        fs::create_dir_all(tree.path("var/lib/attendant")).unwrap();
        tree.mode("var/lib/attendant", 0o770);
        tree.camera();
        tree.microphone();
        tree
    }

    fn camera(&self) {
        self.write("dev/video0", "");
        self.mode("dev/video0", 0o660);
        self.write("sys/class/video4linux/video0/name", "HD Webcam\n");
        self.write("sys/class/video4linux/video0/index", "0\n");
        fs::create_dir_all(self.path("sys/devices/usb1/1-1/1-1:1.0")).unwrap();
        symlink("../../../devices/usb1/1-1/1-1:1.0", self.path("sys/class/video4linux/video0/device")).unwrap();
        self.descriptors(b"YUY2");
        fs::create_dir_all(self.path("dev/v4l/by-id")).unwrap();
        symlink("../../video0", self.path("dev/v4l/by-id/usb-HD_Webcam-video-index0")).unwrap();
    }

    /// An interface that streams one format at 640 x 480, 30 frames a second (USB Video Class 1.5).
    fn descriptors(&self, code: &[u8; 4]) {
        let mut bytes = vec![9, 4, 1, 0, 1, 0x0e, 2, 0, 0];
        bytes.extend([27, 0x24, 4, 1, 1]);
        bytes.extend(code);
        bytes.extend([0; 18]);
        bytes.extend([30, 0x24, 5, 1, 0, 0x80, 2, 0xe0, 1]);
        bytes.extend([0; 17]);
        bytes.extend(333_333_u32.to_le_bytes());
        fs::write(self.path("sys/devices/usb1/1-1/descriptors"), bytes).unwrap();
    }

    fn microphone(&self) {
        self.write("dev/snd/pcmC1D0c", "");
        self.mode("dev/snd/pcmC1D0c", 0o660);
        self.write("proc/asound/card1/id", "Webcam\n");
        self.write("proc/asound/card1/pcm0c/info", "card: 1\nname: USB Audio\n");
        self.write("proc/asound/card1/pcm0c/sub0/status", "closed\n");
        self.write("proc/asound/card1/stream0", "Capture:\n  Format: S16_LE\n  Channels: 1\n  Rates: 16000\n");
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn mode(&self, path: &str, mode: u32) {
        let path = self.path(path);
        if fs::metadata(&path).unwrap().gid() != self.gid {
            chown(&path, None, Some(self.gid)).unwrap();
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    fn process(&self, pid: u32, comm: &str, open: &str) {
        self.write(&format!("proc/{pid}/comm"), &format!("{comm}\n"));
        fs::create_dir_all(self.path(&format!("proc/{pid}/fd"))).unwrap();
        if !open.is_empty() {
            symlink(open, self.path(&format!("proc/{pid}/fd/7"))).unwrap();
        }
    }
}

fn doctor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attendant")).arg("doctor").args(args).output().unwrap()
}

/// The document, which has to be well-formed whatever was found.
fn document(output: &Output) -> Value {
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!("{e}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    });
    assert_eq!(document["v"], 1);
    let checks = document["checks"].as_array().unwrap();
    let has = |status: &str| checks.iter().any(|c| c["status"] == status);
    let worst = if has("error") {
        "error"
    } else if has("warning") || has("unknown") {
        "warning"
    } else {
        "ok"
    };
    assert_eq!(document["status"], worst, "{document:#}");
    assert_eq!(output.status.code(), Some(i32::from(worst == "error")), "{document:#}");
    for check in checks {
        assert!(
            ["topic", "name", "status", "text"].iter().all(|k| check[k].as_str().is_some_and(|s| !s.is_empty())),
            "{check}"
        );
        let needs_fix = check["status"] == "error" && check["topic"] != "bundle";
        assert!(!needs_fix || check["fix"].is_string(), "an error without the way to mend it: {check}");
    }
    document
}

/// What is wrong, how it is made, and what is said of it.
struct Case {
    name: &'static str,
    break_it: fn(&Tree),
    /// More arguments.
    args: &'static [&'static str],
    /// Topic and name of the check.
    check: (&'static str, &'static str),
    status: &'static str,
    text: &'static str,
    /// Empty where nothing is to be mended.
    fix: &'static str,
    /// Whether it makes other things wrong too.
    has_others: bool,
}

const fn case(name: &'static str, break_it: fn(&Tree), check: (&'static str, &'static str)) -> Case {
    Case { name, break_it, args: &[], check, status: "ok", text: "", fix: "", has_others: false }
}

impl Case {
    const fn says(self, status: &'static str, text: &'static str, fix: &'static str) -> Case {
        Case { status, text, fix, ..self }
    }

    const fn among_others(self) -> Case {
        Case { has_others: true, ..self }
    }

    const fn with(self, args: &'static [&'static str]) -> Case {
        Case { args, ..self }
    }

    /// One line for the table of failures.
    fn failure(&self) -> Option<String> {
        let tree = Tree::healthy();
        (self.break_it)(&tree);
        let root = tree.dir.path().to_str().unwrap();
        let document = document(&doctor(&[&["--json", "--root", root], self.args].concat()));
        let (topic, name) = self.check;
        let checks = document["checks"].as_array().unwrap();
        let Some(check) = checks.iter().find(|c| c["topic"] == topic && c["name"] == name) else {
            return Some(format!("{}: no check {topic} {name} in {document:#}", self.name));
        };
        let has = |key: &str, piece: &str| check[key].as_str().unwrap_or_default().contains(piece);
        let is_fine = check["status"] == self.status && has("text", self.text) && has("fix", self.fix);
        // one thing is broken, so nothing else may be an error
        let others: Vec<&Value> = checks.iter().filter(|c| c["status"] == "error" && *c != check).collect();
        (!is_fine || others.is_empty() == self.has_others)
            .then(|| format!("{}: {check:#}\nother errors: {others:?}", self.name))
    }
}

fn check(cases: &[Case]) {
    let failures: Vec<String> = cases.iter().filter_map(Case::failure).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

const CAMERA: (&str, &str) = ("devices", "video0");
const MIC: (&str, &str) = ("devices", "pcmC1D0c");

#[test]
fn devices_are_listed_with_formats_permissions_and_holders() {
    check(&[
        case("a camera", |_| (), CAMERA).says("ok", "\"HD Webcam\": YUY2 640x480 at 30/s; attendant may use it", ""),
        case("its name for the settings", |_| (), CAMERA).says("ok", "usb-HD_Webcam-video-index0", ""),
        case("a busy camera", |t| t.process(42, "cheese", "/dev/video0"), CAMERA).says(
            "warning",
            "open in cheese (pid 42)",
            "end cheese (pid 42)",
        ),
        case("its own service", |t| t.process(42, "attendant", "/dev/video0"), CAMERA).says(
            "ok",
            "attendant has it open",
            "",
        ),
        case("no permission", |t| t.write("etc/group", &format!("video:x:{}:someone\n", t.gid)), CAMERA)
            .says(
                "error",
                "no permission for attendant: video 660",
                "sudo usermod -aG video attendant, then sudo systemctl restart attendant",
            )
            .among_others(),
        case("another user", |_| (), CAMERA)
            .with(&["--user", "visitor"])
            .says("error", "no permission for visitor", "usermod -aG video visitor, then log in again")
            .among_others(),
        case("root", |_| (), CAMERA).with(&["--user", "root"]).says("ok", "root may use it", ""),
        case("a group that opens nothing", |t| t.mode("dev/video0", 0o600), CAMERA).says(
            "error",
            "video 600",
            "60-attendant.rules",
        ),
        case("a format that is not read", |t| t.descriptors(b"H264"), CAMERA).says(
            "error",
            "none of these formats is read",
            "converts",
        ),
        case("formats that cannot be looked at", |t| t.remove("sys/devices/usb1/1-1/descriptors"), CAMERA).says(
            "unknown",
            "formats not looked at",
            "",
        ),
        case(
            "a camera's second node",
            |t| t.write("sys/class/video4linux/video0/index", "1"),
            ("devices", "other nodes"),
        )
        .says("ok", "video0 HD Webcam", "")
        .among_others(),
        case(
            "a CSI sensor",
            |t| t.write("sys/class/video4linux/video0/name", "unicam-image"),
            ("devices", "csi camera"),
        )
        .says("warning", "raw data", "rpicam-vid"),
        case("no camera, and one is wanted", |t| t.remove("dev/video0"), ("devices", "camera")).says(
            "error",
            "the settings name one",
            "plug it in",
        ),
        case("a microphone", |_| (), MIC).says(
            "ok",
            "plughw:CARD=Webcam,DEV=0 \"USB Audio\": S16_LE 1 ch 16000 Hz; attendant may use it",
            "",
        ),
        case(
            "a busy microphone",
            |t| {
                t.process(43, "arecord", "");
                t.write("proc/asound/card1/pcm0c/sub0/status", "state: RUNNING\nowner_pid   : 43\n");
            },
            MIC,
        )
        .says("error", "busy: arecord (pid 43) records from it", "end arecord"),
        case("a microphone without a node", |t| t.remove("dev/snd/pcmC1D0c"), MIC).says(
            "error",
            "is not there",
            "hand /dev/snd in",
        ),
        case(
            "a GPIO chip that is not used",
            |t| {
                t.write("dev/gpiochip0", "");
                t.mode("dev/gpiochip0", 0o600);
            },
            ("devices", "gpio"),
        )
        .says("warning", "gpiochip0: no permission", "60-attendant.rules"),
    ]);
}

#[test]
fn heat_and_power_are_judged() {
    const PI: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";
    const ZONE: (&str, &str) = ("thermal", "cpu-thermal");
    const POWER: (&str, &str) = ("thermal", "power");
    check(&[
        case("cool", |_| (), ZONE).says("ok", "48 C; switches off from 110 C", ""),
        case("past the board's budget", |t| t.write("sys/class/thermal/thermal_zone0/temp", "84000"), ZONE)
            .says("warning", "84 C", "cooling"),
        case("about to switch off", |t| t.write("sys/class/thermal/thermal_zone0/temp", "106000"), ZONE)
            .says("error", "106 C", "cooling"),
        case("a broken sensor", |t| t.write("sys/class/thermal/thermal_zone0/temp", "-274000"), ZONE).says(
            "unknown",
            "no temperature",
            "",
        ),
        case("no zone", |t| t.remove("sys/class/thermal"), ("thermal", "zones")).says("unknown", "no thermal zone", ""),
        case("no undervoltage", |_| (), POWER).says("ok", "no undervoltage", ""),
        case("undervoltage", |t| t.write(PI, "50005"), POWER).says("error", "too low at this moment", "power supply"),
        case("undervoltage since the start", |t| t.write(PI, "0x50000"), POWER).says(
            "warning",
            "since the start",
            "power supply",
        ),
        case("nonsense", |t| t.write(PI, "yes"), POWER).says("unknown", "expected hexadecimal", ""),
        case(
            "undervoltage by the kernel's driver",
            |t| {
                t.remove("sys/devices/platform/soc");
                t.write("sys/class/hwmon/hwmon1/name", "rpi_volt");
                t.write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1");
            },
            POWER,
        )
        .says("error", "rpi_volt: in0_lcrit_alarm", "power supply"),
        case(
            "a Jetson's supply",
            |t| {
                t.remove("sys/devices/platform/soc");
                t.write("sys/class/hwmon/hwmon3/oc2_event_cnt", "4");
            },
            POWER,
        )
        .says("warning", "oc2_event_cnt = 4", "power supply"),
        case("no sensor", |t| t.remove("sys/devices/platform/soc"), POWER).says(
            "unknown",
            "undervoltage would not show",
            "",
        ),
    ]);
}

#[test]
fn room_is_looked_at_where_the_service_writes() {
    const STATE: (&str, &str) = ("storage", "state");
    check(&[
        case("room", |_| (), STATE).says("ok", "/var/lib/attendant: 20480 MB free", ""),
        case("a full disk", |t| t.write("attendant-doctor/df", "x 30000000 29999000 1000 100% /\n"), STATE)
            .says("error", "full", "vacuum"),
        case("nearly", |t| t.write("attendant-doctor/df", "x 4000000 3700000 300000 93% /\n"), STATE).says(
            "warning",
            "nearly full",
            "vacuum",
        ),
        case("unknown", |t| t.remove("attendant-doctor/df"), STATE).says(
            "unknown",
            "the copy has no attendant-doctor/df",
            "",
        ),
        case("read-only", |t| t.write("proc/mounts", "a / ext4 ro,noatime 0 0\n"), STATE).says(
            "error",
            "mounted read-only",
            "remount,rw /",
        ),
        case(
            "a read-only root with writable state",
            |t| t.write("proc/mounts", "a / squashfs ro 0 0\nb /var/lib ext4 rw 0 0\n"),
            ("storage", "root"),
        )
        .says("ok", "read-only", ""),
        case("not the service's", |t| t.mode("var/lib/attendant", 0o700), STATE).says(
            "error",
            "no permission",
            "chown attendant /var/lib/attendant",
        ),
        case("not yet made", |t| t.remove("var/lib/attendant"), STATE).says(
            "warning",
            "is not there",
            "systemctl start",
        ),
        case(
            "events elsewhere",
            |t| t.write("etc/attendant/attendant.toml", "[[sink]]\nkind = \"jsonl\"\npath = \"/data/events.jsonl\"\n"),
            ("storage", "events"),
        )
        .says("error", "/data is not there", "install -d -o attendant /data"),
    ]);
}

#[test]
fn the_service_and_its_settings_are_looked_at() {
    const STATE: (&str, &str) = ("service", "state");
    const UNIT: (&str, &str) = ("service", "unit");
    check(&[
        case("it runs", |_| (), STATE).says("ok", "active (running), restarted 0 times, process 7", ""),
        case("enabled", |_| (), UNIT).says("ok", "runs /usr/bin/attendant as attendant; enabled", ""),
        case(
            "failed",
            |t| t.write("attendant-doctor/systemctl", "ActiveState=failed\nResult=exit-code\nExecMainStatus=3\n"),
            STATE,
        )
        .says("error", "failed: exit-code, exit 3", "journalctl -u attendant"),
        case(
            "restarted",
            |t| t.write("attendant-doctor/systemctl", "ActiveState=active\nNRestarts=4\nResult=watchdog\n"),
            STATE,
        )
        .says("warning", "4 times", "journalctl"),
        case("no systemd", |t| t.remove("run/systemd/system"), STATE).says(
            "warning",
            "systemd does not run here",
            "supervisor",
        ),
        case("systemctl says nothing", |t| t.remove("attendant-doctor/systemctl"), STATE).says(
            "unknown",
            "not known",
            "",
        ),
        case("not enabled", |t| t.remove("etc/systemd/system/multi-user.target.wants"), UNIT).says(
            "warning",
            "not enabled",
            "systemctl enable --now",
        ),
        case("no program", |t| t.remove("usr/bin/attendant"), UNIT).says(
            "error",
            "/usr/bin/attendant is not there",
            "install",
        ),
        case("not installed", |t| t.remove("usr/lib/systemd/system/attendant.service"), UNIT).says(
            "absent",
            "no attendant.service",
            "docs/deploy.md",
        ),
        case(
            "a drop-in without a watchdog",
            |t| t.write("etc/systemd/system/attendant.service.d/x.conf", "[Service]\nWatchdogSec=0\n"),
            ("service", "watchdog"),
        )
        .says("warning", "WatchdogSec=0", "systemctl edit"),
        case("settings", |_| (), ("service", "settings")).says(
            "ok",
            "/etc/attendant/attendant.toml: sources camera, mic",
            "",
        ),
        case(
            "wrong settings",
            |t| t.write("etc/attendant/attendant.toml", "\nlanguag = \"en\"\n"),
            ("service", "settings"),
        )
        .says("error", "attendant.toml:2", "correct /etc/attendant/attendant.toml"),
        case("no settings", |t| t.remove("etc/attendant/attendant.toml"), ("service", "settings")).says(
            "error",
            "is not there",
            "reinstall",
        ),
    ]);
}

#[test]
fn clock_memory_and_processor_are_looked_at() {
    const CALENDAR: (&str, &str) = ("clock", "calendar");
    const SYNCHRONIZED: &str = "run/systemd/timesync/synchronized";
    check(&[
        case("synchronised", |_| (), CALENDAR).says("ok", "synchronised", ""),
        case(
            "not",
            |t| {
                t.remove(SYNCHRONIZED);
                t.process(9, "systemd-timesyn", "");
            },
            CALENDAR,
        )
        .says("warning", "systemd-timesyncd runs and has not set it", "timedatectl set-ntp"),
        case(
            "the kernel says no",
            |t| {
                t.remove(SYNCHRONIZED);
                t.write("attendant-doctor/timedatectl", "no\n");
            },
            CALENDAR,
        )
        .says("warning", "no program sets it", "timedatectl set-ntp"),
        case(
            "the kernel says yes",
            |t| {
                t.remove(SYNCHRONIZED);
                t.write("attendant-doctor/timedatectl", "yes\n");
                t.process(9, "chronyd", "");
            },
            CALENDAR,
        )
        .says("ok", "synchronised by chronyd", ""),
        case(
            "chrony alone",
            |t| {
                t.remove(SYNCHRONIZED);
                t.process(9, "chronyd", "");
            },
            CALENDAR,
        )
        .says("unknown", "chronyd runs", "chronyc"),
        case("nothing known", |t| t.remove(SYNCHRONIZED), CALENDAR).says("unknown", "not known", ""),
        case(
            "a poor clock source",
            |t| t.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "jiffies"),
            ("clock", "monotonic"),
        )
        .says("warning", "jiffies", "clocksource="),
        case("little memory", |t| t.write("proc/meminfo", "MemAvailable: 9000 kB\n"), ("processor", "memory")).says(
            "warning",
            "9 MB available",
            "ps ",
        ),
        case("no memory file", |t| t.remove("proc/meminfo"), ("processor", "memory")).says(
            "unknown",
            "no /proc/meminfo",
            "",
        ),
        case(
            "the lowest frequency",
            |t| t.write("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
            ("processor", "cpu"),
        )
        .says("warning", "governor powersave", "schedutil"),
        case("the model", |_| (), ("processor", "board")).says("ok", "this is a Raspberry Pi 4 Model B Rev 1.5", ""),
        case("a copy says that it is one", |_| (), ("processor", "copy")).says(
            "unknown",
            "of the copy below --root",
            "",
        ),
        case("a copy has no bundle", |_| (), ("bundle", "load")).says("unknown", "the copy has none", "--bundle"),
    ]);
}

#[test]
fn text_for_people_has_the_command_that_mends() {
    let tree = Tree::healthy();
    tree.mode("dev/video0", 0o600);
    let output = doctor(&["--root", tree.dir.path().to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("FAIL  video0") && text.contains("-> install deploy/udev/60-attendant.rules"), "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("to be mended: devices video0"));
}

#[test]
fn a_name_of_a_device_does_not_steer_the_terminal() {
    let tree = Tree::healthy();
    tree.write("sys/class/video4linux/video0/name", "a\x1b]0;b\x07");
    let output = doctor(&["--root", tree.dir.path().to_str().unwrap()]);
    assert!(!output.stdout.contains(&0x1b) && !output.stdout.contains(&0x07));
}

#[test]
fn wrong_arguments_are_usage_errors_that_name_them() {
    let tree = Tree::healthy();
    let root = tree.dir.path().to_str().unwrap();
    for (args, said) in [
        (&["--root", "/no/such/folder"][..], "--root /no/such/folder"),
        (&["--root", root, "--user", "nobody-of-this-name"], "--user nobody-of-this-name: not in"),
        (&["--root", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")], "name a directory"),
    ] {
        let output = doctor(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
}

#[test]
fn this_machine_can_be_looked_at_and_its_bundle_loads() {
    let document = document(&doctor(&["--json"]));
    let checks = document["checks"].as_array().unwrap();
    for topic in ["processor", "bundle", "devices", "clock", "thermal", "storage", "service"] {
        assert!(checks.iter().any(|c| c["topic"] == topic), "no check of {topic}");
    }
    let of = |name: &str| checks.iter().find(|c| c["topic"] == "bundle" && c["name"] == name).unwrap_or(&Value::Null);
    assert_eq!(of("load")["status"], "ok", "{document:#}");
    assert_eq!(of("digest")["text"].as_str().map(str::len), Some(64), "SHA-256");
    let kernels = of("kernels")["text"].as_str().unwrap();
    assert!(kernels.contains("card.int8.onnx") && kernels.contains("int8 steps on "), "{kernels}");
}

#[test]
fn a_copy_that_the_script_made_of_this_machine_can_be_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dump.sh");
    let made = Command::new("sh").arg(&script).arg(&copy).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let document = document(&doctor(&["--json", "--root", copy.to_str().unwrap()]));
    let room = document["checks"].as_array().unwrap().iter().find(|c| c["topic"] == "storage" && c["name"] == "root");
    assert_ne!(room.unwrap()["status"], "unknown", "the mounts were copied: {document:#}");
    assert_eq!(Command::new("sh").arg(&script).status().unwrap().code(), Some(2), "without a directory");
}
