//! Messages on their way into a batch, and the keys by which they are known.
//!
//! The stable id of a message is the one that the application gave it, so that a receiver sees the
//! same id wherever the message came by.

use std::{fmt::Write as _, sync::Arc};

use jiff::Timestamp;
use piton::postgres::outbox::{Xid, hash_of};
use piton_core::StoredPosition;
use serde_json::json;
use tokio_postgres::Row;

use super::{Fingerprint, OutboxPosition, shape::DataType, values::Raw};
use crate::{
    batch::{Batch, Column, ColumnType, Marks, Origin, Schema, Value},
    source::BadRecord,
};

/// A page ends when it has this many bytes, whatever was asked for.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// The server counts from the year 2000, in microseconds.
const YEAR_2000_US: i64 = 946_684_800_000_000;

/// The columns of a record, as they come.
const TRANSACTION: usize = 0;
const POSITION: usize = 1;
const ID: usize = 2;
const KIND: usize = 3;
const DATA: usize = 4;
const SCHEDULED: usize = 5;
/// How large the data is, where it is too large to be fetched.
const TOO_LARGE: usize = 6;

/// What a row of a page is known by.
pub(super) struct Whence {
    pub(super) partition: Arc<str>,
    /// What was seen of the server that is read.
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) schema: Arc<Schema>,
    pub(super) data: DataType,
    pub(super) record_limit: usize,
}

/// What a statement gave.
pub(super) enum Taken {
    /// Messages; whether the statement may have had more.
    Batch(Batch),
    /// The next message cannot be read; those after it can.
    Bad(BadRecord),
    /// No more messages.
    Nothing,
}

/// The columns of a record: the same whatever the table calls them.
pub(super) fn schema(data: DataType) -> Schema {
    let data = match data {
        DataType::Json => ColumnType::Json,
        DataType::Text => ColumnType::Text,
        DataType::Bytes => ColumnType::Bytes,
    };
    let columns = [
        ("transaction_id", ColumnType::Integer),
        ("position", ColumnType::Integer),
        ("message_id", ColumnType::Text),
        ("message_type", ColumnType::Text),
        ("data", data),
        ("scheduled", ColumnType::Text),
    ];
    let column = |(name, kind): (&str, _)| Column { name: name.into(), kind };
    Schema { columns: columns.into_iter().map(column).collect() }
}

/// Fills a batch with messages.
pub(super) struct Page<'w> {
    whence: &'w Whence,
    batch: Batch,
    keys: Keys,
    stopped: Option<BadRecord>,
    /// Formats times, so that none is allocated.
    text: String,
}

impl<'w> Page<'w> {
    /// A page that begins after this position.
    pub(super) fn after(whence: &'w Whence, position: &OutboxPosition) -> Self {
        let partition = Arc::clone(&whence.partition);
        let keys = Keys::before(partition, position, whence.fingerprint.clone());
        let (partition, schema) = (Arc::clone(&whence.partition), Arc::clone(&whence.schema));
        let batch = Batch::new(partition, schema, position.stored(), Arc::new(keys.clone()));
        Self { whence, batch, keys, stopped: None, text: String::new() }
    }

    pub(super) fn rows(&self) -> usize {
        self.batch.rows()
    }

    /// Takes a row. False when the page is to end with it.
    pub(super) fn take(&mut self, row: &Row) -> Result<bool, tokio_postgres::Error> {
        let Xid(transaction) = row.try_get(TRANSACTION)?;
        let pair = (transaction, row.try_get(POSITION)?);
        let mark = self.rows() as u64;
        self.batch.begin_row(Origin { mark, line: 0, ordinal: 0 });
        if let Err(reason) = self.cells(row, pair)? {
            self.batch.pop_row();
            let id = row.try_get::<_, Option<Raw<'_>>>(ID)?;
            let id = id.and_then(|id| std::str::from_utf8(id.0).ok());
            self.stopped = Some(self.bad(pair, id, reason));
            return Ok(false);
        }
        Ok(self.batch.size() < PAGE_BYTES)
    }

    /// What was read, and where reading goes on.
    pub(super) fn finish(self) -> (Taken, Option<OutboxPosition>) {
        let Self { mut batch, keys, stopped, .. } = self;
        if batch.rows() == 0 {
            return match stopped {
                Some(bad) => {
                    let end = bad.end.read().ok();
                    (Taken::Bad(bad), end)
                }
                None => (Taken::Nothing, None),
            };
        }
        let end = keys.up_to(batch.rows());
        batch.end = end.stored();
        batch.records = batch.rows() as u64;
        batch.marks = Arc::new(keys);
        (Taken::Batch(batch), Some(end))
    }

    /// The cells of a row, or why it cannot be a record.
    fn cells(
        &mut self,
        row: &Row,
        pair: (u64, i64),
    ) -> Result<Result<(), String>, tokio_postgres::Error> {
        let limit = self.whence.record_limit;
        let too_large = |bytes: i64| {
            Ok(Err(format!("the message has {bytes} bytes, `limits: record` is {limit}")))
        };
        if let Some(bytes) = row.try_get::<_, Option<i32>>(TOO_LARGE)? {
            return too_large(bytes.into());
        }
        let values = [ID, KIND, DATA].map(|column| row.try_get::<_, Option<Raw<'_>>>(column));
        let [id, kind, data] = values;
        let (id, kind, data) = (id?, kind?, data?);
        let bytes: usize =
            [&id, &kind, &data].iter().map(|v| v.as_ref().map_or(0, |v| v.0.len())).sum();
        if bytes > limit {
            return too_large(bytes as i64);
        }
        match i64::try_from(pair.0) {
            Ok(id) => self.batch.push(Value::Int(id)),
            Err(_) => self.batch.push(Value::Number(&pair.0.to_string())),
        }
        self.batch.push(Value::Int(pair.1));
        let Some(id) = id else { return Ok(Err("its message id is null".into())) };
        let Ok(id) = std::str::from_utf8(id.0) else {
            return Ok(Err("its message id is not UTF-8".into()));
        };
        self.batch.push(Value::Text(id));
        for (name, value, holds) in
            [("message_type", kind, DataType::Text), ("data", data, self.whence.data)]
        {
            match cell(value.as_ref(), holds) {
                Ok(value) => self.batch.push(value),
                Err(what) => return Ok(Err(format!("its {name} is {what}"))),
            }
        }
        let scheduled = row.try_get::<_, Option<Raw<'_>>>(SCHEDULED)?;
        if let Err(what) = self.time(scheduled.map(|raw| integer(raw.0))) {
            return Ok(Err(what));
        }
        self.keys.push(pair, id);
        Ok(Ok(()))
    }

    /// A time, as RFC 3339 in UTC.
    fn time(&mut self, since_2000: Option<i64>) -> Result<(), String> {
        let endless = match since_2000 {
            None => Some(Value::Null),
            Some(i64::MAX) => Some(Value::Text("infinity")),
            Some(i64::MIN) => Some(Value::Text("-infinity")),
            Some(_) => None,
        };
        if let Some(value) = endless {
            self.batch.push(value);
            return Ok(());
        }
        let since_1970 = since_2000.and_then(|micros| micros.checked_add(YEAR_2000_US));
        let time = since_1970.and_then(|micros| Timestamp::from_microsecond(micros).ok());
        let Some(time) = time else {
            return Err("its time is after the year 9999, which RFC 3339 cannot write".into());
        };
        self.text.clear();
        let _ = write!(self.text, "{time}");
        self.batch.push(Value::Text(&self.text));
        Ok(())
    }

    fn bad(&self, pair: (u64, i64), id: Option<&str>, reason: String) -> BadRecord {
        let Whence { partition, fingerprint, .. } = self.whence;
        let before = &self.keys.before;
        let mut keys = Keys::before(Arc::clone(partition), before, fingerprint.clone());
        keys.push(pair, id.unwrap_or_default());
        let (transaction, position) = pair;
        let named = json!({
            "transaction_id": transaction.to_string(), "position": position, "message_id": id,
        });
        BadRecord {
            partition: self.whence.partition.to_string(),
            id: id.map_or_else(
                || format!("{}@{transaction}/{position}", self.whence.partition),
                str::to_owned,
            ),
            place: keys.describe(0),
            reason,
            record: named.to_string(),
            end: keys.up_to(1).stored(),
        }
    }
}

/// A time as the server sends it: microseconds since the year 2000.
fn integer(raw: &[u8]) -> i64 {
    raw.try_into().map_or(0, i64::from_be_bytes)
}

fn cell<'v>(raw: Option<&Raw<'v>>, holds: DataType) -> Result<Value<'v>, &'static str> {
    let Some(Raw(bytes)) = raw else { return Ok(Value::Null) };
    let text = || std::str::from_utf8(bytes).map_err(|_| "not UTF-8");
    match holds {
        DataType::Bytes => Ok(Value::Bytes(bytes)),
        DataType::Text => Ok(Value::Text(text()?)),
        // `jsonb` is sent as text after the number of its format.
        DataType::Json => Ok(Value::Json(text()?.trim_start_matches('\u{1}'))),
    }
}

/// A message as a dead letter kept it, when it is gone from the table.
pub(super) fn rebuilt(
    partition: &str,
    at: &OutboxPosition,
    kept: &serde_json::Map<String, serde_json::Value>,
) -> Batch {
    use serde_json::Value as Json;

    let mut keys = Keys::before(partition.into(), at, None);
    let id = kept.get("message_id").and_then(Json::as_str).unwrap_or_default();
    keys.push((at.transaction_id, at.position), id);
    let schema = Arc::new(Schema::named(kept.keys()));
    let mut batch = Batch::new(partition.into(), schema, keys.up_to(1).stored(), Arc::new(keys));
    batch.records = 1;
    batch.begin_row(Origin { mark: 0, line: 0, ordinal: 0 });
    for value in kept.values() {
        match value {
            Json::Null => batch.push(Value::Null),
            Json::Bool(b) => batch.push(Value::Bool(*b)),
            Json::String(text) => batch.push(Value::Text(text)),
            Json::Number(n) => match n.as_i64() {
                Some(i) => batch.push(Value::Int(i)),
                None => batch.push(Value::Number(&n.to_string())),
            },
            Json::Array(_) | Json::Object(_) => batch.push(Value::Json(&value.to_string())),
        }
    }
    batch
}

/// The keys of a batch's messages, in a few buffers.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    partition: Arc<str>,
    /// Before the first message.
    before: OutboxPosition,
    fingerprint: Option<Fingerprint>,
    pairs: Vec<(u64, i64)>,
    /// The messages' own ids, one after the other.
    ids: String,
    ends: Vec<u32>,
}

impl Keys {
    fn before(
        partition: Arc<str>,
        position: &OutboxPosition,
        fingerprint: Option<Fingerprint>,
    ) -> Self {
        let (pairs, ids, ends) = (Vec::new(), String::new(), Vec::new());
        Self { partition, before: position.clone(), fingerprint, pairs, ids, ends }
    }

    fn push(&mut self, pair: (u64, i64), id: &str) {
        self.pairs.push(pair);
        self.ids.push_str(id);
        self.ends.push(self.ids.len() as u32);
    }

    fn id(&self, index: usize) -> &str {
        let end = |index: usize| self.ends.get(index).map_or(0, |end| *end as usize);
        let start = index.checked_sub(1).map_or(0, end);
        self.ids.get(start..end(index)).unwrap_or_default()
    }

    /// The position at which so many messages have been read.
    fn up_to(&self, messages: usize) -> OutboxPosition {
        let last = messages.checked_sub(1);
        let Some((index, (transaction_id, position))) =
            last.and_then(|index| Some((index, *self.pairs.get(index)?)))
        else {
            return self.before.clone();
        };
        let message = Some(hash_of(self.id(index)));
        let fingerprint = self.fingerprint.clone().map(|seen| Fingerprint { message, ..seen });
        OutboxPosition { transaction_id, position, fingerprint }
    }

    fn describe(&self, index: usize) -> String {
        let (transaction, position) = self.pairs.get(index).copied().unwrap_or_default();
        format!(
            "table {}, transaction {transaction}, position {position} (message {})",
            self.partition,
            self.id(index)
        )
    }
}

impl Marks for Keys {
    fn resume_at(&self, origin: Origin) -> StoredPosition {
        self.up_to(origin.mark as usize).stored()
    }

    fn write_id(&self, origin: Origin, out: &mut String) {
        out.push_str(self.id(origin.mark as usize));
    }

    fn write_stable_id(&self, _partition: &str, origin: Origin, out: &mut String) {
        self.write_id(origin, out);
    }

    fn place(&self, origin: Origin) -> String {
        self.describe(origin.mark as usize)
    }
}
