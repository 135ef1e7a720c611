//! `piton step` and `piton position`: scripts that are killed at any point and go on where they were.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]
#![cfg(unix)]

use std::{fs, path::PathBuf, time::Duration};

use piton_testkit::{Dice, Program, program::PATIENCE};
use tempfile::TempDir;

struct Place {
    folder: TempDir,
    program: Program,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
        Self { folder, program }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    /// Runs `sh -c` as a step, and demands an exit code.
    #[track_caller]
    fn step(&self, code: i32, name: &str, script: &str) -> piton_testkit::program::Ended {
        let args = ["step", "--job", "nightly", "--name", name, "--", "sh", "-c", script];
        self.program.run_to(code, &args).unwrap_or_else(|error| panic!("{error}"))
    }
}

#[test]
fn done_steps_are_skipped_and_the_exit_code_is_kept() {
    let place = Place::new();
    let says = "echo out; echo err >&2; echo \"$PITON_JOB $PITON_STEP $PITON_ATTEMPT \
        $PITON_RECOVERING\" >> log";
    let first = place.step(0, "load", says);
    assert_eq!((first.stdout.as_str(), first.stderr.as_str()), ("out\n", "err\n"));
    let again = place.step(0, "load", says);
    assert!(again.stdout.is_empty() && again.stderr.contains("step 'load' of 'nightly' is done"));
    place.step(3, "send", &format!("{says}; exit 3"));
    place.step(137, "send", &format!("{says}; kill -KILL $$"));
    place.step(0, "send", says);
    let wanted = ["nightly load 1 0", "nightly send 1 0", "nightly send 2 1", "nightly send 3 1"];
    assert_eq!(place.lines("log"), wanted);
    place.program.run_to(0, &["step", "--job", "nightly", "--finish"]).unwrap();
    place.step(0, "load", says);
    assert_eq!(place.lines("log").last().unwrap(), "nightly load 1 0", "a new run");
}

/// A run of which a step failed, or died, is not closed without a word.
#[test]
fn a_run_is_not_finished_while_a_step_is_not_done() {
    let place = Place::new();
    let finish = |code: i32, more: &[&str]| {
        let args = [&["step", "--job", "nightly", "--finish"], more].concat();
        place.program.run_to(code, &args).unwrap_or_else(|error| panic!("{error}")).stderr
    };
    place.step(0, "load", "true");
    place.step(3, "send", "exit 3");
    // Its owner dies, and then it ends itself.
    let args = ["step", "--job", "nightly", "--name", "tell", "--", "sh", "-c", "kill -9 $PPID"];
    place.program.run(&args).unwrap();
    let refused = finish(123, &[]);
    for step in ["step 'send' failed", "step 'tell' had begun and not ended"] {
        assert!(refused.contains(step) && refused.contains("--accept-undone"), "{refused}");
    }
    assert!(!refused.contains("'load'"), "{refused}");
    place.step(0, "send", "true");
    place.program.run_to(0, &["mark-done", "nightly", "tell"]).unwrap();
    finish(0, &[]);
    place.step(1, "load", "exit 1");
    assert!(finish(0, &["--accept-undone"]).contains("step 'load' failed"));
    let history = place.program.run_to(0, &["history", "nightly"]).unwrap().stdout;
    assert!(history.contains("step 'load' failed"), "{history}");
    place.step(0, "load", "[ $PITON_ATTEMPT = 1 ]");
}

#[test]
fn failures_of_its_own_have_codes_of_their_own() {
    let place = Place::new();
    let code = |code: i32, args: &[&str]| {
        place.program.run_to(code, args).unwrap_or_else(|error| panic!("{error}")).stderr
    };
    code(122, &["step", "--job", "nightly"]);
    code(122, &["step", "--job", "nightly", "--name", "a/b", "--", "true"]);
    let finish = code(122, &["step", "--job", "nightly", "--finish"]);
    assert!(finish.contains("nothing to finish"), "{finish}");
    let none = code(122, &["step", "--job", "nightly", "--name", "a", "--", "no-such-command"]);
    assert!(none.contains("no-such-command"), "{none}");
    fs::write(place.path("f.yaml"), "job: file\nsteps: [{step: a, run: [\"true\"]}]").unwrap();
    code(0, &["run", "f.yaml"]);
    let of_file = code(123, &["step", "--job", "file", "--name", "a", "--", "true"]);
    assert!(of_file.contains("f.yaml"), "{of_file}");
    fs::write(place.path("bad.db"), "not a store").unwrap();
    let store = ["--store", "sqlite:bad.db"];
    let args = [&["step", "--job", "j", "--name", "a"], &store[..], &["--", "true"]].concat();
    code(123, &args);
    let mut running =
        place.program.start(&["step", "--job", "j", "--name", "a", "--", "sleep", "60"]);
    let running = running.as_mut().unwrap();
    let begun = || {
        let args = ["status", "j", "--json"];
        place.program.run(&args).is_ok_and(|ended| ended.stdout.contains("running"))
    };
    running.until("the step", PATIENCE, |_| begun()).unwrap();
    let held = code(124, &["step", "--job", "j", "--name", "b", "--", "true"]);
    assert!(held.contains("is already running"), "{held}");
}

/// A script's own position is kept under the claim of its step, and the next attempt finds it.
#[test]
fn a_position_is_found_again_by_the_next_attempt() {
    let place = Place::new();
    let piton = env!("CARGO_BIN_EXE_piton");
    let script = format!(
        "echo \"from ${{PITON_POSITION:-start}}\" >> log
        for n in 9 10 11; do cd / && {piton} position set $n; cd - >/dev/null; done
        [ \"$PITON_ATTEMPT\" = 2 ]"
    );
    place.step(1, "load", &script);
    let get = ["position", "get", "--job", "nightly", "--name", "load"];
    assert_eq!(place.program.run_to(0, &get).unwrap().stdout, "11\n");
    let set = ["position", "set", "--job", "nightly", "--name", "load", "a b"];
    place.program.run_to(0, &set).unwrap();
    place.step(0, "load", &script);
    assert_eq!(place.lines("log"), ["from start", "from a b"]);
}

/// A paused script waits, and a cancelled one begins nothing, until it is resumed.
#[test]
fn an_operator_pauses_cancels_and_resumes_a_script() {
    let place = Place::new();
    let steered = |command: &str| place.program.run_to(0, &[command, "nightly"]).unwrap().stderr;
    place.step(0, "load", "true");
    assert!(steered("cancel").contains("`piton resume` has it go on"));
    let refused = place.step(123, "send", "echo sent >> log");
    assert!(refused.stderr.contains("piton resume nightly"), "{refused}");
    let status = place.program.run_to(0, &["status", "nightly"]).unwrap().stdout;
    assert!(status.contains("`piton resume nightly` has it go on"), "{status}");
    steered("resume");
    steered("pause");
    let args = ["step", "--job", "nightly", "--name", "send", "--", "sh", "-c", "echo sent >> log"];
    let mut waiting = place.program.start(&args).unwrap();
    waiting.until("its waiting", PATIENCE, |seen| seen.stderr().contains("is paused")).unwrap();
    assert!(place.lines("log").is_empty());
    steered("resume");
    assert_eq!(waiting.wait(PATIENCE).unwrap().code, Some(0));
    assert_eq!(place.lines("log"), ["sent"]);
}

/// A command that outlived its owner does not move the position of the attempt after it.
#[test]
fn a_position_is_fenced_by_the_claim_of_its_step() {
    let place = Place::new();
    let piton = env!("CARGO_BIN_EXE_piton");
    let first = format!("echo \"$PITON_CLAIM\" > claim; {piton} position set 1; exit 1");
    place.step(1, "load", &first);
    let late = format!(
        "{piton} position set 2
        PITON_CLAIM=$(cat claim) {piton} position set 9 2> late; echo $? >> late
        [ $({piton} position get) = 2 ] && [ $({piton} position get --name load) = 2 ]"
    );
    place.step(0, "load", &late);
    let late = place.lines("late");
    assert!(late[0].contains("taken over by a newer owner") && late[1] == "4", "{late:?}");
}

/// Killed alone, `piton step` leaves its command at work: nobody else begins a step before it ends.
#[test]
fn a_claim_is_held_while_the_command_of_a_killed_owner_lives() {
    let place = Place::new();
    let args = ["step", "--job", "nightly", "--name", "load", "--", "sh", "-c"];
    let script = "echo begin >> log; while [ ! -e go ]; do sleep 0.05; done; echo end >> log";
    let mut running = place.program.start(&[&args[..], &[script]].concat()).unwrap();
    running.until("its command", PATIENCE, |_| !place.lines("log").is_empty()).unwrap();
    running.kill().unwrap();
    for _ in 0..3 {
        place.step(124, "load", "echo twice >> log");
        std::thread::sleep(Duration::from_millis(300));
    }
    fs::write(place.path("go"), "").unwrap();
    let began = std::time::Instant::now();
    while place.lines("log").len() < 2 {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(100));
    place.step(0, "load", "echo \"again $PITON_RECOVERING\" >> log");
    assert_eq!(place.lines("log"), ["begin", "end", "again 1"]);
}

/// A script of many steps, killed whole at any point, does each once or recovers it.
#[test]
fn a_script_that_is_killed_anywhere_goes_on() {
    let place = Place::new();
    let piton = env!("CARGO_BIN_EXE_piton");
    let script = format!(
        "set -e
        for n in 1 2 3 4 5 6 7 8; do
          {piton} step --job nightly --name $n -- sh -c 'echo \"'$n' begins\" >> log
            [ \"$PITON_RECOVERING\" = 0 ] || echo \"'$n' recovers\" >> log
            sleep 0.03; echo \"'$n' done\" >> log'
        done
        {piton} step --job nightly --finish; echo finished >> log"
    );
    fs::write(place.path("all.sh"), script).unwrap();
    let sh = Program::new("/bin/sh", place.folder.path());
    let mut dice = Dice::new();
    let mut kills = 0;
    while !place.lines("log").contains(&"finished".to_owned()) {
        let whole = "setsid sh all.sh & echo $! > pid; wait; :";
        let mut running = sh.start(&["-c", whole]).unwrap();
        let more = place.lines("log").len() + dice.between(1, 6) as usize;
        let lines = || place.lines("log");
        let _ = running.until("progress", PATIENCE, |_| {
            lines().len() >= more || lines().contains(&"finished".to_owned())
        });
        let pid = fs::read_to_string(place.path("pid")).unwrap();
        let _ = sh.run(&["-c", &format!("kill -s KILL -- -{}", pid.trim())]);
        running.wait(PATIENCE).unwrap();
        kills += 1;
        assert!(kills < 200, "it does not get on: {:?}", place.lines("log"));
    }
    let log = place.lines("log");
    for n in 1..=8 {
        let count = |what: &str| log.iter().filter(|line| **line == format!("{n} {what}")).count();
        assert!(count("done") >= 1, "step {n} was lost: {log:?}");
        assert_eq!(count("begins") - 1, count("recovers"), "{log:?}");
    }
    assert!(kills > 2, "only {kills} kills");
}

/// What a script has done is no step of a file, whatever it is called, and the other way round.
#[test]
fn a_run_belongs_to_a_script_or_to_a_file() {
    let place = Place::new();
    let code = |code: i32, args: &[&str]| {
        place.program.run_to(code, args).unwrap_or_else(|error| panic!("{error}")).stderr
    };
    for (job, name) in [("d#2", "a"), ("p(x=1)", "a"), ("a\nb", "a"), ("d", "a b"), ("d", "a#1")] {
        let refused = code(122, &["step", "--job", job, "--name", name, "--", "true"]);
        assert!(refused.contains("letters, digits"), "{refused}");
        code(2, &["position", "set", "--job", job, "--name", name, "1"]);
    }
    code(122, &["step", "--job", "d#2", "--finish"]);
    let log = "steps: [{step: a, run: [sh, -c, 'echo file >> log']}]";
    let plain = format!("job: crm\n{log}");
    fs::write(place.path("crm.yaml"), &plain).unwrap();
    fs::write(place.path("with.yaml"), format!("job: crm\nparams: {{x: {{default: '1'}}}}\n{log}"))
        .unwrap();
    code(0, &["step", "--job", "crm", "--name", "a", "--", "true"]);
    for finish in [false, true] {
        if finish {
            code(0, &["step", "--job", "crm", "--finish"]);
        }
        for file in ["crm.yaml", "with.yaml"] {
            let refused = code(3, &["run", file]);
            assert!(refused.contains("another name") && refused.contains("piton reset crm"));
        }
        assert!(code(3, &["plan", "crm.yaml"]).contains("piton reset crm"));
    }
    assert!(place.lines("log").is_empty(), "nothing was begun");
    code(0, &["reset", "crm", "--yes"]);
    code(0, &["run", "crm.yaml"]);
    assert_eq!(place.lines("log"), ["file"], "nothing of the script counts");
    fs::write(place.path("other.yaml"), plain.replace("crm", "other")).unwrap();
    fs::write(
        place.path("params.yaml"),
        "job: params\nparams: {x: {default: '1'}}\nsteps: [{step: a, run: ['true']}]",
    )
    .unwrap();
    code(0, &["run", "other.yaml"]);
    code(0, &["run", "params.yaml"]);
    for job in ["crm", "other", "params"] {
        let refused = code(123, &["step", "--job", job, "--name", "b", "--", "true"]);
        assert!(refused.contains("job of a file"), "{refused}");
        code(123, &["step", "--job", job, "--finish"]);
    }
}

/// To keep a position is no run, and those who do so at once wait for each other.
#[test]
fn a_position_that_is_kept_changes_no_run() {
    let place = Place::new();
    let set = ["position", "set", "--job", "nightly", "--name", "load", "there"];
    let state = || {
        let shown = place.program.run_to(0, &["status", "nightly", "--json"]).unwrap().stdout;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown["pipelines"][0]["state"].as_str().unwrap().to_owned()
    };
    let runs = || {
        let shown = place.program.run_to(0, &["history", "nightly", "--json"]).unwrap().stdout;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown["runs"].as_array().unwrap().len()
    };
    place.program.run_to(0, &set).unwrap();
    assert_eq!((state().as_str(), runs()), ("new", 0));
    place.step(1, "load", "[ $PITON_POSITION = elsewhere ]");
    assert_eq!((state().as_str(), runs()), ("failed", 1));
    let at_once = |outside: bool, n: usize| {
        let n = n.to_string();
        let mut args = vec!["position", "set"];
        if outside {
            args.extend(["--job", "nightly", "--name", "load"]);
        }
        args.push(&n);
        place.program.start(&args).unwrap()
    };
    let all: Vec<_> = (0..20).map(|n| at_once(true, n)).collect();
    for one in all {
        let ended = one.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{ended}");
    }
    assert_eq!((state().as_str(), runs()), ("failed", 1));
    let piton = env!("CARGO_BIN_EXE_piton");
    let script = format!(
        "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
          {{ {piton} position set $n; echo $? >> codes; }} &
        done; wait"
    );
    place.step(0, "load", &script);
    assert_eq!(place.lines("codes"), ["0"; 20]);
    place.program.run_to(0, &["step", "--job", "nightly", "--finish"]).unwrap();
    place.program.run_to(0, &set).unwrap();
    place.step(0, "load", "[ $PITON_POSITION = there ] && [ $PITON_ATTEMPT = 1 ]");
}

/// A step that is called within another one of its job says so, and does not wait for itself.
#[test]
fn a_step_within_a_step_of_the_same_job() {
    let place = Place::new();
    let piton = env!("CARGO_BIN_EXE_piton");
    let inner = format!("{piton} step --job nightly --name inner -- true");
    let nested = place.step(124, "outer", &inner).stderr;
    assert!(nested.contains("within step 'outer' of 'nightly'"), "{nested}");
    place.step(0, "outer", &inner.replace("nightly", "other"));
}
