//! Checkpoints for programs that must not start over.
//!
//! A *job* is something that reads records in order. A *position* says where a record stands, a
//! *cursor* keeps the last one that is done, so that the next run goes on behind it. Three uses,
//! each a compiled example in `examples/`:
//!
//! 1. **A loop that resumes** ([`Cursor`]): one row a job, saved at an interval that tunes itself,
//!    removed on completion.
//! 2. **Work that finishes out of order** ([`Tracker`]): the cursor only passes what is done
//!    without a gap.
//! 3. **Effects and checkpoint in one transaction** (`sqlite::Cursor`, feature `sqlite`): each
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
//! let store = piton::open("memory:")?; // sqlite:piton.db with the feature `sqlite`
//! let mut cursor = piton::Cursor::<u64>::open(&store, "import")?;
//! for n in cursor.position().map_or(0, |n| n + 1)..100_000 {
//!     // … the work on record n …
//!     cursor.passed(n)?;
//! }
//! cursor.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What happens when it crashes here
//!
//! | where the process dies | what the next run finds |
//! |---|---|
//! | before the first save | no position: it begins at the start |
//! | while a record is worked on, or after, before the next save | the last saved position: the records since then are read again |
//! | in the middle of a save | the old position or the new one, with the state that belongs to it |
//! | between the effects and the commit of a `sqlite::Cursor` | neither |
//! | after that commit, before anything else | both |
//! | in [`finish`](Cursor::finish), before the checkpoint is removed | the last position: the loop has nothing to do, and finishes |
//!
//! So with [`Cursor`] a crash repeats at most what lies after the last save, by default at most
//! ten seconds of work; make the work such that a repeat does no harm (write under a key that the
//! record has, not beside what is there). With `sqlite::Cursor` nothing is repeated. A dropped
//! cursor, by `?` or by a panic, is the same as a crash; [`stop`](Cursor::stop) is the clean way to
//! go on another time.
//!
//! A process that hung, and was replaced after its lease, finds out with the next record or save
//! ([`CursorError::Fenced`]): what it saves then is refused, however late it wakes.
//!
//! # Positions
//!
//! Numbers and strings (compared byte by byte) are positions already. Anything else that is ordered and turns into JSON can be one:
//!
//! ```
//! use piton::Position;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
//! struct Line {
//!     file: u32,
//!     line: u64,
//! }
//!
//! impl Position for Line {
//!     const KIND: &'static str = "file and line"; // never changes once it is stored
//! }
//! ```

pub mod asynchronous;
mod blocking;
pub mod claiming;
mod clock;
mod error;
pub mod job;
mod options;
mod pace;
#[cfg(feature = "postgres")]
pub mod postgres;
mod session;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod state;

use std::{path::Path, sync::Arc};

pub use piton_core as core;
pub use piton_core::{
    Position, Saved, Store, StoreError, Tracker, interval::Policy, tracker::Ticket,
};
pub use piton_stores::joined::{self, JoinsTransaction};
#[cfg(feature = "sqlite")]
pub use rusqlite;

pub use crate::{
    blocking::Cursor,
    claiming::WhenHeld,
    error::{CursorError, EffectsError},
    options::Options,
};

/// Opens a store by its URL, creating it if it is not there: `sqlite:PATH` (feature `sqlite`) or
/// `memory:`. A relative path is resolved against the working directory.
///
/// One store serves every job of a program, and several programs may use one at the same time.
///
/// # Errors
/// [`StoreError`], each with what to do.
pub fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    piton_stores::open(url, Path::new("."), piton_stores::Mode::Create)
}

/// The page on the library compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/library.md")]
struct Page;

/// The page on processors compiles.
#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("../../../docs/processor.md")]
struct ProcessorPage;
