//! The SQLite store passes the suite, and what only a file can show.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod scratch;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{OrderKind, Saved, Store, StoreError};
use piton_stores::{Mode, SqlStore, conformance::Harness};
use rusqlite::Connection;
use tempfile::TempDir;

struct Sqlite(TempDir);

impl Harness for Sqlite {
    fn fresh() -> Self {
        Self(scratch::folder())
    }

    fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqlStore::sqlite(&self.0.path().join("piton.db"), Mode::Create).unwrap())
    }
}

piton_stores::conformance!(Sqlite);

#[test]
fn the_model_and_the_sqlite_store_agree() {
    piton_stores::conformance::model::run::<Sqlite>(200);
}

fn existing(path: &Path) -> Result<SqlStore, StoreError> {
    SqlStore::sqlite(path, Mode::Existing)
}

/// A store with two partitions, one of them at 3, the other at 1.
fn small(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("piton.db");
    let store = SqlStore::sqlite(&path, Mode::Create).unwrap();
    let claim = scratch::claim(&store);
    scratch::advance(&store, &claim, "0", 3);
    scratch::advance(&store, &claim, "1", 1);
    block_on(store.release(&claim)).unwrap();
    path
}

#[test]
fn who_only_asks_creates_nothing() {
    let folder = scratch::folder();
    let open =
        |url, mode| piton_stores::open(url, folder.path(), mode).map(|store| store.location());
    let path = folder.path().join("piton.db");
    let missing = open("sqlite:piton.db", Mode::Existing);
    assert!(matches!(&missing, Err(StoreError::Missing { path: named }) if *named == path));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(matches!(open("memory:", Mode::Existing), Err(StoreError::Missing { .. })));

    assert_eq!(open("sqlite:piton.db", Mode::Create).unwrap(), path.display().to_string());
    let found: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(found, ["piton.db"], "nothing is left of how it was made");
    assert_eq!(open("sqlite:piton.db", Mode::Existing).unwrap(), path.display().to_string());
    for wrong in ["redis://x/y", "sqlite:", "sqlite://piton.db", "piton.db"] {
        let refused = open(wrong, Mode::Create);
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{wrong}: {refused:?}");
    }
    let nowhere = open("sqlite:none/piton.db", Mode::Create);
    assert!(matches!(nowhere, Err(StoreError::Unusable { .. })), "{nowhere:?}");
}

/// Invariant 4: what is not a store of this format is refused by name, and not one byte of it changes.
#[test]
fn what_is_no_store_is_refused_untouched() {
    let folder = scratch::folder();
    let path = folder.path().join("piton.db");
    let refused = |bytes: &[u8], is: fn(&StoreError) -> bool| {
        fs::write(&path, bytes).unwrap();
        for mode in [Mode::Existing, Mode::Create] {
            let error = SqlStore::sqlite(&path, mode).map(|_| "opened").unwrap_err();
            assert!(is(&error), "{error:?}");
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside it");
        fs::remove_file(&path).unwrap();
    };
    let damaged: fn(&StoreError) -> bool = |error| matches!(error, StoreError::Damaged { .. });
    refused(b"", damaged);
    refused(&b"id,name\n1,x\n".repeat(100), damaged);

    let database = |sql: &str| {
        let path = folder.path().join("made.db");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        bytes
    };
    let foreign = database("CREATE TABLE checkpoints (id)");
    refused(&foreign, |error| matches!(error, StoreError::Foreign { .. }));
    refused(&database("VACUUM"), damaged);

    let made = small(&folder);
    let mut store = fs::read(&made).unwrap();
    fs::remove_dir_all(folder.path().join("piton.db-locks")).unwrap();
    fs::remove_file(made).unwrap();
    store[63] = 2;
    refused(&store, |error| matches!(error, StoreError::Newer { found: 2, known: 1, .. }));
    store[63] = 1;
    store[70] ^= 1;
    refused(&store, damaged);
}

/// SQLite would replay the log of a file that is gone into a new one.
#[test]
fn a_log_without_its_file_is_damage() {
    let folder = scratch::folder();
    let path = folder.path().join("piton.db");
    fs::write(folder.path().join("piton.db-wal"), "frames").unwrap();
    for mode in [Mode::Existing, Mode::Create] {
        let error = SqlStore::sqlite(&path, mode).map(|_| "opened").unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    }
    assert!(!path.exists());
}

#[test]
fn who_creates_at_once_agrees_on_one_store() {
    for _ in 0..20 {
        let folder = scratch::folder();
        let path = folder.path().join("piton.db");
        let store = || SqlStore::sqlite(&path, Mode::Create).unwrap();
        let epochs = thread::scope(|scope| {
            let claim = || {
                let store = store();
                let request = piton_core::ClaimRequest {
                    partition: format!("{:?}", thread::current().id()),
                    ..scratch::request()
                };
                assert!(matches!(
                    block_on(store.claim(request)).unwrap(),
                    piton_core::ClaimAnswer::Granted { .. }
                ));
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
            for thread in threads {
                thread.join().unwrap();
            }
            block_on(store().snapshot()).unwrap().epochs
        });
        assert_eq!(epochs.len(), 4, "every claim is in the one store");
    }
}

/// A connection as the `sqlite3` shell has it: with triggers, without anything of ours.
fn shell(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

/// Invariant 2: deleting a checkpoint by hand is a reset, recorded and ordered as one, also while
/// the pipeline runs; whoever runs it cannot go on from what is gone.
#[test]
fn deleting_a_checkpoint_by_hand_is_a_reset() {
    let folder = scratch::folder();
    let path = small(&folder);
    let store = existing(&path).unwrap();
    let claim = scratch::claim(&store);
    let mut with_state = scratch::save("0", 3, 4);
    with_state.state = vec![piton_core::StateEntry { key: "k".into(), json: Some("1".into()) }];
    let key = with_state.key.clone();
    assert!(
        block_on(store.save(&claim, vec![with_state], Timestamp::now())).unwrap()[0].is_stored()
    );

    let deleted = shell(&path)
        .execute("DELETE FROM checkpoints WHERE pipeline = 'orders' AND partition = '0'", []);
    assert_eq!(deleted, Ok(1));
    let left = block_on(store.load("orders")).unwrap();
    assert_eq!((left.len(), left[0].key.partition.as_str()), (1, "1"), "the manifest agrees");
    assert_eq!(block_on(store.state(&key, None)).unwrap(), []);
    let orders = block_on(store.orders("orders")).unwrap();
    assert_eq!(orders.len(), 1);
    assert_eq!((orders[0].kind, orders[0].who.as_str()), (OrderKind::Reset, "sql shell"));
    assert_eq!((orders[0].partition.as_str(), orders[0].sink.as_str()), ("0", "out"));
    let event = &block_on(store.events("orders", 1)).unwrap()[0];
    assert_eq!((event.what.as_str(), event.who.as_str()), ("reset", "sql shell"));
    assert_eq!(block_on(store.history("orders", 1)).unwrap()[0].version, 4);

    let next = block_on(store.save(&claim, vec![scratch::save("0", 4, 5)], Timestamp::now()));
    assert_eq!(next.unwrap(), [Saved::Mismatch { stored: None }]);
    block_on(store.applied(&claim, vec![orders[0].id], Timestamp::now())).unwrap();
    assert_eq!(block_on(store.orders("orders")).unwrap(), []);
    scratch::advance(&store, &claim, "0", 2);

    shell(&path).execute("DELETE FROM checkpoints", []).unwrap();
    assert_eq!(block_on(store.load("orders")).unwrap(), []);
    assert_eq!(block_on(store.orders("orders")).unwrap().len(), 2);
    let taken = block_on(store.snapshot()).unwrap();
    assert_eq!((taken.checkpoints.len(), taken.orders.len()), (0, 3));
}

#[test]
fn what_must_not_be_done_by_hand_says_what_to_do_instead() {
    let folder = scratch::folder();
    let path = small(&folder);
    let before = block_on(existing(&path).unwrap().snapshot()).unwrap();
    let shell = shell(&path);
    for (sql, hint) in [
        ("UPDATE checkpoints SET position = '9'", "piton rewind"),
        ("UPDATE checkpoints SET version = 9, checksum = 9", "piton rewind"),
        ("INSERT INTO checkpoints SELECT 'x', partition, sink, position, records, version, epoch,
          schema_version, updated_at, kind, sink_state, checksum FROM checkpoints", "piton rewind"),
        ("INSERT OR REPLACE INTO checkpoints SELECT * FROM checkpoints", "piton rewind"),
        ("UPDATE claims SET epoch = 0", "leave them alone"),
        ("DELETE FROM claims", "leave them alone"),
    ] {
        let refused = shell.execute(sql, []).unwrap_err().to_string();
        assert!(refused.contains(hint), "{sql}: {refused}");
    }
    drop(shell);
    assert_eq!(block_on(existing(&path).unwrap().snapshot()).unwrap(), before);
}

/// Invariant 4: rows that are missing, whoever took them, are damage and never a pipeline that
/// never ran. Each line is what one lost page, or a page as it was before, can take away.
#[test]
fn what_is_missing_is_damage() {
    for (sql, ask) in [
        ("DELETE FROM checkpoints", "load"),
        ("DELETE FROM checkpoints WHERE partition = '1'", "load"),
        ("DELETE FROM manifest", "load"),
        ("DELETE FROM manifest; DELETE FROM checkpoints", "load"),
        ("UPDATE manifest SET rows = 0, checksum = 0; DELETE FROM checkpoints", "claim"),
        ("DELETE FROM claims", "claim"),
        ("DELETE FROM orders", "orders"),
        ("UPDATE orders SET applied_at = at", "orders"),
        ("UPDATE orders SET checksum = NULL", "orders"),
        ("DELETE FROM state", "state"),
        ("DELETE FROM dead_letters", "dead letters"),
        ("DELETE FROM pipelines", "pipelines"),
        ("DROP TRIGGER checkpoint_deleted", "open"),
        ("DROP INDEX history_by_pipeline", "open"),
    ] {
        let folder = scratch::folder();
        let path = small(&folder);
        fill(&path);
        let vandal = Connection::open(&path).unwrap();
        let triggers = rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
        vandal.set_db_config(triggers, false).unwrap();
        vandal.execute_batch(sql).unwrap();
        drop(vandal);
        let found = existing(&path).and_then(|store| look(&store, ask));
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "{sql}: {found:?}");
    }
}

/// Asks for one thing; the answer does not matter.
fn look(store: &SqlStore, what: &str) -> Result<(), StoreError> {
    let key = piton_core::CheckpointKey::new("orders", "0", "out");
    match what {
        "load" => block_on(store.load("orders")).map(drop),
        "claim" => block_on(store.claim(scratch::request())).map(drop),
        "orders" => block_on(store.orders("orders")).map(drop),
        "state" => block_on(store.state(&key, Some("none"))).map(drop),
        "dead letters" => block_on(store.dead_letters("orders")).map(drop),
        "pipelines" => block_on(store.pipelines()).map(drop),
        _ => Ok(()),
    }
}

/// Something in the tables that `small` leaves empty.
fn fill(path: &Path) {
    let store = existing(path).unwrap();
    let claim = scratch::claim(&store);
    let mut save = scratch::save("0", 3, 4);
    save.state = vec![piton_core::StateEntry { key: "k".into(), json: Some("1".into()) }];
    assert!(block_on(store.save(&claim, vec![save], Timestamp::now())).unwrap()[0].is_stored());
    block_on(store.register(piton_core::PipelineRecord {
        pipeline: "orders".into(),
        source: "{}".into(),
        transforms: "[]".into(),
        sinks: "{}".into(),
        control: piton_core::Control::Run,
        file: None,
    }))
    .unwrap();
    let event = piton_core::Event {
        id: 0,
        pipeline: "orders".into(),
        at: Timestamp::UNIX_EPOCH,
        who: "ann".into(),
        what: "reset".into(),
        detail: String::new(),
    };
    let order = piton_core::Order {
        id: 0,
        pipeline: "orders".into(),
        partition: "7".into(),
        sink: "out".into(),
        kind: OrderKind::Reset,
        position: None,
        records: 0,
        sink_state: None,
        output: None,
        who: "ann".into(),
        at: Timestamp::UNIX_EPOCH,
        applied_at: None,
    };
    block_on(store.order(vec![order], event)).unwrap();
    block_on(store.set_aside(vec![piton_core::DeadLetter {
        pipeline: "orders".into(),
        sink: "out".into(),
        id: "0@1".into(),
        partition: "0".into(),
        place: "line 1".into(),
        reason: "bad".into(),
        record: "x".into(),
        at: Timestamp::UNIX_EPOCH,
    }]))
    .unwrap();
    block_on(store.release(&claim)).unwrap();
}

/// Invariant 3: a backup put in the store's place is a store whose owners of before are fenced.
#[test]
fn a_backup_is_a_store_of_its_own() {
    let folder = scratch::folder();
    let path = small(&folder);
    fill(&path);
    let store = existing(&path).unwrap();
    let old = scratch::claim(&store);
    let copy = folder.path().join("copy.db");
    piton_stores::backup_to(&store, &copy).unwrap();
    let again = piton_stores::backup_to(&store, &copy);
    assert!(matches!(again, Err(StoreError::Refused { .. })), "{again:?}");

    let of_store = block_on(store.snapshot()).unwrap();
    let backup = existing(&copy).unwrap();
    let of_backup = block_on(backup.snapshot()).unwrap();
    assert_eq!(of_backup.checkpoints, of_store.checkpoints);
    assert_eq!(
        (of_backup.orders, of_backup.dead_letters),
        (of_store.orders, of_store.dead_letters)
    );
    let late = block_on(backup.save(&old, vec![scratch::save("0", 4, 5)], Timestamp::now()));
    assert!(matches!(late.unwrap()[0], Saved::Fenced { .. }));
}

/// A transaction that another program leaves open is waited for, and then named.
#[test]
fn a_store_locked_by_a_stranger_is_busy() {
    let folder = scratch::folder();
    let path = small(&folder);
    let store = existing(&path).unwrap();
    let claim = scratch::claim(&store);
    let stranger = shell(&path);
    stranger.execute_batch("BEGIN IMMEDIATE").unwrap();
    let busy = block_on(store.save(&claim, vec![scratch::save("0", 3, 4)], Timestamp::now()));
    assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
    stranger.execute_batch("COMMIT").unwrap();
    let saved = block_on(store.save(&claim, vec![scratch::save("0", 3, 4)], Timestamp::now()));
    assert!(saved.unwrap()[0].is_stored());
}

/// SQLite would go on writing into a file that has no name any more.
#[test]
#[cfg(unix)]
fn a_store_that_disappears_stores_nothing_more() {
    for replaced in [false, true] {
        let folder = scratch::folder();
        let path = small(&folder);
        let store = existing(&path).unwrap();
        let claim = scratch::claim(&store);
        let copy = folder.path().join("copy.db");
        piton_stores::backup_to(&store, &copy).unwrap();
        if replaced {
            fs::rename(&copy, &path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let next = block_on(store.save(&claim, vec![scratch::save("0", 3, 4)], Timestamp::now()));
        assert!(matches!(next, Err(StoreError::Unusable { .. })), "{next:?}");
        let renewed = block_on(store.renew(&claim));
        assert!(matches!(renewed, Err(StoreError::Unusable { .. })), "{renewed:?}");
    }
}

/// One save of 1,000 partitions is one transaction. Run with `--nocapture` to see what it takes, on
/// the disk that holds the temporary folder.
#[test]
fn a_thousand_partitions_are_saved_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqlStore::sqlite(&folder.path().join("piton.db"), Mode::Create).unwrap();
    let claim = scratch::claim(&store);
    let mut times = Vec::new();
    for version in 0..20 {
        let next = (0..1000)
            .map(|n| scratch::save(&format!("partition-{n}"), version, version + 1))
            .collect();
        let begin = Instant::now();
        let saved = block_on(store.save(&claim, next, Timestamp::now())).unwrap();
        times.push(begin.elapsed());
        assert!(saved.iter().all(|saved| *saved == Saved::Stored { version: version + 1 }));
    }
    times.sort();
    println!("save of 1,000 partitions: median {:?}, slowest {:?}", times[10], times[19]);
    drop(store);
    let begin = Instant::now();
    let store = existing(&folder.path().join("piton.db")).unwrap();
    println!("opening it: {:?}", begin.elapsed());
    let begin = Instant::now();
    assert_eq!(block_on(store.load("orders")).unwrap().len(), 1000);
    println!("loading it: {:?}", begin.elapsed());
    assert!(times[10] < Duration::from_secs(1));
}
