//! Values as the server writes them, text, into the cells of a batch.

use mysql::{
    Column,
    consts::{ColumnFlags, ColumnType as Type},
};

use crate::batch::{Batch, Cell, ColumnType, Value};

/// The character set of what is no text.
const BINARY: u16 = 63;

/// How the text of a column is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As text.
    Text,
    /// An integer of at most 64 bits.
    Integer,
    /// The same without a sign: half of them are larger than `i64`.
    Unsigned,
    /// A binary floating-point number.
    Float,
    /// One of 32 bits.
    Single,
    /// A decimal, digit by digit.
    Number,
    /// `TINYINT(1)`, in which 1 and 0 are true and false.
    Boolean,
    /// One bit.
    Bit,
    /// Several bits, as a number.
    Bits,
    /// Bytes.
    Bytes,
    /// A JSON document.
    Json,
    /// A moment of UTC.
    Moment,
    /// A time without a zone.
    Time,
    /// A day.
    Date,
}

impl Form {
    /// The form of a column of a result. `is_json`: it is known to hold JSON.
    pub(super) fn of(column: &Column, is_json: bool) -> Self {
        let is_unsigned = column.flags().contains(ColumnFlags::UNSIGNED_FLAG);
        match column.column_type() {
            _ if is_json => Self::Json,
            Type::MYSQL_TYPE_TINY if column.column_length() == 1 => Self::Boolean,
            Type::MYSQL_TYPE_LONGLONG if is_unsigned => Self::Unsigned,
            Type::MYSQL_TYPE_TINY
            | Type::MYSQL_TYPE_SHORT
            | Type::MYSQL_TYPE_LONG
            | Type::MYSQL_TYPE_INT24
            | Type::MYSQL_TYPE_LONGLONG
            | Type::MYSQL_TYPE_YEAR => Self::Integer,
            Type::MYSQL_TYPE_FLOAT => Self::Single,
            Type::MYSQL_TYPE_DOUBLE => Self::Float,
            Type::MYSQL_TYPE_DECIMAL | Type::MYSQL_TYPE_NEWDECIMAL => Self::Number,
            Type::MYSQL_TYPE_TIMESTAMP | Type::MYSQL_TYPE_TIMESTAMP2 => Self::Moment,
            Type::MYSQL_TYPE_DATETIME | Type::MYSQL_TYPE_DATETIME2 => Self::Time,
            Type::MYSQL_TYPE_DATE | Type::MYSQL_TYPE_NEWDATE => Self::Date,
            Type::MYSQL_TYPE_BIT if column.column_length() == 1 => Self::Bit,
            Type::MYSQL_TYPE_BIT => Self::Bits,
            Type::MYSQL_TYPE_JSON => Self::Json,
            Type::MYSQL_TYPE_GEOMETRY => Self::Bytes,
            Type::MYSQL_TYPE_VARCHAR
            | Type::MYSQL_TYPE_VAR_STRING
            | Type::MYSQL_TYPE_STRING
            | Type::MYSQL_TYPE_TINY_BLOB
            | Type::MYSQL_TYPE_MEDIUM_BLOB
            | Type::MYSQL_TYPE_LONG_BLOB
            | Type::MYSQL_TYPE_BLOB
                if column.character_set() == BINARY =>
            {
                Self::Bytes
            }
            _ => Self::Text,
        }
    }

    /// What a column of it is to others.
    pub(super) fn column_type(self) -> ColumnType {
        match self {
            Self::Text => ColumnType::Text,
            Self::Time => ColumnType::Named("timestamp"),
            Self::Date => ColumnType::Named("date"),
            Self::Integer | Self::Bits => ColumnType::Integer,
            Self::Float | Self::Single => ColumnType::Float,
            Self::Unsigned | Self::Number => ColumnType::Number,
            Self::Boolean | Self::Bit => ColumnType::Boolean,
            Self::Bytes => ColumnType::Bytes,
            Self::Json => ColumnType::Json,
            Self::Moment => ColumnType::Timestamp,
        }
    }

    /// Whether keys of it are numbers.
    pub(super) fn is_integer(self) -> bool {
        matches!(self, Self::Integer | Self::Unsigned | Self::Boolean)
    }

    /// Finds why it cannot be a column of a key.
    pub(super) fn refuse_as_key(self, flags: ColumnFlags) -> Option<&'static str> {
        if flags.intersects(ColumnFlags::ENUM_FLAG | ColumnFlags::SET_FLAG) {
            return Some("is ordered by numbers that are not seen (ENUM or SET)");
        }
        match self {
            Self::Single => Some("is a FLOAT, which the server shows rounded"),
            Self::Json => Some("is a JSON document, which has no order"),
            Self::Bit | Self::Bits => Some("holds bits"),
            _ => None,
        }
    }
}

/// Appends a value to the row of a batch that was begun last.
pub(super) fn push(batch: &mut Batch, value: Option<&[u8]>, form: Form) -> Result<(), String> {
    let Some(bytes) = value else {
        batch.push(Value::Null);
        return Ok(());
    };
    if form == Form::Bytes {
        batch.push(Value::Bytes(bytes));
        return Ok(());
    }
    if matches!(form, Form::Bit | Form::Bits) {
        let number = bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        batch.push(match (form, i64::try_from(number)) {
            (Form::Bit, _) => Value::Bool(number != 0),
            (_, Ok(number)) => Value::Int(number),
            (_, Err(_)) => return push_number(batch, &number.to_string()),
        });
        return Ok(());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "its text is not UTF-8".to_owned())?;
    let wrong = |what: &str| format!("'{text}' is not {what}");
    match form {
        Form::Integer | Form::Unsigned => match text.parse() {
            Ok(number) => batch.push(Value::Int(number)),
            Err(_) => return push_number(batch, text),
        },
        Form::Boolean => match text {
            "0" => batch.push(Value::Bool(false)),
            "1" => batch.push(Value::Bool(true)),
            text => batch.push(Value::Int(text.parse().map_err(|_| wrong("an integer"))?)),
        },
        Form::Float => batch.push(Value::Float(text.parse().map_err(|_| wrong("a number"))?)),
        // Shown as a number of 64 bits, of which it has the nearest of 32.
        Form::Single => {
            let single = text.parse::<f32>().map_err(|_| wrong("a number"))?;
            batch.push(Value::Float(single.to_string().parse().unwrap_or(f64::from(single))));
        }
        Form::Number => return push_number(batch, text),
        Form::Json if text.contains(['\n', '\r']) => {
            // Line ends are blanks there, and would end a line of JSON lines.
            batch.push(Value::Json(&text.replace(['\n', '\r'], " ")));
        }
        Form::Json => batch.push(Value::Json(text)),
        Form::Moment | Form::Time => {
            let time = rfc3339(text, form == Form::Moment);
            batch.push(Value::Text(time.as_deref().unwrap_or(text)));
        }
        _ => {
            let span = batch.put(bytes);
            batch.push_cell(Cell::Text(span));
        }
    }
    Ok(())
}

fn push_number(batch: &mut Batch, text: &str) -> Result<(), String> {
    batch.push(Value::Number(text));
    Ok(())
}

/// A time as RFC 3339 has it: `2024-02-29 10:00:00.5` becomes `2024-02-29T10:00:00.5Z`. What has no
/// such form (`0000-00-00 00:00:00`) stays as it is.
fn rfc3339(time: &str, is_utc: bool) -> Option<String> {
    let (date, clock) = time.split_once(' ')?;
    if date.len() != 10 || date.starts_with("0000") || date.contains("-00") {
        return None;
    }
    Some(format!("{date}T{clock}{}", if is_utc { "Z" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn text_becomes_what_the_column_is() {
        for (text, form, wanted) in [
            ("", Form::Text, "Text(\"\")"),
            ("-7", Form::Integer, "Int(-7)"),
            ("18446744073709551615", Form::Unsigned, "Number(\"18446744073709551615\")"),
            ("0.1", Form::Float, "Float(0.1)"),
            ("0.10000000149011612", Form::Single, "Float(0.1)"),
            ("1.50", Form::Number, "Number(\"1.50\")"),
            ("1", Form::Boolean, "Bool(true)"),
            ("2", Form::Boolean, "Int(2)"),
            ("\u{1}", Form::Bit, "Bool(true)"),
            ("\u{1}\u{0}", Form::Bits, "Int(256)"),
            ("{\"a\":\n1}", Form::Json, "Json(\"{\\\"a\\\": 1}\")"),
            ("2024-02-29 10:00:00.5", Form::Moment, "Text(\"2024-02-29T10:00:00.5Z\")"),
            ("2024-02-29 10:00:00", Form::Time, "Text(\"2024-02-29T10:00:00\")"),
            ("0000-00-00 00:00:00", Form::Time, "Text(\"0000-00-00 00:00:00\")"),
        ] {
            let mut batch = conformance::records("p", &[]);
            batch.begin_row(crate::batch::Origin { mark: 0, line: 0, ordinal: 0 });
            push(&mut batch, Some(text.as_bytes()), form).unwrap();
            assert_eq!(format!("{:?}", batch.get(0, 0)), wanted, "{text} {form:?}");
        }
    }
}
