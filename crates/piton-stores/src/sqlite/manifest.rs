//! The manifest: how many rows each table has for a pipeline, and their checksums combined.
//!
//! A row's own checksum tells that it was altered; only the manifest tells that one is missing. It
//! lies on other pages than what it vouches for, and a pipeline that has a claim or a definition
//! must have the manifest of its checkpoints, so that no single page that is lost, or comes back
//! as it was before, turns a pipeline into one that never ran.

use std::collections::HashSet;

use piton_core::checksum::{Checksum, Manifest};
use rusqlite::{Connection, OptionalExtension, params};

use super::trouble::{Result, Trouble};

/// The rows that one manifest row vouches for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shelf<'a> {
    holds: &'static str,
    pipeline: &'a str,
    partition: &'a str,
    sink: &'a str,
}

impl<'a> Shelf<'a> {
    pub(super) fn of(holds: Holds, pipeline: &'a str) -> Self {
        Self { holds: holds.as_str(), pipeline, partition: "", sink: "" }
    }

    /// State is counted for each checkpoint, because it is read for each.
    pub(super) fn of_state(key: &'a piton_core::CheckpointKey) -> Self {
        let holds = Holds::State.as_str();
        Self { holds, pipeline: &key.pipeline, partition: &key.partition, sink: &key.sink }
    }
}

/// What a manifest row speaks of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Holds {
    Checkpoints,
    Claims,
    Definition,
    /// Only those not applied yet: what decides is that one is pending.
    Orders,
    State,
    DeadLetters,
}

impl Holds {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Checkpoints => "checkpoints",
            Self::Claims => "claims",
            Self::Definition => "definition",
            Self::Orders => "orders",
            Self::State => "state",
            Self::DeadLetters => "dead letters",
        }
    }
}

pub(super) fn get(c: &Connection, shelf: Shelf<'_>) -> Result<Option<Manifest>> {
    let sql = "SELECT rows, checksum FROM manifest
        WHERE pipeline = ?1 AND holds = ?2 AND partition = ?3 AND sink = ?4";
    let mut statement = c.prepare_cached(sql)?;
    let row = |row: &rusqlite::Row<'_>| {
        let rows: i64 = row.get(0)?;
        Ok(Manifest { rows: rows as u64, checksum: Checksum(row.get(1)?) })
    };
    let Shelf { holds, pipeline, partition, sink } = shelf;
    Ok(statement.query_row([pipeline, holds, partition, sink], row).optional()?)
}

fn put(c: &Connection, shelf: Shelf<'_>, manifest: Manifest) -> Result<()> {
    let sql = "INSERT INTO manifest (pipeline, holds, partition, sink, rows, checksum)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)
        ON CONFLICT DO UPDATE SET rows = excluded.rows, checksum = excluded.checksum";
    let Shelf { holds, pipeline, partition, sink } = shelf;
    let (rows, checksum) = (manifest.rows as i64, manifest.checksum.0);
    let values = params![pipeline, holds, partition, sink, rows, checksum];
    c.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Brings a manifest up to date within the transaction that changes its rows.
pub(super) fn change(
    c: &Connection,
    shelf: Shelf<'_>,
    change: impl FnOnce(Manifest) -> Manifest,
) -> Result<()> {
    let old = get(c, shelf)?.unwrap_or_default();
    let new = change(old);
    if new == old { Ok(()) } else { put(c, shelf, new) }
}

/// Compares the rows that were found with what the manifest says.
pub(super) fn check(c: &Connection, shelf: Shelf<'_>, found: Manifest) -> Result<()> {
    let said = get(c, shelf)?.unwrap_or_default();
    if said == found {
        return Ok(());
    }
    let Shelf { holds, pipeline, .. } = shelf;
    let (there, wanted) = (found.rows, said.rows);
    let what = if there == wanted {
        format!("'{pipeline}': {holds} and manifest do not add up")
    } else {
        format!("'{pipeline}': {holds}: {there} found where the manifest has {wanted}")
    };
    Err(Trouble::Damage(what))
}

/// Refuses a pipeline that is known (by a claim or its definition) and lacks its manifest.
pub(super) fn check_begun(c: &Connection, pipeline: &str) -> Result<()> {
    let known = "SELECT EXISTS (SELECT 1 FROM claims WHERE pipeline = ?1)
        OR EXISTS (SELECT 1 FROM pipelines WHERE pipeline = ?1)";
    let shelf = Shelf::of(Holds::Checkpoints, pipeline);
    if get(c, shelf)?.is_none()
        && c.prepare_cached(known)?.query_row([pipeline], |row| row.get(0))?
    {
        let what =
            format!("the manifest of '{pipeline}' is missing, though it is a known pipeline");
        return Err(Trouble::Damage(what));
    }
    Ok(())
}

/// Writes the manifest of a pipeline that is claimed or registered for the first time.
pub(super) fn begin(c: &Connection, pipeline: &str) -> Result<()> {
    check_begun(c, pipeline)?;
    let shelf = Shelf::of(Holds::Checkpoints, pipeline);
    if get(c, shelf)?.is_some() { Ok(()) } else { put(c, shelf, Manifest::default()) }
}

/// What this connection has compared with its manifest since it was opened. Later reads of the same
/// rows trust SQLite and the rows' own checksums.
#[derive(Default)]
pub(super) struct Verified {
    pub(super) pipelines: HashSet<String>,
    pub(super) state: HashSet<piton_core::CheckpointKey>,
}
