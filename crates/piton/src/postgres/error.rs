//! Why a processor could not go on.

use piton_core::{Saved, StoreError};

use super::OutboxPosition;
use crate::error::{CursorError, EffectsError};

/// Why a processor could not go on, named by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    /// The handler failed, as often as it was tried. Nothing of the batch was kept, and the
    /// checkpoint is before it: mend the cause and run again.
    #[error(
        "'{processor}': the handler failed {attempts} times at the batch from {from} to {to}: \
         {error}. Nothing of it was kept, and the checkpoint is before it: mend the cause and run \
         again"
    )]
    Handler {
        /// The processor.
        processor: String,
        /// The first message of the batch.
        from: Box<OutboxPosition>,
        /// The last one.
        to: Box<OutboxPosition>,
        /// How often it was tried.
        attempts: u32,
        /// What it failed with last.
        #[source]
        error: EffectsError,
    },
    /// The database failed, as often as it was tried.
    #[error("'{processor}': {error}{}. Nothing advanced", said(.error))]
    Database {
        /// The processor.
        processor: String,
        /// What it said.
        #[source]
        error: tokio_postgres::Error,
    },
    /// A newer owner has taken over: stop, and leave the rest to it.
    #[error("'{processor}' was taken over by a newer owner (epoch {epoch}): stop here")]
    Fenced {
        /// The processor.
        processor: String,
        /// The newer epoch.
        epoch: u64,
    },
    /// The checkpoint is not where this processor left it. What was done was rolled back; run
    /// again to go on from there.
    #[error("the checkpoint of '{processor}' was moved by somebody else: {saved:?}")]
    Moved {
        /// The processor.
        processor: String,
        /// What was found.
        saved: Saved,
    },
    /// Reading cannot go on from the checkpoint without passing messages over.
    #[error("'{processor}' does not read: {what}")]
    Gap {
        /// The processor.
        processor: String,
        /// What was found, and the choices.
        what: String,
    },
    /// An operator has cancelled it: what was at hand was finished, and the checkpoint stays.
    #[error(
        "'{processor}' was cancelled by an operator (see `piton history {processor}`): run it with \
         `Processor::again` to go on from its checkpoint"
    )]
    Cancelled {
        /// The processor.
        processor: String,
    },
    /// The claim could not be had, or what is stored cannot be read.
    #[error(transparent)]
    Claim(#[from] CursorError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the server said: the error by itself says "db error".
fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(String::new, |said| format!(": {}", said.message()))
}
