//! An open table or query, and how far it was read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use piton_core::StoredPosition;
use rusqlite::{Connection, ErrorCode, limits::Limit, params_from_iter};
use serde_json::json;

use super::{
    keyset::Keyset,
    page::{self, Keys, Page, Taken},
    position::{KeyValue, SqlPosition},
};
use crate::{
    batch::{Batch, Schema},
    shape::Shape,
    source::{BadRecord, SourceError},
};

/// The least limit that is set in `SQLite`, which needs some bytes for its own tables.
const LENGTH_MIN: i32 = 1024 * 1024;

/// An open table or query, and how far it was read.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) conn: Connection,
    pub(super) keyset: Keyset,
    pub(super) path: PathBuf,
    pub(super) partition: Arc<str>,
    pub(super) place: Arc<str>,
    /// The columns of the key.
    pub(super) names: Arc<[String]>,
    pub(super) record_limit: usize,
    /// Of the rows read last.
    pub(super) schema: Arc<Schema>,
    /// Of the last row read; empty at the beginning.
    pub(super) key: Vec<KeyValue>,
}

/// The position after a key, in something of this shape.
pub(super) fn position(key: &[KeyValue], shape: Option<&Shape>) -> StoredPosition {
    let position = SqlPosition { key: key.to_vec(), fingerprint: shape.cloned() };
    // Its JSON is made of numbers, texts and lists: it can always be written.
    StoredPosition::of(&position)
        .unwrap_or(StoredPosition { kind: "sql".into(), json: "{}".into() })
}

/// Why reading failed.
pub(super) fn failure(path: &Path, error: &rusqlite::Error) -> SourceError {
    let what = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "it is damaged or no SQLite database. Restore it, or name another file"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process has it locked. Run the same command again when it has finished"
        }
        _ => "run the same command again when that is mended",
    };
    SourceError::Failed { what: format!("cannot read {}: {error}; {what}", path.display()) }
}

impl Cursor {
    fn failed(&self, error: &rusqlite::Error) -> SourceError {
        failure(&self.path, error)
    }

    pub(super) fn broken(&self, what: &str) -> SourceError {
        SourceError::Failed { what: format!("{} in {}: {what}", self.place, self.path.display()) }
    }

    /// Refuses rows without a key: they would be passed over without a word.
    pub(super) fn refuse_null(&self) -> Result<(), SourceError> {
        let Some(sql) = self.keyset.has_null() else { return Ok(()) };
        let found = self
            .conn
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, bool>(0)));
        if found.map_err(|e| self.failed(&e))? {
            return Err(self.broken(&format!(
                "a row has NULL in its key ({}), so it has no place in the order. Give it a \
                 value, leave it out with a query, or name another key",
                self.names.join(", ")
            )));
        }
        Ok(())
    }

    /// Reads the next rows, at most `limit`.
    pub(super) fn read(&mut self, limit: usize) -> Result<Taken, SourceError> {
        let most = i32::try_from(self.record_limit).unwrap_or(i32::MAX).max(LENGTH_MIN);
        match self.read_within(limit, most) {
            // Some row that the statement touched is too large: the next one, or one that had
            // only to be sorted.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::TooBig) => {
                match self.next_if_too_large()? {
                    Some(bad) => Ok(Taken::Bad(bad)),
                    None => self.read_within(limit, i32::MAX).map_err(|e| self.failed(&e)),
                }
            }
            read => read.map_err(|e| self.failed(&e)),
        }
        .inspect(|taken| {
            if let Taken::Batch(batch) = taken {
                self.schema = Arc::clone(&batch.schema);
            }
        })
    }

    /// `most`: the largest row that `SQLite` may bring into memory, in bytes.
    fn read_within(&mut self, limit: usize, most: i32) -> rusqlite::Result<Taken> {
        self.conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, most)?;
        let sql = self.keyset.page(self.key.is_empty());
        let mut statement = self.conn.prepare_cached(&sql)?;
        // One more than asked for, to see whether its key is another one.
        let rows = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        for (index, value) in self.key.iter().enumerate() {
            statement.raw_bind_parameter(index + 1, value)?;
        }
        statement.raw_bind_parameter(self.key.len() + 1, rows)?;
        let mut found = statement.raw_query();
        let mut page: Option<Page<'_>> = None;
        loop {
            match found.next() {
                Ok(Some(row)) => {
                    // The columns are only certain now: the table may have got new ones.
                    if !page.get_or_insert_with(|| Page::new(self, row)).take(row, limit) {
                        break;
                    }
                }
                Ok(None) => break,
                // What was read before a row that is too large is good.
                Err(e) if e.sqlite_error_code() == Some(ErrorCode::TooBig) && page.is_some() => {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(page.map_or(Taken::Nothing, Page::finish))
    }

    /// The next row as a bad record, if it is larger than the limit.
    fn next_if_too_large(&mut self) -> Result<Option<BadRecord>, SourceError> {
        let is_first = self.key.is_empty();
        let width = self.names.len();
        let sql = self.conn.prepare(&self.keyset.page(is_first)).map(|statement| {
            let columns = statement.column_count().saturating_sub(width);
            let columns: Vec<&str> = statement.column_names().take(columns).collect();
            self.keyset.next_key(is_first, &columns)
        });
        let sql = sql.map_err(|e| self.failed(&e))?;
        let read = |row: &rusqlite::Row<'_>| {
            let key: Result<Vec<KeyValue>, &'static str> =
                (1..=width).map(|i| page::key_value(row, i)).collect();
            Ok((row.get::<_, u64>(0)?, key))
        };
        let next = self
            .conn
            .set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::MAX)
            .and_then(|_| self.conn.query_row(&sql, params_from_iter(&self.key), read));
        let (bytes, key) = next.map_err(|e| self.failed(&e))?;
        if bytes <= self.record_limit as u64 {
            return Ok(None);
        }
        let key = key.map_err(|why| self.broken(&format!("a key is {why}")))?;
        let reason =
            format!("the row has {bytes} bytes, `limits: record` is {}", self.record_limit);
        Ok(Some(self.bad(&key, reason)))
    }

    /// A bad record; reading goes on after its key.
    pub(super) fn bad(&self, key: &[KeyValue], reason: String) -> BadRecord {
        let keys = Keys::of_one(self, key);
        let named: serde_json::Map<String, serde_json::Value> =
            self.names.iter().cloned().zip(key.iter().map(|v| json!(v))).collect();
        BadRecord {
            partition: self.partition.to_string(),
            id: format!("{}@{}", self.partition, keys.text(0)),
            place: keys.describe(0),
            reason,
            record: serde_json::Value::Object(named).to_string(),
            end: position(key, Some(&self.keyset.shape)),
        }
    }

    /// Reads one row by its key.
    pub(super) fn read_row(&mut self, key: &[KeyValue]) -> Result<Option<Batch>, SourceError> {
        let taken = self.row_with(key).map_err(|e| self.failed(&e))?;
        match taken {
            Taken::Batch(batch) => Ok(Some(batch)),
            Taken::Bad(bad) => Err(self.broken(&bad.reason)),
            Taken::Broken(what) => Err(self.broken(&what)),
            Taken::Nothing => Ok(None),
        }
    }

    fn row_with(&self, key: &[KeyValue]) -> rusqlite::Result<Taken> {
        let mut statement = self.conn.prepare(&self.keyset.row())?;
        let mut found = statement.query(params_from_iter(key))?;
        let Some(row) = found.next()? else { return Ok(Taken::Nothing) };
        let mut page = Page::new(self, row);
        page.take(row, 1);
        Ok(page.finish())
    }
}
