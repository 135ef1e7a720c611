//! Statements that a person wrote, in one transaction with the mark that says they were done.
//!
//! The mark is a row of `piton_checkpoints` in the database in which the statements take effect, so
//! that one `COMMIT` makes both durable, or neither: a crash anywhere leaves the effect exactly
//! once. Whoever takes over first writes its epoch there, and reads only then; every transaction
//! compares that epoch under a lock before it commits. A `COMMIT` that was not answered is never
//! guessed: the mark is read again, under that lock.
//!
//! A person's statements can undo all this, by ending the transaction themselves. Each database
//! shows that in another way; it is noticed and named. MySQL commits before and after every `CREATE`,
//! `ALTER` or `DROP`: a step of such statements is recorded after them, and may be repeated.
//!
//! - [`Statement`], [`Value`]: what is executed, with values as parameters; [`Limits`]: for how
//!   long;
//! - `protocol`: the order of things, which is the same everywhere; `sqlite`, `postgres`, `mysql`:
//!   how each does them; `keywords`: what can be told from a statement's first words.

mod keywords;
mod limits;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod protocol;
mod sqlite;
mod statement;

use std::{path::Path, time::Duration};

use piton_core::{Checkpoint, CheckpointKey, Epoch, StoredPosition};

pub use self::{
    limits::Limits,
    statement::{Piece, Statement, Value},
};
use crate::sink::{Guarantee, SinkError};

/// A database in which statements are executed, and marks kept. Its connection is opened when it is
/// first needed and stays open.
pub trait Statements: Send {
    /// Where it is, for people: without a password.
    fn location(&self) -> String;

    /// What holds if a crash strikes while these are executed. Asks no server.
    ///
    /// # Errors
    /// [`StatementsError::Settings`] when they cannot be executed together.
    fn guarantee(&self, statements: &[Statement]) -> Result<Guarantee, StatementsError>;

    /// Takes over: writes the epoch of the claim for all marks of the key's pipeline and sink, and
    /// only then reads the mark that is there. Statements of an older claim that are still under
    /// way cannot be committed any more. Asked again with the same epoch it only reads.
    ///
    /// # Errors
    /// [`StatementsError::Fenced`] by a newer claim; [`StatementsError::Held`] when an older owner's
    /// open transaction does not end within the lease.
    fn fence(
        &mut self,
        key: &CheckpointKey,
        epoch: Epoch,
    ) -> Result<Option<Checkpoint>, StatementsError>;

    /// Executes statements and records the mark, in one transaction.
    ///
    /// After [`StatementsError::InDoubt`] or [`StatementsError::Unavailable`] it may be called again
    /// with the same mark: it then reads first, and answers [`Executed::WasDone`] if the statements
    /// had taken effect.
    ///
    /// # Errors
    /// Nothing of the statements stands, unless the error is [`StatementsError::InDoubt`] or
    /// [`StatementsError::Committed`], or their [`guarantee`](Self::guarantee) is less than exactly
    /// once.
    fn execute(
        &mut self,
        mark: &Mark,
        statements: &[Statement],
        limits: &Limits,
    ) -> Result<Executed, StatementsError>;
}

/// What is recorded with the statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Which row it is.
    pub key: CheckpointKey,
    /// The epoch of the claim.
    pub epoch: Epoch,
    /// The version of the row that [`fence`](Statements::fence) read; `None` if there was none.
    pub expected: Option<u64>,
    /// What the row says then.
    pub position: StoredPosition,
    /// Checkpoints of the same database to be removed in the same transaction, such as those of a
    /// step that begins anew. The partition [`WHOLE`](piton_core::claim::WHOLE) means all of a sink.
    /// Those that are not there are passed over.
    pub clears: Vec<CheckpointKey>,
}

/// What became of statements.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "statements of a fenced claim were not executed"]
pub enum Executed {
    /// They took effect, now, and the mark is recorded.
    Done {
        /// Rows that they changed, or gave.
        rows: u64,
        /// The mark as it stands.
        mark: Checkpoint,
    },
    /// They had taken effect before: the mark was there. Nothing was executed.
    WasDone {
        /// The mark as it stands.
        mark: Checkpoint,
    },
    /// A newer claim has taken over. Nothing takes effect any more; what had already, it reads.
    Fenced {
        /// The newer epoch.
        epoch: Epoch,
    },
}

/// Why statements were not executed. Named by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementsError {
    /// They, or the URL, cannot work as they are. Exit code 2.
    #[error("{what}")]
    Settings {
        /// What is wrong and how to mend it.
        what: String,
    },
    /// What is there does not match or cannot be trusted. Exit code 3.
    #[error("{what}")]
    Refused {
        /// What was found, and the choices.
        what: String,
    },
    /// Another process holds it. Exit code 4.
    #[error("{what}")]
    Held {
        /// What and, as far as known, who.
        what: String,
    },
    /// A newer claim has taken over. Exit code 4.
    #[error("a newer claim (epoch {epoch}) has taken over {at}")]
    Fenced {
        /// The newer epoch.
        epoch: Epoch,
        /// Which database.
        at: String,
    },
    /// The database does not answer now, or ended the transaction for the sake of another. Nothing
    /// of the statements stands. Try again, with patience.
    #[error("{what}")]
    Unavailable {
        /// What failed, where.
        what: String,
    },
    /// It is not known whether the statements took effect. Execute again with the same mark: that
    /// reads first.
    #[error("it is not known whether the last commit to {at} took effect: {what}")]
    InDoubt {
        /// Which database.
        at: String,
        /// What failed.
        what: String,
    },
    /// A statement was refused. Nothing of any stands. Exit code 1.
    #[error("{what}")]
    Failed {
        /// Which one, what the database said, and what to do.
        what: String,
    },
    /// They took longer than they may. Nothing of any stands. Exit code 1.
    #[error("{what}")]
    TimedOut {
        /// Which one, and the limit.
        what: String,
    },
    /// It was asked to stop. Nothing of any stands. Exit code 1.
    #[error("{what}")]
    Stopped {
        /// At which one.
        what: String,
    },
    /// A statement ended the transaction, or took effect outside of one: some of them stand, and
    /// the mark does not. A person has to decide. Exit code 3.
    #[error("{what}")]
    Committed {
        /// What was done and what was not.
        what: String,
    },
}

impl From<SinkError> for StatementsError {
    fn from(error: SinkError) -> Self {
        match error {
            SinkError::Unavailable { what } => Self::Unavailable { what },
            SinkError::Settings { what } => Self::Settings { what },
            SinkError::Refused { what } => Self::Refused { what },
            SinkError::Held { what } => Self::Held { what },
            SinkError::Fenced { epoch, at } => Self::Fenced { epoch, at },
            SinkError::InDoubt { at, what, .. } => Self::InDoubt { at, what },
            SinkError::Failed { what } => Self::Failed { what },
            SinkError::BadRow { reason, .. } => Self::Failed { what: reason },
        }
    }
}

/// What is seen of a mark from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The newest claim that has taken over the marks of its pipeline and sink; 0 if none has.
    pub epoch: Epoch,
    /// The mark, if there is one.
    pub mark: Option<Checkpoint>,
}

/// Looks at a mark without changing anything and without taking over. Only in `SQLite`: no server is
/// asked. `None` where there is nothing, or nothing can be told.
pub fn look(url: &str, base: &Path, key: &CheckpointKey) -> Option<Seen> {
    let path = base.join(url.strip_prefix("sqlite:")?);
    sqlite::look(&path, key)
}

/// The database that a URL names: `sqlite:PATH`, `postgres://…`, `mysql://…` or `mariadb://…`. A
/// relative path is taken from `base`. `lease` is how long an older owner is waited for, and how
/// long this one may be silent in a transaction. Touches nothing.
///
/// # Errors
/// [`StatementsError::Settings`], which repeats no part of the URL that may hold a password.
pub fn open(
    url: &str,
    base: &Path,
    lease: Duration,
) -> Result<Box<dyn Statements>, StatementsError> {
    let settings = |what: String| StatementsError::Settings { what };
    match url.split_once(':') {
        Some(("sqlite", path)) => {
            let database = sqlite::Database::new(path, base, lease).map_err(settings)?;
            Ok(Box::new(protocol::Executor::new(database)))
        }
        #[cfg(feature = "postgres")]
        Some(("postgres" | "postgresql", _)) => {
            let database = postgres::Database::new(url, lease)?;
            Ok(Box::new(protocol::Executor::new(database)))
        }
        #[cfg(feature = "mysql")]
        Some(("mysql" | "mariadb", _)) => {
            let database = mysql::Database::new(url, lease).map_err(settings)?;
            Ok(Box::new(protocol::Executor::new(database)))
        }
        #[cfg(not(feature = "postgres"))]
        Some(("postgres" | "postgresql", _)) => Err(not_built("PostgreSQL", "postgres")),
        #[cfg(not(feature = "mysql"))]
        Some(("mysql" | "mariadb", _)) => Err(not_built("MySQL", "mysql")),
        _ => Err(settings(
            "`url` must be sqlite:PATH, postgres://…, mysql://… or mariadb://…".into(),
        )),
    }
}

#[cfg(not(all(feature = "mysql", feature = "postgres")))]
fn not_built(database: &str, feature: &str) -> StatementsError {
    let what =
        format!("this program was built without {database}: build it with the feature `{feature}`");
    StatementsError::Settings { what }
}
