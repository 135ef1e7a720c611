//! A commit of statements without an answer. In a process of its own, because it arms a fault for
//! all of it.

use std::{path::Path, time::Duration};

use piton_connectors::sql_statements::{self, Executed, Limits, Mark, Statement};
use piton_core::{
    CheckpointKey, Epoch, StoredPosition,
    fault::{self, Strike},
};

const EIO: i32 = 5;

/// Invariant 7: what is on the disk decides.
#[test]
fn a_commit_that_failed_is_settled_by_reading() {
    let folder = tempfile::tempdir().unwrap();
    let mut database =
        sql_statements::open("sqlite:out.db", folder.path(), Duration::ZERO).unwrap();
    let mark = |partition: &str| Mark {
        key: CheckpointKey::new("job", partition, "step"),
        epoch: Epoch(1),
        expected: None,
        position: StoredPosition { kind: "step".into(), json: "{}".into() },
        clears: Vec::new(),
    };
    let create = [Statement::text("CREATE TABLE log (n INT)")];
    let insert = [Statement::text("INSERT INTO log VALUES (1)")];
    let limits = Limits::default();
    let done = database.execute(&mark("create"), &create, &limits);
    assert!(matches!(done, Ok(Executed::Done { .. })), "{done:?}");

    fault::arm("commit.after", 1, Strike::Fail(EIO));
    let settled = database.execute(&mark("insert"), &insert, &limits);
    assert!(matches!(settled, Ok(Executed::Done { .. })), "it had taken effect: {settled:?}");
    fault::arm("commit.before", 1, Strike::Fail(EIO));
    let undone = database.execute(&mark("again"), &insert, &limits);
    assert!(undone.is_err_and(|error| error.to_string().contains("did not take effect")));

    let path = Path::new(folder.path()).join("out.db");
    let conn = rusqlite::Connection::open(path).unwrap();
    let rows: i64 = conn.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}
