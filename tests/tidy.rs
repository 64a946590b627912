//! The house's rules that a machine can check: floors, who may name what, and what no file may contain.
//!
//! Every rule is a function from one file to its violations, and has a sample that breaks it, so that the rule itself can fail.
//! Test code (a file named `tests.rs`, or what follows `#[cfg(test)]`) may import from any floor, start threads and read the clock;
//! everything else holds for it too.

use std::fs;
use std::path::Path;

/// Top-level modules by floor. A module imports only from lower floors; modules of one floor do not import each other.
const FLOORS: &[&[&str]] = &[
    &["time", "queue", "metrics"],
    &["signal", "board", "config"],
    &["bundle", "capture", "preprocess", "infer", "heads", "decide", "emit"],
    &["fuse"],
    &["pipeline"],
    &["supervise"],
];

/// Of the lowest floor, but imported by its siblings too: points in time are everybody's vocabulary.
const GROUND: &str = "time";

/// Files of the binary: above every floor.
const BINARY: &[&str] = &["src/main.rs", "src/cli/"];

/// What only some files may say, outside test code: (text, files that may, why).
const ONLY_HERE: &[(&str, &[&str], &str)] = &[
    ("tract_", &["src/infer/", "quant/src/"], "one place changes when the engine does"),
    ("Instant::now", &["src/time.rs"], "time is an argument, so that everything runs in a test without sleeping"),
    ("SystemTime", &[], "events carry monotonic time; calendars belong to the reader"),
    ("thread::spawn", &["src/supervise"], "threads are started, named, restarted and counted in one place"),
    ("thread::Builder", &["src/supervise"], "threads are started, named, restarted and counted in one place"),
    ("thread::scope", &["src/supervise"], "threads are started, named, restarted and counted in one place"),
    ("v4l::", &["src/capture/v4l2.rs"], "a driver crate is wrapped once"),
    ("alsa::", &["src/capture/alsa.rs"], "a driver crate is wrapped once"),
    ("linux_embedded_hal", &["src/capture/buses.rs"], "a driver crate is wrapped once"),
    (
        "tokio::",
        &["src/supervise/network.rs", "src/emit/web", "src/emit/mqtt"],
        "no async in the data path: only sinks that talk to a network, and their thread",
    ),
    ("axum::", &["src/emit/web"], "the page's server can be replaced behind its sink"),
    ("hyper::", &["src/emit/web"], "the page's server can be replaced behind its sink"),
    ("rumqttc::", &["src/emit/mqtt/client.rs"], "a protocol's crate is wrapped once"),
    ("rustls::", &["src/emit/mqtt/tls.rs"], "one place decides what is trusted"),
    ("landlock::", &["src/supervise/sandbox/files.rs"], "one place says which paths a run may use"),
    ("seccompiler::", &["src/supervise/sandbox"], "one place says which calls a run may make"),
    ("process_group", &["src/emit/speech.rs"], "a program that speaks is ended with all it has started, in one place"),
    ("todo!(", &[], "nothing unfinished is delivered"),
    ("unimplemented!(", &[], "nothing unfinished is delivered"),
    ("dbg!(", &[], "a log has levels"),
];

/// Files that may contain `unsafe`: int8 kernels, drivers, the counting allocators of a test and of benches.
const UNSAFE_FILES: &[&str] = &[
    "quant/src/kernel/",
    "src/capture/v4l2.rs",
    "src/capture/alsa.rs",
    // a signal's context, and calls that no library wraps because they have to fail
    "src/supervise/sandbox/trap.rs",
    "src/supervise/sandbox/probe.rs",
    "tests/allocations.rs",
    "benches/",
];

const COLUMNS_MAX: usize = 160;
const LINES_MAX: usize = 1200;
const MODEL_BYTES_MAX: u64 = 8 << 20;

/// One text file of the repository.
struct Source {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Lines with their numbers from 1 that are code and no test code.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test_file =
            self.path.ends_with("/tests.rs") || self.path.starts_with("tests/") || self.path.starts_with("benches/");
        let end = if is_test_file { 0 } else { self.first_test_line() };
        self.text.lines().enumerate().take(end).filter(|(_, l)| !is_comment(l)).map(|(i, l)| (i + 1, l))
    }

    /// Index of the `#[cfg(test)]` before an inline module; a module in a file of its own does not end the code.
    fn first_test_line(&self) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_inline = |i: usize| lines[i..].iter().skip(1).take(3).any(|l| l.contains("mod ") && l.contains('{'));
        (0..lines.len()).find(|i| lines[*i].trim() == "#[cfg(test)]" && is_inline(*i)).unwrap_or(lines.len())
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|p| self.path.starts_with(p))
    }

    fn at(&self, line: usize, message: &str) -> String {
        format!("{}:{line}: {message}", self.path)
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// `src/capture/wav.rs` -> `capture`, `src/time.rs` -> `time`.
fn module_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    Some(rest.split('/').next()?.trim_end_matches(".rs"))
}

/// Modules of the crate that a line names: `crate::x`, and every first segment of `use crate::{x::.., y::..}`.
fn imports(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.push(rest),
            Some(list) => {
                let (mut depth, mut start) = (0, 0);
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => {
                            found.push(&list[start..i]);
                            break;
                        }
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            found.push(&list[start..i]);
                            start = i + 1;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    let name = |s: &str| s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    found.into_iter().map(name).filter(|n| !n.is_empty()).collect()
}

fn floors(source: &Source) -> Vec<String> {
    let Some(own) = module_of(&source.path).filter(|_| source.is_rust() && !source.is_in(BINARY)) else {
        return vec![];
    };
    if source.path == "src/lib.rs" {
        return vec![];
    }
    let Some(floor) = floor_of(own) else {
        return vec![source.at(
            1,
            &format!("module {own} is on no floor; add it to FLOORS in tests/tidy.rs and to the map in src/lib.rs"),
        )];
    };
    let mut wrong = Vec::new();
    // A `use` may span lines: join it before looking.
    let mut pending: Option<(usize, String)> = None;
    for (number, line) in source.code() {
        let (number, line) = match pending.take() {
            Some((first, text)) => (first, text + line),
            None => (number, line.to_owned()),
        };
        if line.contains("use crate::{") && !line.contains(';') {
            pending = Some((number, line));
            continue;
        }
        for other in imports(&line) {
            let Some(theirs) = floor_of(&other).filter(|_| other != own && other != GROUND) else { continue };
            if theirs == floor {
                wrong.push(
                    source.at(
                        number,
                        &format!("{own} imports its sibling {other}; move what is shared to a lower floor"),
                    ),
                );
            } else if theirs > floor {
                wrong.push(
                    source.at(
                        number,
                        &format!("{own} (floor {floor}) imports {other} (floor {theirs}); only lower floors"),
                    ),
                );
            }
        }
    }
    wrong
}

fn only_here(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") || !source.is_rust() {
        return vec![];
    }
    let mut wrong = Vec::new();
    for (number, line) in source.code() {
        let code = line.split(" //").next().unwrap_or(line);
        for (text, files, why) in ONLY_HERE {
            let is_named = code.match_indices(text).any(|(i, _)| {
                !code[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_') && !code[..i].ends_with("capture::")
            });
            if is_named && !source.is_in(files) {
                let place =
                    if files.is_empty() { "nowhere".to_owned() } else { format!("only in {}", files.join(", ")) };
                wrong.push(source.at(number, &format!("{text} may stand {place}: {why}")));
            }
        }
    }
    wrong
}

fn unsafe_code(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return vec![];
    }
    let lines: Vec<&str> = source.text.lines().collect();
    let mut wrong = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let code = line.split(" //").next().unwrap_or(line);
        let is_unsafe = code.match_indices(UNSAFE).any(|(at, _)| {
            let after = &code[at + UNSAFE.len()..];
            !code[..at].ends_with(['_', '"', '`', '('])
                && (after.starts_with(" {") || after.starts_with(" fn") || after.starts_with(" impl"))
        });
        if is_comment(line) || !is_unsafe {
            continue;
        }
        if !source.is_in(UNSAFE_FILES) {
            wrong.push(
                source
                    .at(i + 1, "unsafe code belongs to driver files and int8 kernels (UNSAFE_FILES in tests/tidy.rs)"),
            );
        }
        // The comment stands above the statement, or on the line itself; attributes and the statement's beginning may lie between.
        let is_explained =
            line.contains("// SAFETY:") || lines[i.saturating_sub(6)..i].iter().any(|l| l.contains("// SAFETY:"));
        if code.contains("unsafe {") && !is_explained {
            wrong.push(source.at(i + 1, "an unsafe block without a `// SAFETY:` comment above it"));
        }
    }
    wrong
}

/// In pieces, because this file is checked too.
const UNSAFE: &str = concat!("un", "safe");

fn opens_with_docs(source: &Source) -> Vec<String> {
    let is_code = source.is_rust() && (source.is_in(&["src/", "tests/", "benches/", "boards/", "build.rs"]));
    // A snapshot is an expression, not a module.
    if !is_code || source.is_in(&["tests/snapshots/"]) || source.text.starts_with("//!") {
        return vec![];
    }
    vec![source.at(1, "a module opens with `//!`: what it owns, who calls it, what it deliberately does not do")]
}

fn size(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return vec![];
    }
    let mut wrong = Vec::new();
    for (i, line) in source.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            wrong.push(source.at(i + 1, &format!("{columns} columns, expected at most {COLUMNS_MAX}")));
        }
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        wrong.push(source.at(lines, &format!("{lines} lines, expected at most {LINES_MAX}; split it")));
    }
    wrong
}

/// Texts that belong to a workshop and not to the product; in pieces, because this file is checked too.
fn workshop_words() -> Vec<String> {
    [
        "/wo|rk/",
        "issue |#",
        "ticket |#",
        "as planned| in",
        "fa|rm-",
        "pypi.|internal",
        "registry.|local",
        "index = \"http|",
    ]
    .iter()
    .map(|w| w.replace('|', ""))
    .collect()
}

fn workshop(source: &Source) -> Vec<String> {
    if source.path == "Cargo.lock" {
        return vec![];
    }
    let words = workshop_words();
    let mut wrong = Vec::new();
    for (i, line) in source.text.lines().enumerate() {
        let lower = line.to_lowercase();
        for word in words.iter().filter(|w| lower.contains(w.as_str())) {
            // A path inside a longer word ("network/") is another matter.
            let is_inside = lower
                .find(word.as_str())
                .is_some_and(|at| lower[..at].ends_with(|c: char| c.is_alphanumeric() || c == '-'));
            if !is_inside {
                wrong.push(
                    source.at(
                        i + 1,
                        &format!("{word:?} belongs to the workshop, not to the product; say it another way"),
                    ),
                );
            }
        }
    }
    wrong
}

fn lockfile(source: &Source) -> Vec<String> {
    if source.path != "Cargo.lock" {
        return vec![];
    }
    let wanted = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let lines = source.text.lines().enumerate();
    lines
        .filter(|(_, l)| l.starts_with("source = ") && *l != wanted)
        .map(|(i, _)| source.at(i + 1, "a dependency that is not from crates.io; publish it or drop it"))
        .collect()
}

const RULES: &[fn(&Source) -> Vec<String>] =
    &[floors, only_here, unsafe_code, opens_with_docs, size, workshop, lockfile];

/// Every text file that belongs to the repository; folders that are built or hidden do not.
fn sources(dir: &Path, root: &Path, into: &mut Vec<Source>, models: &mut Vec<(String, u64)>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let rel = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        if name == ".git" {
            continue;
        }
        if path.is_dir() {
            let is_foreign =
                name.starts_with('.') && name != ".ci" || ["target", "__pycache__", "node_modules"].contains(&&*name);
            if !is_foreign {
                sources(&path, root, into, models);
            }
            continue;
        }
        if rel.starts_with("models/") {
            models.push((rel.clone(), path.metadata().unwrap().len()));
        }
        if let Ok(text) = fs::read_to_string(&path) {
            into.push(Source { path: rel, text });
        }
    }
}

fn too_big(models: &[(String, u64)]) -> Vec<String> {
    let big = models.iter().filter(|(_, bytes)| *bytes > MODEL_BYTES_MAX);
    big.map(|(path, bytes)| {
        format!("{path}: {bytes} bytes, expected at most {MODEL_BYTES_MAX}; every clone carries it for ever")
    })
    .collect()
}

#[test]
fn the_repository_keeps_its_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut models) = (Vec::new(), Vec::new());
    sources(root, root, &mut files, &mut models);
    assert!(files.iter().any(|f| f.path == "src/lib.rs"), "the sources were not found");
    let mut wrong: Vec<String> = files.iter().flat_map(|f| RULES.iter().flat_map(|rule| rule(f))).collect();
    wrong.extend(too_big(&models));
    assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_module_of_the_library_is_on_a_floor_and_on_the_map() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let declared: Vec<&str> = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(declared.len() > 10, "the modules were not found: {declared:?}");
    for module in &declared {
        assert!(floor_of(module).is_some(), "{module} is on no floor of FLOORS");
        let on_map = lib.lines().any(|l| l.starts_with("//! |") && l.contains(&format!("[`{module}`]")));
        assert!(on_map, "{module} is not in the map of src/lib.rs");
    }
    for module in FLOORS.iter().copied().flatten() {
        assert!(declared.contains(module), "{module} is on a floor but not in src/lib.rs");
    }
}

/// Runs `rule` over one made-up file; `expected` are pieces of its messages, in order.
fn check(rule: fn(&Source) -> Vec<String>, path: &str, text: &str, expected: &[&str]) {
    let said = rule(&Source { path: path.to_owned(), text: text.to_owned() });
    let is_same = said.len() == expected.len() && said.iter().zip(expected).all(|(s, e)| s.contains(e));
    assert!(is_same, "{path}: {text:?}\n  said     {said:#?}\n  expected {expected:#?}");
}

#[test]
fn imports_go_down_only() {
    let up = "src/signal/x.rs:1: signal (floor 1) imports fuse (floor 3)";
    check(floors, "src/signal/x.rs", "use crate::fuse::Fuser;\n", &[up]);
    check(floors, "src/signal/x.rs", "let x = crate::fuse::go();\n", &[up]);
    check(
        floors,
        "src/signal/x.rs",
        "use crate::{\n    time::Micros,\n    fuse::{A, B},\n    board::BOARD,\n};\n",
        &["imports fuse", "sibling board"],
    );
    check(floors, "src/capture/wav.rs", "use crate::emit::Sink;\n", &["capture imports its sibling emit"]);
    check(floors, "src/capture/wav.rs", "use crate::time::Micros;\nuse crate::capture::Mic;\nuse super::Mic;\n", &[]);
    check(floors, "src/capture/wav.rs", "//! see [`crate::supervise`]\n", &[]);
    check(floors, "src/capture/wav.rs", "#[cfg(test)]\nmod tests {\n    use crate::pipeline::Pipeline;\n}\n", &[]);
    check(
        floors,
        "src/capture/wav.rs",
        "#[cfg(test)]\nmod tests;\nuse crate::pipeline::Pipeline;\n",
        &["capture (floor 2) imports pipeline"],
    );
    check(floors, "src/extra.rs", "//! x\n", &["module extra is on no floor"]);
    check(floors, "src/cli/run.rs", "use crate::cli::Failure;\n", &[]);
}

#[test]
fn each_thing_is_named_in_its_place_only() {
    for (text, files, _) in ONLY_HERE {
        check(only_here, "src/decide/x.rs", &format!("let x = {text}y();\n"), &["may stand"]);
        check(only_here, "src/decide/x.rs", &format!("// {text}\n"), &[]);
        for file in *files {
            let path = if file.ends_with(".rs") { (*file).to_owned() } else { format!("{file}/x.rs") };
            check(only_here, &path, &format!("let x = {text}y();\n"), &[]);
        }
    }
    check(only_here, "src/queue.rs", "#[cfg(test)]\nmod tests {\n    thread::scope(|s| ());\n}\n", &[]);
}

#[test]
fn unsafe_code_is_explained_and_in_its_place() {
    let block = format!("let x = {UNSAFE} {{ f() }};\n");
    check(unsafe_code, "src/fuse.rs", &format!("// SAFETY: checked\n{block}"), &["unsafe code belongs"]);
    check(unsafe_code, "quant/src/kernel/k.rs", &block, &["without a `// SAFETY:`"]);
    check(unsafe_code, "quant/src/kernel/k.rs", &format!("// SAFETY: checked\n{block}"), &[]);
    check(unsafe_code, "src/fuse.rs", &format!("pub {UNSAFE} fn f() {{}}\n"), &["unsafe code belongs"]);
    check(unsafe_code, "src/fuse.rs", &format!("#![deny({UNSAFE}_op_in_{UNSAFE}_fn)]\n// {UNSAFE} {{\n"), &[]);
}

#[test]
fn a_file_has_a_head_and_a_bound() {
    check(opens_with_docs, "src/x.rs", "use std::fs;\n", &["a module opens with"]);
    check(opens_with_docs, "src/x.rs", "//! Owns x.\n", &[]);
    check(opens_with_docs, "tests/snapshots/boards/x.rs", "Board {}\n", &[]);
    check(size, "src/x.rs", &format!("//! {}\n", "x".repeat(COLUMNS_MAX)), &["164 columns"]);
    check(size, "src/x.rs", &"x\n".repeat(LINES_MAX + 1), &["1201 lines"]);
    check(size, "src/x.rs", &"x\n".repeat(LINES_MAX), &[]);
    assert_eq!(too_big(&[("models/a".into(), MODEL_BYTES_MAX), ("models/b".into(), MODEL_BYTES_MAX + 1)]).len(), 1);
}

#[test]
fn the_workshop_stays_outside() {
    for word in workshop_words() {
        check(workshop, "docs/x.md", &format!("see {word}12\n"), &["belongs to the workshop"]);
    }
    check(workshop, "docs/x.md", "the network/ folder\n", &[]);
}

#[test]
fn dependencies_come_from_the_public_registry() {
    check(lockfile, "Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n", &[]);
    check(lockfile, "Cargo.lock", "x\nsource = \"git+https://example.com/x\"\n", &["not from crates.io"]);
}
