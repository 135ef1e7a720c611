//! Where a row stands in a table or query: its key, and how many rows were read up to it.
//!
//! At rest a position is `{"key": [2024, "DE"], "rows": 5120}`. Numbers are ordered as numbers.
//! Text is ordered by the server, by the column's collation; so of two positions with different text
//! the one after more rows is the later.
//! What the table looked like then is kept beside it, and does not decide.

use std::cmp::Ordering;

use piton_core::{Position, StoredPosition};
use serde::{Deserialize, Serialize};

use crate::key_part;
pub use crate::{key_part::KeyPart, shape::Shape};

/// The key of the last row read; empty before the first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MySqlPosition {
    /// A value for each column of the key.
    pub key: Vec<KeyPart>,
    /// How many rows were read up to it, counted from the beginning.
    #[serde(default)]
    pub rows: u64,
    /// What was read looked like this; not known of positions of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Shape>,
}

impl PartialEq for MySqlPosition {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, self.rows) == (&other.key, other.rows)
    }
}

impl Position for MySqlPosition {
    const KIND: &'static str = "mysql_key";
}

impl MySqlPosition {
    /// As it is stored.
    pub(super) fn stored(&self) -> StoredPosition {
        // Its JSON is made of numbers, texts and lists: it can always be written.
        StoredPosition::of(self)
            .unwrap_or(StoredPosition { kind: Self::KIND.into(), json: "{}".into() })
    }
}

impl PartialOrd for MySqlPosition {
    /// The beginning is before everything; keys of another form do not compare.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        key_part::order((&self.key, self.rows), (&other.key, other.rows))
    }
}
