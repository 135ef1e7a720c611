//! A part of the key by which a table of a server is read.

use std::{cmp::Ordering, fmt};

use serde::{Deserialize, Serialize};

/// A value of a key. Never NULL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeyPart {
    /// An integer.
    Integer(i64),
    /// Anything else, as the server writes it.
    Text(String),
}

impl KeyPart {
    /// A value that the server wrote, of a column of integers or another.
    pub(crate) fn read(text: &str, is_integer: bool) -> Self {
        match text.parse() {
            Ok(integer) if is_integer => Self::Integer(integer),
            _ => Self::Text(text.to_owned()),
        }
    }
}

impl fmt::Display for KeyPart {
    /// Text stands as it is unless it could be taken for another value, or several.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(i) => i.fmt(f),
            Self::Text(text) => {
                let is_plain = !text.is_empty()
                    && !text.contains(|c: char| ",'+".contains(c) || c.is_control())
                    && text.parse::<f64>().is_err();
                if is_plain {
                    f.write_str(text)
                } else {
                    write!(f, "'{}'", text.replace('\'', "''"))
                }
            }
        }
    }
}

/// The order of two keys, each with how many rows were read up to it. The beginning is before
/// everything; keys of another form do not compare. Text is ordered by the server, in an order that
/// depends on its languages; so of two keys with different text the one after more rows is the
/// later.
pub(crate) fn order(
    (one, rows): (&[KeyPart], u64),
    (other, other_rows): (&[KeyPart], u64),
) -> Option<Ordering> {
    match (one.len(), other.len()) {
        (a, b) if a == b => {}
        (0, _) => return Some(Ordering::Less),
        (_, 0) => return Some(Ordering::Greater),
        _ => return None,
    }
    for parts in one.iter().zip(other) {
        match parts {
            (KeyPart::Integer(a), KeyPart::Integer(b)) if a != b => return Some(a.cmp(b)),
            (KeyPart::Text(a), KeyPart::Text(b)) if a != b => {
                return Some(rows.cmp(&other_rows).then_with(|| a.cmp(b)));
            }
            (a, b) if a == b => {}
            _ => return None,
        }
    }
    Some(rows.cmp(&other_rows))
}
