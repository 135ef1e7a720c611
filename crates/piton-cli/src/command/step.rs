//! `step` and `position`: checkpoints for shell scripts.
//!
//! The exit code is the command's. Failures of Piton's own have codes that few commands use.

use std::{
    env,
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use piton::job::{JobError, Stage};
use piton_core::Store;
use piton_engine::job::{
    kept::{self, Asked, KeptError},
    script::{self, ScriptError, ScriptStep, Stepped},
};

use crate::{
    args::{Position, PositionCommand, Step, StoreArgs},
    exit::{FINISHED, Failure, HELD, REFUSED, USAGE},
    opening,
    output::{note, show},
};

/// The codes of `step` for what is bad usage, refused, held, and for what else fails.
pub(crate) const STEP_USAGE: u8 = 122;
const STEP_REFUSED: u8 = 123;
const STEP_HELD: u8 = 124;
const STEP_FAILED: u8 = 125;

/// `piton step`
pub(crate) fn step(args: &Step) -> Result<u8, Failure> {
    run_or_finish(args).map_err(|failure| {
        let code = match failure.code() {
            USAGE => STEP_USAGE,
            REFUSED => STEP_REFUSED,
            HELD => STEP_HELD,
            _ => STEP_FAILED,
        };
        failure.with_code(code)
    })
}

fn run_or_finish(args: &Step) -> Result<u8, Failure> {
    let store = opening::created(&args.store)?;
    let job = &args.job;
    let Some(name) = &args.name else {
        let (accept, who) = (args.accept_undone, opening::who());
        let undone = script::finish(&store, job, accept, &who).map_err(of_script)?;
        for step in undone {
            note!("{step}");
        }
        note!("'{job}' is finished: its next step begins a new run");
        return Ok(FINISHED);
    };
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || asked.store(true, Ordering::Relaxed))
        .map_err(|error| Failure::failed(format!("signals cannot be heard: {error}")))?;
    let url = opening::url_of(&args.store)?;
    let command = &args.command;
    let on_wait = |what: &str| note!("{what}");
    let within = env::var(script::CLAIM).ok().filter(|_| is_own(&args.store));
    let within = within.as_deref();
    let on_wait = &on_wait;
    let step = ScriptStep { job, name, command, within, store_url: &url, stop: &stop, on_wait };
    match script::step(&store, &step).map_err(of_script)? {
        Stepped::Before(stage) => {
            let what =
                if stage == Stage::Skipped { "was passed over by an operator" } else { "is done" };
            note!("step '{name}' of '{job}' {what}: skipped");
            Ok(FINISHED)
        }
        Stepped::Ended(status) => Ok(code_of(status)),
    }
}

/// As a shell has it: 128 and its number for a signal.
fn code_of(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(128 + signal).unwrap_or(u8::MAX);
    }
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Whether a command speaks of the store of the step that has called it: its claim counts there alone.
fn is_own(args: &StoreArgs) -> bool {
    args.store.as_ref().is_none_or(|url| env::var(script::STORE).as_ref() == Ok(url))
}

fn of_script(error: ScriptError) -> Failure {
    match error {
        ScriptError::Job(error) => of_job(error),
        ScriptError::Undone { .. } => Failure::new(REFUSED, error.to_string()),
        ScriptError::Nested { .. } => Failure::new(HELD, error.to_string()),
        ScriptError::Name { .. } | ScriptError::NoJob(_) | ScriptError::NotStarted { .. } => {
            Failure::usage(error.to_string())
        }
        error => Failure::failed(error.to_string()),
    }
}

/// What a job's error means for a command.
pub(crate) fn of_job(error: JobError) -> Failure {
    let code = match error {
        JobError::Store(error) => return error.into(),
        JobError::Held { .. } | JobError::Fenced { .. } => HELD,
        JobError::Name { .. } | JobError::Twice { .. } => USAGE,
        JobError::Step { .. } => crate::exit::FAILED,
        _ => REFUSED,
    };
    Failure::new(code, error.to_string())
}

/// `piton position`
pub(crate) fn position(args: &Position) -> Result<u8, Failure> {
    let of = match &args.command {
        PositionCommand::Get(of) => of,
        PositionCommand::Set(set) => &set.of,
    };
    let is_own = is_own(&of.store);
    let variable = |name: &str| env::var(name).ok().filter(|_| is_own || name != script::CLAIM);
    let asked = Asked { job: of.job.as_deref(), step: of.name.as_deref(), variable: &variable };
    match &args.command {
        PositionCommand::Get(of) => {
            let store: Arc<dyn Store> = opening::existing(&of.store)?;
            let found = kept::position(&*store, asked).map_err(of_kept)?;
            if let Some(position) = found {
                show(format!("{position}\n").as_bytes())?;
            }
        }
        PositionCommand::Set(set) => {
            let store = opening::created(&set.of.store)?;
            kept::set_position(&store, asked, &set.value).map_err(of_kept)?;
        }
    }
    Ok(FINISHED)
}

fn of_kept(error: KeptError) -> Failure {
    match error {
        KeptError::Job(error) => of_job(error),
        error @ KeptError::Finished { .. } => Failure::new(REFUSED, error.to_string()),
        error => Failure::usage(error.to_string()),
    }
}
