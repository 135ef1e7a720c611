//! Steps of a shell script: `piton step`.
//!
//! Each call claims the job, does one step, and gives the job up again. The command inherits the
//! lock of the claim: when this process dies and the command lives on, nobody else may begin a step
//! of the job before it has ended.

use std::{
    ffi::OsString,
    io,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use piton::job::{
    self, Beginning, Begun, Heartbeat, JobError, JobOptions, Stage, Start, StepState, Steps,
    WHOLE_JOB, Waiting, Work, in_shell,
};
use piton_core::{Claim, Control, Event, RunEnd, Store};
use serde::{Deserialize, Serialize};

use super::{
    lock::{self, Lock},
    stepping::Scope,
};

/// By which a command that runs within a step speaks of it.
pub(super) const JOB: &str = "PITON_JOB";
pub(super) const STEP: &str = "PITON_STEP";
const ATTEMPT: &str = "PITON_ATTEMPT";
const RECOVERING: &str = "PITON_RECOVERING";
const POSITION: &str = "PITON_POSITION";
pub(super) const STARTED_AT: &str = "PITON_STARTED_AT";
/// Whose step it is, for the `piton` commands that a command calls: JSON that only they read.
pub const CLAIM: &str = "PITON_CLAIM";
/// The store, for the `piton` commands that a command calls.
pub const STORE: &str = "PITON_STORE";

/// How long a job may be held before that is told: a server takes a moment to notice that a process,
/// and with it its session, has ended.
const MOMENT: Duration = Duration::from_millis(500);

/// How often a command is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The step that a command is run for, under which claim.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Within {
    pub(super) epoch: u64,
    /// Without parameters.
    pub(super) job: String,
    /// The name under which the store has the run.
    pub(super) run: String,
    /// The path of the step's checkpoint.
    pub(super) step: String,
    /// For which of many parents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<String>,
}

/// A step of a script.
#[derive(Clone, Copy)]
pub struct ScriptStep<'a> {
    /// The job's name.
    pub job: &'a str,
    /// The step's name.
    pub name: &'a str,
    /// The program and its arguments.
    pub command: &'a [OsString],
    /// What the environment says of the step whose command calls this one, in the same store.
    pub within: Option<&'a str>,
    /// How the command finds the store.
    pub store_url: &'a str,
    /// Set when this process is asked to end: the command is asked to, then, and waited for.
    pub stop: &'a AtomicBool,
    /// Told what keeps the step from beginning.
    pub on_wait: &'a dyn Fn(&str),
}

/// What became of a script's step.
#[derive(Debug)]
pub enum Stepped {
    /// It was done before, or an operator has skipped it.
    Before(Stage),
    /// The command has ended.
    Ended(ExitStatus),
}

/// Why a script's step could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// The job cannot be gone on with.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The command is not there, or cannot be started.
    #[error("the command '{command}' cannot be started: {error}")]
    NotStarted {
        /// As it was given.
        command: String,
        /// What the system says.
        error: io::Error,
    },
    /// A name that no file could have.
    #[error(
        "'{name}' is no name for a {what}: it is made of 1 to 100 letters, digits, '.', '_' and '-'"
    )]
    Name {
        /// A job or a step.
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// It is called by the command of a step of the same job.
    #[error(
        "this is called within step '{step}' of '{job}', and steps of a job come one after the other: \
         call it after that step, or give it another job with --job"
    )]
    Nested {
        /// The job.
        job: String,
        /// The step that is at work.
        step: String,
    },
    /// There is nothing to finish.
    #[error("no step of '{0}' was ever begun: there is nothing to finish")]
    NoJob(String),
    /// Steps of the run are not done.
    #[error(
        "'{job}' is not finished: {}. Do them, or have them count as done with `piton mark-done \
         {} STEP`, or close the run as it is with --accept-undone", .undone.join(", "), in_shell(.job)
    )]
    Undone {
        /// The job.
        job: String,
        /// Each step that is not done, and what it has come to.
        undone: Vec<String>,
    },
    /// It was asked to end before the step began.
    #[error("it was asked to end before the step began")]
    Stopped,
    /// The command cannot be waited for.
    #[error("the command cannot be waited for: {0}")]
    Wait(io::Error),
}

/// Does a step of a job: runs the command, unless the step is done. The first step after a job was
/// finished begins a new run of it.
///
/// # Errors
/// [`ScriptError::Name`], [`ScriptError::Nested`], [`ScriptError::NotStarted`], and what the job and the
/// store fail with.
pub fn step(store: &Arc<dyn Store>, step: &ScriptStep<'_>) -> Result<Stepped, ScriptError> {
    refuse_name("job", step.job)?;
    refuse_name("step", step.name)?;
    let path = job::path_of(None, step.name)?;
    super::instances::refuse_of_file(&**store, step.job)?;
    let options = JobOptions { again: true, ..waiting_options() };
    let asked = Instant::now();
    let goes_on = || asked.elapsed() < MOMENT;
    let waiting = Waiting { goes_on: &goes_on, ..Default::default() };
    let opened = Steps::open(store, step.job, &options, waiting);
    let (steps, _) = opened.map_err(|error| nested(step, error))?;
    let steps = Arc::new(steps);
    let heartbeat = Heartbeat::start(&steps, options.cursor.lease);
    let start = Start { work: Work::Command, ..Start::default() };
    let begun = heed(&steps, &heartbeat, step).and_then(|()| Ok(steps.begin(&path, start)?));
    let over = match begun {
        Ok(Beginning::Begun(begun)) => {
            let ended = run(&steps, &heartbeat, step, &begun);
            heartbeat.end();
            let how = note(&steps, &path, &ended)?;
            end(steps, how)?;
            return Ok(Stepped::Ended(ended?));
        }
        Ok(Beginning::Over(stage)) => Ok(Stepped::Before(stage)),
        Err(error) => Err(error),
    };
    heartbeat.end();
    end(steps, RunEnd::Stopped)?;
    over
}

/// A name that a file could have is neither that of a further run nor of one with parameters.
fn refuse_name(what: &'static str, name: &str) -> Result<(), ScriptError> {
    if job::is_plain(name) {
        return Ok(());
    }
    Err(ScriptError::Name { what, name: name.to_owned() })
}

/// Says so when it is the step around this one that has the job.
fn nested(step: &ScriptStep<'_>, error: JobError) -> ScriptError {
    let within = step.within.and_then(|text| serde_json::from_str::<Within>(text).ok());
    match (error, within) {
        (JobError::Held { job, holder }, Some(within))
            if within.run == job && within.epoch == holder.epoch.0 =>
        {
            ScriptError::Nested { job, step: within.step }
        }
        (error, _) => error.into(),
    }
}

/// Gives the job up, once the heartbeat has let go of it.
fn end(steps: Arc<Steps>, how: RunEnd) -> Result<(), JobError> {
    match Arc::try_unwrap(steps) {
        Ok(steps) => steps.end(how),
        Err(steps) => steps.flush(),
    }
}

/// Waits while an operator has paused the job; one who has cancelled it wants no step to begin.
fn heed(steps: &Steps, heartbeat: &Heartbeat, step: &ScriptStep<'_>) -> Result<(), ScriptError> {
    if heartbeat.wish(steps.job())? == Control::Pause {
        let name = steps.job();
        let remedy = in_shell(name);
        (step.on_wait)(&format!("'{name}' is paused: waiting for `piton resume {remedy}`"));
    }
    heartbeat.heed(steps, &|| !step.stop.load(Ordering::Relaxed))?;
    if step.stop.load(Ordering::Relaxed) { Err(ScriptError::Stopped) } else { Ok(()) }
}

/// Who holds the job is waited for, as long as one who waits wants to.
fn waiting_options() -> JobOptions {
    let cursor = piton::Options { when_held: piton::WhenHeld::Wait, ..Default::default() };
    JobOptions { cursor, ..Default::default() }
}

/// Stores how the command ended.
fn note(
    steps: &Steps,
    path: &str,
    ended: &Result<ExitStatus, ScriptError>,
) -> Result<RunEnd, ScriptError> {
    match ended {
        Ok(status) if status.success() => {
            steps.done(path)?;
            Ok(RunEnd::Stopped)
        }
        Ok(status) => {
            steps.failed(path, &status.to_string())?;
            Ok(RunEnd::Failed)
        }
        Err(error) => {
            steps.failed(path, &error.to_string())?;
            Ok(RunEnd::Failed)
        }
    }
}

fn run(
    steps: &Steps,
    heartbeat: &Heartbeat,
    step: &ScriptStep<'_>,
    begun: &Begun,
) -> Result<ExitStatus, ScriptError> {
    let (program, args) =
        step.command.split_first().map_or((OsString::new(), [].as_slice()), |c| (c.0.clone(), c.1));
    let mut command = Command::new(&program);
    command.args(args);
    let claim = steps.held();
    for (name, value) in environment(step.job, step.name, None, begun, &claim) {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env(STORE, step.store_url);
    let lock = Lock::of(&claim).map_err(JobError::from)?;
    let child = lock.start(&mut command).map_err(|error| ScriptError::NotStarted {
        command: program.to_string_lossy().into_owned(),
        error,
    })?;
    wait(child, steps, heartbeat, step.stop)
}

/// Waits for the command. It is asked to end when the job was cancelled, or somebody else has it.
fn wait(
    mut child: Child,
    steps: &Steps,
    heartbeat: &Heartbeat,
    stop: &AtomicBool,
) -> Result<ExitStatus, ScriptError> {
    let mut was_asked = false;
    loop {
        if let Some(status) = child.try_wait().map_err(ScriptError::Wait)? {
            return Ok(status);
        }
        let goes_on = matches!(heartbeat.wish(steps.job()), Ok(Control::Run | Control::Pause));
        if !was_asked && (!goes_on || stop.load(Ordering::Relaxed)) {
            lock::ask_to_end(&child);
            was_asked = true;
        }
        thread::sleep(LOOK);
    }
}

/// What a command finds in its environment; `None` is taken out of it. `scope`: for which parent it
/// is run.
pub(super) fn environment(
    job: &str,
    step: &str,
    scope: Option<&Scope<'_>>,
    begun: &Begun,
    claim: &Claim,
) -> [(&'static str, Option<String>); 7] {
    let position = begun.position.as_ref();
    let within = Within {
        epoch: claim.epoch.0,
        job: job.to_owned(),
        run: claim.pipeline.clone(),
        step: scope.map_or_else(|| step.to_owned(), |scope| scope.path(step).into_owned()),
        parent: scope.and_then(Scope::parent_id),
    };
    [
        (JOB, Some(job.to_owned())),
        (STEP, Some(step.to_owned())),
        (ATTEMPT, Some(begun.attempt.to_string())),
        (RECOVERING, Some(u8::from(begun.recovering).to_string())),
        (STARTED_AT, Some(begun.before.unwrap_or(begun.started_at).to_string())),
        (POSITION, position.and_then(|position| position.read::<String>().ok())),
        // Numbers and texts always serialise.
        (CLAIM, serde_json::to_string(&within).ok()),
    ]
}

/// Closes the present run of a job: the next step begins a new one. The steps that are not done, each
/// with what it has come to: with `accept_undone` the run is closed although there are some, and that
/// is recorded as done by `who`.
///
/// # Errors
/// [`ScriptError::NoJob`]; [`ScriptError::Undone`] without `accept_undone`; what the job and the store
/// fail with.
pub fn finish(
    store: &Arc<dyn Store>,
    job: &str,
    accept_undone: bool,
    who: &str,
) -> Result<Vec<String>, ScriptError> {
    refuse_name("job", job)?;
    super::instances::refuse_of_file(&**store, job)?;
    if job::newest(&**store, job).map_err(JobError::from)?.is_none() {
        return Err(ScriptError::NoJob(job.to_owned()));
    }
    let (steps, is_finished) = Steps::open(store, job, &JobOptions::default(), Waiting::default())?;
    let undone = if is_finished { Vec::new() } else { undone(&steps) };
    if !undone.is_empty() {
        if !accept_undone {
            steps.end(RunEnd::Stopped)?;
            return Err(ScriptError::Undone { job: job.to_owned(), undone });
        }
        let event = Event {
            id: 0,
            pipeline: steps.job().to_owned(),
            at: Timestamp::now(),
            who: who.to_owned(),
            what: "finish".to_owned(),
            detail: format!("closed as it was: {}", undone.join(", ")),
        };
        steps.change(Vec::new(), event)?;
    }
    if !is_finished {
        steps.done(WHOLE_JOB)?;
    }
    steps.end(RunEnd::Finished)?;
    Ok(undone)
}

/// The steps that were begun and are not done, as people are told.
fn undone(steps: &Steps) -> Vec<String> {
    let all = steps.all().into_iter();
    let open = all.filter(|(path, state)| path != WHOLE_JOB && !state.stage.is_over());
    let told = |(path, state): (String, StepState)| {
        let what = match state.stage {
            Stage::Failed => "failed",
            Stage::Rewound => "was to begin anew",
            _ => "had begun and not ended",
        };
        format!("step '{path}' {what}")
    };
    open.map(told).collect()
}
