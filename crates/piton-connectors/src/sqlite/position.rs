//! Where a row stands in a table or query: its key.
//!
//! At rest a position is `{"key": [2024, "DE"]}`, and beside it what the table looked like then,
//! which does not decide. Values are ordered as `SQLite` orders them:
//! numbers first, integers and floats by their exact value, then text by its bytes, then blobs.

use std::{cmp::Ordering, fmt};

use piton_core::Position;
use rusqlite::{
    ToSql,
    types::{ToSqlOutput, ValueRef},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::shape::Shape;

/// The key of the last row read; empty before the first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlPosition {
    /// A value for each column of the key.
    pub key: Vec<KeyValue>,
    /// What was read looked like this; not known of positions of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Shape>,
}

impl PartialEq for SqlPosition {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Position for SqlPosition {
    const KIND: &'static str = "sql";
}

impl PartialOrd for SqlPosition {
    /// The beginning is before everything; keys of different length do not compare.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self.key.len(), other.key.len()) {
            (a, b) if a == b => Some(self.key.iter().cmp(&other.key)),
            (0, _) => Some(Ordering::Less),
            (_, 0) => Some(Ordering::Greater),
            _ => None,
        }
    }
}

/// A value of a key. Never NULL, and never NaN, which `SQLite` cannot store.
#[derive(Debug, Clone)]
pub enum KeyValue {
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes; at rest `{"hex": "00ff"}`.
    Blob(Vec<u8>),
}

/// A value of a key, borrowed.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeyRef<'a> {
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

impl<'a> KeyRef<'a> {
    /// The value of a column, or why it cannot be part of a key.
    pub(super) fn of(value: ValueRef<'a>) -> Result<Self, &'static str> {
        Ok(match value {
            ValueRef::Null => return Err("NULL"),
            ValueRef::Integer(i) => Self::Integer(i),
            ValueRef::Real(x) => Self::Real(x),
            ValueRef::Text(text) => {
                Self::Text(std::str::from_utf8(text).map_err(|_| "text that is not UTF-8")?)
            }
            ValueRef::Blob(bytes) => Self::Blob(bytes),
        })
    }

    pub(super) fn to_owned(self) -> KeyValue {
        match self {
            Self::Integer(i) => KeyValue::Integer(i),
            Self::Real(x) => KeyValue::Real(x),
            Self::Text(text) => KeyValue::Text(text.to_owned()),
            Self::Blob(bytes) => KeyValue::Blob(bytes.to_vec()),
        }
    }
}

impl KeyValue {
    pub(super) fn as_ref(&self) -> KeyRef<'_> {
        match self {
            Self::Integer(i) => KeyRef::Integer(*i),
            Self::Real(x) => KeyRef::Real(*x),
            Self::Text(text) => KeyRef::Text(text),
            Self::Blob(bytes) => KeyRef::Blob(bytes),
        }
    }
}

impl Ord for KeyRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        use KeyRef::{Blob, Integer, Real, Text};
        match (*self, *other) {
            (Integer(a), Integer(b)) => a.cmp(&b),
            (Real(a), Real(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            (Integer(a), Real(b)) => exactly(a, b),
            (Real(a), Integer(b)) => exactly(b, a).reverse(),
            (Text(a), Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Blob(a), Blob(b)) => a.cmp(b),
            (Integer(_) | Real(_), _) | (Text(_), Blob(_)) => Ordering::Less,
            (_, Integer(_) | Real(_)) | (Blob(_), Text(_)) => Ordering::Greater,
        }
    }
}

/// Compares without rounding the integer.
fn exactly(integer: i64, real: f64) -> Ordering {
    const TOO_LARGE: f64 = 9_223_372_036_854_775_808.0; // 2^63
    if real >= TOO_LARGE {
        return Ordering::Less;
    }
    if real < -TOO_LARGE {
        return Ordering::Greater;
    }
    let whole = real.trunc();
    integer.cmp(&(whole as i64)).then_with(|| whole.total_cmp(&real))
}

impl PartialOrd for KeyRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for KeyRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for KeyRef<'_> {}

impl Ord for KeyValue {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_ref().cmp(&other.as_ref())
    }
}

impl PartialOrd for KeyValue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for KeyValue {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for KeyValue {}

impl fmt::Display for KeyRef<'_> {
    /// Text stands as it is unless it could be taken for another value; then, and for blobs, as
    /// SQL writes it. So two different keys never look the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(i) => i.fmt(f),
            Self::Real(x) => write!(f, "{x:?}"),
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
            Self::Blob(bytes) => write!(f, "x'{}'", hex(bytes)),
        }
    }
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl ToSql for KeyValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Integer(i) => ValueRef::Integer(*i),
            Self::Real(x) => ValueRef::Real(*x),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A value as JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum AtRest {
    Integer(i64),
    Real(f64),
    Text(String),
    Blob { hex: String },
    Endless { real: Sign },
}

/// The infinities, for which JSON has no number.
#[derive(Serialize, Deserialize)]
enum Sign {
    #[serde(rename = "inf")]
    Plus,
    #[serde(rename = "-inf")]
    Minus,
}

impl Serialize for KeyValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Integer(i) => AtRest::Integer(*i),
            Self::Real(x) if x.is_finite() => AtRest::Real(*x),
            Self::Real(x) => {
                AtRest::Endless { real: if *x > 0.0 { Sign::Plus } else { Sign::Minus } }
            }
            Self::Text(text) => AtRest::Text(text.clone()),
            Self::Blob(bytes) => AtRest::Blob { hex: hex(bytes) },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for KeyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match AtRest::deserialize(deserializer)? {
            AtRest::Integer(i) => Self::Integer(i),
            AtRest::Real(x) => Self::Real(x),
            AtRest::Text(text) => Self::Text(text),
            AtRest::Blob { hex } => {
                Self::Blob(unhex(&hex).ok_or_else(|| D::Error::custom("hex digits are wrong"))?)
            }
            AtRest::Endless { real: Sign::Plus } => Self::Real(f64::INFINITY),
            AtRest::Endless { real: Sign::Minus } => Self::Real(f64::NEG_INFINITY),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;

    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| (high * 16 + low) as u8).collect())
}

#[cfg(test)]
mod tests {
    use piton_core::{StoredPosition, position::order_of};
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    fn value() -> impl Strategy<Value = KeyValue> {
        let near = prop_oneof![Just(0_i64), Just(1 << 53), Just(i64::MAX), Just(i64::MIN)];
        let integer =
            prop_oneof![any::<i64>(), (near, -2_i64..3).prop_map(|(a, b)| a.saturating_add(b))];
        let real = any::<f64>().prop_filter("SQLite has no NaN", |x| !x.is_nan());
        prop_oneof![
            integer.clone().prop_map(KeyValue::Integer),
            real.prop_map(KeyValue::Real),
            integer.prop_map(|i| KeyValue::Real(i as f64)),
            "\\PC{0,4}".prop_map(KeyValue::Text),
            prop::collection::vec(any::<u8>(), 0..4).prop_map(KeyValue::Blob),
        ]
    }

    proptest! {
        #[test]
        fn values_are_ordered_as_sqlite_orders_them(a in value(), b in value()) {
            let conn = Connection::open_in_memory().unwrap();
            let order: i64 = conn
                .query_row("SELECT (?1 > ?2) - (?1 < ?2)", (&a, &b), |row| row.get(0))
                .unwrap();
            prop_assert_eq!(a.cmp(&b), order.cmp(&0));
        }

        #[test]
        fn a_position_survives_rest(key in prop::collection::vec(value(), 0..3)) {
            let position = SqlPosition { key, fingerprint: None };
            let stored = StoredPosition::of(&position).unwrap();
            let read: SqlPosition = stored.read().unwrap();
            // By their form, as 1 and 1.0 are equal.
            prop_assert_eq!(format!("{read:?}"), format!("{position:?}"));
        }

        #[test]
        fn different_keys_look_different(a in value(), b in value()) {
            prop_assert_eq!(a.to_string() == b.to_string(), format!("{a:?}") == format!("{b:?}"));
        }
    }

    #[test]
    fn the_beginning_is_first_and_other_keys_do_not_compare() {
        let at = |json: &str| StoredPosition { kind: "sql".into(), json: json.into() };
        let order = |a, b| order_of::<SqlPosition>(&at(a), &at(b));
        assert_eq!(order(r#"{"key":[]}"#, r#"{"key":[1]}"#), Some(Ordering::Less));
        assert_eq!(order(r#"{"key":[1,"b"]}"#, r#"{"key":[1,"a"]}"#), Some(Ordering::Greater));
        assert_eq!(order(r#"{"key":[1]}"#, r#"{"key":[1,2]}"#), None);
        assert_eq!(order(r#"{"key":[1]}"#, r#"{"key":[null]}"#), None);
    }
}
