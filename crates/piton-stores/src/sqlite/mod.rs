//! The store in one SQLite file.
//!
//! The file is in WAL mode and every commit is synced before it is answered: what the store says it
//! has, it has. How a file is opened, refused or created is in `file`, its tables in `schema`,
//! whether owners live in `locks`; what is in the tables, and how damage is noticed, is the same in
//! every database ([`crate::sql`]).

mod errors;
mod file;
mod locks;
mod schema;
mod session;

use std::path::{Component, Path, PathBuf};

use piton_core::{Snapshot, StoreError};

pub(crate) use self::errors::error_at;
use self::{
    file::Identity,
    locks::Locks,
    session::{Open, Sqlite},
};
use crate::{
    Mode,
    sql::{self, Result, SqlStore, Trouble},
};

impl SqlStore {
    /// Opens the store in the SQLite file at a path; [`Mode::Create`] makes it if there is none. A
    /// relative path is resolved against the working directory.
    ///
    /// A person can read the file with `sqlite3` while it is used. The lock of a claim
    /// ([`piton_core::Claim::lock`]) is the open [`std::fs::File`] of its epoch, so that a command
    /// that inherits it keeps the claim held.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], [`StoreError::Foreign`],
    /// [`StoreError::Newer`], [`StoreError::Busy`] or [`StoreError::Unusable`].
    pub fn sqlite(path: &Path, mode: Mode) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        let at = path.display().to_string();
        Self::start(at.clone(), move || {
            let connection = file::open(&path, mode)?;
            // Two names of one file must find the same locks.
            let real = path.canonicalize().unwrap_or(path);
            let locks = Locks::beside(&real);
            Ok(Box::new(Sqlite::new(at, connection, Identity::of(real), locks)?))
        })
    }
}

fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    let absolute = std::path::absolute(path).map_err(|error| {
        Trouble::io("its path cannot be made absolute", error).at(&path.display().to_string())
    })?;
    // Only the file system knows what `..` behind a link leads to.
    let climbs = absolute.components().any(|part| part == Component::ParentDir);
    let folder = absolute.parent().filter(|_| climbs).and_then(|f| f.canonicalize().ok());
    Ok(match (folder, absolute.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => absolute,
    })
}

/// Writes a snapshot as a new store file.
pub(crate) fn write_new(path: &Path, snapshot: &Snapshot) -> Result<(), StoreError> {
    let path = absolute(path)?;
    let at = path.display().to_string();
    let taken = || StoreError::Refused {
        what: format!("there is something at {at} already: name another file"),
    };
    if path.symlink_metadata().is_ok() {
        return Err(taken());
    }
    let placed = file::create(&path, |connection| {
        let transaction = connection.transaction()?;
        let locks = Locks::beside(&path);
        let mut open = Open { connection: &transaction, locks: &locks };
        sql::restore(&mut open, snapshot, &at)?;
        Ok(transaction.commit()?)
    });
    if placed.map_err(|trouble| trouble.at(&at))? { Ok(()) } else { Err(taken()) }
}
