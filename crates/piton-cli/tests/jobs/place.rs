//! A folder with a job in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use piton_testkit::{Ended, Program};
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct Place {
    folder: TempDir,
    pub(crate) program: Program,
}

pub(crate) const RUN: &[&str] = &["run", "job.yaml"];

impl Place {
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let folder = folder.unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
        Self { folder, program }
    }

    pub(crate) fn with(job: &str) -> Self {
        let place = Self::new();
        place.job(job);
        place
    }

    pub(crate) fn job(&self, text: &str) {
        fs::write(self.path("job.yaml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    pub(crate) fn database(&self, name: &str) -> Connection {
        let db = Connection::open(self.path(name)).unwrap();
        db.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
        db
    }

    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32, args: &[&str]) -> Ended {
        self.program.run_to(code, args).unwrap_or_else(|error| panic!("piton {args:?}: {error}"))
    }

    #[track_caller]
    pub(crate) fn run(&self, code: i32) -> Ended {
        self.ends_with(code, RUN)
    }

    /// The steps of a job, each with its state.
    #[track_caller]
    pub(crate) fn steps(&self, job: &str) -> Vec<(String, String)> {
        let shown = self.ends_with(0, &["status", job, "--json"]).stdout;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let text = |step: &Value, key: &str| step[key].as_str().unwrap().to_owned();
        let steps = shown["steps"].as_array().unwrap();
        steps.iter().map(|step| (text(step, "step"), text(step, "state"))).collect()
    }

    #[track_caller]
    pub(crate) fn all_done(&self, job: &str) {
        for (step, state) in self.steps(job) {
            assert_eq!(state, "done", "{step}");
        }
    }
}

pub(crate) fn count(db: &Connection, sql: &str) -> i64 {
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}
