//! The power goes at every moment of an update: the old bundle runs, or the new one.

use super::*;
use crate::bundle::disk::fake::{FakeDisk, Unsynced};
use crate::bundle::pack::tests::{packed, signed, trust};
use crate::bundle::sign::make::{self, Keys};

fn dir() -> PathBuf {
    "/state".into()
}

fn open(disk: &FakeDisk, keys: &Keys) -> Result<Store, Refused> {
    Store::open_on(&dir(), Box::new(disk.clone()), trust(&[keys]), None)
}

fn bundle(version: &str, counter: u64, keys: &Keys) -> Vec<u8> {
    signed(&packed(version, counter), keys)
}

fn id_of(file: &[u8]) -> String {
    let packed = Packed::open(file, &Trust::anything()).unwrap();
    packed.manifest.id(&packed.manifest_bytes)
}

/// A disk on which 1.0.0 has proven itself and 1.1.0, whose folder is returned, has yet to.
fn on_trial() -> (Keys, FakeDisk, String) {
    let keys = make::keys(None).unwrap();
    let disk = FakeDisk::default();
    update(&disk, &keys, &bundle("1.0.0", 1, &keys)).unwrap();
    let second = bundle("1.1.0", 2, &keys);
    let mut store = open(&disk, &keys).unwrap();
    let id = store.install(&second[..], "tiny").unwrap().id;
    store.switch(&id).unwrap();
    drop(store);
    (keys, disk, id)
}

/// Installs `file` and lets it prove itself.
fn update(disk: &FakeDisk, keys: &Keys, file: &[u8]) -> Result<(), Refused> {
    let mut store = open(disk, keys)?;
    store.start();
    let installed = store.install(file, "tiny")?;
    store.switch(&installed.id)?;
    store.confirm()
}

/// The version that a program which starts now runs; empty: the device's own bundle.
fn runs(disk: &FakeDisk, keys: &Keys) -> (String, Store) {
    let mut store = open(disk, keys).unwrap();
    let chosen = store.start();
    let version = chosen.dir.map_or(String::new(), |dir| {
        let (manifest, _, _) = check_dir(disk, &dir, &trust(&[keys])).expect("what was chosen is whole");
        manifest.version
    });
    (version, store)
}

fn every_loss() -> impl Iterator<Item = Unsynced> {
    [Unsynced::Lost, Unsynced::Kept].into_iter().chain((1..=8).map(Unsynced::Mixed))
}

/// Cuts the power after every operation of `update` on `before`; `old` and `new` are what may run then.
fn cut_everywhere(
    before: &FakeDisk,
    keys: &Keys,
    (old, new): (&str, &str),
    update: impl Fn(&FakeDisk) -> Result<(), Refused>,
    again: impl Fn(&FakeDisk) -> Result<(), Refused>,
) -> usize {
    let whole = before.cut_after(None);
    update(&whole).unwrap();
    assert_eq!(runs(&whole, keys).0, new);
    let (mut points, mut were_old, mut were_new) = (0, 0, 0);
    for after in 0..whole.done() {
        let disk = before.cut_after(Some(after));
        // what is left after it has proven itself is tidied up; that may fail
        let is_done = update(&disk).is_ok();
        for unsynced in every_loss() {
            points += 1;
            let disk = disk.after_power_cut(unsynced);
            let (version, _) = runs(&disk, keys);
            let is_either = version == new || (version == old && !is_done);
            assert!(is_either, "after {after}, {unsynced:?}: {version:?} runs");
            if version == old {
                were_old += 1
            } else {
                were_new += 1
            }
            // and it can be done again
            if version == old {
                again(&disk).unwrap_or_else(|e| panic!("after {after}, {unsynced:?}: {e}"));
                assert_eq!(runs(&disk, keys).0, new, "after {after}, {unsynced:?}");
            }
        }
    }
    assert!(were_old > 0 && were_new > 0, "{were_old} old, {were_new} new");
    points
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_old_bundle_or_the_new_one() {
    let keys = make::keys(None).unwrap();
    let [first, second] = [("1.0.0", 1), ("1.1.0", 2)].map(|(v, c)| bundle(v, c, &keys));
    let disk = FakeDisk::default();
    let install = |file: &[u8]| {
        let (file, keys) = (file.to_vec(), keys.clone());
        move |disk: &FakeDisk| update(disk, &keys, &file)
    };
    let points = cut_everywhere(&disk, &keys, ("", "1.0.0"), install(&first), install(&first));
    update(&disk, &keys, &first).unwrap();
    let more = cut_everywhere(&disk, &keys, ("1.0.0", "1.1.0"), install(&second), install(&second));
    println!("{points} power cuts of the first bundle, {more} of the second");
    assert!(points + more >= 200, "only {points} + {more} points");
}

#[test]
fn a_power_cut_while_a_bundle_is_given_up_leaves_one_of_the_two() {
    let keys = make::keys(None).unwrap();
    let disk = FakeDisk::default();
    update(&disk, &keys, &bundle("1.0.0", 1, &keys)).unwrap();
    let mut store = open(&disk, &keys).unwrap();
    let id = store.install(&bundle("1.1.0", 2, &keys)[..], "tiny").unwrap().id;
    store.switch(&id).unwrap();
    drop(store);
    let whole = disk.cut_after(None);
    open(&whole, &keys).unwrap().revert();
    for after in 0..=whole.done() {
        let cut = disk.cut_after(Some(after));
        if let Ok(mut store) = open(&cut, &keys) {
            store.revert();
        }
        for unsynced in every_loss() {
            let (version, store) = runs(&cut.after_power_cut(unsynced), &keys);
            assert!(["1.0.0", "1.1.0"].contains(&&*version), "after {after}, {unsynced:?}: {version:?}");
            assert_eq!(store.state().counter, 1, "what was never proven leaves no trace");
        }
    }
}

#[test]
fn a_bundle_that_never_proves_itself_is_given_up_after_its_starts() {
    let (keys, disk, id) = on_trial();
    for _ in 0..TRIAL_STARTS_MAX {
        let (version, store) = runs(&disk, &keys);
        assert_eq!((version.as_str(), store.state().trial_starts.is_some()), ("1.1.0", true));
    }
    let mut store = open(&disk, &keys).unwrap();
    let chosen = store.start();
    let (given_up, refused) = chosen.given_up.unwrap();
    assert_eq!((given_up, refused.why), (id.clone(), Why::Reverted));
    assert!(store.state().current.as_ref().is_some_and(|id| id.starts_with("1.0.0-")) && !chosen.is_on_trial);
    assert_eq!(
        store.install(&bundle("1.1.0", 2, &keys)[..], "tiny").unwrap_err().why,
        Why::Reverted,
        "it is not tried again"
    );
    let third = bundle("1.1.1", 2, &keys);
    store.install(&third[..], "tiny").expect("another one of the same counter is");
}

#[test]
fn a_trial_counts_its_start_before_it_runs_and_without_a_disk_it_does_not_run() {
    let keys = make::keys(None).unwrap();
    let disk = FakeDisk::default();
    update(&disk, &keys, &bundle("1.0.0", 1, &keys)).unwrap();
    let mut store = open(&disk, &keys).unwrap();
    let id = store.install(&bundle("1.1.0", 2, &keys)[..], "tiny").unwrap().id;
    store.switch(&id).unwrap();
    assert_eq!(store.state().trial_starts, Some(0));
    store.start();
    assert_eq!(open(&disk, &keys).unwrap().state().trial_starts, Some(1));
    struct Full(FakeDisk);
    impl Disk for Full {
        fn create_dir(&self, path: &Path) -> io::Result<()> {
            self.0.create_dir(path)
        }
        fn create(&self, _: &Path) -> io::Result<Box<dyn io::Write>> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
            self.0.open(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn remove(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            self.0.sync_dir(path)
        }
        fn list(&self, path: &Path) -> io::Result<Vec<String>> {
            self.0.list(path)
        }
    }
    let mut store = Store::open_on(&dir(), Box::new(Full(disk)), trust(&[&keys]), None).unwrap();
    let chosen = store.start();
    assert_eq!(chosen.given_up.unwrap().1.why, Why::Io);
    assert!(chosen.dir.unwrap().to_str().unwrap().contains("1.0.0-"));
    assert_eq!(store.install(&bundle("1.2.0", 3, &keys)[..], "tiny").unwrap_err().why, Why::Io, "a full disk");
}

#[test]
fn nothing_older_than_what_was_proven_is_taken() {
    let keys = make::keys(None).unwrap();
    let disk = FakeDisk::default();
    update(&disk, &keys, &bundle("1.0.0", 5, &keys)).unwrap();
    let other = {
        let dir = tempfile::tempdir().unwrap();
        crate::bundle::pack::tests::files(dir.path(), "2.0.0");
        let packing = pack::Packing { name: "other", version: "2.0.0", counter: 9, leave_out: &[], more: &[] };
        let mut out = Vec::new();
        pack::pack(dir.path(), &packing, &mut out).unwrap();
        signed(&out, &keys)
    };
    let stranger = make::keys(None).unwrap();
    // (case, file, reason)
    let cases = [
        ("smaller", bundle("0.9.0", 4, &keys), Some(Why::Downgrade)),
        ("smaller, with a larger version", bundle("9.0.0", 4, &keys), Some(Why::Downgrade)),
        ("zero", bundle("1.0.1", 0, &keys), Some(Why::Downgrade)),
        ("the same, and another bundle", bundle("1.0.1", 5, &keys), Some(Why::Downgrade)),
        ("the same bundle", bundle("1.0.0", 5, &keys), None),
        ("larger, with a smaller version", bundle("0.9.0", 6, &keys), None),
        ("for another purpose", other, Some(Why::Other)),
        ("of somebody else", bundle("1.1.0", 6, &stranger), Some(Why::Key)),
        ("of nobody", packed("1.1.0", 6), Some(Why::Unsigned)),
    ];
    for (case, file, expected) in &cases {
        let disk = disk.cut_after(None);
        let mut store = open(&disk, &keys).unwrap();
        let why = store.install(&file[..], "tiny").err().map(|r| r.why);
        assert_eq!(why, *expected, "{case}");
        store.start();
        let names = disk.list(&store.bundles()).unwrap();
        assert_eq!(names.len(), 1, "{case}: what does not run is not kept: {names:?}");
    }
    // the counter survives the loss of the state, as far as what is installed says it
    let damaged = disk.cut_after(None);
    let mut file = damaged.create(&dir().join(STATE)).unwrap();
    file.write_all(b"{").unwrap();
    let store = open(&damaged, &keys).unwrap();
    assert_eq!((store.state().counter, store.state().current.clone()), (5, None));
}

#[test]
fn a_damaged_or_foreign_installation_is_not_run() {
    let (keys, disk, id) = on_trial();
    let path = dir().join(BUNDLES).join(&id);
    type Break = fn(&FakeDisk, &Path);
    let cases: &[(&str, Break, Why)] = &[
        ("a part is changed", |d, p| d.create(&p.join("a.onnx")).unwrap().write_all(&[9; 700]).unwrap(), Why::Part),
        ("a part is cut", |d, p| d.create(&p.join("a.onnx")).unwrap().write_all(&[7; 699]).unwrap(), Why::Truncated),
        ("a part is longer", |d, p| d.create(&p.join("a.onnx")).unwrap().write_all(&[7; 701]).unwrap(), Why::Part),
        ("a part is gone", |d, p| d.remove(&p.join("text/labels.txt")).unwrap(), Why::Io),
        ("no signature", |d, p| d.remove(&p.join(pack::SIGNATURE)).unwrap(), Why::Unsigned),
        ("no manifest", |d, p| d.remove(&p.join(pack::MANIFEST)).unwrap(), Why::Io),
        (
            "another manifest",
            |d, p| d.create(&p.join(pack::MANIFEST)).unwrap().write_all(b"{}").unwrap(),
            Why::Signature,
        ),
        ("nothing", |d, p| d.remove(p).unwrap(), Why::Io),
    ];
    for (case, break_it, expected) in cases {
        let disk = disk.cut_after(None);
        break_it(&disk, &path);
        let chosen = open(&disk, &keys).unwrap().start();
        assert_eq!(chosen.given_up.unwrap().1.why, *expected, "{case}");
        assert!(chosen.dir.unwrap().to_str().unwrap().contains("1.0.0-"), "{case}");
    }
    // a bundle of another id in its place, signed and whole
    let third = bundle("1.2.0", 3, &keys);
    let elsewhere = disk.cut_after(None);
    let mut store = open(&elsewhere, &keys).unwrap();
    let other = store.install(&third[..], "tiny").unwrap();
    elsewhere.remove(&path).unwrap();
    elsewhere.rename(&other.dir, &path).unwrap();
    assert_eq!(open(&elsewhere, &keys).unwrap().start().given_up.unwrap().1.why, Why::Manifest);
    assert_ne!(id_of(&third), id);
}

#[test]
fn a_key_that_is_taken_from_the_device_takes_its_bundles_with_it() {
    let [old, new] = [(); 2].map(|()| make::keys(None).unwrap());
    let disk = FakeDisk::default();
    update(&disk, &old, &bundle("1.0.0", 1, &old)).unwrap();
    let chosen = open(&disk, &new).unwrap().start();
    assert_eq!((chosen.dir, chosen.given_up.unwrap().1.why), (None, Why::Key));
}

#[test]
fn on_a_real_disk_one_process_installs() {
    let keys = make::keys(None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut store = Store::open(&state, trust(&[&keys])).unwrap();
    assert!(Store::open(&state, trust(&[&keys])).unwrap_err().message.contains("another process uses"));
    let installed = store.install(&bundle("1.0.0", 1, &keys)[..], "tiny").unwrap();
    assert_eq!(std::fs::read_to_string(installed.dir.join("text/labels.txt")).unwrap(), "yes\nno\n");
    store.switch(&installed.id).unwrap();
    store.confirm().unwrap();
    drop(store);
    let mut store = Store::open(&state, trust(&[&keys])).unwrap();
    assert_eq!(store.start(), Chosen { dir: Some(installed.dir.clone()), is_on_trial: false, given_up: None });
    assert_eq!(check_folder(&installed.dir, &trust(&[&keys])).unwrap(), Signer::Key(0));
    let folder = dir.path().join("folder");
    crate::bundle::pack::tests::files(dir.path(), "1.0.0");
    assert_eq!(check_folder(dir.path(), &trust(&[&keys])).unwrap_err().why, Why::Unsigned);
    assert_eq!(check_folder(dir.path(), &Trust::anything()).unwrap(), Signer::Nobody);
    unpack(&bundle("1.0.0", 1, &keys)[..], &folder, &trust(&[&keys])).unwrap();
    assert_eq!(check_folder(&folder, &trust(&[&keys])).unwrap(), Signer::Key(0));
    assert_eq!(unpack(&bundle("1.0.0", 1, &keys)[..], &folder, &trust(&[&keys])).unwrap_err().why, Why::Io);
}
