//! For how long statements may run.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often whoever waits for a database looks up.
pub(super) const LOOK_UP: Duration = Duration::from_millis(20);

/// For how long statements may run.
#[derive(Clone)]
pub struct Limits {
    /// The most that all of them together may take.
    pub timeout: Option<Duration>,
    /// Whether they are to stop now. It is asked often, by several threads: it must be quick.
    pub stop: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Default for Limits {
    /// As long as they need.
    fn default() -> Self {
        Self { timeout: None, stop: Arc::new(|| false) }
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Why no more time is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Stopped,
    TimedOut(Duration),
}

/// Limits since somebody began.
#[derive(Clone)]
pub(super) struct Watch {
    began: Instant,
    limits: Limits,
}

impl Watch {
    pub(super) fn begin(limits: &Limits) -> Self {
        Self { began: Instant::now(), limits: limits.clone() }
    }

    /// Whether the time is over.
    pub(super) fn over(&self) -> Option<Over> {
        if (self.limits.stop)() {
            return Some(Over::Stopped);
        }
        let most = self.limits.timeout?;
        (self.began.elapsed() >= most).then_some(Over::TimedOut(most))
    }
}
