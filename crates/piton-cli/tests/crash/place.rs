//! A pipeline in a folder of its own: its data, its configuration, and what its sinks hold.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use piton_testkit::{
    Ended, Ledger, Program, Running,
    ledger::{lines_in, rows_in_sqlite},
    program::PATIENCE,
};
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// The columns of the data.
pub(crate) const COLUMNS: [&str; 3] = ["id", "name", "value"];

/// Records with a lower value are filtered out.
const LEAST: u64 = 100;

/// What a pipeline writes to, in these tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    Upsert,
    Append,
    Jsonl,
    Csv,
}

impl Sink {
    pub(crate) const ALL: [Self; 4] = [Self::Upsert, Self::Append, Self::Jsonl, Self::Csv];

    /// Its settings.
    pub(crate) fn yaml(self) -> &'static str {
        match self {
            Self::Upsert => "sqlite: {path: out.db, table: t, key: [id]}",
            Self::Append => "sqlite: {path: out.db, table: t, mode: append}",
            Self::Jsonl => "jsonl: {path: out.jsonl}",
            Self::Csv => "csv: {path: out.csv}",
        }
    }

    /// Whether its checkpoint is in its own database.
    pub(crate) fn is_transactional(self) -> bool {
        matches!(self, Self::Upsert | Self::Append)
    }

    /// The file that it writes.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Upsert | Self::Append => "out.db",
            Self::Jsonl => "out.jsonl",
            Self::Csv => "out.csv",
        }
    }
}

/// A folder with a data file, a configuration `p.yaml`, a store, and sinks.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) program: Program,
}

impl Place {
    /// A place with a data file of so many rows.
    pub(crate) fn new(rows: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
        let place = Self { folder, program };
        place.write("data.csv", &data(0..rows));
        place
    }

    /// The same with a pipeline `p` from the data to one sink, saving every 500 records.
    pub(crate) fn to(rows: u64, sink: Sink) -> Self {
        let place = Self::new(rows);
        place.configure(&format!(
            "sinks: {{out: {{{}}}}}\ncheckpoint: {{records: 500}}",
            sink.yaml()
        ));
        place
    }

    /// Writes a pipeline `p` from the data, through a filter, to `p.yaml`. `rest` is what follows.
    pub(crate) fn configure(&self, rest: &str) {
        self.configure_source("source: {csv: {path: data.csv}}", rest);
    }

    /// As [`configure`](Self::configure), reading at most so many records a second.
    pub(crate) fn configure_slow(&self, per_second: u64, rest: &str) {
        let source = format!("source: {{csv: {{path: data.csv}}, rate: {per_second}/s}}");
        self.configure_source(&source, rest);
    }

    pub(crate) fn configure_source(&self, source: &str, rest: &str) {
        let transform = format!("transform: [{{filter: \"value >= {LEAST}\"}}]");
        self.write("p.yaml", &format!("pipeline: p\n{source}\n{transform}\n{rest}\n"));
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

    /// The program with what it tells written to a file.
    pub(crate) fn traced(&self) -> Program {
        self.program.clone().with("PITON_TRACE", &self.path("trace").to_string_lossy())
    }

    /// A run that has stopped, as by SIGSTOP, on a hit of a fault point.
    #[track_caller]
    pub(crate) fn asleep_at(&self, point: &str, hit: usize) -> Running {
        let trace = self.path("asleep");
        let sleeper = self.program.clone().with("PITON_FAULT", &format!("{point}:{hit}=stop"));
        let sleeper = sleeper.with("PITON_TRACE", &trace.to_string_lossy());
        loop {
            let _ = fs::remove_file(&trace);
            let mut running = sleeper.start(&["run", "p.yaml"]).unwrap();
            let is_there = |_: &Running| {
                let trace = fs::read_to_string(&trace).unwrap_or_default();
                trace.lines().filter(|line| *line == point).count() >= hit
            };
            let stopped = running.until("it to stop", PATIENCE, is_there);
            stopped.unwrap_or_else(|error| panic!("{error}"));
            if point.starts_with("save.") || !self.store_is_locked() {
                return running;
            }
            // Its keeper was just writing to the store: then nobody can take over, which is
            // another case than the one that is wanted here.
            running.kill().unwrap();
        }
    }

    fn store_is_locked(&self) -> bool {
        let store = Connection::open(self.path("piton.db")).unwrap();
        store.busy_timeout(Duration::from_millis(200)).unwrap();
        store.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err()
    }

    /// Runs the pipeline to its end and demands that it finished.
    #[track_caller]
    pub(crate) fn finish(&self) -> Ended {
        self.ends_with(0, &["run", "p.yaml"])
    }

    /// Runs a command and demands an exit code.
    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32, args: &[&str]) -> Ended {
        self.program.run_to(code, args).unwrap_or_else(|error| panic!("piton {args:?}: {error}"))
    }

    /// What a command prints as JSON.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let ended = self.ends_with(0, args);
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended}"))
    }

    /// What `piton status --json` says of the pipeline.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.json(&["status", "p", "--json"])["pipelines"][0].take()
    }

    /// Demands that each record's effect is in a sink exactly once. Invariant 5, and 6 for files.
    #[track_caller]
    pub(crate) fn exactly_once(&self, sink: Sink) {
        if let Err(report) = self.source().compare(&self.held_by(sink)).exactly_once() {
            panic!("{sink:?}: {report}");
        }
    }

    /// What the sinks should hold: what the source holds and the filter lets pass.
    pub(crate) fn source(&self) -> Ledger {
        let all = Ledger::of_csv(&self.path("data.csv"), &COLUMNS).unwrap();
        all.keeping(|fields| passes(fields[2]))
    }

    /// What a sink holds.
    #[track_caller]
    pub(crate) fn held_by(&self, sink: Sink) -> Ledger {
        let file = self.path(sink.file());
        let ledger = match sink {
            Sink::Upsert | Sink::Append => {
                Ledger::of_sqlite(&file, "SELECT id, name, value FROM t")
            }
            Sink::Jsonl => Ledger::of_jsonl(&file, &COLUMNS),
            Sink::Csv => Ledger::of_csv(&file, &COLUMNS),
        };
        ledger.unwrap_or_else(|error| panic!("{sink:?}: {error}"))
    }

    /// How many records a sink holds now, whole ones only.
    pub(crate) fn rows_in(&self, sink: Sink) -> u64 {
        let file = self.path(sink.file());
        match sink {
            Sink::Upsert | Sink::Append => rows_in_sqlite(&file, "t"),
            Sink::Jsonl => lines_in(&file),
            Sink::Csv => lines_in(&file).saturating_sub(1),
        }
    }

    /// How many records that a sink should hold the source was told that it may forget, by the
    /// program's trace.
    pub(crate) fn acknowledged(&self) -> u64 {
        let trace = fs::read_to_string(self.path("trace")).unwrap_or_default();
        let told = trace.lines().filter_map(|line| line.strip_prefix("acknowledged data.csv "));
        let offset = told.map(|position| {
            let position: Value = serde_json::from_str(position).unwrap();
            position["offset"].as_u64().unwrap() as usize
        });
        let data = fs::read_to_string(self.path("data.csv")).unwrap();
        let before = data[..offset.max().unwrap_or(0)].lines().skip(1);
        before.filter_map(|line| line.rsplit_once(',')).filter(|(_, value)| passes(value)).count()
            as u64
    }

    /// Demands that the source was told to forget nothing that a sink does not hold. Invariant 1,
    /// on the way back.
    #[track_caller]
    pub(crate) fn acknowledged_is_in(&self, sink: Sink) {
        let (told, held) = (self.acknowledged(), self.rows_in(sink));
        assert!(told <= held, "{told} records were acknowledged, and {sink:?} holds {held}");
    }
}

fn passes(value: &str) -> bool {
    value.parse::<u64>().is_ok_and(|value| value >= LEAST)
}

/// Rows of the data: fields with quotes, commas, leading zeros and more than ASCII.
pub(crate) fn data(ids: std::ops::Range<u64>) -> String {
    let mut text = if ids.start == 0 { String::from("id,name,value\n") } else { String::new() };
    for id in ids {
        text.push_str(&format!("{id},\"Ünit \"\"{id}\"\", {}\",{:03}\n", id % 7, id * 37 % 1000));
    }
    text
}
