//! A target table: as it is in the database, and how it is created from the first records.
//!
//! A table that is there is never changed, with one exception: columns are added to one that
//! Piton itself created, which `piton_tables` remembers.

use tokio_postgres::{Client, Error, Row, types::Type};

use super::{
    encode::Kind,
    name::{self, quote},
};
use crate::batch::{Batch, ColumnType, Value};

/// A column of the target.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Its type, as SQL writes it.
    pub(super) declared: String,
    /// Computed by the database: cannot be written.
    generated: bool,
    /// Numbered by the database unless an insert insists.
    pub(super) numbered: bool,
    nullable: bool,
}

/// A target table as it is.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) fields: Vec<Field>,
    /// What PostgreSQL calls its sort: `r` for an ordinary table.
    kind: i8,
    persistence: i8,
    /// The column sets that are unique at every moment.
    unique: Vec<Vec<String>>,
    /// What this user lacks the right to do: `INSERT`, …
    lacking: Option<String>,
}

/// What will be done with the rows of a table. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// They are added.
    Insert = 0,
    /// They are written over.
    Write = 1,
    /// They are deleted.
    Delete = 2,
}

const TABLE: &str = "\
SELECT c.oid, c.relkind, c.relpersistence, concat_ws(' and ',
  CASE WHEN NOT has_any_column_privilege(c.oid, 'INSERT') THEN 'INSERT' END,
  CASE WHEN $2 > 0 AND NOT has_any_column_privilege(c.oid, 'UPDATE') THEN 'UPDATE' END,
  CASE WHEN $2 > 0 AND NOT has_any_column_privilege(c.oid, 'SELECT') THEN 'SELECT' END,
  CASE WHEN $2 > 1 AND NOT has_table_privilege(c.oid, 'DELETE') THEN 'DELETE' END)
FROM pg_class c WHERE c.oid = to_regclass($1)";

const FIELDS: &str = "\
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '',
  a.attidentity = 'a', NOT a.attnotnull,
  coalesce(base.typname, t.typname)::text,
  (SELECT e.typname::text FROM pg_type e
   WHERE e.oid = coalesce(base.typelem, t.typelem) AND coalesce(base.typlen, t.typlen) = -1
     AND coalesce(base.typcategory, t.typcategory) = 'A')
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type base ON base.oid = t.typbasetype AND t.typtype = 'd'
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum";

const UNIQUE: &str = "\
SELECT array_agg(a.attname::text ORDER BY k.n)
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL AND k.n <= i.indnkeyatts
GROUP BY i.indexrelid";

impl Table {
    /// Reads what a table is; `None` if there is none. `name` is as it stands in a statement.
    pub(super) async fn inspect(
        client: &Client,
        name: &str,
        rights: Rights,
    ) -> Result<Option<Self>, Error> {
        let rights = rights as i32;
        let parameters = [(&name as _, Type::TEXT), (&rights as _, Type::INT4)];
        let Some(found) = client.query_typed_opt(TABLE, &parameters).await? else {
            return Ok(None);
        };
        let oid: u32 = found.try_get(0)?;
        let of = [(&oid as _, Type::OID)];
        let fields = client.query_typed(FIELDS, &of).await?;
        let unique = client.query_typed(UNIQUE, &of).await?;
        let lacking: String = found.try_get(3)?;
        Ok(Some(Self {
            fields: fields.iter().map(Field::read).collect::<Result<_, _>>()?,
            kind: found.try_get(1)?,
            persistence: found.try_get(2)?,
            unique: unique.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
            lacking: Some(lacking).filter(|lacking| !lacking.is_empty()),
        }))
    }

    /// The field that a record's column goes to: of the same name, or of the only one that
    /// differs in capital letters alone.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        let exact = self.fields.iter().find(|field| field.name == name);
        let alike = || {
            let mut alike = self.fields.iter().filter(|f| f.name.eq_ignore_ascii_case(name));
            alike.next().filter(|_| alike.next().is_none())
        };
        exact.or_else(alike)
    }

    /// Finds why records with this key cannot be written into it; `at` names the database.
    pub(super) fn refuse(&self, name: &str, key: &[String], at: &str) -> Option<String> {
        let sort = match (self.kind as u8, self.persistence as u8) {
            (b'r' | b'p', b'p') => None,
            (b'r' | b'p', b'u') => Some(format!(
                "is unlogged: its rows would be gone after a crash of the server, and the \
                 checkpoint would not. ALTER TABLE {name} SET LOGGED, or name another"
            )),
            (b'r' | b'p', _) => Some("is a temporary table: name another".to_owned()),
            (b'f', _) => Some(
                "is a foreign table, whose rows do not commit with the checkpoint: name a table \
                 of this database"
                    .to_owned(),
            ),
            _ => Some("is a view or the like, not a table: name a table".to_owned()),
        };
        if let Some(why) = sort {
            return Some(format!("{name} in {at} {why}"));
        }
        if let Some(lacking) = &self.lacking {
            return Some(format!(
                "the user of {at} lacks the right to {lacking} in {name}: GRANT it"
            ));
        }
        self.refuse_key(name, key, at)
    }

    fn refuse_key(&self, name: &str, key: &[String], at: &str) -> Option<String> {
        for column in key {
            let Some(field) = self.field(column) else {
                return Some(format!(
                    "the key column '{column}' is not a column of {name} in {at}{}",
                    self.suggestion(column)
                ));
            };
            if field.nullable {
                return Some(format!(
                    "the key column '{column}' of {name} in {at} may be NULL, and rows with NULL \
                     in their key are never the same: ALTER TABLE {name} ALTER COLUMN {} SET NOT \
                     NULL",
                    quote(&field.name)
                ));
            }
        }
        let is_key = |columns: &Vec<String>| {
            let names = |k: &String| self.field(k).is_some_and(|f| columns.contains(&f.name));
            columns.len() == key.len() && key.iter().all(names)
        };
        if key.is_empty() || self.unique.iter().any(is_key) {
            return None;
        }
        let columns: Vec<String> = key.iter().map(|k| quote(k)).collect();
        Some(format!(
            "{name} in {at} has no primary key or unique index on exactly ({}), which \
             `mode: upsert` needs. Create one and run again: CREATE UNIQUE INDEX ON {name} ({})",
            key.join(", "),
            columns.join(", ")
        ))
    }

    /// Its columns with their types.
    pub(super) fn types(&self) -> Vec<(String, String)> {
        self.fields.iter().map(|field| (field.name.clone(), field.declared.clone())).collect()
    }

    /// Whether it is a table, of which the indexes say what is unique.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.kind as u8, b'r' | b'p')
    }

    /// Finds why a key does not identify and order its rows.
    pub(super) fn refuse_order(&self, name: &str, key: &[String]) -> Option<String> {
        for column in key {
            match self.fields.iter().find(|field| field.name == *column) {
                None => {
                    let near = self.suggestion(column);
                    return Some(format!("'{name}' has no column '{column}'{near}"));
                }
                Some(field) if field.nullable => {
                    return Some(format!(
                        "'{column}' of '{name}' may be NULL, and such a row has no place in an \
                         order: SET NOT NULL, or name another `key`"
                    ));
                }
                Some(_) => {}
            }
        }
        let is_unique = |index: &Vec<String>| index.iter().all(|column| key.contains(column));
        if self.unique.iter().any(is_unique) {
            return None;
        }
        Some(format!(
            "nothing says that ({}) is unique in '{name}': name columns with `key` of which some \
             are a primary key or unique index",
            key.join(", ")
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
    fn suggestion(&self, name: &str) -> String {
        let lower = |name: &str| name.to_ascii_lowercase();
        let close = |field: &&Field| strsim::jaro_winkler(&lower(name), &lower(&field.name));
        let best = self.fields.iter().map(|field| (close(&field), field));
        match best.max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((score, field)) if score > 0.8 => format!("; did you mean '{}'?", field.name),
            _ => String::new(),
        }
    }
}

impl Field {
    fn read(row: &Row) -> Result<Self, Error> {
        let (of, element): (String, Option<String>) = (row.try_get(5)?, row.try_get(6)?);
        let kind = match element {
            Some(element) => Kind::Array(Box::new(kind(&element))),
            None => kind(&of),
        };
        Ok(Self {
            name: row.try_get(0)?,
            kind,
            declared: row.try_get(1)?,
            generated: row.try_get(2)?,
            numbered: row.try_get(3)?,
            nullable: row.try_get(4)?,
        })
    }
}

/// The kind of a type by its name in the catalogue.
fn kind(name: &str) -> Kind {
    match name {
        "text" | "varchar" | "bpchar" | "name" | "citext" | "char" => Kind::Text,
        "int2" | "int4" | "int8" | "oid" => Kind::Integer,
        "numeric" | "float4" | "float8" => Kind::Number,
        "bool" => Kind::Boolean,
        "bytea" => Kind::Bytes,
        "json" | "jsonb" => Kind::Json,
        _ => Kind::Other,
    }
}

/// Whether Piton created a table.
pub(super) async fn is_ours(client: &Client, name: &str) -> Result<bool, Error> {
    let known = "SELECT to_regclass('piton_tables') IS NOT NULL";
    if !client.query_typed_one(known, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(false);
    }
    let ours = "SELECT EXISTS (SELECT FROM piton_tables WHERE name = $1)";
    client.query_typed_one(ours, &[(&name as _, Type::TEXT)]).await?.try_get(0)
}

/// Whether any of some rows has a column that can be one of a table.
pub(super) fn is_in_any(batch: &Batch, rows: &[usize], column: usize) -> bool {
    name::check(&batch.schema.columns[column].name, name::POSTGRES).is_ok()
        && rows.iter().any(|row| batch.get(*row, column) != Value::Absent)
}

/// Creates a target for rows of a batch, leaving out some of their columns.
pub(super) async fn create(
    client: &Client,
    name: &str,
    key: &[String],
    (batch, rows, left_out): (&Batch, &[usize], &[usize]),
) -> Result<(), Error> {
    let mut parts: Vec<String> = Vec::new();
    for (index, column) in batch.schema.columns.iter().enumerate() {
        if left_out.contains(&index) || !is_in_any(batch, rows, index) {
            continue;
        }
        let not_null = if key.iter().any(|k| **k == *column.name) { " NOT NULL" } else { "" };
        let declared = declared(batch, rows, index);
        parts.push(format!("{} {declared}{not_null}", quote(&column.name)));
    }
    if !key.is_empty() {
        let key: Vec<String> = key.iter().map(|k| quote(k)).collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    let now = jiff::Timestamp::now();
    let literal = name.replace('\'', "''");
    client
        .batch_execute(&format!(
            "CREATE TABLE {name} ({}); \
             CREATE TABLE IF NOT EXISTS piton_tables \
             (name text COLLATE \"C\" PRIMARY KEY, created_at text NOT NULL); \
             INSERT INTO piton_tables (name, created_at) VALUES ('{literal}', '{now}') \
             ON CONFLICT (name) DO UPDATE SET created_at = excluded.created_at",
            parts.join(", "),
        ))
        .await
}

/// Adds a column to a table that Piton created.
pub(super) async fn add_column(
    client: &Client,
    name: &str,
    column: usize,
    batch: &Batch,
    rows: &[usize],
) -> Result<(), Error> {
    let declared = declared(batch, rows, column);
    let column = quote(&batch.schema.columns[column].name);
    client.batch_execute(&format!("ALTER TABLE {name} ADD COLUMN {column} {declared}")).await
}

/// The type of a new column. Where the source does not know, the values of the first batch decide:
/// a type that takes all of them, exactly.
fn declared(batch: &Batch, rows: &[usize], column: usize) -> &'static str {
    match batch.schema.columns[column].kind {
        ColumnType::Text => "text",
        ColumnType::Integer => "bigint",
        ColumnType::Float => "double precision",
        ColumnType::Number => "numeric",
        ColumnType::Boolean => "boolean",
        ColumnType::Bytes => "bytea",
        ColumnType::Json => "jsonb",
        ColumnType::Timestamp => "timestamptz",
        ColumnType::Named(name) => name,
        ColumnType::Unknown => {
            let kinds = rows.iter().filter_map(|row| match batch.get(*row, column) {
                Value::Absent | Value::Null => None,
                Value::Text(_) => Some("text"),
                Value::Json(_) => Some("jsonb"),
                Value::Int(_) => Some("bigint"),
                Value::Float(_) => Some("double precision"),
                Value::Number(_) => Some("numeric"),
                Value::Bool(_) => Some("boolean"),
                Value::Bytes(_) => Some("bytea"),
            });
            kinds.reduce(common).unwrap_or("text")
        }
    }
}

/// The type that takes the values of two.
fn common(a: &'static str, b: &'static str) -> &'static str {
    const NUMBERS: [&str; 3] = ["bigint", "double precision", "numeric"];
    let is_number = |name| NUMBERS.contains(&name);
    match (a, b) {
        _ if a == b => a,
        _ if is_number(a) && is_number(b) => "numeric",
        ("jsonb", _) | (_, "jsonb") => "jsonb",
        _ => "text",
    }
}
