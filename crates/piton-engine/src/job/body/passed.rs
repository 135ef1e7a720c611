//! How far a `for_each` is, as it is at rest.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use piton::job::Begun;
use piton_core::{Position, StoredPosition};
use serde::{Deserialize, Serialize};

use super::sql::short;

/// Where a source stands, as a part of another position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::job) struct At {
    kind: String,
    at: serde_json::Value,
}

impl At {
    pub(in crate::job) fn of(position: &StoredPosition) -> Self {
        let at = serde_json::from_str(&position.json).unwrap_or_default();
        Self { kind: position.kind.clone(), at }
    }

    pub(in crate::job) fn stored(&self) -> StoredPosition {
        StoredPosition { kind: self.kind.clone(), json: self.at.to_string() }
    }
}

/// How parents are done. Effects of one way are not known to the other, so a `for_each` that has
/// begun keeps its way, whatever its file says later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    /// Many in one transaction, whose mark says how far they are done.
    Grouped,
    /// Each by itself, with marks and checkpoints of its own.
    Each,
}

/// Where the source stands behind the last parent before which all are done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Passed {
    /// For which parent above this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) within: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<Mode>,
    /// How many parents that is, from the first on: by this it is told whether a database is as
    /// old as the store.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) passed: u64,
    /// How many of them a mark in each database says at least.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) marked: BTreeMap<String, u64>,
    #[serde(flatten)]
    pub(super) begun: Unpassed,
    /// `None`: before all of them.
    #[serde(flatten)]
    pub(super) at: Option<At>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like this")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Passed {
    /// What is stored of a step, if that is for the same parent above.
    pub(super) fn of(begun: &Begun, within: Option<&str>) -> Option<Self> {
        let passed: Self = begun.position.as_ref()?.read().ok()?;
        Some(passed).filter(|passed| passed.within.as_deref() == within)
    }
}

impl PartialOrd for Passed {
    /// Only the source knows an order, and it gives its records in it.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(if self == other { Ordering::Equal } else { Ordering::Greater })
    }
}

impl Position for Passed {
    const KIND: &'static str = "for_each";
}

/// Parents that have begun and are not passed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Unpassed {
    /// Those at work, by the slot in which their steps have their checkpoints.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    at_work: BTreeMap<String, usize>,
    /// Those that are done, while one before them is not.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    done: BTreeSet<String>,
}

impl Unpassed {
    /// Takes the first free slot for a parent that begins.
    pub(super) fn begin(&mut self, parent: &str) -> usize {
        let is_free = |slot: &usize| !self.at_work.values().any(|taken| taken == slot);
        let slot = (0..=self.at_work.len()).find(is_free).unwrap_or_default();
        self.at_work.insert(short(parent), slot);
        slot
    }

    /// Notes that a parent is done, and not passed.
    pub(super) fn done(&mut self, parent: &str) {
        let id = short(parent);
        self.at_work.remove(&id);
        self.done.insert(id);
    }

    pub(super) fn is_done(&self, parent: &str) -> bool {
        !self.done.is_empty() && self.done.contains(&short(parent))
    }

    /// Notes that a parent is passed.
    pub(super) fn pass(&mut self, parent: &str) {
        let id = short(parent);
        self.at_work.remove(&id);
        self.done.remove(&id);
    }

    /// How many are at work.
    pub(super) fn at_work(&self) -> usize {
        self.at_work.len()
    }

    /// The slot in which a parent is at work.
    pub(super) fn slot(&self, parent: &str) -> Option<usize> {
        self.at_work.get(&short(parent)).copied()
    }

    /// Forgets those at work but these. The slots that were theirs.
    pub(super) fn retain(&mut self, slots: &BTreeSet<usize>) -> Vec<usize> {
        let gone = self.at_work.values().copied().filter(|slot| !slots.contains(slot)).collect();
        self.at_work.retain(|_, slot| slots.contains(slot));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_at_work_has_a_slot_until_it_is_done() {
        let mut begun = Unpassed::default();
        assert_eq!(["a", "b", "c"].map(|parent| begun.begin(parent)), [0, 1, 2]);
        begun.pass("a");
        begun.done("c");
        assert_eq!((begun.slot("b"), begun.slot("c"), begun.is_done("c")), (Some(1), None, true));
        assert_eq!(["d", "e"].map(|parent| begun.begin(parent)), [0, 2]);
        assert_eq!(begun.retain(&BTreeSet::from([1])), [0, 2]);
        begun.pass("c");
        assert_eq!((begun.at_work(), begun.is_done("c")), (1, false));
    }

    #[test]
    fn a_person_can_read_it() {
        let at = At::of(&StoredPosition { kind: "sql".into(), json: r#"{"id":7}"#.into() });
        let mut begun = Unpassed::default();
        begun.begin("customer@8");
        let marked = BTreeMap::from([("t".to_owned(), 5)]);
        let mode = Some(Mode::Each);
        let passed = Passed { within: None, mode, passed: 7, marked, begun, at: Some(at) };
        let json = StoredPosition::of(&passed).unwrap().json;
        assert_eq!(
            json,
            r#"{"mode":"each","passed":7,"marked":{"t":5},"at_work":{"customer@8":0},"kind":"sql","at":{"id":7}}"#
        );
        assert_eq!(serde_json::from_str::<Passed>(&json).unwrap(), passed);
        assert_eq!(serde_json::from_str::<Passed>(r#"{"within":"a"}"#).unwrap().at, None);
    }
}
