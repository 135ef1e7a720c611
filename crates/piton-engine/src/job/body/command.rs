//! A step that runs a command, at least once. It inherits the claim's lock: as long as it lives,
//! nobody else takes the job over, also when whoever started it was killed.

use std::{io::ErrorKind, sync::Arc};

use piton::job::{Begun, WHOLE_JOB};
use piton_connectors::command::{
    PassOn,
    process::{End, Launch, ProcessError, Program},
};

use super::value_of;
use crate::{
    job::{
        definition::{Command, Step},
        lock::Lock,
        run::{Course, Failure},
        script,
        stepping::Scope,
        walk::Went,
    },
    run::{RunError, Signal},
    wording::count,
};

/// Which step has failed, for what is done once the job has.
const FAILED_STEP: &str = "PITON_FAILED_STEP";
/// With what.
const ERROR: &str = "PITON_ERROR";
/// The most of that, in characters.
const LONGEST_ERROR: usize = 4000;

/// Runs a command of a step to its end.
pub(in crate::job) fn command(
    course: &Course<'_>,
    step: &Step,
    command: &Command,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<Went, RunError> {
    let words = words(step, command, scope, begun)?;
    let program = Program::new(&words, &course.job.dir).map_err(|e| of_process(step, &e))?;
    let claim = course.steps.held();
    let lock = Lock::of(&claim)?;
    let mut launch = Launch::of(&program);
    let parents = scope.environment();
    for (name, value) in &parents {
        launch = launch.with(name, value);
    }
    for (name, value) in
        script::environment(course.job_name(), &step.path, Some(scope), begun, &claim)
    {
        launch = match value {
            Some(value) => launch.with(name, value),
            None => launch.without(name),
        };
    }
    launch = launch.with(script::STORE, course.store_url());
    if step.path == WHOLE_JOB {
        launch = of_the_job(course, launch);
    }
    launch = lock.hand_to(launch);
    let run = |signal: &Arc<Signal>| -> Result<Went, RunError> {
        let mut process =
            launch.start(PassOn::named(&step.path)).map_err(|e| not_started(step, &words, &e))?;
        process.listen(PassOn::named(&step.path));
        let ended = process.wait(None, &|| signal.is_stopping());
        match ended.map_err(|error| RunError::Failed(format!("'{}': {error}", command.named)))? {
            None => {
                process.stop();
                Ok(Went::Stopped)
            }
            Some(end) if end.is_good() => Ok(Went::Done),
            Some(end) => Err(failed(command, end, &process.last_words())),
        }
    };
    course.with_signal(step, run)?
}

/// What is done once a job is done or has failed is no step: it finds when the run began, and which step
/// failed with what.
fn of_the_job<'a>(course: &Course<'_>, launch: Launch<'a>) -> Launch<'a> {
    let launch = launch.without(script::STEP);
    let launch = launch.with(script::STARTED_AT, course.began.to_string());
    match course.failures().first() {
        None => launch.without(FAILED_STEP).without(ERROR),
        Some(Failure { path, why }) => {
            let why: String = why.chars().filter(|c| *c != '\0').take(LONGEST_ERROR).collect();
            launch.with(FAILED_STEP, path).with(ERROR, why)
        }
    }
}

fn failed(command: &Command, end: End, last_words: &str) -> RunError {
    let mut what = format!("the command '{}' ended with {end}", command.named);
    if !last_words.is_empty() {
        what.push_str(": ");
        what.push_str(last_words);
    }
    RunError::Failed(what)
}

fn words(
    step: &Step,
    command: &Command,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<Vec<String>, RunError> {
    let values = value_of(scope, begun);
    let mut words = vec![command.program.to_string_lossy().into_owned()];
    for argument in &command.args {
        let word = argument
            .with(&values)
            .map_err(|error| RunError::Settings(format!("step '{}': run: {error}", step.path)))?;
        words.push(word);
    }
    Ok(words)
}

/// What the system does not start: for too long an argument, which may be a record's, by its place.
fn not_started(step: &Step, words: &[String], error: &ProcessError) -> RunError {
    let ProcessError::NotStarted { name, error: why } = error else {
        return of_process(step, error);
    };
    let longest = words.iter().enumerate().skip(1).max_by_key(|(_, word)| word.len());
    match longest.filter(|_| why.kind() == ErrorKind::ArgumentListTooLong) {
        Some((place, word)) => RunError::Failed(format!(
            "step '{}': the command '{name}' could not be started: its argument {place} has {} bytes, \
             which is more than the system takes. Have it read what is so long from a file or a \
             database",
            step.path,
            count(word.len() as u64)
        )),
        None => of_process(step, error),
    }
}

fn of_process(step: &Step, error: &ProcessError) -> RunError {
    RunError::Settings(format!("step '{}': {error}", step.path))
}
