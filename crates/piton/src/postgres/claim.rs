//! A processor's claim, and the checkpoint that it moves in its owner's transactions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_timer::Delay;
use jiff::Timestamp;
use piton_core::{Control, Epoch, Event, RunEnd, Saved, Store, StoredPosition};

use super::{
    OutboxPosition, ProcessorError,
    joins::{InTransaction, Move, Moved},
};
use crate::{error::CursorError, options::Options, session::Session};

/// The partition of a processor that reads one outbox.
const PARTITION: &str = "outbox";

/// The right to advance a processor, and where it stands.
///
/// A transaction of the program's own database, which is where the store is, carries the effects
/// and the checkpoint ([`save_in`](Self::save_in)). After its commit, and not before, the claim is
/// told ([`committed`](Self::committed)).
#[must_use = "a claim that is dropped is given up"]
pub struct Claim {
    pub(super) session: Session,
    version: u32,
    position: Option<OutboxPosition>,
    sent: Option<OutboxPosition>,
    handled: u64,
}

impl Claim {
    /// Claims a processor; `version` keeps the place of each version of its code apart.
    ///
    /// # Errors
    /// [`CursorError::Held`] while another living owner has it, unless the options say to wait;
    /// what the store or the database fails with.
    pub async fn open(
        store: &Arc<dyn Store>,
        client: &tokio_postgres::Client,
        processor: &str,
        version: u32,
        options: &Options,
    ) -> Result<Self, ProcessorError> {
        let stop = AtomicBool::new(false);
        Self::open_unless(&stop, store, client, processor, version, options).await
    }

    /// As [`open`](Self::open), and waits no longer for another owner once `stop` is set.
    pub(super) async fn open_unless(
        stop: &AtomicBool,
        store: &Arc<dyn Store>,
        client: &tokio_postgres::Client,
        processor: &str,
        version: u32,
        options: &Options,
    ) -> Result<Self, ProcessorError> {
        let sleep = |time: Duration| async move {
            Delay::new(time).await;
            !stop.load(Ordering::Relaxed)
        };
        let session = Session::claim_while(
            store,
            (processor, options),
            Epoch(0),
            |_| {},
            sleep,
            async || Ok(false),
        )
        .await?;
        let claim = session.claim.clone();
        let opened = Self::read(session, client, version).await;
        if opened.is_err() {
            // Nothing was done under it: nobody died.
            let _ = store.release(&claim).await;
        }
        opened
    }

    async fn read(
        mut session: Session,
        client: &tokio_postgres::Client,
        version: u32,
    ) -> Result<Self, ProcessorError> {
        let sql = "SELECT piton.register_processor($1, $2)";
        let processor = session.job().to_owned();
        let registered = client.execute(sql, &[&processor, &(version as i32)]).await;
        registered.map_err(|error| ProcessorError::Database { processor, error })?;
        let store = Arc::clone(&session.store);
        session.applied(&store.orders(session.job()).await?).await?;
        let sink = format!("v{version}");
        let rows = store.load(session.job()).await?;
        let found =
            rows.into_iter().find(|row| row.key.partition == PARTITION && row.key.sink == sink);
        let position = found.as_ref().and_then(|row| row.position.as_ref());
        let position = position.map(StoredPosition::read).transpose();
        let position = position
            .map_err(|error| CursorError::Position { job: session.job().to_owned(), error })?;
        let _ = session.begin(found.as_ref()).await?;
        Ok(Self { session, version, position, sent: None, handled: 0 })
    }

    /// The last position that is known to be committed. `None`: begin at the start.
    pub fn position(&self) -> Option<&OutboxPosition> {
        self.position.as_ref()
    }

    /// The epoch of this claim: grows with every owner.
    pub fn epoch(&self) -> u64 {
        self.session.claim.epoch.0
    }

    /// Moves the checkpoint in the caller's transaction, with `handled` messages more. Whatever
    /// comes back other than [`Saved::Stored`] wrote nothing, and means that the caller's effects
    /// must not stand: roll back. [`Saved::Ignored`]: it was done before.
    ///
    /// The place that this claim knows changes with [`committed`](Self::committed) only.
    ///
    /// # Errors
    /// What the driver fails with: roll back.
    pub async fn save_in<T: InTransaction>(
        &mut self,
        tx: &mut T,
        position: &OutboxPosition,
        handled: u64,
    ) -> Result<Saved, T::Error> {
        let expected = self.position.as_ref();
        let to = Move {
            processor: self.session.job(),
            partition: PARTITION,
            version: self.version as i32,
            transaction_id: position.transaction_id.to_string(),
            position: position.position,
            expected_transaction_id: expected.map(|at| at.transaction_id.to_string()),
            expected_position: expected.map(|at| at.position),
            epoch: self.epoch() as i64,
            handled: handled as i64,
            fingerprint: position.fingerprint.as_ref().and_then(|f| serde_json::to_string(f).ok()),
        };
        let saved = outcome(tx.move_checkpoint(&to).await?);
        if matches!(saved, Saved::Stored { .. } | Saved::Ignored) {
            self.sent = Some(position.clone());
            self.handled += if saved.is_stored() { handled } else { 0 };
        }
        Ok(saved)
    }

    /// The transaction of the last [`save_in`](Self::save_in) was committed.
    pub fn committed(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.position = Some(sent);
        }
    }

    /// Shows others that this owner lives, on the store's connection: also while a transaction is
    /// open.
    ///
    /// # Errors
    /// [`ProcessorError::Fenced`] when a newer owner has taken over; what the store fails with.
    pub async fn renew(&self) -> Result<(), ProcessorError> {
        match self.session.renew().await? {
            Some(Epoch(epoch)) => {
                Err(ProcessorError::Fenced { processor: self.session.job().to_owned(), epoch })
            }
            None => Ok(()),
        }
    }

    /// What an operator wants of the processor: to go on, to pause, or to end.
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn control(&self) -> Result<Control, ProcessorError> {
        Ok(self.session.store.control(self.session.job()).await?)
    }

    /// Gives the claim up.
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn close(self) -> Result<(), ProcessorError> {
        self.end(RunEnd::Stopped).await
    }

    pub(super) async fn end(self, end: RunEnd) -> Result<(), ProcessorError> {
        Ok(self.session.end(end, self.handled).await?)
    }
}

/// Heeds what an operator wants before a claim is asked for: one who has cancelled wants it to be
/// started by somebody who knows.
pub(super) async fn heed(
    store: &dyn Store,
    processor: &str,
    again: bool,
) -> Result<(), ProcessorError> {
    if store.control(processor).await? != Control::Cancel {
        return Ok(());
    }
    if !again {
        return Err(ProcessorError::Cancelled { processor: processor.to_owned() });
    }
    let event = Event {
        id: 0,
        pipeline: processor.to_owned(),
        at: Timestamp::now(),
        who: piton_stores::this_process().to_string(),
        what: "again".to_owned(),
        detail: "runs again after it was cancelled".to_owned(),
    };
    Ok(store.set_control(processor, Control::Run, event).await?)
}

fn outcome(moved: Moved) -> Saved {
    let stored =
        moved.stored.map(|json| StoredPosition { kind: "postgres_outbox".to_owned(), json });
    match moved.outcome {
        0 => Saved::Ignored,
        1 => Saved::Stored { version: moved.version as u64 },
        2 => Saved::Further { stored },
        4 => Saved::Fenced { epoch: Epoch(moved.fence as u64) },
        5 => Saved::Older { stored },
        _ => Saved::Mismatch { stored },
    }
}
