//! What the tests of the SQLite store share: places to make stores in, and small pieces of work.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::{path::Path, time::Duration};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{
    Claim, ClaimAnswer, ClaimRequest, Epoch, Owner, Save, Saved, Store, StoredPosition,
    claim::WHOLE, position::order_of,
};

/// In memory where there is such a place: hundreds of stores are made, and no test here is about
/// what a disk keeps.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.unwrap()
}

pub(crate) fn request() -> ClaimRequest {
    ClaimRequest {
        pipeline: "orders".into(),
        partition: WHOLE.into(),
        owner: Owner { host: "here".into(), pid: std::process::id() },
        lease: Duration::from_secs(30),
        at_least: Epoch(0),
        silent: None,
        now: Timestamp::UNIX_EPOCH,
    }
}

pub(crate) fn claim(store: &dyn Store) -> Claim {
    match block_on(store.claim(request())).unwrap() {
        ClaimAnswer::Granted { claim, .. } => claim,
        ClaimAnswer::Held(holder) => panic!("held by {holder}"),
    }
}

pub(crate) fn save(partition: &str, version: u64, to: u64) -> Save {
    let position = |at: u64| Some(StoredPosition::of(&at).unwrap());
    Save {
        key: piton_core::CheckpointKey::new("orders", partition, "out"),
        expected_version: version,
        expected: if version == 0 { None } else { position(to - 1) },
        position: position(to),
        order: order_of::<u64>,
        records: to,
        schema_version: 0,
        sink_state: None,
        state: Vec::new(),
    }
}

/// Stores positions 1 to `to`, one after the other.
pub(crate) fn advance(store: &dyn Store, claim: &Claim, partition: &str, to: u64) {
    for position in 1..=to {
        let next = vec![save(partition, position - 1, position)];
        let saved = block_on(store.save(claim, next, Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(saved, [Saved::Stored { version: position }]);
    }
}
