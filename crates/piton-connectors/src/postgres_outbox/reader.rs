//! Reading on, whatever becomes of the server: waits, looks again, connects again.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use piton::postgres::outbox::Pulse;
use piton_core::fault;

use super::{
    OutboxPosition,
    horizon::{Notes, Watch},
    page::Taken,
    session::{Outbox, Paged, Session, Trouble},
};
use crate::{
    batch::Batch,
    source::{Read, Reader, SourceError},
};

/// How long one read may wait.
const SLICE: Duration = Duration::from_millis(100);
/// The pauses between attempts to connect grow from the one to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The connection, in each of its states.
enum Link {
    Up(Box<Session>),
    /// An attempt is under way on a thread of its own: connecting may take long, and a request to
    /// stop must be heard meanwhile.
    Coming(Receiver<Result<Session, Trouble>>),
    /// The next attempt is made then.
    Down(Instant),
}

/// Reads messages in order.
pub(super) struct OutboxReader {
    outbox: Arc<Outbox>,
    notes: Arc<Notes>,
    link: Link,
    /// Attempts to connect since the connection was lost.
    attempts: u32,
    at: OutboxPosition,
    /// Up to where messages were deleted when none was left to begin with.
    missing: Option<OutboxPosition>,
    /// What was read on a connection that cannot be used again, and where it ends: not given on
    /// before it is known that nothing was deleted in front of it.
    held: Option<(Read, OutboxPosition)>,
    /// The position that a new pipeline begins with, to be kept before anything is read.
    begins: bool,
    /// Whether the sinks are to hear that nothing more is there now.
    is_drained: bool,
    /// How many messages to ask for: fewer where they are large.
    rows_at_once: usize,
    pulse: Pulse,
    watch: Watch,
}

impl OutboxReader {
    /// Reads on after a position. With `begins`, that position itself is given first, as a batch
    /// without records, so that a crash does not lose where a new pipeline began.
    pub(super) fn new(
        outbox: Arc<Outbox>,
        notes: Arc<Notes>,
        session: Session,
        at: OutboxPosition,
        begins: bool,
    ) -> Self {
        let now = Instant::now();
        Self {
            rows_at_once: outbox.settings.batch.get(),
            outbox,
            notes,
            link: Link::Up(Box::new(session)),
            attempts: 0,
            at,
            missing: None,
            held: None,
            begins,
            is_drained: false,
            pulse: Pulse::new(now),
            watch: Watch::new(now),
        }
    }

    /// The position after which every message is to come; `None` before the first look of a
    /// reader that begins with what is left.
    fn since(&self) -> Option<&OutboxPosition> {
        if self.at == OutboxPosition::BEGINNING { self.missing.as_ref() } else { Some(&self.at) }
    }

    /// What was held, once there is a connection that has looked in front of it.
    fn proved(&mut self) -> Option<Read> {
        if !matches!(self.link, Link::Up(_)) {
            return None;
        }
        let (read, end) = self.held.take()?;
        self.at = end;
        Some(read)
    }

    /// Refuses what was read if messages in front of it were deleted.
    fn prove(&mut self, session: &mut Session) -> Result<(), Trouble> {
        match self.since() {
            Some(since) => session.has_all_after(since)?,
            None => self.missing = session.deleted()?.or(Some(OutboxPosition::BEGINNING)),
        }
        Ok(())
    }

    /// Looks for messages if it is time to, else waits for a slice of that. Also says whether the
    /// connection can be used again.
    fn look(&mut self, session: &mut Session, limit: usize) -> Result<(Read, bool), Trouble> {
        let pause = self.pulse.pause(Instant::now());
        if !pause.is_zero() {
            if session.wait(pause.min(SLICE))? {
                self.pulse.heard(Instant::now());
            } else if pause > SLICE {
                return Ok((Read::Idle, true));
            }
        }
        let asked = limit.min(self.rows_at_once).max(1);
        let paged = session.page(&self.at, asked)?;
        if !paged.is_spent {
            self.prove(session)?;
        }
        let now = Instant::now();
        let Some(end) = paged.end.clone() else {
            self.pulse.missed(now);
            self.look_for_hidden(session, now)?;
            return Ok((Read::Idle, true));
        };
        self.size_up(&paged, asked);
        let is_full = paged.is_cut || paged.rows >= asked;
        self.is_drained = !is_full;
        self.pulse.found(now, is_full);
        self.watch.found(now);
        self.notes.set(None);
        fault::point("read");
        let read = match paged.taken {
            Taken::Batch(batch) => Read::Batch(batch),
            Taken::Bad(bad) => Read::Bad(bad),
            Taken::Nothing => Read::Idle,
        };
        if paged.is_spent {
            self.held = Some((read, end));
            return Ok((Read::Idle, false));
        }
        self.at = end;
        Ok((read, true))
    }

    /// Asks for fewer messages where a page was too large to be taken whole, and for more again
    /// as long as pages are taken whole.
    fn size_up(&mut self, paged: &Paged, asked: usize) {
        self.rows_at_once = if paged.is_cut {
            (paged.rows / 2).max(1)
        } else if paged.rows == asked {
            (self.rows_at_once + self.rows_at_once / 4 + 1).min(self.outbox.settings.batch.get())
        } else {
            self.rows_at_once
        };
    }

    fn look_for_hidden(&mut self, session: &mut Session, now: Instant) -> Result<(), Trouble> {
        let statements = &self.outbox.statements;
        let seen = self.watch.missed(now, &session.client, statements, &self.at);
        if let Some((is_hidden, what)) = seen.map_err(|error| self.outbox.trouble(&error))? {
            self.pulse.hides(is_hidden);
            self.notes.set(what);
        }
        Ok(())
    }

    /// Connects again, without waiting longer than a slice.
    fn mend(&mut self) -> Result<(), SourceError> {
        match &self.link {
            Link::Up(_) => {}
            Link::Down(until) => {
                let left = until.saturating_duration_since(Instant::now());
                thread::sleep(left.min(SLICE));
                if left <= SLICE {
                    self.link = Link::Coming(self.attempt());
                }
            }
            Link::Coming(coming) => match coming.recv_timeout(SLICE) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Ok(session)) => self.comes_up(session),
                Ok(Err(trouble)) => self.goes_down(trouble)?,
                Err(RecvTimeoutError::Disconnected) => {
                    self.goes_down(Trouble::Away("the attempt to connect was given up".into()))?;
                }
            },
        }
        Ok(())
    }

    fn attempt(&self) -> Receiver<Result<Session, Trouble>> {
        let (outbox, at) = (Arc::clone(&self.outbox), self.since().cloned());
        let (send, receive) = sync_channel(1);
        thread::spawn(move || {
            let session = Session::open(&outbox).and_then(|mut session| {
                session.guard(at.as_ref())?;
                Ok(session)
            });
            // Nobody waits for it when the reader is gone.
            let _ = send.send(session);
        });
        receive
    }

    fn comes_up(&mut self, session: Session) {
        self.link = Link::Up(Box::new(session));
        self.attempts = 0;
        self.notes.set(None);
        let now = Instant::now();
        (self.pulse, self.watch) = (Pulse::new(now), Watch::new(now));
    }

    fn goes_down(&mut self, trouble: Trouble) -> Result<(), SourceError> {
        let what = match trouble {
            Trouble::Away(what) => what,
            lasting @ Trouble::Lasting(_) => return Err(lasting.into()),
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << self.attempts.min(10)).min(LONGEST_PAUSE);
        self.attempts = self.attempts.saturating_add(1);
        self.link = Link::Down(Instant::now() + pause);
        self.notes.set(Some(format!("waiting for the server: {what}")));
        Ok(())
    }
}

impl Reader for OutboxReader {
    fn read(&mut self, limit: usize) -> Result<Read, SourceError> {
        if std::mem::take(&mut self.begins) {
            let begin = Batch::empty(self.outbox.partition().into(), self.at.stored());
            return Ok(Read::Batch(begin));
        }
        if std::mem::take(&mut self.is_drained) {
            return Ok(Read::Idle);
        }
        if !matches!(self.link, Link::Up(_)) {
            self.mend()?;
        }
        if let Some(read) = self.proved() {
            return Ok(read);
        }
        // Down at once, unless the connection proves to be usable.
        let mut session = match std::mem::replace(&mut self.link, Link::Down(Instant::now())) {
            Link::Up(session) => session,
            other => {
                self.link = other;
                return Ok(Read::Idle);
            }
        };
        match self.look(&mut session, limit) {
            Ok((read, true)) => {
                self.link = Link::Up(session);
                Ok(read)
            }
            Ok((read, false)) => {
                self.link = Link::Coming(self.attempt());
                self.mend()?;
                Ok(self.proved().unwrap_or(read))
            }
            Err(trouble) => {
                self.goes_down(trouble)?;
                Ok(Read::Idle)
            }
        }
    }
}

impl Drop for OutboxReader {
    fn drop(&mut self) {
        self.notes.set(None);
    }
}
