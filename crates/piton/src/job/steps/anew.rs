//! Going on after the connection to the store was lost while something was stored.
//!
//! Whether it was stored is not guessed: a new claim fences what may still be under way, and what
//! the store holds is read then. Steps that are at work do not notice.

use std::{sync::PoisonError, time::Instant};

use jiff::Timestamp;
use piton_core::{
    Checkpoint, Claim, ClaimAnswer, ClaimRequest, Epoch, Saved, StoreError, StoredPosition,
    claim::WHOLE,
};
use pollster::block_on;

use super::{Rows, Steps};
use crate::job::JobError;

/// Whether an error says that nothing more may be done under the present claim.
fn is_in_doubt(error: &JobError) -> bool {
    matches!(error, JobError::Store(StoreError::InDoubt { lost: true, .. }))
}

impl Steps {
    /// Shows others that this owner lives.
    ///
    /// # Errors
    /// [`JobError::Fenced`] when a newer owner has taken over; what the store fails with.
    pub fn renew(&self) -> Result<(), JobError> {
        let claim = self.held();
        let renewed = block_on(self.session.store.renew(&claim));
        let in_doubt = matches!(renewed, Err(StoreError::InDoubt { lost: true, .. }));
        let mut rows = in_doubt.then(|| self.rows());
        if self.held().epoch != claim.epoch {
            // This process has a newer one by now.
            return Ok(());
        }
        match (renewed, &mut rows) {
            (_, Some(rows)) => self.claim_anew(rows, Epoch(0)),
            (Ok(Saved::Fenced { epoch }), _) => Err(self.fenced(epoch)),
            (renewed, _) => Ok(renewed.map(|_| ())?),
        }
    }

    /// Claims anew what this process holds, with an epoch that is above one that was found
    /// elsewhere.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    pub fn claim_above(&self, epoch: Epoch) -> Result<(), JobError> {
        let mut rows = self.rows();
        if self.held().epoch > epoch { Ok(()) } else { self.claim_anew(&mut rows, epoch) }
    }

    /// The claim: a command that a step starts inherits its lock.
    pub fn held(&self) -> Claim {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores what is not stored yet. Where the connection to the store is lost over it, under a new
    /// claim.
    pub(super) fn save(&self, rows: &mut Rows) -> Result<(), JobError> {
        while !rows.is_stored() {
            match self.save_once(rows) {
                Err(error) if is_in_doubt(&error) => self.claim_anew(rows, Epoch(0))?,
                saved => return saved,
            }
        }
        Ok(())
    }

    /// Claims anew what this process holds, and compares what is known with what is stored.
    ///
    /// # Errors
    /// [`JobError::Fenced`] when somebody else has had it meanwhile; what the store fails with.
    fn claim_anew(&self, rows: &mut Rows, above: Epoch) -> Result<(), JobError> {
        let mut held = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        let new = self.replace(&held, above)?;
        match self.look(&held) {
            Ok(stored) => {
                // Commands that are at work hold the new one, too.
                #[cfg(unix)]
                piton_stores::pass_on(&held, &new);
                *held = new;
                rows.compare(self.job(), stored)
            }
            Err(error) => {
                let _ = block_on(self.session.store.release(&new));
                Err(error)
            }
        }
    }

    /// Replaces the claim of this process by a newer one, without giving it up in between.
    fn replace(&self, held: &Claim, above: Epoch) -> Result<Claim, JobError> {
        let mut request = ClaimRequest {
            pipeline: self.job().to_owned(),
            partition: WHOLE.to_owned(),
            owner: piton_stores::this_process(),
            lease: held.lease,
            at_least: Epoch(above.0.saturating_add(1)),
            silent: None,
            now: Timestamp::now(),
        };
        loop {
            match block_on(self.session.store.claim(request.clone())) {
                Ok(ClaimAnswer::Granted { claim, .. }) => return Ok(claim),
                Ok(ClaimAnswer::Held(holder)) if holder.epoch == held.epoch => {
                    request.silent = Some(holder);
                }
                Ok(ClaimAnswer::Held(holder)) => return Err(self.fenced(holder.epoch)),
                Err(StoreError::InDoubt { lost: true, .. }) => request.silent = None,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is stored, unless it is somebody else's.
    fn look(&self, held: &Claim) -> Result<Vec<Checkpoint>, JobError> {
        let store = &self.session.store;
        let stored = block_on(store.load(self.job()))?;
        let runs = block_on(store.runs(self.job(), 1))?;
        let epochs = stored.iter().map(|checkpoint| checkpoint.epoch);
        match epochs.chain(runs.iter().map(|run| run.epoch)).max() {
            Some(newest) if newest > held.epoch => Err(self.fenced(newest)),
            _ => Ok(stored),
        }
    }

    fn fenced(&self, Epoch(epoch): Epoch) -> JobError {
        JobError::Fenced { job: self.job().to_owned(), epoch }
    }
}

impl Rows {
    /// Takes over what is stored: what a save in doubt has brought about need not be saved again.
    fn compare(&mut self, job: &str, stored: Vec<Checkpoint>) -> Result<(), JobError> {
        let stored = Self::of(job, stored)?;
        for (path, row) in stored.steps {
            let Some(mine) = self.steps.get_mut(&path) else { continue };
            let wanted = StoredPosition::of(&mine.state).ok();
            (mine.version, mine.stored) = (row.version, row.stored);
            if mine.stored == wanted {
                self.waiting.remove(&path);
            }
        }
        self.positions = stored.positions;
        let positions = &self.positions;
        self.noted.retain(|path, noted| {
            let stored = positions.get(path).and_then(|at| at.position.as_ref());
            stored != Some(&noted.position)
        });
        self.written = Instant::now();
        Ok(())
    }
}
