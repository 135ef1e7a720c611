//! The columns of a CSV file: their names from its header, their types from the settings or guessed
//! from the first rows of the first file.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use piton_core::StoredPosition;

use super::{
    csv::{Csv, Dialect},
    fields::{Field, Guess},
    fingerprint::Fingerprinter,
    position::{FileMarks, FilePosition, Guessed},
    record::Cut,
    settings::{CsvSettings, FieldType, Header, Types},
    window::Window,
};
use crate::{
    batch::{Batch, Value},
    source::SourceError,
};

/// How many rows are looked at to guess types, and at most how many bytes.
const SAMPLE_ROWS: usize = 1000;
const SAMPLE_BYTES: u64 = 1024 * 1024;

/// CSV settings that were found to make sense.
#[derive(Debug, Clone)]
pub(super) struct CsvPlan {
    pub(super) dialect: Dialect,
    pub(super) header: Header,
    pub(super) types: Types,
    pub(super) null: Option<String>,
    pub(super) limit: usize,
}

impl CsvPlan {
    pub(super) fn new(settings: &CsvSettings, limit: usize) -> Result<Self, SourceError> {
        let delimiter = one_byte("delimiter", settings.delimiter)?;
        let mut quotes = settings.quote.chars();
        let quote = match (quotes.next(), quotes.next()) {
            (None, _) => None,
            (Some(quote), None) => Some(one_byte("quote", quote)?),
            _ => return Err(wrong("quote: one character is needed, or none (\"\")")),
        };
        if quote == Some(delimiter) {
            return Err(wrong("quote and delimiter must differ"));
        }
        if let Header::Names(names) = &settings.header {
            if names.is_empty() {
                return Err(wrong("header: a list needs at least one name"));
            }
            no_twins(names.iter().map(String::as_str), "header")?;
        }
        Ok(Self {
            dialect: Dialect { delimiter, quote },
            header: settings.header.clone(),
            types: settings.types.clone(),
            null: settings.null.clone(),
            limit,
        })
    }

    /// The names of a file's columns. Reads the header from a window that stands at the beginning;
    /// `None` if it has not come yet.
    pub(super) fn names(
        &self,
        window: &mut Window,
        file: &str,
    ) -> Result<Option<Vec<Arc<str>>>, SourceError> {
        if let Header::Names(names) = &self.header {
            return Ok(Some(names.iter().map(|name| Arc::from(name.as_str())).collect()));
        }
        let mut batch = scratch();
        match Csv::of_any_width(self.dialect, self.limit).cut(window, &mut batch)? {
            Cut::Record => {}
            Cut::End => return Ok(None),
            Cut::Bad(flaw) => {
                // Not the settings are wrong but the data, as in any other record.
                let line = flaw.origin.line;
                let hint = if is_utf16(window.bytes()) {
                    ". It looks like UTF-16: save it as UTF-8"
                } else {
                    ""
                };
                let reason = flaw.reason;
                return Err(SourceError::Failed {
                    what: format!("{file}, line {line}: the header cannot be read: {reason}{hint}"),
                });
            }
        }
        let names: Vec<Arc<str>> = batch
            .row(0)
            .iter()
            .enumerate()
            .map(|(at, cell)| name(at, batch.value(*cell)))
            .collect();
        no_twins(names.iter().map(|name| &**name), &format!("{file}: the header"))?;
        Ok(Some(names))
    }

    /// How records with these columns are read.
    pub(super) fn csv(&self, names: Vec<Arc<str>>, guessed: Option<&Guessed>) -> Csv {
        let field = |name: &str| match (&self.types, guessed) {
            (Types::Columns(chosen), _) => chosen.get(name).copied().map(Field::chosen),
            (Types::Auto, Some(guessed)) => guessed.0.get(name).copied().map(Field::guessed),
            (Types::Auto, None) => None,
        };
        let columns = names.into_iter().map(|name| {
            let field = field(&name).unwrap_or(Field::TEXT);
            (name, field)
        });
        Csv::new(self.dialect, columns.collect(), self.null.clone(), self.limit)
    }

    /// The columns that `types` names and none of the files has.
    pub(super) fn unknown_types<'a>(&'a self, names: &HashSet<Arc<str>>) -> Vec<&'a str> {
        match &self.types {
            Types::Auto => Vec::new(),
            Types::Columns(types) => {
                types.keys().map(String::as_str).filter(|key| !names.contains(*key)).collect()
            }
        }
    }

    /// Guesses types from the first rows of a file. `None` if it has no records at all.
    pub(super) fn guess(
        &self,
        window: &mut Window,
        file: &str,
    ) -> Result<Option<Guessed>, SourceError> {
        let Some(names) = self.names(window, file)? else { return Ok(None) };
        let text = Self { types: Types::default(), ..self.clone() };
        let mut csv = text.csv(names.clone(), None);
        let mut guesses = vec![Guess::default(); names.len()];
        let (mut rows, mut seen) = (0, false);
        while rows < SAMPLE_ROWS && window.offset() < SAMPLE_BYTES {
            let mut batch = scratch();
            let cut = csv.cut(window, &mut batch)?;
            seen |= !matches!(cut, Cut::End);
            match cut {
                Cut::End => break,
                Cut::Bad(flaw) => {
                    window.consume(flaw.pass.0, flaw.pass.1);
                    if flaw.rest_of_line {
                        window.pass_line()?;
                    }
                }
                Cut::Record => {
                    rows += 1;
                    for (guess, cell) in guesses.iter_mut().zip(batch.row(0)) {
                        if let Value::Text(text) = batch.value(*cell) {
                            *guess = guess.with(text);
                        }
                    }
                }
            }
        }
        let types: BTreeMap<String, FieldType> = names
            .iter()
            .zip(guesses)
            .map(|(name, guess)| (name.to_string(), guess.kind()))
            .filter(|(_, kind)| *kind != FieldType::Text)
            .collect();
        Ok(seen.then(|| Guessed(Arc::new(types))))
    }
}

/// A column without a name is called by its place.
fn name(at: usize, value: Value<'_>) -> Arc<str> {
    match value {
        Value::Text(name) if !name.is_empty() => Arc::from(name),
        _ => Arc::from(format!("column_{}", at + 1)),
    }
}

fn no_twins<'a>(names: impl Iterator<Item = &'a str>, whose: &str) -> Result<(), SourceError> {
    let mut seen = BTreeMap::new();
    for (at, name) in names.enumerate() {
        if let Some(first) = seen.insert(name, at) {
            return Err(wrong(&format!(
                "{whose} names the column '{name}' twice, as columns {} and {}: \
                 each needs a name of its own",
                first + 1,
                at + 1
            )));
        }
    }
    Ok(())
}

fn one_byte(key: &str, value: char) -> Result<u8, SourceError> {
    match u8::try_from(value) {
        Ok(byte) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => Ok(byte),
        _ => Err(wrong(&format!("{key}: '{}' is not one ASCII character", value.escape_default()))),
    }
}

fn wrong(what: &str) -> SourceError {
    SourceError::Settings { what: what.to_owned() }
}

/// Whether text begins with the byte order mark of UTF-16.
fn is_utf16(text: &[u8]) -> bool {
    text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff")
}

/// A batch that is looked at and thrown away.
pub(super) fn scratch() -> Batch {
    let begin = FilePosition {
        rotation: 0,
        offset: 0,
        line: 1,
        fingerprint: Fingerprinter::new().fingerprint(),
        file: None,
        types: None,
    };
    let end = StoredPosition { kind: String::new(), json: String::new() };
    Batch::new(
        "".into(),
        Arc::default(),
        end,
        Arc::new(FileMarks { partition: "".into(), begin, steps: Vec::new() }),
    )
}
