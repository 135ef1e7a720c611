//! An attempt is an attempt, whether the run tries again by itself or another run does: it is counted,
//! stored, recovered first, and what is done already is not done again.

use crate::place::{Place, RUN, count};

/// What a step finds: its attempt, and whether it recovers.
const SAY: &str = "echo load $PITON_ATTEMPT $PITON_RECOVERING >> log";

#[test]
fn a_retry_is_an_attempt_as_a_second_run_is() {
    let flaky = |retry: &str| {
        format!(
            "job: j
steps:
  - step: load
    {retry}
    run: [sh, -c, '{SAY}; [ $(grep -c load log) = 3 ]']
    on_recover: {{run: [sh, -c, 'echo recover $PITON_ATTEMPT >> log']}}
"
        )
    };
    let by_itself = Place::with(&flaky("retry: {times: 2, pause: 10ms}"));
    by_itself.run(0);
    let by_hand = Place::with(&flaky(""));
    by_hand.run(1);
    by_hand.run(1);
    by_hand.run(0);
    let wanted = ["load 1 0", "recover 2", "load 2 1", "recover 3", "load 3 1"];
    assert_eq!(by_itself.lines("log"), wanted);
    assert_eq!(by_hand.lines("log"), wanted);
}

/// A position that a command has kept is found by the next attempt of the same run, and cleared by it
/// where it begins anew.
#[test]
fn a_retry_finds_the_position_that_its_command_has_kept() {
    for (restart, wanted) in
        [("from_position", ["at .", "at 1.", "at 2."]), ("from_beginning", ["at ."; 3])]
    {
        let place = Place::with(&format!(
            "job: j
steps:
  - step: load
    restart: {restart}
    retry: {{times: 5, pause: 1ms}}
    run: [sh, -c, 'echo \"at $PITON_POSITION.\" >> log; n=$(grep -c at log); \"$PITON_BIN\" position set --job j --name load $n; [ $n = 3 ]']
"
        ));
        let program = place.program.clone().with("PITON_BIN", env!("CARGO_BIN_EXE_piton"));
        program.run_to(0, RUN).unwrap();
        assert_eq!(place.lines("log"), wanted, "{restart}");
    }
}

/// The statements of a recovery are executed once for each attempt, and what began anew is cleared,
/// also by a retry.
#[test]
fn a_retry_from_the_beginning_rolls_back_once() {
    let place = Place::new();
    let db = place.database("app.db");
    db.execute_batch("CREATE TABLE t (n INTEGER); CREATE TABLE log (attempt INTEGER)").unwrap();
    place.job(
        "job: j
steps:
  - step: load
    restart: from_beginning
    retry: {times: 3, pause: 10ms}
    on_recover: {sql: {url: 'sqlite:app.db', statements: ['DELETE FROM t', 'INSERT INTO log VALUES (${step.attempt})']}}
    source: {command: {run: [sh, -c, 'seq 1 3 | sed \"s/.*/{\\\"n\\\":&}/\"; echo . >> tries; [ $(grep -c . tries) = 3 ]'], key: n}}
    sinks: {out: {sqlite: {path: app.db, table: t, mode: append}}}
    checkpoint: {records: 1}
",
    );
    place.run(0);
    assert_eq!(count(&db, "SELECT count(*) FROM t"), 3);
    assert_eq!(count(&db, "SELECT count(*) FROM log"), 2);
    assert_eq!(count(&db, "SELECT sum(attempt) FROM log"), 5);
}

/// An operator decides, and nobody else.
#[test]
fn a_manual_step_is_not_retried() {
    let place = Place::with(
        "job: j
steps:
  - {step: load, restart: manual, retry: {times: 5, pause: 1ms}, run: [sh, -c, 'echo load >> log; exit 1']}
",
    );
    place.run(1);
    assert!(place.run(3).stderr.contains("restart: manual"));
    assert_eq!(place.lines("log"), ["load"]);
}

const TREE: &str = "job: j
steps:
  - step: load
    retry: {times: 2, pause: 1ms}
    run: [sh, -c, 'echo load $PITON_ATTEMPT >> log']
    on_recover: {run: [sh, -c, 'echo recover >> log']}
    steps:
      - step: below
        retry: {times: 1, pause: 1ms}
        run: [sh, -c, 'echo below $PITON_ATTEMPT >> log; [ -e ok ]']
";

/// What a step does itself is done once, whatever becomes of what is below it.
#[test]
fn what_is_below_a_step_does_not_have_it_done_again() {
    let place = Place::with(TREE);
    place.run(1);
    assert_eq!(place.lines("log"), ["load 1", "below 1", "below 2"]);
    std::fs::write(place.path("ok"), "").unwrap();
    place.run(0);
    assert_eq!(place.lines("log")[3..], ["below 3"]);
    place.ends_with(0, &["rewind", "j", "--to", "load/below", "--yes"]);
    place.run(0);
    assert_eq!(place.lines("log")[4..], ["below 1"], "only this one began anew");
    place.ends_with(0, &["rewind", "j", "--to", "load", "--yes"]);
    place.run(0);
    assert_eq!(place.lines("log")[5..], ["load 1", "below 1"]);
}

/// The same after a kill: before that it is done is noted, the command is recovered and run again, as
/// any other; after that it is not.
#[test]
fn killed_below_a_step_that_is_not_done_again() {
    let place = Place::with(TREE);
    std::fs::write(place.path("ok"), "").unwrap();
    let struck = |hit| drop(place.program.strike(RUN, "step.begin", hit).unwrap());
    struck(1);
    struck(2);
    assert_eq!(place.lines("log"), ["recover", "load 2"]);
    struck(1);
    place.run(0);
    assert_eq!(place.lines("log")[2..], ["below 2"]);
}

/// Crashes without a word, one after the other, are what a step is parked for.
#[test]
fn a_hundred_failures_with_a_word_park_nothing() {
    let place = Place::with(
        "job: j
steps:
  - step: load
    retry: {times: 105, pause: 1ms, max_pause: 1ms}
    run: [sh, -c, 'echo load >> log; [ $(grep -c load log) = 104 ]']
",
    );
    place.run(0);
    assert_eq!(place.lines("log").len(), 104);
}

/// Killed at any moment of its recovery, a step that begins anew is told where it stood, and is
/// recovered once in each attempt; and it does begin anew.
#[test]
fn what_recovers_is_told_where_it_stood_whatever_is_killed() {
    let recovery = "on_recover:
      sql:
        url: sqlite:app.db
        statements: ['DELETE FROM t', 'INSERT INTO log VALUES (${step.attempt}, ${step.position})']";
    let place = Place::with(&format!(
        "job: j
steps:
  - step: load
    restart: from_beginning
    {recovery}
    run: [sh, -c, 'echo \"at $PITON_POSITION.\" >> log; \"$PITON_BIN\" position set --job j --name load 42; [ -e load ]']
  - step: copy
    restart: from_beginning
    {recovery}
    source: {{command: {{run: [sh, -c, 'echo \"at $PITON_POSITION.\" >> log; echo \"{{\\\"n\\\":42}}\"; [ -e copy ]'], key: n}}}}
    sinks: {{out: {{sqlite: {{path: app.db, table: t, mode: append}}}}}}
    checkpoint: {{records: 1}}
"
    ));
    let db = place.database("app.db");
    db.execute_batch("CREATE TABLE t (n INTEGER); CREATE TABLE log (attempt INTEGER, at TEXT)")
        .unwrap();
    let program = place.program.clone().with("PITON_BIN", env!("CARGO_BIN_EXE_piton"));
    program.run_to(1, RUN).unwrap();
    for step in ["load", "copy"] {
        // Around the commit of the recovery, and around each part of the clearing.
        let points = ["commit.before:1", "commit.after:1", "step.recovered:1", "save.before:2"];
        for point in points.into_iter().chain(["save.after:2"]) {
            let (point, hit) = point.split_once(':').unwrap();
            program.strike(RUN, point, hit.parse().unwrap()).unwrap();
        }
        assert_eq!(place.lines("log"), ["at ."], "{step} was not begun");
        std::fs::write(place.path(step), "").unwrap();
        std::fs::remove_file(place.path("log")).unwrap();
        let ended = program.run(RUN).unwrap();
        assert_eq!(ended.code, Some(i32::from(step == "load")), "{ended}");
        assert_eq!(place.lines("log")[0], "at .", "{step} began anew");
        let recovered = "SELECT count(*) = 5 AND count(DISTINCT attempt) = 5 AND max(attempt) = 7
            AND count(*) FILTER (WHERE at LIKE '%42%') = 5 FROM log";
        assert_eq!(count(&db, recovered), 1, "{step}");
        db.execute("DELETE FROM log", []).unwrap();
        std::fs::write(place.path("log"), "at .\n").unwrap();
    }
    assert_eq!(count(&db, "SELECT count(*) FROM t"), 1);
}

/// The time of a group, or of a `for_each`, is that of all below it: what is at work is stopped, and
/// the next attempt goes on.
#[test]
fn the_time_of_a_group_ends_what_is_below_it() {
    let place = Place::new();
    let db = place.database("app.db");
    db.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
        .unwrap();
    place.job(
        "job: j
parallel: 2
steps:
  - step: group
    timeout: 1s
    retry: {times: 1, pause: 1ms}
    on_failure: {run: [sh, -c, 'echo group failed >> log']}
    steps:
      - {step: quick, run: [sh, -c, 'echo quick >> log']}
      - {step: slow, after: [quick], run: [sh, -c, 'echo slow $PITON_ATTEMPT >> log; [ -e ok ] || sleep 60']}
      - {step: never, after: [slow], run: [sh, -c, 'echo never >> log']}
  - step: each
    after: [group]
    timeout: 1s
    for_each: {source: {sql: {url: 'sqlite:app.db', table: t, key: [n]}}, as: t}
    steps:
      - {step: one, run: [sh, -c, 'echo $PITON_T_N >> log; [ -e ok2 ] || sleep 60']}
",
    );
    let late = place.run(1);
    assert!(late.stderr.contains("step 'group': it took longer than its timeout"), "{late}");
    assert_eq!(place.lines("log"), ["quick", "slow 1", "slow 2", "group failed"]);
    std::fs::write(place.path("ok"), "").unwrap();
    let late = place.run(1);
    assert!(late.stderr.contains("step 'each': it took longer than its timeout"), "{late}");
    assert_eq!(place.lines("log")[4..], ["slow 3", "never", "1"]);
    std::fs::write(place.path("ok2"), "").unwrap();
    place.run(0);
    assert_eq!(place.lines("log")[7..], ["1", "2"]);
}
