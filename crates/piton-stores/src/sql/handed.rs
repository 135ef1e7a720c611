//! A lock that commands inherit: of a session with the server that does nothing else.

use std::{
    os::fd::OwnedFd,
    sync::{MutexGuard, PoisonError},
};

use piton_core::StoreError;

use super::{Result, Scope, store::Guard};

/// A connection that holds the lock of an epoch beside the store's own, and whose descriptor a
/// command can inherit.
pub(crate) trait Handed: Send {
    /// Whether it stands.
    fn is_open(&mut self) -> bool;

    /// Takes the lock of an epoch, beside whoever holds it.
    fn lock(&mut self, scope: &Scope) -> Result<()>;

    /// Its socket, once more.
    fn descriptor(&self) -> Result<OwnedFd>;
}

/// The connection for commands, once there was one.
pub(super) type Slot = Option<Box<dyn Handed>>;

impl Guard {
    /// What a command inherits.
    ///
    /// # Errors
    /// Why there is no connection.
    pub(crate) fn inherited(&self) -> Result<OwnedFd, StoreError> {
        let mut slot = self.slot();
        if slot.as_mut().is_some_and(|handed| !handed.is_open()) {
            *slot = None;
        }
        let handed = match &mut *slot {
            Some(handed) => handed,
            none => none.insert(self.hand_down()?),
        };
        handed.descriptor().map_err(|trouble| trouble.at("the connection that a command inherits"))
    }

    /// Has commands that live hold the lock of a claim that replaces this one.
    pub(crate) fn pass_on_to(&self, new: &Self) {
        let Some(mut handed) = self.slot().take() else { return };
        if handed.is_open() && handed.lock(new.scope()).is_ok() {
            *new.slot() = Some(handed);
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
