//! How a run ends, and what its history says of it.

use jiff::Timestamp;
use piton_core::RunEnd;
use pollster::block_on;

use super::{JobError, Rows, Stage, StepState, Steps, WHOLE_JOB};

impl Steps {
    /// Stores what is not stored yet, ends the run in the store's history, with the steps that were done
    /// in it and why it failed, and gives the claim up.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn end(self, end: RunEnd) -> Result<(), JobError> {
        self.flush()?;
        let began = self.session.began();
        let done = began.map_or(0, |began| self.rows().done_since(began));
        let why = began.filter(|_| end == RunEnd::Failed);
        let why = why.and_then(|began| self.rows().failed_since(began));
        let claim = self.held();
        let mut session = self.session;
        session.claim = claim;
        if let Some(why) = why {
            session.note_error(why);
        }
        Ok(block_on(session.end(end, done))?)
    }
}

impl Rows {
    /// The steps that have come to an end like that.
    fn ended(&self, stage: Stage, since: Timestamp) -> impl Iterator<Item = (&str, &StepState)> {
        let steps = self.steps.iter().map(|(path, row)| (&**path, &row.state));
        steps.filter(move |(path, state)| {
            let is_new = state.ended_at.is_some_and(|at| at >= since);
            *path != WHOLE_JOB && state.stage == stage && is_new
        })
    }

    fn done_since(&self, began: Timestamp) -> u64 {
        self.ended(Stage::Done, began).count() as u64
    }

    /// The step that failed first, and why. What is above it failed with it.
    fn failed_since(&self, began: Timestamp) -> Option<String> {
        let is_above = |above: &str, path: &str| {
            path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
        };
        let lowest = self.ended(Stage::Failed, began).filter(|(path, _)| {
            !self.ended(Stage::Failed, began).any(|(other, _)| is_above(path, other))
        });
        let (path, state) = lowest.min_by_key(|(_, state)| state.ended_at)?;
        let why = state.why.as_deref().unwrap_or("it failed");
        Some(format!("step '{path}': {why}"))
    }
}
