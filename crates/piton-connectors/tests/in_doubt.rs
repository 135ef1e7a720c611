//! A commit without an answer. In a process of its own, because it arms a fault for all of it.

use std::time::Duration;

use piton_connectors::{
    conformance::{at, records},
    sink::{Advance, Fence, SinkError, TransactionalSink},
    sqlite::{SqliteSettings, SqliteSink},
};
use piton_core::{
    Epoch,
    fault::{self, Strike},
};

const EIO: i32 = 5;

/// Invariant 7: after an ambiguous commit nothing goes on by hope: fence, then read.
#[test]
fn a_commit_without_an_answer_is_resolved_by_reading() {
    let folder = tempfile::tempdir().unwrap();
    let settings = serde_json::json!({"path": "out.db", "table": "people", "key": ["id"]});
    let settings: SqliteSettings = serde_json::from_value(settings).unwrap();
    let mut sink = SqliteSink::new(&settings, folder.path(), Duration::ZERO).unwrap();
    let fence = Fence {
        pipeline: "p".into(),
        sink: "s".into(),
        epoch: Epoch(1),
        partitions: vec!["input".into()],
        orders: Vec::new(),
    };
    sink.fence(&fence).unwrap();

    fault::arm("commit.after", 1, Strike::Fail(EIO));
    let mut open = sink.begin().unwrap();
    open.write(&records("input", &[Some(1), Some(2)]), 0..2).unwrap();
    let advance = Advance { partition: "input".into(), position: at(2), records: 2 };
    let doubt = open.commit(&[advance]);
    assert!(matches!(doubt, Err(SinkError::InDoubt { .. })), "{doubt:?}");

    assert!(sink.begin().is_err(), "it must be fenced and read first");
    let read = sink.fence(&fence).unwrap();
    assert_eq!(read[0].position, Some(at(2)), "the commit had taken effect");
    assert!(sink.begin().is_ok());
}
