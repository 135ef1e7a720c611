//! What a user types for a `SQLite` sink.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Writes into a table of a `SQLite` database, exactly once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteSettings {
    /// The database file. Created if it is not there, unless `create` is false.
    pub path: PathBuf,
    /// The table.
    pub table: String,
    /// `upsert` writes over the row with the same key, `append` always adds. Without it: `upsert`
    /// when there is a `key`, else `append`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The columns that identify a row, for `upsert`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Whether the table is created from the first records, and given new columns later.
    #[serde(default = "yes")]
    pub create: bool,
}

/// What becomes of a record whose key is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It replaces the row; a row that is already equal is left alone and fires no trigger.
    Upsert,
    /// It is added beside it.
    Append,
}

impl SqliteSettings {
    /// The mode in force.
    ///
    /// # Errors
    /// Says what is missing or contradicts itself.
    pub fn mode(&self) -> Result<Mode, String> {
        match (self.mode, self.key.is_empty()) {
            (Some(Mode::Upsert), true) => Err("`mode: upsert` needs `key`, the columns that \
                 identify a row; without one, use `mode: append`"
                .into()),
            (Some(Mode::Append), false) => Err("`mode: append` adds every record and has no use \
                 for `key`: leave `key` out, or use `mode: upsert`"
                .into()),
            (None | Some(Mode::Append), true) => Ok(Mode::Append),
            (None | Some(Mode::Upsert), false) => Ok(Mode::Upsert),
        }
    }

    /// Finds what cannot work, whatever the database holds.
    pub(super) fn check(&self) -> Result<Mode, String> {
        let table = self.table.to_ascii_lowercase();
        if table.starts_with("piton_") || table.starts_with("sqlite_") {
            return Err(format!("the table name '{}' is reserved: name another", self.table));
        }
        for name in self.key.iter().chain([&self.table]) {
            if name.is_empty() || name.contains('\0') {
                return Err(format!(
                    "'{}' is not a name: give `table` and `key` names",
                    name.escape_debug()
                ));
            }
        }
        let twice = |(i, name): (usize, &String)| {
            self.key[..i].iter().any(|other| other.eq_ignore_ascii_case(name))
        };
        if let Some((_, name)) = self.key.iter().enumerate().find(|(i, name)| twice((*i, name))) {
            return Err(format!("`key` names '{name}' twice"));
        }
        self.mode()
    }
}

fn yes() -> bool {
    true
}
