//! One checkpoint among many that workers of one claim write beside each other.
//!
//! A [`Ledger`](super::ledger::Ledger) knows all rows of a pipeline's sink, and whoever has it is
//! the only writer. The steps of a job are many rows, written by several workers of one claim in
//! transactions of their own. So a mark is written without knowing the other rows: under the lock
//! of the manifest, its own row and the manifest are read, and both are written. What is read is
//! verified as far as it goes; the whole is verified when a claim takes over.

use piton_core::{Checkpoint, Epoch, fault};

use super::ledger::{Judged, LedgerError, StoredManifest};

/// The manifest of a pipeline's sink and one of its rows, read at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub(super) manifest: Option<StoredManifest>,
    /// The row, if there is one.
    pub row: Option<Checkpoint>,
}

impl Standing {
    /// Verifies what was read.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`].
    pub(super) fn verified<E>(
        manifest: Option<StoredManifest>,
        row: Option<Judged>,
    ) -> Result<Self, LedgerError<E>> {
        let damaged = |what: String| LedgerError::Damaged { what };
        let Some((row, checksum)) = row.transpose().map_err(damaged)? else {
            return Ok(Self { manifest, row: None });
        };
        let epoch = manifest.as_ref().map(|stored| stored.epoch);
        if row.checksum() != checksum || epoch != Some(row.epoch) {
            let partition = &row.key.partition;
            return Err(damaged(format!("the row of partition '{partition}' was altered")));
        }
        Ok(Self { manifest, row: Some(row) })
    }

    /// The newest claim that has taken over; 0 if none has.
    pub fn epoch(&self) -> Epoch {
        self.manifest.as_ref().map_or(Epoch(0), |stored| stored.epoch)
    }

    /// Refuses to go on where the claim of this epoch is not the one that took over last.
    ///
    /// # Errors
    /// [`LedgerError::Fenced`]; [`LedgerError::Altered`] where what that claim wrote is gone.
    pub fn admit<E>(&self, epoch: Epoch) -> Result<(), LedgerError<E>> {
        if fault::known_bad("ignore_epoch") {
            return Ok(());
        }
        match &self.manifest {
            Some(stored) if stored.epoch > epoch => {
                Err(LedgerError::Fenced { epoch: stored.epoch })
            }
            Some(stored) if stored.epoch == epoch => Ok(()),
            _ => Err(LedgerError::Altered),
        }
    }

    /// The manifest once a new row stands where this one stood.
    pub(super) fn with(&self, new: &Checkpoint) -> StoredManifest {
        let stored = self.manifest.unwrap_or_default();
        let manifest = match &self.row {
            Some(old) => stored.manifest.replacing(old.checksum(), new.checksum()),
            None => stored.manifest.with(new.checksum()),
        };
        StoredManifest { manifest, ..stored }
    }
}
