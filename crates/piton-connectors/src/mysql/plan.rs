//! How records of one schema go into one table: which columns, by which statements.
//!
//! A field that a record lacks is not mentioned in its statement: an insert takes the column's
//! default, an upsert leaves the column as it is. So what a record does never depends on which
//! records happen to share its batch. Records with the same fields share a *shape*: a statement,
//! and rows on their way.

use std::sync::Arc;

use super::{
    encode::{self, Kind},
    name::quote,
    settings::Target,
    stage::{self, Staged},
    table::Table,
};
use crate::{
    batch::{Batch, Cell, ColumnType, Schema, Value},
    deletes::Deletes,
    shown::shown,
};

/// How many shapes of one plan are remembered.
pub(super) const SHAPES_MAX: usize = 64;

/// How many rows one statement deletes at most: the server plans a search for each.
const DELETED_MOST: usize = 200;

/// What a packet has beside its statement, generously, in bytes.
const MARGIN: usize = 256;

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
    /// Whether rows are written over those with the same key.
    pub(super) upserts: bool,
    /// Whether a row may clash with another by something else than its key.
    may_clash: bool,
    /// The stage by which rows go, if they do.
    pub(super) stage: Option<String>,
}

/// A column of the records and its place in the table.
struct Slot {
    column: usize,
    of: ColumnType,
    name: String,
    /// The name as it stands in a statement.
    quoted: String,
    kind: Kind,
    declared: String,
    is_key: bool,
}

impl Slot {
    fn staged(&self) -> Staged<'_> {
        let Self { quoted, kind, declared, is_key, .. } = self;
        Staged { quoted, kind: *kind, declared, is_key: *is_key }
    }
}

/// Records that have the same fields, or that all delete.
pub(super) struct Shape {
    present: Vec<bool>,
    /// Whether they delete.
    deletes: bool,
    /// What stands before the rows, and behind them.
    pub(super) insert: String,
    pub(super) update: String,
    /// Rows as they stand in the statement, each with what separates it from the next behind it.
    pub(super) values: String,
    /// How many.
    pub(super) rows: usize,
}

/// Why a row was not put into a statement.
pub(super) enum Unfit {
    /// The table may get the column that it needs.
    Grow,
    /// It cannot be written.
    Bad(String),
}

impl Shape {
    /// The statement for the rows on their way.
    pub(super) fn statement(&self) -> String {
        let values = self.values.strip_suffix(self.separator()).unwrap_or(&self.values);
        [&self.insert, values, &self.update].concat()
    }

    fn separator(&self) -> &'static str {
        if self.deletes { " OR " } else { "," }
    }

    /// Whether no more rows should go into one statement, however short they are.
    pub(super) fn is_full(&self) -> bool {
        self.deletes && self.rows >= DELETED_MOST
    }

    /// Takes the rows out.
    pub(super) fn clear(&mut self) {
        self.values.clear();
        self.rows = 0;
    }

    /// Whether rows of so many bytes fit into one statement.
    pub(super) fn fits(&self, bytes: usize, packet: usize) -> bool {
        self.insert.len() + self.update.len() + bytes + MARGIN <= packet
    }
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
            upserts: !key.is_empty(),
            may_clash: table.may_clash_beside(key),
            stage: None,
        };
        for (column, described) in schema.columns.iter().enumerate() {
            if let Some(why) = table.refuse_column(&described.name) {
                if !left_out.contains(&column) {
                    plan.homeless.push((column, why));
                }
            } else if let Some(field) = table.field(&described.name) {
                plan.slots.push(Slot {
                    column,
                    of: described.kind,
                    name: field.name.clone(),
                    quoted: quote(&field.name),
                    kind: field.kind,
                    declared: field.declared.clone(),
                    is_key: key.iter().any(|k| k.eq_ignore_ascii_case(&field.name)),
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
    /// matters.
    pub(super) fn shape_of(&mut self, batch: &Batch, row: usize, last: usize) -> usize {
        let (cells, is_gone) = (batch.row(row), self.is_gone(batch, row));
        if self.shapes.get(last).is_some_and(|shape| self.fits(shape, cells, is_gone)) {
            return last;
        }
        let known = self.shapes.iter().position(|shape| self.fits(shape, cells, is_gone));
        known.unwrap_or_else(|| {
            let has = |slot: &Slot| {
                if is_gone { slot.is_key } else { is_present(cells, slot.column) }
            };
            let present = self.slots.iter().map(has).collect();
            self.shapes.push(self.shape(present, is_gone));
            self.shapes.len() - 1
        })
    }

    fn fits(&self, shape: &Shape, cells: &[Cell], is_gone: bool) -> bool {
        let mut slots = self.slots.iter().zip(&shape.present);
        shape.deletes == is_gone
            && (is_gone || slots.all(|(slot, has)| is_present(cells, slot.column) == *has))
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
        for slot in self.slots.iter().filter(|slot| slot.is_key) {
            let lacks = match batch.get(row, slot.column) {
                Value::Absent => format!("it has no '{}', a column of the key", slot.name),
                Value::Null => format!("'{}', a column of the key, is null", slot.name),
                _ => continue,
            };
            return Err(Unfit::Bad(lacks));
        }
        Ok(())
    }

    /// Appends a row to those of its shape. `packet`: how many bytes a statement may have.
    pub(super) fn encode(
        &mut self,
        shape: usize,
        batch: &Batch,
        row: usize,
        packet: usize,
    ) -> Result<(), String> {
        let Shape { present, deletes, insert, update, values, .. } = &mut self.shapes[shape];
        let most = packet.saturating_sub(insert.len() + update.len() + MARGIN);
        let start = values.len();
        let cells = batch.row(row);
        values.push('(');
        let mut is_first = true;
        for (slot, _) in self.slots.iter().zip(&*present).filter(|(_, has)| **has) {
            if !std::mem::take(&mut is_first) {
                values.push_str(if *deletes { " AND " } else { "," });
            }
            if *deletes {
                values.push_str(&slot.quoted);
                values.push_str(" = ");
            }
            let cell = cells[slot.column];
            let begin = values.len();
            let mut written = encode::cell(batch, cell, slot.of, slot.kind, values);
            if slot.is_key && written.is_ok() {
                written = encode::as_key(slot.kind, *deletes, begin, values);
            }
            if let Err(why) = written {
                values.truncate(start);
                let value = shown(batch.value(cell));
                return Err(format!("column '{}': {value} {why}", slot.name));
            }
        }
        let why = if is_first {
            Some(format!("it has none of the columns of {}", self.table))
        } else if values.len() - start > most {
            let bytes = values.len() - start;
            Some(format!(
                "it needs {bytes} bytes in a statement, and max_allowed_packet of the server \
                 leaves {most}"
            ))
        } else {
            None
        };
        if let Some(why) = why {
            values.truncate(start);
            return Err(why);
        }
        values.push(')');
        let shape = &mut self.shapes[shape];
        let separator = shape.separator();
        shape.values.push_str(separator);
        shape.rows += 1;
        Ok(())
    }

    /// What a row's column holds, for people, if an error names the column.
    pub(super) fn value_of(&self, said: &str, batch: &Batch, row: usize) -> Option<String> {
        // MySQL quotes a name in one way, MariaDB in the other.
        let quoted = |name: &str| [format!("column '{name}'"), format!("`{name}`")];
        let named = |slot: &&Slot| quoted(&slot.name).iter().any(|name| said.contains(name));
        let slot = self.slots.iter().find(named)?;
        let value = shown(batch.get(row, slot.column));
        Some(format!("column '{}' ({}), value {value}", slot.name, slot.declared))
    }

    /// The columns of the key, and what a row has in them, for people.
    pub(super) fn key_of(&self, batch: &Batch, row: usize) -> String {
        let keys = self.slots.iter().filter(|slot| slot.is_key);
        let pairs = keys.map(|s| format!("{} = {}", s.name, shown(batch.get(row, s.column))));
        pairs.collect::<Vec<_>>().join(", ")
    }

    fn shape(&self, present: Vec<bool>, deletes: bool) -> Shape {
        let slots = self.slots.iter().zip(&present).filter(|(_, has)| **has).map(|(slot, _)| slot);
        let slots: Vec<&Slot> = slots.collect();
        let columns: Vec<&str> = slots.iter().map(|slot| slot.quoted.as_str()).collect();
        let (insert, update) = if deletes {
            (format!("DELETE FROM {} WHERE ", self.table), String::new())
        } else if let Some(stage) = &self.stage {
            let staged: Vec<Staged<'_>> = slots.iter().map(|slot| slot.staged()).collect();
            stage::statements(stage, &self.table, &staged, &self.update(&slots))
        } else {
            let insert = format!("INSERT INTO {} ({}) VALUES ", self.table, columns.join(", "));
            (insert, if self.upserts { self.update(&slots) } else { String::new() })
        };
        Shape { present, deletes, insert, update, values: String::new(), rows: 0 }
    }

    /// What becomes of the row with the same key. The server compares each column to the last byte
    /// and leaves a row alone in which nothing changes.
    ///
    /// It takes a row for the same that is equal in *any* unique index. Where the key is another,
    /// a division by zero ends the statement.
    fn update(&self, slots: &[&Slot]) -> String {
        let (keys, others): (Vec<&Slot>, Vec<&Slot>) = slots.iter().partition(|slot| slot.is_key);
        let mut set: Vec<String> = Vec::new();
        // The stage has columns of the same names.
        let mut keys = keys.iter().map(|slot| format!("{}.{}", self.table, slot.quoted));
        if self.may_clash {
            let same: Vec<String> = keys.clone().map(|k| format!("{k} <=> VALUES({k})")).collect();
            let first = keys.next().unwrap_or_default();
            set.push(format!("{first} = IF({}, {first}, 1 / 0)", same.join(" AND ")));
        } else if others.is_empty() {
            let first = keys.next().unwrap_or_default();
            set.push(format!("{first} = {first}"));
        }
        set.extend(others.iter().map(|slot| format!("{0} = VALUES({0})", slot.quoted)));
        format!(" ON DUPLICATE KEY UPDATE {}", set.join(", "))
    }
}

fn is_present(cells: &[Cell], column: usize) -> bool {
    cells.get(column).is_some_and(|cell| *cell != Cell::Absent)
}
