//! What every store in a SQL database does alike: claims, saves, orders and the journal, written
//! once over a few statements' worth of SQL that SQLite, PostgreSQL and MySQL all understand.
//!
//! A database brings a [`Session`] (a connection that runs transactions, knows whether the commit
//! of one took effect, and keeps locks by which others see that an owner lives) and, within one, a
//! [`Transaction`]. Parameters are written `?`, in their order; names that one of the databases
//! reserves are quoted with `"`. Numbers are 64-bit integers, unsigned ones bit for bit; everything
//! else is text, times RFC 3339 in UTC, so that a row reads the same in each of them.
//!
//! Nothing here holds a lock of its own. That reads within a writing transaction see what nobody
//! changes before it ends is the session's promise: SQLite has one writer, a server locks the
//! pipeline's anchor row first.

#[cfg(feature = "server")]
mod batch;
mod claims;
mod definitions;
#[cfg(all(unix, feature = "server"))]
mod handed;
mod letters;
mod manifest;
mod orders;
mod row;
mod rows;
mod runs;
mod saves;
#[cfg(feature = "server")]
mod server;
mod snapshot;
mod state;
mod store;
mod trouble;
mod value;
mod worker;

use std::{any::Any, sync::Arc, time::Duration};

use piton_core::{Claim, Epoch};

#[cfg(feature = "sqlite")]
pub(crate) use self::snapshot::restore;
pub use self::store::SqlStore;
#[cfg(feature = "server")]
pub(crate) use self::{
    batch::{Batch, rows_of},
    server::{COMING_BACK, Connection, Server, ServerSession},
    trouble::Setback,
};
#[cfg(all(unix, feature = "server"))]
pub(crate) use self::{handed::Handed, store::Guard};
pub(crate) use self::{
    row::{Cell, Row},
    rows::Change,
    trouble::{Result, Trouble, altered},
    value::Value,
    value::values,
    worker::{End, Reading, Session, Write, Writing},
};
use crate::rules::ClaimRow;

/// Statements on a connection.
pub(crate) trait Sql {
    /// Every row that a statement finds.
    fn query(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>>;

    /// Runs a statement and returns how many rows it matched.
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64>;
}

/// A transaction under way in a store's database.
pub(crate) trait Transaction: Sql {
    /// Inserts a row that the database numbers, and returns its number.
    fn insert(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64>;

    /// Inserts a row unless its key is there. Returns whether it was inserted.
    fn insert_if_absent(&mut self, sql: &str, values: &[Value<'_>]) -> Result<bool>;

    /// Whether the owner of a claim lives, by its lock's answer.
    fn is_alive(&mut self, claim: &ClaimRow) -> Result<bool>;

    /// Takes the lock of an epoch that is about to be granted. `None`: the session keeps it, until
    /// it is told to free it or ends.
    fn take_lock(&mut self, scope: &Scope, lease: Duration) -> Result<Option<Lock>>;

    /// Puts checkpoints of one pipeline in place of what is there, with their manifest and, if
    /// asked, history, in one statement. False where row by row is as quick.
    fn put_all(&mut self, pipeline: &str, changes: &[Change], with_history: bool) -> Result<bool> {
        let _ = (pipeline, changes, with_history);
        Ok(false)
    }

    /// Whether each statement is a journey to a server, so that fewer of them are better.
    fn is_far(&self) -> bool;

    /// Which connection this is, of those that the session has had.
    fn connection(&self) -> u64;
}

/// What holds an owner's lock for as long as it is kept.
pub(crate) type Lock = Arc<dyn Any + Send + Sync>;

/// One granted epoch: what a lock is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) pipeline: String,
    pub(crate) partition: String,
    pub(crate) epoch: Epoch,
}

impl Scope {
    pub(crate) fn of(claim: &Claim) -> Self {
        Self {
            pipeline: claim.pipeline.clone(),
            partition: claim.partition.clone(),
            epoch: claim.epoch,
        }
    }

    pub(crate) fn of_row(row: &ClaimRow) -> Self {
        Self {
            pipeline: row.pipeline.clone(),
            partition: row.partition.clone(),
            epoch: row.holder.epoch,
        }
    }
}
