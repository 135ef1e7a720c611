//! What is read, and in which order: a table or query by its key, in pieces.
//!
//! A piece begins after the last key of the one before (`WHERE (a, b) > (…)`), and an index on the
//! key finds it at once, however deep in the table. It comes as `COPY … TO STDOUT`, the server's
//! cheapest way to give rows away.

use tokio_postgres::{Client, Error, types::Type};

use super::{
    decode::Form,
    name::quote,
    position::KeyPart,
    table::{Rights, Table},
};
use crate::{shape::Shape, sqlite::settings::Input};

/// A table or query and its key.
#[derive(Debug, Clone)]
pub(super) struct Keyset {
    /// What stands after FROM.
    from: String,
    pub(super) columns: Vec<Column>,
    pub(super) key: Vec<Part>,
    /// Whether it was checked that no part of the key is NULL.
    is_never_null: bool,
    pub(super) shape: Shape,
}

/// A column of the records.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    /// The name of its type in the catalogue.
    pub(super) of: String,
    pub(super) form: Form,
    /// Whether it is asked for as JSON.
    is_composite: bool,
}

/// A column of the key.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) name: String,
    /// Its index among the columns.
    pub(super) column: usize,
    /// Its type, as SQL writes it.
    cast: String,
    pub(super) is_integer: bool,
}

/// Why a table or query cannot be read in order.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// It is not there.
    Missing(String),
    /// It does not fit.
    Unfit(String),
    /// The server failed.
    Database(Error),
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

const PRIMARY: &str = "\
SELECT a.attname::text
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = to_regclass($1) AND i.indisprimary AND k.n <= i.indnkeyatts
ORDER BY k.n";

impl Keyset {
    /// Looks at what is to be read.
    pub(super) async fn of(
        client: &Client,
        input: &Input,
        name: Option<&str>,
        key: &[String],
    ) -> Result<Self, Unreadable> {
        let (from, key, types) = match (input, name) {
            (Input::Table(table), Some(name)) => {
                let (key, found) = key_of_table(client, table, name, key).await?;
                (format!("{name} q"), key, Some(found.types()))
            }
            (Input::Query(query), _) | (Input::Table(query), None) => {
                (format!("({query}\n) q"), key.to_vec(), None)
            }
        };
        let is_never_null = types.is_some();
        let described = client.prepare(&format!("SELECT q.* FROM {from} LIMIT 0")).await;
        let described = described.map_err(|error| match error.as_db_error() {
            Some(said) if !is_never_null => {
                Unreadable::Unfit(format!("`query` cannot be asked: {}", said.message()))
            }
            _ => error.into(),
        })?;
        if !described.params().is_empty() {
            return Err(Unreadable::Unfit("`query` has parameters, of which none is known".into()));
        }
        let columns: Vec<Column> = described.columns().iter().map(Column::of).collect();
        let part = |name: &String| {
            let column = columns.iter().position(|column| column.name == *name);
            let column = column.ok_or_else(|| {
                let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
                let names = names.join(", ");
                Unreadable::Unfit(format!("there is no column '{name}' of `key`; it has: {names}"))
            })?;
            let kind = described.columns()[column].type_();
            let cast = format!("{}.{}", quote(kind.schema()), quote(kind.name()));
            let is_integer = columns[column].form == Form::Integer;
            Ok(Part { name: name.clone(), column, cast, is_integer })
        };
        let names = || columns.iter().map(|column| (column.name.clone(), String::new())).collect();
        let shape = Shape::new(types.unwrap_or_else(names), key.clone());
        let key = key.iter().map(part).collect::<Result<_, Unreadable>>()?;
        Ok(Self { from, columns, key, is_never_null, shape })
    }

    /// The statement that copies rows after a key, at most `limit` of them, or up to another key.
    pub(super) fn page(&self, after: &[KeyPart], upto: &[KeyPart], limit: Option<usize>) -> String {
        let columns: Vec<String> = self.columns.iter().map(Column::selected).collect();
        let limit = limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
        format!(
            "COPY (SELECT {} FROM {}{} ORDER BY {}{limit}) TO STDOUT",
            columns.join(", "),
            self.from,
            self.between(after, upto),
            self.list(),
        )
    }

    /// The statement that gives the last key of the next `limit` rows after a key, as text.
    pub(super) fn reach(&self, after: &[KeyPart], limit: usize) -> String {
        let list = self.list();
        let back: Vec<String> = (1..=self.key.len()).map(|n| format!("k{n} DESC")).collect();
        let named: Vec<String> =
            self.names().zip(1..).map(|(name, n)| format!("{name} AS k{n}")).collect();
        let shown: Vec<String> = (1..=self.key.len()).map(|n| format!("k{n}::text")).collect();
        format!(
            "SELECT {} FROM (SELECT {} FROM {}{} ORDER BY {list} LIMIT {limit}) r ORDER BY {} LIMIT 1",
            shown.join(", "),
            named.join(", "),
            self.from,
            self.between(after, &[]),
            back.join(", ")
        )
    }

    /// The statement that gives keys, as text, that cut a table into so many parts of about as many
    /// rows, by a sample of it.
    pub(super) fn cuts(&self, name: &str, percent: f64, count: usize) -> String {
        let list = self.list();
        let named: Vec<String> =
            self.names().zip(1..).map(|(name, n)| format!("{name} AS k{n}")).collect();
        let shown: Vec<String> = (1..=self.key.len()).map(|n| format!("k{n}::text")).collect();
        let at: Vec<String> = (1..count).map(|part| format!("n * {part} / {count}")).collect();
        format!(
            "SELECT {} FROM (SELECT {}, row_number() OVER (ORDER BY {list}) AS r, \
             count(*) OVER () AS n FROM {name} q TABLESAMPLE SYSTEM ({percent})) s \
             WHERE r IN ({}) ORDER BY r",
            shown.join(", "),
            named.join(", "),
            at.join(", ")
        )
    }

    /// The statement that copies the row with a key.
    pub(super) fn row(&self, key: &[KeyPart]) -> String {
        let columns: Vec<String> = self.columns.iter().map(Column::selected).collect();
        let condition = format!("({}) = ({})", self.list(), self.literals(key));
        format!(
            "COPY (SELECT {} FROM {} WHERE {condition}) TO STDOUT",
            columns.join(", "),
            self.from
        )
    }

    /// The statement that says whether a row has no place in the order; `None` if none can be so.
    pub(super) fn has_null(&self) -> Option<String> {
        let nulls: Vec<String> = self.names().map(|name| format!("{name} IS NULL")).collect();
        let condition = nulls.join(" OR ");
        let sql = format!("SELECT EXISTS (SELECT FROM {} WHERE {condition})", self.from);
        (!self.is_never_null).then_some(sql)
    }

    fn between(&self, after: &[KeyPart], upto: &[KeyPart]) -> String {
        let condition = |operator: &str, key: &[KeyPart]| {
            (!key.is_empty())
                .then(|| format!("({}) {operator} ({})", self.list(), self.literals(key)))
        };
        let conditions = [condition(">", after), condition("<=", upto)];
        let conditions: Vec<String> = conditions.into_iter().flatten().collect();
        if conditions.is_empty() {
            return String::new();
        }
        format!(" WHERE {}", conditions.join(" AND "))
    }

    fn literals(&self, key: &[KeyPart]) -> String {
        let literal =
            |(value, part): (&KeyPart, &Part)| format!("{}::{}", value.literal(), part.cast);
        key.iter().zip(&self.key).map(literal).collect::<Vec<_>>().join(", ")
    }

    fn names(&self) -> impl Iterator<Item = String> {
        self.key.iter().map(|part| format!("q.{}", quote(&part.name)))
    }

    fn list(&self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }
}

impl Column {
    fn of(column: &tokio_postgres::Column) -> Self {
        use tokio_postgres::types::Kind;
        let kind = column.type_();
        let mut base = kind;
        while let Kind::Domain(of) = base.kind() {
            base = of;
        }
        let is_composite = matches!(base.kind(), Kind::Array(_) | Kind::Composite(_));
        let form = if is_composite { Form::Json } else { Form::of(base.name()) };
        Self { name: column.name().to_owned(), of: base.name().to_owned(), form, is_composite }
    }

    fn selected(&self) -> String {
        let name = quote(&self.name);
        if self.is_composite { format!("to_json(q.{name})") } else { format!("q.{name}") }
    }
}

/// The key of a table, found to identify and order its rows.
async fn key_of_table(
    client: &Client,
    table: &str,
    name: &str,
    key: &[String],
) -> Result<(Vec<String>, Table), Unreadable> {
    let Some(found) = Table::inspect(client, name, Rights::Insert).await? else {
        return Err(Unreadable::Missing(format!("there is no table '{table}'")));
    };
    if !found.is_table() {
        let why = format!("'{table}' is not a table: read it with `query`, and name its `key`");
        return Err(Unreadable::Unfit(why));
    }
    if key.is_empty() {
        let rows = client.query_typed(PRIMARY, &[(&name as _, Type::TEXT)]).await?;
        let primary: Vec<String> =
            rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        if primary.is_empty() {
            let why = format!(
                "'{table}' has no primary key: name columns with `key` that are unique and never \
                 NULL"
            );
            return Err(Unreadable::Unfit(why));
        }
        return Ok((primary, found));
    }
    match found.refuse_order(table, key) {
        Some(why) => Err(Unreadable::Unfit(why)),
        None => Ok((key.to_vec(), found)),
    }
}
