//! What every thread of a run listens to: stop, pause, and whether the claim still stands.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How often a waiting thread looks up.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Shared by the threads of one run. Also the handle by which a caller stops it.
#[derive(Debug)]
pub struct Signal {
    began: Instant,
    /// It was asked to stop.
    stop: AtomicBool,
    /// It ends by itself.
    end: AtomicBool,
    hurry: AtomicBool,
    pause: AtomicBool,
    cancelled: AtomicBool,
    /// When the lease lapses unless renewed, in milliseconds after `began`.
    deadline_ms: AtomicU64,
    fenced: Mutex<Option<String>>,
}

impl Default for Signal {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            end: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            pause: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            deadline_ms: AtomicU64::new(u64::MAX),
            fenced: Mutex::new(None),
        }
    }
}

impl Signal {
    /// Asks the run to save what the sinks have taken, and to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// Reads nothing more; what was read is still delivered. How a run ends by itself.
    pub(crate) fn end(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// Lets a run that ended by itself begin again; false if it was asked to stop.
    pub(crate) fn begin_again(&self) -> bool {
        self.end.store(false, Ordering::Relaxed);
        !self.is_stopping()
    }

    /// Whether what was read and waits for a sink is left to the next run: a slow sink would take
    /// long over it.
    pub(crate) fn is_hurried(&self) -> bool {
        self.hurry.load(Ordering::Relaxed)
    }

    /// Whether the run ends: it was asked to, something failed, or it has lost its claim.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.end.load(Ordering::Relaxed)
    }

    /// Stops the run because an operator cancelled it.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// Whether an operator cancelled the run.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Makes the run idle at the next record boundary, or go on.
    pub fn set_paused(&self, paused: bool) {
        self.pause.store(paused, Ordering::Relaxed);
    }

    /// Whether the run is to idle.
    pub fn is_paused(&self) -> bool {
        self.pause.load(Ordering::Relaxed)
    }

    /// Notes that a renewal *asked for* at `asked` was granted: the lease counts from the asking.
    pub fn renewed(&self, asked: Instant, lease: Duration) {
        let deadline = asked.saturating_duration_since(self.began) + lease;
        self.deadline_ms.store(deadline.as_millis() as u64, Ordering::Relaxed);
    }

    /// Notes that a newer claim has taken over: nothing more may be written.
    pub fn fence(&self, what: String) {
        *self.fenced.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
        self.stop();
    }

    /// By whom the claim was taken over, if it was.
    pub fn fenced(&self) -> Option<String> {
        self.fenced.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the lease is known to stand. A process that slept past its lease finds out
    /// here, before it writes to a sink that cannot fence it. False when the claim is lost.
    pub fn claim_stands(&self) -> bool {
        loop {
            if self.began.elapsed().as_millis() as u64 <= self.deadline_ms.load(Ordering::Relaxed) {
                return true;
            }
            if self.is_stopping() {
                return false;
            }
            thread::sleep(LOOK_UP);
        }
    }

    /// Sleeps, but wakes for a stop. True when the whole time has passed.
    pub fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.is_stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(LOOK_UP));
        }
        false
    }

    /// Idles while paused. False when it is time to stop.
    pub fn wait_while_paused(&self) -> bool {
        while self.is_paused() && !self.is_stopping() {
            thread::sleep(LOOK_UP);
        }
        !self.is_stopping()
    }
}

/// The pause before another try: doubling from 100 ms to 10 s.
pub(crate) fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(100 << attempt.min(7)).min(Duration::from_secs(10))
}
