//! Reading what a command prints: lines into records, and the key of each.

use std::{ops::ControlFlow, sync::Arc, thread, time::Duration};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use piton_core::{StoredPosition, fault};

use super::{
    lines::{CHUNK, PassOn, Piece, pieces},
    position::CommandPosition,
    process::{Launch, Process, Program},
    source::{PARTITION, of_process},
};
use crate::{
    batch::{Batch, Cell, Marks, Origin, Value},
    file::{Columns, NotARecord, object},
    source::{BadRecord, Read, Reader, SourceError},
};

/// How long one read may wait for more.
const SLICE: Duration = Duration::from_millis(100);

/// Pieces of output that may wait to be cut into records.
const WAITING: usize = 2;

/// A batch ends when it has this many bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The longest key, in bytes: it is handed back as a variable of the environment.
const KEY_BYTES: usize = 4096;

/// The most of a bad record that is kept, in bytes.
const RAW_BYTES: usize = 4096;

/// The most of a key that is shown in a reason, in characters.
const KEY_SHOWN: usize = 80;

/// A piece of output on its way to the reader.
enum Output {
    Lines(Vec<u8>),
    Long(Vec<u8>),
    Open(Vec<u8>),
    Failed(std::io::Error),
}

/// A command that runs, and the records that it prints.
pub(super) struct CommandReader {
    /// Dropped before the process is ended: what it still prints must not block it.
    output: Receiver<Output>,
    process: Process,
    records: Records,
    /// Whole lines, and up to where they were cut.
    lines: (Vec<u8>, usize),
    /// The beginning of a line that is too long.
    long: Option<Vec<u8>>,
    /// A last line without an end: a record if the command ends well, else half of one.
    open: Option<Vec<u8>>,
}

impl CommandReader {
    /// Starts the command after the position at which the records stand.
    pub(super) fn start(
        program: &Program,
        records: Records,
        pipeline: &str,
    ) -> Result<Self, SourceError> {
        let launch = Launch::of(program);
        let launch = match &records.at.key {
            Some(key) => launch.with("PITON_POSITION", key),
            None => launch.without("PITON_POSITION"),
        };
        let mut process = launch.start(PassOn::named(pipeline)).map_err(of_process)?;
        let (pass, output) = bounded(WAITING);
        if let Some(stdout) = process.output() {
            let limit = records.limit;
            thread::spawn(move || forward(stdout, limit, &pass));
        }
        Ok(Self { output, process, records, lines: (Vec::new(), 0), long: None, open: None })
    }

    /// Brings more output, waiting for it as long. False when there is none now.
    fn more(&mut self, wait: Duration) -> Result<Came, SourceError> {
        match self.output.recv_timeout(wait) {
            Ok(Output::Lines(lines)) => self.lines = (lines, 0),
            Ok(Output::Long(line)) => self.long = Some(line),
            Ok(Output::Open(line)) => self.open = Some(line),
            Ok(Output::Failed(error)) => {
                let what = format!("{}: its output cannot be read: {error}", self.records.shown());
                return Err(SourceError::Failed { what });
            }
            Err(RecvTimeoutError::Timeout) => return Ok(Came::Nothing),
            Err(RecvTimeoutError::Disconnected) => return self.ended(),
        }
        Ok(Came::Output)
    }

    /// Its output is over. So is the source, if it ends well.
    fn ended(&mut self) -> Result<Came, SourceError> {
        let shown = self.records.shown().to_owned();
        let ended = self.process.wait(Some(SLICE), &|| false).map_err(|error| {
            SourceError::Failed { what: format!("{shown} cannot be waited for: {error}") }
        })?;
        match ended {
            None => Ok(Came::Nothing),
            Some(end) if end.is_good() => match self.open.take() {
                Some(line) => {
                    self.lines = (line, 0);
                    Ok(Came::Output)
                }
                None => Ok(Came::End),
            },
            Some(end) => {
                let said = match self.process.last_words() {
                    said if said.is_empty() => String::new(),
                    said => format!(", and said: {said}"),
                };
                let what = format!(
                    "{shown} ended with {end}{said}. What it printed before is kept: mend it and \
                     run the same command again, it goes on from there"
                );
                Err(SourceError::Failed { what })
            }
        }
    }

    /// Appends the records of the lines that are there. A line that is none is left for the next
    /// read, if there are records before it.
    fn take(&mut self, limit: usize, batch: &mut Batch) -> Option<BadRecord> {
        let (lines, at) = &mut self.lines;
        while *at < lines.len() && batch.rows() < limit && batch.size() < BATCH_BYTES {
            let rest = &lines[*at..];
            let length = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            let line = rest[..length].trim_ascii();
            let rows = batch.rows();
            if !line.is_empty()
                && let Err(reason) = self.records.append(line, batch)
            {
                if rows > 0 {
                    return None;
                }
                let bad = self.records.bad(line, reason);
                *at += length;
                return Some(bad);
            }
            self.records.line += 1;
            *at += length;
        }
        None
    }

    fn has_lines(&self) -> bool {
        self.lines.1 < self.lines.0.len()
    }
}

/// What waiting for more gave.
enum Came {
    Output,
    Nothing,
    End,
}

/// Reads until nobody takes it any more.
fn forward(output: impl std::io::Read, limit: usize, pass: &Sender<Output>) {
    let send = |output: Output| match pass.send(output) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    let read = pieces(output, limit, |piece| {
        send(match piece {
            Piece::Lines(lines) => Output::Lines(lines.to_vec()),
            Piece::Long(line) => Output::Long(line[..line.len().min(RAW_BYTES)].to_vec()),
            Piece::Open(line) => Output::Open(line.to_vec()),
        })
    });
    if let Err(error) = read {
        let _ = send(Output::Failed(error));
    }
}

impl Reader for CommandReader {
    fn read(&mut self, limit: usize) -> Result<Read, SourceError> {
        let mut batch = self.records.begin();
        let mut wait = SLICE;
        loop {
            if let Some(bad) = self.take(limit.max(1), &mut batch) {
                return Ok(Read::Bad(bad));
            }
            let is_full = self.has_lines();
            if batch.rows() > 0 && (is_full || self.long.is_some()) {
                break;
            }
            if let Some(line) = self.long.take() {
                let limit = self.records.limit;
                let reason =
                    format!("the record is longer than `limits: {{record: {limit}}}` bytes");
                return Ok(Read::Bad(self.records.bad(&line, reason)));
            }
            match self.more(wait) {
                Ok(Came::Output) => {}
                // What came is given away first; the end is the same the next time.
                _ if batch.rows() > 0 => break,
                Ok(Came::Nothing) => return Ok(Read::Idle),
                Ok(Came::End) => return Ok(Read::Finished),
                Err(error) => return Err(error),
            }
            if batch.rows() > 0 {
                wait = Duration::ZERO;
            }
        }
        fault::point("read");
        Ok(Read::Batch(self.records.finish(batch)))
    }
}

/// Cuts records out of lines, and knows where they stand.
pub(super) struct Records {
    /// The last record that was given away.
    at: CommandPosition,
    names: Arc<Names>,
    limit: usize,
    columns: Columns,
    cells: Vec<Cell>,
    keys: Keys,
    /// Where the key stands among the columns, probably.
    likely: usize,
    /// The lines of this run so far.
    line: u64,
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

    fn shown(&self) -> &str {
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
            let limit = self.limit;
            return Err(format!("the record is longer than `limits: {{record: {limit}}}` bytes"));
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
    fn bad(&mut self, line: &[u8], reason: String) -> BadRecord {
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

const _: () = assert!(CHUNK < BATCH_BYTES, "a batch has room for a piece");
