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
        }
    }
}

/// What is said of a row whose columns are not what was written.
pub(crate) fn altered(table: &str, key: &impl fmt::Display) -> Trouble {
    Trouble::Damage(format!("the row {key} of {table} was altered: its checksum does not match"))
}
