//! Refusals: exit code 3, what was found, and the choices; 4, who has it.

use std::{fs, time::Duration};

use piton_testkit::Running;
use serde_json::Value;

use crate::session::{Session, interrupted};

const LINES: &str = "lines: {jsonl: {path: out.jsonl}}";
const DB: &str = "db: {sqlite: {path: out.db, table: t, key: [id]}}";

/// After a first run.
fn begun(sinks: &[&str]) -> Session {
    let session = Session::with(sinks, "");
    session.quietly("run p.yaml");
    session
}

#[test]
fn a_source_that_was_changed() {
    let mut session = begun(&[DB]);
    session.note("Rewritten.");
    session.write("in.csv", "id,name\n1,Ann\n2,Bob\n3,Eve\n4,Dan\n");
    session.types("run p.yaml");
    session.note("Shortened.");
    session.write("in.csv", "id,name\n1,Ann\n");
    session.types("run p.yaml");
    session.note("Removed.");
    session.rename("in.csv", "away.csv");
    session.types("run p.yaml");
    session.note("Another one.");
    session.configure_source("{csv: {path: away.csv, delimiter: ';'}}", &[DB], "");
    session.types("run p.yaml");
    session.configure_source("{jsonl: {path: away.csv}}", &[DB], "");
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn a_last_line_that_was_continued() {
    let mut session = Session::with(&[DB], "");
    session.write("in.csv", "id,name\n1,Ann\n2,Bo");
    session.quietly("run p.yaml");
    session.append("in.csv", "b\n");
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn output_that_was_changed() {
    let mut session = begun(&[LINES]);
    session.note("Shortened.");
    let whole = fs::read(session.path("out.jsonl")).unwrap();
    fs::write(session.path("out.jsonl"), &whole[..10]).unwrap();
    session.types("run p.yaml");
    session.note("Removed.");
    session.remove("out.jsonl");
    session.types("run p.yaml");
    session.note("Somebody else's.");
    session.write("other.txt", "not ours\n");
    session.configure(&["more: {jsonl: {path: other.txt}}"], "");
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn a_database_that_was_changed() {
    let mut session = begun(&[DB]);
    session.rename("out.db", "first.db");
    session.note("Removed.");
    session.types("run p.yaml");
    session.note("Restored from before.");
    fs::copy(session.path("first.db"), session.path("out.db")).unwrap();
    session.append("in.csv", "4,Dan\n");
    session.quietly("run p.yaml");
    fs::copy(session.path("first.db"), session.path("out.db")).unwrap();
    session.types("run p.yaml");
    session.note("Another table under the old name.");
    session.configure(&["db: {sqlite: {path: out.db, table: u, key: [id]}}"], "");
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn a_store_that_was_lost_or_damaged() {
    let mut session = begun(&[DB, LINES]);
    session.rename("piton.db", "sound.db");
    session.note("Lost.");
    session.types("run p.yaml");
    session.note("Not a store.");
    session.write("piton.db", "something else");
    session.types("status");
    session.types("run p.yaml");
    session.note("Empty.");
    session.write("piton.db", "");
    session.types("status");
    session.note("A database of somebody else.");
    session.remove("piton.db");
    session.sql("piton.db", "CREATE TABLE mine (a)");
    session.types("status");
    session.note("A row was changed.");
    fs::copy(session.path("sound.db"), session.path("piton.db")).unwrap();
    session
        .sql("piton.db", "DROP TRIGGER IF EXISTS checkpoint_changed; UPDATE manifest SET rows = 7");
    session.types("status");
    session.types("run p.yaml");
    session.note("Of a newer program.");
    fs::copy(session.path("sound.db"), session.path("piton.db")).unwrap();
    session.sql("piton.db", "PRAGMA user_version = 99");
    session.types("status");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn a_checkpoint_that_was_deleted_by_hand() {
    let mut session = begun(&[LINES]);
    session.sql("piton.db", "DELETE FROM checkpoints");
    session.types("run p.yaml");
    insta::assert_snapshot!(session.seen());
}

/// A pipeline without an end, that runs.
const ENDLESS: &str = "{jsonl: {path: in.jsonl, follow: true}}";

fn endless(sinks: &[&str], more: &str) -> Session {
    let session = Session::new();
    session.write("in.jsonl", "{\"id\":1}\n");
    session.configure_source(ENDLESS, sinks, more);
    session
}

fn has_one(view: &Value) -> bool {
    view["records"] == 1
}

#[test]
fn one_that_runs_already() {
    let mut session = endless(&[DB], "claim: {lease: 1s}");
    let running = session.starts("run p.yaml", has_one);
    session.types("run p.yaml");
    session.types("reset p --yes");
    session.types("rewind p --to 1 --yes");
    session.types("dead-letters replay p.yaml --all");
    session.note("The first one, stopped:");
    session.saw("run p.yaml", &interrupted(running));
    insta::assert_snapshot!(session.seen());
}

/// Freezes it where it holds no lock of a database: else its heir would have to wait for that.
fn freeze(session: &Session, running: &Running) {
    let is_free = |database: &str| {
        let db = rusqlite::Connection::open(session.path(database)).unwrap();
        db.busy_timeout(Duration::ZERO).unwrap();
        db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
    };
    running.freeze().unwrap();
    while !(is_free("piton.db") && is_free("out.db")) {
        running.thaw().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        running.freeze().unwrap();
    }
}

#[test]
fn one_that_slept_past_its_lease() {
    // Invariant 3.
    let mut session = endless(&[DB], "claim: {lease: 1s}");
    let asleep = session.starts("run p.yaml", has_one);
    let first = asleep.id();
    freeze(&session, &asleep);
    let heir = session.starts("run p.yaml", |view| {
        view["holder"]["owner"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(first))
    });
    asleep.thaw().unwrap();
    let ended = asleep.wait(Duration::from_mins(1)).unwrap();
    session.saw("run p.yaml", &ended);
    session.note("Its heir:");
    session.saw("run p.yaml", &interrupted(heir));
    insta::assert_snapshot!(session.seen());
}

#[test]
fn output_that_another_process_has() {
    let mut session = endless(&[LINES], "");
    let running = session.starts("run p.yaml", has_one);
    session.write("in.csv", "id\n1\n");
    let text = format!(
        "pipeline: q\nsource: {{csv: {{path: in.csv}}}}\nstore: sqlite:q.db\nsinks: {{{LINES}}}"
    );
    session.write("q.yaml", &text);
    session.types("run q.yaml --adopt");
    interrupted(running);
    let text = "pipeline: q\nsource: {csv: {path: in.csv}}\nsinks: {db: {sqlite: {path: r.db, table: t}}}\nclaim: {lease: 1s}";
    session.write("q.yaml", text);
    session.sql("r.db", "CREATE TABLE x (a)");
    let holder = rusqlite::Connection::open(session.path("r.db")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    session.types("run q.yaml");
    insta::assert_snapshot!(session.seen());
}
