//! An outbox, a folder with a pipeline that relays it, and those who append to it.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use piton_testkit::{
    Dice, Ended, Program, Running,
    ledger::rows_in_sqlite,
    program::PATIENCE,
    service::{self, Postgres, Server},
};
use postgres::{Client, NoTls};
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// Sinks in which the order of arrival can be seen.
pub(crate) const SINKS: &str = "sinks:
  table: {sqlite: {path: out.db, table: t, mode: append}}
  file: {jsonl: {path: out.jsonl}}";

/// What a message is compared by: transaction, position, id.
pub(crate) type Message = (i64, i64, String);

/// A folder with a pipeline `relay` in `p.yaml`, and an outbox.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) url: String,
    pub(crate) program: Program,
}

impl Place {
    /// An outbox as the program prints it, on the server that the tests share. `None` where there
    /// can be no server.
    pub(crate) fn new() -> Option<Self> {
        let server = service::needed(Postgres::shared())?;
        Some(Self::on(server))
    }

    pub(crate) fn on(server: &Server) -> Self {
        let place = Self::bare(server.database().unwrap());
        let printed = place.ends_with(0, &["sql", "postgres-outbox"]).stdout;
        place.sql(&printed);
        place
    }

    /// A database without a table.
    pub(crate) fn bare(url: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
        Self { folder, url, program }
    }

    /// Writes the pipeline: further settings of the source, and what follows it.
    pub(crate) fn configure(&self, settings: &str, rest: &str) {
        self.configure_at(&self.url, settings, rest);
    }

    pub(crate) fn configure_at(&self, url: &str, settings: &str, rest: &str) {
        self.write("p.yaml", &format!("{{postgres_outbox: {{url: \"{url}\"{settings}}}}}"), rest);
    }

    /// Writes a pipeline with such a source.
    pub(crate) fn write(&self, file: &str, source: &str, rest: &str) {
        let text = format!("pipeline: relay\nsource: {source}\n{rest}\n");
        fs::write(self.path(file), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A connection; a server that is just starting is waited for.
    pub(crate) fn client(&self) -> Client {
        client(&self.url)
    }

    pub(crate) fn sql(&self, statements: &str) {
        self.client().batch_execute(statements).unwrap();
    }

    /// Appends messages of these ids, each in a transaction of its own.
    pub(crate) fn append(&self, ids: impl IntoIterator<Item = u32>) {
        let mut client = self.client();
        for id in ids {
            append(&mut client, &id.to_string());
        }
    }

    /// Appends so many messages at once.
    pub(crate) fn fill(&self, messages: u32) {
        self.sql(&format!(
            "INSERT INTO outbox (message_id, message_type, data)
             SELECT 'f' || n, 'Filled', '{{\"n\":1}}' FROM generate_series(1, {messages}) n"
        ));
    }

    pub(crate) fn start(&self) -> Running {
        self.program.start(&["run", "p.yaml"]).unwrap()
    }

    /// Runs a command and demands an exit code.
    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32, args: &[&str]) -> Ended {
        self.program.run_to(code, args).unwrap_or_else(|error| panic!("piton {args:?}: {error}"))
    }

    /// Runs until the sinks hold all that the outbox does, then asks it to stop.
    #[track_caller]
    pub(crate) fn relay_all(&self) -> Ended {
        let wanted = self.outbox().len();
        self.relay_until(|| self.file().len() >= wanted && self.rows() >= wanted as u64)
    }

    /// Runs until something is so, then asks it to stop.
    #[track_caller]
    pub(crate) fn relay_until(&self, has_all: impl Fn() -> bool) -> Ended {
        let mut running = self.start();
        running.until("all messages", PATIENCE, |_| has_all()).unwrap_or_else(|e| panic!("{e}"));
        stop(running)
    }

    /// What the outbox holds, in its order.
    pub(crate) fn outbox(&self) -> Vec<Message> {
        messages(
            &mut self.client(),
            "SELECT transaction_id::text::bigint, position, message_id FROM outbox \
             ORDER BY transaction_id, position",
        )
    }

    /// What the file holds, as it came; whole lines only.
    pub(crate) fn file(&self) -> Vec<Message> {
        let text = fs::read_to_string(self.path("out.jsonl")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(message).collect()
    }

    /// What the table holds, as it came.
    pub(crate) fn table(&self) -> Vec<Message> {
        let db = Connection::open(self.path("out.db")).unwrap();
        let query = "SELECT transaction_id, position, message_id FROM t ORDER BY rowid";
        let mut statement = db.prepare(query).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// How many messages are in the table now.
    pub(crate) fn rows(&self) -> u64 {
        rows_in_sqlite(&self.path("out.db"), "t")
    }

    /// Demands that both sinks hold what the outbox does, each message once and in its order.
    #[track_caller]
    pub(crate) fn exactly_once_in_order(&self) {
        let outbox = self.outbox();
        same("file", &self.file(), &outbox);
        same("table", &self.table(), &outbox);
    }

    /// What `piton status --json` says of the pipeline.
    pub(crate) fn status(&self) -> Value {
        let ended = self.ends_with(0, &["status", "relay", "--json"]);
        let mut status: Value = serde_json::from_str(&ended.stdout).unwrap();
        status["pipelines"][0].take()
    }

    /// Demands that nothing was written: neither a sink nor a place in one.
    #[track_caller]
    pub(crate) fn nothing_was_written(&self) {
        for name in ["out.db", "out.jsonl"] {
            assert!(!self.path(name).exists(), "there is {name}");
        }
    }
}

/// Asks a relay to stop, and demands that it does.
#[track_caller]
pub(crate) fn stop(running: Running) -> Ended {
    running.terminate().unwrap();
    // Counted from its start, which may be long ago.
    let ended = running.wait(PATIENCE * 3).unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    ended
}

/// Demands that messages are these, in this order.
#[track_caller]
pub(crate) fn same(what: &str, found: &[Message], wanted: &[Message]) {
    if let Some(at) = (0..wanted.len().max(found.len())).find(|i| found.get(*i) != wanted.get(*i)) {
        let (found_n, wanted_n) = (found.len(), wanted.len());
        panic!(
            "{what}: message {at} is {:?}, wanted {:?}; {found_n} of {wanted_n}",
            found.get(at),
            wanted.get(at)
        );
    }
}

/// The messages of a query.
pub(crate) fn messages(client: &mut Client, query: &str) -> Vec<Message> {
    let rows = client.query(query, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn message(line: &str) -> Message {
    let record: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let number = |name: &str| record[name].as_i64().unwrap();
    let id = record["message_id"].as_str().unwrap().to_owned();
    (number("transaction_id"), number("position"), id)
}

fn client(url: &str) -> Client {
    for _ in 0..200 {
        if let Ok(client) = Client::connect(url, NoTls) {
            return client;
        }
        thread::sleep(Duration::from_millis(50));
    }
    Client::connect(url, NoTls).unwrap()
}

/// A table in PostgreSQL to which a relay appends, and in which the order of arrival can be seen.
pub(crate) struct Target {
    url: String,
}

impl Target {
    pub(crate) fn at(url: &str) -> Self {
        let columns = "transaction_id bigint, position bigint, message_id text, \
                       message_type text, data jsonb, scheduled timestamptz, came bigserial";
        client(url).batch_execute(&format!("CREATE TABLE kept ({columns})")).unwrap();
        Self { url: url.to_owned() }
    }

    pub(crate) fn client(&self) -> Client {
        client(&self.url)
    }

    /// The settings of a sink that writes to it.
    pub(crate) fn sink(&self) -> String {
        Self::sink_at(&self.url)
    }

    /// The same by this way to the server.
    pub(crate) fn sink_at(url: &str) -> String {
        format!("{{postgres: {{url: \"{url}\", table: kept, mode: append, create: false}}}}")
    }

    /// How many messages are in it now; 0 while the server does not answer.
    pub(crate) fn rows(&self) -> u64 {
        let Ok(mut client) = Client::connect(&self.url, NoTls) else { return 0 };
        let count = client.query_one("SELECT count(*) FROM kept", &[]);
        count.map_or(0, |row| row.get::<_, i64>(0) as u64)
    }

    /// What it holds, as it came.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let kept = "SELECT transaction_id, position, message_id FROM kept ORDER BY came";
        messages(&mut self.client(), kept)
    }
}

const INSERT: &str =
    "INSERT INTO outbox (message_id, message_type, data) VALUES ($1, 'T', '{\"n\":1}')";

pub(crate) fn append(client: &mut impl postgres::GenericClient, id: &str) {
    client.execute(INSERT, &[&id]).unwrap();
}

/// Eight at once append at random until they are told to stop: with pauses inside transactions, so
/// that these commit in another order than they began, and with rollbacks.
pub(crate) fn with_appenders<T>(url: &str, work: impl FnOnce() -> T) -> T {
    const APPENDERS: u32 = 8;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for appender in 0..APPENDERS {
            let over = &over;
            scope.spawn(move || append_at_random(url, appender, over));
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A server that is away is waited for, and what was under way is left as it is: the outbox alone
/// says what was committed.
fn append_at_random(url: &str, appender: u32, over: &AtomicBool) {
    let mut dice = Dice::new();
    let mut n = 0;
    while !over.load(Ordering::Relaxed) {
        let appended = Client::connect(url, NoTls).and_then(|mut client| {
            while !over.load(Ordering::Relaxed) {
                append_some(&mut client, &mut dice, || {
                    n += 1;
                    format!("{appender}.{n}")
                })?;
            }
            Ok(())
        });
        if appended.is_err() {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Appends a few messages in a transaction that may be rolled back.
fn append_some(
    client: &mut Client,
    dice: &mut Dice,
    mut next_id: impl FnMut() -> String,
) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    for _ in 0..dice.between(1, 4) {
        transaction.execute(INSERT, &[&next_id()])?;
        thread::sleep(Duration::from_millis(dice.between(0, 6)));
    }
    if dice.between(0, 9) == 0 {
        transaction.rollback()?;
    } else {
        transaction.commit()?;
    }
    thread::sleep(Duration::from_millis(dice.between(0, 10)));
    Ok(())
}
