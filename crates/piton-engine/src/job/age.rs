//! How old what a job goes on from is.

use futures_executor::block_on;
use jiff::Timestamp;
use piton::job::{STEP, Stage, WHOLE_JOB};
use piton_core::{Checkpoint, Store};

use super::definition::Job;
use crate::run::{RunError, refuse_older};

/// Refuses to go on from checkpoints that are all older than the job's `max_age`.
pub(super) fn refuse_old(job: &Job, run: &str, store: &dyn Store) -> Result<(), RunError> {
    let Some(most) = job.max_age else { return Ok(()) };
    newest(run, store)?.map_or(Ok(()), |newest| refuse_older(run, newest, most))
}

/// When the newest checkpoint of the steps that have begun and not finished was stored, or of what
/// is below them; of all, if there is no such step.
fn newest(run: &str, store: &dyn Store) -> Result<Option<Timestamp>, RunError> {
    let mut rows = block_on(store.load(run))?;
    rows.retain(|row| row.key.partition != WHOLE_JOB);
    let open: Vec<String> =
        rows.iter().filter(|row| is_open(row)).map(|row| row.key.partition.clone()).collect();
    let is_asked = |path: &str| {
        let within = |open: &String| {
            path.strip_prefix(open.as_str())
                .is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'/', ..]))
        };
        open.is_empty() || open.iter().any(within)
    };
    rows.retain(|row| is_asked(&row.key.partition));
    let mut newest = rows.iter().map(|row| row.updated_at).max();
    for path in open {
        let moved = block_on(store.load(&format!("{run}/{path}")))?;
        newest = newest.max(moved.iter().map(|row| row.updated_at).max());
    }
    Ok(newest)
}

fn is_open(row: &Checkpoint) -> bool {
    let state = Some(row).filter(|row| row.key.sink == STEP).and_then(super::view::state_of);
    state.is_some_and(|state| matches!(state.stage, Stage::Running | Stage::Failed))
}
