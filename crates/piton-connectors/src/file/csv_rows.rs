//! Rows as CSV, in columns that are fixed by the first rows.

use std::{io, sync::Arc};

use crate::batch::{Batch, Cell, Schema, endless, write_json_value};

/// Writes rows as CSV. Null and absent are empty fields, as in every CSV file: read back they are
/// an empty text, or null where the reader's settings say so.
pub(super) struct CsvRows {
    delimiter: u8,
    columns: Option<Vec<Arc<str>>>,
    /// The schema that `places` was made for.
    schema: Option<Arc<Schema>>,
    /// For each column of the file, its place in the schema.
    places: Vec<Option<usize>>,
    /// The columns of the schema that the file has not.
    unknown: Vec<usize>,
    scratch: Vec<u8>,
}

impl CsvRows {
    /// With the columns of a file that has been begun, or those of the first rows to come.
    pub(super) fn new(delimiter: u8, columns: Option<Vec<Arc<str>>>) -> Self {
        Self {
            delimiter,
            columns,
            schema: None,
            places: Vec::new(),
            unknown: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// The columns, once there are any.
    pub(super) fn columns(&self) -> Option<&[Arc<str>]> {
        self.columns.as_deref()
    }

    /// Takes the columns of a schema if there are none yet. Returns whether it did.
    pub(super) fn settle(&mut self, schema: &Schema) -> bool {
        if self.columns.is_some() {
            return false;
        }
        self.columns = Some(schema.columns.iter().map(|column| Arc::clone(&column.name)).collect());
        true
    }

    /// Appends the header.
    pub(super) fn write_header(&mut self, out: &mut Vec<u8>) {
        let columns = self.columns.as_deref().unwrap_or_default();
        for (at, name) in columns.iter().enumerate() {
            if at > 0 {
                out.push(self.delimiter);
            }
            write_field(name.as_bytes(), self.delimiter, out);
        }
        end_line(columns.len(), out);
    }

    /// Appends a row. Gives the reason if it has a field that is not among the columns.
    pub(super) fn write(
        &mut self,
        batch: &Batch,
        row: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<Result<(), String>> {
        if !self.schema.as_ref().is_some_and(|schema| Arc::ptr_eq(schema, &batch.schema)) {
            self.prepare(&batch.schema);
        }
        let cells = batch.row(row);
        let has = |at: &&usize| !matches!(cells.get(**at), None | Some(Cell::Absent));
        if let Some(at) = self.unknown.iter().find(has) {
            return Ok(Err(self.misfit(&batch.schema.columns[*at].name)));
        }
        let begin = out.len();
        for (at, place) in self.places.iter().enumerate() {
            if at > 0 {
                out.push(self.delimiter);
            }
            let cell = place.and_then(|place| cells.get(place));
            write_cell(
                batch,
                *cell.unwrap_or(&Cell::Absent),
                self.delimiter,
                &mut self.scratch,
                out,
            )?;
        }
        end_line(out.len() - begin, out);
        Ok(Ok(()))
    }

    fn prepare(&mut self, schema: &Arc<Schema>) {
        let columns = self.columns.as_deref().unwrap_or_default();
        self.places = columns.iter().map(|name| schema.index_of(name)).collect();
        let known = |at: &usize| self.places.contains(&Some(*at));
        self.unknown = (0..schema.columns.len()).filter(|at| !known(at)).collect();
        self.schema = Some(Arc::clone(schema));
    }

    fn misfit(&self, name: &str) -> String {
        let columns: Vec<&str> =
            self.columns.as_deref().unwrap_or_default().iter().map(|name| &**name).collect();
        format!(
            "the field '{name}' is not among the columns of the CSV file, which its first records \
             settled: {}. Settle them with a `select`, or write jsonl",
            columns.join(", ")
        )
    }
}

/// Ends a line. One that is empty would be no record: a lone empty field is quoted.
fn end_line(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(if length == 0 { b"\"\"\n" } else { b"\n" });
}

fn write_cell(
    batch: &Batch,
    cell: Cell,
    delimiter: u8,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    match cell {
        Cell::Absent | Cell::Null => {}
        Cell::Text(span) | Cell::Json(span) | Cell::Number(span) => {
            write_field(batch.span(span), delimiter, out);
        }
        Cell::Int(int) => out.extend_from_slice(itoa::Buffer::new().format(int).as_bytes()),
        Cell::Float(x) if !x.is_finite() => {
            out.extend_from_slice(endless(x).unwrap_or_default().as_bytes());
        }
        Cell::Bool(_) | Cell::Float(_) => write_json_value(batch.value(cell), out)?,
        Cell::Bytes(_) => {
            scratch.clear();
            write_json_value(batch.value(cell), scratch)?;
            // JSON quotes it and doubles its backslash; CSV needs neither.
            out.push(b'\\');
            out.extend_from_slice(scratch.get(3..scratch.len() - 1).unwrap_or_default());
        }
    }
    Ok(())
}

fn write_field(text: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b'"' | b'\n' | b'\r') || *byte == delimiter;
    if !text.iter().any(special) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}
