//! Many checkpoints as one parameter of one statement, for a database to which each statement is a
//! journey: JSON, which every server can turn into rows.

use piton_core::{Checkpoint, CheckpointKey, Claim, Save, checksum::Checksum};
use serde::Serialize;

use super::trouble::{Result, Trouble};
use crate::state_table;

/// Everything that one save of many partitions needs to be decided and written in the server.
pub(crate) struct Batch<'a> {
    /// The claim that it is saved under.
    pub(crate) claim: &'a Claim,
    /// The new checkpoints, and what they expect to replace: an array of objects.
    pub(crate) rows: String,
    /// Changed entries of state: an array of objects.
    pub(crate) state: String,
    /// Whether what is replaced goes to history.
    pub(crate) with_history: bool,
}

impl<'a> Batch<'a> {
    /// The batch of saves, with the checkpoints that they make.
    pub(crate) fn of(
        claim: &'a Claim,
        saves: &[Save],
        new: &[Checkpoint],
        with_history: bool,
    ) -> Result<Self> {
        let rows: Vec<Row<'_>> =
            saves.iter().zip(new).map(|(save, new)| Row::of(new).expecting(save)).collect();
        let state: Vec<Entry<'_>> = saves.iter().flat_map(entries).collect();
        Ok(Self { claim, rows: json(&rows)?, state: json(&state)?, with_history })
    }
}

/// The checkpoints as an array of objects that are named like their columns.
pub(crate) fn rows_of<'a>(new: impl Iterator<Item = &'a Checkpoint>) -> Result<String> {
    json(&new.map(Row::of).collect::<Vec<_>>())
}

fn json(rows: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(rows);
    text.map_err(|error| Trouble::io("rows could not be written as JSON", error.into()))
}

#[derive(Serialize)]
struct Row<'a> {
    partition: &'a str,
    sink: &'a str,
    position: Option<&'a str>,
    records: i64,
    version: i64,
    epoch: i64,
    schema_version: i64,
    updated_at: String,
    kind: Option<&'a str>,
    sink_state: Option<&'a str>,
    checksum: i64,
    expected_version: i64,
    expected_position: Option<&'a str>,
    expected_kind: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(new: &'a Checkpoint) -> Self {
        let position = new.position.as_ref();
        Self {
            partition: &new.key.partition,
            sink: &new.key.sink,
            position: position.map(|position| &*position.json),
            records: new.records as i64,
            version: new.version as i64,
            epoch: new.epoch.0 as i64,
            schema_version: new.schema_version as i64,
            updated_at: new.updated_at.to_string(),
            kind: position.map(|position| &*position.kind),
            sink_state: new.sink_state.as_deref(),
            checksum: new.checksum().0,
            expected_version: 0,
            expected_position: None,
            expected_kind: None,
        }
    }

    fn expecting(self, save: &'a Save) -> Self {
        let expected = save.expected.as_ref();
        Self {
            expected_version: save.expected_version as i64,
            expected_position: expected.map(|position| &*position.json),
            expected_kind: expected.map(|position| &*position.kind),
            ..self
        }
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    partition: &'a str,
    sink: &'a str,
    key: &'a str,
    json: Option<&'a str>,
    checksum: i64,
}

/// The entries that a save changes, each key once: the last word on it counts.
fn entries(save: &Save) -> impl Iterator<Item = Entry<'_>> {
    let CheckpointKey { partition, sink, .. } = &save.key;
    let last = |(n, key): (usize, &str)| save.state[n + 1..].iter().all(|later| later.key != key);
    let entries = save.state.iter().enumerate();
    entries.filter(move |(n, entry)| last((*n, &entry.key))).map(move |(_, entry)| {
        let json = entry.json.as_deref();
        let checksum = json.map(|json| state_table::checksum(&save.key, &entry.key, json));
        let Checksum(checksum) = checksum.unwrap_or_default();
        Entry { partition, sink, key: &entry.key, json, checksum }
    })
}
