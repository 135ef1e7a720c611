//! What can go wrong inside a store, and which [`StoreError`] the caller sees.
//!
//! Functions on rows know what they found but not which store they are in; they answer with a
//! [`Trouble`], and the session, which knows, names the place.

use std::{fmt, io};

use piton_core::StoreError;

/// What went wrong, before the store is named.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// SQLite says so.
    #[cfg(feature = "sqlite")]
    Sqlite(rusqlite::Error),
    /// A row, manifest or schema that cannot be trusted.
    Damage(String),
    /// The operating system failed, outside of the database.
    Io { what: String, error: io::Error },
    /// It is decided already.
    Store(StoreError),
    /// A server did not do what it was told.
    #[cfg(feature = "server")]
    Server(Setback),
}

/// Why a server did not do what it was told, by what can be done about it.
#[cfg(feature = "server")]
#[derive(Debug)]
pub(crate) enum Setback {
    /// It cannot be reached, or the connection broke: once it can, the same may do.
    Lost(String),
    /// It took a transaction back in favour of another: the same may do at once.
    TakenBack(String),
    /// A row is there that was not seen: somebody wrote it at the same moment, or nobody should.
    Clash(String),
    /// Somebody holds a lock for too long.
    Busy(String),
    /// What is asked for cannot be kept there.
    Refused(String),
    /// Anything else: a person has to look.
    Unusable(String),
}

#[cfg(feature = "server")]
impl From<Setback> for Trouble {
    fn from(setback: Setback) -> Self {
        Self::Server(setback)
    }
}

#[cfg(feature = "server")]
impl Setback {
    fn at(self, at: String) -> StoreError {
        match self {
            Self::Lost(what) | Self::Unusable(what) => StoreError::Unusable { at, what },
            Self::TakenBack(what) | Self::Busy(what) => StoreError::Busy { at, what },
            Self::Clash(what) => StoreError::Damaged { at, what },
            Self::Refused(what) => StoreError::Refused { what: format!("{at}: {what}") },
        }
    }
}

pub(crate) type Result<T, E = Trouble> = std::result::Result<T, E>;

#[cfg(feature = "sqlite")]
impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Trouble {
    pub(crate) fn damage(what: impl Into<String>) -> Self {
        Self::Damage(what.into())
    }

    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        Self::Io { what: what.into(), error }
    }

    /// The error that the caller of the store at this place sees.
    pub(crate) fn at(self, at: &str) -> StoreError {
        let at = at.to_owned();
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(error) => crate::sqlite::error_at(&error, at),
            Self::Damage(what) => StoreError::Damaged { at, what },
            Self::Io { what, error } => {
                StoreError::Unusable { at, what: format!("{what}: {error}") }
            }
            Self::Store(error) => error,
            #[cfg(feature = "server")]
            Self::Server(setback) => setback.at(at),
        }
    }

    /// Whether the connection is gone.
    #[cfg(feature = "server")]
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Server(Setback::Lost(_)))
    }
}

/// What is said of a row whose columns are not what was written.
pub(crate) fn altered(table: &str, key: &impl fmt::Display) -> Trouble {
    Trouble::Damage(format!("the row {key} of {table} was altered: its checksum does not match"))
}
