//! Deleting what every reader has passed.
//!
//! A pipeline knows what its own sinks have passed, and nothing of others that read the same
//! outbox. So each pipeline with `delete_passed` notes its position in a table beside the outbox,
//! and only what lies below the lowest of them is deleted, by whichever comes to it. A reader that
//! is not in the table is not waited for, but nothing is taken from it without a word: the table
//! also says up to where was deleted, and a position below that is a gap.
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

use tokio_postgres::{Error, Row};

use super::{
    horizon::Notes,
    position::OutboxPosition,
    session::{Outbox, Session, Trouble},
    shape::Shape,
    statements::{Statements, quote},
    values::Xid,
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

fn position_of(row: &Row) -> OutboxPosition {
    OutboxPosition::at(row.get::<_, Xid>(0).0, row.get(1))
}

/// Up to where messages were deleted, as far as this was ever done.
pub(super) fn deleted(client: &Wire, shape: &Shape) -> Result<Option<OutboxPosition>, Error> {
    let readers = readers(shape);
    let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&readers])?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    let statement =
        format!("SELECT transaction_id, position FROM {readers} WHERE outbox = $1 AND reader = $2");
    let found = client.query_opt(&statement, &[&shape.name, &DELETED])?;
    Ok(found.as_ref().map(position_of))
}

fn register(client: &Wire, shape: &Shape, reader: &str, at: &OutboxPosition) -> Result<(), Error> {
    let readers = readers(shape);
    let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&readers])?;
    if !there.get::<_, bool>(0) {
        // Two at once can both come this far; for the one that is second it is then there.
        let created =
            client.batch_execute(&format!("CREATE TABLE IF NOT EXISTS {readers} ({COLUMNS})"));
        if let Err(error) = created
            && client.query_one("SELECT to_regclass($1) IS NULL", &[&readers])?.get(0)
        {
            return Err(error);
        }
    }
    let insert = format!(
        "INSERT INTO {readers} (outbox, reader, transaction_id, position) \
         VALUES ($1, $2, $3::text::xid8, $4)"
    );
    let beginning = (&"0", &i64::MIN);
    client.in_transaction(|client| {
        client.execute(
            &format!("{insert} ON CONFLICT DO NOTHING"),
            &[&shape.name, &DELETED, beginning.0, beginning.1],
        )?;
        lock(client, shape)?;
        let (id, position) = pair(at);
        client.execute(
            &format!(
                "{insert} ON CONFLICT (outbox, reader) DO UPDATE SET \
                 (transaction_id, position) = (excluded.transaction_id, excluded.position) \
                 WHERE (excluded.transaction_id, excluded.position) \
                 < (piton_outbox_readers.transaction_id, piton_outbox_readers.position)"
            ),
            &[&shape.name, &reader, &id, &position],
        )
    })?;
    Ok(())
}

/// Lets one at a time change what is deleted of an outbox, until its transaction ends.
fn lock(client: &Wire, shape: &Shape) -> Result<(), Error> {
    let statement =
        format!("SELECT FROM {} WHERE outbox = $1 AND reader = $2 FOR UPDATE", readers(shape));
    client.execute(&statement, &[&shape.name, &DELETED]).map(drop)
}

/// Notes a reader's position and deletes some of what lies below all of them. True if there is
/// more.
fn delete(
    client: &Wire,
    shape: &Shape,
    statements: &Statements,
    reader: &str,
    position: &OutboxPosition,
) -> Result<bool, Error> {
    let readers = readers(shape);
    client.in_transaction(|client| {
        lock(client, shape)?;
        let set = format!(
            "UPDATE {readers} SET transaction_id = $3::text::xid8, position = $4, updated_at = now() \
             WHERE outbox = $1 AND reader = $2"
        );
        let (id, at) = pair(position);
        client.execute(&set, &[&shape.name, &reader, &id, &at])?;
        let lowest = client.query_one(
            &format!(
                "SELECT transaction_id, position FROM {readers} WHERE outbox = $1 AND reader <> $2 \
                 ORDER BY transaction_id, position LIMIT 1"
            ),
            &[&shape.name, &DELETED],
        )?;
        let lowest = position_of(&lowest);
        let (id, at) = pair(&lowest);
        let next = client.query_opt(&statements.below(), &[&id, &at, &AT_ONCE])?;
        let bound = next.as_ref().map_or(lowest, position_of);
        let (id, at) = pair(&bound);
        if client.execute(&statements.delete(), &[&id, &at])? > 0 {
            client.execute(&set, &[&shape.name, &DELETED, &id, &at])?;
        }
        Ok(next.is_some())
    })
}
