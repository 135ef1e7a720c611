//! The source `sql` for MySQL and MariaDB: a table or a query, read by its key.
//!
//! A bounded read sees one state of the database, from its first row to its last. A poll goes on
//! for ever, and passes a row when it has been there for a while (`reader`).
//!
//! If the server goes away, reading waits for it and goes on after the last row; a bounded read
//! then sees another state.
//!
//! What cannot be seen: a row that is changed, or added below the last key, after it was passed.

use std::sync::OnceLock;

use piton_core::{PositionOrder, StoredPosition, position::order_of};
use serde_json::json;

use super::{
    connect::{Server, literal, rows, text},
    cursor::{Cursor, Failure, Sought},
    keyset::Part,
    name::{MYSQL, Pattern, identifiers},
    position::{KeyPart, MySqlPosition},
    reader::MySqlReader,
};
use crate::{
    batch::Batch,
    kept, shape,
    source::{Reader, Source, SourceError, Start},
    sqlite::settings::{Input, SqlSettings},
};

/// Reads a table or query of a MySQL or MariaDB database by its key.
#[derive(Debug)]
pub struct MySqlSource {
    sought: Sought,
    settings: SqlSettings,
    /// About how many rows there are, once it was asked for.
    estimate: OnceLock<Option<u64>>,
}

impl MySqlSource {
    /// A source as configured. A row of more than `record_limit` bytes is a bad record. Touches
    /// nothing.
    ///
    /// # Errors
    /// [`SourceError::Settings`] when the settings contradict themselves.
    pub fn new(settings: &SqlSettings, record_limit: usize) -> Result<Self, SourceError> {
        let wrong = |what| SourceError::Settings { what };
        let server = Server::parse(&settings.url).map_err(wrong)?;
        let input = settings.input().map_err(wrong)?;
        check(settings).map_err(wrong)?;
        let (partition, name) = match &input {
            Input::Query(_) => ("query", None),
            Input::Table(table) => {
                let name = Pattern::parse(table, MYSQL).map_err(wrong)?.fixed();
                let name = name.ok_or_else(|| {
                    wrong(format!("`table: {table}` must be the name of one table"))
                })?;
                (table.as_str(), Some(name))
            }
        };
        let sought = Sought {
            server: server.named("piton".into()),
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
    fn resume(&self, mut at: MySqlPosition) -> Result<Cursor, SourceError> {
        // From here on it is what it is now.
        let before = at.fingerprint.take();
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
            Failure::Missing(what) | Failure::Unfit(what) if has_begun => gap(what),
            failure => error(&self.sought, failure),
        })?;
        // A number without a sign is text where it is too large to be another.
        let fits = |(part, now): (&KeyPart, &Part)| match part {
            KeyPart::Integer(_) => now.form.is_integer(),
            KeyPart::Text(text) => !now.form.is_integer() || text.parse::<u64>().is_ok(),
        };
        let now = &cursor.keyset.key;
        if has_begun && (key.len() != now.len() || !key.iter().zip(now).all(fits)) {
            let names = cursor.key_names().join(", ");
            let what = before.and_then(|before| before.difference(&cursor.keyset.shape, true));
            let now = || format!("its key is now ({names}), or of another type");
            return Err(gap(what.unwrap_or_else(now)));
        }
        Ok(cursor)
    }

    fn start<'s>(&self, starts: &'s [Start]) -> Option<&'s Start> {
        starts.iter().find(|start| start.partition == self.partition())
    }

    /// About how many rows there are, by the server's own statistics.
    fn count(&self) -> Option<u64> {
        let parts = identifiers(self.sought.name.as_ref()?);
        let at = match &parts[..] {
            [database, of] => {
                format!("table_schema = {} AND table_name = {}", literal(database), literal(of))
            }
            parts => {
                format!("table_schema = DATABASE() AND table_name = {}", literal(parts.first()?))
            }
        };
        let mut conn = self.sought.server.connect(super::sink::PATIENCE).ok()?;
        let sql = format!("SELECT table_rows FROM information_schema.tables WHERE {at}");
        let row = rows(&mut conn, &sql).ok()?.pop()?;
        text(&row, 0)?.parse().ok().filter(|rows| *rows > 0)
    }
}

/// What does not fit together.
fn check(settings: &SqlSettings) -> Result<(), String> {
    match (settings.poll, settings.settle) {
        (Some(_), None) => {
            Err("`poll` needs `settle` here: how long after a row was seen one with \
                                a lower key may still be committed, for example `settle: 30s`, \
                                longer than any transaction that adds rows. MySQL cannot tell who \
                                may still add one"
                .into())
        }
        (None, Some(_)) => Err("`settle` is for `poll`: leave it out".into()),
        _ if settings.partitions.is_some_and(|count| count.get() > 1) => {
            Err("`partitions` is for PostgreSQL: connections to MySQL cannot read one state of \
                 the database together. Leave it out"
                .into())
        }
        _ => Ok(()),
    }
}

/// What a failure means.
pub(super) fn error(sought: &Sought, failure: Failure) -> SourceError {
    let at = sought.server.location();
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

impl Source for MySqlSource {
    fn kind(&self) -> &'static str {
        "sql"
    }

    fn identity(&self) -> serde_json::Value {
        let SqlSettings { table, query, key, .. } = &self.settings;
        // The database, whoever reads it.
        let at = self.sought.server.location();
        let url = at.split_once('@').map_or(at, |(_, place)| place);
        let url = format!("mysql://{}", url.trim_start_matches("mysql://"));
        match (table, query) {
            (Some(table), _) => json!({"kind": "sql", "url": url, "table": table, "key": key}),
            (None, query) => json!({"kind": "sql", "url": url, "query": query, "key": key}),
        }
    }

    fn order(&self) -> PositionOrder {
        order_of::<MySqlPosition>
    }

    fn is_bounded(&self) -> bool {
        self.settings.poll.is_none()
    }

    fn partitions(&self) -> Result<Vec<String>, SourceError> {
        self.resume(MySqlPosition::default()).map(|_| vec![self.partition().to_owned()])
    }

    fn remarks(&self) -> Vec<String> {
        if let Some(settle) = self.settings.settle {
            return vec![format!(
                "rows that are changed or deleted after they were read are not seen, nor are those \
                 that are added with a lower key more than {settle} after a row with a higher one \
                 was seen (`settle`)"
            )];
        }
        let mut remarks = vec![
            "what is changed after the run began is not seen: it reads one state of the database. \
             A run that resumes, or that lost its connection, reads the rest as it is by then"
                .to_owned(),
        ];
        let engine = self.resume(MySqlPosition::default()).ok();
        if let Some(engine) = engine.and_then(|cursor| cursor.keyset.foreign_engine.clone()) {
            remarks[0] = format!(
                "the table is kept by the engine {engine}, which has no transactions: what is read \
                 is not one state of the database, but each row as it is by then"
            );
        }
        remarks
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
        let at = position(Some(start))?;
        let before = at.fingerprint.clone();
        let shown = MySqlPosition { fingerprint: None, ..at.clone() }.stored().json;
        let cursor = self.resume(at)?;
        let shapes = (before.as_ref(), &cursor.keyset.shape);
        shape::refuse_altered(start, shown, shapes, !self.is_bounded())
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, SourceError> {
        let cursor = self.resume(position(self.start(starts))?)?;
        Ok(Box::new(MySqlReader::of(self.sought.clone(), cursor, &self.settings)?))
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
        let mut cursor = self.resume(MySqlPosition::default())?;
        let value = |name: &String| fields.get(name).cloned().unwrap_or_default();
        let key = cursor.key_names().iter().map(|name| serde_json::from_value(value(name)));
        let Ok(key) = key.collect::<Result<Vec<KeyPart>, _>>() else {
            return Err(wrong(format!("it lacks the key ({})", cursor.key_names().join(", "))));
        };
        match cursor.row(&key).map_err(|failure| error(&self.sought, failure))? {
            Some(batch) => Ok(batch),
            None if fields.len() == key.len() => {
                Err(wrong("its row is gone from the source".into()))
            }
            None => {
                let marks = cursor.marks_of(&key);
                let end = MySqlPosition { key, ..MySqlPosition::default() }.stored();
                Ok(kept::batch(partition.into(), &fields, end, marks))
            }
        }
    }
}

/// Where reading goes on.
fn position(start: Option<&Start>) -> Result<MySqlPosition, SourceError> {
    let stored = start.and_then(|start| start.position.as_ref());
    let position = stored.map(StoredPosition::read::<MySqlPosition>).transpose()?;
    Ok(position.unwrap_or_default())
}
