//! Where a message stands in an outbox.

use std::cmp::Ordering;

use piton_core::Position;
use serde::{Deserialize, Serialize};

/// The pair by which an outbox is ordered: the transaction that appended a message, then the
/// message's own position. At rest `{"transaction_id":"771","position":5012}`, as every other
/// reader of an outbox keeps it; beside it what was seen of the server, which takes no part in the
/// order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutboxPosition {
    /// The transaction that appended the message (`xid8`, which does not wrap).
    #[serde(with = "digits")]
    pub transaction_id: u64,
    /// The message's own position, ascending within a transaction.
    pub position: i64,
    /// What was seen of the server there; absent where a program or a person wrote the position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
}

/// What was seen of a server, to recognise it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The cluster's system identifier.
    pub system: String,
    /// The timeline that was written to: grows with every promotion and point-in-time recovery.
    pub timeline: u32,
    /// A hash of the message's id; absent where no message stands, as at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl OutboxPosition {
    /// A position from its two parts.
    pub const fn new(transaction_id: u64, position: i64) -> Self {
        Self { transaction_id, position, fingerprint: None }
    }

    /// Whether messages after this position were deleted, when all below `mark` were.
    pub(super) fn is_below_deleted(&self, mark: &Self) -> bool {
        let (transaction, position) = mark.pair();
        self.pair() < (transaction, position.saturating_sub(1))
    }

    const fn pair(&self) -> (u64, i64) {
        (self.transaction_id, self.position)
    }
}

impl Position for OutboxPosition {
    const KIND: &'static str = "postgres_outbox";
}

impl PartialEq for OutboxPosition {
    fn eq(&self, other: &Self) -> bool {
        self.pair() == other.pair()
    }
}

impl Eq for OutboxPosition {}

impl Ord for OutboxPosition {
    fn cmp(&self, other: &Self) -> Ordering {
        self.pair().cmp(&other.pair())
    }
}

impl PartialOrd for OutboxPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Display for OutboxPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "transaction {}, position {}", self.transaction_id, self.position)
    }
}

/// A number of 64 bits as text, which every reader of JSON keeps whole.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like this")]
    pub(super) fn serialize<S: Serializer>(number: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
