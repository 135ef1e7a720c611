//! SIGKILL of the run, at random progress and at every fault point.
//!
//! Invariants 5 and 6: from a command into a database each record is there exactly once, as long as
//! the command begins after the position; into a command none is lost, and what repeats lies after
//! the last checkpoint and has the same id.

use std::collections::BTreeMap;

use piton_core::fault::POINTS;
use piton_testkit::program::{HarnessError, PATIENCE};
use piton_testkit::{Dice, Ledger, ledger::rows_in_sqlite};

use crate::place::{Place, counted};

const RUN: &[&str] = &["run", "p.yaml"];
const DATABASE: &str = "database: {sqlite: {path: out.db, table: t, mode: append}}";
const COMMAND: &str = "taker: {command: {run: [sh, take.sh], in_flight: 500}}";
/// Records between checkpoints.
const EVERY: u64 = 500;

fn place(last: u64, sink: &str) -> Place {
    let place = Place::new();
    let source = format!("command: {{run: [sh, count.sh, \"{last}\"], key: id}}");
    place.configure(&source, sink, &format!("checkpoint: {{records: {EVERY}}}"));
    place
}

#[track_caller]
fn is_exactly_once(place: &Place, last: u64, context: &str) {
    let table = place.path("out.db");
    let held = Ledger::of_sqlite(&table, "SELECT id, name, value FROM t").unwrap();
    assert_eq!(counted(last).compare(&held).exactly_once(), Ok(()), "{context}");
}

#[test]
fn a_killed_run_goes_on_after_the_position() {
    const LAST: u64 = 300_000;
    let mut dice = Dice::new();
    let place = place(LAST, DATABASE);
    let rows = || rows_in_sqlite(&place.path("out.db"), "t");
    for kill in 1..=6 {
        let mut running = place.program.start(RUN).unwrap();
        let (before, more) = (rows(), dice.between(1, 30_000));
        running
            .until("progress", PATIENCE, |_| rows() >= before + more)
            .unwrap_or_else(|error| panic!("kill {kill}, {more} more: {error}"));
        running.kill().unwrap();
    }
    let ended = place.ends_with(0, RUN);
    assert!(ended.stderr.contains("resuming after"), "{ended}");
    is_exactly_once(&place, LAST, "six kills");
    let again = place.ends_with(0, RUN);
    assert!(again.stderr.contains("finished already"), "{again}");
}

#[test]
fn a_killed_run_gives_a_command_each_record_at_least_once() {
    const LAST: u64 = 40_000;
    const KILLS: u64 = 6;
    let mut dice = Dice::new();
    let place = place(LAST, COMMAND);
    for kill in 1..=KILLS {
        let mut running = place.program.start(RUN).unwrap();
        let (before, more) = (place.taken(), dice.between(1, 4_000));
        running
            .until("progress", PATIENCE, |_| place.taken() >= before + more)
            .unwrap_or_else(|error| panic!("kill {kill}, {more} more: {error}"));
        running.kill().unwrap();
    }
    place.ends_with(0, RUN);
    let report = counted(LAST).compare(&place.taken_by_commands());
    // What it has been given and has not answered, and what waits for a checkpoint beside that.
    assert_eq!(report.at_least_once(KILLS * 4 * EVERY), Ok(()));
}

/// A place whose first run was killed at a point, on that hit or an earlier one: in how many pieces
/// a pipe is read differs from run to run, and one that ended before the hit is no kill.
fn killed_at(last: u64, sink: &str, point: &str, mut hit: u64) -> Place {
    loop {
        let place = place(last, sink);
        match place.program.strike(RUN, point, hit) {
            Ok(_) => return place,
            Err(HarnessError::NeverReached { ended, .. }) if hit > 1 && ended.code == Some(0) => {
                hit = hit.div_ceil(2);
            }
            Err(error) => panic!("{point}:{hit}: {error}"),
        }
    }
}

#[test]
fn killed_anywhere_nothing_is_lost() {
    const LAST: u64 = 3_000;
    for (sink, is_transactional) in [(DATABASE, true), (COMMAND, false)] {
        let mut hits: BTreeMap<String, u64> = BTreeMap::new();
        let undisturbed = place(LAST, sink);
        let trace = undisturbed.path("trace").display().to_string();
        undisturbed.program.clone().with("PITON_TRACE", &trace).run_to(0, RUN).unwrap();
        for line in undisturbed.read("trace").lines() {
            *hits.entry(line.to_owned()).or_default() += 1;
        }
        let mut struck = 0;
        for point in POINTS.iter().filter(|point| hits.contains_key(**point)) {
            for hit in [1, hits[*point].div_ceil(2), hits[*point]] {
                let place = killed_at(LAST, sink, point, hit);
                let context = format!("{point}:{hit}");
                place.ends_with(0, RUN);
                struck += 1;
                if is_transactional {
                    is_exactly_once(&place, LAST, &context);
                } else {
                    let report = counted(LAST).compare(&place.taken_by_commands());
                    assert_eq!(report.at_least_once(4 * EVERY), Ok(()), "{context}");
                }
            }
        }
        assert!(struck >= 18, "{struck} points were reached: {hits:?}");
    }
}
