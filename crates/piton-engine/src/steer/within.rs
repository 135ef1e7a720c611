//! A pipeline that does the parents of a `for_each` one after the other, and is to begin anew for one
//! of them: what it did for those before stays.

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{Checkpoint, Order, Output, Store};

use super::{Replay, SteerError, event, find, sinks_of};
use crate::job::within::is_of;

/// Has a pipeline begin anew for the parent at hand. Rows that it put into tables for that one are
/// left to whoever recovers it.
///
/// # Errors
/// When the pipeline is unknown, or writes one file for all parents, which holds more than this one.
pub(crate) fn begin_anew_within(
    store: &dyn Store,
    name: &str,
    parent: &str,
    who: &str,
) -> Result<(), SteerError> {
    let sinks = sinks_of(&find(store, name)?);
    let sink_of =
        |checkpoint: &Checkpoint| sinks.iter().find(|sink| sink.name == checkpoint.key.sink);
    let mut checkpoints = block_on(store.load(name))?;
    checkpoints.retain(|checkpoint| is_of(parent, checkpoint));
    if checkpoints.is_empty() {
        return Ok(());
    }
    let is_file = |kind: &str| matches!(kind, "jsonl" | "csv");
    if let Some(sink) = checkpoints.iter().filter_map(sink_of).find(|sink| is_file(&sink.kind)) {
        return Err(SteerError::Undecided(format!(
            "{name}, sink '{}': what was written for '{parent}' cannot be cut out of one file for \
             all records: give each a file of its own by its `path`, or leave out what has it begin \
             anew",
            sink.name
        )));
    }
    let order = |checkpoint: &Checkpoint| {
        let replay = sink_of(checkpoint).map(|sink| sink.replay);
        let appends = matches!(replay, Some(Replay::CutOrRepeat | Replay::Repeats));
        let output = appends.then_some(Output::Keep);
        Order { output, ..Order::reset(&checkpoint.key, who, Timestamp::now()) }
    };
    let detail = format!("begins anew for {parent}");
    let orders = checkpoints.iter().map(order).collect();
    Ok(block_on(store.order(orders, event(name, who, "restart", detail)))?)
}
