//! The sinks `jsonl` and `csv`: rows at the end of a file.

use std::{io, ops::Range, path::Path, sync::Arc};

use piton_core::Output as Choice;
use serde::{Deserialize, Serialize};

use super::{
    csv_rows::CsvRows,
    identity::FileId,
    json_rows::JsonRows,
    output::{Begin, OutputFile},
    settings::{CsvSinkSettings, JsonlSinkSettings},
    whole::{Known, Whole},
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
    /// Where it is put when it is whole, if it is not written in place.
    whole: Option<Whole>,
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
    /// It is written under a temporary name, and renamed when it is whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    part: bool,
    /// Which file that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<FileId>,
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
        Ok(Self { output: OutputFile::new(path), whole: None, rows, open: false })
    }

    /// Has the file seen whole or not at all: it is written under a temporary name beside its place,
    /// and renamed when the source has come to its end. Until then what is there stays as it is.
    #[must_use]
    pub fn whole(self) -> Self {
        let whole = Whole::at(self.output.path().to_owned());
        Self { output: OutputFile::new(whole.part()), whole: Some(whole), ..self }
    }

    /// Decides where to begin, and with what columns.
    fn decide(&mut self, resume: &Resume) -> Result<(Begin, Option<Vec<String>>), SinkError> {
        let state = resume.state.as_deref().map(|state| self.read_state(state)).transpose()?;
        let begin = match &self.whole {
            None => self.output.decide(resume, state.as_ref().map(|state| state.length))?,
            Some(whole) => decide_whole(&mut self.output, whole, resume, state.as_ref())?,
        };
        let known = state.and_then(|state| state.columns);
        let Rows::Csv { header: true, delimiter, .. } = self.rows else {
            return Ok((begin, known));
        };
        if known.is_some() || begin.at == 0 || self.whole.is_some() {
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
        let anew = "is that of a file which was written in another way: begin the step anew with \
                    `piton rewind`";
        match (&self.rows, &state.columns) {
            (Rows::Json(_), Some(_)) => Err(refused("is that of a CSV file")),
            _ if state.length > 0 && state.part != self.whole.is_some() => Err(refused(anew)),
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
        let part = self.whole.is_some();
        let file = self.output.id().filter(|_| part);
        // Numbers and texts always serialise.
        Durable { state: serde_json::to_string(&State { length, columns, part, file }).ok() }
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

/// Where to begin in a file that is seen whole or not at all, or every refusal.
fn decide_whole(
    output: &mut OutputFile,
    whole: &Whole,
    resume: &Resume,
    state: Option<&State>,
) -> Result<Begin, SinkError> {
    let known = state.map(|state| Known { length: state.length, id: state.file });
    whole.check(resume, known)?;
    if let Some(known) = known.filter(|known| whole.is_in_place(*known)) {
        return Ok(output.copied(known.length));
    }
    // What nobody knows under the temporary name, nobody goes on with.
    let length = known.map_or(0, |known| known.length);
    let resume = Resume { output: Some(Choice::Truncate), ..resume.clone() };
    output.decide(&resume, Some(length))
}

impl PlainSink for FileSink {
    fn guarantee(&self) -> Guarantee {
        if self.whole.is_some() {
            return Guarantee {
                what: "exactly once",
                why: "the file is written under a temporary name and renamed when it is whole: until \
                      then what was there before is seen, or nothing"
                    .to_owned(),
            };
        }
        Guarantee {
            what: "exactly once",
            why: "the checkpoint remembers the file's durable length, and what is past it is cut \
                  off before writing goes on"
                .to_owned(),
        }
    }

    fn location(&self) -> String {
        let path = self.whole.as_ref().map_or(self.output.path(), Whole::target);
        path.display().to_string()
    }

    fn inspect(&mut self, resume: &Resume) -> Result<(), SinkError> {
        self.decide(resume).map(drop)
    }

    fn open(&mut self, resume: &Resume) -> Result<Durable, SinkError> {
        let (begin, columns) = self.decide(resume)?;
        if let Some(whole) = self.whole.as_ref().filter(|_| begin.is_copied) {
            whole.take_back()?;
        }
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
        if self.whole.is_some() {
            return Ok(self.state(0));
        }
        let length = self.output.present()?;
        Ok(self.state(length))
    }

    fn promise(&mut self) -> Result<Promise, SinkError> {
        let (length, sync) = self.output.sync()?;
        let durable = self.state(length);
        Ok(Promise::by(move || sync.sync().map(|()| durable)))
    }

    fn complete(&mut self) -> Result<(), SinkError> {
        let Some(whole) = self.whole.as_ref().filter(|_| self.open) else { return Ok(()) };
        self.output.usable()?;
        whole.put_in_place()?;
        self.open = false;
        self.output.close();
        Ok(())
    }
}
