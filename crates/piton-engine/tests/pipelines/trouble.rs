//! Bad records, sinks that are away, and owners that come too late.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use futures_executor::block_on;
use piton_core::{ClaimAnswer, ClaimRequest, Epoch, Owner, Store, claim::WHOLE};
use piton_engine::{OnError, Outcome, RunError, run::Signal};
use piton_stores::MemoryStore;

use crate::parts::{Numbers, Server, fickle, pipeline, run, run_until, sqlite, until};

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

#[test]
fn a_bad_record_stops_the_run_and_everything_before_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(Server::default());
    let numbers = Numbers { count: 1000, bad: vec![321], ..Numbers::default() };
    let sinks = vec![sqlite("table", folder.path()), fickle("server", true, &server)];
    let error = run(&pipeline(&numbers, sinks), &store()).unwrap_err();
    assert!(matches!(error, RunError::BadRecord { .. }), "{error}");
    assert!(error.to_string().contains("number 321"), "{error}");
    assert_eq!(server.numbers(), (0..321).collect::<Vec<_>>());
    let db = rusqlite::Connection::open(folder.path().join("out.db")).unwrap();
    let rows: u64 = db.query_row("SELECT count(*) FROM numbers", [], |r| r.get(0)).unwrap();
    assert_eq!(rows, 321);
}

#[test]
fn a_bad_record_is_set_aside_once_and_the_rest_goes_on() {
    // Invariant 1: or a durable dead letter.
    let server = Arc::new(Server::default());
    *server.refuses.lock().unwrap() = Some((500, 1));
    let numbers = Numbers { count: 1000, bad: vec![0, 321, 999], ..Numbers::default() };
    let mut pipeline = pipeline(&numbers, vec![fickle("server", true, &server)]);
    pipeline.on_error = OnError::DeadLetter;
    let store = store();
    let summary = run(&pipeline, &store).unwrap();
    assert_eq!(summary.report.set_aside, 4);
    assert_eq!(summary.report.sinks[0].records, 1000);
    let letters = block_on(store.dead_letters("p")).unwrap();
    let mut ids: Vec<_> = letters.iter().map(|l| (l.sink.as_str(), l.id.as_str())).collect();
    ids.sort_unstable();
    let reading = piton_core::dead_letter::READING;
    let expected = [
        (reading, "numbers@0"),
        (reading, "numbers@321"),
        (reading, "numbers@999"),
        ("server", "numbers@500"),
    ];
    assert_eq!(ids, expected);
    assert_eq!(server.numbers().len(), 996);
}

#[test]
fn a_record_that_a_sink_refuses_is_tried_again_before_it_counts_as_bad() {
    let server = Arc::new(Server::default());
    *server.refuses.lock().unwrap() = Some((500, 3));
    let numbers = Numbers { count: 1000, ..Numbers::default() };
    let mut pipeline = pipeline(&numbers, vec![fickle("server", true, &server)]);
    pipeline.on_error = OnError::Retry { times: 3, then_dead_letter: false };
    run(&pipeline, &store()).unwrap();
    assert_eq!(server.numbers(), (0..1000).collect::<Vec<_>>());
    *server.refuses.lock().unwrap() = Some((1500, 9));
    let more = Numbers { count: 2000, ..numbers };
    let mut pipeline = crate::parts::pipeline(&more, vec![fickle("server", true, &server)]);
    pipeline.on_error = OnError::Retry { times: 2, then_dead_letter: false };
    let error = run(&pipeline, &store()).unwrap_err();
    assert!(error.to_string().contains("1500 is refused"), "{error}");
}

#[test]
fn a_sink_that_is_away_is_waited_for() {
    let server = Arc::new(Server::default());
    server.down.store(true, Ordering::Relaxed);
    let numbers = Numbers { count: 2000, ..Numbers::default() };
    let pipeline = pipeline(&numbers, vec![fickle("server", true, &server)]);
    let back = Arc::clone(&server);
    let returning = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        back.down.store(false, Ordering::Relaxed);
    });
    assert_eq!(run(&pipeline, &store()).unwrap().outcome, Outcome::Finished);
    returning.join().unwrap();
    assert_eq!(server.numbers(), (0..2000).collect::<Vec<_>>());
}

#[test]
fn a_stop_while_the_sink_is_away_ends_the_run() {
    let server = Arc::new(Server::default());
    server.down.store(true, Ordering::Relaxed);
    let numbers = Numbers { count: 2000, ..Numbers::default() };
    let pipeline = pipeline(&numbers, vec![fickle("server", true, &server)]);
    let signal = Arc::new(Signal::default());
    let stopper = Arc::clone(&signal);
    let stopping = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        stopper.stop();
    });
    let store = store();
    assert_eq!(run_until(&pipeline, &store, &signal).unwrap().outcome, Outcome::Stopped);
    stopping.join().unwrap();
    server.down.store(false, Ordering::Relaxed);
    run(&pipeline, &store).unwrap();
    assert_eq!(server.numbers(), (0..2000).collect::<Vec<_>>());
}

#[test]
fn an_owner_that_was_replaced_writes_nothing_more() {
    // Invariant 3.
    let folder = tempfile::tempdir().unwrap();
    let pause = Duration::from_millis(20);
    let numbers = Numbers { count: 100_000, pause, ..Numbers::default() };
    let pipeline = pipeline(&numbers, vec![sqlite("table", folder.path())]);
    let store = store();
    let (heir, out) = (Arc::clone(&store), folder.path().join("out.db"));
    let taking_over = thread::spawn(move || {
        until("it works", || out.exists());
        let holder = block_on(heir.holders("p")).unwrap().pop().unwrap();
        let mut request = ClaimRequest {
            pipeline: "p".to_owned(),
            partition: WHOLE.to_owned(),
            owner: Owner { host: "heir".to_owned(), pid: 2 },
            lease: Duration::from_secs(30),
            at_least: Epoch(0),
            silent: Some(holder),
            now: jiff::Timestamp::now(),
        };
        // The owner renews meanwhile: name it as it is now, until that is believed.
        loop {
            match block_on(heir.claim(request.clone())).unwrap() {
                ClaimAnswer::Granted { claim, .. } => return claim,
                ClaimAnswer::Held(holder) => request.silent = Some(holder),
            }
        }
    });
    let error = run(&pipeline, &store).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    drop(taking_over.join().unwrap());
}
