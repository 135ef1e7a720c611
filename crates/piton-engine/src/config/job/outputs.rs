//! Files that steps write: a file has one writer at a time, so that two steps that may be at work at
//! once write two.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
};

use crate::{
    config::error::{Condition, Place, Problem},
    job::definition::Step,
};

/// A file that a step writes.
pub(super) struct Output {
    pub(super) file: PathBuf,
    /// The path of the step.
    pub(super) step: String,
    pub(super) sink: String,
    pub(super) at: Place,
}

/// Steps that write a file which one before them writes, and that may be at work at the same time.
pub(super) fn clashes(steps: &[Step], outputs: &[Output]) -> Vec<Problem> {
    let mut writers: HashMap<&PathBuf, Vec<&Output>> = HashMap::new();
    let mut problems = Vec::new();
    for output in outputs {
        let before = writers.entry(&output.file).or_default();
        let clash = before.iter().find(|other| may_meet(steps, &other.step, &output.step));
        if let Some(other) = clash {
            let why = format!(
                "writes {}, as step '{}' does, which may be at work at the same time: name another \
                 file, or let one come `after` the other",
                output.file.display(),
                other.step
            );
            let path = format!("steps.{}.sinks.{}", output.step, output.sink);
            problems.push(Problem { at: output.at, what: Condition::Invalid { path, why } });
        }
        before.push(output);
    }
    problems
}

/// Whether two steps may be at work at once: neither is above the other, and where their ways part
/// neither waits for the other.
fn may_meet(steps: &[Step], a: &str, b: &str) -> bool {
    let (mut level, mut names) = (steps, a.split('/').zip(b.split('/')));
    loop {
        let Some((a, b)) = names.next() else { return false };
        if a != b {
            return !waits(level, a, b) && !waits(level, b, a);
        }
        match level.iter().find(|step| step.name == a) {
            Some(step) => level = &step.steps,
            None => return false,
        }
    }
}

/// Whether a step waits for another beside it, or for one that does.
fn waits(level: &[Step], step: &str, other: &str) -> bool {
    let named: HashMap<&str, &Step> = level.iter().map(|step| (&*step.name, step)).collect();
    let (mut seen, mut next) = (BTreeSet::new(), vec![step]);
    while let Some(name) = next.pop() {
        let after = named.get(name).map_or(&[][..], |step| &step.after[..]);
        next.extend(after.iter().map(String::as_str).filter(|name| seen.insert(*name)));
    }
    seen.contains(other)
}
