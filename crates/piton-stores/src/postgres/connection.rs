//! A connection to PostgreSQL, used from one thread that waits.
//!
//! The client is an asynchronous one, because only such a one can be told to stop waiting: a server
//! that hangs keeps its side of a connection alive for ever. Its small runtime turns only while
//! something is waited for, and when the connection is looked at between commands.

use std::{collections::HashMap, future::Future, time::Duration};

use piton_core::checksum::{self, Checksum};
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_postgres::{
    Client, Statement,
    types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

#[cfg(unix)]
use super::held::Held;
use super::{address::Address, errors, schema};
use crate::{
    Mode,
    rules::ClaimRow,
    sql::{
        Batch, COMING_BACK, Cell, Change, Connection, Lock, Result, Row, Scope, Server, Setback,
        Sql, Transaction, Trouble, Value, rows_of, values,
    },
};

/// How long a server may take over one statement, before it is taken to hang.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a lock of another session is waited for.
const BUSY: Duration = Duration::from_secs(5);

/// How long a process that stands still keeps others out, before it has a claim.
const LEASE: Duration = Duration::from_secs(30);

/// A PostgreSQL server, and what connects to it.
pub(super) struct Postgres {
    address: Address,
    /// How many connections there have been.
    connections: u64,
    /// The store that was opened: another one in its place is another one.
    store: Option<String>,
}

impl Postgres {
    pub(super) fn new(address: Address) -> Self {
        Self { address, connections: 0, store: None }
    }

    /// Connects to the store for the first time, and makes it if the mode says so.
    pub(super) fn open(&mut self, mode: Mode) -> Result<Link> {
        let mut link = self.link()?;
        let store = schema::open(&mut link, mode, self.address.shown())?;
        self.store = Some(store);
        link.set_up()?;
        Ok(link)
    }

    /// Connects to the server, whatever there is.
    fn link(&mut self) -> Result<Link> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Trouble::io("no connection could be prepared", e))?;
        let connected = runtime.block_on(self.address.connect(|_| {}));
        let (client, driver) = connected.map_err(|error| error.setback())?;
        let driver = runtime.spawn(async move {
            let ended = driver.await;
            ended.err().map(|error| errors::of(&error, false))
        });
        self.connections += 1;
        Ok(Link {
            runtime,
            client,
            driver: Some(driver),
            statements: HashMap::new(),
            locks: Vec::new(),
            lease: LEASE,
            number: self.connections,
        })
    }
}

impl Server for Postgres {
    type Connection = Link;

    fn at(&self) -> &str {
        self.address.shown()
    }

    fn connect(&mut self) -> Result<Link> {
        let mut link = self.link()?;
        let store = schema::open(&mut link, Mode::Existing, self.address.shown())?;
        if self.store.as_ref().is_some_and(|opened| *opened != store) {
            let what = "it was replaced by another store while it was in use".to_owned();
            return Err(Setback::Refused(what).into());
        }
        link.set_up()?;
        Ok(link)
    }

    #[cfg(unix)]
    fn hand_down(&self, scope: &Scope) -> Result<Box<dyn crate::sql::Handed>> {
        let held = Held::open(&self.address, scope)?;
        Ok(Box::new(held))
    }
}

/// What comes in time.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}

pub(super) fn silent(limit: Duration) -> Trouble {
    Setback::Lost(format!("the server did not answer within {} s", limit.as_secs())).into()
}

/// How a statement is to be put to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    Plain,
    Numbered,
    IfAbsent,
}

/// One connection.
pub(super) struct Link {
    runtime: Runtime,
    client: Client,
    /// Ends when the connection does, with what was said last.
    driver: Option<JoinHandle<Option<Setback>>>,
    statements: HashMap<Form, HashMap<String, Statement>>,
    locks: Vec<Scope>,
    /// The shortest lease of the claims that it keeps.
    lease: Duration,
    number: u64,
}

impl Drop for Link {
    /// Closes the connection, whatever is under way.
    fn drop(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.abort();
            let _ = self.runtime.block_on(driver);
        }
    }
}

impl Link {
    /// Settings of the session, once the schema is there.
    fn set_up(&mut self) -> Result<()> {
        let busy = BUSY.as_millis();
        let lease = self.lease.as_millis();
        self.run(&format!(
            "SET search_path = {}, pg_temp;
            SET lock_timeout = {busy};
            SET idle_in_transaction_session_timeout = {lease};
            SET statement_timeout = 0;
            SET default_transaction_isolation = 'read committed';
            SET tcp_keepalives_idle = 10;
            SET tcp_keepalives_interval = 5;
            SET tcp_keepalives_count = 3;
            SELECT set_config('synchronous_commit', 'on', false)
                WHERE current_setting('synchronous_commit') = 'off'",
            schema::NAME
        ))
    }

    /// Runs statements without parameters.
    pub(super) fn run(&mut self, sql: &str) -> Result<()> {
        let ran = self.runtime.block_on(within(ANSWER, self.client.batch_execute(sql)));
        self.answered(ran)
    }

    /// What a statement came to.
    fn answered<T>(&mut self, answer: Option<Result<T, tokio_postgres::Error>>) -> Result<T> {
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => {
                let setback = errors::of(&error, !self.client.is_closed());
                Err(self.last_words(setback).into())
            }
            None => Err(silent(ANSWER)),
        }
    }

    /// Why the connection ended is known to what drives it: whoever waited only hears that it did.
    fn last_words(&mut self, setback: Setback) -> Setback {
        if !matches!(setback, Setback::Lost(_)) {
            return setback;
        }
        let driver = self.driver.as_mut();
        let ended = driver.and_then(|driver| self.runtime.block_on(within(MOMENT, driver)));
        let Some(ended) = ended else { return setback };
        self.driver = None;
        match ended {
            Ok(Some(Setback::Lost(why))) => Setback::Lost(why),
            _ => setback,
        }
    }

    fn prepared(&mut self, form: Form, sql: &str) -> Result<Statement> {
        let known = self.statements.get(&form).and_then(|known| known.get(sql));
        if let Some(statement) = known {
            return Ok(statement.clone());
        }
        let text = numbered(sql, form);
        let prepared = self.runtime.block_on(within(ANSWER, self.client.prepare(&text)));
        let statement = self.answered(prepared)?;
        let known = self.statements.entry(form).or_default();
        known.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn ask(&mut self, form: Form, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        refuse_nul(values)?;
        let statement = self.prepared(form, sql)?;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        let found = self.client.query(&statement, &values);
        let found = self.runtime.block_on(within(ANSWER, found));
        self.answered(found)?.iter().map(read).collect()
    }

    fn tell(&mut self, form: Form, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        refuse_nul(values)?;
        let statement = self.prepared(form, sql)?;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        let done = self.client.execute(&statement, &values);
        let done = self.runtime.block_on(within(ANSWER, done));
        self.answered(done)
    }

    /// What a statement says in its only row.
    fn says(&mut self, sql: &str, values: &[Value<'_>]) -> Result<bool> {
        let mut found = self.ask(Form::Plain, sql, values)?;
        found.first_mut().map_or(Ok(false), |row| row.integer(0).map(|said| said != 0))
    }
}

/// How long a connection is looked at.
const MOMENT: Duration = Duration::from_millis(1);

/// Parameters are numbered in PostgreSQL.
fn numbered(sql: &str, form: Form) -> String {
    let mut text = String::with_capacity(sql.len() + 64);
    for (n, part) in sql.split('?').enumerate() {
        if n > 0 {
            text.push_str(&format!("${n}"));
        }
        text.push_str(part);
    }
    match form {
        Form::Plain => {}
        Form::Numbered => text.push_str(" RETURNING id"),
        Form::IfAbsent => text.push_str(" ON CONFLICT DO NOTHING"),
    }
    text
}

/// PostgreSQL keeps every character but one.
fn refuse_nul(values: &[Value<'_>]) -> Result<()> {
    let nul = |value: &&Value<'_>| matches!(value, Value::Text(text) if text.contains('\0'));
    match values.iter().find(nul) {
        Some(Value::Text(text)) => {
            let text: String = text.chars().take(60).collect();
            let what = format!("{text:?} has the character U+0000, which PostgreSQL cannot keep");
            Err(Setback::Refused(what).into())
        }
        _ => Ok(()),
    }
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Self::Integer(number) if *ty == Type::BOOL => (*number != 0).to_sql(ty, out),
            Self::Integer(number) => number.to_sql(&Type::INT8, out),
            Self::Text(text) => text.to_sql(&Type::TEXT, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT8, Type::INT4, Type::BOOL, Type::TEXT, Type::NAME, Type::JSON].contains(ty)
    }

    to_sql_checked!();
}

fn read(row: &tokio_postgres::Row) -> Result<Row> {
    let cell = |n: usize| -> Result<Cell, tokio_postgres::Error> {
        let ty = row.columns()[n].type_();
        Ok(match *ty {
            Type::INT8 => row.try_get::<_, Option<i64>>(n)?.map_or(Cell::Null, Cell::Integer),
            Type::INT4 => {
                let number: Option<i32> = row.try_get(n)?;
                number.map_or(Cell::Null, |number| Cell::Integer(number.into()))
            }
            Type::BOOL => {
                let flag: Option<bool> = row.try_get(n)?;
                flag.map_or(Cell::Null, |flag| Cell::Integer(flag.into()))
            }
            Type::VOID => Cell::Null,
            _ => row.try_get::<_, Option<String>>(n)?.map_or(Cell::Null, Cell::Text),
        })
    };
    let cells: Result<Vec<Cell>, _> = (0..row.len()).map(cell).collect();
    cells.map(Row).map_err(|error| Trouble::damage(format!("a column cannot be read: {error}")))
}

impl Sql for Link {
    fn query(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        self.ask(Form::Plain, sql, values)
    }

    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        self.tell(Form::Plain, sql, values)
    }
}

/// The number by which the server knows an epoch's lock. Its own functions know it, too.
pub(super) fn number_of(scope: &Scope) -> i64 {
    let Scope { pipeline, partition, epoch } = scope;
    let sum = Checksum::build_as(checksum::Form::Sql)
        .text("piton claim")
        .text(pipeline)
        .text(partition)
        .number(epoch.0);
    sum.finish().0
}

/// The same as `pg_locks` has it.
pub(super) fn halves(scope: &Scope) -> (i64, i64) {
    let key = number_of(scope);
    (key >> 32, key & 0xFFFF_FFFF)
}

impl Transaction for Link {
    fn insert(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        let mut found = self.ask(Form::Numbered, sql, values)?;
        found.first_mut().map_or(Ok(0), |row| row.number(0))
    }

    fn insert_if_absent(&mut self, sql: &str, values: &[Value<'_>]) -> Result<bool> {
        Ok(self.tell(Form::IfAbsent, sql, values)? > 0)
    }

    /// By a look at the locks, which takes none. A claim of the server's own functions has a lease
    /// instead. A claim from before the server was started lives a
    /// while longer: its owner's lock went with the old server.
    fn is_alive(&mut self, claim: &ClaimRow) -> Result<bool> {
        let (high, low) = halves(&Scope::of_row(claim));
        let sql = r#"SELECT EXISTS (SELECT FROM pg_locks
                WHERE locktype = 'advisory' AND granted AND objsubid = 1
                AND classid::bigint = ? AND objid::bigint = ?
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
            OR EXISTS (SELECT FROM claims
                WHERE pipeline = ? AND "partition" = ? AND heard_at < pg_postmaster_start_time()
                AND extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::bigint < ?
                AND lease_until IS NULL)
            OR EXISTS (SELECT FROM claims WHERE pipeline = ? AND "partition" = ?
                AND lease_until > clock_timestamp())"#;
        let young = COMING_BACK.as_secs();
        let (pipeline, partition) = (&claim.pipeline, &claim.partition);
        self.says(sql, values![high, low, pipeline, partition, young, pipeline, partition])
    }

    fn take_lock(&mut self, scope: &Scope, lease: Duration) -> Result<Option<Lock>> {
        if !self.locks.contains(scope) {
            if !self.lock(scope)? {
                let what = "the lock of a claim is taken by another session".to_owned();
                return Err(Setback::Unusable(what).into());
            }
            self.locks.push(scope.clone());
        }
        self.lease = self.lease.min(lease);
        let sql = "UPDATE anchors SET epoch = ? WHERE pipeline = ?";
        self.execute(sql, values![scope.epoch, &scope.pipeline])?;
        Ok(None)
    }

    fn put_all(&mut self, pipeline: &str, changes: &[Change], with_history: bool) -> Result<bool> {
        let rows = rows_of(changes.iter().filter_map(|change| change.new.as_ref()))?;
        let sql = "SELECT put_checkpoints(?, ?, ?)";
        self.query(sql, values![pipeline, &rows, with_history])?;
        Ok(true)
    }

    fn is_far(&self) -> bool {
        true
    }

    fn connection(&self) -> u64 {
        self.number
    }
}

impl Connection for Link {
    fn begin_read(&mut self) -> Result<()> {
        self.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    }

    /// A process that stops within a transaction keeps others out for its lease at most.
    fn begin_write(&mut self, pipelines: &[&str]) -> Result<()> {
        let lease = self.lease.as_millis().max(1);
        self.run(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
            SET LOCAL idle_in_transaction_session_timeout = {lease}"
        ))?;
        for pipeline in pipelines {
            self.query("SELECT lock_pipeline(?)", values![*pipeline])?;
        }
        Ok(())
    }

    fn begin_renewal(&mut self, pipelines: &[&str]) -> Result<()> {
        self.begin_write(&[])?;
        for pipeline in pipelines {
            self.query("SELECT lock_claims(?)", values![*pipeline])?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.run("COMMIT")
    }

    fn rollback(&mut self) -> Result<()> {
        self.run("ROLLBACK")
    }

    fn save(&mut self, batch: &Batch<'_>) -> Result<bool> {
        let Batch { claim, rows, state, with_history } = batch;
        let epoch = if piton_core::fault::known_bad("ignore_epoch") {
            i64::MAX
        } else {
            claim.epoch.0 as i64
        };
        let sql = "SELECT save(?, ?, ?, ?, ?, ?)";
        let (pipeline, partition) = (&claim.pipeline, &claim.partition);
        self.says(sql, values![pipeline, partition, epoch, rows, state, *with_history])
    }

    fn is_open(&mut self) -> bool {
        let Some(driver) = &mut self.driver else { return false };
        // What the server has said meanwhile, such as that it goes, is heard here: the first turn
        // lets the runtime look at the network, the second lets the driver read.
        self.runtime.block_on(async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        });
        !driver.is_finished() && !self.client.is_closed()
    }

    fn lock(&mut self, scope: &Scope) -> Result<bool> {
        // Shared with the sessions that commands of the same owner have inherited. An epoch has one
        // owner: the transaction that grants it sees to that.
        self.says("SELECT pg_try_advisory_lock_shared(?)", values![number_of(scope)])
    }

    fn unlock(&mut self, scope: &Scope) -> Result<()> {
        self.says("SELECT pg_advisory_unlock_shared(?)", values![number_of(scope)]).map(|_| ())
    }

    fn locks(&mut self) -> &mut Vec<Scope> {
        &mut self.locks
    }
}
