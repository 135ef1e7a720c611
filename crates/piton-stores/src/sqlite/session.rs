//! The connection to a store's file, its transactions, and its log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use piton_core::StoreError;
use rusqlite::{
    Connection, ToSql, TransactionBehavior, params_from_iter,
    types::{ToSqlOutput, ValueRef},
};

use super::{errors, file::Identity, locks::Locks};
use crate::{
    rules::ClaimRow,
    sql::{
        Cell, End, Lock, Reading, Result, Row, Scope, Session, Sql, Transaction, Trouble, Value,
        Write, Writing,
    },
};

/// How long a transaction of another process is waited for.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// How many pages may be in the log before they are copied into the file.
const LOG_PAGES: usize = 1000;

/// A connection to a store's file.
pub(super) struct Sqlite {
    at: String,
    connection: Connection,
    identity: Identity,
    locks: Locks,
    /// Why nothing is written any more: a commit is in doubt.
    failed: Option<String>,
    log: Arc<AtomicUsize>,
    /// At how many pages the log is looked after next.
    tend_at: usize,
}

impl Sqlite {
    pub(super) fn new(
        at: String,
        mut connection: Connection,
        identity: Identity,
        locks: Locks,
    ) -> Result<Self, StoreError> {
        let log = Arc::new(AtomicUsize::new(0));
        let pages = Arc::clone(&log);
        let hook = move |_: &mut rusqlite::hooks::Wal, count: i32| {
            pages.store(count.unsigned_abs() as usize, Ordering::Relaxed);
            Ok(())
        };
        connection.wal_hook(Some(hook)).map_err(|e| Trouble::Sqlite(e).at(&at))?;
        connection.set_prepared_statement_cache_capacity(64);
        let (failed, tend_at) = (None, LOG_PAGES);
        Ok(Self { at, connection, identity, locks, failed, log, tend_at })
    }
}

impl Session for Sqlite {
    fn at(&self) -> &str {
        &self.at
    }

    fn read(&mut self, f: &mut Reading<'_>) -> Result<(), StoreError> {
        let begin = self.connection.transaction_with_behavior(TransactionBehavior::Deferred);
        let transaction = begin.map_err(|e| Trouble::Sqlite(e).at(&self.at))?;
        let mut open = Open { connection: &transaction, locks: &self.locks };
        f(&mut open).map_err(|trouble| trouble.at(&self.at))
    }

    /// It has the write lock before it reads anything.
    fn write(&mut self, _: &Write<'_>, f: &mut Writing<'_>) -> Result<(), StoreError> {
        let at = &self.at;
        if let Some(what) = &self.failed {
            let what = format!("an earlier commit is in doubt ({what}); start again to read it");
            return Err(StoreError::Unusable { at: at.clone(), what });
        }
        self.identity.check().map_err(|trouble| trouble.at(at))?;
        let begin = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begin.map_err(|e| Trouble::Sqlite(e).at(at))?;
        let mut open = Open { connection: &transaction, locks: &self.locks };
        match f(&mut open).map_err(|trouble| trouble.at(at))? {
            End::Rollback => Ok(()),
            End::Commit => transaction.commit().map_err(|error| {
                let error = errors::of_commit(&error, at);
                if let StoreError::InDoubt { what, .. } = &error {
                    self.failed = Some(what.clone());
                }
                error
            }),
        }
    }

    fn free(&mut self, scope: &Scope) {
        self.locks.remove(scope);
    }

    /// Copies the log into the file when it has grown, between commands, so that no save pays for
    /// it. What fails here is in the log still, and is tried again.
    fn tend(&mut self) {
        let pages = self.log.load(Ordering::Relaxed);
        if pages >= self.tend_at {
            let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
            let _ = self.connection.query_row(checkpoint, [], |_| Ok(()));
            self.tend_at = pages + LOG_PAGES;
        } else if pages < LOG_PAGES {
            self.tend_at = LOG_PAGES;
        }
    }

    fn tended_every(&mut self) -> Option<Duration> {
        None
    }
}

/// A transaction under way.
pub(super) struct Open<'a> {
    pub(super) connection: &'a Connection,
    pub(super) locks: &'a Locks,
}

impl Sql for &Connection {
    fn query(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let mut statement = self.prepare_cached(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(values))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let cells = (0..columns).map(|column| cell(row.get_ref(column)?));
            found.push(Row(cells.collect::<Result<_>>()?));
        }
        Ok(found)
    }

    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        let changed = self.prepare_cached(sql)?.execute(params_from_iter(values))?;
        Ok(changed as u64)
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// A column whose bytes are what a store writes.
fn cell(value: ValueRef<'_>) -> Result<Cell> {
    match value {
        ValueRef::Null => Ok(Cell::Null),
        ValueRef::Integer(number) => Ok(Cell::Integer(number)),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Cell::Text(text.to_owned())),
            Err(error) => Err(Trouble::damage(format!("a text is not UTF-8: {error}"))),
        },
        ValueRef::Real(_) | ValueRef::Blob(_) => {
            Err(Trouble::damage("a column is neither text nor a whole number"))
        }
    }
}

impl Sql for Open<'_> {
    fn query(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        Sql::query(&mut self.connection, sql, values)
    }

    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        Sql::execute(&mut self.connection, sql, values)
    }
}

impl Transaction for Open<'_> {
    fn insert(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        Sql::execute(&mut self.connection, sql, values)?;
        Ok(self.connection.last_insert_rowid() as u64)
    }

    fn insert_if_absent(&mut self, sql: &str, values: &[Value<'_>]) -> Result<bool> {
        let sql = format!("{sql} ON CONFLICT DO NOTHING");
        Ok(Sql::execute(&mut self.connection, &sql, values)? > 0)
    }

    fn is_alive(&mut self, claim: &ClaimRow) -> Result<bool> {
        self.locks.is_alive(claim)
    }

    fn take_lock(&mut self, scope: &Scope, _: Duration) -> Result<Option<Lock>> {
        let file = self.locks.take(scope)?;
        Ok(Some(Arc::new(file)))
    }

    fn is_far(&self) -> bool {
        false
    }

    fn connection(&self) -> u64 {
        0
    }
}
