//! Statements and their mark are one.

use piton_connectors::sql_statements::{Executed, StatementsError};
use piton_core::Epoch;

use super::place::{Family, all, done, execute, is_done, key, mark, open, says, servers};

/// Invariant 5.
#[test]
fn what_is_done_is_recorded_and_not_done_again() {
    for place in all() {
        place.run("CREATE TABLE log (n INT)");
        let mut database = place.open();
        assert_eq!(database.fence(&key("load"), Epoch(1)).unwrap(), None);
        let insert = ["INSERT INTO log VALUES (1), (2)", "UPDATE log SET n = n + 1"];
        let executed = execute(&mut *database, &mark("load", 1), &insert).unwrap();
        let Executed::Done { rows, mark: stands } = executed else { panic!("{executed:?}") };
        assert_eq!((rows, stands.version, stands.position), (4, 1, Some(done(1))));

        let again = execute(&mut *database, &mark("load", 1), &insert).unwrap();
        assert!(matches!(again, Executed::WasDone { .. }), "{again:?}");
        let mut heir = place.open();
        let found = heir.fence(&key("load"), Epoch(2)).unwrap().unwrap();
        assert_eq!((found.position, found.records), (Some(done(1)), 4));
        assert_eq!(place.count("log"), 2);
    }
}

#[test]
fn an_error_undoes_everything() {
    for place in all() {
        place.run("CREATE TABLE log (n INT PRIMARY KEY)");
        let mut database = place.open();
        let bad = ["INSERT INTO log VALUES (1)", "INSERT  INTO log\nVALUES (2), (1)"];
        let failed = execute(&mut *database, &mark("load", 1), &bad);
        assert!(matches!(failed, Err(StatementsError::Failed { .. })), "{failed:?}");
        let words = ["statement 2 of 2 (`INSERT INTO log VALUES (2), (1)`)", "Nothing was done"];
        says(&failed, &words);
        assert_eq!(place.count("log"), 0);
        assert_eq!(database.fence(&key("load"), Epoch(1)).unwrap(), None);
        is_done(&execute(&mut *database, &mark("load", 1), &bad[..1]));
        assert_eq!(place.count("log"), 1);
    }
}

/// Invariant 7.
#[test]
fn a_lost_answer_to_commit_is_settled_by_reading() {
    for place in servers() {
        place.run("CREATE TABLE log (n INT)");
        let cut = place.cut();
        let mut database = open(&place.through(&cut));
        database.fence(&key("load"), Epoch(1)).unwrap();

        // READ COMMITTED is another request.
        cut.lose_request(if place.family == Family::Postgres { "COMMIT\0" } else { "COMMIT" });
        let insert = ["INSERT INTO log VALUES (1)"];
        let lost = execute(&mut *database, &mark("load", 1), &insert);
        assert!(matches!(lost, Err(StatementsError::Unavailable { .. })), "{lost:?}");
        assert_eq!((place.count("log"), cut.cuts()), (0, 1));

        database.fence(&key("load"), Epoch(1)).unwrap();
        let answer = if place.family == Family::Postgres { "COMMIT" } else { "" };
        cut.lose_answer("COMMIT", answer);
        is_done(&execute(&mut *database, &mark("load", 1), &insert));
        assert_eq!((place.count("log"), cut.cuts()), (1, 2));
    }
}

/// Invariant 7: nobody answers for a while after the commit.
#[test]
fn a_lost_answer_stays_in_doubt_until_the_server_answers() {
    for place in servers() {
        place.run("CREATE TABLE log (n INT)");
        let cut = place.cut();
        let mut database = open(&place.through(&cut));
        database.fence(&key("load"), Epoch(1)).unwrap();
        let answer = if place.family == Family::Postgres { "COMMIT" } else { "" };
        cut.lose_answer("COMMIT", answer);
        cut.refuse(true);
        let insert = ["INSERT INTO log VALUES (1)"];
        let doubt = execute(&mut *database, &mark("load", 1), &insert);
        assert!(matches!(doubt, Err(StatementsError::InDoubt { .. })), "{doubt:?}");
        cut.refuse(false);
        let settled = execute(&mut *database, &mark("load", 1), &insert);
        assert!(matches!(settled, Ok(Executed::WasDone { .. })), "{settled:?}");
        assert_eq!((place.count("log"), cut.cuts()), (1, 1));
    }
}

/// A connection that was lost while nobody used it costs nothing.
#[test]
fn a_connection_is_opened_anew() {
    for place in servers() {
        place.run("CREATE TABLE log (n INT)");
        let cut = place.cut();
        let mut database = open(&place.through(&cut));
        is_done(&execute(&mut *database, &mark("a", 1), &["INSERT INTO log VALUES (1)"]));
        cut.now();
        is_done(&execute(&mut *database, &mark("b", 1), &["INSERT INTO log VALUES (2)"]));
        assert_eq!((place.count("log"), cut.cuts()), (2, 1));
    }
}
