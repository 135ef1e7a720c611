//! A folder with a pipeline, and a database that it writes to.

use std::{fs, path::PathBuf, thread, time::Duration};

use mysql::{Conn, Opts, OptsBuilder, Row, Value, prelude::Queryable as _};
use piton_testkit::{
    Ended, Ledger, Program,
    service::{self, MariaDb, MySql, Server, ServiceError},
};
use tempfile::TempDir;

pub(crate) const RUN: &[&str] = &["run", "p.yaml"];

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

    /// One of a test's own.
    pub(crate) fn start(self) -> Result<Server, ServiceError> {
        match self {
            Self::MySql => MySql::start(),
            Self::MariaDb => MariaDb::start(),
        }
    }
}

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    Upsert,
    Append,
}

impl Sink {
    pub(crate) const BOTH: [Self; 2] = [Self::Append, Self::Upsert];

    /// Its settings, in a database.
    pub(crate) fn yaml(self, url: &str) -> String {
        match self {
            Self::Upsert => format!("mysql: {{url: '{url}', table: upserted, key: [id]}}"),
            Self::Append => format!("mysql: {{url: '{url}', table: appended}}"),
        }
    }

    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Upsert => "upserted",
            Self::Append => "appended",
        }
    }
}

/// A folder with data and a configuration, and a database.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) program: Program,
    /// The database, by a way that nothing disturbs.
    pub(crate) url: String,
}

impl Place {
    /// A place with so many rows of data, in a new database of a server.
    pub(crate) fn on(server: &Server, rows: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
        let place = Self { folder, program, url: server.database().unwrap() };
        place.write("data.csv", &data(rows));
        place
    }

    pub(crate) fn configure(&self, of_source: &str, rest: &str) {
        let source = format!("source: {{csv: {{path: data.csv}}{of_source}}}");
        self.write("p.yaml", &format!("pipeline: p\n{source}\n{rest}\n"));
    }

    /// A pipeline to one sink, saving every 500 records.
    pub(crate) fn configure_to(&self, sink: Sink, rest: &str) {
        let sinks = format!("sinks: {{out: {{{}}}}}", sink.yaml(&self.url));
        self.configure("", &format!("{sinks}\ncheckpoint: {{records: 500}}\n{rest}"));
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn traced(&self) -> Program {
        self.program.clone().with("PITON_TRACE", &self.path("trace").to_string_lossy())
    }

    fn connect(&self) -> Result<Conn, mysql::Error> {
        let options = Opts::from_url(&self.url).unwrap();
        Conn::new(OptsBuilder::from_opts(options).prefer_socket(false))
    }

    /// A connection; a server that is just starting is waited for.
    pub(crate) fn conn(&self) -> Conn {
        for _ in 0..200 {
            if let Ok(conn) = self.connect() {
                return conn;
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.connect().unwrap()
    }

    pub(crate) fn run_sql(&self, statement: &str) {
        self.conn().query_drop(statement).unwrap();
    }

    pub(crate) fn has_table(&self, name: &str) -> bool {
        let sql = format!(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() \
             AND table_name = '{name}'"
        );
        self.conn().query_first::<i64, _>(sql).unwrap().is_some()
    }

    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32, args: &[&str]) -> Ended {
        self.program.run_to(code, args).unwrap_or_else(|error| panic!("piton {args:?}: {error}"))
    }

    /// How many rows a table has; 0 while there is none, or no answer.
    pub(crate) fn rows_in(&self, sink: Sink) -> u64 {
        let count = format!("SELECT COUNT(*) FROM {}", sink.table());
        let counted = self.connect().and_then(|mut conn| conn.query_first::<u64, _>(count));
        counted.ok().flatten().unwrap_or_default()
    }

    /// Demands that each record's effect is there exactly once. Invariant 5.
    #[track_caller]
    pub(crate) fn exactly_once(&self, sink: Sink) {
        let source = Ledger::of_csv(&self.path("data.csv"), &["id", "name", "value"]).unwrap();
        let held = self.ledger(&format!("SELECT id, name, value FROM {}", sink.table()));
        if let Err(report) = source.compare(&held).exactly_once() {
            panic!("{sink:?}: {report}");
        }
    }

    /// Demands that a table has the rows of another query, each once.
    #[track_caller]
    pub(crate) fn same_rows(&self, query: &str, sink: Sink) {
        let held = self.ledger(&format!("SELECT id, name, value FROM {}", sink.table()));
        if let Err(report) = self.ledger(query).compare(&held).exactly_once() {
            panic!("{sink:?}: {report}");
        }
    }

    /// The rows of a query of three columns.
    pub(crate) fn ledger(&self, query: &str) -> Ledger {
        let mut held = Ledger::default();
        let rows: Vec<Row> = self.conn().query(query).unwrap();
        for row in rows {
            held.add((0..row.len()).map(|column| match &row[column] {
                Value::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
                other => format!("{other:?}"),
            }));
        }
        held
    }
}

/// Rows with quotes, tabs, backslashes, leading zeros and more than ASCII.
fn data(rows: u64) -> String {
    let mut text = String::from("id,name,value\n");
    for id in 0..rows {
        text.push_str(&format!(
            "{id},\"Ünit\t\"\"{id}\"\" 'q' \\N, {}\",{:03}\n",
            id % 7,
            id * 37 % 1000
        ));
    }
    text
}
