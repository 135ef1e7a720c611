//! The position that a step's command keeps: `piton position`.
//!
//! Within the command that is a step, its environment says which step of which run is meant, and the
//! claim under which the step was begun fences whoever outlived it. Elsewhere it is said by name, and
//! kept under a claim of its own.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use piton::job::{self, JobError, Steps, WHOLE_JOB, in_shell};
use piton_core::{Claim, Epoch, PipelineRecord, RunEnd, Store, claim::WHOLE};

use super::{
    instances, outline,
    script::{CLAIM, JOB, STEP, Within},
};

/// How long one who holds the job is waited for, and how often it is looked again: others keep positions,
/// too, and are done at once.
const MOMENT: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(15);

/// Whose position is meant. What is not given is what the environment of a command says.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The job, by its name or that of its run.
    pub job: Option<&'a str>,
    /// The step's path.
    pub step: Option<&'a str>,
    /// A variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// Why a position was not found or not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeptError {
    /// Nothing says whose position is meant.
    #[error(
        "--{0} is not given, and this is no command of a step, which could do without: say --job \
         JOB --name STEP"
    )]
    Whose(&'static str),
    /// The job has run with several choices of parameters.
    #[error(
        "'{job}' has run with several choices of parameters: name one of '{}'", .runs.join("', '")
    )]
    Several {
        /// The name that was given.
        job: String,
        /// The names of its runs.
        runs: Vec<String>,
    },
    /// A name that no step of a script, or no such job, can have.
    #[error(
        "'{0}' is no name of a job or a step: it is made of 1 to 100 letters, digits, '.', '_' and '-'"
    )]
    Name(String),
    /// The job of a file has no such step.
    #[error("'{job}' has no step '{step}'. Its steps: {known}")]
    NoStep {
        /// The job.
        job: String,
        /// What was given.
        step: String,
        /// Those that it has.
        known: String,
    },
    /// The job of a file has finished.
    #[error(
        "'{job}' has finished, and none of its steps goes on from a position: `piton rewind {} --to \
         {step}` has it begin anew", in_shell(.job)
    )]
    Finished {
        /// The job.
        job: String,
        /// The step.
        step: String,
    },
    /// The job cannot be changed now, or the store fails.
    #[error(transparent)]
    Job(#[from] JobError),
}

/// Whose position it is.
enum Place {
    /// That of the step which this process is a command of, or of another step of its run.
    Within(Within),
    /// That of a step of a job.
    Outside { job: String, path: String },
}

/// The position that a step has kept.
///
/// # Errors
/// [`KeptError`].
pub fn position(store: &dyn Store, asked: Asked<'_>) -> Result<Option<String>, KeptError> {
    match place(asked)? {
        Place::Within(at) => Ok(job::kept(store, &at.run, &at.step, at.parent.as_deref())?),
        Place::Outside { job, path } => match run_of(store, &job)? {
            Some(run) => Ok(job::kept(store, &run, &path, None)?),
            None => Ok(None),
        },
    }
}

/// Keeps a position for a step: within its command under the claim of whoever began the step,
/// elsewhere under one of its own. No run of the job begins by that, and the last one who keeps one wins.
///
/// # Errors
/// [`JobError::Fenced`] within a command that has outlived its owner; [`JobError::Held`] elsewhere
/// while the job runs; the others of [`KeptError`].
pub fn set_position(
    store: &Arc<dyn Store>,
    asked: Asked<'_>,
    position: &str,
) -> Result<(), KeptError> {
    match place(asked)? {
        Place::Within(at) => {
            if let Some(record) = of_file(&**store, &at.run)?.filter(|_| asked.step.is_some()) {
                need(&record, &at.step, true)?;
            }
            let claim = Claim {
                pipeline: at.run,
                partition: WHOLE.to_owned(),
                epoch: Epoch(at.epoch),
                lease: Duration::from_secs(30),
                lock: None,
            };
            Ok(job::keep(&**store, &claim, &at.step, at.parent.as_deref(), position)?)
        }
        Place::Outside { job, path } => {
            let steps = claim_soon(store, &job, &path)?;
            let kept = job::keep(&**store, &steps.held(), &path, None, position);
            steps.end(RunEnd::Stopped)?;
            Ok(kept?)
        }
    }
}

fn place(asked: Asked<'_>) -> Result<Place, KeptError> {
    let variable = asked.variable;
    let within = variable(CLAIM).and_then(|text| serde_json::from_str::<Within>(&text).ok());
    let job = asked.job.map(ToOwned::to_owned).or_else(|| variable(JOB));
    let job = job.ok_or(KeptError::Whose("job"))?;
    let within = within.filter(|within| job == within.job || job == within.run);
    let own = variable(STEP).filter(|_| variable(JOB).as_ref() == Some(&job));
    match (within, asked.step) {
        (Some(within), None) => Ok(Place::Within(within)),
        (Some(within), Some(step)) if own.as_deref() == Some(step) || within.step == step => {
            Ok(Place::Within(within))
        }
        (Some(within), Some(step)) => {
            let step = job::whole_path(step)?;
            Ok(Place::Within(Within { step, parent: None, ..within }))
        }
        (None, step) => {
            let step = step.or(own.as_deref()).ok_or(KeptError::Whose("name"))?;
            Ok(Place::Outside { job, path: job::whole_path(step)? })
        }
    }
}

/// The name under which the store has the newest run of a job; `None` if there is none.
fn run_of(store: &dyn Store, job: &str) -> Result<Option<String>, KeptError> {
    if let Some(run) = job::newest(store, job).map_err(JobError::from)? {
        return Ok(Some(run));
    }
    let mut runs = super::instances(store, job).map_err(JobError::from)?;
    if runs.len() > 1 {
        return Err(KeptError::Several { job: job.to_owned(), runs });
    }
    Ok(runs.pop())
}

/// Claims the job, and waits for as long as those who hold it come and go.
fn claim_soon(store: &Arc<dyn Store>, job: &str, path: &str) -> Result<Steps, KeptError> {
    let (mut holder, mut since) = (None, Instant::now());
    loop {
        match claim(store, job, path) {
            Err(KeptError::Job(JobError::Held { job, holder: found })) => {
                if holder.replace(found.epoch) != Some(found.epoch) {
                    since = Instant::now();
                } else if since.elapsed() >= MOMENT {
                    return Err(JobError::Held { job, holder: found }.into());
                }
                thread::sleep(LOOK);
            }
            claimed => return claimed,
        }
    }
}

/// Claims the job to whose step a position is given: of a script the run in which its next step will be.
fn claim(store: &Arc<dyn Store>, job: &str, path: &str) -> Result<Steps, KeptError> {
    let Some(record) = of_file(&**store, job)? else {
        let mut names = std::iter::once(job).chain(path.split('/'));
        if let Some(name) = names.find(|name| !job::is_plain(name)) {
            return Err(KeptError::Name(name.to_owned()));
        }
        instances::refuse_of_file(&**store, job)?;
        return Ok(Steps::for_operator_of_next(store, job)?);
    };
    let steps = Steps::for_operator(store, &record.pipeline)?;
    match check(&steps, &record, path) {
        Ok(()) => Ok(steps),
        Err(error) => {
            steps.end(RunEnd::Stopped)?;
            Err(error)
        }
    }
}

/// The run of a job that a file describes.
fn of_file(store: &dyn Store, job: &str) -> Result<Option<PipelineRecord>, KeptError> {
    let Some(run) = run_of(store, job)? else { return Ok(None) };
    let known = block_on(store.pipelines()).map_err(JobError::from)?;
    let record = known.into_iter().find(|known| known.pipeline == run);
    Ok(record.filter(|record| record.file.is_some() && super::is_job(record)))
}

/// A position is kept for a step that there is, and that may still go on from it.
fn check(steps: &Steps, record: &PipelineRecord, path: &str) -> Result<(), KeptError> {
    need(record, path, false)?;
    if steps.is_over(WHOLE_JOB) {
        let (job, step) = (record.pipeline.clone(), path.to_owned());
        return Err(KeptError::Finished { job, step });
    }
    Ok(())
}

/// A step of a file's job; `or_each`: or one that is done for each of many.
fn need(record: &PipelineRecord, path: &str, or_each: bool) -> Result<(), KeptError> {
    let known = outline::of(&record.transforms);
    if known.iter().any(|entry| entry.path == path || or_each && entry.has_each(path)) {
        return Ok(());
    }
    let known: Vec<String> = known.into_iter().map(|entry| entry.path).collect();
    let (job, step) = (record.pipeline.clone(), path.to_owned());
    Err(KeptError::NoStep { job, step, known: known.join(", ") })
}
