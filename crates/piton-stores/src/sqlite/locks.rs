//! Whether an owner lives: a file beside the store that the operating system keeps locked for it.
//!
//! One file for each granted epoch, in the folder `<store file>-locks`. The owner holds it locked
//! for the life of its claim; when the process dies, however it dies, the lock is free. Locks
//! belong to the open file, so that two claims of one process exclude each other, too, and a child
//! process that inherits the descriptor keeps the claim held. Losing a file makes its owner look
//! dead: its heir is granted a higher epoch, and the owner is fenced at its next save.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use piton_core::checksum::Checksum;

use crate::{
    rules::ClaimRow,
    sql::{Result, Scope, Trouble},
};

/// The lock files of one store.
pub(super) struct Locks {
    folder: PathBuf,
}

impl Locks {
    pub(super) fn beside(store: &Path) -> Self {
        let mut folder = store.as_os_str().to_owned();
        folder.push("-locks");
        Self { folder: folder.into() }
    }

    /// Takes the lock of an epoch that is about to be granted.
    pub(super) fn take(&self, scope: &Scope) -> Result<File> {
        let path = self.path(scope);
        let open = || -> io::Result<File> {
            fs::create_dir_all(&self.folder)?;
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.try_lock()?;
            Ok(file)
        };
        open().map_err(|e| Trouble::io(format!("the lock {} cannot be taken", path.display()), e))
    }

    /// Whether the owner of a claim lives.
    pub(super) fn is_alive(&self, row: &ClaimRow) -> Result<bool> {
        let path = self.path(&Scope::of_row(row));
        let ask = || -> io::Result<bool> {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
            // Shared, so that two who ask at once do not take each other for the owner.
            match file.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        ask().map_err(|e| Trouble::io(format!("the lock {} cannot be asked", path.display()), e))
    }

    /// Removes the file of an epoch that counts no more. One that cannot be removed does no harm.
    pub(super) fn remove(&self, scope: &Scope) {
        let _ = fs::remove_file(self.path(scope));
    }

    /// A name that every file system takes, and that no other scope has.
    fn path(&self, scope: &Scope) -> PathBuf {
        let Scope { pipeline, partition, epoch } = scope;
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = pipeline.chars().take(60).map(plain).collect();
        let Checksum(hash) = Checksum::build().text(pipeline).text(partition).finish();
        self.folder.join(format!("{name}.{hash:016x}.{epoch}"))
    }
}
