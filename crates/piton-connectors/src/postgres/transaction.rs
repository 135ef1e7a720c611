//! An open transaction of the sink: rows, then the checkpoint, then `COMMIT`.
//!
//! Rows are sent without waiting for what the server says to each: a `COPY` stays open from one
//! batch to the next, and its answer comes at the end. If the server then refuses a row, it is not
//! known any more which batch had it. So nothing is committed, the same records come again, and
//! are sent *carefully*: every batch inside a savepoint, with an answer, until the row is found.

use std::{mem, ops::Range, sync::Arc, time::Instant};

use jiff::Timestamp;
use piton_core::{Checkpoint, checksum::Manifest, fault};
use piton_stores::joined::postgres::{Ledger, tables};
use tokio_postgres::Error;

use super::{
    connect::describe,
    errors::{failure, is_of_a_row, is_of_a_type, is_of_no_table, of_ledger},
    plan::bad,
    settings::Target,
    sink::{History, Open},
    table::Table,
    wire::Wire,
    writer::Trouble,
};
use crate::{
    batch::Batch,
    orders,
    sink::{Advance, Committed, SinkError, Transaction},
};

/// Of so many records one should fit.
const PROBE: usize = 10;

/// A transaction that has the checkpoints locked. Dropped, it rolls back.
pub(super) struct PostgresTransaction<'a> {
    target: &'a Target,
    open: &'a mut Open,
    history: Arc<History>,
    has_written: bool,
}

/// What became of an attempt to write rows.
enum Attempt {
    Done,
    /// The server refused one of them: nothing of the attempt stands.
    Refused(Error),
}

impl<'a> PostgresTransaction<'a> {
    pub(super) fn new(target: &'a Target, open: &'a mut Open, history: Arc<History>) -> Self {
        Self { target, open, history, has_written: false }
    }

    fn at(&self) -> &'a str {
        self.target.server.location()
    }

    /// Sends rows without waiting for an answer.
    fn send(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError> {
        if self.open.writer.strict {
            return self.send_carefully(batch, rows);
        }
        let Open { wire, writer, .. } = &mut *self.open;
        let sent = wire.wait(writer.write(&wire.client, self.target, batch, rows));
        sent.map_err(|trouble| self.trouble(trouble))
    }

    /// What it means that rows could not be written, where it is not known which.
    fn trouble(&mut self, trouble: Trouble) -> SinkError {
        match trouble {
            Trouble::Known(error) => error,
            Trouble::Gone => self.gone(),
            Trouble::Server(_) if self.open.writer.met_known && self.open.writer.direct => {
                self.history.note_known();
                SinkError::Unavailable {
                    what: format!(
                        "rows with the same keys are in {} already. The records since the last \
                         checkpoint are written again, over them",
                        self.at()
                    ),
                }
            }
            Trouble::Server(error) if is_of_a_row(&error) => {
                self.history.note_refusal();
                SinkError::Unavailable {
                    what: format!(
                        "{} refused a row: {}. The records since the last checkpoint are written \
                         again, batch by batch, to find it",
                        self.at(),
                        describe(&error)
                    ),
                }
            }
            Trouble::Server(error) if is_of_no_table(&error) && self.is_gone() => self.gone(),
            Trouble::Server(error) => failure(self.at(), "write rows", &error),
        }
    }

    /// Whether the table was dropped of which a checkpoint speaks. Asks by another connection: one
    /// on which a `COPY` could not begin is of no use afterwards.
    fn is_gone(&self) -> bool {
        let name = self.target.table.fixed().filter(|_| self.open.writer.must_find);
        let (Some(name), Ok(wire)) = (name, Wire::open(&self.target.server)) else { return false };
        let found = wire.wait(Table::inspect(&wire.client, &name, self.target.rights()));
        matches!(found, Ok(None))
    }

    fn gone(&self) -> SinkError {
        let Ledger { pipeline, sink, .. } = &self.open.ledger;
        orders::gone(self.target.table.written(), self.at(), pipeline, sink)
    }

    /// Writes rows until one is refused: that one is found by its line or by halving.
    fn send_carefully(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError> {
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
                    self.open.writer.reset();
                    if start == 0
                        && is_of_a_type(&error)
                        && self.is_first()
                        && self.all_refused(batch, 1..rows.end.min(PROBE))?
                    {
                        return Err(self.unfit(&reason));
                    }
                    return Err(bad(start, reason));
                }
                Attempt::Refused(error) => {
                    let suspect = self.open.writer.line(&error).filter(|row| *row < until);
                    narrowed = Some(suspect.map_or(until, |row| row + 1));
                    size = match suspect {
                        Some(row) if row > start => row - start,
                        Some(_) => 1,
                        None => (until - start) / 2,
                    };
                    self.open.writer.reset();
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
            let attempted = self.attempt(batch, row..row + 1)?;
            self.open.writer.reset();
            is_none_taken = matches!(attempted, Attempt::Refused(error) if is_of_a_type(&error));
            if !is_none_taken {
                break;
            }
        }
        self.execute("ROLLBACK TO SAVEPOINT piton_probe; RELEASE SAVEPOINT piton_probe")?;
        Ok(is_none_taken)
    }

    fn execute(&self, sql: &str) -> Result<(), SinkError> {
        let wire = &self.open.wire;
        let done = wire.wait(wire.client.batch_execute(sql));
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

    /// Writes rows and waits for the answer; all of them, or none.
    fn attempt(&mut self, batch: &Batch, rows: Range<usize>) -> Result<Attempt, SinkError> {
        const SAVE: &str = "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT piton_rows";
        const KEEP: &str = "RELEASE SAVEPOINT piton_rows";
        const UNDO: &str = "ROLLBACK TO SAVEPOINT piton_rows; RELEASE SAVEPOINT piton_rows";
        let Open { wire, writer, .. } = &mut *self.open;
        let client = &wire.client;
        let attempted = wire.wait(async {
            client.batch_execute(SAVE).await?;
            let written = writer.write(client, self.target, batch, rows).await;
            match &written {
                Err(Trouble::Server(error)) if is_of_a_row(error) => {
                    client.batch_execute(UNDO).await?;
                }
                // The rows before a row that is known to be bad stand.
                Ok(()) | Err(Trouble::Known(SinkError::BadRow { .. })) => {
                    client.batch_execute(KEEP).await?;
                }
                Err(_) => {}
            }
            written
        });
        match attempted {
            Ok(()) => Ok(Attempt::Done),
            Err(Trouble::Server(error)) if is_of_a_row(&error) => Ok(Attempt::Refused(error)),
            Err(trouble) => Err(self.trouble(trouble)),
        }
    }

    /// What the server has against a row, with column and value.
    fn reason(&self, error: &Error, batch: &Batch, row: usize) -> String {
        let said = describe(error);
        let Some(plan) = self.open.writer.plan() else { return said };
        let context = error.as_db_error().and_then(|said| said.where_()).unwrap_or_default();
        let column = error.as_db_error().and_then(|said| said.column());
        let value =
            column.or_else(|| column_in(context)).and_then(|c| plan.value_of(c, batch, row));
        match (value, plan.key_of(batch, row)) {
            (Some(value), _) => format!("{value}: {said}"),
            (None, key) if key.is_empty() => said,
            (None, key) => format!("{said} ({key})"),
        }
    }

    /// Writes the new checkpoints, each over the one that is known.
    fn advance(&mut self, upto: &[Advance]) -> Result<(Vec<Checkpoint>, Manifest), SinkError> {
        let at = self.at();
        let Open { wire, ledger, statements, writer, .. } = &mut *self.open;
        let has_table = self.target.table.is_fixed() && writer.has_tables();
        let now = Timestamp::now();
        let advanced = |advance| {
            let checkpoint = orders::advanced(ledger, advance, now);
            if has_table { orders::with_table(checkpoint) } else { checkpoint }
        };
        let new: Vec<Checkpoint> = upto.iter().map(advanced).collect();
        let stored = wire.wait(tables::advance(&wire.client, statements, ledger, &new));
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
}

/// The column that the context of an error of `COPY` names: `COPY t, line 3, column qty: "x"`.
fn column_in(context: &str) -> Option<&str> {
    let (_, after) = context.strip_prefix("COPY ")?.split_once(", column ")?;
    let end = after.find([':', '\n']).unwrap_or(after.len());
    Some(&after[..end])
}

impl Drop for PostgresTransaction<'_> {
    fn drop(&mut self) {
        self.open.roll_back();
    }
}

impl Transaction for PostgresTransaction<'_> {
    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError> {
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

    fn commit(mut self: Box<Self>, upto: &[Advance]) -> Result<Committed, SinkError> {
        let Open { wire, writer, .. } = &mut *self.open;
        let settled = wire.wait(writer.settle_all(&wire.client));
        settled.map_err(|error| self.trouble(error.into()))?;
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
        self.history.note_commit(self.open.writer.met_known);
        Ok(Committed { checkpoints, checkpointing })
    }
}
