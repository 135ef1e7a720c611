//! What a user types for a MySQL sink.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    connect::Server,
    name::{MYSQL, Pattern},
};
use crate::{deletes::Deletes, settings::Mode};

/// Writes into tables of a MySQL or MariaDB database, exactly once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MySqlSettings {
    /// The database: `mysql://user:password@host:3306/database?ssl-mode=verify_identity`. Without
    /// a password in it, `MYSQL_PWD` of the environment is used.
    pub url: String,
    /// The table, as `table` or `database.table`. A field of the record may choose it:
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

impl fmt::Debug for MySqlSettings {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, mode, key, delete, create, .. } = self;
        let mut shown = f.debug_struct("MySqlSettings");
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

impl Target {
    /// The fields of a record that decide what becomes of it. They are written only if the table
    /// has such columns.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.table.fields().chain(self.delete.fields())
    }
}

impl MySqlSettings {
    /// The mode in force.
    ///
    /// # Errors
    /// Says what is missing or contradicts itself.
    pub fn mode(&self) -> Result<Mode, String> {
        Mode::of(self.mode, &self.key)
    }

    /// Where it is, for people, without a password.
    pub fn location(&self) -> String {
        Server::parse(&self.url).map_or_else(|_| "mysql".to_owned(), |s| s.location().to_owned())
    }

    /// Finds what cannot work, whatever the database holds.
    pub(super) fn check(&self) -> Result<Target, String> {
        let server = Server::parse(&self.url)?;
        let table = Pattern::parse(&self.table, MYSQL)?;
        let mode = self.mode()?;
        self.delete.check(mode)?;
        for (i, name) in self.key.iter().enumerate() {
            super::name::check(name, MYSQL).map_err(|why| format!("`key`: {why}"))?;
            // The server does not tell names of columns apart by their capitals.
            if self.key[..i].iter().any(|other| other.eq_ignore_ascii_case(name)) {
                return Err(format!("`key` names '{name}' twice"));
            }
        }
        let (key, delete) = (self.key.clone(), self.delete.clone());
        Ok(Target { server, table, mode, key, delete, create: self.create })
    }
}

fn yes() -> bool {
    true
}
