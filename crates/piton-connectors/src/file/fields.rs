//! What CSV fields hold: reading them by their type, and guessing the type from the first rows.
//!
//! A guess must not lose anything: `007` and `+1` stay text, and an integer beyond 64 bits or a
//! decimal that a float does not hold becomes an exact number.

use super::{
    json,
    number::{self, Decimal},
    settings::FieldType,
};
use crate::batch::{Batch, Cell, ColumnType, Span};

/// How one column's fields are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    kind: FieldType,
    /// Whether the type was guessed: then an integer must be written as it would be printed.
    guessed: bool,
}

impl Field {
    pub(super) const TEXT: Self = Self { kind: FieldType::Text, guessed: false };

    /// A type that a person chose.
    pub(super) fn chosen(kind: FieldType) -> Self {
        Self { kind, guessed: false }
    }

    /// A type that was guessed from the first rows.
    pub(super) fn guessed(kind: FieldType) -> Self {
        Self { kind, guessed: true }
    }

    pub(super) fn is_text(self) -> bool {
        self.kind == FieldType::Text
    }

    /// What a table's column should be.
    pub(super) fn column(self) -> ColumnType {
        match self.kind {
            FieldType::Text => ColumnType::Text,
            FieldType::Integer => ColumnType::Integer,
            FieldType::Float => ColumnType::Float,
            FieldType::Number => ColumnType::Number,
            FieldType::Boolean => ColumnType::Boolean,
            FieldType::Json => ColumnType::Json,
        }
    }

    /// Reads a field whose text lies at `span` of the batch. `None` if it does not fit.
    pub(super) fn read(self, text: &str, span: Span, batch: &mut Batch) -> Option<Cell> {
        if self.is_text() {
            return Some(Cell::Text(span));
        }
        if text.is_empty() {
            return Some(Cell::Null);
        }
        match self.kind {
            FieldType::Text => Some(Cell::Text(span)),
            FieldType::Integer if self.guessed && !number::is_as_printed(text) => None,
            FieldType::Integer => text.parse().ok().map(Cell::Int),
            FieldType::Float => text.parse().ok().filter(|x: &f64| x.is_finite()).map(Cell::Float),
            FieldType::Number => number::is_json(text).then_some(Cell::Number(span)),
            FieldType::Boolean => boolean(text).map(Cell::Bool),
            FieldType::Json => json::value(text, batch),
        }
    }

    /// What a field was expected to be, in words.
    pub(super) fn expected(self) -> &'static str {
        match self.kind {
            FieldType::Text => "text",
            FieldType::Integer if self.guessed => {
                "an integer as the first rows have (the type was guessed: name it in `types`)"
            }
            FieldType::Integer => "an integer of 64 bits",
            FieldType::Float => "a finite floating-point number",
            FieldType::Number => "a decimal number",
            FieldType::Boolean => "true or false",
            FieldType::Json => "JSON",
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    let is = |words: [&str; 5]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(["true", "t", "yes", "y", "1"]) {
        Some(true)
    } else if is(["false", "f", "no", "n", "0"]) {
        Some(false)
    } else {
        None
    }
}

/// What the fields of a column seen so far have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Guess {
    /// None was seen that is not empty.
    #[default]
    Nothing,
    /// Each is true or false.
    Boolean,
    /// Each is a number.
    Number {
        /// Each is an integer of 64 bits.
        integer: bool,
        /// A float holds each.
        float: bool,
    },
    /// They are anything.
    Text,
}

impl Guess {
    /// The guess after one more field.
    #[must_use]
    pub(super) fn with(self, text: &str) -> Self {
        let this = match number::decimal(text) {
            _ if text.is_empty() => return self,
            Some(Decimal::Int(_)) => {
                Self::Number { integer: true, float: number::fits_float(text) }
            }
            Some(Decimal::Float(_)) => Self::Number { integer: false, float: true },
            Some(Decimal::Exact) => Self::Number { integer: false, float: false },
            None if matches!(text, "true" | "false" | "TRUE" | "FALSE" | "True" | "False") => {
                Self::Boolean
            }
            None => Self::Text,
        };
        match (self, this) {
            (Self::Nothing, _) | (Self::Boolean, Self::Boolean) => this,
            (Self::Number { integer: a, float: c }, Self::Number { integer: b, float: d }) => {
                Self::Number { integer: a && b, float: c && d }
            }
            _ => Self::Text,
        }
    }

    /// The type that holds them all.
    pub(super) fn kind(self) -> FieldType {
        match self {
            Self::Nothing | Self::Text => FieldType::Text,
            Self::Boolean => FieldType::Boolean,
            Self::Number { integer: true, .. } => FieldType::Integer,
            Self::Number { float: true, .. } => FieldType::Float,
            Self::Number { .. } => FieldType::Number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_loses_nothing() {
        for (fields, expected) in [
            (&["1", "", "-20"][..], FieldType::Integer),
            (&["1", "2.5"], FieldType::Float),
            (&["9007199254740993", "2.5"], FieldType::Number),
            (&["9007199254740993", "1"], FieldType::Integer),
            (&["9223372036854775808", "1"], FieldType::Number),
            (&["1", "007"], FieldType::Text),
            (&["+1"], FieldType::Text),
            (&["true", "False"], FieldType::Boolean),
            (&["true", "1"], FieldType::Text),
            (&["1", "NA"], FieldType::Text),
            (&["", ""], FieldType::Text),
        ] {
            let guess = fields.iter().fold(Guess::default(), |guess, field| guess.with(field));
            assert_eq!(guess.kind(), expected, "{fields:?}");
        }
    }
}
