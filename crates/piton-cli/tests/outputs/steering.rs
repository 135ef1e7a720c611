//! What `reset` and `rewind` propose, and the state as a whole.

use futures_executor::block_on;
use piton_core::{Control, PipelineRecord};
use piton_stores::Mode;

use crate::session::Session;

const LINES: &str = "lines: {jsonl: {path: out.jsonl}}";
const DB: &str = "db: {sqlite: {path: out.db, table: t, key: [id]}}";

#[test]
fn a_reset_proposes_asks_and_waits() {
    let log = "log: {sqlite: {path: out.db, table: log, mode: append}}";
    let mut session = Session::with(&[DB, log, LINES, "out: {stdout: }"], "");
    session.quietly("run p.yaml");
    session.types("reset p");
    session.types("reset p --truncate");
    session.types("reset p --keep");
    session.types("reset p --truncate --yes");
    session.types("status p");
    session.types("plan p.yaml");
    session.types("reset p --sink db");
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn a_rewind_names_the_place() {
    let mut session = Session::with(&[DB, LINES], "");
    session.quietly("run p.yaml");
    session.append("in.csv", "4,Dan\n");
    // The history has about one checkpoint a second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    session.quietly("run p.yaml");
    session.types("rewind p --to 2");
    session.types("rewind p --to 2 --truncate");
    session.types("rewind p --to '{\"offset\":27}' --sink db --yes");
    session.types("plan p.yaml");
    session.types("run p.yaml");
    session.types("rewind p --to 1999-01-01T00:00:00Z --sink db");
    session.types("rewind p --to '{\"line\":3}' --sink db");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn the_job_of_a_program_is_reset_and_not_paused() {
    let mut session = Session::new();
    let store = piton_stores::open("sqlite:piton.db", &session.path(""), Mode::Create).unwrap();
    let sink =
        r#"[{"name":"main","kind":"library","at":"the program itself","replay":"sends_again"}]"#;
    let record = PipelineRecord {
        pipeline: "import".to_owned(),
        source: "\"library\"".to_owned(),
        transforms: "[]".to_owned(),
        sinks: sink.to_owned(),
        control: Control::Run,
        file: None,
    };
    block_on(store.register(record)).unwrap();
    drop(store);
    session.types("pause import");
    session.types("cancel import");
    session.types("reset import");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn the_state_is_copied_printed_and_filled_in() {
    let mut session = Session::with(&[DB], "");
    session.quietly("run p.yaml");
    session.types("backup copy.db");
    session.types("backup copy.db");
    session.types("export --output state.json");
    session.types("import state.json --store sqlite:new.db");
    session.types("import state.json --store sqlite:new.db");
    session.types("init in.csv");
    insta::assert_snapshot!(session.seen());
}
