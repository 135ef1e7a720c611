//! The PostgreSQL store passes the suite on a real server, and what only a server can show.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod scratch;

use std::sync::Arc;

use piton_core::Store;
use piton_stores::{MemoryStore, Mode, SqlStore, conformance::Harness};
use piton_testkit::service::{self, Postgres};

/// A database of its own on the server that all tests here share; where there can be no server,
/// memory, and a word that the test was skipped.
enum Place {
    Database(String),
    Skipped(Arc<MemoryStore>),
}

impl Harness for Place {
    fn fresh() -> Self {
        match service::needed(Postgres::shared()) {
            Some(server) => Self::Database(server.database().unwrap()),
            None => Self::Skipped(Arc::new(MemoryStore::new())),
        }
    }

    fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Database(url) => Arc::new(SqlStore::postgres(url, Mode::Create).unwrap()),
            Self::Skipped(store) => store.clone(),
        }
    }
}

piton_stores::conformance!(Place);

#[test]
fn the_model_and_the_postgres_store_agree() {
    piton_stores::conformance::model::run::<Place>(40);
}
