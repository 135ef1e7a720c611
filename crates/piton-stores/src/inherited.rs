//! What a command inherits, so that the claim under which it was started stays held for as long as
//! it, or a child of it, lives, also when whoever started it was killed.
//!
//! Locks belong to what is open, not to who opened it: a lock file, or the socket of a session with
//! a server, is closed when the last process that has it has ended. On a server the session is one
//! of its own: the store's may be in the middle of a transaction when its process is killed, which
//! the server would wait for, and which it would end together with the session.
//!
//! A server that is started anew knows nothing of sessions before. A command whose starter is dead
//! by then is not seen any more.

use std::{fs::File, os::fd::OwnedFd};

use piton_core::{Claim, StoreError};

#[cfg(feature = "server")]
use crate::sql::Guard;

/// The descriptor that a command has to inherit, so that the claim stays held while it lives. None
/// where claims end with their process: in memory. On a server it may take a connection, which is
/// then used for every command of the claim; this blocks for it.
///
/// # Errors
/// [`StoreError::Unusable`] where there is no descriptor left, or no connection to the server.
pub fn inherited(claim: &Claim) -> Result<Option<OwnedFd>, StoreError> {
    let Some(lock) = &claim.lock else { return Ok(None) };
    if let Some(file) = lock.downcast_ref::<File>() {
        let copy = file.try_clone().map(OwnedFd::from);
        return copy.map(Some).map_err(|error| StoreError::Unusable {
            at: format!("the claim of {}", claim.pipeline),
            what: format!("its lock cannot be handed down to a command: {error}"),
        });
    }
    #[cfg(feature = "server")]
    if let Some(guard) = lock.downcast_ref::<Guard>() {
        return guard.inherited().map(Some);
    }
    Ok(None)
}

/// Has commands that inherited the lock of a claim hold the one that replaces it, too: of the same
/// process, whose connection to the server was lost for a moment. Where theirs was lost as well,
/// nothing holds it.
pub fn pass_on(old: &Claim, new: &Claim) {
    #[cfg(feature = "server")]
    {
        let guard = |claim: &'_ Claim| claim.lock.clone().and_then(|lock| lock.downcast().ok());
        let guards: (Option<std::sync::Arc<Guard>>, Option<std::sync::Arc<Guard>>) =
            (guard(old), guard(new));
        if let (Some(old), Some(new)) = guards {
            old.pass_on_to(&new);
        }
    }
    #[cfg(not(feature = "server"))]
    let _ = (old, new);
}
