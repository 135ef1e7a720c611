//! Values as `COPY … FROM STDIN` takes them: text, with escapes, one line for each row.
//!
//! The server parses the text by the column's own rules, so that nothing is rounded on the way: a
//! decimal goes into `numeric` digit by digit. What is decided here is how a value looks that
//! comes from another world: a boolean in an integer column, an empty field in a column of dates,
//! a JSON array in a column of arrays.

use std::io::Write as _;

use serde_json::value::RawValue;

use crate::batch::{Batch, Cell, ColumnType};

/// What a column takes, as far as it matters for how a value is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, of which an empty one is a value.
    Text,
    /// Whole numbers.
    Integer,
    /// Other numbers.
    Number,
    /// True and false.
    Boolean,
    /// Bytes.
    Bytes,
    /// JSON documents.
    Json,
    /// Arrays of something.
    Array(Box<Kind>),
    /// Anything else that has a text form: times, UUIDs, addresses, enumerations, …
    Other,
}

/// Bytes that must not stand as they are: the separators, the escape, and the one that no text in
/// PostgreSQL can hold.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    special[b'\t' as usize] = true;
    special[b'\n' as usize] = true;
    special[b'\r' as usize] = true;
    special[b'\\' as usize] = true;
    special[0] = true;
    special
};

/// Appends a cell for a column of a kind. `of` is what the record's schema says of it.
pub(super) fn cell(
    batch: &Batch,
    cell: Cell,
    of: ColumnType,
    kind: &Kind,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    match cell {
        Cell::Absent | Cell::Null => null(out),
        Cell::Int(i) => out.extend_from_slice(itoa::Buffer::new().format(i).as_bytes()),
        Cell::Bool(b) => out.extend_from_slice(boolean(b, kind)),
        Cell::Float(x) => float(x, kind, out),
        Cell::Bytes(span) => bytes(batch.span(span), out),
        Cell::Number(span) => return escaped(batch.span(span), out),
        Cell::Text(span) => return text(batch.span(span), of, kind, out),
        Cell::Json(span) => match kind {
            Kind::Array(element) => return array(batch.span(span), element, out),
            _ => return escaped(batch.span(span), out),
        },
    }
    Ok(())
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\N");
}

fn boolean(b: bool, kind: &Kind) -> &'static [u8] {
    match (kind, b) {
        (Kind::Integer | Kind::Number, true) => b"1",
        (Kind::Integer | Kind::Number, false) => b"0",
        (_, true) => b"true",
        (_, false) => b"false",
    }
}

fn float(x: f64, kind: &Kind, out: &mut Vec<u8>) {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if *kind == Kind::Integer && x.fract() == 0.0 && x.abs() <= EXACT {
        out.extend_from_slice(itoa::Buffer::new().format(x as i64).as_bytes());
    } else {
        // Writing to memory does not fail.
        let _ = write!(out, "{x:?}");
    }
}

/// `\x` and digits: bytes for a column of bytes, and readable in one of text.
fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\\\x");
    for byte in bytes {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

fn text(text: &[u8], of: ColumnType, kind: &Kind, out: &mut Vec<u8>) -> Result<(), String> {
    match kind {
        Kind::Text | Kind::Bytes => escaped(text, out),
        // A text among values that know their type is a JSON string; a text column holds documents.
        Kind::Json if of == ColumnType::Unknown => {
            let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
            let quoted = serde_json::to_string(text).map_err(|e| e.to_string())?;
            escaped(quoted.as_bytes(), out)
        }
        _ if text.is_empty() => {
            null(out);
            Ok(())
        }
        Kind::Array(element) if text.first() == Some(&b'[') => array(text, element, out),
        _ => escaped(text, out),
    }
}

/// Appends text, with what separates fields and rows escaped.
pub(super) fn escaped(text: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| SPECIAL[usize::from(*byte)]) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\\' => b"\\\\",
            _ => return Err("has a NUL character, which PostgreSQL cannot hold".into()),
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// Appends a JSON array as PostgreSQL writes one: `{1,2,NULL}`.
fn array(json: &[u8], element: &Kind, out: &mut Vec<u8>) -> Result<(), String> {
    let mut literal = Vec::with_capacity(json.len() + 8);
    let json = std::str::from_utf8(json).map_err(|e| e.to_string())?;
    elements(json, element, &mut literal)
        .map_err(|_| "is not a JSON array, and the column holds arrays".to_owned())?;
    escaped(&literal, out)
}

fn elements(json: &str, element: &Kind, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let items: Vec<&RawValue> = serde_json::from_str(json)?;
    out.push(b'{');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let item = item.get();
        match item.as_bytes().first() {
            Some(b'n') => out.extend_from_slice(b"NULL"),
            Some(b'[') if *element != Kind::Json => elements(item, element, out)?,
            Some(b'"') if *element != Kind::Json => {
                let text: String = serde_json::from_str(item)?;
                quoted(&text, out);
            }
            Some(b'{' | b'[' | b'"') => quoted(item, out),
            // Numbers and booleans: as they stand.
            _ => out.extend_from_slice(item.as_bytes()),
        }
    }
    out.push(b'}');
    Ok(())
}

/// An element in quotes, as it may hold anything.
fn quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{batch::Value, conformance};

    fn written(value: Value<'_>, of: ColumnType, kind: &Kind) -> Result<String, String> {
        let mut batch = conformance::records("p", &[Some(1)]);
        batch.set(0, 0, value);
        let mut out = Vec::new();
        cell(&batch, batch.row(0)[0], of, kind, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn values_look_as_the_column_takes_them() {
        use ColumnType::{Text as Declared, Unknown};
        let array = |kind| Kind::Array(Box::new(kind));
        for (value, of, kind, wanted) in [
            (Value::Text("a\tb\\c\r\nd"), Declared, Kind::Text, "a\\tb\\\\c\\r\\nd"),
            (Value::Text(""), Declared, Kind::Text, ""),
            (Value::Text(""), Declared, Kind::Other, "\\N"),
            (Value::Text("\\N"), Declared, Kind::Text, "\\\\N"),
            (Value::Null, Unknown, Kind::Text, "\\N"),
            (
                Value::Number("1.50000000000000000001"),
                Unknown,
                Kind::Number,
                "1.50000000000000000001",
            ),
            (Value::Float(3.0), Unknown, Kind::Integer, "3"),
            (Value::Float(1e300), Unknown, Kind::Number, "1e300"),
            (Value::Bool(true), Unknown, Kind::Integer, "1"),
            (Value::Bool(false), Unknown, Kind::Boolean, "false"),
            (Value::Bytes(&[0, 255]), Unknown, Kind::Bytes, "\\\\x00ff"),
            (Value::Text("{\"a\":1}"), Declared, Kind::Json, "{\"a\":1}"),
            (Value::Text("12"), Unknown, Kind::Json, "\"12\""),
            (Value::Json("[1,null,3]"), Unknown, array(Kind::Integer), "{1,NULL,3}"),
            (Value::Json("[[\"a\\\"\",\"b,\"]]"), Unknown, array(Kind::Text), r#"{{"a\\"","b,"}}"#),
            (Value::Json("[{\"a\":[1]}]"), Unknown, array(Kind::Json), r#"{"{\\"a\\":[1]}"}"#),
            (Value::Text("{1,2}"), Declared, array(Kind::Integer), "{1,2}"),
            (Value::Text("[1,2]"), Declared, array(Kind::Integer), "{1,2}"),
        ] {
            assert_eq!(written(value, of, &kind).as_deref(), Ok(wanted), "{value:?} {kind:?}");
        }
        assert!(written(Value::Text("a\0"), Declared, &Kind::Text).is_err());
        assert!(written(Value::Json("{}"), Unknown, &array(Kind::Text)).is_err());
    }
}
