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
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use mysql::{Conn, Error, prelude::Queryable as _};
use piton_core::{Checkpoint, Epoch, Order, fault};
use piton_stores::joined::mysql::{Ledger, LedgerError, tables};

use super::{
    connect::{rows, run, text},
    errors::{LOCK_WAIT, commit_failure, described, failure, of_ledger, says},
    holder::{self, Holder},
    settings::{MySqlSettings, Target},
    stage::Way,
    table::Table,
    transaction::MySqlTransaction,
    writer::Writer,
};
use crate::{
    orders,
    settings::Mode,
    sink::{Fence, Guarantee, SinkError, Transaction, TransactionalSink},
};

/// The oldest servers that have what is needed here, by their first two numbers.
const OLDEST_MYSQL: (u32, u32) = (8, 4);
const OLDEST_MARIADB: (u32, u32) = (10, 11);

/// How long the server may take over one statement, beyond the locks that it waits for.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

/// How long a session may be silent where it has nothing open, in seconds.
const IDLE: u64 = 86_400;

/// Writes into tables of a MySQL or MariaDB database, exactly once.
///
/// Memory: about two mebibytes of text on its way, or two of the largest row if that is more.
pub struct MySqlSink {
    target: Target,
    lease: Duration,
    history: Arc<History>,
    /// Whether an operator asked to go on with an empty table.
    adopts: bool,
    conn: Option<Conn>,
    /// How upserts reach the table, as it was seen last.
    way: Way,
    /// Between a fence and the first doubt.
    open: Option<Open>,
}

/// What is known beyond one connection: the sinks that a run makes one after the other share it.
#[derive(Debug, Default)]
pub struct History {
    /// The last session: its number, and the lock that it holds.
    session: Mutex<Option<(u64, String)>>,
    /// Whether the table was there, and a checkpoint speaks of it.
    has_table: AtomicBool,
}

impl History {
    /// The table is there, and a checkpoint speaks of it.
    pub(super) fn note_table(&self) {
        self.has_table.store(true, Ordering::Relaxed);
    }
}

/// A fenced connection.
pub(super) struct Open {
    pub(super) conn: Conn,
    pub(super) ledger: Ledger,
    pub(super) writer: Writer,
    /// How long the session may be silent in a transaction, in seconds.
    silence: u64,
    /// Whether a transaction is open.
    is_begun: bool,
    /// Whether the connection or the last commit failed without an answer. It is not used again.
    is_lost: bool,
}

impl fmt::Debug for MySqlSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlSink").field("target", &self.target).finish_non_exhaustive()
    }
}

impl MySqlSink {
    /// A sink as configured. `lease` is how long an old owner's open transaction is waited for,
    /// and how long this one may be silent in its own. Touches nothing.
    ///
    /// # Errors
    /// [`SinkError::Settings`] when the settings contradict themselves.
    pub fn new(settings: &MySqlSettings, lease: Duration) -> Result<Self, SinkError> {
        let target = settings.check().map_err(|what| SinkError::Settings { what })?;
        let (history, way) = (Arc::default(), Way::Straight);
        Ok(Self { target, lease, history, adopts: false, conn: None, way, open: None })
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

    /// The lease in whole seconds, as the server counts.
    fn seconds(&self) -> u64 {
        self.lease.as_millis().div_ceil(1000).clamp(1, 31_536_000) as u64
    }

    /// A session, kept until the sink is fenced.
    fn conn(&mut self, pipeline: &str) -> Result<Conn, SinkError> {
        if let Some(mut conn) = self.conn.take()
            && conn.ping().is_ok()
        {
            return Ok(conn);
        }
        let server = self.target.server.clone().named(format!("piton {pipeline}"));
        let mut conn = server.connect(self.lease + PATIENCE)?;
        let lease = self.seconds();
        let session = format!(
            "SET innodb_lock_wait_timeout = {lease}, lock_wait_timeout = {lease}, \
             net_read_timeout = {lease}, net_write_timeout = {lease}, foreign_key_checks = 1, \
             unique_checks = 1"
        );
        conn.query_drop(session).map_err(|e| failure(self.at(), "begin a session", &e))?;
        Ok(conn)
    }

    /// What the database holds, without writing or creating anything, and whether the table is
    /// there, as far as its name is known. Refuses a target that cannot be written as configured.
    fn look(&mut self, pipeline: &str, sink: &str) -> Result<(Ledger, bool), SinkError> {
        let mut conn = self.conn(pipeline)?;
        self.judge_server(&mut conn)?;
        let is_there = self.judge(&mut conn)?.is_some();
        if is_there && let Some(name) = self.target.table.fixed() {
            let way = Way::into(&mut conn, &name, &self.target);
            self.way = way.map_err(|e| failure(self.at(), "look at the triggers", &e))?;
        }
        let failed = |e: Error| failure(self.at(), "read the checkpoints", &e);
        let begin = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
                     START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
        run(&mut conn, begin).map_err(failed)?;
        let ledger = tables::read(&mut conn, pipeline, sink);
        let ledger =
            ledger.map_err(|e| of_ledger(self.at(), pipeline, "read the checkpoints", e))?;
        conn.query_drop("COMMIT").map_err(failed)?;
        // A transaction that failed goes with its connection.
        self.conn = Some(conn);
        Ok((ledger, is_there))
    }

    /// Refuses a server that cannot be written as is needed.
    fn judge_server(&self, conn: &mut Conn) -> Result<(), SinkError> {
        let at = self.at();
        let asked = rows(conn, "SELECT VERSION(), @@global.read_only, @@global.innodb_read_only")
            .map_err(|e| failure(at, "look at the server", &e))?
            .pop();
        let [version, reads, engine_reads] =
            [0, 1, 2].map(|i| asked.as_ref().and_then(|row| text(row, i)).unwrap_or_default());
        let is_mariadb = version.contains("MariaDB");
        // MariaDB may put a version before its own, for old clients.
        let own = version.strip_prefix("5.5.5-").unwrap_or(&version);
        let mut numbers = own.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < if is_mariadb { OLDEST_MARIADB } else { OLDEST_MYSQL } {
            return Err(SinkError::Settings {
                what: format!(
                    "{at} has version {version}, and MySQL 8.4 or MariaDB 10.11, or newer, is needed"
                ),
            });
        }
        let is_on = |value: &str| !matches!(value, "0" | "OFF" | "");
        if is_on(&reads) || is_on(&engine_reads) {
            return Err(SinkError::Refused {
                what: format!(
                    "{at} only reads (read_only is on), as a replica does: name the primary in \
                     `url`"
                ),
            });
        }
        Ok(())
    }

    /// Refuses a table that cannot be written as configured, as far as its name is known; returns
    /// it, if it is there.
    fn judge(&self, conn: &mut Conn) -> Result<Option<Table>, SinkError> {
        let Target { key, create, .. } = &self.target;
        let Some(name) = self.target.table.fixed() else { return Ok(None) };
        let failed = |e: Error| failure(self.at(), "look at the table", &e);
        let found = Table::inspect(conn, &name).map_err(failed)?;
        let why = match &found {
            Some(found) => match found.refuse(&name, key, self.at()) {
                Some(why) => Some(why),
                None => found.refuse_user(conn, &name, &self.target).map_err(failed)?,
            },
            None if *create => None,
            None => Some(format!(
                "there is no table {name} in {}, and `create: false` forbids to create it",
                self.at()
            )),
        };
        why.map_or(Ok(found), |what| Err(SinkError::Settings { what }))
    }

    fn open_fenced(&mut self, fence: &Fence) -> Result<Open, SinkError> {
        let mut conn = self.conn(&fence.pipeline)?;
        self.end_last_session(&mut conn);
        self.judge_server(&mut conn)?;
        let table = self.judge(&mut conn)?;
        let (ledger, must_find) = self.take_over(&mut conn, fence, table.is_some())?;
        self.remember_session(&mut conn, fence);
        let failed = |e: Error| failure(self.at(), "begin", &e);
        let mut writer = Writer::new(&mut conn).map_err(failed)?;
        writer.must_find = must_find;
        if let Some(table) = table {
            writer.prepare(&mut conn, &self.target, &table).map_err(failed)?;
        }
        let silence = self.seconds();
        Ok(Open { conn, ledger, writer, silence, is_begun: false, is_lost: false })
    }

    /// Refuses a table that is gone, while checkpoints are gone on from that speak of it.
    fn refuse_gone(&self, ledger: &Ledger, orders: &[Order]) -> Result<(), SinkError> {
        if !self.target.table.is_fixed() || !orders::needs_table(ledger, orders) {
            return Ok(());
        }
        let Ledger { pipeline, sink, .. } = ledger;
        Err(orders::gone(self.target.table.written(), self.at(), pipeline, sink))
    }

    /// `is_there`: whether the table is. Returns also whether a checkpoint speaks of it.
    fn take_over(
        &self,
        conn: &mut Conn,
        fence: &Fence,
        is_there: bool,
    ) -> Result<(Ledger, bool), SinkError> {
        let Fence { pipeline, sink, epoch, .. } = fence;
        let of = |doing: &'static str| move |e| of_ledger(self.at(), pipeline, doing, e);
        tables::create(conn).map_err(of("create piton_checkpoints"))?;
        self.lock(conn, fence)?;
        let mut ledger = tables::read(conn, pipeline, sink).map_err(of("read the checkpoints"))?;
        ledger.admit(*epoch).map_err(of("take over"))?;
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
        tables::write(conn, &mut ledger).map_err(of("write the checkpoints"))?;
        conn.query_drop("COMMIT").map_err(|e| commit_failure(self.at(), &e))?;
        if must_find {
            self.history.note_table();
        }
        Ok((ledger, must_find))
    }

    /// Begins a transaction that has the checkpoints locked. An old owner's open transaction is
    /// waited for; its session is ended if it is stuck in it.
    fn lock(&self, conn: &mut Conn, fence: &Fence) -> Result<(), SinkError> {
        let Some(error) = self.try_lock(conn, fence)? else { return Ok(()) };
        let _ = conn.query_drop("ROLLBACK");
        let holder = self.holder(conn, fence);
        if let Some(stuck) = holder.as_ref().filter(|holder| holder.is_stuck)
            && stuck.end(conn)
            && self.try_lock(conn, fence)?.is_none()
        {
            return Ok(());
        }
        let who = holder.map_or_else(|| "another session".into(), |holder| holder.name);
        Err(SinkError::Held {
            what: format!(
                "{who} has the checkpoints of '{}' in {} locked and did not give them up within \
                 {} s ({}). Stop it, or wait until it has finished",
                fence.pipeline,
                self.at(),
                self.seconds(),
                described(&error)
            ),
        })
    }

    /// The session that fenced it last, if it is still there.
    fn holder(&self, conn: &mut Conn, fence: &Fence) -> Option<Holder> {
        let ledger = tables::read(conn, &fence.pipeline, &fence.sink).ok()?;
        Holder::find(conn, &self.mark(fence, ledger.epoch), self.lease)
    }

    /// The name by which the session of an epoch is found.
    fn mark(&self, fence: &Fence, epoch: Epoch) -> String {
        holder::name_of(self.target.server.database(), &fence.pipeline, &fence.sink, epoch)
    }

    /// Returns what the server said if somebody else kept the lock for too long.
    fn try_lock(&self, conn: &mut Conn, fence: &Fence) -> Result<Option<Error>, SinkError> {
        let Fence { pipeline, sink, .. } = fence;
        let begin = conn.query_drop("START TRANSACTION");
        begin.map_err(|e| failure(self.at(), "begin", &e))?;
        match tables::lock(conn, pipeline, sink) {
            Err(LedgerError::Database(e)) if says(&e, LOCK_WAIT) => Ok(Some(e)),
            locked => locked
                .map(|()| None)
                .map_err(|e| of_ledger(self.at(), pipeline, "lock the checkpoints", e)),
        }
    }

    /// Ends the session that a sink before this one had, should the server still wait for it.
    fn end_last_session(&self, conn: &mut Conn) {
        let last = self.history.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((id, mark)) = last
            && id != u64::from(conn.connection_id())
            && holder::marked(conn, &mark) == Some(id)
        {
            // What it has open is waited for in any case.
            holder::end(conn, id);
        }
    }

    /// Lets this session be found, by an heir and by the next one of this run.
    fn remember_session(&self, conn: &mut Conn, fence: &Fence) {
        let mark = self.mark(fence, fence.epoch);
        holder::mark(conn, &mark);
        let mut last = self.history.session.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((u64::from(conn.connection_id()), mark));
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
        let Self { conn, ledger, silence, .. } = self;
        self.is_begun = true;
        let begin = format!("SET SESSION wait_timeout = {silence}; START TRANSACTION");
        let begun =
            run(conn, &begin).map_err(|e| failure(at, "begin a transaction", &e)).and_then(|()| {
                let of = |e| of_ledger(at, &ledger.pipeline, "compare the checkpoints", e);
                tables::compare(conn, ledger).map_err(of)
            });
        begun.inspect_err(|_| self.roll_back())
    }

    /// Ends a transaction without effect.
    pub(super) fn roll_back(&mut self) {
        if !std::mem::take(&mut self.is_begun) {
            return;
        }
        self.writer.drop_rows();
        self.is_lost |= self.conn.query_drop("ROLLBACK").is_err() || self.rest().is_err();
    }

    /// Between transactions, where nobody waits for it, a session may be silent.
    fn rest(&mut self) -> Result<(), Error> {
        self.conn.query_drop(format!("SET SESSION wait_timeout = {IDLE}"))
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
            .and_then(|()| self.conn.query_drop("COMMIT").map_err(|e| commit_failure(at, &e)))
            .and_then(|()| fault::fail("commit.after").map_err(|e| doubt(&e)));
        self.is_begun &= committed.is_err();
        self.is_lost |= matches!(committed, Err(SinkError::InDoubt { .. }));
        if committed.is_ok() {
            self.is_lost |= self.rest().is_err();
        }
        committed
    }
}

impl TransactionalSink for MySqlSink {
    fn guarantee(&self) -> Guarantee {
        let together = "rows and checkpoint commit in one InnoDB transaction, which also compares the \
                        epoch of the claim under a lock";
        Guarantee { what: "exactly once", why: format!("{together}{}", self.way.told()) }
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
        fault::point("sink.begin");
        Ok(Box::new(MySqlTransaction::new(target, open, history)))
    }

    fn forget(&mut self) -> Result<(), SinkError> {
        let (target, open) = self.fenced()?;
        let at = target.server.location();
        open.begin(at)?;
        if let Err(error) = tables::forget(&mut open.conn, &open.ledger) {
            open.roll_back();
            return Err(of_ledger(at, &open.ledger.pipeline, "remove the checkpoints", error));
        }
        open.commit(at)?;
        open.ledger.clear();
        Ok(())
    }
}
