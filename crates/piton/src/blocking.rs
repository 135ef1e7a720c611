//! The cursor for ordinary programs: no runtime needed.

use std::sync::Arc;

use piton_core::{Position, Store};
use pollster::block_on;
use serde::{Serialize, de::DeserializeOwned};

use crate::{asynchronous, error::CursorError, options::Options};

/// A job's place in its data, claimed by this process.
///
/// After opening, begin behind [`position`](Self::position), and say of each record when it is done
/// and durable ([`passed`](Self::passed)). Dropping a cursor, as by an early return or a panic, is
/// a crash: what was not saved is not stored, and the claim is free at once.
#[derive(Debug)]
#[must_use = "a cursor that is dropped gives its claim up"]
pub struct Cursor<P: Position>(asynchronous::Cursor<P>);

impl<P: Position> Cursor<P> {
    /// Claims a job with the default [`Options`].
    ///
    /// # Errors
    /// [`CursorError::Held`] while another living process has it; [`CursorError::Position`] if
    /// another kind of position is stored; [`CursorError::Mismatch`] if the name belongs to
    /// something else; what the store fails with.
    pub fn open(store: &Arc<dyn Store>, job: &str) -> Result<Self, CursorError> {
        Self::open_with(store, job, Options::default())
    }

    /// Claims a job.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        store: &Arc<dyn Store>,
        job: &str,
        options: Options,
    ) -> Result<Self, CursorError> {
        block_on(asynchronous::Cursor::open_with(store, job, options)).map(Self)
    }

    /// The last position passed: after opening, the one that is stored. `None`: begin at the start.
    pub fn position(&self) -> Option<&P> {
        self.0.position()
    }

    /// Records passed over all runs, as far as they are saved.
    pub fn records(&self) -> u64 {
        self.0.records()
    }

    /// The epoch of this cursor's claim: grows with every owner of the job. A system that keeps it
    /// can refuse what an owner that was replaced still sends.
    pub fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// Notes that everything up to `position` is done and durable. Saves when the interval is over,
    /// not each time; shows others that this owner lives.
    ///
    /// # Errors
    /// [`CursorError::Fenced`] when a newer owner has taken over; what [`save`](Self::save) fails
    /// with.
    #[inline]
    pub fn passed(&mut self, position: P) -> Result<(), CursorError> {
        self.passed_many(position, 1)
    }

    /// As [`passed`](Self::passed), for `records` that lie between the last position and this one.
    ///
    /// # Errors
    /// As [`passed`](Self::passed).
    #[inline]
    pub fn passed_many(&mut self, position: P, records: u64) -> Result<(), CursorError> {
        if self.0.note(position, records) { block_on(self.0.look_up()) } else { Ok(()) }
    }

    /// Saves position and changed state now, in one transaction; does nothing if there is nothing
    /// new. When it returns, they are durable.
    ///
    /// # Errors
    /// [`CursorError::Fenced`], [`CursorError::Backwards`], [`CursorError::Moved`]: nothing was
    /// saved. What the store failed with: it may be tried again, and the next save finds out
    /// whether this one took effect.
    pub fn save(&mut self) -> Result<(), CursorError> {
        block_on(self.0.save())
    }

    /// Shows others that this owner lives. [`passed`](Self::passed) does it by the way; call it
    /// while a record takes longer than the lease.
    ///
    /// # Errors
    /// [`CursorError::Fenced`] when a newer owner has taken over.
    pub fn renew(&mut self) -> Result<(), CursorError> {
        block_on(self.0.renew())
    }

    /// Saves, then removes the checkpoint and its state, unless [`Options::keep`] is set. Runs and
    /// history stay in the store.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn finish(self) -> Result<(), CursorError> {
        block_on(self.0.finish())
    }

    /// Saves and gives the claim up, to go on another time.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn stop(self) -> Result<(), CursorError> {
        block_on(self.0.stop())
    }

    /// The program's own state: the single value, `None` if there is none yet.
    ///
    /// # Errors
    /// [`CursorError::State`] if it is not a `T`.
    pub fn state<T: DeserializeOwned>(&self) -> Result<Option<T>, CursorError> {
        block_on(self.0.state())
    }

    /// Replaces the single value. It is stored with the next save, together with the position that
    /// was passed by then: change the state first, then pass the record.
    ///
    /// # Errors
    /// [`CursorError::State`] if it cannot be written as JSON.
    pub fn set_state<T: Serialize>(&mut self, value: &T) -> Result<(), CursorError> {
        self.0.set_state(value)
    }

    /// One entry of keyed state, with changes that are not saved yet. The empty key is the single
    /// value.
    ///
    /// # Errors
    /// [`CursorError::State`] if it is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, CursorError> {
        block_on(self.0.get(key))
    }

    /// Every entry of the state in the order of keys, with changes that are not saved yet. For
    /// state that fits into memory.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn entries<T: DeserializeOwned>(&self) -> Result<Vec<(String, T)>, CursorError> {
        block_on(self.0.entries())
    }

    /// Changes one entry of keyed state. Only changed entries are written, with the next save.
    ///
    /// # Errors
    /// [`CursorError::State`] if it cannot be written as JSON.
    pub fn put<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), CursorError> {
        self.0.put(key, value)
    }

    /// Removes one entry of keyed state, with the next save.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }
}
