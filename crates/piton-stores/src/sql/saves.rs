//! What moves checkpoints: saves, mirrors and completion.

use jiff::Timestamp;
#[cfg(feature = "server")]
use piton_core::Epoch;
use piton_core::{Checkpoint, CheckpointKey, Claim, Save, Saved, StoreError, fault};

#[cfg(feature = "server")]
use super::batch::Batch;
use super::{
    Transaction, Write, claims,
    rows::{self, Change, Found},
    state,
    trouble::{Result, Trouble},
    worker::{Done, Worker},
};
use crate::rules::{self, HistoryClock, Replaced};

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
    #[cfg(feature = "server")]
    if let Some(outcomes) = at_once(worker, claim, saves, now)? {
        return Ok(outcomes);
    }
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

/// Stores all of them in one round trip, where the database can and what they expect is there.
#[cfg(feature = "server")]
fn at_once(
    worker: &mut Worker,
    claim: &Claim,
    saves: &[Save],
    now: Timestamp,
) -> Result<Option<Vec<Saved>>, StoreError> {
    if !worker.saves_at_once() {
        return Ok(None);
    }
    let mut outcomes = Vec::with_capacity(saves.len());
    let mut new = Vec::with_capacity(saves.len());
    for save in saves {
        let outcome = Saved::judge(expected(save).as_ref(), save, claim.epoch, claim.epoch);
        let Saved::Stored { version } = outcome else { return Ok(None) };
        new.push(rules::saved(save, version, claim.epoch, now));
        outcomes.push(outcome);
    }
    let fresh = saves.iter().filter(|save| save.expected_version == 0).map(|save| &save.key);
    let due = worker.known.clock.due(saves.iter().filter_map(Replaced::by), fresh, now);
    let batch = Batch::of(claim, saves, &new, due).map_err(|trouble| worker.name(trouble))?;
    fault::point("save.before");
    let synced = fault::fail("store.sync");
    synced.map_err(|e| worker.name(Trouble::io("it could not be synced", e)))?;
    let stored = worker.save(&batch)?;
    if stored {
        fault::point("save.after");
    }
    // Where it must not be stored as it is, each of them is judged by what is there.
    Ok(stored.then_some(outcomes))
}

/// The checkpoint that a save expects to replace.
#[cfg(feature = "server")]
fn expected(save: &Save) -> Option<Checkpoint> {
    let there = rules::saved(save, save.expected_version, Epoch(0), Timestamp::UNIX_EPOCH);
    let is_there = save.expected_version > 0;
    is_there.then(|| Checkpoint { position: save.expected.clone(), ..there })
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
    let new: Vec<Checkpoint> = new.collect();
    let replaced = found.iter().filter_map(|found| stored(found.as_ref()));
    let fresh =
        found.iter().zip(&new).filter(|(found, _)| found.is_none()).map(|(_, new)| &new.key);
    let due = clock.due(replaced.map(Replaced::of), fresh, now);
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
