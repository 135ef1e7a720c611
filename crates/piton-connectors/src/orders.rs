//! What becomes of the checkpoints that a sink keeps: when they are taken over, with an operator's
//! orders (reset and rewind, and what becomes of rows past the position), and when they advance.
//!
//! An upsert writes over, so nothing is cut. An append sink of a database that numbers rows knows the last row number of every
//! checkpoint (`{"rowid": 1200, "begun": 0}`; `begun` is the last one before its first write).
//! Cutting is by row number, so it is refused where rows of a partition that stays lie past the
//! cut, and where the checkpoint has no row number.

use std::collections::BTreeSet;

use jiff::Timestamp;
use piton_core::{Checkpoint, CheckpointKey, Order, OrderKind, Output, claim::WHOLE};
use piton_stores::joined::ledger::Ledger;
use serde::{Deserialize, Serialize};

use crate::sink::{Advance, Fence, SinkError};

/// What a sink that numbers no rows keeps in a checkpoint once its table was there: without it, a
/// checkpoint may well have a position and no table, as when all records were filtered out.
const WRITTEN: &str = r#"{"written":true}"#;

/// What an append sink keeps in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rows {
    /// The last row of the table at this checkpoint.
    pub(crate) rowid: i64,
    /// The last row before the first write of this partition.
    pub(crate) begun: i64,
}

impl Rows {
    /// Reads a sink state.
    pub(crate) fn parse(state: Option<&str>) -> Option<Self> {
        serde_json::from_str(state?).ok()
    }

    /// The sink state.
    pub(crate) fn state(self) -> String {
        format!("{{\"rowid\":{},\"begun\":{}}}", self.rowid, self.begun)
    }
}

/// Whether a sink goes on from a checkpoint: it has a position, and no order resets it.
pub(crate) fn goes_on(checkpoint: &Checkpoint, orders: &[Order]) -> bool {
    let key = &checkpoint.key;
    let order = orders.iter().rev().find(|order| order.covers(&key.partition, &key.sink));
    checkpoint.position.is_some() && order.is_none_or(|order| order.kind == OrderKind::Rewind)
}

/// Whether a sink that numbers no rows goes on from a checkpoint at which its table was there.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn needs_table(ledger: &Ledger, orders: &[Order]) -> bool {
    let is_written = |row: &Checkpoint| row.sink_state.as_deref() == Some(WRITTEN);
    ledger.rows.values().any(|row| is_written(row) && goes_on(row, orders))
}

/// A checkpoint at which the table of a sink that numbers no rows was there.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn with_table(checkpoint: Checkpoint) -> Checkpoint {
    Checkpoint { sink_state: Some(WRITTEN.to_owned()), ..checkpoint }
}

/// What the checkpoints cover would be missing.
pub(crate) fn gone(table: &str, at: &str, pipeline: &str, sink: &str) -> SinkError {
    SinkError::Refused {
        what: format!(
            "table '{table}' in {at} is gone, and its checkpoint says that it was written to. \
             Restore it, `piton reset {pipeline} --sink {sink}` to write it anew, or run with \
             --adopt to go on with an empty one"
        ),
    }
}

/// The row number past which orders want everything to go, if they do, where rows are appended.
///
/// # Errors
/// Says why it cannot be done.
pub(crate) fn cut(ledger: &Ledger, fence: &Fence) -> Result<Option<i64>, String> {
    let orders: Vec<&Order> = covering(fence).collect();
    cut_to(ledger, &orders)
}

fn covering(fence: &Fence) -> impl Iterator<Item = &Order> {
    fence.orders.iter().filter(|order| order.covers(&order.partition, &fence.sink))
}

/// Gives every row the epoch of the claim, creates those that are missing, and applies orders.
/// `end` is the last row of a table that numbers its rows as they are appended.
pub(crate) fn take_over(ledger: &mut Ledger, fence: &Fence, end: Option<i64>, now: Timestamp) {
    let orders: Vec<&Order> = covering(fence).collect();
    let named = orders.iter().map(|o| o.partition.clone()).filter(|p| p != WHOLE);
    let partitions: BTreeSet<String> =
        fence.partitions.iter().cloned().chain(ledger.rows.keys().cloned()).chain(named).collect();
    ledger.epoch = fence.epoch;
    for partition in partitions {
        let known = ledger.rows.get(&partition).cloned();
        let fresh = || begun(CheckpointKey::new(&*fence.pipeline, &*partition, &*fence.sink), now);
        let is_new = known.is_none();
        let mut row = known.unwrap_or_else(fresh);
        let is_written = row.sink_state.as_deref() == Some(WRITTEN);
        if is_new || (end.is_none() && !is_written) {
            row.sink_state = end.map(|rowid| Rows { rowid, begun: rowid }.state());
        }
        for order in orders.iter().filter(|order| order.covers(&partition, &fence.sink)) {
            apply(order, &mut row, end, now);
        }
        row.epoch = fence.epoch;
        ledger.rows.insert(partition, row);
    }
}

/// The checkpoint that an advance makes of the present one. Its sink state is still the present
/// one's.
pub(crate) fn advanced(ledger: &Ledger, advance: &Advance, now: Timestamp) -> Checkpoint {
    let Advance { partition, position, records } = advance;
    let old = ledger.rows.get(partition).cloned().unwrap_or_else(|| {
        // The store has noted that it began, at version 1.
        begun(CheckpointKey::new(&*ledger.pipeline, &**partition, &*ledger.sink), now)
    });
    Checkpoint {
        version: old.version + 1,
        position: Some(position.clone()),
        records: *records,
        epoch: ledger.epoch,
        updated_at: now,
        ..old
    }
}

/// A checkpoint before anything is durable.
fn begun(key: CheckpointKey, now: Timestamp) -> Checkpoint {
    Checkpoint {
        key,
        position: None,
        records: 0,
        version: 1,
        epoch: piton_core::Epoch(0),
        schema_version: 0,
        updated_at: now,
        sink_state: None,
    }
}

fn apply(order: &Order, row: &mut Checkpoint, end: Option<i64>, now: Timestamp) {
    let kept = Rows::parse(row.sink_state.as_deref());
    let cuts = order.output == Some(Output::Truncate);
    row.version += 1;
    row.updated_at = now;
    match order.kind {
        OrderKind::Reset => (row.position, row.records) = (None, 0),
        OrderKind::Rewind => {
            row.position.clone_from(&order.position);
            row.records = order.records;
        }
    }
    if end.is_none() && order.kind == OrderKind::Rewind {
        // What is before the position stays, in the table if there is one.
        row.sink_state = row.sink_state.take().filter(|state| state == WRITTEN);
        return;
    }
    let at = Rows::parse(order.sink_state.as_deref());
    row.sink_state = end.map(|end| {
        let begun = kept.map_or(end, |rows| rows.begun);
        let rows = match order.kind {
            OrderKind::Reset if cuts => Rows { rowid: end, begun },
            // What stays is not this partition's any more: a later cut must not reach it.
            OrderKind::Reset => Rows { rowid: end, begun: end },
            OrderKind::Rewind if cuts => at.unwrap_or(Rows { rowid: end, begun }),
            OrderKind::Rewind => Rows { rowid: end, begun },
        };
        rows.state()
    });
}

/// The row number past which everything goes, if anything does.
fn cut_to(ledger: &Ledger, orders: &[&Order]) -> Result<Option<i64>, String> {
    let mut cut: Option<i64> = None;
    let mut kept: Vec<(&str, i64)> = Vec::new();
    for (partition, row) in &ledger.rows {
        let rows = Rows::parse(row.sink_state.as_deref());
        // Where nothing is known, all of it stays.
        let top = rows.map_or(i64::MAX, |rows| rows.rowid);
        let mut stays = row.position.is_some().then_some(top);
        // A later order takes the place of those before it.
        let newest = orders.iter().rev().find(|o| o.covers(partition, &row.key.sink));
        if let Some(order) = newest.filter(|o| o.output == Some(Output::Truncate)) {
            let state = match order.kind {
                OrderKind::Reset => rows.map(|rows| rows.begun),
                OrderKind::Rewind => Rows::parse(order.sink_state.as_deref()).map(|r| r.rowid),
            };
            let Some(to) = state else {
                return Err(format!(
                    "cannot cut the output of partition '{partition}': its checkpoint has no row \
                     number (the table has none, or another mode wrote it). Use --keep, and \
                     records will repeat"
                ));
            };
            if top > to {
                cut = Some(cut.map_or(to, |cut| cut.min(to)));
            }
            stays = stays.map(|row| row.min(to)).filter(|_| order.kind == OrderKind::Rewind);
        }
        kept.extend(stays.map(|row| (partition.as_str(), row)));
    }
    let Some(cut) = cut else { return Ok(None) };
    match kept.iter().find(|(_, row)| *row > cut) {
        Some((partition, row)) => Err(format!(
            "cannot cut the output to row {cut}: rows of partition '{partition}', up to row {row}, \
             lie among those that would go. Order the same for every partition, or use --keep, \
             and records will repeat"
        )),
        None => Ok(Some(cut)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(tops: &[(&str, i64, i64)]) -> Ledger {
        let mut ledger = Ledger::empty("p", "s");
        for (partition, rowid, begun_at) in tops {
            let key = CheckpointKey::new("p", *partition, "s");
            let mut row = begun(key, Timestamp::UNIX_EPOCH);
            row.position = Some(piton_core::StoredPosition { kind: "n".into(), json: "1".into() });
            row.sink_state = Some(Rows { rowid: *rowid, begun: *begun_at }.state());
            ledger.rows.insert((*partition).to_owned(), row);
        }
        ledger
    }

    fn truncate(kind: OrderKind, partition: &str, rowid: i64) -> Order {
        Order {
            id: 1,
            pipeline: "p".into(),
            partition: partition.into(),
            sink: "s".into(),
            kind,
            position: None,
            records: 0,
            sink_state: Some(Rows { rowid, begun: 0 }.state()),
            output: Some(Output::Truncate),
            who: "me".into(),
            at: Timestamp::UNIX_EPOCH,
            applied_at: None,
        }
    }

    #[test]
    fn a_cut_never_takes_rows_of_a_partition_that_stays() {
        use OrderKind::{Reset, Rewind};
        let two = ledger(&[("a", 100, 0), ("b", 500, 100)]);
        let cut = |orders: &[Order]| cut_to(&two, &orders.iter().collect::<Vec<_>>());
        assert_eq!(cut(&[]), Ok(None));
        assert_eq!(cut(&[truncate(Rewind, "b", 300)]), Ok(Some(300)));
        assert_eq!(cut(&[truncate(Reset, WHOLE, 0)]), Ok(Some(0)));
        assert_eq!(cut(&[truncate(Reset, "b", 0)]), Ok(Some(100)));
        assert_eq!(cut(&[truncate(Rewind, "b", 300), truncate(Rewind, "a", 100)]), Ok(Some(300)));
        assert_eq!(cut(&[truncate(Rewind, "b", 500)]), Ok(None), "nothing lies past it");
        let keep = Order { output: Some(Output::Keep), ..truncate(Reset, "a", 0) };
        assert_eq!(cut(&[truncate(Rewind, "a", 50), keep]), Ok(None), "the last word counts");
        for orders in [
            vec![truncate(Rewind, "a", 50)],
            vec![truncate(Rewind, "a", 50), truncate(Rewind, "b", 300)],
            vec![truncate(Reset, "a", 0)],
        ] {
            assert!(cut(&orders).is_err_and(|why| why.contains("partition 'b'")), "{orders:?}");
        }
    }

    #[test]
    fn a_checkpoint_without_row_numbers_is_not_cut_by_guess() {
        let mut unknown = ledger(&[("a", 100, 0)]);
        unknown.rows.values_mut().for_each(|row| row.sink_state = None);
        let reset = truncate(OrderKind::Reset, WHOLE, 0);
        assert!(cut_to(&unknown, &[&reset]).is_err_and(|why| why.contains("--keep")));
    }
}
