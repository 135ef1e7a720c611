//! Everything that a store holds, as one consistent picture: what `backup`, `export` and `import` move.

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{Checkpoint, CheckpointKey, StateEntry},
    claim::Epoch,
    dead_letter::DeadLetter,
    journal::{Event, Order, PipelineRecord, Run},
};

/// The format of an export. Readers refuse a newer one.
pub const FORMAT: u32 = 1;

/// How far epochs jump when a snapshot becomes a store again, so that no owner of the time before passes.
pub const EPOCH_JUMP: u64 = 1_000_000;

/// A store's content at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// Registered definitions.
    pub pipelines: Vec<PipelineRecord>,
    /// Present checkpoints.
    pub checkpoints: Vec<Checkpoint>,
    /// Earlier checkpoints.
    pub history: Vec<Checkpoint>,
    /// The programs' own state, by checkpoint.
    pub state: Vec<(CheckpointKey, StateEntry)>,
    /// The highest epoch granted, by pipeline and partition.
    pub epochs: Vec<(String, String, Epoch)>,
    /// Runs.
    pub runs: Vec<Run>,
    /// Events.
    pub events: Vec<Event>,
    /// Orders.
    pub orders: Vec<Order>,
    /// Dead letters.
    pub dead_letters: Vec<DeadLetter>,
}
