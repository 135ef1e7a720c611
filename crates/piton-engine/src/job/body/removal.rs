//! What is removed once a job is done that keeps no checkpoints (`on_complete: delete`): those of its
//! pipelines, in the store and in their sinks, the marks of its statements, and those of its steps.
//! That the run has finished stays, so that the next one is another.

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{Claim, ClaimAnswer, ClaimRequest, Epoch, claim::WHOLE};

use super::value_of;
use crate::{
    connect,
    job::{
        definition::{Body, Step},
        run::{Course, of_job},
        stepping::{Scope, nothing},
    },
    run::{RunError, event, forget},
};

/// Removes all of it. What is not there any more is passed over.
pub(in crate::job) fn remove(course: &Course<'_>) -> Result<(), RunError> {
    if course.steps.all().len() <= 1 {
        return Ok(());
    }
    let of_job_name = format!("{}/", course.steps.job());
    let known = block_on(course.store.pipelines())?;
    let known = known.into_iter().map(|known| known.pipeline);
    for name in known.filter(|name| name.starts_with(&of_job_name)) {
        if !block_on(course.store.load(&name))?.is_empty() {
            let claim = claim(course, &name)?;
            let removed = pipeline(course, &name, &claim);
            block_on(course.store.release(&claim))?;
            removed?;
        }
    }
    course.databases.clear_all(course)?;
    course.steps.remove_all().map_err(of_job)
}

fn pipeline(course: &Course<'_>, name: &str, claim: &Claim) -> Result<(), RunError> {
    let path = &name[course.steps.job().len() + 1..];
    let Some(Step { body: Body::Pipeline(template), .. }) = course.job.step(path) else {
        // Of a record of a `for_each`, which is not known any more: its sink keeps its own.
        let _ = block_on(course.store.complete(claim, None))?;
        return Ok(());
    };
    let (scope, begun) = (Scope::of(course.instance), nothing());
    let config = template.config(name, &value_of(&scope, &begun));
    let config = config.map_err(|error| RunError::Settings(error.to_string()))?;
    let event = event(name, course.options, "complete", "checkpoints removed");
    forget(&connect::pipeline(&config, true)?, &**course.store, claim, &event)
}

fn claim(course: &Course<'_>, name: &str) -> Result<Claim, RunError> {
    let request = ClaimRequest {
        pipeline: name.to_owned(),
        partition: WHOLE.to_owned(),
        owner: course.options.owner.clone(),
        lease: course.job.claim.lease,
        at_least: Epoch(0),
        silent: None,
        now: Timestamp::now(),
    };
    match block_on(course.store.claim(request))? {
        ClaimAnswer::Granted { claim, .. } => Ok(claim),
        ClaimAnswer::Held(holder) => Err(RunError::Held { pipeline: name.to_owned(), holder }),
    }
}
