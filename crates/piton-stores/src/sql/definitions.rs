//! The registered definitions of pipelines, and what an operator wants of them.

use piton_core::{
    Control, Event, PipelineRecord,
    checksum::{Checksum, Form, Manifest},
};

use super::{
    Sql,
    manifest::{self, Holds, Shelf},
    runs,
    trouble::{Result, altered},
    value::values,
};
use crate::rules;

/// A pipeline's definition, compared with its manifest.
pub(crate) fn find(c: &mut dyn Sql, pipeline: &str) -> Result<Option<PipelineRecord>> {
    Ok(find_row(c, pipeline)?.map(|(record, _)| record))
}

/// A definition with the checksum that its row carries.
fn find_row(c: &mut dyn Sql, pipeline: &str) -> Result<Option<(PipelineRecord, Checksum)>> {
    let sql = "SELECT source, transforms, sinks, control, file, checksum FROM pipelines
        WHERE pipeline = ?";
    let (mut found, mut sum) = (None, Manifest::default());
    for mut row in c.query(sql, values![pipeline])? {
        let record = PipelineRecord {
            pipeline: pipeline.to_owned(),
            source: row.text(0)?,
            transforms: row.text(1)?,
            sinks: row.text(2)?,
            control: row.word(3, Control::parse)?,
            file: row.maybe_text(4)?,
        };
        let checksum = row.checksum(5)?;
        if Form::of(checksum, |form| record.checksum_as(form)).is_none() {
            return Err(altered("pipelines", &pipeline));
        }
        sum = sum.with(checksum);
        found = Some((record, checksum));
    }
    manifest::check(c, Shelf::of(Holds::Definition, pipeline), sum)?;
    Ok(found)
}

/// Every definition, and none that the manifest has and the table lacks.
pub(crate) fn all(c: &mut dyn Sql) -> Result<Vec<PipelineRecord>> {
    let sql = "SELECT pipeline FROM pipelines
        UNION SELECT pipeline FROM manifest WHERE holds = 'definition' ORDER BY pipeline";
    let mut records = Vec::new();
    for mut row in c.query(sql, values![])? {
        records.extend(find(c, &row.text(0)?)?);
    }
    Ok(records)
}

/// Writes a definition in place of what is there.
pub(crate) fn put(c: &mut dyn Sql, record: &PipelineRecord) -> Result<()> {
    let old = find_row(c, &record.pipeline)?;
    manifest::begin(c, &record.pipeline)?;
    let checksum = record.checksum();
    let sql = if old.is_some() {
        "UPDATE pipelines SET source = ?, transforms = ?, sinks = ?, control = ?, file = ?,
        checksum = ? WHERE pipeline = ?"
    } else {
        "INSERT INTO pipelines (source, transforms, sinks, control, file, checksum, pipeline)
        VALUES (?, ?, ?, ?, ?, ?, ?)"
    };
    c.execute(
        sql,
        values![
            &record.source,
            &record.transforms,
            &record.sinks,
            record.control.as_str(),
            &record.file,
            checksum,
            &record.pipeline,
        ],
    )?;
    let shelf = Shelf::of(Holds::Definition, &record.pipeline);
    manifest::change(c, shelf, |manifest| match old {
        Some((_, old)) => manifest.replacing(old, checksum),
        None => manifest.with(checksum),
    })
}

/// Registers a definition, or replaces it; its control stays as it is.
pub(crate) fn register(c: &mut dyn Sql, record: &PipelineRecord) -> Result<()> {
    let old = find(c, &record.pipeline)?;
    let control = old.map_or(record.control, |old| old.control);
    put(c, &PipelineRecord { control, ..record.clone() })
}

pub(crate) fn set_control(
    c: &mut dyn Sql,
    name: &str,
    control: Control,
    event: &Event,
    at: &str,
) -> Result<()> {
    let record = find(c, name)?.ok_or_else(|| rules::unregistered(name, at))?;
    put(c, &PipelineRecord { control, ..record })?;
    runs::record(c, event)
}
