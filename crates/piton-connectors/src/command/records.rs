//! Records out of lines, and where each stands: its key.

use std::sync::Arc;

use piton_core::StoredPosition;

use super::{position::CommandPosition, process::Program, source::PARTITION};
use crate::{
    batch::{Batch, Cell, Marks, Origin, Value},
    file::{Columns, NotARecord, object},
    source::BadRecord,
};

/// The longest key, in bytes: it is handed back as a variable of the environment.
const KEY_BYTES: usize = 4096;

/// The most of a bad record that is kept, in bytes.
pub(super) const RAW_BYTES: usize = 4096;

/// The most of a key that is shown in a reason, in characters.
const KEY_SHOWN: usize = 80;

/// Cuts records out of lines, and knows where they stand.
pub(super) struct Records {
    /// The last record that was given away.
    pub(super) at: CommandPosition,
    names: Arc<Names>,
    pub(super) limit: usize,
    columns: Columns,
    cells: Vec<Cell>,
    keys: Keys,
    /// Where the key stands among the columns, probably.
    likely: usize,
    /// The lines of this run so far.
    pub(super) line: u64,
    /// Bad records since the last good one.
    bad: u64,
}

/// What records are called.
#[derive(Debug)]
struct Names {
    command: String,
    key: String,
}

/// The keys of a batch's records.
#[derive(Debug, Clone)]
struct Keys {
    names: Arc<Names>,
    /// Where the batch begins.
    before: CommandPosition,
    text: String,
    /// Where each key ends in the text.
    ends: Vec<u32>,
}

impl Keys {
    fn of(names: &Arc<Names>, before: CommandPosition) -> Self {
        Self { names: Arc::clone(names), before, text: String::new(), ends: Vec::new() }
    }

    fn key(&self, index: usize) -> &str {
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before));
        let range = start.map_or(0, |start| *start as usize)
            ..self.ends.get(index).map_or(self.text.len(), |end| *end as usize);
        self.text.get(range).unwrap_or_default()
    }

    /// The key before that of an index.
    fn key_before(&self, index: usize) -> Option<&str> {
        match index.checked_sub(1) {
            Some(before) => Some(self.key(before)),
            None => self.before.key.as_deref(),
        }
    }

    /// The position at which reading goes on with the record of an index.
    fn position(&self, index: usize) -> CommandPosition {
        let key = self.key_before(index).map(str::to_owned);
        CommandPosition { n: self.before.n + index as u64, key }
    }
}

impl Marks for Keys {
    fn resume_at(&self, origin: Origin) -> StoredPosition {
        self.position(origin.mark as usize).stored()
    }

    fn write_id(&self, origin: Origin, out: &mut String) {
        out.push_str(self.key(origin.mark as usize));
    }

    fn place(&self, origin: Origin) -> String {
        let Names { command, key } = &*self.names;
        format!("{command}, the record with {key} '{}'", self.key(origin.mark as usize))
    }
}

impl Records {
    /// The records after a position.
    pub(super) fn after(at: CommandPosition, program: &Program, key: &str, limit: usize) -> Self {
        let command = format!("the command '{}'", program.name());
        let names = Arc::new(Names { command, key: key.to_owned() });
        let keys = Keys::of(&names, at.clone());
        let (columns, cells) = (Columns::new(), Vec::new());
        Self { at, names, limit, columns, cells, keys, likely: 0, line: 0, bad: 0 }
    }

    /// The command, as errors name it.
    pub(super) fn shown(&self) -> &str {
        &self.names.command
    }

    /// A batch to append to.
    pub(super) fn begin(&mut self) -> Batch {
        self.keys = Keys::of(&self.names, self.at.clone());
        let marks = Arc::new(self.keys.clone());
        Batch::new(PARTITION.into(), self.columns.begin(), self.at.stored(), marks)
    }

    /// Gives a batch away.
    pub(super) fn finish(&mut self, mut batch: Batch) -> Batch {
        let rows = batch.rows();
        self.at = self.keys.position(rows);
        self.bad = 0;
        batch.records = rows as u64;
        batch.schema = self.columns.schema();
        batch.end = self.at.stored();
        let empty = Keys::of(&self.names, self.at.clone());
        batch.marks = Arc::new(std::mem::replace(&mut self.keys, empty));
        batch
    }

    /// Appends the record of a line, or says why it is none.
    pub(super) fn append(&mut self, line: &[u8], batch: &mut Batch) -> Result<(), String> {
        if line.len() > self.limit {
            return Err(too_long(self.limit));
        }
        let text = std::str::from_utf8(line).map_err(|error| {
            format!("not UTF-8: byte {} of the record", error.valid_up_to() + 1)
        })?;
        object(text, &mut self.columns, &mut self.cells, batch).map_err(
            |NotARecord { column, reason }| match column {
                0 => reason,
                column => format!("column {column}: {reason}"),
            },
        )?;
        let begin = self.keys.text.len();
        self.append_key(batch)?;
        let index = self.keys.ends.len();
        if let Err(reason) = self.check_key(&self.keys.text[begin..], index) {
            self.keys.text.truncate(begin);
            return Err(reason);
        }
        self.keys.ends.push(self.keys.text.len() as u32);
        batch.begin_row(Origin { mark: index as u64, line: self.line + 1, ordinal: 0 });
        self.cells.iter().for_each(|cell| batch.push_cell(*cell));
        Ok(())
    }

    /// Appends the key of the record whose cells are there, as plain text.
    fn append_key(&mut self, batch: &Batch) -> Result<(), String> {
        let name = &self.names.key;
        let place = self.columns.find(name, self.likely);
        self.likely = place.unwrap_or(self.likely);
        let text = &mut self.keys.text;
        let kind = match place
            .and_then(|place| self.cells.get(place))
            .map(|cell| batch.value(*cell))
        {
            Some(Value::Text(key) | Value::Number(key)) => {
                text.push_str(key);
                return Ok(());
            }
            Some(Value::Int(key)) => {
                text.push_str(itoa::Buffer::new().format(key));
                return Ok(());
            }
            Some(Value::Float(key)) => {
                text.push_str(&serde_json::to_string(&key).unwrap_or_default());
                return Ok(());
            }
            None | Some(Value::Absent) => return Err(format!("it has no field '{name}', the key")),
            Some(Value::Null) => "null",
            Some(Value::Bool(_)) => "true or false",
            Some(Value::Bytes(_) | Value::Json(_)) => "an object or a list",
        };
        Err(format!("its key '{name}' is {kind}, and has to be a text or a number"))
    }

    /// Whether a key can say where its record stands.
    fn check_key(&self, key: &str, index: usize) -> Result<(), String> {
        let name = &self.names.key;
        let shown = || key.chars().take(KEY_SHOWN).collect::<String>();
        if key.is_empty() {
            return Err(format!("its key '{name}' is empty"));
        }
        if key.len() > KEY_BYTES {
            return Err(format!(
                "its key '{name}' has {} bytes, more than {KEY_BYTES}: '{}…'",
                key.len(),
                shown()
            ));
        }
        if key.contains(char::is_control) {
            return Err(format!("its key '{name}' has a control character: {:?}", shown()));
        }
        if self.keys.key_before(index) != Some(key) {
            return Ok(());
        }
        // After a crash between the two, the second would be left out.
        let advice = if index == 0 && self.line == 0 {
            "The command has to begin after PITON_POSITION, not with it"
        } else {
            "A key has to be another in each record"
        };
        Err(format!("its key '{name}' is '{}', that of the record before it. {advice}", shown()))
    }

    /// A bad record, which is passed over.
    pub(super) fn bad(&mut self, line: &[u8], reason: String) -> BadRecord {
        self.line += 1;
        self.bad += 1;
        self.at.n += 1;
        let key = self.at.key.as_deref().unwrap_or_default();
        let place = format!("{}, line {}", self.names.command, self.line);
        let record = String::from_utf8_lossy(&line[..line.len().min(RAW_BYTES)]).into_owned();
        BadRecord {
            partition: PARTITION.to_owned(),
            id: format!("{PARTITION}@{key}!{}", self.bad),
            place,
            reason,
            record,
            end: self.at.stored(),
        }
    }
}

/// Why a record is bad that has more bytes than it may.
pub(super) fn too_long(limit: usize) -> String {
    format!("the record is longer than `limits: {{record: {limit}}}` bytes")
}
