//! Steps that are skipped, retried, marked done and gone back to; identity and parameters.

use piton_testkit::program::PATIENCE;

use crate::place::{Place, count};

const LOG: &str = "job: nightly
steps:
  - step: one
    run: [sh, -c, 'echo one $PITON_ATTEMPT $PITON_RECOVERING >> log']
  - step: group
    steps:
      - {step: two, run: [sh, -c, 'echo two >> log; [ -e ok ]']}
      - {step: three, run: [sh, -c, 'echo three >> log']}
  - step: last
    after: [group]
    run: [sh, -c, 'echo last >> log']
";

#[test]
fn a_failed_step_is_done_again_and_those_before_it_are_skipped() {
    let place = Place::with(LOG);
    let failed = place.run(1);
    assert!(failed.stderr.contains("step 'group/two': the command 'sh' ended with exit code 1"));
    let steps = place.steps("nightly");
    let states: Vec<_> = steps.iter().map(|(step, state)| (&**step, &**state)).collect();
    let wanted = [
        ("one", "done"),
        ("group", "failed"),
        ("group/two", "failed"),
        ("group/three", "not_started"),
        ("last", "not_started"),
    ];
    assert_eq!(states, wanted);
    std::fs::write(place.path("ok"), "").unwrap();
    place.run(0);
    assert_eq!(place.lines("log"), ["one 1 0", "two", "two", "three", "last"]);
    let drawn = place.ends_with(0, &["status", "nightly"]).stdout;
    assert!(drawn.contains("\n  two ") && drawn.contains("5 of 5 steps done"), "{drawn}");
}

#[test]
fn an_operator_marks_a_step_done_and_goes_back_to_one() {
    let place = Place::with(LOG);
    place.run(1);
    let unknown = place.ends_with(2, &["mark-done", "nightly", "group/four"]);
    assert!(unknown.stderr.contains("Its steps: one, group, group/two"), "{unknown}");
    place.ends_with(0, &["mark-done", "nightly", "group/two", "--why", "done by hand"]);
    place.run(0);
    assert_eq!(place.lines("log"), ["one 1 0", "two", "three", "last"]);
    std::fs::write(place.path("ok"), "").unwrap();
    place.ends_with(0, &["rewind", "nightly", "--to", "group", "--yes"]);
    place.run(0);
    assert_eq!(place.lines("log")[4..], ["two", "three", "last"]);
    let history = place.ends_with(0, &["history", "nightly"]).stdout;
    assert!(history.contains("done by hand") && history.contains("rewind"), "{history}");
    assert!(place.run(0).stderr.contains("had finished already"));
}

#[test]
fn a_finished_job_begins_again_only_when_it_is_told_to() {
    let place = Place::with(
        "job: nightly\nparams: {date: {type: date}}\nsteps:\n  - {step: load, run: [sh, -c, 'echo $0 >> log', '${param.date}']}\n",
    );
    let on = |date: &str, more: &[&str], code| {
        let param = format!("date={date}");
        place.ends_with(code, &[&["run", "job.yaml", "--param", &param], more].concat())
    };
    let missing = place.run(2);
    assert!(missing.stderr.contains("date"), "{missing}");
    assert!(on("tomorrow", &[], 2).stderr.contains("date"));
    on("2026-11-20", &[], 0);
    assert!(on("2026-11-20", &[], 0).stderr.contains("had finished already"));
    on("2026-11-21", &[], 0);
    on("2026-11-20", &["--again"], 0);
    assert_eq!(place.lines("log"), ["2026-11-20", "2026-11-21", "2026-11-20"]);
    let undeclared = place.ends_with(2, &["run", "job.yaml", "--param", "day=1"]);
    assert!(undeclared.stderr.contains("day"), "{undeclared}");
}

#[test]
fn a_changed_definition_is_refused_with_the_difference() {
    let place = Place::with(LOG);
    place.run(1);
    place.job(&LOG.replace("echo two", "echo 2"));
    let refused = place.run(3);
    assert!(refused.stderr.contains("group/two"), "{refused}");
    assert_eq!(place.lines("log"), ["one 1 0", "two"], "nothing was begun");
    std::fs::write(place.path("ok"), "").unwrap();
    place.ends_with(0, &["run", "job.yaml", "--accept-changes"]);
    assert_eq!(place.lines("log"), ["one 1 0", "two", "2", "three", "last"]);
}

#[test]
fn steps_are_retried_passed_over_recovered_and_followed_up() {
    let place = Place::with(
        "job: j
params: {night: {type: boolean, default: true}}
on_failure: {run: [sh, -c, 'echo job failed >> log']}
steps:
  - step: flaky
    retry: {times: 2, pause: 10ms}
    run: [sh, -c, 'echo flaky >> log; [ $(grep -c flaky log) = 3 ]']
    on_complete: {run: [sh, -c, 'echo complete >> log']}
  - {step: day, when: '!param.night', run: [sh, -c, 'echo day >> log']}
  - step: hard
    run: [sh, -c, '[ -e ok ] || { echo hard >> log; exit 1; }']
    on_recover: {run: [sh, -c, 'echo recover $PITON_ATTEMPT >> log']}
    on_failure: {run: [sh, -c, 'echo failed >> log']}
  - {step: slow, timeout: 200ms, run: [sleep, '60']}
",
    );
    place.run(1);
    let first = ["flaky", "flaky", "flaky", "complete", "hard", "failed", "job failed"];
    assert_eq!(place.lines("log"), first);
    std::fs::write(place.path("ok"), "").unwrap();
    let slow = place.run(1);
    assert!(slow.stderr.contains("longer than its timeout"), "{slow}");
    assert_eq!(place.lines("log")[first.len()..], ["recover 2", "job failed"]);
}

/// A step of SQL that recovers, replays, and is done once.
#[test]
fn a_rollback_by_delete_and_a_replay() {
    let place = Place::new();
    let db = place.database("app.db");
    db.execute_batch("CREATE TABLE t (n INTEGER, who TEXT); CREATE TABLE log (what TEXT)").unwrap();
    place.job(
        "job: j
params: {who: {type: text, default: \"O'Hara; DROP TABLE t\"}}
steps:
  - step: load
    restart: from_beginning
    on_recover: {sql: {url: 'sqlite:app.db', statements: ['DELETE FROM t', 'INSERT INTO log VALUES (${step.attempt})']}}
    run: [sh, -c, 'echo run >> log; [ -e ok ]']
    steps:
      - step: rows
        sql: {url: 'sqlite:app.db', statement: 'INSERT INTO t VALUES (1, ${param.who})'}
",
    );
    db.execute("INSERT INTO t VALUES (9, 'left behind')", []).unwrap();
    place.run(1);
    std::fs::write(place.path("ok"), "").unwrap();
    place.run(0);
    assert_eq!(count(&db, "SELECT count(*) FROM t WHERE who = 'O''Hara; DROP TABLE t'"), 1);
    assert_eq!(count(&db, "SELECT count(*) FROM t"), 1);
    assert_eq!(count(&db, "SELECT sum(what) FROM log"), 2);
}

/// What was deleted by a recovery is done again, although it was marked as done before.
#[test]
fn a_rollback_of_steps_that_were_done_replays_them() {
    let place = Place::new();
    let db = place.database("app.db");
    db.execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
    place.job(
        "job: j
steps:
  - step: load
    restart: from_beginning
    on_recover: {sql: {url: 'sqlite:app.db', statement: 'DELETE FROM t'}}
    steps:
      - {step: rows, sql: {url: 'sqlite:app.db', statement: 'INSERT INTO t VALUES (1)'}}
      - step: fails
        run: [sh, -c, '[ -e ok ]']
",
    );
    place.run(1);
    assert_eq!(count(&db, "SELECT count(*) FROM t"), 1);
    std::fs::write(place.path("ok"), "").unwrap();
    place.run(0);
    assert_eq!(count(&db, "SELECT count(*) FROM t"), 1);
}

/// Killed between the commit of its statements and the note that it is done, a step is done: what
/// would recover it is not needed.
#[test]
fn a_committed_step_is_not_recovered() {
    let place = Place::new();
    let db = place.database("app.db");
    db.execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
    place.job(
        "job: j
steps:
  - step: rows
    sql: {url: 'sqlite:app.db', statement: 'INSERT INTO t VALUES (1)'}
    on_recover: {sql: {url: 'sqlite:app.db', statement: 'DELETE FROM t'}}
",
    );
    place.program.strike(&["run", "job.yaml"], "step.body", 1).unwrap();
    place.run(0);
    assert_eq!(count(&db, "SELECT count(*) FROM t"), 1);
}

#[test]
fn a_finished_job_that_was_changed_begins_again() {
    let place = Place::with(LOG);
    std::fs::write(place.path("ok"), "").unwrap();
    place.run(0);
    place.job(&LOG.replace("echo two", "echo 2"));
    assert!(place.run(3).stderr.contains("group/two"));
    place.ends_with(0, &["run", "job.yaml", "--again"]);
    assert_eq!(place.lines("log")[4..], ["one 1 0", "2", "three", "last"]);
}

#[test]
fn independent_branches_run_beside_each_other_up_to_a_limit() {
    let step = |name: &str| {
        format!("  - {{step: {name}, run: [sh, -c, 'echo + >> log; sleep 0.4; echo - >> log']}}\n")
    };
    let steps: String = ["a", "b", "c", "d"].iter().map(|name| step(name)).collect();
    let place = Place::with(&format!("job: j\nparallel: 2\nsteps:\n{steps}"));
    place.run(0);
    let (mut running, mut most) = (0, 0);
    for line in place.lines("log") {
        running += if line == "+" { 1 } else { -1 };
        most = most.max(running);
    }
    assert_eq!(most, 2);
}

#[test]
fn a_job_is_paused_and_cancelled_while_it_runs() {
    let step = |n| format!("  - {{step: s{n}, run: [sh, -c, 'echo {n} >> log; sleep 0.05']}}");
    let steps: Vec<String> = (0..200).map(step).collect();
    let place = Place::with(&format!("job: j\nsteps:\n{}\n", steps.join("\n")));
    let mut running = place.program.start(&["run", "job.yaml"]).unwrap();
    running.until("its first step", PATIENCE, |_| !place.lines("log").is_empty()).unwrap();
    place.ends_with(0, &["pause", "j"]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let paused = place.lines("log").len();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(place.lines("log").len(), paused, "it idles");
    place.ends_with(0, &["resume", "j"]);
    running.until("it to go on", PATIENCE, |_| place.lines("log").len() > paused + 1).unwrap();
    place.ends_with(0, &["cancel", "j"]);
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(place.run(3).stderr.contains("cancelled"));
    let before = place.lines("log").len();
    let mut again = place.program.start(&["run", "job.yaml", "--again"]).unwrap();
    again.until("it to go on", PATIENCE, |_| place.lines("log").len() > before + 2).unwrap();
    again.kill().unwrap();
}

/// How long a running step will take is known in other processes, too; not once it runs no more.
#[test]
fn status_tells_what_is_left_of_a_running_step() {
    let place = Place::with(
        "job: j\nsteps:
  - step: copy
    source: {csv: {path: in.csv}, rate: 200/s}
    sinks: {out: {jsonl: {path: out.jsonl}}}
",
    );
    std::fs::write(place.path("in.csv"), "id\n".to_owned() + &"1\n".repeat(100_000)).unwrap();
    let seen = |key: &str| {
        let status = place.program.run(&["status", "j", "--json"]).ok()?;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).ok()?;
        status["steps"][0][key].as_f64()
    };
    let mut running = place.program.start(crate::place::RUN).unwrap();
    running.until("what is left", PATIENCE, |_| seen("left_seconds").is_some()).unwrap();
    assert!(seen("share").is_some_and(|share| share > 0.0 && share < 1.0), "{:?}", seen("share"));
    for name in ["j", "j/copy"] {
        let status = place.ends_with(0, &["status", name]).stdout;
        assert!(status.to_lowercase().contains("left"), "{status}");
    }
    running.terminate().unwrap();
    running.wait(PATIENCE).unwrap();
    assert_eq!(seen("left_seconds"), None);
    assert!(!place.ends_with(0, &["status", "j"]).stdout.to_lowercase().contains("left"));
}
