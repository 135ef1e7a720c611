//! What is done to a job's checkpoints by somebody who does nothing of it: no run begins by that.

use std::sync::Arc;

use piton_core::{Epoch, Event, Store};
use pollster::block_on;

use super::{
    JobError, Rows, SOURCE, StepState, Steps, WHOLE_JOB, newest_number, numbered, record,
    refuse_of_other,
};
use crate::{job::JobOptions, options::Options, session::Session};

impl Steps {
    /// Claims a run of a job for an operator, who changes it and does nothing of it. `job` is the
    /// name under which the store has the run.
    ///
    /// # Errors
    /// [`JobError::Held`] while somebody runs it; what the store fails with.
    pub fn for_operator(store: &Arc<dyn Store>, job: &str) -> Result<Self, JobError> {
        let session = block_on(Session::claim(store, job, &Options::default(), Epoch(0)))?;
        let rows = Rows::of(job, block_on(store.load(job))?)?;
        Ok(Self::of(session, rows))
    }

    /// The same of the run in which the next step of a script or a program will be: the newest that has
    /// not finished, or one that has not begun yet.
    ///
    /// # Errors
    /// As [`for_operator`](Self::for_operator); [`JobError::OfFile`] and [`JobError::Mismatch`] if the
    /// name belongs to something else.
    pub fn for_operator_of_next(store: &Arc<dyn Store>, job: &str) -> Result<Self, JobError> {
        let newest = newest_number(&**store, job)?.unwrap_or(1);
        let mut steps = Self::for_operator(store, &numbered(job, newest))?;
        if steps.is_over(WHOLE_JOB) {
            block_on(steps.session.give_up())?;
            steps = Self::for_operator(store, &numbered(job, newest.saturating_add(1)))?;
        }
        match steps.known(store) {
            Ok(()) => Ok(steps),
            Err(error) => {
                block_on(steps.session.give_up())?;
                Err(error)
            }
        }
    }

    /// Makes the run known to the store, unless the name belongs to something else.
    fn known(&self, store: &Arc<dyn Store>) -> Result<(), JobError> {
        let job = self.job();
        refuse_of_other(&**store, job, false)?;
        let known = block_on(store.pipelines())?;
        match known.iter().find(|known| known.pipeline == job) {
            None => Ok(block_on(store.register(record(job, &JobOptions::default())))?),
            Some(known) if known.source == SOURCE => Ok(()),
            Some(_) => Err(JobError::Mismatch {
                job: job.to_owned(),
                what: "the store has something else of that name".to_owned(),
            }),
        }
    }

    /// Changes steps as an operator wants it, in one transaction, and notes who did it.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn change(&self, steps: Vec<(String, StepState)>, event: Event) -> Result<(), JobError> {
        let mut rows = self.rows();
        for (path, state) in steps {
            rows.put(&path, state);
        }
        self.write(&mut rows)?;
        Ok(block_on(self.session.store.record(event))?)
    }
}
