//! The first run of a pipeline: a mistake in its configuration is told with its place, and leaves
//! nothing behind.

use crate::folder::{DB, Folder, LINES};

/// A mistake: exit code 2, this said, nothing created. `plan` says the same.
#[track_caller]
fn is_a_mistake(folder: &Folder, said: &[&str]) {
    let before = folder.names();
    for command in ["plan", "run"] {
        let ended = folder.ends_with(2, &[command, "p.yaml"]);
        for words in said {
            let all = format!("{}{}", ended.stdout, ended.stderr);
            assert!(all.contains(words), "{command}: no '{words}' in: {all}");
        }
        assert_eq!(folder.names(), before, "{command} created something");
    }
}

#[test]
fn a_source_that_is_not_there_creates_nothing() {
    let folder = Folder::new(3);
    for (source, said) in [
        ("{csv: {path: nope.csv}}", "nope.csv"),
        ("{csv: {path: \"nope*.csv\"}}", "nope*.csv"),
        ("{jsonl: {path: nope.jsonl, follow: true}}", "nope.jsonl"),
        ("{sql: {url: \"sqlite:nope.db\", table: t}}", "nope.db"),
    ] {
        folder.configure_source(source, &[DB, LINES], "");
        is_a_mistake(&folder, &["p.yaml:2:", "nothing to read", said]);
    }
}

#[test]
fn names_that_do_not_fit_the_data_create_nothing() {
    let folder = Folder::new(3);
    folder.configure_source("{csv: {path: in.csv, types: {nmae: text}}}", &[DB], "");
    is_a_mistake(&folder, &["p.yaml:2:", "'nmae'"]);
    folder.configure(&["db: {sqlite: {path: out.db, table: t, key: [idd]}}"], "");
    is_a_mistake(&folder, &["p.yaml:4:", "'idd'", "did you mean 'id'?"]);
    folder.configure(&[DB], "transform: [{rename: {id: number}}]");
    is_a_mistake(&folder, &["p.yaml:4:", "'id'"]);
}

#[test]
fn sinks_that_cannot_be_written_to_create_nothing() {
    let folder = Folder::new(3);
    for (sink, said) in [
        ("lines: {jsonl: {path: no/out.jsonl}}", "does not exist"),
        ("db: {sqlite: {path: no/out.db, table: t, key: [id]}}", "does not exist"),
        ("db: {sqlite: {path: out.db, table: t, key: [id], create: false}}", "create: false"),
    ] {
        folder.configure(&[sink], "");
        is_a_mistake(&folder, &["p.yaml:4:", said]);
    }
    folder.sql("out.db").execute_batch("CREATE TABLE t (id)").unwrap();
    folder.configure(&[DB], "");
    is_a_mistake(&folder, &["p.yaml:4:", "CREATE UNIQUE INDEX"]);
}

#[test]
fn a_store_in_a_folder_that_is_not_there_is_a_mistake() {
    let folder = Folder::new(3);
    folder.configure(&[DB], "store: sqlite:no/p.db");
    is_a_mistake(&folder, &["p.yaml:5:", "no does not exist"]);
    folder.configure(&[DB], "store: sqlite:.");
    is_a_mistake(&folder, &["p.yaml:5:", "is a folder"]);
}

#[test]
fn a_refusal_creates_no_store_and_names_the_one_it_would_be() {
    let folder = Folder::new(3);
    folder.configure(&[LINES], "");
    folder.write("out.jsonl", "mine\n");
    let ended = folder.ends_with(3, &["run", "p.yaml"]);
    let store = format!("store: {}\n", folder.path("piton.db").display());
    assert!(ended.stderr.starts_with(&store), "{ended}");
    assert_eq!(folder.names(), ["in.csv", "out.jsonl", "p.yaml"]);
    folder.ends_with(0, &["run", "p.yaml", "--adopt"]);
}
