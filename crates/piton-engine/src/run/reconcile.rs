//! Whether a transactional sink and the store agree, before anything is written.
//!
//! The sink's own checkpoint is the truth; the store's copy lags by about a second. So a sink that
//! is equal or ahead is resumed from. A sink that is behind its copy, or empty where the copy is
//! not, was restored or replaced: going on would leave a hole, and is refused. A sink that was
//! written to while the store knows nothing of it means that the store was lost: an operator has
//! to say that it may be taken over.

use piton_core::{Checkpoint, Order};

use crate::connect::brief;

/// What the store knows of one sink, beside what the sink itself holds.
pub(crate) struct Sides<'a> {
    pub(crate) pipeline: &'a str,
    pub(crate) sink: &'a str,
    pub(crate) location: &'a str,
    /// The store's copies of this sink's checkpoints.
    pub(crate) mirror: &'a [Checkpoint],
    /// The sink's own.
    pub(crate) own: &'a [Checkpoint],
    /// Orders that are to be applied before anything is read.
    pub(crate) orders: &'a [Order],
    /// Whether an operator said that the sink may be taken over.
    pub(crate) adopt: bool,
}

/// Refuses what cannot be resumed; says why and what the choices are.
///
/// # Errors
/// The refusal, as a sentence for people.
pub(crate) fn reconcile(sides: &Sides<'_>) -> Result<(), String> {
    let Sides { pipeline, sink, location, mirror, own, adopt, .. } = *sides;
    let written = own.iter().any(|c| c.position.is_some());
    if mirror.is_empty() && written && !adopt && sides.orders.is_empty() {
        return Err(format!(
            "{pipeline}, sink '{sink}': {location}, has been written to by '{pipeline}' before, but the \
             store knows nothing of it: the store was lost or another one is named. Name the right \
             store, restore it from a backup, or run with --adopt to go on from what the sink holds"
        ));
    }
    for copy in mirror.iter().filter(|copy| copy.position.is_some()) {
        let partition = &copy.key.partition;
        if adopt || sides.orders.iter().any(|order| order.covers(partition, sink)) {
            continue;
        }
        let held = own.iter().find(|c| c.key.partition == *partition);
        let problem = match held {
            None => "holds no checkpoint",
            Some(held) if held.position.is_none() => "holds an empty checkpoint",
            Some(held) if held.version < copy.version => "is behind",
            Some(held) if held.version == copy.version && held.position != copy.position => {
                "holds another position at the same version"
            }
            Some(_) => continue,
        };
        let at = copy.position.as_ref().map(brief).unwrap_or_default();
        let holds = held
            .and_then(|held| held.position.as_ref().map(|p| format!(" ({})", brief(p))))
            .unwrap_or_default();
        return Err(format!(
            "{pipeline}, sink '{sink}', partition '{partition}': {location}, {problem}{holds}, while the \
             store says {at} at version {}: the sink was restored or replaced. Restore it, \
             `piton reset {pipeline}` to load everything again, or run with --adopt to go on from \
             what the sink holds",
            copy.version
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use piton_core::{CheckpointKey, Epoch, OrderKind, StoredPosition};

    fn at(position: Option<u64>, version: u64) -> Checkpoint {
        Checkpoint {
            key: CheckpointKey::new("p", "0", "s"),
            position: position.map(|n| StoredPosition::of(&n).unwrap()),
            records: 0,
            version,
            epoch: Epoch(1),
            schema_version: 0,
            updated_at: Timestamp::UNIX_EPOCH,
            sink_state: None,
        }
    }

    fn judge(mirror: &[Checkpoint], own: &[Checkpoint], adopt: bool) -> Result<(), String> {
        let location = "out.db";
        reconcile(&Sides { pipeline: "p", sink: "s", location, mirror, own, orders: &[], adopt })
    }

    #[test]
    fn the_sink_is_the_truth_when_it_is_equal_or_ahead() {
        assert!(judge(&[], &[], false).is_ok());
        assert!(judge(&[at(Some(5), 2)], &[at(Some(5), 2)], false).is_ok());
        assert!(judge(&[at(Some(5), 2)], &[at(Some(9), 4)], false).is_ok());
        assert!(judge(&[at(None, 1)], &[], false).is_ok());
        assert!(judge(&[at(None, 1)], &[at(Some(9), 1)], false).is_ok());
    }

    #[test]
    fn a_sink_that_was_restored_or_replaced_is_refused() {
        // Invariant 4.
        for own in [vec![], vec![at(None, 1)], vec![at(Some(3), 1)], vec![at(Some(4), 2)]] {
            assert!(judge(&[at(Some(5), 2)], &own, false).is_err(), "{own:?}");
            assert!(judge(&[at(Some(5), 2)], &own, true).is_ok());
        }
    }

    #[test]
    fn a_lost_store_is_noticed() {
        let refusal = judge(&[], &[at(Some(3), 1)], false).unwrap_err();
        assert!(refusal.contains("--adopt"));
        assert!(judge(&[], &[at(Some(3), 1)], true).is_ok());
        assert!(judge(&[], &[at(None, 1)], false).is_ok());
    }

    #[test]
    fn an_order_goes_before_a_comparison() {
        let order = Order {
            id: 1,
            pipeline: "p".into(),
            partition: "*".into(),
            sink: "*".into(),
            kind: OrderKind::Reset,
            position: None,
            records: 0,
            sink_state: None,
            output: None,
            who: "me".into(),
            at: Timestamp::UNIX_EPOCH,
            applied_at: None,
        };
        let (mirror, own) = (at(Some(5), 2), at(Some(3), 1));
        let sides = Sides {
            pipeline: "p",
            sink: "s",
            location: "out.db",
            mirror: &[mirror],
            own: &[own],
            orders: &[order],
            adopt: false,
        };
        assert!(reconcile(&sides).is_ok());
    }
}
