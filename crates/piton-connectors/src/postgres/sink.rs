//! The sink: taking over, and beginning a transaction under the fence.
//!
//! Exactly once needs three things, all of them in the sink's own database: rows and checkpoint
//! commit together; the epoch of the claim is compared under a lock, before the first row; and
//! whoever takes over first writes its epoch, under the same lock, and reads only then. The lock is
//! the row of the manifest. An owner that hangs in the middle of a transaction loses its session
//! when it has been silent for its lease: the server is told so beforehand.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use piton_core::{Checkpoint, Epoch, Order, fault};
use piton_stores::joined::postgres::{
    Ledger, LedgerError,
    tables::{self, Statements},
};
use tokio_postgres::{Client, Error, error::SqlState, types::Type};

use super::{
    connect::describe,
    errors::{commit_failure, failure, of_ledger},
    holder::Holder,
    settings::{PostgresSettings, Target},
    table::Table,
    transaction::PostgresTransaction,
    wire::Wire,
    writer::Writer,
};
use crate::{
    orders,
    settings::Mode,
    sink::{Fence, Guarantee, SinkError, Transaction, TransactionalSink},
};

/// The oldest server that has what is needed here, as it numbers itself.
const OLDEST: i32 = 130_000;

/// Writes into tables of a PostgreSQL database, exactly once.
///
/// Memory: about a mebibyte of text on its way. Rows that are written over others wait in a
/// temporary table of the server's.
pub struct PostgresSink {
    target: Target,
    lease: Duration,
    history: Arc<History>,
    /// Whether an operator asked to go on with an empty table.
    adopts: bool,
    wire: Option<Wire>,
    /// Between a fence and the first doubt.
    open: Option<Open>,
}

/// What is known beyond one connection: the sinks that a run makes one after the other share it.
#[derive(Debug, Default)]
pub struct History {
    /// How many transactions are still to be written batch by batch, to find a row that was
    /// refused.
    careful: Countdown,
    /// How many transactions are still to be written by way of the stage, as keys were known.
    staged: Countdown,
    /// The last session: its process, and since when.
    session: Mutex<Option<(i32, String)>>,
    /// Whether the table was there, and a checkpoint speaks of it.
    has_table: AtomicBool,
}

/// Transactions that are still to be written in another way, more of them each time.
#[derive(Debug, Default)]
struct Countdown {
    left: AtomicU32,
    next: AtomicU32,
}

/// A fenced connection.
pub(super) struct Open {
    pub(super) wire: Wire,
    pub(super) ledger: Ledger,
    pub(super) statements: Statements,
    pub(super) writer: Writer,
    /// Whether a transaction is open.
    pub(super) is_begun: bool,
    /// Whether the connection or the last commit failed without an answer. It is not used again.
    pub(super) is_lost: bool,
}

impl Countdown {
    /// The fewest transactions.
    const FIRST: u32 = 8;
    /// The most.
    const MOST: u32 = 4096;

    fn begin(&self) {
        let next = self.next.load(Ordering::Relaxed).max(Self::FIRST);
        self.left.store(next, Ordering::Relaxed);
        self.next.store((next * 4).min(Self::MOST), Ordering::Relaxed);
    }

    /// A transaction was committed.
    fn step(&self) {
        match self.left.load(Ordering::Relaxed) {
            0 => self.next.store(Self::FIRST, Ordering::Relaxed),
            left => self.left.store(left - 1, Ordering::Relaxed),
        }
    }

    fn is_on(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0
    }
}

impl History {
    /// The history of a run in which a row has just been refused: the next transactions are
    /// written batch by batch.
    pub fn with_refusal() -> Self {
        let history = Self::default();
        history.note_refusal();
        history
    }

    /// A row was refused, and it is not known which.
    pub(super) fn note_refusal(&self) {
        self.careful.begin();
    }

    /// Some keys were there, and it is too late to write the rows over them in their order.
    pub(super) fn note_known(&self) {
        self.staged.begin();
    }

    /// The table is there, and a checkpoint speaks of it.
    pub(super) fn note_table(&self) {
        self.has_table.store(true, Ordering::Relaxed);
    }

    /// A transaction was committed; `met_known` says that some of its keys were there.
    pub(super) fn note_commit(&self, met_known: bool) {
        self.careful.step();
        if met_known { self.staged.begin() } else { self.staged.step() }
    }
}

impl fmt::Debug for PostgresSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSink").field("target", &self.target).finish_non_exhaustive()
    }
}

impl PostgresSink {
    /// A sink as configured. `lease` is how long an old owner's open transaction is waited for,
    /// and how long this one may be silent in its own. Touches nothing.
    ///
    /// # Errors
    /// [`SinkError::Settings`] when the settings contradict themselves.
    pub fn new(settings: &PostgresSettings, lease: Duration) -> Result<Self, SinkError> {
        let target = settings.check().map_err(|what| SinkError::Settings { what })?;
        let history = Arc::default();
        Ok(Self { target, lease, history, adopts: false, wire: None, open: None })
    }

    /// The same sink, which knows what those before it in this run have seen.
    #[must_use]
    pub fn after(mut self, history: Arc<History>) -> Self {
        self.history = history;
        self
    }

    fn at(&self) -> &str {
        self.target.server.location()
    }

    /// A connection, kept until the sink is fenced.
    fn wire(&mut self, pipeline: &str) -> Result<Wire, SinkError> {
        if let Some(wire) = self.wire.take().filter(|wire| !wire.client.is_closed()) {
            return Ok(wire);
        }
        let server = self.target.server.clone().named(&format!("piton {pipeline}"));
        let wire = Wire::open(&server)?;
        let lease = self.lease.as_millis();
        let session = format!(
            "SET TimeZone = 'UTC'; SET lock_timeout = {lease}; \
             SET idle_in_transaction_session_timeout = {lease}; \
             SET client_min_messages = warning; SET standard_conforming_strings = on; \
             SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; \
             SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') = 'off'"
        );
        let set = wire.wait(wire.client.batch_execute(&session));
        set.map_err(|e| failure(self.at(), "begin a session", &e))?;
        Ok(wire)
    }

    /// What the database holds, without writing or creating anything, and whether the table is
    /// there. Refuses a target that cannot be written as configured.
    fn look(&mut self, pipeline: &str, sink: &str) -> Result<(Ledger, bool), SinkError> {
        let wire = self.wire(pipeline)?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let looked = wire.wait(async {
            let failed = |e: Error| failure(self.at(), "read the checkpoints", &e);
            self.judge_server(&wire.client).await?;
            wire.client.batch_execute(begin).await.map_err(failed)?;
            let ledger = tables::read(&wire.client, pipeline, sink).await;
            let ledger =
                ledger.map_err(|e| of_ledger(self.at(), pipeline, "read the checkpoints", e))?;
            let is_there = self.judge(&wire.client).await?;
            wire.client.batch_execute("COMMIT").await.map_err(failed)?;
            Ok((ledger, is_there))
        });
        // A transaction that failed goes with its connection.
        if looked.is_ok() {
            self.wire = Some(wire);
        }
        looked
    }

    /// Refuses a server that cannot be written as is needed.
    async fn judge_server(&self, client: &Client) -> Result<(), SinkError> {
        let upserts = self.target.mode == Mode::Upsert;
        let asked = "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), \
                     current_setting('transaction_read_only')::bool, current_schema()::text, \
                     to_regclass('piton_checkpoints') IS NOT NULL \
                       OR coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), \
                     has_database_privilege(current_database(), 'TEMPORARY')";
        let read = async {
            let row = client.query_typed_one(asked, &[]).await?;
            let schema: Option<String> = row.try_get(3)?;
            Ok((
                (row.try_get::<_, i32>(0)?, row.try_get::<_, bool>(1)?, row.try_get::<_, bool>(2)?),
                (schema, row.try_get::<_, bool>(4)?, row.try_get::<_, bool>(5)?),
            ))
        };
        let ((version, is_replica, is_read_only), (schema, may_create, may_stage)) =
            read.await.map_err(|e: Error| failure(self.at(), "look at the server", &e))?;
        let at = self.at();
        let refused = |what: String| Err(SinkError::Refused { what });
        let settings = |what: String| Err(SinkError::Settings { what });
        if version < OLDEST {
            return settings(format!("{at} is older than PostgreSQL 13, which is needed"));
        }
        if is_replica {
            return refused(format!("{at} is a read-only replica: name the primary in `url`"));
        }
        if is_read_only {
            return refused(format!(
                "{at} is read-only (default_transaction_read_only): name a database and user that \
                 can write"
            ));
        }
        let Some(schema) = schema else {
            return settings(format!(
                "no schema of the search path is there in {at}: create one, or set search_path"
            ));
        };
        if !may_create {
            return settings(format!(
                "the user of {at} may not create piton_checkpoints, which commits with the rows: \
                 GRANT CREATE ON SCHEMA {schema}, or put a schema of its own first in search_path"
            ));
        }
        if upserts && !may_stage {
            return settings(format!(
                "the user of {at} may not create temporary tables, which `mode: upsert` needs: \
                 GRANT TEMPORARY ON DATABASE"
            ));
        }
        Ok(())
    }

    /// Refuses a table that cannot be written as configured, as far as its name is known; returns
    /// whether it is there.
    async fn judge(&self, client: &Client) -> Result<bool, SinkError> {
        let Target { key, create, .. } = &self.target;
        let Some(name) = self.target.table.fixed() else { return Ok(true) };
        let found = Table::inspect(client, &name, self.target.rights()).await;
        let found = found.map_err(|e| failure(self.at(), "look at the table", &e))?;
        let is_there = found.is_some();
        let why = match found {
            Some(found) => found.refuse(&name, key, self.at()),
            None if *create => None,
            None => Some(format!(
                "there is no table {name} in {}, and `create: false` forbids to create it",
                self.at()
            )),
        };
        why.map_or(Ok(is_there), |what| Err(SinkError::Settings { what }))
    }

    /// Refuses a table that is gone, while checkpoints are gone on from that speak of it.
    fn refuse_gone(&self, ledger: &Ledger, orders: &[Order]) -> Result<(), SinkError> {
        if !orders::needs_table(ledger, orders) {
            return Ok(());
        }
        let Ledger { pipeline, sink, .. } = ledger;
        Err(orders::gone(self.target.table.written(), self.at(), pipeline, sink))
    }

    fn open_fenced(&mut self, fence: &Fence) -> Result<Open, SinkError> {
        let wire = self.wire(&fence.pipeline)?;
        self.end_last_session(&wire);
        let (ledger, must_find, statements) = wire.wait(async {
            let (ledger, must_find) = self.take_over(&wire.client, fence).await?;
            let statements = Statements::prepare(&wire.client).await;
            let of = |e| of_ledger(self.at(), &fence.pipeline, "prepare statements", e);
            Ok::<_, SinkError>((ledger, must_find, statements.map_err(of)?))
        })?;
        let mut writer = Writer::new(self.lease);
        writer.must_find = must_find;
        Ok(Open { wire, ledger, statements, writer, is_begun: false, is_lost: false })
    }

    /// Returns also whether a checkpoint speaks of the table.
    async fn take_over(&self, client: &Client, fence: &Fence) -> Result<(Ledger, bool), SinkError> {
        let Fence { pipeline, sink, epoch, .. } = fence;
        let of = |doing: &'static str| move |e| of_ledger(self.at(), pipeline, doing, e);
        self.judge_server(client).await?;
        self.lock(client, fence).await?;
        let mut ledger =
            tables::read(client, pipeline, sink).await.map_err(of("read the checkpoints"))?;
        ledger.admit(*epoch).map_err(of("take over"))?;
        let is_there = self.judge(client).await?;
        let is_adopted = self.adopts && !self.history.has_table.load(Ordering::Relaxed);
        if !is_there && !is_adopted {
            self.refuse_gone(&ledger, &fence.orders)?;
        }
        let must_find = is_there && orders::needs_table(&ledger, &fence.orders);
        if self.target.mode == Mode::Append {
            let refused = |what| SinkError::Refused { what: format!("{}: {what}", self.at()) };
            orders::cut(&ledger, fence).map_err(refused)?;
        }
        orders::take_over(&mut ledger, fence, None, Timestamp::now());
        tables::write(client, &mut ledger).await.map_err(of("write the checkpoints"))?;
        client.batch_execute("COMMIT").await.map_err(|e| commit_failure(self.at(), &e))?;
        if must_find {
            self.history.note_table();
        }
        Ok((ledger, must_find))
    }

    /// Begins a transaction that has the checkpoints locked. An old owner's open transaction is
    /// waited for; its session is ended if it is stuck in it.
    async fn lock(&self, client: &Client, fence: &Fence) -> Result<(), SinkError> {
        let Fence { pipeline, sink, .. } = fence;
        let Some(error) = self.try_lock(client, fence).await? else { return Ok(()) };
        let _ = client.batch_execute("ROLLBACK").await;
        let holder = Holder::find(client, pipeline, sink, self.lease).await;
        if let Some(stuck) = holder.as_ref().filter(|holder| holder.is_stuck)
            && stuck.end(client).await
            && self.try_lock(client, fence).await?.is_none()
        {
            return Ok(());
        }
        let who = holder.map_or_else(|| "another session".into(), |holder| holder.name);
        Err(SinkError::Held {
            what: format!(
                "{who} has the checkpoints of '{pipeline}' in {} locked and did not give them up \
                 within {} s ({}). Stop it, or wait until it has finished",
                self.at(),
                self.lease.as_secs(),
                describe(&error)
            ),
        })
    }

    /// Returns what the server said if somebody else kept the lock for too long.
    async fn try_lock(&self, client: &Client, fence: &Fence) -> Result<Option<Error>, SinkError> {
        let Fence { pipeline, sink, .. } = fence;
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        client.batch_execute(begin).await.map_err(|e| failure(self.at(), "begin", &e))?;
        let locked = async {
            tables::create(client).await?;
            tables::lock(client, pipeline, sink).await
        };
        match locked.await {
            Err(LedgerError::Database(e)) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                Ok(Some(e))
            }
            locked => locked
                .map(|()| None)
                .map_err(|e| of_ledger(self.at(), pipeline, "lock the checkpoints", e)),
        }
    }

    /// Ends the session that a sink before this one had, should the server still wait for it, and
    /// remembers this one.
    fn end_last_session(&self, wire: &Wire) {
        let mut last = self.history.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = "SELECT pid, backend_start::text FROM pg_stat_activity \
                    WHERE pid = pg_backend_pid()";
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE pid = $1 AND backend_start::text = $2 AND pid <> pg_backend_pid()";
        wire.wait(async {
            if let Some((pid, since)) = last.as_ref() {
                let session = [(pid as _, Type::INT4), (since as _, Type::TEXT)];
                // What it has open is waited for in any case.
                let _ = wire.client.query_typed(end, &session).await;
            }
            if let Ok(row) = wire.client.query_typed_one(mine, &[]).await {
                *last = row.try_get(0).ok().zip(row.try_get(1).ok());
            }
        });
    }

    /// The target and its fenced connection.
    fn fenced(&mut self) -> Result<(&Target, &mut Open), SinkError> {
        let at = self.target.server.location();
        match self.open.as_mut() {
            Some(open) if open.is_lost => {
                Err(SinkError::Unavailable { what: format!("the connection to {at} is lost") })
            }
            Some(open) => Ok((&self.target, open)),
            None => Err(SinkError::Failed {
                what: format!("{at} was not fenced before it was written to"),
            }),
        }
    }
}

impl Open {
    /// Begins a transaction and compares, under the lock, that this is still the newest claim.
    fn begin(&mut self, at: &str) -> Result<(), SinkError> {
        let Self { wire, ledger, statements, .. } = self;
        self.is_begun = true;
        let begun = wire.wait(async {
            // Sent together: the second follows the first on the connection.
            let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
            let begin = wire.client.batch_execute(begin);
            let compare = tables::compare(&wire.client, statements, ledger);
            let (begun, compared) = futures_util::future::join(begin, compare).await;
            begun.map_err(|e| failure(at, "begin a transaction", &e))?;
            let of = |e| of_ledger(at, &ledger.pipeline, "compare the checkpoints", e);
            compared.map_err(of)
        });
        begun.inspect_err(|_| self.roll_back())
    }

    /// Ends a transaction without effect.
    pub(super) fn roll_back(&mut self) {
        if !std::mem::take(&mut self.is_begun) {
            return;
        }
        self.writer.reset();
        let ended = self.wire.wait(self.wire.client.batch_execute("ROLLBACK"));
        self.is_lost |= ended.is_err();
    }

    /// Commits what was written.
    pub(super) fn commit(&mut self, at: &str) -> Result<(), SinkError> {
        let doubt = |e: &std::io::Error| SinkError::InDoubt {
            at: at.to_owned(),
            what: e.to_string(),
            lost: true,
        };
        let committed = fault::fail("commit.before")
            .map_err(|e| doubt(&e))
            .and_then(|()| {
                let committed = self.wire.wait(self.wire.client.batch_execute("COMMIT"));
                committed.map_err(|e| commit_failure(at, &e))
            })
            .and_then(|()| fault::fail("commit.after").map_err(|e| doubt(&e)));
        self.is_begun &= committed.is_err();
        self.is_lost |= matches!(committed, Err(SinkError::InDoubt { .. }));
        committed
    }
}

impl TransactionalSink for PostgresSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee {
            what: "exactly once",
            why: "rows and checkpoint commit in one PostgreSQL transaction, which also compares \
                  the epoch of the claim under a lock"
                .into(),
        }
    }

    fn location(&self) -> String {
        format!("{}, table {}", self.at(), self.target.table.written())
    }

    fn peek(&mut self, pipeline: &str, sink: &str) -> Result<Vec<Checkpoint>, SinkError> {
        Ok(self.look(pipeline, sink)?.0.rows.into_values().collect())
    }

    fn inspect(&mut self, pipeline: &str, sink: &str, orders: &[Order]) -> Result<(), SinkError> {
        let (ledger, is_there) = self.look(pipeline, sink)?;
        if is_there { Ok(()) } else { self.refuse_gone(&ledger, orders) }
    }

    fn adopt(&mut self) {
        self.adopts = true;
    }

    fn newest_epoch(&mut self, pipeline: &str, sink: &str) -> Result<Epoch, SinkError> {
        Ok(self.look(pipeline, sink)?.0.epoch)
    }

    fn fence(&mut self, fence: &Fence) -> Result<Vec<Checkpoint>, SinkError> {
        // A connection that was in doubt is not asked again: what the server holds decides.
        self.open = None;
        let open = self.open_fenced(fence)?;
        let open = self.open.insert(open);
        Ok(open.ledger.rows.values().cloned().collect())
    }

    /// The server ends a session that is silent in a transaction for the lease, and a long one
    /// stands in the way of others.
    fn longest(&self) -> Option<Duration> {
        Some(self.lease / 2)
    }

    fn begin(&mut self) -> Result<Box<dyn Transaction + '_>, SinkError> {
        let history = Arc::clone(&self.history);
        let (target, open) = self.fenced()?;
        open.begin(target.server.location())?;
        open.writer.begin();
        open.writer.strict = history.careful.is_on();
        let may_be_direct = target.delete.is_empty() && !history.staged.is_on();
        open.writer.direct = !open.writer.strict && may_be_direct;
        fault::point("sink.begin");
        Ok(Box::new(PostgresTransaction::new(target, open, history)))
    }

    fn forget(&mut self) -> Result<(), SinkError> {
        let (target, open) = self.fenced()?;
        let at = target.server.location();
        open.begin(at)?;
        let forgotten = open.wire.wait(tables::forget(&open.wire.client, &open.ledger));
        if let Err(error) = forgotten {
            open.roll_back();
            return Err(of_ledger(at, &open.ledger.pipeline, "remove the checkpoints", error));
        }
        open.commit(at)?;
        open.ledger.clear();
        Ok(())
    }
}
