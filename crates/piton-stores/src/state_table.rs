//! The state that programs keep beside their position: a row for each key, in a store's own file
//! or in a program's database.
//!
//! Only changed entries are written. Each row carries a checksum; who keeps the combined one, by
//! which a missing row is noticed, passes it in and gets it back.

use piton_core::{
    CheckpointKey, StateEntry,
    checksum::{Checksum, Manifest},
};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// A table with the columns pipeline, partition, sink, key, json, checksum; the first four are its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StateTable(pub(crate) &'static str);

/// Why state could not be read or written.
pub(crate) enum StateError {
    Sql(rusqlite::Error),
    /// A row is not what was written.
    Altered {
        row: String,
    },
}

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

type Result<T> = std::result::Result<T, StateError>;

impl StateTable {
    /// Every entry, in the order of keys, and what their manifest has to say.
    pub(crate) fn all(
        self,
        c: &Connection,
        of: &CheckpointKey,
    ) -> Result<(Vec<StateEntry>, Manifest)> {
        let mut statement = c.prepare_cached(&format!(
            "SELECT json, checksum, key FROM {} \
             WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3 ORDER BY key",
            self.0
        ))?;
        let mut rows = statement.query([&of.pipeline, &of.partition, &of.sink])?;
        let (mut entries, mut sum) = (Vec::new(), Manifest::default());
        while let Some(row) = rows.next()? {
            let key: String = row.get(2)?;
            let (json, checksum) = verified(row, of, &key)?;
            sum = sum.with(checksum);
            entries.push(StateEntry { key, json: Some(json) });
        }
        Ok((entries, sum))
    }

    /// One entry.
    pub(crate) fn find(
        self,
        c: &Connection,
        of: &CheckpointKey,
        key: &str,
    ) -> Result<Option<StateEntry>> {
        let found = self.row(c, of, key)?;
        Ok(found.map(|(json, _)| StateEntry { key: key.to_owned(), json: Some(json) }))
    }

    fn row(
        self,
        c: &Connection,
        of: &CheckpointKey,
        key: &str,
    ) -> Result<Option<(String, Checksum)>> {
        let mut statement = c.prepare_cached(&format!(
            "SELECT json, checksum FROM {} \
             WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3 AND key = ?4",
            self.0
        ))?;
        let keys = [&of.pipeline, &of.partition, &of.sink, key];
        statement.query_row(keys, |row| Ok(verified(row, of, key))).optional()?.transpose()
    }

    /// Writes changed entries, and returns the manifest that follows `sum`.
    pub(crate) fn apply(
        self,
        c: &Connection,
        of: &CheckpointKey,
        entries: &[StateEntry],
        mut sum: Manifest,
    ) -> Result<Manifest> {
        for entry in entries {
            let old = self.row(c, of, &entry.key)?.map(|(_, checksum)| checksum);
            let put = |json: &String| self.put(c, of, &entry.key, json);
            let new = entry.json.as_ref().map(put).transpose()?;
            if new.is_none() {
                self.remove(c, of, &entry.key)?;
            }
            sum = match (old, new) {
                (Some(old), Some(new)) => sum.replacing(old, new),
                (Some(old), None) => sum.without(old),
                (None, Some(new)) => sum.with(new),
                (None, None) => sum,
            };
        }
        Ok(sum)
    }

    fn put(
        self,
        c: &Connection,
        of: &CheckpointKey,
        key: &str,
        json: &str,
    ) -> rusqlite::Result<Checksum> {
        let sum = checksum(of, key, json);
        let mut statement = c.prepare_cached(&format!(
            "INSERT INTO {} (pipeline, partition, sink, key, json, checksum) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT DO UPDATE SET json = excluded.json, checksum = excluded.checksum",
            self.0
        ))?;
        statement.execute(params![of.pipeline, of.partition, of.sink, key, json, sum.0])?;
        Ok(sum)
    }

    fn remove(self, c: &Connection, of: &CheckpointKey, key: &str) -> rusqlite::Result<()> {
        let mut statement = c.prepare_cached(&format!(
            "DELETE FROM {} WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3 AND key = ?4",
            self.0
        ))?;
        statement.execute([&of.pipeline, &of.partition, &of.sink, key])?;
        Ok(())
    }

    /// Removes all state of a checkpoint.
    pub(crate) fn forget(self, c: &Connection, of: &CheckpointKey) -> rusqlite::Result<()> {
        let mut statement = c.prepare_cached(&format!(
            "DELETE FROM {} WHERE pipeline = ?1 AND partition = ?2 AND sink = ?3",
            self.0
        ))?;
        statement.execute([&of.pipeline, &of.partition, &of.sink])?;
        Ok(())
    }
}

/// The first two columns of a row, if they are what was written.
fn verified(row: &Row<'_>, of: &CheckpointKey, key: &str) -> Result<(String, Checksum)> {
    let (json, found): (String, _) = (row.get(0)?, Checksum(row.get(1)?));
    if checksum(of, key, &json) == found {
        Ok((json, found))
    } else {
        Err(StateError::Altered { row: format!("{of} / {key}") })
    }
}

fn checksum(of: &CheckpointKey, key: &str, json: &str) -> Checksum {
    Checksum::build()
        .text(&of.pipeline)
        .text(&of.partition)
        .text(&of.sink)
        .text(key)
        .text(json)
        .finish()
}
