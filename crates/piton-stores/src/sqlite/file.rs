//! Opening a store's file, or making it: everything is refused before anything is written.
//!
//! A new store is built under another name and linked into place when it is whole, so that an
//! existing file that is empty or half made is always damage, and two who create at once agree on
//! one. An existing file is judged by its first bytes before SQLite may touch it, because SQLite
//! would take an empty file for an empty database, and would write to a stranger's.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use piton_core::StoreError;
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::{
    schema::{APPLICATION_ID, FORMAT, OBJECTS},
    session::BUSY,
};
use crate::{
    Mode,
    sql::{Result, Trouble},
};

/// Up to this size the whole file is checked when it is opened (some 15 ms for the largest);
/// checksums and manifests guard what decides at any size.
const CHECKED_BYTES: i64 = 4 << 20;

/// Opens the store's file, creating it if the mode says so.
pub(super) fn open(path: &Path, mode: Mode) -> Result<Connection, StoreError> {
    let at = path.display().to_string();
    if !exists(path).map_err(|trouble| trouble.at(&at))? {
        if mode == Mode::Existing {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        // Losing the race to another creator is as good as winning it.
        create(path, |_| Ok(())).map_err(|trouble| trouble.at(&at))?;
    }
    inspect(path, &at)?;
    let connected = match connect(path) {
        // Whoever only asks needs to write nothing.
        Err(trouble) if mode == Mode::Existing && is_unwritable(&trouble) => read_only(path),
        connected => connected,
    };
    connected.map_err(|trouble| trouble.at(&at))
}

/// Whether the file, or its log, cannot be opened for writing.
fn is_unwritable(trouble: &Trouble) -> bool {
    let Trouble::Sqlite(error) = trouble else { return false };
    let codes = [ErrorCode::ReadOnly, ErrorCode::CannotOpen, ErrorCode::PermissionDenied];
    error.sqlite_error_code().is_some_and(|code| codes.contains(&code))
}

/// A connection that writes nothing, not even a log beside the file. Where there is a log, somebody else
/// may be at work, and it is read by the index that he keeps; without one, nobody has the file open.
fn read_only(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = if beside(path, "-wal").exists() {
        Connection::open_with_flags(path, flags)?
    } else {
        let uri = format!("file:{}?immutable=1", in_uri(path));
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
    };
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    check_schema(&connection)?;
    check_pages(&connection)?;
    Ok(connection)
}

/// A path as a URI has it.
fn in_uri(path: &Path) -> String {
    let path = path.to_string_lossy().replace('\\', "/");
    path.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

/// Which file a path named when the store was opened. SQLite goes on writing into a file that was
/// removed or replaced, where nobody will find it.
pub(super) struct Identity {
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Identity {
    pub(super) fn of(path: PathBuf) -> Self {
        let file = number(&path);
        Self { path, file }
    }

    /// Refuses to write when the path names another file now, or none.
    pub(super) fn check(&self) -> Result<()> {
        if number(&self.path) == self.file {
            return Ok(());
        }
        let error = std::io::Error::from(ErrorKind::NotFound);
        Err(Trouble::io("its file was removed or replaced while it was in use", error))
    }
}

/// What tells one file from another, where the operating system says it.
#[cfg(unix)]
fn number(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Elsewhere an open file can be neither removed nor replaced.
#[cfg(not(unix))]
fn number(path: &Path) -> Option<(u64, u64)> {
    path.exists().then_some((0, 0))
}

fn exists(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let log = beside(path, "-wal");
            if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
                let log = log.display();
                // SQLite would replay the old log into a new file.
                return Err(Trouble::damage(format!(
                    "the file is gone, but its log {log} is there"
                )));
            }
            Ok(false)
        }
        Err(error) => Err(Trouble::io("it cannot be looked for", error)),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Creates a store with what `fill` puts into it. Returns whether it is this call's file that is
/// there now; false if somebody else's was there first.
pub(super) fn create(
    path: &Path,
    fill: impl FnOnce(&mut Connection) -> Result<()>,
) -> Result<bool> {
    static BUILT: AtomicU64 = AtomicU64::new(0);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Trouble::Store(StoreError::Refused {
            what: format!("{} cannot be the name of a store", path.display()),
        }));
    };
    let number = BUILT.fetch_add(1, Ordering::Relaxed);
    let name = format!(".{}.{}-{number}.new", name.to_string_lossy(), std::process::id());
    let scrap = Scrap(folder.join(name));
    let failed = |error| Trouble::io(format!("no file can be made in {}", folder.display()), error);
    File::create_new(&scrap.0).map_err(failed)?;
    build(&scrap.0, fill)?;
    let built = File::options().write(true).open(&scrap.0);
    built.and_then(|file| file.sync_all()).map_err(failed)?;
    let placed = place(&scrap.0, path).map_err(failed)?;
    sync_folder(folder).map_err(failed)?;
    Ok(placed)
}

/// A file that is removed unless it has been moved.
struct Scrap(PathBuf);

impl Drop for Scrap {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(beside(&self.0, suffix));
        }
    }
}

fn build(path: &Path, fill: impl FnOnce(&mut Connection) -> Result<()>) -> Result<()> {
    let mut connection = raw(path)?;
    let transaction = connection.transaction()?;
    for object in OBJECTS {
        transaction.execute_batch(object.sql)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()?;
    fill(&mut connection)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Gives a file its name unless the name is taken.
fn place(built: &Path, path: &Path) -> std::io::Result<bool> {
    match fs::hard_link(built, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        // Some file systems have no links. There, two creators at the very same moment are a risk.
        Err(_) if !path.exists() => fs::rename(built, path).map(|()| true),
        Err(_) => Ok(false),
    }
}

/// Makes a new name in a folder durable, where the operating system has a way to.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Judges a file by its first bytes.
fn inspect(path: &Path, at: &str) -> Result<(), StoreError> {
    let damaged =
        |what: &str| Err(StoreError::Damaged { at: at.to_owned(), what: what.to_owned() });
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(1 << 18).read_to_end(&mut start))
        .map_err(|error| Trouble::io("it cannot be read", error).at(at))?;
    if start.is_empty() {
        return damaged("the file is empty");
    }
    if start.len() < 512 || !start.starts_with(b"SQLite format 3\0") {
        return damaged("it is not an SQLite database");
    }
    let word = |i: usize| u32::from_be_bytes([start[i], start[i + 1], start[i + 2], start[i + 3]]);
    if word(68) != APPLICATION_ID as u32 {
        return Err(stranger(&start, word(68), at));
    }
    if word(60) > FORMAT {
        let (found, known) = (u64::from(word(60)), u64::from(FORMAT));
        return Err(StoreError::Newer { at: at.to_owned(), found, known });
    }
    let wal = (start[18], start[19]) == (2, 2);
    let log = fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0);
    let rollback = (start[18], start[19]) == (1, 1) && !log;
    // What never changes in the header of a store: reserved bytes, payload fractions, schema
    // format, no auto-vacuum, UTF-8, the format of this program.
    let fixed = start[20..24] == [0, 64, 32, 32]
        && word(44) == 4
        && word(52) == 0
        && word(56) == 1
        && word(60) == FORMAT
        && word(64) == 0
        && start[72..92].iter().all(|byte| *byte == 0);
    if fixed && (wal || rollback) {
        Ok(())
    } else {
        damaged("its first page is not as it was written")
    }
}

/// What to say of a database that does not say that it is a store.
fn stranger(start: &[u8], id: u32, at: &str) -> StoreError {
    let at = at.to_owned();
    let ours = OBJECTS[0].sql.as_bytes();
    if start.windows(ours.len()).any(|window| window == ours) {
        let what = format!("its application id is {id:#x}, not that of a store");
        return StoreError::Damaged { at, what };
    }
    let (pages, cells) = (&start[28..32], &start[103..105]);
    if pages == [0, 0, 0, 1] && cells == [0, 0] {
        return StoreError::Damaged { at, what: "it is a database without any table".to_owned() };
    }
    StoreError::Foreign { at, what: "it is another program's database".to_owned() }
}

/// A connection that creates nothing, and that our triggers do not watch.
fn raw(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.pragma_update(None, "synchronous", "full")?;
    // macOS forgets what is only synced the ordinary way.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = raw(path)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = wal", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Trouble::damage(format!("its journal mode is {mode}, not wal")));
    }
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    check_schema(&connection)?;
    check_pages(&connection)?;
    Ok(connection)
}

fn check_schema(connection: &Connection) -> Result<()> {
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let id: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if (version, id) != (FORMAT, APPLICATION_ID) {
        return Err(Trouble::damage(format!("its log says format {version}, application {id:#x}")));
    }
    let mut statement = connection.prepare("SELECT sql FROM sqlite_schema WHERE name = ?1")?;
    for object in OBJECTS {
        let mut rows = statement.query([object.name])?;
        let found: Option<String> = match rows.next()? {
            Some(row) => row.get(0)?,
            None => None,
        };
        if found.as_deref() != Some(object.sql) {
            return Err(Trouble::damage(format!("'{}' is not as it was made", object.name)));
        }
    }
    Ok(())
}

fn check_pages(connection: &Connection) -> Result<()> {
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let size: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    if pages * size > CHECKED_BYTES {
        return Ok(());
    }
    let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(Trouble::damage(found)) }
}
