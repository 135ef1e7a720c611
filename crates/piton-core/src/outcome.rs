//! What a save does: one table, decided here for every store.
//!
//! A save names the checkpoint it expects to replace (by version; the position is kept for the
//! answer), the new position, and the epoch of its claim. With s = stored, e = expected, n = new,
//! and "none" before every position:
//!
//! | epoch | s and e | n | answer |
//! |---|---|---|---|
//! | older than the stored one | any | any | [`Saved::Fenced`] |
//! | equal or newer | s = e | n below s | [`Saved::Older`] |
//! | | s = e | not comparable with s | [`Saved::Mismatch`] |
//! | | s = e | else | [`Saved::Stored`] |
//! | | s ≠ e | n = s | [`Saved::Ignored`] |
//! | | s after e | n ≠ s | [`Saved::Further`] |
//! | | else | n ≠ s | [`Saved::Mismatch`] |
//!
//! Only `Stored` changes anything. A save never moves a position backwards: that is an operator's
//! rewind, which is recorded.

use std::cmp::Ordering;

use crate::{
    checkpoint::{Checkpoint, CheckpointKey, StateEntry},
    claim::Epoch,
    position::{PositionOrder, StoredPosition},
};

/// A checkpoint to be stored.
#[derive(Debug, Clone)]
pub struct Save {
    /// What it is a checkpoint of.
    pub key: CheckpointKey,
    /// The version it replaces; 0 when there is none yet.
    pub expected_version: u64,
    /// The position that the expected version has.
    pub expected: Option<StoredPosition>,
    /// The new position; `None` stores a "begun" checkpoint.
    pub position: Option<StoredPosition>,
    /// How positions of this source are ordered.
    pub order: PositionOrder,
    /// Records read up to the new position, over all runs.
    pub records: u64,
    /// The source's schema version there.
    pub schema_version: u64,
    /// What the sink must find again, as JSON.
    pub sink_state: Option<String>,
    /// Changed entries of the program's own state, stored in the same transaction.
    pub state: Vec<StateEntry>,
}

/// What became of a save. Anything but `Stored` means that the caller's effects must not stand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "anything but Stored means that the position did not advance: roll back"]
pub enum Saved {
    /// It was stored.
    Stored {
        /// The checkpoint's new version.
        version: u64,
    },
    /// The stored position is the new one already: it was done before.
    Ignored,
    /// The stored position is past the one that the caller expected.
    Further {
        /// What is stored.
        stored: Option<StoredPosition>,
    },
    /// The new position is below the stored one.
    Older {
        /// What is stored.
        stored: Option<StoredPosition>,
    },
    /// Stored and expected differ in another way, or the positions are not comparable.
    Mismatch {
        /// What is stored.
        stored: Option<StoredPosition>,
    },
    /// A newer claim has taken over.
    Fenced {
        /// The epoch of the newer claim.
        epoch: Epoch,
    },
}

impl Saved {
    /// Decides what a save does to the stored checkpoint. `fence` is the highest epoch that the
    /// store has granted or seen for this key; `mine` is the caller's.
    pub fn judge(stored: Option<&Checkpoint>, save: &Save, fence: Epoch, mine: Epoch) -> Self {
        let fence = fence.max(stored.map_or(Epoch(0), |s| s.epoch));
        if mine < fence && !crate::fault::known_bad("ignore_epoch") {
            return Self::Fenced { epoch: fence };
        }
        let (version, at) = stored.map_or((0, None), |s| (s.version, s.position.as_ref()));
        let new = save.position.as_ref();
        if version == save.expected_version && at == save.expected.as_ref() {
            return match compare(new, at, save.order) {
                Some(Ordering::Less) => Self::Older { stored: at.cloned() },
                None => Self::Mismatch { stored: at.cloned() },
                Some(_) => Self::Stored { version: version + 1 },
            };
        }
        if compare(new, at, save.order) == Some(Ordering::Equal) {
            return Self::Ignored;
        }
        match compare(at, save.expected.as_ref(), save.order) {
            Some(Ordering::Greater) => Self::Further { stored: at.cloned() },
            _ => Self::Mismatch { stored: at.cloned() },
        }
    }

    /// Whether the new position now stands.
    pub fn is_stored(&self) -> bool {
        matches!(self, Self::Stored { .. })
    }
}

/// Orders positions with "none" before every one of them.
fn compare(
    a: Option<&StoredPosition>,
    b: Option<&StoredPosition>,
    order: PositionOrder,
) -> Option<Ordering> {
    match (a, b) {
        (None, None) => Some(Ordering::Equal),
        (None, Some(_)) => Some(Ordering::Less),
        (Some(_), None) => Some(Ordering::Greater),
        (Some(a), Some(b)) if a == b => Some(Ordering::Equal),
        (Some(a), Some(b)) => order(a, b),
    }
}

#[cfg(test)]
mod tests;
