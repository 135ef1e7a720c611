//! Values that are known while a job runs, and the names by which a file refers to them.

use std::{borrow::Cow, fmt};

use jiff::civil::Date;
use piton_connectors::batch;
use serde::{Deserialize, Serialize};

/// Answers for the values that are known at a place and time of a run; `None` for one that is not.
pub type Values<'a> = dyn Fn(&Reference) -> Option<Value> + 'a;

/// The name of a value in a file: `${param.date}`, `${step.attempt}`, `${customer.id}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A parameter of the job.
    Param(String),
    /// Something about the step itself.
    Step(StepFact),
    /// A field of the record for which an enclosing `for_each` runs.
    Record {
        /// What the `for_each` calls it (`as`).
        name: String,
        /// The field.
        field: String,
    },
}

/// Something about a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepFact {
    /// The position at which it stood when it was interrupted, as JSON; null at its beginning.
    Position,
    /// When it first began, in RFC 3339 and UTC.
    StartedAt,
    /// Which attempt this is, from 1.
    Attempt,
}

impl StepFact {
    /// All there are, by the names that a file has for them.
    pub const ALL: [(&str, Self); 3] =
        [("position", Self::Position), ("started_at", Self::StartedAt), ("attempt", Self::Attempt)];

    /// The name in a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Position => "position",
            Self::StartedAt => "started_at",
            Self::Attempt => "attempt",
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Param(name) => write!(f, "param.{name}"),
            Self::Step(fact) => write!(f, "step.{}", fact.name()),
            Self::Record { name, field } => write!(f, "{name}.{field}"),
        }
    }
}

/// A value at run time, owned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// None.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A binary floating-point number, as a database gave it.
    Float(f64),
    /// A decimal number of any size, exactly.
    Number(String),
    /// Text.
    Text(String),
    /// A day of the calendar.
    Date(Date),
    /// Bytes.
    Bytes(Vec<u8>),
    /// JSON as text.
    Json(String),
}

impl Value {
    /// The value of a record's field. One that is absent is null.
    pub fn of(field: batch::Value<'_>) -> Self {
        match field {
            batch::Value::Absent | batch::Value::Null => Self::Null,
            batch::Value::Bool(value) => Self::Boolean(value),
            batch::Value::Int(value) => Self::Integer(value),
            batch::Value::Float(value) => Self::Float(value),
            batch::Value::Number(value) => Self::Number(value.to_owned()),
            batch::Value::Text(value) => Self::Text(value.to_owned()),
            batch::Value::Bytes(value) => Self::Bytes(value.to_owned()),
            batch::Value::Json(value) => Self::Json(value.to_owned()),
        }
    }

    /// The value as text, for an argument or a name: null is empty. `None` for bytes that are no
    /// text.
    pub fn to_text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Null => Cow::Borrowed(""),
            Self::Boolean(value) => value.to_string().into(),
            Self::Integer(value) => value.to_string().into(),
            Self::Float(value) => value.to_string().into(),
            Self::Date(value) => value.to_string().into(),
            Self::Number(value) | Self::Text(value) | Self::Json(value) => value.into(),
            Self::Bytes(value) => std::str::from_utf8(value).ok()?.into(),
        })
    }
}
