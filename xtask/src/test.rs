//! `cargo xtask test`: all tests, and whatever they need.

use crate::command::{Failure, cargo, run as run_to_end};

/// Runs every test of the workspace to its end, also after one has failed. What cargo and the
/// test runner print is passed on as it is; the runner's closing lines come last.
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let mut tests = cargo(["test", "--workspace", "--no-fail-fast"]);
    run_to_end(tests.args(args))
}
