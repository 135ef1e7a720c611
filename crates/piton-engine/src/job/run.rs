//! One run of a job, from claim to release.
//!
//! The tree is walked in its order. What a step does itself is in `body/`; what every step has
//! (recovering, retries, its checkpoint) in `stepping.rs`; which may run beside each other in
//! `walk.rs`.

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton::job::{self, Heartbeat, JobError, Steps, WHOLE_JOB};
use piton_core::{Control, Holder, RunEnd, Store};

use super::{
    body,
    changed::{self, Change},
    definition::{Instance, Job, OnJobComplete, Step},
    foreseen, orphan,
    walk::{OnDrop, Permits, Went},
};
use crate::{
    config::WhenHeld,
    run::{RunError, RunOptions, Signal, event},
    wording::span,
};

/// How often an operator's wish and the end of the time are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How late it is stored, at most, that a short step is done.
const FLUSH: Duration = Duration::from_secs(1);

/// How long a job whose command is at work may be held before that is told: a server takes a moment
/// to notice that a process, and with it its session, has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a step has failed whose time is over.
fn too_long(most: Duration) -> RunError {
    let most = span(most.as_secs_f64());
    RunError::Failed(format!("it took longer than its timeout of {most}"))
}

/// What happens to a step, for whoever watches.
#[derive(Debug, Clone, PartialEq)]
pub enum Happened {
    /// It begins, for the so-manieth time.
    Began {
        /// The first is 1.
        attempt: u32,
        /// It had begun before and not finished.
        recovering: bool,
    },
    /// It and all below it is done.
    Done {
        /// How long it took.
        took: Duration,
        /// Records that it moved, if it moves records.
        records: Option<u64>,
    },
    /// It was done before.
    WasDone,
    /// An operator, or its `when`, passes it over.
    PassedOver,
    /// It failed, and is tried again after a pause.
    Retries {
        /// Why.
        why: String,
        /// After how long.
        pause: Duration,
    },
    /// It failed for good.
    Failed {
        /// Why.
        why: String,
    },
}

/// Told of each thing that happens, with the step's path.
pub type Watch<'a> = dyn Fn(&str, &Happened) + Sync + 'a;

/// How a job's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSummary {
    /// The name under which the store has the run.
    pub instance: String,
    /// Whether all is done; otherwise it was asked to stop, and goes on another time.
    pub is_finished: bool,
    /// Whether it had finished before.
    pub was_finished: bool,
    /// Steps that were done now.
    pub done: u64,
    /// Steps that were done before.
    pub were_done: u64,
    /// How long it took.
    pub took: Duration,
}

/// What every step of a run works with.
pub(super) struct Course<'a> {
    pub(super) job: &'a Job,
    pub(super) instance: &'a Instance,
    pub(super) store: &'a Arc<dyn Store>,
    pub(super) options: &'a RunOptions,
    /// That of the whole job.
    pub(super) signal: &'a Signal,
    pub(super) watch: &'a Watch<'a>,
    pub(super) steps: Arc<Steps>,
    pub(super) heartbeat: Heartbeat,
    pub(super) permits: Permits,
    pub(super) databases: body::Databases,
    /// Signals of what is at work now.
    at_work: Mutex<Vec<AtWork>>,
    /// Of what is at work with all below it.
    deadlines: Mutex<Vec<Deadline>>,
    /// It took longer than the job may.
    is_late: AtomicBool,
    counts: Mutex<(u64, u64)>,
    /// Steps that have failed for good, in that order.
    failures: Mutex<Vec<Failure>>,
    /// After a failure no further step is begun.
    has_failed: AtomicBool,
    /// When this run began.
    pub(super) began: Timestamp,
}

/// What is at work, and until when it may be.
struct AtWork {
    path: String,
    signal: Arc<Signal>,
    until: Option<Instant>,
}

/// A step that has failed for good.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) path: String,
    pub(super) why: String,
}

/// Until when a step and all below it may be at work.
struct Deadline {
    path: String,
    until: Instant,
}

impl Deadline {
    fn is_over_for(&self, path: &str) -> bool {
        let below = path.strip_prefix(&self.path);
        let is_meant = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_meant && Instant::now() >= self.until
    }
}

/// Runs a job, or resumes it.
///
/// # Errors
/// [`RunError`], each with its exit code. What is done stays done, and the same call resumes.
pub fn run(
    job: &Job,
    instance: &Instance,
    store: &Arc<dyn Store>,
    options: &RunOptions,
    signal: &Signal,
    watch: &Watch<'_>,
) -> Result<JobSummary, RunError> {
    let began = Instant::now();
    foreseen::check(job, instance)?;
    if let Some(change) = changed::compare(job, instance, &**store, options)?
        && !change.new.is_empty()
    {
        reopen(job, instance, store, options, signal, &change)?;
    }
    let now = &*job.definition.json;
    let deletes = job.on_complete == OnJobComplete::Delete;
    let begins_anew = options.again && !deletes;
    let (mut steps, mut was_finished) =
        open(job, instance, store, (options, begins_anew), now, signal)?;
    if was_finished && deletes {
        // Whoever finished it may have been killed before all was removed.
        let course = Course::new(job, instance, store, options, signal, (watch, steps));
        let removed = body::remove(&course);
        course.give_up(RunEnd::Finished)?;
        removed?;
        (steps, was_finished) = open(job, instance, store, (options, true), now, signal)?;
    }
    let name = steps.job().to_owned();
    if was_finished {
        steps.end(RunEnd::Finished).map_err(of_job)?;
        return Ok(summary(name, (true, true), (0, 0), began.elapsed()));
    }
    heed_cancel(&name, store, options)?;
    if !options.accept_age {
        super::age::refuse_old(job, &name, &**store)?;
    }
    let course = Course::new(job, instance, store, options, signal, (watch, steps));
    let went = course.walk();
    let counts = *course.counts();
    let is_finished = course.end(went)?;
    Ok(summary(name, (is_finished, false), counts, began.elapsed()))
}

fn summary(
    instance: String,
    (is_finished, was_finished): (bool, bool),
    (done, were_done): (u64, u64),
    took: Duration,
) -> JobSummary {
    JobSummary { instance, is_finished, was_finished, done, were_done, took }
}

/// Claims the newest run as it is, under the definition that it began with, and has what is done above
/// new steps go on with them. If this is not stored, the next run finds the same difference.
fn reopen(
    job: &Job,
    instance: &Instance,
    store: &Arc<dyn Store>,
    options: &RunOptions,
    signal: &Signal,
    change: &Change,
) -> Result<(), RunError> {
    let (steps, _) = open(job, instance, store, (options, false), &change.before, signal)?;
    let states = changed::reopened(job, &change.new, &|path| steps.state(path));
    let changed =
        if states.is_empty() { Ok(()) } else { steps.change(states, change.event(options)) };
    steps.end(RunEnd::Stopped).and(changed).map_err(of_job)
}

fn open(
    job: &Job,
    instance: &Instance,
    store: &Arc<dyn Store>,
    (options, again): (&RunOptions, bool),
    definition: &str,
    signal: &Signal,
) -> Result<(Steps, bool), RunError> {
    let when_held = match job.claim.when_held {
        WhenHeld::Wait => piton::WhenHeld::Wait,
        WhenHeld::Exit => piton::WhenHeld::ReplaceSilent,
    };
    let (asked, run) = (Instant::now(), job::newest(&**store, &instance.name)?);
    // While a command is at work, its owner is not replaced, and there is nothing to wait for.
    let is_at_work = || {
        let at_work = run.as_ref().map(|run| orphan::has_command(&**store, run));
        at_work.is_some_and(|at_work| at_work.unwrap_or(false))
    };
    let exits = job.claim.when_held == WhenHeld::Exit;
    let told = Cell::new(None);
    let on_wait = |holder: &Holder| {
        if told.replace(Some(holder.epoch)) == Some(holder.epoch) {
            return;
        }
        let left = run.as_ref().map(|run| orphan::left_by(&**store, run, holder));
        match left.and_then(|left| left.ok().flatten()) {
            None => (options.on_wait)(holder),
            Some(left) if !exits => (options.on_notice)(&format!("{left}: waiting for that")),
            // It is said at the end.
            Some(_) => {}
        }
    };
    let is_in_vain = || exits && asked.elapsed() >= PATIENCE && is_at_work();
    let goes_on = || !signal.is_stopping() && !is_in_vain();
    let waiting = job::Waiting { on_wait: &on_wait, goes_on: &goes_on };
    let options = job::JobOptions {
        again,
        cursor: piton::Options {
            lease: job.claim.lease,
            when_held,
            checkpoint: job.checkpoint.clone(),
            ..Default::default()
        },
        definition: Some(definition.to_owned()),
        file: Some(job.file.display().to_string()),
        ..Default::default()
    };
    loop {
        match Steps::open(store, &instance.name, &options, waiting).map_err(of_job) {
            // What became of it is read by the next claim.
            Err(RunError::InDoubt(_)) if !signal.is_stopping() => {}
            Err(RunError::Held { pipeline, holder }) => {
                let left = orphan::left_by(&**store, &pipeline, &holder)?;
                return Err(left.map_or(RunError::Held { pipeline, holder }, RunError::Locked));
            }
            opened => return opened,
        }
    }
}

/// A cancelled job goes on with `--again`.
fn heed_cancel(name: &str, store: &Arc<dyn Store>, options: &RunOptions) -> Result<(), RunError> {
    if block_on(store.control(name))? != Control::Cancel {
        return Ok(());
    }
    if !options.again {
        return Err(cancelled(name));
    }
    let event = event(name, options, "again", "runs again after it was cancelled");
    Ok(block_on(store.set_control(name, Control::Run, event))?)
}

pub(super) fn cancelled(name: &str) -> RunError {
    RunError::Refused(format!(
        "'{name}' was cancelled by an operator (see `piton history {name}`): run with --again to \
         go on from its checkpoints"
    ))
}

/// How many steps a step is, with those below it.
pub(super) fn all_of(step: &Step) -> u64 {
    1 + step.steps.iter().map(all_of).sum::<u64>()
}

/// What a job's error means for the run.
pub(super) fn of_job(error: JobError) -> RunError {
    match error {
        JobError::Store(error) => error.into(),
        JobError::Held { job, holder } => RunError::Held { pipeline: job, holder },
        JobError::Fenced { job, epoch } => {
            RunError::Fenced { pipeline: job, what: format!("epoch {epoch}") }
        }
        JobError::Name { .. } | JobError::Twice { .. } => RunError::Settings(error.to_string()),
        error => RunError::Refused(error.to_string()),
    }
}

impl<'a> Course<'a> {
    fn new(
        job: &'a Job,
        instance: &'a Instance,
        store: &'a Arc<dyn Store>,
        options: &'a RunOptions,
        signal: &'a Signal,
        (watch, steps): (&'a Watch<'a>, Steps),
    ) -> Self {
        let steps = Arc::new(steps);
        Self {
            job,
            instance,
            store,
            options,
            signal,
            watch,
            heartbeat: Heartbeat::start(&steps, job.claim.lease),
            steps,
            permits: Permits::new(job.parallel),
            databases: body::Databases::default(),
            at_work: Mutex::default(),
            deadlines: Mutex::default(),
            is_late: AtomicBool::new(false),
            counts: Mutex::default(),
            failures: Mutex::default(),
            has_failed: AtomicBool::new(false),
            began: Timestamp::now(),
        }
    }

    /// Notes how the run ended, and gives the claim up.
    fn give_up(self, end: RunEnd) -> Result<(), RunError> {
        self.heartbeat.end();
        let ended = match Arc::try_unwrap(self.steps) {
            Ok(steps) => steps.end(end),
            // The thread that had the other is over.
            Err(steps) => steps.flush(),
        };
        ended.map_err(of_job)
    }
}

impl Course<'_> {
    /// Walks the tree, with a thread beside it that hears what an operator wants.
    fn walk(&self) -> Result<Went, RunError> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| self.listen(&done));
            // A panic ends it, too.
            let _done = OnDrop(|| done.store(true, Ordering::Relaxed));
            self.level(&self.job.steps, &super::stepping::Scope::of(self.instance))
        })
    }

    fn listen(&self, done: &AtomicBool) {
        let began = Instant::now();
        let mut flushed = Instant::now();
        while !done.load(Ordering::Relaxed) {
            let is_late = self.job.timeout.is_some_and(|most| began.elapsed() >= most);
            if is_late && !self.signal.is_stopping() {
                self.is_late.store(true, Ordering::Relaxed);
            }
            if flushed.elapsed() >= FLUSH {
                flushed = Instant::now();
                // If it cannot be stored now, whoever stores next finds out.
                let _ = self.steps.flush();
            }
            match self.heartbeat.wish(self.steps.job()) {
                Err(JobError::Fenced { epoch, .. }) => {
                    self.each(|signal| signal.fence(format!("epoch {epoch}")));
                }
                Err(_) => self.each(Signal::cancel),
                Ok(_) if self.signal.is_stopping() || is_late => self.each(Signal::stop),
                Ok(wish) => self.each(|signal| signal.set_paused(wish == Control::Pause)),
            }
            let now = Instant::now();
            let late = |work: &&AtWork| {
                work.until.is_some_and(|until| now >= until) || self.is_overdue(&work.path)
            };
            self.at_work().iter().filter(late).for_each(|work| work.signal.stop());
            thread::sleep(LOOK);
        }
    }

    pub(super) fn each(&self, tell: impl Fn(&Signal)) {
        tell(self.signal);
        self.at_work().iter().for_each(|work| tell(&work.signal));
    }

    fn at_work(&self) -> MutexGuard<'_, Vec<AtWork>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a signal of its own, which hears what the job's does.
    /// It is stopped when the step's time is over, which is an error.
    pub(super) fn with_signal<T>(
        &self,
        step: &Step,
        work: impl FnOnce(&Arc<Signal>) -> T,
    ) -> Result<T, RunError> {
        let signal = Arc::new(Signal::default());
        let until = step.timeout.map(|most| Instant::now() + most);
        let path = step.path.clone();
        self.at_work().push(AtWork { path, signal: Arc::clone(&signal), until });
        let done = work(&signal);
        self.at_work().retain(|other| !Arc::ptr_eq(&other.signal, &signal));
        match step.timeout.filter(|_| until.is_some_and(|until| Instant::now() >= until)) {
            Some(most) if signal.is_stopping() => Err(too_long(most)),
            _ => Ok(done),
        }
    }

    fn deadlines(&self) -> MutexGuard<'_, Vec<Deadline>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_overdue(&self, path: &str) -> bool {
        self.deadlines().iter().any(|deadline| deadline.is_over_for(path))
    }

    /// Whether a step is to stop: the run is, or the time of a step above it is over.
    pub(super) fn stops(&self, path: &str) -> bool {
        self.signal.is_stopping() || self.is_overdue(path)
    }

    /// Sleeps before a step is tried again. True when the whole time has passed.
    pub(super) fn sleep(&self, path: &str, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.signal.sleep(left.min(LOOK)) || self.stops(path) {
                return left.is_zero();
            }
        }
    }

    /// Does all that is below a step, for as long as the step may take. Then what is at work is
    /// stopped, which is an error.
    pub(super) fn in_time<T>(
        &self,
        step: &Step,
        work: impl FnOnce() -> Result<(Went, T), RunError>,
    ) -> Result<(Went, T), RunError> {
        let Some(most) = step.timeout else { return work() };
        let (path, until) = (step.path.clone(), Instant::now() + most);
        self.deadlines().push(Deadline { path, until });
        let _gone = OnDrop(|| self.deadlines().retain(|other| other.path != step.path));
        let went = work();
        let is_over = Instant::now() >= until && !self.signal.is_stopping();
        match went {
            // What was stopped may say so by an error.
            Ok((Went::Stopped, _)) | Err(RunError::Failed(_)) if is_over => Err(too_long(most)),
            went => went,
        }
    }

    /// The name by which a command speaks of the job.
    pub(super) fn job_name(&self) -> &str {
        &self.job.name
    }

    /// The store, as a command that runs elsewhere finds it.
    pub(super) fn store_url(&self) -> String {
        match self.job.store.strip_prefix("sqlite:") {
            Some(path) => format!("sqlite:{}", self.job.dir.join(path).display()),
            None => self.job.store.clone(),
        }
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, (u64, u64)> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has no further step begin.
    pub(super) fn begin_no_more(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn begins_no_more(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    pub(super) fn failures(&self) -> MutexGuard<'_, Vec<Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, path: &str, happened: &Happened) {
        (self.watch)(path, happened);
    }

    /// Notes how the run ended, does what is to be done then, and gives the claim up.
    fn end(self, went: Result<Went, RunError>) -> Result<bool, RunError> {
        let went = match went {
            Ok(Went::Stopped) if self.is_late.load(Ordering::Relaxed) => {
                let most = self.job.timeout.unwrap_or_default();
                Err(RunError::Failed(format!(
                    "'{}' took longer than its timeout of {}: it goes on where it stands when it \
                     is run again",
                    self.steps.job(),
                    span(most.as_secs_f64())
                )))
            }
            went => went,
        };
        let followed = self.follow_up(&went);
        let end = match (&went, &followed) {
            (Ok(Went::Done), Ok(())) => RunEnd::Finished,
            (Err(RunError::Fenced { .. }), _) => RunEnd::Fenced,
            (Ok(Went::Stopped), _) if self.signal.is_cancelled() => RunEnd::Cancelled,
            (Ok(Went::Stopped), _) => RunEnd::Stopped,
            _ => RunEnd::Failed,
        };
        if end == RunEnd::Finished {
            self.finish()?;
        }
        let job = self.steps.job().to_owned();
        let signal = self.signal;
        let ended = self.give_up(end);
        // What went wrong first is the news.
        let went = went?;
        followed?;
        ended?;
        match signal.fenced() {
            Some(what) => Err(RunError::Fenced { pipeline: job, what }),
            None => Ok(went == Went::Done),
        }
    }

    /// Notes that all is done, and removes what is not to be kept then.
    fn finish(&self) -> Result<(), RunError> {
        self.steps.done(WHOLE_JOB).map_err(of_job)?;
        if self.job.on_complete != OnJobComplete::Delete {
            return Ok(());
        }
        self.steps.flush().map_err(of_job)?;
        let job = self.steps.job();
        (self.options.on_notice)(&match body::remove(self) {
            Ok(()) => format!("'{job}' has finished: its checkpoints are removed"),
            Err(error) => format!(
                "'{job}' has finished, but not all of its checkpoints could be removed, which the \
                 next run tries again: {error}"
            ),
        });
        Ok(())
    }
}
