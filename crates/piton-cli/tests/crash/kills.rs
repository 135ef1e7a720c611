//! SIGKILL at a random progress of a run that has all the work it can take, ten times in one job.
//!
//! Two sinks of different sorts at once, each with its own checkpoint, under fixed and adaptive
//! intervals. Progress is read from a sink's own data, never from the clock.

use std::{fs, thread, time::Duration};

use piton_testkit::{Dice, Running, program::PATIENCE};
use rusqlite::{Connection, OpenFlags};

use crate::place::{Place, Sink};

const ROWS: u64 = 600_000;
const KILLS: u64 = 10;

#[test]
fn ten_kills_under_a_fixed_interval() {
    ten_kills("checkpoint: {records: 5000}");
}

#[test]
fn ten_kills_under_an_adaptive_interval() {
    ten_kills("checkpoint: {max_replay: 50ms, max_overhead: 50%}");
}

fn ten_kills(checkpoint: &str) {
    let mut dice = Dice::new();
    let place = Place::new(ROWS);
    let (database, file) = (Sink::Append.yaml(), Sink::Jsonl.yaml());
    place
        .configure(&format!("sinks: {{database: {{{database}}}, file: {{{file}}}}}\n{checkpoint}"));
    for kill in 1..=KILLS {
        let by_rows = dice.between(0, 1) == 0;
        let progress = |_: &Running| if by_rows { rows(&place) } else { bytes(&place) };
        let mut running = place.traced().start(&["run", "p.yaml"]).unwrap();
        let begin = progress(&running);
        let more = dice.between(1, if by_rows { 40_000 } else { 1_500_000 });
        running
            .until("progress", PATIENCE, |running| progress(running) >= begin + more)
            .unwrap_or_else(|error| panic!("kill {kill}, {more} more: {error}"));
        thread::sleep(Duration::from_millis(dice.between(0, 20)));
        running.kill().unwrap_or_else(|error| panic!("kill {kill}: {error}"));
        place.acknowledged_is_in(Sink::Append);
        place.acknowledged_is_in(Sink::Jsonl);
    }
    let last = place.finish();
    assert!(!last.stderr.contains("finished already"), "the last kill came too late");
    place.exactly_once(Sink::Append);
    place.exactly_once(Sink::Jsonl);
}

/// The last row of the table: no need to count them all, again and again.
fn rows(place: &Place) -> u64 {
    let last = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = Connection::open_with_flags(place.path("out.db"), flags)?;
        db.query_row("SELECT coalesce(max(rowid), 0) FROM t", [], |row| row.get::<_, i64>(0))
    };
    last().map_or(0, |row| row as u64)
}

fn bytes(place: &Place) -> u64 {
    fs::metadata(place.path("out.jsonl")).map_or(0, |about| about.len())
}
