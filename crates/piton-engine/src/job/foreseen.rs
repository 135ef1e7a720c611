//! What can be known of a run before its first step: a condition that has no answer with these
//! parameters, a name that none of them can be part of.

use super::definition::{Body, Instance, Job, Reference, Step, Value, When};
use crate::run::RunError;

/// Refuses parameters with which a step could not begin.
///
/// # Errors
/// [`RunError::Settings`], which names the step.
pub(super) fn check(job: &Job, instance: &Instance) -> Result<(), RunError> {
    level(job, instance, &job.steps)
}

fn level(job: &Job, instance: &Instance, steps: &[Step]) -> Result<(), RunError> {
    for step in steps {
        if holds(job, instance, step)? != Some(false) {
            body(job, instance, step)?;
            level(job, instance, &step.steps)?;
        }
    }
    Ok(())
}

/// Whether a step's condition holds; `None` where that depends on a record.
fn holds(job: &Job, instance: &Instance, step: &Step) -> Result<Option<bool>, RunError> {
    let of_record = |when: &&When| {
        when.references().iter().any(|reference| matches!(reference, Reference::Record { .. }))
    };
    let Some(when) = step.when.as_ref().filter(|when| !of_record(when)) else { return Ok(None) };
    let value = |reference: &Reference| instance.value(reference);
    let holds = when.holds(&value).map_err(|why| {
        let (file, path) = (job.file.display(), &step.path);
        RunError::Settings(format!("{file}: step '{path}': when: {why}"))
    })?;
    Ok(Some(holds))
}

/// What a pipeline's configuration makes of the parameters, with something in place of what is not known
/// yet. Without parameters it is what it was when the file was read.
fn body(job: &Job, instance: &Instance, step: &Step) -> Result<(), RunError> {
    let template = match &step.body {
        Body::Pipeline(template) => template,
        Body::ForEach(each) => &each.source,
        _ => return Ok(()),
    };
    if instance.params.is_empty() {
        return Ok(());
    }
    let value = |reference: &Reference| {
        let unknown = || Value::Text(reference.to_string().replace('.', "_"));
        Some(instance.value(reference).unwrap_or_else(unknown))
    };
    let name = format!("{}/{}", job.name, step.path);
    let config = template.config(&name, &value);
    config.map(drop).map_err(|error| RunError::Settings(error.to_string()))
}
