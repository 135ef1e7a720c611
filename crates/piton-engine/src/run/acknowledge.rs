//! What the source may forget: the commit policy over the sinks' checkpoints.
//!
//! Each sink's checkpoint covers that sink alone. A position is acknowledged to the source when
//! the policy's sinks have all passed it: under `required` the lowest of the required ones, under
//! `all` the lowest, under a quorum of n the n-th highest.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use piton_connectors::source::Source;
use piton_core::{PositionOrder, StoredPosition, fault};

use crate::pipeline::{Commit, SinkSpec};

/// Follows the sinks' checkpoints and tells the source what it may forget.
pub(crate) struct Acknowledger {
    commit: Commit,
    required: Vec<bool>,
    order: PositionOrder,
    /// By partition: each sink's saved position, and the one acknowledged last.
    partitions: Mutex<BTreeMap<String, Saved>>,
}

#[derive(Default)]
struct Saved {
    sinks: Vec<Option<StoredPosition>>,
    acknowledged: Option<StoredPosition>,
}

impl Acknowledger {
    pub(crate) fn new(commit: Commit, sinks: &[SinkSpec], order: PositionOrder) -> Self {
        let required = sinks.iter().map(|sink| sink.required).collect();
        Self { commit, required, order, partitions: Mutex::default() }
    }

    /// Notes a sink's durable checkpoint and acknowledges what the policy now allows.
    pub(crate) fn saved(
        &self,
        source: &dyn Source,
        sink: usize,
        partition: &str,
        position: &StoredPosition,
    ) {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = match partitions.get_mut(partition) {
            Some(saved) => saved,
            None => partitions.entry(partition.to_owned()).or_default(),
        };
        saved.sinks.resize(self.required.len(), None);
        saved.sinks[sink] = Some(position.clone());
        let Some(allowed) = allowed(self.commit, &self.required, &saved.sinks, self.order) else {
            return;
        };
        if saved.acknowledged.as_ref() != Some(&allowed) {
            fault::point("acknowledge");
            fault::note(|| format!("acknowledged {partition} {}", allowed.json));
            source.acknowledge(partition, &allowed);
            saved.acknowledged = Some(allowed);
        }
    }
}

/// The highest position that the policy's sinks have all passed; `None` while there is none, or
/// where positions are not comparable.
fn allowed(
    commit: Commit,
    required: &[bool],
    sinks: &[Option<StoredPosition>],
    order: PositionOrder,
) -> Option<StoredPosition> {
    let mut counted: Vec<&Option<StoredPosition>> = match commit {
        Commit::Required => {
            sinks.iter().zip(required).filter(|(_, required)| **required).map(|(s, _)| s).collect()
        }
        Commit::All | Commit::Quorum(_) => sinks.iter().collect(),
    };
    let mut comparable = true;
    counted.sort_by(|a, b| match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => order(b, a).unwrap_or_else(|| {
            comparable = false;
            Ordering::Equal
        }),
    });
    // Highest first: the n-th has been passed by n sinks.
    let needed = match commit {
        Commit::Quorum(n) => n,
        _ => counted.len(),
    };
    let nth = counted.get(needed.checked_sub(1)?)?;
    if comparable { (*nth).clone() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use piton_core::position::order_of;

    fn at(n: u64) -> Option<StoredPosition> {
        Some(StoredPosition::of(&n).unwrap())
    }

    #[test]
    fn each_policy_counts_its_own_sinks() {
        // Invariant 1, on the way back to the source.
        let sinks = [at(10), at(30), None];
        let required = [true, true, false];
        let allow = |commit| allowed(commit, &required, &sinks, order_of::<u64>);
        assert_eq!(allow(Commit::Required), at(10));
        assert_eq!(allow(Commit::All), None);
        assert_eq!(allow(Commit::Quorum(1)), at(30));
        assert_eq!(allow(Commit::Quorum(2)), at(10));
        assert_eq!(allow(Commit::Quorum(3)), None);
    }
}
