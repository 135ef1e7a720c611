//! The source `postgres_outbox`: messages that an application appends to a table in its own
//! transactions, relayed in order.
//!
//! A message is true when the transaction that appended it is, so an outbox has no order until
//! transactions end: a lower position may be committed after a higher one was read. What makes it
//! readable is that PostgreSQL knows the oldest transaction in flight. Below that, nothing can come
//! any more; so messages are read in the order (transaction, position) up to there, and none is
//! skipped or seen twice. What this rests on, that ids and rows belong to this server and that the
//! server has kept what it gave, is looked at whenever a connection is made.
//!
//! - [`settings`]: what a user types; [`OutboxPosition`]: where a message stands, as for the library;
//! - `statements`: what is asked of the database; `ddl`: the table; `shape`: a live one;
//! - [`source`], `reader`: reading; `page`: rows into a batch;
//! - `session`: a connection that was looked at; `guard`: whether the server is the one that was;
//! - `horizon`: who keeps messages from being read; `passed`: deleting what all have read.

pub mod check;
mod ddl;
mod guard;
mod horizon;
mod page;
mod passed;
mod reader;
mod session;
pub mod settings;
mod shape;
pub mod source;
mod statements;
#[cfg(test)]
mod tests;
mod values;

pub use check::{Findings, check};
pub use ddl::ddl;
pub use piton::postgres::{Fingerprint, OutboxPosition};
pub use settings::OutboxSettings;
pub use source::OutboxSource;
