//! A receiver that is slow, hung, refusing or gone, alone and with a kill, a request to stop or a
//! pause meanwhile.
//!
//! Invariants 6 and 8: nothing is lost, what repeats lies after the last checkpoint and has the ids
//! that it had before, memory is bounded, and delivery goes on by itself. The sink beside it is not
//! held up.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use piton_testkit::{Ledger, Mode, Receiver, Report, Running, program::PATIENCE};
use serde_json::Value;

use crate::place::{COLUMNS, Place, Sink};

const ROWS: u64 = 9_000;
const RUN: &[&str] = &["run", "p.yaml"];
/// Records between checkpoints.
const EVERY: u64 = 1_000;
/// How long a receiver misbehaves.
const TROUBLE: Duration = Duration::from_secs(6);
/// The most memory that a run may have resident, in bytes.
const MEMORY: u64 = 64 << 20;

/// What is done to the program meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Nothing,
    Kill,
    Stop,
    Pause,
}

#[test]
fn a_slow_receiver_gets_everything() {
    with_every_action(Mode::Slow(Duration::from_millis(2_500)));
}

#[test]
fn a_hung_receiver_gets_everything() {
    with_every_action(Mode::Hanging);
}

#[test]
fn a_refusing_receiver_gets_everything() {
    with_every_action(Mode::Refusing);
}

#[test]
fn a_receiver_that_is_down_gets_everything() {
    with_every_action(Mode::Down);
}

fn with_every_action(mode: Mode) {
    let actions = [Action::Nothing, Action::Kill, Action::Stop, Action::Pause];
    thread::scope(|scope| {
        let tests = actions.map(|action| (action, scope.spawn(move || endure(mode, action))));
        for (action, test) in tests {
            assert!(test.join().is_ok(), "{mode:?} with {action:?}");
        }
    });
}

/// A place that delivers to a receiver and, beside it, to a file.
fn place(rows: u64, receiver: &Receiver) -> Place {
    let place = Place::new(rows);
    let hook = format!("http: {{url: \"{}\", batch: 1000, timeout: 4s}}", receiver.url());
    let file = Sink::Jsonl.yaml();
    let rest = format!("sinks: {{file: {{{file}}}, hook: {{{hook}}}}}");
    place.configure(&format!("{rest}\ncheckpoint: {{records: {EVERY}}}"));
    place
}

fn endure(mode: Mode, action: Action) {
    let receiver = Receiver::start().unwrap();
    let place = place(ROWS, &receiver);
    receiver.set(Mode::Slow(Duration::from_millis(200)));
    let mut running = place.program.start(RUN).unwrap();
    running.until("a first request", PATIENCE, |_| !receiver.received().is_empty()).unwrap();
    receiver.set(mode);
    let began = Instant::now();

    let all = place.source().len();
    running.until("the file to be whole", PATIENCE, |_| is_whole(&place, all)).unwrap();
    let delivered = receiver.received().len() as u64;
    assert!(delivered < ROWS / EVERY, "{mode:?}: the file was held up: {delivered} requests");
    running.until("it to be shown", PATIENCE, |_| is_behind(&place)).unwrap();
    running = act(action, running, &place);
    thread::sleep(TROUBLE.saturating_sub(began.elapsed()));
    if !matches!(mode, Mode::Slow(_)) {
        receiver.set(Mode::Answering);
    }
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(0), "{mode:?}, {action:?}: {ended}");
    assert!(ended.peak_memory.is_none_or(|bytes| bytes < MEMORY), "{ended}");
    place.exactly_once(Sink::Jsonl);
    judge(&place, &receiver, action);
}

/// Whether the file has all of it. Asked now and then: it is read whole.
fn is_whole(place: &Place, rows: u64) -> bool {
    thread::sleep(Duration::from_millis(50));
    place.rows_in(Sink::Jsonl) == rows
}

/// Whether the receiver's sink is shown as behind, with the reason.
fn is_behind(place: &Place) -> bool {
    thread::sleep(Duration::from_millis(50));
    let status = place.status();
    let sinks = status["run"]["sinks"].as_array().cloned().unwrap_or_default();
    sinks.iter().any(|sink| {
        sink["name"] == "hook" && sink["state"] == "behind" && sink["trouble"].is_string()
    })
}

fn act(action: Action, running: Running, place: &Place) -> Running {
    match action {
        Action::Nothing => running,
        Action::Kill => {
            running.kill().unwrap();
            place.program.start(RUN).unwrap()
        }
        Action::Stop => {
            running.terminate().unwrap();
            let asked = Instant::now();
            let ended = running.wait(PATIENCE).unwrap();
            assert_eq!(ended.code, Some(1), "{ended}");
            assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
            place.program.start(RUN).unwrap()
        }
        Action::Pause => {
            place.ends_with(0, &["pause", "p"]);
            thread::sleep(Duration::from_secs(1));
            place.ends_with(0, &["resume", "p"]);
            running
        }
    }
}

/// Demands that the receiver has everything, and what it has twice has the same id.
fn judge(place: &Place, receiver: &Receiver, action: Action) {
    let mut all = Ledger::default();
    let mut by_id: HashMap<String, Value> = HashMap::new();
    for delivery in receiver.received() {
        for record in delivery.body["records"].as_array().unwrap() {
            let (id, record) = (record["id"].as_str().unwrap(), &record["record"]);
            all.add(COLUMNS.map(|column| record[column].as_str().unwrap()));
            let before = by_id.insert(id.to_owned(), record.clone());
            assert!(before.is_none_or(|before| before == *record), "{id} is of two records");
        }
    }
    let report: Report = place.source().compare(&all);
    // A request whose answer was lost is sent again; a crash repeats what no checkpoint covers.
    let repeats = if action == Action::Kill { 3 * EVERY } else { 2 * EVERY };
    assert_eq!(report.at_least_once(repeats), Ok(()), "{action:?}");
    let mut once = Ledger::default();
    for record in by_id.values() {
        once.add(COLUMNS.map(|column| record[column].as_str().unwrap()));
    }
    assert_eq!(place.source().compare(&once).exactly_once(), Ok(()), "{action:?}, by their ids");
}

#[test]
fn memory_is_bounded_while_a_receiver_hangs() {
    let receiver = Receiver::start().unwrap();
    let place = place(300_000, &receiver);
    receiver.set(Mode::Hanging);
    let mut running = place.program.start(RUN).unwrap();
    let all = place.source().len();
    running.until("the file to be whole", PATIENCE, |_| is_whole(&place, all)).unwrap();
    thread::sleep(Duration::from_secs(2));
    assert!(
        running.peak_memory().is_none_or(|bytes| bytes < MEMORY),
        "{:?}",
        running.peak_memory()
    );
    receiver.set(Mode::Answering);
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(ended.peak_memory.is_none_or(|bytes| bytes < MEMORY), "{ended}");
    let received: u64 = receiver
        .received()
        .iter()
        .map(|delivery| delivery.body["records"].as_array().map_or(0, Vec::len) as u64)
        .sum();
    assert!((all..=all + 2 * EVERY).contains(&received), "{received} of {all}");
}
