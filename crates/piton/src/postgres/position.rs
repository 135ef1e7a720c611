//! Where a message stands in an outbox.

use std::cmp::Ordering;

use piton_core::Position;
use serde::{Deserialize, Serialize};

/// The pair by which an outbox is ordered: the transaction that appended a message, then the
/// message's own position. At rest `{"transaction_id":"771","position":5012}`, as every other
/// reader of an outbox keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxPosition {
    /// The transaction that appended the message (`xid8`, which does not wrap).
    #[serde(with = "digits")]
    pub transaction_id: u64,
    /// The message's own position, ascending within a transaction.
    pub position: i64,
}

impl OutboxPosition {
    /// A position from its two parts.
    pub const fn new(transaction_id: u64, position: i64) -> Self {
        Self { transaction_id, position }
    }
}

impl Position for OutboxPosition {
    const KIND: &'static str = "postgres_outbox";
}

impl Ord for OutboxPosition {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.transaction_id, self.position).cmp(&(other.transaction_id, other.position))
    }
}

impl PartialOrd for OutboxPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A number of 64 bits as text, which every reader of JSON keeps whole.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it writes so")]
    pub(super) fn serialize<S: Serializer>(number: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
