//! Reading rows: one part of the key after the other, or several in turn.
//!
//! Each part has a connection of its own, on which the server works ahead as far as the network
//! holds; a batch is taken from one after the other.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use piton_core::fault;

use super::{
    cursor::{Cursor, Failure, Sought, Taken},
    horizon::{Running, keeps_numbers},
    position::{KeyPart, PostgresPosition},
    source::error,
};
use crate::{
    source::{Read, Reader, SourceError},
    sqlite::settings::SqlSettings,
};

/// Rows in one piece, where `batch` says nothing.
const PIECE: usize = 20_000;

/// How long one read may wait.
const SLICE: Duration = Duration::from_millis(100);

/// How long running transactions are left alone before they are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How often it is said for whom rows wait.
const TELL: Duration = Duration::from_secs(1);

/// How long a server may be away in the middle of a read.
const PATIENCE: Duration = Duration::from_mins(10);

/// Reads parts of a table, or a query.
pub(super) struct PostgresReader {
    parts: Vec<Part>,
    /// The part that is read next.
    turn: usize,
    piece: usize,
    poll: Option<Duration>,
    /// When to look for new rows again.
    asleep_until: Option<Instant>,
    /// The state of the database that a bounded read sees, as the server names it.
    snapshot: Option<String>,
    trouble: Trouble,
}

/// A part, and how far it was read.
struct Part {
    sought: Sought,
    cursor: Option<Cursor>,
    /// Of the last row that was given away.
    at: PostgresPosition,
    waiting: Option<Waiting>,
    /// Since when the server is away, and how often it was asked.
    away: Option<(Instant, u32)>,
    /// Whether it was read to its end.
    is_over: bool,
}

/// A key that was seen, and who may still add a row before it.
struct Waiting {
    key: Vec<KeyPart>,
    running: Running,
    since: Instant,
    /// When it was last said who they are.
    told: Option<Instant>,
}

/// What keeps a reader from going on, for people; shared with its source.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, what: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

impl PostgresReader {
    /// A reader of parts that were just opened.
    pub(super) fn of(
        opened: Vec<(Sought, Cursor)>,
        settings: &SqlSettings,
        trouble: Trouble,
    ) -> Result<Self, SourceError> {
        let mut reader = Self {
            trouble,
            parts: Vec::new(),
            turn: 0,
            piece: settings.batch.map_or(PIECE, NonZeroUsize::get),
            poll: settings.poll.map(Duration::from),
            asleep_until: None,
            snapshot: None,
        };
        for (sought, cursor) in opened {
            let at = cursor.at.clone();
            let mut part =
                Part { sought, cursor: None, at, waiting: None, away: None, is_over: false };
            let taken = part.take_up(cursor, reader.poll.is_some(), &mut reader.snapshot);
            taken.map_err(|failure| error(&part.sought, failure))?;
            reader.parts.push(part);
        }
        Ok(reader)
    }

    /// One step of reading the part whose turn it is; `None` when there is nothing now.
    fn step(&mut self, limit: usize) -> Result<Option<Read>, Failure> {
        let part = &mut self.parts[self.turn];
        let Some(cursor) = &mut part.cursor else { return Ok(None) };
        if !cursor.has_page() {
            let is_asked = match self.poll {
                None => cursor.ask(&[], Some(self.piece)).map(|()| true),
                Some(poll) => {
                    let look = look(cursor, &mut part.waiting, self.piece, &self.trouble);
                    if matches!(look, Ok(Look::Nothing)) {
                        self.asleep_until = Some(Instant::now() + poll);
                    }
                    look.map(|look| look == Look::Asked)
                }
            };
            if !is_asked? {
                return Ok(None);
            }
        }
        match cursor.take(limit)? {
            Taken::Batch(batch) => Ok(Some(Read::Batch(batch))),
            Taken::Bad(bad) => Ok(Some(Read::Bad(bad))),
            // A piece that is not full is the last one of a bounded read.
            Taken::Over(came) if self.poll.is_none() && came < self.piece => {
                Ok(Some(Read::Finished))
            }
            Taken::Over(_) => self.step(limit),
        }
    }

    /// Finds the next part that is not over; false if all are.
    fn find_turn(&mut self) -> bool {
        let count = self.parts.len();
        let next = (self.turn..self.turn + count).map(|turn| turn % count.max(1));
        let next = next.clone().find(|turn| !self.parts[*turn].is_over);
        self.turn = next.unwrap_or_default();
        next.is_some()
    }

    /// Reads the part whose turn it is, or waits for its server.
    fn read_part(&mut self, limit: usize) -> Result<Read, SourceError> {
        let part = &mut self.parts[self.turn];
        if part.cursor.is_none() {
            let away = part.come_back(self.poll.is_some(), &mut self.snapshot)?;
            self.trouble.set(away);
        }
        let stepped = self.step(limit);
        let part = &mut self.parts[self.turn];
        let read = match stepped {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(Read::Idle),
            Err(Failure::Away(_)) => {
                part.cursor = None;
                return Ok(Read::Idle);
            }
            Err(failure) => return Err(error(&part.sought, failure)),
        };
        fault::point("read");
        if let (Read::Batch(_) | Read::Bad(_), Some(cursor)) = (&read, &part.cursor) {
            part.at = cursor.at.clone();
        }
        Ok(read)
    }
}

impl Part {
    /// Begins to read with a connection.
    fn take_up(
        &mut self,
        cursor: Cursor,
        polls: bool,
        snapshot: &mut Option<String>,
    ) -> Result<(), Failure> {
        if polls {
            refuse_replica(&cursor)?;
            self.refuse_kept_numbers(&cursor)?;
        } else {
            cursor.hold_still(snapshot)?;
        }
        cursor.refuse_null()?;
        self.cursor = Some(cursor);
        (self.away, self.waiting) = (None, None);
        Ok(())
    }

    /// A session that keeps numbers for later adds rows before those that were read.
    fn refuse_kept_numbers(&self, cursor: &Cursor) -> Result<(), Failure> {
        let Some(name) = &self.sought.name else { return Ok(()) };
        for column in cursor.key_names() {
            let kept = keeps_numbers(&cursor.wire.client, name, column);
            if let Some((sequence, count)) = cursor.wire.wait(kept)? {
                return Err(Failure::Unfit(format!(
                    "each session takes {count} numbers at once from {sequence} for '{column}', so \
                     one may add a row before others that were read: ALTER SEQUENCE {sequence} \
                     CACHE 1, and let the sessions that write connect anew; or read without `poll`"
                )));
            }
        }
        Ok(())
    }

    /// Waits for a server that is away, and connects again. Says what is wrong if it still is.
    fn come_back(
        &mut self,
        polls: bool,
        snapshot: &mut Option<String>,
    ) -> Result<Option<String>, SourceError> {
        let (since, tries) = self.away.get_or_insert((Instant::now(), 0));
        *tries += 1;
        thread::sleep(SLICE.min(Duration::from_millis(10 << (*tries).min(4))));
        let since = *since;
        match Cursor::open(&self.sought, self.at.clone()) {
            Ok(cursor) => match self.take_up(cursor, polls, snapshot) {
                Err(Failure::Away(what)) => Ok(Some(what)),
                Ok(()) => Ok(None),
                Err(failure) => Err(error(&self.sought, failure)),
            },
            Err(Failure::Away(what)) if since.elapsed() < PATIENCE => Ok(Some(what)),
            Err(failure) => Err(error(&self.sought, failure)),
        }
    }
}

/// What a poll found.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Rows are on their way.
    Asked,
    /// There are rows, and somebody may still add one among them.
    Waiting,
    /// There are no new rows.
    Nothing,
}

/// Looks for new rows, and asks for them once nobody can add one among them.
fn look(
    cursor: &mut Cursor,
    waiting: &mut Option<Waiting>,
    piece: usize,
    trouble: &Trouble,
) -> Result<Look, Failure> {
    if waiting.is_none() {
        let Some(key) = cursor.reach(piece)? else { return Ok(Look::Nothing) };
        // After the key was seen, not before: who begins later takes a higher one.
        let running = cursor.wire.wait(Running::now(&cursor.wire.client))?;
        *waiting = Some(Waiting { key, running, since: Instant::now(), told: None });
    }
    let Some(waits) = waiting else { return Ok(Look::Nothing) };
    let client = &cursor.wire.client;
    if cursor.wire.wait(waits.running.are_there(client))? {
        let last = waits.told.unwrap_or(waits.since);
        if last.elapsed() >= TELL {
            waits.told = Some(Instant::now());
            trouble.set(cursor.wire.wait(waits.running.holder(client))?);
        }
        thread::sleep(LOOK_AGAIN);
        return Ok(Look::Waiting);
    }
    let key = std::mem::take(&mut waits.key);
    *waiting = None;
    trouble.set(None);
    cursor.ask(&key, None)?;
    Ok(Look::Asked)
}

/// A replica does not know which transactions are running where its rows come from.
fn refuse_replica(cursor: &Cursor) -> Result<(), Failure> {
    let sql = "SELECT pg_is_in_recovery()";
    let row = cursor.wire.wait(cursor.wire.client.query_typed_one(sql, &[]))?;
    if row.try_get(0)? {
        return Err(Failure::Unfit(
            "it is a replica, which cannot tell who may still add a row before those that were \
             seen: `poll` the primary, or read without `poll`"
                .into(),
        ));
    }
    Ok(())
}

impl Reader for PostgresReader {
    fn read(&mut self, limit: usize) -> Result<Read, SourceError> {
        if let Some(until) = self.asleep_until {
            let left = until.saturating_duration_since(Instant::now());
            thread::sleep(left.min(SLICE));
            if left > SLICE {
                return Ok(Read::Idle);
            }
            self.asleep_until = None;
        }
        while self.find_turn() {
            let read = self.read_part(limit.max(1))?;
            if !matches!(read, Read::Finished) {
                self.turn += 1;
                return Ok(read);
            }
            // Its transaction stays open: the others' snapshot may be its own.
            self.parts[self.turn].is_over = true;
        }
        Ok(Read::Finished)
    }
}
