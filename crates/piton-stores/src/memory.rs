//! A store that forgets: everything in one mutex, nothing after the process.
//!
//! It has the semantics of the others, so that what is tested on it holds for them, and it is the
//! smallest example of what a [`Store`] is. An owner is alive while it keeps its [`Claim`]; dropping
//! every clone without a release is what a crash is to this store.

use std::{
    collections::BTreeMap,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use jiff::Timestamp;
use piton_core::{
    Checkpoint, CheckpointKey, Claim, ClaimAnswer, ClaimRequest, Control, DeadLetter, Epoch, Event,
    Holder, Order, OrderKind, PipelineRecord, Reply, Run, Save, Saved, Snapshot, StateEntry, Store,
    StoreError, claim::WHOLE, snapshot::FORMAT,
};

use crate::rules::{self, ClaimRow, Decision, HistoryClock, Past, Replaced};

/// Keeps everything in memory. Nothing survives the process.
#[derive(Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    pipelines: BTreeMap<String, PipelineRecord>,
    checkpoints: BTreeMap<CheckpointKey, Checkpoint>,
    /// Oldest first.
    history: Vec<Checkpoint>,
    clock: HistoryClock,
    state: BTreeMap<CheckpointKey, BTreeMap<String, String>>,
    claims: BTreeMap<(String, String), (ClaimRow, Weak<()>)>,
    runs: Vec<Run>,
    events: Vec<Event>,
    orders: Vec<Order>,
    /// By pipeline, sink and id; numbered in the order in which they came.
    dead_letters: BTreeMap<LetterKey, (u64, DeadLetter)>,
    letters_ever: u64,
}

type LetterKey = (String, String, String);

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Nothing in here panics half-way through a change.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reply<'a, T: Send + 'a>(result: Result<T, StoreError>) -> Reply<'a, T> {
    Box::pin(ready(result))
}

impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory:".to_owned()
    }

    fn claim(&self, request: ClaimRequest) -> Reply<'_, ClaimAnswer> {
        reply(Ok(self.tables().claim(request)))
    }

    fn renew(&self, claim: &Claim) -> Reply<'_, Saved> {
        reply(self.tables().renew(claim))
    }

    fn release(&self, claim: &Claim) -> Reply<'_, ()> {
        let scope = (claim.pipeline.clone(), claim.partition.clone());
        if let Some((row, _)) = self.tables().claims.get_mut(&scope) {
            row.released |= row.holder.epoch == claim.epoch;
        }
        reply(Ok(()))
    }

    fn holders(&self, pipeline: &str) -> Reply<'_, Vec<Holder>> {
        let tables = self.tables();
        let held = tables.claims.values().filter(|(row, lock)| {
            row.pipeline == pipeline && !row.released && lock.strong_count() > 0
        });
        reply(Ok(held.map(|(row, _)| row.holder.clone()).collect()))
    }

    fn save(&self, claim: &Claim, saves: Vec<Save>, now: Timestamp) -> Reply<'_, Vec<Saved>> {
        reply(self.tables().save(claim, &saves, now))
    }

    fn mirror(&self, claim: &Claim, checkpoints: Vec<Checkpoint>) -> Reply<'_, Saved> {
        reply(self.tables().mirror(claim, checkpoints))
    }

    fn load(&self, pipeline: &str) -> Reply<'_, Vec<Checkpoint>> {
        let tables = self.tables();
        let of = tables.checkpoints.values().filter(|row| row.key.pipeline == pipeline);
        reply(Ok(of.cloned().collect()))
    }

    fn state(&self, of: &CheckpointKey, key: Option<&str>) -> Reply<'_, Vec<StateEntry>> {
        let tables = self.tables();
        let entries = tables.state.get(of).into_iter().flatten();
        let wanted = entries.filter(|(name, _)| key.is_none_or(|key| key == *name));
        let entry = |(key, json): (&String, &String)| StateEntry {
            key: key.clone(),
            json: Some(json.clone()),
        };
        reply(Ok(wanted.map(entry).collect()))
    }

    fn complete(&self, claim: &Claim, sink: Option<&str>) -> Reply<'_, Saved> {
        reply(Ok(self.tables().complete(claim, sink)))
    }

    fn history(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Checkpoint>> {
        let tables = self.tables();
        let of = tables.history.iter().rev().filter(|row| row.key.pipeline == pipeline);
        reply(Ok(of.take(limit as usize).cloned().collect()))
    }

    fn thin(&self, pipeline: &str, keep: Duration, now: Timestamp) -> Reply<'_, ()> {
        self.tables().thin(pipeline, keep, now);
        reply(Ok(()))
    }

    fn pipelines(&self) -> Reply<'_, Vec<PipelineRecord>> {
        reply(Ok(self.tables().pipelines.values().cloned().collect()))
    }

    fn register(&self, record: PipelineRecord) -> Reply<'_, ()> {
        let mut tables = self.tables();
        let control = tables.pipelines.get(&record.pipeline).map(|old| old.control);
        let record = PipelineRecord { control: control.unwrap_or(record.control), ..record };
        tables.pipelines.insert(record.pipeline.clone(), record);
        reply(Ok(()))
    }

    fn control(&self, pipeline: &str) -> Reply<'_, Control> {
        let tables = self.tables();
        reply(Ok(tables.pipelines.get(pipeline).map(|record| record.control).unwrap_or_default()))
    }

    fn set_control(&self, pipeline: &str, control: Control, event: Event) -> Reply<'_, ()> {
        let mut tables = self.tables();
        let Some(record) = tables.pipelines.get_mut(pipeline) else {
            return reply(Err(rules::unregistered(pipeline, "memory:")));
        };
        record.control = control;
        tables.record(event);
        reply(Ok(()))
    }

    fn order(&self, orders: Vec<Order>, event: Event) -> Reply<'_, ()> {
        reply(self.tables().order(orders, event))
    }

    fn orders(&self, pipeline: &str) -> Reply<'_, Vec<Order>> {
        reply(Ok(self.tables().pending(pipeline)))
    }

    fn applied(&self, claim: &Claim, orders: Vec<u64>, now: Timestamp) -> Reply<'_, ()> {
        reply(self.tables().applied(claim, &orders, now))
    }

    fn begin_run(&self, run: Run) -> Reply<'_, u64> {
        let mut tables = self.tables();
        let id = tables.runs.last().map_or(1, |last| last.id + 1);
        tables.runs.push(Run { id, ..run });
        reply(Ok(id))
    }

    fn update_run(&self, run: Run) -> Reply<'_, ()> {
        let mut tables = self.tables();
        let Some(old) = tables.runs.iter_mut().find(|old| old.id == run.id) else {
            return reply(Err(rules::no_run(run.id)));
        };
        // A run that its heir has ended stays ended, whatever its figures still do.
        if old.ended_at.is_none() || run.ended_at.is_some() {
            *old = run;
        }
        reply(Ok(()))
    }

    fn runs(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Run>> {
        let tables = self.tables();
        let of = tables.runs.iter().rev().filter(|run| run.pipeline == pipeline);
        reply(Ok(of.take(limit as usize).cloned().collect()))
    }

    fn record(&self, event: Event) -> Reply<'_, ()> {
        self.tables().record(event);
        reply(Ok(()))
    }

    fn events(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Event>> {
        let tables = self.tables();
        let of = tables.events.iter().rev().filter(|event| event.pipeline == pipeline);
        reply(Ok(of.take(limit as usize).cloned().collect()))
    }

    fn set_aside(&self, letters: Vec<DeadLetter>) -> Reply<'_, u64> {
        reply(Ok(self.tables().set_aside(letters)))
    }

    fn dead_letters(&self, pipeline: &str) -> Reply<'_, Vec<DeadLetter>> {
        let mut letters = self.tables().letters();
        letters.retain(|letter| letter.pipeline == pipeline);
        reply(Ok(letters))
    }

    fn drop_letters(&self, pipeline: &str, ids: Vec<(String, String)>) -> Reply<'_, u64> {
        let mut tables = self.tables();
        let before = tables.dead_letters.len();
        for (sink, id) in ids {
            tables.dead_letters.remove(&(pipeline.to_owned(), sink, id));
        }
        reply(Ok((before - tables.dead_letters.len()) as u64))
    }

    fn snapshot(&self) -> Reply<'_, Snapshot> {
        reply(Ok(self.tables().snapshot()))
    }

    fn restore(&self, snapshot: Snapshot) -> Reply<'_, ()> {
        reply(self.tables().restore(snapshot))
    }
}

impl Tables {
    fn claims_of<'a>(&'a self, pipeline: &'a str) -> impl Iterator<Item = &'a ClaimRow> {
        self.claims.values().map(|(row, _)| row).filter(move |row| row.pipeline == pipeline)
    }

    fn fence(&self, claim: &Claim) -> Epoch {
        rules::fence(self.claims_of(&claim.pipeline), &claim.partition)
    }

    fn claim(&mut self, request: ClaimRequest) -> ClaimAnswer {
        let rivals: Vec<ClaimRow> = self
            .claims_of(&request.pipeline)
            .filter(|row| rules::overlap(&row.partition, &request.partition))
            .cloned()
            .collect();
        let seen = self.checkpoints.values().filter(|row| {
            row.key.pipeline == request.pipeline
                && rules::overlap(&row.key.partition, &request.partition)
        });
        let seen = seen.map(|row| row.epoch).max().unwrap_or_default();
        let alive = |row: &ClaimRow| {
            let scope = (row.pipeline.clone(), row.partition.clone());
            let lock = self.claims.get(&scope).map(|(_, lock)| lock.strong_count());
            Ok::<bool, std::convert::Infallible>(lock.unwrap_or_default() > 0)
        };
        let (epoch, died) = match rules::decide(&request, &rivals, seen, alive) {
            Ok(Decision::Held(holder)) => return ClaimAnswer::Held(holder),
            Ok(Decision::Grant { epoch, died }) => (epoch, died),
            Err(never) => match never {},
        };
        for rival in rivals {
            let scope = (rival.pipeline, rival.partition);
            if request.partition == WHOLE {
                self.claims.remove(&scope);
            } else if let Some((row, _)) = self.claims.get_mut(&scope) {
                row.released = true;
            }
        }
        let lock = Arc::new(());
        let row = ClaimRow::granted(&request, epoch);
        let lease = row.holder.lease;
        let scope = (request.pipeline.clone(), request.partition.clone());
        self.claims.insert(scope, (row, Arc::downgrade(&lock)));
        let (pipeline, partition) = (request.pipeline, request.partition);
        let claim = Claim { pipeline, partition, epoch, lease, lock: Some(lock) };
        ClaimAnswer::Granted { claim, died }
    }

    fn renew(&mut self, claim: &Claim) -> Result<Saved, StoreError> {
        let fence = self.fence(claim);
        if fence > claim.epoch {
            return Ok(Saved::Fenced { epoch: fence });
        }
        let scope = (claim.pipeline.clone(), claim.partition.clone());
        match self.claims.get_mut(&scope) {
            Some((row, _)) if row.holder.epoch == claim.epoch && !row.released => {
                row.holder.renewals += 1;
                Ok(Saved::Ignored)
            }
            _ => Err(rules::not_held(claim)),
        }
    }

    fn save(
        &mut self,
        claim: &Claim,
        saves: &[Save],
        now: Timestamp,
    ) -> Result<Vec<Saved>, StoreError> {
        rules::check_scope(claim, saves.iter().map(|save| &save.key))?;
        let fence = self.fence(claim);
        let judge =
            |save: &Save| Saved::judge(self.checkpoints.get(&save.key), save, fence, claim.epoch);
        let outcomes: Vec<Saved> = saves.iter().map(judge).collect();
        if !outcomes.iter().all(Saved::is_stored) {
            return Ok(outcomes);
        }
        let new = saves.iter().zip(&outcomes).map(|(save, outcome)| {
            let version = if let Saved::Stored { version } = outcome { *version } else { 0 };
            rules::saved(save, version, claim.epoch, now)
        });
        self.replace(new.collect(), now);
        for save in saves {
            let state = self.state.entry(save.key.clone()).or_default();
            for entry in &save.state {
                match &entry.json {
                    Some(json) => state.insert(entry.key.clone(), json.clone()),
                    None => state.remove(&entry.key),
                };
            }
        }
        self.state.retain(|_, entries| !entries.is_empty());
        Ok(outcomes)
    }

    /// Puts checkpoints in place of what is there, with history when it is due.
    fn replace(&mut self, new: Vec<Checkpoint>, now: Timestamp) {
        let replaced = new.iter().filter_map(|row| self.checkpoints.get(&row.key));
        let fresh = new.iter().map(|row| &row.key);
        let fresh = fresh.filter(|key| !self.checkpoints.contains_key(*key));
        if self.clock.due(replaced.clone().map(Replaced::of), fresh, now) {
            let replaced: Vec<Checkpoint> = replaced.cloned().collect();
            self.history.extend(replaced);
        }
        self.checkpoints.extend(new.into_iter().map(|row| (row.key.clone(), row)));
    }

    fn mirror(&mut self, claim: &Claim, new: Vec<Checkpoint>) -> Result<Saved, StoreError> {
        rules::check_scope(claim, new.iter().map(|row| &row.key))?;
        let fence = self.fence(claim);
        if fence > claim.epoch {
            return Ok(Saved::Fenced { epoch: fence });
        }
        let judge = |row: &Checkpoint| {
            rules::judge_mirror(self.checkpoints.get(&row.key), row, claim.epoch)
        };
        let answer = rules::worst(new.iter().map(judge));
        if answer.is_stored() {
            let now = new.iter().map(|row| row.updated_at).max().unwrap_or_default();
            self.replace(new, now);
        }
        Ok(answer)
    }

    fn complete(&mut self, claim: &Claim, sink: Option<&str>) -> Saved {
        let covered: Vec<CheckpointKey> = self
            .checkpoints
            .keys()
            .filter(|key| {
                key.pipeline == claim.pipeline
                    && rules::overlap(&key.partition, &claim.partition)
                    && sink.is_none_or(|sink| sink == key.sink)
            })
            .cloned()
            .collect();
        let rows = covered.iter().filter_map(|key| self.checkpoints.get(key));
        let fence = rows.clone().map(|row| row.epoch).max().unwrap_or_default();
        let fence = fence.max(self.fence(claim));
        if fence > claim.epoch {
            return Saved::Fenced { epoch: fence };
        }
        let answer = rules::worst(rows.map(|row| Saved::Stored { version: row.version }));
        for key in &covered {
            self.forget(key);
        }
        answer
    }

    fn forget(&mut self, key: &CheckpointKey) {
        self.history.extend(self.checkpoints.remove(key));
        self.state.remove(key);
    }

    fn thin(&mut self, pipeline: &str, keep: Duration, now: Timestamp) {
        let past = |row: &Checkpoint| Past {
            key: row.key.clone(),
            at: row.updated_at,
            position: row.position.clone(),
        };
        let of = self.history.iter().filter(|row| row.key.pipeline == pipeline);
        let rows: Vec<Past> = of.map(past).collect();
        let mut kept = rules::kept(&rows, &self.pending(pipeline), keep, now).into_iter();
        self.history.retain(|row| row.key.pipeline != pipeline || kept.next().unwrap_or(true));

        let mut newer = self.runs.iter().filter(|run| run.pipeline == pipeline).count();
        self.runs.retain(|run| {
            newer -= usize::from(run.pipeline == pipeline);
            run.pipeline != pipeline || !rules::run_is_old(run, newer, keep, now)
        });
        self.events
            .retain(|event| event.pipeline != pipeline || !rules::is_old(event.at, keep, now));
        let last = self.orders.last().map_or(0, |order| order.id);
        self.orders.retain(|order| {
            order.pipeline != pipeline
                || order.id == last
                || !order.applied_at.is_some_and(|at| rules::is_old(at, keep, now))
        });
    }

    fn record(&mut self, event: Event) {
        let id = self.events.last().map_or(1, |last| last.id + 1);
        self.events.push(Event { id, ..event });
    }

    fn order(&mut self, orders: Vec<Order>, event: Event) -> Result<(), StoreError> {
        let covered: Vec<Vec<CheckpointKey>> = orders.iter().map(|o| self.covered(o)).collect();
        for (order, keys) in orders.iter().zip(&covered) {
            let stateful = keys.iter().find(|key| self.state.contains_key(*key));
            if let (OrderKind::Rewind, Some(key)) = (order.kind, stateful) {
                return Err(rules::has_state(key));
            }
        }
        for (order, keys) in orders.into_iter().zip(covered) {
            for key in &keys {
                match order.kind {
                    OrderKind::Reset => self.forget(key),
                    OrderKind::Rewind => self.rewind(key, &order),
                }
            }
            let id = self.orders.last().map_or(1, |last| last.id + 1);
            self.orders.push(Order { id, applied_at: None, ..order });
        }
        self.record(event);
        Ok(())
    }

    fn covered(&self, order: &Order) -> Vec<CheckpointKey> {
        let covers = |key: &&CheckpointKey| {
            key.pipeline == order.pipeline && order.covers(&key.partition, &key.sink)
        };
        self.checkpoints.keys().filter(covers).cloned().collect()
    }

    fn rewind(&mut self, key: &CheckpointKey, order: &Order) {
        if let Some(row) = self.checkpoints.get_mut(key) {
            let rewound = rules::rewound(row, order);
            self.history.push(std::mem::replace(row, rewound));
        }
    }

    fn pending(&self, pipeline: &str) -> Vec<Order> {
        let pending = |order: &&Order| order.pipeline == pipeline && order.applied_at.is_none();
        self.orders.iter().filter(pending).cloned().collect()
    }

    fn applied(&mut self, claim: &Claim, ids: &[u64], now: Timestamp) -> Result<(), StoreError> {
        let fence = self.fence(claim);
        if fence > claim.epoch {
            return Err(rules::fenced(&claim.pipeline, fence));
        }
        let is = |order: &Order, id: u64| order.id == id && order.pipeline == claim.pipeline;
        if let Some(id) = ids.iter().find(|id| !self.orders.iter().any(|order| is(order, **id))) {
            return Err(rules::no_order(*id, &claim.pipeline));
        }
        for order in self.orders.iter_mut().filter(|order| ids.contains(&order.id)) {
            order.applied_at.get_or_insert(now);
        }
        Ok(())
    }

    fn set_aside(&mut self, letters: Vec<DeadLetter>) -> u64 {
        let before = self.dead_letters.len();
        for letter in letters {
            let key = (letter.pipeline.clone(), letter.sink.clone(), letter.id.clone());
            self.letters_ever += 1;
            self.dead_letters.entry(key).or_insert((self.letters_ever, letter));
        }
        (self.dead_letters.len() - before) as u64
    }

    /// Oldest first.
    fn letters(&self) -> Vec<DeadLetter> {
        let mut letters: Vec<_> = self.dead_letters.values().collect();
        letters.sort_by_key(|(number, _)| *number);
        letters.into_iter().map(|(_, letter)| letter.clone()).collect()
    }

    fn snapshot(&self) -> Snapshot {
        let entries = |(of, entries): (&CheckpointKey, &BTreeMap<String, String>)| {
            let of = of.clone();
            let entry = move |(key, json): (&String, &String)| {
                (of.clone(), StateEntry { key: key.clone(), json: Some(json.clone()) })
            };
            entries.iter().map(entry).collect::<Vec<_>>()
        };
        let epoch = |((pipeline, partition), (row, _)): (&(String, String), &(ClaimRow, _))| {
            (pipeline.clone(), partition.clone(), row.holder.epoch)
        };
        Snapshot {
            format: FORMAT,
            pipelines: self.pipelines.values().cloned().collect(),
            checkpoints: self.checkpoints.values().cloned().collect(),
            history: self.history.clone(),
            state: self.state.iter().flat_map(entries).collect(),
            epochs: self.claims.iter().map(epoch).collect(),
            runs: self.runs.clone(),
            events: self.events.clone(),
            orders: self.orders.clone(),
            dead_letters: self.letters(),
        }
    }

    fn is_empty(&self) -> bool {
        self.pipelines.is_empty()
            && self.checkpoints.is_empty()
            && self.history.is_empty()
            && self.claims.is_empty()
            && self.runs.is_empty()
            && self.events.is_empty()
            && self.orders.is_empty()
            && self.dead_letters.is_empty()
    }

    fn restore(&mut self, mut snapshot: Snapshot) -> Result<(), StoreError> {
        rules::check_restore(&snapshot, self.is_empty(), "memory:")?;
        let claims = rules::restored_claims(&snapshot);
        snapshot.runs.sort_by_key(|run| run.id);
        snapshot.events.sort_by_key(|event| event.id);
        snapshot.orders.sort_by_key(|order| order.id);
        *self = Self {
            pipelines: snapshot.pipelines.into_iter().map(|p| (p.pipeline.clone(), p)).collect(),
            checkpoints: snapshot.checkpoints.into_iter().map(|c| (c.key.clone(), c)).collect(),
            history: snapshot.history,
            clock: HistoryClock::default(),
            state: BTreeMap::new(),
            claims: claims
                .into_iter()
                .map(|row| ((row.pipeline.clone(), row.partition.clone()), (row, Weak::new())))
                .collect(),
            runs: snapshot.runs,
            events: snapshot.events,
            orders: snapshot.orders,
            dead_letters: BTreeMap::new(),
            letters_ever: 0,
        };
        self.set_aside(snapshot.dead_letters);
        for (of, entry) in snapshot.state {
            let json = entry.json.unwrap_or_default();
            self.state.entry(of).or_default().insert(entry.key, json);
        }
        Ok(())
    }
}
