//! The cursor for async programs. It needs no particular runtime: the store completes its replies
//! from a thread of its own.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use piton_core::{
    Checkpoint, CheckpointKey, Epoch, Position, RunEnd, Save, Saved, StateEntry, Store,
    StoredPosition, interval::Interval, position::order_of,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    clock::Moment,
    error::CursorError,
    options::Options,
    pace::Pace,
    session::Session,
    state::{Changes, parse},
};

/// The partition of a job that has only one, and the sink of a program that is its own.
const OWN: &str = "main";

/// Where the checkpoint is, in the words that `piton status` and `piton reset` understand.
const SINKS: &str =
    r#"[{"name":"main","kind":"library","at":"the program itself","replay":"sends_again"}]"#;

/// A job's place in its data, claimed by this process.
///
/// After opening, begin behind [`position`](Self::position), and say of each record when it is done
/// and durable ([`passed`](Self::passed)). Dropping a cursor, as by an early return or a panic, is
/// a crash: what was not saved is not stored, and the claim is free at once.
///
/// A call that was cancelled (its future dropped) may have saved or not; the next one finds out.
#[must_use = "a cursor that is dropped gives its claim up"]
pub struct Cursor<P: Position> {
    session: Session,
    key: CheckpointKey,
    keep: bool,
    /// What the store has.
    saved: Place,
    /// What was sent to the store, until its answer is known.
    sent: Option<Place>,
    records_before: u64,
    position: Option<P>,
    /// Whether the position was passed since the last save, and with how many records.
    has_moved: bool,
    passed: u64,
    changes: Changes,
    pace: Pace,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Place {
    version: u64,
    position: Option<StoredPosition>,
    records: u64,
}

impl Place {
    fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            version: checkpoint.version,
            position: checkpoint.position.clone(),
            records: checkpoint.records,
        }
    }
}

impl<P: Position> Cursor<P> {
    /// Claims a job with the default [`Options`].
    ///
    /// # Errors
    /// [`CursorError::Held`] while another living process has it; [`CursorError::Position`] if
    /// another kind of position is stored; [`CursorError::Mismatch`] if the name belongs to
    /// something else; what the store fails with.
    pub async fn open(store: &Arc<dyn Store>, job: &str) -> Result<Self, CursorError> {
        Self::open_with(store, job, Options::default()).await
    }

    /// Claims a job.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(
        store: &Arc<dyn Store>,
        job: &str,
        options: Options,
    ) -> Result<Self, CursorError> {
        let session = Session::claim(store, job, &options, Epoch(0)).await?;
        let claim = session.claim.clone();
        let opened = Self::read(session, options).await;
        if opened.is_err() {
            // Nothing was done under it: nobody died.
            let _ = store.release(&claim).await;
        }
        opened
    }

    async fn read(mut session: Session, options: Options) -> Result<Self, CursorError> {
        let known = session.register_cursor(SINKS).await?;
        session.applied(&known.orders).await?;
        let key = CheckpointKey::new(session.job(), OWN, OWN);
        let found = known.checkpoints.into_iter().find(|checkpoint| checkpoint.key == key);
        let saved = found.as_ref().map(Place::of).unwrap_or_default();
        let position = saved.position.as_ref().map(StoredPosition::read).transpose();
        let position = position
            .map_err(|error| CursorError::Position { job: session.job().to_owned(), error })?;
        let past = session.begin(found.as_ref()).await?;
        let interval = Interval::new(options.checkpoint, past.uptime, past.crashes);
        let pace = Pace::new(interval, options.lease);
        Ok(Self {
            session,
            key,
            keep: options.keep,
            records_before: saved.records,
            saved,
            sent: None,
            position,
            has_moved: false,
            passed: 0,
            changes: Changes::default(),
            pace,
        })
    }

    /// The last position passed: after opening, the one that is stored. `None`: begin at the start.
    pub fn position(&self) -> Option<&P> {
        self.position.as_ref()
    }

    /// Records passed over all runs, as far as they are saved.
    pub fn records(&self) -> u64 {
        self.saved.records
    }

    /// The epoch of this cursor's claim: grows with every owner of the job. A system that keeps it
    /// can refuse what an owner that was replaced still sends.
    pub fn epoch(&self) -> u64 {
        self.session.claim.epoch.0
    }

    /// Notes that everything up to `position` is done and durable. Saves when the interval is over,
    /// not each time; shows others that this owner lives.
    ///
    /// # Errors
    /// [`CursorError::Fenced`] when a newer owner has taken over; what [`save`](Self::save) fails
    /// with.
    #[inline]
    pub async fn passed(&mut self, position: P) -> Result<(), CursorError> {
        self.passed_many(position, 1).await
    }

    /// As [`passed`](Self::passed), for `records` that lie between the last position and this one.
    ///
    /// # Errors
    /// As [`passed`](Self::passed).
    #[inline]
    pub async fn passed_many(&mut self, position: P, records: u64) -> Result<(), CursorError> {
        if self.note(position, records) { self.look_up().await } else { Ok(()) }
    }

    /// Notes a position, and answers whether it is time to look up.
    #[inline]
    pub(crate) fn note(&mut self, position: P, records: u64) -> bool {
        self.position = Some(position);
        self.has_moved = true;
        self.passed += records;
        self.pace.is_time(self.passed)
    }

    /// Does what is due: a save, a renewal.
    pub(crate) async fn look_up(&mut self) -> Result<(), CursorError> {
        if self.pace.renewal_is_due() {
            self.renew().await?;
        }
        if self.pace.save_is_due(self.passed) || self.changes.is_large() {
            self.save().await?;
        }
        self.pace.set_alarm();
        Ok(())
    }

    /// Saves position and changed state now, in one transaction; does nothing if there is nothing
    /// new. When it returns, they are durable.
    ///
    /// # Errors
    /// [`CursorError::Fenced`], [`CursorError::Backwards`], [`CursorError::Moved`]: nothing was
    /// saved. What the store failed with: it may be tried again, and the next save finds out
    /// whether this one took effect.
    pub async fn save(&mut self) -> Result<(), CursorError> {
        if self.sent.is_some() {
            self.find_out().await?;
        }
        if !self.has_moved && self.changes.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let save = self.next()?;
        let sent = Place {
            version: self.saved.version + 1,
            position: save.position.clone(),
            records: save.records,
        };
        self.sent = Some(sent.clone());
        let store = Arc::clone(&self.session.store);
        let saved = store.save(&self.session.claim, vec![save], Timestamp::now()).await?;
        self.sent = None;
        match saved.into_iter().next() {
            Some(Saved::Stored { version }) => self.stored(Place { version, ..sent }),
            Some(saved) => return Err(self.session.refused(saved)),
            None => return Err(self.session.refused(Saved::Ignored)),
        }
        self.has_moved = false;
        self.changes.clear();
        self.pace.saved(began.elapsed());
        Ok(())
    }

    /// A save of which the answer was not heard: what the store has now tells.
    async fn find_out(&mut self) -> Result<(), CursorError> {
        let found = self.session.store.load(self.session.job()).await?;
        let found = found.iter().find(|checkpoint| checkpoint.key == self.key);
        let mine = found.is_some_and(|found| found.epoch == self.session.claim.epoch);
        let sent = self.sent.take();
        // The state that went with it is written again: it is the same, or newer.
        if let Some(sent) = sent.filter(|sent| mine && found.map(Place::of).as_ref() == Some(sent))
        {
            self.stored(sent);
        }
        Ok(())
    }

    fn stored(&mut self, place: Place) {
        self.passed -= place.records - self.saved.records;
        self.saved = place;
    }

    fn next(&self) -> Result<Save, CursorError> {
        let position = match &self.position {
            Some(position) if self.has_moved => Some(self.at_rest(position)?),
            _ => self.saved.position.clone(),
        };
        Ok(Save {
            key: self.key.clone(),
            expected_version: self.saved.version,
            expected: self.saved.position.clone(),
            position,
            order: order_of::<P>,
            records: self.saved.records + self.passed,
            schema_version: 0,
            sink_state: None,
            state: self.changes.to_save(),
        })
    }

    fn at_rest(&self, position: &P) -> Result<StoredPosition, CursorError> {
        StoredPosition::of(position)
            .map_err(|error| CursorError::Position { job: self.session.job().to_owned(), error })
    }

    /// Shows others that this owner lives. [`passed`](Self::passed) does it by the way; call it
    /// while a record takes longer than the lease.
    ///
    /// # Errors
    /// [`CursorError::Fenced`] when a newer owner has taken over.
    pub async fn renew(&mut self) -> Result<(), CursorError> {
        let asked = Moment::now();
        if let Some(epoch) = self.session.renew().await? {
            return Err(self.session.fenced(epoch));
        }
        self.pace.renewed(asked);
        Ok(())
    }

    /// Saves, then removes the checkpoint and its state, unless [`Options::keep`] is set. Runs and
    /// history stay in the store.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn finish(mut self) -> Result<(), CursorError> {
        self.save().await?;
        if !self.keep {
            let saved = self.session.store.complete(&self.session.claim, None).await?;
            if let Saved::Fenced { epoch } = saved {
                return Err(self.session.fenced(epoch));
            }
        }
        self.end(RunEnd::Finished).await
    }

    /// Saves and gives the claim up, to go on another time.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn stop(mut self) -> Result<(), CursorError> {
        self.save().await?;
        self.end(RunEnd::Stopped).await
    }

    async fn end(self, end: RunEnd) -> Result<(), CursorError> {
        let records = self.saved.records - self.records_before;
        self.session.end(end, records).await
    }

    /// The program's own state: the single value, `None` if there is none yet.
    ///
    /// # Errors
    /// [`CursorError::State`] if it is not a `T`.
    pub async fn state<T: DeserializeOwned>(&self) -> Result<Option<T>, CursorError> {
        self.get("").await
    }

    /// Replaces the single value. It is stored with the next save, together with the position that
    /// was passed by then: change the state first, then pass the record.
    ///
    /// # Errors
    /// [`CursorError::State`] if it cannot be written as JSON.
    pub fn set_state<T: Serialize>(&mut self, value: &T) -> Result<(), CursorError> {
        self.put("", value)
    }

    /// One entry of keyed state, with changes that are not saved yet. The empty key is the single
    /// value.
    ///
    /// # Errors
    /// [`CursorError::State`] if it is not a `T`.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, CursorError> {
        let job = self.session.job();
        if let Some(changed) = self.changes.get(key) {
            return changed.read(job, key);
        }
        let entries = self.session.store.state(&self.key, Some(key)).await?;
        let json = entries.into_iter().next().and_then(|entry| entry.json);
        json.map(|json| parse(job, key, &json)).transpose()
    }

    /// Every entry of the state in the order of keys, with changes that are not saved yet. For
    /// state that fits into memory.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn entries<T: DeserializeOwned>(&self) -> Result<Vec<(String, T)>, CursorError> {
        let stored: Vec<StateEntry> = self.session.store.state(&self.key, None).await?;
        self.changes.over(self.session.job(), stored)
    }

    /// Changes one entry of keyed state. Only changed entries are written, with the next save.
    ///
    /// # Errors
    /// [`CursorError::State`] if it cannot be written as JSON.
    pub fn put<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), CursorError> {
        self.changes.put(self.session.job(), key, value)?;
        self.hurry_if_large();
        Ok(())
    }

    /// Removes one entry of keyed state, with the next save.
    pub fn remove(&mut self, key: &str) {
        self.changes.remove(key);
        self.hurry_if_large();
    }

    /// Memory is bounded: much changed state is saved with the next record.
    fn hurry_if_large(&mut self) {
        if self.changes.is_large() {
            self.pace.hurry();
        }
    }
}

impl<P: Position> std::fmt::Debug for Cursor<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor")
            .field("claim", &self.session.claim)
            .field("saved", &self.saved)
            .field("passed", &self.passed)
            .finish_non_exhaustive()
    }
}
