//! A step that begins anew: its checkpoints go in the transaction of the statements.

use piton_connectors::sql_statements::{Executed, Mark};
use piton_core::{CheckpointKey, Epoch, claim::WHOLE};

use super::place::{all, done, execute, is_done, key, mark};

#[test]
fn checkpoints_go_with_the_statements_or_stay() {
    for place in all() {
        place.run("CREATE TABLE log (n INT)");
        let mut database = place.open();
        let of_pipeline = |partition: &str| {
            CheckpointKey::new("nightly(date=2026-11-20)/load", partition, "warehouse")
        };
        for partition in ["a", "b", "c"] {
            let other = Mark { key: of_pipeline(partition), ..mark("x", 7) };
            is_done(&execute(&mut *database, &other, &["INSERT INTO log VALUES (1)"]));
        }
        for partition in ["load/child", "other"] {
            is_done(&execute(&mut *database, &mark(partition, 1), &["INSERT INTO log VALUES (1)"]));
        }
        let stands = |partition: &str| {
            place.open().fence(&of_pipeline(partition), Epoch(7)).unwrap().is_some()
        };
        let recover = Mark {
            clears: vec![of_pipeline("b"), of_pipeline("nowhere"), key("load/child")],
            ..mark("load", 1)
        };
        let bad = ["DELETE FROM log", "DELETE FROM nowhere"];
        assert!(execute(&mut *database, &recover, &bad).is_err());
        assert!(stands("b") && place.count("log") == 5);

        is_done(&execute(&mut *database, &recover, &bad[..1]));
        assert!(stands("a") && !stands("b") && stands("c") && place.count("log") == 0);
        assert_eq!(place.open().fence(&key("load/child"), Epoch(1)).unwrap(), None);
        assert!(place.open().fence(&key("other"), Epoch(1)).unwrap().is_some());
        // Done is done, also what it cleared.
        let again = execute(&mut *database, &recover, &bad[..1]).unwrap();
        assert!(matches!(again, Executed::WasDone { .. }), "{again:?}");

        let all = Mark {
            clears: vec![of_pipeline(WHOLE)],
            expected: Some(1),
            position: done(2),
            ..mark("load", 1)
        };
        is_done(&execute(&mut *database, &all, &[]));
        assert!(!stands("a") && !stands("c"));
        let found = place.open().fence(&key("load"), Epoch(2)).unwrap().unwrap();
        assert_eq!((found.version, found.position), (2, Some(done(2))));

        // Its own sink's, too: what is recorded now stays.
        let (clears, position) = (vec![key(WHOLE)], done(3));
        let own = Mark { clears, expected: Some(2), position, ..mark("load", 2) };
        is_done(&execute(&mut *database, &own, &[]));
        let found = place.open().fence(&key("load"), Epoch(3)).unwrap().unwrap();
        assert_eq!((found.version, found.position), (3, Some(done(3))));
        assert_eq!(place.open().fence(&key("other"), Epoch(3)).unwrap(), None);
    }
}
