//! Why a cursor could not go on.

use piton_core::{Holder, PositionError, Saved, StoreError};

/// Why a cursor could not go on, named by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// Another process runs this job: wait, or leave it to that one.
    #[error("'{job}' is already running: held by {holder}")]
    Held {
        /// The job.
        job: String,
        /// Who holds it.
        holder: Holder,
    },
    /// A newer owner has taken over: stop, and undo nothing.
    #[error("'{job}' was taken over by a newer owner (epoch {epoch}): stop here")]
    Fenced {
        /// The job.
        job: String,
        /// The newer epoch.
        epoch: u64,
    },
    /// The checkpoint is not where this cursor left it: rewound or reset by somebody. Open it again.
    #[error(
        "the checkpoint of '{job}' was changed by somebody else ({saved:?}): open the cursor again"
    )]
    Moved {
        /// The job.
        job: String,
        /// What the store said.
        saved: Saved,
    },
    /// State could not be turned into JSON or back.
    #[error("the state of '{job}' under '{key}' cannot be read or written: {why}")]
    State {
        /// The job.
        job: String,
        /// The key; empty for the single value.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The stored position is of another kind, or damaged.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
