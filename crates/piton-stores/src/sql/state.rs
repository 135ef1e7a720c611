//! The state that programs keep beside their position, a row for each key.

use piton_core::{CheckpointKey, StateEntry, checksum::Manifest};

use super::{
    Sql, Transaction,
    manifest::{self, Shelf, Verified},
    trouble::Result,
    value::values,
};
use crate::state_table::StateTable;

const TABLE: StateTable = StateTable("state");

/// All entries, compared with their manifest.
pub(crate) fn all(c: &mut dyn Sql, of: &CheckpointKey) -> Result<Vec<StateEntry>> {
    let (entries, sum) = TABLE.all(c, of)?;
    manifest::check(c, Shelf::of_state(of), sum)?;
    Ok(entries)
}

/// One entry, or all. That nothing is missing is looked at once for each connection, not with
/// every key.
pub(crate) fn read(
    c: &mut dyn Transaction,
    verified: &mut Verified,
    of: &CheckpointKey,
    key: Option<&str>,
) -> Result<Vec<StateEntry>> {
    let Some(key) = key else {
        return all(c, of);
    };
    let verified = verified.on(c);
    if !verified.state.contains(of) {
        all(c, of)?;
        verified.state.insert(of.clone());
    }
    Ok(TABLE.find(c, of, key)?.into_iter().collect())
}

/// Whether a checkpoint has any state.
pub(crate) fn exists(c: &mut dyn Sql, of: &CheckpointKey) -> Result<bool> {
    Ok(manifest::get(c, Shelf::of_state(of))?.is_some_and(|manifest| manifest.rows > 0))
}

/// Writes the changed entries.
pub(crate) fn apply(c: &mut dyn Sql, of: &CheckpointKey, entries: &[StateEntry]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let sum = manifest::get(c, Shelf::of_state(of))?.unwrap_or_default();
    let sum = TABLE.apply(c, of, entries, sum)?;
    manifest::change(c, Shelf::of_state(of), |_| sum)
}

/// Removes all state of a checkpoint.
pub(crate) fn forget(c: &mut dyn Sql, of: &CheckpointKey) -> Result<()> {
    TABLE.forget(c, of)?;
    manifest::change(c, Shelf::of_state(of), |_| Manifest::default())
}

/// The checkpoints that have state, or had, of a pipeline.
pub(crate) fn keys(c: &mut dyn Sql, pipeline: &str) -> Result<Vec<CheckpointKey>> {
    let sql = r#"SELECT "partition", sink FROM manifest WHERE pipeline = ? AND holds = 'state'
        UNION SELECT "partition", sink FROM state WHERE pipeline = ?"#;
    let mut keys = Vec::new();
    for mut row in c.query(sql, values![pipeline, pipeline])? {
        keys.push(CheckpointKey::new(pipeline, row.text(0)?, row.text(1)?));
    }
    keys.sort();
    Ok(keys)
}
