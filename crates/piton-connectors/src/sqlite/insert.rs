//! Statements that write records, and what is bound to them.
//!
//! A field that a record lacks is not mentioned in its statement: an insert takes the column's
//! default, an upsert leaves the column as it is. So what a record does never depends on which
//! records happen to share its batch. Records with the same fields share a statement, and values
//! are bound as they lie in the batch, without a copy of our own.

use std::{collections::HashMap, ops::Range, path::Path, sync::Arc};

use rusqlite::{
    CachedStatement, Connection, Error, ErrorCode, Statement, ToSql,
    types::{ToSqlOutput, ValueRef},
};

use super::{
    errors::{code, failure},
    quote,
    table::{Affinity, Table},
};
use crate::{
    batch::{Batch, Cell, Schema, Value},
    shown::shown,
    sink::SinkError,
};

/// How many statements of records with different fields are remembered.
const SHAPES_MAX: usize = 256;

/// How records of one schema go into the table.
#[derive(Debug)]
pub(super) struct Plan {
    schema: Arc<Schema>,
    table: String,
    slots: Vec<Slot>,
    /// Columns of the records that the table has no place for, with the reason.
    homeless: Vec<(usize, String)>,
    shapes: HashMap<Vec<bool>, Arc<str>>,
}

/// A column of the records and its place in the table.
#[derive(Debug)]
struct Slot {
    column: usize,
    name: String,
    affinity: Affinity,
    is_key: bool,
}

impl Plan {
    /// Matches the columns of a schema with those of the table, by name.
    pub(super) fn new(
        schema: &Arc<Schema>,
        name: &str,
        table: &Table,
        key: &[String],
    ) -> Result<Self, String> {
        let mut plan = Self {
            schema: Arc::clone(schema),
            table: name.to_owned(),
            slots: Vec::new(),
            homeless: Vec::new(),
            shapes: HashMap::new(),
        };
        for (column, described) in schema.columns.iter().enumerate() {
            if let Some(why) = table.refuse_column(&described.name) {
                plan.homeless.push((column, why));
            } else if let Some(field) = table.field(&described.name) {
                let is_key = key.iter().any(|k| k.eq_ignore_ascii_case(&field.name));
                let (name, affinity) = (field.name.clone(), field.affinity);
                plan.slots.push(Slot { column, name, affinity, is_key });
            }
        }
        for (i, slot) in plan.slots.iter().enumerate() {
            if plan.slots[..i].iter().any(|other| other.name == slot.name) {
                return Err(format!(
                    "the records have the column '{}' twice, or in two spellings that SQLite takes \
                     for one: rename or drop one with `rename` or `select`",
                    slot.name
                ));
            }
        }
        let is_there = |k: &&String| plan.slots.iter().any(|s| s.name.eq_ignore_ascii_case(k));
        if let Some(missing) = key.iter().find(|k| !is_there(k)) {
            let columns: Vec<&str> = schema.columns.iter().map(|c| &*c.name).collect();
            return Err(format!(
                "the records have no column '{missing}', which `key` names; they have: {}",
                columns.join(", ")
            ));
        }
        Ok(plan)
    }

    /// Whether it was made for this schema.
    pub(super) fn is_for(&self, schema: &Arc<Schema>) -> bool {
        Arc::ptr_eq(&self.schema, schema) || self.schema == *schema
    }

    /// A column that every one of these rows has and the table does not, with the reason.
    pub(super) fn homeless_in_all(&self, batch: &Batch, rows: &Range<usize>) -> Option<&str> {
        let in_all =
            |column: usize| rows.clone().all(|row| batch.get(row, column) != Value::Absent);
        self.homeless.iter().find(|(column, _)| in_all(*column)).map(|(_, why)| why.as_str())
    }

    /// Writes rows of a batch.
    pub(super) fn write(
        &mut self,
        conn: &Connection,
        path: &Path,
        batch: &Batch,
        rows: Range<usize>,
    ) -> Result<(), SinkError> {
        let mut current: Option<(Vec<bool>, CachedStatement<'_>)> = None;
        for row in rows {
            let cells = batch.row(row);
            self.admit(batch, row)?;
            let fits = current.as_ref().is_some_and(|(shape, _)| self.fits(shape, cells));
            let (shape, mut statement) = match current.take() {
                Some(current) if fits => current,
                _ => self.prepare(conn, path, row, cells)?,
            };
            self.bind(&shape, &mut statement, batch, row)?;
            if let Err(error) = statement.raw_execute() {
                drop(statement);
                return Err(self.row_failure(conn, path, batch, row, &error));
            }
            current = Some((shape, statement));
        }
        Ok(())
    }

    /// Refuses a row that has a value for which the table has no place.
    fn admit(&self, batch: &Batch, row: usize) -> Result<(), SinkError> {
        for (column, why) in &self.homeless {
            let value = batch.get(row, *column);
            if value != Value::Absent {
                let reason = format!("table '{}': {why}; value {}", self.table, shown(value));
                return Err(SinkError::BadRow { row, reason });
            }
        }
        Ok(())
    }

    /// Whether a row has exactly the fields of a shape.
    fn fits(&self, shape: &[bool], cells: &[Cell]) -> bool {
        self.slots.iter().zip(shape).all(|(slot, has)| is_present(cells, slot.column) == *has)
    }

    fn prepare<'c>(
        &mut self,
        conn: &'c Connection,
        path: &Path,
        row: usize,
        cells: &[Cell],
    ) -> Result<(Vec<bool>, CachedStatement<'c>), SinkError> {
        let shape: Vec<bool> =
            self.slots.iter().map(|slot| is_present(cells, slot.column)).collect();
        let lacking = self.slots.iter().zip(&shape).find(|(slot, has)| slot.is_key && !**has);
        if let Some((slot, _)) = lacking {
            let reason = format!("it has no '{}', a column of the key", slot.name);
            return Err(SinkError::BadRow { row, reason });
        }
        let sql = match self.shapes.get(&shape) {
            Some(sql) => Arc::clone(sql),
            None => self.remember(&shape),
        };
        let statement =
            conn.prepare_cached(&sql).map_err(|e| failure(path, "prepare the insert", &e))?;
        Ok((shape, statement))
    }

    fn remember(&mut self, shape: &[bool]) -> Arc<str> {
        if self.shapes.len() == SHAPES_MAX {
            self.shapes.clear();
        }
        let sql: Arc<str> = self.statement(shape).into();
        self.shapes.insert(shape.to_vec(), Arc::clone(&sql));
        sql
    }

    /// The statement for rows that have the fields of a shape. An upsert compares every column
    /// before it writes, byte for byte, so that an unchanged row fires no trigger.
    fn statement(&self, shape: &[bool]) -> String {
        let table = quote(&self.table);
        let present = self.slots.iter().zip(shape).filter(|(_, has)| **has).map(|(slot, _)| slot);
        let (keys, others): (Vec<&Slot>, Vec<&Slot>) = present.clone().partition(|s| s.is_key);
        let names = |slots: &[&Slot]| {
            slots.iter().map(|slot| quote(&slot.name)).collect::<Vec<_>>().join(", ")
        };
        let all: Vec<&Slot> = present.collect();
        if all.is_empty() {
            return format!("INSERT INTO {table} DEFAULT VALUES");
        }
        let marks = vec!["?"; all.len()].join(", ");
        let insert = format!("INSERT INTO {table} ({}) VALUES ({marks})", names(&all));
        if keys.is_empty() {
            return insert;
        }
        let key = names(&keys);
        if others.is_empty() {
            return format!("{insert} ON CONFLICT ({key}) DO NOTHING");
        }
        let each = |join: &str, write: fn(&str, &str) -> String| {
            let parts = others.iter().map(|slot| write(&table, &quote(&slot.name)));
            parts.collect::<Vec<_>>().join(join)
        };
        let set = each(", ", |_, name| format!("{name} = excluded.{name}"));
        let differs = each(" OR ", |table, name| {
            format!("{table}.{name} IS NOT excluded.{name} COLLATE BINARY")
        });
        format!("{insert} ON CONFLICT ({key}) DO UPDATE SET {set} WHERE {differs}")
    }

    fn bind(
        &self,
        shape: &[bool],
        statement: &mut Statement<'_>,
        batch: &Batch,
        row: usize,
    ) -> Result<(), SinkError> {
        let cells = batch.row(row);
        let mut parameter = 0;
        for (slot, _) in self.slots.iter().zip(shape).filter(|(_, has)| **has) {
            parameter += 1;
            let Some(cell) = cells.get(slot.column) else { continue };
            let value = bound(batch, *cell, slot.affinity).map_err(|why| SinkError::BadRow {
                row,
                reason: format!("column '{}': {} {why}", slot.name, shown(batch.value(*cell))),
            })?;
            if slot.is_key && value == ValueRef::Null {
                let reason = format!("'{}', a column of the key, is null", slot.name);
                return Err(SinkError::BadRow { row, reason });
            }
            statement.raw_bind_parameter(parameter, Bound(value)).map_err(|e| {
                SinkError::BadRow { row, reason: format!("column '{}': {e}", slot.name) }
            })?;
        }
        Ok(())
    }

    /// What it means that a row could not be written.
    fn row_failure(
        &self,
        conn: &Connection,
        path: &Path,
        batch: &Batch,
        row: usize,
        error: &Error,
    ) -> SinkError {
        let is_of_the_row = matches!(
            code(error),
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
        );
        if !is_of_the_row || conn.is_autocommit() {
            return failure(path, &format!("write {}", batch.place(row)), error);
        }
        let message = error.to_string();
        let is_named = |slot: &&Slot| {
            let mut words = message.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            slot.is_key || words.any(|word| word.eq_ignore_ascii_case(&slot.name))
        };
        let values: Vec<String> = self
            .slots
            .iter()
            .filter(is_named)
            .map(|slot| format!("{} = {}", slot.name, shown(batch.get(row, slot.column))))
            .collect();
        let of =
            if values.is_empty() { String::new() } else { format!(" ({})", values.join(", ")) };
        SinkError::BadRow { row, reason: format!("{message}{of}") }
    }
}

struct Bound<'a>(ValueRef<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

fn is_present(cells: &[Cell], column: usize) -> bool {
    cells.get(column).is_some_and(|cell| *cell != Cell::Absent)
}

/// A cell as `SQLite` takes it. Text for a number column must be a number, or nothing at all.
fn bound(batch: &Batch, cell: Cell, affinity: Affinity) -> Result<ValueRef<'_>, &'static str> {
    Ok(match cell {
        Cell::Absent | Cell::Null => ValueRef::Null,
        Cell::Bool(b) => ValueRef::Integer(i64::from(b)),
        Cell::Int(i) => ValueRef::Integer(i),
        // SQLite would store NULL.
        Cell::Float(x) if x.is_nan() => match affinity {
            Affinity::Text | Affinity::None => ValueRef::Text(b"NaN"),
            _ => return Err("NaN, which no number column of SQLite holds"),
        },
        Cell::Float(x) => ValueRef::Real(x),
        Cell::Json(span) => ValueRef::Text(batch.span(span)),
        Cell::Bytes(span) => ValueRef::Blob(batch.span(span)),
        Cell::Text(span) | Cell::Number(span) => {
            let text = batch.span(span);
            match affinity {
                Affinity::Text | Affinity::None => {}
                _ if text.is_empty() => return Ok(ValueRef::Null),
                Affinity::Integer if is_too_long(text) => {
                    return Err("does not fit in 64 bits, and the column holds integers");
                }
                Affinity::Integer | Affinity::Real if !is_number(text) => {
                    return Err("is not a number, and the column holds numbers");
                }
                Affinity::Integer | Affinity::Real | Affinity::Numeric => {}
            }
            ValueRef::Text(text)
        }
    })
}

/// Whether `SQLite` reads the whole text as a number.
fn is_number(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    if text.iter().all(u8::is_ascii_digit) {
        return !text.is_empty();
    }
    let is_plain = |b: &u8| b.is_ascii_digit() || b"+-.eE".contains(b);
    text.iter().all(is_plain)
        && std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok())
}

/// Whether a text is an integer that `SQLite` would round to a floating-point number.
fn is_too_long(text: &[u8]) -> bool {
    const SURELY_FITS: usize = 18; // digits
    let text = text.trim_ascii();
    let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    digits.len() > SURELY_FITS
        && digits.iter().all(u8::is_ascii_digit)
        && std::str::from_utf8(text).is_ok_and(|text| text.parse::<i64>().is_err())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is let through as a number is what `SQLite` stores as one.
        #[test]
        fn a_number_is_what_sqlite_takes_for_one(text in "[0-9+.eE \t-]{1,24}") {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch("CREATE TABLE t (i INTEGER, r REAL)").unwrap();
            conn.execute("INSERT INTO t VALUES (?1, ?1)", [&text]).unwrap();
            let stored: (String, String) = conn
                .query_row("SELECT typeof(i), typeof(r) FROM t", [], |r| Ok((r.get(0)?, r.get(1)?)))
                .unwrap();
            let number = is_number(text.as_bytes());
            prop_assert_eq!(number, stored.0 != "text", "{:?} in INTEGER", &text);
            prop_assert_eq!(number, stored.1 != "text", "{:?} in REAL", &text);
        }
    }

    #[test]
    fn integers_that_would_be_rounded_are_told() {
        assert!(!is_too_long(b"9223372036854775807") && !is_too_long(b"-9223372036854775808"));
        assert!(is_too_long(b"9223372036854775808") && is_too_long(b" +18446744073709551615 "));
        assert!(
            !is_too_long(b"1.000000000000000000000") && !is_too_long(b"0000000000000000000001")
        );
    }
}
