//! What a program says of a processor, and how it is run.

use std::{future::Future, time::Duration};

use tokio_postgres::Transaction;

use super::{
    Database, ProcessorError,
    reader::{Message, Start},
    running::{self, Stop},
    work::{Outside, Within},
};
use crate::{claiming::WhenHeld, error::EffectsError, options::Options};

/// When the checkpoint is stored within the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CheckpointOrder {
    /// Before the handler, which is not called unless it was stored: a mismatch costs no work.
    #[default]
    First,
    /// After the handler, so that it does not hold the checkpoint's lock while it works.
    Last,
}

/// A handler of an outbox's messages.
pub struct Processor {
    pub(super) database: Database,
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) table: String,
    pub(super) start: Start,
    pub(super) batch: u64,
    pub(super) max_open: Duration,
    pub(super) order: CheckpointOrder,
    pub(super) attempts: u32,
    pub(super) patience: Duration,
    pub(super) again: bool,
    pub(super) accepts_server: bool,
    pub(super) options: Options,
}

impl Processor {
    /// A processor of the table `outbox`, by its name: the identity of its checkpoint.
    pub fn new(database: &Database, name: &str) -> Self {
        Self {
            database: database.clone(),
            name: name.to_owned(),
            version: 1,
            table: "outbox".to_owned(),
            start: Start::Beginning,
            batch: 1000,
            max_open: Duration::from_secs(1),
            order: CheckpointOrder::First,
            attempts: 5,
            patience: Duration::from_mins(1),
            again: false,
            accepts_server: false,
            options: Options::default(),
        }
    }

    /// The version of the processor's code: each has a place of its own. Default 1.
    #[must_use]
    pub fn version(self, version: u32) -> Self {
        Self { version, ..self }
    }

    /// The outbox: `NAME` or `SCHEMA.NAME`.
    #[must_use]
    pub fn table(self, table: &str) -> Self {
        Self { table: table.to_owned(), ..self }
    }

    /// Where to begin when there is no checkpoint.
    #[must_use]
    pub fn start(self, start: Start) -> Self {
        Self { start, ..self }
    }

    /// How many messages a batch has at most. Default 1,000.
    #[must_use]
    pub fn batch(self, messages: u64) -> Self {
        Self { batch: messages.max(1), ..self }
    }

    /// How long a transaction should be open at most, because an open one holds every reader of
    /// the outbox back. Batches are made as small as the handler's pace asks for, down to one
    /// message. Default 1 s.
    #[must_use]
    pub fn max_open(self, time: Duration) -> Self {
        Self { max_open: time, ..self }
    }

    /// When the checkpoint is stored.
    #[must_use]
    pub fn checkpoint(self, order: CheckpointOrder) -> Self {
        Self { order, ..self }
    }

    /// How often a batch is tried before its error is surfaced. Default 5.
    #[must_use]
    pub fn attempts(self, attempts: u32) -> Self {
        Self { attempts: attempts.max(1), ..self }
    }

    /// How long a server that is away is waited for before its error is surfaced. Default 1 min.
    #[must_use]
    pub fn patience(self, time: Duration) -> Self {
        Self { patience: time, ..self }
    }

    /// What to do while another instance has the processor. Default: fail at once.
    #[must_use]
    pub fn when_held(mut self, when_held: WhenHeld) -> Self {
        self.options.when_held = when_held;
        self
    }

    /// How long an owner may be silent: then another may take its place, and the server ends the
    /// transaction that it left open. The loop shows that it lives, on another connection too,
    /// also while a handler is slow; a handler that blocks its thread does not let it. Default
    /// 30 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.options.lease = lease;
        self
    }

    /// Runs although an operator has cancelled it, which it otherwise refuses: what `piton run
    /// --again` is for a pipeline.
    #[must_use]
    pub fn again(self) -> Self {
        Self { again: true, ..self }
    }

    /// Accepts that the server is not the one that the checkpoint is of, and that its transaction
    /// ids go on from there, as `pg_upgrade` makes them. For one run.
    #[must_use]
    pub fn accept_server(self) -> Self {
        Self { accepts_server: true, ..self }
    }

    /// Handles messages, each batch in a transaction that moves the checkpoint, too, until an error
    /// is surfaced.
    ///
    /// # Errors
    /// [`ProcessorError`], after which nothing of the batch at hand was kept.
    pub async fn run<H>(self, handler: H) -> Result<(), ProcessorError>
    where
        H: AsyncFnMut(&[Message], &Transaction<'_>) -> Result<(), EffectsError>,
    {
        self.run_until(handler, std::future::pending()).await
    }

    /// As [`run`](Self::run), until `stop` is ready; the batch at hand is finished first.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_until<H>(
        self,
        handler: H,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ProcessorError>
    where
        H: AsyncFnMut(&[Message], &Transaction<'_>) -> Result<(), EffectsError>,
    {
        let stop = std::pin::pin!(stop);
        running::run(&self, &mut Within(handler), &mut Stop::new(stop)).await
    }

    /// For effects that are elsewhere, such as mail: handles messages outside of any transaction,
    /// and stores the checkpoint after each batch. At least once: a crash, a failed save and a
    /// takeover repeat the batch at hand, and the ids of its messages are the same then.
    ///
    /// # Errors
    /// [`ProcessorError`]: the checkpoint is before the batch at hand, some of which may have been
    /// done.
    pub async fn run_at_least_once<H>(
        self,
        handler: H,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ProcessorError>
    where
        H: AsyncFnMut(&[Message]) -> Result<(), EffectsError>,
    {
        let stop = std::pin::pin!(stop);
        running::run(&self, &mut Outside(handler), &mut Stop::new(stop)).await
    }
}
