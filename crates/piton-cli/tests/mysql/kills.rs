//! The program dies, or sleeps past its lease.

use std::{thread, time::Duration};

use mysql::prelude::Queryable as _;
use piton_core::fault::POINTS;
use piton_testkit::{Dice, Ledger, program::PATIENCE};

use crate::place::{Family, Place, RUN, Sink};

const ROWS: u64 = 5_000;

/// Invariants 1 and 5: whatever the moment, the next run of the same command leaves each record's
/// effect exactly once.
#[test]
fn killed_anywhere_it_is_exactly_once_on_mysql() {
    sweep(Family::MySql);
}

#[test]
fn killed_anywhere_it_is_exactly_once_on_mariadb() {
    sweep(Family::MariaDb);
}

fn sweep(family: Family) {
    let mut dice = Dice::new();
    let Some(server) = family.shared() else { return };
    // A run as short as this one renews no claim.
    for point in POINTS.iter().copied().filter(|point| *point != "renew") {
        for (sink, hit) in
            [(Sink::Append, 1), (Sink::Upsert, 2), (Sink::Append, dice.between(3, 8))]
        {
            let place = Place::on(server, ROWS);
            place.configure_to(sink, "");
            let context = format!("{family:?}, {sink:?} at {point}:{hit}");
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
    for family in Family::BOTH {
        let mut dice = Dice::new();
        let Some(server) = family.shared() else { return };
        let place = Place::on(server, 200_000);
        let (append, upsert) = (Sink::Append.yaml(&place.url), Sink::Upsert.yaml(&place.url));
        let sinks = format!("sinks: {{append: {{{append}}}, upsert: {{{upsert}}}}}");
        let often = "checkpoint: {max_replay: 50ms, max_overhead: 50%}";
        place.configure("", &format!("{sinks}\n{often}"));
        for kill in 1..=10 {
            let rows = || place.rows_in(Sink::Append) + place.rows_in(Sink::Upsert);
            let begin = rows();
            let more = dice.between(1, 8_000);
            let mut running = place.program.start(RUN).unwrap();
            running
                .until("progress", PATIENCE, |_| rows() >= begin + more)
                .unwrap_or_else(|error| panic!("{family:?}, kill {kill}, {more} more: {error}"));
            thread::sleep(Duration::from_millis(dice.between(0, 20)));
            running.kill().unwrap_or_else(|error| panic!("{family:?}, kill {kill}: {error}"));
        }
        let last = place.ends_with(0, RUN);
        assert!(!last.stderr.contains("finished already"), "the last kill came too late");
        place.exactly_once(Sink::Append);
        place.exactly_once(Sink::Upsert);
    }
}

/// Invariant 5, and what triggers do: a row that changes runs them once and another never, through
/// kills and when all is written again.
#[test]
fn killed_again_and_again_each_changed_row_runs_its_triggers_once() {
    for family in Family::BOTH {
        let mut dice = Dice::new();
        let Some(server) = family.shared() else { return };
        let place = Place::on(server, 40_000);
        let often = "checkpoint: {max_replay: 50ms, max_overhead: 50%}";
        place.configure_to(Sink::Upsert, "");
        place.ends_with(0, RUN);
        place.ends_with(0, &["reset", "p", "--yes"]);
        for statement in [
            // Every third is another, every fifth is not there.
            "UPDATE upserted SET name = UPPER(name) WHERE id % 3 = 0",
            "DELETE FROM upserted WHERE id % 5 = 0",
            "CREATE TABLE fired (what VARCHAR(9), id INT)",
            "CREATE TRIGGER au AFTER UPDATE ON upserted FOR EACH ROW
             INSERT INTO fired VALUES ('update', NEW.id)",
            "CREATE TRIGGER ai AFTER INSERT ON upserted FOR EACH ROW
             INSERT INTO fired VALUES ('insert', NEW.id)",
        ] {
            place.run_sql(statement);
        }
        let sinks = format!("sinks: {{out: {{{}}}}}", Sink::Upsert.yaml(&place.url));
        place.configure("", &format!("{sinks}\n{often}"));
        let fired = || place.ledger("SELECT what, id, '' FROM fired");
        let count = || -> u64 {
            let counted = place.conn().query_first("SELECT COUNT(*) FROM fired").unwrap();
            counted.unwrap_or_default()
        };
        for kill in 1..=8 {
            let begin = count();
            let more = dice.between(1, 1_500);
            let mut running = place.program.start(RUN).unwrap();
            running
                .until("progress", PATIENCE, |_| count() >= begin + more)
                .unwrap_or_else(|error| panic!("{family:?}, kill {kill}, {more} more: {error}"));
            thread::sleep(Duration::from_millis(dice.between(0, 20)));
            running.kill().unwrap_or_else(|error| panic!("{family:?}, kill {kill}: {error}"));
        }
        let last = place.ends_with(0, RUN);
        assert!(!last.stderr.contains("finished already"), "the last kill came too late");
        place.exactly_once(Sink::Upsert);
        let mut wanted = Ledger::default();
        for id in 0..40_000 {
            if id % 5 == 0 {
                wanted.add(["insert".to_owned(), id.to_string(), String::new()]);
            } else if id % 3 == 0 {
                wanted.add(["update".to_owned(), id.to_string(), String::new()]);
            }
        }
        wanted.compare(&fired()).exactly_once().unwrap_or_else(|report| panic!("{report}"));
        place.ends_with(0, &["reset", "p", "--yes"]);
        place.ends_with(0, RUN);
        wanted.compare(&fired()).exactly_once().unwrap_or_else(|report| panic!("{report}"));
    }
}

/// Invariants 2 and 5: a table that is read by its key, by a run that is killed again and again while
/// rows are added behind, arrives exactly once.
#[test]
fn ten_kills_of_a_table_copied() {
    for family in Family::BOTH {
        let mut dice = Dice::new();
        let Some(server) = family.shared() else { return };
        let place = Place::on(server, 0);
        place.run_sql(
            "CREATE TABLE source (id VARCHAR(9), name TEXT, value VARCHAR(9),
             PRIMARY KEY (value, id))",
        );
        for from in (0..100_000).step_by(5_000) {
            let row = |n: u64| format!("('{n}', 'Ünit \"{n}\"', '{:03}')", n * 37 % 1000);
            let rows: Vec<String> = (from..from + 5_000).map(row).collect();
            place.run_sql(&format!("INSERT INTO source VALUES {}", rows.join(", ")));
        }
        let source = format!("source: {{sql: {{url: '{}', table: source}}}}", place.url);
        let sinks = format!("sinks: {{out: {{{}}}}}", Sink::Append.yaml(&place.url));
        let often = "checkpoint: {max_replay: 50ms, max_overhead: 50%}";
        place.write("p.yaml", &format!("pipeline: p\n{source}\n{sinks}\n{often}\n"));
        for kill in 1..=10 {
            let begin = place.rows_in(Sink::Append);
            let more = dice.between(1, 4_000);
            let mut running = place.program.start(RUN).unwrap();
            running
                .until("progress", PATIENCE, |_| place.rows_in(Sink::Append) >= begin + more)
                .unwrap_or_else(|error| panic!("{family:?}, kill {kill}, {more} more: {error}"));
            thread::sleep(Duration::from_millis(dice.between(0, 20)));
            running.kill().unwrap_or_else(|error| panic!("{family:?}, kill {kill}: {error}"));
            // Behind everything, so that whoever reads on must find it.
            place.run_sql(&format!("INSERT INTO source VALUES ('{kill}', 'new', 'zz')"));
        }
        let last = place.ends_with(0, RUN);
        assert!(!last.stderr.contains("finished already"), "the last kill came too late");
        place.same_rows("SELECT id, name, value FROM source", Sink::Append);
    }
}

/// Invariant 3: a process that slept past its lease in the middle of a transaction has no effect
/// after its heir has read.
#[test]
fn a_sleeper_is_fenced_when_it_wakes() {
    for (family, sink, point) in [
        (Family::MySql, Sink::Append, "sink.after"),
        (Family::MySql, Sink::Upsert, "commit.before"),
        (Family::MariaDb, Sink::Append, "commit.before"),
        (Family::MariaDb, Sink::Upsert, "sink.after"),
    ] {
        let Some(server) = family.shared() else { return };
        let place = Place::on(server, ROWS);
        place.configure_to(sink, "claim: {lease: 2s}");
        let fault = format!("{point}:3=stop");
        let mut sleeper = place.traced().with("PITON_FAULT", &fault).start(RUN).unwrap();
        let reached = |_: &_| {
            let trace = std::fs::read_to_string(place.path("trace")).unwrap_or_default();
            trace.lines().filter(|line| *line == point).count() >= 3
        };
        sleeper.until("it to sleep", PATIENCE, reached).unwrap();
        let heir = place.program.run(RUN).unwrap();
        // The keeper of the sleeper may have had the store locked: then nobody takes over.
        if heir.code != Some(0) {
            assert!(heir.stderr.contains("piton.db"), "{family:?}, {sink:?} at {point}: {heir}");
            continue;
        }
        place.exactly_once(sink);
        sleeper.thaw().unwrap();
        let woken = sleeper.wait(PATIENCE).unwrap();
        assert_eq!(woken.code, Some(4), "{family:?}, {sink:?} at {point}: {woken}");
        place.exactly_once(sink);
    }
}
