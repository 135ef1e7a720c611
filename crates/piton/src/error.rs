//! Why a cursor could not go on.

use piton_core::{Holder, PositionError, Saved, StoreError, StoredPosition};

/// What a handler's effects may fail with.
pub type EffectsError = Box<dyn std::error::Error + Send + Sync>;

/// Why a cursor could not go on, named by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// Another process runs this job: wait ([`WhenHeld::Wait`](crate::WhenHeld::Wait)), or leave it
    /// to that one.
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
    /// The position that was passed is below the stored one. Positions are passed in order.
    #[error(
        "'{job}' stands at {} already and cannot go back: pass positions in the order in which \
         they are read", stands(.stored.as_ref())
    )]
    Backwards {
        /// The job.
        job: String,
        /// What is stored.
        stored: Option<StoredPosition>,
    },
    /// The checkpoint is not where this cursor left it: rewound or reset by somebody. Open it again.
    #[error(
        "the checkpoint of '{job}' was changed by somebody else while it ran ({}): open the cursor \
         again to go on from there", outcome(.saved)
    )]
    Moved {
        /// The job.
        job: String,
        /// What the store said.
        saved: Saved,
    },
    /// The name belongs to something else in this store, or its checkpoint is somewhere else.
    #[error("'{job}' cannot be opened like this: {what}")]
    Mismatch {
        /// The job.
        job: String,
        /// What was found, and what to do.
        what: String,
    },
    /// The program's database does not agree with what the store knows of it: restored, replaced,
    /// or the wrong store. Decide which is right.
    #[error("'{job}' is not resumed: {what}")]
    Disagreement {
        /// The job.
        job: String,
        /// What was found, and the choices.
        what: String,
    },
    /// Checkpoints in the program's database that cannot be trusted. Nothing was changed.
    #[error("the checkpoint of '{job}' in the program's database cannot be used: {what}")]
    Damaged {
        /// The job.
        job: String,
        /// What was found, and what to do.
        what: String,
    },
    /// It is not known whether the last commit took effect. Open the cursor again: it fences, then
    /// reads.
    #[error(
        "'{job}': it is not known whether the last commit took effect ({what}): the \
         cursor must be opened again, which reads where it stands"
    )]
    InDoubt {
        /// The job.
        job: String,
        /// What failed.
        what: String,
    },
    /// The program's database failed. The transaction was rolled back: nothing advanced, and the
    /// same call may be made again.
    #[cfg(feature = "sqlite")]
    #[error("'{job}': cannot {doing} in the program's database: {error}. Nothing advanced")]
    Database {
        /// The job.
        job: String,
        /// What was tried.
        doing: &'static str,
        /// What the database said.
        #[source]
        error: rusqlite::Error,
    },
    /// The handler's effects failed. The transaction was rolled back: nothing advanced.
    #[error("'{job}': the effects failed, and nothing advanced: {error}")]
    Effects {
        /// The job.
        job: String,
        /// What they failed with.
        #[source]
        error: EffectsError,
    },
    /// State could not be turned into JSON or back.
    #[error("the state of '{job}'{} cannot be read or written: {why}", under(.key))]
    State {
        /// The job.
        job: String,
        /// The key; empty for the single value.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The stored position is of another kind, or damaged.
    #[error("'{job}': {error}")]
    Position {
        /// The job.
        job: String,
        /// What is wrong.
        #[source]
        error: PositionError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn stands(stored: Option<&StoredPosition>) -> String {
    stored.map_or_else(|| "its beginning".to_owned(), ToString::to_string)
}

fn outcome(saved: &Saved) -> String {
    match saved {
        Saved::Stored { version } => format!("stored as version {version}"),
        Saved::Ignored => "the new position is there already".to_owned(),
        Saved::Further { stored } => format!("it is further on, at {}", stands(stored.as_ref())),
        Saved::Older { stored } | Saved::Mismatch { stored } => {
            format!("it is at {}", stands(stored.as_ref()))
        }
        Saved::Fenced { epoch } => format!("a newer owner has epoch {epoch}"),
    }
}

fn under(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(" under '{key}'") }
}
