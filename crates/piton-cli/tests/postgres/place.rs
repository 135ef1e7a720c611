//! A folder with a pipeline, and a database that it writes to.

use std::{fs, path::PathBuf, thread, time::Duration};

use piton_testkit::{
    Ended, Ledger, Program,
    service::{self, Postgres, Server},
};
use postgres::{Client, NoTls};
use tempfile::TempDir;

pub(crate) const RUN: &[&str] = &["run", "p.yaml"];

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    Upsert,
    Append,
}

impl Sink {
    /// Its settings, in a database.
    pub(crate) fn yaml(self, url: &str) -> String {
        match self {
            Self::Upsert => format!("postgres: {{url: '{url}', table: upserted, key: [id]}}"),
            Self::Append => format!("postgres: {{url: '{url}', table: appended}}"),
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
    /// A place with so many rows of data, on the server that the tests of this process share;
    /// `None` where there can be none.
    pub(crate) fn new(rows: u64) -> Option<Self> {
        let server = service::needed(Postgres::shared())?;
        Some(Self::on(server, rows))
    }

    /// The same on another server.
    pub(crate) fn on(server: &Server, rows: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
        let place = Self { folder, program, url: server.database().unwrap() };
        place.write("data.csv", &data(rows));
        place
    }

    /// A pipeline to one sink, saving every 500 records.
    pub(crate) fn configured(rows: u64, sink: Sink) -> Option<Self> {
        let place = Self::new(rows)?;
        let sinks = format!("sinks: {{out: {{{}}}}}", sink.yaml(&place.url));
        place.configure("", &format!("{sinks}\ncheckpoint: {{records: 500}}"));
        Some(place)
    }

    pub(crate) fn configure(&self, of_source: &str, rest: &str) {
        let source = format!("source: {{csv: {{path: data.csv}}{of_source}}}");
        self.write("p.yaml", &format!("pipeline: p\n{source}\n{rest}\n"));
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

    /// A connection; a server that is just starting is waited for.
    pub(crate) fn client(&self) -> Client {
        for _ in 0..200 {
            if let Ok(client) = Client::connect(&self.url, NoTls) {
                return client;
            }
            thread::sleep(Duration::from_millis(50));
        }
        Client::connect(&self.url, NoTls).unwrap()
    }

    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32, args: &[&str]) -> Ended {
        self.program.run_to(code, args).unwrap_or_else(|error| panic!("piton {args:?}: {error}"))
    }

    /// How many rows a table has; 0 while there is none, or no answer.
    pub(crate) fn rows_in(&self, sink: Sink) -> u64 {
        let count = format!("SELECT count(*) FROM {}", sink.table());
        let Ok(mut client) = Client::connect(&self.url, NoTls) else { return 0 };
        client.query_one(&count, &[]).map_or(0, |row| row.get::<_, i64>(0) as u64)
    }

    /// Demands that each record's effect is there exactly once. Invariant 5.
    #[track_caller]
    pub(crate) fn exactly_once(&self, sink: Sink) {
        let source = Ledger::of_csv(&self.path("data.csv"), &["id", "name", "value"]).unwrap();
        self.compare(&source, sink);
    }

    /// The same for records that came from a table.
    #[track_caller]
    pub(crate) fn same_rows(&self, source: &str, sink: Sink) {
        self.compare(&self.ledger(source), sink);
    }

    #[track_caller]
    fn compare(&self, source: &Ledger, sink: Sink) {
        let held = self.ledger(&format!("SELECT id, name, value FROM {}", sink.table()));
        if let Err(report) = source.compare(&held).exactly_once() {
            panic!("{sink:?}: {report}");
        }
    }

    /// What a query gives, of three texts.
    fn ledger(&self, query: &str) -> Ledger {
        let mut held = Ledger::default();
        for row in self.client().query(query, &[]).unwrap() {
            held.add((0..3).map(|column| row.get::<_, String>(column)));
        }
        held
    }
}

/// Rows with quotes, tabs, backslashes, leading zeros and more than ASCII.
fn data(rows: u64) -> String {
    let mut text = String::from("id,name,value\n");
    for id in 0..rows {
        text.push_str(&format!(
            "{id},\"Ünit\t\"\"{id}\"\" \\N, {}\",{:03}\n",
            id % 7,
            id * 37 % 1000
        ));
    }
    text
}
