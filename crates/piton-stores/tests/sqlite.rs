//! The SQLite store passes the suite, and what only a file can show.

use std::{path::Path, sync::Arc};

use piton_core::Store;
use piton_stores::{Mode, SqliteStore, conformance::Harness};

struct Sqlite(tempfile::TempDir);

impl Harness for Sqlite {
    fn fresh() -> Self {
        Self(scratch())
    }

    fn open(&self) -> Arc<dyn Store> {
        let store = SqliteStore::open(&self.0.path().join("piton.db"), Mode::Create);
        Arc::new(store.unwrap())
    }
}

/// In memory where there is such a place: hundreds of stores are made, and no test here is about
/// what a disk keeps.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.unwrap()
}

piton_stores::conformance!(Sqlite);

#[test]
fn the_model_and_the_sqlite_store_agree() {
    piton_stores::conformance::model::run::<Sqlite>(200);
}
