//! Claims: decided and written in one transaction, with the new epoch's lock taken before it commits.

use std::time::Duration;

use piton_core::{
    Claim, ClaimAnswer, ClaimRequest, Epoch, Holder, Owner, Saved, StoreError,
    checksum::{Form, Manifest},
    claim::WHOLE,
    fault,
};

use super::{
    Lock, Row, Scope, Sql, Transaction, Write,
    manifest::{self, Holds, Shelf},
    rows,
    trouble::{Result, Trouble, altered},
    value::values,
    worker::{Done, Known, Worker},
};
use crate::rules::{self, ClaimRow, Decision};

fn read(mut row: Row) -> Result<ClaimRow> {
    let mut claim = ClaimRow {
        pipeline: row.text(0)?,
        partition: row.text(1)?,
        holder: Holder {
            epoch: Epoch(row.number(2)?),
            owner: Owner { host: row.text(3)?, pid: pid(&mut row, 4)? },
            since: row.time(5)?,
            renewals: row.number(6)?,
            lease: Duration::from_millis(row.number(7)?),
        },
        released: row.integer(8)? != 0,
        form: Form::Native,
    };
    let sum = |form| ClaimRow { form, ..claim.clone() }.checksum();
    let Some(form) = Form::of(row.checksum(9)?, sum) else {
        let key = format!("{} / {}", claim.pipeline, claim.partition);
        return Err(altered("claims", &key));
    };
    claim.form = form;
    Ok(claim)
}

/// A process id at rest.
pub(crate) fn pid(row: &mut Row, column: usize) -> Result<u32> {
    let number = row.integer(column)?;
    u32::try_from(number).map_err(|_| Trouble::Damage(format!("{number} is no process id")))
}

macro_rules! select {
    ($condition:literal) => {
        concat!(
            r#"SELECT pipeline, "partition", epoch, owner_host, owner_pid, since, renewals,
            lease_ms, released, checksum FROM claims WHERE "#,
            $condition
        )
    };
}

/// The claims of a pipeline, compared with its manifest.
pub(crate) fn all(c: &mut dyn Sql, pipeline: &str) -> Result<Vec<ClaimRow>> {
    let claims = select(c, pipeline)?;
    let sum = claims.iter().fold(Manifest::default(), |sum, row| sum.with(row.checksum()));
    manifest::check(c, Shelf::of(Holds::Claims, pipeline), sum)?;
    Ok(claims)
}

fn select(c: &mut dyn Sql, pipeline: &str) -> Result<Vec<ClaimRow>> {
    c.query(select!("pipeline = ?"), values![pipeline])?.into_iter().map(read).collect()
}

/// The claims that overlap a scope: two rows at most, unless it is the whole pipeline.
fn rivals(c: &mut dyn Sql, pipeline: &str, partition: &str) -> Result<Vec<ClaimRow>> {
    if partition == WHOLE {
        return select(c, pipeline);
    }
    let sql = select!(r#"pipeline = ? AND "partition" IN (?, '*')"#);
    c.query(sql, values![pipeline, partition])?.into_iter().map(read).collect()
}

/// The epoch below which a claim is fenced.
pub(crate) fn fence(c: &mut dyn Sql, claim: &Claim) -> Result<Epoch> {
    Ok(rules::fence(&rivals(c, &claim.pipeline, &claim.partition)?, &claim.partition))
}

/// Writes a claim in place of what is there for its scope.
pub(crate) fn put(c: &mut dyn Sql, old: Option<&ClaimRow>, new: &ClaimRow) -> Result<()> {
    if old.is_some() {
        delete(c, new)?;
    }
    let checksum = new.checksum();
    let sql = r#"INSERT INTO claims (pipeline, "partition", epoch, owner_host, owner_pid, since,
        renewals, lease_ms, released, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"#;
    c.execute(
        sql,
        values![
            &new.pipeline,
            &new.partition,
            new.holder.epoch,
            &new.holder.owner.host,
            new.holder.owner.pid,
            &new.holder.since.to_string(),
            new.holder.renewals,
            new.holder.lease.as_millis() as u64,
            new.released,
            checksum,
        ],
    )?;
    manifest::change(c, Shelf::of(Holds::Claims, &new.pipeline), |manifest| match old {
        Some(old) => manifest.replacing(old.checksum(), checksum),
        None => manifest.with(checksum),
    })
}

fn delete(c: &mut dyn Sql, row: &ClaimRow) -> Result<()> {
    let sql = r#"DELETE FROM claims WHERE pipeline = ? AND "partition" = ?"#;
    c.execute(sql, values![&row.pipeline, &row.partition])?;
    Ok(())
}

fn remove(c: &mut dyn Sql, row: &ClaimRow) -> Result<()> {
    delete(c, row)?;
    let shelf = Shelf::of(Holds::Claims, &row.pipeline);
    manifest::change(c, shelf, |manifest| manifest.without(row.checksum()))
}

/// Compares a pipeline with its manifests, once for each connection.
fn verify(c: &mut dyn Transaction, known: &mut Known, pipeline: &str) -> Result<()> {
    let verified = known.verified.on(c);
    if !verified.pipelines.contains(pipeline) {
        all(c, pipeline)?;
        rows::all(c, pipeline)?;
        verified.pipelines.insert(pipeline.to_owned());
    }
    Ok(())
}

/// The highest epoch in the checkpoints of a scope: no claim may be granted a lower one, even if
/// the claims were taken from elsewhere.
fn seen(c: &mut dyn Sql, pipeline: &str, partition: &str) -> Result<Epoch> {
    let sql = r#"SELECT coalesce(max(epoch), 0) FROM checkpoints
        WHERE pipeline = ? AND (? = '*' OR "partition" = ?)"#;
    let mut found = c.query(sql, values![pipeline, partition, partition])?;
    found.first_mut().map_or(Ok(Epoch(0)), |row| row.number(0).map(Epoch))
}

struct Granted {
    epoch: Epoch,
    lock: Option<Lock>,
    died: Option<Holder>,
    /// Rows whose locks count no more.
    superseded: Vec<ClaimRow>,
}

/// What came of earlier attempts at one request, whose commits were in doubt.
#[derive(Default)]
struct Earlier {
    attempts: Vec<ClaimRow>,
    died: Option<Holder>,
}

pub(crate) fn claim(
    worker: &mut Worker,
    request: &ClaimRequest,
) -> Result<ClaimAnswer, StoreError> {
    #[cfg(feature = "server")]
    if let Some(holder) = glance(worker, request)? {
        return Ok(ClaimAnswer::Held(holder));
    }
    let mut earlier = Earlier::default();
    // A claim is a fence and then a read: asked twice, the second fences the first.
    let write = Write::of(&request.pipeline).again();
    let answer = worker.write(&write, |c, known| {
        let answer = attempt(c, known, request, &mut earlier)?;
        Ok(if answer.is_ok() { Done::Commit(answer) } else { Done::Rollback(answer) })
    });
    match answer {
        Ok(Ok(granted)) => {
            let mine = |row: &&ClaimRow| row.holder.epoch != granted.epoch;
            let attempts = earlier.attempts.iter().filter(mine);
            for row in granted.superseded.iter().chain(attempts) {
                worker.free(&Scope::of_row(row));
            }
            Ok(granted.answer(worker, request))
        }
        Ok(Err(holder)) => Ok(ClaimAnswer::Held(holder)),
        Err(error) => {
            for row in &earlier.attempts {
                worker.free(&Scope::of_row(row));
            }
            Err(error)
        }
    }
}

/// Who holds a claim that is asked for, without waiting for whoever is writing: on a server, a
/// program's own transaction may be one of those, for as long as its work takes.
#[cfg(feature = "server")]
fn glance(worker: &mut Worker, request: &ClaimRequest) -> Result<Option<Holder>, StoreError> {
    if !worker.saves_at_once() {
        return Ok(None);
    }
    worker.read(|c, _| {
        let rivals = rivals(c, &request.pipeline, &request.partition)?;
        let decision = rules::decide(request, &rivals, Epoch(0), |row| c.is_alive(row))?;
        Ok(if let Decision::Held(holder) = decision { Some(holder) } else { None })
    })
}

impl Granted {
    fn answer(self, worker: &Worker, request: &ClaimRequest) -> ClaimAnswer {
        let mut claim = Claim {
            pipeline: request.pipeline.clone(),
            partition: request.partition.clone(),
            epoch: self.epoch,
            lease: ClaimRow::granted(request, self.epoch).holder.lease,
            lock: None,
        };
        claim.lock = self.lock.or_else(|| worker.guard(Scope::of(&claim)));
        ClaimAnswer::Granted { claim, died: self.died }
    }
}

fn attempt(
    c: &mut dyn Transaction,
    known: &mut Known,
    request: &ClaimRequest,
    earlier: &mut Earlier,
) -> Result<Result<Granted, Holder>> {
    verify(c, known, &request.pipeline)?;
    let rivals = rivals(c, &request.pipeline, &request.partition)?;
    let mut judged = rivals.clone();
    for rival in judged.iter_mut().filter(|rival| earlier.attempts.contains(rival)) {
        // Granted to this very request, as it turns out: nobody died.
        rival.released = true;
    }
    let seen = seen(c, &request.pipeline, &request.partition)?;
    let (epoch, died) = match rules::decide(request, &judged, seen, |row| c.is_alive(row))? {
        Decision::Held(holder) => return Ok(Err(holder)),
        Decision::Grant { epoch, died } => (epoch, died),
    };
    let row = ClaimRow::granted(request, epoch);
    let lock = c.take_lock(&Scope::of_row(&row), request.lease)?;
    earlier.attempts.push(row);
    if died.is_some() {
        earlier.died.clone_from(&died);
    }
    grant(c, request, epoch, &rivals)?;
    Ok(Ok(Granted { epoch, lock, died: died.or(earlier.died.clone()), superseded: rivals }))
}

/// Writes the granted claim, and what it supersedes: a claim of the whole pipeline sweeps the
/// partitions' rows away (its epoch is above theirs); a claim of a partition leaves the whole
/// pipeline's row, whose epoch counts for the others.
fn grant(c: &mut dyn Sql, request: &ClaimRequest, epoch: Epoch, rivals: &[ClaimRow]) -> Result<()> {
    manifest::begin(c, &request.pipeline)?;
    for rival in rivals.iter().filter(|rival| rival.partition != request.partition) {
        if request.partition == WHOLE {
            remove(c, rival)?;
        } else if !rival.released {
            put(c, Some(rival), &ClaimRow { released: true, ..rival.clone() })?;
        }
    }
    let row = ClaimRow::granted(request, epoch);
    put(c, rivals.iter().find(|rival| rival.partition == request.partition), &row)
}

pub(crate) fn renew(worker: &mut Worker, claim: &Claim) -> Result<Saved, StoreError> {
    fault::point("renew");
    worker.write_under(claim, &Write::of(&claim.pipeline).again().renewal(), |c, _| {
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

pub(crate) fn release(worker: &mut Worker, claim: &Claim) -> Result<(), StoreError> {
    worker.write(&Write::of(&claim.pipeline).again(), |c, _| {
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
    worker.let_go(claim);
    Ok(())
}

fn is_of(row: &ClaimRow, claim: &Claim) -> bool {
    row.partition == claim.partition && row.holder.epoch == claim.epoch
}

/// Who holds claims of a pipeline, by their locks' answer.
pub(crate) fn holders(c: &mut dyn Transaction, pipeline: &str) -> Result<Vec<Holder>> {
    let mut holders = Vec::new();
    for row in all(c, pipeline)? {
        if !row.released && c.is_alive(&row)? {
            holders.push(row.holder);
        }
    }
    Ok(holders)
}
