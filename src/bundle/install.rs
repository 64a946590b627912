//! Installed bundles of a device, and which of them runs: a state on disk that is whole whenever the power goes. docs/update.md draws it.
//!
//! ```text
//! state.json          which one runs, whether it is on trial, what came before, the rollback counter
//! bundles/<id>/       one installed bundle: its parts, its manifest, its signature
//! bundles/.new/       one that is being written
//! ```
//!
//! A bundle is written and synced beside the others, gets its name by a rename, and runs once `state.json` was replaced by a rename: the
//! one moment that decides. Called by `supervise::update` and by the command line; loading and testing what was installed is theirs.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{debug, info, warn};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, RealDisk};
use super::pack::{self, Manifest, Packed};
use super::refused::{Refused, Why};
use super::sign::{Signer, Trust};

/// The state's file, and its successor before it takes its place.
const STATE: &str = "state.json";
const STATE_NEW: &str = "state.json.new";

/// Where bundles are, and one that is not whole yet.
const BUNDLES: &str = "bundles";
const STAGING: &str = ".new";

/// Version of [`State`].
const FORMAT: u32 = 1;

/// Most bytes of the state's file.
const STATE_BYTES_MAX: u64 = 64 << 10;

/// Times that a program may start with a bundle on trial: more, and it does not live long enough to prove itself.
pub const TRIAL_STARTS_MAX: u32 = 2;

/// How often a lock that somebody has is tried again, and how long in between.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Bundles that are remembered as bad; the oldest is forgotten first.
const BAD_MAX: usize = 16;

/// Which bundle runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of this schema.
    pub format: u32,
    /// Name of the bundles that this device is for; empty before the first was proven.
    pub name: String,
    /// The largest counter of a bundle that was proven: nothing below is taken.
    pub counter: u64,
    /// The installed bundle that runs; without one the device's own.
    pub current: Option<String>,
    /// What runs again if the current one, on trial, does not do.
    pub previous: Option<String>,
    /// Set while the current one has to prove itself: how often the program has started with it.
    pub trial_starts: Option<u32>,
    /// Installed bundles that have failed, by their ids.
    pub bad: Vec<String>,
}

/// What a program that starts has to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Directory of an installed bundle; without one the device's own.
    pub dir: Option<PathBuf>,
    /// Whether it has yet to prove itself.
    pub is_on_trial: bool,
    /// What was given up, and why.
    pub given_up: Option<(String, Refused)>,
}

/// A bundle that is installed and does not run yet.
#[derive(Clone, Debug)]
pub struct Installed {
    /// What the store calls it.
    pub id: String,
    /// Where it is.
    pub dir: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Who signed it.
    pub signer: Signer,
}

/// The installed bundles of a device.
pub struct Store {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    trust: Trust,
    state: State,
    /// Held for as long as the store is.
    _lock: Option<std::fs::File>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Store {
    /// The store in `dir`, for this process alone; created if it is not there.
    ///
    /// # Errors
    /// [`Why::Io`]: it cannot be written, or another process has it.
    pub fn open(dir: &Path, trust: Trust) -> Result<Store, Refused> {
        let failed = |e: io::Error| Refused::io(dir.display(), &e);
        RealDisk.create_dir(dir).map_err(failed)?;
        let lock = std::fs::File::create(dir.join("lock")).map_err(failed)?;
        match take(&lock) {
            Ok(()) => Store::open_on(dir, Box::new(RealDisk), trust, Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let next = "a program that runs takes updates from its inbox";
                Err(Refused::new(Why::Io, format!("{}: another process uses these bundles; {next}", dir.display())))
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    fn open_on(dir: &Path, disk: Box<dyn Disk>, trust: Trust, lock: Option<std::fs::File>) -> Result<Store, Refused> {
        let mut store = Store { dir: dir.to_owned(), disk, trust, state: State::default(), _lock: lock };
        store.disk.create_dir(&store.bundles()).map_err(|e| store.failed(&e))?;
        store.disk.sync_dir(dir).map_err(|e| store.failed(&e))?;
        // the directory's own name; whoever made it may not let us read the one above
        if let Some(Err(error)) = dir.parent().filter(|p| !p.as_os_str().is_empty()).map(|p| store.disk.sync_dir(p)) {
            debug!("{}: {error}", dir.display());
        }
        store.state = match store.read_state() {
            Ok(state) => state.unwrap_or_else(|| State { format: FORMAT, ..State::default() }),
            Err(refused) => {
                // what is installed still says what nothing may fall below
                let counter =
                    store.installed().iter().filter_map(|id| Some(store.check(id).ok()?.manifest.counter)).max();
                warn!("{refused}; the device's own bundle runs until the next update");
                State { format: FORMAT, counter: counter.unwrap_or(0), ..State::default() }
            }
        };
        Ok(store)
    }

    /// Which bundle runs.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whose bundles it takes.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Where bundles are looked for that wait to be installed, unless the device is told otherwise.
    #[must_use]
    pub fn inbox(dir: &Path) -> PathBuf {
        dir.join("inbox")
    }

    fn bundles(&self) -> PathBuf {
        self.dir.join(BUNDLES)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.bundles().join(id)
    }

    fn failed(&self, error: &io::Error) -> Refused {
        Refused::io(self.dir.display(), error)
    }

    /// Ids of what is in `bundles/`.
    fn installed(&self) -> Vec<String> {
        let names = self.disk.list(&self.bundles()).unwrap_or_default();
        names.into_iter().filter(|name| name != STAGING).collect()
    }

    fn read_state(&self) -> Result<Option<State>, Refused> {
        let path = self.dir.join(STATE);
        let mut file = match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| Refused::io(path.display(), &e))?,
        };
        let mut bytes = Vec::new();
        file.by_ref().take(STATE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| Refused::io(path.display(), &e))?;
        let wrong = |what: String| Refused::new(Why::Layout, format!("{}: {what}", path.display()));
        let state: State = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        if state.format != FORMAT {
            return Err(wrong(format!("format = {}, this program knows {FORMAT}", state.format)));
        }
        Ok(Some(state))
    }

    /// Replaces the state on disk, then the one in memory.
    fn write_state(&mut self, state: State) -> Result<(), Refused> {
        let bytes = serde_json::to_vec_pretty(&state).expect("strings and numbers always serialize");
        let (new, path) = (self.dir.join(STATE_NEW), self.dir.join(STATE));
        let write = || -> io::Result<()> {
            let mut file = self.disk.create(&new)?;
            file.write_all(&bytes)?;
            file.flush()?;
            self.disk.rename(&new, &path)?;
            self.disk.sync_dir(&self.dir)
        };
        write().map_err(|e| Refused::io(path.display(), &e))?;
        self.state = state;
        Ok(())
    }

    /// Chooses what a program that starts has to run, and counts the start of a bundle on trial. A bundle that is damaged, or that has
    /// started too often without proving itself, is given up for the one before it. Leftovers are removed.
    ///
    /// # Errors
    /// None of the system's: what cannot be written is logged, and whatever is safe without it runs.
    pub fn start(&mut self) -> Chosen {
        let mut given_up = None;
        // the current one, then the one before it, then the device's own
        while let Some(id) = self.state.current.clone() {
            match self.try_to_start(&id) {
                Ok(()) => break,
                Err(refused) => {
                    warn!("bundle {id}: {refused}; the one before it runs");
                    self.give_up(&id);
                    given_up.get_or_insert((id, refused));
                }
            }
        }
        self.tidy();
        Chosen { dir: self.current_dir(), is_on_trial: self.state.trial_starts.is_some(), given_up }
    }

    fn try_to_start(&mut self, id: &str) -> Result<(), Refused> {
        self.check(id)?;
        let Some(starts) = self.state.trial_starts else { return Ok(()) };
        if starts >= TRIAL_STARTS_MAX {
            let message = format!("the program has started {starts} times with it and did not live to prove it");
            return Err(Refused::new(Why::Reverted, message));
        }
        // before it runs: whatever it does to the program then, it is counted
        self.write_state(State { trial_starts: Some(starts + 1), ..self.state.clone() })
    }

    /// Back to the one before `id`, in memory even if the disk takes nothing.
    fn give_up(&mut self, id: &str) {
        let mut state = self.state.clone();
        state.current = state.previous.take();
        state.trial_starts = None;
        state.bad.retain(|bad| bad != id);
        state.bad.push(id.to_owned());
        if state.bad.len() > BAD_MAX {
            state.bad.remove(0);
        }
        if let Err(refused) = self.write_state(state.clone()) {
            warn!("{refused}; it will be tried again at the next start");
            self.state = state;
        }
    }

    /// Removes what no state names: a cut installation, one that has failed.
    fn tidy(&self) {
        for name in self.disk.list(&self.bundles()).unwrap_or_default() {
            let is_named = [&self.state.current, &self.state.previous].into_iter().flatten().any(|id| *id == name);
            if !is_named && let Err(error) = self.disk.remove(&self.path(&name)) {
                warn!("{}: {error}", self.path(&name).display());
            }
        }
    }

    /// Whether the installed bundle `id` is what was packed, and still allowed.
    fn check(&self, id: &str) -> Result<Installed, Refused> {
        let dir = self.path(id);
        let (manifest, bytes, signer) = check_dir(&*self.disk, &dir, &self.trust)?;
        if manifest.id(&bytes) != id {
            return Err(Refused::new(Why::Manifest, format!("{} holds {}", dir.display(), manifest.id(&bytes))));
        }
        Ok(Installed { id: id.to_owned(), dir, manifest, signer })
    }

    /// Whether a bundle that says `manifest` of itself may come after what this device has, of the name `running`.
    ///
    /// # Errors
    /// [`Why::Other`], [`Why::Downgrade`], [`Why::Reverted`].
    pub fn admit(&self, manifest: &Manifest, id: &str, running: &str) -> Result<(), Refused> {
        let expected = if self.state.name.is_empty() { running } else { &self.state.name };
        if manifest.name != expected {
            let next = format!("to make it another, stop it and remove {}", self.dir.join(STATE).display());
            let message = format!("it is a bundle {}, this device is a {expected}; {next}", manifest.name);
            return Err(Refused::new(Why::Other, message));
        }
        // before anything was proven every counter will do, 0 as well
        let is_older = manifest.counter < self.state.counter;
        let is_another = manifest.counter == self.state.counter && self.state.counter > 0 && !self.is_current(id);
        if is_older || is_another {
            let message = format!(
                "version {} has the counter {}, this device has had {}; pack it with a larger one",
                manifest.version, manifest.counter, self.state.counter
            );
            return Err(Refused::new(Why::Downgrade, message));
        }
        if self.state.bad.iter().any(|bad| bad == id) {
            let message = format!("{id} was tried on this device and failed; release another");
            return Err(Refused::new(Why::Reverted, message));
        }
        Ok(())
    }

    /// Whether the bundle `id` is the one that runs.
    #[must_use]
    pub fn is_current(&self, id: &str) -> bool {
        self.state.current.as_deref() == Some(id)
    }

    /// Directory of the installed bundle that runs; without one the device's own does.
    #[must_use]
    pub fn current_dir(&self) -> Option<PathBuf> {
        self.state.current.as_ref().map(|id| self.path(id))
    }

    /// Checks the packed bundle in `reader` and writes it beside the others, where it does nothing yet. `running` is the name of the bundle
    /// that this device has.
    ///
    /// # Errors
    /// [`Refused`]; nothing is left of it then, or what is left is removed at the next start.
    pub fn install(&mut self, reader: impl Read, running: &str) -> Result<Installed, Refused> {
        let packed = Packed::open(reader, &self.trust)?;
        let id = packed.manifest.id(&packed.manifest_bytes);
        self.admit(&packed.manifest, &id, running)?;
        if self.is_current(&id) {
            return self.check(&id);
        }
        let staging = self.path(STAGING);
        let result = self.write(packed, &staging, &id);
        if result.is_err() {
            _ = self.disk.remove(&staging);
        }
        result
    }

    fn write(&self, packed: Packed<impl Read>, staging: &Path, id: &str) -> Result<Installed, Refused> {
        let signer = packed.signer.clone();
        write_dir(&*self.disk, packed, staging)?;
        let dir = self.path(id);
        let place = || -> io::Result<()> {
            self.disk.remove(&dir)?;
            self.disk.rename(staging, &dir)?;
            self.disk.sync_dir(&self.bundles())
        };
        place().map_err(|e| Refused::io(dir.display(), &e))?;
        // what is on the disk, not what was meant to be
        let manifest = self.check(id)?.manifest;
        Ok(Installed { id: id.to_owned(), dir, manifest, signer })
    }

    /// From here on `id` runs, on trial.
    ///
    /// # Errors
    /// [`Why::Io`]: the one before it goes on.
    pub fn switch(&mut self, id: &str) -> Result<(), Refused> {
        // one that was never proven is no way back
        let previous = if self.state.trial_starts.is_some() { &self.state.previous } else { &self.state.current };
        let (current, previous) = (Some(id.to_owned()), previous.clone());
        self.write_state(State { current, previous, trial_starts: Some(0), ..self.state.clone() })?;
        info!("bundle {id} is on trial");
        Ok(())
    }

    /// The current bundle has proven itself: nothing older is taken from here on, and what came before is removed.
    ///
    /// # Errors
    /// [`Why::Io`]: it stays on trial.
    pub fn confirm(&mut self) -> Result<(), Refused> {
        let Some(id) = self.state.current.clone().filter(|_| self.state.trial_starts.is_some()) else { return Ok(()) };
        let manifest = self.check(&id)?.manifest;
        let counter = self.state.counter.max(manifest.counter);
        let (name, previous, trial_starts) = (manifest.name, None, None);
        self.write_state(State { name, counter, previous, trial_starts, ..self.state.clone() })?;
        info!("bundle {id} has proven itself; nothing with a counter below {counter} is taken from here on");
        self.tidy();
        Ok(())
    }

    /// The current bundle, on trial, does not do: the one before it is the current one again.
    pub fn revert(&mut self) {
        let Some(id) = self.state.current.clone().filter(|_| self.state.trial_starts.is_some()) else { return };
        self.give_up(&id);
        self.tidy();
    }

    /// Forgets an installed bundle that never ran, and remembers that it is bad.
    pub fn discard(&mut self, id: &str) {
        if self.is_current(id) {
            return;
        }
        let mut state = self.state.clone();
        state.bad.retain(|bad| bad != id);
        state.bad.push(id.to_owned());
        if state.bad.len() > BAD_MAX {
            state.bad.remove(0);
        }
        if let Err(refused) = self.write_state(state) {
            warn!("{refused}");
        }
        self.tidy();
    }
}

/// Locks the directory. A program that this process is just starting holds what was locked before for a moment: between its fork and its
/// exec it has every file of ours.
fn take(lock: &std::fs::File) -> rustix::io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    Err(rustix::io::Errno::WOULDBLOCK)
}

/// Writes what `packed` holds into the directory `dir`, new and synced.
fn write_dir(disk: &dyn Disk, packed: Packed<impl Read>, dir: &Path) -> Result<Manifest, Refused> {
    let failed = |e: io::Error| Refused::io(dir.display(), &e);
    disk.remove(dir).map_err(failed)?;
    disk.create_dir(dir).map_err(failed)?;
    let mut dirs = vec![dir.to_owned()];
    let manifest = packed.manifest_bytes.clone();
    let signature = packed.signature.clone();
    let mut own = vec![(pack::MANIFEST, manifest)];
    own.extend(signature.map(|text| (pack::SIGNATURE, text.into_bytes())));
    for (name, content) in own {
        let write = || -> io::Result<()> {
            let mut file = disk.create(&dir.join(name))?;
            file.write_all(&content)?;
            file.flush()
        };
        write().map_err(failed)?;
    }
    let manifest = packed.unpack(|part| {
        let path = dir.join(&part.name);
        let mut folder = path.parent().unwrap_or(dir);
        while folder != dir && !dirs.iter().any(|d| d == folder) {
            dirs.push(folder.to_owned());
            folder = folder.parent().unwrap_or(dir);
        }
        if let Some(folder) = path.parent().filter(|folder| *folder != dir) {
            disk.create_dir(folder).map_err(|e| Refused::io(folder.display(), &e))?;
        }
        disk.create(&path).map_err(|e| Refused::io(path.display(), &e))
    })?;
    dirs.iter().rev().try_for_each(|dir| disk.sync_dir(dir)).map_err(failed)?;
    Ok(manifest)
}

/// Unpacks `reader` into `dir`, which must not be there.
///
/// # Errors
/// [`Refused`]; the directory is removed then.
pub fn unpack(reader: impl Read, dir: &Path, trust: &Trust) -> Result<Manifest, Refused> {
    if dir.exists() {
        return Err(Refused::new(Why::Io, format!("{} is there already; name another directory", dir.display())));
    }
    let packed = Packed::open(reader, trust)?;
    let result = write_dir(&RealDisk, packed, dir);
    if result.is_err() {
        _ = RealDisk.remove(dir);
    }
    result
}

/// Checks a directory that was unpacked: every part, and who signed it.
///
/// # Errors
/// [`Refused`]; [`Why::Unsigned`] also for a directory that never was a packed bundle, if `trust` asks for signatures.
pub fn check_folder(dir: &Path, trust: &Trust) -> Result<Signer, Refused> {
    if !dir.join(pack::MANIFEST).exists() {
        return trust.check(&[], None).map_err(|r| r.of(dir));
    }
    check_dir(&RealDisk, dir, trust).map(|(_, _, signer)| signer)
}

fn check_dir(disk: &dyn Disk, dir: &Path, trust: &Trust) -> Result<(Manifest, Vec<u8>, Signer), Refused> {
    let read = |name: &str, bytes_max: u64| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        disk.open(&dir.join(name))?.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let manifest_bytes = read(pack::MANIFEST, pack::MANIFEST_BYTES_MAX)
        .map_err(|e| Refused::io(dir.join(pack::MANIFEST).display(), &e))?;
    let signature = match read(pack::SIGNATURE, pack::SIGNATURE_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Refused::io(dir.join(pack::SIGNATURE).display(), &error)),
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
    };
    let signer = trust.check(&manifest_bytes, signature.as_deref()).map_err(|r| r.of(dir))?;
    let manifest = Manifest::parse(&manifest_bytes).map_err(|r| r.of(dir))?;
    for part in &manifest.parts {
        let path = dir.join(&part.name);
        let mut file = disk.open(&path).map_err(|e| Refused::io(path.display(), &e))?;
        pack::copy_part(&mut file, part, &mut io::sink()).map_err(|r| r.of(dir))?;
        let after = file.read(&mut [0]).map_err(|e| Refused::io(path.display(), &e))?;
        if after > 0 {
            return Err(Refused::new(Why::Part, format!("{} is longer than what was packed", path.display())));
        }
    }
    Ok((manifest, manifest_bytes, signer))
}

#[cfg(test)]
mod tests;
