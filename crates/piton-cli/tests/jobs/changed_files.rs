//! A file that is changed while a run is half done, or after it.

use crate::place::{Place, RUN};

const ACCEPT: &[&str] = &["run", "job.yaml", "--accept-changes"];

const BEFORE: &str = "job: j
steps:
  - step: customer
    run: [sh, -c, 'echo customer >> log']
    STEPS
  - step: check
    run: [sh, -c, 'echo check >> log; [ -e ok ]']
";

fn file(steps: &str) -> String {
    BEFORE.replace("STEPS", steps)
}

const PAYMENT: &str = "steps: [{step: payment, run: [sh, -c, 'echo payment >> log']}]";

#[test]
fn a_new_step_below_one_that_is_done_is_run_and_nothing_else_is() {
    let place = Place::with(&file(""));
    place.run(1);
    std::fs::write(place.path("ok"), "").unwrap();
    place.job(&file(PAYMENT));
    let planned = place.ends_with(3, &["plan", "job.yaml"]).stdout;
    assert!(planned.contains("goes on below it"), "{planned}");
    place.run(3);
    place.ends_with(0, ACCEPT);
    assert_eq!(place.lines("log"), ["customer", "check", "payment", "check"]);
    place.all_done("j");
    assert!(place.run(0).stderr.contains("finished already"));
}

#[test]
fn a_new_step_of_a_finished_job_is_run() {
    let place = Place::with(&file(""));
    std::fs::write(place.path("ok"), "").unwrap();
    place.run(0);
    place.job(&(file(PAYMENT) + "  - {step: last, run: [sh, -c, 'echo last >> log']}\n"));
    let planned = place.ends_with(3, &["plan", "job.yaml"]).stdout;
    assert!(!planned.contains("does nothing"), "{planned}");
    place.ends_with(0, ACCEPT);
    assert_eq!(place.lines("log"), ["customer", "check", "payment", "last"]);
    place.all_done("j");
    assert!(place.run(0).stderr.contains("finished already"));
}

#[test]
fn what_an_operator_has_passed_over_stays_so_with_new_steps_below_it() {
    let place = Place::with(&file(""));
    place.ends_with(1, RUN);
    place.ends_with(0, &["rewind", "j", "--to", "customer", "--yes"]);
    place.ends_with(0, &["mark-done", "j", "customer"]);
    std::fs::write(place.path("ok"), "").unwrap();
    place.job(&file(PAYMENT));
    place.ends_with(0, ACCEPT);
    assert_eq!(place.lines("log"), ["customer", "check", "check"]);
}

fn with_params(params: &str) -> String {
    format!(
        "job: j\nparams: {{{params}}}\nsteps:\n  - {{step: a, run: [sh, -c, 'echo a >> log']}}
  - {{step: b, run: [sh, -c, '[ -e ok ]']}}\n"
    )
}

const DAY: &str = "d: {type: date}, n: {type: integer, default: 1}";
const GIVEN: &[&str] = &["run", "job.yaml", "--param", "d=2026-11-20"];

/// Else the half-done run would silently be left behind, and all of it be done once more.
#[test]
fn other_defaults_do_not_leave_a_half_done_run_behind() {
    let place = Place::with(&with_params(DAY));
    place.ends_with(1, GIVEN);
    let others = [
        "d: {type: date}, n: {type: integer, default: 2}",
        "d: {type: date}, n: {type: integer, default: 1}, verbose: {type: boolean, default: false}",
        "d: {type: date}",
    ];
    for params in others {
        place.job(&with_params(params));
        let refused = place.ends_with(3, GIVEN);
        assert!(refused.stderr.contains("'j(d=2026-11-20, n=1)'"), "{refused}");
        let mut plan = GIVEN.to_vec();
        plan[0] = "plan";
        let planned = place.ends_with(3, &plan);
        assert!(planned.stdout.contains("'j(d=2026-11-20, n=1)'"), "{planned}");
    }
    // Another day is another run.
    place.ends_with(1, &["run", "job.yaml", "--param", "d=2026-11-21"]);
    let began = place.lines("log").len();
    place.job(&with_params(others[1]));
    place.ends_with(1, &[GIVEN, &["--accept-changes"]].concat());
    place.ends_with(1, GIVEN);
    assert_eq!(place.lines("log").len(), began + 1, "it has begun once, and goes on");
}

#[test]
fn a_run_that_was_given_up_stands_in_nobodys_way() {
    for give_up in [&["reset", "j", "--yes"][..], &["cancel", "j"]] {
        let place = Place::with(&with_params("n: {type: integer, default: 1}"));
        place.run(1);
        place.job(&with_params("n: {type: integer, default: 2}"));
        place.run(3);
        place.ends_with(0, give_up);
        place.run(1);
        assert_eq!(place.lines("log"), ["a", "a"], "{give_up:?}");
    }
}
