//! What a user types for a command.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::Period;

/// Source `command`: each line that a command prints is a JSON object, which is a record. It ends
/// when the command ends with exit code 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSettings {
    /// The program and its arguments. It runs in the folder of this file. After a restart it finds
    /// the key of the last record that counts in the variable `PITON_POSITION`, and has to begin with
    /// the one after that.
    #[schemars(length(min = 1))]
    pub run: Vec<String>,
    /// The field that says where a record stands: a text or a number, different in each record.
    #[schemars(length(min = 1))]
    pub key: String,
}

/// Sink `command`: gives records to a command as JSON lines, `{"id": "…", "record": {…}}`, at least
/// once. A record is durable when the command has printed its id on a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSinkSettings {
    /// The program and its arguments. It runs in the folder of this file.
    #[schemars(length(min = 1))]
    pub run: Vec<String>,
    /// The most records that it has been given and has not answered.
    #[serde(default = "in_flight")]
    pub in_flight: NonZeroUsize,
    /// How long it may take until its next answer, and to end when there is nothing more.
    #[serde(default = "timeout")]
    pub timeout: Period,
}

fn in_flight() -> NonZeroUsize {
    NonZeroUsize::new(1000).unwrap_or(NonZeroUsize::MIN)
}

fn timeout() -> Period {
    Period::seconds(60)
}
