//! Claims: decided and written in one transaction, with the new epoch's lock taken before it commits.

use std::{fs::File, sync::Arc, time::Duration};

use piton_core::{
    Claim, ClaimAnswer, ClaimRequest, Epoch, Holder, Owner, Saved, StoreError,
    checksum::{Checksum, Manifest},
    claim::WHOLE,
    fault,
};
use rusqlite::{Connection, Row, params};

use super::{
    manifest::{self, Holds, Shelf},
    rows::{self, altered, number, text, time},
    trouble::{Result, Trouble},
    worker::{Context, Done, Worker},
};
use crate::rules::{self, ClaimRow, Decision};

const SELECT: &str = "SELECT pipeline, partition, epoch, owner_host, owner_pid, since, renewals,
    lease_ms, released, checksum FROM claims WHERE pipeline = ?1";

fn read(row: &Row<'_>) -> Result<ClaimRow> {
    let claim = ClaimRow {
        pipeline: text(row, 0)?,
        partition: text(row, 1)?,
        holder: Holder {
            epoch: Epoch(number(row, 2)?),
            owner: Owner { host: text(row, 3)?, pid: row.get(4)? },
            since: time(row, 5)?,
            renewals: number(row, 6)?,
            lease: Duration::from_millis(number(row, 7)?),
        },
        released: row.get::<_, i64>(8)? != 0,
    };
    if claim.checksum() != Checksum(row.get(9)?) {
        let key = format!("{} / {}", claim.pipeline, claim.partition);
        return Err(altered("claims", &key));
    }
    Ok(claim)
}

/// The claims of a pipeline, compared with its manifest.
pub(super) fn all(c: &Connection, pipeline: &str) -> Result<Vec<ClaimRow>> {
    let claims = select(c, pipeline)?;
    let sum = claims.iter().fold(Manifest::default(), |sum, row| sum.with(row.checksum()));
    manifest::check(c, Shelf::of(Holds::Claims, pipeline), sum)?;
    Ok(claims)
}

fn select(c: &Connection, pipeline: &str) -> Result<Vec<ClaimRow>> {
    let mut statement = c.prepare_cached(SELECT)?;
    let mut rows = statement.query([pipeline])?;
    let mut claims = Vec::new();
    while let Some(row) = rows.next()? {
        claims.push(read(row)?);
    }
    Ok(claims)
}

/// The claims that overlap a scope: two rows at most, unless it is the whole pipeline.
fn rivals(c: &Connection, pipeline: &str, partition: &str) -> Result<Vec<ClaimRow>> {
    if partition == WHOLE {
        return select(c, pipeline);
    }
    let sql = "SELECT pipeline, partition, epoch, owner_host, owner_pid, since, renewals,
        lease_ms, released, checksum FROM claims WHERE pipeline = ?1 AND partition IN (?2, '*')";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([pipeline, partition])?;
    let mut claims = Vec::new();
    while let Some(row) = rows.next()? {
        claims.push(read(row)?);
    }
    Ok(claims)
}

/// The epoch below which a claim is fenced.
pub(super) fn fence(c: &Connection, claim: &Claim) -> Result<Epoch> {
    Ok(rules::fence(&rivals(c, &claim.pipeline, &claim.partition)?, &claim.partition))
}

/// Writes a claim in place of what is there for its scope.
pub(super) fn put(c: &Connection, old: Option<&ClaimRow>, new: &ClaimRow) -> Result<()> {
    let checksum = new.checksum();
    let sql = "INSERT OR REPLACE INTO claims (pipeline, partition, epoch, owner_host, owner_pid,
        since, renewals, lease_ms, released, checksum)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    c.prepare_cached(sql)?.execute(params![
        new.pipeline,
        new.partition,
        new.holder.epoch.0 as i64,
        new.holder.owner.host,
        new.holder.owner.pid,
        new.holder.since.to_string(),
        new.holder.renewals as i64,
        new.holder.lease.as_millis() as i64,
        i64::from(new.released),
        checksum.0,
    ])?;
    manifest::change(c, Shelf::of(Holds::Claims, &new.pipeline), |manifest| match old {
        Some(old) => manifest.replacing(old.checksum(), checksum),
        None => manifest.with(checksum),
    })
}

fn remove(c: &Connection, row: &ClaimRow) -> Result<()> {
    let sql = "DELETE FROM claims WHERE pipeline = ?1 AND partition = ?2";
    c.prepare_cached(sql)?.execute([&row.pipeline, &row.partition])?;
    let shelf = Shelf::of(Holds::Claims, &row.pipeline);
    manifest::change(c, shelf, |manifest| manifest.without(row.checksum()))
}

/// Compares a pipeline with its manifests, once for each connection.
fn verify(c: &Connection, context: &mut Context, pipeline: &str) -> Result<()> {
    if !context.verified.pipelines.contains(pipeline) {
        all(c, pipeline)?;
        rows::all(c, pipeline)?;
        context.verified.pipelines.insert(pipeline.to_owned());
    }
    Ok(())
}

/// The highest epoch in the checkpoints of a scope: no claim may be granted a lower one, even if
/// the claims were taken from elsewhere.
fn seen(c: &Connection, pipeline: &str, partition: &str) -> Result<Epoch> {
    let sql = "SELECT coalesce(max(epoch), 0) FROM checkpoints
        WHERE pipeline = ?1 AND (?2 = '*' OR partition = ?2)";
    let mut statement = c.prepare_cached(sql)?;
    Ok(Epoch(statement.query_row([pipeline, partition], |row| number(row, 0))?))
}

struct Granted {
    claim: Claim,
    died: Option<Holder>,
    /// Rows whose locks count no more.
    superseded: Vec<ClaimRow>,
}

pub(super) fn claim(
    worker: &mut Worker,
    request: &ClaimRequest,
) -> Result<ClaimAnswer, StoreError> {
    let mut taken = None;
    let answer = worker.write(|c, context| {
        verify(c, context, &request.pipeline)?;
        let rivals = rivals(c, &request.pipeline, &request.partition)?;
        let seen = seen(c, &request.pipeline, &request.partition)?;
        let decision = rules::decide(request, &rivals, seen, |row| context.locks.alive(row))?;
        let (epoch, died) = match decision {
            Decision::Held(holder) => return Ok(Done::Rollback(Err(holder))),
            Decision::Grant { epoch, died } => (epoch, died),
        };
        taken = Some(epoch);
        let lock = context.locks.take(&request.pipeline, &request.partition, epoch)?;
        let claim = grant(c, request, epoch, &rivals, lock)?;
        Ok(Done::Commit(Ok(Granted { claim, died, superseded: rivals })))
    });
    let locks = &worker.context.locks;
    match answer {
        Ok(Ok(Granted { claim, died, superseded })) => {
            for row in superseded {
                locks.remove(&row.pipeline, &row.partition, row.holder.epoch);
            }
            Ok(ClaimAnswer::Granted { claim, died })
        }
        Ok(Err(holder)) => Ok(ClaimAnswer::Held(holder)),
        Err(error) => {
            if let Some(epoch) = taken {
                locks.remove(&request.pipeline, &request.partition, epoch);
            }
            Err(error)
        }
    }
}

/// Writes the granted claim, and what it supersedes: a claim of the whole pipeline sweeps the
/// partitions' rows away (its epoch is above theirs); a claim of a partition leaves the whole
/// pipeline's row, whose epoch counts for the others.
fn grant(
    c: &Connection,
    request: &ClaimRequest,
    epoch: Epoch,
    rivals: &[ClaimRow],
    lock: File,
) -> Result<Claim> {
    manifest::begin(c, &request.pipeline)?;
    for rival in rivals.iter().filter(|rival| rival.partition != request.partition) {
        if request.partition == WHOLE {
            remove(c, rival)?;
        } else if !rival.released {
            put(c, Some(rival), &ClaimRow { released: true, ..rival.clone() })?;
        }
    }
    let row = ClaimRow::granted(request, epoch);
    put(c, rivals.iter().find(|rival| rival.partition == request.partition), &row)?;
    Ok(Claim {
        pipeline: row.pipeline,
        partition: row.partition,
        epoch,
        lease: row.holder.lease,
        lock: Some(Arc::new(lock)),
    })
}

pub(super) fn renew(worker: &mut Worker, claim: &Claim) -> Result<Saved, StoreError> {
    fault::point("renew");
    worker.write(|c, _| {
        let rivals = rivals(c, &claim.pipeline, &claim.partition)?;
        let fence = rules::fence(&rivals, &claim.partition);
        if fence > claim.epoch {
            return Ok(Done::Rollback(Saved::Fenced { epoch: fence }));
        }
        let Some(row) = rivals.iter().find(|row| is_of(row, claim) && !row.released) else {
            return Err(Trouble::Store(rules::not_held(claim)));
        };
        let mut renewed = row.clone();
        renewed.holder.renewals += 1;
        put(c, Some(row), &renewed)?;
        Ok(Done::Commit(Saved::Ignored))
    })
}

pub(super) fn release(worker: &mut Worker, claim: &Claim) -> Result<(), StoreError> {
    worker.write(|c, _| {
        let rivals = rivals(c, &claim.pipeline, &claim.partition)?;
        match rivals.iter().find(|row| is_of(row, claim) && !row.released) {
            Some(row) => {
                put(c, Some(row), &ClaimRow { released: true, ..row.clone() })?;
                Ok(Done::Commit(()))
            }
            // A newer claim has taken over: there is nothing to give up.
            None => Ok(Done::Rollback(())),
        }
    })?;
    worker.context.locks.remove(&claim.pipeline, &claim.partition, claim.epoch);
    Ok(())
}

fn is_of(row: &ClaimRow, claim: &Claim) -> bool {
    row.partition == claim.partition && row.holder.epoch == claim.epoch
}

/// Who holds claims of a pipeline, by their locks' answer.
pub(super) fn holders(c: &Connection, context: &Context, pipeline: &str) -> Result<Vec<Holder>> {
    let mut holders = Vec::new();
    for row in all(c, pipeline)? {
        if !row.released && context.locks.alive(&row)? {
            holders.push(row.holder);
        }
    }
    Ok(holders)
}
