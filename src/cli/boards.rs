//! `attendant boards`: the boards of this source tree, and the one in this binary.

use std::process::ExitCode;

use attendant::board::{BOARD, BOARDS};

use super::{Common, Failure, table};

/// Runs the command.
pub fn run(common: &Common) -> Result<ExitCode, Failure> {
    if common.json {
        common.print_json(&serde_json::json!({ "built_for": BOARD, "known": BOARDS }))?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::SUCCESS)
}
