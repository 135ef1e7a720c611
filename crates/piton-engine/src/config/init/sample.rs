//! The beginning of a data file: what format it has, its columns, and which of them is a key.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

/// How many records are looked at, and how many bytes at most.
const MOST_ROWS: usize = 1000;
const MOST_BYTES: u64 = 4 << 20;

/// Why no configuration can be written for a file. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// It cannot be read.
    #[error("{}: cannot read it: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The database cannot be read.
    #[error("{}: cannot read it as a SQLite database: {error}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        error: rusqlite::Error,
    },
    /// There is nothing in it to go by.
    #[error("{}: {what}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
}

/// What the beginning of a file shows.
#[derive(Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) format: Format,
    pub(super) columns: Vec<String>,
    /// The columns that tell records apart; none if there is no such column.
    pub(super) key: Vec<String>,
    /// How many records were looked at.
    pub(super) rows: usize,
    pub(super) is_utf8: bool,
}

/// What kind of file it is.
#[derive(Debug, PartialEq)]
pub(super) enum Format {
    Csv {
        delimiter: u8,
    },
    Jsonl,
    /// The table that is read comes first.
    Sqlite {
        tables: Vec<String>,
    },
}

impl Sample {
    pub(super) fn read(path: &Path) -> Result<Self, InitError> {
        let unreadable = |error| InitError::Unreadable { path: path.to_owned(), error };
        let mut head = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(16).read_to_end(&mut head).map_err(unreadable)?;
        if head.starts_with(b"SQLite format 3") {
            return Self::of_database(path)
                .map_err(|error| InitError::Database { path: path.to_owned(), error })?
                .ok_or_else(|| empty(path, "the database has no tables"));
        }
        let text = beginning(path, &head).map_err(unreadable)?;
        let is_utf8 = std::str::from_utf8(&text).is_ok();
        let text = String::from_utf8_lossy(&text);
        let text = text.trim_start_matches('\u{feff}');
        let sample = if is_json(path, text) {
            Self::of_jsonl(text).ok_or_else(|| empty(path, why_no_lines(text)))
        } else {
            Self::of_csv(text, path).ok_or_else(|| empty(path, "there is no line in it"))
        };
        sample.map(|sample| Self { is_utf8, ..sample })
    }

    fn of_csv(text: &str, path: &Path) -> Option<Self> {
        let head = text.lines().next().filter(|line| !line.trim().is_empty())?;
        let is_tsv = extensions(path).any(|extension| extension == "tsv");
        let count = |delimiter: u8| head.bytes().filter(|byte| *byte == delimiter).count();
        // The first of those that occur most often; a comma where there are none.
        let most = *b",;\t|".iter().rev().max_by_key(|byte| count(**byte))?;
        let delimiter = if is_tsv { b'\t' } else { most };
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(true)
            .flexible(true)
            .from_reader(text.as_bytes());
        let columns: Vec<String> = reader.headers().ok()?.iter().map(str::to_owned).collect();
        let mut unique = Unique::new(columns.len());
        for row in reader.records().take(MOST_ROWS) {
            let Ok(row) = row else { break };
            unique
                .see(|column| row.get(column).filter(|value| !value.is_empty()).map(str::to_owned));
        }
        let sample = Self::with_key(Format::Csv { delimiter }, columns, &unique);
        Some(sample)
    }

    fn of_jsonl(text: &str) -> Option<Self> {
        type Record = serde_json::Map<String, serde_json::Value>;
        let records: Vec<Record> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .take(MOST_ROWS)
            // The last line may be cut off.
            .map_while(|line| serde_json::from_str(line).ok())
            .collect();
        let first = text.lines().find(|line| !line.trim().is_empty())?;
        let columns = keys_in_order(first)?;
        let mut unique = Unique::new(columns.len());
        for record in &records {
            unique.see(|column| match record.get(&columns[column])? {
                serde_json::Value::Number(number) => Some(number.to_string()),
                serde_json::Value::String(text) if !text.is_empty() => Some(format!("\"{text}")),
                _ => None,
            });
        }
        Some(Self::with_key(Format::Jsonl, columns, &unique))
    }

    fn with_key(format: Format, columns: Vec<String>, unique: &Unique) -> Self {
        let named = |name: &String| {
            !name.is_empty()
                && !name.contains('\0')
                && columns.iter().filter(|other| *other == name).count() == 1
        };
        // A single record is no evidence.
        let first = (unique.rows > 1)
            .then(|| (0..columns.len()).find(|i| unique.holds(*i) && named(&columns[*i])))
            .flatten();
        let key = first.map(|index| columns[index].clone()).into_iter().collect();
        Self { format, columns, key, rows: unique.rows, is_utf8: true }
    }

    /// The first table with a primary key, else the first.
    fn of_database(path: &Path) -> Result<Option<Self>, rusqlite::Error> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut statement = db.prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' \
             ESCAPE '\\' ORDER BY rowid LIMIT 100",
        )?;
        let mut tables: Vec<String> =
            statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut described = Vec::with_capacity(tables.len());
        for table in &tables {
            described.push(columns_of(&db, table)?);
        }
        let Some(chosen) = described
            .iter()
            .position(|(_, key)| !key.is_empty())
            .or((!tables.is_empty()).then_some(0))
        else {
            return Ok(None);
        };
        let (columns, mut key) = described.swap_remove(chosen);
        if key.is_empty() {
            key.push("rowid".to_owned());
        }
        tables[..=chosen].rotate_right(1);
        let format = Format::Sqlite { tables };
        Ok(Some(Self { format, columns, key, rows: 0, is_utf8: true }))
    }
}

/// The columns of a table, and those of its primary key in the key's order.
fn columns_of(db: &Connection, table: &str) -> Result<(Vec<String>, Vec<String>), rusqlite::Error> {
    let mut statement = db.prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid")?;
    let columns: Vec<(String, i64)> = statement
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut key: Vec<&(String, i64)> = columns.iter().filter(|(_, pk)| *pk > 0).collect();
    key.sort_by_key(|(_, pk)| *pk);
    let key = key.into_iter().map(|(name, _)| name.clone()).collect();
    Ok((columns.into_iter().map(|(name, _)| name).collect(), key))
}

/// Which columns have had a different value in every record so far.
struct Unique {
    seen: Vec<Option<HashSet<String>>>,
    rows: usize,
}

impl Unique {
    fn new(columns: usize) -> Self {
        Self { seen: vec![Some(HashSet::new()); columns], rows: 0 }
    }

    fn see(&mut self, value: impl Fn(usize) -> Option<String>) {
        self.rows += 1;
        for (column, seen) in self.seen.iter_mut().enumerate() {
            let new = match (seen.as_mut(), value(column)) {
                (Some(seen), Some(value)) => seen.insert(value),
                _ => false,
            };
            if !new {
                *seen = None;
            }
        }
    }

    fn holds(&self, column: usize) -> bool {
        self.seen[column].is_some()
    }
}

/// The beginning of a file, decompressed.
fn beginning(path: &Path, head: &[u8]) -> io::Result<Vec<u8>> {
    let file = BufReader::new(File::open(path)?);
    let reader: Box<dyn Read> = if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::read::Decoder::new(file)?)
    } else {
        Box::new(file)
    };
    let mut text = Vec::new();
    reader.take(MOST_BYTES).read_to_end(&mut text)?;
    if text.len() as u64 == MOST_BYTES {
        // Cut off in the middle of a record, most likely.
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
        text.truncate(end);
    }
    Ok(text)
}

fn is_json(path: &Path, text: &str) -> bool {
    let mut extensions = extensions(path);
    match extensions.find(|e| ["csv", "tsv", "jsonl", "ndjson", "json"].contains(&e.as_str())) {
        Some(extension) => extension.ends_with("json") || extension == "jsonl",
        None => text.trim_start().starts_with('{'),
    }
}

/// The extensions of a file name, the last first, in lower case.
fn extensions(path: &Path) -> impl Iterator<Item = String> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    let parts: Vec<String> = name.split('.').skip(1).map(str::to_owned).collect();
    parts.into_iter().rev()
}

/// Why there is no JSON object in the first line.
fn why_no_lines(text: &str) -> &'static str {
    if text.trim_start().starts_with(['[', '{']) {
        "it is one JSON document, and not an object in each line: `jq -c '.[]'` makes lines of a \
         list, `jq -c .` one of an object"
    } else {
        "there is no JSON object in it"
    }
}

/// The keys of a JSON object, as they stand.
fn keys_in_order(text: &str) -> Option<Vec<String>> {
    struct Keys;

    impl<'de> serde::de::Visitor<'de> for Keys {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Vec<String>, A::Error> {
            let mut keys = Vec::new();
            while let Some((key, serde::de::IgnoredAny)) = map.next_entry()? {
                keys.push(key);
            }
            Ok(keys)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde::Deserializer::deserialize_map(&mut deserializer, Keys).ok()
}

fn empty(path: &Path, what: &'static str) -> InitError {
    InitError::Empty { path: path.to_owned(), what }
}
