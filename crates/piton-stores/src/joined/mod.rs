//! Checkpoints in somebody else's database, in the transaction of the effects they speak for.
//!
//! A store of its own can only say that effects which were durable before are done; a crash between
//! the two repeats them. A checkpoint that is written in the transaction of the effects commits
//! with them or not at all. So the transaction is a parameter here, never something that this crate
//! begins or commits for the effects: that the two are one is visible at the call.
//!
//! Two things make it safe against an owner that slept. The epoch of the claim is in the same
//! table and is compared in every transaction; and whoever takes over first writes its own epoch,
//! under the database's write lock, and reads the position only then.
//!
//! Each database is a module: its tables, and a type that implements [`JoinsTransaction`] for that
//! driver's transactions.

pub mod ledger;
pub mod mark;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::future::Future;

use jiff::Timestamp;
use piton_core::{PositionOrder, Saved, StateEntry, StoredPosition};

/// How far a checkpoint is to be moved.
#[derive(Debug, Clone)]
pub struct Advance {
    /// The new position.
    pub position: StoredPosition,
    /// How positions of this source are ordered.
    pub order: PositionOrder,
    /// How many records lie between the last position and this one.
    pub records: u64,
    /// Changed entries of the program's own state, written in the same transaction.
    pub state: Vec<StateEntry>,
}

/// Writes a checkpoint in a transaction that the caller began and will commit. `Tx` is what the
/// driver hands out: `&rusqlite::Transaction`, or a mutable reference where a driver wants one.
///
/// The future needs no runtime of its own; where the driver blocks, it is ready at once.
pub trait JoinsTransaction<Tx> {
    /// What the database may fail with.
    type Error;

    /// Moves the checkpoint in the caller's transaction. Anything but [`Saved::Stored`] wrote
    /// nothing, and means that the caller's effects must not stand: roll back.
    ///
    /// A position that is stored already is [`Saved::Ignored`]: the transaction that stored it had
    /// the effects, too.
    ///
    /// # Errors
    /// What the database fails with, or that what it holds cannot be trusted: roll back.
    fn save_in(
        &mut self,
        tx: Tx,
        advance: &Advance,
        now: Timestamp,
    ) -> impl Future<Output = Result<Saved, Self::Error>>;
}
