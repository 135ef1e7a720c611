//! Why a processor could not go on.

use piton_core::{Saved, StoreError, StoredPosition};

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
    /// A COMMIT was sent, no answer came, and the server stayed away since. What the transaction
    /// did and the checkpoint were kept together, or neither was: run again, and it is read which.
    #[error(
        "'{processor}': the COMMIT of what ends at {upto} was not answered, and the server stays \
         away: {error}. It was kept as a whole or not at all; run again when the server is there, \
         and it goes on from what is stored"
    )]
    InDoubt {
        /// The processor.
        processor: String,
        /// Where the checkpoint is if it was kept.
        upto: Box<OutboxPosition>,
        /// How the COMMIT ended.
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
    #[error("the checkpoint of '{processor}' was moved by somebody else: {}", words(.saved))]
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

/// What was found where the checkpoint should have been.
fn words(saved: &Saved) -> String {
    let place = |stored: &Option<StoredPosition>| match stored {
        None => "nothing is stored any more".to_owned(),
        Some(stored) => match stored.read::<OutboxPosition>() {
            Ok(at) => format!("it is at {at}"),
            Err(_) => format!("it is {}", stored.json),
        },
    };
    match saved {
        Saved::Stored { .. } => "it was stored".to_owned(),
        Saved::Ignored => "it is already where the batch ends".to_owned(),
        Saved::Further { stored } => format!("{}, which is further", place(stored)),
        Saved::Older { stored } => format!("{}, which is after the batch", place(stored)),
        Saved::Mismatch { stored } => place(stored),
        Saved::Fenced { epoch } => format!("a newer owner has it (epoch {})", epoch.0),
    }
}

/// What the server said: the error by itself says "db error".
fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(String::new, |said| format!(": {}", said.message()))
}
