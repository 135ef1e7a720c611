//! A connection to MySQL or MariaDB.

use std::time::{Duration, Instant};

use mysql::{Conn, Error, Params, prelude::Queryable as _};
use piton_core::checksum::Checksum;

#[cfg(unix)]
use super::held::Held;
use super::{address::Address, errors, schema, statements};
use crate::{
    Mode,
    rules::ClaimRow,
    sql::{
        Batch, COMING_BACK, Cell, Change, Connection, Lock, Result, Row, Scope, Server, Setback,
        Sql, Transaction, Trouble, Value, rows_of, values,
    },
};

/// How long a lock of another session is waited for.
const BUSY: Duration = Duration::from_secs(5);

/// How long a session that stands still is kept, before it has a claim.
const LEASE: Duration = Duration::from_secs(30);

/// A connection that answered so recently is taken to stand.
const FRESH: Duration = Duration::from_millis(400);
const KNOWN: Duration = Duration::from_secs(1);

/// A MySQL or MariaDB server.
pub(super) struct MySql {
    address: Address,
    at: String,
    /// How many connections there have been.
    connections: u64,
    /// The store that was opened: another one in its place is another one.
    store: Option<String>,
}

impl MySql {
    pub(super) fn new(address: Address) -> Self {
        let at = address.shown();
        Self { address, at, connections: 0, store: None }
    }

    /// Connects to the store for the first time, and makes it if the mode says so.
    pub(super) fn open(&mut self, mode: Mode) -> Result<Link> {
        let mut link = self.link()?;
        link.store = schema::open(&mut link, mode, &self.address)?;
        self.store = Some(link.store.clone());
        link.heard = Instant::now();
        Ok(link)
    }

    /// Connects to the server, whatever there is.
    fn link(&mut self) -> Result<Link> {
        let conn = self.address.connect(|options| options);
        self.connections += 1;
        let mut link = Link {
            conn: conn.map_err(|error| errors::of(&error))?,
            locks: Vec::new(),
            lease: LEASE,
            store: String::new(),
            number: self.connections,
            heard: Instant::now(),
        };
        link.set_up()?;
        Ok(link)
    }
}

impl Server for MySql {
    type Connection = Link;

    fn at(&self) -> &str {
        &self.at
    }

    fn connect(&mut self) -> Result<Link> {
        let mut link = self.link()?;
        link.store = schema::open(&mut link, Mode::Existing, &self.address)?;
        if self.store.as_ref().is_some_and(|opened| *opened != link.store) {
            let what = "it was replaced by another store while it was in use".to_owned();
            return Err(Setback::Refused(what).into());
        }
        Ok(link)
    }

    #[cfg(unix)]
    fn hand_down(&self, scope: &Scope) -> Result<Box<dyn crate::sql::Handed>> {
        let held = Held::open(&self.address, self.store.as_deref().unwrap_or_default(), scope)?;
        Ok(Box::new(held))
    }
}

/// One connection.
pub(super) struct Link {
    conn: Conn,
    locks: Vec<Scope>,
    /// The shortest lease of the claims that it keeps.
    lease: Duration,
    /// What identifies the store.
    store: String,
    number: u64,
    /// When the server answered last.
    heard: Instant,
}

impl Link {
    /// Settings of the session. One that is silent for a lease is ended by the server, so that a
    /// process that stands still keeps nobody out for longer.
    fn set_up(&mut self) -> Result<()> {
        let (busy, lease) = (BUSY.as_secs(), self.lease.as_secs().max(1));
        self.run(&format!(
            "SET NAMES utf8mb4;
            SET sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_ENGINE_SUBSTITUTION';
            SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
            SET autocommit = 1, time_zone = '+00:00', innodb_lock_wait_timeout = {busy},
                lock_wait_timeout = {busy}, wait_timeout = {lease}, @piton_store = 1"
        ))
    }

    /// Runs statements without parameters; each of them must succeed.
    pub(super) fn run(&mut self, sql: &str) -> Result<()> {
        let ran = statements::run(&mut self.conn, sql);
        self.answered(ran)
    }

    fn answered<T>(&mut self, answer: Result<T, Error>) -> Result<T> {
        self.heard = Instant::now();
        answer.map_err(|error| errors::of(&error).into())
    }

    fn tell(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        let done = self.conn.exec_drop(sql, params(values));
        self.answered(done)?;
        Ok(self.conn.affected_rows())
    }

    /// What a statement says in its only row.
    pub(super) fn says(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Option<i64>> {
        match self.query(sql, values)?.first_mut() {
            Some(row) => row.maybe_integer(0),
            None => Ok(None),
        }
    }

    fn name_of(&self, scope: &Scope) -> String {
        name_of(CLAIM, &self.store, scope)
    }

    /// Asks the server whether it is there, unless it has just answered.
    fn ask_if_older(&mut self, age: Duration) -> bool {
        if self.heard.elapsed() < age {
            return true;
        }
        self.heard = Instant::now();
        self.conn.ping().is_ok()
    }
}

/// Whose lock of an epoch it is: the store's own, or that of a session that commands have inherited.
/// Nobody can take a named lock beside somebody else.
pub(super) const CLAIM: &str = "claim";
pub(super) const COMMAND: &str = "command";

/// The name by which the server knows an epoch's lock: 64 characters at most, and one name for all
/// databases of a server.
pub(super) fn name_of(whose: &str, store: &str, scope: &Scope) -> String {
    let Scope { pipeline, partition, epoch } = scope;
    let hash = Checksum::build().text(store).text(pipeline).text(partition).finish();
    format!("piton {whose} {:016x} {epoch}", hash.0)
}

fn params(values: &[Value<'_>]) -> Params {
    let value = |value: &Value<'_>| match value {
        Value::Null => mysql::Value::NULL,
        Value::Integer(number) => mysql::Value::Int(*number),
        Value::Text(text) => mysql::Value::Bytes(text.as_bytes().to_vec()),
    };
    match values {
        [] => Params::Empty,
        values => Params::Positional(values.iter().map(value).collect()),
    }
}

fn read(row: mysql::Row) -> Result<Row> {
    let cell = |value: mysql::Value| match value {
        mysql::Value::NULL => Ok(Cell::Null),
        mysql::Value::Int(number) => Ok(Cell::Integer(number)),
        mysql::Value::UInt(number) => Ok(Cell::Integer(number as i64)),
        mysql::Value::Bytes(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Cell::Text(text)),
            Err(error) => Err(Trouble::damage(format!("a text is not UTF-8: {error}"))),
        },
        _ => Err(Trouble::damage("a column is neither text nor a whole number")),
    };
    row.unwrap().into_iter().map(cell).collect::<Result<_>>().map(Row)
}

impl Sql for Link {
    fn query(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let found: Result<Vec<mysql::Row>, Error> = self.conn.exec(sql, params(values));
        self.answered(found)?.into_iter().map(read).collect()
    }

    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        self.tell(sql, values)
    }
}

impl Transaction for Link {
    fn insert(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        self.tell(sql, values)?;
        Ok(self.conn.last_insert_id())
    }

    /// A row that is there already ends the statement and not the transaction.
    fn insert_if_absent(&mut self, sql: &str, values: &[Value<'_>]) -> Result<bool> {
        match self.tell(sql, values) {
            Ok(_) => Ok(true),
            Err(Trouble::Server(Setback::Clash(_))) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// By a look at the lock, which does not take it. A claim from before the server was started
    /// lives a while longer: its owner's lock went with the old server.
    fn is_alive(&mut self, claim: &ClaimRow) -> Result<bool> {
        let scope = Scope::of_row(claim);
        let (own, command) = (self.name_of(&scope), name_of(COMMAND, &self.store, &scope));
        let sql = "SELECT coalesce(IS_USED_LOCK(?), IS_USED_LOCK(?))";
        if self.says(sql, values![&own, &command])?.is_some() {
            return Ok(true);
        }
        let uptime = self.query("SHOW GLOBAL STATUS LIKE 'Uptime'", values![])?.pop();
        let uptime = uptime.map_or(Ok(String::new()), |mut row| row.text(1))?;
        let uptime: i64 = uptime.parse().unwrap_or(i64::MAX);
        if uptime >= COMING_BACK.as_secs() as i64 {
            return Ok(false);
        }
        // Its start is known to the second; a claim of that very second is taken for older.
        let sql = r#"SELECT heard_at < CURRENT_TIMESTAMP - INTERVAL ? SECOND + INTERVAL 1 SECOND
            FROM claims WHERE pipeline = ? AND "partition" = ?"#;
        let is_older = self.says(sql, values![uptime, &claim.pipeline, &claim.partition])?;
        Ok(is_older == Some(1))
    }

    fn take_lock(&mut self, scope: &Scope, lease: Duration) -> Result<Option<Lock>> {
        if !self.locks.contains(scope) {
            if !self.lock(scope)? {
                let what = "the lock of a claim is taken by another session".to_owned();
                return Err(Setback::Unusable(what).into());
            }
            self.locks.push(scope.clone());
        }
        if lease < self.lease {
            self.lease = lease;
            self.tell("SET wait_timeout = ?", values![lease.as_secs().max(1)])?;
        }
        Ok(None)
    }

    fn put_all(&mut self, pipeline: &str, changes: &[Change], with_history: bool) -> Result<bool> {
        let rows = rows_of(changes.iter().filter_map(|change| change.new.as_ref()))?;
        self.tell("CALL put_checkpoints(?, ?, ?)", values![pipeline, &rows, with_history])?;
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
        self.run(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
            START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        )
    }

    fn begin_write(&mut self, pipelines: &[&str]) -> Result<()> {
        self.run("START TRANSACTION READ WRITE")?;
        for pipeline in pipelines {
            self.tell("CALL lock_pipeline(?)", values![*pipeline])?;
        }
        Ok(())
    }

    /// Whatever a server says of a commit but a deadlock, it may have been done.
    fn commit(&mut self) -> Result<()> {
        self.run("COMMIT").map_err(|trouble| match trouble {
            Trouble::Server(Setback::Unusable(what) | Setback::Busy(what)) => {
                Setback::Lost(what).into()
            }
            trouble => trouble,
        })
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
        let sql = "CALL save(?, ?, ?, ?, ?, ?)";
        let (pipeline, partition) = (&claim.pipeline, &claim.partition);
        let values = values![pipeline, partition, epoch, rows, state, *with_history];
        let stored = self.says(sql, values)?;
        Ok(stored == Some(1))
    }

    fn is_open(&mut self) -> bool {
        self.ask_if_older(KNOWN)
    }

    fn look(&mut self) -> bool {
        self.ask_if_older(FRESH)
    }

    fn lock(&mut self, scope: &Scope) -> Result<bool> {
        let name = self.name_of(scope);
        Ok(self.says("SELECT GET_LOCK(?, 0)", values![&name])? == Some(1))
    }

    fn unlock(&mut self, scope: &Scope) -> Result<()> {
        let name = self.name_of(scope);
        self.says("SELECT RELEASE_LOCK(?)", values![&name]).map(|_| ())
    }

    fn locks(&mut self) -> &mut Vec<Scope> {
        &mut self.locks
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use piton_testkit::service::{self, MariaDb, MySql as Real, Server as Running};

    use super::*;

    /// The driver hears the first answer only, unless it is asked for the others.
    fn every_statement_of_several_is_heard(server: Option<&Running>) {
        let Some(server) = server else { return };
        let url = server.database().unwrap();
        let address = Address::parse(&url, &|_| None).unwrap();
        let mut link = MySql::new(address).link().unwrap();
        for sql in ["SET @a = 1; SET nothing = 2", "DO 1; DO 2; SELECT * FROM nowhere; DO 3"] {
            let heard = link.run(sql);
            assert!(heard.is_err(), "{sql}: {heard:?}");
            link.run("SELECT 1; SELECT 2; DO 3").unwrap();
        }
        assert_eq!(link.says("SELECT 7", values![]).unwrap(), Some(7), "no answer is left over");
    }

    #[test]
    fn every_statement_of_several_is_heard_on_mysql() {
        every_statement_of_several_is_heard(service::needed(Real::shared()));
    }

    #[test]
    fn every_statement_of_several_is_heard_on_mariadb() {
        every_statement_of_several_is_heard(service::needed(MariaDb::shared()));
    }
}
