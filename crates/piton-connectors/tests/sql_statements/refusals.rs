//! What cannot be used is named, and nothing is done.

use std::{path::Path, time::Duration};

use piton_connectors::sql_statements::{self, Mark, StatementsError};
use piton_core::Epoch;

use super::place::{LEASE, all, done, execute, is_done, key, mark, says};

#[test]
fn a_url_that_names_nothing_is_refused_without_its_password() {
    for url in ["http://me:s3cret@db/x", "postgres://me:s3@cret@db/x", "mysql://me:s3cret@db/"] {
        let refused = sql_statements::open(url, Path::new("/"), LEASE).err().unwrap();
        assert!(matches!(refused, StatementsError::Settings { .. }), "{refused:?}");
        assert!(!refused.to_string().contains("cret"), "{refused}");
    }
    let database =
        sql_statements::open("postgres://me:s3cret@db/x", Path::new("/"), LEASE).unwrap();
    assert_eq!(database.location(), "postgres://me@db:5432/x");

    let folder = tempfile::tempdir().unwrap();
    for url in ["sqlite:nowhere/out.db", "sqlite:."] {
        let mut database = sql_statements::open(url, folder.path(), Duration::ZERO).unwrap();
        let refused = database.fence(&key("a"), Epoch(1));
        assert!(matches!(refused, Err(StatementsError::Settings { .. })), "{refused:?}");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    let mut nobody =
        sql_statements::open("postgres://me@127.0.0.1:1/x", Path::new("/"), LEASE).unwrap();
    let away = execute(&mut *nobody, &mark("a", 1), &["SELECT 1"]);
    assert!(matches!(away, Err(StatementsError::Unavailable { .. })), "{away:?}");
}

/// Invariant 4.
#[test]
fn marks_that_another_hand_has_changed_are_not_trusted() {
    for place in all() {
        place.run("CREATE TABLE log (n INT)");
        let mut database = place.open();
        let insert = ["INSERT INTO log VALUES (1)"];
        for step in ["a", "b"] {
            is_done(&execute(&mut *database, &mark(step, 1), &insert));
        }
        let column = if place.family.is_mysql() { "`partition`" } else { "partition" };
        place.run(&format!("DELETE FROM piton_checkpoints WHERE {column} = 'a'"));
        let next = Mark { expected: Some(1), position: done(2), ..mark("a", 1) };
        let removed = execute(&mut *database, &next, &insert);
        assert!(matches!(removed, Err(StatementsError::Refused { .. })), "{removed:?}");
        says(&removed, &["'a'", "another hand", "Nothing was done"]);

        place.run("UPDATE piton_checkpoints SET records = 7, checksum = checksum + 1");
        let damaged = execute(&mut *database, &Mark { key: key("b"), ..next }, &insert);
        assert!(matches!(damaged, Err(StatementsError::Refused { .. })), "{damaged:?}");
        let damaged = place.open().fence(&key("c"), Epoch(2));
        assert!(matches!(damaged, Err(StatementsError::Refused { .. })), "{damaged:?}");
        assert_eq!(place.count("log"), 2);
    }
}
