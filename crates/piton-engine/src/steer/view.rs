//! What there is to see: pipelines, their checkpoints, and what they are doing.

use std::{collections::HashMap, fmt, time::Duration};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{
    Checkpoint, Control, Epoch, Event, Holder, Owner, PipelineRecord, Run, RunEnd, Store,
    StoreError,
};
use serde::Serialize;

use super::{SteerError, find, of_job::is_below};
use crate::{
    job::{self, view::StepCount},
    run::{Report, SinkState},
};

/// One pipeline, as `status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct PipelineView {
    /// Its name.
    pub pipeline: String,
    /// What it is doing.
    pub state: State,
    /// Who runs it.
    pub holder: Option<HolderView>,
    /// Of a job whose holder has died: what it has left at work, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphan: Option<String>,
    /// Where its configuration was read from.
    pub file: Option<String>,
    /// Records covered by the checkpoint of its furthest sink.
    pub records: u64,
    /// Its checkpoints.
    pub checkpoints: Vec<CheckpointView>,
    /// Figures of the last run, live if it runs.
    pub run: Option<Report>,
    /// When the last run began.
    pub started_at: Option<Timestamp>,
    /// When the last run ended.
    pub ended_at: Option<Timestamp>,
    /// Why the last run failed.
    pub error: Option<String>,
    /// Records set aside and not yet dropped.
    pub dead_letters: u64,
    /// Resets and rewinds that the next run will apply.
    pub pending_orders: u64,
    /// Of a job: how many of its steps are over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<StepCount>,
    /// Of a job: the age of the newest checkpoint of the pipelines that its steps are.
    #[serde(skip)]
    newest_below: Option<f64>,
}

/// A holder, with its lease in seconds, as every other length of time is told.
#[derive(Debug, Clone, Serialize)]
pub struct HolderView {
    /// Who it is.
    pub owner: Owner,
    /// Since when.
    pub since: Timestamp,
    /// Its epoch.
    pub epoch: Epoch,
    /// How often it was renewed.
    pub renewals: u64,
    /// The lease it asked for.
    pub lease_seconds: f64,
    /// As a person reads it.
    #[serde(skip)]
    pub words: String,
}

impl From<&Holder> for HolderView {
    fn from(holder: &Holder) -> Self {
        Self {
            owner: holder.owner.clone(),
            since: holder.since,
            epoch: holder.epoch,
            renewals: holder.renewals,
            lease_seconds: holder.lease.as_secs_f64(),
            words: holder.to_string(),
        }
    }
}

impl fmt::Display for HolderView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// A checkpoint with its age.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointView {
    /// The partition.
    pub partition: String,
    /// The sink.
    pub sink: String,
    /// The position as JSON; null when begun and nothing is durable yet.
    pub position: Option<serde_json::Value>,
    /// Records up to there.
    pub records: u64,
    /// Its version.
    pub version: u64,
    /// The claim that stored it.
    pub epoch: u64,
    /// The source's schema version.
    pub schema_version: u64,
    /// When it was stored.
    pub updated_at: Timestamp,
    /// How long ago that is.
    pub age_seconds: f64,
}

/// What a pipeline is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Registered, never run.
    New,
    /// A living process holds its claim.
    Running,
    /// It idles, or would if it were started.
    Paused,
    /// Its last run reached the end.
    Finished,
    /// Of a job: it had finished, and an operator has had steps of it begin anew.
    Rewound,
    /// Its last run was asked to stop.
    Stopped,
    /// An operator cancelled it.
    Cancelled,
    /// Its last run failed.
    Failed,
    /// Its last run was fenced by a newer owner.
    Fenced,
    /// Its last run died without a word.
    Crashed,
}

impl State {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Finished => "finished",
            Self::Rewound => "rewound",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Fenced => "fenced",
            Self::Crashed => "crashed",
        }
    }
}

/// Every pipeline and job of a store. The pipelines that are steps of a job are in its tree.
///
/// # Errors
/// What the store may refuse.
pub fn look(store: &dyn Store, now: Timestamp) -> Result<Vec<PipelineView>, StoreError> {
    let all = block_on(store.pipelines())?;
    let is_step = |record: &&PipelineRecord| {
        let mut above = record.pipeline.match_indices('/').map(|(end, _)| &record.pipeline[..end]);
        above.any(|above| all.iter().any(|other| other.pipeline == above && job::is_job(other)))
    };
    let shown = all.iter().filter(|record| !is_step(record));
    shown.map(|record| view(store, record.clone(), &all, now)).collect()
}

/// One pipeline.
///
/// # Errors
/// [`SteerError::Unknown`], or what the store may refuse.
pub fn look_at(store: &dyn Store, name: &str, now: Timestamp) -> Result<PipelineView, SteerError> {
    let record = find(store, name)?;
    let all = if job::is_job(&record) { block_on(store.pipelines())? } else { Vec::new() };
    Ok(view(store, record, &all, now)?)
}

/// `all`: the pipelines of the store, for a job.
fn view(
    store: &dyn Store,
    record: PipelineRecord,
    all: &[PipelineRecord],
    now: Timestamp,
) -> Result<PipelineView, StoreError> {
    let name = &record.pipeline;
    let holder = block_on(store.holders(name))?.into_iter().next();
    let last = block_on(store.runs(name, 1))?.into_iter().next();
    let checkpoints = block_on(store.load(name))?;
    let orphan = match holder.as_ref().filter(|_| job::is_job(&record)) {
        Some(holder) => job::orphan::left_by(store, name, holder)?,
        None => None,
    };
    let living = holder.as_ref().filter(|_| orphan.is_none());
    let state = match state(&record, living, last.as_ref()) {
        State::Finished if job::is_job(&record) && !job::view::is_finished(&checkpoints) => {
            State::Rewound
        }
        state => state,
    };
    let mut dead_letters = block_on(store.dead_letters(name))?.len();
    for known in all.iter().filter(|known| is_below(name, &known.pipeline)) {
        dead_letters += block_on(store.dead_letters(&known.pipeline))?.len();
    }
    let steps = job::is_job(&record).then(|| job::view::count(&record, &checkpoints));
    let newest_below = match steps {
        Some(_) => newest_below(store, name, all, now)?,
        None => None,
    };
    Ok(PipelineView {
        state,
        orphan,
        steps,
        newest_below,
        holder: holder.as_ref().map(HolderView::from),
        records: checkpoints
            .iter()
            .map(|c| (&c.key.sink, c.records))
            .fold(std::collections::BTreeMap::<&String, u64>::new(), |mut sums, (sink, records)| {
                *sums.entry(sink).or_default() += records;
                sums
            })
            .into_values()
            .max()
            .unwrap_or(0),
        checkpoints: checkpoints.iter().map(|c| checkpoint_view(c, now)).collect(),
        run: last.as_ref().and_then(report_of),
        started_at: last.as_ref().map(|run| run.started_at),
        ended_at: last.as_ref().and_then(|run| run.ended_at),
        error: last.and_then(|run| run.error),
        dead_letters: dead_letters as u64,
        pending_orders: block_on(store.orders(name))?.len() as u64,
        file: record.file.clone(),
        pipeline: record.pipeline,
    })
}

/// The age of the newest checkpoint of the pipelines of a job.
fn newest_below(
    store: &dyn Store,
    job: &str,
    all: &[PipelineRecord],
    now: Timestamp,
) -> Result<Option<f64>, StoreError> {
    let mut newest: Option<f64> = None;
    for record in all.iter().filter(|record| is_below(job, &record.pipeline)) {
        for checkpoint in block_on(store.load(&record.pipeline))? {
            let age = checkpoint_view(&checkpoint, now).age_seconds;
            newest = Some(newest.map_or(age, |newest| newest.min(age)));
        }
    }
    Ok(newest)
}

fn state(record: &PipelineRecord, holder: Option<&Holder>, last: Option<&Run>) -> State {
    if holder.is_some() {
        return if record.control == Control::Pause { State::Paused } else { State::Running };
    }
    match record.control {
        Control::Cancel => return State::Cancelled,
        Control::Pause => return State::Paused,
        Control::Run => {}
    }
    match last.map(|run| run.end) {
        None => State::New,
        Some(None | Some(RunEnd::Crashed)) => State::Crashed,
        Some(Some(RunEnd::Finished)) => State::Finished,
        Some(Some(RunEnd::Stopped)) => State::Stopped,
        Some(Some(RunEnd::Cancelled)) => State::Cancelled,
        Some(Some(RunEnd::Failed)) => State::Failed,
        Some(Some(RunEnd::Fenced)) => State::Fenced,
    }
}

fn report_of(run: &Run) -> Option<Report> {
    serde_json::from_str(run.progress.as_deref()?).ok()
}

fn checkpoint_view(checkpoint: &Checkpoint, now: Timestamp) -> CheckpointView {
    let age = now.duration_since(checkpoint.updated_at);
    CheckpointView {
        partition: checkpoint.key.partition.clone(),
        sink: checkpoint.key.sink.clone(),
        position: checkpoint
            .position
            .as_ref()
            .map(|p| serde_json::from_str(&p.json).unwrap_or_else(|_| p.json.clone().into())),
        records: checkpoint.records,
        version: checkpoint.version,
        epoch: checkpoint.epoch.0,
        schema_version: checkpoint.schema_version,
        updated_at: checkpoint.updated_at,
        age_seconds: age.as_secs_f64().max(0.0),
    }
}

/// Whether a pipeline needs somebody's attention, for `status --check`.
#[derive(Debug, Clone, PartialEq)]
pub enum Health {
    /// Nothing to do.
    Well,
    /// What is wrong, as a sentence.
    Ill(String),
}

impl PipelineView {
    /// How old its newest checkpoint is; of a job, with those of its steps.
    pub fn newest_seconds(&self) -> Option<f64> {
        let ages = self.checkpoints.iter().map(|checkpoint| checkpoint.age_seconds);
        ages.chain(self.newest_below).reduce(f64::min)
    }

    /// Judges the pipeline: it failed or crashed, a sink is behind, or one that has more to do
    /// (running, stopped, paused) has not saved a checkpoint for longer than `max_lag`.
    pub fn health(&self, max_lag: Option<Duration>) -> Health {
        let name = &self.pipeline;
        if matches!(self.state, State::Failed | State::Crashed | State::Fenced) {
            let why = match (self.error.as_deref(), self.state) {
                (Some(error), _) => error,
                (None, State::Crashed) => "its process died; run it again to resume",
                (None, _) => "no reason was recorded",
            };
            return Health::Ill(format!("'{name}' {}: {why}", self.state.as_str()));
        }
        let mut sinks = self.run.iter().flat_map(|run| &run.sinks);
        if let Some(sink) = sinks.rfind(|sink| sink.state == SinkState::Behind) {
            let why = sink.trouble.as_deref().unwrap_or("catching up");
            return Health::Ill(format!("'{name}', sink '{}' is behind: {why}", sink.name));
        }
        let waiting = self.run.as_ref().and_then(|run| run.waiting.as_deref());
        if let (Some(why), State::Running) = (waiting, self.state) {
            return Health::Ill(format!("'{name}': {why}"));
        }
        // What has nothing more to do cannot lag.
        let is_over = matches!(self.state, State::New | State::Finished | State::Cancelled);
        let Some(max_lag) = max_lag.filter(|_| !is_over) else {
            return Health::Well;
        };
        let ages = self.checkpoints.iter().map(|c| c.age_seconds);
        let oldest = match self.steps {
            // Done steps are not saved again.
            Some(_) => self.newest_seconds().unwrap_or(0.0),
            None => ages.fold(0.0, f64::max),
        };
        if oldest > max_lag.as_secs_f64() {
            return Health::Ill(format!(
                "'{name}' ({}): the last checkpoint is {oldest:.0} s old, more than {max_lag:?}",
                self.state.as_str()
            ));
        }
        Health::Well
    }
}

/// A pipeline over time, as `history` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryView {
    /// Its name.
    pub pipeline: String,
    /// Earlier checkpoints, newest first.
    pub checkpoints: Vec<CheckpointView>,
    /// Runs, newest first.
    pub runs: Vec<RunView>,
    /// Events, newest first.
    pub events: Vec<Event>,
}

/// A run with its figures unpacked.
#[derive(Debug, Clone, Serialize)]
pub struct RunView {
    /// The run.
    #[serde(flatten)]
    pub run: Run,
    /// Its figures.
    pub report: Option<Report>,
}

/// The present checkpoints and those that they replaced, newest first.
fn evolution(store: &dyn Store, name: &str, limit: u64) -> Result<Vec<Checkpoint>, StoreError> {
    let mut all = block_on(store.load(name))?;
    all.extend(block_on(store.history(name, limit))?);
    all.sort_by_key(|c| std::cmp::Reverse((c.updated_at, c.version, c.epoch)));
    let mut all = distinct(all);
    all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(all)
}

/// Without those that differ in the epoch alone from the next newer one of their sink and
/// partition: a new owner writes its own to the checkpoint that it finds.
fn distinct(mut history: Vec<Checkpoint>) -> Vec<Checkpoint> {
    let mut newer = HashMap::new();
    history.retain(|c| {
        let what = (c.version, c.position.clone());
        newer.insert(c.key.clone(), what.clone()) != Some(what)
    });
    history
}

/// A pipeline's checkpoints, runs and events over time.
///
/// # Errors
/// [`SteerError::Unknown`], or what the store may refuse.
pub fn history(
    store: &dyn Store,
    name: &str,
    limit: u64,
    now: Timestamp,
) -> Result<HistoryView, SteerError> {
    find(store, name)?;
    let runs = block_on(store.runs(name, limit))?;
    let unpack = |mut run: Run| {
        let report = report_of(&run);
        run.progress = None;
        RunView { run, report }
    };
    Ok(HistoryView {
        pipeline: name.to_owned(),
        checkpoints: evolution(store, name, limit)?
            .iter()
            .map(|c| checkpoint_view(c, now))
            .collect(),
        runs: runs.into_iter().map(unpack).collect(),
        events: block_on(store.events(name, limit))?,
    })
}
