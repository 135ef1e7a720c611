//! `cargo xtask bench`: what the project promises about speed, measured.
//!
//! The measuring code is built with the feature `bench` and in release mode, by this program
//! calling cargo on itself.

#[cfg(not(feature = "bench"))]
pub(crate) fn run(args: &[String]) -> Result<(), crate::command::Failure> {
    use crate::command::{cargo, run as run_to_end};
    run_to_end(&mut cargo(["build", "--release", "--package", "piton-cli", "--bin", "piton"]))?;
    let mut itself = cargo(["run", "--quiet", "--release", "--package", "xtask"]);
    run_to_end(itself.args(["--features", "bench", "--", "bench"]).args(args))
}
