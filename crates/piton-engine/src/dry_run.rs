//! What would be delivered: transformed records, printed instead of written. No store, no claim.

use std::io::Write;

use piton_connectors::{
    batch::Batch,
    source::{Read, SourceError},
};
use piton_stores::MemoryStore;

use crate::{
    pipeline::Pipeline,
    run::{RunError, RunOptions, foresee},
    transform::Applied,
};

/// Prints the first `limit` transformed records as JSON lines.
///
/// # Errors
/// As a run: a record that cannot be read or transformed is named.
pub fn dry_run(pipeline: &Pipeline, limit: u64, out: &mut dyn Write) -> Result<(), RunError> {
    let of_source = |error| RunError::of_source(&pipeline.name, &error);
    let mut reader = pipeline.source.reader(&[]).map_err(of_source)?;
    let mut transforms = (pipeline.transforms)();
    let mut left = limit;
    while left > 0 {
        let batch = match reader.read(100).map_err(of_source)? {
            Read::Batch(batch) => batch,
            Read::Bad(bad) => {
                return Err(RunError::BadRecord { place: bad.place, reason: bad.reason });
            }
            Read::Idle | Read::Finished => return Ok(()),
        };
        for applied in transforms.apply(batch) {
            let Applied { batch, bad } =
                applied.map_err(|error| RunError::of_transform(&pipeline.name, &error))?;
            let first = bad.into_iter().next();
            let until = first.as_ref().map_or(batch.rows(), |bad| bad.before);
            print(&batch, until, &mut left, out)?;
            if let (Some(bad), true) = (first, left > 0) {
                return Err(RunError::BadRecord { place: bad.place, reason: bad.reason });
            }
        }
    }
    Ok(())
}

/// Finds transforms that do not fit the source, before anything is created: they are tried on its
/// first record. What cannot be read is left to the run, which says so with its place.
///
/// # Errors
/// [`RunError::Settings`] for a field that the records do not have.
pub fn rehearse(pipeline: &Pipeline) -> Result<(), RunError> {
    let first = if pipeline.source.is_bounded() { first(pipeline) } else { Ok(None) };
    first.map_or(Ok(()), |first| try_transforms(pipeline, first))
}

/// Decides everything that a run without a store decides before it writes, so that nothing is
/// created where it would be refused.
///
/// # Errors
/// As a run.
pub fn rehearse_first(pipeline: &Pipeline, options: &RunOptions) -> Result<(), RunError> {
    foresee(pipeline, &MemoryStore::new(), options)?;
    if !pipeline.source.is_bounded() {
        return Ok(());
    }
    let first = first(pipeline).map_err(|error| RunError::of_source(&pipeline.name, &error));
    match first {
        Ok(first) => try_transforms(pipeline, first),
        Err(error @ RunError::Settings { .. }) => Err(error),
        Err(_) => Ok(()),
    }
}

/// The source's first record, if it can be read.
fn first(pipeline: &Pipeline) -> Result<Option<Batch>, SourceError> {
    match pipeline.source.reader(&[])?.read(1)? {
        Read::Batch(batch) => Ok(Some(batch)),
        _ => Ok(None),
    }
}

fn try_transforms(pipeline: &Pipeline, first: Option<Batch>) -> Result<(), RunError> {
    let misfit = first.and_then(|batch| (pipeline.transforms)().apply(batch).find_map(Result::err));
    misfit.map_or(Ok(()), |error| Err(RunError::of_transform(&pipeline.name, &error)))
}

fn print(batch: &Batch, until: usize, left: &mut u64, out: &mut dyn Write) -> Result<(), RunError> {
    let mut line = Vec::new();
    for row in 0..until {
        if *left == 0 {
            break;
        }
        line.clear();
        let written = batch.write_json(row, &mut line).and_then(|()| {
            line.push(b'\n');
            out.write_all(&line)
        });
        written.map_err(|error| RunError::Failed(format!("standard output: {error}")))?;
        *left -= 1;
    }
    Ok(())
}
