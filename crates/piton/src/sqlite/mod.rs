//! Effects and checkpoint in one transaction of the program's own SQLite database: each record's
//! effect exactly once.
//!
//! The checkpoint is a row of `piton_checkpoints` beside the program's tables. It commits with the
//! effects or not at all, so there is no moment at which a crash could leave one without the other.
//! The store keeps the claim, the runs and a copy of the checkpoint, at most a second behind, for
//! `piton status`.
//!
//! Taking over is fence, then read: opening a cursor first writes the epoch of its claim into that
//! row, under the database's write lock, and reads the position only then. Every save compares the
//! epoch inside the transaction. So an owner that slept and was replaced gets [`Saved::Fenced`], and
//! its effects are rolled back, however late it wakes.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?; let path = folder.path().join("shop.db");
//! let mut conn = piton::rusqlite::Connection::open(path)?;
//! conn.execute_batch("CREATE TABLE IF NOT EXISTS squares (n INTEGER, square INTEGER)")?;
//! let store = piton::open("memory:")?;
//! let mut cursor = piton::sqlite::Cursor::<u64>::open(&store, &mut conn, "squares")?;
//! for n in cursor.position().map_or(0, |n| n + 1)..100 {
//!     let saved = cursor.transaction(&mut conn, n, |tx| {
//!         tx.execute("INSERT INTO squares VALUES (?1, ?2)", [n, n * n])?;
//!         Ok(())
//!     })?;
//!     assert!(saved.is_stored());
//! }
//! cursor.finish(&mut conn)?;
//! # Ok(())
//! # }
//! ```
//!
//! A transaction for every record is the simplest, and each costs a commit. Where that is too slow,
//! do many records in one, with the position of the last ([`Cursor::counting`]).

mod cursor;
mod open;
mod reconcile;

pub use self::cursor::Cursor;
pub use piton_stores::joined::sqlite::{Joined, LedgerError};
