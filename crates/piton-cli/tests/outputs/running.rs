//! What `run` says when it begins and when it ends.

use piton_testkit::{Receiver, receiver::Mode};

use crate::session::{Session, interrupted};

const LINES: &str = "lines: {jsonl: {path: out.jsonl}}";
const DB: &str = "db: {sqlite: {path: out.db, table: t, key: [id]}}";

#[test]
fn a_first_run_another_and_one_with_more_data() {
    let mut session = Session::with(&[DB], "");
    session.types("run p.yaml");
    session.types("run p.yaml");
    session.append("in.csv", "4,Dan\n");
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn what_has_changed_is_told() {
    let mut session = Session::with(&[DB], "");
    session.quietly("run p.yaml");
    session.note("A sink is new, and a transform.");
    session.configure(&[DB, LINES], "transform: [{filter: id < 5}]");
    session.types("run p.yaml");
    session.append("in.csv", "4,Dan\n");
    session.note("One is removed.");
    session.configure(&[LINES], "transform: [{filter: id < 5}]");
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn records_that_are_tried_out_and_printed() {
    let mut session = Session::with(&["out: {stdout: }"], "transform: [{filter: id > 1}]");
    session.types("run p.yaml --dry-run --limit 1");
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn a_bad_record_stops_it() {
    let mut session = Session::with(&[DB], "");
    session.append("in.csv", "4\n");
    session.types("run p.yaml");
    session.note("It is mended.");
    session.write("in.csv", "id,name\n1,Ann\n2,Bob\n3,Cid\n4,Dan\n");
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn one_that_is_stopped_before_its_end() {
    let receiver = Receiver::start().unwrap();
    receiver.set(Mode::Refusing);
    let hook = format!("hook: {{http: {{url: '{}'}}}}", receiver.url());
    let mut session = Session::with(&[DB, &hook], "");
    let behind = |view: &serde_json::Value| {
        let sinks = &view["run"]["sinks"];
        sinks[1]["state"] == "behind" && sinks[0]["records"] == 3
    };
    let running = session.starts("run p.yaml", behind);
    session.saw("run p.yaml", &interrupted(running));
    receiver.set(Mode::Answering);
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn one_that_is_paused_or_cancelled() {
    let mut session = Session::with(&[DB], "");
    session.quietly("run p.yaml");
    session.types("pause p");
    let waiting = session.starts("run p.yaml", |view| view["holder"].is_object());
    session.saw("run p.yaml", &interrupted(waiting));
    session.types("resume p");
    session.types("resume p");
    session.types("cancel p");
    session.types("resume p");
    session.types("run p.yaml");
    session.types("run p.yaml --again");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn one_without_an_end_that_is_steered_while_it_runs() {
    let mut session = Session::new();
    session.write("in.jsonl", "{\"id\":1}\n{\"id\":2}\n");
    let source = "{jsonl: {path: in.jsonl, follow: true}}";
    session.configure_source(source, &[LINES], "checkpoint: {records: 1}");
    let saved = |view: &serde_json::Value| view["records"] == 2;
    let mut running = session.starts("run p.yaml", saved);
    session.types("pause p");
    session.until(&mut running, |view| view["state"] == "paused");
    session.types("resume p");
    session.types("cancel p");
    let ended = running.wait(std::time::Duration::from_mins(1)).unwrap();
    session.saw("run p.yaml", &ended);
    session.note("Ctrl-C is its ordinary end.");
    let again = session.starts("run p.yaml --again", |view| view["state"] == "running");
    session.saw("run p.yaml --again", &interrupted(again));
    insta::assert_snapshot!(session.seen());
}
