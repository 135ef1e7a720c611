//! A folder with a pipeline whose checkpoints are on a server.

use std::{fs, path::PathBuf};

use piton_testkit::{
    Ended, Ledger, Program, Running,
    ledger::{lines_in, rows_in_sqlite},
    program::PATIENCE,
    service::{self, MariaDb, MySql, Options, Postgres, Server, ServiceError},
};
use tempfile::TempDir;

pub(crate) const RUN: &[&str] = &["run", "p.yaml"];

/// Which server keeps the checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Postgres,
    MySql,
    MariaDb,
}

impl System {
    pub(crate) const ALL: [Self; 3] = [Self::Postgres, Self::MySql, Self::MariaDb];

    /// The one that the tests of this process share.
    fn shared(self) -> Result<&'static Server, &'static ServiceError> {
        match self {
            Self::Postgres => Postgres::shared(),
            Self::MySql => MySql::shared(),
            Self::MariaDb => MariaDb::shared(),
        }
    }

    /// One that a test may stop.
    pub(crate) fn options(self) -> Options {
        match self {
            Self::Postgres => Postgres::options(),
            Self::MySql => MySql::options(),
            Self::MariaDb => MariaDb::options(),
        }
    }
}

/// Runs a test on each system.
#[track_caller]
pub(crate) fn each(mut test: impl FnMut(System)) {
    for system in System::ALL {
        test(system);
    }
}

/// A folder with data, a configuration, and a store on a server.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) program: Program,
    /// The store, by a way that nothing disturbs.
    pub(crate) store: String,
}

impl Place {
    /// On the server that tests share; `None` where there can be none.
    pub(crate) fn new(system: System, rows: u64) -> Option<Self> {
        Some(Self::on(service::needed(system.shared())?, rows))
    }

    /// On another server.
    pub(crate) fn on(server: &Server, rows: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
        let place = Self { folder, program, store: server.database().unwrap() };
        let mut lines = String::from("id,name\n");
        (0..rows).for_each(|id| lines.push_str(&format!("{id},name {id}\n")));
        place.write("data.csv", &lines);
        place
    }

    /// A table and a file, the file saved every 500 records.
    pub(crate) fn configure(&self, store: &str, of_source: &str, rest: &str) {
        let sinks = "{table: {sqlite: {path: out.db, table: t}}, file: {jsonl: {path: out.jsonl}}}";
        self.write(
            "p.yaml",
            &format!(
                "pipeline: p\nstore: '{store}'\nsource: {{csv: {{path: data.csv}}{of_source}}}\n\
                 sinks: {sinks}\ncheckpoint: {{records: 500}}\n{rest}\n"
            ),
        );
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32, args: &[&str]) -> Ended {
        self.program.run_to(code, args).unwrap_or_else(|error| panic!("piton {args:?}: {error}"))
    }

    /// What both sinks have so far.
    pub(crate) fn written(&self) -> u64 {
        rows_in_sqlite(&self.path("out.db"), "t") + lines_in(&self.path("out.jsonl"))
    }

    /// Starts the pipeline and waits until it has delivered more than there was.
    #[track_caller]
    pub(crate) fn at_work(&self) -> Running {
        let before = self.written();
        let mut running = self.program.start(RUN).unwrap();
        running.until("more output", PATIENCE, |_| self.written() > before + 500).unwrap();
        running
    }

    /// Demands that each record is there exactly once, in the table and in the file. Invariant 5.
    #[track_caller]
    pub(crate) fn exactly_once(&self) {
        let source = Ledger::of_csv(&self.path("data.csv"), &["id", "name"]).unwrap();
        let table = Ledger::of_sqlite(&self.path("out.db"), "SELECT id, name FROM t").unwrap();
        let file = Ledger::of_jsonl(&self.path("out.jsonl"), &["id", "name"]).unwrap();
        for (what, held) in [("the table", table), ("the file", file)] {
            if let Err(report) = source.compare(&held).exactly_once() {
                panic!("{what}: {report}");
            }
        }
    }
}
