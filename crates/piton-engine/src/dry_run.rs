//! What would be delivered: transformed records, printed instead of written. No store, no claim.

use std::io::Write;

use piton_connectors::{batch::Batch, source::Read};

use crate::{config::Config, connect, pipeline::Applied, run::RunError};

/// Prints the first `limit` transformed records as JSON lines.
///
/// # Errors
/// As a run: a record that cannot be read or transformed is named.
pub fn dry_run(config: &Config, limit: u64, out: &mut dyn Write) -> Result<(), RunError> {
    let pipeline = connect::pipeline(config)?;
    let of_source = |error| RunError::of_source(&pipeline.name, &error);
    let mut reader = pipeline.source.reader(&[]).map_err(of_source)?;
    let mut transform = (pipeline.transforms)();
    let mut left = limit;
    while left > 0 {
        let mut batch = match reader.read(100).map_err(of_source)? {
            Read::Batch(batch) => Some(batch),
            Read::Bad(bad) => {
                return Err(RunError::BadRecord { place: bad.place, reason: bad.reason });
            }
            Read::Idle | Read::Finished => return Ok(()),
        };
        while let Some(next) = batch.take() {
            let Applied { batch: done, failed } = transform.apply(next);
            print(&done, &mut left, out)?;
            if let (Some(failed), true) = (failed, left > 0) {
                return Err(RunError::BadRecord { place: failed.place, reason: failed.reason });
            }
        }
    }
    Ok(())
}

fn print(batch: &Batch, left: &mut u64, out: &mut dyn Write) -> Result<(), RunError> {
    let mut line = Vec::new();
    for row in 0..batch.rows() {
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
