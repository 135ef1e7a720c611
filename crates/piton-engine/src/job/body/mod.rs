//! What a step does itself: a pipeline, statements, a command.

mod command;
mod connections;
mod fields;
mod for_each;
mod grouped;
mod marks;
mod passed;
mod pipeline;
mod progress;
mod removal;
mod sql;

use piton::job::{Begun, Stage};
use piton_core::StoredPosition;

pub(super) use self::{
    command::command,
    grouped::is_quickest,
    marks::foreseen,
    passed::At,
    removal::remove,
    sql::{Databases, Marked, sql},
};
use super::{
    definition::{Body, Reference, Step},
    run::{Course, of_job},
    stepping::Scope,
    walk::Went,
};
use crate::run::RunError;

/// What something is done for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The step itself.
    Body,
    /// Because the step had begun and not finished.
    Recover,
    /// Because it has failed for good.
    Failure,
    /// Because it is done.
    Complete,
}

impl Purpose {
    /// The key in the file.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Body => "sql",
            Self::Recover => "on_recover",
            Self::Failure => "on_failure",
            Self::Complete => "on_complete",
        }
    }

    pub(super) fn doing(self) -> &'static str {
        match self {
            Self::Body => "at work",
            Self::Recover => "recovered",
            Self::Failure => "followed up after its failure",
            Self::Complete => "completed",
        }
    }
}

/// Does the body of a step. With how many records it has moved, if it moves records.
pub(super) fn run(
    course: &Course<'_>,
    step: &Step,
    body: &Body,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<(Went, Option<u64>), RunError> {
    use piton_connectors::sql_statements::Executed;
    match body {
        Body::Group => Ok((Went::Done, None)),
        Body::Pipeline(template) => pipeline::run(course, step, template, scope, begun),
        Body::Run(program) => Ok((command(course, step, program, scope, begun)?, None)),
        Body::Sql(statements) => {
            match sql(course, step, statements, scope, begun, Purpose::Body)? {
                Executed::Done { .. } | Executed::WasDone { .. } => Ok((Went::Done, None)),
                Executed::Fenced { epoch } => Err(course.fenced_by(epoch.0)),
            }
        }
        Body::ForEach(each) => for_each::run(course, step, each, scope, begun),
    }
}

/// A number that grows with what the pipelines of a step and of those below it have come to.
pub(super) fn progress(course: &Course<'_>, step: &Step) -> Result<u64, RunError> {
    let died = course.steps.state(&step.path).is_some_and(|state| state.stage == Stage::Running);
    if died { pipeline::progress(course, step) } else { Ok(0) }
}

/// Where the pipeline of a step stands, for what recovers it: the first of its checkpoints.
pub(super) fn position(
    course: &Course<'_>,
    step: &Step,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<Option<StoredPosition>, RunError> {
    match &step.body {
        Body::Pipeline(template) => pipeline::position(course, step, template, scope, begun),
        _ => Ok(None),
    }
}

/// Whether a step of statements is marked as done in its database.
pub(super) fn is_marked(
    course: &Course<'_>,
    step: &Step,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<bool, RunError> {
    match &step.body {
        Body::Sql(statements) => sql::is_marked(course, step, statements, scope, begun),
        _ => Ok(false),
    }
}

/// Has a step that was begun, and all below it, begin anew: nothing that is stored of them anywhere
/// counts any more.
pub(super) fn forget(
    course: &Course<'_>,
    step: &Step,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<Begun, RunError> {
    let mut below = Vec::new();
    paths(&step.steps, scope, &mut below);
    let (path, parent) = (scope.path(&step.path), scope.parent_id());
    let anew = course.steps.begin_anew(&path, &below, parent.as_deref());
    let generation = anew.map_err(of_job)?;
    // After a crash before this, whoever recovers finds its position still.
    pipeline::forget(course, step, scope)?;
    Ok(Begun { generation, position: None, ..begun.clone() })
}

/// The paths of steps and of those below them. What is done for each of many records has the
/// generation of the step that does so.
fn paths(steps: &[Step], scope: &Scope<'_>, found: &mut Vec<String>) {
    for step in steps {
        found.push(scope.path(&step.path).into_owned());
        if !matches!(step.body, Body::ForEach(_)) {
            paths(&step.steps, scope, found);
        }
    }
}

/// A value by its name in the file.
fn value_of<'a>(
    scope: &'a Scope<'_>,
    begun: &'a Begun,
) -> impl Fn(&Reference) -> Option<super::definition::Value> + 'a {
    |reference| scope.value(begun, reference)
}
