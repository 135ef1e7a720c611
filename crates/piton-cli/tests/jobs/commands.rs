//! Commands of steps: what outlives whom, and what they print.

use std::time::{Duration, Instant};

use piton_testkit::program::PATIENCE;

use crate::place::{Place, RUN};

/// Leaves a line when it begins, waits to be told, and leaves another.
const LONG: &str =
    "run: [sh, -c, 'echo begin >> log; while [ ! -e go ]; do sleep 0.05; done; echo end >> log']";

/// SIGKILL of the program alone, while its command lives on: never two at once.
#[test]
fn a_job_is_held_while_the_command_of_a_killed_owner_lives() {
    is_held_while_it_lives(&format!("steps:\n  - step: long\n    {LONG}\n"));
}

/// The same of what is done once the job is done, or has failed.
#[test]
fn a_job_is_held_while_a_command_of_its_own_lives() {
    is_held_while_it_lives(&format!(
        "on_complete: {{{LONG}}}\nsteps: [{{step: a, run: ['true']}}]\n"
    ));
}

fn is_held_while_it_lives(job: &str) {
    let place = Place::with(&format!("job: j\nclaim: {{lease: 1s, when_held: wait}}\n{job}"));
    let mut first = place.program.start(RUN).unwrap();
    first.until("its command", PATIENCE, |_| !place.lines("log").is_empty()).unwrap();
    first.kill().unwrap();
    let heir = place.program.start(RUN).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(place.lines("log"), ["begin"], "longer than the lease");
    std::fs::write(place.path("go"), "").unwrap();
    let ended = heir.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(place.lines("log"), ["begin", "end", "begin", "end"]);
}

#[test]
fn a_step_that_prints_gigabytes_takes_no_memory() {
    let place = Place::with(
        "job: j\nsteps:\n  - {step: loud, run: [sh, -c, 'yes 0123456789 | head -c 300000000']}\n",
    );
    let ended = place.run(0);
    assert!(ended.peak_memory.is_none_or(|peak| peak < 100 << 20), "{:?}", ended.peak_memory);
}

#[test]
fn asked_to_stop_it_ends_its_command_and_goes_on_another_time() {
    let place = Place::with(
        "job: j\nsteps:
  - {step: one, run: [sh, -c, 'echo one >> log']}
  - step: two
    run: [sh, -c, 'echo two $PITON_RECOVERING >> log; [ -e ok ] || sleep 60']
",
    );
    let mut running = place.program.start(RUN).unwrap();
    running.until("its second step", PATIENCE, |_| place.lines("log").len() == 2).unwrap();
    let asked = Instant::now();
    running.terminate().unwrap();
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    std::fs::write(place.path("ok"), "").unwrap();
    place.run(0);
    assert_eq!(place.lines("log"), ["one", "two 0", "two 1"]);
}

/// Whoever asks is told why nothing goes on, and not to wait for a process that is gone.
#[test]
fn a_run_does_not_wait_for_the_command_of_a_killed_owner_and_says_what_is_at_work() {
    let place = Place::with(&format!("job: j\nsteps:\n  - step: long\n    {LONG}\n"));
    let mut first = place.program.start(RUN).unwrap();
    first.until("its command", PATIENCE, |_| !place.lines("log").is_empty()).unwrap();
    first.kill().unwrap();
    let asked = Instant::now();
    let told = [
        place.run(4).stderr,
        place.ends_with(4, &["plan", "job.yaml"]).stdout,
        place.ends_with(0, &["status", "j"]).stdout,
    ];
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    for told in &told {
        for word in ["has died", "step 'long' runs 'sh -c echo begin"] {
            assert!(told.contains(word), "{word}: {told}");
        }
        assert!(!told.contains("already running") && !told.contains("held by"), "{told}");
    }
    std::fs::write(place.path("go"), "").unwrap();
    let status = || place.ends_with(0, &["status", "j"]).stdout;
    let until = Instant::now() + PATIENCE;
    while status().contains("has died, and") && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    place.run(0);
    assert_eq!(place.lines("log"), ["begin", "end", "begin", "end"]);
}

/// Whoever is asked to end does so, and gives the job up, although nobody reads what is still to be
/// told.
#[cfg(target_os = "linux")]
#[test]
fn asked_to_stop_it_ends_although_nobody_reads_what_is_printed() {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};
    let place = Place::with(
        "job: j\nsteps: [{step: loud, run: [sh, -c, '[ -e ok ] || yes 0123456789']}]\n",
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_piton"));
    command.args(RUN).current_dir(place.path("."));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let unread = || rustix::io::ioctl_fionread(child.stderr.as_ref().unwrap()).unwrap();
    let began = Instant::now();
    while unread() < 40_000 {
        assert!(began.elapsed() < PATIENCE, "it prints");
        std::thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let asked = Instant::now();
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        if asked.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(ended.code(), Some(1));
    std::fs::write(place.path("ok"), "").unwrap();
    place.run(0);
}
