//! Texts with references in them: statements of SQL, and arguments of commands.

use std::fmt;

use super::value::{Reference, Values};
use crate::config::Place;

/// A part of a text.
#[derive(Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands in the file.
    Text(String),
    /// A value at run time.
    Value(Reference),
}

impl fmt::Debug for Piece {
    // What was filled in from outside the file may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Value(reference) => write!(f, "Value({reference})"),
        }
    }
}

/// A statement of SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it is made of. References stand only where a database takes a parameter: not within
    /// quotes or comments.
    pub pieces: Vec<Piece>,
    /// Where in the file it begins.
    pub at: Place,
}

/// How a database wants a bound parameter to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholders {
    /// `?1`, `?2`: SQLite.
    Question,
    /// `$1`, `$2`: PostgreSQL.
    Dollar,
    /// `?`: MySQL.
    Bare,
}

impl Statement {
    /// The text with placeholders, and what to bind to them, in their order: one for each.
    pub fn render(&self, placeholders: Placeholders) -> (String, Vec<&Reference>) {
        let (mut text, mut bound) = (String::new(), Vec::new());
        for piece in &self.pieces {
            let reference = match piece {
                Piece::Text(part) => {
                    text.push_str(part);
                    continue;
                }
                Piece::Value(reference) => reference,
            };
            bound.push(reference);
            match placeholders {
                Placeholders::Question => text.push_str(&format!("?{}", bound.len())),
                Placeholders::Dollar => text.push_str(&format!("${}", bound.len())),
                Placeholders::Bare => text.push('?'),
            }
        }
        (text, bound)
    }

    /// What it refers to.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        references(&self.pieces)
    }
}

/// An argument of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// What it is made of.
    pub pieces: Vec<Piece>,
}

impl Argument {
    /// The argument with its values: always one, whatever they hold.
    ///
    /// # Errors
    /// A value is not known here, or cannot be in an argument.
    pub fn with(&self, values: &Values<'_>) -> Result<String, BindError> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Value(reference) => text.push_str(&text_of(reference, values)?),
            }
        }
        Ok(text)
    }

    /// What it refers to.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        references(&self.pieces)
    }
}

fn references(pieces: &[Piece]) -> impl Iterator<Item = &Reference> {
    pieces.iter().filter_map(|piece| match piece {
        Piece::Value(reference) => Some(reference),
        Piece::Text(_) => None,
    })
}

/// A value as text that a command or a name can hold.
pub(crate) fn text_of(reference: &Reference, values: &Values<'_>) -> Result<String, BindError> {
    let value =
        values(reference).ok_or_else(|| BindError::Unknown { reference: reference.clone() })?;
    let text = value.to_text().filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| BindError::NotText { reference: reference.clone() })?;
    Ok(text.into_owned())
}

/// Why a value cannot be put where a file refers to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// There is no such value now: the record has no such field.
    #[error("${{{reference}}} has no value here: the record has no such field")]
    Unknown {
        /// What was referred to.
        reference: Reference,
    },
    /// It is bytes, or has a zero byte.
    #[error("${{{reference}}} is not text, and cannot stand in an argument or a name")]
    NotText {
        /// What was referred to.
        reference: Reference,
    },
}
