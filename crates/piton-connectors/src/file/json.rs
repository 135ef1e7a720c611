//! JSON into a batch, without a tree: each value of an object becomes a cell as it goes by.
//!
//! Numbers keep what they are: an integer beyond 64 bits or a decimal that no float holds stays
//! text. Objects and arrays inside a record stay JSON text.

use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc};

use serde::{
    Deserializer as _,
    de::{self, DeserializeSeed, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::number::{self, Decimal};
use crate::batch::{Batch, Cell, Column, ColumnType, Schema};

/// Above so many columns a new batch begins with none, so that keys that never come again do not
/// fill the memory.
const MOST_COLUMNS: usize = 1024;

/// The columns that records have had, in the order in which they came.
pub(crate) struct Columns {
    index: HashMap<Arc<str>, usize>,
    known: Vec<Column>,
    /// Those of some batch: behind by the columns that came since.
    schema: Arc<Schema>,
}

impl Columns {
    pub(crate) fn new() -> Self {
        Self { index: HashMap::new(), known: Vec::new(), schema: Arc::default() }
    }

    /// The schema with all columns so far: the very same as before if none came.
    pub(crate) fn schema(&mut self) -> Arc<Schema> {
        if self.schema.columns.len() != self.known.len() {
            self.schema = Arc::new(Schema { columns: self.known.clone() });
        }
        Arc::clone(&self.schema)
    }

    /// The schema to begin a batch with.
    pub(crate) fn begin(&mut self) -> Arc<Schema> {
        if self.known.len() > MOST_COLUMNS {
            *self = Self::new();
        }
        self.schema()
    }

    /// The place of a name that some record has had, which is probably `likely`.
    pub(crate) fn find(&self, name: &str, likely: usize) -> Option<usize> {
        let is_there = self.known.get(likely).is_some_and(|column| &*column.name == name);
        if is_there { Some(likely) } else { self.index.get(name).copied() }
    }

    /// The place of a name, which is probably `likely`.
    fn place(&mut self, name: &str, likely: usize) -> usize {
        if self.known.get(likely).is_some_and(|column| &*column.name == name) {
            return likely;
        }
        if let Some(place) = self.index.get(name) {
            return *place;
        }
        let (place, name) = (self.known.len(), Arc::<str>::from(name));
        self.index.insert(Arc::clone(&name), place);
        self.known.push(Column { name, kind: ColumnType::Unknown });
        place
    }
}

/// Why a text is not a record.
pub(crate) struct NotARecord {
    /// The byte in the text, from 1; 0 if it is about all of it.
    pub(crate) column: usize,
    pub(crate) reason: String,
}

/// Reads an object. The cells, in the order of the columns, replace what is in `cells`; their text
/// lies in the batch.
pub(crate) fn object(
    text: &str,
    columns: &mut Columns,
    cells: &mut Vec<Cell>,
    batch: &mut Batch,
) -> Result<(), NotARecord> {
    let sort = match text.as_bytes().first() {
        Some(b'{') => None,
        Some(b'[') => Some("an array (a record is one object on one line)"),
        Some(b'"') => Some("a text"),
        Some(b'0'..=b'9' | b'-') => Some("a number"),
        _ if matches!(text, "true" | "false" | "null") => Some(text),
        _ => None,
    };
    if let Some(sort) = sort {
        return Err(NotARecord { column: 0, reason: format!("not an object but {sort}") });
    }
    cells.clear();
    let mut reading = serde_json::Deserializer::from_str(text);
    let record = Record { columns, cells, batch };
    reading.deserialize_map(record).and_then(|()| reading.end()).map_err(|error| {
        let told = error.to_string();
        let reason = told.rsplit_once(" at line ").map_or(told.as_str(), |(what, _)| what);
        NotARecord { column: error.column(), reason: format!("not valid JSON: {reason}") }
    })
}

/// Reads any JSON text as a value. `None` if it is not JSON.
pub(super) fn value(text: &str, batch: &mut Batch) -> Option<Cell> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    cell(raw.get(), batch).ok()
}

struct Record<'a> {
    columns: &'a mut Columns,
    cells: &'a mut Vec<Cell>,
    batch: &'a mut Batch,
}

impl<'de> Visitor<'de> for Record<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut likely = 0;
        while let Some(place) = map.next_key_seed(Key { columns: self.columns, likely })? {
            let raw: &RawValue = map.next_value()?;
            let cell = cell(raw.get(), self.batch).map_err(de::Error::custom)?;
            if place >= self.cells.len() {
                self.cells.resize(place, Cell::Absent);
                self.cells.push(cell);
            } else {
                // A key that comes twice: the last one counts, as everywhere.
                self.cells[place] = cell;
            }
            likely = place + 1;
        }
        Ok(())
    }
}

struct Key<'a> {
    columns: &'a mut Columns,
    likely: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = usize;

    fn deserialize<D: de::Deserializer<'de>>(self, key: D) -> Result<usize, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<usize, E> {
        Ok(self.columns.place(name, self.likely))
    }
}

/// Turns what is known to be JSON into a cell.
fn cell(raw: &str, batch: &mut Batch) -> Result<Cell, serde_json::Error> {
    Ok(match raw.as_bytes().first() {
        Some(b'"') => {
            let inner = raw.get(1..raw.len() - 1).unwrap_or_default();
            if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
                return Ok(Cell::Text(batch.put(inner.as_bytes())));
            }
            let text: Cow<'_, str> = serde_json::from_str(raw)?;
            Cell::Text(batch.put(text.as_bytes()))
        }
        Some(b'{' | b'[') => Cell::Json(batch.put(raw.as_bytes())),
        Some(b't') => Cell::Bool(true),
        Some(b'f') => Cell::Bool(false),
        Some(b'n') => Cell::Null,
        _ => match number::number(raw) {
            Decimal::Int(int) => Cell::Int(int),
            Decimal::Float(float) => Cell::Float(float),
            Decimal::Exact => Cell::Number(batch.put(raw.as_bytes())),
        },
    })
}

/// Writes what is known to be JSON without line breaks, so that it stays one line.
pub(super) fn put_on_one_line(json: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(json);
    if memchr::memchr2(b'\n', b'\r', json).is_some() {
        // Between the parts of JSON any white space will do; inside of texts there is no other.
        for byte in &mut out[begin..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use piton_core::StoredPosition;

    use super::*;
    use crate::batch::{Marks, Origin, Value};

    struct Unmarked;

    impl Marks for Unmarked {
        fn resume_at(&self, _: Origin) -> StoredPosition {
            StoredPosition { kind: "none".into(), json: "null".into() }
        }
        fn write_id(&self, _: Origin, _: &mut String) {}
        fn place(&self, _: Origin) -> String {
            String::new()
        }
    }

    fn read(text: &str) -> Result<(Vec<String>, Batch, Vec<Cell>), NotARecord> {
        let end = StoredPosition { kind: "none".into(), json: "null".into() };
        let mut batch = Batch::new("p".into(), Arc::default(), end, Arc::new(Unmarked));
        let (mut columns, mut cells) = (Columns::new(), Vec::new());
        object(text, &mut columns, &mut cells, &mut batch)?;
        let names = columns.schema().columns.iter().map(|c| c.name.to_string()).collect();
        Ok((names, batch, cells))
    }

    #[test]
    fn values_keep_what_they_are() {
        let text = r#" {"a":1,"b":-2.5e1,"c":123456789012345678901,"d":"x\u00e9\"y","e":null,
            "f":{"k": [1, 2]},"g":true,"h":0.12345678901234567890,"a":"again", "":false}"#
            .trim_start();
        let (names, batch, cells) = read(text).ok().unwrap();
        assert_eq!(names, ["a", "b", "c", "d", "e", "f", "g", "h", ""]);
        let values: Vec<_> = cells.iter().map(|cell| batch.value(*cell)).collect();
        assert_eq!(
            values,
            [
                Value::Text("again"),
                Value::Float(-25.0),
                Value::Number("123456789012345678901"),
                Value::Text("x\u{e9}\"y"),
                Value::Null,
                Value::Json(r#"{"k": [1, 2]}"#),
                Value::Bool(true),
                Value::Number("0.12345678901234567890"),
                Value::Bool(false),
            ]
        );
    }

    #[test]
    fn what_is_not_a_record_says_why() {
        for (text, column, reason) in [
            ("[1]", 0, "not an object but an array"),
            ("12", 0, "not an object but a number"),
            ("{\"a\":1", 6, "not valid JSON: EOF while parsing an object"),
            ("{\"a\":1} x", 9, "not valid JSON: trailing characters"),
            ("{\"a\":\"\\ud800\"}", 0, "not valid JSON"),
            ("nonsense", 2, "not valid JSON: expected ident"),
        ] {
            let Err(error) = read(text) else { panic!("{text} was read") };
            assert!(error.reason.starts_with(reason), "{text}: {}", error.reason);
            if column > 0 {
                assert_eq!(error.column, column, "{text}");
            }
        }
        let deep = format!("{{\"a\":{}", "[".repeat(1_000_000));
        assert!(read(&deep).is_err());
    }
}
