//! `flatten`: spreads an object over columns, and a list over records.
//!
//! | the field holds | what becomes of the record |
//! |---|---|
//! | an object | one record, with columns `field_name` after the others for the object's fields |
//! | a list | one record for each item; an item that is an object is spread as above |
//! | an empty list | no record |
//! | anything else, or nothing | the record as it is |
//!
//! One level is spread; what lies deeper stays JSON and can be flattened by its new name. Text that
//! is such JSON (a CSV field, a text column) counts as such.
//!
//! The rows of one record are numbered ([`Origin::ordinal`](piton_connectors::batch::Origin::ordinal)), and the numbers depend on that record
//! alone: if any of its rows holds a list here, all of its rows are numbered anew, else they keep
//! their numbers.

use std::{borrow::Cow, collections::HashMap, fmt, ops::Range, sync::Arc};

use piton_connectors::batch::{Batch, Cell, Column, ColumnType, Schema, Value};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    About, Outcome, Step, TransformError,
    bad::BadRows,
    copy_cell,
    expression::{Reason, exact_number},
};

/// What one record may become at most, so that none fills the memory: records, columns, values.
const MOST_ITEMS: usize = 100_000;
const MOST_COLUMNS: usize = 1_000;
const MOST_CELLS: usize = 2_000_000;

#[derive(Debug)]
pub(super) struct Flatten {
    field: String,
    prefix: String,
    limit: usize,
    column: Option<usize>,
}

impl Flatten {
    pub(super) fn new(field: &str, separator: &str, limit: usize) -> Self {
        let prefix = format!("{field}{separator}");
        Self { field: field.to_owned(), prefix, limit, column: None }
    }
}

impl Step for Flatten {
    fn bind(&mut self, schema: &Arc<Schema>, about: &About) -> Result<(), TransformError> {
        self.column = about.column(schema, &self.field)?;
        Ok(())
    }

    fn apply(&self, batch: &mut Arc<Batch>, from: usize, bad: &mut BadRows<'_>) -> Outcome {
        let nothing_to_do =
            |column| (0..batch.rows()).all(|row| opening(batch.get(row, column)).is_none());
        let Some(column) = self.column.filter(|column| from > 0 || !nothing_to_do(*column)) else {
            bad.stay();
            return Outcome::Changed;
        };
        let mut spread = Spread::new(self, batch, column);
        let rest = spread.read(from, bad);
        let mut made = spread.write();
        match rest {
            Some(row) => {
                made.end = batch.resume_at(row);
                Outcome::MadeUpTo(made, row)
            }
            None => Outcome::Made(made),
        }
    }
}

/// A row to be made: the input row, and what stands for the field in it.
struct Piece {
    row: usize,
    ordinal: u32,
    /// The field itself, if it was not spread.
    whole: Cell,
    /// The fields of an object: places in `Spread::values`.
    values: Range<usize>,
    /// How many of the new columns it reaches to.
    reach: usize,
}

/// Where an object's field goes.
#[derive(Clone, Copy)]
enum Target {
    /// A column that the record has already, for records that lack it.
    Old(usize),
    /// A column after those, by its number among the new ones.
    New(usize),
}

/// Reads rows into pieces first: only then are the new columns known.
struct Spread<'a> {
    flatten: &'a Flatten,
    batch: &'a Batch,
    column: usize,
    /// Holds the text of the pieces already, and later the rows.
    made: Batch,
    pieces: Vec<Piece>,
    values: Vec<(Target, Cell)>,
    targets: HashMap<String, Target>,
    /// The new columns, each with the first row of the record that used it last.
    columns: Vec<(Arc<str>, usize)>,
    /// How many cells the pieces will have.
    cells: usize,
    /// The record that is being read: its first row, and how many new columns it uses.
    record: (usize, usize),
}

impl<'a> Spread<'a> {
    fn new(flatten: &'a Flatten, batch: &'a Batch, column: usize) -> Self {
        let made = Batch::new(
            Arc::clone(&batch.partition),
            Arc::clone(&batch.schema),
            batch.end.clone(),
            Arc::clone(&batch.marks),
        );
        Self {
            flatten,
            batch,
            column,
            made,
            pieces: Vec::new(),
            values: Vec::new(),
            targets: HashMap::new(),
            columns: Vec::new(),
            cells: 0,
            record: (0, 0),
        }
    }

    /// Reads rows, whole records at a time, until the output is large enough. Returns the first
    /// row that is left.
    fn read(&mut self, from: usize, bad: &mut BadRows<'_>) -> Option<usize> {
        let mut row = from;
        while row < self.batch.rows() {
            let size = self.made.size() + self.cells * size_of::<Cell>();
            let full = size >= self.flatten.limit || self.columns.len() >= MOST_COLUMNS;
            if row > from && full {
                bad.reach(row, self.pieces.len());
                return Some(row);
            }
            row = self.read_record(row, bad);
        }
        bad.finish(self.pieces.len());
        None
    }

    /// Reads the rows of one record and returns the first of the next.
    fn read_record(&mut self, first: usize, bad: &mut BadRows<'_>) -> usize {
        let batch = self.batch;
        let mark = batch.origin(first).mark;
        let next = (first + 1..batch.rows()).find(|row| batch.origin(*row).mark != mark);
        let rows = first..next.unwrap_or(batch.rows());
        let numbers_anew =
            rows.clone().any(|row| opening(batch.get(row, self.column)) == Some(b'['));
        self.record = (first, 0);
        let mut ordinal = 0;
        for row in rows.clone() {
            bad.reach(row, self.pieces.len());
            let (pieces, values, cells) = (self.pieces.len(), self.values.len(), self.cells);
            let columns = self.columns.len();
            let start = if numbers_anew { ordinal } else { batch.origin(row).ordinal };
            if let Err(reason) = self.read_row(row, start) {
                self.pieces.truncate(pieces);
                self.values.truncate(values);
                self.cells = cells;
                self.forget_columns_from(columns);
                bad.refuse(batch, row, pieces, &reason);
            }
            ordinal += (self.pieces.len() - pieces) as u32;
        }
        rows.end
    }

    /// No column is left behind by a record that is not.
    fn forget_columns_from(&mut self, kept: usize) {
        if self.columns.len() > kept {
            self.columns.truncate(kept);
            self.targets.retain(|_, target| !matches!(target, Target::New(n) if *n >= kept));
        }
    }

    fn read_row(&mut self, row: usize, ordinal: u32) -> Result<(), Reason> {
        let value = self.batch.get(row, self.column);
        let (Value::Json(text) | Value::Text(text), Some(_)) = (value, opening(value)) else {
            self.keep(row, ordinal);
            return Ok(());
        };
        match serde_json::from_str::<Shape<'a>>(text.trim_ascii()) {
            Ok(Shape::Object(fields)) => self.object(row, ordinal, fields),
            Ok(Shape::List(items)) => {
                let cells = self.cells;
                for (item, ordinal) in items.into_iter().zip(ordinal..) {
                    self.item(row, ordinal, item)?;
                    if self.cells - cells > MOST_CELLS {
                        return Err(too_many(MOST_CELLS, "values"));
                    }
                }
                Ok(())
            }
            Err(error) if error.is_data() => Err(too_many(MOST_ITEMS, "records")),
            // It only looked like JSON.
            Err(_) => {
                self.keep(row, ordinal);
                Ok(())
            }
        }
    }

    fn keep(&mut self, row: usize, ordinal: u32) {
        let cell = self.batch.row(row).get(self.column).copied().unwrap_or(Cell::Absent);
        let whole = copy_cell(self.batch, cell, &mut self.made);
        self.piece(row, ordinal, whole, self.values.len());
    }

    fn item(&mut self, row: usize, ordinal: u32, item: &'a RawValue) -> Result<(), Reason> {
        let text = item.get();
        if text.starts_with('{')
            && let Ok(Shape::Object(fields)) = serde_json::from_str(text)
        {
            return self.object(row, ordinal, fields);
        }
        let whole = cell_of(text, &mut self.made);
        self.piece(row, ordinal, whole, self.values.len());
        Ok(())
    }

    fn object(&mut self, row: usize, ordinal: u32, fields: Fields<'a>) -> Result<(), Reason> {
        let start = self.values.len();
        for (name, value) in fields {
            let target = self.target(&name)?;
            if let Target::Old(column) = target
                && self.batch.get(row, column) != Value::Absent
            {
                return Err(Reason::TwoValues { name: format!("{}{name}", self.flatten.prefix) });
            }
            let cell = cell_of(value.get(), &mut self.made);
            self.values.push((target, cell));
        }
        self.piece(row, ordinal, Cell::Absent, start);
        Ok(())
    }

    fn piece(&mut self, row: usize, ordinal: u32, whole: Cell, values_from: usize) {
        let values = values_from..self.values.len();
        let reach = self.values[values.clone()].iter().map(|(target, _)| match target {
            Target::New(column) => column + 1,
            Target::Old(_) => 0,
        });
        let reach = reach.max().unwrap_or(0);
        self.cells += self.batch.schema.columns.len() + reach;
        self.pieces.push(Piece { row, ordinal, whole, values, reach });
    }

    fn target(&mut self, name: &str) -> Result<Target, Reason> {
        let target = match self.targets.get(name) {
            Some(target) => *target,
            None => self.new_target(name),
        };
        if let Target::New(column) = target {
            let (first, used) = &mut self.record;
            let last = &mut self.columns[column].1;
            *used += usize::from(*last != *first);
            *last = *first;
            if *used > MOST_COLUMNS {
                return Err(too_many(MOST_COLUMNS, "fields"));
            }
        }
        Ok(target)
    }

    fn new_target(&mut self, name: &str) -> Target {
        let full = format!("{}{name}", self.flatten.prefix);
        let target = if let Some(column) = self.batch.schema.index_of(&full) {
            Target::Old(column)
        } else {
            self.columns.push((full.into(), usize::MAX));
            Target::New(self.columns.len() - 1)
        };
        self.targets.insert(name.to_owned(), target);
        target
    }

    /// Makes the rows: the input's columns, without the field if it was spread in all of them, and
    /// the new columns after them.
    fn write(mut self) -> Batch {
        let left =
            self.columns.is_empty() || self.pieces.iter().any(|piece| piece.whole != Cell::Absent);
        let new = |(name, _): &(Arc<str>, usize)| Column {
            name: Arc::clone(name),
            kind: ColumnType::Unknown,
        };
        let mut columns = self.batch.schema.columns.clone();
        let width = columns.len();
        columns[self.column].kind = ColumnType::Unknown;
        columns.extend(self.columns.iter().map(new));
        if !left {
            columns.remove(self.column);
        }
        self.made.schema = Arc::new(Schema { columns });
        let mut copied = (None, Vec::new());
        let mut cells = Vec::with_capacity(width);
        for piece in &self.pieces {
            if copied.0 != Some(piece.row) {
                copied = (Some(piece.row), copy_row(self.batch, piece.row, &mut self.made));
            }
            cells.clear();
            cells.extend_from_slice(&copied.1);
            cells.resize(width + piece.reach, Cell::Absent);
            cells[self.column] = piece.whole;
            for (target, cell) in &self.values[piece.values.clone()] {
                match target {
                    Target::Old(column) => cells[*column] = *cell,
                    Target::New(column) => cells[width + column] = *cell,
                }
            }
            let Piece { row, ordinal, .. } = *piece;
            self.made.begin_row_from(self.batch, row, ordinal);
            for (column, cell) in cells.iter().enumerate() {
                if left || column != self.column {
                    self.made.push_cell(*cell);
                }
            }
        }
        self.made
    }
}

/// The cells of a row, its text copied once for all rows that it becomes.
fn copy_row(batch: &Batch, row: usize, made: &mut Batch) -> Vec<Cell> {
    batch.row(row).iter().map(|cell| copy_cell(batch, *cell, made)).collect()
}

/// `{` or `[`, where a value begins like an object or a list.
fn opening(value: Value<'_>) -> Option<u8> {
    let (Value::Json(text) | Value::Text(text)) = value else { return None };
    let first = text.trim_ascii_start().bytes().next();
    first.filter(|byte| matches!(byte, b'{' | b'['))
}

/// The cell of a value inside JSON text that was found sound.
fn cell_of(json: &str, made: &mut Batch) -> Cell {
    match json.as_bytes().first() {
        Some(b'n') | None => Cell::Null,
        Some(b't') => Cell::Bool(true),
        Some(b'f') => Cell::Bool(false),
        Some(b'"') => match unquote(json) {
            Some(text) => Cell::Text(made.put(text.as_bytes())),
            None => Cell::Json(made.put(json.as_bytes())),
        },
        Some(b'{' | b'[') => Cell::Json(made.put(json.as_bytes())),
        Some(_) => match exact_number(json) {
            Value::Int(int) => Cell::Int(int),
            Value::Float(float) => Cell::Float(float),
            _ => Cell::Number(made.put(json.as_bytes())),
        },
    }
}

/// The text of a JSON string; `None` for one that is no Unicode text (half a surrogate pair).
fn unquote(json: &str) -> Option<Cow<'_, str>> {
    if !json.contains('\\') {
        return json.get(1..json.len() - 1).map(Cow::Borrowed);
    }
    serde_json::from_str(json).ok().map(Cow::Owned)
}

fn too_many(most: usize, what: &'static str) -> Reason {
    Reason::TooMany { most, what }
}

type Fields<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// An object or a list, its parts still text.
enum Shape<'a> {
    Object(Fields<'a>),
    List(Vec<&'a RawValue>),
}

impl<'de> serde::Deserialize<'de> for Shape<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() == MOST_ITEMS {
                return Err(A::Error::custom("too many items"));
            }
            items.push(item);
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            fields.push((name, value));
        }
        Ok(Shape::Object(fields))
    }
}
