//! The target table: as it is in the database, and how it is created from the first records.
//!
//! A table that is there is never changed, with one exception: columns are added to one that
//! Piton itself created, which `piton_tables` remembers.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::quote;
use crate::batch::{Batch, ColumnType, Schema, Value};

/// What is stored in a column whatever is put in, by the rules of `SQLite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    Text,
    Integer,
    Real,
    Numeric,
    None,
}

impl Affinity {
    /// The affinity of a declared type.
    pub(super) fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |word: &str| declared.contains(word);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || declared.is_empty() {
            Self::None
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }
}

/// A column of the target.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) affinity: Affinity,
    /// Computed by the database: cannot be written.
    generated: bool,
    /// Its type as it is declared; may be empty.
    declared: String,
    /// It is the row number by another name.
    row_number: bool,
    /// Whether it may hold NULL.
    pub(super) nullable: bool,
}

/// The target table as it is.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) fields: Vec<Field>,
    /// What `SQLite` calls it: a table, a view, …
    kind: String,
    /// The primary key; empty if there is none.
    pub(super) primary: Vec<String>,
    /// The column sets that are unique.
    unique: Vec<Vec<String>>,
    pub(super) without_rowid: bool,
}

impl Table {
    /// Reads what a table is; `None` if there is none.
    pub(super) fn inspect(conn: &Connection, name: &str) -> rusqlite::Result<Option<Self>> {
        let found = conn
            .query_row(
                "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' \
                 AND name = ?1 COLLATE NOCASE",
                [name],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let Some((kind, without_rowid)): Option<(String, bool)> = found else { return Ok(None) };
        let mut primary: Vec<(i64, String)> = Vec::new();
        let mut fields = Vec::new();
        let mut statement = conn.prepare(
            "SELECT name, type, pk, hidden, \"notnull\" FROM pragma_table_xinfo(?1, 'main')",
        )?;
        let mut rows = statement.query([name])?;
        while let Some(row) = rows.next()? {
            let (name, declared): (String, String) = (row.get(0)?, row.get(1)?);
            if row.get::<_, i64>(2)? > 0 {
                primary.push((row.get(2)?, name.clone()));
            }
            let affinity = Affinity::of(&declared);
            let generated = row.get::<_, i64>(3)? > 1;
            let nullable = !row.get::<_, bool>(4)?;
            fields.push(Field { name, affinity, generated, declared, row_number: false, nullable });
        }
        let mut unique = unique_indexes(conn, name)?;
        primary.sort();
        let primary: Vec<String> = primary.into_iter().map(|(_, name)| name).collect();
        for field in &mut fields {
            field.row_number = !without_rowid
                && primary == [field.name.as_str()]
                && field.declared.eq_ignore_ascii_case("INTEGER");
            let in_key = without_rowid && primary.contains(&field.name);
            field.nullable &= !field.row_number && !in_key;
        }
        if !primary.is_empty() {
            unique.push(primary.clone());
        }
        Ok(Some(Self { fields, kind, primary, unique, without_rowid }))
    }

    /// The field that a record's column goes to.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))
    }

    /// Whether `SQLite` itself numbers the rows in the order in which they come, when records
    /// with these columns are added.
    pub(super) fn numbers_rows<'a>(&self, mut columns: impl Iterator<Item = &'a str>) -> bool {
        // A column of its own with that name hides the row number.
        let is_hidden = self.field("rowid").is_some_and(|field| !field.row_number);
        !self.without_rowid
            && !is_hidden
            && !columns.any(|name| self.field(name).is_some_and(|field| field.row_number))
    }

    /// Whether no two rows can have the same values in these columns.
    pub(super) fn is_unique(&self, columns: &[String]) -> bool {
        let has = |c: &String| columns.iter().any(|column| column.eq_ignore_ascii_case(c));
        self.unique.iter().any(|index| index.iter().all(has))
    }

    /// Its columns with their types.
    pub(super) fn types(&self) -> Vec<(String, String)> {
        self.fields.iter().map(|field| (field.name.clone(), field.declared.clone())).collect()
    }

    /// Whether it is a table, not a view or the like.
    pub(super) fn is_table(&self) -> bool {
        self.kind == "table"
    }

    /// Finds why records with this key cannot be written into it; `at` names the database.
    pub(super) fn refuse(&self, name: &str, key: &[String], at: &str) -> Option<String> {
        if !self.is_table() {
            return Some(format!("'{name}' in {at} is a {}, not a table: name a table", self.kind));
        }
        for column in key {
            let Some(_) = self.field(column) else {
                return Some(format!(
                    "the key column '{column}' is not a column of table '{name}' in {at}{}",
                    self.suggestion(column)
                ));
            };
        }
        let same = |columns: &Vec<String>| {
            columns.len() == key.len()
                && key.iter().all(|k| columns.iter().any(|c| c.eq_ignore_ascii_case(k)))
        };
        if key.is_empty() || self.unique.iter().any(same) {
            return None;
        }
        let columns: Vec<String> = key.iter().map(|k| quote(k)).collect();
        Some(format!(
            "table '{name}' in {at} has no primary key or unique index on exactly ({}), which \
             `mode: upsert` needs. Create one and run again: CREATE UNIQUE INDEX {} ON {} ({})",
            key.join(", "),
            quote(&format!("{name}_{}", key.join("_"))),
            quote(name),
            columns.join(", ")
        ))
    }

    /// Finds why a record's column cannot be written.
    pub(super) fn refuse_column(&self, column: &str) -> Option<String> {
        match self.field(column) {
            None => Some(format!("it has no column '{column}'{}", self.suggestion(column))),
            Some(field) if field.generated => {
                Some(format!("its column '{column}' is computed by the database"))
            }
            Some(_) => None,
        }
    }

    /// The field with the nearest name, as the end of a sentence.
    pub(super) fn suggestion(&self, name: &str) -> String {
        let close = |field: &&Field| strsim::jaro_winkler(&lower(name), &lower(&field.name));
        let best = self.fields.iter().map(|field| (close(&field), field));
        match best.max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((score, field)) if score > 0.8 => format!("; did you mean '{}'?", field.name),
            _ => String::new(),
        }
    }
}

/// Whether there is such a table. Asks the schema, because a database whose schema cannot be read
/// must give an error, not "no such table".
pub(super) fn is_there(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    conn.query_row(
        "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
        [name],
        |row| row.get(0),
    )
}

/// The last row number of a table, 0 if there are no rows or no table.
pub(super) fn last_row(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    if !is_there(conn, name)? {
        return Ok(0);
    }
    conn.prepare_cached(&format!("SELECT coalesce(max(rowid), 0) FROM {}", quote(name)))?
        .query_row([], |row| row.get(0))
}

/// Whether Piton created a table.
pub(super) fn is_ours(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    if !is_there(conn, "piton_tables")? {
        return Ok(false);
    }
    conn.query_row("SELECT count(*) FROM piton_tables WHERE name = ?1", [name], |row| row.get(0))
}

/// Why a table cannot be made for records of these columns, if so.
pub(super) fn cannot_be_made(key: &[String], schema: &Schema) -> Option<String> {
    let names = || schema.columns.iter().map(|column| &*column.name);
    if schema.columns.is_empty() {
        return Some("the first of them have no fields. Create the table".to_owned());
    }
    let missing = key.iter().find(|k| !names().any(|name| name.eq_ignore_ascii_case(k)))?;
    let known: Vec<&str> = names().take(50).collect();
    Some(format!("they have no '{missing}', which `key` names. Known: {}", known.join(", ")))
}

/// Creates the target for the records of a batch.
pub(super) fn create(
    conn: &Connection,
    name: &str,
    key: &[String],
    batch: &Batch,
    rows: &Range<usize>,
) -> rusqlite::Result<()> {
    let is_key = |column: &str| key.iter().any(|k| k.eq_ignore_ascii_case(column));
    let mut parts: Vec<String> = Vec::new();
    for (index, column) in batch.schema.columns.iter().enumerate() {
        let not_null = if is_key(&column.name) { " NOT NULL" } else { "" };
        parts.push(format!("{}{}{not_null}", quote(&column.name), declared(batch, rows, index)));
    }
    if !key.is_empty() {
        let key: Vec<String> = key.iter().map(|k| quote(k)).collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    conn.execute_batch(&format!("CREATE TABLE {} ({})", quote(name), parts.join(", ")))?;
    conn.execute_batch(
        "CREATE TABLE IF NOT EXISTS piton_tables \
         (name TEXT NOT NULL PRIMARY KEY COLLATE NOCASE, created_at TEXT NOT NULL) WITHOUT ROWID",
    )?;
    conn.execute(
        "INSERT OR REPLACE INTO piton_tables (name, created_at) VALUES (?1, ?2)",
        params![name, jiff::Timestamp::now().to_string()],
    )?;
    Ok(())
}

/// Adds a column to a table that Piton created.
pub(super) fn add_column(
    conn: &Connection,
    name: &str,
    column: usize,
    batch: &Batch,
    rows: &Range<usize>,
) -> rusqlite::Result<()> {
    let declared = declared(batch, rows, column);
    let column = quote(&batch.schema.columns[column].name);
    conn.execute_batch(&format!("ALTER TABLE {} ADD COLUMN {column}{declared}", quote(name)))
}

/// The declared type of a new column, with a space before it. Where the source does not know, the
/// values of the first batch decide, so that no later value is altered without need: text stays
/// text, and a mixture gets no type at all.
fn declared(batch: &Batch, rows: &Range<usize>, column: usize) -> &'static str {
    match batch.schema.columns[column].kind {
        ColumnType::Text | ColumnType::Json | ColumnType::Timestamp | ColumnType::Named(_) => {
            " TEXT"
        }
        ColumnType::Integer => " INTEGER",
        ColumnType::Float => " REAL",
        ColumnType::Boolean => " BOOLEAN",
        ColumnType::Bytes => " BLOB",
        // NUMERIC would round what neither an integer nor a float holds.
        ColumnType::Number => "",
        ColumnType::Unknown => {
            let mut kinds = rows.clone().filter_map(|row| match batch.get(row, column) {
                Value::Absent | Value::Null => None,
                Value::Text(_) | Value::Json(_) => Some(" TEXT"),
                Value::Int(_) => Some(" INTEGER"),
                Value::Float(_) => Some(" REAL"),
                Value::Bool(_) => Some(" BOOLEAN"),
                Value::Bytes(_) => Some(" BLOB"),
                Value::Number(_) => Some(""),
            });
            let first = kinds.next().unwrap_or("");
            if kinds.all(|kind| kind == first) { first } else { "" }
        }
    }
}

fn unique_indexes(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Vec<String>>> {
    let names: Vec<String> = conn
        .prepare(
            "SELECT name FROM pragma_index_list(?1, 'main') WHERE \"unique\" = 1 AND partial = 0",
        )?
        .query_map([table], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut indexes = Vec::new();
    for name in names {
        // An index on an expression has a column without a name and cannot serve.
        let columns: Vec<Option<String>> = conn
            .prepare("SELECT name FROM pragma_index_info(?1, 'main')")?
            .query_map([name], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        indexes.extend(columns.into_iter().collect::<Option<Vec<_>>>());
    }
    Ok(indexes)
}

fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}
