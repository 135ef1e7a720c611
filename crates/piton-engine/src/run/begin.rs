//! Taking over: every refusal first, then fence, then read.
//!
//! Nothing is truncated or written to a sink before every refusal has been decided. Then the store
//! learns of each sink ("begun"), then each sink is fenced and says where it stands.

use futures_executor::block_on;
use jiff::Timestamp;
use piton_connectors::{
    sink::{Fence, PlainSink, Resume, Sink, TransactionalSink},
    source::{SourceError, Start},
};
use piton_core::{Checkpoint, Claim, Epoch, Event, Order, Output, Store, fault};

use super::{
    RunError, RunOptions,
    changes::Changed,
    context::Held,
    deliver::begun,
    error::stored_instead,
    reconcile::{Sides, reconcile},
    resume::{resume, undecided},
};
use crate::{
    pipeline::Pipeline,
    steer::{Replay, SinkRecord, sinks_of},
};

/// What was found before anything was written.
pub(crate) struct Found {
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) orders: Vec<Order>,
    pub(crate) partitions: Vec<String>,
}

impl Found {
    fn of_sink(&self, sink: &str) -> Vec<Checkpoint> {
        self.checkpoints.iter().filter(|c| c.key.sink == sink).cloned().collect()
    }

    fn orders_for(&self, sink: &str) -> Vec<Order> {
        let covers = |order: &&Order| order.sink == sink || order.sink == piton_core::claim::WHOLE;
        self.orders.iter().filter(covers).cloned().collect()
    }

    /// The partitions that are there now, and those that were.
    fn all_partitions(&self, of_sink: &[Checkpoint]) -> Vec<String> {
        let mut all: Vec<String> = of_sink.iter().map(|c| c.key.partition.clone()).collect();
        all.extend(self.partitions.iter().cloned());
        all.sort();
        all.dedup();
        all
    }
}

/// A sink that is open, fenced, and knows where it stands.
pub(crate) struct Ready {
    pub(crate) sink: Sink,
    pub(crate) held: Held,
}

/// Reads what the store and the source say, changing nothing. `adopted`: partitions that a sink
/// knows and the store does not.
pub(crate) fn find(
    pipeline: &Pipeline,
    store: &dyn Store,
    adopted: Vec<String>,
) -> Result<Found, RunError> {
    let checkpoints = block_on(store.load(&pipeline.name))?;
    let orders = block_on(store.orders(&pipeline.name))?;
    let mut known = adopted;
    known.extend(checkpoints.iter().map(|checkpoint| checkpoint.key.partition.clone()));
    known.sort();
    known.dedup();
    let partitions = match pipeline.source.partitions_after(&known) {
        Ok(partitions) => partitions,
        Err(error) => {
            refuse_gone(pipeline, &checkpoints)?;
            return Err(RunError::of_source(&pipeline.source_at, &error));
        }
    };
    Ok(Found { checkpoints, orders, partitions })
}

/// The partitions of which sinks have checkpoints, where a store without them takes them over.
pub(crate) fn adopted(
    pipeline: &Pipeline,
    options: &RunOptions,
    sinks: &mut [Sink],
) -> Result<Vec<String>, RunError> {
    let mut partitions = Vec::new();
    for (spec, sink) in pipeline.sinks.iter().zip(sinks).filter(|_| options.adopt) {
        let Sink::Transactional(sink) = sink else { continue };
        let own = peek(pipeline, &spec.name, &mut **sink)?;
        partitions.extend(own.into_iter().map(|checkpoint| checkpoint.key.partition));
    }
    Ok(partitions)
}

/// Nothing is there to read, and something of it was read before: that is a gap, and no mistake in
/// the configuration.
fn refuse_gone(pipeline: &Pipeline, checkpoints: &[Checkpoint]) -> Result<(), RunError> {
    for checkpoint in checkpoints.iter().filter(|c| c.position.is_some()) {
        let (partition, position) = (checkpoint.key.partition.clone(), checkpoint.position.clone());
        let verified = pipeline.source.verify(&Start { partition, position }, false);
        verified.map_err(|error| RunError::of_source(&pipeline.name, &error))?;
    }
    Ok(())
}

/// The same by what the sinks know.
pub(super) fn refuse_gone_in(pipeline: &Pipeline, sinks: &mut [Sink]) -> Result<(), RunError> {
    for (spec, sink) in pipeline.sinks.iter().zip(sinks) {
        if let Sink::Transactional(sink) = sink {
            refuse_gone(pipeline, &peek(pipeline, &spec.name, &mut **sink)?)?;
        }
    }
    Ok(())
}

/// The smallest epoch that a claim needs: above what any sink has seen. A store that was lost or
/// restored knows less than its sinks.
pub(crate) fn epoch_needed(pipeline: &Pipeline, sinks: &mut [Sink]) -> Result<Epoch, RunError> {
    let mut needed = Epoch(0);
    for (spec, sink) in pipeline.sinks.iter().zip(sinks) {
        let Sink::Transactional(sink) = sink else { continue };
        let newest = sink
            .newest_epoch(&pipeline.name, &spec.name)
            .map_err(|error| pipeline.of_sink(&spec.name, &error))?;
        needed = needed.max(Epoch(newest.0 + 1));
    }
    Ok(needed)
}

fn peek(
    pipeline: &Pipeline,
    name: &str,
    sink: &mut dyn TransactionalSink,
) -> Result<Vec<Checkpoint>, RunError> {
    sink.peek(&pipeline.name, name).map_err(|error| pipeline.of_sink(name, &error))
}

/// Decides every refusal of one sink, and of the source at the place where that sink stands. When
/// the newest checkpoint was stored that it goes on from.
pub(super) fn inspect(
    pipeline: &Pipeline,
    found: &Found,
    options: &RunOptions,
    (name, sink): (&str, &mut Sink),
    changed: &mut Changed,
) -> Result<Option<Timestamp>, RunError> {
    let mirror = found.of_sink(name);
    let orders = found.orders_for(name);
    let stands = match sink {
        Sink::Transactional(sink) => {
            let own = peek(pipeline, name, &mut **sink)?;
            let location = sink.location();
            let sides = Sides {
                pipeline: &pipeline.name,
                sink: name,
                location: &location,
                mirror: &mirror,
                own: &own,
                orders: &orders,
                adopt: options.adopt,
            };
            reconcile(&sides).map_err(RunError::Refused)?;
            refuse_undecided(pipeline, name, &own, &orders, options)?;
            if !options.adopt {
                sink.inspect(&pipeline.name, name, &orders)
                    .map_err(|error| pipeline.of_sink(name, &error))?;
            }
            own
        }
        Sink::Plain(sink) => {
            let resume = resume_of(pipeline, name, &mirror, &orders, options)?;
            sink.inspect(&resume).map_err(|error| {
                let deleted = orders.iter().find(|order| order.output.is_none());
                match (pipeline.of_sink(name, &error), deleted) {
                    (RunError::Refused(_), Some(order)) if replays(pipeline, name) => {
                        let why = undecided(&pipeline.name, order);
                        RunError::Refused(format!("{}, sink '{name}': {why}", pipeline.name))
                    }
                    (error, _) => error,
                }
            })?;
            mirror
        }
    };
    let goes_on = |c: &&Checkpoint| {
        let is_ordered = orders.iter().any(|order| order.covers(&c.key.partition, name));
        c.position.is_some() && !is_ordered
    };
    let newest = stands.iter().filter(goes_on).map(|checkpoint| checkpoint.updated_at).max();
    if options.accept_changes {
        return Ok(newest);
    }
    let is_new = |partition: &&String| !stands.iter().any(|c| c.key.partition == **partition);
    for partition in found.partitions.iter().filter(is_new) {
        let start = Start { partition: partition.clone(), position: None };
        verify(pipeline, &start, options, changed)?;
    }
    for checkpoint in stands {
        let reset = orders.iter().rev().find(|o| o.covers(&checkpoint.key.partition, name));
        let position = match reset {
            Some(order) => order.position.clone(),
            None => checkpoint.position,
        };
        if position.is_none() {
            continue;
        }
        let start = Start { partition: checkpoint.key.partition, position };
        verify(pipeline, &start, options, changed)?;
    }
    Ok(newest)
}

fn verify(
    pipeline: &Pipeline,
    start: &Start,
    options: &RunOptions,
    changed: &mut Changed,
) -> Result<(), RunError> {
    let source = pipeline.strict.as_ref().unwrap_or(&pipeline.source);
    let Err(error) = source.verify(start, options.verify) else { return Ok(()) };
    let refusal = RunError::of_source(&pipeline.name, &error);
    match error {
        SourceError::Gap { partition, what, .. } => {
            // What differs is the first sentence; the choices follow.
            let what = what.split(". ").next().unwrap_or_default();
            changed.tell(format!("{partition}: {what}"), refusal)
        }
        // Another kind of source.
        SourceError::Position(_) if changed.begins_anew() => Ok(()),
        _ => Err(refusal),
    }
}

/// Output that cannot be written over is not repeated without a word about it.
fn refuse_undecided(
    pipeline: &Pipeline,
    name: &str,
    own: &[Checkpoint],
    orders: &[Order],
    options: &RunOptions,
) -> Result<(), RunError> {
    if options.adopt || !replays(pipeline, name) {
        return Ok(());
    }
    let written = own.iter().filter(|c| c.position.is_some());
    let newest = written.filter_map(|c| {
        let partition = &c.key.partition;
        orders.iter().rev().find(|order| order.covers(partition, name))
    });
    match newest.into_iter().find(|order| order.output.is_none()) {
        None => Ok(()),
        Some(order) => {
            let why = undecided(&pipeline.name, order);
            Err(RunError::Refused(format!("{}, sink '{name}': {why}", pipeline.name)))
        }
    }
}

/// Opens one sink: the store learns of it, it is fenced, and says where it stands.
pub(crate) fn open(
    pipeline: &Pipeline,
    store: &dyn Store,
    claim: &Claim,
    found: &Found,
    options: &RunOptions,
    (name, mut sink): (&str, Sink),
) -> Result<Ready, RunError> {
    let mirror = found.of_sink(name);
    let orders = found.orders_for(name);
    let of_sink = |error| pipeline.of_sink(name, &error);
    fault::point("recover");
    let held = match &mut sink {
        Sink::Transactional(sink) => {
            let partitions = found.all_partitions(&mirror);
            begin_all(pipeline, store, claim, (name, None), &mirror, &partitions)?;
            let fence = Fence {
                pipeline: pipeline.name.clone(),
                sink: name.to_owned(),
                epoch: claim.epoch,
                partitions,
                orders,
            };
            if options.adopt {
                sink.adopt();
            }
            let own = sink.fence(&fence).map_err(of_sink)?;
            let _ = block_on(store.mirror(claim, own.clone()))?;
            Held::of(&own)
        }
        Sink::Plain(sink) => {
            open_plain(pipeline, store, claim, found, options, (name, &mut **sink))?
        }
    };
    fault::point("recover");
    Ok(Ready { sink, held })
}

/// Removes the checkpoints of a finished pipeline, in the sinks and in the store.
///
/// A reset is ordered first: should this process die in between, the next owner finds the order
/// and begins anew, instead of finding sink and store at odds.
pub(crate) fn forget(
    pipeline: &Pipeline,
    store: &dyn Store,
    claim: &Claim,
    event: &Event,
) -> Result<(), RunError> {
    let checkpoints = block_on(store.load(&pipeline.name))?;
    let mut transactional = Vec::new();
    for spec in &pipeline.sinks {
        let made = (spec.make)();
        let made = made.map_err(|error| pipeline.of_sink(&spec.name, &error))?;
        if let Sink::Transactional(sink) = made {
            transactional.push((&spec.name, sink));
        }
    }
    // A table that is appended to begins anew beside its rows; a file that is there is refused.
    let output = |sink: &str| {
        let keeps = transactional.iter().any(|(name, _)| *name == sink);
        keeps.then_some(Output::Keep)
    };
    let order = |checkpoint: &Checkpoint| Order {
        output: output(&checkpoint.key.sink),
        ..Order::reset(&checkpoint.key, &event.who, event.at)
    };
    block_on(store.order(checkpoints.iter().map(order).collect(), event.clone()))?;
    let orders = block_on(store.orders(&pipeline.name))?;
    for (name, mut sink) in transactional {
        let of_sink = |error| pipeline.of_sink(name, &error);
        let fence = Fence {
            pipeline: pipeline.name.clone(),
            sink: name.clone(),
            epoch: claim.epoch,
            partitions: Vec::new(),
            orders: Vec::new(),
        };
        let _ = sink.fence(&fence).map_err(of_sink)?;
        sink.forget().map_err(of_sink)?;
    }
    let applied = orders.iter().map(|order| order.id).collect();
    block_on(store.applied(claim, applied, event.at))?;
    let _ = block_on(store.complete(claim, None))?;
    Ok(())
}

fn open_plain(
    pipeline: &Pipeline,
    store: &dyn Store,
    claim: &Claim,
    found: &Found,
    options: &RunOptions,
    (name, sink): (&str, &mut dyn PlainSink),
) -> Result<Held, RunError> {
    let of_sink = |error| pipeline.of_sink(name, &error);
    let mirror = found.of_sink(name);
    let partitions = found.all_partitions(&mirror);
    let mut resume = resume_of(pipeline, name, &mirror, &found.orders_for(name), options)?;
    sink.inspect(&resume).map_err(of_sink)?;
    let keeps = resume.output == Some(Output::Keep);
    if mirror.is_empty() && resume.state.is_none() || keeps {
        // Before the first byte, and before anything is cut: the store learns what is there.
        let present = sink.present().map_err(of_sink)?;
        begin_all(pipeline, store, claim, (name, present.state.clone()), &mirror, &partitions)?;
        resume.state = present.state;
    } else {
        begin_all(pipeline, store, claim, (name, resume.state.clone()), &mirror, &partitions)?;
    }
    let _ = sink.open(&resume).map_err(of_sink)?;
    let checkpoints = block_on(store.load(&pipeline.name))?;
    let own: Vec<Checkpoint> = checkpoints.into_iter().filter(|c| c.key.sink == name).collect();
    Ok(Held::of(&own))
}

/// Stores a "begun" checkpoint for every partition that has none.
fn begin_all(
    pipeline: &Pipeline,
    store: &dyn Store,
    claim: &Claim,
    (name, state): (&str, Option<String>),
    known: &[Checkpoint],
    partitions: &[String],
) -> Result<(), RunError> {
    let is_new = |partition: &&String| !known.iter().any(|c| c.key.partition == **partition);
    let saves: Vec<_> = partitions
        .iter()
        .filter(is_new)
        .map(|partition| begun(pipeline, name, partition, state.clone()))
        .collect();
    if saves.is_empty() {
        return Ok(());
    }
    for saved in block_on(store.save(claim, saves, Timestamp::now()))? {
        if !saved.is_stored() {
            let what = stored_instead(&saved);
            return Err(RunError::Fenced { pipeline: pipeline.name.clone(), what });
        }
    }
    Ok(())
}

fn resume_of(
    pipeline: &Pipeline,
    name: &str,
    checkpoints: &[Checkpoint],
    orders: &[Order],
    options: &RunOptions,
) -> Result<Resume, RunError> {
    let sinks = sinks_of(&pipeline.record);
    let sink = sinks.iter().find(|sink| sink.name == name);
    resume(&pipeline.name, sink, checkpoints, orders, options.adopt)
        .map_err(|why| RunError::Refused(format!("{}, sink '{name}': {why}", pipeline.name)))
}

/// Whether records that are read again are in this sink's output twice.
fn replays(pipeline: &Pipeline, name: &str) -> bool {
    let is_this = |sink: &SinkRecord| {
        sink.name == name && matches!(sink.replay, Replay::CutOrRepeat | Replay::Repeats)
    };
    sinks_of(&pipeline.record).iter().any(is_this)
}
