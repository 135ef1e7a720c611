//! The checkpoints that a database holds: `piton_checkpoints` and its manifest.
//!
//! Every row carries a checksum over its columns, and `piton_manifest` has the count and combined
//! checksum of the rows of one pipeline's sink, written in the same transaction. A row that was
//! altered, lost or slipped in is found before anything is decided by it. The manifest also keeps
//! the newest epoch, so that it outlives the rows: an owner that slept finds that it was replaced
//! even after its heir has finished and removed them.
//!
//! What is read and written, and what that means, is decided here; each database's module beside
//! this one does the reading and writing.

use std::collections::BTreeMap;

use piton_core::{
    Checkpoint, Epoch,
    checksum::{Checksum, Manifest},
    claim::WHOLE,
    fault,
};

/// The format of these tables. A newer one is refused.
const FORMAT: u64 = 1;

/// Why the checkpoints of a database could not be used. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError<E> {
    /// The database failed.
    #[error(transparent)]
    Database(E),
    /// They cannot be trusted.
    #[error("the checkpoints are damaged: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// A newer Piton wrote them.
    #[error("the checkpoints have format {found}, this program knows up to {known}")]
    Newer {
        /// The format found.
        found: u64,
        /// The newest known.
        known: u64,
    },
    /// A newer claim has taken over.
    #[error("a newer claim (epoch {epoch}) has taken over")]
    Fenced {
        /// The newer epoch.
        epoch: Epoch,
    },
    /// They are not what this owner left: another hand changed or removed them.
    #[error("the checkpoints were changed or removed by another hand")]
    Altered,
    /// A rewind was ordered where there is state beside the position, of which only the present
    /// value is kept.
    #[error("going back would leave the state ahead of the position")]
    HasState,
}

impl<E> LedgerError<E> {
    /// The statements by which a person removes what is damaged, to begin anew.
    pub fn removal(pipeline: &str) -> String {
        let name = pipeline.replace('\'', "''");
        format!(
            "DELETE FROM piton_checkpoints WHERE pipeline = '{name}'; \
             DELETE FROM piton_manifest WHERE pipeline = '{name}'"
        )
    }
}

/// What a database's manifest says of one pipeline's sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoredManifest {
    /// The count and combined checksum of the rows.
    pub manifest: Manifest,
    /// The newest epoch that has ever written.
    pub epoch: Epoch,
    /// The format of the tables.
    pub format: u64,
}

/// A row as it was read with its checksum, or what is wrong with it.
pub type Judged = Result<(Checkpoint, Checksum), String>;

/// A checkpoint to write.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What must stand there; without it, anything or nothing may.
    pub old: Option<&'a Checkpoint>,
    /// What is to stand there.
    pub new: &'a Checkpoint,
}

/// The checkpoints of one pipeline's sink, as they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// The pipeline's name.
    pub pipeline: String,
    /// The sink's name.
    pub sink: String,
    /// The newest epoch that has ever written here.
    pub epoch: Epoch,
    /// By partition.
    pub rows: BTreeMap<String, Checkpoint>,
    manifest: Manifest,
}

impl Ledger {
    /// No checkpoints yet.
    pub fn empty(pipeline: &str, sink: &str) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            sink: sink.to_owned(),
            epoch: Epoch(0),
            rows: BTreeMap::new(),
            manifest: Manifest::default(),
        }
    }

    /// Whether the two tables are there, as far as each is.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] when only one is.
    pub fn are_there<E>(checkpoints: bool, manifest: bool) -> Result<bool, LedgerError<E>> {
        if checkpoints == manifest {
            return Ok(checkpoints);
        }
        Err(LedgerError::Damaged { what: "one of their two tables is missing".into() })
    }

    /// Verifies what a database holds of one pipeline's sink: its manifest and all of its rows,
    /// read at one moment.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`], [`LedgerError::Newer`].
    pub fn verified<E>(
        pipeline: &str,
        sink: &str,
        manifest: Option<StoredManifest>,
        rows: Vec<Judged>,
    ) -> Result<Self, LedgerError<E>> {
        let mut ledger = Self::empty(pipeline, sink);
        let damaged = |what: String| LedgerError::Damaged { what };
        if let Some(found) = manifest.as_ref().map(|m| m.format).filter(|f| *f > FORMAT) {
            return Err(LedgerError::Newer { found, known: FORMAT });
        }
        let stored = manifest.unwrap_or_default();
        let mut found = Manifest::default();
        for row in rows {
            let (checkpoint, checksum) = row.map_err(damaged)?;
            let partition = &checkpoint.key.partition;
            if checkpoint.checksum() != checksum || checkpoint.epoch != stored.epoch {
                return Err(damaged(format!("the row of partition '{partition}' was altered")));
            }
            found = found.with(checksum);
            ledger.rows.insert(partition.clone(), checkpoint);
        }
        if found != stored.manifest {
            return Err(damaged(format!(
                "there are {} rows where its manifest says {}, or not the same ones",
                found.rows, stored.manifest.rows
            )));
        }
        (ledger.epoch, ledger.manifest) = (stored.epoch, found);
        Ok(ledger)
    }

    /// Refuses a claim that is older than what is stored.
    ///
    /// # Errors
    /// [`LedgerError::Fenced`].
    pub fn admit<E>(&self, epoch: Epoch) -> Result<(), LedgerError<E>> {
        if self.epoch > epoch && !fault::known_bad("ignore_epoch") {
            return Err(LedgerError::Fenced { epoch: self.epoch });
        }
        Ok(())
    }

    /// Refuses to go on where somebody else has been since: `found` is the manifest, read under
    /// the lock that a newer owner has to take, and the newest epoch of any row.
    ///
    /// # Errors
    /// [`LedgerError::Fenced`], [`LedgerError::Altered`].
    pub fn compare<E>(&self, found: Option<(StoredManifest, Epoch)>) -> Result<(), LedgerError<E>> {
        if fault::known_bad("ignore_epoch") {
            return Ok(());
        }
        let Some((stored, of_rows)) = found else { return Err(LedgerError::Altered) };
        let epoch = stored.epoch.max(of_rows);
        if epoch > self.epoch {
            return Err(LedgerError::Fenced { epoch });
        }
        if epoch < self.epoch || stored.manifest != self.manifest {
            return Err(LedgerError::Altered);
        }
        Ok(())
    }

    /// What to write so that all rows stand as they are here, whatever stood there.
    pub fn all(&mut self) -> (Vec<Change<'_>>, StoredManifest) {
        let sums = self.rows.values().map(Checkpoint::checksum);
        self.manifest = sums.fold(Manifest::default(), Manifest::with);
        let stored = self.stored(self.manifest);
        (self.rows.values().map(|new| Change { old: None, new }).collect(), stored)
    }

    /// What to write so that new checkpoints stand where those stood that are known here. Its
    /// manifest is for [`accept`](Self::accept), once that is committed.
    pub fn advanced<'a>(&'a self, new: &'a [Checkpoint]) -> (Vec<Change<'a>>, StoredManifest) {
        let mut manifest = self.manifest;
        let mut changes = Vec::with_capacity(new.len());
        for new in new {
            let old = self.rows.get(&new.key.partition);
            manifest = match old {
                Some(old) => manifest.replacing(old.checksum(), new.checksum()),
                None => manifest.with(new.checksum()),
            };
            changes.push(Change { old, new });
        }
        (changes, self.stored(manifest))
    }

    /// Which of these partitions have a row; all that have one if [`WHOLE`] is among them.
    pub(super) fn known(&self, partitions: &[&str]) -> Vec<String> {
        let is_meant = |name: &&String| partitions.iter().any(|p| *p == WHOLE || p == name);
        self.rows.keys().filter(is_meant).cloned().collect()
    }

    /// Takes rows out, and says what the manifest is then.
    pub(super) fn without(&mut self, partitions: &[String]) -> StoredManifest {
        self.rows.retain(|partition, _| !partitions.contains(partition));
        self.all().1
    }

    /// The manifest of no rows, which keeps the epoch.
    pub fn none(&self) -> StoredManifest {
        self.stored(Manifest::default())
    }

    /// What was written is committed.
    pub fn accept(&mut self, new: &[Checkpoint], manifest: Manifest) {
        self.manifest = manifest;
        for checkpoint in new {
            self.rows.insert(checkpoint.key.partition.clone(), checkpoint.clone());
        }
    }

    /// Everything was removed, and that is committed.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.manifest = Manifest::default();
    }

    fn stored(&self, manifest: Manifest) -> StoredManifest {
        StoredManifest { manifest, epoch: self.epoch, format: FORMAT }
    }
}
