//! What would be delivered: transformed records, printed instead of written. No store, no claim.

use std::io::Write;

use piton_connectors::{batch::Batch, source::Read};

use crate::{pipeline::Pipeline, run::RunError, transform::Applied};

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
            Read::Idle if pipeline.source.is_bounded() => continue,
            Read::Idle | Read::Finished => return Ok(()),
        };
        for applied in transforms.apply(batch) {
            let Applied { batch, bad } =
                applied.map_err(|error| RunError::Settings(error.to_string()))?;
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
