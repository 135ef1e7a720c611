//! Files.

use std::fs;

use crate::place::{Place, ROWS, RUN};

const CSV: &str = "{csv: {path: in.csv}}";

/// So that a file is larger than a batch.
const PAD: &str =
    " ................................................................................";

fn rows(name: &str) -> String {
    let mut text = String::from("id,name\n");
    (1..=ROWS).for_each(|id| text.push_str(&format!("{id},{name} {id}{PAD}\n")));
    text
}

#[track_caller]
fn half_read(more: &str) -> Place {
    let place = Place::new();
    place.write("in.csv", &rows("before"));
    place.configure(CSV, more);
    place.dies();
    place
}

fn with(place: &Place, name: &str) -> i64 {
    place.count("out.db", &format!("SELECT count(*) FROM t WHERE name LIKE '{name} %'"))
}

#[test]
fn a_rewritten_file_is_refused_gone_on_in_or_begun_anew() {
    let place = half_read("");
    place.write("in.csv", &rows("after."));
    place.refused(&["the file was rewritten", "--accept-changes"]);

    let place = half_read("on_source_change: continue");
    let read = with(&place, "before");
    place.write("in.csv", &rows("after."));
    place.goes_on(RUN, &["goes on all the same: in.csv: the file was rewritten"]);
    assert_eq!((with(&place, "before"), with(&place, "after.")), (read, i64::from(ROWS) - read));

    let place = half_read("on_source_change: restart");
    place.write("in.csv", &rows("after."));
    place.goes_on(RUN, &["begins anew", "the file was rewritten"]);
    assert_eq!((with(&place, "before"), with(&place, "after.")), (0, i64::from(ROWS)));
    place.goes_on(RUN, &["finished already"]);
}

/// There is no place in it to go on at.
#[test]
fn a_shortened_file_cannot_be_gone_on_in() {
    let place = half_read("on_source_change: continue");
    place.write("in.csv", "id,name\n1,short\n");
    place.ends_with(3, RUN);
    let place = half_read("on_source_change: restart");
    place.write("in.csv", "id,name\n1,short 1\n");
    place.goes_on(RUN, &["begins anew", "the file was shortened"]);
    assert_eq!(with(&place, "short"), 1);
}

#[test]
fn another_source_is_begun_anew() {
    let place = half_read("on_source_change: restart");
    fs::rename(place.path("in.csv"), place.path("other.csv")).unwrap();
    place.configure("{csv: {path: other.csv}}", "on_source_change: restart");
    place.goes_on(RUN, &["begins anew", "csv.path was \"in.csv\", and is now \"other.csv\""]);
    assert_eq!(with(&place, "before"), i64::from(ROWS));
    place.goes_on(RUN, &["finished already"]);
    let of_table = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT); \
                    INSERT INTO t VALUES (1, 'row 1'), (2, 'row 2')";
    place.sql("in.db", of_table);
    place.configure("{sql: {url: 'sqlite:in.db', table: t}}", "on_source_change: restart");
    place.goes_on(RUN, &["begins anew", "is now sql t of sqlite:in.db"]);
    assert_eq!(with(&place, "row"), 2);
}

/// What a file had appended to it is cut before it is written anew.
#[test]
fn a_file_is_written_anew() {
    let place = Place::new();
    place.write("in.csv", &rows("before"));
    let sink = "sinks: {out: {jsonl: {path: out.jsonl}}}\ncheckpoint: {records: 100}\n";
    place
        .write("p.yaml", &format!("pipeline: p\nsource: {CSV}\n{sink}on_source_change: restart\n"));
    place.program.strike(RUN, "save.after", 4).unwrap();
    place.write("in.csv", &rows("after."));
    place.goes_on(RUN, &["begins anew"]);
    let lines = fs::read_to_string(place.path("out.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), ROWS as usize);
    assert!(!lines.contains("before"));
}

/// A step of a job is resumed or begun anew as its file says, and a plan says so before.
#[test]
fn the_plan_of_a_job_says_what_has_changed_and_what_a_resume_touches() {
    let place = Place::new();
    place.write("in.csv", &rows("before"));
    let step = "  - step: copy\n    source: {csv: {path: in.csv}}\n    \
                sinks: {out: {sqlite: {path: out.db, table: t, key: [id]}}}\n";
    let rest = "on_source_change: restart\ncheckpoint: {records: 100}\n";
    place.write("p.yaml", &format!("job: j\n{rest}steps:\n{step}"));
    place.program.strike(RUN, "commit.after", 4).unwrap();
    let plan = place.ends_with(0, &["plan", "p.yaml"]);
    assert!(plan.stdout.contains("sink 'out': no row is touched again"), "{plan}");
    place.write("in.csv", &rows("after."));
    let plan = place.ends_with(0, &["plan", "p.yaml"]);
    assert!(plan.stdout.contains("changed:") && plan.stdout.contains("begins anew"), "{plan}");
    place.goes_on(RUN, &["begins anew"]);
}

/// A run that stops before a bad record stops within a batch. Whoever mends that record is told of
/// an edit shortly before it.
#[test]
fn an_edit_shortly_before_the_position_is_noticed() {
    let place = Place::new();
    let line = |id: u32, name: &str| format!("\n{id},{name} {id}{PAD}\n");
    let good = rows("before");
    place.write("in.csv", &good.replace(&line(1550, "before"), &line(1550, "bad")));
    place.configure(CSV, "transform: [{filter: \"name.startsWith('before') || int(name) > 0\"}]");
    place.ends_with(1, RUN);
    assert_eq!(with(&place, "before"), 1549);
    place.write("in.csv", &good.replace(&line(1510, "before"), &line(1510, "edited")));
    place.refused(&["the file was rewritten"]);
    place.write("in.csv", &good);
    place.goes_on(RUN, &["resuming after"]);
}
