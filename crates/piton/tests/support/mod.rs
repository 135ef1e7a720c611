//! What the tests of the library share: places, plain SQL, and this very program as a child.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use piton::{Store, rusqlite::Connection};
use piton_testkit::Program;
use tempfile::TempDir;

/// A folder for a store and whatever a test writes; in memory where there is such a place, as no
/// test here is about what a disk keeps.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        Self(folder.unwrap())
    }

    pub(crate) fn on_disk() -> Self {
        Self(TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        piton::open(&format!("sqlite:{}", self.path("piton.db").display())).unwrap()
    }

    /// The program's own database.
    pub(crate) fn database(&self) -> Connection {
        let conn = Connection::open(self.path("app.db")).unwrap();
        conn.pragma_update(None, "journal_mode", "wal").unwrap();
        conn.execute_batch("CREATE TABLE IF NOT EXISTS effects (n INTEGER)").unwrap();
        conn
    }

    /// What a person sees with `sqlite3 piton.db 'select …'`.
    pub(crate) fn checkpoints(&self) -> Vec<(String, String)> {
        let conn = Connection::open(self.path("piton.db")).unwrap();
        pairs(&conn, "SELECT pipeline, coalesce(position, 'begun') FROM checkpoints")
    }

    /// The stored position of a job that counts, by plain SQL.
    pub(crate) fn position(&self, job: &str) -> Option<u64> {
        let found = self.checkpoints().into_iter().find(|(name, _)| name == job);
        found.and_then(|(_, position)| position.parse().ok())
    }

    pub(crate) fn runs(&self) -> Vec<(String, String)> {
        let conn = Connection::open(self.path("piton.db")).unwrap();
        pairs(&conn, "SELECT pipeline, coalesce(ended_as, 'running') FROM runs ORDER BY id")
    }

    /// One test function of the present test program, as a program of its own that works in here.
    pub(crate) fn child(&self, name: &str) -> Child {
        let program = Program::new(env::current_exe().unwrap(), self.folder());
        Child { program: program.with(CHILD, name), name: name.to_owned() }
    }
}

/// Says to a test function that it is a child's work.
const CHILD: &str = "PITON_TEST_CHILD";

/// Whether this process is the child that runs a test function. Arms its fault points.
pub(crate) fn is_child(name: &str) -> bool {
    if env::var(CHILD).is_ok_and(|child| child == name) {
        let faults = env::var("PITON_FAULT").unwrap_or_default();
        piton::core::fault::arm_from(&faults, kill_self, || {}).unwrap();
        return true;
    }
    false
}

/// As a SIGKILL from outside: nothing is cleaned up.
fn kill_self() {
    let pid = std::process::id().to_string();
    let _ = std::process::Command::new("kill").args(["-KILL", &pid]).status();
}

pub(crate) struct Child {
    pub(crate) program: Program,
    name: String,
}

impl Child {
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.program = self.program.with(name, value);
        self
    }

    /// The arguments by which the test program runs that function alone.
    pub(crate) fn args(&self) -> [&str; 4] {
        ["--exact", &self.name, "--nocapture", "--test-threads=1"]
    }
}

pub(crate) fn pairs(conn: &Connection, sql: &str) -> Vec<(String, String)> {
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// The numbers in the table of effects, in the order in which they were written.
pub(crate) fn effects(conn: &Connection) -> Vec<u64> {
    let mut statement = conn.prepare("SELECT n FROM effects ORDER BY rowid").unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// The numbers in a file of effects; a line that was cut by a kill is none.
pub(crate) fn lines(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| line.parse().unwrap()).collect()
}
