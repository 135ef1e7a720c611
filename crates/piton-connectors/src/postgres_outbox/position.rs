//! Where a message stands in an outbox: the transaction that appended it, then its position.
//!
//! At rest a position is `{"transaction_id":"771","position":5012}`; the transaction id is text,
//! because it is a number of 64 bits. Beside it stands a fingerprint by which a server that was
//! restored, or failed over to one that knows less, is recognised. It takes no part in the order.

use std::cmp::Ordering;

use piton_core::{Position, StoredPosition};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The pair by which an outbox is ordered, of the last message read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboxPosition {
    /// The transaction that appended the message (`xid8`, which does not wrap).
    #[serde(with = "digits")]
    pub transaction_id: u64,
    /// The message's own position, ascending within a transaction.
    pub position: i64,
    /// What was seen of the server there; absent where a person wrote the position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
}

/// What was seen of a server, to recognise it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// The cluster's system identifier.
    pub system: String,
    /// The timeline that was written to: grows with every promotion and point-in-time recovery.
    pub timeline: u32,
    /// A hash of the message's id; absent where no message stands, as at `start: end`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl OutboxPosition {
    /// Before every message.
    pub(super) const BEGINNING: Self = Self::at(0, i64::MIN);

    /// A position without a fingerprint.
    pub const fn at(transaction_id: u64, position: i64) -> Self {
        Self { transaction_id, position, fingerprint: None }
    }

    /// Whether messages after this position were deleted, when all below `mark` were.
    pub(super) fn is_below_deleted(&self, mark: &Self) -> bool {
        let (transaction, position) = mark.pair();
        self.pair() < (transaction, position.saturating_sub(1))
    }

    /// The form at rest.
    pub(super) fn stored(&self) -> StoredPosition {
        // Its JSON is made of numbers and texts: it can always be written.
        StoredPosition::of(self)
            .unwrap_or(StoredPosition { kind: Self::KIND.into(), json: "{}".into() })
    }

    /// The position for people, without what only machines read.
    pub(super) fn shown(&self) -> String {
        Self::at(self.transaction_id, self.position).stored().json
    }

    const fn pair(&self) -> (u64, i64) {
        (self.transaction_id, self.position)
    }
}

/// The hash of a message's id that a fingerprint keeps.
pub(super) fn hash_of(message_id: &str) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(message_id.as_bytes()))
}

impl Position for OutboxPosition {
    const KIND: &'static str = "postgres_outbox";
}

impl PartialEq for OutboxPosition {
    fn eq(&self, other: &Self) -> bool {
        self.pair() == other.pair()
    }
}

impl PartialOrd for OutboxPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.pair().cmp(&other.pair()))
    }
}

/// Numbers of 64 bits as text; a plain number is read, too.
mod digits {
    use super::{Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like this")]
    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        struct Digits;

        impl de::Visitor<'_> for Digits {
            type Value = u64;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a transaction id such as \"771\"")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
                Ok(number)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
                u64::try_from(number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
                // `parse` takes a plus sign, which no transaction id has.
                let digits = Some(text).filter(|text| !text.starts_with('+'));
                digits
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        from.deserialize_any(Digits)
    }
}

#[cfg(test)]
mod tests {
    use piton_core::position::order_of;

    use super::*;

    fn stored(json: &str) -> StoredPosition {
        StoredPosition { kind: "postgres_outbox".into(), json: json.into() }
    }

    #[test]
    fn a_position_at_rest_is_what_a_person_reads() {
        let position = OutboxPosition::at(771, 5012);
        assert_eq!(position.stored().json, r#"{"transaction_id":"771","position":5012}"#);
        let fingerprint = Fingerprint { system: "7".into(), timeline: 2, message: None };
        let position = OutboxPosition { fingerprint: Some(fingerprint.clone()), ..position };
        let json = position.stored().json;
        let wanted =
            r#"{"transaction_id":"771","position":5012,"fingerprint":{"system":"7","timeline":2}}"#;
        assert_eq!(json, wanted);
        let read: OutboxPosition = stored(&json).read().unwrap();
        assert_eq!((read.pair(), read.fingerprint), ((771, 5012), Some(fingerprint)));
    }

    #[test]
    fn the_order_is_by_transaction_first_and_needs_64_bits() {
        let order = |a, b| order_of::<OutboxPosition>(&stored(a), &stored(b));
        let late = r#"{"transaction_id":"18446744073709551615","position":-3}"#;
        let early = r#"{"transaction_id":"4294967296","position":9}"#;
        let same = r#"{"transaction_id":4294967296,"position":9,"fingerprint":{"system":"1","timeline":1}}"#;
        assert_eq!(order(late, early), Some(Ordering::Greater));
        assert_eq!(order(early, same), Some(Ordering::Equal));
    }

    #[test]
    fn nonsense_is_not_a_position() {
        for json in [
            r#"{"position":1}"#,
            r#"{"transaction_id":"-1","position":1}"#,
            r#"{"transaction_id":"+1","position":1}"#,
            r#"{"transaction_id":-1,"position":1}"#,
            r#"{"transaction_id":"18446744073709551616","position":1}"#,
            r#"{"transaction_id":"1","position":"1"}"#,
            r#"{"transaction_id":"1","position":1,"offset":1}"#,
        ] {
            assert!(stored(json).read::<OutboxPosition>().is_err(), "{json}");
        }
    }
}
