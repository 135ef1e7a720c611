//! What cannot work, found before anything is created: a mistake in the configuration leaves no
//! trace.
//!
//! A run that begins a new pipeline would otherwise make the store, and perhaps a sink's database,
//! only to say that a path is wrong.

use piton_connectors::{
    batch::Schema,
    source::{Read, SourceError},
};
use piton_core::Store;

use crate::{
    config::nearest,
    pipeline::{Pipeline, SinkSpec},
    run::{RunError, RunOptions, foresee},
    steer::sinks_of,
};

/// Tries the transforms on the source's first record, and looks for the fields that the sinks need.
/// What cannot be read is left to the run, which says so with its place.
///
/// # Errors
/// [`RunError::Settings`] for a field that the records do not have.
pub fn rehearse(pipeline: &Pipeline) -> Result<(), RunError> {
    // For the first record of a query, a database may have to work as long as for all of them.
    let is_cheap = pipeline.source.kind() == "csv";
    let transforms = !(pipeline.transforms)().is_empty();
    let is_tried = pipeline.source.is_bounded() && !does_something(pipeline);
    if !is_tried || !(transforms || is_cheap) {
        return Ok(());
    }
    let schema = first_schema(pipeline)?;
    if is_cheap { find_fields(pipeline, schema.as_deref()) } else { Ok(()) }
}

/// Of two reasons not to run the graver one: that a field is not there may be because the source
/// is another, which is refused.
pub fn graver(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
    mistake: RunError,
) -> RunError {
    match foresee(pipeline, store, options) {
        Err(refusal @ RunError::Refused(_)) => refusal,
        _ => mistake,
    }
}

/// Decides what a run would decide that creates the store, creating nothing. `store` is an empty
/// one.
///
/// # Errors
/// As the run: a source that is not there, a sink that cannot be written to, a key that the records
/// do not have.
pub fn first_run(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
) -> Result<(), RunError> {
    foresee(pipeline, store, options)?;
    let at = |error: &SourceError| RunError::of_source(&pipeline.source_at, error);
    if does_something(pipeline) {
        return Ok(());
    }
    if !pipeline.source.is_bounded() {
        return pipeline.source.reader(&[]).map(drop).map_err(|error| at(&error));
    }
    find_fields(pipeline, first_schema(pipeline)?.as_deref())
}

/// Whether reading has effects, which nobody asked for yet.
fn does_something(pipeline: &Pipeline) -> bool {
    pipeline.source.kind() == "command"
}

/// The columns that the sinks are given; `None` if the first record does not tell.
fn first_schema(pipeline: &Pipeline) -> Result<Option<std::sync::Arc<Schema>>, RunError> {
    let read = pipeline.source.reader(&[]).and_then(|mut reader| reader.read(1));
    let batch = match read {
        Ok(Read::Batch(batch)) => batch,
        Err(error @ SourceError::Settings { .. }) => {
            return Err(RunError::of_source(&pipeline.source_at, &error));
        }
        // The run says so, with its place.
        _ => return Ok(None),
    };
    let mut transforms = (pipeline.transforms)();
    match transforms.apply(batch).next() {
        Some(Ok(applied)) => Ok(Some(applied.batch.schema)),
        Some(Err(error)) => Err(pipeline.of_transform(&error)),
        None => Ok(None),
    }
}

/// Refuses sinks that need a field which the records never have, where that can be told from the
/// first.
fn find_fields(pipeline: &Pipeline, first: Option<&Schema>) -> Result<(), RunError> {
    let Some(schema) = first.filter(|_| (pipeline.transforms)().gives_fixed_fields()) else {
        return Ok(());
    };
    let records = sinks_of(&pipeline.record);
    let has = |key: &str| schema.columns.iter().any(|c| c.name.eq_ignore_ascii_case(key));
    for sink in &pipeline.sinks {
        if let Some(key) = sink.key.iter().find(|key| !has(key)) {
            return Err(lacking(sink, schema, "the key column", key));
        }
        let record = records.iter().find(|record| record.name == sink.name);
        let table = record.and_then(|record| record.table.as_deref()).unwrap_or_default();
        if let Some(field) = fields_in(table).find(|field| schema.index_of(field).is_none()) {
            return Err(lacking(sink, schema, &format!("`table: {table}`: the field"), field));
        }
    }
    Ok(())
}

/// The fields of the record on which the name of a table depends.
fn fields_in(table: &str) -> impl Iterator<Item = &str> {
    table.split("${record.").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0))
}

fn lacking(sink: &SinkSpec, schema: &Schema, what: &str, name: &str) -> RunError {
    let names = || schema.columns.iter().map(|column| &*column.name);
    let hint = nearest(name, names()).map(|n| format!(": did you mean '{n}'?"));
    let hint = hint.unwrap_or_else(|| ".".to_owned());
    let known = names().collect::<Vec<_>>().join(", ");
    RunError::Settings(format!(
        "{}: {what} '{name}' is none of the records' fields{hint} They are: {known}",
        sink.at
    ))
}
