//! One file that is being read: a window over it, and the format that cuts it into batches.

use std::{path::PathBuf, sync::Arc};

use piton_core::fault;

use super::{
    csv::Csv,
    fingerprint::Fingerprint,
    identity::FileId,
    jsonl::Jsonl,
    position::{FileMarks, FilePosition, Guessed, write_id},
    record::{Cut, Flaw},
    window::Window,
};
use crate::{
    batch::{Batch, Schema},
    source::{BadRecord, Read, SourceError},
};

/// The most text in a batch, in bytes, unless one record has more.
const BATCH_TEXT: usize = 256 * 1024;

/// The most that a batch takes in memory, in bytes, unless one record takes more.
const BATCH_SIZE: usize = 2 * 1024 * 1024;

/// About so many bytes of records may be before a place in a batch and not in its fingerprint.
const STEP: u64 = 4 * 1024;

/// How a file is cut into records.
pub(super) enum Format {
    Csv(Box<Csv>),
    Jsonl(Jsonl),
}

impl Format {
    fn begin(&mut self) -> Arc<Schema> {
        match self {
            Self::Csv(csv) => csv.schema(),
            Self::Jsonl(jsonl) => jsonl.begin(),
        }
    }

    fn schema(&mut self) -> Arc<Schema> {
        match self {
            Self::Csv(csv) => csv.schema(),
            Self::Jsonl(jsonl) => jsonl.schema(),
        }
    }

    fn cut(&mut self, window: &mut Window, batch: &mut Batch) -> Result<Cut, SourceError> {
        match self {
            Self::Csv(csv) => csv.cut(window, batch),
            Self::Jsonl(jsonl) => jsonl.cut(window, batch),
        }
    }
}

/// One file that is being read.
pub(super) struct Partition {
    pub(super) name: Arc<str>,
    pub(super) window: Window,
    pub(super) format: Format,
    /// The parts of a position that stay the same while this file is read.
    pub(super) rotation: u64,
    pub(super) file: Option<FileId>,
    pub(super) types: Option<Guessed>,
    /// Met after records that had to be given first.
    failed: Option<SourceError>,
    /// A bad record whose line has not been passed over to its end.
    passing: Option<BadRecord>,
}

impl Partition {
    pub(super) fn new(name: Arc<str>, window: Window, format: Format) -> Self {
        Self {
            name,
            window,
            format,
            rotation: 0,
            file: None,
            types: None,
            failed: None,
            passing: None,
        }
    }

    /// Where reading goes on.
    pub(super) fn position(&mut self) -> FilePosition {
        FilePosition {
            rotation: self.rotation,
            offset: self.window.offset(),
            line: self.window.line_number(),
            fingerprint: self.window.fingerprint(),
            file: self.file,
            types: self.types.clone(),
        }
    }

    /// Reads at most `limit` records. `None` at the end of the file, or at its end for now.
    pub(super) fn read(&mut self, limit: usize) -> Result<Option<Read>, SourceError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if let Some(bad) = self.passing.take() {
            return self.pass_rest_of_line(bad);
        }
        let begin = self.position();
        let marks = FileMarks { partition: Arc::clone(&self.name), begin, steps: Vec::new() };
        let marks = Arc::new(marks);
        let mut batch = Batch::new(
            Arc::clone(&self.name),
            self.format.begin(),
            marks.begin.stored(),
            Arc::clone(&marks) as _,
        );
        let mut steps = Vec::new();
        let flaw = self.fill(&mut batch, limit.max(1), &mut steps);
        if !steps.is_empty() {
            let begin = marks.begin.clone();
            batch.marks = Arc::new(FileMarks { partition: Arc::clone(&self.name), begin, steps });
        }
        if batch.rows() > 0 {
            self.failed = flaw.err();
            fault::point("read");
            batch.schema = self.format.schema();
            batch.records = batch.rows() as u64;
            batch.end = self.position().stored();
            return Ok(Some(Read::Batch(batch)));
        }
        match flaw? {
            Some(flaw) => self.bad(*flaw),
            None => Ok(None),
        }
    }

    /// Cuts records into the batch until it is full, or the end or a bad record comes.
    fn fill(
        &mut self,
        batch: &mut Batch,
        limit: usize,
        steps: &mut Vec<Fingerprint>,
    ) -> Result<Option<Box<Flaw>>, SourceError> {
        let begin = self.window.offset();
        let mut step = begin;
        while batch.rows() < limit
            && self.window.offset() - begin < BATCH_TEXT as u64
            && batch.size() < BATCH_SIZE
        {
            if self.window.offset() - step >= STEP {
                step = self.window.offset();
                steps.push(self.window.fingerprint());
            }
            let rows = batch.rows();
            match self.format.cut(&mut self.window, batch)? {
                Cut::Record => {}
                Cut::End => return Ok(None),
                Cut::Bad(flaw) => {
                    // It may have been half appended when it turned out to be bad.
                    if batch.rows() > rows {
                        batch.pop_row();
                    }
                    return Ok(Some(flaw));
                }
            }
        }
        Ok(None)
    }

    /// Passes over a bad record and tells of it.
    fn bad(&mut self, flaw: Flaw) -> Result<Option<Read>, SourceError> {
        let mut id = format!("{}@", self.name);
        write_id(self.rotation, flaw.origin.mark, &mut id);
        let mut place = format!("{}, line {}", self.name, flaw.origin.line);
        if !flaw.within.is_empty() {
            place = format!("{place}, {}", flaw.within);
        }
        let (bytes, lines) = flaw.pass;
        self.window.consume(bytes, lines);
        let bad = BadRecord {
            partition: self.name.to_string(),
            id,
            place,
            reason: flaw.reason,
            record: flaw.raw,
            end: self.position().stored(),
        };
        if flaw.rest_of_line {
            return self.pass_rest_of_line(bad);
        }
        fault::point("read");
        Ok(Some(Read::Bad(bad)))
    }

    fn pass_rest_of_line(&mut self, bad: BadRecord) -> Result<Option<Read>, SourceError> {
        let ended = self.window.pass_line()?;
        if !ended && self.window.is_growing() {
            self.passing = Some(bad);
            return Ok(None);
        }
        fault::point("read");
        Ok(Some(Read::Bad(BadRecord { end: self.position().stored(), ..bad })))
    }
}

/// A file to be read, as the settings named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// What its partition is called.
    pub(super) name: Arc<str>,
    /// Where it lies.
    pub(super) path: PathBuf,
}
