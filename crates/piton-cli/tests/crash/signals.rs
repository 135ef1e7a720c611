//! SIGTERM and Ctrl-C: drain, save, say how to go on; a second one ends at once.

use std::{
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use piton_testkit::{Running, program::PATIENCE};
use rusqlite::Connection;

use crate::place::{Place, Sink};

const RUN: &[&str] = &["run", "p.yaml"];

/// A run of some seconds that has delivered something.
#[track_caller]
fn at_work(place: &Place, sink: Sink) -> Running {
    let rest = format!("sinks: {{out: {{{}}}}}\ncheckpoint: {{records: 500}}", sink.yaml());
    place.configure_slow(2_000, &rest);
    let mut running = place.traced().start(RUN).unwrap();
    running.until("its first rows", PATIENCE, |_| place.rows_in(sink) > 0).unwrap();
    running
}

#[test]
fn asked_to_stop_it_saves_what_it_took_and_says_how_to_resume() {
    for sink in Sink::ALL {
        let place = Place::new(5_000);
        let running = at_work(&place, sink);
        if sink.is_transactional() {
            running.terminate().unwrap();
        } else {
            // One request that arrives twice, as from `timeout`, which tells the group, too.
            running.interrupt().unwrap();
            running.terminate().unwrap();
        }
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(1), "{sink:?}: {ended}");
        assert!(ended.took < Duration::from_secs(10), "{sink:?}: {ended}");
        assert!(ended.stderr.contains("to resume, run: piton run p.yaml"), "{sink:?}: {ended}");
        // All of what was taken was saved: nothing is past the last acknowledged position.
        assert_eq!(place.acknowledged(), place.rows_in(sink), "{sink:?}: {ended}");
        place.configure(&format!("sinks: {{out: {{{}}}}}", sink.yaml()));
        place.finish();
        place.exactly_once(sink);
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    // The store is locked: the first signal cannot drain.
    let place = Place::new(5_000);
    let sink = Sink::Jsonl;
    let running = at_work(&place, sink);
    let person = Connection::open(place.path("piton.db")).unwrap();
    person.execute_batch("BEGIN IMMEDIATE").unwrap();
    running.terminate().unwrap();
    thread::sleep(Duration::from_millis(300));
    running.interrupt().unwrap();
    let began = Instant::now();
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    drop(person);
    place.finish();
    place.exactly_once(sink);
}

#[test]
fn an_endless_run_that_is_asked_to_stop_has_done_its_work() {
    for sink in Sink::ALL {
        let place = Place::new(2_000);
        let mut table = Connection::open(place.path("data.db")).unwrap();
        let columns = "(id INTEGER PRIMARY KEY, name TEXT, value TEXT)";
        table.execute_batch(&format!("CREATE TABLE data {columns}")).unwrap();
        let source = "sql: {url: \"sqlite:data.db\", table: data, key: [id], poll: 50ms}";
        let rest = format!("sinks: {{out: {{{}}}}}", sink.yaml());
        place.configure_source(&format!("source: {{{source}}}"), &rest);

        insert(&mut table, &place, 0..1_000);
        let mut running = place.program.start(RUN).unwrap();
        let kept = |rows: usize| (0..rows).filter(|id| id * 37 % 1_000 >= 100).count() as u64;
        running.until("all rows", PATIENCE, |_| place.rows_in(sink) == kept(1_000)).unwrap();
        insert(&mut table, &place, 1_000..2_000);
        running.until("the new rows", PATIENCE, |_| place.rows_in(sink) == kept(2_000)).unwrap();
        running.terminate().unwrap();
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{sink:?}: {ended}");
        place.exactly_once(sink);
    }
}

/// Puts rows of the data file into a table.
fn insert(table: &mut Connection, place: &Place, rows: Range<usize>) {
    let transaction = table.transaction().unwrap();
    let mut data = csv::Reader::from_path(place.path("data.csv")).unwrap();
    for row in data.records().skip(rows.start).take(rows.len()) {
        let row = row.unwrap();
        let insert = "INSERT INTO data VALUES (?1, ?2, ?3)";
        transaction.execute(insert, [&row[0], &row[1], &row[2]]).unwrap();
    }
    transaction.commit().unwrap();
}
