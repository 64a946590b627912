//! What a board file may say, and how it becomes Rust: the table of keys, the checks, the generated text.
//!
//! Compiled by build.rs, which turns `BOARD=<name>` into constants, and by tests/boards.rs, which tests every message
//! and the text generated for every board. Part of no program that runs on a device.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::spans::{explain, line_at};

/// What a key holds, and what of it is possible.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number in `min..=max`.
    Int { min: i64, max: i64 },
    /// A text, not empty.
    Text,
    /// One of some words; `rust` is the enum in src/board/mod.rs, its variants are the words in camel case.
    Word { rust: &'static str, words: &'static [&'static str] },
    /// A list of some words, without repetition, at least `min` of them; of the enum `rust`, or of `&str` if that is empty.
    Words { rust: &'static str, words: &'static [&'static str], min: usize },
}

/// One key of a board file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`, or `key` at the top; the names of struct fields in src/board/mod.rs.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What it means, for docs/boards.md.
    pub doc: &'static str,
}

const fn int(path: &'static str, min: i64, max: i64, doc: &'static str) -> Key {
    Key { path, kind: Kind::Int { min, max }, doc }
}

const fn text(path: &'static str, doc: &'static str) -> Key {
    Key { path, kind: Kind::Text, doc }
}

const fn word(path: &'static str, rust: &'static str, words: &'static [&'static str], doc: &'static str) -> Key {
    Key { path, kind: Kind::Word { rust, words }, doc }
}

const fn words(
    path: &'static str,
    rust: &'static str,
    words: &'static [&'static str],
    min: usize,
    doc: &'static str,
) -> Key {
    Key { path, kind: Kind::Words { rust, words, min }, doc }
}

/// Drivers a board can name: each is a Cargo feature.
pub const DRIVERS: &[&str] = &["v4l", "alsa", "gpio"];

/// Every key but `inherit` and the tables `[gpio.NAME]`. Sections stand together, in the order of the fields of their struct.
pub const KEYS: &[Key] = &[
    text("description", "the product's name, for `attendant boards`"),
    words("drivers", "", DRIVERS, 0, "driver features the board's devices use when they are compiled in"),
    words("drivers_required", "", DRIVERS, 0, "driver features without which the build fails"),
    text("model.bundle", "bundle that is played when none is named"),
    word("model.variant", "Variant", &["int8", "f32"], "arithmetic of the models that suit the board"),
    word("cpu.arch", "Arch", &["any", "aarch64", "x86_64"], "architecture of its processor"),
    int("cpu.cores", 1, 256, "cores"),
    int("cpu.inference_threads", 1, 64, "threads of the int8 kernels, at most `cores`"),
    int("memory.total_mb", 64, 1_048_576, "memory of the smallest model of the board"),
    int("memory.budget_mb", 32, 65_536, "resident memory the program may use, at most half of `total_mb`"),
    int("latency.decision_ms_max", 1, 10_000, "from a sample available to its event emitted, p99"),
    int("latency.start_ms_max", 1, 60_000, "from the start of the process to the first decision"),
    text("camera.device", "path below /dev/v4l/by-id, or `auto`: the first one there"),
    words(
        "camera.formats",
        "FrameFormat",
        &["mjpeg", "yuyv", "uyvy", "nv12", "yu12", "gray", "rgb"],
        1,
        "pixel formats to ask the camera for, the best first",
    ),
    int("camera.width", 16, 8192, "pixels per row to ask for"),
    int("camera.height", 16, 8192, "rows to ask for"),
    int("camera.rate_hz", 1, 240, "frames per second to ask for"),
    int("camera.queue_len", 2, 64, "buffers of the driver; one is always being filled"),
    int("camera.timeout_ms", 10, 60_000, "without a frame for this long the camera is reopened"),
    text("audio.device", "ALSA name such as `hw:CARD=name`, or `default`"),
    int("audio.sample_rate_hz", 4000, 192_000, "samples per second to ask for"),
    int("audio.block_ms", 1, 1000, "length of one block"),
    int("audio.queue_len", 2, 1024, "blocks that wait for the inference thread; one is always being filled"),
    int("audio.timeout_ms", 10, 60_000, "without a sample for this long the microphone is reopened"),
    int("text.queue_len", 2, 1024, "utterances that wait for the inference thread"),
    int("sensor.queue_len", 2, 4096, "readings that wait for the inference thread"),
    int("events.queue_len", 2, 65_536, "events that wait for the sinks"),
    int("budget.celsius_max", 30, 125, "from this temperature on rates drop, a step at a time"),
    int("budget.celsius_back", 20, 124, "below this temperature they come back, a step at a time; below `celsius_max`"),
    int("budget.busy_percent_max", 10, 100, "share of the time the inference thread may be at work before rates drop"),
    words(
        "budget.shed",
        "Kind",
        &["image", "audio", "series"],
        0,
        "kinds of encoders whose rate is halved, in this order",
    ),
];

/// Most lines of a GPIO chip.
const GPIO_LINE_MAX: i64 = 1023;

/// One thing wrong with a board file: `file:line: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// As in `boards/pi5.toml`.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Key, value, what was expected, the next step.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Text`] and [`Kind::Word`].
    Text(String),
    /// Of [`Kind::Words`].
    List(Vec<String>),
}

/// A value and where it was written, which may be the inherited file.
#[derive(Clone, Debug)]
struct Placed {
    value: Value,
    file: String,
    line: usize,
}

/// A line of a GPIO chip.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Gpio {
    label: Option<String>,
    line: Option<i64>,
    at: (String, usize),
}

/// A board whose every key is present and possible.
#[derive(Clone, Debug)]
pub struct Board {
    /// Name of the file without its ending.
    pub name: String,
    values: BTreeMap<&'static str, Placed>,
    gpio: BTreeMap<String, Gpio>,
}

/// One file as written.
struct Layer {
    file: String,
    inherit: Option<(String, usize)>,
    values: BTreeMap<&'static str, Placed>,
    gpio: BTreeMap<String, Gpio>,
}

/// Names of the boards in `dir`, sorted: the file existing creates the board.
///
/// # Errors
/// In words, if the folder cannot be read.
pub fn names(dir: &Path) -> Result<Vec<String>, String> {
    let entries =
        std::fs::read_dir(dir).map_err(|e| format!("{}: {e}; run cargo from a complete checkout", dir.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".toml").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// The board `name` of `dir`, with what it inherits, checked.
///
/// # Errors
/// Everything that is wrong with the file, in the order of the lines.
pub fn load(dir: &Path, name: &str) -> Result<Board, Vec<Problem>> {
    let known = names(dir).map_err(|message| vec![Problem { file: "boards".into(), line: 1, message }])?;
    if !known.iter().any(|n| n == name) {
        let message = format!(
            "BOARD={name}: there is no such board; known boards: {}; use one of them or write boards/{name}.toml (docs/boards.md)",
            known.join(", ")
        );
        return Err(vec![Problem { file: format!("boards/{name}.toml"), line: 1, message }]);
    }
    let mut board = read(dir, name)?;
    if let Some((parent, line)) = board.inherit.take() {
        let wrong = |message| Err(vec![Problem { file: board.file.clone(), line, message }]);
        if parent == name {
            return wrong(format!("inherit = \"{parent}\": a board cannot inherit itself; remove the line"));
        }
        if !known.contains(&parent) {
            return wrong(format!(
                "inherit = \"{parent}\": there is no such board; known boards: {}",
                known.join(", ")
            ));
        }
        let base = read(dir, &parent)?;
        if let Some((second, _)) = base.inherit {
            return wrong(format!(
                "inherit = \"{parent}\": {parent} itself inherits {second}, and there is one level only; inherit {second}, or \
                 copy what differs"
            ));
        }
        for (path, value) in base.values {
            board.values.entry(path).or_insert(value);
        }
        for (gpio, theirs) in base.gpio {
            let ours = board.gpio.entry(gpio).or_insert_with(|| Gpio { at: theirs.at.clone(), ..Gpio::default() });
            ours.label = ours.label.take().or(theirs.label);
            ours.line = ours.line.or(theirs.line);
        }
    }
    check(name, board)
}

/// Reads one file: syntax, keys, types and ranges.
fn read(dir: &Path, name: &str) -> Result<Layer, Vec<Problem>> {
    let file = format!("boards/{name}.toml");
    let text = std::fs::read_to_string(dir.join(format!("{name}.toml"))).map_err(|e| {
        vec![Problem { file: file.clone(), line: 1, message: format!("{e}; the file must be readable UTF-8") }]
    })?;
    read_text(file, &text)
}

/// The board that `text` alone describes, without what it inherits: for fuzzing.
///
/// # Errors
/// As [`load`].
pub fn of_text(name: &str, text: &str) -> Result<Board, Vec<Problem>> {
    check(name, read_text(format!("boards/{name}.toml"), text)?)
}

fn read_text(file: String, text: &str) -> Result<Layer, Vec<Problem>> {
    let root = DeTable::parse(text).map_err(|e| {
        let (line, message) = explain(text, &e);
        vec![Problem { file: file.clone(), line, message }]
    })?;
    let mut layer = Layer { file: file.clone(), inherit: None, values: BTreeMap::new(), gpio: BTreeMap::new() };
    let mut problems = Vec::new();
    for (key, value) in root.get_ref() {
        let line = line_at(text, key.span().start);
        let name: &str = key.get_ref();
        match (name, value.get_ref()) {
            ("inherit", DeValue::String(parent)) => layer.inherit = Some((parent.to_string(), line)),
            ("inherit", _) => problems.push((line, "inherit: expected the name of a board in quotes".to_owned())),
            ("gpio", DeValue::Table(table)) => read_gpio(text, &file, table, &mut layer.gpio, &mut problems),
            (section, DeValue::Table(table)) if is_section(section) => {
                for (key, value) in table {
                    let line = line_at(text, key.span().start);
                    take(&mut layer, &format!("{section}.{}", key.get_ref()), value.get_ref(), line, &mut problems);
                }
            }
            (_, value) => take(&mut layer, name, value, line, &mut problems),
        }
    }
    if problems.is_empty() {
        return Ok(layer);
    }
    problems.sort();
    Err(problems.into_iter().map(|(line, message)| Problem { file: file.clone(), line, message }).collect())
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|k| k.path.split_once('.').is_some_and(|(section, _)| section == name))
}

/// Puts one checked value into the layer.
fn take(layer: &mut Layer, path: &str, value: &DeValue<'_>, line: usize, problems: &mut Vec<(usize, String)>) {
    let Some(key) = KEYS.iter().find(|k| k.path == path) else {
        problems.push((line, unknown(path)));
        return;
    };
    match parse(key, value) {
        Ok(value) => {
            layer.values.insert(key.path, Placed { value, file: layer.file.clone(), line });
        }
        Err(message) => problems.push((line, message)),
    }
}

/// The message about a key that is not in the table, with the keys that stand at the same place.
fn unknown(path: &str) -> String {
    let section = path.split_once('.').map(|(section, _)| section).filter(|s| is_section(s));
    let mut known: Vec<&str> = match section {
        Some(section) => KEYS.iter().filter_map(|k| k.path.strip_prefix(section)?.strip_prefix('.')).collect(),
        None => vec!["inherit"],
    };
    if section.is_none() {
        for key in KEYS {
            let top = key.path.split('.').next().unwrap_or(key.path);
            if !known.contains(&top) {
                known.push(top);
            }
        }
        known.push("gpio");
    }
    format!(
        "unknown key `{path}`; known keys{}: {}",
        section.map(|s| format!(" of [{s}]")).unwrap_or_default(),
        known.join(", ")
    )
}

fn parse(key: &Key, value: &DeValue<'_>) -> Result<Value, String> {
    let path = key.path;
    match key.kind {
        Kind::Int { min, max } => Ok(Value::Int(parse_int(path, value, min, max)?)),
        Kind::Text => match value.as_str() {
            Some(text) if !text.trim().is_empty() => Ok(Value::Text(text.to_owned())),
            Some(_) => Err(format!("{path} = \"\", expected a text that is not empty")),
            None => Err(format!("{path}: found {}, expected a text in quotes", found(value))),
        },
        Kind::Word { words, .. } => match value.as_str() {
            Some(word) if words.contains(&word) => Ok(Value::Text(word.to_owned())),
            _ => Err(format!("{path} = {}, expected one of {}", found(value), words.join(", "))),
        },
        Kind::Words { words, min, .. } => {
            let Some(array) = value.as_array() else {
                return Err(format!("{path}: found {}, expected a list such as [\"{}\"]", found(value), words[0]));
            };
            let mut list: Vec<String> = Vec::new();
            for item in array {
                match item.get_ref().as_str() {
                    Some(word) if list.iter().any(|w| w == word) => {
                        return Err(format!("{path}: {word} is listed twice"));
                    }
                    Some(word) if words.contains(&word) => list.push(word.to_owned()),
                    _ => {
                        return Err(format!(
                            "{path}: {}, expected some of {}",
                            found(item.get_ref()),
                            words.join(", ")
                        ));
                    }
                }
            }
            if list.len() < min { Err(format!("{path} = [], expected at least {min}")) } else { Ok(Value::List(list)) }
        }
    }
}

fn parse_int(path: &str, value: &DeValue<'_>, min: i64, max: i64) -> Result<i64, String> {
    let Some(integer) = value.as_integer() else {
        return Err(format!("{path}: found {}, expected a whole number from {min} to {max}", found(value)));
    };
    match i64::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(n) if n < min => Err(format!("{path} = {n}, expected at least {min}")),
        Ok(n) if n <= max => Ok(n),
        _ => Err(format!("{path} = {}, expected at most {max}", integer.as_str())),
    }
}

/// A value as a message shows it.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("\"{s}\""),
        DeValue::Integer(i) => i.as_str().to_owned(),
        DeValue::Float(f) => f.as_str().to_owned(),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => d.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn read_gpio(
    text: &str,
    file: &str,
    table: &DeTable<'_>,
    into: &mut BTreeMap<String, Gpio>,
    problems: &mut Vec<(usize, String)>,
) {
    for (name, value) in table {
        let line = line_at(text, name.span().start);
        let name = name.get_ref();
        let DeValue::Table(keys) = value.get_ref() else {
            problems
                .push((line, format!("gpio.{name}: found {}, expected a table [gpio.{name}]", found(value.get_ref()))));
            continue;
        };
        let mut gpio = Gpio { at: (file.to_owned(), line), ..Gpio::default() };
        for (key, value) in keys {
            let line = line_at(text, key.span().start);
            let path = format!("gpio.{name}.{}", key.get_ref());
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("label", DeValue::String(label)) if !label.is_empty() => gpio.label = Some(label.to_string()),
                ("label", other) => {
                    problems.push((line, format!("{path} = {}, expected the chip's label in quotes", found(other))))
                }
                ("line", other) => match parse_int(&path, other, 0, GPIO_LINE_MAX) {
                    Ok(n) => gpio.line = Some(n),
                    Err(message) => problems.push((line, message)),
                },
                _ => problems.push((line, format!("unknown key `{path}`; known keys of [gpio.{name}]: label, line"))),
            }
        }
        into.insert(name.to_string(), gpio);
    }
}

/// Completeness, and what only several keys together can get wrong.
fn check(name: &str, layer: Layer) -> Result<Board, Vec<Problem>> {
    let mut problems = Vec::new();
    for key in KEYS {
        if !layer.values.contains_key(key.path) {
            let message = format!("missing key `{}` ({}); add it, or inherit a board that has it", key.path, key.doc);
            problems.push(Problem { file: layer.file.clone(), line: 1, message });
        }
    }
    for (name, gpio) in &layer.gpio {
        for (key, is_there) in [("label", gpio.label.is_some()), ("line", gpio.line.is_some())] {
            if !is_there {
                let message = format!("missing key `gpio.{name}.{key}`; add it");
                problems.push(Problem { file: gpio.at.0.clone(), line: gpio.at.1, message });
            }
        }
    }
    let board = Board { name: name.to_owned(), values: layer.values, gpio: layer.gpio };
    if problems.is_empty() {
        board.check_pairs(&mut problems);
    }
    if problems.is_empty() { Ok(board) } else { Err(problems) }
}

impl Board {
    fn int(&self, path: &str) -> i64 {
        match self.values[path].value {
            Value::Int(n) => n,
            _ => unreachable!("{path} is a whole number in KEYS"),
        }
    }

    fn list(&self, path: &str) -> &[String] {
        match &self.values[path].value {
            Value::List(list) => list,
            _ => unreachable!("{path} is a list in KEYS"),
        }
    }

    fn wrong(&self, path: &str, message: String) -> Problem {
        let at = &self.values[path];
        Problem { file: at.file.clone(), line: at.line, message }
    }

    fn check_pairs(&self, problems: &mut Vec<Problem>) {
        let (threads, cores) = (self.int("cpu.inference_threads"), self.int("cpu.cores"));
        if threads > cores {
            let message = format!("cpu.inference_threads = {threads}, expected at most cpu.cores = {cores}");
            problems.push(self.wrong("cpu.inference_threads", message));
        }
        let (budget, total) = (self.int("memory.budget_mb"), self.int("memory.total_mb"));
        if budget > total / 2 {
            let message = format!("memory.budget_mb = {budget}, expected at most half of memory.total_mb = {total}");
            problems.push(self.wrong("memory.budget_mb", message));
        }
        let (max, back) = (self.int("budget.celsius_max"), self.int("budget.celsius_back"));
        if back >= max {
            let message = format!("budget.celsius_back = {back}, expected less than budget.celsius_max = {max}");
            problems.push(self.wrong("budget.celsius_back", message));
        }
        for driver in self.list("drivers_required") {
            if !self.list("drivers").contains(driver) {
                let message = format!("drivers_required names {driver}, which is not in drivers; add it there");
                problems.push(self.wrong("drivers_required", message));
            }
        }
    }

    /// Whether every driver the board cannot do without is compiled in; `is_on` tells whether a Cargo feature is.
    ///
    /// # Errors
    /// Names the drivers and the command that builds with them.
    pub fn check_drivers(&self, is_on: impl Fn(&str) -> bool) -> Result<(), Problem> {
        let missing: Vec<&str> =
            self.list("drivers_required").iter().map(String::as_str).filter(|d| !is_on(d)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let message = format!(
            "the board {} needs the driver feature{} {}; build it with: BOARD={} cargo build --release --features {}",
            self.name,
            if missing.len() == 1 { "" } else { "s" },
            missing.join(", "),
            self.name,
            missing.join(",")
        );
        Err(self.wrong("drivers_required", message))
    }

    /// The board as a `Board { .. }` expression of src/board/mod.rs.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = format!("Board {{\n    name: {:?},\n", self.name);
        let mut section = "";
        for key in KEYS {
            let (here, field) = key.path.split_once('.').unwrap_or(("", key.path));
            if here != section {
                if !section.is_empty() {
                    out.push_str("    },\n");
                }
                let _ = writeln!(out, "    {here}: {} {{", camel(here));
                section = here;
            }
            let indent = if here.is_empty() { "    " } else { "        " };
            let _ = writeln!(out, "{indent}{field}: {},", literal(key.kind, &self.values[key.path].value));
        }
        out.push_str("    },\n    gpio: &[");
        for (name, gpio) in &self.gpio {
            let (label, line) = (gpio.label.as_deref().unwrap_or_default(), gpio.line.unwrap_or_default());
            let _ = write!(out, "\n        Gpio {{ name: {name:?}, label: {label:?}, line: {line} }},");
        }
        out.push_str(if self.gpio.is_empty() { "],\n}\n" } else { "\n    ],\n}\n" });
        out
    }
}

fn literal(kind: Kind, value: &Value) -> String {
    match (kind, value) {
        (_, Value::Int(n)) => n.to_string(),
        (Kind::Word { rust, .. }, Value::Text(word)) => format!("{rust}::{}", camel(word)),
        (_, Value::Text(text)) => format!("{text:?}"),
        (Kind::Words { rust, .. }, Value::List(list)) if !rust.is_empty() => {
            format!("&[{}]", list.iter().map(|w| format!("{rust}::{}", camel(w))).collect::<Vec<_>>().join(", "))
        }
        (_, Value::List(list)) => format!("&{list:?}"),
    }
}

/// `x86_64` -> `X8664`, `int8` -> `Int8`.
fn camel(word: &str) -> String {
    word.split('_')
        .map(|part| {
            let mut chars = part.chars();
            chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
        })
        .collect()
}

/// The table of keys as docs/boards.md shows it.
#[must_use]
pub fn keys_as_markdown() -> String {
    let mut out = String::from("| key | value | meaning |\n|---|---|---|\n");
    for key in KEYS {
        let value = match key.kind {
            Kind::Int { min, max } => format!("{min} to {max}"),
            Kind::Text => "text".to_owned(),
            Kind::Word { words, .. } => format!("one of {}", words.join(", ")),
            Kind::Words { words, .. } => format!("list of {}", words.join(", ")),
        };
        let _ = writeln!(out, "| `{}` | {value} | {} |", key.path, key.doc);
    }
    out
}
