//! Delivery to a sink that keeps its checkpoint: the transaction is the interval.
//!
//! A transaction begins with the first record after a commit, never before there is one, and ends
//! when the interval is over, when it has grown large, or when nothing more is coming. Rows and
//! checkpoint commit together; the store hears of it afterwards.
//!
//! With `checkpoint: off` transactions end as they do by default and only the checkpoint is left
//! out, until the end. So the difference between the two is what checkpointing costs.

use std::time::{Duration, Instant};

use piton_connectors::{
    batch::Batch,
    sink::{Advance, Committed, Transaction, TransactionalSink},
};

use super::{
    RunError,
    deliver::{Delivery, Ended, Trouble, ended},
    lane::{Inlet, Next, Parcel},
};

/// Text in one transaction, at most, where no number of records is fixed: a larger one gains
/// nothing and makes the target's log grow.
const TRANSACTION_BYTES: usize = 16 << 20;

/// Delivers until the lane ends.
pub(crate) fn run(
    delivery: &mut Delivery<'_>,
    sink: &mut dyn TransactionalSink,
    inlet: &Inlet,
) -> Result<Ended, Trouble> {
    let delivered = transactions(delivery, sink, inlet);
    if matches!(delivered, Ok(_) | Err(Trouble::Run(RunError::BadRecord { .. }))) {
        checkpoint_left_out(delivery, sink)?;
    }
    delivered
}

fn transactions(
    delivery: &mut Delivery<'_>,
    sink: &mut dyn TransactionalSink,
    inlet: &Inlet,
) -> Result<Ended, Trouble> {
    loop {
        match inlet.next(None) {
            Next::Parcel(_) if delivery.is_hurried() => return Ok(Ended::Stopped),
            Next::Parcel(Parcel::Batch(batch)) => transaction(delivery, sink, inlet, &batch)?,
            Next::Parcel(Parcel::Idle) => delivery.note_idle(),
            Next::Deadline => {}
            Next::End => return ended(inlet),
        }
    }
}

/// One transaction, from its first batch to its commit.
fn transaction(
    delivery: &mut Delivery<'_>,
    sink: &mut dyn TransactionalSink,
    inlet: &Inlet,
    first: &Batch,
) -> Result<(), Trouble> {
    let began = Instant::now();
    let longest = sink.longest();
    delivery.begin_partition(&first.partition)?;
    let mut transaction = sink.begin().map_err(|e| delivery.trouble(&e))?;
    let written = fill(delivery, &mut *transaction, inlet, first, (began, longest));
    // A record that stops the run does not take those before it along; any other trouble does.
    match written {
        Err(Trouble::Run(RunError::BadRecord { .. })) | Ok(()) => {}
        trouble => return trouble,
    }
    if delivery.interval.is_off() {
        commit_rows_alone(delivery, transaction)?;
    } else {
        commit(delivery, transaction)?;
    }
    written
}

/// Commits the checkpoint for all that was committed without one.
fn checkpoint_left_out(
    delivery: &mut Delivery<'_>,
    sink: &mut dyn TransactionalSink,
) -> Result<(), Trouble> {
    if delivery.held.pending().next().is_none() {
        return Ok(());
    }
    let transaction = sink.begin().map_err(|e| delivery.trouble(&e))?;
    commit(delivery, transaction)
}

fn fill(
    delivery: &mut Delivery<'_>,
    transaction: &mut dyn Transaction,
    inlet: &Inlet,
    first: &Batch,
    (began, longest): (Instant, Option<Duration>),
) -> Result<(), Trouble> {
    let mut bytes = first.size();
    write(delivery, transaction, first)?;
    if first.is_a_beginning() {
        return Ok(());
    }
    let most = delivery.most_bytes(TRANSACTION_BYTES);
    let ends = longest.and_then(|longest| began.checked_add(longest));
    let is_over = || ends.is_some_and(|ends| Instant::now() >= ends);
    while !delivery.is_due(began) && bytes < most && !delivery.is_hurried() && !is_over() {
        // Where another sink waits for the database, only what is there already is taken along.
        let hurry = delivery.shares() && !delivery.interval.is_exact();
        let deadline = if hurry {
            Some(Instant::now())
        } else {
            [delivery.deadline(began), ends].into_iter().flatten().min()
        };
        match inlet.next(deadline) {
            Next::Parcel(Parcel::Batch(batch)) => {
                delivery.begin_partition(&batch.partition)?;
                bytes += batch.size();
                write(delivery, transaction, &batch)?;
            }
            Next::Parcel(Parcel::Idle) if !delivery.is_worth_it_idle(began) => {}
            _ => break,
        }
    }
    Ok(())
}

fn write(
    delivery: &mut Delivery<'_>,
    transaction: &mut dyn Transaction,
    batch: &Batch,
) -> Result<(), Trouble> {
    delivery.write_rows(batch, |rows| transaction.write(batch, rows))?;
    delivery.taken(batch);
    Ok(())
}

fn commit(
    delivery: &mut Delivery<'_>,
    transaction: Box<dyn Transaction + '_>,
) -> Result<(), Trouble> {
    let began = Instant::now();
    let advances = advances(delivery);
    let records = delivery.held.pending_records();
    let Committed { checkpoints, checkpointing } =
        transaction.commit(&advances).map_err(|e| delivery.trouble(&e))?;
    delivery.interval.saved(began.elapsed());
    delivery.held.saving();
    let partitions: Vec<String> = advances.into_iter().map(|a| a.partition).collect();
    for checkpoint in &checkpoints {
        delivery.held.saved(&checkpoint.key.partition, checkpoint.version);
    }
    delivery.cx.mirror.put(delivery.sink, checkpoints);
    delivery.note_saved(records, checkpointing);
    delivery.acknowledge(&partitions);
    Ok(())
}

fn commit_rows_alone(
    delivery: &mut Delivery<'_>,
    transaction: Box<dyn Transaction + '_>,
) -> Result<(), Trouble> {
    let began = Instant::now();
    let _ = transaction.commit(&[]).map_err(|e| delivery.trouble(&e))?;
    delivery.interval.saved(began.elapsed());
    Ok(())
}

fn advances(delivery: &Delivery<'_>) -> Vec<Advance> {
    let advance = |(partition, at): (&String, &super::context::At)| {
        Some(Advance {
            partition: partition.clone(),
            position: at.taken.clone()?,
            records: at.saved_records + at.taken_records,
        })
    };
    delivery.held.pending().filter_map(advance).collect()
}
