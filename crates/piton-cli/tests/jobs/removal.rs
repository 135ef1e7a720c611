//! A job that keeps no checkpoints once it is done: `on_complete: delete`.

use crate::place::{Place, RUN, count};

const JOB: &str = "job: j
on_complete: delete
steps:
  - step: copy
    source: {sql: {url: 'sqlite:app.db', table: src, key: [n]}}
    sinks: {out: {sqlite: {path: app.db, table: copied, mode: append}}}
  - {step: rows, sql: {url: 'sqlite:app.db', statement: 'INSERT INTO t VALUES (1)'}}
  - step: each
    for_each: {source: {sql: {url: 'sqlite:app.db', table: src, key: [n]}}, as: s}
    steps:
      - {step: one, sql: {url: 'sqlite:app.db', statement: 'INSERT INTO e VALUES (${s.n})'}}
  - {step: keep, run: [sh, -c, '\"$PITON_BIN\" position set --job j --name keep 7']}
";

/// Nothing is left of a run but that it has finished, and each run that begins anew has its effect
/// once, whatever is killed.
#[test]
fn nothing_is_left_of_a_finished_run_whatever_is_killed() {
    let place = Place::with(JOB);
    let db = place.database("app.db");
    db.execute_batch(
        "CREATE TABLE src (n INTEGER PRIMARY KEY); INSERT INTO src VALUES (1), (2), (3);
         CREATE TABLE copied (n INTEGER); CREATE TABLE t (n INTEGER); CREATE TABLE e (n INTEGER)",
    )
    .unwrap();
    let program = place.program.clone().with("PITON_BIN", env!("CARGO_BIN_EXE_piton"));
    let first = program.run_to(0, RUN).unwrap();
    assert!(first.stderr.contains("'j' has finished: its checkpoints are removed"), "{first}");
    let mut kills = 0;
    for point in ["save.after", "commit.after"] {
        for hit in 1..=12 {
            kills += u32::from(program.strike(RUN, point, hit).is_ok());
        }
    }
    assert!(kills >= 8, "only {kills} kills");
    program.run_to(0, RUN).unwrap();
    let store = place.database("piton.db");
    let runs = count(&store, "SELECT count(*) FROM checkpoints");
    let of_jobs = "SELECT count(*) FROM checkpoints WHERE partition = '.' AND sink = 'step'";
    assert_eq!(count(&store, of_jobs), runs, "only that they have finished is left");
    assert!(runs > 2, "{runs}");
    let marks = "SELECT count(*) FROM piton_checkpoints WHERE partition <> '.'";
    assert_eq!(count(&db, marks), 0);
    for (table, rows) in [("copied", 3), ("t", 1), ("e", 3)] {
        assert_eq!(count(&db, &format!("SELECT count(*) FROM {table}")), rows * runs, "{table}");
    }
}
