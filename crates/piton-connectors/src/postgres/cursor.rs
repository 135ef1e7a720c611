//! An open table or query, and how far it was read.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt as _;
use piton_core::StoredPosition;
use serde_json::json;
use tokio_postgres::{CopyOutStream, Error, error::SqlState};

use super::{
    connect::{ConnectError, Server, describe, is_lost},
    decode,
    keyset::{Keyset, Unreadable},
    position::{KeyPart, PostgresPosition},
    ranges::Range,
    wire::Wire,
};
use crate::{
    batch::{Batch, Column, Marks, Origin, Schema, Span},
    source::BadRecord,
    sqlite::settings::Input,
};

/// A batch ends when it has this many bytes, whatever was asked for.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// An open table or query, and how far it was read.
pub(super) struct Cursor {
    pub(super) wire: Wire,
    pub(super) keyset: Keyset,
    schema: Arc<Schema>,
    names: Arc<Names>,
    record_limit: usize,
    range: Range,
    /// Of the last row given away.
    pub(super) at: PostgresPosition,
    page: Option<Page>,
}

/// A piece on its way.
struct Page {
    rows: Pin<Box<CopyOutStream>>,
    /// A row that goes into the next batch.
    left: Option<Bytes>,
    /// How many rows were given away.
    came: usize,
    is_over: bool,
}

/// What rows are called.
#[derive(Debug)]
struct Names {
    partition: Arc<str>,
    /// What the ids of records begin with: the table, whatever its ranges.
    origin: String,
    /// Where they are, for people.
    place: String,
    key: Vec<String>,
    integers: Vec<bool>,
}

/// What reading gave.
pub(super) enum Taken {
    Batch(Batch),
    Bad(BadRecord),
    /// The piece is over, after so many rows.
    Over(usize),
}

/// Why reading failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server is away; it may come back.
    Away(String),
    /// It is not there.
    Missing(String),
    /// It cannot be read as configured.
    Unfit(String),
    /// The rows do not come as is needed, or the server failed.
    Broken(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let said = describe(&error);
        if is_lost(&error) {
            return Self::Away(said);
        }
        match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                Self::Unfit(format!("{said}. GRANT SELECT on it to the user of the URL"))
            }
            _ => Self::Broken(said),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unavailable { what } => Self::Away(what),
            ConnectError::Url { what } | ConnectError::Refused { what } => Self::Unfit(what),
        }
    }
}

impl From<Unreadable> for Failure {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Missing(what) => Self::Missing(what),
            Unreadable::Unfit(what) => Self::Unfit(what),
            Unreadable::Database(error) => error.into(),
        }
    }
}

/// How values are written, and that nothing is: for a session that reads.
const SESSION: &str = "\
SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; \
SET bytea_output = 'hex'; SET extra_float_digits = 1; \
SET standard_conforming_strings = on; SET default_transaction_read_only = on; \
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
SET client_min_messages = warning";

/// What is to be read, where.
#[derive(Debug, Clone)]
pub(super) struct Sought {
    pub(super) server: Server,
    pub(super) input: Input,
    /// The table's name in a statement.
    pub(super) name: Option<String>,
    pub(super) key: Vec<String>,
    pub(super) partition: Arc<str>,
    pub(super) range: Range,
    pub(super) record_limit: usize,
}

impl Sought {
    /// What it is called: the table, or `query`.
    pub(super) fn origin(&self) -> &str {
        match &self.input {
            Input::Table(table) => table,
            Input::Query(_) => "query",
        }
    }

    /// A range of it.
    pub(super) fn within(&self, range: Range) -> Self {
        Self { partition: range.name(self.origin()).into(), range, ..self.clone() }
    }
}

impl Cursor {
    /// Connects, and looks at what is to be read.
    pub(super) fn open(sought: &Sought, at: PostgresPosition) -> Result<Self, Failure> {
        let Sought { server, input, name, key, partition, range, record_limit } = sought;
        let wire = Wire::open(server)?;
        let keyset = wire.wait(async {
            wire.client.batch_execute(SESSION).await?;
            Ok::<_, Failure>(Keyset::of(&wire.client, input, name.as_deref(), key).await?)
        })?;
        let columns = keyset.columns.iter().map(|column| Column {
            name: column.name.as_str().into(),
            kind: column.form.column_type(&column.of),
        });
        let what = match input {
            Input::Table(table) => format!("table {table}"),
            Input::Query(_) => "the query".to_owned(),
        };
        let names = Names {
            partition: Arc::clone(partition),
            origin: sought.origin().to_owned(),
            place: format!("{}, {what}", server.location()),
            key: keyset.key.iter().map(|part| part.name.clone()).collect(),
            integers: keyset.key.iter().map(|part| part.is_integer).collect(),
        };
        let shape = keyset.shape.clone();
        Ok(Self {
            schema: Arc::new(Schema { columns: columns.collect() }),
            wire,
            keyset,
            names: Arc::new(names),
            record_limit: *record_limit,
            range: range.clone(),
            at: PostgresPosition { fingerprint: Some(at.fingerprint.unwrap_or(shape)), ..at },
            page: None,
        })
    }

    /// The columns of the key.
    pub(super) fn key_names(&self) -> &[String] {
        &self.names.key
    }

    /// What is wrong with the rows, and where.
    fn broken(&self, what: &str) -> Failure {
        Failure::Broken(format!("{}: {what}", self.names.place))
    }

    /// Sees one state of the database from here on: the one that others see, if it can still be
    /// had, or a new one, which `shared` then names.
    pub(super) fn hold_still(&self, shared: &mut Option<String>) -> Result<(), Failure> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        self.wire.wait(async {
            let client = &self.wire.client;
            client.batch_execute(BEGIN).await?;
            if let Some(snapshot) = shared.as_ref() {
                let join = format!("SET TRANSACTION SNAPSHOT '{snapshot}'");
                match client.batch_execute(&join).await {
                    // It went with the session that had it.
                    Err(error) if error.as_db_error().is_some() && !is_lost(&error) => {
                        client.batch_execute(&format!("ROLLBACK; {BEGIN}")).await?;
                    }
                    joined => return Ok(joined?),
                }
            }
            let row = client.query_typed_one("SELECT pg_export_snapshot()", &[]).await?;
            *shared = Some(row.try_get(0)?);
            Ok(())
        })
    }

    /// Refuses rows without a key: they would be passed over without a word.
    pub(super) fn refuse_null(&self) -> Result<(), Failure> {
        let Some(sql) = self.keyset.has_null() else { return Ok(()) };
        let found = self.wire.wait(self.wire.client.query_typed_one(&sql, &[]))?;
        if found.try_get(0)? {
            return Err(self.broken(&format!(
                "a row has NULL in its key ({}), so it has no place in the order. Give it a \
                 value, leave it out with a query, or name another key",
                self.names.key.join(", ")
            )));
        }
        Ok(())
    }

    /// The last key of the next `limit` rows, if there are any.
    pub(super) fn reach(&self, limit: usize) -> Result<Option<Vec<KeyPart>>, Failure> {
        let sql = self.keyset.reach(self.after(), limit);
        let Some(row) = self.wire.wait(self.wire.client.query_typed_opt(&sql, &[]))? else {
            return Ok(None);
        };
        let part = |(index, is_integer): (usize, &bool)| {
            let text: Option<&str> = row.try_get(index)?;
            Ok(text.map(|text| KeyPart::read(text, *is_integer)))
        };
        let parts: Result<Option<Vec<KeyPart>>, Error> =
            self.names.integers.iter().enumerate().map(part).collect();
        parts?.map(Some).ok_or_else(|| self.broken("a row has NULL in its key"))
    }

    /// The key after which reading goes on.
    fn after(&self) -> &[KeyPart] {
        if self.at.key.is_empty() { &self.range.after } else { &self.at.key }
    }

    /// Whether a piece is on its way.
    pub(super) fn has_page(&self) -> bool {
        self.page.is_some()
    }

    /// Asks for the rows after the last one: at most `limit` of them, or up to a key.
    pub(super) fn ask(&mut self, upto: &[KeyPart], limit: Option<usize>) -> Result<(), Failure> {
        let upto = if upto.is_empty() { &self.range.upto } else { upto };
        let sql = self.keyset.page(self.after(), upto, limit);
        let rows = self.wire.wait(self.wire.client.copy_out(&sql))?;
        self.page = Some(Page { rows: Box::pin(rows), left: None, came: 0, is_over: false });
        Ok(())
    }

    /// Takes at most `limit` rows of the piece that is on its way.
    pub(super) fn take(&mut self, limit: usize) -> Result<Taken, Failure> {
        let Some(mut page) = self.page.take() else { return Ok(Taken::Over(0)) };
        let mut keys = Keys::after(&self.names, self.at.clone());
        let (partition, schema) = (Arc::clone(&self.names.partition), Arc::clone(&self.schema));
        let mut batch = Batch::new(partition, schema, self.at.stored(), Arc::new(keys.clone()));
        let mut room = (Vec::new(), Vec::new());
        let bad = self.wire.wait(async {
            while batch.rows() < limit && batch.size() < BATCH_BYTES && !page.is_over {
                let next = match page.left.take() {
                    Some(left) => Some(left),
                    None => page.rows.next().await.transpose()?,
                };
                let Some(row) = next else {
                    page.is_over = true;
                    break;
                };
                let taken = self.take_row(&row, &mut batch, &mut keys, &mut room);
                match taken.map_err(|why| self.broken(&why))? {
                    None => {}
                    // What came before it goes first.
                    Some(_) if batch.rows() > 0 => {
                        page.left = Some(row);
                        break;
                    }
                    Some(reason) => return Ok(Some(reason)),
                }
            }
            Ok::<_, Failure>(None)
        })?;
        if bad.is_none() && batch.rows() == 0 {
            return Ok(Taken::Over(page.came));
        }
        let rows = batch.rows().max(1);
        page.came += rows;
        self.page = Some(page);
        self.at = keys.position(rows);
        if let Some(reason) = bad {
            return Ok(Taken::Bad(keys.bad(reason)));
        }
        batch.end = self.at.stored();
        batch.records = rows as u64;
        batch.marks = Arc::new(keys);
        Ok(Taken::Batch(batch))
    }

    /// Takes a row as it came. `Some` says why it cannot be a record; its key is the last of
    /// `keys` then.
    fn take_row(
        &self,
        row: &[u8],
        batch: &mut Batch,
        keys: &mut Keys,
        (room, spare): &mut (Vec<u8>, Vec<u8>),
    ) -> Result<Option<String>, String> {
        let text = row.strip_suffix(b"\n").unwrap_or(row);
        let is_first = batch.rows() == 0;
        keys.push(&self.keyset, text, spare, is_first)?;
        let reason = if text.len() > self.record_limit {
            format!("the row has {} bytes, `limits: record` is {}", text.len(), self.record_limit)
        } else if std::str::from_utf8(text).is_err() {
            "its text is not UTF-8".to_owned()
        } else {
            let mark = batch.rows() as u64;
            batch.begin_row(Origin { mark, line: 0, ordinal: 0 });
            let mut fields = text.split(|byte| *byte == b'\t');
            let mut wrong = None;
            for column in &self.keyset.columns {
                let field = fields.next().and_then(|field| decode::unescaped(field, room));
                if let Err(why) = decode::push(batch, field, column.form) {
                    wrong = Some(format!("column '{}': {why}", column.name));
                    break;
                }
            }
            match wrong {
                None => return Ok(None),
                Some(why) => {
                    batch.pop_row();
                    why
                }
            }
        };
        if !is_first {
            keys.pop();
        }
        Ok(Some(reason))
    }

    /// Reads one row by its key.
    pub(super) fn row(&mut self, key: &[KeyPart]) -> Result<Option<Batch>, Failure> {
        let sql = self.keyset.row(key);
        let rows = self.wire.wait(self.wire.client.copy_out(&sql))?;
        self.page = Some(Page { rows: Box::pin(rows), left: None, came: 0, is_over: false });
        match self.take(1)? {
            Taken::Batch(batch) => Ok(Some(batch)),
            Taken::Bad(bad) => Err(self.broken(&bad.reason)),
            Taken::Over(_) => Ok(None),
        }
    }

    /// The marks of a record with a key.
    pub(super) fn marks_of(&self, key: &[KeyPart]) -> Arc<dyn Marks> {
        let mut keys = Keys::after(&self.names, PostgresPosition::default());
        for part in key {
            keys.keep(&match part {
                KeyPart::Integer(i) => i.to_string(),
                KeyPart::Text(text) => text.clone(),
            });
        }
        Arc::new(keys)
    }
}

/// The keys of a batch's rows.
#[derive(Clone)]
struct Keys {
    names: Arc<Names>,
    /// Where the batch begins.
    before: PostgresPosition,
    text: String,
    /// As many for each row as the key has columns.
    parts: Vec<Span>,
}

impl Keys {
    fn after(names: &Arc<Names>, before: PostgresPosition) -> Self {
        Self { names: Arc::clone(names), before, text: String::new(), parts: Vec::new() }
    }

    fn width(&self) -> usize {
        self.names.key.len()
    }

    fn rows(&self) -> usize {
        self.parts.len() / self.width().max(1)
    }

    fn keep(&mut self, part: &str) {
        let span = Span { start: self.text.len() as u32, len: part.len() as u32 };
        self.text.push_str(part);
        self.parts.push(span);
    }

    /// Adds the key of a row, which must not be that of the row before it.
    fn push(
        &mut self,
        keyset: &Keyset,
        row: &[u8],
        room: &mut Vec<u8>,
        is_first: bool,
    ) -> Result<(), String> {
        let mut is_same = !is_first || !self.before.key.is_empty();
        for (index, part) in keyset.key.iter().enumerate() {
            let field = row.split(|byte| *byte == b'\t').nth(part.column).unwrap_or_default();
            let Some(value) = decode::unescaped(field, room) else {
                return Err(format!("'{}', a column of the key, is NULL in a row", part.name));
            };
            let value = std::str::from_utf8(value)
                .map_err(|_| format!("'{}', a column of the key, is not UTF-8", part.name))?;
            is_same = is_same
                && match self.rows().checked_sub(1) {
                    Some(last) if !is_first => self.part(last, index) == value,
                    _ => self.before.key.get(index) == Some(&KeyPart::read(value, part.is_integer)),
                };
            self.keep(value);
        }
        if is_same {
            return Err(format!(
                "two rows have the key ({}) = ({}), so one of them would be lost. Name columns \
                 with `key` that identify a row",
                self.names.key.join(", "),
                self.shown(self.rows() - 1)
            ));
        }
        Ok(())
    }

    /// Takes the last row's key out again.
    fn pop(&mut self) {
        let keep = self.parts.len() - self.width();
        if let Some(span) = self.parts.get(keep) {
            self.text.truncate(span.start as usize);
        }
        self.parts.truncate(keep);
    }

    fn part(&self, row: usize, index: usize) -> &str {
        let span = self.parts[row * self.width() + index];
        &self.text[span.start as usize..(span.start + span.len) as usize]
    }

    fn key(&self, row: usize) -> impl Iterator<Item = KeyPart> {
        let integers = self.names.integers.iter().enumerate();
        integers.map(move |(index, is_integer)| KeyPart::read(self.part(row, index), *is_integer))
    }

    /// The position after so many rows.
    fn position(&self, rows: usize) -> PostgresPosition {
        match rows.checked_sub(1) {
            None => self.before.clone(),
            Some(last) => PostgresPosition {
                key: self.key(last).collect(),
                rows: self.before.rows + rows as u64,
                fingerprint: self.before.fingerprint.clone(),
            },
        }
    }

    /// The key of a row as it stands in its id.
    fn shown(&self, row: usize) -> String {
        self.key(row).map(|part| part.to_string()).collect::<Vec<_>>().join(",")
    }

    fn describe(&self, row: usize) -> String {
        let Names { place, key, .. } = &*self.names;
        format!("{place}, ({}) = ({})", key.join(", "), self.shown(row))
    }

    /// The only row as a bad record.
    fn bad(&self, reason: String) -> BadRecord {
        let named: serde_json::Map<String, serde_json::Value> =
            self.names.key.iter().cloned().zip(self.key(0).map(|part| json!(part))).collect();
        BadRecord {
            partition: self.names.partition.to_string(),
            id: format!("{}@{}", self.names.origin, self.shown(0)),
            place: self.describe(0),
            reason,
            record: serde_json::Value::Object(named).to_string(),
            end: self.position(1).stored(),
        }
    }
}

impl Marks for Keys {
    fn resume_at(&self, origin: Origin) -> StoredPosition {
        self.position(origin.mark as usize).stored()
    }

    fn write_id(&self, origin: Origin, out: &mut String) {
        out.push_str(&self.shown(origin.mark as usize));
    }

    fn write_stable_id(&self, _partition: &str, origin: Origin, out: &mut String) {
        out.push_str(&self.names.origin);
        out.push('@');
        self.write_id(origin, out);
    }

    fn place(&self, origin: Origin) -> String {
        self.describe(origin.mark as usize)
    }
}
