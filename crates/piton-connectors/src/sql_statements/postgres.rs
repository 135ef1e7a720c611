//! Statements in a PostgreSQL database.
//!
//! They go to the server as they are: those without values by the simple protocol, which takes
//! several at once; values as text, which the server reads by the type that it finds for them, so
//! that nothing is rounded. That the transaction is still the same is asked with each statement, by
//! its number, at no further round trip.

use std::{error::Error as StdError, pin::pin, time::Duration};

use bytes::BytesMut;
use futures_util::{
    TryStreamExt as _,
    future::{join, join3},
};
use piton_core::{Checkpoint, CheckpointKey, Epoch};
use piton_stores::joined::{
    mark::Standing,
    postgres::{LedgerError, tables},
};
use tokio_postgres::{
    Client, Error, SimpleQueryMessage,
    error::SqlState,
    types::{Format, IsNull, ToSql, Type, to_sql_checked},
};

use super::{
    StatementsError, Value,
    limits::{LOOK_UP, Over, Watch},
    protocol::{self, Kept, Way, committed, no_more_time},
    statement::{Piece, Place, Statement, hex},
};
use crate::{
    postgres::wire::Wire,
    postgres::{
        Server,
        connect::{describe, is_lost},
        errors::{commit_failure, failure, is_passing, of_ledger},
        holder::Holder,
    },
};

/// How long an answer is waited for once nobody wants it any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// What statements may have set for the session is as it was at its beginning.
const RESET: &str = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; \
     DISCARD TEMP; DISCARD SEQUENCES; SELECT pg_advisory_unlock_all(); ";

/// The marks are where they were when they were fenced, whatever statements have set.
const AT_HOME: &str = "RESET ROLE; RESET search_path";

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

const SAME: &str = "SELECT pg_current_xact_id()::text";

pub(super) struct Database {
    server: Server,
    lease: Duration,
}

pub(super) struct Session {
    wire: Wire,
    server: Server,
    lease: Duration,
    /// Its process, and since when.
    process: (i32, String),
    /// The number of the open transaction.
    transaction: String,
    /// Whether statements of a person were executed since it was last reset.
    is_used: bool,
    /// Whether what was sent last was answered, as far as is known.
    is_sound: bool,
}

impl Database {
    pub(super) fn new(url: &str, lease: Duration) -> Result<Self, StatementsError> {
        let server = Server::parse(url);
        let server = server.map_err(|e| StatementsError::Settings { what: e.to_string() })?;
        Ok(Self { server, lease })
    }
}

impl protocol::Database for Database {
    type Session = Session;

    fn location(&self) -> &str {
        self.server.location()
    }

    fn promise(&self) -> &'static str {
        "PostgreSQL transaction"
    }

    fn connect(&mut self, pipeline: &str) -> Result<Session, StatementsError> {
        let server = self.server.clone().named(&format!("piton {pipeline}"));
        let wire = Wire::open(&server).map_err(crate::sink::SinkError::from)?;
        let mine = "SELECT pid, backend_start::text, current_setting('server_version_num')::int, \
                    pg_is_in_recovery() FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let asked = wire.wait(async {
            let row = wire.client.query_typed_one(mine, &[]).await?;
            let process = (row.try_get(0)?, row.try_get(1)?);
            Ok((process, row.try_get::<_, i32>(2)?, row.try_get::<_, bool>(3)?))
        });
        let at = self.server.location();
        let (process, version, is_replica) =
            asked.map_err(|e: Error| failure(at, "begin a session", &e))?;
        if version < 130_000 {
            let what = format!("{at} is older than PostgreSQL 13, which is needed");
            return Err(StatementsError::Settings { what });
        }
        if is_replica {
            let what = format!("{at} is a read-only replica: name the primary in `url`");
            return Err(StatementsError::Refused { what });
        }
        let (lease, transaction, is_used, is_sound) = (self.lease, String::new(), false, true);
        Ok(Session { wire, server, lease, process, transaction, is_used, is_sound })
    }
}

impl Session {
    fn at(&self) -> &str {
        self.server.location()
    }

    fn client(&self) -> &Client {
        &self.wire.client
    }

    fn failed(&self, doing: &str, error: &Error) -> StatementsError {
        failure(self.at(), doing, error).into()
    }

    fn of_ledger(&self, pipeline: &str, doing: &str, error: LedgerError) -> StatementsError {
        of_ledger(self.at(), pipeline, doing, error).into()
    }

    /// What sets the session, after what statements may have set.
    fn settings(&mut self) -> String {
        let lease = self.lease.as_millis();
        let reset = if std::mem::take(&mut self.is_used) { RESET } else { "" };
        format!(
            "{reset}SET idle_in_transaction_session_timeout = {lease}; \
             SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') = 'off'; "
        )
    }

    /// Begins a transaction that has the marks locked.
    fn lock_marks(&mut self, key: &CheckpointKey) -> Result<(), StatementsError> {
        let CheckpointKey { pipeline, sink, .. } = key;
        let settings = self.settings();
        // An owner that is silent in a transaction loses it after its lease.
        let patience = self.lease.as_millis() + 1000;
        let locked = self.wire.wait(async {
            self.client().batch_execute(&settings).await?;
            self.client().batch_execute(BEGIN).await?;
            let patience = format!("SET LOCAL lock_timeout = {patience}");
            self.client().batch_execute(&patience).await?;
            tables::create(self.client()).await?;
            tables::lock(self.client(), pipeline, sink).await
        });
        match locked {
            Err(LedgerError::Database(e)) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                let _ = self.wire.batch_execute("ROLLBACK");
                let holder = Holder::find(self.client(), pipeline, sink, self.lease);
                let holder = self.wire.wait(holder);
                let who = holder.map_or_else(|| "another session".into(), |holder| holder.name);
                Err(StatementsError::Held {
                    what: format!(
                        "{who} has the marks of '{pipeline}' in {} locked and did not give them up \
                         within {} s ({}). Stop it, or wait until it has finished",
                        self.at(),
                        self.lease.as_secs(),
                        describe(&e)
                    ),
                })
            }
            locked => locked.map_err(|e| self.of_ledger(pipeline, "lock the marks", e)),
        }
    }

    /// Waits for the server, as long as the limits allow; then has it give up what it does.
    fn watched<T>(&self, watch: &Watch, doing: impl Future<Output = T>) -> Result<T, Over> {
        let mut doing = pin!(doing);
        let over = loop {
            let waited = async { tokio::time::timeout(LOOK_UP, &mut doing).await };
            match (self.wire.wait(waited), watch.over()) {
                (Ok(done), _) => return Ok(done),
                (Err(_), Some(over)) => break over,
                (Err(_), None) => {}
            }
        };
        self.cancel();
        let _ = self.wire.wait(async { tokio::time::timeout(PATIENCE, doing).await });
        Err(over)
    }

    /// Has the server give up what this session does. If it cannot be told, it notices that the
    /// connection is gone.
    fn cancel(&self) {
        let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                      WHERE pid = $1 AND backend_start::text = $2";
        let (pid, since) = &self.process;
        if let Ok(other) = Wire::open(&self.server) {
            let session = [(pid as _, Type::INT4), (since as _, Type::TEXT)];
            let asked = other.client.query_typed(cancel, &session);
            let _ = other.wait(async { tokio::time::timeout(PATIENCE, asked).await });
        }
    }

    /// Executes statements without values, and asks which transaction is open then.
    async fn run_text(client: &Client, sql: &str) -> (Result<u64, Error>, Result<String, Error>) {
        let execute = async {
            let mut answers = pin!(client.simple_query_raw(sql).await?);
            let mut rows = 0;
            while let Some(answer) = answers.try_next().await? {
                if let SimpleQueryMessage::CommandComplete(count) = answer {
                    rows += count;
                }
            }
            Ok(rows)
        };
        // Sent together: the second follows the first on the connection.
        join(execute, transaction(client)).await
    }

    /// Executes one statement with values. It cannot be one that ends a transaction.
    async fn run_values(client: &Client, statement: &Statement) -> Result<u64, Error> {
        let sql = statement.sql(|number, _, sql| sql.push_str(&format!("${number}")));
        let values: Vec<Bound<'_>> = statement.values().map(Bound).collect();
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        client.execute(&*sql, &values).await
    }

    /// What went wrong with a statement.
    fn trouble(&self, place: &Place<'_>, error: &Error) -> StatementsError {
        let (at, said) = (self.at(), describe(error));
        if is_lost(error) || is_passing(error) {
            return StatementsError::Unavailable {
                what: format!("{place} was not done in {at}: {said}. Nothing was done"),
            };
        }
        let advice = match error.code() {
            Some(&SqlState::INDETERMINATE_DATATYPE) => {
                "The server cannot tell the type of a value: cast it, as in ${param.day}::date"
            }
            Some(&SqlState::SYNTAX_ERROR) if place.statement.has_values() => {
                "A statement with values stands alone: write each by itself, without `;` between"
            }
            Some(&SqlState::ACTIVE_SQL_TRANSACTION) => {
                "All statements of a step are in one transaction: do this one by a command"
            }
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => "Grant the user of the URL that right",
            None if place.statement.has_values() => {
                "A value within quotes is none: write values without quotes around them"
            }
            _ => "When that is mended, run the same command again",
        };
        let what = format!("{place} failed in {at}: {said}. Nothing was done. {advice}");
        StatementsError::Failed { what }
    }
}

async fn transaction(client: &Client) -> Result<String, Error> {
    client.query_typed_one(SAME, &[]).await?.try_get(0)
}

impl protocol::Session for Session {
    fn take_over(&mut self, key: &CheckpointKey, epoch: Epoch) -> Result<(), StatementsError> {
        let CheckpointKey { pipeline, sink, .. } = key;
        self.lock_marks(key)?;
        let client = self.client();
        let written = self.wire.wait(async {
            let mut ledger = tables::read(client, pipeline, sink).await?;
            ledger.admit(epoch)?;
            if ledger.epoch < epoch {
                ledger.epoch = epoch;
                ledger.rows.values_mut().for_each(|row| row.epoch = epoch);
                tables::write(client, &mut ledger).await?;
            }
            Ok(())
        });
        written.map_err(|e| self.of_ledger(pipeline, "take over", e))?;
        let committed = self.wire.batch_execute("COMMIT");
        committed.map_err(|e| commit_failure(self.at(), &e).into())
    }

    fn standing(&mut self, key: &CheckpointKey) -> Result<Standing, StatementsError> {
        if self.is_used {
            let settings = self.settings();
            let reset = self.wire.batch_execute(&settings);
            reset.map_err(|e| self.failed("reset the session", &e))?;
        }
        let read = self.wire.wait(tables::standing(self.client(), key));
        read.map_err(|e| self.of_ledger(&key.pipeline, "read the marks", e))
    }

    fn begin(&mut self, key: &CheckpointKey, _: &Watch) -> Result<Standing, StatementsError> {
        let settings = self.settings();
        let client = self.client();
        let (begun, same, standing) = self.wire.wait(async {
            // Sent together. What is reset is so whatever becomes of the transaction.
            let begun = join(client.batch_execute(&settings), client.batch_execute(BEGIN));
            join3(begun, transaction(client), tables::standing(client, key)).await
        });
        begun.0.and(begun.1).map_err(|e| self.failed("begin a transaction", &e))?;
        self.transaction = same.map_err(|e| self.failed("begin a transaction", &e))?;
        standing.map_err(|e| self.of_ledger(&key.pipeline, "read the marks", e))
    }

    fn run(&mut self, place: &Place<'_>, _: Way, watch: &Watch) -> Result<u64, StatementsError> {
        let at = self.at().to_owned();
        let statement = place.statement;
        if let Some(own) = own_parameter(statement) {
            return Err(StatementsError::Settings {
                what: format!(
                    "{place} has a parameter of its own, `{own}`, beside values: write it as a \
                     value, too. Nothing was done"
                ),
            });
        }
        self.is_used = true;
        let client = self.client();
        let ran = if statement.has_values() {
            self.watched(watch, async {
                (Self::run_values(client, statement).await, Ok(self.transaction.clone()))
            })
        } else {
            let sql = statement.sql(|_, _, _| {});
            self.watched(watch, async { Self::run_text(client, &sql).await })
        };
        let (done, same) = match ran {
            Ok(ran) => ran,
            Err(over) => {
                self.is_sound = false;
                return Err(no_more_time(over, place, &at));
            }
        };
        // What no server has said leaves the connection in a state that is not known.
        let is_answer = |error: &Error| error.as_db_error().is_some();
        self.is_sound = done.as_ref().err().is_none_or(is_answer);
        match (done, same) {
            (_, Ok(same)) if same != self.transaction => {
                Err(committed(place, &at, "See what was done, and take COMMIT out"))
            }
            (Err(error), _) => Err(self.trouble(place, &error)),
            (Ok(_), Err(error)) => Err(self.trouble(place, &error)),
            (Ok(rows), Ok(_)) => Ok(rows),
        }
    }

    fn lock(&mut self, key: &CheckpointKey) -> Result<Standing, StatementsError> {
        let client = self.client();
        let home = client.batch_execute(AT_HOME);
        let (home, standing) =
            self.wire.wait(async { join(home, tables::lock_standing(client, key)).await });
        home.map_err(|e| self.failed("lock the marks", &e))?;
        standing.map_err(|e| self.of_ledger(&key.pipeline, "lock the marks", e))
    }

    fn clear(
        &mut self,
        pipeline: &str,
        sink: &str,
        partitions: &[&str],
    ) -> Result<(), StatementsError> {
        let removed = self.wire.wait(async {
            self.client().batch_execute(AT_HOME).await?;
            tables::remove(self.client(), pipeline, sink, partitions).await
        });
        removed.map_err(|e| self.of_ledger(pipeline, "remove checkpoints", e))
    }

    fn mark(&mut self, standing: &Standing, new: &Checkpoint) -> Result<(), StatementsError> {
        let marked = self.wire.wait(tables::mark(self.client(), standing, new));
        marked.map_err(|e| self.of_ledger(&new.key.pipeline, "record the mark", e))
    }

    fn commit(&mut self) -> Result<(), StatementsError> {
        let doubt = |e: &std::io::Error| StatementsError::InDoubt {
            at: self.at().to_owned(),
            what: e.to_string(),
        };
        piton_core::fault::fail("commit.before").map_err(|e| doubt(&e))?;
        let committed = self.wire.batch_execute("COMMIT");
        committed.map_err(|e| commit_failure(self.at(), &e))?;
        piton_core::fault::fail("commit.after").map_err(|e| doubt(&e))
    }

    fn roll_back(&mut self) -> Option<Kept> {
        if !self.is_sound || self.wire.is_closed() {
            return None;
        }
        let ended = self.client().batch_execute("ROLLBACK");
        let ended = self.wire.wait(async { tokio::time::timeout(PATIENCE, ended).await });
        matches!(ended, Ok(Ok(()))).then_some("")
    }
}

/// A parameter that a statement with values has of itself, such as `$1`: it would be one of the
/// values. Text in quotes has none.
fn own_parameter(statement: &Statement) -> Option<String> {
    if !statement.has_values() {
        return None;
    }
    let mut is_quoted = false;
    for piece in &statement.pieces {
        let Piece::Text(text) = piece else { continue };
        let mut before = ' ';
        for (at, c) in text.char_indices() {
            is_quoted ^= c == '\'';
            let digits = || text[at + 1..].chars().take_while(char::is_ascii_digit).count();
            if c == '$' && !is_quoted && !before.is_alphanumeric() && digits() > 0 {
                return Some(text[at..=at + digits()].to_owned());
            }
            before = c;
        }
    }
    None
}

/// A value, as text.
#[derive(Debug)]
struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(
        &self,
        of: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        const NUMBERS: [Type; 6] =
            [Type::INT2, Type::INT4, Type::INT8, Type::FLOAT4, Type::FLOAT8, Type::NUMERIC];
        match self.0 {
            Value::Null => return Ok(IsNull::Yes),
            Value::Boolean(b) if NUMBERS.contains(of) => {
                out.extend_from_slice(if *b { b"1" } else { b"0" });
            }
            Value::Boolean(b) => out.extend_from_slice(b.to_string().as_bytes()),
            Value::Integer(i) => out.extend_from_slice(itoa::Buffer::new().format(*i).as_bytes()),
            Value::Number(text) | Value::Text(text) | Value::Json(text) => {
                out.extend_from_slice(text.as_bytes());
            }
            Value::Bytes(bytes) => {
                out.extend_from_slice(b"\\x");
                out.extend_from_slice(hex(bytes).as_bytes());
            }
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_of_ones_own_is_seen_where_it_is_one() {
        let own = |before: &str, after: &str| {
            let value = Piece::Value(Value::Integer(1));
            let (before, after) = (before.to_owned(), after.to_owned());
            own_parameter(&Statement {
                pieces: vec![Piece::Text(before), value, Piece::Text(after)],
            })
        };
        assert_eq!(own("SELECT $2, ", ""), Some("$2".into()));
        assert_eq!(own("SELECT '$2', ", " AND a = $13"), Some("$13".into()));
        assert_eq!(own("SELECT 'it''s $2', ", " || '$1'"), None);
        assert_eq!(own("SELECT a$1, ", " + $body$ $"), None);
        assert_eq!(own_parameter(&Statement::text("PREPARE p AS SELECT $1")), None);
    }
}
