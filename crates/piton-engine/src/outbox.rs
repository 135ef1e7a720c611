//! An outbox beside running it: the statements that make one, and whether a live one is like them.

pub use piton_connectors::postgres_outbox::{Findings, settings::Columns};
use piton_connectors::postgres_outbox::{OutboxSettings, check as inspect, ddl};

use crate::run::RunError;

/// Which outbox.
#[derive(Debug, Clone)]
pub struct Outbox {
    /// The table, as `NAME` or `SCHEMA.NAME`.
    pub table: String,
    /// The table's own names for the columns, where they differ.
    pub columns: Columns,
}

impl Outbox {
    /// The statements that make its table and index. With `trigger` those, too, that make readers
    /// wake at once; otherwise they stand there as a comment.
    ///
    /// # Errors
    /// [`RunError::Settings`] for names that cannot be.
    pub fn statements(&self, trigger: bool) -> Result<String, RunError> {
        // Nothing is connected to.
        let settings = self.settings("postgres://localhost/");
        settings.check().map_err(RunError::Settings)?;
        Ok(ddl(&settings, trigger))
    }

    /// Compares a live one with those statements, changing nothing.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn check(&self, url: &str) -> Result<Findings, RunError> {
        inspect(&self.settings(url)).map_err(|error| RunError::of_source("outbox", &error))
    }

    fn settings(&self, url: &str) -> OutboxSettings {
        let Self { table, columns } = self.clone();
        OutboxSettings { table, columns, ..OutboxSettings::at(url) }
    }
}
