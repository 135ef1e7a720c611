//! Customer > invoice > line item and supplier > purchase order > line item, with foreign keys and
//! an audit trigger on each target table, killed at every fault point and at random.

use std::{thread, time::Duration};

use piton_testkit::{Dice, program::PATIENCE};
use rusqlite::Connection;

use crate::place::{Place, RUN, count};

/// Parents, children of each, children of each of those.
const SIZE: (i64, i64, i64) = (120, 5, 8);

const TABLES: [(&str, &str); 6] = [
    ("customer", ""),
    ("invoice", "customer"),
    ("invoice_line", "invoice"),
    ("supplier", ""),
    ("purchase_order", "supplier"),
    ("order_line", "purchase_order"),
];

fn tables(db: &Connection) {
    for (table, parent) in TABLES {
        let parent = match parent {
            "" => String::new(),
            parent => format!(", parent INTEGER NOT NULL REFERENCES {parent} (id)"),
        };
        db.execute_batch(&format!(
            "CREATE TABLE {table} (id INTEGER PRIMARY KEY{parent}, name TEXT NOT NULL, amount TEXT)"
        ))
        .unwrap();
    }
}

fn fill(db: &mut Connection, table: &str, parent: &str, rows: i64, parents: i64) {
    let tx = db.transaction().unwrap();
    for id in 1..=rows {
        let name = format!("{table} '{id}'");
        if parent.is_empty() {
            let sql = format!("INSERT INTO {table} VALUES (?1, ?2, '12.50')");
            tx.execute(&sql, (id, name)).unwrap();
        } else {
            let sql = format!("INSERT INTO {table} VALUES (?1, ?2, ?3, '0.10')");
            tx.execute(&sql, (id, id % parents + 1, name)).unwrap();
        }
    }
    tx.commit().unwrap();
}

fn place() -> Place {
    let place = Place::new();
    let mut source = place.database("crm.db");
    tables(&source);
    let (a, b, c) = SIZE;
    for (n, (table, parent)) in TABLES.into_iter().enumerate() {
        let (rows, parents) = [(a, 0), (a * b, a), (a * b * c, a * b)][n % 3];
        fill(&mut source, table, parent, rows, parents);
    }
    let target = place.database("target.db");
    target.execute_batch("PRAGMA journal_mode = wal; PRAGMA foreign_keys = on").unwrap();
    tables(&target);
    target
        .execute_batch("CREATE TABLE audit (what TEXT, id INTEGER); CREATE TABLE log (what TEXT)")
        .unwrap();
    for (table, _) in TABLES {
        for event in ["INSERT", "UPDATE", "DELETE"] {
            target
                .execute_batch(
                    &format!(
                        "CREATE TRIGGER {table}_{event} AFTER {event} ON {table} BEGIN
                     INSERT INTO audit VALUES ('{table} {event}', coalesce(new.id, 0)); END"
                    )
                    .replace(
                        "coalesce(new.id, 0)",
                        if event == "DELETE" { "old.id" } else { "new.id" },
                    ),
                )
                .unwrap();
        }
    }
    place.job(&job());
    place
}

fn step(table: &str, indent: usize, below: &str) -> String {
    let text = format!(
        "- step: {table}
  source: {{sql: {{url: \"sqlite:crm.db\", table: {table}, key: [id]}}}}
  sinks: {{target: {{sqlite: {{path: target.db, table: {table}, key: [id]}}}}}}
  checkpoint: {{records: 150}}
  on_recover: {{sql: {{url: \"sqlite:target.db\", statement: \"INSERT INTO log VALUES ('{table} ' || ${{step.attempt}})\"}}}}
{below}"
    );
    let lines: Vec<String> = text.lines().map(|line| " ".repeat(indent) + line).collect();
    lines.join("\n") + "\n"
}

fn branch(tables: [&str; 3]) -> String {
    let [a, b, c] = tables;
    let lines = step(c, 4, "");
    let below = step(b, 4, &format!("  steps:\n{lines}"));
    step(a, 2, &format!("  steps:\n{below}"))
}

fn job() -> String {
    format!(
        "job: crm\nclaim: {{when_held: wait, lease: 2s}}\nsteps:\n{}{}  - step: sums\n    after: [customer, supplier]\n    sql: {{url: \"sqlite:target.db\", statement: \"INSERT INTO log SELECT 'sum ' || count(*) FROM invoice_line\"}}\n",
        branch(["customer", "invoice", "invoice_line"]),
        branch(["supplier", "purchase_order", "order_line"]),
    )
}

/// The same, taking its time.
fn slow() -> String {
    job().replace("key: [id]}}\n", "key: [id]}, rate: 4000/s}\n")
}

/// The target equals the source, each row was inserted once, and no trigger fired twice for one.
fn is_migrated(place: &Place) {
    let target = place.database("target.db");
    target.execute("ATTACH ?1 AS crm", [place.path("crm.db").to_str().unwrap()]).unwrap();
    for (table, _) in TABLES {
        let differ = format!(
            "SELECT (SELECT count(*) FROM (SELECT * FROM crm.{table} EXCEPT SELECT * FROM main.{table}))
             + (SELECT count(*) FROM (SELECT * FROM main.{table} EXCEPT SELECT * FROM crm.{table}))"
        );
        assert_eq!(count(&target, &differ), 0, "{table}");
        let rows = count(&target, &format!("SELECT count(*) FROM crm.{table}"));
        let audited = format!("SELECT count(*) FROM audit WHERE what = '{table} INSERT'");
        assert_eq!(count(&target, &audited), rows, "{table}: inserted once each");
    }
    let other = "SELECT count(*) FROM audit WHERE what NOT LIKE '% INSERT'";
    assert_eq!(count(&target, other), 0, "no row was touched twice");
    assert_eq!(count(&target, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert_eq!(count(&target, "SELECT count(*) FROM log WHERE what LIKE 'sum %'"), 1);
    place.all_done("crm");
}

#[test]
fn a_migration_runs_in_the_order_of_its_tree_and_has_nothing_to_do_again() {
    let place = place();
    place.run(0);
    is_migrated(&place);
    let again = place.run(0);
    assert!(again.stderr.contains("'crm' had finished already"), "{again}");
    is_migrated(&place);
}

#[test]
fn killed_at_every_fault_point_each_row_is_there_once() {
    let mut dice = Dice::new();
    let place = place();
    let points = [
        "step.begin",
        "step.body",
        "step.done",
        "read",
        "sink.begin",
        "sink.middle",
        "sink.after",
        "commit.before",
        "commit.after",
        "save.before",
        "save.after",
        "renew",
        "recover",
        "shutdown",
    ];
    let mut kills = 0;
    for point in points {
        // Some are not come to any more.
        kills += u32::from(place.program.strike(RUN, point, dice.between(1, 3)).is_ok());
        let target = place.database("target.db");
        assert_eq!(count(&target, "SELECT count(*) FROM pragma_foreign_key_check"), 0, "{point}");
    }
    assert!(kills > 5, "only {kills} kills");
    place.run(0);
    is_migrated(&place);
}

#[test]
fn killed_at_random_done_steps_are_skipped_and_each_recovery_is_once() {
    let mut dice = Dice::new();
    let place = place();
    place.job(&slow());
    let rows = || count(&place.database("target.db"), "SELECT count(*) FROM audit");
    let (mut kills, mut recovered) = (0, 0);
    while kills < 30 {
        let before = rows();
        let mut running = place.program.start(RUN).unwrap();
        let more = dice.between(1, 500) as i64;
        if running.until("progress", PATIENCE, |_| rows() >= before + more).is_err() {
            break;
        }
        let Ok(ended) = running.kill() else { break };
        recovered += u32::from(ended.stderr.contains("had begun and not finished"));
        kills += 1;
    }
    assert!(kills > 8, "only {kills} kills");
    let ended = place.run(0);
    recovered += u32::from(ended.stderr.contains("had begun and not finished"));
    is_migrated(&place);
    assert!(recovered > 5, "only {recovered} recoveries");
    // Once for each attempt that was a recovery: never twice for one.
    let target = place.database("target.db");
    let twice = "SELECT count(*) - count(DISTINCT what) FROM log WHERE what NOT LIKE 'sum %'";
    assert_eq!(count(&target, twice), 0);
}

/// Under `when_held: wait` a database that somebody holds is waited for, as the claim is.
#[test]
fn statements_wait_for_who_holds_their_database() {
    let place = Place::with(
        "job: j\nclaim: {lease: 1s, when_held: wait}\nsteps:\n  - step: a\n    \
         sql: {url: 'sqlite:held.db', statement: INSERT INTO t VALUES (1)}\n",
    );
    let holder = place.database("held.db");
    holder.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (n); BEGIN IMMEDIATE").unwrap();
    let mut running = place.program.start(RUN).unwrap();
    running.until("it to wait", PATIENCE, |r| r.stderr().contains("waiting: ")).unwrap();
    holder.execute_batch("ROLLBACK").unwrap();
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(count(&holder, "SELECT count(*) FROM t"), 1);
}

/// Two machines: one works; killed, the other takes over; one that slept past its lease is fenced.
#[test]
fn two_owners_take_over_from_each_other() {
    let place = place();
    place.job(&slow());
    let rows = || count(&place.database("target.db"), "SELECT count(*) FROM audit");
    let mut first = place.program.start(RUN).unwrap();
    first.until("its first rows", PATIENCE, |_| rows() > 0).unwrap();
    let mut second = place.program.start(RUN).unwrap();
    second.until("it to wait", PATIENCE, |r| r.stderr().contains("held by")).unwrap();
    // Whoever sleeps within a transaction holds a SQLite file for as long.
    let asked = "PRAGMA busy_timeout = 200; BEGIN IMMEDIATE; ROLLBACK";
    let is_free = |name| place.database(name).execute_batch(asked).is_ok();
    first.freeze().unwrap();
    while !(is_free("target.db") && is_free("piton.db")) {
        first.thaw().unwrap();
        thread::sleep(Duration::from_millis(5));
        first.freeze().unwrap();
    }
    let before = rows();
    second.until("it to take over", PATIENCE, |_| rows() > before).unwrap();
    first.thaw().unwrap();
    let fenced = first.wait(PATIENCE).unwrap();
    assert_eq!(fenced.code, Some(4), "{fenced}");
    let third = place.program.start(RUN).unwrap();
    second.kill().unwrap();
    let ended = third.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    is_migrated(&place);
}
