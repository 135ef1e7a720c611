//! Checkpoints in a PostgreSQL database of somebody else's, for its asynchronous client.
//!
//! The tables are found by the search path, and created in its first schema. [`Ledger`] and its
//! [`tables`] are for a sink that commits rows of many partitions.
//!
//! PostgreSQL has no lock on the whole database as SQLite has. The lock here is the row of
//! `piton_manifest` of one pipeline's sink: whoever takes over creates it if it is not there, and
//! every transaction locks it first, so that an owner's open transaction is waited for, also where
//! there are no checkpoints yet.

pub mod tables;

pub use super::ledger::Ledger;

/// Why the checkpoints of a PostgreSQL database could not be used.
pub type LedgerError = super::ledger::LedgerError<tokio_postgres::Error>;
