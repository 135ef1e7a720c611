//! `piton step` with a store that machines share.

use std::{fs, thread, time::Duration};

use piton_testkit::{Dice, Program, program::PATIENCE};

use crate::place::{Place, each};

#[track_caller]
fn step(place: &Place, code: i32, name: &str, script: &str) -> String {
    let args = ["step", "--job", "nightly", "--name", name, "--", "sh", "-c", script];
    place.ends_with(code, &args).stderr
}

#[test]
fn done_steps_are_skipped_and_a_position_is_found_again() {
    each(|_, place| {
        let piton = env!("CARGO_BIN_EXE_piton");
        let says = format!(
            "echo \"$PITON_STEP $PITON_ATTEMPT $PITON_RECOVERING ${{PITON_POSITION:-start}}\" >> log
            {piton} position set 7; [ \"$PITON_ATTEMPT\" = 2 ]"
        );
        step(&place, 0, "first", "true");
        assert!(step(&place, 0, "first", "exit 9").contains("is done"));
        step(&place, 1, "load", &says);
        step(&place, 0, "load", &says);
        assert_eq!(place.lines("log"), ["load 1 0 start", "load 2 1 7"]);
        place.ends_with(0, &["step", "--job", "nightly", "--finish"]);
        step(&place, 3, "first", "exit 3");
    });
}

#[test]
fn every_store_holds_the_longest_name_of_a_job() {
    each(|system, place| {
        let run = |length: usize| {
            let job = "n".repeat(length);
            let args =
                ["step", "--job", &job, "--name", &job, "--", "sh", "-c", "echo begun >> log"];
            place.program.run(&args).unwrap()
        };
        let ended = run(101);
        assert_eq!(ended.code, Some(122), "{system:?}: {ended}");
        assert!(ended.stderr.contains("1 to 100 letters"), "{system:?}: {ended}");
        assert!(place.lines("log").is_empty(), "{system:?}: nothing was begun");
        let ended = run(100);
        assert_eq!(ended.code, Some(0), "{system:?}: {ended}");
    });
}

#[test]
fn a_claim_is_held_while_the_command_of_a_killed_owner_lives() {
    each(|_, place| {
        let script = "echo begin >> log; while [ -e log ] && [ ! -e go ]; do sleep 0.05; done; echo end >> log";
        let args = ["step", "--job", "nightly", "--name", "load", "--", "sh", "-c", script];
        let running = place.program.start(&args).unwrap();
        place.until_lines("log", 1);
        running.kill().unwrap();
        for _ in 0..3 {
            step(&place, 124, "load", "echo twice >> log");
        }
        place.touch("go");
        place.until_lines("log", 2);
        step(&place, 0, "load", "echo \"again $PITON_RECOVERING\" >> log");
        assert_eq!(place.lines("log"), ["begin", "end", "again 1"]);
    });
}

/// A script of many steps, killed whole at any point, does each once or recovers it.
#[test]
fn a_script_that_is_killed_anywhere_goes_on() {
    let mut dice = Dice::new();
    each(|_, place| {
        let piton = env!("CARGO_BIN_EXE_piton");
        let script = format!(
            "set -e
            for n in 1 2 3 4 5; do
              {piton} step --job nightly --name $n -- sh -c 'echo \"'$n' begins\" >> log
                [ \"$PITON_RECOVERING\" = 0 ] || echo \"'$n' recovers\" >> log
                sleep 0.03; echo \"'$n' done\" >> log'
            done
            {piton} step --job nightly --finish; echo finished >> log"
        );
        fs::write(place.path("all.sh"), script).unwrap();
        let sh = Program::new("/bin/sh", place.path("")).with("PITON_STORE", &place.store);
        let is_finished = || place.lines("log").contains(&"finished".to_owned());
        let mut kills = 0;
        while !is_finished() {
            let mut running =
                sh.start(&["-c", "setsid sh all.sh & echo $! > pid; wait; :"]).unwrap();
            let more = place.lines("log").len() + dice.between(1, 6) as usize;
            let _ = running
                .until("progress", PATIENCE, |_| place.lines("log").len() >= more || is_finished());
            let pid = fs::read_to_string(place.path("pid")).unwrap();
            let _ = sh.run(&["-c", &format!("kill -s KILL -- -{}", pid.trim())]);
            let _ = running.wait(PATIENCE).unwrap();
            kills += 1;
            assert!(kills < 100, "it does not get on: {:?}", place.lines("log"));
            thread::sleep(Duration::from_millis(10));
        }
        let log = place.lines("log");
        for n in 1..=5 {
            let count =
                |what: &str| log.iter().filter(|line| **line == format!("{n} {what}")).count();
            assert!(count("done") >= 1, "step {n} was lost: {log:?}");
            assert_eq!(count("begins") - 1, count("recovers"), "{log:?}");
        }
        assert!(kills > 2, "only {kills} kills");
    });
}
