//! Statements in a `SQLite` database.
//!
//! Its write lock is taken at `BEGIN` and kept to `COMMIT`, so that nothing changes in between.
//! While a person's statements are prepared, an authorizer refuses whatever begins or ends a
//! transaction, before it is executed; a progress handler looks at the clock.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use piton_core::{Checkpoint, CheckpointKey, Epoch};
use piton_stores::joined::{
    mark::Standing,
    sqlite::{LedgerError, tables},
};
use rusqlite::{
    Connection, Error, ErrorCode,
    fallible_iterator::FallibleIterator as _,
    hooks::{AuthAction, Authorization},
    params_from_iter,
    types::Value as Bound,
};

use super::{
    Seen, StatementsError, Value,
    limits::{LOOK_UP, Watch},
    protocol::{self, Kept, Way, committed, no_more_time, of_transactions},
    statement::Place,
};
use crate::{
    sink::SinkError,
    sqlite::{
        commit::{commit, roll_back},
        errors::{code, commit_failure, failure, is_busy, of_ledger},
        holder,
        open::{self, FileId, is_store},
    },
};

/// How many steps of the virtual machine pass between two looks at the clock: some 100 µs.
const STEPS: i32 = 10_000;

pub(super) struct Database {
    path: PathBuf,
    shown: String,
    lease: Duration,
}

/// What the statements of a person may not do, and did.
#[derive(Debug, Default)]
struct Gate {
    /// Whether statements of a person are being prepared.
    is_closed: AtomicBool,
    /// Whether they have changed the connection, for as long as it is open.
    has_changed: AtomicBool,
}

pub(super) struct Session {
    conn: Connection,
    file: FileId,
    path: PathBuf,
    lease: Duration,
    gate: Arc<Gate>,
}

impl Database {
    pub(super) fn new(path: &str, base: &Path, lease: Duration) -> Result<Self, String> {
        if path.is_empty() || path == ":memory:" {
            return Err("`url` must name a database file: sqlite:PATH".into());
        }
        let path = base.join(path);
        let path = std::path::absolute(&path).unwrap_or(path);
        let shown = path.display().to_string();
        Ok(Self { path, shown, lease })
    }

    /// Finds what makes the path unusable, without touching it.
    fn look_at_path(&self) -> Result<(), StatementsError> {
        let at = &self.shown;
        let settings = |what: String| Err(StatementsError::Settings { what });
        if self.path.is_dir() {
            return settings(format!("{at} is a folder: `url` names a file, as sqlite:PATH"));
        }
        match self.path.parent() {
            Some(folder) if !folder.is_dir() => {
                settings(format!("the folder {} does not exist: create it", folder.display()))
            }
            _ if is_store(&self.path) => settings(format!(
                "{at} is a store of Piton, which every transaction would lock: name another \
                 database"
            )),
            _ => Ok(()),
        }
    }
}

/// Reads a mark and its epoch without a trace; `None` where there is nothing, or no more to be known.
pub(super) fn look(path: &Path, key: &CheckpointKey) -> Option<Seen> {
    if !path.is_file() {
        return None;
    }
    open::look(path, |conn| Ok(tables::standing(conn, key).ok()))
        .ok()
        .flatten()
        .map(|standing| Seen { epoch: standing.epoch(), mark: standing.row })
}

impl protocol::Database for Database {
    type Session = Session;

    fn location(&self) -> &str {
        &self.shown
    }

    fn promise(&self) -> &'static str {
        "SQLite transaction (synchronous=FULL)"
    }

    fn connect(&mut self, _: &str) -> Result<Session, StatementsError> {
        self.look_at_path()?;
        let failed = |doing: &'static str| {
            |error: Error| -> StatementsError { failure(&self.path, doing, &error).into() }
        };
        let mut conn = open::to_write(&self.path, true, self.lease).map_err(failed("open it"))?;
        let gate = Arc::<Gate>::default();
        let kept = Arc::clone(&gate);
        conn.authorizer(Some(move |asked: rusqlite::hooks::AuthContext<'_>| {
            kept.judge(&asked.action)
        }))
        .map_err(failed("open it"))?;
        let file = FileId::of(&self.path).map_err(|e| StatementsError::Failed {
            what: format!("{} is gone since it was opened: {e}", self.shown),
        })?;
        Ok(Session { conn, file, path: self.path.clone(), lease: self.lease, gate })
    }
}

impl Gate {
    fn judge(&self, action: &AuthAction<'_>) -> Authorization {
        if !self.is_closed.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        match action {
            AuthAction::Transaction { .. } => return Authorization::Deny,
            // This one ends with the transaction.
            AuthAction::Pragma { pragma_name: "defer_foreign_keys", .. } => {}
            AuthAction::Pragma { pragma_value: Some(_), .. }
            | AuthAction::Attach { .. }
            | AuthAction::CreateTempTable { .. }
            | AuthAction::CreateTempTrigger { .. }
            | AuthAction::CreateTempView { .. } => self.has_changed.store(true, Ordering::Relaxed),
            _ => {}
        }
        Authorization::Allow
    }
}

impl Session {
    fn failure(&self, doing: &str, error: &Error) -> StatementsError {
        failure(&self.path, doing, error).into()
    }

    fn of_ledger(&self, key: &CheckpointKey, error: LedgerError) -> StatementsError {
        of_ledger(&self.path, &key.pipeline, error).into()
    }

    /// Takes the write lock, waiting for others as long as the lease and the limits allow.
    fn take_lock(&self, watch: Option<&Watch>) -> Result<(), StatementsError> {
        let began = Instant::now();
        loop {
            match self.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut s| s.execute([])) {
                Ok(_) => return Ok(()),
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(self.failure("begin a transaction", &error)),
            }
            if let Some(over) = watch.and_then(Watch::over) {
                let at = self.path.display().to_string();
                return Err(no_more_time(over, &"taking the write lock", &at));
            }
            if began.elapsed() >= self.lease {
                return Err(self.held());
            }
            thread::sleep(LOOK_UP);
        }
    }

    fn held(&self) -> StatementsError {
        let who = holder::name(&self.path).unwrap_or_else(|| "another process".into());
        StatementsError::Held {
            what: format!(
                "{who} holds the write lock of {} and did not give it up within {} s. Stop it, or \
                 wait until it has finished",
                self.path.display(),
                self.lease.as_secs()
            ),
        }
    }

    /// Under the write lock.
    fn write_epoch(&self, key: &CheckpointKey, epoch: Epoch) -> Result<(), LedgerError> {
        let mut ledger = tables::read(&self.conn, &key.pipeline, &key.sink)?;
        ledger.admit(epoch)?;
        if ledger.epoch < epoch {
            tables::create_tables(&self.conn)?;
            ledger.epoch = epoch;
            ledger.rows.values_mut().for_each(|row| row.epoch = epoch);
            tables::write(&self.conn, &mut ledger)?;
        }
        Ok(())
    }

    /// Executes one statement, or several without values.
    fn execute(&self, place: &Place<'_>) -> Result<u64, Trouble> {
        let sql = place.statement.sql(|_, _, sql| sql.push('?'));
        let mut values = place.statement.values().map(bound).peekable();
        let has_values = values.peek().is_some();
        let mut batch = rusqlite::Batch::new(&self.conn, &sql);
        let mut rows = 0;
        let mut count = 0;
        while let Some(mut statement) = batch.next()? {
            count += 1;
            if has_values && count > 1 {
                return Err(Trouble::Several);
            }
            if !has_values && statement.parameter_count() > 0 {
                return Err(Trouble::Placeholder);
            }
            let before = self.conn.total_changes();
            let mut given = 0;
            let mut answer = statement.query(params_from_iter(values.by_ref()))?;
            while answer.next()?.is_some() {
                given += 1;
            }
            drop(answer);
            let changed = self.conn.total_changes() != before;
            rows += if changed { self.conn.changes() } else { given };
        }
        Ok(rows)
    }

    /// What went wrong with a statement.
    fn trouble(&self, place: &Place<'_>, watch: &Watch, trouble: Trouble) -> StatementsError {
        let at = self.path.display();
        let settings = |why: &str| StatementsError::Settings {
            what: format!("{place} cannot be executed in {at}: {why}. Nothing was done"),
        };
        let error = match trouble {
            Trouble::Several => {
                return settings("a statement with values stands alone: write each by itself");
            }
            Trouble::Placeholder => {
                return settings(
                    "it has a parameter of its own (`?`, `:name`, `@name` or `$name`), for which \
                     there is no value",
                );
            }
            Trouble::Sqlite(Error::InvalidParameterCount(..)) => {
                return settings(
                    "a value stands within quotes, where it is not a value, or there is a `?` of \
                     its own: write values without quotes",
                );
            }
            Trouble::Sqlite(error) => error,
        };
        if let (Some(ErrorCode::OperationInterrupted), Some(over)) = (code(&error), watch.over()) {
            return no_more_time(over, place, &at.to_string());
        }
        match code(&error) {
            Some(ErrorCode::AuthorizationForStatementDenied) => of_transactions(place),
            Some(
                ErrorCode::NotADatabase
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure,
            ) => self.failure(&format!("execute {place}"), &error),
            _ => StatementsError::Failed {
                what: format!(
                    "{place} failed in {at}: {error}. Nothing was done; when that is mended, run \
                     the same command again"
                ),
            },
        }
    }
}

/// Why a statement was not executed.
enum Trouble {
    Several,
    Placeholder,
    Sqlite(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

impl protocol::Session for Session {
    fn take_over(&mut self, key: &CheckpointKey, epoch: Epoch) -> Result<(), StatementsError> {
        // From here on this waits by itself, so that it can be stopped.
        self.conn.busy_timeout(LOOK_UP * 5).map_err(|e| self.failure("open it", &e))?;
        self.take_lock(None)?;
        self.write_epoch(key, epoch).map_err(|e| self.of_ledger(key, e))?;
        self.conn.execute_batch("COMMIT").map_err(|e| commit_failure(&self.path, &e).into())
    }

    fn standing(&mut self, key: &CheckpointKey) -> Result<Standing, StatementsError> {
        let read = |session: &mut Self| {
            let tx = session.conn.transaction()?;
            tables::standing(&tx, key)
        };
        read(self).map_err(|e| self.of_ledger(key, e))
    }

    fn begin(&mut self, key: &CheckpointKey, watch: &Watch) -> Result<Standing, StatementsError> {
        if self.gate.has_changed.load(Ordering::Relaxed) {
            let at = self.path.display();
            let what = format!("the connection to {at} was changed, and is opened anew");
            return Err(StatementsError::Unavailable { what });
        }
        self.take_lock(Some(watch))?;
        self.lock(key)
    }

    fn run(&mut self, place: &Place<'_>, _: Way, watch: &Watch) -> Result<u64, StatementsError> {
        let clock = watch.clone();
        let watching = self.conn.progress_handler(STEPS, Some(move || clock.over().is_some()));
        self.gate.is_closed.store(true, Ordering::Relaxed);
        let done = watching.map_err(Trouble::from).and_then(|()| self.execute(place));
        self.gate.is_closed.store(false, Ordering::Relaxed);
        // What is to be done after them is little, and is not given up.
        let _ = self.conn.progress_handler(0, None::<fn() -> bool>);
        match done {
            Err(trouble) => Err(self.trouble(place, watch, trouble)),
            Ok(_) if self.conn.is_autocommit() => {
                Err(committed(place, &self.path.display().to_string(), ""))
            }
            Ok(rows) => Ok(rows),
        }
    }

    fn lock(&mut self, key: &CheckpointKey) -> Result<Standing, StatementsError> {
        tables::standing(&self.conn, key).map_err(|e| self.of_ledger(key, e))
    }

    fn clear(
        &mut self,
        pipeline: &str,
        sink: &str,
        partitions: &[&str],
    ) -> Result<(), StatementsError> {
        let removed = tables::remove(&self.conn, pipeline, sink, partitions);
        removed.map_err(|e| of_ledger(&self.path, pipeline, e).into())
    }

    fn mark(&mut self, standing: &Standing, new: &Checkpoint) -> Result<(), StatementsError> {
        tables::mark(&self.conn, standing, new).map_err(|e| self.failure("record the mark", &e))
    }

    fn commit(&mut self) -> Result<(), StatementsError> {
        if FileId::of(&self.path).ok() != Some(self.file) {
            return Err(StatementsError::Failed {
                what: format!(
                    "{} was moved, deleted or replaced while statements were executed. Nothing was \
                     committed; put it back and run the same command again",
                    self.path.display()
                ),
            });
        }
        commit(&self.conn, &self.path).map_err(|error| {
            if matches!(error, SinkError::InDoubt { .. }) {
                roll_back(&self.conn);
            }
            error.into()
        })
    }

    fn roll_back(&mut self) -> Option<Kept> {
        roll_back(&self.conn);
        self.conn.is_autocommit().then_some("")
    }
}

fn bound(value: &Value) -> Bound {
    match value {
        Value::Null => Bound::Null,
        Value::Boolean(b) => Bound::Integer(i64::from(*b)),
        Value::Integer(i) => Bound::Integer(*i),
        Value::Number(text) => {
            text.parse().map_or_else(|_| Bound::Text(text.clone()), Bound::Integer)
        }
        Value::Text(text) | Value::Json(text) => Bound::Text(text.clone()),
        Value::Bytes(bytes) => Bound::Blob(bytes.clone()),
    }
}
