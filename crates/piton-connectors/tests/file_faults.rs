//! What file sinks do when the disk fails. Fault points are the process's own, so these tests are
//! in one function.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use piton_connectors::{
    batch::Batch,
    file::{FileSink, FileSource, JsonlSettings, JsonlSinkSettings},
    sink::{PlainSink, Resume, SinkError},
    source::{Read, Source},
};
use piton_core::fault::{Strike, arm};

fn sink(folder: &Path, path: &str) -> FileSink {
    let mut sink = FileSink::jsonl(&JsonlSinkSettings { path: path.to_owned() }, folder).unwrap();
    let _ = sink.open(&Resume::default()).unwrap();
    sink
}

fn batch(folder: &Path) -> Batch {
    fs::write(folder.join("in"), "{\"a\":1}\n").unwrap();
    let source = FileSource::new(JsonlSettings::at("in"), folder, 1000).unwrap();
    match source.reader(&[]).unwrap().read(10).unwrap() {
        Read::Batch(batch) => batch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn after_a_failed_write_or_sync_nothing_goes_on_by_hope() {
    // Invariant 7.
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    let folder = tempfile::tempdir().unwrap();
    let batch = batch(folder.path());
    let (mut synced, mut full) = (sink(folder.path(), "synced"), sink(folder.path(), "full"));
    for sink in [&mut synced, &mut full] {
        let _ = sink.write(&batch, 0..1).unwrap();
        let durable = sink.durable().unwrap();
        assert_eq!(durable.state.as_deref(), Some("{\"length\":8}"));
        let _ = sink.write(&batch, 0..1).unwrap();
    }

    arm("file.sync", 1, Strike::Fail(EIO));
    let Err(SinkError::Failed { what }) = synced.durable() else { panic!("the sync did not fail") };
    assert!(what.contains("could not be made durable"), "{what}");
    assert!(what.contains("Everything up to byte 8 is durable"), "{what}");

    arm("file.write", 1, Strike::Fail(ENOSPC));
    let Err(SinkError::Failed { what }) = full.durable() else { panic!("the write did not fail") };
    assert!(what.contains("the disk is full. Everything up to byte 8 is durable"), "{what}");
    assert!(what.contains("run the same command again"), "{what}");

    for sink in [&mut synced, &mut full] {
        assert!(matches!(sink.write(&batch, 0..1), Err(SinkError::Failed { .. })));
        assert!(matches!(sink.durable(), Err(SinkError::Failed { .. })));
    }
    // What was written without becoming durable is cut off by the next run.
    drop((synced, full));
    for path in ["synced", "full"] {
        let settings = JsonlSinkSettings { path: path.to_owned() };
        let mut sink = FileSink::jsonl(&settings, folder.path()).unwrap();
        let state = Some("{\"length\":8}".to_owned());
        let _ = sink.open(&Resume { state, ..Resume::default() }).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join(path)).unwrap(), "{\"a\":1}\n");
    }
}
