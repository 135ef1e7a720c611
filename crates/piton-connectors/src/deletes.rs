//! Which records of a stream delete rows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{batch::Value, settings::Mode};

/// Which records delete the row with their key instead of writing it: those whose field has one of
/// these values, as in `{op: [d, t]}` or `{deleted: true}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Deletes(BTreeMap<String, OneOrSeveral>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrSeveral {
    One(Word),
    Several(Vec<Word>),
}

/// A value as a record may have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Word {
    Boolean(bool),
    Integer(i64),
    Text(String),
}

impl Word {
    /// Text counts as what it says: `"true"` in a CSV file is true.
    fn is(&self, value: Value<'_>) -> bool {
        match (self, value) {
            (Self::Boolean(b), Value::Bool(held)) => *b == held,
            (Self::Integer(i), Value::Int(held)) => *i == held,
            (Self::Text(text), Value::Text(held)) => text == held,
            (Self::Boolean(b), Value::Text(held)) => held.parse() == Ok(*b),
            (Self::Integer(i), Value::Text(held) | Value::Number(held)) => held.parse() == Ok(*i),
            (Self::Integer(i @ (0 | 1)), Value::Bool(held)) => (*i == 1) == held,
            _ => false,
        }
    }
}

impl Deletes {
    /// Whether no record deletes.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields that decide.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether a field with this value means that a row is to be deleted.
    pub(crate) fn says(&self, field: &str, value: Value<'_>) -> bool {
        match self.0.get(field) {
            None => false,
            Some(OneOrSeveral::One(word)) => word.is(value),
            Some(OneOrSeveral::Several(words)) => words.iter().any(|word| word.is(value)),
        }
    }

    /// Finds what cannot work in a mode.
    ///
    /// # Errors
    /// Says how to mend it.
    pub(crate) fn check(&self, mode: Mode) -> Result<(), String> {
        if mode == Mode::Append && !self.is_empty() {
            return Err(
                "`delete` needs `key`, the columns that identify the row to be deleted".into()
            );
        }
        Ok(())
    }
}
