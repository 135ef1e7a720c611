//! SIGTERM and Ctrl-C: drain, save, say how to go on; a second one ends at once.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    time::Duration,
};

use piton_testkit::{Running, program::PATIENCE};

use crate::place::{Place, Sink, data};

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
            running.interrupt().unwrap();
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
    // The sink hangs in its write: the first signal cannot drain.
    let place = Place::new(5_000);
    let sink = Sink::Jsonl;
    let running = at_work(&place, sink);
    let person = rusqlite::Connection::open(place.path("piton.db")).unwrap();
    person.execute_batch("BEGIN IMMEDIATE").unwrap();
    running.terminate().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    running.interrupt().unwrap();
    let began = std::time::Instant::now();
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
        let place = Place::new(1_000);
        let source = "source: {csv: {path: data.csv, follow: true}}";
        place.configure_source(source, &format!("sinks: {{out: {{{}}}}}", sink.yaml()));
        let wanted = |place: &Place| place.source().len();
        let mut running = place.traced().start(RUN).unwrap();
        let all = wanted(&place);
        running.until("all rows", PATIENCE, |_| place.rows_in(sink) == all).unwrap();
        let mut growing = OpenOptions::new().append(true).open(place.path("data.csv")).unwrap();
        growing.write_all(data(1_000..2_000).as_bytes()).unwrap();
        let all = wanted(&place);
        running.until("what was added", PATIENCE, |_| place.rows_in(sink) == all).unwrap();
        running.terminate().unwrap();
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{sink:?}: {ended}");
        place.exactly_once(sink);
        assert_eq!(place.acknowledged(), all);
        fs::remove_file(place.path("trace")).unwrap();
    }
}
