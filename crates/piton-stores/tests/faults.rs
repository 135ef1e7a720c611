//! A sync that fails. In a program of its own, because an armed fault stays armed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod scratch;

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{Store, StoreError, fault};
use piton_stores::{Mode, SqlStore};

/// Invariant 7: what could not be synced is not stored, and is not told to be.
#[test]
fn a_save_that_cannot_be_synced_stores_nothing() {
    let folder = scratch::folder();
    let path = folder.path().join("piton.db");
    let store = SqlStore::sqlite(&path, Mode::Create).unwrap();
    let claim = scratch::claim(&store);
    fault::arm("store.sync", 3, fault::Strike::Fail(5));
    scratch::advance(&store, &claim, "0", 2);
    let before = block_on(store.load("orders")).unwrap();
    for _ in 0..2 {
        let saves = vec![scratch::save("0", 2, 3), scratch::save("1", 0, 1)];
        let failed = block_on(store.save(&claim, saves, Timestamp::UNIX_EPOCH));
        assert!(matches!(&failed, Err(StoreError::Unusable { .. })), "{failed:?}");
        assert_eq!(block_on(store.load("orders")).unwrap(), before);
    }
    drop(store);
    let store = SqlStore::sqlite(&path, Mode::Existing).unwrap();
    assert_eq!(block_on(store.load("orders")).unwrap(), before);
}
