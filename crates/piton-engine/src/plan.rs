//! What a run would do, said before it runs and without changing anything.

use futures_executor::block_on;
use piton_connectors::sink::{Guarantee, Sink};
use piton_core::{Checkpoint, Order, OrderKind, Owner, Store, claim::WHOLE, interval::Policy};
use serde::Serialize;
use serde_json::Value;

use crate::{
    pipeline::Pipeline,
    run::{Awaited, RunError, RunOptions, foresee, held_back},
    steer::{Replay, sinks_of},
};

/// Why no more is promised of a transactional sink without checkpoints.
const UNSAVED: &str = "`checkpoint: off`, which is for benchmarks, leaves the checkpoint out of \
                       every transaction but the last: a crash repeats every record";

/// What a run would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The pipeline's name.
    pub pipeline: String,
    /// What identifies the source.
    pub source: Value,
    /// What a person should know of the source: what it does not see.
    pub remarks: Vec<String>,
    /// Where the store is; `None` if it is not there yet.
    pub store: Option<String>,
    /// One for each sink.
    pub sinks: Vec<SinkPlan>,
    /// What has changed in the definition since the last run.
    pub changes: Vec<String>,
    /// What a run would wait for before it begins.
    pub waits: Option<String>,
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
    /// The reset or rewind that a run applies first.
    pub ordered: Option<OrderKind>,
    /// Records that its checkpoint covers; `None`: it starts at the beginning.
    pub resumes_after: Option<u64>,
    /// Which rows a resume may touch again; `None` where there is nothing to resume.
    pub touches_again: Option<String>,
    /// Where it resumes, by partition.
    pub positions: Vec<(String, Option<Value>)>,
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
    let (known, orders) = match store {
        Some(store) => {
            (block_on(store.load(&pipeline.name))?, block_on(store.orders(&pipeline.name))?)
        }
        None => (Vec::new(), Vec::new()),
    };
    let mut sinks = Vec::new();
    for spec in &pipeline.sinks {
        let mut sink = (spec.make)().map_err(|error| pipeline.of_sink(&spec.name, &error))?;
        sinks.push(sink_plan(pipeline, &spec.name, &mut sink, &known, &orders));
    }
    let (changes, waits, refusal) = match store {
        None => (Vec::new(), None, None),
        Some(store) => match whether_it_begins(pipeline, store)? {
            Ok((changes, waits)) => (changes, waits, None),
            Err(error) => {
                let error = error.advising(&pipeline.name);
                let refusal = Refusal { exit_code: error.exit_code(), what: error.to_string() };
                (Vec::new(), None, Some(refusal))
            }
        },
    };
    Ok(Plan {
        pipeline: pipeline.name.clone(),
        source: pipeline.source.identity(),
        remarks: pipeline.source.remarks(),
        store: store.map(Store::location),
        sinks,
        changes,
        waits,
        refusal,
    })
}

/// What has changed and what a run would wait for, or why it would not begin.
type Beginning = Result<(Vec<String>, Option<String>), RunError>;

fn whether_it_begins(pipeline: &Pipeline, store: &dyn Store) -> Result<Beginning, RunError> {
    let nobody = Owner { host: String::new(), pid: 0 };
    Ok(held_back(pipeline, store)?.and_then(|awaited| {
        let changes = match (foresee(pipeline, store, &RunOptions::plain(nobody)), &awaited) {
            // What the owner has locked is free once it has ended.
            (Err(RunError::Locked(_)), Some(Awaited::Owner(_))) => Vec::new(),
            (foreseen, _) => foreseen?,
        };
        Ok((changes, awaited.map(|awaited| wait(&pipeline.name, &awaited))))
    }))
}

fn wait(pipeline: &str, awaited: &Awaited) -> String {
    match awaited {
        Awaited::Owner(holder) => {
            format!("it runs now: a run would wait for {holder} to end or to let go")
        }
        Awaited::Operator => {
            format!("it is paused: a run waits for `piton resume {pipeline}`")
        }
    }
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
            let guarantee = match pipeline.interval {
                Policy::Off => Guarantee { what: "at least once", why: UNSAVED.to_owned() },
                _ => sink.guarantee(),
            };
            (guarantee, sink.location())
        }
        Sink::Plain(sink) => (sink.guarantee(), sink.location()),
    };
    let of_sink = |order: &&Order| order.sink == name || order.sink == WHOLE;
    let ordered = orders.iter().rev().find(of_sink).map(|order| order.kind);
    for checkpoint in &mut checkpoints {
        let covers = |order: &&Order| order.covers(&checkpoint.key.partition, name);
        let Some(order) = orders.iter().rev().find(covers) else { continue };
        checkpoint.position.clone_from(&order.position);
        checkpoint.records = order.records;
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
        ordered,
        resumes_after: begun.then(|| checkpoints.iter().map(|c| c.records).sum()),
        positions: checkpoints.iter().map(position).collect(),
        touches_again: begun.then(|| touched_again(pipeline, name, what, ordered)),
    }
}

/// Which rows a resume may touch again, as a sentence.
fn touched_again(
    pipeline: &Pipeline,
    name: &str,
    guarantee: &str,
    ordered: Option<OrderKind>,
) -> String {
    let replay = sinks_of(&pipeline.record).into_iter().find(|sink| sink.name == name);
    let effect = match replay.map(|sink| sink.replay) {
        Some(Replay::Overwrites) => "written over; unchanged ones fire no trigger",
        Some(Replay::SendsAgain) => "sent again, with the same ids",
        _ => "written again",
    };
    match (ordered, pipeline.interval == Policy::Off, guarantee) {
        (Some(order), ..) => {
            format!("every row after the place of the {} may be {effect}", order.as_str())
        }
        (None, true, _) => format!("every row may be {effect}"),
        (None, false, "exactly once") => {
            "no row is touched again: what came after the checkpoint was rolled back or is cut \
             off"
            .to_owned()
        }
        _ => format!(
            "rows after the checkpoint may be {effect}: at most those that came between it and \
             a crash"
        ),
    }
}

/// What a source's identity names, in a few words.
pub fn brief_source(identity: &Value) -> String {
    let short = || -> Option<String> {
        let (kind, settings) = match identity.get("kind").and_then(Value::as_str) {
            Some(kind) => (kind, identity),
            None => {
                let (kind, settings) = identity.as_object()?.iter().next()?;
                (kind.as_str(), settings)
            }
        };
        let word = |key| settings.get(key).and_then(Value::as_str);
        let words = || {
            let words = settings.get("run")?.as_array()?.iter().filter_map(Value::as_str);
            Some(words.collect::<Vec<_>>().join(" "))
        };
        let what = word("path").or(word("table")).or(word("query")).map(str::to_owned);
        let what = what.or_else(words)?;
        let of = word("url").map(|url| format!(" of {url}")).unwrap_or_default();
        Some(format!("{kind} {what}{of}"))
    };
    short().unwrap_or_else(|| identity.to_string())
}
