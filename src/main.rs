//! The `attendant` program: parses the command line, runs one command, turns its error into a message and an exit code.
//!
//! Each command is a file in `cli/`. Nothing is computed here.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    cli::logging(&arguments);
    match cli::dispatch(arguments) {
        Ok(code) => code,
        Err(error) => {
            if !error.is_broken_pipe() {
                eprintln!("attendant: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
