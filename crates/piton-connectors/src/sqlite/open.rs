//! Connections: to write, to look without leaving a trace, and whether the file is still the one
//! that was opened.

use std::{
    ffi::OsString,
    fs, io,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use piton_core::fault;
use rusqlite::{Connection, ErrorCode, OpenFlags, Result};

/// Page cache of a writing connection, in KiB. Keys of an upsert arrive in any order.
const CACHE_KIB: i64 = 16 * 1024;

/// How long a reader waits for a writer that has the whole database locked.
const READER_PATIENCE: Duration = Duration::from_secs(5);

/// Opens a database to write, creating the file if asked. A new one gets a write-ahead log; the
/// journal mode of one that is there is left as it is.
pub(crate) fn to_write(path: &Path, create: bool, patience: Duration) -> Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(patience)?;
    conn.set_prepared_statement_cache_capacity(64);
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
    if pages == 0 {
        conn.pragma_update(None, "journal_mode", "WAL")?;
    }
    // FULL syncs the log at every commit: nothing is acknowledged to a source after less.
    let level = if fault::known_bad("skip_fsync") { "OFF" } else { "FULL" };
    conn.pragma_update(None, "synchronous", level)?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(conn)
}

/// Opens a database to read, creating nothing.
pub(super) fn to_read(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(READER_PATIENCE)?;
    let probed = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    match probed {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ReadOnly) => to_recover(path),
        probed => probed.map(|()| conn),
    }
}

/// Runs `look` on a database without changing anything on disk.
///
/// A read-only connection to a database with a write-ahead log leaves two files behind if it was
/// closed properly before. Where there is no log there is nothing to recover, and it can be read
/// as a plain file; unless somebody opened it meanwhile, then it is read again as usual.
pub(crate) fn look<T>(path: &Path, mut look: impl FnMut(&Connection) -> Result<T>) -> Result<T> {
    if is_at_rest(path) {
        let before = stamp(path);
        let seen = as_plain_file(path).and_then(|conn| look(&conn));
        if is_at_rest(path) && stamp(path) == before {
            return seen;
        }
    }
    look(&to_read(path)?)
}

/// A rollback journal left by a crash can only be rolled back by a connection that may write.
fn to_recover(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(READER_PATIENCE)?;
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}

/// Whether it is a database in WAL mode that has no log: closed properly, open nowhere.
fn is_at_rest(path: &Path) -> bool {
    const VERSION_AT: usize = 18; // file format version: 2 is WAL
    let mut head = [0_u8; 20];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    let log = fs::metadata(beside(path, "-wal")).map_or(0, |m| m.len());
    cfg!(unix) && read.is_ok() && head[VERSION_AT] == 2 && log == 0
}

fn stamp(path: &Path) -> Option<(u64, std::time::SystemTime)> {
    let data = fs::metadata(path).ok()?;
    Some((data.len(), data.modified().ok()?))
}

fn as_plain_file(path: &Path) -> Result<Connection> {
    let Some(text) = path.to_str() else { return to_read(path) };
    let escaped = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file://{escaped}?immutable=1"), flags)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Whether a file is a store of checkpoints, by what its header says.
pub(crate) fn is_store(path: &Path) -> bool {
    const APPLICATION_ID_AT: u64 = 68;
    let mut id = [0; 4];
    let read = fs::File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(APPLICATION_ID_AT))?;
        file.read_exact(&mut id)
    });
    read.is_ok() && id == *b"Pito"
}

/// Which file a path leads to. `SQLite` goes on writing into one that was moved or deleted, and
/// would lose everything without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    #[cfg(unix)]
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).map(|m| Self(m.dev(), m.ino()))
    }

    /// Elsewhere an open file cannot be replaced; that it is there has to do.
    #[cfg(not(unix))]
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|_| Self(0, 0))
    }
}
