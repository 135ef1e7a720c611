//! A step that moves records: a pipeline with an end, under the name `INSTANCE/PATH`.

use std::sync::Arc;

use futures_executor::block_on;
use piton::job::Begun;
use piton_core::{Store, StoredPosition};

use super::value_of;
use crate::{
    connect,
    job::{
        definition::{Body, Step, Template},
        run::Course,
        stepping::Scope,
        walk::Went,
    },
    run::{self, Figures, Outcome, RunError, Signal},
    steer,
};

pub(super) fn run(
    course: &Course<'_>,
    step: &Step,
    template: &Template,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<(Went, Option<u64>), RunError> {
    let name = name_within(course, step, scope);
    let config = template.config(&name, &value_of(scope, begun));
    let config = config.map_err(|error| RunError::Settings(error.to_string()))?;
    let pipeline = connect::pipeline(&config, course.options.accept_changes)?;
    let figures = Figures::new(pipeline.sinks.iter().map(|sink| sink.name.as_str()));
    let run =
        |signal: &Arc<Signal>| run::run(&pipeline, course.store, course.options, signal, &figures);
    let summary = course.with_signal(step, run)??;
    let records = summary.report.sinks.iter().map(|sink| sink.records).max();
    match summary.outcome {
        Outcome::Finished => Ok((Went::Done, records)),
        Outcome::Stopped | Outcome::Cancelled => Ok((Went::Stopped, records)),
    }
}

/// Where it stands: the first of its checkpoints.
pub(super) fn position(
    course: &Course<'_>,
    step: &Step,
    scope: &Scope<'_>,
) -> Result<Option<StoredPosition>, RunError> {
    let checkpoints = block_on(course.store.load(&name_within(course, step, scope)))?;
    Ok(checkpoints.into_iter().find_map(|checkpoint| checkpoint.position))
}

/// Its name for the parent at hand.
fn name_within(course: &Course<'_>, step: &Step, scope: &Scope<'_>) -> String {
    let name = name_of(course, step);
    match scope.parent_id() {
        None => name,
        Some(parent) => format!("{name}[{}]", super::sql::short(&parent)),
    }
}

fn name_of(course: &Course<'_>, step: &Step) -> String {
    format!("{}/{}", course.steps.job(), step.path)
}

/// How often the pipelines of a step and of those below it have stored a checkpoint.
pub(super) fn progress(course: &Course<'_>, step: &Step) -> Result<u64, RunError> {
    let mut stored = 0;
    if matches!(step.body, Body::Pipeline(_)) {
        let checkpoints = block_on(course.store.load(&name_of(course, step)))?;
        stored += checkpoints.iter().map(|checkpoint| checkpoint.version).sum::<u64>();
    }
    for step in &step.steps {
        stored += progress(course, step)?;
    }
    Ok(stored)
}

/// Resets the pipelines of a step and of all below it. What they have put into files is cut.
pub(super) fn forget(course: &Course<'_>, step: &Step) -> Result<(), RunError> {
    step.steps.iter().try_for_each(|step| forget(course, step))?;
    if matches!(step.body, Body::Pipeline(_)) {
        let name = name_of(course, step);
        let who = course.options.owner.to_string();
        forget_one(&**course.store, &name, &who)?;
    }
    Ok(())
}

fn forget_one(store: &dyn Store, name: &str, who: &str) -> Result<(), RunError> {
    let known = block_on(store.pipelines())?;
    if !known.iter().any(|known| known.pipeline == name) {
        return Ok(());
    }
    steer::begin_anew(store, name, who).map_err(|error| RunError::Refused(error.to_string()))
}
