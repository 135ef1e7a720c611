//! An operator's orders: the only way back, and recorded.

use futures_executor::block_on;
use piton_core::{OrderKind, Save, Saved, StateEntry, StoreError, claim::WHOLE};

use super::{
    Harness, advance, ask, at, event, held, key, number, order, positions, request, step, whole,
};

/// A reset removes what it covers with its state, and waits until an owner has applied it.
pub fn a_reset_forgets_and_waits_to_be_applied<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let claim = whole(&*store);
    for (partition, sink) in [("0", "a"), ("1", "a"), ("1", "b")] {
        let state = vec![StateEntry { key: "k".to_owned(), json: Some("1".to_owned()) }];
        let save = Save { state, ..step(&*store, &key(partition, sink), Some(1)) };
        assert!(ask(store.save(&claim, vec![save], at(0)))[0].is_stored());
    }
    let orders =
        vec![order(OrderKind::Reset, WHOLE, "a", None), order(OrderKind::Reset, "7", WHOLE, None)];
    ask(store.order(orders, event("reset")));
    let keys: Vec<_> = ask(store.load("orders")).into_iter().map(|row| row.key).collect();
    assert_eq!(keys, [key("1", "b")]);
    assert_eq!(ask(store.state(&key("0", "a"), None)), []);
    assert_eq!(ask(store.state(&key("1", "b"), None)).len(), 1);
    assert_eq!(ask(store.events("orders", 9))[0].what, "reset");
    assert_eq!(ask(store.history("orders", 9)).len(), 2, "what was forgotten is history");

    let pending = ask(place.open().orders("orders"));
    assert_eq!(pending.len(), 2);
    assert!(pending[0].id < pending[1].id, "oldest first");
    assert_eq!((pending[0].kind, pending[1].partition.as_str()), (OrderKind::Reset, "7"));
    assert_eq!(ask(store.orders("another")), []);
    ask(store.applied(&claim, vec![pending[0].id], at(9)));
    ask(store.applied(&claim, vec![pending[0].id], at(10)));
    assert_eq!(ask(store.orders("orders")), pending[1..]);
    let unknown = block_on(store.applied(&claim, vec![pending[1].id + 1], at(9)));
    assert!(matches!(unknown, Err(StoreError::Refused { .. })), "{unknown:?}");

    ask(store.order(vec![order(OrderKind::Reset, "0", "a", None)], event("reset")));
    assert!(ask(store.orders("orders"))[1].id > pending[1].id, "numbers are never given twice");
}

/// Invariant 2: a position goes back by an order, which leaves an event and what it replaced.
pub fn a_rewind_goes_back_and_is_recorded<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let claim = whole(&*store);
    advance(&*store, &claim, &key("0", "a"), Some(8), at(0));
    advance(&*store, &claim, &key("0", "a"), Some(9), at(1));
    advance(&*store, &claim, &key("1", "a"), Some(9), at(1));
    ask(store.order(vec![order(OrderKind::Rewind, "0", "a", Some(5))], event("rewind")));
    let rows = ask(store.load("orders"));
    assert_eq!(positions(&rows), [Some(5), Some(9)]);
    let back = &rows[0];
    assert_eq!((back.version, back.records, back.epoch), (3, 5, claim.epoch));
    assert_eq!(back.sink_state.as_deref(), Some("{\"length\":5}"));
    assert_eq!(back.updated_at, at(5));
    let newest = &ask(store.history("orders", 1))[0];
    assert_eq!((newest.position.clone(), newest.version), (Some(number(9)), 2));
    let [pending] = &ask(store.orders("orders"))[..] else { panic!("one order") };
    assert_eq!(
        (pending.kind, &pending.position, pending.applied_at),
        (OrderKind::Rewind, &Some(number(5)), None)
    );
    assert_eq!(ask(store.events("orders", 1))[0].what, "rewind");
    advance(&*store, &claim, &key("0", "a"), Some(6), at(6));
}

/// Invariant 2: whoever knew the position of before an order cannot store the next one.
pub fn an_owner_of_before_an_order_cannot_go_on<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let (claim, key) = (whole(&*store), key("0", "a"));
    advance(&*store, &claim, &key, Some(8), at(0));
    let next = step(&*store, &key, Some(9));
    ask(store.order(vec![order(OrderKind::Rewind, "0", "a", Some(8))], event("rewind")));
    let mismatch = |stored| [Saved::Mismatch { stored }];
    assert_eq!(ask(store.save(&claim, vec![next.clone()], at(1))), mismatch(Some(number(8))));
    ask(store.order(vec![order(OrderKind::Reset, WHOLE, WHOLE, None)], event("reset")));
    assert_eq!(ask(store.save(&claim, vec![next], at(1))), mismatch(None));
    assert_eq!(ask(store.load("orders")), []);
}

/// Of state only the present is kept, so a rewind of it is refused whole; a reset is not.
pub fn state_cannot_be_rewound<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let claim = whole(&*store);
    advance(&*store, &claim, &key("0", "a"), Some(8), at(0));
    let state = vec![StateEntry { key: String::new(), json: Some("1".to_owned()) }];
    let save = Save { state, ..step(&*store, &key("0", "b"), Some(8)) };
    assert!(ask(store.save(&claim, vec![save], at(0)))[0].is_stored());
    let before = ask(store.load("orders"));
    let both = vec![
        order(OrderKind::Rewind, "0", "a", Some(5)),
        order(OrderKind::Rewind, "0", "b", Some(5)),
    ];
    let refused = block_on(store.order(both, event("rewind")));
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    assert_eq!(ask(store.load("orders")), before);
    assert_eq!((ask(store.orders("orders")), ask(store.events("orders", 9))), (vec![], vec![]));
    ask(store.order(vec![order(OrderKind::Reset, "0", "b", None)], event("reset")));
    assert_eq!(ask(store.load("orders")), before[..1]);
}

/// Invariant 3: marking an order applied is the newest owner's.
pub fn a_fenced_owner_applies_no_order<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let old = whole(&*store);
    ask(store.order(vec![order(OrderKind::Reset, WHOLE, WHOLE, None)], event("reset")));
    let silent = held(&*store, request(WHOLE));
    let asked = super::ClaimRequest { silent: Some(silent), ..request(WHOLE) };
    let (heir, _) = super::granted(&*store, asked);
    let pending = ask(store.orders("orders"));
    let late = block_on(store.applied(&old, vec![pending[0].id], at(1)));
    assert!(matches!(late, Err(StoreError::Refused { .. })), "{late:?}");
    assert_eq!(ask(store.orders("orders")), pending);
    ask(store.applied(&heir, vec![pending[0].id], at(1)));
    assert_eq!(ask(store.orders("orders")), []);
}
