//! Saves, mirrors, completion, state and history.

use std::{cmp::Ordering, time::Duration};

use piton_core::{
    Checkpoint, Claim, Epoch, OrderKind, Save, Saved, StateEntry, Store, StoreError,
    StoredPosition, claim::WHOLE,
};

use super::{
    Harness, advance, ask, at, event, granted, key, number, order, positions, request, step, whole,
};

/// Positions of which two pairs in five are not comparable: numbers, and an island beside them.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Number(u64),
    Island,
}

const ALL: [Option<At>; 5] =
    [None, Some(At::Number(10)), Some(At::Number(20)), Some(At::Number(30)), Some(At::Island)];

fn rest(position: Option<At>) -> Option<StoredPosition> {
    position.map(|position| StoredPosition {
        kind: "test".to_owned(),
        json: match position {
            At::Number(number) => number.to_string(),
            At::Island => "\"island\"".to_owned(),
        },
    })
}

fn order_at_rest(a: &StoredPosition, b: &StoredPosition) -> Option<Ordering> {
    match (a.json.parse::<u64>(), b.json.parse::<u64>()) {
        (Ok(a), Ok(b)) => Some(a.cmp(&b)),
        (Err(_), Err(_)) => Some(Ordering::Equal),
        _ => None,
    }
}

/// Whether one position is below another; `None` where they are not comparable.
fn below(a: Option<At>, b: Option<At>) -> Option<bool> {
    match (a, b) {
        (None, b) => Some(b.is_some()),
        (Some(At::Number(a)), Some(At::Number(b))) => Some(a < b),
        (Some(_), None) | (Some(At::Island), Some(At::Island)) => Some(false),
        _ => None,
    }
}

fn save_of(partition: &str, expected: Option<At>, new: Option<At>) -> Save {
    Save {
        key: key(partition, "out"),
        expected_version: u64::from(expected.is_some()),
        expected: rest(expected),
        position: rest(new),
        order: order_at_rest,
        records: 5,
        schema_version: 0,
        sink_state: None,
        state: Vec::new(),
    }
}

/// What the table in [`piton_core::outcome`] says, written once more.
fn expected_outcome(stored: Option<At>, expected: Option<At>, new: Option<At>, mine: u64) -> Saved {
    if mine < 5 {
        return Saved::Fenced { epoch: Epoch(5) };
    }
    if stored == expected {
        return match below(new, stored) {
            Some(false) => Saved::Stored { version: 1 + u64::from(stored.is_some()) },
            Some(true) => Saved::Older { stored: rest(stored) },
            None => Saved::Mismatch { stored: rest(stored) },
        };
    }
    if new == stored {
        return Saved::Ignored;
    }
    match below(expected, stored) {
        Some(true) => Saved::Further { stored: rest(stored) },
        _ => Saved::Mismatch { stored: rest(stored) },
    }
}

/// Invariants 2 and 3: every combination of what is stored, expected and new, and of the epoch,
/// answers as the table says, and only what is stored changes anything.
pub fn every_combination_of_stored_expected_new_and_epoch<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let asked = super::ClaimRequest { at_least: Epoch(5), ..request(WHOLE) };
    let (claim, _) = granted(&*store, asked);
    let mut cases = Vec::new();
    for stored in ALL {
        for expected in ALL {
            cases.extend(ALL.map(|new| (stored, expected, new)));
        }
    }
    // An older epoch first: it changes nothing, so that the next finds the same. A newer one last.
    for mine in [4, 5, 6] {
        let name = |case: usize| format!("{mine}-{case}");
        let mut saves = Vec::new();
        for (case, (stored, _, _)) in cases.iter().enumerate() {
            saves.extend(stored.map(|stored| save_of(&name(case), None, Some(stored))));
        }
        assert!(ask(store.save(&claim, saves, at(0))).iter().all(Saved::is_stored));
        let under = Claim { epoch: Epoch(mine), ..claim.clone() };
        for (case, (stored, expected, new)) in cases.iter().copied().enumerate() {
            let save = save_of(&name(case), expected, new);
            let before = find(&*store, &save.key);
            let want = expected_outcome(stored, expected, new, mine);
            let got = ask(store.save(&under, vec![save.clone()], at(1)));
            let told = format!("stored {stored:?} expected {expected:?} new {new:?} epoch {mine}");
            assert_eq!(got[0], want, "{told}");
            let after = find(&*store, &save.key);
            match want {
                Saved::Stored { version } => {
                    let after = after.expect("what is stored is there");
                    assert_eq!((after.position, after.version), (rest(new), version), "{told}");
                    assert_eq!(after.epoch, Epoch(mine), "{told}");
                }
                _ => assert_eq!(after, before, "{told}"),
            }
        }
    }
}

fn find(store: &dyn Store, key: &piton_core::CheckpointKey) -> Option<Checkpoint> {
    ask(store.load(&key.pipeline)).into_iter().find(|row| row.key == *key)
}

/// One that cannot be stored keeps all of them back, and each says what it would have been.
pub fn many_are_stored_together_or_not_at_all<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let claim = whole(&*store);
    let keys = ["0", "1", "2"].map(|partition| key(partition, "out"));
    advance(&*store, &claim, &keys[1], Some(7), at(0));
    let before = ask(store.load("orders"));
    let mut saves: Vec<Save> = keys.iter().map(|key| step(&*store, key, Some(9))).collect();
    saves[1].position = Some(number(6));
    saves[0].state = vec![StateEntry { key: String::new(), json: Some("1".to_owned()) }];
    let older = Saved::Older { stored: Some(number(7)) };
    let stored = Saved::Stored { version: 1 };
    let outcomes = ask(store.save(&claim, saves.clone(), at(1)));
    assert_eq!(outcomes, [stored.clone(), older, stored]);
    assert_eq!(ask(store.load("orders")), before);
    assert_eq!(ask(store.state(&keys[0], None)), []);

    saves[1].position = Some(number(9));
    assert!(ask(store.save(&claim, saves, at(1))).iter().all(Saved::is_stored));
    assert_eq!(positions(&ask(store.load("orders"))), [Some(9); 3]);
}

/// Keys of another pipeline, of another partition, and keys given twice are refused.
pub fn a_claim_gives_no_right_to_anything_else<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let (claim, _) = granted(&*store, request("0"));
    let mine = step(&*store, &key("0", "out"), Some(1));
    let foreign = piton_core::CheckpointKey::new("another", "0", "out");
    let wrong = [
        vec![Save { key: foreign, ..mine.clone() }],
        vec![Save { key: key("1", "out"), ..mine.clone() }],
        vec![mine.clone(), mine],
    ];
    for saves in wrong {
        let answer = futures_executor::block_on(store.save(&claim, saves, at(0)));
        assert!(matches!(answer, Err(StoreError::Refused { .. })), "{answer:?}");
    }
    assert_eq!(ask(store.load("orders")), []);
    assert_eq!(ask(store.load("another")), []);
}

fn entry(key: &str, json: Option<&str>) -> StateEntry {
    StateEntry { key: key.to_owned(), json: json.map(str::to_owned) }
}

/// Invariant 5 for a program's own state: it is there with its position, or not at all.
pub fn state_is_stored_with_its_position<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let (claim, key) = (whole(&*store), key("0", "out"));
    let with = |to: u64, state: &[StateEntry]| Save {
        state: state.to_vec(),
        ..step(&*store, &key, Some(to))
    };
    let first = with(4, &[entry("a", Some("1")), entry("b", Some("[2]")), entry("", Some("{}"))]);
    let stale =
        Save { position: Some(number(8)), state: vec![entry("a", Some("9"))], ..first.clone() };
    assert!(ask(store.save(&claim, vec![first], at(0)))[0].is_stored());
    assert!(!ask(store.save(&claim, vec![stale], at(0)))[0].is_stored());
    assert_eq!(ask(store.state(&key, Some("a"))), [entry("a", Some("1"))]);

    let second = with(5, &[entry("a", Some("3")), entry("b", None), entry("none", None)]);
    assert!(ask(store.save(&claim, vec![second], at(0)))[0].is_stored());
    let all = [entry("", Some("{}")), entry("a", Some("3"))];
    assert_eq!(ask(store.state(&key, None)), all);
    assert_eq!(ask(store.state(&key, Some("b"))), []);
    assert_eq!(ask(store.state(&super::key("0", "other"), None)), []);

    let done = ask(store.complete(&claim, None));
    assert_eq!(done, Saved::Stored { version: 2 });
    assert_eq!(ask(store.state(&key, None)), []);
}

/// Completion removes checkpoints of the claim's scope, or of one sink; what happened stays known.
pub fn completion_removes_what_the_claim_covers<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let all = whole(&*store);
    ask(store.record(event("began")));
    for (partition, sink) in [("0", "a"), ("0", "b"), ("1", "a")] {
        advance(&*store, &all, &key(partition, sink), Some(1), at(0));
    }
    ask(store.release(&all));
    let (zero, _) = granted(&*store, request("0"));
    assert_eq!(ask(store.complete(&zero, Some("a"))), Saved::Stored { version: 1 });
    let left = |store: &dyn Store| -> Vec<_> {
        ask(store.load("orders")).into_iter().map(|row| row.key).collect()
    };
    assert_eq!(left(&*store), [key("0", "b"), key("1", "a")]);
    assert_eq!(ask(store.complete(&zero, None)), Saved::Stored { version: 1 });
    assert_eq!(left(&*store), [key("1", "a")]);
    assert_eq!(ask(store.complete(&zero, None)), Saved::Ignored);
    assert_eq!(ask(store.events("orders", 9)).len(), 1);
    assert_eq!(ask(store.history("orders", 9)).len(), 2, "what was removed is history");
}

/// Invariant 2: a mirror follows the sink's versions, never back, and one version has one position.
pub fn a_mirror_never_goes_back<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let (claim, key) = (whole(&*store), key("0", "db"));
    let row = |version: u64, to: u64| Checkpoint {
        key: key.clone(),
        position: Some(number(to)),
        records: to,
        version,
        epoch: claim.epoch,
        schema_version: 0,
        updated_at: at(version as i64),
        sink_state: None,
    };
    let beside = Checkpoint { key: super::key("1", "db"), ..row(3, 30) };
    let stored = |version| Saved::Stored { version };
    assert_eq!(ask(store.mirror(&claim, vec![row(7, 70)])), stored(7));
    assert_eq!(ask(store.mirror(&claim, vec![row(7, 70)])), Saved::Ignored);
    assert_eq!(ask(store.mirror(&claim, vec![row(9, 90), beside.clone()])), stored(9));
    let mismatch = Saved::Mismatch { stored: Some(number(90)) };
    let further = Checkpoint { version: 4, ..beside.clone() };
    assert_eq!(ask(store.mirror(&claim, vec![further, row(8, 80)])), mismatch);
    assert_eq!(ask(store.mirror(&claim, vec![row(9, 91)])), mismatch);
    assert_eq!(ask(store.load("orders")), [row(9, 90), beside]);
}

/// Another handle, and one opened after all are gone, sees what was stored.
pub fn what_is_stored_is_there_for_the_next_process<H: Harness>() {
    let place = H::fresh();
    let (mine, other) = (place.open(), place.open());
    let (claim, key) = (whole(&*mine), key("Größe / 'x'\n*", "out \u{1F9D7}"));
    advance(&*mine, &claim, &key, None, at(0));
    advance(&*mine, &claim, &key, Some(u64::MAX), at(1));
    let rows = ask(mine.load("orders"));
    assert_eq!((rows.len(), rows[0].version, &rows[0].key), (1, 2, &key));
    assert_eq!((rows[0].records, rows[0].schema_version), (u64::MAX, 3));
    assert_eq!(rows[0].sink_state.as_deref(), Some("{\"length\":18446744073709551615}"));
    assert_eq!((rows[0].updated_at, rows[0].epoch), (at(1), claim.epoch));
    assert_eq!(ask(other.load("orders")), rows);
    drop((claim, mine, other));
    assert_eq!(ask(place.open().load("orders")), rows);
    assert_eq!(ask(place.open().load("another")), []);
}

/// History is what was replaced, newest first: "begun" always, else about one a second, and none
/// that was new less than a second ago.
pub fn history_shows_what_was_replaced<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let short = key("1", "out");
    let (claim, key) = (whole(&*store), key("0", "out"));
    advance(&*store, &claim, &key, None, at(0));
    advance(&*store, &claim, &key, Some(1), at(10));
    advance(&*store, &claim, &key, Some(2), at(20));
    advance(&*store, &claim, &key, Some(3), at(1_500));
    advance(&*store, &claim, &key, Some(4), at(3_000));
    let history = ask(store.history("orders", 9));
    assert_eq!(positions(&history), [Some(3), Some(2), None]);
    assert_eq!(history.iter().map(|row| row.version).collect::<Vec<_>>(), [4, 3, 1]);
    assert_eq!(positions(&ask(store.history("orders", 2))), [Some(3), Some(2)]);
    assert_eq!(ask(store.history("another", 2)), []);
    advance(&*store, &claim, &short, Some(5), at(4_000));
    advance(&*store, &claim, &short, Some(6), at(4_999));
    assert_eq!(ask(store.history("orders", 9)).len(), 3);
    advance(&*store, &claim, &short, Some(7), at(5_000));
    assert_eq!(positions(&ask(store.history("orders", 1))), [Some(6)]);
}

/// Thinning drops what is old, never the newest of a key nor what a pending order goes back to.
pub fn thinning_spares_what_is_needed<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let claim = whole(&*store);
    let day = 86_400_000;
    for (sink, until) in [("a", 4), ("b", 2)] {
        for n in 1..=until {
            advance(&*store, &claim, &key("0", sink), Some(n), at(n as i64 * day));
        }
    }
    // Of a: 1, 2, 3 were replaced; of b: 1.
    ask(store.order(vec![order(OrderKind::Rewind, "0", "a", Some(2))], event("rewind")));
    let now = at(10 * day);
    ask(store.thin("another", Duration::ZERO, now));
    assert_eq!(ask(store.history("orders", 99)).len(), 5);
    ask(store.thin("orders", Duration::from_hours(24), now));
    let left: Vec<_> = ask(store.history("orders", 99))
        .into_iter()
        .map(|row| (row.key.sink, row.position.map(|at| at.read::<u64>().unwrap())))
        .collect();
    // 4 is the newest of a, 2 what the order goes back to, 1 the newest of b.
    let want = [("a", Some(4)), ("b", Some(1)), ("a", Some(2))];
    let mut want = want.map(|(sink, at)| (sink.to_owned(), at)).to_vec();
    let mut sorted = left;
    want.sort();
    sorted.sort();
    assert_eq!(sorted, want);
    assert_eq!(ask(store.orders("orders")).len(), 1, "a pending order is never too old");
    assert_eq!(ask(store.events("orders", 9)), [], "the event was older than a day");
    assert_eq!(ask(store.load("orders")).len(), 2);
}
