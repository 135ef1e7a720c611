//! Dead letters: listed, shown, delivered again, dropped.

use crate::session::Session;

const LINES: &str = "lines: {jsonl: {path: out.jsonl}}";
const DB: &str = "db: {sqlite: {path: out.db, table: t, key: [id]}}";

/// One record that cannot be read, one that a transform cannot take, one that a table refuses.
fn three() -> Session {
    let session = Session::new();
    session.write("in.csv", "id,n,note\n1,5,a\n2,7\n3,0,\"c, d\"\n4,50,e\n5,1,f\n");
    session.sql(
        "out.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT, share CHECK (share > 2))",
    );
    session.configure(&[DB, LINES], &transform("100 / int(n)"));
    session
}

fn transform(share: &str) -> String {
    format!(
        "transform: [{{select: {{id: id, note: note, share: {share}}}}}]\non_error: dead_letter"
    )
}

#[test]
fn listed_and_shown() {
    let mut session = three();
    session.types("run p.yaml");
    session.types("status p");
    session.types("dead-letters count p");
    session.types("dead-letters list p");
    for id in ["in.csv@16", "in.csv@20", "in.csv@31"] {
        session.types(&format!("dead-letters show p {id}"));
    }
    insta::assert_snapshot!(session.seen());
}

#[test]
fn delivered_again_and_dropped() {
    let mut session = three();
    session.quietly("run p.yaml");
    session.types("dead-letters replay p.yaml --all");
    session.note("The division and the table are mended.");
    session.configure(&[DB, LINES], &transform("100 / (int(n) + 1)"));
    session.sql(
        "out.db",
        "CREATE TABLE u (id INTEGER PRIMARY KEY, note TEXT, share);
         INSERT INTO u SELECT * FROM t; DROP TABLE t; ALTER TABLE u RENAME TO t",
    );
    session.types("dead-letters replay p.yaml --all");
    session.types("dead-letters drop p in.csv@16");
    session.types("dead-letters drop p in.csv@16 --yes");
    session.types("dead-letters list p");
    let lines = std::fs::read_to_string(session.path("out.jsonl")).unwrap();
    assert!(lines.contains(r#"{"id":"3","note":"c, d","share":100}"#), "{lines}");
    assert_eq!(lines.lines().count(), 4, "{lines}");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn that_there_are_none() {
    let mut session = Session::with(&[DB], "");
    session.quietly("run p.yaml");
    session.types("dead-letters list p");
    session.types("dead-letters count p");
    session.types("dead-letters drop p --all");
    session.types("dead-letters replay p.yaml --all");
    insta::assert_snapshot!(session.seen());
}
