//! What is said of a failure, what is done once there is one, and what is not.

use crate::place::Place;

/// What is done beside a step says that it failed, and not the step.
#[test]
fn a_failure_says_of_what_it_is() {
    let fails = "{run: [sh, -c, 'exit 7']}";
    let cases = [
        (
            format!("steps: [{{step: a, run: ['true'], on_complete: {fails}}}]"),
            "step 'a': on_complete: the command 'sh' ended with exit code 7",
        ),
        (
            format!("steps: [{{step: a, run: ['false'], on_failure: {fails}}}]"),
            "failed, too: on_failure: the command 'sh' ended with exit code 7",
        ),
        (
            format!("on_failure: {fails}\nsteps: [{{step: a, run: ['false']}}]"),
            "failed, too: 'j': on_failure: the command 'sh' ended with exit code 7",
        ),
        (
            format!("on_complete: {fails}\nsteps: [{{step: a, run: ['true']}}]"),
            "'j': on_complete: the command 'sh' ended with exit code 7",
        ),
        (
            "on_complete: {sql: {url: 'sqlite:a.db', statement: SELECT nothing}}\n\
             steps: [{step: a, run: ['true']}]"
                .to_owned(),
            "'j': on_complete: the statement",
        ),
        (
            "steps: [{step: a, timeout: 1s, run: [sleep, '60']}]".to_owned(),
            "step 'a': it took longer than its timeout of 1.0 s",
        ),
        (
            "timeout: 1s\nsteps: [{step: a, run: [sleep, '60']}]".to_owned(),
            "'j' took longer than its timeout of 1.0 s",
        ),
    ];
    for (job, wanted) in cases {
        let place = Place::with(&format!("job: j\n{job}\n"));
        let _ = place.database("a.db");
        let failed = place.run(1);
        assert!(failed.stderr.contains(wanted), "{wanted}: {failed}");
    }
}

#[test]
fn a_recovery_that_fails_says_so() {
    let place = Place::with(
        "job: j\nsteps: [{step: a, run: ['false'], on_recover: {run: [sh, -c, 'exit 7']}}]\n",
    );
    place.run(1);
    let failed = place.run(1);
    let wanted = "step 'a': on_recover: the command 'sh' ended with exit code 7";
    assert!(failed.stderr.contains(wanted), "{failed}");
}

/// A step is named once, wherever its failure is told, and the record with it.
#[test]
fn a_failure_names_its_step_once_and_its_record() {
    let place = Place::new();
    place
        .database("a.db")
        .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (7)")
        .unwrap();
    place.job(
        "job: j
retry: {times: 1, pause: 1ms}
steps:
  - step: g
    steps: [{step: y, sql: {url: 'sqlite:a.db', statement: SELECT nothing}}]
",
    );
    let failed = place.run(1);
    let named = |text: &str, step: &str| text.matches(&format!("step '{step}'")).count();
    for line in failed.stderr.lines().filter(|line| line.contains("nothing")) {
        assert_eq!(named(line, "g/y"), 1, "{line}");
    }
    let status = place.ends_with(0, &["status", "j", "--json"]).stdout;
    let steps: serde_json::Value = serde_json::from_str(&status).unwrap();
    let why = steps["steps"][1]["why"].as_str().unwrap();
    assert!(why.starts_with("sql: "), "{why}");

    place.job(
        "job: e
retry: {times: 1, pause: 1ms}
steps:
  - step: each
    for_each: {source: {sql: {url: 'sqlite:a.db', table: t, key: [id]}}, as: r}
    steps: [{step: i, run: [sh, -c, 'exit 7']}]
",
    );
    let failed = place.run(1);
    let again = failed.stderr.lines().find(|line| line.contains("tried again")).unwrap();
    assert!(again.contains("step 'each/i': r ") && again.contains('7'), "{failed}");

    place.job(
        "job: s
steps:
  - step: each
    for_each: {source: {sql: {url: 'sqlite:a.db', table: t, key: [id]}}, as: r}
    steps: [{step: i, sql: {url: 'sqlite:a.db', statement: 'SELECT 1 FROM nowhere'}}]
",
    );
    let failed = place.run(1);
    assert!(failed.stderr.contains("step 'each/i': sql: "), "{failed}");
    assert_eq!(named(&failed.stderr, "each"), 1, "{failed}");
}

#[test]
fn what_is_done_once_a_job_has_failed_knows_the_step_and_why() {
    let say = "echo \"$PITON_FAILED_STEP|$PITON_ERROR|$(printenv PITON_STEP || echo none)|$PITON_STARTED_AT\" > told";
    let place = Place::with(&format!(
        "job: j
on_failure: {{run: [sh, -c, '{say}']}}
steps:
  - step: g
    steps: [{{step: bad, run: [sh, -c, 'echo no disk >&2; exit 7']}}]
"
    ));
    place.run(1);
    let told = place.lines("told");
    let words: Vec<&str> = told[0].split('|').collect();
    assert_eq!(words[0], "g/bad");
    assert_eq!(words[1], "the command 'sh' ended with exit code 7: no disk");
    assert_eq!(words[2], "none");
    assert!(words[3].starts_with("20"), "{told:?}");
}

/// Whatever comes after the failure in time: a step that was at work comes to its end, and none
/// below it begins.
#[test]
fn after_a_failure_no_further_step_is_begun() {
    let place = Place::with(
        "job: j
parallel: 2
steps:
  - step: x
    run: ['false']
    on_failure: {run: [touch, failed]}
  - step: y
    run: [sh, -c, 'while [ ! -e failed ]; do sleep 0.02; done; echo y >> log']
    steps: [{step: y1, run: [sh, -c, 'echo y1 >> log']}]
",
    );
    let failed = place.run(1);
    assert!(failed.stderr.contains("step 'x'"), "{failed}");
    assert_eq!(place.lines("log"), ["y"]);
}

/// Nothing of it speaks to the terminal of whoever reads it.
#[test]
fn the_last_words_of_a_command_are_plain_text() {
    let place = Place::with(
        "job: j\nsteps: [{step: a, run: [sh, -c, 'printf \"\\033[2Jgone\\n\" >&2; exit 7']}]\n",
    );
    let failed = place.run(1);
    let error = failed.stderr.lines().last().unwrap();
    assert!(error.contains("exit code 7: \\u{1b}[2Jgone"), "{error}");
    let status = place.ends_with(0, &["status", "j"]).stdout;
    assert!(status.contains("gone") && !status.contains('\u{1b}'), "{status}");
}

/// What can be known before is said before anything is done.
#[test]
fn a_condition_without_an_answer_and_a_bad_name_are_found_before_the_first_step() {
    let first = "  - {step: first, run: [touch, begun]}\n";
    let bad = [
        ("step 'second': when", "  - {step: second, when: '1/0 == 1', run: ['true']}"),
        (
            "${param.t}: 'a\\nb' cannot be part of a table's name",
            "  - {step: second, source: {sql: {url: 'sqlite:a.db', table: t}}, \
         sinks: {out: {sqlite: {path: b.db, table: 't_${param.t}'}}}}",
        ),
    ];
    for (wanted, second) in bad {
        let place = Place::with(&format!(
            "job: j\nparams: {{t: {{type: text, default: \"a\\nb\"}}}}\nsteps:\n{first}{second}\n"
        ));
        for command in ["plan", "run"] {
            let refused = place.ends_with(2, &[command, "job.yaml"]);
            assert!(refused.stderr.contains(wanted), "{refused}");
        }
        assert!(!place.path("begun").exists(), "{second}");
    }
    // Nobody asks for what is not begun.
    let place = Place::with(
        "job: j\nsteps:
  - step: never
    when: 'false'
    steps: [{step: below, when: '1/0 == 1', run: ['true']}]
",
    );
    place.run(0);
}

#[test]
fn steps_stand_sixty_levels_deep_and_what_is_deeper_names_the_limit() {
    let deep = |levels: usize| {
        let open = |level| format!("{{step: s{level}, steps: [");
        let groups: String = (1..levels).map(open).collect();
        let leaf = "{step: leaf, run: [touch, done]}";
        format!("job: j\nsteps: [{groups}{leaf}{}]\n", "]}".repeat(levels - 1))
    };
    let place = Place::with(&deep(60));
    place.ends_with(0, &["plan", "job.yaml"]);
    place.run(0);
    assert!(place.path("done").exists());
    assert_eq!(place.steps("j").len(), 60);
    assert!(place.run(0).stderr.contains("finished already"));
    place.job(&deep(70));
    let refused = place.run(2);
    assert!(refused.stderr.contains("60 levels"), "{refused}");
}

/// A field that no command could be started with is left out of the environment; one that is an
/// argument is named.
#[test]
fn a_long_field_does_not_keep_a_command_from_being_started() {
    let place = Place::new();
    place
        .database("a.db")
        .execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, long TEXT);
             INSERT INTO t VALUES (7, hex(zeroblob(100000)))",
        )
        .unwrap();
    let job = |run: &str| {
        format!(
            "job: {run}
steps:
  - step: each
    for_each: {{source: {{sql: {{url: 'sqlite:a.db', table: t, key: [id]}}}}, as: r}}
    steps: [{{step: i, run: [sh, -c, 'echo $PITON_R_ID >> log; [ -z \"$PITON_R_LONG\" ]'{}]}}]
",
            if run == "bad" { ", '${r.long}'" } else { "" }
        )
    };
    place.job(&job("good"));
    place.run(0);
    assert_eq!(place.lines("log"), ["7"]);
    place.job(&job("bad"));
    let failed = place.run(1);
    assert!(failed.stderr.contains("its argument 3 has 200,000 bytes"), "{failed}");
}

#[test]
fn a_retry_is_not_multiplied_by_the_steps_above() {
    let place = Place::new();
    place
        .database("a.db")
        .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (7)")
        .unwrap();
    place.job(
        "job: j
retry: {times: 2, pause: 1ms}
steps:
  - step: outer
    for_each: {source: {sql: {url: 'sqlite:a.db', table: t, key: [id]}}, as: r}
    steps:
      - step: inner
        for_each: {source: {sql: {url: 'sqlite:a.db', table: t, key: [id]}}, as: s}
        steps: [{step: i, run: [sh, -c, 'echo try >> log; exit 7']}]
",
    );
    place.run(1);
    assert_eq!(place.lines("log").len(), 3);
}

/// Why it failed is what an operator has to know; being asked is no attempt.
#[test]
fn a_refusal_neither_counts_nor_hides_why_a_step_failed() {
    let place = Place::with(
        "job: j\nsteps: [{step: a, restart: manual, run: [sh, -c, 'echo disk full >&2; exit 7']}]\n",
    );
    place.run(1);
    for _ in 0..3 {
        assert!(place.run(3).stderr.contains("restart: manual"));
        let status = place.ends_with(0, &["status", "j", "--json"]).stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let step = &status["steps"][0];
        assert_eq!(step["attempt"], 1);
        assert!(step["why"].as_str().unwrap().contains("disk full"), "{step}");
    }
}

/// The same of a refusal by what a step reads.
#[test]
fn a_changed_source_does_not_hide_why_a_step_failed() {
    let place = Place::with(
        "job: j
checkpoint: {records: 1}
steps:
  - step: a
    source: {csv: {path: in.csv}}
    sinks: {out: {jsonl: {path: out.jsonl}}}
    transform: [{filter: 'n != \"x\" && int(n) < 9'}]
",
    );
    std::fs::write(place.path("in.csv"), "n\n1\n2\nbad\n").unwrap();
    place.run(1);
    std::fs::write(place.path("in.csv"), "n\n5\n6\n7\n8\n").unwrap();
    place.run(3);
    let status = place.ends_with(0, &["status", "j", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let why = status["steps"][0]["why"].as_str().unwrap();
    assert!(why.contains("bad"), "{why}");
}
