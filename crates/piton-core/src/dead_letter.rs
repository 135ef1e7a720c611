//! Dead letters: records set aside, so that the rest can go on.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::checksum::Checksum;

/// A record that could not be delivered, kept with the reason. Keyed by (pipeline, sink, id) and
/// inserted if absent, so that a replay never sets the same record aside twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The pipeline's name.
    pub pipeline: String,
    /// The sink that refused it, or [`READING`] when it could not be read or transformed.
    pub sink: String,
    /// The record's stable id.
    pub id: String,
    /// The partition it was read from.
    pub partition: String,
    /// Where it stands, as a person finds it: file, line, column.
    pub place: String,
    /// Why it was set aside.
    pub reason: String,
    /// The record as it was read, lossily decoded if it is not UTF-8.
    pub record: String,
    /// When it was set aside.
    pub at: Timestamp,
}

/// The sink name of records that failed before any sink saw them.
pub const READING: &str = "(reading)";

impl DeadLetter {
    /// The checksum over every column, kept in the row.
    pub fn checksum(&self) -> Checksum {
        Checksum::build()
            .text(&self.pipeline)
            .text(&self.sink)
            .text(&self.id)
            .text(&self.partition)
            .text(&self.place)
            .text(&self.reason)
            .text(&self.record)
            .text(&self.at.to_string())
            .finish()
    }
}
