//! A command inherits the lock of its job's claim, so that the claim stays held while it or a child
//! of it lives, also when whoever started it was killed.

#[cfg(unix)]
use std::os::fd::{AsFd as _, OwnedFd};
use std::{
    io,
    process::{Child, Command},
};

use piton_connectors::command::process::{self, Launch};
use piton_core::{Claim, StoreError};

/// What a command inherits. Where descriptors are not inherited, the claim ends with this process.
pub(super) struct Lock {
    #[cfg(unix)]
    descriptor: Option<OwnedFd>,
}

impl Lock {
    /// Of a claim. On a server it may take a connection.
    ///
    /// # Errors
    /// What the store fails with.
    #[cfg_attr(not(unix), expect(clippy::unnecessary_wraps, reason = "as on Unix"))]
    pub(super) fn of(claim: &Claim) -> Result<Self, StoreError> {
        #[cfg(unix)]
        return Ok(Self { descriptor: piton_stores::inherited(claim)? });
        #[cfg(not(unix))]
        {
            let _ = claim;
            Ok(Self {})
        }
    }

    /// Has a command inherit it.
    pub(super) fn hand_to<'a>(&'a self, launch: Launch<'a>) -> Launch<'a> {
        #[cfg(unix)]
        if let Some(descriptor) = &self.descriptor {
            return launch.inheriting(descriptor.as_fd());
        }
        launch
    }

    /// Starts a command as it is, which inherits it.
    pub(super) fn start(&self, command: &mut Command) -> io::Result<Child> {
        #[cfg(unix)]
        return process::spawn(
            command,
            self.descriptor.as_ref().map(|lock| lock.as_fd()).as_slice(),
        );
        #[cfg(not(unix))]
        process::spawn(command)
    }
}

/// Asks a command to end, as `kill` does.
#[cfg(unix)]
pub(super) fn ask_to_end(child: &Child) {
    let id = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    }
}

/// Nothing asks a command to end here: it is waited for.
#[cfg(not(unix))]
pub(super) fn ask_to_end(_: &Child) {}
