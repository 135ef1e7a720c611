//! Pipelines below a `for_each`: one does all parents one after the other.

use std::fs;

use piton_testkit::{Dice, program::PATIENCE};

use crate::place::{Place, RUN, count};

/// Parents with some children each, and none of every fifth, which go where `sinks` says.
fn place(parents: i64, more: &str, sinks: &str) -> Place {
    let place = Place::new();
    let crm = place.database("crm.db");
    crm.execute_batch(
        "CREATE TABLE customer (id INTEGER PRIMARY KEY);
         CREATE TABLE invoice (id INTEGER PRIMARY KEY, customer INTEGER, total TEXT)",
    )
    .unwrap();
    crm.execute_batch("BEGIN").unwrap();
    for id in 1..=parents {
        crm.execute("INSERT INTO customer VALUES (?1)", [id]).unwrap();
        for _ in 0..(id % 5) * 2 {
            crm.execute("INSERT INTO invoice (customer, total) VALUES (?1, '1.50')", [id]).unwrap();
        }
    }
    crm.execute_batch("COMMIT").unwrap();
    let target = place.database("target.db");
    target
        .execute_batch(
            "PRAGMA journal_mode = wal; CREATE TABLE copy (id INTEGER, customer INTEGER, total TEXT)",
        )
        .unwrap();
    place.job(&format!(
        "job: each
steps:
  - step: customers
    for_each: {{source: {{sql: {{url: 'sqlite:crm.db', table: customer, key: [id]}}}}, as: customer}}
{more}    steps:
      - step: invoices
        source: {{sql: {{url: 'sqlite:crm.db', query: 'SELECT id, customer, total FROM invoice WHERE customer = ${{customer.id}}', key: [id]}}}}
        sinks: {sinks}
        checkpoint: {{records: 3}}
"
    ));
    place
}

const TABLE: &str = "{out: {sqlite: {path: target.db, table: copy, mode: append}}}";
const FILE: &str = "{out: {jsonl: {path: out.jsonl}}}";

#[track_caller]
fn is_copied_once(place: &Place) {
    let target = place.database("target.db");
    target.execute("ATTACH ?1 AS crm", [place.path("crm.db").to_str().unwrap()]).unwrap();
    for (one, other) in [("copy", "crm.invoice"), ("crm.invoice", "copy")] {
        let differs = format!(
            "SELECT count(*) FROM (SELECT id, customer, total, count(*) FROM {one} GROUP BY id, customer, total
             EXCEPT SELECT id, customer, total, count(*) FROM {other} GROUP BY id, customer, total)"
        );
        assert_eq!(count(&target, &differs), 0, "{one} has more than {other}");
    }
}

/// The ids of the rows in the file, in their order, and those that it should have.
fn ids(place: &Place) -> (Vec<i64>, Vec<i64>) {
    let id = |line: &String| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_i64().unwrap()
    };
    let invoices = count(&place.database("crm.db"), "SELECT count(*) FROM invoice");
    (place.lines("out.jsonl").iter().map(id).collect(), (1..=invoices).collect())
}

/// Killed at every point, the rows of each parent are there once.
#[test]
fn each_child_is_copied_once_wherever_it_is_killed() {
    let points = [
        "step.begin",
        "recover",
        "read",
        "sink.begin",
        "sink.middle",
        "commit.before",
        "commit.after",
        "sink.after",
        "save.before",
        "save.after",
        "step.body",
        "step.done",
        "shutdown",
    ];
    for more in ["", "    concurrency: 3\n"] {
        let place = place(60, more, TABLE);
        for (n, point) in points.into_iter().enumerate() {
            place.program.strike(RUN, point, 2 + n as u64 % 4).unwrap();
        }
        place.run(0);
        is_copied_once(&place);
    }
}

#[test]
fn each_child_is_copied_once_whenever_it_is_killed() {
    let mut dice = Dice::new();
    for (more, then) in [("", "    concurrency: 3\n"), ("    concurrency: 3\n", "")] {
        let place = place(120, more, TABLE);
        let text = fs::read_to_string(place.path("job.yaml")).unwrap();
        let target = place.database("target.db");
        let copied = || count(&target, "SELECT count(*) FROM copy");
        for round in 0..6 {
            let mut running = place.program.start(RUN).unwrap();
            let upto = copied() + dice.between(1, 40) as i64;
            running.until("progress", PATIENCE, |_| copied() >= upto).unwrap();
            running.kill().unwrap();
            if round == 3 {
                place.job(&text.replace("    steps:", &format!("{then}    steps:")).replacen(
                    more,
                    "",
                    usize::from(!more.is_empty()),
                ));
            }
        }
        place.run(0);
        is_copied_once(&place);
    }
}

/// What is remembered does not grow with the parents.
#[test]
fn one_pipeline_does_all_parents() {
    let rows = |parents| {
        let place = place(parents, "    concurrency: 2\n", TABLE);
        place.run(0);
        is_copied_once(&place);
        let (kept, target) = (place.database("piton.db"), place.database("target.db"));
        let pipelines = count(&kept, "SELECT count(*) FROM pipelines");
        assert_eq!(pipelines, 3, "the job, and one for each of two that are at work at once");
        let most_runs =
            count(&kept, "SELECT max(n) FROM (SELECT count(*) AS n FROM runs GROUP BY pipeline)");
        assert!(most_runs <= 64, "{most_runs}");
        let in_target = count(&target, "SELECT count(*) FROM piton_checkpoints");
        (count(&kept, "SELECT count(*) FROM checkpoints"), in_target)
    };
    assert_eq!(rows(20), rows(200));
}

/// One file goes on from parent to parent, and is cut to where a parent began, or to its beginning.
#[test]
fn a_file_goes_on_from_parent_to_parent() {
    let place = place(40, "", FILE);
    for (point, hit) in
        [("sink.middle", 3), ("step.begin", 7), ("save.before", 9), ("sink.after", 8)]
    {
        place.program.strike(RUN, point, hit).unwrap();
    }
    place.run(0);
    let (found, expected) = ids(&place);
    assert_eq!(found, expected);
    place.ends_with(0, &["rewind", "each", "--to", "customers", "--yes"]);
    place.run(0);
    let (found, expected) = ids(&place);
    assert_eq!(found, expected, "written anew");
}

/// A parent that begins anew does so alone: it is read from its beginning, those before it are not.
#[test]
fn a_parent_begins_anew_alone() {
    let place = place(12, "", TABLE);
    let text = fs::read_to_string(place.path("job.yaml")).unwrap();
    let (head, below) = text.split_once("      - step: invoices\n").unwrap();
    let below = below.trim_end().replace('\n', "\n    ");
    place.job(&format!(
        "{head}      - step: all
        restart: from_beginning
        on_recover: {{sql: {{url: 'sqlite:target.db', statement: 'DELETE FROM copy WHERE customer = ${{customer.id}}'}}}}
        steps:
          - step: invoices
    {below}
          - step: check
            run: [sh, -c, 'test $PITON_CUSTOMER_ID != 9 || test -e mended']
"
    ));
    let failed = place.run(1);
    assert!(failed.stderr.contains("customer@9"), "{failed}");
    fs::write(place.path("mended"), "").unwrap();
    let crm = place.database("crm.db");
    crm.execute_batch("UPDATE invoice SET total = 'new' WHERE customer IN (8, 9)").unwrap();
    place.run(0);
    crm.execute_batch("UPDATE invoice SET total = '1.50' WHERE customer = 8").unwrap();
    is_copied_once(&place);
    // What is there of one record cannot be cut out of a file for all.
    let text = fs::read_to_string(place.path("job.yaml")).unwrap();
    place.job(&text.replace(TABLE, FILE).replace("job: each", "job: file"));
    let refused = place.run(2);
    assert!(refused.stderr.contains("cannot be cut out"), "{refused}");
}

/// Where each parent has a file of its own, each has a pipeline of its own; one file for several at
/// once is refused before anything is done.
#[test]
fn each_parent_may_have_its_own_file() {
    let place = place(12, "    concurrency: 3\n", FILE);
    let refused = place.run(2);
    assert!(refused.stderr.contains("several records at once"), "{refused}");
    assert!(!place.path("out.jsonl").exists());
    let text = fs::read_to_string(place.path("job.yaml")).unwrap();
    place.job(&text.replace("out.jsonl", "'out-${customer.id}.jsonl'"));
    place.program.strike(RUN_ANYWAY, "sink.after", 3).unwrap();
    place.run(0);
    for again in [false, true] {
        if again {
            place.ends_with(0, &["rewind", "each", "--to", "customers", "--yes"]);
            place.run(0);
        }
        let rows: usize = (1..=12).map(|id| place.lines(&format!("out-{id}.jsonl")).len()).sum();
        assert_eq!(rows, ids(&place).1.len(), "again: {again}");
    }
}

/// The definition is another one than that which was refused.
const RUN_ANYWAY: &[&str] = &["run", "job.yaml", "--accept-changes"];
