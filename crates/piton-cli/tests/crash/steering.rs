//! Pause, cancel, reset and rewind of a pipeline under fire.
//!
//! Invariants 2 and 4: a position goes back only by an order, and an order that a crash interrupts is
//! carried out once.

use std::{fs, thread, time::Duration};

use piton_testkit::{Running, program::PATIENCE};
use rusqlite::Connection;

use crate::place::{Place, Sink, each};

const ROWS: u64 = 5_000;
const RUN: &[&str] = &["run", "p.yaml"];

/// A run of some seconds that has delivered something.
#[track_caller]
fn at_work(place: &Place, sink: Sink) -> Running {
    place.configure_slow(2_000, &settings(sink));
    let mut running = place.program.start(RUN).unwrap();
    running.until("its first rows", PATIENCE, |_| place.rows_in(sink) > 0).unwrap();
    running
}

fn settings(sink: Sink) -> String {
    format!("sinks: {{out: {{{}}}}}\ncheckpoint: {{records: 500}}", sink.yaml())
}

fn state(place: &Place) -> String {
    place.status()["state"].as_str().unwrap().to_owned()
}

/// Waits until a sink has stood still for some time; gives how many rows it then has.
fn settled(place: &Place, sink: Sink) -> u64 {
    loop {
        let before = place.rows_in(sink);
        thread::sleep(Duration::from_millis(600));
        if place.rows_in(sink) == before {
            return before;
        }
    }
}

/// Processor time that a process has used, in hundredths of a second.
#[cfg(target_os = "linux")]
fn ticks(running: &Running) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", running.id())).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_paused_run_idles_and_goes_on() {
    each(Sink::ALL, |sink| {
        let place = Place::new(ROWS);
        let running = at_work(&place, sink);
        place.ends_with(0, &["pause", "p.yaml"]);
        let rows = settled(&place, sink);
        assert!(rows < place.source().len(), "{sink:?}: it had finished before it was paused");
        assert_eq!(state(&place), "paused");
        // All of what was taken is saved: an hour's pause puts nothing at risk.
        assert_eq!(place.status()["run"]["sinks"][0]["at_risk"], 0, "{sink:?}");
        #[cfg(target_os = "linux")]
        {
            let before = ticks(&running);
            thread::sleep(Duration::from_secs(1));
            let used = ticks(&running) - before;
            assert!(used <= 10, "{sink:?}: {used} hundredths of a second in a second of pause");
        }
        assert_eq!(place.rows_in(sink), rows);
        place.ends_with(0, &["resume", "p"]);
        assert_eq!(running.wait(PATIENCE).unwrap().code, Some(0));
        place.exactly_once(sink);
    });
}

#[test]
fn killed_while_paused_the_next_run_waits_to_be_resumed() {
    let sink = Sink::Append;
    let place = Place::new(ROWS);
    let running = at_work(&place, sink);
    place.ends_with(0, &["pause", "p"]);
    let rows = settled(&place, sink);
    running.kill().unwrap();
    place.configure(&settings(sink));
    let mut next = place.program.start(RUN).unwrap();
    next.until("it to say so", PATIENCE, |next| next.stderr().contains("is paused")).unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(place.rows_in(sink), rows);
    place.ends_with(0, &["resume", "p"]);
    assert_eq!(next.wait(PATIENCE).unwrap().code, Some(0));
    place.exactly_once(sink);
}

#[test]
fn a_paused_run_can_be_asked_to_stop() {
    let sink = Sink::Jsonl;
    let place = Place::new(ROWS);
    let running = at_work(&place, sink);
    place.ends_with(0, &["pause", "p"]);
    settled(&place, sink);
    running.terminate().unwrap();
    assert_eq!(running.wait(PATIENCE).unwrap().code, Some(1));
    place.ends_with(0, &["resume", "p"]);
    place.finish();
    place.exactly_once(sink);
}

#[test]
fn cancelled_it_drains_and_runs_only_again_when_told() {
    each([Sink::Upsert, Sink::Jsonl], |sink| {
        let place = Place::new(ROWS);
        let running = at_work(&place, sink);
        place.ends_with(0, &["cancel", "p"]);
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(1), "{ended}");
        assert!(ended.stderr.contains("piton run p.yaml --again"), "{ended}");
        let rows = place.rows_in(sink);
        let refused = place.ends_with(3, RUN);
        assert!(refused.stderr.contains("--again"), "{refused}");
        assert_eq!(place.rows_in(sink), rows);
        place.configure(&settings(sink));
        place.ends_with(0, &["run", "p.yaml", "--again"]);
        place.exactly_once(sink);
    });
}

#[test]
fn nothing_goes_back_while_it_runs() {
    let sink = Sink::Upsert;
    let place = Place::new(ROWS);
    let running = at_work(&place, sink);
    let reset: &[&str] = &["reset", "p", "--yes"];
    for command in [reset, &["rewind", "p", "--to", "1", "--yes"]] {
        let refused = place.ends_with(4, command);
        assert!(refused.stderr.contains("is running"), "{refused}");
    }
    assert_eq!(running.wait(PATIENCE).unwrap().code, Some(0));
    place.exactly_once(sink);
}

/// A finished place that stood at the returned version when it was asked to stop on its way.
#[track_caller]
fn finished_in_two_runs(sink: Sink) -> (Place, String, u64) {
    let place = Place::new(ROWS);
    let running = at_work(&place, sink);
    running.terminate().unwrap();
    running.wait(PATIENCE).unwrap();
    let version = place.status()["checkpoints"][0]["version"].to_string();
    let rows = place.rows_in(sink);
    place.configure(&settings(sink));
    place.finish();
    place.exactly_once(sink);
    (place, version, rows)
}

#[test]
fn after_a_rewind_an_upsert_gives_the_same_table() {
    let (place, version, rows) = finished_in_two_runs(Sink::Upsert);
    // A row that the rewind will see again, and one that it will not.
    let table = Connection::open(place.path("out.db")).unwrap();
    table.execute_batch("UPDATE t SET name = 'wrong' WHERE id IN ('3', '4999')").unwrap();
    place.ends_with(0, &["rewind", "p", "--to", &version, "--yes"]);
    let ended = place.finish();
    assert!(!ended.stderr.contains("finished already"), "{ended}");
    let held = place.source().compare(&place.held_by(Sink::Upsert));
    assert_eq!(held.foreign.examples, ["3,wrong,111"], "{rows} rows were before the rewind");
    place.ends_with(0, &["reset", "p", "--yes"]);
    place.finish();
    place.exactly_once(Sink::Upsert);
}

#[test]
fn after_a_rewind_output_is_cut_or_kept_as_told() {
    each([Sink::Append, Sink::Jsonl, Sink::Csv], |sink| {
        let (place, version, rows) = finished_in_two_runs(sink);
        let rewind = ["rewind", "p", "--to", &version, "--yes"];
        let undecided = place.ends_with(2, &rewind);
        assert!(undecided.stderr.contains("--truncate"), "{undecided}");

        place.ends_with(0, &[&rewind[..], &["--truncate"]].concat());
        place.finish();
        place.exactly_once(sink);

        place.ends_with(0, &[&rewind[..], &["--keep"]].concat());
        place.finish();
        let all = place.source();
        let report = all.compare(&place.held_by(sink));
        assert_eq!(report.repeated.count, all.len() - rows, "{sink:?}: {report}");
        assert_eq!(report.at_least_once(u64::MAX), Ok(()), "{sink:?}");
    });
}

#[test]
fn an_order_that_a_crash_interrupts_is_carried_out_once() {
    each(Sink::ALL, |sink| {
        for (point, hit) in [("recover", 1), ("recover", 2), ("sink.middle", 2)] {
            let place = Place::to(ROWS, sink);
            place.finish();
            let how: &[&str] = if sink == Sink::Upsert { &[] } else { &["--truncate"] };
            place.ends_with(0, &[&["reset", "p", "--yes"], how].concat());
            place.program.strike(RUN, point, hit).unwrap();
            place.finish();
            place.exactly_once(sink);
        }
    });
}

#[test]
fn a_checkpoint_that_is_deleted_by_hand_is_a_reset() {
    let place = Place::to(ROWS, Sink::Upsert);
    place.finish();
    let table = Connection::open(place.path("out.db")).unwrap();
    table.execute_batch("UPDATE t SET name = 'wrong' WHERE id = '3'").unwrap();
    let store = Connection::open(place.path("piton.db")).unwrap();
    store.execute_batch("DELETE FROM checkpoints WHERE pipeline = 'p'").unwrap();
    place.finish();
    place.exactly_once(Sink::Upsert);
    let events = place.json(&["history", "p", "--json"]);
    assert!(events["events"].to_string().contains("sql shell"), "{events}");
}

#[test]
fn deleted_by_hand_a_checkpoint_of_a_file_leaves_the_choice() {
    let place = Place::to(ROWS, Sink::Jsonl);
    place.finish();
    let before = fs::read(place.path("out.jsonl")).unwrap();
    let store = Connection::open(place.path("piton.db")).unwrap();
    store.execute_batch("DELETE FROM checkpoints").unwrap();
    place.ends_with(3, RUN);
    assert_eq!(fs::read(place.path("out.jsonl")).unwrap(), before);
    fs::remove_file(place.path("out.jsonl")).unwrap();
    place.finish();
    place.exactly_once(Sink::Jsonl);
}

#[test]
fn a_position_cannot_be_changed_by_hand() {
    let place = Place::to(ROWS, Sink::Upsert);
    place.finish();
    let change = |file: &str, table: &str| {
        let db = Connection::open(place.path(file)).unwrap();
        db.execute_batch(&format!("UPDATE {table} SET position = '{{\"offset\":0,\"line\":1}}'"))
    };
    let refused = change("piton.db", "checkpoints").unwrap_err().to_string();
    assert!(refused.contains("piton rewind"), "{refused}");
    assert!(place.finish().stderr.contains("finished already"));
    let refused = change("out.db", "piton_checkpoints").unwrap_err().to_string();
    assert!(refused.contains("piton rewind"), "{refused}");
    assert!(place.finish().stderr.contains("finished already"));
    // What is changed past the guard is noticed.
    let db = Connection::open(place.path("out.db")).unwrap();
    db.execute_batch("DROP TRIGGER piton_checkpoints_updated").unwrap();
    change("out.db", "piton_checkpoints").unwrap();
    let refused = place.ends_with(3, RUN);
    assert!(refused.stderr.contains("out.db"), "{refused}");
}

#[test]
fn what_was_taken_before_a_pause_is_acknowledged_during_it() {
    // The interval is not over when the pause begins: the last save comes in the middle of it.
    each([Sink::Append, Sink::Jsonl], |sink| {
        let place = Place::new(ROWS);
        let rest = settings(sink).replace("{records: 500}", "{every: 2s}");
        place.configure_slow(2_000, &rest);
        let mut running = place.traced().start(RUN).unwrap();
        let trace = place.path("trace");
        let has_taken =
            |_: &Running| fs::read_to_string(&trace).is_ok_and(|t| t.contains("sink.after"));
        running.until("records to be taken", PATIENCE, has_taken).unwrap();
        place.ends_with(0, &["pause", "p"]);
        running.until("a save", PATIENCE, |_| place.rows_in(sink) > 0).unwrap();
        settled(&place, sink);
        assert_eq!(place.acknowledged(), place.rows_in(sink), "{sink:?}");
        place.ends_with(0, &["resume", "p"]);
        assert_eq!(running.wait(PATIENCE).unwrap().code, Some(0));
        place.exactly_once(sink);
    });
}
