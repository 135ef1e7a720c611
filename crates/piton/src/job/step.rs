//! A step at work.

use std::{
    any::Any,
    collections::HashSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use piton_core::{Position, StoredPosition, interval::Interval};

use super::{Beginning, Begun, JobError, Start, Steps, heartbeat::Heartbeat, name};
use crate::{error::EffectsError, options::Options, pace::Pace};

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// It was done now.
    Now,
    /// It was done before, or an operator has skipped it.
    Before,
}

/// Where a step stands in the tree, and what all steps have.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) steps: &'a Steps,
    pub(super) options: &'a Options,
    pub(super) heartbeat: &'a Heartbeat,
    pub(super) parent: Option<&'a str>,
}

impl Place<'_> {
    /// `seen`: the names beside it, so far.
    pub(super) fn run(
        self,
        name: &str,
        seen: &mut HashSet<String>,
        body: impl FnOnce(&mut Step<'_>) -> Result<(), EffectsError>,
    ) -> Result<Ran, JobError> {
        let path = name::path_of(self.parent, name)?;
        if !seen.insert(path.clone()) {
            return Err(JobError::Twice { job: self.steps.job().to_owned(), step: path });
        }
        self.heartbeat.heed(self.steps, &|| true)?;
        let begun = match self.steps.begin(&path, Start::default())? {
            Beginning::Over(_) => return Ok(Ran::Before),
            Beginning::Begun(begun) => begun,
        };
        let attempt = begun.attempt;
        let mut step = Step::new(self, &path, begun);
        if let Err(error) = body(&mut step).and_then(|()| Ok(step.save()?)) {
            return Err(self.failed(&path, attempt, error));
        }
        self.steps.done(&path)?;
        Ok(Ran::Now)
    }

    fn failed(self, path: &str, attempt: u32, error: EffectsError) -> JobError {
        // What is not the step's own failure is handed on as it is.
        let error = match error.downcast::<JobError>() {
            Ok(error) => return *error,
            Err(error) => error,
        };
        if let Err(error) = self.steps.failed(path, &error.to_string()) {
            return error;
        }
        JobError::Step { job: self.steps.job().to_owned(), step: path.to_owned(), attempt, error }
    }
}

/// A step that was begun.
pub struct Step<'a> {
    place: Place<'a>,
    path: &'a str,
    begun: Begun,
    pace: Pace,
    /// Passed since the last save.
    records: u64,
    /// The last position that was passed.
    last: Option<Box<dyn Last>>,
    seen: HashSet<String>,
}

/// A position of a type that the step does not know.
trait Last: Any {
    fn store(&self, steps: &Steps, path: &str, records: u64) -> Result<(), JobError>;
}

impl<P: Position> Last for P {
    fn store(&self, steps: &Steps, path: &str, records: u64) -> Result<(), JobError> {
        steps.moved(path, self, records)
    }
}

impl<'a> Step<'a> {
    fn new(place: Place<'a>, path: &'a str, begun: Begun) -> Self {
        let interval = Interval::new(place.options.checkpoint.clone(), Duration::ZERO, 0);
        // Renewing is the heartbeat's.
        let pace = Pace::new(interval, Duration::MAX);
        Self { place, path, begun, pace, records: 0, last: None, seen: HashSet::new() }
    }

    /// Whether it had begun before and not finished: whatever that left behind is still there.
    pub fn recovering(&self) -> bool {
        self.begun.recovering
    }

    /// How often it was begun; the first time is 1.
    pub fn attempt(&self) -> u32 {
        self.begun.attempt
    }

    /// When this attempt began.
    pub fn started_at(&self) -> Timestamp {
        self.begun.started_at
    }

    /// Its path in the tree: `customer/invoice`.
    pub fn path(&self) -> &str {
        self.path
    }

    /// Calls `recover` if the step is [`recovering`](Self::recovering). Once for each recovery, and
    /// again when the process dies before the step is done.
    ///
    /// # Errors
    /// What `recover` fails with.
    pub fn on_recover(
        &mut self,
        recover: impl FnOnce() -> Result<(), EffectsError>,
    ) -> Result<(), EffectsError> {
        if self.begun.recovering { recover() } else { Ok(()) }
    }

    /// The last position that earlier attempts have stored; `None`: begin at the start.
    ///
    /// # Errors
    /// [`JobError::Position`] if another kind of position is stored.
    pub fn position<P: Position>(&self) -> Result<Option<P>, JobError> {
        let read = self.begun.position.as_ref().map(StoredPosition::read::<P>).transpose();
        read.map_err(|error| JobError::Position {
            job: self.place.steps.job().to_owned(),
            step: self.path.to_owned(),
            error,
        })
    }

    /// Notes that everything up to `position` is done and durable. Stored at an interval that tunes
    /// itself, and when the step ends.
    ///
    /// # Errors
    /// [`JobError::Fenced`], [`JobError::Cancelled`]: end the step with it. What the store fails
    /// with.
    pub fn passed<P: Position>(&mut self, position: &P) -> Result<(), JobError> {
        self.records += 1;
        match self.last.as_deref_mut().and_then(|last| (last as &mut dyn Any).downcast_mut::<P>()) {
            Some(last) => last.clone_from(position),
            None => self.last = Some(Box::new(position.clone())),
        }
        if !self.pace.is_time(self.records) {
            return Ok(());
        }
        self.place.heartbeat.heed(self.place.steps, &|| true)?;
        let began = Instant::now();
        self.save()?;
        self.pace.saved(began.elapsed());
        Ok(())
    }

    fn save(&mut self) -> Result<(), JobError> {
        if let Some(last) = self.last.as_ref().filter(|_| self.records > 0) {
            last.store(self.place.steps, self.path, self.records)?;
            self.records = 0;
        }
        Ok(())
    }

    /// Does a step of this step, unless it is done.
    ///
    /// # Errors
    /// As [`Job::step`](super::Job::step).
    pub fn step(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Step<'_>) -> Result<(), EffectsError>,
    ) -> Result<Ran, JobError> {
        // What was passed before it is done before it.
        self.save()?;
        let place = Place { parent: Some(self.path), ..self.place };
        place.run(name, &mut self.seen, body)
    }
}
