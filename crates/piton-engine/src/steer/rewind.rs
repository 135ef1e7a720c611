//! Where to go back to: a version, a time, or a position, looked up in the history.

use std::{cmp::Ordering, fmt, str::FromStr};

use jiff::Timestamp;
use piton_core::{Checkpoint, StoredPosition};

use super::{SteerError, Wish};
use crate::connect::{brief, order_of_kind, sought};

/// Where to go back to. Of each sink's checkpoints the newest that is not past it is taken; a sink
/// that had none by then begins anew.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A checkpoint's version.
    Version(u64),
    /// A moment.
    Time(Timestamp),
    /// A position, as JSON.
    Position(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "version {version}"),
            Self::Time(time) => time.fmt(f),
            Self::Position(json) => f.write_str(json),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(version) = text.parse() {
            return Ok(Self::Version(version));
        }
        if let Ok(time) = text.parse() {
            return Ok(Self::Time(time));
        }
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(value) if value.is_object() => Ok(Self::Position(text.to_owned())),
            _ => Err(format!(
                "'{text}' is not a version (12), a time (2026-11-20T10:00:00Z) \
                 or a position ({{\"offset\":4096}}): see `piton history`"
            )),
        }
    }
}

impl Target {
    /// The newest checkpoint of the same key that is not past the target, and not the present one.
    pub(super) fn pick(&self, present: &Checkpoint, history: &[Checkpoint]) -> Option<Checkpoint> {
        let mut of_key: Vec<&Checkpoint> = history
            .iter()
            .filter(|c| c.key == present.key && c.version <= present.version)
            .collect();
        of_key.push(present);
        of_key.sort_by_key(|c| c.version);
        of_key.into_iter().rev().find(|c| self.admits(c)).cloned()
    }

    fn admits(&self, checkpoint: &Checkpoint) -> bool {
        match self {
            Self::Version(version) => checkpoint.version <= *version,
            Self::Time(time) => checkpoint.updated_at <= *time,
            Self::Position(json) => match &checkpoint.position {
                None => true,
                Some(at) => matches!(compare(at, json), Some(Ordering::Less | Ordering::Equal)),
            },
        }
    }
}

/// Where a stored position stands to one that a person wrote.
fn compare(at: &StoredPosition, wanted: &str) -> Option<Ordering> {
    order_of_kind(&at.kind)?(at, &sought(&at.kind, wanted)?)
}

/// A position that compares with nothing, or a target before which nothing is known, is a mistake.
pub(super) fn refuse_nowhere(
    wish: &Wish<'_>,
    to: &Target,
    checkpoints: &[Checkpoint],
    history: &[Checkpoint],
) -> Result<(), SteerError> {
    let of_sink = |c: &&Checkpoint| wish.sink.is_none_or(|sink| sink == c.key.sink);
    if let Target::Position(json) = to {
        let mut positions = checkpoints.iter().filter(of_sink).filter_map(|c| c.position.as_ref());
        // What compares with nothing must not read as the beginning.
        if let Some(other) = positions.find(|at| compare(at, json).is_none()) {
            return Err(SteerError::Undecided(format!(
                "{json} is not a position of '{}', which look like {}: see `piton history {}`",
                wish.pipeline,
                brief(other),
                wish.pipeline
            )));
        }
    }
    let any = checkpoints.iter().filter(of_sink).any(|c| to.pick(c, history).is_some());
    if any {
        return Ok(());
    }
    let name = wish.pipeline;
    if checkpoints.is_empty() {
        return Err(SteerError::Undecided(format!(
            "'{name}' has no checkpoint to go back from: nothing has run yet, or a reset or rewind \
             waits for the next run. See `piton status {name}`"
        )));
    }
    Err(SteerError::Undecided(format!(
        "the history of '{name}' has no checkpoint at or before {to}: see `piton history {name}`, \
         or `piton reset {name}` to begin anew"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_recognised_by_its_form() {
        assert_eq!("12".parse(), Ok(Target::Version(12)));
        assert!(matches!("2026-11-20T10:00:00Z".parse(), Ok(Target::Time(_))));
        assert!(matches!("{\"offset\":4}".parse(), Ok(Target::Position(_))));
        assert!("yesterday".parse::<Target>().unwrap_err().contains("piton history"));
    }
}
