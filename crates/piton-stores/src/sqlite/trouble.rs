//! What can go wrong inside the store, and which [`StoreError`] the caller sees.
//!
//! Functions on rows know what they found but not which store they are in; they answer with a
//! [`Trouble`], and the worker, which knows, names the place.

use std::io;

use piton_core::StoreError;
use rusqlite::ErrorCode;

/// What went wrong, before the store is named.
#[derive(Debug)]
pub(super) enum Trouble {
    /// SQLite says so.
    Sql(rusqlite::Error),
    /// A row, manifest or schema that cannot be trusted.
    Damage(String),
    /// The operating system failed, outside of SQLite.
    Io { what: String, error: io::Error },
    /// It is decided already.
    Store(StoreError),
}

pub(super) type Result<T, E = Trouble> = std::result::Result<T, E>;

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Trouble {
    pub(super) fn damage(what: impl Into<String>) -> Self {
        Self::Damage(what.into())
    }

    pub(super) fn io(what: impl Into<String>, error: io::Error) -> Self {
        Self::Io { what: what.into(), error }
    }

    /// The error that the caller of the store at this place sees.
    pub(super) fn at(self, at: &str) -> StoreError {
        let at = at.to_owned();
        match self {
            Self::Sql(error) => sql(&error, at),
            Self::Damage(what) => StoreError::Damaged { at, what },
            Self::Io { what, error } => {
                StoreError::Unusable { at, what: format!("{what}: {error}") }
            }
            Self::Store(error) => error,
        }
    }
}

fn sql(error: &rusqlite::Error, at: String) -> StoreError {
    let what = error.to_string();
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Busy { at, what },
            ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            // Rows are written as the schema wants them, unless an index and its table differ.
            | ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch
            // Statements are right for the schema that was checked when the store was opened.
            | ErrorCode::SchemaChanged
            | ErrorCode::Unknown => StoreError::Damaged { at, what },
            ErrorCode::TooBig => StoreError::Refused { what: format!("{at}: {what}") },
            _ => StoreError::Unusable { at, what: explain(failure.code, what) },
        },
        // A column whose bytes are not what was written.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::Utf8Error(..) => StoreError::Damaged { at, what },
        _ => StoreError::Unusable { at, what },
    }
}

fn explain(code: ErrorCode, what: String) -> String {
    match code {
        ErrorCode::DiskFull => format!("the disk is full ({what})"),
        ErrorCode::ReadOnly => format!("it cannot be written ({what})"),
        ErrorCode::CannotOpen => format!("it, or the log beside it, cannot be opened ({what})"),
        ErrorCode::SystemIoFailure => format!("reading or writing it failed ({what})"),
        _ => what,
    }
}

/// The error of a commit that failed: where the operating system failed to write or to sync, the
/// transaction may be in the log all the same and come to light after a crash.
pub(super) fn of_commit(error: rusqlite::Error, at: &str) -> StoreError {
    let in_doubt = error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
    match Trouble::Sql(error).at(at) {
        StoreError::Unusable { at, what } if in_doubt => StoreError::InDoubt { at, what },
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn failure(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn each_condition_has_the_error_that_says_what_to_do() {
        let at = |code| Trouble::Sql(failure(code)).at("x.db");
        for code in [
            ffi::SQLITE_FULL,
            ffi::SQLITE_IOERR,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_PERM,
        ] {
            assert!(matches!(at(code), StoreError::Unusable { .. }), "{code}");
        }
        assert!(matches!(at(ffi::SQLITE_CORRUPT), StoreError::Damaged { .. }));
        assert!(matches!(at(ffi::SQLITE_NOTADB), StoreError::Damaged { .. }));
        assert!(matches!(at(ffi::SQLITE_BUSY), StoreError::Busy { .. }));
        let full = of_commit(failure(ffi::SQLITE_FULL), "x.db");
        assert!(matches!(full, StoreError::Unusable { .. }), "not all of it can be in the log");
        let unsynced = of_commit(failure(ffi::SQLITE_IOERR_FSYNC), "x.db");
        assert!(matches!(unsynced, StoreError::InDoubt { .. }));
    }
}
