//! The state that programs keep beside their position, a row for each key.

use piton_core::{CheckpointKey, StateEntry, checksum::Manifest};
use rusqlite::Connection;

use super::{
    manifest::{self, Shelf, Verified},
    rows::{altered, text},
    trouble::{Result, Trouble},
};
use crate::state_table::{StateError, StateTable};

const TABLE: StateTable = StateTable("state");

impl From<StateError> for Trouble {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Sql(error) => Self::Sql(error),
            StateError::Altered { row } => altered("state", &row),
        }
    }
}

/// All entries, compared with their manifest.
pub(super) fn all(c: &Connection, of: &CheckpointKey) -> Result<Vec<StateEntry>> {
    let (entries, sum) = TABLE.all(c, of)?;
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
    Ok(TABLE.find(c, of, key)?.into_iter().collect())
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
    let sum = manifest::get(c, Shelf::of_state(of))?.unwrap_or_default();
    let sum = TABLE.apply(c, of, entries, sum)?;
    manifest::change(c, Shelf::of_state(of), |_| sum)
}

/// Removes all state of a checkpoint.
pub(super) fn forget(c: &Connection, of: &CheckpointKey) -> Result<()> {
    TABLE.forget(c, of)?;
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
