//! A folder with a job whose checkpoints are on a server.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use piton_testkit::{
    Ended, Program,
    program::PATIENCE,
    service::{self, MariaDb, MySql, Options, Postgres, Server, ServiceError},
};
use tempfile::TempDir;

pub(crate) const RUN: &[&str] = &["run", "job.yaml"];

/// Which server keeps the checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Postgres,
    MySql,
    MariaDb,
}

impl System {
    const ALL: [Self; 3] = [Self::Postgres, Self::MySql, Self::MariaDb];

    /// The one that the tests of this process share.
    pub(crate) fn shared(self) -> Result<&'static Server, &'static ServiceError> {
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

/// Runs a test on each system that can be had here.
#[track_caller]
pub(crate) fn each(mut test: impl FnMut(System, Place)) {
    for system in System::ALL {
        if let Some(server) = service::needed(system.shared()) {
            eprintln!("on {system:?}");
            test(system, Place::on(server));
        }
    }
}

/// A folder with a job, and a store on a server.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) program: Program,
    pub(crate) store: String,
}

impl Place {
    pub(crate) fn on(server: &Server) -> Self {
        Self::at(server.database().unwrap())
    }

    pub(crate) fn at(store: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
        let program = program.with("PITON_STORE", &store);
        Self { folder, program, store }
    }

    /// Writes the job, which names its store.
    pub(crate) fn job(&self, text: &str) {
        let store = &self.store;
        fs::write(self.path("job.yaml"), format!("store: '{store}'\n{text}")).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn touch(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    /// Waits until a file has so many lines.
    #[track_caller]
    pub(crate) fn until_lines(&self, name: &str, count: usize) {
        let began = Instant::now();
        while self.lines(name).len() < count {
            assert!(began.elapsed() < PATIENCE, "{name}: {:?}", self.lines(name));
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32, args: &[&str]) -> Ended {
        self.program.run_to(code, args).unwrap_or_else(|error| panic!("piton {args:?}: {error}"))
    }

    #[track_caller]
    pub(crate) fn run(&self, code: i32) -> Ended {
        self.ends_with(code, RUN)
    }

    /// Demands that every step of a job is done.
    #[track_caller]
    pub(crate) fn all_done(&self, job: &str) {
        let shown = self.ends_with(0, &["status", job, "--json"]).stdout;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        for step in shown["steps"].as_array().unwrap() {
            assert_eq!(step["state"], "done", "{step}");
        }
    }
}
