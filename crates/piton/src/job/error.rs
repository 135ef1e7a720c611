//! Why a job could not go on.

use piton_core::{Holder, PositionError, Saved, StoreError};

use super::in_shell;
use crate::error::{CursorError, EffectsError};

/// Why a job could not go on, named by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// Another process runs it: wait ([`WhenHeld::Wait`](crate::WhenHeld::Wait)), or leave it to
    /// that one.
    #[error("'{job}' is already running, held by {holder}: wait until it ends, or stop it")]
    Held {
        /// The job.
        job: String,
        /// Who holds it.
        holder: Holder,
    },
    /// A newer owner has taken over: stop, and leave the rest to it.
    #[error("'{job}' was taken over by a newer owner (epoch {epoch}): stop here")]
    Fenced {
        /// The job.
        job: String,
        /// The newer epoch.
        epoch: u64,
    },
    /// A step failed. Its checkpoint says so; the next run begins it again.
    #[error("step '{step}' of '{job}' failed in attempt {attempt}: {error}")]
    Step {
        /// The job.
        job: String,
        /// The step's path.
        step: String,
        /// How often it was begun.
        attempt: u32,
        /// What it failed with.
        #[source]
        error: EffectsError,
    },
    /// Recovering a step again and again has not helped. A person has to look.
    #[error(
        "step '{step}' of '{job}' has died {crashes} times in a row, and is not begun again: mend \
         the cause, and then begin the step anew with `piton rewind {name} --to {step}`, or pass \
         it over with `piton mark-done {name} {step}`", name = in_shell(.job)
    )]
    Parked {
        /// The job.
        job: String,
        /// The step's path.
        step: String,
        /// How often in a row.
        crashes: u32,
    },
    /// An operator has cancelled it.
    #[error(
        "'{job}' was cancelled by an operator (see `piton history {name}`): go on from its \
         checkpoints with `piton resume {name}`", name = in_shell(.job)
    )]
    Cancelled {
        /// The job.
        job: String,
    },
    /// A name that no step can have.
    #[error(
        "'{name}' is no name for a step: it has between 1 and 200 characters, none of them '/', \
         a line break or another control character, and is not '.'"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// Two steps beside each other have the same name.
    #[error("'{job}' has two steps '{step}': steps beside each other have different names")]
    Twice {
        /// The job.
        job: String,
        /// The path.
        step: String,
    },
    /// The name belongs to something else in this store.
    #[error("'{job}' cannot be opened as a job: {what}")]
    Mismatch {
        /// The job.
        job: String,
        /// What was found, and what to do.
        what: String,
    },
    /// The run is that of a job's file.
    #[error(
        "'{job}' is the job of a file ({file}): `piton run` does its steps. Give the other job \
         another name"
    )]
    OfFile {
        /// The job.
        job: String,
        /// The file.
        file: String,
    },
    /// The run is that of a script or a program.
    #[error(
        "'{job}' is the job of a script or a program, whose steps are not those of a file: give the \
         file's job another name, or have `piton reset {}` forget what they have done", in_shell(.job)
    )]
    WithoutFile {
        /// The job.
        job: String,
    },
    /// A checkpoint was changed by somebody else while the job ran.
    #[error(
        "the checkpoint of step '{step}' of '{job}' was changed by somebody else while it ran: \
         open the job again to go on from there"
    )]
    Moved {
        /// The job.
        job: String,
        /// The step's path.
        step: String,
        /// What the store said.
        saved: Saved,
    },
    /// A stored checkpoint is of another kind, or damaged.
    #[error("step '{step}' of '{job}': {error}")]
    Position {
        /// The job.
        job: String,
        /// The step's path.
        step: String,
        /// What is wrong.
        #[source]
        error: PositionError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CursorError> for JobError {
    fn from(error: CursorError) -> Self {
        match error {
            CursorError::Held { job, holder } => Self::Held { job, holder },
            CursorError::Fenced { job, epoch } => Self::Fenced { job, epoch },
            CursorError::Mismatch { job, what } => Self::Mismatch { job, what },
            CursorError::Store(error) => Self::Store(error),
            error => Self::Mismatch { job: String::new(), what: error.to_string() },
        }
    }
}
