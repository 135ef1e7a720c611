//! Where checkpoints are kept: the implementations of [`piton_core::Store`].
//!
//! - `sqlite:PATH`: one file that a person can read with `sqlite3`, the default ([`SqlStore::sqlite`]);
//! - `postgres://…`: a schema in a PostgreSQL database that several machines share
//!   ([`SqlStore::postgres`]);
//! - `mysql://…`: a database on a MySQL or MariaDB server, shared likewise ([`SqlStore::mysql`]);
//! - `memory:`: nothing survives the process; for tests and for trying things out ([`MemoryStore`]).
//!
//! A store decides nothing by itself. What a save does is decided by [`piton_core::Saved::judge`];
//! who may claim, what a mirror may do and which history is thinned is decided once, in a private
//! module that every store here shares. What is left to a store is to make a decision and its
//! effect one transaction, to know whether an owner lives, and to notice damage.
//!
//! A program whose effects are in a database of its own keeps its checkpoint there, in the
//! transaction of the effects ([`joined`]).
//!
//! With the feature `conformance`, the module of that name holds the suite that each of them passes
//! and that a store built elsewhere should pass.

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(unix)]
mod inherited;
pub mod joined;
mod memory;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
mod rules;
#[cfg(any(feature = "sqlite", feature = "server"))]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "sqlite", feature = "server"))]
mod state_table;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use piton_core::{Owner, Store, StoreError};

#[cfg(unix)]
pub use inherited::{inherited, pass_on};
pub use memory::MemoryStore;
#[cfg(any(feature = "sqlite", feature = "server"))]
pub use sql::SqlStore;

/// Whether opening may create a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Creates the store if there is none: for whoever is about to run something.
    Create,
    /// Never creates anything; [`StoreError::Missing`] if there is none: for whoever only asks.
    Existing,
}

/// Opens the store that a URL names: `memory:`, `sqlite:PATH`, `postgres://…` as `psql` takes it, or
/// `mysql://…`. A relative path is resolved against `base`, and that against the working directory.
///
/// # Errors
/// [`StoreError::Refused`] for a URL that names no store that is built; else why it cannot be used.
pub fn open(url: &str, base: &Path, mode: Mode) -> Result<Arc<dyn Store>, StoreError> {
    match Kind::of(url)? {
        Kind::Memory if mode == Mode::Existing => {
            Err(StoreError::Missing { path: PathBuf::from(url) })
        }
        Kind::Memory => Ok(Arc::new(MemoryStore::new())),
        Kind::Sqlite(path) => open_sqlite(&base.join(path), mode),
        Kind::Postgres => open_postgres(url, mode),
        Kind::MySql => open_mysql(url, mode),
    }
}

/// Where the store is that a URL names, as people are told: without a password. Nothing is opened
/// and nobody connected to.
///
/// # Errors
/// [`StoreError::Refused`] for a URL that names no store, or that cannot be read.
pub fn location(url: &str, base: &Path) -> Result<String, StoreError> {
    Ok(match Kind::of(url)? {
        Kind::Memory => url.to_owned(),
        Kind::Sqlite(path) => base.join(path).display().to_string(),
        Kind::Postgres => postgres_location(url)?,
        Kind::MySql => mysql_location(url)?,
    })
}

/// Which kind of store a URL names.
enum Kind<'a> {
    Memory,
    Sqlite(&'a Path),
    Postgres,
    MySql,
}

impl<'a> Kind<'a> {
    fn of(url: &'a str) -> Result<Self, StoreError> {
        match url.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("sqlite", path)) => sqlite_path(url, path).map(Self::Sqlite),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres),
            Some(("mysql" | "mariadb", _)) => Ok(Self::MySql),
            // Whatever it is, there may be a password in it.
            Some((scheme, _)) if url.contains("//") => refused(format!(
                "'{scheme}://…' names no store: write sqlite:PATH, postgres://…, mysql://…, or \
                 memory:"
            )),
            _ if url.contains(['@', '=']) => refused(
                "that names no store: write sqlite:PATH, postgres://USER:PASSWORD@HOST/DATABASE, \
                 mysql://…, or memory:"
                    .to_owned(),
            ),
            _ => refused(format!(
                "'{url}' names no store: write sqlite:PATH (for example sqlite:piton.db), \
                 postgres://…, mysql://…, or memory:"
            )),
        }
    }
}

#[cfg(feature = "postgres")]
fn open_postgres(url: &str, mode: Mode) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(SqlStore::postgres(url, mode)?))
}

#[cfg(feature = "postgres")]
fn postgres_location(url: &str) -> Result<String, StoreError> {
    postgres::location(url)
}

#[cfg(feature = "mysql")]
fn open_mysql(url: &str, mode: Mode) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(SqlStore::mysql(url, mode)?))
}

#[cfg(feature = "mysql")]
fn mysql_location(url: &str) -> Result<String, StoreError> {
    mysql::location(url)
}

#[cfg(not(feature = "mysql"))]
fn open_mysql(url: &str, _: Mode) -> Result<Arc<dyn Store>, StoreError> {
    mysql_location(url).and_then(refused)
}

#[cfg(not(feature = "mysql"))]
fn mysql_location(_: &str) -> Result<String, StoreError> {
    refused(
        "a store in MySQL cannot be opened: this program was built without the feature `mysql` \
         (cargo add piton --features mysql)"
            .to_owned(),
    )
}

#[cfg(not(feature = "postgres"))]
fn open_postgres(url: &str, _: Mode) -> Result<Arc<dyn Store>, StoreError> {
    postgres_location(url).and_then(refused)
}

#[cfg(not(feature = "postgres"))]
fn postgres_location(_: &str) -> Result<String, StoreError> {
    refused(
        "a store in PostgreSQL cannot be opened: this program was built without the feature \
         `postgres` (cargo add piton --features postgres)"
            .to_owned(),
    )
}

#[cfg(feature = "sqlite")]
fn open_sqlite(path: &Path, mode: Mode) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(SqlStore::sqlite(path, mode)?))
}

#[cfg(not(feature = "sqlite"))]
fn open_sqlite(path: &Path, _: Mode) -> Result<Arc<dyn Store>, StoreError> {
    refused(format!(
        "{} cannot be opened: this program was built without SQLite; add the feature `sqlite` \
         (cargo add piton --features sqlite), or use memory: to try things out",
        path.display()
    ))
}

fn sqlite_path<'a>(url: &str, path: &'a str) -> Result<&'a Path, StoreError> {
    if path.is_empty() {
        return refused(format!("'{url}' names no file: write sqlite:PATH"));
    }
    if path.starts_with("//") && !path.starts_with("///") {
        let rest = path.trim_start_matches('/');
        return refused(format!(
            "'{url}' names a host, which SQLite has not: write sqlite:{rest} or sqlite:/{rest}"
        ));
    }
    Ok(Path::new(path))
}

fn refused<T>(what: String) -> Result<T, StoreError> {
    Err(StoreError::Refused { what })
}

/// Writes all that a store holds into a new SQLite store file, as of one moment, while the store is
/// in use. Put in the place of a store, the backup works at once: its epochs have jumped already
/// ([`piton_core::snapshot::EPOCH_JUMP`]), so that no owner of the time before passes. What belongs
/// to the file that it replaces (`-wal`, `-shm`) must go with that file. Blocks until it is durable.
///
/// # Errors
/// [`StoreError::Refused`] when there is something at `path`; else what reading or writing fails with.
#[cfg(feature = "sqlite")]
pub fn backup_to(store: &dyn Store, path: &Path) -> Result<(), StoreError> {
    let snapshot = futures_executor::block_on(store.snapshot())?;
    sqlite::write_new(path, &snapshot)
}

/// Who this process is, as people are told when it holds a claim.
pub fn this_process() -> Owner {
    Owner {
        host: gethostname::gethostname().to_string_lossy().into_owned(),
        pid: std::process::id(),
    }
}
