//! The cursor whose checkpoint commits with the effects.

use std::{
    mem,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use piton_core::{Epoch, Position, RunEnd, Saved, StoredPosition, fault, position::order_of};
use piton_stores::joined::{Advance, sqlite::Joined};
use pollster::block_on;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use serde::{Serialize, de::DeserializeOwned};

use super::open::of_ledger;
use crate::{
    error::{CursorError, EffectsError},
    options::Options,
    session::Session,
    state::{Changes, parse},
};

/// How far the store's copy may be behind.
const COPY_EVERY: Duration = Duration::from_secs(1);

/// A job's place in its data, kept in the program's own database and moved in the transaction of
/// the effects.
///
/// Every method that touches the database is given the connection; it must be the one that was
/// given when opening, or another to the same database. Dropping a cursor is a crash: an open
/// transaction rolls back, and the claim is free at once.
#[must_use = "a cursor that is dropped gives its claim up"]
pub struct Cursor<P: Position> {
    session: Session,
    joined: Joined,
    /// What is committed for certain.
    position: Option<P>,
    /// What was written last, in a transaction that may not have ended yet.
    written: Option<P>,
    changes: Changes,
    /// How many records the next save counts.
    counts: u64,
    records_before: u64,
    options: Options,
    /// Whether the store is told: not where a commit may be lost with the power.
    copies: bool,
    copied: (Instant, u64),
    renewed_at: Instant,
    ended: Option<Ended>,
}

/// Why nothing more is written.
#[derive(Debug, Clone)]
enum Ended {
    Fenced(Epoch),
    InDoubt(String),
}

impl<P: Position> Cursor<P> {
    pub(super) fn new(
        session: Session,
        joined: Joined,
        position: Option<P>,
        options: Options,
        copies: bool,
    ) -> Self {
        let mut cursor = Self {
            records_before: joined.checkpoint().records,
            renewed_at: Instant::now(),
            session,
            joined,
            position,
            written: None,
            changes: Changes::default(),
            counts: 1,
            copies,
            copied: (Instant::now(), 0),
            options,
            ended: None,
        };
        cursor.copy();
        cursor
    }

    /// The position that is committed for certain: after opening, the stored one. `None`: begin at
    /// the start.
    pub fn position(&self) -> Option<&P> {
        self.position.as_ref()
    }

    /// Records passed over all runs, as far as they are committed.
    pub fn records(&self) -> u64 {
        self.joined.checkpoint().records
    }

    /// The epoch of this cursor's claim: grows with every owner of the job.
    pub fn epoch(&self) -> u64 {
        self.session.claim.epoch.0
    }

    /// Does one record exactly once: in one transaction stores the position, runs the effects only
    /// if it was stored, and commits. Only after the commit does this cursor stand there.
    ///
    /// Anything but [`Saved::Stored`] rolls back, and the effects were not run:
    /// [`Saved::Ignored`] means that they were committed with this position before,
    /// [`Saved::Fenced`] that a newer owner has taken over, the others that somebody else moved the
    /// checkpoint, or that positions are not passed in order.
    ///
    /// # Errors
    /// Everything is rolled back: [`CursorError::Effects`] if the effects failed,
    /// [`CursorError::Database`] if the database did. [`CursorError::InDoubt`] if it is not known
    /// whether the commit took effect: open the cursor again.
    pub fn transaction(
        &mut self,
        conn: &mut Connection,
        position: P,
        effects: impl FnOnce(&Transaction<'_>) -> Result<(), EffectsError>,
    ) -> Result<Saved, CursorError> {
        self.in_one(conn, |cursor, tx| {
            let saved = cursor.store_in(tx, position)?;
            if saved.is_stored() {
                effects(tx).map_err(|error| cursor.of_effects(error))?;
            }
            Ok(saved)
        })
    }

    /// As [`transaction`](Self::transaction) in the other order: runs the effects, which return the
    /// position that they reached, and stores it then. For a handler that learns only while it
    /// works how far it gets. Anything but [`Saved::Stored`] rolls the effects back.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction).
    pub fn transaction_saving_last(
        &mut self,
        conn: &mut Connection,
        effects: impl FnOnce(&Transaction<'_>) -> Result<P, EffectsError>,
    ) -> Result<Saved, CursorError> {
        self.in_one(conn, |cursor, tx| {
            let position = effects(tx).map_err(|error| cursor.of_effects(error))?;
            cursor.store_in(tx, position)
        })
    }

    fn in_one(
        &mut self,
        conn: &mut Connection,
        work: impl FnOnce(&mut Self, &Transaction<'_>) -> Result<Saved, CursorError>,
    ) -> Result<Saved, CursorError> {
        let result = self.begin_and_commit(conn, work);
        // Changed state belongs to one attempt at one record.
        self.changes.clear();
        self.counts = 1;
        let saved = result?;
        if saved.is_stored() {
            self.committed();
        }
        Ok(saved)
    }

    fn begin_and_commit(
        &mut self,
        conn: &mut Connection,
        work: impl FnOnce(&mut Self, &Transaction<'_>) -> Result<Saved, CursorError>,
    ) -> Result<Saved, CursorError> {
        if let Some(fenced) = self.refuse_ended()? {
            return Ok(fenced);
        }
        // The lock first: nothing that is read here can be outdated when it is written.
        let tx = conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| self.of_database("begin a transaction", error))?;
        fault::point("sink.begin");
        let saved = work(self, &tx)?;
        fault::point("sink.after");
        if !saved.is_stored() {
            let end = tx.rollback();
            end.map_err(|error| self.of_database("roll back", error))?;
            return Ok(saved);
        }
        let committed = fault::fail("commit.before")
            .map_err(|error| as_reported(&error))
            .and_then(|()| tx.commit())
            .and_then(|()| fault::fail("commit.after").map_err(|error| as_reported(&error)));
        match committed {
            Ok(()) => Ok(saved),
            Err(error) if is_certain(&error) => Err(self.of_database("commit", error)),
            Err(error) => {
                self.ended = Some(Ended::InDoubt(error.to_string()));
                Err(self.in_doubt(error.to_string()))
            }
        }
    }

    /// Stores a position in a transaction that the caller has begun and will commit, with changed
    /// state. Anything but [`Saved::Stored`] wrote nothing, and means that the effects in that
    /// transaction must not stand: roll back.
    ///
    /// Begin the transaction as `IMMEDIATE`, or expect `SQLITE_BUSY` where others write, too. After
    /// the commit, say so ([`committed`](Self::committed)); if it fails with anything but a busy
    /// database or a full disk, open the cursor again.
    ///
    /// # Errors
    /// [`CursorError::Database`], [`CursorError::Damaged`]: roll back.
    pub fn save_in(&mut self, tx: &Transaction<'_>, position: &P) -> Result<Saved, CursorError> {
        self.store_in(tx, position.clone())
    }

    fn store_in(&mut self, tx: &Transaction<'_>, position: P) -> Result<Saved, CursorError> {
        let state = self.changes.to_save();
        self.changes.clear();
        let records = mem::replace(&mut self.counts, 1);
        if let Some(fenced) = self.refuse_ended()? {
            return Ok(fenced);
        }
        let job = self.session.job();
        let at_rest = StoredPosition::of(&position)
            .map_err(|error| CursorError::Position { job: job.to_owned(), error })?;
        let advance = Advance { position: at_rest, order: order_of::<P>, records, state };
        let saved = self.joined.save(tx, &advance, Timestamp::now());
        let saved = saved.map_err(|error| of_ledger(job, "store the position", error))?;
        match saved {
            Saved::Stored { .. } => self.written = Some(position),
            Saved::Fenced { epoch } => self.ended = Some(Ended::Fenced(epoch)),
            _ => {}
        }
        Ok(saved)
    }

    /// Says that the transaction of the last [`save_in`](Self::save_in) has committed:
    /// [`position`](Self::position) and the store's copy follow. Without it the database is right
    /// all the same.
    pub fn committed(&mut self) {
        if let Some(written) = self.written.take() {
            self.position = Some(written);
            self.joined.committed();
            self.in_passing();
        }
    }

    /// Makes the next save count this many records instead of one: for many in one transaction.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), piton::CursorError> {
    /// # let mut conn = piton::rusqlite::Connection::open("x.db").unwrap();
    /// # let store = piton::open("memory:")?;
    /// # let mut cursor = piton::sqlite::Cursor::<u64>::open(&store, &mut conn, "x")?;
    /// # let (last, batch) = (1, [0; 500]);
    /// let saved = cursor.counting(batch.len() as u64).transaction(&mut conn, last, |tx| {
    ///     // … the effects of all of them …
    /// #   Ok(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn counting(&mut self, records: u64) -> &mut Self {
        self.counts = records;
        self
    }

    /// Shows others that this owner lives. Every commit does it by the way; call it while a
    /// transaction takes longer than the lease.
    ///
    /// # Errors
    /// [`CursorError::Fenced`] when a newer owner has taken over.
    pub fn renew(&mut self) -> Result<(), CursorError> {
        let asked = Instant::now();
        if let Some(epoch) = block_on(self.session.renew())? {
            self.ended = Some(Ended::Fenced(epoch));
            return Err(self.session.fenced(epoch));
        }
        self.renewed_at = asked;
        Ok(())
    }

    /// Removes the checkpoint and its state, unless [`Options::keep`] is set. Runs and history stay
    /// in the store.
    ///
    /// # Errors
    /// [`CursorError::Fenced`], or what the database or the store fails with.
    pub fn finish(mut self, conn: &mut Connection) -> Result<(), CursorError> {
        if let Some(Saved::Fenced { epoch }) = self.refuse_ended()? {
            return Err(self.session.fenced(epoch));
        }
        if self.options.keep {
            self.copy();
        } else {
            let forgotten = self.joined.forget(conn);
            forgotten.map_err(|e| of_ledger(self.session.job(), "remove the checkpoint", e))?;
            let saved = block_on(self.session.store.complete(&self.session.claim, None))?;
            if let Saved::Fenced { epoch } = saved {
                return Err(self.session.fenced(epoch));
            }
        }
        self.end(RunEnd::Finished)
    }

    /// Gives the claim up, to go on another time. There is nothing to save: every commit did.
    ///
    /// # Errors
    /// What the store fails with.
    pub fn stop(mut self) -> Result<(), CursorError> {
        self.copy();
        self.end(RunEnd::Stopped)
    }

    fn end(self, end: RunEnd) -> Result<(), CursorError> {
        let records = self.records().saturating_sub(self.records_before);
        block_on(self.session.end(end, records))
    }

    /// The program's own state: the single value, `None` if there is none yet.
    ///
    /// # Errors
    /// [`CursorError::State`] if it is not a `T`.
    pub fn state<T: DeserializeOwned>(&self, conn: &Connection) -> Result<Option<T>, CursorError> {
        self.get(conn, "")
    }

    /// Replaces the single value, in the transaction of the next save.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn set_state<T: Serialize>(&mut self, value: &T) -> Result<(), CursorError> {
        self.put("", value)
    }

    /// One entry of keyed state, with changes that are not saved yet. The empty key is the single
    /// value.
    ///
    /// # Errors
    /// [`CursorError::State`] if it is not a `T`.
    pub fn get<T: DeserializeOwned>(
        &self,
        conn: &Connection,
        key: &str,
    ) -> Result<Option<T>, CursorError> {
        let job = self.session.job();
        if let Some(changed) = self.changes.get(key) {
            return changed.read(job, key);
        }
        let found = self.joined.state(conn, key);
        let found = found.map_err(|error| of_ledger(job, "read the state", error))?;
        let json = found.and_then(|entry| entry.json);
        json.map(|json| parse(job, key, &json)).transpose()
    }

    /// Every entry of the state in the order of keys, with changes that are not saved yet.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn entries<T: DeserializeOwned>(
        &self,
        conn: &Connection,
    ) -> Result<Vec<(String, T)>, CursorError> {
        let job = self.session.job();
        let stored = self.joined.entries(conn);
        self.changes.over(job, stored.map_err(|e| of_ledger(job, "read the state", e))?)
    }

    /// Changes one entry of keyed state in the transaction of the next save, and only in that: if
    /// it is rolled back, for whatever reason, the change is gone. So change the state of a record
    /// right before its transaction, and again when it is tried again.
    ///
    /// # Errors
    /// [`CursorError::State`] if it cannot be written as JSON.
    pub fn put<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), CursorError> {
        self.changes.put(self.session.job(), key, value)
    }

    /// Removes one entry of keyed state, as [`put`](Self::put) changes one.
    pub fn remove(&mut self, key: &str) {
        self.changes.remove(key);
    }

    /// Renews the claim and brings the store's copy up to date when they are due. What the store
    /// cannot take now is tried again later: the database is right without it.
    fn in_passing(&mut self) {
        if self.renewed_at.elapsed() >= self.options.lease / 3 {
            let _ = self.renew();
        }
        if self.copied.0.elapsed() >= COPY_EVERY {
            self.copy();
        }
    }

    fn copy(&mut self) {
        let checkpoint = self.joined.checkpoint();
        if !self.copies || self.copied.1 == checkpoint.version {
            return;
        }
        let version = checkpoint.version;
        let copy = vec![checkpoint.clone()];
        match block_on(self.session.store.mirror(&self.session.claim, copy)) {
            Ok(Saved::Fenced { epoch }) => self.ended = Some(Ended::Fenced(epoch)),
            Ok(_) => self.copied = (Instant::now(), version),
            Err(_) => self.copied.0 = Instant::now(),
        }
    }

    /// A cursor that was fenced writes nothing more; one in doubt must be opened again.
    fn refuse_ended(&self) -> Result<Option<Saved>, CursorError> {
        match &self.ended {
            None => Ok(None),
            Some(Ended::Fenced(epoch)) => Ok(Some(Saved::Fenced { epoch: *epoch })),
            Some(Ended::InDoubt(what)) => Err(self.in_doubt(what.clone())),
        }
    }

    fn in_doubt(&self, what: String) -> CursorError {
        CursorError::InDoubt { job: self.session.job().to_owned(), what }
    }

    fn of_database(&self, doing: &'static str, error: rusqlite::Error) -> CursorError {
        CursorError::Database { job: self.session.job().to_owned(), doing, error }
    }

    fn of_effects(&self, error: EffectsError) -> CursorError {
        CursorError::Effects { job: self.session.job().to_owned(), error }
    }
}

impl<P: Position> std::fmt::Debug for Cursor<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor")
            .field("claim", &self.session.claim)
            .field("checkpoint", self.joined.checkpoint())
            .finish_non_exhaustive()
    }
}

/// Whether a commit that failed with this is known to have changed nothing.
fn is_certain(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::ReadOnly
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::ConstraintViolation
        )
    )
}

/// An error of the operating system as SQLite would report it: for the crash harness.
fn as_reported(error: &std::io::Error) -> rusqlite::Error {
    use rusqlite::ffi;
    let is_full = error.kind() == std::io::ErrorKind::StorageFull;
    let code = if is_full { ffi::SQLITE_FULL } else { ffi::SQLITE_IOERR_FSYNC };
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
}
