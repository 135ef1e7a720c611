//! The engine: runs pipelines.
//!
//! A record travels one way. A *lane* (reader thread) reads a batch from the source and transforms
//! it; a *delivery* (one thread a sink) writes it, in the sink's own transaction or plainly; the
//! checkpoint follows, in that transaction or in the store; the commit policy over the sinks'
//! checkpoints decides what the source may forget. Channels between them are bounded: a slow sink
//! slows its reader, and one that stands still is given a reader of its own.

pub mod config;
pub mod connect;
pub mod dry_run;
pub mod job;
#[cfg(feature = "postgres")]
pub mod outbox;
pub mod pipeline;
pub mod plan;
pub mod rehearsal;
pub mod replay;
pub mod run;
pub mod steer;
pub mod transform;
pub mod wording;

pub use pipeline::{Commit, OnComplete, OnError, Pipeline, SinkSpec};
pub use run::{Outcome, RunError, RunOptions, Summary, run};
