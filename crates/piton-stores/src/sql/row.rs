//! What a statement finds.

use jiff::Timestamp;
use piton_core::checksum::Checksum;

use super::trouble::{Result, Trouble};

/// A row, by the places of its columns.
#[derive(Debug)]
pub(crate) struct Row(pub(crate) Vec<Cell>);

/// One column of a row.
#[derive(Debug, Default)]
pub(crate) enum Cell {
    #[default]
    Null,
    Integer(i64),
    Text(String),
}

impl Row {
    /// Takes a text out of the row.
    pub(crate) fn text(&mut self, column: usize) -> Result<String> {
        match self.take(column) {
            Cell::Text(text) => Ok(text),
            other => Err(unexpected(column, &other)),
        }
    }

    /// Takes a text that may be NULL out of the row.
    pub(crate) fn maybe_text(&mut self, column: usize) -> Result<Option<String>> {
        match self.take(column) {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            other @ Cell::Integer(_) => Err(unexpected(column, &other)),
        }
    }

    pub(crate) fn integer(&mut self, column: usize) -> Result<i64> {
        match self.take(column) {
            Cell::Integer(number) => Ok(number),
            other => Err(unexpected(column, &other)),
        }
    }

    /// An unsigned number, kept as a signed one, bit for bit.
    pub(crate) fn number(&mut self, column: usize) -> Result<u64> {
        self.integer(column).map(|number| number as u64)
    }

    pub(crate) fn checksum(&mut self, column: usize) -> Result<Checksum> {
        self.integer(column).map(Checksum)
    }

    #[cfg(feature = "mysql")]
    pub(crate) fn maybe_integer(&mut self, column: usize) -> Result<Option<i64>> {
        Ok(self.maybe_checksum(column)?.map(|Checksum(number)| number))
    }

    pub(crate) fn maybe_checksum(&mut self, column: usize) -> Result<Option<Checksum>> {
        match self.take(column) {
            Cell::Null => Ok(None),
            Cell::Integer(number) => Ok(Some(Checksum(number))),
            other @ Cell::Text(_) => Err(unexpected(column, &other)),
        }
    }

    pub(crate) fn time(&mut self, column: usize) -> Result<Timestamp> {
        let text = self.text(column)?;
        text.parse().map_err(|_| Trouble::Damage(format!("'{text}' is not a time")))
    }

    pub(crate) fn maybe_time(&mut self, column: usize) -> Result<Option<Timestamp>> {
        match self.maybe_text(column)? {
            Some(text) => match text.parse() {
                Ok(time) => Ok(Some(time)),
                Err(_) => Err(Trouble::Damage(format!("'{text}' is not a time"))),
            },
            None => Ok(None),
        }
    }

    /// A word at rest.
    pub(crate) fn word<T>(
        &mut self,
        column: usize,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let word = self.text(column)?;
        parse(&word).ok_or_else(|| no_word(&word))
    }

    pub(crate) fn maybe_word<T>(
        &mut self,
        column: usize,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.maybe_text(column)? {
            Some(word) => parse(&word).map(Some).ok_or_else(|| no_word(&word)),
            None => Ok(None),
        }
    }

    fn take(&mut self, column: usize) -> Cell {
        self.0.get_mut(column).map(std::mem::take).unwrap_or_default()
    }
}

fn unexpected(column: usize, found: &Cell) -> Trouble {
    let what = match found {
        Cell::Null => "NULL",
        Cell::Integer(_) => "a number",
        Cell::Text(_) => "a text",
    };
    Trouble::Damage(format!("column {} of a row is {what}, which it cannot be", column + 1))
}

fn no_word(word: &str) -> Trouble {
    Trouble::Damage(format!("'{word}' is no word that this format has"))
}
