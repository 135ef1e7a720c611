//! An open transaction of the sink: rows, then the checkpoint, then `COMMIT`.
//!
//! A statement takes effect as a whole or not at all, and a batch is between savepoints. When the
//! server refuses a row, what the batch has done is undone, and it is sent again in pieces until
//! the row is found.

use std::{mem, ops::Range, sync::Arc, time::Instant};

use jiff::Timestamp;
use mysql::{Error, prelude::Queryable as _};
use piton_core::{Checkpoint, checksum::Manifest, fault};
use piton_stores::joined::mysql::{Ledger, tables};

use super::{
    errors::{described, failure, is_of_a_row, is_of_a_type, of_ledger, says},
    settings::Target,
    sink::{History, Open},
    table::Table,
    writer::{Trouble, bad},
};
use crate::{
    batch::Batch,
    orders,
    sink::{Advance, Committed, SinkError, Transaction},
};

/// Of so many records one should fit.
const PROBE: usize = 10;

/// A column of that name is there: somebody else added it.
const DUPLICATE_COLUMN: u16 = 1060;

/// There is no such table.
const NO_TABLE: u16 = 1146;

/// A transaction that has the checkpoints locked. Dropped, it rolls back.
pub(super) struct MySqlTransaction<'a> {
    target: &'a Target,
    open: &'a mut Open,
    history: Arc<History>,
    has_written: bool,
    /// Whether an error ended it: the server may have rolled it back, so that nothing of it may
    /// be committed.
    is_over: bool,
}

/// What became of an attempt to write rows.
enum Attempt {
    Done,
    /// The server refused one of them: nothing of the attempt stands.
    Refused(Error),
}

impl<'a> MySqlTransaction<'a> {
    pub(super) fn new(target: &'a Target, open: &'a mut Open, history: Arc<History>) -> Self {
        Self { target, open, history, has_written: false, is_over: false }
    }

    fn at(&self) -> &'a str {
        self.target.server.location()
    }

    /// Writes rows until one is refused: that one is found by halving.
    fn send(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError> {
        let mut start = rows.start;
        // A row that is refused lies before this one.
        let mut narrowed: Option<usize> = None;
        let mut size = rows.len();
        while start < rows.end {
            let until = (start + size).min(rows.end);
            match self.attempt(batch, start..until)? {
                Attempt::Done => {
                    start = until;
                    narrowed = narrowed.filter(|end| start < *end);
                    size = narrowed.map_or(rows.len(), |end| (end - start).div_ceil(2));
                }
                Attempt::Refused(error) if until - start == 1 => {
                    let reason = self.reason(&error, batch, start);
                    if start == 0
                        && is_of_a_type(&error)
                        && self.is_first()
                        && self.all_refused(batch, 1..rows.end.min(PROBE))?
                    {
                        return Err(self.unfit(&reason));
                    }
                    return Err(bad(start, reason));
                }
                Attempt::Refused(_) => {
                    narrowed = Some(until);
                    size = (until - start) / 2;
                }
            }
        }
        Ok(())
    }

    /// Whether nothing was ever written for this pipeline.
    fn is_first(&self) -> bool {
        self.open.ledger.rows.values().all(|checkpoint| checkpoint.position.is_none())
    }

    /// Whether the server takes none of several rows because of a value's type. Nothing of it
    /// stands afterwards.
    fn all_refused(&mut self, batch: &Batch, rows: Range<usize>) -> Result<bool, SinkError> {
        self.execute("SAVEPOINT piton_probe")?;
        let mut is_none_taken = !rows.is_empty();
        for row in rows {
            is_none_taken = match self.attempt(batch, row..row + 1) {
                Ok(Attempt::Refused(error)) => is_of_a_type(&error),
                Ok(Attempt::Done) | Err(SinkError::BadRow { .. }) => false,
                Err(error) => return Err(error),
            };
            if !is_none_taken {
                break;
            }
        }
        self.execute("ROLLBACK TO SAVEPOINT piton_probe")?;
        Ok(is_none_taken)
    }

    fn execute(&mut self, sql: &str) -> Result<(), SinkError> {
        let done = self.open.conn.query_drop(sql);
        done.map_err(|error| failure(self.at(), "write rows", &error))
    }

    /// Records of which none fits.
    fn unfit(&self, reason: &str) -> SinkError {
        SinkError::Settings {
            what: format!(
                "the records do not fit {} in {}: {reason}; and so for all of the first records. \
                 Give the column another type, or leave it out with `select`",
                self.target.table.written(),
                self.at()
            ),
        }
    }

    /// Writes rows; all of them, or none.
    fn attempt(&mut self, batch: &Batch, rows: Range<usize>) -> Result<Attempt, SinkError> {
        let at = self.at();
        let Open { conn, writer, .. } = &mut *self.open;
        let saved = conn.query_drop("SAVEPOINT piton_rows");
        saved.map_err(|e| failure(at, "write rows", &e))?;
        match writer.write(conn, self.target, batch, rows) {
            Ok(()) => Ok(Attempt::Done),
            Err(Trouble::Known(error)) => Err(error),
            Err(Trouble::Server(error)) if is_of_a_row(&error) => {
                writer.drop_rows();
                let undone = conn.query_drop("ROLLBACK TO SAVEPOINT piton_rows");
                undone.map_err(|e| failure(at, "write rows", &e))?;
                Ok(Attempt::Refused(error))
            }
            Err(Trouble::Server(error)) if says(&error, NO_TABLE) && self.is_gone() => {
                Err(self.gone())
            }
            Err(Trouble::Server(error)) => Err(failure(at, "write rows", &error)),
            Err(Trouble::Gone) => Err(self.gone()),
            Err(Trouble::Grow(statement)) => Err(self.grow(&statement)),
        }
    }

    /// Whether the table was dropped of which a checkpoint speaks. Ends the transaction.
    fn is_gone(&mut self) -> bool {
        let name = self.target.table.fixed().filter(|_| self.open.writer.must_find);
        let Some(name) = name else { return false };
        self.open.roll_back();
        matches!(Table::inspect(&mut self.open.conn, &name), Ok(None))
    }

    fn gone(&self) -> SinkError {
        let Ledger { pipeline, sink, .. } = &self.open.ledger;
        orders::gone(self.target.table.written(), self.at(), pipeline, sink)
    }

    /// Gives a table new columns. That commits what is open, so this transaction is given up first.
    fn grow(&mut self, statement: &str) -> SinkError {
        let at = self.at();
        self.open.roll_back();
        self.open.writer.reset();
        match self.open.conn.query_drop(statement) {
            Err(error) if !says(&error, DUPLICATE_COLUMN) => {
                failure(at, "add columns to a table", &error)
            }
            _ => SinkError::Unavailable {
                what: format!(
                    "a table in {at} was given new columns, which ends a transaction. The records \
                     since the last checkpoint are written again"
                ),
            },
        }
    }

    /// What the server has against a row, with column and value.
    fn reason(&self, error: &Error, batch: &Batch, row: usize) -> String {
        let said = match described(error) {
            // What the statement says where the row with the same value has another key.
            _ if says(error, 1365) => {
                "another row has the same value in a unique index that is not the key".to_owned()
            }
            said => said.strip_suffix(" at row 1").map(str::to_owned).unwrap_or(said),
        };
        let Some(plan) = self.open.writer.plan() else { return said };
        match (plan.value_of(&said, batch, row), plan.key_of(batch, row)) {
            (Some(value), _) => format!("{value}: {said}"),
            (None, key) if key.is_empty() => said,
            (None, key) => format!("{said} ({key})"),
        }
    }

    /// Writes the new checkpoints, each over the one that is known.
    fn advance(&mut self, upto: &[Advance]) -> Result<(Vec<Checkpoint>, Manifest), SinkError> {
        let at = self.at();
        let Open { conn, ledger, writer, .. } = &mut *self.open;
        let has_table = self.target.table.is_fixed() && writer.has_tables();
        let now = Timestamp::now();
        let advanced = |advance| {
            let checkpoint = orders::advanced(ledger, advance, now);
            if has_table { orders::with_table(checkpoint) } else { checkpoint }
        };
        let new: Vec<Checkpoint> = upto.iter().map(advanced).collect();
        let stored = tables::advance(conn, ledger, &new);
        let pipeline = &ledger.pipeline;
        match stored.map_err(|e| of_ledger(at, pipeline, "write the checkpoints", e))? {
            Some(manifest) => Ok((new, manifest)),
            None => Err(SinkError::Refused {
                what: format!(
                    "a checkpoint of pipeline '{pipeline}' in {at} was altered by another hand \
                     while it ran. Nothing was written; run it again to see where it stands"
                ),
            }),
        }
    }

    fn write_all(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError> {
        if mem::replace(&mut self.has_written, true) {
            self.send(batch, rows)?;
        } else {
            let middle = rows.start + rows.len() / 2;
            self.send(batch, rows.start..middle)?;
            fault::point("sink.middle");
            self.send(batch, middle..rows.end)?;
        }
        fault::point("sink.after");
        Ok(())
    }
}

impl Drop for MySqlTransaction<'_> {
    fn drop(&mut self) {
        self.open.roll_back();
    }
}

impl Transaction for MySqlTransaction<'_> {
    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError> {
        let written = self.write_all(batch, rows);
        self.is_over |=
            written.as_ref().is_err_and(|error| !matches!(error, SinkError::BadRow { .. }));
        written
    }

    fn commit(mut self: Box<Self>, upto: &[Advance]) -> Result<Committed, SinkError> {
        if self.is_over {
            let what = format!("a transaction in {} has failed before", self.at());
            return Err(SinkError::Unavailable { what });
        }
        let began = Instant::now();
        let (checkpoints, manifest) = self.advance(upto)?;
        let checkpointing = began.elapsed();
        self.open.commit(self.at())?;
        self.open.ledger.accept(&checkpoints, manifest);
        let writer = &mut self.open.writer;
        if self.target.table.is_fixed() && writer.has_tables() && !upto.is_empty() {
            writer.must_find = true;
            self.history.note_table();
        }
        Ok(Committed { checkpoints, checkpointing })
    }
}
