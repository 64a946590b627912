//! Device nodes: which one is meant, who holds it, and what an error of the system means for a source.
//!
//! Called by the drivers and by `doctor`. Reads directories below /dev and /proc, whose roots are arguments; opens no device.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::capture::{CaptureError, ErrorKind};

/// Processes named in a message at most.
const HOLDERS_MAX: usize = 3;

/// Nodes of cameras that `device` can mean, the most stable name first: an absolute path is itself, a bare name stands below
/// `v4l/by-id` or `v4l/by-path`, and `auto` is every camera there is.
#[must_use]
pub fn cameras(dev: &Path, device: &str) -> Vec<PathBuf> {
    if device.starts_with('/') {
        return vec![device.into()];
    }
    if device != "auto" {
        let named = ["v4l/by-id", "v4l/by-path"].map(|dir| dev.join(dir).join(device));
        return match named.iter().find(|path| path.exists()) {
            Some(path) => vec![path.clone()],
            None => named[..1].to_vec(),
        };
    }
    let entries = |dir: PathBuf| -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        found.sort_unstable_by_key(|path| (number_of(path), path.clone()));
        found
    };
    // a USB camera has a second node for its metadata, which by-id calls index1
    let by_id = entries(dev.join("v4l/by-id")).into_iter().filter(|p| p.to_string_lossy().ends_with("-index0"));
    let mut nodes: Vec<PathBuf> = by_id.collect();
    let known: Vec<PathBuf> = nodes.iter().filter_map(|p| fs::canonicalize(p).ok()).collect();
    let plain = entries(dev.into()).into_iter().filter(|p| number_of(p).is_some() && name_of(p).starts_with("video"));
    nodes.extend(plain.filter(|p| fs::canonicalize(p).is_ok_and(|real| !known.contains(&real))));
    nodes
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The number at the end of `video12`: 12 comes after 9.
fn number_of(path: &Path) -> Option<u32> {
    let name = name_of(path);
    name[name.trim_end_matches(|c: char| c.is_ascii_digit()).len()..].parse().ok()
}

/// Processes that have `node` open, as `name (pid 42)`. Other users' processes show only to root.
#[must_use]
pub fn holders(proc: &Path, node: &Path) -> Vec<String> {
    let wanted = fs::canonicalize(node).unwrap_or_else(|_| node.to_path_buf());
    holders_of(proc, &wanted).0
}

/// As [`holders`], where `wanted` is what the links below `proc` say, which may be those of another machine; and how many processes do not
/// show what they have open.
#[must_use]
pub fn holders_of(proc: &Path, wanted: &Path) -> (Vec<String>, usize) {
    let (mut found, mut hidden) = (Vec::new(), 0);
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) else { continue };
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else {
            hidden += 1;
            continue;
        };
        if files.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == wanted)) {
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("{} (pid {pid})", comm.trim()));
            if found.len() == HOLDERS_MAX {
                break;
            }
        }
    }
    (found, hidden)
}

/// What goes on while a device is used, and what mends it.
#[derive(Clone, Copy, Debug)]
pub struct Hints<'a> {
    /// Group whose members may open the device.
    pub group: &'a str,
    /// Root of the process file system.
    pub proc: &'a Path,
}

/// An error of the system on `node` while `doing`, as the supervisor sees it. A device may come back, be released, or get its
/// permissions from a udev rule that has not run yet: every such error asks for reopening, none is final.
#[must_use]
pub fn failed(name: &str, node: &Path, doing: &str, error: &io::Error, hints: Hints<'_>) -> CaptureError {
    let at = if name == node.to_string_lossy() { String::new() } else { format!("{}: ", node.display()) };
    let why = match error.raw_os_error() {
        Some(libc::EBUSY) => match holders(hints.proc, node).as_slice() {
            [] => "is busy; another program holds it (run `fuser -v` on it as root)".to_owned(),
            held => format!("is busy; held by {}; end that program", held.join(", ")),
        },
        Some(libc::EACCES | libc::EPERM) => {
            format!(
                "no permission; run `sudo usermod -aG {} $USER` and log in again, or install the udev rules",
                hints.group
            )
        }
        Some(libc::ENOENT | libc::ENXIO) => "is not there; plug it in".to_owned(),
        Some(libc::ENODEV) => "was unplugged".to_owned(),
        _ => error.to_string(),
    };
    CaptureError::new(ErrorKind::Reopen, name, format!("{at}{doing}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(dev: &Path, device: &str) -> Vec<String> {
        cameras(dev, device).iter().map(|p| p.strip_prefix(dev).unwrap_or(p).display().to_string()).collect()
    }

    #[test]
    fn a_camera_is_found_by_its_stable_name_first() {
        let dir = tempfile::tempdir().unwrap();
        let dev = dir.path();
        assert_eq!(names(dev, "auto"), [""; 0], "no camera at all");
        fs::create_dir_all(dev.join("v4l/by-id")).unwrap();
        fs::create_dir_all(dev.join("v4l/by-path")).unwrap();
        for node in ["video0", "video1", "video2", "video10", "vbi0", "video"] {
            fs::write(dev.join(node), "").unwrap();
        }
        symlink("../../video10", dev.join("v4l/by-id/usb-Cam-video-index0")).unwrap();
        symlink("../../video2", dev.join("v4l/by-id/usb-Cam-video-index1")).unwrap();
        symlink("../../video1", dev.join("v4l/by-path/platform-csi-video-index0")).unwrap();
        assert_eq!(names(dev, "auto"), ["v4l/by-id/usb-Cam-video-index0", "video0", "video1", "video2"]);
        assert_eq!(names(dev, "usb-Cam-video-index0"), ["v4l/by-id/usb-Cam-video-index0"]);
        assert_eq!(names(dev, "platform-csi-video-index0"), ["v4l/by-path/platform-csi-video-index0"]);
        assert_eq!(names(dev, "usb-Other"), ["v4l/by-id/usb-Other"], "one that may be plugged in later");
        assert_eq!(names(dev, "/dev/video7"), ["/dev/video7"]);
    }

    #[test]
    fn a_busy_device_names_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let (proc, node) = (dir.path().join("proc"), dir.path().join("video0"));
        fs::write(&node, "").unwrap();
        let node = fs::canonicalize(node).unwrap();
        let process = |pid: &str, comm: &str, open: &Path| {
            fs::create_dir_all(proc.join(pid).join("fd")).unwrap();
            fs::write(proc.join(pid).join("comm"), format!("{comm}\n")).unwrap();
            symlink(open, proc.join(pid).join("fd/3")).unwrap();
        };
        process("41", "bash", Path::new("/dev/null"));
        process("42", "cheese", &node);
        process("self", "me", &node);
        assert_eq!(holders(&proc, &node), ["cheese (pid 42)"]);
        let hints = Hints { group: "video", proc: &proc };
        let cases = [
            (libc::EBUSY, "is busy; held by cheese (pid 42); end that program"),
            (
                libc::EACCES,
                "no permission; run `sudo usermod -aG video $USER` and log in again, or install the udev rules",
            ),
            (libc::ENOENT, "is not there; plug it in"),
            (libc::ENODEV, "was unplugged"),
            (libc::EIO, "Input/output error (os error 5)"),
        ];
        for (code, expect) in cases {
            let error = failed("camera", &node, "opening", &io::Error::from_raw_os_error(code), hints);
            assert_eq!(error.kind, ErrorKind::Reopen, "{expect}: a device may come back");
            assert_eq!(error.to_string(), format!("camera: {}: opening: {expect}", node.display()));
        }
    }
}
