//! A step that moves records: a pipeline with an end, under the name `INSTANCE/PATH`.

use std::{sync::Arc, time::Duration};

use futures_executor::block_on;
use jiff::Timestamp;
use piton::job::Begun;
use piton_core::StoredPosition;

use super::value_of;
use crate::{
    config::{Config, ConfigError, Sink, SinkSettings, SourceSettings},
    connect,
    job::{
        definition::{
            Body, ForEach, OnSourceChange, Reference, Restart, Step, Template, Value, Values,
        },
        run::Course,
        stepping::Scope,
        walk::Went,
        within::{self, is_of},
    },
    pipeline::Pipeline,
    run::{self, Figures, Outcome, RunError, Signal},
    steer,
};

/// How many runs are kept of a pipeline that is run for each parent, before the oldest go.
const RUNS: u64 = 64;

pub(super) fn run(
    course: &Course<'_>,
    step: &Step,
    template: &Template,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<(Went, Option<u64>), RunError> {
    let pipeline = pipeline(course, made(course, step, template, scope, begun)?)?;
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

/// A step's configuration, under the name of its pipeline.
struct Made {
    config: Config,
    /// What it is for any parent, where one pipeline does all.
    any: Option<Config>,
    /// For which parent it is run.
    parent: Option<String>,
}

/// Fills in what a step's pipeline refers to. Below a `for_each` one pipeline does parents one after
/// the other, under the name of the step's checkpoint; unless it writes or reads somewhere else for
/// each parent: then each has its own.
fn made(
    course: &Course<'_>,
    step: &Step,
    template: &Template,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<Made, RunError> {
    let name = format!("{}/{}", course.steps.job(), scope.path(&step.path));
    let value = value_of(scope, begun);
    let filled = |name: &str, values: &Values<'_>| {
        template.config(name, values).map_err(|error| RunError::Settings(error.to_string()))
    };
    let config = filled(&name, &value)?;
    let (Some(record), parent) = (scope.record_id(), scope.parent_id()) else {
        return Ok(Made { config, any: None, parent: None });
    };
    let any = filled(&name, &|reference| whatever(reference, &value))?;
    if is_same_for_all(&config, &any) {
        return Ok(Made { config, any: Some(any), parent });
    }
    let name = format!("{}/{}[{}]", course.steps.job(), step.path, super::sql::short(&record));
    Ok(Made { config: filled(&name, &value)?, any: None, parent })
}

/// A value that does not depend on the parent.
fn whatever(reference: &Reference, value: &Values<'_>) -> Option<Value> {
    match reference {
        Reference::Record { .. } => Some(Value::Text(reference.to_string().replace('.', "_"))),
        _ => value(reference),
    }
}

/// Whether the same is written for each parent, and positions mean the same. What is bound in a
/// query, or handed to a command, is no part of that.
fn is_same_for_all(config: &Config, any: &Config) -> bool {
    let (mine, others) = (&config.described, &any.described);
    let is_command = matches!(config.source.settings, SourceSettings::Command(_));
    mine.sinks == others.sinks && (is_command || mine.source == others.source)
}

fn pipeline(course: &Course<'_>, made: Made) -> Result<Pipeline, RunError> {
    let Made { config, any, parent } = made;
    let accepts = course.options.accept_changes;
    let mut pipeline = connect::pipeline(&config, accepts)?;
    let Some(parent) = parent else { return Ok(pipeline) };
    if let Some(any) = any {
        // What is remembered of it is the same for all.
        pipeline.record.transforms = any.described.transform.to_string();
        if config.described.source != any.described.source {
            let source = connect::source(&any, accepts);
            let source = source.map_err(|error| RunError::of_source(&any.pipeline, &error))?;
            pipeline.record.source = source.identity().to_string();
        }
        thin(course, &pipeline.name, &parent)?;
        pipeline.parent = Some(parent.as_str().into());
    }
    Ok(pipeline.within(&parent))
}

/// Forgets runs for parents before this one, from time to time.
fn thin(course: &Course<'_>, name: &str, parent: &str) -> Result<(), RunError> {
    if (block_on(course.store.runs(name, RUNS))?.len() as u64) < RUNS {
        return Ok(());
    }
    let standing = block_on(course.store.load(name))?;
    if !standing.iter().any(|checkpoint| is_of(parent, checkpoint)) {
        block_on(course.store.thin(name, Duration::ZERO, Timestamp::now()))?;
    }
    Ok(())
}

/// Why one file for all parents will not do.
#[derive(Clone, Copy)]
enum Apart {
    AtOnce,
    Anew,
}

/// Refuses steps below a `for_each` that write one file for all parents, where it is written for
/// several at once, or one of them is to begin anew: what is there of one cannot be told from others.
pub(super) fn refuse_shared_files(
    for_each: &ForEach,
    steps: &[Step],
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<(), RunError> {
    let apart = (for_each.concurrency.get() > 1).then_some(Apart::AtOnce);
    steps.iter().try_for_each(|step| refuse_shared_file(step, apart, scope, begun))
}

fn refuse_shared_file(
    step: &Step,
    apart: Option<Apart>,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<(), RunError> {
    let mut apart = apart;
    if step.restart == Restart::FromBeginning {
        apart = apart.or(Some(Apart::Anew));
    }
    match &step.body {
        Body::ForEach(each) if each.concurrency.get() > 1 => apart = Some(Apart::AtOnce),
        Body::Pipeline(template) => {
            let value = value_of(scope, begun);
            let [one, other] = ["1", "2"].map(|id| {
                let value = |reference: &Reference| match reference {
                    Reference::Record { .. } => Some(Value::Text(id.to_owned())),
                    _ => value(reference),
                };
                template.config(&step.path, &value)
            });
            let settings = |error: ConfigError| RunError::Settings(error.to_string());
            refuse_same_file(step, &one.map_err(settings)?, &other.map_err(settings)?, apart)?;
        }
        _ => {}
    }
    step.steps.iter().try_for_each(|step| refuse_shared_file(step, apart, scope, begun))
}

fn refuse_same_file(
    step: &Step,
    one: &Config,
    other: &Config,
    apart: Option<Apart>,
) -> Result<(), RunError> {
    let restarts = one.on_source_change == OnSourceChange::Restart;
    let why = match apart.or(restarts.then_some(Apart::Anew)) {
        None => return Ok(()),
        Some(Apart::AtOnce) => "the `for_each` above does several records at once",
        Some(Apart::Anew) => "what was written for one record that begins anew cannot be cut out",
    };
    let is_file =
        |sink: &&Sink| matches!(sink.settings, SinkSettings::Jsonl(_) | SinkSettings::Csv(_));
    let is_same =
        |sink: &&Sink| one.described.sinks.get(&sink.name) == other.described.sinks.get(&sink.name);
    match one.sinks.iter().filter(is_file).find(is_same) {
        None => Ok(()),
        Some(sink) => Err(RunError::Settings(format!(
            "step '{}': sink '{}' is one file for all records, and {why}: give each a file of its \
             own by its `path`",
            step.path, sink.name
        ))),
    }
}

/// Where it stands: the first of its checkpoints.
pub(super) fn position(
    course: &Course<'_>,
    step: &Step,
    template: &Template,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<Option<StoredPosition>, RunError> {
    let Made { config, parent, .. } = made(course, step, template, scope, begun)?;
    let checkpoints = block_on(course.store.load(&config.pipeline))?;
    let mut positions = checkpoints.into_iter().filter_map(|checkpoint| checkpoint.position);
    Ok(match parent {
        None => positions.next(),
        Some(parent) => positions.find_map(|position| within::standing(&parent, &position)),
    })
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

/// Resets the pipelines of a step and of all below it. What they have put into files is cut. Of one
/// that is run for many parents only what it did for the parent at hand counts no more.
pub(super) fn forget(course: &Course<'_>, step: &Step, scope: &Scope<'_>) -> Result<(), RunError> {
    let (job, who) = (course.steps.job(), course.options.owner.to_string());
    let at = [scope.path(&step.path), (&*step.path).into()].map(|path| format!("{job}/{path}"));
    let is_below = |rest: &str| matches!(rest.as_bytes(), [] | [b'/' | b'#' | b'[', ..]);
    // Those below it first: while its own stands, whoever recovers it is told where it stood.
    for known in block_on(course.store.pipelines())?.into_iter().rev() {
        let name = &known.pipeline;
        if !at.iter().filter_map(|at| name.strip_prefix(at)).any(is_below) {
            continue;
        }
        let store = &**course.store;
        let forgotten = match scope.parent_id() {
            None => steer::begin_anew(store, name, &who),
            // It is there for one record alone.
            Some(parent) if name.ends_with(']') => {
                let standing = block_on(store.load(name))?;
                if !standing.iter().any(|checkpoint| is_of(&parent, checkpoint)) {
                    continue;
                }
                steer::begin_anew(store, name, &who)
            }
            Some(parent) => steer::begin_anew_within(store, name, &parent, &who),
        };
        forgotten.map_err(|error| RunError::Refused(error.to_string()))?;
    }
    Ok(())
}
