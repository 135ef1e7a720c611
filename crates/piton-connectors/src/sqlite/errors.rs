//! What `SQLite` reports, in terms of what a person or the engine can do about it.

use std::path::Path;

use piton_stores::joined::sqlite::LedgerError;
use rusqlite::{Error, ErrorCode, ffi};

use crate::sink::SinkError;

/// The primary result code of an error, if it came from `SQLite` itself.
pub(crate) fn code(error: &Error) -> Option<ErrorCode> {
    error.sqlite_error_code()
}

/// Whether somebody else's lock is in the way.
pub(crate) fn is_busy(error: &Error) -> bool {
    matches!(code(error), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Why something with the database at `path` failed, for the caller. `doing` completes "cannot".
pub(crate) fn failure(path: &Path, doing: &str, error: &Error) -> SinkError {
    let path = path.display();
    match code(error) {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => SinkError::Refused {
            what: format!(
                "{path} cannot be trusted: {error}. Nothing was written. Restore it from a \
                 backup, or name another file"
            ),
        },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SinkError::Unavailable {
            what: format!("cannot {doing}: another process holds a lock on {path}"),
        },
        Some(ErrorCode::DiskFull) => SinkError::Failed {
            what: format!(
                "cannot {doing}: no room on the disk of {path}. Nothing advanced; run the same \
                 command again when there is room"
            ),
        },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            SinkError::Failed {
                what: format!(
                    "cannot {doing}: {error}. Nothing advanced; make {path} and its folder \
                     writable and run the same command again"
                ),
            }
        }
        _ => SinkError::Failed {
            what: format!(
                "cannot {doing} in {path}: {error}{}. Nothing advanced; when that is mended, run \
                 the same command again",
                detail(error)
            ),
        },
    }
}

/// Why the checkpoints of a pipeline in the database at `path` could not be used.
pub(crate) fn of_ledger(path: &Path, pipeline: &str, error: LedgerError) -> SinkError {
    let at = path.display();
    let what = match error {
        LedgerError::Database(error) => return failure(path, "read the checkpoints", &error),
        LedgerError::Fenced { epoch } => return SinkError::Fenced { epoch, at: at.to_string() },
        LedgerError::Damaged { what } => format!(
            "the checkpoints of pipeline '{pipeline}' in {at} are damaged: {what}. Nothing was \
             written. Restore the database from a backup; or, to begin anew, `{}` and \
             `piton reset {pipeline}`",
            LedgerError::removal(pipeline)
        ),
        LedgerError::Newer { found, known } => format!(
            "the checkpoints in {at} have format {found}, this program knows up to {known}: use a \
             newer piton"
        ),
        LedgerError::Altered => format!(
            "the checkpoints of pipeline '{pipeline}' in {at} were changed or removed by another \
             hand while it ran. Nothing was written; run it again to see where it stands"
        ),
        other => format!("{at}, pipeline '{pipeline}': {other}"),
    };
    SinkError::Refused { what }
}

/// What a failed `COMMIT` means. Where `SQLite` cannot say, nobody knows.
pub(crate) fn commit_failure(path: &Path, error: &Error) -> SinkError {
    match code(error) {
        Some(
            ErrorCode::DiskFull
            | ErrorCode::ReadOnly
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::ConstraintViolation,
        ) => failure(path, "commit", error),
        _ => SinkError::InDoubt {
            at: path.display().to_string(),
            what: format!("{error}{}", detail(error)),
            lost: false,
        },
    }
}

/// The extended code, where the message alone does not tell a failed read from a failed sync.
fn detail(error: &Error) -> String {
    match error {
        Error::SqliteFailure(ffi::Error { code: ErrorCode::SystemIoFailure, extended_code }, _) => {
            format!(" ({})", ffi::code_to_str(*extended_code))
        }
        _ => String::new(),
    }
}
