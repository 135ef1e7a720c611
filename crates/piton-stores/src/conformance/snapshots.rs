//! Snapshots: everything moves, and no owner of the time before passes.

use futures_executor::block_on;
use piton_core::{
    Control, DeadLetter, Epoch, OrderKind, Owner, PipelineRecord, Run, Save, Saved, Snapshot,
    StateEntry, Store, StoreError,
    claim::WHOLE,
    snapshot::{EPOCH_JUMP, FORMAT},
};

use super::{Harness, advance, ask, at, event, granted, key, order, request, step, whole};

/// Puts something into every table.
pub(crate) fn fill(store: &dyn Store) -> piton_core::Claim {
    let claim = whole(store);
    ask(store.register(PipelineRecord {
        pipeline: "orders".to_owned(),
        source: "{\"csv\":\"a.csv\"}".to_owned(),
        transforms: "[]".to_owned(),
        sinks: "{}".to_owned(),
        control: Control::Run,
        file: None,
    }));
    advance(store, &claim, &key("0", "out"), None, at(0));
    let state = vec![StateEntry { key: "sum".to_owned(), json: Some("12".to_owned()) }];
    let save = Save { state, ..step(store, &key("0", "out"), Some(4)) };
    assert!(ask(store.save(&claim, vec![save], at(1)))[0].is_stored());
    advance(store, &claim, &key("1", "out"), Some(7), at(1));
    let orders = vec![
        order(OrderKind::Rewind, "1", "out", Some(5)),
        order(OrderKind::Reset, "2", "out", None),
    ];
    ask(store.order(orders, event("rewind")));
    let first = ask(store.orders("orders"))[0].id;
    ask(store.applied(&claim, vec![first], at(6)));
    ask(store.set_control("orders", Control::Pause, event("pause")));
    ask(store.begin_run(Run {
        id: 0,
        pipeline: "orders".to_owned(),
        epoch: claim.epoch,
        owner: Owner { host: "here".to_owned(), pid: 7 },
        started_at: at(0),
        ended_at: None,
        end: None,
        records: 3,
        error: None,
        progress: None,
    }));
    ask(store.set_aside(vec![DeadLetter {
        pipeline: "orders".to_owned(),
        sink: "out".to_owned(),
        id: "0@2".to_owned(),
        partition: "0".to_owned(),
        place: "a.csv, line 2".to_owned(),
        reason: "not a number".to_owned(),
        record: "x".to_owned(),
        at: at(2),
    }]));
    claim
}

/// What was taken is what is there after it is restored, but for the epochs, which jump.
pub fn a_snapshot_fills_an_empty_store<H: Harness>() {
    let places = (H::fresh(), H::fresh());
    let (from, to) = (places.0.open(), places.1.open());
    let _claim = fill(&*from);
    let taken = ask(from.snapshot());
    assert_eq!((taken.checkpoints.len(), taken.history.len(), taken.state.len()), (2, 2, 1));
    assert_eq!((taken.orders.len(), taken.events.len(), taken.runs.len()), (2, 2, 1));
    assert_eq!((taken.pipelines.len(), taken.dead_letters.len()), (1, 1));
    assert_eq!(taken.epochs, [("orders".to_owned(), WHOLE.to_owned(), Epoch(1))]);
    ask(to.restore(taken.clone()));
    let jumped = vec![("orders".to_owned(), WHOLE.to_owned(), Epoch(1 + EPOCH_JUMP))];
    assert_eq!(ask(to.snapshot()), Snapshot { epochs: jumped, ..taken.clone() });
    assert_eq!(ask(to.orders("orders")), ask(from.orders("orders")));

    let again = block_on(to.restore(taken.clone()));
    assert!(matches!(again, Err(StoreError::Refused { .. })), "{again:?}");
    let newer = Snapshot { format: FORMAT + 1, ..taken };
    let third = H::fresh();
    let newer = block_on(third.open().restore(newer));
    assert!(matches!(newer, Err(StoreError::Newer { .. })), "{newer:?}");
}

/// Invariant 3 across a restore: an owner that still lives is fenced, however far it got since.
pub fn no_owner_of_before_a_restore_passes<H: Harness>() {
    let places = (H::fresh(), H::fresh());
    let (from, to) = (places.0.open(), places.1.open());
    let old = fill(&*from);
    ask(to.restore(ask(from.snapshot())));
    assert_eq!(ask(to.holders("orders")), []);
    let fenced = Saved::Fenced { epoch: Epoch(1 + EPOCH_JUMP) };
    let late = step(&*to, &key("0", "out"), Some(99));
    assert_eq!(ask(to.save(&old, vec![late], at(9)))[0], fenced);
    assert_eq!(ask(to.renew(&old)), fenced);
    let (heir, died) = granted(&*to, request(WHOLE));
    assert_eq!((heir.epoch, died), (Epoch(2 + EPOCH_JUMP), None));
    advance(&*to, &heir, &key("0", "out"), Some(5), at(9));
}

/// A snapshot made by hand names no epochs; its checkpoints do.
pub fn a_snapshot_without_epochs_gets_them_from_its_checkpoints<H: Harness>() {
    let places = (H::fresh(), H::fresh());
    let (from, to) = (places.0.open(), places.1.open());
    let _claim = fill(&*from);
    let taken = ask(from.snapshot());
    ask(to.restore(Snapshot { epochs: Vec::new(), ..taken.clone() }));
    assert_eq!(ask(to.load("orders")), taken.checkpoints);
    assert!(granted(&*to, request("0")).0.epoch > Epoch(EPOCH_JUMP));
}
