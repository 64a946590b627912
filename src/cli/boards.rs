//! `attendant boards`: the boards of this source tree, and the one in this binary.

use std::process::ExitCode;

use attendant::board::{BOARD, BOARDS};

use super::{Common, Failure, out, outln, table};

/// Runs the command.
pub fn run(common: &Common) -> Result<ExitCode, Failure> {
    if common.json {
        common.print_json(&serde_json::json!({ "built_for": BOARD, "known": BOARDS }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["board", "cores", "memory MB", "budget MB", "camera", "drivers", "what"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for board in BOARDS {
        let mark = if board.name == BOARD.name { " *" } else { "" };
        rows.push(vec![
            format!("{}{mark}", board.name),
            board.cpu.cores.to_string(),
            board.memory.total_mb.to_string(),
            board.memory.budget_mb.to_string(),
            format!("{}x{}@{}", board.camera.width, board.camera.height, board.camera.rate_hz),
            board.drivers.join(" "),
            board.description.to_owned(),
        ]);
    }
    out!("{}", table::render(&rows));
    outln!("\n* this binary; build for another with BOARD=<name> cargo build --release");
    Ok(ExitCode::SUCCESS)
}
