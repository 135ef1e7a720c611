//! The source `sql`: a table or a query, read by its key.
//!
//! Every piece is a short statement of its own (`WHERE key > last ORDER BY key LIMIT n`), so that
//! no reader stands in the way of writers, and a resumed run begins with one index lookup. What
//! this needs of the key is checked: that it is unique (by an index, or as it comes from a query),
//! never NULL, and that it comes in order.
//!
//! What cannot be seen: a row that is changed, or added below the last key, after it was passed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use piton_core::{PositionOrder, StoredPosition, fault, position::order_of};
use rusqlite::Connection;
use serde_json::json;

use super::{
    cursor::{Cursor, failure, position},
    keyset::{Keyset, Unreadable},
    open,
    page::Taken,
    position::{KeyValue, SqlPosition},
    settings::{Input, SqlSettings},
};
use crate::{
    batch::Batch,
    shape,
    source::{Read, Reader, Source, SourceError, Start},
};

/// How long one read may wait for new rows.
const SLICE: Duration = Duration::from_millis(100);

/// Reads a table or query of a `SQLite` database by its key.
#[derive(Debug, Clone)]
pub struct SqlSource {
    settings: SqlSettings,
    input: Input,
    path: PathBuf,
    record_limit: usize,
}

impl SqlSource {
    /// A source as configured. A relative path is taken from `base_dir`. A row of more than
    /// `record_limit` bytes is a bad record. Touches nothing on disk.
    ///
    /// # Errors
    /// [`SourceError::Settings`] when the settings contradict themselves.
    pub fn new(
        settings: &SqlSettings,
        base_dir: &Path,
        record_limit: usize,
    ) -> Result<Self, SourceError> {
        let (path, input) = settings.parts().map_err(|what| SourceError::Settings { what })?;
        let path = base_dir.join(path);
        let path = std::path::absolute(&path).unwrap_or(path);
        Ok(Self { settings: settings.clone(), input, path, record_limit })
    }

    fn partition(&self) -> &str {
        match &self.input {
            Input::Table(name) => name,
            Input::Query(_) => "query",
        }
    }

    fn open(&self) -> Result<(Connection, Keyset), SourceError> {
        let at = self.path.display();
        if !self.path.is_file() {
            return Err(SourceError::Missing { what: format!("there is no database {at}") });
        }
        let failed = |e: rusqlite::Error| failure(&self.path, &e);
        let conn = open::to_read(&self.path).map_err(failed)?;
        let keyset = Keyset::of(&conn, &self.input, &self.settings.key);
        let keyset = keyset.map_err(|unreadable| match unreadable {
            Unreadable::Missing(what) => SourceError::Missing { what: format!("{what} in {at}") },
            Unreadable::Unfit(what) => SourceError::Settings { what: format!("{at}: {what}") },
            Unreadable::Database(error) => failed(error),
        })?;
        Ok((conn, keyset))
    }

    /// Opens it to go on from a position.
    fn resume(&self, start: Option<&Start>) -> Result<Cursor, SourceError> {
        let key = start.and_then(|start| start.position.as_ref());
        let key = key.map(StoredPosition::read::<SqlPosition>).transpose()?;
        let (key, before) = key.map(|at| (at.key, at.fingerprint)).unwrap_or_default();
        let gap = |what: String| SourceError::Gap {
            partition: self.partition().to_owned(),
            position: position(&key, None).json,
            what: format!(
                "{what}. Put it back as it was, or `piton reset` to read from the beginning"
            ),
        };
        let (conn, keyset) = match self.open() {
            Err(SourceError::Missing { what } | SourceError::Settings { what })
                if !key.is_empty() =>
            {
                return Err(gap(what));
            }
            opened => opened?,
        };
        if !key.is_empty() && key.len() != keyset.key.len() {
            let what = before.and_then(|before| before.difference(&keyset.shape, true));
            let now = || format!("its key is now ({})", keyset.key.join(", "));
            return Err(gap(what.unwrap_or_else(now)));
        }
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        let what = match &self.input {
            Input::Table(name) => format!("table {name}"),
            Input::Query(_) => "the query".to_owned(),
        };
        Ok(Cursor {
            conn,
            partition: self.partition().into(),
            place: format!("{file}, {what}").into(),
            names: keyset.key.as_slice().into(),
            keyset,
            path: self.path.clone(),
            record_limit: self.record_limit,
            schema: Arc::default(),
            key,
        })
    }

    fn start<'s>(&self, starts: &'s [Start]) -> Option<&'s Start> {
        starts.iter().find(|start| start.partition == self.partition())
    }
}

impl Source for SqlSource {
    fn kind(&self) -> &'static str {
        "sql"
    }

    fn identity(&self) -> serde_json::Value {
        let SqlSettings { url, table, query, key, .. } = &self.settings;
        // The primary key in full, so that another one later is noticed.
        let key = match self.open() {
            Ok((_, keyset)) if key.is_empty() => keyset.key,
            _ => key.clone(),
        };
        match (table, query) {
            (Some(table), _) => json!({"kind": "sql", "url": url, "table": table, "key": key}),
            (None, query) => json!({"kind": "sql", "url": url, "query": query, "key": key}),
        }
    }

    fn order(&self) -> PositionOrder {
        order_of::<SqlPosition>
    }

    fn is_bounded(&self) -> bool {
        self.settings.poll.is_none()
    }

    fn partitions(&self) -> Result<Vec<String>, SourceError> {
        self.open().map(|_| vec![self.partition().to_owned()])
    }

    /// What was consumed leaves no trace, so `thorough` has nothing more to look at.
    fn verify(&self, start: &Start, _thorough: bool) -> Result<(), SourceError> {
        if start.partition != self.partition() {
            return Err(SourceError::Gap {
                partition: start.partition.clone(),
                position: start
                    .position
                    .as_ref()
                    .map_or("the beginning".into(), |p| p.json.clone()),
                what: format!(
                    "the source now reads '{}'. Use another pipeline name for it, or `piton \
                     reset` to begin anew",
                    self.partition()
                ),
            });
        }
        let cursor = self.resume(Some(start))?;
        let Some(stored) = &start.position else { return Ok(()) };
        let before = stored.read::<SqlPosition>()?.fingerprint;
        let shapes = (before.as_ref(), &cursor.keyset.shape);
        shape::refuse_altered(start, position(&cursor.key, None).json, shapes, !self.is_bounded())
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, SourceError> {
        let cursor = self.resume(self.start(starts))?;
        cursor.refuse_null()?;
        Ok(Box::new(SqlReader {
            cursor,
            batch: self.settings.batch.map_or(usize::MAX, usize::from),
            poll: self.settings.poll.map(Duration::from),
            asleep_until: None,
        }))
    }

    /// By the values of an integer key: an estimate, as there may be holes.
    fn remarks(&self) -> Vec<String> {
        let unseen = "rows that are changed or deleted after they were read are not seen, nor are \
                      those that are added with a lower key";
        vec![unseen.to_owned()]
    }

    fn progress(&self, starts: &[Start]) -> Option<(u64, u64)> {
        let cursor = self.resume(self.start(starts)).ok()?;
        let ends = cursor.conn.query_row(&cursor.keyset.ends()?, [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        let (first, last) = ends.ok()?;
        let total = last.abs_diff(first).saturating_add(1);
        let done = match cursor.key.first() {
            None => 0,
            Some(KeyValue::Integer(at)) if *at < first => 0,
            Some(KeyValue::Integer(at)) => at.abs_diff(first).saturating_add(1).min(total),
            Some(_) => return None,
        };
        Some((done, total))
    }

    /// Reads the row again by the key that the dead letter has, as it is now; if it is gone, takes
    /// it as it was kept.
    fn parse(&self, partition: &str, raw: &str) -> Result<Batch, SourceError> {
        let wrong = |what: String| SourceError::Failed {
            what: format!("a dead letter of {partition} cannot be read: {what}: {raw}"),
        };
        let kept: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(raw).map_err(|e| wrong(e.to_string()))?;
        let mut cursor = self.resume(None)?;
        let value = |name: &String| kept.get(name).cloned().unwrap_or_default();
        let key = cursor.names.iter().map(|name| serde_json::from_value(value(name)));
        let Ok(key) = key.collect::<Result<Vec<KeyValue>, _>>() else {
            return Err(wrong(format!("it lacks the key ({})", cursor.names.join(", "))));
        };
        match cursor.read_row(&key)? {
            Some(batch) => Ok(batch),
            None if kept.len() == key.len() => Err(wrong("its row is gone from the source".into())),
            None => Ok(cursor.rebuild(&kept, &key)),
        }
    }
}

struct SqlReader {
    cursor: Cursor,
    batch: usize,
    poll: Option<Duration>,
    /// When to look for new rows again.
    asleep_until: Option<Instant>,
}

impl Reader for SqlReader {
    fn read(&mut self, limit: usize) -> Result<Read, SourceError> {
        if let Some(until) = self.asleep_until {
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(SLICE));
            if left > SLICE {
                return Ok(Read::Idle);
            }
            self.asleep_until = None;
        }
        let read = match self.cursor.read(limit.min(self.batch).max(1))? {
            Taken::Batch(batch) => Read::Batch(batch),
            Taken::Bad(bad) => Read::Bad(bad),
            Taken::Broken(what) => return Err(self.cursor.broken(&what)),
            Taken::Nothing => {
                self.cursor.refuse_null()?;
                let Some(poll) = self.poll else { return Ok(Read::Finished) };
                self.asleep_until = Some(Instant::now() + poll);
                return Ok(Read::Idle);
            }
        };
        fault::point("read");
        let end = match &read {
            Read::Batch(batch) => &batch.end,
            Read::Bad(bad) => &bad.end,
            Read::Idle | Read::Finished => return Ok(read),
        };
        self.cursor.key = end.read::<SqlPosition>()?.key;
        Ok(read)
    }
}
