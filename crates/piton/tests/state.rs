//! State beside the position: stored with it or not at all, and only what changed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod support;

use std::{fs, sync::Arc};

use piton::{Cursor, CursorError, Options, Policy, Store, rusqlite::Connection, sqlite};
use serde::{Deserialize, Serialize};

use self::support::Place;

fn open(store: &Arc<dyn Store>) -> Cursor<u64> {
    let options = Options { checkpoint: Policy::Off, keep: true, ..Default::default() };
    Cursor::open_with(store, "totals", options).unwrap()
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Window {
    since: u64,
    names: Vec<String>,
}

#[test]
fn a_value_is_saved_with_the_position_or_not_at_all() {
    let place = Place::new();
    let store = place.store();
    let window = |since| Window { since, names: vec!["ann".into()] };
    let mut cursor = open(&store);
    assert_eq!(cursor.state::<Window>().unwrap(), None);
    cursor.set_state(&window(1)).unwrap();
    cursor.passed(1).unwrap();
    cursor.save().unwrap();
    cursor.set_state(&window(2)).unwrap();
    cursor.passed(2).unwrap();
    assert_eq!(cursor.state().unwrap(), Some(window(2)), "what is not saved yet is seen");
    drop(cursor);

    let cursor = open(&store);
    assert_eq!((cursor.position(), cursor.state().unwrap()), (Some(&1), Some(window(1))));
    match cursor.state::<u64>() {
        Err(CursorError::State { job, .. }) => assert_eq!(job, "totals"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn keyed_state_is_changed_and_removed_by_key() {
    let place = Place::new();
    let store = place.store();
    let mut cursor = open(&store);
    for (key, total) in [("ann", 5), ("bob", 7), ("cid", 9)] {
        cursor.put(key, &total).unwrap();
    }
    cursor.save().unwrap();
    assert_eq!(place.checkpoints(), [("totals".to_owned(), "begun".to_owned())], "before a record");
    cursor.put("ann", &6).unwrap();
    cursor.remove("bob");
    cursor.remove("nobody");
    let seen = [("ann".to_owned(), 6), ("cid".to_owned(), 9)];
    assert_eq!(cursor.entries::<u64>().unwrap(), seen, "with what is not saved yet");
    assert_eq!(cursor.get::<u64>("bob").unwrap(), None);
    cursor.passed(1).unwrap();
    cursor.save().unwrap();
    drop(cursor);
    let cursor = open(&store);
    assert_eq!(cursor.entries::<u64>().unwrap(), seen);
    assert_eq!(cursor.get::<u64>("cid").unwrap(), Some(9));
    cursor.finish().unwrap();
    assert_eq!(open(&store).entries::<u64>().unwrap(), seen, "kept with the checkpoint");
}

#[test]
fn state_goes_with_the_checkpoint() {
    let place = Place::new();
    let store = place.store();
    let mut cursor = Cursor::<u64>::open(&store, "totals").unwrap();
    cursor.put("ann", &5).unwrap();
    cursor.passed(1).unwrap();
    cursor.finish().unwrap();
    let cursor = Cursor::<u64>::open(&store, "totals").unwrap();
    assert_eq!(cursor.entries::<u64>().unwrap(), []);
}

/// Ten thousand entries of a kilobyte; one changes. By the bytes that reach the disk.
#[test]
fn of_keyed_state_only_what_changed_is_written() {
    let place = Place::new();
    let log = || fs::metadata(place.path("piton.db-wal")).map_or(0, |log| log.len());
    let text = "x".repeat(1000);
    let mut cursor = open(&place.store());
    for key in 0..10_000 {
        cursor.put(&key.to_string(), &text).unwrap();
    }
    cursor.passed(1).unwrap();
    cursor.save().unwrap();
    assert!(log() > 10_000_000);
    drop(cursor);
    assert_eq!(log(), 0, "a store that is closed has no log");
    let store = place.store();
    let mut cursor = open(&store);
    cursor.put("5000", &"changed").unwrap();
    cursor.passed(2).unwrap();
    cursor.save().unwrap();
    assert!((1..200_000).contains(&log()), "{} bytes", log());
    drop(cursor);
    assert_eq!(open(&store).get::<String>("5000").unwrap().unwrap(), "changed");
}

/// Invariant 8: however much state changes, no more than a few megabytes wait for the next save.
#[test]
fn much_changed_state_is_saved_with_the_next_record() {
    let place = Place::new();
    let mut cursor = open(&place.store());
    let text = "x".repeat(1 << 20);
    let mut saved_at = Vec::new();
    for record in 0..10 {
        cursor.put(&format!("key {}", record % 7), &text).unwrap();
        cursor.passed(record).unwrap();
        if place.position("totals") == Some(record) {
            saved_at.push(record);
        }
    }
    assert_eq!(saved_at, [3, 7], "though the interval says never");
}

/// The same within the program's own database, by the rows that its own connection changes.
#[test]
fn state_in_the_programs_database_is_written_with_the_effects() {
    let place = Place::new();
    let (store, mut conn) = (place.store(), place.database());
    let open = |conn: &mut Connection| {
        let options = Options { keep: true, ..Default::default() };
        sqlite::Cursor::<u64>::open_with(&store, conn, "totals", options).unwrap()
    };
    let mut cursor = open(&mut conn);
    for key in 0..1000 {
        cursor.put(&key.to_string(), &key).unwrap();
    }
    let saved = cursor.transaction(&mut conn, 1, |_| Ok(())).unwrap();
    assert!(saved.is_stored());
    let before = conn.total_changes();
    cursor.put("500", &0).unwrap();
    cursor.remove("501");
    assert_eq!(cursor.get::<u64>(&conn, "500").unwrap(), Some(0), "what is not saved yet is seen");
    assert!(cursor.transaction(&mut conn, 2, |_| Ok(())).unwrap().is_stored());
    assert_eq!(conn.total_changes() - before, 4, "two entries, the checkpoint, its manifest");

    // A change belongs to one attempt: what is rolled back takes it along.
    cursor.put("500", &77).unwrap();
    let failed = cursor.transaction(&mut conn, 3, |_| Err("no".into()));
    assert!(matches!(failed, Err(CursorError::Effects { .. })), "{failed:?}");
    cursor.put("502", &88).unwrap();
    let again = cursor.transaction(&mut conn, 2, |_| panic!("done before")).unwrap();
    assert!(!again.is_stored());
    assert!(cursor.transaction(&mut conn, 3, |_| Ok(())).unwrap().is_stored());
    drop(cursor);
    let cursor = open(&mut conn);
    let entries = cursor.entries::<u64>(&conn).unwrap();
    let total: u64 = entries.iter().map(|(_, value)| value).sum();
    assert_eq!((entries.len(), total), (999, (0..1000).sum::<u64>() - 500 - 501));
    assert_eq!(cursor.state::<u64>(&conn).unwrap(), None);
    drop(cursor);

    // Invariant 4: an entry that is gone is noticed; a checkpoint that is forgotten takes all along.
    conn.execute("DELETE FROM piton_state WHERE key = '7'", []).unwrap();
    let damaged = sqlite::Cursor::<u64>::open(&store, &mut conn, "totals");
    assert!(matches!(damaged, Err(CursorError::Damaged { .. })), "{damaged:?}");
    conn.execute("DELETE FROM piton_checkpoints", []).unwrap();
    let cursor = open(&mut conn);
    assert_eq!((cursor.position(), cursor.entries::<u64>(&conn).unwrap()), (None, vec![]));
}
