//! A piece of a table on its way into a batch: rows, and the keys by which they are known.

use std::sync::Arc;

use piton_core::StoredPosition;
use rusqlite::{Row, Statement, types::ValueRef};

use super::{
    cursor::{Cursor, position},
    position::{KeyRef, KeyValue},
    table::Affinity,
};
use crate::{
    batch::{Batch, Column, ColumnType, Marks, Origin, Schema, Span, Value},
    kept,
    shape::Shape,
    source::BadRecord,
};

/// A piece ends when it has this many bytes, whatever was asked for.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// What a statement gave.
pub(super) enum Taken {
    /// Rows.
    Batch(Batch),
    /// The next row cannot be read; those after it can.
    Bad(BadRecord),
    /// The key cannot serve: what is wrong with it.
    Broken(String),
    /// No more rows.
    Nothing,
}

/// Fills a batch with rows.
pub(super) struct Page<'c> {
    cursor: &'c Cursor,
    batch: Batch,
    keys: Keys,
    /// The row at which it stopped, if that is wrong: it ends the piece, or is all of it.
    stopped: Option<Taken>,
}

impl<'c> Page<'c> {
    /// A piece that begins with this row.
    pub(super) fn new(cursor: &'c Cursor, row: &Row<'_>) -> Self {
        let keys = Keys::none(cursor);
        let begin = position(&cursor.key, Some(&cursor.keyset.shape));
        let schema = schema(row.as_ref(), cursor);
        let batch =
            Batch::new(Arc::clone(&cursor.partition), schema, begin, Arc::new(keys.clone()));
        Self { cursor, batch, keys, stopped: None }
    }

    pub(super) fn rows(&self) -> usize {
        self.batch.rows()
    }

    /// Takes a row. False when there is no room or no sense in another one.
    pub(super) fn take(&mut self, row: &Row<'_>, limit: usize) -> bool {
        let columns = self.batch.schema.columns.len();
        if let Err(what) = self.check_key(row, columns) {
            self.stopped = Some(Taken::Broken(what));
            return false;
        }
        if self.rows() == limit || self.batch.size() >= PAGE_BYTES {
            return false;
        }
        let mark = self.rows() as u64;
        self.batch.begin_row(Origin { mark, line: 0, ordinal: 0 });
        let mut bytes = 0;
        for column in 0..columns {
            let value = row.get_ref(column).unwrap_or(ValueRef::Null);
            bytes += size(value);
            match self.value(value, column) {
                Ok(value) if bytes <= self.cursor.record_limit => self.batch.push(value),
                Ok(_) => return self.stop(row, columns, self.too_large()),
                Err(why) => return self.stop(row, columns, why),
            }
        }
        self.keys.push(row, columns);
        true
    }

    /// What was read.
    pub(super) fn finish(self) -> Taken {
        let Self { mut batch, keys, stopped, .. } = self;
        if batch.rows() == 0 {
            return stopped.unwrap_or(Taken::Nothing);
        }
        // Keys that are not in order or not unique say that rows before them may have been missed.
        if let Some(broken @ Taken::Broken(_)) = stopped {
            return broken;
        }
        batch.end = keys.after(batch.rows());
        batch.records = batch.rows() as u64;
        batch.marks = Arc::new(keys);
        Taken::Batch(batch)
    }

    fn value<'v>(&self, value: ValueRef<'v>, column: usize) -> Result<Value<'v>, String> {
        Ok(match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(i) => Value::Int(i),
            ValueRef::Real(x) => Value::Float(x),
            ValueRef::Blob(bytes) => Value::Bytes(bytes),
            ValueRef::Text(text) => Value::Text(std::str::from_utf8(text).map_err(|_| {
                let name = &self.batch.schema.columns[column].name;
                let seen: String = String::from_utf8_lossy(text).chars().take(80).collect();
                format!("column '{name}': its text is not UTF-8: '{seen}'")
            })?),
        })
    }

    fn too_large(&self) -> String {
        format!("the row has more bytes than `limits: record`, {}", self.cursor.record_limit)
    }

    /// Ends the piece before a row that cannot be read.
    fn stop(&mut self, row: &Row<'_>, columns: usize, reason: String) -> bool {
        self.batch.pop_row();
        let key: Result<Vec<KeyValue>, _> =
            (0..self.cursor.names.len()).map(|i| key_value(row, columns + i)).collect();
        self.stopped = Some(match key {
            Ok(key) => Taken::Bad(self.cursor.bad(&key, reason)),
            Err(why) => Taken::Broken(format!("a key is {why}")),
        });
        false
    }

    /// Finds why a row's key cannot stand after the one before it.
    fn check_key(&self, row: &Row<'_>, columns: usize) -> Result<(), String> {
        let width = self.cursor.names.len();
        let mut is_after = self.rows() == 0 && self.cursor.key.is_empty();
        for part in 0..width {
            let value = row.get_ref(columns + part).unwrap_or(ValueRef::Null);
            let new = KeyRef::of(value).map_err(|why| {
                format!(
                    "its key column '{}' has {why}, which has no place in an order",
                    self.cursor.names[part]
                )
            })?;
            if is_after {
                continue;
            }
            let old = match self.rows() {
                0 => self.cursor.key[part].as_ref(),
                rows => self.keys.get(rows - 1, part),
            };
            if new < old {
                return Err(format!(
                    "its rows do not come in the order of the key ({}): {new} after {old}",
                    self.cursor.names.join(", ")
                ));
            }
            is_after = new > old;
        }
        if is_after {
            return Ok(());
        }
        let last = match self.rows() {
            0 => self.cursor.key.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            rows => self.keys.text(rows - 1),
        };
        Err(format!(
            "two rows have the key ({}) = ({last}), so one of them would be lost. Name columns \
             with `key` that identify a row",
            self.cursor.names.join(", ")
        ))
    }
}

/// A key's value in a row.
pub(super) fn key_value(row: &Row<'_>, column: usize) -> Result<KeyValue, &'static str> {
    KeyRef::of(row.get_ref(column).unwrap_or(ValueRef::Null)).map(KeyRef::to_owned)
}

/// The schema of a statement's records; the known one if it is the same.
fn schema(statement: &Statement<'_>, cursor: &Cursor) -> Arc<Schema> {
    let columns = statement.column_count().saturating_sub(cursor.names.len());
    let columns = statement.columns().take(columns);
    let columns =
        columns.map(|column| Column { name: column.name().into(), kind: kind(column.decl_type()) });
    let schema = Schema { columns: columns.collect() };
    if *cursor.schema == schema { Arc::clone(&cursor.schema) } else { Arc::new(schema) }
}

/// What a column holds by its declared type, where that says enough.
fn kind(declared: Option<&str>) -> ColumnType {
    match declared {
        None | Some("") => ColumnType::Unknown,
        Some(declared) => match Affinity::of(declared) {
            Affinity::Text => ColumnType::Text,
            Affinity::Integer => ColumnType::Integer,
            Affinity::Real => ColumnType::Float,
            Affinity::None => ColumnType::Bytes,
            Affinity::Numeric => ColumnType::Unknown,
        },
    }
}

fn size(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 8,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
    }
}

/// The keys of a batch's rows, in one buffer.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    names: Arc<[String]>,
    place: Arc<str>,
    /// The key before the first row.
    before: Vec<KeyValue>,
    shape: Shape,
    cells: Vec<KeyCell>,
    text: String,
    blobs: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum KeyCell {
    Integer(i64),
    Real(f64),
    Text(Span),
    Blob(Span),
}

impl Keys {
    fn none(cursor: &Cursor) -> Self {
        Self {
            names: Arc::clone(&cursor.names),
            place: Arc::clone(&cursor.place),
            before: cursor.key.clone(),
            shape: cursor.keyset.shape.clone(),
            cells: Vec::new(),
            text: String::new(),
            blobs: Vec::new(),
        }
    }

    /// The keys of a single row.
    pub(super) fn of_one(cursor: &Cursor, key: &[KeyValue]) -> Self {
        let mut keys = Self::none(cursor);
        for value in key {
            keys.keep(value.as_ref());
        }
        keys
    }

    fn push(&mut self, row: &Row<'_>, columns: usize) {
        for part in 0..self.names.len() {
            // Checked before it was taken.
            if let Ok(value) = KeyRef::of(row.get_ref(columns + part).unwrap_or(ValueRef::Null)) {
                self.keep(value);
            }
        }
    }

    fn keep(&mut self, value: KeyRef<'_>) {
        let span = |start: usize, len: usize| Span { start: start as u32, len: len as u32 };
        self.cells.push(match value {
            KeyRef::Integer(i) => KeyCell::Integer(i),
            KeyRef::Real(x) => KeyCell::Real(x),
            KeyRef::Text(text) => {
                self.text.push_str(text);
                KeyCell::Text(span(self.text.len() - text.len(), text.len()))
            }
            KeyRef::Blob(bytes) => {
                self.blobs.extend_from_slice(bytes);
                KeyCell::Blob(span(self.blobs.len() - bytes.len(), bytes.len()))
            }
        });
    }

    fn get(&self, row: usize, part: usize) -> KeyRef<'_> {
        let range = |span: Span| span.start as usize..(span.start + span.len) as usize;
        match self.cells[row * self.names.len() + part] {
            KeyCell::Integer(i) => KeyRef::Integer(i),
            KeyCell::Real(x) => KeyRef::Real(x),
            KeyCell::Text(span) => KeyRef::Text(&self.text[range(span)]),
            KeyCell::Blob(span) => KeyRef::Blob(&self.blobs[range(span)]),
        }
    }

    /// The position after so many rows.
    fn after(&self, rows: usize) -> StoredPosition {
        match rows {
            0 => position(&self.before, Some(&self.shape)),
            rows => {
                let key = (0..self.names.len()).map(|part| self.get(rows - 1, part).to_owned());
                position(&key.collect::<Vec<_>>(), Some(&self.shape))
            }
        }
    }

    /// The key of a row as it stands in its id.
    pub(super) fn text(&self, row: usize) -> String {
        let mut out = String::new();
        self.write(row, &mut out);
        out
    }

    /// Where a person finds a row.
    pub(super) fn describe(&self, row: usize) -> String {
        format!("{}, ({}) = ({})", self.place, self.names.join(", "), self.text(row))
    }

    fn write(&self, row: usize, out: &mut String) {
        use std::fmt::Write as _;

        for part in 0..self.names.len() {
            let comma = if part > 0 { "," } else { "" };
            let _ = write!(out, "{comma}{}", self.get(row, part));
        }
    }
}

impl Marks for Keys {
    fn resume_at(&self, origin: Origin) -> StoredPosition {
        self.after(origin.mark as usize)
    }

    fn write_id(&self, origin: Origin, out: &mut String) {
        self.write(origin.mark as usize, out);
    }

    fn place(&self, origin: Origin) -> String {
        self.describe(origin.mark as usize)
    }
}

impl Cursor {
    /// A row as a dead letter kept it, for one that is gone.
    pub(super) fn rebuild(
        &self,
        kept: &serde_json::Map<String, serde_json::Value>,
        key: &[KeyValue],
    ) -> Batch {
        let marks = Arc::new(Keys::of_one(self, key));
        let end = position(key, Some(&self.keyset.shape));
        kept::batch(Arc::clone(&self.partition), kept, end, marks)
    }
}
