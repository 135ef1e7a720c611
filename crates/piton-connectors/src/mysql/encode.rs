//! Values as they stand in a statement.
//!
//! The server reads the text by the column's own rules and refuses what does not fit, as its
//! session is strict. What is decided here is how a value looks that comes from another world: a
//! time with a zone, a boolean among integers, an empty field in a column of numbers; and what the
//! server would round without a word.

use std::fmt::Write as _;

use crate::batch::{Batch, Cell, ColumnType, Value};

/// What a column takes, as far as it matters for how a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, of which an empty one is a value.
    Text,
    /// Whole numbers.
    Integer,
    /// Decimal numbers.
    Decimal,
    /// Binary floating-point numbers.
    Float,
    /// `TINYINT(1)`: whole numbers, among which true and false are 1 and 0.
    Boolean,
    /// Bytes.
    Bytes,
    /// JSON documents.
    Json,
    /// Moments: `DATETIME`, in UTC, and `TIMESTAMP`.
    Time,
    /// Bits.
    Bits,
    /// Anything else that has a text form.
    Other,
}

impl Kind {
    /// The kind of a type by its name, and by all that is declared of it.
    pub(super) fn of(name: &str, declared: &str) -> Self {
        match name {
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "set" => {
                Self::Text
            }
            "tinyint" if declared.starts_with("tinyint(1)") => Self::Boolean,
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" => Self::Integer,
            "decimal" => Self::Decimal,
            "float" | "double" => Self::Float,
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Self::Bytes,
            "json" => Self::Json,
            "datetime" | "timestamp" => Self::Time,
            "bit" => Self::Bits,
            _ => Self::Other,
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Decimal | Self::Float | Self::Boolean | Self::Bits)
    }
}

/// Integers up to here are exact as floating-point numbers.
const EXACT: i64 = 1 << 53;

/// Appends a cell for a column of a kind. `of` is what the record's schema says of it.
pub(super) fn cell(
    batch: &Batch,
    cell: Cell,
    of: ColumnType,
    kind: Kind,
    out: &mut String,
) -> Result<(), String> {
    match batch.value(cell) {
        Value::Absent | Value::Null => out.push_str("NULL"),
        Value::Int(i) if kind == Kind::Float && !(-EXACT..=EXACT).contains(&i) => {
            return Err("would be rounded, as the column holds floating-point numbers".into());
        }
        Value::Int(i) => quoted_unless(kind.is_number(), itoa::Buffer::new().format(i), out),
        Value::Bool(b) => match kind {
            _ if kind.is_number() => out.push(if b { '1' } else { '0' }),
            _ => quoted(if b { "true" } else { "false" }, out),
        },
        Value::Float(x) => return float(x, kind, out),
        Value::Number(text) => return number(text, kind, out),
        Value::Text(text) => return of_text(text, of, kind, out),
        Value::Json(text) => quoted(text, out),
        Value::Bytes(bytes) => hexadecimal(bytes, kind, out),
    }
    Ok(())
}

/// Looks at what was written from `begin` on for a column of the key: there must be something. Where
/// rows are looked for by it (`sought`), a number must not stand in quotes: the server would compare
/// it with others as floating-point numbers.
pub(super) fn as_key(
    kind: Kind,
    sought: bool,
    begin: usize,
    out: &mut String,
) -> Result<(), String> {
    let written = &out[begin..];
    if written == "NULL" {
        return Err("is nothing, and the column is one of the key".into());
    }
    let inner = written.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let Some(inner) = inner.filter(|_| sought && kind.is_number()) else { return Ok(()) };
    let is_number = inner.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
        && inner.parse::<f64>().is_ok();
    if !is_number {
        return Err("is not a number, and the column holds numbers".into());
    }
    let number = inner.to_owned();
    out.truncate(begin);
    out.push_str(&number);
    Ok(())
}

/// Appends text as a literal, in a session without backslash escapes.
fn quoted(text: &str, out: &mut String) {
    out.push('\'');
    let mut rest = text;
    while let Some(at) = rest.find('\'') {
        out.push_str(&rest[..=at]);
        out.push('\'');
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('\'');
}

fn quoted_unless(is_number: bool, text: &str, out: &mut String) {
    if is_number { out.push_str(text) } else { quoted(text, out) }
}

fn float(x: f64, kind: Kind, out: &mut String) -> Result<(), String> {
    if !x.is_finite() && kind != Kind::Text {
        return Err("is no number that MySQL could hold".into());
    }
    if matches!(kind, Kind::Integer | Kind::Boolean | Kind::Bits) {
        if x.fract() != 0.0 || x.abs() > EXACT as f64 {
            return Err("would be rounded, as the column holds whole numbers".into());
        }
        let _ = write!(out, "{}", x as i64);
        return Ok(());
    }
    let quote = if kind.is_number() { "" } else { "'" };
    // Writing to memory does not fail.
    let _ = write!(out, "{quote}{x:?}{quote}");
    Ok(())
}

/// An exact number. In quotes the server reads it digit by digit.
fn number(text: &str, kind: Kind, out: &mut String) -> Result<(), String> {
    if matches!(kind, Kind::Integer | Kind::Boolean | Kind::Bits) {
        refuse_fraction(text)?;
    }
    if kind == Kind::Bits {
        out.push_str(text);
    } else {
        quoted(text, out);
    }
    Ok(())
}

/// The server would round a fraction without a word.
fn refuse_fraction(text: &str) -> Result<(), String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    match text.parse::<f64>() {
        Ok(x) if x.fract() != 0.0 => {
            Err("would be rounded, as the column holds whole numbers".into())
        }
        // What is no number at all the server refuses itself.
        _ => Ok(()),
    }
}

fn of_text(text: &str, of: ColumnType, kind: Kind, out: &mut String) -> Result<(), String> {
    match kind {
        Kind::Text | Kind::Bytes => quoted(text, out),
        // A text among values that know their type is a JSON string; a text column holds documents.
        Kind::Json if of == ColumnType::Unknown => {
            quoted(&serde_json::to_string(text).map_err(|e| e.to_string())?, out);
        }
        _ if text.is_empty() => out.push_str("NULL"),
        Kind::Boolean if text.eq_ignore_ascii_case("true") => out.push('1'),
        Kind::Boolean if text.eq_ignore_ascii_case("false") => out.push('0'),
        Kind::Bits if text == "0" || text == "1" => out.push_str(text),
        Kind::Integer | Kind::Boolean | Kind::Bits => {
            refuse_fraction(text)?;
            quoted(text, out);
        }
        Kind::Time => time(text, out),
        _ => quoted(text, out),
    }
    Ok(())
}

/// A time with a zone becomes one of UTC, which is the zone of the session; one without stays as it
/// is, and so does what is no time.
fn time(text: &str, out: &mut String) {
    let has_clock = text.len() > 10 && matches!(text.as_bytes()[10], b'T' | b't' | b' ');
    if !has_clock {
        return quoted(text, out);
    }
    if let Some(utc) = text.strip_suffix(['Z', 'z']) {
        return quoted(utc, out);
    }
    let has_offset = text.get(11..).is_some_and(|clock| clock.contains(['+', '-']));
    let moment = has_offset.then(|| text.parse::<jiff::Timestamp>().ok()).flatten();
    match moment.map(|moment| moment.to_string()) {
        Some(utc) => quoted(utc.strip_suffix('Z').unwrap_or(&utc), out),
        None => quoted(text, out),
    }
}

/// Bytes for a column of bytes, and readable in one of text.
fn hexadecimal(bytes: &[u8], kind: Kind, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push_str(if matches!(kind, Kind::Text | Kind::Json) { "'\\x" } else { "x'" });
    for byte in bytes {
        out.push(HEX[usize::from(byte >> 4)] as char);
        out.push(HEX[usize::from(byte & 15)] as char);
    }
    out.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    fn written(value: Value<'_>, of: ColumnType, kind: Kind) -> Result<String, String> {
        let mut batch = conformance::records("p", &[Some(1)]);
        batch.set(0, 0, value);
        let mut out = String::new();
        cell(&batch, batch.row(0)[0], of, kind, &mut out)?;
        Ok(out)
    }

    #[test]
    fn values_look_as_the_column_takes_them() {
        use ColumnType::{Text as Declared, Unknown};
        for (value, of, kind, wanted) in [
            (Value::Text("it's \\n"), Declared, Kind::Text, "'it''s \\n'"),
            (Value::Text(""), Declared, Kind::Text, "''"),
            (Value::Text(""), Declared, Kind::Integer, "NULL"),
            (Value::Null, Unknown, Kind::Text, "NULL"),
            (
                Value::Number("1.50000000000000000001"),
                Unknown,
                Kind::Decimal,
                "'1.50000000000000000001'",
            ),
            (Value::Float(3.0), Unknown, Kind::Integer, "3"),
            (Value::Float(1e300), Unknown, Kind::Float, "1e300"),
            (Value::Float(0.5), Unknown, Kind::Json, "'0.5'"),
            (Value::Bool(true), Unknown, Kind::Boolean, "1"),
            (Value::Bool(false), Unknown, Kind::Json, "'false'"),
            (Value::Text("TRUE"), Declared, Kind::Boolean, "1"),
            (Value::Bytes(&[0, 255]), Unknown, Kind::Bytes, "x'00ff'"),
            (Value::Bytes(&[0, 255]), Unknown, Kind::Text, "'\\x00ff'"),
            (Value::Text("{\"a\":1}"), Declared, Kind::Json, "'{\"a\":1}'"),
            (Value::Text("12"), Unknown, Kind::Json, "'\"12\"'"),
            (
                Value::Text("2024-02-29T10:00:00.5Z"),
                Declared,
                Kind::Time,
                "'2024-02-29T10:00:00.5'",
            ),
            (
                Value::Text("2024-02-29 10:00:00+02:00"),
                Declared,
                Kind::Time,
                "'2024-02-29T08:00:00'",
            ),
            (Value::Text("2024-02-29 10:00:00"), Declared, Kind::Time, "'2024-02-29 10:00:00'"),
            (Value::Text("2024-02-29"), Declared, Kind::Time, "'2024-02-29'"),
        ] {
            assert_eq!(written(value, of, kind).as_deref(), Ok(wanted), "{value:?} {kind:?}");
        }
    }

    #[test]
    fn what_the_server_would_round_without_a_word_is_refused() {
        for (value, kind) in [
            (Value::Text("1.5"), Kind::Integer),
            (Value::Number("1.5"), Kind::Integer),
            (Value::Float(1.5), Kind::Integer),
            (Value::Float(f64::NAN), Kind::Float),
            (Value::Int(EXACT + 1), Kind::Float),
        ] {
            assert!(written(value, ColumnType::Unknown, kind).is_err(), "{value:?} {kind:?}");
        }
    }
}
