//! The source `sql` for PostgreSQL: a table or a query, read by its key.
//!
//! A bounded read sees one state of the database, from its first row to its last. A poll goes on
//! for ever: it looks for rows after the last key, waits until no transaction is running any more
//! that might add one among them (`horizon`), and only then passes them.
//!
//! If the server goes away, reading waits for it and goes on after the last row; a bounded read
//! then sees another state.
//!
//! What cannot be seen: a row that is changed, or added below the last key, after it was passed.

use std::{
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use piton_core::{PositionOrder, StoredPosition, fault, position::order_of};
use serde_json::json;
use tokio_postgres::types::Type;

use super::{
    connect::Server,
    cursor::{Cursor, Failure, Sought, Taken},
    horizon::Running,
    name::{POSTGRES, Pattern},
    position::{KeyPart, PostgresPosition},
};
use crate::{
    batch::Batch,
    kept,
    source::{Read, Reader, Source, SourceError, Start},
    sqlite::settings::{Input, SqlSettings},
};

/// Rows in one piece, where `batch` says nothing.
const PIECE: usize = 20_000;

/// How long one read may wait.
const SLICE: Duration = Duration::from_millis(100);

/// How long running transactions are left alone before they are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long a server may be away in the middle of a read.
const PATIENCE: Duration = Duration::from_mins(10);

/// Reads a table or query of a PostgreSQL database by its key.
#[derive(Debug)]
pub struct PostgresSource {
    sought: Sought,
    settings: SqlSettings,
    /// About how many rows there are, once it was asked for.
    estimate: OnceLock<Option<u64>>,
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
        let sought = Sought {
            server: server.named("piton"),
            partition: partition.into(),
            name,
            key: settings.key.clone(),
            input,
            record_limit,
        };
        Ok(Self { sought, settings: settings.clone(), estimate: OnceLock::new() })
    }

    fn partition(&self) -> &str {
        &self.sought.partition
    }

    /// Opens it to go on from a position.
    fn resume(&self, at: PostgresPosition) -> Result<Cursor, SourceError> {
        let stored = at.stored();
        let gap = |what: String| SourceError::Gap {
            partition: self.partition().to_owned(),
            position: stored.json.clone(),
            what: format!(
                "{what}. Put it back as it was, or `piton reset` to read from the beginning"
            ),
        };
        let has_begun = !at.key.is_empty();
        let key = at.key.clone();
        let cursor = Cursor::open(&self.sought, at).map_err(|failure| match failure {
            Failure::Missing(what) if has_begun => gap(what),
            failure => self.error(failure),
        })?;
        let fits = |(part, now): (&KeyPart, &super::keyset::Part)| {
            matches!(part, KeyPart::Integer(_)) == now.is_integer
        };
        let now = &cursor.keyset.key;
        if has_begun && (key.len() != now.len() || !key.iter().zip(now).all(fits)) {
            let names = cursor.key_names().join(", ");
            return Err(gap(format!("its key is now ({names}), or of another type")));
        }
        Ok(cursor)
    }

    fn error(&self, failure: Failure) -> SourceError {
        let at = self.sought.server.location();
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

    fn start<'s>(&self, starts: &'s [Start]) -> Option<&'s Start> {
        starts.iter().find(|start| start.partition == self.partition())
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
        self.resume(PostgresPosition::default()).map(|_| vec![self.partition().to_owned()])
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
        self.resume(position(Some(start))?).map(|_| ())
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, SourceError> {
        let at = position(self.start(starts))?;
        let mut reader = PostgresReader {
            piece: self.settings.batch.map_or(PIECE, usize::from),
            poll: self.settings.poll.map(Duration::from),
            asleep_until: None,
            waiting: None,
            away: None,
            at: at.clone(),
            cursor: None,
            source: Self {
                sought: self.sought.clone(),
                settings: self.settings.clone(),
                estimate: OnceLock::new(),
            },
        };
        let cursor = self.resume(at)?;
        reader.take_up(cursor).map_err(|failure| self.error(failure))?;
        Ok(Box::new(reader))
    }

    fn progress(&self, starts: &[Start]) -> Option<(u64, u64)> {
        let done = position(self.start(starts)).ok()?.rows;
        let all = self.estimate.get_or_init(|| self.count());
        all.map(|all| (done, all.max(done)))
    }

    /// Reads the row again by the key that the dead letter has, as it is now; if it is gone, takes
    /// it as it was kept.
    fn parse(&self, partition: &str, raw: &str) -> Result<Batch, SourceError> {
        let wrong = |what: String| SourceError::Failed {
            what: format!("a dead letter of {partition} cannot be read: {what}: {raw}"),
        };
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(raw).map_err(|e| wrong(e.to_string()))?;
        let mut cursor = self.resume(PostgresPosition::default())?;
        let value = |name: &String| fields.get(name).cloned().unwrap_or_default();
        let key = cursor.key_names().iter().map(|name| serde_json::from_value(value(name)));
        let Ok(key) = key.collect::<Result<Vec<KeyPart>, _>>() else {
            return Err(wrong(format!("it lacks the key ({})", cursor.key_names().join(", "))));
        };
        let found = cursor.row(&key).map_err(|failure| self.error(failure))?;
        match found {
            Some(batch) => Ok(batch),
            None if fields.len() == key.len() => {
                Err(wrong("its row is gone from the source".into()))
            }
            None => {
                let marks = cursor.marks_of(&key);
                let end = PostgresPosition { key, rows: 0 }.stored();
                Ok(kept::batch(self.sought.partition.clone(), &fields, end, marks))
            }
        }
    }
}

/// Where reading goes on.
fn position(start: Option<&Start>) -> Result<PostgresPosition, SourceError> {
    let stored = start.and_then(|start| start.position.as_ref());
    let position = stored.map(StoredPosition::read::<PostgresPosition>).transpose()?;
    Ok(position.unwrap_or_default())
}

struct PostgresReader {
    source: PostgresSource,
    cursor: Option<Cursor>,
    /// Of the last row that was given away.
    at: PostgresPosition,
    piece: usize,
    poll: Option<Duration>,
    /// When to look for new rows again.
    asleep_until: Option<Instant>,
    /// A key that was seen, and who may still add a row before it.
    waiting: Option<(Vec<KeyPart>, Running)>,
    /// Since when the server is away, and how often it was asked.
    away: Option<(Instant, u32)>,
}

impl PostgresReader {
    /// Begins to read with a connection.
    fn take_up(&mut self, cursor: Cursor) -> Result<(), Failure> {
        cursor.refuse_null()?;
        if self.poll.is_none() {
            cursor.hold_still()?;
        } else {
            refuse_replica(&cursor)?;
        }
        self.cursor = Some(cursor);
        (self.away, self.waiting) = (None, None);
        Ok(())
    }

    /// One step of reading; `None` when there is nothing now.
    fn step(&mut self, limit: usize) -> Result<Option<Read>, Failure> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        if !cursor.has_page() {
            let is_asked = match self.poll {
                None => cursor.ask(&[], Some(self.piece)).map(|()| true),
                Some(poll) => {
                    let look = look(cursor, &mut self.waiting, self.piece);
                    if matches!(look, Ok(Look::Nothing)) {
                        self.asleep_until = Some(Instant::now() + poll);
                    }
                    look.map(|look| look == Look::Asked)
                }
            };
            if !is_asked? {
                return Ok(None);
            }
        }
        match cursor.take(limit)? {
            Taken::Batch(batch) => Ok(Some(Read::Batch(batch))),
            Taken::Bad(bad) => Ok(Some(Read::Bad(bad))),
            // A piece that is not full is the last one of a bounded read.
            Taken::Over(came) if self.poll.is_none() && came < self.piece => {
                Ok(Some(Read::Finished))
            }
            Taken::Over(_) => self.step(limit),
        }
    }

    /// Waits for a server that is away, and connects again.
    fn come_back(&mut self) -> Result<(), SourceError> {
        let (since, tries) = self.away.get_or_insert((Instant::now(), 0));
        *tries += 1;
        thread::sleep(SLICE.min(Duration::from_millis(10 << (*tries).min(4))));
        let since = *since;
        match Cursor::open(&self.source.sought, self.at.clone()) {
            Ok(cursor) => match self.take_up(cursor) {
                Err(Failure::Away(_)) | Ok(()) => Ok(()),
                Err(failure) => Err(self.source.error(failure)),
            },
            Err(Failure::Away(_)) if since.elapsed() < PATIENCE => Ok(()),
            Err(failure) => Err(self.source.error(failure)),
        }
    }
}

/// What a poll found.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Rows are on their way.
    Asked,
    /// There are rows, and somebody may still add one among them.
    Waiting,
    /// There are no new rows.
    Nothing,
}

/// Looks for new rows, and asks for them once nobody can add one among them.
fn look(
    cursor: &mut Cursor,
    waiting: &mut Option<(Vec<KeyPart>, Running)>,
    piece: usize,
) -> Result<Look, Failure> {
    if waiting.is_none() {
        let Some(key) = cursor.reach(piece)? else { return Ok(Look::Nothing) };
        // After the key was seen, not before: who begins later takes a higher one.
        let running = cursor.wire.wait(Running::now(&cursor.wire.client))?;
        *waiting = Some((key, running));
    }
    let Some((key, running)) = waiting else { return Ok(Look::Nothing) };
    if cursor.wire.wait(running.are_there(&cursor.wire.client))? {
        thread::sleep(LOOK_AGAIN);
        return Ok(Look::Waiting);
    }
    let key = std::mem::take(key);
    *waiting = None;
    cursor.ask(&key, None)?;
    Ok(Look::Asked)
}

/// A replica does not know which transactions are running where its rows come from.
fn refuse_replica(cursor: &Cursor) -> Result<(), Failure> {
    let sql = "SELECT pg_is_in_recovery()";
    let row = cursor.wire.wait(cursor.wire.client.query_typed_one(sql, &[]))?;
    if row.try_get(0)? {
        return Err(Failure::Unfit(
            "it is a replica, which cannot tell who may still add a row before those that were \
             seen: `poll` the primary, or read without `poll`"
                .into(),
        ));
    }
    Ok(())
}

impl Reader for PostgresReader {
    fn read(&mut self, limit: usize) -> Result<Read, SourceError> {
        if let Some(until) = self.asleep_until {
            let left = until.saturating_duration_since(Instant::now());
            thread::sleep(left.min(SLICE));
            if left > SLICE {
                return Ok(Read::Idle);
            }
            self.asleep_until = None;
        }
        if self.cursor.is_none() {
            self.come_back()?;
        }
        let read = match self.step(limit.max(1)) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(Read::Idle),
            Err(Failure::Away(_)) => {
                self.cursor = None;
                return Ok(Read::Idle);
            }
            Err(failure) => return Err(self.source.error(failure)),
        };
        fault::point("read");
        if let (Read::Batch(_) | Read::Bad(_), Some(cursor)) = (&read, &self.cursor) {
            self.at = cursor.at.clone();
        }
        Ok(read)
    }
}
