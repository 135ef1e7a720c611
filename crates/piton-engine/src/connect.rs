//! Registration: what the words of a configuration stand for. A new connector is a line here.

use std::sync::Arc;

use piton_connectors::{
    file::{FilePosition, FileSink, FileSource},
    sink::{PlainSink, Sink, SinkError},
    source::Source,
    sqlite::SqliteSink,
    stdout::StreamSink,
};
use piton_core::{Control, PipelineRecord, PositionOrder, Position, interval::Policy, position::order_of};

use crate::{config::Config, pipeline::{Pipeline, SinkSpec, OnError, OnComplete, Commit}, run::RunError, steer::{Replay, SinkRecord}, transform::Transforms};

/// How stored positions of a kind are ordered; `None` for a kind that is not known.
pub fn order_of_kind(kind: &str) -> Option<PositionOrder> {
    match kind {
        FilePosition::KIND => Some(order_of::<FilePosition>),
        u64::KIND => Some(order_of::<u64>),
        _ => None,
    }
}

/// INTERIM
pub fn pipeline(config: &Config, accept: bool) -> Result<Pipeline, RunError> {
    let e = |e| RunError::of_source(&config.pipeline, &e);
    let source: Arc<dyn Source> = if let Some(c) = &config.source.csv {
        Arc::new(FileSource::new(c.clone(), &config.dir, 16<<20).map_err(e)?.accepting_changes(accept))
    } else { Arc::new(FileSource::new(config.source.jsonl.clone().unwrap(), &config.dir, 16<<20).map_err(e)?.accepting_changes(accept)) };
    let mut sinks = vec![]; let mut recs = vec![];
    for (name, s) in &config.sinks {
        let dir = config.dir.clone();
        let make: Box<dyn Fn() -> Result<Sink, SinkError> + Send + Sync> = if let Some(s) = s.sqlite.clone() {
            Box::new(move || Ok(Sink::Transactional(Box::new(SqliteSink::new(&s, &dir, std::time::Duration::from_secs(30))?))))
        } else if let Some(s) = s.jsonl.clone() {
            Box::new(move || Ok(Sink::Plain(Box::new(FileSink::jsonl(&s, &dir)?) as Box<dyn PlainSink>)))
        } else if let Some(s) = s.csv.clone() {
            Box::new(move || Ok(Sink::Plain(Box::new(FileSink::csv(&s, &dir)?))))
        } else { Box::new(|| Ok(Sink::Plain(Box::new(StreamSink::standard())))) };
        recs.push(SinkRecord{name: name.clone(), kind: "x".into(), at: "".into(), replay: if s.sqlite.is_some() {Replay::Overwrites} else {Replay::CutOrRepeat}});
        sinks.push(SinkSpec{name: name.clone(), required: s.required.unwrap_or(true), make});
    }
    Ok(Pipeline { name: config.pipeline.clone(), record: PipelineRecord { pipeline: config.pipeline.clone(), source: source.identity().to_string(), transforms: "[]".into(), sinks: serde_json::to_string(&recs).unwrap(), control: Control::Run, file: None },
        source, transforms: Box::new(|| Transforms::new(&[], true, 1<<20)), sinks, commit: Commit::Required,
        interval: match &config.checkpoint { None => Policy::default(), Some(c) => Policy::Fixed{every: c.every.map(Into::into), records: c.records} },
        lease: std::time::Duration::from_secs(30), wait_when_held: false, on_error: OnError::Stop, on_complete: OnComplete::Keep,
        rate: config.source.rate.as_ref().map(|r| r.trim_end_matches("/s").parse().unwrap()), memory_bytes: 1<<28, keep_history: std::time::Duration::from_secs(86400*30) })
}
