//! The checkpoints that a database holds: `piton_checkpoints` and its manifest.
//!
//! Every row carries a checksum over its columns, and `piton_manifest` has the count and combined
//! checksum of the rows of one pipeline's sink, written in the same transaction. A row that was
//! altered, lost or slipped in is found before anything is decided by it. The manifest also keeps
//! the newest epoch, so that it outlives the rows: an owner that slept finds that it was replaced
//! even after its heir has finished and removed them.

use std::collections::BTreeMap;

use piton_core::{
    Checkpoint, Epoch,
    checksum::{Checksum, Manifest},
    fault,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::rows::{self, number};

/// The format of these tables. A newer one is refused.
const FORMAT: u64 = 1;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS piton_checkpoints (
  pipeline TEXT NOT NULL,
  partition TEXT NOT NULL,
  sink TEXT NOT NULL,
  position TEXT,
  records INTEGER NOT NULL,
  version INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  schema_version INTEGER NOT NULL,
  updated_at TEXT NOT NULL,
  kind TEXT,
  sink_state TEXT,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (pipeline, partition, sink)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS piton_manifest (
  pipeline TEXT NOT NULL,
  sink TEXT NOT NULL,
  rows INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  format INTEGER NOT NULL,
  PRIMARY KEY (pipeline, sink)
) WITHOUT ROWID;
-- A person who deletes rows forgets checkpoints on purpose; that is not damage.
CREATE TRIGGER IF NOT EXISTS piton_checkpoints_deleted AFTER DELETE ON piton_checkpoints BEGIN
  UPDATE piton_manifest
  SET rows = rows - 1,
      checksum = (checksum | old.checksum) & ~(checksum & old.checksum)
  WHERE pipeline = old.pipeline AND sink = old.sink;
END;
-- The checksum covers every column, so one that stays where another column changes was not made
-- by this library.
CREATE TRIGGER IF NOT EXISTS piton_checkpoints_updated BEFORE UPDATE ON piton_checkpoints
WHEN old.checksum = new.checksum AND (old.position, old.kind, old.records, old.version, old.epoch,
  old.schema_version, old.updated_at, old.sink_state, old.pipeline, old.partition, old.sink)
  IS NOT (new.position, new.kind, new.records, new.version, new.epoch,
  new.schema_version, new.updated_at, new.sink_state, new.pipeline, new.partition, new.sink)
BEGIN
  SELECT RAISE(ABORT, 'a checkpoint cannot be changed by hand: use `piton rewind` to go back, or `piton reset` to begin anew');
END;
";

/// Why the checkpoints of a database could not be used. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The database failed.
    #[error(transparent)]
    Database(rusqlite::Error),
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

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match error {
            // A column whose bytes are not what was written.
            E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::Utf8Error(..) => Self::Damaged { what: error.to_string() },
            error => Self::Database(error),
        }
    }
}

impl LedgerError {
    /// The statements by which a person removes what is damaged, to begin anew.
    pub fn removal(pipeline: &str) -> String {
        let name = pipeline.replace('\'', "''");
        format!(
            "DELETE FROM piton_checkpoints WHERE pipeline = '{name}'; \
             DELETE FROM piton_manifest WHERE pipeline = '{name}'"
        )
    }
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

    /// Reads and verifies what a database holds; nothing where the tables are not there. Must be
    /// called in a transaction if anybody else may write.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`], [`LedgerError::Newer`], or what the database fails with.
    pub fn read(conn: &Connection, pipeline: &str, sink: &str) -> Result<Self, LedgerError> {
        let mut ledger = Self::empty(pipeline, sink);
        let damaged = |what: String| LedgerError::Damaged { what };
        match (is_there(conn, "piton_checkpoints")?, is_there(conn, "piton_manifest")?) {
            (false, false) => return Ok(ledger),
            (true, true) => {}
            _ => return Err(damaged("one of their two tables is missing".into())),
        }
        let manifest = read_manifest(conn, pipeline, sink)?;
        if let Some(found) = manifest.as_ref().map(|m| m.format).filter(|f| *f > FORMAT) {
            return Err(LedgerError::Newer { found, known: FORMAT });
        }
        let stored = manifest.unwrap_or_default();
        let mut found = Manifest::default();
        for row in rows::read_all(conn, pipeline, sink)? {
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
    pub fn admit(&self, epoch: Epoch) -> Result<(), LedgerError> {
        if self.epoch > epoch && !fault::known_bad("ignore_epoch") {
            return Err(LedgerError::Fenced { epoch: self.epoch });
        }
        Ok(())
    }

    /// Compares with the database, under its write lock, that nobody else has been here since.
    ///
    /// # Errors
    /// [`LedgerError::Fenced`], [`LedgerError::Altered`], or what the database fails with.
    pub fn compare(&self, conn: &Connection) -> Result<(), LedgerError> {
        if fault::known_bad("ignore_epoch") {
            return Ok(());
        }
        let read = |row: &Row<'_>| {
            let newest = row.get::<_, Option<i64>>(3)?.unwrap_or(0) as u64;
            let manifest = Manifest { rows: number(row, 1)?, checksum: Checksum(row.get(2)?) };
            Ok((number(row, 0)?.max(newest), manifest))
        };
        let found = conn
            .prepare_cached(
                "SELECT epoch, rows, checksum, (SELECT max(epoch) FROM piton_checkpoints \
                 WHERE pipeline = ?1 AND sink = ?2) \
                 FROM piton_manifest WHERE pipeline = ?1 AND sink = ?2",
            )?
            .query_row([&self.pipeline, &self.sink], read)
            .optional()?;
        match found {
            Some((epoch, _)) if epoch > self.epoch.0 => {
                Err(LedgerError::Fenced { epoch: Epoch(epoch) })
            }
            Some((epoch, manifest)) if epoch == self.epoch.0 && manifest == self.manifest => Ok(()),
            _ => Err(LedgerError::Altered),
        }
    }

    /// Writes all rows and the manifest.
    ///
    /// # Errors
    /// What the database fails with.
    pub fn write(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.manifest = Manifest::default();
        for checkpoint in self.rows.values() {
            self.manifest = self.manifest.with(checkpoint.checksum());
            rows::insert(conn, checkpoint)?;
        }
        self.write_manifest(conn, self.manifest)
    }

    /// Writes new checkpoints over those that are known here, and the manifest that
    /// [`accept`](Self::accept) takes once they are committed. `None` when a row is no longer the
    /// known one.
    ///
    /// # Errors
    /// What the database fails with.
    pub fn advance(
        &self,
        conn: &Connection,
        new: &[Checkpoint],
    ) -> rusqlite::Result<Option<Manifest>> {
        let mut manifest = self.manifest;
        for checkpoint in new {
            let checksum = checkpoint.checksum();
            match self.rows.get(&checkpoint.key.partition) {
                Some(old) if rows::update(conn, old, checkpoint)? => {
                    manifest = manifest.replacing(old.checksum(), checksum);
                }
                Some(_) => return Ok(None),
                None => {
                    rows::insert(conn, checkpoint)?;
                    manifest = manifest.with(checksum);
                }
            }
        }
        self.write_manifest(conn, manifest)?;
        Ok(Some(manifest))
    }

    /// What was written is committed.
    pub fn accept(&mut self, new: &[Checkpoint], manifest: Manifest) {
        self.manifest = manifest;
        for checkpoint in new {
            self.rows.insert(checkpoint.key.partition.clone(), checkpoint.clone());
        }
    }

    /// Removes all rows. The manifest stays, for its epoch.
    ///
    /// # Errors
    /// What the database fails with.
    pub fn forget(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.execute(
            "DELETE FROM piton_checkpoints WHERE pipeline = ?1 AND sink = ?2",
            [&self.pipeline, &self.sink],
        )?;
        self.write_manifest(conn, Manifest::default())
    }

    /// Everything was removed, and that is committed.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.manifest = Manifest::default();
    }

    fn write_manifest(&self, conn: &Connection, manifest: Manifest) -> rusqlite::Result<()> {
        conn.prepare_cached(
            "INSERT INTO piton_manifest (pipeline, sink, rows, checksum, epoch, format) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET \
             rows = ?3, checksum = ?4, epoch = ?5, format = ?6",
        )?
        .execute(params![
            self.pipeline,
            self.sink,
            manifest.rows as i64,
            manifest.checksum.0,
            self.epoch.0 as i64,
            FORMAT as i64,
        ])?;
        Ok(())
    }
}

/// Creates the tables that hold checkpoints, if they are not there.
///
/// # Errors
/// What the database fails with.
pub fn create_tables(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(TABLES)
}

pub(super) fn is_there(conn: &Connection, table: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
    )?
    .query_row([table], |row| row.get(0))
}

#[derive(Default)]
struct StoredManifest {
    manifest: Manifest,
    epoch: Epoch,
    format: u64,
}

fn read_manifest(
    conn: &Connection,
    pipeline: &str,
    sink: &str,
) -> rusqlite::Result<Option<StoredManifest>> {
    let read = |row: &Row<'_>| {
        Ok(StoredManifest {
            manifest: Manifest { rows: number(row, 0)?, checksum: Checksum(row.get(1)?) },
            epoch: Epoch(number(row, 2)?),
            format: number(row, 3)?,
        })
    };
    conn.prepare_cached(
        "SELECT rows, checksum, epoch, format FROM piton_manifest \
         WHERE pipeline = ?1 AND sink = ?2",
    )?
    .query_row([pipeline, sink], read)
    .optional()
}
