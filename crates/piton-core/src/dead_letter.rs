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
    /// The sink that refused it; or [`READING`] or [`TRANSFORMING`] when no sink has seen it.
    pub sink: String,
    /// The record's stable id.
    pub id: String,
    /// The partition it was read from.
    pub partition: String,
    /// Where it stands, as a person finds it: file, line, column.
    pub place: String,
    /// Why it was set aside.
    pub reason: String,
    /// The record: as it stands in the source, lossily decoded if it is not UTF-8, when it could
    /// not be read; as the JSON that the transforms or the sink were given otherwise.
    pub record: String,
    /// When it was set aside.
    pub at: Timestamp,
}

/// In place of a sink's name: the record could not be read.
pub const READING: &str = "(reading)";

/// In place of a sink's name: the record was read, and a transform could not take it.
pub const TRANSFORMING: &str = "(transform)";

/// Whether a letter goes to every sink once it is mended, for none has seen it.
pub fn is_before_sinks(sink: &str) -> bool {
    sink == READING || sink == TRANSFORMING
}

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
