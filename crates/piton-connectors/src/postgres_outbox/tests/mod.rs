//! Reading an outbox on real servers. Each trap of the ways in which an outbox can be misread is a
//! test of its name.
#![cfg(unix)]

mod failover;
mod horizon;
mod misfits;
mod passed;
mod reading;
mod rows;
mod waking;

use std::time::{Duration, Instant};

use piton_core::StoredPosition;
use piton_testkit::service::{self, Postgres, Server};
use postgres::{Client, NoTls};
use serde_json::{Value as Json, json};

use super::{OutboxPosition, OutboxSettings, OutboxSource, ddl};
use crate::{
    batch::Batch,
    source::{Read, Reader, Source, SourceError, Start},
};

/// How long something is waited for that has to come.
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1024 * 1024;

/// An outbox in a database of its own.
pub(super) struct Place {
    url: String,
    settings: Json,
    record_limit: usize,
    accept_changes: bool,
}

impl Place {
    /// An outbox as `piton sql` makes it, on the server that the tests share. `None` where there
    /// can be no server.
    fn new() -> Option<Self> {
        let server = service::needed(Postgres::shared())?;
        Some(Self::on(server, json!({})))
    }

    /// The same on another server, or with other settings.
    fn on(server: &Server, settings: Json) -> Self {
        let place = Self::bare(server.database().unwrap(), settings);
        let ddl = ddl(&place.settings(), false);
        place.sql(&ddl);
        place
    }

    /// A database without a table.
    fn bare(url: String, mut settings: Json) -> Self {
        settings["url"] = json!(url);
        Self { url, settings, record_limit: 16 * MIB, accept_changes: false }
    }

    fn settings(&self) -> OutboxSettings {
        serde_json::from_value(self.settings.clone()).unwrap()
    }

    fn client(&self) -> Client {
        Client::connect(&self.url, NoTls).unwrap()
    }

    fn sql(&self, statements: &str) {
        self.client().batch_execute(statements).unwrap_or_else(|e| panic!("{statements}: {e:?}"));
    }

    fn source(&self) -> OutboxSource {
        self.source_of("relay")
    }

    fn source_of(&self, reader: &str) -> OutboxSource {
        let settings = self.settings();
        OutboxSource::new(&settings, reader, self.record_limit, self.accept_changes).unwrap()
    }

    fn try_from(&self, position: Option<StoredPosition>) -> Result<Box<dyn Reader>, SourceError> {
        let partition = self.settings().table;
        self.source().reader(&[Start { partition, position }])
    }

    fn reader(&self, position: Option<StoredPosition>) -> Box<dyn Reader> {
        self.try_from(position).unwrap()
    }

    fn verify(&self, position: Option<StoredPosition>) -> Result<(), SourceError> {
        let partition = self.settings().table;
        self.source().verify(&Start { partition, position }, false)
    }

    /// All that can be read from a position, until so many messages have come.
    fn read(&self, position: Option<StoredPosition>, messages: usize) -> Vec<Batch> {
        batches(&mut *self.reader(position), messages)
    }
}

/// Appends a message.
fn append(client: &mut impl postgres::GenericClient, id: &str) {
    let insert =
        "INSERT INTO outbox (message_id, message_type, data) VALUES ($1, 'T', '{\"n\":1}')";
    client.execute(insert, &[&id]).unwrap();
}

/// Reads until so many messages have come.
fn batches(reader: &mut dyn Reader, messages: usize) -> Vec<Batch> {
    let (mut all, mut rows, began) = (Vec::new(), 0, Instant::now());
    while rows < messages {
        assert!(began.elapsed() < PATIENCE, "{rows} of {messages} messages came");
        let since = Instant::now();
        match reader.read(1000).unwrap() {
            Read::Batch(batch) => {
                rows += batch.rows();
                all.push(batch);
            }
            Read::Idle => assert!(since.elapsed() < Duration::from_secs(1), "a stop is not heard"),
            other => panic!("{other:?}"),
        }
    }
    all
}

/// The ids of the next messages.
fn ids(reader: &mut dyn Reader, messages: usize) -> Vec<String> {
    ids_in(&batches(reader, messages))
}

fn ids_in(batches: &[Batch]) -> Vec<String> {
    batches.iter().flat_map(|batch| (0..batch.rows()).map(|row| batch.id(row))).collect()
}

/// What comes in a while, where nothing is to come.
fn nothing_comes(reader: &mut dyn Reader, within: Duration) {
    let began = Instant::now();
    while began.elapsed() < within {
        match reader.read(1000).unwrap() {
            Read::Idle => {}
            Read::Batch(batch) => panic!("{:?} came", ids_in(&[batch])),
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn at(transaction_id: u64, position: i64) -> StoredPosition {
    OutboxPosition::new(transaction_id, position).stored()
}

fn gap(result: Result<impl Sized, SourceError>) -> String {
    match result {
        Err(error @ SourceError::Gap { .. }) => error.to_string(),
        Err(other) => panic!("expected a gap, got {other:?}"),
        Ok(_) => panic!("expected a gap"),
    }
}

fn line(batch: &Batch, row: usize) -> Json {
    let mut out = Vec::new();
    batch.write_json(row, &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}
