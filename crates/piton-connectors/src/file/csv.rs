//! CSV: RFC 4180 with LF, CR or CRLF, quoted line ends and a byte order mark; blank lines are
//! passed over, as the `csv` crate does.
//!
//! A line without a quote is a record, and is cut at its delimiters where it lies: that is nearly
//! every line of nearly every file. A line with a quote goes through `csv-core`, for as many lines
//! as the record has.

use std::{fmt::Write as _, sync::Arc};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::{
    fields::Field,
    record::{Cut, Flaw, not_utf8, origin, shown},
    window::{Ends, Line, Window},
};
use crate::{
    batch::{Batch, Cell, Column, Schema, Span},
    source::SourceError,
};

/// How records are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    /// `None`: fields are never quoted.
    pub(super) quote: Option<u8>,
}

/// Cuts records out of a window.
pub(super) struct Csv {
    dialect: Dialect,
    schema: Arc<Schema>,
    fields: Vec<Field>,
    /// Whether a record may have any number of fields, as the header may.
    any_width: bool,
    null: Option<String>,
    /// No type and no null: the common case has a loop of its own.
    all_text: bool,
    limit: usize,
    quoted: Quoted,
}

/// A record that does not fit: the column, if it is one column's fault, and why.
type Misfit = (Option<usize>, String);

impl Csv {
    pub(super) fn new(
        dialect: Dialect,
        columns: Vec<(Arc<str>, Field)>,
        null: Option<String>,
        limit: usize,
    ) -> Self {
        let (names, fields): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let column = |(name, field): (Arc<str>, &Field)| Column { name, kind: field.column() };
        let columns = names.into_iter().zip(&fields).map(column).collect();
        Self {
            dialect,
            schema: Arc::new(Schema { columns }),
            all_text: null.is_none() && fields.iter().all(|field| field.is_text()),
            fields,
            any_width: false,
            null,
            limit,
            quoted: Quoted::new(dialect),
        }
    }

    /// Cuts records of any number of fields, as text: for the header.
    pub(super) fn of_any_width(dialect: Dialect, limit: usize) -> Self {
        Self { any_width: true, ..Self::new(dialect, Vec::new(), None, limit) }
    }

    pub(super) fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.schema)
    }

    /// Appends the next record to the batch.
    pub(super) fn cut(
        &mut self,
        window: &mut Window,
        batch: &mut Batch,
    ) -> Result<Cut, SourceError> {
        let length = loop {
            match window.next_line(Ends::Either)? {
                Line::Ended(length) if is_blank(&window.bytes()[..length]) => {
                    window.consume(length, 1);
                }
                Line::Ended(length) => break length,
                Line::Open(length) if !window.is_growing() => break length,
                Line::Open(_) | Line::Nothing => return Ok(Cut::End),
                Line::Long => return Ok(bad(Flaw::too_long(window, self.limit, ""))),
            }
        };
        let line = &window.bytes()[..length];
        if self.dialect.quote.is_some_and(|quote| memchr::memchr(quote, line).is_some()) {
            return self.cut_quoted(window, batch);
        }
        let record = without_line_end(line);
        let lines = u64::from(record.len() < length);
        match self.append_line(record, window, batch) {
            Ok(()) => {
                window.consume(length, lines);
                Ok(Cut::Record)
            }
            Err(misfit) => Ok(self.misfit(window, (length, lines), misfit)),
        }
    }

    fn append_line(&self, line: &[u8], window: &Window, batch: &mut Batch) -> Result<(), Misfit> {
        let text = std::str::from_utf8(line).map_err(|e| {
            let column = memchr::memchr_iter(self.dialect.delimiter, &line[..e.valid_up_to()]);
            (Some(column.count()), not_utf8(line, e))
        })?;
        let base = batch.put(line).start;
        batch.begin_row(origin(window));
        let ends = memchr::memchr_iter(self.dialect.delimiter, line).chain([line.len()]);
        let mut start = 0;
        let spans = ends.map(|end| {
            let field = (start, end);
            start = end + 1;
            field
        });
        self.append_fields(text, base, spans, batch)
    }

    fn append_fields(
        &self,
        text: &str,
        base: u32,
        spans: impl Iterator<Item = (usize, usize)>,
        batch: &mut Batch,
    ) -> Result<(), Misfit> {
        let mut column = 0;
        for (start, end) in spans {
            let span = Span { start: base + start as u32, len: (end - start) as u32 };
            let cell = if self.all_text {
                Cell::Text(span)
            } else {
                self.cell(column, &text[start..end], span, batch)?
            };
            batch.push_cell(cell);
            column += 1;
        }
        if column == self.fields.len() || self.any_width {
            return Ok(());
        }
        let field = if column == 1 { "field" } else { "fields" };
        Err((None, format!("{column} {field} where the header has {}", self.fields.len())))
    }

    fn cell(
        &self,
        column: usize,
        text: &str,
        span: Span,
        batch: &mut Batch,
    ) -> Result<Cell, Misfit> {
        if self.null.as_deref() == Some(text) {
            return Ok(Cell::Null);
        }
        // Fields past the last column are counted, and refused, later.
        let Some(field) = self.fields.get(column) else { return Ok(Cell::Text(span)) };
        field
            .read(text, span, batch)
            .ok_or_else(|| (Some(column), format!("{} is not {}", shown(text), field.expected())))
    }

    fn cut_quoted(&mut self, window: &mut Window, batch: &mut Batch) -> Result<Cut, SourceError> {
        let length = match self.quoted.unquote(window, self.limit)? {
            Unquoted::Record(length) => length,
            Unquoted::Waits => return Ok(Cut::End),
            Unquoted::Long => {
                let advice = "a quote may not be closed; ";
                return Ok(bad(Flaw::too_long(window, self.limit, advice)));
            }
            Unquoted::Unclosed => {
                let reason = "a quote is opened and never closed; the line was passed over";
                return Ok(bad(Flaw::first_line(window, reason.to_owned())));
            }
        };
        let raw = &window.bytes()[..length];
        let inside = without_line_end(raw);
        let lines =
            memchr::memchr_iter(b'\n', inside).count() as u64 + u64::from(inside.len() < raw.len());
        match self.append_quoted(raw, window, batch) {
            Ok(()) => {
                window.consume(length, lines);
                Ok(Cut::Record)
            }
            Err(misfit) => Ok(self.misfit(window, (length, lines), misfit)),
        }
    }

    fn append_quoted(&self, raw: &[u8], window: &Window, batch: &mut Batch) -> Result<(), Misfit> {
        let (text, ends) = self.quoted.fields();
        // Checked as it was read: quotes and delimiters part the fields there, so that two halves
        // of a character in two fields do not pass as one.
        std::str::from_utf8(raw).map_err(|e| (None, not_utf8(raw, e)))?;
        let base = batch.put(text).start;
        batch.begin_row(origin(window));
        let text = std::str::from_utf8(text).map_err(|e| (None, not_utf8(text, e)))?;
        let mut start = 0;
        let spans = ends.iter().map(|end| (std::mem::replace(&mut start, *end), *end));
        self.append_fields(text, base, spans, batch)
    }

    /// Takes the row back that was begun and tells what is wrong with it.
    #[cold]
    fn misfit(&self, window: &Window, pass: (usize, u64), (column, reason): Misfit) -> Cut {
        let flaw = Flaw::new(window, pass, reason);
        let Some(column) = column else { return bad(flaw) };
        let mut within = format!("column {}", column + 1);
        if let Some(column) = self.schema.columns.get(column) {
            let _ = write!(within, " ({})", column.name);
        }
        bad(flaw.within(within))
    }
}

#[cfg(test)]
mod tests;

fn bad(flaw: Flaw) -> Cut {
    Cut::Bad(Box::new(flaw))
}

fn is_blank(line: &[u8]) -> bool {
    matches!(line, b"\n" | b"\r" | b"\r\n")
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Takes a record with quotes apart.
struct Quoted {
    reader: Reader,
    out: Vec<u8>,
    ends: Vec<usize>,
    /// The bytes and fields of the last record.
    had: (usize, usize),
}

/// What taking a record apart gave.
enum Unquoted {
    /// It has so many bytes, with its line end.
    Record(usize),
    /// The stream grows, and the record is not whole yet.
    Waits,
    /// It is longer than the limit.
    Long,
    /// The stream ends inside of quotes.
    Unclosed,
}

impl Quoted {
    fn new(dialect: Dialect) -> Self {
        let mut builder = ReaderBuilder::new();
        builder.delimiter(dialect.delimiter);
        match dialect.quote {
            Some(quote) => builder.quote(quote),
            None => builder.quoting(false),
        };
        Self { reader: builder.build(), out: vec![0; 1024], ends: vec![0; 64], had: (0, 0) }
    }

    /// Begins a record. A reader takes a byte order mark off its first input, and this one never
    /// gets the first of the stream: a line end comes before, which means nothing.
    fn restart(&mut self) {
        self.reader.reset();
        let _ = self.reader.read_record(b"\n", &mut self.out, &mut self.ends);
        self.had = (0, 0);
        self.shrink();
    }

    /// The fields of the last record: their text, one after the other, and where each ends.
    fn fields(&self) -> (&[u8], &[usize]) {
        (&self.out[..self.had.0], &self.ends[..self.had.1])
    }

    fn unquote(&mut self, window: &mut Window, limit: usize) -> Result<Unquoted, SourceError> {
        self.restart();
        let mut taken = 0;
        loop {
            let upto = window.bytes().len().min(limit + 1);
            let (whole, read) = self.feed(&window.bytes()[taken..upto]);
            taken += read;
            if whole {
                return ended(window, taken);
            }
            if taken > limit {
                return Ok(Unquoted::Long);
            }
            if !window.more()? {
                return Ok(self.at_end(window, taken));
            }
        }
    }

    /// Feeds the reader. Returns whether a record is whole, and how much of the input was taken.
    fn feed(&mut self, input: &[u8]) -> (bool, usize) {
        let mut taken = 0;
        // An empty input would tell the reader that the stream has ended.
        while taken < input.len() {
            let (result, read, wrote, fields) = self.reader.read_record(
                &input[taken..],
                &mut self.out[self.had.0..],
                &mut self.ends[self.had.1..],
            );
            taken += read;
            self.had = (self.had.0 + wrote, self.had.1 + fields);
            match result {
                ReadRecordResult::Record => return (true, taken),
                ReadRecordResult::OutputFull => self.out.resize(2 * self.out.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::InputEmpty | ReadRecordResult::End => {}
            }
        }
        (false, taken)
    }

    /// A record that the stream's end ends is whole if a line end would make it so.
    fn at_end(&mut self, window: &Window, taken: usize) -> Unquoted {
        if window.is_growing() {
            return Unquoted::Waits;
        }
        let (whole, _) = self.feed(b"\n");
        if whole { Unquoted::Record(taken) } else { Unquoted::Unclosed }
    }

    /// Gives memory back that one long record took.
    fn shrink(&mut self) {
        const ENOUGH: usize = 1 << 20;
        if self.out.len() > ENOUGH {
            self.out = vec![0; 1024];
        }
    }
}

/// A carriage return takes a newline after it along.
fn ended(window: &mut Window, taken: usize) -> Result<Unquoted, SourceError> {
    if window.bytes()[taken - 1] != b'\r' {
        return Ok(Unquoted::Record(taken));
    }
    if taken == window.bytes().len() && !window.more()? && window.is_growing() {
        return Ok(Unquoted::Waits);
    }
    let newline = window.bytes().get(taken) == Some(&b'\n');
    Ok(Unquoted::Record(taken + usize::from(newline)))
}
