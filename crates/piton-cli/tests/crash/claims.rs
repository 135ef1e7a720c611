//! One owner at a time: who is second is told, who is dead is replaced at once, who sleeps past its
//! lease is fenced.
//!
//! Invariant 3: no effect of an older claim becomes visible after the newer one has read its
//! position.

use std::{
    thread,
    time::{Duration, Instant},
};

use piton_testkit::{Running, program::PATIENCE};
use rusqlite::{Connection, TransactionBehavior};

use crate::place::{Place, Sink, each};

const ROWS: u64 = 5_000;
const RUN: &[&str] = &["run", "p.yaml"];

/// A place with a short lease.
fn place(sink: Sink) -> Place {
    let place = Place::new(ROWS);
    place.configure(&settings(sink, "{lease: 1s}"));
    place
}

/// The same with a source that is read for some seconds.
fn slow_place(sink: Sink, claim: &str) -> Place {
    let place = Place::new(ROWS);
    place.configure_slow(1_000, &settings(sink, claim));
    place
}

fn settings(sink: Sink, claim: &str) -> String {
    format!("sinks: {{out: {{{}}}}}\nclaim: {claim}\ncheckpoint: {{records: 500}}", sink.yaml())
}

/// Starts the pipeline and waits until it has delivered something.
#[track_caller]
fn at_work(place: &Place, sink: Sink) -> Running {
    let mut running = place.program.start(RUN).unwrap();
    running.until("its first rows", PATIENCE, |_| place.rows_in(sink) > 0).unwrap();
    running
}

#[test]
fn a_second_run_is_told_who_holds_it() {
    let sink = Sink::Upsert;
    let place = slow_place(sink, "{lease: 30s}");
    let first = at_work(&place, sink);
    let second = place.ends_with(4, RUN);
    assert!(second.took < Duration::from_secs(5), "a whole lease was waited for: {second}");
    let host = this_host();
    for word in [&format!("process {}", first.id()), &host, &"since 20".to_owned()] {
        assert!(second.stderr.contains(word.as_str()), "'{word}' is missing: {second}");
    }
    assert_eq!(first.wait(PATIENCE).unwrap().code, Some(0));
    place.exactly_once(sink);
}

#[test]
fn who_may_wait_takes_over_when_the_owner_dies() {
    let sink = Sink::Append;
    let place = slow_place(sink, "{lease: 30s, when_held: wait}");
    let first = at_work(&place, sink);
    let mut second = place.program.start(RUN).unwrap();
    second.until("it to wait", PATIENCE, |second| second.stderr().contains("held by")).unwrap();
    thread::sleep(Duration::from_millis(300));
    first.kill().unwrap();
    assert_eq!(second.wait(PATIENCE).unwrap().code, Some(0));
    place.exactly_once(sink);
}

#[test]
fn a_dead_owner_is_replaced_at_once() {
    each(Sink::ALL, |sink| {
        let place = slow_place(sink, "{lease: 30s}");
        at_work(&place, sink).kill().unwrap();
        let began = Instant::now();
        let mut heir = place.traced().start(RUN).unwrap();
        let trace = place.path("trace");
        let has_claim = |_: &Running| trace.metadata().is_ok_and(|trace| trace.len() > 0);
        heir.until("its claim", PATIENCE, has_claim).unwrap();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{sink:?}: {took:?} to the claim");
        heir.kill().unwrap();
    });
}

#[test]
fn an_owner_that_slept_past_its_lease_has_no_more_effect() {
    each([Sink::Upsert, Sink::Append], |sink| {
        let place = place(sink);
        let sleeper = place.asleep_at("commit.after", 3);
        place.finish();
        sleeper.thaw().unwrap();
        let woken = sleeper.wait(PATIENCE).unwrap();
        assert_eq!(woken.code, Some(4), "{woken}");
        assert!(woken.stderr.contains("taken over by a newer owner"), "{woken}");
        place.exactly_once(sink);
        assert!(place.finish().stderr.contains("had finished already"));
    });
}

#[test]
fn an_owner_that_wakes_while_its_heir_works_has_no_more_effect() {
    let sink = Sink::Append;
    let place = slow_place(sink, "{lease: 1s}");
    let sleeper = place.asleep_at("commit.after", 2);
    let slept_at = place.rows_in(sink);
    let mut heir = place.program.start(RUN).unwrap();
    heir.until("rows of the heir", PATIENCE, |_| place.rows_in(sink) > slept_at).unwrap();
    sleeper.thaw().unwrap();
    assert_eq!(sleeper.wait(PATIENCE).unwrap().code, Some(4));
    assert_eq!(heir.wait(PATIENCE).unwrap().code, Some(0));
    place.exactly_once(sink);
}

#[test]
fn a_database_locked_by_a_sleeper_is_named() {
    let sink = Sink::Append;
    let place = place(sink);
    let sleeper = place.asleep_at("sink.middle", 2);
    let heir = place.ends_with(4, RUN);
    let holder = format!("process {}", sleeper.id());
    for word in ["out.db", "write lock", &holder] {
        assert!(heir.stderr.contains(word), "'{word}' is missing: {heir}");
    }
    sleeper.thaw().unwrap();
    assert_eq!(sleeper.wait(PATIENCE).unwrap().code, Some(4));
    place.finish();
    place.exactly_once(sink);
}

#[test]
fn a_file_held_by_a_sleeper_is_named() {
    let sink = Sink::Jsonl;
    let place = place(sink);
    let sleeper = place.asleep_at("sink.middle", 3);
    let heir = place.ends_with(4, RUN);
    assert!(heir.stderr.contains("out.jsonl"), "{heir}");
    sleeper.thaw().unwrap();
    assert_eq!(sleeper.wait(PATIENCE).unwrap().code, Some(4));
    place.finish();
    place.exactly_once(sink);
}

#[test]
fn a_store_locked_by_a_sleeper_is_named() {
    let sink = Sink::Jsonl;
    let place = place(sink);
    let sleeper = place.asleep_at("save.before", 3);
    let heir = place.ends_with(4, RUN);
    assert!(heir.stderr.contains("piton.db"), "{heir}");
    sleeper.thaw().unwrap();
    // Nobody has taken over: it goes on as if nothing had been.
    assert_eq!(sleeper.wait(PATIENCE).unwrap().code, Some(0));
    place.exactly_once(sink);
}

fn this_host() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

#[test]
fn a_store_that_is_locked_for_long_is_waited_for() {
    let place = Place::new(ROWS);
    let sinks = format!("database: {{{}}}, file: {{{}}}", Sink::Append.yaml(), Sink::Jsonl.yaml());
    let rest = format!("sinks: {{{sinks}}}\nclaim: {{lease: 2s}}\ncheckpoint: {{records: 500}}");
    place.configure_slow(2_000, &rest);
    let running = at_work(&place, Sink::Append);
    let mut person = Connection::open(place.path("piton.db")).unwrap();
    let lock = person.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    // Longer than the lease, and than the store waits for each of two calls.
    thread::sleep(Duration::from_secs(11));
    lock.rollback().unwrap();
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    place.exactly_once(Sink::Append);
    place.exactly_once(Sink::Jsonl);
}
