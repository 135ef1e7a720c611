//! Reading rows: to the end, in one state of the database, or again and again.
//!
//! MySQL cannot tell who may still add a row. A key is chosen before its row can be seen: a
//! transaction takes 7, another takes 8 and commits first. So a poll passes a row only when it has
//! been there for as long as the configuration says that one before it may still come (`settle`).
//! How long it was there is counted from when this reader saw it, by a clock that never jumps.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    thread,
    time::{Duration, Instant},
};

use piton_core::fault;

use super::{
    cursor::{Cursor, Failure, Sought, Taken},
    position::{KeyPart, MySqlPosition},
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

/// How long a server may be away in the middle of a read.
const PATIENCE: Duration = Duration::from_mins(10);

/// How many moments are remembered at which the last key was looked at.
const MOMENTS: u32 = 16;

/// Reads a table or a query.
pub(super) struct MySqlReader {
    sought: Sought,
    cursor: Option<Cursor>,
    /// Of the last row that was given away.
    at: MySqlPosition,
    piece: usize,
    polls: Option<Polls>,
    /// Since when the server is away, and how often it was asked.
    away: Option<(Instant, u32)>,
}

/// Looking for new rows again and again.
struct Polls {
    every: Duration,
    settle: Duration,
    /// The last keys that were seen, and when, oldest first.
    seen: VecDeque<(Instant, Vec<KeyPart>)>,
    /// When the last key was looked at.
    looked: Option<Instant>,
    /// Up to where rows may be passed.
    settled: Option<Vec<KeyPart>>,
}

impl Polls {
    /// Looks at the last key, if it is time to, and finds up to where rows may be passed.
    fn look(&mut self, cursor: &mut Cursor) -> Result<(), Failure> {
        let pause = self.every.max(self.settle / MOMENTS);
        if self.looked.is_none_or(|looked| looked.elapsed() >= pause) {
            let last = cursor.reach()?;
            // Counted from when the answer is there: what is in it was there before.
            let now = Instant::now();
            self.looked = Some(now);
            if let Some(key) = last.filter(|key| self.seen.back().is_none_or(|(_, k)| k != key)) {
                self.seen.push_back((now, key));
            }
        }
        while self.seen.front().is_some_and(|(since, _)| since.elapsed() >= self.settle) {
            self.settled = self.seen.pop_front().map(|(_, key)| key);
        }
        Ok(())
    }
}

impl MySqlReader {
    /// A reader of what was just opened.
    pub(super) fn of(
        sought: Sought,
        cursor: Cursor,
        settings: &SqlSettings,
    ) -> Result<Self, SourceError> {
        let polls = settings.poll.zip(settings.settle).map(|(every, settle)| Polls {
            every: every.duration(),
            settle: settle.duration(),
            seen: VecDeque::new(),
            looked: None,
            settled: None,
        });
        let mut reader = Self {
            at: cursor.at.clone(),
            sought,
            cursor: None,
            piece: settings.batch.map_or(PIECE, NonZeroUsize::get),
            polls,
            away: None,
        };
        reader.take_up(cursor).map_err(|failure| error(&reader.sought, failure))?;
        Ok(reader)
    }

    /// Begins to read with a connection.
    fn take_up(&mut self, mut cursor: Cursor) -> Result<(), Failure> {
        match &mut self.polls {
            None => cursor.hold_still()?,
            // It may be another server that is there now.
            Some(polls) => {
                (polls.looked, polls.settled) = (None, None);
                polls.seen.clear();
            }
        }
        cursor.refuse_null()?;
        (self.cursor, self.away) = (Some(cursor), None);
        Ok(())
    }

    /// One step of reading; `None` when there is nothing now.
    fn step(&mut self, limit: usize) -> Result<Option<Read>, Failure> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        if !cursor.has_page() {
            let upto = match &mut self.polls {
                None => Vec::new(),
                Some(polls) => {
                    polls.look(cursor)?;
                    let Some(key) = polls.settled.clone() else {
                        thread::sleep(SLICE.min(polls.every));
                        return Ok(None);
                    };
                    key
                }
            };
            cursor.ask(&upto, self.piece)?;
        }
        match cursor.take(limit)? {
            Taken::Batch(batch) => Ok(Some(Read::Batch(batch))),
            Taken::Bad(bad) => Ok(Some(Read::Bad(bad))),
            Taken::Over(came) if came >= self.piece => self.step(limit),
            // A piece that is not full is the last one.
            Taken::Over(_) => match &mut self.polls {
                None => Ok(Some(Read::Finished)),
                Some(polls) => {
                    polls.settled = None;
                    Ok(None)
                }
            },
        }
    }

    /// Waits for a server that is away, and connects again.
    fn come_back(&mut self) -> Result<(), SourceError> {
        let (since, tries) = self.away.get_or_insert((Instant::now(), 0));
        *tries += 1;
        thread::sleep(SLICE.min(Duration::from_millis(10 << (*tries).min(4))));
        let since = *since;
        let opened = Cursor::open(&self.sought, self.at.clone());
        match opened.and_then(|cursor| self.take_up(cursor)) {
            Ok(()) => Ok(()),
            Err(Failure::Away(_)) if since.elapsed() < PATIENCE => Ok(()),
            Err(failure) => Err(error(&self.sought, failure)),
        }
    }
}

impl Reader for MySqlReader {
    fn read(&mut self, limit: usize) -> Result<Read, SourceError> {
        if self.cursor.is_none() {
            self.come_back()?;
        }
        let read = match self.step(limit.max(1)) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(Read::Idle),
            Err(Failure::Away(_)) => {
                self.cursor = None;
                return Ok(Read::Idle);
            }
            Err(failure) => return Err(error(&self.sought, failure)),
        };
        fault::point("read");
        if let (Read::Batch(_) | Read::Bad(_), Some(cursor)) = (&read, &self.cursor) {
            self.at = cursor.at.clone();
        }
        Ok(read)
    }
}
