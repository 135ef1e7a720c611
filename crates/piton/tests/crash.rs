//! Real processes under SIGKILL, judged by what they left behind.
//!
//! The child is this very test program, started again to run one of the functions that are marked
//! as a child's work. What it did is read from its effects and, by plain SQL, from the store.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]
#![cfg(unix)]

mod support;

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use piton::{Cursor, Options, Policy, Tracker, WhenHeld, sqlite};
use piton_testkit::{Dice, program::PATIENCE};

use self::support::{Child, Place, effects, is_child, lines};

const RECORDS: u64 = 3000;
const EVERY: u64 = 50;

fn waiting() -> Options {
    Options {
        checkpoint: Policy::Fixed { every: None, records: Some(EVERY) },
        when_held: WhenHeld::Wait,
        keep: true,
        ..Default::default()
    }
}

/// Appends a number to the file of effects. A kill takes nothing of it away again.
fn effect(file: &File, n: u64) {
    let mut file = file;
    file.write_all(format!("{n}\n").as_bytes()).unwrap();
}

fn effects_file() -> File {
    File::options().create(true).append(true).open("effects").unwrap()
}

// The children's work.

#[test]
fn child_loops() {
    if !is_child("child_loops") {
        return;
    }
    let store = piton::open("sqlite:piton.db").unwrap();
    let mut cursor = Cursor::<u64>::open_with(&store, "loop", waiting()).unwrap();
    let file = effects_file();
    for n in cursor.position().map_or(0, |n| n + 1)..RECORDS {
        effect(&file, n);
        thread::sleep(Duration::from_micros(50));
        cursor.passed(n).unwrap();
    }
    cursor.finish().unwrap();
}

#[test]
fn child_tracks() {
    if !is_child("child_tracks") {
        return;
    }
    let store = piton::open("sqlite:piton.db").unwrap();
    let mut cursor = Cursor::<u64>::open_with(&store, "loop", waiting()).unwrap();
    let mut tracker = Tracker::bounded(32);
    let (done, finished) = mpsc::channel();
    let mut records = cursor.position().map_or(0, |n| n + 1)..RECORDS;
    let file = std::sync::Arc::new(effects_file());
    loop {
        while tracker.has_room() {
            let Some(n) = records.next() else { break };
            let ticket = tracker.start(n).unwrap();
            let (done, file) = (done.clone(), file.clone());
            thread::spawn(move || {
                // Later records are often done before earlier ones.
                thread::sleep(Duration::from_micros(n * 7919 % 11 * 150));
                effect(&file, n);
                done.send(ticket).unwrap();
            });
        }
        if tracker.in_flight() == 0 {
            break;
        }
        if tracker.finish(finished.recv().unwrap()) {
            cursor.passed(*tracker.low_water().unwrap()).unwrap();
        }
    }
    cursor.finish().unwrap();
}

#[test]
fn child_transacts() {
    if !is_child("child_transacts") {
        return;
    }
    let store = piton::open("sqlite:piton.db").unwrap();
    let mut conn = piton::rusqlite::Connection::open("app.db").unwrap();
    let mut cursor =
        sqlite::Cursor::<u64>::open_with(&store, &mut conn, "loop", waiting()).unwrap();
    for n in cursor.position().map_or(0, |n| n + 1)..RECORDS {
        cursor.put(&format!("{}", n % 7), &n).unwrap();
        let saved = cursor.transaction(&mut conn, n, |tx| {
            tx.execute("INSERT INTO effects VALUES (?1)", [n])?;
            Ok(())
        });
        assert!(saved.unwrap().is_stored());
    }
    cursor.finish(&mut conn).unwrap();
}

/// Stops itself like a process that hangs, after it has read its place and before it acts on it.
#[test]
fn child_hangs() {
    if !is_child("child_hangs") {
        return;
    }
    let store = piton::open("sqlite:piton.db").unwrap();
    let mut conn = piton::rusqlite::Connection::open("app.db").unwrap();
    let options = Options { lease: Duration::from_millis(500), ..waiting() };
    let mut cursor = sqlite::Cursor::<u64>::open_with(&store, &mut conn, "loop", options).unwrap();
    let n = cursor.position().map_or(0, |n| n + 1);
    println!("stands before {n}");
    let pid = std::process::id().to_string();
    std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap();
    let saved = cursor.transaction_saving_last(&mut conn, |tx| {
        tx.execute("INSERT INTO effects VALUES (?1)", [n])?;
        Ok(n)
    });
    println!("woke: {:?}", saved.unwrap());
}

/// Goes on until a commit fails, and says what it makes of that.
#[test]
fn child_doubts() {
    if !is_child("child_doubts") {
        return;
    }
    let store = piton::open("sqlite:piton.db").unwrap();
    let mut conn = piton::rusqlite::Connection::open("app.db").unwrap();
    let mut cursor =
        sqlite::Cursor::<u64>::open_with(&store, &mut conn, "loop", waiting()).unwrap();
    let mut step = |n| {
        cursor.transaction(&mut conn, n, |tx| {
            tx.execute("INSERT INTO effects VALUES (?1)", [n])?;
            Ok(())
        })
    };
    let failed = (0..RECORDS).find_map(|n| step(n).err()).unwrap();
    println!("failed: {failed:?}");
    println!("then: {:?}", step(9).map_err(|error| error.to_string()));
    drop(cursor);
    let cursor = sqlite::Cursor::<u64>::open(&store, &mut conn, "loop").unwrap();
    println!("stands: {:?}", cursor.position());
}

// The tests.

fn finish(child: &Child) {
    child.program.run_to(0, &child.args()).unwrap();
}

/// Kills the child when its effects have grown by some number of records, by chance.
fn kill_at(child: &Child, place: &Place, dice: &mut Dice, most: u64) -> bool {
    let before = done(place);
    let more = dice.between(1, most) as usize;
    let mut running = child.program.start(&child.args()).unwrap();
    let grown = running.until("progress", PATIENCE, |_| done(place) >= before + more);
    grown.is_ok() && running.kill().is_ok()
}

fn done(place: &Place) -> usize {
    if place.path("app.db").exists() {
        return effects(&place.database()).len();
    }
    lines(&place.path("effects")).len()
}

/// Invariants 1 and 6: nothing is lost, and a crash repeats at most what lies after the last save.
#[test]
fn a_killed_loop_loses_nothing_and_repeats_at_most_an_interval() {
    let place = Place::new();
    let mut dice = Dice::new();
    let child = place.child("child_loops");
    let mut killed = 0;
    for _ in 0..12 {
        let from = lines(&place.path("effects")).len();
        if !kill_at(&child, &place, &mut dice, 240) {
            break;
        }
        killed += 1;
        let all = lines(&place.path("effects"));
        let stands = place.position("loop");
        let last = *all.last().unwrap();
        assert!(stands.is_none_or(|at| at <= last), "it covers what was not done");
        let unsaved = stands.map_or(last + 1, |at| last - at);
        assert!(unsaved <= EVERY, "{unsaved} records were not saved");
        // Where this run began is one behind what was stored before it.
        let run = &all[from..];
        assert!(run.windows(2).all(|pair| pair[1] == pair[0] + 1), "in order, without a gap");
    }
    assert!(killed >= 5, "only {killed} kills struck");
    finish(&child);
    let all = lines(&place.path("effects"));
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len() as u64, RECORDS, "none is lost");
    let repeated = all.len() as u64 - RECORDS;
    assert!(repeated <= killed * EVERY, "{repeated} repeated by {killed} kills");
    assert_eq!(place.position("loop"), Some(RECORDS - 1));
    let ends: Vec<String> = place.runs().into_iter().map(|(_, end)| end).collect();
    assert_eq!(ends.last().map(String::as_str), Some("finished"));
    assert_eq!(ends.iter().filter(|end| *end == "crashed").count() as u64, killed);
}

/// Invariant 1 at the moments that matter: around a save, the first, the second and by chance.
#[test]
fn a_kill_around_a_save_leaves_the_old_position_or_the_new_one() {
    let mut dice = Dice::new();
    for point in ["save.before", "save.after"] {
        for hit in [1, 2, dice.between(3, 9)] {
            let place = Place::new();
            let child = place.child("child_loops");
            child.program.strike(&child.args(), point, hit).unwrap();
            let saves = if point == "save.after" { hit } else { hit - 1 };
            let stands = (saves * EVERY).checked_sub(1);
            assert_eq!(place.position("loop"), stands, "{point}:{hit}");
            finish(&child);
            let all = lines(&place.path("effects"));
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len() as u64, RECORDS);
            let repeated = if point == "save.after" { 0 } else { EVERY };
            assert_eq!(all.len() as u64, RECORDS + repeated, "{point}:{hit}");
        }
    }
}

/// Invariant 1: with work that finishes out of order, whatever the position says is done, is done.
#[test]
fn a_killed_tracker_never_passes_a_gap() {
    let place = Place::new();
    let mut dice = Dice::new();
    let child = place.child("child_tracks");
    let mut out_of_order = 0;
    for _ in 0..8 {
        if !kill_at(&child, &place, &mut dice, 300) {
            break;
        }
        let all = lines(&place.path("effects"));
        let done: BTreeSet<u64> = all.iter().copied().collect();
        let stands = place.position("loop").map_or(0, |at| at + 1);
        let missing = (0..stands).find(|n| !done.contains(n));
        assert_eq!(missing, None, "the checkpoint at {stands} passed a gap");
        out_of_order += all.windows(2).filter(|pair| pair[1] < pair[0]).count();
    }
    assert!(out_of_order > 50, "only {out_of_order} finished out of order: this proves nothing");
    finish(&child);
    let done: BTreeSet<u64> = lines(&place.path("effects")).into_iter().collect();
    assert_eq!(done.len() as u64, RECORDS);
}

/// Invariant 5: effects and checkpoint in one transaction, killed at every stage and by chance.
#[test]
fn a_killed_transaction_happens_once() {
    let mut dice = Dice::new();
    let place = Place::new();
    drop(place.database());
    let child = place.child("child_transacts");
    for point in ["recover", "sink.begin", "sink.after", "commit.before", "commit.after"] {
        for hit in [1, 2, dice.between(3, 40)] {
            // Opening passes `recover` twice.
            if point == "recover" && hit > 2 {
                continue;
            }
            child.program.strike(&child.args(), point, hit).unwrap();
        }
    }
    for _ in 0..6 {
        kill_at(&child, &place, &mut dice, 300);
    }
    finish(&child);
    assert_eq!(effects(&place.database()), (0..RECORDS).collect::<Vec<_>>(), "each once, in order");
    let mut conn = place.database();
    let cursor = sqlite::Cursor::<u64>::open(&place.store(), &mut conn, "loop").unwrap();
    let state: Vec<u64> =
        cursor.entries(&conn).unwrap().into_iter().map(|(_, n): (String, u64)| n).collect();
    let latest = |rest| (0..RECORDS).rev().find(|n| n % 7 == rest).unwrap();
    assert_eq!(state, (0..7).map(latest).collect::<Vec<_>>(), "and the state with it");
}

/// Invariant 3: an owner that hung between reading its place and acting on it is replaced after its
/// lease, and what it does when it wakes has no effect.
#[test]
fn a_hung_owner_wakes_without_effect() {
    let place = Place::new();
    drop(place.database());
    let child = place.child("child_hangs");
    let mut hung = child.program.start(&child.args()).unwrap();
    hung.until("its place", PATIENCE, |child| child.stdout().contains("stands before 0")).unwrap();
    finish(&place.child("child_transacts"));
    assert_eq!(effects(&place.database()).len() as u64, RECORDS);
    hung.thaw().unwrap();
    let ended = hung.wait(PATIENCE).unwrap();
    assert!(ended.stdout.contains("woke: Fenced"), "{ended}");
    assert_eq!(effects(&place.database()), (0..RECORDS).collect::<Vec<_>>());
}

/// Invariant 7: after a commit without an answer nothing goes on by hope; opening again tells.
#[test]
fn a_commit_in_doubt_is_resolved_by_opening_again() {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    for (point, error, failed, then, stands) in [
        ("commit.after", EIO, "InDoubt", "opened again", "Some(2)"),
        ("commit.before", EIO, "InDoubt", "opened again", "Some(1)"),
        ("commit.before", ENOSPC, "Database", "Nothing advanced", "Some(1)"),
    ] {
        let place = Place::new();
        drop(place.database());
        let child = place.child("child_doubts").with("PITON_FAULT", &format!("{point}:3={error}"));
        let ended = child.program.run_to(0, &child.args()).unwrap();
        let said = |line: &str, word: &str| {
            let line = ended.stdout.lines().find(|l| l.contains(line)).unwrap_or_default();
            assert!(line.contains(word), "{point}={error}: {ended}");
        };
        said("failed: ", failed);
        said("then: Err", then);
        said("stands: ", stands);
        let there: u64 = if stands == "Some(2)" { 3 } else { 2 };
        assert_eq!(effects(&place.database()), (0..there).collect::<Vec<_>>());
    }
}

/// Two at a time, one of them killed: the other goes on at once, though the lease is long.
#[test]
fn of_two_processes_one_works_and_the_other_takes_over() {
    let place = Place::new();
    drop(place.database());
    let child = place.child("child_transacts");
    let mut first = child.program.start(&child.args()).unwrap();
    first.until("work", PATIENCE, |_| done(&place) > 10).unwrap();
    let second = child.program.start(&child.args()).unwrap();
    first.until("more work", PATIENCE, |_| done(&place) > 200).unwrap();
    let killed = Instant::now();
    first.kill().unwrap();
    second.wait(PATIENCE).unwrap();
    assert!(killed.elapsed() < Duration::from_secs(25), "the lease of 30 s was waited for");
    assert_eq!(effects(&place.database()), (0..RECORDS).collect::<Vec<_>>());
    let ends: Vec<String> = place.runs().into_iter().map(|(_, end)| end).collect();
    assert_eq!(ends, ["crashed", "finished"]);
}
