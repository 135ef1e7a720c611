//! Jobs of several steps: done steps are skipped, the broken one is recovered, the rest runs once.
//!
//! Each step has a checkpoint of its own in the store: running, failed and why, done, skipped by
//! an operator; none, as long as it has not begun. A step may have steps of its own, and a position
//! inside it. A restart passes over what is done and goes on inside what is not.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let store = piton::open("memory:")?; // sqlite:piton.db with the feature `sqlite`
//! let mut job = piton::job::Job::open(&store, "crm-migration")?;
//! job.step("customer", |step| {
//!     for id in step.position::<u64>()?.map_or(0, |id| id + 1)..1_000 {
//!         // … customer `id` is copied, in a way that a repeat does no harm …
//!         step.passed(&id)?;
//!     }
//!     Ok(())
//! })?;
//! job.step("invoice", |step| {
//!     step.on_recover(|| {
//!         // … what an earlier attempt has left behind is removed …
//!         Ok(())
//!     })?;
//!     // … a step may have steps …
//!     step.step("line-item", |_| Ok(()))?;
//!     Ok(())
//! })?;
//! job.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What happens when it crashes here
//!
//! | where the process dies | what the next run finds |
//! |---|---|
//! | before a step is noted as begun | it has not begun |
//! | within a step | it is begun again, [`Step::recovering`], at the last position that was stored |
//! | after a step's closure has returned, before that is stored | the same |
//! | after that | the step is done, and is skipped |
//!
//! That a step is done is stored together with the beginning of the next one, or at once when it
//! took longer than a twentieth of a second: small steps cost one commit each. So the last
//! small step may be done once more, and what a step does is written such that a repeat does no
//! harm. Effects and checkpoint in one transaction are what `sqlite::Cursor` and `postgres::Claim` are for.

mod error;
mod heartbeat;
mod name;
mod owner;
mod position;
mod state;
mod step;
mod steps;

use std::{collections::HashSet, sync::Arc};

use piton_core::{RunEnd, Store};

pub use self::{
    error::JobError,
    heartbeat::Heartbeat,
    name::{in_shell, instance, is_plain, newest, path_of, whole_path},
    owner::refuse_of_other,
    position::{Kept, keep, kept},
    state::{Stage, StepState},
    step::{Ran, Step},
    steps::{Beginning, Begun, POSITION, STEP, Start, Steps, Waiting, Work},
};
use crate::{error::EffectsError, options::Options};

/// What a store remembers as the source of a job of several steps.
pub const SOURCE: &str = "\"job\"";

/// The step of a job that is the job itself: done when all is.
pub const WHOLE_JOB: &str = ".";

/// How a job behaves.
#[derive(Debug, Clone, Default)]
pub struct JobOptions {
    /// What identifies the job besides its name: the same name with other parameters is another
    /// job.
    pub params: Vec<(String, String)>,
    /// Whether a job that has finished is begun once more, as a new run of it. Otherwise its steps
    /// are all skipped.
    pub again: bool,
    /// What the job does, as JSON, by which whoever opens it notices a change.
    pub definition: Option<String>,
    /// The file that it was read from, for people.
    pub file: Option<String>,
    /// How often positions within steps are stored, how long the lease is, and what is done while
    /// another process has the job. `keep` and `adopt` count for nothing here.
    pub cursor: Options,
}

/// A job that this process has claimed.
///
/// Dropping it, as by an early return or a panic, is a crash: the step at hand is recovered by the
/// next run. While it lives, a thread shows others that it does.
#[must_use = "a job that is dropped gives its claim up"]
pub struct Job {
    steps: Arc<Steps>,
    options: Options,
    /// It ends before the claim is given up.
    heartbeat: Heartbeat,
    is_finished: bool,
    seen: HashSet<String>,
}

impl Job {
    /// Claims a job with the default [`JobOptions`].
    ///
    /// # Errors
    /// [`JobError::Held`] while another living process has it; [`JobError::Mismatch`] if the name
    /// belongs to something else; what the store fails with.
    pub fn open(store: &Arc<dyn Store>, name: &str) -> Result<Self, JobError> {
        Self::open_with(store, name, &JobOptions::default())
    }

    /// Claims a job.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        store: &Arc<dyn Store>,
        name: &str,
        options: &JobOptions,
    ) -> Result<Self, JobError> {
        let (steps, is_finished) = Steps::open(store, name, options, Waiting::default())?;
        let steps = Arc::new(steps);
        let heartbeat = Heartbeat::start(&steps, options.cursor.lease);
        let options = options.cursor.clone();
        Ok(Self { steps, options, heartbeat, is_finished, seen: HashSet::new() })
    }

    /// Whether it had finished before it was opened: then every step is skipped.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// The name under which the store has this run: with parameters, and with a number when it is
    /// not the first.
    pub fn instance(&self) -> &str {
        self.steps.job()
    }

    /// Does a step, unless it is done.
    ///
    /// # Errors
    /// [`JobError::Step`] with what `body` fails with, which is stored, too;
    /// [`JobError::Parked`], [`JobError::Cancelled`], [`JobError::Fenced`]; what the store fails
    /// with.
    pub fn step(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Step<'_>) -> Result<(), EffectsError>,
    ) -> Result<Ran, JobError> {
        let Self { steps, options, heartbeat, seen, .. } = self;
        let at = step::Place { steps, options, heartbeat, parent: None };
        at.run(name, seen, body)
    }

    /// Notes that the job is done, and gives it up. Opened again, it has nothing to do.
    ///
    /// # Errors
    /// [`JobError::Fenced`]; what the store fails with.
    pub fn finish(self) -> Result<(), JobError> {
        self.steps.done(WHOLE_JOB)?;
        self.end(RunEnd::Finished)
    }

    /// Stores what is not stored yet and gives the job up, to go on another time.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn stop(self) -> Result<(), JobError> {
        self.end(RunEnd::Stopped)
    }

    fn end(self, end: RunEnd) -> Result<(), JobError> {
        let Self { steps, heartbeat, .. } = self;
        heartbeat.end();
        match Arc::try_unwrap(steps) {
            Ok(steps) => steps.end(end),
            // The thread that had the other is over.
            Err(steps) => steps.flush(),
        }
    }
}
