//! `plan`, `status`, `history`: what there is to see.

use piton_testkit::{Receiver, receiver::Mode};
use serde_json::Value;

use crate::session::{Session, interrupted};

const LINES: &str = "lines: {jsonl: {path: out.jsonl}}";
const DB: &str = "db: {sqlite: {path: out.db, table: t, key: [id]}}";
const FOLLOWED: &str = "{jsonl: {path: in.jsonl, follow: true}}";
const OFTEN: &str = "checkpoint: {records: 1}";

/// A pipeline without an end, with one record.
fn followed(sinks: &[&str]) -> Session {
    let session = Session::new();
    session.write("in.jsonl", "{\"id\":1}\n");
    session.configure_source(FOLLOWED, sinks, OFTEN);
    session
}

fn has_all(view: &Value) -> bool {
    let at_risk = |sink: &Value| sink["at_risk"] == 0 && sink["records"] == 1;
    view["run"]["sinks"].as_array().is_some_and(|sinks| sinks.iter().all(at_risk))
}

#[test]
fn a_plan_before_the_first_run_and_after_it() {
    let append = "log: {sqlite: {path: out.db, table: log}}";
    let rows = "rows: {csv: {path: out.csv}}";
    let hook = "hook: {http: {url: 'https://ann:secret@example.org/x'}}";
    let mut session = Session::with(&[DB, append, LINES, rows, "out: {stdout: }", hook], "");
    session.types("plan p.yaml");
    session.configure(&[DB, LINES], "");
    session.quietly("run p.yaml");
    session.configure(&[DB, LINES], "transform: [{filter: id > 1}]");
    session.types("plan p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn a_plan_of_what_a_run_would_wait_for_or_be_refused_for() {
    let mut session = followed(&[DB]);
    let running = session.starts("run p.yaml", has_all);
    session.note("It runs.");
    session.types("plan p.yaml");
    session.configure_source(FOLLOWED, &[DB], "claim: {when_held: wait}");
    session.types("plan p.yaml");
    interrupted(running);
    session.quietly("pause p");
    session.types("plan p.yaml");
    session.quietly("cancel p");
    session.types("plan p.yaml");
    session.note("The database was removed.");
    session.quietly("run p.yaml --dry-run");
    session.remove("out.db");
    session.types("plan p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn the_status_of_one_that_runs() {
    let mut session = followed(&[DB, LINES]);
    let running = session.starts("run p.yaml", has_all);
    session.types("status");
    session.types("status p");
    session.types("status p --check");
    interrupted(running);
    session.note("Stopped.");
    session.types("status p");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn the_status_of_one_with_a_sink_that_is_behind() {
    let receiver = Receiver::start().unwrap();
    receiver.set(Mode::Refusing);
    let hook = format!("hook: {{http: {{url: '{}'}}}}", receiver.url());
    let mut session = followed(&[LINES, &hook]);
    let behind = |view: &Value| {
        let sinks = &view["run"]["sinks"];
        sinks[1]["state"] == "behind" && sinks[0]["records"] == 1 && sinks[0]["at_risk"] == 0
    };
    let running = session.starts("run p.yaml", behind);
    session.types("status");
    session.types("status p");
    session.types("status --check");
    running.kill().unwrap();
    session.note("Killed.");
    session.types("status p");
    session.types("status --check");
    session.types("history p");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn the_status_of_several_that_have_ended() {
    let mut session = Session::with(&[DB, LINES], "");
    session.quietly("run p.yaml");
    session
        .write("q.yaml", "pipeline: q\nsource: {csv: {path: bad.csv}}\nsinks: {out: {stdout: }}");
    session.write("bad.csv", "id,name\n1,Ann\n2\n");
    session.types("run q.yaml");
    session.types("status");
    session.types("status p");
    session.types("status q.yaml");
    session.types("status --check");
    session.types("status --store sqlite:piton.db");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn the_status_of_one_that_is_paused_or_cancelled_and_does_not_run() {
    let mut session = Session::with(&[DB], "");
    session.quietly("run p.yaml");
    session.quietly("pause p");
    session.types("status p");
    session.quietly("cancel p");
    session.types("status p");
    session.types("status");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn a_pipeline_that_forgets_when_it_has_finished() {
    let mut session = Session::with(&[DB], "on_complete: delete");
    session.quietly("run p.yaml");
    session.types("status");
    session.types("status p");
    session.types("history p");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn history_of_checkpoints_runs_and_events() {
    // Of one sink: which of several saves first differs from run to run.
    let mut session = Session::with(&[DB], "");
    session.quietly("run p.yaml");
    session.append("in.csv", "4,Dan\n5\n");
    session.types("run p.yaml");
    session.write("in.csv", "id,name\n1,Ann\n2,Bob\n3,Cid\n4,Dan\n");
    session.configure(&[DB], "transform: [{filter: id > 0}]");
    session.quietly("run p.yaml");
    session.types("history p");
    session.types("history p --limit 1");
    insta::assert_snapshot!(session.seen());
}
