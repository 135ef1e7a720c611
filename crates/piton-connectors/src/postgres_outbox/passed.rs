//! Deleting what every reader has passed.
//!
//! A pipeline knows what its own sinks have passed, and nothing of others that read the same
//! outbox. So each pipeline with `delete_passed` notes its position in a table beside the outbox,
//! and only what lies below the lowest of them is deleted, by whichever comes to it. A reader that
//! is not in the table is not waited for, but nothing is taken from it without a word: the table
//! also says up to where was deleted, and a position below that is a gap. Messages and mark go in
//! one transaction, so whoever asks for the mark after a page was read, finds a mark that covers
//! all that the page lacks.
//!
//! The message at the lowest position itself stays: by it a server that took over is seen to have
//! received everything.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use piton::postgres::outbox::Xid;
use tokio_postgres::{Error, Row, Statement, error::SqlState};

use super::{
    OutboxPosition,
    horizon::Notes,
    session::{Outbox, Session, Trouble},
    shape::Shape,
    statements::{Statements, quote},
};
use crate::{postgres::wire::Wire, source::SourceError};

/// How often a reader's position is noted.
const NOTE: Duration = Duration::from_secs(1);
/// Messages deleted in one transaction. It has an id of its own and so holds back every reader
/// while it is open: it has to be short.
const AT_ONCE: i64 = 1000;
/// Between two such transactions this many times their length passes.
const REST: u32 = 4;
/// How long the last note of a run may take.
const LAST_NOTE: Duration = Duration::from_secs(2);

/// The name under which the table says up to where was deleted.
const DELETED: &str = "";
const COLUMNS: &str = "outbox text NOT NULL, reader text NOT NULL, \
    transaction_id xid8 NOT NULL, position bigint NOT NULL, \
    updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (outbox, reader)";

/// Notes what a pipeline has passed, on a thread of its own, and deletes what all have.
pub(super) struct Passed {
    outbox: Arc<Outbox>,
    reader: String,
    notes: Arc<Notes>,
    worker: Mutex<Option<Worker>>,
}

struct Worker {
    positions: Sender<OutboxPosition>,
    thread: JoinHandle<()>,
}

impl Passed {
    pub(super) fn new(outbox: Arc<Outbox>, reader: &str) -> Self {
        Self { outbox, reader: reader.to_owned(), notes: Arc::default(), worker: Mutex::default() }
    }

    /// Notes that this reader is at a position, or below it: from now on nothing above is deleted.
    pub(super) fn register(
        &self,
        session: &mut Session,
        at: Option<&OutboxPosition>,
    ) -> Result<(), Trouble> {
        let at = at.cloned().unwrap_or(OutboxPosition::BEGINNING);
        let Session { client, shape, .. } = session;
        register(client, shape, &self.reader, &at).map_err(|error| self.outbox.trouble(&error))
    }

    /// This reader has passed a position.
    pub(super) fn advance(&self, position: OutboxPosition) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = worker.get_or_insert_with(|| {
            let (send, receive) = channel();
            let (outbox, reader) = (Arc::clone(&self.outbox), self.reader.clone());
            let notes = Arc::clone(&self.notes);
            let work = move || Deleter { outbox, reader, notes, session: None }.work(&receive);
            Worker { positions: send, thread: thread::spawn(work) }
        });
        // It only ends when the sender is gone.
        let _ = worker.positions.send(position);
    }

    /// Why nothing can be deleted, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.notes.get()
    }
}

impl Drop for Passed {
    /// Waits for the last position to be noted, unless the server is away.
    fn drop(&mut self) {
        let worker = self.worker.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Worker { positions, thread }) = worker else { return };
        drop(positions);
        let began = Instant::now();
        while !thread.is_finished() && began.elapsed() < LAST_NOTE {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Deleter {
    outbox: Arc<Outbox>,
    reader: String,
    notes: Arc<Notes>,
    session: Option<Session>,
}

impl Deleter {
    fn work(mut self, positions: &Receiver<OutboxPosition>) {
        let mut is_over = false;
        while !is_over {
            let Ok(mut last) = positions.recv() else { return };
            let until = Instant::now() + NOTE;
            loop {
                match positions.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(position) => last = position,
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => {
                        is_over = true;
                        break;
                    }
                }
            }
            let result = self.note(&last, is_over);
            self.notes.set(result.err().map(|trouble| {
                format!("what was passed cannot be deleted: {}", SourceError::from(trouble))
            }));
        }
    }

    /// Notes a position and deletes what that allows; with `is_last` not more than a little.
    fn note(&mut self, position: &OutboxPosition, is_last: bool) -> Result<(), Trouble> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&self.outbox)?,
        };
        loop {
            let began = Instant::now();
            let Session { client, shape, .. } = &mut session;
            let more = delete(client, shape, &self.outbox.statements, &self.reader, position);
            if !more.map_err(|error| self.outbox.trouble(&error))? || is_last {
                break;
            }
            thread::sleep(began.elapsed() * REST);
        }
        self.session = Some(session);
        Ok(())
    }
}

/// The table of readers, in the schema of the outbox.
fn readers(shape: &Shape) -> String {
    format!("{}.piton_outbox_readers", quote(&shape.schema))
}

/// A position as parameters: the transaction as text.
fn pair(position: &OutboxPosition) -> (String, i64) {
    (position.transaction_id.to_string(), position.position)
}

fn position_of(row: &Row) -> Result<OutboxPosition, Error> {
    let Xid(transaction) = row.try_get(0)?;
    Ok(OutboxPosition::new(transaction, row.try_get(1)?))
}

/// Whether the table of readers is there.
fn is_there(client: &Wire, readers: &str) -> Result<bool, Error> {
    client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&readers])?.try_get(0)
}

/// Asks up to where messages were deleted: one row, and no more than whether there is a table
/// while there is none.
#[derive(Default)]
pub(super) struct Mark(Option<Statement>);

impl Mark {
    /// All messages below it were deleted; `None` if this was never done.
    pub(super) fn look(
        &mut self,
        client: &Wire,
        shape: &Shape,
    ) -> Result<Option<OutboxPosition>, Error> {
        let statement = match self.0.take() {
            Some(statement) => statement,
            None if !is_there(client, &readers(shape))? => return Ok(None),
            None => client.prepare(&format!(
                "SELECT transaction_id, position FROM {} WHERE outbox = $1 AND reader = $2",
                readers(shape)
            ))?,
        };
        match client.wait(client.client.query_opt(&statement, &[&shape.name, &DELETED])) {
            Ok(found) => {
                self.0 = Some(statement);
                found.as_ref().map(position_of).transpose()
            }
            // Somebody has dropped it.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn register(client: &Wire, shape: &Shape, reader: &str, at: &OutboxPosition) -> Result<(), Error> {
    let readers = readers(shape);
    if !is_there(client, &readers)? {
        // Two at once can both come this far; for the one that is second it is then there.
        let created =
            client.batch_execute(&format!("CREATE TABLE IF NOT EXISTS {readers} ({COLUMNS})"));
        if let Err(error) = created
            && !is_there(client, &readers)?
        {
            return Err(error);
        }
    }
    let is_lower = "WHERE (excluded.transaction_id, excluded.position) \
        < (held.transaction_id, held.position)";
    client.in_transaction(|client| {
        lock(client, shape)?;
        set(client, shape, reader, at, is_lower)
    })
}

/// Lets one at a time change what is deleted of an outbox, until its transaction ends.
fn lock(client: &Wire, shape: &Shape) -> Result<(), Error> {
    let readers = readers(shape);
    let insert = format!(
        "INSERT INTO {readers} (outbox, reader, transaction_id, position) \
         VALUES ($1, $2, '0', $3) ON CONFLICT DO NOTHING"
    );
    // People write to this table, too: it is there even if somebody has removed it.
    client.execute(&insert, &[&shape.name, &DELETED, &i64::MIN])?;
    let statement = format!("SELECT FROM {readers} WHERE outbox = $1 AND reader = $2 FOR UPDATE");
    client.execute(&statement, &[&shape.name, &DELETED]).map(drop)
}

/// Notes a position under a name, over an older one where `only` is so.
fn set(
    client: &Wire,
    shape: &Shape,
    reader: &str,
    position: &OutboxPosition,
    only: &str,
) -> Result<(), Error> {
    let statement = format!(
        "INSERT INTO {} AS held (outbox, reader, transaction_id, position) \
         VALUES ($1, $2, $3::text::xid8, $4) ON CONFLICT (outbox, reader) DO UPDATE SET \
         (transaction_id, position, updated_at) \
         = (excluded.transaction_id, excluded.position, now()) {only}",
        readers(shape)
    );
    let (id, at) = pair(position);
    client.execute(&statement, &[&shape.name, &reader, &id, &at]).map(drop)
}

/// Notes a reader's position and deletes some of what lies below all of them. True if there is
/// more.
///
/// A reader whose row is gone gets it again, or others would be all that is waited for.
fn delete(
    client: &Wire,
    shape: &Shape,
    statements: &Statements,
    reader: &str,
    position: &OutboxPosition,
) -> Result<bool, Error> {
    client.in_transaction(|client| {
        lock(client, shape)?;
        set(client, shape, reader, position, "")?;
        let lowest = client.query_one(
            &format!(
                "SELECT transaction_id, position FROM {} WHERE outbox = $1 AND reader <> $2 \
                 ORDER BY transaction_id, position LIMIT 1",
                readers(shape)
            ),
            &[&shape.name, &DELETED],
        )?;
        let lowest = position_of(&lowest)?;
        let (id, at) = pair(&lowest);
        let next = client.query_opt(&statements.below(), &[&id, &at, &AT_ONCE])?;
        let bound = next.as_ref().map(position_of).transpose()?.unwrap_or(lowest);
        let (id, at) = pair(&bound);
        if client.execute(&statements.delete(), &[&id, &at])? > 0 {
            let is_higher = "WHERE (excluded.transaction_id, excluded.position) \
                > (held.transaction_id, held.position)";
            set(client, shape, DELETED, &bound, is_higher)?;
        }
        Ok(next.is_some())
    })
}
