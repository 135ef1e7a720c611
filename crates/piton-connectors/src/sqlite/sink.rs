//! The sink: taking over, and beginning a transaction under the fence.
//!
//! Exactly once needs three things, all of them in the sink's own database: rows and checkpoint
//! commit together; the epoch of the claim is compared under the write lock, before the first row;
//! and whoever takes over first writes its epoch, under the same lock, and reads only then. The
//! lock is the database's: an owner that hangs in the middle of a transaction is waited for as long as its
//! lease lasts, then named, never pushed aside.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use piton_core::{Checkpoint, Epoch, Order, fault};
use piton_stores::joined::sqlite::{Ledger, tables};
use rusqlite::Connection;

use super::{
    commit::{commit, roll_back},
    errors::{commit_failure, failure, is_busy, of_ledger},
    holder,
    insert::Plan,
    open::{self, FileId, is_store},
    quote,
    settings::{Mode, SqliteSettings},
    table::{self, Table},
    transaction::SqliteTransaction,
    turn::Turn,
};
use crate::{
    orders,
    sink::{Fence, Guarantee, SinkError, Transaction, TransactionalSink},
};

/// How long a transaction waits for another writer before it reports that the database is busy.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes into one table of a `SQLite` database, exactly once.
///
/// Foreign keys are enforced, as is the default of the `SQLite` that is built in. Memory: a page
/// cache of 16 MiB; a transaction larger than that spills to disk.
pub struct SqliteSink {
    target: Target,
    lease: Duration,
    /// Where other sinks of this process write the same database.
    turn: Option<Arc<Turn>>,
    /// The connection, between a fence and the first doubt.
    open: Option<Open>,
}

/// What is written to, and how.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) table: String,
    pub(super) mode: Mode,
    pub(super) key: Vec<String>,
    pub(super) create: bool,
}

/// A fenced connection.
pub(super) struct Open {
    pub(super) conn: Connection,
    file: FileId,
    pub(super) ledger: Ledger,
    /// How the records of the present schema go into the table.
    pub(super) plan: Option<Plan>,
    /// Whether rows were written since the fence.
    pub(super) has_written: bool,
    /// Whether rows are appended and `SQLite` numbers them as they come.
    pub(super) numbers_rows: bool,
    /// Whether a commit failed without an answer. It is not used again.
    in_doubt: bool,
}

impl Target {
    /// Whether rows are appended and `SQLite` numbers them, as far as the table tells before the
    /// records are known.
    fn numbers_rows(&self, found: Option<&Table>) -> bool {
        self.mode == Mode::Append && found.is_none_or(|table| table.numbers_rows([].into_iter()))
    }
}

impl fmt::Debug for SqliteSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteSink").field("target", &self.target).finish_non_exhaustive()
    }
}

impl SqliteSink {
    /// A sink as configured. A relative path is taken from `base_dir`. `lease` is how long an old
    /// owner's open transaction is waited for. Touches nothing on disk.
    ///
    /// # Errors
    /// [`SinkError::Settings`] when the settings contradict themselves.
    pub fn new(
        settings: &SqliteSettings,
        base_dir: &Path,
        lease: Duration,
    ) -> Result<Self, SinkError> {
        let mode = settings.check().map_err(|what| SinkError::Settings { what })?;
        let path = base_dir.join(&settings.path);
        let path = std::path::absolute(&path).unwrap_or(path);
        let target = Target {
            path,
            table: settings.table.clone(),
            mode,
            key: settings.key.clone(),
            create: settings.create,
        };
        Ok(Self { target, lease, turn: None, open: None })
    }

    /// The same sink, taking turns with others of this process that write the same database.
    #[must_use]
    pub fn sharing(mut self, turn: Arc<Turn>) -> Self {
        self.turn = Some(turn);
        self
    }

    /// Sets a pragma of the open connection: a smaller cache, a limit of pages as of a full disk.
    #[cfg(test)]
    pub(super) fn pragma(&self, name: &str, value: i64) {
        self.open.as_ref().unwrap().conn.pragma_update(None, name, value).unwrap();
    }

    /// Finds what makes the path unusable, without touching it. Returns whether the file is there.
    fn look_at_path(&self) -> Result<bool, SinkError> {
        let path = &self.target.path;
        let settings = |what: String| Err(SinkError::Settings { what });
        if path.is_dir() {
            return settings(format!("{} is a folder: `path` names a file", path.display()));
        }
        match path.parent() {
            Some(folder) if !folder.is_dir() => {
                settings(format!("the folder {} does not exist: create it", folder.display()))
            }
            _ if is_store(path) => settings(format!(
                "{} is a store of Piton, which would be locked by the rows of every transaction: \
                 name another database",
                path.display()
            )),
            _ => Ok(path.exists()),
        }
    }

    fn open_fenced(&self, fence: &Fence) -> Result<Open, SinkError> {
        let Target { path, table, create, .. } = &self.target;
        if !self.look_at_path()? {
            self.needs_database()?;
        }
        let busy_or = |doing: &str, e: &rusqlite::Error| {
            if is_busy(e) { self.held() } else { failure(path, doing, e) }
        };
        let conn = open::to_write(path, *create, self.lease).map_err(|e| busy_or("open it", &e))?;
        conn.execute_batch("BEGIN IMMEDIATE").map_err(|e| busy_or("begin a transaction", &e))?;
        let mut ledger = tables::read(&conn, &fence.pipeline, &fence.sink)
            .and_then(|ledger| ledger.admit(fence.epoch).map(|()| ledger))
            .map_err(|e| of_ledger(path, &fence.pipeline, e))?;
        let found =
            Table::inspect(&conn, table).map_err(|e| failure(path, "read its tables", &e))?;
        self.judge(found.as_ref())?;
        self.write_fence(&conn, &mut ledger, fence, found.as_ref())?;
        conn.execute_batch("COMMIT").map_err(|e| commit_failure(path, &e))?;
        let file = FileId::of(path).map_err(|e| SinkError::Failed {
            what: format!("{} is gone since it was opened: {e}", path.display()),
        })?;
        conn.busy_timeout(PATIENCE).map_err(|e| failure(path, "open it", &e))?;
        let numbers_rows = self.target.numbers_rows(found.as_ref());
        let (plan, has_written, in_doubt) = (None, false, false);
        Ok(Open { conn, file, ledger, plan, has_written, numbers_rows, in_doubt })
    }

    /// Refuses a database that is not there and may not be created.
    fn needs_database(&self) -> Result<(), SinkError> {
        let Target { path, create, .. } = &self.target;
        let what = format!(
            "there is no database {}, and `create: false` forbids to create it",
            path.display()
        );
        if *create { Ok(()) } else { Err(SinkError::Settings { what }) }
    }

    /// Refuses a target that cannot be written as configured.
    fn judge(&self, found: Option<&Table>) -> Result<(), SinkError> {
        let Target { path, table, key, create, .. } = &self.target;
        let why = match found {
            Some(found) => found.refuse(table, key, &path.display().to_string()),
            None if *create => None,
            None => Some(format!(
                "there is no table '{table}' in {}, and `create: false` forbids to create it",
                path.display()
            )),
        };
        why.map_or(Ok(()), |what| Err(SinkError::Settings { what }))
    }

    fn write_fence(
        &self,
        conn: &Connection,
        ledger: &mut Ledger,
        fence: &Fence,
        found: Option<&Table>,
    ) -> Result<(), SinkError> {
        let Target { path, table, mode, .. } = &self.target;
        let refused = |what| SinkError::Refused { what: format!("{}: {what}", path.display()) };
        let cut = match mode {
            Mode::Upsert => None,
            Mode::Append => orders::cut(ledger, fence).map_err(refused)?,
        };
        let is_numbered = self.target.numbers_rows(found);
        let write = |ledger: &mut Ledger| {
            tables::create_tables(conn)?;
            if let (true, Some(cut)) = (is_numbered, cut) {
                conn.execute(&format!("DELETE FROM {} WHERE rowid > ?1", quote(table)), [cut])?;
            }
            let end = is_numbered.then(|| table::last_row(conn, table)).transpose()?;
            orders::take_over(ledger, fence, end, Timestamp::now());
            tables::write(conn, ledger)
        };
        write(ledger).map_err(|e| failure(path, "write the checkpoints", &e))
    }

    /// What the database holds, without writing or creating anything.
    fn look(&self, pipeline: &str, sink: &str) -> Result<Ledger, SinkError> {
        let path = &self.target.path;
        if !self.look_at_path()? {
            self.needs_database()?;
            return Ok(Ledger::empty(pipeline, sink));
        }
        let read = |conn: &Connection| {
            let ledger = tables::read(conn, pipeline, sink);
            Ok((ledger, Table::inspect(conn, &self.target.table)?))
        };
        let (ledger, found) =
            open::look(path, read).map_err(|e| failure(path, "read the checkpoints", &e))?;
        let ledger = ledger.map_err(|e| of_ledger(path, pipeline, e))?;
        self.judge(found.as_ref())?;
        Ok(ledger)
    }

    fn held(&self) -> SinkError {
        let path = &self.target.path;
        let who = holder::name(path).unwrap_or_else(|| "another process".into());
        SinkError::Held {
            what: format!(
                "{who} holds the write lock of {} and did not give it up within {} s. Stop it, or \
                 wait until it has finished",
                path.display(),
                self.lease.as_secs()
            ),
        }
    }

    /// The target and its fenced connection.
    fn fenced(&mut self) -> Result<(&Target, &mut Open), SinkError> {
        match self.open.as_mut().filter(|open| !open.in_doubt) {
            Some(open) => Ok((&self.target, open)),
            None => Err(unfenced(&self.target)),
        }
    }
}

fn unfenced(target: &Target) -> SinkError {
    let what = format!("{} was not fenced before it was written to", target.path.display());
    SinkError::Failed { what }
}

impl Open {
    /// Begins a transaction and compares, under its lock, that this is still the newest claim.
    fn begin(&self, path: &Path) -> Result<(), SinkError> {
        let begun = self.conn.execute_batch("BEGIN IMMEDIATE");
        begun.map_err(|e| failure(path, "begin a transaction", &e))?;
        tables::compare(&self.conn, &self.ledger).map_err(|error| {
            roll_back(&self.conn);
            of_ledger(path, &self.ledger.pipeline, error)
        })
    }

    /// The last row of the target, where `SQLite` numbers what is appended.
    pub(super) fn last_row(&self, target: &Target) -> Result<Option<i64>, SinkError> {
        if !self.numbers_rows {
            return Ok(None);
        }
        let last = table::last_row(&self.conn, &target.table);
        last.map(Some).map_err(|e| failure(&target.path, "read the last row", &e))
    }

    /// Commits what was written, if the file is still the one that was opened.
    pub(super) fn commit(&mut self, path: &Path) -> Result<(), SinkError> {
        if FileId::of(path).ok() != Some(self.file) {
            roll_back(&self.conn);
            return Err(SinkError::Failed {
                what: format!(
                    "{} was moved, deleted or replaced while it was written. Nothing more was \
                     committed; put it back and run the same command again",
                    path.display()
                ),
            });
        }
        let committed = commit(&self.conn, path);
        if let Err(error) = &committed {
            roll_back(&self.conn);
            self.in_doubt = matches!(error, SinkError::InDoubt { .. });
        }
        committed
    }
}

impl TransactionalSink for SqliteSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee {
            what: "exactly once",
            why: "rows and checkpoint commit in one SQLite transaction (synchronous=FULL), which \
                  also compares the epoch of the claim"
                .into(),
        }
    }

    fn location(&self) -> String {
        format!("{}, table {}", self.target.path.display(), self.target.table)
    }

    fn peek(&mut self, pipeline: &str, sink: &str) -> Result<Vec<Checkpoint>, SinkError> {
        Ok(self.look(pipeline, sink)?.rows.into_values().collect())
    }

    fn inspect(&mut self, pipeline: &str, sink: &str, orders: &[Order]) -> Result<(), SinkError> {
        let ledger = self.look(pipeline, sink)?;
        if !ledger.rows.values().any(|checkpoint| orders::goes_on(checkpoint, orders)) {
            return Ok(());
        }
        let Target { path, table, .. } = &self.target;
        let gone = |conn: &Connection| {
            Ok(Table::inspect(conn, table)?.is_none() && table::is_ours(conn, table)?)
        };
        if !open::look(path, gone).map_err(|e| failure(path, "read its tables", &e))? {
            return Ok(());
        }
        Err(orders::gone(table, &path.display().to_string(), pipeline, sink))
    }

    fn newest_epoch(&mut self, pipeline: &str, sink: &str) -> Result<Epoch, SinkError> {
        Ok(self.look(pipeline, sink)?.epoch)
    }

    fn fence(&mut self, fence: &Fence) -> Result<Vec<Checkpoint>, SinkError> {
        // A connection that was in doubt is not asked again: what is on disk decides.
        self.open = None;
        let turn = self.turn.clone();
        let _held = turn.as_ref().map(|turn| turn.take());
        let open = self.open.insert(self.open_fenced(fence)?);
        Ok(open.ledger.rows.values().cloned().collect())
    }

    fn begin(&mut self) -> Result<Box<dyn Transaction + '_>, SinkError> {
        self.fenced()?;
        let held = self.turn.as_ref().map(|turn| turn.take());
        let (target, Some(open)) = (&self.target, &mut self.open) else {
            return Err(unfenced(&self.target));
        };
        open.begin(&target.path)?;
        fault::point("sink.begin");
        let last_row = open.last_row(target).inspect_err(|_| roll_back(&open.conn))?;
        Ok(Box::new(SqliteTransaction::new(target, open, last_row, held)))
    }

    fn forget(&mut self) -> Result<(), SinkError> {
        let (Target { path, .. }, open) = self.fenced()?;
        open.begin(path)?;
        if let Err(error) = tables::forget(&open.conn, &open.ledger) {
            roll_back(&open.conn);
            return Err(failure(path, "remove the checkpoints", &error));
        }
        open.commit(path)?;
        open.ledger.clear();
        Ok(())
    }
}
