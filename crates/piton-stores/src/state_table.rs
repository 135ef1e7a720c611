//! The state that programs keep beside their position: a row for each key, in a store of its own
//! or in a program's database.
//!
//! Only changed entries are written. Each row carries a checksum; who keeps the combined one, by
//! which a missing row is noticed, passes it in and gets it back.

use piton_core::{
    CheckpointKey, StateEntry,
    checksum::{Checksum, Manifest},
};

use crate::sql::{Result, Row, Sql, altered, values};

/// A table with the columns pipeline, partition, sink, key, json, checksum; the first four are its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StateTable(pub(crate) &'static str);

impl StateTable {
    /// Every entry, in the order of keys, and what their manifest has to say.
    pub(crate) fn all(
        self,
        c: &mut dyn Sql,
        of: &CheckpointKey,
    ) -> Result<(Vec<StateEntry>, Manifest)> {
        let sql = format!(
            r#"SELECT json, checksum, "key" FROM {}
            WHERE pipeline = ? AND "partition" = ? AND sink = ? ORDER BY "key""#,
            self.0
        );
        let (mut entries, mut sum) = (Vec::new(), Manifest::default());
        for mut row in c.query(&sql, values![&of.pipeline, &of.partition, &of.sink])? {
            let key = row.text(2)?;
            let (json, checksum) = self.verified(&mut row, of, &key)?;
            sum = sum.with(checksum);
            entries.push(StateEntry { key, json: Some(json) });
        }
        Ok((entries, sum))
    }

    /// One entry.
    pub(crate) fn find(
        self,
        c: &mut dyn Sql,
        of: &CheckpointKey,
        key: &str,
    ) -> Result<Option<StateEntry>> {
        let found = self.row(c, of, key)?;
        Ok(found.map(|(json, _)| StateEntry { key: key.to_owned(), json: Some(json) }))
    }

    fn row(
        self,
        c: &mut dyn Sql,
        of: &CheckpointKey,
        key: &str,
    ) -> Result<Option<(String, Checksum)>> {
        let sql = format!(
            r#"SELECT json, checksum FROM {}
            WHERE pipeline = ? AND "partition" = ? AND sink = ? AND "key" = ?"#,
            self.0
        );
        let mut found = c.query(&sql, values![&of.pipeline, &of.partition, &of.sink, key])?;
        found.first_mut().map(|row| self.verified(row, of, key)).transpose()
    }

    /// Writes changed entries, and returns the manifest that follows `sum`.
    pub(crate) fn apply(
        self,
        c: &mut dyn Sql,
        of: &CheckpointKey,
        entries: &[StateEntry],
        mut sum: Manifest,
    ) -> Result<Manifest> {
        for entry in entries {
            let old = self.row(c, of, &entry.key)?.map(|(_, checksum)| checksum);
            sum = match (old, &entry.json) {
                (Some(old), Some(json)) => {
                    sum.replacing(old, Self::write(c, &self.update(), of, &entry.key, json)?)
                }
                (None, Some(json)) => {
                    sum.with(Self::write(c, &self.insert(), of, &entry.key, json)?)
                }
                (Some(old), None) => {
                    self.remove(c, of, &entry.key)?;
                    sum.without(old)
                }
                (None, None) => sum,
            };
        }
        Ok(sum)
    }

    fn update(self) -> String {
        format!(
            r#"UPDATE {} SET json = ?, checksum = ?
            WHERE pipeline = ? AND "partition" = ? AND sink = ? AND "key" = ?"#,
            self.0
        )
    }

    fn insert(self) -> String {
        format!(
            r#"INSERT INTO {} (json, checksum, pipeline, "partition", sink, "key")
            VALUES (?, ?, ?, ?, ?, ?)"#,
            self.0
        )
    }

    fn write(
        c: &mut dyn Sql,
        sql: &str,
        of: &CheckpointKey,
        key: &str,
        json: &str,
    ) -> Result<Checksum> {
        let sum = checksum(of, key, json);
        c.execute(sql, values![json, sum, &of.pipeline, &of.partition, &of.sink, key])?;
        Ok(sum)
    }

    fn remove(self, c: &mut dyn Sql, of: &CheckpointKey, key: &str) -> Result<()> {
        let sql = format!(
            r#"DELETE FROM {} WHERE pipeline = ? AND "partition" = ? AND sink = ? AND "key" = ?"#,
            self.0
        );
        c.execute(&sql, values![&of.pipeline, &of.partition, &of.sink, key])?;
        Ok(())
    }

    /// Removes all state of a checkpoint.
    pub(crate) fn forget(self, c: &mut dyn Sql, of: &CheckpointKey) -> Result<()> {
        let sql = format!(
            r#"DELETE FROM {} WHERE pipeline = ? AND "partition" = ? AND sink = ?"#,
            self.0
        );
        c.execute(&sql, values![&of.pipeline, &of.partition, &of.sink])?;
        Ok(())
    }

    /// The first two columns of a row, if they are what was written.
    fn verified(self, row: &mut Row, of: &CheckpointKey, key: &str) -> Result<(String, Checksum)> {
        let (json, found) = (row.text(0)?, row.checksum(1)?);
        if checksum(of, key, &json) == found {
            Ok((json, found))
        } else {
            Err(altered(self.0, &format!("{of} / {key}")))
        }
    }
}

/// The checksum of an entry's row.
pub(crate) fn checksum(of: &CheckpointKey, key: &str, json: &str) -> Checksum {
    Checksum::build()
        .text(&of.pipeline)
        .text(&of.partition)
        .text(&of.sink)
        .text(key)
        .text(json)
        .finish()
}
