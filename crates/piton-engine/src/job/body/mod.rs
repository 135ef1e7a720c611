//! What a step does itself: a pipeline, statements, a command.

mod command;
mod for_each;
mod grouped;
mod pipeline;
mod sql;

use piton::job::{Begun, Stage};
use piton_core::StoredPosition;

pub(super) use self::{
    command::command,
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
    fn key(self) -> &'static str {
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
) -> Result<Option<StoredPosition>, RunError> {
    match step.body {
        Body::Pipeline(_) => pipeline::position(course, step, scope),
        _ => Ok(None),
    }
}

/// Clears what is stored of a step and of all below it, so that it begins anew.
pub(super) fn forget(course: &Course<'_>, step: &Step) -> Result<(), RunError> {
    course.steps.forget_below(&step.path).map_err(of_job)?;
    pipeline::forget(course, step)
}

/// A value by its name in the file.
fn value_of<'a>(
    scope: &'a Scope<'_>,
    begun: &'a Begun,
) -> impl Fn(&Reference) -> Option<super::definition::Value> + 'a {
    |reference| scope.value(begun, reference)
}
