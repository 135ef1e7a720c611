//! What file sinks write, what they refuse, and what is left after a crash.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use piton_connectors::{
    file::{CsvSinkSettings, FileSink, JsonlSinkSettings},
    sink::{Durable, PlainSink, Resume, SinkError},
    source::{Read, Source},
};
use piton_core::Output;
use serde_json::json;
use tempfile::{TempDir, tempdir};

use super::*;

fn jsonl_sink(folder: &Path) -> FileSink {
    let settings: JsonlSinkSettings = serde_json::from_value(json!({"path": "out"})).unwrap();
    FileSink::jsonl(&settings, folder).unwrap()
}

fn csv_sink(folder: &Path) -> FileSink {
    let settings: CsvSinkSettings = serde_json::from_value(json!({"path": "out"})).unwrap();
    FileSink::csv(&settings, folder).unwrap()
}

/// A batch of the records that these lines of JSON are.
fn batch(lines: &str) -> Batch {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("in"), lines).unwrap();
    match jsonl(folder.path(), "in").reader(&[]).unwrap().read(100_000).unwrap() {
        Read::Batch(batch) => batch,
        other => panic!("{other:?}"),
    }
}

fn put(sink: &mut FileSink, lines: &str) {
    let batch = batch(lines);
    let accepted = sink.write(&batch, 0..batch.rows()).unwrap();
    assert_eq!(accepted.rows, batch.rows() as u64);
}

fn out(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("out")).unwrap()
}

fn after(state: &Durable) -> Resume {
    Resume { state: state.state.clone(), ..Resume::default() }
}

/// Inspects and opens, both with the same answer; inspecting changes nothing.
fn open(sink: &mut FileSink, resume: &Resume) -> Result<Durable, SinkError> {
    sink.inspect(resume)?;
    sink.open(resume)
}

#[test]
fn a_crash_leaves_each_record_once() {
    // Invariants 1 and 5: after a crash the file has what its checkpoint covers, and no half line.
    let lines: Vec<String> = (0..60).map(|n| format!("{{\"n\":{n},\"t\":\"a\\\"b\"}}\n")).collect();
    for csv in [false, true] {
        let folder = tempdir().unwrap();
        let make = || if csv { csv_sink(folder.path()) } else { jsonl_sink(folder.path()) };
        let mut sink = make();
        let mut states = vec![(0, open(&mut sink, &Resume::default()).unwrap())];
        for (n, line) in lines.iter().enumerate() {
            put(&mut sink, line);
            if n % 7 == 0 {
                states.push((n + 1, sink.durable().unwrap()));
            }
        }
        let _ = sink.durable().unwrap();
        drop(sink);
        let whole = fs::read(folder.path().join("out")).unwrap();
        for (done, state) in &states {
            // The file as a crash may leave it: any length past the last durable one.
            for more in [0, 1, 5, whole.len()] {
                let known: serde_json::Value =
                    serde_json::from_str(state.state.as_deref().unwrap()).unwrap();
                let length = known["length"].as_u64().unwrap() as usize;
                fs::write(folder.path().join("out"), &whole[..(length + more).min(whole.len())])
                    .unwrap();
                let mut sink = make();
                assert_eq!(open(&mut sink, &after(state)).unwrap(), *state);
                lines[*done..].iter().for_each(|line| put(&mut sink, line));
                let _ = sink.durable().unwrap();
                assert_eq!(fs::read(folder.path().join("out")).unwrap(), whole, "from {done}");
            }
        }
    }
}

#[test]
fn json_lines_have_absent_and_null_fields_and_stay_lines() {
    let folder = tempdir().unwrap();
    let mut sink = jsonl_sink(folder.path());
    let _ = open(&mut sink, &Resume::default()).unwrap();
    let lines = "{\"a\":1,\"b\":null}\n{\"c\":\"\\u0007\\\\\"}\n{}\n{\"d\":12345678901234567890,\"e\":1.5,\"f\":[true]}\n";
    put(&mut sink, lines);
    let _ = sink.durable().unwrap();
    assert_eq!(out(&folder), lines);

    fs::write(folder.path().join("in.csv"), "j\n\"{\"\"a\"\":\r\n [1,\n2]}\"\n").unwrap();
    let given = json!({"path": "in.csv", "types": {"j": "json"}});
    let mut reader = source(folder.path(), "csv", given).reader(&[]).unwrap();
    let Read::Batch(batch) = reader.read(10).unwrap() else { panic!() };
    let _ = sink.write(&batch, 0..1).unwrap();
    let _ = sink.durable().unwrap();
    assert_eq!(out(&folder).lines().last(), Some("{\"j\":{\"a\":   [1, 2]}}"));
}

#[test]
fn csv_columns_are_settled_by_the_first_rows() {
    let folder = tempdir().unwrap();
    let mut sink = csv_sink(folder.path());
    let _ = open(&mut sink, &Resume::default()).unwrap();
    put(&mut sink, "{\"a\":1,\"b,c\":\"x\\\"y\"}\n{\"b,c\":\"two\\nlines\"}\n");
    put(&mut sink, "{\"b,c\":null,\"a\":[1, 2]}\n{\"a\":1.5}\n{\"a\":true,\"b,c\":\"\"}\n");
    let state = sink.durable().unwrap();
    let text = "a,\"b,c\"\n1,\"x\"\"y\"\n,\"two\nlines\"\n\"[1, 2]\",\n1.5,\ntrue,\n";
    assert_eq!(out(&folder), text);

    // The rows before a bad one are taken, and it can be passed over.
    let bad = batch("{\"a\":5}\n{\"new\":7}\n{\"a\":6}\n");
    let Err(SinkError::BadRow { row: 1, reason }) = sink.write(&bad, 0..3) else { panic!() };
    assert!(reason.contains("'new'") && reason.contains("a, b,c"), "{reason}");
    assert_eq!(sink.write(&bad, 2..3).unwrap().rows, 1);
    let _ = sink.durable().unwrap();
    assert_eq!(out(&folder), format!("{text}5,\n6,\n"));

    // The columns are the state's after a resume, whatever comes first then.
    drop(sink);
    let mut sink = csv_sink(folder.path());
    let _ = open(&mut sink, &after(&state)).unwrap();
    put(&mut sink, "{\"b,c\":\"z\"}\n");
    let _ = sink.durable().unwrap();
    assert_eq!(out(&folder), format!("{text},z\n"));
}

#[test]
fn what_csv_sinks_write_csv_sources_read() {
    let folder = tempdir().unwrap();
    let mut sink = csv_sink(folder.path());
    let _ = open(&mut sink, &Resume::default()).unwrap();
    let lines =
        "{\"a\":\"\"}\n{\"a\":\" \\r\"}\n{\"a\":\"\\\"\"}\n{\"a\":\",\"}\n{\"a\":\"\u{e9}\"}\n";
    put(&mut sink, lines);
    let _ = sink.durable().unwrap();
    let read = rows(&csv(folder.path(), "out"));
    assert_eq!(read, lines.lines().collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_trusted_is_refused_and_left_as_it_is() {
    // Invariant 4: nothing is truncated or written before every refusal has been decided.
    let folder = tempdir().unwrap();
    let path = folder.path().join("out");
    let known = |state: &str| Resume { state: Some(state.into()), ..Resume::default() };
    let cases = [
        (Some("{}\n"), Resume::default(), "no checkpoint says that this pipeline wrote them"),
        (Some("{}\n"), known(r#"{"length":4}"#), "has 3 bytes, and its checkpoint says that 4"),
        (None, known(r#"{"length":4}"#), "is gone, and its checkpoint says that 4"),
        (Some("{}\n"), known("not json"), "is not that of a file"),
        (Some("{}\n"), known(r#"{"length":1,"shape":2}"#), "is not that of a file"),
        (Some("{}\n"), known(r#"{"length":-1}"#), "is not that of a file"),
        (Some("{}\n"), known(r#"{"length":1,"columns":["a"]}"#), "is that of a CSV file"),
    ];
    for (content, resume, expected) in cases {
        let _ = fs::remove_file(&path);
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let mut outputs = vec![resume.output];
        if resume.state.is_some() {
            outputs.extend([Some(Output::Truncate), Some(Output::Keep)]);
        }
        for output in outputs {
            let resume = Resume { output, adopt: resume.state.is_some(), ..resume.clone() };
            let inspected = jsonl_sink(folder.path()).inspect(&resume).err();
            let opened = jsonl_sink(folder.path()).open(&resume).err();
            for refusal in [inspected, opened] {
                let Some(SinkError::Refused { what }) = refusal else {
                    panic!("{expected}: {refusal:?}")
                };
                assert!(what.contains(expected), "{what}");
            }
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), content);
        }
    }
}

#[test]
fn an_operator_chooses_what_becomes_of_output() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("out");
    let state = |length: u64| Some(format!("{{\"length\":{length}}}"));
    for (content, state, adopt, output, expected) in [
        ("old\n", None, true, None, "old\n{\"a\":1}\n"),
        ("old", None, true, None, "old\n{\"a\":1}\n"),
        ("old\n", None, false, Some(Output::Keep), "old\n{\"a\":1}\n"),
        ("old\n", None, false, Some(Output::Truncate), "{\"a\":1}\n"),
        ("one\ntwo\n", state(4), false, Some(Output::Truncate), "one\n{\"a\":1}\n"),
        ("one\ntwo\n", state(4), false, Some(Output::Keep), "one\ntwo\n{\"a\":1}\n"),
        ("one\ntw", state(4), false, Some(Output::Keep), "one\ntw\n{\"a\":1}\n"),
        ("one\ntw", state(4), false, None, "one\n{\"a\":1}\n"),
    ] {
        fs::write(&path, content).unwrap();
        let mut sink = jsonl_sink(folder.path());
        let _ = open(&mut sink, &Resume { state, adopt, output }).unwrap();
        put(&mut sink, "{\"a\":1}\n");
        let durable = sink.durable().unwrap();
        assert_eq!(out(&folder), expected);
        assert_eq!(durable.state, Some(format!("{{\"length\":{}}}", expected.len())));
    }
}

#[test]
fn a_csv_file_that_is_taken_over_keeps_its_columns() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("out"), "b,a\n1,2\n").unwrap();
    let mut sink = csv_sink(folder.path());
    let begun = open(&mut sink, &Resume { adopt: true, ..Resume::default() }).unwrap();
    assert_eq!(begun.state.as_deref(), Some(r#"{"length":8,"columns":["b","a"]}"#));
    put(&mut sink, "{\"a\":4,\"b\":3}\n");
    let _ = sink.durable().unwrap();
    assert_eq!(out(&folder), "b,a\n1,2\n3,4\n");
}

#[test]
fn a_file_has_one_writer() {
    let folder = tempdir().unwrap();
    let mut first = jsonl_sink(folder.path());
    let begun = open(&mut first, &Resume::default()).unwrap();
    put(&mut first, "{\"a\":1}\n");
    let _ = first.durable().unwrap();
    let mut second = jsonl_sink(folder.path());
    assert!(matches!(second.inspect(&after(&begun)), Err(SinkError::Held { .. })));
    assert!(matches!(second.open(&after(&begun)), Err(SinkError::Held { .. })));
    assert_eq!(out(&folder), "{\"a\":1}\n");
    drop(first);
    let _ = open(&mut second, &after(&begun)).unwrap();
    assert_eq!(out(&folder), "");
}

#[test]
fn a_file_that_others_change_is_noticed_before_anything_counts_as_durable() {
    // Invariant 1: a checkpoint never covers a record that is not durable.
    type Change = fn(&Path);
    let changes: [(Change, &str); 4] = [
        (|path| fs::write(path, "").unwrap(), "something else writes it"),
        (
            |path| OpenOptions::new().append(true).open(path).unwrap().write_all(b"x").unwrap(),
            "something else writes it",
        ),
        (|path| fs::rename(path, path.with_extension("1")).unwrap(), "was moved or replaced"),
        (|path| fs::remove_file(path).unwrap(), "was moved or replaced"),
    ];
    for (change, expected) in changes {
        let folder = tempdir().unwrap();
        let mut sink = jsonl_sink(folder.path());
        let _ = open(&mut sink, &Resume::default()).unwrap();
        put(&mut sink, "{\"a\":1}\n");
        let _ = sink.durable().unwrap();
        change(&folder.path().join("out"));
        put(&mut sink, "{\"a\":2}\n");
        let Err(SinkError::Failed { what }) = sink.durable() else { panic!("{expected}") };
        assert!(what.contains(expected) && what.contains("since byte 8"), "{what}");
        assert!(matches!(sink.durable(), Err(SinkError::Failed { .. })));
        assert!(matches!(sink.write(&batch("{}\n"), 0..1), Err(SinkError::Failed { .. })));
    }
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let folder = tempdir().unwrap();
    let at = |path: &str| {
        let settings = JsonlSinkSettings { path: path.to_owned() };
        FileSink::jsonl(&settings, folder.path())
    };
    let refusal = |path: &str| at(path).and_then(|mut sink| sink.inspect(&Resume::default()));
    for (path, expected) in [
        ("none/out", "does not exist: create it"),
        (".", "is not a regular file"),
        ("/dev/null", "is not a regular file"),
        ("", "path: it is empty"),
    ] {
        let Err(SinkError::Settings { what }) = refusal(path) else { panic!("{path}") };
        assert!(what.contains(expected), "{what}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let given = json!({"path": "out", "delimiter": "\""});
    let settings = serde_json::from_value::<CsvSinkSettings>(given).unwrap();
    assert!(matches!(FileSink::csv(&settings, folder.path()), Err(SinkError::Settings { .. })));
}

#[test]
fn much_is_written_through_without_being_kept() {
    let folder = tempdir().unwrap();
    let mut sink = jsonl_sink(folder.path());
    let _ = open(&mut sink, &Resume::default()).unwrap();
    let lines = format!("{{\"a\":\"{}\"}}\n", "x".repeat(1000)).repeat(200);
    for _ in 0..10 {
        put(&mut sink, &lines);
    }
    let written = fs::metadata(folder.path().join("out")).unwrap().len();
    assert!(written + 300_000 > 10 * lines.len() as u64, "{written}");
}
