//! Several machines on one store: who dies is replaced, who sleeps is fenced, nobody works twice.

use std::{
    thread,
    time::{Duration, Instant},
};

use piton_testkit::{Dice, program::PATIENCE};

use crate::place::{Place, RUN, each};

const ROWS: u64 = 12_000;

/// Invariants 1 and 5 with the checkpoints of the file on a server.
#[test]
fn killed_ten_times_a_run_is_exactly_once() {
    let mut dice = Dice::new();
    each(|system| {
        let Some(place) = Place::new(system, ROWS * 5) else { return };
        place.configure(&place.store, ", rate: 20000/s", "");
        for kill in 1..=10 {
            let before = place.written();
            let more = dice.between(1, 6_000);
            let mut running = place.program.start(RUN).unwrap();
            running
                .until("progress", PATIENCE, |_| place.written() >= before + more)
                .unwrap_or_else(|error| panic!("{system:?}, kill {kill}: {error}"));
            running.kill().unwrap();
        }
        place.ends_with(0, RUN);
        place.exactly_once();
        assert!(place.ends_with(0, RUN).stderr.contains("had finished already"), "{system:?}");
    });
}

#[test]
fn a_second_machine_is_told_who_works_and_a_standby_takes_over_at_once() {
    each(|system| {
        let Some(place) = Place::new(system, ROWS * 3) else { return };
        place.configure(&place.store, ", rate: 4000/s", "claim: {lease: 30s}");
        let first = place.at_work();
        let told = place.ends_with(4, RUN);
        assert!(told.stderr.contains(&format!("process {}", first.id())), "{told}");
        place.configure(&place.store, ", rate: 4000/s", "claim: {lease: 30s, when_held: wait}");
        let waiting = Instant::now();
        let mut standby = place.program.start(RUN).unwrap();
        standby.until("it to wait", PATIENCE, |it| it.stderr().contains("held by")).unwrap();
        let planned = place.ends_with(0, &["plan", "p.yaml"]).stdout;
        assert!(planned.contains(&format!("wait for process {}", first.id())), "{planned}");
        let died = Instant::now();
        let before = place.written();
        first.kill().unwrap();
        standby.until("the heir's work", PATIENCE, |_| place.written() > before + 1_000).unwrap();
        let took = died.elapsed();
        assert!(took < Duration::from_secs(10), "{system:?}: {took:?}, a lease was waited for");
        assert_eq!(standby.wait(PATIENCE).unwrap().code, Some(0));
        place.exactly_once();
        let status = place.ends_with(0, &["status", "p", "--json", "--store", &place.store]);
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        let ran = status["pipelines"][0]["run"]["seconds"].as_f64().unwrap();
        let waited = died.duration_since(waiting).as_secs_f64();
        let all = waiting.elapsed().as_secs_f64();
        assert!(ran > 0.0 && ran < all - waited, "{system:?}: ran {ran} of {all}, waited {waited}");
    });
}

/// Invariant 3: the heir reads after the sleeper's last effect, and the sleeper has none after it.
#[test]
fn a_machine_that_slept_past_its_lease_is_fenced() {
    each(|system| {
        let Some(place) = Place::new(system, ROWS) else { return };
        place.configure(&place.store, ", rate: 6000/s", "claim: {lease: 1s, when_held: wait}");
        let sleeper = place.at_work();
        sleeper.freeze().unwrap();
        let heir = place.program.start(RUN).unwrap();
        // A sleeper in the middle of a transaction of the table, or with the file locked, holds
        // what the heir needs: then the heir waits until it wakes.
        let before = place.written();
        let (since, has_worked) = (Instant::now(), || place.written() > before + 1_000);
        while since.elapsed() < Duration::from_secs(8) && !has_worked() {
            thread::sleep(Duration::from_millis(50));
        }
        let has_worked = has_worked();
        sleeper.thaw().unwrap();
        let woken = sleeper.wait(PATIENCE).unwrap();
        if has_worked {
            assert_eq!(woken.code, Some(4), "{system:?}: {woken}");
        }
        let heir = heir.wait(PATIENCE).unwrap();
        assert_eq!(
            heir.code,
            Some(0),
            "{system:?}: a standby waits for what the sleeper holds: {heir}"
        );
        place.exactly_once();
    });
}
