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
};

/// Tries the transforms on the source's first record. What cannot be read is left to the run,
/// which says so with its place.
///
/// # Errors
/// [`RunError::Settings`] for a field that the records do not have.
pub fn rehearse(pipeline: &Pipeline) -> Result<(), RunError> {
    if (pipeline.transforms)().is_empty() || !pipeline.source.is_bounded() {
        return Ok(());
    }
    first_schema(pipeline).map(drop)
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
    if !pipeline.source.is_bounded() {
        return pipeline.source.reader(&[]).map(drop).map_err(|error| at(&error));
    }
    match first_schema(pipeline)? {
        Some(schema) if (pipeline.transforms)().gives_fixed_fields() => {
            pipeline.sinks.iter().try_for_each(|sink| find_key(sink, &schema))
        }
        _ => Ok(()),
    }
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

/// Refuses a key of which the records lack a column.
fn find_key(sink: &SinkSpec, schema: &Schema) -> Result<(), RunError> {
    let names = || schema.columns.iter().map(|column| &*column.name);
    let Some(lacking) = sink.key.iter().find(|key| !names().any(|n| n.eq_ignore_ascii_case(key)))
    else {
        return Ok(());
    };
    let hint = nearest(lacking, names()).map(|n| format!(": did you mean '{n}'?"));
    let hint = hint.unwrap_or_else(|| ".".to_owned());
    let known = names().collect::<Vec<_>>().join(", ");
    Err(RunError::Settings(format!(
        "{}: the key column '{lacking}' is none of the records' fields{hint} They are: {known}",
        sink.at
    )))
}
