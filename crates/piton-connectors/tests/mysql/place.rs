//! A database of one test, and sinks on it.

use std::{fmt::Debug, sync::Arc, time::Duration};

use mysql::{Conn, Opts, OptsBuilder, Row, Value as Held, prelude::Queryable as _};
use piton_connectors::{
    batch::{Batch, Column, ColumnType, Schema, Value},
    conformance::{self, Target},
    mysql::{MySqlSettings, MySqlSink},
    sink::{Advance, Fence, SinkError, Transaction, TransactionalSink},
};
use piton_core::Epoch;
use piton_testkit::service::{self, MariaDb, MySql, Options, Server};

/// How long locks are waited for in these tests.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// Which of both servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    MySql,
    MariaDb,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::MySql, Self::MariaDb];

    /// The server that the tests of this process share; `None` where there can be none.
    pub(crate) fn shared(self) -> Option<&'static Server> {
        match self {
            Self::MySql => service::needed(MySql::shared()),
            Self::MariaDb => service::needed(MariaDb::shared()),
        }
    }

    pub(crate) fn options(self) -> Options {
        match self {
            Self::MySql => MySql::options(),
            Self::MariaDb => MariaDb::options(),
        }
    }
}

/// An empty database on the server that the tests of this process share.
pub(crate) struct Place {
    pub(crate) url: String,
}

/// A place on each of both servers, as far as they can be had.
pub(crate) fn both() -> impl Iterator<Item = Place> {
    Family::BOTH.into_iter().filter_map(|family| Place::on(family.shared()?))
}

/// A connection to a URL, by the network.
pub(crate) fn connect(url: &str) -> Conn {
    let options = OptsBuilder::from_opts(Opts::from_url(url).unwrap()).prefer_socket(false);
    Conn::new(options).unwrap()
}

impl Place {
    pub(crate) fn on(server: &Server) -> Option<Self> {
        Some(Self { url: server.database().unwrap() })
    }

    pub(crate) fn conn(&self) -> Conn {
        connect(&self.url)
    }

    /// The database's name.
    pub(crate) fn database(&self) -> &str {
        self.url.rsplit('/').next().unwrap()
    }

    /// The same with another user, and no password of the old one's.
    pub(crate) fn as_user(&self, account: &str) -> Self {
        let (_, at) = self.url.split_once('@').unwrap();
        Self { url: format!("mysql://{account}@{at}") }
    }

    pub(crate) fn run(&self, statements: &[&str]) {
        let mut conn = self.conn();
        for statement in statements {
            conn.query_drop(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }

    /// The first column of what a query gives, as text.
    pub(crate) fn column(&self, sql: &str) -> Vec<String> {
        let rows: Vec<Row> = self.conn().query(sql).unwrap();
        let text = |row: &Row| match row.as_ref(0) {
            Some(Held::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            _ => "NULL".into(),
        };
        rows.iter().map(text).collect()
    }

    pub(crate) fn has_table(&self, name: &str) -> bool {
        let sql = format!(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() \
             AND table_name = '{name}'"
        );
        !self.column(&sql).is_empty()
    }

    pub(crate) fn settings(&self, rest: &str) -> MySqlSettings {
        serde_saphyr::from_str(&format!("url: {}\n{rest}", self.url)).unwrap()
    }

    /// A sink with these settings besides the URL.
    pub(crate) fn sink(&self, settings: &str) -> MySqlSink {
        MySqlSink::new(&self.settings(settings), LEASE).unwrap()
    }

    /// A sink that has been fenced.
    pub(crate) fn open(&self, settings: &str) -> MySqlSink {
        let mut sink = self.sink(settings);
        let _ = sink.fence(&fence(1)).unwrap_or_else(|error| panic!("{error}"));
        sink
    }
}

impl Target for Place {
    fn sink(&self) -> Box<dyn TransactionalSink> {
        Box::new(self.sink("table: t\nkey: [id]"))
    }

    fn rows(&self) -> Vec<(i64, String)> {
        if !self.has_table("t") {
            return Vec::new();
        }
        self.conn().query("SELECT id, name FROM t ORDER BY id").unwrap()
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
#[track_caller]
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
