//! The offline checker: what the source holds against what the sink holds, as multisets.
//!
//! It reads the source's file with the csv crate and the sink's own table or file, and shares no
//! code with the program that it judges. A record is the text of the chosen columns, so that the
//! number 7 in a table and the text 7 in a file are the same.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, types::ValueRef};
use serde_json::Value;

/// Stands between the fields of a record. No field may contain it.
const BETWEEN: char = '\u{1f}';
/// How NULL is written; an empty text is not NULL.
pub const NULL: &str = "\\N";
/// How many records of each sort a report shows.
const EXAMPLES: usize = 5;

/// A multiset of records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    counts: HashMap<String, u64>,
}

/// What could not be read. A file that a sink left half written is an error, not fewer records.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A file could not be read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        error: std::io::Error,
    },
    /// A CSV file is not one.
    #[error("{path}: {error}")]
    Csv {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: csv::Error,
    },
    /// A database could not be read.
    #[error("{path}: {error}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What failed.
        error: rusqlite::Error,
    },
    /// A line is not a JSON object, or the last one is not ended.
    #[error("{path}:{line}: {what}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A column that the caller named is not there.
    #[error("{path}: there is no column '{column}'")]
    Column {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
}

impl Ledger {
    /// These columns of a CSV file with a header.
    ///
    /// # Errors
    /// [`LedgerError::Io`], [`LedgerError::Csv`], [`LedgerError::Column`].
    pub fn of_csv(path: &Path, columns: &[&str]) -> Result<Self, LedgerError> {
        let wrong = |error| LedgerError::Csv { path: path.to_owned(), error };
        let mut reader = csv::Reader::from_path(path).map_err(wrong)?;
        let header = reader.headers().map_err(wrong)?;
        let place = |column: &&str| {
            header.iter().position(|name| name == *column).ok_or_else(|| LedgerError::Column {
                path: path.to_owned(),
                column: (*column).to_owned(),
            })
        };
        let places: Vec<usize> = columns.iter().map(place).collect::<Result<_, _>>()?;
        let mut ledger = Self::default();
        for record in reader.records() {
            let record = record.map_err(wrong)?;
            ledger.add(places.iter().map(|place| record.get(*place).unwrap_or(NULL)));
        }
        Ok(ledger)
    }

    /// The rows that a query gives from a `SQLite` database. The database is opened read-only, so
    /// that looking repairs nothing in place of the program.
    ///
    /// # Errors
    /// [`LedgerError::Sqlite`].
    pub fn of_sqlite(path: &Path, query: &str) -> Result<Self, LedgerError> {
        let read = || {
            let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let mut statement = db.prepare(query)?;
            let columns = statement.column_count();
            let mut rows = statement.query([])?;
            let mut ledger = Self::default();
            while let Some(row) = rows.next()? {
                let fields = (0..columns).map(|column| row.get_ref(column).map(text_of_sql));
                ledger.add(fields.collect::<Result<Vec<_>, _>>()?);
            }
            Ok(ledger)
        };
        read().map_err(|error| LedgerError::Sqlite { path: path.to_owned(), error })
    }

    /// These columns of a file with one JSON object in each line; a missing one counts as NULL.
    ///
    /// # Errors
    /// [`LedgerError::Io`]; [`LedgerError::Line`] where a line is not an object or not ended.
    pub fn of_jsonl(path: &Path, columns: &[&str]) -> Result<Self, LedgerError> {
        let bytes = std::fs::read(path)
            .map_err(|error| LedgerError::Io { path: path.to_owned(), error })?;
        let mut ledger = Self::default();
        for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let wrong = |what: &dyn fmt::Display| LedgerError::Line {
                path: path.to_owned(),
                line: number + 1,
                what: what.to_string(),
            };
            let Some(line) = line.strip_suffix(b"\n") else {
                return Err(wrong(&"the last line is not ended: it is half written"));
            };
            let value: Value = serde_json::from_slice(line).map_err(|error| wrong(&error))?;
            let Value::Object(object) = value else { return Err(wrong(&"not a JSON object")) };
            ledger.add(columns.iter().map(|column| text_of_json(object.get(*column))));
        }
        Ok(ledger)
    }

    /// Adds a record.
    pub fn add<T: AsRef<str>>(&mut self, fields: impl IntoIterator<Item = T>) {
        let mut record = String::new();
        for (number, field) in fields.into_iter().enumerate() {
            if number > 0 {
                record.push(BETWEEN);
            }
            record.push_str(field.as_ref());
        }
        *self.counts.entry(record).or_default() += 1;
    }

    /// Only the records whose fields pass: what a filter should let through.
    #[must_use]
    pub fn keeping(mut self, keep: impl Fn(&[&str]) -> bool) -> Self {
        self.counts.retain(|record, _| keep(&record.split(BETWEEN).collect::<Vec<_>>()));
        self
    }

    /// How many records there are, repeated ones counted each time.
    pub fn len(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Compares what was read (`self`) with what a sink holds.
    pub fn compare(&self, sink: &Self) -> Report {
        let mut report = Report::default();
        for (record, &wanted) in &self.counts {
            let held = sink.counts.get(record).copied().unwrap_or(0);
            report.missing.note(record, wanted.saturating_sub(held));
            report.repeated.note(record, held.saturating_sub(wanted));
        }
        for (record, &held) in &sink.counts {
            if !self.counts.contains_key(record) {
                report.foreign.note(record, held);
            }
        }
        report
    }
}

/// How a sink differs from its source. Shown with examples.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Report {
    /// In the source and not (often enough) in the sink: lost.
    pub missing: Differences,
    /// More often in the sink than in the source.
    pub repeated: Differences,
    /// In the sink and not in the source at all.
    pub foreign: Differences,
}

/// Records of one sort of difference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// How many.
    pub count: u64,
    /// Some of them.
    pub examples: Vec<String>,
}

impl Differences {
    fn note(&mut self, record: &str, times: u64) {
        if times > 0 && self.examples.len() < EXAMPLES {
            self.examples.push(record.replace(BETWEEN, ","));
        }
        self.count += times;
    }
}

impl Report {
    /// Nothing lost, repeated or foreign: each record's effect is there exactly once.
    ///
    /// # Errors
    /// The report itself, otherwise.
    pub fn exactly_once(self) -> Result<(), Self> {
        if self == Self::default() { Ok(()) } else { Err(self) }
    }

    /// Nothing lost or foreign, and at most this many repeated.
    ///
    /// # Errors
    /// The report itself, otherwise.
    pub fn at_least_once(self, repeats_max: u64) -> Result<(), Self> {
        let holds = self.missing.count == 0
            && self.foreign.count == 0
            && self.repeated.count <= repeats_max;
        if holds { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lost, repeated, foreign) = (&self.missing, &self.repeated, &self.foreign);
        let counts = (lost.count, repeated.count, foreign.count);
        write!(f, "{} lost, {} repeated, {} not of the source", counts.0, counts.1, counts.2)?;
        for (name, found) in [("lost", lost), ("repeated", repeated), ("foreign", foreign)] {
            for example in &found.examples {
                write!(f, "\n  {name}: {example}")?;
            }
        }
        Ok(())
    }
}

fn text_of_sql(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => NULL.to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => bytes.iter().fold(String::from("0x"), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
    }
}

fn text_of_json(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => NULL.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// How many rows a table of a `SQLite` database has now; 0 while it is not there. For asking a
/// running program's sink how far it has got.
pub fn rows_in_sqlite(path: &Path, table: &str) -> u64 {
    let count = || {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let query = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
        db.query_row(&query, [], |row| row.get::<_, i64>(0))
    };
    count().map_or(0, |rows| rows as u64)
}

/// How many ended lines a file has now; 0 while it is not there.
pub fn lines_in(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap_or_default();
    memchr::memchr_iter(b'\n', &bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(records: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        for record in records {
            ledger.add([*record]);
        }
        ledger
    }

    #[test]
    fn losses_repeats_and_strangers_are_told_apart() {
        let source = ledger(&["a", "b", "b", "c"]);
        assert_eq!(source.compare(&source.clone()).exactly_once(), Ok(()));

        let report = source.compare(&ledger(&["a", "a", "b", "x"]));
        assert_eq!((report.missing.count, report.repeated.count, report.foreign.count), (2, 1, 1));
        assert!(report.to_string().contains("foreign: x"));
        assert!(report.at_least_once(9).is_err());

        let repeated = source.compare(&ledger(&["a", "b", "b", "b", "c"]));
        assert!(repeated.clone().exactly_once().is_err());
        assert_eq!(repeated.clone().at_least_once(1), Ok(()));
        assert!(repeated.at_least_once(0).is_err());
    }

    #[test]
    fn a_csv_file_a_table_and_json_lines_hold_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let csv = folder.path().join("a.csv");
        std::fs::write(&csv, "id,name,more\n1,\"x, y\",z\n2,,z\n").unwrap();
        let source = Ledger::of_csv(&csv, &["name", "id"]).unwrap();

        let db = folder.path().join("a.db");
        Connection::open(&db)
            .unwrap()
            .execute_batch(
                "CREATE TABLE t (id INTEGER, name); INSERT INTO t VALUES (1, 'x, y'), (2, '')",
            )
            .unwrap();
        assert_eq!(Ledger::of_sqlite(&db, "SELECT name, id FROM t").unwrap(), source);
        assert_eq!(rows_in_sqlite(&db, "t"), 2);
        assert_eq!(rows_in_sqlite(&db, "gone"), 0);

        let jsonl = folder.path().join("a.jsonl");
        std::fs::write(&jsonl, "{\"name\":\"x, y\",\"id\":1}\n{\"name\":null,\"id\":\"2\"}\n")
            .unwrap();
        let held = Ledger::of_jsonl(&jsonl, &["name", "id"]).unwrap();
        assert_eq!(source.compare(&held).foreign.examples, ["\\N,2"]);
        assert_eq!(source.keeping(|fields| fields[1] == "1").compare(&held).missing.count, 0);
        assert!(Ledger::of_csv(&csv, &["nam"]).is_err());
    }

    #[test]
    fn a_half_line_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        for text in ["{\"id\":1}\n{\"id\":2}", "{\"id\":1}\n{\"i\n", "[]\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(Ledger::of_jsonl(&path, &["id"]), Err(LedgerError::Line { .. })));
        }
        assert_eq!(lines_in(&path), 1);
    }

    #[test]
    fn looking_at_a_database_does_not_repair_it() {
        let folder = tempfile::tempdir().unwrap();
        let live = folder.path().join("live.db");
        let db = Connection::open(&live).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = wal; CREATE TABLE t (id); INSERT INTO t VALUES (1)",
        )
        .unwrap();
        // As a kill would leave it: the file and its log, nobody holding them.
        let dead = folder.path().join("dead.db");
        for beside in ["", "-wal"] {
            let copy = |name: &str| folder.path().join(format!("{name}{beside}"));
            std::fs::copy(copy("live.db"), copy("dead.db")).unwrap();
        }
        let log = || std::fs::read(folder.path().join("dead.db-wal")).unwrap();
        let before = log();
        assert_eq!(rows_in_sqlite(&dead, "t"), 1);
        assert_eq!(log(), before);
    }
}
