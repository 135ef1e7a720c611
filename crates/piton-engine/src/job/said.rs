//! How it is said what failed: the step once, and what of it.

use super::{
    body::Purpose,
    definition::{Body, Step},
};
use crate::run::RunError;

/// The same error, otherwise said.
pub(super) fn with_what(error: RunError, say: impl FnOnce(String) -> String) -> RunError {
    match error {
        RunError::Failed(what) => RunError::Failed(say(what)),
        RunError::Settings(what) => RunError::Settings(say(what)),
        RunError::Refused(what) => RunError::Refused(say(what)),
        error => error,
    }
}

/// Names the step in front of what it failed with, once.
pub(super) fn in_step(step: &Step, error: RunError) -> RunError {
    with_what(error, |what| match why(step, &what) {
        what if what.starts_with("step '") => what,
        what => format!("step '{}': {what}", step.path),
    })
}

/// What a step failed with, without its name. Many records in one transaction fail by the name of the
/// `for_each`: where there is one step of statements below it, it is that one.
pub(super) fn why(step: &Step, what: &str) -> String {
    let what = bare(&step.path, what);
    let mut below = Vec::new();
    statements_below(step, &mut below);
    let named = match &below[..] {
        [only] if matches!(step.body, Body::ForEach(_)) => format!("step '{only}': "),
        _ => String::new(),
    };
    what.replacen(&format!("step '{}': ", step.path), &named, 1)
}

fn statements_below<'a>(step: &'a Step, found: &mut Vec<&'a str>) {
    for step in &step.steps {
        if matches!(step.body, Body::Sql(_)) {
            found.push(&step.path);
        }
        statements_below(step, found);
    }
}

/// Says what was done beside a step when it failed, once.
pub(super) fn in_action(path: &str, purpose: Purpose, error: RunError) -> RunError {
    let key = purpose.key();
    with_what(error, |what| match bare(path, &what) {
        bare if bare.starts_with(key) => bare.to_owned(),
        bare => format!("{key}: {bare}"),
    })
}

/// What a step failed with, without its name in front.
fn bare<'a>(path: &str, what: &'a str) -> &'a str {
    let rest = what.strip_prefix("step '").and_then(|rest| rest.strip_prefix(path));
    rest.and_then(|rest| rest.strip_prefix("': ")).unwrap_or(what)
}
