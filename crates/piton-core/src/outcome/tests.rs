//! Every combination of stored, expected and new, and of epochs, as one table.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::*;
use crate::position::{Position, order_of};

/// A partially ordered position: numbers compare, the island compares with nothing but itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum At {
    Number(u64),
    Island,
}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (At::Number(a), At::Number(b)) => a.partial_cmp(b),
            (At::Island, At::Island) => Some(Ordering::Equal),
            _ => None,
        }
    }
}

impl Position for At {
    const KIND: &'static str = "test";
}

const ALL: [Option<At>; 5] =
    [None, Some(At::Number(10)), Some(At::Number(20)), Some(At::Number(30)), Some(At::Island)];

fn at(position: Option<At>) -> Option<StoredPosition> {
    position.as_ref().map(|p| StoredPosition::of(p).unwrap())
}

fn checkpoint(position: Option<At>, version: u64, epoch: u64) -> Option<Checkpoint> {
    (version > 0).then(|| Checkpoint {
        key: CheckpointKey::new("p", "0", "s"),
        position: at(position),
        records: 0,
        version,
        epoch: Epoch(epoch),
        schema_version: 0,
        updated_at: Timestamp::UNIX_EPOCH,
        sink_state: None,
    })
}

fn save(expected_version: u64, expected: Option<At>, new: Option<At>) -> Save {
    Save {
        key: CheckpointKey::new("p", "0", "s"),
        expected_version,
        expected: at(expected),
        position: at(new),
        order: order_of::<At>,
        records: 0,
        schema_version: 0,
        sink_state: None,
        state: Vec::new(),
    }
}

/// The version that goes with a position in these tests: one each, none for none.
fn version(position: Option<At>) -> u64 {
    ALL.iter().position(|p| *p == position).unwrap() as u64
}

fn before(a: Option<At>, b: Option<At>) -> Option<bool> {
    match (a, b) {
        (None, b) => Some(b.is_some()),
        (Some(_), None) => Some(false),
        (Some(a), Some(b)) => a.partial_cmp(&b).map(|o| o == Ordering::Less),
    }
}

#[test]
fn every_combination_of_stored_expected_and_new() {
    // Invariants 2 and 3, written a second time, as the design says them.
    for stored in ALL {
        for expected in ALL {
            for new in ALL {
                for (stored_epoch, mine) in [(5, 4), (5, 5), (5, 6)] {
                    let row = checkpoint(stored, version(stored), stored_epoch);
                    let fence = Epoch(if row.is_some() { 0 } else { stored_epoch });
                    let save = save(version(expected), expected, new);
                    let got = Saved::judge(row.as_ref(), &save, fence, Epoch(mine));
                    let want = if mine < stored_epoch {
                        Saved::Fenced { epoch: Epoch(stored_epoch) }
                    } else if stored == expected {
                        match before(new, stored) {
                            Some(true) => Saved::Older { stored: at(stored) },
                            None => Saved::Mismatch { stored: at(stored) },
                            Some(false) => Saved::Stored { version: version(stored) + 1 },
                        }
                    } else if new == stored {
                        Saved::Ignored
                    } else if before(expected, stored) == Some(true) {
                        Saved::Further { stored: at(stored) }
                    } else {
                        Saved::Mismatch { stored: at(stored) }
                    };
                    assert_eq!(got, want, "s {stored:?} e {expected:?} n {new:?} epoch {mine}");
                }
            }
        }
    }
}

#[test]
fn a_version_that_differs_is_no_match_though_the_position_is_the_same() {
    // Somebody rewound and came back to the same place: what the caller knows is out of date.
    let position = Some(At::Number(10));
    let row = checkpoint(position, 7, 1);
    let new = Some(At::Number(20));
    let got = Saved::judge(row.as_ref(), &save(5, position, new), Epoch(1), Epoch(1));
    assert_eq!(got, Saved::Mismatch { stored: at(position) });
}
