//! What statements set for the session is over with them, and marks stay where they are.

use piton_core::{CheckpointKey, Epoch};

use super::place::{Family, all, execute, is_done, key, mark};

#[test]
fn a_step_does_not_see_what_another_has_set() {
    for place in all() {
        let (set, see): (&[&str], &[&str]) = match place.family {
            Family::Sqlite => (
                &["CREATE TEMP TABLE mine (n INT)", "PRAGMA case_sensitive_like = ON"],
                &[
                    "INSERT INTO log SELECT count(*) FROM sqlite_temp_schema",
                    "INSERT INTO log SELECT 'a' NOT LIKE 'A'",
                ],
            ),
            Family::Postgres => (
                &[
                    "CREATE SCHEMA other",
                    "SET search_path = other",
                    "SET TimeZone = 'Asia/Tokyo'",
                    "CREATE TEMP TABLE mine (n INT)",
                ],
                &[
                    "INSERT INTO log SELECT count(*) FROM pg_class WHERE relname = 'mine'",
                    "INSERT INTO log SELECT (current_setting('TimeZone') = 'Asia/Tokyo')::int",
                ],
            ),
            _ => (
                &["SET sql_mode = 'ANSI_QUOTES'", "SET @mine = 1", "USE information_schema"],
                &[
                    "INSERT INTO log SELECT @@sql_mode = 'ANSI_QUOTES'",
                    "INSERT INTO log SELECT @mine IS NOT NULL",
                ],
            ),
        };
        place.run("CREATE TABLE log (n INT)");
        let mut database = place.open();
        database.fence(&key("a"), Epoch(1)).unwrap();
        is_done(&execute(&mut *database, &mark("a", 1), set));
        assert!(database.fence(&key("a"), Epoch(1)).unwrap().is_some());
        let other = CheckpointKey { sink: "other".into(), ..key("a") };
        assert_eq!(database.fence(&other, Epoch(1)).unwrap(), None);
        is_done(&execute(&mut *database, &mark("again", 1), &set[1..]));
        is_done(&execute(&mut *database, &mark("b", 1), see));
        let text = if place.family.is_mysql() { "CHAR" } else { "TEXT" };
        let seen = place.column(&format!("SELECT CAST(n AS {text}) FROM log"));
        assert_eq!(seen, ["0", "0"], "{:?}", place.family);
        assert_eq!(place.count("piton_checkpoints"), 3);
        assert!(place.open().fence(&key("a"), Epoch(2)).unwrap().is_some());
    }
}
