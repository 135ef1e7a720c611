//! The trait that a database implements to keep checkpoints.
//!
//! It is object-safe and asks for no runtime: every method returns a [`Reply`], a boxed future
//! that the `SQLite` and memory stores complete from a thread of their own, so that blocking on it
//! with any executor, or none, is right. Stores compare epochs and versions inside the statement
//! that writes; what a comparison means is decided by [`Saved::judge`] for all of them alike.
//!
//! `piton-stores` exports the conformance suite that each implementation must pass.

use std::{future::Future, path::PathBuf, pin::Pin, time::Duration};

use jiff::Timestamp;

use crate::{
    checkpoint::{Checkpoint, CheckpointKey, StateEntry},
    claim::{Claim, ClaimAnswer, ClaimRequest, Holder},
    dead_letter::DeadLetter,
    journal::{Control, Event, Order, PipelineRecord, Run},
    outcome::{Save, Saved},
    position::PositionError,
    snapshot::Snapshot,
};

/// What a store answers, when it has.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps checkpoints, claims, history and dead letters.
pub trait Store: Send + Sync {
    /// Where it is, for people, without secrets: an absolute path or a URL.
    fn location(&self) -> String;

    /// Asks for the right to advance. A dead owner's claim is granted at once; a living owner's
    /// only if [`ClaimRequest::silent`] names it and it has not stirred since.
    fn claim(&self, request: ClaimRequest) -> Reply<'_, ClaimAnswer>;

    /// Extends the lease. [`Saved::Fenced`] when a newer claim exists; [`Saved::Ignored`] otherwise.
    fn renew(&self, claim: &Claim) -> Reply<'_, Saved>;

    /// Gives the claim up, so that the next owner needs not wait.
    fn release(&self, claim: &Claim) -> Reply<'_, ()>;

    /// Who holds claims of this pipeline, by their lock's answer.
    fn holders(&self, pipeline: &str) -> Reply<'_, Vec<Holder>>;

    /// Stores checkpoints of one pipeline under one claim, all of them or none: when any is not
    /// [`Saved::Stored`], nothing is written and each says what it would have been.
    fn save(&self, claim: &Claim, saves: Vec<Save>, now: Timestamp) -> Reply<'_, Vec<Saved>>;

    /// Copies what transactional sinks hold, at the versions they hold it. Epochs are compared,
    /// versions may only grow.
    fn mirror(&self, claim: &Claim, checkpoints: Vec<Checkpoint>) -> Reply<'_, Saved>;

    /// The present checkpoints of a pipeline, verified against their checksums and the manifest.
    fn load(&self, pipeline: &str) -> Reply<'_, Vec<Checkpoint>>;

    /// The program's own state beside a checkpoint: one key, or all when `key` is `None`.
    fn state(&self, of: &CheckpointKey, key: Option<&str>) -> Reply<'_, Vec<StateEntry>>;

    /// Removes a pipeline's checkpoints and state under its claim; runs and events stay.
    fn complete(&self, claim: &Claim, sink: Option<&str>) -> Reply<'_, Saved>;

    /// Earlier checkpoints of a pipeline, newest first.
    fn history(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Checkpoint>>;

    /// Thins history older than `keep`, never what a resume or a pending order needs.
    fn thin(&self, pipeline: &str, keep: Duration, now: Timestamp) -> Reply<'_, ()>;

    /// Every pipeline the store has registered.
    fn pipelines(&self) -> Reply<'_, Vec<PipelineRecord>>;

    /// Registers a definition, or replaces it; its control stays as it is.
    fn register(&self, record: PipelineRecord) -> Reply<'_, ()>;

    /// What an operator wants of a pipeline.
    fn control(&self, pipeline: &str) -> Reply<'_, Control>;

    /// Sets what an operator wants, with the event that says so, in one transaction.
    fn set_control(&self, pipeline: &str, control: Control, event: Event) -> Reply<'_, ()>;

    /// Gives orders with the event that says so, in one transaction: a reset removes the
    /// checkpoints it covers, a rewind replaces them.
    fn order(&self, orders: Vec<Order>, event: Event) -> Reply<'_, ()>;

    /// Orders not yet applied, oldest first.
    fn orders(&self, pipeline: &str) -> Reply<'_, Vec<Order>>;

    /// Marks orders applied.
    fn applied(&self, claim: &Claim, orders: Vec<u64>, now: Timestamp) -> Reply<'_, ()>;

    /// Begins a run and returns its number.
    fn begin_run(&self, run: Run) -> Reply<'_, u64>;

    /// Replaces a run's figures, or ends it.
    fn update_run(&self, run: Run) -> Reply<'_, ()>;

    /// A pipeline's runs, newest first.
    fn runs(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Run>>;

    /// Records an event.
    fn record(&self, event: Event) -> Reply<'_, ()>;

    /// A pipeline's events, newest first.
    fn events(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Event>>;

    /// Sets records aside durably, each if it is not there yet. Returns how many were new.
    fn set_aside(&self, letters: Vec<DeadLetter>) -> Reply<'_, u64>;

    /// A pipeline's dead letters, oldest first.
    fn dead_letters(&self, pipeline: &str) -> Reply<'_, Vec<DeadLetter>>;

    /// Removes dead letters by sink and id. Returns how many there were.
    fn drop_letters(&self, pipeline: &str, ids: Vec<(String, String)>) -> Reply<'_, u64>;

    /// Everything, as of one moment.
    fn snapshot(&self) -> Reply<'_, Snapshot>;

    /// Fills an empty store from a snapshot; epochs jump forward by [`crate::snapshot::EPOCH_JUMP`].
    fn restore(&self, snapshot: Snapshot) -> Reply<'_, ()>;
}

/// Why a store could not do what it was asked. Named by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no store, and the caller only wanted to read.
    #[error(
        "there is no store at {path}: nothing has run here yet; \
         name one with --store, or set PITON_STORE"
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// State that cannot be trusted. Nothing was read as "start from zero".
    #[error(
        "the store {at} is damaged: {what}. Nothing was changed. Restore a backup \
         (`piton backup` makes one), or move the store away and run again with --adopt \
         to take over what the sinks hold"
    )]
    Damaged {
        /// Which store.
        at: String,
        /// What was found.
        what: String,
    },
    /// The file or database is somebody else's.
    #[error("{at} is not a Piton store: {what}. Name another with --store")]
    Foreign {
        /// Which store.
        at: String,
        /// What was found.
        what: String,
    },
    /// A newer Piton wrote it.
    #[error(
        "the store {at} has format {found}, this program knows up to {known}: use a newer piton"
    )]
    Newer {
        /// Which store.
        at: String,
        /// The format found.
        found: u64,
        /// The newest known.
        known: u64,
    },
    /// The store is there but could not be written or read: disk full, read-only, no permission.
    #[error(
        "the store {at} could not be used: {what}. Nothing advanced; when that is mended, run the same command again"
    )]
    Unusable {
        /// Which store.
        at: String,
        /// What failed.
        what: String,
    },
    /// Another process held the database longer than was waited for.
    #[error("the store {at} is locked by another process: {what}. Try again when it has finished")]
    Busy {
        /// Which store.
        at: String,
        /// Who, as far as is known.
        what: String,
    },
    /// A commit whose result is not known. Fence, then read; never go on by hope.
    #[error(
        "the store {at} did not say whether a commit took effect: {what}. When that is mended, run the same command again: it reads what the store holds"
    )]
    InDoubt {
        /// Which store.
        at: String,
        /// What failed.
        what: String,
        /// The connection to a server was lost, and nothing else is wrong: a new claim fences what
        /// may still be under way, and what is read then holds.
        lost: bool,
    },
    /// A position could not be read or written.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// The request makes no sense for this store.
    #[error("{what}")]
    Refused {
        /// Why.
        what: String,
    },
}
