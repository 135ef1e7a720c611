//! Fault points: the named moments at which the crash harness strikes.
//!
//! In ordinary use a point is one relaxed load and a branch that is never taken. The harness arms
//! points in a child process; `piton` itself does so from `PITON_FAULT` (see [`arm_from`]). What no
//! sink can show, such as what a source was told, is noted for a listener ([`note`]); `piton` writes
//! it to the file in `PITON_TRACE`.

use std::{
    io,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

static ARMED: AtomicBool = AtomicBool::new(false);
static ARMS: Mutex<Vec<Arm>> = Mutex::new(Vec::new());
static LISTENER: OnceLock<fn(&str)> = OnceLock::new();

/// The fault points of a pipeline. A sweep visits each; one that is never reached fails the sweep.
pub const POINTS: &[&str] = &[
    "read",
    "transform",
    "sink.begin",
    "sink.middle",
    "sink.after",
    "commit.before",
    "commit.after",
    "save.before",
    "save.after",
    "acknowledge",
    "renew",
    "recover",
    "shutdown",
];

/// Those that only a job has.
pub const STEP_POINTS: &[&str] = &["step.begin", "step.recovered", "step.body", "step.done"];

/// What an armed point does when it is hit.
#[derive(Debug, Clone, Copy)]
pub enum Strike {
    /// Calls a function, which kills the process or stops it until it is told to go on.
    Call(fn()),
    /// Makes [`fail`] return this operating-system error.
    Fail(i32),
}

struct Arm {
    point: String,
    hits_left: u64,
    strike: Strike,
}

/// Arms a point: it strikes on its `hit`-th hit (from 1) and, if it fails, on every later one.
pub fn arm(point: &str, hit: u64, strike: Strike) {
    let mut arms = ARMS.lock().unwrap_or_else(PoisonError::into_inner);
    arms.push(Arm { point: point.to_owned(), hits_left: hit.max(1), strike });
    ARMED.store(true, Ordering::Relaxed);
}

/// Arms points from a text such as `commit.before:2` (kill on the second hit), `sync:1=5` (fail with
/// error number 5) or `commit.after:3=stop` (stop, as a hung process does), several separated by
/// commas.
///
/// # Errors
/// Says which part could not be understood.
pub fn arm_from(text: &str, kill: fn(), stop: fn()) -> Result<(), String> {
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (head, how) = match part.split_once('=') {
            Some((head, how)) => (head, Some(how)),
            None => (part, None),
        };
        let (point, hit) = head.split_once(':').unwrap_or((head, "1"));
        let wrong =
            || format!("fault '{part}' is not POINT, POINT:HIT, POINT:HIT=ERRNO or POINT:HIT=stop");
        let hit = hit.parse().map_err(|_| wrong())?;
        let strike = match how {
            Some("stop") => Strike::Call(stop),
            Some(errno) => Strike::Fail(errno.parse().map_err(|_| wrong())?),
            None => Strike::Call(kill),
        };
        arm(point, hit, strike);
    }
    Ok(())
}

/// Tells every point that is reached, and every note, from now on. The first listener stays.
pub fn listen(listener: fn(&str)) {
    let _ = LISTENER.set(listener);
    ARMED.store(true, Ordering::Relaxed);
}

/// Notes what no sink can show. The words are only made when somebody listens.
#[inline]
pub fn note(words: impl FnOnce() -> String) {
    if ARMED.load(Ordering::Relaxed)
        && let Some(listener) = LISTENER.get()
    {
        listener(&words());
    }
}

/// A moment at which the process may be killed.
#[inline]
pub fn point(name: &str) {
    if ARMED.load(Ordering::Relaxed) {
        let _ = strike(name);
    }
}

/// A moment at which the operating system may fail.
///
/// # Errors
/// The armed error, or none.
#[inline]
pub fn fail(name: &str) -> io::Result<()> {
    if ARMED.load(Ordering::Relaxed) { strike(name) } else { Ok(()) }
}

#[cold]
fn strike(name: &str) -> io::Result<()> {
    if let Some(listener) = LISTENER.get() {
        listener(name);
    }
    let mut arms = ARMS.lock().unwrap_or_else(PoisonError::into_inner);
    for arm in arms.iter_mut().filter(|arm| arm.point == name) {
        let is_over = arm.hits_left == 0;
        arm.hits_left = arm.hits_left.saturating_sub(1);
        match arm.strike {
            Strike::Call(call) if arm.hits_left == 0 && !is_over => call(),
            Strike::Fail(errno) if arm.hits_left == 0 => {
                return Err(io::Error::from_raw_os_error(errno));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a named piece of known-bad behaviour is on. Always false, and compiled away, without
/// the feature `known-bad`, which only the harness's builds have.
#[inline]
pub fn known_bad(name: &str) -> bool {
    cfg!(feature = "known-bad") && bad::is_on(name)
}

/// Turns known-bad behaviour on; without the feature `known-bad` nothing happens.
pub fn turn_bad(name: &str) {
    if cfg!(feature = "known-bad") {
        bad::turn_on(name);
    }
}

mod bad {
    use super::{Mutex, PoisonError};

    static ON: Mutex<Vec<String>> = Mutex::new(Vec::new());

    pub(super) fn is_on(name: &str) -> bool {
        ON.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|on| on == name)
    }

    pub(super) fn turn_on(name: &str) {
        ON.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
    }
}
