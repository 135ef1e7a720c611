//! What a user types for a `SQLite` sink and a SQL source.

use std::{num::NonZeroUsize, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::settings::Mode;
use crate::settings::{Bound, Dialect, Period, with_values};

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

impl SqliteSettings {
    /// The mode in force.
    ///
    /// # Errors
    /// Says what is missing or contradicts itself.
    pub fn mode(&self) -> Result<Mode, String> {
        Mode::of(self.mode, &self.key)
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

/// Reads a table or a query of a database by a key, in pieces.
///
/// Each piece begins after the last key of the one before, so the key must be unique, never NULL
/// and, where rows are added while it is read, growing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlSettings {
    /// The database: `sqlite:PATH`, `postgres://user:password@host:5432/database`, or
    /// `mysql://user:password@host:3306/database`.
    pub url: String,
    /// The table to read. Either this or `query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The query to read, without parameters. It is asked again for every piece, with a condition
    /// on the key around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The columns that order and identify a row. Without it, the primary key of the table.
    /// `[rowid]` is the row number, which is only stable while nobody runs VACUUM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// How often to look for new rows. Without it, reading ends with the last row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<Period>,
    /// MySQL, with `poll`: how long after a row was seen one with a lower key may still be
    /// committed. Rows are passed when they were there for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Period>,
    /// The most rows to read at once. Without it, as many as the run asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<NonZeroUsize>,
    /// Into how many ranges of the key a table of a server is cut, to read them at once, each as a
    /// partition of its own. Chosen when the pipeline first runs, and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<NonZeroUsize>,
    /// The values that `query` refers to, in its order.
    #[serde(skip)]
    pub bound: Vec<Bound>,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    Table(String),
    Query(String),
}

impl SqlSettings {
    /// The database file as it is written in the URL, and what to read in it.
    pub(super) fn parts(&self) -> Result<(PathBuf, Input), String> {
        let path = match self.url.split_once(':') {
            Some(("sqlite", path)) => path.strip_prefix("//").unwrap_or(path),
            Some((scheme @ ("postgres" | "postgresql" | "mysql" | "mariadb"), _)) => {
                return Err(format!("`sql` cannot read {scheme} with this program"));
            }
            _ => return Err("`url` must be sqlite:PATH, postgres://… or mysql://…".into()),
        };
        if path.is_empty() || path == ":memory:" {
            return Err("`url` must name a database file: sqlite:PATH".into());
        }
        if self.partitions.is_some_and(|count| count.get() > 1) {
            return Err("`partitions` is for a table of a server: SQLite is read in one go".into());
        }
        Ok((path.into(), self.input()?))
    }

    /// Whether it is for a PostgreSQL server.
    pub fn is_for_postgres(&self) -> bool {
        self.url.starts_with("postgres:") || self.url.starts_with("postgresql:")
    }

    /// Whether it is for a MySQL or MariaDB server.
    pub fn is_for_mysql(&self) -> bool {
        self.url.starts_with("mysql:") || self.url.starts_with("mariadb:")
    }

    /// What to read.
    pub(crate) fn input(&self) -> Result<Input, String> {
        if self.settle.is_some() && !self.is_for_mysql() {
            return Err("`settle` is for MySQL, which cannot tell who may still add a row: leave \
                        it out"
                .into());
        }
        match (&self.table, &self.query) {
            (Some(table), None) if !table.is_empty() => Ok(Input::Table(table.clone())),
            (None, Some(query)) if self.key.is_empty() => Err(format!(
                "`query` needs `key`, the columns that identify and order its rows: {query}"
            )),
            (None, Some(query)) => {
                let dialect = match (self.is_for_postgres(), self.is_for_mysql()) {
                    (true, _) => Dialect::Postgres,
                    (_, true) => Dialect::MySql,
                    _ => Dialect::Sqlite,
                };
                let query = with_values(query, &self.bound, dialect)?;
                let query = query.trim().trim_end_matches(';').trim_end();
                Ok(Input::Query(query.to_owned()))
            }
            _ => Err("`sql` needs either `table` or `query`".into()),
        }
    }
}

fn yes() -> bool {
    true
}
