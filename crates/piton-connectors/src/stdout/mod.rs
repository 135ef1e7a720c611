//! The sink `stdout`: rows as JSON lines on standard output.
//!
//! What was written to a pipe cannot be taken back, and nobody says what became of it: a crash
//! repeats what lies after the last checkpoint.

use std::{
    io::{ErrorKind, Stdout, Write},
    ops::Range,
};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    batch::Batch,
    file::JsonRows,
    sink::{Accepted, Durable, Guarantee, PlainSink, Promise, Resume, SinkError},
};

/// Sink `stdout`: writes JSON lines to standard output.
#[derive(Debug, Clone, PartialEq, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdoutSettings {}

/// How much is gathered before it is written.
const GATHERED: usize = 64 * 1024;

/// Writes rows as JSON lines to a stream that cannot be taken back.
pub struct StreamSink<W> {
    stream: W,
    rows: JsonRows,
    buffer: Vec<u8>,
    /// Why it must not be written any more.
    failed: Option<String>,
}

/// The sink `stdout`.
pub type StdoutSink = StreamSink<Stdout>;

impl StdoutSink {
    /// Writes to the standard output of this process.
    pub fn standard() -> Self {
        Self::new(std::io::stdout())
    }
}

impl<W: Write> StreamSink<W> {
    /// Writes to a stream.
    pub fn new(stream: W) -> Self {
        Self { stream, rows: JsonRows::default(), buffer: Vec::new(), failed: None }
    }

    fn usable(&self) -> Result<(), SinkError> {
        match &self.failed {
            Some(what) => Err(SinkError::Failed { what: what.clone() }),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        let flushed = self.stream.write_all(&self.buffer).and_then(|()| self.stream.flush());
        self.buffer.clear();
        flushed.map_err(|error| {
            let what = if error.kind() == ErrorKind::BrokenPipe {
                "standard output: the program that reads it has closed it. What it had not read is \
                 written again by the next run, from the last checkpoint"
                    .to_owned()
            } else {
                format!("standard output could not be written: {error}")
            };
            self.failed = Some(what.clone());
            SinkError::Failed { what }
        })
    }
}

impl<W: Write + Send> PlainSink for StreamSink<W> {
    fn guarantee(&self) -> Guarantee {
        Guarantee {
            what: "at least once",
            why: "what was written to standard output cannot be taken back: a crash repeats what \
                  lies after the last checkpoint"
                .to_owned(),
        }
    }

    fn location(&self) -> String {
        "standard output".to_owned()
    }

    fn inspect(&mut self, _: &Resume) -> Result<(), SinkError> {
        Ok(())
    }

    fn open(&mut self, _: &Resume) -> Result<Durable, SinkError> {
        Ok(Durable { state: None })
    }

    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<Accepted, SinkError> {
        self.usable()?;
        for row in rows.clone() {
            let written = self.rows.write(batch, row, &mut self.buffer);
            written.map_err(|error| SinkError::BadRow { row, reason: error.to_string() })?;
            if self.buffer.len() >= GATHERED {
                self.flush()?;
            }
        }
        Ok(Accepted { rows: rows.len() as u64 })
    }

    fn present(&mut self) -> Result<Durable, SinkError> {
        Ok(Durable { state: None })
    }

    fn promise(&mut self) -> Result<Promise, SinkError> {
        self.usable()?;
        self.flush()?;
        Ok(Promise::kept(Durable { state: None }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read as _};

    use super::*;
    use crate::{
        file::{FileSource, JsonlSettings},
        source::{Read, Source},
    };

    fn batch() -> Batch {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("in"), "{\"a\":1}\n{\"a\":\"x\"}\n").unwrap();
        let source = FileSource::new(JsonlSettings::at("in"), folder.path(), 1000).unwrap();
        match source.reader(&[]).unwrap().read(10).unwrap() {
            Read::Batch(batch) => batch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rows_are_there_once_they_count_as_durable() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sink = StreamSink::new(writer);
        assert_eq!(sink.write(&batch(), 1..2).unwrap().rows, 1);
        let _ = sink.durable().unwrap();
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"a\":\"x\"}\n");
    }

    #[test]
    fn a_reader_that_went_away_is_an_error_and_no_panic() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut sink = StreamSink::new(writer);
        let _ = sink.write(&batch(), 0..2).unwrap();
        for _ in 0..2 {
            let Err(SinkError::Failed { what }) = sink.durable() else { panic!("it was written") };
            assert!(what.contains("has closed it"), "{what}");
        }
        assert!(sink.write(&batch(), 0..2).is_err());
    }
}
