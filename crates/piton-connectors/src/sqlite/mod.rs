//! `SQLite`: a sink whose rows and checkpoint share one transaction, and a source that reads a
//! table or query by its key.
//!
//! The sink keeps `piton_checkpoints` beside the target table, so that one `COMMIT` makes both
//! durable, or neither. Everything that decides whether a row may be written is read under the
//! database's write lock, which is held from `BEGIN IMMEDIATE` to `COMMIT`: a process that slept
//! while another took over finds a newer epoch there, before its first row.
//!
//! - [`settings`]: what a user types;
//! - [`sink`]: fence, read, begin, forget; `transaction`: write and commit;
//! - `table`: the target as it is, and creating it; `insert`: the statements and what they bind;
//! - [`source`], [`position`]: reading by a key; `keyset`: its statements; `cursor` and `page`:
//!   rows into a batch;
//! - `open`: connections; `commit`: ending a transaction; `errors`: what `SQLite` says, in terms of what to do about it.

pub(crate) mod commit;
mod cursor;
pub(crate) mod errors;
pub(crate) mod holder;
mod insert;
mod keyset;
pub(crate) mod open;
mod page;
pub mod position;
pub mod settings;
pub mod sink;
pub mod source;
mod table;
#[cfg(test)]
mod tests;
mod transaction;
mod turn;

pub use position::SqlPosition;
pub use settings::{Mode, SqlSettings, SqliteSettings};
pub use sink::SqliteSink;
pub use source::SqlSource;
pub use turn::Turn;

/// An identifier as it stands in a statement.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
