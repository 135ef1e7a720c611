//! The rules of Piton, with no database, connector, clock or random number of its own.
//!
//! A *source* is read in order; each record has a [`Position`]. A *checkpoint* is the position
//! below which everything is durable in one sink. A *claim* is the right to move a checkpoint,
//! and its *epoch* fences whoever held the claim before. Everything else in the project is built
//! from these three, and what may happen to them is decided in this crate alone:
//!
//! - [`outcome`] decides what a save does, as one table ([`Saved`]);
//! - [`store`] is the trait a database implements to keep checkpoints, claims and history;
//! - [`tracker`] turns completions that arrive out of order into one low-water mark;
//! - [`interval`] chooses how often to save;
//! - [`checksum`] makes damage visible;
//! - [`fault`] names the moments at which the crash harness kills the process.
//!
//! Time and chance are passed in, so that every decision here can be tested as a plain function.

pub mod checkpoint;
pub mod checksum;
pub mod claim;
pub mod dead_letter;
pub mod fault;
pub mod interval;
pub mod journal;
pub mod outcome;
pub mod position;
pub mod snapshot;
pub mod store;
pub mod tracker;

pub use checkpoint::{Checkpoint, CheckpointKey, StateEntry};
pub use claim::{Claim, ClaimAnswer, ClaimRequest, Epoch, Holder, Owner};
pub use dead_letter::DeadLetter;
pub use journal::{Control, Event, Order, OrderKind, Output, PipelineRecord, Run, RunEnd};
pub use outcome::{Save, Saved};
pub use position::{Position, PositionError, PositionOrder, StoredPosition};
pub use snapshot::Snapshot;
pub use store::{Reply, Store, StoreError};
pub use tracker::Tracker;
