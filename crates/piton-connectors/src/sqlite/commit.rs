//! Ending a transaction.

use std::path::Path;

use piton_core::fault;
use rusqlite::Connection;

use super::errors::{commit_failure, is_busy};
use crate::sink::SinkError;

/// How often a commit that readers stood in the way of is tried again, each time for as long as the
/// connection waits for a lock.
const RETRIES: u32 = 4;

/// Commits. After any error the transaction is to be rolled back; where that error is
/// [`SinkError::InDoubt`], the connection is not used again.
pub(crate) fn commit(conn: &Connection, path: &Path) -> Result<(), SinkError> {
    fault::fail("commit.before")
        .map_err(|e| commit_failure(path, &as_reported(&e)))
        .and_then(|()| execute(conn, path))
        .and_then(|()| {
            fault::fail("commit.after").map_err(|e| commit_failure(path, &as_reported(&e)))
        })
}

/// Readers may be in the way of a commit where there is no write-ahead log; it can be tried again,
/// as nothing was lost.
fn execute(conn: &Connection, path: &Path) -> Result<(), SinkError> {
    let mut committed = conn.execute_batch("COMMIT");
    for _ in 0..RETRIES {
        match &committed {
            Err(error) if is_busy(error) => committed = conn.execute_batch("COMMIT"),
            _ => break,
        }
    }
    committed.map_err(|e| commit_failure(path, &e))
}

/// An error of the operating system as `SQLite` would report it: for the crash harness.
fn as_reported(error: &std::io::Error) -> rusqlite::Error {
    use rusqlite::ffi;
    let is_full = error.kind() == std::io::ErrorKind::StorageFull;
    let code = if is_full { ffi::SQLITE_FULL } else { ffi::SQLITE_IOERR_FSYNC };
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
}

/// Ends a transaction without effect. If that fails it was over already.
pub(crate) fn roll_back(conn: &Connection) {
    if !conn.is_autocommit() {
        let _ = conn.execute_batch("ROLLBACK");
    }
}
