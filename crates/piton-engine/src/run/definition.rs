//! Whether the definition is the one that ran before.
//!
//! Another source under the same name would be read from a position that means nothing there, and
//! is refused. A changed transform applies from the next record and is noted. A new sink starts at
//! the beginning; one that was removed is named. One that writes something else under its old name
//! is refused, for its checkpoint covers what is not there.

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{Checkpoint, Event, PipelineRecord, Store};
use serde_json::{Map, Value};

use super::{RunError, RunOptions, changes::Changed};
use crate::{
    pipeline::Pipeline,
    plan::brief_source,
    steer::{SinkRecord, sinks_of},
};

/// A change that is noted in history: what, and the sentence.
pub(super) type Notice = (&'static str, String);

/// Compares the definition with the registered one, changing nothing. A pipeline that is to begin
/// anew for a changed source is told so in `changed`.
pub(super) fn compare(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
    changed: &mut Changed,
) -> Result<Vec<Notice>, RunError> {
    let known = block_on(store.pipelines())?;
    let Some(known) = known.into_iter().find(|known| known.pipeline == pipeline.name) else {
        return Ok(Vec::new());
    };
    let now = &pipeline.record;
    let mut notices = Vec::new();
    // A source that is away cannot say what it is; the run says that it is away.
    if known.source != now.source && pipeline.source.partitions().is_ok() {
        let change = difference(&known.source, &now.source);
        if options.accept_changes || begins_anew(store, &pipeline.name)? {
            notices.push(("source_changed", change));
        } else {
            let refusal = RunError::Refused(format!(
                "'{}' has read another source before: {change}. Its checkpoints mean nothing there. \
                 Use another pipeline name, `piton reset {}` to begin anew, or --accept-changes to \
                 go on from the stored position all the same",
                pipeline.name, pipeline.name
            ));
            changed.tell(change, refusal)?;
        }
    }
    if known.transforms != now.transforms {
        let change = format!(
            "the transforms were {}, and are {} from the next record on",
            known.transforms, now.transforms
        );
        notices.push(("transform_changed", change));
    }
    notices.extend(compare_sinks(&known, now));
    notices.extend(compare_outputs(pipeline, store, &known, options)?);
    Ok(notices)
}

/// Whether an operator's reset waits and nothing is left to go on from.
fn begins_anew(store: &dyn Store, pipeline: &str) -> Result<bool, RunError> {
    let checkpoints = block_on(store.load(pipeline))?;
    let goes_on = checkpoints.iter().any(|checkpoint| checkpoint.position.is_some());
    Ok(!goes_on && !block_on(store.orders(pipeline))?.is_empty())
}

/// What is different in a source's identity: the settings that were changed, or all of it.
fn difference(before: &str, now: &str) -> String {
    let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    let (before, now) = (parse(before), parse(now));
    let whole = || {
        let (before, now) = (brief_source(&before), brief_source(&now));
        format!("the source was {before}, and is now {now}")
    };
    let (Value::Object(was), Value::Object(is)) = (&before, &now) else { return whole() };
    // Files are described under the name of their connector.
    let (under, was, is) = match (only(was), only(is)) {
        (Some((name, was)), Some((same, is))) if name == same => (format!("{name}."), was, is),
        (Some(_), _) | (_, Some(_)) => return whole(),
        _ => (was.get("kind").and_then(Value::as_str).map_or(String::new(), dotted), was, is),
    };
    let keys = was.keys().chain(is.keys().filter(|key| !was.contains_key(*key)));
    let shown = |value: Option<&Value>| value.map_or("not set".to_owned(), Value::to_string);
    let changes = keys.filter(|key| was.get(*key) != is.get(*key)).map(|key| {
        format!("{under}{key} was {}, and is now {}", shown(was.get(key)), shown(is.get(key)))
    });
    changes.collect::<Vec<_>>().join("; ")
}

fn dotted(kind: &str) -> String {
    format!("{kind}.")
}

/// The one entry of a map that has no other, if it is a map itself.
fn only(map: &Map<String, Value>) -> Option<(&String, &Map<String, Value>)> {
    let (name, value) = map.iter().next().filter(|_| map.len() == 1)?;
    Some((name, value.as_object()?))
}

/// A checkpoint speaks for what its sink wrote. Under the same name, another kind of sink or
/// another table has none of that, and would miss all that the checkpoint covers.
fn compare_outputs(
    pipeline: &Pipeline,
    store: &dyn Store,
    known: &PipelineRecord,
    options: &RunOptions,
) -> Result<Vec<Notice>, RunError> {
    let checkpoints = block_on(store.load(&pipeline.name))?;
    let orders = block_on(store.orders(&pipeline.name))?;
    let mut notices = Vec::new();
    let before = sinks_of(known);
    for now in sinks_of(&pipeline.record) {
        let Some(before) = before.iter().find(|before| before.name == now.name) else { continue };
        // What has only begun here may be further in a sink that keeps its own, unless a reset
        // waits for it.
        let goes_on = |c: &Checkpoint| {
            let (partition, sink) = (&c.key.partition, &c.key.sink);
            let ordered = orders.iter().any(|order| order.covers(partition, sink));
            *sink == now.name && (c.position.is_some() || !ordered)
        };
        if is_same_output(before, &now) || !checkpoints.iter().any(goes_on) {
            continue;
        }
        let change =
            format!("sink '{}' was {}, and is now {}", now.name, before.output(), now.output());
        if !options.accept_changes {
            return Err(RunError::Refused(format!(
                "{}: {change}, which has nothing of what its checkpoint covers. Give the sink \
                 another name to fill it from the beginning, or `piton reset {} --sink {}`, or \
                 --accept-changes to go on from the checkpoint all the same",
                pipeline.name, pipeline.name, now.name
            )));
        }
        notices.push(("sink_changed", change));
    }
    Ok(notices)
}

/// A path may be another: folders are moved, and whether what is there is the right thing, the sink
/// finds out.
fn is_same_output(before: &SinkRecord, now: &SinkRecord) -> bool {
    let same_table = match (&before.table, &now.table) {
        (Some(before), Some(now)) => before.eq_ignore_ascii_case(now),
        _ => true,
    };
    before.kind == now.kind && same_table
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
pub(super) fn register(
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
