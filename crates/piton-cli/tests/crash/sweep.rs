//! Every fault point, on the first, second and a random hit, for every sink that is exactly once;
//! every other time with a second crash during the recovery.
//!
//! Invariants 1, 5 and 6: whatever the moment, the next run of the same command leaves each record's
//! effect exactly once, and the source was never told more than the sink held.

use std::collections::BTreeMap;

use piton_core::fault::POINTS;
use piton_testkit::{Dice, program::HarnessError};

use crate::place::{Place, Sink};

const ROWS: u64 = 5_000;

/// Points that a run to this sink has no use for.
fn without(sink: Sink) -> &'static [&'static str] {
    if sink.is_transactional() {
        &[]
    } else {
        // A plain sink has no transaction of its own: its checkpoint is a save of the store.
        &["commit.before", "commit.after"]
    }
}

#[test]
fn killed_anywhere_an_upsert_is_exactly_once() {
    sweep(Sink::Upsert);
}

#[test]
fn killed_anywhere_an_append_is_exactly_once() {
    sweep(Sink::Append);
}

#[test]
fn killed_anywhere_json_lines_are_exactly_once() {
    sweep(Sink::Jsonl);
}

#[test]
fn killed_anywhere_a_csv_file_is_exactly_once() {
    sweep(Sink::Csv);
}

fn sweep(sink: Sink) {
    let mut dice = Dice::new();
    let hits = count_hits(sink);
    for point in POINTS.iter().copied().filter(|point| !without(sink).contains(point)) {
        let reached = hits.get(point).copied().unwrap_or(0);
        assert!(reached >= 2, "{sink:?}: fault point '{point}' was reached {reached} times");
        let mut chosen = vec![1, 2];
        if reached > 2 {
            chosen.push(dice.between(3, reached));
        }
        for hit in chosen {
            let has_more = hit <= 2 && point != "shutdown";
            strike(sink, point, hit, second(&mut dice, has_more));
        }
    }
    for point in without(sink) {
        assert_eq!(
            hits.get(*point),
            None,
            "{sink:?}: '{point}' is reached after all: strike there"
        );
    }
}

/// Where the recovery dies in its turn, every other time; `has_more` says that records are left.
fn second(dice: &mut Dice, has_more: bool) -> Option<(&'static str, u64)> {
    let places = [("recover", 1), ("recover", 2), ("sink.middle", 1), ("save.before", 1)];
    let among = if has_more { 3 } else { 1 };
    (dice.between(0, 1) == 1).then(|| places[dice.between(0, among) as usize])
}

/// How often each point is reached by runs that nothing disturbs.
fn count_hits(sink: Sink) -> BTreeMap<String, u64> {
    let mut hits = BTreeMap::new();
    for point in ["renew", ""] {
        let place = place(sink, point);
        place.traced().run_to(0, &["run", "p.yaml"]).unwrap();
        place.exactly_once(sink);
        let trace = std::fs::read_to_string(place.path("trace")).unwrap();
        for reached in trace.lines().filter(|line| (*line == "renew") == (point == "renew")) {
            *hits.entry(reached.to_owned()).or_default() += 1;
        }
    }
    hits
}

/// A claim is renewed only by a run that lasts.
fn place(sink: Sink, point: &str) -> Place {
    if point != "renew" {
        return Place::to(ROWS, sink);
    }
    let place = Place::new(ROWS);
    let claim = "claim: {lease: 1s}\ncheckpoint: {records: 500}";
    place.configure_slow(4_000, &format!("sinks: {{out: {{{}}}}}\n{claim}", sink.yaml()));
    place
}

/// Dies at a point, perhaps once more while it recovers, then finishes.
fn strike(sink: Sink, point: &str, hit: u64, again: Option<(&str, u64)>) {
    let place = place(sink, point);
    let context = format!("{sink:?} at {point}:{hit}, then {again:?}");
    match place.traced().strike(&["run", "p.yaml"], point, hit) {
        Ok(_) => {}
        // A claim is renewed by the clock: a quicker run renews it less often.
        Err(HarnessError::NeverReached { .. }) if point == "renew" && hit > 1 => {
            return strike(sink, point, hit - 1, again);
        }
        Err(error) => panic!("{context}: {error}"),
    }
    place.acknowledged_is_in(sink);
    if let Some((point, hit)) = again {
        if let Err(error) = place.traced().strike(&["run", "p.yaml"], point, hit) {
            panic!("{context}: {error}");
        }
        place.acknowledged_is_in(sink);
    }
    if let Err(error) = place.traced().run_to(0, &["run", "p.yaml"]) {
        panic!("{context}: {error}");
    }
    place.exactly_once(sink);
    assert_eq!(place.acknowledged(), place.source().len(), "{context}");
}
