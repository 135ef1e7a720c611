//! What a user types for a source that reads an outbox in PostgreSQL.

use std::{fmt, num::NonZeroUsize};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OutboxPosition;

/// Relays the messages of an outbox table in PostgreSQL, in the order (transaction, position), and
/// only those that no transaction in flight can precede any more.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutboxSettings {
    /// The database: `postgres://user:password@host:5432/database?sslmode=verify-full`. What it
    /// leaves out comes from `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`
    /// and `PGSSLROOTCERT`.
    pub url: String,
    /// The table, as `NAME` or `SCHEMA.NAME`, in the case in which the server keeps it.
    #[serde(default = "default_table")]
    pub table: String,
    /// Where to begin while no position is stored. A stored position always wins.
    #[serde(default)]
    pub start: Begin,
    /// The most messages to read at once.
    #[serde(default = "default_batch")]
    pub batch: NonZeroUsize,
    /// The table's own names for the columns, where they differ.
    #[serde(default)]
    pub columns: Columns,
    /// Deletes messages that every pipeline with this option has passed.
    #[serde(default)]
    pub delete_passed: bool,
}

impl fmt::Debug for OutboxSettings {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxSettings")
            .field("table", &self.table)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// Where to begin while no position is stored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// With the first message that is there.
    #[default]
    Beginning,
    /// With what is appended from now on, and with what transactions now in flight have appended.
    End,
    /// Nowhere: a stored position has to be there, or the run is refused.
    Last,
    /// After this position.
    After(After),
}

/// A position to begin after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct After(#[schemars(with = "Pair")] OutboxPosition);

/// The position of a message.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "it describes a position to editors")]
struct Pair {
    /// The transaction that appended it.
    transaction_id: String,
    /// Its position.
    position: i64,
}

/// The names of the columns in the table. Records always have the names on the left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// Ascending and unique (`bigint`).
    pub position: String,
    /// The transaction that appended the message (`xid8`).
    pub transaction_id: String,
    /// The message's own id: the stable id by which a receiver recognises a repeat.
    pub message_id: String,
    /// What kind of message it is.
    pub message_type: String,
    /// The message (`jsonb`, `json`, `text` or `bytea`).
    pub data: String,
    /// When it was appended (`timestamptz`).
    pub scheduled: String,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            position: "position".into(),
            transaction_id: "transaction_id".into(),
            message_id: "message_id".into(),
            message_type: "message_type".into(),
            data: "data".into(),
            scheduled: "scheduled".into(),
        }
    }
}

impl Columns {
    /// The name of a column, by the name that records have for it.
    pub fn named(&mut self, column: &str) -> Option<&mut String> {
        Some(match column {
            "position" => &mut self.position,
            "transaction_id" => &mut self.transaction_id,
            "message_id" => &mut self.message_id,
            "message_type" => &mut self.message_type,
            "data" => &mut self.data,
            "scheduled" => &mut self.scheduled,
            _ => return None,
        })
    }

    /// The six names, in the order in which records have them.
    pub fn all(&self) -> [&str; 6] {
        [
            &self.transaction_id,
            &self.position,
            &self.message_id,
            &self.message_type,
            &self.data,
            &self.scheduled,
        ]
    }
}

impl After {
    /// The position.
    pub(super) fn position(&self) -> &OutboxPosition {
        &self.0
    }
}

impl OutboxSettings {
    /// The outbox of that name in a database, with all else as it is by default.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            table: default_table(),
            start: Begin::default(),
            batch: default_batch(),
            columns: Columns::default(),
            delete_passed: false,
        }
    }

    /// Finds what cannot work, whatever the database holds.
    ///
    /// # Errors
    /// Says what is wrong and how to mend it.
    pub fn check(&self) -> Result<(), String> {
        if let Begin::After(After(OutboxPosition { fingerprint: Some(_), .. })) = &self.start {
            return Err("`start: {after: …}` takes `transaction_id` and `position` alone".into());
        }
        let parts: Vec<&str> = self.table.split('.').collect();
        if parts.len() > 2 || parts.iter().any(|part| !is_name(part)) {
            return Err(format!(
                "`table: {}` is not a table: write NAME or SCHEMA.NAME",
                self.table.escape_debug()
            ));
        }
        let names = self.columns.all();
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            return Err(format!("`columns` has '{}', which is not a name", name.escape_debug()));
        }
        let twice = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name));
        match twice {
            Some((_, name)) => Err(format!("`columns` names '{name}' twice")),
            None => Ok(()),
        }
    }
}

/// Whether PostgreSQL can have something of this name.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() < 64 && !name.contains('\0')
}

fn default_table() -> String {
    "outbox".into()
}

fn default_batch() -> NonZeroUsize {
    const { NonZeroUsize::new(1000).unwrap() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(mut json: serde_json::Value) -> Result<OutboxSettings, String> {
        json["url"] = json!("postgres://h/d");
        serde_json::from_value(json).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let bare = settings(json!({})).unwrap();
        assert_eq!((bare.table.as_str(), bare.batch.get()), ("outbox", 1000));
        assert_eq!((bare.start.clone(), bare.delete_passed), (Begin::Beginning, false));
        assert_eq!(bare.columns.all()[..2], ["transaction_id", "position"]);
        bare.check().unwrap();
        let mapped = settings(json!({"columns": {"position": "id", "data": "payload"}})).unwrap();
        assert_eq!(mapped.columns.all()[1..5], ["id", "message_id", "message_type", "payload"]);
    }

    #[test]
    fn every_start_can_be_typed() {
        let start = |json| settings(json!({ "start": json })).map(|s| s.start);
        assert_eq!(start(json!("end")), Ok(Begin::End));
        assert_eq!(start(json!("last")), Ok(Begin::Last));
        for id in [json!("771"), json!(771)] {
            let after = start(json!({"after": {"transaction_id": id, "position": 5012}})).unwrap();
            assert_eq!(after, Begin::After(After(OutboxPosition::new(771, 5012))));
        }
        assert!(start(json!("first")).is_err());
        assert!(start(json!({"after": {"position": 5012}})).is_err());
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for (wrong, why) in [
            (json!({"table": ""}), "NAME or SCHEMA.NAME"),
            (json!({"table": "a.b.c"}), "NAME or SCHEMA.NAME"),
            (json!({"table": "shop."}), "NAME or SCHEMA.NAME"),
            (json!({"columns": {"data": ""}}), "not a name"),
            (json!({"columns": {"data": "message_id"}}), "'message_id' twice"),
            (
                json!({"start": {"after": {"transaction_id": "1", "position": 1,
                    "fingerprint": {"system": "1", "timeline": 1}}}}),
                "alone",
            ),
        ] {
            let error = settings(wrong).unwrap().check().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        for wrong in [json!({"batch": 0}), json!({"tabel": "t"}), json!({"columns": {"id": "x"}})] {
            assert!(settings(wrong).is_err());
        }
    }
}
