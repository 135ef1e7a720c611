//! Resets and rewinds of output that cannot be written over: nothing is lost, and nothing is repeated
//! without a word about it.
//!
//! Invariants 1 and 2: a checkpoint never covers what was cut off, and a position goes back only as
//! it was ordered.

use std::fs;

use rusqlite::Connection;

use crate::place::{Place, Sink, data, each};

const RUN: &[&str] = &["run", "p.yaml"];
const TRUNCATE: &[&str] = &["reset", "p", "--truncate", "--yes"];
const KEEP: &[&str] = &["reset", "p", "--keep", "--yes"];

/// A finished place with two files, read one after the other.
fn of_two_files(sink: Sink) -> Place {
    let place = Place::new(4_000);
    place.write("in-1.csv", &data(0..2_000));
    place.write("in-2.csv", &format!("id,name,value\n{}", data(2_000..4_000)));
    let source = "source: {csv: {path: \"in-*.csv\"}, rate: 1500/s}";
    let rest = format!("sinks: {{out: {{{}}}}}\ncheckpoint: {{records: 100}}", sink.yaml());
    place.configure_source(source, &rest);
    place.finish();
    place.configure_source(&source.replace(", rate: 1500/s", ""), &rest);
    place
}

#[test]
fn a_cut_never_takes_what_another_partition_keeps() {
    each([Sink::Append, Sink::Jsonl, Sink::Csv], |sink| {
        let place = of_two_files(sink);
        // The moment at which the first file was done and the second had hardly begun.
        let history = place.json(&["history", "p", "--json", "--limit", "1000"]);
        let checkpoints = history["checkpoints"].as_array().unwrap();
        let first_is_done =
            |c: &&serde_json::Value| c["partition"] == "in-1.csv" && c["records"] == 2_000;
        let time = checkpoints.iter().find(first_is_done).unwrap()["updated_at"].as_str().unwrap();
        let rewind = ["rewind", "p", "--to", time, "--truncate", "--yes"];
        let ended = place.program.run(&rewind).unwrap();
        let refused = if sink == Sink::Append {
            place.ends_with(3, RUN)
        } else {
            assert_eq!(ended.code, Some(2), "{ended}");
            place.finish();
            ended
        };
        assert!(refused.stderr.contains("in-1.csv") && refused.stderr.contains("--keep"));
        place.exactly_once(sink);
        // What was ordered and cannot be done is replaced by another order.
        place.ends_with(0, TRUNCATE);
        place.finish();
        place.exactly_once(sink);
    });
}

#[test]
fn a_rewind_to_a_position_goes_to_the_last_checkpoint_before_it() {
    let sink = Sink::Jsonl;
    let place = Place::new(5_000);
    let settings = format!("sinks: {{out: {{{}}}}}\ncheckpoint: {{records: 100}}", sink.yaml());
    place.configure_slow(1_500, &settings);
    place.finish();
    let refused =
        place.ends_with(2, &["rewind", "p", "--to", "{\"lsn\":5}", "--truncate", "--yes"]);
    assert!(refused.stderr.contains("is not a position of"), "{refused}");
    let history = place.json(&["history", "p", "--json", "--limit", "1000"]);
    let checkpoints = history["checkpoints"].as_array().unwrap();
    let offsets = checkpoints.iter().filter_map(|c| c["position"]["offset"].as_u64());
    let mut offsets: Vec<u64> = offsets.collect();
    offsets.sort_unstable();
    let middle = offsets[offsets.len() / 2];
    let to = format!("{{\"offset\":{}}}", middle + 1);
    let told = place.ends_with(0, &["rewind", "p", "--to", &to, "--truncate", "--yes"]);
    assert!(told.stderr.contains(&format!("{{\"offset\":{middle},")), "{told}\n{offsets:?}");
    place.finish();
    place.exactly_once(sink);
}

#[test]
fn a_deletion_by_hand_asks_what_becomes_of_output_that_repeats() {
    each([Sink::Append, Sink::Jsonl, Sink::Csv], |sink| {
        let delete = |place: &Place| {
            let store = Connection::open(place.path("piton.db")).unwrap();
            store.execute_batch("DELETE FROM checkpoints").unwrap();
            let refused = place.ends_with(3, RUN);
            assert!(refused.stderr.contains("piton reset p --truncate"), "{sink:?}: {refused}");
            place.exactly_once(sink);
        };
        let place = Place::to(2_000, sink);
        place.finish();
        delete(&place);
        place.ends_with(0, TRUNCATE);
        place.finish();
        place.exactly_once(sink);

        delete(&place);
        place.ends_with(0, KEEP);
        place.finish();
        let held = place.source().compare(&place.held_by(sink));
        assert_eq!(held.repeated.count, place.source().len(), "{sink:?}: {held}");
    });
}

#[test]
fn what_is_kept_survives_a_crash_before_the_first_save() {
    each([Sink::Append, Sink::Jsonl, Sink::Csv], |sink| {
        let place = Place::to(2_000, sink);
        place.finish();
        place.ends_with(0, KEEP);
        place.program.strike(RUN, "sink.begin", 1).unwrap();
        place.finish();
        let held = place.source().compare(&place.held_by(sink));
        assert_eq!(held.repeated.count, place.source().len(), "{sink:?}: {held}");
    });
}

#[test]
fn what_was_there_before_is_not_cut_with_a_reset() {
    let place = Place::new(2_000);
    place.write("out.jsonl", "{\"before\":1}\n");
    place.configure("sinks: {out: {jsonl: {path: out.jsonl}}}\ncheckpoint: {records: 500}");
    place.ends_with(3, RUN);
    place.ends_with(0, &["run", "p.yaml", "--adopt"]);
    let before = fs::read(place.path("out.jsonl")).unwrap();
    place.ends_with(0, TRUNCATE);
    place.finish();
    assert_eq!(fs::read(place.path("out.jsonl")).unwrap(), before);
}
