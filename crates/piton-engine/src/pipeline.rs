//! A pipeline, ready to run: what a configuration becomes once it has been checked.

use std::{sync::Arc, time::Duration};

use piton_connectors::{
    sink::{Sink, SinkError},
    source::Source,
};
use piton_core::{PipelineRecord, interval::Policy};

use crate::{
    job::definition::OnSourceChange,
    run::RunError,
    transform::{TransformError, Transforms},
};

/// What a batch of small records takes, about.
const BATCH_BYTES: usize = 1 << 20;

/// Source, transforms and sinks with all that governs them.
pub struct Pipeline {
    /// Its name: the identity of its checkpoints.
    pub name: String,
    /// What is read.
    pub source: Arc<dyn Source>,
    /// The same, where `source` goes on in what was changed: it tells whether it was.
    pub strict: Option<Arc<dyn Source>>,
    /// What to do when what is read is not what was read before.
    pub on_source_change: OnSourceChange,
    /// How old the newest checkpoint may be and still be resumed.
    pub max_age: Option<Duration>,
    /// Where the source is configured, for people: file, line and column.
    pub source_at: String,
    /// Where the transforms are configured, likewise.
    pub transforms_at: String,
    /// Makes the transforms; each reader has its own.
    pub transforms: Box<dyn Fn() -> Transforms + Send + Sync>,
    /// Where it goes.
    pub sinks: Vec<SinkSpec>,
    /// What the source may forget.
    pub commit: Commit,
    /// How often to save.
    pub interval: Policy,
    /// How long a silent owner is waited for.
    pub lease: Duration,
    /// Whether to wait for a claim that is held, instead of ending with exit code 4.
    pub wait_when_held: bool,
    /// What becomes of a record that cannot be read, transformed or delivered.
    pub on_error: OnError,
    /// What becomes of the checkpoints of a finished run.
    pub on_complete: OnComplete,
    /// Records read per second, at most.
    pub rate: Option<f64>,
    /// The most bytes that wait in memory between source and sinks.
    pub memory_bytes: usize,
    /// The largest record, in bytes.
    pub record_bytes: usize,
    /// How long history is kept.
    pub keep_history: Duration,
    /// The record of a `for_each` that it is run for, after others.
    pub parent: Option<Arc<str>>,
    /// What is remembered of the definition, to notice a change.
    pub record: PipelineRecord,
}

impl Pipeline {
    /// How many batches may wait for each sink. A batch is small, unless one record is large: then
    /// it holds that record alone. Each sink may have a reader of its own, and each reader holds
    /// about three batches besides those that wait.
    pub(crate) fn batches_waiting(&self) -> usize {
        let batches = self.memory_bytes / self.record_bytes.max(BATCH_BYTES);
        (batches / self.sinks.len().max(1)).saturating_sub(3).clamp(1, 4)
    }

    /// What a sink's error means for the run. What is wrong in its settings is named with its place.
    pub(crate) fn of_sink(&self, name: &str, error: &SinkError) -> RunError {
        let spec = self.sinks.iter().find(|spec| spec.name == name);
        match (error, spec) {
            (SinkError::Settings { what }, Some(spec)) => {
                RunError::Settings(format!("{}: {what}", spec.at))
            }
            _ => RunError::of_sink(&self.name, name, error),
        }
    }

    /// Transforms that do not fit the records.
    pub(crate) fn of_transform(&self, error: &TransformError) -> RunError {
        RunError::Settings(format!("{}: {error}", self.transforms_at))
    }

    /// Whether the pipeline cannot go on without this sink. Under a quorum no single one is needed.
    pub fn needs(&self, sink: usize) -> bool {
        match self.commit {
            Commit::Required => self.sinks[sink].required,
            Commit::All => true,
            Commit::Quorum(_) => false,
        }
    }
}

/// One sink of a pipeline.
pub struct SinkSpec {
    /// Its name in the pipeline.
    pub name: String,
    /// Whether the pipeline may go on without it.
    pub required: bool,
    /// Where it is configured, for people: file, line and column.
    pub at: String,
    /// The columns without which no record can be written.
    pub key: Vec<String>,
    /// Whether another sink of the pipeline writes the same database, so that its transactions have
    /// to be short.
    pub shares: bool,
    /// Makes the sink; called again when it is retried.
    pub make: Box<dyn Fn() -> Result<Sink, SinkError> + Send + Sync>,
}

/// Which sinks must have a record before the source may forget it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Those that are required.
    Required,
    /// Every one.
    All,
    /// This many, whichever they are.
    Quorum(usize),
}

/// What becomes of a bad record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The run stops before it; everything before is kept.
    Stop,
    /// It is set aside durably and the run goes on.
    DeadLetter,
    /// A sink that refuses it is asked again this often, with growing pauses.
    Retry {
        /// How often.
        times: u32,
        /// Whether it is then set aside; otherwise the run stops.
        then_dead_letter: bool,
    },
}

impl OnError {
    /// Whether a record is set aside in the end.
    pub fn sets_aside(self) -> bool {
        matches!(self, Self::DeadLetter | Self::Retry { then_dead_letter: true, .. })
    }

    /// How often a sink is asked again.
    pub fn retries(self) -> u32 {
        match self {
            Self::Retry { times, .. } => times,
            _ => 0,
        }
    }
}

/// What becomes of the checkpoints of a finished run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnComplete {
    /// They stay: a second run says finished and does nothing.
    Keep,
    /// They go; runs and events stay.
    Delete,
}
