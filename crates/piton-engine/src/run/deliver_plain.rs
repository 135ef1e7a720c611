//! Delivery to a sink whose checkpoint is in the store: write, make durable, then save.

use std::time::Instant;

use piton_connectors::{
    batch::Batch,
    sink::{PlainSink, SinkError},
};
use piton_core::{CheckpointKey, Save, fault};

use super::{
    deliver::{Delivery, Ended, Trouble},
    figures::SinkState,
    lane::{Inlet, Next, Parcel},
    signal::backoff,
};

/// Delivers until the lane ends.
pub(crate) fn run(
    delivery: &mut Delivery<'_>,
    sink: &mut dyn PlainSink,
    inlet: &Inlet,
) -> Result<Ended, Trouble> {
    // When the first record came that is not saved yet.
    let mut since: Option<Instant> = None;
    loop {
        let parcel = inlet.next(since.and_then(|since| delivery.deadline(since)));
        let began = since.unwrap_or_else(Instant::now);
        let save_now = match parcel {
            Next::Parcel(Parcel::Batch(batch)) => {
                since = Some(began);
                if let Err(trouble) = write(delivery, sink, &batch) {
                    // What was taken before is kept, so that it is not done again.
                    save(delivery, sink)?;
                    return Err(trouble);
                }
                delivery.is_due(began)
            }
            Next::Parcel(Parcel::Idle) => delivery.is_worth_it_idle(began),
            Next::Deadline => true,
            Next::End => {
                save(delivery, sink)?;
                return delivery.ended(inlet);
            }
        };
        if save_now && since.is_some() {
            save(delivery, sink)?;
            since = None;
        }
    }
}

/// Writes a batch, again and again while the sink does not answer.
fn write(
    delivery: &mut Delivery<'_>,
    sink: &mut dyn PlainSink,
    batch: &Batch,
) -> Result<(), Trouble> {
    let cx = delivery.cx;
    delivery.begin_partition(&batch.partition)?;
    if fault::known_bad("checkpoint_before_durable") {
        delivery.taken(batch);
        return save(delivery, sink).and_then(|()| write_once(delivery, sink, batch));
    }
    let mut attempt = 0;
    loop {
        // A sink that cannot fence is only written to while the lease is known to stand.
        let stands = cx.signal.claim_stands();
        if let Some(by) = cx.signal.fenced() {
            return Err(Trouble::Run(cx.fenced(&by)));
        }
        if !stands {
            return Err(Trouble::Unavailable("the claim's lease has lapsed".to_owned()));
        }
        match write_once(delivery, sink, batch) {
            Err(Trouble::Unavailable(what)) => {
                delivery.figures().note_state(SinkState::Behind, Some(what.clone()));
                if attempt == 0 {
                    save(delivery, sink)?;
                }
                if !cx.signal.sleep(backoff(attempt)) {
                    return Err(Trouble::Unavailable(what));
                }
                attempt += 1;
            }
            Err(trouble) => return Err(trouble),
            Ok(()) => break,
        }
    }
    if attempt > 0 {
        delivery.figures().note_state(SinkState::Working, None);
    }
    delivery.taken(batch);
    Ok(())
}

fn write_once(
    delivery: &mut Delivery<'_>,
    sink: &mut dyn PlainSink,
    batch: &Batch,
) -> Result<(), Trouble> {
    fault::point("sink.begin");
    delivery.write_rows(batch, |rows| {
        let accepted = sink.write(batch, rows)?;
        let _ = accepted;
        Ok::<(), SinkError>(())
    })?;
    fault::point("sink.after");
    Ok(())
}

/// Makes what was taken durable, then saves the checkpoints of every partition that advanced.
fn save(delivery: &mut Delivery<'_>, sink: &mut dyn PlainSink) -> Result<(), Trouble> {
    if delivery.held.pending().next().is_none() {
        return Ok(());
    }
    let began = Instant::now();
    let durable = sink.durable().map_err(|e| delivery.trouble(&e))?;
    let records = delivery.held.pending_records();
    let saves: Vec<Save> = saves(delivery, durable.state.as_ref());
    let partitions: Vec<String> = saves.iter().map(|save| save.key.partition.clone()).collect();
    let versions = delivery.cx.save(delivery.name(), saves)?;
    for (partition, version) in partitions.iter().zip(versions) {
        delivery.held.saved(partition, version);
    }
    let cost = began.elapsed();
    delivery.interval.saved(cost);
    delivery.note_saved(records, cost);
    delivery.acknowledge(&partitions);
    Ok(())
}

fn saves(delivery: &Delivery<'_>, state: Option<&String>) -> Vec<Save> {
    let cx = delivery.cx;
    let save = |(partition, at): (&String, &super::context::At)| Save {
        key: CheckpointKey::new(&cx.pipeline.name, partition, delivery.name()),
        expected_version: at.version,
        expected: at.saved.clone(),
        position: at.taken.clone(),
        order: cx.pipeline.source.order(),
        records: at.saved_records + at.taken_records,
        schema_version: 0,
        sink_state: state.cloned(),
        state: Vec::new(),
    };
    delivery.held.pending().map(save).collect()
}
