//! What a user types for a PostgreSQL sink.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    connect::Server,
    name::{POSTGRES, Pattern},
    table::Rights,
};
use crate::{deletes::Deletes, settings::Mode};

/// Writes into tables of a PostgreSQL database, exactly once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresSettings {
    /// The database: `postgres://user:password@host:5432/database?sslmode=verify-full`. What it
    /// leaves out comes from `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`
    /// and `PGSSLROOTCERT`.
    pub url: String,
    /// The table, as `table` or `schema.table`. A field of the record may choose it:
    /// `"${record.table}"`.
    pub table: String,
    /// `upsert` writes over the row with the same key, `append` always adds. Without it: `upsert`
    /// when there is a `key`, else `append`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The columns that identify a row, for `upsert`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Which records delete the row with their key instead of writing it: `{op: [d, t]}`.
    #[serde(default, skip_serializing_if = "Deletes::is_empty")]
    pub delete: Deletes,
    /// Whether a table is created from its first records, and given new columns later.
    #[serde(default = "yes")]
    pub create: bool,
}

impl fmt::Debug for PostgresSettings {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, mode, key, delete, create, .. } = self;
        let mut shown = f.debug_struct("PostgresSettings");
        shown
            .field("table", table)
            .field("mode", mode)
            .field("key", key)
            .field("delete", delete)
            .field("create", create);
        shown.finish_non_exhaustive()
    }
}

/// What settings mean, once they are found to make sense.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) server: Server,
    pub(super) table: Pattern,
    pub(super) mode: Mode,
    pub(super) key: Vec<String>,
    pub(super) delete: Deletes,
    pub(super) create: bool,
}

impl PostgresSettings {
    /// The mode in force.
    ///
    /// # Errors
    /// Says what is missing or contradicts itself.
    pub fn mode(&self) -> Result<Mode, String> {
        Mode::of(self.mode, &self.key)
    }

    /// Where it is, for people, without a password.
    pub fn location(&self) -> String {
        Server::parse(&self.url).map_or_else(|_| "postgres".to_owned(), |s| s.location().to_owned())
    }

    /// Finds what cannot work, whatever the database holds.
    pub(super) fn check(&self) -> Result<Target, String> {
        let server = Server::parse(&self.url).map_err(|e| e.to_string())?;
        let table = Pattern::parse(&self.table, POSTGRES)?;
        let mode = self.mode()?;
        self.delete.check(mode)?;
        for (i, name) in self.key.iter().enumerate() {
            super::name::check(name, POSTGRES).map_err(|why| format!("`key`: {why}"))?;
            if self.key[..i].contains(name) {
                return Err(format!("`key` names '{name}' twice"));
            }
        }
        let (key, delete) = (self.key.clone(), self.delete.clone());
        Ok(Target { server, table, mode, key, delete, create: self.create })
    }
}

impl Target {
    /// The fields of a record that decide what becomes of it. They are written only if the table has
    /// such columns.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.table.fields().chain(self.delete.fields())
    }

    /// What will be done with rows.
    pub(super) fn rights(&self) -> Rights {
        match (self.mode, self.delete.is_empty()) {
            (Mode::Append, _) => Rights::Insert,
            (Mode::Upsert, true) => Rights::Write,
            (Mode::Upsert, false) => Rights::Delete,
        }
    }
}

fn yes() -> bool {
    true
}
