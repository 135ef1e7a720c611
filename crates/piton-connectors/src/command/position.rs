//! Where a command's output stands: the key of its last record, and how many there were.
//!
//! At rest a position is `{"n":1234,"key":"2024-05-17T08:00:00Z"}`. Keys come in the command's own
//! order, which nobody else knows; so of two positions the one after more records is the later.

use std::cmp::Ordering;

use piton_core::{Position, StoredPosition};
use serde::{Deserialize, Serialize};

/// The last record of a command that counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandPosition {
    /// How many records there were up to it, over all runs.
    pub n: u64,
    /// Its key as plain text; none if no record had one yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Position for CommandPosition {
    const KIND: &'static str = "command";
}

impl CommandPosition {
    /// As it is stored.
    pub(super) fn stored(&self) -> StoredPosition {
        // A number and a text can always be written.
        StoredPosition::of(self)
            .unwrap_or(StoredPosition { kind: Self::KIND.into(), json: "{}".into() })
    }
}

impl PartialOrd for CommandPosition {
    /// Two keys after as many records do not compare.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.n.cmp(&other.n) {
            Ordering::Equal if self.key != other.key => None,
            order => Some(order),
        }
    }
}

#[cfg(test)]
mod tests {
    use piton_core::position::order_of;

    use super::*;

    #[test]
    fn the_later_one_is_after_more_records() {
        use Ordering::{Equal, Greater, Less};
        let at = |json: &str| StoredPosition { kind: "command".into(), json: json.into() };
        let order = |a, b| order_of::<CommandPosition>(&at(a), &at(b));
        for (a, b, wanted) in [
            (r#"{"n":9,"key":"z"}"#, r#"{"n":10,"key":"a"}"#, Some(Less)),
            (r#"{"n":2,"key":"a"}"#, r#"{"n":1,"key":"a"}"#, Some(Greater)),
            (r#"{"n":2,"key":"a"}"#, r#"{"n":2,"key":"a"}"#, Some(Equal)),
            (r#"{"n":2,"key":"a"}"#, r#"{"n":2,"key":"b"}"#, None),
            (r#"{"n":1}"#, r#"{"n":2,"key":"b"}"#, Some(Less)),
            (r#"{"key":"a"}"#, r#"{"n":2,"key":"b"}"#, None),
        ] {
            assert_eq!(order(a, b), wanted, "{a} and {b}");
        }
    }
}
