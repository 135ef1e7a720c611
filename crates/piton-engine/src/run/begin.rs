//! Taking over: every refusal first, then fence, then read.
//!
//! Nothing is truncated or written to a sink before every refusal has been decided. Then the store
//! learns of each sink ("begun"), then each sink is fenced and says where it stands.

use futures_executor::block_on;
use jiff::Timestamp;
use piton_connectors::{
    sink::{Fence, PlainSink, Resume, Sink, TransactionalSink},
    source::Start,
};
use piton_core::{Checkpoint, Claim, Epoch, Event, Order, OrderKind, Store, fault};

use super::{
    RunError, RunOptions,
    context::Held,
    deliver::begun,
    error::stored_instead,
    reconcile::{Sides, reconcile},
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

/// Reads what the store and the source say, changing nothing.
pub(crate) fn find(pipeline: &Pipeline, store: &dyn Store) -> Result<Found, RunError> {
    let checkpoints = block_on(store.load(&pipeline.name))?;
    let orders = block_on(store.orders(&pipeline.name))?;
    let partitions = match pipeline.source.partitions() {
        Ok(partitions) => partitions,
        Err(error) => {
            refuse_gone(pipeline, &checkpoints)?;
            return Err(RunError::of_source(&pipeline.source_at, &error));
        }
    };
    Ok(Found { checkpoints, orders, partitions })
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

/// The smallest epoch that a claim needs: above what any sink has seen. A store that was lost or
/// restored knows less than its sinks.
pub(crate) fn epoch_needed(pipeline: &Pipeline, sinks: &mut [Sink]) -> Result<Epoch, RunError> {
    let mut needed = Epoch(0);
    for (spec, sink) in pipeline.sinks.iter().zip(sinks) {
        let Sink::Transactional(sink) = sink else { continue };
        let newest = sink
            .newest_epoch(&pipeline.name, &spec.name)
            .map_err(|error| RunError::of_sink(&pipeline.name, &spec.name, &error))?;
        needed = needed.max(Epoch(newest.0 + 1));
    }
    Ok(needed)
}

fn peek(
    pipeline: &Pipeline,
    name: &str,
    sink: &mut dyn TransactionalSink,
) -> Result<Vec<Checkpoint>, RunError> {
    sink.peek(&pipeline.name, name).map_err(|error| RunError::of_sink(&pipeline.name, name, &error))
}

/// Decides every refusal of one sink, and of the source at the place where that sink stands.
pub(crate) fn inspect(
    pipeline: &Pipeline,
    found: &Found,
    options: &RunOptions,
    name: &str,
    sink: &mut Sink,
) -> Result<(), RunError> {
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
            if own.iter().any(|c| c.position.is_some())
                && appends(pipeline, name)
                && let Some(hint) = open_reset(pipeline, name, &orders)
            {
                return Err(RunError::Refused(format!(
                    "{}, sink '{name}': {location} holds the rows of earlier runs. {hint}",
                    pipeline.name
                )));
            }
            own
        }
        Sink::Plain(sink) => {
            sink.inspect(&resume(&mirror, &orders, options))
                .map_err(|error| RunError::of_sink(&pipeline.name, name, &error))
                .map_err(|error| hinted(error, pipeline, name, &orders))?;
            mirror
        }
    };
    if options.accept_changes {
        return Ok(());
    }
    for checkpoint in stands {
        let reset = orders.iter().rev().find(|o| o.covers(&checkpoint.key.partition, name));
        let position = match reset {
            Some(order) => order.position.clone(),
            None => checkpoint.position,
        };
        let start = Start { partition: checkpoint.key.partition, position };
        pipeline
            .source
            .verify(&start, options.verify)
            .map_err(|error| RunError::of_source(&pipeline.name, &error))?;
    }
    Ok(())
}

/// Whether a sink's output cannot be written over.
fn appends(pipeline: &Pipeline, sink: &str) -> bool {
    let is_so = |known: &SinkRecord| known.name == sink && known.replay == Replay::CutOrRepeat;
    sinks_of(&pipeline.record).iter().any(is_so)
}

/// A checkpoint that was deleted in a SQL shell is a reset that leaves open what becomes of the
/// output: what a person can say then.
fn open_reset(pipeline: &Pipeline, sink: &str, orders: &[Order]) -> Option<String> {
    let last = orders.last()?;
    (last.kind == OrderKind::Reset && last.output.is_none()).then(|| {
        format!(
            "Its checkpoint was deleted: `piton reset {} --sink {sink} --truncate` has the next \
             run cut away what it had written, `--keep` leaves it there",
            pipeline.name
        )
    })
}

fn hinted(error: RunError, pipeline: &Pipeline, sink: &str, orders: &[Order]) -> RunError {
    match (error, open_reset(pipeline, sink, orders)) {
        (RunError::Refused(what), Some(hint)) => RunError::Refused(format!("{what}. {hint}")),
        (other, _) => other,
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
    let of_sink = |error| RunError::of_sink(&pipeline.name, name, &error);
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
    let order = |checkpoint: &Checkpoint| Order {
        id: 0,
        pipeline: pipeline.name.clone(),
        partition: checkpoint.key.partition.clone(),
        sink: checkpoint.key.sink.clone(),
        kind: OrderKind::Reset,
        position: None,
        records: 0,
        sink_state: None,
        output: None,
        who: event.who.clone(),
        at: event.at,
        applied_at: None,
    };
    block_on(store.order(checkpoints.iter().map(order).collect(), event.clone()))?;
    let orders = block_on(store.orders(&pipeline.name))?;
    for spec in &pipeline.sinks {
        let of_sink = |error| RunError::of_sink(&pipeline.name, &spec.name, &error);
        if let Sink::Transactional(mut sink) = (spec.make)().map_err(of_sink)? {
            let fence = Fence {
                pipeline: pipeline.name.clone(),
                sink: spec.name.clone(),
                epoch: claim.epoch,
                partitions: Vec::new(),
                orders: Vec::new(),
            };
            let _ = sink.fence(&fence).map_err(of_sink)?;
            sink.forget().map_err(of_sink)?;
        }
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
    let of_sink = |error| RunError::of_sink(&pipeline.name, name, &error);
    let mirror = found.of_sink(name);
    let partitions = found.all_partitions(&mirror);
    let mut resume = resume(&mirror, &found.orders_for(name), options);
    sink.inspect(&resume).map_err(of_sink)?;
    if mirror.is_empty() && resume.state.is_none() {
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

/// What a plain sink is resumed from.
fn resume(checkpoints: &[Checkpoint], orders: &[Order], options: &RunOptions) -> Resume {
    let order = orders.last();
    let state = match order {
        Some(order) if order.kind == OrderKind::Reset => match order.output {
            // Without a word about the output, the sink decides as if there were no checkpoint.
            None => None,
            Some(_) => order.sink_state.clone(),
        },
        _ => governing_state(checkpoints),
    };
    Resume { state, adopt: options.adopt, output: order.and_then(|order| order.output) }
}

/// The sink state that governs: a file only grows, so of several the longest.
pub(crate) fn governing_state<'a>(
    checkpoints: impl IntoIterator<Item = &'a Checkpoint>,
) -> Option<String> {
    let states = checkpoints.into_iter().filter_map(|c| c.sink_state.clone());
    states.max_by_key(|state| length(state))
}

/// The `length` of a sink state; 0 if it has none.
fn length(state: &str) -> u64 {
    let value: Option<serde_json::Value> = serde_json::from_str(state).ok();
    value.and_then(|value| value.get("length")?.as_u64()).unwrap_or(0)
}
