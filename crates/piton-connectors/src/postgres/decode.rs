//! Rows as `COPY … TO STDOUT` writes them: text, into the cells of a batch.

use crate::batch::{Batch, Cell, ColumnType, Value};

/// How the text of a column is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As text.
    Text,
    /// An integer of at most 64 bits.
    Integer,
    /// A binary floating-point number.
    Float,
    /// A decimal, digit by digit.
    Number,
    /// `t` or `f`.
    Boolean,
    /// Hexadecimal digits after `\x`.
    Bytes,
    /// A JSON document.
    Json,
    /// A time with or without a zone.
    Time,
}

/// Types that keep their names, as the catalogue has them and as SQL writes them.
const NAMED: &[(&str, &str)] = &[
    ("uuid", "uuid"),
    ("date", "date"),
    ("time", "time"),
    ("timetz", "timetz"),
    ("timestamp", "timestamp"),
    ("interval", "interval"),
    ("inet", "inet"),
    ("cidr", "cidr"),
    ("json", "json"),
    ("_int2", "smallint[]"),
    ("_int4", "integer[]"),
    ("_int8", "bigint[]"),
    ("_float4", "real[]"),
    ("_float8", "double precision[]"),
    ("_numeric", "numeric[]"),
    ("_bool", "boolean[]"),
    ("_text", "text[]"),
    ("_varchar", "text[]"),
    ("_uuid", "uuid[]"),
    ("_date", "date[]"),
    ("_timestamp", "timestamp[]"),
    ("_timestamptz", "timestamptz[]"),
    ("_bytea", "bytea[]"),
    ("_jsonb", "jsonb[]"),
];

impl Form {
    /// The form of a type by its name in the catalogue. Arrays and composite types are asked for
    /// as JSON.
    pub(super) fn of(name: &str) -> Self {
        match name {
            "int2" | "int4" | "int8" => Self::Integer,
            "float4" | "float8" => Self::Float,
            "numeric" => Self::Number,
            "bool" => Self::Boolean,
            "bytea" => Self::Bytes,
            "json" | "jsonb" => Self::Json,
            "timestamptz" | "timestamp" => Self::Time,
            _ => Self::Text,
        }
    }

    /// What a column of it is to others.
    pub(super) fn column_type(self, name: &str) -> ColumnType {
        if let Some((_, name)) = NAMED.iter().find(|(of, _)| *of == name) {
            return ColumnType::Named(name);
        }
        match self {
            Self::Text => ColumnType::Text,
            Self::Integer => ColumnType::Integer,
            Self::Float => ColumnType::Float,
            Self::Number => ColumnType::Number,
            Self::Boolean => ColumnType::Boolean,
            Self::Bytes => ColumnType::Bytes,
            Self::Json => ColumnType::Json,
            Self::Time => ColumnType::Timestamp,
        }
    }
}

/// Takes what escapes stand for out of a field. `None` for NULL.
pub(super) fn unescaped<'a>(field: &'a [u8], room: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    if field == b"\\N" {
        return None;
    }
    if !field.contains(&b'\\') {
        return Some(field);
    }
    room.clear();
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        room.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'r') => b'\r',
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'v') => 11,
                Some(other) => *other,
                None => b'\\',
            },
            byte => *byte,
        });
    }
    Some(room)
}

/// Appends a field to the row of a batch that was begun last. The row's text was found to be UTF-8.
pub(super) fn push(batch: &mut Batch, field: Option<&[u8]>, form: Form) -> Result<(), String> {
    let Some(field) = field else {
        batch.push(Value::Null);
        return Ok(());
    };
    let text = || std::str::from_utf8(field).unwrap_or_default();
    let cell = match form {
        Form::Text => Cell::Text(batch.put(field)),
        Form::Integer => Cell::Int(text().parse().map_err(|_| wrong(field, "an integer"))?),
        Form::Float => Cell::Float(text().parse().map_err(|_| wrong(field, "a number"))?),
        // NaN and the infinities, for which JSON has no number.
        Form::Number if field.iter().any(u8::is_ascii_alphabetic) => Cell::Text(batch.put(field)),
        Form::Number => Cell::Number(batch.put(field)),
        Form::Boolean => Cell::Bool(field == b"t"),
        Form::Bytes => {
            let bytes = unhex(field).ok_or_else(|| wrong(field, "a row of bytes"))?;
            Cell::Bytes(batch.put(&bytes))
        }
        Form::Json if field.iter().any(|byte| matches!(byte, b'\n' | b'\r')) => {
            // Line ends are blanks there, and would end a line of JSON lines.
            let blank = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
            let line: Vec<u8> = field.iter().map(blank).collect();
            Cell::Json(batch.put(&line))
        }
        Form::Json => Cell::Json(batch.put(field)),
        Form::Time => {
            let time = rfc3339(text());
            Cell::Text(batch.put(time.as_deref().map_or(field, str::as_bytes)))
        }
    };
    batch.push_cell(cell);
    Ok(())
}

fn wrong(field: &[u8], what: &str) -> String {
    format!("'{}' is not {what}", String::from_utf8_lossy(field))
}

fn unhex(field: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = field.strip_prefix(b"\\x")?.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// A time of UTC as RFC 3339 has it: `2024-02-29 10:00:00.5+00` becomes `2024-02-29T10:00:00.5Z`.
/// What has no such form (infinity, years before Christ or after 9999) stays as it is.
fn rfc3339(time: &str) -> Option<String> {
    let (date, clock) = time.split_once(' ')?;
    if date.len() != 10 || clock.contains(' ') {
        return None;
    }
    Some(match clock.strip_suffix("+00") {
        Some(clock) => format!("{date}T{clock}Z"),
        None => format!("{date}T{clock}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    fn read(field: &str, form: Form) -> Result<String, String> {
        let mut batch = conformance::records("p", &[]);
        batch.begin_row(crate::batch::Origin { mark: 0, line: 0, ordinal: 0 });
        let mut room = Vec::new();
        push(&mut batch, unescaped(field.as_bytes(), &mut room), form)?;
        Ok(format!("{:?}", batch.get(0, 0)))
    }

    #[test]
    fn text_becomes_what_the_column_is() {
        for (field, form, wanted) in [
            ("\\N", Form::Text, "Null"),
            ("", Form::Text, "Text(\"\")"),
            ("\\\\N", Form::Text, "Text(\"\\\\N\")"),
            ("a\\tb\\\\c\\nd\\b", Form::Text, "Text(\"a\\tb\\\\c\\nd\\u{8}\")"),
            ("-7", Form::Integer, "Int(-7)"),
            ("0.1", Form::Float, "Float(0.1)"),
            ("-Infinity", Form::Float, "Float(-inf)"),
            ("1.50", Form::Number, "Number(\"1.50\")"),
            ("NaN", Form::Number, "Text(\"NaN\")"),
            ("f", Form::Boolean, "Bool(false)"),
            ("\\\\x00ff", Form::Bytes, "Bytes([0, 255])"),
            ("{\"a\":\\n1}", Form::Json, "Json(\"{\\\"a\\\": 1}\")"),
            ("2024-02-29 10:00:00.5+00", Form::Time, "Text(\"2024-02-29T10:00:00.5Z\")"),
            ("2024-02-29 10:00:00", Form::Time, "Text(\"2024-02-29T10:00:00\")"),
            ("infinity", Form::Time, "Text(\"infinity\")"),
            ("0044-03-15 00:00:00+00 BC", Form::Time, "Text(\"0044-03-15 00:00:00+00 BC\")"),
        ] {
            assert_eq!(read(field, form).as_deref(), Ok(wanted), "{field}");
        }
        assert!(read("x", Form::Integer).is_err());
        assert!(read("\\\\x0", Form::Bytes).is_err());
    }
}
