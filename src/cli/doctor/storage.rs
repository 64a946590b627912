//! Room where the service writes: its state, its event files, the queue for a broker.

use std::path::{Path, PathBuf};

use super::access::Access;
use super::{Check, Known, Status};

const TOPIC: &str = "storage";

/// The service's state directory, as deploy/systemd has it.
const STATE: &str = "/var/lib/attendant";

/// Less than this, and less than this share, is full: some next write fails.
const FULL: (u64, f64) = (16 << 20, 0.05);

/// Less than this, and less than this share, is nearly full.
const SCARCE: (u64, f64) = (512 << 20, 0.1);

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Room {
    total_bytes: u64,
    /// For somebody who is not root.
    free_bytes: u64,
    /// Names that can still be given; None where there is no bound or it is not known.
    free_files: Option<u64>,
}

/// Every place that is written to, and how the root is mounted.
pub fn check(known: &Known) -> Vec<Check> {
    let mut checks: Vec<Check> = places(known).iter().map(|(name, path)| place(known, name, path)).collect();
    checks.push(root_mount(known));
    checks
}

/// Name and directory; recordings by hand go where they are told, which by default is where the program works.
fn places(known: &Known) -> Vec<(&'static str, PathBuf)> {
    let state = known.unit.as_ref().and_then(|u| u.value("StateDirectory"));
    let state = state.map_or(PathBuf::from(STATE), |name| Path::new("/var/lib").join(name));
    let working = known.unit.as_ref().and_then(|u| u.value("WorkingDirectory")).map(PathBuf::from);
    let mut places = Vec::new();
    if known.unit.is_some() || known.root.has(&state) {
        places.push(("state", state));
    } else if known.root.is_live() {
        places.push(("here", std::env::current_dir().unwrap_or_else(|_| "/".into())));
    }
    places.extend(working.map(|dir| ("recordings", dir)));
    if let Some(runtime) = known.runtime() {
        let sinks = runtime.sink.iter().map(|s| &s.path).filter(|p| p.as_os_str() != "-");
        places.extend(sinks.filter_map(|file| Some(("events", file.parent()?.to_owned()))));
        places.extend(runtime.recording.iter().map(|r| ("ring", r.dir.clone())));
        places.extend(runtime.mqtt.iter().filter_map(|m| Some(("mqtt queue", m.queue_dir.clone()?))));
    }
    // the settings' paths are made absolute with the place of their file, which in a copy is below its root
    for (_, path) in &mut places {
        *path = if known.root.is_live() { path.clone() } else { known.root.name(path) };
    }
    let mut seen: Vec<PathBuf> = Vec::new();
    places.retain(|(_, path)| {
        !seen.contains(path) && {
            seen.push(path.clone());
            true
        }
    });
    places
}

fn place(known: &Known, name: &str, path: &Path) -> Check {
    let shown = path.display();
    if !known.root.has(path) {
        let text = format!("{shown} is not there");
        // systemd makes the state directory at the first start
        let (status, fix) = match name {
            "state" => (Status::Warning, "sudo systemctl start attendant makes it".to_owned()),
            _ => (Status::Error, format!("sudo install -d -o {} {shown}", known.person.name)),
        };
        return Check::new(TOPIC, name, status, text).fix(fix);
    }
    if let Some(mount) = Mount::of(known, path).filter(|m| m.is_read_only) {
        let text = format!("{shown} is on {}, which is mounted read-only", mount.point.display());
        let fix = format!(
            "sudo mount -o remount,rw {}; if it went read-only by itself: dmesg, and a new card",
            mount.point.display()
        );
        return Check::new(TOPIC, name, Status::Error, text).fix(fix);
    }
    let rules = format!("sudo chown {} {shown}", known.person.name);
    if let Access::No { why, .. } = known.person.may_use(&known.root, path, &rules) {
        return Check::new(TOPIC, name, Status::Error, format!("{shown}: {why}")).fix(rules);
    }
    match room(known, path) {
        Ok(room) => judge(name, &shown.to_string(), room),
        Err(why) => Check::new(TOPIC, name, Status::Unknown, format!("{shown}: its room cannot be told: {why}")),
    }
}

fn judge(name: &str, shown: &str, room: Room) -> Check {
    let share = room.free_bytes as f64 / room.total_bytes.max(1) as f64;
    let (free_mb, total_mb) = (room.free_bytes / 1_000_000, room.total_bytes / 1_000_000);
    let text = format!("{shown}: {free_mb} MB free of {total_mb} MB ({:.0} %)", share * 100.0);
    let fix = "sudo journalctl --vacuum-size=16M; move recordings elsewhere; sudo du -xh / | sort -h | tail";
    match () {
        () if room.free_files == Some(0) => {
            Check::new(TOPIC, name, Status::Error, format!("{text}, and no file can be made: every inode is used"))
                .fix(fix)
        }
        () if room.total_bytes == 0 => {
            Check::new(TOPIC, name, Status::Unknown, format!("{shown}: its file system does not tell its size"))
        }
        () if room.free_bytes < FULL.0 && share < FULL.1 => {
            Check::new(TOPIC, name, Status::Error, format!("{text}: full")).fix(fix)
        }
        () if room.free_bytes < SCARCE.0 && share < SCARCE.1 => {
            Check::new(TOPIC, name, Status::Warning, format!("{text}: nearly full")).fix(fix)
        }
        () => Check::new(TOPIC, name, Status::Ok, text),
    }
}

fn room(known: &Known, path: &Path) -> Result<Room, String> {
    if known.root.is_live() {
        let fs = rustix::fs::statvfs(path).map_err(|e| e.to_string())?;
        let free_files = (fs.f_files > 0).then_some(fs.f_favail);
        let (total_bytes, free_bytes) = (fs.f_blocks * fs.f_frsize, fs.f_bavail * fs.f_frsize);
        return Ok(Room { total_bytes, free_bytes, free_files });
    }
    room_of(&known.root.ask("df", &["-kP"])?, path).ok_or_else(|| "df -kP does not list its file system".to_owned())
}

/// From the output of `df -kP`: of the mount points above `path` the longest.
fn room_of(df: &str, path: &Path) -> Option<Room> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, total, _, free, _, point] = fields[..] else { return None };
        let bytes = |kb: &str| kb.parse::<u64>().ok()?.checked_mul(1024);
        let room = Room { total_bytes: bytes(total)?, free_bytes: bytes(free)?, free_files: None };
        path.starts_with(point).then_some((point.len(), room))
    };
    df.lines().filter_map(row).max_by_key(|(len, _)| *len).map(|(_, room)| room)
}

/// A line of /proc/mounts.
struct Mount {
    point: PathBuf,
    is_read_only: bool,
}

impl Mount {
    /// The file system that `path` is on.
    fn of(known: &Known, path: &Path) -> Option<Mount> {
        let text = known.root.text("/proc/mounts")?;
        let row = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            let (point, options) = (fields.next()?, fields.nth(1)?);
            let is_read_only = options.split(',').any(|o| o == "ro");
            path.starts_with(point).then(|| Mount { point: point.into(), is_read_only })
        };
        // of two on one point the later covers the earlier, which is what max_by_key takes
        text.lines().filter_map(row).max_by_key(|m| m.point.as_os_str().len())
    }
}

fn root_mount(known: &Known) -> Check {
    match Mount::of(known, Path::new("/")) {
        None => {
            Check::new(TOPIC, "root", Status::Unknown, "how / is mounted is not known: /proc/mounts does not say it")
        }
        Some(mount) if mount.is_read_only => Check::new(
            TOPIC,
            "root",
            Status::Ok,
            "read-only: power may be cut; settings change in the image or after a remount",
        ),
        Some(_) => Check::new(TOPIC, "root", Status::Ok, "writable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_judged_by_bytes_by_share_and_by_files() {
        let (mb, gb) = (1_000_000, 1_000_000_000);
        for (case, total, free, files, expected) in [
            ("plenty", 32 * gb, 20 * gb, Some(1000), Status::Ok),
            ("a large disk with some room", 100 * gb, 4 * gb, None, Status::Ok),
            ("a small card nearly full", 2 * gb, 180 * mb, None, Status::Warning),
            ("a small partition with room", 64 * mb, 50 * mb, None, Status::Ok),
            ("full", 32 * gb, 10 * mb, None, Status::Error),
            ("no inode", 32 * gb, 20 * gb, Some(0), Status::Error),
            ("a small partition that is full", 64 * mb, 2 * mb, None, Status::Error),
            ("no size at all", 0, 0, None, Status::Unknown),
        ] {
            let check = judge("state", "/x", Room { total_bytes: total, free_bytes: free, free_files: files });
            assert_eq!(check.status, expected, "{case}: {check:?}");
        }
    }

    #[test]
    fn the_longest_mount_point_above_counts() {
        let df = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/a 1000 500 500 50% /\n/dev/b 2000 1 1999 1% /var/lib\nnonsense";
        let free = |path: &str| room_of(df, Path::new(path)).map(|r| r.free_bytes / 1024);
        assert_eq!(
            (free("/var/lib/attendant"), free("/var/library"), free("/etc")),
            (Some(1999), Some(500), Some(500))
        );
        assert_eq!(room_of("", Path::new("/")), None);
    }
}
