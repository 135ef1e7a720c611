//! What tells a run of a job from any other, in this store or in another one.

use std::hash::{BuildHasher as _, RandomState};

use super::{JobError, StepState, Steps, WHOLE_JOB};

impl Steps {
    /// What tells this run from any other, 16 hexadecimal digits at random. It is drawn when it is
    /// first asked for, and stored before it is returned; the run keeps it when it begins anew. So
    /// what is recorded elsewhere with it is of this run, and the store knows of it.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn identity(&self) -> Result<String, JobError> {
        let mut rows = self.rows();
        let whole = rows.steps.get(WHOLE_JOB).map(|row| row.state.clone());
        if let Some(run) = whole.as_ref().and_then(|state| state.run.clone()) {
            return Ok(run);
        }
        // Each is seeded at random.
        let run = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let state = match whole {
            Some(state) => StepState { run: Some(run.clone()), ..state },
            None => StepState::named(run.clone()),
        };
        rows.put(WHOLE_JOB, state);
        self.write(&mut rows)?;
        Ok(run)
    }
}
