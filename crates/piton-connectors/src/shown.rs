//! Values in sentences for people.

use crate::batch::Value;

/// Longest part of a value that is shown to people, in characters.
const SHOWN_MAX: usize = 80;

/// A value for people.
pub(crate) fn shown(value: Value<'_>) -> String {
    let short = |text: &str| match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    };
    match value {
        Value::Absent => "nothing".into(),
        Value::Null => "NULL".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Number(text) | Value::Json(text) => short(text),
        Value::Text(text) => format!("'{}'", short(text)),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
    }
}
