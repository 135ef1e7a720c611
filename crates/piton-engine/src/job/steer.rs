//! What an operator does to a job that nobody runs: a step counts as done, or the job goes back to
//! it. Who did it, when and why is recorded.

use std::{collections::BTreeSet, sync::Arc};

use futures_executor::block_on;
use jiff::Timestamp;
use piton::job::{self, JobError, StepState, Steps, WHOLE_JOB};
use piton_core::{Event, Output, Store};

use super::outline::{self, Entry};
use crate::steer::{self, Proposal, SteerError, Wish};

/// Why a job was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobSteerError {
    /// The store has no such job.
    #[error("the store {at} has no job '{name}': `piton status` lists what there is")]
    Unknown {
        /// The name.
        name: String,
        /// Which store.
        at: String,
    },
    /// It is a pipeline.
    #[error("'{name}' is a pipeline and has no steps")]
    NoJob {
        /// The name.
        name: String,
    },
    /// The job has no such step.
    #[error("'{job}' has no step '{step}'. Its steps: {known}")]
    NoStep {
        /// The job.
        job: String,
        /// The step.
        step: String,
        /// Those that it has.
        known: String,
    },
    /// Somebody runs it, or the store fails.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A pipeline of the job cannot begin anew.
    #[error(transparent)]
    Pipeline(#[from] SteerError),
}

impl From<piton_core::StoreError> for JobSteerError {
    fn from(error: piton_core::StoreError) -> Self {
        Self::Job(error.into())
    }
}

/// How a job is to begin anew.
#[derive(Debug, Clone, Copy)]
pub struct Anew<'a> {
    /// The step with which it begins; `None`: all of it.
    pub step: Option<&'a str>,
    /// What becomes of files and appended rows. They are cut, unless they are to be kept.
    pub output: Option<Output>,
    /// Who asks.
    pub who: &'a str,
}

/// A job that an operator changes, by the name under which the store has its newest run.
struct Changed {
    steps: Steps,
    known: Vec<Entry>,
}

impl Changed {
    fn open(store: &Arc<dyn Store>, name: &str) -> Result<Self, JobSteerError> {
        let run = job::newest(&**store, name)?;
        let known = block_on(store.pipelines())?;
        let record = run.and_then(|run| known.into_iter().find(|known| known.pipeline == run));
        let Some(record) = record else {
            return Err(JobSteerError::Unknown { name: name.to_owned(), at: store.location() });
        };
        if !super::is_job(&record) {
            return Err(JobSteerError::NoJob { name: name.to_owned() });
        }
        let steps = Steps::for_operator(store, &record.pipeline)?;
        let mut known = outline::of(&record.transforms);
        // A program's or a script's steps, in the order in which they began.
        let mut others = steps.all();
        let paths: BTreeSet<&str> = known.iter().map(|entry| &*entry.path).collect();
        let each: Vec<&Entry> = known.iter().filter(|entry| entry.is_each).collect();
        others.retain(|(path, _)| {
            let is_known = paths.contains(&**path) || each.iter().any(|entry| entry.has_each(path));
            path != WHOLE_JOB && !is_known
        });
        others.sort_by_key(|(_, state)| state.started_at);
        known.extend(others.into_iter().map(|(path, _)| Entry::alone(path)));
        Ok(Self { steps, known })
    }

    fn event(&self, who: &str, what: &str, detail: String) -> Event {
        Event {
            id: 0,
            pipeline: self.steps.job().to_owned(),
            at: Timestamp::now(),
            who: who.to_owned(),
            what: what.to_owned(),
            detail,
        }
    }

    fn need(&self, step: &str) -> Result<(), JobSteerError> {
        if self.known.iter().any(|entry| entry.path == step) {
            return Ok(());
        }
        let known: Vec<&str> = self.known.iter().map(|entry| &*entry.path).collect();
        let (job, step) = (self.steps.job().to_owned(), step.to_owned());
        Err(JobSteerError::NoStep { job, step, known: known.join(", ") })
    }

    /// The steps that begin anew with one; all without.
    fn chosen(&self, step: Option<&str>) -> Result<Vec<String>, JobSteerError> {
        let Some(step) = step else {
            return Ok(self.known.iter().map(|entry| entry.path.clone()).collect());
        };
        // What is below a `for_each` begins anew with it.
        let each = self.known.iter().find(|entry| entry.has_each(step));
        let step = each.map_or(step, |entry| &*entry.path);
        self.need(step)?;
        Ok(outline::from(&self.known, step))
    }

    /// Gives the claim up: nobody died.
    fn close(self) -> Result<String, JobSteerError> {
        let job = self.steps.job().to_owned();
        self.steps.end(piton_core::RunEnd::Stopped)?;
        Ok(job)
    }
}

/// Notes that a step, with all below it, counts as done. The name of the run that was changed.
///
/// # Errors
/// [`JobSteerError`]; while somebody runs the job it is not changed.
pub fn mark_done(
    store: &Arc<dyn Store>,
    name: &str,
    step: &str,
    who: &str,
    why: Option<&str>,
) -> Result<String, JobSteerError> {
    let job = Changed::open(store, name)?;
    let changed = job.need(step).and_then(|()| {
        let now = Timestamp::now();
        let skipped = StepState::skipped(job.steps.state(step).as_ref(), who, now);
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let event = job.event(who, "mark_done", format!("step '{step}' counts as done{why}"));
        Ok(job.steps.change(vec![(step.to_owned(), skipped)], event)?)
    });
    let name = job.close()?;
    changed.map(|()| name)
}

/// What the next run of a job does to each sink of the steps that begin anew, each in a sentence. Nothing
/// is changed.
///
/// # Errors
/// [`JobSteerError`], as [`begin_anew`].
pub fn consequences(
    store: &Arc<dyn Store>,
    name: &str,
    anew: Anew<'_>,
) -> Result<Vec<String>, JobSteerError> {
    let job = Changed::open(store, name)?;
    let proposed = job.chosen(anew.step).and_then(|steps| proposals(store, &job, &steps, anew));
    let prefix = format!("{}/", job.close()?);
    let told = |proposal: Proposal| {
        let step = proposal.pipeline.strip_prefix(&prefix).unwrap_or_default().to_owned();
        proposal.consequences.into_iter().map(move |what| format!("step '{step}', {what}"))
    };
    Ok(proposed?.into_iter().flat_map(told).collect())
}

/// Has a job go back to a step, which begins anew, with all below it and all that comes after it; or
/// has all of it begin anew. The name of the run, and the steps that begin anew.
///
/// # Errors
/// [`JobSteerError`]; while somebody runs the job it is not changed.
pub fn begin_anew(
    store: &Arc<dyn Store>,
    name: &str,
    anew: Anew<'_>,
) -> Result<(String, Vec<String>), JobSteerError> {
    let job = Changed::open(store, name)?;
    let changed = job.chosen(anew.step).and_then(|steps| forget(store, &job, steps, anew));
    let name = job.close()?;
    Ok((name, changed?))
}

/// What is ordered of the pipelines that steps are: all is decided before anything is changed.
fn proposals(
    store: &Arc<dyn Store>,
    job: &Changed,
    anew: &[String],
    how: Anew<'_>,
) -> Result<Vec<Proposal>, JobSteerError> {
    let prefix = format!("{}/", job.steps.job());
    let mut proposals = Vec::new();
    for known in block_on(store.pipelines())? {
        let Some(path) = known.pipeline.strip_prefix(&prefix) else { continue };
        let mut begin = job.known.iter().filter(|entry| anew.contains(&entry.path));
        if begin.any(|entry| entry.path == path || entry.has_each(path)) {
            let output = Some(how.output.unwrap_or(Output::Truncate));
            let wish = Wish { pipeline: &known.pipeline, sink: None, output, who: how.who };
            proposals.push(steer::propose_reset(&**store, &wish)?);
        }
    }
    Ok(proposals)
}

fn forget(
    store: &Arc<dyn Store>,
    job: &Changed,
    anew: Vec<String>,
    how: Anew<'_>,
) -> Result<Vec<String>, JobSteerError> {
    let proposals = proposals(store, job, &anew, how)?;
    let now = Timestamp::now();
    let mut changes: Vec<(String, StepState)> = anew
        .iter()
        .map(|path| (path.clone(), StepState::rewound(job.steps.state(path).as_ref(), now)))
        .collect();
    // Whatever is above them goes on.
    let mut above: BTreeSet<&str> = BTreeSet::from([WHOLE_JOB]);
    for path in &anew {
        above.extend(path.match_indices('/').map(|(end, _)| &path[..end]));
    }
    for path in above.into_iter().filter(|path| !anew.iter().any(|step| step == path)) {
        let over = job.steps.state(path).filter(|state| state.stage.is_over());
        changes.extend(over.map(|state| {
            // The job is completed once more.
            let state = match path {
                WHOLE_JOB => StepState::rewound(Some(&state), now),
                _ => StepState::reopened(&state, now),
            };
            (path.to_owned(), state)
        }));
    }
    for proposal in proposals {
        steer::order(&**store, proposal, how.who)?;
    }
    for path in &anew {
        job.steps.forget_position(path)?;
    }
    let what = if how.step.is_some() { "rewind" } else { "reset" };
    let event = job.event(how.who, what, format!("begin anew: {}", anew.join(", ")));
    job.steps.change(changes, event)?;
    Ok(anew)
}
