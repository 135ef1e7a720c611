//! A job, its steps, and what of them is steered elsewhere.

use futures_executor::block_on;
use piton::job::in_shell;
use piton_core::{Control, DeadLetter, PipelineRecord, Store, StoreError};

use super::{SteerError, find};
use crate::job::{self, view::is_finished};

/// Whether a pipeline is a step of a job, or of a step of it.
pub(super) fn is_below(job: &str, pipeline: &str) -> bool {
    pipeline.strip_prefix(job).is_some_and(|rest| rest.starts_with('/'))
}

/// The job whose step a name is, and the step's path.
fn job_of<'a>(known: &'a [PipelineRecord], name: &'a str) -> Option<(&'a PipelineRecord, &'a str)> {
    let is_above =
        |record: &&PipelineRecord| job::is_job(record) && is_below(&record.pipeline, name);
    let job = known.iter().find(is_above)?;
    Some((job, &name[job.pipeline.len() + 1..]))
}

/// What is said of a name that is no pipeline's, if it is one below a job's.
pub(super) fn unknown_step(
    store: &dyn Store,
    known: &[PipelineRecord],
    name: &str,
) -> Result<Option<SteerError>, StoreError> {
    let Some((record, path)) = job_of(known, name) else { return Ok(None) };
    let (job, in_shell) = (record.pipeline.clone(), in_shell(&record.pipeline));
    let steps = job::view::paths(store, record)?;
    Ok(Some(match job::view::step_named(record, path) {
        step if steps.contains(&step) => SteerError::OfJob {
            name: name.to_owned(),
            remedy: format!(
                "it moves no records, or has not begun, so all there is of it is in `piton status \
                 {in_shell}` and `piton history {in_shell}`"
            ),
            job,
        },
        _ => SteerError::Undecided(format!(
            "'{job}' has no step '{path}'. Its steps: {}",
            steps.join(", ")
        )),
    }))
}

/// Refuses to reset or rewind a step by itself: the job would not know of it.
///
/// # Errors
/// [`SteerError::OfJob`] with what to do; [`SteerError::Unknown`].
pub fn refuse_step(store: &dyn Store, name: &str) -> Result<(), SteerError> {
    let known = block_on(store.pipelines())?;
    let Some((record, path)) = job_of(&known, name) else { return Ok(()) };
    let step = job::view::step_named(record, path);
    if !job::view::paths(store, record)?.contains(&step) {
        return find(store, name).map(drop);
    }
    let job = record.pipeline.clone();
    let remedy = format!(
        "`piton rewind {} --to {step}` has it begin anew, with all that comes after it",
        in_shell(&job)
    );
    Err(SteerError::OfJob { name: name.to_owned(), job, remedy })
}

/// Refuses what is said to the job as a whole, and what comes too late.
pub(super) fn refuse_control(
    store: &dyn Store,
    record: &PipelineRecord,
    control: Control,
) -> Result<(), SteerError> {
    let name = &record.pipeline;
    let command = match control {
        Control::Run => "resume",
        Control::Pause => "pause",
        Control::Cancel => "cancel",
    };
    if let Some((job, _)) = job_of(&block_on(store.pipelines())?, name) {
        let job = job.pipeline.clone();
        let remedy = format!("`piton {command} {}` speaks to all of it", in_shell(&job));
        return Err(SteerError::OfJob { name: name.clone(), job, remedy });
    }
    if control == Control::Cancel
        && job::is_job(record)
        && is_finished(&block_on(store.load(name))?)
    {
        let what = format!("'{name}' has finished: there is nothing to cancel");
        return Err(SteerError::Undecided(what));
    }
    Ok(())
}

/// The records that were set aside: of a job those of all its steps.
///
/// # Errors
/// [`SteerError::Unknown`], or what the store fails with.
pub fn letters(store: &dyn Store, name: &str) -> Result<Vec<DeadLetter>, SteerError> {
    let record = find(store, name)?;
    let mut letters = block_on(store.dead_letters(name))?;
    if job::is_job(&record) {
        for known in block_on(store.pipelines())?.iter().filter(|k| is_below(name, &k.pipeline)) {
            letters.extend(block_on(store.dead_letters(&known.pipeline))?);
        }
    }
    Ok(letters)
}
