//! Marks in databases belong to one run of one store: what another store, or this one at another
//! time, knows nothing of is refused, and never taken for done.

use std::fs;

use piton_testkit::Ended;

use crate::place::{Place, RUN, count};

/// One statement, which shows how often it was executed.
const ONE: &str = "job: j
steps:
  - step: one
    sql: {url: 'sqlite:t.db', statement: INSERT INTO t VALUES (1)}
";

fn rows(place: &Place) -> i64 {
    count(&place.database("t.db"), "SELECT count(*) FROM t")
}

fn of(job: &str) -> Place {
    let place = Place::with(job);
    place.database("t.db").execute_batch("CREATE TABLE t (id INTEGER)").unwrap();
    place
}

/// Files of a database that nobody has open.
fn files(place: &Place, name: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let all = ["", "-wal", "-shm"].map(|end| format!("{name}{end}"));
    all.into_iter().map(|file| (file.clone(), fs::read(place.path(&file)).ok())).collect()
}

fn put_back(place: &Place, files: &[(String, Option<Vec<u8>>)]) {
    for (file, bytes) in files {
        match bytes {
            Some(bytes) => fs::write(place.path(file), bytes).unwrap(),
            None => drop(fs::remove_file(place.path(file))),
        }
    }
}

#[track_caller]
fn refuses(ended: &Ended) {
    assert!(ended.stderr.contains("--adopt"), "{ended}");
}

#[test]
fn two_jobs_of_one_name_do_not_take_each_others_marks_for_their_own() {
    let place = of(ONE);
    place.run(0);
    let other = Place::new();
    let target = place.path("t.db");
    other.job(&ONE.replace("sqlite:t.db", &format!("sqlite:{}", target.display())));
    let planned = other.ends_with(3, &["plan", "job.yaml"]);
    assert!(planned.stdout.contains("--adopt"), "{planned}");
    refuses(&other.run(3));
    refuses(&other.run(3));
    assert_eq!(rows(&place), 1);
    other.ends_with(0, &["run", "job.yaml", "--adopt"]);
    other.all_done("j");
    assert_eq!(rows(&place), 1);
    // Under another name it is another job.
    let third = Place::with(
        &ONE.replace("sqlite:t.db", &format!("sqlite:{}", target.display()))
            .replace("job: j\n", "job: k\n"),
    );
    third.run(0);
    assert_eq!(rows(&place), 2);
}

#[test]
fn what_the_message_says_to_delete_has_it_executed_once_more() {
    let place = of(ONE);
    place.run(0);
    fs::remove_file(place.path("piton.db")).unwrap();
    let told = place.run(3).stderr;
    let from = told.find("DELETE FROM piton_checkpoints").unwrap();
    let statement = told[from..].lines().next().unwrap();
    place.database("t.db").execute_batch(statement).unwrap();
    place.run(0);
    assert_eq!(rows(&place), 2);
}

#[test]
fn a_restored_store_knows_nothing_of_a_later_run() {
    let place = of(ONE);
    place.run(0);
    let old = files(&place, "piton.db");
    let again = ["run", "job.yaml", "--again"];
    place.ends_with(0, &again);
    put_back(&place, &old);
    refuses(&place.ends_with(3, &again));
    assert_eq!(rows(&place), 2);
    place.ends_with(0, &["run", "job.yaml", "--adopt"]);
    place.all_done("j");
    assert_eq!(rows(&place), 2);
}

#[test]
fn a_reset_after_a_restored_store_is_another_reset() {
    let place = of(ONE);
    place.run(0);
    let old = files(&place, "piton.db");
    let reset = ["reset", "j", "--yes"];
    place.ends_with(0, &reset);
    place.run(0);
    put_back(&place, &old);
    place.ends_with(0, &reset);
    place.run(0);
    assert_eq!(rows(&place), 3);
}

#[test]
fn a_store_that_is_gone_is_asked_for() {
    for times in [1, 3] {
        let place = of(ONE);
        place.run(0);
        for _ in 1..times {
            place.ends_with(0, &["rewind", "j", "--to", "one", "--yes"]);
            place.run(0);
        }
        fs::remove_file(place.path("piton.db")).unwrap();
        let planned = place.ends_with(3, &["plan", "job.yaml"]);
        assert!(planned.stdout.contains("--adopt"), "{planned}");
        refuses(&place.run(3));
        assert_eq!(rows(&place), times);
        place.ends_with(0, &["run", "job.yaml", "--adopt"]);
        assert_eq!(rows(&place), times);
    }
}

/// A statement for each of many parents. `more`: steps beside it.
fn each(parents: usize, keys: &str, more: &str) -> Place {
    let place = of(&format!(
        "job: each
checkpoint: {{records: 20}}
steps:
  - step: parents
    for_each: {{source: {{sql: {{url: 'sqlite:crm.db', table: p}}}}, as: p}}
{keys}    steps:
      - step: one
        sql: {{url: 'sqlite:t.db', statement: 'INSERT INTO t VALUES (${{p.id}})'}}
{more}"
    ));
    let crm = place.database("crm.db");
    crm.execute_batch("CREATE TABLE p (id INTEGER PRIMARY KEY); BEGIN").unwrap();
    for id in 1..=parents {
        crm.execute("INSERT INTO p VALUES (?1)", [id]).unwrap();
    }
    crm.execute_batch("COMMIT").unwrap();
    place
}

const BESIDE: &str = "      - {step: two, run: ['true']}\n";

/// What the database has of parents: each once, and how many.
fn distinct(place: &Place) -> (i64, i64) {
    let db = place.database("t.db");
    (rows(place), count(&db, "SELECT count(DISTINCT id) FROM t"))
}

/// A parent fails, or the machine dies; then the database is another one.
#[test]
fn an_empty_database_under_a_for_each_is_noticed() {
    for (more, point) in [("", None), (BESIDE, None), (BESIDE, Some(5)), (BESIDE, Some(60))] {
        let place = each(100, "", more);
        let empty = files(&place, "t.db");
        let fails = "CREATE TRIGGER fails BEFORE INSERT ON t WHEN new.id = 50 \
                     BEGIN SELECT RAISE(ABORT, 'no'); END";
        place.database("t.db").execute_batch(fails).unwrap();
        match point {
            None => drop(place.run(1)),
            Some(hit) => drop(place.program.strike(RUN, "step.done", hit).unwrap()),
        }
        let full = files(&place, "t.db");
        put_back(&place, &empty);
        refuses(&place.run(3));
        assert_eq!(rows(&place), 0);
        put_back(&place, &full);
        place.database("t.db").execute_batch("DROP TRIGGER fails").unwrap();
        place.run(0);
        assert_eq!(distinct(&place), (100, 100));
    }
}

#[test]
fn an_older_database_under_a_for_each_is_noticed() {
    let place = each(200, "", BESIDE);
    place.program.strike(RUN, "step.done", 30).unwrap();
    let older = files(&place, "t.db");
    place.program.strike(RUN, "step.done", 150).unwrap();
    put_back(&place, &older);
    let had = rows(&place);
    refuses(&place.run(3));
    assert_eq!(rows(&place), had);
    // What it says is where it goes on, and all that came after is done once more.
    place.ends_with(0, &["run", "job.yaml", "--adopt"]);
    assert_eq!(distinct(&place), (200, 200));
}

#[test]
fn an_older_store_under_a_for_each_is_noticed() {
    for more in ["", BESIDE] {
        let place = each(100, "", more);
        place.program.strike(RUN, "sink.after", 3).unwrap();
        let old = files(&place, "piton.db");
        place.run(0);
        assert_eq!(distinct(&place), (100, 100));
        put_back(&place, &old);
        let adopt = ["run", "job.yaml", "--adopt"];
        if !more.is_empty() {
            refuses(&place.run(3));
        }
        // Where many parents are one transaction, its mark says where to go on.
        place.ends_with(0, &adopt);
        assert_eq!(distinct(&place), (100, 100));
    }
}

#[test]
fn an_adopted_database_says_where_a_for_each_goes_on() {
    for more in ["", BESIDE] {
        let place = each(100, "", more);
        place.program.strike(RUN, "sink.after", 3).unwrap();
        place.run(0);
        fs::remove_file(place.path("piton.db")).unwrap();
        refuses(&place.run(3));
        place.ends_with(0, &["run", "job.yaml", "--adopt"]);
        assert_eq!(distinct(&place), (100, 100));
    }
}

/// A field that the parents do not have is no NULL.
#[test]
fn a_misspelt_field_of_a_parent_is_refused_before_any_effect() {
    let step = "      - step: one\n";
    let beside = format!("      - {{step: two, run: [echo, '${{p.nosuch}}']}}\n{step}");
    for (from, to, field) in [("${p.id}", "${p.ix}", "ix"), (step, &beside, "nosuch")] {
        let place = each(3, "", "");
        let text = fs::read_to_string(place.path("job.yaml")).unwrap();
        place.job(&text.replace(from, to));
        let ended = place.run(2);
        assert!(ended.stderr.contains(&format!("no field '{field}'")), "{ended}");
        assert_eq!((rows(&place), ended.stdout.as_str()), (0, ""));
    }
}

/// A line of JSON may lack a field that another has.
#[test]
fn a_field_that_a_json_line_lacks_is_null() {
    let place = of("job: lines
steps:
  - step: parents
    for_each: {source: {jsonl: {path: p.jsonl}}, as: p}
    steps:
      - step: one
        sql: {url: 'sqlite:t.db', statement: 'INSERT INTO t VALUES (${p.id})'}
");
    fs::write(place.path("p.jsonl"), "{\"x\": 1}\n{\"id\": 2}\n").unwrap();
    place.run(0);
    let db = place.database("t.db");
    assert_eq!(count(&db, "SELECT count(*) FROM t WHERE id IS NULL"), 1);
    assert_eq!(distinct(&place), (2, 1));
}

/// `SQLite` has one writer: parents are grouped whatever `concurrency` says.
#[test]
fn concurrency_does_not_keep_sqlite_from_grouping() {
    let place = each(200, "    concurrency: 3\n", "");
    place.run(0);
    assert_eq!(distinct(&place), (200, 200));
    let store = place.database("piton.db");
    let position: String = store
        .query_row("SELECT position FROM checkpoints WHERE sink = 'position'", [], |row| row.get(0))
        .unwrap();
    assert!(position.contains("\"grouped\""), "{position}");
}
