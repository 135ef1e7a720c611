//! The suite that every store must pass, for stores built elsewhere, too.
//!
//! Implement [`Harness`] for a place in which your store can be made and opened again, and let the
//! macro write the tests:
//!
//! ```
//! use std::sync::Arc;
//! use piton_core::Store;
//! use piton_stores::{MemoryStore, conformance::Harness};
//!
//! struct Memory(Arc<MemoryStore>);
//!
//! impl Harness for Memory {
//!     fn fresh() -> Self {
//!         Self(Arc::new(MemoryStore::new()))
//!     }
//!
//!     fn open(&self) -> Arc<dyn Store> {
//!         self.0.clone()
//!     }
//! }
//!
//! // In tests/: piton_stores::conformance!(Memory);
//! piton_stores::conformance::claims::a_dead_owner_is_replaced_at_once::<Memory>();
//! ```
//!
//! Each function is one statement about stores and panics where it does not hold. The model in
//! [`model`] then drives the store through random sequences of claims, saves, crashes and orders and
//! compares it, after every step, with a model of a page.
//!
//! What a suite cannot know is left to the store's own tests: that a killed process is dead, that
//! damage is noticed, that what was answered survives a power loss.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a suite says no by panicking"
)]

pub mod claims;
pub mod journal;
pub mod model;
pub mod orders;
pub mod saves;
pub mod snapshots;

use std::{sync::Arc, time::Duration};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{
    Checkpoint, CheckpointKey, Claim, ClaimAnswer, ClaimRequest, Epoch, Event, Holder, Order,
    OrderKind, Owner, Reply, Save, Store, StoredPosition, claim::WHOLE, position::order_of,
};

/// A place with a store in it. It outlives the stores that are opened in it.
pub trait Harness: Sized + 'static {
    /// A place with a new, empty store.
    fn fresh() -> Self;

    /// Opens the store of this place once more, as another process would: what is stored is there,
    /// and claims that others hold are held.
    fn open(&self) -> Arc<dyn Store>;
}

/// Writes one test for each statement of the suite, for a [`Harness`].
#[macro_export]
macro_rules! conformance {
    ($harness:ty) => {
        $crate::conformance!(@tests $harness, claims: [
            epochs_grow_with_every_claim,
            a_living_owner_is_held_and_named,
            a_dead_owner_is_replaced_at_once,
            a_silent_owner_is_replaced_and_fenced,
            an_owner_that_stirred_is_not_silent,
            epochs_begin_where_a_sink_has_been,
            a_claim_of_all_excludes_claims_of_parts,
            a_part_taken_from_a_silent_owner_fences_all_of_it,
            giving_up_what_is_lost_changes_nothing,
        ]);
        $crate::conformance!(@tests $harness, saves: [
            every_combination_of_stored_expected_new_and_epoch,
            many_are_stored_together_or_not_at_all,
            a_claim_gives_no_right_to_anything_else,
            state_is_stored_with_its_position,
            completion_removes_what_the_claim_covers,
            a_mirror_never_goes_back,
            what_is_stored_is_there_for_the_next_process,
            history_shows_what_was_replaced,
            thinning_spares_what_is_needed,
        ]);
        $crate::conformance!(@tests $harness, orders: [
            a_reset_forgets_and_waits_to_be_applied,
            a_rewind_goes_back_and_is_recorded,
            an_owner_of_before_an_order_cannot_go_on,
            state_cannot_be_rewound,
            a_fenced_owner_applies_no_order,
        ]);
        $crate::conformance!(@tests $harness, journal: [
            a_definition_keeps_its_control,
            runs_are_numbered_and_an_ended_run_stays_ended,
            events_are_kept_newest_first,
            a_record_is_set_aside_once,
        ]);
        $crate::conformance!(@tests $harness, snapshots: [
            a_snapshot_fills_an_empty_store,
            no_owner_of_before_a_restore_passes,
            a_snapshot_without_epochs_gets_them_from_its_checkpoints,
        ]);
    };
    (@tests $harness:ty, $module:ident: [$($test:ident,)*]) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $test() {
                    $crate::conformance::$module::$test::<$harness>();
                }
            )*
        }
    };
}

/// Waits for an answer that must not be an error.
pub(crate) fn ask<T>(reply: Reply<'_, T>) -> T {
    block_on(reply).expect("the store answers")
}

/// A moment, in milliseconds after an arbitrary one.
pub(crate) fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + milliseconds).unwrap()
}

pub(crate) fn number(position: u64) -> StoredPosition {
    StoredPosition::of(&position).unwrap()
}

pub(crate) fn key(partition: &str, sink: &str) -> CheckpointKey {
    CheckpointKey::new("orders", partition, sink)
}

pub(crate) fn request(partition: &str) -> ClaimRequest {
    ClaimRequest {
        pipeline: "orders".to_owned(),
        partition: partition.to_owned(),
        owner: Owner { host: "here".to_owned(), pid: 7 },
        lease: Duration::from_secs(30),
        at_least: Epoch(0),
        silent: None,
        now: at(0),
    }
}

/// A claim that must be granted, and who died holding it.
pub(crate) fn granted(store: &dyn Store, request: ClaimRequest) -> (Claim, Option<Holder>) {
    match ask(store.claim(request)) {
        ClaimAnswer::Granted { claim, died } => (claim, died),
        ClaimAnswer::Held(holder) => panic!("held by {holder}"),
    }
}

/// The holder of a claim that must not be granted.
pub(crate) fn held(store: &dyn Store, request: ClaimRequest) -> Holder {
    match ask(store.claim(request)) {
        ClaimAnswer::Held(holder) => holder,
        ClaimAnswer::Granted { claim, .. } => panic!("granted: {claim:?}"),
    }
}

pub(crate) fn whole(store: &dyn Store) -> Claim {
    granted(store, request(WHOLE)).0
}

/// A save that moves a number position from what is stored there now.
pub(crate) fn step(store: &dyn Store, key: &CheckpointKey, to: Option<u64>) -> Save {
    let stored = ask(store.load(&key.pipeline)).into_iter().find(|row| row.key == *key);
    Save {
        key: key.clone(),
        expected_version: stored.as_ref().map_or(0, |row| row.version),
        expected: stored.and_then(|row| row.position),
        position: to.map(number),
        order: order_of::<u64>,
        records: to.unwrap_or_default(),
        schema_version: 3,
        sink_state: to.map(|to| format!("{{\"length\":{to}}}")),
        state: Vec::new(),
    }
}

/// Stores a position at a moment; it must be stored.
pub(crate) fn advance(
    store: &dyn Store,
    claim: &Claim,
    key: &CheckpointKey,
    to: Option<u64>,
    now: Timestamp,
) {
    let saved = ask(store.save(claim, vec![step(store, key, to)], now));
    assert!(saved.iter().all(piton_core::Saved::is_stored), "{saved:?}");
}

pub(crate) fn positions(rows: &[Checkpoint]) -> Vec<Option<u64>> {
    rows.iter().map(|row| row.position.as_ref().map(|at| at.read().unwrap())).collect()
}

pub(crate) fn event(what: &str) -> Event {
    Event {
        id: 0,
        pipeline: "orders".to_owned(),
        at: at(5),
        who: "ann@here".to_owned(),
        what: what.to_owned(),
        detail: "as asked".to_owned(),
    }
}

/// An order for one partition and sink, or for all with `*`.
pub(crate) fn order(kind: OrderKind, partition: &str, sink: &str, to: Option<u64>) -> Order {
    Order {
        id: 0,
        pipeline: "orders".to_owned(),
        partition: partition.to_owned(),
        sink: sink.to_owned(),
        kind,
        position: to.map(number),
        records: to.unwrap_or_default(),
        sink_state: to.map(|to| format!("{{\"length\":{to}}}")),
        output: None,
        who: "ann@here".to_owned(),
        at: at(5),
        applied_at: None,
    }
}
