//! A folder with a pipeline in it that died halfway.

use std::{
    fs,
    path::{Path, PathBuf},
};

use piton_testkit::{Ended, Program};
use rusqlite::Connection;
use tempfile::TempDir;

pub(crate) const RUN: &[&str] = &["run", "p.yaml"];
/// Rows that are read.
pub(crate) const ROWS: u32 = 3_000;

pub(crate) struct Place {
    folder: TempDir,
    pub(crate) program: Program,
}

impl Place {
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let folder = folder.unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
        Self { folder, program }
    }

    /// A pipeline into a table of `out.db`, saved every 100 records.
    pub(crate) fn configure(&self, source: &str, more: &str) {
        let sinks = "sinks: {out: {sqlite: {path: out.db, table: t, key: [id]}}}";
        let text = format!(
            "pipeline: p\nsource: {source}\n{sinks}\n{more}\ncheckpoint: {{records: 100}}\n"
        );
        self.write("p.yaml", &text);
    }

    /// Runs it until it dies after some checkpoints.
    #[track_caller]
    pub(crate) fn dies(&self) {
        self.program.strike(RUN, "commit.after", 4).unwrap();
        let rows = self.count("out.db", "SELECT count(*) FROM t");
        assert!((100..i64::from(ROWS)).contains(&rows), "{rows} rows");
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn sql(&self, database: &str, statements: &str) {
        let db = Connection::open(self.path(database)).unwrap();
        db.execute_batch(statements).unwrap();
    }

    pub(crate) fn count(&self, database: &str, sql: &str) -> i64 {
        let db = Connection::open(self.path(database)).unwrap();
        db.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32, args: &[&str]) -> Ended {
        self.program.run_to(code, args).unwrap_or_else(|error| panic!("piton {args:?}: {error}"))
    }

    /// Demands that a run and a plan are refused with these words, and that nothing was written.
    #[track_caller]
    pub(crate) fn refused(&self, words: &[&str]) {
        let before = self.count("out.db", "SELECT count(*) FROM t");
        let run = self.ends_with(3, RUN);
        let plan = self.ends_with(3, &["plan", "p.yaml"]);
        for word in words {
            assert!(run.stderr.contains(word), "'{word}' is missing: {run}");
            assert!(plan.stdout.contains(word), "'{word}' is missing: {plan}");
        }
        assert!(!run.stderr.contains("fingerprint"), "for machines: {run}");
        assert_eq!(self.count("out.db", "SELECT count(*) FROM t"), before);
    }

    /// Demands that a run says this and goes on to the end.
    #[track_caller]
    pub(crate) fn goes_on(&self, args: &[&str], words: &[&str]) -> Ended {
        let ended = self.ends_with(0, args);
        for word in words {
            assert!(ended.stderr.contains(word), "'{word}' is missing: {ended}");
        }
        ended
    }

    /// Demands that history has this event, with these words.
    #[track_caller]
    pub(crate) fn has_event(&self, what: &str, words: &str) {
        let history = self.ends_with(0, &["history", "p"]).stdout;
        let is_it = |line: &str| line.contains(what) && line.contains(words);
        assert!(history.lines().any(is_it), "{what}: {words}: {history}");
    }
}
