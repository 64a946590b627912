//! Every seed that the fuzzers start from, and every input that once broke something, through the same entries, on a stable compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[path = "../fuzz/src/targets.rs"]
mod targets;

/// Every clone carries them.
const BYTES_MAX: u64 = 150_000;

fn corpus() -> BTreeMap<String, Vec<(String, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut found = BTreeMap::new();
    for target in fs::read_dir(&folder).unwrap() {
        let target = target.unwrap().path();
        let mut seeds: Vec<(String, Vec<u8>)> = fs::read_dir(&target)
            .unwrap()
            .map(|seed| seed.unwrap().path())
            .map(|seed| (seed.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&seed).unwrap()))
            .collect();
        seeds.sort();
        found.insert(target.file_name().unwrap().to_string_lossy().into_owned(), seeds);
    }
    found
}

#[test]
fn every_target_has_seeds_and_every_folder_a_target() {
    let corpus = corpus();
    let mut targets: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    assert_eq!(corpus.keys().collect::<Vec<_>>(), targets);
    for (target, seeds) in &corpus {
        assert!(seeds.len() >= 3, "{target} has {} seeds", seeds.len());
        let manifest = include_str!("../fuzz/Cargo.toml");
        assert!(manifest.contains(&format!("name = \"{target}\"")), "fuzz/Cargo.toml does not build {target}");
    }
    let bytes: usize = corpus.values().flatten().map(|(_, seed)| seed.len()).sum();
    assert!(
        bytes as u64 <= BYTES_MAX,
        "the seeds have {bytes} bytes, expected at most {BYTES_MAX}; minimise them (docs/fuzzing.md)"
    );
}

#[test]
fn no_seed_breaks_its_target() {
    let corpus = corpus();
    for (name, target) in targets::TARGETS {
        for (seed, bytes) in &corpus[*name] {
            let bytes = bytes.clone();
            let done = std::panic::catch_unwind(|| target(&bytes));
            assert!(done.is_ok(), "fuzz/corpus/{name}/{seed} breaks its target; run it alone: fuzz/run {name} {seed}");
        }
    }
}

#[test]
fn seeds_reach_what_they_are_for() {
    // a target that refuses all of its seeds at the first byte would look at nothing
    let corpus = corpus();
    let whole = |target: &str, is: fn(&[u8]) -> bool| corpus[target].iter().filter(|(_, seed)| is(seed)).count();
    let recording = |seed: &[u8]| {
        attendant::capture::recording::Survey::of_recording(
            attendant::capture::recording::Recording::from_reader("seed", seed).unwrap(),
        )
        .is_ok_and(|s| !s.sources.is_empty())
    };
    assert!(corpus["recording"].iter().any(|(_, s)| s.len() > 8 && recording(s)), "no seed is a whole recording");
    let model = |seed: &[u8]| attendant::infer::inspect_bytes("seed", seed, &[]).is_ok_and(|i| i.problem.is_none());
    assert!(whole("model", model) >= 3, "no seed is a model");
    let settings = |seed: &[u8]| {
        seed.first().is_some_and(|k| k % 2 == 0)
            && std::str::from_utf8(&seed[1..])
                .is_ok_and(|t| attendant::config::runtime::Runtime::parse(Path::new("seed"), t).is_ok())
    };
    assert!(whole("config", settings) >= 1, "no seed is a whole attendant.toml");
    let bundle = |seed: &[u8]| {
        let text = std::str::from_utf8(seed).unwrap_or_default();
        attendant::config::from_toml::<attendant::config::manifest::Manifest>(Path::new("seed"), text)
            .is_ok_and(|m| attendant::config::check_manifest(&m).is_ok())
    };
    assert!(whole("manifest", bundle) >= 1, "no seed is a whole bundle.toml");
    let packed = |seed: &[u8]| {
        let trust = attendant::bundle::sign::Trust::anything();
        attendant::bundle::pack::Packed::open(seed, &trust).and_then(attendant::bundle::pack::Packed::verify).is_ok()
    };
    assert!(whole("packed", packed) >= 3, "no seed is a whole packed bundle");
}
