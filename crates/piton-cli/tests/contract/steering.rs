//! Steering: by commands and by a SQL shell.

use crate::folder::{DB, Folder, LINES};

const APPENDED: &str = "log: {sqlite: {path: log.db, table: t, mode: append}}";

fn finished(sinks: &[&str]) -> Folder {
    let folder = Folder::new(10);
    folder.configure(sinks, "");
    folder.ends_with(0, &["run", "p.yaml"]);
    folder
}

fn delete_by_hand(folder: &Folder) {
    let sql = "DELETE FROM checkpoints WHERE pipeline = 'p'";
    assert!(folder.sql("piton.db").execute(sql, []).unwrap() > 0);
}

fn logged(folder: &Folder) -> u64 {
    let count = "SELECT count(*) FROM t";
    folder.sql("log.db").query_row(count, [], |row| row.get(0)).unwrap()
}

/// Invariant 2.
#[test]
fn a_position_changed_in_a_shell_is_refused_in_store_and_sink() {
    let folder = finished(&[DB]);
    for (database, table) in [("piton.db", "checkpoints"), ("out.db", "piton_checkpoints")] {
        for change in ["position = '{}'", "records = 1", "version = version + 1"] {
            let sql = format!("UPDATE {table} SET {change}");
            let refused = folder.sql(database).execute(&sql, []).unwrap_err().to_string();
            assert!(refused.contains("piton rewind"), "{table}, {change}: {refused}");
        }
    }
    folder.write("in.csv", &crate::folder::csv(0, 12));
    folder.ends_with(0, &["run", "p.yaml"]);
    assert_eq!(folder.rows("t"), 12);
}

#[test]
fn deleting_the_row_is_a_reset() {
    let folder = finished(&[DB]);
    delete_by_hand(&folder);
    let history = folder.json(&["history", "p", "--json"]);
    assert_eq!(history["events"][0]["what"], "reset");
    assert_eq!(history["events"][0]["who"], "sql shell");
    let ended = folder.ends_with(0, &["run", "p.yaml"]);
    assert!(ended.stderr.contains("10 records in"), "{ended}");
    assert_eq!(folder.rows("t"), 10);
}

#[test]
fn after_deleting_the_row_output_that_is_appended_to_wants_a_word() {
    for (sink, name) in [(LINES, "lines"), (APPENDED, "log")] {
        for (word, expected) in [("--truncate", 10), ("--keep", 20)] {
            let folder = finished(&[DB, sink]);
            delete_by_hand(&folder);
            let refused = folder.ends_with(3, &["run", "p.yaml"]);
            assert!(refused.stderr.contains("`piton reset p --truncate`"), "{refused}");
            let asked = folder.ends_with(2, &["reset", "p", "--yes"]);
            assert!(asked.stderr.contains("--truncate") && asked.stderr.contains(name), "{asked}");
            folder.ends_with(0, &["reset", "p", "--yes", word]);
            folder.ends_with(0, &["run", "p.yaml"]);
            let has = if sink == LINES { folder.lines() as u64 } else { logged(&folder) };
            assert_eq!(has, expected, "{name} {word}");
            assert_eq!(folder.rows("t"), 10);
        }
    }
}

#[test]
fn a_plan_knows_of_orders_that_wait() {
    let folder = finished(&[DB, LINES, APPENDED]);
    folder.ends_with(0, &["reset", "p", "--yes", "--truncate"]);
    let plan = folder.json(&["plan", "p.yaml", "--json"]);
    for sink in plan["sinks"].as_array().unwrap() {
        assert!(sink["resumes_after"].is_null(), "{sink}");
    }
}
