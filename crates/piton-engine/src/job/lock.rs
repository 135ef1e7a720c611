//! A command inherits the lock of its job's claim, so that the claim stays held while it or a child
//! of it lives, also when whoever started it was killed.

use std::{
    io,
    process::{Child, Command},
};

use piton_core::Claim;

/// Starts a command that keeps the lock of a claim open.
#[cfg(unix)]
pub(super) fn start_with(command: &mut Command, claim: &Claim) -> io::Result<Child> {
    use std::{
        fs::File,
        os::fd::{AsFd, OwnedFd},
        sync::{Mutex, PoisonError},
    };
    // While the copy may be inherited, every child of this process would inherit it.
    static STARTING: Mutex<()> = Mutex::new(());
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let lock = claim.lock.as_ref().and_then(|lock| lock.downcast_ref::<File>());
    let copy: Option<OwnedFd> = lock.map(|lock| lock.as_fd().try_clone_to_owned()).transpose()?;
    if let Some(copy) = &copy {
        rustix::io::fcntl_setfd(copy, rustix::io::FdFlags::empty())?;
    }
    command.spawn()
}

/// Starts a command. Where descriptors are not inherited, the claim ends with this process.
#[cfg(not(unix))]
pub(super) fn start_with(command: &mut Command, _: &Claim) -> io::Result<Child> {
    command.spawn()
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
