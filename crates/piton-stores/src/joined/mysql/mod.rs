//! Checkpoints in a MySQL or MariaDB database of somebody else's, for its blocking client.
//!
//! The tables are in the database of the session. [`Ledger`] and its [`tables`] are for a sink that
//! commits rows of many partitions.
//!
//! The lock is, as on PostgreSQL, the row of `piton_manifest` of one pipeline's sink: whoever takes
//! over creates it if it is not there, and every transaction locks it first, so that an owner's open
//! transaction is waited for, also where there are no checkpoints yet. Locking reads see what was
//! committed last, so transactions run at READ COMMITTED.

pub mod tables;

pub use super::ledger::Ledger;

/// Why the checkpoints of a MySQL database could not be used.
pub type LedgerError = super::ledger::LedgerError<mysql::Error>;
