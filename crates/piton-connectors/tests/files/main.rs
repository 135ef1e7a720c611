//! File sources and sinks, on real files.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod reading;
mod resuming;
mod writing;

use std::path::Path;

use piton_connectors::{
    batch::Batch,
    file::{CsvSettings, FileSettings, FileSource, JsonlSettings},
    source::{BadRecord, Read, Reader, Source, SourceError, Start},
};
use piton_core::StoredPosition;
use serde_json::{Value, json};

const LIMIT: u64 = 1 << 20;

/// What a reader gave, one by one.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Row { id: String, json: String },
    Bad(BadRecord),
}

impl Item {
    fn json(&self) -> &str {
        match self {
            Self::Row { json, .. } => json,
            Self::Bad(bad) => &bad.reason,
        }
    }
}

/// An item, the position at which reading goes on with it, and the one after it.
struct Seen {
    item: Item,
    at: Option<StoredPosition>,
    after: Option<StoredPosition>,
    partition: String,
}

fn settings(kind: &str, value: Value) -> FileSettings {
    match kind {
        "csv" => serde_json::from_value::<CsvSettings>(value).unwrap().into(),
        _ => serde_json::from_value::<JsonlSettings>(value).unwrap().into(),
    }
}

fn source(folder: &Path, kind: &str, value: Value) -> FileSource {
    FileSource::new(settings(kind, value), folder, LIMIT).unwrap()
}

fn csv(folder: &Path, path: &str) -> FileSource {
    source(folder, "csv", json!({"path": path}))
}

fn jsonl(folder: &Path, path: &str) -> FileSource {
    source(folder, "jsonl", json!({"path": path}))
}

fn row_json(batch: &Batch, row: usize) -> String {
    let mut out = Vec::new();
    batch.write_json(row, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Reads on until there is nothing more, in batches of at most `limit`.
fn drain(reader: &mut dyn Reader, limit: usize) -> Result<Vec<Seen>, (Vec<Seen>, SourceError)> {
    let mut seen: Vec<Seen> = Vec::new();
    loop {
        match reader.read(limit) {
            Ok(Read::Batch(batch)) => {
                assert!(batch.rows() > 0 && batch.rows() <= limit);
                assert_eq!(batch.records, batch.rows() as u64);
                for row in 0..batch.rows() {
                    seen.push(Seen {
                        item: Item::Row { id: batch.id(row), json: row_json(&batch, row) },
                        at: Some(batch.resume_at(row)),
                        after: None,
                        partition: batch.partition.to_string(),
                    });
                }
                seen.last_mut().unwrap().after = Some(batch.end.clone());
            }
            Ok(Read::Bad(bad)) => seen.push(Seen {
                at: None,
                after: Some(bad.end.clone()),
                partition: bad.partition.clone(),
                item: Item::Bad(bad),
            }),
            Ok(Read::Idle | Read::Finished) => return Ok(seen),
            Err(error) => return Err((seen, error)),
        }
    }
}

fn read_from(source: &FileSource, starts: &[Start], limit: usize) -> Vec<Seen> {
    let mut reader = source.reader(starts).unwrap();
    drain(&mut *reader, limit).map_err(|(_, error)| error).unwrap()
}

fn read(source: &FileSource) -> Vec<Seen> {
    read_from(source, &[], 1000)
}

fn rows(source: &FileSource) -> Vec<String> {
    read(source).iter().map(|seen| seen.item.json().to_owned()).collect()
}

fn start(partition: &str, position: &StoredPosition) -> Start {
    Start { partition: partition.to_owned(), position: Some(position.clone()) }
}

/// Where reading goes on after everything.
fn end(source: &FileSource) -> Start {
    let seen = read(source);
    let last = seen.last().unwrap();
    start(&last.partition, last.after.as_ref().unwrap())
}
