//! Creating a target from the first records, and giving it new columns.
//!
//! A table that is there is never changed, with one exception: columns are added to one that Piton
//! itself created, which its comment says. The server commits whatever transaction is open when a
//! table is created or altered, so neither is ever done in one.

use super::{
    name::{self, MYSQL, quote},
    table::OURS,
};
use crate::batch::{Batch, ColumnType, Value};

/// Characters of all text columns of a key together: an index takes 3,072 bytes.
const KEY_CHARACTERS: usize = 760;

/// The most characters of one text column of a key, where there is room for more.
const KEY_MOST: usize = 255;

/// Whether any of some rows has a column that can be one of a table.
pub(super) fn is_in_any(batch: &Batch, rows: &[usize], column: usize) -> bool {
    name::check(&batch.schema.columns[column].name, MYSQL).is_ok()
        && rows.iter().any(|row| batch.get(*row, column) != Value::Absent)
}

/// The statement that creates a target for rows of a batch, leaving out some of their columns.
/// `collation`: what tells all characters apart.
pub(super) fn table(
    name: &str,
    key: &[String],
    (batch, rows, left_out): (&Batch, &[usize], &[usize]),
    collation: &str,
) -> String {
    let mut parts: Vec<String> = Vec::new();
    let of_key = |name: &str| key.iter().any(|k| k.eq_ignore_ascii_case(name));
    for (index, column) in batch.schema.columns.iter().enumerate() {
        if left_out.contains(&index) || !is_in_any(batch, rows, index) {
            continue;
        }
        let declared = declared(batch, rows, index);
        let column_name = quote(&column.name);
        parts.push(if of_key(&column.name) {
            format!("{column_name} {} NOT NULL", declared.in_key(key.len()))
        } else {
            format!("{column_name} {}", declared.sql())
        });
    }
    if !key.is_empty() {
        let key: Vec<String> = key.iter().map(|k| quote(k)).collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    format!(
        "CREATE TABLE IF NOT EXISTS {name} ({}) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 \
         COLLATE = {collation} COMMENT = '{OURS}'",
        parts.join(", ")
    )
}

/// The statement that adds columns to a table that Piton created.
pub(super) fn columns(name: &str, columns: &[usize], batch: &Batch, rows: &[usize]) -> String {
    let add = |column: &usize| {
        let declared = declared(batch, rows, *column).sql();
        format!("ADD COLUMN {} {declared}", quote(&batch.schema.columns[*column].name))
    };
    let add: Vec<String> = columns.iter().map(add).collect();
    format!("ALTER TABLE {name} {}", add.join(", "))
}

/// The type of a new column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declared {
    Text,
    Integer,
    Float,
    Decimal,
    Boolean,
    Bytes,
    Json,
    Time,
    Date,
}

impl Declared {
    fn sql(self) -> &'static str {
        match self {
            Self::Text => "LONGTEXT",
            Self::Integer => "BIGINT",
            Self::Float => "DOUBLE",
            Self::Decimal => "DECIMAL(65,30)",
            Self::Boolean => "BOOLEAN",
            Self::Bytes => "LONGBLOB",
            Self::Json => "JSON",
            Self::Time => "DATETIME(6)",
            Self::Date => "DATE",
        }
    }

    /// The same for one of so many columns of a key, which must be short.
    fn in_key(self, columns: usize) -> String {
        let length = (KEY_CHARACTERS / columns.max(1)).min(KEY_MOST);
        match self {
            Self::Text | Self::Json => format!("VARCHAR({length})"),
            Self::Bytes => format!("VARBINARY({length})"),
            other => other.sql().to_owned(),
        }
    }

    /// The type that takes the values of two.
    fn common(self, other: Self) -> Self {
        use Declared::{Decimal, Float, Integer, Json, Text};
        match (self, other) {
            _ if self == other => self,
            (Integer, Float) | (Float, Integer) => Float,
            (Integer | Float | Decimal, Integer | Float | Decimal) => Decimal,
            (Json, _) | (_, Json) => Json,
            _ => Text,
        }
    }
}

/// The type of a new column. Where the source does not know, the values of the first batch decide.
fn declared(batch: &Batch, rows: &[usize], column: usize) -> Declared {
    match batch.schema.columns[column].kind {
        ColumnType::Text => Declared::Text,
        ColumnType::Integer => Declared::Integer,
        ColumnType::Float => Declared::Float,
        ColumnType::Number => Declared::Decimal,
        ColumnType::Boolean => Declared::Boolean,
        ColumnType::Bytes => Declared::Bytes,
        ColumnType::Json => Declared::Json,
        ColumnType::Timestamp | ColumnType::Named("timestamp") => Declared::Time,
        ColumnType::Named("date") => Declared::Date,
        ColumnType::Named(name) if name == "json" || name.ends_with("[]") => Declared::Json,
        ColumnType::Named(_) => Declared::Text,
        ColumnType::Unknown => {
            let of = rows.iter().filter_map(|row| match batch.get(*row, column) {
                Value::Absent | Value::Null => None,
                Value::Text(_) => Some(Declared::Text),
                Value::Json(_) => Some(Declared::Json),
                Value::Int(_) => Some(Declared::Integer),
                Value::Float(_) => Some(Declared::Float),
                Value::Number(_) => Some(Declared::Decimal),
                Value::Bool(_) => Some(Declared::Boolean),
                Value::Bytes(_) => Some(Declared::Bytes),
            });
            of.reduce(Declared::common).unwrap_or(Declared::Text)
        }
    }
}
