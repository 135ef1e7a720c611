//! Steps that are done for each parent: keyed by the parent and never counted.

use piton_testkit::{Dice, HarnessError};
use rusqlite::Connection;

use crate::place::{Place, RUN, count};

const PARENTS: i64 = 400;

fn place(more: &str) -> Place {
    let place = Place::new();
    let crm = place.database("crm.db");
    crm.execute_batch(
        "CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT);
         CREATE TABLE invoice (id INTEGER PRIMARY KEY, customer INTEGER)",
    )
    .unwrap();
    insert(&crm, (1..=PARENTS).map(|id| id * 10));
    let target = place.database("target.db");
    target
        .execute_batch(
            "PRAGMA journal_mode = wal; CREATE TABLE seen (customer INTEGER, name TEXT, attempt INTEGER)",
        )
        .unwrap();
    place.job(&job(more));
    place
}

/// With `concurrency` each parent has its own transaction, which SQLite does for a `timeout` alone.
fn job(more: &str) -> String {
    let timed = if more.is_empty() { "" } else { "        timeout: 1m\n" };
    format!(
        "job: each
claim: {{when_held: wait}}
steps:
  - step: customers
    for_each: {{source: {{sql: {{url: 'sqlite:crm.db', table: customer, key: [id]}}}}, as: customer}}
{more}    steps:
      - step: seen
{timed}        sql: {{url: 'sqlite:target.db', statement: \"INSERT INTO seen VALUES (${{customer.id}}, ${{customer.name}}, ${{step.attempt}})\"}}
"
    )
}

fn insert(crm: &Connection, ids: impl Iterator<Item = i64>) {
    crm.execute_batch("BEGIN").unwrap();
    for id in ids {
        let name = format!("O'Hara {id}; DROP TABLE seen --");
        crm.execute("INSERT INTO customer VALUES (?1, ?2)", (id, name)).unwrap();
    }
    crm.execute_batch("COMMIT").unwrap();
}

fn is_done_for_each_once(place: &Place) {
    let target = place.database("target.db");
    target.execute("ATTACH ?1 AS crm", [place.path("crm.db").to_str().unwrap()]).unwrap();
    let missing = "SELECT count(*) FROM crm.customer c WHERE NOT EXISTS
        (SELECT 1 FROM seen s WHERE s.customer = c.id AND s.name = c.name)";
    assert_eq!(count(&target, missing), 0, "none is skipped");
    let twice = "SELECT count(*) - count(DISTINCT customer) FROM seen";
    assert_eq!(count(&target, twice), 0, "none is done twice");
    let marks = "SELECT count(*) FROM piton_checkpoints WHERE partition LIKE '%[%'";
    assert_eq!(count(&target, marks), 0, "no mark is left");
}

#[test]
fn each_parent_has_its_steps_with_its_values_bound() {
    // The second is done parent by parent, the first many in one transaction.
    for more in ["", "    concurrency: 4\n"] {
        let place = place(more);
        let ended = place.run(0);
        assert!(ended.stderr.contains("step 'customers': done, 400 records"), "{ended}");
        is_done_for_each_once(&place);
        let kept = place.database("piton.db");
        assert!(count(&kept, "SELECT count(*) FROM checkpoints") < 10, "rows are not left behind");
        assert!(place.run(0).stderr.contains("had finished already"));
    }
}

/// Parents that come and go between crash and restart neither shift nor skip others.
#[test]
fn killed_again_and_again_while_parents_come_and_go() {
    for more in ["", "    concurrency: 3\n"] {
        come_and_go(more);
    }
}

fn come_and_go(more: &str) {
    let mut dice = Dice::new();
    let place = place(more);
    let highest =
        || count(&place.database("target.db"), "SELECT coalesce(max(customer), 0) FROM seen");
    let mut kills = 0;
    for round in 0..12 {
        let point = ["sink.begin", "sink.after"][dice.between(0, 1) as usize % 2];
        // Many parents are one transaction, or each is one.
        let most = if more.is_empty() { 3 } else { 40 };
        match place.program.strike(RUN, point, dice.between(1, most)) {
            Ok(_) => kills += 1,
            // Less was left than that.
            Err(HarnessError::NeverReached { ended, .. }) if ended.code == Some(0) => break,
            Err(error) => panic!("{error}"),
        }
        let crm = place.database("crm.db");
        // Behind all that was seen, and one that nobody has come to goes.
        let at = highest() + 11 + round * 7;
        crm.execute("INSERT OR IGNORE INTO customer VALUES (?1, 'new')", [at]).unwrap();
        crm.execute(
            "DELETE FROM customer WHERE id = (SELECT min(id) FROM customer WHERE id > ?1)",
            [highest() + 100],
        )
        .unwrap();
        // One that was done already goes, too: nothing is counted.
        crm.execute("DELETE FROM customer WHERE id = 10", []).unwrap();
    }
    assert!(kills > 1, "only {kills} kills");
    place.run(0);
    is_done_for_each_once(&place);
}

/// In which transactions parents are done is settled when they begin: what changes it later neither
/// repeats nor skips any.
#[test]
fn as_many_at_once_as_the_file_says_now() {
    const FOUR: &str = "    concurrency: 4\n";
    for turns in [["", FOUR, "", FOUR], [FOUR, "", FOUR, ""]] {
        let place = place(turns[0]);
        for more in turns {
            place.job(&job(more));
            place.program.strike(RUN, "sink.after", 3).unwrap();
        }
        place.job(&job("").replace("        sql:", "        timeout: 1m\n        sql:"));
        place.run(0);
        is_done_for_each_once(&place);
    }
}

/// What was done many at once is not repeated where the file has a command below now.
#[test]
fn a_command_that_is_new_below_repeats_nothing() {
    let place = place("");
    place.program.strike(RUN, "sink.after", 3).unwrap();
    place.job(&format!("{}      - step: new\n        run: ['true']\n", job("")));
    place.ends_with(0, &["run", "job.yaml", "--accept-changes"]);
    is_done_for_each_once(&place);
}

/// A parent whose statement is refused is named, and those before it are done.
#[test]
fn a_parent_that_cannot_be_done_is_named() {
    let place = place("");
    let target = place.database("target.db");
    target
        .execute_batch(
            "CREATE TRIGGER no BEFORE INSERT ON seen WHEN new.customer = 1230
             BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        )
        .unwrap();
    let failed = place.run(1);
    assert!(failed.stderr.contains("1230") && failed.stderr.contains("not this one"), "{failed}");
    assert_eq!(count(&target, "SELECT count(*) FROM seen"), 122);
    target.execute_batch("DROP TRIGGER no").unwrap();
    place.run(0);
    is_done_for_each_once(&place);
}

/// Gone back to, a step is done for each parent once more.
#[test]
fn a_rewind_does_each_parent_again() {
    for more in ["", "    concurrency: 4\n"] {
        let place = place(more);
        place.run(0);
        place.ends_with(0, &["rewind", "each", "--to", "customers", "--yes"]);
        place.run(0);
        let target = place.database("target.db");
        assert_eq!(count(&target, "SELECT count(*) FROM seen"), 2 * PARENTS, "{more}");
    }
}

#[test]
fn children_of_children_and_commands_know_their_parents() {
    let place = Place::new();
    let crm = place.database("crm.db");
    crm.execute_batch(
        "CREATE TABLE customer (id INTEGER PRIMARY KEY);
         CREATE TABLE invoice (id INTEGER PRIMARY KEY, customer INTEGER, total TEXT);
         CREATE TABLE copy (id INTEGER PRIMARY KEY, customer INTEGER, total TEXT);
         INSERT INTO customer VALUES (1), (2), (3);
         INSERT INTO invoice VALUES (1, 1, '1.50'), (2, 1, '2.50'), (3, 3, '9.00')",
    )
    .unwrap();
    place.job(
        "job: each
steps:
  - step: customers
    for_each: {source: {sql: {url: 'sqlite:crm.db', table: customer, key: [id]}}, as: customer}
    steps:
      - step: invoices
        source: {sql: {url: 'sqlite:crm.db', query: 'SELECT id, customer, total FROM invoice WHERE customer = ${customer.id}', key: [id]}}
        sinks: {out: {sqlite: {path: target.db, table: copy, key: [id]}}}
      - step: tell
        run: [sh, -c, 'echo $PITON_CUSTOMER_ID $0 >> log', '${customer.id}']
",
    );
    place.run(0);
    assert_eq!(place.lines("log"), ["1 1", "2 2", "3 3"]);
    let target = place.database("target.db");
    assert_eq!(count(&target, "SELECT count(*) FROM copy WHERE total = '2.50'"), 1);
    assert_eq!(count(&target, "SELECT count(*) FROM copy"), 3);
}
