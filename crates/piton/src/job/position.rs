//! The position that a command keeps of its own, as a text that only it understands.

use std::cmp::Ordering;

use jiff::Timestamp;
use piton_core::{CheckpointKey, Claim, Save, Saved, Store, StoredPosition};
use pollster::block_on;

use super::{JobError, POSITION};

/// What a command has kept.
pub type Kept = Option<String>;

/// The position that a step's command has kept; `None` if it has kept none.
///
/// # Errors
/// [`JobError::Position`] if the position is of another kind; what the store fails with.
pub fn kept(store: &dyn Store, job: &str, path: &str) -> Result<Kept, JobError> {
    let key = CheckpointKey::new(job, path, POSITION);
    let found = block_on(store.load(job))?.into_iter().find(|found| found.key == key);
    let position = found.and_then(|found| found.position);
    position
        .map(|position| position.read::<String>())
        .transpose()
        .map_err(|error| JobError::Position { job: job.to_owned(), step: path.to_owned(), error })
}

/// Keeps a position under a claim: that of this process, or of the one that has started it. Only the
/// command knows an order of its positions, so any may follow any other.
///
/// # Errors
/// [`JobError::Fenced`] when a newer owner has taken over; [`JobError::Moved`] if somebody else
/// kept one at the same moment; what the store fails with.
pub fn keep(store: &dyn Store, claim: &Claim, path: &str, position: &str) -> Result<(), JobError> {
    let (job, step) = (claim.pipeline.clone(), path.to_owned());
    let key = CheckpointKey::new(&job, path, POSITION);
    let found = block_on(store.load(&job))?.into_iter().find(|found| found.key == key);
    let position = StoredPosition::of(&position.to_owned());
    let save = Save {
        key,
        expected_version: found.as_ref().map_or(0, |found| found.version),
        expected: found.as_ref().and_then(|found| found.position.clone()),
        position: Some(position.map_err(|error| JobError::Position {
            job: job.clone(),
            step: step.clone(),
            error,
        })?),
        order: |_, _| Some(Ordering::Greater),
        records: found.map_or(0, |found| found.records) + 1,
        schema_version: 0,
        sink_state: None,
        state: Vec::new(),
    };
    let saved = block_on(store.save(claim, vec![save], Timestamp::now()))?;
    match saved.into_iter().next() {
        Some(Saved::Stored { .. }) | None => Ok(()),
        Some(Saved::Fenced { epoch }) => Err(JobError::Fenced { job, epoch: epoch.0 }),
        Some(saved) => Err(JobError::Moved { job, step, saved }),
    }
}
