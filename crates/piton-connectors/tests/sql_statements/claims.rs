//! Only the newest claim is heard.

use std::{
    thread,
    time::{Duration, Instant},
};

use piton_connectors::sql_statements::{Executed, StatementsError};
use piton_core::Epoch;

use super::place::{Family, all, execute, is_done, key, mark, servers};

/// Invariant 3.
#[test]
fn an_older_claim_does_nothing() {
    for place in all() {
        place.run("CREATE TABLE log (n INT)");
        let (mut old, mut new) = (place.open(), place.open());
        assert_eq!(old.fence(&key("load"), Epoch(1)).unwrap(), None);
        assert_eq!(new.fence(&key("load"), Epoch(2)).unwrap(), None);
        let insert = ["INSERT INTO log VALUES (1)"];
        let late = execute(&mut *old, &mark("load", 1), &insert).unwrap();
        assert_eq!(late, Executed::Fenced { epoch: Epoch(2) });
        assert_eq!(place.count("log"), 0);
        let again = old.fence(&key("load"), Epoch(1));
        assert!(matches!(again, Err(StatementsError::Fenced { epoch: Epoch(2), .. })), "{again:?}");
        is_done(&execute(&mut *new, &mark("load", 2), &insert));
        let later = execute(&mut *place.open(), &mark("load", 1), &insert).unwrap();
        assert_eq!(later, Executed::Fenced { epoch: Epoch(2) });
        assert_eq!(place.count("log"), 1);
    }
}

/// Invariant 3: it is in the middle of its statements when the newer one reads.
#[test]
fn an_older_claim_in_the_middle_of_it_is_undone() {
    for place in servers() {
        place.run("CREATE TABLE log (n INT)");
        let sleep = if place.family == Family::Postgres { "pg_sleep(2)" } else { "SLEEP(2)" };
        let sleep = format!("SELECT {sleep}");
        let insert = "INSERT INTO log VALUES (1)";
        let mut new = place.open();
        let mut old = place.open();
        old.fence(&key("load"), Epoch(1)).unwrap();
        let late = thread::scope(|scope| {
            let sleeper = scope.spawn(|| execute(&mut *old, &mark("load", 1), &[insert, &sleep]));
            thread::sleep(Duration::from_millis(700));
            assert_eq!(new.fence(&key("load"), Epoch(2)).unwrap(), None);
            assert!(!sleeper.is_finished(), "it was to be in the middle of it");
            is_done(&execute(&mut *new, &mark("load", 2), &[insert]));
            sleeper.join().unwrap()
        });
        assert_eq!(late.unwrap(), Executed::Fenced { epoch: Epoch(2) });
        assert_eq!(place.count("log"), 1);
    }
}

/// An heir waits for a transaction that has the whole database locked, and reads what it did.
#[test]
fn an_heir_of_sqlite_waits_for_the_lock() {
    let place = super::place::Place::new(Family::Sqlite).unwrap();
    place.run("CREATE TABLE log (n INT)");
    let insert = "INSERT INTO log WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c \
                  WHERE n < 3000000) SELECT count(*) FROM c";
    let (mut old, mut new) = (place.open(), place.open());
    old.fence(&key("load"), Epoch(1)).unwrap();
    let found = thread::scope(|scope| {
        let worker = scope.spawn(|| execute(&mut *old, &mark("load", 1), &[insert]));
        thread::sleep(Duration::from_millis(50));
        let found = new.fence(&key("load"), Epoch(2)).unwrap();
        is_done(&worker.join().unwrap());
        found
    });
    assert!(found.is_some(), "the claim was taken over after the commit");
}

/// Branches of one job work beside each other under one claim.
#[test]
fn branches_do_not_disturb_each_other() {
    for place in all() {
        place.run("CREATE TABLE log (n INT)");
        thread::scope(|scope| {
            for branch in 0..3 {
                let place = &place;
                scope.spawn(move || {
                    let mut database = place.open();
                    for step in 0..10 {
                        let name = format!("{branch}/{step}");
                        assert_eq!(database.fence(&key(&name), Epoch(1)).unwrap(), None);
                        let insert = format!("INSERT INTO log VALUES ({step})");
                        is_done(&execute(&mut *database, &mark(&name, 1), &[&insert]));
                    }
                });
            }
        });
        assert_eq!(place.count("log"), 30);
        // Whoever takes over verifies all rows.
        assert!(place.open().fence(&key("2/9"), Epoch(2)).unwrap().is_some());
        assert_eq!(place.count("piton_checkpoints"), 30);
    }
}

/// Their statements do not wait for each other.
#[test]
fn branches_run_at_the_same_time() {
    for place in servers() {
        let sleep = if place.family == Family::Postgres { "pg_sleep(2)" } else { "SLEEP(2)" };
        let sleep = format!("SELECT {sleep}");
        let began = Instant::now();
        thread::scope(|scope| {
            for branch in ["a", "b", "c"] {
                let (place, sleep) = (&place, &sleep);
                scope.spawn(move || {
                    is_done(&execute(&mut *place.open(), &mark(branch, 1), &[sleep]));
                });
            }
        });
        assert!(began.elapsed() < Duration::from_millis(5500), "{:?}", began.elapsed());
    }
}
