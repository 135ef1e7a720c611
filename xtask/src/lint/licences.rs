//! Licences, sources and known weaknesses of what we depend on, by cargo-deny.

use crate::command::{Failure, cargo, run as run_to_end, succeeds};

/// The version that is installed where there is none. Any other that is there is used.
const VERSION: &str = "0.20.2";

/// Checks licences, sources and duplicates from what is here; advisories if they can be had.
pub(super) fn check() -> Result<(), Failure> {
    if !succeeds(&mut cargo(["deny", "--version"])) {
        println!("cargo-deny is not here: installing {VERSION}, which takes a few minutes, once");
        run_to_end(&mut cargo(["install", "cargo-deny", "--locked", "--version", VERSION]))?;
    }
    run_to_end(&mut deny(["licenses", "bans", "sources"]))?;
    if !succeeds(&mut cargo(["deny", "--all-features", "fetch", "db"])) {
        println!(
            "ADVISORIES WERE NOT CHECKED: the database at github.com/RustSec/advisory-db cannot \
             be reached from here. `cargo deny check advisories` checks them elsewhere"
        );
        return Ok(());
    }
    run_to_end(&mut deny(["advisories"]))
}

fn deny<const N: usize>(what: [&'static str; N]) -> std::process::Command {
    let mut deny = cargo(["deny", "--all-features", "check", "--hide-inclusion-graph"]);
    deny.args(what);
    deny
}
