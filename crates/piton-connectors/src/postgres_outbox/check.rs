//! A live table against what `piton sql postgres-outbox` prints.

use super::{session::Outbox, settings::OutboxSettings, shape};
use crate::source::SourceError;

/// What was found out about a live outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Which one, without the password.
    pub place: String,
    /// Why it cannot be read, each with what to do.
    pub misfits: Vec<String>,
    /// What may be meant otherwise.
    pub remarks: Vec<String>,
}

/// Looks at the table that the settings name, changing nothing.
///
/// # Errors
/// When it cannot be looked at: settings, connection, or no such table.
pub fn check(settings: &OutboxSettings) -> Result<Findings, SourceError> {
    let outbox = Outbox::of(settings, "", 0, false)?;
    let client = outbox.connect()?;
    let shape = shape::inspect(&client, settings);
    let shape = shape.map_err(|error| SourceError::from(outbox.trouble(&error)))?;
    let shape = shape.ok_or_else(|| outbox.missing())?;
    Ok(Findings { place: outbox.place(), misfits: shape.misfits, remarks: shape.remarks })
}
