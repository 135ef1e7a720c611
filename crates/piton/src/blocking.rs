//! The cursor for ordinary programs: no runtime needed.

use std::sync::Arc;

use futures_executor::block_on;
use piton_core::{Position, Store};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    asynchronous::{self, Options},
    error::CursorError,
};

/// A job's place in its data, claimed by this process. Each method is that of
/// [`asynchronous::Cursor`], waited for.
pub struct Cursor<P: Position>(asynchronous::Cursor<P>);

impl<P: Position> Cursor<P> {
    /// Claims a job with the default options.
    ///
    /// # Errors
    /// [`CursorError::Held`] while another living process has it.
    pub fn open(store: &Arc<dyn Store>, job: &str) -> Result<Self, CursorError> {
        block_on(asynchronous::Cursor::open(store, job)).map(Self)
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

    /// Notes that everything up to `position` is done and durable; saves when the interval is over.
    ///
    /// # Errors
    /// [`CursorError::Fenced`] when a newer owner has taken over.
    pub fn passed(&mut self, position: P) -> Result<(), CursorError> {
        block_on(self.0.passed(position))
    }

    /// Saves position and changed state now, in one transaction.
    ///
    /// # Errors
    /// [`CursorError::Fenced`], [`CursorError::Moved`], or what the store failed with.
    pub fn save(&mut self) -> Result<(), CursorError> {
        block_on(self.0.save())
    }

    /// Saves, then removes the checkpoint and its state, unless it is to be kept.
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

    /// The program's own state: the single value.
    ///
    /// # Errors
    /// [`CursorError::State`] if it is not a `T`.
    pub fn state<T: DeserializeOwned>(&self) -> Result<Option<T>, CursorError> {
        block_on(self.0.state())
    }

    /// Replaces the single value; stored with the next save.
    ///
    /// # Errors
    /// [`CursorError::State`] if it cannot be written as JSON.
    pub fn set_state<T: Serialize>(&mut self, value: &T) -> Result<(), CursorError> {
        self.0.set_state(value)
    }

    /// One entry of keyed state.
    ///
    /// # Errors
    /// [`CursorError::State`] if it is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, CursorError> {
        block_on(self.0.get(key))
    }

    /// Changes one entry of keyed state; only changed entries are written with the next save.
    ///
    /// # Errors
    /// [`CursorError::State`] if it cannot be written as JSON.
    pub fn put<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), CursorError> {
        self.0.put(key, value)
    }

    /// Removes one entry of keyed state with the next save.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }
}
