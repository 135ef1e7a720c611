//! Records that steps of a job have set aside: counted, listed, delivered again.

use std::fs;

use serde_json::Value;

use crate::place::{Place, count};

const JOB: &str = "job: q
params: {day: {type: date}}
on_error: dead_letter
steps:
  - step: copy
    source: {csv: {path: in.csv, types: {n: integer}}}
    sinks: {db: {sqlite: {path: out.db, table: t, key: [id]}}}
  - step: lines
    source: {csv: {path: in.csv, types: {n: integer}}}
    sinks: {out: {jsonl: {path: out.jsonl}}}
";
const DAY: [&str; 2] = ["--param", "day=2026-11-20"];

fn begun(job: &str) -> Place {
    let place = Place::with(job);
    fs::write(place.path("in.csv"), "id,n\n1,1\n2,x\n3,y\n4,4\n").unwrap();
    place
}

#[test]
fn what_steps_have_set_aside_is_counted_and_delivered_again() {
    let place = begun(JOB);
    place.database("out.db").execute_batch("CREATE TABLE t (id PRIMARY KEY, n)").unwrap();
    let run = place.ends_with(0, &["run", "job.yaml", DAY[0], DAY[1]]).stderr;
    assert!(run.contains("step 'copy': done, 4 records, 2 set aside,"), "{run}");
    assert!(run.contains("set aside: 4 records; see `piton dead-letters list"), "{run}");
    let all: Value =
        serde_json::from_str(&place.ends_with(0, &["status", "--json"]).stdout).unwrap();
    assert_eq!(all["pipelines"][0]["dead_letters"], 4);
    let tree = place.ends_with(0, &["status", "q"]).stdout;
    assert!(tree.contains("SET ASIDE") && tree.contains("set aside: 4 records"), "{tree}");
    for (name, wanted) in [("q", "4\n"), ("q/copy", "2\n"), ("q(day=2026-11-20)/lines", "2\n")] {
        assert_eq!(place.ends_with(0, &["dead-letters", "count", name]).stdout, wanted, "{name}");
    }
    let listed = place.ends_with(0, &["dead-letters", "list", "q"]).stdout;
    assert!(listed.starts_with("STEP ") && listed.contains("\nlines "), "{listed}");
    let shown = place.ends_with(0, &["dead-letters", "show", "q/copy", "in.csv@9"]).stdout;
    assert!(shown.contains("record: 2,x"), "{shown}");
    let replay = ["dead-letters", "replay", "job.yaml", "--all", DAY[0], DAY[1]];
    assert!(place.ends_with(1, &replay).stderr.contains("4 still set aside"));
    place.job(&JOB.replace(", types: {n: integer}", ""));
    assert!(place.ends_with(0, &replay).stderr.contains("4 records delivered"));
    assert_eq!(count(&place.database("out.db"), "SELECT count(*) FROM t"), 4);
    assert_eq!(place.lines("out.jsonl").len(), 4);
    assert_eq!(place.ends_with(0, &["dead-letters", "count", "q"]).stdout, "0\n");
}

/// What cannot be delivered by itself is refused with what to do.
#[test]
fn letters_of_a_for_each_and_of_whole_files_are_not_delivered_alone() {
    let place = begun(
        "job: q
on_error: dead_letter
steps:
  - step: whole
    restart: from_beginning
    source: {csv: {path: in.csv, types: {n: integer}}}
    sinks: {out: {jsonl: {path: out.jsonl}}}
  - step: each
    for_each: {source: {csv: {path: parents.csv}}, as: p}
    steps:
      - step: copy
        source: {csv: {path: in.csv, types: {n: integer}}}
        sinks: {db: {sqlite: {path: out.db, table: t, key: [id]}}}
",
    );
    fs::write(place.path("parents.csv"), "id\n7\n").unwrap();
    place.run(0);
    assert_eq!(place.ends_with(0, &["dead-letters", "count", "q"]).stdout, "4\n");
    let whole = place.ends_with(3, &["dead-letters", "replay", "job.yaml", "--all"]).stderr;
    assert!(whole.contains("piton rewind q --to"), "{whole}");
    place.ends_with(0, &["dead-letters", "drop", "q/whole", "--all", "--yes"]);
    let each = place.ends_with(3, &["dead-letters", "replay", "job.yaml", "--all"]).stderr;
    assert!(each.contains("'each'") && each.contains("piton rewind q --to each"), "{each}");
    place.ends_with(0, &["dead-letters", "drop", "q", "--all", "--yes"]);
    assert_eq!(place.ends_with(0, &["dead-letters", "count", "q"]).stdout, "0\n");
}
