//! Statements in a MySQL or MariaDB database.
//!
//! Such a server commits by itself before and after every `CREATE`, `ALTER`, `DROP` and the like.
//! Statements of which all do so are executed outside of a transaction, and recorded after them;
//! together with others they are refused beforehand. What else ends the transaction (a procedure,
//! one of several statements in a text) is noticed by a savepoint that is then gone.
//!
//! A session is as the server gives it, so that statements mean what they mean elsewhere: also its
//! `sql_mode`. Its isolation is READ COMMITTED.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use mysql::{Conn, Error, Params, Value as Bound, prelude::Queryable as _};
use piton_core::{Checkpoint, CheckpointKey, Epoch, fault};
use piton_stores::joined::{
    mark::Standing,
    mysql::{LedgerError, tables},
};

use super::{
    StatementsError, Value, keywords,
    limits::{LOOK_UP, Over, Watch},
    protocol::{self, Kept, Way, committed, no_more_time},
    statement::{Place, Statement, hex},
};
use crate::{
    mysql::{
        connect::{Server, run},
        errors::{
            LOCK_WAIT, commit_failure, described, failure, is_lost, is_passing_error, of_ledger,
            says,
        },
    },
    sink::SinkError,
};

/// Statements may take long: that a server is gone without a word shows on the connection.
const PATIENCE: Duration = Duration::from_hours(24 * 365);

/// Gone once the transaction has ended. To ask for it takes away those that were set after it.
const SAVEPOINT: &str = "SAVEPOINT piton_statements";
const SAME: &str = "RELEASE SAVEPOINT piton_statements; SAVEPOINT piton_statements";

/// There is no such savepoint.
const NO_SAVEPOINT: u16 = 1305;

/// Refused as long as a transaction is open, be it another one.
const ANY: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// A transaction is open.
const IN_TRANSACTION: u16 = 1568;

const DEADLOCK: u16 = 1213;

/// Tables that are not transactional were changed, and could not be changed back.
const KEPT: Kept = "what it changed in tables that are not transactional (of another engine than \
                    InnoDB) stays";

pub(super) struct Database {
    server: Server,
    lease: Duration,
}

pub(super) struct Session {
    conn: Conn,
    server: Server,
    lease: Duration,
    /// Whether statements of a person were executed in it.
    is_used: bool,
    /// Whether the open transaction may have savepoints of theirs.
    has_savepoints: bool,
    /// Whether it can be used on.
    is_sound: bool,
}

impl Database {
    pub(super) fn new(url: &str, lease: Duration) -> Result<Self, String> {
        Ok(Self { server: Server::parse(url)?, lease })
    }
}

impl protocol::Database for Database {
    type Session = Session;

    fn location(&self) -> &str {
        self.server.location()
    }

    fn promise(&self) -> &'static str {
        "InnoDB transaction"
    }

    fn way(&self, statements: &[Statement]) -> Result<Way, StatementsError> {
        let found = Place::all(statements).find(|p| keywords::commits_in_mysql(p.statement));
        let Some(place) = found else { return Ok(Way::Together) };
        if statements.iter().all(keywords::commits_in_mysql) {
            return Ok(Way::Before);
        }
        Err(StatementsError::Settings {
            what: format!(
                "{place} is committed by MySQL itself, and with it the statements before it, so \
                 that they could be repeated after a crash. Nothing was done; give such statements \
                 (CREATE, ALTER, DROP, TRUNCATE, …) a step of their own"
            ),
        })
    }

    fn connect(&mut self, pipeline: &str) -> Result<Session, StatementsError> {
        let server = self.server.clone().named(format!("piton {pipeline}"));
        let session = settings(self.lease);
        let conn = server.connect_as(&session, PATIENCE).map_err(SinkError::from)?;
        let (lease, is_used, has_savepoints, is_sound) = (self.lease, false, false, true);
        Ok(Session { conn, server, lease, is_used, has_savepoints, is_sound })
    }
}

/// What every session is set to. One that is silent for a lease is ended by the server, and with it
/// a transaction in which its owner sleeps.
fn settings(lease: Duration) -> String {
    let lease = lease.as_millis().div_ceil(1000).clamp(1, 31_536_000);
    let patience = (lease + 2).max(50);
    format!(
        "SET NAMES utf8mb4; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET SESSION autocommit = 1, wait_timeout = {lease}, net_write_timeout = {lease}, \
         innodb_lock_wait_timeout = {patience}"
    )
}

impl Session {
    fn at(&self) -> &str {
        self.server.location()
    }

    fn failed(&self, doing: &str, error: &Error) -> StatementsError {
        failure(self.at(), doing, error).into()
    }

    fn of_ledger(&self, pipeline: &str, doing: &str, error: LedgerError) -> StatementsError {
        of_ledger(self.at(), pipeline, doing, error).into()
    }

    /// Under the lock.
    fn write_epoch(&mut self, key: &CheckpointKey, epoch: Epoch) -> Result<(), LedgerError> {
        let mut ledger = tables::read(&mut self.conn, &key.pipeline, &key.sink)?;
        ledger.admit(epoch)?;
        if ledger.epoch < epoch {
            ledger.epoch = epoch;
            ledger.rows.values_mut().for_each(|row| row.epoch = epoch);
            tables::write(&mut self.conn, &mut ledger)?;
        }
        Ok(())
    }

    /// Makes the session what it was at its beginning, whatever statements have set.
    fn reset(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.is_used) {
            return Ok(());
        }
        self.conn.reset()?;
        self.conn.select_db(self.server.database())?;
        run(&mut self.conn, &settings(self.lease))
    }

    /// Begins a transaction in a session that is as it was.
    fn begin_anew(&mut self) -> Result<(), Error> {
        self.has_savepoints = false;
        self.reset()?;
        run(&mut self.conn, &format!("START TRANSACTION; {SAVEPOINT}"))
    }

    /// Does something that may take long; a second connection ends it when the time is over.
    fn watched<T>(&mut self, watch: &Watch, doing: impl FnOnce(&mut Conn) -> T) -> Result<T, Over> {
        let (conn, server) = (&mut self.conn, &self.server);
        let id = conn.connection_id();
        let (done, is_done) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let watching = scope.spawn(move || {
                loop {
                    match is_done.recv_timeout(LOOK_UP) {
                        Err(RecvTimeoutError::Timeout) => {}
                        _ => return None,
                    }
                    if let Some(over) = watch.over()
                        && kill(server, id)
                    {
                        return Some(over);
                    }
                }
            });
            let result = doing(conn);
            drop(done);
            watching.join().ok().flatten().map_or(Ok(result), Err)
        })
    }

    /// Executes one statement, or several without values.
    fn execute(conn: &mut Conn, statement: &Statement) -> Result<u64, Error> {
        if !statement.has_values() {
            return count(conn.query_iter(statement.sql(|_, _, _| {}))?);
        }
        let values: Vec<Bound> = statement.values().map(bound).collect();
        count(conn.exec_iter(
            statement.sql(|_, value, sql| placeholder(value, sql)),
            Params::Positional(values),
        )?)
    }

    /// What went wrong with a statement.
    fn trouble(&self, place: &Place<'_>, way: Way, error: &Error) -> StatementsError {
        let (at, said) = (self.at(), described(error));
        let stands = match (way, place.number) {
            (Way::Together, _) => "Nothing was done",
            (Way::Before, 1) => "It is not recorded",
            (Way::Before, _) => "The statements before it are done, and nothing is recorded",
        };
        if let Error::DriverError(said) = error {
            return StatementsError::Settings {
                what: format!(
                    "{place} cannot be executed in {at}: {said}. {stands}. Write values without \
                     quotes around them, and no `?` or `:name` beside them"
                ),
            };
        }
        if is_lost(error) || is_passing_error(error) {
            return StatementsError::Unavailable {
                what: format!("{place} was not done in {at}: {said}. {stands}"),
            };
        }
        let advice = match error {
            Error::MySqlError(said) if said.code == 1064 && place.statement.has_values() => {
                "A statement with values stands alone: write each by itself, without `;` between"
            }
            Error::MySqlError(said) if matches!(said.code, 1044 | 1142 | 1143 | 1227 | 1370) => {
                "Grant the user of the URL that right"
            }
            _ => "When that is mended, run the same command again",
        };
        let what = format!("{place} failed in {at}: {said}. {stands}. {advice}");
        StatementsError::Failed { what }
    }

    /// Whether the transaction is still the one that was begun. As long as a person's savepoints
    /// are needed, whether one is open.
    fn is_same(&mut self) -> Result<bool, Error> {
        if !self.has_savepoints {
            return self.has_savepoint();
        }
        match run(&mut self.conn, ANY) {
            Ok(()) => Ok(false),
            Err(error) if says(&error, IN_TRANSACTION) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn has_savepoint(&mut self) -> Result<bool, Error> {
        match run(&mut self.conn, SAME) {
            Ok(()) => Ok(true),
            Err(error) if says(&error, NO_SAVEPOINT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl protocol::Session for Session {
    fn take_over(&mut self, key: &CheckpointKey, epoch: Epoch) -> Result<(), StatementsError> {
        let CheckpointKey { pipeline, sink, .. } = key;
        self.reset().map_err(|e| self.failed("reset the session", &e))?;
        let created = tables::create(&mut self.conn);
        created.map_err(|e| self.of_ledger(pipeline, "create piton_checkpoints", e))?;
        // First by itself, so that branches that begin at once find what to lock.
        let locked = tables::lock(&mut self.conn, pipeline, sink).and_then(|()| {
            self.conn.query_drop("START TRANSACTION")?;
            tables::lock(&mut self.conn, pipeline, sink)
        });
        match locked {
            Err(LedgerError::Database(e)) if says(&e, LOCK_WAIT) => {
                return Err(StatementsError::Held {
                    what: format!(
                        "another session has the marks of '{pipeline}' in {} locked and did not \
                         give them up within {} s ({}). Stop it, or wait until it has finished",
                        self.at(),
                        self.lease.as_secs(),
                        described(&e)
                    ),
                });
            }
            locked => locked.map_err(|e| self.of_ledger(pipeline, "lock the marks", e))?,
        }
        self.write_epoch(key, epoch).map_err(|e| self.of_ledger(pipeline, "take over", e))?;
        let committed = self.conn.query_drop("COMMIT");
        committed.map_err(|e| commit_failure(self.at(), &e).into())
    }

    fn standing(&mut self, key: &CheckpointKey) -> Result<Standing, StatementsError> {
        self.reset().map_err(|e| self.failed("reset the session", &e))?;
        let read = tables::standing(&mut self.conn, key);
        read.map_err(|e| self.of_ledger(&key.pipeline, "read the marks", e))
    }

    fn begin(&mut self, key: &CheckpointKey, _: &Watch) -> Result<Standing, StatementsError> {
        self.begin_anew().map_err(|e| self.failed("begin a transaction", &e))?;
        self.standing(key)
    }

    fn run(&mut self, place: &Place<'_>, way: Way, watch: &Watch) -> Result<u64, StatementsError> {
        self.is_used = true;
        let at = self.at().to_owned();
        let statement = place.statement;
        self.has_savepoints |= keywords::mentions(statement, "SAVEPOINT");
        let done = match self.watched(watch, |conn| Self::execute(conn, statement)) {
            Ok(done) => done,
            Err(over) => {
                self.is_sound = false;
                return Err(no_more_time(over, place, &at));
            }
        };
        self.is_sound = done.as_ref().err().is_none_or(|error| !is_lost(error));
        if way == Way::Before || !self.is_sound {
            return done.map_err(|error| self.trouble(place, way, &error));
        }
        match (done, self.is_same()) {
            // A deadlock ends the transaction, without effect.
            (Err(error), _) if says(&error, DEADLOCK) => Err(self.trouble(place, way, &error)),
            (_, Ok(false)) => Err(committed(
                place,
                &at,
                "See what was done, and give what commits by itself a step of its own",
            )),
            (Err(error), _) | (Ok(_), Err(error)) => Err(self.trouble(place, way, &error)),
            (Ok(rows), Ok(true)) => Ok(rows),
        }
    }

    fn lock(&mut self, key: &CheckpointKey) -> Result<Standing, StatementsError> {
        let gone = self.conn.select_db(self.server.database());
        gone.map_err(|e| self.failed("lock the marks", &e))?;
        let is_same = self.has_savepoint();
        if !is_same.map_err(|e| self.failed("lock the marks", &e))? {
            return Err(StatementsError::Committed {
                what: format!(
                    "one of the statements ended the transaction in {}, and began another. What it \
                     committed stands, and nothing is recorded: executed again, all of it is \
                     repeated. See what was done, and take COMMIT out",
                    self.at()
                ),
            });
        }
        let locked = tables::lock_standing(&mut self.conn, key);
        locked.map_err(|e| self.of_ledger(&key.pipeline, "lock the marks", e))
    }

    fn clear(
        &mut self,
        pipeline: &str,
        sink: &str,
        partitions: &[&str],
    ) -> Result<(), StatementsError> {
        let gone = self.conn.select_db(self.server.database());
        gone.map_err(|e| self.failed("remove checkpoints", &e))?;
        let removed = tables::remove(&mut self.conn, pipeline, sink, partitions);
        removed.map_err(|e| self.of_ledger(pipeline, "remove checkpoints", e))
    }

    fn mark(&mut self, standing: &Standing, new: &Checkpoint) -> Result<(), StatementsError> {
        let marked = tables::mark(&mut self.conn, standing, new);
        marked.map_err(|e| self.of_ledger(&new.key.pipeline, "record the mark", e))
    }

    fn commit(&mut self) -> Result<(), StatementsError> {
        let at = self.at().to_owned();
        let doubt =
            |e: &std::io::Error| StatementsError::InDoubt { at: at.clone(), what: e.to_string() };
        fault::fail("commit.before").map_err(|e| doubt(&e))?;
        self.conn.query_drop("COMMIT").map_err(|e| commit_failure(&at, &e))?;
        fault::fail("commit.after").map_err(|e| doubt(&e))
    }

    fn roll_back(&mut self) -> Option<Kept> {
        if !self.is_sound {
            return None;
        }
        self.conn.query_drop("ROLLBACK").ok()?;
        Some(if self.conn.warnings() > 0 { KEPT } else { "" })
    }
}

/// The rows that statements changed, or gave.
fn count<P: mysql::prelude::Protocol>(
    mut answers: mysql::QueryResult<'_, '_, '_, P>,
) -> Result<u64, Error> {
    let mut rows = 0;
    while let Some(answer) = answers.iter() {
        rows += answer.affected_rows();
        for row in answer {
            row?;
            rows += 1;
        }
    }
    Ok(rows)
}

/// Has the server give up what a session does. `false` if it cannot be told.
fn kill(server: &Server, id: u32) -> bool {
    let told = server.connect_as("SET NAMES utf8mb4", Duration::from_secs(10));
    told.is_ok_and(|mut conn| conn.query_drop(format!("KILL QUERY {id}")).is_ok())
}

fn bound(value: &Value) -> Bound {
    match value {
        Value::Null => Bound::NULL,
        Value::Boolean(b) => Bound::Int(i64::from(*b)),
        Value::Integer(i) => Bound::Int(*i),
        Value::Number(text) => {
            if let Ok(whole) = text.parse() {
                return Bound::Int(whole);
            }
            match (digits(text), text.parse()) {
                (None, Ok(number)) => Bound::Double(number),
                _ => Bound::Bytes(text.clone().into_bytes()),
            }
        }
        Value::Text(text) | Value::Json(text) => Bound::Bytes(text.clone().into_bytes()),
        Value::Bytes(bytes) => Bound::Bytes(hex(bytes).into_bytes()),
    }
}

/// What stands for a value. Text that is compared with a decimal would be rounded, and bytes would
/// be taken for text, so both are said to be what they are.
fn placeholder(value: &Value, sql: &mut String) {
    match value {
        Value::Number(text) if text.parse::<i64>().is_err() => match digits(text) {
            Some((whole, fraction)) => {
                let all = (whole + fraction).max(1);
                sql.push_str(&format!("CAST(? AS DECIMAL({all},{fraction}))"));
            }
            None => sql.push('?'),
        },
        Value::Bytes(_) => sql.push_str("UNHEX(?)"),
        _ => sql.push('?'),
    }
}

/// How many digits a decimal number has before and after the point, if MySQL has decimals of so
/// many; others it only has rounded.
fn digits(number: &str) -> Option<(usize, usize)> {
    const MOST: usize = 65;
    const MOST_AFTER: usize = 30;
    let number = number.strip_prefix(['-', '+']).unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_plain = [whole, fraction].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    let fits = whole.len() + fraction.len() <= MOST && fraction.len() <= MOST_AFTER;
    (is_plain && fits && !number.is_empty()).then_some((whole.len(), fraction.len()))
}
