//! What a table or query looked like when rows of it were read: columns, types and key.
//!
//! It is kept in each position and compared on a resume, so that a table that was altered in
//! between is noticed, and the difference can be said in words. Rows are no part of it. What few
//! tables need more room for than a checkpoint should have is kept as a hash.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::Xxh3;

use crate::source::{SourceError, Start};

/// The most bytes that the columns may take in a position.
const LISTED_BYTES: usize = 4096;

/// Columns, types and key of what is read. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape(Arc<Parts>);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    columns: Columns,
    key: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Columns {
    /// Name and type, in the order of the table. Of a query the type is empty.
    Listed(Vec<(String, String)>),
    /// A hash of those.
    Hashed(String),
}

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Parts::deserialize(deserializer).map(|parts| Self(Arc::new(parts)))
    }
}

impl Shape {
    /// Of columns with their types, and the key.
    pub(crate) fn new(columns: Vec<(String, String)>, key: Vec<String>) -> Self {
        let bytes: usize = columns.iter().map(|(name, of)| name.len() + of.len() + 8).sum();
        let columns = match bytes {
            0..=LISTED_BYTES => Columns::Listed(columns),
            _ => Columns::Hashed(hash(&columns)),
        };
        Self(Arc::new(Parts { columns, key }))
    }

    /// What is different now, in words; `None` where nothing is. The order of columns is no
    /// difference. `takes_new`: a new column is none either.
    pub(crate) fn difference(&self, now: &Self, takes_new: bool) -> Option<String> {
        let mut changes = match (&self.0.columns, &now.0.columns) {
            (Columns::Listed(before), Columns::Listed(now)) => between(before, now, takes_new),
            (before, now) if before == now => Vec::new(),
            _ => vec!["its columns or their types are others than when it was read".to_owned()],
        };
        let (before, now) = (&self.0.key, &now.0.key);
        let is_same = before.len() == now.len()
            && before.iter().zip(now).all(|(before, now)| before.eq_ignore_ascii_case(now));
        if !is_same {
            changes.push(format!(
                "its key was ({}), and is now ({})",
                before.join(", "),
                now.join(", ")
            ));
        }
        (!changes.is_empty()).then(|| changes.join("; "))
    }
}

/// Refuses to go on in what was altered since a position was stored. `at` is the position for people.
pub(crate) fn refuse_altered(
    start: &Start,
    at: String,
    (before, now): (Option<&Shape>, &Shape),
    takes_new: bool,
) -> Result<(), SourceError> {
    let Some(what) = before.and_then(|before| before.difference(now, takes_new)) else {
        return Ok(());
    };
    Err(SourceError::Gap {
        partition: start.partition.clone(),
        position: at,
        what: format!(
            "it was altered: {what}. Put it back as it was, `piton reset` to read from the \
             beginning, or go on in it as it is now with --accept-changes"
        ),
    })
}

fn between(before: &[(String, String)], now: &[(String, String)], takes_new: bool) -> Vec<String> {
    let mut changes = Vec::new();
    for (name, was) in before {
        match now.iter().find(|(other, _)| other == name) {
            None => changes.push(format!("column '{name}' is gone")),
            Some((_, is)) if is != was => {
                let shown =
                    |of: &String| if of.is_empty() { "without a type".into() } else { of.clone() };
                changes.push(format!(
                    "column '{name}' was {}, and is now {}",
                    shown(was),
                    shown(is)
                ));
            }
            Some(_) => {}
        }
    }
    let is_new = |(name, _): &&(String, String)| !before.iter().any(|(other, _)| other == name);
    let new = now.iter().filter(is_new).filter(|_| !takes_new);
    changes.extend(new.map(|(name, _)| format!("column '{name}' is new")));
    changes
}

fn hash(columns: &[(String, String)]) -> String {
    let mut columns: Vec<_> = columns.iter().collect();
    columns.sort_unstable();
    let mut hasher = Xxh3::new();
    for (name, of) in columns {
        // No name or type has a zero byte in it.
        [name.as_bytes(), &[0], of.as_bytes(), &[0]].iter().for_each(|part| hasher.update(part));
    }
    format!("{:016x}", hasher.digest())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(columns: &[(&str, &str)], key: &[&str]) -> Shape {
        let columns = columns.iter().map(|(name, of)| ((*name).into(), (*of).into())).collect();
        Shape::new(columns, key.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn what_is_different_is_said_column_by_column() {
        let before = shape(&[("id", "INTEGER"), ("name", "TEXT"), ("n", "INT")], &["id"]);
        let same = shape(&[("n", "INT"), ("id", "INTEGER"), ("name", "TEXT")], &["ID"]);
        assert_eq!(before.difference(&same, false), None);
        let now = shape(&[("id", "INTEGER"), ("n", "REAL"), ("more", "TEXT")], &["id", "n"]);
        let words = "column 'name' is gone; column 'n' was INT, and is now REAL; ";
        let key = "its key was (id), and is now (id, n)";
        let all = format!("{words}column 'more' is new; {key}");
        assert_eq!(before.difference(&now, false), Some(all));
        assert_eq!(before.difference(&now, true), Some(format!("{words}{key}")));
    }

    #[test]
    fn a_wide_table_is_kept_small_and_a_change_still_seen() {
        let names: Vec<String> = (0..1000).map(|n| format!("column_{n}")).collect();
        let wide = |of: &str| {
            let columns = names.iter().map(|name| (name.clone(), of.to_owned()));
            Shape::new(columns.collect(), vec!["column_0".into()])
        };
        let stored = serde_json::to_string(&wide("TEXT")).unwrap();
        assert!(stored.len() < 100, "{stored}");
        let read: Shape = serde_json::from_str(&stored).unwrap();
        assert_eq!(read.difference(&wide("TEXT"), false), None);
        assert!(read.difference(&wide("INT"), false).unwrap().contains("types are others"));
    }
}
