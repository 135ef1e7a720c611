//! The settings of the connectors, as they stand in a file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalars::Period;

/// A CSV file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvSource {
    /// The file, or a pattern such as `in/*.csv.gz`.
    pub path: String,
    /// Stands between fields.
    #[serde(default = "comma")]
    pub delimiter: char,
    /// Encloses fields that hold delimiters or line ends.
    #[serde(default = "double_quote")]
    pub quote: char,
    /// Whether the first line names the columns, or the names themselves.
    #[serde(default)]
    pub header: Header,
    /// What columns hold; text if not said.
    #[serde(default)]
    pub types: Option<Types>,
    /// The text that stands for null.
    #[serde(default)]
    pub null: Option<String>,
    /// Waits for more at the end, through rotation.
    #[serde(default)]
    pub follow: bool,
    /// How the file is compressed; known by its name if not said.
    #[serde(default)]
    pub compression: Option<Compression>,
}

/// The names of the columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Header {
    /// Whether the first line names them.
    Present(bool),
    /// The names, for a file without them.
    Names(Vec<String>),
}

impl Default for Header {
    fn default() -> Self {
        Self::Present(true)
    }
}

/// What columns hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Types {
    /// Guessed from the first rows.
    Guess(Guess),
    /// By column.
    Columns(BTreeMap<String, ColumnKind>),
}

/// Guess them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guess {
    /// From the first rows; later misfits are bad records.
    Auto,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// Text.
    Text,
    /// Whole numbers.
    Integer,
    /// Binary floating-point numbers.
    Float,
    /// Exact decimal numbers.
    Number,
    /// True or false.
    Boolean,
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// A file with one JSON object in each line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonlSource {
    /// The file, or a pattern such as `in/*.jsonl`.
    pub path: String,
    /// Waits for more at the end, through rotation.
    #[serde(default)]
    pub follow: bool,
    /// How the file is compressed; known by its name if not said.
    #[serde(default)]
    pub compression: Option<Compression>,
}

/// A table or a query, read in the order of its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlSource {
    /// The database: `sqlite:PATH`.
    pub url: String,
    /// The table.
    #[serde(default)]
    pub table: Option<String>,
    /// A query in place of a table.
    #[serde(default)]
    pub query: Option<String>,
    /// The columns that order the rows and tell them apart.
    pub key: Vec<String>,
    /// Looks for new rows this often, without an end.
    #[serde(default)]
    pub poll: Option<Period>,
    /// How many rows are read at a time.
    #[serde(default)]
    pub batch: Option<u64>,
}

/// A table in a SQLite database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteSink {
    /// The database's file.
    pub path: String,
    /// The table.
    pub table: String,
    /// What happens to a row whose key is there already.
    #[serde(default)]
    pub mode: Option<WriteMode>,
    /// The columns of the key.
    #[serde(default)]
    pub key: Vec<String>,
    /// Creates the table if it is not there.
    #[serde(default = "yes")]
    pub create: bool,
}

/// What happens to a row whose key is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// It takes the other's place.
    Upsert,
    /// It is added.
    Append,
}

/// A file with one JSON object in each line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonlSink {
    /// The file.
    pub path: String,
}

/// A CSV file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvSink {
    /// The file.
    pub path: String,
    /// Whether the first line names the columns.
    #[serde(default = "yes")]
    pub header: bool,
    /// Stands between fields.
    #[serde(default = "comma")]
    pub delimiter: char,
}

/// Standard output, one JSON object in each line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdoutSink {}

/// JSON batches sent by POST.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSink {
    /// Where to.
    pub url: String,
    /// Headers of every request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How many records a request holds at most.
    #[serde(default)]
    pub batch: Option<u64>,
    /// How long an answer may take.
    #[serde(default)]
    pub timeout: Option<Period>,
}

fn comma() -> char {
    ','
}

fn double_quote() -> char {
    '"'
}

fn yes() -> bool {
    true
}
