//! Where a row stands in a table or query: its key, and how many rows were read up to it.
//!
//! At rest a position is `{"key": [2024, "DE"], "rows": 5120}`. Numbers are ordered as numbers.
//! Text is ordered by the server, in an order that depends on its languages; so of two positions
//! with different text the one after more rows is the later.
//! What the table looked like then is kept beside it, and does not decide.

use std::cmp::Ordering;

use piton_core::{Position, StoredPosition};
use serde::{Deserialize, Serialize};

use crate::key_part;
pub use crate::{key_part::KeyPart, shape::Shape};

/// The key of the last row read; empty before the first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresPosition {
    /// A value for each column of the key.
    pub key: Vec<KeyPart>,
    /// How many rows were read up to it, counted from the beginning.
    #[serde(default)]
    pub rows: u64,
    /// What was read looked like this; not known of positions of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Shape>,
}

impl PartialEq for PostgresPosition {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, self.rows) == (&other.key, other.rows)
    }
}

impl Position for PostgresPosition {
    const KIND: &'static str = "postgres_key";
}

impl PostgresPosition {
    /// As it is stored.
    pub(super) fn stored(&self) -> StoredPosition {
        // Its JSON is made of numbers, texts and lists: it can always be written.
        StoredPosition::of(self)
            .unwrap_or(StoredPosition { kind: Self::KIND.into(), json: "{}".into() })
    }
}

impl PartialOrd for PostgresPosition {
    /// As `key_part::order`.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        key_part::order((&self.key, self.rows), (&other.key, other.rows))
    }
}

impl KeyPart {
    /// As it stands in a statement of PostgreSQL, to be cast to the column's type.
    pub(super) fn literal(&self) -> String {
        match self {
            Self::Integer(i) => format!("'{i}'"),
            // Backslashes are ordinary characters: the session sees to that.
            Self::Text(text) => format!("'{}'", text.replace('\'', "''")),
        }
    }
}

#[cfg(test)]
mod tests {
    use piton_core::position::order_of;

    use super::*;

    #[test]
    fn numbers_are_ordered_as_numbers_and_text_by_when_it_came() {
        use Ordering::{Equal, Greater, Less};
        let at = |json: &str| StoredPosition { kind: "postgres_key".into(), json: json.into() };
        let order = |a, b| order_of::<PostgresPosition>(&at(a), &at(b));
        for (a, b, wanted) in [
            (r#"{"key":[]}"#, r#"{"key":[1],"rows":1}"#, Some(Less)),
            (r#"{"key":[9],"rows":7}"#, r#"{"key":[10],"rows":7}"#, Some(Less)),
            (r#"{"key":[10]}"#, r#"{"key":[9],"rows":7}"#, Some(Greater)),
            (r#"{"key":["ä"],"rows":1}"#, r#"{"key":["b"],"rows":2}"#, Some(Less)),
            (r#"{"key":["b",1],"rows":2}"#, r#"{"key":["b",1],"rows":2}"#, Some(Equal)),
            (r#"{"key":["b"]}"#, r#"{"key":["a"]}"#, Some(Greater)),
            (r#"{"key":[1]}"#, r#"{"key":[1,2]}"#, None),
            (r#"{"key":[1]}"#, r#"{"key":["1"]}"#, None),
            (r#"{"key":[null]}"#, r#"{"key":[1]}"#, None),
        ] {
            assert_eq!(order(a, b), wanted, "{a} and {b}");
        }
    }

    #[test]
    fn different_keys_look_different() {
        let shown = [KeyPart::Integer(1), KeyPart::Text("1".into()), KeyPart::Text("a,b".into())];
        assert_eq!(shown.map(|part| part.to_string()), ["1", "'1'", "'a,b'"]);
    }
}
