//! The program dies, or sleeps past its lease.

use std::{thread, time::Duration};

use piton_core::fault::POINTS;
use piton_testkit::{Dice, program::PATIENCE};

use crate::place::{Place, RUN, Sink};

const ROWS: u64 = 5_000;

/// Invariants 1 and 5: whatever the moment, the next run of the same command leaves each record's
/// effect exactly once.
#[test]
fn killed_anywhere_an_append_is_exactly_once() {
    sweep(Sink::Append);
}

#[test]
fn killed_anywhere_an_upsert_is_exactly_once() {
    sweep(Sink::Upsert);
}

fn sweep(sink: Sink) {
    let mut dice = Dice::new();
    // A run as short as this one renews no claim.
    for point in POINTS.iter().copied().filter(|point| *point != "renew") {
        for hit in [1, 2, dice.between(3, 8)] {
            let Some(place) = Place::configured(ROWS, sink) else { return };
            let context = format!("{sink:?} at {point}:{hit}");
            let is_late = matches!(point, "recover" | "shutdown" | "save.before" | "save.after");
            match place.program.strike(RUN, point, hit) {
                Ok(_) => {}
                Err(_) if is_late && hit > 2 => continue,
                Err(error) => panic!("{context}: {error}"),
            }
            if dice.between(0, 1) == 1 {
                // A second crash, during the recovery.
                place.program.strike(RUN, "recover", dice.between(1, 2)).unwrap();
            }
            place.ends_with(0, RUN);
            place.exactly_once(sink);
        }
    }
}

#[test]
fn ten_kills_of_a_busy_run() {
    let mut dice = Dice::new();
    let Some(place) = Place::new(300_000) else { return };
    let (append, upsert) = (Sink::Append.yaml(&place.url), Sink::Upsert.yaml(&place.url));
    let sinks = format!("sinks: {{append: {{{append}}}, upsert: {{{upsert}}}}}");
    place.configure("", &format!("{sinks}\ncheckpoint: {{max_replay: 50ms, max_overhead: 50%}}"));
    for kill in 1..=10 {
        let rows = || place.rows_in(Sink::Append) + place.rows_in(Sink::Upsert);
        let begin = rows();
        let more = dice.between(1, 12_000);
        let mut running = place.program.start(RUN).unwrap();
        running
            .until("progress", PATIENCE, |_| rows() >= begin + more)
            .unwrap_or_else(|error| panic!("kill {kill}, {more} more: {error}"));
        thread::sleep(Duration::from_millis(dice.between(0, 20)));
        running.kill().unwrap_or_else(|error| panic!("kill {kill}: {error}"));
    }
    let last = place.ends_with(0, RUN);
    assert!(!last.stderr.contains("finished already"), "the last kill came too late");
    place.exactly_once(Sink::Append);
    place.exactly_once(Sink::Upsert);
}

/// Invariants 2, 4 and 5: a table that is read in ranges, by a run that is killed again and again
/// while rows are added to the table, arrives exactly once.
#[test]
fn ten_kills_of_a_table_copied_in_ranges() {
    let mut dice = Dice::new();
    let Some(place) = Place::new(0) else { return };
    let make = "CREATE TABLE source (id text, name text, value text, PRIMARY KEY (value, id));
                INSERT INTO source SELECT n, 'Ünit ' || n, n * 37 % 1000
                FROM generate_series(1, 200000) n; ANALYZE source";
    place.client().batch_execute(make).unwrap();
    let url = &place.url;
    let source =
        format!("source: {{sql: {{url: '{url}', table: source, partitions: 4}}, rate: 40000/s}}");
    let sinks = format!("sinks: {{out: {{{}}}}}", Sink::Append.yaml(url));
    let checkpoint = "checkpoint: {max_replay: 50ms, max_overhead: 50%}";
    place.write("p.yaml", &format!("pipeline: p\n{source}\n{sinks}\n{checkpoint}\n"));
    for kill in 1..=10 {
        let begin = place.rows_in(Sink::Append);
        let more = dice.between(1, 8_000);
        let mut running = place.program.start(RUN).unwrap();
        running
            .until("progress", PATIENCE, |_| place.rows_in(Sink::Append) >= begin + more)
            .unwrap_or_else(|error| panic!("kill {kill}, {more} more: {error}"));
        thread::sleep(Duration::from_millis(dice.between(0, 20)));
        running.kill().unwrap_or_else(|error| panic!("kill {kill}: {error}"));
        // Behind everything, so that whoever reads on must find it.
        let grow = format!("INSERT INTO source VALUES ({kill}, 'new', 'zz')");
        place.client().batch_execute(&grow).unwrap();
    }
    let last = place.ends_with(0, RUN);
    assert!(!last.stderr.contains("finished already"), "the last kill came too late");
    place.same_rows("SELECT id, name, value FROM source", Sink::Append);
    let partitions = "SELECT count(*) FROM piton_checkpoints WHERE position IS NOT NULL";
    assert_eq!(place.client().query_one(partitions, &[]).unwrap().get::<_, i64>(0), 4);
}

/// Invariant 3: a process that slept past its lease in the middle of a transaction has no effect
/// after its heir has read.
#[test]
fn a_sleeper_is_fenced_when_it_wakes() {
    let mut fenced = 0;
    for sink in [Sink::Append, Sink::Upsert] {
        for point in ["sink.after", "commit.before"] {
            let Some(place) = Place::new(ROWS) else { return };
            let sinks = format!("sinks: {{out: {{{}}}}}", sink.yaml(&place.url));
            place.configure(
                "",
                &format!("{sinks}\ncheckpoint: {{records: 500}}\nclaim: {{lease: 2s}}"),
            );
            let fault = format!("{point}:3=stop");
            let sleeper = place.traced().with("PITON_FAULT", &fault);
            let mut sleeper = sleeper.start(RUN).unwrap();
            let reached = |_: &_| {
                let trace = std::fs::read_to_string(place.path("trace")).unwrap_or_default();
                trace.lines().filter(|line| *line == point).count() >= 3
            };
            sleeper.until("it to sleep", PATIENCE, reached).unwrap();
            let heir = place.program.run(RUN).unwrap();
            // The keeper of the sleeper may have had the store locked: then nobody takes over.
            if heir.code != Some(0) {
                assert!(heir.stderr.contains("piton.db"), "{sink:?} at {point}: {heir}");
                continue;
            }
            place.exactly_once(sink);
            sleeper.thaw().unwrap();
            let woken = sleeper.wait(PATIENCE).unwrap();
            assert_eq!(woken.code, Some(4), "{sink:?} at {point}: {woken}");
            place.exactly_once(sink);
            fenced += 1;
        }
    }
    assert!(fenced > 0, "nobody took over in any of them");
}
