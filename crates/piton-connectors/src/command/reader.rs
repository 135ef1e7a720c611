//! Reading what a command prints, as it comes, until it ends.

use std::{ops::ControlFlow, thread, time::Duration};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use piton_core::fault;

use super::{
    lines::{CHUNK, PassOn, Piece, pieces},
    process::{Launch, Process, Program},
    records::{RAW_BYTES, Records, too_long},
    source::of_process,
};
use crate::{
    batch::Batch,
    source::{BadRecord, Read, Reader, SourceError},
};

/// How long one read may wait for more.
const SLICE: Duration = Duration::from_millis(100);

/// Pieces of output that may wait to be cut into records.
const WAITING: usize = 2;

/// A batch ends when it has this many bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

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
                let reason = too_long(self.records.limit);
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

const _: () = assert!(CHUNK < BATCH_BYTES, "a batch has room for a piece");
