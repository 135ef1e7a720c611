//! The loop: read a batch, store the checkpoint, call the handler, commit.
//!
//! One transaction has all of it, and it is rolled back unless the checkpoint was stored. The place
//! that the loop remembers moves after the commit only. When it is not known what became of a
//! commit, the loop claims anew, which fences what may still be under way, and reads then.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use piton_core::Saved;
use tokio::time::sleep;
use tokio_postgres::{Client, Transaction};

use super::{
    Claim, Database, ProcessorError,
    reader::{Message, Reader, Start},
};
use crate::{claiming::WhenHeld, error::EffectsError, options::Options};

/// How long an idle loop waits between two looks, at first and at most.
const LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(20);

/// The pause after a failed attempt, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a server that is away is waited for: long enough for it to be restarted.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many messages the first batch has: nothing is known of the handler yet.
const FIRST: u64 = 100;

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
    database: Database,
    name: String,
    version: u32,
    table: String,
    start: Start,
    batch: u64,
    max_open: Duration,
    order: CheckpointOrder,
    attempts: u32,
    options: Options,
}

/// How an attempt failed.
enum Failed {
    /// The handler: the transaction is rolled back, the checkpoint is as it was.
    Handler(EffectsError),
    /// The database. It may not be known what became of a commit.
    Database(tokio_postgres::Error),
    /// The server cannot be reached.
    Away(ProcessorError),
    /// There is no point in trying again.
    ForGood(ProcessorError),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<ProcessorError> for Failed {
    fn from(error: ProcessorError) -> Self {
        Self::ForGood(error)
    }
}

/// What went wrong since a batch was last done.
#[derive(Default)]
struct Setbacks {
    attempts: u32,
    since: Option<Instant>,
}

impl Setbacks {
    fn pause(&self) -> Duration {
        (PAUSE * 2_u32.pow(self.attempts.min(7))).min(LONGEST_PAUSE)
    }
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

    /// What to do while another instance has the processor. Default: fail at once.
    #[must_use]
    pub fn when_held(mut self, when_held: WhenHeld) -> Self {
        self.options.when_held = when_held;
        self
    }

    /// How long an owner may be silent. The loop renews it on another connection.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.options.lease = lease;
        self
    }

    /// Handles messages until an error is surfaced.
    ///
    /// # Errors
    /// [`ProcessorError`], after which nothing of the batch at hand was kept.
    pub async fn run<H>(self, handler: H) -> Result<(), ProcessorError>
    where
        H: AsyncFnMut(&[Message], &Transaction<'_>) -> Result<(), EffectsError>,
    {
        self.run_until(handler, std::future::pending()).await
    }

    /// Handles messages until `stop` is ready; the batch at hand is finished first.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_until<H>(
        self,
        mut handler: H,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ProcessorError>
    where
        H: AsyncFnMut(&[Message], &Transaction<'_>) -> Result<(), EffectsError>,
    {
        let mut stop = std::pin::pin!(stop);
        let mut setbacks = Setbacks::default();
        loop {
            let failed = match self.attempt(&mut handler, stop.as_mut(), &mut setbacks).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let patience = setbacks.since.is_none_or(|since| since.elapsed() < PATIENCE);
            let again = match &failed {
                Failed::ForGood(_) => false,
                Failed::Away(_) => patience,
                Failed::Database(error) if error.is_closed() => patience,
                Failed::Database(error) if is_for_good(error) => false,
                Failed::Handler(_) | Failed::Database(_) => setbacks.attempts + 1 < self.attempts,
            };
            if !again {
                return Err(self.surfaced(failed, setbacks.attempts + 1));
            }
            setbacks.attempts += 1;
            setbacks.since.get_or_insert_with(Instant::now);
            sleep(setbacks.pause()).await;
        }
    }

    /// Handles batches until something fails: connects, claims, and gives the claim up again.
    async fn attempt<H>(
        &self,
        handler: &mut H,
        stop: Pin<&mut impl Future<Output = ()>>,
        setbacks: &mut Setbacks,
    ) -> Result<(), Failed>
    where
        H: AsyncFnMut(&[Message], &Transaction<'_>) -> Result<(), EffectsError>,
    {
        let connected = self.database.connect().await;
        let mut client = connected.map_err(|error| Failed::Away(error.into()))?;
        let mut claim = self.claim(&client).await?;
        let ended = self.go_on(&mut client, &mut claim, handler, stop, setbacks).await;
        // A transaction that is still open goes with its connection.
        drop(client);
        match &ended {
            Err(Failed::ForGood(_)) => claim.fail().await?,
            _ => claim.close().await?,
        }
        ended
    }

    fn surfaced(&self, failed: Failed, attempts: u32) -> ProcessorError {
        let processor = self.name.clone();
        match failed {
            Failed::Handler(error) => ProcessorError::Handler { processor, attempts, error },
            Failed::Database(error) => ProcessorError::Database { processor, error },
            Failed::Away(error) | Failed::ForGood(error) => error,
        }
    }

    async fn claim(&self, client: &Client) -> Result<Claim, ProcessorError> {
        let store = self.database.store();
        Claim::open(store, client, &self.name, self.version, &self.options).await
    }

    /// Handles batches on one connection, under one claim.
    async fn go_on<H>(
        &self,
        client: &mut Client,
        claim: &mut Claim,
        handler: &mut H,
        mut stop: Pin<&mut impl Future<Output = ()>>,
        setbacks: &mut Setbacks,
    ) -> Result<(), Failed>
    where
        H: AsyncFnMut(&[Message], &Transaction<'_>) -> Result<(), EffectsError>,
    {
        let reader = &Reader::of(&self.table);
        if let Some(what) = reader.objection(client, claim.position()).await? {
            let processor = self.name.clone();
            return Err(Failed::ForGood(ProcessorError::Gap { processor, what }));
        }
        self.begin(reader, client, claim).await?;
        let (mut size, mut look) = (self.batch.min(FIRST), LOOK);
        let (every, mut renewed) = (self.options.lease / 3, Instant::now());
        loop {
            if renewed.elapsed() >= every {
                claim.renew().await?;
                renewed = Instant::now();
            }
            let messages = reader.page(client, claim.position(), size as i64).await?;
            if messages.is_empty() {
                tokio::select! {
                    () = &mut stop => return Ok(()),
                    () = sleep(look) => {}
                }
                look = (look * 2).min(LONGEST_LOOK);
                continue;
            }
            look = LOOK;
            let began = Instant::now();
            self.batch_in_transaction(client, claim, &messages, handler).await?;
            *setbacks = Setbacks::default();
            size = self.next_size(messages.len() as u64, began.elapsed());
            let is_over = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(stop.as_mut().poll(cx).is_ready())
            });
            if is_over.await {
                return Ok(());
            }
        }
    }

    /// Stores the place to begin at, so that a restart begins at the same.
    async fn begin(
        &self,
        reader: &Reader,
        client: &mut Client,
        claim: &mut Claim,
    ) -> Result<(), Failed> {
        if claim.position().is_some() {
            return Ok(());
        }
        let at = match &self.start {
            Start::Beginning => return Ok(()),
            Start::End => reader.end(client).await?,
            Start::After(at) => at.clone(),
        };
        let mut tx = client.transaction().await?;
        let saved = claim.save_in(&mut tx, &at, 0).await?;
        self.accept(&saved)?;
        tx.commit().await?;
        claim.committed();
        Ok(())
    }

    /// Handles a batch and moves the checkpoint, or neither.
    async fn batch_in_transaction<H>(
        &self,
        client: &mut Client,
        claim: &mut Claim,
        messages: &[Message],
        handler: &mut H,
    ) -> Result<(), Failed>
    where
        H: AsyncFnMut(&[Message], &Transaction<'_>) -> Result<(), EffectsError>,
    {
        let Some(last) = messages.last() else { return Ok(()) };
        let mut tx = client.transaction().await?;
        let done = if self.order == CheckpointOrder::First {
            let saved = claim.save_in(&mut tx, &last.at, messages.len() as u64).await?;
            self.accept(&saved)?;
            while_renewing(claim, self.options.lease / 3, handler(messages, &tx)).await?
        } else {
            let done =
                while_renewing(claim, self.options.lease / 3, handler(messages, &tx)).await?;
            if done.is_ok() {
                let saved = claim.save_in(&mut tx, &last.at, messages.len() as u64).await?;
                self.accept(&saved)?;
            }
            done
        };
        if let Err(error) = done {
            tx.rollback().await?;
            return Err(Failed::Handler(error));
        }
        tx.commit().await?;
        claim.committed();
        Ok(())
    }

    /// Anything but "stored" ends the transaction, which is dropped, and so rolled back.
    fn accept(&self, saved: &Saved) -> Result<(), Failed> {
        let processor = self.name.clone();
        match saved {
            Saved::Stored { .. } => Ok(()),
            Saved::Fenced { epoch } => {
                Err(Failed::ForGood(ProcessorError::Fenced { processor, epoch: epoch.0 }))
            }
            saved => {
                let saved = saved.clone();
                Err(Failed::ForGood(ProcessorError::Moved { processor, saved }))
            }
        }
    }

    /// How many messages the next batch has, so that its transaction is not open for too long.
    fn next_size(&self, handled: u64, took: Duration) -> u64 {
        let each = took.as_secs_f64() / handled.max(1) as f64;
        let fitting = self.max_open.as_secs_f64() / each.max(1e-9);
        // It grows in steps: one quick batch says little of the next.
        (fitting as u64).clamp(1, self.batch).min(handled.saturating_mul(4).max(FIRST))
    }
}

/// Waits for the handler, and shows meanwhile that the owner lives.
async fn while_renewing<T>(
    claim: &Claim,
    every: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Failed> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            () = sleep(every) => match claim.renew().await {
                Ok(()) => {}
                Err(error @ ProcessorError::Fenced { .. }) => return Err(Failed::ForGood(error)),
                // The store is away for the moment: the commit decides.
                Err(_) => {}
            }
        }
    }
}

/// Whether the database says what trying again cannot change: a table that is not there, a right
/// that is not given.
fn is_for_good(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("42"))
}
