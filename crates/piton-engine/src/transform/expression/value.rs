//! Values while an expression is evaluated, and what the operators make of them.
//!
//! A CSV field is text, the same field from JSON or SQL is a number. An expression means the same
//! on both: text that reads as a number counts as that number wherever a number could stand. Text
//! in quotes in the expression itself is text and nothing else when it is compared for equality or
//! added, so that `zip == "01234"` does not find `1234`.

use std::{borrow::Cow, cmp::Ordering};

use piton_connectors::batch::{Value, write_json_value};

use super::{eval::Reason, number::Num};

/// A value, borrowed from the batch or the expression where it can be.
#[derive(Debug, Clone)]
pub(super) enum Val<'a> {
    /// Absent fields are null, too.
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A number with more digits than the two above hold.
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
    /// Text in quotes in the expression.
    Quoted(&'a str),
    Bytes(Cow<'a, [u8]>),
    List(Vec<Val<'a>>),
    Map(Vec<(Cow<'a, str>, Val<'a>)>),
}

impl<'a> Val<'a> {
    /// A field's value. Objects and arrays are read from their JSON text.
    pub(super) fn of(value: Value<'a>) -> Result<Self, Reason> {
        Ok(match value {
            Value::Absent | Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(b),
            Value::Int(i) => Self::Int(i),
            Value::Float(x) => Self::Float(x),
            Value::Number(text) => Self::Number(Cow::Borrowed(text)),
            Value::Text(text) => Self::Text(Cow::Borrowed(text)),
            Value::Bytes(bytes) => Self::Bytes(Cow::Borrowed(bytes)),
            Value::Json(text) => Self::from_json(text)?,
        })
    }

    /// Reads JSON text.
    pub(super) fn from_json(text: &'a str) -> Result<Self, Reason> {
        serde_json::from_str(text)
            .map_err(|e| Reason::Json { text: excerpt(text), why: e.to_string() })
    }

    /// The text, if it is text.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Quoted(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The number it is or, if it is text, reads as.
    pub(super) fn number(&self) -> Option<Num<'_>> {
        match self {
            Self::Int(i) => Some(Num::Int(*i)),
            Self::Float(x) => Some(Num::Float(*x)),
            Self::Number(text) => Num::read(text).or_else(|| text.parse().ok().map(Num::Float)),
            Self::Text(text) => Num::read(text),
            Self::Quoted(text) => Num::read(text),
            _ => None,
        }
    }

    fn is_number_by_type(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Float(_) | Self::Number(_))
    }

    /// What it is, in a message to a person.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Int(_) | Self::Float(_) | Self::Number(_) => "a number",
            Self::Text(_) | Self::Quoted(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }

    /// The beginning of it, in a message to a person.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            other => {
                let mut text = Vec::new();
                other.write_json(&mut text);
                excerpt(&String::from_utf8_lossy(&text))
            }
        }
    }

    /// Appends it as JSON.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::List(items) => write_all(out, *b"[]", items, Self::write_json),
            Self::Map(entries) => write_all(out, *b"{}", entries, |(name, value), out| {
                let _ = write_json_value(Value::Text(name), out);
                out.push(b':');
                value.write_json(out);
            }),
            scalar => {
                // Writing to memory does not fail.
                let _ = write_json_value(scalar.as_scalar(), out);
            }
        }
    }

    /// As a value of a batch; lists and objects, which need a buffer, as null.
    pub(super) fn as_scalar(&self) -> Value<'_> {
        match self {
            Self::Null | Self::List(_) | Self::Map(_) => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(i) => Value::Int(*i),
            Self::Float(x) => Value::Float(*x),
            Self::Number(text) => Value::Number(text),
            Self::Text(text) => Value::Text(text),
            Self::Quoted(text) => Value::Text(text),
            Self::Bytes(bytes) => Value::Bytes(bytes),
        }
    }

    /// `==`.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Bool(b), text) | (text, Self::Bool(b)) => text
                .as_text()
                .is_some_and(|t| t.eq_ignore_ascii_case(if *b { "true" } else { "false" })),
            (Self::Quoted(a), b) | (b, Self::Quoted(a)) if !b.is_number_by_type() => {
                b.as_text() == Some(a)
            }
            (Self::Text(a), Self::Text(b)) if a == b => true,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b))
            }
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(name, value)| {
                        b.iter().any(|(other, b)| name == other && value.equals(b))
                    })
            }
            _ => self.compare_numbers(other) == Some(Ordering::Equal),
        }
    }

    /// `<`, `<=`, `>`, `>=`. `None`, which makes all four false, where there is no order: null,
    /// NaN, or a number beside text that is not one.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            _ => match (self.number(), other.number()) {
                (Some(a), Some(b)) => a.compare(b),
                _ => Some(self.as_text()?.cmp(other.as_text()?)),
            },
        }
    }

    fn compare_numbers(&self, other: &Self) -> Option<Ordering> {
        self.number()?.compare(other.number()?)
    }

    /// The value of a map's key or of an object's field; null where there is none.
    pub(super) fn member(&self, name: &str) -> Result<&Self, Reason> {
        match self {
            Self::Null => Ok(&Self::Null),
            Self::Map(entries) => {
                Ok(entries.iter().find(|(key, _)| key == name).map_or(&Self::Null, |(_, v)| v))
            }
            other => Err(Reason::NoMembers { kind: other.kind(), name: excerpt(name) }),
        }
    }

    /// As [`member`](Self::member), of a value that is not needed any more.
    pub(super) fn into_member(self, name: &str) -> Result<Self, Reason> {
        match self {
            Self::Map(entries) => {
                let found = entries.into_iter().find(|(key, _)| key == name);
                Ok(found.map_or(Self::Null, |(_, value)| value))
            }
            other => other.member(name).map(|_| Self::Null),
        }
    }

    /// How many values it is made of.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::List(items) => 1 + items.iter().map(Self::weight).sum::<usize>(),
            Self::Map(entries) => 1 + entries.iter().map(|(_, v)| v.weight()).sum::<usize>(),
            _ => 1,
        }
    }
}

/// `+` of text: where one side stands in quotes, or where both are text and not both numbers.
pub(super) fn concatenation<'a>(a: &Val<'_>, b: &Val<'_>) -> Option<Val<'a>> {
    let quoted = matches!(a, Val::Quoted(_)) || matches!(b, Val::Quoted(_));
    let texts = a.as_text().is_some() && b.as_text().is_some();
    let both_numbers = || a.number().is_some() && b.number().is_some();
    if !(quoted || texts && !both_numbers()) {
        return None;
    }
    let mut text = String::new();
    append(a, &mut text)?;
    append(b, &mut text)?;
    Some(Val::Text(Cow::Owned(text)))
}

/// Appends a scalar as text; `None` for null, lists and objects.
pub(super) fn append(value: &Val<'_>, out: &mut String) -> Option<()> {
    use std::fmt::Write as _;
    match value {
        Val::Text(text) | Val::Number(text) => out.push_str(text),
        Val::Quoted(text) => out.push_str(text),
        // Writing to a `String` does not fail.
        Val::Bool(b) => write!(out, "{b}").ok()?,
        Val::Int(i) => write!(out, "{i}").ok()?,
        Val::Float(x) => write!(out, "{x}").ok()?,
        Val::Bytes(_) | Val::Null | Val::List(_) | Val::Map(_) => return None,
    }
    Some(())
}

fn write_all<T>(
    out: &mut Vec<u8>,
    brackets: [u8; 2],
    items: &[T],
    mut write: impl FnMut(&T, &mut Vec<u8>),
) {
    out.push(brackets[0]);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(brackets[1]);
}

/// The beginning of a text, for messages.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl<'de> serde::Deserialize<'de> for Val<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> serde::de::Visitor<'de> for JsonVisitor {
    type Value = Val<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Val<'de>, E> {
        Ok(Val::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Val<'de>, E> {
        Ok(Val::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Val<'de>, E> {
        Ok(Val::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Val<'de>, E> {
        Ok(i64::try_from(value)
            .map_or_else(|_| Val::Number(Cow::Owned(value.to_string())), Val::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Val<'de>, E> {
        Ok(Val::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Val<'de>, E> {
        Ok(Val::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Val<'de>, E> {
        Ok(Val::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Val<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Val::List(items))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Val<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some((name, value)) = map.next_entry::<Key<'de>, _>()? {
            entries.push((name.0, value));
        }
        Ok(Val::Map(entries))
    }
}

/// A key, borrowed unless it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(JsonVisitor)? {
            Val::Text(text) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom("a key is text")),
        }
    }
}
