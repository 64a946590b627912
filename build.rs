//! Turns `BOARD=<name>` (default `host`) into the constants of src/board/mod.rs, from boards/*.toml.
//!
//! A board file that is wrong stops the build with one message for each mistake, with file, line and the next step.

use std::env;
use std::fmt::Write as _;
use std::path::Path;

#[path = "boards/schema.rs"]
#[expect(dead_code, reason = "the documentation of the keys is for tests/boards.rs")]
mod schema;
#[path = "src/config/spans.rs"]
#[expect(dead_code, reason = "the way from a key to its line is for the bundle's checks")]
mod spans;

fn main() {
    for path in ["boards", "build.rs", "src/config/spans.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=BOARD");
    // `cargo::error` stops the build with the message alone; a failing exit code would add everything the script printed.
    for message in generate().err().into_iter().flatten() {
        println!("cargo::error={}", message.replace('\n', " "));
    }
}

fn generate() -> Result<(), Vec<String>> {
    let name = env::var("BOARD").ok().filter(|b| !b.is_empty()).unwrap_or_else(|| "host".into());
    let dir = Path::new("boards");
    let words = |problems: Vec<schema::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let board = schema::load(dir, &name).map_err(words)?;
    let feature = |driver: &str| env::var_os(format!("CARGO_FEATURE_{}", driver.to_uppercase())).is_some();
    board.check_drivers(feature).map_err(|p| vec![p.to_string()])?;

    let mut text =
        format!("/// The board this binary was built for.\npub const BOARD: Board = {};\n", board.render().trim_end());
    text.push_str("\n/// Every board of the source tree, sorted by name.\npub const BOARDS: &[Board] = &[\n");
    for name in schema::names(dir).map_err(|e| vec![e])? {
        let board = schema::load(dir, &name).map_err(words)?;
        let _ = writeln!(text, "{},", board.render().trim_end());
    }
    text.push_str("];\n");
    let out = env::var_os("OUT_DIR").ok_or_else(|| vec!["OUT_DIR is not set: run this through cargo".to_owned()])?;
    let file = Path::new(&out).join("board.rs");
    std::fs::write(&file, text).map_err(|e| vec![format!("{}: {e}; is the disk full?", file.display())])
}
