//! What is read, and in which order: a table or query by its key, in pieces.
//!
//! A piece begins after the last key of the one before, and an index on the key finds it at once,
//! however deep in the table. A comparison of several columns is spelt out (`a > 1 OR a = 1 AND
//! b > 2`): the server finds no index for `(a, b) > (1, 2)`.

use mysql::{Conn, Error, prelude::Queryable as _};

use super::{
    decode::Form,
    errors::described,
    name::identifiers,
    position::KeyPart,
    table::{Table, json_columns},
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
    /// The engine that keeps the table, if it has no transactions.
    pub(super) foreign_engine: Option<String>,
    pub(super) shape: Shape,
}

/// A column of the records.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) form: Form,
}

/// A column of the key.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) name: String,
    /// Its index among the columns.
    pub(super) column: usize,
    pub(super) form: Form,
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

/// An identifier as it stands in a statement of a session that reads.
fn quote(identifier: &str) -> String {
    format!("`{}`", identifier.replace('`', "``"))
}

impl Keyset {
    /// Looks at what is to be read.
    pub(super) fn of(
        conn: &mut Conn,
        input: &Input,
        name: Option<&str>,
        key: &[String],
    ) -> Result<Self, Unreadable> {
        let (from, key, found, json) = match (input, name) {
            (Input::Table(table), Some(name)) => {
                let found = Table::inspect(conn, name)?;
                let key = key_of_table(found.as_ref(), table, key)?;
                let parts: Vec<String> = identifiers(name).iter().map(|part| quote(part)).collect();
                (format!("{} q", parts.join(".")), key, found, json_columns(conn, name)?)
            }
            (Input::Query(query), _) | (Input::Table(query), None) => {
                (format!("({query}\n) q"), key.to_vec(), None, Vec::new())
            }
        };
        let asked = conn.query_iter(format!("SELECT q.* FROM {from} LIMIT 0"));
        let asked = asked.map_err(|error| match &error {
            Error::MySqlError(_) if found.is_none() => {
                Unreadable::Unfit(format!("`query` cannot be asked: {}", described(&error)))
            }
            _ => error.into(),
        })?;
        let known: Vec<_> = asked.columns().as_ref().to_vec();
        drop(asked);
        let column = |column: &mysql::Column| {
            let name = column.name_str().into_owned();
            let form = Form::of(column, json.contains(&name));
            Column { name, form }
        };
        let columns: Vec<Column> = known.iter().map(column).collect();
        let part = |name: &String| {
            let is_it = |column: &Column| column.name.eq_ignore_ascii_case(name);
            let column = columns.iter().position(is_it).ok_or_else(|| {
                let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
                let names = names.join(", ");
                Unreadable::Unfit(format!("there is no column '{name}' of `key`; it has: {names}"))
            })?;
            let Column { name, form } = columns[column].clone();
            match form.refuse_as_key(known[column].flags()) {
                Some(why) => Err(Unreadable::Unfit(format!("'{name}' of `key` {why}"))),
                None => Ok(Part { name, column, form }),
            }
        };
        let names = || columns.iter().map(|column| (column.name.clone(), String::new())).collect();
        let shape = Shape::new(found.as_ref().map_or_else(names, Table::types), key.clone());
        let key = key.iter().map(part).collect::<Result<_, Unreadable>>()?;
        let foreign_engine = found.as_ref().and_then(|t| t.foreign_engine().map(str::to_owned));
        Ok(Self { from, columns, key, is_never_null: found.is_some(), foreign_engine, shape })
    }

    /// The statement that gives rows after a key, up to another, at most so many.
    pub(super) fn page(&self, after: &[KeyPart], upto: &[KeyPart], limit: usize) -> String {
        format!(
            "SELECT {} FROM {}{} ORDER BY {} LIMIT {limit}",
            self.selected(),
            self.from,
            self.between(after, upto),
            self.list(""),
        )
    }

    /// The statement that gives the last key after a key.
    pub(super) fn reach(&self, after: &[KeyPart]) -> String {
        let condition = self.between(after, &[]);
        let (list, back) = (self.list(""), self.list(" DESC"));
        format!("SELECT {list} FROM {}{condition} ORDER BY {back} LIMIT 1", self.from)
    }

    /// The statement that gives the row with a key.
    pub(super) fn row(&self, key: &[KeyPart]) -> String {
        let same = self.compare(key, self.key.len().min(key.len()), "");
        format!("SELECT {} FROM {} WHERE {same} LIMIT 1", self.selected(), self.from)
    }

    /// The statement that says whether a row has no place in the order; `None` if none can be so.
    pub(super) fn has_null(&self) -> Option<String> {
        let nulls: Vec<String> =
            self.key.iter().map(|part| format!("q.{} IS NULL", quote(&part.name))).collect();
        let condition = nulls.join(" OR ");
        let sql = format!("SELECT 1 FROM {} WHERE {condition} LIMIT 1", self.from);
        (!self.is_never_null).then_some(sql)
    }

    /// A number of 32 bits is asked for as one of 64: the server shows only six of its digits.
    fn selected(&self) -> String {
        let column = |column: &Column| {
            let name = quote(&column.name);
            match column.form {
                Form::Single => format!("q.{name} + 0e0 AS {name}"),
                _ => format!("q.{name}"),
            }
        };
        self.columns.iter().map(column).collect::<Vec<_>>().join(", ")
    }

    fn list(&self, direction: &str) -> String {
        let name = |part: &Part| format!("q.{}{direction}", quote(&part.name));
        self.key.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    fn between(&self, after: &[KeyPart], upto: &[KeyPart]) -> String {
        let mut conditions = Vec::new();
        if !after.is_empty() {
            conditions.push(self.beyond(after, ">", ">"));
        }
        if !upto.is_empty() {
            conditions.push(self.beyond(upto, "<", "<="));
        }
        if conditions.is_empty() {
            return String::new();
        }
        format!(" WHERE {}", conditions.join(" AND "))
    }

    /// A comparison with a key, column by column: the last by another operator.
    fn beyond(&self, key: &[KeyPart], operator: &str, last: &str) -> String {
        let count = self.key.len().min(key.len());
        let ways = (0..count).map(|n| {
            let operator = if n + 1 == count { last } else { operator };
            self.compare(key, n, operator)
        });
        format!("({})", ways.collect::<Vec<_>>().join(" OR "))
    }

    /// The first `same` columns are equal, and the next is beyond.
    fn compare(&self, key: &[KeyPart], same: usize, operator: &str) -> String {
        let parts = self.key.iter().zip(key).enumerate();
        let parts = parts.take(if operator.is_empty() { same } else { same + 1 });
        let conditions = parts.map(|(n, (part, value))| {
            let operator = if n < same { "=" } else { operator };
            format!("q.{} {operator} {}", quote(&part.name), literal(value, part.form))
        });
        format!("({})", conditions.collect::<Vec<_>>().join(" AND "))
    }
}

/// A value of a key as it stands in a statement. A number must not stand in quotes: the server would
/// compare it as a floating-point number. All else is given as the digits of its bytes, so that
/// nothing in it can be taken for SQL.
fn literal(value: &KeyPart, form: Form) -> String {
    let text = match value {
        KeyPart::Integer(number) => return number.to_string(),
        KeyPart::Text(text) => text,
    };
    let is_number = text.parse::<f64>().is_ok_and(f64::is_finite)
        && text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    match form {
        Form::Unsigned | Form::Integer | Form::Number if is_number => text.clone(),
        // With an exponent it is a floating-point number to the server, too.
        Form::Float if is_number && text.contains(['e', 'E']) => text.clone(),
        Form::Float if is_number => format!("{text}e0"),
        Form::Bytes => {
            let digits = text.strip_prefix("\\x").unwrap_or_default();
            let digits = digits.chars().filter(char::is_ascii_hexdigit);
            format!("x'{}'", digits.collect::<String>())
        }
        _ => format!("_utf8mb4 x'{}'", hexadecimal(text.as_bytes())),
    }
}

/// Bytes as digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| HEX[usize::from(digit)] as char).collect()
}

/// The key of a table, found to identify and order its rows.
fn key_of_table(
    found: Option<&Table>,
    table: &str,
    key: &[String],
) -> Result<Vec<String>, Unreadable> {
    let Some(found) = found else {
        return Err(Unreadable::Missing(format!("there is no table '{table}'")));
    };
    if !found.is_table() {
        let why = format!("'{table}' is not a table: read it with `query`, and name its `key`");
        return Err(Unreadable::Unfit(why));
    }
    if key.is_empty() {
        return found.primary().ok_or_else(|| {
            Unreadable::Unfit(format!(
                "'{table}' has no primary key: name columns with `key` that are unique and never \
                 NULL"
            ))
        });
    }
    match found.refuse_order(table, key) {
        Some(why) => Err(Unreadable::Unfit(why)),
        None => Ok(key.to_vec()),
    }
}
