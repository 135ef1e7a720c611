//! The program `piton`.

use std::process::ExitCode;

fn main() -> ExitCode {
    piton_cli::main()
}
