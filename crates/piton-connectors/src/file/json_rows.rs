//! Rows as JSON lines.

use std::{io, sync::Arc};

use super::json::put_on_one_line;
use crate::batch::{Batch, Cell, Schema, write_json_value};

/// Writes rows as JSON, one line each. The names of the columns are turned into JSON once per
/// schema, not once per row.
#[derive(Default)]
pub(crate) struct JsonRows {
    schema: Option<Arc<Schema>>,
    /// `,"name":` of each column, one after the other.
    names: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl JsonRows {
    /// Appends a row as one line. Absent fields are left out.
    ///
    /// # Errors
    /// None in practice: `serde_json` reports what writing to memory cannot fail with.
    pub(crate) fn write(&mut self, batch: &Batch, row: usize, out: &mut Vec<u8>) -> io::Result<()> {
        if !self.schema.as_ref().is_some_and(|schema| Arc::ptr_eq(schema, &batch.schema)) {
            self.prepare(&batch.schema)?;
        }
        let begin = out.len();
        let mut name = 0;
        for (end, cell) in self.ends.iter().zip(batch.row(row)) {
            let name = std::mem::replace(&mut name, *end)..*end;
            if *cell != Cell::Absent {
                out.extend_from_slice(&self.names[name]);
                write_cell(batch, *cell, out)?;
            }
        }
        match out.get_mut(begin) {
            Some(comma) => *comma = b'{',
            None => out.push(b'{'),
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn prepare(&mut self, schema: &Arc<Schema>) -> io::Result<()> {
        self.names.clear();
        self.ends.clear();
        for column in &schema.columns {
            self.names.push(b',');
            serde_json::to_writer(&mut self.names, &*column.name)?;
            self.names.push(b':');
            self.ends.push(self.names.len());
        }
        self.schema = Some(Arc::clone(schema));
        Ok(())
    }
}

fn write_cell(batch: &Batch, cell: Cell, out: &mut Vec<u8>) -> io::Result<()> {
    match cell {
        Cell::Text(span) => {
            let text = batch.span(span);
            if needs_escape(text) {
                return write_json_value(batch.value(cell), out);
            }
            out.push(b'"');
            out.extend_from_slice(text);
            out.push(b'"');
        }
        Cell::Json(span) => put_on_one_line(batch.span(span), out),
        Cell::Int(int) => out.extend_from_slice(itoa::Buffer::new().format(int).as_bytes()),
        other => write_json_value(batch.value(other), out)?,
    }
    Ok(())
}

/// Whether JSON writes a text otherwise than it stands.
fn needs_escape(text: &[u8]) -> bool {
    text.iter().any(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\'))
}
