//! Whether the program's database and the store agree, before anything is written.
//!
//! The database's own checkpoint is the truth; the store's copy lags by about a second. Claims and
//! versions tell which of the two is later: the database is behind its copy only if it was restored
//! or replaced. Where the rows are gone but the epoch of the copy is still known, they were removed
//! on purpose, by the owner that finished or by hand.

use piton_core::{Checkpoint, CheckpointKey, Epoch, Order};
use piton_stores::joined::sqlite::Ledger;

/// What both sides hold.
pub(super) struct Sides<'a> {
    pub(super) key: &'a CheckpointKey,
    /// The store's copy.
    pub(super) copy: Option<&'a Checkpoint>,
    /// What the database holds.
    pub(super) own: &'a Ledger,
    /// Orders that are to be applied before anything is read.
    pub(super) orders: &'a [Order],
    /// Where the store is.
    pub(super) store: &'a str,
}

/// What is to be done before taking over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They agree.
    GoOn,
    /// The job was finished, or forgotten by hand: the copy is to go, too.
    Forget,
    /// They do not, and somebody has to decide: a sentence for people.
    Refuse(String),
}

pub(super) fn reconcile(sides: &Sides<'_>) -> Verdict {
    let Sides { key, copy, own, orders, store } = sides;
    let row = own.rows.get(&key.partition);
    let stands = |row: &Checkpoint| row.position.is_some();
    if orders.iter().any(|order| order.covers(&key.partition, &key.sink)) {
        return Verdict::GoOn;
    }
    let Some(copy) = copy else {
        return match row.filter(|row| stands(row)).and_then(|row| row.position.as_ref()) {
            None => Verdict::GoOn,
            Some(at) => Verdict::Refuse(format!(
                "the program's database has a checkpoint at {at}, but the store {store} knows \
                 nothing of it: the store was lost, or another one is named. Name the right store, \
                 or set `adopt` to go on from what the database holds"
            )),
        };
    };
    let Some(at) = &copy.position else { return Verdict::GoOn };
    let holds = match row {
        None if own.epoch >= copy.epoch && own.epoch > Epoch(0) => return Verdict::Forget,
        None => "no checkpoint".to_owned(),
        Some(row) if is_behind(row, copy) => match &row.position {
            Some(held) => format!("an earlier one, {held}"),
            None => "one that has only begun".to_owned(),
        },
        Some(row) if (row.epoch, row.version) == (copy.epoch, copy.version) && row != *copy => {
            "another one at the same version".to_owned()
        }
        Some(_) => return Verdict::GoOn,
    };
    Verdict::Refuse(format!(
        "the store {store} knows of a checkpoint at {at}, but the program's database holds {holds}: \
         it was restored or replaced. Restore the database as it was, `piton reset {}` to begin \
         anew, or set `adopt` to go on from what it holds",
        key.pipeline
    ))
}

fn is_behind(row: &Checkpoint, copy: &Checkpoint) -> bool {
    (row.epoch, row.version) < (copy.epoch, copy.version)
}
