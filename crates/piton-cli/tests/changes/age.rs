//! A resume that comes late.

use std::{thread, time::Duration};

use crate::place::{Place, ROWS, RUN};

#[test]
fn an_old_checkpoint_is_resumed_only_if_that_is_accepted() {
    let place = Place::new();
    let mut text = String::from("id\n");
    (1..=ROWS).for_each(|id| text.push_str(&format!("{id}\n")));
    place.write("in.csv", &text);
    place.configure("{csv: {path: in.csv}}", "max_age: 1s");
    place.dies();
    thread::sleep(Duration::from_millis(1_500));
    place.refused(&[
        "newest checkpoint of 'p' is 1.",
        "s old",
        "`max_age` lets 1.0 s pass",
        "--accept-age",
    ]);
    place.goes_on(&["run", "p.yaml", "--accept-age"], &["resuming after"]);
    assert_eq!(place.count("out.db", "SELECT count(*) FROM t"), i64::from(ROWS));
    // Finished work is not resumed, and neither is what an operator has sent back.
    thread::sleep(Duration::from_millis(1_100));
    place.goes_on(RUN, &["finished already"]);
    place.ends_with(0, &["reset", "p", "--yes"]);
    place.goes_on(RUN, &["finished"]);
}

#[test]
fn a_job_goes_by_its_unfinished_steps() {
    let place = Place::new();
    let job = "job: j\nmax_age: 1s\nsteps:\n  - {step: first, run: [sh, -c, 'echo first >> done']}\n  \
               - {step: second, run: [sh, -c, 'test -e go && echo second >> done']}\n";
    place.write("p.yaml", job);
    place.ends_with(1, RUN);
    place.write("go", "");
    thread::sleep(Duration::from_millis(1_500));
    let refused = place.ends_with(3, RUN);
    assert!(refused.stderr.contains("newest checkpoint of 'j' is"), "{refused}");
    let plan = place.ends_with(3, &["plan", "p.yaml"]);
    assert!(plan.stdout.contains("newest checkpoint of 'j' is"), "{plan}");
    place.goes_on(&["run", "p.yaml", "--accept-age"], &["finished"]);
    assert_eq!(std::fs::read_to_string(place.path("done")).unwrap(), "first\nsecond\n");
    thread::sleep(Duration::from_millis(1_100));
    place.goes_on(RUN, &["finished already"]);
}
