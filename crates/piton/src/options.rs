//! How a cursor behaves.

use std::time::Duration;

use piton_core::interval::Policy;

use crate::claiming::WhenHeld;

/// How a cursor behaves. The default saves at an interval that tunes itself, removes the
/// checkpoint when the work is done, and fails at once while another process has the job.
///
/// ```
/// let options = piton::Options { keep: true, ..Default::default() };
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// How often to save. With effects and checkpoint in one transaction, every transaction saves
    /// and this counts for nothing.
    pub checkpoint: Policy,
    /// How long an owner that lives may be silent before another may take its place. A cursor
    /// shows that it lives whenever a record is passed; a record that takes longer than this needs
    /// a `renew` in between. Dead owners are replaced at once, whatever is said here.
    pub lease: Duration,
    /// What to do while another process has the job.
    pub when_held: WhenHeld,
    /// Whether finishing leaves the checkpoint where it is: the next run then has nothing to do.
    pub keep: bool,
    /// Whether a checkpoint in the program's own database may be taken over although the store
    /// knows nothing of it, or knows a later one. For effects and checkpoint in one transaction.
    pub adopt: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checkpoint: Policy::default(),
            lease: Duration::from_secs(30),
            when_held: WhenHeld::default(),
            keep: false,
            adopt: false,
        }
    }
}
