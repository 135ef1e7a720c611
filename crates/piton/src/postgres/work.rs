//! One batch: the handler is called, and the checkpoint moves with what it did.

use std::time::Duration;

use piton_core::Saved;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Transaction};

use super::{
    Claim, OutboxPosition, ProcessorError, is_lost, processor::CheckpointOrder, reader::Message,
};
use crate::error::{CursorError, EffectsError};

/// The shortest pause between two signs of life.
pub(super) const SHORTEST: Duration = Duration::from_millis(10);

/// How something failed, by what to do about it.
#[derive(Debug)]
pub(super) enum Failed {
    /// The handler. The transaction is rolled back, the checkpoint is as it was.
    Handler(EffectsError),
    /// The database refused a statement, or a commit. Nothing of the transaction was kept.
    Refused(tokio_postgres::Error),
    /// The server cannot be reached. It may not be known what became of a commit.
    Away(ProcessorError),
    /// There is no point in trying again.
    ForGood(ProcessorError),
}

impl Failed {
    /// What an error of the database means for a processor.
    pub(super) fn of(processor: &str, error: tokio_postgres::Error) -> Self {
        let of = |error| ProcessorError::Database { processor: processor.to_owned(), error };
        if is_lost(&error) {
            return Self::Away(of(error));
        }
        match error.code() {
            // A table that is not there, a right that is not given.
            Some(code) if code.code().starts_with("42") => Self::ForGood(of(error)),
            Some(_) => Self::Refused(error),
            // A value of another type than the column should have.
            None => Self::ForGood(of(error)),
        }
    }
}

impl From<ProcessorError> for Failed {
    fn from(error: ProcessorError) -> Self {
        use piton_core::StoreError::{Busy, InDoubt, Unusable};
        match error {
            ProcessorError::Database { processor, error } => Self::of(&processor, error),
            error @ (ProcessorError::Store(Busy { .. } | InDoubt { .. } | Unusable { .. })
            | ProcessorError::Claim(CursorError::Store(
                Busy { .. } | InDoubt { .. } | Unusable { .. },
            ))) => Self::Away(error),
            error => Self::ForGood(error),
        }
    }
}

/// A batch, and what it is handled with.
pub(super) struct Turn<'a> {
    pub(super) processor: &'a str,
    pub(super) order: CheckpointOrder,
    /// How often the owner shows that it lives.
    pub(super) every: Duration,
    pub(super) client: &'a mut Client,
    pub(super) claim: &'a mut Claim,
    pub(super) messages: &'a [Message],
    /// Where the last of them stands.
    pub(super) upto: OutboxPosition,
}

/// What is done with a batch.
pub(super) trait Work {
    /// Handles the messages and moves the checkpoint.
    async fn handle(&mut self, turn: Turn<'_>) -> Result<(), Failed>;
}

/// A handler whose effects are in the transaction of the checkpoint.
pub(super) struct Within<H>(pub(super) H);

impl<H> Work for Within<H>
where
    H: AsyncFnMut(&[Message], &Transaction<'_>) -> Result<(), EffectsError>,
{
    async fn handle(&mut self, turn: Turn<'_>) -> Result<(), Failed> {
        let Turn { processor, order, every, client, claim, messages, upto } = turn;
        let failed = |error| Failed::of(processor, error);
        let mut tx = client.transaction().await.map_err(failed)?;
        let done = if order == CheckpointOrder::First {
            save(claim, processor, &mut tx, &upto, messages).await?;
            while_renewing(claim, every, Some(&tx), (self.0)(messages, &tx)).await?
        } else {
            let done = while_renewing(claim, every, Some(&tx), (self.0)(messages, &tx)).await?;
            if done.is_ok() {
                save(claim, processor, &mut tx, &upto, messages).await?;
            }
            done
        };
        if let Err(error) = done {
            tx.rollback().await.map_err(failed)?;
            return Err(Failed::Handler(error));
        }
        commit(tx, processor, upto).await?;
        claim.committed();
        Ok(())
    }
}

/// A handler whose effects are elsewhere.
pub(super) struct Outside<H>(pub(super) H);

impl<H> Work for Outside<H>
where
    H: AsyncFnMut(&[Message]) -> Result<(), EffectsError>,
{
    async fn handle(&mut self, turn: Turn<'_>) -> Result<(), Failed> {
        let Turn { processor, every, client, claim, messages, upto, .. } = turn;
        let done = while_renewing(claim, every, None, (self.0)(messages)).await?;
        done.map_err(Failed::Handler)?;
        save_alone(claim, processor, client, &upto, messages).await
    }
}

/// Moves the checkpoint in a transaction of its own.
pub(super) async fn save_alone(
    claim: &mut Claim,
    processor: &str,
    client: &mut Client,
    upto: &OutboxPosition,
    messages: &[Message],
) -> Result<(), Failed> {
    let failed = |error| Failed::of(processor, error);
    let mut tx = client.transaction().await.map_err(failed)?;
    save(claim, processor, &mut tx, upto, messages).await?;
    commit(tx, processor, upto.clone()).await?;
    claim.committed();
    Ok(())
}

/// Commits; a COMMIT without an answer may have been done.
async fn commit(tx: Transaction<'_>, processor: &str, upto: OutboxPosition) -> Result<(), Failed> {
    tx.commit().await.map_err(|error| {
        if !is_lost(&error) {
            return Failed::of(processor, error);
        }
        let (processor, upto) = (processor.to_owned(), Box::new(upto));
        Failed::Away(ProcessorError::InDoubt { processor, upto, error })
    })
}

/// Anything but "stored" ends the transaction, which is dropped, and so rolled back.
async fn save(
    claim: &mut Claim,
    processor: &str,
    tx: &mut Transaction<'_>,
    upto: &OutboxPosition,
    messages: &[Message],
) -> Result<(), Failed> {
    let saved = claim.save_in(tx, upto, messages.len() as u64).await;
    let processor = processor.to_owned();
    match saved.map_err(|error| Failed::of(&processor, error))? {
        Saved::Stored { .. } => Ok(()),
        Saved::Fenced { epoch } => {
            Err(Failed::ForGood(ProcessorError::Fenced { processor, epoch: epoch.0 }))
        }
        saved => Err(Failed::ForGood(ProcessorError::Moved { processor, saved })),
    }
}

/// Waits for the handler, and shows meanwhile that the owner lives: to others, by its claim; to
/// the server, which ends a transaction that is left open, by a statement that does nothing.
async fn while_renewing<T>(
    claim: &Claim,
    every: Duration,
    tx: Option<&Transaction<'_>>,
    work: impl Future<Output = T>,
) -> Result<T, Failed> {
    let stir = async || {
        if let Some(tx) = tx {
            // It may have to wait for a statement of the handler's.
            let _ = timeout(every, tx.batch_execute("")).await;
        }
    };
    let renewing = async {
        loop {
            sleep(every).await;
            // While the store is away for the moment, the commit decides.
            if let (Err(error @ ProcessorError::Fenced { .. }), ()) =
                tokio::join!(claim.renew(), stir())
            {
                return error;
            }
        }
    };
    tokio::select! {
        biased;
        done = work => Ok(done),
        error = renewing => Err(Failed::ForGood(error)),
    }
}
