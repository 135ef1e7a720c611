//! A folder with a small CSV file and a configuration.

use std::{fs, path::PathBuf};

use piton_testkit::{Ended, Program};
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// A sink into a table with a key.
pub(crate) const DB: &str = "db: {sqlite: {path: out.db, table: t, key: [id]}}";
/// A sink into a file.
pub(crate) const LINES: &str = "lines: {jsonl: {path: out.jsonl}}";

/// Where a pipeline is tried out.
pub(crate) struct Folder {
    home: TempDir,
}

impl Folder {
    /// With `in.csv` of so many rows.
    pub(crate) fn new(rows: u32) -> Self {
        let folder = Self { home: TempDir::new().unwrap() };
        folder.write("in.csv", &csv(0, rows));
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes `p.yaml`: pipeline `p` from `in.csv` into these sinks, with more lines.
    pub(crate) fn configure(&self, sinks: &[&str], more: &str) {
        self.configure_source("{csv: {path: in.csv}}", sinks, more);
    }

    pub(crate) fn configure_source(&self, source: &str, sinks: &[&str], more: &str) {
        let sinks = sinks.join("\n  ");
        let text = format!("pipeline: p\nsource: {source}\nsinks:\n  {sinks}\n{more}\n");
        self.write("p.yaml", &text);
    }

    pub(crate) fn program(&self) -> Program {
        Program::new(env!("CARGO_BIN_EXE_piton"), self.home.path())
    }

    /// Runs a command that must end with this code.
    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32, args: &[&str]) -> Ended {
        let ended = self.program().run(args).unwrap();
        assert_eq!(ended.code, Some(code), "piton {}: {ended}", args.join(" "));
        ended
    }

    /// What a command that succeeds prints, as JSON.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ends_with(0, args).stdout).unwrap()
    }

    /// The names of what is in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn sql(&self, database: &str) -> Connection {
        Connection::open(self.path(database)).unwrap()
    }

    /// How many rows a table of `out.db` has.
    pub(crate) fn rows(&self, table: &str) -> u64 {
        let count = format!("SELECT count(*) FROM {table}");
        self.sql("out.db").query_row(&count, [], |row| row.get(0)).unwrap()
    }

    /// How many lines `out.jsonl` has.
    pub(crate) fn lines(&self) -> usize {
        fs::read_to_string(self.path("out.jsonl")).unwrap().lines().count()
    }
}

/// Rows with these ids, below a header.
pub(crate) fn csv(from: u32, to: u32) -> String {
    let rows = (from..to).map(|id| format!("{id},n{id}\n"));
    std::iter::once("id,name\n".to_owned()).chain(rows).collect()
}
