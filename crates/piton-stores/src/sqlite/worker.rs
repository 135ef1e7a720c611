//! The thread that owns the connection.
//!
//! Commands are closures that arrive over a channel and are run one after the other; each answers
//! its caller before the thread looks after the log. SQLite has one writer anyway, and one thread
//! keeps its statements prepared, needs no lock, and lets callers of any runtime, or none, wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::Receiver,
    },
    time::Duration,
};

use piton_core::StoreError;
use rusqlite::{Connection, TransactionBehavior};

use super::{
    file::Identity,
    locks::Locks,
    manifest::Verified,
    trouble::{self, Result},
};
use crate::rules::HistoryClock;

/// How long a transaction of another process is waited for.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// How many pages may be in the log before they are copied into the file.
const LOG_PAGES: usize = 1000;

pub(super) type Command = Box<dyn FnOnce(&mut Worker) + Send>;

/// What the thread has beside its connection.
pub(super) struct Context {
    pub(super) locks: Locks,
    pub(super) clock: HistoryClock,
    pub(super) verified: Verified,
}

/// What a transaction came to.
pub(super) enum Done<T> {
    /// Its changes stand.
    Commit(T),
    /// It was decided to change nothing.
    Rollback(T),
}

/// Runs commands on the connection it owns.
pub(super) struct Worker {
    at: String,
    connection: Connection,
    identity: Identity,
    pub(super) context: Context,
    /// Why nothing is written any more: a commit is in doubt.
    failed: Option<String>,
    log: Arc<AtomicUsize>,
    /// At how many pages the log is looked after next.
    tend_at: usize,
}

impl Worker {
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
        connection.wal_hook(Some(hook)).map_err(|e| trouble::Trouble::Sql(e).at(&at))?;
        connection.set_prepared_statement_cache_capacity(64);
        let context =
            Context { locks, clock: HistoryClock::default(), verified: Verified::default() };
        let (failed, tend_at) = (None, LOG_PAGES);
        Ok(Self { at, connection, identity, context, failed, log, tend_at })
    }

    /// Runs commands until every handle is gone.
    pub(super) fn serve(mut self, commands: &Receiver<Command>) {
        while let Ok(command) = commands.recv() {
            command(&mut self);
            self.tend();
        }
    }

    /// Runs a transaction that only reads.
    pub(super) fn read<T>(
        &mut self,
        f: impl FnOnce(&Connection, &mut Context) -> Result<T>,
    ) -> Result<T, StoreError> {
        let at = &self.at;
        let begin = self.connection.transaction_with_behavior(TransactionBehavior::Deferred);
        let transaction = begin.map_err(|e| trouble::Trouble::Sql(e).at(at))?;
        f(&transaction, &mut self.context).map_err(|trouble| trouble.at(at))
    }

    /// Runs a transaction that writes: it has the write lock before it reads anything.
    pub(super) fn write<T>(
        &mut self,
        f: impl FnOnce(&Connection, &mut Context) -> Result<Done<T>>,
    ) -> Result<T, StoreError> {
        let at = &self.at;
        if let Some(what) = &self.failed {
            let what = format!("an earlier commit is in doubt ({what}); start again to read it");
            return Err(StoreError::Unusable { at: at.clone(), what });
        }
        self.identity.check().map_err(|trouble| trouble.at(at))?;
        let begin = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begin.map_err(|e| trouble::Trouble::Sql(e).at(at))?;
        match f(&transaction, &mut self.context).map_err(|trouble| trouble.at(at))? {
            Done::Rollback(answer) => Ok(answer),
            Done::Commit(answer) => match transaction.commit() {
                Ok(()) => Ok(answer),
                Err(error) => {
                    let error = trouble::of_commit(error, at);
                    if let StoreError::InDoubt { what, .. } = &error {
                        self.failed = Some(what.clone());
                    }
                    Err(error)
                }
            },
        }
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
}
