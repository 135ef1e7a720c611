//! Whose a run is: that of a file, or that of a script or a program. What one has done does not
//! count for the other.

use piton_core::{Store, StoredPosition};
use pollster::block_on;

use super::{JobError, SOURCE, STEP, Stage, StepState};

/// Refuses a run that belongs to the other kind. A file may take over the run of a script or a program
/// of which nothing counts any more, because it was reset.
///
/// # Errors
/// [`JobError::OfFile`], [`JobError::WithoutFile`], or what the store fails with.
pub fn refuse_of_other(store: &dyn Store, run: &str, is_of_file: bool) -> Result<(), JobError> {
    let known = block_on(store.pipelines())?;
    let is_it =
        |known: &piton_core::PipelineRecord| known.pipeline == run && known.source == SOURCE;
    let Some(found) = known.into_iter().find(is_it) else { return Ok(()) };
    let job = run.to_owned();
    match found.file {
        Some(file) if !is_of_file => Err(JobError::OfFile { job, file }),
        None if is_of_file && has_begun(store, run)? => Err(JobError::WithoutFile { job }),
        _ => Ok(()),
    }
}

/// Whether a step of a run counts as begun.
fn has_begun(store: &dyn Store, run: &str) -> Result<bool, JobError> {
    let stage = |position: &StoredPosition| position.read::<StepState>().map(|state| state.stage);
    let steps = block_on(store.load(run))?.into_iter().filter(|known| known.key.sink == STEP);
    let mut stages = steps.filter_map(|step| step.position.as_ref().map(stage));
    // What cannot be read is refused when it is opened.
    Ok(stages.any(|stage| stage.is_ok_and(|stage| stage != Stage::Rewound)))
}
