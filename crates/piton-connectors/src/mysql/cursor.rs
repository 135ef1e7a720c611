//! An open table or query, and how far it was read.

use std::{sync::Arc, time::Duration};

use mysql::{Conn, Error, Row};
use piton_core::StoredPosition;
use serde_json::json;

use super::{
    connect::{Refusal, Server, rows as all_rows, run},
    decode::{self, Form},
    errors::{described, is_lost, is_passing_error, says},
    keyset::{Keyset, Unreadable, hexadecimal},
    position::{KeyPart, MySqlPosition},
    rows::{Rows, size, value},
};
use crate::{
    batch::{Batch, Column, Marks, Origin, Schema, Span},
    source::BadRecord,
    sqlite::settings::Input,
};

/// A batch ends when it has this many bytes, whatever was asked for.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How long the server may take to find the first row of a piece: it may have to sort a query.
const PATIENCE: Duration = Duration::from_hours(1);

/// Settings of a session that reads: times of UTC, double quotes around text as everywhere in MySQL,
/// and a server that waits while a slow sink holds rows back.
const SESSION: &str = "SET NAMES utf8mb4; \
SET sql_mode = REPLACE(REPLACE(REPLACE(@@sql_mode, 'NO_BACKSLASH_ESCAPES', ''), 'ANSI_QUOTES', ''), \
'ANSI', ''); \
SET time_zone = '+00:00', autocommit = 1, sql_select_limit = DEFAULT, \
net_write_timeout = 86400, net_read_timeout = 86400, wait_timeout = 86400";

/// What is to be read, where.
#[derive(Debug, Clone)]
pub(super) struct Sought {
    pub(super) server: Server,
    pub(super) input: Input,
    /// The table's name, in double quotes.
    pub(super) name: Option<String>,
    pub(super) key: Vec<String>,
    pub(super) partition: Arc<str>,
    pub(super) record_limit: usize,
}

/// An open table or query, and how far it was read.
pub(super) struct Cursor {
    /// `None` while rows are on their way.
    conn: Option<Conn>,
    pub(super) keyset: Keyset,
    schema: Arc<Schema>,
    names: Arc<Names>,
    record_limit: usize,
    /// Of the last row given away.
    pub(super) at: MySqlPosition,
    page: Option<Page>,
}

/// A piece on its way.
struct Page {
    rows: Rows,
    /// How many rows were given away.
    came: usize,
}

/// What rows are called.
#[derive(Debug)]
struct Names {
    partition: Arc<str>,
    /// Where they are, for people.
    place: String,
    key: Vec<String>,
    forms: Vec<Form>,
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
        let said = described(&error);
        if is_lost(&error) || is_passing_error(&error) {
            return Self::Away(said);
        }
        if says(&error, 1142) || says(&error, 1143) {
            return Self::Unfit(format!("{said}. GRANT SELECT on it to the user of the URL"));
        }
        Self::Broken(said)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Away(what) => Self::Away(what),
            Refusal::Settings(what) => Self::Unfit(what),
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

impl Cursor {
    /// Connects, and looks at what is to be read.
    pub(super) fn open(sought: &Sought, at: MySqlPosition) -> Result<Self, Failure> {
        let Sought { server, input, name, key, partition, record_limit } = sought;
        let mut conn = server.connect_as(SESSION, PATIENCE)?;
        let keyset = Keyset::of(&mut conn, input, name.as_deref(), key)?;
        let columns = keyset.columns.iter().map(|column| Column {
            name: column.name.as_str().into(),
            kind: column.form.column_type(),
        });
        let what = match input {
            Input::Table(table) => format!("table {table}"),
            Input::Query(_) => "the query".to_owned(),
        };
        let names = Names {
            partition: Arc::clone(partition),
            place: format!("{}, {what}", server.location()),
            key: keyset.key.iter().map(|part| part.name.clone()).collect(),
            forms: keyset.key.iter().map(|part| part.form).collect(),
        };
        let shape = keyset.shape.clone();
        Ok(Self {
            schema: Arc::new(Schema { columns: columns.collect() }),
            conn: Some(conn),
            keyset,
            names: Arc::new(names),
            record_limit: *record_limit,
            at: MySqlPosition { fingerprint: Some(at.fingerprint.unwrap_or(shape)), ..at },
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

    fn conn(&mut self) -> Result<&mut Conn, Failure> {
        self.conn.as_mut().ok_or_else(|| Failure::Away("the connection is lost".into()))
    }

    /// Sees one state of the database from here on.
    pub(super) fn hold_still(&mut self) -> Result<(), Failure> {
        let begin = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
                     START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
        Ok(run(self.conn()?, begin)?)
    }

    /// Refuses rows without a key: they would be passed over without a word.
    pub(super) fn refuse_null(&mut self) -> Result<(), Failure> {
        let Some(sql) = self.keyset.has_null() else { return Ok(()) };
        if all_rows(self.conn()?, &sql)?.is_empty() {
            return Ok(());
        }
        Err(self.broken(&format!(
            "a row has NULL in its key ({}), so it has no place in the order. Give it a value, \
             leave it out with a query, or name another key",
            self.names.key.join(", ")
        )))
    }

    /// The last key there is after the last row that was given away, if there is one.
    pub(super) fn reach(&mut self) -> Result<Option<Vec<KeyPart>>, Failure> {
        let sql = self.keyset.reach(&self.at.key);
        let Some(row) = all_rows(self.conn()?, &sql)?.pop() else { return Ok(None) };
        let part = |(column, form): (usize, &Form)| {
            Some(key_part(&shown(value(&row, column)?, *form)?, *form))
        };
        let parts: Option<Vec<KeyPart>> = self.names.forms.iter().enumerate().map(part).collect();
        parts.map(Some).ok_or_else(|| self.broken("a row has NULL in its key"))
    }

    /// Whether a piece is on its way.
    pub(super) fn has_page(&self) -> bool {
        self.page.is_some()
    }

    /// Asks for the rows after the last one, up to a key, at most so many.
    pub(super) fn ask(&mut self, upto: &[KeyPart], limit: usize) -> Result<(), Failure> {
        let sql = self.keyset.page(&self.at.key, upto, limit);
        self.begin(sql)
    }

    fn begin(&mut self, sql: String) -> Result<(), Failure> {
        self.conn()?;
        if let Some(conn) = self.conn.take() {
            self.page = Some(Page { rows: Rows::ask(conn, sql)?, came: 0 });
        }
        Ok(())
    }

    /// Takes at most `limit` rows of the piece that is on its way.
    pub(super) fn take(&mut self, limit: usize) -> Result<Taken, Failure> {
        let Some(mut page) = self.page.take() else { return Ok(Taken::Over(0)) };
        let mut keys = Keys::after(&self.names, self.at.clone());
        let (partition, schema) = (Arc::clone(&self.names.partition), Arc::clone(&self.schema));
        let mut batch = Batch::new(partition, schema, self.at.stored(), Arc::new(keys.clone()));
        let mut bad = None;
        while batch.rows() < limit && batch.size() < BATCH_BYTES {
            let Some(row) = page.rows.next()? else { break };
            let taken = self.take_row(&row, &mut batch, &mut keys);
            match taken.map_err(|why| self.broken(&why))? {
                None => {}
                // What came before it goes first.
                Some(_) if batch.rows() > 0 => {
                    page.rows.put_back(row);
                    break;
                }
                Some(reason) => {
                    bad = Some(reason);
                    break;
                }
            }
        }
        if bad.is_none() && batch.rows() == 0 {
            self.conn = page.rows.conn.take();
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
        row: &Row,
        batch: &mut Batch,
        keys: &mut Keys,
    ) -> Result<Option<String>, String> {
        let is_first = batch.rows() == 0;
        keys.push(&self.keyset, row, is_first)?;
        let bytes = size(row);
        let mut wrong = (bytes > self.record_limit).then(|| {
            format!("the row has {bytes} bytes, `limits: record` is {}", self.record_limit)
        });
        if wrong.is_none() {
            batch.begin_row(Origin { mark: batch.rows() as u64, line: 0, ordinal: 0 });
            for (index, column) in self.keyset.columns.iter().enumerate() {
                if let Err(why) = decode::push(batch, value(row, index), column.form) {
                    batch.pop_row();
                    wrong = Some(format!("column '{}': {why}", column.name));
                    break;
                }
            }
        }
        if wrong.is_some() && !is_first {
            keys.pop();
        }
        Ok(wrong)
    }

    /// Reads one row by its key.
    pub(super) fn row(&mut self, key: &[KeyPart]) -> Result<Option<Batch>, Failure> {
        self.begin(self.keyset.row(key))?;
        match self.take(1)? {
            Taken::Batch(batch) => Ok(Some(batch)),
            Taken::Bad(bad) => Err(self.broken(&bad.reason)),
            Taken::Over(_) => Ok(None),
        }
    }

    /// The marks of a record with a key.
    pub(super) fn marks_of(&self, key: &[KeyPart]) -> Arc<dyn Marks> {
        let mut keys = Keys::after(&self.names, MySqlPosition::default());
        for part in key {
            keys.keep(&match part {
                KeyPart::Integer(i) => i.to_string(),
                KeyPart::Text(text) => text.clone(),
            });
        }
        Arc::new(keys)
    }
}

/// A value of a key as a position has it: text, and bytes as digits. `None` if it is no text.
fn shown(value: &[u8], form: Form) -> Option<String> {
    if form == Form::Bytes {
        return Some(format!("\\x{}", hexadecimal(value)));
    }
    String::from_utf8(value.to_vec()).ok()
}

fn key_part(text: &str, form: Form) -> KeyPart {
    KeyPart::read(text, form.is_integer())
}

/// The keys of a batch's rows.
#[derive(Clone)]
struct Keys {
    names: Arc<Names>,
    /// Where the batch begins.
    before: MySqlPosition,
    text: String,
    /// As many for each row as the key has columns.
    parts: Vec<Span>,
}

impl Keys {
    fn after(names: &Arc<Names>, before: MySqlPosition) -> Self {
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
    fn push(&mut self, keyset: &Keyset, row: &Row, is_first: bool) -> Result<(), String> {
        let mut is_same = !is_first || !self.before.key.is_empty();
        let last = self.rows().checked_sub(1).filter(|_| !is_first);
        for (index, part) in keyset.key.iter().enumerate() {
            let Some(bytes) = value(row, part.column) else {
                return Err(format!("'{}', a column of the key, is NULL in a row", part.name));
            };
            let digits;
            let text = if part.form == Form::Bytes {
                digits = format!("\\x{}", hexadecimal(bytes));
                &*digits
            } else {
                std::str::from_utf8(bytes)
                    .map_err(|_| format!("'{}', a column of the key, is not UTF-8", part.name))?
            };
            is_same = is_same
                && match last {
                    Some(last) => self.part(last, index) == text,
                    None => self.before.key.get(index) == Some(&key_part(text, part.form)),
                };
            self.keep(text);
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
        let forms = self.names.forms.iter().enumerate();
        forms.map(move |(index, form)| key_part(self.part(row, index), *form))
    }

    /// The position after so many rows.
    fn position(&self, rows: usize) -> MySqlPosition {
        match rows.checked_sub(1) {
            None => self.before.clone(),
            Some(last) => MySqlPosition {
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
            id: format!("{}@{}", self.names.partition, self.shown(0)),
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

    fn place(&self, origin: Origin) -> String {
        self.describe(origin.mark as usize)
    }
}
