//! Definitions, runs, events and dead letters.

use futures_executor::block_on;
use piton_core::{
    Control, DeadLetter, Epoch, Event, Owner, PipelineRecord, Run, RunEnd, StoreError,
};

use super::{Harness, ask, at, event};

fn definition(source: &str) -> PipelineRecord {
    PipelineRecord {
        pipeline: "orders".to_owned(),
        source: source.to_owned(),
        transforms: "[]".to_owned(),
        sinks: "{}".to_owned(),
        control: Control::Run,
        file: Some("/here/orders.yaml".to_owned()),
    }
}

/// Registering again replaces the definition and leaves what an operator wants.
pub fn a_definition_keeps_its_control<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let early = block_on(store.set_control("orders", Control::Pause, event("pause")));
    assert!(matches!(early, Err(StoreError::Refused { .. })), "{early:?}");
    assert_eq!(ask(store.control("orders")), Control::Run);
    ask(store.register(definition("a.csv")));
    ask(store.set_control("orders", Control::Pause, event("pause")));
    ask(store.register(definition("b.csv")));
    let want = PipelineRecord { control: Control::Pause, ..definition("b.csv") };
    assert_eq!(ask(place.open().pipelines()), [want]);
    assert_eq!(ask(place.open().control("orders")), Control::Pause);
    let events = ask(store.events("orders", 9));
    assert_eq!((events.len(), events[0].what.as_str()), (1, "pause"));
    assert_eq!(ask(store.load("orders")), []);
}

/// Runs are numbered, replaced by number, and an ended one is not opened again by late figures.
pub fn runs_are_numbered_and_an_ended_run_stays_ended<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let run = |id: u64, pipeline: &str| Run {
        id,
        pipeline: pipeline.to_owned(),
        epoch: Epoch(2),
        owner: Owner { host: "here".to_owned(), pid: 7 },
        started_at: at(0),
        ended_at: None,
        end: None,
        records: 0,
        error: None,
        progress: None,
    };
    let first = ask(store.begin_run(run(0, "orders")));
    let second = ask(store.begin_run(run(0, "orders")));
    let other = ask(store.begin_run(run(0, "another")));
    assert!(first < second && second < other);
    let working = Run { records: 5, progress: Some("{}".to_owned()), ..run(first, "orders") };
    ask(store.update_run(working.clone()));
    assert_eq!(ask(store.runs("orders", 9)), [run(second, "orders"), working.clone()]);
    let (ended_at, end) = (Some(at(3)), Some(RunEnd::Crashed));
    let crashed = Run { ended_at, end, error: Some("died".to_owned()), ..working.clone() };
    ask(store.update_run(crashed.clone()));
    ask(store.update_run(working));
    assert_eq!(ask(store.runs("orders", 9))[1], crashed);
    assert_eq!(ask(store.runs("orders", 1)), [run(second, "orders")]);
    let unknown = block_on(store.update_run(run(other + 1, "orders")));
    assert!(matches!(unknown, Err(StoreError::Refused { .. })), "{unknown:?}");
}

/// Events are numbered by the store and come newest first.
pub fn events_are_kept_newest_first<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    for what in ["one", "two", "three"] {
        ask(store.record(event(what)));
    }
    let events = ask(store.events("orders", 2));
    assert_eq!(events.iter().map(|event| &*event.what).collect::<Vec<_>>(), ["three", "two"]);
    assert!(events[0].id > events[1].id);
    assert_eq!(Event { id: 0, ..events[0].clone() }, event("three"));
    assert_eq!(ask(store.events("another", 2)), []);
}

/// A replay sets nothing aside twice, and what was set aside first stays.
pub fn a_record_is_set_aside_once<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let letter = |sink: &str, id: &str, reason: &str| DeadLetter {
        pipeline: "orders".to_owned(),
        sink: sink.to_owned(),
        id: id.to_owned(),
        partition: "0".to_owned(),
        place: "orders.csv, line 3".to_owned(),
        reason: reason.to_owned(),
        record: "a,\u{FFFD},c".to_owned(),
        at: at(1),
    };
    let first = vec![letter("db", "0@9", "too long"), letter("db", "0@3", "too long")];
    assert_eq!(ask(store.set_aside(first.clone())), 2);
    let again = vec![letter("db", "0@3", "again"), letter("log", "0@3", "too long")];
    assert_eq!(ask(store.set_aside(again.clone())), 1);
    let all = [first[0].clone(), first[1].clone(), again[1].clone()];
    assert_eq!(ask(place.open().dead_letters("orders")), all);
    assert_eq!(ask(store.dead_letters("another")), []);
    let ids = |ids: &[(&str, &str)]| {
        ids.iter().map(|(sink, id)| ((*sink).to_owned(), (*id).to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(ask(store.drop_letters("another", ids(&[("db", "0@9")]))), 0);
    let gone = ids(&[("db", "0@9"), ("db", "0@9"), ("log", "0@9"), ("log", "0@3")]);
    assert_eq!(ask(store.drop_letters("orders", gone)), 2);
    assert_eq!(ask(store.dead_letters("orders")), all[1..2]);
    assert_eq!(ask(store.set_aside(vec![first[0].clone()])), 1, "a dropped one may come again");
}
