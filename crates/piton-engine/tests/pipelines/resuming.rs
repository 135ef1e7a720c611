//! Where a run begins, and what it says when there is nothing to do.

use std::{sync::Arc, thread, time::Duration};

use futures_executor::block_on;
use piton_core::{Store, interval::Policy};
use piton_engine::{Outcome, RunError, run::Signal};
use piton_stores::MemoryStore;

use crate::parts::{Numbers, Server, fickle, pipeline, run, run_until, sqlite, until};

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

#[test]
fn everything_arrives_once_and_a_second_run_has_nothing_to_do() {
    // Invariant 5.
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(Server::default());
    let numbers = Numbers { count: 2345, ..Numbers::default() };
    let sinks = vec![sqlite("table", folder.path()), fickle("server", true, &server)];
    let pipeline = pipeline(&numbers, sinks);
    let store = store();
    let first = run(&pipeline, &store).unwrap();
    assert_eq!((first.outcome, first.report.records), (Outcome::Finished, 2345));
    let second = run(&pipeline, &store).unwrap();
    assert!(second.was_finished);
    assert_eq!(server.numbers(), (0..2345).collect::<Vec<_>>());
    assert_eq!(count(folder.path()), (2345, 2345));
    let checkpoints = block_on(store.load("p")).unwrap();
    assert!(checkpoints.iter().all(|c| c.records == 2345), "{checkpoints:?}");
}

fn count(folder: &std::path::Path) -> (u64, u64) {
    let db = rusqlite::Connection::open(folder.join("out.db")).unwrap();
    let query = "SELECT count(*), count(DISTINCT n) FROM numbers";
    db.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

#[test]
fn a_source_that_has_grown_yields_what_is_new() {
    let server = Arc::new(Server::default());
    let store = store();
    for count in [100, 250] {
        let numbers = Numbers { count, ..Numbers::default() };
        run(&pipeline(&numbers, vec![fickle("s", true, &server)]), &store).unwrap();
    }
    assert_eq!(server.numbers(), (0..250).collect::<Vec<_>>());
}

#[test]
fn a_stop_drains_and_saves_and_the_next_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let pause = std::time::Duration::from_millis(2);
    let numbers = Numbers { count: 5000, pause, ..Numbers::default() };
    let pipeline = pipeline(&numbers, vec![sqlite("table", folder.path())]);
    let (store, signal) = (store(), Arc::new(Signal::default()));
    let stopper = Arc::clone(&signal);
    let out = folder.path().join("out.db");
    let stopping = thread::spawn(move || {
        until("rows are there", || out.exists());
        stopper.stop();
    });
    let summary = run_until(&pipeline, &store, &signal).unwrap();
    stopping.join().unwrap();
    assert_eq!(summary.outcome, Outcome::Stopped);
    assert!(summary.report.records < 5000);
    assert_eq!(run(&pipeline, &store).unwrap().outcome, Outcome::Finished);
    assert_eq!(count(folder.path()), (5000, 5000));
}

#[test]
fn without_checkpoints_transactions_end_as_ever_and_a_stop_still_saves() {
    let folder = tempfile::tempdir().unwrap();
    let pause = Duration::from_millis(2);
    let numbers = Numbers { count: u64::MAX, pause, ..Numbers::default() };
    let mut pipeline = pipeline(&numbers, vec![sqlite("table", folder.path())]);
    pipeline.interval = Policy::Off;
    let (store, signal) = (store(), Arc::new(Signal::default()));
    let stopper = Arc::clone(&signal);
    let out = folder.path().join("out.db");
    let seen = thread::spawn(move || {
        let mut seen = None;
        until("a transaction has committed", || {
            seen = look(&out).filter(|(rows, ..)| *rows > 0);
            seen.is_some()
        });
        stopper.stop();
        seen.unwrap()
    });
    let summary = run_until(&pipeline, &store, &signal).unwrap();
    let (_, position, _) = seen.join().unwrap();
    assert_eq!(position, None, "the checkpoint was left out");
    let (rows, position, records) = look(&folder.path().join("out.db")).unwrap();
    assert_eq!((position, records), (Some(rows.to_string()), rows));
    assert_eq!(summary.report.sinks[0].checkpoints, 1);
}

/// The rows of the table, and the position and records of its checkpoint, if they are there.
fn look(out: &std::path::Path) -> Option<(u64, Option<String>, u64)> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = rusqlite::Connection::open_with_flags(out, flags).ok()?;
    let query = "SELECT (SELECT count(*) FROM numbers), position, records FROM piton_checkpoints";
    db.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).ok()
}

#[test]
fn another_source_under_the_same_name_is_refused() {
    // Invariant 4.
    let server = Arc::new(Server::default());
    let numbers = Numbers { count: 10, ..Numbers::default() };
    let mut pipeline = pipeline(&numbers, vec![fickle("s", true, &server)]);
    let store = store();
    run(&pipeline, &store).unwrap();
    pipeline.record.source = "letters".to_owned();
    let refusal = run(&pipeline, &store).unwrap_err();
    assert!(matches!(refusal, RunError::Refused(_)), "{refusal}");
    assert!(refusal.to_string().contains("letters") && refusal.to_string().contains("numbers"));
    assert_eq!(server.numbers().len(), 10);
}

#[test]
fn a_new_sink_starts_at_the_beginning() {
    let (old, new) = (Arc::new(Server::default()), Arc::new(Server::default()));
    let numbers = Numbers { count: 1000, ..Numbers::default() };
    let store = store();
    run(&pipeline(&numbers, vec![fickle("old", true, &old)]), &store).unwrap();
    let numbers = Numbers { count: 1500, ..numbers };
    let both = vec![fickle("old", true, &old), fickle("new", true, &new)];
    run(&pipeline(&numbers, both), &store).unwrap();
    assert_eq!(old.numbers(), (0..1500).collect::<Vec<_>>());
    assert_eq!(new.numbers(), (0..1500).collect::<Vec<_>>());
}

#[test]
fn a_lost_store_is_noticed_and_can_be_adopted() {
    // Invariant 4: a missing store beside existing output.
    let folder = tempfile::tempdir().unwrap();
    let numbers = Numbers { count: 100, ..Numbers::default() };
    run(&pipeline(&numbers, vec![sqlite("table", folder.path())]), &store()).unwrap();
    let empty = store();
    let pipeline =
        pipeline(&Numbers { count: 150, ..numbers }, vec![sqlite("table", folder.path())]);
    let refusal = run(&pipeline, &empty).unwrap_err();
    assert_eq!(refusal.exit_code(), 3, "{refusal}");
    let mut options = crate::parts::options();
    options.adopt = true;
    let figures = piton_engine::run::Figures::new(["table"]);
    piton_engine::run(&pipeline, &empty, &options, &Signal::default(), &figures).unwrap();
    assert_eq!(count(folder.path()), (150, 150));
}

#[test]
fn a_pipeline_that_deletes_its_checkpoints_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let numbers = Numbers { count: 100, ..Numbers::default() };
    let mut pipeline = pipeline(&numbers, vec![sqlite("table", folder.path())]);
    pipeline.on_complete = piton_engine::OnComplete::Delete;
    let store = store();
    for _ in 0..2 {
        assert_eq!(run(&pipeline, &store).unwrap().report.records, 100);
        assert_eq!(block_on(store.load("p")).unwrap(), []);
    }
    assert_eq!(count(folder.path()), (200, 100));
    assert_eq!(block_on(store.runs("p", 10)).unwrap().len(), 2);
}

#[test]
fn a_store_from_before_goes_on_where_the_sink_is() {
    // The sink is ahead, in position and in epoch: it wins.
    let folder = tempfile::tempdir().unwrap();
    let old = store();
    let mut numbers = Numbers { count: 100, ..Numbers::default() };
    run(&pipeline(&numbers, vec![sqlite("table", folder.path())]), &old).unwrap();
    let before = block_on(old.snapshot()).unwrap();
    for _ in 0..3 {
        numbers.count += 100;
        run(&pipeline(&numbers, vec![sqlite("table", folder.path())]), &old).unwrap();
    }
    let restored = store();
    block_on(restored.restore(before)).unwrap();
    numbers.count += 100;
    run(&pipeline(&numbers, vec![sqlite("table", folder.path())]), &restored).unwrap();
    assert_eq!(count(folder.path()), (500, 500));
}
