//! Standard output and standard error, whose reader may be stuck: it is waited for, but not longer than
//! a stop may take.

#[cfg(unix)]
use std::os::fd::AsFd;
use std::{
    io::{self, Write},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

/// How long a reader is waited for once the program was asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// A pipe that has room takes so much without blocking.
#[cfg(unix)]
const AT_ONCE: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

/// How often it is looked whether the program was asked to stop.
#[cfg(unix)]
const LOOK: Duration = Duration::from_millis(100);

/// Until when readers are waited for.
static UNTIL: OnceLock<Instant> = OnceLock::new();

/// One at a time, so that lines stay whole.
static WRITING: Mutex<()> = Mutex::new(());

/// The program was asked to stop: from five seconds later on nothing is written that nobody reads.
pub(crate) fn stop_soon() {
    let _ = UNTIL.set(Instant::now() + GRACE);
}

/// Writes all of it, as soon as there is room.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when the program was asked to stop and nobody has read for long.
#[cfg(unix)]
pub(crate) fn write_all(mut out: impl Write + AsFd, bytes: &[u8]) -> io::Result<()> {
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    for part in bytes.chunks(AT_ONCE) {
        wait_for_room(&out)?;
        out.write_all(part)?;
        out.flush()?;
    }
    Ok(())
}

#[cfg(unix)]
fn wait_for_room(out: &impl AsFd) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let look = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
    loop {
        let mut asked = [PollFd::new(out, PollFlags::OUT)];
        match poll(&mut asked, Some(&look)) {
            Ok(0) if UNTIL.get().is_some_and(|until| Instant::now() >= *until) => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            // A reader that has gone is told by the write.
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes all of it.
#[cfg(not(unix))]
pub(crate) fn write_all(mut out: impl Write, bytes: &[u8]) -> io::Result<()> {
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    out.write_all(bytes)?;
    out.flush()
}
