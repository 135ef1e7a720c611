//! A pipeline in a folder of its own, with commands that are shell scripts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use piton_testkit::{Ended, Ledger, Program};
use tempfile::TempDir;

/// Prints the records after `PITON_POSITION`, up to a number that is its argument.
const COUNT: &str = r#"exec awk -v last="$1" 'BEGIN {
    for (n = ENVIRON["PITON_POSITION"] + 1; n <= last; n++)
        print "{\"id\": " n ", \"name\": \"name " n "\", \"value\": \"" n % 7 "\"}"
}'
"#;

/// Writes each record to a file of its own run, and answers its id when it is there.
const TAKE: &str = r#"exec sed -u "w got.$$
s/^{\"id\":\"\([^\"]*\)\".*/\1/"
"#;

pub(crate) const COLUMNS: [&str; 3] = ["id", "name", "value"];

pub(crate) struct Place {
    folder: TempDir,
    pub(crate) program: Program,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
        let place = Self { folder, program };
        place.write("count.sh", COUNT);
        place.write("take.sh", TAKE);
        place
    }

    /// A pipeline `p` in `p.yaml`.
    pub(crate) fn configure(&self, source: &str, sinks: &str, rest: &str) {
        let text = format!("pipeline: p\nsource: {{{source}}}\nsinks: {{{sinks}}}\n{rest}\n");
        self.write("p.yaml", &text);
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32, args: &[&str]) -> Ended {
        self.program.run_to(code, args).unwrap_or_else(|error| panic!("piton {args:?}: {error}"))
    }

    /// The files that runs of the sink's command have written.
    fn got(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().path());
        let is_got =
            |path: &PathBuf| path.extension().is_some() && path.file_stem().unwrap() == "got";
        all.filter(is_got).collect()
    }

    /// How many records the sink's commands have, repeats among them.
    pub(crate) fn taken(&self) -> u64 {
        self.got().iter().map(|file| piton_testkit::ledger::lines_in(file)).sum()
    }

    /// The records that the sink's commands have.
    pub(crate) fn taken_by_commands(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for file in self.got() {
            for line in fs::read_to_string(file).unwrap().lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                let id = line["id"].as_str().unwrap();
                assert_eq!(id, format!("command@{}", line["record"]["id"]), "its id is its own");
                ledger.add(COLUMNS.map(|column| plain(&line["record"][column])));
            }
        }
        ledger
    }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What the source's command prints.
pub(crate) fn counted(last: u64) -> Ledger {
    let mut ledger = Ledger::default();
    for n in 1..=last {
        ledger.add([n.to_string(), format!("name {n}"), (n % 7).to_string()]);
    }
    ledger
}

/// Whether a process runs.
pub(crate) fn lives(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    status.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
