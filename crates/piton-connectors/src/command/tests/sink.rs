use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{PATIENCE, content, lives, settings};
use crate::{
    batch::Batch,
    command::{CommandSink, Tries},
    conformance::records,
    sink::{PlainSink, Resume, SinkError},
};

/// Answers every record as it comes, and keeps what it got.
const TAKE: &str = r#"tee -a got | sed -u 's/^{"id":"\([^"]*\)".*/\1/'"#;

fn sink(script: &str, folder: &Path, more: Value) -> CommandSink {
    CommandSink::new(&settings(script, more), folder, "p", "s").unwrap()
}

fn rows(count: i64) -> Batch {
    records("a.csv", &(1..=count).map(Some).collect::<Vec<_>>())
}

fn got(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("got")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn failed(error: Result<impl Sized, SinkError>) -> String {
    match error.map(drop) {
        Err(SinkError::Failed { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn unavailable(error: Result<impl Sized, SinkError>) -> String {
    match error.map(drop) {
        Err(SinkError::Unavailable { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_are_given_with_their_ids_and_durable_when_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink(TAKE, folder.path(), json!({"in_flight": 7}));
    let batch = rows(5000);
    assert_eq!(sink.write(&batch, 0..4000).unwrap().rows, 4000);
    let promise = sink.promise().unwrap();
    let _ = sink.write(&batch, 4000..5000).unwrap();
    let _ = promise.keep().unwrap();
    let _ = sink.durable().unwrap();
    sink.finish().unwrap();
    let got = got(folder.path());
    assert_eq!(got.len(), 5000);
    assert_eq!(got[1], json!({"id": "a.csv@1", "record": {"id": 2, "name": "name 2"}}));
}

#[test]
fn answers_in_another_order_count_when_there_is_no_gap() {
    let folder = tempfile::tempdir().unwrap();
    // The answers of ten records at once, the last first.
    let script = r#"while :; do
            n=0; all=
            while [ $n -lt 10 ] && read -r line; do
                n=$((n+1)); id=${line#*:\"}; all="${id%%\"*} $all"
            done
            [ "$all" ] || exit 0
            for id in $all; do echo "$id"; done
        done"#;
    let mut sink = sink(script, folder.path(), json!({"timeout": "1s"}));
    let _ = sink.write(&rows(50), 0..20).unwrap();
    let _ = sink.durable().unwrap();
    let _ = sink.write(&rows(50), 20..25).unwrap();
    let what = failed(sink.durable());
    assert!(what.contains("has answered nothing for 1 s"), "{what}");
    assert!(what.contains("5 records were not answered"), "{what}");
}

#[test]
fn an_answer_that_is_no_id_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink("read -r a; echo 'done, I think'; cat", folder.path(), json!({}));
    let _ = sink.write(&rows(3), 0..3).unwrap();
    let what = failed(sink.durable());
    assert!(what.contains("'sh' answered 'done, I think', which is the id of no record"), "{what}");
    assert!(what.contains("3 records were not answered"), "{what}");
}

#[test]
fn a_command_that_ends_early_says_how_many_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let script = "read -r line; echo a.csv@0; read -r line; echo no room >&2; exit 4";
    let mut sink = sink(script, folder.path(), json!({}));
    let _ = sink.write(&rows(3), 0..3).unwrap();
    let what = failed(sink.durable());
    assert!(what.contains("'sh' ended with exit code 4"), "{what}");
    assert!(what.contains("and said: no room. 2 records were not answered"), "{what}");
    assert_eq!(failed(sink.durable()), what);
}

#[test]
fn a_command_that_does_not_read_is_not_waited_for_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink("echo $$ >pid; sleep 60", folder.path(), json!({"timeout": "500ms"}));
    let began = Instant::now();
    // More than pipe and buffers hold.
    let what = failed(sink.write(&rows(20_000), 0..20_000));
    assert!(what.contains("has answered nothing for 0.5 s"), "{what}");
    assert!(began.elapsed() < Duration::from_secs(5));
    let pid: u32 = content(&folder.path().join("pid")).parse().unwrap();
    assert!(!lives(pid));
}

#[test]
fn it_is_begun_anew_as_often_as_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("echo x >>starts; [ $(wc -l <starts) -lt 3 ] && exit 1; {TAKE}");
    let tries = Arc::new(Tries::at_most(2));
    let batch = rows(5);
    let new = || sink(&script, folder.path(), json!({})).trying(Arc::clone(&tries));
    let mut first = new();
    let _ = first.write(&batch, 0..5).unwrap();
    unavailable(first.durable());
    // What was taken is lost with the command: only a new sink, from the checkpoint, helps.
    unavailable(first.write(&batch, 0..5).and_then(|_| first.durable()));
    drop(first);
    let mut second = new();
    let _ = second.write(&batch, 0..5).unwrap();
    unavailable(second.durable());
    let mut third = new();
    let _ = third.write(&batch, 0..5).unwrap();
    let _ = third.durable().unwrap();
    third.finish().unwrap();
    assert_eq!(got(folder.path()).len(), 5);

    let failing = |tries: &Arc<Tries>| {
        let mut sink = sink("exit 1", folder.path(), json!({})).trying(Arc::clone(tries));
        sink.write(&batch, 0..5).and_then(|_| sink.durable())
    };
    // What was durable in between gives the tries back.
    unavailable(failing(&tries));
    unavailable(failing(&tries));
    let what = failed(failing(&tries));
    // It may have ended before it was sent anything.
    assert!(what.contains("records were not answered"), "{what}");
}

#[test]
fn it_has_to_end_well_when_there_is_nothing_more() {
    for (script, wanted) in [
        (
            format!("{TAKE}; echo too late >&2; exit 5"),
            "ended with exit code 5, and said: too late",
        ),
        (format!("{TAKE}; sleep 60"), "has not ended 0.7 s after the end of its input"),
        (format!("{TAKE}; echo goodbye"), "answered 'goodbye', which is the id of no record"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = sink(&script, folder.path(), json!({"timeout": "700ms"}));
        let _ = sink.write(&rows(3), 0..3).unwrap();
        let _ = sink.durable().unwrap();
        let what = failed(sink.finish());
        assert!(what.contains(wanted), "{what}");
    }
}

#[test]
fn nothing_is_started_for_nothing_and_what_is_not_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut idle = sink("echo x >started", folder.path(), json!({}));
    let _ = idle.open(&Resume::default()).unwrap();
    let _ = idle.durable().unwrap();
    idle.finish().unwrap();
    assert!(!folder.path().join("started").exists());

    let settings = serde_json::from_value(json!({"run": ["./none"]})).unwrap();
    let mut none = CommandSink::new(&settings, folder.path(), "p", "s").unwrap();
    assert!(matches!(none.inspect(&Resume::default()), Err(SinkError::Settings { .. })));
    let cut = Resume { output: Some(piton_core::Output::Truncate), ..Resume::default() };
    assert!(matches!(idle.inspect(&cut), Err(SinkError::Refused { .. })));
}

#[test]
fn a_dropped_sink_leaves_no_command() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink(&format!("echo $$ >pid; {TAKE}; sleep 60"), folder.path(), json!({}));
    let _ = sink.write(&rows(3), 0..3).unwrap();
    let pid: u32 = content(&folder.path().join("pid")).parse().unwrap();
    assert!(lives(pid));
    let began = Instant::now();
    drop(sink);
    assert!(!lives(pid) && began.elapsed() < PATIENCE);
}
