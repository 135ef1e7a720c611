//! JSON lines: one object per line; blank lines are passed over.

use std::sync::Arc;

use super::{
    json::{self, Columns},
    record::{Cut, Flaw, not_utf8, origin},
    window::{Ends, Line, Window},
};
use crate::{
    batch::{Batch, Cell, Schema},
    source::SourceError,
};

/// Cuts records out of a window.
pub(super) struct Jsonl {
    columns: Columns,
    cells: Vec<Cell>,
    limit: usize,
}

impl Jsonl {
    pub(super) fn new(limit: usize) -> Self {
        Self { columns: Columns::new(), cells: Vec::new(), limit }
    }

    /// The schema to begin a batch with.
    pub(super) fn begin(&mut self) -> Arc<Schema> {
        self.columns.begin()
    }

    /// The schema with the columns that came with the batch.
    pub(super) fn schema(&mut self) -> Arc<Schema> {
        self.columns.schema()
    }

    /// Appends the next record to the batch.
    pub(super) fn cut(
        &mut self,
        window: &mut Window,
        batch: &mut Batch,
    ) -> Result<Cut, SourceError> {
        loop {
            let (length, lines) = match window.next_line(Ends::Newline)? {
                Line::Ended(length) => (length, 1),
                Line::Open(length) if !window.is_growing() => (length, 0),
                Line::Open(_) | Line::Nothing => return Ok(Cut::End),
                Line::Long => {
                    return Ok(Cut::Bad(Box::new(Flaw::too_long(window, self.limit, ""))));
                }
            };
            let line = window.bytes()[..length].trim_ascii();
            if line.is_empty() {
                window.consume(length, lines);
                continue;
            }
            return match self.append(line, batch) {
                Ok(()) => {
                    batch.begin_row(origin(window));
                    self.cells.iter().for_each(|cell| batch.push_cell(*cell));
                    window.consume(length, lines);
                    Ok(Cut::Record)
                }
                Err((within, reason)) => {
                    let flaw = Flaw::new(window, (length, lines), reason).within(within);
                    Ok(Cut::Bad(Box::new(flaw)))
                }
            };
        }
    }

    fn append(&mut self, line: &[u8], batch: &mut Batch) -> Result<(), (String, String)> {
        let text = std::str::from_utf8(line).map_err(|e| (String::new(), not_utf8(line, e)))?;
        json::object(text, &mut self.columns, &mut self.cells, batch).map_err(|wrong| {
            let within = match wrong.column {
                0 => String::new(),
                column => format!("column {column}"),
            };
            (within, wrong.reason)
        })
    }
}
