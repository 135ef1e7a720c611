//! `cargo xtask lint`: everything about the code that a machine can judge without running it.
//!
//! Formatting and clippy judge what every Rust project agrees on; the modules here judge what
//! this house has agreed on. Every step runs, also after one has failed, so that one call shows
//! all there is to mend.

mod documents;
mod layers;
mod licences;
mod sources;

use std::fmt;

use crate::command::{Failure, cargo, root, run as run_to_end};

/// Something to mend.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// `path:line`, a crate, or a path.
    place: String,
    /// What is wrong there and what to do about it.
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

type Step = (&'static str, fn() -> Result<(), Failure>);

const STEPS: &[Step] = &[
    ("house rules", house_rules),
    ("format", format),
    ("clippy", clippy),
    ("documentation", documentation),
    ("licences", licences::check),
];

/// Runs every step and names those that failed.
pub(crate) fn run() -> Result<(), Failure> {
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        println!("== {name}");
        if let Err(failure) = step() {
            println!("{failure}");
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        println!("lint: ok");
        return Ok(());
    }
    Err(Failure::Found(format!("lint failed: {}", failed.join(", "))))
}

fn house_rules() -> Result<(), Failure> {
    let mut findings = sources::check(root())?;
    findings.extend(documents::check(root())?);
    findings.extend(layers::check()?);
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    Err(Failure::Found(lines.join("\n")))
}

fn format() -> Result<(), Failure> {
    run_to_end(&mut cargo(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<(), Failure> {
    let mut clippy = cargo(["clippy", "--workspace", "--all-targets"]);
    clippy.args(["--features", "xtask/bench,xtask/services"]);
    run_to_end(clippy.args(["--", "-D", "warnings"]))
}

fn documentation() -> Result<(), Failure> {
    let mut doc = cargo(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
    run_to_end(doc.env("RUSTDOCFLAGS", "-D warnings"))
}
