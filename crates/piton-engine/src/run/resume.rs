//! From what a sink without a checkpoint of its own is resumed, pending orders considered.
//!
//! A file has one length and may hold the rows of several partitions. It can be cut only where all
//! rows that stay lie before the cut, and all that are read again lie after it. Where that is not
//! known, the orders are refused: a cut by guess would lose rows.

use std::collections::BTreeMap;

use piton_connectors::sink::Resume;
use piton_core::{Checkpoint, Order, OrderKind, Output, claim::WHOLE};

use crate::steer::{Replay, SinkRecord};

/// What a plain sink is resumed from. `checkpoints` and `orders` are those of this sink, orders
/// oldest first.
///
/// # Errors
/// Why the orders cannot be carried out, and the choices.
pub(crate) fn resume(
    pipeline: &str,
    sink: Option<&SinkRecord>,
    checkpoints: &[Checkpoint],
    orders: &[Order],
    adopt: bool,
) -> Result<Resume, String> {
    let orders = newest_of_each_partition(orders);
    let can_cut = sink.is_some_and(|sink| sink.replay == Replay::CutOrRepeat);
    let resume = |state, output| Ok(Resume { state, adopt, output });
    if orders.is_empty() || !can_cut {
        return resume(governing_state(checkpoints), None);
    }
    let with = |output| orders.iter().find(move |order| order.output == output);
    match (with(None), with(Some(Output::Truncate)), with(Some(Output::Keep))) {
        (Some(_), None, None) if !adopt && !checkpoints.iter().any(is_past_begun) => {
            // As if there were no checkpoint: an empty file will do.
            resume(None, None)
        }
        (Some(order), ..) if !adopt => Err(undecided(pipeline, order)),
        (_, Some(_), None) => {
            resume(Some(cut(pipeline, checkpoints, &orders)?), Some(Output::Truncate))
        }
        (_, Some(cut), Some(kept)) => Err(format!(
            "the output is to be cut for partition '{}' and to be kept for '{}', and it is one \
             file: order the same for both with `piton reset {pipeline}`",
            cut.partition, kept.partition
        )),
        (_, None, _) => {
            let ordered = orders.iter().filter_map(|order| order.sink_state.as_deref());
            let known = governing_state(checkpoints).or_else(|| longest(ordered));
            resume(known, Some(Output::Keep))
        }
    }
}

/// What is said of a checkpoint that was deleted by hand where output cannot be written over.
pub(crate) fn undecided(pipeline: &str, order: &Order) -> String {
    format!(
        "the checkpoint of partition '{}' was deleted ({}), and records that are read again would \
         be in the output twice: say `piton reset {pipeline} --truncate` to cut what it wrote, or \
         --keep to leave it (records will repeat)",
        order.partition, order.who
    )
}

/// The state of the length to cut to.
fn cut(pipeline: &str, checkpoints: &[Checkpoint], orders: &[&Order]) -> Result<String, String> {
    let states = orders.iter().map(|order| (order, order.sink_state.as_deref()));
    let known = states.clone().filter_map(|(_, state)| Some((length(state?)?, state?)));
    let unknown = states.clone().find(|(_, state)| state.and_then(length).is_none());
    let anew = orders.iter().all(|order| order.kind == OrderKind::Reset);
    let to = known.min_by_key(|(length, _)| *length);
    // A partition that was found on the way began after the first: cutting for that one will do,
    // if nothing of it is to stay.
    let (Some((to, state)), true) = (to, unknown.is_none() || anew) else {
        let partition = unknown.map_or("", |(order, _)| order.partition.as_str());
        return Err(format!(
            "the output cannot be cut: how long it was at that place is not known of partition \
             '{partition}'. Say `piton reset {pipeline} --keep`, and records will repeat"
        ));
    };
    let stays = |checkpoint: &&Checkpoint| {
        let length = checkpoint.sink_state.as_deref().and_then(length);
        is_past_begun(checkpoint) && length.is_none_or(|length| length > to)
    };
    match checkpoints.iter().find(stays) {
        None => Ok(state.to_owned()),
        Some(stays) => Err(format!(
            "the output cannot be cut to byte {to}: rows of partition '{}' that are to stay lie \
             past it. Say `piton reset {pipeline} --truncate` to write all of it anew, or --keep, \
             and records will repeat",
            stays.key.partition
        )),
    }
}

fn is_past_begun(checkpoint: &Checkpoint) -> bool {
    checkpoint.position.is_some()
}

fn newest_of_each_partition(orders: &[Order]) -> Vec<&Order> {
    let mut newest = BTreeMap::new();
    for order in orders {
        if order.partition == WHOLE {
            newest.clear();
        }
        newest.insert(&order.partition, order);
    }
    newest.into_values().collect()
}

/// The sink state that governs: a file only grows, so of several the longest.
pub(crate) fn governing_state<'a>(
    checkpoints: impl IntoIterator<Item = &'a Checkpoint>,
) -> Option<String> {
    longest(checkpoints.into_iter().filter_map(|c| c.sink_state.as_deref()))
}

fn longest<'a>(states: impl Iterator<Item = &'a str>) -> Option<String> {
    states.max_by_key(|state| length(state).unwrap_or(0)).map(str::to_owned)
}

/// The `length` of a sink state, if it has one.
fn length(state: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_str(state).ok()?;
    value.get("length")?.as_u64()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use jiff::Timestamp;
    use piton_core::{CheckpointKey, Epoch, StoredPosition};

    use super::*;

    const FILE: SinkRecord = SinkRecord {
        name: String::new(),
        kind: String::new(),
        at: String::new(),
        table: None,
        replay: Replay::CutOrRepeat,
    };

    fn state(length: u64) -> Option<String> {
        Some(format!("{{\"length\":{length}}}"))
    }

    fn stays(partition: &str, length: u64) -> Checkpoint {
        Checkpoint {
            key: CheckpointKey::new("p", partition, "s"),
            position: StoredPosition::of(&1_u64).ok(),
            records: 0,
            version: 2,
            epoch: Epoch(1),
            schema_version: 0,
            updated_at: Timestamp::UNIX_EPOCH,
            sink_state: state(length),
        }
    }

    fn order(partition: &str, kind: OrderKind, length: u64, output: Option<Output>) -> Order {
        Order {
            id: 1,
            pipeline: "p".into(),
            partition: partition.into(),
            sink: "s".into(),
            kind,
            position: None,
            records: 0,
            sink_state: state(length),
            output,
            who: "me".into(),
            at: Timestamp::UNIX_EPOCH,
            applied_at: None,
        }
    }

    fn judge(checkpoints: &[Checkpoint], orders: &[Order]) -> Result<Resume, String> {
        resume("p", Some(&FILE), checkpoints, orders, false)
    }

    #[test]
    fn a_file_is_cut_only_where_all_that_stays_lies_before() {
        // Invariant 1: what a checkpoint covers is never cut off.
        use OrderKind::{Reset, Rewind};
        let cut = Some(Output::Truncate);
        let both = [order("a", Rewind, 30, cut), order("b", Reset, 0, cut)];
        assert!(judge(&[stays("a", 30)], &both).unwrap_err().contains("'a'"));
        let both = [order("a", Reset, 0, cut), order("b", Rewind, 60, cut)];
        assert!(judge(&[stays("b", 60)], &both).unwrap_err().contains("'b'"));
        // Both go back to what was saved together, or what is not touched lies before.
        let both = [order("a", Rewind, 30, cut), order("b", Rewind, 30, cut)];
        let cut_to = |at: &[Checkpoint], orders: &[Order]| judge(at, orders).unwrap().state;
        assert_eq!(cut_to(&[stays("a", 30), stays("b", 30)], &both), state(30));
        let one = [order("b", Rewind, 60, cut)];
        assert_eq!(cut_to(&[stays("a", 30), stays("b", 60)], &one), state(60));
        let all = [order("a", Reset, 10, cut), order("b", Reset, 20, cut)];
        assert_eq!(cut_to(&[], &all), state(10), "what was there before stays");
    }

    #[test]
    fn a_length_that_is_not_known_is_not_taken_for_zero() {
        let unknown =
            |kind| Order { sink_state: None, ..order("a", kind, 0, Some(Output::Truncate)) };
        assert!(judge(&[], &[unknown(OrderKind::Reset)]).unwrap_err().contains("--keep"));
        let known = order("b", OrderKind::Reset, 10, Some(Output::Truncate));
        assert_eq!(judge(&[], &[unknown(OrderKind::Reset), known]).unwrap().state, state(10));
    }

    #[test]
    fn a_deletion_by_hand_leaves_the_choice() {
        let deleted = order("b", OrderKind::Reset, 0, None);
        assert_eq!(judge(&[], from_ref(&deleted)).unwrap(), Resume::default());
        let why = judge(&[stays("a", 30)], from_ref(&deleted)).unwrap_err();
        assert!(why.contains("--truncate") && why.contains("--keep"), "{why}");
        let decided = order("b", OrderKind::Reset, 0, Some(Output::Keep));
        let kept = judge(&[stays("a", 30)], &[deleted, decided]).unwrap();
        assert_eq!((kept.output, kept.state), (Some(Output::Keep), state(30)));
    }
}
