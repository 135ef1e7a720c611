//! Statements that end the transaction themselves.

use piton_connectors::sql_statements::{Statement, StatementsError};
use piton_core::Epoch;

use super::place::{Family, all, execute, is_done, key, mark, says, servers, texts};

#[test]
fn what_says_that_it_ends_the_transaction_is_not_executed() {
    for place in all() {
        place.run("CREATE TABLE log (n INT)");
        let mut database = place.open();
        for end in ["COMMIT", "-- all of it\nrollback", "BEGIN", "START TRANSACTION"] {
            let ends = execute(&mut *database, &mark("a", 1), &["INSERT INTO log VALUES (1)", end]);
            assert!(matches!(ends, Err(StatementsError::Settings { .. })), "{ends:?}");
            says(&ends, &["statement 2 of 2", "Nothing was done"]);
        }
        let undo = ["SAVEPOINT a", "INSERT INTO log VALUES (1)", "ROLLBACK TO SAVEPOINT a"];
        is_done(&execute(&mut *database, &mark("a", 1), &undo));
        assert_eq!(place.count("log"), 0);
    }
}

/// Invariant 5 cannot hold then, and this is said.
#[test]
fn what_ended_the_transaction_is_named() {
    for place in servers() {
        place.run("CREATE TABLE log (n INT)");
        let mut database = place.open();
        for hidden in [
            "INSERT INTO log VALUES (2); COMMIT",
            "INSERT INTO log VALUES (2); COMMIT; BEGIN; INSERT INTO log VALUES (3)",
            "INSERT INTO log VALUES (2); COMMIT; INSERT INTO nowhere VALUES (3)",
        ] {
            place.run("DELETE FROM log");
            let sql = ["INSERT INTO log VALUES (1)", hidden, "INSERT INTO log VALUES (4)"];
            let ended = execute(&mut *database, &mark("a", 1), &sql);
            assert!(matches!(ended, Err(StatementsError::Committed { .. })), "{hidden}: {ended:?}");
            says(&ended, &["statement 2 of 3", "those before it (1)", "those after it (1)"]);
            assert_eq!(place.count("log"), 2, "{hidden}");
            assert_eq!(database.fence(&key("a"), Epoch(1)).unwrap(), None);
        }
    }
}

/// As long as a person's savepoints are there.
#[test]
fn what_ended_the_transaction_is_noticed_beside_savepoints() {
    for place in servers() {
        place.run("CREATE TABLE log (n INT)");
        let mut database = place.open();
        for hidden in
            ["INSERT INTO log VALUES (1); COMMIT", "INSERT INTO log VALUES (1); COMMIT; BEGIN"]
        {
            let sql = ["SAVEPOINT a", hidden, "INSERT INTO log VALUES (2)"];
            let ended = execute(&mut *database, &mark("a", 1), &sql);
            assert!(matches!(ended, Err(StatementsError::Committed { .. })), "{hidden}: {ended:?}");
        }
        assert_eq!(place.count("log"), 2);
    }
}

/// SQLite refuses it where it is hidden, too, before it is done.
#[test]
fn sqlite_ends_no_transaction_in_the_middle() {
    let place = super::place::Place::new(Family::Sqlite).unwrap();
    place.run("CREATE TABLE log (n INT)");
    let mut database = place.open();
    let sql = ["INSERT INTO log VALUES (2); COMMIT; BEGIN"];
    let refused = execute(&mut *database, &mark("a", 1), &sql);
    assert!(matches!(refused, Err(StatementsError::Settings { .. })), "{refused:?}");
    assert_eq!(place.count("log"), 0);
    is_done(&execute(&mut *database, &mark("a", 1), &["INSERT INTO log VALUES (1)"]));
}

#[test]
fn tables_are_made_in_the_transaction() {
    for place in all().filter(|place| !place.family.is_mysql()) {
        let mut database = place.open();
        let make = ["CREATE TABLE made (n INT)", "INSERT INTO made VALUES (1)"];
        assert_eq!(database.guarantee(&texts(&make)).unwrap().what, "exactly once");
        let bad = [make[0], make[1], "INSERT INTO nowhere VALUES (1)"];
        assert!(execute(&mut *database, &mark("a", 1), &bad).is_err());
        is_done(&execute(&mut *database, &mark("a", 1), &make));
        assert_eq!(place.count("made"), 1);
    }
}

/// MySQL commits by itself: such statements are recorded after they are done.
#[test]
fn tables_of_mysql_are_made_at_least_once() {
    for place in all().filter(|place| place.family.is_mysql()) {
        let mut database = place.open();
        let mixed = ["INSERT INTO log VALUES (1)", "CREATE TABLE made (n INT)"];
        let refused = execute(&mut *database, &mark("a", 1), &mixed);
        assert!(matches!(refused, Err(StatementsError::Settings { .. })), "{refused:?}");
        says(&refused, &["statement 2 of 2 (`CREATE TABLE made", "a step of their own"]);

        let make = ["CREATE TABLE IF NOT EXISTS made (n INT)", "ALTER TABLE made ADD COLUMN m INT"];
        let guarantee = database.guarantee(&texts(&make)).unwrap();
        assert!(guarantee.what == "at least once" && guarantee.why.contains("IF NOT EXISTS"));
        is_done(&execute(&mut *database, &mark("a", 1), &make));
        assert!(database.fence(&key("a"), Epoch(1)).unwrap().is_some());

        let hidden = "INSERT INTO made VALUES (1, 1); CREATE TABLE more (n INT)";
        let ended = execute(&mut *database, &mark("b", 1), &[hidden]);
        assert!(matches!(ended, Err(StatementsError::Committed { .. })), "{ended:?}");

        let temporary = [
            "CREATE TEMPORARY TABLE t (n INT)",
            "INSERT INTO t VALUES (1)",
            "INSERT INTO made SELECT n, n FROM t",
        ];
        assert_eq!(database.guarantee(&texts(&temporary)).unwrap().what, "exactly once");
        is_done(&execute(&mut *database, &mark("c", 1), &temporary));
    }
}

/// What cannot be undone is not said to be undone.
#[test]
fn tables_of_mysql_that_are_not_transactional_are_told() {
    for place in all().filter(|place| place.family.is_mysql()) {
        place.run("CREATE TABLE log (n INT) ENGINE = MyISAM");
        let sql = ["INSERT INTO log VALUES (1)", "INSERT INTO nowhere VALUES (1)"];
        let kept = execute(&mut *place.open(), &mark("a", 1), &sql);
        assert!(matches!(kept, Err(StatementsError::Committed { .. })), "{kept:?}");
        says(&kept, &["nowhere", "InnoDB", "stays"]);
    }
}

#[test]
fn what_runs_in_no_transaction_is_refused() {
    let Some(place) = super::place::Place::new(Family::Postgres) else { return };
    let mut database = place.open();
    let refused = execute(&mut *database, &mark("a", 1), &["VACUUM"]);
    says(&refused, &["VACUUM", "by a command", "Nothing was done"]);
    for copy in ["COPY pg_class TO STDOUT", "COPY piton_manifest FROM STDIN"] {
        let refused = database.execute(
            &mark("a", 1),
            &[Statement::text(copy)],
            &piton_connectors::sql_statements::Limits::default(),
        );
        says(&refused, &["COPY", "Nothing was done"]);
        assert!(!matches!(refused, Err(StatementsError::Unavailable { .. })), "{refused:?}");
    }
    is_done(&execute(&mut *database, &mark("a", 1), &["SELECT 1"]));
}
