//! Records on their way: one schema, one buffer, offsets into it.
//!
//! A batch holds the records that one read gave. Text lies in a single buffer and values borrow
//! from it, so that a record costs no allocation between source and sink. Maps and JSON trees are
//! for edges only ([`Batch::write_json`]).

use std::{fmt, io, ops::Range, sync::Arc};

use piton_core::StoredPosition;

/// A value of a record, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// The record has no such field.
    Absent,
    /// The field is there and null.
    Null,
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// A binary floating-point number.
    Float(f64),
    /// An exact number that neither `i64` nor `f64` holds, as decimal text.
    Number(&'a str),
    /// Text.
    Text(&'a str),
    /// Raw bytes.
    Bytes(&'a [u8]),
    /// An object or array, as JSON text.
    Json(&'a str),
}

/// A value at rest in a batch: 16 bytes, text by its place in the buffer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell {
    /// See [`Value::Absent`].
    Absent,
    /// See [`Value::Null`].
    Null,
    /// See [`Value::Bool`].
    Bool(bool),
    /// See [`Value::Int`].
    Int(i64),
    /// See [`Value::Float`].
    Float(f64),
    /// See [`Value::Number`].
    Number(Span),
    /// See [`Value::Text`]. The bytes were checked to be UTF-8 when they were put in.
    Text(Span),
    /// See [`Value::Bytes`].
    Bytes(Span),
    /// See [`Value::Json`].
    Json(Span),
}

/// A place in a batch's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// How many bytes.
    pub len: u32,
}

/// What a column holds, as far as the source knows. Used to create tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColumnType {
    /// Nothing is known; values speak for themselves.
    #[default]
    Unknown,
    /// Text.
    Text,
    /// Integers.
    Integer,
    /// Floating-point numbers.
    Float,
    /// Exact decimal numbers.
    Number,
    /// True or false.
    Boolean,
    /// Raw bytes.
    Bytes,
    /// Objects and arrays.
    Json,
    /// Points in time, as text that says their zone.
    Timestamp,
    /// A type that SQL has a name for, so that a table can be made with it: `uuid`, `date`,
    /// `integer[]`. Its values are text, those of arrays JSON.
    Named(&'static str),
}

/// A column of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: ColumnType,
}

/// The columns of a batch, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema {
    /// The columns.
    pub columns: Vec<Column>,
}

impl Schema {
    /// A schema of columns of which only the names are known.
    pub fn named<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        let column = |name: S| Column { name: Arc::from(name.as_ref()), kind: ColumnType::Unknown };
        Self { columns: names.into_iter().map(column).collect() }
    }

    /// The index of a column.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }
}

/// Where one row came from, in the small form of the hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// What the source makes of it: a byte offset, an index into the batch's keys ([`Marks`]).
    pub mark: u64,
    /// The line in a file, or 0.
    pub line: u64,
    /// Counts the outputs of one record, where a transform makes several of it.
    pub ordinal: u32,
}

/// Turns a row's mark into what people and stores see. Given by the source with each batch.
pub trait Marks: Send + Sync {
    /// The position at which reading goes on *with* this record: everything before it is covered.
    fn resume_at(&self, origin: Origin) -> StoredPosition;

    /// Appends the record's position within its partition, the part of the stable id that is the
    /// same in every replay.
    fn write_id(&self, origin: Origin, out: &mut String);

    /// Appends the record's whole stable id, but for the ordinal of an output: partition and
    /// position, unless the record brought an id of its own from where it was made.
    fn write_stable_id(&self, partition: &str, origin: Origin, out: &mut String) {
        out.push_str(partition);
        out.push('@');
        self.write_id(origin, out);
    }

    /// Where a person finds the record, for example `flights.csv, line 12`.
    fn place(&self, origin: Origin) -> String;
}

/// The marks of a batch without rows.
struct NoMarks(StoredPosition);

impl Marks for NoMarks {
    fn resume_at(&self, _: Origin) -> StoredPosition {
        self.0.clone()
    }

    fn write_id(&self, _: Origin, _: &mut String) {}

    fn place(&self, _: Origin) -> String {
        String::new()
    }
}

/// Records of one partition, in order.
#[derive(Clone)]
pub struct Batch {
    /// The partition's name.
    pub partition: Arc<str>,
    /// The columns.
    pub schema: Arc<Schema>,
    /// Where reading goes on after this batch. Covers records that a filter dropped, too.
    pub end: StoredPosition,
    /// How many records were read for it, including those that a filter dropped.
    pub records: u64,
    /// How many records of the same read went into batches before this one, where a transform
    /// made several of it.
    pub skipped: u64,
    /// How marks are read.
    pub marks: Arc<dyn Marks>,
    origins: Vec<Origin>,
    /// The how-manieth record of the batch each row came from.
    indexes: Vec<u32>,
    starts: Vec<u32>,
    cells: Vec<Cell>,
    bytes: Vec<u8>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("partition", &self.partition)
            .field("rows", &self.rows())
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Batch {
    /// An empty batch. Its `end` is set by the reader when it is full.
    pub fn new(
        partition: Arc<str>,
        schema: Arc<Schema>,
        end: StoredPosition,
        marks: Arc<dyn Marks>,
    ) -> Self {
        Self {
            partition,
            schema,
            end,
            records: 0,
            skipped: 0,
            marks,
            origins: Vec::new(),
            indexes: Vec::new(),
            starts: Vec::new(),
            cells: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// A batch without rows or columns, which only carries a position forward.
    pub fn empty(partition: Arc<str>, end: StoredPosition) -> Self {
        let marks = Arc::new(NoMarks(end.clone()));
        Self::new(partition, Arc::default(), end, marks)
    }

    /// Whether nothing was read for it: it only says where a source begins, to be kept at once.
    pub fn is_a_beginning(&self) -> bool {
        self.records == 0 && self.origins.is_empty()
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.origins.len()
    }

    /// How many bytes of text and cells it holds: what `limits: memory` counts.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.cells.len() * size_of::<Cell>() + self.origins.len() * 32
    }

    /// Begins a row; its cells follow with [`push`](Self::push). A row may have fewer cells than
    /// the schema has columns: the rest is absent.
    pub fn begin_row(&mut self, origin: Origin) {
        self.indexes.push(self.origins.len() as u32);
        self.starts.push(self.cells.len() as u32);
        self.origins.push(origin);
    }

    /// Begins a row that a transform makes of another batch's row: the n-th of that record.
    pub fn begin_row_from(&mut self, of: &Self, row: usize, ordinal: u32) {
        self.indexes.push(of.indexes[row]);
        self.starts.push(self.cells.len() as u32);
        self.origins.push(Origin { ordinal, ..of.origins[row] });
    }

    /// Appends a cell to the row that was begun last.
    pub fn push(&mut self, value: Value<'_>) {
        let cell = self.keep(value);
        self.cells.push(cell);
    }

    /// Appends a cell whose text was put into the buffer before ([`put`](Self::put)).
    pub fn push_cell(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    /// Copies bytes into the buffer.
    pub fn put(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }

    /// Sets the cell of a row, making room if the row was shorter.
    pub fn set(&mut self, row: usize, column: usize, value: Value<'_>) {
        let cell = self.keep(value);
        let range = self.cells_of(row);
        if column < range.len() {
            self.cells[range.start + column] = cell;
            return;
        }
        // A short row grows at the end of the cells, so that no other row moves.
        let mut grown: Vec<Cell> = self.cells[range].to_vec();
        grown.resize(column, Cell::Absent);
        grown.push(cell);
        if row + 1 == self.rows() {
            self.cells.truncate(self.starts[row] as usize);
            self.cells.extend(grown);
        } else {
            self.regrow(row, &grown);
        }
    }

    fn regrow(&mut self, row: usize, grown: &[Cell]) {
        let old = self.cells_of(row);
        let more = (grown.len() - old.len()) as u32;
        self.cells.splice(old, grown.iter().copied());
        for start in &mut self.starts[row + 1..] {
            *start += more;
        }
    }

    /// Removes the row that was begun last.
    pub fn pop_row(&mut self) {
        if let Some(start) = self.starts.pop() {
            self.cells.truncate(start as usize);
            self.origins.pop();
            self.indexes.pop();
        }
    }

    /// The value of a row's column.
    pub fn get(&self, row: usize, column: usize) -> Value<'_> {
        let range = self.cells_of(row);
        match self.cells.get(range.start + column) {
            Some(cell) if column < range.len() => self.value(*cell),
            _ => Value::Absent,
        }
    }

    /// The cells of a row; shorter than the schema if the last columns are absent.
    pub fn row(&self, row: usize) -> &[Cell] {
        &self.cells[self.cells_of(row)]
    }

    /// What a cell of this batch holds.
    pub fn value(&self, cell: Cell) -> Value<'_> {
        match cell {
            Cell::Absent => Value::Absent,
            Cell::Null => Value::Null,
            Cell::Bool(b) => Value::Bool(b),
            Cell::Int(i) => Value::Int(i),
            Cell::Float(x) => Value::Float(x),
            Cell::Number(s) => Value::Number(self.text(s)),
            Cell::Text(s) => Value::Text(self.text(s)),
            Cell::Bytes(s) => Value::Bytes(self.span(s)),
            Cell::Json(s) => Value::Json(self.text(s)),
        }
    }

    /// The bytes of a span. Text cells lie here as UTF-8.
    pub fn span(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes.get(start..start + span.len as usize).unwrap_or_default()
    }

    fn text(&self, span: Span) -> &str {
        // Checked when it was put in; checking again is cheap and keeps this crate free of unsafe.
        std::str::from_utf8(self.span(span)).unwrap_or_default()
    }

    /// Where a row came from.
    pub fn origin(&self, row: usize) -> Origin {
        self.origins[row]
    }

    /// How many of the batch's records were read before this row's.
    pub fn records_before(&self, row: usize) -> u64 {
        let before = |index: &u32| u64::from(*index).saturating_sub(self.skipped);
        self.indexes.get(row).map_or(self.records, before)
    }

    /// Keeps the rows before `row`, which are all that is covered up to `end`.
    pub fn cut(&mut self, row: usize, end: StoredPosition) {
        if let Some(start) = self.starts.get(row) {
            self.cells.truncate(*start as usize);
            self.starts.truncate(row);
            self.origins.truncate(row);
            self.indexes.truncate(row);
        }
        self.end = end;
    }

    /// The first row that came from the same record as this one.
    pub fn first_of_record(&self, row: usize) -> usize {
        let of = self.indexes[row];
        self.indexes[..row].iter().rposition(|index| *index != of).map_or(0, |before| before + 1)
    }

    /// The position at which reading goes on with this row's record.
    pub fn resume_at(&self, row: usize) -> StoredPosition {
        self.marks.resume_at(self.origins[row])
    }

    /// Appends the stable id of a row: partition and position, or the record's own, and, where one
    /// record gave several rows, the ordinal. The same in every replay.
    pub fn write_id(&self, row: usize, out: &mut String) {
        use fmt::Write as _;
        let origin = self.origins[row];
        self.marks.write_stable_id(&self.partition, origin, out);
        if origin.ordinal > 0 {
            let _ = write!(out, "+{}", origin.ordinal);
        }
    }

    /// The stable id of a row.
    pub fn id(&self, row: usize) -> String {
        let mut id = String::new();
        self.write_id(row, &mut id);
        id
    }

    /// Where a person finds the record of a row.
    pub fn place(&self, row: usize) -> String {
        self.marks.place(self.origins[row])
    }

    /// Keeps the rows for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&Self, usize) -> bool) {
        let kept: Vec<usize> = (0..self.rows()).filter(|row| keep(self, *row)).collect();
        if kept.len() == self.rows() {
            return;
        }
        let mut cells = Vec::with_capacity(self.cells.len());
        let mut starts = Vec::with_capacity(kept.len());
        for &row in &kept {
            starts.push(cells.len() as u32);
            cells.extend_from_slice(self.row(row));
        }
        self.origins = kept.iter().map(|row| self.origins[*row]).collect();
        self.indexes = kept.iter().map(|row| self.indexes[*row]).collect();
        (self.cells, self.starts) = (cells, starts);
    }

    /// Appends a row as one JSON object, without a line end. Absent fields are left out.
    ///
    /// # Errors
    /// None in practice: `serde_json` reports what writing to memory cannot fail with.
    pub fn write_json(&self, row: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.push(b'{');
        let mut first = true;
        for (column, cell) in self.schema.columns.iter().zip(self.row(row)) {
            let value = self.value(*cell);
            if value == Value::Absent {
                continue;
            }
            if !first {
                out.push(b',');
            }
            first = false;
            serde_json::to_writer(&mut *out, &*column.name)?;
            out.push(b':');
            write_json_value(value, out)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn keep(&mut self, value: Value<'_>) -> Cell {
        match value {
            Value::Absent => Cell::Absent,
            Value::Null => Cell::Null,
            Value::Bool(b) => Cell::Bool(b),
            Value::Int(i) => Cell::Int(i),
            Value::Float(x) => Cell::Float(x),
            Value::Number(s) => Cell::Number(self.put(s.as_bytes())),
            Value::Text(s) => Cell::Text(self.put(s.as_bytes())),
            Value::Bytes(b) => Cell::Bytes(self.put(b)),
            Value::Json(s) => Cell::Json(self.put(s.as_bytes())),
        }
    }

    fn cells_of(&self, row: usize) -> Range<usize> {
        let start = self.starts[row] as usize;
        let end = self.starts.get(row + 1).map_or(self.cells.len(), |next| *next as usize);
        start..end
    }
}

/// The word for a number that is none, or beyond all others; `None` for an ordinary one.
pub(crate) fn endless(x: f64) -> Option<&'static str> {
    match x {
        _ if x.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

/// Appends one value as JSON. Bytes become hexadecimal text after `\x`, as PostgreSQL writes them;
/// NaN and infinities, for which JSON has no number, become text as PostgreSQL writes them.
///
/// # Errors
/// None in practice, see [`Batch::write_json`].
pub fn write_json_value(value: Value<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    match value {
        Value::Absent | Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if b { b"true" } else { b"false" }),
        Value::Int(i) => serde_json::to_writer(&mut *out, &i)?,
        Value::Float(x) => match endless(x) {
            Some(word) => serde_json::to_writer(&mut *out, word)?,
            None => serde_json::to_writer(&mut *out, &x)?,
        },
        Value::Number(text) | Value::Json(text) => out.extend_from_slice(text.as_bytes()),
        Value::Text(text) => serde_json::to_writer(&mut *out, text)?,
        Value::Bytes(bytes) => {
            out.extend_from_slice(b"\"\\\\x");
            for byte in bytes {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            out.push(b'"');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbers;

    impl Marks for Numbers {
        fn resume_at(&self, origin: Origin) -> StoredPosition {
            StoredPosition { kind: "number".into(), json: origin.mark.to_string() }
        }

        fn write_id(&self, origin: Origin, out: &mut String) {
            out.push_str(&origin.mark.to_string());
        }

        fn place(&self, origin: Origin) -> String {
            format!("record {}", origin.mark)
        }
    }

    fn batch() -> Batch {
        let end = StoredPosition { kind: "number".into(), json: "3".into() };
        let schema = Arc::new(Schema::named(["id", "name"]));
        let mut batch = Batch::new("a.csv".into(), schema, end, Arc::new(Numbers));
        for mark in 0..3 {
            batch.begin_row(Origin { mark, line: mark + 1, ordinal: 0 });
            batch.push(Value::Int(mark as i64));
            batch.push(Value::Text("x\"y"));
        }
        batch
    }

    fn json(batch: &Batch, row: usize) -> String {
        let mut out = Vec::new();
        batch.write_json(row, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rows_are_kept_and_written() {
        let mut batch = batch();
        batch.retain(|batch, row| batch.get(row, 0) != Value::Int(1));
        assert_eq!(batch.rows(), 2);
        assert_eq!(json(&batch, 1), r#"{"id":2,"name":"x\"y"}"#);
        assert_eq!(batch.id(1), "a.csv@2");
    }

    #[test]
    fn short_rows_grow_without_moving_others() {
        let mut batch = batch();
        batch.set(0, 3, Value::Bool(true));
        batch.set(2, 1, Value::Null);
        assert_eq!(batch.get(0, 2), Value::Absent);
        assert_eq!(batch.get(0, 3), Value::Bool(true));
        assert_eq!(batch.get(1, 0), Value::Int(1));
        assert_eq!(json(&batch, 2), r#"{"id":2,"name":null}"#);
    }
}
