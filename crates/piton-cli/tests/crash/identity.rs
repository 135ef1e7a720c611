//! State that is not what it was: a store that is gone or older, a sink that is older, a source that
//! was rewritten, and several who share one file.
//!
//! Invariant 4: what cannot be trusted refuses to start, says what to do, and changes nothing.

use std::{fs, path::Path};

use piton_testkit::{Dice, Ledger, ledger::rows_in_sqlite, program::PATIENCE};
use rusqlite::Connection;

use crate::place::{COLUMNS, Place, Sink, each};

const ROWS: u64 = 5_000;
const RUN: &[&str] = &["run", "p.yaml"];

/// A place whose run died after some checkpoints, the last of them in the store, too.
#[track_caller]
fn half_done(sink: Sink) -> Place {
    let place = Place::to(ROWS, sink);
    let point = if sink.is_transactional() { "commit.after" } else { "save.after" };
    place.program.strike(RUN, point, 4).unwrap();
    assert!(place.rows_in(sink) > 0);
    place
}

fn remove(place: &Place, database: &str) {
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(place.path(&format!("{database}{end}")));
    }
}

/// Moves a sink's file or database out of the way, or back, or copies it.
fn each_file(place: &Place, from: &str, to: &str, act: fn(&Path, &Path)) {
    for end in ["", "-wal"] {
        let (from, to) = (place.path(&format!("{from}{end}")), place.path(&format!("{to}{end}")));
        let _ = fs::remove_file(&to);
        if from.exists() {
            act(&from, &to);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
}

/// Demands that a run is refused with these words and that it left the sink as it was.
#[track_caller]
fn refused(place: &Place, sink: Sink, words: &[&str]) {
    let before = place.rows_in(sink);
    let refused = place.ends_with(3, RUN);
    for word in words {
        assert!(refused.stderr.contains(word), "{sink:?}: '{word}' is missing: {refused}");
    }
    assert_eq!(place.rows_in(sink), before, "{sink:?}");
}

#[test]
fn a_store_that_is_gone_is_noticed_by_what_the_sink_knows() {
    each(Sink::ALL, |sink| {
        let place = half_done(sink);
        remove(&place, "piton.db");
        refused(&place, sink, &[sink.file(), "--adopt"]);
        let rows = place.rows_in(sink);
        place.ends_with(0, &["run", "p.yaml", "--adopt"]);
        if sink.is_transactional() {
            place.exactly_once(sink);
        } else if sink == Sink::Jsonl {
            // A file holds no position: all is appended to what is there.
            let report = place.source().compare(&place.held_by(sink));
            assert_eq!(report.repeated.count, rows);
        }
    });
}

#[test]
fn an_older_store_is_corrected_by_the_sink() {
    each(Sink::ALL, |sink| {
        let place = half_done(sink);
        place.ends_with(0, &["backup", "copy.db"]);
        place.program.strike(RUN, "sink.middle", 3).unwrap();
        remove(&place, "piton.db");
        fs::rename(place.path("copy.db"), place.path("piton.db")).unwrap();
        place.finish();
        place.exactly_once(sink);
    });
}

#[test]
fn an_older_sink_is_refused_until_somebody_decides() {
    each(Sink::ALL, |sink| {
        let place = half_done(sink);
        each_file(&place, sink.file(), "older", copy);
        place.finish();
        each_file(&place, sink.file(), "newest", copy);
        each_file(&place, "older", sink.file(), copy);
        refused(&place, sink, &[sink.file(), "piton reset"]);

        // Put back what was there:
        each_file(&place, "newest", sink.file(), copy);
        assert!(place.finish().stderr.contains("finished already"));
        place.exactly_once(sink);

        // or go on from what the older one holds, where it says what that is:
        each_file(&place, "older", sink.file(), copy);
        if sink.is_transactional() {
            place.ends_with(0, &["run", "p.yaml", "--adopt"]);
            place.exactly_once(sink);
            each_file(&place, "older", sink.file(), copy);
        }

        // or begin anew.
        let how: &[&str] = if sink == Sink::Upsert { &[] } else { &["--truncate"] };
        place.ends_with(0, &[&["reset", "p", "--yes"], how].concat());
        place.finish();
        place.exactly_once(sink);
    });
}

#[test]
fn a_sink_that_is_gone_is_refused() {
    each(Sink::ALL, |sink| {
        let place = half_done(sink);
        // Its mirror in the store is at most a second behind: let it catch up.
        place.program.strike(RUN, "shutdown", 2).unwrap();
        remove(&place, sink.file());
        let refused = place.ends_with(3, RUN);
        assert!(refused.stderr.contains(sink.file()), "{refused}");
        assert!(!place.path(sink.file()).exists());
        place.ends_with(0, &["reset", "p", "--yes", "--truncate"]);
        place.finish();
        place.exactly_once(sink);
    });
}

#[test]
fn a_rewritten_source_is_refused_and_a_grown_one_goes_on() {
    for sink in [Sink::Append, Sink::Jsonl] {
        let place = half_done(sink);
        let whole = fs::read_to_string(place.path("data.csv")).unwrap();
        for text in [whole.replacen("37", "73", 1), whole[..whole.len() / 10].to_owned()] {
            place.write("data.csv", &text);
            refused(&place, sink, &["data.csv", "piton reset"]);
        }
        place.write("data.csv", &(whole + &crate::place::data(ROWS..ROWS + 1_000)));
        place.finish();
        place.exactly_once(sink);
    }
}

#[test]
fn the_store_cannot_be_the_sink() {
    let place = Place::new(10);
    fs::create_dir(place.path("there")).unwrap();
    std::os::unix::fs::symlink(place.path("there"), place.path("here")).unwrap();
    for (store, sink) in [("a.db", "./a.db"), ("there/a.db", "here/a.db")] {
        for run in ["the first", "the second"] {
            let sink = format!("sinks: {{out: {{sqlite: {{path: {sink}, table: t}}}}}}");
            place.configure(&format!("store: \"sqlite:{store}\"\n{sink}"));
            let refused = place.ends_with(2, RUN);
            assert!(refused.stderr.contains("is the store"), "{run} run: {refused}");
        }
    }
}

#[test]
fn another_pipelines_store_cannot_be_the_sink() {
    let place = half_done(Sink::Jsonl);
    let before = fs::read(place.path("piton.db")).unwrap();
    let sink = "sinks: {out: {sqlite: {path: piton.db, table: t}}}";
    place.configure(&format!("store: \"sqlite:other.db\"\n{sink}"));
    let refused = place.ends_with(2, RUN);
    assert!(refused.stderr.contains("piton.db is a store of Piton"), "{refused}");
    assert_eq!(fs::read(place.path("piton.db")).unwrap(), before);
}

/// Configures a pipeline of this name that appends to a table of `out.db`.
fn appending(place: &Place, name: &str, table: &str) -> String {
    let file = format!("{name}.yaml");
    let source = "source: {csv: {path: data.csv}, rate: 60000/s}";
    let sink = format!("sinks: {{out: {{sqlite: {{path: out.db, table: {table}}}}}}}");
    let rest = "checkpoint: {records: 2000}";
    place.write(&file, &format!("pipeline: {name}\n{source}\n{sink}\n{rest}\n"));
    file
}

#[test]
fn two_pipelines_share_a_database_and_a_store_and_are_killed() {
    let mut dice = Dice::new();
    let place = Place::new(200_000);
    let pipelines =
        [(appending(&place, "first", "a"), "a"), (appending(&place, "second", "b"), "b")];
    let rows = |table: &str| rows_in_sqlite(&place.path("out.db"), table);
    for _ in 0..3 {
        let more = pipelines.each_ref().map(|(_, table)| rows(table) + dice.between(1, 30_000));
        let [mut first, second] =
            pipelines.each_ref().map(|(file, _)| place.program.start(&["run", file]).unwrap());
        // Whichever is quicker: the other one dies with it, wherever it is.
        let has_more = |_: &_| pipelines.iter().zip(more).any(|((_, t), more)| rows(t) >= more);
        first.until("progress", PATIENCE, has_more).unwrap();
        first.kill().unwrap();
        second.kill().unwrap();
    }
    let both = pipelines.each_ref().map(|(file, _)| place.program.start(&["run", file]).unwrap());
    let source = Ledger::of_csv(&place.path("data.csv"), &COLUMNS).unwrap();
    for (running, (_, table)) in both.into_iter().zip(&pipelines) {
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{table}: {ended}");
        let query = format!("SELECT id, name, value FROM {table}");
        let held = Ledger::of_sqlite(&place.path("out.db"), &query).unwrap();
        assert_eq!(source.compare(&held).exactly_once(), Ok(()), "{table}");
    }
}

#[test]
fn two_sinks_of_one_pipeline_share_a_database_and_are_killed() {
    let place = Place::new(ROWS);
    let sink = |table: &str| format!("{{sqlite: {{path: out.db, table: {table}}}}}");
    place.configure(&format!(
        "sinks: {{a: {}, t: {}}}\ncheckpoint: {{records: 500}}",
        sink("a"),
        sink("t")
    ));
    for (point, hit) in [("commit.before", 3), ("commit.after", 4), ("sink.middle", 2)] {
        place.program.strike(RUN, point, hit).unwrap();
    }
    place.finish();
    place.exactly_once(Sink::Append);
    let held = Ledger::of_sqlite(&place.path("out.db"), "SELECT id, name, value FROM a").unwrap();
    assert_eq!(place.source().compare(&held).exactly_once(), Ok(()));
}

#[test]
fn a_sink_that_is_added_begins_at_the_beginning() {
    let place = half_done(Sink::Jsonl);
    let (old, new) = (Sink::Jsonl.yaml(), Sink::Upsert.yaml());
    place.configure(&format!(
        "sinks: {{out: {{{old}}}, new: {{{new}}}}}\ncheckpoint: {{records: 500}}"
    ));
    let ended = place.finish();
    assert!(ended.stderr.contains("'new' is new"), "{ended}");
    place.exactly_once(Sink::Jsonl);
    place.exactly_once(Sink::Upsert);
}

#[test]
fn a_table_that_is_gone_or_another_is_not_gone_on_with() {
    // Invariant 4: what the checkpoint covers would be missing.
    each([Sink::Upsert, Sink::Append], |sink| {
        let place = half_done(sink);
        let rest = |table: &str| {
            let yaml = sink.yaml().replace("table: t", &format!("table: {table}"));
            format!("sinks: {{out: {{{yaml}}}}}\ncheckpoint: {{records: 500}}")
        };
        place.configure(&rest("u"));
        refused(&place, sink, &["'t'", "'u'", "piton reset p --sink out"]);
        place.configure(&rest("t"));
        let out = Connection::open(place.path("out.db")).unwrap();
        out.execute_batch("DROP TABLE t").unwrap();
        let ended = place.ends_with(3, RUN);
        assert!(ended.stderr.contains("table 't'") && ended.stderr.contains("is gone"), "{ended}");
        let keep = ["reset", "p", "--sink", "out", "--keep", "--yes"];
        place.ends_with(0, &keep);
        place.finish();
        place.exactly_once(sink);
        place.ends_with(0, &keep);
        place.configure(&rest("u"));
        place.finish();
        let rows: u64 = out.query_row("SELECT count(*) FROM u", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, place.source().len());
    });
}

#[test]
fn after_a_reset_another_source_is_read() {
    each(Sink::ALL, |sink| {
        let place = half_done(sink);
        fs::copy(place.path("data.csv"), place.path("moved.csv")).unwrap();
        let rest = format!("sinks: {{out: {{{}}}}}", sink.yaml());
        place.configure_source("source: {csv: {path: moved.csv}}", &rest);
        let ended = place.ends_with(3, RUN);
        assert!(ended.stderr.contains("piton reset p"), "{ended}");
        place.ends_with(0, &["reset", "p", "--truncate", "--yes"]);
        place.finish();
        place.exactly_once(sink);
    });
}
