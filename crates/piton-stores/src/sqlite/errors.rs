//! Which [`StoreError`] an error of SQLite is to the caller of the store.

use piton_core::StoreError;
use rusqlite::ErrorCode;

/// The error that the caller of the store at this place sees.
pub(crate) fn error_at(error: &rusqlite::Error, at: String) -> StoreError {
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
pub(super) fn of_commit(error: &rusqlite::Error, at: &str) -> StoreError {
    let in_doubt = error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
    match error_at(error, at.to_owned()) {
        StoreError::Unusable { at, what } if in_doubt => {
            StoreError::InDoubt { at, what, lost: false }
        }
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
        let at = |code| error_at(&failure(code), "x.db".to_owned());
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
        let full = of_commit(&failure(ffi::SQLITE_FULL), "x.db");
        assert!(matches!(full, StoreError::Unusable { .. }), "not all of it can be in the log");
        let unsynced = of_commit(&failure(ffi::SQLITE_IOERR_FSYNC), "x.db");
        assert!(matches!(unsynced, StoreError::InDoubt { .. }));
    }
}
