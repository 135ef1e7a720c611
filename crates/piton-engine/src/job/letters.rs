//! The pipeline of a step, for delivering again what it has set aside.

use super::definition::{Body, Instance, Job, Reference, StepFact, Value, for_each_above};
use crate::{
    config::{Sink, SinkSettings},
    connect,
    pipeline::Pipeline,
    run::RunError,
};

/// The pipeline that a step of a job's run is, by the name under which the store has it.
///
/// # Errors
/// [`RunError::Refused`] where a record cannot be delivered by itself: below a `for_each`, and where the
/// step writes its files whole; what is wrong with the pipeline.
pub fn pipeline_of(
    job: &Job,
    instance: &Instance,
    run: &str,
    pipeline: &str,
) -> Result<Pipeline, RunError> {
    let path =
        pipeline.strip_prefix(run).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
    let remedy = |step: &str| {
        let run = piton::job::in_shell(run);
        format!(
            "mend the cause and have the step begin anew with `piton rewind {run} --to {step}`, or \
             drop them with `piton dead-letters drop`"
        )
    };
    let refused = |why: String| Err(RunError::Refused(format!("{pipeline}: {why}")));
    if let Some(each) = for_each_above(&job.steps, path) {
        return refused(format!(
            "what was set aside for one record of the `for_each` '{each}' cannot be delivered again \
             by itself: {}",
            remedy(each)
        ));
    }
    let Some(Body::Pipeline(template)) = job.step(path).map(|step| &step.body) else {
        return refused(format!("{} has no step '{path}' that moves records", job.name));
    };
    let value = |reference: &Reference| match reference {
        // Nothing is read from the source.
        Reference::Step(StepFact::Position) => Some(Value::Null),
        _ => instance.value(reference),
    };
    let config = template.config(pipeline, &value);
    let config = config.map_err(|error| RunError::Settings(error.to_string()))?;
    let is_file =
        |sink: &Sink| matches!(sink.settings, SinkSettings::Jsonl(_) | SinkSettings::Csv(_));
    if config.whole_files && config.sinks.iter().any(is_file) {
        return refused(format!(
            "the step writes its files whole (`restart: from_beginning`), so nothing can be added to \
             them: {}",
            remedy(path)
        ));
    }
    connect::pipeline(&config, false)
}
