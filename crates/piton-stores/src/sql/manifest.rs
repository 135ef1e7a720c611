//! The manifest: how many rows each table has for a pipeline, and their checksums combined.
//!
//! A row's own checksum tells that it was altered; only the manifest tells that one is missing. It
//! lies on other pages than what it vouches for, and a pipeline that has a claim or a definition
//! must have the manifest of its checkpoints, so that no single page that is lost, or comes back
//! as it was before, turns a pipeline into one that never ran.

use std::collections::HashSet;

use piton_core::{CheckpointKey, checksum::Manifest};

use super::{
    Sql, Transaction,
    trouble::{Result, Trouble},
    value::values,
};

/// The rows that one manifest row vouches for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shelf<'a> {
    holds: &'static str,
    pipeline: &'a str,
    partition: &'a str,
    sink: &'a str,
}

impl<'a> Shelf<'a> {
    pub(crate) fn of(holds: Holds, pipeline: &'a str) -> Self {
        Self { holds: holds.as_str(), pipeline, partition: "", sink: "" }
    }

    /// State is counted for each checkpoint, because it is read for each.
    pub(crate) fn of_state(key: &'a CheckpointKey) -> Self {
        let holds = Holds::State.as_str();
        Self { holds, pipeline: &key.pipeline, partition: &key.partition, sink: &key.sink }
    }
}

/// What a manifest row speaks of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Holds {
    Checkpoints,
    Claims,
    Definition,
    /// Only those not applied yet: what decides is that one is pending.
    Orders,
    State,
    DeadLetters,
}

impl Holds {
    fn as_str(self) -> &'static str {
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

pub(crate) fn get(c: &mut dyn Sql, shelf: Shelf<'_>) -> Result<Option<Manifest>> {
    let Shelf { holds, pipeline, partition, sink } = shelf;
    let sql = r#"SELECT "rows", checksum FROM manifest
        WHERE pipeline = ? AND holds = ? AND "partition" = ? AND sink = ?"#;
    let found = c.query(sql, values![pipeline, holds, partition, sink])?;
    let read =
        |mut row: super::Row| Ok(Manifest { rows: row.number(0)?, checksum: row.checksum(1)? });
    found.into_iter().next().map(read).transpose()
}

/// Writes a manifest in place of the one that is there, or of none.
fn put(c: &mut dyn Sql, shelf: Shelf<'_>, old: Option<Manifest>, new: Manifest) -> Result<()> {
    let Shelf { holds, pipeline, partition, sink } = shelf;
    let sql = if old.is_some() {
        r#"UPDATE manifest SET "rows" = ?, checksum = ?
        WHERE pipeline = ? AND holds = ? AND "partition" = ? AND sink = ?"#
    } else {
        r#"INSERT INTO manifest ("rows", checksum, pipeline, holds, "partition", sink)
        VALUES (?, ?, ?, ?, ?, ?)"#
    };
    c.execute(sql, values![new.rows, new.checksum, pipeline, holds, partition, sink])?;
    Ok(())
}

/// Brings a manifest up to date within the transaction that changes its rows.
pub(crate) fn change(
    c: &mut dyn Sql,
    shelf: Shelf<'_>,
    change: impl FnOnce(Manifest) -> Manifest,
) -> Result<()> {
    let old = get(c, shelf)?;
    let before = old.unwrap_or_default();
    let new = change(before);
    if new == before { Ok(()) } else { put(c, shelf, old, new) }
}

/// Compares the rows that were found with what the manifest says.
pub(crate) fn check(c: &mut dyn Sql, shelf: Shelf<'_>, found: Manifest) -> Result<()> {
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
pub(crate) fn check_begun(c: &mut dyn Sql, pipeline: &str) -> Result<()> {
    if get(c, Shelf::of(Holds::Checkpoints, pipeline))?.is_some() {
        return Ok(());
    }
    let known = "SELECT pipeline FROM claims WHERE pipeline = ?
        UNION SELECT pipeline FROM pipelines WHERE pipeline = ?";
    if c.query(known, values![pipeline, pipeline])?.is_empty() {
        return Ok(());
    }
    let what = format!("the manifest of '{pipeline}' is missing, though it is a known pipeline");
    Err(Trouble::Damage(what))
}

/// Writes the manifest of a pipeline that is claimed or registered for the first time.
pub(crate) fn begin(c: &mut dyn Sql, pipeline: &str) -> Result<()> {
    check_begun(c, pipeline)?;
    let shelf = Shelf::of(Holds::Checkpoints, pipeline);
    if get(c, shelf)?.is_some() { Ok(()) } else { put(c, shelf, None, Manifest::default()) }
}

/// What a connection has compared with its manifest since it was opened. Later reads of the same
/// rows trust the database and the rows' own checksums.
#[derive(Default)]
pub(crate) struct Verified {
    connection: u64,
    pub(crate) pipelines: HashSet<String>,
    pub(crate) state: HashSet<CheckpointKey>,
}

impl Verified {
    /// What was compared on this very connection.
    pub(crate) fn on(&mut self, c: &dyn Transaction) -> &mut Self {
        let connection = c.connection();
        if self.connection != connection {
            *self = Self { connection, ..Self::default() };
        }
        self
    }
}
