//! The checkpoints of a job's steps, under the claim of this process.
//!
//! A step costs one commit: that it is done is stored together with the beginning of the next one,
//! or at once when it took long enough for a commit of its own not to matter.

mod anew;
mod clearing;
mod ending;
mod identity;
mod noted;
mod operator;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_timer::Delay;
use jiff::Timestamp;
use piton_core::{
    Checkpoint, CheckpointKey, Claim, Control, Epoch, Holder, PipelineRecord, Position,
    PositionOrder, RunEnd, Save, Saved, Store, StoredPosition, position::order_of,
};
use pollster::block_on;

use self::noted::Noted;
use super::{
    JobError, JobOptions, SOURCE, Stage, StepState, WHOLE_JOB,
    name::{instance, newest_number, numbered},
    owner::refuse_of_other,
    position,
    state::MOST_CRASHES,
};
use crate::session::{Known, Session};

/// The sink of a step's own checkpoint.
pub const STEP: &str = "step";
/// The sink of the position that a step keeps.
pub const POSITION: &str = "position";

/// Where the checkpoints are, in the words that `piton status` and `piton reset` understand.
const SINKS: &str = r#"[{"name":"step","kind":"job","at":"the store","replay":"sends_again"},{"name":"position","kind":"job","at":"the store","replay":"sends_again"}]"#;

/// A step that takes less is stored as done together with what is stored next.
const SHORT: Duration = Duration::from_millis(50);

/// How late the store may hear of what is durable elsewhere.
const LATEST: Duration = Duration::from_secs(1);

/// What is done while another process has the job.
#[derive(Clone, Copy)]
pub struct Waiting<'a> {
    /// Told of the holder when it is first seen, and whenever it has stirred.
    pub on_wait: &'a dyn Fn(&Holder),
    /// Whether to go on waiting.
    pub goes_on: &'a dyn Fn() -> bool,
}

impl Default for Waiting<'_> {
    fn default() -> Self {
        Self { on_wait: &|_| {}, goes_on: &|| true }
    }
}

/// The checkpoints of one run of a job.
pub struct Steps {
    session: Session,
    /// The newest of this process: where the connection to the store is lost, another replaces it.
    claim: Mutex<Claim>,
    rows: Mutex<Rows>,
    /// How many attempts of a step may end without a word, one after the other.
    most_crashes: u32,
}

struct Rows {
    steps: BTreeMap<String, Row>,
    /// Changed, and not stored yet.
    waiting: BTreeSet<String>,
    /// Whether something that is not stored yet is durable nowhere else.
    is_urgent: bool,
    /// When something was last stored.
    written: Instant,
    positions: BTreeMap<String, Checkpoint>,
    /// Positions that are stored with what is stored next.
    noted: BTreeMap<String, Noted>,
}

#[derive(Clone)]
struct Row {
    state: StepState,
    version: u64,
    stored: Option<StoredPosition>,
    /// What it does is durable without this row.
    is_lazy: bool,
}

/// What came of beginning a step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a step that is over is not run again"]
pub enum Beginning {
    /// It was done, or is to be passed over.
    Over(Stage),
    /// It is noted as running: do it, and say how it ended.
    Begun(Begun),
}

/// How a step begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start<'a> {
    /// What its beginning has to make sure of.
    pub work: Work,
    /// Any number that grows with what the step has come to elsewhere, by which crashes that get it
    /// nowhere are told from others.
    pub progress: u64,
    /// Below a step that runs its steps for each of many: for which of them. What was stored for
    /// another one counts for nothing.
    pub parent: Option<&'a str>,
}

/// What a step does, as far as its beginning is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Work {
    /// Anything: that it begins is stored before it does.
    #[default]
    Any,
    /// It starts a command, which inherits the claim.
    Command,
    /// One transaction, in which it is noted as done: if that fails, nothing of it has happened. That
    /// it began, and that it is done, is stored with what is stored next, and within a second.
    Transaction,
}

/// A step that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Which beginning this is: 0 for the first, a larger number each time that it begins anew.
    pub generation: u64,
    /// The first is 1.
    pub attempt: u32,
    /// It had begun before and not finished.
    pub recovering: bool,
    /// When this attempt began.
    pub started_at: Timestamp,
    /// When the attempt before it began.
    pub before: Option<Timestamp>,
    /// The position that it has kept.
    pub position: Option<StoredPosition>,
}

/// How a store remembers a job.
fn record(job: &str, options: &JobOptions) -> PipelineRecord {
    PipelineRecord {
        pipeline: job.to_owned(),
        source: SOURCE.to_owned(),
        transforms: options.definition.clone().unwrap_or_else(|| "[]".to_owned()),
        sinks: SINKS.to_owned(),
        control: Control::Run,
        file: options.file.clone(),
    }
}

impl Steps {
    /// Claims the newest run of a job and reads what is stored of its steps, and whether it had
    /// finished before. A finished one is begun once more if the options say so.
    ///
    /// # Errors
    /// [`JobError::Held`] while another living process has it, or a command that it started lives;
    /// [`JobError::Mismatch`], [`JobError::OfFile`] or [`JobError::WithoutFile`] if the name belongs to
    /// something else; what the store fails with.
    pub fn open(
        store: &Arc<dyn Store>,
        name: &str,
        options: &JobOptions,
        waiting: Waiting<'_>,
    ) -> Result<(Self, bool), JobError> {
        let instance = instance(name, &options.params);
        let run = newest_number(&**store, &instance)?.unwrap_or(1);
        let steps = Self::claim(store, &numbered(&instance, run), options, waiting)?;
        let is_finished = steps.is_over(WHOLE_JOB);
        if !(is_finished && options.again) {
            return Ok((steps, is_finished));
        }
        steps.end(RunEnd::Finished)?;
        let next = numbered(&instance, run.saturating_add(1));
        let steps = Self::claim(store, &next, options, waiting)?;
        // Somebody else may have been asked for it at the same time.
        let is_finished = steps.is_over(WHOLE_JOB);
        Ok((steps, is_finished))
    }

    fn of(session: Session, rows: Rows) -> Self {
        let claim = Mutex::new(session.claim.clone());
        Self { session, claim, rows: Mutex::new(rows), most_crashes: MOST_CRASHES }
    }

    /// The steps that are known, in the order of their paths.
    pub fn all(&self) -> Vec<(String, StepState)> {
        self.rows().steps.iter().map(|(path, row)| (path.clone(), row.state.clone())).collect()
    }

    /// Claims a job and reads what is stored of its steps.
    fn claim(
        store: &Arc<dyn Store>,
        job: &str,
        options: &JobOptions,
        waiting: Waiting<'_>,
    ) -> Result<Self, JobError> {
        let sleep = |time| async move {
            Delay::new(time).await;
            (waiting.goes_on)()
        };
        // A command may be at work although its owner is silent, or dead: never two at once.
        let runs_command = async || {
            let running = |checkpoint: &Checkpoint| {
                let state = checkpoint.position.as_ref().map(StoredPosition::read::<StepState>);
                state.is_some_and(|state| state.is_ok_and(|state| state.is_running_command()))
            };
            Ok(store.load(job).await?.iter().any(running))
        };
        let of = (job, &options.cursor);
        let (on_wait, epoch) = (waiting.on_wait, Epoch(0));
        let claiming = Session::claim_while(store, of, epoch, on_wait, sleep, runs_command);
        let session = block_on(claiming)?;
        let claim = session.claim.clone();
        let opened = refuse_of_other(&**store, job, options.file.is_some())
            .and_then(|()| block_on(Self::read(session, options)));
        if opened.is_err() {
            // Nothing was done under it: nobody died.
            let _ = block_on(store.release(&claim));
        }
        opened
    }

    async fn read(mut session: Session, options: &JobOptions) -> Result<Self, JobError> {
        let Known { checkpoints, orders } =
            session.register(record(session.job(), options)).await?;
        session.applied(&orders).await?;
        let last = checkpoints.iter().max_by_key(|checkpoint| checkpoint.updated_at).cloned();
        let rows = Rows::of(session.job(), checkpoints)?;
        let is_finished =
            rows.steps.get(WHOLE_JOB).is_some_and(|whole| whole.state.stage.is_over());
        // Where nothing is left to do, none runs.
        if !is_finished || !session.has_finished().await? {
            session.begin(last.as_ref()).await?;
        }
        Ok(Self::of(session, rows))
    }

    /// The job.
    pub fn job(&self) -> &str {
        self.session.job()
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a step; `None`: it has not begun.
    pub fn state(&self, path: &str) -> Option<StepState> {
        self.rows().steps.get(path).map(|row| row.state.clone())
    }

    /// Whether a step is done, or is to be passed over.
    pub fn is_over(&self, path: &str) -> bool {
        self.rows().steps.get(path).is_some_and(|row| row.state.stage.is_over())
    }

    /// Begins a step, unless it is over. What was not stored yet is stored with it.
    ///
    /// # Errors
    /// [`JobError::Parked`] after too many crashes; [`JobError::Fenced`]; what the store fails with.
    pub fn begin(&self, path: &str, start: Start<'_>) -> Result<Beginning, JobError> {
        let mut rows = self.rows();
        let before = rows.steps.get(path).map(|row| row.state.clone());
        let before = before.filter(|before| before.parent.as_deref() == start.parent);
        if let Some(before) = before.as_ref().filter(|before| before.stage.is_over()) {
            return Ok(Beginning::Over(before.stage));
        }
        if before.is_some() && start.work == Work::Command {
            self.look_again(&mut rows, path)?;
        }
        let now = Timestamp::now();
        let progress = start.progress + before.as_ref().map_or(0, |_| rows.progress(path));
        let state = StepState::begun(before.as_ref(), start, progress, now);
        if state.crashes >= self.most_crashes {
            let (job, step) = (self.job().to_owned(), path.to_owned());
            return Err(JobError::Parked { job, step, crashes: state.crashes });
        }
        let begun = Begun {
            generation: state.generation,
            attempt: state.attempt,
            recovering: state.attempt > 1 && !before.as_ref().is_some_and(|b| b.reopened),
            started_at: now,
            before: before.and_then(|before| before.started_at),
            position: rows.kept(path, start.parent),
        };
        rows.put(path, state);
        if let Some(row) = rows.steps.get_mut(path) {
            row.is_lazy = start.work == Work::Transaction;
        }
        if start.work != Work::Transaction || rows.is_urgent || rows.written.elapsed() >= LATEST {
            self.write(&mut rows)?;
        }
        Ok(Beginning::Begun(begun))
    }

    /// Reads the position of a step again: its command keeps it from a process of its own.
    fn look_again(&self, rows: &mut Rows, path: &str) -> Result<(), JobError> {
        if let Some(found) = position::find(&*self.session.store, self.job(), path)? {
            rows.positions.insert(path.to_owned(), found);
        }
        Ok(())
    }

    /// Notes that a step and all below it is done.
    ///
    /// # Errors
    /// [`JobError::Fenced`]; what the store fails with.
    pub fn done(&self, path: &str) -> Result<(), JobError> {
        let mut rows = self.rows();
        rows.end(path, Stage::Done, None);
        self.write_soon(&mut rows, path)
    }

    /// Notes that what a step does itself is done, while something below it is not.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn body_done(&self, path: &str) -> Result<(), JobError> {
        let mut rows = self.rows();
        let Some(state) = rows.steps.get(path).map(|row| row.state.clone()) else { return Ok(()) };
        rows.put(path, StepState { body_done: true, ..state });
        self.write_soon(&mut rows, path)
    }

    /// Stores what a step has come to: at once, or, where it took no time, with what comes next.
    fn write_soon(&self, rows: &mut Rows, path: &str) -> Result<(), JobError> {
        let row = rows.steps.get(path);
        let began = row.and_then(|row| row.state.started_at);
        let took = began.map(|began| Timestamp::now().duration_since(began));
        if took.is_some_and(|took| took.unsigned_abs() < SHORT) {
            rows.is_urgent |= row.is_some_and(|row| !row.is_lazy);
            return Ok(());
        }
        self.write(rows)
    }

    /// Notes that a step failed, durably.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn failed(&self, path: &str, why: &str) -> Result<(), JobError> {
        let mut rows = self.rows();
        rows.end(path, Stage::Failed, Some(why.to_owned()));
        self.write(&mut rows)
    }

    /// Notes that a step was asked to stop: it goes on another time, and nobody died.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn stopped(&self, path: &str) -> Result<(), JobError> {
        let mut rows = self.rows();
        rows.end(path, Stage::Running, None);
        self.write(&mut rows)
    }

    /// Stores what is not stored yet.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn flush(&self) -> Result<(), JobError> {
        self.write(&mut self.rows())
    }

    /// Stores where a step stands, with all that is not stored yet. `records` were passed since the
    /// last time.
    ///
    /// # Errors
    /// [`JobError::Moved`] for a position that is below the stored one; as [`done`](Self::done).
    pub fn moved<P: Position>(&self, path: &str, to: &P, records: u64) -> Result<(), JobError> {
        let position = StoredPosition::of(to).map_err(|error| self.position(path, error))?;
        self.moved_to(path, position, order_of::<P>, records)
    }

    /// As [`moved`](Self::moved), where the position's type is not known.
    ///
    /// # Errors
    /// As [`moved`](Self::moved).
    pub fn moved_to(
        &self,
        path: &str,
        position: StoredPosition,
        order: PositionOrder,
        records: u64,
    ) -> Result<(), JobError> {
        let mut rows = self.rows();
        rows.note(path, Noted { position, order, records });
        let saved = self.write(&mut rows);
        if saved.is_err() {
            // A position that is refused is no reason to refuse what is stored later.
            rows.noted.remove(path);
        }
        saved
    }

    fn position(&self, path: &str, error: piton_core::PositionError) -> JobError {
        JobError::Position { job: self.job().to_owned(), step: path.to_owned(), error }
    }

    fn write(&self, rows: &mut Rows) -> Result<(), JobError> {
        if rows.is_stored() { Ok(()) } else { self.save(rows) }
    }

    fn save_once(&self, rows: &mut Rows) -> Result<(), JobError> {
        let mut saves = Vec::with_capacity(rows.waiting.len() + rows.noted.len());
        for path in &rows.waiting {
            if let Some(row) = rows.steps.get(path) {
                saves.push(row.save(self.job(), path).map_err(|e| self.position(path, e))?);
            }
        }
        saves.extend(rows.noted.iter().map(|(path, noted)| rows.advance(self.job(), path, noted)));
        let now = Timestamp::now();
        let store = &self.session.store;
        let claim = self.held();
        let saved = block_on(store.save(&claim, saves.clone(), now))?;
        for (save, saved) in saves.into_iter().zip(saved) {
            let Saved::Stored { version } = saved else {
                return Err(self.refused(save.key.partition, saved));
            };
            rows.stored(save, version, claim.epoch, now);
        }
        rows.waiting.clear();
        rows.noted.clear();
        rows.is_urgent = false;
        rows.written = Instant::now();
        Ok(())
    }

    fn refused(&self, step: String, saved: Saved) -> JobError {
        let job = self.job().to_owned();
        match saved {
            Saved::Fenced { epoch } => JobError::Fenced { job, epoch: epoch.0 },
            saved => JobError::Moved { job, step, saved },
        }
    }

    /// What an operator wants of the job.
    ///
    /// # Errors
    /// What the store fails with.
    pub fn control(&self) -> Result<Control, JobError> {
        Ok(block_on(self.session.store.control(self.job()))?)
    }
}

impl Rows {
    fn of(job: &str, checkpoints: Vec<Checkpoint>) -> Result<Self, JobError> {
        let mut rows = Self {
            steps: BTreeMap::new(),
            waiting: BTreeSet::new(),
            is_urgent: false,
            written: Instant::now(),
            positions: BTreeMap::new(),
            noted: BTreeMap::new(),
        };
        for checkpoint in checkpoints {
            let path = checkpoint.key.partition.clone();
            if checkpoint.key.sink != STEP {
                rows.positions.insert(path, checkpoint);
                continue;
            }
            let Some(stored) = checkpoint.position else { continue };
            let state = stored.read::<StepState>().map_err(|error| JobError::Position {
                job: job.to_owned(),
                step: path.clone(),
                error,
            })?;
            let row =
                Row { state, version: checkpoint.version, stored: Some(stored), is_lazy: false };
            rows.steps.insert(path, row);
        }
        Ok(rows)
    }

    /// What the step and those below it have come to: steps that are over, positions stored.
    fn progress(&self, path: &str) -> u64 {
        let is_below =
            |step: &str| step.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        let over =
            self.steps.iter().filter(|(step, row)| is_below(step) && row.state.stage.is_over());
        let kept = self.positions.iter().filter(|(step, _)| *step == path || is_below(step));
        over.count() as u64 + kept.map(|(_, at)| at.version).sum::<u64>()
    }

    fn put(&mut self, path: &str, state: StepState) {
        let old = self.steps.get(path);
        let (version, stored) = old.map_or((0, None), |row| (row.version, row.stored.clone()));
        let is_lazy = old.is_some_and(|row| row.is_lazy);
        self.steps.insert(path.to_owned(), Row { state, version, stored, is_lazy });
        self.waiting.insert(path.to_owned());
    }

    fn end(&mut self, path: &str, stage: Stage, why: Option<String>) {
        let now = Timestamp::now();
        let state = match self.steps.get(path) {
            Some(row) if row.state.stage != Stage::Rewound => row.state.ended(stage, why, now),
            row => {
                let before = row.map(|row| &row.state);
                StepState::begun(before, Start::default(), 0, now).ended(stage, why, now)
            }
        };
        self.put(path, state);
    }

    fn stored(&mut self, save: Save, version: u64, epoch: Epoch, now: Timestamp) {
        let path = save.key.partition.clone();
        if save.key.sink == STEP {
            if let Some(row) = self.steps.get_mut(&path) {
                (row.version, row.stored) = (version, save.position);
            }
            return;
        }
        let checkpoint = Checkpoint {
            key: save.key,
            position: save.position,
            records: save.records,
            version,
            epoch,
            schema_version: 0,
            updated_at: now,
            sink_state: None,
        };
        self.positions.insert(path, checkpoint);
    }
}

impl Row {
    fn save(&self, job: &str, path: &str) -> Result<Save, piton_core::PositionError> {
        Ok(Save {
            key: CheckpointKey::new(job, path, STEP),
            expected_version: self.version,
            expected: self.stored.clone(),
            position: Some(StoredPosition::of(&self.state)?),
            order: order_of::<StepState>,
            records: 0,
            schema_version: 0,
            sink_state: None,
            state: Vec::new(),
        })
    }
}
