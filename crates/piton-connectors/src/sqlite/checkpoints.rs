//! The checkpoints that a sink's database holds: `piton_checkpoints` and its manifest.
//!
//! Every row carries a checksum over its columns, and `piton_manifest` has the count and combined
//! checksum of the rows of one pipeline's sink, written in the same transaction. A row that was
//! altered, lost or slipped in is found before anything is decided by it. The manifest also keeps
//! the newest epoch, so that it outlives the rows: an owner that slept finds that it was replaced
//! even after its heir has finished and removed them.

use std::{collections::BTreeMap, path::Path};

use piton_core::{
    Checkpoint, CheckpointKey, Epoch, StoredPosition,
    checksum::{Checksum, Manifest},
    fault,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{errors::failure, table};
use crate::sink::SinkError;

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
";

/// The checkpoints of one pipeline's sink, as they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) pipeline: String,
    pub(super) sink: String,
    /// The newest epoch that has ever written here.
    pub(super) epoch: Epoch,
    /// By partition.
    pub(super) rows: BTreeMap<String, Checkpoint>,
    manifest: Manifest,
}

impl Ledger {
    /// No checkpoints yet.
    pub(super) fn empty(pipeline: &str, sink: &str) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            sink: sink.to_owned(),
            epoch: Epoch(0),
            rows: BTreeMap::new(),
            manifest: Manifest::default(),
        }
    }

    /// Reads and verifies what a database holds; nothing where the tables are not there.
    pub(super) fn read(
        conn: &Connection,
        path: &Path,
        pipeline: &str,
        sink: &str,
    ) -> Result<Self, SinkError> {
        let fail = |e| failure(path, "read the checkpoints", &e);
        let mut ledger = Self::empty(pipeline, sink);
        let damaged = |what: String| damaged(path, pipeline, &what);
        let has = |name| table::is_there(conn, name).map_err(fail);
        match (has("piton_checkpoints")?, has("piton_manifest")?) {
            (false, false) => return Ok(ledger),
            (true, true) => {}
            _ => return Err(damaged("one of their two tables is missing".into())),
        }
        let manifest = read_manifest(conn, pipeline, sink).map_err(fail)?;
        if let Some(newer) = manifest.as_ref().map(|m| m.format).filter(|f| *f > FORMAT) {
            return Err(SinkError::Refused {
                what: format!(
                    "the checkpoints in {} have format {newer}, this program knows up to \
                     {FORMAT}: use a newer piton",
                    path.display()
                ),
            });
        }
        let rows = read_rows(conn, pipeline, sink).map_err(fail)?;
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
    pub(super) fn admit(&self, epoch: Epoch, at: &str) -> Result<(), SinkError> {
        if self.epoch > epoch && !fault::known_bad("ignore_epoch") {
            return Err(SinkError::Fenced { epoch: self.epoch, at: at.to_owned() });
        }
        Ok(())
    }

    /// Compares with the database, under its write lock, that nobody else has been here since.
    pub(super) fn compare(&self, conn: &Connection, path: &Path) -> Result<(), SinkError> {
        if fault::known_bad("ignore_epoch") {
            return Ok(());
        }
        let found = conn
            .prepare_cached(
                "SELECT epoch, rows, checksum, (SELECT max(epoch) FROM piton_checkpoints \
                 WHERE pipeline = ?1 AND sink = ?2) \
                 FROM piton_manifest WHERE pipeline = ?1 AND sink = ?2",
            )
            .and_then(|mut statement| {
                let read = |row: &Row<'_>| {
                    let newest = row.get::<_, Option<u64>>(3)?.unwrap_or(0);
                    let manifest = Manifest { rows: row.get(1)?, checksum: Checksum(row.get(2)?) };
                    Ok((row.get::<_, u64>(0)?.max(newest), manifest))
                };
                statement.query_row([&self.pipeline, &self.sink], read).optional()
            })
            .map_err(|e| failure(path, "read the checkpoints", &e))?;
        match found {
            Some((epoch, _)) if epoch > self.epoch.0 => {
                Err(SinkError::Fenced { epoch: Epoch(epoch), at: path.display().to_string() })
            }
            Some((epoch, manifest)) if epoch == self.epoch.0 && manifest == self.manifest => Ok(()),
            _ => Err(SinkError::Refused {
                what: format!(
                    "the checkpoints of pipeline '{}' in {} were changed or removed by another \
                     hand while it ran. Nothing was written; run it again to see where it stands",
                    self.pipeline,
                    path.display()
                ),
            }),
        }
    }

    /// Writes all rows and the manifest.
    pub(super) fn write(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.manifest = Manifest::default();
        for checkpoint in self.rows.values() {
            self.manifest = self.manifest.with(checkpoint.checksum());
            insert(conn, checkpoint)?;
        }
        self.write_manifest(conn, self.manifest)
    }

    /// Writes new checkpoints over those that are known here, and the manifest that
    /// [`accept`](Self::accept) takes once they are committed. `None` when a row is no longer the
    /// known one.
    pub(super) fn advance(
        &self,
        conn: &Connection,
        new: &[Checkpoint],
    ) -> rusqlite::Result<Option<Manifest>> {
        let mut manifest = self.manifest;
        for checkpoint in new {
            let checksum = checkpoint.checksum();
            match self.rows.get(&checkpoint.key.partition) {
                Some(old) if update(conn, old, checkpoint)? => {
                    manifest = manifest.replacing(old.checksum(), checksum);
                }
                Some(_) => return Ok(None),
                None => {
                    insert(conn, checkpoint)?;
                    manifest = manifest.with(checksum);
                }
            }
        }
        self.write_manifest(conn, manifest)?;
        Ok(Some(manifest))
    }

    /// What was written is committed.
    pub(super) fn accept(&mut self, new: &[Checkpoint], manifest: Manifest) {
        self.manifest = manifest;
        for checkpoint in new {
            self.rows.insert(checkpoint.key.partition.clone(), checkpoint.clone());
        }
    }

    /// Removes all rows. The manifest stays, for its epoch.
    pub(super) fn forget(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.execute(
            "DELETE FROM piton_checkpoints WHERE pipeline = ?1 AND sink = ?2",
            [&self.pipeline, &self.sink],
        )?;
        self.write_manifest(conn, Manifest::default())
    }

    /// Everything was removed, and that is committed.
    pub(super) fn clear(&mut self) {
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
            manifest.rows,
            manifest.checksum.0,
            self.epoch.0,
            FORMAT
        ])?;
        Ok(())
    }
}

/// Creates the tables that hold checkpoints, if they are not there.
pub(super) fn create_tables(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(TABLES)
}

fn damaged(path: &Path, pipeline: &str, what: &str) -> SinkError {
    let name = pipeline.replace('\'', "''");
    SinkError::Refused {
        what: format!(
            "the checkpoints of pipeline '{pipeline}' in {} are damaged: {what}. Nothing was \
             written. Restore the database from a backup; or, to begin anew, \
             `DELETE FROM piton_checkpoints WHERE pipeline = '{name}'; \
             DELETE FROM piton_manifest WHERE pipeline = '{name}'` and `piton reset {pipeline}`",
            path.display()
        ),
    }
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
            manifest: Manifest { rows: row.get(0)?, checksum: Checksum(row.get(1)?) },
            epoch: Epoch(row.get(2)?),
            format: row.get(3)?,
        })
    };
    conn.query_row(
        "SELECT rows, checksum, epoch, format FROM piton_manifest \
         WHERE pipeline = ?1 AND sink = ?2",
        [pipeline, sink],
        read,
    )
    .optional()
}

/// A row, or what is wrong with it.
type Judged = Result<(Checkpoint, Checksum), String>;

fn read_rows(conn: &Connection, pipeline: &str, sink: &str) -> rusqlite::Result<Vec<Judged>> {
    conn.prepare(
        "SELECT partition, kind, position, records, version, epoch, schema_version, updated_at, \
         sink_state, checksum FROM piton_checkpoints WHERE pipeline = ?1 AND sink = ?2",
    )?
    .query_map([pipeline, sink], |row| Ok(read_row(row, pipeline, sink)))?
    .collect()
}

fn read_row(row: &Row<'_>, pipeline: &str, sink: &str) -> Judged {
    let wrong = |e: rusqlite::Error| e.to_string();
    let partition: String = row.get(0).map_err(wrong)?;
    let unreadable = |what: &str| format!("the row of partition '{partition}' has {what}");
    let kind: Option<String> = row.get(1).map_err(wrong)?;
    let position = match (kind, row.get(2).map_err(wrong)?) {
        (Some(kind), Some(json)) => Some(StoredPosition { kind, json }),
        (None, None) => None,
        _ => return Err(unreadable("a position without a kind, or a kind without a position")),
    };
    let updated_at: String = row.get(7).map_err(wrong)?;
    let checkpoint = Checkpoint {
        position,
        records: row.get(3).map_err(wrong)?,
        version: row.get(4).map_err(wrong)?,
        epoch: Epoch(row.get(5).map_err(wrong)?),
        schema_version: row.get(6).map_err(wrong)?,
        updated_at: updated_at.parse().map_err(|_| unreadable("no time in updated_at"))?,
        sink_state: row.get(8).map_err(wrong)?,
        key: CheckpointKey::new(pipeline, partition, sink),
    };
    Ok((checkpoint, Checksum(row.get(9).map_err(wrong)?)))
}

fn insert(conn: &Connection, new: &Checkpoint) -> rusqlite::Result<()> {
    let (position, kind) = halves(new);
    conn.prepare_cached(
        "INSERT INTO piton_checkpoints (pipeline, partition, sink, position, records, version, \
         epoch, schema_version, updated_at, kind, sink_state, checksum) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO UPDATE SET \
         position = ?4, records = ?5, version = ?6, epoch = ?7, schema_version = ?8, \
         updated_at = ?9, kind = ?10, sink_state = ?11, checksum = ?12",
    )?
    .execute(params![
        new.key.pipeline,
        new.key.partition,
        new.key.sink,
        position,
        new.records,
        new.version,
        new.epoch.0,
        new.schema_version,
        new.updated_at.to_string(),
        kind,
        new.sink_state,
        new.checksum().0,
    ])?;
    Ok(())
}

fn update(conn: &Connection, old: &Checkpoint, new: &Checkpoint) -> rusqlite::Result<bool> {
    let (position, kind) = halves(new);
    let changed = conn
        .prepare_cached(
            "UPDATE piton_checkpoints SET position = ?4, records = ?5, version = ?6, \
             updated_at = ?7, kind = ?8, sink_state = ?9, checksum = ?10, epoch = ?11 \
             WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3 \
             AND (?13 OR (epoch = ?11 AND version = ?12))",
        )?
        .execute(params![
            new.key.pipeline,
            new.key.partition,
            new.key.sink,
            position,
            new.records,
            new.version,
            new.updated_at.to_string(),
            kind,
            new.sink_state,
            new.checksum().0,
            new.epoch.0,
            old.version,
            fault::known_bad("ignore_epoch"),
        ])?;
    Ok(changed == 1)
}

fn halves(checkpoint: &Checkpoint) -> (Option<&str>, Option<&str>) {
    let position = checkpoint.position.as_ref();
    (position.map(|p| p.json.as_str()), position.map(|p| p.kind.as_str()))
}
