//! The cursor for async programs. It needs no particular runtime: the store completes its replies
//! from a thread of its own.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use piton_core::{
    Checkpoint, CheckpointKey, Claim, ClaimAnswer, ClaimRequest, Control, Epoch, Holder, Owner,
    PipelineRecord, Position, Run, RunEnd, Save, Saved, StateEntry, Store, StoredPosition,
    claim::WHOLE,
    interval::{Interval, Policy},
    position::order_of,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::CursorError;

/// The partition of a job that has only one, and the sink of a program that is its own.
const OWN: &str = "main";

/// How a cursor behaves. The default saves at an interval that tunes itself, and removes the
/// checkpoint when the work is done.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often to save.
    pub policy: Policy,
    /// How long a silent owner keeps the claim.
    pub lease: Duration,
    /// Whether [`Cursor::finish`] leaves the checkpoint in the store.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { policy: Policy::default(), lease: Duration::from_secs(30), keep: false }
    }
}

/// A job's place in its data, claimed by this process.
pub struct Cursor<P: Position> {
    store: Arc<dyn Store>,
    claim: Claim,
    key: CheckpointKey,
    options: Options,
    run: Run,
    /// What the store has.
    saved: Place,
    position: Option<P>,
    /// Records passed since the last save.
    passed: u64,
    /// State that was changed since the last save.
    changed: BTreeMap<String, Option<String>>,
    interval: Interval,
    saved_at: Instant,
    renewed_at: Instant,
}

#[derive(Debug, Clone, Default)]
struct Place {
    version: u64,
    position: Option<StoredPosition>,
    records: u64,
}

impl<P: Position> Cursor<P> {
    /// Claims a job with the default options.
    ///
    /// # Errors
    /// [`CursorError::Held`] while another living process has it.
    pub async fn open(store: &Arc<dyn Store>, job: &str) -> Result<Self, CursorError> {
        Self::open_with(store, job, Options::default()).await
    }

    /// Claims a job.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(
        store: &Arc<dyn Store>,
        job: &str,
        options: Options,
    ) -> Result<Self, CursorError> {
        let owner = Owner {
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            pid: std::process::id(),
        };
        let (claim, died) = claim(&**store, job, &owner, options.lease, None).await?;
        let key = CheckpointKey::new(job, OWN, OWN);
        let (crashes, uptime) = past(&**store, job, died.as_ref()).await?;
        register(&**store, job).await?;
        let run = begin_run(&**store, job, owner, claim.epoch).await?;
        let found = store.load(job).await?.into_iter().find(|c| c.key == key);
        let saved = found.map(place).unwrap_or_default();
        let position = saved.position.as_ref().map(StoredPosition::read).transpose()?;
        let interval = Interval::new(options.policy.clone(), uptime, crashes);
        let now = Instant::now();
        Ok(Self {
            store: Arc::clone(store),
            claim,
            key,
            options,
            run,
            saved,
            position,
            passed: 0,
            changed: BTreeMap::new(),
            interval,
            saved_at: now,
            renewed_at: now,
        })
    }

    /// The last position passed: after opening, the one that is stored. `None`: begin at the start.
    pub fn position(&self) -> Option<&P> {
        self.position.as_ref()
    }

    /// Records passed over all runs, as far as they are saved.
    pub fn records(&self) -> u64 {
        self.saved.records
    }

    /// Notes that everything up to `position` is done and durable; saves when the interval is over.
    ///
    /// # Errors
    /// [`CursorError::Fenced`] when a newer owner has taken over.
    pub async fn passed(&mut self, position: P) -> Result<(), CursorError> {
        self.position = Some(position);
        self.passed += 1;
        if self.interval.is_due(self.saved_at.elapsed(), self.passed) {
            return self.save().await;
        }
        self.renew_in_time().await
    }

    /// Saves position and changed state now, in one transaction.
    ///
    /// # Errors
    /// [`CursorError::Fenced`], [`CursorError::Moved`], or what the store failed with.
    pub async fn save(&mut self) -> Result<(), CursorError> {
        if self.passed == 0 && self.changed.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let save = self.next_save()?;
        let position = save.position.clone();
        let saved = self.store.save(&self.claim, vec![save], Timestamp::now()).await?;
        self.note(saved.into_iter().next().unwrap_or(Saved::Ignored), position)?;
        self.interval.saved(began.elapsed());
        Ok(())
    }

    /// Saves, then removes the checkpoint and its state, unless it is to be kept. Runs and events
    /// stay in the store.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn finish(mut self) -> Result<(), CursorError> {
        self.save().await?;
        if !self.options.keep {
            let saved = self.store.complete(&self.claim, None).await?;
            if let Saved::Fenced { epoch } = saved {
                return Err(self.fenced(epoch));
            }
        }
        self.end(RunEnd::Finished).await
    }

    /// Saves and gives the claim up, to go on another time.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn stop(mut self) -> Result<(), CursorError> {
        self.save().await?;
        self.end(RunEnd::Stopped).await
    }

    /// The program's own state: the single value.
    ///
    /// # Errors
    /// [`CursorError::State`] if it is not a `T`.
    pub async fn state<T: DeserializeOwned>(&self) -> Result<Option<T>, CursorError> {
        self.get("").await
    }

    /// Replaces the single value; stored with the next save.
    ///
    /// # Errors
    /// [`CursorError::State`] if it cannot be written as JSON.
    pub fn set_state<T: Serialize>(&mut self, value: &T) -> Result<(), CursorError> {
        self.put("", value)
    }

    /// One entry of keyed state.
    ///
    /// # Errors
    /// [`CursorError::State`] if it is not a `T`.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, CursorError> {
        let json = match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => {
                let entries = self.store.state(&self.key, Some(key)).await?;
                entries.into_iter().next().and_then(|entry| entry.json)
            }
        };
        json.map(|json| serde_json::from_str(&json).map_err(|e| self.bad_state(key, &e)))
            .transpose()
    }

    /// Changes one entry of keyed state; only changed entries are written with the next save.
    ///
    /// # Errors
    /// [`CursorError::State`] if it cannot be written as JSON.
    pub fn put<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), CursorError> {
        let json = serde_json::to_string(value).map_err(|e| self.bad_state(key, &e))?;
        self.changed.insert(key.to_owned(), Some(json));
        Ok(())
    }

    /// Removes one entry of keyed state with the next save.
    pub fn remove(&mut self, key: &str) {
        self.changed.insert(key.to_owned(), None);
    }

    fn next_save(&self) -> Result<Save, CursorError> {
        let position = match (&self.position, self.passed) {
            (Some(position), 1..) => Some(StoredPosition::of(position)?),
            _ => self.saved.position.clone(),
        };
        let changed = self.changed.iter();
        Ok(Save {
            key: self.key.clone(),
            expected_version: self.saved.version,
            expected: self.saved.position.clone(),
            position,
            order: order_of::<P>,
            records: self.saved.records + self.passed,
            schema_version: 0,
            sink_state: None,
            state: changed
                .map(|(key, json)| StateEntry { key: key.clone(), json: json.clone() })
                .collect(),
        })
    }

    /// Takes the store's answer: only what was stored moves this cursor.
    fn note(&mut self, saved: Saved, position: Option<StoredPosition>) -> Result<(), CursorError> {
        match saved {
            Saved::Stored { version } => {
                self.saved = Place { version, position, records: self.saved.records + self.passed };
                self.passed = 0;
                self.changed.clear();
                self.saved_at = Instant::now();
                self.renewed_at = self.saved_at;
                Ok(())
            }
            Saved::Fenced { epoch } => Err(self.fenced(epoch)),
            saved => Err(CursorError::Moved { job: self.key.pipeline.clone(), saved }),
        }
    }

    /// A program without threads renews in passing.
    async fn renew_in_time(&mut self) -> Result<(), CursorError> {
        if self.renewed_at.elapsed() < self.claim.lease / 3 {
            return Ok(());
        }
        self.renewed_at = Instant::now();
        match self.store.renew(&self.claim).await? {
            Saved::Fenced { epoch } => Err(self.fenced(epoch)),
            _ => Ok(()),
        }
    }

    async fn end(mut self, end: RunEnd) -> Result<(), CursorError> {
        self.run.ended_at = Some(Timestamp::now());
        self.run.end = Some(end);
        self.run.records = self.saved.records;
        self.store.update_run(self.run.clone()).await?;
        self.store.release(&self.claim).await?;
        Ok(())
    }

    fn fenced(&self, epoch: Epoch) -> CursorError {
        CursorError::Fenced { job: self.key.pipeline.clone(), epoch: epoch.0 }
    }

    fn bad_state(&self, key: &str, error: &serde_json::Error) -> CursorError {
        CursorError::State {
            job: self.key.pipeline.clone(),
            key: key.to_owned(),
            why: error.to_string(),
        }
    }
}

fn place(checkpoint: Checkpoint) -> Place {
    Place {
        version: checkpoint.version,
        position: checkpoint.position,
        records: checkpoint.records,
    }
}

async fn claim(
    store: &dyn Store,
    job: &str,
    owner: &Owner,
    lease: Duration,
    silent: Option<Holder>,
) -> Result<(Claim, Option<Holder>), CursorError> {
    let request = ClaimRequest {
        pipeline: job.to_owned(),
        partition: WHOLE.to_owned(),
        owner: owner.clone(),
        lease,
        at_least: Epoch(0),
        silent,
        now: Timestamp::now(),
    };
    match store.claim(request).await? {
        ClaimAnswer::Granted { claim, died } => Ok((claim, died)),
        ClaimAnswer::Held(holder) => Err(CursorError::Held { job: job.to_owned(), holder }),
    }
}

/// Counts crashes and time of earlier runs, and notes a run whose owner died.
async fn past(
    store: &dyn Store,
    job: &str,
    died: Option<&Holder>,
) -> Result<(u32, Duration), CursorError> {
    let (mut crashes, mut uptime) = (0, Duration::ZERO);
    for mut run in store.runs(job, 200).await? {
        if run.ended_at.is_none() {
            run.ended_at = Some(Timestamp::now());
            run.end = Some(RunEnd::Crashed);
            run.error = died.map(|holder| format!("{} died", holder.owner));
            store.update_run(run.clone()).await?;
        } else if let Some(ended) = run.ended_at {
            uptime += ended.duration_since(run.started_at).unsigned_abs();
        }
        crashes += u32::from(run.end == Some(RunEnd::Crashed));
    }
    Ok((crashes, uptime))
}

async fn register(store: &dyn Store, job: &str) -> Result<(), CursorError> {
    let record = PipelineRecord {
        pipeline: job.to_owned(),
        source: "\"library\"".to_owned(),
        transforms: "[]".to_owned(),
        sinks: "[]".to_owned(),
        control: Control::Run,
        file: None,
    };
    Ok(store.register(record).await?)
}

async fn begin_run(
    store: &dyn Store,
    job: &str,
    owner: Owner,
    epoch: Epoch,
) -> Result<Run, CursorError> {
    let mut run = Run {
        id: 0,
        pipeline: job.to_owned(),
        epoch,
        owner,
        started_at: Timestamp::now(),
        ended_at: None,
        end: None,
        records: 0,
        error: None,
        progress: None,
    };
    run.id = store.begin_run(run.clone()).await?;
    Ok(run)
}
