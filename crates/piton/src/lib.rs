//! Checkpoints for programs that must not start over.
//!
//! Three uses, each a compiled example in `examples/`:
//!
//! 1. **A loop that resumes** ([`Cursor`]): one row a job, saved at an interval that tunes itself,
//!    removed on completion.
//! 2. **Work that finishes out of order** ([`Tracker`]): the cursor only passes what is done
//!    without a gap.
//! 3. **Effects and checkpoint in one transaction** (`Cursor::transaction`, feature `sqlite`): each
//!    record's effect exactly once.
//!
//! A cursor can carry the program's own state, a value or keyed entries of which only the changed
//! ones are written, stored atomically with the position.
//!
//! Nothing here needs an async runtime, and there is no global state. [`Cursor`] blocks;
//! [`asynchronous::Cursor`] is the same for async programs, on any runtime.
//!
//! ```
//! # fn main() -> Result<(), piton::CursorError> {
//! let store = piton::open("memory:")?;
//! let mut cursor: piton::Cursor<u64> = piton::Cursor::open(&store, "import")?;
//! for n in cursor.position().map_or(0, |n| n + 1)..100_000 {
//!     // … the work on record n …
//!     cursor.passed(n)?;
//! }
//! cursor.finish()?;
//! # Ok(())
//! # }
//! ```

pub mod asynchronous;
mod blocking;
mod error;

use std::{path::Path, sync::Arc};

pub use piton_core as core;
pub use piton_core::{
    Position, Saved, Store, StoreError, Tracker, interval::Policy, tracker::Ticket,
};

pub use crate::{asynchronous::Options, blocking::Cursor, error::CursorError};

/// Opens a store by its URL, creating it if it is not there: `sqlite:PATH` or `memory:`.
/// A relative path is resolved against the working directory.
///
/// # Errors
/// [`StoreError`], each with what to do.
pub fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    piton_stores::open(url, Path::new("."), piton_stores::Mode::Create)
}
