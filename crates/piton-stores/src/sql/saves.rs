//! What moves checkpoints: saves, mirrors and completion.

use jiff::Timestamp;
use piton_core::{Checkpoint, CheckpointKey, Claim, Save, Saved, StoreError, fault};

use super::{
    Transaction, Write, claims,
    rows::{self, Change, Found},
    state,
    trouble::{Result, Trouble},
    worker::{Done, Worker},
};
use crate::rules::{self, HistoryClock};

fn stored(found: Option<&Found>) -> Option<&Checkpoint> {
    found.map(|found| &found.checkpoint)
}

/// All of them or none: when any is not stored, nothing is written.
pub(crate) fn save(
    worker: &mut Worker,
    claim: &Claim,
    saves: &[Save],
    now: Timestamp,
) -> Result<Vec<Saved>, StoreError> {
    rules::check_scope(claim, saves.iter().map(|save| &save.key))?;
    let keys: Vec<&CheckpointKey> = saves.iter().map(|save| &save.key).collect();
    let outcomes = worker.write_under(claim, &Write::of(&claim.pipeline), |c, known| {
        let fence = claims::fence(c, claim)?;
        let found = rows::find_all(c, &claim.pipeline, &keys)?;
        let judge = |(save, found): (&Save, &Option<Found>)| {
            Saved::judge(stored(found.as_ref()), save, fence, claim.epoch)
        };
        let outcomes: Vec<Saved> = saves.iter().zip(&found).map(judge).collect();
        if !outcomes.iter().all(Saved::is_stored) {
            return Ok(Done::Rollback(outcomes));
        }
        let new = saves.iter().zip(&outcomes).map(|(save, outcome)| {
            let version = if let Saved::Stored { version } = outcome { *version } else { 0 };
            rules::saved(save, version, claim.epoch, now)
        });
        replace(c, &mut known.clock, &claim.pipeline, found, new, now)?;
        for save in saves {
            state::apply(c, &save.key, &save.state)?;
        }
        fault::point("save.before");
        fault::fail("store.sync").map_err(|e| Trouble::io("it could not be synced", e))?;
        Ok(Done::Commit(outcomes))
    })?;
    fault::point("save.after");
    Ok(outcomes)
}

/// Puts checkpoints in place of what was found, with history when it is due.
fn replace(
    c: &mut dyn Transaction,
    clock: &mut HistoryClock,
    pipeline: &str,
    found: Vec<Option<Found>>,
    new: impl Iterator<Item = Checkpoint>,
    now: Timestamp,
) -> Result<()> {
    let due = clock.due(found.iter().filter_map(|found| stored(found.as_ref())), now);
    let change = |(old, new)| Change { old, new: Some(new) };
    let changes: Vec<Change> = found.into_iter().zip(new).map(change).collect();
    rows::change(c, pipeline, &changes, due)
}

pub(crate) fn mirror(
    worker: &mut Worker,
    claim: &Claim,
    new: &[Checkpoint],
) -> Result<Saved, StoreError> {
    rules::check_scope(claim, new.iter().map(|row| &row.key))?;
    let keys: Vec<&CheckpointKey> = new.iter().map(|row| &row.key).collect();
    // Versions only grow, so the second time changes nothing.
    let write = Write::of(&claim.pipeline).again();
    let answer = worker.write_under(claim, &write, |c, known| {
        let fence = claims::fence(c, claim)?;
        if fence > claim.epoch {
            return Ok(Done::Rollback(Saved::Fenced { epoch: fence }));
        }
        let found = rows::find_all(c, &claim.pipeline, &keys)?;
        let judge = |(row, found): (&Checkpoint, &Option<Found>)| {
            rules::judge_mirror(stored(found.as_ref()), row, claim.epoch)
        };
        let answer = rules::worst(new.iter().zip(&found).map(judge));
        if !answer.is_stored() {
            return Ok(Done::Rollback(answer));
        }
        let now = new.iter().map(|row| row.updated_at).max().unwrap_or_default();
        replace(c, &mut known.clock, &claim.pipeline, found, new.iter().cloned(), now)?;
        fault::point("save.before");
        Ok(Done::Commit(answer))
    })?;
    fault::point("save.after");
    Ok(answer)
}

/// Removes what a claim covers, with its state. What was there goes to history.
pub(crate) fn complete(
    worker: &mut Worker,
    claim: &Claim,
    sink: Option<&str>,
) -> Result<Saved, StoreError> {
    worker.write_under(claim, &Write::of(&claim.pipeline), |c, _| {
        let mut covered = rows::all(c, &claim.pipeline)?;
        covered.retain(|Found { checkpoint: Checkpoint { key, .. }, .. }| {
            rules::overlap(&key.partition, &claim.partition)
                && sink.is_none_or(|sink| sink == key.sink)
        });
        let newest = covered.iter().map(|row| row.checkpoint.epoch).max().unwrap_or_default();
        let fence = claims::fence(c, claim)?.max(newest);
        if fence > claim.epoch {
            return Ok(Done::Rollback(Saved::Fenced { epoch: fence }));
        }
        let version = |row: &Found| Saved::Stored { version: row.checkpoint.version };
        let answer = rules::worst(covered.iter().map(version));
        forget(c, &claim.pipeline, covered)?;
        Ok(Done::Commit(answer))
    })
}

/// Removes checkpoints and their state.
pub(crate) fn forget(c: &mut dyn Transaction, pipeline: &str, covered: Vec<Found>) -> Result<()> {
    for row in &covered {
        state::forget(c, &row.checkpoint.key)?;
    }
    let change = |old| Change { old: Some(old), new: None };
    let changes: Vec<Change> = covered.into_iter().map(change).collect();
    rows::change(c, pipeline, &changes, true)
}
