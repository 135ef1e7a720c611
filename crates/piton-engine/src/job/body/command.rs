//! A step that runs a command, at least once. It inherits the claim's lock: as long as it lives,
//! nobody else takes the job over, also when whoever started it was killed.

use std::sync::Arc;

use piton::job::Begun;
use piton_connectors::command::{
    PassOn,
    process::{End, Launch, ProcessError, Program},
};

use super::value_of;
use crate::{
    job::{
        definition::{Command, Step},
        lock::Lock,
        run::Course,
        script,
        stepping::Scope,
        walk::Went,
    },
    run::{RunError, Signal},
};

/// Runs a command of a step to its end.
pub(in crate::job) fn command(
    course: &Course<'_>,
    step: &Step,
    command: &Command,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<Went, RunError> {
    let program = program(course, step, command, scope, begun)?;
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
    launch = lock.hand_to(launch);
    let run = |signal: &Arc<Signal>| -> Result<Went, RunError> {
        let mut process =
            launch.start(PassOn::named(&step.path)).map_err(|e| of_process(step, &e))?;
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

fn failed(command: &Command, end: End, last_words: &str) -> RunError {
    let mut what = format!("the command '{}' ended with {end}", command.named);
    if !last_words.is_empty() {
        what.push_str(": ");
        what.push_str(last_words);
    }
    RunError::Failed(what)
}

fn program(
    course: &Course<'_>,
    step: &Step,
    command: &Command,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<Program, RunError> {
    let values = value_of(scope, begun);
    let mut words = vec![command.program.to_string_lossy().into_owned()];
    for argument in &command.args {
        let word = argument
            .with(&values)
            .map_err(|error| RunError::Settings(format!("step '{}': run: {error}", step.path)))?;
        words.push(word);
    }
    Program::new(&words, &course.job.dir).map_err(|error| of_process(step, &error))
}

fn of_process(step: &Step, error: &ProcessError) -> RunError {
    RunError::Settings(format!("step '{}': {error}", step.path))
}
