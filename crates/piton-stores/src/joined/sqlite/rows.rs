//! The rows of `piton_checkpoints`, read with their checksums and written with them.

use piton_core::{Checkpoint, CheckpointKey, Epoch, StoredPosition, checksum::Checksum, fault};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::joined::ledger::Judged;

pub(super) fn read_all(
    conn: &Connection,
    pipeline: &str,
    sink: &str,
) -> rusqlite::Result<Vec<Judged>> {
    conn.prepare_cached(
        "SELECT partition, kind, position, records, version, epoch, schema_version, updated_at, \
         sink_state, checksum FROM piton_checkpoints WHERE pipeline = ?1 AND sink = ?2",
    )?
    .query_map([pipeline, sink], |row| Ok(read(row, pipeline, sink)))?
    .collect()
}

pub(super) fn read_one(conn: &Connection, key: &CheckpointKey) -> rusqlite::Result<Option<Judged>> {
    let CheckpointKey { pipeline, partition, sink } = key;
    conn.prepare_cached(
        "SELECT partition, kind, position, records, version, epoch, schema_version, updated_at, \
         sink_state, checksum FROM piton_checkpoints \
         WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3",
    )?
    .query_row([pipeline, partition, sink], |row| Ok(read(row, pipeline, sink)))
    .optional()
}

fn read(row: &Row<'_>, pipeline: &str, sink: &str) -> Judged {
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
        records: number(row, 3).map_err(wrong)?,
        version: number(row, 4).map_err(wrong)?,
        epoch: Epoch(number(row, 5).map_err(wrong)?),
        schema_version: number(row, 6).map_err(wrong)?,
        updated_at: updated_at.parse().map_err(|_| unreadable("no time in updated_at"))?,
        sink_state: row.get(8).map_err(wrong)?,
        key: CheckpointKey::new(pipeline, partition, sink),
    };
    Ok((checkpoint, Checksum(row.get(9).map_err(wrong)?)))
}

/// Unsigned numbers are kept as SQLite's signed ones, bit for bit.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| number as u64)
}

pub(super) fn insert(conn: &Connection, new: &Checkpoint) -> rusqlite::Result<()> {
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
        new.records as i64,
        new.version as i64,
        new.epoch.0 as i64,
        new.schema_version as i64,
        new.updated_at.to_string(),
        kind,
        new.sink_state,
        new.checksum().0,
    ])?;
    Ok(())
}

/// Writes over a row if it is the one that is known. Epoch and version are compared in the
/// statement that writes.
pub(super) fn update(
    conn: &Connection,
    old: &Checkpoint,
    new: &Checkpoint,
) -> rusqlite::Result<bool> {
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
            new.records as i64,
            new.version as i64,
            new.updated_at.to_string(),
            kind,
            new.sink_state,
            new.checksum().0,
            new.epoch.0 as i64,
            old.version as i64,
            fault::known_bad("ignore_epoch"),
        ])?;
    Ok(changed == 1)
}

fn halves(checkpoint: &Checkpoint) -> (Option<&str>, Option<&str>) {
    let position = checkpoint.position.as_ref();
    (position.map(|p| p.json.as_str()), position.map(|p| p.kind.as_str()))
}
