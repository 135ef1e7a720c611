//! The state that programs keep beside their position, a row for each key.

use piton_core::{
    CheckpointKey, StateEntry,
    checksum::{Checksum, Manifest},
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    manifest::{self, Shelf, Verified},
    rows::{altered, text},
    trouble::Result,
};

fn checksum(of: &CheckpointKey, key: &str, json: &str) -> Checksum {
    Checksum::build()
        .text(&of.pipeline)
        .text(&of.partition)
        .text(&of.sink)
        .text(key)
        .text(json)
        .finish()
}

/// All entries, compared with their manifest.
pub(super) fn all(c: &Connection, of: &CheckpointKey) -> Result<Vec<StateEntry>> {
    let sql = "SELECT key, json, checksum FROM state
        WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3 ORDER BY key";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([&of.pipeline, &of.partition, &of.sink])?;
    let (mut entries, mut sum) = (Vec::new(), Manifest::default());
    while let Some(row) = rows.next()? {
        let (key, json) = (text(row, 0)?, text(row, 1)?);
        let found = Checksum(row.get(2)?);
        if checksum(of, &key, &json) != found {
            return Err(altered("state", &format!("{of} / {key}")));
        }
        sum = sum.with(found);
        entries.push(StateEntry { key, json: Some(json) });
    }
    manifest::check(c, Shelf::of_state(of), sum)?;
    Ok(entries)
}

/// One entry, or all. That nothing is missing is looked at once for each connection, not with
/// every key.
pub(super) fn read(
    c: &Connection,
    verified: &mut Verified,
    of: &CheckpointKey,
    key: Option<&str>,
) -> Result<Vec<StateEntry>> {
    let Some(key) = key else {
        return all(c, of);
    };
    if !verified.state.contains(of) {
        all(c, of)?;
        verified.state.insert(of.clone());
    }
    Ok(find(c, of, key)?.into_iter().collect())
}

fn find(c: &Connection, of: &CheckpointKey, key: &str) -> Result<Option<StateEntry>> {
    let sql = "SELECT json, checksum FROM state
        WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3 AND key = ?4";
    let mut statement = c.prepare_cached(sql)?;
    let found = statement
        .query_row([&of.pipeline, &of.partition, &of.sink, key], |row| {
            Ok((text(row, 0)?, Checksum(row.get(1)?)))
        })
        .optional()?;
    let Some((json, found)) = found else {
        return Ok(None);
    };
    if checksum(of, key, &json) != found {
        return Err(altered("state", &format!("{of} / {key}")));
    }
    Ok(Some(StateEntry { key: key.to_owned(), json: Some(json) }))
}

/// Whether a checkpoint has any state.
pub(super) fn exists(c: &Connection, of: &CheckpointKey) -> Result<bool> {
    Ok(manifest::get(c, Shelf::of_state(of))?.is_some_and(|manifest| manifest.rows > 0))
}

/// Writes the changed entries.
pub(super) fn apply(c: &Connection, of: &CheckpointKey, entries: &[StateEntry]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut sum = manifest::get(c, Shelf::of_state(of))?.unwrap_or_default();
    for entry in entries {
        let old = find(c, of, &entry.key)?.and_then(|old| old.json);
        let old = old.map(|json| checksum(of, &entry.key, &json));
        let new = entry.json.as_ref().map(|json| checksum(of, &entry.key, json));
        match (&entry.json, new) {
            (Some(json), Some(new)) => put(c, of, &entry.key, json, new)?,
            _ => remove(c, of, &entry.key)?,
        }
        sum = match (old, new) {
            (Some(old), Some(new)) => sum.replacing(old, new),
            (Some(old), None) => sum.without(old),
            (None, Some(new)) => sum.with(new),
            (None, None) => sum,
        };
    }
    manifest::change(c, Shelf::of_state(of), |_| sum)
}

fn put(c: &Connection, of: &CheckpointKey, key: &str, json: &str, sum: Checksum) -> Result<()> {
    let sql = "INSERT INTO state (pipeline, partition, sink, key, json, checksum)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)
        ON CONFLICT DO UPDATE SET json = excluded.json, checksum = excluded.checksum";
    let values = params![of.pipeline, of.partition, of.sink, key, json, sum.0];
    c.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

fn remove(c: &Connection, of: &CheckpointKey, key: &str) -> Result<()> {
    let sql = "DELETE FROM state
        WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3 AND key = ?4";
    c.prepare_cached(sql)?.execute([&of.pipeline, &of.partition, &of.sink, key])?;
    Ok(())
}

/// Removes all state of a checkpoint.
pub(super) fn forget(c: &Connection, of: &CheckpointKey) -> Result<()> {
    let sql = "DELETE FROM state WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3";
    c.prepare_cached(sql)?.execute([&of.pipeline, &of.partition, &of.sink])?;
    manifest::change(c, Shelf::of_state(of), |_| Manifest::default())
}

/// The checkpoints that have state, or had, of a pipeline.
pub(super) fn keys(c: &Connection, pipeline: &str) -> Result<Vec<CheckpointKey>> {
    let sql = "SELECT partition, sink FROM manifest WHERE pipeline = ?1 AND holds = 'state'
        UNION SELECT partition, sink FROM state WHERE pipeline = ?1";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([pipeline])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(CheckpointKey::new(pipeline, text(row, 0)?, text(row, 1)?));
    }
    Ok(keys)
}
