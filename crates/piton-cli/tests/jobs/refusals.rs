//! What cannot be is named, and nothing is started.

use crate::place::Place;

#[test]
fn mistakes_are_named_with_their_place_and_nothing_is_started() {
    let run = "run: [sh, -c, 'echo ran >> log']";
    for (steps, named) in [
        (format!("[{{step: a, after: [b], {run}}}, {{step: b, after: [a], {run}}}]"), "a"),
        (format!("[{{step: a, {run}}}, {{step: a, {run}}}]"), "called so"),
        (format!("[{{step: a, {run}}}, {{step: b, after: [c], {run}}}]"), "'c'"),
        (format!("[{{step: a, {run}}}, {{step: b, run: [no-such-command]}}]"), "no-such-command"),
        (format!("[{{step: a, {run}}}, {{step: b}}]"), "b"),
    ] {
        let place = Place::with(&format!("job: j\nsteps: {steps}\n"));
        let ended = place.run(2);
        assert!(ended.stderr.contains(named) && ended.stderr.contains("job.yaml:"), "{ended}");
        assert!(place.lines("log").is_empty(), "{ended}");
        assert!(!place.path("piton.db").exists(), "nothing was written: {ended}");
    }
}

#[test]
fn two_at_once_never_run_twice() {
    let place = Place::with(
        "job: j\nclaim: {lease: 2s}\nsteps:\n  - {step: a, run: [sh, -c, 'echo a >> log; sleep 4']}\n",
    );
    let first = place.program.start(&["run", "job.yaml"]).unwrap();
    let second = place.program.start(&["run", "job.yaml"]).unwrap();
    let codes: Vec<_> = [first, second]
        .into_iter()
        .map(|running| running.wait(piton_testkit::program::PATIENCE).unwrap().code)
        .collect();
    assert!(codes.contains(&Some(0)) && codes.contains(&Some(4)), "{codes:?}");
    assert_eq!(place.lines("log"), ["a"]);
}
