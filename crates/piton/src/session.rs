//! What every cursor is, wherever its checkpoint is kept: a claimed, registered job with a run in
//! the store's history.

use std::{future::Future, sync::Arc, time::Duration};

use futures_timer::Delay;
use jiff::Timestamp;
use piton_core::{
    Checkpoint, Claim, ClaimRequest, Control, Epoch, Holder, Order, PipelineRecord, Run, RunEnd,
    Saved, Store, StoreError, claim::WHOLE,
};

use crate::{
    claiming::{Obtained, obtain},
    error::CursorError,
    options::Options,
};

/// What a store remembers as the source of a program's own cursor.
const LIBRARY: &str = "\"library\"";

/// How long history, runs and events of a job are kept.
const KEEP: Duration = Duration::from_hours(30 * 24);

/// A job that this process has claimed.
pub(crate) struct Session {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) claim: Claim,
    died: Option<Holder>,
    run: Option<Run>,
}

/// What the store knows of a job.
pub(crate) struct Known {
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) orders: Vec<Order>,
}

/// How a job went before.
pub(crate) struct Past {
    pub(crate) crashes: u32,
    pub(crate) uptime: Duration,
}

impl Session {
    /// Claims a job, with an epoch of at least `at_least`.
    pub(crate) async fn claim(
        store: &Arc<dyn Store>,
        job: &str,
        options: &Options,
        at_least: Epoch,
    ) -> Result<Self, CursorError> {
        let sleep = |time| async move {
            Delay::new(time).await;
            true
        };
        Self::claim_while(store, (job, options), at_least, |_| {}, sleep, async || Ok(false)).await
    }

    /// Claims a job; while it is held, `sleep` lets the time pass and answers whether to go on, and
    /// `is_spared` whether a silent holder is left alone.
    pub(crate) async fn claim_while<S: Future<Output = bool>>(
        store: &Arc<dyn Store>,
        (job, options): (&str, &Options),
        at_least: Epoch,
        on_news: impl FnMut(&Holder),
        sleep: impl FnMut(Duration) -> S,
        is_spared: impl AsyncFnMut() -> Result<bool, StoreError>,
    ) -> Result<Self, CursorError> {
        if job.is_empty() {
            let what = "a job needs a name, by which its checkpoint is found again".to_owned();
            return Err(CursorError::Mismatch { job: String::new(), what });
        }
        let request = ClaimRequest {
            pipeline: job.to_owned(),
            partition: WHOLE.to_owned(),
            owner: piton_stores::this_process(),
            lease: options.lease,
            at_least,
            silent: None,
            now: Timestamp::now(),
        };
        match obtain(&**store, request, options.when_held, on_news, sleep, is_spared).await? {
            Obtained::Held(holder) => Err(CursorError::Held { job: job.to_owned(), holder }),
            Obtained::Granted { claim, died, .. } => {
                Ok(Self { store: Arc::clone(store), claim, died, run: None })
            }
        }
    }

    pub(crate) fn job(&self) -> &str {
        &self.claim.pipeline
    }

    /// Registers the job, unless its name belongs to something else, and reads what is known of it.
    pub(crate) async fn register(&self, record: PipelineRecord) -> Result<Known, CursorError> {
        let store = &*self.store;
        let pipelines = store.pipelines().await?;
        let found = pipelines.into_iter().find(|found| found.pipeline == record.pipeline);
        let known = Known {
            checkpoints: store.load(self.job()).await?,
            orders: store.orders(self.job()).await?,
        };
        match found {
            None => store.register(record).await?,
            Some(found) if found.source != record.source => {
                return Err(self.mismatch(
                    "the store has something else of that name. Give it another name, or another \
                     store",
                ));
            }
            Some(found) if found.sinks != record.sinks && known.checkpoints.is_empty() => {
                store.register(record).await?;
            }
            Some(found) if found.sinks != record.sinks => {
                return Err(self.mismatch(
                    "its checkpoint is kept elsewhere: in the store by `Cursor`, in the program's \
                     own database by `sqlite::Cursor`. Open it as before, or reset it to begin anew",
                ));
            }
            Some(found)
                if (&found.transforms, &found.file) != (&record.transforms, &record.file) =>
            {
                store.register(record).await?;
            }
            Some(_) => {}
        }
        Ok(known)
    }

    /// Registers a job that has one position. `sinks` says where its checkpoint is kept.
    pub(crate) async fn register_cursor(&self, sinks: &str) -> Result<Known, CursorError> {
        let record = PipelineRecord {
            pipeline: self.job().to_owned(),
            source: LIBRARY.to_owned(),
            transforms: "[]".to_owned(),
            sinks: sinks.to_owned(),
            control: Control::Run,
            file: None,
        };
        self.register(record).await
    }

    fn mismatch(&self, what: &str) -> CursorError {
        CursorError::Mismatch { job: self.job().to_owned(), what: what.to_owned() }
    }

    /// Marks orders applied.
    pub(crate) async fn applied(&self, orders: &[Order]) -> Result<(), CursorError> {
        if !orders.is_empty() {
            let ids = orders.iter().map(|order| order.id).collect();
            self.store.applied(&self.claim, ids, Timestamp::now()).await?;
        }
        Ok(())
    }

    /// Begins a run, and ends those of owners that died without a word.
    pub(crate) async fn begin(&mut self, stands: Option<&Checkpoint>) -> Result<Past, CursorError> {
        let now = Timestamp::now();
        let mut past = Past { crashes: 0, uptime: Duration::ZERO };
        for mut run in self.store.runs(self.job(), 200).await? {
            let ended = run.ended_at.unwrap_or_else(|| {
                // The last sign of life is the last save, not the moment somebody looked.
                let saved = stands.map_or(run.started_at, |checkpoint| checkpoint.updated_at);
                saved.clamp(run.started_at, now.max(run.started_at))
            });
            if run.ended_at.is_none() {
                run.ended_at = Some(ended);
                run.end = Some(RunEnd::Crashed);
                let died = self.died.as_ref().filter(|holder| holder.epoch == run.epoch);
                run.error = died.map(|holder| format!("{} died", holder.owner));
                self.store.update_run(run.clone()).await?;
            }
            past.uptime += ended.duration_since(run.started_at).unsigned_abs();
            past.crashes += u32::from(run.end == Some(RunEnd::Crashed));
        }
        self.store.thin(self.job(), KEEP, now).await?;
        let mut run = Run {
            id: 0,
            pipeline: self.job().to_owned(),
            epoch: self.claim.epoch,
            owner: piton_stores::this_process(),
            started_at: now,
            ended_at: None,
            end: None,
            records: 0,
            error: None,
            progress: None,
        };
        run.id = self.store.begin_run(run.clone()).await?;
        self.run = Some(run);
        Ok(past)
    }

    /// Whether its last run has come to its end; also where none is known any more.
    pub(crate) async fn has_finished(&self) -> Result<bool, StoreError> {
        let last = self.store.runs(self.job(), 1).await?;
        Ok(last.first().is_none_or(|run| run.end == Some(RunEnd::Finished)))
    }

    /// When the run began; `None` if none has.
    pub(crate) fn began(&self) -> Option<Timestamp> {
        self.run.as_ref().map(|run| run.started_at)
    }

    /// Notes why the run fails, which is stored when it ends.
    pub(crate) fn note_error(&mut self, why: String) {
        if let Some(run) = &mut self.run {
            run.error = Some(why);
        }
    }

    /// Shows that this owner lives. The epoch of a newer one, if there is one.
    pub(crate) async fn renew(&self) -> Result<Option<Epoch>, CursorError> {
        match self.store.renew(&self.claim).await? {
            Saved::Fenced { epoch } => Ok(Some(epoch)),
            _ => Ok(None),
        }
    }

    /// Ends the run and gives the claim up.
    pub(crate) async fn end(mut self, end: RunEnd, records: u64) -> Result<(), CursorError> {
        if let Some(mut run) = self.run.take() {
            run.ended_at = Some(Timestamp::now());
            run.end = Some(end);
            run.records = records;
            self.store.update_run(run).await?;
        }
        self.give_up().await
    }

    /// Gives the claim up.
    pub(crate) async fn give_up(self) -> Result<(), CursorError> {
        Ok(self.store.release(&self.claim).await?)
    }

    pub(crate) fn fenced(&self, epoch: Epoch) -> CursorError {
        CursorError::Fenced { job: self.job().to_owned(), epoch: epoch.0 }
    }

    /// An outcome that moved nothing, as an error.
    pub(crate) fn refused(&self, saved: Saved) -> CursorError {
        let job = self.job().to_owned();
        match saved {
            Saved::Fenced { epoch } => self.fenced(epoch),
            Saved::Older { stored } => CursorError::Backwards { job, stored },
            saved => CursorError::Moved { job, saved },
        }
    }
}
