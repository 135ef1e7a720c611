//! `piton position` within commands of a job, and from outside.

use std::fs;

use crate::place::Place;

/// A job whose steps are `sh` scripts in files, which find `piton` as `$PITON`.
fn place(job: &str, scripts: &[(&str, &str)]) -> Place {
    let mut place = Place::with(job);
    place.program = place.program.with("PITON", env!("CARGO_BIN_EXE_piton"));
    for (name, script) in scripts {
        fs::write(place.path(name), script).unwrap();
    }
    place
}

/// The step of the run with parameters is meant, wherever it stands in the tree, and the next
/// attempt is told, in the same run or in another.
#[test]
fn a_command_keeps_a_position_of_its_own_step() {
    let place = place(
        "job: j\nparams: {day: {type: date}}\nsteps:
  - step: a
    steps:
      - {step: b, retry: {times: 1, pause: 1ms}, run: [sh, b.sh, '${param.day}']}
",
        &[(
            "b.sh",
            "at=${PITON_POSITION:-0}; echo \"$1 $PITON_ATTEMPT from $at\" >> log
            $PITON position set $((at + 1)) || exit 9
            [ $($PITON position get) = $((at + 1)) ] || exit 8
            [ $($PITON position get --job j --name a/b) = $((at + 1)) ] || exit 7
            $PITON position set --name nothing 1 2>/dev/null && exit 6
            [ $at = 2 ]",
        )],
    );
    let run = ["run", "job.yaml", "--param", "day=2026-11-20"];
    place.ends_with(1, &run);
    assert_eq!(place.lines("log"), ["2026-11-20 1 from 0", "2026-11-20 2 from 1"]);
    let get = ["position", "get", "--job", "j", "--name", "a/b"];
    assert_eq!(place.ends_with(0, &get).stdout, "2\n", "the only choice of parameters");
    place.ends_with(0, &run);
    assert_eq!(place.lines("log")[2..], ["2026-11-20 3 from 2"]);
    place.ends_with(1, &["run", "job.yaml", "--param", "day=2026-11-21"]);
    let several = place.ends_with(2, &get).stderr;
    assert!(several.contains("'j(day=2026-11-20)', 'j(day=2026-11-21)'"), "{several}");
}

/// A step that begins anew has no position, and one of many parents none of another.
#[test]
fn a_position_counts_for_its_own_parent_and_goes_when_the_step_begins_anew() {
    let place = place(
        "job: j\nsteps:
  - step: each
    retry: {times: 1, pause: 1ms}
    for_each: {source: {csv: {path: in.csv}}, as: p}
    steps: [{step: do, run: [sh, do.sh]}]
  - {step: anew, restart: from_beginning, run: [sh, anew.sh]}
",
        &[
            ("in.csv", "id\n1\n2\n"),
            (
                "do.sh",
                "echo \"$PITON_P_ID from ${PITON_POSITION:-start}\" >> log
                $PITON position set here-$PITON_P_ID && [ $PITON_RECOVERING = $((PITON_P_ID - 1)) ]",
            ),
            (
                "anew.sh",
                "echo \"anew from ${PITON_POSITION:-start}\" >> log
                $PITON position set far && [ $PITON_RECOVERING = 1 ]",
            ),
        ],
    );
    place.run(1);
    let wanted = ["1 from start", "2 from start", "2 from here-2", "anew from start"];
    assert_eq!(place.lines("log"), wanted);
    place.run(0);
    assert_eq!(place.lines("log")[4..], ["anew from start"]);
}

/// From outside, the steps of the job's file are known, and the job is what it was.
#[test]
fn an_operator_sets_the_position_of_a_step() {
    let place = place(
        "job: j\nsteps:\n  - {step: a, run: [sh, a.sh]}\n",
        &[("a.sh", "[ \"$PITON_POSITION\" = there ]")],
    );
    place.run(1);
    let set = |code: i32, name: &str| {
        let args = ["position", "set", "--job", "j", "--name", name, "there"];
        place.ends_with(code, &args).stderr
    };
    assert!(set(2, "b").contains("Its steps: a"));
    set(0, "a");
    place.job("job: j\nsteps:\n  - {step: a, run: [sh, ./a.sh]}\n");
    assert!(place.run(3).stderr.contains("definition of 'j' has changed"));
    place.ends_with(0, &["run", "job.yaml", "--accept-changes"]);
    assert!(set(3, "a").contains("has finished"));
    let whose = place.ends_with(2, &["position", "get", "--job", "j"]).stderr;
    assert!(whose.contains("--name"), "{whose}");
}
