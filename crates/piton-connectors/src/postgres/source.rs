//! The source `sql` for PostgreSQL: a table or a query, read by its key.
//!
//! A bounded read sees one state of the database, from its first row to its last. A poll goes on
//! for ever: it looks for rows after the last key, waits until no transaction is running any more
//! that might add one among them (`horizon`), and only then passes them.
//!
//! If the server goes away, reading waits for it and goes on after the last row; a bounded read
//! then sees another state.
//!
//! A bounded read of a table may be cut into ranges of the key (`ranges`), which the server reads
//! at once, all of them in one state of the database.
//!
//! What cannot be seen: a row that is changed, or added below the last key, after it was passed.

use std::{num::NonZeroUsize, sync::OnceLock};

use piton_core::{PositionOrder, StoredPosition, position::order_of};
use serde_json::json;
use tokio_postgres::types::Type;

use super::{
    connect::Server,
    cursor::{Cursor, Failure, Sought},
    name::{POSTGRES, Pattern},
    position::{KeyPart, PostgresPosition},
    ranges::Range,
    reader::{PostgresReader, Trouble},
};
use crate::{
    batch::Batch,
    kept, shape,
    source::{Reader, Source, SourceError, Start},
    sqlite::settings::{Input, SqlSettings},
};

/// The most ranges, each of which needs a connection.
const RANGES_MAX: usize = 64;

/// Reads a table or query of a PostgreSQL database by its key.
#[derive(Debug)]
pub struct PostgresSource {
    sought: Sought,
    settings: SqlSettings,
    /// About how many rows there are, once it was asked for.
    estimate: OnceLock<Option<u64>>,
    trouble: Trouble,
}

impl PostgresSource {
    /// A source as configured. A row of more than `record_limit` bytes is a bad record. Touches
    /// nothing.
    ///
    /// # Errors
    /// [`SourceError::Settings`] when the settings contradict themselves.
    pub fn new(settings: &SqlSettings, record_limit: usize) -> Result<Self, SourceError> {
        let wrong = |what| SourceError::Settings { what };
        let server = Server::parse(&settings.url).map_err(|e| wrong(e.to_string()))?;
        let input = settings.input().map_err(wrong)?;
        let (partition, name) = match &input {
            Input::Query(_) => ("query", None),
            Input::Table(table) => {
                let name = Pattern::parse(table, POSTGRES).map_err(wrong)?.fixed();
                let name = name.ok_or_else(|| {
                    wrong(format!("`table: {table}` must be the name of one table"))
                })?;
                (table.as_str(), Some(name))
            }
        };
        check_partitions(settings, &input).map_err(wrong)?;
        let sought = Sought {
            server: server.named("piton"),
            partition: partition.into(),
            range: Range::default(),
            name,
            key: settings.key.clone(),
            input,
            record_limit,
        };
        Ok(Self {
            sought,
            settings: settings.clone(),
            estimate: OnceLock::new(),
            trouble: Trouble::default(),
        })
    }

    /// The part of it that a partition is; `None` if it is none of this source's.
    fn part(&self, partition: &str) -> Option<Sought> {
        let range = Range::read(self.sought.origin(), partition)?;
        Some(self.sought.within(range))
    }

    /// The parts of it that partitions are, if they are this source's.
    fn parts<'s>(&self, names: impl Iterator<Item = &'s str>) -> Result<Vec<Sought>, SourceError> {
        let parts: Vec<Sought> = names.filter_map(|name| self.part(name)).collect();
        let ranges: Vec<Range> = parts.iter().map(|part| part.range.clone()).collect();
        if !parts.is_empty() && !Range::cover(&ranges) {
            let names: Vec<&str> = parts.iter().map(|part| &*part.partition).collect();
            return Err(SourceError::Gap {
                partition: self.sought.origin().to_owned(),
                position: "its ranges".into(),
                what: format!(
                    "together they do not cover each key once: {}. Use another pipeline name for \
                     it, or restore the checkpoints that belong together",
                    names.join("; ")
                ),
            });
        }
        Ok(parts)
    }

    /// About how many rows there are, by the server's own statistics.
    fn count(&self) -> Option<u64> {
        let name = self.sought.name.as_ref()?;
        let cursor = Cursor::open(&self.sought, PostgresPosition::default()).ok()?;
        let sql = "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass($1)";
        let wire = &cursor.wire;
        let row = wire.wait(wire.client.query_typed_one(sql, &[(name as _, Type::TEXT)]));
        row.ok()?.try_get::<_, i64>(0).ok().filter(|rows| *rows > 0).map(|rows| rows as u64)
    }
}

impl Source for PostgresSource {
    fn kind(&self) -> &'static str {
        "sql"
    }

    fn identity(&self) -> serde_json::Value {
        let SqlSettings { table, query, key, .. } = &self.settings;
        // The database, whoever reads it.
        let at = self.sought.server.location();
        let url = at.split_once('@').map_or(at, |(_, place)| place);
        let url = format!("postgres://{}", url.trim_start_matches("postgres://"));
        match (table, query) {
            (Some(table), _) => json!({"kind": "sql", "url": url, "table": table, "key": key}),
            (None, query) => json!({"kind": "sql", "url": url, "query": query, "key": key}),
        }
    }

    fn order(&self) -> PositionOrder {
        order_of::<PostgresPosition>
    }

    fn is_bounded(&self) -> bool {
        self.settings.poll.is_none()
    }

    fn partitions(&self) -> Result<Vec<String>, SourceError> {
        let cursor = resume(&self.sought, PostgresPosition::default())?;
        let count = self.settings.partitions.map_or(1, NonZeroUsize::get);
        let (Some(name), true) = (&self.sought.name, count > 1) else {
            return Ok(vec![self.sought.partition.to_string()]);
        };
        let (wire, table) = (&cursor.wire, self.sought.origin());
        let cut = Range::cut(&wire.client, &cursor.keyset, name, table, count);
        let ranges = wire.wait(cut).map_err(|e| error(&self.sought, e.into()))?;
        Ok(ranges.iter().map(|range| range.name(table)).collect())
    }

    /// Ranges that were chosen once stay as they are.
    fn partitions_after(&self, known: &[String]) -> Result<Vec<String>, SourceError> {
        let parts = self.parts(known.iter().map(String::as_str))?;
        if parts.is_empty() {
            return self.partitions();
        }
        let _ = resume(&self.sought, PostgresPosition::default())?;
        Ok(parts.iter().map(|part| part.partition.to_string()).collect())
    }

    /// What was consumed leaves no trace, so `thorough` has nothing more to look at.
    fn verify(&self, start: &Start, _thorough: bool) -> Result<(), SourceError> {
        let Some(part) = self.part(&start.partition) else {
            return Err(SourceError::Gap {
                partition: start.partition.clone(),
                position: start
                    .position
                    .as_ref()
                    .map_or("the beginning".into(), |p| p.json.clone()),
                what: format!(
                    "the source now reads '{}'. Use another pipeline name for it, or `piton \
                     reset` to begin anew",
                    self.sought.origin()
                ),
            });
        };
        let at = position(Some(start))?;
        let before = at.fingerprint.clone();
        let shown = PostgresPosition { fingerprint: None, ..at.clone() }.stored().json;
        let cursor = resume(&part, at)?;
        let shapes = (before.as_ref(), &cursor.keyset.shape);
        shape::refuse_altered(start, shown, shapes, !self.is_bounded())
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, SourceError> {
        let mut parts = self.parts(starts.iter().map(|start| start.partition.as_str()))?;
        if parts.is_empty() {
            let names = self.partitions()?;
            parts = self.parts(names.iter().map(String::as_str))?;
        }
        let opened = parts.into_iter().map(|part| {
            let start = starts.iter().find(|start| *start.partition == *part.partition);
            let at = position(start)?;
            let cursor = resume(&part, at)?;
            Ok((part, cursor))
        });
        let opened: Vec<(Sought, Cursor)> = opened.collect::<Result<_, SourceError>>()?;
        Ok(Box::new(PostgresReader::of(opened, &self.settings, self.trouble.clone())?))
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.get()
    }

    fn progress(&self, starts: &[Start]) -> Option<(u64, u64)> {
        let done = starts.iter().filter(|start| self.part(&start.partition).is_some());
        let done = done.map(|start| position(Some(start)).ok().map(|at| at.rows));
        let done = done.sum::<Option<u64>>()?;
        let all = self.estimate.get_or_init(|| self.count());
        all.map(|all| (done, all.max(done)))
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = vec![match self.settings.poll {
            Some(_) => "rows that are changed or deleted after they were read are not seen, nor \
                        are those that are added with a lower key by a transaction that began \
                        after it was passed. A row is read when no transaction is open any more \
                        that may add one before it"
                .to_owned(),
            None => "what is changed after the run began is not seen: it reads one state of the \
                     database. A run that resumes, or that lost its connection, reads the rest as \
                     it is by then"
                .to_owned(),
        }];
        if self.settings.partitions.is_some_and(|count| count.get() > 1) {
            remarks.push(
                "all ranges are read in one exported snapshot; they are chosen when the pipeline \
                 first runs, and kept"
                    .to_owned(),
            );
        }
        remarks
    }

    /// Reads the row again by the key that the dead letter has, as it is now; if it is gone, takes
    /// it as it was kept.
    fn parse(&self, partition: &str, raw: &str) -> Result<Batch, SourceError> {
        let wrong = |what: String| SourceError::Failed {
            what: format!("a dead letter of {partition} cannot be read: {what}: {raw}"),
        };
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(raw).map_err(|e| wrong(e.to_string()))?;
        let mut cursor = resume(&self.sought, PostgresPosition::default())?;
        let value = |name: &String| fields.get(name).cloned().unwrap_or_default();
        let key = cursor.key_names().iter().map(|name| serde_json::from_value(value(name)));
        let Ok(key) = key.collect::<Result<Vec<KeyPart>, _>>() else {
            return Err(wrong(format!("it lacks the key ({})", cursor.key_names().join(", "))));
        };
        let found = cursor.row(&key).map_err(|failure| error(&self.sought, failure))?;
        match found {
            Some(batch) => Ok(batch),
            None if fields.len() == key.len() => {
                Err(wrong("its row is gone from the source".into()))
            }
            None => {
                let marks = cursor.marks_of(&key);
                let end = PostgresPosition { key, ..PostgresPosition::default() }.stored();
                Ok(kept::batch(partition.into(), &fields, end, marks))
            }
        }
    }
}

/// Opens a part of it to go on from a position.
fn resume(part: &Sought, mut at: PostgresPosition) -> Result<Cursor, SourceError> {
    // From here on it is what it is now.
    let before = at.fingerprint.take();
    let stored = at.stored();
    let gap = |what: String| SourceError::Gap {
        partition: part.partition.to_string(),
        position: stored.json.clone(),
        what: format!("{what}. Put it back as it was, or `piton reset` to read from the beginning"),
    };
    // What is known of the key: how far it was read, or where the part begins and ends.
    let known = [&at.key, &part.range.after, &part.range.upto].map(Clone::clone);
    let known = || known.iter().filter(|key| !key.is_empty());
    let has_begun = !at.key.is_empty();
    let cursor = Cursor::open(part, at).map_err(|failure| match failure {
        Failure::Missing(what) | Failure::Unfit(what) if has_begun => gap(what),
        failure => error(part, failure),
    })?;
    let fits = |(part, now): (&KeyPart, &super::keyset::Part)| {
        matches!(part, KeyPart::Integer(_)) == now.is_integer
    };
    let now = &cursor.keyset.key;
    if known().any(|key| key.len() != now.len() || !key.iter().zip(now).all(fits)) {
        let names = cursor.key_names().join(", ");
        let what = before.and_then(|before| before.difference(&cursor.keyset.shape, true));
        let now = || format!("its key is now ({names}), or of another type");
        return Err(gap(what.unwrap_or_else(now)));
    }
    Ok(cursor)
}

/// What a failure means.
pub(super) fn error(part: &Sought, failure: Failure) -> SourceError {
    let at = part.server.location();
    match failure {
        Failure::Missing(what) => SourceError::Missing { what: format!("{what} in {at}") },
        Failure::Unfit(what) if what.contains(at) => SourceError::Settings { what },
        Failure::Unfit(what) => SourceError::Settings { what: format!("{at}: {what}") },
        Failure::Away(what) | Failure::Broken(what) if what.contains(at) => {
            SourceError::Failed { what }
        }
        Failure::Away(what) | Failure::Broken(what) => {
            SourceError::Failed { what: format!("cannot read {at}: {what}") }
        }
    }
}

/// Finds what cannot be cut into ranges.
fn check_partitions(settings: &SqlSettings, input: &Input) -> Result<(), String> {
    let Some(count) = settings.partitions.map(NonZeroUsize::get) else { return Ok(()) };
    if count > RANGES_MAX {
        return Err(format!("`partitions` is at most {RANGES_MAX}"));
    }
    match (input, settings.poll) {
        _ if count == 1 => Ok(()),
        (Input::Query(_), _) => {
            Err("`partitions` needs `table`: a query would be asked in full for each range".into())
        }
        (_, Some(_)) => {
            Err("`partitions` is for reading to the end: with `poll` a table is read in the order \
                 of its key"
                .into())
        }
        (Input::Table(_), None) => Ok(()),
    }
}

/// Where reading goes on.
fn position(start: Option<&Start>) -> Result<PostgresPosition, SourceError> {
    let stored = start.and_then(|start| start.position.as_ref());
    let position = stored.map(StoredPosition::read::<PostgresPosition>).transpose()?;
    Ok(position.unwrap_or_default())
}
