//! Steps of a job.

use crate::place::{Place, ROWS, RUN};

fn half_done(of_job: &str, of_step: &str) -> Place {
    let place = Place::new();
    place.sql(
        "in.db",
        &format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT);
             WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {ROWS})
             INSERT INTO t SELECT i, 'name ' || i FROM c"
        ),
    );
    place.write(
        "p.yaml",
        &format!(
            "job: j\n{of_job}checkpoint: {{records: 100}}\nsteps:\n  - step: copy\n    \
             source: {{sql: {{url: 'sqlite:in.db', table: t}}}}\n    \
             sinks: {{out: {{sqlite: {{path: out.db, table: t, key: [id]}}}}}}\n{of_step}"
        ),
    );
    place.dies();
    place.sql("in.db", "ALTER TABLE t ADD COLUMN more TEXT DEFAULT 'new'");
    place
}

fn with_new(place: &Place) -> i64 {
    place.count("out.db", "SELECT count(*) FROM t WHERE more = 'new'")
}

#[test]
fn a_step_whose_source_was_changed_does_as_the_job_or_the_step_says() {
    let place = half_done("", "");
    let refused = place.ends_with(3, RUN);
    for word in ["step 'copy'", "column 'more' is new"] {
        assert!(refused.stderr.contains(word), "{refused}");
    }
    // How a change is taken is no part of what the job does.
    let place = half_done("on_source_change: continue\n", "");
    place.goes_on(RUN, &["goes on all the same", "column 'more' is new"]);
    assert!((1..i64::from(ROWS)).contains(&with_new(&place)));

    let place = half_done("on_source_change: continue\n", "    on_source_change: restart\n");
    place.goes_on(RUN, &["'j/copy' begins anew", "column 'more' is new"]);
    assert_eq!(with_new(&place), i64::from(ROWS));
    place.goes_on(RUN, &["finished already"]);
}
