//! `piton` with the known-bad behaviour that `PITON_KNOWN_BAD` names. The crash harness has to catch
//! each; nobody else has a use for it.

use std::process::ExitCode;

fn main() -> ExitCode {
    piton_cli::main()
}
