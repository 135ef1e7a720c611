//! What is wrong with a configuration: exit code 2, the place, and what to write instead.

use crate::session::Session;

/// Sinks that will do.
const LINES: &str = "lines: {jsonl: {path: out.jsonl}}";
const DB: &str = "db: {sqlite: {path: out.db, table: t, key: [id]}}";

#[test]
fn what_is_no_configuration() {
    let mut session = Session::with(&[LINES], "");
    session.types("run nothing.yaml");
    session.note("There is p.yaml.");
    session.types("run p");
    session.types("plan in.csv");
    session.sql("data.db", "CREATE TABLE t (a)");
    session.types("status data.db");
    session.write("empty.yaml", "");
    session.types("plan empty.yaml");
    session.write("tab.yaml", "pipeline: p\nsource:\n\tcsv: {path: in.csv}\n");
    session.types("plan tab.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn mistakes_in_the_file() {
    let mut session = Session::with(&[LINES], "");
    let head = "pipeline: p\nsource: {csv: {path: in.csv}}\n";
    for (what, text) in [
        ("a key that is not known", format!("{head}snks: {{}}\n")),
        ("no name", format!("{head}sinks: {{jsonl: {{path: out.jsonl}}}}\n")),
        ("a list", format!("{head}sinks: [{{jsonl: {{path: out.jsonl}}}}]\n")),
        ("a path alone", "pipeline: p\nsource: {csv: in.csv}\nsinks: {o: {stdout: }}\n".to_owned()),
        ("no sink", format!("{head}sinks: {{}}\n")),
        (
            "a number without its unit",
            format!("{head}sinks: {{{LINES}}}\ncheckpoint: {{every: 5}}\n"),
        ),
        (
            "a quorum of more than there are",
            format!("{head}sinks: {{{LINES}}}\ncommit: {{quorum: 2}}\n"),
        ),
        (
            "a variable that is not set",
            format!("{head}sinks: {{o: {{http: {{url: \"${{NOWHERE}}\"}}}}}}\n"),
        ),
        ("an expression", format!("{head}transform: [{{filter: id > }}]\nsinks: {{{LINES}}}\n")),
        (
            "two mistakes",
            "pipeline: a b\nsource: {csv: {path: in.csv, delimiter: ab}}\n".to_owned(),
        ),
    ] {
        session.note(what);
        session.write("p.yaml", &text);
        session.types("plan p.yaml");
    }
    insta::assert_snapshot!(session.seen());
}

#[test]
fn what_cannot_work_with_the_data() {
    let mut session = Session::with(&[LINES], "");
    let mut tries = |source: &str, sinks: &[&str], more: &str| {
        session.configure_source(source, sinks, more);
        session.types("run p.yaml");
    };
    let csv = "{csv: {path: in.csv}}";
    tries("{csv: {path: other.csv}}", &[LINES], "");
    tries("{csv: {path: '*.tsv'}}", &[LINES], "");
    tries("{jsonl: {path: '*.jsonl'}}", &[LINES], "");
    tries(csv, &[LINES], "transform: [{filter: nmae == 'Ann'}]");
    tries(csv, &["db: {sqlite: {path: out.db, table: t, key: [ident]}}"], "");
    tries(csv, &["lines: {jsonl: {path: none/out.jsonl}}"], "");
    tries(csv, &[LINES], "store: sqlite:none/piton.db");
    tries(csv, &["db: {sqlite: {path: piton.db, table: t, key: [id]}}"], "");
    assert!(!session.path("piton.db").exists());
    insta::assert_snapshot!(session.seen());
}

#[test]
fn what_cannot_work_with_the_table() {
    let mut session = Session::with(&[DB], "");
    session.sql("out.db", "CREATE TABLE t (id INTEGER, name TEXT)");
    session.types("run p.yaml");
    session.sql("out.db", "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY)");
    session.types("run p.yaml");
    session.configure(&["db: {sqlite: {path: out.db, table: u, key: [id], create: false}}"], "");
    session.types("run p.yaml");
    session.sql("in.db", "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (x)");
    for table in ["c", "b"] {
        let source = format!("{{sql: {{url: 'sqlite:in.db', table: {table}}}}}");
        session.write("q.yaml", &format!("pipeline: q\nsource: {source}\nsinks: {{{LINES}}}\n"));
        session.types("run q.yaml");
    }
    insta::assert_snapshot!(session.seen());
}

#[test]
fn stores_and_names_that_are_not_there() {
    let mut session = Session::with(&[LINES], "");
    session.types("status");
    session.types("status --store piton.db");
    session.types("status --store redis://host/db");
    session.types("status --store memory:");
    session.quietly("run p.yaml");
    session.types("status q");
    session.types("reset p --sink other");
    session.types("rewind p --to yesterday");
    session.types("dead-letters replay p --all");
    session.types("dead-letters drop p");
    session.types("dead-letters show p in.csv@0");
    session.types("import nothing.json");
    session.write("nonsense.json", "{}");
    session.types("import nonsense.json --store sqlite:new.db");
    session.types("init in.csv --output p.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn a_question_that_nobody_can_answer() {
    let mut session = Session::with(&[DB], "");
    session.quietly("run p.yaml");
    session.types("reset p");
    insta::assert_snapshot!(session.seen());
}
