//! What a person writes about files: plain data, checked where it is used.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, SeqAccess, Visitor, value},
};

use super::null_key::NullKey;

/// Source `csv`: reads comma-separated files.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(rename = "CsvSettings")]
pub struct CsvSettings {
    /// A file, or a glob such as `data/*.csv`: each matching file is a partition, read in the
    /// order of their names.
    pub path: String,
    /// What separates fields: one ASCII character.
    #[serde(default = "comma")]
    pub delimiter: char,
    /// What a field may be quoted with: one ASCII character, or empty for files without quoting.
    #[serde(default = "double_quote")]
    pub quote: String,
    /// Whether the first record names the columns, or the names when the file has no header.
    #[serde(default)]
    pub header: Header,
    /// `auto`, or the type of each column that is not text. In columns with a type, an empty field
    /// is null.
    #[serde(default)]
    pub types: Types,
    /// The text that stands for null. Without it an empty field is an empty text.
    #[serde(default)]
    pub null: Option<String>,
    /// Go on reading as the file grows and is rotated, by renaming it or by copying and cutting it
    /// (logrotate's `copytruncate`); the pipeline then has no end.
    #[serde(default)]
    pub follow: bool,
    /// How the files are compressed.
    #[serde(default)]
    pub compression: Compression,
}

impl<'de> Deserialize<'de> for CsvSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(NullKey(deserializer))
    }
}

impl CsvSettings {
    /// The default settings for a path.
    pub fn at(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            delimiter: comma(),
            quote: double_quote(),
            header: Header::default(),
            types: Types::default(),
            null: None,
            follow: false,
            compression: Compression::default(),
        }
    }
}

/// Source `jsonl`: reads files with one JSON object per line.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonlSettings {
    /// A file, or a glob such as `data/*.jsonl`: each matching file is a partition, read in the
    /// order of their names.
    pub path: String,
    /// Go on reading as the file grows and is rotated, by renaming it or by copying and cutting it
    /// (logrotate's `copytruncate`); the pipeline then has no end.
    #[serde(default)]
    pub follow: bool,
    /// How the files are compressed.
    #[serde(default)]
    pub compression: Compression,
}

impl JsonlSettings {
    /// The default settings for a path.
    pub fn at(path: impl Into<String>) -> Self {
        Self { path: path.into(), follow: false, compression: Compression::default() }
    }
}

/// The settings of either kind of file source.
#[derive(Debug, Clone)]
pub enum FileSettings {
    /// Source `csv`.
    Csv(CsvSettings),
    /// Source `jsonl`.
    Jsonl(JsonlSettings),
}

impl FileSettings {
    pub(super) fn path(&self) -> &str {
        match self {
            Self::Csv(csv) => &csv.path,
            Self::Jsonl(jsonl) => &jsonl.path,
        }
    }

    pub(super) fn follow(&self) -> bool {
        match self {
            Self::Csv(csv) => csv.follow,
            Self::Jsonl(jsonl) => jsonl.follow,
        }
    }

    pub(super) fn compression(&self) -> Compression {
        match self {
            Self::Csv(csv) => csv.compression,
            Self::Jsonl(jsonl) => jsonl.compression,
        }
    }
}

impl From<CsvSettings> for FileSettings {
    fn from(csv: CsvSettings) -> Self {
        Self::Csv(csv)
    }
}

impl From<JsonlSettings> for FileSettings {
    fn from(jsonl: JsonlSettings) -> Self {
        Self::Jsonl(jsonl)
    }
}

/// Sink `csv`: writes a comma-separated file. Its columns are those of the first records.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvSinkSettings {
    /// The file. Its folder must exist.
    pub path: String,
    /// Whether the first record names the columns.
    #[serde(default = "yes")]
    pub header: bool,
    /// What separates fields: one ASCII character.
    #[serde(default = "comma")]
    pub delimiter: char,
}

/// Sink `jsonl`: writes a file with one JSON object per line.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonlSinkSettings {
    /// The file. Its folder must exist.
    pub path: String,
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Told by the file's first bytes.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// gzip, of one or more members.
    Gzip,
    /// Zstandard, of one or more frames.
    Zstd,
}

/// What a CSV column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// Text, as it stands.
    Text,
    /// A whole number from -9223372036854775808 to 9223372036854775807.
    Integer,
    /// A binary floating-point number of 64 bits; decimals are rounded to the nearest.
    Float,
    /// A decimal number of any size, kept exactly.
    Number,
    /// `true`, `t`, `yes`, `y` or `1`; `false`, `f`, `no`, `n` or `0`; in capitals, too.
    Boolean,
    /// Any JSON.
    Json,
}

/// The types of CSV columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Types {
    /// Guessed from the first rows of the first file; a later field that does not fit is a bad
    /// record.
    Auto,
    /// By name; the others are text.
    Columns(BTreeMap<String, FieldType>),
}

impl Default for Types {
    fn default() -> Self {
        Self::Columns(BTreeMap::new())
    }
}

/// Where CSV columns have their names from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Header {
    /// The file's first record.
    #[default]
    InFile,
    /// These; the file's first record is data.
    Names(Vec<String>),
}

impl<'de> Deserialize<'de> for Types {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TypesVisitor;

        impl<'de> Visitor<'de> for TypesVisitor {
            type Value = Types;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`auto` or a map from column to type")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Types, E> {
                match word {
                    "auto" => Ok(Types::Auto),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Types, A::Error> {
                Deserialize::deserialize(value::MapAccessDeserializer::new(map)).map(Types::Columns)
            }
        }

        deserializer.deserialize_any(TypesVisitor)
    }
}

impl JsonSchema for Types {
    fn schema_name() -> Cow<'static, str> {
        "Types".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let types = generator.subschema_for::<FieldType>();
        json_schema!({
            "oneOf": [
                {"const": "auto", "description": "Guessed from the first rows of the first file."},
                {"type": "object", "additionalProperties": types},
            ]
        })
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, or a list of column names for files without a header")
            }

            fn visit_bool<E: de::Error>(self, named: bool) -> Result<Header, E> {
                if named {
                    return Ok(Header::InFile);
                }
                Err(E::custom("without a header the columns need names: `header: [id, name]`"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<Header, A::Error> {
                Deserialize::deserialize(value::SeqAccessDeserializer::new(names))
                    .map(Header::Names)
            }
        }

        deserializer.deserialize_any(HeaderVisitor)
    }
}

impl JsonSchema for Header {
    fn schema_name() -> Cow<'static, str> {
        "Header".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                {"const": true, "description": "The first record names the columns."},
                {"type": "array", "items": {"type": "string"}, "minItems": 1,
                 "description": "The names; the first record is data."},
            ]
        })
    }
}

fn comma() -> char {
    ','
}

fn double_quote() -> String {
    "\"".to_owned()
}

fn yes() -> bool {
    true
}
