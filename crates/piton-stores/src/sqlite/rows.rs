//! Checkpoint rows: read, verified, replaced, with their manifest and history.

use jiff::Timestamp;
use piton_core::{
    Checkpoint, CheckpointKey, Epoch, StoredPosition,
    checksum::{Checksum, Manifest},
};
use rusqlite::{Connection, Row, params, types::ValueRef};

use super::{
    manifest::{self, Holds, Shelf},
    trouble::{Result, Trouble},
};

/// A checkpoint in its row.
pub(super) struct Found {
    pub(super) rowid: i64,
    checksum: Checksum,
    pub(super) checkpoint: Checkpoint,
}

/// What a transaction does to one checkpoint: replaces, adds or removes it.
pub(super) struct Change {
    pub(super) old: Option<Found>,
    pub(super) new: Option<Checkpoint>,
}

macro_rules! columns {
    () => {
        "pipeline, partition, sink, position, records, version, epoch, schema_version, \
         updated_at, kind, sink_state, checksum"
    };
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT ", columns!(), ", rowid FROM ", $rest)
    };
}

/// Reads a row of `checkpoints` or `history`, and compares its checksum.
fn read(row: &Row<'_>, table: &str) -> Result<Found> {
    let key = CheckpointKey::new(text(row, 0)?, text(row, 1)?, text(row, 2)?);
    let position = match (row.get(9)?, row.get(3)?) {
        (Some(kind), Some(json)) => Some(StoredPosition { kind, json }),
        (None, None) => None,
        _ => return Err(altered(table, &key)),
    };
    let checkpoint = Checkpoint {
        position,
        records: number(row, 4)?,
        version: number(row, 5)?,
        epoch: Epoch(number(row, 6)?),
        schema_version: number(row, 7)?,
        updated_at: time(row, 8)?,
        sink_state: row.get(10)?,
        key,
    };
    let checksum = Checksum(row.get(11)?);
    if checkpoint.checksum() != checksum {
        return Err(altered(table, &checkpoint.key));
    }
    Ok(Found { rowid: row.get(12)?, checksum, checkpoint })
}

/// What is said of a row whose columns are not what was written.
pub(super) fn altered(table: &str, key: &impl std::fmt::Display) -> Trouble {
    Trouble::Damage(format!("the row {key} of {table} was altered: its checksum does not match"))
}

pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    row.get(column)
}

/// Unsigned numbers are kept as SQLite's signed ones, bit for bit.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| number as u64)
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    let text = row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?;
    text.parse().map_err(|_| Trouble::Damage(format!("'{text}' is not a time")))
}

pub(super) fn maybe_time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => time(row, column).map(Some),
    }
}

/// The row of one checkpoint.
pub(super) fn find(c: &Connection, key: &CheckpointKey) -> Result<Option<Found>> {
    let sql = select!("checkpoints WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3");
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([&key.pipeline, &key.partition, &key.sink])?;
    rows.next()?.map(|row| read(row, "checkpoints")).transpose()
}

/// The rows of a pipeline, compared with its manifest.
pub(super) fn all(c: &Connection, pipeline: &str) -> Result<Vec<Found>> {
    let sql = select!("checkpoints WHERE pipeline = ?1 ORDER BY partition, sink");
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([pipeline])?;
    let (mut found, mut sum) = (Vec::new(), Manifest::default());
    while let Some(row) = rows.next()? {
        let row = read(row, "checkpoints")?;
        sum = sum.with(row.checksum);
        found.push(row);
    }
    manifest::check(c, Shelf::of(Holds::Checkpoints, pipeline), sum)?;
    manifest::check_begun(c, pipeline)?;
    Ok(found)
}

/// The present checkpoints of a pipeline.
pub(super) fn load(c: &Connection, pipeline: &str) -> Result<Vec<Checkpoint>> {
    Ok(all(c, pipeline)?.into_iter().map(|found| found.checkpoint).collect())
}

/// Earlier checkpoints of a pipeline, newest first.
pub(super) fn history(c: &Connection, pipeline: &str, limit: u64) -> Result<Vec<Found>> {
    let sql = select!("history WHERE pipeline = ?1 ORDER BY rowid DESC LIMIT ?2");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query(params![pipeline, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row, "history")?);
    }
    Ok(found)
}

/// Makes changes to checkpoints of one pipeline, with their manifest and, if asked, the history of
/// what they replace.
pub(super) fn change(
    c: &Connection,
    pipeline: &str,
    changes: &[Change],
    with_history: bool,
) -> Result<()> {
    let mut sum = Manifest::default();
    let (mut added, mut removed) = (0_u64, 0_u64);
    for Change { old, new } in changes {
        if let (Some(old), true) = (old, with_history) {
            insert(c, INTO_HISTORY, &old.checkpoint)?;
        }
        let after = match (old, new) {
            (Some(old), Some(new)) => update(c, old.rowid, new)?,
            (Some(old), None) => delete(c, old.rowid)?,
            (None, Some(new)) => insert(c, INTO_CHECKPOINTS, new)?,
            (None, None) => Checksum::default(),
        };
        let before = old.as_ref().map_or(Checksum::default(), |old| old.checksum);
        sum.checksum = sum.checksum.combine(before).combine(after);
        added += u64::from(old.is_none() && new.is_some());
        removed += u64::from(old.is_some() && new.is_none());
    }
    manifest::change(c, Shelf::of(Holds::Checkpoints, pipeline), |manifest| Manifest {
        rows: (manifest.rows + added).saturating_sub(removed),
        checksum: manifest.checksum.combine(sum.checksum),
    })
}

const INTO_CHECKPOINTS: &str = concat!(
    "INSERT INTO checkpoints (",
    columns!(),
    ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
);

pub(super) const INTO_HISTORY: &str = concat!(
    "INSERT INTO history (",
    columns!(),
    ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
);

pub(super) fn insert(c: &Connection, sql: &str, row: &Checkpoint) -> Result<Checksum> {
    let checksum = row.checksum();
    let position = row.position.as_ref();
    c.prepare_cached(sql)?.execute(params![
        row.key.pipeline,
        row.key.partition,
        row.key.sink,
        position.map(|position| &position.json),
        row.records as i64,
        row.version as i64,
        row.epoch.0 as i64,
        row.schema_version as i64,
        row.updated_at.to_string(),
        position.map(|position| &position.kind),
        row.sink_state,
        checksum.0,
    ])?;
    Ok(checksum)
}

fn update(c: &Connection, rowid: i64, row: &Checkpoint) -> Result<Checksum> {
    let checksum = row.checksum();
    let position = row.position.as_ref();
    let sql = "UPDATE checkpoints SET position = ?2, records = ?3, version = ?4, epoch = ?5,
        schema_version = ?6, updated_at = ?7, kind = ?8, sink_state = ?9, checksum = ?10
        WHERE rowid = ?1";
    c.prepare_cached(sql)?.execute(params![
        rowid,
        position.map(|position| &position.json),
        row.records as i64,
        row.version as i64,
        row.epoch.0 as i64,
        row.schema_version as i64,
        row.updated_at.to_string(),
        position.map(|position| &position.kind),
        row.sink_state,
        checksum.0,
    ])?;
    Ok(checksum)
}

fn delete(c: &Connection, rowid: i64) -> Result<Checksum> {
    c.prepare_cached("DELETE FROM checkpoints WHERE rowid = ?1")?.execute([rowid])?;
    Ok(Checksum::default())
}
