//! Every configuration and every command that README.md and docs/ show is run, in the order of the
//! page, in a folder of the page's own.
//!
//! | block | what is done with it |
//! |---|---|
//! | `yaml` | loaded, a pipeline or a job. If its first line is `# NAME.yaml`, it is that file from then on. Else it is run to its end, to exit code 0, in a folder of its own. A part of a pipeline's configuration is completed with a source and a sink, steps with the job's name |
//! | `sh` | each line is run, and must end with 0, or with what `# exit 3` behind it says |
//! | `console` | each line after `$ ` is run in the same way; the lines after it must occur in its output, in their order, `…` standing for anything and blanks counting as one |
//! | `yaml no-run`, `sh no-run` | loaded only; not run, for what needs hands or other machines |
//!
//! Each folder has sample data: `flights.csv`, `people.jsonl`, `crm.db`, `shop.db`; and `RECEIVER` is the URL
//! of something that takes HTTP posts. `sqlite3 FILE 'SQL'` is answered by the SQLite that is
//! compiled in, so that no other program is needed.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use piton_testkit::Receiver;
use regex::Regex;
use rusqlite::{Connection, types::ValueRef};
use tempfile::TempDir;

/// Records of the demo's data in the sample: enough to have some with `NA` for a number.
const FLIGHTS: usize = 900;
const PATIENCE: Duration = Duration::from_mins(1);

/// Pages whose blocks are tested elsewhere: in the crate `piton`, as documentation tests.
const ELSEWHERE: &[&str] = &["library.md", "processor.md"];

macro_rules! pages {
    ($($test:ident: $path:literal)*) => {
        const PAGES: &[&str] = &[$($path),*];
        $(#[test]
        fn $test() {
            Page::open($path).check();
        })*
    };
}

pages! {
    readme: "README.md"
    getting_started: "docs/getting-started.md"
    commands: "docs/commands.md"
    configuration: "docs/configuration.md"
    expressions: "docs/expressions.md"
    operating: "docs/operating.md"
    interval: "docs/interval.md"
    jobs: "docs/jobs.md"
    outbox: "docs/outbox.md"
    scripts: "docs/scripts.md"
    stores: "docs/stores.md"
}

#[test]
fn no_page_is_left_out() {
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let listed = PAGES.contains(&format!("docs/{name}").as_str());
        assert!(listed || ELSEWHERE.contains(&name.as_str()), "docs/{name} is not tested");
    }
}

#[test]
fn a_page_that_is_wrong_is_found() {
    let fails = |text: &str| {
        let page = Page::of("wrong.md", text.to_owned());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| page.check())).is_err()
    };
    assert!(!fails("```sh\npiton status  # exit 2\n```\n```console\n$ echo a b c\na … c\n```"));
    assert!(fails("```sh\npiton status\n```"));
    assert!(fails("```console\n$ printf 'a\\nb\\n'\nb\na\n```"));
    assert!(fails("```yaml\ncommit: some\n```"));
    assert!(fails("```yaml\ntransform: [{filter: nothing > 1}]\n```"));
    assert!(!fails("```yaml no-run\ntransform: [{filter: nothing > 1}]\n```"));
    assert!(fails("```bash\npiton status\n```"), "a language that nobody runs");
    assert!(!fails("```yaml\nsteps: [{step: a, run: [touch, a]}]\n```"));
    assert!(fails("```yaml\nsteps: [{step: a, run: [cat, nothing]}]\n```"));
    assert!(!fails("```yaml no-run\nsteps: [{step: a, run: [cat, nothing]}]\n```"));
    assert!(fails("```yaml no-run\njob: j\nsteps: [{step: a}]\n```"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

struct Page {
    name: String,
    text: String,
    folder: TempDir,
    receiver: Receiver,
}

/// A fenced block, and the line of its first line of text.
struct Block {
    line: usize,
    language: String,
    runs: bool,
    text: String,
}

impl Page {
    fn open(path: &str) -> Self {
        Self::of(path, fs::read_to_string(root().join(path)).unwrap())
    }

    fn of(name: &str, text: String) -> Self {
        let (folder, receiver) = (samples(), Receiver::start().unwrap());
        Self { name: name.to_owned(), text, folder, receiver }
    }

    fn check(&self) {
        for block in blocks(&self.text) {
            match (block.language.as_str(), block.runs) {
                ("yaml", _) => self.yaml(&block),
                ("sh", true) => self.sh(&block),
                ("console", true) => self.console(&block),
                ("sh" | "console" | "json" | "text" | "cel" | "csv" | "sql", _) => {}
                (other, _) => panic!("{}: a block of '{other}' is not tested", self.at(block.line)),
            }
        }
    }

    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.name)
    }

    fn yaml(&self, block: &Block) {
        let first = block.text.lines().next().unwrap_or_default();
        let name = first
            .strip_prefix("# ")
            .filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "yaml"));
        let own = name.is_none().then(samples);
        let folder = own.as_ref().map_or(self.folder.path(), TempDir::path);
        let file = folder.join(name.unwrap_or("block.yaml"));
        fs::write(&file, completed(&block.text)).unwrap();
        let loaded = piton_engine::config::load_any(&file, &|name| match name {
            "RECEIVER" => Some(self.receiver.url()),
            // Where the commands of a job are looked for.
            "PATH" => std::env::var(name).ok(),
            _ => None,
        });
        if let Err(error) = loaded {
            panic!("{}: {error}", self.at(block.line));
        }
        if name.is_none() && block.runs {
            self.run(folder, block.line, "piton run block.yaml", 0);
        }
    }

    fn sh(&self, block: &Block) {
        let text = block.text.replace("\\\n", "  ");
        for (index, line) in text.lines().enumerate() {
            if !line.trim().is_empty() && !line.starts_with('#') {
                self.run(self.folder.path(), block.line + index, line, expected_code(line));
            }
        }
    }

    fn console(&self, block: &Block) {
        let mut lines = block.text.lines().enumerate().peekable();
        while let Some((index, line)) = lines.next() {
            let command = line.strip_prefix("$ ");
            let command =
                command.unwrap_or_else(|| panic!("{}: {line}", self.at(block.line + index)));
            let code = expected_code(command);
            let output = self.run(self.folder.path(), block.line + index, command, code);
            let mut left = output.lines();
            while let Some((index, expected)) = lines.next_if(|(_, line)| !line.starts_with("$ ")) {
                let pattern = pattern(expected);
                let found =
                    expected.trim() == "…" || left.any(|line| pattern.is_match(&blanks(line)));
                let at = self.at(block.line + index);
                assert!(found, "{at}: '{expected}' is not in the output, or not here:\n{output}");
            }
        }
    }

    /// Runs one command and returns what it printed.
    fn run(&self, folder: &Path, line: usize, command: &str, code: i32) -> String {
        let at = self.at(line);
        if let Some(rest) = command.strip_prefix("sqlite3 ") {
            return sqlite(folder, rest).unwrap_or_else(|error| panic!("{at}: {command}: {error}"));
        }
        let printed = tempfile::NamedTempFile::new().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec 2>&1\n{command}")])
            .current_dir(folder)
            .env("PATH", path())
            .env("RECEIVER", self.receiver.url())
            .env("USER", "you")
            .env_remove("PITON_STORE")
            .stdin(Stdio::null())
            .stdout(printed.reopen().unwrap())
            .spawn()
            .unwrap();
        let began = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(5)),
                None => {
                    child.kill().unwrap();
                    panic!("{at}: `{command}` does not end");
                }
            }
        };
        let output = fs::read_to_string(printed.path()).unwrap();
        assert_eq!(status.code(), Some(code), "{at}: `{command}` printed:\n{output}");
        output
    }
}

/// The fenced blocks of a page.
fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(info), false) => {
                let mut words = info.split_whitespace();
                let language = words.next().unwrap_or("text").to_owned();
                let runs = words.all(|word| word != "no-run");
                found.push(Block { line: index + 2, language, runs, text: String::new() });
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => {
                if let Some(block) = found.last_mut() {
                    let _ = writeln!(block.text, "{line}");
                }
            }
            (None, false) => {}
        }
    }
    found
}

/// A part of a configuration becomes a whole one.
fn completed(text: &str) -> String {
    let has = |key: &str| text.lines().any(|line| line.starts_with(&format!("{key}:")));
    match (has("job"), has("steps")) {
        (true, true) => return text.to_owned(),
        (false, true) => return format!("job: docs\n{text}"),
        (true, false) => return format!("{text}steps: [{{step: only, run: ['true']}}]\n"),
        (false, false) => {}
    }
    let defaults = [
        ("pipeline", "pipeline: docs"),
        ("source", "source: {csv: {path: flights.csv}}"),
        ("sinks", "sinks: {out: {jsonl: {path: out.jsonl}}}"),
    ];
    let mut whole = text.to_owned();
    for (key, default) in defaults {
        if !has(key) {
            let _ = writeln!(whole, "{default}");
        }
    }
    whole
}

/// The exit code that a comment behind a command speaks of.
fn expected_code(line: &str) -> i32 {
    line.rsplit_once("# exit ").map_or(0, |(_, code)| code.trim().parse().unwrap())
}

/// Blanks as one, for tables are as wide as what is in them.
fn blanks(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn pattern(expected: &str) -> Regex {
    let parts: Vec<String> = blanks(expected).split('…').map(regex::escape).collect();
    Regex::new(&format!("^{}$", parts.join(".*"))).unwrap()
}

/// With the folder of the built program in front.
fn path() -> std::ffi::OsString {
    let built = Path::new(env!("CARGO_BIN_EXE_piton")).parent().unwrap().to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([built].into_iter().chain(std::env::split_paths(&others))).unwrap()
}

/// A folder with the data that the pages speak of.
fn samples() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let flights = fs::read_to_string(root().join("demo/flights.csv")).unwrap();
    let mut file = File::create(folder.path().join("flights.csv")).unwrap();
    for line in flights.lines().take(1 + FLIGHTS) {
        writeln!(file, "{line}").unwrap();
    }
    let people = concat!(
        "{\"id\": 1, \"name\": \"Ann\", \"address\": {\"city\": \"Basel\", \"zip\": \"4051\"}, ",
        "\"tags\": [\"new\", \"vip\"]}\n",
        "{\"id\": 2, \"name\": \"Bob\", \"address\": {\"city\": \"Bern\"}, \"tags\": []}\n",
        "{\"id\": 3, \"name\": \"Cleo\", \"tags\": [\"vip\"]}\n",
    );
    fs::write(folder.path().join("people.jsonl"), people).unwrap();
    let crm = Connection::open(folder.path().join("crm.db")).unwrap();
    crm.execute_batch(
        "CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT);
         INSERT INTO customer VALUES (1, 'Ann', 'CH'), (2, 'Bob', 'DE'), (5, 'Cleo', NULL);",
    )
    .unwrap();
    let shop = Connection::open(folder.path().join("shop.db")).unwrap();
    shop.execute_batch(
        "CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
         INSERT INTO customer VALUES (1, 'Ann'), (2, 'Bob'), (3, 'Cleo');
         CREATE TABLE invoice (id INTEGER PRIMARY KEY,
             customer INTEGER NOT NULL REFERENCES customer (id), day TEXT NOT NULL, cents INTEGER);
         INSERT INTO invoice VALUES (1, 1, '2026-11-20', 1250), (2, 2, '2026-11-20', 300),
             (3, 1, '2026-11-21', 500), (4, 2, '2026-11-22', 600);",
    )
    .unwrap();
    folder
}

/// `FILE 'SQL'`, and the rows as the program `sqlite3` prints them.
fn sqlite(folder: &Path, rest: &str) -> rusqlite::Result<String> {
    let (file, sql) = rest.split_once(' ').unwrap();
    let sql = sql.split("  #").next().unwrap_or_default().trim();
    let sql = sql.trim_matches(if sql.starts_with('"') { '"' } else { '\'' });
    let connection = Connection::open(folder.join(file))?;
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut text = String::new();
    while let Some(row) = rows.next()? {
        let values = (0..columns).map(|column| {
            row.get_ref(column).map(|value| match value {
                ValueRef::Null => String::new(),
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Real(number) => number.to_string(),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                    String::from_utf8_lossy(bytes).into_owned()
                }
            })
        });
        let values: Vec<String> = values.collect::<rusqlite::Result<_>>()?;
        let _ = writeln!(text, "{}", values.join("|"));
    }
    Ok(text)
}
