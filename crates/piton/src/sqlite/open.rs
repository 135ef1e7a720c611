//! Opening: claim, decide every refusal, then fence, then read.

use std::sync::Arc;

use jiff::Timestamp;
use piton_core::{
    CheckpointKey, Epoch, Order, Position, Save, Saved, Store, StoredPosition, position::order_of,
};
use piton_stores::joined::sqlite::{Joined, Ledger, LedgerError, TakeOver, tables};
use pollster::block_on;
use rusqlite::{Connection, TransactionBehavior};

use super::{
    cursor::Cursor,
    reconcile::{Sides, Verdict, reconcile},
};
use crate::{
    error::CursorError,
    options::Options,
    session::{Known, Session},
};

/// The partition of a job that has only one, and the name of the program's own database.
const PARTITION: &str = "main";
const SINK: &str = "database";

/// Where the checkpoint is, in the words that `piton status` and `piton reset` understand.
const SINKS: &str = r#"[{"name":"database","kind":"library","at":"the program's own database","replay":"sends_again"}]"#;

/// How often a claim is asked for again because the database knows a newer one than the store.
const TRIES: usize = 3;

impl<P: Position> Cursor<P> {
    /// Claims a job whose checkpoint is in the database of `conn`, with the default [`Options`].
    /// Creates the tables for it if they are not there; changes nothing else of the connection.
    ///
    /// # Errors
    /// [`CursorError::Held`] while another living process has it; [`CursorError::Disagreement`] if
    /// the database was restored or replaced; [`CursorError::Damaged`]; [`CursorError::Database`]
    /// if it cannot be written; what the store fails with.
    pub fn open(
        store: &Arc<dyn Store>,
        conn: &mut Connection,
        job: &str,
    ) -> Result<Self, CursorError> {
        Self::open_with(store, conn, job, Options::default())
    }

    /// Claims a job whose checkpoint is in the database of `conn`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        store: &Arc<dyn Store>,
        conn: &mut Connection,
        job: &str,
        options: Options,
    ) -> Result<Self, CursorError> {
        let key = CheckpointKey::new(job, PARTITION, SINK);
        let mut newest = peek(conn, &key)?.epoch;
        for _ in 0..TRIES {
            let at_least = Epoch(newest.0.saturating_add(1));
            let session = block_on(Session::claim(store, job, &options, at_least))?;
            match take_over(&session, conn, &key, options.adopt) {
                Ok((joined, orders)) => {
                    block_on(session.applied(&orders))?;
                    let claim = session.claim.clone();
                    let opened = Self::begin(session, conn, joined, options);
                    if opened.is_err() {
                        let _ = block_on(store.release(&claim));
                    }
                    return opened;
                }
                // Another store has granted a newer claim.
                Err(Refused::Newer(epoch)) => newest = epoch,
                Err(Refused::Because(error)) => {
                    let _ = block_on(session.give_up());
                    return Err(error);
                }
            }
            let _ = block_on(session.give_up());
        }
        Err(CursorError::Fenced { job: job.to_owned(), epoch: newest.0 })
    }

    fn begin(
        mut session: Session,
        conn: &Connection,
        joined: Joined,
        options: Options,
    ) -> Result<Self, CursorError> {
        let job = session.job().to_owned();
        let stands = joined.checkpoint();
        let position = stands.position.as_ref().map(StoredPosition::read).transpose();
        let position =
            position.map_err(|error| CursorError::Position { job: job.clone(), error })?;
        let is_synced = is_synced(conn).map_err(|error| CursorError::Database {
            job,
            doing: "read a setting",
            error,
        })?;
        block_on(session.begin(Some(stands)))?;
        Ok(Self::new(session, joined, position, options, is_synced))
    }
}

enum Refused {
    Newer(Epoch),
    Because(CursorError),
}

impl From<CursorError> for Refused {
    fn from(error: CursorError) -> Self {
        Self::Because(error)
    }
}

/// Reads what the database holds, as of one moment.
fn peek(conn: &mut Connection, key: &CheckpointKey) -> Result<Ledger, CursorError> {
    let read = |conn: &mut Connection| {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Deferred)?;
        tables::read(&tx, &key.pipeline, &key.sink)
    };
    read(conn).map_err(|error| of_ledger(&key.pipeline, "read the checkpoint", error))
}

fn take_over(
    session: &Session,
    conn: &mut Connection,
    key: &CheckpointKey,
    adopt: bool,
) -> Result<(Joined, Vec<Order>), Refused> {
    let Known { checkpoints, orders } = block_on(session.register_cursor(SINKS))?;
    let mut copy = checkpoints.into_iter().find(|checkpoint| checkpoint.key == *key);
    let own = peek(conn, key)?;
    let sides = Sides {
        key,
        copy: copy.as_ref(),
        own: &own,
        orders: &orders,
        store: &session.store.location(),
    };
    match reconcile(&sides) {
        Verdict::GoOn => {}
        Verdict::Forget => {
            let _ = block_on(session.store.complete(&session.claim, None))
                .map_err(CursorError::from)?;
            copy = None;
        }
        Verdict::Refuse(_) if adopt => {}
        Verdict::Refuse(what) => {
            return Err(CursorError::Disagreement { job: key.pipeline.clone(), what }.into());
        }
    }
    // The store learns of it before the database does.
    if copy.is_none() {
        begin_copy(session, key)?;
    }
    let by = TakeOver {
        key: key.clone(),
        epoch: session.claim.epoch,
        orders: &orders,
        copied: copy.as_ref().map_or(0, |copy| copy.version),
        now: Timestamp::now(),
    };
    match Joined::take_over(conn, &by) {
        Ok(joined) => Ok((joined, orders)),
        Err(LedgerError::Fenced { epoch }) => Err(Refused::Newer(epoch)),
        Err(error) => Err(of_ledger(&key.pipeline, "take over the checkpoint", error).into()),
    }
}

fn begin_copy(session: &Session, key: &CheckpointKey) -> Result<(), CursorError> {
    let begun = Save {
        key: key.clone(),
        expected_version: 0,
        expected: None,
        position: None,
        order: order_of::<u64>,
        records: 0,
        schema_version: 0,
        sink_state: None,
        state: Vec::new(),
    };
    let saved = block_on(session.store.save(&session.claim, vec![begun], Timestamp::now()))?;
    match saved.into_iter().next() {
        Some(Saved::Stored { .. }) => Ok(()),
        Some(saved) => Err(session.refused(saved)),
        None => Err(session.refused(Saved::Ignored)),
    }
}

/// Whether a commit survives a power loss. Where it may not, the database may come back older than
/// a copy that was told of it.
fn is_synced(conn: &Connection) -> rusqlite::Result<bool> {
    const FULL: i64 = 2;
    conn.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0)).map(|n| n >= FULL)
}

/// What a failure of the checkpoint's tables means to the caller.
pub(super) fn of_ledger(job: &str, doing: &'static str, error: LedgerError) -> CursorError {
    let job = job.to_owned();
    match error {
        LedgerError::Database(error) => CursorError::Database { job, doing, error },
        LedgerError::Fenced { epoch } => CursorError::Fenced { job, epoch: epoch.0 },
        LedgerError::Damaged { what } => {
            let what = format!(
                "{what}. Nothing was written. Restore the database from a backup; or, to begin \
                 anew, `{}` and `piton reset {job}`",
                LedgerError::removal(&job)
            );
            CursorError::Damaged { job, what }
        }
        LedgerError::HasState => {
            let what =
                "a rewind was ordered, but there is state beside the position, of which only \
                        the present value is kept: `piton reset` it instead"
                    .to_owned();
            CursorError::Mismatch { job, what }
        }
        other => CursorError::Damaged { job, what: other.to_string() },
    }
}
