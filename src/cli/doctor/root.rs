//! The tree that is looked at: this machine's, or a copy of another's below some directory.
//!
//! A copy comes from a stranger: files are read up to a bound, and no symbolic link leads out of it. What only a program can tell of a
//! running machine stands in files of the copy, see [`Root::ask`].

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use attendant::time::{Clock as _, Micros, MonotonicClock};

/// Most bytes of a file that are looked at.
const BYTES_MAX: u64 = 1 << 20;

/// How long a program may take to answer.
const PATIENCE: Micros = Micros::from_ms(5000);

/// Between two looks at whether it has.
const PAUSE: Micros = Micros::from_ms(10);

/// Where a copy keeps the answers of programs.
const ANSWERS: &str = "attendant-doctor";

/// The tree.
#[derive(Clone, Debug)]
pub struct Root {
    dir: PathBuf,
}

impl Root {
    /// The tree below `dir`.
    ///
    /// # Errors
    /// The system's, if there is no such directory.
    pub fn new(dir: &Path) -> io::Result<Root> {
        let dir = fs::canonicalize(dir)?;
        if !dir.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Root { dir })
    }

    /// Whether it is the machine that this runs on.
    pub fn is_live(&self) -> bool {
        self.dir == Path::new("/")
    }

    /// Where `path`, which is absolute in the tree, stands on this machine.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.dir.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What `path` of this machine is called in the tree.
    pub fn name(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(&self.dir).unwrap_or(path))
    }

    /// `path` of the tree with its links followed, as a path of this machine; an error if they lead out of the tree.
    pub fn resolve(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let real = fs::canonicalize(self.path(path))?;
        if real.starts_with(&self.dir) { Ok(real) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// The bytes of a file.
    pub fn bytes(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let real = self.resolve(path)?;
        // a pipe of a copy would never end
        if !fs::metadata(&real)?.is_file() {
            return Err(io::Error::other("is no regular file"));
        }
        let mut bytes = Vec::new();
        fs::File::open(real)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A file as text, without the space around it.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let bytes = self.bytes(path)?;
        Ok(String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
    }

    /// As [`Root::read`], where it does not matter why it cannot be read.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        self.read(path).ok()
    }

    /// A file that holds one number.
    pub fn number(&self, path: impl AsRef<Path>) -> Option<f64> {
        self.text(path)?.parse().ok()
    }

    /// Whether there is something of this name.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.resolve(path).is_ok()
    }

    /// Names in the directory `dir` that start with `prefix`, in the order of the number at their end, then of the names.
    pub fn names(&self, dir: impl AsRef<Path>, prefix: &str) -> Vec<String> {
        let Ok(real) = self.resolve(dir) else { return vec![] };
        let entries = fs::read_dir(real).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|n| n.starts_with(prefix)).collect();
        let number = |name: &str| -> u32 {
            name[name.trim_end_matches(|c: char| c.is_ascii_digit()).len()..].parse().unwrap_or(0)
        };
        names.sort_unstable_by_key(|name| (number(name), name.clone()));
        names
    }

    /// What `program` says; of a copy, the file that holds what it said.
    ///
    /// # Errors
    /// Why there is no answer, as a piece of a sentence.
    pub fn ask(&self, program: &str, args: &[&str]) -> Result<String, String> {
        if self.is_live() {
            return answer(program, args);
        }
        let path = Path::new("/").join(ANSWERS).join(program);
        self.read(&path).map_err(|_| format!("the copy has no {ANSWERS}/{program}"))
    }
}

/// The standard output of a program of this machine.
fn answer(program: &str, args: &[&str]) -> Result<String, String> {
    let spawned = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|e| format!("{program}: {e}"))?;
    let clock = MonotonicClock::new();
    while child.try_wait().map_err(|e| format!("{program}: {e}"))?.is_none() {
        if clock.now() >= PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{program} did not answer within {} s", PATIENCE.as_ms() / 1000));
        }
        clock.sleep_until(clock.now() + PAUSE);
    }
    let output = child.wait_with_output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.lines().next().unwrap_or("it failed and said nothing")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_copy_leads_nowhere_else() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        fs::create_dir(dir.path().join("sys")).unwrap();
        fs::write(dir.path().join("sys/temp"), " 51000\n").unwrap();
        symlink("temp", dir.path().join("sys/link")).unwrap();
        let root = Root::new(dir.path()).unwrap();
        assert_eq!(root.text("/sys/link").as_deref(), Some("51000"));
        assert_eq!(root.number("/sys/temp"), Some(51000.0));
        assert_eq!(root.text("/out/secret"), None);
        assert_eq!(root.names("/out", ""), [""; 0]);
        assert!(!root.has("/out") && root.has("/sys"));
        assert!(root.bytes("/sys").is_err(), "a folder is no file");
        assert_eq!(root.name(&root.path("/dev/video0")), Path::new("/dev/video0"));
        assert!(!root.is_live() && Root::new(Path::new("/")).unwrap().is_live());
        assert!(Root::new(&dir.path().join("sys/temp")).is_err());
    }

    #[test]
    fn names_come_in_the_order_of_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["video10", "video9", "vbi0", "video0"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(Root::new(dir.path()).unwrap().names("/", "video"), ["video0", "video9", "video10"]);
    }

    #[test]
    fn a_program_that_is_not_there_or_fails_is_an_error_that_names_it() {
        let root = Root::new(Path::new("/")).unwrap();
        assert!(root.ask("no-such-program", &[]).unwrap_err().starts_with("no-such-program: "));
        assert_eq!(root.ask("false", &[]).unwrap_err(), "false: it failed and said nothing");
        assert_eq!(root.ask("echo", &["a"]).unwrap(), "a");
        let dir = tempfile::tempdir().unwrap();
        let copy = Root::new(dir.path()).unwrap();
        assert_eq!(copy.ask("df", &["-P"]).unwrap_err(), "the copy has no attendant-doctor/df");
        fs::create_dir(dir.path().join(ANSWERS)).unwrap();
        fs::write(dir.path().join(ANSWERS).join("df"), "x\n").unwrap();
        assert_eq!(copy.ask("df", &["-P"]).unwrap(), "x");
    }
}
