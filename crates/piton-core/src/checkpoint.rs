//! Checkpoints: how far one sink has durably got in one partition of one pipeline.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    checksum::{Checksum, Form},
    claim::Epoch,
    position::StoredPosition,
};

/// What a checkpoint is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckpointKey {
    /// The pipeline's (or job's) name.
    pub pipeline: String,
    /// The independently ordered part of the source: a file, a key range, a Kafka partition.
    pub partition: String,
    /// The sink that the checkpoint speaks for.
    pub sink: String,
}

impl CheckpointKey {
    /// A key from its three parts.
    pub fn new(
        pipeline: impl Into<String>,
        partition: impl Into<String>,
        sink: impl Into<String>,
    ) -> Self {
        Self { pipeline: pipeline.into(), partition: partition.into(), sink: sink.into() }
    }
}

impl std::fmt::Display for CheckpointKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} / {} / {}", self.pipeline, self.partition, self.sink)
    }
}

/// The position below which everything is durable in one sink, and what is known beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// What it is a checkpoint of.
    #[serde(flatten)]
    pub key: CheckpointKey,
    /// Where to go on. `None`: begun, and nothing is durable yet.
    pub position: Option<StoredPosition>,
    /// Records read from the source up to here, over all runs.
    pub records: u64,
    /// Grows by one with each stored checkpoint; what compare-and-set compares.
    pub version: u64,
    /// The claim that stored it.
    pub epoch: Epoch,
    /// The version of the source's schema at this position; 0 where the source has none.
    pub schema_version: u64,
    /// When it was stored, by the clock of the machine that stored it. For people: nothing is
    /// decided by it.
    pub updated_at: Timestamp,
    /// What the sink must find again: a file's length, the last row appended. JSON, of the sink's own shape.
    pub sink_state: Option<String>,
}

impl Checkpoint {
    /// The checksum over every column, kept in the row.
    pub fn checksum(&self) -> Checksum {
        self.checksum_as(Form::Native)
    }

    /// The checksum in one of the forms.
    pub fn checksum_as(&self, form: Form) -> Checksum {
        let (kind, json) = match &self.position {
            Some(p) => (Some(p.kind.as_str()), Some(p.json.as_str())),
            None => (None, None),
        };
        Checksum::build_as(form)
            .text(&self.key.pipeline)
            .text(&self.key.partition)
            .text(&self.key.sink)
            .maybe(kind)
            .maybe(json)
            .number(self.records)
            .number(self.version)
            .number(self.epoch.0)
            .number(self.schema_version)
            .text(&self.updated_at.to_string())
            .maybe(self.sink_state.as_deref())
            .finish()
    }
}

/// One entry of the state that a program keeps beside its position. A single value has the key `""`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEntry {
    /// The key within the state.
    pub key: String,
    /// JSON text; `None` removes the key.
    pub json: Option<String>,
}
