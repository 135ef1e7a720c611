//! What the threads of one run share.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{
    Checkpoint, Claim, DeadLetter, Save, Saved, Store, StoreError, StoredPosition, fault,
};

use super::{
    RunError, RunOptions, acknowledge::Acknowledger, error::stored_instead, figures::Figures,
    signal::Signal,
};
use crate::pipeline::Pipeline;

/// How long a locked store is left alone before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What the threads of one run share.
pub(crate) struct Context<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) store: &'a dyn Store,
    pub(crate) claim: Claim,
    pub(crate) options: &'a RunOptions,
    pub(crate) signal: &'a Signal,
    pub(crate) figures: &'a Figures,
    pub(crate) mirror: Mirror,
    pub(crate) pace: Pace,
    pub(crate) acknowledger: Acknowledger,
    /// Crashes and time in earlier runs, for the interval.
    pub(crate) crashes: u32,
    pub(crate) uptime: Duration,
}

impl Context<'_> {
    /// Asks the store again for as long as another process has it locked, or until it is time to
    /// stop: a backup or a person with a SQL shell is no reason to end.
    pub(crate) fn patiently<T>(
        &self,
        ask: impl Fn() -> Result<T, StoreError>,
    ) -> Result<T, RunError> {
        loop {
            match ask() {
                Err(StoreError::Busy { .. }) if self.signal.sleep(ASK_AGAIN) => {}
                answer => return Ok(answer?),
            }
        }
    }

    /// Saves checkpoints of one plain sink, or says why they were not stored.
    pub(crate) fn save(&self, sink: &str, saves: &[Save]) -> Result<Vec<u64>, RunError> {
        let save = || block_on(self.store.save(&self.claim, saves.to_vec(), Timestamp::now()));
        let answers = self.patiently(save)?;
        let mut versions = Vec::with_capacity(answers.len());
        for answer in answers {
            match answer {
                Saved::Stored { version } => versions.push(version),
                Saved::Fenced { epoch } => return Err(self.fenced(&format!("epoch {epoch}"))),
                other => return Err(self.moved(&format!("sink '{sink}'"), &other)),
            }
        }
        Ok(versions)
    }

    /// The claim is lost: nothing more may be written.
    pub(crate) fn fenced(&self, what: &str) -> RunError {
        self.signal.fence(what.to_owned());
        RunError::Fenced { pipeline: self.pipeline.name.clone(), what: what.to_owned() }
    }

    fn moved(&self, what: &str, saved: &Saved) -> RunError {
        let name = &self.pipeline.name;
        RunError::Refused(format!(
            "{name}, {what}: the checkpoint is not what this run last stored ({}): somebody else \
             has changed it. See `piton history {name}`, and run again",
            stored_instead(saved)
        ))
    }

    /// Writes what transactional sinks have committed into the store.
    pub(crate) fn flush_mirror(&self) -> Result<(), RunError> {
        match self.patiently(|| self.mirror.flush(self.store, &self.claim))? {
            Saved::Stored { .. } | Saved::Ignored => Ok(()),
            Saved::Fenced { .. } if fault::known_bad("ignore_epoch") => Ok(()),
            Saved::Fenced { epoch } => Err(self.fenced(&format!("epoch {epoch}"))),
            other => Err(self.moved("the store's copy", &other)),
        }
    }

    /// Sets records aside durably, before any checkpoint passes them.
    pub(crate) fn set_aside(&self, letters: &[DeadLetter]) -> Result<(), RunError> {
        if letters.is_empty() {
            return Ok(());
        }
        let new = self.patiently(|| block_on(self.store.set_aside(letters.to_vec())))?;
        self.figures.set_aside.fetch_add(new, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

/// Checkpoints of transactional sinks on their way to the store. Written about once a second by
/// the keeper: nobody waits for it.
#[derive(Default)]
pub(crate) struct Mirror {
    waiting: Mutex<BTreeMap<(usize, String), Checkpoint>>,
    /// Held while some of them are on their way.
    flushing: Mutex<()>,
}

impl Mirror {
    pub(crate) fn put(&self, sink: usize, checkpoints: Vec<Checkpoint>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for checkpoint in checkpoints {
            waiting.insert((sink, checkpoint.key.partition.clone()), checkpoint);
        }
    }

    /// Forgets what waits of a sink that is being read again: what it then says is newer, and must
    /// not be followed by this.
    pub(crate) fn forget(&self, sink: usize) {
        let _on_its_way = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(of, _), _| *of != sink);
    }

    /// Writes what waits. What could not be written waits on.
    pub(crate) fn flush(&self, store: &dyn Store, claim: &Claim) -> Result<Saved, StoreError> {
        let _on_its_way = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let taken =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if taken.is_empty() {
            return Ok(Saved::Ignored);
        }
        match block_on(store.mirror(claim, taken.values().cloned().collect())) {
            Ok(saved) => Ok(saved),
            Err(error) => {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                for (key, checkpoint) in taken {
                    waiting.entry(key).or_insert(checkpoint);
                }
                Err(error)
            }
        }
    }
}

/// Spares what is read from: at most so many records a second over all readers together.
pub(crate) struct Pace {
    per_second: Option<f64>,
    /// When the records read so far will have been paid for.
    paid_until: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(per_second: Option<f64>) -> Self {
        Self { per_second, paid_until: Mutex::new(Instant::now()) }
    }

    /// The most records to ask for at once, so that progress is even.
    pub(crate) fn limit(&self, wanted: usize) -> usize {
        self.per_second.map_or(wanted, |rate| wanted.min((rate / 10.0).ceil().max(1.0) as usize))
    }

    /// Waits until `records` more may be read. Wakes for a stop.
    pub(crate) fn pay(&self, records: u64, signal: &Signal) {
        let Some(rate) = self.per_second else { return };
        let until = {
            let mut paid = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            *paid = (*paid).max(Instant::now()) + Duration::from_secs_f64(records as f64 / rate);
            *paid
        };
        while !signal.is_stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}

/// How far a sink has got in each partition, and what it has taken since.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    partitions: BTreeMap<String, At>,
}

/// How far a sink has got in one partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct At {
    /// The stored version; 0 when there is none.
    pub(crate) version: u64,
    /// The stored position.
    pub(crate) saved: Option<StoredPosition>,
    /// Records up to the stored position.
    pub(crate) saved_records: u64,
    /// The position up to which records were taken, where that is further.
    pub(crate) taken: Option<StoredPosition>,
    /// Records taken since the stored position, or since the one that is being saved.
    pub(crate) taken_records: u64,
    /// The position that is being saved, and the records up to there, while it is.
    saving: Option<(StoredPosition, u64)>,
}

impl Held {
    /// What checkpoints say.
    pub(crate) fn of(checkpoints: &[Checkpoint]) -> Self {
        let at = |c: &Checkpoint| At {
            version: c.version,
            saved: c.position.clone(),
            saved_records: c.records,
            ..At::default()
        };
        Self { partitions: checkpoints.iter().map(|c| (c.key.partition.clone(), at(c))).collect() }
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = (&String, &At)> {
        self.partitions.iter()
    }

    pub(crate) fn knows(&self, partition: &str) -> bool {
        self.partitions.contains_key(partition)
    }

    /// Where reading for this sink begins.
    pub(crate) fn starts(&self) -> Vec<piton_connectors::source::Start> {
        let start = |(partition, at): (&String, &At)| piton_connectors::source::Start {
            partition: partition.clone(),
            position: at.saved.clone(),
        };
        self.partitions.iter().map(start).collect()
    }

    /// Notes that records up to a position were taken.
    pub(crate) fn take(&mut self, partition: &str, upto: StoredPosition, records: u64) {
        let at = match self.partitions.get_mut(partition) {
            Some(at) => at,
            None => self.partitions.entry(partition.to_owned()).or_default(),
        };
        at.taken = Some(upto);
        at.taken_records += records;
    }

    /// The partitions that have been taken further than they are saved.
    pub(crate) fn pending(&self) -> impl Iterator<Item = (&String, &At)> {
        self.partitions.iter().filter(|(_, at)| at.taken.is_some())
    }

    /// Records taken and not saved.
    pub(crate) fn pending_records(&self) -> u64 {
        self.partitions.values().map(|at| at.taken_records).sum()
    }

    /// Notes that what was taken is now being saved; what is taken from here on is not part of it.
    pub(crate) fn saving(&mut self) {
        for at in self.partitions.values_mut() {
            if let Some(taken) = at.taken.take() {
                at.saving = Some((taken, std::mem::take(&mut at.taken_records)));
            }
        }
    }

    /// Notes that what was being saved in a partition is saved.
    pub(crate) fn saved(&mut self, partition: &str, version: u64) {
        if let Some(at) = self.partitions.get_mut(partition) {
            at.version = version;
            if let Some((position, records)) = at.saving.take() {
                at.saved = Some(position);
                at.saved_records += records;
            }
        }
    }

    /// Whether all that was taken is saved.
    pub(crate) fn has_saved_all(&self) -> bool {
        self.partitions.values().all(|at| at.taken.is_none() && at.saving.is_none())
    }

    /// Notes a "begun" checkpoint.
    pub(crate) fn begun(&mut self, partition: &str, version: u64) {
        self.partitions.entry(partition.to_owned()).or_default().version = version;
    }

    /// Records covered by checkpoints.
    pub(crate) fn saved_records(&self) -> u64 {
        self.partitions.values().map(|at| at.saved_records).sum()
    }
}
