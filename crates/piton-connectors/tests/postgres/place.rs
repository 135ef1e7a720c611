//! A database of one test, and sinks on it.

use std::{fmt::Debug, sync::Arc, time::Duration};

use piton_connectors::{
    batch::{Batch, Column, ColumnType, Schema, Value},
    conformance::{self, Target},
    postgres::{History, PostgresSettings, PostgresSink},
    sink::{Advance, Fence, SinkError, Transaction, TransactionalSink},
};
use piton_core::Epoch;
use piton_testkit::service::{self, Postgres};
use postgres::{Client, NoTls};

/// How long locks are waited for in these tests.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// An empty database on the server that the tests of this process share.
pub(crate) struct Place {
    pub(crate) url: String,
}

impl Place {
    /// None where there can be no server.
    pub(crate) fn new() -> Option<Self> {
        let server = service::needed(Postgres::shared())?;
        Some(Self { url: server.database().unwrap() })
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.url, NoTls).unwrap()
    }

    pub(crate) fn run(&self, sql: &str) {
        self.client().batch_execute(sql).unwrap();
    }

    /// The first column of what a query gives, as text.
    pub(crate) fn column(&self, sql: &str) -> Vec<String> {
        let rows = self.client().query(sql, &[]).unwrap();
        rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or("NULL".into())).collect()
    }

    pub(crate) fn settings(&self, rest: &str) -> PostgresSettings {
        serde_saphyr::from_str(&format!("url: {}\n{rest}", self.url)).unwrap()
    }

    /// A sink with these settings besides the URL.
    pub(crate) fn sink(&self, settings: &str) -> PostgresSink {
        PostgresSink::new(&self.settings(settings), LEASE).unwrap()
    }

    /// A sink that has been fenced.
    pub(crate) fn open(&self, settings: &str) -> PostgresSink {
        let mut sink = self.sink(settings);
        let _ = sink.fence(&fence(1)).unwrap_or_else(|error| panic!("{error}"));
        sink
    }

    /// A sink that looks for refused rows batch by batch from the beginning, as one that comes
    /// after a refusal.
    pub(crate) fn open_carefully(&self, settings: &str) -> PostgresSink {
        let mut sink = self.sink(settings).after(Arc::new(History::with_refusal()));
        let _ = sink.fence(&fence(1)).unwrap();
        sink
    }
}

impl Target for Place {
    fn sink(&self) -> Box<dyn TransactionalSink> {
        Box::new(self.sink("table: t\nkey: [id]"))
    }

    fn rows(&self) -> Vec<(i64, String)> {
        let mut client = self.client();
        let is_there = "SELECT to_regclass('t') IS NOT NULL";
        if !client.query_one(is_there, &[]).unwrap().get::<_, bool>(0) {
            return Vec::new();
        }
        let rows = client.query("SELECT id, name FROM t ORDER BY id", &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

pub(crate) fn fence(epoch: u64) -> Fence {
    Fence {
        pipeline: "p".into(),
        sink: "s".into(),
        epoch: Epoch(epoch),
        partitions: vec!["input".into()],
        orders: Vec::new(),
    }
}

pub(crate) fn advance(records: u64) -> Advance {
    Advance { partition: "input".into(), position: conformance::at(records), records }
}

/// Records with these columns.
pub(crate) fn batch(columns: &[(&str, ColumnType)], rows: &[&[Value<'_>]]) -> Batch {
    let ids: Vec<Option<i64>> = (0..rows.len() as i64).map(Some).collect();
    let mut batch = conformance::records("input", &ids);
    let column = |(name, kind): &(&str, ColumnType)| Column { name: (*name).into(), kind: *kind };
    batch.schema = Arc::new(Schema { columns: columns.iter().map(column).collect() });
    for (row, values) in rows.iter().enumerate() {
        batch.set(row, 0, Value::Absent);
        batch.set(row, 1, Value::Absent);
        for (column, value) in values.iter().enumerate() {
            batch.set(row, column, *value);
        }
    }
    batch
}

/// Writes all of a batch and commits it as so many records.
pub(crate) fn deliver(sink: &mut dyn TransactionalSink, batch: &Batch, upto: u64) {
    let mut open = sink.begin().unwrap_or_else(|error| panic!("{error}"));
    open.write(batch, 0..batch.rows()).unwrap_or_else(|error| panic!("{error}"));
    let _ = open.commit(&[advance(upto)]).unwrap_or_else(|error| panic!("{error}"));
}

/// Writes all of a batch, setting bad rows aside as a run does; returns them, with the reasons.
pub(crate) fn set_aside(open: &mut dyn Transaction, batch: &Batch) -> Vec<(usize, String)> {
    let (mut from, mut bad) = (0, Vec::new());
    while from < batch.rows() {
        match open.write(batch, from..batch.rows()) {
            Ok(()) => break,
            Err(SinkError::BadRow { row, reason }) => {
                assert!(row >= from, "{row} was passed before");
                bad.push((row, reason));
                from = row + 1;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    bad
}

/// Demands that the message of an error has all of these words.
#[track_caller]
pub(crate) fn says<T: Debug>(result: Result<T, SinkError>, words: &[&str]) -> SinkError {
    let error = result.unwrap_err();
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    error
}
