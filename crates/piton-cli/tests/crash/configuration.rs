//! A configuration that cannot work: exit code 2, the line named, and nothing created.

use std::fs;

use crate::place::Place;

const RUN: &[&str] = &["run", "p.yaml"];

/// Everything in the folder, with its contents.
fn contents(place: &Place) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(place.folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    all.sort();
    all
}

#[track_caller]
fn refused(place: &Place, text: &str, line: usize, word: &str) {
    place.write("p.yaml", text);
    let before = contents(place);
    for how in [RUN, &["run", "p.yaml", "--adopt"]] {
        let ended = place.ends_with(2, how);
        let says = ended.stderr.contains(&format!("p.yaml:{line}:"));
        assert!(says && ended.stderr.contains(word), "{text}\n{ended}");
        assert!(contents(place) == before, "{text} created something\n{ended}");
    }
}

fn yaml(csv: &str, sink: &str) -> String {
    format!("pipeline: p\nsource:\n  csv: {{{csv}}}\nsinks:\n  out:\n    {sink}\n")
}

#[test]
fn what_is_not_there_is_named_and_nothing_is_created() {
    let place = Place::new(10);
    let (data, jsonl) = ("path: data.csv", "jsonl: {path: out.jsonl}");
    let case =
        |csv: &str, sink: &str, line, word: &str| refused(&place, &yaml(csv, sink), line, word);
    case("path: none.csv", jsonl, 3, "none.csv");
    case("path: \"none*.csv\"", jsonl, 3, "none*.csv");
    case("path: .", jsonl, 3, "not a regular file");
    case("path: data.csv, types: {none: integer}", jsonl, 3, "'none'");
    case(data, "jsonl: {path: none/out.jsonl}", 6, "none");
    case(data, "sqlite: {path: none/out.db, table: t}", 6, "none");
    let store = |address: &str| yaml(data, jsonl) + "store: sqlite:" + address + "\n";
    refused(&place, &store("none/piton.db"), 7, "none");
    refused(&place, &store("."), 7, "folder");
    let unknown = yaml(data, jsonl) + "transform:\n  - filter: none > 0\n";
    refused(&place, &unknown, 8, "'none'");
    place.write("data.csv", "id,id\n1,2\n");
    case(data, jsonl, 3, "twice");
}

#[test]
fn no_file_is_two_things_at_once() {
    let place = Place::new(10);
    let case = |csv: &str, sink: &str, word: &str| refused(&place, &yaml(csv, sink), 6, word);
    let data = "path: data.csv";
    std::os::unix::fs::symlink("data.csv", place.path("link")).unwrap();
    for file in ["piton.db", "./piton.db", "piton.db-wal", "piton.db-locks"] {
        case(data, &format!("jsonl: {{path: {file}}}"), "store");
    }
    case(data, "sqlite: {path: piton.db, table: t}", "store");
    case(data, "csv: {path: data.csv}", "source reads");
    case(data, "csv: {path: link}", "source reads");
    // What it had written would be read by the next run.
    case("path: \"*.csv\"", "csv: {path: out.csv}", "source reads");
    let two = yaml(data, "sqlite: {path: out.db, table: t}") + "  b: {jsonl: {path: out.db}}\n";
    refused(&place, &two, 7, "database of the sink out");
    let store = yaml(data, "jsonl: {path: out.jsonl}") + "store: sqlite:data.csv\n";
    refused(&place, &store, 7, "source reads");
}
