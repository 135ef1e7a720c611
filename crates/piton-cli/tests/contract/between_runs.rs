//! What changes between runs: noticed, and refused where going on would lose or repeat something.

use std::fs;

use crate::folder::{DB, Folder, LINES, csv};

const RUN: &[&str] = &["run", "p.yaml"];
const ACCEPT: &[&str] = &["run", "p.yaml", "--accept-changes"];

/// Of a pipeline that has finished.
fn finished(sinks: &[&str]) -> Folder {
    let folder = Folder::new(10);
    folder.configure(sinks, "");
    folder.ends_with(0, RUN);
    folder
}

/// Invariant 4.
#[test]
fn a_file_that_was_read_and_is_gone_is_a_gap() {
    let folder = finished(&[DB]);
    fs::rename(folder.path("in.csv"), folder.path("in.bak")).unwrap();
    let ended = folder.ends_with(3, RUN);
    assert!(ended.stderr.contains("the file is gone") && ended.stderr.contains("reset"), "{ended}");
    fs::rename(folder.path("in.bak"), folder.path("in.csv")).unwrap();
    folder.ends_with(0, RUN);
}

#[test]
fn another_path_is_accepted_once_and_for_all() {
    let folder = finished(&[DB]);
    fs::remove_file(folder.path("in.csv")).unwrap();
    folder.write("other.csv", &csv(10, 15));
    folder.configure_source("{csv: {path: other.csv}}", &[DB], "");
    let ended = folder.ends_with(3, RUN);
    assert!(ended.stderr.contains("in.csv") && ended.stderr.contains("other.csv"), "{ended}");
    folder.ends_with(0, ACCEPT);
    assert_eq!(folder.rows("t"), 15);
    folder.ends_with(0, RUN);
}

/// Invariant 1: the checkpoint of one table covers nothing of another.
#[test]
fn another_output_under_the_same_name_is_refused() {
    let folder = finished(&[DB]);
    for (sink, change) in [
        ("db: {sqlite: {path: out.db, table: u, key: [id]}}", "sqlite, table 'u'"),
        ("db: {jsonl: {path: out.jsonl}}", "is now jsonl"),
    ] {
        folder.configure(&[sink], "");
        for command in ["run", "plan"] {
            let ended = folder.ends_with(3, &[command, "p.yaml"]);
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(said.contains(change) && said.contains("reset p --sink db"), "{ended}");
        }
    }
    folder.ends_with(0, &["reset", "p", "--sink", "db", "--yes"]);
    folder.ends_with(0, RUN);
    assert_eq!(folder.lines(), 10);
}

/// The store's copy of a sink's checkpoint is up to a second behind.
#[test]
fn another_table_is_refused_where_only_the_sink_knows_of_a_checkpoint() {
    let folder = Folder::new(100);
    folder.configure(&[DB], "checkpoint: {records: 10}");
    folder.program().strike(RUN, "commit.after", 1).unwrap();
    assert_eq!(folder.rows("t"), 10);
    let known = "SELECT count(position) FROM checkpoints";
    let known: u64 = folder.sql("piton.db").query_row(known, [], |row| row.get(0)).unwrap();
    assert_eq!(known, 0, "the store knew already: this proves nothing");
    folder.configure(&["db: {sqlite: {path: out.db, table: u, key: [id]}}"], "");
    let ended = folder.ends_with(3, RUN);
    assert!(ended.stderr.contains("reset p --sink db"), "{ended}");
}

#[test]
fn another_output_can_be_accepted() {
    let folder = finished(&[DB]);
    folder.configure(&["db: {sqlite: {path: out.db, table: u, key: [id]}}"], "");
    folder.ends_with(0, ACCEPT);
    folder.write("in.csv", &csv(0, 12));
    folder.ends_with(0, RUN);
    assert_eq!(folder.rows("u"), 2);
}

#[test]
fn a_folder_with_all_of_it_may_be_moved() {
    let folder = finished(&[DB, LINES]);
    let moved = Folder::new(0);
    for name in ["in.csv", "p.yaml", "piton.db", "out.db", "out.jsonl"] {
        fs::rename(folder.path(name), moved.path(name)).unwrap();
    }
    let ended = moved.ends_with(0, RUN);
    assert!(ended.stderr.contains("had finished already"), "{ended}");
}
