//! A folder in which commands are typed, and what was seen.

use std::{fs, path::PathBuf, sync::LazyLock, time::Duration};

use piton_testkit::{Ended, Program, Running, program::PATIENCE};
use regex::{Captures, Regex};
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// A session in a folder of its own.
pub(crate) struct Session {
    home: TempDir,
    seen: String,
}

impl Session {
    /// In an empty folder.
    pub(crate) fn new() -> Self {
        Self { home: TempDir::new().unwrap(), seen: String::new() }
    }

    /// In a folder with `in.csv`, three rows, and `p.yaml`: pipeline `p` into these sinks.
    pub(crate) fn with(sinks: &[&str], more: &str) -> Self {
        let session = Self::new();
        session.write("in.csv", "id,name\n1,Ann\n2,Bob\n3,Cid\n");
        session.configure(sinks, more);
        session
    }

    /// Writes `p.yaml`.
    pub(crate) fn configure(&self, sinks: &[&str], more: &str) {
        self.configure_source("{csv: {path: in.csv}}", sinks, more);
    }

    pub(crate) fn configure_source(&self, source: &str, sinks: &[&str], more: &str) {
        let sinks = sinks.join("\n  ");
        let text = format!("pipeline: p\nsource: {source}\nsinks:\n  {sinks}\n{more}\n");
        self.write("p.yaml", &text);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn append(&self, name: &str, text: &str) {
        let before = fs::read_to_string(self.path(name)).unwrap();
        self.write(name, &(before + text));
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub(crate) fn sql(&self, database: &str, statements: &str) {
        Connection::open(self.path(database)).unwrap().execute_batch(statements).unwrap();
    }

    fn program(&self) -> Program {
        Program::new(env!("CARGO_BIN_EXE_piton"), self.home.path())
            .with("USER", "ann")
            .with("COLUMNS", "100")
    }

    /// Types a command, as one line that the shell would take apart at blanks.
    pub(crate) fn types(&mut self, line: &str) -> Ended {
        let args = words(line);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ended = self.program().run(&args).unwrap();
        self.saw(line, &ended);
        ended
    }

    /// Notes what a command that was started earlier has said.
    pub(crate) fn saw(&mut self, line: &str, ended: &Ended) {
        let mut seen = format!("$ piton {line}\n{}", ended.stdout);
        for line in ended.stderr.lines() {
            seen.push_str(&format!("! {line}\n"));
        }
        match ended.code {
            Some(0) => {}
            Some(code) => seen.push_str(&format!("(exit {code})\n")),
            None => seen.push_str("(killed)\n"),
        }
        self.seen.push_str(&seen);
        self.seen.push('\n');
    }

    /// Says what happens between commands.
    pub(crate) fn note(&mut self, what: &str) {
        self.seen.push_str(&format!("# {what}\n"));
    }

    /// Runs a command that succeeds, unseen.
    #[track_caller]
    pub(crate) fn quietly(&self, line: &str) -> Ended {
        let args = words(line);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.program().run_to(0, &args).unwrap()
    }

    /// Starts a command, and waits until `status p --json` says so.
    pub(crate) fn starts(&self, line: &str, is_so: impl Fn(&Value) -> bool) -> Running {
        let args = words(line);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut running = self.program().start(&args).unwrap();
        self.until(&mut running, is_so);
        running
    }

    /// Waits until `status p --json` says so.
    pub(crate) fn until(&self, running: &mut Running, is_so: impl Fn(&Value) -> bool) {
        let status = || {
            let ended = self.program().run(&["status", "p", "--json"]).unwrap();
            serde_json::from_str::<Value>(&ended.stdout).map(|all| all["pipelines"][0].clone())
        };
        let look = |_: &Running| status().is_ok_and(|view| is_so(&view));
        running.until("the status", PATIENCE, look).unwrap();
    }

    /// What was seen.
    pub(crate) fn seen(self) -> String {
        let home = self.home.path();
        let real = home.canonicalize().unwrap();
        let seen = self.seen.replace(&*real.to_string_lossy(), "HERE");
        redacted(&seen.replace(&*home.to_string_lossy(), "HERE"))
    }
}

/// Stops a run as Ctrl-C does.
pub(crate) fn interrupted(running: Running) -> Ended {
    running.interrupt().unwrap();
    running.wait(Duration::from_mins(1)).unwrap()
}

/// Blanks part words; quotes keep them together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().unwrap().push(other),
        }
    }
    words
}

/// What differs from run to run.
fn redacted(text: &str) -> String {
    static TIME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z").unwrap());
    static OWNER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"process \d+( on [\w.-]+)?|ann@[\w.-]+").unwrap());
    static SPAN: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?:\d+ min \d+ s|\d+(?:\.\d+)? (?:ms|s))\b( ago)?(  +)?").unwrap()
    });
    static WHY: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"interval (?:\(.\)|.) \(adaptive: [^)]*\)").unwrap());
    static RATE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r", [\d,]+/s").unwrap());
    static PORT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"127\.0\.0\.1:\d+").unwrap());
    let text = TIME.replace_all(text, "YYYY-MM-DDThh:mm:ssZ");
    let text = OWNER.replace_all(&text, |found: &Captures| {
        match (found[0].starts_with("ann"), found.get(1)) {
            (true, _) => "ann@host",
            (false, Some(_)) => "process 123 on host",
            (false, None) => "process 123",
        }
    });
    // In a table the place that a time takes stays what it is.
    let text = SPAN.replace_all(&text, |found: &Captures| {
        let short = format!("T{}", found.get(1).map_or("", |ago| ago.as_str()));
        let width = if found.get(2).is_some() { found[0].len() } else { 0 };
        format!("{short:<width$}")
    });
    let text = WHY.replace_all(&text, "interval T (adaptive: …)");
    let text = RATE.replace_all(&text, ", N/s");
    PORT.replace_all(&text, "127.0.0.1:PORT").into_owned()
}
