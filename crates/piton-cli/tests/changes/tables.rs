//! SQLite tables and queries.

use crate::place::{Place, ROWS, RUN};

const TABLE: &str = "{sql: {url: 'sqlite:in.db', table: t}}";

/// A table of which some rows were read.
#[track_caller]
fn half_read(source: &str, more: &str) -> Place {
    let place = Place::new();
    place.sql(
        "in.db",
        &format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT NOT NULL, n INT);
             WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {ROWS})
             INSERT INTO t SELECT i, 'name ' || i, i % 7 FROM c"
        ),
    );
    place.configure(source, more);
    place.dies();
    place
}

/// Another table with the same rows under the old name.
fn recreated(columns: &str) -> String {
    format!(
        "ALTER TABLE t RENAME TO old; CREATE TABLE t ({columns});
         INSERT INTO t SELECT id, name, n FROM old; DROP TABLE old"
    )
}

#[test]
fn an_altered_table_is_refused_with_the_difference() {
    let retyped = recreated("id INTEGER PRIMARY KEY, name TEXT NOT NULL, n REAL");
    let keyed = recreated("id INTEGER NOT NULL UNIQUE, name TEXT PRIMARY KEY, n INT");
    for (alter, words) in [
        ("ALTER TABLE t DROP COLUMN n", &["column 'n' is gone", "--accept-changes"][..]),
        ("ALTER TABLE t RENAME COLUMN n TO m", &["'n' is gone; column 'm' is new"]),
        ("ALTER TABLE t ADD COLUMN more TEXT", &["column 'more' is new", "piton reset p"]),
        (&retyped, &["column 'n' was INT, and is now REAL"]),
        (&keyed, &["sql.key was [\"id\"], and is now [\"name\"]"]),
        ("DROP TABLE t", &["there is no table 't'"]),
    ] {
        let place = half_read(TABLE, "");
        place.sql("in.db", alter);
        place.refused(words);
    }
}

#[test]
fn rows_may_come_and_go() {
    let place = half_read(TABLE, "");
    place.sql(
        "in.db",
        "DELETE FROM t WHERE id % 10 = 0; INSERT INTO t VALUES (-1, 'x', 1), (9999, 'y', 2)",
    );
    let ended = place.goes_on(RUN, &["resuming after"]);
    assert!(!ended.stderr.contains("changed"), "{ended}");
    let after = place.count("out.db", "SELECT count(*) FROM t WHERE id = 9999");
    assert_eq!(after, 1);
}

#[test]
fn the_file_may_say_to_go_on_or_to_begin_anew() {
    let place = half_read(TABLE, "on_source_change: continue");
    place.sql("in.db", "ALTER TABLE t ADD COLUMN more TEXT DEFAULT 'new'");
    place.goes_on(RUN, &["goes on all the same", "column 'more' is new", "resuming after"]);
    place.has_event("source_changed", "goes on all the same");
    let new = place.count("out.db", "SELECT count(*) FROM t WHERE more = 'new'");
    assert!(new > 0 && new < i64::from(ROWS), "{new}");
    // Once it has gone on, the table as it is now is the one that is known.
    let again = place.goes_on(RUN, &["finished already"]);
    assert!(!again.stderr.contains("is new"), "{again}");

    let place = half_read(TABLE, "on_source_change: restart");
    place.sql("in.db", "ALTER TABLE t ADD COLUMN more TEXT DEFAULT 'new'");
    let plan = place.ends_with(0, &["plan", "p.yaml"]).stdout;
    assert!(plan.contains("begins anew"), "{plan}");
    let ended = place.goes_on(RUN, &["begins anew (`on_source_change: restart`)", "'more' is new"]);
    assert!(!ended.stderr.contains("resuming"), "{ended}");
    place.has_event("reset", "from the beginning");
    place.has_event("source_changed", "begins anew");
    let new = place.count("out.db", "SELECT count(*) FROM t WHERE more = 'new'");
    assert_eq!(new, i64::from(ROWS));
    let again = place.goes_on(RUN, &["finished already"]);
    assert!(!again.stderr.contains("anew"), "{again}");
}

#[test]
fn an_operator_may_say_so_once() {
    let place = half_read(TABLE, "");
    place.sql("in.db", "ALTER TABLE t DROP COLUMN n");
    place.goes_on(&["run", "p.yaml", "--accept-changes"], &["resuming after"]);
    place.goes_on(RUN, &["finished already"]);
}

#[test]
fn a_query_is_known_by_its_columns() {
    let place = half_read("{sql: {url: 'sqlite:in.db', query: 'SELECT * FROM t', key: [id]}}", "");
    place.sql("in.db", "ALTER TABLE t RENAME COLUMN n TO m");
    place.refused(&["column 'n' is gone; column 'm' is new"]);
}

#[test]
fn people_see_nothing_of_what_machines_compare() {
    let place = half_read(TABLE, "");
    place.goes_on(RUN, &["resuming after"]);
    for (database, table) in [("out.db", "piton_checkpoints"), ("piton.db", "checkpoints")] {
        let stored = format!("SELECT count(*) FROM {table} WHERE position LIKE '%fingerprint%'");
        assert_eq!(place.count(database, &stored), 1);
    }
    for command in ["status", "history"] {
        let shown = place.ends_with(0, &[command, "p"]).stdout;
        assert!(shown.contains("{\"key\":[3000]}") && !shown.contains("fingerprint"), "{shown}");
    }
}

#[test]
fn a_plan_says_which_rows_may_be_touched_again() {
    let place = half_read(TABLE, "");
    let plan = place.ends_with(0, &["plan", "p.yaml"]).stdout;
    assert!(plan.contains("no row is touched again"), "{plan}");
    place.goes_on(RUN, &["resuming after"]);
    place.sql("in.db", "INSERT INTO t VALUES (99999, 'y', 2)");
    place.goes_on(RUN, &["resuming after"]);
    place.ends_with(0, &["rewind", "p", "--to", "{\"key\":[3000]}", "--yes"]);
    let plan = place.ends_with(0, &["plan", "p.yaml"]).stdout;
    assert!(plan.contains("written over; unchanged ones fire no trigger"), "{plan}");
    place.goes_on(RUN, &["resuming after"]);
    let sends = "sinks: {out: {stdout: {}}}\ncheckpoint: {records: 100}\n";
    place.write("q.yaml", &format!("pipeline: q\nsource: {TABLE}\n{sends}"));
    place.program.strike(&["run", "q.yaml"], "save.after", 4).unwrap();
    let plan = place.ends_with(0, &["plan", "q.yaml"]).stdout;
    assert!(plan.contains("sent again, with the same ids: at most those"), "{plan}");
}
