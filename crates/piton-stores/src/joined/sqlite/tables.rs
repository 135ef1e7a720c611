//! The tables of checkpoints in a SQLite database.

use piton_core::{
    Checkpoint, CheckpointKey, Epoch,
    checksum::{Checksum, Manifest},
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    Ledger, LedgerError,
    rows::{self, number},
};
use crate::joined::{
    ledger::{Change, StoredManifest},
    mark::Standing,
};

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

/// Reads and verifies what a database holds; nothing where the tables are not there. Must be
/// called in a transaction if anybody else may write.
///
/// # Errors
/// [`LedgerError::Damaged`], [`LedgerError::Newer`], or what the database fails with.
pub fn read(conn: &Connection, pipeline: &str, sink: &str) -> Result<Ledger, LedgerError> {
    let there = (is_there(conn, "piton_checkpoints")?, is_there(conn, "piton_manifest")?);
    if !Ledger::are_there(there.0, there.1)? {
        return Ok(Ledger::empty(pipeline, sink));
    }
    let sql = "SELECT rows, checksum, epoch, format FROM piton_manifest \
               WHERE pipeline = ?1 AND sink = ?2";
    let manifest =
        conn.prepare_cached(sql)?.query_row([pipeline, sink], read_manifest).optional()?;
    Ledger::verified(pipeline, sink, manifest, rows::read_all(conn, pipeline, sink)?)
}

/// Compares with the database, under its write lock, that nobody else has been here since.
///
/// # Errors
/// [`LedgerError::Fenced`], [`LedgerError::Altered`], or what the database fails with.
pub fn compare(conn: &Connection, ledger: &Ledger) -> Result<(), LedgerError> {
    let read = |row: &Row<'_>| {
        let of_rows = row.get::<_, Option<i64>>(4)?.unwrap_or(0) as u64;
        Ok((read_manifest(row)?, Epoch(of_rows)))
    };
    let sql = "SELECT rows, checksum, epoch, format, (SELECT max(epoch) FROM piton_checkpoints \
               WHERE pipeline = ?1 AND sink = ?2) \
               FROM piton_manifest WHERE pipeline = ?1 AND sink = ?2";
    let key = [&*ledger.pipeline, &*ledger.sink];
    ledger.compare(conn.prepare_cached(sql)?.query_row(key, read).optional()?)
}

/// Writes all rows and the manifest.
///
/// # Errors
/// What the database fails with.
pub fn write(conn: &Connection, ledger: &mut Ledger) -> rusqlite::Result<()> {
    let (pipeline, sink) = (ledger.pipeline.clone(), ledger.sink.clone());
    let (changes, manifest) = ledger.all();
    for change in changes {
        rows::insert(conn, change.new)?;
    }
    write_manifest(conn, (&pipeline, &sink), &manifest)
}

/// Writes new checkpoints over those that are known, and the manifest that [`Ledger::accept`]
/// takes once they are committed. `None` when a row is no longer the known one.
///
/// # Errors
/// What the database fails with.
pub fn advance(
    conn: &Connection,
    ledger: &Ledger,
    new: &[Checkpoint],
) -> rusqlite::Result<Option<Manifest>> {
    let (changes, stored) = ledger.advanced(new);
    for Change { old, new } in changes {
        match old {
            Some(old) if !rows::update(conn, old, new)? => return Ok(None),
            Some(_) => {}
            None => rows::insert(conn, new)?,
        }
    }
    write_manifest(conn, (&ledger.pipeline, &ledger.sink), &stored)?;
    Ok(Some(stored.manifest))
}

/// Reads the manifest and one row. The tables must be there.
///
/// # Errors
/// [`LedgerError::Damaged`], or what the database fails with.
pub fn standing(conn: &Connection, key: &CheckpointKey) -> Result<Standing, LedgerError> {
    let sql = "SELECT rows, checksum, epoch, format FROM piton_manifest \
               WHERE pipeline = ?1 AND sink = ?2";
    let of = [&*key.pipeline, &*key.sink];
    let manifest = conn.prepare_cached(sql)?.query_row(of, read_manifest).optional()?;
    Standing::verified(manifest, rows::read_one(conn, key)?)
}

/// Writes a row and the manifest over what stands there, under the write lock under which that was
/// read.
///
/// # Errors
/// What the database fails with.
pub fn mark(conn: &Connection, standing: &Standing, new: &Checkpoint) -> rusqlite::Result<()> {
    rows::insert(conn, new)?;
    write_manifest(conn, (&new.key.pipeline, &new.key.sink), &standing.with(new))
}

/// Removes rows of a pipeline's sink, all of them for [`WHOLE`](piton_core::claim::WHOLE), under
/// the write lock. The manifest stays, for its epoch.
///
/// # Errors
/// [`LedgerError::Damaged`], [`LedgerError::Newer`], or what the database fails with.
pub fn remove(
    conn: &Connection,
    pipeline: &str,
    sink: &str,
    partitions: &[&str],
) -> Result<(), LedgerError> {
    let mut ledger = read(conn, pipeline, sink)?;
    let sql = "DELETE FROM piton_checkpoints WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3";
    let known = ledger.known(partitions);
    if known.is_empty() {
        return Ok(());
    }
    for partition in &known {
        conn.prepare_cached(sql)?.execute([pipeline, partition, sink])?;
    }
    Ok(write_manifest(conn, (pipeline, sink), &ledger.without(&known))?)
}

/// Removes all rows. The manifest stays, for its epoch.
///
/// # Errors
/// What the database fails with.
pub fn forget(conn: &Connection, ledger: &Ledger) -> rusqlite::Result<()> {
    let sql = "DELETE FROM piton_checkpoints WHERE pipeline = ?1 AND sink = ?2";
    conn.execute(sql, [&ledger.pipeline, &ledger.sink])?;
    write_manifest(conn, (&ledger.pipeline, &ledger.sink), &ledger.none())
}

/// Creates the tables that hold checkpoints, if they are not there.
///
/// # Errors
/// What the database fails with.
pub fn create_tables(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(TABLES)
}

fn is_there(conn: &Connection, table: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
    )?
    .query_row([table], |row| row.get(0))
}

fn read_manifest(row: &Row<'_>) -> rusqlite::Result<StoredManifest> {
    Ok(StoredManifest {
        manifest: Manifest { rows: number(row, 0)?, checksum: Checksum(row.get(1)?) },
        epoch: Epoch(number(row, 2)?),
        format: number(row, 3)?,
    })
}

fn write_manifest(
    conn: &Connection,
    (pipeline, sink): (&str, &str),
    stored: &StoredManifest,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO piton_manifest (pipeline, sink, rows, checksum, epoch, format) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET \
         rows = ?3, checksum = ?4, epoch = ?5, format = ?6",
    )?
    .execute(params![
        pipeline,
        sink,
        stored.manifest.rows as i64,
        stored.manifest.checksum.0,
        stored.epoch.0 as i64,
        stored.format as i64,
    ])?;
    Ok(())
}
