//! The sinks `jsonl` and `csv`: rows at the end of a file.

use std::{io, ops::Range, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    csv_rows::CsvRows,
    json_rows::JsonRows,
    output::{Begin, OutputFile},
    settings::{CsvSinkSettings, JsonlSinkSettings},
};
use crate::{
    batch::Batch,
    sink::{Accepted, Durable, Guarantee, PlainSink, Promise, Resume, SinkError},
};

/// The most of an existing CSV file that is read to find its header.
const HEADER_LIMIT: u64 = 1024 * 1024;

/// Writes rows to the end of a file.
pub struct FileSink {
    output: OutputFile,
    rows: Rows,
    /// Whether `open` was called.
    open: bool,
}

enum Rows {
    Json(JsonRows),
    Csv { rows: CsvRows, header: bool, delimiter: u8 },
}

/// What the sink must find again.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The durable bytes of the file.
    length: u64,
    /// The columns of a CSV file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<String>>,
}

impl FileSink {
    /// A sink of JSON lines. A relative path is relative to `base`.
    ///
    /// # Errors
    /// [`SinkError::Settings`] when the settings cannot work.
    pub fn jsonl(settings: &JsonlSinkSettings, base: &Path) -> Result<Self, SinkError> {
        Self::new(&settings.path, base, Rows::Json(JsonRows::default()))
    }

    /// A sink of CSV. A relative path is relative to `base`.
    ///
    /// # Errors
    /// [`SinkError::Settings`] when the settings cannot work.
    pub fn csv(settings: &CsvSinkSettings, base: &Path) -> Result<Self, SinkError> {
        let delimiter = match u8::try_from(settings.delimiter) {
            Ok(byte) if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r' | 0) => byte,
            _ => {
                let given = settings.delimiter.escape_default();
                return Err(SinkError::Settings {
                    what: format!(
                        "delimiter: '{given}' is not one ASCII character that can part fields"
                    ),
                });
            }
        };
        let rows = CsvRows::new(delimiter, None);
        Self::new(&settings.path, base, Rows::Csv { rows, header: settings.header, delimiter })
    }

    fn new(path: &str, base: &Path, rows: Rows) -> Result<Self, SinkError> {
        if path.is_empty() {
            return Err(SinkError::Settings { what: "path: it is empty".to_owned() });
        }
        let path = base.join(path);
        let path = std::path::absolute(&path).unwrap_or(path);
        Ok(Self { output: OutputFile::new(path), rows, open: false })
    }

    /// Decides where to begin, and with what columns.
    fn decide(&mut self, resume: &Resume) -> Result<(Begin, Option<Vec<String>>), SinkError> {
        let state = resume.state.as_deref().map(|state| self.read_state(state)).transpose()?;
        let begin = self.output.decide(resume, state.as_ref().map(|state| state.length))?;
        let known = state.and_then(|state| state.columns);
        let Rows::Csv { header: true, delimiter, .. } = self.rows else {
            return Ok((begin, known));
        };
        if known.is_some() || begin.at == 0 {
            return Ok((begin, known.filter(|_| begin.at > 0)));
        }
        let text = self.output.beginning(HEADER_LIMIT)?;
        self.header_of(&text, delimiter).map(|columns| (begin, Some(columns)))
    }

    fn read_state(&self, state: &str) -> Result<State, SinkError> {
        let refused = |why: &str| SinkError::Refused {
            what: format!(
                "{}: the sink state {state} of its checkpoint {why}. If the sink was changed under \
                 the same name, give the new one a name of its own",
                self.location()
            ),
        };
        let state: State =
            serde_json::from_str(state).map_err(|_| refused("is not that of a file"))?;
        match (&self.rows, &state.columns) {
            (Rows::Json(_), Some(_)) => Err(refused("is that of a CSV file")),
            _ => Ok(state),
        }
    }

    fn header_of(&self, text: &[u8], delimiter: u8) -> Result<Vec<String>, SinkError> {
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text);
        match reader.headers() {
            Ok(header) => Ok(header.iter().map(str::to_owned).collect()),
            Err(error) => Err(SinkError::Refused {
                what: format!(
                    "{} cannot be appended to: its header cannot be read: {error}",
                    self.location()
                ),
            }),
        }
    }

    fn state(&self, length: u64) -> Durable {
        let columns = match &self.rows {
            Rows::Json(_) => None,
            Rows::Csv { rows, .. } => {
                rows.columns().map(|c| c.iter().map(ToString::to_string).collect())
            }
        };
        // Numbers and texts always serialise.
        Durable { state: serde_json::to_string(&State { length, columns }).ok() }
    }

    fn append(&mut self, batch: &Batch, row: usize) -> Result<(), SinkError> {
        let buffer = self.output.buffer();
        let written: io::Result<Result<(), String>> = match &mut self.rows {
            Rows::Json(rows) => rows.write(batch, row, buffer).map(Ok),
            Rows::Csv { rows, .. } => rows.write(batch, row, buffer),
        };
        match written {
            Ok(Ok(())) => self.output.gathered(),
            Ok(Err(reason)) => Err(SinkError::BadRow { row, reason }),
            Err(error) => Err(SinkError::BadRow { row, reason: error.to_string() }),
        }
    }
}

impl PlainSink for FileSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee {
            what: "exactly once",
            why: "the checkpoint remembers the file's durable length, and what is past it is cut \
                  off before writing goes on"
                .to_owned(),
        }
    }

    fn location(&self) -> String {
        self.output.path().display().to_string()
    }

    fn inspect(&mut self, resume: &Resume) -> Result<(), SinkError> {
        self.decide(resume).map(drop)
    }

    fn open(&mut self, resume: &Resume) -> Result<Durable, SinkError> {
        let (begin, columns) = self.decide(resume)?;
        self.output.begin(begin)?;
        if let Rows::Csv { rows, delimiter, .. } = &mut self.rows {
            let columns = columns.map(|names| names.into_iter().map(Arc::from).collect());
            *rows = CsvRows::new(*delimiter, columns);
        }
        self.open = true;
        Ok(self.state(begin.at))
    }

    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<Accepted, SinkError> {
        self.output.usable()?;
        if !self.open {
            let what = format!("{} was not opened before it was written", self.location());
            return Err(SinkError::Failed { what });
        }
        if rows.is_empty() {
            return Ok(Accepted { rows: 0 });
        }
        if let Rows::Csv { rows, header, .. } = &mut self.rows
            && rows.settle(&batch.schema)
            && *header
            && self.output.length() == 0
        {
            rows.write_header(self.output.buffer());
        }
        for row in rows.clone() {
            self.append(batch, row)?;
        }
        Ok(Accepted { rows: rows.len() as u64 })
    }

    fn present(&mut self) -> Result<Durable, SinkError> {
        let length = self.output.present()?;
        Ok(self.state(length))
    }

    fn promise(&mut self) -> Result<Promise, SinkError> {
        let (length, sync) = self.output.sync()?;
        let durable = self.state(length);
        Ok(Promise::by(move || sync.sync().map(|()| durable)))
    }
}
