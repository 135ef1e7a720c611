//! A database of one test.

use std::{path::Path, time::Duration};

use mysql::{OptsBuilder, Row, Value as Held, prelude::Queryable as _};
use piton_connectors::sql_statements::{
    self, Executed, Limits, Mark, Piece, Statement, Statements, StatementsError, Value,
};
use piton_core::{CheckpointKey, Epoch, StoredPosition};
use piton_testkit::service::{self, Cut, MariaDb, MySql, Postgres};
use tempfile::TempDir;

/// How long locks are waited for in these tests.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Sqlite,
    Postgres,
    MySql,
    MariaDb,
}

impl Family {
    pub(crate) fn is_mysql(self) -> bool {
        matches!(self, Self::MySql | Self::MariaDb)
    }
}

/// An empty database.
pub(crate) struct Place {
    pub(crate) family: Family,
    pub(crate) url: String,
    _folder: Option<TempDir>,
}

/// One of each, as far as they can be had.
pub(crate) fn all() -> impl Iterator<Item = Place> {
    [Family::Sqlite, Family::Postgres, Family::MySql, Family::MariaDb]
        .into_iter()
        .filter_map(Place::new)
}

/// Those with a server.
pub(crate) fn servers() -> impl Iterator<Item = Place> {
    all().filter(|place| place.family != Family::Sqlite)
}

impl Place {
    pub(crate) fn new(family: Family) -> Option<Self> {
        let server = match family {
            Family::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}", folder.path().join("out.db").display());
                return Some(Self { family, url, _folder: Some(folder) });
            }
            Family::Postgres => service::needed(Postgres::shared())?,
            Family::MySql => service::needed(MySql::shared())?,
            Family::MariaDb => service::needed(MariaDb::shared())?,
        };
        Some(Self { family, url: server.database().unwrap(), _folder: None })
    }

    pub(crate) fn open(&self) -> Box<dyn Statements> {
        open(&self.url)
    }

    /// A network that fails on command, in front of the server.
    pub(crate) fn cut(&self) -> Cut {
        let (_, server) = self.url.split_once('@').unwrap();
        let (server, _) = server.split_once('/').unwrap();
        Cut::before(server.parse().unwrap()).unwrap()
    }

    /// The URL through that network, which sees what is said.
    pub(crate) fn through(&self, cut: &Cut) -> String {
        let plain = if self.family.is_mysql() { "?ssl-mode=disabled" } else { "" };
        cut.url(&self.url) + plain
    }

    /// As another program would.
    pub(crate) fn run(&self, sql: &str) {
        match self.family {
            Family::Sqlite => self.sqlite().execute_batch(sql).unwrap(),
            Family::Postgres => self.postgres().batch_execute(sql).unwrap(),
            Family::MySql | Family::MariaDb => {
                let mut conn = self.mysql();
                for statement in sql.split(';').filter(|s| !s.trim().is_empty()) {
                    conn.query_drop(statement).unwrap();
                }
            }
        }
    }

    /// The first column of what a query gives, which must be text.
    pub(crate) fn column(&self, sql: &str) -> Vec<String> {
        match self.family {
            Family::Sqlite => {
                let conn = self.sqlite();
                let mut query = conn.prepare(sql).unwrap();
                let text = |row: &rusqlite::Row<'_>| {
                    row.get::<_, Option<String>>(0).map(|text| text.unwrap_or("NULL".into()))
                };
                query.query_map([], text).unwrap().map(Result::unwrap).collect()
            }
            Family::Postgres => {
                let rows = self.postgres().query(sql, &[]).unwrap();
                let text = |row: &postgres::Row| row.get::<_, Option<String>>(0);
                rows.iter().map(|row| text(row).unwrap_or("NULL".into())).collect()
            }
            Family::MySql | Family::MariaDb => {
                let rows: Vec<Row> = self.mysql().query(sql).unwrap();
                let text = |row: &Row| match row.as_ref(0) {
                    Some(Held::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
                    _ => "NULL".into(),
                };
                rows.iter().map(text).collect()
            }
        }
    }

    /// How many rows a table has.
    pub(crate) fn count(&self, table: &str) -> u64 {
        let text = if self.family.is_mysql() { "CHAR" } else { "TEXT" };
        let counted = self.column(&format!("SELECT CAST(count(*) AS {text}) FROM {table}"));
        counted[0].parse().unwrap()
    }

    fn sqlite(&self) -> rusqlite::Connection {
        let conn = rusqlite::Connection::open(self.url.strip_prefix("sqlite:").unwrap()).unwrap();
        conn.busy_timeout(LEASE).unwrap();
        conn
    }

    fn postgres(&self) -> postgres::Client {
        postgres::Client::connect(&self.url, postgres::NoTls).unwrap()
    }

    fn mysql(&self) -> mysql::Conn {
        let options = mysql::Opts::from_url(&self.url).unwrap();
        mysql::Conn::new(OptsBuilder::from_opts(options).prefer_socket(false)).unwrap()
    }
}

pub(crate) fn open(url: &str) -> Box<dyn Statements> {
    sql_statements::open(url, Path::new("/"), LEASE).unwrap()
}

pub(crate) fn key(partition: &str) -> CheckpointKey {
    CheckpointKey::new("nightly(date=2026-11-20)", partition, "step")
}

pub(crate) fn done(attempt: u64) -> StoredPosition {
    StoredPosition {
        kind: "step".into(),
        json: format!("{{\"state\":\"done\",\"attempt\":{attempt}}}"),
    }
}

/// The first mark of a step, under a claim.
pub(crate) fn mark(partition: &str, epoch: u64) -> Mark {
    Mark {
        key: key(partition),
        epoch: Epoch(epoch),
        expected: None,
        position: done(1),
        clears: Vec::new(),
    }
}

pub(crate) fn texts(sql: &[&str]) -> Vec<Statement> {
    sql.iter().map(|sql| Statement::text(*sql)).collect()
}

/// A statement with values where its `?` stand.
pub(crate) fn with(sql: &str, values: &[Value]) -> Statement {
    let mut pieces = Vec::new();
    let mut values = values.iter().cloned();
    for (i, text) in sql.split('?').enumerate() {
        if i > 0 {
            pieces.push(Piece::Value(values.next().unwrap()));
        }
        pieces.push(Piece::Text(text.into()));
    }
    Statement { pieces }
}

pub(crate) fn execute(
    database: &mut dyn Statements,
    mark: &Mark,
    sql: &[&str],
) -> Result<Executed, StatementsError> {
    database.execute(mark, &texts(sql), &Limits::default())
}

#[track_caller]
pub(crate) fn is_done(executed: &Result<Executed, StatementsError>) {
    assert!(matches!(executed, Ok(Executed::Done { .. })), "{executed:?}");
}

/// Demands that the message of an error has all of these words.
#[track_caller]
pub(crate) fn says(executed: &Result<Executed, StatementsError>, words: &[&str]) {
    let text = executed.as_ref().expect_err("it was executed").to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}
