//! How records of one schema go into one table: which columns, by which statements.
//!
//! A field that a record lacks is not mentioned in its statement: an insert takes the column's
//! default, an upsert leaves the column as it is. So what a record does never depends on which
//! records happen to share its batch. Records with the same fields share a *shape*: a `COPY`
//! statement, and a buffer of rows on their way.

use std::sync::Arc;

use tokio_postgres::Statement;

use super::{
    encode::{self, Kind},
    name::quote,
    settings::Target,
    table::Table,
};
use crate::{
    batch::{Batch, Cell, ColumnType, Schema, Value},
    deletes::Deletes,
    shown::shown,
    sink::SinkError,
};

/// How many shapes of one plan are remembered.
pub(super) const SHAPES_MAX: usize = 64;

/// How records of one schema go into one table.
pub(super) struct Plan {
    /// As it stands in a statement.
    pub(super) table: String,
    pub(super) schema: Arc<Schema>,
    slots: Vec<Slot>,
    /// Which records delete, and the columns that say it.
    deletes: Deletes,
    deciding: Vec<(usize, String)>,
    /// Columns of the records that the table has no place for, with the reason.
    pub(super) homeless: Vec<(usize, String)>,
    /// Whether such columns may be added to the table.
    pub(super) may_grow: bool,
    pub(super) shapes: Vec<Shape>,
    /// Where rows wait that may have to be written over others; `None` where rows are appended.
    pub(super) stage: Option<String>,
    /// Whether there is such a place already.
    pub(super) has_stage: bool,
    /// Whether a column insists on numbering rows itself.
    overriding: bool,
}

/// A column of the records and its place in the table.
struct Slot {
    column: usize,
    of: ColumnType,
    name: String,
    kind: Kind,
    declared: String,
    is_key: bool,
}

/// Records that have the same fields.
pub(super) struct Shape {
    present: Vec<bool>,
    /// Into the table, and into the stage.
    pub(super) copy: [Copy; 2],
    /// From the stage into the table.
    pub(super) merge: String,
    /// Rows as `COPY` takes them.
    pub(super) buffer: Vec<u8>,
    /// Whether rows wait in the stage.
    pub(super) is_staged: bool,
}

/// A `COPY` statement.
pub(super) struct Copy {
    pub(super) sql: String,
    /// The same, once the server has seen it.
    pub(super) statement: Option<Statement>,
}

/// Why a row was not put into a buffer.
pub(super) enum Unfit {
    /// The table may get the column that it needs.
    Grow,
    /// It cannot be written.
    Bad(String),
}

impl Plan {
    /// Matches the columns of a schema with those of the table, by name. Columns in `left_out` are
    /// only written if the table has them.
    pub(super) fn new(
        schema: &Arc<Schema>,
        name: &str,
        table: &Table,
        target: &Target,
        left_out: &[usize],
        stage: Option<String>,
    ) -> Result<Self, String> {
        let key = &target.key;
        let deciding = target.delete.fields();
        let deciding =
            deciding.filter_map(|field| Some((schema.index_of(field)?, field.to_owned())));
        let mut plan = Self {
            deletes: target.delete.clone(),
            deciding: deciding.collect(),
            table: name.to_owned(),
            schema: Arc::clone(schema),
            slots: Vec::new(),
            homeless: Vec::new(),
            may_grow: false,
            shapes: Vec::new(),
            stage,
            has_stage: false,
            overriding: false,
        };
        for (column, described) in schema.columns.iter().enumerate() {
            if let Some(why) = table.refuse_column(&described.name) {
                if !left_out.contains(&column) {
                    plan.homeless.push((column, why));
                }
            } else if let Some(field) = table.field(&described.name) {
                plan.overriding |= field.numbered;
                plan.slots.push(Slot {
                    column,
                    of: described.kind,
                    name: field.name.clone(),
                    kind: field.kind.clone(),
                    declared: field.declared.clone(),
                    is_key: key
                        .iter()
                        .any(|k| table.field(k).is_some_and(|key| key.name == field.name)),
                });
            }
        }
        for (i, slot) in plan.slots.iter().enumerate() {
            if plan.slots[..i].iter().any(|other| other.name == slot.name) {
                return Err(format!(
                    "the records have the column '{}' twice, or in two spellings: rename or drop \
                     one with `rename` or `select`",
                    slot.name
                ));
            }
        }
        if plan.slots.iter().filter(|slot| slot.is_key).count() < key.len() {
            let columns: Vec<&str> = schema.columns.iter().map(|c| &*c.name).collect();
            return Err(format!(
                "the records lack a column of the `key` ({}); they have: {}",
                key.join(", "),
                columns.join(", ")
            ));
        }
        Ok(plan)
    }

    /// Whether it was made for this schema.
    pub(super) fn is_for(&mut self, schema: &Arc<Schema>) -> bool {
        if Arc::ptr_eq(&self.schema, schema) {
            return true;
        }
        let is_equal = self.schema == *schema;
        if is_equal {
            self.schema = Arc::clone(schema);
        }
        is_equal
    }

    /// A column that every one of these rows has and the table does not, with the reason.
    pub(super) fn homeless_in_all(&self, batch: &Batch, rows: &[usize]) -> Option<&str> {
        let in_all =
            |column: usize| rows.iter().all(|row| batch.get(*row, column) != Value::Absent);
        self.homeless.iter().find(|(column, _)| in_all(*column)).map(|(_, why)| why.as_str())
    }

    /// Whether a row is to be deleted.
    fn is_gone(&self, batch: &Batch, row: usize) -> bool {
        let mut deciding = self.deciding.iter();
        deciding.any(|(column, field)| self.deletes.says(field, batch.get(row, *column)))
    }

    /// The shape of a row, beginning to look at one. Of one that is to be deleted only the key
    /// matters, which every shape has.
    pub(super) fn shape_of(&mut self, batch: &Batch, row: usize, last: usize) -> usize {
        if last < self.shapes.len() && self.is_gone(batch, row) {
            return last;
        }
        let cells = batch.row(row);
        if self.shapes.get(last).is_some_and(|shape| self.fits(&shape.present, cells)) {
            return last;
        }
        let known = self.shapes.iter().position(|shape| self.fits(&shape.present, cells));
        known.unwrap_or_else(|| {
            let present = self.slots.iter().map(|slot| is_present(cells, slot.column)).collect();
            self.shapes.push(self.shape(present));
            self.shapes.len() - 1
        })
    }

    fn fits(&self, present: &[bool], cells: &[Cell]) -> bool {
        self.slots.iter().zip(present).all(|(slot, has)| is_present(cells, slot.column) == *has)
    }

    /// Refuses a row that has a value for which the table has no place, or no key.
    pub(super) fn admit(&self, batch: &Batch, row: usize) -> Result<(), Unfit> {
        let homeless: &[_] = if self.is_gone(batch, row) { &[] } else { &self.homeless };
        for (column, why) in homeless {
            let value = batch.get(row, *column);
            if value == Value::Absent {
                continue;
            }
            if self.may_grow {
                return Err(Unfit::Grow);
            }
            return Err(Unfit::Bad(format!("{}: {why}; value {}", self.table, shown(value))));
        }
        let keys = self.slots.iter().filter(|slot| slot.is_key);
        for slot in keys {
            match batch.get(row, slot.column) {
                Value::Absent => {
                    let why = format!("it has no '{}', a column of the key", slot.name);
                    return Err(Unfit::Bad(why));
                }
                Value::Null => {
                    let why = format!("'{}', a column of the key, is null", slot.name);
                    return Err(Unfit::Bad(why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Appends a row to the buffer of its shape.
    pub(super) fn encode(&mut self, shape: usize, batch: &Batch, row: usize) -> Result<(), String> {
        let is_gone = self.is_gone(batch, row);
        let Shape { present, buffer, .. } = &mut self.shapes[shape];
        let start = buffer.len();
        let cells = batch.row(row);
        let mut is_first = self.deletes.is_empty();
        if !is_first {
            buffer.push(if is_gone { b't' } else { b'f' });
        }
        for (slot, _) in self.slots.iter().zip(&*present).filter(|(_, has)| **has) {
            if !std::mem::take(&mut is_first) {
                buffer.push(b'\t');
            }
            let cell = if is_gone && !slot.is_key { Cell::Null } else { cells[slot.column] };
            if let Err(why) = encode::cell(batch, cell, slot.of, &slot.kind, buffer) {
                buffer.truncate(start);
                let value = shown(batch.value(cell));
                return Err(format!("column '{}': {value} {why}", slot.name));
            }
        }
        if is_first {
            buffer.truncate(start);
            return Err(format!("it has none of the columns of {}", self.table));
        }
        buffer.push(b'\n');
        Ok(())
    }

    /// What a row's column holds, for people, if an error names the column.
    pub(super) fn value_of(&self, column: &str, batch: &Batch, row: usize) -> Option<String> {
        let slot = self.slots.iter().find(|slot| slot.name == column)?;
        let value = shown(batch.get(row, slot.column));
        Some(format!("column '{column}' ({}), value {value}", slot.declared))
    }

    /// The columns of the key, and what a row has in them, for people.
    pub(super) fn key_of(&self, batch: &Batch, row: usize) -> String {
        let keys = self.slots.iter().filter(|slot| slot.is_key);
        let pairs = keys.map(|s| format!("{} = {}", s.name, shown(batch.get(row, s.column))));
        pairs.collect::<Vec<_>>().join(", ")
    }

    /// The statements that make the stage: columns as the table has them, and the order of rows.
    pub(super) fn create_stage(&self, stage: &str) -> String {
        let columns: Vec<String> = self.slots.iter().map(|slot| quote(&slot.name)).collect();
        let (columns, table) = (columns.join(", "), &self.table);
        format!(
            "DROP TABLE IF EXISTS {stage}; CREATE TEMPORARY TABLE {stage} ON COMMIT DELETE ROWS AS \
             SELECT {columns} FROM {table} WITH NO DATA; \
             ALTER TABLE {stage} ADD COLUMN piton_order bigint \
             GENERATED ALWAYS AS IDENTITY (CACHE 10000), ADD COLUMN piton_gone boolean"
        )
    }

    fn shape(&self, present: Vec<bool>) -> Shape {
        let slots = self.slots.iter().zip(&present).filter(|(_, has)| **has).map(|(slot, _)| slot);
        let slots: Vec<&Slot> = slots.collect();
        let columns = names(&slots);
        let gone = if self.deletes.is_empty() { "" } else { "piton_gone, " };
        let copy = |table: &str| Copy {
            sql: format!("COPY {table} ({gone}{columns}) FROM STDIN"),
            statement: None,
        };
        let stage = self.stage.as_deref().unwrap_or_default();
        Shape {
            copy: [copy(&self.table), copy(stage)],
            merge: self.merge(stage, &slots),
            present,
            buffer: Vec::new(),
            is_staged: false,
        }
    }

    /// A row whose key was deleted at any time is gone, also if it was written again afterwards: then
    /// it comes anew, with nothing of the old one.
    fn delete(&self, stage: &str, keys: &[&Slot]) -> String {
        let same = keys.iter().map(|slot| quote(&slot.name)).map(|k| format!("t.{k} = s.{k}"));
        let same = same.collect::<Vec<_>>().join(" AND ");
        let (key, table) = (names(keys), &self.table);
        format!(
            "DELETE FROM {table} AS t USING (SELECT DISTINCT {key} FROM {stage} WHERE piton_gone) s \
             WHERE {same}; "
        )
    }

    /// Of the rows in the stage that have one key, the last is written over the one in the table,
    /// unless that is the same to the last byte, so that an unchanged row fires no trigger.
    fn merge(&self, stage: &str, slots: &[&Slot]) -> String {
        let (keys, others): (Vec<&Slot>, Vec<&Slot>) = slots.iter().partition(|slot| slot.is_key);
        let (columns, key, table) = (names(slots), names(&keys), &self.table);
        let overriding = if self.overriding { "OVERRIDING SYSTEM VALUE " } else { "" };
        let last = |columns: &str| {
            format!(
                "SELECT DISTINCT ON ({key}) {columns} FROM {stage} ORDER BY {key}, piton_order DESC"
            )
        };
        let (delete, rows) = if self.deletes.is_empty() {
            (String::new(), last(&columns))
        } else {
            let rows = format!("SELECT {columns} FROM ({}) s WHERE NOT piton_gone", last("*"));
            (self.delete(stage, &keys), rows)
        };
        let insert = format!(
            "{delete}INSERT INTO {table} AS t ({columns}) {overriding}{rows} ON CONFLICT ({key})"
        );
        if others.is_empty() {
            return format!("{insert} DO NOTHING");
        }
        let each = |write: fn(&str) -> String| {
            others.iter().map(|slot| write(&quote(&slot.name))).collect::<Vec<_>>().join(", ")
        };
        let set = each(|name| format!("{name} = excluded.{name}"));
        let (old, new) =
            (each(|name| format!("t.{name}")), each(|name| format!("excluded.{name}")));
        format!(
            "{insert} DO UPDATE SET {set} \
             WHERE ROW({old})::record OPERATOR(pg_catalog.*<>) ROW({new})::record"
        )
    }
}

fn names(slots: &[&Slot]) -> String {
    slots.iter().map(|slot| quote(&slot.name)).collect::<Vec<_>>().join(", ")
}

fn is_present(cells: &[Cell], column: usize) -> bool {
    cells.get(column).is_some_and(|cell| *cell != Cell::Absent)
}

/// A row that cannot be written.
pub(super) fn bad(row: usize, reason: impl Into<String>) -> SinkError {
    SinkError::BadRow { row, reason: reason.into() }
}
