//! An open transaction of the sink: rows, then the checkpoint, then `COMMIT`.

use std::{
    mem,
    ops::Range,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use piton_core::{Checkpoint, checksum::Manifest, fault};
use piton_stores::joined::sqlite::tables;
use rusqlite::ErrorCode;

use super::{
    commit::roll_back,
    errors::{code, failure},
    insert::Plan,
    settings::Mode,
    sink::{Open, Target},
    table::{self, Table},
    turn::Held,
};
use crate::{
    batch::Batch,
    orders::{self, Rows},
    sink::{Advance, Committed, SinkError, Transaction},
};

/// A transaction that holds the database's write lock. Dropped, it rolls back.
pub(super) struct SqliteTransaction<'a> {
    target: &'a Target,
    open: &'a mut Open,
    /// The last row of the table before the first write, where rows are numbered.
    last_row: Option<i64>,
    has_written: bool,
    is_committed: bool,
    /// Given up after the rollback.
    _turn: Option<Held<'a>>,
}

impl<'a> SqliteTransaction<'a> {
    pub(super) fn new(
        target: &'a Target,
        open: &'a mut Open,
        last_row: Option<i64>,
        turn: Option<Held<'a>>,
    ) -> Self {
        Self { target, open, last_row, has_written: false, is_committed: false, _turn: turn }
    }
}

impl Drop for SqliteTransaction<'_> {
    fn drop(&mut self) {
        if !self.is_committed {
            roll_back(&self.open.conn);
            // The table or a column that the plan counts on may be gone with it.
            self.open.plan = None;
        }
    }
}

impl Transaction for SqliteTransaction<'_> {
    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError> {
        let is_first = !mem::replace(&mut self.has_written, true);
        let middle = is_first.then_some(rows.start + rows.len() / 2);
        self.open.write(self.target, batch, rows, middle)?;
        fault::point("sink.after");
        Ok(())
    }

    fn commit(mut self: Box<Self>, upto: &[Advance]) -> Result<Committed, SinkError> {
        if upto.is_empty() {
            self.open.commit(&self.target.path)?;
            self.is_committed = true;
            return Ok(Committed { checkpoints: Vec::new(), checkpointing: Duration::ZERO });
        }
        let began = Instant::now();
        let (checkpoints, manifest) = self.advance(upto)?;
        let checkpointing = began.elapsed();
        self.open.commit(&self.target.path)?;
        self.open.ledger.accept(&checkpoints, manifest);
        self.is_committed = true;
        Ok(Committed { checkpoints, checkpointing })
    }
}

impl SqliteTransaction<'_> {
    /// Writes the new checkpoints, each over the one that is known.
    fn advance(&mut self, upto: &[Advance]) -> Result<(Vec<Checkpoint>, Manifest), SinkError> {
        let Self { target, open, .. } = self;
        let path = &target.path;
        let end = open.last_row(target)?;
        let now = Timestamp::now();
        let new: Vec<Checkpoint> =
            upto.iter().map(|advance| open.next(advance, end, self.last_row, now)).collect();
        let stored = tables::advance(&open.conn, &open.ledger, &new);
        match stored.map_err(|e| failure(path, "write the checkpoints", &e))? {
            Some(manifest) => Ok((new, manifest)),
            None => Err(SinkError::Refused {
                what: format!(
                    "a checkpoint of pipeline '{}' in {} was altered by another hand while it \
                     ran. Nothing was written; run it again to see where it stands",
                    open.ledger.pipeline,
                    path.display()
                ),
            }),
        }
    }
}

impl Open {
    /// The checkpoint that an advance makes of the present one.
    fn next(
        &self,
        advance: &Advance,
        end: Option<i64>,
        last_row: Option<i64>,
        now: Timestamp,
    ) -> Checkpoint {
        let mut next = orders::advanced(&self.ledger, advance, now);
        let begun = Rows::parse(next.sink_state.as_deref()).map(|rows| rows.begun).or(last_row);
        next.sink_state = end.zip(begun).map(|(rowid, begun)| Rows { rowid, begun }.state());
        next
    }

    /// Writes rows into the table, which is created or given new columns for the first of their
    /// kind.
    fn write(
        &mut self,
        target: &Target,
        batch: &Batch,
        rows: Range<usize>,
        middle: Option<usize>,
    ) -> Result<(), SinkError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut plan = match self.plan.take() {
            Some(plan) if plan.is_for(&batch.schema) => plan,
            _ => self.make_plan(target, batch, &rows)?,
        };
        self.has_written = true;
        let mut write = |rows| plan.write(&self.conn, &target.path, batch, rows);
        let written = match middle {
            None => write(rows),
            Some(middle) => write(rows.start..middle).and_then(|()| {
                fault::point("sink.middle");
                write(middle..rows.end)
            }),
        };
        self.plan = Some(plan);
        written
    }

    fn make_plan(
        &mut self,
        target: &Target,
        batch: &Batch,
        rows: &Range<usize>,
    ) -> Result<Plan, SinkError> {
        let fail = |e: rusqlite::Error| match code(&e) {
            // Too many columns, a name that cannot be one: the records do not fit a table.
            Some(ErrorCode::Unknown | ErrorCode::TooBig) => SinkError::Settings {
                what: format!("cannot make table '{}' for these records: {e}", target.table),
            },
            _ => failure(&target.path, "create the table", &e),
        };
        let mut found = Table::inspect(&self.conn, &target.table).map_err(fail)?;
        if found.is_none() && target.create {
            if let Some(why) = table::cannot_be_made(&target.key, &batch.schema) {
                let table = &target.table;
                let what = format!("cannot make table '{table}' for these records: {why}");
                return Err(SinkError::Settings { what });
            }
            found = self.create(target, batch, rows).map_err(fail)?;
        }
        let found = self.with_columns(found, target, batch, rows).map_err(fail)?;
        let Some(found) = found else {
            return Err(SinkError::Failed {
                what: format!(
                    "table '{}' in {} is gone. Nothing advanced; restore it and run the same \
                     command again",
                    target.table,
                    target.path.display()
                ),
            });
        };
        let settings = |what: String| SinkError::Settings { what };
        let plan =
            Plan::new(&batch.schema, &target.table, &found, &target.key).map_err(settings)?;
        if let (false, Some(why)) = (self.has_written, plan.homeless_in_all(batch, rows)) {
            return Err(settings(format!(
                "the records do not fit table '{}' in {}: {why}. Leave the column out with \
                 `select`, rename it with `rename`, or add it to the table",
                target.table,
                target.path.display()
            )));
        }
        let columns = batch.schema.columns.iter().map(|column| &*column.name);
        self.numbers_rows = target.mode == Mode::Append && found.numbers_rows(columns);
        Ok(plan)
    }

    fn create(
        &self,
        target: &Target,
        batch: &Batch,
        rows: &Range<usize>,
    ) -> rusqlite::Result<Option<Table>> {
        table::create(&self.conn, &target.table, &target.key, batch, rows)?;
        Table::inspect(&self.conn, &target.table)
    }

    /// Adds the columns that a table of our own lacks.
    fn with_columns(
        &self,
        found: Option<Table>,
        target: &Target,
        batch: &Batch,
        rows: &Range<usize>,
    ) -> rusqlite::Result<Option<Table>> {
        let Target { table, create, .. } = target;
        let Some(present) = &found else { return Ok(None) };
        let columns = &batch.schema.columns;
        let new: Vec<usize> =
            (0..columns.len()).filter(|i| present.field(&columns[*i].name).is_none()).collect();
        if new.is_empty() || !*create || !table::is_ours(&self.conn, table)? {
            return Ok(found);
        }
        for column in new {
            table::add_column(&self.conn, table, column, batch, rows)?;
        }
        Table::inspect(&self.conn, table)
    }
}
