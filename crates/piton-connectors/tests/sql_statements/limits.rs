//! Statements that take too long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use piton_connectors::sql_statements::{Limits, StatementsError};
use piton_core::Epoch;

use super::place::{Family, Place, all, execute, is_done, key, mark, says, servers, texts};

fn endless(place: &Place) -> &'static str {
    match place.family {
        Family::Sqlite => {
            "INSERT INTO log WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) \
             SELECT count(*) FROM c"
        }
        Family::Postgres => "INSERT INTO log SELECT 1 FROM (SELECT pg_sleep(60)) s",
        _ => "INSERT INTO log SELECT SLEEP(60)",
    }
}

#[test]
fn a_time_limit_ends_them() {
    for place in all() {
        place.run("CREATE TABLE log (n INT)");
        let mut database = place.open();
        let limits = Limits { timeout: Some(Duration::from_secs(2)), ..Limits::default() };
        let sql = texts(&["INSERT INTO log VALUES (1)", endless(&place)]);
        let began = Instant::now();
        let late = database.execute(&mark("a", 1), &sql, &limits);
        assert!(matches!(late, Err(StatementsError::TimedOut { .. })), "{late:?}");
        says(&late, &["statement 2 of 2 (`INSERT", "2s"]);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        // Nobody goes on with it, and its locks are free.
        is_done(&execute(&mut *database, &mark("a", 1), &["INSERT INTO log VALUES (2)"]));
        assert_eq!(place.count("log"), 1);
    }
}

#[test]
fn a_flag_stops_them() {
    for place in all() {
        place.run("CREATE TABLE log (n INT)");
        let mut database = place.open();
        let flag = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&flag);
        let limits = Limits { timeout: None, stop: Arc::new(move || seen.load(Ordering::Relaxed)) };
        let began = Instant::now();
        let stopped = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(300));
                flag.store(true, Ordering::Relaxed);
            });
            database.execute(&mark("a", 1), &texts(&[endless(&place)]), &limits)
        });
        assert!(matches!(stopped, Err(StatementsError::Stopped { .. })), "{stopped:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(database.fence(&key("a"), Epoch(1)).unwrap(), None);
        assert_eq!(place.count("log"), 0);
    }
}

/// What somebody else has locked is waited for only as long.
#[test]
fn a_time_limit_ends_waiting_for_a_lock() {
    for place in all() {
        place.run("CREATE TABLE log (n INT)");
        place.run("INSERT INTO log VALUES (1)");
        let mut holder = place.open();
        let mut waiter = place.open();
        waiter.fence(&key("b"), Epoch(1)).unwrap();
        let hold = match place.family {
            Family::Sqlite => {
                "INSERT INTO log WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c \
                 WHERE n < 20000000) SELECT count(*) FROM c"
            }
            Family::Postgres => "UPDATE log SET n = 2; SELECT pg_sleep(3)",
            _ => "UPDATE log SET n = 2; SELECT SLEEP(3)",
        };
        thread::scope(|scope| {
            let holding = scope.spawn(|| execute(&mut *holder, &mark("a", 1), &[hold]));
            thread::sleep(Duration::from_millis(500));
            let limits = Limits { timeout: Some(Duration::from_millis(300)), ..Limits::default() };
            let late = waiter.execute(&mark("b", 1), &texts(&["UPDATE log SET n = 3"]), &limits);
            assert!(!holding.is_finished(), "it was to be waited for");
            assert!(matches!(late, Err(StatementsError::TimedOut { .. })), "{late:?}");
            is_done(&holding.join().unwrap());
        });
    }
}

/// The network is silent: nobody waits for the server once the time is over.
#[test]
fn a_silent_server_is_given_up() {
    for place in servers().filter(|place| place.family == Family::Postgres) {
        place.run("CREATE TABLE log (n INT)");
        let cut = place.cut();
        let url = format!("{}?connect_timeout=2", place.through(&cut));
        let mut database = super::place::open(&url);
        database.fence(&key("a"), Epoch(1)).unwrap();
        let limits = Limits { timeout: Some(Duration::from_millis(500)), ..Limits::default() };
        let sql = texts(&["INSERT INTO log VALUES (1)", endless(&place)]);
        let began = Instant::now();
        let late = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(300));
                cut.hold();
            });
            database.execute(&mark("a", 1), &sql, &limits)
        });
        assert!(matches!(late, Err(StatementsError::TimedOut { .. })), "{late:?}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        cut.let_go();
        is_done(&execute(&mut *database, &mark("a", 1), &["INSERT INTO log VALUES (2)"]));
        assert_eq!(place.count("log"), 1);
    }
}
