//! How commands end, and what that means for the run.

use std::{thread, time::Duration};

use piton_testkit::{Program, program::PATIENCE};

use crate::place::{Place, counted, lives};

const RUN: &[&str] = &["run", "p.yaml"];
const LINES: &str = "lines: {jsonl: {path: out.jsonl}}";
const COUNT: &str = "command: {run: [sh, count.sh, \"2000\"], key: id}";

#[test]
fn a_command_that_is_not_there_is_exit_2_and_nothing_is_written() {
    let none = "command: {run: [./none, x], key: id}";
    let taker = "taker: {command: {run: [none-of-that-name]}}";
    for (source, sinks, wanted) in [
        (none, LINES, "no command './none' at "),
        (COUNT, taker, "no command 'none-of-that-name' in any folder of PATH"),
    ] {
        let place = Place::new();
        place.configure(source, sinks, "");
        let before = std::fs::read_dir(place.folder()).unwrap().count();
        let ended = place.ends_with(2, RUN);
        assert!(ended.stderr.contains(wanted), "{ended}");
        assert!(ended.stderr.contains("Check its name"), "{ended}");
        assert_eq!(std::fs::read_dir(place.folder()).unwrap().count(), before, "{wanted}");
        // One that is gone later is the same, and nothing is lost.
        place.configure(COUNT, LINES, "");
        place.ends_with(0, RUN);
        place.configure(source, sinks, "");
        place.ends_with(2, &["run", "p.yaml", "--accept-changes"]);
    }
}

#[test]
fn a_source_that_fails_keeps_what_came_before_and_goes_on_from_there() {
    let place = Place::new();
    place.configure(COUNT, LINES, "");
    let good = place.read("count.sh");
    place.write("count.sh", &format!("(set -- 700\n{good}); echo no more for today >&2; exit 9\n"));
    let ended = place.ends_with(1, RUN);
    assert!(ended.stderr.contains("p: no more for today\n"), "{ended}");
    assert!(
        ended.stderr.contains("'sh' ended with exit code 9, and said: no more for today"),
        "{ended}"
    );
    place.write("count.sh", &good);
    let ended = place.ends_with(0, RUN);
    assert!(ended.stderr.contains("resuming after 700 records"), "{ended}");
    let held = piton_testkit::Ledger::of_jsonl(&place.path("out.jsonl"), &crate::place::COLUMNS);
    assert_eq!(counted(2000).compare(&held.unwrap()).exactly_once(), Ok(()));
}

#[test]
fn another_command_under_the_name_is_refused_and_a_plan_says_what_holds() {
    let place = Place::new();
    let taker = "taker: {command: {run: [sh, take.sh]}}";
    place.configure(COUNT, taker, "");
    let plan = place.ends_with(0, &["plan", "p.yaml"]).stdout;
    assert!(plan.contains("command sh count.sh 2000"), "{plan}");
    assert!(plan.contains("PITON_POSITION") && plan.contains("is not checked"), "{plan}");
    assert!(plan.contains("at least once"), "{plan}");
    assert!(!place.path("piton.db").exists(), "a plan starts nothing and makes nothing");
    place.ends_with(0, RUN);
    place.configure("command: {run: [sh, count.sh, \"3000\"], key: id}", taker, "");
    let ended = place.ends_with(3, RUN);
    assert!(ended.stderr.contains("command.run was [\"sh\",\"count.sh\",\"2000\"]"), "{ended}");
    place.ends_with(0, &["run", "p.yaml", "--accept-changes"]);
    let report = counted(3000).compare(&place.taken_by_commands());
    assert_eq!(report.exactly_once(), Ok(()));
}

#[test]
fn secrets_in_its_words_are_not_kept() {
    let place = Place::new();
    place.write("secret", "hush-hush\n");
    let source = "command: {run: [sh, count.sh, \"20\", \"${file:secret}\"], key: id}";
    place.configure(source, "taker: {command: {run: [sh, take.sh, \"${file:secret}\"]}}", "");
    let ran = place.ends_with(0, RUN);
    place.write("secret", "another\n");
    let told = [place.ends_with(0, RUN), place.ends_with(0, &["plan", "p.yaml"])];
    let exported = place.ends_with(0, &["export"]);
    for text in told.iter().chain([&ran, &exported]).map(ToString::to_string) {
        assert!(!text.contains("hush-hush") && !text.contains("another"), "{text}");
    }
    assert!(exported.stdout.contains("${file:secret}"), "as it is written");
}

#[test]
fn asked_to_stop_it_ends_its_commands_and_saves() {
    let place = Place::new();
    // It does not end when it is asked: its child does not hear of it, and is in its group.
    place.write("slow.sh", "trap '' TERM; sleep 1000 & echo $! >child\nsh count.sh 300; wait\n");
    place.write("taker.sh", "echo $$ >taker; sh take.sh; exec sleep 0.2\n");
    let source = "command: {run: [sh, slow.sh], key: id}";
    place.configure(source, "taker: {command: {run: [sh, taker.sh]}}", "");
    let mut running = place.program.start(RUN).unwrap();
    running.until("all records", PATIENCE, |_| place.taken() == 300).unwrap();
    let (child, taker) = (place.read("child"), place.read("taker"));
    assert!(lives(&child) && lives(&taker));
    running.terminate().unwrap();
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(ended.took > Duration::from_secs(5), "SIGTERM first: {ended}");
    assert!(ended.stderr.contains("saved at 300"), "{ended}");
    assert!(!lives(&child) && !lives(&taker));
    place.write("slow.sh", "sh count.sh 400\n");
    place.ends_with(0, RUN);
    assert_eq!(counted(400).compare(&place.taken_by_commands()).exactly_once(), Ok(()));
}

#[test]
fn a_sink_that_fails_is_begun_anew_as_on_error_says() {
    let place = Place::new();
    // The third start works.
    let failing = "echo x >>starts; [ $(wc -l <starts) -lt 3 ] && { head -n 3 >&2; exit 6; }";
    place.write("taker.sh", &format!("{failing}\nexec sh take.sh\n"));
    let taker = "taker: {command: {run: [sh, taker.sh]}}";
    place.configure(COUNT, taker, "");
    let ended = place.ends_with(1, RUN);
    assert!(ended.stderr.contains("the command 'sh' ended with exit code 6"), "{ended}");
    assert!(ended.stderr.contains(" records were not answered"), "{ended}");
    assert!(ended.stderr.contains("p, taker: {\"id\":\"command@1\""), "{ended}");
    place.write("starts", "");
    place.configure(COUNT, taker, "on_error: {retry: 2, then: stop}");
    place.ends_with(0, RUN);
    assert_eq!(place.read("starts").lines().count(), 3);
    assert_eq!(counted(2000).compare(&place.taken_by_commands()).exactly_once(), Ok(()));
}

/// The sink says that it is too slow for its timeout, and the run does not hang.
#[test]
fn a_sink_that_never_answers_is_an_error() {
    let place = Place::new();
    let taker = "taker: {command: {run: [sleep, \"1000\"], timeout: 1s}}";
    place.configure(COUNT, taker, "");
    let ended = place.ends_with(1, RUN);
    assert!(ended.stderr.contains("has answered nothing for 1 s"), "{ended}");
    assert!(ended.took < Duration::from_secs(20), "{ended}");
}

#[test]
fn bad_records_are_named_or_set_aside() {
    let place = Place::new();
    place.write("in", "{\"id\": 1}\n{\"ID\": 2}\n{\"id\": 3}\n");
    place.configure("command: {run: [cat, in], key: id}", LINES, "");
    let ended = place.ends_with(1, RUN);
    let wanted = "the command 'cat', line 2: it has no field 'id', the key";
    assert!(ended.stderr.contains(wanted), "{ended}");
    place.configure("command: {run: [sh, rest.sh], key: id}", LINES, "on_error: dead_letter");
    place.write("rest.sh", "tail -n +$((${PITON_POSITION:-0} + 1)) in\n");
    place.ends_with(0, &["run", "p.yaml", "--accept-changes"]);
    assert_eq!(place.read("out.jsonl").lines().count(), 2);
    let letters = place.ends_with(0, &["dead-letters", "list", "p"]).stdout;
    assert!(letters.contains("command@1!1"), "{letters}");
}

/// Invariant 8: two gigabytes in two forms, passed on to nobody.
#[test]
fn a_command_that_prints_gigabytes_on_standard_error_does_not_grow_memory() {
    let place = Place::new();
    let loud = "head -c 1000000000 /dev/zero | tr '\\0' x >&2; echo >&2
        yes 'some line that a program might print, of the usual length' | head -c 1000000000 >&2
        sh count.sh 10\n";
    place.write("loud.sh", loud);
    place.configure("command: {run: [sh, loud.sh], key: id}", LINES, "");
    let quiet = Program::new("/bin/sh", place.folder());
    let script = format!("exec {} run p.yaml 2>/dev/null", env!("CARGO_BIN_EXE_piton"));
    let ended = quiet.start(&["-c", &script]).unwrap().wait(4 * PATIENCE).unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(ended.peak_memory.is_some_and(|bytes| bytes < 64 << 20), "{ended:?}");
    assert_eq!(place.read("out.jsonl").lines().count(), 10);
}

/// A dry run prints the first records, however long the command takes to begin, and ends it.
#[test]
fn a_dry_run_shows_records_and_leaves_no_command() {
    let place = Place::new();
    place.write("slow.sh", "echo $$ >pid; sleep 0.5; sh count.sh 5; exec sleep 1000\n");
    place.configure("command: {run: [sh, slow.sh], key: id}", LINES, "");
    let ended = place.ends_with(0, &["run", "p.yaml", "--dry-run", "--limit", "2"]);
    assert_eq!(ended.stdout.lines().count(), 2, "{ended}");
    thread::sleep(Duration::from_millis(50));
    assert!(!lives(&place.read("pid")));
    assert!(!place.path("piton.db").exists() && !place.path("out.jsonl").exists());
}
