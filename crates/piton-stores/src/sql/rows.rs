//! Checkpoint rows: read, verified, replaced, with their manifest and history.

use std::collections::HashMap;

use piton_core::{
    Checkpoint, CheckpointKey, Epoch, StoredPosition,
    checksum::{Checksum, Form, Manifest},
};

use super::{
    Row, Sql, Transaction, Value,
    manifest::{self, Holds, Shelf},
    trouble::{Result, altered},
    value::values,
};

/// A checkpoint in its row.
#[derive(Debug)]
pub(crate) struct Found {
    checksum: Checksum,
    pub(crate) checkpoint: Checkpoint,
}

/// What a transaction does to one checkpoint: replaces, adds or removes it.
pub(crate) struct Change {
    pub(crate) old: Option<Found>,
    pub(crate) new: Option<Checkpoint>,
}

macro_rules! columns {
    () => {
        r#"position, records, version, epoch, schema_version, updated_at, kind, sink_state,
        checksum, pipeline, "partition", sink"#
    };
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT ", columns!(), " FROM ", $rest)
    };
}

/// Reads a row of `checkpoints` or `history`, and compares its checksum.
fn read(row: &mut Row, table: &str) -> Result<Found> {
    let key = CheckpointKey::new(row.text(9)?, row.text(10)?, row.text(11)?);
    let position = match (row.maybe_text(6)?, row.maybe_text(0)?) {
        (Some(kind), Some(json)) => Some(StoredPosition { kind, json }),
        (None, None) => None,
        _ => return Err(altered(table, &key)),
    };
    let checkpoint = Checkpoint {
        position,
        records: row.number(1)?,
        version: row.number(2)?,
        epoch: Epoch(row.number(3)?),
        schema_version: row.number(4)?,
        updated_at: row.time(5)?,
        sink_state: row.maybe_text(7)?,
        key,
    };
    let checksum = row.checksum(8)?;
    if Form::of(checksum, |form| checkpoint.checksum_as(form)).is_none() {
        return Err(altered(table, &checkpoint.key));
    }
    Ok(Found { checksum, checkpoint })
}

/// The rows of some checkpoints of one pipeline, in the order of the keys.
pub(crate) fn find_all(
    c: &mut dyn Transaction,
    pipeline: &str,
    keys: &[&CheckpointKey],
) -> Result<Vec<Option<Found>>> {
    if keys.len() > 1 && c.is_far() {
        return find_far(c, pipeline, keys);
    }
    keys.iter().map(|key| find(c, key)).collect()
}

fn find(c: &mut dyn Sql, key: &CheckpointKey) -> Result<Option<Found>> {
    let sql = select!(r#"checkpoints WHERE pipeline = ? AND "partition" = ? AND sink = ?"#);
    let mut rows = c.query(sql, values![&key.pipeline, &key.partition, &key.sink])?;
    rows.first_mut().map(|row| read(row, "checkpoints")).transpose()
}

/// So many keys are asked for at once where each question is a journey.
const AT_ONCE: usize = 64;

fn find_far(
    c: &mut dyn Sql,
    pipeline: &str,
    keys: &[&CheckpointKey],
) -> Result<Vec<Option<Found>>> {
    let sql = select!(r#"checkpoints WHERE pipeline = ? AND "partition" IN (?"#);
    let sql = format!("{sql}{})", ", ?".repeat(AT_ONCE - 1));
    let mut found = HashMap::new();
    for keys in keys.chunks(AT_ONCE) {
        let mut values: Vec<Value<'_>> = vec![pipeline.into()];
        values.extend(keys.iter().map(|key| Value::from(&key.partition)));
        // The places that are left over say the first one again.
        values.resize(1 + AT_ONCE, values[1]);
        for mut row in c.query(&sql, &values)? {
            let row = read(&mut row, "checkpoints")?;
            found.insert(row.checkpoint.key.clone(), row);
        }
    }
    Ok(keys.iter().map(|key| found.remove(*key)).collect())
}

/// The rows of a pipeline, compared with its manifest.
pub(crate) fn all(c: &mut dyn Sql, pipeline: &str) -> Result<Vec<Found>> {
    let sql = select!(r#"checkpoints WHERE pipeline = ? ORDER BY "partition", sink"#);
    let (mut found, mut sum) = (Vec::new(), Manifest::default());
    for mut row in c.query(sql, values![pipeline])? {
        let row = read(&mut row, "checkpoints")?;
        sum = sum.with(row.checksum);
        found.push(row);
    }
    manifest::check(c, Shelf::of(Holds::Checkpoints, pipeline), sum)?;
    manifest::check_begun(c, pipeline)?;
    Ok(found)
}

/// The present checkpoints of a pipeline.
pub(crate) fn load(c: &mut dyn Sql, pipeline: &str) -> Result<Vec<Checkpoint>> {
    Ok(all(c, pipeline)?.into_iter().map(|found| found.checkpoint).collect())
}

/// Earlier checkpoints of a pipeline, newest first, with their numbers.
pub(crate) fn history(
    c: &mut dyn Sql,
    pipeline: &str,
    limit: u64,
) -> Result<Vec<(u64, Checkpoint)>> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        ", id FROM history WHERE pipeline = ? ORDER BY id DESC LIMIT ?"
    );
    let rows = c.query(sql, values![pipeline, limited(limit)])?;
    let read = |mut row: Row| Ok((row.number(12)?, read(&mut row, "history")?.checkpoint));
    rows.into_iter().map(read).collect()
}

/// Databases' limits are signed.
pub(crate) fn limited(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Makes changes to checkpoints of one pipeline, with their manifest and, if asked, the history of
/// what they replace.
pub(crate) fn change(
    c: &mut dyn Transaction,
    pipeline: &str,
    changes: &[Change],
    with_history: bool,
) -> Result<()> {
    let replaces = |change: &Change| change.new.is_some();
    if changes.iter().all(replaces) && c.put_all(pipeline, changes, with_history)? {
        return Ok(());
    }
    let mut sum = Checksum::default();
    let (mut added, mut removed) = (0_u64, 0_u64);
    for Change { old, new } in changes {
        if let (Some(old), true) = (old, with_history) {
            remember(c, &old.checkpoint)?;
        }
        let after = match (old, new) {
            (Some(_), Some(new)) => write(c, UPDATE, new)?,
            (Some(old), None) => delete(c, &old.checkpoint.key)?,
            (None, Some(new)) => write(c, INSERT, new)?,
            (None, None) => Checksum::default(),
        };
        let before = old.as_ref().map_or(Checksum::default(), |old| old.checksum);
        sum = sum.combine(before).combine(after);
        added += u64::from(old.is_none() && new.is_some());
        removed += u64::from(old.is_some() && new.is_none());
    }
    manifest::change(c, Shelf::of(Holds::Checkpoints, pipeline), |manifest| Manifest {
        rows: (manifest.rows + added).saturating_sub(removed),
        checksum: manifest.checksum.combine(sum),
    })
}

const INSERT: &str = concat!(
    "INSERT INTO checkpoints (",
    columns!(),
    ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
);

const UPDATE: &str = r#"UPDATE checkpoints SET position = ?, records = ?, version = ?, epoch = ?,
    schema_version = ?, updated_at = ?, kind = ?, sink_state = ?, checksum = ?
    WHERE pipeline = ? AND "partition" = ? AND sink = ?"#;

const INTO_HISTORY: &str =
    concat!("INSERT INTO history (", columns!(), ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");

fn write(c: &mut dyn Sql, sql: &str, row: &Checkpoint) -> Result<Checksum> {
    let checksum = row.checksum();
    let position = row.position.as_ref();
    c.execute(
        sql,
        values![
            position.map(|position| &position.json),
            row.records,
            row.version,
            row.epoch,
            row.schema_version,
            &row.updated_at.to_string(),
            position.map(|position| &position.kind),
            &row.sink_state,
            checksum,
            &row.key.pipeline,
            &row.key.partition,
            &row.key.sink,
        ],
    )?;
    Ok(checksum)
}

/// Writes a row of history.
pub(crate) fn remember(c: &mut dyn Sql, row: &Checkpoint) -> Result<()> {
    write(c, INTO_HISTORY, row).map(|_| ())
}

fn delete(c: &mut dyn Sql, key: &CheckpointKey) -> Result<Checksum> {
    let sql = r#"DELETE FROM checkpoints WHERE pipeline = ? AND "partition" = ? AND sink = ?"#;
    c.execute(sql, values![&key.pipeline, &key.partition, &key.sink])?;
    Ok(Checksum::default())
}
