//! The position that a command keeps of its own, as a text that only it understands.

use std::{
    cmp::Ordering,
    process, thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use piton_core::{
    Checkpoint, CheckpointKey, Claim, Position, PositionError, Save, Saved, Store, StoredPosition,
};
use pollster::block_on;
use serde::{Deserialize, Serialize};

use super::{JobError, POSITION};

/// How long it is tried to keep a position while others keep theirs.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a command has kept.
pub type Kept = Option<String>;

/// What a command has kept that is run for each of many parents: it counts for this one alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Within {
    parent: String,
    at: String,
}

impl PartialOrd for Within {
    /// Only the command knows an order.
    fn partial_cmp(&self, _: &Self) -> Option<Ordering> {
        None
    }
}

impl Position for Within {
    const KIND: &'static str = "text_within";
}

/// The position that a step's command has kept, for that parent if it is run for each of many;
/// `None` if it has kept none.
///
/// # Errors
/// [`JobError::Position`] if the position is of another kind; what the store fails with.
pub fn kept(
    store: &dyn Store,
    job: &str,
    path: &str,
    parent: Option<&str>,
) -> Result<Kept, JobError> {
    let found = find(store, job, path)?.and_then(|found| found.position);
    let text = |position: StoredPosition| position.read::<String>();
    found
        .and_then(|position| of_parent(&position, parent))
        .map(text)
        .transpose()
        .map_err(|error| of_position(job, path, error))
}

/// Keeps a position under a claim: that of this process, or of the one that has started it. Only the
/// command knows an order of its positions, so any may follow any other, and of several that are kept at
/// the same moment the last one stands. `parent`: for which of many the command is run.
///
/// # Errors
/// [`JobError::Fenced`] when a newer owner has taken over; [`JobError::Moved`] if others have kept
/// theirs in between again and again; what the store fails with.
pub fn keep(
    store: &dyn Store,
    claim: &Claim,
    path: &str,
    parent: Option<&str>,
    position: &str,
) -> Result<(), JobError> {
    let asked = Instant::now();
    loop {
        match keep_once(store, claim, path, parent, position)? {
            Some(Saved::Stored { .. }) | None => return Ok(()),
            Some(Saved::Fenced { epoch }) => {
                let job = claim.pipeline.clone();
                return Err(JobError::Fenced { job, epoch: epoch.0 });
            }
            Some(saved) if asked.elapsed() >= PATIENCE => {
                let (job, step) = (claim.pipeline.clone(), path.to_owned());
                return Err(JobError::Moved { job, step, saved });
            }
            // Somebody else was first. Not all try again at the same moment.
            Some(_) => thread::sleep(Duration::from_millis(1 + u64::from(process::id() % 8))),
        }
    }
}

fn keep_once(
    store: &dyn Store,
    claim: &Claim,
    path: &str,
    parent: Option<&str>,
    position: &str,
) -> Result<Option<Saved>, JobError> {
    let job = &claim.pipeline;
    let found = find(store, job, path)?;
    let at = position.to_owned();
    let position = match parent {
        None => StoredPosition::of(&at),
        Some(parent) => StoredPosition::of(&Within { parent: parent.to_owned(), at }),
    };
    let save = Save {
        key: CheckpointKey::new(job, path, POSITION),
        expected_version: found.as_ref().map_or(0, |found| found.version),
        expected: found.as_ref().and_then(|found| found.position.clone()),
        position: Some(position.map_err(|error| of_position(job, path, error))?),
        order: |_, _| Some(Ordering::Greater),
        records: found.map_or(0, |found| found.records) + 1,
        schema_version: 0,
        sink_state: None,
        state: Vec::new(),
    };
    let saved = block_on(store.save(claim, vec![save], Timestamp::now()))?;
    Ok(saved.into_iter().next())
}

/// The checkpoint of a step's position.
pub(super) fn find(
    store: &dyn Store,
    job: &str,
    path: &str,
) -> Result<Option<Checkpoint>, JobError> {
    let key = CheckpointKey::new(job, path, POSITION);
    Ok(block_on(store.load(job))?.into_iter().find(|found| found.key == key))
}

/// A position as the step has it: what a command has kept counts for its parent alone. Whatever else
/// is stored says itself for which parent it is.
pub(super) fn of_parent(position: &StoredPosition, parent: Option<&str>) -> Option<StoredPosition> {
    match (position.read::<Within>(), parent) {
        (Ok(within), Some(parent)) if within.parent != parent => None,
        (Ok(within), _) => StoredPosition::of(&within.at).ok(),
        (Err(_), Some(_)) if position.kind == String::KIND => None,
        (Err(_), _) => Some(position.clone()),
    }
}

fn of_position(job: &str, path: &str, error: PositionError) -> JobError {
    JobError::Position { job: job.to_owned(), step: path.to_owned(), error }
}
