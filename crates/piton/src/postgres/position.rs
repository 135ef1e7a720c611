//! Where a message stands in an outbox.

use std::cmp::Ordering;

use piton_core::{Position, StoredPosition};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio_postgres::types::{FromSql, Type};

/// The pair by which an outbox is ordered: the transaction that appended a message, then the
/// message's own position. At rest `{"transaction_id":"771","position":5012}`, as every other
/// reader of an outbox keeps it; beside it what was seen of the server, which takes no part in the
/// order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
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
    /// Before every message.
    pub const BEGINNING: Self = Self::new(0, i64::MIN);

    /// A position from its two parts.
    pub const fn new(transaction_id: u64, position: i64) -> Self {
        Self { transaction_id, position, fingerprint: None }
    }

    /// Whether messages after this position were deleted, when all below `mark` were.
    #[doc(hidden)]
    pub fn is_below_deleted(&self, mark: &Self) -> bool {
        let (transaction, position) = mark.pair();
        self.pair() < (transaction, position.saturating_sub(1))
    }

    /// The form at rest.
    #[doc(hidden)]
    pub fn stored(&self) -> StoredPosition {
        // Its JSON is made of numbers and texts: it can always be written.
        StoredPosition::of(self)
            .unwrap_or(StoredPosition { kind: Self::KIND.into(), json: "{}".into() })
    }

    /// The position as a person types it, without what only machines read.
    #[doc(hidden)]
    pub fn shown(&self) -> String {
        Self::new(self.transaction_id, self.position).stored().json
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

/// The hash of a message's id that a fingerprint keeps.
pub fn hash_of(message_id: &str) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(message_id.as_bytes()))
}

/// A transaction id of 64 bits, which does not wrap. Bound as text (`$1::text::xid8`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xid(
    /// The number.
    pub u64,
);

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(u64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::XID8
    }
}

impl std::fmt::Display for Xid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
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
        let position = OutboxPosition::new(771, 5012);
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
