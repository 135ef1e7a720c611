//! Checkpoints in a SQLite database of somebody else's.
//!
//! - [`Ledger`] and its [`tables`], with their protection, for a sink that commits rows of many
//!   partitions;
//! - [`Joined`]: one checkpoint with the program's own state (`piton_state`), for a program that
//!   begins and commits its transactions itself.

mod rows;
pub mod tables;

use std::{future::ready, slice};

use jiff::Timestamp;
use piton_core::{
    Checkpoint, CheckpointKey, Epoch, Order, OrderKind, Save, Saved, StateEntry,
    checksum::Manifest, fault,
};
use rusqlite::{Connection, Transaction, TransactionBehavior};

pub use super::ledger::Ledger;
use super::{Advance, JoinsTransaction, ledger};
use crate::state_table::{StateError, StateTable};

/// Why the checkpoints of a SQLite database could not be used.
pub type LedgerError = ledger::LedgerError<rusqlite::Error>;

const STATE: StateTable = StateTable("piton_state");

/// The trigger makes the state go with its checkpoint, whoever deletes that.
const STATE_TABLE: &str = "
CREATE TABLE IF NOT EXISTS piton_state (
  pipeline TEXT NOT NULL,
  partition TEXT NOT NULL,
  sink TEXT NOT NULL,
  key TEXT NOT NULL,
  json TEXT NOT NULL,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (pipeline, partition, sink, key)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS piton_state_deleted AFTER DELETE ON piton_checkpoints BEGIN
  DELETE FROM piton_state
  WHERE pipeline = old.pipeline AND partition = old.partition AND sink = old.sink;
END;
";

impl From<StateError> for LedgerError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Sql(error) => error.into(),
            StateError::Altered { row } => {
                Self::Damaged { what: format!("the row {row} of piton_state was altered") }
            }
        }
    }
}

/// What identifies an owner that takes over.
#[derive(Debug)]
pub struct TakeOver<'a> {
    /// The checkpoint.
    pub key: CheckpointKey,
    /// The epoch of the claim: above every one that has written here.
    pub epoch: Epoch,
    /// Orders to apply in the same transaction, oldest first.
    pub orders: &'a [Order],
    /// The version that a copy elsewhere has, below which this one must not go on.
    pub copied: u64,
    /// The time to show to people.
    pub now: Timestamp,
}

/// One checkpoint in the caller's database, and what its owner knows of it.
///
/// Its row says how many entries of state belong to it (`sink_state`), so that a missing one is
/// noticed.
#[derive(Debug)]
pub struct Joined {
    epoch: Epoch,
    /// What is committed for certain.
    known: Checkpoint,
    /// What was written last, in a transaction of which the end is not known here.
    written: Option<Checkpoint>,
}

impl Joined {
    /// Takes over, in one transaction under the database's write lock: writes the epoch into the
    /// row (creating it, and its table, if need be), applies orders, and only then reads.
    ///
    /// # Errors
    /// [`LedgerError::Fenced`] if the epoch is not the newest: nothing was written.
    pub fn take_over(conn: &mut Connection, by: &TakeOver<'_>) -> Result<Self, LedgerError> {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut ledger = tables::read(&tx, &by.key.pipeline, &by.key.sink)?;
        if ledger.epoch >= by.epoch {
            return Err(LedgerError::Fenced { epoch: ledger.epoch });
        }
        tables::create_tables(&tx)?;
        tx.execute_batch(STATE_TABLE)?;
        let mut row = match ledger.rows.remove(&by.key.partition) {
            Some(row) => row,
            None => begin(&tx, &by.key, by.now)?,
        };
        if STATE.all(&tx, &row.key)?.1 != state_of(&row) {
            let what = "entries of piton_state are missing, or not the same ones".to_owned();
            return Err(LedgerError::Damaged { what });
        }
        apply(&tx, &mut row, by)?;
        if row.version <= by.copied {
            row.version = by.copied + 1;
        }
        ledger.rows.insert(row.key.partition.clone(), row.clone());
        ledger.rows.values_mut().for_each(|row| row.epoch = by.epoch);
        ledger.epoch = by.epoch;
        tables::write(&tx, &mut ledger)?;
        fault::point("recover");
        tx.commit()?;
        fault::point("recover");
        row.epoch = by.epoch;
        Ok(Self { epoch: by.epoch, known: row, written: None })
    }

    /// The checkpoint as it is committed for certain.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.known
    }

    /// Moves the checkpoint in the caller's transaction.
    ///
    /// # Errors
    /// As [`JoinsTransaction::save_in`].
    pub fn save(
        &mut self,
        tx: &Transaction<'_>,
        advance: &Advance,
        now: Timestamp,
    ) -> Result<Saved, LedgerError> {
        let key = &self.known.key;
        let ledger = tables::read(tx, &key.pipeline, &key.sink)?;
        let stored = ledger.rows.get(&key.partition);
        let saved = self.judge(&ledger, stored, advance);
        let (Saved::Stored { version }, Some(stored)) = (&saved, stored) else {
            return Ok(saved);
        };
        let state = STATE.apply(tx, key, &advance.state, state_of(stored))?;
        let new = Checkpoint {
            position: Some(advance.position.clone()),
            records: stored.records + advance.records,
            version: *version,
            epoch: self.epoch,
            updated_at: now,
            sink_state: described(state),
            ..stored.clone()
        };
        if tables::advance(tx, &ledger, slice::from_ref(&new))?.is_none() {
            return Err(LedgerError::Altered);
        }
        self.written = Some(new);
        Ok(saved)
    }

    /// What stands is expected if this owner wrote it: it is what is known to be committed, or
    /// what came after that in a transaction of which nobody has told the end.
    fn judge(&self, ledger: &Ledger, stored: Option<&Checkpoint>, advance: &Advance) -> Saved {
        let at = stored.and_then(|stored| stored.position.clone());
        if ledger.epoch < self.epoch {
            return Saved::Mismatch { stored: at };
        }
        if ledger.epoch == self.epoch && at.as_ref() == Some(&advance.position) {
            return Saved::Ignored;
        }
        let newest = self.written.as_ref().unwrap_or(&self.known).version;
        let mine = |row: &&Checkpoint| (self.known.version..=newest).contains(&row.version);
        let expected = stored.filter(mine).unwrap_or(&self.known);
        let save = Save {
            key: self.known.key.clone(),
            expected_version: expected.version,
            expected: expected.position.clone(),
            position: Some(advance.position.clone()),
            order: advance.order,
            records: advance.records,
            schema_version: 0,
            sink_state: None,
            state: Vec::new(),
        };
        Saved::judge(stored, &save, ledger.epoch, self.epoch)
    }

    /// The transaction of the last [`save`](Self::save) has committed.
    pub fn committed(&mut self) {
        if let Some(written) = self.written.take() {
            self.known = written;
        }
    }

    /// One entry of the state, as this connection sees it.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`], or what the database fails with.
    pub fn state(&self, conn: &Connection, key: &str) -> Result<Option<StateEntry>, LedgerError> {
        Ok(STATE.find(conn, &self.known.key, key)?)
    }

    /// Every entry of the state, in the order of keys.
    ///
    /// # Errors
    /// As [`state`](Self::state).
    pub fn entries(&self, conn: &Connection) -> Result<Vec<StateEntry>, LedgerError> {
        Ok(STATE.all(conn, &self.known.key)?.0)
    }

    /// Removes the checkpoint and its state, in a transaction of its own. That it was removed by
    /// this owner stays known by its epoch.
    ///
    /// # Errors
    /// [`LedgerError::Fenced`], or what the database fails with.
    pub fn forget(&mut self, conn: &mut Connection) -> Result<(), LedgerError> {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let key = &self.known.key;
        let ledger = tables::read(&tx, &key.pipeline, &key.sink)?;
        ledger.admit(self.epoch)?;
        STATE.forget(&tx, key)?;
        tables::forget(&tx, &ledger)?;
        fault::point("commit.before");
        tx.commit()?;
        fault::point("commit.after");
        Ok(())
    }
}

impl<'t, 'c> JoinsTransaction<&'t Transaction<'c>> for Joined {
    type Error = LedgerError;

    fn save_in(
        &mut self,
        tx: &'t Transaction<'c>,
        advance: &Advance,
        now: Timestamp,
    ) -> impl Future<Output = Result<Saved, LedgerError>> {
        ready(self.save(tx, advance, now))
    }
}

/// A checkpoint before anything is done, with nothing left of one that was removed.
fn begin(
    tx: &Transaction<'_>,
    key: &CheckpointKey,
    now: Timestamp,
) -> Result<Checkpoint, LedgerError> {
    STATE.forget(tx, key)?;
    Ok(Checkpoint {
        key: key.clone(),
        position: None,
        records: 0,
        version: 1,
        epoch: Epoch(0),
        schema_version: 0,
        updated_at: now,
        sink_state: None,
    })
}

/// Applies the orders that count: what came before a reset counts no more.
fn apply(tx: &Transaction<'_>, row: &mut Checkpoint, by: &TakeOver<'_>) -> Result<(), LedgerError> {
    let covers = |order: &&Order| order.covers(&row.key.partition, &row.key.sink);
    let orders: Vec<&Order> = by.orders.iter().filter(covers).collect();
    let reset = orders.iter().rposition(|order| order.kind == OrderKind::Reset);
    for order in orders.iter().skip(reset.unwrap_or(0)) {
        match order.kind {
            OrderKind::Reset => {
                STATE.forget(tx, &row.key)?;
                row.sink_state = None;
            }
            OrderKind::Rewind if state_of(row).rows > 0 => return Err(LedgerError::HasState),
            OrderKind::Rewind => {}
        }
        row.position.clone_from(&order.position);
        row.records = order.records;
        row.version += 1;
        row.updated_at = by.now;
    }
    Ok(())
}

/// How much state belongs to a checkpoint.
fn state_of(row: &Checkpoint) -> Manifest {
    let described = row.sink_state.as_deref();
    described.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn described(state: Manifest) -> Option<String> {
    if state == Manifest::default() { None } else { serde_json::to_string(&state).ok() }
}
