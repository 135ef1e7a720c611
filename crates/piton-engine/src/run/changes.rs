//! Whether a run may go on where the last one stopped: the source is what it was, or what to do is
//! settled, and the checkpoint is not too old.

use std::time::Duration;

use futures_executor::block_on;
use jiff::{SignedDuration, Timestamp};
use piton_connectors::sink::Sink;
use piton_core::{RunEnd, Store};

use super::{
    RunError, RunOptions,
    begin::{self, Found},
    definition::{self, Notice},
    make_all,
};
use crate::{job::definition::OnSourceChange, pipeline::Pipeline, steer, wording::span};

/// What was seen before anything was written.
pub(super) struct Looked {
    pub(super) found: Found,
    pub(super) notices: Vec<Notice>,
    /// What was changed, where the pipeline is to begin anew for it.
    pub(super) anew: Option<String>,
}

/// How changes of the source are taken, and those that were met.
pub(super) struct Changed {
    policy: OnSourceChange,
    met: Vec<String>,
}

impl Changed {
    /// For a run that is on its way, which does not begin anew.
    pub(super) fn continued(pipeline: &Pipeline) -> Self {
        let policy = match pipeline.on_source_change {
            OnSourceChange::Continue => OnSourceChange::Continue,
            OnSourceChange::Fail | OnSourceChange::Restart => OnSourceChange::Fail,
        };
        Self { policy, met: Vec::new() }
    }

    /// Whether the pipeline is to begin anew, so that its positions mean nothing any more.
    pub(super) fn begins_anew(&self) -> bool {
        self.policy == OnSourceChange::Restart && !self.met.is_empty()
    }

    /// Notes a change, or refuses it.
    pub(super) fn tell(&mut self, change: String, refusal: RunError) -> Result<(), RunError> {
        if self.policy == OnSourceChange::Fail {
            return Err(refusal);
        }
        if !self.met.contains(&change) {
            self.met.push(change);
        }
        Ok(())
    }
}

/// Decides every refusal, changing nothing.
pub(super) fn look(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
    sinks: &mut [Sink],
) -> Result<Looked, RunError> {
    let mut changed = Changed { policy: pipeline.on_source_change, met: Vec::new() };
    let mut notices = definition::compare(pipeline, store, options, &mut changed)?;
    let adopted = begin::adopted(pipeline, options, sinks)?;
    let found = begin::find(pipeline, store, adopted).or_else(|error| {
        // What a sink has of it, the store may not have yet.
        begin::refuse_gone_in(pipeline, sinks)?;
        Err(error)
    })?;
    let mut newest = None;
    for (spec, sink) in pipeline.sinks.iter().zip(sinks) {
        let at = begin::inspect(pipeline, &found, options, (&spec.name, sink), &mut changed)?;
        newest = newest.max(at);
    }
    let anew = changed.begins_anew();
    let met = changed.met.join("; ");
    if !met.is_empty() && !anew {
        let detail = format!("the source was changed, and it goes on all the same: {met}");
        notices.push(("source_changed", detail));
    }
    if let (false, Some(newest)) = (anew, newest) {
        refuse_old(pipeline, store, options, newest)?;
    }
    Ok(Looked { found, notices, anew: anew.then_some(met) })
}

/// A checkpoint that is too old is not resumed unless that is accepted. Finished work is not
/// resumed.
fn refuse_old(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
    newest: Timestamp,
) -> Result<(), RunError> {
    let Some(most) = pipeline.max_age.filter(|_| !options.accept_age) else { return Ok(()) };
    let last = block_on(store.runs(&pipeline.name, 1))?.pop();
    if last.is_some_and(|run| run.end == Some(RunEnd::Finished)) {
        return Ok(());
    }
    refuse_older(&pipeline.name, newest, most)
}

/// Refuses a checkpoint that is older than `most`.
pub(crate) fn refuse_older(name: &str, newest: Timestamp, most: Duration) -> Result<(), RunError> {
    let age = Timestamp::now().duration_since(newest).max(SignedDuration::ZERO);
    if age.unsigned_abs() <= most {
        return Ok(());
    }
    let (age, most) = (span(age.as_secs_f64()), span(most.as_secs_f64()));
    Err(RunError::Refused(format!(
        "the newest checkpoint of '{name}' is {age} old, and `max_age` lets {most} pass: what it \
         reads may have moved on. Look at it, then go on from there with --accept-age, or begin \
         anew with `piton reset {name}`"
    )))
}

/// Has a pipeline whose source was changed begin anew, under the claim of this run.
fn restart(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
    change: &str,
) -> Result<(), RunError> {
    let (name, detail) = (&pipeline.name, begins_anew(pipeline, change));
    let who = options.owner.to_string();
    let begun = match &pipeline.parent {
        Some(parent) => steer::begin_anew_within(store, name, parent, &who),
        None => steer::begin_own_anew(store, name, &who),
    };
    begun.map_err(|error| RunError::Refused(format!("{detail}, which cannot be: {error}")))?;
    (options.on_notice)(&detail);
    let event = definition::event(name, options, "source_changed", &detail);
    Ok(block_on(store.record(event))?)
}

/// As [`look`], once the pipeline has begun anew for a change of its source, if it has to.
pub(super) fn settle(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
    sinks: &mut Vec<Sink>,
) -> Result<Looked, RunError> {
    let looked = look(pipeline, store, options, sinks)?;
    let Some(change) = looked.anew else { return Ok(looked) };
    restart(pipeline, store, options, &change)?;
    *sinks = make_all(pipeline)?;
    let looked = look(pipeline, store, options, sinks)?;
    match looked.anew {
        None => Ok(looked),
        Some(change) => Err(RunError::Refused(format!(
            "{}: {change}, also for a run that begins anew",
            pipeline.name
        ))),
    }
}

/// What is said of a pipeline that begins anew.
pub(super) fn begins_anew(pipeline: &Pipeline, change: &str) -> String {
    let name = &pipeline.name;
    format!(
        "'{name}' begins anew (`on_source_change: restart`), for its source was changed: {change}"
    )
}
