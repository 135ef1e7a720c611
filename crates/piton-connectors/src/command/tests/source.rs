use std::{
    path::Path,
    time::{Duration, Instant},
};

use piton_core::StoredPosition;
use serde_json::json;

use super::{PATIENCE, content, lives, settings};
use crate::{
    batch::Batch,
    command::CommandSource,
    source::{BadRecord, Read, Reader, Source, SourceError, Start},
};

const LIMIT: usize = 2000;

fn source(script: &str, folder: &Path) -> CommandSource {
    let settings = settings(script, json!({"key": "id"}));
    CommandSource::new(&settings, folder, "p", LIMIT).unwrap()
}

fn at(json: &str) -> Vec<Start> {
    let position = StoredPosition { kind: "command".into(), json: json.into() };
    vec![Start { partition: "command".into(), position: Some(position) }]
}

/// What reading gave until it ended.
#[derive(Default)]
struct Seen {
    batches: Vec<Batch>,
    bad: Vec<BadRecord>,
    error: Option<SourceError>,
}

impl Seen {
    fn ids(&self) -> Vec<String> {
        let rows = |batch: &Batch| (0..batch.rows()).map(|row| batch.id(row)).collect::<Vec<_>>();
        self.batches.iter().flat_map(rows).collect()
    }

    fn failure(&self) -> String {
        self.error.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

fn all(mut reader: Box<dyn Reader>, limit: usize) -> Seen {
    let began = Instant::now();
    let mut seen = Seen::default();
    loop {
        assert!(began.elapsed() < PATIENCE, "it does not end");
        let asked = Instant::now();
        match reader.read(limit) {
            Ok(Read::Batch(batch)) => seen.batches.push(batch),
            Ok(Read::Bad(bad)) => seen.bad.push(bad),
            Ok(Read::Idle) => assert!(asked.elapsed() < Duration::from_secs(2)),
            Ok(Read::Finished) => return seen,
            Err(error) => {
                seen.error = Some(error);
                return seen;
            }
        }
    }
}

fn read(script: &str) -> Seen {
    let folder = tempfile::tempdir().unwrap();
    all(source(script, folder.path()).reader(&[]).unwrap(), 1000)
}

/// Prints records from the one after the position to 5. A first start has no position at all.
const COUNT: &str = r#"[ "${PITON_POSITION-unset}" = unset ] || [ "$PITON_POSITION" ] || exit 9
    n=${PITON_POSITION:-0}
    while [ $n -lt 5 ]; do n=$((n+1)); echo "{\"id\": $n, \"name\": \"name $n\"}"; done"#;

#[test]
fn records_are_resumed_after_the_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(COUNT, folder.path());
    let first = all(source.reader(&[]).unwrap(), 2);
    assert_eq!(first.ids(), ["command@1", "command@2", "command@3", "command@4", "command@5"]);
    assert_eq!(first.failure(), "");
    let ends: Vec<_> = first.batches.iter().map(|batch| batch.end.json.as_str()).collect();
    assert_eq!(ends, [r#"{"n":2,"key":"2"}"#, r#"{"n":4,"key":"4"}"#, r#"{"n":5,"key":"5"}"#]);
    assert_eq!(first.batches[0].resume_at(0).json, r#"{"n":0}"#);
    assert_eq!(first.batches[1].resume_at(1).json, r#"{"n":3,"key":"3"}"#);
    let mut row = Vec::new();
    first.batches[1].write_json(0, &mut row).unwrap();
    assert_eq!(row, br#"{"id":3,"name":"name 3"}"#);

    let start = at(r#"{"n":13,"key":"3"}"#);
    let again = all(source.reader(&start).unwrap(), 1000);
    assert_eq!(again.ids(), ["command@4", "command@5"], "a replay has the same ids");
    assert_eq!(again.batches.last().unwrap().end.json, r#"{"n":15,"key":"5"}"#);
    assert!(source.verify(&start[0], true).is_ok());
    let foreign = StoredPosition { kind: "file".into(), json: "{}".into() };
    let foreign = Start { partition: "command".into(), position: Some(foreign) };
    assert!(matches!(source.verify(&foreign, false), Err(SourceError::Position(_))));
}

#[test]
fn keys_are_handed_back_as_plain_text() {
    for (key, text) in [
        (r#""it's \"é\" $HOME""#, r#"it's "é" $HOME"#),
        ("-5", "-5"),
        ("1.5", "1.5"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("in"), format!("{{\"id\": {key}}}\n")).unwrap();
        let script = r#"[ "${PITON_POSITION+set}" ] || exec cat in
            printf '%s\n' "$PITON_POSITION" >got"#;
        let source = source(script, folder.path());
        let first = all(source.reader(&[]).unwrap(), 10);
        assert_eq!(first.ids(), [format!("command@{text}")]);
        let end = &first.batches[0].end;
        assert!(all(source.reader(&at(&end.json)).unwrap(), 10).error.is_none());
        assert_eq!(content(&folder.path().join("got")), text);
    }
}

#[test]
fn a_record_without_a_key_that_can_be_used_is_bad() {
    let long = "k".repeat(1900);
    let seen = read(&format!(
        r#"echo '{{"id": 1}}'; echo '{{"name": "x"}}'; echo '{{"id": null}}'; echo '{{"id": {{}}}}'
        echo '{{"id": true}}'; echo '{{"id": ""}}'; echo '{{"id": "a\u0000b"}}'; echo nonsense; echo
        echo '{{"id": "{long}", "more": "{long}"}}'; echo '{{"id": "1"}}'; printf '{{"id": 2}}'"#
    ));
    assert_eq!(seen.failure(), "");
    assert_eq!(seen.ids(), ["command@1", "command@2"], "and a last line needs no end");
    let reasons = [
        "it has no field 'id', the key",
        "its key 'id' is null",
        "its key 'id' is an object or a list",
        "its key 'id' is true or false",
        "its key 'id' is empty",
        "its key 'id' has a control character: \"a\\0b\"",
        "column 2: not valid JSON",
        "the record is longer than `limits: {record: 2000}`",
        "its key 'id' is '1', that of the record before it. A key has to be another",
    ];
    let found: Vec<&str> = seen.bad.iter().map(|bad| bad.reason.as_str()).collect();
    assert_eq!(found.len(), reasons.len(), "{found:#?}");
    for (found, wanted) in found.iter().zip(reasons) {
        assert!(found.starts_with(wanted), "{found}");
    }
    let last = seen.bad.last().unwrap();
    assert_eq!(
        (last.id.as_str(), last.end.json.as_str()),
        ("command@1!9", r#"{"n":10,"key":"1"}"#)
    );
    assert_eq!(last.place, "the command 'sh', line 11");
    assert_eq!(seen.batches.last().unwrap().end.json, r#"{"n":11,"key":"2"}"#);
}

#[test]
fn one_that_begins_with_the_last_record_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(r#"echo '{"id": 3}'; echo '{"id": 4}'"#, folder.path());
    let seen = all(source.reader(&at(r#"{"n":3,"key":"3"}"#)).unwrap(), 10);
    assert_eq!(seen.ids(), ["command@4"]);
    assert!(seen.bad[0].reason.ends_with("has to begin after PITON_POSITION, not with it"));
}

/// Invariant 8: memory is bounded by configuration.
#[test]
fn a_line_without_end_is_a_bad_record() {
    let script = "head -c 300000000 /dev/zero | tr '\\0' x; echo; echo '{\"id\": 1}'";
    let seen = read(script);
    assert_eq!((seen.ids(), seen.bad.len()), (vec!["command@1".to_owned()], 1));
    assert!(seen.bad[0].reason.contains("longer than") && seen.bad[0].record.len() == 4096);
}

#[test]
fn a_command_that_fails_is_named_with_what_it_said() {
    let script = r#"echo '{"id": 1}'; echo one >&2; echo two >&2; printf '{"id": 2}'; exit 3"#;
    let seen = read(script);
    assert_eq!(seen.ids(), ["command@1"], "half of a line is none");
    let what = seen.failure();
    assert!(
        what.contains("the command 'sh' ended with exit code 3, and said: one | two"),
        "{what}"
    );
    assert!(read("kill -9 $$").failure().contains("ended with signal 9"));
    assert!(read("kill -9 $$").failure().contains("signal 9. What"), "and said nothing");
}

#[test]
fn a_command_that_is_not_there_is_found_before_it_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let settings = serde_json::from_value(json!({"run": ["./none"], "key": "id"})).unwrap();
    let source = CommandSource::new(&settings, folder.path(), "p", LIMIT).unwrap();
    for error in [source.partitions().unwrap_err(), source.reader(&[]).err().unwrap()] {
        let what = error.to_string();
        assert!(
            matches!(error, SourceError::Settings { .. }) && what.contains("'./none'"),
            "{what}"
        );
    }
}

#[test]
fn it_is_ended_when_nobody_reads_any_more_and_waits_while_nobody_does() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"echo $$ >pid; n=0
        while :; do n=$((n+1)); echo "{\"id\": $n, \"x\": \"$PAD\"}"; echo $n >count; done"#;
    let source = source(script, folder.path());
    let mut reader = source.reader(&[]).unwrap();
    let pid: u32 = content(&folder.path().join("pid")).parse().unwrap();
    assert!(matches!(reader.read(1).unwrap(), Read::Batch(_)));
    let count = || content(&folder.path().join("count")).parse::<u64>().unwrap();
    let began = Instant::now();
    let mut before = count();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = count();
        if now == before {
            break;
        }
        before = now;
        assert!(began.elapsed() < PATIENCE, "the pipe holds nobody up");
    }
    assert!(lives(pid));
    drop(reader);
    assert!(!lives(pid));
}

#[test]
fn a_silent_command_does_not_keep_from_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let source = source("sleep 60", folder.path());
    let mut reader = source.reader(&[]).unwrap();
    let began = Instant::now();
    assert!(matches!(reader.read(10).unwrap(), Read::Idle));
    drop(reader);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_dead_letter_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let source = source("exit 1", folder.path());
    let batch = source.parse("command", r#"{"id": 7, "a": 1}"#).unwrap();
    assert_eq!((batch.rows(), batch.id(0).as_str()), (1, "command@7"));
    let error = source.parse("command", r#"{"a": 1}"#).unwrap_err().to_string();
    assert!(error.contains("no field 'id'"), "{error}");
}
