//! A loop that resumes, in one process: what is stored when, who may go on, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use piton::{
    Cursor, CursorError, Options, Policy, Position, Saved, StoreError, WhenHeld,
    core::{CheckpointKey, Event, Order, OrderKind, PipelineRecord, RunEnd},
};
use pollster::block_on;
use serde::{Deserialize, Serialize};

use self::support::Place;

/// Saves after every record.
fn each() -> Options {
    Options { checkpoint: Policy::Fixed { every: None, records: Some(1) }, ..Default::default() }
}

/// Saves only when told to.
fn never() -> Options {
    Options { checkpoint: Policy::Off, ..Default::default() }
}

#[test]
fn one_row_a_job_removed_on_completion() {
    let place = Place::new();
    let store = place.store();
    let mut cursor = Cursor::<u64>::open_with(&store, "import", each()).unwrap();
    assert_eq!(cursor.position(), None);
    assert!(place.checkpoints().is_empty(), "nothing is done yet");
    for record in 0..10 {
        cursor.passed(record).unwrap();
        assert_eq!(place.checkpoints(), [("import".to_owned(), record.to_string())]);
    }
    assert_eq!(cursor.records(), 10);
    cursor.finish().unwrap();
    assert!(place.checkpoints().is_empty());
    assert_eq!(place.runs(), [("import".to_owned(), "finished".to_owned())]);
    let again = Cursor::<u64>::open(&store, "import").unwrap();
    assert_eq!(again.position(), None, "a job that is done begins anew");
}

#[test]
fn what_is_kept_stays_and_there_is_nothing_to_do_again() {
    let place = Place::new();
    let options = Options { keep: true, ..Default::default() };
    let mut cursor = Cursor::<u64>::open_with(&place.store(), "import", options.clone()).unwrap();
    cursor.passed(41).unwrap();
    cursor.finish().unwrap();
    assert_eq!(place.checkpoints(), [("import".to_owned(), "41".to_owned())]);
    let again = Cursor::<u64>::open_with(&place.store(), "import", options).unwrap();
    assert_eq!(again.position(), Some(&41));
    again.finish().unwrap();
    assert_eq!(place.checkpoints(), [("import".to_owned(), "41".to_owned())]);
}

/// Invariant 6: a cursor that is dropped stored nothing but what was saved, and is in nobody's way.
#[test]
fn a_drop_is_a_crash() {
    let place = Place::new();
    let store = place.store();
    let mut cursor = Cursor::<u64>::open_with(&store, "import", never()).unwrap();
    (0..=3).for_each(|record| cursor.passed(record).unwrap());
    cursor.save().unwrap();
    (4..=9).for_each(|record| cursor.passed(record).unwrap());
    let panicked = thread::spawn(move || {
        let _cursor = cursor;
        panic!("a handler fails");
    });
    assert!(panicked.join().is_err());
    let heir = Cursor::<u64>::open_with(&store, "import", never()).unwrap();
    assert_eq!((heir.position(), heir.records()), (Some(&3), 4));
    heir.stop().unwrap();
    let ends: Vec<String> = place.runs().into_iter().map(|(_, end)| end).collect();
    assert_eq!(ends, ["crashed", "stopped"]);
    let run = block_on(store.runs("import", 2)).unwrap().pop().unwrap();
    assert!(run.error.unwrap().contains("died"), "the heir says who");
}

#[test]
fn the_interval_decides_how_often_is_saved() {
    let place = Place::new();
    let versions = |checkpoint| {
        let store = place.store();
        let options = Options { checkpoint, keep: true, ..Default::default() };
        let mut cursor = Cursor::<u64>::open_with(&store, "import", options).unwrap();
        let begin = cursor.position().map_or(0, |last| last + 1);
        let before = version(&place);
        let began = Instant::now();
        for record in begin.. {
            cursor.passed(record).unwrap();
            if began.elapsed() > Duration::from_millis(300) {
                break;
            }
        }
        let took = began.elapsed();
        cursor.finish().unwrap();
        (version(&place) - before, took)
    };
    let (by_time, took) =
        versions(Policy::Fixed { every: Some(Duration::from_millis(50)), records: None });
    let most = took.as_millis() as u64 / 50 + 1;
    assert!((2..=most).contains(&by_time), "{by_time} saves in {took:?}");
    assert_eq!(versions(Policy::Off).0, 1, "only at the end");
    let (adaptive, _) = versions(Policy::default());
    assert!(adaptive <= 2, "{adaptive} saves in 0.3 s");
}

fn version(place: &Place) -> u64 {
    let conn = piton::rusqlite::Connection::open(place.path("piton.db")).unwrap();
    let sql = "SELECT coalesce(max(version), 0) FROM checkpoints";
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn many_records_may_be_passed_with_one_position() {
    let place = Place::new();
    let mut cursor = Cursor::<u64>::open_with(&place.store(), "import", never()).unwrap();
    cursor.passed_many(499, 500).unwrap();
    cursor.passed_many(499, 0).unwrap();
    cursor.save().unwrap();
    assert_eq!(cursor.records(), 500);
    cursor.passed_many(600, 0).unwrap();
    cursor.save().unwrap();
    assert_eq!((place.position("import"), cursor.records()), (Some(600), 500));
    cursor.save().unwrap();
    assert_eq!(version(&place), 2, "nothing new, nothing saved");
}

#[test]
fn a_held_job_says_by_whom_or_is_waited_for() {
    let place = Place::new();
    let store = place.store();
    let mut first = Cursor::<u64>::open_with(&store, "import", each()).unwrap();
    first.passed(7).unwrap();
    let began = Instant::now();
    match Cursor::<u64>::open(&place.store(), "import") {
        Err(CursorError::Held { job, holder }) => {
            assert_eq!((job.as_str(), holder.owner.pid), ("import", std::process::id()));
        }
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() < Duration::from_secs(2), "at once");
    let other = Cursor::<u64>::open(&store, "another").unwrap();
    drop(other);

    let waiting = thread::spawn(move || {
        let options = Options { when_held: WhenHeld::Wait, ..Default::default() };
        Cursor::<u64>::open_with(&store, "import", options).unwrap().position().copied()
    });
    thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished());
    first.passed(8).unwrap();
    first.stop().unwrap();
    assert_eq!(waiting.join().unwrap(), Some(8));
}

/// Invariants 3 and 9: a silent owner is replaced after its lease; one that saves is not silent;
/// whatever the replaced one does changes nothing.
#[test]
fn only_a_silent_owner_is_replaced_and_it_is_fenced() {
    let place = Place::new();
    let store = place.store();
    let lease = Duration::from_millis(1500);
    let patient = move |when_held| Options { lease, when_held, ..each() };
    let mut old = Cursor::<u64>::open_with(&store, "import", patient(WhenHeld::Fail)).unwrap();
    let began = Instant::now();
    let rival = {
        let store = place.store();
        thread::spawn(move || {
            Cursor::<u64>::open_with(&store, "import", patient(WhenHeld::ReplaceSilent))
        })
    };
    let mut at = 0;
    while !rival.is_finished() && began.elapsed() < Duration::from_secs(20) {
        at += 1;
        old.passed(at).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    assert!(matches!(rival.join().unwrap(), Err(CursorError::Held { .. })));

    // Now it falls silent, and is waited for.
    let fell_silent = Instant::now();
    let mut heir =
        Cursor::<u64>::open_with(&place.store(), "import", patient(WhenHeld::Wait)).unwrap();
    assert!(fell_silent.elapsed() >= lease, "{:?}", fell_silent.elapsed());
    assert_eq!(heir.position(), Some(&at));
    assert_eq!(heir.epoch(), old.epoch() + 1);
    heir.passed(at + 1).unwrap();
    let late = old.passed(at + 100);
    assert!(matches!(late, Err(CursorError::Fenced { .. })), "{late:?}");
    assert!(matches!(old.save(), Err(CursorError::Fenced { .. })));
    assert!(matches!(old.renew(), Err(CursorError::Fenced { .. })));
    assert!(matches!(old.finish(), Err(CursorError::Fenced { .. })), "nothing is removed");
    assert_eq!(place.position("import"), Some(at + 1));
    heir.passed(at + 2).unwrap();
}

/// Invariant 2.
#[test]
fn a_position_never_goes_back() {
    let place = Place::new();
    let mut cursor = Cursor::<u64>::open_with(&place.store(), "import", each()).unwrap();
    cursor.passed(9).unwrap();
    let error = cursor.passed(8).unwrap_err();
    assert!(matches!(error, CursorError::Backwards { .. }));
    assert!(error.to_string().contains("stands at 9"), "{error}");
    assert_eq!(place.position("import"), Some(9));
    cursor.passed(10).unwrap();
    assert_eq!(place.position("import"), Some(10));
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Clocks(u64, u64);

impl PartialOrd for Clocks {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        let (a, b) = (self.0.cmp(&other.0), self.1.cmp(&other.1));
        if a.is_eq() || a == b {
            Some(b)
        } else if b.is_eq() {
            Some(a)
        } else {
            None
        }
    }
}

impl Position for Clocks {
    const KIND: &'static str = "clocks";
}

#[test]
fn positions_that_cannot_be_compared_move_nothing() {
    let place = Place::new();
    let mut cursor = Cursor::<Clocks>::open_with(&place.store(), "merge", each()).unwrap();
    cursor.passed(Clocks(1, 5)).unwrap();
    let moved = cursor.passed(Clocks(2, 4));
    assert!(matches!(moved, Err(CursorError::Moved { saved: Saved::Mismatch { .. }, .. })));
    drop(cursor);
    let numbers = Cursor::<u64>::open(&place.store(), "merge");
    match numbers {
        Err(error @ CursorError::Position { .. }) => {
            assert!(error.to_string().contains("'clocks'"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// A reset by an operator, or by hand in a shell, is applied once.
#[test]
fn a_reset_begins_anew() {
    let place = Place::new();
    let store = place.store();
    let mut cursor = Cursor::<u64>::open_with(&store, "import", each()).unwrap();
    cursor.passed(9).unwrap();
    reset(&store, "import");
    let moved = cursor.passed(10);
    assert!(matches!(moved, Err(CursorError::Moved { .. })), "{moved:?}");
    drop(cursor);
    let mut cursor = Cursor::<u64>::open_with(&store, "import", each()).unwrap();
    assert_eq!(cursor.position(), None);
    assert!(block_on(store.orders("import")).unwrap().is_empty(), "it is applied");
    cursor.passed(0).unwrap();
    drop(cursor);
    let by_hand = piton::rusqlite::Connection::open(place.path("piton.db")).unwrap();
    by_hand.execute("DELETE FROM checkpoints WHERE pipeline = 'import'", []).unwrap();
    let cursor = Cursor::<u64>::open(&store, "import").unwrap();
    assert_eq!(cursor.position(), None);
}

fn reset(store: &std::sync::Arc<dyn piton::Store>, job: &str) {
    let of = CheckpointKey::new(job, "main", "main");
    let order = Order {
        id: 0,
        pipeline: of.pipeline,
        partition: of.partition,
        sink: of.sink,
        kind: OrderKind::Reset,
        position: None,
        records: 0,
        sink_state: None,
        output: None,
        who: "me".into(),
        at: Timestamp::now(),
        applied_at: None,
    };
    let event = Event {
        id: 0,
        pipeline: job.into(),
        at: Timestamp::now(),
        who: "me".into(),
        what: "reset".into(),
        detail: String::new(),
    };
    block_on(store.order(vec![order], event)).unwrap();
}

/// Invariant 4: another's checkpoint is never read as "start from zero".
#[test]
fn a_name_that_belongs_to_something_else_is_refused() {
    let place = Place::new();
    let store = place.store();
    let pipeline = PipelineRecord {
        pipeline: "flights".into(),
        source: "{\"csv\":\"flights.csv\"}".into(),
        transforms: "[]".into(),
        sinks: "[]".into(),
        control: piton::core::Control::Run,
        file: None,
    };
    block_on(store.register(pipeline)).unwrap();
    for name in ["flights", ""] {
        let refused = Cursor::<u64>::open(&store, name);
        assert!(matches!(refused, Err(CursorError::Mismatch { .. })), "{refused:?}");
    }
    assert!(place.runs().is_empty());
    assert!(block_on(store.holders("flights")).unwrap().is_empty());

    // The checkpoint of this job is in a database, and of that one in the store.
    let mut conn = place.database();
    let mut joined = piton::sqlite::Cursor::<u64>::open(&store, &mut conn, "joined").unwrap();
    let _ = joined.transaction(&mut conn, 1, |_| Ok(())).unwrap();
    joined.stop().unwrap();
    let refused = Cursor::<u64>::open(&store, "joined");
    assert!(matches!(refused, Err(CursorError::Mismatch { .. })), "{refused:?}");
    let mut plain = Cursor::<u64>::open_with(&store, "plain", each()).unwrap();
    plain.passed(1).unwrap();
    plain.stop().unwrap();
    let refused = piton::sqlite::Cursor::<u64>::open(&store, &mut conn, "plain");
    assert!(matches!(refused, Err(CursorError::Mismatch { .. })), "{refused:?}");
    assert_eq!(Cursor::<u64>::open(&store, "plain").unwrap().position(), Some(&1));
}

#[test]
fn a_lease_or_an_interval_without_a_limit_is_no_trouble() {
    let place = Place::new();
    let options = Options {
        checkpoint: Policy::Fixed { every: Some(Duration::MAX), records: None },
        lease: Duration::MAX,
        ..Default::default()
    };
    let mut cursor = Cursor::<u64>::open_with(&place.store(), "import", options).unwrap();
    cursor.passed(1).unwrap();
    cursor.stop().unwrap();
    assert_eq!(place.position("import"), Some(1));
}

#[test]
fn a_store_that_cannot_be_opened_says_what_to_do() {
    let refusal = |url: &str| match piton::open(url) {
        Err(error @ StoreError::Refused { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{url} was opened"),
    };
    assert!(refusal("piton.db").contains("sqlite:PATH"));
    assert!(refusal("redis://x").contains("names no store"));
}

/// The history of runs is what the interval learns from: it must say how they ended.
#[test]
fn runs_count_the_records_of_their_own() {
    let place = Place::new();
    let store = place.store();
    for records in [0..3, 3..8] {
        let mut cursor = Cursor::<u64>::open_with(&store, "import", each()).unwrap();
        records.for_each(|record| cursor.passed(record).unwrap());
        cursor.stop().unwrap();
    }
    let runs = block_on(store.runs("import", 10)).unwrap();
    let ended: Vec<_> = runs.iter().map(|run| (run.records, run.end)).collect();
    assert_eq!(ended, [(5, Some(RunEnd::Stopped)), (3, Some(RunEnd::Stopped))]);
}
