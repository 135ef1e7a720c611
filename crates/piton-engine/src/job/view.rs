//! The tree of a job, as `status` draws it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures_executor::block_on;
use jiff::Timestamp;
use piton::job::{POSITION, STEP, Stage, StepState, WHOLE_JOB};
use piton_core::{Checkpoint, PipelineRecord, Store, StoreError, StoredPosition};
use serde::Serialize;

use super::outline::{self, Entry};
use crate::{
    connect::{brief, brief_json},
    run::Report,
    steer::{self, SteerError},
};

/// A step, as `status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct StepView {
    /// Its path: `customer/invoice`.
    pub step: String,
    /// How deep it stands in the tree; 0 at the top.
    pub depth: usize,
    /// `not_started`, `running`, `failed`, `done`, `skipped`, or `interrupted`: it had begun, and
    /// nobody runs it.
    pub state: &'static str,
    /// How often it was begun.
    pub attempt: u32,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When that ended.
    pub ended_at: Option<Timestamp>,
    /// Why it failed, or who skipped it.
    pub why: Option<String>,
    /// Where it stands, as a person reads it.
    pub position: Option<String>,
    /// Records that it has moved, if it moves records.
    pub records: Option<u64>,
    /// Records per second in its last run.
    pub rate: Option<f64>,
    /// The share of its source that is read, from 0 to 1, while it runs and if the source knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// How long the rest takes at the present rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_seconds: Option<f64>,
    /// Records that it has set aside and that are not dropped yet.
    pub dead_letters: u64,
    /// How old its newest checkpoint is.
    pub checkpoint_age_seconds: Option<f64>,
}

/// How many steps of a job are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StepCount {
    /// Those that are done, or count as done.
    pub done: u64,
    /// All that are known.
    pub all: u64,
}

/// Counts the steps of a job by what is stored of them.
pub(crate) fn count(record: &PipelineRecord, checkpoints: &[Checkpoint]) -> StepCount {
    let entries = outline::of(&record.transforms);
    let mut all: BTreeSet<String> = entries.iter().map(|entry| entry.path.clone()).collect();
    let mut done = 0;
    let each: Vec<&Entry> = entries.iter().filter(|entry| entry.is_each).collect();
    let is_each = |path: &str| each.iter().any(|entry| entry.has_each(path));
    let steps = checkpoints.iter().filter(|c| c.key.sink == STEP);
    let is_over = |c: &Checkpoint| state_of(c).is_some_and(|state| state.stage.is_over());
    if let [whole] = checkpoints
        && whole.key.partition == WHOLE_JOB
        && is_over(whole)
    {
        // It has finished, and its checkpoints were removed.
        return StepCount { done: all.len() as u64, all: all.len() as u64 };
    }
    let steps = steps.filter(|c| c.key.partition != WHOLE_JOB && !is_each(&c.key.partition));
    // What is rewound and no longer in the file is nothing that is to be done.
    let has_file = !entries.is_empty();
    let is_gone = |c: &Checkpoint| state_of(c).is_some_and(|state| state.stage == Stage::Rewound);
    for step in steps.filter(|c| !has_file || !is_gone(c)) {
        done += u64::from(is_over(step));
        all.insert(step.key.partition.clone());
    }
    StepCount { done, all: all.len() as u64 }
}

/// The steps of a job in the order of the tree; none for what is no job.
///
/// # Errors
/// [`SteerError::Unknown`], or what the store may refuse.
pub fn steps(store: &dyn Store, name: &str, now: Timestamp) -> Result<Vec<StepView>, SteerError> {
    let record = crate::steer::find(store, name)?;
    if !super::is_job(&record) {
        return Ok(Vec::new());
    }
    Ok(tree(store, &record, now)?)
}

fn tree(
    store: &dyn Store,
    record: &PipelineRecord,
    now: Timestamp,
) -> Result<Vec<StepView>, StoreError> {
    let job = &record.pipeline;
    let is_running = !block_on(store.holders(job))?.is_empty();
    let checkpoints = block_on(store.load(job))?;
    let states: BTreeMap<&str, StepState> = checkpoints
        .iter()
        .filter(|checkpoint| checkpoint.key.sink == STEP)
        .filter_map(|c| Some((&*c.key.partition, state_of(c)?)))
        .collect();
    let mut entries = outline::of(&record.transforms);
    let mut others: Vec<&str> = states.keys().copied().collect();
    others.retain(|path| *path != WHOLE_JOB);
    let known: HashSet<&str> = entries.iter().map(|entry| &*entry.path).collect();
    let each: Vec<&Entry> = entries.iter().filter(|entry| entry.is_each).collect();
    others.retain(|path| !known.contains(path) && !each.iter().any(|e| e.has_each(path)));
    // What is rewound and no longer in the file is nothing that is to be done.
    others.retain(|path| known.is_empty() || states[path].stage != Stage::Rewound);
    others.sort_by_key(|path| (states[path].started_at, *path));
    let others = others.into_iter().map(|path| Entry::alone(path.to_owned()));
    entries.extend(others);
    let pipelines = block_on(store.pipelines())?;
    let pipelines: BTreeSet<&str> = pipelines.iter().map(|known| &*known.pipeline).collect();
    let positions = checkpoints.iter().filter(|c| c.key.sink == POSITION);
    let positions: HashMap<&str, &Checkpoint> =
        positions.map(|position| (&*position.key.partition, position)).collect();
    let seen = |entry: Entry| {
        let (entry_is_each, each_of) = (entry.is_each, entry.clone());
        let kept = positions.get(&*entry.path).copied();
        let mut step = step(entry.path, &states, is_running);
        step.position = kept.and_then(|kept| kept.position.as_ref()).map(told);
        step.records = kept.filter(|_| entry.is_each).map(|kept| kept.records);
        step.checkpoint_age_seconds = kept.map(|kept| age(kept.updated_at, now));
        if entry_is_each {
            step.dead_letters = below_each(store, job, &each_of, &pipelines)?;
        }
        let pipeline = format!("{job}/{}", step.step);
        if pipelines.contains(&*pipeline) {
            records(store, &pipeline, &mut step, now)?;
        }
        Ok(step)
    };
    entries.into_iter().map(seen).collect()
}

/// The records that the steps below a `for_each` have set aside.
fn below_each(
    store: &dyn Store,
    job: &str,
    entry: &Entry,
    pipelines: &BTreeSet<&str>,
) -> Result<u64, StoreError> {
    let prefix = format!("{job}/");
    let path = |name: &str| name.strip_prefix(&prefix).map(ToOwned::to_owned);
    let mut letters = 0;
    for name in pipelines.iter().filter(|name| path(name).is_some_and(|path| entry.has_each(&path)))
    {
        letters += block_on(store.dead_letters(name))?.len();
    }
    Ok(letters as u64)
}

/// Whether a job is done, by its checkpoints.
pub(crate) fn is_finished(checkpoints: &[Checkpoint]) -> bool {
    let whole = checkpoints.iter().find(|c| c.key.partition == WHOLE_JOB && c.key.sink == STEP);
    whole.and_then(state_of).is_some_and(|state| state.stage.is_over())
}

/// The paths of a job's steps: those of its file, or else those that have begun.
pub(crate) fn paths(store: &dyn Store, record: &PipelineRecord) -> Result<Vec<String>, StoreError> {
    let entries = outline::of(&record.transforms);
    if !entries.is_empty() {
        return Ok(entries.into_iter().map(|entry| entry.path).collect());
    }
    let steps = block_on(store.load(&record.pipeline))?.into_iter().map(|known| known.key);
    let steps = steps.filter(|key| key.sink == STEP && key.partition != WHOLE_JOB);
    Ok(steps.map(|key| key.partition).collect())
}

/// The step of a job that a path names: of what is below a `for_each` that one.
pub(crate) fn step_named(record: &PipelineRecord, path: &str) -> String {
    let entries = outline::of(&record.transforms);
    let each = entries.iter().find(|entry| entry.has_each(path));
    each.map_or_else(|| path.to_owned(), |entry| entry.path.clone())
}

/// A position as a person reads it; of a `for_each` that of its source.
pub(super) fn told(position: &StoredPosition) -> String {
    let of_source = || {
        let json: serde_json::Value = serde_json::from_str(&position.json).ok()?;
        Some(brief_json(json.get("at")?.clone()))
    };
    if position.kind == "for_each" { of_source() } else { None }.unwrap_or_else(|| brief(position))
}

/// What a step's checkpoint says; `None` for what is none.
pub(super) fn state_of(checkpoint: &Checkpoint) -> Option<StepState> {
    checkpoint.position.as_ref().map(StoredPosition::read::<StepState>)?.ok()
}

fn step(path: String, states: &BTreeMap<&str, StepState>, is_running: bool) -> StepView {
    let state = states.get(path.as_str());
    let word = match state.map(|state| state.stage) {
        None | Some(Stage::Rewound) => "not_started",
        Some(Stage::Running) if !is_running => "interrupted",
        Some(stage) => stage.as_str(),
    };
    StepView {
        depth: path.matches('/').count(),
        step: path,
        state: word,
        attempt: state.map_or(0, |state| state.attempt),
        started_at: state.and_then(|state| state.started_at),
        ended_at: state.and_then(|state| state.ended_at),
        why: state.and_then(|state| state.why.clone()),
        position: None,
        records: None,
        rate: None,
        share: None,
        left_seconds: None,
        dead_letters: 0,
        checkpoint_age_seconds: None,
    }
}

/// What is known of the pipeline that a step is.
fn records(
    store: &dyn Store,
    pipeline: &str,
    step: &mut StepView,
    now: Timestamp,
) -> Result<(), StoreError> {
    let view = match steer::look_at(store, pipeline, now) {
        Ok(view) => view,
        Err(SteerError::Store(error)) => return Err(error),
        Err(_) => return Ok(()),
    };
    let newest = view.checkpoints.iter().map(|checkpoint| checkpoint.age_seconds);
    step.records = Some(view.records);
    step.dead_letters = view.dead_letters;
    step.rate = view.run.as_ref().map(|report: &Report| report.rate);
    let live = view.run.as_ref().filter(|_| view.holder.is_some());
    step.share = live.and_then(|report| report.share);
    step.left_seconds = live.and_then(|report| report.left_seconds);
    step.checkpoint_age_seconds = newest.reduce(f64::min).or(step.checkpoint_age_seconds);
    Ok(())
}

fn age(at: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(at).as_secs_f64().max(0.0)
}
