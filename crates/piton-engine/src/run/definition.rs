//! Whether the definition is the one that ran before.
//!
//! Another source under the same name would be read from a position that means nothing there, and
//! is refused. A changed transform applies from the next record and is noted. A new sink starts at
//! the beginning; one that was removed is named.

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{Checkpoint, Event, PipelineRecord, Store, claim::WHOLE};

use super::{RunError, RunOptions};
use crate::{
    pipeline::Pipeline,
    steer::{SinkRecord, sinks_of},
};

/// A change that is noted in history: what, and the sentence.
pub(crate) type Notice = (&'static str, String);

/// Compares the definition with the registered one, changing nothing.
pub(crate) fn compare(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
) -> Result<Vec<Notice>, RunError> {
    let known = block_on(store.pipelines())?;
    let Some(known) = known.into_iter().find(|known| known.pipeline == pipeline.name) else {
        return Ok(Vec::new());
    };
    let now = &pipeline.record;
    let mut notices = Vec::new();
    if known.source != now.source {
        let change = format!("the source was {}, and is now {}", known.source, now.source);
        if !options.accept_changes && !begins_anew(store, &pipeline.name, None)? {
            return Err(RunError::Refused(format!(
                "'{}' has read another source before: {change}. Its checkpoints mean nothing there. \
                 Use another pipeline name, `piton reset {}` to begin anew, or --accept-changes to \
                 go on from the stored position all the same",
                pipeline.name, pipeline.name
            )));
        }
        notices.push(("source_changed", change));
    }
    if known.transforms != now.transforms {
        let change = format!(
            "the transforms were {}, and are {} from the next record on",
            known.transforms, now.transforms
        );
        notices.push(("transform_changed", change));
    }
    for (sink, change) in changed_tables(&known, now) {
        if !options.accept_changes && !begins_anew(store, &pipeline.name, Some(&sink))? {
            return Err(RunError::Refused(format!(
                "'{}', sink '{sink}': {change}. The records up to its checkpoint would be missing \
                 there. Give the new one a name of its own, `piton reset {} --sink {sink}` to write \
                 all of it there, or --accept-changes to go on from the checkpoint all the same",
                pipeline.name, pipeline.name
            )));
        }
        notices.push(("sink_changed", format!("sink '{sink}': {change}")));
    }
    notices.extend(compare_sinks(&known, now));
    Ok(notices)
}

/// Whether an operator's reset waits and nothing is left to go on from.
fn begins_anew(store: &dyn Store, pipeline: &str, sink: Option<&str>) -> Result<bool, RunError> {
    let checkpoints = block_on(store.load(pipeline))?;
    let orders = block_on(store.orders(pipeline))?;
    let of_sink = |name: &str| sink.is_none_or(|sink| sink == name || name == WHOLE);
    let stands = |c: &Checkpoint| of_sink(&c.key.sink) && c.position.is_some();
    Ok(!checkpoints.iter().any(stands) && orders.iter().any(|order| of_sink(&order.sink)))
}

/// The sinks that write another table of their database than before.
fn changed_tables(known: &PipelineRecord, now: &PipelineRecord) -> Vec<(String, String)> {
    let before = sinks_of(known);
    let change = |sink: SinkRecord| {
        let was = before.iter().find(|was| was.name == sink.name)?;
        let (from, to) = (was.table.as_ref()?, sink.table?);
        let change = format!("it wrote the table '{from}', and would now write '{to}'");
        (!from.eq_ignore_ascii_case(&to)).then_some((sink.name, change))
    };
    sinks_of(now).into_iter().filter_map(change).collect()
}

fn compare_sinks(known: &PipelineRecord, now: &PipelineRecord) -> Vec<Notice> {
    let names = |record: &PipelineRecord| -> Vec<String> {
        sinks_of(record).into_iter().map(|sink| sink.name).collect()
    };
    let (before, after) = (names(known), names(now));
    let new = after
        .iter()
        .filter(|name| !before.contains(name))
        .map(|name| ("sink_added", format!("sink '{name}' is new: it starts at the beginning")));
    let gone = before.iter().filter(|name| !after.contains(name)).map(|name| {
        (
            "sink_removed",
            format!("sink '{name}' is no longer in the configuration; its checkpoint stays"),
        )
    });
    new.chain(gone).collect()
}

/// Registers the definition and notes what has changed.
pub(crate) fn register(
    pipeline: &Pipeline,
    store: &dyn Store,
    notices: &[Notice],
    options: &RunOptions,
) -> Result<(), RunError> {
    block_on(store.register(pipeline.record.clone()))?;
    for (what, detail) in notices {
        (options.on_notice)(detail);
        block_on(store.record(event(&pipeline.name, options, what, detail)))?;
    }
    Ok(())
}

/// An event of this run's owner.
pub(crate) fn event(pipeline: &str, options: &RunOptions, what: &str, detail: &str) -> Event {
    Event {
        id: 0,
        pipeline: pipeline.to_owned(),
        at: Timestamp::now(),
        who: options.owner.to_string(),
        what: what.to_owned(),
        detail: detail.to_owned(),
    }
}
