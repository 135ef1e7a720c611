//! A statement: text, and values that are never part of it.

use std::fmt::Write as _;

/// Most characters of a statement that are shown to people.
const SHOWN_MAX: usize = 60;

/// One statement; without values it may be several, separated by `;`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statement {
    /// Its text, with values where they stand.
    pub pieces: Vec<Piece>,
}

/// A piece of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// SQL as it was written.
    Text(String),
    /// A value, bound as a parameter.
    Value(Value),
}

/// A value of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// True or false; 1 or 0 where a database has no truth values.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number as decimal text, exact: `12.50`. SQLite has no such type: there it is text, which a
    /// column of numbers takes, or compares, as a number.
    Number(String),
    /// Text. What else can be written as text (a time, a UUID) is cast where the database does not
    /// do so itself: `${param.date}::date`, `CAST(${param.date} AS DATE)`.
    Text(String),
    /// A JSON document, as text.
    Json(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl From<crate::batch::Value<'_>> for Value {
    /// A number that is not finite is NULL.
    fn from(value: crate::batch::Value<'_>) -> Self {
        use crate::batch::Value as Of;
        match value {
            Of::Absent | Of::Null => Self::Null,
            Of::Bool(b) => Self::Boolean(b),
            Of::Int(i) => Self::Integer(i),
            Of::Float(x) if !x.is_finite() => Self::Null,
            Of::Float(x) => Self::Number(x.to_string()),
            Of::Number(text) => Self::Number(text.to_owned()),
            Of::Text(text) => Self::Text(text.to_owned()),
            Of::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
            Of::Json(text) => Self::Json(text.to_owned()),
        }
    }
}

impl Statement {
    /// A statement without values.
    pub fn text(sql: impl Into<String>) -> Self {
        Self { pieces: vec![Piece::Text(sql.into())] }
    }

    /// Its values, in order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Value(value) => Some(value),
        })
    }

    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(super) fn has_values(&self) -> bool {
        self.values().next().is_some()
    }

    /// Its text; `place` writes what stands for a value, with its number from 1.
    pub(super) fn sql(&self, mut place: impl FnMut(usize, &Value, &mut String)) -> String {
        let (mut sql, mut number) = (String::new(), 0);
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => sql.push_str(text),
                Piece::Value(value) => {
                    number += 1;
                    place(number, value, &mut sql);
                }
            }
        }
        sql
    }

    /// Its beginning, in one line and without values, for people.
    fn shown(&self) -> String {
        let sql = self.sql(|_, _, sql| sql.push('?'));
        let mut words = String::new();
        for word in sql.split_whitespace() {
            let space = if words.is_empty() { "" } else { " " };
            // Writing to memory does not fail.
            let _ = write!(words, "{space}{word}");
            if words.len() > SHOWN_MAX * 4 {
                break;
            }
        }
        match words.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => format!("{}…", &words[..end]),
            None => words,
        }
    }
}

/// Bytes as digits, two for each.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to memory does not fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// A statement among those of a step, for people.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its number, from 1.
    pub(super) number: usize,
    /// How many there are.
    pub(super) of: usize,
    pub(super) statement: &'a Statement,
}

impl<'a> Place<'a> {
    pub(super) fn all(statements: &'a [Statement]) -> impl Iterator<Item = Self> {
        let of = statements.len();
        let numbered = statements.iter().enumerate();
        numbered.map(move |(i, statement)| Self { number: i + 1, of, statement })
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, of, statement } = self;
        let shown = statement.shown();
        match of {
            1 => write!(f, "the statement `{shown}`"),
            _ => write!(f, "statement {number} of {of} (`{shown}`)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_shown_without_its_values() {
        let pieces = vec![
            Piece::Text("UPDATE  customer\n SET token = ".into()),
            Piece::Value(Value::Text("s3cret".into())),
            Piece::Text(format!(" WHERE id IN ({}ß)", "1, ".repeat(40))),
        ];
        let statement = Statement { pieces };
        let place = Place { number: 2, of: 3, statement: &statement };
        let shown = place.to_string();
        assert!(
            shown.starts_with("statement 2 of 3 (`UPDATE customer SET token = ? WHERE id IN (1, 1")
                && shown.ends_with("…`)"),
            "{shown}"
        );
    }
}
