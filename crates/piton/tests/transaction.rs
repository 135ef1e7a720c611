//! Effects and checkpoint in one transaction: every outcome of a save, and that anything but
//! `Stored` leaves no effect.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod support;

use std::{cmp::Ordering, future::Future, sync::Arc};

use jiff::Timestamp;
use piton::{
    CursorError, JoinsTransaction, Options, Position, Saved, Store,
    core::{CheckpointKey, Epoch, Event, Order, OrderKind, StoredPosition, position::order_of},
    rusqlite::{Connection, Transaction, TransactionBehavior},
    sqlite::{Cursor, Joined, LedgerError},
};
use piton_stores::joined::sqlite::{TakeOver, tables};
use pollster::block_on;
use serde::{Deserialize, Serialize};

use self::support::{Place, effects, pairs};

/// A position that is ordered only against its like, so that every outcome can be had.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Branch(char, u64);

impl PartialOrd for Branch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.0 == other.0).then(|| self.1.cmp(&other.1))
    }
}

impl Position for Branch {
    const KIND: &'static str = "branch";
}

fn open<P: Position>(store: &Arc<dyn Store>, conn: &mut Connection) -> Cursor<P> {
    Cursor::open(store, conn, "orders").unwrap()
}

fn insert(tx: &Transaction<'_>, n: u64) -> Result<(), piton::EffectsError> {
    tx.execute("INSERT INTO effects VALUES (?1)", [n])?;
    Ok(())
}

fn at(branch: char, n: u64) -> Option<StoredPosition> {
    Some(StoredPosition::of(&Branch(branch, n)).unwrap())
}

/// Another hand that keeps checksums and epoch right: what only a second owner of the same epoch
/// could do, or damage that looks like one.
fn tamper(conn: &mut Connection, version: i64, position: Option<StoredPosition>) {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let mut ledger = tables::read(&tx, "orders", "database").unwrap();
    let row = ledger.rows.get_mut("main").unwrap();
    row.version = row.version.saturating_add_signed(version);
    row.position = position;
    tables::write(&tx, &mut ledger).unwrap();
    tx.commit().unwrap();
}

/// Invariant 5, as a table: each outcome, in both orders, and that only `Stored` has an effect.
#[test]
fn every_outcome_and_only_stored_has_an_effect() {
    type Meddle = fn(&mut Connection);
    let rows: [(&str, Meddle, Branch, Saved); 7] = [
        ("behind what is stored", |_| {}, Branch('a', 6), Saved::Stored { version: 3 }),
        ("what is stored", |_| {}, Branch('a', 5), Saved::Ignored),
        ("before what is stored", |_| {}, Branch('a', 4), Saved::Older { stored: at('a', 5) }),
        (
            "not comparable with what is stored",
            |_| {},
            Branch('b', 6),
            Saved::Mismatch { stored: at('a', 5) },
        ),
        (
            "somebody else went further",
            |conn| tamper(conn, 4, at('a', 9)),
            Branch('a', 6),
            Saved::Further { stored: at('a', 9) },
        ),
        (
            "the checkpoint was removed by hand",
            |conn| conn.execute_batch("DELETE FROM piton_checkpoints").unwrap(),
            Branch('a', 6),
            Saved::Mismatch { stored: None },
        ),
        (
            "a newer owner",
            |conn| {
                let store = piton::open("memory:").unwrap();
                let options = Options { adopt: true, ..Default::default() };
                drop(Cursor::<Branch>::open_with(&store, conn, "orders", options).unwrap());
            },
            Branch('a', 6),
            Saved::Fenced { epoch: Epoch(2) },
        ),
    ];
    for (what, meddle, position, expected) in rows {
        for last in [false, true] {
            let place = Place::new();
            let (store, mut conn, mut other) = (place.store(), place.database(), place.database());
            let mut cursor = open::<Branch>(&store, &mut conn);
            let five = Branch('a', 5);
            let saved = cursor.transaction(&mut conn, five, |tx| insert(tx, 5)).unwrap();
            assert_eq!(saved, Saved::Stored { version: 2 });
            meddle(&mut other);

            let mut ran = false;
            let saved = if last {
                cursor.transaction_saving_last(&mut conn, |tx| {
                    ran = true;
                    insert(tx, 6).map(|()| position)
                })
            } else {
                cursor.transaction(&mut conn, position, |tx| {
                    ran = true;
                    insert(tx, 6)
                })
            };
            assert_eq!(saved.unwrap(), expected, "{what}, last: {last}");
            let stored = expected.is_stored();
            assert_eq!(ran, stored || last, "{what}: store first runs nothing that cannot stand");
            assert_eq!(effects(&other), if stored { vec![5, 6] } else { vec![5] }, "{what}");
            let stands = if stored { position } else { five };
            assert_eq!(cursor.position(), Some(&stands), "{what}");
        }
    }
}

/// Invariant 3, with the caller's own transaction: what an owner that was replaced did in it is
/// rolled back, and its heir goes on from what was committed.
#[test]
fn a_replaced_owner_is_fenced_in_its_own_transaction() {
    let place = Place::new();
    let (store, mut conn, mut other) = (place.store(), place.database(), place.database());
    let mut old = open::<u64>(&store, &mut conn);
    assert!(old.transaction(&mut conn, 1, |tx| insert(tx, 1)).unwrap().is_stored());
    // The store is lost and made anew: it grants the claim though the old owner lives.
    let new_store = piton::open("memory:").unwrap();
    let options = Options { adopt: true, ..Default::default() };
    let mut heir = Cursor::<u64>::open_with(&new_store, &mut other, "orders", options).unwrap();
    assert_eq!((heir.position(), heir.epoch()), (Some(&1), old.epoch() + 1));

    // The old owner wakes in the middle of its work.
    let tx = conn.transaction().unwrap();
    insert(&tx, 2).unwrap();
    assert_eq!(old.save_in(&tx, &2).unwrap(), Saved::Fenced { epoch: Epoch(heir.epoch()) });
    tx.rollback().unwrap();
    assert!(heir.transaction(&mut other, 2, |tx| insert(tx, 2)).unwrap().is_stored());
    assert_eq!(effects(&conn), [1, 2]);
    let saved = old.transaction(&mut conn, 2, |_| panic!("the effects are not run"));
    assert!(matches!(saved, Ok(Saved::Fenced { .. })));
    assert!(matches!(old.finish(&mut conn), Err(CursorError::Fenced { .. })), "removes nothing");
    heir.finish(&mut other).unwrap();
}

/// A commit that fails has changed nothing, and moves nothing.
#[test]
fn a_commit_that_fails_moves_nothing() {
    let place = Place::new();
    let (store, mut conn) = (place.store(), place.database());
    conn.execute_batch(
        "CREATE TABLE parents (id INTEGER PRIMARY KEY);
         CREATE TABLE children (id REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
         PRAGMA foreign_keys = ON;",
    )
    .unwrap();
    let mut cursor = open::<u64>(&store, &mut conn);
    assert!(cursor.transaction(&mut conn, 1, |tx| insert(tx, 1)).unwrap().is_stored());
    let mut orphan = |conn: &mut Connection| {
        cursor.transaction(conn, 2, |tx| {
            insert(tx, 2)?;
            tx.execute("INSERT INTO children VALUES (7)", [])?;
            Ok(())
        })
    };
    match orphan(&mut conn) {
        Err(error @ CursorError::Database { doing: "commit", .. }) => {
            assert!(error.to_string().contains("Nothing advanced"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(effects(&conn), [1]);
    conn.execute("INSERT INTO parents VALUES (7)", []).unwrap();
    assert!(orphan(&mut conn).unwrap().is_stored(), "the same call may be made again");
    assert_eq!((cursor.position(), cursor.records()), (Some(&2), 2));
    assert_eq!(effects(&conn), [1, 2]);
}

#[test]
fn effects_that_fail_leave_nothing() {
    let place = Place::new();
    let (store, mut conn) = (place.store(), place.database());
    let mut cursor = open::<u64>(&store, &mut conn);
    let failed = cursor.transaction(&mut conn, 1, |tx| {
        insert(tx, 1)?;
        Err("the card was declined".into())
    });
    let error = failed.unwrap_err();
    assert!(error.to_string().contains("the card was declined"), "{error}");
    assert_eq!((effects(&conn), cursor.position()), (vec![], None));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = cursor.transaction(&mut conn, 1, |tx| {
            insert(tx, 1).unwrap();
            panic!("a handler panics");
        });
    }));
    assert!(panicked.is_err());
    assert!(cursor.transaction(&mut conn, 1, |tx| insert(tx, 1)).unwrap().is_stored());
    assert_eq!(effects(&conn), [1]);
}

/// The caller commits or rolls back; whether it did is read from the database.
#[test]
fn the_callers_own_transactions_need_not_be_reported() {
    let place = Place::new();
    let (store, mut conn) = (place.store(), place.database());
    let mut cursor = open::<u64>(&store, &mut conn);
    let mut step = |conn: &mut Connection, n: u64, commit: bool| {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let saved = cursor.save_in(&tx, &n).unwrap();
        if saved.is_stored() {
            insert(&tx, n).unwrap();
        }
        let ended = if commit { tx.commit() } else { tx.rollback() };
        ended.unwrap();
        saved
    };
    assert!(step(&mut conn, 1, true).is_stored());
    assert!(step(&mut conn, 2, false).is_stored());
    assert!(step(&mut conn, 2, true).is_stored(), "it was rolled back, so it is new");
    assert_eq!(step(&mut conn, 2, true), Saved::Ignored, "it was committed");
    assert!(matches!(step(&mut conn, 1, true), Saved::Older { .. }));
    // Two in one transaction, which then is rolled back.
    let tx = conn.transaction().unwrap();
    assert!(cursor.save_in(&tx, &3).unwrap().is_stored());
    assert!(cursor.save_in(&tx, &4).unwrap().is_stored());
    tx.rollback().unwrap();
    let tx = conn.transaction().unwrap();
    assert!(cursor.save_in(&tx, &3).unwrap().is_stored());
    insert(&tx, 3).unwrap();
    tx.commit().unwrap();
    cursor.committed();
    assert_eq!((cursor.position(), effects(&conn)), (Some(&3), vec![1, 2, 3]));
    cursor.stop().unwrap();
    assert_eq!(open::<u64>(&store, &mut conn).position(), Some(&3));
}

/// The transaction is a parameter, whatever the driver: this handler knows nothing of SQLite.
#[test]
fn a_handler_can_be_written_for_any_driver() {
    async fn handle<Tx, J: JoinsTransaction<Tx>>(
        joined: &mut J,
        tx: Tx,
        n: u64,
    ) -> Result<Saved, J::Error> {
        let advance = piton::joined::Advance {
            position: StoredPosition::of(&n).unwrap(),
            order: order_of::<u64>,
            records: 1,
            state: Vec::new(),
        };
        joined.save_in(tx, &advance, Timestamp::now()).await
    }
    fn send<T: Future + Send>(future: T) -> T {
        future
    }
    let mut conn = Connection::open_in_memory().unwrap();
    let key = CheckpointKey::new("orders", "main", "database");
    let (epoch, now) = (Epoch(1), Timestamp::now());
    let by = TakeOver { key, epoch, orders: &[], copied: 0, now };
    let mut joined = Joined::take_over(&mut conn, &by).unwrap();
    let tx = conn.transaction().unwrap();
    assert_eq!(block_on(handle(&mut joined, &tx, 1)).unwrap(), Saved::Stored { version: 2 });
    tx.commit().unwrap();
    assert!(matches!(Joined::take_over(&mut conn, &by), Err(LedgerError::Fenced { .. })));
    // The store's side of a cursor can be awaited on any thread.
    let store = piton::open("memory:").unwrap();
    let opening = send(piton::asynchronous::Cursor::<u64>::open(&store, "orders"));
    assert_eq!(block_on(opening).unwrap().position(), None);
}

#[test]
fn finishing_removes_and_keeping_leaves() {
    let place = Place::new();
    let (store, mut conn) = (place.store(), place.database());
    let count = |conn: &Connection| -> u64 {
        conn.query_row("SELECT count(*) FROM piton_checkpoints", [], |row| row.get(0)).unwrap()
    };
    let mut cursor = open::<u64>(&store, &mut conn);
    let in_both = [("orders".to_owned(), "begun".to_owned())];
    assert_eq!((count(&conn), place.checkpoints()), (1, in_both.to_vec()));
    assert!(cursor.counting(500).transaction(&mut conn, 499, |_| Ok(())).unwrap().is_stored());
    assert!(cursor.transaction(&mut conn, 500, |_| Ok(())).unwrap().is_stored());
    assert_eq!(cursor.records(), 501);
    cursor.finish(&mut conn).unwrap();
    assert_eq!((count(&conn), place.checkpoints()), (0, vec![]));

    let keep = Options { keep: true, ..Default::default() };
    for _ in 0..2 {
        let mut cursor =
            Cursor::<u64>::open_with(&store, &mut conn, "orders", keep.clone()).unwrap();
        if cursor.position().is_none() {
            assert!(cursor.transaction(&mut conn, 7, |_| Ok(())).unwrap().is_stored());
        }
        cursor.finish(&mut conn).unwrap();
        assert_eq!(place.checkpoints(), [("orders".to_owned(), "7".to_owned())]);
        let row = "SELECT pipeline, position FROM piton_checkpoints";
        assert_eq!(pairs(&conn, row), place.checkpoints(), "the same columns in both");
    }
}

fn refusal(result: Result<Cursor<u64>, CursorError>) -> String {
    match result {
        Err(error @ CursorError::Disagreement { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Invariant 4: a database that was restored or replaced, or a store that was lost, is noticed.
#[test]
fn a_restored_database_or_a_lost_store_is_refused() {
    let place = Place::new();
    let (store, mut conn) = (place.store(), place.database());
    let mut cursor = open::<u64>(&store, &mut conn);
    let step = |cursor: &mut Cursor<u64>, conn: &mut Connection, n| {
        assert!(cursor.transaction(conn, n, |tx| insert(tx, n)).unwrap().is_stored());
    };
    step(&mut cursor, &mut conn, 1);
    conn.execute("VACUUM INTO ?1", [place.path("backup.db").to_str().unwrap()]).unwrap();
    step(&mut cursor, &mut conn, 2);
    cursor.stop().unwrap();

    let mut restored = Connection::open(place.path("backup.db")).unwrap();
    let what = refusal(Cursor::open(&store, &mut restored, "orders"));
    assert!(what.contains("an earlier one, 1"), "{what}");
    let mut replaced = Connection::open_in_memory().unwrap();
    let what = refusal(Cursor::open(&store, &mut replaced, "orders"));
    assert!(what.contains("no checkpoint"), "{what}");
    let tables = "SELECT type, name FROM sqlite_schema";
    assert!(pairs(&replaced, tables).is_empty(), "nothing is written before it is refused");
    let what = refusal(Cursor::open(&piton::open("memory:").unwrap(), &mut conn, "orders"));
    assert!(what.contains("the store was lost"), "{what}");

    // Somebody decided: on from what the restored database holds, also the next time.
    let adopt = Options { adopt: true, ..Default::default() };
    let mut cursor = Cursor::open_with(&store, &mut restored, "orders", adopt).unwrap();
    assert_eq!(cursor.position(), Some(&1));
    step(&mut cursor, &mut restored, 2);
    drop(cursor);
    assert_eq!(open::<u64>(&store, &mut restored).position(), Some(&2));
}

/// Where a power loss may take committed transactions along, the store is not told of them: else
/// it would know more than the database after it.
#[test]
fn a_database_that_is_not_synced_is_not_copied() {
    let place = Place::new();
    let (store, mut conn) = (place.store(), place.database());
    conn.pragma_update(None, "synchronous", "normal").unwrap();
    let mut cursor = open::<u64>(&store, &mut conn);
    assert!(cursor.transaction(&mut conn, 1, |_| Ok(())).unwrap().is_stored());
    cursor.stop().unwrap();
    assert_eq!(place.checkpoints(), [("orders".to_owned(), "begun".to_owned())]);
    assert_eq!(open::<u64>(&store, &mut conn).position(), Some(&1));
}

#[test]
fn the_copy_follows_within_a_second() {
    let place = Place::new();
    let (store, mut conn) = (place.store(), place.database());
    let mut cursor = open::<u64>(&store, &mut conn);
    let began = std::time::Instant::now();
    let mut n = 0;
    while place.position("orders").is_none() && began.elapsed().as_secs() < 20 {
        n += 1;
        assert!(cursor.transaction(&mut conn, n, |_| Ok(())).unwrap().is_stored());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(began.elapsed().as_secs_f64() < 10.0, "{:?}", began.elapsed());
    assert!(n > 20, "but not with every commit");
    drop(cursor);
    assert_eq!(open::<u64>(&store, &mut conn).position(), Some(&n), "the database is the truth");
}

fn order(kind: OrderKind, to: Option<u64>) -> (Order, Event) {
    let at = Timestamp::now();
    let order = Order {
        id: 0,
        pipeline: "orders".into(),
        partition: "main".into(),
        sink: "database".into(),
        kind,
        position: to.and_then(|n| StoredPosition::of(&n).ok()),
        records: to.unwrap_or(0),
        sink_state: None,
        output: None,
        who: "me".into(),
        at,
        applied_at: None,
    };
    let (pipeline, what) = ("orders".into(), kind.as_str().into());
    let event = Event { id: 0, pipeline, at, who: "me".into(), what, detail: String::new() };
    (order, event)
}

/// Invariant 2: only an operator goes back, and the order is applied in the database before it is
/// read.
#[test]
fn an_operators_orders_are_applied_once() {
    let place = Place::new();
    let (store, mut conn) = (place.store(), place.database());
    let give = |(order, event): (Order, Event)| block_on(store.order(vec![order], event)).unwrap();
    let mut cursor = open::<u64>(&store, &mut conn);
    for n in 1..=5 {
        assert!(cursor.transaction(&mut conn, n, |_| Ok(())).unwrap().is_stored());
    }
    cursor.stop().unwrap();
    give(order(OrderKind::Rewind, Some(2)));
    let mut cursor = open::<u64>(&store, &mut conn);
    assert_eq!((cursor.position(), cursor.records()), (Some(&2), 2));
    cursor.put("ann", &1).unwrap();
    assert!(cursor.transaction(&mut conn, 3, |_| Ok(())).unwrap().is_stored());
    cursor.stop().unwrap();
    assert_eq!(place.position("orders"), Some(3), "the copy follows");

    give(order(OrderKind::Rewind, Some(1)));
    let refused = Cursor::<u64>::open(&store, &mut conn, "orders");
    assert!(matches!(refused, Err(CursorError::Mismatch { .. })), "{refused:?}");
    give(order(OrderKind::Reset, None));
    let cursor = open::<u64>(&store, &mut conn);
    assert_eq!((cursor.position(), cursor.get::<u64>(&conn, "ann").unwrap()), (None, None));
    assert!(block_on(store.orders("orders")).unwrap().is_empty());
}

#[test]
fn damage_is_refused_with_the_way_out() {
    let place = Place::new();
    let (store, mut conn) = (place.store(), place.database());
    let mut cursor = open::<u64>(&store, &mut conn);
    assert!(cursor.transaction(&mut conn, 5, |_| Ok(())).unwrap().is_stored());
    let by_hand = "UPDATE piton_checkpoints SET position = '7'";
    let refused = conn.execute(by_hand, []).unwrap_err().to_string();
    assert!(refused.contains("piton rewind"), "{refused}");
    // What the trigger keeps a person from, a disk may do.
    conn.execute_batch(&format!("DROP TRIGGER piton_checkpoints_updated; {by_hand}")).unwrap();
    let failed = cursor.transaction(&mut conn, 8, |tx| insert(tx, 8));
    assert!(matches!(failed, Err(CursorError::Damaged { .. })), "{failed:?}");
    drop(cursor);
    let error = Cursor::<u64>::open(&store, &mut conn, "orders").unwrap_err().to_string();
    assert!(error.contains("was altered") && error.contains("piton reset orders"), "{error}");
    assert!(effects(&conn).is_empty());
    conn.execute_batch(error.split('`').nth(1).unwrap()).unwrap();
    block_on(store.order(vec![order(OrderKind::Reset, None).0], order(OrderKind::Reset, None).1))
        .unwrap();
    assert_eq!(open::<u64>(&store, &mut conn).position(), None);
}

#[test]
fn a_database_that_is_locked_is_named_and_nothing_advances() {
    let place = Place::new();
    let (store, mut conn, other) = (place.store(), place.database(), place.database());
    conn.busy_timeout(std::time::Duration::from_millis(50)).unwrap();
    let mut cursor = open::<u64>(&store, &mut conn);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let failed = cursor.transaction(&mut conn, 1, |_| Ok(()));
    assert!(matches!(failed, Err(CursorError::Database { .. })), "{failed:?}");
    other.execute_batch("COMMIT").unwrap();
    assert!(cursor.transaction(&mut conn, 1, |_| Ok(())).unwrap().is_stored());
}
