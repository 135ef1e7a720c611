//! What a run would do, said before it runs and without changing anything.

use futures_executor::block_on;
use piton_connectors::sink::{Guarantee, Sink};
use piton_core::{Checkpoint, Order, Owner, Store};
use serde::Serialize;

use crate::{
    pipeline::Pipeline,
    run::{RunError, RunOptions, foresee},
};

/// What a run would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The pipeline's name.
    pub pipeline: String,
    /// What identifies the source.
    pub source: String,
    /// Where the store is; `None` if it is not there yet.
    pub store: Option<String>,
    /// One for each sink.
    pub sinks: Vec<SinkPlan>,
    /// What has changed in the definition since the last run.
    pub changes: Vec<String>,
    /// Why a run would be refused, if it would.
    pub refusal: Option<Refusal>,
}

/// What a run would do with one sink.
#[derive(Debug, Clone, Serialize)]
pub struct SinkPlan {
    /// Its name.
    pub sink: String,
    /// Where it is.
    pub at: String,
    /// Which guarantee holds.
    pub guarantee: String,
    /// Why, and what is missing for more.
    pub why: String,
    /// Records that its checkpoint covers; `None`: it starts at the beginning.
    pub resumes_after: Option<u64>,
    /// Where it resumes, by partition.
    pub positions: Vec<(String, Option<serde_json::Value>)>,
}

/// Why a run would be refused.
#[derive(Debug, Clone, Serialize)]
pub struct Refusal {
    /// The exit code that a run would have.
    pub exit_code: u8,
    /// The sentence.
    pub what: String,
}

/// Says what a run would do. `store` is `None` where there is none yet.
///
/// # Errors
/// What looking may fail with; a refusal of the run is part of the plan.
pub fn plan(pipeline: &Pipeline, store: Option<&dyn Store>) -> Result<Plan, RunError> {
    let known = match store {
        Some(store) => block_on(store.load(&pipeline.name))?,
        None => Vec::new(),
    };
    let orders = match store {
        Some(store) => block_on(store.orders(&pipeline.name))?,
        None => Vec::new(),
    };
    let mut sinks = Vec::new();
    for spec in &pipeline.sinks {
        let mut sink =
            (spec.make)().map_err(|error| RunError::of_sink(&pipeline.name, &spec.name, &error))?;
        sinks.push(sink_plan(pipeline, &spec.name, &mut sink, &known, &orders));
    }
    let nobody = Owner { host: String::new(), pid: 0 };
    let (changes, refusal) = match store {
        None => (Vec::new(), None),
        Some(store) => match foresee(pipeline, store, &RunOptions::plain(nobody)) {
            Ok(changes) => (changes, None),
            Err(error) => {
                let refusal = Refusal { exit_code: error.exit_code(), what: error.to_string() };
                (Vec::new(), Some(refusal))
            }
        },
    };
    Ok(Plan {
        pipeline: pipeline.name.clone(),
        source: pipeline.source.identity().to_string(),
        store: store.map(Store::location),
        sinks,
        changes,
        refusal,
    })
}

fn sink_plan(
    pipeline: &Pipeline,
    name: &str,
    sink: &mut Sink,
    known: &[Checkpoint],
    orders: &[Order],
) -> SinkPlan {
    let of_sink = |c: &&Checkpoint| c.key.sink == name;
    let mut checkpoints: Vec<Checkpoint> = known.iter().filter(of_sink).cloned().collect();
    let (Guarantee { what, why }, at) = match sink {
        Sink::Transactional(sink) => {
            // The sink's own are the truth, the store's a copy that lags.
            if let Ok(own) = sink.peek(&pipeline.name, name) {
                checkpoints = own;
            }
            (sink.guarantee(), sink.location())
        }
        Sink::Plain(sink) => (sink.guarantee(), sink.location()),
    };
    for checkpoint in &mut checkpoints {
        // The run applies it before it reads.
        let ordered = orders.iter().rev().find(|o| o.covers(&checkpoint.key.partition, name));
        if let Some(order) = ordered {
            checkpoint.position.clone_from(&order.position);
            checkpoint.records = order.records;
        }
    }
    let begun = checkpoints.iter().any(|c| c.position.is_some());
    let position = |c: &Checkpoint| {
        let json = c.position.as_ref().and_then(|p| serde_json::from_str(&p.json).ok());
        (c.key.partition.clone(), json)
    };
    SinkPlan {
        sink: name.to_owned(),
        at,
        guarantee: what.to_owned(),
        why,
        resumes_after: begun.then(|| checkpoints.iter().map(|c| c.records).sum()),
        positions: checkpoints.iter().map(position).collect(),
    }
}
